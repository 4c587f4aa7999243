"""A run from a folder of photos to submission.csv: what it leaves, keeps, refuses and outlives."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import IdleSteps, write_photo
from killed import stopped_after
from test_resume import arrays_in

from carcls import config, jobs, metrics, network, record, run
from carcls.config import Config
from carcls.data import photos
from carcls.data.photos import Rows
from carcls.desk import cli
from carcls.errors import ConfigError, InputError, TrainingDiverged
from carcls.train import loop
from carcls.votes import evidence, pseudo, votes
from carcls.votes.votes import Votes


def read(path: Path):
    return json.loads(path.read_text())


def predictions(out: Path, ids: list[str]) -> np.ndarray:
    """What submission.csv says of these photos."""
    return pd.read_csv(out / "submission.csv").set_index("Id")["Category"].loc[ids].to_numpy()


class Dice(IdleSteps):
    """Each network says something else of each photo and view, so that it shows which counts."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def predict(self, net, data):
        return tf.constant(
            self.rng.normal(0, 3, (len(data[0][0]), net.output_shape[-1])), "float32"
        )


@pytest.fixture
def dice(brief, monkeypatch) -> Config:
    """Of a run whose networks throw dice."""
    Dice().replace_real_ones(monkeypatch)
    return brief


# --- What a run leaves ----------------------------------------------------------------------------


def test_the_submission_is_what_the_votes_say_in_the_samples_order(finished):
    out, result = finished.out, read(finished.out / "result.json")
    sample = pd.read_csv(f"{finished.cfg.data}/sample-submission.csv")
    assert pd.read_csv(out / "submission.csv")["Id"].tolist() == sample["Id"].tolist()
    test, val = (votes.load(out / "member1" / f"votes_{w}.npz") for w in ("test", "validation"))
    assert test.probs.shape == (4, 10, 3)
    assert val.probs.shape == (4, 9, 3)
    is_open = result["gates"][0]["open"]
    used, checked = (v.together() if is_open else v.alone() for v in (test, val))
    assert (predictions(out, test.ids) == used.argmax(1)).all()
    assert result["validation_accuracy"] == metrics.accuracy(checked, val.labels)
    about = read(out / "submission.json")
    assert about["score"] == result["validation_accuracy"]
    assert about["made_by"] == result["made_by"]


def test_a_run_leaves_its_history_settings_pictures_and_report_and_nothing_half_made(finished):
    out, said = finished.out, finished.said
    result = read(out / "result.json")
    assert pd.read_csv(out / "member1" / "history.csv")["stage"].tolist() == [1, 1, 2, 2]
    assert config.load(out / "config.json") == finished.cfg
    assert Config(**result["settings"]) == finished.cfg
    assert result["source"] == record.source_hash()  # S75
    assert {p.name for p in (out / "member1").iterdir()} >= {"best.weights.h5", "last.weights.h5"}
    assert {p.name for p in out.iterdir()} >= {"audit.csv", "photos.csv", "errors.csv"}
    pictures = list(out.rglob("*.png"))
    assert len(pictures) >= 4
    report = (out / "report.html").read_text()
    assert all(f'data-file="{path.name}"' in report for path in pictures)
    assert f"{out / 'report.html'}, with {len(pictures)} pictures" in said
    assert not [path for path in out.rglob("*") if ".part" in path.name]
    assert said.count("monitor http://127.0.0.1:1: ") == 1  # S46: said once, and no harm


def events_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "progress.jsonl").read_text().splitlines()]


def some(events: list[dict], kind: str) -> list[dict]:
    return [event for event in events if event["kind"] == kind]


def test_a_runs_events_tell_all_of_it_as_its_files_do(finished):
    out, events = finished.out, events_of(finished.out)
    result, about = read(out / "result.json"), read(out / "submission.json")
    idents = [event["id"].split(".") for event in events]
    assert len({ident[0] + ident[1] for ident in idents}) == 1
    assert [int(ident[2]) for ident in idents] == list(range(1, len(events) + 1))
    assert sorted(event["at"] for event in events) == [event["at"] for event in events]
    marked = [line for line in finished.said.splitlines() if line.startswith("~event ")]
    in_log = [{key: event[key] for key in event if key != "caption"} for event in events]
    assert [json.loads(line.split(" ", 3)[3]) for line in marked] == in_log

    start, *_, end = events
    network = {"name": "member 1 tiny", "stages": [[32, 48, 2], [48, 64, 2]]}
    assert (start["kind"], start["networks"], start["ends_at"]) == ("start", [network], None)
    assert start["photos"] == {"train": 27, "validation": 9, "test": 10}
    assert (start["name"], start["metric"]) == ("competition, tiny", "accuracy")
    assert Config(**start["settings"]) == finished.cfg and start["source"] == result["source"]
    names = ["data", "machine", "look", "train member 1 tiny", "decide", "result"]
    assert [event["name"] for event in some(events, "phase")] == names
    assert re.findall(r"^== (.*)", finished.said, re.MULTILINE) == names

    history = pd.read_csv(out / "member1" / "history.csv", float_precision="round_trip")
    told = pd.DataFrame(some(events, "epoch"))
    assert set(told["network"]) == {network["name"]} and set(told["stages"]) == {2}
    assert told[history.columns.tolist()].astype(history.dtypes).equals(history)
    assert told["waiting"].between(0, 1).all() and (told["epochs"] == 2).all()

    offered = some(events, "submission")
    assert [event["early"] for event in offered] == [True, True, False]
    for key in ("made_by", "metric", "score", "rows"):
        assert offered[-1][key] == about[key]
    (verdict,) = some(events, "verdict")
    gate = result["gates"][0]
    assert (verdict["of"], verdict["network"]) == ("views", network["name"])
    why = gate["reason"].partition(": ")[2]
    assert (verdict["accepted"], verdict["reason"]) == (gate["open"], why)
    pictures = some(events, "picture")
    assert sorted(event["file"] for event in pictures) == sorted(
        path.relative_to(out).as_posix() for path in out.rglob("*.png")
    )
    assert all(event["caption"] for event in pictures)

    assert end.keys() - {"id", "kind", "at"} == {
        *("metric", "validation_score", "validation_interval_95", "validation_photos"),
        *("seconds", "made_by", "warnings", "submission"),
    }
    shared = end.keys() & result.keys()
    assert {key: end[key] for key in shared} == {key: result[key] for key in shared}
    assert end["kind"] == "end" and Path(end["submission"]) == out / "submission.csv"


def test_a_run_that_goes_on_tells_as_the_same_run_and_of_a_verdict_once(brief, tmp_path):
    cfg = brief.replace(stages="32x48x2", val_fraction=0.4, members="seed=1+seed=2", pseudo=1)
    cfg = cfg.replace(metric="log_loss", budget_minutes=30)
    with stopped_after(1):
        run(cfg)
    run(cfg)
    events = events_of(tmp_path / "out")
    runs, sessions, _ = zip(*(event["id"].split(".") for event in events), strict=True)
    assert len(set(runs)) == 1
    assert len(set(sessions)) == 2 and len({event["id"] for event in events}) == len(events)
    starts = some(events, "start")
    names = ["member 1 tiny seed=1", "member 2 tiny seed=2"]
    assert [[network["name"] for network in start["networks"]] for start in starts] == [names] * 2
    left = [start["ends_at"] - start["at"] for start in starts]
    assert all(1700 < seconds <= 1800 for seconds in left)
    (failed,) = some(events, "failed")
    assert failed["error"].startswith("KeyboardInterrupt: stopped by hand")
    told = [(event["network"], event["epoch"]) for event in some(events, "epoch")]
    assert told == [(name, epoch) for name in names for epoch in (1, 2)]

    verdicts = some(events, "verdict")
    seen = [(event["of"], event["network"], event["reason"]) for event in verdicts]
    assert len(set(seen)) == len(seen)
    assert {event["of"] for event in verdicts} == {"views", "blend", "temperature", "pseudo"}
    result = read(tmp_path / "out" / "result.json")
    last = {event["of"]: event for event in verdicts}
    assert last["blend"]["reason"].endswith(result["blend_reason"])
    assert last["temperature"]["accepted"] == (result["temperature"] != 1)
    assert (last["pseudo"]["accepted"], last["pseudo"]["reason"]) == (
        result["pseudo"]["photos"] > 0,
        result["pseudo"]["chosen"],
    )
    assert events[-1]["kind"] == "end" and events[-1]["metric"] == "log_loss"


def test_there_is_a_submission_from_the_first_epoch_on_and_better_ones_replace_it(finished):
    offers = re.findall(r"submission submission.csv: (.*); validation", finished.said)
    assert [re.sub(r".*: |,.*", "", offer) for offer in offers] == [
        "first epoch",
        "best epoch of stage 1",
        "one member",
    ]


@pytest.mark.usefixtures("without_pictures")
def test_the_same_seed_gives_the_same_votes_and_submission(finished, tiny, tmp_path):
    again = run(finished.cfg.replace(out=str(tmp_path), monitor_url=""))
    assert again.read_bytes() == (finished.out / "submission.csv").read_bytes()
    one, two = (votes.load(at / "member1" / "votes_test.npz") for at in (finished.out, tmp_path))
    assert (one.probs == two.probs).all()


def test_the_tables_are_made_again_from_the_folder_alone(finished, capsys):
    assert cli.main(["votes", str(finished.out)]) == 0
    said, result = capsys.readouterr().out, read(finished.out / "result.json")
    assert f"{result['validation_accuracy']:.4f}" in said
    assert result["gates"][0]["reason"] in said
    assert "view 3 alone" in said
    assert cli.main(["votes", str(finished.out), "tta=never"]) == 0
    assert cli.main(["votes", str(finished.out), "lr=1"]) == 2
    assert "lr" in capsys.readouterr().err


@pytest.mark.usefixtures("without_pictures")
def test_another_metric_chooses_epochs_and_is_what_is_reported(cfg, capsys):
    cfg = cfg.replace(stages="32x48x3", views=2, metric="f1_macro", class_weights="balanced")
    out = run(cfg).parent
    said, result = capsys.readouterr().out, read(out / "result.json")
    val = votes.load(out / "member1" / "votes_validation.npz")
    used = val.together() if result["gates"][0]["open"] else val.alone()
    assert result["validation_score"] == metrics.f1_macro(used, val.labels)
    assert result["validation_accuracy"] == metrics.accuracy(used, val.labels)
    low, high = result["validation_interval_95"]
    assert result["metric"] == "f1_macro" and 0 <= low <= result["validation_score"] <= high <= 1
    assert (result["temperature"], set(result["calibration_error"])) == (1, {"before", "after"})
    history = pd.read_csv(out / "member1" / "history.csv")
    best = history.sort_values(["val_f1_macro", "val_loss"], ascending=[False, True]).iloc[0]
    assert best["val_f1_macro"] == pytest.approx(
        metrics.f1_macro(val.alone(), val.labels), abs=1e-4
    )
    facts = read(out / "member1" / "steps.json")["training"]["facts"]
    assert (facts["metric"], facts["class_weights"]) == ("f1_macro", "balanced")
    assert f"validation {result['validation_score']:.4f} macro F1, 95 % interval" in said
    assert cli.main(["votes", str(out)]) == 0
    assert f"validation {result['validation_score']:.4f} macro F1" in capsys.readouterr().out


def test_by_log_loss_dice_are_cooled_and_the_temperature_is_left(dice, tmp_path, capsys):
    run(dice.replace(metric="log_loss", val_fraction=0.4, seed=2))
    result = read(tmp_path / "out" / "result.json")
    assert result["temperature"] > 1.5 and "temperature" in result["made_by"]
    assert result["validation_score"] == result["validation_log_loss"] < 2
    errors = result["calibration_error"]
    assert errors["after"] < errors["before"]
    assert "calibration: temperature" in capsys.readouterr().out
    assert cli.main(["votes", str(tmp_path / "out")]) == 0
    assert f"validation {result['validation_score']:.4f} log-loss" in capsys.readouterr().out


# --- Members and folds ----------------------------------------------------------------------------


def test_members_are_blended_and_disputed_photos_get_more_views(dice, tmp_path, capsys):
    members = "seed=1+seed=2/pooling=max"
    cfg = dice.replace(members=members, views="2-8", blend="0.75/0.25", val_fraction=0.4)
    run(cfg)
    out = tmp_path / "out"
    result = read(out / "result.json")
    assert [m["name"] for m in result["members"]] == ["1 tiny seed=1", "2 tiny seed=2 pooling=max"]
    blended = 0
    for number, (gate, share) in enumerate(zip(result["gates"], (0.75, 0.25), strict=True), 1):
        val = votes.load(out / f"member{number}" / "votes_validation.npz")
        assert set(val.n_views) == {8}
        test = votes.load(out / f"member{number}" / "votes_test.npz")
        assert {2} < set(test.n_views) <= {2, 4, 8}
        assert (test.as_asked(cfg.views).n_views == test.n_views).all()  # as the rule says
        blended += share * (test.together() if gate["open"] else test.alone())
    assert (predictions(out, test.ids) == blended.argmax(1)).all()

    # Run folders that are not whole: a run that was stopped, and damaged files.
    shutil.rmtree(out / "member2")
    assert cli.main(["votes", str(out)]) == 0
    assert "1 of 2 members" in capsys.readouterr().out
    rows = pd.read_csv(out / "photos.csv")
    rows.query("fold != 0").to_csv(out / "photos.csv", index=False)
    assert cli.main(["votes", str(out)]) == 2
    assert "photos.csv" in capsys.readouterr().err
    (out / "member1" / "votes_validation.npz").write_bytes(b"")
    assert cli.main(["votes", str(out)]) == 2
    assert "votes_validation.npz" in capsys.readouterr().err


def test_folds_give_every_train_photo_a_vote_of_a_network_that_did_not_see_it(dice, tmp_path):
    cfg = dice.replace(folds=3, views=2)
    run(cfg)
    out = tmp_path / "out"
    assert read(out / "result.json")["validation_photos"] == 36
    paths = [out / "member1" / f"fold{k}" / "votes_validation.npz" for k in (1, 2, 3)]
    seen = [set(votes.load(path).ids) for path in paths]
    by_fold = pd.read_csv(out / "photos.csv").groupby("fold")["id"].apply(set)
    assert [by_fold[k] for k in (1, 2, 3)] == seen
    assert sum(map(len, seen)) == 36
    assert set().union(*seen) == set(pd.read_csv(f"{cfg.data}/train.csv")["Id"])
    tests = [votes.load(path.with_name("votes_test.npz")) for path in paths]
    used = [t.together() if read(out / "result.json")["gates"][0]["open"] else t.alone()
            for t in tests]  # fmt: skip
    assert (predictions(out, tests[0].ids) == np.mean(used, 0).argmax(1)).all()
    assert cli.main(["votes", str(out), "tta=never"]) == 0


def test_members_are_not_compared_over_folds_that_one_of_them_lacks(
    brief, tmp_path, monkeypatch, capsys
):
    cfg = brief.replace(folds=2, views=2, members="seed=1+seed=2")
    run(cfg)
    train, rest = loop.train, iter(range(10))
    # Anew, and without time for the second fold: the folder has the other member's of before.
    monkeypatch.setattr(loop, "train", lambda *args: None if next(rest) else train(*args))
    target = run(cfg.replace(resume=False))
    assert next(rest) == 2  # the second member was not begun
    result = read(target.parent / "result.json")
    assert [m["name"] for m in result["members"]] == ["1 tiny seed=1"]
    assert result["validation_photos"] == 18
    capsys.readouterr()
    assert cli.main(["votes", str(tmp_path / "out")]) == 0
    assert "1 of 2 members" in capsys.readouterr().out


# --- More photos: pseudo-labels and refit ---------------------------------------------------------


def test_pseudo_labels_count_where_validation_is_better_and_the_refit_takes_them_up(
    brief, tmp_path, monkeypatch
):
    # 36 photos are too few to know the precision of pseudo-labels, and the real rule refuses them.
    def choose(members, gates, table, views, metric):
        some = table.rows(photos.TEST).take(np.array([0, 3, 5]))
        rows = Rows(some.rows, np.array([2, 0, 1]))
        return pseudo.Chosen(rows, np.array([0, 3, 5]), "", [], "three photos")

    judged = []

    def change_from(self, before, metric):
        judged.append((before, self))
        return evidence.Change(len(judged) - 1, 0, 1.0, 1.0)  # the second one helps

    monkeypatch.setattr(pseudo, "choose", choose)
    monkeypatch.setattr(Votes, "change_from", change_from)
    two = {"members": "seed=1+seed=2", "blend": "average", "val_fraction": 0.4}
    run(brief.replace(pseudo=1, refit_epochs=1, **two))
    out = tmp_path / "out"
    assert len(pd.read_csv(out / "pseudo.csv")) == 3
    assert (judged[0][0].probs != judged[0][1].probs).any()  # it has trained
    result = read(out / "result.json")
    assert result["pseudo"]["kept"] == [False, True]
    verdicts = some(events_of(out), "verdict")
    judgements = [(e["network"], e["accepted"]) for e in verdicts if e["of"] == "pseudo"]
    names = ["", "member 1 tiny seed=1", "member 2 tiny seed=2"]
    assert judgements == list(zip(names, [True, False, True], strict=True))
    assert [e["network"] for e in verdicts if e["of"] == "refit"] == names[1:]
    assert read(out / "submission.json")["made_by"] == result["made_by"]
    assert "after pseudo-labels" in result["made_by"]
    for number, networks in enumerate((["."], ["pseudo"]), 1):
        assert read(out / f"member{number}" / "member.json")["networks"] == networks
    facts = {
        (number, inside): read(out / f"member{number}" / inside / "steps.json")["training"]["facts"]
        for number in (1, 2)
        for inside in ("", "pseudo", "refit")
    }
    for number, start in ((1, ""), (2, "pseudo")):
        rates = [facts[number, inside]["lr"] / brief.lr for inside in ("pseudo", "refit")]
        assert rates == pytest.approx([jobs.PSEUDO_RATE, jobs.REFIT_RATE])
        best = out / f"member{number}" / start / "best.weights.h5"
        assert facts[number, "refit"]["the first weights"] == record.digest_of(best)
    # Pseudo-labels are used again where they were kept.
    assert facts[1, "refit"]["the photos"] != facts[2, "refit"]["the photos"]


def test_refused_pseudo_labels_change_nothing(brief, tmp_path):
    run(brief.replace(pseudo=1))
    result = read(tmp_path / "out" / "result.json")
    assert result["pseudo"]["photos"] == 0  # nine validation photos say too little
    assert "pseudo" not in result["made_by"]
    assert not (tmp_path / "out" / "member1" / "pseudo").exists()
    assert len(pd.read_csv(tmp_path / "out" / "pseudo.csv")) == 0


def test_a_refit_learns_all_labelled_photos_once_they_have_measured(
    brief, tmp_path, monkeypatch, capsys
):
    two = "seed=1+seed=2/schedule=plateau/patience=1"
    plain = brief.replace(val_fraction=0.4, blend="average", members=two)
    run(plain)
    out = tmp_path / "out"
    measured, loaded = read(out / "result.json"), network.load_members(plain, out)
    judged = []

    def moved_too_far(*seen):
        judged.append(seen)
        return "judged" if len(judged) % 2 == 0 else ""

    monkeypatch.setattr(evidence, "moved_too_far", moved_too_far)
    capsys.readouterr()
    refit = plain.replace(refit_epochs=3)
    target = run(refit)
    said = capsys.readouterr().out
    assert said.count("done before") == 2  # what is there is gone on from
    assert "val acc" not in said  # of photos that the network has seen
    frame = pd.read_csv(out / "photos.csv").query("fold >= 0")
    learned = frame.sort_values("fold", ascending=False, kind="stable")
    digest = record.rows(*(learned[name] for name in ("id", "label", "digest")), *[[]] * 3)
    refitted = [out / f"member{n}" / "refit" for n in (1, 2)]
    for folder in refitted:
        assert read(folder / "steps.json")["training"]["facts"]["the photos"] == digest
        history = pd.read_csv(folder / "history.csv")
        assert history["val_accuracy"].isna().tolist() == [True] * 3  # whatever patience says
        best, last = (arrays_in(folder / f"{which}.weights.h5") for which in ("best", "last"))
        assert best == last  # its last epoch counts
    after = [votes.load(folder / "votes_test.npz") for folder in refitted]
    for n, expected in enumerate((after[0], loaded[1].test[0])):
        now = network.load_members(refit, out)[n]
        np.testing.assert_array_equal(now.test[0].probs, expected.probs)
        np.testing.assert_array_equal(now.val.probs, loaded[n].val.probs)
        # What is submitted is judged: with a closed gate the photo alone.
        is_open = measured["gates"][n]["open"]
        for found, seen in zip(judged[n][2:], (loaded[n].test[0], after[n]), strict=True):
            np.testing.assert_allclose(found, seen.together() if is_open else seen.alone())
    result = read(out / "result.json")
    assert result["refit"]["photos"] == 36
    assert result["refit"]["kept"] == [True, False]
    assert "judged" in result["refit"]["reasons"][1]
    assert result["validation_accuracy"] == measured["validation_accuracy"]
    assert "1 of 2 refitted on all 36 labelled photos" in result["made_by"]
    assert cli.main(["votes", str(out)]) == 0

    again = target.read_bytes()
    capsys.readouterr()
    assert run(refit).read_bytes() == again
    assert "images/s" not in capsys.readouterr().out
    monkeypatch.setattr(jobs, "refit", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # stopped on the way there: what was submitted stays
        run(refit)
    assert target.read_bytes() == again


def test_a_member_stays_as_it_is_if_the_blend_leaves_it_out_or_its_refit_diverges(
    dice, tmp_path, monkeypatch
):
    def diverging(s, job, *rest):
        if job.folder.name == "refit":
            raise TrainingDiverged("the loss is nan", "try")
        return train(s, job, *rest)

    train, out = loop.train, tmp_path / "out"
    two = {"members": "seed=1+seed=2", "blend": "0/1", "val_fraction": 0.4}
    for diverges in (True, False):  # the second time only the refit is made
        monkeypatch.setattr(loop, "train", diverging if diverges else train)
        run(dice.replace(refit_epochs=1, **two))
        result = read(out / "result.json")
        assert result["refit"]["kept"] == [False, not diverges]
        assert ("diverged (the loss is nan)" in result["refit"]["reasons"][1]) == diverges
        assert ("refitted" in result["made_by"]) == (not diverges)
        assert not (out / "member1" / "refit").exists()
        test = votes.load(out / "member2" / ("" if diverges else "refit") / "votes_test.npz")
        used = test.together() if result["gates"][1]["open"] else test.alone()
        assert (predictions(out, test.ids) == used.argmax(1)).all()


# --- Odd input, and what can be known early -------------------------------------------------------


def test_an_unreadable_test_photo_still_gets_its_row(brief, competition):
    (competition / "test_upload" / "903.png").write_bytes(b"not a photo")
    (competition / "test_upload" / "904.png").unlink()
    target = run(brief)
    assert len(pd.read_csv(target)) == 10
    assert {"903.png", "904.png"} <= set(pd.read_csv(target.parent / "audit.csv")["id"])


def test_string_labels_and_two_classes_go_through(brief, tmp_path):
    rng, root, rows = np.random.default_rng(0), tmp_path / "flat", []
    for n in range(24):
        photo = rng.integers(0, 120, (40, 50, 3), np.uint8) + np.uint8(100 * (n % 2))
        write_photo(root / "train" / f"{n}.png", photo)
        rows.append((n, ("van", "suv")[n % 2]))
    for n in range(50, 53):
        write_photo(root / "test" / f"{n}.png", rng.integers(0, 120, (40, 50, 3), np.uint8))
    pd.DataFrame(rows, columns=["key", "kind"]).to_csv(root / "train.csv", index=False)
    sample = pd.DataFrame({"key": [52, 50, 51], "kind": "van"})
    sample.to_csv(root / "sample_submission.csv", index=False)
    made = pd.read_csv(run(brief.replace(data=str(root), views=1)))
    assert list(made.columns) == ["key", "kind"]
    assert made["key"].tolist() == [52, 50, 51]
    assert set(made["kind"]) <= {"van", "suv"}


def test_what_can_be_known_early_fails_before_anything_is_made_or_lost(cfg, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "submission.csv").write_text("earlier")
    for change, error, said in (
        ({"backbone": "resnet9000"}, ConfigError, "backbone='resnet9000'.*expected one of"),
        ({"augment": "wild", "views": 1}, ConfigError, "augment='wild'"),
        ({"data": str(tmp_path / "none")}, InputError, "none"),
        ({"backbone": "efficientnet_lite_b1", "weights": "/w.h5"}, InputError, "w.h5"),
    ):
        with pytest.raises(error, match=said):
            run(cfg.replace(**change))
    assert (out / "submission.csv").read_text() == "earlier"
    assert not list(out.glob("member*"))


def test_a_folder_in_the_place_of_a_file_is_named(cfg, tmp_path, capsys):
    (tmp_path / "out" / "photos.csv").mkdir(parents=True)
    words = [f"{k}={getattr(cfg, k)}" for k in ("data", "out", "backbone", "weights")]
    assert cli.main(["run", *words]) == 2
    assert "photos.csv" in capsys.readouterr().err


def test_a_training_outlives_another_that_diverges_and_so_does_an_earlier_submission(
    brief, tmp_path, capsys
):
    out = tmp_path / "out"
    out.mkdir()
    (out / "submission.csv").write_text("earlier")
    cfg = brief.replace(stages="32x48x2", batch=8, views=1)  # so that it diverges in epoch 1
    # Next to the largest float32: with 1e30 the loss stays finite on some processors.
    diverging = cfg.replace(lr=3e38, optimizer="sgd", warmup=0)
    names = ("data", "out", "backbone", "weights", "views", "lr", "optimizer", "warmup", "batch")
    words = [f"{name}={getattr(diverging, name)}" for name in names]
    assert cli.main(["run", *words, "stages=32x48x2", "val_fraction=0.25"]) == 3
    assert "learning rate" in capsys.readouterr().err
    last = events_of(out)[-1]
    assert last["kind"] == "failed" and "try lr=" in last["error"]
    # Had the first epoch's network predicted numbers, the earlier one would be beside its own.
    kept = out / "submission.earlier1.csv"
    assert (kept if kept.exists() else out / "submission.csv").read_text() == "earlier"

    with stopped_after(1):
        run(cfg)
    with pytest.raises(TrainingDiverged):
        run(diverging)
    assert "resumed" not in capsys.readouterr().out
    run(cfg)
    assert "resumed    after 1 epochs" in capsys.readouterr().out
    with pytest.raises(TrainingDiverged):
        run(diverging)
    assert cli.main(["votes", str(out)]) == 2  # its config.json is of the one without votes
    assert "member1" in capsys.readouterr().err
    run(cfg)
    said = capsys.readouterr().out
    assert said.count("done before") == 1
    assert said.count("cast before") == 2


def test_preview_writes_the_grid(cfg, tmp_path, capsys):
    look = str(tmp_path / "look")
    assert cli.main(["preview", "--data", cfg.data, "--out", look, "stages=48x64x1"]) == 0
    path = tmp_path / "look" / "augmentation.png"
    assert str(path) in capsys.readouterr().out
    assert path.stat().st_size > 5000
