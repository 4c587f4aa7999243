"""Members into one prediction: weights fitted on validation photos, or stacking.

What is fitted is measured out of fold, the choice of a kind included. Everywhere ``probs`` is float
(members, photos, classes), each row sums to 1, and ``truth`` int (photos,), the class of each
photo. The photos are validation photos that no member was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from carcls import metrics
from carcls.disagreement import BLENDS
from carcls.errors import ConfigError
from carcls.metrics import SHOWN, TINY, Metric, log_loss
from carcls.votes.evidence import compare, measure
from carcls.votes.votes import ROW_SUM

KINDS = BLENDS[1:]  # from simple to complicated; a new one also wants a branch in ``fit``
SMALLEST = 0.005  # a fitted weight below it is noise, and becomes 0
LEAST = 10  # photos; with fewer, folds of two or three photos choose by luck
# Folds, and trees of a forest: of the reported accuracy, and of choosing within each of its folds.
# Few trees, of few photos each, as a choice fits up to 16 forests, 10 of them within.
OUTER, INNER = (5, 40), (2, 10)
ENOUGH = 1200  # photos from which a kind is chosen within an outer fold, and a tree is grown
LARGE = 2000  # unknowns of a logistic regression: above it, no matrix of their squares


@dataclass(frozen=True)
class Known:
    """What is known of the validation photos, and how predictions of them are judged."""

    truth: np.ndarray
    groups: np.ndarray | None = None  # (photos,) int: those of a group, as copies, stay in one fold
    seed: int = 0  # of folds and forests
    metric: Metric = "accuracy"

    def some(self, photos: np.ndarray) -> Known:
        """Of these photos alone."""
        groups = None if self.groups is None else self.groups[photos]
        return replace(self, truth=self.truth[photos], groups=groups)

    def score(self, probs: np.ndarray) -> float:
        return metrics.value(self.metric, probs, self.truth)


@dataclass(frozen=True)
class Blend:
    """What makes one prediction of those of all members: weights, or a fitted classifier."""

    kind: str  # one of KINDS, or manual
    weights: np.ndarray | None = None  # (members,), at least one above 0
    stack: Any = None  # classifier of sklearn

    def apply(self, probs: np.ndarray) -> np.ndarray:
        """(members, photos, classes) → (photos, classes) float64, each row sums to 1."""
        probs = _checked(probs)
        if self.weights is not None:
            assert len(self.weights) == len(probs), "weights of other members"
            mixed = np.tensordot(self.weights, probs, 1)
        else:
            mixed = np.zeros(probs.shape[1:])  # a class that validation does not have stays 0
            mixed[:, self.stack.classes_] = self.stack.predict_proba(_features(probs))
        # Rows sum to the sum of the weights, and float32's miss 1 by a little.
        return mixed / mixed.sum(1, keepdims=True)

    def weights_text(self) -> str:
        """As the setting blend= takes them; empty for stacking."""
        return "" if self.weights is None else "/".join(f"{w:.3g}" for w in self.weights)


@dataclass(frozen=True)
class Choice:
    """A blend and what validation photos say of it."""

    blend: Blend  # fitted on all validation photos
    table: pd.DataFrame  # a row a kind: kind, metrics, corrected, spoiled, weights
    val_probs: np.ndarray  # (photos, classes) float64; neither fit nor choice saw their photo
    picked: list[str]  # kind chosen in each outer fold; empty where none was chosen
    reason: str


def choose(kind: str, probs: np.ndarray, names: list[str], known: Known) -> Choice:
    """The blend as set, judged out of fold where it is fitted; with auto the best founded kind.

    kind: as the setting blend=; of one member there is nothing to blend. names: of the members.
    Raises ConfigError where there are too few photos, or weights are not as expected.
    """
    probs, truth = _checked(probs), known.truth
    fitted = len(names) > 1 and kind in BLENDS
    if fitted and len(truth) < LEAST:
        raise ConfigError(
            f"{len(truth)} validation photos: at least {LEAST} are needed to compare blends; raise "
            "val_fraction"
        )
    if fitted and kind == "auto":
        return _choose_kind(probs, names, known)
    reason = f"blend={kind}, as set"
    if len(names) == 1:
        blend, reason = Blend("best", np.ones(1)), "one member"
    elif fitted:
        blend = fit(kind, probs, known)
    else:
        blend = Blend("manual", parse_weights(kind, len(names)))
    judged = crossvalidate(kind, probs, known) if fitted else blend.apply(probs)
    table = _table({blend.kind: judged}, {blend.kind: blend}, known)
    return Choice(blend, table, judged, [], reason)


def _choose_kind(probs: np.ndarray, names: list[str], known: Known) -> Choice:
    """The simplest kind that nothing more complicated beats on photos that it was not fitted on.

    Nested cross-validation (Varma and Simon 2006): for each outer fold the kind is chosen anew on
    the other photos, so that the choice does not flatter the score.
    """
    predicted = {k: crossvalidate(k, probs, known, OUTER) for k in KINDS}
    nested, picked = np.full(probs.shape[1:], np.nan), []
    for rest, fold in split(known.truth, known.groups, known.seed, OUTER[0]):
        some = np.sort(np.random.default_rng(known.seed).permutation(rest)[:ENOUGH])
        inner = known.some(some)
        tried = {k: crossvalidate(k, probs[:, some], inner, INNER) for k in KINDS}
        picked.append(_pick(tried, inner))
        nested[fold] = predicted[picked[-1]][fold]  # it was fitted on rest alone
    kind = _pick(predicted, known)
    blends = {k: fit(k, probs, known) for k in {*KINDS[:3], kind}}
    best = names[int(np.argmax(np.asarray(blends["best"].weights)))]
    reason = f"{best} alone: no blend both lowers the log-loss and betters {SHOWN[known.metric]}"
    if known.metric == "log_loss":
        reason = f"{best} alone: no blend lowers the log-loss by more than its standard error"
    if kind != "best":
        change = compare(predicted["best"], predicted[kind], known.truth, known.metric)
        reason = f"{kind} against the best member ({best}): {change}"
    table = _table(predicted, blends, known)
    return Choice(blends[kind], table, nested, picked, reason)


def _pick(predicted: dict[str, np.ndarray], known: Known) -> str:
    """The kind to take, of out-of-fold predictions (photos, classes) of each of KINDS."""
    best, *others = KINDS
    for kind in others:
        if compare(predicted[best], predicted[kind], known.truth, known.metric).surely_helps:
            best = kind
    return best


def _table(
    predicted: dict[str, np.ndarray], blends: dict[str, Blend], known: Known
) -> pd.DataFrame:
    """A row a kind; corrected and spoiled against the best member, where that is judged too."""
    rows = []
    for kind, probs in predicted.items():
        row: dict[str, Any] = {"kind": kind}
        for name in dict.fromkeys(["accuracy", "log_loss", known.metric]):
            row[name] = metrics.value(name, probs, known.truth)
        if "best" in predicted:
            change = compare(predicted["best"], probs, known.truth)
            row |= {"corrected": change.corrected, "spoiled": change.spoiled}
        weights = blends[kind].weights_text() if kind in blends else ""
        rows.append(row | {"weights": weights})
    return pd.DataFrame(rows)


def members_table(names: list[str], probs: np.ndarray, known: Known) -> pd.DataFrame:
    """Each member alone; alone_right counts the photos that only this member has right."""
    right = probs.argmax(2) == known.truth  # (members, photos)
    rows = [
        {"name": name, **measure(p, known.truth, known.metric)}
        for name, p in zip(names, probs, strict=True)
    ]
    alone = (right & (right.sum(0) == 1)).sum(1)
    return pd.DataFrame(rows).assign(errors=(~right).sum(1), alone_right=alone)


# --- Fitting --------------------------------------------------------------------------------------


def parse_weights(text: str, members: int) -> np.ndarray:
    """``"0.9/0.05/0.05"`` → (members,) float64 with sum 1. Raises ConfigError."""
    try:
        weights = np.array([float(word) for word in text.split("/")])
    except ValueError:
        weights = np.array([np.nan])
    if len(weights) != members or not (weights >= 0).all() or not 0 < weights.max() < np.inf:
        raise ConfigError(
            f"blend={text}: expected {members} number{'s' * (members > 1)} of 0 or more, one for "
            "each member, with / between them, at least one of them above 0"
        )
    weights /= weights.max()  # first, as the sum of numbers near the largest float is inf
    return weights / weights.sum()


def fit(kind: str, probs: np.ndarray, known: Known, trees: int = OUTER[1]) -> Blend:
    """A blend of one of KINDS, fitted on these photos; trees: of the forest.

    best: the member of the best metric, the lower log-loss among equals. average: equal
    weights. weights: those of the lowest log-loss of the weighted mean. logistic, forest: stacking
    (Wolpert 1992) on the log-probabilities of all members.
    """
    members, truth = len(probs), known.truth
    if kind == "best":
        merits = [metrics.merit(known.metric, known.score(member)) for member in probs]
        order = [(-m, log_loss(p, truth)) for m, p in zip(merits, probs, strict=True)]
        return Blend(kind, np.eye(members)[order.index(min(order))])
    if kind == "average":
        return Blend(kind, np.full(members, 1 / members))
    if kind == "weights":
        return Blend(kind, _fit_weights(probs, truth))
    features = _features(probs)
    classifier = _classifier(kind, features.shape[1], truth, known.seed, trees)
    return Blend(kind, stack=classifier.fit(features, truth))


def crossvalidate(
    kind: str, probs: np.ndarray, known: Known, effort: tuple[int, int] = OUTER
) -> np.ndarray:
    """(photos, classes) float64: each photo predicted by a blend fitted without its fold."""
    out, (folds, trees) = np.empty(probs.shape[1:]), effort
    for rest, fold in split(known.truth, known.groups, known.seed, folds):
        blend = fit(kind, probs[:, rest], known.some(rest), trees)
        out[fold] = blend.apply(probs[:, fold])
    return out


def split(
    truth: np.ndarray, groups: np.ndarray | None, seed: int, folds: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Photos to fit on and photos to predict, of each fold; no more folds than groups.

    Groups are dealt out like cards, class by class, by the class of their first photo. sklearn's
    StratifiedGroupKFold takes seconds for thousands of groups. Raises ConfigError for one group.
    """
    groups = np.arange(len(truth)) if groups is None else groups
    names, first, group = np.unique(groups, return_index=True, return_inverse=True)
    folds = min(folds, len(names))
    if folds < 2:
        raise ConfigError(f"all {len(truth)} photos are of one group: there is no fold without it")
    shuffled = np.random.default_rng(seed).permutation(len(names))
    dealt = shuffled[np.argsort(truth[first][shuffled], kind="stable")]
    number = np.empty(len(names), np.int64)
    number[dealt] = np.arange(len(names)) % folds
    number = number[group]  # (photos,)
    return [(np.flatnonzero(number != k), np.flatnonzero(number == k)) for k in range(folds)]


def _fit_weights(probs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Weights (members,) float64 ≥ 0 with sum 1 of the lowest log-loss of the weighted mean.

    Convex in the weights, so SLSQP (Kraft 1988) finds the one minimum from equal weights.
    """
    from scipy.optimize import minimize  # takes long to import

    members = len(probs)
    true = np.maximum(probs[:, np.arange(len(truth)), truth], TINY)  # (members, photos)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.maximum(weights @ true, TINY)  # the sum of weights may miss 1 by rounding
        return float(-np.log(mixed).mean()), -(true / mixed).mean(1)

    start = np.full(members, 1 / members)
    minimum = minimize(
        loss,
        start,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * members,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-10, "maxiter": 500},
    )
    # At a flat minimum SLSQP can report a failed line search; only a worse point is of no use.
    weights = minimum.x if minimum.fun <= loss(start)[0] else start
    weights = np.where(weights < min(SMALLEST, weights.max()), 0.0, weights)
    return weights / weights.sum()


def _classifier(kind: str, features: int, truth: np.ndarray, seed: int, trees: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier  # takes long to import
    from sklearn.linear_model import LogisticRegression

    # Few photos for many features: C below sklearn's 1 and leaves of three keep both from learning
    # single photos. newton-cholesky is the fastest, but holds a matrix of the square of its
    # unknowns; sklearn 1.6's lbfgs passes options that scipy 1.16 deprecates.
    classes = len(np.unique(truth))
    if kind == "logistic" and classes > 1:  # it refuses the one class that a fold may leave
        solver = "newton-cholesky" if features * classes <= LARGE else "newton-cg"
        return LogisticRegression(C=0.1, max_iter=1000, solver=solver, tol=1e-3)
    share = min(0.5, ENOUGH / len(truth))  # of the photos that a tree is grown from
    return RandomForestClassifier(
        trees, min_samples_leaf=3, max_samples=share, random_state=seed, n_jobs=1
    )


def _features(probs: np.ndarray) -> np.ndarray:
    """(members, photos, classes) → (photos, members · classes) log-probabilities, by member."""
    return np.log(np.maximum(probs, TINY)).transpose(1, 0, 2).reshape(probs.shape[1], -1)


def _checked(probs: np.ndarray) -> np.ndarray:
    """As float64, if they are probabilities (members, photos, classes)."""
    assert probs.ndim == 3 and 0 not in probs.shape, probs.shape
    assert np.isfinite(probs).all(), "a network's probabilities are not finite"
    sums = probs.sum(2, dtype=np.float64)
    assert (probs >= 0).all() and np.abs(sums - 1).max() <= ROW_SUM, "not probabilities"
    return probs.astype(np.float64)
