"""What is worth knowing of a run: a sentence of each kind, the most important first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup

from carcls.metrics import Metric
from carcls.report import parts
from carcls.report.charts import count_photos
from carcls.report.outcome import Outcome
from carcls.votes.evidence import HARM, compare
from carcls.votes.votes import Gate, Votes

FINE, FEW, UNDER, OVER = (
    "Trained about long enough",
    "Too few epochs",
    "Under-trained",
    "Overfitted",
)

LITTLE = 0.01  # of log-loss: of photos that are all right, it may rise to many times its best

MEND, NEWS, WELL = 0, 1, 2  # how much a verdict matters: something to mend, to know, or all is well


@dataclass(frozen=True)
class Verdict:
    """A sentence with a title and, where there is one, a small picture or a figure."""

    kind: str  # labels, training, pair or views
    title: str
    text: str
    picture: Markup | str = ""
    rank: int = WELL


def first_three(
    o: Outcome,
    labels: pd.DataFrame,
    histories: Mapping[str, pd.DataFrame],
    gate: Gate,
    votes: Votes,
    metric: Metric = "accuracy",
) -> list[Verdict]:
    """The three most important: what can be mended, then what is new, then what is well.

    Within each the order is: wrong labels, which spoil training and figures alike; the length of
    training, which every photo depends on; the pair of classes that is confused most; views, which
    already are used only where they help. labels: ``pseudo.suspicious``; histories: of all
    networks by name; gate and votes: of the best member; metric: that decides.
    """
    found = [_labels(o, labels), _training(histories), _pair(o), _views(o, gate, votes, metric)]
    there = [verdict for verdict in found if verdict]
    return sorted(there, key=lambda verdict: verdict.rank)[:3]


def judge(history: pd.DataFrame) -> list[tuple[str, str]]:
    """What the curves say of a training, as titles and sentences; nothing of a refit."""
    if history["val_loss"].isna().all():
        return []
    last_size = history[history["stage"] == history["stage"].max()]
    loss, accuracy = last_size["val_loss"].to_numpy(), last_size["val_accuracy"].to_numpy()
    if len(loss) < 3:
        return [
            (FEW, "The last size had fewer than three epochs: too few to judge how long to train.")
        ]
    found = []
    fell = 1 - loss[-1] / loss[-3]
    if loss[-1] == loss.min() and fell > 0.1 and accuracy[-1] > accuracy[-3]:
        text = f"Over the last two epochs validation loss still fell by {fell:.0%} and accuracy "
        found.append((UNDER, f"{text}rose. More epochs should help."))
    if loss[-1] > max(1.05 * loss.min(), loss.min() + LITTLE):
        text = f"Validation loss ended {loss[-1] / loss.min() - 1:.0%} above its best. "
        found.append((OVER, f"{text}Fewer epochs or stronger augmentation should help."))
    return found or [(FINE, "The curves show neither too few nor too many epochs.")]


def _training(histories: Mapping[str, pd.DataFrame]) -> Verdict | None:
    """Of all networks the judgement that most of them share; one with something to mend first."""
    judged = {name: judge(history) for name, history in histories.items()}
    every = [(title, name, text) for name, all_ in judged.items() for title, text in all_]
    if not every:
        return None
    titles = [title for title, _, _ in every]
    order = {title: n for n, title in enumerate((UNDER, OVER, FEW, FINE))}
    title = min(titles, key=lambda t: (t not in (UNDER, OVER), -titles.count(t), order[t]))
    _, name, text = next(one for one in every if one[0] == title)
    networks = sum(bool(all_) for all_ in judged.values())
    if networks > 1:
        text = f"{titles.count(title)} of {networks} networks; the first, {name}: {text}"
    loss = histories[name]["val_loss"].to_numpy(float)
    alt = f"validation loss by epoch: {loss[0]:.3g} at first, {loss[-1]:.3g} at the end"
    rank = MEND if title in (UNDER, OVER) else WELL
    return Verdict("training", title, text, parts.spark(loss, alt), rank)


def _labels(o: Outcome, labels: pd.DataFrame) -> Verdict:
    if labels.empty:
        return Verdict("labels", "Labels look right", "The votes contradict no label.")
    n = len(labels)
    shown = [
        (int(row.row), f"labelled {o.classes[row.given]}, votes say {o.classes[row.predicted]}")
        for row in labels.head(2).itertuples()
    ]
    title = f"{count_photos(n)} may have a wrong label"
    whose, which = ("its", "it") if n == 1 else ("their", "them")
    text = f"Nearly all of {whose} views put the same other class first, with near-certainty. "
    text += f"Look at {which} below or in labels.csv, and mend train.csv."
    return Verdict("labels", title, text, _photos(o, shown), MEND)


def _pair(o: Outcome) -> Verdict:
    i, j, count = o.most_confused
    if not count:
        what = f"All {len(o.truth):,} validation photos are predicted rightly."
        return Verdict("pair", "No classes are confused", what)
    shown = [_example(o, true, other) for true, other in ((i, j), (j, i))]
    title = f"Classes {o.classes[i]} and {o.classes[j]} are confused most"
    text = f"{count_photos(count)} of {o.confusion[[i, j]].sum():,} of these two classes"
    text += f" {'is' if count == 1 else 'are'} taken for the other one; "
    text += f"{len(o.wrong):,} of all {len(o.truth):,} validation photos are wrong."
    picture = _photos(o, [one for one in shown if one])
    return Verdict("pair", title, text, picture, MEND)


def _example(o: Outcome, true: int, other: int) -> tuple[int, str] | None:
    """The surest photo of one class that is taken for the other, else of those that are right."""
    for predicted in (other, true):
        which = np.flatnonzero((o.truth == true) & (o.predicted == predicted))
        if len(which):
            surest = int(which[o.probs[which, predicted].argmax()])
            said = f"taken for {o.classes[other]}" if predicted == other else "predicted rightly"
            return surest, f"{o.classes[true]}, {said} ({o.probs[surest, predicted]:.2f})"
    return None


def _views(o: Outcome, gate: Gate, votes: Votes, metric: Metric) -> Verdict | None:
    most = int(votes.n_views.max())
    if most == 1:
        return None
    alone, together = votes.alone(), votes.together()
    change = compare(alone, together, o.truth, metric)
    is_sure = change.p < HARM
    if metric != "accuracy":  # whose test has one side
        is_sure = compare(together, alone, o.truth, metric).harms
    title = "Views change nothing"
    if change.harms:
        title = "Views do harm"
    elif change.helps:
        title = "Views help" if is_sure else "Views help a little, or by chance"
        if not is_sure and change.gain <= 0:
            title = "Views make predictions surer, not better"
    text = f"With {most} views of a photo instead of one, {change.corrected} became right and "
    text += f"{change.spoiled} wrong (p = {change.p:.2g}); log-loss {change.loss_before:.4f} → "
    text += f"{change.loss_after:.4f}. The submission "
    text += "uses them." if gate.open else "takes each photo alone."
    figure = Markup('<p class="big"><b class="good">+{}</b> <b class="bad">−{}</b></p>')
    moved = change.corrected or change.spoiled
    picture = figure.format(change.corrected, change.spoiled) if moved else ""
    rank = NEWS if change.harms or change.helps else WELL
    return Verdict("views", title, text, picture, MEND if change.harms and gate.open else rank)


def _photos(o: Outcome, shown: Sequence[tuple[int, str]]) -> Markup:
    """Photos side by side: their positions, and what is below them."""
    return parts.photos([(o.frame.iloc[at], caption) for at, caption in shown])
