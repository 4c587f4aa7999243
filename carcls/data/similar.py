"""Small copies of all photos: how bright these are, and which of them show the same picture.

Found are photos that were resized, encoded anew, mirrored, or made a little brighter; not those
that were cut by more than a few px, or lost their colours. Thresholds were chosen on cars10: see
carcls/desk/MEASUREMENTS.md.
"""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from carcls.data import pixels
from carcls.errors import InputError

FAR = 7  # bits of 63: hashes of copies are at most this far apart; see _LOOSE
APART = 10.0  # mean difference of two copies' small pictures, of 255
FLAT = 4.0  # contrast below which a photo shows nothing that could be compared
_LEAST = 64  # px of the shorter side that are decoded: with 32, resized copies were missed
_GRID, _THUMB = 32, 16  # px of the squares that a hash is computed from, and that are compared
_WAVES = np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(_GRID) + 1) / (2 * _GRID))
_WAVES = _WAVES.astype(np.float32)  # (8, 32)
_BITS = np.uint64(1) << np.arange(64, dtype=np.uint64)
# Two 64-bit numbers that differ in FAR bits have one of four 16-bit parts in which they differ in
# one bit at most. A part has waves of every length: of long ones alone, most photos share many.
_PART = (np.add.outer(np.arange(8), np.arange(8)) % 4).ravel()
_ORDER = np.argsort(_PART, kind="stable")
_LOOSE = [np.uint64(0), *_BITS[:16]]
assert FAR < 2 * 4, "else two hashes may differ in two bits of every part"
_FLIPPED = np.where(np.arange(8) % 2, -1, 1)  # mirrored, a wave of odd length changes its sign
_NOISE = 40  # of a wave: below it, which sign it has is the encoder's doing
_ONES = np.array([bin(n).count("1") for n in range(2**16)], np.uint8)
_ROOM = 2**21  # pairs that are looked at together
_ROUNDS = 64
_MOST = 16  # of 3,500 photos of cars10 at most 9 share a part
_FEW = 8  # pairs of a photo with later ones that are listed, the nearest


@dataclass(frozen=True, eq=False)
class Small:
    """What small copies tell of N photos, in the order of a table's frame."""

    seen: np.ndarray  # (N,) bool; False: has no file, or cannot be read
    hashes: np.ndarray  # (N,) uint64
    mirrored: np.ndarray  # (N,) uint64, the hashes of mirrored photos
    thumbs: np.ndarray  # (N, 16, 16, 3) uint8 RGB
    brightness: np.ndarray  # (N,) float32, mean grey, 0 black to 255 white
    contrast: np.ndarray  # (N,) float32, standard deviation of grey

    @property
    def flat(self) -> np.ndarray:
        """(N,) bool: those of one colour, which are not compared."""
        return self.seen & (self.contrast < FLAT)


def shrink(frame: pd.DataFrame) -> Small:
    """Decode all photos of a table's frame, JPEGs much reduced, in threads; same files once."""
    firsts = frame.drop_duplicates("group")
    columns = (firsts[name] for name in ("path", "height", "width", "readable"))
    files = list(zip(*(column.tolist() for column in columns), strict=True))
    chunks = [files[start : start + 64] for start in range(0, len(files), 64)]
    Image.init()  # loads Pillow's formats here, not in several threads at a time
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        warnings.simplefilter("ignore")  # the audit has said what is odd
        parts = list(pool.map(_of_chunk, chunks))
    rows = pd.Index(firsts["group"]).get_indexer(frame["group"])
    # Those without a file have one group, as their bytes are the same: none.
    return Small(*(np.concatenate(values)[rows] for values in zip(*parts, strict=True)))


def _of_chunk(files: list[tuple[str, int, int, bool]]) -> tuple[np.ndarray, ...]:
    seen = np.zeros(len(files), bool)
    grids = np.zeros((len(files), _GRID, _GRID), np.uint8)
    thumbs = np.zeros((len(files), _THUMB, _THUMB, 3), np.uint8)
    light = np.zeros((len(files), 2), np.float32)
    for n, (path, height, width, readable) in enumerate(files):
        try:
            if path and readable:
                photo = pixels.read_photo(path, _LEAST, _LEAST, height, width)
                grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
                grids[n] = cv2.resize(grey, (_GRID, _GRID), interpolation=cv2.INTER_AREA)
                thumbs[n] = cv2.resize(photo, (_THUMB, _THUMB), interpolation=cv2.INTER_AREA)
                light[n] = [value.item() for value in cv2.meanStdDev(grey)]
                seen[n] = True
        except InputError:  # training says so where it takes a grey photo instead
            pass
    return seen, *hashes_of(grids), thumbs, light[:, 0], light[:, 1]


def hashes_of(grids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) uint64 of grey squares (N, 32, 32), and the same of mirrored ones.

    A bit says whether one of the 63 longest waves, but the mean, is positive.
    """
    waves = _WAVES @ grids.astype(np.float32) @ _WAVES.T
    waves[:, 0, 0] = 0
    return _signs(waves), _signs(waves * _FLIPPED)


def _signs(waves: np.ndarray) -> np.ndarray:
    bits = np.packbits(waves.reshape(-1, 64)[:, _ORDER] > _NOISE, axis=1, bitorder="little")
    return np.ascontiguousarray(bits).view(np.uint64)[:, 0]


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """In how many bits numbers (N,) uint64 differ; (N,) int."""
    parts: np.ndarray = _ONES[(a ^ b).view(np.uint16).reshape(-1, 4)].sum(1, dtype=np.int64)
    return parts


def near(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(i, j), i < j, in which hashes[i] and others[j] differ in at most FAR bits; (P, 2) int.

    others: the same hashes, or those of the mirrored photos. All of them, but where more than _MOST
    photos share a part, as the frames of a film do: there each meets the _MOST that come after it,
    as all with all would take hours and more memory than there is.
    """
    n = max(1, len(hashes))
    found, rows = np.empty(0, np.int64), np.arange(len(hashes))
    for shift in np.arange(0, 64, 16, dtype=np.uint64):
        part = ((hashes >> shift) & np.uint64(0xFFFF)).astype(np.int64)
        theirs = ((others >> shift) & np.uint64(0xFFFF)).astype(np.int64) * n + rows
        order = np.argsort(theirs)
        theirs, near_here = theirs[order], [found]
        for loose in _LOOSE:
            wanted = (part ^ int(loose)) * n
            start = np.searchsorted(theirs, wanted + rows, "right")  # so j is larger than i
            count = np.minimum(np.searchsorted(theirs, wanted + n) - start, _MOST)
            total = np.cumsum(count)
            cuts = np.searchsorted(total, np.arange(_ROOM, total.max(initial=0), _ROOM))
            for some in filter(len, np.split(rows, cuts)):
                i = np.repeat(some, count[some])
                before = total[some] - count[some] - (total[some[0]] - count[some[0]])
                j = order[np.arange(len(i)) + np.repeat(start[some] - before, count[some])]
                is_near = distance(hashes[i], others[j]) <= FAR
                near_here.append(i[is_near] * n + j[is_near])
        found = np.unique(np.concatenate(near_here))
    return np.stack([found // n, found % n], 1)


def pairs(small: Small, group: np.ndarray) -> pd.DataFrame:
    """Photos that show the same picture in files that differ; group (N,): the same for same files.

    A row each: a < b, positions; distance of their hashes in bits; mirrored. Of many photos with
    one hash, each is paired with the first alone; of same files, the first is compared. Of frames
    of a film, each is paired with the _FEW nearest that come after it.
    """
    rows = np.flatnonzero(small.seen & ~small.flat & ~pd.Series(group).duplicated().to_numpy())
    same, firsts = _same_hash(small, rows)
    hashes = small.hashes[firsts]
    found = [same.assign(distance=0, mirrored=False)]
    for mirrored in (False, True):
        others = small.mirrored[firsts] if mirrored else hashes
        a, b = near(hashes, others).T
        some = pd.DataFrame(
            {"a": firsts[a], "b": firsts[b], "distance": distance(hashes[a], others[b])}
        )
        is_same = _alike(small.thumbs, firsts[a], firsts[b], mirrored)
        found.append(some[is_same].assign(mirrored=mirrored))
    # What looks the same in a mirror, too, is a pair once.
    joined = pd.concat(found, ignore_index=True).drop_duplicates(["a", "b"])
    joined = joined.sort_values(["distance", "a", "b"], ignore_index=True)
    is_listed = (joined["distance"] == 0) | (joined.groupby("a").cumcount() < _FEW)
    return joined[is_listed].reset_index(drop=True)


def _same_hash(small: Small, rows: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
    """Pairs a, b of the first photo with a hash and those like it; and all that are no such b."""
    left, firsts, found = rows, [], [np.empty((0, 2), np.int64)]
    for _ in range(_ROUNDS):  # in each, of every hash the first photo that is like none before it
        hashes = pd.Series(small.hashes[left])
        is_first = ~hashes.duplicated().to_numpy()
        firsts.append(left[is_first])
        first = left[is_first][pd.Index(hashes[is_first]).get_indexer(hashes)]
        is_like = ~is_first & _alike(small.thumbs, first, left, False)
        found.append(np.stack([first[is_like], left[is_like]], 1))
        left = left[~is_first & ~is_like]
    columns = pd.DataFrame(np.concatenate(found), columns=["a", "b"])
    return columns, np.sort(np.concatenate([*firsts, left]))


def _alike(thumbs: np.ndarray, a: np.ndarray, b: np.ndarray, mirrored: bool) -> np.ndarray:
    """(P,) bool: whether small pictures are the same but for their brightness."""
    found = [np.empty(0, bool)]
    for start in range(0, len(a), 4096):
        first, second = thumbs[a[start : start + 4096]], thumbs[b[start : start + 4096]]
        apart = first.astype(np.float32) - (second[:, :, ::-1] if mirrored else second)
        apart -= apart.mean((1, 2, 3), keepdims=True)
        found.append(np.abs(apart).mean((1, 2, 3)) <= APART)
    return np.concatenate(found)


def grouped(pairs: pd.DataFrame, group: np.ndarray) -> np.ndarray:
    """(N,) int: the same for photos that pairs, or the same files (group), hold together."""
    from scipy.sparse import coo_array, csgraph

    links = group[pairs["a"]], group[pairs["b"]]
    shape = (group.max(initial=-1) + 1,) * 2
    return csgraph.connected_components(coo_array((np.ones(len(pairs)), links), shape))[1][group]
