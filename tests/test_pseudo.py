"""Pseudo-labels: the threshold, every refusal, precision, and labels that the votes contradict."""

import numpy as np
import pandas as pd
import pytest
from build_votes import Member, build, counted, views

from carcls.data import photos
from carcls.votes import pseudo
from carcls.votes.votes import Gate

CLASSES = 10
OPEN = Gate(True, "open")


def table(test: int, **changes) -> photos.Table:
    """So many test photos after two photos to learn and one to validate."""
    n = 3 + test
    folds = [photos.TRAIN, photos.TRAIN, photos.VALIDATION, *[photos.TEST] * test]
    ids = ["a", "b", "v", *[f"{k}.jpg" for k in range(test)]]
    frame = pd.DataFrame({"id": ids, "fold": folds, "label": [0, 1, 2, *[-1] * test]})
    frame = frame.assign(readable=True, group=np.arange(n)).assign(**changes)
    return photos.Table(frame, list(range(CLASSES)), "Id", "Category", [], pd.DataFrame())


def checked(n=64, right=30, wrong=0):
    """Validation votes, n views that agree on each photo, of all classes in turn; so many right."""
    said = [k % CLASSES for k in range(right + wrong)]
    labels = [(k + (number >= right)) % CLASSES for number, k in enumerate(said)]
    # The first view is unsure, so that the gate is open.
    votes = counted([{k: n} for k in said], labels)
    votes.probs[0] = 0.5 * votes.probs[0] + 0.5 / CLASSES
    return votes


DISPUTED = {4: 32, 5: 32}
# Two classes and a photo that does not pass: what no refusal is about.
SOUND = [{1: 64}, {2: 64}, DISPUTED]


def choose(*tests, val=None, gates=None, rule="64", **changes) -> pseudo.Chosen:
    vals = val or [checked()] * len(tests)
    members = [Member("", v, [test]) for v, test in zip(vals, tests, strict=True)]
    gates = gates or [OPEN] * len(tests)
    photos_table = table(len(tests[0].ids), **changes)
    return pseudo.choose(members, gates, photos_table, views(rule))


# --- The rule -------------------------------------------------------------------------------------


def test_the_threshold_is_exact():  # S63
    votes = counted([{3: 130, 5: 70}, {1: 200}, {2: 190, 4: 10}, {7: 189, 0: 11}])
    assert votes.together().argmax(1).tolist() == [3, 1, 2, 7]  # enough to predict
    chosen = choose(votes, val=[checked(200)])
    assert not chosen.refused
    assert chosen.places.tolist() == [1, 2]  # 0.95 itself passes
    assert chosen.rows.rows.tolist() == [4, 5]  # in the table, after three labelled ones
    assert chosen.rows.labels.tolist() == [1, 2]


def test_all_members_must_say_the_same_class():
    a = counted([{3: 64}, {1: 64}, {2: 64}, {4: 64}])
    b = counted([{6: 64}, {1: 64}, {2: 64}, {4: 60, 6: 4}])
    # Photo 0: another class in b; photo 3: b is below the threshold.
    assert choose(a, b).places.tolist() == choose(b, a).places.tolist() == [1, 2]
    assert choose(a).refused  # a alone would label all


def test_photos_that_stopped_early_count_by_the_views_they_were_given():
    # 4 of 4, then 3 of 3 (too few), 7 of 8, class 0 with 3 of 3 (views that a photo was not given
    # are zeros, which must not vote for 0), and class 0 with 4 of 4.
    votes = counted([{3: 4}, {3: 3}, {3: 7, 5: 1}, {0: 3}, {0: 4}], views=64)
    chosen = choose(votes)
    assert chosen.places.tolist() == [0, 4]
    assert chosen.rows.labels.tolist() == [3, 0]
    assert "2 test photos agree but have fewer than 4 views" in chosen.warnings[0]
    # One member with enough views does not make up for another with too few.
    many = counted([{3: 64}, {3: 64}, {3: 64}, {0: 64}, {0: 64}])
    assert choose(votes, many).places.tolist() == [0, 4]


def test_precision_is_of_the_validation_photos_that_pass_by_the_same_rule():
    # 30 photos whose views agree, and are right; on 10 others the first 44 of 64 do, and are
    # wrong: they pass only where the rule stops after 4.
    said = [{n % 10: 64} for n in range(30)] + [{n: 44, (n + 1) % 10: 20} for n in range(10)]
    labels = [n % 10 for n in range(30)] + [(n + 1) % 10 for n in range(10)]
    labels[3] = 8
    val = counted(said, labels)
    val.probs[0] = 0.5 * val.probs[0] + 0.05
    fixed = choose(counted([*SOUND, DISPUTED]), val=[val])
    assert fixed.line.startswith("2 of 4 test photos (50.0%) pass")
    # Wilson by hand: (29 + z²/2) / (30 + z²) ± z / (30 + z²) · √(29 · 1 / 30 + z²/4), z² = 3.8415
    assert "of 40 validation photos 30 pass, and 29 of them are right: 0.967 (0.833–" in fixed.line
    adaptive = choose(counted(SOUND), val=[val], rule="4-64")
    assert "40 pass, and 29 of them are right" in adaptive.line
    assert adaptive.refused


def test_unreadable_photos_and_copies_of_labelled_photos_are_not_chosen():
    said = counted([{n: 64} for n in range(5)] + [DISPUTED] * 2)
    # Test photo 0 is a copy of v, 2 of a; 3 cannot be read.
    group = [0, 1, 2, 2, 3, 0, 4, 5, 6, 7]
    readable = [True] * 6 + [False] + [True] * 3
    usable = pseudo.usable_photos(table(7, group=group, readable=readable))
    assert usable.tolist() == [False, True, False, False, True, True, True]
    assert choose(said, group=group, readable=readable).places.tolist() == [1, 4]


def test_precision_needs_all_members_too():
    other = checked()
    other.probs[:, :5] = np.roll(other.probs[:, :5], 1, axis=2)  # disagrees on 5
    line = choose(counted(SOUND), counted(SOUND), val=[checked(), other]).line
    assert "each of 2 members" in line
    assert "of 30 validation photos 25 pass, and 25 of them are right" in line


# --- Refusals -------------------------------------------------------------------------------------


def refused(chosen: pseudo.Chosen) -> str:
    """The reason, after a look that nothing is chosen."""
    assert len(chosen.rows) == len(chosen.places) == 0
    assert chosen.refused and chosen.refused in chosen.line
    return chosen.refused


def test_a_closed_gate_refuses():  # S64
    two = [counted(SOUND)] * 2
    assert "gate" in refused(choose(*two, gates=[OPEN, Gate(False, "closed")]))
    # tta=always opens it to predict; where the views do not help, their agreement says nothing.
    harmed = checked()
    harmed.probs[1:, :20] = np.roll(harmed.probs[1:, :20], 1, axis=2)
    assert "member 1" in refused(choose(*two, val=[harmed, checked()]))


def test_too_few_views_refuse():
    few = counted([{1: 3}, {2: 3}, {4: 2, 5: 1}])
    assert "test photo 3 views" in refused(choose(few))
    assert "validation photo 3 views" in refused(choose(counted(SOUND), val=[checked(3)]))
    four = counted([{1: 4}, {2: 4}, {4: 2, 5: 2}])
    chosen = choose(four, val=[checked(4)])
    assert (chosen.refused, chosen.warnings, chosen.places.tolist()) == ("", [], [0, 1])


def test_labelling_nearly_everything_is_refused():  # S62
    alike = [{n % 2: 8} for n in range(49)]
    assert not choose(counted([*alike, {4: 4, 5: 4}])).refused  # 0.98 is not more than 0.98
    every = counted([*alike, {4: 8}])
    assert "50 of 50" in refused(choose(every))
    # Photos that cannot be labelled do not hide that all others would be.
    assert "45 of 45" in refused(choose(every, readable=np.arange(53) < 48))


def test_one_class_alone_is_refused():
    assert "one class" in refused(choose(counted([{3: 64}, {3: 64}, DISPUTED])))


def test_nothing_that_passes_is_refused_and_its_table_is_empty():
    votes = counted([DISPUTED, {4: 60, 5: 4}])
    chosen = choose(votes)
    assert refused(chosen).startswith("none of 2")
    frame = pseudo.table(chosen, [Member("", checked(), [votes])], range(CLASSES))
    columns = ["id", "label", "agreement_1", "probability_1", "views_1", "votes_1"]
    assert (len(frame), list(frame.columns)) == (0, columns)


@pytest.mark.parametrize(
    ("right", "wrong", "reason"),
    [
        (20, 0, ""),
        (19, 0, "the precision is unknown: 19"),
        (18, 2, ""),  # 0.9 itself
        (17, 3, "17 of 20"),
    ],
)
def test_unknown_and_low_precision_are_refused(right, wrong, reason):
    chosen = choose(counted(SOUND), val=[checked(right=right, wrong=wrong)])
    assert chosen.refused.startswith(reason)
    assert bool(chosen.refused) == bool(reason)


# --- Warnings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of_class_7", "others", "warned"),
    [
        (21, 49, False),  # 30 % of 70 against 10 %: three times, not more
        (22, 48, True),
        (19, 30, False),  # 39 %, but of 19 photos
        (20, 30, True),
    ],
)
def test_a_class_far_more_frequent_than_on_validation_is_warned_of(of_class_7, others, warned):
    rest = [k for k in range(CLASSES) if k != 7]
    sevens, more = [{7: 8}] * of_class_7, [{rest[n % 9]: 8} for n in range(others)]
    test, val = counted([*sevens, *more, *[{4: 4, 5: 4}] * 9]), checked(right=40)
    chosen = choose(test, val=[val])
    assert not chosen.refused
    assert [w.startswith("class index 7 is ") for w in chosen.warnings] == [True] * warned
    never = choose(test, val=[val.take(np.arange(40) % 10 != 7)])  # a share of 0 %
    assert len(never.warnings) == (of_class_7 >= 20)


# --- pseudo.csv -----------------------------------------------------------------------------------


def test_the_table_shows_what_a_person_needs_to_judge():
    a = counted([DISPUTED, {7: 62, 2: 1, 9: 1}, {3: 8}])
    b = counted([{1: 4}, {7: 4}, {3: 4}])
    members = [Member("", checked(), [votes]) for votes in (a, b)]
    names = [f"c{k}" for k in range(CLASSES)]
    assert pseudo.table(choose(a, b), members, names).to_dict("list") == {
        "id": ["1.jpg", "2.jpg"],
        "label": ["c7", "c3"],
        "agreement_1": [62 / 64, 1.0],
        "probability_1": [pytest.approx((62 * 0.91 + 2 * 0.01) / 64), pytest.approx(0.91)],
        "views_1": [64, 8],
        "votes_1": ["c7:62 c2:1 c9:1", "c3:8"],
        "agreement_2": [1.0, 1.0],
        "probability_2": [pytest.approx(0.91), pytest.approx(0.91)],
        "views_2": [4, 4],
        "votes_2": ["c7:4", "c3:4"],
    }


# --- Labels to look at ----------------------------------------------------------------------------


def test_suspicious_finds_the_planted_labels_and_no_merely_uncertain_one():
    # Photo 3 contradicts its label with 60 of 64; photos 2, 5 and 6 nearly always, 5 the least
    # certainly. sure=0.991 leaves 0.001 for each other class.
    said = [{1: 64}, {2: 64}, {3: 64}, {4: 60, 5: 4}, {6: 64}, {7: 63, 8: 1}, {9: 8}]
    found = pseudo.suspicious(counted(said, [1, 2, 8, 5, 6, 0, 0], sure=0.991))
    probability = [0.991, 0.991, (63 * 0.991 + 0.001) / 64]
    assert found.to_dict("list") == {
        "id": ["2.jpg", "6.jpg", "5.jpg"],
        "given": [8, 0, 0],
        "predicted": [3, 9, 7],
        "probability": [pytest.approx(p, abs=1e-6) for p in probability],
        "given_probability": [pytest.approx(0.001, abs=1e-6)] * 3,
        "agreement": [1, 1, 63 / 64],
        "row": [2, 6, 5],
    }


def test_suspicious_needs_certainty_an_unlikely_label_and_agreement():
    # All views agree each time: photo 0 at 0.94, photo 1 at 0.97 with 0.025 for the given label,
    # photo 2 is planted.
    rows = [[0.01, 0.94, *[0.05 / 8] * 8], [0.025, 0.97, *[0] * 8], [0.01, 0.97, *[0.02 / 8] * 8]]
    votes = build([rows] * 8, [0, 0, 0])
    assert pseudo.suspicious(votes)["row"].tolist() == [2]
    # With smoothing 0.1: at least 0.855, and below 0.03
    assert set(pseudo.suspicious(votes, 0.1)["row"]) == {0, 1, 2}
    torn = counted([{1: 7, 2: 1}], [0], sure=0.991)  # 0.875 of the views
    assert pseudo.suspicious(torn, 0.1).empty
