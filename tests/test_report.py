"""Verdicts by made-up curves."""

import re

import pandas as pd
import pytest

from carcls.report import page as report


def history(val_loss, val_accuracy=None):
    n = len(val_loss)
    accuracy = val_accuracy or [0.5 + 0.01 * i for i in range(n)]
    return pd.DataFrame(
        {
            "stage": 1,
            "loss": 1.0,
            "accuracy": 0.5,
            "val_loss": val_loss,
            "val_accuracy": accuracy,
            "lr": 1e-3,
        }
    )


@pytest.mark.parametrize(
    ("curve", "said"),
    [
        (history([1.0, 0.8, 0.6, 0.5]), "Under-trained.*38%"),  # S39: 1 - 0.5 / 0.8
        (history([1.0, 0.8, 0.6, 0.5], [0.9, 0.99, 0.99, 0.99]), "Neither"),
        (history([1.0, 0.5, 0.6, 0.7]), "Over-fitted.*40%"),  # S40
        (history([0.52, 0.51, 0.505, 0.5]), "Neither"),
        (history([1.0, 0.5]), "too few to judge"),
        (
            pd.concat([history([0.6, 0.5, 0.4]), history([1.0, 0.99, 0.98]).assign(stage=2)]),
            "Neither",
        ),  # another size
    ],
)
def test_verdicts(curve, said):
    (verdict,) = report.verdicts(curve)
    assert re.search(said, verdict)
