"""From votes to the submission's probabilities: gate, folds, adaptive rule, blend."""

import numpy as np
import pytest
from build_votes import Member, build, says

from carcls import config, metrics
from carcls.errors import ConfigError
from carcls.votes import calibrate
from carcls.votes.decide import decide, describe, gate

TRUTH = np.tile([0, 1, 2], 10)
WRONG = (TRUTH + 1) % 3


def member(name, val_tops, truth, *test_tops):
    return Member(name, build(says(val_tops), truth), [build(says(tops)) for tops in test_tops])


def settings(**changes):
    return config.parse({"views": 1, **changes})


def test_the_gate_opens_on_help_and_closes_on_harm_and_on_nothing():  # S57
    plain = [1] * 3 + [0] * 17
    helps = build(says([plain, [0] * 20, [0] * 20]), [0] * 20)
    harms = build(says([plain, [1] * 10 + [0] * 10, [1] * 10 + [0] * 10]), [0] * 20)
    assert gate("auto", helps).open
    assert not gate("auto", harms).open
    assert "0 corrected, 7 spoiled (p = 0.016)" in gate("auto", harms).reason  # 2 / 2**7
    assert not gate("auto", build(says([plain] * 3), [0] * 20)).open  # they say the same
    assert gate("always", harms).open
    assert not gate("never", helps).open
    for mode in ("auto", "always", "never"):
        assert not gate(mode, build(says([plain]), [0] * 20)).open


@pytest.mark.parametrize(
    ("corrected", "spoiled", "sure", "is_open"),
    [
        (0, 0, (0.5, 0.9), True),
        (0, 0, (0.9, 0.5), False),
        (1, 3, (0.55, 0.95), True),
        (0, 5, (0.55, 0.95), False),
    ],
)
def test_the_gate_takes_a_few_more_errors_for_better_probabilities_and_not_many(
    corrected, spoiled, sure, is_open
):
    tops = np.zeros((2, 20), int)
    tops[0, :corrected] = 1
    tops[1, corrected : corrected + spoiled] = 1
    probs = [says(tops[v], sure[v]) for v in (0, 1)]
    assert gate("auto", build(probs, [0] * 20)).open == is_open


def test_a_closed_gate_leaves_the_photo_alone_and_an_open_one_takes_all_views():
    some_wrong = np.where(np.arange(30) < 9, WRONG, TRUTH)  # nine of thirty
    test = [[0, 1], [2, 2], [2, 2]]
    helps = member("a", [some_wrong, TRUTH, TRUTH], TRUTH, test)
    harms = member("a", [TRUTH, some_wrong, some_wrong], TRUTH, test)
    opened = decide(settings(views=3), [helps], None)
    closed = decide(settings(views=3), [harms], None)
    assert opened.test_probs.argmax(1).tolist() == [2, 2]
    assert closed.test_probs.argmax(1).tolist() == [0, 1]
    assert (opened.score, closed.score) == (1.0, 1.0)
    assert opened.ids == ["0.jpg", "1.jpg"]
    assert decide(settings(views=3, tta="always"), [harms], None).score == 0.7
    told = "\n".join(describe(settings(views=3), [harms], closed))
    assert closed.gates[0].reason in told


def test_networks_of_folds_are_averaged_on_test_photos():
    folded = member("a", [TRUTH], TRUTH, [[0, 1]], [[0, 2]], [[1, 2]])
    decision = decide(settings(folds=3), [folded], None)
    mean = [(0.8 + 0.8 + 0.1) / 3, (0.1 + 0.1 + 0.8) / 3, 0.1]
    assert decision.test_probs[0] == pytest.approx(mean)
    assert decision.test_probs.argmax(1).tolist() == [0, 2]


def test_blends_as_set_as_chosen_and_of_members_so_far():  # S66
    two = [member("a", [TRUTH], TRUTH, [[0, 1]]), member("b", [WRONG], TRUTH, [[1, 2]])]
    cfg = settings(members="seed=1+seed=2")
    by_hand = decide(cfg.replace(blend="0.9/0.1"), two, None)
    mean = [0.9 * 0.8 + 0.1 * 0.1, 0.9 * 0.1 + 0.1 * 0.8, 0.1]
    assert by_hand.test_probs[0] == pytest.approx(mean)
    assert by_hand.choice.blend.kind == "manual"
    assert by_hand.score == 1.0
    chosen = decide(cfg, two, None)
    assert chosen.score == 1.0  # the bad member does not get in the way
    assert chosen.choice.reason in "\n".join(describe(cfg, two, chosen, every=True))
    # Of three members two are ready: the better one alone, whatever blend is set for all.
    three = settings(members="seed=1+seed=2+seed=3", blend="1/1/1")
    so_far = decide(three, two, None)
    assert so_far.test_probs.argmax(1).tolist() == [0, 1]
    assert "2 of 3 members" in so_far.choice.reason


def test_a_fitted_blend_is_judged_on_photos_that_it_has_not_seen_nor_their_copies():  # S69
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 3, 60).repeat(2)  # each photo twice
    noise = [rng.dirichlet(np.ones(3), 60).repeat(2, 0).astype(np.float32) for _ in range(2)]
    two = [
        Member(name, build(probs[None], truth), [build(probs[None])])
        for name, probs in zip("ab", noise, strict=True)
    ]
    cfg = settings(members="seed=1+seed=2", blend="forest")
    decision = decide(cfg, two, np.arange(60).repeat(2))
    assert decision.choice.blend.kind == "forest"
    fitted = decision.choice.blend.apply(np.stack(noise))
    assert (fitted.argmax(1) == truth).mean() > 0.9  # on what it was fitted on
    assert decision.score < 0.5  # there is nothing to learn
    assert decision.score == (decision.val_probs.argmax(1) == truth).mean()


def test_views_are_combined_as_the_votes_say():
    def votes(tops, labels, combine):  # the first view is surer than the two others together
        probs = [says(top, sure) for top, sure in zip(tops, (0.98, 0.45, 0.45), strict=True)]
        return build(probs, labels, combine=combine)

    for combine, accuracy, top in (("mean", 1.0, 0), ("vote", 0.0, 1)):
        val = votes([TRUTH, WRONG, WRONG], TRUTH, combine)
        one = Member("a", val, [votes([[0], [1], [1]], None, combine)])
        cfg = settings(views=3, tta="always", tta_combine=combine)
        decision = decide(cfg, [one], None)
        assert (decision.score, decision.test_probs.argmax(1)) == (accuracy, [top])


def test_the_adaptive_rule_is_judged_as_it_is_used():
    tops = np.tile(TRUTH, (8, 1))
    tops[2:, :9] = WRONG[:9]  # nine photos whose first two views agree on what is right
    one = member("a", tops, TRUTH, [[0]] * 8)
    assert decide(settings(views="2-8", tta="always"), [one], None).score == 1.0
    assert decide(settings(views=8, tta="always"), [one], None).score == 0.7
    told = describe(settings(views="2-8"), [one], decide(settings(views="2-8"), [one], None))
    assert any("2.0 of 8 passes" in line for line in told)


def test_votes_of_other_photos_are_refused():
    a, b = member("a", [TRUTH], TRUTH, [[0]]), member("b", [TRUTH[:29]], TRUTH[:29], [[0]])
    c = member("c", [TRUTH], TRUTH, [[0]], [[0, 1]])
    for other in (b, c):
        with pytest.raises(ConfigError, match=f"member {other.name}.* than those of a"):
            decide(settings(members="seed=1+seed=2"), [a, other], None)


def test_the_gate_asks_the_metric_that_decides():
    labels = np.repeat([0, 1, 2], [4, 14, 14])
    plain = np.where(labels == 0, 1, labels)  # every photo of the rare class is wrong
    views = np.where(np.arange(32) < 4, 0, labels)
    views[4:11] = 0  # it is found, at the cost of more frequent ones
    votes = build([says(plain, 0.8), says(views, 0.95), says(views, 0.95)], labels)
    assert not gate("auto", votes).open or gate("auto", votes, "balanced_accuracy").open
    assert gate("auto", votes, "balanced_accuracy").open
    assert "balanced accuracy 0.66" in gate("auto", votes, "balanced_accuracy").reason


def test_by_log_loss_over_confident_votes_get_a_temperature():
    rng = np.random.default_rng(0)
    truth = np.tile([0, 1, 2], 40)
    tops = np.where(rng.random(120) < 0.7, truth, (truth + 1) % 3)
    sure = build(says([tops], 0.999), truth)
    one = Member("a", sure, [build(says([[0, 1]], 0.999))])
    cfg = settings()
    decision = decide(cfg, [one], None, "log_loss")
    assert decision.temperature > 2
    assert decision.score == pytest.approx(metrics.log_loss(decision.val_probs, truth))
    assert decision.score < metrics.log_loss(sure.alone(), truth)
    expected = calibrate.apply(one.test[0].alone(), decision.temperature)
    np.testing.assert_allclose(decision.test_probs, expected)
    folded = Member("a", sure, [*one.test, build(says([[1, 1]], 0.999))])
    both = [calibrate.apply(votes.alone(), decision.temperature) for votes in folded.test]
    of_folds = decide(cfg, [folded], None, "log_loss").test_probs  # each as it was measured
    np.testing.assert_allclose(of_folds, np.mean(both, 0))
    assert "temperature" in decision.made_by
    assert decision.calibration.reason in "\n".join(describe(cfg, [one], decision))
    plain = decide(cfg, [one], None)
    assert plain.temperature == 1 and plain.val_probs.max() == pytest.approx(0.999)
