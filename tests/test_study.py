"""Ablations: equal terms or an error, paired seeds, and what is left when something fails."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from carcls import config, study, train
from carcls.config import Config, ConfigError, Stopped, TrainingDiverged
from carcls.desk import cli


@pytest.fixture
def base(competition, tmp_path, tiny) -> Config:
    return config.parse({"data": str(competition), "out": str(tmp_path / "out"), "weights": "none", "backbone": tiny,
                         "stages": "32x48x2", "batch": 8, "lr": 0.02, "val_fraction": 0.25, "refit_epochs": 1})  # fmt: skip


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ("pooling=max lr=0.1", "lr 0.1 against the base's 0.02.*--differ lr"),  # S71
        ("unfreeze=head stages=32x48x3", "stages 32x48x3 against the base's 32x48x2"),
        ("patience=2", "patience 2 against the base's 0"),
        ("seed=2", "seed is not of training; expected some of .*pooling"),
        ("val_fraction=0.5", "val_fraction is not of training"),
        ("refit_epochs=2", "refit_epochs is not of training"),
        ("pooling=avg", "same settings as 'base'"),
        ("poling=max", "arm 'poling=max': unknown setting poling"),
        ("pooling", "arm 'pooling': 'pooling' is not key=value"),
    ],
)
def test_an_arm_that_is_not_on_equal_terms_is_refused(base, arm, said):
    with pytest.raises(ConfigError, match=said):
        study.arms_of(base, [arm])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"folds": 3}, "3 folds"),
        ({"members": "seed=1+seed=2"}, "2 members"),
        ({"budget_minutes": 9}, "budget_minutes=9"),
    ],
)
def test_a_base_that_cannot_be_compared_is_refused(base, change, said):
    with pytest.raises(ConfigError, match=said):
        study.arms_of(base.replace(**change), ["pooling=max"])


def test_what_is_asked_about_may_differ(base):
    _, first, second = study.arms_of(base, ["optimizer=sgd  lr=0.1", "augment=none"], ["lr"])
    assert (first.name, first.cfg.lr, first.rate) == (
        "optimizer=sgd lr=0.1",
        0.1,
        "sgd, cosine 0.1, rising over 10%",
    )  # S73
    assert second.cfg.augment == "none"  # which views would forbid
    with pytest.raises(ConfigError, match="--differ pooling: expected some of batch, lr"):
        study.arms_of(base, [], ["pooling"])
    with pytest.raises(ConfigError, match="'pooling=max' has the same settings as 'pooling=max'"):
        study.arms_of(base, ["pooling=max", " pooling=max"])


def test_arms_have_folders_of_their_own():
    folders = {study.Arm(name, Config()).folder for name in ("a=1,2", "a=1_2", "a=1/2", "a=1 2", "a" * 70, "a" * 71)}
    assert len(folders) == 6
    assert not any("/" in folder for folder in folders)


def test_intervals_are_students(base):
    mean, half = study.interval(np.array([1.0, 2.0, 3.0]))
    assert (mean, half) == (2, pytest.approx(4.3027 / math.sqrt(3), rel=1e-4))  # t of two degrees of freedom
    assert math.isnan(study.interval(np.array([1.0]))[1])


def rows(arm: str, accuracies: list[float], losses: list[float], note: str = "") -> list[dict]:
    return [{"arm": arm, "seed": 1 + n, "epochs": 2, "accuracy": a, "log_loss": loss, "seconds_per_epoch": 1.0, "note": note}
            for n, (a, loss) in enumerate(zip(accuracies, losses, strict=True))]  # fmt: skip


def test_differences_are_between_the_same_seeds(base):
    """Seeds that differ by far more than the arms do, so that only pairs tell them apart."""
    arms = study.arms_of(base, ["pooling=max", "dropout=0.1", "hidden=8", "hidden=16"])
    table = pd.DataFrame(
        rows("base", [0.5, 0.7, 0.9], [3.0, 2.0, 1.0])
        + rows("pooling=max", [0.45, 0.64, 0.86], [2.9, 1.91, 0.9])  # in every seed
        + rows("dropout=0.1", [0.6, 0.6, 0.95], [2.9, 2.2, 1.0])
        + rows("hidden=8", [0.9, 0.9, 0.9], [0.1, 0.1, 0.1], "1 of 2 epochs")
        + rows("hidden=16", [0.9], [0.1])
    )
    found = study.summary(arms, table).set_index("arm")
    assert found["verdict"].to_dict() == {
        "base": "",
        "pooling=max": "accuracy worse, log-loss better",
        "dropout=0.1": "unresolved",  # S80
        "hidden=8": "not compared: 1 of 2 epochs",  # S71: found when they are trained
        "hidden=16": "unresolved: one seed",
    }
    assert found.loc["pooling=max", "accuracy_change"] == pytest.approx(-0.05)
    assert found.loc["base", "accuracy_half"] > 0.4
    text = "\n".join(study.lines(found.reset_index()))
    assert "-0.050 ± 0.025" in text
    assert "0.900  " in text  # of one seed there is no interval


def test_a_study_trains_each_arm_with_each_seed_and_leaves_a_table_with_curves(base, tmp_path, monkeypatch, capsys):
    """And goes on where it was stopped, without what training does not depend on."""
    fit, started = train.fit, []

    def counted(cfg, *args, **others):
        started.append((cfg.pooling, cfg.lr, cfg.seed))
        if len(started) == 3:
            raise Stopped("enough")
        if cfg.lr == 9:
            raise TrainingDiverged("the loss is NaN", "a lower lr")
        return fit(cfg, *args, **others)

    monkeypatch.setattr(train, "fit", counted)
    given = (base, ["pooling=max", "lr=9"], 2, ["lr"])
    out = tmp_path / "out" / "study"
    with pytest.raises(Stopped):
        study.study(*given)
    assert pd.read_csv(out / "study.csv")["arm"].tolist() == ["base", "pooling=max"]  # nothing made is lost
    assert (out / "study.html").is_file()

    page = study.study(*given)
    said = capsys.readouterr().out
    assert page == out / "study.html"
    assert started == [("avg", 0.02, 1), ("max", 0.02, 1), ("avg", 9, 1), ("avg", 9, 1),  # nothing is trained twice
                       ("avg", 0.02, 2), ("max", 0.02, 2), ("avg", 9, 2)]  # fmt: skip
    table = pd.read_csv(out / "study.csv", keep_default_na=False)
    assert table["seed"].tolist() == [1, 1, 1, 2, 2, 2]
    assert table["note"].str.startswith("diverged: the loss is NaN; a lower lr").tolist() == [False, False, True] * 2
    done = table[table["note"] == ""]
    assert (done["epochs"] == 2).all()
    assert done["seconds_per_epoch"].astype(float).gt(0).all()  # S17
    for row in done.itertuples():
        folder = out / row.arm / f"seed{row.seed}"
        result = json.loads((folder / "result.json").read_text())
        assert result["validation_accuracy"] == float(row.accuracy)
        assert result["settings"]["pooling"] == row.arm.removeprefix("pooling=").replace("base", "avg")
        assert result["refit"] == {}
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 3  # S73: a row an arm
    assert "not compared: diverged" in text
    assert "adam, cosine 0.02, rising over 10%" in said


def test_the_command(monkeypatch, capsys):
    asked: list = []
    monkeypatch.setattr(study, "study", lambda *args: asked.append(args))
    words = [
        "study",
        "--data",
        "here",
        "lr=0.1",
        "--arm",
        "pooling=max",
        "--arm",
        "lr=0.2",
        "--seeds",
        "4",
        "--differ",
        "lr,batch",
    ]
    assert cli.main(words) == 0
    ((cfg, *others),) = asked
    assert (cfg.data, cfg.lr) == ("here", 0.1)
    assert others == [["pooling=max", "lr=0.2"], 4, ["lr", "batch"]]


def test_no_seed_is_no_study(base):
    with pytest.raises(ConfigError, match="seeds=0: expected at least 1"):
        study.study(base, ["pooling=max"], 0)
