"""kernel.py: what a reader finds in it, and how Kaggle runs it, simulated without network."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import hubs
import pandas as pd
import pytest

from carcls import config, machine, record
from carcls.config import parse
from carcls.data import attached
from carcls.desk import bundle
from carcls.errors import ConfigError, InputError
from carcls.nets import hub, weights

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
heavy = "tensorflow keras keras_cv albumentations pandas cv2 jax".split()
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in heavy:
            raise RuntimeError(f"{name} is imported")
sys.meta_path.insert(0, Refuse())
"""


# In the process that runs the kernel: a line after a module of ours is imported.
AFTER = """
import importlib.machinery, sys
class After(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = super().find_spec(name, path, target)
        if name == "{name}":
            run = spec.loader.exec_module
            def exec_module(module):
                run(module)
                {line}
            spec.loader.exec_module = exec_module
        return spec
sys.meta_path.insert(0, After)
"""
# Two steps of a real network take less time than tracing one.
EAGERLY = AFTER.format(
    name="carcls.nets.model",
    line="module.keras.Model.run_eagerly = property(lambda net: True, lambda net, value: None)",
)


def start(tmp_path: Path, settings: str, site: str = "") -> subprocess.CompletedProcess:
    """Run kernel.py with other settings, as Kaggle does: no arguments, cwd /kaggle/working."""
    text = bundle.text()  # what kernel.py is, as another test holds
    assert '"preset": "kaggle"' in text
    script = tmp_path / "kaggle" / "src" / "script.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(text.replace('"preset": "kaggle"', settings, 1))
    (tmp_path / "site").mkdir(exist_ok=True)
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_NETWORK + site)
    working = tmp_path / "kaggle" / "working"
    working.mkdir(exist_ok=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("KERAS", "PYTHON"))}
    # KerasHub may be somewhere else than where packages are installed.
    found = importlib.util.find_spec("keras_hub")
    hub_at = [str(Path(found.origin).parents[1])] if found and found.origin else []
    env |= {
        "CARCLS_KAGGLE_ROOT": str(tmp_path / "kaggle"),
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *hub_at]),
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
    found = [re.fullmatch(r"# +(\d+)  (\S+)  +(.+)", line) for line in lines[:200]]
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
    done = start(tmp_path, settings + time, EAGERLY)
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


@hubs.needs_hub
def test_a_model_of_kerashub_attached_in_either_layout_trains_without_network(
    tmp_path, competition, monkeypatch
):
    kind, _, handle = hub.ROWS["hgnetv2_b4"]
    config = hubs.SMALL["hgnetv2_b5"]
    monkeypatch.setitem(hub.ROWS, "hgnetv2_b4", (kind, config, handle))
    top = tmp_path / "kaggle" / "input"
    shutil.copytree(competition, top / "competitions" / SLUG)
    model = "hgnetv2/keras/hgnetv2_b4_ssld_stage2_ft_in1k/1"
    folder = top / "models" / "keras" / model
    folder.mkdir(parents=True)
    official = hubs.save_preset(folder, "hgnetv2_b4")
    settings = '"backbone": "hgnetv2_b4", "stages": "32x48x1", "batch": 16, "views": 2'
    # In place of the table's HGNetV2-B4 a small one, so that the whole takes no minutes.
    line = f'module.ROWS["hgnetv2_b4"] = ({kind!r}, {config!r}, {handle!r})'
    site = AFTER.format(name="carcls.nets.hub", line=line)
    done = start(tmp_path, settings, site)
    assert done.returncode == 0, done.stdout + done.stderr
    file = folder / "model.weights.h5"
    assert f"weights of hgnetv2_b4: model {file}" in done.stdout
    assert f"{official.count_params():,} parameters from model {file}" in done.stdout
    assert re.search(r"batch norm fused in (\d\d) of \1 layers", done.stdout)
    assert (tmp_path / "kaggle" / "working" / "submission.csv").is_file()

    older = top / model
    older.parent.mkdir(parents=True)
    folder.rename(older)
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(tmp_path / "kaggle"))
    monkeypatch.setenv("CARCLS_HOME", str(tmp_path / "home"))
    cfg = parse({"backbone": "hgnetv2_b4"})
    file = older / "model.weights.h5"
    assert weights.find_weights("hgnetv2_b4", cfg) == file and attached.kind(file) == "model"
    (older / hub.CONVERTER).unlink()
    with pytest.raises(InputError, match=f"{file}: no {hub.CONVERTER} beside it"):
        weights.check_attached(cfg)


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
        "Add Input → Models → keras/hgnetv2",
        '"model_sources": ["keras/hgnetv2/keras/hgnetv2_b5_ssld_stage2_ft_in1k/1"]',
    ):
        assert how in done.stderr
    assert done.stderr.rstrip().endswith("datasets/")  # the tree of what is there


def test_without_its_accelerator_it_stops_before_anything_is_imported(tmp_path):
    (tmp_path / "kaggle" / "input").mkdir(parents=True)
    other = "tpu" if machine.has_gpu() else "t4"
    done = start(tmp_path, f'"preset": "kaggle", "accelerator": "{other}"', NOTHING_HEAVY)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert f"accelerator={other}: " in done.stderr and "quota" in done.stderr
    assert "Add Input" not in done.stderr  # the first second names the machine
    done = start(tmp_path, '"preset": "kaggle", "accelerator": "any"', NOTHING_HEAVY)
    assert "accelerator=" not in done.stderr and "Add Input" in done.stderr


def test_without_weights_it_says_where_it_looked(tmp_path, competition):
    shutil.copytree(competition, tmp_path / "kaggle" / "input" / SLUG)
    done = start(tmp_path, '"preset": "kaggle"', NOTHING_HEAVY)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "hgnetv2_b5_ssld_stage2_ft_in1k" in done.stderr
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


def pasted(parse: str) -> str:
    """kernel.py with a small package, whose settings are read by this line."""
    package = Path(record.__file__).parent
    modules = {
        "__init__.py": "",
        "errors.py": (package / "errors.py").read_text(),
        "config.py": f"from carcls.errors import *\ndef parse(settings):\n    {parse}\n",
        "machine.py": "",
        "record.py": "",
        "nets/__init__.py": "",
        "nets/weights.py": "",
    }
    return "SETTINGS = {}\n" + bundle._MAIN.replace("MODULES = {}", f"MODULES = {modules!r}")


def in_one_process(tmp_path, *texts: str, **env) -> subprocess.CompletedProcess:
    """Run these texts one after the other, as cells of a notebook, beside an installed carcls."""
    cells = """
import sys
import carcls.config  # the installed one
for cell in CELLS:
    try:
        exec(cell + "main()", {"__name__": "__main__"})
    except SystemExit as ended:
        print("ended", ended.code, flush=True)
"""
    script = tmp_path / "notebook.py"
    script.write_text(cells.replace("CELLS", repr(texts)))
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **env}
    command = [sys.executable, str(script)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_a_changed_text_pasted_into_the_same_notebook_is_what_runs(tmp_path):
    fails = 'raise ConfigError("version {}")'
    done = in_one_process(tmp_path, *(pasted(fails.format(n)) for n in (1, 2)))
    assert done.stdout.split("\n")[:2] == ["ended 2", "ended 2"], done.stderr
    assert done.stderr.splitlines() == ["carcls: version 1", "carcls: version 2"]


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ('raise OSError(28, "No space left on device", "out/x")', 2, "carcls: out/x: No space"),
        ("raise KeyboardInterrupt", 130, "goes on from the last whole epoch"),
        ('raise Stopped("SIGTERM")', 143, "carcls: stopped by SIGTERM"),
        ('raise TrainingDiverged("NaN", "a lower lr")', 3, "carcls: NaN; a lower lr"),
        ('print("\\udcff ü ☃"); raise InputError("\\udcff.jpg ☃")', 2, ".jpg"),
        ("raise MemoryError", 2, "too little memory"),
        ("raise BrokenPipeError", 141, ""),
    ],
)
def test_a_kernel_ends_as_the_command_line_does(tmp_path, fault, code, words):
    done = in_one_process(tmp_path, pasted(fault), PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.stdout.splitlines()[-1] == f"ended {code}"
    assert words in done.stderr and len(done.stderr.splitlines()) == (words != "")
