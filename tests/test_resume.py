"""A run that is killed goes on and ends as if it had not been, byte for byte."""

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import small
from cases import put_in_place
from conftest import TINY, easy_competition

SLOW = bool(os.environ.get("CARCLS_SLOW"))
# Everything that has a memory: averaged weights, a plateau that lowers the rate, stages that open,
# mixing, early stopping.
EVERYTHING = {
    "ema": 0.9,
    "mix": "mixup:0.2,cutmix:1",
    "schedule": "plateau",
    "unfreeze": "staged",
    "optimizer": "sgd",
    "patience": 2,
    "augment": "medium",
    "stages": "32x48x3,48x64x3",
    "refit_epochs": 2,
}


class Killer:
    """killed.py in a process of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("killed.py"))]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env)

    def __call__(self, out: str, settings: dict, **order) -> tuple[int, str]:
        """The exit code of a run, and what it said."""
        log = self.folder / f"{out}.log"
        before = len(log.read_text()) if log.exists() else 0
        files = {
            "data": str(self.folder / "competition"),
            "out": str(self.folder / out),
            "weights": str(self.folder / "tiny.weights.h5"),
        }
        # One step an epoch: a run can be gone on from after each epoch, not within one. Of so few
        # steps the plain run's alone are traced.
        order = {"traced": not settings, "log": str(log), **order}
        order["settings"] = {**TINY, "batch": 16, **files, **settings}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        code, said = json.loads(self.process.stdout.readline())["exit"], log.read_text()[before:]
        assert code in (0, 2, -signal.SIGKILL, 143), said
        return code, said

    def left(self, out: str) -> dict:
        """What counts of a run folder: the arrays of its weights and votes, and its submissions."""
        found, folder = {}, self.folder / out
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if ".part" in name or "state" in name:
                found[name] = "left over"
            elif path.suffix == ".h5":
                found[name] = arrays_in(path)
            elif path.suffix == ".npz":
                with np.load(path) as file:
                    found[name] = {key: file[key].tobytes() for key in file.files}
            elif name.startswith("submission"):
                found[name] = path.read_bytes() if path.suffix == ".csv" else ""
        return found


def arrays_in(path: Path) -> dict[str, bytes]:
    found = {}

    def note(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item[()].tobytes()

    with h5py.File(path) as file:
        file.visititems(note)
    return found


@pytest.fixture(scope="module")
def killer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    easy_competition(folder / "competition", 36, 10)
    small.saved(folder / "tiny.weights.h5")
    killer = Killer(folder)
    yield killer
    killer.process.communicate(timeout=30)
    assert killer.process.returncode == 0


@pytest.fixture(scope="module")
def whole(killer):
    """What a run of these settings leaves that is not killed."""
    found = {}

    def left(settings: dict) -> dict:
        name = f"whole{len(found)}"
        key = json.dumps(settings)
        if key not in found:
            code, said = killer(name, settings)
            assert code == 0
            assert "batch norm 2 layers start from the statistics of" in said
            found[key] = killer.left(name)
        return found[key]

    return left


@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["plain", "everything"])
def test_killed_at_any_moment_a_run_ends_as_an_uninterrupted_one(killer, whole, settings):
    expected, name = whole(settings), f"killed{len(settings)}"
    assert {"submission.csv", "member1/best.weights.h5", "member1/votes_test.npz"} <= set(expected)
    assert "left over" not in expected.values()
    # One run through many kills: each session dies some file operations later than the one before.
    kills = 0
    for at in range(5, 400, 5 if SLOW else 23):
        code, _ = killer(name, settings, file=at)
        kills += code != 0
        if code == 0:
            break
    assert kills >= 3
    assert killer.left(name) == expected
    assert "resumed    after" in (killer.folder / f"{name}.log").read_text()


def test_killed_at_random_and_by_sigterm_with_folds_and_votes(killer, whole):
    settings = {"folds": 2, "views": "2-8", "stages": "32x48x3"}
    expected = whole(settings)
    rng = np.random.default_rng(int(os.environ.get("CARCLS_SEED", "0")))
    ends = set()
    for kill in range(12 if SLOW else 3):
        number = (signal.SIGTERM, signal.SIGKILL)[kill % 2]
        seconds = rng.uniform(0.2, 1.2)  # the whole run takes about two
        code, said = killer("folds", settings, seconds=seconds, signal=int(number))
        ends.add(code)
        if code == 143:  # cleanly: it says how to go on, and whoever watches knows
            assert "goes on from the last whole epoch" in said
            last = (killer.folder / "folds" / "progress.jsonl").read_text().splitlines()[-1]
            assert json.loads(last)["kind"] == "failed"
    assert ends & {143, -signal.SIGKILL}
    assert killer("folds", settings)[0] == 0
    assert killer.left("folds") == expected


def test_a_finished_run_is_read_back_and_a_change_redoes_only_what_depends_on_it(killer):
    base = {"stages": "32x48x2", "members": "seed=1+seed=2", "val_fraction": 0.4}
    base["blend"] = "0.5/0.5"
    changed = {"members": "seed=1+seed=2/lr=0.01"}
    out = killer.folder / "again"

    def session(**changes) -> tuple[int, int, str]:
        """Networks that were trained, votes that were read back, and what was said."""
        code, said = killer("again", {**base, **changes})
        assert code == 0
        return said.count("\nnetwork "), said.count("cast before"), said

    assert session()[:2] == (2, 0)
    first = killer.left("again")
    assert session()[:2] == (0, 4)
    assert killer.left("again") == first  # no submission.earlier1.csv either: it is the same run

    trained, read, said = session(views=8)
    assert (trained, read) == (0, 0)
    assert "views 4 → 8" in said  # the reason
    left = killer.left("again")
    assert left["member1/best.weights.h5"] == first["member1/best.weights.h5"]
    assert left["submission.earlier1.csv"] == first["submission.csv"]

    trained, _, said = session(**changed)
    assert trained == 1  # the second member only
    assert "lr 0.02 → 0.01" in said

    history = out / "member1" / "history.csv"
    history.write_text(history.read_text() + "\n")  # harms nothing
    assert session(**changed)[:2] == (0, 4)
    (out / "member1" / "best.weights.h5").write_bytes(b"torn")
    assert session(**changed)[0] == 1
    left = killer.left("again")
    assert left["member1/best.weights.h5"] == first["member1/best.weights.h5"]
    assert session(**changed, resume=False)[0] == 2


def test_files_of_another_shape_are_made_anew_and_all_else_stays(killer):
    settings = {"stages": "32x48x2"}
    assert killer("shapes", settings)[0] == 0
    expected, folder = killer.left("shapes"), killer.folder / "shapes"
    networks = []
    for damaged in (
        {"member1/member.json": b"[" * 100_000, "member1/history.csv": b"\xff\n,,,"},
        {"member1/steps.json": json.dumps({"training": {"facts": {}}}).encode()},
        {"progress.jsonl": None, "submission.json": None, "member1/history.csv": None},
    ):
        for name, content in damaged.items():
            put_in_place(folder / name, "folder", content)
        code, said = killer("shapes", settings)
        assert code == 0 and "Traceback" not in said
        assert said.count("was") + said.count("warning") >= 1
        networks.append(said.count("\nnetwork "))
        left = killer.left("shapes")
        assert {name: left[name] for name in expected} == expected
    assert networks == [0, 1, 0]
    pd.read_csv(folder / "member1" / "history.csv")
    assert len(list(folder.rglob("mine.txt"))) == 3


def test_an_earlier_kernels_output_is_copied_and_gone_on_from(killer, whole):
    assert killer("session1", {}, file=60)[0] == -signal.SIGKILL
    earlier = killer.folder / "kaggle" / "input" / "notebooks" / "alice" / "cars"
    earlier.parent.mkdir(parents=True)
    (killer.folder / "session1").rename(earlier)
    for path in [*earlier.rglob("*"), earlier]:
        path.chmod(0o555 if path.is_dir() else 0o444)  # as /kaggle/input is
    before = {path: path.read_bytes() for path in earlier.rglob("*") if path.is_file()}
    code, said = killer("session2", {}, kaggle=str(killer.folder / "kaggle"))
    assert code == 0
    assert f"{earlier}: copied config.json, member1" in said
    assert "resumed    after" in said
    assert before == {path: path.read_bytes() for path in earlier.rglob("*") if path.is_file()}
    expected, left = copy.deepcopy(whole({})), killer.left("session2")
    # A kernel's time is limited: the optimiser learns of each epoch's place in the run anew.
    for arrays in (expected["member1/last.weights.h5"], left["member1/last.weights.h5"]):
        arrays.pop("optimizer/vars/1")
    for name, content in expected.items():
        assert left[name] == content, name
    for path in [*earlier.rglob("*"), earlier]:
        path.chmod(0o755)


def test_a_full_disk_ends_a_run_in_one_line_and_with_room_it_goes_on(killer, whole):
    """The limit of a file's size stands for a full disk: some states fit, the weights do not."""
    settings = {"stages": "32x48x2"}
    code, said = killer("full", settings, bytes=30_000)
    assert code == 2
    (line,) = [line for line in said.splitlines() if line.startswith("carcls: ")]
    assert "full" in line and " MB free" in line and "Traceback" not in said
    assert killer("full", settings)[0] == 0
    assert (killer.folder / "full" / "member1" / "best.weights.h5").is_file()
