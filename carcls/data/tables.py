"""CSV files as people and their tools write them."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from carcls.data import kinds
from carcls.disk import is_junk
from carcls.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_MOST = 2**28  # bytes, of some million rows; what is larger is no table of ids
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200e\u200f\u2060\ufeff"))


def clean(text: str) -> str:
    """One form of a label: composed Unicode, one blank between words."""
    if not text.isascii():
        text = normalize("NFC", text.translate(_INVISIBLE))
    return " ".join(text.split())


def read_csv(path: Path) -> pd.DataFrame:
    """A CSV file as text; "" where a field is empty. Raises InputError."""
    import pandas as pd  # not before a kernel has checked its inputs

    text = _text(path)
    # Text keeps ids and labels as they are written: 007 stays 007, and a class may be called NA.
    as_text: dict[str, Any] = {"dtype": str, "keep_default_na": False, "index_col": False}
    said = re.match(r"sep=(.)[\r\n]+", text)  # as Excel writes it
    text = text[said.end() :] if said else text
    as_text["sep"] = said[1] if said else _separator(text)
    try:
        with warnings.catch_warnings():
            # pandas warns, and cuts off what the header does not name.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            header = pd.read_csv(io.StringIO(text), header=None, nrows=1, **as_text)
            frame = pd.read_csv(io.StringIO(text), **as_text)
    except pd.errors.ParserWarning:
        raise _unreadable(path, "rows have more fields than the header") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise _unreadable(path, str(error).strip()) from None
    if frame.empty:
        raise InputError(f"{path}: no rows below the header {','.join(map(str, frame.columns))}")
    names = header.iloc[0].tolist()
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:  # pandas would give them other names, which a submission then had
        raise InputError(f"{path}: two columns are called {', '.join(twice)}")
    # Commas at the end of lines, as spreadsheets leave them, do no harm.
    used = [i for i, name in enumerate(names) if name or (frame.iloc[:, i] != "").any()]
    return frame.iloc[:, used]


def _separator(text: str) -> str:
    """The comma, unless the header has none but has another one."""
    header = re.split(r"[\r\n]", text.lstrip(), maxsplit=1)[0]
    return "," if "," in header else next((sep for sep in ";\t|" if sep in header), ",")


def _text(path: Path) -> str:
    """What is in a CSV file, which may be zipped. Raises InputError."""
    what = ""
    try:
        what = kinds.described(path)
        if what == "zip file":
            data = _unzipped(path)
            what = kinds.content(data[: kinds.HEAD])
        elif not what:
            with path.open("rb") as file:
                data = file.read(_MOST + 1)
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise _unreadable(path, f"{what and f'{what}: '}{why}") from None
    if what:
        raise _unreadable(path, f"it is: {what}; expected rows such as 1.jpg,0")
    if len(data) > _MOST:
        raise _unreadable(path, f"more than {_MOST // 2**20} MB")
    try:
        wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        if wide:
            raise _unreadable(path, f"not whole UTF-16: {error.reason}") from None
        start = data.rfind(b"\n", 0, error.start) + 1
        line, number = data[start : error.end + 20], data.count(b"\n", 0, start) + 1
        raise _unreadable(path, f"not UTF-8 in line {number}, {line!r}; save it as UTF-8") from None
    if "\0" in text:
        raise _unreadable(path, "it has zero bytes; save it as UTF-8")
    return text


def _unzipped(path: Path) -> bytes:
    """The one CSV file in a zip file. Raises what zipfile does, and ValueError if there is none."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith(".csv")]
        names = [name for name in names if not any(map(is_junk, name.split("/")))]
        if len(names) != 1:
            raise ValueError(f"{len(names)} CSV files in it, expected one")
        with archive.open(names[0]) as file:
            return file.read(_MOST + 1)


def _unreadable(path: Path, why: str) -> InputError:
    return InputError(f"{path}: not a readable CSV file ({why})")
