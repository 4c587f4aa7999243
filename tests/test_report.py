"""Verdicts by made-up curves, and pictures with labelled axes."""

import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from carcls import report


def history(val_loss, val_accuracy=None):
    n = len(val_loss)
    accuracy = val_accuracy or [0.5 + 0.01 * i for i in range(n)]
    return pd.DataFrame(
        {"stage": 1, "loss": 1.0, "accuracy": 0.5, "val_loss": val_loss, "val_accuracy": accuracy, "lr": 1e-3}
    )


@pytest.mark.parametrize(
    ("curve", "said"),
    [
        (history([1.0, 0.8, 0.6, 0.5]), "Under-trained.*38%"),  # S39: 1 - 0.5 / 0.8
        (history([1.0, 0.8, 0.6, 0.5], [0.9, 0.99, 0.99, 0.99]), "Neither"),
        (history([1.0, 0.5, 0.6, 0.7]), "Over-fitted.*40%"),  # S40
        (history([0.52, 0.51, 0.505, 0.5]), "Neither"),
        (history([1.0, 0.5]), "too few to judge"),
    ],
)
def test_verdicts(curve, said):
    (verdict,) = report.verdicts(curve)
    assert re.search(said, verdict)


def test_axes_are_labelled(tmp_path, monkeypatch):  # S10
    seen = []
    monkeypatch.setattr(plt, "close", seen.append)
    report.curves(history([1.0, 0.8, 0.7]), tmp_path / "curves.png")
    labels = [(axis.get_xlabel(), axis.get_ylabel()) for axis in seen[0].axes]
    assert labels == [("epoch", "cross-entropy"), ("epoch", "accuracy"), ("epoch", "learning rate")]
    monkeypatch.undo()
    plt.close(seen[0])
