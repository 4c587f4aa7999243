"""Ablations: equal terms or an error, paired seeds, and what is left when something fails."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from carcls import config, disk
from carcls.config import Config
from carcls.desk import cli, study, study_page
from carcls.desk.study_page import Arm, Findings
from carcls.errors import ConfigError, InputError, Stopped
from carcls.search import trial
from carcls.search.trial import Outcome
from carcls.train.events import Events


@pytest.fixture
def base(competition, tmp_path, tiny) -> Config:
    return config.parse(
        {
            "data": str(competition),
            "out": str(tmp_path / "out"),
            "weights": "none",
            "backbone": tiny,
            "stages": "32x48x2",
            "batch": 8,
            "lr": 0.02,
            "val_fraction": 0.25,
            "refit_epochs": 1,
        }
    )


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ("pooling=max lr=0.1", "lr 0.1 against the base's 0.02.*--differ lr"),  # S71
        ("unfreeze=head stages=32x48x3", "stages 32x48x3 against the base's 32x48x2"),
        ("patience=2", "arm 'patience=2': patience: expected some of .*pooling"),
        ("seed=2", "seed: expected some of"),
        ("val_fraction=0.5", "val_fraction: expected some of"),
        ("preset=quick", "preset: expected some of"),
        ("pooling=avg", "same settings as 'base'"),
        ("poling=max", "arm 'poling=max': poling: expected some of"),
        ("pooling=mean", "arm 'pooling=mean': pooling='mean': Input should be 'avg' or 'max'"),
        ("pooling", "arm 'pooling': 'pooling' is not key=value"),
    ],
)
def test_an_arm_that_is_not_on_equal_terms_is_refused(base, arm, said):
    with pytest.raises(ConfigError, match=said):
        study.arms_of(base, [arm])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"folds": 3}, "folds=3 in a study: arms are single networks"),
        ({"members": "seed=1+seed=2"}, "members="),
        ({"members": "dropout=0.1"}, "members="),  # whose settings would go before an arm's
        ({"budget_minutes": 9}, "budget_minutes=9"),
        ({"patience": 2}, "patience=2 in a study: arms that stop after different epochs"),
        ({"resume": False}, "resume=False"),
        ({"tune_minutes": 9}, "tune_minutes=9"),
        ({"earlier": "runs/1"}, "earlier=runs/1"),
    ],
    ids=str,
)
def test_a_base_that_cannot_be_compared_is_refused(base, change, said):
    with pytest.raises(ConfigError, match=said):
        study.arms_of(base.replace(**change), ["pooling=max"])


def test_what_is_asked_about_may_differ(base):
    _, first, second = study.arms_of(base, ["optimizer=sgd  lr=0.1", "augment=none"], ["lr"])
    assert (first.name, first.cfg.lr) == ("optimizer=sgd lr=0.1", 0.1)
    assert first.rate == "sgd, cosine 0.1, rising over 10%"  # S73
    assert second.cfg.augment == "none"  # which views would forbid
    with pytest.raises(ConfigError, match="--differ pooling: expected some of batch, lr"):
        study.arms_of(base, [], ["pooling"])
    with pytest.raises(ConfigError, match="'pooling=max' has the same settings as 'pooling=max'"):
        study.arms_of(base, ["pooling=max", " pooling=max"])


def test_no_seed_and_several_hosts_are_no_study(base, monkeypatch):
    with pytest.raises(ConfigError, match="--seeds 0: expected at least 1"):
        study.study(base, ["pooling=max"], 0)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    with pytest.raises(ConfigError, match="a study is for the desk and one host"):
        study.study(base, ["pooling=max"])


def test_arms_have_folders_of_their_own():
    names = ("a=1,2", "a=1_2", "a=1/2", "a=1 2", "a" * 70, "a" * 71)
    folders = [study.folder_of(Path("study"), name, 1) for name in names]
    assert len(set(folders)) == 6
    assert {folder.parent.parent for folder in folders} == {Path("study")}


def test_intervals_are_students_and_no_narrower_than_the_photos_make_them():
    mean, half = study_page.interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)  # t of two degrees of freedom
    assert math.isnan(study_page.interval([1.0])[1])
    assert study_page.interval([2.0, 2.0], [0.3, 0.4]) == (2, pytest.approx(1.96 * 0.25, rel=1e-4))


PHOTOS = 100
ROWS = [
    {"epoch": n, "accuracy": 0.5, "val_accuracy": 0.5, "loss": 1.0, "val_loss": 1.0, "lr": 0.02}
    for n in (1, 2)
]
FACTS = {"lr": 0.02, "pooling": "avg", "backbone": "tiny", "the first weights": "abc"}


def outcome(accuracy: float, loss: float, spread: float = 0.0, **more) -> Outcome:
    """So many photos right, and losses around a mean."""
    right = [n < round(PHOTOS * accuracy) for n in range(PHOTOS)]
    losses = (loss + spread * np.resize([-1, 1], PHOTOS)).tolist()
    return Outcome(losses, right, epoch_seconds=2.0, rows=ROWS, **{"facts": FACTS, **more})


def found(**arms: list[Outcome]) -> Findings:
    """Of arms by name, each with seeds 1, 2, …"""
    outcomes = {(n, seed): o for n, seeds in arms.items() for seed, o in enumerate(seeds, 1)}
    return Findings([Arm(name, Config()) for name in arms], outcomes)


def both(*pairs: tuple[float, float], **more) -> list[Outcome]:
    return [outcome(accuracy, loss, **more) for accuracy, loss in pairs]


def test_differences_are_between_the_same_seeds(monkeypatch):
    """Seeds that differ by far more than the arms do, so that only pairs tell them apart."""
    monkeypatch.setattr(study_page.config, "settings_of", lambda words: {})  # arms by any name
    well = both((0.9, 0.1), (0.9, 0.1), (0.9, 0.1))
    rows = study_page.summary(
        found(
            base=both((0.5, 3.0), (0.7, 2.0), (0.9, 1.0)),
            max=both((0.41, 2.9), (0.60, 1.91), (0.82, 0.9)),  # in every seed
            chance=both((0.6, 2.9), (0.6, 2.2), (0.95, 1.0)),
            photo=both((0.51, 2.9), (0.71, 2.2), (0.91, 1.0)),  # one of a hundred, always
            agree=both((0.5, 2.9), (0.7, 1.9), (0.9, 0.9), spread=2.0),  # seeds do, photos do not
            less=[well[0], replace(well[1], note="memory ran out: batches of 4"), well[2]],
            old=[*well[:2], replace(well[2], facts={**FACTS, "lr": 0.2})],
            one=well[:1],
            lost=[Outcome(diverged="NaN", facts=FACTS)],
        )
    ).set_index("arm")
    assert rows["verdict"].to_dict() == {
        "base": "",
        "max": "accuracy worse, log-loss better",
        "chance": "unresolved",  # S80
        "photo": "unresolved",
        "agree": "unresolved",
        "less": "not compared: seed 2: memory ran out: batches of 4",  # S71
        "old": "not compared: seed 3: lr 0.02 → 0.2",
        "one": "unresolved: one seed",
        "lost": "not compared: seed 1: diverged: NaN",
    }
    changes = rows["accuracy against base"]
    assert (changes["max"].split(" ± ")[0], changes["old"], changes["one"]) == (
        "-0.090",
        "",
        "+0.400",  # of one seed there is no interval
    )
    assert float(rows["accuracy"]["base"].split(" ± ")[1]) > 0.4
    assert rows["seeds"].tolist() == ["3"] * 7 + ["1", "0"]
    assert "nan" not in "".join(study_page.lines(rows.reset_index())).replace("NaN", "")


def test_a_fault_of_the_base_is_said_to_be_the_bases(monkeypatch):
    base = [outcome(0.5, 3.0), Outcome(diverged="NaN", facts=FACTS)]
    monkeypatch.setattr(study_page.config, "settings_of", lambda words: {})
    rows = study_page.summary(found(base=base, max=both((0.4, 2.9), (0.6, 1.9))))
    lost = "base, seed 2: diverged: NaN"
    assert rows["verdict"].tolist() == ["seed 2: diverged: NaN", f"not compared: {lost}"]


@pytest.mark.parametrize(
    ("arm", "facts", "said"),
    [
        ("pooling=max", {"pooling": "max"}, []),
        ("pooling=max", {"pooling": "max", "lr": 0.03}, ["lr 0.02 → 0.03"]),
        ("backbone=other", {"backbone": "other", "the first weights": "def"}, []),
        ("pooling=max", {"the first weights": "def"}, ["the first weights changed"]),
    ],
)
def test_what_was_trained_from_something_else_is_not_compared(arm, facts, said):
    was, now = outcome(0.5, 1.0), outcome(0.5, 1.0, facts={**FACTS, **facts})
    assert study_page.unequal(arm, was, now) == said
    elsewhere = replace(now, machine=["jax", "tpu"])
    assert study_page.unequal(arm, was, elsewhere) == [*said, "another machine"]
    assert study_page.unequal("precision=float32", was, elsewhere) == (
        study_page.unequal("precision=float32", was, now)
    )


@pytest.fixture
def started(monkeypatch) -> list:
    """(pooling, lr, seed) of every training that begins; the third is stopped, lr=9 diverges."""
    seen: list = []

    def draw(histories, base, path) -> Path:
        path.write_bytes(b"a picture")
        return path

    monkeypatch.setattr(study_page, "draw_arm", draw)

    def train(trainer, task) -> Outcome:
        cfg = task.cfg
        seen.append((cfg.pooling, cfg.lr, cfg.seed))
        if len(seen) == 3:
            raise Stopped("enough")
        facts = trainer._job(task).facts(trainer.s.table.frame)
        if cfg.lr == 9:
            return Outcome(diverged="the loss is NaN", facts=facts)
        return outcome(0.5 + 0.1 * (cfg.pooling == "max"), 1.0, facts=facts)

    monkeypatch.setattr(trial.Trainer, "__call__", train)
    return seen


def test_a_study_trains_each_arm_with_each_seed_goes_on_and_grows(base, tmp_path, started, capsys):
    given = (base, ["pooling=max", "lr=9"], 2, ["lr"])
    out = tmp_path / "out" / "study"
    with pytest.raises(Stopped):
        study.study(*given)
    assert pd.read_csv(out / "study.csv")["arm"].tolist() == ["base", "pooling=max"]
    assert (out / "study.html").is_file()  # nothing made is lost

    page = study.study(*given)
    said = capsys.readouterr().out
    every = [(p, lr, s) for s in (1, 2) for p, lr in SETTINGS]
    assert started[3:] == every[2:]  # each once
    table = pd.read_csv(page.parent / "study.csv", keep_default_na=False).set_index(["arm", "seed"])
    assert sorted(table.index) == [(a, s) for a in ("base", "lr=9", "pooling=max") for s in (1, 2)]
    assert set(table.loc["lr=9", "note"]) == {"diverged: the loss is NaN"}
    assert table.loc[("pooling=max", 2), "accuracy"] == "0.6"
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 3  # S73: a row an arm
    assert "not compared: seed 1: diverged" in text
    assert "adam, cosine 0.02, rising over 10%" in said
    own = [out / arm / seed / ".scratch" for arm, seed in (("base", "seed1"), ("lr=9", "seed2"))]
    assert own[0].samefile(own[1])  # photos are unpacked once

    # A photo less: what was trained with it is trained anew.
    next((tmp_path / "competition" / "train" / "1").iterdir()).unlink()
    study.study(base, ["pooling=max"], 1)
    assert started[len(every) + 1 :] == [("avg", 0.02, 1), ("max", 0.02, 1)]
    assert "lr=9" in page.read_text()
    # Another question of the same base joins; another base would replace what there is.
    study.study(base, ["dropout=0.1"], 1)
    assert len(started) == len(every) + 4
    with pytest.raises(ConfigError, match=r"differs in lr 0.02 → 0.03; choose another --out"):
        study.study(base.replace(lr=0.03), ["dropout=0.1"], 1)
    (out / study.STATE).write_text("{}")
    with pytest.raises(InputError, match=r"study.json: not as a study has left it"):
        study.study(base, ["dropout=0.1"], 1)


def test_a_phone_is_told_of_a_study_and_not_of_its_trainings(base, started, receiver):
    base = base.replace(notify_url=f"{receiver.url}/?key=5ecret")
    study.study(base, ["pooling=max"], 1)
    with pytest.raises(Stopped):
        study.study(base, ["pooling=max"], 2)
    titles = [body["text"].partition("\n")[0] for body in receiver.sent("/")]
    names = ["study of 2 trainings", "study of 4 trainings"]
    ends = [": started", ": ended", ": started", ": stopped by enough"]
    assert titles == [names[n // 2] + end for n, end in enumerate(ends)]
    told = [path.read_text() for path in Path(base.out).rglob("progress.jsonl")]
    assert len(told) == 4 and not any("5ecret" in text for text in told)
    with pytest.raises(ConfigError, match="no topic of ntfy"):
        study.study(base.replace(notify_url="https://ntfy.sh/"), ["pooling=max"], 2)
    assert len(started) == 3


SETTINGS = (("avg", 0.02), ("max", 0.02), ("avg", 9))


def test_a_study_with_real_trainings_goes_on_and_votes_on_no_test_photo(base, monkeypatch, capsys):
    base, send = base.replace(stages="32x48x1,48x64x1"), Events.send

    def stops(events, kind: str, **values) -> None:
        if kind == "epoch" and values["stage"] == 2:
            raise Stopped("enough")
        send(events, kind, **values)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Events, "send", stops)
        study.study(base, ["pooling=max"], 1)
    assert not list(Path(base.out).rglob(trial.NOTE))
    capsys.readouterr()
    page = study.study(base, ["pooling=max"], 1)
    assert capsys.readouterr().out.count("epoch 1/1") == 1 + 2  # the base's first was done
    out = page.parent
    table = pd.read_csv(out / "study.csv")
    assert table["note"].isna().all() and (table["photos"] == 9).all()
    assert page.read_text().count("data:image/png;base64,") == 2
    left = {path.name for path in out.rglob("*") if path.is_file()}
    assert not left & {"submission.csv", "votes_test.npz", "report.html", "best.weights.h5"}
    rows = (out / "pooling=max" / "seed1" / "member1" / trial.NOTE, out / "base")
    facts = disk.read_json(rows[0])["facts"]
    assert (facts["pooling"], len(facts["stages"])) == ("max", 2)
    for name in ("base", "pooling=max"):
        told = (out / name / "seed1" / "progress.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in told]
        (title,) = {event["name"] for event in events if event["kind"] == "start"}
        (network,) = {event["network"] for event in events if event["kind"] == "epoch"}
        assert title == network == events[0]["networks"][0]["name"] == f"{name}, seed 1"
        assert events[-1]["kind"] == "end" and "epoch" in {event["kind"] for event in events}
    capsys.readouterr()
    study.study(base, ["pooling=max"], 1)
    again = capsys.readouterr().out
    assert "epoch 1/" not in again and "anew" not in again
    assert table.equals(pd.read_csv(out / "study.csv"))


def test_the_command(monkeypatch):
    asked: list = []
    monkeypatch.setattr(study, "study", lambda *args: asked.append(args))
    words = ["study", "--data", "here", "lr=0.1", "--arm", "pooling=max", "hidden=8"]
    words += ["--arm", "lr=0.2", "--seeds", "4", "--differ", "lr, batch"]
    assert cli.main(words) == 0
    ((cfg, *others),) = asked
    assert (cfg.data, cfg.lr) == ("here", 0.1)
    assert others == [["pooling=max hidden=8", "lr=0.2"], 4, ["lr", "batch"]]
