"""From votes to the submission's probabilities: what the gate, the folds, the adaptive rule and the blend do with them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import says

from carcls import config
from carcls import network as members
from carcls.config import Config
from carcls.errors import ConfigError
from carcls.votes import decide, votes

SECONDS = {
    "training": 1.0,
    "validation_votes": 8.0,
    "adaptive_validation_votes": 2.0,
    "test_votes": 1.0,
}


def member(name, val_tops, truth, *test_tops, sure=0.8):
    def cast(tops, labels):
        probs = says(tops, sure)
        return votes.full([f"{i}.jpg" for i in range(probs.shape[1])], probs, labels)

    tests = tuple(cast(tops, np.full(np.shape(tops)[1], -1)) for tops in test_tops)
    return members.Member(
        name, Path(), cast(val_tops, truth), tests, {}, SECONDS, (4, 0), Config().stages[-1], [""]
    )


TRUTH = np.tile([0, 1, 2], 10)


def test_a_closed_gate_leaves_the_photo_alone_and_an_open_one_takes_all_views():
    wrong = np.where(np.arange(30) < 9, (TRUTH + 1) % 3, TRUTH)  # nine of thirty
    test = [[0, 1], [2, 2], [2, 2]]
    helps = member("a", [wrong, TRUTH, TRUTH], TRUTH, test)
    harms = member("a", [TRUTH, wrong, wrong], TRUTH, test)
    cfg = config.parse({"tta_views": 3})
    opened, closed = decide.decide(cfg, [helps], None), decide.decide(cfg, [harms], None)
    assert opened.test_probs.argmax(1).tolist() == [2, 2]
    assert closed.test_probs.argmax(1).tolist() == [0, 1]
    assert (opened.accuracy, closed.accuracy) == (1.0, 1.0)
    assert opened.made_by == "one member, test-time augmentation on"
    assert decide.decide(cfg.replace(tta="always"), [harms], None).accuracy == 0.7
    said = "\n".join(decide.lines(closed))
    assert "closed: it harms" in said
    assert "0 corrected, 9 spoiled" in said


def test_networks_of_folds_are_averaged_on_test_photos():
    folded = member("a", [TRUTH], TRUTH, [[0, 1]], [[0, 2]], [[1, 2]])
    made = decide.decide(config.parse({"tta_views": 1, "folds": 3}), [folded], None)
    assert made.test_probs[0] == pytest.approx([(0.8 + 0.8 + 0.1) / 3, (0.1 + 0.1 + 0.8) / 3, 0.1])
    assert made.test_probs.argmax(1).tolist() == [0, 2]


def test_manual_weights_are_taken_as_they_are():  # S66
    wrong = (TRUTH + 1) % 3
    two = [member("a", [TRUTH], TRUTH, [[0, 1]]), member("b", [wrong], TRUTH, [[1, 2]])]
    made = decide.decide(
        config.parse({"tta_views": 1, "members": "seed=1+seed=2", "blend": "0.9/0.1"}), two, None
    )
    assert made.test_probs[0] == pytest.approx([0.9 * 0.8 + 0.1 * 0.1, 0.9 * 0.1 + 0.1 * 0.8, 0.1])
    assert made.choice.blend.kind == "manual"
    assert made.accuracy == 1.0
    chosen = decide.decide(config.parse({"tta_views": 1, "members": "seed=1+seed=2"}), two, None)
    assert chosen.accuracy == 1.0  # the bad member does not get in the way
    assert "blend best" in "\n".join(decide.lines(chosen))
    # Of three members two are there so far: the better one of them alone, whatever blend is set for
    # all.
    so_far = decide.decide(
        config.parse({"tta_views": 1, "members": "seed=1+seed=2+seed=3", "blend": "1/1/1"}),
        two,
        None,
    )
    assert so_far.test_probs.argmax(1).tolist() == [0, 1]
    assert "the best of 2 of 3 members" in so_far.choice.reason


def test_a_fitted_blend_is_judged_on_photos_that_it_has_not_seen_nor_their_copies():  # S69
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 3, 60).repeat(2)  # each photo twice
    noise = [rng.dirichlet(np.ones(3), 60).repeat(2, 0).astype(np.float32) for _ in range(2)]
    two = [member(name, [truth], truth, [[0]]) for name in "ab"]
    ids = two[0].val.ids
    two = [
        replace(one, val=votes.full(ids, probs[None], truth))
        for one, probs in zip(two, noise, strict=True)
    ]
    cfg = config.parse({"tta_views": 1, "members": "seed=1+seed=2", "blend": "forest"})
    made = decide.decide(cfg, two, np.arange(60).repeat(2))
    assert made.choice.blend.kind == "forest"
    assert (
        made.choice.blend.apply(np.stack(noise)).argmax(1) == truth
    ).mean() > 0.9  # on what it was fitted on
    assert made.accuracy < 0.5  # there is nothing to learn
    assert made.accuracy == (made.val_probs.argmax(1) == truth).mean()


def test_views_are_combined_as_set():
    tops = [TRUTH, (TRUTH + 1) % 3, (TRUTH + 1) % 3]
    one = member("a", tops, TRUTH, [[0], [1], [1]])
    for cast in (one.val, one.test[0]):  # the first view is surer than the two others together
        cast.probs[:] = [
            says([view.argmax(1)], sure)[0]
            for view, sure in zip(cast.probs, (0.98, 0.45, 0.45), strict=True)
        ]
    cfg = config.parse({"tta_views": 3, "tta": "always"})
    mean, vote = (
        decide.decide(cfg, [one], None),
        decide.decide(cfg.replace(tta_combine="vote"), [one], None),
    )
    assert (mean.accuracy, vote.accuracy) == (1.0, 0.0)
    assert mean.test_probs.argmax(1).tolist() == [0]
    assert vote.test_probs.argmax(1).tolist() == [1]


def test_the_adaptive_rule_is_judged_as_it_is_used():
    tops = np.tile(TRUTH, (8, 1))
    tops[1::2, :5] = (TRUTH[:5] + 1) % 3  # five photos whose views never agree
    tops[2:, 29] = (
        TRUTH[29] + 1
    ) % 3  # one whose first two views agree on what all together do not say
    cfg = config.parse({"tta_views": 2, "tta_cap": 8, "tta": "always"})
    (saved,) = decide.decide(cfg, [member("a", tops, TRUTH, [[0], [0]])], None).adaptive
    assert saved["passes"] == pytest.approx((25 * 2 + 5 * 8) / 30)
    assert saved["seconds_share"] == 0.25
    assert (saved["photos"], saved["differ"]) == (30, 1)


def test_votes_of_other_photos_are_refused():
    a, b = member("a", [TRUTH], TRUTH, [[0]]), member("b", [TRUTH[:29]], TRUTH[:29], [[0]])
    with pytest.raises(
        ConfigError, match="member b: its votes are of other photos than those of a"
    ):
        decide.decide(config.parse({"tta_views": 1, "members": "seed=1+seed=2"}), [a, b], None)
