"""A run that is killed goes on and ends as if it had not been: same weights, same votes, same submission, byte for byte."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small
from conftest import easy_competition

SETTINGS = {
    "backbone": "tiny",
    "stages": "32x48x2,48x64x2",
    "batch": 8,
    "lr": 0.02,
    "tta_views": 4,
    "val_fraction": 0.25,
}


class Killer:
    """tests/killed.py in a process of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(Path(__file__).parent / "killed.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )

    def __call__(self, out: str, settings: dict, **order) -> dict:
        assert self.process.stdin
        assert self.process.stdout
        log = self.folder / f"{out}.log"
        whole = {
            **SETTINGS,
            "data": str(self.folder / "competition"),
            "out": str(self.folder / out),
            "weights": str(self.folder / "tiny.weights.h5"),
            **settings,
        }
        self.process.stdin.write(json.dumps({"settings": whole, "log": str(log), **order}) + "\n")
        self.process.stdin.flush()
        ended = json.loads(self.process.stdout.readline())
        assert ended["exit"] in (0, -signal.SIGKILL, 143), log.read_text()
        return {**ended, "said": log.read_text()}


@pytest.fixture(scope="module")
def killer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    easy_competition(folder / "competition", 36, 10)
    small.saved(folder / "tiny.weights.h5")
    killer = Killer(folder)
    yield killer
    killer.process.stdin.close()
    killer.process.stdout.close()
    assert killer.process.wait(30) == 0


def left(folder: Path) -> dict:
    """What counts of a run folder: every array of its weights and votes, and its submissions."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if ".part" in name:  # torn, where a kill came while it was written
            found[name] = "left over"
        elif path.suffix == ".h5":
            import h5py

            with h5py.File(path) as file:
                items = []
                file.visititems(lambda key, item, items=items: items.append((key, item)))
                found[name] = [
                    (key, np.array(item).tobytes()) for key, item in items if hasattr(item, "shape")
                ]
        elif path.suffix == ".npz":
            with np.load(path) as file:
                found[name] = [(key, file[key].tobytes()) for key in file.files]
        elif name.startswith("submission"):
            found[name] = path.read_bytes() if path.suffix == ".csv" else ""
        elif "state" in name:
            found[name] = "left over"
    return found


PLAIN: dict = {}
# Averaged weights, a plateau that lowers the rate, stages that open, mixing, early stopping:
# everything that has a memory.
EVERYTHING = {
    "ema": 0.9,
    "cutmix": 1.0,
    "schedule": "plateau",
    "unfreeze": "staged",
    "optimizer": "sgd",
    "patience": 2,
    "min_epochs": 1,
    "augment": "medium",
    "stages": "32x48x3,48x64x3",
    "refit_epochs": 2,
}


@pytest.mark.parametrize("settings", [PLAIN, EVERYTHING], ids=["plain", "everything"])
def test_killed_at_any_moment_a_run_ends_as_an_uninterrupted_one(killer, settings):  # S47
    name = "everything" if settings else "plain"
    whole = killer(f"{name}-whole", settings)
    assert whole["exit"] == 0
    expected = left(killer.folder / f"{name}-whole")
    assert {"submission.csv", "member1/best.weights.h5", "member1/votes_test.npz"} <= set(expected)
    # One run through many kills: each session dies some file operations later than the one before.
    count = 0
    for at in range(3, 400, 5 if os.environ.get("CARCLS_SLOW") else 11):
        ended = killer(f"{name}-killed", settings, file=at)
        count += ended["exit"] != 0
        if ended["exit"] == 0:
            break
    assert count >= 4
    assert left(killer.folder / f"{name}-killed") == expected
    assert "batch norm 2 layers start from the statistics of 24 train photos" in whole["said"]
    assert "resumed    after" in ended["said"]


def test_killed_at_random_and_by_sigterm_with_folds_and_votes(killer):
    settings = {"folds": 2, "tta_views": 2, "tta_cap": 8, "stages": "32x48x3"}
    assert killer("folds-whole", settings)["exit"] == 0
    expected = left(killer.folder / "folds-whole")
    rng = np.random.default_rng(int(os.environ.get("CARCLS_SEED", "0")))
    ends = set()
    for kill in range(12 if os.environ.get("CARCLS_SLOW") else 4):
        number = (signal.SIGKILL, signal.SIGTERM)[kill % 2]
        ended = killer("folds-killed", settings, seconds=rng.uniform(0.3, 3.0), signal=int(number))
        ends.add(ended["exit"])
        if ended["exit"] == 143:  # cleanly: it says how to go on, and leaves nothing half-written
            assert "SIGTERM; the same run again goes on from the last whole epoch" in ended["said"]
            assert "left over" not in left(killer.folder / "folds-killed").values() or ended[
                "said"
            ].count("epoch 1")
            last = (killer.folder / "folds-killed" / "progress.jsonl").read_text().splitlines()[-1]
            assert json.loads(last)["kind"] == "failed"
        if ended["exit"] == 0:
            break
    assert ends & {143, -signal.SIGKILL}
    assert killer("folds-killed", settings)["exit"] == 0
    assert left(killer.folder / "folds-killed") == expected


def test_a_finished_run_repeats_without_training_and_a_changed_setting_redoes_only_what_it_changes(
    killer,
):
    base = {
        "stages": "32x48x2",
        "members": "seed=1+seed=2",
        "val_fraction": 0.4,
        "blend": "0.5/0.5",
    }
    out = killer.folder / "again"

    def session(**changes) -> list[str]:
        before = (
            len((killer.folder / "again.log").read_text().splitlines())
            if (killer.folder / "again.log").exists()
            else 0
        )
        ended = killer("again", {**base, **changes})
        assert ended["exit"] == 0
        return ended["said"].splitlines()[before:]

    def trained(said: list[str]) -> int:
        return sum(line.startswith("network ") for line in said)

    assert trained(session()) == 2
    first = left(out)
    said = session()
    assert trained(said) == 0
    assert sum("done before in" in line for line in said) == 2
    assert sum("cast before, taken from" in line for line in said) == 4
    assert left(out) == first  # no submission.earlier1.csv either: it is the same run

    said = session(tta_views=8)
    assert trained(said) == 0
    assert "member1: validation votes is made anew: tta_views 4 → 8" in said
    assert left(out)["member1/best.weights.h5"] == first["member1/best.weights.h5"]
    assert left(out)["submission.earlier1.csv"] == first["submission.csv"]

    said = session(members="seed=1+seed=2/lr=0.01")
    assert trained(said) == 1  # the second member only
    assert "member2: training is made anew: lr 0.02 → 0.01" in said

    (out / "member1" / "history.csv").write_text(
        (out / "member1" / "history.csv").read_text() + "\n"
    )  # harms nothing
    said = session(members="seed=1+seed=2/lr=0.01")
    assert trained(said) == 0

    (out / "member1" / "best.weights.h5").write_bytes(b"torn")
    said = session(members="seed=1+seed=2/lr=0.01")
    assert trained(said) == 1
    assert "member1: training is made anew: best.weights.h5 is not as it was left" in said
    assert left(out)["member1/best.weights.h5"] == first["member1/best.weights.h5"]
    assert trained(session(members="seed=1+seed=2/lr=0.01", resume=False)) == 2


def test_an_earlier_kernels_output_is_copied_and_gone_on_from(killer):  # S47
    assert killer("session1", {}, file=60)["exit"] == -signal.SIGKILL
    earlier = killer.folder / "kaggle" / "input" / "notebooks" / "alice" / "cars"
    earlier.parent.mkdir(parents=True)
    (killer.folder / "session1").rename(earlier)
    for path in [*earlier.rglob("*"), earlier]:
        path.chmod(0o555 if path.is_dir() else 0o444)  # as /kaggle/input is
    before = {path: path.read_bytes() for path in earlier.rglob("*") if path.is_file()}
    ended = killer("session2", {}, kaggle=str(killer.folder / "kaggle"))
    assert ended["exit"] == 0
    assert f"{earlier}: copied config.json, member1" in ended["said"]
    assert "resumed    after" in ended["said"]
    assert before == {path: path.read_bytes() for path in earlier.rglob("*") if path.is_file()}
    whole = (
        left(killer.folder / "plain-whole") if (killer.folder / "plain-whole").exists() else None
    )
    if whole is None:
        assert killer("plain-whole", {})["exit"] == 0
        whole = left(killer.folder / "plain-whole")
    found = left(killer.folder / "session2")
    assert {name: found[name] for name in whole} == whole
    for path in [*earlier.rglob("*"), earlier]:
        path.chmod(0o755)
