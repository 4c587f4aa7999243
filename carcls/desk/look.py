"""``carcls look``: what is in the data, before anything is trained."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from carcls import disk, session
from carcls.config import Config
from carcls.data import files, photos
from carcls.errors import ConfigError
from carcls.report import look, parts, sheets

SETTINGS = ("data", "out", "competition", "val_fraction", "folds", "seed", "preset")
_TITLES = {
    "classes.png": "Classes",
    "sizes.png": "Sizes and shapes",
    "light.png": "Brightness and contrast",
    "examples.png": "Examples",
    "similar.png": "Photos that show the same picture",
}

_PAGE = """{% extends "base" %}
{% block title %}carcls look{% endblock %}
{% block style %}
figure { overflow: auto }
figcaption { position: sticky; left: 0 }
main img { max-width: max(100%, 46em) }
.facts p { margin: 0.4em 0 }
.warning { border-left: 4px solid var(--loud-line); padding-left: 0.8em; font-weight: bold }
{% endblock %}
{% block main %}
<h1>A look at the data</h1>
<div class="facts"><p>{{ data }}</p>
{% for line in lines %}
<p{% if line.startswith("WARNING") %} class="warning"{% endif %}>{{ line }}</p>
{% endfor %}
</div>
{% for title, text in parts %}
<h2>{{ title }}</h2>
{{ text }}
{% endfor %}
<h2>What the audit found</h2>
{% if counts|length %}
{{ table(counts, "Findings", wrapped=True) }}
{{ audit }}
{% else %}
<p>Nothing: every file can be read and is what it seems.</p>
{% endif %}
{% endblock %}
"""


def check(words: list[str]) -> None:
    """Raise ConfigError for settings that nothing here depends on."""
    others = sorted({word.partition("=")[0] for word in words} - set(SETTINGS))
    if others:
        raise ConfigError(
            f"look: {', '.join(others)} changes nothing; expected {', '.join(SETTINGS)}"
        )


def main(cfg: Config) -> Path:
    """Look at the data, say what is in it, write OUT/look.html and its parts; returns its path."""
    with session.locked(files.run_folder(cfg)):
        place = files.locate(cfg)
        table = photos.load(cfg, place)
        lines = [*photos.summary(table, cfg.folds), *look.write(cfg, table, place.out)]
        lines.sort(key=lambda line: line.startswith("WARNING"))
        session.write_tables(cfg, table, place.out)
        path = _write_page(str(place.root), lines, table, place.out)
    print("\n== look", *lines, f"page: {path}", sep="\n  ")
    return path


def _write_page(data: str, lines: list[str], table: photos.Table, out: Path) -> Path:
    seen = [
        (title, parts.figure_or_text(path, text))
        for title, (path, text) in zip(_TITLES.values(), look.read(out)[1], strict=True)
    ]
    counts = table.audit[["source", "finding", "action"]].value_counts().reset_index(name="photos")
    audit = Markup()
    if len(counts):
        nothing = sheets.audit(table, out / "audit.png")
        caption = nothing or sheets.CAPTIONS["audit.png"]
        audit = parts.figure_or_text(None if nothing else out / "audit.png", caption)
    content = {"data": data, "lines": lines, "parts": seen, "counts": counts, "audit": audit}
    disk.write_atomic(out / "look.html", parts.render(_PAGE, **content))
    return out / "look.html"
