"""A finished run judges other photos, and leaves networks that Keras alone loads."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import carcls
from carcls import disk, predict, run
from carcls.data import augment
from carcls.desk import cli, exports
from carcls.desk.predictions import COLUMNS
from carcls.errors import ConfigError, InputError
from carcls.votes import cast, votes

pytestmark = pytest.mark.usefixtures("tiny")


def submitted(out: Path, ids: list[str]) -> list[str]:
    table = pd.read_csv(out / "submission.csv", dtype=str)
    return table.set_index("Id")["Category"].loc[ids].tolist()


def test_of_its_own_test_photos_a_run_says_what_it_has_submitted(finished, tmp_path):
    assert predict is carcls.predict  # and no module, which is imported by now
    moved = tmp_path / "moved" / "run"
    shutil.copytree(finished.out, moved)
    before = sorted(path.relative_to(moved) for path in moved.rglob("*"))
    other = tmp_path / "other" / "names"  # the same views are drawn for the same bytes
    other.mkdir(parents=True)
    test = Path(finished.cfg.data) / "test_upload"
    for path in test.iterdir():
        shutil.copy(path, other / f"photo{path.name}")
    said = predict(moved, other)
    was = votes.load(finished.out / "member1" / "votes_test.npz")
    rows = said.assign(id=[Path(p).name.removeprefix("photo") for p in said["photo"]])
    rows = rows.set_index("id").loc[was.ids]
    gate = json.loads((finished.out / "result.json").read_text())["gates"][0]["open"]
    assert said.columns.tolist() == [*COLUMNS, "0", "1", "2"]
    probs = rows[["0", "1", "2"]].to_numpy()
    assert np.abs(probs - (was.together() if gate else was.alone())).max() < 1e-5
    assert rows["class"].tolist() == submitted(finished.out, was.ids)
    assert np.allclose(rows["probability"], probs.max(1))
    assert np.allclose(rows["agreement"], was.agreement())
    assert sorted(path.relative_to(moved) for path in moved.rglob("*")) == before


@pytest.fixture
def dice(monkeypatch):
    """Networks are not asked; what they say of each photo and view is drawn from its bytes."""
    asked = []

    def drawn(net, cache, rows, views, cfg, rt):
        asked.append((net, views))
        digests = [int(cache.digests[row][:8], 16) for row in rows.rows]
        probs = [np.random.default_rng(d).dirichlet(np.ones(3), views.most) for d in digests]
        counts = np.full(len(rows), views.most)
        ids = [cache.ids[row] for row in rows.rows]
        arrays = np.stack(probs, 1).astype(np.float32), rows.labels, counts
        return votes.Votes(ids, *arrays, cfg.tta_combine)

    monkeypatch.setattr(cast, "cast_votes", drawn)
    return asked


def test_every_photo_has_a_row_and_an_unreadable_one_its_reason(finished, tmp_path, dice):
    test = Path(finished.cfg.data) / "test_upload"
    folder, table = tmp_path / "photos", tmp_path / "new" / "said.csv"
    for name in ("b/2.png", "a.png", "b/.hidden.png", "b/=1+1.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(test / "901.png", folder / name)
    (folder / "c.jpg").write_text("no photo")
    (folder / "notes.txt").write_text("not one by its name")
    given = [str(test / "900.png"), str(folder), str(folder / "a.png")]
    words = ["predict", str(finished.out), "--photos", *given, "--out", str(table)]
    assert cli.main(words) == 0
    said = pd.read_csv(table, dtype={"class": str}, keep_default_na=False)
    names = ["900.png", "a.png", "c.jpg", "2.png", "=1+1.png"]
    assert [Path(path).name for path in said["photo"]] == names
    assert said["class"].map(bool).tolist() == [True, True, False, True, True]
    assert said["note"].map(bool).tolist() == [False, False, True, False, False]
    assert said.loc[2, ["probability", "agreement", "0"]].tolist() == [""] * 3
    assert said["0"].nunique() == 3  # of three copies, of another photo, of none
    assert len(dice) == 1

    nothing = predict(finished.out, folder / "c.jpg")  # no network is needed
    assert nothing["class"].tolist() == [""]
    assert len(dice) == 1


def test_what_is_not_there_or_not_whole_is_refused(finished, tmp_path, capsys):
    out, photo = tmp_path / "run", Path(finished.cfg.data) / "test_upload" / "900.png"
    shutil.copytree(finished.out, out)

    def refuses(*names: str, photos: Path = photo, error: type = InputError) -> None:
        with pytest.raises(error) as raised:
            predict(out, photos)
        assert all(name in str(raised.value) for name in names)

    refuses("gone.png", photos=tmp_path / "gone.png")
    (tmp_path / "empty").mkdir()
    refuses("empty", photos=tmp_path / "empty")
    settings = json.loads((out / "config.json").read_text())
    for changes, named, error in (
        ({"boxes": "boxes.csv"}, ("boxes=",), ConfigError),
        ({"fit": "crop"}, ("config.json", "fit"), InputError),
    ):
        (out / "config.json").write_text(json.dumps(settings | changes))
        refuses(*named, error=error)
    (out / "config.json").write_text(json.dumps(settings))
    disk.write_json(out / "classes.json", {"classes": ["a", "b"]})
    refuses("classes.json", "2", "3")
    (out / "classes.json").write_text('{"classes": ["a", "b", "c"]}')
    refuses("classes.json")
    shutil.copy(finished.out / "classes.json", out)
    weights = out / "member1" / "best.weights.h5"
    weights.write_bytes(weights.read_bytes()[:-1])
    refuses("best.weights.h5")
    weights.unlink()
    refuses("best.weights.h5")
    shutil.copy(finished.out / "member1" / "best.weights.h5", weights)
    for name in ("member1/steps.json", "member1/member.json", "classes.json", "config.json"):
        (out / name).unlink()
        refuses(name.partition("/")[0])
    assert cli.main(["predict", str(out), "--photos", str(photo)]) == 2
    assert cli.main(["export", str(tmp_path / "nowhere")]) == 2
    assert "config.json" in capsys.readouterr().err


ALONE = """
import json, sys, zipfile
class Refusing:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("carcls", "keras_cv", "keras_hub"):
            raise ImportError(name)
sys.meta_path.insert(0, Refusing())
import keras, numpy as np
file, photos, out = sys.argv[1:]
about = json.loads(zipfile.ZipFile(file).read("classes.json"))
model, photos = keras.saving.load_model(file), np.load(photos)
assert photos.shape[1:3] == (about["height"], about["width"]) and about["classes"] == [0, 1, 2]
np.save(out, [model.predict(photos.astype(kind), verbose=0) for kind in ("uint8", "float32")])
"""


def test_an_exported_network_says_the_same_in_keras_alone(finished, tmp_path, capsys):
    assert cli.main(["export", str(finished.out), "--out", str(tmp_path / "to")]) == 0
    file = tmp_path / "to" / "member1.keras"
    assert str(file) in capsys.readouterr().out
    assert zipfile.ZipFile(file).testzip() is None
    was = votes.load(finished.out / "member1" / "votes_test.npz")
    test = Path(finished.cfg.data) / "test_upload"
    seen = [
        augment.view(cv2.imread(str(test / name), cv2.IMREAD_COLOR_RGB), (48, 64), "pad")
        for name in was.ids
    ]
    np.save(tmp_path / "photos.npy", np.stack(seen))
    words = [str(file), str(tmp_path / "photos.npy"), str(tmp_path / "said.npy")]
    subprocess.run([sys.executable, "-I", "-c", ALONE, *words], check=True)
    for said in np.load(tmp_path / "said.npy"):
        assert np.abs(said - was.alone()).max() < 1e-5


def test_folds_members_and_a_refit_predict_as_they_did(brief, tmp_path, capsys, monkeypatch):
    written = []
    monkeypatch.setattr(exports, "_write", lambda path, *_: written.append(path.name))
    changes = {"members": "seed=1+seed=2/pooling=max", "views": "2-4", "val_fraction": 0.4}
    photos = [Path(brief.data) / "test_upload" / f"{900 + n}.png" for n in range(10)]
    for more in ({"folds": 2, "blend": "0.75/0.25"}, {"refit_epochs": 1, "blend": "1/0"}):
        out = tmp_path / "-".join(more)
        run(brief.replace(**changes, **more, out=str(out)))
        said = predict(out, photos)
        assert said["class"].tolist() == submitted(out, [photo.name for photo in photos])
        exports.export(out)
    folds = [f"member{n}_fold{k}.keras" for n in (1, 2) for k in (1, 2)]
    assert written == [*folds, "member1.keras", "member2.keras"]
    (out / "member2" / "member.json").unlink()
    capsys.readouterr()
    predict(out, photos)
    assert "1 of 2 members" in capsys.readouterr().out
