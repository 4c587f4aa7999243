"""Which file below a folder an id means: the ids of a column are read in one way."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize
from urllib.parse import unquote

from carcls.data.files import Place
from carcls.disk import is_photo_name, photo_files, tree
from carcls.errors import InputError


def _plain(text: str) -> str:
    text = text.strip().lstrip("/")
    return text if text.isascii() else normalize("NFC", text)


def _with_slashes(text: str) -> str:
    return posixpath.normpath(text.replace("\\", "/")).lstrip("/")


def _decoded(text: str) -> str:
    """https://host/a%20b.jpg?size=1 → host/a b.jpg"""
    text = re.sub(r"(\.\w{3,4})[?#].*$", r"\1", re.sub(r"^[a-zA-Z][\w+.-]*:/", "", text))
    return _plain(_with_slashes(unquote(text))) if "%" in text else text


def _blurred(text: str) -> str:
    text = normalize("NFKC", text).casefold()
    return re.sub(r"[\s_+\u200b\ufeff]+", " ", text).strip(" '\"`’")


def _numbered(text: str) -> str:
    """a/img 007.jpg → a/img 7.jpg; 7.0, as a table of numbers writes it, → 7."""
    folder, slash, name = text.rpartition("/")
    name = re.sub(r"^(\d+)\.0+(\.[a-z]+)?$", r"\1\2", name)
    return folder + slash + re.sub(r"(?<!\d)(?<!\d\.)0+(?=\d)", "", name)


# How ids and paths are read, one step upon the other, and what is told of it. A step looks only for
# what those before left, and a file counts if no other id means it.
_STEPS: list[tuple[Callable[[str], str], str]] = [
    (_plain, ""),
    (_with_slashes, r"with / for \ and without ./"),
    (_decoded, "as web addresses"),
    (_blurred, "with no regard to capital letters and blanks"),
    (_numbered, "without zeros in front of numbers"),
]


class _Front(NamedTuple):
    """What ids of a column have in front that no file has, or lack that files have."""

    cut: str = ""
    add: str = ""
    name_alone: bool = False

    def of(self, key: str) -> str:
        return _name(key) if self.name_alone else self.add + key[len(self.cut) :]

    def __str__(self) -> str:
        front = f"without {self.cut!r} in front" if self.cut else f"with {self.add!r} in front"
        return "by name alone" if self.name_alone else front


_SAME = _Front()


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def common_start(texts: Iterable[str]) -> str:
    """What all begin with."""
    ordered = sorted(texts)
    pairs = zip(ordered[0], ordered[-1], strict=False) if ordered else ()
    return "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


class _Index:
    """Relative paths by path, path without extension, name, name without extension, as read."""

    def __init__(self, paths: list[str], keys: list[str], wrappers: list[str]):
        whole, cut, names, stems = (defaultdict[str, list[str]](list) for _ in range(4))
        self._folders = {key.rpartition("/")[0] for key in keys} - {""}
        self._parts, self._wrappers = (whole, cut, names, stems), wrappers
        for path, key in zip(paths, keys, strict=True):
            folder, slash, name = key.rpartition("/")
            stem = name.rpartition(".")[0] or name
            whole[key].append(path)
            cut[folder + slash + stem].append(path)
            names[name].append(path)
            stems[stem].append(path)

    def find(self, key: str) -> list[str]:
        for part in self._parts:  # the order of a search
            if key in part:
                return part[key]
        top, _, below = key.partition("/")
        if below and top in self._wrappers:  # train/1.jpg in the CSV
            return self.find(below)
        # 1.jpg in the CSV, 1.png on disk
        stem = key.rpartition(".")[0] if is_photo_name(key) else ""
        return next((part[stem] for part in self._parts if stem in part), [])

    def search(self, keys: dict[str, str], front: _Front = _SAME) -> dict[str, list[str]]:
        """What is found for these, begun in another way."""
        if front.name_alone or "/" in front.cut:  # a folder that is there is meant
            keys = {
                i: key
                for i, key in keys.items()
                if key[: -len(_name(key)) - 1] not in self._folders
            }
        begun = {ident: front.of(key) for ident, key in keys.items()} if front != _SAME else keys
        return {ident: paths for ident, key in begun.items() if (paths := self.find(key))}

    def front(self, keys: dict[str, str], names: list[str]) -> _Front:
        """The beginning by which most are found, if any is; names: of files that none means."""
        fronts, mine = [_SAME], common_start(keys.values())
        for end, sign in enumerate(mine, 1):
            if sign == "/" or (not sign.isdigit() and len(keys) > 1):
                fronts.append(_Front(cut=mine[:end]))
        if len({_name(key) for key in keys.values()}) == len(keys):
            fronts.append(_Front(name_alone=True))
        fronts.append(_Front(add=common_start(map(_name, names)).rstrip("0123456789")))
        some = dict(list(keys.items())[:500])
        counts = [len(self.search(some, front)) for front in fronts]
        return fronts[counts.index(max(counts))] if 2 * max(counts) > len(some) else _SAME


class Files:
    """The files below a folder, found by what an id may say of their paths."""

    def __init__(self, folder: Path, place: Place) -> None:
        self.folder = folder
        top = place.root if folder.is_relative_to(place.root) else place.scratch
        self._wrappers = folder.relative_to(top).parts  # train, or train and images
        self.paths = [f"{sub}/{name}" if sub else name for sub, name in photo_files(folder)]

    def full(self, path: str) -> str:
        return f"{self.folder}/{path}"

    def match(self, ids: Sequence[str], csv: Path) -> tuple[dict[str, list[str]], list[str]]:
        """Id → relative paths that it may mean, none if lost; and lines on how ids were read.

        An id is looked up, never joined to a path.
        """
        found: dict[str, list[str]] = {}
        notes, doubted = [], dict[str, str]()
        keys, names, wrappers = {ident: ident for ident in ids}, self.paths, list(self._wrappers)
        for step, words in _STEPS:
            keys = {ident: key for ident, key in keys.items() if ident not in found}
            if not keys:
                break
            before = keys, names
            keys = {ident: step(key) for ident, key in keys.items()}
            names, wrappers = list(map(step, names)), list(map(step, wrappers))
            same = (keys, names) == before
            if same and words and step is not _with_slashes:
                continue
            index = _Index(self.paths, names, wrappers)
            hits = {} if same and words else index.search(keys)
            sure = _without_doubt(hits, found) if words else hits
            doubted |= {ident: paths[0] for ident, paths in hits.items() if ident not in sure}
            found |= sure
            ways = [words] * (words != "" and not same)
            notes += _read(csv, ways, sure)
            left = {ident: key for ident, key in keys.items() if ident not in hits}
            if words and left:
                used = {path for paths in found.values() for path in paths}
                pairs = zip(self.paths, names, strict=True)
                free = [name for path, name in pairs if path not in used]
                front = index.front(left, free)
                more = _without_doubt(index.search(left, front), found) if front != _SAME else {}
                if front.add and found and 2 * len(more) <= len(free):
                    more = {}  # masks beside the photos, and some photos are lost
                found |= more
                notes += _read(csv, [*ways, str(front)], more)
        doubted = {ident: path for ident, path in doubted.items() if ident not in found}
        if doubted:
            ident, path = next(iter(doubted.items()))
            count = f"{len(doubted):,} {'ids' if doubted.keys() - {ident} else 'id'}"
            notes.append(
                f"WARNING: {csv.name}: {count} without a file, as the one that may be meant is "
                f"another id's, too, such as {ident!r}: {path}"
            )
        return {ident: _photos_first(found.get(ident, [])) for ident in ids}, notes

    def refuse_lost(self, csv: Path, found: dict[str, list[str]], why: str = "") -> None:
        """Raise InputError if most ids match no file."""
        lost = [ident for ident, paths in found.items() if not paths]
        if 2 * len(lost) <= len(found):
            return
        used = {path for paths in found.values() for path in paths}
        free = next((path for path in self.paths if path not in used), "no other file")
        raise InputError(
            f"{csv}: {len(lost):,} of {len(found):,} ids match no file in {self.folder}; looked "
            f"for {lost[0]!r}, and there is {free!r}.{why} There is:\n{tree(self.folder)}"
        )


def _read(csv: Path, ways: list[str], hits: dict[str, list[str]]) -> list[str]:
    if not ways or not hits:
        return []
    ident, paths = next(iter(hits.items()))
    how = f"{len(hits):,} {'ids are' if hits.keys() - {ident} else 'id is'} read"
    return [f"{csv.name}: {how} {' and '.join(ways)}, as in {ident!r}: {paths[0]}"]


def _photos_first(paths: list[str]) -> list[str]:
    """Of several files, 1.jpg and 1.xml with boxes in it, those that are called like photos."""
    return ([path for path in paths if is_photo_name(path)] or paths) if paths[1:] else paths


def _without_doubt(hits: dict[str, list[str]], found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Those whose file no other id means."""
    means: dict[str, int] = defaultdict(int)
    for paths in (*found.values(), *hits.values()):
        for path in paths:
            means[path] += 1
    return {ident: paths for ident, paths in hits.items() if all(means[p] == 1 for p in paths)}
