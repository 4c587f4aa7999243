"""Steps and states: what counts as done, what a kill leaves, and what is said of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from carcls import record as steps
from carcls.config import Config
from carcls.errors import InputError

FACTS = {"lr": 0.002, "stages": [{"height": 96, "width": 160, "epochs": 5}], "the photos": "abc"}


def test_a_step_is_done_with_the_same_facts_and_whole_files_only(tmp_path, capsys):
    record = steps.Steps(tmp_path)
    assert record.about("training", FACTS) is None
    (tmp_path / "w.h5").write_bytes(b"weights")
    record.finish("training", FACTS, ["w.h5"], seconds=3.0)
    assert steps.Steps(tmp_path).about("training", FACTS) == {"seconds": 3.0}
    assert not capsys.readouterr().out
    stages = [{"height": 96, "width": 160, "epochs": 6}]
    assert record.about("training", {**FACTS, "lr": 0.001, "stages": stages}) is None
    assert (
        "training is made anew: lr 0.002 → 0.001; stages 96x160x5 → 96x160x6"
        in capsys.readouterr().out
    )
    assert record.about("training", {**FACTS, "the photos": "abd"}) is None
    assert "the photos changed" in capsys.readouterr().out
    (tmp_path / "w.h5").write_bytes(b"weightz")
    assert record.about("training", FACTS) is None
    assert "w.h5 is not as it was left" in capsys.readouterr().out
    for damage in ("{", "[]", '{"training": 1}', '{"training": {"facts": {}}}'):
        (tmp_path / steps.NOTE).write_text(damage)
        assert record.about("training", FACTS) is None
        assert "not what a run leaves" in capsys.readouterr().out


def test_states_keep_the_last_and_the_best(tmp_path, capsys):
    states = steps.States(tmp_path / "member1" / "state")
    assert states.load(FACTS) is None
    for number, better in ((1, True), (2, True), (3, False), (4, False)):
        states.save(
            number, FACTS, {"epoch": number}, [np.full(3, number), np.float32(number)], better
        )
        assert states.load(FACTS)["epoch"] == number
    assert [int(a.flat[0]) for which in ("last", "best") for a in states.arrays(which)] == [
        4,
        4,
        2,
        2,
    ]
    assert sorted(p.name for p in states.folder.iterdir()) == ["2.npz", "4.npz", "note.json"]
    states.amend(batch=16)
    assert states.load(FACTS)["batch"] == 16
    assert states.load({**FACTS, "lr": 1.0}) is None
    assert "member1: training starts anew: lr 0.002 → 1.0" in capsys.readouterr().out
    torn = bytearray((states.folder / "4.npz").read_bytes())
    torn[150] ^= 1
    (states.folder / "4.npz").write_bytes(torn)
    assert states.load(FACTS) is None
    assert "training starts anew" in capsys.readouterr().out
    states.remove()
    assert not states.folder.exists()


_SAVES = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import pandas as pd
from carcls import record as steps
count = 0
def counted(function):
    def wrapper(*args, **named):
        global count
        count += 1
        if count == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **named)
    return wrapper
for owner, name in ((Path, "replace"), (Path, "unlink"), (Path, "open"), (Path, "mkdir"), (os, "fsync"), (np, "savez")):
    setattr(owner, name, counted(getattr(owner, name)))
states = steps.States(Path(sys.argv[1]))
for number in (1, 2, 3):
    states.save(number, {}, {"epoch": number}, [np.full(5, number)], number < 3)
"""


def test_a_kill_at_any_file_boundary_leaves_the_old_state_or_the_new_one_whole(tmp_path):
    seen = []
    for at in range(1, 100):
        folder = tmp_path / str(at)
        done = subprocess.run(
            [sys.executable, "-c", _SAVES, str(folder), str(at)],
            check=False,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        states = steps.States(folder)
        note = states.load({})
        epoch = note["epoch"] if note else 0
        if note:
            assert [int(states.arrays(which)[0][0]) for which in ("last", "best")] == [
                epoch,
                min(epoch, 2),
            ]
        states.save(
            epoch + 1, {}, {"epoch": epoch + 1}, [np.full(5, epoch + 1)], epoch < 2
        )  # and it can be gone on from
        assert not list(folder.glob(f"{epoch - 2}.npz"))
        seen.append(epoch)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert seen == sorted(seen)
    assert set(seen) == {0, 1, 2, 3}
    assert len(seen) > 15


def test_code_is_what_it_does_and_not_how_it_is_written(tmp_path, monkeypatch):
    def of(text: str) -> str:
        file = tmp_path / "m.py"
        file.write_text(text)
        monkeypatch.setattr(
            steps.importlib.util, "find_spec", lambda _: type("Spec", (), {"origin": str(file)})
        )
        return steps.code("m")

    plain = of('"""About."""\ndef f(x):\n    """It adds."""\n    return x + 1\n')
    assert of('"""Other."""\n\n\ndef f( x ):\n    return x + 1  # one\n') == plain
    assert of("def f(x):\n    return x + 2\n") != plain


def run_folder(folder: Path) -> Path:
    (folder / "member1" / "state").mkdir(parents=True)
    (folder / "member1" / "state" / "note.json").write_text("{}")
    (folder / "config.json").write_text("{}")
    return folder


def test_an_earlier_run_is_found_where_kaggle_attaches_it(tmp_path, monkeypatch):
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(tmp_path / "kaggle"))
    attached = tmp_path / "kaggle" / "input"
    assert steps.find_earlier(Config()) is None  # not Kaggle
    (attached / "competitions" / "cars").mkdir(parents=True)
    assert steps.find_earlier(Config()) is None
    old = run_folder(attached / "cars-notebook")
    assert steps.find_earlier(Config()) == old
    new = run_folder(attached / "notebooks" / "alice" / "cars")
    with pytest.raises(InputError, match="several earlier runs are attached") as caught:
        steps.find_earlier(Config())
    assert str(old) in str(caught.value)
    assert steps.find_earlier(Config(earlier=str(new))) == new
    for wrong in (attached / "competitions", attached / "none"):
        with pytest.raises(InputError, match="expected what an earlier run left"):
            steps.find_earlier(Config(earlier=str(wrong)))


def test_taking_over_copies_what_is_missing_and_survives_a_kill(tmp_path):
    earlier, out = run_folder(tmp_path / "earlier"), tmp_path / "out"
    (earlier / "submission.csv").write_text("Id,Category\n")
    (earlier / "steps.json").write_text("{}")  # how it computed
    (earlier / "result.json").write_text("{}")
    (out / ".earlier.part" / "member1").mkdir(parents=True)  # a kill came in between
    assert steps.take_over(earlier, out) == [
        "config.json",
        "member1",
        "steps.json",
        "submission.csv",
    ]
    assert steps.is_run(out)  # and so may be gone on from itself, however early this run ends
    assert not (out / ".earlier.part").exists()
    (out / "submission.csv").write_text("mine")
    assert steps.take_over(earlier, out) == []
    assert (out / "submission.csv").read_text() == "mine"


def test_a_training_is_made_from_what_files_hold_and_not_from_where_they_are(tmp_path, tiny):
    from carcls.data import augment
    from carcls.train import loop as train

    photos = pd.DataFrame({"id": ["a"], "label": [0], "digest": ["00"]})
    table = SimpleNamespace(train=photos, val=photos)
    cfg = Config(backbone=tiny, weights=str(tmp_path / "w.h5"), tta_views=1)
    (tmp_path / "w.h5").write_bytes(b"one")
    first = train.facts(cfg, table)
    (tmp_path / "moved.h5").write_bytes(b"one")
    assert train.facts(cfg.replace(weights=str(tmp_path / "moved.h5")), table) == first
    (tmp_path / "w.h5").write_bytes(b"two")
    assert steps.differences(first, train.facts(cfg, table)) == ["the starting weights changed"]
    for change, said in (
        ({"precision": "mixed_float16"}, "precision auto → mixed_float16"),
        ({"lr": 0.1}, f"lr {cfg.lr} → 0.1"),
        ({"tta": "never", "monitor_url": "http://x", "cache_share": 0.1}, None),
    ):
        now = train.facts(cfg.replace(weights=str(tmp_path / "moved.h5"), **change), table)
        assert steps.differences(first, now) == ([said] if said else [])
    policies = []
    for limit in (0.2, 0.4):
        policy = augment.A.Compose([augment.A.RandomBrightnessContrast((-limit, limit), p=1.0)])
        augment.A.save(policy, tmp_path / "policy.json")
        policies.append(
            train.facts(cfg.replace(augment=str(tmp_path / "policy.json")), table)["augment"]
        )
    assert policies[0] != policies[1]
