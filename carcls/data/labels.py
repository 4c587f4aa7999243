"""What labels mean: which texts are one class, which are no labels, which look like others."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pandas as pd

from carcls.data.tables import clean
from carcls.errors import InputError

Label = int | str
LabelOf = Callable[[str], Label | None]  # the label that a folder is called after, or None
_INTEGER = re.compile(r"(0|-?[1-9]\d*)(\.0+)?")  # 3.0 too, as pandas writes it beside a gap
NO_VALUES = {"nan", "na", "n/a", "none", "null", "<na>", "nat"}
# Cyrillic letters that look like them
_LATIN = str.maketrans("авекмнорстухАВЕКМНОРСТУХ", "abekmhopctyxABEKMHOPCTYX")
_ENCODINGS = ("utf-8", "cp1252", "latin-1", "cp1251", "cp866", "koi8-r")
_MANY = 20  # numbers; more of them are seldom classes


def _blurred(text: str) -> str:
    """The same for labels that people take for one: BMW and bmw, VAZ-2114 and VAZ 2114, 1 and 01.

    Marks count but on Latin letters, as in й or バ, and so does what parts two digits.
    """
    if (number := as_number(text)) is not None:
        return str(number)
    text = normalize("NFKD", text).casefold().translate(_LATIN)
    text = re.sub(r"(?<=[a-z])[\u0300-\u036f]+", "", text)
    text = re.sub(r"(?<=\w)[\s_\-\u2010-\u2015]+(?=\w)", " ", text)
    return re.sub(r"(?<=[^\W\d]) (?=\w)|(?<=\w) (?=[^\W\d])", "", text)


def as_number(text: str) -> float | None:
    """0.5, 0,5, 5e-1 or 50% as a number; None for other texts."""
    found = re.fullmatch(r"([+-]?(?:\d+[.,]?\d*|[.,]\d+)(?:[eE][+-]?\d+)?)(%?)", text)
    return float(found[1].replace(",", ".")) / (100 if found[2] else 1) if found else None


def values(
    texts: Sequence[str], asked: Iterable[str], csv: Path
) -> tuple[dict[str, Label], list[str]]:
    """Text → label: integers if all are, unless the sample writes all as 1.0 or 01.

    Else text as the sample writes it, else as most do.

    asked: the sample's labels. Also a warning of labels that look like one.
    """
    forms: dict[str, Counter[str]] = defaultdict(Counter)  # clean → as written: photos
    for text, n in Counter(texts).items():
        forms[clean(text)][text] += n
    written = {clean(text): text for text in reversed(list(asked)) if text.strip()}
    if all(map(_INTEGER.fullmatch, forms)):
        whole = {text: int(clean(text).partition(".")[0]) for text in set(texts)}
        width, end = _form_of_numbers(written)
        if width or end:
            return {text: f"{number:0{width}}{end}" for text, number in whole.items()}, []
        return dict(whole), []
    for key, counts in forms.items():
        most = min(counts, key=lambda text: (-counts[text], text.strip() != key, text))
        written.setdefault(key, most.strip())
    alike = _look_alikes(forms)
    notes = [f"WARNING: {csv.name}: {alike}"] if alike else []
    return {text: written[key] for key, counts in forms.items() for text in counts}, notes


def _form_of_numbers(asked: Iterable[str]) -> tuple[int, str]:
    """How many digits and what end all whole numbers have, 0 and "" where that is not one form."""
    found = [re.fullmatch(r"(\d+)(\.0+)?", text) for text in asked]
    whole = [match for match in found if match]
    digits, ends = {len(match[1]) for match in whole}, {match[2] or "" for match in whole}
    if len(whole) < len(found) or len(ends) != 1:
        return 0, ""
    padded = len(digits) == 1 and any(re.match(r"0\d", match[1]) for match in whole)
    return max(digits) if padded else 0, max(ends)


def _look_alikes(forms: dict[str, Counter[str]]) -> str:
    near = defaultdict(list)
    for key in forms:
        near[_blurred(key)].append(key)
    parts = []
    for keys in near.values():
        counts = {text: n for key in keys for text, n in forms[key].items()}
        if len(counts) > 1:
            same = len({normalize("NFC", t).translate(_LATIN) for t in counts}) < len(counts)
            shown = [f"{text!a} {n:,}" if same else f"{text!r} {n:,}" for text, n in counts.items()]
            done = "one class" if len(keys) == 1 else f"{len(keys)} classes"
            parts.append(f"{', '.join(shown)} ({done})")
    if not parts:
        return ""
    parts[5:] = [f"{len(parts) - 5} more"] if parts[5:] else []
    how = "differ only in capital letters, blanks or the form of letters or numbers"
    return f"labels that {how}: {'; '.join(parts)}"


def by_name(labels: Iterable[Label]) -> LabelOf:
    """By the same text, else by one that looks like it."""
    exact, near = {clean(str(label)): label for label in labels}, defaultdict(list)
    for name, label in exact.items():
        near[_blurred(name)].append(label)

    @cache
    def find(folder: str) -> Label | None:
        if (name := clean(folder)) in exact:
            return exact[name]
        similar = near.get(_blurred(folder), [])
        return similar[0] if len(similar) == 1 else None

    return find


def missing(labels: pd.Series, asked: Iterable[str], csv: Path) -> tuple[pd.Series, list[str]]:
    """Which labels are none (bool), and a line on words such as nan: class or gap?

    An empty field is no label. A class may well be called NA; only nan beside numbers is how
    pandas writes a gap, unless the sample asks for it.
    """
    texts = {text: clean(text) for text in set(labels)}
    words = {text for text in texts if texts[text].lower() in NO_VALUES}
    others = [text for text in texts if texts[text] and text not in words]
    numbers = bool(others) and all(as_number(texts[text]) is not None for text in others)
    wanted = {clean(text) for text in asked}  # one alone may stand for a blank
    gaps = {
        text
        for text in words
        if numbers
        and texts[text].lower() == "nan"
        and (texts[text] not in wanted or len(wanted) == 1)
    }
    notes = []
    for some, what in ((gaps, "no label, beside numbers"), (words - gaps, "classes")):
        counts = Counter(labels[labels.isin(some)].map(texts))
        each = ", ".join(f"{text!r} ({n:,} photos)" for text, n in sorted(counts.items()))
        notes += [f"{csv.name}: {each}: taken for {what}"] * bool(some)
    return labels.map(lambda text: not texts[text] or text in gaps), notes


def refuse_quantities(labels: pd.Series, csv: Path) -> list[str]:
    """Raise InputError where labels are numbers to regress; a warning where they may be."""
    read = {text: as_number(clean(text)) for text in labels.unique()}
    numbers = labels.map(read).dropna()
    if not len(numbers) or len(numbers) < 0.9 * len(labels):  # a stray word changes nothing
        return []
    photos = numbers.value_counts()
    many, low, high = len(photos), numbers.min(), numbers.max()
    what = f"column {labels.name} holds {many:,} different numbers in {len(labels):,} rows"
    what += f", from {low:.15g} to {high:.15g}"
    fractions = bool((numbers % 1).any())
    few = min(len(numbers) / 2, _MANY) if fractions else max(0.7 * len(numbers), _MANY / 2)
    counted = not fractions and low in (0, 1) and high < 2 * many  # 0, 1, 2 … with few gaps
    if many > few and not counted:
        raise InputError(
            f"{csv}: {what}: a quantity; expected classes, as carcls predicts no numbers"
        )
    if fractions or many > few or _measured(photos):
        return [f"WARNING: {csv.name}: {what}: taken for classes; are they a quantity?"]
    return []


def _measured(photos: pd.Series) -> bool:
    """Whether whole numbers look like prices, counts, ages or years; photos: of each number."""
    low, high, many = photos.index.min(), photos.index.max(), len(photos)
    gaps = high - low >= 2 * many
    if not (photos.index % 10).any():
        return many > _MANY / 4  # prices are round
    if low in (0, 1) or (low < 100 and not gaps):  # who numbers classes begins there, without gaps
        return many > _MANY / 2 and bool(gaps or low not in (0, 1))
    return many > _MANY and bool(photos.median() < 5)  # classes have several photos each


# --- The sample's labels --------------------------------------------------------------------------


def check_sample(asked: pd.Series, labels: set[Label], csv: Path) -> list[str]:
    """A warning if the sample's labels are no classes, with what they look like.

    Raises InputError where all are numbers with fractions: then no class is asked for.
    """
    known = {clean(str(label)) for label in labels}
    texts = {clean(text) for text in asked} - {""}
    texts = {text for text in texts if text in known or text.lower() not in NO_VALUES}
    if all(isinstance(label, int) for label in labels):
        texts = {t.partition(".")[0] if _INTEGER.fullmatch(t) else t for t in texts}
    other = sorted(texts - known)
    if not other:
        return []
    numbers = [number for number in map(as_number, other) if number is not None]
    what = f"column {asked.name} holds {other[0]!r}"
    if len(numbers) == len(other) == len(texts) and any(number % 1 for number in numbers):
        shares = all(0 <= number <= 1 for number in numbers)
        raise InputError(
            f"{csv}: {what}: {'a probability' if shares else 'a quantity'}, where train photos are "
            f"of {len(known):,} classes ({', '.join(sorted(known)[:5])}{' …' * (len(known) > 5)}); "
            "expected one of the classes, or a column of probabilities for each"
        )
    near = {_blurred(name) for name in known}
    if all(_blurred(text) in near for text in other):
        same = "the same numbers" if len(numbers) == len(other) else "classes"
        looks = f"{same} written in another way"
    elif len(numbers) == len(other):
        words = not all(isinstance(label, int) for label in labels)
        looks = "numbers, where the classes are words" if words else "other classes"
    elif "\ufffd" in "".join(other) or not _garbled(known).isdisjoint(other):
        looks = "garbled text, as of another encoding"
    else:
        looks = "other classes"
    count = "none" if len(other) == len(texts) else f"{len(texts) - len(other)} of {len(texts)}"
    return [
        f"WARNING: {csv.name}: {what}: {count} of its labels are classes of the training photos "
        f"({', '.join(sorted(known)[:5])}{' …' * (len(known) > 5)}); they look like {looks}"
    ]


def _garbled(names: set[str]) -> set[str]:
    """What they become where a file is read in another encoding than it was written in."""
    forms = {name.encode("ascii", "replace").decode() for name in names}
    for name, written in product(names, _ENCODINGS):
        with suppress(UnicodeError):
            data = name.encode(written)
            forms |= {clean(data.decode(read, "replace")) for read in _ENCODINGS}
    return forms


def spreadsheet_safe(frame: pd.DataFrame) -> pd.DataFrame:
    """For files that people open: an apostrophe before what a spreadsheet would calculate."""

    def quoted(value: Any) -> Any:
        risky = isinstance(value, str) and value[:1] in tuple("=+-@\t\r＝＋－＠")
        return f"'{value}" if risky and value and as_number(value) is None else value

    return frame.map(quoted)
