"""States of a training: the last and the best one, and what a kill leaves of them."""

import json

import numpy as np
import pytest
from cases import NO_FILE, NO_JSON, changes, put_in_place
from conftest import Killed

from carcls.train.state import States

FACTS = {"lr": 0.002, "stages": ["96x160x5"], "the photos": "abc"}


def save(states: States, epoch: int, best: bool, **note) -> None:
    states.save(epoch, {"facts": FACTS, "epoch": epoch, **note}, arrays(epoch), best)


def arrays(epoch: int) -> list[np.ndarray]:
    return [np.full(3, epoch), np.float32(epoch)]


def epochs(states: States) -> list[int]:
    """Of the last state's arrays and of the best one's."""
    return [int(states.arrays(which)[1]) for which in ("last", "best")]


def names(states: States) -> list[str]:
    return sorted(path.name for path in states.folder.iterdir())


def test_the_last_and_the_best_are_kept(tmp_path, capsys):
    states = States(tmp_path / "member1" / "state")
    assert states.load(FACTS) is None
    for epoch, better in ((1, True), (2, True), (3, False), (4, False)):
        save(states, epoch, better, batch=32)
        assert states.load(FACTS)["epoch"] == epoch
    assert epochs(states) == [4, 2]
    assert names(states) == ["2.npz", "4.npz", "note.json"]
    states.amend(batch=16)
    note = states.load(FACTS)
    assert (note["batch"], note["epoch"], epochs(states)) == (16, 4, [4, 2])
    assert not capsys.readouterr().out
    assert states.load({**FACTS, "lr": 1.0}) is None
    assert "member1: training starts anew: lr 0.002 → 1.0" in capsys.readouterr().out
    states.remove()
    assert not states.folder.exists()


@pytest.mark.parametrize("damage", ["torn", "gone", "no zip", "note"])
def test_a_damaged_state_is_none(tmp_path, damage, capsys):
    states = States(tmp_path / "state")
    save(states, 1, True)
    save(states, 2, False)
    best, content = states.folder / "1.npz", (states.folder / "1.npz").read_bytes()
    if damage == "torn":
        best.write_bytes(content[:150] + bytes([content[150] ^ 1]) + content[151:])
    elif damage == "gone":
        best.unlink()
    elif damage == "no zip":
        best.write_bytes(content[:99])
    else:
        states.file.write_text("[]")
    assert states.load(FACTS) is None
    assert damage == "gone" or "starts anew" in capsys.readouterr().out


@pytest.mark.parametrize("what", [*NO_FILE, "device"])
def test_arrays_that_are_no_file_are_not_opened(tmp_path, what, capsys):
    states = States(tmp_path / "state")
    save(states, 1, True)
    if what == "device":  # one without end
        (states.folder / "1.npz").unlink()
        (states.folder / "1.npz").symlink_to("/dev/zero")
    else:
        put_in_place(states.folder / "1.npz", what)
    assert states.load(FACTS) is None
    assert "starts anew" in capsys.readouterr().out or what == "link to nothing"


@pytest.mark.parametrize("what", [*NO_JSON, *NO_FILE])
def test_a_note_of_another_shape_is_none_and_training_starts_anew(tmp_path, what, capsys):
    states = States(tmp_path / "state")
    save(states, 1, True)
    put_in_place(states.file, what, NO_JSON.get(what))
    assert states.load(FACTS) is None
    assert "starts anew" in capsys.readouterr().out or "nothing" in what or "itself" in what
    states.remove()
    save(states, 1, True)
    assert states.load(FACTS)["epoch"] == 1


def test_a_note_that_was_changed_since_is_none(tmp_path):
    states = States(tmp_path / "state")
    note = {"stage": 0, "rows": [], "over": False, "ramp": [0, 0.0, 0.1], "watchers": {"a": {}}}
    save(states, 1, True, **note)
    left = json.loads(states.file.read_text())
    assert states.load(FACTS)["ramp"] == [0, 0.0, 0.1]
    for where, changed in changes(left):
        states.file.write_text(json.dumps(changed))
        assert states.load(FACTS) is None, where


def test_arrays_of_another_network_are_none(tmp_path):
    states = States(tmp_path / "state")
    save(states, 1, True)
    for others in ([np.ones(3)], [], [*arrays(1), np.ones(1)], [np.ones((1, 3)), np.float32(1)]):
        np.savez(states.folder / "1.npz", *others)
        assert states.load(FACTS) is None
    np.save(states.folder / "1", np.ones(3))
    (states.folder / "1.npy").replace(states.folder / "1.npz")
    assert states.load(FACTS) is None


def test_a_kill_at_any_moment_leaves_the_old_state_or_the_new_one_whole(tmp_path, kill_at):
    seen = []
    for moment in range(1, 500):
        states, was_killed = States(tmp_path / str(moment) / "state"), False
        kill_at(moment)
        try:
            states.folder.parent.mkdir()
            for epoch in (1, 2, 3):
                save(states, epoch, epoch < 3)
            states.amend(batch=16)
        except Killed:
            was_killed = True
        kill_at(0)
        note = states.load(FACTS)
        epoch = note["epoch"] if note else 0
        if note:
            assert epochs(states) == [epoch, min(epoch, 2)]
            assert all(map(np.array_equal, states.arrays("last"), arrays(epoch)))
        save(states, epoch + 1, epoch < 2)  # and it can be gone on from
        kept = {f"{epoch + 1}.npz", f"{min(epoch + 1, 2)}.npz", "note.json"}
        assert set(names(states)) == kept
        seen.append(epoch + ("batch" in (note or {})))
        if not was_killed:
            break
    assert seen == sorted(seen) and set(seen) == {0, 1, 2, 3, 4}
    assert 40 < len(seen) < 400
