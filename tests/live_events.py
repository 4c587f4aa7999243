"""The events of a plausible run, as progress.jsonl has them; the same for the same arguments."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np

STAGES = [[64, 96, 6], [96, 128, 8]]
PHOTOS = {"train": 2083, "validation": 367, "test": 640}
BEGAN = 1_790_000_000.0


class Writer:
    """Numbers events and lets time pass between them."""

    def __init__(self, run: str, at: float) -> None:
        self.run, self.at, self.events = run, at, list[dict[str, Any]]()

    def add(self, kind: str, passed: float = 0.0, /, **values: Any) -> None:
        self.at += passed
        ident = f"{self.run}.{self.run[:4]}.{len(self.events) + 1}"
        self.events.append({"id": ident, "kind": kind, "at": round(self.at, 3), **values})


def run_events(
    run: str = "0a1b2c3d",
    name: str = "good",
    at: float = BEGAN,
    members: tuple[str, ...] = ("member a", "member b"),
    seed: int = 0,
) -> list[dict[str, Any]]:
    """A whole run; ``[:n]`` is one at work. run: eight hex digits; at: unix time of its start."""
    writer, rng = Writer(run, at), random.Random(seed)
    writer.add(
        "start",
        identity=f"{run}{run}",
        name=name,
        settings={"preset": "good", "members": list(members), "stages": "64x96x6,96x128x8"},
        machine=["2 cores, no GPU", "precision float32"],
        source="1f2e3d4c",
        photos=PHOTOS,
        metric="accuracy",
        networks=[{"name": member, "stages": STAGES} for member in members],
        ends_at=at + 7200,
    )
    writer.add("phase", 2, name="data")
    for picture, caption in PICTURES.items():
        if picture == "augmentation":
            writer.add("picture", 1, name=picture, file=f"{picture}.png", caption=caption)
    best = 0.0
    for number, member in enumerate(members):
        writer.add("phase", 1, name=member)
        best = max(best, _train(writer, member, 0.85 - 0.05 * number + 0.02 * rng.random(), rng))
        writer.add("step", 8, network=member, what="validation votes", done=4, steps=12,
                   images_per_s=420.0)  # fmt: skip
        reason = "better: of the photos 9 corrected, 3 spoiled (p = 0.07), loss 0.52 to 0.49"
        writer.add("verdict", 12, of="views", network=member, accepted=True, reason=reason)
        writer.add("submission", 1, made_by=f"{member}, test-time augmentation on",
                   metric="accuracy", score=round(best, 4), early=number + 1 < len(members),
                   rows=640)  # fmt: skip
    _conclude(writer, members, best)
    return writer.events


PICTURES = {
    "augmentation": "Photos as the networks see them: three of each, changed anew every epoch",
    "confusion": "Classes taken for each other: rows are true, columns predicted",
    "errors": "The wrong validation photos with the highest loss",
}


def _train(writer: Writer, network: str, top: float, rng: random.Random) -> float:
    """Step and epoch events of a network; its best validation accuracy."""
    total, done, best, best_loss = sum(stage[2] for stage in STAGES), 0, 0.0, math.inf
    for stage, (height, width, epochs) in enumerate(STAGES, 1):
        seconds = 20.0 * stage
        place = {"network": network, "stage": stage, "epochs": epochs}
        for epoch in range(1, epochs + 1):
            done += 1
            learned = 1 - math.exp(-done / 4)
            loss = 2.2 * (1 - learned) + 0.42 + rng.gauss(0, 0.02)
            accuracy = top * learned + 0.06 + rng.gauss(0, 0.008)
            speed = round(rng.gauss(143 / stage, 2), 1)
            left = (total - done) * 30.0
            common = {"loss": round(loss, 4), "accuracy": round(accuracy, 4), "images_per_s": speed}
            writer.add("step", seconds / 2, **place, what="train", epoch=epoch, done=33, steps=66,
                       **common, left_s=left + seconds / 2)  # fmt: skip
            value = min(top * learned + rng.gauss(0, 0.012), 0.99)
            val_loss = loss + 0.05 + 0.02 * max(done - 8, 0)
            is_best = (value, -val_loss) > (best, -best_loss)
            if is_best:
                best, best_loss = value, val_loss
            writer.add(
                "epoch", seconds / 2, **place, stages=len(STAGES), height=height, width=width,
                epoch=epoch, photos=2112, lr=2e-3 * math.cos(math.pi / 2 * (done - 1) / total) ** 2,
                **common, val_loss=round(val_loss, 4), val_accuracy=round(value, 4), best=is_best,
                waiting=round(abs(rng.gauss(0.04, 0.02)), 3), seconds=seconds, left_s=left,
            )  # fmt: skip
    return best


def _conclude(writer: Writer, members: tuple[str, ...], best: float) -> None:
    """Verdicts on the blend and what comes after it, the last pictures, and the end."""
    writer.add("phase", 2, name="decide")
    for of, accepted, reason in (
        ("blend", True, "average against the best (member a): better, loss 0.49 to 0.46"),
        ("pseudo", False, "refused: 12 of 300 surest test photos would be too few to matter"),
        ("temperature", True, "1.21: log-loss 0.462 to 0.447, judged out of fold"),
    ):
        if len(members) > 1 or of != "blend":
            writer.add("verdict", 5, of=of, network="", accepted=accepted, reason=reason)
    for picture in ("confusion", "errors"):
        writer.add("picture", 2, name=picture, file=f"{picture}.png", caption=PICTURES[picture])
    score = round(best + 0.012, 4)
    made_by = f"average of {len(members)} members" if len(members) > 1 else members[0]
    writer.add("submission", 2, made_by=made_by, metric="accuracy", score=score, early=False,
               rows=640)  # fmt: skip
    writer.add("end", 4, metric="accuracy", validation_score=score,
               validation_interval_95=[round(score - 0.04, 4), round(score + 0.035, 4)],
               validation_photos=367, seconds=round(writer.at - writer.events[0]["at"]),
               made_by=made_by, warnings=["class 7 has 4 photos to validate on"],
               submission="out/submission.csv")  # fmt: skip


def failed(events: list[dict[str, Any]], error: str) -> list[dict[str, Any]]:
    """The events, and then the failure of the run."""
    last = events[-1]
    front, number = last["id"].rsplit(".", 1)
    ident = f"{front}.{int(number) + 1}"
    return [*events, {"id": ident, "kind": "failed", "at": last["at"] + 3, "error": error}]


def write(folder: Path, events: list[dict[str, Any]]) -> Path:
    """A run folder with these events and the pictures that they name; appends where it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "progress.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)
    rng = np.random.default_rng(0)
    for event in events:
        if event["kind"] == "picture":
            tiles = rng.integers(40, 220, (3, 6, 3), np.uint8)
            photo = cv2.resize(tiles, (720, 360), interpolation=cv2.INTER_CUBIC)
            assert cv2.imwrite(str(folder / event["file"]), photo)
    return folder
