"""Blending: fitted weights, the rules of choosing, and that nothing leaks into its own score."""

import numpy as np
import pytest

from carcls.errors import ConfigError
from carcls.metrics import NAMES, accuracy, log_loss, value
from carcls.votes import blend
from carcls.votes.blend import Known


def fit_weights(probs, truth):
    return blend.fit("weights", probs, Known(truth)).weights


def members(strengths, photos=400, classes=4, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of independent members, and the truth: each sees the class in its own noise.

    softmax(strength · x) is then the true posterior, so that a member is as sure as it is right.
    Strength 0 says the same of all classes; only such a member may a fit give up without loss.
    """
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, photos)
    seen = np.array(
        [s * (s * np.eye(classes)[truth] + rng.normal(size=(photos, classes))) for s in strengths]
    )
    e = np.exp(seen)
    return e / e.sum(2, keepdims=True), truth


def noise(photos=400, classes=4, count=3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rng.dirichlet(np.ones(classes), (count, photos)), rng.integers(0, classes, photos)


def says(right, truth, sure=0.97) -> np.ndarray:
    """(photos, 2): `sure` of the true class where right, of the other where not."""
    return np.where(np.eye(2, dtype=bool)[np.where(right, truth, 1 - truth)], sure, 1 - sure)


def choose(probs, truth, groups=None, seed=0, names="abc", metric="accuracy") -> blend.Choice:
    known = Known(truth, groups, seed, metric)
    return blend.choose("auto", probs, list(names)[: len(probs)], known)


@pytest.fixture
def few_fits(monkeypatch):
    """A choice in half a second: small forests, two inner folds."""
    monkeypatch.setattr(blend, "OUTER", (5, 7))
    monkeypatch.setattr(blend, "INNER", (2, 3))


# Weights


def test_a_member_with_the_others_mistakes_and_more_gets_nothing_at_high_accuracy():  # S65
    truth = np.arange(1000) % 2
    probs = np.array([says(np.arange(1000) >= wrong, truth) for wrong in (5, 20)])
    # As weights they would be 0.504 and 0.496.
    assert [accuracy(p, truth) for p in probs] == [0.995, 0.98]
    assert fit_weights(probs, truth).tolist() == [1, 0]


def test_equal_independent_members_share_and_a_bad_one_gets_exactly_nothing():  # S68
    probs, truth = members([1.5, 1.5, 1.5], photos=4000)
    guesses = np.random.default_rng(9).dirichlet(np.ones(4), 4000)
    weights = fit_weights(np.stack([*probs[:1], guesses, *probs[1:]]), truth)
    assert weights[1] == 0
    assert weights[[0, 2, 3]] == pytest.approx([1 / 3] * 3, abs=0.04)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_weights_have_a_lower_log_loss(seed):
    probs, truth = members(np.random.default_rng(seed).uniform(0.5, 3, 5), seed=seed)
    weights = fit_weights(probs.astype(np.float32), truth)
    assert weights.dtype == np.float64
    assert weights.sum() == pytest.approx(1)
    true = probs[:, np.arange(len(truth)), truth]
    # Of moving weight to a member; 1 for those in use at the minimum
    gain = (true / (weights @ true)).mean(1)
    assert gain[weights > 0] == pytest.approx(1, abs=2e-3)
    assert (gain < 1 + 2e-3).all()


@pytest.mark.parametrize(("helped", "expected"), [(1, 0.0), (10, 0.02)])
def test_weights_below_a_half_percent_become_nothing(helped, expected):
    """The second member helps only where the first is sure of a mistake: at 2 · helped / 1000."""
    first, second = np.full((1000, 2), 0.5), np.tile([0.25, 0.75], (1000, 1))
    first[:helped], second[:helped] = [0, 1], [0.9, 0.1]
    weights = fit_weights(np.array([first, second]), np.zeros(1000, int))
    assert weights[1] == (expected and pytest.approx(expected, abs=1e-3))
    assert weights.sum() == 1


def test_the_order_of_members_does_not_matter():  # S67
    probs, truth = members([1, 2, 2.5, 0.5])
    order = [2, 0, 3, 1]
    for kind in ("best", "average", "weights", "logistic"):
        there, here = (blend.fit(kind, p, Known(truth)).apply(p) for p in (probs[order], probs))
        np.testing.assert_allclose(there, here, atol=1e-3, err_msg=kind)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.9/0.05/0.05", [0.9, 0.05, 0.05]),
        (" 2 / 0/6", [0.25, 0, 0.75]),
        ("1e308/1e308/1e308", [1 / 3] * 3),
    ],
)
def test_weights_by_hand(text, expected):  # S66
    assert blend.parse_weights(text, 3) == pytest.approx(np.array(expected))


@pytest.mark.parametrize(
    "text", ["0.9/0.1", "1/-0.1/0.1", "0/0/0.0", "1/x/2", "", "1/nan/2", "1/inf/2"]
)
def test_weights_by_hand_that_cannot_be_used(text):
    with pytest.raises(ConfigError, match=f"blend={text}: expected 3 numbers"):
        blend.parse_weights(text, 3)


@pytest.mark.parametrize("factor", [1, 7, 1e-6, 1e6])
def test_a_mean_divides_by_the_sum_of_weights_and_scaling_them_changes_nothing(factor):  # S67
    probs = np.array([[[0.6, 0.4], [0.2, 0.8]], [[0.1, 0.9], [0.5, 0.5]]], np.float32)
    mixed = blend.Blend("manual", factor * np.array([0.75, 0.25])).apply(probs)
    np.testing.assert_allclose(mixed, [[0.475, 0.525], [0.275, 0.725]], rtol=1e-6)
    assert mixed.dtype == np.float64
    np.testing.assert_allclose(mixed.sum(1), 1, rtol=1e-12)  # float32 rows miss 1 by 1e-8


# Kinds


def test_best_is_by_accuracy_and_among_equals_by_log_loss():
    truth = np.zeros(10, int)
    wrong = np.arange(10)
    members = ((3, 0.99), (2, 0.999), (2, 0.9), (3, 0.6))
    probs = np.array([says(wrong >= n, truth, sure) for n, sure in members])
    losses = [log_loss(p, truth) for p in probs]
    assert min(losses) == losses[2] < losses[1]
    assert blend.fit("best", probs, Known(truth)).weights.tolist() == [0, 0, 1, 0]
    # Now the worst log-loss of all, and 1 has a worse one than 0 and 3
    probs[2] = says(wrong >= 2, truth, 0.9999)
    assert blend.fit("best", probs, Known(truth)).weights.tolist() == [0, 1, 0, 0]


def test_best_is_by_the_metric_that_decides():
    truth = np.repeat([0, 1], [4, 16])
    often, rare = (says(right, truth, 0.9) for right in (truth == 1, np.arange(20) % 3 > 0))
    probs = np.array([often, rare])
    assert accuracy(often, truth) > accuracy(rare, truth)
    best = {m: blend.fit("best", probs, Known(truth, metric=m)).weights[0] for m in NAMES}
    assert best["accuracy"] == 1 and best["balanced_accuracy"] == 0
    assert np.isnan(Known(np.zeros(20, int), metric="auc").score(often))
    assert blend.fit("best", probs, Known(np.zeros(20, int), metric="auc")).weights.sum() == 1


def test_a_choice_reports_the_metric_that_decided(few_fits):
    probs, truth = members([2.5, 2.2, 0], photos=120)
    for metric in ("f1_macro", "log_loss"):
        choice = choose(probs, truth, metric=metric)
        best = choice.table.set_index("kind").loc["best"]
        judged = blend.crossvalidate("best", probs, Known(truth, metric=metric))
        assert best[metric] == value(metric, judged, truth)


@pytest.mark.parametrize("kind", ["logistic", "forest"])
def test_stacking_learns_and_a_class_that_validation_lacks_stays_nothing(kind, few_fits):
    probs, truth = members([2.5, 2.5, 2.5], photos=300)
    # All members call class 0 by the name of class 1 and so on: a mean cannot know.
    turned = np.roll(probs, 1, axis=2)
    known = truth != 1
    made = blend.fit(kind, turned[:, known], Known(truth[known]))
    found = made.apply(turned)
    assert found.shape == (300, 4)
    assert (found[:, 1] == 0).all()
    np.testing.assert_allclose(found.sum(1), 1)
    assert accuracy(found[known], truth[known]) > 0.9
    assert accuracy(blend.fit("average", turned, Known(truth)).apply(turned), truth) < 0.1


PROBS, TRUTH = noise(photos=20)


@pytest.mark.parametrize(
    "probs",
    [
        PROBS[0],
        PROBS[:0],
        np.where(np.arange(20)[:, None] == 7, np.nan, PROBS),
        np.log(PROBS),
        PROBS * 1.1,
        PROBS + np.array([0.9, -0.9, 0, 0]),
    ],
)
def test_what_is_not_probabilities_is_refused(probs):
    with pytest.raises(AssertionError):
        choose(probs, TRUTH)


def test_too_few_photos_to_compare_blends():
    with pytest.raises(ConfigError, match="9 validation photos: at least 10"):
        choose(PROBS[:, :9], TRUTH[:9])
    with pytest.raises(ConfigError, match="all 20 photos are of one group"):
        choose(PROBS, TRUTH, np.zeros(20, int))


# Folds


def test_photos_of_a_group_are_in_one_fold_and_classes_in_all():
    truth, groups = np.repeat([0, 1, 2], [50, 30, 20]), np.arange(100)
    groups[:6], groups[50:52] = 0, 50  # copies of a photo
    folds = [fold for _, fold in blend.split(truth, groups, 1, 5)]
    assert sorted(np.concatenate(folds)) == list(range(100))
    assert sum(len(set(groups[fold])) for fold in folds) == len(set(groups))  # none in two
    assert np.ptp([np.bincount(truth[fold], minlength=3) for fold in folds], 0).tolist() <= [
        6,
        2,
        0,
    ]
    others = [fold.tolist() for _, fold in blend.split(truth, groups, 2, 5)]
    assert [fold.tolist() for fold in folds] != others
    # As many folds as groups, where these are few
    assert len(blend.split(truth, np.arange(100) // 40, 0, 5)) == 3


@pytest.fixture
def blind_folds(monkeypatch):
    """Folds that do not depend on labels, so that changing some leaves the folds as they are."""
    real = blend.split
    monkeypatch.setattr(blend, "split", lambda truth, *rest: real(np.zeros_like(truth), *rest))


@pytest.mark.parametrize("kind", blend.KINDS)
def test_a_prediction_does_not_depend_on_the_labels_of_its_fold(kind, few_fits, blind_folds):
    truth, probs, fold, changed = one_fold_mislabelled()
    before, after = (blend.crossvalidate(kind, probs, Known(t, None, 3)) for t in (truth, changed))
    assert np.array_equal(before[fold], after[fold])
    if kind != "average":
        assert not np.array_equal(before, after)  # they do matter to the others


def test_neither_does_the_nested_one_with_its_choice(few_fits, blind_folds):
    truth, probs, fold, changed = one_fold_mislabelled()
    before, after = (choose(probs, t, seed=3) for t in (truth, changed))
    assert np.array_equal(before.val_probs[fold], after.val_probs[fold])
    assert before.picked[1] == after.picked[1]
    # So a choice that sees the fold's labels would show.
    assert before.blend.kind != after.blend.kind
    assert not np.array_equal(before.val_probs, after.val_probs)


def one_fold_mislabelled():
    """Truth, probabilities, the second of five folds, and truth with that fold's labels all wrong.

    The first member is the best by truth; the second says what is wrong for that fold, and so is
    the best by the changed truth. Folds must not depend on truth.
    """
    probs, truth = members([2.2, 2.2, 0.5], photos=160)
    probs, truth = probs[:, truth < 3], truth[truth < 3]
    fold = blend.split(truth, None, 3, 5)[1][1]
    changed = truth.copy()
    changed[fold] = (truth[fold] + 1) % 3
    probs[1, fold, :3] = np.roll(probs[1, fold, :3], 1, axis=1)
    return truth, probs, fold, changed


@pytest.mark.parametrize("kind", blend.KINDS)
def test_a_class_with_one_photo_of_a_dozen(kind, few_fits):
    """The fold with that photo leaves one class to fit on."""
    probs, _ = noise(photos=12)
    found = blend.crossvalidate(kind, probs, Known(np.eye(12, dtype=int)[4]))
    assert np.isfinite(found).all()


# Leaks


def test_stacking_scored_on_its_own_photos_looks_good_on_noise_but_not_out_of_fold(few_fits):  # S69
    probs, truth = noise()
    chance = pytest.approx(0.25, abs=0.07)  # three standard deviations of 400 guesses
    assert accuracy(blend.fit("forest", probs, Known(truth)).apply(probs), truth) > 0.5
    for kind in blend.KINDS:
        assert accuracy(blend.crossvalidate(kind, probs, Known(truth)), truth) == chance, kind
    assert accuracy(choose(probs, truth).val_probs, truth) == chance


def test_duplicates_leak_unless_they_are_a_group(few_fits):
    probs, truth = noise(photos=80)
    probs, truth, groups = probs.repeat(4, 1), truth.repeat(4), np.arange(80).repeat(4)
    chance = pytest.approx(0.25, abs=0.15)  # three standard deviations of 80 guesses
    assert accuracy(blend.crossvalidate("forest", probs, Known(truth)), truth) > 0.8
    assert accuracy(blend.crossvalidate("forest", probs, Known(truth, groups, 0)), truth) == chance
    choice = choose(probs, truth, groups)
    assert accuracy(choice.val_probs, truth) == chance
    assert "forest" not in choice.picked  # as it would be if the inner folds split groups
    assert choice.table.set_index("kind").loc["forest", "accuracy"] == chance


# Choosing


def predicted(**rights) -> dict[str, np.ndarray]:
    """Out-of-fold predictions of ten photos of class 0 by kind: how many are right, how sure."""
    by_kind = {kind: rights.get(kind, (6, 0.7)) for kind in blend.KINDS}
    zero = np.zeros(10, int)
    return {kind: says(np.arange(10) < n, zero, sure) for kind, (n, sure) in by_kind.items()}


@pytest.mark.parametrize(
    ("rights", "expected"),
    [
        ({}, "best"),
        ({"weights": (7, 0.7)}, "weights"),
        ({"weights": (7, 0.999)}, "best"),  # one more right, but a higher log-loss
        # Better than best, but no more right than average
        ({"average": (7, 0.75), "weights": (7, 0.7)}, "average"),
        # The forest spoils one
        ({"average": (7, 0.7), "logistic": (9, 0.6), "forest": (8, 0.8)}, "logistic"),
    ],
)
def test_a_more_complicated_kind_needs_evidence(rights, expected):
    assert blend._pick(predicted(**rights), Known(np.zeros(10, int))) == expected


def test_what_choose_reports(few_fits):
    probs, truth = members([2.5, 2.2, 0])
    choice = choose(probs, truth)
    # The truth about calibrated independent members is linear in their logs.
    assert choice.blend.kind == "logistic"
    expected = blend.fit("logistic", probs, Known(truth)).apply(probs)
    assert np.array_equal(choice.blend.apply(probs), expected)
    table = choice.table.set_index("kind")
    assert tuple(table.index) == blend.KINDS
    for kind, row in table.iterrows():
        out = blend.crossvalidate(kind, probs, Known(truth), blend.OUTER)
        assert (row["accuracy"], row["log_loss"]) == (accuracy(out, truth), log_loss(out, truth))
        gained = row["accuracy"] - table.loc["best", "accuracy"]
        assert row["corrected"] - row["spoiled"] == pytest.approx(400 * gained)
    weights = table.loc[["best", "average", "logistic", "forest"], "weights"].tolist()
    assert weights == ["1/0/0", "0.333/0.333/0.333", "", ""]
    shown = blend.parse_weights(table.loc["weights", "weights"], 3)
    np.testing.assert_allclose(shown, fit_weights(probs, truth), atol=2e-3)
    assert (len(choice.picked), choice.val_probs.shape) == (5, (400, 4))
    assert "(a)" in choice.reason


def test_choose_keeps_the_one_member_that_nothing_improves(few_fits):
    truth = np.arange(100) % 2
    probs = np.array([says(np.arange(100) >= wrong, truth) for wrong in (20, 5)])
    choice = choose(probs, truth, names=["poor", "good"])
    assert choice.blend.weights.tolist() == [0, 1]
    assert (choice.picked, accuracy(choice.val_probs, truth)) == (["best"] * 5, 0.95)
    assert choice.reason.startswith("good alone")


def test_one_member_is_itself_however_few_photos_there_are():
    choice = choose(PROBS[:1, :5], TRUTH[:5])
    assert (choice.blend.kind, choice.picked) == ("best", [])
    np.testing.assert_allclose(choice.val_probs, PROBS[0, :5])
    assert choice.table["kind"].tolist() == ["best"]


# Tables


def test_each_member_alone():  # S68
    truth = np.zeros(10, int)
    # 3 photos right by both, 5 and 2 by one alone
    rights = np.array([np.arange(10) < 8, np.arange(10) >= 5])
    table = blend.members_table(
        ["a", "b"], np.array([says(r, truth) for r in rights]), Known(truth)
    )
    columns = ["name", "accuracy", "low", "high", "log_loss", "errors", "alone_right"]
    assert list(table.columns) == columns
    found = table[["name", "accuracy", "errors", "alone_right"]].to_numpy().tolist()
    assert found == [["a", 0.8, 2, 5], ["b", 0.5, 5, 2]]
