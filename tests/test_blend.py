"""Blending: fitted weights against made-up votes, the rules of choosing, and that nothing leaks into its own score."""

import ast
from pathlib import Path

import numpy as np
import pytest

from carcls.errors import ConfigError
from carcls.votes import blend
from carcls.votes.votes import log_loss


def fit_weights(probs, truth):
    return blend.fit("weights", probs, truth, 0).weights


def members(strengths, photos=400, classes=4, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of independent members and the truth: each sees the class in Gaussian noise of its own.

    softmax(strength · x) is then the true posterior, so that a member is as sure as it is right; strength 0 says
    the same of all classes, and is the only kind that a fit may give up without loss.
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


def accuracy(probs, truth) -> float:
    return (probs.argmax(-1) == truth).mean()


@pytest.fixture
def few_fits(monkeypatch):
    """A choice in half a second: small forests, two inner folds."""
    monkeypatch.setattr(blend, "TREES", 7)
    monkeypatch.setattr(blend, "INNER_TREES", 3)
    monkeypatch.setattr(blend, "INNER", 2)


# Weights


def test_a_member_with_the_others_mistakes_and_more_gets_nothing_though_its_accuracy_is_high():  # S65
    truth = np.arange(1000) % 2
    probs = np.array([says(np.arange(1000) >= wrong, truth) for wrong in (5, 20)])
    assert [accuracy(p, truth) for p in probs] == [
        0.995,
        0.98,
    ]  # as weights they would be 0.504 and 0.496
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
    gain = (true / (weights @ true)).mean(
        1
    )  # of moving weight to a member; 1 for those in use at the minimum
    assert gain[weights > 0] == pytest.approx(1, abs=2e-3)
    assert (gain < 1 + 2e-3).all()


@pytest.mark.parametrize(
    ("helped", "expected"), [(1, 0.0), (10, 0.02)]
)  # the minimum is near 2 · helped / 1000
def test_weights_below_a_half_percent_become_nothing(helped, expected):
    """The second member helps only where the first is sure of a mistake."""
    first, second = np.full((1000, 2), 0.5), np.tile([0.25, 0.75], (1000, 1))
    first[:helped], second[:helped] = [0, 1], [0.9, 0.1]
    weights = fit_weights(np.array([first, second]), np.zeros(1000, int))
    assert weights[1] == (expected and pytest.approx(expected, abs=1e-3))
    assert weights.sum() == 1


def test_the_order_of_members_does_not_matter():  # S67
    probs, truth = members([1, 2, 2.5, 0.5])
    order = [2, 0, 3, 1]
    assert fit_weights(probs[order], truth) == pytest.approx(
        fit_weights(probs, truth)[order], abs=1e-4
    )
    for kind in ("best", "average", "weights", "logistic"):
        there, here = (blend.fit(kind, p, truth, 0).apply(p) for p in (probs[order], probs))
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
    ("text", "said"),
    [
        ("0.9/0.1", "'0.9/0.1': 2 numbers for 3 members"),
        ("1/-0.1/0.1", "0 or more"),
        ("0/0/0.0", "at least one of them above 0"),
        ("1/x/2", "expected numbers with / between them"),
        ("", "expected numbers"),
        ("1/nan/2", "expected numbers"),
        ("1/inf/2", "expected numbers"),
    ],
)
def test_weights_by_hand_that_cannot_be_used(text, said):
    with pytest.raises(ConfigError, match=said):
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
    probs = np.array(
        [
            says(wrong >= 3, truth, 0.99),
            says(wrong >= 2, truth, 0.999),
            says(wrong >= 2, truth, 0.9),
            says(wrong >= 3, truth, 0.6),
        ]
    )
    losses = [log_loss(p, truth) for p in probs]
    assert min(losses) == losses[2] < losses[1]
    assert blend.fit("best", probs, truth, 0).weights.tolist() == [0, 0, 1, 0]
    probs[2] = says(
        wrong >= 2, truth, 0.9999
    )  # now the worst log-loss of all, and 1 has a worse one than 0 and 3
    assert blend.fit("best", probs, truth, 0).weights.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("kind", ["logistic", "forest"])
def test_stacking_learns_and_a_class_that_validation_lacks_stays_nothing(kind, few_fits):
    probs, truth = members([2.5, 2.5, 2.5], photos=300)
    turned = np.roll(
        probs, 1, axis=2
    )  # all members call class 0 by the name of class 1 and so on: a mean cannot know
    known = truth != 1
    made = blend.fit(kind, turned[:, known], truth[known], 0)
    found = made.apply(turned)
    assert found.shape == (300, 4)
    assert (found[:, 1] == 0).all()
    np.testing.assert_allclose(found.sum(1), 1)
    assert accuracy(found[known], truth[known]) > 0.9
    assert accuracy(blend.fit("average", turned, truth, 0).apply(turned), truth) < 0.1
    with pytest.raises(
        ConfigError, match="fitted on 12 probabilities a photo, got 2 members × 4 classes"
    ):
        made.apply(probs[:2])


def test_weights_of_other_members_are_refused():
    with pytest.raises(ConfigError, match="2 weights for 3 members"):
        blend.Blend("manual", np.ones(2)).apply(noise()[0])


PROBS, TRUTH = noise(photos=20)


@pytest.mark.parametrize(
    ("probs", "truth", "said"),
    [
        (PROBS[0], TRUTH, r"are \(20, 4\), expected \(members, photos, classes\)"),
        (PROBS[:0], TRUTH, r"are \(0, 20, 4\)"),
        (PROBS, TRUTH[:-1], r"truth is \(19,\), expected \(20,\)"),
        (PROBS, TRUTH - 1, "int64 from -1 to 2, expected classes 0 to 3"),
        (PROBS, TRUTH + 1, "from 1 to 4, expected classes 0 to 3"),
        (PROBS, TRUTH.astype(float), "truth has float64"),
        (
            np.where(np.arange(20)[:, None] == 7, np.nan, PROBS),
            TRUTH,
            "member 0: 1 of 20 photos have no finite",
        ),
        (np.log(PROBS), TRUTH, "member 0: not probabilities"),
        (PROBS * 1.1, TRUTH, "sum to 1"),
        (PROBS + np.array([0.9, -0.9, 0, 0]), TRUTH, "numbers of 0 or more"),
    ],
)
def test_what_is_not_probabilities_and_classes_is_refused(probs, truth, said):
    calls = [
        lambda: fit_weights(probs, truth),
        lambda: blend.fit("average", probs, truth, 0),
        lambda: blend.crossvalidate("best", probs, truth, None, 0),
        lambda: blend.members_table(list("abc"), probs, truth),
        lambda: blend.choose(probs, truth, 0, list("abc")),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=said):
            call()


def test_other_settings_that_cannot_be_used():
    with pytest.raises(
        ConfigError, match="'median': expected one of best, average, weights, logistic, forest"
    ):
        blend.fit("median", PROBS, TRUTH, 0)
    with pytest.raises(ConfigError, match="'manual': expected one of best"):
        blend.crossvalidate("manual", PROBS, TRUTH, None, 0)
    with pytest.raises(ConfigError, match="9 validation photos: at least 10"):
        blend.crossvalidate("best", PROBS[:, :9], TRUTH[:9], None, 0)
    with pytest.raises(ConfigError, match="9 validation photos: at least 10"):
        blend.choose(PROBS[:, :9], TRUTH[:9], 0, list("abc"))
    with pytest.raises(ConfigError, match="21 folds of 20 photos"):
        blend.crossvalidate("best", PROBS, TRUTH, None, 0, folds=21)
    with pytest.raises(ConfigError, match=r"groups are \(3,\), expected \(20,\)"):
        blend.crossvalidate("best", PROBS, TRUTH, np.arange(3), 0)
    with pytest.raises(ConfigError, match="all 20 photos are of one group"):
        blend.crossvalidate("best", PROBS, TRUTH, np.zeros(20, int), 0)
    with pytest.raises(ConfigError, match="2 names for 3 members"):
        blend.choose(PROBS, TRUTH, 0, list("ab"))


# Folds


def test_every_class_is_in_every_fold_and_the_seed_decides_how():
    truth = np.repeat([0, 1, 2], [5, 10, 20])
    folds = [fold for _, fold in blend._splits(truth, None, 0, 5)]
    assert [np.bincount(truth[fold]).tolist() for fold in folds] == [[1, 2, 4]] * 5
    again, other = (
        [fold.tolist() for _, fold in blend._splits(truth, None, seed, 5)] for seed in (0, 1)
    )
    assert again == [fold.tolist() for fold in folds] != other


@pytest.mark.parametrize("rare", [False, True])  # without and with a class too rare for folds alike
def test_photos_of_a_group_are_in_one_fold(rare):
    groups = np.arange(40) // 3
    truth = np.where(groups % 2, 1, 0)
    if rare:
        truth[5] = 2
    folds = [set(groups[fold]) for _, fold in blend._splits(truth, groups, 0, 5)]
    assert len(folds) == 5
    assert sum(map(len, folds)) == len(set(groups))  # none in two
    assert (
        len(blend._splits(truth, groups // 5, 0, 5)) == 3
    )  # as many folds as groups, where these are few


def test_folds_of_groups_have_all_classes_alike():
    truth = np.repeat([0, 1, 2], [50, 30, 20])
    groups = np.arange(100)
    groups[:6] = groups[0]  # six copies of one photo
    for _, fold in blend._splits(truth, groups, 1, 5):
        assert abs(np.bincount(truth[fold], minlength=3) - [10, 6, 4]).max() <= 6
        assert np.bincount(truth[fold], minlength=3)[1:].tolist() == [6, 4]
        assert np.isin(np.arange(6), fold).sum() in (0, 6)


@pytest.fixture
def blind_folds(monkeypatch):
    """Folds that do not depend on labels, so that changing some leaves the folds as they are."""
    real = blend._splits
    monkeypatch.setattr(blend, "_splits", lambda truth, *rest: real(np.zeros_like(truth), *rest))


@pytest.mark.parametrize("kind", blend.KINDS)
def test_a_prediction_does_not_depend_on_the_labels_of_its_fold(kind, few_fits, blind_folds):
    truth, probs, fold, changed = one_fold_mislabelled()
    before, after = (blend.crossvalidate(kind, probs, t, None, 3) for t in (truth, changed))
    assert np.array_equal(before[fold], after[fold])
    if kind != "average":
        assert not np.array_equal(before, after)  # they do matter to the others


def test_neither_does_the_nested_one_with_its_choice(few_fits, blind_folds):
    truth, probs, fold, changed = one_fold_mislabelled()
    before, after = (blend.choose(probs, t, 3, list("abc")) for t in (truth, changed))
    assert np.array_equal(before.nested_probs[fold], after.nested_probs[fold])
    assert before.picked[1] == after.picked[1]
    assert (
        before.blend.kind != after.blend.kind
    )  # so a choice that sees the fold's labels would show
    assert not np.array_equal(before.nested_probs, after.nested_probs)
    assert before.nested_accuracy == accuracy(before.nested_probs, truth)


def one_fold_mislabelled():
    """Truth, probabilities, the rows of the second of five folds, and truth with all labels of these rows wrong.

    The first member is the best by truth; the second says what is wrong for that fold, and so is the best by the
    changed truth. Folds must not depend on truth.
    """
    probs, truth = members([2.2, 2.2, 0.5], photos=160)
    probs, truth = probs[:, truth < 3], truth[truth < 3]
    fold = blend._splits(truth, None, 3, 5)[1][1]
    changed = truth.copy()
    changed[fold] = (truth[fold] + 1) % 3
    probs[1, fold, :3] = np.roll(probs[1, fold, :3], 1, axis=1)
    return truth, probs, fold, changed


@pytest.mark.parametrize("kind", blend.KINDS)
def test_a_class_with_one_photo_of_a_dozen(kind, few_fits):
    """The fold with that photo leaves one class to fit on."""
    probs, _ = noise(photos=12)
    found = blend.crossvalidate(kind, probs, np.eye(12, dtype=int)[4], None, 0)
    assert np.isfinite(found).all()


# Leaks


def test_stacking_scored_on_its_own_photos_looks_good_on_noise_but_not_out_of_fold(few_fits):  # S69
    probs, truth = noise()
    chance = pytest.approx(0.25, abs=0.07)  # three standard deviations of 400 guesses
    assert accuracy(blend.fit("forest", probs, truth, 0).apply(probs), truth) > 0.5
    for kind in blend.KINDS:
        assert accuracy(blend.crossvalidate(kind, probs, truth, None, 0), truth) == chance, kind
    assert blend.choose(probs, truth, 0, list("abc")).nested_accuracy == chance


def test_duplicates_leak_unless_they_are_a_group(few_fits):
    probs, truth = noise(photos=80)
    probs, truth, groups = probs.repeat(4, 1), truth.repeat(4), np.arange(80).repeat(4)
    chance = pytest.approx(0.25, abs=0.15)  # three standard deviations of 80 guesses
    assert accuracy(blend.crossvalidate("forest", probs, truth, None, 0), truth) > 0.8
    assert accuracy(blend.crossvalidate("forest", probs, truth, groups, 0), truth) == chance
    choice = blend.choose(probs, truth, 0, list("abc"), groups)
    assert choice.nested_accuracy == chance
    assert "forest" not in choice.picked  # as it would be if the inner folds split groups
    assert choice.table.set_index("kind").loc["forest", "accuracy"] == chance


# Choosing


def found(**rights) -> dict[str, np.ndarray]:
    """Out-of-fold predictions of ten photos of class 0 by kind, from (how many are right, how sure)."""
    return {
        k: says(
            np.arange(10) < rights.get(k, (6, 0.7))[0],
            np.zeros(10, int),
            rights.get(k, (6, 0.7))[1],
        )
        for k in blend.KINDS
    }


@pytest.mark.parametrize(
    ("rights", "expected"),
    [
        ({}, "best"),
        ({"weights": (7, 0.7)}, "weights"),
        ({"weights": (6, 0.6)}, "best"),  # a lower log-loss, but the same photos right
        ({"weights": (7, 0.999)}, "best"),  # one more right, but a higher log-loss
        (
            {"average": (7, 0.75), "weights": (7, 0.7)},
            "average",
        ),  # better than best, but no more right than average
        (
            {"average": (8, 0.8), "weights": (9, 0.55)},
            "average",
        ),  # more right, a log-loss between those of the two
        (
            {"average": (7, 0.7), "logistic": (9, 0.6), "forest": (8, 0.8)},
            "logistic",
        ),  # the forest spoils one
        (
            {"average": (9, 0.9999), "forest": (8, 0.8)},
            "forest",
        ),  # average is too sure of its mistake to be taken
    ],
)
def test_a_more_complicated_kind_needs_evidence(rights, expected):
    assert blend._pick(found(**rights), np.zeros(10, int)) == expected


def test_what_choose_reports(few_fits):
    probs, truth = members([2.5, 2.2, 0])
    choice = blend.choose(probs, truth, 0, ["first", "second", "blind"])
    assert (
        choice.blend.kind == "logistic"
    )  # the truth about calibrated independent members is linear in their logs
    assert np.array_equal(
        choice.blend.apply(probs), blend.fit("logistic", probs, truth, 0).apply(probs)
    )
    table = choice.table.set_index("kind")
    assert tuple(table.index) == blend.KINDS
    assert list(table.columns) == ["accuracy", "log_loss", "corrected", "spoiled", "weights"]
    for kind, row in table.iterrows():
        out = blend.crossvalidate(kind, probs, truth, None, 0)
        assert row["accuracy"] == accuracy(out, truth)
        assert row["log_loss"] == log_loss(out, truth)
        gained = row["accuracy"] - table.loc["best", "accuracy"]
        assert row["corrected"] - row["spoiled"] == pytest.approx(400 * gained)
    assert table.loc["weights", "corrected"] > table.loc["weights", "spoiled"] > 0
    assert table.loc[["best", "average", "logistic", "forest"], "weights"].tolist() == [
        "1/0/0",
        "0.333/0.333/0.333",
        "",
        "",
    ]
    shown = blend.parse_weights(table.loc["weights", "weights"], 3)
    np.testing.assert_allclose(shown, fit_weights(probs, truth), atol=2e-3)
    assert len(choice.picked) == 5
    assert choice.nested_probs.shape == (400, 4)
    row = table.loc["logistic"]
    assert (
        f"logistic corrects {row['corrected']} photos that the best member (first) has wrong and spoils {row['spoiled']}"
        in choice.reason
    )


def test_choose_keeps_the_one_member_that_nothing_improves(few_fits):
    truth = np.arange(100) % 2
    probs = np.array([says(np.arange(100) >= wrong, truth) for wrong in (20, 5)])
    choice = blend.choose(probs, truth, 0, ["poor", "good"])
    assert (choice.blend.kind, choice.blend.weights.tolist(), choice.picked) == (
        "best",
        [0, 1],
        ["best"] * 5,
    )
    assert choice.nested_accuracy == 0.95
    assert choice.reason.startswith("good alone, as no blend")


def test_one_member_is_itself_however_few_photos_there_are():
    choice = blend.choose(PROBS[:1, :5], TRUTH[:5], 0, ["only"])
    assert (choice.blend.kind, choice.reason, choice.picked) == ("best", "one member", [])
    np.testing.assert_allclose(choice.nested_probs, PROBS[0, :5])
    assert choice.nested_accuracy == accuracy(PROBS[0, :5], TRUTH[:5])
    assert choice.table["kind"].tolist() == ["best"]


# Tables


def test_each_member_alone():  # S68
    truth = np.zeros(10, int)
    rights = np.array(
        [np.arange(10) < 8, np.arange(10) >= 5]
    )  # 3 photos right by both, 5 and 2 by one alone
    probs = np.array([says(r, truth) for r in rights])
    table = blend.members_table(["a", "b"], probs, truth)
    assert list(table.columns) == [
        "name",
        "accuracy",
        "low",
        "high",
        "log_loss",
        "errors",
        "alone_right",
    ]
    assert table[["name", "accuracy", "errors", "alone_right"]].to_numpy().tolist() == [
        ["a", 0.8, 2, 5],
        ["b", 0.5, 5, 2],
    ]
    # Wilson's formula by hand: (0.8 + z²/20 ± z·√(0.016 + z²/400)) / (1 + z²/10), z = 1.96
    assert table.loc[0, ["low", "high"]].tolist() == pytest.approx([0.4902, 0.9433], abs=1e-4)
    assert table.loc[0, "log_loss"] == pytest.approx(-0.8 * np.log(0.97) - 0.2 * np.log(0.03))


def test_log_loss_of_a_sure_mistake_is_finite():
    assert log_loss(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-np.log(1e-7))


def test_importing_it_loads_neither_sklearn_nor_scipy():
    tree = ast.parse(Path(blend.__file__).read_text())
    names = [
        alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names
    ]
    names += [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in names} <= {
        "__future__",
        "dataclasses",
        "typing",
        "numpy",
        "pandas",
        "carcls",
    }
