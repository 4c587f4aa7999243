"""Settings as people give and read them: on the command line, in --help, in README's table."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args, get_origin

from carcls import config, disk
from carcls.config import Config
from carcls.desk import sample
from carcls.errors import ConfigError, InputError

_INDENT = " " * 6
START, END = "<!-- settings: made by `make readme` -->", "<!-- end of settings -->"


class Setting(NamedTuple):
    """What a person wants to know of a setting."""

    name: str
    default: str
    choices: tuple[str, ...]  # () where it is not one of a few words
    about: str


def describe() -> list[Setting]:
    """Every setting in the order of Config."""
    rows = []
    for name, field in Config.model_fields.items():
        is_choice = get_origin(field.annotation) is Literal
        choices = tuple(map(str, get_args(field.annotation))) if is_choice else ()
        default = "" if field.default is None or name == "members" else str(field.default)
        rows.append(Setting(name, default.lower(), choices, field.description or ""))
    return rows


def from_command(words: Sequence[str], data: str, out: str) -> Config:
    """The Config of ``key=value`` words, --data and --out; without data, of the drawn sample.

    Raises ConfigError where data or out is given in two ways that differ: which one was meant
    decides which files are lost.
    """
    words, preset = list(words), "default"
    given = dict(word.partition("=")[::2] for word in words)
    for key, value in (("data", data), ("out", out)):
        if value and given.get(key, value) != value:
            raise ConfigError(f"{key}={given[key]} beside --{key} {value}: expected one of them")
        if value and key not in given:
            words.append(f"{key}={value}")
    if not data and "data" not in given and not disk.on_kaggle():
        folder, preset = disk.cache_home() / "sample", "sample"
        print(
            "no DATA given: the sample competition, drawn by the program (not photos of real "
            f"cars), in {folder}, with preset={given.get('preset', preset)}"
        )
        words.append(f"data={sample.draw(folder)}")
    return config.from_words(words, preset)


def help_text() -> str:
    """Every setting with its default, choices and reason, and the presets."""
    lines = [
        'settings, as key=value (SET="key=value key=value" with make):',
        f"  preset={'|'.join(config.PRESETS)}",
        "      what the other settings start from",
    ]
    for name, default, choices, description in describe():
        lines.append(f"  {name}={default}" + (f"   ({'|'.join(choices)})" if choices else ""))
        lines += textwrap.wrap(description, 94, initial_indent=_INDENT, subsequent_indent=_INDENT)
    lines.append("presets:")
    for name, changes in config.PRESETS.items():
        words = " ".join(f"{key}={value}" for key, value in changes.items())
        text = f"  {name:8} {words or 'the defaults above'}"
        lines += textwrap.wrap(text, 100, subsequent_indent=" " * 11, break_on_hyphens=False)
    return "\n".join(lines)


def table() -> str:
    """The same settings as a Markdown table."""
    rows = ["| setting and its default | what it does |", "|---|---|"]
    for name, default, choices, description in describe():
        about = f"{description} ({', '.join(choices)})" if choices else description
        rows.append(f"| `{name}={default}` | {about} |")
    return "\n".join(rows)


def with_table(readme: str) -> str:
    """The text of README with the table as it is now. Raises InputError if a marker is missing."""
    before, start, rest = readme.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise InputError(f"README.md: expected the lines {START} and {END}")
    return f"{before}{START}\n{table()}\n{END}{after}"


def write_readme(path: Path) -> Path:
    """Put the table of now into README; returns its path."""
    disk.write_atomic(path, with_table(path.read_text(encoding="utf-8")))
    return path


def check_readme(path: Path) -> None:
    """Raise InputError if README's table is not the one of now."""
    text = path.read_text(encoding="utf-8")
    if with_table(text) != text:
        raise InputError(f"{path}: its table of settings is not fresh; run `make readme`")
