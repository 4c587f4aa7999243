"""Refuses augmentation that harms photos of cars, or only costs time."""

from __future__ import annotations

import ctypes
import json
import random
import resource
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    import albumentations as A

# Root mean square, of 255 grey levels: a transform that changes the made-up photo by less does
# nothing (MEASUREMENTS: what a transform changes).
NO_OP = 14.0
_DRAWS = 16  # of each transform
_SECONDS = 5.0  # for all draws of one of them
_MOST = 100  # transforms, those inside others included
_LARGEST = 16_384  # of their numbers: of pixels or steps it takes too long, and memory
_LONGEST_FILE = 100_000  # bytes
_MOST_PARTS = 10_000  # of a file of YAML, each counted as often as it is referred to
_MEMORY = 2**30  # bytes more than there are: what the draws may take


def lint(transforms: list[A.BasicTransform], height: int, width: int) -> list[str]:
    """What is wrong with these transforms for photos of cars, a sentence each.

    They are judged by what they do to two made-up photos of that size.
    """
    count = sum(len(_parts(t)) for t in transforms)
    if count > _MOST:
        return [f"{count:,} transforms, those inside others included; expected at most {_MOST}"]
    photo, problems = blobs(height, width), list(filter(None, map(_number_problem, transforms)))
    with _limited_memory():
        for transform in () if problems else transforms:
            future: Future[str] = Future()
            judge = threading.Thread(target=_judge, args=(transform, photo, future), daemon=True)
            judge.start()
            try:
                problems.append(future.result(_SECONDS))
            except TimeoutError:
                # It ends after the call that it is in. If Python ended before it, that would abort.
                stop = ctypes.py_object(SystemExit)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(judge.ident or 0), stop)
                judge.join(_SECONDS)
                took = f"takes more than {_SECONDS:g} s for some photos of {height}x{width}"
                return [*filter(None, problems), f"{type(transform).__name__} {took}"]
    return list(filter(None, problems))


def read(path: Path) -> dict[str, Any]:
    """What a file of albumentations.save has, JSON or YAML. Raises ValueError and the like."""
    if path.stat().st_size > _LONGEST_FILE:
        raise ValueError(f"{path.stat().st_size:,} bytes; expected at most {_LONGEST_FILE:,}")
    text = path.read_text()
    if path.suffix not in (".yaml", ".yml"):
        content = json.loads(text)
    else:
        import yaml

        tree = yaml.compose(text, yaml.SafeLoader)  # nothing is repeated yet
        if _count(tree, _MOST_PARTS) > _MOST_PARTS:
            raise ValueError(f"its references make more than {_MOST_PARTS:,} parts of it")
        content = yaml.safe_load(text)
    if not isinstance(content, dict):
        raise ValueError(f"{type(content).__name__}; expected a dict")
    return content


def _count(node: Any, most: int) -> int:
    """Nodes of YAML with all that they refer to, or more than ``most``."""
    count, ahead = 0, [node]
    while ahead and count <= most:
        value = getattr(ahead.pop(), "value", None)
        count += 1
        for part in value if isinstance(value, list) else ():
            ahead += part if isinstance(part, tuple) else [part]  # a key and its value
    return count


@contextmanager
def _limited_memory() -> Iterator[None]:
    """So that a transform which makes a photo huge is an error, and does not end the process."""
    status = Path("/proc/self/statm")
    if not status.exists():
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(status.read_text().split()[0]) * resource.getpagesize() + _MEMORY
    if before[0] != resource.RLIM_INFINITY:
        limit = min(limit, before[0])
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _takes_too_much(error: Exception) -> bool:
    """Python's error, or OpenCV's."""
    return isinstance(error, MemoryError) or "nsufficient memory" in str(error)


def _number_problem(transform: Any) -> str:
    for key, number in _numbers("", transform.to_dict()):
        if not abs(number) <= _LARGEST:
            name = type(transform).__name__
            return f"{name}: {key} is {number:,}; expected at most {_LARGEST:,}"
    return ""


def _numbers(key: str, tree: Any) -> Iterator[tuple[str, float]]:
    """All numbers of a transform written as a dict, and what they are called there."""
    if isinstance(tree, (int, float)):
        yield key, tree
    elif isinstance(tree, (dict, list, tuple)):
        for name, part in tree.items() if isinstance(tree, dict) else ((key, t) for t in tree):
            yield from _numbers(str(name), part)


def _judge(transform: Any, photo: np.ndarray, future: Future[str]) -> None:
    try:
        future.set_result(_problem(transform, photo))
    except BaseException as error:
        future.set_exception(error)


def _problem(transform: Any, photo: np.ndarray) -> str:
    name = type(transform).__name__
    try:
        outputs = [_apply(transform, photo, seed) for seed in range(_DRAWS)]
    except Exception as error:  # somebody else's transform may raise anything
        height, width = photo.shape[:2]
        return f"{name} cannot be applied to a photo of {height}x{width}: {error}"
    # Inside OneOf and the like a flip may be rare: each part is looked at by itself.
    try:
        turning = next((part for part in _parts(transform) if _turns(part, *photo.shape[:2])), None)
    except MemoryError as error:
        return f"a part of {name} takes too much memory: {error}"
    if turning is not None:
        part = name if turning is transform else f"{type(turning).__name__} in {name}"
        return f"{part} turns cars upside down or on their side"
    for output in outputs:
        if output.dtype != np.uint8 or output.shape != photo.shape:
            return f"{name} turns uint8 {photo.shape} into {output.dtype} {output.shape}"
    change = float(np.sqrt(np.mean([(o.astype(float) - photo) ** 2 for o in outputs])))
    if change < NO_OP:
        return f"{name} changes a photo by {change:.1f} of 255 grey levels: it only costs time"
    return ""


def _parts(transform: Any) -> list[Any]:
    """The transform, then all those inside it."""
    # ColorJitter's are functions.
    inner = [t for t in getattr(transform, "transforms", ()) if hasattr(t, "to_dict")]
    return [transform, *(part for t in inner for part in _parts(t))]


def _turns(transform: Any, height: int, width: int) -> bool:
    """Whether the sky, which is bright, does not stay above the road."""
    sky = np.zeros((height, width, 3), np.uint8)
    sky[: height // 2] = 255
    third = height // 3
    for seed in range(_DRAWS):
        try:
            seen = _apply(transform, sky, seed)
        except Exception as error:
            if _takes_too_much(error):
                raise MemoryError(f"{type(transform).__name__}: {error}") from None
            return False  # a part may need what another one leaves; the whole can be applied
        same_kind = seen.dtype == np.uint8 and seen.shape == sky.shape
        if same_kind and seen[:third].mean() <= seen[-third:].mean() + 20:
            return True
    return False


def blobs(height: int, width: int) -> np.ndarray:
    """A photo of blobs of every grey, as coarse as a car's parts, so that small moves show."""
    noise = np.random.default_rng(0).integers(0, 256, (128, 160, 3), np.uint8)
    soft = cv2.GaussianBlur(noise, (0, 0), 3)
    even = cv2.merge([cv2.equalizeHist(channel) for channel in cv2.split(soft)])
    return cv2.resize(even, (width, height), interpolation=cv2.INTER_LINEAR)


def _apply(transform: A.BasicTransform, photo: np.ndarray, seed: int) -> np.ndarray:
    """The transform with p=1."""
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
    p, transform.p = transform.p, 1.0
    try:
        return transform(image=photo)["image"]
    finally:
        transform.p = p
