"""make_batches: every row once, the seed alone decides, shapes and labels right, views as data."""

import gc
import weakref

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import write_photo

from carcls import photos, pipeline
from carcls.config import Config

SIZE = (24, 32)


@pytest.fixture(scope="module")
def frame(tmp_path_factory) -> pd.DataFrame:
    """21 noise photos of differing shape."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    rows = []
    for n in range(21):
        h, w = 30 + n, 64 - n
        path = write_photo(folder / f"{n}.png", rng.integers(0, 256, (h, w, 3), np.uint8))
        rows.append((str(n), str(path), n % 3, h, w, True))
    return pd.DataFrame(rows, columns=["id", "path", "label", "height", "width", "readable"])


def cache(frame, tmp_path, fit="pad", share=0.5, size=SIZE):
    return pipeline.PhotoCache(frame, *size, fit, share, tmp_path)


def batches(cfg, frame, tmp_path, rows=None, **options):
    rows = np.arange(len(frame)) if rows is None else rows
    labels = frame["label"].to_numpy()[rows]
    made = pipeline.make_batches(cfg, cache(frame, tmp_path, cfg.fit), rows, labels, SIZE, 3, **options)
    return made, [tuple(t.numpy() for t in batch) for batch in made.dataset]


CFG = Config(batch=8, seed=3)


def test_validation_sees_every_row_exactly_once_padded_and_masked(frame, tmp_path):
    made, seen = batches(CFG, frame, tmp_path)
    assert made.steps == len(seen) == 3
    images, labels, weights = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    assert images.shape == (24, *SIZE, 3)
    assert images.dtype == np.uint8
    assert weights == pytest.approx(np.array([24 / 21] * 21 + [0.0] * 3))
    assert (labels[:21].argmax(1) == frame["label"]).all()
    assert labels.sum(1).tolist() == [1.0] * 24


def test_keras_reports_the_mean_loss_over_photos_whatever_the_padding(frame, tmp_path):
    images = keras.Input((None, None, 3))
    model = keras.Model(images, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(images / 255.0)))
    model.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True), jit_compile=False)
    made, _ = batches(CFG, frame, tmp_path)
    logits = model.predict(made.dataset, verbose=0)[:21]
    truth = frame["label"].to_numpy()
    expected = (np.log(np.exp(logits).sum(1)) - logits[np.arange(21), truth]).mean()
    assert model.evaluate(made.dataset, verbose=0) == pytest.approx(expected, rel=1e-4)


def test_photos_are_freed_with_their_batches(frame, tmp_path):
    held = cache(frame, tmp_path)
    made = pipeline.make_batches(CFG, held, np.arange(21), frame["label"].to_numpy(), SIZE, 3)
    list(made.dataset)
    gone = weakref.ref(held)
    del held, made
    gc.collect()
    assert gone() is None


def test_two_passes_over_validation_are_identical(frame, tmp_path):  # S6
    (_, one), (_, two) = batches(CFG, frame, tmp_path), batches(CFG, frame, tmp_path)
    assert all((a == b).all() for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True))


def test_training_is_the_same_whatever_the_threads_and_differs_by_epoch_and_seed(frame, tmp_path, monkeypatch):
    def run(cfg=CFG, threads=1):
        monkeypatch.setattr(pipeline, "threads", lambda: threads)
        made, seen = batches(cfg, frame, tmp_path, train=lambda epoch: 1.0, epochs=range(2))
        assert made.steps == 2  # whole batches only
        assert len(seen) == 4
        return [images.tobytes() for images, _, _ in seen], np.concatenate([labels for _, labels, _ in seen])

    one, labels = run()
    assert one == run(threads=8)[0]
    assert len(set(one)) == 4
    assert one != run(CFG.replace(seed=4))[0]
    assert (labels[:16].argmax(1) != labels[16:].argmax(1)).any()  # another order


def test_an_epoch_of_training_has_no_row_twice(frame, tmp_path):
    frame = frame.assign(label=np.arange(21))
    made = pipeline.make_batches(
        CFG, cache(frame, tmp_path), np.arange(21), np.arange(21), SIZE, 21, train=lambda e: 1.0
    )
    rows = np.concatenate([labels.numpy().argmax(1) for _, labels, _ in made.dataset])
    assert len(set(rows)) == len(rows) == 16


def test_labels_follow_their_photos(tmp_path):
    """Photos of one grey level each, so that an image tells its row."""
    rows = []
    for n in range(10):
        path = write_photo(tmp_path / f"{n}.png", np.full((24, 32, 3), 20 * n, np.uint8))
        rows.append((str(n), str(path), n, 24, 32, True))
    frame = pd.DataFrame(rows, columns=["id", "path", "label", "height", "width", "readable"])
    made = pipeline.make_batches(CFG.replace(batch=5), cache(frame, tmp_path), np.arange(10), np.arange(10), SIZE, 10,
                                 train=lambda e: 1.0, epochs=range(2))  # fmt: skip
    for images, labels, _ in made.dataset:
        centre = images.numpy()[:, 12, 16, 0]
        assert (centre == 20 * labels.numpy().argmax(1)).all()


def test_views_are_collected_by_view_and_row(frame, tmp_path):
    made, seen = batches(CFG, frame, tmp_path, views=range(4))
    images = np.concatenate([images for images, _, _ in seen])
    views = made.collect(images.reshape(len(images), -1)).reshape(4, 21, *SIZE, 3)
    plain = np.concatenate([images for images, _, _ in batches(CFG, frame, tmp_path)[1]])[:21]
    assert (views[0] == plain).all()  # the photo itself first
    assert (views[1] == plain[:, :, ::-1]).all()  # then its mirror image
    assert all((views[i] != views[j]).any() for i in range(4) for j in range(i))


def test_a_view_does_not_depend_on_the_batch_or_its_neighbours(frame, tmp_path):  # S51
    def views(cfg, rows):
        made, seen = batches(cfg, frame, tmp_path, rows=rows, views=range(3))
        images = np.concatenate([images for images, _, _ in seen])
        return made.collect(images.reshape(len(images), -1))

    every = np.arange(21)
    assert (views(CFG, every) == views(CFG.replace(batch=5), every)).all()
    assert (views(CFG, every)[:, 10:15] == views(CFG, np.arange(10, 15))).all()
    turned = frame.iloc[::-1].reset_index(drop=True)  # nor on its place among the photos
    made, seen = batches(CFG, turned, tmp_path, rows=every, views=range(3))
    images = np.concatenate([images for images, _, _ in seen])
    assert (made.collect(images.reshape(len(images), -1)) == views(CFG, every)[:, ::-1]).all()


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_photos_keep_their_shape_and_are_as_large_as_needed(frame, tmp_path, fit):
    small = cache(frame, tmp_path, fit, size=(12, 16))
    for row in range(len(frame)):
        h, w = small[row].shape[:2]
        full_h, full_w = frame[["height", "width"]].iloc[row]
        assert h / w == pytest.approx(full_h / full_w, rel=0.1)
        ratios = sorted((12 / h, 16 / w))
        assert ratios[0 if fit == "pad" else 1] <= 1 / pipeline.MARGIN + 1e-9


def test_a_cache_on_disk_gives_the_same_photos_and_leaves_nothing(frame, tmp_path):
    memory, disk = cache(frame, tmp_path / "m"), cache(frame, tmp_path / "d", share=0.0)
    assert (memory.on_disk, disk.on_disk) == (False, True)
    assert all((memory[row] == disk[row]).all() for row in range(len(frame)))
    assert "on disk" in str(disk)
    assert list((tmp_path / "d").iterdir()) == []


def test_each_photo_is_decoded_once(frame, tmp_path, monkeypatch):
    read, calls = photos.read_photo, []
    monkeypatch.setattr(photos, "read_photo", lambda *a: calls.append(a) or read(*a))
    batches(CFG, frame, tmp_path, train=lambda epoch: 1.0, epochs=range(3))
    assert len({path for path, *_ in calls}) == len(calls) <= 21


def test_an_unreadable_photo_becomes_grey(frame, tmp_path):
    frame = frame.assign(readable=frame.index != 4)
    frame.loc[4, ["path", "height", "width"]] = ["", 0, 0]
    _, seen = batches(CFG, frame, tmp_path)
    assert set(seen[0][0][4].ravel()) == {127}


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixing_by_keras_cv_mixes_labels_alike(frame, tmp_path, mix):
    cfg = CFG.replace(**{mix: 1.0})
    _, seen = batches(cfg, frame, tmp_path, train=lambda epoch: 1.0)
    images, labels, _ = seen[0]
    assert images.dtype == np.float32
    assert images.max() > 100  # still 0–255
    assert labels.sum(1) == pytest.approx(1.0)
    assert ((labels > 0).sum(1) == 2).any()
    assert not (batches(cfg, frame, tmp_path)[1][0][1] % 1).any()  # never in validation
