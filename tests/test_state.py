"""States of a training: the last and the best one, and what a kill leaves of them."""

import os
from pathlib import Path

import numpy as np
import pytest

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


class Killed(BaseException):
    """Whoever cleans up after it is killed, too."""


@pytest.fixture
def kill_at(monkeypatch):
    """Sets the number of the moment, before or after an operation on files, when all ends."""
    moment, left = [0], [0]

    def kills(function):
        def wrapper(*args, **named):
            result = None
            for does in (False, True):
                left[0] -= 1
                if moment[0] and left[0] <= 0:
                    if hasattr(result, "close"):
                        result.close()
                    raise Killed
                result = result if does else function(*args, **named)
            return result

        return wrapper

    monkeypatch.setattr(os, "fsync", lambda file: None)  # slow, and no power is cut here
    owners = {Path: ("open", "replace", "rename", "unlink", "mkdir"), os: ("fsync",)}
    for owner, operations in (owners | {np: ("savez",)}).items():
        for name in operations:
            monkeypatch.setattr(owner, name, kills(getattr(owner, name)))

    def set_to(number: int) -> None:
        moment[0] = left[0] = number

    return set_to


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
