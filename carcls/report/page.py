"""report.html and the pictures of a run, from what it has measured and left in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from carcls import disk, metrics
from carcls.config import Config
from carcls.data import photos
from carcls.data.labels import spreadsheet_safe
from carcls.report import charts, look, outcome, parts, sheets, template, verdicts, views
from carcls.report.outcome import Outcome
from carcls.votes import decide, pseudo, votes
from carcls.votes.votes import Votes

CAPTIONS = charts.CAPTIONS | sheets.CAPTIONS | views.CAPTIONS
BEFORE = ("augmentation.png", "audit.png", "boxes.png")  # drawn before training
CONTENTS = [
    (part, part.capitalize()) for part in ("data", "training", "votes", "errors", "settings")
]
# Each picture's file, and what is said in its place where there is nothing to see; else "".
Pictures = dict[Path, str]


def before_training(cfg: Config, table: photos.Table, out: Path) -> list[Path]:
    """Draw what to look at while training goes on; returns the pictures' paths."""
    augmentation, audit, boxes = (out / name for name in BEFORE)
    sheets.augmentation(cfg, table, augmentation)
    drawn = {augmentation: "", audit: sheets.audit(table, audit)}
    if cfg.boxes:
        drawn[boxes] = sheets.boxed(table.frame, boxes)
    else:
        disk.remove(boxes)  # of an earlier run
    return [path for path, nothing in drawn.items() if not nothing]


@dataclass(frozen=True)
class Run:
    """All that a page is made from."""

    cfg: Config
    table: photos.Table
    members: Sequence[Any]  # each has name, folder, val (votes on validation photos) and histories
    decision: decide.Decision
    result: Mapping[str, Any]
    out: Path
    outcome: Outcome
    labels: pd.DataFrame  # pseudo.suspicious


def write(
    cfg: Config,
    table: photos.Table,
    members: Sequence[Any],
    decision: decide.Decision,
    result: dict[str, Any],
    out: Path,
) -> list[Path]:
    """Draw a finished run, write errors.csv, labels.csv and report.html, which holds all.

    members: each has name, folder, val (its votes on validation photos) and histories. Returns the
    paths of the pictures and, last, of the report. A picture that an earlier run has left, and that
    this one has no use for, is removed.
    """
    labelled = table.frame[table.frame["fold"] != photos.TEST].set_index("id", drop=False)
    first = members[0].val
    asked = [member.val.as_asked(cfg.views) for member in members]
    classes = [str(name) for name in table.classes]
    o = Outcome(classes, labelled.loc[first.ids], first.labels, decision.val_probs, asked)
    merits = [metrics.merit(decision.metric, x) for x in decision.alone[decision.metric]]
    best = int(np.argmax(merits))
    labels = pseudo.suspicious(members[best].val, cfg.member_cfgs()[best].label_smoothing)
    run = Run(cfg, table, members, decision, result, out, o, labels)
    _write_tables(run)
    drawn = _draw(run)
    for member, own in zip(members, asked, strict=True):
        drawn |= _draw_member(run, member, own)
    kept = [path for path, nothing in drawn.items() if not nothing]
    _remove_others(run, kept)
    text = parts.render(template.REPORT, **_content(run, drawn, best))
    disk.write_atomic(out / "report.html", text)
    return [*kept, *look.pictures(out), out / "report.html"]


def _write_tables(run: Run) -> None:
    """errors.csv and labels.csv."""
    names = run.outcome.classes
    named = {column: [names[k] for k in run.labels[column]] for column in ("given", "predicted")}
    labels = run.labels.assign(**named).drop(columns="row")
    for name, content in (("errors", outcome.errors(run.outcome)), ("labels", labels)):
        text = spreadsheet_safe(content).to_csv(index=False)
        disk.write_atomic(run.out / f"{name}.csv", text)


# --- Pictures -------------------------------------------------------------------------------------


def _draw(run: Run) -> Pictures:
    """What is drawn of the whole run, and what was drawn before training."""
    o, out = run.outcome, run.out
    drawn: Pictures = {out / name: "" for name in BEFORE if (out / name).is_file()}
    right = f"All {len(o.truth):,} validation photos are predicted rightly."
    drawn[out / "confusion.png"] = "" if len(o.wrong) else right
    if len(o.wrong):
        charts.confusion(o.classes, o.truth, o.predicted, out / "confusion.png")
    path = out / "errors.png"
    drawn[path] = sheets.errors(o.frame, o.truth, o.probs, o.classes, path)
    path = out / "suspicious.png"
    drawn[path] = sheets.suspicious(o.frame, run.labels, o.classes, path)
    curves = {member.name: votes.curve(member.val) for member in run.members}
    drawn[path := out / "tta_curve.png"] = "Every photo has one view, so views are not compared."
    if any(len(curve) > 1 for curve in curves.values()):
        fixed = not run.cfg.views.adaptive and all(gate.open for gate in run.decision.gates)
        views.tta_curve(curves, run.cfg.views.most if fixed else None, path)
        drawn[path] = ""
    if run.decision.metric == "log_loss":  # which punishes what is too sure, or not sure enough
        seen = run.decision.calibration
        drawn[charts.calibration(seen.before, seen.after, out / "calibration.png")] = ""
    return drawn


def _draw_member(run: Run, member: Any, asked: Votes) -> Pictures:
    """Pictures of a member's epochs and views, in its folder."""
    folder, val, classes = member.folder, member.val, run.outcome.classes
    drawn: Pictures = {}
    for name, history in member.histories.items():
        if len(history) > 1:  # of one epoch the table says all
            drawn[charts.curves(history, folder / name / "curves.png", name)] = ""
    if len(val.probs) > 1:
        path = folder / "disputed.png"
        drawn[path] = sheets.disputed(run.outcome.frame, asked, classes, path)
        if not drawn[path]:  # else both would be of one colour
            drawn[views.matrix(asked, classes, folder / "matrix.png")] = ""
            drawn[views.agreement(asked, folder / "agreement.png")] = ""
    if len(val.probs) >= min(votes.CAPS):  # of fewer views no rule asks for some
        rules = votes.trade_off(val, run.decision.metric)
        drawn[views.trade_off(rules, folder / "trade_off.png")] = ""
    return drawn


def _remove_others(run: Run, kept: Sequence[Path]) -> None:
    """Pictures that another run has left where these are."""
    here = (run.out / name for name in CAPTIONS)
    below = (path for member in run.members for path in member.folder.rglob("*.png"))
    for path in {*here, *(path for path in below if path.name in CAPTIONS)} - set(kept):
        disk.remove(path)


# --- The page -------------------------------------------------------------------------------------


def _content(run: Run, drawn: Pictures, best: int) -> dict[str, Any]:
    """What the template shows. best: number of the best member."""

    def picture(*path: str) -> Markup:
        return _picture(drawn, run.out.joinpath(*path))

    result, o = run.result, run.outcome
    networks, named = _networks(run, drawn), _histories(run)
    val, gate, metric = o.votes[best], run.decision.gates[best], run.decision.metric
    worth = verdicts.first_three(o, run.labels, named, gate, val, metric)
    n, wrong = len(o.truth), len(o.wrong)
    return {
        "result": result,
        "cfg": run.cfg,
        "decision": run.decision,
        "contents": CONTENTS,
        "score": parts.score(result),
        "verdicts": worth,
        "counts": _counts(run.table),
        "time": _time(result),
        "gists": {
            "training": f"{len(networks)} network{'s' if len(networks) > 1 else ''}, "
            + ", ".join(f"{stage}" for stage in run.cfg.stages),
            "votes": result["made_by"],
            "errors": f"{wrong:,} of {n:,} validation photos are wrong",
            "settings": "every setting, the source and versions",
        },
        "data": _data(run, drawn),
        "networks": networks,
        "members": [_member(run, n, drawn) for n in range(len(run.members))],
        "calibration": picture("calibration.png"),
        "tta_curve": picture("tta_curve.png"),
        "pairs": outcome.pairs(o),
        "confusion": picture("confusion.png"),
        "wrong": picture("errors.png"),
        "classes": outcome.by_class(o),
        "suspicious": picture("suspicious.png"),
    }


def _picture(drawn: Pictures, path: Path) -> Markup:
    """The picture, the sentence in its place, or nothing if it was not asked for."""
    if drawn.get(path):
        return Markup("<p>{}</p>").format(drawn[path])
    return parts.figure(path, CAPTIONS[path.name]) if path in drawn else Markup()


def _data(run: Run, drawn: Pictures) -> Markup:
    """The part about the data: sentences and pictures one after the other."""
    lines, seen = look.read(run.out)
    found = len(run.table.audit)
    finding = f"The audit has {found:,} finding{'' if found == 1 else 's'}: audit.csv."
    told = [Markup("<p>{}</p>").format(line) for line in lines]
    told += [parts.figure_or_text(path, text) for path, text in seen]
    told.append(Markup("<p>{}</p>").format(finding if found else "The audit found nothing."))
    return Markup().join([*told, *(_picture(drawn, run.out / name) for name in BEFORE)])


def _histories(run: Run) -> dict[str, pd.DataFrame]:
    """Epochs of every network by a name that people can read."""
    return {
        f"member {member.name}{', ' if inside else ''}{inside}": history
        for member in run.members
        for inside, history in member.histories.items()
    }


def _networks(run: Run, drawn: Pictures) -> list[dict[str, Any]]:
    """Every network's name, judgements, curves and epochs."""
    places = (member.folder / name for member in run.members for name in member.histories)
    return [
        {
            "name": name,
            "judged": verdicts.judge(history),
            "curves": _picture(drawn, place / "curves.png"),
            "history": history,
        }
        for place, (name, history) in zip(places, _histories(run).items(), strict=True)
    ]


def _member(run: Run, number: int, drawn: Pictures) -> dict[str, Any]:
    """What the page says of a member's votes."""
    member, val = run.members[number], run.members[number].val
    metric, names = run.decision.metric, ("agreement", "disputed", "matrix", "trade_off")
    pictures = (_picture(drawn, member.folder / f"{name}.png") for name in names)
    adaptive = run.cfg.asked_views.adaptive
    return {
        "name": member.name,
        "gate": run.decision.gates[number].reason,
        "tta": votes.tta_table(val, metric),
        "saving": votes.describe_saving(val, run.cfg.views) if adaptive else "",
        "trade_off": votes.trade_off(val, metric) if len(val.probs) >= min(votes.CAPS) else None,
        "pictures": Markup().join(pictures),
    }


def _counts(table: photos.Table) -> str:
    """How many photos there are to which end."""
    folds = table.frame["fold"]
    learned, checked, asked = (
        int((folds == fold).sum()) for fold in (photos.TRAIN, photos.VALIDATION, photos.TEST)
    )
    return (
        f"{len(table.classes):,} classes; {learned:,} photos to train on, {checked:,} to validate "
        f"on, {asked:,} to predict"
    )


def _time(result: Mapping[str, Any]) -> str:
    """How long it took; without it, nothing."""
    spent = {"training_seconds": "of training", "seconds": "in this session"}
    return ", ".join(f"{result[key]:,.0f} s {what}" for key, what in spent.items() if key in result)
