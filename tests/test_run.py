"""The whole run on small photos: files, reproducibility, bad input, and what survives a failure."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import write_photo

from carcls import config, inputs, tta
from carcls.config import Config, ConfigError
from carcls.desk import cli
from carcls.run import run, wilson


@pytest.fixture
def cfg(competition, tmp_path, tiny) -> Config:
    return config.parse({"data": str(competition), "out": str(tmp_path / "out"), "weights": "none", "backbone": tiny,
                         "stages": "32x48x2,48x64x2", "batch": 8, "lr": 0.02, "tta_views": 4, "val_fraction": 0.25})  # fmt: skip


def test_a_run_leaves_everything_and_the_same_seed_the_same_submission(cfg, tmp_path, capsys):
    target = run(cfg)
    said = capsys.readouterr().out
    out = tmp_path / "out"
    assert target == out / "submission.csv"
    submission = pd.read_csv(target)
    assert submission["Id"].tolist() == pd.read_csv(f"{cfg.data}/sample-submission.csv")["Id"].tolist()
    assert set(submission["Category"]) <= {0, 1, 2}

    votes = tta.load(out / "votes_test.npz")
    assert votes.probs.shape == (4, 10, 3)
    assert (submission.set_index("Id")["Category"].loc[votes.ids] == votes.mean().argmax(1)).all()
    result = json.loads((out / "result.json").read_text())
    truth = result["validation_photos"]
    assert tta.load(out / "votes_validation.npz").probs.shape == (4, truth, 3)
    assert f"{result['validation_accuracy']:.4f} accuracy" in said
    assert result["settings"]["stages"] == [
        {"height": 32, "width": 48, "epochs": 2},
        {"height": 48, "width": 64, "epochs": 2},
    ]

    history = pd.read_csv(out / "history.csv")
    assert history["stage"].tolist() == [1, 1, 2, 2]
    assert history["seconds"].gt(0).all()  # S17
    assert config.load(out / "config.json") == cfg
    events = [json.loads(line)["kind"] for line in (out / "progress.jsonl").read_text().splitlines()]
    assert events == ["start", *["epoch"] * 4, "end"]
    for name in ("curves", "confusion", "errors", "augmentation"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"{name}.png" in said
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") == page.count("<figcaption>") == 4  # S9: each says what it shows
    assert {"best.weights.h5", "last.weights.h5", "audit.csv"} <= {p.name for p in out.iterdir()}
    assert not [p.name for p in out.rglob("*.part*")]

    again = run(cfg.replace(out=str(tmp_path / "again")))
    assert again.read_bytes() == target.read_bytes()
    votes_again = tta.load(tmp_path / "again" / "votes_test.npz")
    assert (votes_again.probs == votes.probs).all()
    other = run(cfg.replace(out=str(tmp_path / "other"), seed=2, stages="32x48x1", tta_views=1))
    assert tta.load(other.parent / "votes_test.npz").probs.shape == (1, 10, 3)


def test_settings_that_change_training_run_too(cfg, tmp_path):
    out = run(cfg.replace(ema=0.9, mixup=0.2, label_smoothing=0.1, schedule="plateau", optimizer="sgd", fit="crop",
                          unfreeze="staged", augment="medium", tensorboard=True, patience=1, min_epochs=1)).parent  # fmt: skip
    assert list((out / "tensorboard").rglob("events.out.tfevents.*"))  # S45
    assert (out / "submission.csv").is_file()


def test_an_unreadable_test_photo_still_gets_its_row_and_a_warning(cfg, competition, capsys):
    (competition / "test_upload" / "903.png").write_bytes(b"not a photo")
    (competition / "test_upload" / "904.png").unlink()
    target = run(cfg.replace(stages="32x48x1"))
    assert len(pd.read_csv(target)) == 10
    audit = pd.read_csv(target.parent / "audit.csv").set_index("id")["finding"]
    assert {"903.png", "904.png"} <= set(audit.index)
    assert "903.png" in capsys.readouterr().out


def test_string_labels_and_two_classes_go_through(cfg, tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "flat"
    rows = []
    for n in range(24):
        kind = ("van", "suv")[n % 2]
        write_photo(root / "train" / f"{n}.png", rng.integers(0, 120, (40, 50, 3), np.uint8) + np.uint8(100 * (n % 2)))
        rows.append((n, kind))
    for n in range(50, 53):
        write_photo(root / "test" / f"{n}.png", rng.integers(0, 120, (40, 50, 3), np.uint8))
    pd.DataFrame(rows, columns=["key", "kind"]).to_csv(root / "train.csv", index=False)
    pd.DataFrame({"key": [52, 50, 51], "kind": "van"}).to_csv(root / "sample_submission.csv", index=False)
    target = run(cfg.replace(data=str(root), stages="32x48x1", tta_views=2))
    made = pd.read_csv(target)
    assert list(made.columns) == ["key", "kind"]
    assert made["key"].tolist() == [52, 50, 51]
    assert set(made["kind"]) <= {"van", "suv"}


def test_what_can_be_known_early_fails_before_anything_is_made_or_lost(cfg, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "submission.csv").write_text("earlier")
    for change, error, said in (
        ({"backbone": "resnet9000"}, ConfigError, "backbone='resnet9000'.*expected one of"),
        ({"augment": "wild", "tta_views": 1}, ConfigError, "augment='wild'"),
        ({"data": str(tmp_path / "none")}, inputs.InputError, "none"),
        ({"backbone": "efficientnet_lite_b1", "weights": str(tmp_path / "w.h5")}, inputs.InputError, "w.h5"),
    ):
        with pytest.raises(error, match=said):
            run(cfg.replace(**change))
    assert [p.name for p in out.iterdir() if p.is_file()] == ["submission.csv"]
    assert (out / "submission.csv").read_text() == "earlier"


def test_a_diverged_run_names_where_and_keeps_an_earlier_submission(cfg, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "submission.csv").write_text("earlier")
    words = [f"{k}={v}" for k, v in cfg.model_dump().items() if k in ("weights", "backbone", "data", "out")]
    assert cli.main(["run", *words, "stages=32x48x3", "batch=8", "lr=1e30", "optimizer=sgd", "warmup=0"]) == 3
    assert "learning rate" in capsys.readouterr().err
    assert json.loads((out / "progress.jsonl").read_text().splitlines()[-1])["kind"] == "failed"
    assert (out / "submission.csv").read_text() == "earlier"


def test_the_command_line_says_what_is_wrong_in_one_line(capsys):
    assert cli.main(["run", "--data", "nowhere", "lr=fast"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("carcls: lr='fast'")
    assert err.count("\n") == 1


def test_help_lists_every_setting_with_its_default(capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    said = capsys.readouterr().out
    for name, field in Config.model_fields.items():
        assert f"  {name}=" in said
        assert field.description in said
    assert all(f"  {name}" in said for name in config.PRESETS)


def test_preview_writes_the_grid(cfg, tmp_path, capsys):
    assert cli.main(["preview", "--data", cfg.data, "--out", str(tmp_path / "look"), "stages=48x64x1"]) == 0
    path = tmp_path / "look" / "augmentation.png"
    assert str(path) in capsys.readouterr().out
    assert path.stat().st_size > 5000


def test_wilson_interval():
    low, high = wilson(95, 100)
    assert (round(low, 3), round(high, 3)) == (0.888, 0.978)  # Wilson (1927); Agresti and Coull (1998), table
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == pytest.approx(1.0)
