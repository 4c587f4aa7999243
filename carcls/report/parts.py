"""Parts of a page: pictures as data, tables, small drawings, and the page around them."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image

from carcls import metrics
from carcls.report import charts, sheets, template

LARGE = 15_000  # bytes of a PNG file from which a picture is made smaller for the page
COLOURS = 20_000  # charts have fewer, photos many more
QUALITY = 75  # of WebP, at which letters of 8 px can still be read


def render(text: str, **content: Any) -> str:
    """A page from a template that extends "base"; the content is escaped unless it is Markup."""
    loader = jinja2.DictLoader({"base": template.BASE})
    env = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=loader)
    fixed = {"style": Markup(template.STYLE), "script": Markup(template.SCRIPT)}
    return env.from_string(text).render(**fixed, table=table, **content)


# --- Pictures -------------------------------------------------------------------------------------


def figure(path: Path, caption: str) -> Markup:
    """A picture with its caption, and the names that it shows as numbers."""
    with Image.open(path) as opened:
        legend = opened.info.get(charts.LEGEND, "")
    whole = Markup("<figure>{}<figcaption>{}{}</figcaption></figure>")
    # What is seen, without what to look for, stands for the picture where it is not seen.
    alt = caption.partition(" Look for ")[0]
    return whole.format(image(path, alt), caption, legend and Markup("<br>") + legend)


def figure_or_text(path: Path | None, text: str) -> Markup:
    """A picture with the text as its caption; without a path the text alone."""
    return figure(path, text) if path else Markup("<p>{}</p>").format(text)


def image(path: Path, alt: str) -> Markup:
    """A PNG as a part of a page, without the file; a large one as WebP or with fewer colours."""
    data, kind, size = path.read_bytes(), "png", ""
    if len(data) > LARGE:
        with Image.open(path) as opened:
            whole = opened.convert("RGB")
        size = f'width="{whole.width}" height="{whole.height}"'
        if whole.getcolors(COLOURS):
            fewer = whole.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
            data = min(data, _packed(fewer, "PNG", optimize=True), key=len)
        else:
            data, kind = _packed(whole, "WEBP", quality=QUALITY), "webp"
    return _img(data, kind, alt, path.name, size)


def _packed(picture: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def _img(data: bytes, kind: str, alt: str, name: str, size: str = "") -> Markup:
    text = Markup('<img alt="{}" data-file="{}" {}src="data:image/{};base64,{}">')
    return text.format(
        alt, name, Markup(size and f"{size} "), kind, base64.b64encode(data).decode()
    )


def photos(shown: Sequence[tuple[pd.Series, str]]) -> Markup:
    """Photos of rows of a table side by side, each with what is below it; unreadable ones not."""
    each = []
    for item, caption in shown:
        photo = sheets.tile(item)
        if photo is not None:
            data = _packed(Image.fromarray(photo), "WEBP", quality=QUALITY)
            inner = Markup("<figure>{}<figcaption>{}<br><small>{}</small></figcaption></figure>")
            each.append(inner.format(_img(data, "webp", caption, ""), caption, item["id"]))
    return Markup('<div class="photos">{}</div>').format(Markup().join(each)) if each else Markup()


def spark(values: np.ndarray, alt: str) -> Markup:
    """A small line of (n,) numbers, from their least to their most; gaps are left out."""
    shown = values[np.isfinite(values)]
    if len(shown) < 2:
        return Markup()
    span = float(np.ptp(shown)) or 1.0
    xs, ys = np.linspace(1, 99, len(shown)), 37 - 34 * (shown - shown.min()) / span
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    text = Markup(
        '<svg class="spark" viewBox="0 0 100 40" preserveAspectRatio="none" role="img" '
        'aria-label="{0}"><polyline points="{1}"/></svg><p class="below">{0}</p>'
    )
    return text.format(alt, points)


# --- Numbers --------------------------------------------------------------------------------------


def table(frame: pd.DataFrame, caption: str = "", wrapped: bool = False, digits: int = 4) -> Markup:
    """A table that sorts by a click on a head; wrapped: the last column is of sentences."""
    shown = frame.replace([np.inf, -np.inf], np.nan)
    with pd.option_context("display.max_colwidth", None):  # else reasons are cut off
        text = shown.to_html(
            index=False,
            float_format=f"%.{digits}g",
            na_rep="",
            border=0,
            classes="sorts",
            justify="unset",
        )
    text = text.replace(' style="text-align: unset;"', "").replace("<th>", '<th scope="col">')
    outer = '<div class="wide{}" tabindex="0" role="group" aria-label="{}">{}</div>'
    named = caption or ", ".join(map(str, frame.columns[:3]))
    return Markup(outer).format(" text" if wrapped else "", named, Markup(text))


def scale(metric: str, values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Where an axis begins and ends that shows these values of a metric well, and its marks."""
    if metric == "log_loss":
        step = _nice(max(*values, 1e-3) / 4)
        ends = 0.0, step * math.ceil(1.05 * max(values) / step + 1e-9)
    else:
        lowest = min(values) - 0.15 * (1 - min(values))
        starts = (0.98, 0.95, 0.9, 0.8, 0.5)
        ends = next((start for start in starts if start <= lowest), 0.0), 1.0
        step = _nice((ends[1] - ends[0]) / 5)
    count = round((ends[1] - ends[0]) / step)
    return *ends, [ends[0] + n * step for n in range(count + 1)]


def _nice(step: float) -> float:
    """1, 2 or 5 times a power of ten that is not smaller."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(k * power for k in (1, 2, 5, 10) if k * power >= step * (1 - 1e-9))


def score(result: Mapping[str, Any]) -> dict[str, Any]:
    """The first figure of a report: metric, value, interval and places on an axis, in percent."""
    metric = result.get("metric", "accuracy")
    value = result.get("validation_score", result["validation_accuracy"])
    low, high = result["validation_interval_95"]
    points = {"value": value, "low": low, "high": high}
    true = {name: result.get(f"true_{name}") for name in metrics.NAMES}  # of a drawn sample
    known = {name: score for name, score in true.items() if score is not None}
    if metric in known:
        points["true"] = known[metric]
    start, end, marks = scale(metric, list(points.values()))

    def at(x: float) -> str:
        return f"{100 * (x - start) / (end - start):.2f}%"

    return {
        "metric": metrics.SHOWN[metric],
        **points,
        "known": {metrics.SHOWN[name]: score for name, score in known.items()},
        "at": {name: at(x) for name, x in points.items()},
        "width": f"{100 * (high - low) / (end - start):.2f}%",
        "marks": [(at(x), f"{x:.3g}") for x in marks],
    }
