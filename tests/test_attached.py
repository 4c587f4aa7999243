"""Weights in simulated /kaggle trees: where they are found, of what source, whether whole."""

import json
import shutil
from pathlib import Path

import pytest

from carcls import disk
from carcls.config import Config
from carcls.data import attached
from carcls.desk import offline
from carcls.errors import InputError
from carcls.nets import weights

LITE, XCEPTION = "efficientnet_lite_b0", "keras_xception"
FILE = "xception_weights_tf_dim_ordering_tf_kernels_notop.h5"
CFG = Config(backbone=LITE)
V2 = Config(backbone="efficientnetv2_s")


@pytest.fixture
def top(tmp_path, monkeypatch) -> Path:
    """/kaggle/input, and no weights but those of the test."""
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(tmp_path / "kaggle"))
    monkeypatch.setenv("CARCLS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "kaggle" / "input").mkdir(parents=True)
    return tmp_path / "kaggle" / "input"


def preset(folder: Path, kind: str = "EfficientNetLiteBackbone") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"class_name": kind}))
    (folder / "model.weights.h5").write_bytes(b"numbers")
    return folder / "model.weights.h5"


def dataset(folder: Path) -> Path:
    """A dataset as `make dataset` makes it, unpacked as Kaggle unpacks it."""
    file = preset(folder / f"{LITE}_imagenet")
    offline.write_manifest(folder, {LITE: file.relative_to(folder).as_posix()})
    return file


@pytest.mark.parametrize(
    ("cfg", "folder", "kind"),
    [
        (V2, "models/keras/efficientnetv2/keras/efficientnetv2_s_imagenet/2", "model"),
        (V2, "efficientnetv2/keras/efficientnetv2_s_imagenet/2", "model"),
        (CFG, "datasets/me/weights/efficientnet_lite_b0_imagenet", "dataset"),
        (CFG, "my-weights/efficientnet_lite_b0_imagenet", "dataset"),
        (CFG, "notebooks/me/made-weights/efficientnet_lite_b0_imagenet", "notebook output"),
        (CFG, "made-weights/efficientnet_lite_b0_imagenet", "notebook output"),
    ],
)
def test_each_source_in_both_layouts(top, cfg, folder, kind):
    file = preset(top / folder, f"EfficientNet{'V2' if cfg is V2 else 'Lite'}Backbone")
    if kind == "notebook output":
        (top / "made-weights").mkdir(exist_ok=True)
        (top / "made-weights" / "__results__.html").touch()
    assert weights.find_weights(cfg.backbone, cfg) == file
    assert attached.kind(file) == kind
    assert attached.verify(file) == ""


@pytest.mark.parametrize("folder", ["datasets/me/carcls-x", "carcls-x", "notebooks/me/made"])
def test_a_dataset_of_ours_is_verified(top, competition, folder):
    file = dataset(top / folder)
    shutil.copytree(competition, top / "competitions" / CFG.competition)
    assert weights.find_weights(LITE, CFG) == file
    said = weights.check_attached(CFG)
    assert said[0] == f"competition: {top / 'competitions' / CFG.competition}"
    assert said[1].endswith(f"{file}, manifest verified")
    assert weights.find_weights(LITE, CFG.replace(weights=str(top / folder))) == file


def test_unpacked_without_its_folder_or_one_deeper(top):
    root = top / "datasets" / "me" / "carcls-x"
    inside = dataset(root).parent
    for file in inside.iterdir():
        file.rename(root / file.name)
    inside.rmdir()
    assert weights.find_weights(LITE, CFG) == root / "model.weights.h5"
    assert attached.verify(root / "model.weights.h5") == "manifest verified"
    shutil.rmtree(root)
    file = dataset(root / "unpacked")
    assert weights.find_weights(LITE, CFG) == file


def test_a_file_of_keras(top):
    folder = top / "datasets" / "me" / "carcls-keras-xception"
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(b"numbers")
    offline.write_manifest(folder, {XCEPTION: FILE})
    assert weights.find_weights(XCEPTION, Config(backbone=XCEPTION)) == folder / FILE
    assert attached.verify(folder / FILE) == "manifest verified"


def test_what_does_not_match_its_manifest_is_refused(top):
    file = dataset(top / "datasets" / "me" / "carcls-x")
    file.write_bytes(b"numberz")
    with pytest.raises(
        InputError, match=r"h5: sha256 [0-9a-f]{64}, expected .* by .*manifest.json"
    ):
        weights.check_attached(CFG)
    file.write_bytes(b"num")
    with pytest.raises(InputError, match="model.weights.h5: has 3 bytes, expected 7 by"):
        attached.verify(file)
    file.write_bytes(b"numbers")
    assert attached.verify(file) == "manifest verified"
    (file.parent / "config.json").unlink()
    with pytest.raises(InputError, match="config.json: not there; expected"):
        attached.verify(file)
    file.unlink()
    with pytest.raises(InputError, match="manifest.json: lists .*/model.weights.h5"):
        weights.find_weights(LITE, CFG)
    manifest = file.parents[1] / attached.MANIFEST
    for content, message in (
        ('{"format": "carcls weights 1", ', "not a JSON file"),
        ('{"format": "carcls weights 9"}', "format 'carcls weights 9'"),
    ):
        manifest.write_text(content)
        with pytest.raises(InputError, match=message):
            weights.find_weights(LITE, CFG)
    for foreign in ('{"name": "an app"}', '{"file": 1}\n{"file": 2}\n', "{"):  # someone else's
        manifest.write_text(foreign)
        with pytest.raises(InputError, match="no efficientnet_lite_b0_imagenet in"):
            weights.find_weights(LITE, CFG)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": [LITE]},
        {"weights": {LITE: 3}},
        {"weights": {LITE: None}},
        {"weights": {LITE: "../../model.weights.h5"}},
        {"weights": {LITE: "/etc/passwd"}},
        {"weights": {LITE: ""}},
        {"files": []},
        {"files": {"a.h5": 3}},
        {"files": {"a.h5": {"sha256": "0"}}},
        {"files": {"a.h5": {"sha256": 0, "bytes": 3}}},
        {"files": {"a.h5": {"sha256": "0", "bytes": "3"}}},
        {"files": {"../a.h5": {"sha256": "0", "bytes": 3}}},
        {"deep": "DEEP"},
        {"huge": "HUGE"},
    ],
    ids=str,
)
def test_a_manifest_of_another_shape_is_named(top, change):
    file = dataset(top / "datasets" / "me" / "carcls-x")
    manifest = file.parents[1] / attached.MANIFEST
    text = json.dumps(json.loads(manifest.read_text()) | change)
    manifest.write_text(text.replace('"DEEP"', "[" * 100_000).replace('"HUGE"', "9" * 10_000))
    with pytest.raises(InputError, match="manifest.json: .*make the dataset again"):
        weights.check_attached(CFG)


def test_all_that_is_missing_at_once(top, competition):
    both = V2.replace(members="backbone=efficientnetv2_s+backbone=keras_xception")
    with pytest.raises(InputError) as error:
        weights.check_attached(both)
    said = str(error.value)
    assert said.startswith("3 problems:\n- backbone=efficientnetv2_s")
    assert 'make dataset SET="backbone=keras_xception"' in said
    assert said.endswith("There is:\n" + disk.tree(top, depth=4))
    shutil.copytree(competition, top / CFG.competition)
    with pytest.raises(InputError, match="no efficientnet_lite_b0_imagenet in") as error:
        weights.check_attached(CFG)
    assert str(error.value).count("There is:") == 1
    assert "from scratch" in weights.check_attached(CFG.replace(weights="none"))[1]


def test_wrong_sizes_are_among_all_that_is_wrong(top, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    sizes = ("150x160x1", "160x160x1", "160x150x1", "160x150x1")
    members = "+".join(
        f"backbone=vit_base_384/stages={size}/seed={seed}" for seed, size in enumerate(sizes)
    )
    with pytest.raises(InputError) as error:
        weights.check_attached(CFG.replace(members=members))
    said = str(error.value)
    assert said.startswith("4 problems:")  # two sizes, the weights, the competition
    assert all(said.count(f"- stages={size}: ") == 1 for size in (sizes[0], sizes[2]))
