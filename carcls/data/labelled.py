"""What train.csv says: which column has the ids, and where each row's label stands."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from carcls.data import asks, labels, tables
from carcls.data.asks import Sample
from carcls.data.files import Place
from carcls.data.tables import clean
from carcls.errors import InputError

# Columns that hold the labels where nothing else says which do.
_LABEL_NAMES = re.compile(
    r"(labels?|class(es)?|targets?|categor(y|ies)|breeds?|species|variet(y|ies)|diagnos[ei]s)"
    r"([-_ ]?(names?|ids?))?",
    re.IGNORECASE,
)
_MANY = 0.05  # share of the rows: fewer are slips


@dataclass
class Labelled:
    """The rows of train.csv."""

    ids: pd.Series  # str
    texts: pd.Series  # of labels, "" where there is none; str
    columns: tuple[str, str]  # names of the id's and the labels' column
    # Row → finding and detail, where a column a class says no class or several.
    broken: dict[int, tuple[str, str]] = field(default_factory=dict)


def read(place: Place, sample: Sample | None, notes: list[str]) -> Labelled | None:
    """Ids and labels of train.csv, if there is one. Raises InputError where one cannot tell."""
    if place.train_csv is None:
        return None
    csv, frame = place.train_csv, tables.read_csv(place.train_csv)
    names = list(map(str, frame.columns))
    ident = names[0]
    if sample and sample.columns[0] in names:
        ident = sample.columns[0]
    elif sample:
        notes.append(
            f"{csv.name}: no column {sample.columns[0]}; the ids are in {ident}, the first"
        )
    ids, rest = frame[ident].str.strip(), frame.drop(columns=ident)
    hot = _one_hot(rest, sample, csv)
    if hot is not None:
        notes.append(
            f"{csv.name}: the labels are in a column a class: {asks.few(list(hot.columns))}"
        )
        texts, broken = _from_one_hot(hot, csv)
        return Labelled(ids, texts, (ident, texts.name), broken)
    column = _label_column(rest, sample, csv)
    _refuse_lists(rest[column], csv)
    if not sample or column != sample.columns[1]:
        notes.append(f"{csv.name}: the labels are in the column {column}")
    return Labelled(ids, rest[column], (ident, column))


def _label_column(rest: pd.DataFrame, sample: Sample | None, csv: Path) -> str:
    """The column with the labels. Raises InputError where one cannot tell."""
    names = list(map(str, rest.columns))
    if sample and len(sample.columns) == 2 and sample.columns[1] in names:
        return sample.columns[1]
    found = _with_the_classes(rest, sample.columns[1:]) if sample and sample.columns[2:] else []
    for some in (found, names, [name for name in names if _LABEL_NAMES.fullmatch(name)]):
        if len(some) == 1:
            return some[0]
    what = ""
    if _zeros_and_ones(rest):
        what = "; several columns of 0 and 1, but not one 1 a row: several labels a photo, which "
        what += "carcls does not predict"
    raise InputError(
        f"{csv}: columns {asks.few(names) or 'none'} beside the ids, and one cannot tell which "
        f"holds the labels; expected {sample.columns[1] if sample else 'one'}, one column alone, "
        f"or one called label, class, target or category{what}"
    )


def _with_the_classes(rest: pd.DataFrame, names: tuple[str, ...]) -> list[str]:
    """The columns whose texts most of the sample's columns are called after."""
    found = []
    for column in rest.columns:
        texts = set(rest[column].map(clean)) - {""}
        if len(texts) <= 2 * len(names):  # other columns have ids, or quantities
            hits = set(asks.by_column(names, texts)[0]) - {None}
            found += [str(column)] if 2 * len(hits) >= len(names) else []
    return found


# --- A column a class -----------------------------------------------------------------------------


def _one_hot(rest: pd.DataFrame, sample: Sample | None, csv: Path) -> pd.DataFrame | None:
    """The columns that are called after the classes, with one 1 a row, if train.csv is like that.

    Raises InputError where they hold several, or quantities.
    """
    names = list(map(str, rest.columns))
    wanted = [name for name in (sample.columns[1:] if sample else ()) if name in names]
    if sample and len(sample.columns) > 2 and 2 * len(wanted) >= len(sample.columns) - 1:
        columns = rest if _zeros_and_ones(rest) else rest[wanted]
        if not _zeros_and_ones(columns):
            raise InputError(
                f"{csv}: columns {asks.few(wanted)} hold other numbers than 0 and 1, or "
                "texts; expected a column a class with 1 in the photo's, as carcls predicts no "
                "quantities"
            )
        return columns
    if len(names) < 2 or wanted or any(map(_LABEL_NAMES.fullmatch, names)):
        return None
    alone = _zeros_and_ones(rest) and (_ones(rest).sum(axis=1) == 1).mean() > 1 - _MANY
    return rest if alone else None


def _zeros_and_ones(columns: pd.DataFrame) -> bool:
    texts = (clean(text) for text in pd.unique(columns.to_numpy().ravel()))
    return columns.shape[1] > 1 and {_bit(text) for text in texts if text} == {0, 1}


def _bit(text: str) -> float | None:
    """0 or 1, as pandas writes False and True too; other numbers, and None for other texts."""
    text = clean(text).casefold()
    return float(text == "true") if text in ("false", "true") else labels.as_number(text)


def _ones(columns: pd.DataFrame) -> pd.DataFrame:
    """Where columns hold 1."""
    texts = pd.unique(columns.to_numpy().ravel())  # few: each cell by itself would take long
    return columns.isin([text for text in texts if _bit(text) == 1])


def _from_one_hot(columns: pd.DataFrame, csv: Path) -> tuple[pd.Series, dict[int, tuple[str, str]]]:
    """The name of each row's class, "" where it has none or several, and what is wrong there."""
    one = _ones(columns)
    counts = one.sum(axis=1)
    several = int((counts > 1).sum())
    if several > _MANY * len(counts):
        raise InputError(
            f"{csv}: {several:,} of {len(counts):,} rows have 1 in several columns: several labels "
            "a photo; expected one, as carcls predicts one class a photo"
        )
    texts = one.idxmax(axis=1).astype(str).where(counts == 1, "").rename("class")
    broken = {}
    for row in counts.index[counts != 1]:
        named = ", ".join(one.columns[one.loc[row]])
        broken[row] = ("several labels", named) if named else ("no label", "no column has 1")
    return texts, broken


def _refuse_lists(texts: pd.Series, csv: Path) -> None:
    """Raise InputError where many rows name several labels, such as red|blue, red and blue."""
    rows = Counter(map(clean, texts))
    lists = {text: re.split(r"\s*[|;,]\s*|\s+", text) for text in rows}
    several = [
        text
        for text, parts in lists.items()
        if parts[1:] and len(set(parts)) == len(parts) and all(part in rows for part in parts)
    ]
    count = sum(rows[text] for text in several)
    if len(several) > 2 and count > _MANY * len(texts):
        raise InputError(
            f"{csv}: column {texts.name} holds several labels in {count:,} of {len(texts):,} rows, "
            f"such as {several[0]!r}; expected one, as carcls predicts one class a photo"
        )
