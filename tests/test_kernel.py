"""kernel.py: what a reader finds in it, and how Kaggle runs it, simulated without network."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from carcls import config, record
from carcls.desk import bundle
from carcls.errors import ConfigError

KERNEL = Path(__file__).parents[1] / "kernel.py"
SLUG = "sf-dl-car-classification"

# Imported by Python at start: any connection that leaves this process is an error.
NO_NETWORK = """
import socket
def refuse(*args, **kwargs):
    raise OSError("there is no network in this test")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""
# Imports that take seconds are errors: what is missing must be named before them.
NOTHING_HEAVY = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in {"tensorflow", "keras", "keras_cv", "albumentations", "pandas", "cv2", "jax"}:
            raise RuntimeError(f"{name} is imported")
sys.meta_path.insert(0, Refuse())
"""


def start(tmp_path: Path, settings: str, site: str = "") -> subprocess.CompletedProcess:
    """Run kernel.py with other settings, as Kaggle does: no arguments, cwd /kaggle/working."""
    text = KERNEL.read_text()
    assert '"preset": "kaggle"' in text
    script = tmp_path / "kaggle" / "src" / "script.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(text.replace('"preset": "kaggle"', settings, 1))
    (tmp_path / "site").mkdir(exist_ok=True)
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_NETWORK + site)
    working = tmp_path / "kaggle" / "working"
    working.mkdir(exist_ok=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("KERAS", "PYTHON"))}
    env |= {
        "CARCLS_KAGGLE_ROOT": str(tmp_path / "kaggle"),
        "PYTHONPATH": str(tmp_path / "site"),
        "HOME": str(tmp_path),
        "CARCLS_HOME": str(tmp_path / "home"),
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",
    }
    command = [sys.executable, str(script)]
    return subprocess.run(
        command, cwd=working, env=env, capture_output=True, text=True, check=False
    )


def test_a_reader_finds_settings_main_and_every_module_by_its_line():
    lines = bundle.text().splitlines()
    starts = [n for n, line in enumerate(lines) if line.startswith(("SETTINGS = ", "def main("))]
    assert len(starts) == 2 and max(starts) < 100
    assert lines[-2:] == ['if __name__ == "__main__":', "    main()"]
    found = [re.fullmatch(r"# +(\d+)  (\S+)  +(.+)", line) for line in lines[:150]]
    rows = [(int(row[1]), row[2]) for row in found if row]
    package = Path(record.__file__).parent
    names = [path.relative_to(package).as_posix() for path in record.bundled(package)]
    assert sorted(name for _, name in rows) == names and rows[0][1] == "spine.py"
    for line, name in rows:
        assert lines[line - 1].startswith(f"# ===== carcls/{name} ")


def test_what_is_offered_in_settings_is_a_setting():
    """A commented line of SETTINGS that is switched on must not be an error."""
    head = bundle.text().split("SETTINGS = ")[1].split("\n}")[0]
    offered = dict(re.findall(r'^    # "(\w+)": (.+?),  #', head, re.MULTILINE))
    assert {"views", "pseudo", "members", "boxes", "resume"} <= set(offered)
    for name, value in offered.items():
        changes = {name: eval(value)}
        folds = {"views": "4"} if name == "pseudo" else {}
        assert getattr(config.parse({"preset": "kaggle", **changes, **folds}), name) is not None
    with pytest.raises(ConfigError, match="unknown setting"):
        bundle.text({"pre-set": 1})


@pytest.mark.parametrize(
    ("layout", "datasets", "time"),
    # Once with training, once without, which takes less time.
    [("input/competitions", "input/datasets/me", ""), ("input", "input", ', "budget_minutes": 0')],
)
def test_a_submission_without_network_in_both_layouts(
    tmp_path, competition, layout, datasets, time
):
    root = tmp_path / "kaggle" / layout / SLUG
    root.mkdir(parents=True)
    for name, zipped in (("train", "train"), ("test_upload", "test")):  # as the competition has it
        shutil.make_archive(str(root / zipped), "zip", competition, name)
    for name in ("train.csv", "sample-submission.csv"):
        shutil.copy(competition / name, root)
    boxes = tmp_path / "kaggle" / datasets / "carcls-boxes" / "b.csv"
    boxes.parent.mkdir(parents=True)
    boxes.write_text(
        "id,left,top,right,bottom\n" + "".join(f"{100 + n}.png,8,4,60,44\n" for n in range(36))
    )
    settings = (
        '"backbone": "mobilenet_v3_small", "weights": "none", "stages": "32x32x1", "batch": 16, '
        '"views": 2, "lr": 1e-3, "boxes": "b.csv"'
    )
    done = start(tmp_path, settings + time)
    assert done.returncode == 0, done.stdout + done.stderr
    working = tmp_path / "kaggle" / "working"
    ids = pd.read_csv(working / "submission.csv")["Id"].tolist()
    assert ids == pd.read_csv(competition / "sample-submission.csv")["Id"].tolist()
    assert "validation" in done.stdout
    assert f"boxes: dataset {boxes}" in done.stdout
    assert "boxes: 36 of 36 train and 0 of 10 test photos" in done.stdout
    result = json.loads((working / "result.json").read_text())
    assert result["source"] == record.source_hash()  # S75: the same on a desk
    assert (working / "report.html").is_file() == (not time)


def test_a_traceback_shows_the_line_of_the_module(tmp_path, competition):
    shutil.copytree(competition, tmp_path / "kaggle" / "input" / SLUG)
    fault = "import pandas\npandas.read_csv = lambda *a, **k: 1 / 0\n"
    done = start(tmp_path, '"weights": "none"', fault)
    assert done.returncode == 1
    shown = r'File ".*carcls/data/tables.py", line \d+, in read_csv\n.*pd.read_csv'
    assert re.search(shown, done.stderr)


def test_with_nothing_attached_it_says_at_once_all_that_is_missing(tmp_path):
    (tmp_path / "kaggle" / "input" / "datasets").mkdir(parents=True)
    done = start(tmp_path, '"preset": "kaggle"', NOTHING_HEAVY)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr, done.stderr
    for how in (
        f"Add Input → Competitions → {SLUG}",
        f'"competition_sources": ["{SLUG}"]',
        "Add Input → Models → keras/efficientnetv2",
        '"model_sources": ["keras/efficientnetv2/keras/efficientnetv2_s_imagenet/2"]',
    ):
        assert how in done.stderr
    assert done.stderr.rstrip().endswith("datasets/")  # the tree of what is there


def test_without_weights_it_says_where_it_looked(tmp_path, competition):
    shutil.copytree(competition, tmp_path / "kaggle" / "input" / SLUG)
    done = start(tmp_path, '"preset": "kaggle"', NOTHING_HEAVY)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "efficientnetv2_s_imagenet" in done.stderr
    assert f"{SLUG}/" in done.stderr  # the tree
    assert not (tmp_path / "kaggle" / "working" / "submission.csv").exists()


def test_several_earlier_runs_are_named_at_once(tmp_path, competition):
    top = tmp_path / "kaggle" / "input"
    shutil.copytree(competition, top / SLUG)
    for name in ("one", "two"):
        (top / name / "member1" / "state").mkdir(parents=True)
        (top / name / "member1" / "state" / "note.json").touch()
        (top / name / "config.json").touch()
    done = start(tmp_path, '"weights": "none"', NOTHING_HEAVY)
    assert done.returncode == 2
    assert "set earlier to one of" in done.stderr
