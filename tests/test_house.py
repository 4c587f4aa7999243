"""The house: levels of modules, nothing at import, no forbidden dependencies, kernel.py fresh."""

import ast
import json
import re
from pathlib import Path

import pytest

from carcls.desk import bundle

PACKAGE = Path(__file__).parents[1] / "carcls"
# A module imports only from levels below its own.
LEVELS = [
    {"config"},
    {"inputs"},
    {"attached"},
    {"runtime", "photos", "augment", "schedule", "backbones", "fast", "votes", "steps"},
    {"pipeline", "model", "blend", "pseudo", "figures"},
    {"callbacks", "timing"},
    {"train", "tta", "submission"},
    {"members"},
    {"decide"},
    {"report"},
    {"run"},
]
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}


# The same for what stays on the desk, among itself.
DESK_LEVELS = [
    {"bundle", "remote", "sample", "weights"},
    {"bench", "offline"},
    {"push"},
    {"watch"},
    {"cli"},
]
DESK_LEVEL = {name: number for number, names in enumerate(DESK_LEVELS) for name in names}


def imported(path: Path) -> set[str]:
    """Names of the package's modules that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "carcls":
            rest = node.module.split(".")[1:]
            found |= {rest[0]} if rest else {alias.name for alias in node.names}
    return found & (set(LEVEL) | {"desk"})


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("[a-z]*.py")), ids=lambda p: p.stem)
def test_a_module_imports_only_from_lower_levels(path):
    assert path.stem in LEVEL, f"{path.name} has no level"
    assert {name for name in imported(path) if LEVEL.get(name, 99) >= LEVEL[path.stem]} == set()


@pytest.mark.parametrize("path", sorted((PACKAGE / "desk").glob("[a-z]*.py")), ids=lambda p: p.stem)
def test_a_module_of_the_desk_imports_only_from_lower_levels(path):
    assert path.stem in DESK_LEVEL, f"desk/{path.name} has no level"
    names = {
        alias.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "carcls.desk"
        for alias in node.names
    }
    assert {name for name in names if DESK_LEVEL[name] >= DESK_LEVEL[path.stem]} == set()


def test_no_dependency_that_the_reviews_advise_against():  # S15, S26
    text = "\n".join(p.read_text() for p in PACKAGE.rglob("*.py"))
    assert not re.search(r"^\s*(import|from) (efficientnet|ImageDataAugmentor|torch|timm)\b", text, re.MULTILINE)


def test_kernel_is_fresh_reproducible_and_small():
    kernel = Path(__file__).parents[1] / "kernel.py"
    assert kernel.read_text() == bundle.text() == bundle.text()
    assert kernel.stat().st_size < bundle.LIMIT
    ast.parse(kernel.read_text())


def test_the_bundle_has_every_module_and_nothing_of_the_desk():
    names = re.findall(r'^MODULES\["(.*?)"\]', bundle.text(), re.MULTILINE)
    assert set(names) == {f"{name}.py" for name in LEVEL} | {"__init__.py"}


def test_kernel_metadata():
    data = json.loads((PACKAGE.parent / "kernel-metadata.json").read_text())
    assert data["code_file"] == "kernel.py"
    assert data["enable_internet"] is False
    assert data["machine_shape"] == "NvidiaTeslaT4"
    assert data["id"].split("/")[1] == data["title"].lower().replace(" ", "-")
    assert len(data["title"]) >= 5
    assert data["competition_sources"] == ["sf-dl-car-classification"]
    assert all(re.fullmatch(r"[^/]+/[^/]+/keras/[^/]+/\d+", source) for source in data["model_sources"])
