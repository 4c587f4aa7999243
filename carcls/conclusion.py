"""What a run shows and comes to: pictures, submission, result.json, report, the last lines."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from carcls import disk, metrics, record
from carcls.data.photos import TRAIN, VALIDATION
from carcls.errors import InputError
from carcls.jobs import Phase
from carcls.member import Member
from carcls.metrics import SHOWN
from carcls.network import groups
from carcls.report import look, page, submission
from carcls.session import Session
from carcls.votes import calibrate, decide, evidence
from carcls.votes.decide import Decision
from carcls.votes.votes import describe_saving

MOST_FREQUENT = "the most frequent class"
MEASURED, PSEUDO, REFIT = 0, 1, 2  # steps of a submission
VERSIONS = ("keras", "keras-cv", "albumentations", "numpy", "pandas")


def decide_on(s: Session, members: Sequence[Member]) -> Decision:
    """What validation photos say of these members; identical files are judged together."""
    same_files = groups(s.table.frame, members[0].val.ids)
    decision = decide.decide(s.cfg, members, same_files, s.metric)
    for member, gate in zip(members, decision.gates, strict=True):
        s.verdict("views", gate.open, gate.reason.partition(": ")[2], f"member {member.name}")
    if len(members) > 1:
        s.verdict("blend", decision.choice.blend.kind != "best", decision.choice.reason)
    if s.metric == "log_loss":
        s.verdict("temperature", decision.temperature != 1, decision.calibration.reason)
    return decision


def show(s: Session, paths: Iterable[Path]) -> None:
    """Tell whoever watches of the pictures among these, with what to look for."""
    looked = look.pictures(s.place.out)
    for path in paths:
        caption = looked.get(path) or page.CAPTIONS.get(path.name)
        if caption:
            s.events.picture(path, caption)


def show_data(s: Session) -> None:
    """What is worth a look before anything is trained, as pictures and as lines of the log."""
    drawn = page.before_training(s.cfg, s.table, s.place.out)
    s.say("look", *look.write(s.cfg, s.table, s.place.out))
    show(s, [*drawn, *look.pictures(s.place.out)])


def say_decision(s: Session, members: Sequence[Member], decision: Decision) -> None:
    """The decision's tables and reasons, in the log."""
    s.say("decide", *decide.describe(s.cfg, members, decision))


def conclude(
    s: Session, members: Sequence[Member], decision: Decision, phases: dict[str, Phase]
) -> dict[str, Any]:
    """Offer the submission, write result.json and the report; returns the result."""
    made_by, step = _rests_on(members, decision, phases)
    s.submission.offer(decision.ids, decision.test_probs, made_by, decision.score, step)
    result = _summary(s, members, decision) | {"made_by": s.submission.made_by}
    result["warnings"] = s.submission.warnings
    result |= {name: phase.about for name, phase in phases.items()}
    _write(s, result)
    result["pictures"] = page.write(s.cfg, s.table, members, decision, result, s.place.out)
    show(s, result["pictures"])
    return result


def most_frequent(s: Session) -> None:
    """A valid submission before anything is trained: the most frequent class for every photo."""
    probs, score = submission.most_frequent(s.table, s.metric)
    ids = s.table.sample_ids
    s.submission.offer(ids, probs, MOST_FREQUENT, score, early=True)


def offer_early(s: Session, decision: Decision) -> None:
    """Offer what the members so far decide, while others are still to come."""
    test, score = decision.test_probs, decision.score
    s.submission.offer(decision.ids, test, decision.made_by, score, early=True)


def without_training(s: Session) -> Path:
    """What a run leaves that had no time to train anything."""
    about = {"made_by": s.submission.made_by, "warnings": s.submission.warnings}
    result = _measured(s, *_guessed(s)) | about
    _write(s, result)
    s.say(
        "result",
        f"validation {_score(result)} of {s.submission.made_by}",
        f"skipped    training and the report: {s.clock.limit} is too little",
    )
    if s.submission.made_by == MOST_FREQUENT:  # and not by an earlier session of this run
        print("\n*** WARNING: no network was trained: every row is the most frequent class ***")
    _send_end(s, result)
    return s.submission.path


def tell(s: Session, result: dict[str, Any]) -> None:
    """The last lines of the log, with what looks wrong."""
    low, high = result["validation_interval_95"]
    lines = [
        f"validation {_score(result)}, 95 % interval {low:.4f}–{high:.4f}, "
        f"{result['validation_photos']} photos not trained on; they chose the best epoch",
        f"made by    {result['made_by']}",
        f"time       {result['training_seconds']:.0f} s of training, {result['seconds']} s in this "
        "session",
    ]
    if result["metric"] != "accuracy":
        lines.insert(1, f"           {result['validation_accuracy']:.4f} accuracy")
    if any(result["refit"].get("kept", [])):
        lines.insert(-1, "refit      came after that: no labelled photo is left to measure it on")
    for metric, shown in SHOWN.items():
        if (true := result.get(f"true_{metric}")) is not None:
            told = f"{true:.4f} {shown} of submission.csv on the drawn test photos"
            lines.append(f"true       {told}")
    if written := result.pop("pictures"):
        lines.append(f"report     {written[-1]}, with {len(written) - 1} pictures")
    rows = len(s.table.sample_ids)
    s.say("result", *lines, f"submission {s.submission.path}, {rows} rows")
    for warning in s.submission.warnings:
        print(f"\n*** WARNING: {warning} ***")
    _send_end(s, result)


def _send_end(s: Session, result: dict[str, Any]) -> None:
    """Tell whoever watches what the run came to: its last event."""
    told = ("metric", "validation_score", "validation_interval_95", "validation_photos", "seconds")
    true = f"true_{s.metric}"
    s.events.send(
        "end",
        **{key: result[key] for key in told},
        **({"true_score": result[true]} if true in result else {}),
        made_by=s.submission.made_by,
        warnings=s.submission.warnings,
        submission=str(s.submission.path),
    )


def _rests_on(
    members: Sequence[Member], decision: Decision, phases: dict[str, Phase]
) -> tuple[str, int]:
    """What the submission rests on in a few words, and its step: a later one stays."""
    made_by, step = decision.made_by, MEASURED
    if any(member.earlier for member in members):
        made_by, step = f"{made_by}, after pseudo-labels", PSEUDO
    count = sum(member.refit is not None for member in members)
    if count:
        some = f"{count} of {len(members)} " if len(members) > 1 else ""
        photos = phases["refit"].about["photos"]
        made_by += f", then {some}refitted on all {photos:,} labelled photos (measured before)"
        step = REFIT
    return made_by, step


def _summary(s: Session, members: Sequence[Member], decision: Decision) -> dict[str, Any]:
    """The numbers of a run and what is needed to make them again."""
    choice = decision.choice
    folds = (TRAIN, VALIDATION) if s.cfg.folds > 1 else (TRAIN,)
    calibration = decision.calibration
    return _measured(s, decision.val_probs, decision.known.truth) | {
        "temperature": decision.temperature,
        "calibration_error": {
            "before": calibrate.error(calibration.before),
            "after": calibrate.error(calibration.after),
        },
        "members": decision.alone.to_dict("records"),
        "gates": [{"open": gate.open, "reason": gate.reason} for gate in decision.gates],
        "adaptive": [describe_saving(m.val, s.cfg.views) for m in members]
        if s.cfg.asked_views.adaptive
        else [],
        "blends": choice.table.to_dict("records"),
        "blend_reason": choice.reason,
        "blend_picked_by_fold": choice.picked,
        "train_photos": len(s.table.rows(*folds)),
        "training_seconds": round(sum(member.seconds for member in members), 1),
        "versions": {name: metadata.version(name) for name in VERSIONS},
    }


def _score(result: dict[str, Any]) -> str:
    return metrics.shown(result["metric"], result["validation_score"])


def _guessed(s: Session) -> tuple[np.ndarray, np.ndarray]:
    """Validation photos by the most frequent class: probabilities and true classes."""
    probs, labels = submission.most_frequent(s.table)[0], s.table.rows(VALIDATION).labels
    return np.tile(probs[:1], (len(labels), 1)), labels


def _measured(s: Session, probs: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """probs (photos, classes) of the validation photos."""
    return {
        "metric": s.metric,
        "validation_score": metrics.value(s.metric, probs, labels),
        "validation_interval_95": list(evidence.interval(s.metric, probs, labels)),
        "validation_accuracy": metrics.accuracy(probs, labels),
        "validation_log_loss": metrics.log_loss(probs, labels),
        "validation_photos": len(labels),
        "settings": s.cfg.model_dump(mode="json"),
        "source": record.source_hash(),
        "seconds": round(time.monotonic() - s.clock.start),
    }


def _write(s: Session, result: dict[str, Any]) -> None:
    if s.place.answers:
        try:
            path, answers = s.submission.path, s.place.answers
            metric, true = submission.true_score(path, answers, s.table, s.metric)
            result[f"true_{metric}"] = true
        except InputError as error:  # it was changed since the run began
            print(f"warning: {error}; the true score stays unknown")
    disk.write_atomic(s.place.out / "result.json", json.dumps(result, indent=2) + "\n")
