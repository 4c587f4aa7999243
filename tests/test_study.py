"""Ablations: equal terms or an error, paired seeds, and what is left when something fails."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from carcls import config, record, spine
from carcls.config import Config
from carcls.desk import cli, study, study_page
from carcls.errors import ConfigError, InputError, Stopped, TrainingDiverged


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


def test_intervals_are_students():
    mean, half = study_page.interval(np.array([1.0, 2.0, 3.0]))
    assert mean == 2
    assert half == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)  # t of two degrees of freedom
    assert math.isnan(study_page.interval(np.array([1.0]))[1])


def rows(arm: str, accuracies: list[float], losses: list[float], **notes: str) -> list[dict]:
    """Of seeds 1, 2, …; notes: ``seed2="…"``."""
    return [
        {
            "arm": arm,
            "seed": seed,
            "learning_rate": "adam",
            "epochs": 2,
            "accuracy": accuracy,
            "log_loss": loss,
            "photos": 100,
            "seconds_per_epoch": 1.0,
            "note": notes.get(f"seed{seed}", ""),
        }
        for seed, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True), 1)
    ]


def test_differences_are_between_the_same_seeds():
    """Seeds that differ by far more than the arms do, so that only pairs tell them apart."""
    table = pd.DataFrame(
        rows("base", [0.5, 0.7, 0.9], [3.0, 2.0, 1.0])
        + rows("max", [0.45, 0.64, 0.86], [2.9, 1.91, 0.9])  # in every seed
        + rows("chance", [0.6, 0.6, 0.95], [2.9, 2.2, 1.0])
        + rows("photo", [0.51, 0.71, 0.91], [2.9, 2.2, 1.0])
        + rows("short", [0.9, 0.9, 0.9], [0.1, 0.1, 0.1], seed2="1.5 of 2 passes")
        + rows("old", [0.9, 0.9, 0.9], [0.1, 0.1, 0.1])
        + rows("one", [0.9], [0.1])
        + rows("lost", [math.nan], [math.nan], seed1="diverged")
    )
    found = study_page.summary(table, {("old", 3): ["lr 0.1 → 0.2"]}).set_index("arm")
    assert found["verdict"].to_dict() == {
        "base": "",
        "max": "accuracy worse, log-loss better",
        "chance": "unresolved",  # S80
        "photo": "unresolved",  # always one photo of a hundred, and no surer than that
        "short": "not compared: seed 2: 1.5 of 2 passes",  # S71: found when they are trained
        "old": "not compared: seed 3: lr 0.1 → 0.2",
        "one": "unresolved: one seed",
        "lost": "not compared: seed 1: diverged",
    }
    assert found.loc["max", "accuracy_change"] == pytest.approx(-0.05)
    assert found.loc["base", "accuracy_half"] > 0.4
    assert math.isnan(found.loc["old", "accuracy_change"])
    assert found["seeds"].tolist() == [3, 3, 3, 3, 3, 3, 1, 0]
    text = study_page.lines(found.reset_index())
    assert "-0.050 ± 0.025" in text[2]
    assert "±" not in text[7]  # of one seed there is no interval
    assert "nan" not in "".join(text)


def test_a_fault_of_the_base_is_said_to_be_the_bases():
    base = rows("base", [0.5, math.nan], [3.0, math.nan], seed2="diverged")
    found = study_page.summary(pd.DataFrame(base + rows("max", [0.4, 0.6], [2.9, 1.9])), {})
    assert found["verdict"].tolist() == ["seed 2: diverged", "not compared: base, seed 2: diverged"]


def leave_run(cfg: Config, about: dict | None = None) -> None:
    """What a study reads of a finished run, without a training."""
    folder = Path(cfg.out) / "member1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "config.json").write_text(cfg.model_dump_json())
    measured = {"accuracy": 0.5 + 0.1 * (cfg.pooling == "max"), "log_loss": 1.0}
    result = {"members": [measured], "validation_photos": 9, "source": "s", "versions": "v"}
    (folder.parent / "result.json").write_text(json.dumps(result))
    columns = ["epoch", "accuracy", "loss", "val_accuracy", "val_loss", "lr", "seconds"]
    rows = [[1, 0.4, 1.5, 0.4, 1.5, 0.02, 9.0], [2, 0.5, 1.0, 0.5, 1.0, 0.01, 2.0]]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "history.csv", index=False)
    facts = {"lr": cfg.lr, "pooling": cfg.pooling, "dropout": cfg.dropout}
    record.Steps(folder).finish("training", facts, [], **(about or {}))


@pytest.fixture
def started(monkeypatch) -> list:
    """(pooling, lr, seed) of every run that begins; the third is stopped, lr=9 diverges."""
    seen: list = []
    monkeypatch.setattr(
        study_page, "draw_arm", lambda seeds, base, path: path.write_bytes(b"a picture")
    )

    def run(cfg):
        seen.append((cfg.pooling, cfg.lr, cfg.seed))
        if len(seen) == 3:
            raise Stopped("enough")
        if cfg.lr == 9:
            raise TrainingDiverged("the loss is NaN", "a lower lr")
        leave_run(cfg)

    monkeypatch.setattr(spine, "run", run)
    return seen


def test_a_study_runs_each_arm_with_each_seed_goes_on_and_grows(base, tmp_path, started, capsys):
    given = (base, ["pooling=max", "lr=9"], 2, ["lr"])
    out = tmp_path / "out" / "study"
    with pytest.raises(Stopped):
        study.study(*given)
    assert pd.read_csv(out / "study.csv")["arm"].tolist() == ["base", "pooling=max"]
    assert (out / "study.html").is_file()  # nothing made is lost

    page = study.study(*given)
    said = capsys.readouterr().out
    assert started[3:] == [(p, lr, s) for s in (1, 2) for p, lr in SETTINGS]
    table = pd.read_csv(page.parent / "study.csv", keep_default_na=False).set_index(["arm", "seed"])
    assert sorted(table.index) == [(a, s) for a in ("base", "lr=9", "pooling=max") for s in (1, 2)]
    assert set(table.loc["lr=9", "note"]) == {"diverged: the loss is NaN; a lower lr"}
    assert table.loc[("pooling=max", 2), "accuracy"] == "0.6"
    assert table.loc[("base", 1), "seconds_per_epoch"] == "2.0"  # S17, the first decodes
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 3  # S73: a row an arm
    assert "not compared: seed 1: diverged" in text
    assert "adam, cosine 0.02, rising over 10%" in said
    own = [out / arm / seed / ".scratch" for arm, seed in (("base", "seed1"), ("lr=9", "seed2"))]
    assert own[0].samefile(own[1])  # photos are unpacked once

    # Another question of the same base joins; another base would replace what there is.
    study.study(base, ["dropout=0.1"], 1)
    assert page.read_text().count("data:image/png;base64,") == 4
    with pytest.raises(ConfigError, match=r"study of lr 0.02, not 0.03; choose another --out"):
        study.study(base.replace(lr=0.03), ["dropout=0.1"], 1)


SETTINGS = (("avg", 0.02), ("max", 0.02), ("avg", 9))


def test_what_was_trained_from_something_else_is_not_compared(base, tmp_path, started):
    started += [None] * 3
    study.study(base, ["pooling=max"], 1)
    out = tmp_path / "out" / "study"
    table = study._read(out / "study.csv")
    assert not any(study.unequal(table, out).values())
    note = out / "pooling=max" / "seed1" / "member1" / "steps.json"
    steps = json.loads(note.read_text())
    steps["training"]["facts"]["lr"] = 0.03
    steps["training"]["about"]["machine"] = ["jax", "tpu"]
    note.write_text(json.dumps(steps))
    gone = ["what was trained is there no more"]
    assert study.unequal(table, out)["pooling=max", 1] == gone
    table.loc[table["arm"] == "pooling=max", "made_from"] = study._digest(steps["training"])
    assert study.unequal(table, out)["pooling=max", 1] == ["lr 0.02 → 0.03", "another machine"]
    note.unlink()
    assert study.unequal(table, out)["pooling=max", 1] == gone


@pytest.mark.parametrize(
    ("about", "note"),
    [
        ({"smaller": 4}, "memory ran out: batches of 4"),
        ({"shortened": "1.5 of 2 passes"}, "1.5 of 2 passes"),
    ],
)
def test_what_a_training_has_met_is_in_its_row(base, tmp_path, about, note):
    leave_run(base.replace(out=str(tmp_path / "run")), about)
    assert study._row(study.Arm("base", base), 1, tmp_path / "run")["note"].startswith(note)


def test_a_study_reads_what_a_run_leaves(base, tmp_path):
    """With real trainings."""
    study.study(base.replace(stages="32x48x1"), ["pooling=max"], 1)
    out = tmp_path / "out" / "study"
    table = study._read(out / "study.csv")
    assert not any(study.unequal(table, out).values())
    assert (table["note"] == "").all() and (table["made_from"] != "").all()
    for row in table.itertuples():
        result = json.loads((out / row.arm / "seed1" / "result.json").read_text())
        assert result["validation_accuracy"] == row.accuracy
        pooling = row.arm.removeprefix("pooling=").replace("base", "avg")
        assert result["settings"]["pooling"] == pooling
        assert result["settings"]["views"] == "1" and result["refit"] == {}


def test_a_table_that_is_no_studys_is_named(tmp_path):
    (tmp_path / "study.csv").write_text("arm,seed\nbase,1\n")
    with pytest.raises(
        InputError, match=r"study.csv: columns arm, seed; expected arm, seed, learning_rate"
    ):
        study._read(tmp_path / "study.csv")


def test_the_command(monkeypatch):
    asked: list = []
    monkeypatch.setattr(study, "study", lambda *args: asked.append(args))
    words = ["study", "--data", "here", "lr=0.1", "--arm", "pooling=max", "hidden=8"]
    words += ["--arm", "lr=0.2", "--seeds", "4", "--differ", "lr, batch"]
    assert cli.main(words) == 0
    ((cfg, *others),) = asked
    assert (cfg.data, cfg.lr) == ("here", 0.1)
    assert others == [["pooling=max hidden=8", "lr=0.2"], 4, ["lr", "batch"]]
