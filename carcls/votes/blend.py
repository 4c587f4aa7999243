"""Members into one prediction: weights fitted on validation, or stacking; measured out of fold, the choice included.

Everywhere ``probs`` is float (members, photos, classes), each row sums to 1, and ``truth`` int (photos,), the class of
each photo. The photos are validation photos that no member was trained on (S69).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from carcls.config import BLENDS
from carcls.errors import ConfigError
from carcls.votes.votes import TINY, log_loss, wilson

KINDS = BLENDS[1:]  # without auto; from simple to complicated
SMALLEST = 0.005  # fitted weights below it become 0: noise, unless all other members are absurdly sure of mistakes
LEAST = 10  # photos; with fewer, folds of two or three photos choose by luck
OUTER, INNER = 5, 2  # folds of the reported accuracy, and within each of choosing
# A choice among kinds fits up to 16 forests, 10 of them only to choose within outer folds: few
# trees of half the photos each or fewer, so that the votes of a whole competition are decided in
# seconds (make bench).
TREES, INNER_TREES = 40, 10
ENOUGH = 1200  # photos from which a kind is chosen within an outer fold, and a tree is grown
LARGE = 2000  # unknowns of a logistic regression: above it, no matrix of their squares
ROW_SUM = (
    1e-2  # rows may miss a sum of 1 by this, as those of half precision do; logits do not pass
)

Splits = list[tuple[np.ndarray, np.ndarray]]  # rows to fit on, rows to predict


@dataclass(frozen=True)
class Blend:
    """What makes one prediction of those of all members."""

    kind: str  # one of KINDS, or manual
    weights: np.ndarray | None = None  # (members,), at least one above 0; None: stacking
    stack: Any = None  # fitted classifier of sklearn; None: weights

    def apply(self, probs: np.ndarray) -> np.ndarray:
        """(members, photos, classes) → (photos, classes) float64, each row sums to 1. Raises ConfigError."""
        probs = _probs(probs)
        members, photos, classes = probs.shape
        if self.weights is not None:
            if len(self.weights) != members:
                raise ConfigError(f"{len(self.weights)} weights for {members} members")
            mixed = np.tensordot(self.weights, probs, 1)
        else:
            if self.stack.n_features_in_ != members * classes:
                raise ConfigError(
                    f"{self.kind}: fitted on {self.stack.n_features_in_} probabilities a photo, "
                    f"got {members} members × {classes} classes"
                )
            mixed = np.zeros((photos, classes))  # a class that validation does not have stays 0
            mixed[:, self.stack.classes_] = self.stack.predict_proba(_features(probs))
        # A weighted sum's rows sum to the sum of the weights, float32's miss 1 by a little: one
        # division for both (S67).
        return mixed / mixed.sum(1, keepdims=True)


@dataclass(frozen=True)
class Choice:
    """The kind of blend that validation speaks for, and what was measured."""

    blend: Blend  # fitted on all of validation
    table: (
        pd.DataFrame
    )  # a row a kind: kind, accuracy, log_loss, corrected, spoiled, weights; out of fold
    nested_probs: (
        np.ndarray
    )  # (photos, classes) float64; neither fit nor choice saw the photo they are for
    nested_accuracy: (
        float  # of nested_probs: the one to report, as the best row of the table is flattered
    )
    picked: list[str]  # kind chosen in each outer fold; empty for one member
    reason: str


def parse_weights(text: str, members: int) -> np.ndarray:
    """``"0.9/0.05/0.05"`` → (members,) float64 with sum 1, in the members' order (S66). Raises ConfigError."""
    try:
        weights = np.array([float(word) for word in text.split("/")])
    except ValueError:
        weights = np.array([np.nan])
    if not np.isfinite(weights).all():
        raise ConfigError(
            f"weights {text!r}: expected numbers with / between them, as in 0.9/0.05/0.05"
        )
    if len(weights) != members:
        raise ConfigError(f"weights {text!r}: {len(weights)} numbers for {members} members")
    if (weights < 0).any() or not weights.any():
        raise ConfigError(
            f"weights {text!r}: expected numbers of 0 or more, at least one of them above 0"
        )
    weights /= weights.max()  # first, as the sum of numbers near the largest float is inf
    return weights / weights.sum()


def fit(kind: str, probs: np.ndarray, truth: np.ndarray, seed: int) -> Blend:
    """A blend of one of KINDS, fitted on these photos; seed is of the forest. Raises ConfigError.

    best: the member of the highest accuracy, the lower log-loss among equals. average: equal weights. weights: of the
    lowest mean log-loss of the weighted mean (S65, S68). logistic, forest: stacking (Wolpert 1992) on the log-probabilities of all members.
    """
    if kind not in KINDS:
        raise ConfigError(f"blend {kind!r}: expected one of {', '.join(KINDS)}")
    return _fit(kind, *_checked(probs, truth), seed, TREES)


def crossvalidate(
    kind: str,
    probs: np.ndarray,
    truth: np.ndarray,
    groups: np.ndarray | None,
    seed: int,
    folds: int = 5,
) -> np.ndarray:
    """(photos, classes) float64: each photo predicted by a blend that was fitted without its fold.

    Folds have all classes alike, unless a class has fewer photos than there are folds. groups (photos,) int: photos of
    a group, such as duplicates, stay in one fold; there are no more folds than groups. Raises ConfigError.
    """
    if kind not in KINDS:
        raise ConfigError(f"blend {kind!r}: expected one of {', '.join(KINDS)}")
    probs, truth = _checked(probs, truth)
    _enough(truth)
    return _out_of_fold(kind, probs, truth, _splits(truth, groups, seed, folds), seed, TREES)


def choose(
    probs: np.ndarray,
    truth: np.ndarray,
    seed: int,
    names: list[str],
    groups: np.ndarray | None = None,
) -> Choice:
    """The simplest kind that nothing more complicated beats on photos that it was not fitted on.

    Nested cross-validation (Varma and Simon 2006): for each outer fold the kind is chosen anew by folds of the other
    photos, so that the accuracy of the outer predictions is not flattered by the choice. names: of the members; groups
    as in ``crossvalidate``. Raises ConfigError.
    """
    probs, truth = _checked(probs, truth)
    _named(names, probs)
    if len(probs) == 1:
        blend = _fit("best", probs, truth, seed, TREES)
        alone = {"best": blend.apply(probs)}
        table = _table(alone, {"best": blend}, truth)
        return Choice(
            blend, table, alone["best"], _accuracy(alone["best"], truth), [], "one member"
        )
    _enough(truth)
    outer = _splits(truth, groups, seed, OUTER)
    found = {kind: _out_of_fold(kind, probs, truth, outer, seed, TREES) for kind in KINDS}
    nested, picked = np.full(probs.shape[1:], np.nan), []
    for rest, fold in outer:
        some = np.sort(np.random.default_rng(seed).permutation(rest)[:ENOUGH])
        inner = _splits(truth[some], None if groups is None else groups[some], seed, INNER)
        tried = {
            kind: _out_of_fold(kind, probs[:, some], truth[some], inner, seed, INNER_TREES)
            for kind in KINDS
        }
        picked.append(_pick(tried, truth[some]))
        nested[fold] = found[picked[-1]][fold]  # it was fitted on rest alone
    kind = _pick(found, truth)
    blends = {kind: _fit(kind, probs, truth, seed, TREES) for kind in {*KINDS[:3], kind}}
    table = _table(found, blends, truth)
    return Choice(
        blends[kind],
        table,
        nested,
        _accuracy(nested, truth),
        picked,
        _reason(kind, table, blends, names),
    )


def members_table(names: list[str], probs: np.ndarray, truth: np.ndarray) -> pd.DataFrame:
    """Each member alone, in the given order (S68): name, accuracy, low, high, log_loss, errors, alone_right.

    low and high are the 95 % interval of the accuracy (Wilson 1927); alone_right counts the photos that only this
    member has right: what the others would lose without it. Raises ConfigError.
    """
    probs, truth = _checked(probs, truth)
    _named(names, probs)
    right = probs.argmax(2) == truth  # (members, photos)
    rows = []
    for name, member, hits in zip(names, probs, right, strict=True):
        low, high = wilson(int(hits.sum()), len(truth))
        rows.append(
            {
                "name": name,
                "accuracy": float(hits.mean()),
                "low": float(low),
                "high": float(high),
                "log_loss": log_loss(member, truth),
                "errors": int((~hits).sum()),
                "alone_right": int((hits & (right.sum(0) == 1)).sum()),
            }
        )
    return pd.DataFrame(rows)


def _fit_weights(probs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Weights (members,) float64 ≥ 0 with sum 1 of the lowest mean log-loss of the weighted mean.

    Convex in the weights, so SLSQP (Kraft 1988) finds the one minimum from equal weights. Weights below SMALLEST
    become 0. A noisy member keeps some weight if all others are sure of their mistakes: it then softens them.
    """
    from scipy.optimize import minimize

    true = np.maximum(
        probs[:, np.arange(len(truth)), truth], TINY
    )  # (members, photos): all that the loss needs
    members = len(true)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.maximum(
            weights @ true, TINY
        )  # the sum of weights may be off by a rounding error
        return float(-np.log(mixed).mean()), -(true / mixed).mean(1)

    start = np.full(members, 1 / members)
    found = minimize(
        loss,
        start,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * members,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-10, "maxiter": 500},
    )
    # At a flat minimum SLSQP can report a failed line search; the point is as good. Only a worse
    # one is of no use.
    weights = found.x if found.fun <= loss(start)[0] else start
    weights = np.where(weights < min(SMALLEST, weights.max()), 0.0, weights)
    return weights / weights.sum()


def _fit(kind: str, probs: np.ndarray, truth: np.ndarray, seed: int, trees: int) -> Blend:
    members = len(probs)
    if kind == "best":
        order = [(-_accuracy(member, truth), log_loss(member, truth)) for member in probs]
        return Blend(kind, np.eye(members)[order.index(min(order))])
    if kind == "average":
        return Blend(kind, np.full(members, 1 / members))
    if kind == "weights":
        return Blend(kind, _fit_weights(probs, truth))
    return Blend(
        kind,
        stack=_classifier(kind, members * probs.shape[2], truth, seed, trees).fit(
            _features(probs), truth
        ),
    )


def _classifier(kind: str, features: int, truth: np.ndarray, seed: int, trees: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    # Few photos for many features: C below sklearn's 1 and leaves of three keep both from learning
    # single photos. A logistic regression refuses truth of one class, which is what a fold with all
    # photos of the others leaves; a forest takes it. newton-cholesky took a fifth of newton-cg's
    # time on 6,675 photos of three members and ten classes, but holds a matrix of the square of its
    # unknowns; sklearn 1.6's lbfgs passes options that scipy 1.16 deprecates.
    if kind == "logistic" and len(np.unique(truth)) > 1:
        solver = "newton-cholesky" if features * len(np.unique(truth)) <= LARGE else "newton-cg"
        return LogisticRegression(C=0.1, max_iter=1000, solver=solver, tol=1e-3)
    each = min(0.5, ENOUGH / len(truth))  # share of the photos that a tree is grown from
    return RandomForestClassifier(
        trees, min_samples_leaf=3, max_samples=each, random_state=seed, n_jobs=1
    )


def _features(probs: np.ndarray) -> np.ndarray:
    """(members, photos, classes) → (photos, members · classes) log-probabilities, member by member."""
    return np.log(np.maximum(probs, TINY)).transpose(1, 0, 2).reshape(probs.shape[1], -1)


def _splits(truth: np.ndarray, groups: np.ndarray | None, seed: int, folds: int) -> Splits:
    """Shuffled folds that depend on the arguments alone, so that all kinds are compared on the same ones.

    Groups are dealt out like cards, class by class, a group having its first photo's class: folds have all classes alike.
    sklearn's StratifiedGroupKFold takes seconds for thousands of groups.
    """
    if not 2 <= folds <= len(truth):
        raise ConfigError(
            f"{folds} folds of {len(truth)} photos: expected at least 2 and at most one per photo"
        )
    groups = np.arange(len(truth)) if groups is None else groups
    if groups.shape != truth.shape:
        raise ConfigError(f"groups are {groups.shape}, expected {truth.shape}: one for each photo")
    names, first, group = np.unique(groups, return_index=True, return_inverse=True)
    folds = min(folds, len(names))
    if folds < 2:
        raise ConfigError(f"all {len(truth)} photos are of one group: there is no fold without it")
    shuffled = np.random.default_rng(seed).permutation(len(names))
    dealt = shuffled[np.argsort(truth[first][shuffled], kind="stable")]
    number = np.empty(len(names), np.int64)
    number[dealt] = np.arange(len(names)) % folds
    return [
        (np.flatnonzero(number[group] != k), np.flatnonzero(number[group] == k))
        for k in range(folds)
    ]


def _out_of_fold(
    kind: str, probs: np.ndarray, truth: np.ndarray, splits: Splits, seed: int, trees: int
) -> np.ndarray:
    found = np.full(probs.shape[1:], np.nan)
    for rest, fold in splits:
        found[fold] = _fit(kind, probs[:, rest], truth[rest], seed, trees).apply(probs[:, fold])
    if np.isnan(found).any():
        raise AssertionError(
            f"{np.isnan(found).any(1).sum()} of {len(truth)} photos are in no fold"
        )
    return found


def _pick(found: dict[str, np.ndarray], truth: np.ndarray) -> str:
    """The kind to take, of out-of-fold predictions (photos, classes) of each of KINDS.

    A more complicated kind must lower the log-loss and correct more photos than it spoils: accuracy alone counts few
    photos, log-loss alone rewards softer probabilities that predict the same.
    """
    best, *others = KINDS
    for kind in others:
        corrected, spoiled = _changes(found[best], found[kind], truth)
        if corrected > spoiled and log_loss(found[kind], truth) < log_loss(found[best], truth):
            best = kind
    return best


def _changes(old: np.ndarray, new: np.ndarray, truth: np.ndarray) -> tuple[int, int]:
    """Photos that new has right and old wrong, and the reverse."""
    was, now = old.argmax(1) == truth, new.argmax(1) == truth
    return int((now & ~was).sum()), int((was & ~now).sum())


def _accuracy(probs: np.ndarray, truth: np.ndarray) -> float:
    return float((probs.argmax(1) == truth).mean())


def _table(
    found: dict[str, np.ndarray], blends: dict[str, Blend], truth: np.ndarray
) -> pd.DataFrame:
    rows = []
    for kind, probs in found.items():
        corrected, spoiled = _changes(found["best"], probs, truth)
        weights = blends[kind].weights if kind in blends else None
        rows.append(
            {
                "kind": kind,
                "accuracy": _accuracy(probs, truth),
                "log_loss": log_loss(probs, truth),
                "corrected": corrected,
                "spoiled": spoiled,
                # as parse_weights reads them, so that they can be set by hand in a later run
                "weights": "" if weights is None else "/".join(f"{w:.3g}" for w in weights),
            }
        )
    return pd.DataFrame(rows)


def _reason(kind: str, table: pd.DataFrame, blends: dict[str, Blend], names: list[str]) -> str:
    alone = names[int(np.argmax(np.asarray(blends["best"].weights)))]
    if kind == "best":
        return f"{alone} alone, as no blend both lowers the log-loss and corrects more photos than it spoils"
    rows = table.set_index("kind")
    row = rows.loc[kind]
    return (
        f"{kind} corrects {row['corrected']} photos that the best member ({alone}) has wrong and spoils {row['spoiled']}, "
        f"with a log-loss of {row['log_loss']:.4f} against {rows.loc['best', 'log_loss']:.4f}"
    )


def _enough(truth: np.ndarray) -> None:
    if len(truth) < LEAST:
        raise ConfigError(
            f"{len(truth)} validation photos: at least {LEAST} are needed to compare blends; raise val_fraction"
        )


def _named(names: list[str], probs: np.ndarray) -> None:
    if len(names) != len(probs):
        raise ConfigError(f"{len(names)} names for {len(probs)} members")


def _probs(probs: np.ndarray) -> np.ndarray:
    """As float64, if they are probabilities (members, photos, classes). Raises ConfigError."""
    if probs.ndim != 3 or 0 in probs.shape:
        raise ConfigError(f"probabilities are {probs.shape}, expected (members, photos, classes)")
    for number, member in enumerate(probs):
        if not np.isfinite(member).all():
            bad = int((~np.isfinite(member).all(1)).sum())
            raise ConfigError(
                f"member {number}: {bad} of {len(member)} photos have no finite prediction"
            )
        if (member < 0).any() or np.abs(member.sum(1, dtype=np.float64) - 1).max() > ROW_SUM:
            raise ConfigError(
                f"member {number}: not probabilities; expected numbers of 0 or more that sum to 1 for a photo"
            )
    return probs.astype(np.float64)


def _checked(probs: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    probs = _probs(probs)
    photos, classes = probs.shape[1:]
    if truth.shape != (photos,):
        raise ConfigError(f"truth is {truth.shape}, expected {(photos,)}: one class for each photo")
    if not np.issubdtype(truth.dtype, np.integer) or truth.min() < 0 or truth.max() >= classes:
        raise ConfigError(
            f"truth has {truth.dtype} from {truth.min()} to {truth.max()}, expected classes 0 to {classes - 1}"
        )
    return probs, truth
