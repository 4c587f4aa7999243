"""The spine: from a folder of photos to submission.csv, top to bottom."""

from __future__ import annotations

import hashlib
import json
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from carcls import augment, backbones, inputs, photos, pseudo, runtime, submission, votes
from carcls.config import Config


def run(cfg: Config) -> Path:
    """Train, validate, predict with test-time augmentation; returns the path of submission.csv.

    Everything it makes is in the run folder (see README, "What a run leaves"). Bad input raises
    inputs.InputError or config.ConfigError before training starts, wherever it can be seen that early.
    """
    start = time.monotonic()
    check(cfg)
    place = inputs.locate(cfg)
    for mine in cfg.of_members():  # before the photos are looked at, which takes longer
        backbones.find_weights(mine.backbone, mine)
    table = photos.load(cfg, place)
    _say("data", *photos.summary(table))
    photos.write_audit(table, place.out / "audit.csv")
    inputs.write_atomic(place.out / "photos.csv", table.frame.to_csv(index=False))
    rt = runtime.setup(cfg)
    _say("machine", *rt.reasons)

    from carcls import (
        callbacks,
        decide,
        figures,
        members,
        report,
        tta,
    )  # these import keras, whose backend is chosen now

    inputs.write_atomic(place.out / "config.json", cfg.model_dump_json(indent=2) + "\n")
    monitor = callbacks.SafeRemoteMonitor(cfg.monitor_url) if cfg.monitor_url else None
    events = callbacks.Events(place.out / "progress.jsonl", monitor)
    submit = _Submit(place.out / "submission.csv", table)
    try:
        events.send("start", settings=cfg.model_dump(mode="json"), machine=rt.reasons, source=source_hash())
        for mine in cfg.of_members():
            tta.check_views(mine, table.val, place)
        figures.augmentation(cfg, table, place.out / "augmentation.png")
        made: list[members.Member] = []
        nets: list[list[Any]] = []
        for number in range(len(cfg.members)):
            _say(f"train member {members.name(cfg, number)}")
            member, own = members.make(cfg, number, rt, table, place, events, None if made else submit)
            made.append(member)
            nets.append(own if cfg.pseudo else [])  # networks are large; only pseudo-labels go on with them
        _say("decide")
        groups = members.groups(table.frame, made[0].val.ids)
        decision = decide.decide(cfg, made, groups)
        print(*decide.lines(decision), sep="\n")
        submit(decision.ids, decision.test_probs, decision.made_by, decision.accuracy)
        if cfg.pseudo:
            _say("pseudo-labels")
            chosen = pseudo.select([m.test[0] for m in made], [decide.as_test(cfg, m.val) for m in made],
                                   [gate.open for gate in decision.gates], cfg.pseudo_agreement, len(table.classes),
                                   pseudo.usable_photos(table))  # fmt: skip
            print(chosen.line, *(f"warning: {warning}" for warning in chosen.warnings), sep="\n")
            rows = pseudo.table(chosen, [m.test[0] for m in made], [str(name) for name in table.classes])
            inputs.write_atomic(place.out / "pseudo.csv", rows.to_csv(index=False))
            for number, (net,) in enumerate(nets if len(chosen.rows) else []):
                kept = members.go_on(cfg, number, rt, table, place, events, net, chosen)
                print(kept.reason)
                made[number] = members.load(cfg, number, place.out)
            decision = decide.decide(cfg, made, groups)
            print(*decide.lines(decision), sep="\n")
            submit(decision.ids, decision.test_probs, decision.made_by + ", after pseudo-labels", decision.accuracy)
        result = summary(cfg, table, made, decision)
        result["seconds"] = round(time.monotonic() - start)
        if place.answers:
            result["true_accuracy"] = submission.accuracy(submit.path, place.answers)
        inputs.write_atomic(place.out / "result.json", json.dumps(result, indent=2) + "\n")
        pictures = report.write(cfg, table, made, decision, result, place.out)
        events.send("end", **result)
    except BaseException as error:  # also a stop by hand: whoever watches should know
        events.send("failed", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        events.close()
    _say("result", *lines(result), *(f"pictures   {p}" for p in pictures),
         f"submission {submit.path}, {len(decision.ids)} rows")  # fmt: skip
    for warning in submit.warnings:
        print(f"\n*** WARNING: {warning} ***")
    return submit.path


class _Submit:
    """Writes submission.csv whenever the run has a better-founded one; the first puts an earlier run's aside."""

    def __init__(self, path: Path, table: photos.Table):
        self.path, self.table = path, table
        self.warnings: list[str] = []
        self.first = True

    def __call__(self, ids: list[str], probs: np.ndarray, made_by: str, accuracy: float) -> None:
        if self.first:
            submission.set_aside(self.path)
        self.first = False
        self.warnings = submission.write(self.path, self.table, ids, probs, made_by, accuracy)
        print(f"submission {self.path.name}: {made_by}; validation {accuracy:.4f}")


def check(cfg: Config) -> None:
    """What settings alone show to be wrong. Raises ConfigError."""
    for mine in cfg.of_members():
        backbone = backbones.find(mine.backbone)
        for stage in mine.stages:
            augment.policy(mine.augment, stage.height, stage.width, mine.fit, mine.strength)
        odd = [str(stage) for stage in mine.stages if stage.height % 32 or stage.width % 32]
        if backbone.sized and odd:
            print(
                f"warning: stages {', '.join(odd)} are no multiples of 32 px; {mine.backbone} then drops the photo's edge"
            )


def summary(cfg: Config, table: photos.Table, made: list[Any], decision: Any) -> dict[str, Any]:
    """The numbers of a run and what is needed to make them again (S75)."""
    photos_seen = len(decision.val_probs)
    low, high = votes.wilson(round(decision.accuracy * photos_seen), photos_seen)
    return {
        "validation_accuracy": decision.accuracy,
        "validation_interval_95": [low, high],
        "validation_photos": photos_seen,
        "made_by": decision.made_by,
        "members": decision.alone.to_dict("records"),
        "gates": [{"open": gate.open, "reason": gate.reason} for gate in decision.gates],
        "adaptive": decision.adaptive,
        "train_photos": len(table.train),
        "training_seconds": round(sum(member.seconds["training"] for member in made), 1),
        "settings": cfg.model_dump(mode="json"),
        "source": source_hash(),
        "versions": {
            name: metadata.version(name) for name in ("keras", "keras-cv", "albumentations", "numpy", "pandas")
        },
    }


def lines(result: dict[str, Any]) -> list[str]:
    low, high = result["validation_interval_95"]
    found = [
        f"validation {result['validation_accuracy']:.4f} accuracy, 95 % interval {low:.4f}–{high:.4f}, "
        f"{result['validation_photos']} photos not trained on; they chose the best epoch",
        f"made by    {result['made_by']}",
        f"time       {result['training_seconds']:.0f} s of training, {result['seconds']} s in all",
    ]
    if "true_accuracy" in result:
        found.append(f"true       {result['true_accuracy']:.4f} accuracy of submission.csv on the drawn test photos")
    return found


def source_hash() -> str:
    """Of the package's own modules, so that a result names the code that made it (S75)."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _say(title: str, *rows: str) -> None:
    print(f"\n== {title}", *rows, sep="\n  ")
