"""What a submission has to look like: the sample submission says it, or what there is instead."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Literal

import pandas as pd

from carcls.config import Config
from carcls.data import labels, tables
from carcls.data.audit import Audit
from carcls.data.files import Place
from carcls.data.labels import NO_VALUES, Label
from carcls.data.names import common_start
from carcls.data.tables import clean
from carcls.disk import is_photo_name, may_be_photo, photo_files
from carcls.errors import ConfigError, InputError

_YES = ("true", "yes", "y", "positive")
_BOXES = re.compile(
    r"(prediction|bbox|box)(e?s|strings?|labels)?|encodedpixels|(pixel|encoded)?rle|segmentation"
    r"|(bbox)?[xy](min|max)"
)


@dataclass(frozen=True)
class Asks:
    """The columns of a submission.

    kind: "labels": an id and a label; "positive": an id and the probability of one of two classes;
    "classes": an id and a column of probabilities for each class.
    """

    kind: Literal["labels", "positive", "classes"]
    columns: tuple[str, ...]  # names, the id's first
    # The class (its index in Table.classes) of each column after the id's; -1: one that no train
    # photo has. None of "labels".
    classes: tuple[int, ...] = ()

    @property
    def probabilities(self) -> bool:
        return self.kind != "labels"

    def of(self, named: Sequence[Label], classes: Sequence[Label]) -> Asks:
        """The same, by the classes that are left of those that it was by."""
        number = {label: k for k, label in enumerate(classes)}
        left = [-1 if k < 0 else number.get(named[k], -1) for k in self.classes]
        return replace(self, classes=tuple(left))


@dataclass
class Sample:
    """The sample submission, or what takes its place: then ``csv`` is None."""

    csv: Path | None
    columns: tuple[str, ...]  # names, the id's first
    ids: list[str]
    values: pd.DataFrame  # the columns after the id's, as text
    paths: list[str] = field(default_factory=list)  # the files of the ids, without a CSV file

    @property
    def asked(self) -> pd.Series:
        """The labels in it, by which little is meant; none where it has a column a class."""
        found = self.values.iloc[:, 0] if self.values.shape[1] else pd.Series(dtype=str)
        return found if self.values.shape[1] == 1 and not _shares(found) else found.iloc[:0]


def read_sample(place: Place) -> Sample | None:
    """The sample submission, if there is one. Raises InputError if it asks for boxes."""
    if place.sample_csv is None:
        return None
    frame = tables.read_csv(place.sample_csv)
    names = tuple(map(str, frame.columns))
    sample = Sample(place.sample_csv, names, frame.iloc[:, 0].tolist(), frame.iloc[:, 1:])
    if len(names) == 1:
        raise InputError(
            f"{place.sample_csv}: column {names[0]} alone; expected an id and a label, or an id "
            "and a column of probabilities for each class"
        )
    if len(names) == 2 and (what := _other_than_classes(sample.values)):
        raise InputError(
            f"{place.sample_csv}: column {names[1]}: {what}, which carcls does not give; expected "
            "a label or a probability"
        )
    return sample


def of_photos(
    place: Place, ids: Sequence[str], columns: tuple[str, str], audit: Audit, notes: list[str]
) -> Sample:
    """For want of a sample submission: all test photos, by name; ids are written as train's are."""
    found = [f"{at}/{name}" if at else name for at, name in photo_files(place.test_photos)]
    paths = sorted(filter(may_be_photo, found))
    others = Counter(Path(path).suffix.lower() or path for path in set(found) - set(paths))
    if others:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(others.items()))
        audit.add("test", "", "files that are no photos", "left out", kinds)
    written = [_written_as(place, ids, paths)] if ids else []
    # Where two photos would have one id, all have their extension, or their folder, too.
    written += [_names(paths, "", folder, True) for folder in (False, True)] if ids else []
    written += [paths]
    names = next(names for names in written if len(set(names)) == len(paths))
    notes.append(
        f"no sample submission in {place.root}: all {len(paths):,} test photos are predicted, "
        f"sorted by name, with ids such as {next(iter(names), '')!r} in the column {columns[0]}"
    )
    full = [f"{place.test_photos}/{path}" for path in paths]
    rows = sorted(zip(names, full, strict=True))
    values = pd.DataFrame({columns[1]: pd.Series(dtype=str)})
    return Sample(None, columns, [row[0] for row in rows], values, [row[1] for row in rows])


def _written_as(place: Place, ids: Sequence[str], paths: list[str]) -> list[str]:
    """The ids of these test photos, written as most ids of train photos are."""
    ids = [ident.replace("\\", "/") for ident in ids]

    def most(which: Iterable[bool]) -> bool:
        return 2 * sum(which) > len(ids)

    def tops(folder: Path) -> list[str]:
        top = place.root if folder.is_relative_to(place.root) else place.scratch
        parts = folder.relative_to(top).parts
        return ["/".join((*parts[k:], "")) for k in range(len(parts))]

    pairs = zip(tops(place.train_photos), tops(place.test_photos), strict=False)
    front = next((own for top, own in pairs if most(i.startswith(top) for i in ids)), "")
    return _names(paths, front, most("/" in i for i in ids), most(map(is_photo_name, ids)))


def _names(paths: list[str], front: str, folder: bool, extension: bool) -> list[str]:
    names = [path if folder else path.rpartition("/")[2] for path in paths]
    if not extension:
        names = [name.rpartition(".")[0] if is_photo_name(name) else name for name in names]
    return [front + name for name in names]


def decide(cfg: Config, sample: Sample, classes: Sequence[Label]) -> tuple[Asks, list[str]]:
    """What is asked for where training has these classes, and lines for the log.

    Raises InputError where it is nothing that carcls gives, and ConfigError where the setting
    ``positive`` does not fit.
    """
    if cfg.metric == "auc" and len(classes) != 2:
        raise ConfigError(f"metric=auc: is of two classes; there are {len(classes):,}")
    notes = list[str]()
    if len(sample.columns) > 2:
        asks = _of_classes(sample, classes, notes)
    elif sample.csv is None and cfg.metric == "log_loss":
        names = tuple(map(str, classes))
        asks = Asks("classes", (sample.columns[0], *names), tuple(range(len(classes))))
        notes.append("metric=log_loss: the submission gets a column of probabilities a class")
    elif _asks_for_a_share(cfg, sample, classes):
        asks = _of_one(cfg, sample, classes, notes)
    else:
        asks = Asks("labels", sample.columns)
        if sample.csv:
            notes += labels.check_sample(sample.values.iloc[:, 0], set(classes), sample.csv)
        of_auc = cfg.replace(metric="auc")
        if cfg.metric == "auto" and _asks_for_a_share(of_auc, sample, classes):
            notes.append(
                "labels are submitted; where a probability is asked for, set metric=auc or "
                "metric=log_loss"
            )
        if cfg.metric in ("auc", "log_loss"):
            notes.append(
                f"WARNING: metric={cfg.metric} is of probabilities, but the sample submission asks "
                "for labels, so labels are submitted"
            )
    if cfg.positive and asks.kind != "positive":
        raise ConfigError(
            f"positive={cfg.positive}: the submission is not the probability of one of two "
            f"classes but {'labels' if asks.kind == 'labels' else 'a column a class'}; leave it out"
        )
    return asks, notes


# --- The probability of one of two classes --------------------------------------------------------


def _asks_for_a_share(cfg: Config, sample: Sample, classes: Sequence[Label]) -> bool:
    if len(classes) != 2:
        return False
    if sample.csv is None:
        return cfg.metric == "auc"
    held, known = sample.values.iloc[:, 0], {clean(str(label)) for label in classes}
    if _shares(held):
        return not set(held.map(clean)) <= known
    numbers = {labels.as_number(text) for text in held.map(clean) if text}
    if not numbers or not numbers <= {0, 1}:
        return False
    # Zeros and ones may be labels, or probabilities that nobody has filled in.
    of_classes = {labels.as_number(text) for text in known}
    may_be = of_classes == {0, 1} or not numbers & of_classes
    return bool(cfg.positive) or (may_be and cfg.metric in ("auc", "log_loss"))


def _of_one(cfg: Config, sample: Sample, classes: Sequence[Label], notes: list[str]) -> Asks:
    column, names = sample.columns[1], " and ".join(map(repr, map(str, classes)))
    find = labels.by_name(classes)
    if cfg.positive and find(cfg.positive) is None:
        raise ConfigError(f"positive={cfg.positive}: no such class; expected one of {names}")
    positive = find(cfg.positive) if cfg.positive else _usual(classes)
    positive = find(column) if positive is None else positive
    if positive is None:
        raise InputError(
            f"{sample.csv or 'submission.csv'}: column {column} is the probability of one of the "
            f"classes {names}, and one cannot tell of which; set positive to it"
        )
    index = list(classes).index(positive)
    notes.append(
        f"column {column}: the probability of class {positive}, not of {classes[1 - index]}; "
        "the setting positive changes it"
    )
    return Asks("positive", sample.columns, (index,))


def _usual(classes: Sequence[Label]) -> Label | None:
    """Of two classes, the one that is called 1 beside 0 or -1, true, yes, y or positive."""
    texts = [clean(str(label)).casefold() for label in classes]
    numbers = [labels.as_number(text) for text in texts]
    yes = [text in _YES for text in texts]
    if None not in numbers:
        yes = [number == 1 and bool({0, -1} & set(numbers)) for number in numbers]
    return classes[yes.index(True)] if sum(yes) == 1 else None


# --- A column a class -----------------------------------------------------------------------------


def _of_classes(sample: Sample, classes: Sequence[Label], notes: list[str]) -> Asks:
    names, csv = sample.columns[1:], sample.csv
    assert csv
    found, cut = by_column(names, classes)
    hits = [label for label in found if label is not None]
    listed = f"found columns {few(names)}; the classes of the train photos are {few(classes)}"
    if 2 * len(hits) < len(names) or len(hits) < 2:
        what = _other_than_classes(sample.values)
        what = f" ({what}, which carcls does not give)" if what else ""
        raise InputError(
            f"{csv}: {len(hits)} of {len(names)} columns after {sample.columns[0]} are classes; "
            f"expected an id and a label, or an id and a column for each class{what}; {listed}"
        )
    twice = [label for label, n in Counter(hits).items() if n > 1]
    if twice:
        both = [name for name, label in zip(names, found, strict=True) if label == twice[0]]
        raise InputError(f"{csv}: columns {' and '.join(both)} may mean class {twice[0]}; {listed}")
    for name, held in sample.values.items():
        if not _is_share(held):
            odd = next(text for text in held if not _is_share(pd.Series([text])))
            raise InputError(
                f"{csv}: column {name} holds {odd!r}; expected a probability, from 0 to 1, as the "
                "other columns are called after classes"
            )
    around = f", with {' … '.join(map(repr, filter(None, cut)))} around them" if any(cut) else ""
    notes.append(f"{csv.name}: a column of probabilities a class{around}")
    without = [label for label in classes if label not in hits]
    strange = [name for name, label in zip(names, found, strict=True) if label is None]
    if without:
        notes.append(
            f"WARNING: {csv.name}: no column for {few(without)}: the probability of what is left "
            "out is shared by the columns there are"
        )
    if strange:
        notes.append(f"WARNING: {csv.name}: no train photo of {few(strange)}: probability 0")
    index = {label: number for number, label in enumerate(classes)}
    numbers = tuple(-1 if label is None else index[label] for label in found)
    return Asks("classes", sample.columns, numbers)


def by_column(
    names: Sequence[str], classes: Iterable[Label]
) -> tuple[list[Label | None], tuple[str, str]]:
    """The class that each column is called after, and what all columns have in front and behind.

    As little is taken for that as makes most columns classes, and neither a word nor a number is
    cut in two: 0 is not what class_10 and class_20 have behind.
    """
    find, exact = labels.by_name(classes), {clean(str(label)) for label in classes}
    front, back = common_start(names), common_start(name[::-1] for name in names)[::-1]
    starts = [n for n in range(len(front) + 1) if all(_parts(name, n) for name in names)]
    ends = [n for n in range(len(back) + 1) if all(_parts(name, len(name) - n) for name in names)]

    def found_without(start: int, end: int, some: Sequence[str]) -> list[Label | None]:
        return [find(name[start : len(name) - end]) for name in some]

    def score(cut: tuple[int, int]) -> tuple[int, int, int]:
        """Of classes and of those that are called exactly so; the least cut of those alike."""
        start, end = cut
        same = sum(clean(name[start : len(name) - end]) in exact for name in some)
        return len(set(found_without(*cut, some)) - {None}), same, -start - end

    some = names[:: 1 + len(names) // 50]  # each of thousands of columns would take seconds a cut
    start, end = max(product(starts, ends), key=score)
    return found_without(start, end, names), (front[:start], back[len(back) - end :])


def _parts(name: str, at: int) -> bool:
    """Whether a name may be cut there: before or after a sign, as in probSedan, or not at all."""
    pair = name[at - 1 : at + 1] if 0 < at < len(name) else "  "
    whole = re.fullmatch(r"\d[\d.,]|[.,]\d|[^\W\d_]{2}", pair)
    return not whole or (pair[0].islower() and pair[1].isupper())


# --- Probabilities, quantities, boxes -------------------------------------------------------------


def _is_share(held: pd.Series) -> bool:
    """Whether a column holds numbers from 0 to 1 and what stands for none."""
    texts = {text for text in map(clean, held.unique()) if text and text.lower() not in NO_VALUES}
    numbers = [labels.as_number(text) for text in texts]
    return all(number is not None and 0 <= number <= 1 for number in numbers)


def _shares(held: pd.Series) -> bool:
    """Whether those are fractions, at least one."""
    numbers = (labels.as_number(clean(text)) for text in held.unique())
    return _is_share(held) and any(number is not None and number % 1 for number in numbers)


def _other_than_classes(values: pd.DataFrame) -> str:
    """What else a submission's columns after the id's ask for, "" if nothing known."""
    keys = [re.sub(r"[-_ ]", "", str(name).casefold()) for name in values.columns]
    texts = {text.strip() for text in values.to_numpy().ravel()} - {""}
    parts = [[labels.as_number(part) for part in text.split()] for text in texts]
    if any(map(_BOXES.fullmatch, keys)) or any(len(p) > 3 and None not in p[1:] for p in parts):
        return "boxes or masks are asked for"
    numbers = [part[0] for part in parts if len(part) == 1 and part[0] is not None]
    if values.shape[1] > 1 and texts and len(numbers) == len(texts) and max(map(abs, numbers)) > 1:
        return "several quantities a photo are asked for"
    return ""


def few(names: Sequence[object]) -> str:
    """The first ten, and how many there are."""
    more = f" … ({len(names):,})" if len(names) > 10 else ""
    return ", ".join(map(str, names[:10])) + more
