"""Pseudo-labels: test photos on which nearly all views of all members agree.

A plain threshold on the agreement of views (after Lee 2013, "Pseudo-Label"), whose precision is
measured on validation photos that pass it too. And, likewise, given labels that votes contradict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from carcls.data import photos
from carcls.data.photos import Rows
from carcls.metrics import Metric
from carcls.values import Views
from carcls.votes.decide import Voter, gate
from carcls.votes.evidence import wilson
from carcls.votes.votes import Gate, Votes

# Share of the views. A majority is enough to predict with, but too little to learn from.
AGREEMENT = 0.95
LEAST_VIEWS = 4  # of a photo, by every member; agreement of fewer says little
NEARLY_ALL = 0.98  # share of the test photos; labelling more only teaches what is known already
LEAST_PRECISION = 0.9  # on validation; below it too much of what is learned is wrong
LEAST_PHOTOS = 20  # a share of fewer photos is not worth a judgement
# A class that many times more frequent among the chosen photos than on validation is suspect.
SKEW = 3
# A label may be wrong if its probability is below UNLIKELY and that of another at least CERTAIN.
UNLIKELY, CERTAIN = 0.02, 0.95


@dataclass(frozen=True)
class Chosen:
    """Test photos that get a label, and how often such labels are right on validation."""

    rows: Rows  # to learn, beside the labelled ones
    places: np.ndarray  # (chosen,) int64: of the same photos among the test photos
    refused: str  # why there are no rows, "" if not refused
    warnings: list[str]
    line: str  # how many test photos pass, and how often validation photos that pass are right


def choose(
    members: Sequence[Voter],
    gates: Sequence[Gate],
    table: photos.Table,
    views: Views,
    metric: Metric = "accuracy",
) -> Chosen:
    """Test photos for which, in every member, at least AGREEMENT of the views say the same class.

    With adaptive views a photo that stops early has 4 of 4 views alike, which is weaker evidence
    than 61 of 64. The precision shows what it is worth: validation photos stop by the same rule.
    """
    test = [member.test[0] for member in members]
    val = [member.val.as_asked(views) for member in members]
    rows, usable = table.rows(photos.TEST), usable_photos(table)
    ids = table.frame["id"].iloc[rows.rows].tolist()
    assert all(votes.ids == ids for votes in test), "votes of other photos than the test photos"

    labels, agree, enough = _agreement(test)
    labels_val, agree_val, enough_val = _agreement(val)
    passing = np.flatnonzero(agree & enough & usable)
    passing_val = np.flatnonzero(agree_val & enough_val)
    labels, labels_val = labels[passing], labels_val[passing_val]
    n, n_val = len(labels), len(labels_val)
    right = int((labels_val == val[0].labels[passing_val]).sum())

    each = "the member" if len(members) == 1 else f"each of {len(members)} members"
    line = (
        f"{n:,} of {len(ids):,} test photos ({n / len(ids):.1%}) pass: at least {AGREEMENT:.0%} of "
        f"the views of {each} put the same class first; of {len(val[0].ids):,} validation photos "
        f"{n_val:,} pass"
    )
    if n_val:
        low, high = wilson(right, n_val)
        line += f", and {right:,} of them are right: {right / n_val:.3f} ({low:.3f}–{high:.3f})"
    warnings = _warn_of_skew(labels, labels_val)
    too_few = int((agree & ~enough & usable).sum())
    if too_few:
        warnings.append(
            f"{too_few:,} test photos agree but have fewer than {LEAST_VIEWS} views, so they are "
            f"left out; let the first round of views have {LEAST_VIEWS}"
        )
    refused = _refuse_members(gates, val, test, metric)
    refused = refused or _refuse_labels(labels, usable.sum(), len(table.classes), right, n_val)
    if refused:
        line, passing, labels = f"refused: {refused}; {line}", passing[:0], labels[:0]
    return Chosen(Rows(rows.rows[passing], labels), passing, refused, warnings, line)


def _leader(votes: Votes) -> tuple[np.ndarray, np.ndarray]:
    """(photos,): the class that most views put first, and the share of the views that do."""
    counts = votes.first_places()
    return counts.argmax(1), counts.max(1) / votes.n_views


def _agreement(members: Sequence[Votes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each photo: a class; do nearly all views of every member say it; are they enough."""
    leaders = [_leader(votes) for votes in members]
    labels = leaders[0][0]
    agree = [(leader == labels) & (share >= AGREEMENT) for leader, share in leaders]
    enough = [votes.n_views >= LEAST_VIEWS for votes in members]
    return labels, np.all(agree, axis=0), np.all(enough, axis=0)


def _refuse_members(
    gates: Sequence[Gate], val: Sequence[Votes], test: Sequence[Votes], metric: Metric
) -> str:
    """Why the views of a member say too little to label by them; "" if they do not."""
    for number, own in enumerate(gates):
        # tta=always opens a gate for predicting, not for labelling.
        if not (own.open and gate("auto", val[number], metric).open):
            return (
                f"the gate of test-time augmentation is closed for member {number + 1} of "
                f"{len(gates)}, so the agreement of its views says nothing"
            )
        for name, votes in (("test", test[number]), ("validation", val[number])):
            if votes.n_views.max() < LEAST_VIEWS:
                return (
                    f"member {number + 1} gives a {name} photo {votes.n_views.max()} views at "
                    f"most, and agreement of fewer than {LEAST_VIEWS} means little"
                )
    return ""


def _refuse_labels(labels: np.ndarray, usable: int, classes: int, right: int, n_val: int) -> str:
    """Why labels of usable test photos that pass are not learned; "" if they are.

    right: how many of n_val validation photos that pass are right.
    """
    n, precision = len(labels), right / max(1, n_val)
    reasons = [
        (n == 0, f"none of {usable:,} usable test photos passes"),
        (
            n / max(1, usable) > NEARLY_ALL,
            f"{n:,} of {usable:,} usable test photos pass, more than {NEARLY_ALL:.0%}; labelling "
            "nearly everything only reproduces the model",
        ),
        (
            classes > 1 and len(np.unique(labels)) == 1,
            f"all of the {n:,} photos that pass are of one class of {classes}",
        ),
        (
            n_val < LEAST_PHOTOS,
            f"the precision is unknown: {n_val} validation photos pass, and at least "
            f"{LEAST_PHOTOS} are needed to measure it",
        ),
        (
            precision < LEAST_PRECISION,
            f"{right:,} of {n_val:,} validation photos that pass are right, precision "
            f"{precision:.3f}, and at least {LEAST_PRECISION} is needed",
        ),
    ]
    return next((reason for holds, reason in reasons if holds), "")


def _warn_of_skew(labels: np.ndarray, labels_val: np.ndarray) -> list[str]:
    """labels, labels_val: classes of the test and validation photos that pass."""
    n, n_val = len(labels), len(labels_val)
    counts = np.bincount(labels)
    counts_val = (labels_val[:, None] == np.arange(len(counts))).sum(0)
    # Shares are compared without dividing by one of 0.
    skewed = (counts >= LEAST_PHOTOS) & (counts * n_val > SKEW * counts_val * n)
    return [
        f"class index {k} is {counts[k] / n:.1%} of the test photos that pass ({counts[k]:,} of "
        f"{n:,}) and {counts_val[k] / n_val:.1%} of the validation photos that pass "
        f"({counts_val[k]:,} of {n_val:,})"
        for k in np.flatnonzero(skewed)
    ]


def usable_photos(table: photos.Table) -> np.ndarray:
    """(test photos,) bool: which may get a label, in the table's order.

    Not unreadable ones, whose votes are unanimous on a grey photo. Not copies of labelled photos:
    a validation photo would be learned.
    """
    is_test = table.frame["fold"] == photos.TEST
    test, labelled = table.frame[is_test], table.frame.loc[~is_test, "group"]
    return (test["readable"].astype(bool) & ~test["group"].isin(labelled)).to_numpy()


def table(chosen: Chosen, members: Sequence[Voter], classes: Sequence[int | str]) -> pd.DataFrame:
    """A row for each chosen photo, for pseudo.csv: id, label, and of each member, counted from 1:

    agreement_1: share of its views that put the label first; probability_1: their mean probability
    of it; views_1: how many views; votes_1: text such as "3:62 7:2", class:views, most views first.
    """
    labels, each = chosen.rows.labels, np.arange(len(chosen.rows))
    ids = [members[0].test[0].ids[place] for place in chosen.places]
    columns: dict[str, list] = {"id": ids, "label": [str(classes[k]) for k in labels]}
    for number, member in enumerate(members, 1):
        some = replace(member.test[0].take(chosen.places), combine="mean")
        counts = some.first_places()
        columns |= {
            f"agreement_{number}": (counts[each, labels] / some.n_views).tolist(),
            f"probability_{number}": some.together()[each, labels].tolist(),
            f"views_{number}": some.n_views.tolist(),
            f"votes_{number}": [_text(row, classes) for row in counts],
        }
    return pd.DataFrame(columns)


def _text(counts: np.ndarray, classes: Sequence[int | str]) -> str:
    order = np.argsort(-counts, kind="stable")
    return " ".join(f"{classes[k]}:{counts[k]}" for k in order if counts[k])


def suspicious(votes: Votes, smoothing: float = 0.0) -> pd.DataFrame:
    """Photos whose given label the votes contradict with near-certainty, most certain first.

    votes: of photos that the model did not train on, else it repeats the label it was taught.
    smoothing: of the labels it was trained with. A photo is listed if at least AGREEMENT of its
    views put the same other class first, which is CERTAIN, while the given label is UNLIKELY.
    Columns: id, given and predicted (class indices), probability (of predicted), given_probability,
    agreement, row (index into votes). The idea is of Northcutt et al. 2021, "Confident Learning";
    theirs estimates thresholds per class, ours is plain.
    """
    # A network trained with label smoothing gives other classes their share of it.
    certain = CERTAIN * (1 - smoothing)
    unlikely = UNLIKELY + smoothing / votes.probs.shape[2]
    predicted, share = _leader(votes)
    probs, each = votes.together(), np.arange(len(votes.ids))
    table = pd.DataFrame(
        {
            "id": votes.ids,
            "given": votes.labels,
            "predicted": predicted,
            "probability": probs[each, predicted],
            "given_probability": probs[each, votes.labels],
            "agreement": share,
            "row": each,
        }
    )
    table = table[
        (table["predicted"] != table["given"])
        & (table["agreement"] >= AGREEMENT)
        & (table["probability"] >= certain)
        & (table["given_probability"] < unlikely)
    ]
    order = ["probability", "given_probability", "row"]
    return table.sort_values(order, ascending=[False, True, True], ignore_index=True)
