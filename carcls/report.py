"""Pictures and report.html from what a run has measured. Each picture says what it shows."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import jinja2
import matplotlib
import numpy as np
import pandas as pd
from markupsafe import Markup

from carcls import augment, photos, tta
from carcls.config import Config
from carcls.inputs import write_atomic

matplotlib.use("agg")  # files only: there is no screen on Kaggle
import matplotlib.pyplot as plt

CAPTIONS = {
    "augmentation.png": "Left: photos as validation sees them. Right of each: what training makes of it, five draws of the "
    "augmentation policy at its full strength. Look for cars that a person could not recognise.",
    "curves.png": "Loss (mean cross-entropy per photo) and accuracy after every epoch, on the training photos as they are "
    "augmented and on the validation photos as they are; the learning rate at the end of each epoch; grey lines are "
    "changes of photo size.",
    "confusion.png": "Validation photos by true class (rows) and predicted class (columns), mean of all views. Off the diagonal "
    "are errors.",
    "errors.png": "Validation photos that are predicted wrongly, the most confident error first: true class → predicted class "
    "and its probability.",
}


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """A figure of that size in inches, saved atomically and closed."""
    figure = plt.figure(figsize=(width, height), layout="constrained")
    try:
        yield figure
        part = path.with_name(f".{path.stem}.part.png")
        figure.savefig(part, dpi=100)
        part.replace(path)
    finally:
        plt.close(figure)


def augmentation(cfg: Config, table: photos.Table, path: Path, count: int = 6, draws: int = 5) -> Path:
    """A grid of training photos, one a row, beside draws of the policy (S23, S24)."""
    stage = cfg.stages[-1]
    size = (stage.height, stage.width)
    policy = augment.policy(cfg.augment, *size, cfg.fit, cfg.strength)
    chosen = table.train.sample(min(count, len(table.train)), random_state=cfg.seed)
    rows = []
    for n, item in enumerate(chosen.itertuples()):
        photo = photos.read_photo(item.path, 2 * size[0], 2 * size[1], item.height, item.width)
        made = [policy(photo, (cfg.seed, n, draw)) for draw in range(draws)]
        rows.append([augment.view(photo, size, cfg.fit), *made])
    with _figure(path, 2.2 * (draws + 1), 2.2 * size[0] / size[1] * len(rows) + 0.5) as figure:
        axes = figure.subplots(len(rows), draws + 1, squeeze=False)
        for line, images in zip(axes, rows, strict=True):
            for n, (axis, image) in enumerate(zip(line, images, strict=True)):
                axis.imshow(image)
                axis.set_axis_off()
                if axis in axes[0]:
                    axis.set_title("as it is" if n == 0 else f"{cfg.augment}, draw {n}", fontsize=9)
    return path


def curves(history: pd.DataFrame, path: Path) -> Path:
    """Loss, accuracy and learning rate by epoch (S44)."""
    epoch = np.arange(1, len(history) + 1)
    starts = epoch[(history["stage"].diff() > 0).to_numpy()]
    with _figure(path, 12, 3.6) as figure:
        axes = figure.subplots(1, 3)
        for axis, name, label in zip(axes, ("loss", "accuracy"), ("cross-entropy", "accuracy"), strict=False):
            axis.plot(epoch, history[name], "o-", ms=3, label="training, augmented")
            axis.plot(epoch, history[f"val_{name}"], "o-", ms=3, label="validation")
            axis.set_ylabel(label)
            axis.legend()
        axes[2].plot(epoch, history["lr"], "o-", ms=3, color="tab:green")
        axes[2].set_ylabel("learning rate")
        axes[2].set_yscale("log")
        for axis in axes:
            axis.set_xlabel("epoch")
            axis.xaxis.get_major_locator().set_params(integer=True)
            for start in starts:
                axis.axvline(start - 0.5, color="0.8", zorder=0)
    return path


def confusion(table: photos.Table, truth: np.ndarray, predicted: np.ndarray, path: Path) -> Path:
    """Counts of (true, predicted) class."""
    n = len(table.classes)
    counts = np.zeros((n, n), int)
    np.add.at(counts, (truth, predicted), 1)
    side = max(4.5, 0.45 * n + 1.5)
    with _figure(path, side + 1, side) as figure:
        axis = figure.subplots()
        share = counts / np.maximum(1, counts.sum(1, keepdims=True))
        image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
        if n <= 30:
            for i, j in np.argwhere(counts):
                axis.text(j, i, counts[i, j], ha="center", va="center", fontsize=8,
                          color="white" if share[i, j] > 0.5 else "black")  # fmt: skip
        names = [str(c) for c in table.classes]
        axis.set_xticks(range(n), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axis.set_yticks(range(n), names)
        axis.set_xlabel("predicted class")
        axis.set_ylabel("true class")
        figure.colorbar(image, label="share of the true class")
    return path


def errors(cfg: Config, table: photos.Table, probs: np.ndarray, path: Path, most: int = 24) -> Path:
    """The wrongly predicted validation photos, most confident first."""
    truth, predicted = table.val["label"].to_numpy(), probs.argmax(1)
    wrong = np.flatnonzero(predicted != truth)
    wrong = wrong[np.argsort(-probs[wrong, predicted[wrong]], kind="stable")][:most]
    columns = 6
    lines = max(1, -(-len(wrong) // columns))
    with _figure(path, 12, 1.7 * lines + 0.3) as figure:
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        for axis in axes:
            axis.set_axis_off()
        if not len(wrong):
            axes[0].text(0, 0.5, "no validation photo is predicted wrongly")
        for axis, i in zip(axes, wrong, strict=False):
            item = table.val.iloc[i]
            photo = photos.read_photo(item["path"], 120, 200, item["height"], item["width"])
            axis.imshow(cv2.resize(photo, (200, max(1, round(200 * photo.shape[0] / photo.shape[1])))))
            true, said = table.classes[truth[i]], table.classes[predicted[i]]
            axis.set_title(f"{true} → {said}  {probs[i, predicted[i]]:.2f}", fontsize=9)
    return path


def verdicts(history: pd.DataFrame) -> list[str]:
    """What the curves say of the run: trained too little (S39), too long (S40), or neither."""
    last = history[history["stage"] == history["stage"].max()]
    loss, accuracy = last["val_loss"].to_numpy(), last["val_accuracy"].to_numpy()
    if len(loss) < 3:
        return ["Fewer than three epochs in the last stage: too few to judge over- or under-training."]
    found = []
    fell = 1 - loss[-1] / loss[-3]
    if loss[-1] == loss.min() and fell > 0.1 and accuracy[-1] > accuracy[-3]:
        found.append(f"Under-trained: over the last two epochs validation loss still fell by {fell:.0%} and accuracy "
                     "rose; more epochs should help.")  # fmt: skip
    if loss[-1] > 1.05 * loss.min():
        found.append(f"Over-fitted: validation loss ended {loss[-1] / loss.min() - 1:.0%} above its best; fewer epochs or "
                     "stronger augmentation should help.")  # fmt: skip
    return found or ["Neither over- nor under-training shows in the curves."]


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>carcls run</title>
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}img{max-width:100%}
table{border-collapse:collapse}td,th{padding:.15em .8em;text-align:right;border-bottom:1px solid #ddd}figure{margin:1.5em 0}
figcaption{color:#555}pre{background:#f6f6f6;padding:1em;overflow:auto}</style>
<h1>carcls run</h1>
<p>Validation accuracy <b>{{ "%.4f"|format(r.validation_accuracy) }}</b>
(95 % interval {{ "%.4f"|format(r.validation_interval_95[0]) }}–{{ "%.4f"|format(r.validation_interval_95[1]) }}),
measured on {{ r.validation_photos }} photos that were not trained on but chose the best epoch, mean of {{ views }} views each.
{% if r.true_accuracy is defined %}True accuracy of submission.csv on the drawn test photos:
<b>{{ "%.4f"|format(r.true_accuracy) }}</b>.{% endif %}</p>
{% for v in verdicts %}<p>{{ v }}</p>{% endfor %}
<h2>Views</h2><table><tr><th>views per photo<th>validation accuracy</tr>
{% for k, v in r.validation_accuracy_by_views.items() %}<tr><td>{{ k }}<td>{{ "%.4f"|format(v) }}</tr>{% endfor %}</table>
{% for name, caption, data in pictures %}<figure><img alt="{{ name }}" src="data:image/png;base64,{{ data }}">
<figcaption>{{ caption }}</figcaption></figure>{% endfor %}
<h2>Epochs</h2><div style="overflow:auto">{{ history }}</div>
<h2>Settings</h2><pre>{{ settings }}</pre><p>Source {{ r.source }}; {{ r.versions }}</p></html>"""


def write(
    cfg: Config, table: photos.Table, history: pd.DataFrame, val: tta.Votes, result: dict[str, Any], out: Path
) -> list[Path]:
    """The pictures of a finished run and report.html, which has them all inside; returns their paths."""
    truth, probs = table.val["label"].to_numpy(), val.mean()
    pictures = [
        curves(history, out / "curves.png"),
        confusion(table, truth, probs.argmax(1), out / "confusion.png"),
        errors(cfg, table, probs, out / "errors.png"),
    ]
    shown = [out / "augmentation.png", *pictures]
    page = jinja2.Environment(autoescape=True).from_string(_PAGE).render(
        r=result,
        views=len(val.probs),
        verdicts=verdicts(history),
        pictures=[(p.name, CAPTIONS[p.name], base64.b64encode(p.read_bytes()).decode()) for p in shown],
        history=Markup(history.to_html(index=False, float_format="%.4g", border=0)),
        settings=cfg.model_dump_json(indent=2),
    )  # fmt: skip
    write_atomic(out / "report.html", page)
    return [*pictures, out / "report.html"]
