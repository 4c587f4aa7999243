"""A session: its lock, its end, which run it belongs to, and its photos."""

import json
import os
import signal
import threading
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import cv2
import pytest
from cases import Case, good

from carcls import disk, hosts, machine, network, record, session, stops
from carcls.data import cache
from carcls.data.asks import Asks
from carcls.data.photos import TEST, TRAIN, VALIDATION
from carcls.errors import ConfigError, InputError, Stopped
from carcls.nets import schedule
from carcls.session import Session
from carcls.train.job import Job


@pytest.fixture
def case(tmp_path, tiny) -> Case:
    return Case(tmp_path / "data", backbone=tiny, weights="none", stages="32x48x1")


def test_a_doubtful_rate_is_said_once_for_all_members_that_have_it(case, monkeypatch, capsys):
    monkeypatch.setattr(schedule, "doubt", lambda cfg: f"{cfg.lr:g}!" if cfg.lr > 0.1 else "")
    cfg = case.cfg.replace(val_fraction=0.5, members="lr=0.5/seed=1+lr=0.5/seed=2+lr=0.01")
    with suppress(ConfigError), session.start(cfg):
        pass
    assert capsys.readouterr().out.count("warning: 0.5!\n") == 1


# --- The lock -------------------------------------------------------------------------------------


def test_a_run_folder_belongs_to_one_run_at_a_time(monkeypatch, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    with session.locked(tmp_path):
        with pytest.raises(InputError, match=f"out={tmp_path}: another run"):
            session.locked(tmp_path).__enter__()
        with pytest.raises(ZeroDivisionError), session.locked(other):
            _ = 1 / 0
        with monkeypatch.context() as patch:
            patch.setattr(hosts, "process_of", lambda: (1, 2))
            with session.locked(tmp_path):  # another process of the same run
                pass
    with session.locked(tmp_path), session.locked(other):
        pass
    assert list(tmp_path.iterdir()) == [other]


def test_a_folder_that_cannot_be_locked_is_used_with_a_warning(monkeypatch, tmp_path, capsys):
    def fails(file, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(disk.fcntl, "flock", fails)
    monkeypatch.setattr(disk, "_without_locks", set())
    with session.locked(tmp_path):
        assert "cannot be locked" in capsys.readouterr().out
    with disk.locked(tmp_path, disk.IN_TURN) as is_ours:  # said once
        assert (is_ours, capsys.readouterr().out) == (True, "")


def test_a_session_without_its_accelerator_does_not_begin(case, monkeypatch):
    monkeypatch.setattr(machine, "has_tpu", lambda: False)
    cfg = case.cfg.replace(accelerator="tpu", data=str(case.folder / "gone"))
    with pytest.raises(ConfigError, match="accelerator=tpu"), session.start(cfg):
        pass


# --- Its start and its end ------------------------------------------------------------------------


def test_a_session_has_what_its_steps_need_and_tells_how_it_ended(case):
    with pytest.raises(Stopped, match="SIGTERM"), session.start(case.cfg) as s:
        assert {"config.json", "audit.csv", "photos.csv"} <= {p.name for p in s.place.out.iterdir()}
        assert (len(s.table.frame), s.machine.backend, s.clock.is_limited) == (10, "tensorflow", 0)
        with pytest.raises(InputError, match="another run"), session.start(case.cfg):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
    lines = [json.loads(line) for line in s.events.path.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["start", "failed"]
    assert lines[0]["settings"]["backbone"] == "tiny" and "SIGTERM" in lines[1]["error"]
    with session.locked(s.place.out):
        pass


def test_a_run_that_is_taken_over_goes_on_as_the_same_one(case, tmp_path):
    def events_in(folder) -> list[dict]:
        return [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]

    with session.start(case.cfg) as first:
        pass
    out, new = first.place.out, tmp_path / "new"
    disk.write_json(out / "member1" / "state" / "note.json", {})  # an epoch is done
    taken = case.cfg.replace(earlier=str(out), out=str(new))
    with session.start(taken):
        pass
    with session.start(taken.replace(seed=5)):
        pass
    events = events_in(new)
    assert [event["kind"] for event in events] == ["start", "end"] * 3
    runs = [event["id"].partition(".")[0] for event in events]
    assert runs == [runs[0]] * 4 + [runs[4]] * 2 and runs[0] != runs[4]
    assert events[:2] == events_in(out) and len({event["id"] for event in events}) == 6


def test_a_stop_that_became_another_error_on_its_way_is_a_stop():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped), stops.heeded():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Stopped:
            raise SystemError("returned a result with an exception set") from None
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(SystemError), stops.heeded():
        raise SystemError("of itself")


SIGNALS = {"SIGTERM": Stopped, "SIGHUP": Stopped, "SIGINT": KeyboardInterrupt}


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stop_that_python_drops_comes_at_the_next_step(name, case):
    class Dropping:
        def __del__(self):
            os.kill(os.getpid(), getattr(signal, name))

    before = signal.getsignal(getattr(signal, name))
    with pytest.raises(SIGNALS[name]), session.start(case.cfg) as s:
        Dropping()
        s.say("a step")
        pytest.fail("it went on")
    assert signal.getsignal(getattr(signal, name)) is before
    stops.check()  # of the next run nobody has asked for a stop
    with stops.heeded():
        Dropping()
        with pytest.raises(SIGNALS[name]):
            record.Steps(s.place.out).finish("training", {}, [])


def test_a_second_signal_does_not_break_what_the_first_one_tidies_up():
    tidied = []
    with pytest.raises(KeyboardInterrupt), stops.heeded():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            stops.check()
            tidied.append(True)
    assert tidied


def test_a_second_signal_comes_where_the_first_one_was_dropped():
    with pytest.raises(Stopped), stops.heeded():
        with suppress(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it went on")


def test_signals_that_are_ignored_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stops.heeded():
            os.kill(os.getpid(), signal.SIGHUP)
            stops.check()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_stop_while_photos_are_looked_at_is_a_stop(case, monkeypatch):
    monkeypatch.setattr(session.photos, "load", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped), session.start(case.cfg):
        pass


def test_outside_of_the_main_thread_signals_are_left_alone():
    ran = []

    def work() -> None:
        with stops.heeded():
            ran.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ran == [signal.getsignal(signal.SIGTERM)]


def test_answers_that_are_not_of_these_photos_are_ignored_with_a_warning(case, capsys):
    answers = case.folder / "answers" / "answers.csv"
    (case.folder / "sample.json").touch()
    answers.parent.mkdir()
    for text in ("Id,Category\n900.jpg,0\n901.jpg,1\n", "Id,Category\n1.jpg,0\n", "a\n1\n", ""):
        answers.write_text(text)
        with session.start(case.cfg) as s:
            is_ours = text.count("90") == 2
            assert s.place.answers == (answers if is_ours else None)
        assert (str(answers) in capsys.readouterr().out) != is_ours


def test_members_are_not_compared_on_a_few_photos(case):
    cfg = case.cfg.replace(members="seed=1+seed=2")
    with pytest.raises(ConfigError, match="members: 2 validation photos"), session.start(cfg):
        pass


def test_the_metric_is_the_one_set_or_that_of_what_is_submitted(case):
    table = case.load()
    assert session.metric_of(case.cfg, table) == "accuracy"
    assert session.metric_of(case.cfg.replace(metric="f1_macro"), table) == "f1_macro"
    by_auc = case.cfg.replace(metric="auc")
    assert session.metric_of(by_auc, table) == "auc"
    of_one = replace(table, frame=table.frame.assign(label=0))
    with pytest.raises(ConfigError, match="metric=auc: .* of one class"):
        session.metric_of(by_auc, of_one)


# --- Which run it belongs to ----------------------------------------------------------------------


def test_a_run_is_the_same_in_all_its_sessions_and_another_with_other_photos(
    case, tmp_path, monkeypatch
):
    table, cfg = case.load(), case.cfg
    same = session.identity(cfg, table)
    later = {"data": "elsewhere", "out": "x", "budget_minutes": 9, "earlier": "x"}
    later["accelerator"] = "tpu"
    assert session.identity(cfg.replace(**later), table) == same
    assert session.identity(cfg, case.load()) == same
    more = Case(tmp_path / "more", train=good(300, 1, 1)).load()
    labels = replace(table, frame=table.frame.assign(label=1 - table.frame["label"]))
    bytes_ = replace(table, frame=table.frame.assign(digest="0"))
    fewer = replace(table, sample_ids=table.sample_ids[:1])
    columns = replace(table, asks=Asks("labels", ("Id", "Kind")))
    others = [session.identity(cfg, other) for other in (more, labels, bytes_, fewer, columns)]
    others += [session.identity(cfg.replace(**{name: 2}), table) for name in ("seed", "views")]
    anew = cfg.replace(resume=False)
    others += [session.identity(each, table) for each in (anew, anew.replace(budget_minutes=9))]
    monkeypatch.setattr(record, "source_hash", lambda: "other")
    others.append(session.identity(cfg, table))
    assert len({same, *others}) == 1 + len(others)


def test_what_another_opencv_made_is_made_anew(case, tmp_path, monkeypatch):
    """A training and its votes: its warpAffine gives other pixels."""
    table, trained = case.load(), SimpleNamespace(size=(32, 48))
    job = Job("x", tmp_path, case.cfg, table.rows(TRAIN), table.rows(VALIDATION))
    monkeypatch.setattr(record.Steps, "digest", lambda *_: "0")

    def facts(version):
        monkeypatch.setattr(cv2, "__version__", version)
        votes = network._facts(SimpleNamespace(table=table), job, trained, table.rows(TEST))
        return job.facts(table.frame), votes

    was = facts("4.13.0")
    assert facts("4.13.1") == was  # it mends faults
    for before, now in zip(was, facts("5.0.0-dev"), strict=True):
        assert record.differences(before, now) == ["OpenCV 4.13 → 5.0"]


# --- Its photos -----------------------------------------------------------------------------------


def test_there_is_one_cache_a_size_while_there_is_room_beside_it(case, tmp_path, monkeypatch):
    place = session.files.locate(case.cfg)
    s = Session(case.cfg, place, case.load(), None, None, None, None)
    small, large = (32, 48), (48, 64)
    first = s.photos(small, "pad")
    assert s.photos(small, "pad") is first and (len(first), first.size) == (10, small)
    others = [s.photos(large, "pad"), s.photos(small, "crop")]
    assert s.photos(small, "pad") is first and s.photos(large, "pad") is others[0]
    promised = sum(int(each.offsets[-1]) for each in (first, *others))
    monkeypatch.setattr(session, "free_memory", lambda: 4 * promised)
    s.photos(large, "crop")
    assert s.photos(small, "pad") is first
    monkeypatch.setattr(session, "free_memory", lambda: 4 * promised - 1)
    newest = s.photos((64, 64), "pad")
    assert list(s.caches.values()) == [newest]
    # One that does not fit into memory is made again once the others are gone.
    monkeypatch.setattr(session, "free_memory", lambda: 10**12)
    monkeypatch.setattr(cache, "free_memory", lambda: 2 - len(s.caches))
    last = s.photos(small, "pad")
    assert list(s.caches.values()) == [last] and last.free == 2
