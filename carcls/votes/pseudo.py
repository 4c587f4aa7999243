"""Pseudo-labels: test photos on which nearly all views of all members agree. And given labels that votes contradict.

The idea is old (Lee 2013, "Pseudo-Label"); what is done here is a plain threshold on the agreement of views, whose
precision is measured on validation photos that pass the same threshold. Labelling everything would only teach the
model what it says already (S62), and a majority that is enough to predict is not enough to label (S63).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from carcls.data import photos
from carcls.votes.votes import HARM, Votes, log_loss, paired, wilson

SOURCE = "pseudo"  # in the column source of a photo that ``extend`` added
LEAST_VIEWS = 4  # cast on a photo by every member; agreement of fewer says little
NEARLY_ALL = 0.98  # share of the test photos above which labelling only reproduces the model (S62)
LEAST_PRECISION = 0.9  # on validation; below it too much of what is learned is wrong
LEAST_PHOTOS = 20  # a share of fewer photos is not worth a judgement
SKEW = (
    3  # times its share on validation: a class that much more frequent among the chosen is suspect
)
UNLIKELY = 0.02  # a given label whose probability is below it may be wrong


# --- Choosing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chosen:
    """Which test photos get a label, and how often such labels are right on validation."""

    rows: np.ndarray  # (chosen,) int64: indices of test photos, in the order of the votes
    labels: np.ndarray  # (chosen,) int64: class index of each
    ids: tuple[str, ...]  # of the rows
    refused: str  # why there are no rows, "" if not refused
    warnings: tuple[str, ...]
    line: str  # all of it in a sentence: how many test photos pass, and how often validation photos that pass are right


def select(
    members: Sequence[Votes],
    validation: Sequence[Votes],
    gate_open: Sequence[bool],
    agreement: float,
    classes: int,
    usable: np.ndarray | None = None,
) -> Chosen:
    """Choose test photos for which, in every member, at least ``agreement`` of the views cast put the same class first.

    members: votes on the test photos; validation: the same members' votes on labelled photos, by the same rule of views
    (``votes.adapt`` where only the test photos were adaptive); gate_open: whether each member's test-time augmentation
    passed its gate (S64). usable (photos,) bool: test photos that may be chosen, all if None (``usable_photos``).

    A photo needs at least LEAST_VIEWS views of every member. Where views are adaptive, photos that stop early do so
    because their first views are unanimous: 4 of 4 is weaker evidence than 61 of 64, and the precision shows what it is
    worth, as validation photos stop by the same rule. Raises ValueError where the arguments do not fit together.
    """
    _check(members, validation, gate_open, agreement, classes)
    n = len(members[0].ids)
    usable = np.ones(n, bool) if usable is None else np.asarray(usable, bool)
    if usable.shape != (n,):
        raise ValueError(f"usable is {usable.shape}, expected ({n},)")
    label, agree, enough = _agreed(members, agreement)
    rows = np.flatnonzero(agree & enough & usable)
    said, val_agree, val_enough = _agreed(validation, agreement)
    val_rows = np.flatnonzero(val_agree & val_enough)
    passing, right = len(val_rows), int((said == validation[0].labels)[val_rows].sum())

    refused = _refusal(
        members, validation, gate_open, label[rows], int(usable.sum()), classes, passing, right
    )
    warnings = _warnings(
        members, validation, label[rows], said[val_rows], int((agree & ~enough & usable).sum())
    )
    each = "the member" if len(members) == 1 else f"each of {len(members)} members"
    line = (
        f"{len(rows):,} of {n:,} test photos ({len(rows) / n:.1%}) pass: at least {agreement:.4g} of the views "
        f"of {each} put the same class first; of {len(said):,} validation photos {passing:,} pass"
    )
    if passing:
        low, high = wilson(right, passing)
        line += f" and {right:,} of them are right, precision {right / passing:.3f} ({low:.3f}–{high:.3f})"
    line = f"pseudo-labels refused: {refused}; {line}" if refused else f"pseudo-labels: {line}"
    kept = rows[:0] if refused else rows
    ids = tuple(members[0].ids[row] for row in kept)
    return Chosen(kept, label[kept], ids, refused, warnings, line)


def usable_photos(table: photos.Table) -> np.ndarray:
    """(test photos,) bool: test photos that may get a label, in the table's order.

    Not the unreadable ones: their votes are on a grey photo, and unanimous. Not those with the bytes of a labelled
    photo: it may be on the validation side, which then would be learned.
    """
    labelled = table.frame.loc[table.frame["fold"] != photos.TEST, "group"]
    return (table.test["readable"].astype(bool) & ~table.test["group"].isin(labelled)).to_numpy()


def _check(
    members: Sequence[Votes],
    validation: Sequence[Votes],
    gate_open: Sequence[bool],
    agreement: float,
    classes: int,
) -> None:
    if not members or not len(members) == len(validation) == len(gate_open):
        raise ValueError(
            f"{len(members)} members, {len(validation)} of them on validation, {len(gate_open)} gates: "
            "expected as many of each, at least one"
        )
    if not 0.5 < agreement <= 1:
        raise ValueError(
            f"agreement {agreement}: expected above 0.5, so that one class has it, and at most 1"
        )
    for name, group in (("test", members), ("validation", validation)):
        for number, votes in enumerate(group, 1):
            if not votes.ids or votes.ids != group[0].ids:
                raise ValueError(
                    f"{name} votes of member {number}: {len(votes.ids)} photos, not the "
                    f"{len(group[0].ids)} of member 1 in their order; expected the same, at least "
                    "one"
                )
            if votes.probs.shape[2] != classes:
                raise ValueError(
                    f"{name} votes of member {number}: {votes.probs.shape[2]} classes, expected {classes}"
                )
    for number, votes in enumerate(validation, 1):
        _check_labelled(votes, f"validation votes of member {number}")


def _check_labelled(votes: Votes, what: str) -> None:
    if unknown := int((votes.labels < 0).sum()):
        raise ValueError(f"{what}: {unknown} of {len(votes.ids)} photos have no label")


def _counts(votes: Votes) -> np.ndarray:
    """(photos, classes) int64: how many of the views that a photo was cast put each class first."""
    views, n, classes = votes.probs.shape
    on = (
        np.arange(views)[:, None] < votes.cast
    )  # (V, P): views not cast are all zero and would vote for class 0
    cell = np.arange(n) * classes + votes.probs.argmax(2)  # (V, P)
    return np.bincount(cell[on], minlength=n * classes).reshape(n, classes)


def _leader(votes: Votes) -> tuple[np.ndarray, np.ndarray]:
    """The class that most views put first (photos,), and the share of the views cast that do."""
    counts = _counts(votes)
    return counts.argmax(1), counts.max(1) / np.maximum(votes.cast, 1)


def _agreed(
    members: Sequence[Votes], agreement: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(photos,) each: class of the first member; whether all members agree on it so far; whether views are enough."""
    leaders = [_leader(votes) for votes in members]
    label = leaders[0][0]
    agree = np.all([(lead == label) & (share >= agreement) for lead, share in leaders], axis=0)
    enough = np.all([votes.cast >= LEAST_VIEWS for votes in members], axis=0)
    return label, agree, enough


def _refusal(
    members: Sequence[Votes],
    validation: Sequence[Votes],
    gate_open: Sequence[bool],
    labels: np.ndarray,
    n: int,
    classes: int,
    passing: int,
    right: int,
) -> str:
    """The first reason to label nothing, "" if there is none. labels: of those of n usable test photos that pass."""
    closed = [str(number) for number, is_open in enumerate(gate_open, 1) if not is_open]
    if closed:
        return (
            f"the gate of test-time augmentation is closed for member {', '.join(closed)} of {len(members)}, so "
            "the agreement of its views says nothing"
        )
    for name, group in (("test", members), ("validation", validation)):
        for number, votes in enumerate(group, 1):
            if votes.cast.max() < LEAST_VIEWS:
                return (
                    f"member {number} gives a {name} photo {votes.cast.max()} views at most, and agreement of "
                    f"fewer than {LEAST_VIEWS} means little"
                )
    if not len(labels):
        return f"none of {n:,} usable test photos passes"
    if len(labels) / n > NEARLY_ALL:
        return (
            f"{len(labels):,} of {n:,} usable test photos pass, more than {NEARLY_ALL:.0%}; labelling nearly "
            "everything only reproduces the model"
        )
    if classes > 1 and (labels == labels[0]).all():
        return (
            f"all of the {len(labels):,} photos that pass are of class index {labels[0]}, and there are {classes} "
            "classes"
        )
    if passing < LEAST_PHOTOS:
        return (
            f"the precision is unknown: {passing} validation photos pass, and at least {LEAST_PHOTOS} are needed "
            "to measure it"
        )
    if right / passing < LEAST_PRECISION:
        return (
            f"{right:,} of {passing:,} validation photos that pass are right, precision {right / passing:.3f}, and "
            f"at least {LEAST_PRECISION} is needed"
        )
    return ""


def _warnings(
    members: Sequence[Votes],
    validation: Sequence[Votes],
    labels: np.ndarray,
    val_labels: np.ndarray,
    too_few: int,
) -> tuple[str, ...]:
    """What looks odd. labels, val_labels: classes of the photos that pass; too_few: test photos short of views only."""
    found = []
    for k, count in enumerate(np.bincount(labels)):
        val_count = int((val_labels == k).sum())
        # share / val_share > SKEW without dividing by a share of 0
        if (
            count >= LEAST_PHOTOS
            and len(val_labels)
            and count * len(val_labels) > SKEW * val_count * len(labels)
        ):
            found.append(
                f"class index {k} is {count / len(labels):.1%} of the test photos that pass ({count:,} of "
                f"{len(labels):,}) and {val_count / len(val_labels):.1%} of the validation photos that pass "
                f"({val_count:,} of {len(val_labels):,})"
            )
    if too_few:
        found.append(
            f"{too_few:,} test photos agree but have fewer than {LEAST_VIEWS} views, so they are left out; "
            f"let the first round of views have {LEAST_VIEWS}"
        )
    for number, (test, val) in enumerate(zip(members, validation, strict=True), 1):
        if test.cast.min() != val.cast.min():
            found.append(
                f"member {number} gives test photos {test.cast.min()} views at least and validation photos "
                f"{val.cast.min()}: the precision is that of another rule (votes.adapt makes them "
                "alike)"
            )
    return tuple(found)


def table(
    chosen: Chosen, members: Sequence[Votes], class_names: Sequence[int | str]
) -> pd.DataFrame:
    """A row for each chosen photo, for pseudo.csv: id, label (as in train.csv), and of each member, counted from 1:

    agreement_1: share of its views that put the label first; probability_1: their mean probability of it; cast_1: how
    many views; votes_1: text such as "3:62 7:2", class:views, most views first. The members are those that ``select``
    was given.
    """
    columns: dict[str, list] = {
        "id": list(chosen.ids),
        "label": [class_names[k] for k in chosen.labels],
    }
    each = np.arange(len(chosen.rows))
    for number, votes in enumerate(members, 1):
        some = votes.rows(chosen.rows)
        counts = _counts(some)
        columns[f"agreement_{number}"] = (counts[each, chosen.labels] / some.cast).tolist()
        # An empty choice has no views to combine.
        columns[f"probability_{number}"] = (
            some.combined()[each, chosen.labels].tolist() if len(each) else []
        )
        columns[f"cast_{number}"] = some.cast.tolist()
        columns[f"votes_{number}"] = [_votes_text(row, class_names) for row in counts]
    return pd.DataFrame(columns)


def _votes_text(counts: np.ndarray, class_names: Sequence[int | str]) -> str:
    order = np.argsort(-counts, kind="stable")
    return " ".join(f"{class_names[k]}:{counts[k]}" for k in order if counts[k])


# --- Training on them -----------------------------------------------------------------------------


def extend(train: pd.DataFrame, test: pd.DataFrame, chosen: Chosen) -> pd.DataFrame:
    """The train rows, then the chosen test rows with their label, source "pseudo" and fold TRAIN.

    Both frames have the columns of photos.Table.frame. As the fold is always TRAIN, validation never has a
    pseudo-label. Raises ValueError if a chosen photo is in train already, unreadable, or another than the votes' one.
    """
    if not chosen.ids:
        return train.reset_index(drop=True)
    paths = set(train["path"])  # not ids: train and test may number their photos alike
    more = test.iloc[chosen.rows]
    wrong = {
        "are not the test photos of the votes": [
            i for i, there in zip(chosen.ids, more["id"], strict=True) if i != there
        ],
        "are in train already": more["id"][more["path"].isin(paths)].tolist(),
        "cannot be read": more["id"][~more["readable"].astype(bool)].tolist(),
    }
    for what, ids in wrong.items():
        if ids:
            raise ValueError(
                f"{len(ids)} of {len(chosen.ids)} chosen photos {what}, {ids[0]} first"
            )
    more = more.assign(label=chosen.labels, fold=photos.TRAIN, source=SOURCE)
    return pd.concat([train, more], ignore_index=True)


@dataclass(frozen=True)
class Kept:
    """Whether a member that went on with pseudo-labels replaces the one before, and why."""

    kept: bool
    reason: str


def keep(before: Votes, after: Votes, how: str = "mean") -> Kept:
    """Judge a member that went on with pseudo-labels against itself before, on the same validation photos (S81).

    Kept unless the exact one-sided test calls it harm (``votes.HARM``), or accuracy and log-loss are both worse, or a
    probability is not finite. Raises ValueError if the photos or their labels differ, or a label is unknown.
    """
    if before.ids != after.ids or not np.array_equal(before.labels, after.labels):
        raise ValueError(
            f"votes before on {len(before.ids)} photos and after on {len(after.ids)}: expected the same "
            "photos with the same labels"
        )
    _check_labelled(before, "votes before")
    was, now = before.combined(how), after.combined(how)
    change = paired(was.argmax(1), now.argmax(1), before.labels)
    loss_was, loss_now = log_loss(was, before.labels), log_loss(now, before.labels)
    seen = (
        f"{change.corrected} of {len(before.ids):,} validation photos corrected, {change.spoiled} spoiled "
        f"(one-sided p = {change.p_worse:.2g}), log-loss {loss_was:.4f} → {loss_now:.4f}"
    )
    if not np.isfinite(now).all():
        return Kept(False, f"not kept: some probabilities are not finite; {seen}")
    if change.p_worse < HARM:
        return Kept(False, f"not kept: pseudo-labels harm; {seen}")
    if change.corrected < change.spoiled and loss_now > loss_was:
        return Kept(False, f"not kept: accuracy and log-loss are both worse; {seen}")
    return Kept(True, f"kept: validation is not worse by this evidence; {seen}")


# --- Labels to look at ----------------------------------------------------------------------------


def suspicious(
    votes: Votes,
    how: str = "mean",
    agreement: float = 0.95,
    certainty: float = 0.95,
    unlikely: float = UNLIKELY,
) -> pd.DataFrame:
    """Photos whose given label the votes contradict with near-certainty, most certain first. Nothing is relabelled.

    votes: out-of-fold, by a model that did not train on the photo, else it repeats the label it was taught. A photo is
    listed if at least ``agreement`` of its views put the same other class first, the combined probability of that class
    is at least ``certainty``, and that of the given label is below ``unlikely``. Columns: id, given and predicted (class
    indices), probability (of predicted), given_probability, agreement, row (index into votes).

    To judge labels by out-of-sample probabilities is the idea of Northcutt et al. 2021, "Confident Learning"; theirs
    estimates thresholds per class and the joint distribution of given and true labels, ours is a plain threshold. A
    model trained with label smoothing s hardly says more than 1 − s of any class: lower ``certainty`` then. Raises
    ValueError if a label is unknown.
    """
    _check_labelled(votes, "votes")
    predicted, share = _leader(votes)
    probs = votes.combined(how)
    each = np.arange(len(votes.ids))
    probability, given = probs[each, predicted], probs[each, votes.labels]
    rows = np.flatnonzero(
        (predicted != votes.labels)
        & (share >= agreement)
        & (probability >= certainty)
        & (given < unlikely)
    )
    found = pd.DataFrame(
        {
            "id": [votes.ids[row] for row in rows],
            "given": votes.labels[rows],
            "predicted": predicted[rows],
            "probability": probability[rows],
            "given_probability": given[rows],
            "agreement": share[rows],
            "row": rows,
        }
    )
    order = ["probability", "given_probability", "row"]
    return found.sort_values(order, ascending=[False, True, True], ignore_index=True)
