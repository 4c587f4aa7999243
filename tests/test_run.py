"""The whole run on small photos: files, reproducibility, bad input, and what survives a failure."""

import json
import os
import re
import shutil
import signal
from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest
import small
from conftest import easy_competition, write_photo

from carcls import config
from carcls import machine as runtime
from carcls import network as members
from carcls import record as steps
from carcls.config import Config
from carcls.data import augment, photos
from carcls.data import files as inputs
from carcls.desk import cli
from carcls.errors import ConfigError, InputError, Stopped, TrainingDiverged
from carcls.nets import model, schedule
from carcls.spine import _identity, _stoppable, run, source_hash
from carcls.train import loop as train
from carcls.train import watchers as callbacks
from carcls.votes import pseudo, votes


@pytest.fixture
def cfg(competition, tmp_path, tiny) -> Config:
    return config.parse(
        {
            "data": str(competition),
            "out": str(tmp_path / "out"),
            "weights": "none",
            "backbone": tiny,
            "stages": "32x48x2,48x64x2",
            "batch": 8,
            "lr": 0.02,
            "tta_views": 4,
            "val_fraction": 0.25,
        }
    )


@pytest.fixture
def pretrained(cfg, tmp_path) -> Config:
    """With weights of its own, 60 photos, 45 of them to train, and an hour."""
    data = easy_competition(tmp_path / "more", 60, 10)
    return cfg.replace(
        data=str(data), weights=str(small.saved(tmp_path / "tiny.weights.h5")), budget_minutes=60.0
    )


@pytest.fixture
def rebased(monkeypatch) -> list:
    """The batches that BN was rebased on, before the time is planned; the run ends there."""
    seen: list = []

    def measured(_):
        raise Stopped("enough")

    monkeypatch.setattr(
        model, "rebase_batch_norms", lambda net, batches: seen.append(list(batches)) or 2
    )
    monkeypatch.setattr(train._Training, "_measure", measured)
    return seen


@pytest.mark.parametrize(
    ("settings", "times"),
    [
        ({}, 1),
        ({"bn_photos": 0}, 0),
        ({"freeze_bn": True}, 0),
        ({"unfreeze": "head"}, 0),
        ({"weights": "none"}, 0),
    ],
    ids=lambda value: "-".join(value) or "default" if isinstance(value, dict) else "",
)
def test_bn_is_rebased_where_there_is_something_to_keep_and_it_trains(
    pretrained, rebased, settings, times
):
    with pytest.raises(Stopped):
        run(pretrained.replace(**{"batch": 5, "bn_photos": 32, **settings}))
    assert len(rebased) == times
    for batches in rebased:
        assert [batch.shape for batch in batches] == [(5, 32, 48, 3)] * 7


def test_bn_is_rebased_on_fewer_photos_where_time_is_short(pretrained, rebased, monkeypatch):
    monkeypatch.setattr(train, "_REBASE_SHARE", 0.0)
    with pytest.raises(Stopped):
        run(pretrained.replace(batch=32))
    ((batch,),) = rebased
    assert batch.shape == (8, 32, 48, 3)


def test_a_run_leaves_everything_and_the_same_seed_the_same_submission(cfg, tmp_path, capsys):
    target = run(
        cfg.replace(monitor_url="http://127.0.0.1:1")
    )  # S46: nobody is there, and nothing else changes
    said = capsys.readouterr().out
    assert said.count("monitor http://127.0.0.1:1: ") == 1
    out = tmp_path / "out"
    assert target == out / "submission.csv"
    submission = pd.read_csv(target)
    assert (
        submission["Id"].tolist() == pd.read_csv(f"{cfg.data}/sample-submission.csv")["Id"].tolist()
    )
    assert set(submission["Category"]) <= {0, 1, 2}

    cast = votes.load(out / "member1" / "votes_test.npz")
    assert cast.probs.shape == (4, 10, 3)
    result = json.loads((out / "result.json").read_text())
    (gate,) = result["gates"]
    probs = cast.combined() if gate["open"] else cast.probs[0]
    assert (submission.set_index("Id")["Category"].loc[cast.ids] == probs.argmax(1)).all()
    truth = result["validation_photos"]
    assert votes.load(out / "member1" / "votes_validation.npz").probs.shape == (4, truth, 3)
    assert f"{result['validation_accuracy']:.4f} accuracy" in said
    assert result["settings"]["stages"] == [
        {"height": 32, "width": 48, "epochs": 2},
        {"height": 48, "width": 64, "epochs": 2},
    ]

    history = pd.read_csv(out / "member1" / "history.csv")
    assert history["stage"].tolist() == [1, 1, 2, 2]
    assert history["seconds"].gt(0).all()  # S17
    assert config.load(out / "config.json").replace(monitor_url="") == cfg
    assert result["source"] == source_hash()  # S75
    assert gate["reason"] in said  # S50
    events = [
        json.loads(line)["kind"] for line in (out / "progress.jsonl").read_text().splitlines()
    ]
    assert events == ["start", *["epoch"] * 4, "end"]
    pictures = [p.relative_to(out) for p in out.rglob("*.png")]
    for name in (
        "confusion",
        "errors",
        "augmentation",
        "tta_curve",
        "member1/curves",
        "member1/matrix",
        "member1/disputed",
    ):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"{name}.png" in said
    page = (out / "report.html").read_text()
    assert (
        page.count("data:image/png") == page.count("<figcaption>") == len(pictures)
    )  # S9: each says what it shows
    assert {"best.weights.h5", "last.weights.h5"} <= {p.name for p in (out / "member1").iterdir()}
    assert {"audit.csv", "photos.csv", "labels.csv"} <= {p.name for p in out.iterdir()}
    about = json.loads((out / "submission.json").read_text())
    assert about["validation_accuracy"] == result["validation_accuracy"]
    assert about["rows"] == 10
    # A valid submission from the first epoch on, replaced as better-founded ones come (each is
    # announced).
    found = re.findall(r"submission submission.csv: (.*); validation", said)
    assert [line.split(", ")[0] for line in found] == [
        "member 1: first epoch",
        "member 1: best epoch of stage 1",
        "one member",
    ]
    assert not [p.name for p in out.rglob("*.part*")]

    again = run(cfg.replace(out=str(tmp_path / "again")))
    assert again.read_bytes() == target.read_bytes()
    assert (votes.load(tmp_path / "again" / "member1" / "votes_test.npz").probs == cast.probs).all()
    capsys.readouterr()
    assert cli.main(["votes", str(out)]) == 0  # the same tables from the files alone
    table = capsys.readouterr().out
    assert f"validation {result['validation_accuracy']:.4f}: {result['made_by']}" in table
    assert gate["reason"] in table
    assert "view 3 alone" in table


def test_the_best_epoch_counts_and_the_last_one_is_kept_beside_it(
    cfg, tmp_path, monkeypatch
):  # S37
    # As if the loss should be high: then the first epoch is the best.
    monkeypatch.setattr(callbacks, "rank", lambda logs: (float(logs["val_loss"]), 0.0))
    strengths, policy = [], augment.policy

    def asked(name, height, width, fit, strength):
        strengths.append(strength)
        return policy(name, height, width, fit, strength)

    monkeypatch.setattr(augment, "policy", asked)
    run(
        cfg.replace(
            stages="48x64x3",
            label_smoothing=0,
            tta="never",
            strength=0.9,
            strength_end=0.3,
            tta_strength=0.3,
        )
    )
    folder = tmp_path / "out" / "member1"
    history = pd.read_csv(folder / "history.csv")
    assert history["best"].tolist() == [True, False, False]
    cast = votes.load(folder / "votes_validation.npz")
    assert votes.log_loss(cast.probs[0], cast.labels) == pytest.approx(
        history["val_loss"][0], rel=1e-3
    )
    assert weights_in(folder / "best.weights.h5") != weights_in(folder / "last.weights.h5")
    assert {round(s, 3) for s in strengths} == {0.9, 0.6, 0.3}  # S20


def test_members_are_blended_and_disputed_photos_get_more_views(cfg, tmp_path, capsys):
    run(
        cfg.replace(
            members="seed=1+seed=2/pooling=max",
            stages="32x48x1",
            tta_views=2,
            tta_cap=8,
            blend="0.75/0.25",
            val_fraction=0.4,
        )
    )
    out = tmp_path / "out"
    result = json.loads((out / "result.json").read_text())
    assert [m["name"] for m in result["members"]] == ["1 tiny seed=1", "2 tiny seed=2 pooling=max"]
    probs = []
    for number, gate in enumerate(result["gates"], 1):
        full = votes.load(out / f"member{number}" / "votes_validation.npz")
        assert set(full.cast) == {8}
        test = votes.load(out / f"member{number}" / "votes_test.npz")
        assert set(test.cast) <= {2, 4, 8}
        again = votes.adapt(test, 2, 8)  # no photo was asked more or less often than the rule says
        assert (again.cast == test.cast).all()
        assert (test.probs[-1][test.cast < len(test.probs)] == 0).all()
        probs.append(test.combined() if gate["open"] else test.probs[0])
    blended = 0.75 * probs[0] + 0.25 * probs[1]
    submission = pd.read_csv(out / "submission.csv").set_index("Id")["Category"]
    assert (submission.loc[test.ids] == blended.argmax(1)).all()
    for saved, number in zip(result["adaptive"], (1, 2), strict=True):
        asked = votes.adapt(votes.load(out / f"member{number}" / "votes_validation.npz"), 2, 8)
        assert saved["passes"] == asked.cast.mean()
    said = capsys.readouterr().out
    assert "members alone" in said
    assert "adaptive:" in said

    shutil.rmtree(out / "member2")  # a run that was stopped before it
    assert cli.main(["votes", str(out)]) == 0
    assert "1 of 2 members: the run has not finished more" in capsys.readouterr().out
    rows = pd.read_csv(out / "photos.csv")
    rows.query("fold != 0").to_csv(out / "photos.csv", index=False)
    assert cli.main(["votes", str(out)]) == 2
    assert "photos.csv: no row of " in capsys.readouterr().err
    (out / "member1" / "votes_validation.npz").write_bytes(b"")
    assert cli.main(["votes", str(out)]) == 2
    assert "votes_validation.npz: not a file of votes" in capsys.readouterr().err


def test_folds_give_every_train_photo_a_vote_of_a_network_that_did_not_see_it(cfg, tmp_path):
    run(cfg.replace(folds=3, stages="32x48x1", tta_views=2))
    out = tmp_path / "out"
    result = json.loads((out / "result.json").read_text())
    assert result["validation_photos"] == 36
    seen = [
        votes.load(out / "member1" / f"fold{k}" / "votes_validation.npz").ids for k in (1, 2, 3)
    ]
    said = pd.read_csv(out / "photos.csv").groupby("fold")["id"].apply(set)
    assert [said[k] for k in (1, 2, 3)] == [set(ids) for ids in seen]
    assert sum(map(len, seen)) == 36
    assert set().union(*seen) == set(pd.read_csv(f"{cfg.data}/train.csv")["Id"])
    assert cli.main(["votes", str(out), "tta=never"]) == 0


def test_pseudo_labels_go_on_training_and_count_only_if_validation_is_no_worse(
    cfg, tmp_path, monkeypatch, capsys
):
    # 36 photos are too few to know the precision of pseudo-labels, and the real rule then refuses;
    # these are given.
    def three(members, *rest):
        rows = np.array([0, 3, 5])
        ids = tuple(members[0].ids[i] for i in rows)
        return pseudo.Chosen(rows, np.array([2, 0, 1]), ids, "", (), "three photos")

    monkeypatch.setattr(pseudo, "select", three)
    seen = []

    def judge(before, after, how):
        seen.append((before, after))
        return pseudo.Kept(len(seen) == 2, "judged")

    monkeypatch.setattr(pseudo, "keep", judge)
    weights = str(small.saved(tmp_path / "tiny.weights.h5"))
    two = "seed=1+seed=2"
    shares, share = [], schedule.Budget.share

    def shared(self, networks):
        shares.append(networks)
        return share(self, networks)

    monkeypatch.setattr(schedule.Budget, "share", shared)
    run(
        cfg.replace(
            pseudo=True,
            pseudo_epochs=1,
            stages="32x48x2",
            members=two,
            val_fraction=0.4,
            weights=weights,
            refit_epochs=1,
            blend="average",
            budget_minutes=60.0,
            pseudo_lr=0.2,
            refit_lr=0.4,
        )
    )
    out = tmp_path / "out"
    # Of 4 epochs of training, 2 with pseudo-labels, and 2 of refit with 36 photos instead of 21.
    each = 1 / 0.6
    trained, pseudo_labels = [2 + 1 + each, 1 + 1 + each], [2 + 2 * each, 1 + 2 * each]
    assert shares == pytest.approx([*trained, *pseudo_labels, 2, 1])
    assert (
        capsys.readouterr().out.count("batch norm 2 layers") == 2
    )  # what goes on has learned from these photos
    assert len(pd.read_csv(out / "pseudo.csv")) == 3
    assert (seen[0][0].probs != seen[0][1].probs).any()  # it has trained
    for number, inside in ((1, [""]), (2, ["pseudo"])):
        assert len(pd.read_csv(out / f"member{number}" / "pseudo" / "history.csv")) == 1
        assert json.loads((out / f"member{number}" / "member.json").read_text())["votes"] == inside
    result = json.loads((out / "result.json").read_text())
    assert result["pseudo"]["kept"] == [False, True]
    assert result["made_by"].endswith(
        "after pseudo-labels, then 2 of 2 refitted on all 36 labelled photos (measured before)"
    )
    facts = [
        [
            json.loads((out / f"member{n}" / inside / "steps.json").read_text())["training"][
                "facts"
            ]
            for n in (1, 2)
        ]
        for inside in ("pseudo", "refit")
    ]
    assert [about["lr"] for both in facts for about in both] == [cfg.lr * 0.2] * 2 + [
        cfg.lr * 0.4
    ] * 2
    facts = facts[1]
    assert (
        facts[0]["the photos"] != facts[1]["the photos"]
    )  # with pseudo-labels again where they were kept
    for n, inside in enumerate(("", "pseudo")):
        start = out / f"member{n + 1}" / inside / "best.weights.h5"
        assert facts[n]["the starting weights"] == steps.digest_of(start)
    assert json.loads((out / "submission.json").read_text())["made_by"] == result["made_by"]
    assert "judged" in (out / "report.html").read_text()
    assert cli.main(["votes", str(out)]) == 0


def test_refused_pseudo_labels_change_nothing(cfg, tmp_path, capsys):
    run(cfg.replace(pseudo=True, stages="32x48x1"))
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["pseudo"]["photos"] == 0
    assert result["pseudo"]["chosen"].startswith(
        "pseudo-labels refused: "
    )  # nine validation photos say too little
    assert "pseudo" not in result["made_by"]
    assert result["pseudo"]["chosen"] in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "out" / "pseudo.csv")) == 0


def weights_in(path) -> dict:
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.update(
                {name: item[()].tobytes()} if hasattr(item, "shape") else {}
            )
        )
    return found


def test_refit_trains_on_the_validation_photos_too_after_they_have_measured(
    cfg, tmp_path, monkeypatch, capsys
):
    plain = cfg.replace(
        stages="32x48x2",
        val_fraction=0.4,
        blend="average",
        members="seed=1+seed=2/schedule=plateau/patience=1/min_epochs=0",
    )
    before = run(plain).read_bytes()
    out = tmp_path / "out"
    measured = json.loads((out / "result.json").read_text())
    loaded = [members.load(plain, n, out) for n in (0, 1)]
    real, judged, reasons = members.judge, [], []

    def judge(*seen):
        judged.append(seen)
        kept, reason = real(*seen)
        reasons.append(reason)
        return (kept, reason) if len(judged) % 2 else (False, "not kept: judged")

    monkeypatch.setattr(members, "judge", judge)
    refit = plain.replace(refit_epochs=3, refit_lr=1)
    capsys.readouterr()
    target = run(refit)
    said = capsys.readouterr().out
    assert said.count("done before") == 2  # what is there is gone on from
    assert "epoch 3/3" in said
    assert "val acc" not in said  # of photos that the network has seen
    assert "no labelled photo is left to measure" in said
    photos = pd.read_csv(out / "photos.csv")
    labelled = photos[photos["fold"] >= 0].sort_values("fold", ascending=False, kind="stable")
    learned = steps.rows(*(labelled[name] for name in ("id", "label", "digest")), *[[]] * 3)
    for n in (1, 2):
        inside = out / f"member{n}" / "refit"
        assert (
            json.loads((inside / "steps.json").read_text())["training"]["facts"]["the photos"]
            == learned
        )
        history = pd.read_csv(inside / "history.csv")
        assert history["val_accuracy"].isna().tolist() == [True] * 3  # whatever patience says
        assert weights_in(inside / "best.weights.h5") == weights_in(
            inside / "last.weights.h5"
        )  # its last epoch counts
    after = [votes.load(out / f"member{n}" / "refit" / "votes_test.npz") for n in (1, 2)]
    now = [members.load(refit, n, out) for n in (0, 1)]
    for n, expected in enumerate((after[0], loaded[1].test[0])):
        np.testing.assert_array_equal(now[n].test[0].probs, expected.probs)
        np.testing.assert_array_equal(now[n].val.probs, loaded[n].val.probs)
        # What is submitted is judged: with a closed gate the photo alone.
        used = [
            v.probs.mean(0) if measured["gates"][n]["open"] else v.probs[0]
            for v in (loaded[n].test[0], after[n])
        ]
        for found, probs in zip(judged[n][2:], used, strict=True):
            np.testing.assert_allclose(found, probs, rtol=1e-6)
        assert (used[0] != used[1]).any()
    assert set(now[0].histories) == {"", "refit"}
    result = json.loads((out / "result.json").read_text())
    assert result["refit"] == {
        "photos": 36,
        "kept": [True, False],
        "reasons": [reasons[0], "not kept: judged"],
    }
    assert result["validation_accuracy"] == measured["validation_accuracy"]
    refitted = (
        f"{measured['made_by']}, then 1 of 2 refitted on all 36 labelled photos (measured before)"
    )
    assert result["made_by"] == refitted
    assert reasons[0] in (out / "report.html").read_text()
    assert cli.main(["votes", str(out)]) == 0

    again = target.read_bytes()
    assert run(refit).read_bytes() == again
    assert "images/s" not in capsys.readouterr().out
    monkeypatch.setattr(members, "refit", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # stopped on the way there: what was submitted stays
        run(refit)
    assert target.read_bytes() == again
    assert json.loads((out / "submission.json").read_text())["made_by"] == refitted
    assert run(plain).read_bytes() == before


def test_a_member_that_the_blend_does_not_use_is_not_refitted(cfg, tmp_path):
    run(
        cfg.replace(
            stages="32x48x1", val_fraction=0.4, members="seed=1+seed=2", blend="0/1", refit_epochs=1
        )
    )
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["refit"]["reasons"][0] == "not refitted: the blend does not use it"
    assert result["refit"]["kept"] == [False, True]
    assert [(tmp_path / "out" / f"member{n}" / "refit").exists() for n in (1, 2)] == [False, True]
    assert "Epochs refit" in (tmp_path / "out" / "report.html").read_text()
    assert not [*(tmp_path / "out").rglob("curves.png")]  # of one epoch each


def test_a_refit_that_differs_more_than_its_error_allows_is_not_kept():
    def said(*counts: int) -> np.ndarray:
        return np.repeat(np.eye(3, dtype=np.float32), counts, 0)

    # Right on 90 of 100, so wrong on 0.174 at most: 17.4 of 50 may change.
    changed = "{} of 50 test photos change their class"
    assert members.judge(90, 100, said(50, 0, 0), said(33, 17, 0)) == (
        True,
        f"kept: {changed.format(17)}",
    )
    kept, why = members.judge(90, 100, said(50, 0, 0), said(32, 18, 0))
    assert (kept, why) == (
        False,
        f"not kept: {changed.format(18)}; with an error like the one measured 17 could",
    )
    # A network that is wrong on half of them may differ on all, but not say one class of all.
    assert members.judge(50, 100, said(20, 20, 10), said(4, 46, 0)[::-1]) == (
        False,
        f"not kept: {changed.format(30)}, nearly all of them to one",
    )
    assert members.judge(50, 100, said(48, 2, 0), said(50, 0, 0))[0]  # as before
    broken = said(50, 0, 0)
    broken[3, 1] = np.nan
    assert members.judge(90, 100, said(50, 0, 0), broken) == (
        False,
        "not kept: some probabilities are not finite",
    )


def test_a_refit_that_diverges_changes_nothing(cfg, tmp_path, monkeypatch):
    plain = cfg.replace(stages="32x48x1")
    before = run(plain).read_bytes()

    def diverges(*rest, start=None, **more):
        assert start is not None
        raise TrainingDiverged("the loss is nan")

    monkeypatch.setattr(train, "fit", diverges)
    assert run(plain.replace(refit_epochs=1)).read_bytes() == before
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["refit"]["reasons"] == [
        "not kept: training on all photos diverged (the loss is nan); try a smaller refit_lr"
    ]
    assert "refitted" not in result["made_by"]


def test_settings_that_change_training_run_too(cfg, tmp_path):
    out = run(
        cfg.replace(
            ema=0.9,
            mixup=0.2,
            label_smoothing=0.1,
            schedule="plateau",
            optimizer="sgd",
            fit="crop",
            unfreeze="staged",
            augment="medium",
            tensorboard=True,
            patience=1,
            min_epochs=1,
            refit_epochs=2,
        )
    ).parent
    assert json.loads((out / "result.json").read_text())["refit"]["kept"] == [True]
    assert list((out / "member1" / "tensorboard").rglob("events.out.tfevents.*"))  # S45
    assert (out / "submission.csv").is_file()


def test_an_unreadable_test_photo_still_gets_its_row_and_a_warning(cfg, competition, capsys):
    (competition / "test_upload" / "903.png").write_bytes(b"not a photo")
    (competition / "test_upload" / "904.png").unlink()
    target = run(cfg.replace(stages="32x48x1"))
    assert len(pd.read_csv(target)) == 10
    audit = pd.read_csv(target.parent / "audit.csv").set_index("id")["finding"]
    assert {"903.png", "904.png"} <= set(audit.index)
    assert "903.png" in capsys.readouterr().out


def test_string_labels_and_two_classes_go_through(cfg, tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "flat"
    rows = []
    for n in range(24):
        kind = ("van", "suv")[n % 2]
        write_photo(
            root / "train" / f"{n}.png",
            rng.integers(0, 120, (40, 50, 3), np.uint8) + np.uint8(100 * (n % 2)),
        )
        rows.append((n, kind))
    for n in range(50, 53):
        write_photo(root / "test" / f"{n}.png", rng.integers(0, 120, (40, 50, 3), np.uint8))
    pd.DataFrame(rows, columns=["key", "kind"]).to_csv(root / "train.csv", index=False)
    pd.DataFrame({"key": [52, 50, 51], "kind": "van"}).to_csv(
        root / "sample_submission.csv", index=False
    )
    target = run(cfg.replace(data=str(root), stages="32x48x1", tta_views=1))
    assert votes.load(target.parent / "member1" / "votes_test.npz").probs.shape == (1, 3, 2)
    made = pd.read_csv(target)
    assert list(made.columns) == ["key", "kind"]
    assert made["key"].tolist() == [52, 50, 51]
    assert set(made["kind"]) <= {"van", "suv"}


def test_what_can_be_known_early_fails_before_anything_is_made_or_lost(cfg, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "submission.csv").write_text("earlier")
    with runtime.alone(out), pytest.raises(InputError, match=f"out={out}: another run is at work"):
        run(cfg)
    assert not (out / ".scratch").exists()  # what that run has unpacked is its own
    for change, error, said in (
        ({"backbone": "resnet9000"}, ConfigError, "backbone='resnet9000'.*expected one of"),
        ({"augment": "wild", "tta_views": 1}, ConfigError, "augment='wild'"),
        ({"data": str(tmp_path / "none")}, InputError, "none"),
        (
            {"backbone": "efficientnet_lite_b1", "weights": str(tmp_path / "w.h5")},
            InputError,
            "w.h5",
        ),
    ):
        with pytest.raises(error, match=said):
            run(cfg.replace(**change))
    assert [p.name for p in out.iterdir() if p.is_file()] == ["submission.csv"]
    assert (out / "submission.csv").read_text() == "earlier"


def test_what_timing_says_of_xla_is_what_every_member_computes_with(cfg, monkeypatch):
    from carcls import network as members
    from carcls.train import clock as timing

    class SeenError(Exception):
        pass

    def make(cfg, number, rt, *rest):
        raise SeenError(rt.reasons)

    monkeypatch.setattr(timing, "xla", lambda cfg, rt, *rest: replace(rt, reasons=("as timed",)))
    monkeypatch.setattr(members, "make", make)
    with pytest.raises(SeenError, match="as timed"):
        run(cfg)


def test_a_diverged_run_names_where_and_keeps_an_earlier_submission(cfg, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "submission.csv").write_text("earlier")
    words = [
        f"{k}={v}"
        for k, v in cfg.model_dump().items()
        if k in ("weights", "backbone", "data", "out")
    ]
    # Next to the largest float32: with 1e30 the loss of this network stays finite on some
    # processors.
    assert (
        cli.main(
            ["run", *words, "stages=32x48x3", "batch=8", "lr=3e38", "optimizer=sgd", "warmup=0"]
        )
        == 3
    )
    assert "learning rate" in capsys.readouterr().err
    assert json.loads((out / "progress.jsonl").read_text().splitlines()[-1])["kind"] == "failed"
    # Had the first epoch's network predicted numbers, the earlier one would be beside its
    # submission.
    kept = out / "submission.earlier1.csv"
    assert (kept if kept.exists() else out / "submission.csv").read_text() == "earlier"


def test_a_training_outlives_another_that_diverges_at_once(cfg, monkeypatch, capsys):
    cfg = cfg.replace(stages="32x48x2", tta_views=1)
    diverging = cfg.replace(lr=3e38, optimizer="sgd", warmup=0)
    save = steps.States.save

    def stopped(*args):
        save(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(steps.States, "save", stopped)
        run(cfg)
    with pytest.raises(TrainingDiverged):
        run(diverging)
    assert "resumed" not in capsys.readouterr().out
    run(cfg)
    assert "resumed    after 1 epochs" in capsys.readouterr().out
    with pytest.raises(TrainingDiverged):
        run(diverging)
    assert "done before" not in capsys.readouterr().out
    assert cli.main(["votes", cfg.out]) == 2  # config.json is of the one that has no votes
    assert "member1: not what a member of a finished run leaves" in capsys.readouterr().err
    run(cfg)
    said = capsys.readouterr().out
    assert "done before in" in said
    assert said.count("cast before") == 2


def test_what_may_differ_between_sessions_makes_no_other_run(cfg):
    table = photos.load(cfg, inputs.locate(cfg))
    first = _identity(cfg, table)
    assert (
        _identity(
            cfg.replace(out="elsewhere", earlier="out", budget_minutes=5, tensorboard=True), table
        )
        == first
    )
    assert _identity(cfg.replace(lr=1e-4), table) != first
    anew = cfg.replace(resume=False)
    assert (
        len({first, _identity(anew, table), _identity(anew.replace(budget_minutes=5), table)}) == 3
    )
    assert (
        _identity(cfg, photos.load(cfg.replace(seed=2), inputs.locate(cfg))) != first
    )  # another split


def test_a_folder_in_the_place_of_a_file_is_named(cfg, tmp_path, capsys):
    (tmp_path / "out" / "photos.csv").mkdir(parents=True)
    assert (
        cli.main(
            ["run", f"data={cfg.data}", f"out={tmp_path / 'out'}", "backbone=tiny", "weights=none"]
        )
        == 2
    )
    assert re.fullmatch(r"carcls: .*photos\.csv.*: Is a directory\n", capsys.readouterr().err)


def test_the_command_line_says_what_is_wrong_in_one_line(capsys):
    assert cli.main(["run", "--data", "nowhere", "lr=fast"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("carcls: lr='fast'")
    assert err.count("\n") == 1
    assert cli.main(["run", "--out", "here", "out=there"]) == 2
    assert "out=there beside --out here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["votes", "nowhere"], "nowhere: no config.json; expected the folder of a run"),
        (["votes", "tta=never"], "out: no config.json; expected the folder of a run"),
        (["votes", "nowhere", "lr=1", "tta"], "lr, tta: expected tta=, tta_combine= or blend="),
        (["bench", "--data", "nowhere"], "data=nowhere: does not exist"),
        (["push", "--no-push", "preset=nope"], "preset='nope': no such preset"),
        (
            ["run", "--data", "{data}", "weights="],
            "weights is empty; expected imagenet, none or a path",
        ),
        (
            ["run", "--data", "{data}", "augment=heavy"],
            "tta_views 8 with augment heavy: the views are drawn from light",
        ),
        (
            ["run", "--data", "{data}", "augment=heavy", "tta_views=1"],
            "augment='heavy': expected light, medium, none or",
        ),
    ],
)
def test_a_wrong_word_is_named_before_anything_starts(
    words, said, cfg, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    assert cli.main([word.format(data=cfg.data) for word in words]) == 2
    assert capsys.readouterr().err.startswith(f"carcls: {said}")
    assert set(tmp_path.iterdir()) == before


def test_help_lists_every_setting_with_its_default(capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    said = capsys.readouterr().out
    for name, field in Config.model_fields.items():
        assert f"  {name}=" in said
        assert field.description in said
    assert all(f"  {name}" in said for name in config.PRESETS)


def test_preview_writes_the_grid(cfg, tmp_path, capsys):
    assert (
        cli.main(["preview", "--data", cfg.data, "--out", str(tmp_path / "look"), "stages=48x64x1"])
        == 0
    )
    path = tmp_path / "look" / "augmentation.png"
    assert str(path) in capsys.readouterr().out
    assert path.stat().st_size > 5000


def test_a_stop_that_became_another_error_on_its_way_is_a_stop():
    with pytest.raises(Stopped, match="SIGTERM"), _stoppable():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Stopped:
            raise SystemError("bad argument to internal function") from None
    with pytest.raises(SystemError), _stoppable():
        raise SystemError("its own")
