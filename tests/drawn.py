"""For tests of pictures: the figures that are drawn, and votes to draw."""

import numpy as np
from build_votes import build
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from carcls.report import charts


def record_figures(monkeypatch):
    """A list that figures are added to as they are drawn."""
    figures = []

    def figure(**size):
        figures.append(Figure(**size))
        FigureCanvasAgg(figures[-1])
        return figures[-1]

    monkeypatch.setattr(charts, "Figure", figure)
    return figures


def random_votes(photos, classes, views, seed=0):
    """Votes of which about a third disagree, with labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, photos)
    logits = rng.normal(0, 1, (views, photos, classes)) + rng.normal(0, 1, (photos, classes))
    logits[:, np.arange(photos), labels] += 4
    return build(np.exp(logits) / np.exp(logits).sum(2, keepdims=True), labels)


def assert_inside(figure):
    """Nothing that is drawn is cut off."""
    box, canvas = figure.get_tightbbox(), figure.bbox_inches
    assert canvas.x0 <= box.x0 and box.x1 <= canvas.x1
    assert canvas.y0 <= box.y0 and box.y1 <= canvas.y1


def curves_of(axis):
    return [list(line.get_ydata()) for line in axis.lines]


def labels_of(axes):
    return [(axis.get_xlabel(), axis.get_ylabel()) for axis in axes]


def texts(things):
    return [thing.get_text() for thing in things]
