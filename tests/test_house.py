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
    {"attached", "tables"},
    {"boxes"},
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
    {"bundle", "remote", "sample", "study", "weights"},
    {"bench", "detect", "offline"},
    {"push"},
    {"watch"},
    {"cli"},
]
DESK_LEVEL = {name: number for number, names in enumerate(DESK_LEVELS) for name in names}


def imported(text: str) -> set[str]:
    """Dotted names in the package that a module imports, anywhere in it, such as ``carcls.run`` and ``carcls.desk.cli``."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not used here"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name and name.startswith("carcls.")}


def below(level: dict[str, int], root: str, path: Path) -> set[str]:
    """Modules of ``root`` that a module imports although they are not on a lower level."""
    names = {
        name.removeprefix(f"{root}.").split(".")[0]
        for name in imported(path.read_text())
        if name.startswith(f"{root}.")
    }
    return {name for name in names if level.get(name, 99 if name == "desk" else -1) >= level[path.stem]}


@pytest.mark.parametrize(
    "text",
    [
        "import carcls.run",
        "from carcls import run",
        "from carcls.run import check",
        "def f():\n    import carcls.run as r",
    ],
)
def test_every_way_to_import_is_seen(text):
    assert "carcls.run" in imported(text)


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("[a-z]*.py")), ids=lambda p: p.stem)
def test_a_module_imports_only_from_lower_levels(path):
    assert path.stem in LEVEL, f"{path.name} has no level"
    assert below(LEVEL, "carcls", path) == set()


@pytest.mark.parametrize("path", sorted((PACKAGE / "desk").glob("[a-z]*.py")), ids=lambda p: p.stem)
def test_a_module_of_the_desk_imports_only_from_lower_levels(path):
    assert path.stem in DESK_LEVEL, f"desk/{path.name} has no level"
    assert below(DESK_LEVEL, "carcls.desk", path) == set()


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
