"""Steps: what counts as done and what is said of it; facts, the sources, and an earlier run."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cases import NO_FILE, NO_JSON, changes, put_in_place
from test_state import FACTS

from carcls import disk, record
from carcls.config import Config
from carcls.data import augment
from carcls.data.photos import Rows
from carcls.errors import InputError
from carcls.train.job import Job


def test_a_step_is_done_with_the_same_facts_and_whole_files_only(tmp_path, capsys):
    steps = record.Steps(tmp_path)
    assert steps.about("training", FACTS) is None
    (tmp_path / "w.h5").write_bytes(b"weights")
    steps.finish("training", FACTS, ["w.h5"], seconds=3.0)
    steps.finish("votes", {}, [])
    assert record.Steps(tmp_path).about("training", FACTS) == {"seconds": 3.0}
    assert steps.digest("training", "w.h5") == record.digest_of(tmp_path / "w.h5")
    assert not capsys.readouterr().out
    assert steps.about("training", {**FACTS, "the photos": "abd"}) is None
    assert "the photos changed" in capsys.readouterr().out
    assert steps.done("training")["facts"] == FACTS
    (tmp_path / "w.h5").write_bytes(b"weightz")
    assert steps.about("training", FACTS) is None
    assert "w.h5" in capsys.readouterr().out
    for damage in ("{", "[]", '{"training": 1}', '{"training": {"facts": {}}}'):
        (tmp_path / record.NOTE).write_text(damage)
        assert steps.about("training", FACTS) is None
        assert record.NOTE in capsys.readouterr().out
    steps.forget()
    assert steps.done("votes") is None and not capsys.readouterr().out


@pytest.mark.parametrize("what", [*NO_JSON, *NO_FILE])
def test_steps_of_another_shape_are_made_anew(tmp_path, what, capsys):
    steps = record.Steps(tmp_path)
    put_in_place(steps.file, what, NO_JSON.get(what))
    assert steps.about("training", FACTS) is steps.done("training") is None
    assert steps.file.name in capsys.readouterr().out or what in (*NO_FILE[2:], "empty values")
    steps.finish("training", FACTS, [], seconds=1.0)
    assert steps.about("training", FACTS) == {"seconds": 1.0}
    steps.forget()
    assert steps.done("training") is None
    kept = [path.read_text() for path in tmp_path.rglob("mine.txt")]
    assert kept == ["keep me"] * (what == "folder")


def test_a_step_whose_note_was_changed_is_made_anew(tmp_path):
    (tmp_path / "w").write_text("weights")
    steps = record.Steps(tmp_path)
    steps.finish("training", FACTS, ["w"], seconds=1.0, size=(32, 48), shortened="")
    left = json.loads(steps.file.read_text())
    for where, changed in changes(left["training"]):
        steps.file.write_text(json.dumps({"training": changed}))
        assert steps.about("training", FACTS) is None, where


def test_a_difference_is_told_with_both_values_unless_they_are_long():
    now = {**FACTS, "lr": 0.001, "stages": ["96x160x6"], "the photos": "abd", "more": None}
    said = ["lr 0.002 → 0.001", "stages 96x160x5 → 96x160x6", "the photos changed"]
    assert record.differences(FACTS, now) == said
    assert record.differences({"mix": "a" * 99}, {"mix": "b"}) == ["mix changed"]
    assert record.differences({"size": [1, 2]}, {"size": (1, 2)}) == []


def test_rows_tell_tables_apart():
    digests = {record.rows(*columns) for columns in (["ab"], ["a", "b"], ["ba"], [["a", 1]])}
    assert len(digests) == 4
    assert record.rows(np.array([1, 2]), ["a"]) == record.rows(pd.Series([1, 2]), ["a"])


def test_the_desk_is_not_part_of_the_source(tmp_path):
    for name in ("b.py", "__main__.py", "desk/cli.py", "data/desk.py", "data/a.py", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [path.relative_to(tmp_path).as_posix() for path in record.bundled(tmp_path)]
    assert names == ["b.py", "data/a.py", "data/desk.py"]


def test_a_training_is_made_from_what_files_hold_and_not_from_where_they_are(tmp_path, tiny):
    frame = pd.DataFrame({"id": ["a", "b"], "label": [0, 0], "digest": ["00", "01"]})
    first, second = (Rows(np.array([row]), np.array([0])) for row in (0, 1))
    one, moved, policy = (tmp_path / name for name in ("w.h5", "moved.h5", "policy.json"))
    one.write_bytes(b"one")
    moved.write_bytes(b"one")
    cfg = Config(backbone=tiny, weights=str(one), views=1)
    job = Job("member 1", tmp_path, cfg, first, second)
    facts = job.facts(frame)

    def changed(**changes) -> list[str]:
        return record.differences(facts, replace(job, **changes).facts(frame))

    def set_to(**settings) -> list[str]:
        return changed(cfg=cfg.replace(**{"weights": str(moved), **settings}))

    assert set_to() == changed(name="another", folder=tmp_path / "a", share=0.5) == []
    assert set_to(precision="mixed_float16") == ["precision auto → mixed_float16"]
    assert set_to(lr=0.1) == [f"lr {cfg.lr} → 0.1"]
    assert set_to(tta="never", monitor_url="http://x", budget_minutes=3, folds=5) == []
    # What decides counts, not whether it was set or left open.
    assert set_to(metric="accuracy") == []
    assert record.differences(facts, job.facts(frame, "auc")) == ["metric accuracy → auc"]
    assert changed(learn=second, check=first) == ["the photos changed"]
    assert changed(learn=Rows(first.rows, np.array([1]))) == ["the photos changed"]
    moved.write_bytes(b"two")
    assert set_to() == changed(start=moved) == ["the first weights changed"]
    said = []
    for limit in (0.2, 0.4):
        brightness = augment.A.RandomBrightnessContrast((-limit, limit), p=1.0)
        augment.A.save(augment.A.Compose([brightness]), policy)
        said += changed(cfg=cfg.replace(augment=str(policy)))
    assert len(set(said)) == 2


# --- An earlier run -------------------------------------------------------------------------------


def run_folder(folder: Path, mark: str = "member1/state/note.json") -> Path:
    (folder / mark).parent.mkdir(parents=True)
    (folder / mark).write_text("{}")
    (folder / "config.json").write_text("{}")
    return folder


def test_an_earlier_run_is_found_where_kaggle_attaches_it(tmp_path, monkeypatch):
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(tmp_path / "kaggle"))
    attached = tmp_path / "kaggle" / "input"
    assert record.find_earlier(Config()) is None  # not Kaggle
    (attached / "competitions" / "cars").mkdir(parents=True)
    assert record.find_earlier(Config()) is None
    old = run_folder(attached / "cars-notebook")
    run_folder(old / "inside")  # part of it
    assert record.find_earlier(Config()) == old
    new = run_folder(attached / "notebooks" / "alice" / "cars", "member1/fold2/steps.json")
    with pytest.raises(InputError) as caught:
        record.find_earlier(Config())
    assert str(old) in str(caught.value) and str(new) in str(caught.value)
    assert record.find_earlier(Config(earlier=str(new))) == new
    for wrong in (attached / "competitions", attached / "none"):
        with pytest.raises(InputError, match=f"earlier={wrong}: expected"):
            record.find_earlier(Config(earlier=str(wrong)))


def test_taking_over_copies_what_is_missing_and_survives_a_kill(tmp_path):
    earlier, out = run_folder(tmp_path / "earlier"), tmp_path / "out"
    for name in ("submission.csv", "steps.json", "result.json", "progress.jsonl"):
        (earlier / name).write_text("old")
    (earlier / "submission.csv").chmod(0o400)  # Kaggle's inputs are read-only
    (out / record.COPYING / "member1").mkdir(parents=True)  # a kill came in between
    names = ["config.json", "member1", "progress.jsonl", "steps.json", "submission.csv"]
    assert record.take_over(earlier, out) == names == sorted(path.name for path in out.iterdir())
    assert record.is_run(out)  # and so may be gone on from itself, however early this run ends
    (out / "submission.csv").write_text("new")
    assert record.take_over(earlier, out) == []
    assert (out / "submission.csv").read_text() == "new"


def test_nothing_but_files_of_a_run_is_taken_over(tmp_path, capsys):
    earlier, out = run_folder(tmp_path / "earlier"), tmp_path / "out"
    out.mkdir()
    secret = tmp_path / "secret.csv"
    secret.write_text("secret")
    state = earlier / "member1" / "state"
    (earlier / "member2").symlink_to("/dev")
    (earlier / "submission.csv").symlink_to(secret)
    (earlier / "submission.json").symlink_to("/dev/zero")
    (earlier / "member3").symlink_to(earlier)  # a loop, and others below
    (state / "state").symlink_to(state)
    (state / "note.json.bak").write_text("a stranger's")
    (state / "1.npz").symlink_to("/dev/full")
    (state / "3.npz").symlink_to(state / "3.npz")
    (earlier / "member1" / "fold1").symlink_to(earlier / "member1")
    (earlier / "member1" / "history.csv").symlink_to(secret)
    os.mkfifo(earlier / "member1" / "best.weights.h5")
    (state / "2.npz").symlink_to("note.json")  # within the run
    (earlier / "member1" / "steps.json").symlink_to(state / "note.json")
    assert record.take_over(earlier, out) == ["config.json", "member1"]
    left = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if not p.is_dir())
    inside = ["state/2.npz", "state/note.json", "steps.json"]
    assert left == ["config.json", *(f"member1/{name}" for name in inside)]
    assert not any(path.is_symlink() for path in out.rglob("*"))
    (line,) = capsys.readouterr().out.splitlines()
    assert str(earlier) in line and "member1/best.weights.h5" in line


def test_what_a_killed_run_was_writing_is_swept_away(tmp_path):
    names = ["a.csv", "member1/b", "member1/fold1/c", "member1/fold1/state/d", "member2/pseudo/e"]
    for path in map(tmp_path.joinpath, names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.with_name(f"{disk.PART}{path.name}.1-2").touch()
    (tmp_path / record.COPYING / "member1").mkdir(parents=True)
    record.sweep(tmp_path)
    left = [path for path in tmp_path.rglob("*") if path.is_file() or disk.PART in path.name]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in left) == names
