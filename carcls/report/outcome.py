"""What a run says of its validation photos, photo by photo: errors, classes, pairs of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from carcls import metrics
from carcls.votes.votes import Votes


@dataclass(frozen=True)
class Outcome:
    """Validation photos, what is true of them, and what is predicted without having seen them."""

    classes: list[str]
    frame: pd.DataFrame  # a row a photo, with the columns of photos.Table
    truth: np.ndarray  # (photos,) int64
    probs: np.ndarray  # (photos, classes) of the submission's blend, out of fold
    votes: Sequence[Votes]  # of each member, with as many views as were asked for

    @cached_property
    def predicted(self) -> np.ndarray:
        """(photos,) int64."""
        return self.probs.argmax(1)

    @cached_property
    def wrong(self) -> np.ndarray:
        """Positions of the photos that are predicted wrongly, those of the highest loss first."""
        wrong = np.flatnonzero(self.predicted != self.truth)
        losses = metrics.losses(self.probs[wrong], self.truth[wrong])
        return wrong[np.argsort(-losses, kind="stable")]

    @cached_property
    def confusion(self) -> np.ndarray:
        """(classes, classes) int64: photos by true and predicted class."""
        return metrics.confusion(self.probs, self.truth)

    @cached_property
    def most_confused(self) -> tuple[int, int, int]:
        """The two classes most often taken for each other, and how many photos; 0 if none."""
        both = np.triu(self.confusion + self.confusion.T, 1)
        i, j = divmod(int(both.argmax()), len(both))
        return i, j, int(both[i, j])


def errors(o: Outcome) -> pd.DataFrame:
    """A row for each photo that is predicted wrongly, those of the highest loss first.

    views are those of all members, of which votes_predicted and votes_true put these classes first;
    agreement is the share of them that vote for the predicted class.
    """
    wrong, truth, predicted = o.wrong, o.truth[o.wrong], o.predicted[o.wrong]
    tops = [votes.tops()[:, wrong] for votes in o.votes]
    views = sum((votes.n_views[wrong] for votes in o.votes), np.zeros(len(wrong), np.int64))
    for_predicted, for_true = (
        sum(((top == which).sum(0) for top in tops), np.zeros(len(wrong), np.int64))
        for which in (predicted, truth)
    )
    return pd.DataFrame(
        {
            "id": o.frame["id"].to_numpy()[wrong],
            "true": [o.classes[k] for k in truth],
            "predicted": [o.classes[k] for k in predicted],
            "probability": o.probs[wrong, predicted],
            "true_probability": o.probs[wrong, truth],
            "loss": metrics.losses(o.probs[wrong], truth),
            "views": views,
            "votes_predicted": for_predicted,
            "votes_true": for_true,
            "agreement": for_predicted / views,
            "path": o.frame["path"].to_numpy()[wrong],
        }
    )


def by_class(o: Outcome) -> pd.DataFrame:
    """A row a class: its photos, how many are right, precision, recall, F1, its usual error.

    NaN where there is nothing to divide by: no such photo, or none predicted so.
    """
    table = o.confusion
    right, photos, predicted = table.diagonal(), table.sum(1), table.sum(0)
    off = table - np.diag(right)
    with np.errstate(invalid="ignore"):
        rates = right / predicted, right / photos, 2 * right / (photos + predicted)
    taken = [
        f"{o.classes[k]} ({off[row, k]})" if off[row, k] else ""
        for row, k in enumerate(off.argmax(1))
    ]
    columns = {"class": o.classes, "photos": photos, "right": right}
    columns |= dict(zip(("precision", "recall", "F1"), rates, strict=True))
    return pd.DataFrame({**columns, "most often taken for": taken})


def pairs(o: Outcome, most: int = 25) -> pd.DataFrame:
    """The true and predicted classes of most errors: photos, their share of the true class."""
    wrong = errors(o)
    if wrong.empty:
        return pd.DataFrame()
    of = wrong.groupby(["true", "predicted"], sort=False)["id"]
    found = of.agg(photos="size", examples=lambda ids: ", ".join(map(str, ids[:3]))).reset_index()
    counts = dict(zip(o.classes, o.confusion.sum(1).tolist(), strict=True))
    shares = [n / counts[true] for n, true in zip(found["photos"], found["true"], strict=True)]
    found.insert(3, "of the class", [f"{share:.0%}" for share in shares])
    return found.sort_values("photos", ascending=False, kind="stable", ignore_index=True)[:most]
