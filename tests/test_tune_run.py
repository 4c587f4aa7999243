"""A search with real trainings: on the desk, in a run, and in a kernel without network."""

import json
import os
import shlex
import shutil

import pandas as pd
import pytest
from conftest import TINY, easy_competition
from test_kernel import SLUG, start

from carcls import config, record, run
from carcls.desk import cli, tuning
from carcls.errors import ConfigError, InputError
from carcls.search import plan
from carcls.train.events import MARK

SLOW = pytest.mark.skipif(not os.environ.get("CARCLS_SLOW"), reason="CARCLS_SLOW=1: two minutes")
NO_OPTUNA = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name == "optuna":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
import importlib.util as util
found = util.find_spec
util.find_spec = lambda name, *args: None if name == "optuna" else found(name, *args)
"""


@pytest.fixture
def data(tmp_path):
    return easy_competition(tmp_path / "competition", 90, 8)


@pytest.fixture
def cfg(data, tmp_path, tiny, monkeypatch):
    """Four candidates of an epoch each, then two of them and the base, once each."""
    for name, value in {"MOST": 4, "EPOCHS": 1, "SEEDS": 1, "FINALISTS": 1}.items():
        monkeypatch.setattr(plan, name, value)
    settings = {**TINY, "stages": "32x48x1,48x64x1", "views": 2, "tune_minutes": 60}
    more = {"data": str(data), "out": str(tmp_path / "out"), "tune_space": "lr=1e-4:3e-2"}
    return config.parse({**settings, **more})


@pytest.mark.usefixtures("without_pictures")
def test_a_run_searches_first_and_trains_with_what_it_finds(cfg, tmp_path, capsys):
    run(cfg)
    out = tmp_path / "out"
    said = capsys.readouterr().out
    table = pd.read_csv(out / "tune" / "tune.csv")
    assert len(table) == 4 + 2
    assert table["candidate"].tolist()[:4] == [0, 1, 2, 3]
    # Validation photos choose; as many train photos again are kept apart, and learned later.
    assert table["photos"].unique().tolist() == [24]
    assert table["apart_photos"].dropna().max() == 17
    found = json.loads((out / "tune" / "tuned.json").read_text())
    used = config.load(out / "config.json")
    assert str(used.lr) == str(float(found["settings"].get("lr", 1e-3)))
    assert (out / "tune" / "tune.html").read_text().count("<img") >= 3
    pasted = said.split('SET="')[1].split('"')[0]
    assert config.from_words(shlex.split(pasted)).lr == used.lr
    assert len(pd.read_csv(out / "submission.csv")) == 8
    result = json.loads((out / "result.json").read_text())
    assert (result["train_photos"], result["tuned"]["verdict"][:4]) in ((66, "take"), (66, "keep"))
    taken = config.parse({"tuned": str(out / "tune" / "tuned.json")})
    assert (taken.lr, taken.stages) == (used.lr, used.stages)

    events = [json.loads(line) for line in (out / "progress.jsonl").read_text().splitlines()]
    assert {e["network"] for e in events if e["kind"] == "epoch"} == {"member 1 tiny"}
    (tuned,) = [e for e in events if e["kind"] == "tuned"]
    assert tuned["verdict"] == result["tuned"]["verdict"]
    assert tuned["settings"] == found["settings"]
    plan_of_it = [{"name": "member 1 tiny", "stages": [[32, 48, 1], [48, 64, 1]]}]
    assert events[0]["networks"] == tuned["networks"] == plan_of_it

    run(cfg)  # all of it is there
    again = capsys.readouterr().out
    assert "epoch 1/" not in again
    assert "taken from" in again

    folder = tuning.main(cfg)  # on the desk the same search has the same end
    said = capsys.readouterr().out
    assert folder == out / "tune" and "epoch 1/" not in said
    lines = [line for line in said.splitlines() if not line.startswith(MARK)]
    assert 'SET="preset=default ' in lines[-1]
    assert not list(folder.rglob("submission.csv"))
    (alone,) = folder.rglob("progress.jsonl")
    last = [json.loads(line) for line in alone.read_text().splitlines()][-2:]
    assert [event["kind"] for event in last] == ["tuned", "end"]
    assert last[0] == {**tuned, "networks": [], "id": last[0]["id"], "at": last[0]["at"]}
    with pytest.raises(ConfigError, match="differs in minutes 60.0 → 30.0"):
        tuning.main(cfg.replace(tune_minutes=30))


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"members": "seed=1+seed=2"}, ConfigError, "members: a search is of a single network"),
        ({"unfreeze": "staged"}, ConfigError, "unfreeze=staged"),
        ({"tune_space": "folds=1,2"}, ConfigError, "folds cannot be searched"),
        ({"tune_space": "backbone=tiny,nothing"}, ConfigError, "no such network"),
        ({"tune_space": "weights=none,imagenet"}, InputError, "tiny"),
        ({"budget_minutes": 10}, ConfigError, "the session has 10 minutes left"),
        ({"val_fraction": 0.05}, InputError, "6 photos of validation; .* 10 are needed"),
    ],
    ids=str,
)
def test_what_cannot_be_searched_is_refused_before_anything_is_trained(
    cfg, tmp_path, changes, kind, said
):
    with pytest.raises(kind, match=said):
        run(cfg.replace(**changes))
    assert not list(tmp_path.rglob("history.csv"))


def test_the_command_has_its_minutes_and_its_space(monkeypatch, data):
    asked = []
    monkeypatch.setattr(tuning, "main", asked.append)
    cli.main(["tune", "--data", str(data), "--space", "lr=1e-3,2e-3", "preset=quick"])
    cli.main(["tune", "--data", str(data), "--minutes", "7"])
    cli.main(["tune"])
    minutes = [(cfg.tune_minutes, cfg.tune_space) for cfg in asked]
    assert minutes == [(20, "lr=1e-3,2e-3"), (7, ""), (3, "")]


def test_an_earlier_kernel_that_was_stopped_in_its_search_is_gone_on_from(tmp_path):
    earlier, out = tmp_path / "earlier", tmp_path / "out"
    files = ["search.json", "003/candidate.json", "003/rung1-32x48/trial.json"]
    files += [f"003/rung2-48x64/{name}" for name in ("best.weights.h5", "state/note.json")]
    for name in [f"tune/{file}" for file in files] + ["config.json", "tune/optuna.log"]:
        path = earlier / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    assert record.is_run(earlier)
    out.mkdir()
    record.take_over(earlier, out)
    copied = {path.relative_to(out / "tune").as_posix() for path in (out / "tune").rglob("*.*")}
    assert set(files) <= copied


@SLOW
@pytest.mark.parametrize("site", ["", NO_OPTUNA], ids=["Optuna", "Sobol"])
def test_a_kernel_tunes_and_then_submits(tmp_path, site):
    root = tmp_path / "kaggle" / "input" / SLUG
    shutil.copytree(easy_competition(tmp_path / "competition", 90, 8), root)
    settings = (
        '"backbone": "mobilenet_v3_small", "weights": "none", "stages": "48x64x2", "batch": 16, '
        '"views": 2, "lr": 1e-3, "tune_minutes": 3'
    )
    done = start(tmp_path, settings, site)
    assert done.returncode == 0, done.stderr[-3000:]
    assert ("Sobol points" in done.stdout) is bool(site)
    working = tmp_path / "kaggle" / "working"
    assert (working / "tune" / "tune.html").is_file()
    assert len(pd.read_csv(working / "submission.csv")) == 8
