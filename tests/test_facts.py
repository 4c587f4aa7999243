"""What a run must say, keep back and refuse, told by what it leaves: pages, pictures, posts."""

import importlib
import json
import re
import shutil
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import keras
import keras_cv
import numpy as np
import pandas as pd
import pytest
import small
from conftest import write_photo
from matplotlib.figure import Figure

import carcls

# The insides that these tests name, in one place.
from carcls import Config, run
from carcls.desk.cli import main
from carcls.errors import Stopped
from carcls.nets import registry
from carcls.train.clock import Ahead, Clock, Pace, start

HASH = "carcls.record", "source_hash"

# --- One run that most tests look at --------------------------------------------------------------

# What the votes say of the photos of each kind, whatever the networks have learned: probabilities
# of three classes. A photo shows its kind by which of its three upper bands are bright; the lowest
# is bright on the left, so that a mirror image can be told.
SAID = {
    1: (0.90, 0.05, 0.05),
    2: (0.05, 0.90, 0.05),
    3: (0.05, 0.05, 0.90),
    4: (0.004, 0.990, 0.006),  # certain, and what is given nearly impossible
    5: (0.005, 0.800, 0.195),  # all views agree, but none is certain
    6: (0.040, 0.955, 0.005),  # certain, but what is given is not unlikely
    7: (0.10, 0.15, 0.75),
}
MIRRORED = {**SAID, 7: (0.10, 0.75, 0.15)}
GIVEN = {1: 0, 2: 1, 3: 2, 4: 0, 5: 0, 6: 0, 7: 2}  # the label in train.csv
SETTINGS = {
    "backbone": "tiny",
    "weights": "none",
    "stages": "48x64x3",
    "batch": 8,
    "lr": 0.0173,
    "seed": 4711,
    "label_smoothing": 0,
    "views": 4,
    "strength": 0.1,
    "val_fraction": 0.4,
}


def photo(kind: int, rng: np.random.Generator) -> np.ndarray:
    pixels = rng.integers(0, 50, (48, 64, 3))
    for band in range(3):
        pixels[12 * band : 12 * band + 12] += 150 * (kind >> band & 1)
    pixels[36:, :32] += 150
    return pixels.astype(np.uint8)


def say(image: np.ndarray) -> np.ndarray:
    """Logits of one photo as a network sees it."""
    bands = image.mean(2).reshape(4, 12, 64)[:, 3:9]
    kind = sum(int(bands[band].mean() > 100) << band for band in range(3))
    left, right = bands[3][:, 8:24].mean(), bands[3][:, 40:56].mean()
    return np.log((SAID if left > right else MIRRORED)[kind])


def predict(self: keras.Model, batches, steps: int | None = None, **_) -> np.ndarray:
    """keras.Model.predict that says what ``say`` does."""
    images = [image for batch in batches.take(steps) for image in np.asarray(batch[0])]
    return np.array([say(image) for image in images], np.float32)


@contextmanager
def deaf_server():
    """A server that takes everything and never answers: its address, and when each post came."""
    posts, sockets, server = [], [], socket.create_server(("127.0.0.1", 0))

    def listen() -> None:
        while True:
            try:
                sockets.append(server.accept()[0])
            except OSError:
                return
            posts.append(time.monotonic())

    threading.Thread(target=listen, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}", posts
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        for each in sockets:
            each.close()


def competition(root: Path) -> Path:
    rng, rows = np.random.default_rng(0), []
    kinds = [1, 2, 3] * 9 + [4, 5, 6, 7] * 6
    for n, kind in enumerate(kinds):
        write_photo(root / "train" / str(GIVEN[kind]) / f"{100 + n}.png", photo(kind, rng))
        rows.append((f"{100 + n}.png", GIVEN[kind]))
    pd.DataFrame(rows, columns=["Id", "Category"]).to_csv(root / "train.csv", index=False)
    for n in range(6):
        write_photo(root / "test_upload" / f"{900 + n}.png", photo(1 + n % 3, rng))
    sample = pd.DataFrame({"Id": [f"{900 + n}.png" for n in range(6)], "Category": 0})
    sample.to_csv(root / "sample-submission.csv", index=False)
    of_photo = {f"{100 + n}.png": kind for n, kind in enumerate(kinds)}
    (root / "kinds.json").write_text(json.dumps(of_photo))
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return competition(tmp_path_factory.mktemp("facts") / "competition")


@pytest.fixture(scope="module", autouse=True)
def _tiny():
    small.add_tiny()
    yield
    registry.REGISTRY.pop("tiny")


@pytest.fixture(scope="module")
def done(data):
    """What a run of two networks with four views left, drew, and posted to a deaf server."""
    drawn: dict[str, Figure] = {}
    save, wait = Figure.savefig, socket.socket.settimeout

    def keep(self: Figure, target, **named):
        drawn[re.sub(r"^\.part-|\.png.*$", "", Path(target).name)] = self
        return save(self, target, **named)

    def short(self: socket.socket, seconds: float | None) -> None:
        wait(self, seconds if seconds is None else min(seconds, 0.2))

    with pytest.MonkeyPatch.context() as patch, deaf_server() as (url, posts):
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setattr(keras.Model, "predict", predict)
        patch.setattr(Figure, "savefig", keep)
        patch.setattr(socket.socket, "settimeout", short)
        two = {"members": "seed=4711+seed=4712/pooling=max", "blend": "average"}
        out = str(data.parent / "out")
        target = run(Config(data=str(data), out=out, monitor_url=url, **SETTINGS, **two))
        seen = len(posts)
    out = target.parent
    page = Page()
    page.feed((out / "report.html").read_text())
    result = json.loads((out / "result.json").read_text())
    votes = [np.load(path) for path in sorted(out.glob("member?/votes_validation.npz"))]
    return SimpleNamespace(out=out, posts=seen, page=page, result=result, drawn=drawn, votes=votes,
                           kinds=json.loads((data / "kinds.json").read_text()))  # fmt: skip


class Page(HTMLParser):
    """Tables of a page, its sentences outside of tables and captions, and all of its words."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.sentences, self.words = "", ""
        self._open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br", "hr", "link", "input"):
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        while tag in self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if {"style", "script"} & set(self._open):
            return
        self.words += data
        if "table" in self._open:
            if self._open[-1] in ("td", "th"):
                self.tables[-1][-1][-1] += data
        elif not {"figcaption", "pre"} & set(self._open):
            self.sentences += data

    def columns(self) -> list[pd.DataFrame]:
        return [pd.DataFrame(rows[1:], columns=rows[0]) for rows in self.tables if rows]


# --- The monitor ----------------------------------------------------------------------------------


def test_a_monitor_that_never_answers_is_given_up_post_by_post(done):
    """Time-outs are cut to 0.2 s here; a post without one would wait, and no other follow it."""
    assert done.posts >= 2


@pytest.mark.parametrize("words", [["monitor_url=http://example.org/x"], []])
def test_a_kernel_with_a_monitor_never_goes_out_without_internet(
    words, tmp_path, monkeypatch, capsys
):
    name = "kernel-metadata.json"
    metadata = json.loads((Path(__file__).parents[1] / name).read_text())
    (tmp_path / name).write_text(json.dumps(metadata | {"enable_internet": False}))
    monkeypatch.chdir(tmp_path)
    code = main(["push", "--no-push", "--owner", "alice", *words])
    said = capsys.readouterr()
    built = list(tmp_path.glob(f"build/**/{name}"))
    internet = [json.loads(path.read_text())["enable_internet"] for path in built]
    if not words:
        assert (code, internet) == (0, [False])
        return
    # It gets the internet, or is refused; either is said.
    assert (code, internet) in ((0, [True]), (2, []))
    lines = (said.out + said.err).splitlines()
    assert any("monitor_url" in line and "internet" in line for line in lines)


# --- Time that is kept back -----------------------------------------------------------------------


def test_time_for_the_report_alone_is_not_spent_on_training(data, tmp_path, monkeypatch):
    """However fast a network trains: a second of this clock is fifty."""
    began, clock = time.monotonic(), time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: began + (clock() - began) / 50)
    target = run(Config(data=str(data), out=str(tmp_path), budget_minutes=0.1, **SETTINGS))
    assert pd.read_csv(target)["Category"].nunique() == 1
    assert not list(tmp_path.rglob("history.csv"))


def test_time_is_kept_for_the_report_and_for_what_nobody_foresees():
    now = time.monotonic()
    clock = Clock(now, now + 100)
    # What comes after the votes takes so long, and each network has more of it.
    assert clock.deadline(1.0) <= now + 100 - 10
    assert clock.deadline(0.5) <= now + 50 - 5
    for kind, hours in (("gpu", 12), ("cpu", 12), ("tpu", 9)):
        left = start(Config(), True, kind, now).end - now
        assert (hours - 1) * 3600 < left < (hours - 0.25) * 3600


def test_training_is_shortened_until_its_predictions_fit_too(data, tmp_path, monkeypatch):
    asked = []

    def ask(ahead: Ahead, left: float, whole: float) -> float:
        asked.append((ahead, left))
        raise Stopped("enough")

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Ahead, "share", ask)
        run(Config(data=str(data), out=str(tmp_path), budget_minutes=60.0, **SETTINGS))
    ((ahead, left),) = asked
    assert 0 < left < 3600 - 10
    check, test = round(42 * SETTINGS["val_fraction"]), 6  # photos, about
    assert ahead.votes >= 3 * ahead.one_view >= 3 * 0.8 * (check + test) * ahead.pace.look > 0
    assert ahead.early > 0
    trained = ahead.epochs[0] * (ahead.steps * ahead.pace.step[0] + ahead.pace.check[0])
    assert ahead.training() == pytest.approx(trained)

    pace = Pace(step=[0.1, 0.2], check=[1.0, 2.0], look=0.01)
    ahead = Ahead(pace, epochs=[20, 20], steps=10, early=10, votes=100, one_view=4)
    assert ahead.training() == pytest.approx(20 * 2 + 20 * 4)
    assert ahead.share(230, 230) == 1
    shares = [ahead.share(left, left) for left in (5, 18, 20, 50, 100, 150)]
    assert shares[0] == 0 < shares[1] and shares == sorted(shares) and shares[-1] < 1
    for left, share in zip((20, 50, 100, 150), shares[2:], strict=True):
        # Of all their views a quarter of the time is left to cast some.
        assert share * ahead.training() + ahead.early + max(4, left / 4) <= left + 1e-6


# --- The source's hash ----------------------------------------------------------------------------


@contextmanager
def hash_in(folder: Path):
    """The function that says the hash, of the copy of the package in that folder."""
    ours = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "carcls"}
    for name in ours:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        module, name = HASH
        say_hash = getattr(importlib.import_module(module), name)

        def anew() -> str:
            getattr(say_hash, "cache_clear", lambda: None)()
            return say_hash()

        yield anew
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.split(".")[0] == "carcls"]:
            del sys.modules[name]
        sys.modules.update(ours)


def copy(folder: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(carcls.__file__).parent, folder / "carcls", ignore=ignored)
    return folder


def test_the_source_hash_follows_the_text_of_every_module(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    one, other = copy(tmp_path / "one"), copy(tmp_path / "other")
    with hash_in(other) as said:
        elsewhere = said()
    top = one / "carcls"
    # desk and __main__ are not in a kernel.
    not_there = ("desk", "__main__.py")
    modules = [p for p in sorted(top.rglob("*.py")) if p.relative_to(top).parts[0] not in not_there]
    assert len(modules) > 20
    with hash_in(one) as said:
        plain = said()
        assert re.fullmatch(r"[0-9a-f]{12,}", plain)
        assert plain == elsewhere  # the same text
        seen = [plain]
        for path in modules:
            text = path.read_bytes()
            path.write_bytes(text + b"# more\n")
            seen.append(said())
            path.write_bytes(text)
        assert len(set(seen)) == len(seen)
        assert said() == plain


def test_a_result_names_the_source_that_made_it(done):
    module, name = HASH
    assert done.result["source"] == getattr(importlib.import_module(module), name)()


# --- The report -----------------------------------------------------------------------------------


def test_the_report_judges_the_training_of_every_network(done):
    judged = re.compile(r"(?:over|under)[- ]?(?:train|fit)|too few", re.IGNORECASE)
    assert len(judged.findall(done.page.sentences)) >= len(done.votes) == 2


def rounded(numbers) -> Counter:
    return Counter(np.round(np.asarray(numbers, float), 3).tolist())


def test_the_report_has_a_table_of_views_for_every_network(done):
    tables = [rounded(table["accuracy"]) for table in done.page.columns() if "accuracy" in table]
    shown = set()
    for votes in done.votes:
        probs, labels = votes["probs"], votes["labels"]
        alone = [(view.argmax(1) == labels).mean() for view in probs]
        first = [(probs[:n].mean(0).argmax(1) == labels).mean() for n in (2, 4)]
        assert len(set(alone)) > 1  # else this would not say much
        wanted = rounded([*alone, *first])
        found = {number for number, table in enumerate(tables) if wanted <= table}
        assert found, (wanted, tables)
        shown |= found
    assert len(shown) >= len(done.votes)  # each has its own


def test_the_report_has_a_table_of_members(done):
    members, tables = pd.DataFrame(done.result["members"]), done.page.columns()
    assert len(members) == 2
    (table,) = [table for table in tables if set(members["name"]) <= set(table.get("name", ()))]
    assert table["name"].tolist() == members["name"].tolist()
    for column in ("accuracy", "log_loss"):
        np.testing.assert_allclose(table[column].astype(float), members[column], atol=1e-3)


def test_the_report_has_every_setting(done):
    for name, value in done.result["settings"].items():
        assert re.search(rf"\b{name}\b", done.page.words), name
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            assert str(value) in done.page.words, (name, value)
    assert "0.0173" in done.page.words and "4711" in done.page.words


# --- The pictures' axes ---------------------------------------------------------------------------


def test_the_confusion_picture_names_its_axes_as_they_are(done):
    axis = done.drawn["confusion"].axes[0]
    labels = [axis.get_xlabel(), axis.get_ylabel()]
    assert ["predicted" in label for label in labels] == [True, False]
    assert ["true" in label for label in labels] == [False, True]
    shares = np.asarray(axis.images[0].get_array(), float)
    assert shares.shape == (3, 3)
    # Along a row: where the photos of one true class have gone.
    np.testing.assert_allclose(shares.sum(1), 1)
    assert not np.allclose(shares.sum(0), 1)
    # Photos labelled 0 are taken for 1, none the other way.
    assert shares[0, 1] > 0.2 > shares[1, 0]


def test_the_agreement_picture_names_its_axes_as_they_are(done):
    axis = done.drawn["agreement"].axes[0]
    across, up = axis.get_xlabel(), axis.get_ylabel()
    assert "agree" in across and "views" in across
    assert "photos" in up and "agree" not in up
    assert sum(bar.get_height() for bar in axis.patches) == done.result["validation_photos"]
    assert all(bar.get_width() < 1 for bar in axis.patches)


# --- Labels to look at ----------------------------------------------------------------------------


def test_labels_are_suspicious_only_if_the_votes_are_certain_and_the_label_unlikely(done):
    listed = Counter(done.kinds[name] for name in pd.read_csv(done.out / "labels.csv")["id"])
    looked = Counter(done.kinds[name] for name in done.votes[0]["ids"])
    assert all(looked[kind] for kind in SAID)  # validation has some of each
    for kind, why in ((5, "not certain"), (6, "the label is not unlikely")):
        assert not listed[kind], why
    assert listed == {4: looked[4]}


# --- What a network's weights expect --------------------------------------------------------------

IMAGENET = [
    [-2.11790, -2.03571, -1.80444],
    [0.05694, 0.18767, 0.40906],
    [2.24891, 2.42857, 2.64000],
]
ZERO_ONE = [[0.0] * 3, [0.49804] * 3, [1.0] * 3]
TF = [[-1.0] * 3, [-0.00392] * 3, [1.0] * 3]
LITE = [[-0.99219] * 3, [0.0] * 3, [1.0] * 3]
# Raw pixels of 0, 127 and 255 in R, G and B, as the first convolution must see them.
FIRST = {
    # keras-cv's include_rescaling: x / 255
    **{f"efficientnetv2_{size}": ZERO_ONE for size in ("b1", "b2", "b3", "s")},
    # keras.applications with weights="imagenet": (x / 255 - mean) / std of ImageNet
    **{f"keras_efficientnet_b{n}": IMAGENET for n in range(1, 8)},
    # as keras.applications.resnet_v2.preprocess_input has it: x / 127.5 - 1
    "keras_resnet50_v2": TF,
    # EfficientNet-Lite as it was trained: (x - 127) / 128
    **{f"efficientnet_lite_b{n}": LITE for n in (1, 2)},
}


@pytest.fixture
def thin(monkeypatch):
    """Networks of one block each, built in no time: what comes before it is the library's own."""

    def thinner(backbone):
        def make(**given):
            return backbone(**{k: v[:1] if isinstance(v, list) else v for k, v in given.items()})

        return make

    for name in ("EfficientNetV2Backbone", "EfficientNetLiteBackbone"):
        monkeypatch.setattr(keras_cv.models, name, thinner(getattr(keras_cv.models, name)))
    library = "keras.src.applications"
    blocks = importlib.import_module(f"{library}.efficientnet").DEFAULT_BLOCKS_ARGS
    monkeypatch.setattr(f"{library}.efficientnet.DEFAULT_BLOCKS_ARGS", blocks[:1])
    monkeypatch.setattr(f"{library}.resnet.stack_residual_blocks_v2", lambda x, *_, **__: x)


@pytest.mark.parametrize("name", FIRST)
def test_raw_pixels_reach_the_first_convolution_as_its_weights_expect_them(name, thin, monkeypatch):
    network, seen, call = registry.build(name), [], keras.layers.Conv2D.call

    def record(self, inputs):
        seen.append(np.asarray(inputs))
        return call(self, inputs)

    monkeypatch.setattr(keras.layers.Conv2D, "call", record)
    raw = np.stack([np.full((64, 64, 3), value, np.float32) for value in (0, 127, 255)])
    network(raw)
    np.testing.assert_allclose(seen[0][:, 30, 30], FIRST[name], atol=2e-4)
    # The same by the libraries' own hands, where they have them outside of the network.
    own = None
    if name == "keras_resnet50_v2":
        own = keras.applications.resnet_v2.preprocess_input(raw.copy())
    elif name.startswith("keras_efficientnet_b"):
        own = keras.applications.imagenet_utils.preprocess_input(raw.copy(), mode="torch")
    if own is not None:
        np.testing.assert_allclose(seen[0][:, 30, 30], own[:, 30, 30], atol=2e-4)
