"""Pseudo-labels: the threshold, every refusal, precision, what is kept, and labels that the votes contradict."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from carcls import network as members
from carcls.config import Config
from carcls.data import photos
from carcls.spine import _pseudo_labels
from carcls.votes import decide, pseudo
from carcls.votes.votes import Votes, adapt

CLASSES = 10


def made(
    counts: list[dict[int, int]], labels=None, views=None, sure=0.91, classes=CLASSES
) -> Votes:
    """Votes in which photo n has counts[n][k] views that put class k first, each with probability ``sure``.

    Photos with fewer views than the most, or than ``views``, have fewer cast; the rest of theirs is zero.
    """
    cast = np.array([sum(count.values()) for count in counts])
    probs = np.zeros((views or cast.max(), len(counts), classes), np.float32)
    for photo, count in enumerate(counts):
        tops = [k for k, n in count.items() for _ in range(n)]
        probs[: len(tops), photo] = (1 - sure) / (classes - 1)
        probs[range(len(tops)), photo, tops] = sure
    known = np.full(len(counts), -1) if labels is None else np.array(labels)
    return Votes([f"{n}.jpg" for n in range(len(counts))], probs, known.astype(np.int64), cast)


def checked(views=64, right=30, wrong=0) -> Votes:
    """Validation photos on which all views agree, of all classes in turn, with so many right and wrong."""
    said = [n % CLASSES for n in range(right + wrong)]
    return made(
        [{k: views} for k in said], [(k + (n >= right)) % CLASSES for n, k in enumerate(said)]
    )


DISPUTED = {4: 32, 5: 32}
# Two classes and a photo that does not pass: what no refusal is about.
SOUND = [{1: 64}, {2: 64}, DISPUTED]


def choose(*members: Votes, validation=None, gate=None, agreement=0.95, **more) -> pseudo.Chosen:
    validation = validation or [checked()] * len(members)
    return pseudo.select(
        members, validation, gate or [True] * len(members), agreement, CLASSES, **more
    )


# --- The rule -------------------------------------------------------------------------------------


def test_130_to_70_is_enough_to_predict_and_not_to_label():  # S63
    votes = made([{3: 130, 5: 70}, {1: 200}, {2: 200}])
    assert votes.combined().argmax(1).tolist() == [3, 1, 2]
    chosen = choose(votes, validation=[checked(views=200)])
    assert chosen.rows.tolist() == [1, 2]
    assert chosen.labels.tolist() == [1, 2]
    assert chosen.ids == ("1.jpg", "2.jpg")
    assert not chosen.refused


def test_the_threshold_is_exact():
    chosen = choose(made([{3: 61, 5: 3}, {3: 60, 5: 4}, {7: 61, 0: 3}]))  # 0.953 and 0.9375
    assert chosen.rows.tolist() == [0, 2]
    assert chosen.labels.tolist() == [3, 7]
    # 19 of 20 is 0.95 itself, and passes.
    votes = made([{3: 19, 5: 1}, {1: 20}, {4: 10, 5: 10}])
    assert choose(votes, validation=[checked(views=20)]).rows.tolist() == [0, 1]
    assert choose(
        votes, validation=[checked(views=20)], agreement=0.951
    ).refused  # class 1 alone is left


def test_all_members_must_say_the_same_class():
    a = made([{3: 64}, {1: 64}, {2: 64}, {4: 64}])
    b = made([{6: 64}, {1: 64}, {2: 64}, {4: 60, 6: 4}])
    chosen = choose(a, b)
    assert chosen.rows.tolist() == [
        1,
        2,
    ]  # photo 0: another class in b; photo 3: b is below the threshold
    assert choose(b, a).rows.tolist() == [1, 2]
    assert choose(a, validation=[checked()]).refused  # a alone would label all


def test_photos_that_stopped_early_count_by_the_views_they_were_cast():
    # 4 of 4, then 3 of 3 (too few), 7 of 8, class 0 with 3 of 3 (views not cast are zeros, which
    # must not vote for 0), and class 0 with 4 of 4.
    votes = made([{3: 4}, {3: 3}, {3: 7, 5: 1}, {0: 3}, {0: 4}], views=64)
    # Of validation photos too: 30 right ones with 4 views pass, 10 wrong ones with 3 do not.
    said = [{n % 10: 4 if n < 30 else 3} for n in range(40)]
    chosen = choose(
        votes, validation=[made(said, [n % 10 if n < 30 else 0 for n in range(40)], views=64)]
    )
    assert "of 40 validation photos 30 pass and 30 of them are right" in chosen.line
    assert chosen.rows.tolist() == [0, 4]
    assert chosen.labels.tolist() == [3, 0]
    assert "2 test photos agree but have fewer than 4 views" in chosen.warnings[0]
    # One member with enough views does not make up for another with too few.
    both = choose(
        votes, made([{3: 64}, {3: 64}, {3: 64}, {0: 64}, {0: 64}]), validation=[checked()] * 2
    )
    assert both.rows.tolist() == [0, 4]


def test_photos_that_are_not_usable_are_left_out():
    votes = made([*SOUND, {5: 64}])
    assert choose(votes, usable=np.array([True, True, True, False])).rows.tolist() == [0, 1]
    assert choose(votes, usable=np.array([True, True, True, True])).rows.tolist() == [0, 1, 3]
    with pytest.raises(ValueError, match=r"usable is \(3,\), expected \(4,\)"):
        choose(votes, usable=np.ones(3, bool))


def test_unreadable_photos_and_copies_of_labelled_photos_are_not_usable():
    rows = pd.concat([TRAIN, VAL, TEST], ignore_index=True)
    rows["group"] = [0, 1, 2, 3, 2, 4, 0, 5]  # t1 is a copy of v, t3 of a; t4 cannot be read
    table = photos.Table(rows, [0, 1, 2], "Id", "Category", [], pd.DataFrame())
    assert pseudo.usable_photos(table).tolist() == [True, False, True, False, False]


def test_a_run_chooses_by_gates_that_validation_opens_from_photos_that_may_be_labelled(
    tmp_path, monkeypatch
):
    # The views of photo v harm, and tta=always takes them all the same: for predicting, not for
    # labelling (S64).
    val = made([{3: 1, 4: 7}] * 8, [3] * 8, views=8)
    member = members.Member(
        "1",
        tmp_path,
        val,
        (made([{3: 8}] * 5, views=8),),
        {},
        {},
        (8, 0),
        Config().stages[-1],
        [""],
    )
    cfg = Config(tta="always", pseudo=True, pseudo_agreement=0.875)
    decision = decide.decide(cfg, [member], None)
    assert [gate.open for gate in decision.gates] == [True]
    rows = pd.concat([TRAIN, VAL, TEST], ignore_index=True)
    rows["group"] = [0, 1, 2, 3, 2, 4, 0, 5]  # t1 is a copy of v, t3 of a; t4 cannot be read
    table = photos.Table(rows, list(range(CLASSES)), "Id", "Category", [], pd.DataFrame())
    asked = []
    real = pseudo.select
    monkeypatch.setattr(pseudo, "select", lambda *args: asked.append(args) or real(*args))
    place = SimpleNamespace(out=tmp_path)
    chosen, said = _pseudo_labels(cfg, None, table, place, None, [member], decision, None)
    ((tests, validation, gates, agreement, classes, usable),) = asked
    assert (tests[0].ids, validation[0].ids) == (member.test[0].ids, val.ids)
    assert (gates, agreement, classes) == ([False], 0.875, CLASSES)
    assert usable.tolist() == [True, False, True, False, False]
    assert "gate of test-time augmentation is closed" in chosen.refused
    assert said == {"chosen": chosen.line, "photos": 0, "warnings": [], "kept": [], "reasons": []}


# --- Precision ------------------------------------------------------------------------------------


def test_precision_is_of_the_validation_photos_that_pass():
    # 38 right and 2 wrong pass; 10 right ones do not and must not count.
    said = [{n % 10: 64} for n in range(40)] + [{n: 60, (n + 1) % 10: 4} for n in range(10)]
    labels = [n % 10 for n in range(50)]
    labels[3], labels[4] = 8, 9
    chosen = choose(made([*SOUND, DISPUTED]), validation=[made(said, labels)])
    # Wilson by hand: (38 + z²/2) / (40 + z²) ± z / (40 + z²) · √(38 · 2 / 40 + z²/4), z² = 3.8415:
    # 0.834961, 0.986179
    assert chosen.line == (
        "pseudo-labels: 2 of 4 test photos (50.0%) pass: at least 0.95 of the views of the member put the same class "
        "first; of 50 validation photos 40 pass and 38 of them are right, precision 0.950 (0.835–0.986)"
    )


def test_precision_needs_all_members_too():
    a = made([{n % 10: 64} for n in range(30)], np.arange(30) % 10)
    other = [{(n + (n < 5)) % 10: 64} for n in range(30)]  # disagrees on 5
    chosen = choose(made(SOUND), made(SOUND), validation=[a, made(other, np.arange(30) % 10)])
    assert "each of 2 members" in chosen.line
    assert (
        "of 30 validation photos 25 pass and 25 of them are right, precision 1.000" in chosen.line
    )


# --- Refusals -------------------------------------------------------------------------------------


def refused(chosen: pseudo.Chosen) -> str:
    """The reason, after a look that nothing is chosen."""
    assert len(chosen.rows) == len(chosen.labels) == len(chosen.ids) == 0
    assert chosen.line.startswith("pseudo-labels refused: " + chosen.refused)
    return chosen.refused


def test_a_sound_choice_is_not_refused():
    chosen = choose(made(SOUND), made(SOUND))
    assert (chosen.refused, chosen.warnings, chosen.rows.tolist()) == ("", (), [0, 1])


def test_a_closed_gate_refuses():  # S64
    said = refused(choose(made(SOUND), made(SOUND), gate=[True, False]))
    assert said.startswith("the gate of test-time augmentation is closed for member 2 of 2")


def test_too_few_views_refuse():
    few = [{1: 3}, {2: 3}, {4: 2, 5: 1}]
    assert refused(choose(made(few), validation=[checked(views=3)])).startswith(
        "member 1 gives a test photo 3 views"
    )
    assert "validation photo 3 views" in refused(choose(made(SOUND), validation=[checked(views=3)]))
    four = [{1: 4}, {2: 4}, {4: 2, 5: 2}]
    assert not choose(made(four), validation=[checked(views=4)]).refused


def test_labelling_nearly_everything_is_refused():  # S62
    alike = [{n % 2: 8} for n in range(49)]
    chosen = choose(
        made([*alike, {4: 4, 5: 4}]), validation=[checked(views=8)]
    )  # 0.98 is not more than 0.98
    assert not chosen.refused
    assert "49 of 50 test photos (98.0%) pass" in chosen.line
    everything = choose(made([*alike, {4: 8}]), validation=[checked(views=8)])
    assert refused(everything).startswith("50 of 50 usable test photos pass, more than 98%")
    # Photos that cannot be labelled do not hide that all others would be.
    usable = np.arange(50) < 45
    assert "45 of 45 usable" in refused(
        choose(made([*alike, {4: 8}]), validation=[checked(views=8)], usable=usable)
    )


def test_one_class_alone_is_refused():
    said = refused(choose(made([{3: 64}, {3: 64}, DISPUTED])))
    assert said == "all of the 2 photos that pass are of class index 3, and there are 10 classes"


def test_nothing_that_passes_is_refused_and_its_table_is_empty():
    votes = made([DISPUTED, {4: 60, 5: 4}])
    chosen = choose(votes)
    assert refused(chosen) == "none of 2 usable test photos passes"
    frame = pseudo.table(chosen, [votes], range(CLASSES))
    assert len(frame) == 0
    assert list(frame.columns) == [
        "id",
        "label",
        "agreement_1",
        "probability_1",
        "cast_1",
        "votes_1",
    ]


def test_unknown_precision_is_refused():
    assert not choose(made(SOUND), validation=[checked(right=20)]).refused
    said = refused(choose(made(SOUND), validation=[checked(right=19)]))
    assert (
        said
        == "the precision is unknown: 19 validation photos pass, and at least 20 are needed to measure it"
    )
    none = choose(made(SOUND), validation=[made([DISPUTED] * 5, [4] * 5)])
    assert refused(none).startswith("the precision is unknown: 0 validation photos pass")
    assert none.line.endswith("of 5 validation photos 0 pass")


def test_low_precision_is_refused():
    assert not choose(made(SOUND), validation=[checked(right=18, wrong=2)]).refused  # 0.9 itself
    chosen = choose(made(SOUND), validation=[checked(right=17, wrong=3)])
    assert refused(chosen).startswith(
        "17 of 20 validation photos that pass are right, precision 0.850"
    )


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
    test = made(
        [{7: 8}] * of_class_7 + [{rest[n % 9]: 8} for n in range(others)] + [{4: 4, 5: 4}] * 9
    )
    chosen = choose(test, validation=[checked(views=8, right=40)])  # 4 of 40 are of class 7
    assert not chosen.refused
    assert [w.startswith("class index 7 is ") for w in chosen.warnings] == [True] * warned


def test_a_class_that_no_validation_photo_is_said_to_be_is_warned_of():
    validation = made([{n % 5: 8} for n in range(25)], np.arange(25) % 5)
    chosen = choose(
        made([{7: 8}] * 20 + [{n % 5: 8} for n in range(80)] + [{4: 4, 5: 4}] * 9),
        validation=[validation],
    )
    assert chosen.warnings == (
        "class index 7 is 20.0% of the test photos that pass (20 of 100) and 0.0% of the validation photos that pass "
        "(0 of 25)",
    )


def test_validation_with_other_views_than_test_is_warned_of():
    (said,) = choose(made([{1: 8}, {2: 8}, {4: 4, 5: 4}])).warnings
    assert said.startswith("member 1 gives test photos 8 views at least and validation photos 64")
    # Test photos adaptive from 4 up to 64, validation with all 64: the same rule in hindsight makes
    # them alike.
    test, validation = made([{1: 4}, {2: 4}, DISPUTED]), checked()
    assert len(choose(test, validation=[validation]).warnings) == 1
    assert choose(test, validation=[adapt(validation, 4, 64)]).warnings == ()


# --- What does not fit ----------------------------------------------------------------------------


def test_arguments_that_do_not_fit_together_are_errors():
    votes = made(SOUND)
    with pytest.raises(ValueError, match="2 members, 1 of them on validation, 2 gates"):
        choose(votes, votes, validation=[checked()])
    with pytest.raises(ValueError, match="agreement 0.5: expected above 0.5"):
        choose(votes, agreement=0.5)
    other = Votes(["0.jpg", "2.jpg", "1.jpg"], votes.probs, votes.labels, votes.cast)
    with pytest.raises(
        ValueError, match="test votes of member 2: 3 photos, not the 3 of member 1 in their order"
    ):
        choose(votes, other)
    with pytest.raises(ValueError, match="test votes of member 1: 6 classes, expected 10"):
        choose(made(SOUND, classes=6))
    with pytest.raises(
        ValueError, match="validation votes of member 1: 3 of 3 photos have no label"
    ):
        choose(votes, validation=[votes])


# --- pseudo.csv -----------------------------------------------------------------------------------


def test_the_table_shows_what_a_person_needs_to_judge():
    names = [f"c{k}" for k in range(CLASSES)]
    a = made([DISPUTED, {7: 62, 2: 1, 9: 1}, {3: 8}])
    b = made([{1: 4}, {7: 4}, {3: 4}])
    chosen = choose(a, b)
    assert pseudo.table(chosen, [a, b], names).to_dict("list") == {
        "id": ["1.jpg", "2.jpg"],
        "label": ["c7", "c3"],
        "agreement_1": [62 / 64, 1.0],
        "probability_1": [pytest.approx((62 * 0.91 + 2 * 0.01) / 64), pytest.approx(0.91)],
        "cast_1": [64, 8],
        "votes_1": ["c7:62 c2:1 c9:1", "c3:8"],
        "agreement_2": [1.0, 1.0],
        "probability_2": [pytest.approx(0.91), pytest.approx(0.91)],
        "cast_2": [4, 4],
        "votes_2": ["c7:4", "c3:4"],
    }


# --- Training on them -----------------------------------------------------------------------------


def frame(ids: list[str], label, fold: int, source: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": ids,
            "path": [f"{i}.png" for i in ids],
            "label": label,
            "fold": fold,
            "source": source,
            "height": 3,
            "width": 4,
            "readable": [i != "t4" for i in ids],
        }
    )


TRAIN = frame(["a", "b"], [0, 1], photos.TRAIN, "train")
VAL = frame(["v"], [2], photos.VALIDATION, "train")
TEST = frame(["t0", "t1", "t2", "t3", "t4"], [-1] * 5, photos.TEST, "test")
PICKED = replace(
    choose(made(SOUND)), rows=np.array([1, 3]), labels=np.array([2, 0]), ids=("t1", "t3")
)


def test_train_gets_the_chosen_rows_and_validation_none():
    made_frame = pseudo.extend(TRAIN, TEST, PICKED)
    assert made_frame["id"].tolist() == ["a", "b", "t1", "t3"]
    assert made_frame["label"].tolist() == [0, 1, 2, 0]
    assert made_frame["source"].tolist() == ["train", "train", "pseudo", "pseudo"]
    assert made_frame["path"].tolist() == ["a.png", "b.png", "t1.png", "t3.png"]
    assert (made_frame["fold"] == photos.TRAIN).all()
    assert made_frame.dtypes.equals(TRAIN.dtypes)
    assert made_frame.index.tolist() == [0, 1, 2, 3]
    # Whole table in, validation rows too: they stay what they were.
    both = pseudo.extend(pd.concat([TRAIN, VAL], ignore_index=True), TEST, PICKED)
    table = photos.Table(both, [0, 1, 2], "Id", "Category", [], pd.DataFrame())
    pd.testing.assert_frame_equal(table.val, VAL)
    assert table.train["id"].tolist() == ["a", "b", "t1", "t3"]
    assert TEST["label"].tolist() == [-1] * 5  # what was given is not changed


def test_train_and_test_may_have_the_same_ids_but_not_the_same_files():
    alike = TRAIN.assign(id=["t1", "t3"])
    assert pseudo.extend(alike, TEST, PICKED)["path"].tolist() == [
        "a.png",
        "b.png",
        "t1.png",
        "t3.png",
    ]
    with pytest.raises(ValueError, match="1 of 2 chosen photos are in train already, t3 first"):
        pseudo.extend(TRAIN.assign(path=["a.png", "t3.png"]), TEST, PICKED)


def test_nothing_chosen_leaves_train_as_it_is():
    none = choose(made([DISPUTED]))
    pd.testing.assert_frame_equal(pseudo.extend(TRAIN, TEST, none), TRAIN)


def test_chosen_photos_that_cannot_be_added_are_errors():
    with pytest.raises(
        ValueError, match="2 of 2 chosen photos are not the test photos of the votes, t1 first"
    ):
        pseudo.extend(TRAIN, TEST[::-1], PICKED)
    with pytest.raises(ValueError, match="1 of 2 chosen photos cannot be read, t4 first"):
        pseudo.extend(TRAIN, TEST, replace(PICKED, rows=np.array([1, 4]), ids=("t1", "t4")))


def test_extending_twice_is_an_error():
    with pytest.raises(ValueError, match="2 of 2 chosen photos are in train already, t1 first"):
        pseudo.extend(pseudo.extend(TRAIN, TEST, PICKED), TEST, PICKED)


def judged(right: list[bool], sure: float = 0.9, doubt: float = 0.1) -> Votes:
    """Validation photos of class 0 of 2; its probability is ``sure`` where they are right and ``doubt`` elsewhere."""
    votes = made([{0: 2}] * len(right), [0] * len(right), classes=2)
    votes.probs[..., 0] = np.where(right, sure, doubt)
    votes.probs[..., 1] = 1 - votes.probs[..., 0]
    return votes


@pytest.mark.parametrize(
    ("corrected", "spoiled", "sure", "doubt", "kept", "said"),
    [
        (3, 0, 0.9, 0.1, True, "not worse.*; 3 of 20 validation photos corrected, 0 spoiled"),
        (
            0,
            0,
            0.9,
            0.1,
            True,
            "0 spoiled .one-sided p = 1., log-loss 0.6547 → 0.6547",
        ),  # nothing changed
        (2, 0, 0.51, 0.49, True, "log-loss 0.6547 → 0.6793"),  # more right, log-loss worse
        (
            1,
            1,
            0.51,
            0.49,
            True,
            "1 of 20 .* corrected, 1 spoiled",
        ),  # as many right, log-loss worse
        (0, 1, 0.9, 0.4, True, "log-loss 0.6547 → 0.3486"),  # fewer right, log-loss better
        (
            0,
            1,
            0.9,
            0.1,
            False,
            "accuracy and log-loss are both worse; 0 of 20 .* corrected, 1 spoiled",
        ),
        (0, 4, 0.9, 0.4, True, "0.062"),  # chance does that 1 time in 16
        (
            0,
            5,
            0.9,
            0.4,
            False,
            "pseudo-labels harm; .* 5 spoiled .one-sided p = 0.031., log-loss 0.6547 → 0.5108",
        ),
    ],
)
def test_what_is_kept(corrected, spoiled, sure, doubt, kept, said):
    # −log 0.9 = 0.10536 on 15 photos and −log 0.1 = 2.30259 on 5: 0.6547 before.
    before = [False] * 5 + [True] * 15
    after = [n < corrected or (5 <= n < 20 - spoiled) for n in range(20)]
    found = pseudo.keep(judged(before), judged(after, sure, doubt))
    assert found.kept is kept
    assert re.search(said, found.reason)
    assert found.reason.startswith("kept: " if kept else "not kept: ")
    assert f"{corrected} of 20 validation photos corrected, {spoiled} spoiled" in found.reason


def test_a_member_that_diverged_is_not_kept():
    after = judged([True] * 20)
    after.probs[:, 0] = np.nan
    assert "not finite" in pseudo.keep(judged([False] * 20), after).reason


def test_members_are_compared_on_the_same_photos():
    with pytest.raises(ValueError, match="before on 20 photos and after on 19"):
        pseudo.keep(judged([True] * 20), judged([True] * 19))
    with pytest.raises(ValueError, match="2 of 2 photos have no label"):
        pseudo.keep(made([{1: 2}] * 2), made([{1: 2}] * 2))


# --- Labels to look at ----------------------------------------------------------------------------


def test_suspicious_finds_the_planted_labels_and_no_merely_uncertain_one():
    sure = {"sure": 0.991}  # leaves 0.001 for each other class
    votes = made(
        [{1: 64}, {2: 64}, {3: 64}, {4: 60, 5: 4}, {6: 64}, {7: 63, 8: 1}, {9: 8}],
        [1, 2, 8, 5, 6, 0, 0],
        **sure,
    )
    found = pseudo.suspicious(votes)
    # Photo 3 contradicts its label with 60 of 64; photos 2, 5 and 6 nearly always, 5 the least
    # certainly.
    assert found["row"].tolist() == [2, 6, 5]
    assert found["id"].tolist() == ["2.jpg", "6.jpg", "5.jpg"]
    assert found["given"].tolist() == [8, 0, 0]
    assert found["predicted"].tolist() == [3, 9, 7]
    assert found["agreement"].tolist() == [1, 1, 63 / 64]
    assert found["probability"].tolist() == pytest.approx(
        [0.991, 0.991, (63 * 0.991 + 0.001) / 64], abs=1e-6
    )
    assert found["given_probability"].tolist() == pytest.approx([0.001, 0.001, 0.001], abs=1e-6)
    assert list(found.columns) == [
        "id",
        "given",
        "predicted",
        "probability",
        "given_probability",
        "agreement",
        "row",
    ]


def test_suspicious_needs_certainty_and_an_unlikely_label():
    # All views agree each time: photo 0 at 0.94, photo 1 at 0.97 with 0.03 for the given label,
    # photo 2 is planted.
    votes = made([{1: 8}] * 3, [0, 0, 0])
    votes.probs[:, 0] = [0.01, 0.94, *[0.05 / 8] * 8]
    votes.probs[:, 1] = [0.03, 0.97, *[0.0] * 8]
    votes.probs[:, 2] = [0.01, 0.97, *[0.02 / 8] * 8]
    assert pseudo.suspicious(votes)["row"].tolist() == [2]
    assert pseudo.suspicious(votes, certainty=0.93)["row"].tolist() == [2, 0]
    assert pseudo.suspicious(votes, certainty=0.98).empty


def test_suspicious_needs_agreement():
    votes = made([{1: 7, 2: 1}], [0], sure=0.991)  # 0.875 of the views
    assert pseudo.suspicious(votes, certainty=0.8).empty
    assert pseudo.suspicious(votes, certainty=0.8, agreement=0.875)["row"].tolist() == [0]


def test_suspicious_counts_views_that_were_cast():
    votes = made([{1: 4}, {1: 64}], [0, 1], sure=0.991)
    assert pseudo.suspicious(votes)[["row", "agreement"]].to_numpy().tolist() == [[0, 1]]


def test_suspicious_needs_labels():
    with pytest.raises(ValueError, match="1 of 2 photos have no label"):
        pseudo.suspicious(made([{1: 4}, {2: 4}], [1, -1]))
