"""make_batches: every row once, the seed alone decides, shapes and labels right, views as data."""

import errno
import gc
import os
import weakref
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import write_photo

from carcls.config import Config
from carcls.data import augment, photos
from carcls.data import batches as pipeline
from carcls.machine import Runtime

SIZE = (24, 32)


COLUMNS = ["id", "path", "label", "height", "width", "readable"]


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
    return pd.DataFrame(rows, columns=COLUMNS)


def cache(frame, tmp_path, fit="pad", share=0.5, size=SIZE):
    return pipeline.PhotoCache(frame, *size, fit, share, tmp_path)


def batches(cfg, frame, tmp_path, rows=None, **options):
    rows = np.arange(len(frame)) if rows is None else rows
    labels = frame["label"].to_numpy()[rows]
    made = pipeline.make_batches(
        cfg, cache(frame, tmp_path, cfg.fit), rows, labels, SIZE, 3, **options
    )
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
    model = keras.Model(
        images, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(images / 255.0))
    )
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
    assert all(
        (a == b).all() for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_training_is_the_same_whatever_the_threads_and_differs_by_epoch_and_seed(
    frame, tmp_path, monkeypatch
):
    def run(cfg=CFG, threads=1):
        monkeypatch.setattr(pipeline, "threads", lambda: threads)
        made, seen = batches(cfg, frame, tmp_path, train=lambda epoch: 1.0, epochs=range(2))
        assert made.steps == 2  # whole batches only
        assert len(seen) == 4
        return [images.tobytes() for images, _, _ in seen], np.concatenate(
            [labels for _, labels, _ in seen]
        )

    one, labels = run()
    assert one == run(threads=8)[0]
    assert len(set(one)) == 4
    assert one != run(CFG.replace(seed=4))[0]
    assert (labels[:16].argmax(1) != labels[16:].argmax(1)).any()  # another order


@pytest.mark.parametrize("mixup", [0.0, 0.2])
def test_shortened_epochs_begin_like_whole_ones_and_can_be_gone_on_with(frame, tmp_path, mixup):
    cfg = CFG.replace(batch=5, mixup=mixup)

    def seen(epochs, steps):
        keras.utils.set_random_seed(cfg.seed)  # as every training begins; keras-cv draws from it
        made, found = batches(
            cfg, frame, tmp_path, train=lambda epoch: 1.0, epochs=epochs, steps=steps
        )
        assert made.steps == (steps or 4)
        return [images.tobytes() for images, _, _ in found]

    short = seen(range(3), 3)
    assert len(short) == 9
    assert short[3:] == seen(range(1, 3), 3)
    if not mixup:
        whole = seen(range(3), None)
        assert short == [batch for epoch in range(3) for batch in whole[4 * epoch : 4 * epoch + 3]]


def test_oversampling_balances_the_classes_of_an_epoch_and_augments_what_comes_again_anew(
    frame, tmp_path
):  # S1
    frame = frame.assign(label=[0] * 15 + [1] * 4 + [2] * 2)
    cfg = CFG.replace(batch=7)

    def seen(cfg, epoch):
        _, found = batches(
            cfg, frame, tmp_path, train=lambda epoch: 1.0, epochs=range(epoch, epoch + 1)
        )
        labels = np.concatenate([labels.argmax(1) for _, labels, _ in found])
        images = np.concatenate([images for images, _, _ in found])
        return labels, [
            {image.tobytes() for image in images[labels == label]} for label in range(3)
        ]

    assert np.bincount(seen(cfg, 0)[0]).tolist() == [15, 4, 2]
    labels, first = seen(cfg.replace(oversample=True), 0)
    assert np.bincount(labels).tolist() == [7, 7, 7]
    assert list(map(len, first)) == [7, 7, 7]
    assert len(set(labels[:7])) > 1  # mixed
    _, plain = seen(cfg, 0)
    assert first[0] < plain[0]  # of the frequent class some, once
    assert plain[2] < first[2]  # of the rare one all, and more often
    assert seen(cfg.replace(oversample=True), 1)[1][0].isdisjoint(first[0])


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
    made = pipeline.make_batches(
        CFG.replace(batch=5),
        cache(frame, tmp_path),
        np.arange(10),
        np.arange(10),
        SIZE,
        10,
        train=lambda e: 1.0,
        epochs=range(2),
    )
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


def test_strength_follows_the_epoch_in_training_and_views_have_their_own(
    frame, tmp_path, monkeypatch
):  # S20, S54
    asked, real = set(), augment.policy

    def policy(name, height, width, fit, strength):
        asked.add((name, strength))
        return real(name, height, width, fit, strength)

    monkeypatch.setattr(augment, "policy", policy)
    cfg = CFG.replace(augment="medium", tta_strength=0.3)
    batches(cfg, frame, tmp_path, train=lambda epoch: 1 - epoch / 4, epochs=range(3))
    assert asked == {("medium", 1.0), ("medium", 0.75), ("medium", 0.5)}
    asked.clear()
    batches(cfg, frame, tmp_path, views=range(4))
    assert asked == {("light", 0.3)}


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_photos_keep_their_shape_and_are_as_large_as_needed(frame, tmp_path, fit):
    small = cache(frame, tmp_path, fit, size=(12, 16))
    for row in range(len(frame)):
        h, w = small[row].shape[:2]
        full_h, full_w = frame[["height", "width"]].iloc[row]
        assert h / w == pytest.approx(full_h / full_w, rel=0.1)
        ratios = sorted((12 / h, 16 / w))
        assert ratios[0 if fit == "pad" else 1] <= 1 / pipeline.MARGIN + 1e-9


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_photo_that_is_far_too_large_is_shrunk_without_aliasing(tmp_path, kind):
    checks = np.indices((1024, 1024)).sum(0) % 2 * 255
    path = write_photo(tmp_path / f"0.{kind}", np.repeat(checks[:, :, None], 3, 2).astype(np.uint8))
    one = pd.DataFrame([("0", str(path), 0, 1024, 1024, True)], columns=COLUMNS)
    seen = cache(one, tmp_path, size=(18, 18))[0]
    assert seen.shape[0] < 25 and np.abs(seen.astype(int) - 127).max() < 5


def test_a_cache_on_disk_gives_the_same_photos_and_leaves_nothing(frame, tmp_path):
    memory, disk = cache(frame, tmp_path / "m"), cache(frame, tmp_path / "d", share=0.0)
    assert (memory.where, disk.where) == (pipeline.MEMORY, pipeline.DISK)
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


def devices(count: int, processes: int = 1, process: int = 0, xla: bool = True) -> Runtime:
    return Runtime(
        "jax", ("d",) * count, "float32", xla, False, process=process, processes=processes
    )


def test_batches_are_shared_evenly_by_devices_and_every_row_comes_once(frame, tmp_path):
    made, seen = batches(CFG, frame, tmp_path, rt=devices(6))
    assert made.batch == 6  # the nearest multiple of 6 to 8
    assert [len(images) for images, _, _ in seen] == [6] * 4
    assert made.dataset.element_spec[0].shape == (6, *SIZE, 3)
    weights = np.concatenate([weights for _, _, weights in seen])
    assert weights == pytest.approx(np.array([24 / 21] * 21 + [0.0] * 3))


def test_fewer_photos_than_devices_fill_one_masked_batch_of_training(frame, tmp_path):
    rows = np.arange(5)
    made, seen = batches(
        CFG, frame, tmp_path, rows=rows, train=lambda epoch: 1.0, epochs=range(2), rt=devices(8)
    )
    assert (made.steps, len(seen)) == (1, 2)
    for images, _, weights in seen:
        assert len(images) == 8
        assert weights == pytest.approx(np.array([8 / 5] * 5 + [0.0] * 3))


@pytest.mark.parametrize("train", [None, lambda epoch: 1.0])
def test_processes_make_the_parts_of_the_same_batches(frame, tmp_path, train):
    def run(rt):
        return batches(CFG, frame, tmp_path, train=train, views=range(1 if train else 2), rt=rt)[1]

    whole, parts = run(devices(4)), [run(devices(4, 2, process)) for process in (0, 1)]
    assert len(whole) == len(parts[0]) == len(parts[1])
    for step, batch in enumerate(whole):
        for kind, tensor in enumerate(batch):
            assert len(parts[0][step][kind]) == 4
            assert (np.concatenate([part[step][kind] for part in parts]) == tensor).all()


def test_what_neither_memory_nor_disk_can_hold_is_decoded_each_time(frame, tmp_path, monkeypatch):
    read, calls = photos.read_photo, []
    monkeypatch.setattr(photos, "read_photo", lambda *a: calls.append(a[0]) or read(*a))
    whole = cache(frame, tmp_path)
    monkeypatch.setattr(pipeline, "disk_room", lambda scratch: 1000)
    monkeypatch.setattr(pipeline, "free_memory", lambda: whole.bytes)
    part = cache(frame, tmp_path, share=0.5)
    assert part.where == pipeline.PART
    assert 0 < part.kept < 21
    assert part.store.nbytes <= whole.bytes / 2
    assert (
        f"not enough, nor has the disk; {part.kept} are kept, the others are decoded again each time"
        in str(part)
    )
    assert all((part[row] == whole[row]).all() for row in range(21))
    calls.clear()
    assert all((part[row] == whole[row]).all() for row in range(21))
    assert calls == whole.paths[part.kept :]
    none = cache(frame, tmp_path, share=0.0)
    assert none.kept == 0
    assert (none[20] == whole[20]).all()


def test_a_disk_that_fills_up_meanwhile_is_no_error(frame, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    assert cache(frame, tmp_path, share=0.0).where == pipeline.PART
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (("memory.max", "memory.current", "memory.stat"), ""),
        (
            ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
            "total_",
        ),
    ],
)
def test_the_limit_of_a_container_counts_without_its_pages_of_files(tmp_path, names, prefix):
    assert pipeline._group_memory(tmp_path) == []
    for name, text in zip(
        names,
        ("29000\n", "20000\n", f"{prefix}active_file 3000\n{prefix}inactive_file 4000\n"),
        strict=True,
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert pipeline._group_memory(tmp_path) == [16000]
    (tmp_path / "memory.max").write_text("max\n")
    assert pipeline._group_memory(tmp_path) == ([] if not prefix else [16000])
    assert 0 < pipeline.free_memory() < 1 << 50


def competition_frame() -> pd.DataFrame:
    """The competition's photos: 15,561 to train and 6,675 to predict, 640×480."""
    fold = np.repeat([photos.TRAIN, photos.TEST], [15_561, 6_675])
    return pd.DataFrame({"fold": fold, "height": 480, "width": 640, "readable": True})


def test_the_plan_for_the_competition_at_its_largest_size(tmp_path):
    cfg = Config(stages="288x384x1,384x512x1", batch=64, cache_share=0.4)
    free = 27 * 10**9  # of Kaggle's 29 GB, before TensorFlow has taken its own
    early, last = pipeline.plan(cfg, competition_frame(), tmp_path, free, 100 * 10**9)
    assert early.beside
    size = 15_561 * 332 * 442 * 3
    assert early.training == pipeline.Kept(size, pipeline.MEMORY, size)
    assert not last.beside
    size = 15_561 * 442 * 589 * 3  # 12.15 GB, and 0.4 of 27 GB is 10.8
    assert last.training == pipeline.Kept(size, pipeline.DISK, 0)
    assert last.test.where == pipeline.MEMORY
    assert str(last).startswith(
        "photos     384x512x1: to train and validate 12.15 GB on disk; then to predict 5.21 GB in memory; with "
    )
    for plan in (early, last):
        assert plan.memory < 0.45 * free
    full = pipeline.plan(cfg, competition_frame(), tmp_path, free, 10**9)[1]
    assert full.training == pipeline.Kept(size, pipeline.PART, int(0.4 * free))
    assert (
        "12.15 GB, 10.80 of them in memory and the others, for which the disk has no room, decoded each time"
        in str(full)
    )
    roomy = pipeline.plan(cfg.replace(cache_share=0.5), competition_frame(), tmp_path, free, 10**9)[
        1
    ]
    assert roomy.training.where == pipeline.MEMORY


def resident() -> dict[str, int]:
    """Bytes of this process in memory: RssAnon its own, RssFile of files, which the system takes back when it must."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(rows[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")}


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="memory is measured by Linux's /proc"
)
@pytest.mark.parametrize("where", [pipeline.MEMORY, pipeline.DISK])
def test_memory_grows_as_planned(tmp_path, where):
    """200 photos at 384×512, 156 MB: measured against the plan, batches and all; given back at the end."""
    path = write_photo(
        tmp_path / "a.jpg", np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    )
    frame = pd.DataFrame(
        {
            "id": map(str, range(200)),
            "path": str(path),
            "label": 0,
            "height": 480,
            "width": 640,
            "readable": True,
            "fold": photos.TRAIN,
        }
    )
    cfg = Config(
        stages="384x512x1",
        batch=8,
        cache_share=0.5 if where == pipeline.MEMORY else 0.0,
        augment="none",
        tta_views=1,
    )
    (plan,) = pipeline.plan(cfg, frame, tmp_path)
    size = 200 * 442 * 589 * 3
    assert plan.training == pipeline.Kept(size, where, size if where == pipeline.MEMORY else 0)

    def epoch(rows):
        held = cache(frame.iloc[:rows], tmp_path, share=cfg.cache_share, size=(384, 512))
        made = pipeline.make_batches(
            cfg, held, np.arange(rows), np.zeros(rows, int), (384, 512), 2, train=lambda e: 1.0
        )
        for _ in made.dataset:
            pass
        return held, made

    epoch(16)  # threads and buffers that stay
    before = resident()
    held = epoch(200)
    grown = {name: size - before[name] for name, size in resident().items()}
    kept = "RssAnon" if where == pipeline.MEMORY else "RssFile"
    assert grown[kept] > 0.95 * size
    # Photos 156 MB (none of them where they are on disk) and batches 33 MB; a fifth of the photos
    # is the tolerance.
    assert grown["RssAnon"] < plan.memory + 0.2 * size
    del held
    gc.collect()
    assert (
        resident()[kept] < before[kept] + plan.in_flight + 0.2 * size
    )  # malloc keeps the batches' memory


def test_no_tuner_makes_the_end_of_an_iterator_wait(frame, tmp_path):
    made, _ = batches(CFG, frame, tmp_path)
    assert made.dataset.options().autotune.enabled is False
