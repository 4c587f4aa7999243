"""Photos of the same picture: which are found, which are not, and that the search loses none."""

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
from cases import encoded, picture, write

from carcls.data import audit, similar


def scene(seed: int, height=96, width=128) -> np.ndarray:
    """Coarse and fine shapes, as in a photo; other seeds, other shapes."""
    rng = np.random.default_rng(seed)
    photo = np.full((height, width, 3), rng.integers(40, 200, 3), np.uint8)
    for _ in range(25):
        a, b = rng.integers(0, (width, height), (2, 2)).tolist()
        cv2.rectangle(
            photo, a, b, rng.integers(0, 256, 3).tolist(), -1 if rng.random() < 0.7 else 2
        )
    return photo


def frame_of(folder, *contents: bytes) -> pd.DataFrame:
    paths = [str(write(folder / f"{n}.photo", data)) for n, data in enumerate(contents)]
    facts = audit.look(paths)
    rows = [(path, facts[path].height, facts[path].width, facts[path].readable) for path in paths]
    frame = pd.DataFrame(rows, columns=["path", "height", "width", "readable"])
    return frame.assign(group=pd.factorize(np.array([facts[path].digest for path in paths]))[0])


def pairs_of(folder, *contents: bytes) -> set[tuple[int, int, bool]]:
    frame = frame_of(folder, *contents)
    found = similar.pairs(similar.shrink(frame), frame["group"].to_numpy())
    return set(found[["a", "b", "mirrored"]].itertuples(index=False, name=None))


def resized(photo: np.ndarray, factor: float) -> np.ndarray:
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(photo, None, fx=factor, fy=factor, interpolation=way)


@pytest.mark.parametrize(
    ("change", "options", "mirrored"),
    [
        (lambda photo: photo, {"quality": 40}, False),
        (lambda photo: photo, {"kind": "PNG"}, False),
        (lambda photo: resized(photo, 0.6), {"quality": 75}, False),
        (lambda photo: resized(photo, 3.0), {"quality": 75}, False),
        (lambda photo: cv2.add(photo, (15, 15, 15, 0)), {"quality": 90}, False),
        (lambda photo: photo[:, ::-1], {"quality": 75}, True),
    ],
    ids=["worse", "other format", "smaller", "larger", "brighter", "mirrored"],
)
def test_copies_are_found(tmp_path, change, options, mirrored):
    photos = [scene(seed) for seed in range(6)]
    files = [encoded(photo, quality=95) for photo in photos]
    copies = [encoded(change(photo), **options) for photo in photos]
    assert pairs_of(tmp_path, *files, *copies) == {(n, n + 6, mirrored) for n in range(6)}


def test_others_are_not_alike(tmp_path):
    photos = [scene(seed) for seed in range(30)]
    turned = [photos[0][::-1], photos[0].transpose(1, 0, 2), 255 - photos[0]]
    assert not pairs_of(tmp_path, *(encoded(photo, "PNG") for photo in [*photos, *turned]))


def test_the_same_waves_in_other_colours_are_told_apart(tmp_path):
    photo = scene(1)
    other = photo.copy()
    other[:, :64] = other[:, :64, ::-1]  # nearly the same grey
    frame = frame_of(tmp_path, encoded(photo, "PNG"), encoded(other, "PNG"))
    small = similar.shrink(frame)
    twice = np.array([small.hashes[0]] * 2)
    same_hash = replace(small, hashes=twice, mirrored=twice)
    assert similar.pairs(same_hash, np.arange(2)).empty
    copies = replace(same_hash, thumbs=small.thumbs[[0, 0]])
    assert len(similar.pairs(copies, np.arange(2))) == 1


def test_flat_photos_are_not_all_alike(tmp_path):
    levels = (0, 90, 90, 255)
    noise = np.random.default_rng(0).integers(0, 3, (4, 48, 64, 3))
    flat = [
        (np.minimum(level, 252) + n).astype(np.uint8)
        for level, n in zip(levels, noise, strict=True)
    ]
    frame = frame_of(tmp_path, *(encoded(photo, "PNG") for photo in flat))
    small = similar.shrink(frame)
    assert small.flat.all()
    assert small.brightness.round().tolist() == pytest.approx([1, 91, 91, 253], abs=1)
    assert similar.pairs(small, np.arange(4)).empty


def test_same_files_and_what_cannot_be_read_are_left_to_the_audit(tmp_path):
    same = encoded(picture(1), quality=95)
    frame = frame_of(tmp_path, same, same, b"no photo", encoded(picture(1), quality=70))
    small = similar.shrink(frame)
    assert small.seen.tolist() == [True, True, False, True]
    assert small.hashes[0] == small.hashes[1]
    group = frame["group"].to_numpy()
    found = similar.pairs(small, group)
    assert found[["a", "b"]].to_numpy().tolist() == [[0, 3]]
    whole = similar.grouped(found, group)
    assert whole[0] == whole[1] == whole[3] != whole[2]


def test_of_many_copies_each_is_paired_once(tmp_path):
    thumbs = np.repeat(np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)), 500, 0)
    hashes = np.full(1000, 12345, np.uint64)  # of two pictures
    light = np.full(1000, 50, np.float32)
    small = similar.Small(
        np.ones(1000, bool), hashes, ~hashes, thumbs.astype(np.uint8), light, light
    )
    found = similar.pairs(small, np.arange(1000))
    assert len(found) == 998 and found["b"].is_unique
    assert len(set(similar.grouped(found, np.arange(1000)))) == 2


def test_all_near_hashes_are_found():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 4000, dtype=np.uint64)
    flips = [
        sum(1 << int(k) for k in rng.choice(64, rng.integers(0, 11), False)) for _ in range(1000)
    ]
    hashes = np.concatenate([base, base[:1000] ^ np.array(flips, np.uint64)])
    expected = set()
    for i in range(len(hashes)):
        bits = similar.distance(np.full(len(hashes) - i - 1, hashes[i]), hashes[i + 1 :])
        expected |= {(i, i + 1 + int(j)) for j in np.flatnonzero(bits <= similar.FAR)}
    assert 500 < len(expected) < 1000
    assert set(map(tuple, similar.near(hashes, hashes).tolist())) == expected


def test_of_many_near_hashes_each_meets_some_and_all_hang_together():
    rng, n = np.random.default_rng(0), 4000
    hashes = np.full(n, 12345, np.uint64)
    for _ in range(3):  # the frames of a film: all with all would be 8 million pairs
        hashes ^= np.uint64(1) << rng.integers(0, 63, n).astype(np.uint64)
    found = similar.near(hashes, hashes)
    assert n < len(found) < 0.4 * n * (n - 1)
    assert (found[:, 0] < found[:, 1]).all() and len(np.unique(found, axis=0)) == len(found)
    assert (similar.distance(hashes[found[:, 0]], hashes[found[:, 1]]) <= similar.FAR).all()
    pairs = pd.DataFrame(found, columns=["a", "b"])
    assert len(set(similar.grouped(pairs, np.arange(n)))) == 1


def test_distance_and_mirror():
    assert similar.distance(
        np.array([0, 2**64 - 1], np.uint64), np.array([7, 0], np.uint64)
    ).tolist() == [3, 64]
    grids = np.random.default_rng(0).integers(0, 256, (20, 32, 32), np.uint8)
    (hashes, mirrored), flipped = similar.hashes_of(grids), similar.hashes_of(grids[:, :, ::-1])
    assert flipped[0].tolist() == mirrored.tolist() != hashes.tolist()
    assert flipped[1].tolist() == hashes.tolist()


def test_nothing_to_compare():
    for hashes in (np.empty(0, np.uint64), np.array([5], np.uint64)):
        assert similar.near(hashes, hashes).shape == (0, 2)
