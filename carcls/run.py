"""The spine: from a folder of photos to submission.csv, top to bottom."""

from __future__ import annotations

import hashlib
import json
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from carcls import augment, backbones, inputs, photos, runtime, submission
from carcls.config import Config


def run(cfg: Config) -> Path:
    """Train, validate, predict with test-time augmentation; returns the path of submission.csv.

    Everything it makes is in the run folder (see README, "What a run leaves"). Bad input raises
    inputs.InputError or config.ConfigError before training starts, wherever it can be seen that early.
    """
    start = time.monotonic()
    check(cfg)
    place = inputs.locate(cfg)
    backbones.find_weights(cfg.backbone, cfg)  # before the photos are looked at, which takes longer
    table = photos.load(cfg, place)
    _say("data", *photos.summary(table))
    photos.write_audit(table, place.out / "audit.csv")
    rt = runtime.setup(cfg)
    _say("machine", *rt.reasons)

    from carcls import callbacks, report, train, tta  # these import keras, whose backend setup has just chosen

    inputs.write_atomic(place.out / "config.json", cfg.model_dump_json(indent=2) + "\n")
    monitor = callbacks.SafeRemoteMonitor(cfg.monitor_url) if cfg.monitor_url else None
    events = callbacks.Events(place.out / "progress.jsonl", monitor)
    try:
        events.send("start", settings=cfg.model_dump(mode="json"), machine=rt.reasons, source=source_hash())
        tta.check_views(cfg, table.val, place)
        pictures = [report.augmentation(cfg, table, place.out / "augmentation.png")]
        _say("train")
        trained = train.fit(cfg, rt, table, place, events)
        _say("predict")
        val = tta.vote(cfg, rt, trained.model, table.val, place)
        val.save(place.out / "votes_validation.npz")
        test = tta.vote(cfg, rt, trained.model, table.test, place)
        test.save(place.out / "votes_test.npz")
        target = place.out / "submission.csv"
        warnings = submission.write(target, table, test.ids, test.mean())
        result = summary(cfg, table, trained, val)
        result["seconds"] = round(time.monotonic() - start)
        if place.answers:
            result["true_accuracy"] = submission.accuracy(target, place.answers)
        inputs.write_atomic(place.out / "result.json", json.dumps(result, indent=2) + "\n")
        pictures += report.write(cfg, table, trained.history, val, result, place.out)
        events.send("end", **result)
    except BaseException as error:  # also a stop by hand: whoever watches should know
        events.send("failed", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        events.close()
    _say("result", *lines(result), *(f"pictures   {p}" for p in pictures), f"submission {target}, {len(test.ids)} rows")
    for warning in warnings:
        print(f"\n*** WARNING: {warning} ***")
    return target


def check(cfg: Config) -> None:
    """What settings alone show to be wrong. Raises ConfigError."""
    backbone = backbones.find(cfg.backbone)
    for stage in cfg.stages:
        augment.policy(cfg.augment, stage.height, stage.width, cfg.fit, cfg.strength)
    odd = [str(stage) for stage in cfg.stages if stage.height % 32 or stage.width % 32]
    if backbone.sized and odd:
        print(f"warning: stages {', '.join(odd)} are no multiples of 32 px; {cfg.backbone} then drops the photo's edge")


def summary(cfg: Config, table: photos.Table, trained: Any, val: Any) -> dict[str, Any]:
    """The numbers of a run and what is needed to make them again (S75)."""
    truth = table.val["label"].to_numpy()
    right = {views: float((val.mean(views).argmax(1) == truth).mean()) for views in sorted({1, 2, cfg.tta_views})
             if views <= cfg.tta_views}  # fmt: skip
    accuracy = right[cfg.tta_views]
    low, high = wilson(round(accuracy * len(truth)), len(truth))
    return {
        "validation_accuracy": accuracy,
        "validation_interval_95": [low, high],
        "validation_photos": len(truth),
        "validation_accuracy_by_views": {str(k): v for k, v in right.items()},
        "train_photos": len(table.train),
        "training_seconds": round(trained.seconds, 1),
        "settings": cfg.model_dump(mode="json"),
        "source": source_hash(),
        "versions": {
            name: metadata.version(name) for name in ("keras", "keras-cv", "albumentations", "numpy", "pandas")
        },
    }


def lines(result: dict[str, Any]) -> list[str]:
    low, high = result["validation_interval_95"]
    views = ", ".join(f"{v:.4f} with {k}" for k, v in result["validation_accuracy_by_views"].items())
    found = [
        f"validation {result['validation_accuracy']:.4f} accuracy, 95 % interval {low:.4f}–{high:.4f}, "
        f"{result['validation_photos']} photos not trained on; they chose the best epoch",
        f"views      {views} view(s) per photo",
        f"time       {result['training_seconds']:.0f} s of training, {result['seconds']} s in all",
    ]
    if "true_accuracy" in result:
        found.append(f"true       {result['true_accuracy']:.4f} accuracy of submission.csv on the drawn test photos")
    return found


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927): right of n."""
    z = 1.959964
    p, d = right / n, 1 + z * z / n
    centre, half = (p + z * z / (2 * n)) / d, z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def source_hash() -> str:
    """Of the package's own modules, so that a result names the code that made it (S75)."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _say(title: str, *rows: str) -> None:
    print(f"\n== {title}", *rows, sep="\n  ")
