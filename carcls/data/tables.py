"""CSV files as people and their tools write them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from carcls.errors import InputError


def read_csv(path: Path) -> pd.DataFrame:
    """A CSV file as text; "" where a field is empty. Raises InputError."""
    # Text keeps ids and labels as they are written: 007 stays 007, and a class may be called NA.
    as_text: dict[str, Any] = {
        "dtype": str,
        "keep_default_na": False,
        "encoding": "utf-8-sig",
        "index_col": False,
    }
    try:
        with warnings.catch_warnings():
            # pandas warns, and cuts off what the header does not name.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            header = pd.read_csv(path, header=None, nrows=1, **as_text).iloc[0].tolist()
            frame = pd.read_csv(path, **as_text)
    except pd.errors.ParserWarning:
        raise InputError(
            f"{path}: not a readable CSV file (rows have more fields than the header)"
        ) from None
    except (OSError, UnicodeDecodeError, pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise InputError(f"{path}: not a readable CSV file ({str(error).strip()})") from None
    if frame.empty:
        raise InputError(f"{path}: no rows below the header {','.join(map(str, frame.columns))}")
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:  # pandas would give them other names, which a submission then had
        raise InputError(f"{path}: two columns are called {', '.join(twice)}")
    # Commas at the end of lines, as spreadsheets leave them, do no harm.
    used = [i for i, name in enumerate(header) if name or (frame.iloc[:, i] != "").any()]
    return frame.iloc[:, used]
