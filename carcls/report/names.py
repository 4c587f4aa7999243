"""Names of classes and photos as a picture can show them: fonts lack letters, and room is short."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

FONT = "DejaVu Sans"  # which matplotlib brings


@dataclass(frozen=True)
class Names:
    """What a picture shows for each name, and what its numbers stand for."""

    shown: list[str]
    legend: list[str]  # "#3: …" for each name that is shown as a number
    fonts: list[str]  # needed beside FONT


def names(texts: Iterable[object], most: int, kind: str = "") -> Names:
    """Names of at most ``most`` characters; a number for what no font of this machine can show.

    A number, with its kind before it, is that of the place, from 1. So are names shown that would
    look alike.
    """
    given = [str(text) for text in texts]
    wholes = [" ".join(unicodedata.normalize("NFC", text).split()) for text in given]
    shown = [shorten(whole, most) for whole in wholes]
    alike = Counter(dict(zip(given, shown, strict=True)).values())
    legend, fonts = [], set[str]()
    for n, whole in enumerate(wholes):
        found = {_font_of(char) for char in whole}
        if None in found or alike[shown[n]] > 1:
            shown[n] = f"{kind}#{n + 1}"
            legend.append(f"{shown[n]}: {whole}")
        else:
            fonts |= {font for font in found if font}
    return Names(shown, legend, sorted(fonts - {FONT}))


def shorten(name: object, most: int) -> str:
    """A name of at most ``most`` characters; a dollar sign in it does not start a formula."""
    text = str(name)
    most = most * len(text) // max(1, width(text))  # of wide letters half as many have room
    if len(text) > most:  # in the middle: "Aston Martin V8 Vantage 2012" ends in what matters
        text = f"{text[: most - 1 - most // 3]}…{text[-(most // 3) :]}"
    return text.replace("$", r"\$")


def width(text: str) -> int:
    """Of a text in Latin letters: Chinese ones are twice as wide."""
    return sum(1 + (unicodedata.east_asian_width(char) in "WF") for char in text)


@cache
def _font_of(char: str) -> str | None:
    """A font of this machine that shows a character by itself; None if there is none.

    Letters that are shaped by their neighbours or written from right to left are not for
    matplotlib, which sets one after the other.
    """
    if unicodedata.category(char)[0] in "MC" or unicodedata.bidirectional(char) in ("R", "AL"):
        return None
    if ord(char) in _characters(FONT):
        return FONT
    families = sorted({entry.name for entry in font_manager.fontManager.ttflist})
    return next((name for name in families if _draws(name, char)), None)


@cache
def _characters(family: str) -> frozenset[int]:
    """Those that a font has, by its own word; none of a font of pictures, which cannot be drawn."""
    try:
        font = FT2Font(font_manager.findfont(family, fallback_to_default=False))
        return frozenset(font.get_charmap() if font.scalable else ())
    except (OSError, RuntimeError, ValueError):  # it is damaged, or gone
        return frozenset()


def _draws(family: str, char: str) -> bool:
    """Whether a font has more than a blank or a box for a character."""
    if ord(char) not in _characters(family) or "lastresort" in family.lower().replace(" ", ""):
        return False
    font = FT2Font(font_manager.findfont(family))
    font.load_char(ord(char))
    return len(font.get_path()[0]) > 0
