"""Config: settings, presets, errors that name what is wrong, and what its import costs."""

import subprocess
import sys

import pytest

from carcls import config
from carcls.config import Config
from carcls.desk import settings
from carcls.errors import ConfigError
from carcls.presets import PRESETS, RENAMED


def test_words_become_typed_settings():
    words = "preset=good lr=0.001 stages=64x96x2,96x128x3 freeze_bn=true weight_decay= views=4-32"
    cfg = config.from_words(words.split())
    assert (cfg.lr, cfg.freeze_bn, cfg.weight_decay) == (0.001, True, None)
    assert [str(stage) for stage in cfg.stages] == ["64x96x2", "96x128x3"]
    assert (cfg.views.first, cfg.views.most, cfg.augment) == (4, 32, "medium")


def test_every_preset_is_valid_and_a_setting_overrides_it():
    for name in PRESETS:
        assert config.parse({"preset": name, "batch": 7}).batch == 7
    assert config.from_words(["seed=5"], "kaggle") == config.parse({"preset": "kaggle", "seed": 5})
    assert config.from_words(["preset=quick"], "kaggle") == config.parse({"preset": "quick"})
    last = config.parse({"preset": "kaggle"}).stages[-1]
    assert last.width * 3 == last.height * 4  # the photos' own shape


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("lr=-1", "lr='-1'.*greater than 0"),
        ("lr=inf", "lr='inf'.*finite"),
        ("batch=many", "batch='many'.*integer"),
        ("budget_minutes=1e308", "budget_minutes='1e308'.*less than or equal"),
        ("colour=1", "unknown setting colour; expected preset, tuned or one of data, out"),
        ("lr", "'lr' is not key=value"),
        ("lr=1e-3 seed=2 lr=2e-3", "lr is given twice: 1e-3 and 2e-3"),
        ("preset=best", "preset='best'.*sample, quick, good, kaggle"),
        ("optimizer=adamm", "optimizer='adamm'.*'adam'"),
        ("weights=", "weights='': expected imagenet, none or a path"),
        ("boxes=a.csv,,b.csv", "boxes='a.csv,,b.csv': expected files separated by commas"),
        ("boxes=a.csv,a.csv", "boxes=.*each once"),
        ("stages=96x96", "stages.*'96x96' is not HEIGHTxWIDTHxEPOCHS"),
        ("unfreeze=staged stages=96x96x1", "unfreeze=staged.*at least two"),
        ("strength=0.2-0.5", "strength 0.2-0.5: augmentation weakens"),
        ("strength=0", "views 8 with strength 0"),
        ("views=8-4", "views 8-4: the second number is the larger one"),
        ("views=1-8", "views 1-8: one view cannot disagree; at least 2"),
        ("augment=none", "views 8 with augment none.*views=1"),
        ("mix=0.2", "mix='0.2'.*mixup:ALPHA"),
        ("bn_photos=8", "bn_photos 8: too few.*at least 32"),
        ("blend=mean", "blend 'mean': expected one of auto, best"),
        ("blend=0.9/0.1", "blend 0.9/0.1: 2 weights for 1 member;"),
        ("blend=1/.", "blend '1/.': expected one of auto"),
        ("pseudo=3 views=2", "pseudo with views 2 and tta auto.*at least 4"),
        ("pseudo=3 tta=never", "pseudo with views 8 and tta never"),
        ("pseudo=3 folds=5", "pseudo with folds 5.*folds=1"),
        ("members=seed=1/seed=2", "members='seed=1/seed=2'.*one setting twice"),
        ("members=folds=2", "member 1: folds cannot differ between members; expected some of aug"),
        ("members=seed=1+seed=2/lr=-1", "member 2: lr='-1'.*greater than 0"),
        ("members=seed=1+seed=1", "two members have the same settings"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_found_and_expected(words, said):
    with pytest.raises(ConfigError, match=said):
        config.from_words(words.split())


@pytest.mark.parametrize("name", RENAMED)
def test_a_setting_of_an_older_version_says_the_new_one(name):
    with pytest.raises(ConfigError, match=f"^{name} is now ") as caught:
        config.parse({name: "1"})
    new = RENAMED[name].split()[0].partition("=")[0]
    assert new in str(caught.value) and (new in Config.model_fields or new == "nothing:")
    assert name not in Config.model_fields


def test_config_is_frozen_and_replace_validates():
    cfg = Config()
    with pytest.raises(ValueError, match="frozen"):
        cfg.lr = 1.0
    with pytest.raises(ConfigError, match="lr=-1"):
        cfg.replace(lr=-1)
    with pytest.raises(ConfigError, match="preset='best'"):
        cfg.replace(preset="best")
    changed = cfg.replace(seed=9, preset="good", batch=7)
    assert changed == config.parse({"seed": 9, "preset": "good", "batch": 7})


@pytest.mark.parametrize("preset", PRESETS)
def test_a_saved_config_loads_as_the_same(preset, tmp_path):
    words = [f"preset={preset}", "members=seed=5+seed=6/stages=32x32x1/mix=mixup:1"]
    cfg, file = config.from_words(words), tmp_path / "config.json"
    file.write_text(cfg.model_dump_json())
    assert config.load(file) == cfg
    assert cfg.replace() == cfg


@pytest.mark.parametrize("content", ["{", "[]", None, '{"tta_views": 4}'])
def test_a_config_that_cannot_be_loaded_is_named(content, tmp_path):
    file = tmp_path / "bad.json"
    if content:
        file.write_text(content)
    with pytest.raises(ConfigError, match="bad.json: |tta_views is now views"):
        config.load(file)


def test_members_have_their_own_settings_and_share_the_others():
    cfg = config.from_words(["members=seed=4+stages=32x64x1/lr=1", "batch=7", "blend=0.5/0.5"])
    first, second = cfg.member_cfgs()
    assert first == cfg.replace(seed=4, members=({},), blend="auto")
    assert (second.lr, second.batch, second.seed) == (1.0, 7, cfg.seed)
    assert second.stages[0].size == (32, 64)


def test_what_a_setting_belongs_to_is_said_once():
    every, training = set(Config.model_fields), config.TRAINING_SETTINGS
    assert config.EQUAL_TERMS <= config.MEMBER_SETTINGS <= training < every
    assert {"stages", "lr", "batch", "schedule", "warmup"} == config.EQUAL_TERMS
    assert {"boxes", "weights", "augment"} == config.FILE_SETTINGS
    assert {"strength", "precision", "boxes", "metric"} == training - config.MEMBER_SETTINGS
    # A run may go on with another accelerator, so it is no part of what the run is.
    assert {"monitor_url", "notify_url"} == config.SECRETS
    session = {"data", "out", "budget_minutes", *config.SECRETS, "resume", "accelerator"}
    assert session < config.SESSION_SETTINGS
    assert not config.SESSION_SETTINGS & training
    votes = {"views", "tta", "tta_combine", "folds", "members", "blend", "pseudo", "refit_epochs"}
    assert not votes & (training | config.SESSION_SETTINGS)


def test_every_setting_is_described_with_a_default_that_can_be_read_back():
    rows = settings.describe()
    assert [row.name for row in rows] == list(Config.model_fields)
    assert all(row.about for row in rows)
    words = [f"{row.name}={row.default}" for row in rows]
    assert config.from_words(words) == Config()
    assert {row.name: row.choices for row in rows}["fit"] == ("pad", "crop")


def test_what_follows_from_settings():
    cfg = config.from_words(["preset=quick", "strength=0.8-0.4", "views=4-16"])
    assert cfg.view_strength == 0.4
    assert cfg.asked_views == cfg.views
    assert str(cfg.replace(tta="never").asked_views) == "1"
    assert cfg.refits == cfg.refit_epochs > 0
    assert cfg.replace(folds=5).refits == 0  # they train on every photo anyway


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("name", "heavy"),
    [
        ("carcls", "tensorflow keras numpy pydantic"),
        ("carcls.config", "tensorflow keras numpy pandas"),
        ("carcls.record", "tensorflow keras numpy pandas"),
        ("carcls.spine", "tensorflow keras jax"),  # the machine chooses the backend first
        ("carcls.desk.tuning", "tensorflow keras jax"),
    ],
)
def test_an_import_brings_nothing_heavy(name, heavy):
    assert python(f"import sys, {name}; print(*set({heavy.split()}) & set(sys.modules))") == ""


def test_a_notebook_imports_the_settings_and_the_run_from_the_package():
    code = (
        "import carcls.spine; from carcls import Config, run; print(run.__module__, Config().batch)"
    )
    assert python(code).split() == ["carcls.spine", str(Config().batch)]
