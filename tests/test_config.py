"""Config: settings, presets, errors that name what is wrong."""

import json
import subprocess
import sys

import pytest

from carcls import config
from carcls.config import Config, Stage
from carcls.errors import ConfigError


def test_words_become_typed_settings():
    cfg = config.from_words(
        ["preset=good", "lr=0.001", "stages=64x96x2,96x128x3", "freeze_bn=true"]
    )
    assert cfg.lr == 0.001
    assert cfg.freeze_bn is True
    assert cfg.stages == (
        Stage(height=64, width=96, epochs=2),
        Stage(height=96, width=128, epochs=3),
    )


def test_every_preset_is_valid_and_a_setting_overrides_it():
    for name in config.PRESETS:
        assert config.parse({"preset": name, "batch": 7}).batch == 7


def test_kaggle_preset_ends_in_the_photos_own_shape():
    last = config.parse({"preset": "kaggle"}).stages[-1]
    assert last.width * 3 == last.height * 4  # 4:3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lr=-1"], "lr='-1'.*greater than 0"),
        (["batch=many"], "batch='many'.*integer"),
        (["colour=1"], "unknown setting colour; expected preset or one of data, out"),
        (["lr"], "'lr' is not key=value"),
        (["preset=best"], "preset='best'.*sample, quick, good, kaggle"),
        (["stages=96x96"], "stages.*'96x96' is not HEIGHTxWIDTHxEPOCHS"),
        (["strength=0.2"], "strength_end 0.5 is above strength 0.2"),
        (
            ["tta_strength=1", "strength=0.9"],
            "tta_strength 1.0 is above strength 0.9.*never stronger",
        ),
        (["tta_strength=0"], "tta_strength 0.0.*tta_views"),
        (["mixup=0.2", "cutmix=1"], "at most one"),
        (["unfreeze=staged", "stages=96x96x1"], "at least two stages"),
        (["augment=none"], "tta_views 8 with augment none.*tta_views=1"),
        (["lr=inf"], "lr='inf'.*finite"),
        (["budget_minutes=1e308"], "budget_minutes='1e308'.*less than or equal"),
        (["bn_photos=8"], "bn_photos 8: too few.*at least 32"),
        (["lr=1e-3", "seed=2", "lr=2e-3"], "lr is given twice: 1e-3 and 2e-3"),
        (
            ["members=seed=1/seed=2"],
            "'seed=1/seed=2' has one setting twice; members are separated by",
        ),
        (["optimizer=adamm"], "optimizer='adamm'.*'adam'"),
        (["members=seed=1+seed=2/lr=-1"], "member 2: lr='-1'.*greater than 0"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_found_and_expected(words, said):
    with pytest.raises(ConfigError, match=said):
        config.from_words(words)


def test_a_preset_that_the_words_name_goes_before_a_commands_own():
    assert config.from_words(["seed=5"], "kaggle") == config.parse({"preset": "kaggle", "seed": 5})
    assert config.from_words(["preset=quick"], "kaggle") == config.parse({"preset": "quick"})


def test_saved_config_loads_as_the_same(tmp_path):
    cfg = config.parse({"preset": "good", "seed": 5})
    (tmp_path / "config.json").write_text(cfg.model_dump_json())
    assert config.load(tmp_path / "config.json") == cfg
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigError, match="bad.json: not a JSON file"):
        config.load(tmp_path / "bad.json")


def test_config_is_frozen_and_replace_validates():
    cfg = Config()
    with pytest.raises(ValueError, match="frozen"):
        cfg.lr = 1.0
    with pytest.raises(ConfigError, match="lr"):
        cfg.replace(lr=-1)
    assert cfg.replace(seed=9).seed == 9
    assert cfg.replace(seed=9, preset="good", batch=7) == config.parse(
        {"seed": 9, "preset": "good", "batch": 7}
    )
    with pytest.raises(ConfigError, match="preset='best'"):
        cfg.replace(preset="best")
    json.loads(cfg.model_dump_json())


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, carcls; print([m for m in ('tensorflow', 'keras', 'numpy', 'pydantic') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


@pytest.mark.parametrize("before", ["", "from carcls.spine import check; ", "import carcls.run; "])
def test_a_notebook_imports_the_settings_and_the_run_from_the_package(before):
    # A module is called run as well, and Python would put it in the function's place once it is
    # imported.
    code = f"{before}from carcls import Config, run; import carcls; print(run.__module__, carcls.run is run, Config().batch)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["carcls.spine", "True", str(Config().batch)]


def test_folds_need_no_refit():
    cfg = config.from_words(["preset=quick"])
    assert cfg.refits == cfg.refit_epochs > 0
    assert cfg.replace(folds=5).refits == 0
