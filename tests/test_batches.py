"""make_batches: every row once, the seed alone decides, shapes and labels right, views as data."""

import gc
import json
import time
import weakref
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import write_photo
from test_cache import noise_photos, table

from carcls import errors, spine
from carcls.config import Config
from carcls.data import augment, batches, cache, pixels
from carcls.data.batches import Epochs, Looks, make_batches
from carcls.data.cache import PhotoCache
from carcls.data.photos import Rows
from carcls.errors import InputError
from carcls.machine import Machine
from carcls.report import page
from carcls.train.steps import StepTimes

SIZE = (24, 32)
CFG = Config(batch=8, seed=3)
EVERY = np.arange(21)


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return noise_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def make(frame, tmp_path):
    """Batches of rows of the noise photos, and all that they give as arrays."""

    def make(how=None, cfg=CFG, rows=EVERY, frame=frame, machine=None):
        photos = PhotoCache(frame, SIZE, cfg.fit, tmp_path)
        rows = Rows(rows, frame["label"].to_numpy()[rows])
        made = make_batches(photos, rows, 3, how or Looks(), cfg, machine)
        return made, [tuple(t.numpy() for t in batch) for batch in made.dataset]

    return make


def train(numbers=range(1), steps=None, stage=0, strength=lambda epoch: 1.0) -> Epochs:
    return Epochs(stage, numbers, strength, steps)


def images_of(seen) -> list[bytes]:
    return [images.tobytes() for images, _, _ in seen]


def devices(count: int, processes: int = 1, process: int = 0) -> Machine:
    return Machine("jax", ("d",) * count, xla=True, process=process, processes=processes)


# --- Looks --------------------------------------------------------------------------------------


def test_validation_sees_every_row_exactly_once_padded_and_masked(frame, make):
    made, seen = make()
    assert made.steps == len(seen) == 3
    images, labels, weights = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    assert images.shape == (24, *SIZE, 3) and images.dtype == np.uint8
    assert weights == pytest.approx(np.array([24 / 21] * 21 + [0.0] * 3))
    assert (labels[:21].argmax(1) == frame["label"]).all()
    assert labels.sum(1).tolist() == [1.0] * 24
    assert images_of(make()[1]) == images_of(seen)  # S6


def test_keras_reports_the_mean_loss_over_photos_whatever_the_padding(frame, make):
    images = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(images / 255.0)
    model = keras.Model(images, keras.layers.Dense(3)(pooled))
    model.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True), jit_compile=False)
    made, _ = make()
    logits = model.predict(made.dataset, verbose=0)[:21]
    truth = frame["label"].to_numpy()
    expected = (np.log(np.exp(logits).sum(1)) - logits[EVERY, truth]).mean()
    assert model.evaluate(made.dataset, verbose=0) == pytest.approx(expected, rel=1e-4)


def collected(made, seen) -> np.ndarray:
    """(views, rows, *SIZE, 3) of all looks."""
    images = np.concatenate([images for images, _, _ in seen])
    views = made.collect(images.reshape(len(images), -1))
    return views.reshape(*views.shape[:2], *SIZE, 3)


def test_views_are_the_photo_its_mirror_image_and_random_ones(make):
    views, (plain,) = collected(*make(Looks(range(4)))), collected(*make())
    assert views.shape[:2] == (4, 21)
    assert (views[0] == plain).all()
    assert (views[1] == plain[:, :, ::-1]).all()
    assert all((views[i] != views[j]).any() for i in range(4) for j in range(i))


def test_a_view_depends_neither_on_the_batch_nor_on_its_neighbours(frame, make):  # S51
    how = Looks(range(3))
    views = collected(*make(how))
    assert (collected(*make(how, CFG.replace(batch=5))) == views).all()
    assert (collected(*make(how, rows=np.arange(10, 15))) == views[:, 10:15]).all()
    turned = frame.iloc[::-1].reset_index(drop=True)
    assert (collected(*make(how, frame=turned)) == views[:, ::-1]).all()
    assert (collected(*make(Looks(range(2, 3)))) == views[2:]).all()


# --- Training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cfg", [CFG, CFG.replace(mix="mixup:0.2")], ids=["plain", "mixed"])
@pytest.mark.parametrize(
    ("making", "step", "least", "most"),
    [(0.04, 0.01, 0.4, 1.0), (0.0, 0.02, 0.0, 0.3)],  # the shares of an idle machine: 0.75 and 0
    ids=["slow", "fast"],
)
def test_the_share_of_time_in_which_batches_were_waited_for(
    frame, tmp_path, monkeypatch, cfg, making, step, least, most
):
    """It is the time that the next batch takes to come."""
    make, made_at = batches._TrainingMaker.make, {}

    def make_slowly(maker, i):
        time.sleep(making)
        arrays = make(maker, i)
        made_at[i] = maker.ready[i]
        return arrays

    monkeypatch.setattr(batches._TrainingMaker, "make", make_slowly)
    monkeypatch.setattr(batches, "threads", lambda: 1)
    photos, rows = PhotoCache(frame, SIZE, cfg.fit, tmp_path), Rows(EVERY, np.zeros(21, np.int64))
    # A leg that goes on: its batches do not begin at 0.
    made = make_batches(photos, rows, 3, train(range(3, 5)), cfg.replace(batch=2))
    data, times = iter(made.dataset), StepTimes()
    for epoch in (3, 4):
        time.sleep(0.2)  # validation
        times.on_epoch_begin(epoch)
        waited = []
        for number in range(made.steps):
            began = time.monotonic()
            next(data)
            waited.append(time.monotonic() - began)
            time.sleep(step)
            times.on_train_batch_end(number)
        numbers = range(epoch * made.steps, (epoch + 1) * made.steps)
        is_later = [made.maker.ready[number] > made_at[number] for number in numbers]
        assert is_later == [cfg.mix.mixup > 0] * made.steps  # once it is mixed
        share = made.waited(numbers.start, times.ends)
        true = sum(waited[1:]) / (times.ends[made.steps - 1] - times.ends[0])
        # To hand over a batch that is ready takes time, too: some 3 ms.
        assert true - 0.25 <= share <= true + 0.05
        assert least <= share <= most
    assert not made.maker.ready  # what is over is forgotten
    assert made.waited(5 * made.steps, {0: 1.0}) is None


def test_waiting_is_counted_from_the_end_of_the_step_before_whatever_comes_first(frame, make):
    made, _ = make(train())
    made.maker.ready = {20: 9.0, 21: 3.0, 22: 5.0, 23: 4.0, 24: 99.0}
    ends = {2: 8.0, 0: 1.0, 1: 4.0, 3: 11.0}  # on JAX threads note them
    assert made.waited(20, ends) == pytest.approx(((3 - 1) + (5 - 4) + 0) / (11 - 1))
    assert made.maker.ready == {24: 99.0}


def test_training_depends_on_seed_stage_and_epoch_and_not_on_threads(make, monkeypatch):
    def run(cfg=CFG, threads=1, stage=0):
        monkeypatch.setattr(batches, "threads", lambda: threads)
        made, seen = make(train(range(2), stage=stage), cfg)
        assert made.steps == 2 and len(seen) == 4  # whole batches only
        return images_of(seen), np.concatenate([labels for _, labels, _ in seen])

    one, labels = run()
    assert one == run(threads=8)[0]
    assert len(set(one)) == 4
    assert one != run(CFG.replace(seed=4))[0] and one != run(stage=1)[0]
    assert (labels[:16].argmax(1) != labels[16:].argmax(1)).any()  # another order


def test_training_depends_on_its_rows_and_not_on_where_they_are_in_the_table(frame, make):
    moved = frame.iloc[np.roll(EVERY, 4)].reset_index(drop=True)
    few = make(train(), rows=np.arange(16))[1]
    assert images_of(few) == images_of(make(train(), rows=np.arange(4, 20), frame=moved)[1])


@pytest.mark.parametrize("mix", ["", "mixup:0.2", "mixup:0.2,cutmix:1"])
def test_shortened_epochs_begin_like_whole_ones_and_can_be_gone_on_with(make, mix):
    cfg = CFG.replace(batch=5, mix=mix)

    def seen(numbers, steps):
        keras.utils.set_random_seed(cfg.seed)  # as every training begins; keras-cv draws from it
        made, found = make(train(numbers, steps), cfg)
        assert made.steps == (steps or 4)
        return images_of(found)

    short = seen(range(3), 3)
    assert len(short) == 9
    assert short[3:] == seen(range(1, 3), 3)
    if not mix:
        whole = seen(range(3), None)
        assert short == [batch for epoch in range(3) for batch in whole[4 * epoch : 4 * epoch + 3]]


def test_oversampling_balances_classes_and_augments_what_comes_again_anew(frame, make):  # S1
    frame = frame.assign(label=[0] * 15 + [1] * 4 + [2] * 2)
    cfg = CFG.replace(batch=7)

    def seen(cfg, epoch):
        """Labels of an epoch, and of each class the images."""
        _, found = make(train(range(epoch, epoch + 1)), cfg, frame=frame)
        labels = np.concatenate([labels.argmax(1) for _, labels, _ in found])
        images = np.concatenate([images for images, _, _ in found])
        return labels, [{i.tobytes() for i in images[labels == label]} for label in range(3)]

    labels, plain = seen(cfg, 0)
    assert np.bincount(labels).tolist() == [15, 4, 2]
    labels, balanced = seen(cfg.replace(oversample=True), 0)
    assert np.bincount(labels).tolist() == [7, 7, 7]
    assert list(map(len, balanced)) == [7, 7, 7]
    assert len(set(labels[:7])) > 1  # mixed
    assert balanced[0] < plain[0]  # of the frequent class some, once
    assert plain[2] < balanced[2]  # of the rare one all, and more often
    assert seen(cfg.replace(oversample=True), 1)[1][0].isdisjoint(balanced[0])


def test_labels_follow_their_photos_and_no_row_comes_twice(tmp_path):
    """Photos of one grey level each, so that an image tells its row."""
    grey = [np.full((24, 32, 3), 20 * n, np.uint8) for n in range(10)]
    paths = [write_photo(tmp_path / f"{n}.png", photo) for n, photo in enumerate(grey)]
    photos = PhotoCache(table(paths, 24, 32), SIZE, "pad", tmp_path)
    rows = Rows(np.arange(10), np.arange(10))
    made = make_batches(photos, rows, 10, train(range(2)), CFG.replace(batch=5))
    seen = []
    for images, labels, _ in made.dataset:
        seen += labels.numpy().argmax(1).tolist()
        assert (images.numpy()[:, 12, 16, 0] == 20 * labels.numpy().argmax(1)).all()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))


def test_strength_follows_the_epoch_and_views_have_their_own(make, monkeypatch):  # S20, S54
    asked, real = set(), augment.policy

    def policy(name, height, width, fit, strength):
        asked.add((name, strength))
        return real(name, height, width, fit, strength)

    monkeypatch.setattr(augment, "policy", policy)
    cfg = CFG.replace(augment="medium", strength="0.6-0.5")
    make(train(range(3), strength=lambda epoch: 1 - epoch / 4), cfg)
    assert asked == {("medium", 1.0), ("medium", 0.75), ("medium", 0.5)}
    asked.clear()
    make(Looks(range(4)), cfg)
    assert asked == {("light", 0.3)}


@pytest.mark.parametrize("mix", ["mixup:1", "cutmix:1", "mixup:1,cutmix:1"])
def test_mixing_by_keras_cv_mixes_labels_alike(make, mix):
    cfg = CFG.replace(mix=mix)
    _, seen = make(train(range(6)), cfg)
    images, labels, _ = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    assert images.dtype == np.float32
    assert images.max() > 100  # still 0–255
    assert labels.sum(1) == pytest.approx(1.0)
    assert ((labels > 0).sum(1) == 2).any()
    pasted = {bool((images % 1 == 0).all()) for images, _, _ in seen}  # pixels of CutMix are whole
    assert pasted == {"mixup:1": {False}, "cutmix:1": {True}}.get(mix, {False, True})
    assert make(Looks(), cfg)[1][0][0].dtype == np.uint8  # never in validation


# --- Machines and memory ------------------------------------------------------------------------


def test_batches_are_shared_evenly_by_devices_and_every_row_comes_once(make):
    made, seen = make(machine=devices(6))
    assert made.batch == 6  # the nearest multiple of 6 to 8
    assert [len(images) for images, _, _ in seen] == [6] * 4
    assert made.dataset.element_spec[0].shape == (6, *SIZE, 3)
    weights = np.concatenate([weights for _, _, weights in seen])
    assert weights == pytest.approx(np.array([24 / 21] * 21 + [0.0] * 3))


def test_fewer_photos_than_devices_fill_one_masked_batch_of_training(make):
    made, seen = make(train(range(2)), rows=np.arange(5), machine=devices(8))
    assert (made.steps, len(seen)) == (1, 2)
    for images, _, weights in seen:
        assert len(images) == 8
        assert weights == pytest.approx(np.array([8 / 5] * 5 + [0.0] * 3))


@pytest.mark.parametrize("how", [Looks(range(2)), train()], ids=["looks", "training"])
def test_processes_make_the_parts_of_the_same_batches(make, how):
    whole = make(how, machine=devices(4))[1]
    parts = [make(how, machine=devices(4, 2, process))[1] for process in (0, 1)]
    assert len(whole) == len(parts[0]) == len(parts[1])
    for step, batch in enumerate(whole):
        for kind, tensor in enumerate(batch):
            assert len(parts[0][step][kind]) == 4
            assert (np.concatenate([part[step][kind] for part in parts]) == tensor).all()


def test_each_photo_is_decoded_once(make, monkeypatch):
    read, paths = pixels.read_photo, []
    monkeypatch.setattr(pixels, "read_photo", lambda *a: paths.append(a[0]) or read(*a))
    make(train(range(3)))
    assert len(set(paths)) == len(paths) <= 21


def test_photos_are_freed_with_their_batches(frame, tmp_path):
    photos = PhotoCache(frame, SIZE, "pad", tmp_path)
    made = make_batches(photos, Rows(EVERY, EVERY % 3), 3, Looks(), CFG)
    list(made.dataset)
    gone = weakref.ref(photos)
    del photos, made
    gc.collect()
    assert gone() is None


def test_no_tuner_makes_the_end_of_an_iterator_wait(make):
    assert make()[0].dataset.options().autotune.enabled is False


# --- Photos that are gone before they are needed --------------------------------------------------


@pytest.fixture
def run(cfg, monkeypatch, capfd):
    """Runs in one folder, each after something is done to the photos; gives what was printed."""
    monkeypatch.setattr(cache, "WAITS", (0.001,))

    def run(after_the_audit=lambda photos: None):
        def before_training(cfg, table, out):
            after_the_audit(table.frame)
            drawn = [out / name for name in ("augmentation.png", "audit.png")]  # the report's
            for path in drawn:
                write_photo(path, np.zeros((2, 2, 3), np.uint8))
            return drawn

        monkeypatch.setattr(page, "before_training", before_training)
        try:
            spine.run(cfg.replace(stages="32x48x1", views=1))
        finally:
            said = capfd.readouterr()
            run.said = said.out + said.err
        return run.said

    run.out = Path(cfg.out)
    return run


def hide(paths) -> None:
    for path in map(Path, paths):
        path.rename(path.with_suffix(".hidden"))


def bring_back(folder: Path) -> None:
    for path in folder.rglob("*.hidden"):
        path.rename(path.with_suffix(".png"))


def test_what_was_made_without_some_photos_is_told_and_made_anew(run, competition):
    def hide_two(frame):
        gone = [frame[frame["fold"] == fold].iloc[-1] for fold in (1, -1)]
        ids.extend(item["id"] for item in gone)
        hide(item["path"] for item in gone)

    ids = []
    said = run(hide_two)
    for text in (
        said.partition("== result")[2],
        (run.out / "result.json").read_text(),
        (run.out / "submission.json").read_text(),
        (run.out / "report.html").read_text(),
    ):
        assert "2 of 46 photos" in text and all(ident in text for ident in ids)
    bring_back(competition)
    said = run()
    assert "training is made anew" in said and "WARNING" not in said
    assert "done before" not in said and "cast before" not in said
    assert json.loads((run.out / "result.json").read_text())["warnings"] == []
    assert "WARNING" not in (run.out / "report.html").read_text()
    said = run()
    assert "done before" in said and "anew" not in said


def test_a_network_is_not_made_anew_for_a_photo_that_it_has_not_learned(run, competition):
    run(lambda frame: hide(frame.loc[frame["fold"] == -1, "path"].tail(1)))
    bring_back(competition)
    said = run()
    assert "training   done before" in said and "test votes is made anew" in said


@pytest.mark.parametrize("whole", [True, False], ids=["the folder", "many photos"])
def test_without_many_photos_a_run_ends(run, competition, whole):
    folder = competition / "test_upload"

    def lose(frame):
        if whole:
            folder.rename(competition / "elsewhere")
        else:
            hide(frame.loc[frame["fold"] == -1, "path"].tail(5))

    with pytest.raises(InputError, match=str(folder)) as caught:
        run(lose)
    assert errors.exit_code(caught.value) == 2
    assert "Traceback" not in run.said and "Traceback" not in str(caught.value)
    (competition / "elsewhere").rename(folder) if whole else bring_back(competition)
    assert "resumed    after 1 epochs" in run()  # nothing that was made in time is lost
