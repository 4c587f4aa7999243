"""carcls on Kaggle: trains on the competition's photos and writes submission.csv.

What it needs, attached with Add Input in the editor (`make push` attaches it by itself):
  1. the competition sf-dl-car-classification
  2. the model keras/hgnetv2, framework Keras, variation hgnetv2_b5_ssld_stage2_ft_in1k, version 1
  3. an accelerator: GPU T4 x2 or TPU v5e-8; a CPU takes many times longer
Change SETTINGS below if you like, then run; the internet may stay off. What is missing is named in
the first seconds, before anything is trained.

It writes to /kaggle/working: submission.csv, from the first epoch on and replaced whenever there is
a better-founded one; submission.json, what made it and its score on validation; report.html with
every picture and table; result.json; and a folder member1, member2, … for each network, with its
epochs, its weights and the votes of every test-time view.

To go on from a version that was stopped or ran out of time, attach its output (Add Input, Your
Work) and run the same settings again. Training goes on after the last whole epoch; what other
settings change is made anew, and the log says what.

The modules of the package follow as text; a table of contents stands before them. They are unpacked
into a temporary folder and imported from there, so tracebacks show their lines. `make kernel`
generates this file: change the modules, not the text here.
"""

# Any other setting of the package's Config can be added here.
SETTINGS = {
    "preset": "kaggle",  # HGNetV2-B5, photos growing to 384x512; "kaggle_best": 3 networks
    # "stages": "192x256x6,288x384x6,384x512x4",  # HEIGHTxWIDTHxEPOCHS; time grows with all three
    # "backbone": "efficientnetv2_b0",  # a lighter network; attach its weights too
    # "views": "4-32",  # 4 views of every test photo, up to 32 where they disagree; "8": 8 of each
    # "members": "seed=1+seed=2",  # an ensemble; time grows with the number of networks
    # "folds": 5,  # networks per member, each validated on another part of the photos
    # "pseudo": 3,  # epochs more with test photos that all views agree on; kept if they do no harm
    # "refit_epochs": 3,  # epochs more on train and validation photos together, once measured
    # "augment": "medium",  # light, medium or none
    # "boxes": "boxes_efficientnet_lite_b0.csv",  # cut photos to them; see `carcls boxes`
    # "tune_minutes": 60,  # search for better settings at small sizes first, in this time
    # "budget_minutes": 300,  # end in this time; without it, in the session's 12 hours (TPU: 9)
    # "resume": False,  # start anew, whatever earlier version's output is attached
    # "monitor_url": "",  # where to post progress; needs the internet
    # "notify_url": "",  # where to post a short text at start, end and failure; likewise
    # "accelerator": "t4",  # or "tpu": stop at once where there is none
}


def main():
    """Unpack the package, check that everything is attached, and run."""
    import sys
    import tempfile
    import time
    from pathlib import Path

    start = time.monotonic()
    try:
        folder = Path(tempfile.mkdtemp(prefix="carcls-"))
        for name, text in MODULES.items():
            target = folder / "carcls" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    except OSError as error:  # a full disk
        print(f"carcls: cannot be unpacked ({error})", file=sys.stderr)
        raise SystemExit(2) from None
    # The text of this cell runs, not an installed package, nor what a cell has unpacked before.
    for name in [name for name in sys.modules if name.partition(".")[0] == "carcls"]:
        del sys.modules[name]
    sys.path.insert(0, str(folder))

    from carcls import errors

    if not errors.__file__.startswith(str(folder)):
        raise SystemExit(f"carcls: {errors.__file__} comes before what this script has unpacked")

    def work():
        from carcls import config, machine, memory, record
        from carcls.nets import weights

        cfg = config.parse(SETTINGS)
        machine.expect_accelerator(cfg)
        print("== attached", *weights.check_attached(cfg), sep="\n  ")
        earlier = record.find_earlier(cfg) if cfg.resume else None
        if earlier:
            print(f"  earlier run: {earlier}")
        print(f"  unpacked and checked in {time.monotonic() - start:.1f} s")
        memory.check_limit()

        from carcls import spine  # after the checks: it imports TensorFlow, which takes seconds

        spine.run(cfg)

    code = errors.end_well(work)
    if code:
        raise SystemExit(code)


MODULES = {}

# Contents: line, module, what it does
#   201  spine.py              The spine: from a folder of photos to submission.csv, top to bottom.
#   265  __init__.py           carcls: a folder of car photos in, a submission.csv out.
#   295  conclusion.py         What a run shows and comes to: pictures, submission, result.json, report, the last lines.
#   524  config.py             What a run is: one frozen, validated Config.
#   971  disagreement.py       Settings that do not go together: what is wrong, as a sentence, or "" (cfg is a Config).
#  1038  disk.py               The disk: paths as people write them, files written whole or not at all, walks of folders.
#  1344  errors.py             What a run may end with, as one tree, and the one way in which a process ends with it.
#  1472  hosts.py              Several hosts that train as one with JAX: which one this is, and what they have to agree on.
#  1578  jobs.py               Which networks are to be made: members, their folds, and those that go on with more photos.
#  1758  machine.py            Backend, devices, precision and compiler: each choice is made here, once, and has its reason.
#  2066  member.py             A network that has voted, and the one or several that are a member of the ensemble.
#  2155  memory.py             Memory: what keeps it, whether there may be enough, and which errors say that there was not.
#  2226  metrics.py            What predictions are scored by.
#  2325  network.py            One job → a trained network and its votes, or both read back from the run folder.
#  2629  presets.py            What the other settings start from, by name; and the names that settings once had.
#  2685  record.py             What is done already: a folder's finished steps, with what each was made from; an earlier run.
#  2952  session.py            A session: all that every step of a run needs, and what can fail before the work begins.
#  3257  stops.py              Stops that are asked for by a signal: they arrive at once, or at the next step at the latest.
#  3334  values.py             Values of several parts that people write as text: stages, views, strengths, mixes, members.
#  3541  data/__init__.py      Photos and tables: from what people attach to batches of pixels.
#  3546  data/aloud.py         What decoders of photos, which know no file's name, print about them on stderr.
#  3592  data/asks.py          What a submission has to look like: the sample submission says it, or what there is instead.
#  3938  data/attached.py      What comes with a kernel as input: which kind of source a file is from, and whether it is whole.
#  4108  data/audit.py         Looking at every file: what is odd about it, what is done about that, which are the same.
#  4406  data/augment.py       Augmentation: albumentations policies on uint8 RGB photos.
#  4629  data/batches.py       The only place where batches are made: for training, validation, prediction and views.
#  4941  data/boxes.py         Boxes around the cars, from CSV files: photos are cut to them, so that nobody learns backgrounds.
#  5208  data/cache.py         Decoded photos of one size, kept where there is room for them.
#  5461  data/codepages.py     Names in zip files, which often do not say in which code page they are.
#  5586  data/files.py         Where things are, on Kaggle and on a desk: the competition's files and the run folder.
#  5837  data/headers.py       What the header of a JPEG says, read without a decoder.
#  5943  data/ids.py           Which photos the competition's CSV files and class folders name, and with which labels.
#  6167  data/kinds.py         What a file is by its first bytes, where its name says something else.
#  6258  data/labelled.py      What train.csv says: which column has the ids, and where each row's label stands.
#  6433  data/labels.py        What labels mean: which texts are one class, which are no labels, which look like others.
#  6678  data/layout.py        How photos are laid out: in a folder or its zip file, in folders of folders, by class.
#  6835  data/lint.py          Refuses augmentation that harms photos of cars, or only costs time.
#  7040  data/names.py         Which file below a folder an id means: the ids of a column are read in one way.
#  7272  data/photos.py        One table of all photos: where each is, its label, and which side of the split it is on.
#  7593  data/pixels.py        From a file to pixels: reading and decoding, within bounds of memory.
#  7945  data/similar.py       Small copies of all photos: how bright these are, and which of them show the same picture.
#  8155  data/tables.py        CSV files as people and their tools write them.
#  8272  data/unzip.py         Unpacking zipped photos, whole or not at all.
#  8589  nets/__init__.py      Networks: which there are, their weights, head and schedule.
#  8594  nets/fast.py          Faster TensorFlow kernels behind Keras's layers, for steps that XLA does not compile.
#  8850  nets/hub.py           KerasHub's networks: their configurations, and what their presets' files say of pixels.
#  9186  nets/measures.py      What a network is measured by after each epoch: metrics of Keras, on logits.
#  9266  nets/model.py         The network: backbone and head, what of it trains and at which rate, and its state.
#  9593  nets/registry.py      The networks: a table of them, each with the normalisation that its ImageNet weights expect.
#  9921  nets/schedule.py      Learning rate and augmentation strength as pure functions of progress, 0..1 over the run.
#  9993  nets/transformers.py  KerasHub's vision transformers at any size of photos, all sizes with one set of weights.
# 10147  nets/weights.py       Weights from disk: find the file that a network starts from, check it, load it.
# 10415  train/__init__.py     Training: one network through its sizes, and what watches it.
# 10420  train/balance.py      Class weights: a photo of a rare class counts more in the loss of training.
# 10457  train/clock.py        Time as one number: the share of the work still planned that there is time for.
# 10675  train/events.py       The events of a run: lines of progress.jsonl, marked lines of the log, and whoever listens.
# 10929  train/job.py          A network to be made: a member, one of its folds, or one that goes on with more photos.
# 11016  train/loop.py         Training one network to its end, or reading back one that an earlier session has trained.
# 11157  train/monitor.py      Posting a run's events to an address, and who else is told of them.
# 11222  train/notify.py       A short text to a phone or a chat at a run's start, first submission, end and failure.
# 11441  train/outbox.py       Posting to one address in the background, which cannot harm a run.
# 11586  train/progress.py     What is said and told of a training's epochs and steps: lines, a bar, events, history.csv.
# 11738  train/rebase.py       BN's first statistics, from the photos that a network is to learn.
# 11786  train/state.py        The state of a training after its last epoch and after its best one: arrays, and one note.
# 11907  train/steps.py        Seconds of training and prediction steps, taken and told in one place.
# 12023  train/studio.py       What a training works with, and what it comes to.
# 12079  train/timing.py       How much of a network's training there is time for, by seconds that were measured.
# 12245  train/trainer.py      One network on its way through the stages.
# 12599  train/watchers.py     What watches a training: averaged weights, checkpoints and stops; ``Progress`` is beside it.
# 12846  votes/__init__.py     Votes: what views say of photos, and what follows from it.
# 12851  votes/blend.py        Members into one prediction: weights fitted on validation photos, or stacking.
# 13162  votes/calibrate.py    Probabilities that mean what they say: one temperature, fitted on validation photos.
# 13271  votes/cast.py         Views of photos through a network, which gives votes.
# 13376  votes/decide.py       From the members' votes to the probabilities of the submission: gates, a blend, a temperature.
# 13552  votes/evidence.py     Whether one prediction is better than another: the only place where the package judges that.
# 13847  votes/pseudo.py       Pseudo-labels: test photos on which nearly all views of all members agree.
# 14097  votes/votes.py        Votes: the probabilities that a network gives every view of every photo, and their arithmetic.
# 14396  report/__init__.py    What a person reads: pictures, the page, the submission.
# 14401  report/charts.py      Charts of a run's epochs and classes, and what all pictures are drawn with.
# 14562  report/dataset.py     Pictures of a data set: its classes, the photos' sizes and light, examples, look-alikes.
# 14755  report/look.py        A look at the data: facts of a table's photos, as lines, as pictures, and as similar.csv.
# 14979  report/names.py       Names of classes and photos as a picture can show them: fonts lack letters, and room is short.
# 15075  report/outcome.py     What a run says of its validation photos, photo by photo: errors, classes, pairs of classes.
# 15189  report/page.py        report.html and the pictures of a run, from what it has measured and left in its folder.
# 15464  report/parts.py       Parts of a page: pictures as data, tables, small drawings, and the page around them.
# 15638  report/sheets.py      Sheets of photos to look at: augmentation, audit, boxes, errors, disputed photos and labels.
# 15897  report/submission.py  submission.csv: checked before anything is written, and only replaced by a better-founded one.
# 16179  report/template.py    How pages look: the frame of every page (style, script), and the report of a run.
# 16527  report/verdicts.py    What is worth knowing of a run: a sentence of each kind, the most important first.
# 16702  report/views.py       Charts of test-time augmentation: what the views of a photo say, and how many are worth it.
# 16905  search/__init__.py    Searches of settings: small sizes first, and a verdict on photos that chose nothing.
# 16910  search/book.py        What a search has on the disk: what it has decided, its candidates, their trials, and locks.
# 17140  search/findings.py    What a search has found, read from its folder: a row a trial, who went on, and the verdict.
# 17282  search/halving.py     The search: candidates climb rungs of growing photo sizes, until the last rung decides.
# 17543  search/page.py        tune.csv, tune.html and the log's last lines: what a search has found, and why.
# 17728  search/pictures.py    Pictures of a search.
# 17964  search/plan.py        How a search spends its time: which sizes, how many candidates, how many epochs.
# 18087  search/propose.py     Where a search looks next: Optuna's TPE, or Sobol points where Optuna is not installed.
# 18265  search/ranking.py     What the trainings of a search say: who goes on, whether small sizes predict large ones, who won.
# 18488  search/space.py       What a search may choose: a range or a list of values for each of some settings, checked.
# 18753  search/trial.py       A trial: one training on equal terms, and what it measures, photo by photo.
# 18928  search/tune.py        Tune small, finish large: a search of a session's settings, and what a run makes of it.


# ===== carcls/spine.py ========================================================
MODULES["spine.py"] = r'''"""The spine: from a folder of photos to submission.csv, top to bottom."""

from __future__ import annotations

from pathlib import Path

from carcls import session
from carcls.config import Config
from carcls.data import photos
from carcls.search import space


def run(cfg: Config) -> Path:
    """Train, vote, decide, submit; returns the path of submission.csv.

    A step whose result is in the run folder, made from the same facts, is read back. Raises
    ConfigError and InputError before training, Stopped on SIGTERM.
    """
    searched = space.of(cfg) if cfg.tune_minutes else {}
    with session.start(cfg) as s:  # lock, files, weights, machine, clock: what can fail, fails here
        # Keras reads its backend when it is imported, and the machine has chosen it only now.
        from carcls import conclusion, jobs, network
        from carcls.search import tune

        s.say("data", *photos.summary(s.table, cfg.folds))
        s.say("machine", *s.machine.reasons, f"time       {s.clock.limit}")
        network.check_views(s)
        if s.clock.is_limited:
            conclusion.most_frequent(s)  # a valid submission from the first minute on
        tuned = tune.tune(s, searched) if searched else {}  # small sizes first
        conclusion.show_data(s)  # what is worth a look while training goes on

        members: list[network.Member] = []
        for member_jobs in jobs.members(s):  # one job, or one a fold
            member = network.make_all(s, member_jobs, announces=not members)
            # Members are compared photo by photo, so each needs the folds that the first has.
            if member is None or (members and len(member.networks) < len(members[0].networks)):
                break
            members.append(member)
            decision = conclusion.decide_on(s, members)
            if len(members) < len(s.cfg.members):
                conclusion.offer_early(s, decision)
            if len(member.networks) < len(member_jobs):  # no time for its other folds
                break
        if not members:
            return conclusion.without_training(s)
        conclusion.say_decision(s, members, decision)
        phases = jobs.phases(tuned)
        result = conclusion.conclude(s, members, decision, phases)

        for plan in (jobs.pseudo_labels, jobs.refit):  # the same kind of job on more photos
            phase = plan(s, members, decision)  # no jobs if it is off or its labels are refused
            members = network.remake(s, members, phase)  # a network is kept only on evidence
            if phase.is_on:  # concluded anew, so that a kill after it leaves a whole result
                phases[phase.name] = phase
                decision = conclusion.decide_on(s, members)
                result = conclusion.conclude(s, members, decision, phases)

        conclusion.tell(s, result)
        return s.submission.path
'''


# ===== carcls/__init__.py =====================================================
MODULES["__init__.py"] = r'''"""carcls: a folder of car photos in, a submission.csv out. Importing it imports nothing heavy."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Config", "export", "predict", "run"]


def __getattr__(name: str) -> Any:  # PEP 562: `import carcls` stays below 50 ms
    if name == "Config":
        from carcls.config import Config

        return Config
    if name == "run":
        from carcls.spine import run

        return run
    if name == "predict":
        from carcls.desk.predictions import predict

        return predict
    if name == "export":
        from carcls.desk.exports import export

        return export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
'''


# ===== carcls/conclusion.py ===================================================
MODULES["conclusion.py"] = r'''"""What a run shows and comes to: pictures, submission, result.json, report, the last lines."""

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
'''


# ===== carcls/config.py =======================================================
MODULES["config.py"] = r'''"""What a run is: one frozen, validated Config. A variant of a run is a ``replace`` of it.

Every setting knows its own part: what it belongs to, whether members of an ensemble may differ in
it, whether it sets the terms of a comparison. The lists of names below follow from that.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from carcls import disagreement, disk
from carcls.errors import ConfigError
from carcls.presets import PRESETS, RENAMED
from carcls.values import Address, Frozen, Mix, Stage, Strength, Views, hide, read_members

POLICIES = ("light", "medium", "none")  # of augmentation, by name


def _setting(part: str, default: Any, about: str, marks: str = "", **bounds: Any) -> Any:
    """A field of Config; ``about`` is its description.

    part: "data", "training" (it changes the numbers of a training), "votes", "search" (others are
    found by it), "session" (it may differ between the sessions of one run) or "machine". marks:
    "member" if members may differ in it, "terms" if arms of a study that differ in it are not on
    equal terms, "file" if it names files, which count by their content.
    """
    extra: Any = {"part": part, "marks": marks.split()}
    return Field(default, description=about, json_schema_extra=extra, **bounds)


_session, _data, _training = (partial(_setting, part) for part in ("session", "data", "training"))
_votes, _search, _machine = (partial(_setting, part) for part in ("votes", "search", "machine"))
_member = partial(_training, marks="member")


class Config(Frozen):
    """Every setting of a run with its default, unit and reason (``carcls run --help``)."""

    # Where things are
    data: str = _session("", "folder with the competition's files; empty: look for it on Kaggle")
    out: str = _session("", "run folder; empty: /kaggle/working on Kaggle, else ./out")
    competition: str = _session("sf-dl-car-classification", "slug of the Kaggle competition")

    # What is predicted
    metric: Literal["auto", "accuracy", "log_loss", "f1_macro", "balanced_accuracy", "auc"] = (
        _training(
            "auto",
            "that the competition scores by: it chooses epochs, views and blends; auto: accuracy "
            "for labels, log_loss for probabilities",
        )
    )
    positive: str = _data(
        "",
        "of two classes, the one whose probability is submitted; empty: 1, true, yes, or the one "
        "that the column is named after",
    )

    # Photos
    val_fraction: float = _data(0.15, "share of train photos kept for validation", gt=0, lt=0.9)
    fit: Literal["pad", "crop"] = _member(
        "pad", "how a photo meets the size, keeping its shape"
    )  # grey padding had the lowest log-loss of three ways (MEASUREMENTS: how photos fit)
    boxes: str = _training(
        "",
        "CSV files with a box around the car in each photo, comma-separated (`carcls boxes` makes "
        "them): photos are cut to the mean of their boxes; empty: whole photos",
        marks="file",
    )
    seed: int = _member(1, "of split, order, augmentation and first weights", ge=0, lt=2**31)

    # Network
    backbone: str = _member("efficientnet_lite_b0", "name of a network (`carcls backbones`)")
    weights: str = _training(
        "imagenet", "imagenet, none (from scratch), or a preset folder or file", marks="member file"
    )
    pooling: Literal["avg", "max"] = _member(
        "avg", "global pooling of the head"
    )  # max was 17 points worse (MEASUREMENTS: the head)
    dropout: float = _member(0.5, "dropout before the output layer", ge=0, lt=1)
    hidden: int = _member(0, "units of a hidden Dense + BN layer in the head; 0: none", ge=0)
    unfreeze: Literal["all", "staged", "head"] = _member(
        "all", "what trains: all from the start, staged from the head down, or the head alone"
    )
    freeze_bn: bool = _member(False, "keep BN statistics, scale and shift as they came")
    bn_photos: int = _member(
        512,
        "train photos that BN takes its first statistics from, the network predicting the same; "
        "not with weights=none, freeze_bn or unfreeze=head; 0: the statistics of the weights",
        ge=0,
    )  # 4 to 6 points after four epochs (MEASUREMENTS: BN's first statistics)
    depth_decay: float = _member(
        1.0,
        "factor of the learning rate per quarter of depth, output to input; 1: the same everywhere",
        gt=0,
        le=1,
    )

    # Training
    stages: tuple[Stage, ...] = _training(
        "128x224x4,160x256x3",
        "HEIGHTxWIDTHxEPOCHS, small to large, comma-separated",
        marks="member terms",
    )
    batch: int = _training(
        16, "photos a training step, all devices together", marks="member terms", ge=1, le=4096
    )  # 32 was 3 points worse in equal epochs (MEASUREMENTS: the recipe, one by one)
    optimizer: Literal["adam", "adamw", "sgd", "adamax", "lion", "rmsprop"] = _member(
        "adam", "by name"
    )
    lr: float = _training(
        1e-3, "peak learning rate; 2e-3 was better over 20 epochs", marks="member terms", gt=0
    )  # (MEASUREMENTS: rate, size and epochs)
    weight_decay: float | None = _member(
        None, "decoupled weight decay; empty: the optimiser's own", ge=0
    )
    schedule: Literal["cosine", "piecewise", "constant", "exponential", "plateau"] = _training(
        "cosine", "of the learning rate over the whole run", marks="member terms"
    )
    warmup: float = _training(
        0.1,
        "share of the run in which the rate rises from 0; not with plateau",
        marks="member terms",
        ge=0,
        lt=1,
    )
    label_smoothing: float = _member(0.0, "share of the label spread over all classes", ge=0, lt=1)
    ema: float = _member(0.0, "momentum of the moving average of weights; 0: off", ge=0, lt=1)
    mix: Mix = _member(
        "", "mix photos and labels: mixup:ALPHA, cutmix:ALPHA, or both, one of them a batch"
    )
    oversample: bool = _member(
        False,
        "every class equally often in an epoch of the same length: photos of rare classes more "
        "than once, augmented anew, of frequent ones not all",
    )  # 5 points worse in accuracy (MEASUREMENTS: oversampling)
    class_weights: Literal["none", "balanced"] = _member(
        "none", "of the loss; balanced: a photo of a rare class weighs more, each class the same"
    )
    patience: int = _member(
        0, "epochs without a better validation loss before a stage stops; 0: off", ge=0
    )

    # Augmentation and test-time augmentation
    augment: str = _training(
        "light",
        "policy of training photos: light, medium, none, or a file that albumentations.save wrote",
        marks="member file",
    )
    strength: Strength = _training(
        "1-0.5", "of the policy, 0 to 1, from the first epoch to the last"
    )
    views: Views = _votes(
        8,
        "views per photo: itself, its mirror image, random ones; 1: itself alone; 4-32: four, and "
        "up to 32 where they disagree",
    )  # within three photos of 367 of all rules tried (MEASUREMENTS: how many views)
    tta: Literal["auto", "always", "never"] = _votes(
        "auto", "use the views: auto asks validation, member by member"
    )
    tta_combine: Literal["mean", "geometric", "vote"] = _votes(
        "mean", "how the views' probabilities become one"
    )

    # Ensemble, pseudo-labels, refit
    members: tuple[dict[str, Any], ...] = _votes(
        ({},),
        "networks of an ensemble, separated by +, each with the settings that differ, separated by "
        "/: seed=1+seed=2/pooling=max",
    )
    folds: int = _votes(
        1,
        "networks a member, each validated on another part of the train photos; 1: one network, "
        "val_fraction kept aside",
        ge=1,
        le=20,
    )
    blend: str = _votes(
        "auto",
        "of members: auto (nested validation decides), best, average, weights (fitted), logistic, "
        "forest (stacking), or weights as 0.9/0.1",
    )
    pseudo: int = _votes(
        0,
        "epochs of training on test photos, too, that all members and nearly all views agree on; "
        "0: off",
        ge=0,
        le=100,
    )
    refit_epochs: int = _votes(
        0,
        "epochs on train and validation photos together, once validation has measured the network; "
        "not with folds, which train on every photo anyway; 0: off",
        ge=0,
        le=100,
    )

    # Search: tune small, finish large
    tune_minutes: float = _search(
        0.0,
        "minutes of a search for better settings at small sizes, before the networks are trained "
        "with what it finds; 0: none",
        ge=0,
        le=1e6,
    )
    tune_space: str = _search(
        "",
        "what it may choose: LOW:HIGH or a list for each setting, as lr=5e-4:4e-3 mix=,cutmix:1; "
        "empty: rate, weight decay, mix, augmentation, averaging and networks at hand",
    )

    # One run over several sessions, its time, and who watches it
    resume: bool = _session(
        True, "go on from what the run folder has of the same settings; false: anew"
    )
    earlier: str = _session(
        "", "folder of an earlier run to go on from; empty: on Kaggle, the one that is attached"
    )
    budget_minutes: float | None = _session(
        None,
        "minutes from start to end, which training is shortened to; empty: on Kaggle the session's "
        "limit less a margin, elsewhere none",
        ge=0,
        le=1e6,
    )
    monitor_url: Address = _session(
        "",
        "http(s) address to which RemoteMonitor posts progress; of one without a path, "
        "/publish/epoch/end/; never shown whole; empty: nowhere",
    )
    notify_url: Address = _session(
        "",
        "http(s) address to which a short text is posted at start, first submission, end and "
        "failure: of an ntfy topic, a Slack or Discord webhook, Telegram's "
        "/botTOKEN/sendMessage?chat_id=…, or any that takes JSON; never shown whole; empty: "
        "nowhere",
    )
    tensorboard: bool = _session(
        False, "write TensorBoard event files to OUT/member1/tensorboard and so on"
    )

    # Machine
    accelerator: Literal["any", "t4", "tpu", "cpu"] = _session(
        "any",
        "without which a run stops at once: t4 (also another GPU) or tpu, as `make push` writes it "
        "into a kernel; any, cpu: runs on what there is",
    )
    backend: Literal["auto", "tensorflow", "jax"] = _machine("auto", "of Keras; auto: jax on a TPU")
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = _training(
        "auto", "of maths"
    )
    xla: Literal["auto", "on", "off"] = _machine(
        "auto", "compile TensorFlow's steps with XLA; auto: on one GPU; JAX always, on several too"
    )

    @field_validator("stages", mode="before")
    @classmethod
    def _split_stages(cls, value: Any) -> Any:
        return value.replace(" ", "").split(",") if isinstance(value, str) else value

    @field_validator("boxes")
    @classmethod
    def _without_spaces(cls, value: str) -> str:
        files = [file.strip() for file in value.split(",")]
        if value and (not all(files) or len(set(files)) < len(files)):
            raise ValueError("expected files separated by commas, each once")
        return ",".join(files)

    @field_validator("members", mode="before")
    @classmethod
    def _split_members(cls, value: Any) -> Any:
        return read_members(value) if isinstance(value, str) else value

    @field_validator("members")
    @classmethod
    def _check_members(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for number, member in enumerate(value, 1):
            wrong = sorted(set(member) - MEMBER_SETTINGS)
            if wrong:
                raise ValueError(
                    f"member {number}: {', '.join(wrong)} cannot differ between members; expected "
                    f"some of {', '.join(sorted(MEMBER_SETTINGS))}"
                )
        if not value:
            raise ValueError("at least one member is needed")
        return value

    @field_validator("weights")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value:
            raise ValueError("expected imagenet, none or a path")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Config:
        problem = disagreement.of_network(self) or disagreement.of_ensemble(self)
        if problem:
            raise ValueError(problem)
        return self

    @property
    def asked_views(self) -> Views:
        """The views that are cast: one where test-time augmentation is off."""
        return Views(first=1, most=1) if self.tta == "never" else self.views

    @property
    def view_strength(self) -> float:
        """Of the random views: half of training's, as views stronger than training would harm."""
        return self.strength.start / 2

    @property
    def refits(self) -> int:
        """Epochs of the refit that there will be."""
        return self.refit_epochs if self.folds == 1 else 0

    def member_cfgs(self) -> list[Config]:
        """The settings of each member, complete. Raises ConfigError where they do not agree."""
        cfgs = []
        for number, member in enumerate(self.members, 1):
            try:
                cfgs.append(self.replace(**member, members=({},), blend="auto"))
            except ConfigError as error:
                raise ConfigError(f"member {number}: {error}") from None
        return cfgs

    def replace(self, **changes: Any) -> Config:
        """A validated copy with some settings changed, ``preset`` first. Raises ConfigError."""
        return parse({**self.model_dump(), **_preset(changes), **changes})


def _marked(part: str = "", mark: str = "") -> frozenset[str]:
    """Names of the settings of that part, or with that mark."""
    found = set()
    for name, field in Config.model_fields.items():
        extra: Any = field.json_schema_extra
        if part == extra["part"] or mark in extra["marks"]:
            found.add(name)
    return frozenset(found)


MEMBER_SETTINGS = _marked(mark="member")
TRAINING_SETTINGS = _marked(part="training")
SESSION_SETTINGS = _marked(part="session")
FILE_SETTINGS = _marked(mark="file")
EQUAL_TERMS = _marked(mark="terms")
# Of which no more than scheme and host is shown, and that config.json does not have whole.
SECRETS = frozenset(n for n, field in Config.model_fields.items() if field.annotation is Address)


def _preset(settings: dict[str, Any]) -> dict[str, Any]:
    """What the preset that ``settings`` names says; takes the name out. Raises ConfigError."""
    name = settings.pop("preset", "default")
    if name not in PRESETS:
        raise ConfigError(f"preset={name!r}: no such preset; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def _tuned(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings, with those in place of ``tuned`` that the file has which it names.

    Raises ConfigError if it is not what a search has left.
    """
    settings = dict(settings)
    name = settings.pop("tuned", "")
    if not name:
        return settings
    try:
        found = dict(disk.unsealed(disk.read_json(disk.user_path(str(name))))["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"tuned={name}: not the tuned.json of a search ({error})") from None
    return {**found, **settings}


# --- From words and files -----------------------------------------------------------------------


def parse(settings: dict[str, Any]) -> Config:
    """Config from a mapping; its ``preset`` picks what the others change. Raises ConfigError."""
    settings = _tuned(settings)
    preset = _preset(settings)
    old = [f"{name} is now {RENAMED[name]}" for name in settings if name in RENAMED]
    if old:
        raise ConfigError("; ".join(old))
    unknown = sorted(set(settings) - set(Config.model_fields))
    if unknown:
        raise ConfigError(
            f"unknown setting {hide(', '.join(unknown))}; expected preset, tuned or one of "
            f"{', '.join(Config.model_fields)}"
        )
    try:
        return Config.model_validate({**preset, **settings})
    except ValidationError as error:
        raise ConfigError("; ".join(dict.fromkeys(map(_sentence, error.errors())))) from None


def _sentence(error: Any) -> str:
    """One of pydantic's findings: setting, what was found, what is wrong."""
    name = ".".join(map(str, error["loc"]))
    found = f"={error['input']!r}" if name and name not in SECRETS else ""
    message = error["msg"].removeprefix("Value error, ")
    return hide(f"{name}{found}: {message}".removeprefix(": "))


def from_words(words: list[str], preset: str = "default") -> Config:
    """Config from ``key=value`` words, as SET and the command line give them. Raises ConfigError.

    preset: what the others change where no word names one.
    """
    return parse({"preset": preset, **settings_of(words)})


def settings_of(words: list[str]) -> dict[str, Any]:
    """``key=value`` words → settings by name, their values still text. Raises ConfigError."""
    settings: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"{hide(word)!r} is not key=value, as in preset=quick")
        field = Config.model_fields.get(key)
        if key in settings:
            both = "" if key in SECRETS else f": {settings[key]} and {value}"
            raise ConfigError(f"{hide(key)} is given twice{both}; expected once")
        settings[key] = None if not value and field and field.default is None else value
    return _tuned(settings)


def load(path: Path) -> Config:
    """Config from the config.json of a run. Raises ConfigError."""
    try:
        settings = disk.read_json(path)
    except (OSError, ValueError) as error:  # no JSON, or no text
        raise ConfigError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: holds {type(settings).__name__}; expected settings by name")
    return parse({key: value for key, value in settings.items() if not _is_hidden(key, value)})


def _is_hidden(name: str, value: Any) -> bool:
    return name in SECRETS and str(value).endswith("/…")
'''


# ===== carcls/disagreement.py =================================================
MODULES["disagreement.py"] = r'''"""Settings that do not go together: what is wrong, as a sentence, or "" (cfg is a Config)."""

from __future__ import annotations

import re
from typing import Any

BLENDS = ("auto", "best", "average", "weights", "logistic", "forest")


def of_network(cfg: Any) -> str:
    """Why the settings of one network do not go together, or ""."""
    if not cfg.stages:
        return "stages: at least one HEIGHTxWIDTHxEPOCHS is needed"
    if cfg.unfreeze == "staged" and len(cfg.stages) < 2:
        return "unfreeze=staged opens the network from stage to stage: at least two are needed"
    if cfg.strength.end > cfg.strength.start:
        return f"strength {cfg.strength}: augmentation weakens towards the end"
    if cfg.views.most < cfg.views.first:
        return f"views {cfg.views.first}-{cfg.views.most}: the second number is the larger one"
    if cfg.views.adaptive and cfg.views.first < 2:
        return f"views {cfg.views}: one view cannot disagree; at least 2 before the -"
    if cfg.views.most > 2 and not cfg.strength.start:
        return f"views {cfg.views} with strength 0: all views after the mirror image are the same"
    if cfg.augment not in ("light", "medium") and cfg.views.most > 1:
        return (
            f"views {cfg.views} with augment {cfg.augment}: the views are drawn from light, which "
            "training has with augment light or medium only; set one of them, or views=1"
        )
    if cfg.oversample and cfg.class_weights != "none":
        return (
            f"oversample=true with class_weights={cfg.class_weights}: both make rare classes count "
            "more, and together too much; set one of them"
        )
    if 0 < cfg.bn_photos < 32:
        return f"bn_photos {cfg.bn_photos}: too few for statistics; at least 32, or 0"
    return ""


def of_ensemble(cfg: Any) -> str:
    """Why what is set of members, blend and pseudo-labels does not go together, or ""."""
    weight = r"(\d+\.?\d*|\.\d+)"
    if cfg.blend not in BLENDS and not re.fullmatch(f"{weight}(/{weight})*", cfg.blend, re.ASCII):
        return f"blend {cfg.blend!r}: expected one of {', '.join(BLENDS)}, or weights as 0.9/0.1"
    if cfg.blend not in BLENDS and len(cfg.blend.split("/")) != len(cfg.members):
        found, wanted = len(cfg.blend.split("/")), len(cfg.members)
        counts = f"{found} weight{'s' * (found > 1)} for {wanted} member{'s' * (wanted > 1)}"
        return f"blend {cfg.blend}: {counts}; expected one for each"
    if cfg.pseudo and (cfg.views.first < 4 or cfg.tta == "never"):
        return (
            f"pseudo with views {cfg.views} and tta {cfg.tta}: whether views agree takes at least "
            "4 of them"
        )
    if cfg.pseudo and cfg.folds > 1:
        return f"pseudo with folds {cfg.folds}: a network goes on with one split only; set folds=1"
    if len(cfg.members) > 1:
        texts = [member.model_dump_json() for member in cfg.member_cfgs()]
        if len(set(texts)) < len(texts):
            return (
                "two members have the same settings, so their average is no better than one; give "
                "them other seeds"
            )
    return ""
'''


# ===== carcls/disk.py =========================================================
MODULES["disk.py"] = r'''"""The disk: paths as people write them, files written whole or not at all, walks of folders."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import re
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from carcls.errors import InputError, full_disk_named

PART = ".part-"  # begins the name of a file that is being written
PHOTO_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
)
# Files that lie beside photos; one of any other kind is looked at, whatever its name says.
_NO_PHOTO = re.compile(
    r"readme|license|thumbs\.db|.*\.(txt|[ct]sv|json|xml|md|html?|css|js|ya?ml|toml|pdf|xlsx?"
    r"|docx?|ini|lnk|url|py|ipynb|sh|bat|aae|xmp|np[yz]|pkl|h5|zip|rar|7z|tar|gz|mp[34]|wav|mov"
    r"|avi|mkv|md5|sha1)",
    re.IGNORECASE,
)
# What zipfile and numpy raise on a file that is no whole .npz, beside OSError and ValueError.
NO_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
# Ways to lock a folder.
ALONE, IN_TURN = fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_EX
TOGETHER = fcntl.LOCK_SH | fcntl.LOCK_NB
_without_locks: set[int] = set()  # file systems of which that was said
_DEEP = 7  # levels: input/models/<owner>/<model>/keras/<variation>/<version>
_MANY = 3000  # folders at most, per root
_PHOTOS = {"train", "test", "test_upload", "train_images", "test_images"}
_PROGRAMS = {"build", "node_modules", "site-packages", "venv", "__pycache__"}


def kaggle_root() -> Path:
    """``/kaggle``, or what CARCLS_KAGGLE_ROOT names (for trying a kernel elsewhere)."""
    return Path(os.environ.get("CARCLS_KAGGLE_ROOT") or "/kaggle")


def on_kaggle() -> bool:
    return (kaggle_root() / "input").is_dir()


def cache_home() -> Path:
    """Where things are kept from run to run: $CARCLS_HOME, else ~/.cache/carcls."""
    home = os.environ.get("CARCLS_HOME")
    return user_path(home) if home else Path.home() / ".cache" / "carcls"


def user_path(text: str) -> Path:
    """A path as a person wrote it: ~ is a home folder. Raises InputError if there is none."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InputError(f"{text}: there is no home folder of {text.partition('/')[0]}") from None


def search_roots() -> list[Path]:
    """Folders in which to look for weights, best first. They need not exist."""
    attached = [kaggle_root() / "input"] if on_kaggle() else []
    return [*attached, cache_home() / "weights", Path()]


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that whoever looks sees the old one or the whole new one. Text is UTF-8."""
    make_folder(path.parent)
    # Names of files that are no UTF-8 come as surrogates, and go back to their bytes.
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    with replacing(path) as part:
        part.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; at the end that file takes the place of ``path``.

    A kill or a power cut leaves the old file or the whole new one; an error leaves the old one.
    """
    suffix = "".join(path.suffixes[-2:])  # writers look at .png or .npz
    part = path.with_name(f"{PART}{path.name}.{os.getpid()}-{threading.get_ident()}{suffix}")
    try:
        with full_disk_named(path):
            yield part
            with part.open("rb+") as file:
                flush(file)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def make_way(path: Path) -> None:
    """A folder in the place of a file that a run goes on from is kept under another name."""
    if path.is_dir() and not path.is_symlink():
        _set_aside(path)


def remove(path: Path) -> None:
    """Nothing of that name any more; a folder in the place of a file keeps what is in it."""
    make_way(path)
    path.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """The folder, and those above it; a file in its place is kept under another name."""
    if not path.is_dir():
        if path.exists():
            _set_aside(path)
        path.mkdir(parents=True, exist_ok=True)


def _set_aside(path: Path) -> None:
    """Rename what is in the place of one of ours."""
    names = (path.with_name(f"{path.name}.aside{n}") for n in itertools.count(1))
    other = next(name for name in names if not name.exists())
    print(f"warning: {path}: not what a run leaves there; it is called {other.name} from now on")
    path.rename(other)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write them so that ``unsealed`` knows whether they were changed since."""
    make_way(path)
    write_atomic(path, json.dumps(sealed(values), indent=2) + "\n")


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises FileNotFoundError without one, else ValueError."""
    try:
        if not path.is_file() and path.exists():
            raise ValueError("not a file")
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except OSError as error:
        raise ValueError(error.strerror) from None


_SEAL = "sha256 of the rest"


def sealed(values: dict[str, Any]) -> dict[str, Any]:
    """These values, and a digest by which ``unsealed`` knows whether they were changed since."""
    return {**values, _SEAL: hashlib.sha256(json.dumps(values).encode()).hexdigest()}


def unsealed(values: Any) -> dict[str, Any]:
    """What was sealed. Raises ValueError if it is not that, or not as it was."""
    if not isinstance(values, dict):
        raise ValueError(f"holds a {type(values).__name__}, not values by name")
    rest = {name: value for name, value in values.items() if name != _SEAL}
    if sealed(rest)[_SEAL] != values.get(_SEAL):
        raise ValueError("changed since a run left it, or of another version")
    return rest


def lock(folder: Path, how: int = ALONE) -> int | None:
    """The folder, which is made if need be, open and locked; None if others have locked it.

    how: ALONE; TOGETHER with others that ask for that; IN_TURN, as soon as the others have done. A
    kill lets go of it. Where the file system knows no locks, a line says so, and all get them.
    """
    make_folder(folder)
    opened = os.open(folder, os.O_RDONLY)  # the folder's own: nothing is left in it
    try:
        fcntl.flock(opened, how)
    except BlockingIOError:
        os.close(opened)
        return None
    except OSError as error:  # some network file systems
        device = os.fstat(opened).st_dev
        if device not in _without_locks:
            _without_locks.add(device)
            why = f"cannot be locked ({error.strerror})"
            print(f"warning: {folder} {why}; two processes in it would spoil each other's work")
    return opened


def unlock(opened: int | None) -> None:
    """Let go of what ``lock`` has returned."""
    if opened is not None:
        with suppress(OSError):  # a forked process may have the folder open too
            fcntl.flock(opened, fcntl.LOCK_UN)
        os.close(opened)


@contextmanager
def locked(folder: Path, how: int = ALONE) -> Iterator[bool]:
    """Whether the folder is locked, until the end, as by ``lock``."""
    opened = lock(folder, how)
    try:
        yield opened is not None
    finally:
        unlock(opened)


def flush(file: IO[bytes]) -> None:
    """Wait until it is on the disk: renamed before its content is, it would be torn."""
    file.flush()
    os.fsync(file.fileno())


# --- Walks ----------------------------------------------------------------------------------------


def tree(folder: Path, depth: int = 3, most: int = 40) -> str:
    """What is in a folder, ``depth`` levels down, in at most ``most`` lines below its name."""
    lines = list(_tree(folder, depth, "  ")) or ["  (empty)"]
    if len(lines) > most:
        lines[most - 1 :] = [f"  … {len(lines) - most + 1} more lines"]
    return "\n".join([f"{folder}/", *lines])


def _tree(folder: Path, depth: int, indent: str) -> Iterator[str]:
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        yield f"{indent}({error.strerror or error})"
        return
    folders = [entry for entry in entries if entry.is_dir()]
    files = [entry.name for entry in entries if not entry.is_dir()]
    files.sort(key=lambda name: not name.lower().endswith((".csv", ".zip")))  # what a reader wants
    for entry in folders[:12]:
        yield f"{indent}{entry.name}/"
        if depth > 1:
            yield from _tree(entry, depth - 1, indent + "  ")
    if len(folders) > 12:
        yield f"{indent}… {len(folders) - 12} more folders"
    shown = files if len(files) == 5 else files[:4]  # the fifth takes no more room than "… 1 more"
    yield from (indent + name for name in shown)
    if len(files) > len(shown):
        yield f"{indent}… {len(files) - len(shown)} more files"


def folders_below(root: Path) -> Iterator[Path]:
    """The folder and those below it, level by level; none hidden, of photos or of programs."""
    level: list[Path] = [root] if root.is_dir() else []
    seen: set[Path] = set()
    for _ in range(_DEEP + 1):
        below = []
        for folder in level:
            try:
                real = folder.resolve()
                with os.scandir(folder) as entries:
                    names = sorted(entry.name for entry in entries if entry.is_dir())
            except OSError:  # no permission, or gone meanwhile
                continue
            if real in seen or len(seen) >= _MANY:
                continue
            seen.add(real)
            yield folder
            names = [name for name in names if name not in _PHOTOS | _PROGRAMS]
            below += [folder / name for name in names if not name.startswith(".")]
        level = below


def is_junk(name: str) -> bool:
    """Whether a file or folder is hidden, or a Mac's: ._1.jpg in its zip files is no photo."""
    return name.startswith((".", "__MACOSX"))


def photo_files(folder: Path) -> Iterator[tuple[str, str]]:
    """(subfolder as a posix path, "" for the folder itself; name) of all files but hidden ones.

    A link to a folder elsewhere counts as that folder, once.
    """
    top, seen = folder.resolve(), set[Path]()

    def is_new(inside: Path) -> bool:
        if not inside.is_symlink():
            return True
        target = inside.resolve()
        if target in seen or target.is_relative_to(top) or top.is_relative_to(target):
            return False
        seen.add(target)
        return True

    for at, folders, names in os.walk(folder, followlinks=True):
        wanted = sorted(name for name in folders if not is_junk(name))
        folders[:] = [name for name in wanted if is_new(Path(at, name))]
        relative = Path(at).relative_to(folder).as_posix()
        subfolder = "" if relative == "." else relative
        yield from ((subfolder, name) for name in sorted(names) if not is_junk(name))


def is_photo_name(name: str) -> bool:
    # A third of Path's time, and there are 22,000.
    return os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES  # noqa: PTH122


def may_be_photo(name: str) -> bool:
    """Whether the content of a file must tell: photos may have an unusual extension, or none."""
    return not _NO_PHOTO.fullmatch(name)
'''


# ===== carcls/errors.py =======================================================
MODULES["errors.py"] = r'''"""What a run may end with, as one tree, and the one way in which a process ends with it."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class CarclsError(Exception):
    """Anything that the package itself raises; the message is for the person who runs it."""


class ConfigError(CarclsError, ValueError):
    """A setting that cannot be used: its name, what was found, what was expected."""


class InputError(CarclsError, ValueError):
    """Files that cannot be used: their names, what was found, what was expected."""


class TrainingDiverged(CarclsError, RuntimeError):  # noqa: N818  (it says what happened)
    """The loss is no longer a number. Arguments: where it happened, and what to try."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


class Stopped(BaseException):
    """The run was told to end (SIGTERM); what it has done so far is in the run folder."""

    def __init__(self, how: str, number: int = 15):
        super().__init__(how)
        self.number = number  # of the signal


# What ends a run without a traceback, on the command line and in a kernel, with its exit code.
EXIT_CODES: dict[type[BaseException], int] = {
    ConfigError: 2,
    InputError: 2,
    BrokenPipeError: 141,  # nobody reads the output any more: as SIGPIPE ends others
    OSError: 2,  # a full disk, a folder that may not be read, another in a file's place
    MemoryError: 2,
    TrainingDiverged: 3,
    KeyboardInterrupt: 130,
    Stopped: 143,
}


def exit_code(error: BaseException) -> int:
    """The exit code of a process that this error ends; 1 if it is not in EXIT_CODES."""
    if isinstance(error, Stopped):
        return 128 + error.number
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)


def last_words(error: BaseException) -> str:
    """The one line that such a process prints on stderr."""
    if isinstance(error, KeyboardInterrupt):
        return "carcls: stopped by hand; the same command goes on from the last whole epoch"
    if isinstance(error, Stopped):
        return f"carcls: stopped by {error}"
    if isinstance(error, MemoryError):
        return f"carcls: too little memory{f' ({error})' if str(error) else ''}"
    if isinstance(error, OSError) and error.filename:
        return f"carcls: {error.filename}: {error.strerror}"
    return f"carcls: {error}"


def end_well(work: Callable[[], Any]) -> int:
    """Do the work of a process; what ends it is said in one line. Returns its exit code."""
    show_all()
    code = 0
    try:
        work()
    except tuple(EXIT_CODES) as error:
        code = exit_code(error)
        if not isinstance(error, BrokenPipeError):
            with suppress(OSError):  # its terminal is gone
                print(last_words(error), file=sys.stderr, flush=True)
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:  # Python would flush again at its end, and complain
                code = code or EXIT_CODES[BrokenPipeError]
                with suppress(OSError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


def show_all() -> None:
    """Let stdout and stderr take every text: what their encoding lacks is shown by its number."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed, and the next file that is opened would get its number
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):  # a notebook's has no such method
            # Line by line: a Kaggle script's output would come late.
            stream.reconfigure(errors="backslashreplace", line_buffering=True)


# --- A full disk ----------------------------------------------------------------------------------

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """A full disk, or a limit of it, is an OSError that names the folder and what is free there."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        free = shutil.disk_usage(path.parent).free / 1e6
        told = f"{error.strerror}: {free:,.1f} MB free; what is finished stays, and with more room "
        told += "the same run goes on from it"
        raise OSError(error.errno, told, str(path.parent)) from None
'''


# ===== carcls/hosts.py ========================================================
MODULES["hosts.py"] = r'''"""Several hosts that train as one with JAX: which one this is, and what they have to agree on.

Process 0 writes and prints; the others run the same in a folder of their own that vanishes.
"""

from __future__ import annotations

import atexit
import io
import os
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from carcls.errors import ConfigError


def process_of() -> tuple[int, int]:
    """(number of this process, how many train together), from jax.distributed's variables.

    (0, 1) where JAX_NUM_PROCESSES is unset or 1. Raises ConfigError if they do not go together.
    """
    found = {name: os.environ.get(name, "") for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")}
    if found["JAX_NUM_PROCESSES"] in ("", "1"):
        return 0, 1
    for name, value in found.items():
        if not value.isdecimal():
            raise ConfigError(
                f"{name}={value!r}: expected a whole number, as JAX_NUM_PROCESSES is set"
            )
    processes, process = map(int, found.values())
    if process >= processes:
        raise ConfigError(
            f"JAX_PROCESS_ID={process}: expected 0 to {processes - 1}, as "
            f"JAX_NUM_PROCESSES={processes}"
        )
    address = os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    host, _, port = address.rpartition(":")
    is_host = re.fullmatch(r"[^\s/:@]+|\[[\w:.%]+\]", host)
    if not is_host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"JAX_COORDINATOR_ADDRESS={address!r}: expected host:port of process 0")
    return process, processes


def join(process: int, processes: int) -> None:
    """Meet the other processes, before anything asks JAX for its devices."""
    import jax

    # CPUs have no collectives of their own; other devices ignore this.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(os.environ["JAX_COORDINATOR_ADDRESS"], processes, process)


def own_folder(scratch: Path) -> Path:
    """A run folder that vanishes with its process, not process 0, which prints no more."""
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  # for as long as the process lives
    scratch.mkdir(parents=True, exist_ok=True)
    out = tempfile.mkdtemp(dir=scratch, prefix="process-")
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    return Path(out)


def share_files(out: Path, scratch: Path) -> None:
    """Copy process 0's run folder, but for scratch, to the other processes' ones.

    A run that goes on from its files must find the same ones everywhere. Every process calls it.
    """
    process, processes = process_of()
    if processes == 1:
        return
    packed = io.BytesIO()
    if process == 0:
        with zipfile.ZipFile(packed, "w") as archive:
            for path in sorted(out.rglob("*")):
                if path.is_file() and scratch not in path.parents:
                    archive.write(path, path.relative_to(out))
    own = np.frombuffer(packed.getvalue(), np.uint8)
    size = int(_from_first(np.uint32(len(own))))
    sent = _from_first(own if process == 0 else np.zeros(size, np.uint8))
    if process:
        with zipfile.ZipFile(io.BytesIO(sent.tobytes())) as archive:
            archive.extractall(out)


def agree(value: float) -> float:
    """Process 0's value, everywhere, in float32: what depends on a clock must not differ.

    Every process has to call it, equally often, or they wait for each other for ever.
    """
    return float(_from_first(np.float32(value)))


def _from_first(value: Any) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(value))
'''


# ===== carcls/jobs.py =========================================================
MODULES["jobs.py"] = r'''"""Which networks are to be made: members, their folds, and those that go on with more photos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from carcls import disk
from carcls.config import Config
from carcls.data import photos
from carcls.data.labels import spreadsheet_safe
from carcls.data.photos import TEST, TRAIN, VALIDATION, Rows
from carcls.member import Member
from carcls.session import Session
from carcls.train import clock
from carcls.train.job import Job, network_name
from carcls.train.studio import BEST
from carcls.votes import pseudo
from carcls.votes.decide import Decision

# Peak rates of networks that go on, as shares of lr (MEASUREMENTS: refit).
PSEUDO_RATE, REFIT_RATE = 0.1, 0.3
TRAINING_COST = 3  # passes of a photo through a network that a training step takes, about


@dataclass
class Phase:
    """Networks that go on with more photos, one a member, and what became of them."""

    name: str  # of the folder inside a member's: "pseudo" or "refit"; "tuned" has none
    jobs: list[Job | None] = field(default_factory=list)  # None: this member stays as it is
    about: dict[str, Any] = field(default_factory=dict)  # for result.json and the report

    @property
    def is_on(self) -> bool:
        return bool(self.about)


def phases(tuned: dict[str, Any]) -> dict[str, Phase]:
    """Each phase by name, before there is one; tuned: what a search says, for the report, too."""
    later = {name: Phase(name) for name in ("pseudo", "refit")}
    return {"tuned": Phase("tuned", about=tuned), **later}


def members(s: Session) -> Iterator[list[Job]]:
    """The jobs of each member: one, or one a fold."""
    splits = photos.splits(s.table, s.cfg.folds, s.cfg.seed)
    for number, cfg in enumerate(s.cfg.member_cfgs()):
        folder, jobs = _folder(s, number), []
        for k, (learn, check) in enumerate(splits):
            inside = folder / f"fold{k + 1}" if len(splits) > 1 else folder
            name, share = network_name(s.cfg, number, k), _share(s, "member", number, k)
            jobs.append(Job(name, inside, cfg, learn, check, share=share))
        yield jobs


def pseudo_labels(s: Session, members: Sequence[Member], decision: Decision) -> Phase:
    """Each member goes on with test photos that all members and nearly all views agree on."""
    phase = Phase("pseudo")
    (s.place.out / "pseudo.csv").unlink(missing_ok=True)  # an earlier run's
    if not s.cfg.pseudo:
        return phase
    s.say("pseudo-labels")
    chosen = pseudo.choose(members, decision.gates, s.table, s.cfg.views, s.metric)
    print(chosen.line, *(f"warning: {text}" for text in chosen.warnings), sep="\n")
    rows = pseudo.table(chosen, members, s.table.classes)
    disk.write_atomic(s.place.out / "pseudo.csv", spreadsheet_safe(rows).to_csv(index=False))
    phase.about = {
        "chosen": chosen.line,
        "photos": len(chosen.rows),
        "warnings": list(chosen.warnings),
    }
    s.verdict("pseudo", len(chosen.rows) > 0, chosen.line)
    if len(chosen.rows):
        learn, check = s.table.rows(TRAIN) + chosen.rows, s.table.rows(VALIDATION)
        for number, member in enumerate(members):
            cfg = _settings_to_go_on(s, number, member, s.cfg.pseudo, PSEUDO_RATE)
            phase.jobs.append(_job_to_go_on(s, "pseudo", number, member, cfg, (learn, check)))
    return phase


def refit(s: Session, members: Sequence[Member], decision: Decision) -> Phase:
    """Each member that the blend uses goes on with the validation photos too.

    What validation has measured before stays. Pseudo-labels are used again where they were kept.
    """
    phase = Phase("refit")
    if not s.cfg.refits:
        return phase
    s.say("refit")
    labelled = s.table.rows(TRAIN) + s.table.rows(VALIDATION)
    epochs = f"{s.cfg.refits} epoch{'s' * (s.cfg.refits > 1)}"
    print(f"{epochs} on all {len(labelled):,} labelled photos; what validation measured stays")
    phase.about = {"photos": len(labelled)}
    weights = decision.choice.blend.weights
    for number, member in enumerate(members):
        if weights is not None and not weights[number]:
            phase.jobs.append(None)
            continue
        learn = labelled + _pseudo_labelled(s, member)
        cfg = _settings_to_go_on(s, number, member, s.cfg.refits, REFIT_RATE)
        nothing = Rows(np.empty(0, int), np.empty(0, np.int64))
        phase.jobs.append(_job_to_go_on(s, "refit", number, member, cfg, (learn, nothing)))
    return phase


def _folder(s: Session, number: int) -> Path:
    return s.place.out / f"member{number + 1}"


def _pseudo_labelled(s: Session, member: Member) -> Rows:
    """The pseudo-labelled photos that the member's network learned, behind the train photos."""
    learn, count = member.networks[-1].job.learn, len(s.table.rows(TRAIN))
    return learn.take(np.arange(count, len(learn)))


def _settings_to_go_on(s: Session, number: int, member: Member, epochs: int, rate: float) -> Config:
    """The member's settings for some more epochs at its last size and a share of its rate."""
    cfg = s.cfg.member_cfgs()[number]
    height, width = member.size
    unfreeze = "all" if cfg.unfreeze == "staged" else cfg.unfreeze
    stages = f"{height}x{width}x{epochs}"
    return cfg.replace(stages=stages, lr=cfg.lr * rate, unfreeze=unfreeze, pseudo=0, refit_epochs=0)


def _job_to_go_on(
    s: Session, name: str, number: int, member: Member, cfg: Config, rows: tuple[Rows, Rows]
) -> Job:
    learn, check = rows
    if not len(check):  # there is nothing to stop or slow down by
        plateau = cfg.schedule == "plateau"
        cfg = cfg.replace(patience=0, schedule="cosine" if plateau else cfg.schedule)
    start = member.networks[-1].job.folder / BEST
    folder, share = _folder(s, number) / name, _share(s, name, number)
    return Job(f"member {member.name}, {name}", folder, cfg, learn, check, start, share)


# --- Shares of the time ---------------------------------------------------------------------------


def _share(s: Session, name: str, number: int, fold: int = 0) -> float:
    """A network's work as a share of its own and all that is planned after it."""
    works = _works(s)
    keys = list(works)
    ahead = keys[keys.index((name, number, fold)) :]
    return works[name, number, fold] / sum(works[key] for key in ahead)


def _works(s: Session) -> dict[tuple[str, int, int], float]:
    """Work of each network that is planned, in order: pixels through it, predictions too."""
    cfg, n_test = s.cfg, len(s.table.rows(TEST))
    n_learn, n_check = len(s.table.rows(TRAIN)), len(s.table.rows(VALIDATION))
    works: dict[tuple[str, int, int], float] = {}

    def add(key: tuple[str, int, int], member: Config, learned: float, checked: int) -> None:
        """learned: pixels × photos that are trained on, each time that they are."""
        last = member.stages[-1].height * member.stages[-1].width
        voting = clock.passes(member.asked_views, checked, n_test) * last
        works[key] = TRAINING_COST * learned + voting

    for number, member in enumerate(cfg.member_cfgs()):
        pixels = sum(stage.epochs * stage.height * stage.width for stage in member.stages)
        for k, (learn, check) in enumerate(photos.splits(s.table, cfg.folds, cfg.seed)):
            add(("member", number, k), member, pixels * len(learn), len(check))
    for name, epochs, n_learned, n_checked in (
        ("pseudo", cfg.pseudo, n_learn + n_test, n_check),
        ("refit", cfg.refits, n_learn + n_check, 0),
    ):
        for number, member in enumerate(cfg.member_cfgs()) if epochs else ():
            pixels = epochs * member.stages[-1].height * member.stages[-1].width
            add((name, number, 0), member, pixels * n_learned, n_checked)
    return works
'''


# ===== carcls/machine.py ======================================================
MODULES["machine.py"] = r'''"""Backend, devices, precision and compiler: each choice is made here, once, and has its reason."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from carcls import hosts, memory
from carcls.config import Config
from carcls.errors import ConfigError

HEAD = "head"  # name of the output layer; of several processes each gets all of its logits


@dataclass(frozen=True)
class Machine:
    """What a run computes on."""

    backend: str  # "tensorflow" or "jax"
    devices: tuple[str, ...]  # of all processes
    precision: str = "float32"  # a Keras dtype policy
    xla: bool = False  # steps are compiled
    kind: str = "cpu"  # of the devices; or "gpu", "tpu"
    strategy: Any = None  # tf.distribute strategy with several GPUs
    process: int = 0  # of several that train together; only process 0 writes and prints
    processes: int = 1
    reasons: tuple[str, ...] = ()  # a line for each choice

    @property
    def fast_layers(self) -> bool:
        """Whether nets.fast's kernels are taken: where TensorFlow computes without a compiler."""
        return self.backend == "tensorflow" and not self.xla

    def batch_size(self, wanted: int, rows: int | None = None) -> int:
        """Photos a step, all devices together: the multiple of their number nearest to ``wanted``.

        Of ``rows``, for training, at most as many as all devices can share evenly; always at least
        one photo a device.
        """
        devices = len(self.devices)
        batch = (wanted + devices // 2) // devices * devices
        if rows is not None:
            batch = min(batch, rows // devices * devices)
        return max(devices, batch)

    def agree(self, value: float) -> float:
        """The same value in all processes, each of which has to call this."""
        return hosts.agree(value) if self.processes > 1 else value


ONE_DEVICE = Machine("tensorflow", ("any",))  # for batches that no machine has asked for


def setup(cfg: Config) -> Machine:
    """Choose and prepare everything that must be ready before the first layer is built.

    It comes before any import of Keras, which then reads its backend. Raises ConfigError where
    Keras has another one already, or the settings do not go together.
    """
    memory.check_limit()
    process, processes = hosts.process_of()
    backend, why_backend = _backend(cfg, processes)
    _prepare(backend)
    if processes > 1:
        hosts.join(process, processes)

    import keras
    import tensorflow as tf

    if backend == "jax":
        with suppress(RuntimeError):  # a notebook has used them already
            tf.config.set_visible_devices([], "GPU")  # TensorFlow only feeds, and must leave them
        devices, kind, has_bfloat16 = _jax_devices(keras, processes)
        if cfg.backend == "auto" and processes == 1 and kind == "cpu":
            raise ConfigError(
                "backend=auto: a TPU is attached, but jax finds none; restart the machine, install "
                "jax[tpu], or set backend=tensorflow"
            )
    else:
        devices, kind, has_bfloat16 = _tf_devices(tf)
        if kind == "cpu":
            # The same run from the same seed, byte for byte. On a GPU it would forbid XLA.
            tf.config.experimental.enable_op_determinism()
    expect_accelerator(cfg, kind)
    precision, why_precision = _precision(cfg, kind, has_bfloat16)
    keras.config.set_dtype_policy(precision)
    keras.utils.set_random_seed(cfg.seed)
    xla, why_xla = _xla(cfg, kind, backend, len(devices))
    is_mirrored = backend == "tensorflow" and kind == "gpu" and len(devices) > 1
    strategy = tf.distribute.MirroredStrategy() if is_mirrored else None
    found = "no accelerator found" if kind == "cpu" else "the fastest one here"
    machine = Machine(backend, tuple(devices), precision, xla, kind, strategy, process, processes)
    reasons = (
        f"backend    {backend}: {why_backend}",
        f"device     {len(devices)} × {kind} ({devices[0]}): {found}",
        *_shares(cfg, machine),
        f"precision  {precision}: {why_precision}",
        f"XLA        {'on' if xla else 'off'}: {why_xla}",
        *_kernels(machine),
    )
    return replace(machine, reasons=reasons)


# --- The choices, each with its reason ------------------------------------------------------------


def _backend(cfg: Config, processes: int) -> tuple[str, str]:
    if cfg.backend == "tensorflow" and processes > 1:
        raise ConfigError(
            f"backend=tensorflow: JAX_NUM_PROCESSES={processes}, and only jax trains in several "
            "processes; expected auto or jax"
        )
    if importlib.util.find_spec("jax") is None and (cfg.backend == "jax" or processes > 1):
        raise ConfigError(
            "backend=jax: jax is not installed; expected auto or tensorflow, or pip install jax"
        )
    if cfg.backend != "auto":
        return cfg.backend, "as set"
    if processes > 1:
        return "jax", "it trains in several processes"
    if has_tpu():
        return "jax", "a TPU is attached, which this TensorFlow cannot drive"
    return "tensorflow", "no TPU is attached"


def _prepare(backend: str) -> None:
    """Set what Keras and TensorFlow read when they are imported."""
    if "keras" in sys.modules and (found := sys.modules["keras"].backend.backend()) != backend:
        raise ConfigError(
            f"backend={backend}: keras is already imported with {found}; set "
            f"KERAS_BACKEND={backend} first"
        )
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    # As TensorFlow is told below: JAX alone would take three quarters of every GPU at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # By itself TensorFlow takes oneDNN's kernels only with AVX-512; without it they take a third
    # off a step (MEASUREMENTS: oneDNN).
    if "tensorflow" not in sys.modules:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    memory.keep_freed()


# As in jax/_src/hardware_utils.py of jax 0.7.2; Google's network cards have other device numbers.
_GOOGLE, _TPUS = "0x1ae0", {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}
_NVIDIA, _AMD, _DISPLAY = "0x10de", "0x1002", "0x03"
_PCI = Path("/sys/bus/pci/devices")


def has_tpu(pci: Path = _PCI) -> bool:
    """Whether the environment or the PCI bus shows a TPU; jax, once imported, would hold it."""
    if os.environ.get("TPU_NAME") or os.environ.get("TPU_ACCELERATOR_TYPE"):
        return True
    on_bus = any((card / "device").read_text().strip() in _TPUS for card in _cards(pci, _GOOGLE))
    return on_bus or Path("/dev/accel0").exists()


def has_gpu(pci: Path = _PCI, devices: Path = Path("/dev")) -> bool:
    """Whether the PCI bus or a driver shows a GPU that a framework might use."""
    if any(any(devices.glob(name)) for name in ("nvidia[0-9]*", "kfd", "dxg")):
        return True
    cards = _cards(pci, _NVIDIA, _AMD)
    return any((card / "class").read_text().startswith(_DISPLAY) for card in cards)


def _cards(pci: Path, *makers: str) -> list[Path]:
    return [v.parent for v in pci.glob("*/vendor") if v.read_text().strip() in makers]


def expect_accelerator(cfg: Config, kind: str = "") -> None:
    """Raise ConfigError where the accelerator that a kernel was pushed for is not there.

    kind: of the devices that the backend sees; "": what the system shows, before any is imported.
    """
    wanted = {"t4": "gpu", "tpu": "tpu"}.get(cfg.accelerator)
    if not wanted or kind == wanted:
        return
    shown = [name for name, is_there in (("gpu", has_gpu()), ("tpu", has_tpu())) if is_there]
    if not kind and wanted in shown:
        return
    found = f"this machine shows {' and '.join(shown) or 'neither GPU nor TPU'}"
    why = (
        "is the week's quota used up (`kaggle quota`), or machine_shape not what make push "
        f"ACCELERATOR={cfg.accelerator} writes (in the editor: Settings → Accelerator)"
    )
    if wanted in shown:
        found += f", the backend sees only {kind}"
        why = "is a driver or the backend's package for it missing, or CUDA_VISIBLE_DEVICES set"
    if wanted == "tpu":
        why += ", or a docker_image pinned, with which there is no TPU"
    raise ConfigError(
        f"accelerator={cfg.accelerator}: {found}; {why}? accelerator=any runs on what there is"
    )


def _tf_devices(tf: Any) -> tuple[list[str], str, bool]:
    """Names, kind, and whether bfloat16 is native."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return [f"{platform.machine()}, {os.cpu_count()} cores"], "cpu", False
    for gpu in gpus:
        with suppress(RuntimeError):  # a notebook has used it already: its memory stays as it is
            tf.config.experimental.set_memory_growth(gpu, True)
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    names = [str(d.get("device_name", gpu.name)) for d, gpu in zip(details, gpus, strict=True)]
    return names, "gpu", all(d.get("compute_capability", (0, 0)) >= (8, 0) for d in details)


def _jax_devices(keras: Any, processes: int) -> tuple[list[str], str, bool]:
    """Names, kind, and whether bfloat16 is native; several train in parallel from here on."""
    import jax

    devices = jax.devices()
    each = [sum(d.process_index == process for d in devices) for process in range(processes)]
    if len(set(each)) > 1:
        raise ConfigError(
            f"JAX_NUM_PROCESSES={processes}: the processes have {each} devices; expected as many "
            "in each"
        )
    if len(devices) > 1:
        keras.distribution.set_distribution(_data_parallel(keras, processes))
    kind = devices[0].platform
    has_bfloat16 = kind == "tpu"
    if kind in ("gpu", "cuda", "rocm"):
        kind = "gpu"
        # "7.5" of a T4, "8.0" of an A100; ROCm's are no numbers, and its cards have bfloat16.
        capable = [str(getattr(d, "compute_capability", "")) for d in devices]
        has_bfloat16 = all(not c.replace(".", "").isdecimal() or float(c) >= 8 for c in capable)
    return [d.device_kind for d in devices], kind, has_bfloat16


def _data_parallel(keras: Any, processes: int) -> Any:
    """Each device holds the network and a share of every batch, which its process makes."""

    class Replicas(keras.distribution.DataParallel):
        def get_tensor_layout(self, path: str) -> Any:
            # A process has the logits of all photos, which ``predict`` returns, not of its own.
            if processes > 1 and path.split("/")[-2:] == [HEAD, "output"]:
                return keras.distribution.TensorLayout([None, None], self.device_mesh)
            return super().get_tensor_layout(path)

    return Replicas(auto_shard_dataset=False)


def _precision(cfg: Config, kind: str, bfloat16: bool) -> tuple[str, str]:
    if cfg.precision != "auto":
        return cfg.precision, "as set"
    if kind == "cpu":
        return "float32", "bfloat16 measured slower on a CPU"
    if bfloat16:
        return "mixed_bfloat16", "native here, and needs no loss scaling"
    return "mixed_float16", "this GPU's tensor cores have no bfloat16"


def _xla(cfg: Config, kind: str, backend: str, count: int) -> tuple[bool, str]:
    """Whether steps are compiled, and why."""
    if backend == "jax":
        return True, "JAX always compiles"
    if kind == "cpu":
        # Keras refuses it, too, where operations are deterministic.
        if cfg.xla == "on":
            raise ConfigError("xla=on: 10 times slower on a CPU; expected auto or off")
        return False, "10 times slower on a CPU"
    if cfg.xla != "auto":
        return cfg.xla == "on", "as set"
    if count > 1:
        # keras issues 21366 and 20763: loss scaling under MirroredStrategy fails when compiled.
        return False, "fails on several GPUs in mixed precision; backend=jax compiles there"
    return True, "on one GPU it fuses the small operations"


def _shares(cfg: Config, machine: Machine) -> list[str]:
    """How several processes and devices share the members' batches."""
    lines, devices = [], len(machine.devices)
    if machine.processes > 1:
        lines = [f"processes  {machine.processes}: JAX_NUM_PROCESSES; process 0 writes and prints"]
    for asked in sorted({member.batch for member in cfg.member_cfgs()}) if devices > 1 else ():
        batch = machine.batch_size(asked)
        nearest = f"; nearest to batch={asked}" if batch != asked else ""
        lines.append(f"batch      {batch}: {batch // devices} a device{nearest}")
    return lines


def _kernels(machine: Machine) -> list[str]:
    """Which kernels compute, where TensorFlow does without a compiler."""
    if not machine.fast_layers:
        return ["batch norm Keras: the compiler fuses it"]
    lines = ["batch norm fused where it can be: faster than Keras's operations, same numbers"]
    if machine.kind == "cpu":
        asked = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
        if asked is None:
            lines.append("CPU maths  TensorFlow's choice: it was imported before this run")
        elif asked == "0":
            lines.append("CPU maths  TensorFlow's own kernels: TF_ENABLE_ONEDNN_OPTS=0")
        else:
            lines.append("CPU maths  oneDNN: faster than TensorFlow's own kernels")
    return lines
'''


# ===== carcls/member.py =======================================================
MODULES["member.py"] = r'''"""A network that has voted, and the one or several that are a member of the ensemble."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from carcls import disk
from carcls.metrics import Metric
from carcls.train.job import Job
from carcls.votes import votes
from carcls.votes.votes import Votes

NOTE = "member.json"  # which networks of a member count


@dataclass(frozen=True)
class Network:
    """A network that was trained and has voted."""

    job: Job
    history: pd.DataFrame  # an epoch a row
    size: tuple[int, int]  # of the photos that it predicts
    seconds: float  # of training, in all sessions
    check_votes: Votes | None  # on the photos that it was checked on; None in a refit
    test_votes: Votes


@dataclass(frozen=True)
class Member:
    """One network, or the folds of one, voting as one."""

    name: str
    folder: Path
    networks: list[Network]  # whose votes on validation photos count
    refit: Network | None = None  # whose votes on test photos count instead
    earlier: tuple[Network, ...] = ()  # what the networks went on from

    @cached_property
    def val(self) -> Votes:
        return votes.join([net.check_votes for net in self.networks if net.check_votes])

    @property
    def test(self) -> list[Votes]:
        return [net.test_votes for net in ([self.refit] if self.refit else self.networks)]

    @property
    def size(self) -> tuple[int, int]:
        return self.networks[-1].size

    @property
    def histories(self) -> dict[str, pd.DataFrame]:
        """Epochs by the folder inside the member's; "" for its only network."""
        networks = [*self.earlier, *self.networks, *([self.refit] if self.refit else [])]
        names = [net.job.folder.relative_to(self.folder).as_posix() for net in networks]
        return {
            "" if name == "." else name: net.history
            for name, net in zip(names, networks, strict=True)
        }

    @property
    def seconds(self) -> float:
        networks = [*self.earlier, *self.networks, *([self.refit] if self.refit else [])]
        return sum(net.seconds for net in networks)

    def save(self, metric: Metric) -> None:
        """Say in member.json which of the networks in its folder count, and what decides."""
        inside = [net.job.folder.relative_to(self.folder).as_posix() for net in self.networks]
        note = {"name": self.name, "networks": inside, "refit": self.refit is not None}
        disk.write_json(self.folder / NOTE, {**note, "metric": metric})


@dataclass(frozen=True)
class SavedMember:
    """A member's votes as its folder has them."""

    name: str
    folder: Path
    val: Votes
    test: list[Votes]
    metric: Metric  # that decided in the run
    folders: list[Path]  # of the networks that vote on test photos
'''


# ===== carcls/memory.py =======================================================
MODULES["memory.py"] = r'''"""Memory: what keeps it, whether there may be enough, and which errors say that there was not."""

from __future__ import annotations

import ctypes
import platform
import resource
import sys

from carcls.errors import InputError

# What TensorFlow and a run on a few small photos take, with some room.
_LEAST = {"RLIMIT_AS": ("v", 3.8e9), "RLIMIT_DATA": ("d", 2.0e9)}
_NO_MEMORY = (
    "RESOURCE_EXHAUSTED",
    "out of memory",
    "OUT_OF_MEMORY",
    "OOM when allocating",
    "CUDNN_STATUS_ALLOC_FAILED",
    "MemoryError",  # of Python code inside tf.data, where batches are made
)


def keep_freed() -> None:
    """Let glibc keep large freed blocks instead of returning them to the system.

    TensorFlow takes and frees its activations at every operation; above 32 MB each is a new mapping
    whose pages fault one by one: relu6 on 50 MB takes 30 ms, with this 6.4 ms.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD
    for option, value in ((-3, 1 << 30), (-1, 2**31 - 1), (-2, 256 << 20)):
        libc.mallopt(option, value)


def check_limit() -> None:
    """Raise InputError where a limit of this process is too low: TensorFlow ends with no word."""
    for name, (letter, least) in _LEAST.items():
        limit = resource.getrlimit(getattr(resource, name))[0]
        if resource.RLIM_INFINITY != limit < least:
            raise InputError(
                f"ulimit -{letter}: this process may take {limit / 1e9:.1f} GB of memory; "
                f"TensorFlow and a small run need {least / 1e9:.1f} GB; raise it, or set it to "
                "unlimited"
            )


def errors() -> tuple[type[BaseException], ...]:
    """What to catch and then ask ``ran_out`` about: errors of the machine."""
    found: list[type[BaseException]] = [MemoryError]
    if "tensorflow" in sys.modules:
        tf_errors = sys.modules["tensorflow"].errors
        # cuDNN's and XLA's failures to get memory arrive as InternalError or UnknownError.
        found += [tf_errors.ResourceExhaustedError, tf_errors.InternalError, tf_errors.UnknownError]
    if "jax" in sys.modules:
        found.append(sys.modules["jax"].errors.JaxRuntimeError)  # XlaRuntimeError is the same class
    return tuple(found)


def ran_out(error: BaseException) -> bool:
    """Whether the host's or the device's memory did not suffice, so that a smaller batch may do."""
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return True
    # JAX has no class of its own for it, and TensorFlow not for all of its libraries.
    return isinstance(error, errors()) and any(word in str(error) for word in _NO_MEMORY)
'''


# ===== carcls/metrics.py ======================================================
MODULES["metrics.py"] = r'''"""What predictions are scored by. Everywhere probs are (photos, classes), each row sums to 1, and
labels (photos,) int64 are the true classes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

TINY = 1e-7  # the least probability that a logarithm is taken of: one 0 alone would decide
Metric = str  # one of NAMES


def losses(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(photos,) float64: −log of the true class's probability, at most −log(TINY)."""
    return -np.log(np.maximum(probs[np.arange(len(labels)), labels], TINY))


def log_loss(probs: np.ndarray, labels: np.ndarray) -> float:
    """Mean of the losses."""
    return float(losses(probs, labels).mean())


def accuracy(probs: np.ndarray, labels: np.ndarray) -> float:
    """Share of the photos whose most probable class is the true one."""
    return float((probs.argmax(1) == labels).mean())


def confusion(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(classes, classes) int64: photos by true and most probable class."""
    n = probs.shape[1]
    return np.bincount(n * labels + probs.argmax(1), minlength=n * n).reshape(n, n)


def f1_macro(probs: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that occur, as true or as predicted ones, of F1."""
    table = confusion(probs, labels)
    both = table.sum(0) + table.sum(1)
    return float((2 * table.diagonal()[both > 0] / both[both > 0]).mean())


def balanced_accuracy(probs: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the true classes of the share of their photos that are right."""
    table = confusion(probs, labels)
    count = table.sum(1)
    return float((table.diagonal()[count > 0] / count[count > 0]).mean())


def auc(probs: np.ndarray, labels: np.ndarray) -> float:
    """Of two classes: how often a photo of the one gets more of it than one of the other.

    NaN where one of them is missing (Mann and Whitney 1947; ties count half).
    """
    from scipy.stats import rankdata  # takes long to import

    ranks, positive = rankdata(probs[:, 1]), labels == 1
    n = int(positive.sum())
    if n in (0, len(labels)):
        return float("nan")
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(labels) - n)))


_VALUES: dict[Metric, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "log_loss": log_loss,
    "f1_macro": f1_macro,
    "balanced_accuracy": balanced_accuracy,
    "auc": auc,
}
NAMES = tuple(_VALUES)
SHOWN = {  # in logs and on pages
    "accuracy": "accuracy",
    "log_loss": "log-loss",
    "f1_macro": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
}


def value(metric: Metric, probs: np.ndarray, labels: np.ndarray) -> float:
    """The metric of these predictions, as competitions give it."""
    return _VALUES[metric](probs, labels)


def merit(metric: Metric, value: float) -> float:
    """The same, so that more is better, and no number is the worst."""
    if math.isnan(value):
        return -math.inf
    return -value if metric == "log_loss" else value


def shown(metric: Metric, value: float) -> str:
    """As "0.9123 macro F1"."""
    return f"{value:.4f} {SHOWN[metric]}"
'''


# ===== carcls/network.py ======================================================
MODULES["network.py"] = r'''"""One job → a trained network and its votes, or both read back from the run folder."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from carcls import disk, memory, metrics, record, stops
from carcls.config import Config
from carcls.data.batches import Looks, make_batches
from carcls.data.photos import TEST, VALIDATION, Rows
from carcls.errors import InputError, TrainingDiverged
from carcls.jobs import Phase
from carcls.member import NOTE, Member, Network, SavedMember
from carcls.nets import fast
from carcls.session import Session
from carcls.train import clock, loop, steps
from carcls.train.job import Job, member_name
from carcls.train.studio import BEST, Announce, Trained
from carcls.values import Views
from carcls.votes import cast, decide, evidence, votes
from carcls.votes.votes import Votes

# --- Making networks ------------------------------------------------------------------------------


def make_all(s: Session, jobs: Sequence[Job], announces: bool) -> Member | None:
    """The member that these jobs make, with as many folds as there is time for; None: no time.

    announces: offer submissions while it is being made, as there is nothing better yet.
    """
    folder = jobs[0].folder if len(jobs) == 1 else jobs[0].folder.parent
    name = jobs[0].name.removeprefix("member ").partition(", fold")[0]
    disk.remove(folder / NOTE)  # written again once there are votes
    member = None
    for number, job in enumerate(jobs):
        s.say(f"train {job.name}", f"{len(job.learn)} photos to train, {len(job.check)} to check")
        is_first = announces and not number
        network = make(s, job, is_first)
        if network is None and is_first and job.share < 1:  # one network rather than none
            network = make(s, replace(job, share=1.0), is_first)
        if network is None:
            break
        member = Member(name, folder, [*(member.networks if member else []), network])
        member.save(s.metric)
        if announces and number + 1 < len(jobs):
            _offer(s, member, f"{number + 1} of {len(jobs)} folds")
    return member


@fast.forgetting_traces()
def make(s: Session, job: Job, announces: bool = False) -> Network | None:
    """Train a network and let it vote; what is there of the same facts is read back.

    None, with a line that says so, if there is no time to train it. Raises TrainingDiverged.
    """
    stops.check()
    disk.make_folder(job.folder)
    deadline = s.clock.deadline(job.share)
    trained = loop.read_back(s, job)
    if trained is None:
        announce = _announcer(s, job) if announces else None
        trained = loop.train(s, job, deadline, announce)
    if trained is None:
        print(f"skipped    {job.name}: no time to train it")
        return None
    check_votes, test_votes = _vote(s, job, trained, deadline)
    network = Network(
        job, pd.DataFrame(trained.rows), trained.size, trained.seconds, check_votes, test_votes
    )
    del trained
    gc.collect()  # before the next network is made
    return network


def remake(s: Session, members: list[Member], phase: Phase) -> list[Member]:
    """The members after a phase: each goes on as its job says, kept only on evidence.

    What became of each goes to ``phase.about``.
    """
    kept, reasons, after = [], [], []
    for member, job in zip(members, phase.jobs, strict=True) if phase.jobs else ():
        replaced, reason = _try_to_go_on(s, member, job)
        print(f"member {member.name}: {reason}")
        s.verdict(phase.name, replaced is not member, reason, f"member {member.name}")
        kept.append(replaced is not member)
        reasons.append(reason)
        after.append(replaced)
        replaced.save(s.metric)
    phase.about |= {"kept": kept, "reasons": reasons} if phase.is_on else {}
    return after or members


def _try_to_go_on(s: Session, member: Member, job: Job | None) -> tuple[Member, str]:
    """The member with the network of that job if it may count, else as it is; and why."""
    if job is None:
        return member, "stays: the blend does not use it"
    try:
        network = make(s, job)
    except TrainingDiverged as error:
        return member, f"stays: going on diverged ({error.args[0]})"
    if network is None:
        return member, "stays: no time to go on"
    asked = s.cfg.asked_views
    before = member.val.as_asked(asked)
    if network.check_votes is None:  # it has learned the validation photos
        gate = decide.gate(s.cfg.tta, before, s.metric)
        accuracy = metrics.accuracy(before.used(gate), before.labels)
        was, now = member.test[0].used(gate), network.test_votes.used(gate)
        why = evidence.moved_too_far(accuracy, len(before.ids), was, now)
        changed = int((was.argmax(1) != now.argmax(1)).sum())
        if why:
            return member, f"stays: {why}"
        return replace(member, refit=network), f"replaced: {changed:,} test photos change class"
    change = network.check_votes.as_asked(asked).change_from(before, s.metric)
    if not change.helps:
        return member, f"stays: {change}"
    earlier = (*member.earlier, *member.networks)
    return replace(member, networks=[network], earlier=earlier), f"replaced: {change}"


# --- Announcing -----------------------------------------------------------------------------------


def _announcer(s: Session, job: Job) -> Announce:
    def announce(net: keras.Model, size: tuple[int, int], what: str, score: float) -> None:
        """Offer what a network in training predicts by one view."""
        rows, one = s.table.rows(TEST), Views(first=1, most=1)
        try:
            with steps.told(s.events, job.name, "an early submission"):
                cache = s.photos(size, job.cfg.fit)
                test = cast.cast_votes(net, cache, rows, one, job.cfg, s.machine)
        except TrainingDiverged as error:  # training may find its way back
            print(f"warning: no submission yet: {error}")
            return
        what = f"{job.name.partition(',')[0]}: {what}, one view"
        s.submission.offer(test.ids, test.alone(), what, score, early=True)

    return announce


def _offer(s: Session, member: Member, what: str) -> None:
    """Offer what the networks of a member predict so far."""
    val = member.val.as_asked(s.cfg.asked_views)
    gate = decide.gate(s.cfg.tta, val, s.metric)
    probs = np.mean([test.used(gate) for test in member.test], 0)
    score = metrics.value(s.metric, val.used(gate), val.labels)
    name = f"member {member.name.partition(' ')[0]}: {what}"
    s.submission.offer(member.test[0].ids, probs, name, score, early=True)


# --- Voting ---------------------------------------------------------------------------------------


def _vote(s: Session, job: Job, trained: Trained, deadline: float) -> tuple[Votes | None, Votes]:
    """Votes on the photos to check, if any, and on the test photos; read back where they fit."""
    net, views, found = trained.net, None, {}
    done, asked = record.Steps(job.folder), job.cfg.asked_views
    for which, rows in (("validation", job.check), ("test", s.table.rows(TEST))):
        if not len(rows):
            continue
        facts, file = _facts(s, job, trained, rows), f"votes_{which}.npz"
        about = done.about(f"{which} votes", facts) if job.cfg.resume else None
        if about and about["views"] != str(views or asked):
            # They were cut short for want of time; where there is time now, they are cast anew.
            if not views and s.machine.agree(deadline - time.monotonic()) > 0:
                net = net or loop.load(job.folder, job.cfg, len(s.table.classes), s.machine)
                views = _affordable(s, job, trained.size, net, deadline)
            if views and views.most > Views.model_validate(about["views"]).most:
                about = None
        read = _read_votes(s, job.folder / file, rows) if about else None
        if about and read:
            print(f"votes      on {which} photos cast before, taken from {job.folder / file}")
            views = Views.model_validate(about["views"])
            found[which] = replace(read, combine=job.cfg.tta_combine)
            continue
        net = net or loop.load(job.folder, job.cfg, len(s.table.classes), s.machine)
        views = views or _affordable(s, job, trained.size, net, deadline)
        # Validation photos get every view that a test photo may get: tables and gate need them.
        cast_views = Views(first=views.most, most=views.most) if which == "validation" else views
        cache = s.photos(trained.size, job.cfg.fit)
        began = time.monotonic()
        with steps.told(s.events, job.name, f"{which} votes"):
            found[which] = cast.cast_votes(net, cache, rows, cast_views, job.cfg, s.machine)
        found[which].save(job.folder / file)
        seconds = round(time.monotonic() - began, 3)
        facts |= s.spoiled(rows)
        done.finish(f"{which} votes", facts, [file], views=str(views), seconds=seconds)
    return found.get("validation"), found["test"]


def _read_votes(s: Session, path: Path, rows: Rows) -> Votes | None:
    """Votes that were cast before; None, with a line that says why, if they are damaged."""
    try:
        read = votes.load(path)
        if read.ids != s.table.frame["id"].iloc[rows.rows].astype(str).tolist():
            raise InputError(f"{path}: of other photos")
    except InputError as error:
        print(f"{error}; cast anew")
        return None
    return read


def _facts(s: Session, job: Job, trained: Trained, rows: Rows) -> record.Facts:
    """What votes are made from."""
    cfg = job.cfg
    return {
        "size": trained.size,
        "fit": cfg.fit,
        "seed": cfg.seed,
        "views": str(cfg.asked_views),
        "strength of views": cfg.view_strength if cfg.asked_views.most > 2 else None,
        "the photos": record.rows(*job.photos(s.table.frame, rows)),
        "the weights": record.Steps(job.folder).digest(loop.TRAINING, BEST),
        "OpenCV": record.opencv(),
        "the package's code": record.source_hash(),
    }


def _affordable(
    s: Session, job: Job, size: tuple[int, int], net: keras.Model, deadline: float
) -> Views:
    """As many of the views that are set as there is time for, at least one, by a short trial."""
    asked = job.cfg.asked_views
    if not s.clock.is_limited or asked.most == 1:
        return asked
    test = s.table.rows(TEST)
    rows, number = (job.check if len(job.check) else test), min(2, asked.most - 1)
    cache, looks = s.photos(size, job.cfg.fit), Looks(range(number, number + 1))
    batches = make_batches(cache, rows, len(s.table.classes), looks, job.cfg, s.machine)
    try:
        steps.time_looks(net, batches)  # decoded and traced
        seconds = s.machine.agree(steps.time_looks(net, batches))
    except memory.errors() as error:
        if not memory.ran_out(error) or s.machine.processes > 1:
            raise
        return asked  # voting has its own way with too little memory
    left = s.machine.agree(deadline - time.monotonic())
    views = clock.affordable(asked, len(job.check), len(test), left / max(seconds, 1e-9))
    if views != asked:
        print(f"views      {views} instead of {asked}: {clock.show(left)} left for them")
    return views


def check_views(s: Session) -> None:
    """Raise ConfigError if two test-time views of a member show the same pixels."""
    for cfg in s.cfg.member_cfgs():
        cache = s.photos(cfg.stages[-1].size, cfg.fit)
        cast.check_views_differ(cache, s.table.rows(VALIDATION), cfg)


# --- Reading a run folder -------------------------------------------------------------------------


def load_members(cfg: Config, out: Path) -> list[SavedMember]:
    """The members that a run has left in its folder, the first ones that have all their folds.

    Raises InputError if there is none, or one's files are damaged.
    """
    members: list[SavedMember] = []
    for number in range(len(cfg.members)):
        folder = out / f"member{number + 1}"
        if members and not (folder / NOTE).is_file():
            break
        member = _load_member(folder, member_name(cfg, number), cfg.tta_combine)
        if members and len(member.test) != len(members[0].test):
            break
        members.append(member)
    return members


def _load_member(folder: Path, name: str, combine: Any) -> SavedMember:
    try:
        note = disk.unsealed(disk.read_json(folder / NOTE))
        inside, is_refitted = list(map(str, note["networks"])), bool(note["refit"])
        metric = str(note.get("metric", "accuracy"))  # it always was
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: not what a member of a run leaves ({error})") from None

    def load(sub: str, which: str) -> Votes:
        return replace(votes.load(folder / sub / f"votes_{which}.npz"), combine=combine)

    val = votes.join([load(sub, "validation") for sub in inside])
    predict = ["refit"] if is_refitted else inside
    test = [load(sub, "test") for sub in predict]
    return SavedMember(name, folder, val, test, metric, [folder / sub for sub in predict])


def groups(frame: pd.DataFrame, ids: list[str]) -> np.ndarray:
    """(photos,) int: the group of identical files of each of these labelled photos."""
    labelled = frame[frame["fold"] != TEST]
    return labelled.set_index("id")["group"].loc[ids].to_numpy()
'''


# ===== carcls/presets.py ======================================================
MODULES["presets.py"] = r'''"""What the other settings start from, by name; and the names that settings once had."""

from typing import Any

# What a network of 2,450 photos gains from more augmentation it keeps to the last epoch.
_REGULARISED = {"augment": "medium", "strength": "1", "label_smoothing": 0.1}
_KAGGLE_SIZES = "192x256x{},288x384x{},384x512x{}"
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The drawn sample, in three minutes on two cores (MEASUREMENTS: the sample).
    "sample": {"stages": "64x96x4,96x128x10", "val_fraction": 0.2, "views": 4},
    # 4 and 10 minutes on two cores for 2,450 photos (MEASUREMENTS: rate, size and epochs; refit).
    "quick": {"stages": "144x240x7", "refit_epochs": 1, **_REGULARISED},
    "good": {"stages": "112x192x10,144x240x10", "lr": 2e-3, "refit_epochs": 3, **_REGULARISED},
    # HGNetV2-B5: 85.2 % on ImageNet at 288 px, where the EfficientNetV2-S of keras-cv has 80.1 and
    # efficientnet2_rw_s, at V2-S's cost, 83.8 (`carcls backbones`). It predicts 1.3 times
    # V2-S's photos a second, at 288 px against 384, which by area is about 0.75 times at one size.
    # Sizes after the competition's public ladder, on which 384x512 gained most. Never run on a T4.
    "kaggle": {
        "backbone": "hgnetv2_b5",
        "stages": _KAGGLE_SIZES.format(6, 6, 4),
        "lr": 1e-3,
        "batch": 64,
    },
    # What won a twin of the competition: pretraining, MixUp and CutMix, more epochs, folds. Three
    # networks that differ in kind and in what they have seen (distilled, ImageNet-1k, ImageNet-12k
    # first). The clock shortens all twelve trainings to the session's hours, about 55 minutes
    # each. Never run on a T4.
    "kaggle_best": {
        "members": "backbone=hgnetv2_b5+backbone=efficientnet2_rw_s+backbone=efficientnet_b5_sw_ft",
        "stages": _KAGGLE_SIZES.format(8, 8, 6),
        "folds": 4,
        "mix": "mixup:0.2,cutmix:1",
        "lr": 1e-3,
        "batch": 64,
    },
}

# Settings of older versions, and what says the same now.
RENAMED = {
    "tta_views": "views=8",
    "tta_cap": "views=4-32 (first views, most views)",
    "tta_strength": "strength (views have half of its start)",
    "strength_end": "strength=1-0.5 (start, end)",
    "mixup": "mix=mixup:0.2",
    "cutmix": "mix=cutmix:1",
    "pseudo_epochs": "pseudo=3 (epochs)",
    **dict.fromkeys(
        ("bn_momentum", "min_epochs", "pseudo_agreement", "pseudo_lr", "refit_lr", "cache_share"),
        "nothing: it is no longer a setting",
    ),
}
'''


# ===== carcls/record.py =======================================================
MODULES["record.py"] = r'''"""What is done already: a folder's finished steps, with what each was made from; an earlier run.

A file is written whole before the note that names it, and the note is replaced in one move: a kill
leaves the old record or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from carcls import disk, stops
from carcls.config import Config
from carcls.errors import InputError, full_disk_named

NOTE = "steps.json"
# What a run leaves that a later one goes on from.
_OF_A_NETWORK = (
    r"steps\.json|history\.csv|(best|last)\.weights\.h5|votes_(validation|test)\.npz"
    r"|state/(note\.json|\d+\.npz)|tensorboard/\w+/\w+/events\.out\.tfevents\.[^/]+"
)
_FILES = r"config\.json|steps\.json|progress\.jsonl|submission\.(csv|json)|\w+\.earlier\d+\.\w+"
_OF_A_SEARCH = rf"search\.json|\d+/(candidate\.json|[\w-]+/(trial\.json|{_OF_A_NETWORK}))"
_LEFT = re.compile(
    rf"{_FILES}|tune/({_OF_A_SEARCH})"
    rf"|member\d+/(member\.json|((fold\d+|pseudo|refit)/)?({_OF_A_NETWORK}))",
    re.ASCII,
)
_OF_A_RUN = re.compile(rf"{_FILES}|member\d+|tune", re.ASCII)  # names at its top
_DEEP = 6  # folders in each other, the run's own included
COPYING = f"{disk.PART}earlier"  # holds an earlier run while it is copied

Facts = dict[str, Any]  # what a step is made from, by name: settings, photos, code; JSON values


class Steps:
    """The finished steps of one folder, in its steps.json."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.file = folder / NOTE

    def about(self, name: str, facts: Facts) -> dict[str, Any] | None:
        """What ``finish`` was told of the step; None if it is not done from these facts.

        Where it was done and cannot be used, one printed line says why.
        """
        step = self.done(name)
        if step is None:
            return None
        try:
            why = differences(step["facts"], facts) or self.faults(disk.unsealed(step))
        except ValueError as error:
            why = [f"its note in {NOTE} was {error}"]
        if why:
            print(f"{self.folder.name}: {name} is made anew: {'; '.join(why)}")
            return None
        return step["about"]

    def faults(self, step: dict[str, Any]) -> list[str]:
        """What is wrong with a step's files."""
        return [
            f"{file} is not as it was left"
            for file, digest in step["files"].items()
            if not (self.folder / file).is_file() or digest_of(self.folder / file) != digest
        ]

    def finish(self, name: str, facts: Facts, files: Iterable[str], **about: Any) -> None:
        """Say that the step's files, by their names in the folder, are there and whole."""
        stops.check()
        digests = {file: digest_of(self.folder / file) for file in files}
        step = disk.sealed({"facts": facts, "files": digests, "about": about})
        steps = {**self._read(), name: step}
        disk.make_way(self.file)
        disk.write_atomic(self.file, json.dumps(steps, indent=2) + "\n")

    def done(self, name: str) -> dict[str, Any] | None:
        """facts, files and about of a finished step, of any facts; None if it is not done."""
        return self._read().get(name)

    def digest(self, name: str, file: str) -> str:
        """Of a finished step's file: what a later step is made from."""
        return str(self._read()[name]["files"][file])

    def forget(self) -> None:
        """Nothing in the folder is done any more."""
        disk.remove(self.file)

    def _read(self) -> dict[str, Any]:
        try:
            steps = disk.read_json(self.file)
            for part in ("facts", "files", "about"):
                if not all(isinstance(step[part], dict) for step in steps.values()):
                    raise ValueError(f"a step's {part} are not values by name")
            return steps
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            print(f"warning: {self.file}: not what a run leaves ({error}); its steps are made anew")
            return {}


def differences(was: Facts, now: Facts) -> list[str]:
    """``["lr 0.002 → 0.001"]``: in what a finished step differs from the one that is wanted."""
    was, now = (json.loads(json.dumps(facts)) for facts in (was, now))  # (1, 2) is [1, 2] in a file
    found = []
    for key in dict.fromkeys([*was, *now]):
        values = was.get(key), now.get(key)
        if values[0] != values[1]:
            before, after = (",".join(map(str, v)) if isinstance(v, list) else v for v in values)
            change = f"{key} {before} → {after}"
            is_short = len(change) < 100 and not key.startswith("the ")
            found.append(change if is_short else f"{key} changed")
    return found


# --- Digests --------------------------------------------------------------------------------------


@cache
def source_hash() -> str:
    """Of the package's modules, the same in kernel.py: a result names the code that made it."""
    digest, package = hashlib.sha256(), Path(__file__).parent
    for path in bundled(package):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def bundled(package: Path) -> list[Path]:
    """The modules that kernel.py has too: all but the desk's and ``__main__``."""
    return [
        path
        for path in sorted(package.rglob("*.py"))
        if path.name != "__main__.py" and "desk" not in path.relative_to(package).parts
    ]


def opencv() -> str:
    """Of OpenCV's version what may change pixels: warpAffine's differ between 4.13 and 5.0.

    A patch release mends faults, and is no reason to train again.
    """
    import cv2

    return ".".join(cv2.__version__.split(".")[:2])


def rows(*columns: Iterable[Any]) -> str:
    """A digest of a table's columns."""
    text = json.dumps([list(map(str, column)) for column in columns])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- An earlier run -------------------------------------------------------------------------------


def is_run(folder: Path) -> bool:
    """Whether a run has left something there that can be gone on from."""
    networks = ("member1", "member1/fold*")
    marks = [f"{network}/{mark}" for network in networks for mark in (NOTE, "state/note.json")]
    marks.append("tune/search.json")  # it was stopped in its search
    return (folder / "config.json").is_file() and any(any(folder.glob(mark)) for mark in marks)


def find_earlier(cfg: Config) -> Path | None:
    """The earlier run to go on from: the one that is set, on Kaggle else the one attached.

    Raises InputError if the folder that is set has none, or several are attached.
    """
    if cfg.earlier:
        top = disk.user_path(cfg.earlier)
    elif disk.on_kaggle():
        top = disk.kaggle_root() / "input"
    else:
        return None
    runs: list[Path] = []
    for folder in disk.folders_below(top):
        if is_run(folder) and not any(folder.is_relative_to(run) for run in runs):
            runs.append(folder)
    if cfg.earlier and not runs:
        has = f"there is:\n{disk.tree(top)}" if top.is_dir() else "no such folder"
        raise InputError(
            f"earlier={cfg.earlier}: expected an earlier run's config.json, with member1 or tune; "
            f"{has}"
        )
    if len(runs) > 1:
        names = "\n  ".join(map(str, runs))
        raise InputError(f"several earlier runs are attached; set earlier to one of\n  {names}")
    return runs[0] if runs else None


def take_over(earlier: Path, out: Path) -> list[str]:
    """Copy an earlier run's networks, submissions and settings; returns the copies' names.

    What the run folder has already stays. The copies get their names once they are whole. Copied
    are plain files of the names that a run leaves, no links that lead elsewhere, nor devices.
    """
    part = out / COPYING
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    part.mkdir()
    top, left_out = Path(os.path.realpath(earlier)), []  # resolve() raises on loops
    taken = [path for path in sorted(earlier.iterdir()) if _OF_A_RUN.fullmatch(path.name)]
    taken = [path for path in taken if not os.path.lexists(out / path.name)]
    for path in (path for name in taken for path in _below(name, (top,))):
        name, real = path.relative_to(earlier).as_posix(), Path(os.path.realpath(path))
        if _LEFT.fullmatch(name) and real.is_relative_to(top) and real.is_file():
            _copy(real, part / name)
        else:
            left_out.append(name)
    if left_out:
        some = f"{', '.join(left_out[:5])}{' …' if len(left_out) > 5 else ''}"
        print(f"left out   of {earlier}: {len(left_out)} that are no files of a run: {some}")
    names = [path.name for path in taken if (part / path.name).exists()]
    for name in names:
        (part / name).rename(out / name)
    part.rmdir()
    return names


def _below(path: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """The files in a folder, or the path itself if it is none, leads elsewhere or in a circle.

    above: the folders that it is in, the earlier run's first.
    """
    real, inside = Path(os.path.realpath(path)), []
    with suppress(OSError):
        if real not in above and real.is_relative_to(above[0]) and len(above) < _DEEP:
            inside = sorted(path.iterdir())  # raises for a file
    if not inside:
        yield path
    for each in inside:
        yield from _below(each, (*above, real))


def _copy(source: Path, target: Path) -> None:
    """Writable, and on the disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as old, full_disk_named(target), target.open("wb") as new:
        shutil.copyfileobj(old, new)
        disk.flush(new)


def sweep(out: Path) -> None:
    """Remove what a killed run was writing: files that have not got their names yet."""
    shutil.rmtree(out / COPYING, ignore_errors=True)
    for folders in ("", *(f"{top}{'*/' * n}" for top in ("member*/", "tune/") for n in range(4))):
        for part in out.glob(f"{folders}{disk.PART}*"):
            if not part.is_dir():
                part.unlink()
'''


# ===== carcls/session.py ======================================================
MODULES["session.py"] = r'''"""A session: all that every step of a run needs, and what can fail before the work begins."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from carcls import disk, errors, hosts, machine, record, stops
from carcls.config import SESSION_SETTINGS, Config
from carcls.data import attached, augment, boxes, files, photos
from carcls.data.cache import PhotoCache, changed, free_memory
from carcls.data.files import Place
from carcls.data.labels import spreadsheet_safe
from carcls.data.photos import TEST, TRAIN, VALIDATION, Rows, Table
from carcls.disagreement import BLENDS
from carcls.errors import ConfigError, InputError
from carcls.machine import Machine
from carcls.metrics import Metric
from carcls.nets import registry, schedule, weights
from carcls.report import submission
from carcls.report.submission import Submission
from carcls.train import clock
from carcls.train.clock import Clock
from carcls.train.events import Events
from carcls.train.job import planned
from carcls.votes import blend


@dataclass
class Session:
    """One process's part of a run: a run that is stopped goes on in another session."""

    cfg: Config
    place: Place
    table: Table
    machine: Machine
    clock: Clock
    events: Events
    submission: Submission
    metric: Metric = "accuracy"  # what decides
    caches: dict[Any, PhotoCache] = field(default_factory=dict)
    replaced: dict[int, InputError] = field(default_factory=dict)  # of the caches that are gone
    verdicts: dict[tuple[str, str], tuple[bool, str]] = field(default_factory=dict)  # last ones

    def say(self, tag: str, *lines: object) -> None:
        """A part of the log: its name, and lines below it."""
        stops.check()
        self.events.send("phase", name=tag)
        print(f"\n== {tag}", *lines, sep="\n  ", flush=True)

    def verdict(self, of: str, accepted: bool, reason: str, network: str = "") -> None:
        """Tell whoever watches what the evidence says, where that is new in this session."""
        if self.verdicts.get((of, network)) != (accepted, reason):
            self.verdicts[of, network] = accepted, reason
            self.events.send("verdict", of=of, network=network, accepted=accepted, reason=reason)

    def photos(self, size: tuple[int, int], fit: str) -> PhotoCache:
        """The table's photos at that size: one cache a size.

        Older ones, to which later members and folds come back, go if the new one has no room.
        """
        key = (size, fit)
        if key not in self.caches:
            new = partial(PhotoCache, self.table.frame, size, fit, self.place.scratch)
            cache = new()
            # Bytes that the older ones take once all of their photos are decoded.
            taken = sum(int(older.offsets[-1]) for older in self.caches.values())
            if cache.in_memory < len(cache) or taken > 0.25 * free_memory():
                self.replaced = self._replaced()
                self.caches.clear()
                cache = new()
            self.caches[key] = cache
        return self.caches[key]

    def _replaced(self) -> dict[int, InputError]:
        """Row → why a grey photo took the place of one that looked sound when the run began."""
        found = dict(self.replaced)
        for cache in self.caches.values():
            found |= cache.replaced
        return found

    def spoiled(self, *parts: Rows) -> record.Facts:
        """What else a step on these photos was made from: of such facts it is never wanted."""
        gone = changed(self._replaced())  # the others would be the same again
        rows = sorted(set(gone) & {row for part in parts for row in part.rows.tolist()})
        return {"the photos that were replaced": self._ids(rows)} if rows else {}

    def warnings(self) -> list[str]:
        """What is wrong with the photos that the run has used."""
        told = []
        for really, what, then in (
            (
                True,
                "were no longer as they were when the run began",
                "; the same run again makes anew what they spoiled",
            ),
            (False, "cannot be decoded, though they looked sound", ""),
        ):
            whys = changed(self._replaced(), really)
            ids = self._ids(sorted(whys))
            names = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
            if ids:
                told.append(
                    f"{len(ids):,} of {len(self.table.frame):,} photos {what}, and grey ones took "
                    f"their places: {names} ({next(iter(whys.values()))}){then}"
                )
        return told

    def _ids(self, rows: list[int]) -> list[str]:
        return self.table.frame["id"].iloc[rows].astype(str).tolist()


def check(cfg: Config) -> None:
    """What settings alone show to be wrong, or no such accelerator. Raises ConfigError."""
    machine.expect_accelerator(cfg)
    if cfg.blend not in BLENDS:
        blend.parse_weights(cfg.blend, len(cfg.members))
    for member in cfg.member_cfgs():
        registry.check(member.backbone, member.stages)
        for stage in member.stages:
            augment.policy(member.augment, *stage.size, member.fit, member.strength.start)


@contextmanager
def start(cfg: Config, title: str = "") -> Iterator[Session]:
    """Lock the run folder, find files and weights, look at the photos, choose the machine.

    Raises ConfigError and InputError for all that is seen to be wrong before any training. Inside,
    SIGTERM raises Stopped. title: of the run, for whoever watches; "": by its data and networks.
    """
    began = time.monotonic()
    errors.show_all()
    check(cfg)
    with stops.heeded(), locked(files.run_folder(cfg)):
        place = files.locate(cfg)
        if hosts.process_of()[0]:
            place = replace(place, out=hosts.own_folder(place.scratch))
        for member in cfg.member_cfgs():  # before the photos are looked at, which takes longer
            weights.find_weights(member.backbone, member)
        for text in filter(None, dict.fromkeys(map(schedule.doubt, cfg.member_cfgs()))):
            print(f"warning: {text}")
        attached.box_files(cfg)
        record.sweep(place.out)
        _take_over(cfg, place)
        table = photos.load(cfg, place)
        place = replace(place, answers=_answers(place, table))
        decides = metric_of(cfg, table)
        _check_counts(cfg, table)
        write_tables(cfg, table, place.out)
        chosen = machine.setup(cfg)
        from carcls.train import monitor  # imports keras, whose backend is chosen only now

        hosts.share_files(place.out, place.scratch)
        disk.write_atomic(place.out / "config.json", cfg.model_dump_json(indent=2) + "\n")
        limit = clock.start(cfg, place.on_kaggle, chosen.kind, began)
        name = identity(cfg, table)
        told = monitor.listeners(cfg) if not chosen.process else []
        events = Events(place.out / "progress.jsonl", name, told)
        offered = Submission(place.out / "submission.csv", table, name, decides)
        s = Session(cfg, place, table, chosen, limit, events, offered, decides)
        offered.more_warnings, offered.tell = s.warnings, partial(events.send, "submission")
        with told_how_it_ends(events), _explained(s):
            events.send("start", **_about(s, title))
            yield s
            if events.last_kind != "end":  # a search alone, or a training of a study
                events.send("end", seconds=round(time.monotonic() - began))


def _about(s: Session, title: str) -> dict[str, Any]:
    """What whoever watches is told of a run when it begins."""
    cfg, members = s.cfg, s.cfg.member_cfgs()
    what = members[0].backbone if len(members) == 1 else f"{len(members)} members"
    folds = (TRAIN, VALIDATION) if cfg.folds > 1 else (TRAIN,)
    check = folds if cfg.folds > 1 else (VALIDATION,)
    counts = {"train": folds, "validation": check, "test": (TEST,)}
    return {
        "identity": s.events.identity,
        "name": title or f"{s.place.root.resolve().name}, {what}",
        "settings": cfg.model_dump(mode="json"),
        "machine": s.machine.reasons,
        "source": record.source_hash(),
        "photos": {name: len(s.table.rows(*parts)) for name, parts in counts.items()},
        "metric": s.metric,
        # With a title there is one network, which has it, too.
        "networks": [network | ({"name": title} if title else {}) for network in planned(cfg)],
        "ends_at": round(time.time() + s.clock.left(), 3) if s.clock.is_limited else None,
    }


def metric_of(cfg: Config, table: Table) -> Metric:
    """What decides: as set, else accuracy for labels and log-loss for probabilities.

    Raises ConfigError where it is not defined.
    """
    if cfg.metric == "auc" and len(np.unique(table.rows(VALIDATION).labels)) < 2:
        raise ConfigError("metric=auc: all validation photos are of one class; expected both")
    if cfg.metric != "auto":
        return cfg.metric
    return "log_loss" if table.asks.probabilities else "accuracy"


def identity(cfg: Config, table: Table) -> str:
    """A name of the run: the same in all its sessions, another with other photos or labels.

    With resume=false nothing is taken over, so that every setting counts.
    """
    # Boxes count by what they are, not by where their file is.
    aside = (SESSION_SETTINGS | {"boxes"}) if cfg.resume else frozenset[str]()
    settings = json.dumps(cfg.model_dump(mode="json", exclude=set(aside)), sort_keys=True)
    columns = (table.frame[name] for name in ("id", "label", "fold", "digest"))
    cut = boxes.of(table.frame).T if cfg.boxes else ()
    text = settings + record.rows(table.sample_ids, *columns, *cut) + record.source_hash()
    text += json.dumps(asdict(table.asks))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _take_over(cfg: Config, place: Place) -> None:
    """Copy an earlier run, where one is attached, into the run folder, which is writable."""
    earlier = record.find_earlier(cfg) if cfg.resume else None
    if earlier and earlier.resolve() != place.out.resolve():
        taken = record.take_over(earlier, place.out)
        copied = f"copied {', '.join(taken)}" if taken else f"{place.out} has all of it"
        print(f"\n== earlier run\n  {earlier}: {copied}")


def _answers(place: Place, table: Table) -> Path | None:
    """The file of true labels, if it is one of these test photos."""
    try:
        if place.answers:
            submission.read_answers(place.answers, table.sample_ids)
    except InputError as error:
        print(f"warning: {error}; the true score stays unknown")
        return None
    return place.answers


def _check_counts(cfg: Config, table: Table) -> None:
    """Raise ConfigError where validation has too few photos to compare members."""
    folds = (TRAIN, VALIDATION) if cfg.folds > 1 else (VALIDATION,)
    count, least = len(table.rows(*folds)), blend.LEAST
    if len(cfg.members) > 1 and count < least:
        raise ConfigError(
            f"members: {count} validation photos; to compare members {least} are needed"
        )


def write_tables(cfg: Config, table: Table, out: Path) -> None:
    """audit.csv, photos.csv, and classes.json: the class of each output of the networks."""
    frame = photos.with_folds(table, cfg.folds, cfg.seed) if cfg.folds > 1 else table.frame
    for name, content in (("audit", spreadsheet_safe(table.audit)), ("photos", frame)):
        disk.write_atomic(out / f"{name}.csv", content.to_csv(index=False))
    disk.write_json(out / "classes.json", {"classes": table.classes})


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a run folder to this run, all its processes. Raises InputError if another has it."""
    if hosts.process_of()[0]:
        yield
        return
    with disk.locked(folder) as is_ours:
        if not is_ours:
            raise InputError(
                f"out={folder}: another run is at work in it; wait for it, or choose another folder"
            )
        yield


@contextmanager
def told_how_it_ends(events: Events) -> Iterator[None]:
    """Whoever watches is told what ends the work inside, if that fails, also a stop by hand."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError):  # a full disk: what has happened is not hidden by it
            words = str(error) or errors.last_words(error).removeprefix("carcls: ")
            events.send("failed", error=f"{type(error).__name__}: {words}")
        raise
    finally:
        events.close()


@contextmanager
def _explained(s: Session) -> Iterator[None]:
    """An error of making photos ready arrives as TensorFlow's, with a traceback in its message."""
    try:
        yield
    except Exception as error:
        faults = [cache.fault for cache in s.caches.values() if cache.fault]
        if faults and error is not faults[0]:
            raise faults[0] from None
        raise
'''


# ===== carcls/stops.py ========================================================
MODULES["stops.py"] = r'''"""Stops that are asked for by a signal: they arrive at once, or at the next step at the latest.

Python drops what a signal raises inside garbage collection and some callbacks of libraries. So the
signal is noted as well, and ``check`` raises it again.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from carcls.errors import Stopped

# Also a terminal that is closed. Not everywhere are there all of them.
SIGNALS = tuple(getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n))

_asked: BaseException | None = None  # the stop that was asked for


@contextmanager
def heeded() -> Iterator[None]:
    """Meanwhile SIGTERM and SIGHUP raise Stopped, Ctrl-C KeyboardInterrupt; not in a thread.

    Signals that are ignored, as nohup does, stay so.
    """
    global _asked  # noqa: PLW0603  (of the process, as signals are)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.getsignal(n) for n in SIGNALS}
    before = {n: handler for n, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    is_outermost = _stop not in before.values()
    try:
        for number in before:
            signal.signal(number, _stop)
        yield
    except BaseException as error:
        # TensorFlow's C++ may have made another error of it: a SystemError was seen.
        if _asked and error is not _asked and not isinstance(error, SystemExit):
            raise _asked from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if is_outermost:
            _asked = None


def check() -> None:
    """Raise the stop that was asked for, unless the run is ending because of it already."""
    if _asked and not _is_on_its_way():
        raise _asked


def _stop(number: int, frame: Any) -> None:
    global _asked  # noqa: PLW0603  (of the process, as signals are)
    if _asked is None:
        name = signal.Signals(number).name
        how = f"{name}; the same run again goes on from the last whole epoch"
        _asked = KeyboardInterrupt() if name == "SIGINT" else Stopped(how, number)
    check()  # a second signal does not break what the first one has begun to tidy up


def _is_on_its_way() -> bool:
    """Whether what is being handled right now has come from the stop."""
    error = sys.exception()
    while error is not None and error is not _asked:
        error = error.__context__
    return error is not None
'''


# ===== carcls/values.py =======================================================
MODULES["values.py"] = r'''"""Values of several parts that people write as text: stages, views, strengths, mixes, members."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    BaseModel,
    ConfigDict,
    Field,
    Secret,
    ValidationError,
    model_serializer,
    model_validator,
)


class Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # an address may be among it
    )


class _Written(Frozen):
    """A value of several parts that people write as text; str() writes it, ``_read`` reads it."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        is_text = isinstance(value, (str, int, float)) and not isinstance(value, bool)
        return cls._read(str(value).replace(" ", "")) if is_text else value

    @classmethod
    def _read(cls, text: str) -> dict[str, Any]:
        raise AssertionError(cls)

    @model_serializer
    def _as_text(self) -> str:
        return str(self)


class Stage(_Written):
    """One step of progressive training: photos of one size for some epochs."""

    height: int = Field(ge=32, le=2048)  # px
    width: int = Field(ge=32, le=2048)  # px
    epochs: int = Field(ge=1, le=1000)  # passes over the training photos

    @classmethod
    def _read(cls, text: str) -> dict[str, Any]:
        found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
        if not found:
            raise ValueError(f"{text!r} is not HEIGHTxWIDTHxEPOCHS, as in 96x176x5,112x208x6")
        return dict(zip(("height", "width", "epochs"), map(int, found.groups()), strict=True))

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.epochs}"


class Views(_Written):
    """How many test-time views a photo gets: ``first``, and up to ``most`` where they disagree."""

    first: int = Field(ge=1, le=256)
    most: int = Field(ge=1, le=256)

    @classmethod
    def _read(cls, text: str) -> dict[str, Any]:
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
        if not found:
            raise ValueError(f"{text!r} is not a number of views, as in 8 or 4-32")
        return {"first": int(found[1]), "most": int(found[2] or found[1])}

    @property
    def adaptive(self) -> bool:
        return self.most > self.first

    def __str__(self) -> str:
        return f"{self.first}-{self.most}" if self.adaptive else f"{self.first}"


class Strength(_Written):
    """Strength of the augmentation policy, falling along a line from the start to the end."""

    start: float = Field(ge=0, le=1)
    end: float = Field(ge=0, le=1)

    @classmethod
    def _read(cls, text: str) -> dict[str, Any]:
        number = r"([\d.]+(?:e-\d+)?)"
        found = re.fullmatch(f"{number}(?:-{number})?", text)
        if not found:
            raise ValueError(f"{text!r} is not a strength, as in 1 or 1-0.5")
        return {"start": found[1], "end": found[2] or found[1]}

    def __str__(self) -> str:
        start, end = (repr(value).removesuffix(".0") for value in (self.start, self.end))
        return start if end == start else f"{start}-{end}"


class Mix(_Written):
    """Mixing of two photos and their labels: alpha of MixUp and of CutMix, 0 for neither."""

    mixup: float = Field(0.0, ge=0)
    cutmix: float = Field(0.0, ge=0)

    @classmethod
    def _read(cls, text: str) -> dict[str, Any]:
        parts = [part.partition(":") for part in text.split(",") if part not in ("", "0", "none")]
        if any(name not in ("mixup", "cutmix") or not alpha for name, _, alpha in parts):
            raise ValueError(f"{text!r} is not mixup:ALPHA, cutmix:ALPHA or both with a comma")
        return {name: alpha for name, _, alpha in parts}

    def __bool__(self) -> bool:
        return bool(self.mixup or self.cutmix)

    def __str__(self) -> str:
        alphas = {"mixup": self.mixup, "cutmix": self.cutmix}
        return ",".join(
            f"{name}:{repr(alpha).removesuffix('.0')}" for name, alpha in alphas.items() if alpha
        )


def hide(text: str) -> str:
    """The text, with no more than scheme and host of each address in it: the rest may be secret."""

    def hidden(found: re.Match[str]) -> str:
        more = "/…" if found[2] or found[4] not in ("", "/") else ""
        return found[1] + found[3] + more

    return re.sub(r"(\w+://)([^\s/?#]*@)?([^\s/?#]*)(\S*)", hidden, text)


def _check_address(text: str) -> str:
    """An address as it is posted to. Raises ValueError, whose words have nothing secret."""
    if not text:
        return ""
    if text.endswith("/…"):
        raise ValueError("only what may be shown of an address; expected the whole of it")
    if not re.fullmatch(r"https?://[^\s/?#\\][^\s\\]*", text, re.IGNORECASE):
        scheme = re.match(r"\w+:(?=//)", text)
        raise ValueError(
            f"found {f'{scheme[0]}//…' if scheme else 'no scheme'}; expected http:// or https:// "
            "and a host, as in http://localhost:9000, without blanks and backslashes"
        )
    try:
        address = AnyHttpUrl(text)
        if address.port == 0:
            raise ValueError("port 0; expected 1 to 65535")
        (address.host or "").strip("[]").encode("idna")
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"]) from None
    except UnicodeError:
        raise ValueError("its host has an empty or too long part") from None
    return str(address)


class Address(Secret[Annotated[str, AfterValidator(_check_address)]]):
    """Where something is posted, "" for nowhere; shown or written as scheme and host alone."""

    def _display(self) -> str:
        url = self.get_secret_value()
        whole = urlsplit(url)
        shown = f"{whole.scheme}://{whole.netloc.rpartition('@')[2]}"
        return url and shown + ("" if url.removesuffix("/") == shown else "/…")

    def __bool__(self) -> bool:
        return bool(self.get_secret_value())

    def parts(self) -> tuple[str, str]:
        """Root and path to post to: where there is no path, the one of Keras's RemoteMonitor."""
        whole = urlsplit(self.get_secret_value())
        path = whole.path + (whole.query and f"?{whole.query}")
        root = f"{whole.scheme}://{whole.netloc}"
        return root, path if path not in ("", "/") else "/publish/epoch/end/"


def read_members(text: str) -> list[dict[str, str]]:
    """``"seed=1+seed=2/pooling=max"`` → one mapping of settings a member."""
    members = []
    for part in text.split("+"):
        words = [word for word in re.split(r"/(?=\w+=)", part) if word]
        wrong = [word for word in words if "=" not in word]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is not key=value, as in seed=1+seed=2/pooling=max")
        member = dict(word.split("=", 1) for word in words)
        if len(member) < len(words):
            raise ValueError(
                f"{part!r} has one setting twice; members are separated by +, their settings by /"
            )
        members.append(member)
    return members
'''


# ===== carcls/data/__init__.py ================================================
MODULES["data/__init__.py"] = r'''"""Photos and tables: from what people attach to batches of pixels."""
'''


# ===== carcls/data/aloud.py ===================================================
MODULES["data/aloud.py"] = r'''"""What decoders of photos, which know no file's name, print about them on stderr."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

_OF_DECODERS = re.compile(rb"JPEG|JFIF|Adobe|progression")  # libjpeg's warnings
one_at_a_time = threading.RLock()  # also for large photos: two locks could wait for each other
_known: set[str] = set()  # files about which something was printed


@contextmanager
def overheard(path: str) -> Iterator[list[str]]:
    """The lines that the decoder of this file prints meanwhile, which are shown no more."""
    said: list[str] = []
    with one_at_a_time, tempfile.TemporaryFile() as file:
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            for line in file:
                if _OF_DECODERS.search(line):
                    said.append(line.decode(errors="replace").strip())
                    _known.add(path)
                else:  # of another thread
                    with suppress(OSError):
                        os.write(2, line)


def hushed(path: str | Path) -> AbstractContextManager[object]:
    """Nothing is printed about a file again once it was overheard."""
    return overheard(str(path)) if str(path) in _known else nullcontext()
'''


# ===== carcls/data/asks.py ====================================================
MODULES["data/asks.py"] = r'''"""What a submission has to look like: the sample submission says it, or what there is instead."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Literal

import pandas as pd

from carcls.config import Config
from carcls.data import labels, tables
from carcls.data.audit import Audit
from carcls.data.files import Place
from carcls.data.labels import NO_VALUES, Label
from carcls.data.names import common_start
from carcls.data.tables import clean
from carcls.disk import is_photo_name, may_be_photo, photo_files
from carcls.errors import ConfigError, InputError

_YES = ("true", "yes", "y", "positive")
_BOXES = re.compile(
    r"(prediction|bbox|box)(e?s|strings?|labels)?|encodedpixels|(pixel|encoded)?rle|segmentation"
    r"|(bbox)?[xy](min|max)"
)


@dataclass(frozen=True)
class Asks:
    """The columns of a submission.

    kind: "labels": an id and a label; "positive": an id and the probability of one of two classes;
    "classes": an id and a column of probabilities for each class.
    """

    kind: Literal["labels", "positive", "classes"]
    columns: tuple[str, ...]  # names, the id's first
    # The class (its index in Table.classes) of each column after the id's; -1: one that no train
    # photo has. None of "labels".
    classes: tuple[int, ...] = ()

    @property
    def probabilities(self) -> bool:
        return self.kind != "labels"

    def of(self, named: Sequence[Label], classes: Sequence[Label]) -> Asks:
        """The same, by the classes that are left of those that it was by."""
        number = {label: k for k, label in enumerate(classes)}
        left = [-1 if k < 0 else number.get(named[k], -1) for k in self.classes]
        return replace(self, classes=tuple(left))


@dataclass
class Sample:
    """The sample submission, or what takes its place: then ``csv`` is None."""

    csv: Path | None
    columns: tuple[str, ...]  # names, the id's first
    ids: list[str]
    values: pd.DataFrame  # the columns after the id's, as text
    paths: list[str] = field(default_factory=list)  # the files of the ids, without a CSV file

    @property
    def asked(self) -> pd.Series:
        """The labels in it, by which little is meant; none where it has a column a class."""
        found = self.values.iloc[:, 0] if self.values.shape[1] else pd.Series(dtype=str)
        return found if self.values.shape[1] == 1 and not _shares(found) else found.iloc[:0]


def read_sample(place: Place) -> Sample | None:
    """The sample submission, if there is one. Raises InputError if it asks for boxes."""
    if place.sample_csv is None:
        return None
    frame = tables.read_csv(place.sample_csv)
    names = tuple(map(str, frame.columns))
    sample = Sample(place.sample_csv, names, frame.iloc[:, 0].tolist(), frame.iloc[:, 1:])
    if len(names) == 1:
        raise InputError(
            f"{place.sample_csv}: column {names[0]} alone; expected an id and a label, or an id "
            "and a column of probabilities for each class"
        )
    if len(names) == 2 and (what := _other_than_classes(sample.values)):
        raise InputError(
            f"{place.sample_csv}: column {names[1]}: {what}, which carcls does not give; expected "
            "a label or a probability"
        )
    return sample


def of_photos(
    place: Place, ids: Sequence[str], columns: tuple[str, str], audit: Audit, notes: list[str]
) -> Sample:
    """For want of a sample submission: all test photos, by name; ids are written as train's are."""
    found = [f"{at}/{name}" if at else name for at, name in photo_files(place.test_photos)]
    paths = sorted(filter(may_be_photo, found))
    others = Counter(Path(path).suffix.lower() or path for path in set(found) - set(paths))
    if others:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(others.items()))
        audit.add("test", "", "files that are no photos", "left out", kinds)
    written = [_written_as(place, ids, paths)] if ids else []
    # Where two photos would have one id, all have their extension, or their folder, too.
    written += [_names(paths, "", folder, True) for folder in (False, True)] if ids else []
    written += [paths]
    names = next(names for names in written if len(set(names)) == len(paths))
    notes.append(
        f"no sample submission in {place.root}: all {len(paths):,} test photos are predicted, "
        f"sorted by name, with ids such as {next(iter(names), '')!r} in the column {columns[0]}"
    )
    full = [f"{place.test_photos}/{path}" for path in paths]
    rows = sorted(zip(names, full, strict=True))
    values = pd.DataFrame({columns[1]: pd.Series(dtype=str)})
    return Sample(None, columns, [row[0] for row in rows], values, [row[1] for row in rows])


def _written_as(place: Place, ids: Sequence[str], paths: list[str]) -> list[str]:
    """The ids of these test photos, written as most ids of train photos are."""
    ids = [ident.replace("\\", "/") for ident in ids]

    def most(which: Iterable[bool]) -> bool:
        return 2 * sum(which) > len(ids)

    def tops(folder: Path) -> list[str]:
        top = place.root if folder.is_relative_to(place.root) else place.scratch
        parts = folder.relative_to(top).parts
        return ["/".join((*parts[k:], "")) for k in range(len(parts))]

    pairs = zip(tops(place.train_photos), tops(place.test_photos), strict=False)
    front = next((own for top, own in pairs if most(i.startswith(top) for i in ids)), "")
    return _names(paths, front, most("/" in i for i in ids), most(map(is_photo_name, ids)))


def _names(paths: list[str], front: str, folder: bool, extension: bool) -> list[str]:
    names = [path if folder else path.rpartition("/")[2] for path in paths]
    if not extension:
        names = [name.rpartition(".")[0] if is_photo_name(name) else name for name in names]
    return [front + name for name in names]


def decide(cfg: Config, sample: Sample, classes: Sequence[Label]) -> tuple[Asks, list[str]]:
    """What is asked for where training has these classes, and lines for the log.

    Raises InputError where it is nothing that carcls gives, and ConfigError where the setting
    ``positive`` does not fit.
    """
    if cfg.metric == "auc" and len(classes) != 2:
        raise ConfigError(f"metric=auc: is of two classes; there are {len(classes):,}")
    notes = list[str]()
    if len(sample.columns) > 2:
        asks = _of_classes(sample, classes, notes)
    elif sample.csv is None and cfg.metric == "log_loss":
        names = tuple(map(str, classes))
        asks = Asks("classes", (sample.columns[0], *names), tuple(range(len(classes))))
        notes.append("metric=log_loss: the submission gets a column of probabilities a class")
    elif _asks_for_a_share(cfg, sample, classes):
        asks = _of_one(cfg, sample, classes, notes)
    else:
        asks = Asks("labels", sample.columns)
        if sample.csv:
            notes += labels.check_sample(sample.values.iloc[:, 0], set(classes), sample.csv)
        of_auc = cfg.replace(metric="auc")
        if cfg.metric == "auto" and _asks_for_a_share(of_auc, sample, classes):
            notes.append(
                "labels are submitted; where a probability is asked for, set metric=auc or "
                "metric=log_loss"
            )
        if cfg.metric in ("auc", "log_loss"):
            notes.append(
                f"WARNING: metric={cfg.metric} is of probabilities, but the sample submission asks "
                "for labels, so labels are submitted"
            )
    if cfg.positive and asks.kind != "positive":
        raise ConfigError(
            f"positive={cfg.positive}: the submission is not the probability of one of two "
            f"classes but {'labels' if asks.kind == 'labels' else 'a column a class'}; leave it out"
        )
    return asks, notes


# --- The probability of one of two classes --------------------------------------------------------


def _asks_for_a_share(cfg: Config, sample: Sample, classes: Sequence[Label]) -> bool:
    if len(classes) != 2:
        return False
    if sample.csv is None:
        return cfg.metric == "auc"
    held, known = sample.values.iloc[:, 0], {clean(str(label)) for label in classes}
    if _shares(held):
        return not set(held.map(clean)) <= known
    numbers = {labels.as_number(text) for text in held.map(clean) if text}
    if not numbers or not numbers <= {0, 1}:
        return False
    # Zeros and ones may be labels, or probabilities that nobody has filled in.
    of_classes = {labels.as_number(text) for text in known}
    may_be = of_classes == {0, 1} or not numbers & of_classes
    return bool(cfg.positive) or (may_be and cfg.metric in ("auc", "log_loss"))


def _of_one(cfg: Config, sample: Sample, classes: Sequence[Label], notes: list[str]) -> Asks:
    column, names = sample.columns[1], " and ".join(map(repr, map(str, classes)))
    find = labels.by_name(classes)
    if cfg.positive and find(cfg.positive) is None:
        raise ConfigError(f"positive={cfg.positive}: no such class; expected one of {names}")
    positive = find(cfg.positive) if cfg.positive else _usual(classes)
    positive = find(column) if positive is None else positive
    if positive is None:
        raise InputError(
            f"{sample.csv or 'submission.csv'}: column {column} is the probability of one of the "
            f"classes {names}, and one cannot tell of which; set positive to it"
        )
    index = list(classes).index(positive)
    notes.append(
        f"column {column}: the probability of class {positive}, not of {classes[1 - index]}; "
        "the setting positive changes it"
    )
    return Asks("positive", sample.columns, (index,))


def _usual(classes: Sequence[Label]) -> Label | None:
    """Of two classes, the one that is called 1 beside 0 or -1, true, yes, y or positive."""
    texts = [clean(str(label)).casefold() for label in classes]
    numbers = [labels.as_number(text) for text in texts]
    yes = [text in _YES for text in texts]
    if None not in numbers:
        yes = [number == 1 and bool({0, -1} & set(numbers)) for number in numbers]
    return classes[yes.index(True)] if sum(yes) == 1 else None


# --- A column a class -----------------------------------------------------------------------------


def _of_classes(sample: Sample, classes: Sequence[Label], notes: list[str]) -> Asks:
    names, csv = sample.columns[1:], sample.csv
    assert csv
    found, cut = by_column(names, classes)
    hits = [label for label in found if label is not None]
    listed = f"found columns {few(names)}; the classes of the train photos are {few(classes)}"
    if 2 * len(hits) < len(names) or len(hits) < 2:
        what = _other_than_classes(sample.values)
        what = f" ({what}, which carcls does not give)" if what else ""
        raise InputError(
            f"{csv}: {len(hits)} of {len(names)} columns after {sample.columns[0]} are classes; "
            f"expected an id and a label, or an id and a column for each class{what}; {listed}"
        )
    twice = [label for label, n in Counter(hits).items() if n > 1]
    if twice:
        both = [name for name, label in zip(names, found, strict=True) if label == twice[0]]
        raise InputError(f"{csv}: columns {' and '.join(both)} may mean class {twice[0]}; {listed}")
    for name, held in sample.values.items():
        if not _is_share(held):
            odd = next(text for text in held if not _is_share(pd.Series([text])))
            raise InputError(
                f"{csv}: column {name} holds {odd!r}; expected a probability, from 0 to 1, as the "
                "other columns are called after classes"
            )
    around = f", with {' … '.join(map(repr, filter(None, cut)))} around them" if any(cut) else ""
    notes.append(f"{csv.name}: a column of probabilities a class{around}")
    without = [label for label in classes if label not in hits]
    strange = [name for name, label in zip(names, found, strict=True) if label is None]
    if without:
        notes.append(
            f"WARNING: {csv.name}: no column for {few(without)}: the probability of what is left "
            "out is shared by the columns there are"
        )
    if strange:
        notes.append(f"WARNING: {csv.name}: no train photo of {few(strange)}: probability 0")
    index = {label: number for number, label in enumerate(classes)}
    numbers = tuple(-1 if label is None else index[label] for label in found)
    return Asks("classes", sample.columns, numbers)


def by_column(
    names: Sequence[str], classes: Iterable[Label]
) -> tuple[list[Label | None], tuple[str, str]]:
    """The class that each column is called after, and what all columns have in front and behind.

    As little is taken for that as makes most columns classes, and neither a word nor a number is
    cut in two: 0 is not what class_10 and class_20 have behind.
    """
    find, exact = labels.by_name(classes), {clean(str(label)) for label in classes}
    front, back = common_start(names), common_start(name[::-1] for name in names)[::-1]
    starts = [n for n in range(len(front) + 1) if all(_parts(name, n) for name in names)]
    ends = [n for n in range(len(back) + 1) if all(_parts(name, len(name) - n) for name in names)]

    def found_without(start: int, end: int, some: Sequence[str]) -> list[Label | None]:
        return [find(name[start : len(name) - end]) for name in some]

    def score(cut: tuple[int, int]) -> tuple[int, int, int]:
        """Of classes and of those that are called exactly so; the least cut of those alike."""
        start, end = cut
        same = sum(clean(name[start : len(name) - end]) in exact for name in some)
        return len(set(found_without(*cut, some)) - {None}), same, -start - end

    some = names[:: 1 + len(names) // 50]  # each of thousands of columns would take seconds a cut
    start, end = max(product(starts, ends), key=score)
    return found_without(start, end, names), (front[:start], back[len(back) - end :])


def _parts(name: str, at: int) -> bool:
    """Whether a name may be cut there: before or after a sign, as in probSedan, or not at all."""
    pair = name[at - 1 : at + 1] if 0 < at < len(name) else "  "
    whole = re.fullmatch(r"\d[\d.,]|[.,]\d|[^\W\d_]{2}", pair)
    return not whole or (pair[0].islower() and pair[1].isupper())


# --- Probabilities, quantities, boxes -------------------------------------------------------------


def _is_share(held: pd.Series) -> bool:
    """Whether a column holds numbers from 0 to 1 and what stands for none."""
    texts = {text for text in map(clean, held.unique()) if text and text.lower() not in NO_VALUES}
    numbers = [labels.as_number(text) for text in texts]
    return all(number is not None and 0 <= number <= 1 for number in numbers)


def _shares(held: pd.Series) -> bool:
    """Whether those are fractions, at least one."""
    numbers = (labels.as_number(clean(text)) for text in held.unique())
    return _is_share(held) and any(number is not None and number % 1 for number in numbers)


def _other_than_classes(values: pd.DataFrame) -> str:
    """What else a submission's columns after the id's ask for, "" if nothing known."""
    keys = [re.sub(r"[-_ ]", "", str(name).casefold()) for name in values.columns]
    texts = {text.strip() for text in values.to_numpy().ravel()} - {""}
    parts = [[labels.as_number(part) for part in text.split()] for text in texts]
    if any(map(_BOXES.fullmatch, keys)) or any(len(p) > 3 and None not in p[1:] for p in parts):
        return "boxes or masks are asked for"
    numbers = [part[0] for part in parts if len(part) == 1 and part[0] is not None]
    if values.shape[1] > 1 and texts and len(numbers) == len(texts) and max(map(abs, numbers)) > 1:
        return "several quantities a photo are asked for"
    return ""


def few(names: Sequence[object]) -> str:
    """The first ten, and how many there are."""
    more = f" … ({len(names):,})" if len(names) > 10 else ""
    return ", ".join(map(str, names[:10])) + more
'''


# ===== carcls/data/attached.py ================================================
MODULES["data/attached.py"] = r'''"""What comes with a kernel as input: which kind of source a file is from, and whether it is whole.

A dataset of ``make dataset`` has a manifest.json: which file is for which backbone, and the size
and sha256 of every file. Files are looked up by their names, too, as Kaggle may unpack them
elsewhere.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from carcls import disk, record
from carcls.config import Config
from carcls.errors import InputError

MANIFEST = "manifest.json"
BOXES = "carcls-boxes"  # begins the name of a dataset of boxes; a digest follows
_OURS = "carcls weights"  # tells our manifest.json from those of others
FORMAT = f"{_OURS} 1"
_KINDS = {
    "models": "model",
    "datasets": "dataset",
    "notebooks": "notebook output",
    "competitions": "competition",
}
# An output of a kernel has one of these; in Kaggle's older layout datasets lie beside it.
_IN_OUTPUTS = "result.json progress.jsonl __results__.html __notebook__.ipynb __script__.py"


def kind(file: Path) -> str:
    """model, dataset, notebook output or competition; "" for what is no input of Kaggle's."""
    top = disk.kaggle_root() / "input"
    if not file.is_relative_to(top):
        return ""
    parts = file.relative_to(top).parts
    if len(parts) > 3 and parts[0] in _KINDS:
        return _KINDS[parts[0]]
    # <model>/keras/<variation>/<version>/<file>
    if len(parts) > 4 and parts[1].lower() == "keras" and parts[3].isdigit():
        return "model"
    is_output = any((top / parts[0] / name).is_file() for name in _IN_OUTPUTS.split())
    return "notebook output" if is_output else "dataset"


def box_files(cfg: Config) -> list[Path]:
    """The files that cfg.boxes names. Raises InputError."""
    return [box_file(text) for text in cfg.boxes.split(",")] if cfg.boxes else []


def box_file(text: str) -> Path:
    """The file of that path, on Kaggle else the attached one of that name. Raises InputError."""
    path = disk.user_path(text)
    if path.is_file():
        return path
    if not disk.on_kaggle():
        raise InputError(f"boxes={text}: no such file; `carcls boxes` makes one")
    top = disk.kaggle_root() / "input"
    folders = [folder for folder in disk.folders_below(top) if (folder / path.name).is_file()]
    # The competition and an earlier run's output may have files of that name, too.
    folders = [folder for folder in folders if folder.name.startswith(BOXES)] or folders
    files = sorted(folder / path.name for folder in folders)
    if not files:
        raise InputError(
            f"boxes={text}: no {path.name} is attached; `make dataset` with the same SET uploads "
            f"it. There is:\n{disk.tree(top, depth=4)}"
        )
    if len({file.read_bytes() for file in files}) > 1:  # the same file may be there in both layouts
        raise InputError(
            f"boxes={text}: several are attached: {', '.join(map(str, files))}; name one of them"
        )
    return files[0]


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Our manifest in that folder; None if there is none of ours. Raises InputError if broken."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        if _OURS not in path.read_text(encoding="utf-8", errors="replace"):
            return None
        manifest = disk.read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a JSON file ({error}); make the dataset again") from None
    if not isinstance(manifest, dict) or not str(manifest.get("format")).startswith(_OURS):
        return None
    weights, files = manifest.get("weights"), manifest.get("files")
    if not (
        manifest["format"] == FORMAT
        and isinstance(weights, dict)
        and isinstance(files, dict)
        and all(_is_below(name) for name in (*weights.values(), *files))
        and all(
            isinstance(file, dict)
            and isinstance(file.get("sha256"), str)
            and type(file.get("bytes")) is int
            for file in files.values()
        )
    ):
        raise InputError(
            f"{path}: format {manifest['format']!r}, expected {FORMAT!r} with weights and files; "
            "make the dataset again"
        )
    return manifest


def _is_below(name: Any) -> bool:
    """Whether it is the name of a file in the manifest's folder, or below it."""
    if not isinstance(name, str) or "\0" in name or not name:
        return False
    return not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts


def by_manifest(folder: Path, backbone: str) -> Path | None:
    """The weights of a backbone that a manifest in this folder names. Raises InputError."""
    manifest = read_manifest(folder)
    if manifest is None or backbone not in manifest["weights"]:
        return None
    path = PurePosixPath(manifest["weights"][backbone])
    for place in (folder / path, folder / path.name):  # the second: unpacked without its folder
        if place.is_file():
            return place
    raise InputError(
        f"{folder / MANIFEST}: lists {path}, which is not there. There is:\n{disk.tree(folder)}"
    )


def verify(file: Path) -> str:
    """Check a file, and those listed beside it, by the manifest beside it or one folder up.

    Returns "manifest verified", or that it is not listed, or "" without a manifest.
    Raises InputError.
    """
    for folder in (file.parent, file.parent.parent):
        manifest = read_manifest(folder)
        if manifest is None:
            continue
        listed = {PurePosixPath(name): entry for name, entry in manifest["files"].items()}
        same = [path for path in listed if folder / path == file]
        same = same or [path for path in listed if path.name == file.name]
        if len(same) != 1:
            return f"not listed in {folder / MANIFEST}"
        for path, entry in listed.items():
            beside = file.parent / path.name
            if path.parent == same[0].parent and (fault := _fault(beside, entry)):
                raise InputError(f"{beside}: {fault} by {folder / MANIFEST}; upload it again")
        return "manifest verified"
    return ""


def _fault(file: Path, entry: dict[str, Any]) -> str:
    """How a file differs from its entry in a manifest, or ""."""
    if not file.is_file():
        return f"not there; expected {entry['bytes']} bytes"
    stat = file.stat()
    if stat.st_size != entry["bytes"]:
        return f"has {stat.st_size} bytes, expected {entry['bytes']}"
    digest = _digest(file, stat.st_size, stat.st_mtime_ns)
    return "" if digest == entry["sha256"] else f"sha256 {digest}, expected {entry['sha256']}"


@lru_cache(maxsize=256)  # a run asks for each stage and member; size and time tell other content
def _digest(file: Path, size: int, changed: int) -> str:
    return record.digest_of(file)
'''


# ===== carcls/data/audit.py ===================================================
MODULES["data/audit.py"] = r'''"""Looking at every file: what is odd about it, what is done about that, which are the same."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import median
from typing import NamedTuple

import pandas as pd
from PIL import Image

from carcls.data import pixels
from carcls.data.aloud import overheard
from carcls.data.headers import (
    JPEG_END,
    JPEG_PIXELS,
    JPEG_SIZES,
    ORIENTATION,
    JpegHeader,
    in_doubt,
    jpeg_header,
    jpeg_segments,
)
from carcls.data.pixels import PILLOW_ERRORS
from carcls.errors import InputError

AUDIT_COLUMNS = ("source", "id", "finding", "action", "detail")
# A JPEG of fewer bytes a px, or of less than this share of the others' median, may lack some.
_SHORT, _SHORTER = 1 / 16, 0.6
TINY = 32  # px: a shorter side below this is reported
# finding → what is done with a train photo, with a test photo. A new finding is a row here, and
# where it is seen in ``_facts``; pixels are decoded only where a header leaves doubt.
_ACTIONS = {
    "missing file": ("dropped", "predicted from a grey photo"),
    "unreadable": ("dropped", "predicted from a grey photo"),
    "too large": ("dropped", "predicted from a grey photo"),
    "truncated": ("dropped", "decoded as far as it goes"),
    "damaged JPEG data": ("kept",) * 2,
    "wrongly named": ("read as what it is",) * 2,
    "greyscale": ("repeated to 3 channels",) * 2,
    "CMYK": ("converted to RGB",) * 2,
    "transparent": ("laid on white",) * 2,
    "16-bit": ("scaled to 8 bits",) * 2,
    "EXIF-rotated": ("turned upright",) * 2,
    "several pictures": ("first one taken",) * 2,
    "tiny": ("kept",) * 2,
}
_PNG_TURNS = (b"eXIf", b"Raw profile type", b"adobe.xmp")  # a PNG that is turned has one
_FORMATS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **{".png": "PNG", ".bmp": "BMP", ".gif": "GIF", ".webp": "WEBP"},
}


@dataclass
class Audit:
    """The findings so far, a row each of AUDIT_COLUMNS."""

    rows: list[tuple[str, str, str, str, str]] = field(default_factory=list)

    def add(self, source: str, ident: str, finding: str, action: str, detail: str = "") -> None:
        self.rows.append((source, ident, finding, action, detail))

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=list(AUDIT_COLUMNS), dtype=str)

    def __str__(self) -> str:
        counts = Counter((row[2], row[3]) for row in self.rows).most_common()
        found = [f"{n} {finding} ({action})" for (finding, action), n in counts]
        return ", ".join(found) or "nothing"


@dataclass(frozen=True)
class Facts:
    """What one look at a file tells."""

    digest: str = ""  # SHA-1 of the file's bytes in hex
    height: int = 0  # px, upright; 0 if unreadable
    width: int = 0
    readable: bool = False
    findings: tuple[tuple[str, str], ...] = ()  # finding, detail
    density: float = 0.0  # bytes a px of a JPEG


class _Header(NamedTuple):
    """What a file says of itself."""

    format: str
    height: int  # px, upright
    width: int
    findings: list[tuple[str, str]]
    fault: str  # why Pillow cannot decode its pixels, or ""
    in_doubt: bool = False  # whether they must be decoded to see what they are
    density: float = 0.0


def look(paths: Iterable[str]) -> dict[str, Facts]:
    """Look at each of these files, in threads: at JPEGs far shorter than the others twice."""
    unique = list(dict.fromkeys(paths))
    Image.init()  # loads Pillow's formats here, not in several threads at a time
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        warnings.simplefilter("ignore")  # Pillow's name no file; what matters goes to the audit

        def all_facts(paths: list[str], least: float) -> dict[str, Facts]:
            chunks = [paths[start : start + 64] for start in range(0, len(paths), 64)]
            looks = pool.map(lambda chunk: [_facts(path, least) for path in chunk], chunks)
            return dict(zip(paths, (facts for chunk in looks for facts in chunk), strict=True))

        found = all_facts(unique, _SHORT)
        least = _SHORTER * median([f.density for f in found.values() if f.density] or [0.0])
        again = [path for path in unique if _SHORT <= found[path].density < least]
        return found | all_facts(again, least)


def _facts(path: str, least: float = 0.0) -> Facts:
    """Read and hash a file; its pixels are decoded only where a doubt is left.

    One is that a JPEG has fewer than least bytes a px.
    """
    try:
        with pixels.reading(path) as data:
            return _facts_of(path, data, least)
    except pixels.TooLarge as error:
        return Facts(findings=(("too large", str(error)),))
    except InputError as error:
        return Facts(findings=(("unreadable", str(error)),))


def _facts_of(path: str, data: bytes, least: float) -> Facts:
    digest = pixels.digest_of(data)
    jpeg = jpeg_header(data)
    header = _look_at_jpeg(data, jpeg, least) if jpeg else _look_at_other(data)
    if header.fault or header.in_doubt:
        try:
            with overheard(path) as said:
                pixels.decode(data, 1, 1)  # the upper part of a JPEG that is cut short can be shown
        except pixels.TooLarge:
            raise
        except InputError as error:
            return Facts(digest, findings=(("unreadable", header.fault or str(error)),))
        if header.fault:
            header.findings.append(("truncated", header.fault))
        elif said or (jpeg and data.rfind(JPEG_END) < _tables(data)[1]):
            header.findings.append(("damaged JPEG data", said[0] if said else "it has no end"))
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 - Path is slow, and there are 22,000
    if _FORMATS.get(suffix, header.format) != header.format:
        header.findings.append(("wrongly named", f"{suffix} holds {header.format}"))
    if min(header.height, header.width) < TINY:
        header.findings.append(("tiny", f"{header.width}×{header.height}"))
    return Facts(digest, header.height, header.width, True, tuple(header.findings), header.density)


def _look_at_jpeg(data: bytes, jpeg: JpegHeader, least: float) -> _Header:
    findings = []
    if jpeg.channels != 3:
        findings.append(("greyscale" if jpeg.channels == 1 else "CMYK", ""))
    if jpeg.orientation > 1:
        findings.append(("EXIF-rotated", f"orientation {jpeg.orientation}"))
    if jpeg.kept or len(data) > pixels.ALONE:  # others can be reduced far enough
        pixels.jpeg_cost(jpeg, len(data), by=8)  # raises TooLarge
    # What stops a decoder is damage to the tables before the pixels, or pixels that end too soon.
    # The end is looked for among the last bytes, as some cameras append a few. Only where it is
    # missing does Pillow decode all pixels: unlike OpenCV it says when they end too soon. So it
    # does for CMYK, which it reads. Where they only look damaged, OpenCV's decoder says how.
    whole = jpeg.channels != 4 and data.rfind(JPEG_END, -64) >= 0
    tables, start = _tables(data)
    fault = _tables_fault(tables) or ("" if whole else _pillow_fault(data))
    doubt = in_doubt(data, start, jpeg, least)
    density = (len(data) - start) / (jpeg.height * jpeg.width)
    return _Header("JPEG", *jpeg.upright, findings, fault, doubt, density)


def _look_at_other(data: bytes) -> _Header:
    if not data:
        return _Header("", 0, 0, [], "empty file")
    try:
        with closing(pixels.open_photo(data)) as photo, pixels.alone(pixels.cost(photo, data)[1]):
            # MPO is a JPEG with a second one behind it.
            kind = "JPEG" if photo.format == "MPO" else photo.format or ""
            frames = getattr(photo, "n_frames", 1) if kind != "JPEG" else 1
            # Pillow decodes a PNG to find it, as it may stand behind the pixels.
            is_plain = kind == "PNG" and not any(word in data for word in _PNG_TURNS)
            turn = 1 if is_plain else photo.getexif().get(ORIENTATION, 1)
            bits_are_16 = kind == "PNG" and data[24] == 16  # bits a channel
            checks = [
                ("16-bit", photo.mode, photo.mode[0] in "IF" or bits_are_16),
                ("CMYK", "", photo.mode == "CMYK"),
                ("transparent", photo.mode, photo.has_transparency_data),
                ("greyscale", photo.mode, photo.mode in ("1", "L", "LA")),
                ("several pictures", f"{frames} of them", frames > 1),
                ("EXIF-rotated", f"orientation {turn}", turn in range(2, 9)),
            ]
            fault = _pillow_fault(data) if kind == "PNG" else ""
            if kind != "PNG":
                photo.load()
            # Only now, as Pillow itself turns a TIFF while it decodes it.
            height, width = photo.size[::-1] if is_plain else pixels.upright(photo)
        findings = [(finding, detail) for finding, detail, is_so in checks if is_so]
        return _Header(kind, height, width, findings, fault)
    except PILLOW_ERRORS as error:
        if isinstance(error, InputError):
            raise
        return _Header("", 0, 0, [], pixels.reason(error, data))


def _pillow_fault(data: bytes) -> str:
    """Why Pillow cannot decode the pixels, or ""."""
    try:
        with closing(pixels.open_photo(data)) as photo:
            if photo.format == "PNG":
                photo.verify()  # checksums: as sure as decoding, in a tenth of the time
            else:
                pixels.load(photo, data, 8)
    except PILLOW_ERRORS as error:
        if isinstance(error, InputError):
            raise
        return pixels.reason(error, data)
    return ""


def _tables(data: bytes) -> tuple[bytes, int]:
    """A JPEG cut down to its tables, as 16×16 px with no pixels, and where its pixels begin.

    One encoder at one quality gives the same bytes here for all photos, so that few are judged.
    b"" if no pixels follow them.
    """
    parts = [data[:2]]
    for marker, at, end in jpeg_segments(data):
        is_metadata = 0xE0 <= marker <= 0xED or marker == 0xFE  # 0xEE tells CMYK from its inverse
        if marker in JPEG_SIZES:
            parts.append(data[at : at + 5] + b"\0\x10\0\x10" + data[at + 9 : end])
        elif not is_metadata:
            parts.append(data[at:end])
        if marker == JPEG_PIXELS:
            return b"".join([*parts, JPEG_END]), end
    return b"", len(data)


@lru_cache(256)
def _tables_fault(tables: bytes) -> str:
    return _pillow_fault(tables) if tables else "no pixels in it"


def add_findings(
    audit: Audit, source: str, frame: pd.DataFrame, facts: dict[str, Facts]
) -> set[str]:
    """Add what is odd about each photo (columns id, path); the ids that are dropped for it."""
    dropped = set()
    for ident, path in zip(frame["id"], frame["path"], strict=True):
        missing = (("missing file", "named in the CSV only"),)
        for finding, detail in facts[path].findings if path else missing:
            action = _ACTIONS[finding][source == "test"]
            audit.add(source, ident, finding, action, detail)
            if action == "dropped":
                dropped.add(ident)
    return dropped


def add_duplicates(audit: Audit, train: pd.DataFrame, test: pd.DataFrame) -> set[str]:
    """Add files with the same bytes; the train ids that are dropped, as their labels differ."""
    clash: set[str] = set()
    for _, same in train[train.duplicated("digest", keep=False)].groupby("digest", sort=False):
        first, *others = same["id"]
        if same["label"].nunique() == 1:
            for ident in others:
                action, detail = "on the same side of the split", f"same as {first}"
                audit.add("train", ident, "duplicate", action, detail)
            continue
        clash |= {first, *others}
        for ident, label in zip(same["id"], same["label"], strict=True):
            twins = ", ".join(other for other in same["id"] if other != ident)
            detail = f"label {label}; same as {twins}"
            audit.add("train", ident, "duplicate with another label", "dropped", detail)

    kept = train[~train["id"].isin(clash)].drop_duplicates("digest")
    in_train = dict(zip(kept["digest"], zip(kept["id"], kept["label"], strict=True), strict=True))
    in_test: dict[str, str] = {}
    for digest, ident in test.loc[test["readable"], ["digest", "id"]].itertuples(index=False):
        if digest in in_train:
            twin, label = in_train[digest]
            detail = f"same as {twin}, label {label}"
            audit.add("test", ident, "duplicate of a train photo", "kept", detail)
        if digest in in_test:
            audit.add("test", ident, "duplicate", "kept", f"same as {in_test[digest]}")
        in_test.setdefault(digest, ident)
    return clash
'''


# ===== carcls/data/augment.py =================================================
MODULES["data/augment.py"] = r'''"""Augmentation: albumentations policies on uint8 RGB photos.

Crop, flip, rotation, zoom and shift are one matrix and one ``warpAffine`` from the decoded photo to
the network's size: one interpolation instead of four, which is what makes batches fast.
"""

from __future__ import annotations

import math
import os
import random
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from carcls import disk
from carcls.config import POLICIES
from carcls.data.lint import lint, read
from carcls.errors import ConfigError

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks a server for news
import albumentations as A

# Limits at strength 1, either way.
ROTATE = 7.0  # degrees
ZOOM = 0.10  # of the scale
SHIFT = 0.06  # of the network's sides
BRIGHTNESS = 0.2  # of full scale; of the contrast, too
# Of OpenCV's 180 and 256: a car's kind does not depend on its paint.
HUE, SATURATION = 15.0, 40.0
CUTOUT = (0.10, 0.35)  # sides of the hole, as shares of the network's: a smaller one does nothing

LONGEST = 32_766  # px: OpenCV warps nothing that has a longer side
GREY = 127  # where there is no photo; grey showed no ghosts of cars, as mirrored borders do


@dataclass(frozen=True)
class Move:
    """How a photo is moved on its way to the network's size; by default, not at all."""

    mirror: bool = False  # left and right exchanged
    angle: float = 0.0  # degrees
    zoom: float = 1.0  # of the scale at which it fits
    at: tuple[float, float] = (0.5, 0.5)  # (y, x) in 0–1, of the slack: where it is cropped
    shift: tuple[float, float] = (0.0, 0.0)  # (y, x), shares of the network's sides


def fit_scale(photo_hw: tuple[int, int], target_hw: tuple[int, int], fit: str) -> float:
    """The one scale of both axes: with "pad" the whole photo shows, with "crop" it fills."""
    ratios = target_hw[0] / photo_hw[0], target_hw[1] / photo_hw[1]
    return min(ratios) if fit == "pad" else max(ratios)


def matrix(
    photo_hw: tuple[int, int], target_hw: tuple[int, int], fit: str, move: Move
) -> np.ndarray:
    """Affine map (2, 3) float32 from pixels of the photo to those at the network's size."""
    (ph, pw), (th, tw) = photo_hw, target_hw
    scale = fit_scale(photo_hw, target_hw, fit) * move.zoom
    cos = math.cos(math.radians(move.angle)) * scale
    sin = math.sin(math.radians(move.angle)) * scale
    flip = -1.0 if move.mirror else 1.0
    # Where the photo's centre goes; OpenCV's pixels have theirs at integers, hence the halves.
    cx = (tw - 1) / 2 + (tw - scale * pw) * (move.at[1] - 0.5) + move.shift[1] * tw
    cy = (th - 1) / 2 + (th - scale * ph) * (move.at[0] - 0.5) + move.shift[0] * th
    px, py = (pw - 1) / 2, (ph - 1) / 2
    a, b, c, d = flip * cos, -sin, flip * sin, cos
    return np.array([[a, b, cx - a * px - b * py], [c, d, cy - c * px - d * py]], np.float32)


def warp(photo: np.ndarray, m: np.ndarray, target_hw: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, 3) → uint8 (*target_hw, 3), grey where the photo does not reach."""
    grey = (GREY, GREY, GREY)
    h, w = photo.shape[:2]
    if max(h, w) > LONGEST:
        small_h, small_w = min(h, LONGEST), min(w, LONGEST)
        photo = cv2.resize(photo, (small_w, small_h), interpolation=cv2.INTER_AREA)
        # From pixels of the small one to the photo's: scales, and the shift between their centres.
        x, y = w / small_w, h / small_h
        grow = np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])
        m = (m.astype(np.float64) @ grow).astype(np.float32)
    return cv2.warpAffine(photo, m, target_hw[::-1], flags=cv2.INTER_LINEAR, borderValue=grey)


def view(
    photo: np.ndarray, target_hw: tuple[int, int], fit: str, mirror: bool = False
) -> np.ndarray:
    """uint8 (H, W, 3) → (*target_hw, 3), or its mirror image: a warp in a third of the time."""
    (ph, pw), (th, tw) = (photo.shape[0], photo.shape[1]), target_hw
    scale = fit_scale((ph, pw), target_hw, fit)
    h, w = max(1, round(ph * scale)), max(1, round(pw * scale))
    if max(h, w) > LONGEST:  # of which most is not seen
        return warp(photo, matrix((ph, pw), target_hw, fit, Move(mirror)), target_hw)
    if (h, w) != (ph, pw):
        photo = cv2.resize(photo, (w, h), interpolation=cv2.INTER_LINEAR)
    if fit == "pad":
        seen = np.full((th, tw, 3), GREY, np.uint8)
        top, left = (th - h) // 2, (tw - w) // 2
        seen[top : top + h, left : left + w] = photo
    else:
        top, left = (h - th) // 2, (w - tw) // 2
        seen = photo[top : top + th, left : left + tw]
    return cv2.flip(seen, 1) if mirror else seen


class RandomView(A.ImageOnlyTransform):
    """A random move as a transform: uint8 (H, W, 3) → uint8 (height, width, 3)."""

    class InitSchema(A.ImageOnlyTransform.InitSchema):
        height: int
        width: int
        fit: str
        strength: float

    def __init__(
        self, height: int, width: int, fit: str = "pad", strength: float = 1.0, p: float = 1.0
    ):
        super().__init__(p=p)
        self.height, self.width, self.fit, self.strength = height, width, fit, strength

    def get_params(self) -> dict[str, Any]:
        """Draw a move."""
        s = self.strength
        u = self.random_generator.uniform(-1, 1, 7).tolist()
        move = Move(
            mirror=u[0] < 0,
            angle=ROTATE * s * u[1],
            zoom=1 + ZOOM * s * u[2],
            at=(0.5 + 0.5 * s * u[3], 0.5 + 0.5 * s * u[4]),
            shift=(SHIFT * s * u[5], SHIFT * s * u[6]),
        )
        return {"move": move}

    def apply(self, img: np.ndarray, move: Move, **_: Any) -> np.ndarray:
        target = (self.height, self.width)
        return warp(img, matrix((img.shape[0], img.shape[1]), target, self.fit, move), target)


class PlainView(A.ImageOnlyTransform):
    """``view`` as a transform."""

    def __init__(self, height: int, width: int, fit: str = "pad", p: float = 1.0):
        super().__init__(p=p)
        self.height, self.width, self.fit = height, width, fit

    def apply(self, img: np.ndarray, **_: Any) -> np.ndarray:
        return view(img, (self.height, self.width), self.fit)


class Policy:
    """Transforms whose draws depend on nothing but the seed given with each photo.

    One thread at a time: its random state is shared.
    """

    def __init__(self, transforms: list[A.BasicTransform]):
        self.transforms = transforms
        self._compose = A.Compose(transforms)

    def __call__(self, photo: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
        """uint8 (H, W, 3) → uint8, augmented. Raises ConfigError on other pixels."""
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
            # Floats, for one, would break albumentations in silence.
            raise ConfigError(
                f"augmentation: photo of {photo.dtype} {photo.shape}; expected uint8 (H, W, 3)"
            )
        # One generator for all transforms: Compose.set_random_seed would start each from the same
        # numbers, so that a flip and a brightness draw go together.
        generator = np.random.default_rng(seed)
        python = random.Random(int(generator.integers(2**63)))
        self._compose.set_random_state(generator, python)
        return self._compose(image=photo)["image"]


def policy(name: str, height: int, width: int, fit: str, strength: float = 1.0) -> Policy:
    """The policy of that name for that size, at that strength (0–1).

    light: RandomView. medium: light, then brightness and contrast, colour and a hole, the last two
    in half of the photos. none: the photo as it is. Else a file that ``albumentations.save`` wrote,
    for photos brought to size; it has no strength. Raises ConfigError.
    """
    if name == "none":
        return Policy([PlainView(height, width, fit)])
    if name not in POLICIES:
        return Policy([PlainView(height, width, fit), *_from_file(name, height, width)])
    transforms: list[A.BasicTransform] = [RandomView(height, width, fit, strength)]
    if name == "medium" and strength > 0:
        light = BRIGHTNESS * strength
        hue, saturation = HUE * strength, SATURATION * strength
        transforms += [
            A.RandomBrightnessContrast((-light, light), (-light, light), p=1.0),
            A.HueSaturationValue((-hue, hue), (-saturation, saturation), 0, p=0.5),
            A.CoarseDropout((1, 1), CUTOUT, CUTOUT, fill=GREY, p=0.5 * strength),
        ]
    return Policy(transforms)


def _from_file(name: str, height: int, width: int) -> list[A.BasicTransform]:
    """The transforms of a saved policy, once the linter has passed them. Raises ConfigError."""
    path = disk.user_path(name)
    if not path.is_file():
        raise ConfigError(
            f"augment={name!r}: expected {', '.join(POLICIES)} or a file of albumentations.save"
        )
    try:
        loaded = A.from_dict(read(path))
    except Exception as error:  # of YAML, or whatever a transform says of its arguments
        raise ConfigError(
            f"augment={name}: not a policy of albumentations.save ({error})"
        ) from None
    transforms = list(loaded.transforms) if isinstance(loaded, A.Compose) else [loaded]
    problems = lint(transforms, height, width)
    if isinstance(loaded, A.Compose) and loaded.p < 1:
        problems.append(f"the whole Compose has p={loaded.p}; give each transform its own")
    if problems:
        raise ConfigError(f"augment={name}: " + "; ".join(problems))
    return transforms
'''


# ===== carcls/data/batches.py =================================================
MODULES["data/batches.py"] = r'''"""The only place where batches are made: for training, validation, prediction and views.

tf.data schedules; one Python function makes a batch from its number, so that order and augmentation
depend on the seed alone, however many threads there are.
"""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
import tensorflow as tf

from carcls.config import Config
from carcls.data import augment
from carcls.data.cache import PhotoCache
from carcls.data.photos import Rows
from carcls.machine import ONE_DEVICE, Machine

_VIEWS = 1_000_003  # in the seed of views: keeps their draws apart from those of training
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]  # images, labels, weights


@dataclass(frozen=True)
class Epochs:
    """Training: every epoch another permutation of the rows, augmented, in whole batches.

    Rows fewer than the devices fill one batch, padded and masked.
    """

    stage: int
    numbers: range  # of the epochs, within the stage
    strength: Callable[[int], float]  # epoch → strength of the augmentation
    steps: int | None = None  # the first so many of each epoch; None: all there are


@dataclass(frozen=True)
class Looks:
    """Prediction: every row exactly once per view, in order, the last batch padded and masked.

    A batch may hold the end of one view and the start of the next, so that few photos fill batches.
    """

    views: range = range(1)  # 0 the photo as it is, 1 its mirror image, then random ones


@dataclass(frozen=True)
class Batches:
    """Batches of (images, labels, weights) and how many there are.

    images: uint8 (B, H, W, 3) RGB, or float32 0–255 where they are mixed. labels: float32
    (B, classes), all zero where unknown. weights: float32 (B,), 0 for what only fills a batch, else
    the same number, such that Keras's mean over batches is the mean over photos.
    """

    dataset: tf.data.Dataset
    steps: int  # of an epoch of training, or of all looks
    batch: int  # photos a step, of all processes together
    rows: int  # photos
    views: int
    maker: _Maker  # kept alive, as the dataset holds it weakly

    def collect(self, outputs: np.ndarray) -> np.ndarray:
        """(steps × B, C) in the order of the batches → (views, rows, C): every row once a view."""
        return outputs[: self.views * self.rows].reshape(self.views, self.rows, outputs.shape[1])

    def waited(self, first: int, ends: Mapping[int, float]) -> float | None:
        """The share of an epoch of training in which its batches were waited for; None of one step.

        Counted is the time between the end of the epoch's first step, which may trace, and the end
        of its last one: a batch was waited for from the end of the step before it until it was
        made. ends: step → when it was over, by time.monotonic; first: the number of the epoch's
        first batch, whose times are forgotten.
        """
        ready = {step: self.maker.ready.pop(first + step, -math.inf) for step in ends}
        steps = sorted(ends)[1:]
        whole = ends[steps[-1]] - ends[steps[0] - 1] if steps else 0.0
        waits = (max(0.0, ready[step] - ends[step - 1]) for step in steps)
        return sum(waits) / whole if whole else None


def make_batches(
    cache: PhotoCache,
    rows: Rows,
    classes: int,
    how: Epochs | Looks,
    cfg: Config,
    machine: Machine | None = None,
) -> Batches:
    """Batches of these rows for this machine; without one, for one device.

    The devices share a batch evenly, and each of several processes makes its own share of it. With
    XLA the shapes are fixed; without it one trace serves all sizes.
    """
    machine = machine or ONE_DEVICE
    cv2.setNumThreads(1)  # tf.data's threads are the parallelism; OpenCV's own would fight them
    maker: _Maker
    if isinstance(how, Epochs):
        maker = _TrainingMaker(cache, rows, how, cfg, machine)
        numbers = range(how.numbers.start * maker.steps, how.numbers.stop * maker.steps)
        mixed, views = cfg.mix.mixup > 0 or cfg.mix.cutmix > 0, 1
    else:
        maker = _LookMaker(cache, rows, how, cfg, machine)
        numbers, mixed, views = range(maker.steps), False, len(how.views)
    # keras-cv draws from a generator with a state. To go on from a later epoch, the draws of the
    # earlier ones are made again, on blank photos.
    dataset = tf.data.Dataset.range(0 if mixed else numbers.start, numbers.stop)
    tensors = _tensors(maker, numbers.start, classes, machine)
    dataset = dataset.map(tensors, num_parallel_calls=threads(), deterministic=True)
    if mixed:
        mix = _mixer(cfg, maker, numbers.start)
        dataset = dataset.enumerate().map(mix, num_parallel_calls=1, deterministic=True)
        dataset = dataset.skip(numbers.start)
    # An iterator that ends waits for the tuner's sleeping thread, and there is nothing to tune
    # (MEASUREMENTS: tf.data's tuner).
    options = tf.data.Options()
    options.autotune.enabled = False
    # The next batches are made while the network is at work; two hide one that takes longer.
    dataset = dataset.prefetch(2).with_options(options)
    return Batches(dataset, maker.steps, maker.batch, len(rows), views, maker)


def _tensors(maker: _Maker, first: int, classes: int, machine: Machine) -> Callable[..., Any]:
    """A function from a batch's number to its tensors; blank ones for numbers below ``first``."""
    # A strategy splits batches whose size it knows; else batches of all sizes share a trace.
    share = maker.count if machine.xla or machine.strategy else None
    sides = maker.cache.size if machine.xla else (None, None)
    # TensorFlow keeps the function of a numpy_function for ever; held weakly, photos can go.
    weak_maker = weakref.ref(maker)

    def make(i: np.ndarray) -> Arrays:
        alive = weak_maker()
        assert alive is not None, "the Batches of this dataset are gone"
        return alive.make(int(i)) if i >= first else alive.blank()

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert, and looking takes long
    def tensors(i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        types = (tf.uint8, tf.int64, tf.float32)
        images, labels, weights = tf.numpy_function(make, [i], types, stateful=False)
        images.set_shape((share, *sides, 3))
        labels.set_shape((share,))
        weights.set_shape((share,))
        return images, tf.one_hot(labels, classes), weights

    return tensors


def threads() -> int:
    """Threads that make batches."""
    if hasattr(os, "sched_getaffinity"):
        return min(8, len(os.sched_getaffinity(0)))
    return min(8, os.cpu_count() or 1)


class _Maker:
    """Makes a batch from its number: images uint8 (B, H, W, 3), labels int64, weights float32."""

    def __init__(self, cache: PhotoCache, rows: Rows, cfg: Config, machine: Machine, batch: int):
        self.cache, self.rows, self.cfg, self.batch = cache, rows, cfg, batch
        self.steps = 0
        self.count = batch // machine.processes
        first = machine.process * self.count
        self.share = slice(first, first + self.count)  # of a batch, that this process makes
        # One policy a thread: threads that share an albumentations Compose share its random state.
        self.policies = threading.local()
        self.ready: dict[int, float] = {}  # of training: batch → when it was made; time.monotonic

    def make(self, i: int) -> Arrays:
        """Batch number i: photos to train on and to predict are made in ways of their own."""
        raise NotImplementedError

    def blank(self) -> Arrays:
        """A batch that nobody will see."""
        images = np.zeros((self.count, *self.cache.size, 3), np.uint8)
        return images, np.zeros(self.count, np.int64), np.ones(self.count, np.float32)

    def _policy(self, name: str, strength: float) -> augment.Policy:
        """This thread's policy of that name and strength; the last one is kept."""
        kept = self.policies.__dict__
        if kept.get("key") != (name, strength):
            kept["policy"] = augment.policy(name, *self.cache.size, self.cfg.fit, strength)
            kept["key"] = (name, strength)
        return cast(augment.Policy, kept["policy"])

    def _stack(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """(B, H, W, 3) uint8, written photo by photo: np.stack would hold all of them twice."""
        batch = np.empty((self.count, *self.cache.size, 3), np.uint8)
        for place, image in zip(batch, images, strict=True):
            place[:] = image
        return batch


class _TrainingMaker(_Maker):
    """The batches of all epochs, numbered on."""

    def __init__(self, cache: PhotoCache, rows: Rows, how: Epochs, cfg: Config, machine: Machine):
        super().__init__(cache, rows, cfg, machine, machine.batch_size(cfg.batch, len(rows)))
        self.how = how
        whole = max(1, len(rows) // self.batch)
        self.steps = min(how.steps or whole, whole)
        self.order = (-1, np.empty((2, 0), int))  # an epoch and what _order says of it

    def make(self, i: int) -> Arrays:
        epoch, step = divmod(i, self.steps)
        order = self.order  # it is replaced as a whole, as threads come to it at once
        if order[0] != epoch:
            order = self.order = (epoch, self._order(epoch))
        # Rows fewer than devices come again to fill the only batch, with weight 0.
        places = np.arange(step * self.batch, (step + 1) * self.batch)[self.share]
        chosen, copies = order[1][:, places % len(self.rows)]
        policy = self._policy(self.cfg.augment, self.how.strength(epoch))
        draws = (self.cfg.seed, self.how.stage, epoch)
        images = self._stack(
            # Drawn from the row's number, not its place in the table: other photos do not matter.
            # With its copy's number, too, what comes again is augmented anew.
            policy(self.cache[self.rows.rows[number]], (*draws, number, *([copy] if copy else [])))
            for number, copy in zip(chosen, copies, strict=True)
        )
        scale = max(1.0, self.batch / len(self.rows))
        self.ready[i] = time.monotonic()
        return images, self.rows.labels[chosen], (places < len(self.rows)) * np.float32(scale)

    def _order(self, epoch: int) -> np.ndarray:
        """(2, N) of an epoch's photos: numbers of rows, and which copy each is, 0 the first."""
        rng = np.random.default_rng((self.cfg.seed, self.how.stage, epoch))
        count, labels = len(self.rows), self.rows.labels
        order = rng.permutation(count)
        if not self.cfg.oversample:
            return np.stack([order, np.zeros_like(order)])
        # Each class in turn, its photos in this order and from the front again where they run out.
        by_class = order[np.argsort(labels[order], kind="stable")]
        groups = np.split(by_class, np.flatnonzero(np.diff(labels[by_class])) + 1)
        quotas = rng.permutation([len(part) for part in np.array_split(order, len(groups))])
        drawn = [
            np.stack([np.resize(group, quota), np.arange(quota) // len(group)])
            for group, quota in zip(groups, quotas, strict=True)
        ]
        return np.concatenate(drawn, axis=1)[:, rng.permutation(count)]


class _LookMaker(_Maker):
    """The batches of all views, one after the other."""

    def __init__(self, cache: PhotoCache, rows: Rows, how: Looks, cfg: Config, machine: Machine):
        super().__init__(cache, rows, cfg, machine, machine.batch_size(cfg.batch))
        self.views = how.views
        self.looks = len(rows) * len(how.views)
        self.steps = -(-self.looks // self.batch)

    def make(self, i: int) -> Arrays:
        places = np.arange(i * self.batch, (i + 1) * self.batch)[self.share]
        numbers, chosen = np.divmod(np.minimum(places, self.looks - 1), len(self.rows))
        images = self._stack(
            self._view(row, self.views[number])
            for number, row in zip(numbers, self.rows.rows[chosen], strict=True)
        )
        # Keras divides a batch's loss by its size, padding included; this makes up for it.
        scale = self.steps * self.batch / self.looks
        return images, self.rows.labels[chosen], (places < self.looks) * np.float32(scale)

    def _view(self, row: int, number: int) -> np.ndarray:
        """One view (H, W, 3) of a photo, drawn from seed, view and photo, whatever the batch."""
        photo, cfg = self.cache[row], self.cfg
        if number < 2:
            return augment.view(photo, self.cache.size, cfg.fit, mirror=number == 1)
        policy = self._policy("light", cfg.view_strength)
        return policy(photo, (cfg.seed, _VIEWS, number, self.cache.keys[row]))


def _mixer(cfg: Config, maker: _Maker, first: int) -> Callable[..., Any]:
    """MixUp, CutMix, or by a coin one of them a batch, by keras-cv; labels are mixed alike.

    first: batches of lower numbers are blank.
    """
    from keras_cv import layers  # it imports keras, whose backend is chosen by then

    kinds = ((layers.MixUp, cfg.mix.mixup), (layers.CutMix, cfg.mix.cutmix))
    mixers = [kind(alpha=alpha, seed=cfg.seed) for kind, alpha in kinds if alpha]
    weak_maker = weakref.ref(maker)

    def is_ready(number: np.ndarray) -> np.ndarray:
        alive = weak_maker()
        if alive and number >= first:
            alive.ready[int(number)] = time.monotonic()
        return number

    def mix(number: tf.Tensor, batch: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        images, labels, weights = batch
        inputs = {"images": tf.cast(images, tf.float32), "labels": labels}
        branches = [lambda mixer=mixer: mixer(inputs, training=True) for mixer in mixers]
        if len(mixers) == 1:
            mixed = branches[0]()
        else:  # the coin depends on the batch's number alone: a training that goes on has the same
            coin = tf.random.stateless_uniform((), (cfg.seed, number), 0, 2, tf.int32)
            mixed = tf.switch_case(coin, branches)
        with tf.control_dependencies([mixed["images"], mixed["labels"]]):
            tf.numpy_function(is_ready, [number], tf.int64)
        return mixed["images"], mixed["labels"], weights

    return mix
'''


# ===== carcls/data/boxes.py ===================================================
MODULES["data/boxes.py"] = r'''"""Boxes around the cars, from CSV files: photos are cut to them, so that nobody learns backgrounds.

A file has the columns id, left, top, right, bottom (px of the upright photo; all four empty:
nothing was found in it) and, where an id is of a train and of a test photo, source (train or test).
With a column score, the row with the highest counts. ``carcls boxes`` makes such files, and any
other detector may. The boxes of several files are averaged, which beats tuning one detector.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carcls.data import tables
from carcls.disk import is_photo_name
from carcls.errors import InputError

SIDES = ["left", "top", "right", "bottom"]
SMALL = 32  # px: a shorter side below this is reported
_SOURCES = ("train", "test")
_COLUMNS = ("id", *SIDES, "source", "score")  # the last two need not be there
_EMPTY = ("", "nan", "none", "null", "na")  # how tables write nothing
_BEYOND = 0.1  # of a box's area outside of its photo is reported


@dataclass(frozen=True)
class File:
    """A file of boxes."""

    path: Path
    rows: pd.DataFrame  # id; source or ""; SIDES float, px, NaN: nothing found; score float or NaN


def of(frame: pd.DataFrame) -> np.ndarray:
    """(N, 4) int, px: the box of each row of a table of photos; without boxes, the whole photo."""
    if set(SIDES) <= set(frame.columns):
        return frame[SIDES].to_numpy(int)
    height, width = frame["height"].to_numpy(int), frame["width"].to_numpy(int)
    return np.stack([0 * width, 0 * height, width, height], axis=1)


# --- A file by itself ---------------------------------------------------------------------------


def read(path: Path, empty: bool = False) -> File:
    """The boxes of a file; empty: also if it has none. Raises InputError."""
    table = tables.read_csv(path)
    columns = [str(name).strip().lower() for name in table.columns]
    named = [name for name in columns if name in _COLUMNS]
    if len(set(named)) < len(named) or not {"id", *SIDES} <= set(named):
        raise InputError(
            f"{path}: columns {', '.join(map(str, table.columns))}; expected id, left, top, right, "
            "bottom, each once, and source where an id is of a train and a test photo"
        )
    table = table.set_axis(columns, axis=1).apply(lambda column: column.str.strip())
    numbers = _numbers(path, table)
    nothing = pd.Series("", table.index)
    source = table.get("source", nothing).str.lower()
    score = pd.to_numeric(table.get("score", nothing), errors="coerce")
    odd = sorted(set(source) - {"", *_SOURCES})
    if odd:
        raise InputError(f"{path}: source {odd[0]!r}; expected train or test")
    if numbers.isna().all(axis=None) and not empty:
        raise InputError(f"{path}: no box in any of its {len(table)} rows")
    if (numbers.max() <= 1).all() and (numbers.min() >= 0).all():
        raise InputError(f"{path}: no box reaches beyond 1; expected px, not shares of the photo")
    return File(path, numbers.assign(id=table["id"], source=source, score=score))


def _numbers(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """SIDES as float, all four NaN where nothing was found. Raises InputError on any others."""
    texts = table[SIDES]
    numbers = texts.apply(lambda side: pd.to_numeric(side, errors="coerce")).astype(float)
    none = texts.apply(lambda side: side.str.lower().isin(_EMPTY)).all(axis=1)
    ordered = (numbers["left"] < numbers["right"]) & (numbers["top"] < numbers["bottom"])
    wrong = ~(none | ordered & np.isfinite(numbers).all(axis=1))
    if wrong.any():
        first = int(wrong.argmax())
        found = ", ".join(f"{name} {texts[name][first]!r}" for name in SIDES)
        raise InputError(
            f"{path}: row {first + 2}, id {table['id'][first]!r}: {found}; expected numbers with "
            "left < right and top < bottom, or all four empty"
        )
    return numbers


# --- Files and photos ---------------------------------------------------------------------------


def cut(frame: pd.DataFrame, files: Sequence[File]) -> tuple[pd.DataFrame, list[str]]:
    """The table of photos with SIDES (int, px), and lines for the log.

    frame has the columns id, source, height, width and readable. A photo's box is the mean of the
    files' that have one, inside the photo; without any it is the whole photo. Raises InputError
    where a box cannot be of a photo, or may be of several.
    """
    whole, beyond, notes = of(frame), np.zeros(len(frame), bool), []
    boxes = np.full((len(files), len(frame), 4), np.nan)
    for number, file in enumerate(files):
        boxes[number], outside, unused = _place(frame, file)
        beyond |= outside
        if unused:
            notes.append(f"boxes of {file.path.name} of photos that are not used: {unused:,}")

    given = ~np.isnan(boxes[..., 0])  # (files, N)
    has = given.any(axis=0)
    count = np.maximum(given.sum(axis=0), 1)[:, None]
    mean = np.where(given[..., None], boxes, 0).sum(axis=0) / count  # (N, 4)
    outer = np.concatenate([np.floor(mean[:, :2]), np.ceil(mean[:, 2:])], axis=1).astype(int)
    sides = np.where(has[:, None], outer, whole)

    apart = np.zeros(len(frame), bool)
    for box, there in zip(boxes, given, strict=True):
        apart[there] |= _overlap(box[there], mean[there]) < 0.5
    small = has & (sides[:, 2:] - sides[:, :2] < SMALL).any(axis=1)
    warnings = (
        (f"box reaches beyond it by more than {_BEYOND:.0%} (expected upright photos' px)", beyond),
        ("boxes in the files are less than half alike: their mean may show neither car", apart),
        (f"box has a side below {SMALL} px", small),
    )
    for what, which in warnings:
        if which.any():
            ids = frame["id"][which].astype(str).tolist()
            names = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
            notes.append(f"WARNING: photos whose {what}: {len(ids):,} ({names})")
    lines = [_counts(frame, sides, has, len(files)), *notes]
    return frame.assign(**dict(zip(SIDES, sides.T, strict=True))), lines


def _place(frame: pd.DataFrame, file: File) -> tuple[np.ndarray, np.ndarray, int]:
    """A file's boxes inside their photos, (N, 4) float, NaN where a photo has none.

    Also which reached far beyond their photo, (N,) bool, and how many are of no photo here.
    """
    match, unused = _match(frame, file)
    if not match:
        ids = file.rows.loc[file.rows["left"].notna(), "id"][:3].tolist()
        raise InputError(
            f"{file.path}: none of its {unused} boxes is of a photo here, such as {ids}; expected "
            f"ids as {frame['id'][:3].tolist()}"
        )
    readable = frame["readable"].to_numpy(bool)
    rows = np.array([row for row in match if readable[row]], int)
    given = np.array([match[row] for row in rows]).reshape(-1, 4)
    size = frame[["width", "height"]].to_numpy(int)[rows]
    inside = np.clip(given, 0, np.tile(size, 2))
    outside = (inside[:, :2] >= inside[:, 2:]).any(axis=1)
    if outside.any():
        first = int(outside.argmax())
        width, height = size[first]
        raise InputError(
            f"{file.path}: id {frame['id'].iloc[rows[first]]!r}: box {given[first].tolist()} lies "
            f"outside of its photo, which is {width}×{height} px; expected px of the upright photo"
        )
    boxes, beyond = np.full((len(frame), 4), np.nan), np.zeros(len(frame), bool)
    boxes[rows] = inside
    beyond[rows] = _area(inside) < (1 - _BEYOND) * _area(given)
    return boxes, beyond, unused


def _counts(frame: pd.DataFrame, sides: np.ndarray, has: np.ndarray, files: int) -> str:
    """How many photos are cut, and how far."""
    counts = []
    for source in _SOURCES:
        part = (frame["source"] == source).to_numpy()
        counts.append(f"{int(has[part].sum()):,} of {int(part.sum()):,} {source}")
    mean = f", the mean of {files} files" if files > 1 else ""
    half = ""
    if has.any():
        share = np.median(_area(sides[has]) / (frame["width"] * frame["height"])[has])
        half = f", half of them to {share:.0%} of the photo or less"
    return f"boxes: {' and '.join(counts)} photos are cut to one{mean}{half}; the others stay whole"


# --- Which photo a row is of --------------------------------------------------------------------


def _match(frame: pd.DataFrame, file: File) -> tuple[dict[int, np.ndarray], int]:
    """Row of the table → its box (4,), and how many boxes are of no photo here.

    A photo whose own id is in the file, be it that nothing was found, takes no box of an id that
    may only mean it. Raises InputError where a box may be of several photos.
    """
    ids, sources = frame["id"].astype(str).str.strip().tolist(), frame["source"].tolist()
    by_id, by_stem = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
    for row, ident in enumerate(ids):
        by_id[ident].append(row)
        by_stem[_parts(ident)[0][-1]].append(row)

    def own(entry: Any) -> list[int]:
        return [row for row in by_id.get(entry.id, []) if entry.source in ("", sources[row])]

    entries = list(file.rows.itertuples(index=False))
    taken = {row for entry in entries for row in own(entry)}
    of_row, unused = defaultdict[int, list[Any]](list), 0
    for entry in entries:
        if np.isnan(entry.left):
            continue
        rows = own(entry) or [
            row
            for row in by_stem.get(_parts(entry.id)[0][-1], [])
            if row not in taken
            and entry.source in ("", sources[row])
            and _alike(entry.id, ids[row])
        ]
        if len(rows) > 1:
            given = sorted({sources[row] for row in rows})
            more = "; expected a column source, train or test" if len(given) > 1 else ""
            raise InputError(
                f"{file.path}: id {entry.id!r} may be of {len(rows)} photos, "
                f"{' and '.join(given)}{more}"
            )
        if rows:
            of_row[rows[0]].append(entry)
        else:
            unused += 1
    return {row: _surest(several, file.path) for row, several in of_row.items()}, unused


def _surest(entries: list[Any], path: Path) -> np.ndarray:
    """The box (4,) with the highest score. Raises InputError if one cannot tell."""
    scores, ids = [entry.score for entry in entries], sorted({entry.id for entry in entries})
    if len(ids) > 1:
        raise InputError(f"{path}: ids {' and '.join(map(repr, ids))} may be of one photo")
    if len(entries) > 1 and not np.isfinite(scores).all():
        raise InputError(
            f"{path}: id {ids[0]!r} comes more than once; expected one box a photo, or numbers in "
            "a column score"
        )
    surest = entries[int(np.argmax(scores))]
    return np.array([getattr(surest, side) for side in SIDES])


def _alike(one: str, other: str) -> bool:
    """Whether two ids may mean one photo: detectors write folders and extensions that ids lack."""
    (path, suffix), (path2, suffix2) = _parts(one), _parts(other)
    deep = min(len(path), len(path2))
    return path[-deep:] == path2[-deep:] and (suffix == suffix2 or not suffix or not suffix2)


def _parts(ident: str) -> tuple[list[str], str]:
    """An id's path, without the extension of a photo, and that extension."""
    *folders, name = ident.replace("\\", "/").removeprefix("./").split("/")
    stem, _, suffix = name.rpartition(".") if is_photo_name(name) else (name, "", "")
    return [*folders, stem], suffix.lower()


def _area(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) → (N,) px²."""
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))


def _overlap(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, 4), (N, 4) → (N,) intersection over union."""
    start, end = np.maximum(some[:, :2], others[:, :2]), np.minimum(some[:, 2:], others[:, 2:])
    common = np.maximum(end - start, 0).prod(axis=1)
    return np.asarray(common / (_area(some) + _area(others) - common))
'''


# ===== carcls/data/cache.py ===================================================
MODULES["data/cache.py"] = r'''"""Decoded photos of one size, kept where there is room for them."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import tempfile
import threading
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from carcls.data import augment, boxes, pixels
from carcls.errors import InputError

MARGIN = 1.15  # times the size at which it is shown, so that a crop which zooms in is not blurred
MEMORY_SHARE = 0.5  # of the free memory; the network and the batches need the rest
WAITS = (0.5, 1.0, 2.0)  # seconds before a photo that is not as it was is looked for again
DISK_SHARE = 0.95  # of the free disk; the run's own files need the rest


class PhotoCache:
    """Photos of a table at one size (height, width): ``cache[row]`` is uint8 (h, w, 3).

    A photo is decoded when it is first asked for, by one thread. It is cut to its box, keeps its
    shape, and is MARGIN times as large as it will be shown, unless the file is smaller. The first
    rows are kept in memory, the next ones on disk, those that find no room are decoded each time.
    Where a photo cannot be decoded, or is no longer as it was in the audit, a grey one takes its
    place for good, and it is in ``replaced``; more than a few of the latter are a ``fault``, which
    is raised.
    """

    def __init__(self, frame: pd.DataFrame, size: tuple[int, int], fit: str, scratch: Path):
        self.size = size
        self.ids = frame["id"].astype(str).tolist()
        self.paths = frame["path"].tolist()
        self.readable = frame["readable"].to_numpy(bool)
        self.digests = frame["digest"].tolist() if "digest" in frame else [""] * len(frame)
        # To draw views from: of the same file the same, whatever it is called and wherever it is.
        names = [one or other for one, other in zip(self.digests, self.ids, strict=True)]
        self.keys = [zlib.crc32(name.encode()) for name in names]
        self.file_sizes = frame[["height", "width"]].to_numpy(int)  # (N, 2)
        self.boxes = boxes.of(frame)  # (N, 4)
        self.shapes = _kept_shapes(frame, size, fit)  # (N, 2)
        self.offsets = np.concatenate([[0], np.cumsum(self.shapes.prod(1) * 3)])  # (N + 1,) bytes
        self.decoded = np.zeros(len(frame), bool)
        self.replaced: dict[int, InputError] = {}  # row → why
        self.fault: InputError | None = None
        self.locks = [threading.Lock() for _ in range(64)]
        self.free = free_memory()
        self.in_memory = self._rows_within(int(MEMORY_SHARE * self.free))
        self.memory = _memory(int(self.offsets[self.in_memory]))
        self.kept = self.in_memory
        if self.in_memory < len(frame):
            self.kept, self.disk = self._on_disk(scratch)

    def __len__(self) -> int:
        return len(self.paths)

    def __str__(self) -> str:
        total, start = self.offsets[-1] / 1e9, f"{len(self):,} photos decoded"
        if self.in_memory == len(self):
            return f"{start} in memory: {total:.2f} GB of {self.free / 1e9:.1f} GB free"
        places = {
            "in memory": self.in_memory,
            "on disk": self.kept - self.in_memory,
            "again each time": len(self) - self.kept,
        }
        shares = ", ".join(f"{count:,} {place}" for place, count in places.items() if count)
        return f"{start}, {shares}: {total:.2f} GB, {self.free / 1e9:.1f} GB of memory free"

    def __getitem__(self, row: int) -> np.ndarray:
        h, w = self.shapes[row]
        if row >= self.kept:
            photo = np.empty((h, w, 3), np.uint8)
            self._decode(row, photo)
            return photo
        start, end = self.offsets[row], self.offsets[row + 1]
        if row < self.in_memory:
            slot = self.memory[start:end].reshape(h, w, 3)
        else:
            first = self.offsets[self.in_memory]
            slot = self.disk[start - first : end - first].reshape(h, w, 3)
        if not self.decoded[row]:
            with self.locks[row % len(self.locks)]:
                if not self.decoded[row]:
                    self._decode(row, slot)
                    self.decoded[row] = True  # only now: another thread may look at any moment
        return slot

    def _rows_within(self, size: int) -> int:
        """How many of the first rows have so many bytes together."""
        return int(np.searchsorted(self.offsets, size, "right")) - 1

    def _on_disk(self, scratch: Path) -> tuple[int, np.ndarray]:
        """How many rows are kept in all, and the file (bytes,) uint8 of those not in memory."""
        first = int(self.offsets[self.in_memory])
        kept = self._rows_within(first + int(DISK_SHARE * disk_room(scratch)))
        file = _nameless_file(int(self.offsets[kept]) - first, scratch)
        return (self.in_memory, np.empty(0, np.uint8)) if file is None else (kept, file)

    def _decode(self, row: int, into: np.ndarray) -> None:
        """Write the photo of that row into an array (h, w, 3) uint8 of its kept size."""
        h, w = into.shape[:2]
        photo = self._read(row, h, w) if self.readable[row] else None
        if photo is None:
            into[:] = augment.GREY
        elif photo.shape[:2] == (h, w):
            into[:] = photo
        else:
            # Below a factor of two, which reduced decoding leaves, INTER_LINEAR does not alias, and
            # INTER_AREA costs more than the decoding (MEASUREMENTS: resizing decoded photos).
            far = photo.shape[0] >= 2 * h and photo.shape[1] >= 2 * w
            how = cv2.INTER_AREA if far else cv2.INTER_LINEAR
            cv2.resize(photo, (w, h), dst=into, interpolation=how)

    def _read(self, row: int, h: int, w: int) -> pixels.Pixels | None:
        """None if it cannot be read. Raises InputError if that is so of more than a few."""
        for wait in (*WAITS, 0):
            if self.fault:
                raise self.fault
            if row in self.replaced:
                break
            try:
                return pixels.read_box(
                    self.paths[row],
                    self.boxes[row],
                    (h, w),
                    self.file_sizes[row],
                    self.digests[row],
                )
            except pixels.NotAsAudited as error:  # a mount may come back, a file be written anew
                if wait:
                    time.sleep(wait)
                else:
                    self._replace(row, error)
            except InputError as error:  # it looked sound in the audit, and always will
                self.replaced[row] = error
                print(f"warning: {error}; a grey photo takes its place", flush=True)
                break
        return None

    def _replace(self, row: int, error: pixels.NotAsAudited) -> None:
        """Go on with a grey photo, if they are few and their folder is there."""
        self.replaced[row] = error
        count, few = len(changed(self.replaced)), few_of(len(self))
        folder = Path(self.paths[row]).parent
        if count > few or not folder.is_dir():
            seen = f"{count:,} photos are no longer as when the run began"
            self.fault = InputError(
                f"{folder}: {seen if folder.is_dir() else 'the folder is gone'}; a run goes on "
                f"without {few:,} of {len(self):,} photos at most: {error}"
            )
            raise self.fault
        print(f"warning: {error}; a grey photo takes its place", flush=True)


def changed(replaced: dict[int, InputError], really: bool = True) -> dict[int, InputError]:
    """Of photos that were replaced those that are no longer as they were, or the others."""
    return {
        row: why for row, why in replaced.items() if isinstance(why, pixels.NotAsAudited) == really
    }


def few_of(photos: int) -> int:
    """Without how many photos a run goes on: one in 200, three of a few hundred, one of a few."""
    return max(1, min(3, photos // 10), photos // 200)


def _kept_shapes(frame: pd.DataFrame, size: tuple[int, int], fit: str) -> np.ndarray:
    """(N, 2) int height and width at which photos are kept for a network of this size."""
    left, top, right, bottom = boxes.of(frame).astype(float).T
    cut = np.stack([bottom - top, right - left], axis=1)
    cut[~frame["readable"].to_numpy(bool)] = size
    ratio = np.array(size) / cut
    scale = (ratio.min(1) if fit == "pad" else ratio.max(1)) * MARGIN
    shapes = np.ceil(cut * np.minimum(scale, 1.0)[:, None])
    return np.asarray(np.maximum(1, shapes).astype(int))


def _memory(size: int) -> np.ndarray:
    """(size,) uint8: takes no memory before it is written to, and gives it back with the cache."""
    if not size:
        return np.empty(0, np.uint8)
    # Of its own, as malloc may keep what is freed.
    return np.frombuffer(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


def _nameless_file(size: int, scratch: Path) -> np.ndarray | None:
    """(size,) uint8 in a file that leaves nothing behind; None if the disk has no room for it."""
    if not size:
        return None
    with tempfile.NamedTemporaryFile(dir=scratch, prefix="photos-") as file:
        try:
            # truncate only promises room: a disk that fills up later would kill the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            return None
        return np.memmap(file.name, np.uint8, "r+", shape=(size,))  # stays when the name is gone


def disk_room(scratch: Path) -> int:
    """Bytes free on the disk of this folder, which is made if need be."""
    scratch.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(scratch).free


def free_memory() -> int:
    """Bytes that this process may still take, of the machine and of its container."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        free = _numbers(meminfo, ":")["MemAvailable"] * 1024
    else:  # other systems do not say what they would give back: half of what there is
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return max(0, min([free, *container_memory(Path("/sys/fs/cgroup"))]))


def container_memory(root: Path) -> list[int]:
    """Bytes free by each limit of a control group, version 2 or 1; empty without a limit."""
    free = []
    for folder, limit, used, prefix in (
        (root, "memory.max", "memory.current", ""),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        if not all((folder / name).exists() for name in (limit, used, "memory.stat")):
            continue
        if (text := (folder / limit).read_text().strip()) == "max":
            continue
        pages = _numbers(folder / "memory.stat", " ")
        # Pages of files, also of a cache on disk, are given back when memory is asked for.
        files = sum(pages.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
        free.append(int(text) - int((folder / used).read_text()) + files)
    return free


def _numbers(path: Path, separator: str) -> dict[str, int]:
    rows = (line.split(separator) for line in path.read_text().splitlines())
    return {name: int(value.split()[0]) for name, value in rows}
'''


# ===== carcls/data/codepages.py ===============================================
MODULES["data/codepages.py"] = r'''"""Names in zip files, which often do not say in which code page they are."""

from __future__ import annotations

import re
import struct
import unicodedata
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from zipfile import ZipInfo

from carcls.data.tables import clean

Known = Callable[[], Iterable[str]]  # ids and labels; asked for only where a name is in doubt
_UTF8_FLAG, _UNICODE_PATH = 0x800, 0x7075
# Of two that give the same ids and labels, the first is taken.
_PAGES = (
    "utf-8 cp437 cp850 cp1252 cp852 cp1250 cp866 cp1251 koi8_u cp932 euc_jp gb18030 cp949 cp950 "
    "cp737 cp1253 cp857 cp1254 cp775 cp1257 cp855 cp862 cp1255 cp720 cp864 cp1256 cp874 cp1258 "
    "cp865 cp861 iso8859_2 iso8859_5 iso8859_15 mac_roman mac_latin2 mac_cyrillic mac_greek"
)


def names_of(
    members: list[ZipInfo], known: Known, page: str = ""
) -> tuple[list[str], str, str | None]:
    """The names of a zip file's members, and a line for the log where they were in doubt.

    Also their code page, None if none had to be found, "" if one cannot be sure; page: that of
    another zip file, for names of which one cannot be sure else.

    One code page is taken for all that do not say theirs: UTF-8, else the one in which most of
    them are ids and labels, else that of the first zip files.
    """
    names = [_plain_name(member) for member in members]
    odd = [_bytes(member) for member, name in zip(members, names, strict=True) if name is None]
    if not odd:
        return [name or "" for name in names], "", None
    taken, note = _page(odd, known)
    sure = not note.startswith("WARNING")
    with suppress(UnicodeDecodeError):
        if page and not sure and not _signs(b"\0".join(odd).decode(page)):
            taken, sure = page, True
            note = f"names are read in code page {page}, as those of the other zip file are"
    read = [
        _bytes(member).decode(taken) if name is None else name
        for member, name in zip(members, names, strict=True)
    ]
    return read, note, taken if sure else ""


def _bytes(member: ZipInfo) -> bytes:
    """A name as it is in the file; zipfile takes those without the flag for cp437."""
    return member.orig_filename.partition("\0")[0].encode("cp437")


def _plain_name(member: ZipInfo) -> str | None:
    """The name, None if nothing says how it is to be read."""
    if member.flag_bits & _UTF8_FLAG:
        return member.orig_filename.partition("\0")[0]
    name, at = _bytes(member), 0
    while at + 4 <= len(member.extra):  # what Info-ZIP adds: (kind, length, content)
        kind, length = struct.unpack_from("<HH", member.extra, at)
        field = member.extra[at + 4 : at + 4 + length]
        if kind == _UNICODE_PATH and field[:5] == struct.pack("<BL", 1, zlib.crc32(name)):
            with suppress(UnicodeDecodeError):
                return field[5:].decode().partition("\0")[0]
        at += 4 + length
    return name.decode() if name.isascii() else None


def _page(odd: list[bytes], known: Known) -> tuple[str, str]:
    """The code page of these names, and what there is to say about it."""
    readings: dict[str, str] = {}
    # All folders and a thousand files are enough to tell, and there may be 22,000.
    some = [*{name.rpartition(b"/")[0] for name in odd}, *odd[:: 1 + len(odd) // 1000]]
    for page in _PAGES.split():
        with suppress(UnicodeDecodeError):
            b"\0".join(odd).decode(page)  # all of them must be names in it
            readings[page] = b"\0".join(some).decode(page)
    words = _words("/".join(known()))
    hits = {page: len(words & _words(names)) for page, names in readings.items()}
    most = max(hits.values())
    best = [page for page, count in hits.items() if count == most]
    if "utf-8" in best:
        return "utf-8", ""
    page = min(best, key=lambda page: len(_signs(readings[page])))  # the first of equals
    doubt = ""
    if not most:
        page, doubt = "cp437", "they are no UTF-8, and ids or labels in no code page"
    elif _signs(b"\0".join(odd).decode(page)):
        doubt = "some have signs that are no letters"
    else:
        others = (name for name in best if readings[name] != readings[page])
        other = next((name for name in others if not _signs(readings[name])), "")
        doubt = other and f"it may be {other}, too"
    names = [name.decode(page) for name in odd]
    if not doubt:
        return page, f"names are in code page {page} by the ids and labels, such as {names[0]!r}"
    shown = next((n for n, name in enumerate(names) if _signs(name)), 0)
    return page, (
        f"WARNING: {len(odd)} names do not say their code page ({doubt}); read as {page}: "
        f"{odd[shown]!r} as {names[shown]!r}; if that is wrong, pack them again with names in UTF-8"
    )


def _words(paths: str) -> set[str]:
    """Parts of paths, with and without an extension, as far as they tell code pages apart."""
    parts = {clean(part).casefold() for part in re.split(r"[/\\\0]", paths) if not part.isascii()}
    parts |= {part.rpartition(".")[0] for part in parts}
    return {part for part in parts if not part.isascii()}


def _signs(names: str) -> set[str]:
    """What a name in the wrong code page has: frames, blocks, sums, control characters."""
    return {
        sign
        for sign in set(names)
        if not sign.isascii() and unicodedata.category(sign)[0] in "SC" and sign not in "№°®™"
    }
'''


# ===== carcls/data/files.py ===================================================
MODULES["data/files.py"] = r'''"""Where things are, on Kaggle and on a desk: the competition's files and the run folder."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from carcls.config import Config
from carcls.data import layout
from carcls.data.unzip import unpack
from carcls.disk import folders_below, kaggle_root, on_kaggle, tree, user_path
from carcls.errors import InputError

SAMPLE_NAMES = ("sample-submission.csv", "sample-submissions.csv", "submission-sample.csv")
TRAIN_NAMES = ("train.csv",)
TRAIN_FOLDERS = ("train", "train_images")
TEST_FOLDERS = ("test_upload", "test", "test_images")  # the competition's is test_upload


@dataclass(frozen=True)
class Place:
    """Where a run reads and writes. Folders exist, zipped photos are unpacked."""

    root: Path  # the competition's folder
    train_csv: Path | None  # None: one folder per class says the labels
    sample_csv: Path | None  # None: all test photos are predicted
    train_photos: Path
    test_photos: Path
    answers: Path | None  # the true test labels, which the drawn sample has
    on_kaggle: bool
    out: Path = Path()  # what the run leaves
    scratch: Path = Path()  # what may vanish after the run
    class_level: int = 0  # folders of train_photos above those of the classes
    notes: tuple[str, ...] = ()  # for the log: which files were taken, and how they were read


def check(cfg: Config) -> Path:
    """The competition's folder, if a run finds all in it; writes nothing. Raises InputError."""
    return _find(cfg).root


def run_folder(cfg: Config) -> Path:
    """The run folder, made if need be, once the data is there. Raises InputError."""
    place = _find(cfg)
    usual = kaggle_root() / "working" if place.on_kaggle else Path("out")
    out = user_path(cfg.out) if cfg.out else usual
    if out.resolve() == place.root.resolve():
        raise InputError(
            f"out={out}: is the data folder, whose files a run could replace; choose another one"
        )
    for photos in (place.train_photos, place.test_photos):
        if photos.is_dir() and out.resolve().is_relative_to(photos.resolve()):
            raise InputError(
                f"out={out}: lies in {photos}; its pictures would be taken for photos; choose a "
                "folder elsewhere"
            )
    return _writable(out)


def locate(cfg: Config) -> Place:
    """Find the competition's files, make the run folder, unpack the photos. Raises InputError."""
    out, place = run_folder(cfg), _find(cfg)
    scratch = _scratch(out, place.on_kaggle)
    folders = {"train": place.train_photos, "test": place.test_photos}
    zips = {scratch / name: path for name, path in folders.items() if path.is_file()}
    notes = [*place.notes, *unpack(zips, partial(layout.texts, place.train_csv, place.sample_csv))]
    train, test = (
        layout.unwrapped(scratch / name if path.is_file() else path)
        for name, path in folders.items()
    )
    level = 0
    if place.train_csv is None:
        level, found = layout.class_level(train, place.sample_csv)
        notes += found
    return replace(
        place,
        out=out,
        scratch=scratch,
        train_photos=train,
        test_photos=test,
        class_level=level,
        notes=tuple(notes),
    )


def _find(cfg: Config) -> Place:
    """The files as they are there: photos may be zip files. Raises InputError."""
    root = _root(cfg)
    train_csv, sample_csv = _file(root, TRAIN_NAMES), _file(root, SAMPLE_NAMES)
    trains, tests = _sources(root, TRAIN_FOLDERS), _sources(root, TEST_FOLDERS)
    if trains and tests:
        answers = root / "answers" / "answers.csv"
        is_sample = (root / "sample.json").is_file() and answers.is_file()
        train, notes = layout.best(trains, train_csv, sample_csv)
        test, more = layout.best(tests, sample_csv, sample_csv)
        if sample_csv is None:
            more += _other_tables(root, train_csv)
        return Place(
            root,
            train_csv,
            sample_csv,
            train,
            test,
            answers if is_sample else None,
            on_kaggle(),
            notes=(*notes, *more, *(() if train_csv else layout.unused(root))),
        )
    lacks = [] if trains else ["train photos (train.zip, or a folder train with photos)"]
    lacks += (
        [] if tests else ["test photos (test.zip, or a folder test_upload or test with photos)"]
    )
    lacks += [] if sample_csv or train_csv else [f"{SAMPLE_NAMES[0]} or train.csv"]
    raise InputError(f"{root}: missing {'; missing '.join(lacks)}. There is:\n{tree(root)}")


def _other_tables(root: Path, train_csv: Path | None) -> list[str]:
    """A warning of CSV files that may be the sample submission under another name."""
    others = [path.name for path in sorted(root.glob("*.csv")) if path != train_csv]
    if not others:
        return []
    return [
        f"WARNING: {root}: no {SAMPLE_NAMES[0]}; if one of {', '.join(others)} is it, rename it"
    ]


def _root(cfg: Config) -> Path:
    """The competition's folder: cfg.data or below it, else a kernel's input. Raises InputError."""
    if cfg.data:
        top = user_path(cfg.data)
        usual = [top]
        if not top.is_dir():
            raise InputError(
                f"data={cfg.data}: {'is a file' if top.is_file() else 'does not exist'}; expected "
                f"a folder with train.csv, {SAMPLE_NAMES[0]} and photos"
            )
    elif on_kaggle():
        top = kaggle_root() / "input"
        # Kaggle has used both layouts and promises neither, hence the search below.
        usual = [top / "competitions" / cfg.competition, top / cfg.competition]
    else:
        raise InputError("data: empty, and this is not Kaggle; set data=FOLDER, the competition's")
    below = [folder for folder in usual if _tables(folder, SAMPLE_NAMES)][:1]
    if not below:
        whole = [folder for folder in folders_below(top) if _is_competition(folder)]
        below = [f for f in whole if cfg.data or cfg.competition in f.parts]
    if not below:  # on Kaggle, any data set may have photos and no sample submission
        some = [f for f in folders_below(top) if cfg.data or cfg.competition in f.parts]
        some = [folder for folder in some if _has_all_photos(folder)]
        below = [folder for folder in usual if folder in some][:1] or some or whole
    if len(below) > 1:
        names = "".join(f"\n  {folder}" for folder in below)
        raise InputError(f"{top}: several competitions in it; set data to one of{names}")
    if below:
        return below[0]
    if cfg.data:
        return top  # the caller says what it lacks
    raise InputError(
        f"{top}: the competition {cfg.competition} is not there; attach it (in the kernel's "
        f"editor: Add Input → Competitions → {cfg.competition}; in kernel-metadata.json: "
        f'"competition_sources": ["{cfg.competition}"]), or set data=FOLDER. There is:\n'
        f"{tree(top, depth=4)}"
    )


def _is_competition(folder: Path) -> bool:
    if not _tables(folder, SAMPLE_NAMES):
        return False
    return bool(_tables(folder, TRAIN_NAMES) or _sources(folder, TRAIN_FOLDERS))


def _has_all_photos(folder: Path) -> bool:
    return bool(_sources(folder, TRAIN_FOLDERS) and _sources(folder, TEST_FOLDERS))


def _key(name: str) -> str:
    """Names that people write in several ways: sampleSubmission.csv is sample_submission.csv."""
    return re.sub(r"[-_ ]", "", name.casefold())


def _named(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """What has one of these names, in their order; as it is written here before other ways."""
    if not folder.is_dir():
        return []
    keys = {_key(name): number for number, name in reversed([*enumerate(names)])}
    found = [entry for entry in folder.iterdir() if _key(entry.name) in keys]
    return sorted(found, key=lambda e: (keys[_key(e.name)], e.name not in names, e.name))


def _tables(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """The CSV files of these names, else those that are zipped."""
    found = _named(folder, names) or _named(folder, tuple(f"{name}.zip" for name in names))
    # Kaggle has made folders of zipped files: train.csv/train.csv
    return [path / path.name if (path / path.name).is_file() else path for path in found]


def _file(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The CSV file of one of these names. Raises InputError if one cannot tell which."""
    found = _tables(folder, names)
    for path in found:
        if not path.is_file():
            raise InputError(f"{path}: {_kind(path)}; expected a CSV file")
    if len(found) > 1 and len({path.read_bytes() for path in found}) > 1:
        names_found = ", ".join(path.name for path in found)
        raise InputError(f"{folder}: {names_found} differ; keep the one that is to be used")
    return found[0] if found else None


def _kind(path: Path) -> str:
    if not path.exists():
        return "a link to nothing"
    return "a folder" if path.is_dir() else "a FIFO, a device or a socket"


def _sources(root: Path, names: tuple[str, ...]) -> list[Path]:
    """The folders with photos of these names, then the zip files. Raises InputError for others."""
    folders = [path for path in _named(root, names) if path.is_dir()]
    zips = _named(root, tuple(f"{name}.zip" for name in names))
    for path in zips:
        if not path.is_dir() and not path.is_file():
            raise InputError(f"{path}: {_kind(path)}; expected a zip file")
    found = [path for path in folders + zips if path.is_file() or layout.has_photos(path)]
    return sorted(found, key=Path.is_file)  # Kaggle has made folders of zip files, too


def _writable(folder: Path) -> Path:
    """The folder, made if need be, after a file was written to it. Raises InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".try-"):
            pass
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror or error}); set out to another folder"
        ) from None
    return folder


def _scratch(out: Path, kaggle: bool) -> Path:
    if not kaggle:
        return _writable(out / ".scratch")
    try:  # not in the run folder, which Kaggle keeps as the kernel's output
        return _writable(kaggle_root() / "temp" / "carcls")
    except InputError:
        return _writable(Path(tempfile.gettempdir()) / "carcls")
'''


# ===== carcls/data/headers.py =================================================
MODULES["data/headers.py"] = r'''"""What the header of a JPEG says, read without a decoder."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

JPEG_END = b"\xff\xd9"  # the last marker of a JPEG; it cannot occur inside its pixel data
JPEG_SIZES = (0xC0, 0xC1, 0xC2)  # markers of the size: baseline, extended, progressive
JPEG_PIXELS = 0xDA  # the marker of the header right before pixels
ORIENTATION = 0x0112  # the EXIF tag
# Among pixels FF only comes before 00, a restart, and tables or pixels of a next pass; or it ends.
_STRAY = re.compile(rb"\xff[^\0\xc4\xd0-\xd7\xda-\xdd\xe0-\xef\xfe\xff]")
_ZEROS = bytes(512)


class JpegHeader(NamedTuple):
    """What the header of a JPEG says."""

    height: int  # as stored
    width: int
    channels: int  # 1 grey, 3 colour, 4 CMYK
    orientation: int  # EXIF, 1–8
    kept: float  # samples a pixel that all passes of a progressive one share; 0 of an ordinary one

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width once it is turned as EXIF says."""
        return (self.width, self.height) if self.orientation > 4 else (self.height, self.width)


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment of a JPEG, its marker included, up to its pixels.

    Damage ends it: what is not read as segments, or is too short to hold the header of one.
    """
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker in (0xD8, 0xD9) or length < 2:
            return
        yield marker, at, at + 2 + length
        if marker == JPEG_PIXELS:
            return
        at += 2 + length


def jpeg_header(data: bytes) -> JpegHeader | None:
    """The header of an ordinary 8-bit JPEG, None of anything else; a tenth of Pillow's time."""
    if data[:2] != b"\xff\xd8":
        return None
    orientation = 0
    for marker, at, end in jpeg_segments(data):
        if marker in JPEG_SIZES:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            if bits != 8 or not height or not width or channels not in (1, 3, 4):
                return None
            kept = _samples(data[at + 11 : end : 3]) if marker == 0xC2 else 0.0
            return JpegHeader(height, width, channels, orientation or 1, kept)
        is_exif = marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0"
        if is_exif and not orientation:  # the first one counts
            orientation = _orientation(data[at + 10 : end])
    return None


def _samples(shares: bytes) -> float:
    """Of all channels a pixel, by how much each is sampled across (upper 4 bits) and down."""
    across, down = [share >> 4 for share in shares], [share & 15 for share in shares]
    areas = sum(x * y for x, y in zip(across, down, strict=True))
    return areas / max(1, max(across, default=1) * max(down, default=1)) or 4.0


def _orientation(exif: bytes) -> int:
    """EXIF orientation of a TIFF block: 1–8, 1 (upright) for other numbers, 0 if it has none."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2], "")
    try:
        start = struct.unpack_from(f"{order}I", exif, 4)[0]
        for entry in range(struct.unpack_from(f"{order}H", exif, start)[0]):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * entry)
            if tag == ORIENTATION:
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:  # a damaged block
        pass
    return 0


def in_doubt(data: bytes, start: int, header: JpegHeader, least: float) -> bool:
    """Whether a JPEG's pixels, which begin at start, may be damaged, so that a decoder must tell.

    Signs of it are a marker where none can be, many zeros in a row, no end, and fewer than
    least bytes a px. Passes of a progressive one show none: any may be short, or left out.
    """
    stray, end = _STRAY.search(data, start), data.rfind(JPEG_END)
    is_stray = stray is not None and stray[0] != JPEG_END
    too_short = len(data) - start < least * header.height * header.width
    has_gap = end < start or data.find(_ZEROS, start, end) >= 0
    return header.kept > 0 or is_stray or too_short or has_gap
'''


# ===== carcls/data/ids.py =====================================================
MODULES["data/ids.py"] = r'''"""Which photos the competition's CSV files and class folders name, and with which labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from unicodedata import normalize

import pandas as pd

from carcls.data import labels
from carcls.data.asks import Sample
from carcls.data.audit import Audit
from carcls.data.files import Place
from carcls.data.labelled import Labelled
from carcls.data.labels import Label, LabelOf
from carcls.data.names import Files
from carcls.disk import is_junk, is_photo_name, may_be_photo, tree
from carcls.errors import InputError


def test_rows(place: Place, sample: Sample, notes: list[str]) -> pd.DataFrame:
    """Columns id and path ("" without a file), in the sample's order. Raises InputError."""
    if sample.csv is None:
        return pd.DataFrame({"id": sample.ids, "path": sample.paths}, dtype=object)
    ids, csv, files = sample.ids, sample.csv, Files(place.test_photos, place)
    for line, ident in enumerate(ids, 2):
        if not ident.strip():
            raise InputError(f"{csv}: row {line} has no id")
    found, how = files.match(ids, csv)
    twice = [ident for ident, n in Counter(ids).items() if n > 1]
    why = _swapped(files, csv, sample.columns, sample.values.iloc[:, 0], found)
    if twice:
        count = f"{len(twice):,} ids come" if twice[1:] else "1 id comes"
        raise InputError(f"{csv}: {count} more than once, such as {twice[0]!r}.{why}")
    files.refuse_lost(csv, found, why)
    for ident, paths in found.items():
        if len(paths) > 1:
            raise InputError(f"{csv}: id {ident!r} may mean {' or '.join(paths)} in {files.folder}")
    notes += how
    paths = [files.full(found[ident][0]) if found[ident] else "" for ident in ids]
    return pd.DataFrame({"id": ids, "path": paths}, dtype=object)


def _swapped(
    files: Files,
    csv: Path,
    columns: Sequence[str],
    texts: Iterable[str],
    found: dict[str, list[str]],
) -> str:
    """What to say if no id has a file, but most texts of the column of labels have."""
    second = [text for text in dict.fromkeys(texts) if text.strip()]
    if any(found.values()) or not second:
        return ""
    fits, _ = files.match(second, csv)
    if 2 * sum(map(bool, fits.values())) <= max(len(second), len(found)):
        return ""
    return (
        f" The column {columns[0]} is taken for ids, and the column {columns[1]} looks like them "
        f"({second[0]!r}): are the two swapped?"
    )


def train_rows(
    place: Place, sample: Sample, said: Labelled | None, audit: Audit, notes: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Photos with one label and one file: columns id, label (int or str), path.

    They come from train.csv, or from the folders of the classes. Also returns id and path of those
    that are dropped but have a file. Raises InputError.
    """
    files = Files(place.train_photos, place)
    if said is None:
        rows = _rows_of_folders(place, files, sample, audit, notes)
        return rows, pd.DataFrame(columns=["id", "path"])
    assert place.train_csv
    found, how = files.match(said.ids.unique().tolist(), place.train_csv)
    why = _swapped(files, place.train_csv, said.columns, said.texts, found)
    files.refuse_lost(place.train_csv, found, why)
    notes += how
    frame = _labelled_rows(place.train_csv, said, sample, audit, notes)
    folder_of = labels.by_name(frame["label"].unique())
    frame["id"] = _tell_apart(frame, found, folder_of, notes)
    frame = _each_id_once(frame, audit)
    frame["path"] = _paths(frame, files, found, folder_of, audit, notes)
    dropped = dict.fromkeys(row[1] for row in audit.rows if row[3] == "dropped")
    aside = [(ident, files.full(paths[0])) for ident in dropped if (paths := found.get(ident))]
    frame = frame[frame["path"] != ""].reset_index(drop=True)
    return frame, pd.DataFrame(aside, columns=["id", "path"], dtype=object)


def _rows_of_folders(
    place: Place, files: Files, sample: Sample, audit: Audit, notes: list[str]
) -> pd.DataFrame:
    other: dict[str, Counter[str]] = defaultdict(Counter)  # class folder → kinds of files
    paths, level = [], place.class_level
    for path in files.paths:
        *folders, name = path.split("/")
        folder = folders[level] if len(folders) > level else ""
        if not may_be_photo(name):
            other[folder][Path(name).suffix.lower() or name] += 1
        elif folder:
            paths.append(path)
        elif is_photo_name(path):
            audit.add("train", path, "in no class's folder", "left out", f"in {files.folder.name}")
    if not paths:
        raise InputError(
            f"{place.root}: missing train.csv, and {files.folder} has no folder per class. There "
            f"is:\n{tree(files.folder)}"
        )
    if other:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in sum(other.values(), Counter()).items())
        audit.add("train", "", "files that are no photos", "left out", kinds)
    names = [normalize("NFC", path.split("/")[level]) for path in paths]  # a Mac's are not
    values, alike = labels.values(names, sample.asked.unique(), files.folder)
    notes += alike
    found = [values[name] for name in names]
    entries = [*files.folder.glob("*/" * level + "*")]
    folders = sorted({e.name for e in entries if e.is_dir() and not is_junk(e.name)})
    used = {path.split("/")[level] for path in paths}
    for folder in folders:
        if folder not in used:
            holds = ", ".join(other[folder]) if folder in other else "nothing"
            detail = f"class {folder}: its folder holds {holds}"
            audit.add("train", "", "class without photos", "left out", detail)
    full = [files.full(path) for path in paths]
    return pd.DataFrame({"id": paths, "label": found, "path": full}, dtype=object)


def _labelled_rows(
    csv: Path, said: Labelled, sample: Sample, audit: Audit, notes: list[str]
) -> pd.DataFrame:
    """Columns id and label of the rows of train.csv that have a label."""
    ids, texts, asked = said.ids, said.texts, sample.asked
    blank, words = labels.missing(texts, asked.unique(), csv)
    for row, ident in ids[blank].items():
        finding, detail = said.broken.get(row, ("no label", f"{texts.name} is empty"))
        audit.add("train", ident, finding, "dropped", detail)
    quantities = labels.refuse_quantities(texts[~blank], csv)
    values, alike = labels.values(texts[~blank].tolist(), asked.unique(), csv)
    notes += [*words, *quantities, *alike]
    frame = pd.DataFrame({"id": ids[~blank], "label": texts[~blank].map(values)}, dtype=object)
    return frame.reset_index(drop=True)


def _of_class(paths: list[str], label: Label, label_of: LabelOf) -> list[str]:
    """Of several files, 1.jpg in two folders: those in a folder of that class, else all."""
    own = [p for p in paths if label in map(label_of, p.split("/")[:-1])] if paths[1:] else []
    return own or paths


def _tell_apart(
    frame: pd.DataFrame, found: dict[str, list[str]], label_of: LabelOf, notes: list[str]
) -> list[str]:
    """The ids; of one with several labels, whose files lie in their folders, the paths instead."""
    twice = frame[frame.duplicated("id", keep=False)].groupby("id")["label"].nunique()
    shared, apart = set(twice.index[twice > 1]), 0
    ids: list[str] = []
    for ident, label in zip(frame["id"], frame["label"], strict=True):
        own = _of_class(found[ident], label, label_of) if ident in shared else []
        own = own if len(own) == 1 < len(found[ident]) else []
        apart += len(own)
        found |= dict.fromkeys(own, own)
        ids += own or [ident]
    if apart:
        notes.append(f"{apart:,} ids come in several classes: the label's folder tells the file")
    return ids


def _paths(
    frame: pd.DataFrame,
    files: Files,
    found: dict[str, list[str]],
    label_of: LabelOf,
    audit: Audit,
    notes: list[str],
) -> list[str]:
    """The file of each row, "" where there is none or one cannot tell."""
    paths, in_folders, wrong = [], 0, ""
    tops = {folder for own in found.values() for path in own for folder in path.split("/")[:-1]}
    if 2 * len({label_of(top) for top in tops} - {None}) <= frame["label"].nunique():
        tops = set()  # folders 0 … 9 of classes 0 … 395 only part the photos
    for ident, label in zip(frame["id"], frame["label"], strict=True):
        own = _of_class(found[ident], label, label_of)
        if len(own) != 1:
            finding = "several files" if own else "missing file"
            detail = " or ".join(own) or f"not in {files.folder.name}"
            audit.add("train", ident, finding, "dropped", detail)
            paths.append("")
            continue
        paths.append(files.full(own[0]))
        above = tops.intersection(own[0].split("/")[:-1])
        folders = [folder for folder in above if label_of(folder) is not None]
        in_folders += bool(folders)
        if folders and label not in map(label_of, folders):
            detail = f"label {label}, folder {folders[-1]}"
            audit.add("train", ident, "in another class's folder", "kept", detail)
            wrong = wrong or f"{ident} ({detail})"
    count = sum(row[2] == "in another class's folder" for row in audit.rows)
    if 2 * count > in_folders:
        notes.append(
            f"WARNING: {count:,} of {in_folders:,} photos in class folders are in the folder of a "
            f"class that is not their label, such as {wrong}; the labels of the CSV are taken: "
            "are they right?"
        )
    return paths


def _each_id_once(frame: pd.DataFrame, audit: Audit) -> pd.DataFrame:
    """Ids that come twice: once if the labels agree, else not at all."""
    twice = frame[frame.duplicated("id", keep=False)]
    clash = {ident for ident, labels in twice.groupby("id")["label"] if labels.nunique() > 1}
    for ident, label in twice[["id", "label"]].drop_duplicates().itertuples(index=False):
        finding, action, detail = "id more than once", "first row kept", f"label {label} in each"
        if ident in clash:
            finding, action, detail = "id with several labels", "dropped", f"label {label}"
        audit.add("train", ident, finding, action, detail)
    return frame[~frame["id"].isin(clash)].drop_duplicates("id").reset_index(drop=True)
'''


# ===== carcls/data/kinds.py ===================================================
MODULES["data/kinds.py"] = r'''"""What a file is by its first bytes, where its name says something else."""

from __future__ import annotations

import re
import stat
from codecs import getincrementaldecoder
from contextlib import suppress
from pathlib import Path

HEAD = 512  # bytes; a tar file says so at byte 257
_ZIP = b"PK\x03\x04|PK\x05\x06|PK\x07\x08|PK00PK\x03\x04"
_BY_BYTES = [
    (rb"(PK\x03\x04).{26}(\[Content_Types\]|mimetypeapplication/vnd)", "spreadsheet or document"),
    (_ZIP, "zip file"),
    (rb"Rar!\x1a\x07", "rar"),
    (rb"7z\xbc\xaf\x27\x1c", "7z"),
    (rb"\x1f\x8b\x08", "gzip"),
    (rb"BZh[1-9](1AY&SY|\x17rE)", "bzip2"),
    (rb"\xfd7zXZ\0", "xz"),
    (rb"[\x22-\x28]\xb5\x2f\xfd", "zstd"),
    (rb".{257}ustar[\0 ]", "tar"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "spreadsheet or document"),
    (rb"PAR1[^ -~]", "Parquet"),
    (rb"SQLite format 3\0", "SQLite database"),
    (rb"\x89HDF\r\n\x1a\n", "HDF5"),
    (rb".{4}ftyp(avi[fs]|(mif1|miaf|msf1).{4}(.{4})*?avi[fs])", "AVIF"),
    (rb".{4}ftyp(hei|hev|mif1|msf1)", "HEIC"),
    (rb".{4}ftyp(crx )", "camera's raw file"),
    (rb"FUJIFILMCCD-RAW|II[*]\0.{4}CR", "camera's raw file"),
    (rb"(?=.{0,3}\0).{4}(ftyp|moov|mdat|wide)|\x1aE\xdf\xa3|RIFF.{4}AVI ", "video"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ", "JPEG 2000"),
    (rb"8BPS\0", "Photoshop file"),
]
_BY_TEXT = [
    (r"%PDF-", "PDF"),
    (r"version https://(git-lfs|hawser)\.github\.com", "Git LFS pointer"),
    (
        r"(<\?xml.*?)?(<!--.*?-->\s*)*<(!doctype\s+)?(html|head|body|title|script|meta)\b",
        "HTML page",
    ),
    (r"(<\?xml.*?)?(<!--.*?-->\s*)*(<!doctype\s+svg.*?)?<svg\b", "SVG"),
    (r"<\?xml|<[a-z]\w*(\s+\w+=\"|>\s*<)", "XML"),
    (r"\{\s*(\"|\}|$)|\[\s*([\[{\]]|\"[^\"]*\"\s*[\],])", "JSON"),
]


def content(head: bytes) -> str:
    """What a file is that begins so, "" if unknown; an ordinary photo or CSV file is unknown."""
    if not head:
        return "empty"
    if not head.strip(b"\0"):
        return "nothing but zero bytes"  # a download that broke off
    for pattern, name in () if _is_text(head) else _BY_BYTES:
        if re.match(pattern, head, re.DOTALL):
            return name
    text = _text(head)
    for words, name in _BY_TEXT:
        if re.match(words, text, re.DOTALL | re.IGNORECASE):
            return name
    return ""


def described(path: Path) -> str:
    """What a file is, with the first words of a text, "" if unknown. Raises OSError."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):  # to read a FIFO would wait for ever
        return "folder" if stat.S_ISDIR(mode) else "FIFO or device"
    with path.open("rb") as file:
        head = file.read(HEAD)
    name, words = content(head), " ".join(_text(head).split())[:60]
    is_text = name != "PDF" and name in {name for _, name in _BY_TEXT}
    return f"{name} ({words!r})" if is_text else name


def _is_text(head: bytes) -> bool:
    """Whether it begins like readable UTF-8, which may be cut within a letter."""
    with suppress(UnicodeDecodeError):
        getincrementaldecoder("utf-8")().decode(head)
        return not re.search(rb"[\0-\x08\x0e-\x1f\x7f]", head)
    return False


def _text(head: bytes) -> str:
    wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    return head.decode("utf-16" if wide else "utf-8-sig", "replace").lstrip()
'''


# ===== carcls/data/labelled.py ================================================
MODULES["data/labelled.py"] = r'''"""What train.csv says: which column has the ids, and where each row's label stands."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from carcls.data import asks, labels, tables
from carcls.data.asks import Sample
from carcls.data.files import Place
from carcls.data.tables import clean
from carcls.errors import InputError

# Columns that hold the labels where nothing else says which do.
_LABEL_NAMES = re.compile(
    r"(labels?|class(es)?|targets?|categor(y|ies)|breeds?|species|variet(y|ies)|diagnos[ei]s)"
    r"([-_ ]?(names?|ids?))?",
    re.IGNORECASE,
)
_MANY = 0.05  # share of the rows: fewer are slips


@dataclass
class Labelled:
    """The rows of train.csv."""

    ids: pd.Series  # str
    texts: pd.Series  # of labels, "" where there is none; str
    columns: tuple[str, str]  # names of the id's and the labels' column
    # Row → finding and detail, where a column a class says no class or several.
    broken: dict[int, tuple[str, str]] = field(default_factory=dict)


def read(place: Place, sample: Sample | None, notes: list[str]) -> Labelled | None:
    """Ids and labels of train.csv, if there is one. Raises InputError where one cannot tell."""
    if place.train_csv is None:
        return None
    csv, frame = place.train_csv, tables.read_csv(place.train_csv)
    names = list(map(str, frame.columns))
    ident = names[0]
    if sample and sample.columns[0] in names:
        ident = sample.columns[0]
    elif sample:
        notes.append(
            f"{csv.name}: no column {sample.columns[0]}; the ids are in {ident}, the first"
        )
    ids, rest = frame[ident].str.strip(), frame.drop(columns=ident)
    hot = _one_hot(rest, sample, csv)
    if hot is not None:
        notes.append(
            f"{csv.name}: the labels are in a column a class: {asks.few(list(hot.columns))}"
        )
        texts, broken = _from_one_hot(hot, csv)
        return Labelled(ids, texts, (ident, texts.name), broken)
    column = _label_column(rest, sample, csv)
    _refuse_lists(rest[column], csv)
    if not sample or column != sample.columns[1]:
        notes.append(f"{csv.name}: the labels are in the column {column}")
    return Labelled(ids, rest[column], (ident, column))


def _label_column(rest: pd.DataFrame, sample: Sample | None, csv: Path) -> str:
    """The column with the labels. Raises InputError where one cannot tell."""
    names = list(map(str, rest.columns))
    if sample and len(sample.columns) == 2 and sample.columns[1] in names:
        return sample.columns[1]
    found = _with_the_classes(rest, sample.columns[1:]) if sample and sample.columns[2:] else []
    for some in (found, names, [name for name in names if _LABEL_NAMES.fullmatch(name)]):
        if len(some) == 1:
            return some[0]
    what = ""
    if _zeros_and_ones(rest):
        what = "; several columns of 0 and 1, but not one 1 a row: several labels a photo, which "
        what += "carcls does not predict"
    raise InputError(
        f"{csv}: columns {asks.few(names) or 'none'} beside the ids, and one cannot tell which "
        f"holds the labels; expected {sample.columns[1] if sample else 'one'}, one column alone, "
        f"or one called label, class, target or category{what}"
    )


def _with_the_classes(rest: pd.DataFrame, names: tuple[str, ...]) -> list[str]:
    """The columns whose texts most of the sample's columns are called after."""
    found = []
    for column in rest.columns:
        texts = set(rest[column].map(clean)) - {""}
        if len(texts) <= 2 * len(names):  # other columns have ids, or quantities
            hits = set(asks.by_column(names, texts)[0]) - {None}
            found += [str(column)] if 2 * len(hits) >= len(names) else []
    return found


# --- A column a class -----------------------------------------------------------------------------


def _one_hot(rest: pd.DataFrame, sample: Sample | None, csv: Path) -> pd.DataFrame | None:
    """The columns that are called after the classes, with one 1 a row, if train.csv is like that.

    Raises InputError where they hold several, or quantities.
    """
    names = list(map(str, rest.columns))
    wanted = [name for name in (sample.columns[1:] if sample else ()) if name in names]
    if sample and len(sample.columns) > 2 and 2 * len(wanted) >= len(sample.columns) - 1:
        columns = rest if _zeros_and_ones(rest) else rest[wanted]
        if not _zeros_and_ones(columns):
            raise InputError(
                f"{csv}: columns {asks.few(wanted)} hold other numbers than 0 and 1, or "
                "texts; expected a column a class with 1 in the photo's, as carcls predicts no "
                "quantities"
            )
        return columns
    if len(names) < 2 or wanted or any(map(_LABEL_NAMES.fullmatch, names)):
        return None
    alone = _zeros_and_ones(rest) and (_ones(rest).sum(axis=1) == 1).mean() > 1 - _MANY
    return rest if alone else None


def _zeros_and_ones(columns: pd.DataFrame) -> bool:
    texts = (clean(text) for text in pd.unique(columns.to_numpy().ravel()))
    return columns.shape[1] > 1 and {_bit(text) for text in texts if text} == {0, 1}


def _bit(text: str) -> float | None:
    """0 or 1, as pandas writes False and True too; other numbers, and None for other texts."""
    text = clean(text).casefold()
    return float(text == "true") if text in ("false", "true") else labels.as_number(text)


def _ones(columns: pd.DataFrame) -> pd.DataFrame:
    """Where columns hold 1."""
    texts = pd.unique(columns.to_numpy().ravel())  # few: each cell by itself would take long
    return columns.isin([text for text in texts if _bit(text) == 1])


def _from_one_hot(columns: pd.DataFrame, csv: Path) -> tuple[pd.Series, dict[int, tuple[str, str]]]:
    """The name of each row's class, "" where it has none or several, and what is wrong there."""
    one = _ones(columns)
    counts = one.sum(axis=1)
    several = int((counts > 1).sum())
    if several > _MANY * len(counts):
        raise InputError(
            f"{csv}: {several:,} of {len(counts):,} rows have 1 in several columns: several labels "
            "a photo; expected one, as carcls predicts one class a photo"
        )
    texts = one.idxmax(axis=1).astype(str).where(counts == 1, "").rename("class")
    broken = {}
    for row in counts.index[counts != 1]:
        named = ", ".join(one.columns[one.loc[row]])
        broken[row] = ("several labels", named) if named else ("no label", "no column has 1")
    return texts, broken


def _refuse_lists(texts: pd.Series, csv: Path) -> None:
    """Raise InputError where many rows name several labels, such as red|blue, red and blue."""
    rows = Counter(map(clean, texts))
    lists = {text: re.split(r"\s*[|;,]\s*|\s+", text) for text in rows}
    several = [
        text
        for text, parts in lists.items()
        if parts[1:] and len(set(parts)) == len(parts) and all(part in rows for part in parts)
    ]
    count = sum(rows[text] for text in several)
    if len(several) > 2 and count > _MANY * len(texts):
        raise InputError(
            f"{csv}: column {texts.name} holds several labels in {count:,} of {len(texts):,} rows, "
            f"such as {several[0]!r}; expected one, as carcls predicts one class a photo"
        )
'''


# ===== carcls/data/labels.py ==================================================
MODULES["data/labels.py"] = r'''"""What labels mean: which texts are one class, which are no labels, which look like others."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pandas as pd

from carcls.data.tables import clean
from carcls.errors import InputError

Label = int | str
LabelOf = Callable[[str], Label | None]  # the label that a folder is called after, or None
_INTEGER = re.compile(r"(0|-?[1-9]\d*)(\.0+)?")  # 3.0 too, as pandas writes it beside a gap
NO_VALUES = {"nan", "na", "n/a", "none", "null", "<na>", "nat"}
# Cyrillic letters that look like them
_LATIN = str.maketrans("авекмнорстухАВЕКМНОРСТУХ", "abekmhopctyxABEKMHOPCTYX")
_ENCODINGS = ("utf-8", "cp1252", "latin-1", "cp1251", "cp866", "koi8-r")
_MANY = 20  # numbers; more of them are seldom classes


def _blurred(text: str) -> str:
    """The same for labels that people take for one: BMW and bmw, VAZ-2114 and VAZ 2114, 1 and 01.

    Marks count but on Latin letters, as in й or バ, and so does what parts two digits.
    """
    if (number := as_number(text)) is not None:
        return str(number)
    text = normalize("NFKD", text).casefold().translate(_LATIN)
    text = re.sub(r"(?<=[a-z])[\u0300-\u036f]+", "", text)
    text = re.sub(r"(?<=\w)[\s_\-\u2010-\u2015]+(?=\w)", " ", text)
    return re.sub(r"(?<=[^\W\d]) (?=\w)|(?<=\w) (?=[^\W\d])", "", text)


def as_number(text: str) -> float | None:
    """0.5, 0,5, 5e-1 or 50% as a number; None for other texts."""
    found = re.fullmatch(r"([+-]?(?:\d+[.,]?\d*|[.,]\d+)(?:[eE][+-]?\d+)?)(%?)", text)
    return float(found[1].replace(",", ".")) / (100 if found[2] else 1) if found else None


def values(
    texts: Sequence[str], asked: Iterable[str], csv: Path
) -> tuple[dict[str, Label], list[str]]:
    """Text → label: integers if all are, unless the sample writes all as 1.0 or 01.

    Else text as the sample writes it, else as most do.

    asked: the sample's labels. Also a warning of labels that look like one.
    """
    forms: dict[str, Counter[str]] = defaultdict(Counter)  # clean → as written: photos
    for text, n in Counter(texts).items():
        forms[clean(text)][text] += n
    written = {clean(text): text for text in reversed(list(asked)) if text.strip()}
    if all(map(_INTEGER.fullmatch, forms)):
        whole = {text: int(clean(text).partition(".")[0]) for text in set(texts)}
        width, end = _form_of_numbers(written)
        if width or end:
            return {text: f"{number:0{width}}{end}" for text, number in whole.items()}, []
        return dict(whole), []
    for key, counts in forms.items():
        most = min(counts, key=lambda text: (-counts[text], text.strip() != key, text))
        written.setdefault(key, most.strip())
    alike = _look_alikes(forms)
    notes = [f"WARNING: {csv.name}: {alike}"] if alike else []
    return {text: written[key] for key, counts in forms.items() for text in counts}, notes


def _form_of_numbers(asked: Iterable[str]) -> tuple[int, str]:
    """How many digits and what end all whole numbers have, 0 and "" where that is not one form."""
    found = [re.fullmatch(r"(\d+)(\.0+)?", text) for text in asked]
    whole = [match for match in found if match]
    digits, ends = {len(match[1]) for match in whole}, {match[2] or "" for match in whole}
    if len(whole) < len(found) or len(ends) != 1:
        return 0, ""
    padded = len(digits) == 1 and any(re.match(r"0\d", match[1]) for match in whole)
    return max(digits) if padded else 0, max(ends)


def _look_alikes(forms: dict[str, Counter[str]]) -> str:
    near = defaultdict(list)
    for key in forms:
        near[_blurred(key)].append(key)
    parts = []
    for keys in near.values():
        counts = {text: n for key in keys for text, n in forms[key].items()}
        if len(counts) > 1:
            same = len({normalize("NFC", t).translate(_LATIN) for t in counts}) < len(counts)
            shown = [f"{text!a} {n:,}" if same else f"{text!r} {n:,}" for text, n in counts.items()]
            done = "one class" if len(keys) == 1 else f"{len(keys)} classes"
            parts.append(f"{', '.join(shown)} ({done})")
    if not parts:
        return ""
    parts[5:] = [f"{len(parts) - 5} more"] if parts[5:] else []
    how = "differ only in capital letters, blanks or the form of letters or numbers"
    return f"labels that {how}: {'; '.join(parts)}"


def by_name(labels: Iterable[Label]) -> LabelOf:
    """By the same text, else by one that looks like it."""
    exact, near = {clean(str(label)): label for label in labels}, defaultdict(list)
    for name, label in exact.items():
        near[_blurred(name)].append(label)

    @cache
    def find(folder: str) -> Label | None:
        if (name := clean(folder)) in exact:
            return exact[name]
        similar = near.get(_blurred(folder), [])
        return similar[0] if len(similar) == 1 else None

    return find


def missing(labels: pd.Series, asked: Iterable[str], csv: Path) -> tuple[pd.Series, list[str]]:
    """Which labels are none (bool), and a line on words such as nan: class or gap?

    An empty field is no label. A class may well be called NA; only nan beside numbers is how
    pandas writes a gap, unless the sample asks for it.
    """
    texts = {text: clean(text) for text in set(labels)}
    words = {text for text in texts if texts[text].lower() in NO_VALUES}
    others = [text for text in texts if texts[text] and text not in words]
    numbers = bool(others) and all(as_number(texts[text]) is not None for text in others)
    wanted = {clean(text) for text in asked}  # one alone may stand for a blank
    gaps = {
        text
        for text in words
        if numbers
        and texts[text].lower() == "nan"
        and (texts[text] not in wanted or len(wanted) == 1)
    }
    notes = []
    for some, what in ((gaps, "no label, beside numbers"), (words - gaps, "classes")):
        counts = Counter(labels[labels.isin(some)].map(texts))
        each = ", ".join(f"{text!r} ({n:,} photos)" for text, n in sorted(counts.items()))
        notes += [f"{csv.name}: {each}: taken for {what}"] * bool(some)
    return labels.map(lambda text: not texts[text] or text in gaps), notes


def refuse_quantities(labels: pd.Series, csv: Path) -> list[str]:
    """Raise InputError where labels are numbers to regress; a warning where they may be."""
    read = {text: as_number(clean(text)) for text in labels.unique()}
    numbers = labels.map(read).dropna()
    if not len(numbers) or len(numbers) < 0.9 * len(labels):  # a stray word changes nothing
        return []
    photos = numbers.value_counts()
    many, low, high = len(photos), numbers.min(), numbers.max()
    what = f"column {labels.name} holds {many:,} different numbers in {len(labels):,} rows"
    what += f", from {low:.15g} to {high:.15g}"
    fractions = bool((numbers % 1).any())
    few = min(len(numbers) / 2, _MANY) if fractions else max(0.7 * len(numbers), _MANY / 2)
    counted = not fractions and low in (0, 1) and high < 2 * many  # 0, 1, 2 … with few gaps
    if many > few and not counted:
        raise InputError(
            f"{csv}: {what}: a quantity; expected classes, as carcls predicts no numbers"
        )
    if fractions or many > few or _measured(photos):
        return [f"WARNING: {csv.name}: {what}: taken for classes; are they a quantity?"]
    return []


def _measured(photos: pd.Series) -> bool:
    """Whether whole numbers look like prices, counts, ages or years; photos: of each number."""
    low, high, many = photos.index.min(), photos.index.max(), len(photos)
    gaps = high - low >= 2 * many
    if not (photos.index % 10).any():
        return many > _MANY / 4  # prices are round
    if low in (0, 1) or (low < 100 and not gaps):  # who numbers classes begins there, without gaps
        return many > _MANY / 2 and bool(gaps or low not in (0, 1))
    return many > _MANY and bool(photos.median() < 5)  # classes have several photos each


# --- The sample's labels --------------------------------------------------------------------------


def check_sample(asked: pd.Series, labels: set[Label], csv: Path) -> list[str]:
    """A warning if the sample's labels are no classes, with what they look like.

    Raises InputError where all are numbers with fractions: then no class is asked for.
    """
    known = {clean(str(label)) for label in labels}
    texts = {clean(text) for text in asked} - {""}
    texts = {text for text in texts if text in known or text.lower() not in NO_VALUES}
    if all(isinstance(label, int) for label in labels):
        texts = {t.partition(".")[0] if _INTEGER.fullmatch(t) else t for t in texts}
    other = sorted(texts - known)
    if not other:
        return []
    numbers = [number for number in map(as_number, other) if number is not None]
    what = f"column {asked.name} holds {other[0]!r}"
    if len(numbers) == len(other) == len(texts) and any(number % 1 for number in numbers):
        shares = all(0 <= number <= 1 for number in numbers)
        raise InputError(
            f"{csv}: {what}: {'a probability' if shares else 'a quantity'}, where train photos are "
            f"of {len(known):,} classes ({', '.join(sorted(known)[:5])}{' …' * (len(known) > 5)}); "
            "expected one of the classes, or a column of probabilities for each"
        )
    near = {_blurred(name) for name in known}
    if all(_blurred(text) in near for text in other):
        same = "the same numbers" if len(numbers) == len(other) else "classes"
        looks = f"{same} written in another way"
    elif len(numbers) == len(other):
        words = not all(isinstance(label, int) for label in labels)
        looks = "numbers, where the classes are words" if words else "other classes"
    elif "\ufffd" in "".join(other) or not _garbled(known).isdisjoint(other):
        looks = "garbled text, as of another encoding"
    else:
        looks = "other classes"
    count = "none" if len(other) == len(texts) else f"{len(texts) - len(other)} of {len(texts)}"
    return [
        f"WARNING: {csv.name}: {what}: {count} of its labels are classes of the training photos "
        f"({', '.join(sorted(known)[:5])}{' …' * (len(known) > 5)}); they look like {looks}"
    ]


def _garbled(names: set[str]) -> set[str]:
    """What they become where a file is read in another encoding than it was written in."""
    forms = {name.encode("ascii", "replace").decode() for name in names}
    for name, written in product(names, _ENCODINGS):
        with suppress(UnicodeError):
            data = name.encode(written)
            forms |= {clean(data.decode(read, "replace")) for read in _ENCODINGS}
    return forms


def spreadsheet_safe(frame: pd.DataFrame) -> pd.DataFrame:
    """For files that people open: an apostrophe before what a spreadsheet would calculate."""

    def quoted(value: Any) -> Any:
        risky = isinstance(value, str) and value[:1] in tuple("=+-@\t\r＝＋－＠")
        return f"'{value}" if risky and value and as_number(value) is None else value

    return frame.map(quoted)
'''


# ===== carcls/data/layout.py ==================================================
MODULES["data/layout.py"] = r'''"""How photos are laid out: in a folder or its zip file, in folders of folders, by class."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from carcls.data.tables import clean, read_csv
from carcls.data.unzip import names_in
from carcls.disk import is_junk, is_photo_name, may_be_photo, photo_files
from carcls.errors import InputError

# Parts of a data set that have the folders of the classes in them: train, val_images, seg_test.
_SPLIT = re.compile(
    r"(?:.*[_ -])?(train|val|test|dev|eval)(?:ing|id|idation|uation)?"
    r"(?:[_ -]?(?:set|data|images|photos|split|upload))?",
    re.IGNORECASE,
)


def best(sources: list[Path], csv: Path | None, sample: Path | None) -> tuple[Path, list[str]]:
    """Of folders and zip files, the first with most of the photos of a CSV file, and why."""
    if len(sources) == 1:
        return sources[0], []
    wanted, notes = _ids(csv, sample), list[str]()
    hits, photos = dict[Path, int](), dict[Path, int]()
    for source in sources:
        try:
            names = _names(source, partial(texts, csv, sample))
        except InputError as error:
            notes.append(f"WARNING: not used: {error}")
            continue
        hits[source] = len(_stems(names) & wanted)
        photos[source] = sum(map(may_be_photo, names))
        if wanted and hits[source] == len(wanted):
            break  # what a zip file beside a whole folder holds does not matter
    counts, of = (hits, f" of {len(wanted):,}") if any(hits.values()) else (photos, "")
    chosen = max(counts, key=counts.__getitem__, default=sources[0])
    others = [path for path in sources if path != chosen]
    if notes or len(counts) > 1 or any(path.stem != chosen.stem for path in others):
        rest = ", ".join(f"{path.name} ({counts.get(path, 'not counted')})" for path in others)
        found = f"{counts.get(chosen, 0):,}{of} photos"
        notes.append(f"{chosen}: has {found} and is used, not {rest}")
    return chosen, notes


def _names(source: Path, known: partial[set[str]]) -> list[str]:
    if source.is_file():
        return names_in(source, known)
    files = photo_files(source)  # an empty file is what a copy that broke off leaves
    return [name for at, name in files if (source / at / name).lstat().st_size]


def _ids(csv: Path | None, sample: Path | None) -> set[str]:
    """What a CSV file says of the names of its photos, in the column of the sample's ids."""
    if csv is None:
        return set()
    frame = read_csv(csv)
    column = read_csv(sample).columns[0] if sample else ""
    return _stems(frame[column if column in frame else frame.columns[0]])


def _stems(paths: Iterable[str]) -> set[str]:
    names = _alike(re.split(r"[/\\]", path.strip())[-1] for path in paths)
    return {name.rpartition(".")[0] if is_photo_name(name) else name for name in names} - {""}


def _alike(names: Iterable[str]) -> set[str]:
    return {clean(name).casefold() for name in names}


def texts(*csv_files: Path | None) -> set[str]:
    """All that CSV files say. Raises InputError."""
    return {text for csv in csv_files if csv for text in read_csv(csv).to_numpy().ravel()}


def has_photos(folder: Path) -> bool:
    return any(may_be_photo(name) for _, name in photo_files(folder))


def unwrapped(folder: Path) -> Path:
    """The folder with the photos, below folders that only wrap another."""
    while True:
        entries = _entries(folder)
        if len(entries) != 1 or not entries[0].is_dir():
            return folder
        folder = entries[0]


def _entries(folder: Path) -> list[Path]:
    """Files that may be photos, and folders of such; a README beside them does not count."""
    entries = [entry for entry in folder.iterdir() if not is_junk(entry.name)]
    return [e for e in entries if (has_photos(e) if e.is_dir() else may_be_photo(e.name))]


def class_level(folder: Path, sample: Path | None) -> tuple[int, list[str]]:
    """How many folders are above those of the classes, and lines for the log.

    As many as are above those that the sample's labels name; if they name none, one if the classes
    are in folders such as train and valid, else none.
    """
    photos = [at.split("/") for at, name in photo_files(folder) if at and may_be_photo(name)]
    names = [sorted({parts[k] for parts in photos if parts[k:]}) for k in range(3)]
    tops, deep = names[0], sorted({parts[0] for parts in photos if parts[1:]})
    level = 0
    if len({_split(top) for top in tops} - {""}) > 1 and deep and all(map(_split, deep)):
        level = 1  # a class may be called train
    asked = _asked(sample) if sample else set()
    named = [k for k, some in enumerate(names) if asked and asked <= _alike(some)]
    level = named[0] if named else level
    inside = [parts for parts in photos if parts[level + 1 :]]
    notes = []
    if level:
        tops = sorted({"/".join(parts[:level]) for parts in photos if parts[level:]})
        count = sum(len(parts) > level for parts in photos)
        notes.append(
            f"{folder}: the classes are the folders in {_few(tops)}; all {count:,} photos there "
            "are labelled photos, split anew"
        )
    elif inside and not named:
        notes.append(
            f"{folder}: the classes are the outer folders ({_few(tops)}); the folders in them "
            f"({_few(names[1])}) are not told apart"
        )
    return level, notes


def _asked(sample: Path) -> set[str]:
    """The classes that a sample submission names: its labels, or its columns."""
    frame = read_csv(sample)
    return _alike(frame.iloc[:, -1] if frame.shape[1] == 2 else frame.columns[1:]) - {""}


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + " …" * (len(names) > 5)


def unused(root: Path) -> list[str]:
    """Lines for the log on folders of classes that people may expect to be used, too."""
    folders = [entry for entry in root.iterdir() if _split(entry.name) in ("val", "dev", "eval")]
    return [
        f"WARNING: {folder}: not used; to learn from its photos, too, move it into the folder of "
        "the train photos, beside a folder train with the classes"
        for folder in sorted(folders)
        if folder.is_dir() and any(e.is_dir() and has_photos(e) for e in folder.iterdir())
    ]


def _split(name: str) -> str:
    match = _SPLIT.fullmatch(name)
    return match[1].lower() if match else ""
'''


# ===== carcls/data/lint.py ====================================================
MODULES["data/lint.py"] = r'''"""Refuses augmentation that harms photos of cars, or only costs time."""

from __future__ import annotations

import ctypes
import json
import random
import resource
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    import albumentations as A

# Root mean square, of 255 grey levels: a transform that changes the made-up photo by less does
# nothing (MEASUREMENTS: what a transform changes).
NO_OP = 14.0
_DRAWS = 16  # of each transform
_SECONDS = 5.0  # for all draws of one of them
_MOST = 100  # transforms, those inside others included
_LARGEST = 16_384  # of their numbers: of pixels or steps it takes too long, and memory
_LONGEST_FILE = 100_000  # bytes
_MOST_PARTS = 10_000  # of a file of YAML, each counted as often as it is referred to
_MEMORY = 2**30  # bytes more than there are: what the draws may take


def lint(transforms: list[A.BasicTransform], height: int, width: int) -> list[str]:
    """What is wrong with these transforms for photos of cars, a sentence each.

    They are judged by what they do to two made-up photos of that size.
    """
    count = sum(len(_parts(t)) for t in transforms)
    if count > _MOST:
        return [f"{count:,} transforms, those inside others included; expected at most {_MOST}"]
    photo, problems = blobs(height, width), list(filter(None, map(_number_problem, transforms)))
    with _limited_memory():
        for transform in () if problems else transforms:
            future: Future[str] = Future()
            judge = threading.Thread(target=_judge, args=(transform, photo, future), daemon=True)
            judge.start()
            try:
                problems.append(future.result(_SECONDS))
            except TimeoutError:
                # It ends after the call that it is in. If Python ended before it, that would abort.
                stop = ctypes.py_object(SystemExit)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(judge.ident or 0), stop)
                judge.join(_SECONDS)
                took = f"takes more than {_SECONDS:g} s for some photos of {height}x{width}"
                return [*filter(None, problems), f"{type(transform).__name__} {took}"]
    return list(filter(None, problems))


def read(path: Path) -> dict[str, Any]:
    """What a file of albumentations.save has, JSON or YAML. Raises ValueError and the like."""
    if path.stat().st_size > _LONGEST_FILE:
        raise ValueError(f"{path.stat().st_size:,} bytes; expected at most {_LONGEST_FILE:,}")
    text = path.read_text()
    if path.suffix not in (".yaml", ".yml"):
        content = json.loads(text)
    else:
        import yaml

        tree = yaml.compose(text, yaml.SafeLoader)  # nothing is repeated yet
        if _count(tree, _MOST_PARTS) > _MOST_PARTS:
            raise ValueError(f"its references make more than {_MOST_PARTS:,} parts of it")
        content = yaml.safe_load(text)
    if not isinstance(content, dict):
        raise ValueError(f"{type(content).__name__}; expected a dict")
    return content


def _count(node: Any, most: int) -> int:
    """Nodes of YAML with all that they refer to, or more than ``most``."""
    count, ahead = 0, [node]
    while ahead and count <= most:
        value = getattr(ahead.pop(), "value", None)
        count += 1
        for part in value if isinstance(value, list) else ():
            ahead += part if isinstance(part, tuple) else [part]  # a key and its value
    return count


@contextmanager
def _limited_memory() -> Iterator[None]:
    """So that a transform which makes a photo huge is an error, and does not end the process."""
    status = Path("/proc/self/statm")
    if not status.exists():
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(status.read_text().split()[0]) * resource.getpagesize() + _MEMORY
    if before[0] != resource.RLIM_INFINITY:
        limit = min(limit, before[0])
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _takes_too_much(error: Exception) -> bool:
    """Python's error, or OpenCV's."""
    return isinstance(error, MemoryError) or "nsufficient memory" in str(error)


def _number_problem(transform: Any) -> str:
    for key, number in _numbers("", transform.to_dict()):
        if not abs(number) <= _LARGEST:
            name = type(transform).__name__
            return f"{name}: {key} is {number:,}; expected at most {_LARGEST:,}"
    return ""


def _numbers(key: str, tree: Any) -> Iterator[tuple[str, float]]:
    """All numbers of a transform written as a dict, and what they are called there."""
    if isinstance(tree, (int, float)):
        yield key, tree
    elif isinstance(tree, (dict, list, tuple)):
        for name, part in tree.items() if isinstance(tree, dict) else ((key, t) for t in tree):
            yield from _numbers(str(name), part)


def _judge(transform: Any, photo: np.ndarray, future: Future[str]) -> None:
    try:
        future.set_result(_problem(transform, photo))
    except BaseException as error:
        future.set_exception(error)


def _problem(transform: Any, photo: np.ndarray) -> str:
    name = type(transform).__name__
    try:
        outputs = [_apply(transform, photo, seed) for seed in range(_DRAWS)]
    except Exception as error:  # somebody else's transform may raise anything
        height, width = photo.shape[:2]
        return f"{name} cannot be applied to a photo of {height}x{width}: {error}"
    # Inside OneOf and the like a flip may be rare: each part is looked at by itself.
    try:
        turning = next((part for part in _parts(transform) if _turns(part, *photo.shape[:2])), None)
    except MemoryError as error:
        return f"a part of {name} takes too much memory: {error}"
    if turning is not None:
        part = name if turning is transform else f"{type(turning).__name__} in {name}"
        return f"{part} turns cars upside down or on their side"
    for output in outputs:
        if output.dtype != np.uint8 or output.shape != photo.shape:
            return f"{name} turns uint8 {photo.shape} into {output.dtype} {output.shape}"
    change = float(np.sqrt(np.mean([(o.astype(float) - photo) ** 2 for o in outputs])))
    if change < NO_OP:
        return f"{name} changes a photo by {change:.1f} of 255 grey levels: it only costs time"
    return ""


def _parts(transform: Any) -> list[Any]:
    """The transform, then all those inside it."""
    # ColorJitter's are functions.
    inner = [t for t in getattr(transform, "transforms", ()) if hasattr(t, "to_dict")]
    return [transform, *(part for t in inner for part in _parts(t))]


def _turns(transform: Any, height: int, width: int) -> bool:
    """Whether the sky, which is bright, does not stay above the road."""
    sky = np.zeros((height, width, 3), np.uint8)
    sky[: height // 2] = 255
    third = height // 3
    for seed in range(_DRAWS):
        try:
            seen = _apply(transform, sky, seed)
        except Exception as error:
            if _takes_too_much(error):
                raise MemoryError(f"{type(transform).__name__}: {error}") from None
            return False  # a part may need what another one leaves; the whole can be applied
        same_kind = seen.dtype == np.uint8 and seen.shape == sky.shape
        if same_kind and seen[:third].mean() <= seen[-third:].mean() + 20:
            return True
    return False


def blobs(height: int, width: int) -> np.ndarray:
    """A photo of blobs of every grey, as coarse as a car's parts, so that small moves show."""
    noise = np.random.default_rng(0).integers(0, 256, (128, 160, 3), np.uint8)
    soft = cv2.GaussianBlur(noise, (0, 0), 3)
    even = cv2.merge([cv2.equalizeHist(channel) for channel in cv2.split(soft)])
    return cv2.resize(even, (width, height), interpolation=cv2.INTER_LINEAR)


def _apply(transform: A.BasicTransform, photo: np.ndarray, seed: int) -> np.ndarray:
    """The transform with p=1."""
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
    p, transform.p = transform.p, 1.0
    try:
        return transform(image=photo)["image"]
    finally:
        transform.p = p
'''


# ===== carcls/data/names.py ===================================================
MODULES["data/names.py"] = r'''"""Which file below a folder an id means: the ids of a column are read in one way."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize
from urllib.parse import unquote

from carcls.data.files import Place
from carcls.disk import is_photo_name, photo_files, tree
from carcls.errors import InputError


def _plain(text: str) -> str:
    text = text.strip().lstrip("/")
    return text if text.isascii() else normalize("NFC", text)


def _with_slashes(text: str) -> str:
    return posixpath.normpath(text.replace("\\", "/")).lstrip("/")


def _decoded(text: str) -> str:
    """https://host/a%20b.jpg?size=1 → host/a b.jpg"""
    text = re.sub(r"(\.\w{3,4})[?#].*$", r"\1", re.sub(r"^[a-zA-Z][\w+.-]*:/", "", text))
    return _plain(_with_slashes(unquote(text))) if "%" in text else text


def _blurred(text: str) -> str:
    text = normalize("NFKC", text).casefold()
    return re.sub(r"[\s_+\u200b\ufeff]+", " ", text).strip(" '\"`’")


def _numbered(text: str) -> str:
    """a/img 007.jpg → a/img 7.jpg; 7.0, as a table of numbers writes it, → 7."""
    folder, slash, name = text.rpartition("/")
    name = re.sub(r"^(\d+)\.0+(\.[a-z]+)?$", r"\1\2", name)
    return folder + slash + re.sub(r"(?<!\d)(?<!\d\.)0+(?=\d)", "", name)


# How ids and paths are read, one step upon the other, and what is told of it. A step looks only for
# what those before left, and a file counts if no other id means it.
_STEPS: list[tuple[Callable[[str], str], str]] = [
    (_plain, ""),
    (_with_slashes, r"with / for \ and without ./"),
    (_decoded, "as web addresses"),
    (_blurred, "with no regard to capital letters and blanks"),
    (_numbered, "without zeros in front of numbers"),
]


class _Front(NamedTuple):
    """What ids of a column have in front that no file has, or lack that files have."""

    cut: str = ""
    add: str = ""
    name_alone: bool = False

    def of(self, key: str) -> str:
        return _name(key) if self.name_alone else self.add + key[len(self.cut) :]

    def __str__(self) -> str:
        front = f"without {self.cut!r} in front" if self.cut else f"with {self.add!r} in front"
        return "by name alone" if self.name_alone else front


_SAME = _Front()


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def common_start(texts: Iterable[str]) -> str:
    """What all begin with."""
    ordered = sorted(texts)
    pairs = zip(ordered[0], ordered[-1], strict=False) if ordered else ()
    return "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


class _Index:
    """Relative paths by path, path without extension, name, name without extension, as read."""

    def __init__(self, paths: list[str], keys: list[str], wrappers: list[str]):
        whole, cut, names, stems = (defaultdict[str, list[str]](list) for _ in range(4))
        self._folders = {key.rpartition("/")[0] for key in keys} - {""}
        self._parts, self._wrappers = (whole, cut, names, stems), wrappers
        for path, key in zip(paths, keys, strict=True):
            folder, slash, name = key.rpartition("/")
            stem = name.rpartition(".")[0] or name
            whole[key].append(path)
            cut[folder + slash + stem].append(path)
            names[name].append(path)
            stems[stem].append(path)

    def find(self, key: str) -> list[str]:
        for part in self._parts:  # the order of a search
            if key in part:
                return part[key]
        top, _, below = key.partition("/")
        if below and top in self._wrappers:  # train/1.jpg in the CSV
            return self.find(below)
        # 1.jpg in the CSV, 1.png on disk
        stem = key.rpartition(".")[0] if is_photo_name(key) else ""
        return next((part[stem] for part in self._parts if stem in part), [])

    def search(self, keys: dict[str, str], front: _Front = _SAME) -> dict[str, list[str]]:
        """What is found for these, begun in another way."""
        if front.name_alone or "/" in front.cut:  # a folder that is there is meant
            keys = {
                i: key
                for i, key in keys.items()
                if key[: -len(_name(key)) - 1] not in self._folders
            }
        begun = {ident: front.of(key) for ident, key in keys.items()} if front != _SAME else keys
        return {ident: paths for ident, key in begun.items() if (paths := self.find(key))}

    def front(self, keys: dict[str, str], names: list[str]) -> _Front:
        """The beginning by which most are found, if any is; names: of files that none means."""
        fronts, mine = [_SAME], common_start(keys.values())
        for end, sign in enumerate(mine, 1):
            if sign == "/" or (not sign.isdigit() and len(keys) > 1):
                fronts.append(_Front(cut=mine[:end]))
        if len({_name(key) for key in keys.values()}) == len(keys):
            fronts.append(_Front(name_alone=True))
        fronts.append(_Front(add=common_start(map(_name, names)).rstrip("0123456789")))
        some = dict(list(keys.items())[:500])
        counts = [len(self.search(some, front)) for front in fronts]
        return fronts[counts.index(max(counts))] if 2 * max(counts) > len(some) else _SAME


class Files:
    """The files below a folder, found by what an id may say of their paths."""

    def __init__(self, folder: Path, place: Place) -> None:
        self.folder = folder
        top = place.root if folder.is_relative_to(place.root) else place.scratch
        self._wrappers = folder.relative_to(top).parts  # train, or train and images
        self.paths = [f"{sub}/{name}" if sub else name for sub, name in photo_files(folder)]

    def full(self, path: str) -> str:
        return f"{self.folder}/{path}"

    def match(self, ids: Sequence[str], csv: Path) -> tuple[dict[str, list[str]], list[str]]:
        """Id → relative paths that it may mean, none if lost; and lines on how ids were read.

        An id is looked up, never joined to a path.
        """
        found: dict[str, list[str]] = {}
        notes, doubted = [], dict[str, str]()
        keys, names, wrappers = {ident: ident for ident in ids}, self.paths, list(self._wrappers)
        for step, words in _STEPS:
            keys = {ident: key for ident, key in keys.items() if ident not in found}
            if not keys:
                break
            before = keys, names
            keys = {ident: step(key) for ident, key in keys.items()}
            names, wrappers = list(map(step, names)), list(map(step, wrappers))
            same = (keys, names) == before
            if same and words and step is not _with_slashes:
                continue
            index = _Index(self.paths, names, wrappers)
            hits = {} if same and words else index.search(keys)
            sure = _without_doubt(hits, found) if words else hits
            doubted |= {ident: paths[0] for ident, paths in hits.items() if ident not in sure}
            found |= sure
            ways = [words] * (words != "" and not same)
            notes += _read(csv, ways, sure)
            left = {ident: key for ident, key in keys.items() if ident not in hits}
            if words and left:
                used = {path for paths in found.values() for path in paths}
                pairs = zip(self.paths, names, strict=True)
                free = [name for path, name in pairs if path not in used]
                front = index.front(left, free)
                more = _without_doubt(index.search(left, front), found) if front != _SAME else {}
                if front.add and found and 2 * len(more) <= len(free):
                    more = {}  # masks beside the photos, and some photos are lost
                found |= more
                notes += _read(csv, [*ways, str(front)], more)
        doubted = {ident: path for ident, path in doubted.items() if ident not in found}
        if doubted:
            ident, path = next(iter(doubted.items()))
            count = f"{len(doubted):,} {'ids' if doubted.keys() - {ident} else 'id'}"
            notes.append(
                f"WARNING: {csv.name}: {count} without a file, as the one that may be meant is "
                f"another id's, too, such as {ident!r}: {path}"
            )
        return {ident: _photos_first(found.get(ident, [])) for ident in ids}, notes

    def refuse_lost(self, csv: Path, found: dict[str, list[str]], why: str = "") -> None:
        """Raise InputError if most ids match no file."""
        lost = [ident for ident, paths in found.items() if not paths]
        if 2 * len(lost) <= len(found):
            return
        used = {path for paths in found.values() for path in paths}
        free = next((path for path in self.paths if path not in used), "no other file")
        raise InputError(
            f"{csv}: {len(lost):,} of {len(found):,} ids match no file in {self.folder}; looked "
            f"for {lost[0]!r}, and there is {free!r}.{why} There is:\n{tree(self.folder)}"
        )


def _read(csv: Path, ways: list[str], hits: dict[str, list[str]]) -> list[str]:
    if not ways or not hits:
        return []
    ident, paths = next(iter(hits.items()))
    how = f"{len(hits):,} {'ids are' if hits.keys() - {ident} else 'id is'} read"
    return [f"{csv.name}: {how} {' and '.join(ways)}, as in {ident!r}: {paths[0]}"]


def _photos_first(paths: list[str]) -> list[str]:
    """Of several files, 1.jpg and 1.xml with boxes in it, those that are called like photos."""
    return ([path for path in paths if is_photo_name(path)] or paths) if paths[1:] else paths


def _without_doubt(hits: dict[str, list[str]], found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Those whose file no other id means."""
    means: dict[str, int] = defaultdict(int)
    for paths in (*found.values(), *hits.values()):
        for path in paths:
            means[path] += 1
    return {ident: paths for ident, paths in hits.items() if all(means[p] == 1 for p in paths)}
'''


# ===== carcls/data/photos.py ==================================================
MODULES["data/photos.py"] = r'''"""One table of all photos: where each is, its label, and which side of the split it is on."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from carcls.config import Config
from carcls.data import asks, attached, audit, boxes, ids, labelled
from carcls.data.asks import Asks
from carcls.data.audit import Audit, Facts
from carcls.data.files import Place
from carcls.disk import tree
from carcls.errors import InputError

VALIDATION, TRAIN, TEST = 0, 1, -1  # values of the column fold
_FRAME = ["id", "path", "label", "fold", "source"]
_FRAME += ["height", "width", "readable", "group", "digest"]
_LOOKED = ("source", "id", "path", "height", "width", "readable")


@dataclass(frozen=True, eq=False)
class Rows:
    """Some photos of a table, with the labels that a training takes for theirs."""

    rows: np.ndarray  # (N,) int, positions in the table's frame
    labels: np.ndarray  # (N,) int64, -1 where unknown

    def __len__(self) -> int:
        return len(self.rows)

    def __add__(self, more: Rows) -> Rows:
        return Rows(
            np.concatenate([self.rows, more.rows]), np.concatenate([self.labels, more.labels])
        )

    def take(self, which: np.ndarray) -> Rows:
        """Some of them: a mask (N,) bool, or numbers within these rows."""
        return Rows(self.rows[which], self.labels[which])


@dataclass(frozen=True)
class Table:
    """All photos that a run can use: train rows in the order of train.csv, then the sample's.

    The columns of ``frame``:
    id, path    str, "" without a file
    label       int, index of the class; -1 for test photos
    fold        TRAIN, VALIDATION or TEST
    source      train or test
    height, width   px, upright; 0 if unreadable
    readable    bool; False only for test photos, which are predicted from a grey photo
    group       int, the same for files with the same bytes
    digest      str, SHA-1 of the file's bytes in hex, "" without a file
    left, top, right, bottom    int, px, what the photo is cut to; only with cfg.boxes
    """

    frame: pd.DataFrame
    classes: (
        list[int] | list[str]
    )  # index of a class → label as the sample writes it, else train.csv
    id_column: str  # of train.csv, as is the next, where there is one
    label_column: str
    sample_ids: list[str]  # as written in the sample submission
    audit: pd.DataFrame  # AUDIT_COLUMNS, all str
    # _LOOKED of all that have a file, dropped ones too: 0 high and wide if the CSV dropped them.
    looked: pd.DataFrame = field(default_factory=partial(pd.DataFrame, columns=list(_LOOKED)))
    notes: list[str] = field(default_factory=list)  # for the log
    asks: Asks = field(default=Asks("labels", ("id", "label")))  # of the submission

    def rows(self, *folds: int) -> Rows:
        """The photos of these folds (TRAIN, VALIDATION, TEST), in the order of the frame."""
        rows = np.flatnonzero(self.frame["fold"].isin(folds))
        return Rows(rows, self.frame["label"].to_numpy(np.int64)[rows])


def load(cfg: Config, place: Place) -> Table:
    """Read the CSV files, look at every photo, split. Raises InputError and ConfigError."""
    findings, box_files = Audit(), [boxes.read(path) for path in attached.box_files(cfg)]
    notes = list(place.notes)
    said = _read_tables(cfg, place, findings, notes)
    train, test, aside = said.train, said.test, said.aside
    paths = [path for path in [*train["path"], *test["path"]] if path]
    for path in paths:
        # Python's stand-ins for bytes that are no text, which photos.csv could not hold
        if not path.isascii() and re.search("[\ud800-\udfff]", path):
            raise InputError(f"{path!a}: this name is not text in UTF-8; rename the file")
    facts = audit.look(paths)
    train = _with_facts(train, facts).assign(source="train")
    test = _with_facts(test, facts).assign(source="test")
    # As far as anybody knows, those can be read.
    aside = aside.assign(height=0, width=0, readable=True, source="train")
    looked = pd.concat([train, aside, test], ignore_index=True)[list(_LOOKED)]

    train = _drop(train, audit.add_findings(findings, "train", train, facts))
    audit.add_findings(findings, "test", test, facts)
    train = _drop(train, audit.add_duplicates(findings, train, test))
    classes = sorted(set(train["label"]))
    for label in sorted(set(said.named) - set(classes)):
        detail = f"class {label}: none of its photos can be used"
        findings.add("train", "", "class without photos", "left out", detail)
    _refuse_too_little(place, train, test, findings)

    train["label"] = train["label"].map({label: index for index, label in enumerate(classes)})
    train["fold"] = _split(train, cfg, classes, findings)
    if not (train["fold"] == VALIDATION).any():
        raise InputError(
            f"{place.train_csv or place.train_photos}: no class has two different photos, "
            "so none can be kept for validation"
        )
    test["label"], test["fold"] = -1, TEST

    frame = pd.concat([train, test], ignore_index=True)
    frame = frame.assign(group=pd.factorize(frame["digest"])[0])[_FRAME]
    if box_files:
        frame, of_boxes = boxes.cut(frame, box_files)
        notes += of_boxes
    wanted, of_test = said.asks.of(said.named, classes), test["id"].tolist()
    return Table(frame, classes, *said.columns, of_test, findings.frame(), looked, notes, wanted)


class _Said(NamedTuple):
    """What the CSV files and the folders say, before a photo is looked at."""

    train: pd.DataFrame  # id, label (int or str), path
    test: pd.DataFrame  # id, path
    aside: pd.DataFrame  # id and path of train photos that are dropped but have a file
    named: list[Any]  # the labels, sorted
    columns: tuple[str, str]  # names of the id's and the label's
    asks: Asks  # by the index in named


def _read_tables(cfg: Config, place: Place, findings: Audit, notes: list[str]) -> _Said:
    """Raises InputError, and ConfigError where what is asked for and a setting do not agree."""
    given = asks.read_sample(place)
    rows = labelled.read(place, given, notes)
    columns = ("id", "label")
    if rows:
        columns = rows.columns
    elif given:
        columns = (given.columns[0], given.columns[1] if len(given.columns) == 2 else "label")
    known = rows.ids.tolist() if rows else []
    sample = given or asks.of_photos(place, known, columns, findings, notes)
    test = ids.test_rows(place, sample, notes)
    train, aside = ids.train_rows(place, sample, rows, findings, notes)
    named = sorted(set(train["label"]))
    wanted, of_columns = asks.decide(cfg, sample, named)
    notes += of_columns
    return _Said(train, test, aside, named, columns, wanted)


def _with_facts(frame: pd.DataFrame, facts: dict[str, Facts]) -> pd.DataFrame:
    looks = [facts[path] if path else Facts() for path in frame["path"]]
    columns = ("digest", "height", "width", "readable")
    return frame.assign(**{name: [getattr(look, name) for look in looks] for name in columns})


def _drop(frame: pd.DataFrame, dropped: set[str]) -> pd.DataFrame:
    return frame[~frame["id"].isin(dropped)].reset_index(drop=True)


def _refuse_too_little(
    place: Place, train: pd.DataFrame, test: pd.DataFrame, findings: Audit
) -> None:
    """Raise InputError without a train photo, a test photo, or two classes."""
    folder, classes, what = place.train_photos, sorted(set(train["label"])), ""
    if train.empty:
        what = "no train photo can be used"
    elif not test["readable"].any():
        folder, what = place.test_photos, "no test photo can be used"
    elif len(classes) == 1:
        what = f"every usable photo is of class {classes[0]!r}; expected two classes or more"
    if what:
        whys = Counter(f"{row[2]}: {row[4]}" for row in findings.rows if row[1] and row[4])
        most = "".join(f"\n  {n:,} {why}" for why, n in whys.most_common(3))
        raise InputError(f"{folder}: {what}; found: {findings}.{most}\nThere is:\n{tree(folder)}")


def _split(train: pd.DataFrame, cfg: Config, classes: list[Any], findings: Audit) -> list[int]:
    """The fold of each row: of every class a share is kept for validation, same files together.

    Photos are taken in the order of a hash of seed and id: it depends neither on the order of rows
    nor on a library's version, and a photo more leaves the others where they are.
    """
    groups: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, (label, digest) in enumerate(zip(train["label"], train["digest"], strict=True)):
        groups[label][digest].append(row)
    names = train["id"].tolist()
    fold = [TRAIN] * len(train)

    def key(rows: list[int]) -> bytes:
        return _hash(f"{cfg.seed}/{min(names[row] for row in rows)}")

    for label, by_digest in groups.items():
        ordered = sorted(by_digest.values(), key=key)
        if len(ordered) == 1:
            ident, name = names[ordered[0][0]], f"class {classes[label]}"
            action, detail = "kept for training", f"{name} is not validated"
            if cfg.folds > 1:
                action, detail = "kept", f"{name} is unknown to the network that validates it"
            findings.add("train", ident, "only photo of its class", action, detail)
            continue
        count = sum(map(len, ordered))
        wanted = min(max(round(count * cfg.val_fraction), 1), count - 1)
        taken: list[int] = []
        for rows in ordered:
            if len(taken) + len(rows) <= wanted:
                taken += rows
        for row in taken or min(ordered, key=len):
            fold[row] = VALIDATION
    return fold


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def splits(table: Table, folds: int, seed: int) -> list[tuple[Rows, Rows]]:
    """The photos to learn from and those to check on, of each fold; of one, the table's own split.

    Of several, each labelled photo is checked on once: stratified, the same files together, class
    by class in the order of a hash of seed and id. Raises InputError for too few photos.
    """
    if folds == 1:
        return [(table.rows(TRAIN), table.rows(VALIDATION))]
    labelled = table.rows(TRAIN, VALIDATION)
    return deal(table, labelled, folds, f"{seed}/folds", f"folds={folds}")


def deal(table: Table, rows: Rows, parts: int, key: str, what: str) -> list[tuple[Rows, Rows]]:
    """The others and the part, of each of so many equal parts of these labelled photos.

    Stratified, the same files together, class by class in the order of a hash of key and id. Raises
    InputError for too few photos, which names the setting (``what``).
    """
    photos = table.frame.iloc[rows.rows]
    groups = photos.groupby("group").agg(label=("label", "first"), id=("id", "min"))
    if len(groups) < 2 * parts:
        raise InputError(
            f"{what}: {len(groups)} different train photos; expected at least {2 * parts}"
        )
    groups["order"] = [_hash(f"{key}/{ident}") for ident in groups["id"]]
    dealt = groups.sort_values(["label", "order"]).index
    number = dict(zip(dealt, np.arange(len(dealt)) % parts, strict=True))
    held = photos["group"].map(number).to_numpy()
    return [(rows.take(held != k), rows.take(held == k)) for k in range(parts)]


def with_folds(table: Table, folds: int, seed: int) -> pd.DataFrame:
    """The frame, with the number from 1 of the fold that checks on a photo in the column fold."""
    assert folds > 1, "one split is no fold"
    fold = table.frame["fold"].to_numpy(copy=True)
    for number, (_, check) in enumerate(splits(table, folds, seed), 1):
        fold[check.rows] = number
    return table.frame.assign(fold=fold)


def summary(table: Table, folds: int = 1) -> list[str]:
    """A few lines for the log: counts, classes, sizes, findings; warnings last."""
    train, val, test = (len(table.rows(fold)) for fold in (TRAIN, VALIDATION, TEST))
    split = f"{train:,} to train, {val:,} to validate ({100 * val / (train + val):.1f} %)"
    if folds > 1:
        split = f"{train + val:,} to train, each validated once in {folds} folds"
    per_class = Counter(table.rows(TRAIN, VALIDATION).labels.tolist())
    classes = [f"{label}: {per_class[index]:,}" for index, label in enumerate(table.classes)]
    readable = table.frame[table.frame["readable"]]
    sizes = Counter(zip(readable["width"].tolist(), readable["height"].tolist(), strict=True))
    common = [f"{w}×{h} {100 * n / len(readable):.0f} %" for (w, h), n in sizes.most_common()]
    found = table.audit[["source", "finding", "action"]].value_counts()
    lines = [
        f"photos: {split}, {test:,} to predict",
        f"{len(classes)} classes ({table.label_column}: photos): {first(classes, 20)}",
        f"sizes: {first(common, 3)}",
        *(f"audit: {n:,} {source} {what} → {done}" for (source, what, done), n in found.items()),
        *([] if len(found) else ["audit: nothing found"]),
        *sorted(table.notes, key=lambda note: note.startswith("WARNING")),
    ]
    lines += _many_dropped(table.audit, train + val)
    gone = table.audit.loc[table.audit["finding"] == "class without photos", "detail"].tolist()
    if gone:
        count = f"{len(gone):,} {'classes' if gone[1:] else 'class'}"
        lines.append(f"WARNING: {count} without a usable photo, never predicted: {first(gone, 5)}")
    frame = table.frame[~table.frame["readable"]]
    for why, rows in (
        ("have no file", frame[frame["path"] == ""]),
        ("cannot be read", frame[frame["path"] != ""]),
    ):
        if len(rows):
            count = f"{len(rows):,} test photos {why}, their rows are guesses"
            if len(rows) == 1:
                count = f"1 test photo {why.replace('have', 'has')}, its row is a guess"
            lines.append(f"WARNING: {count}: {first(rows['id'].tolist(), 5)}")
    return lines


def _many_dropped(found: pd.DataFrame, kept: int) -> list[str]:
    """A warning if more than 5 % of the labelled photos are dropped."""
    of_train = (found["source"] == "train") & (found["action"] == "dropped")
    rows = found[of_train & (found["finding"] != "no label")].drop_duplicates("id")
    if len(rows) <= 0.05 * (kept + len(rows)):
        return []
    why, n = Counter(rows["finding"]).most_common(1)[0]
    ids = rows.loc[rows["finding"] == why, "id"].tolist()
    count = f"{len(rows):,} of {kept + len(rows):,} labelled photos"
    return [f"WARNING: {count} dropped, {n:,} of them for: {why} ({first(ids, 3)})"]


def first(names: list[str], count: int) -> str:
    more = f" … {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
'''


# ===== carcls/data/pixels.py ==================================================
MODULES["data/pixels.py"] = r'''"""From a file to pixels: reading and decoding, within bounds of memory."""

from __future__ import annotations

import ctypes
import hashlib
import io
import math
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from carcls.data import aloud, kinds
from carcls.data.headers import JPEG_END, ORIENTATION, JpegHeader, jpeg_header
from carcls.errors import InputError

Pixels = npt.NDArray[np.uint8]  # (H, W, 3) RGB, upright

# Bytes of memory, that of the file included. A photo that takes more than ALONE is decoded while
# no other such photo is; one that takes more than MOST is not decoded, so that a run stays below
# 3 GB.
ALONE, MOST = 2 * 10**8, 1_250_000_000
# What people photograph in. Others are not tried: the decoders of some take minutes.
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000", "PPM")
_STRIP = 2**20  # px that are converted at a time
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}  # a pixel in Pillow; others: 4
# What Pillow raises on files that are not what they seem, as its plugins let the errors of their
# parsing through; a Warning where warnings are errors, as in tests.
PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    EOFError,
    struct.error,
    zlib.error,
    Warning,
)
# By how much to reduce → OpenCV's flag; those that it names after colour give BGR.
_REDUCED = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_COLOR_RGB,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB,
    1: cv2.IMREAD_COLOR_RGB,
}


class TooLarge(InputError):  # noqa: N818  (it says what was found)
    """A file or a photo that takes too much memory."""


class NotAsAudited(InputError):  # noqa: N818  (it says what was found)
    """A file that is gone, cannot be read, or has other bytes than in the audit."""


def read_photo(
    path: str | Path,
    min_height: int = 0,
    min_width: int = 0,
    height: int = 0,
    width: int = 0,
    digest: str = "",
) -> Pixels:
    """The photo, transparent parts on white, its first frame only. Safe in threads.

    With both minima (px), a JPEG is decoded at 1/2, 1/4 or 1/8 of its size if neither side falls
    below its minimum: less work, and no aliasing; and below them where that alone makes it small
    enough. So other large photos are reduced. height, width: its upright size, if known. digest:
    of the bytes that it must have. A JPEG that is cut short is grey from there on. Raises
    InputError.
    """
    try:
        with reading(path) as data, aloud.hushed(path):
            if digest and digest_of(data) != digest:
                raise NotAsAudited("its bytes have changed since the audit")
            return decode(data, min_height, min_width, height, width)
    except InputError as error:
        raise type(error)(f"{path}: {error}") from None


def read_box(
    path: str | Path,
    box: Sequence[int],
    least: tuple[int, int],
    whole: tuple[int, int],
    digest: str = "",
) -> Pixels:
    """The part of a photo inside left, top, right, bottom, px of the whole (height, width).

    least: height and width of the part, which, if its scale is reduced, may have up to one px of
    that scale more at each side. Raises InputError.
    """
    (left, top, right, bottom), (height, width) = map(int, box), whole
    if (left, top, right, bottom) == (0, 0, width, height):
        return read_photo(path, *least, height, width, digest)
    least_height = -(-least[0] * height // (bottom - top))
    least_width = -(-least[1] * width // (right - left))
    photo = read_photo(path, least_height, least_width, height, width, digest)
    down, across = photo.shape[0] / height, photo.shape[1] / width  # 1, or less where reduced
    rows = slice(math.floor(top * down), math.ceil(bottom * down))
    columns = slice(math.floor(left * across), math.ceil(right * across))
    return photo[rows, columns]


@contextmanager
def reading(path: str | Path) -> Iterator[bytes]:
    """The bytes of a file, if it is one and not too large. Other large files wait meanwhile.

    Raises InputError without the file's name.
    """
    try:
        # The calls of the system alone, which is faster; a FIFO is not waited for.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            about = os.fstat(file)
            if not stat.S_ISREG(about.st_mode):
                raise NotAsAudited("a folder" if stat.S_ISDIR(about.st_mode) else "FIFO or device")
            size = about.st_size
            if size > MOST:
                raise TooLarge(f"a file of {size / 1e9:.1f} GB; at most {MOST / 1e9} GB")
            with alone(size):
                data = os.read(file, size)
                while len(data) < size and (more := os.read(file, size - len(data))):
                    data += more
                yield data
        finally:
            os.close(file)
    except OSError as error:
        raise NotAsAudited(f"cannot be read ({error.strerror or error})") from None


def alone(cost: float) -> AbstractContextManager[object]:
    """While it takes so many bytes of memory: no other photo that takes many."""
    return _alone() if cost > ALONE else nullcontext()


@contextmanager
def _alone() -> Iterator[None]:
    with aloud.one_at_a_time:
        try:
            yield
        finally:
            with suppress(AttributeError, OSError):  # only glibc keeps what is freed, and has this
                ctypes.CDLL(None).malloc_trim(0)


def digest_of(data: bytes) -> str:
    """SHA-1 in hex."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


# --- Decoding -----------------------------------------------------------------------------------


def decode(
    data: bytes, min_height: int = 0, min_width: int = 0, height: int = 0, width: int = 0
) -> Pixels:
    """The photo of these bytes, as ``read_photo``. Raises InputError without the file's name."""
    if (
        header := jpeg_header(data)
    ) and header.channels != 4:  # CMYK comes in two senses, and Pillow knows which
        if not (height and width):
            height, width = header.upright
        by, cost = jpeg_cost(header, len(data), _factor(height, width, min_height, min_width))
        with alone(cost):
            photo = _decode(data, _REDUCED[by])
            if photo is None:  # OpenCV shows a part of a file only if it ends like a whole one
                photo = _decode(data.rstrip(b"\0") + JPEG_END, _REDUCED[by])
        if photo is not None:
            return photo
    try:
        with open_photo(data) as opened:
            return _pixels_of(opened, data, min_height, min_width)
    except PILLOW_ERRORS as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot be decoded ({reason(error, data)})") from None


def _factor(height: int, width: int, min_height: int, min_width: int) -> int:
    """By how much a photo may be reduced; 0, not at all, without both minima."""
    return max(1, min(height // min_height, width // min_width)) if min_height and min_width else 0


def jpeg_cost(header: JpegHeader, size: int, by: int) -> tuple[int, float]:
    """By how much a decoder reduces a JPEG, of so many bytes, and the bytes that it takes.

    by: how much it may; more where it is too large else; 0: not at all. Raises TooLarge.
    """
    pixels = header.height * header.width
    kept = size + 2 * header.kept * pixels
    factor = max(factor for factor in _REDUCED if factor <= max(1, by))
    while by and factor < 8 and kept + pixels * 8 / factor**2 > MOST:
        factor *= 2
    return factor, _within(kept + pixels * 8 / factor**2, header.height, header.width)


def _within(cost: float, height: int, width: int) -> float:
    if cost > MOST:
        takes = f"takes {cost / 1e9:.1f} GB to decode; at most {MOST / 1e9} GB"
        raise TooLarge(f"{width}×{height} px, which {takes}")
    return cost


def _decode(data: bytes, flag: int) -> Pixels | None:
    try:
        return cast(Pixels | None, cv2.imdecode(np.frombuffer(data, np.uint8), flag))
    except cv2.error:
        return None


def open_photo(data: bytes) -> Image.Image:
    """Pillow's, not decoded yet. Raises PILLOW_ERRORS."""
    Image.MAX_IMAGE_PIXELS = None  # by its own limit whole photos looked damaged; see cost
    Image.init()
    return Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])


def cost(photo: Image.Image, data: bytes, by: int = 0) -> tuple[int, float]:
    """As ``jpeg_cost``; what is no JPEG cannot be decoded reduced. Raises TooLarge."""
    if header := jpeg_header(data):
        return jpeg_cost(header, len(data), by)
    each = _MODE_BYTES.get(photo.mode, 4)
    if photo.format in ("WEBP", "AVIF", "JPEG2000"):  # several copies, or four bytes a channel
        each = 16
    elif photo.format == "TIFF":  # it is turned as a whole
        each *= 2
    sides = zip(photo.size, getattr(photo, "_tile_size", photo.size), strict=True)
    width, height = map(max, sides)
    return 1, _within(len(data) + each * height * width, height, width)


def load(photo: Image.Image, data: bytes, by: int = 0) -> None:
    """Decode it, a JPEG reduced as ``cost`` says. Raises PILLOW_ERRORS, TooLarge."""
    factor, takes = cost(photo, data, by)
    with alone(takes):
        if factor > 1:
            width, height = photo.size
            photo.draft(None, (max(1, width // factor), max(1, height // factor)))
        photo.load()


def upright(photo: Image.Image) -> tuple[int, int]:
    """Height and width of a decoded photo once it is turned as its EXIF says."""
    sideways = photo.getexif().get(ORIENTATION) in (5, 6, 7, 8)
    return photo.size if sideways else photo.size[::-1]


def _pixels_of(photo: Image.Image, data: bytes, min_height: int, min_width: int) -> Pixels:
    # Only a JPEG says before how it is turned, and it alone is decoded reduced.
    by = _factor(*upright(photo), min_height, min_width) if jpeg_header(data) else 0
    # Closed, as it would wait for Python's collector with all its memory: it refers to itself.
    with alone(cost(photo, data, by)[1]), closing(photo):
        load(photo, data, by)
        takes = photo.width * photo.height * _MODE_BYTES.get(photo.mode, 4)
        by = _factor(*upright(photo), min_height, min_width) if takes > ALONE else 1
        return _turned(_rgb(photo, max(1, by)), photo.getexif().get(ORIENTATION))


def _turned(photo: Pixels, orientation: int | None) -> Pixels:
    """Upright, by an EXIF orientation."""
    if orientation in (5, 6, 7, 8):  # as mirrored at the diagonal, and then as the others
        photo = photo.transpose(1, 0, 2)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(photo[rows, columns])


def _rgb(photo: Image.Image, by: int) -> Pixels:
    """(H, W, 3) uint8 of a decoded photo, reduced by a factor, some rows at a time.

    As a whole, each step would make a copy of a large photo.
    """
    width, height = photo.size
    step = by * max(1, _STRIP // (width * by))
    top = _top(photo, step) if photo.mode[0] in "IF" else 0.0
    out = np.empty((-(-height // by), -(-width // by), 3), np.uint8)
    for start in range(0, height, step):
        strip = photo.crop((0, start, width, min(start + step, height)))
        rgb = _to_8_bits(strip, top) if top else _on_white(strip)
        into = out[start // by : -(-min(start + step, height) // by)]
        if by > 1:
            rgb = cv2.resize(rgb, into.shape[1::-1], interpolation=cv2.INTER_AREA)
        into[:] = rgb
    return out


def _on_white(photo: Image.Image) -> np.ndarray:
    if photo.has_transparency_data:
        photo = photo.convert("RGBA")
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
    return np.asarray(photo.convert("RGB"))


def _numbers(photo: Image.Image) -> np.ndarray:
    return np.nan_to_num(np.asarray(photo, np.float64), posinf=0, neginf=0)  # (H, W)


def _top(photo: Image.Image, step: int) -> float:
    """What white is in a grey photo of 16 bits, or of floats."""
    if photo.mode.startswith("I;16"):
        return 65535.0
    width, height = photo.size
    strips = [(0, top, width, min(top + step, height)) for top in range(0, height, step)]
    most = max(_numbers(photo.crop(strip)).max() for strip in strips)
    if photo.mode == "F" and most <= 2:  # of 0–1, which resizing overshoots
        return 1.0
    return 65535.0 if most > 255 else 255.0


def _to_8_bits(photo: Image.Image, top: float) -> np.ndarray:
    """Grey scaled to 0–255; Pillow would clip it instead."""
    grey8 = np.clip(_numbers(photo) * (255.0 / top), 0, 255).round().astype(np.uint8)
    return np.repeat(grey8[:, :, None], 3, axis=2)


def reason(error: BaseException, data: bytes) -> str:
    """Why Pillow cannot read a file, in a few words: if it is no photo, what it is."""
    if isinstance(error, UnidentifiedImageError):
        kind = kinds.content(data[: kinds.HEAD]) or _pillow_kind(data[:16]) or "of no known kind"
        return f"not a photo that can be read: {kind}"
    return str(error) or type(error).__name__


def _pillow_kind(head: bytes) -> str:
    """Pillow's name of the format that begins so, "" if it knows none."""
    for name, (_, accepts) in Image.OPEN.items():
        try:
            if accepts and accepts(head) is True:
                return name
        except PILLOW_ERRORS:  # too short for it
            continue
    return ""
'''


# ===== carcls/data/similar.py =================================================
MODULES["data/similar.py"] = r'''"""Small copies of all photos: how bright these are, and which of them show the same picture.

Found are photos that were resized, encoded anew, mirrored, or made a little brighter; not those
that were cut by more than a few px, or lost their colours. Thresholds were chosen on cars10: see
carcls/desk/MEASUREMENTS.md.
"""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from carcls.data import pixels
from carcls.errors import InputError

FAR = 7  # bits of 63: hashes of copies are at most this far apart; see _LOOSE
APART = 10.0  # mean difference of two copies' small pictures, of 255
FLAT = 4.0  # contrast below which a photo shows nothing that could be compared
_LEAST = 64  # px of the shorter side that are decoded: with 32, resized copies were missed
_GRID, _THUMB = 32, 16  # px of the squares that a hash is computed from, and that are compared
_WAVES = np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(_GRID) + 1) / (2 * _GRID))
_WAVES = _WAVES.astype(np.float32)  # (8, 32)
_BITS = np.uint64(1) << np.arange(64, dtype=np.uint64)
# Two 64-bit numbers that differ in FAR bits have one of four 16-bit parts in which they differ in
# one bit at most. A part has waves of every length: of long ones alone, most photos share many.
_PART = (np.add.outer(np.arange(8), np.arange(8)) % 4).ravel()
_ORDER = np.argsort(_PART, kind="stable")
_LOOSE = [np.uint64(0), *_BITS[:16]]
assert FAR < 2 * 4, "else two hashes may differ in two bits of every part"
_FLIPPED = np.where(np.arange(8) % 2, -1, 1)  # mirrored, a wave of odd length changes its sign
_NOISE = 40  # of a wave: below it, which sign it has is the encoder's doing
_ONES = np.array([bin(n).count("1") for n in range(2**16)], np.uint8)
_ROOM = 2**21  # pairs that are looked at together
_ROUNDS = 64
_MOST = 16  # of 3,500 photos of cars10 at most 9 share a part
_FEW = 8  # pairs of a photo with later ones that are listed, the nearest


@dataclass(frozen=True, eq=False)
class Small:
    """What small copies tell of N photos, in the order of a table's frame."""

    seen: np.ndarray  # (N,) bool; False: has no file, or cannot be read
    hashes: np.ndarray  # (N,) uint64
    mirrored: np.ndarray  # (N,) uint64, the hashes of mirrored photos
    thumbs: np.ndarray  # (N, 16, 16, 3) uint8 RGB
    brightness: np.ndarray  # (N,) float32, mean grey, 0 black to 255 white
    contrast: np.ndarray  # (N,) float32, standard deviation of grey

    @property
    def flat(self) -> np.ndarray:
        """(N,) bool: those of one colour, which are not compared."""
        return self.seen & (self.contrast < FLAT)


def shrink(frame: pd.DataFrame) -> Small:
    """Decode all photos of a table's frame, JPEGs much reduced, in threads; same files once."""
    firsts = frame.drop_duplicates("group")
    columns = (firsts[name] for name in ("path", "height", "width", "readable"))
    files = list(zip(*(column.tolist() for column in columns), strict=True))
    chunks = [files[start : start + 64] for start in range(0, len(files), 64)]
    Image.init()  # loads Pillow's formats here, not in several threads at a time
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        warnings.simplefilter("ignore")  # the audit has said what is odd
        parts = list(pool.map(_of_chunk, chunks))
    rows = pd.Index(firsts["group"]).get_indexer(frame["group"])
    # Those without a file have one group, as their bytes are the same: none.
    return Small(*(np.concatenate(values)[rows] for values in zip(*parts, strict=True)))


def _of_chunk(files: list[tuple[str, int, int, bool]]) -> tuple[np.ndarray, ...]:
    seen = np.zeros(len(files), bool)
    grids = np.zeros((len(files), _GRID, _GRID), np.uint8)
    thumbs = np.zeros((len(files), _THUMB, _THUMB, 3), np.uint8)
    light = np.zeros((len(files), 2), np.float32)
    for n, (path, height, width, readable) in enumerate(files):
        try:
            if path and readable:
                photo = pixels.read_photo(path, _LEAST, _LEAST, height, width)
                grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
                grids[n] = cv2.resize(grey, (_GRID, _GRID), interpolation=cv2.INTER_AREA)
                thumbs[n] = cv2.resize(photo, (_THUMB, _THUMB), interpolation=cv2.INTER_AREA)
                light[n] = [value.item() for value in cv2.meanStdDev(grey)]
                seen[n] = True
        except InputError:  # training says so where it takes a grey photo instead
            pass
    return seen, *hashes_of(grids), thumbs, light[:, 0], light[:, 1]


def hashes_of(grids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) uint64 of grey squares (N, 32, 32), and the same of mirrored ones.

    A bit says whether one of the 63 longest waves, but the mean, is positive.
    """
    waves = _WAVES @ grids.astype(np.float32) @ _WAVES.T
    waves[:, 0, 0] = 0
    return _signs(waves), _signs(waves * _FLIPPED)


def _signs(waves: np.ndarray) -> np.ndarray:
    bits = np.packbits(waves.reshape(-1, 64)[:, _ORDER] > _NOISE, axis=1, bitorder="little")
    return np.ascontiguousarray(bits).view(np.uint64)[:, 0]


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """In how many bits numbers (N,) uint64 differ; (N,) int."""
    parts: np.ndarray = _ONES[(a ^ b).view(np.uint16).reshape(-1, 4)].sum(1, dtype=np.int64)
    return parts


def near(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(i, j), i < j, in which hashes[i] and others[j] differ in at most FAR bits; (P, 2) int.

    others: the same hashes, or those of the mirrored photos. All of them, but where more than _MOST
    photos share a part, as the frames of a film do: there each meets the _MOST that come after it,
    as all with all would take hours and more memory than there is.
    """
    n = max(1, len(hashes))
    found, rows = np.empty(0, np.int64), np.arange(len(hashes))
    for shift in np.arange(0, 64, 16, dtype=np.uint64):
        part = ((hashes >> shift) & np.uint64(0xFFFF)).astype(np.int64)
        theirs = ((others >> shift) & np.uint64(0xFFFF)).astype(np.int64) * n + rows
        order = np.argsort(theirs)
        theirs, near_here = theirs[order], [found]
        for loose in _LOOSE:
            wanted = (part ^ int(loose)) * n
            start = np.searchsorted(theirs, wanted + rows, "right")  # so j is larger than i
            count = np.minimum(np.searchsorted(theirs, wanted + n) - start, _MOST)
            total = np.cumsum(count)
            cuts = np.searchsorted(total, np.arange(_ROOM, total.max(initial=0), _ROOM))
            for some in filter(len, np.split(rows, cuts)):
                i = np.repeat(some, count[some])
                before = total[some] - count[some] - (total[some[0]] - count[some[0]])
                j = order[np.arange(len(i)) + np.repeat(start[some] - before, count[some])]
                is_near = distance(hashes[i], others[j]) <= FAR
                near_here.append(i[is_near] * n + j[is_near])
        found = np.unique(np.concatenate(near_here))
    return np.stack([found // n, found % n], 1)


def pairs(small: Small, group: np.ndarray) -> pd.DataFrame:
    """Photos that show the same picture in files that differ; group (N,): the same for same files.

    A row each: a < b, positions; distance of their hashes in bits; mirrored. Of many photos with
    one hash, each is paired with the first alone; of same files, the first is compared. Of frames
    of a film, each is paired with the _FEW nearest that come after it.
    """
    rows = np.flatnonzero(small.seen & ~small.flat & ~pd.Series(group).duplicated().to_numpy())
    same, firsts = _same_hash(small, rows)
    hashes = small.hashes[firsts]
    found = [same.assign(distance=0, mirrored=False)]
    for mirrored in (False, True):
        others = small.mirrored[firsts] if mirrored else hashes
        a, b = near(hashes, others).T
        some = pd.DataFrame(
            {"a": firsts[a], "b": firsts[b], "distance": distance(hashes[a], others[b])}
        )
        is_same = _alike(small.thumbs, firsts[a], firsts[b], mirrored)
        found.append(some[is_same].assign(mirrored=mirrored))
    # What looks the same in a mirror, too, is a pair once.
    joined = pd.concat(found, ignore_index=True).drop_duplicates(["a", "b"])
    joined = joined.sort_values(["distance", "a", "b"], ignore_index=True)
    is_listed = (joined["distance"] == 0) | (joined.groupby("a").cumcount() < _FEW)
    return joined[is_listed].reset_index(drop=True)


def _same_hash(small: Small, rows: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
    """Pairs a, b of the first photo with a hash and those like it; and all that are no such b."""
    left, firsts, found = rows, [], [np.empty((0, 2), np.int64)]
    for _ in range(_ROUNDS):  # in each, of every hash the first photo that is like none before it
        hashes = pd.Series(small.hashes[left])
        is_first = ~hashes.duplicated().to_numpy()
        firsts.append(left[is_first])
        first = left[is_first][pd.Index(hashes[is_first]).get_indexer(hashes)]
        is_like = ~is_first & _alike(small.thumbs, first, left, False)
        found.append(np.stack([first[is_like], left[is_like]], 1))
        left = left[~is_first & ~is_like]
    columns = pd.DataFrame(np.concatenate(found), columns=["a", "b"])
    return columns, np.sort(np.concatenate([*firsts, left]))


def _alike(thumbs: np.ndarray, a: np.ndarray, b: np.ndarray, mirrored: bool) -> np.ndarray:
    """(P,) bool: whether small pictures are the same but for their brightness."""
    found = [np.empty(0, bool)]
    for start in range(0, len(a), 4096):
        first, second = thumbs[a[start : start + 4096]], thumbs[b[start : start + 4096]]
        apart = first.astype(np.float32) - (second[:, :, ::-1] if mirrored else second)
        apart -= apart.mean((1, 2, 3), keepdims=True)
        found.append(np.abs(apart).mean((1, 2, 3)) <= APART)
    return np.concatenate(found)


def grouped(pairs: pd.DataFrame, group: np.ndarray) -> np.ndarray:
    """(N,) int: the same for photos that pairs, or the same files (group), hold together."""
    from scipy.sparse import coo_array, csgraph

    links = group[pairs["a"]], group[pairs["b"]]
    shape = (group.max(initial=-1) + 1,) * 2
    return csgraph.connected_components(coo_array((np.ones(len(pairs)), links), shape))[1][group]
'''


# ===== carcls/data/tables.py ==================================================
MODULES["data/tables.py"] = r'''"""CSV files as people and their tools write them."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from carcls.data import kinds
from carcls.disk import is_junk
from carcls.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_MOST = 2**28  # bytes, of some million rows; what is larger is no table of ids
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200e\u200f\u2060\ufeff"))


def clean(text: str) -> str:
    """One form of a label: composed Unicode, one blank between words."""
    if not text.isascii():
        text = normalize("NFC", text.translate(_INVISIBLE))
    return " ".join(text.split())


def read_csv(path: Path) -> pd.DataFrame:
    """A CSV file as text; "" where a field is empty. Raises InputError."""
    import pandas as pd  # not before a kernel has checked its inputs

    text = _text(path)
    # Text keeps ids and labels as they are written: 007 stays 007, and a class may be called NA.
    as_text: dict[str, Any] = {"dtype": str, "keep_default_na": False, "index_col": False}
    said = re.match(r"sep=(.)[\r\n]+", text)  # as Excel writes it
    text = text[said.end() :] if said else text
    as_text["sep"] = said[1] if said else _separator(text)
    try:
        with warnings.catch_warnings():
            # pandas warns, and cuts off what the header does not name.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            header = pd.read_csv(io.StringIO(text), header=None, nrows=1, **as_text)
            frame = pd.read_csv(io.StringIO(text), **as_text)
    except pd.errors.ParserWarning:
        raise _unreadable(path, "rows have more fields than the header") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise _unreadable(path, str(error).strip()) from None
    if frame.empty:
        raise InputError(f"{path}: no rows below the header {','.join(map(str, frame.columns))}")
    names = header.iloc[0].tolist()
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:  # pandas would give them other names, which a submission then had
        raise InputError(f"{path}: two columns are called {', '.join(twice)}")
    # Commas at the end of lines, as spreadsheets leave them, do no harm.
    used = [i for i, name in enumerate(names) if name or (frame.iloc[:, i] != "").any()]
    return frame.iloc[:, used]


def _separator(text: str) -> str:
    """The comma, unless the header has none but has another one."""
    header = re.split(r"[\r\n]", text.lstrip(), maxsplit=1)[0]
    return "," if "," in header else next((sep for sep in ";\t|" if sep in header), ",")


def _text(path: Path) -> str:
    """What is in a CSV file, which may be zipped. Raises InputError."""
    what = ""
    try:
        what = kinds.described(path)
        if what == "zip file":
            data = _unzipped(path)
            what = kinds.content(data[: kinds.HEAD])
        elif not what:
            with path.open("rb") as file:
                data = file.read(_MOST + 1)
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise _unreadable(path, f"{what and f'{what}: '}{why}") from None
    if what:
        raise _unreadable(path, f"it is: {what}; expected rows such as 1.jpg,0")
    if len(data) > _MOST:
        raise _unreadable(path, f"more than {_MOST // 2**20} MB")
    try:
        wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        if wide:
            raise _unreadable(path, f"not whole UTF-16: {error.reason}") from None
        start = data.rfind(b"\n", 0, error.start) + 1
        line, number = data[start : error.end + 20], data.count(b"\n", 0, start) + 1
        raise _unreadable(path, f"not UTF-8 in line {number}, {line!r}; save it as UTF-8") from None
    if "\0" in text:
        raise _unreadable(path, "it has zero bytes; save it as UTF-8")
    return text


def _unzipped(path: Path) -> bytes:
    """The one CSV file in a zip file. Raises what zipfile does, and ValueError if there is none."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith(".csv")]
        names = [name for name in names if not any(map(is_junk, name.split("/")))]
        if len(names) != 1:
            raise ValueError(f"{len(names)} CSV files in it, expected one")
        with archive.open(names[0]) as file:
            return file.read(_MOST + 1)


def _unreadable(path: Path, why: str) -> InputError:
    return InputError(f"{path}: not a readable CSV file ({why})")
'''


# ===== carcls/data/unzip.py ===================================================
MODULES["data/unzip.py"] = r'''"""Unpacking zipped photos, whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from carcls.data import codepages, kinds
from carcls.disk import PHOTO_SUFFIXES, is_junk, may_be_photo, photo_files, read_json, write_atomic
from carcls.errors import InputError

try:
    from lzma import LZMAError
except ImportError:  # a Python built without it; zipfile then says that it cannot open such a file
    LZMAError = zlib.error  # type: ignore[assignment,misc]  # one name for both cases

_DONE = ".unpacked.json"  # in a folder that is whole: which zip file it was unpacked from
# What zipfile raises on a file that is broken or not one that it can read.
_BROKEN = (zipfile.BadZipFile, zlib.error, LZMAError, EOFError, RuntimeError, UnicodeDecodeError)
_METHODS = (0, 8, 12, 14)  # those that zipfile unpacks: none, Deflate, bzip2, LZMA
_OTHERS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 93: "Zstandard", 95: "xz", 98: "PPMd"}
_RESERVE = 500_000_000  # bytes of a disk that are left for what else a run writes
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PARTS = "one part of a zip file in several parts; "
_BLOCK = 4096  # bytes; a file takes whole ones


@dataclass(frozen=True)
class _Zip:
    """A zip file, what is to be unpacked of it, and where to."""

    source: Path
    target: Path
    files: list[zipfile.ZipInfo]
    facts: dict[str, object]

    @property
    def size(self) -> int:
        """Bytes that it takes on the disk."""
        return sum(map(_size, self.files))


def _size(member: zipfile.ZipInfo) -> int:
    return -(-member.file_size // _BLOCK) * _BLOCK


def unpack(targets: dict[Path, Path], known: codepages.Known = tuple) -> list[str]:
    """Make each folder what is in its zip file, if it is not that already; lines for the log.

    Nothing is unpacked unless all can be. known: ids and labels, by which names are understood.
    Raises InputError.
    """
    zips, notes = [], list[str]()
    read = {source: _listed(source, known) for source in targets.values()}
    sure = {page for _, _, page in read.values() if page}
    for target, source in targets.items():
        files, found, page = read[source]
        if page == "" and len(sure) == 1:
            files, found, _ = _listed(source, known, *sure)
        notes += found
        facts = _facts(source, files)
        if not _is_unpacked(target, facts):
            zips.append(_Zip(source, target, files, facts))
            _refuse_unpackable(zips[-1])
    if zips:
        _refuse_full(zips[0], sum(zipped.size for zipped in zips))
    for zipped in zips:
        with _opened(zipped.source) as archive:
            _extract(archive, zipped)
    return notes


def names_in(source: Path, known: codepages.Known = tuple) -> list[str]:
    """The paths of the files in a zip file. Raises InputError."""
    return [member.filename for member in _listed(source, known)[0]]


def _listed(
    source: Path, known: codepages.Known, page: str = ""
) -> tuple[list[zipfile.ZipInfo], list[str], str | None]:
    """The files in a zip file, lines for the log, and the code page of the names."""
    with _opened(source) as archive:
        members = archive.infolist()
        names, doubt, page_found = codepages.names_of(members, known, page)
        return *_files(source, members, names, doubt), page_found


@contextmanager
def _opened(source: Path) -> Iterator[zipfile.ZipFile]:
    """The zip file; what is wrong with it is raised as InputError."""
    try:
        with zipfile.ZipFile(source) as archive:
            yield archive
    except InputError:
        raise
    except NotImplementedError as error:
        raise InputError(
            f"{source}: Python cannot unpack it ({error}); {_by_hand(source)}"
        ) from None
    except (*_BROKEN, OSError) as error:
        # zipfile's own errors of wrong bytes have no number, or this one.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            where = error.filename and f": {error.filename}"
            raise InputError(
                f"{source}: cannot be unpacked ({error.strerror}{where or ''})"
            ) from None
        raise InputError(f"{source}: {_what_it_is(source, error)}") from None


def _what_it_is(source: Path, error: Exception) -> str:
    """A file that cannot be read as a zip file: what it is, and what to do."""
    what = kinds.described(source)
    with source.open("rb") as file:
        is_first_part = file.read(4) == b"PK\7\x08"
    if is_first_part or _is_last_part(source):
        return _PARTS + _by_hand(source)
    if isinstance(error, UnicodeDecodeError):
        return (
            f"a name in it is marked as UTF-8 and is not ({error.object!r}), by damage "
            f"or a packer's mistake; {_by_hand(source)}"
        )
    if what in ("zip file", ""):
        return f"not a whole zip file ({error}); download it again"
    if what in ("rar", "7z", "tar", "gzip", "bzip2", "xz", "zstd"):
        return f"not a zip file but: {what}; {_by_hand(source)}"
    return f"not a zip file but: {what}; get the file itself"


def _is_last_part(source: Path) -> bool:
    """Whether a zip file ends with the number of a part; one that is whole has 0 there."""
    with source.open("rb") as file:
        file.seek(max(0, source.stat().st_size - 2**16 - 22))
        _, end, tail = file.read().rpartition(b"PK\5\6")
    return bool(end) and tail[:2] not in (b"\0\0", b"\xff\xff")


def _by_hand(source: Path) -> str:
    return f"unpack all of it with another program, such as 7z, into {source.with_suffix('')}"


def _files(
    source: Path, members: list[zipfile.ZipInfo], names: list[str], doubt: str
) -> tuple[list[zipfile.ZipInfo], list[str]]:
    """The files in it, but hidden ones, and lines for the log.

    Raises InputError if one is unsafe, or none is a photo.
    """
    files, count = dict[str, zipfile.ZipInfo](), 0
    for member, written in zip(members, names, strict=True):
        name = written.replace("\\", "/")  # old tools of Windows write train\1.jpg
        fault, kind = "", stat.S_IFMT(member.external_attr >> 16)
        if re.match(r"/|[A-Za-z]:", name):
            fault = "has an absolute path"
        elif ".." in name.split("/"):
            fault = "leaves the folder"
        elif stat.S_ISLNK(kind):
            fault = "is a symbolic link"
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            fault = "is a FIFO, a device or a socket"
        if fault:
            raise InputError(f"{source}: member {written!r} {fault}; nothing was unpacked")
        parts = [part for part in name.split("/") if part not in ("", ".")]  # also ./train//1.jpg
        if parts and not name.endswith("/") and not any(map(is_junk, parts)):
            member.filename, count = "/".join(parts), count + 1
            files[member.filename] = member
    if not any(map(may_be_photo, files)):
        raise InputError(
            f"{source}: no photo in it ({len(files)} files); expected "
            f"{', '.join(sorted(PHOTO_SUFFIXES))}"
        )
    notes = [doubt] * bool(doubt)
    if count > len(files):
        notes.append(f"{count - len(files)} names come more than once; the last of each is taken")
    return list(files.values()), [_with_source(source, note) for note in notes]


def _with_source(source: Path, note: str) -> str:
    start = "WARNING: " * note.startswith("WARNING: ")
    return f"{start}{source}: {note.removeprefix(start)}"


def _facts(source: Path, files: list[zipfile.ZipInfo]) -> dict[str, object]:
    """What tells a zip file from others: names, sizes and checksums of what is in it."""
    listing = "\n".join(f"{m.filename} {m.file_size} {m.CRC:08x}" for m in files)
    return {
        "zip": source.name,
        "files": len(files),
        "bytes": sum(member.file_size for member in files),
        "sha256": hashlib.sha256(listing.encode()).hexdigest(),
    }


def _is_unpacked(target: Path, facts: dict[str, object]) -> bool:
    """Whether the folder was unpacked from that zip file, and still has as many files and bytes."""
    try:
        if read_json(target / _DONE) != facts:
            return False
        sizes = [(target / at / name).stat().st_size for at, name in photo_files(target)]
    except (OSError, ValueError):  # none, or damaged
        return False
    return (len(sizes), sum(sizes)) == (facts["files"], facts["bytes"])


def _refuse_unpackable(zipped: _Zip) -> None:
    """Raise InputError for what would stop the unpacking half-way."""
    source, hint = zipped.source, _by_hand(zipped.source)
    if any(member.volume for member in zipped.files) or _is_last_part(source):
        raise InputError(f"{source}: {_PARTS}{hint}")
    hint += ", or pack it again by Deflate, without a password"
    for member in zipped.files:
        method, name, fault = member.compress_type, member.filename, ""
        long = max(len(part.encode()) for part in name.split("/"))
        whole = len(os.fsencode(zipped.target)) + len(name.encode()) + 21  # with .<number>.part
        if member.flag_bits & 0x41:
            fault = "is encrypted"
        elif method not in _METHODS:
            how = f"{_OTHERS.get(method, 'a method')} (number {method})"
            fault = f"is packed by {how}, which Python cannot unpack"
        elif long > 255 or whole > 4095:
            hint = "pack it with a shorter name"
            fault = f"has a name too long for the disk ({max(long, whole)} bytes)"
        if fault:
            raise InputError(f"{source}: member {name!r} {fault}; nothing was unpacked; {hint}")


def _refuse_full(zipped: _Zip, needed: int, error: str = "") -> None:
    """Raise InputError if so many bytes do not go on the disk, or after an error that says so."""
    folder = zipped.target.parent
    disk = shutil.disk_usage(folder)
    reserve = min(_RESERVE, disk.total // 20)
    if error or needed > disk.free - reserve:
        needs, free, keeps = (f"{n / 1e6:,.1f} MB" for n in (needed, disk.free, reserve))
        raise InputError(
            f"{zipped.source}: unpacking needs {needs} in {folder}, free: {free}, of which {keeps} "
            f"are kept for the run{error and f' ({error})'}; what was there before is kept, and "
            "nothing else; make room, or set out to a folder on another disk"
        )


def _extract(archive: zipfile.ZipFile, zipped: _Zip) -> None:
    """Unpack under another name, then rename: a folder of that name is always whole."""
    target, left_to_write = zipped.target, zipped.size
    for left in target.parent.glob(f"{target.name}.*.part"):
        if not _is_alive(left.name.split(".")[-2]):
            _remove(left)  # of a run that was killed
    part = target.with_name(f"{target.name}.{os.getpid()}.part")  # several runs may unpack at once
    _remove(part)
    try:
        part.mkdir()
        for member in zipped.files:
            _refuse_full(zipped, left_to_write)  # others write to the disk, too
            _write(archive, zipped.source, member, part)
            left_to_write -= _size(member)
        write_atomic(part / _DONE, json.dumps(zipped.facts))
        try:
            part.rename(target)
        except OSError:  # there is one already
            if not _is_unpacked(target, zipped.facts):  # else another process was faster
                _remove(target)
                part.rename(target)
    except OSError as error:
        if error.errno in _FULL:
            _remove(part)
            _refuse_full(zipped, zipped.size, error.strerror or "full")
        raise
    finally:
        _remove(part)


def _write(archive: zipfile.ZipFile, source: Path, member: zipfile.ZipInfo, part: Path) -> None:
    """One file of it. Raises InputError if the disk takes no such name, or has it already."""
    path = part / member.filename
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("xb")
    except (OSError, UnicodeEncodeError) as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            raise
        raise InputError(
            f"{source}: member {member.filename!r} cannot be written "
            f"({getattr(error, 'strerror', None) or error}); nothing was unpacked; two names may "
            "differ only in case or accents, or this disk takes no such name"
        ) from None
    with file, archive.open(member) as content:  # checks the CRC
        shutil.copyfileobj(content, file, 2**20)


def _is_alive(pid: str) -> bool:
    """Whether a process of that number runs."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _remove(folder: Path) -> None:
    while folder.exists():
        with suppress(FileNotFoundError):  # another process may be removing it, too
            shutil.rmtree(folder)
'''


# ===== carcls/nets/__init__.py ================================================
MODULES["nets/__init__.py"] = r'''"""Networks: which there are, their weights, head and schedule."""
'''


# ===== carcls/nets/fast.py ====================================================
MODULES["nets/fast.py"] = r'''"""Faster TensorFlow kernels behind Keras's layers, for steps that XLA does not compile.

They give the same numbers and fit the same weight files; `make bench` prints what they gain.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_MIN_EPSILON = 1e-5  # the least that was tried, on a CPU; not run on a GPU


def fuse_batch_norm(model: Any) -> int:
    """Switch batch normalisations, nested ones too, to TensorFlow's fused kernel; returns how many.

    For a built model, before ``compile``. What the kernel does not cover stays as it is.
    """
    return _switch(model, _fits_batch_norm, _fused_batch_norm)


def speed_up_depthwise(model: Any) -> int:
    """Switch depthwise convolutions beyond 3×3 to a gradient faster on a CPU; returns how many.

    For a built model, before ``compile``. Layers with a bias, dilation, or strides and padding
    "same" stay as they are, and so does what is not float32.
    """
    return _switch(model, _fits_depthwise, _large_depthwise_conv)


def split_groups(model: Any, on_cpu: bool) -> int:
    """Switch convolutions of one channel a group to depthwise kernels; returns how many.

    For a built model, before ``compile``. Keras has XLA compile each of them by itself, as
    TensorFlow has no gradient of grouped convolutions on a CPU.
    """
    return _switch(model, _fits_groups, lambda: _one_channel_a_group(on_cpu))


def stand_in(plain: type, **methods: Any) -> type:
    """A layer class that computes by these methods and otherwise passes for the plain one.

    Keras finds weights and layers in files by their class's name and module: under the plain ones,
    what one class saved loads into the other.
    """
    names = {"__module__": plain.__module__, "__doc__": plain.__doc__}
    return type(plain.__name__, (plain,), {**methods, **names})


def replace(layers: Iterable[Any], kind: type) -> int:
    """Make layers of that class, in place; returns how many."""
    layers = list(layers)
    for layer in layers:
        # Not through Keras's own __setattr__, which tracks whatever it is given.
        object.__setattr__(layer, "__class__", kind)
    return len(layers)


def _switch(model: Any, fits: Callable[[Any], bool], make_class: Callable[[], type]) -> int:
    """Replace what fits, on TensorFlow alone."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return 0
    return replace(filter(fits, model._flatten_layers()), make_class())


def _fits_batch_norm(layer: Any) -> bool:
    import keras

    return (
        type(layer) is keras.layers.BatchNormalization
        and layer.built
        and layer.axis in (-1, 3)
        and layer.input_spec.ndim == 4
        and layer.center
        and layer.scale
        and not layer.synchronized
        and layer.epsilon >= _MIN_EPSILON
    )


@cache
def _fused_batch_norm() -> type:
    """Keras normalises in a chain of operations; TensorFlow's kernel reads memory less often."""
    import keras
    import tensorflow as tf

    plain, dtypes = keras.layers.BatchNormalization, (tf.float32, tf.float16, tf.bfloat16)
    # Not tf.compat.v1.nn.fused_batch_norm, which raises a smaller epsilon to 1.001e-5, silently.
    kernel = tf.raw_ops.FusedBatchNormV3

    def call(self: Any, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """(B, H, W, C) → the same shape and dtype, as ``BatchNormalization.call``."""
        if mask is not None or len(inputs.shape) != 4 or inputs.dtype not in dtypes:
            return plain.call(self, inputs, training=training, mask=mask)
        scale, offset, *statistics = map(
            tf.convert_to_tensor, (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        )
        learns = bool(training and self.trainable)
        given = [tf.zeros(0), tf.zeros(0)] if learns else statistics
        outputs, mean, variance, *_ = kernel(
            x=inputs,
            scale=scale,
            offset=offset,
            mean=given[0],
            variance=given[1],
            epsilon=self.epsilon,
            is_training=learns,
        )
        if not learns:
            return tf.cast(outputs, self.compute_dtype)
        # The kernel divides the variance by n - 1, Keras by n (photos × height × width). A single
        # value has none.
        n = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], variance.dtype)
        variance = tf.where(n > 1, variance * (n - 1) / n, tf.zeros_like(variance))
        keep = self.momentum
        self.moving_mean.assign(self.moving_mean * keep + mean * (1 - keep))
        self.moving_variance.assign(self.moving_variance * keep + variance * (1 - keep))
        return tf.cast(outputs, self.compute_dtype)

    return stand_in(plain, call=call)


def _fits_depthwise(layer: Any) -> bool:
    import keras

    return (
        type(layer) is keras.layers.DepthwiseConv2D
        and layer.built
        and max(layer.kernel_size) > 3
        and (layer.padding == "valid" or layer.strides == (1, 1))
        and layer.dilation_rate == (1, 1)
        and layer.data_format == "channels_last"
        and not layer.use_bias
    )


@cache
def _large_depthwise_conv() -> type:
    import keras
    import tensorflow as tf

    plain = keras.layers.DepthwiseConv2D

    def call(self: Any, inputs: Any) -> Any:
        """(B, H, W, C) → (B, h, w, C × multiplier), as ``DepthwiseConv2D.call``."""
        if inputs.dtype != tf.float32:
            return plain.call(self, inputs)
        return self.activation(_convolve_large(self, inputs, tf.convert_to_tensor(self.kernel)))

    return stand_in(plain, call=call)


def _convolve_large(layer: Any, inputs: Any, weights: Any) -> Any:
    """The filter gradient by TensorFlow's own kernel, all else by oneDNN (MEASUREMENTS: Depthwise).

    oneDNN has no kernel for that gradient beyond 3×3 and takes a slow one; where the padding is
    explicit TensorFlow does not ask it. weights: (height, width, C, multiplier).
    """
    import tensorflow as tf

    strides, padding = (1, *layer.strides, 1), layer.padding.upper()
    around = [((k - 1) // 2, k // 2) if padding == "SAME" else (0, 0) for k in layer.kernel_size]
    explicit = [0, 0, *around[0], *around[1], 0, 0]

    @tf.custom_gradient
    def convolve(x: Any, kernel: Any) -> Any:
        def gradients(upstream: Any) -> tuple[Any, Any]:
            return tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=tf.shape(x),
                filter=kernel,
                out_backprop=upstream,
                strides=strides,
                padding=padding,
            ), tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
                input=x,
                filter_sizes=kernel.shape,
                out_backprop=upstream,
                strides=strides,
                padding="EXPLICIT",
                explicit_paddings=explicit,
            )

        return tf.nn.depthwise_conv2d(x, kernel, strides, padding), gradients

    return convolve(inputs, weights)


def _fits_groups(layer: Any) -> bool:
    import keras

    return (
        type(layer) is keras.layers.Conv2D
        and layer.built
        and layer.groups == layer.filters > 1
        and layer.kernel.shape[2] == 1
        and layer.strides[0] == layer.strides[1]
        and layer.dilation_rate == (1, 1)
        and layer.data_format == "channels_last"
        and not layer.use_bias
    )


@cache
def _one_channel_a_group(on_cpu: bool) -> type:
    import keras
    import tensorflow as tf

    def call(self: Any, inputs: Any) -> Any:
        """(B, H, W, C) → (B, h, w, C), as ``Conv2D.call``."""
        kernel = tf.transpose(tf.convert_to_tensor(self.kernel), (0, 1, 3, 2))  # (k, k, C, 1)
        is_large = max(self.kernel_size) > 3 and (self.padding == "valid" or self.strides == (1, 1))
        if on_cpu and is_large and inputs.dtype == tf.float32:
            outputs = _convolve_large(self, inputs, kernel)
        else:
            strides = (1, *self.strides, 1)
            outputs = tf.nn.depthwise_conv2d(inputs, kernel, strides, self.padding.upper())
        return self.activation(outputs)

    return stand_in(keras.layers.Conv2D, call=call)


def _is_news(said: logging.LogRecord) -> bool:
    """Whether to print it. That functions are traced often is none: each network has its own."""
    return "triggered tf.function retracing" not in said.getMessage()


@contextmanager
def forgetting_traces() -> Iterator[None]:
    """What is traced inside can be given back: networks that train no more after it.

    TensorFlow registers the custom gradients of each trace, ours and its own, for ever, and with
    them the trace's whole graph. Of a TensorFlow that keeps them elsewhere nothing is given back.
    """
    from tensorflow.python.framework import ops

    registry = getattr(ops, "gradient_registry", None)
    registered: dict[str, Any] = getattr(registry, "_registry", {})
    before = set(registered)
    logger = logging.getLogger("tensorflow")
    logger.addFilter(_is_news)
    try:
        yield
    finally:
        logger.removeFilter(_is_news)
        for name in set(registered) - before:
            if name.startswith("CustomGradient-"):
                del registered[name]
'''


# ===== carcls/nets/hub.py =====================================================
MODULES["nets/hub.py"] = r'''"""KerasHub's networks: their configurations, and what their presets' files say of pixels.

The configurations are written out: a network can be built without its preset, and KerasHub itself
cannot read every preset that it wrote (EfficientNet's forget ``num_features``).
"""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from carcls.errors import ConfigError, InputError
from carcls.nets import transformers

VERSION = "0.26.0"  # as on Kaggle
CONVERTER = "image_converter.json"  # in a preset's folder: how its pixels were normalised
# KerasHub 0.26 has these names point to EfficientNet-B1's weights (keras-hub issue 3014).
MISLED = ("efficientnet_el", "efficientnet_em", "efficientnet_es")
GATED = ("DINOV3Backbone",)  # classes whose licence must be accepted on Kaggle first
# In a configuration, what does not change what a network predicts.
_ASIDE = ("dropout", "batch_norm_momentum")
# In a weights file, what is not of a network: of SigLIP the side of texts and the pooling.
ASIDE_IN_FILES = r"seed_generator|sig_lip_(text_encoder|head|multi_head_attention_pooling)/"
_SAME = {"silu": "swish"}  # one function, two names

Affine = tuple[list[float], list[float]]  # x × scale + offset per channel of raw pixels x


def check_installed(name: str) -> None:
    """Raise ConfigError where the package is missing that this network needs."""
    if importlib.util.find_spec("keras_hub") is None:
        raise _missing(name, "which is not installed")


def _missing(name: str, why: str) -> ConfigError:
    return ConfigError(
        f"backbone={name}: needs the package keras_hub, {why}: pip install --no-deps "
        f"keras-hub=={VERSION} (tensorflow-text, which it asks for, is not needed, and would bring "
        "a second TensorFlow)"
    )


def make(name: str, shape: tuple[int | None, ...]) -> Any:
    """(height, width, 3) → the network as its weight files know it, from its pixels to features."""
    check_installed(name)
    kind, config, _ = ROWS[name]
    import keras

    try:
        import keras_hub
    except ImportError as error:
        raise _missing(name, f"which cannot be imported ({error})") from None
    if "patch_size" in config:
        return transformers.make(keras_hub.models, kind, config)
    # EfficientNet alone calls it otherwise.
    size = "input_shape" if kind == "EfficientNetBackbone" else "image_shape"
    network = getattr(keras_hub.models, kind)(**config, **{size: shape})
    outputs = network.output
    if isinstance(outputs, dict):  # HGNetV2: stem, stage1 … stage4
        outputs = outputs[max(key for key in outputs if key.startswith("stage"))]
    return keras.Model(network.input, outputs, name=network.name)


@cache
def normalisation() -> type:
    """A layer of pixels × scale + offset, both among its weights.

    So they are in everything that is saved of a network, and a trained one needs no preset.
    """
    import keras

    class Normalise(keras.layers.Layer):
        """(B, H, W, 3) in 0..255 → the same shape, as the network wants it."""

        def build(self, shape: Any) -> None:
            self.scale, self.offset = (
                self.add_weight(shape=(3,), name=name, trainable=False, initializer=first)
                for name, first in (("scale", "ones"), ("offset", "zeros"))
            )

        def call(self, inputs: Any) -> Any:
            return inputs * self.scale + self.offset

        def load_own_variables(self, store: Any) -> None:
            if store.keys():  # KerasHub's files have none of it
                super().load_own_variables(store)

    return Normalise


def read_converter(file: Path) -> Affine:
    """Scale and offset of raw pixels from the file beside these weights. Raises InputError.

    The size in it is ignored: photos come at the sizes that the settings name.
    """
    path = file.with_name(CONVERTER)
    if not path.is_file():
        raise InputError(
            f"{file}: no {CONVERTER} beside it, so how its pixels were normalised is not known; "
            "attach the whole preset folder"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["config"]
        scale, offset = _three(config.get("scale"), 1.0), _three(config.get("offset"), 0.0)
        with np.errstate(all="ignore"):  # what comes of a variance of 0 is refused below
            if "mean" in config and "variance" in config:  # as older presets have it
                std = np.sqrt(_three(config["variance"], 1.0))
                scale, offset = scale / std, -_three(config["mean"], 0.0) / std
            elif "norm_mean" in config and "norm_std" in config:  # as DeiT's once had it
                mean, std = _three(config["norm_mean"], 0.0), _three(config["norm_std"], 1.0)
                scale, offset = scale / std, (offset - mean) / std
        if not (np.isfinite(scale).all() and np.isfinite(offset).all() and (scale > 0).all()):
            raise ValueError(f"scale {scale.tolist()} and offset {offset.tolist()}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: expected a config with scale and offset, or mean and variance, of one or "
            f"three numbers each; found {error}"
        ) from None
    return scale.tolist(), offset.tolist()


def _three(value: Any, default: float) -> np.ndarray:
    """One number, or three of them, as (3,); the default for None."""
    return np.broadcast_to(np.asarray(default if value is None else value, float), 3)


def check_config(path: Path, name: str, found: dict[str, Any]) -> None:
    """Raise InputError if a preset's configuration is not the one that this network is built from.

    What the preset does not say is not compared: KerasHub forgets some of it.
    """
    found = found.get("vision_encoder", {}).get("config", found)  # SigLIP's, beside one of texts
    for key, value in ROWS[name][1].items():
        theirs = found.get(key, value)
        if key not in _ASIDE and _plain(theirs) != _plain(value):
            raise InputError(f"{path}: {key} is {theirs}; backbone={name} has {value}")


def _plain(value: Any) -> Any:
    value = json.loads(json.dumps(value))  # tuples are lists in a file
    return _SAME.get(value, value) if isinstance(value, str) else value


# --- The table ------------------------------------------------------------------------------------


def _efficientnet(width: float, depth: list[float], **more: Any) -> dict[str, Any]:
    """As KerasHub converts timm's; depth: a factor for each stage; more: what differs from B0."""
    return {
        "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
        "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
        "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
        "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
        "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
        "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
        "stackwise_squeeze_and_excite_ratios": [0.25] * 7,
        "stackwise_block_types": ["v1"] * 7,
        "stackwise_width_coefficients": [width] * len(depth),
        "stackwise_depth_coefficients": depth,
        "min_depth": None,
        "include_stem_padding": True,
        "use_depth_divisor_as_min_depth": True,
        "cap_round_filter_decrease": True,
        "stem_conv_padding": "valid",
        "batch_norm_epsilon": 1e-5,
        "projection_activation": None,
        "dropout": 0,
        **more,
    }


_V2 = {
    "stackwise_kernel_sizes": [3] * 6,
    "stackwise_num_repeats": [2, 4, 4, 6, 9, 15],
    "stackwise_input_filters": [24, 24, 48, 64, 128, 160],
    "stackwise_output_filters": [24, 48, 64, 128, 160, 272],
    "stackwise_expansion_ratios": [1, 4, 4, 4, 6, 6],
    "stackwise_strides": [1, 2, 2, 2, 1, 2],
    "stackwise_squeeze_and_excite_ratios": [0, 0, 0, 0.25, 0.25, 0.25],
    "stackwise_block_types": ["fused"] * 3 + ["unfused"] * 3,
    "activation": "silu",
    "num_features": 1792,
}


def _hgnetv2(inner: int, width: int, first: int, blocks: list[int]) -> dict[str, Any]:
    """inner, width: channels of the stem; first: of the first stage; blocks of each stage."""
    outputs = [first, 512, 1024, 2048]
    inputs, inside = [width, *outputs], [width, 2 * width, 4 * width, 8 * width]
    stages = zip(inputs[:4], inside, outputs, blocks, [6] * 4, [3, 3, 5, 5], strict=True)
    return {
        "depths": blocks,
        "embedding_size": width,
        "hidden_sizes": outputs,
        "stem_channels": [3, inner, width],
        "hidden_act": "relu",
        "use_learnable_affine_block": False,
        # Of each stage: channels in, inside and out, blocks, layers of a block, kernel size.
        "stackwise_stage_filters": list(map(list, stages)),
        "apply_downsample": [False, True, True, True],
        "use_lightweight_conv_block": [False, False, True, True],
    }


# Of each stage: expansions, filters, kernel size, stride, squeeze and excitation, activation.
_MOBILE_LARGE: list[tuple[list[int], int, int, int, float | None, str]] = [
    ([64, 72], 24, 3, 2, None, "relu"),
    ([72, 120, 120], 40, 5, 2, 0.25, "relu"),
    ([240, 200, 184, 184], 80, 3, 2, None, "hard_swish"),
    ([480, 672], 112, 3, 1, 0.25, "hard_swish"),
    ([672, 960, 960], 160, 5, 2, 0.25, "hard_swish"),
]


def _mobilenet_v3(stages: list[Any], last: int) -> dict[str, Any]:
    counts = [len(stage[0]) for stage in stages]

    def each(column: int) -> list[list[Any]]:
        return [[stage[column]] * count for stage, count in zip(stages, counts, strict=True)]

    return {
        "stackwise_num_blocks": counts,
        "stackwise_expansion": [stage[0] for stage in stages],
        "stackwise_num_filters": each(1),
        "stackwise_kernel_size": each(2),
        "stackwise_num_strides": [[first, *[1] * len(rest)] for first, *rest in each(3)],
        "stackwise_se_ratio": each(4),
        "stackwise_activation": each(5),
        "stackwise_padding": [[size // 2 for size in sizes] for sizes in each(2)],
        "output_num_filters": 1024,
        "input_num_filters": 16,
        "depthwise_filters": 16,
        "depthwise_stride": 1,
        "depthwise_residual": True,
        "squeeze_and_excite": None,
        "last_layer_filter": last,
        "input_activation": "hard_swish",
        "output_activation": "hard_swish",
    }


def _vit(width: int, patch: Any, mlp: str = "intermediate_dim", **more: Any) -> dict[str, Any]:
    """Twelve blocks; mlp: what the family calls the width inside of their dense layers."""
    of_all = {"patch_size": patch, "num_layers": 12, "num_heads": width // 64, "hidden_dim": width}
    return {**of_all, mlp: 4 * width, **more}


_AT_384: dict[str, Any] = {"image_shape": [384, 384, 3]}
_DINO_V2: dict[str, Any] = {
    "image_shape": [518, 518, 3],
    "position_embedding_shape": [518, 518],
    "num_register_tokens": 0,
    "use_mask_token": True,
    "use_swiglu_ffn": False,
}
_DINO_V3: dict[str, Any] = {
    "num_register_tokens": 4,
    "use_mask_token": True,
    "hidden_activation": "gelu",
    "use_gated_mlp": False,
    "use_key_bias": False,
    "layer_norm_eps": 1e-5,
    "rope_theta": 100.0,
}
_CONFIGS: dict[str, dict[str, Any]] = {
    "efficientnet2_rw_s": _efficientnet(1.0, [1.0] * 6, **_V2),
    "efficientnet2_rw_m": _efficientnet(1.2, [1.2] * 4 + [1.6] * 2, **_V2),
    "efficientnet_b5_sw_ft": _efficientnet(1.6, [2.2] * 7),
    "hgnetv2_b4": _hgnetv2(32, 48, 128, [1, 1, 3, 1]),
    "hgnetv2_b5": _hgnetv2(32, 64, 128, [1, 2, 5, 2]),
    "hgnetv2_b6": _hgnetv2(48, 96, 192, [2, 3, 6, 3]),
    "densenet_121": {
        "stackwise_num_repeats": [6, 12, 24, 16],
        "compression_ratio": 0.5,
        "growth_rate": 32,
    },
    "xception_41": {
        "stackwise_conv_filters": [
            *([32, 64], [128] * 2, [256] * 2, [728] * 2, *[[728] * 3] * 8),
            *([728, 1024], [1536, 2048]),
        ],
        "stackwise_pooling": [False, *[True] * 3, *[False] * 8, True, False],
    },
    "resnet_vd_50": {
        "input_conv_filters": [32, 32, 64],
        "input_conv_kernel_sizes": [3, 3, 3],
        "stackwise_num_filters": [64, 128, 256, 512],
        "stackwise_num_blocks": [3, 4, 6, 3],
        "stackwise_num_strides": [1, 2, 2, 2],
        "block_type": "bottleneck_block_vd",
        "use_pre_activation": False,
    },
    "mobilenet_v3_large_21k": _mobilenet_v3(_MOBILE_LARGE, 960),
    "vit_base_384": _vit(768, [16, 16], "mlp_dim", layer_norm_epsilon=1e-6, **_AT_384),
    "deit_base_384": _vit(768, [16, 16], layer_norm_epsilon=1e-12, **_AT_384),
    "dinov2_small": _vit(384, 14, **_DINO_V2),
    "dinov2_base": _vit(768, 14, **_DINO_V2),
    "dinov3_small": _vit(384, 16, **_DINO_V3),
    "dinov3_base": _vit(768, 16, **_DINO_V3),
    "siglip_base_384": _vit(
        768, 16, intermediate_activation="gelu_approximate", layer_norm_epsilon=1e-6, **_AT_384
    ),
}
_TABLE = """
efficientnet2_rw_s EfficientNet efficientnet/efficientnet2_rw_s_ra2_imagenet/2
efficientnet2_rw_m EfficientNet efficientnet/efficientnet2_rw_m_agc_imagenet/2
efficientnet_b5_sw_ft EfficientNet efficientnet/efficientnet_b5_sw_ft_imagenet/2
hgnetv2_b4 HGNetV2 hgnetv2/hgnetv2_b4_ssld_stage2_ft_in1k/1
hgnetv2_b5 HGNetV2 hgnetv2/hgnetv2_b5_ssld_stage2_ft_in1k/1
hgnetv2_b6 HGNetV2 hgnetv2/hgnetv2_b6_ssld_stage2_ft_in1k/1
densenet_121 DenseNet densenet/densenet_121_imagenet/3
xception_41 Xception xception/xception_41_imagenet/2
resnet_vd_50 ResNet resnet_vd/resnet_vd_50_ssld_v2_imagenet/2
mobilenet_v3_large_21k MobileNet mobilenetv3/mobilenet_v3_large_100_imagenet_21k/1
vit_base_384 ViT vit/vit_base_patch16_384_imagenet/3
deit_base_384 DeiT deit/deit_base_distilled_patch16_384_imagenet/1
dinov2_small DINOV2 dinov2/dinov2_small/1
dinov2_base DINOV2 dinov2/dinov2_base/1
dinov3_small DINOV3 dinov3/dinov3_vit_small_lvd1689m/1
dinov3_base DINOV3 dinov3/dinov3_vit_base_lvd1689m/1
siglip_base_384 SigLIP siglip/siglip_base_patch16_384/1
"""
# Name → class, configuration, and Kaggle's model as model/variation/version.
ROWS: dict[str, tuple[str, dict[str, Any], str]] = {
    name: (f"{family}Backbone", _CONFIGS[name], handle)
    for name, family, handle in map(str.split, _TABLE.strip().splitlines())
}
'''


# ===== carcls/nets/measures.py ================================================
MODULES["nets/measures.py"] = r'''"""What a network is measured by after each epoch: metrics of Keras, on logits."""

from __future__ import annotations

from typing import Any

import keras

from carcls.metrics import Metric

STEP, BINS = 0.01, 4000  # of a difference of logits: −20 to 20


class OfClasses(keras.metrics.Metric):
    """Macro F1 or balanced accuracy of logits, from counts by class; sample weights are counts."""

    def __init__(self, metric: Metric, classes: int) -> None:
        super().__init__(name=metric)
        self.counts = self.add_variable((3, classes), "zeros", name="counts")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """y_true (B, classes) one-hot or mixed, y_pred logits of the same shape."""
        ops = keras.ops
        said = ops.one_hot(ops.argmax(y_pred, -1), y_pred.shape[-1], dtype="float32")
        true = ops.cast(y_true, "float32")
        found = ops.stack([true, said, true * said])  # (3, B, classes)
        if sample_weight is not None:
            found *= ops.reshape(ops.cast(sample_weight, "float32"), (1, -1, 1))
        self.counts.assign_add(ops.sum(found, 1))

    def result(self) -> Any:
        ops = keras.ops
        true, said, right = (self.counts[n] for n in range(3))
        part, whole = (2 * right, true + said) if self.name == "f1_macro" else (right, true)
        occurs = ops.cast(whole > 0, "float32")
        return ops.sum(part * occurs / ops.where(whole > 0, whole, 1)) / ops.sum(occurs)


class Auc(keras.metrics.Metric):
    """AUC of two classes' logits, by how often each difference of them comes; ties count half.

    Keras's AUC has thresholds of probability, which tell no two photos of a rare class apart.
    """

    def __init__(self) -> None:
        super().__init__(name="auc")
        self.counts = self.add_variable((2, BINS), "zeros", name="counts")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """y_true (B, 2) one-hot or mixed, y_pred (B, 2) logits."""
        ops = keras.ops
        apart = ops.cast(y_pred[:, 1], "float32") - ops.cast(y_pred[:, 0], "float32")
        bins = ops.clip(ops.floor(apart / STEP) + BINS // 2, 0, BINS - 1)
        found = ops.one_hot(ops.cast(bins, "int32"), BINS, dtype="float32")  # (B, BINS)
        true = ops.cast(y_true, "float32")
        if sample_weight is not None:
            true *= ops.reshape(ops.cast(sample_weight, "float32"), (-1, 1))
        self.counts.assign_add(ops.matmul(ops.transpose(true), found))

    def result(self) -> Any:
        ops = keras.ops
        others, ones = self.counts[0], self.counts[1]
        below = ops.cumsum(others) - others / 2
        return ops.sum(ones * below) / (ops.sum(ones) * ops.sum(others))


def of(metric: Metric, classes: int) -> list[keras.metrics.Metric]:
    """Accuracy, and the metric that decides if it is another one, by its name."""
    found: list[keras.metrics.Metric] = [keras.metrics.CategoricalAccuracy(name="accuracy")]
    if metric == "log_loss":  # the loss itself is of smoothed labels
        found.append(keras.metrics.CategoricalCrossentropy(name=metric, from_logits=True))
    elif metric == "auc":
        found.append(Auc())
    elif metric != "accuracy":
        found.append(OfClasses(metric, classes))
    return found
'''


# ===== carcls/nets/model.py ===================================================
MODULES["nets/model.py"] = r'''"""The network: backbone and head, what of it trains and at which rate, and its state."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import keras
import numpy as np

from carcls.config import Config
from carcls.machine import HEAD, Machine
from carcls.metrics import Metric
from carcls.nets import fast, measures, registry, schedule, weights

Moments = tuple[np.ndarray, np.ndarray, int]  # mean (C,), variance (C,), number of photos


def build(cfg: Config, machine: Machine, classes: int, steps: int) -> tuple[keras.Model, str]:
    """A model from pixels (B, H, W, 3) in 0..255 to logits (B, classes), and what it starts from.

    H and W may be any; ``steps`` are those of a whole epoch. Raises InputError as load_weights.
    """
    backbone = registry.build(cfg.backbone)
    loaded = weights.load_weights(backbone, cfg.backbone, cfg)
    images = keras.Input((None, None, 3), name="images")  # (B, H, W, 3) 0..255
    features = backbone(images)  # (B, h, w, C)
    model = keras.Model(images, _head(cfg, features, classes), name=cfg.backbone)
    for layer in batch_norms(model):
        layer.momentum = _momentum(cfg, steps)
    if machine.fast_layers:
        fused, all_of_them = fast.fuse_batch_norm(model), len(batch_norms(model))
        if all_of_them:  # transformers have none
            loaded += f"; batch norm fused in {fused} of {all_of_them} layers"
        fast.split_groups(model, machine.kind == "cpu")
        if machine.kind == "cpu":
            fast.speed_up_depthwise(model)
    model.jit_compile = machine.xla  # for predictions without ``compile``, where Keras would choose
    return model, loaded


def _head(cfg: Config, x: Any, classes: int) -> Any:
    """Features (B, h, w, C) → logits (B, classes)."""
    layers = keras.layers
    pools = {"avg": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D}
    x = pools[cfg.pooling](name="pool")(x)  # (B, C)
    if cfg.hidden:
        x = layers.Dense(cfg.hidden, use_bias=False, name="hidden")(x)
        x = layers.BatchNormalization(name="hidden_bn")(x)
        x = layers.Activation("relu", name="hidden_relu")(x)
    x = layers.Dropout(cfg.dropout, name="dropout")(x)
    return layers.Dense(classes, dtype="float32", name=HEAD)(x)


def _momentum(cfg: Config, steps: int) -> float:
    """Momentum by which BN's moving statistics remember a third of an epoch, 10 to 33 steps.

    With more, validation lags behind what is learned; with few, it is noisy (MEASUREMENTS: BN
    momentum). Averaged weights need statistics over as many steps as they have themselves.
    """
    return max(float(np.clip(1 - 3 / steps, 0.9, 0.97)), cfg.ema)


def batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """All that compute something, also inside keras-cv's blocks, which no public list reaches.

    Some blocks of EfficientNetV2 have one that they never call; it has no variables.
    """
    kind = keras.layers.BatchNormalization
    return [layer for layer in model._flatten_layers() if isinstance(layer, kind) and layer.built]


def _backbone(model: keras.Model) -> keras.Model:
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


def _innermost(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers with weights of their own or none inside, from input to output.

    Depth is counted over these: of HGNetV2 two layers hold all others, and a transformer's first
    layer has tokens and positions beside its convolution.
    """
    inside = layer.layers if isinstance(layer, keras.Model) else layer._layers
    itself = [] if inside and not layer._trainable_variables else [layer]
    return itself + [leaf for part in inside for leaf in _innermost(part)]


# --- What trains ----------------------------------------------------------------------------------


def open_layers(cfg: Config, model: keras.Model, stage: int) -> None:
    """Set what trains in that stage: all, the head, or (staged) ever more of the backbone.

    Staged begins with the head alone; each further stage opens an equal share of the backbone's
    layers, from the head down.
    """
    backbone = _backbone(model)
    layers = _innermost(backbone)
    share = {"all": 1.0, "head": 0.0, "staged": stage / max(1, len(cfg.stages) - 1)}[cfg.unfreeze]
    backbone.trainable = True
    first = round(len(layers) * (1 - share))
    for i, layer in enumerate(layers):
        layer.trainable = i >= first
    if cfg.freeze_bn:
        # On each layer: under fit, Keras 3.13 ignores `training=False` on a trainable backbone.
        for layer in batch_norms(backbone):
            layer.trainable = False


# --- Statistics of the photos ---------------------------------------------------------------------


def rebase_batch_norms(model: keras.Model, batches: Iterable[Any]) -> int:
    """Give the backbone's BN layers these photos' statistics, and a scale and shift that undo it.

    batches: images (B, H, W, 3) in 0..255. Returns how many layers it changed; one without scale or
    shift stays, and for a network without BN no batch is asked for. Predictions stay the same;
    training, where BN uses each batch's statistics, begins with the features of the weights, not
    spoiled ones (MEASUREMENTS: BN's first statistics).
    """
    backbone = _backbone(model)
    layers = [layer for layer in batch_norms(backbone) if layer.scale and layer.center]
    if not layers:
        return 0
    seen: list[list[Moments]] = [[] for _ in layers]  # of each layer, by batch
    try:
        for layer, moments in zip(layers, seen, strict=True):
            # Not through Keras's own __setattr__, which tracks whatever it is given.
            object.__setattr__(layer, "call", partial(_call_and_note, layer, moments))
        for images in batches:
            backbone(images, training=False)
    finally:
        for layer in layers:
            layer.__dict__.pop("call", None)
    assert all(seen), "no batches, or a BN that the backbone does not call"
    for layer, moments in zip(layers, seen, strict=True):
        _rebase(layer, moments)
    return len(layers)


def _call_and_note(
    layer: Any, seen: list[Moments], inputs: Any, training: bool | None = None, mask: Any = None
) -> Any:
    """The layer's own ``call``, after noting the moments of what it is given."""
    x = keras.ops.cast(inputs, "float32")
    axes = [axis for axis in range(len(x.shape)) if axis != layer.axis % len(x.shape)]
    mean, variance = map(_float64, keras.ops.moments(x, axes))
    seen.append((mean, variance, x.shape[0]))
    return type(layer).call(layer, inputs, training=False, mask=mask)


def _rebase(layer: Any, moments: list[Moments]) -> None:
    """New statistics for one layer, and the scale and shift by which it computes what it did."""
    means, variances, counts = (np.array(column) for column in zip(*moments, strict=True))
    mean = np.average(means, 0, counts)
    variance = np.average(variances + (means - mean) ** 2, 0, counts)
    variables = (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
    gamma, beta, old_mean, old_variance = map(_float64, variables)
    old, new = (np.sqrt(v + layer.epsilon) for v in (old_variance, variance))
    values = (gamma * new / old, beta + gamma * (mean - old_mean) / old, mean, variance)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value.astype(np.float32))


def _float64(tensor: Any) -> np.ndarray:
    return numbers(tensor).astype(float)


def numbers(tensor: Any) -> np.ndarray:
    """A copy of a tensor's or variable's values, which on the CPU may lend their memory.

    np.array alone and keras.ops.convert_to_numpy warn under numpy 2.1.
    """
    return np.array(np.asarray(tensor))


# --- Loss and learning rate -----------------------------------------------------------------------


class Rate(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of every step: the schedule's curve at the progress that it follows.

    What it follows is a variable of the optimiser, so that it may change without a new compilation.
    """

    def __init__(self, cfg: Config):
        self.peak, self.curve = cfg.lr, schedule.curve(cfg)  # (GRID + 1,)
        self.followed: Any = None  # float32 (3,): a step, the progress there, progress per step

    def follow(self, step: int, progress: float, per_step: float) -> None:
        """From now on: ``step`` begins at ``progress``, a step takes ``per_step`` of the run."""
        self.followed.assign([step, progress, per_step])

    def __call__(self, step: Any) -> Any:
        ops = keras.ops
        # In the middle of the step, so that the first rate is not 0 and cosine's last is nearly 0.
        since = ops.cast(step, "float32") - self.followed[0] + 0.5
        progress = self.followed[1] + since * self.followed[2]
        at = ops.clip(progress, 0.0, 1.0) * schedule.GRID
        low = ops.minimum(ops.floor(at), schedule.GRID - 1)
        i, rest = ops.cast(low, "int32"), at - low
        curve = ops.convert_to_tensor(self.curve)
        return self.peak * (ops.take(curve, i) * (1 - rest) + ops.take(curve, i + 1) * rest)

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak}


def compile_model(
    cfg: Config, model: keras.Model, machine: Machine, metric: Metric = "accuracy"
) -> Rate | None:
    """Loss on logits with label smoothing, metrics, and the optimiser with all its variables.

    Returns the Rate; None with plateau: ReduceLROnPlateau sets the rate, which Keras refuses where
    there is a schedule.
    """
    rate = None if cfg.schedule == "plateau" else Rate(cfg)
    optimizer = _optimizer(cfg, model, rate or cfg.lr)
    if rate:
        rate.followed = optimizer.add_variable((3,), name="course")
    loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=cfg.label_smoothing
    )
    found = measures.of(metric, model.output_shape[-1])
    model.compile(optimizer, loss, weighted_metrics=found, jit_compile=machine.xla)
    model.optimizer.build(model.trainable_variables)
    return rate


def _optimizer(cfg: Config, model: keras.Model, rate: Rate | float) -> keras.optimizers.Optimizer:
    """The optimiser by name, with a rate by depth if depth_decay is not 1."""
    kinds = keras.optimizers
    known = (kinds.Adam, kinds.AdamW, kinds.SGD, kinds.Adamax, kinds.Lion, kinds.RMSprop)
    kind: Any = {kind.__name__.lower(): kind for kind in known}[cfg.optimizer]
    options: dict[str, Any] = {"momentum": 0.9, "nesterov": True} if cfg.optimizer == "sgd" else {}
    if cfg.weight_decay is not None:
        options["weight_decay"] = cfg.weight_decay
    if cfg.ema:
        options |= {"use_ema": True, "ema_momentum": cfg.ema}
    if cfg.depth_decay != 1:
        kind = _by_depth(kind, depth_factors(cfg, model))
    return kind(rate, **options)


def _by_depth(kind: Any, factors: list[float]) -> Any:
    class ByDepth(kind):
        """The rate of each variable is the schedule's times its factor."""

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            factor = factors[self._get_variable_index(variable)]
            super().update_step(gradient, variable, learning_rate * factor)

    return ByDepth


def depth_factors(cfg: Config, model: keras.Model) -> list[float]:
    """Of each trainable variable depth_decay ** (quarters of the backbone from it to the head)."""
    layers = [layer for layer in _innermost(_backbone(model)) if layer.trainable_variables]
    quarter = {
        id(w): 4 - 4 * i // len(layers)
        for i, layer in enumerate(layers)
        for w in layer.trainable_variables
    }
    return [cfg.depth_decay ** quarter.get(id(w), 0) for w in model.trainable_variables]


# --- State ----------------------------------------------------------------------------------------


def state(model: keras.Model, optimizer: bool = True) -> list[np.ndarray]:
    """Every number that training goes on from: weights, BN, dropout's generators, optimiser.

    Without ``optimizer``, what a prediction can touch. Keras's own weights files would lose the
    generators (3.13.2 writes them and does not read them).
    """
    variables, loss_scale = _variables(model, optimizer)
    return [numbers(variable) for variable in [*variables, *loss_scale]]


def restore(model: keras.Model, arrays: list[np.ndarray]) -> None:
    """Put a state back, also one of another precision, and after a step that failed half done.

    Raises ValueError if it is another network's.
    """
    variables, loss_scale = _variables(model, optimizer=len(arrays) != len(model.variables))
    if len(arrays) == len(variables) + len(loss_scale):
        variables += loss_scale
    for variable, array in zip(variables, arrays[: len(variables)], strict=True):
        variable.assign(array)


def _variables(model: keras.Model, optimizer: bool) -> tuple[list[Any], list[Any]]:
    """Those that every precision has, and of mixed_float16 those that scale the loss."""
    if not optimizer:
        return list(model.variables), []
    outer: Any = model.optimizer
    inner = getattr(outer, "inner_optimizer", outer)
    within = {id(variable) for variable in inner.variables}
    loss_scale = [variable for variable in outer.variables if id(variable) not in within]
    return [*model.variables, *inner.variables], loss_scale


class EqualReplicas(keras.callbacks.Callback):
    """Gives every replica of a MirroredStrategy the mean of all replicas' BN statistics.

    In Keras 3.13 each replica moves its own: validation would use several networks, a file hold
    the first one. Moving averages are linear, so once before each validation is enough.
    """

    def __init__(self, strategy: Any):
        super().__init__()
        self.strategy = strategy

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if "val_accuracy" not in (logs or {}):  # else done before validation
            self.on_test_begin()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        for layer in batch_norms(self.model):
            for variable in (layer.moving_mean, layer.moving_variance):
                copies = self.strategy.experimental_local_results(variable.value)
                variable.assign(np.mean([np.asarray(copy) for copy in copies], 0))
'''


# ===== carcls/nets/registry.py ================================================
MODULES["nets/registry.py"] = r'''"""The networks: a table of them, each with the normalisation that its ImageNet weights expect.

A new network is a new row at the end of this file, or of hub.py. keras-cv's presets would fetch
their configurations from the internet, so these are written out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from carcls.errors import ConfigError
from carcls.nets import fast, hub
from carcls.values import Stage

Shape = tuple[int | None, int | None, int]  # height, width, channels

# ImageNet's mean and standard deviation, RGB in 0..1, as torchvision and Keras have them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# What comes before a network: x × scale + offset per channel, of raw pixels x in 0..255.
# "own": nothing, the network's own first layers normalise.
_NORMALISE: dict[str, tuple[tuple[float, ...], tuple[float, ...]] | None] = {
    "own": None,
    "(x - 127) / 128": ((1 / 128,) * 3, (-127 / 128,) * 3),
    "x / 127.5 - 1": ((1 / 127.5,) * 3, (-1.0,) * 3),
    "(x / 255 - mean) / std": (
        tuple(1 / (255 * s) for s in STD),
        tuple(-m / s for m, s in zip(MEAN, STD, strict=True)),
    ),
    # keras.applications.EfficientNet computes (x / 255 - mean) / sqrt(std), as its files hold std
    # where a variance belongs (tensorflow issue 49930). This gives it x' with
    # (x' / 255 - mean) / sqrt(std) = (x / 255 - mean) / std.
    "(x / 255 - mean) / std, half of it inside": (
        tuple(1 / math.sqrt(s) for s in STD),
        tuple(255 * m * (1 - 1 / math.sqrt(s)) for m, s in zip(MEAN, STD, strict=True)),
    ),
}


@dataclass(frozen=True)
class Backbone:
    """A network that photos can be classified with, without its own classifier."""

    name: str
    library: str  # keras_cv, keras_hub, or keras for keras.applications: the form of its weights
    make: Callable[[Shape], Any]  # (height, width, 3) → the network as its weight files know it
    normalise: str = "own"  # a key of _NORMALISE
    preset: str | None = None  # its weights: a file's name (keras) or a folder's (the others)
    source: str = ""  # how to get them where there is internet, or why there are none
    # The model on Kaggle that has its weights: owner/model/framework/variation/version.
    model: str | None = None
    kind: str = ""  # the network's class, which a preset folder's config.json names
    patch: int = 1  # px: height and width of its photos are multiples of this
    is_gated: bool = False  # its licence must be accepted on Kaggle first


def find(name: str) -> Backbone:
    """The network of that name. Raises ConfigError if there is none."""
    if name.startswith(hub.MISLED):
        raise ConfigError(
            f"backbone={name}: KerasHub {hub.VERSION} has another network's weights under this "
            "name; expected another, such as efficientnet2_rw_s"
        )
    if name not in REGISTRY:
        names = ", ".join(REGISTRY)
        raise ConfigError(f"backbone={name!r}: no such network; expected one of {names}")
    return REGISTRY[name]


def check(name: str, stages: Iterable[Stage]) -> None:
    """Raise ConfigError if there is no such network, its package is missing, or a size is wrong."""
    backbone = find(name)
    if backbone.library == "keras_hub":
        hub.check_installed(name)
    for stage in stages:
        check_size(name, stage.size, f"stages={stage}")


def check_size(name: str, size: tuple[int, int], named: str) -> None:
    """Raise ConfigError if the network takes no photos of that height and width, in px.

    named: the setting that has the size, and its value.
    """
    patch = find(name).patch
    if any(side % patch for side in size):
        height, width = (_nearest(side, patch) for side in size)
        raise ConfigError(
            f"{named}: backbone={name} takes heights and widths in multiples of {patch} px; "
            f"nearest: height {height}, width {width}"
        )


def _nearest(side: int, patch: int) -> str:
    """The multiples around it, or itself."""
    below = side // patch * patch
    return f"{side}" if below == side else f"{below} or {below + patch}"


def build(name: str) -> Any:
    """A keras.Model from pixels (B, H, W, 3) in 0..255 to features (B, h, w, C), random weights.

    H and W may be any, of a transformer multiples of its patch; of sides that are no multiples of
    32 px DenseNet, ConvNeXt and Xception ignore the rest at the right and the bottom. Its layers
    are the network's own, after at most one that normalises. Raises ConfigError on a wrong name or
    a missing package.
    """
    import keras

    backbone = find(name)
    network = backbone.make((None, None, 3))
    kind = keras.layers.ZeroPadding2D
    paddings = [layer for layer in network.layers if type(layer) is kind]
    uneven = [layer for layer in paddings if any(a != b for a, b in layer.padding)]
    fast.replace(uneven, _padding_of_any_size())
    affine = _NORMALISE[backbone.normalise]
    if affine is None:
        return network
    images = keras.Input((None, None, 3), name="images")
    scale, offset = (list(values) for values in affine)
    # float32 even in mixed precision: float16 would cost the last bits of a normalised pixel.
    if backbone.library == "keras_hub":  # as ImageNet's until a preset is loaded, which says it
        layer = hub.normalisation()(name="normalise", dtype="float32")
        pixels = layer(images)
        layer.set_weights([np.array(scale), np.array(offset)])
    else:
        pixels = keras.layers.Rescaling(scale, offset, name="normalise", dtype="float32")(images)
    # .call, not __call__: the network's layers become this model's own, not hidden in one layer.
    return keras.Model(images, network.call(pixels), name=name)


def normalisations(network: Any) -> list[Any]:
    """Layers that normalise by weights, mean and variance: in EfficientNet B0–B7 alone."""
    import keras

    kind = keras.layers.Normalization
    return [layer for layer in network.layers if isinstance(layer, kind) and layer.weights]


@cache
def _padding_of_any_size() -> type:
    """A padding before a halving that fits odd sides as well as even ones.

    EfficientNet and MobileNetV3 settle their padding when they are built; without a size they
    assume even sides, and drop the last of 7 rows. Their weights were trained with TensorFlow's
    "same", which makes 4 of 7. (A model saved whole comes back with the library's own padding.)
    """
    import keras

    plain = keras.layers.ZeroPadding2D

    def call(self: Any, inputs: Any) -> Any:
        """(B, H, W, C) → (B, h, w, C), as ``ZeroPadding2D.call`` where H and W are even."""
        height, width = keras.ops.shape(inputs)[1:3]
        (top, bottom), (left, right) = self.padding
        around = ((0, 0), (top + height % 2, bottom), (left + width % 2, right), (0, 0))
        return keras.ops.pad(inputs, around)

    def compute_output_shape(self: Any, shape: Any) -> Any:
        even = [side and side + side % 2 for side in shape[1:3]]
        return plain.compute_output_shape(self, (shape[0], *even, shape[3]))

    return fast.stand_in(plain, call=call, compute_output_shape=compute_output_shape)


# --- How a row becomes a network ----------------------------------------------------------------


def _keras_cv(name: str, kind: str, config: dict[str, Any], model: str = "") -> Backbone:
    """A network of keras-cv; ``model`` is the one on Kaggle that has its weights, if any has."""
    preset = f"{name}_imagenet"
    normalise = "own" if config["include_rescaling"] else "(x - 127) / 128"
    make = partial(_make_keras_cv, kind, config)
    handle = f"keras/{model}/keras/{preset}/2" if model else None
    source = "" if model else f"`carcls weights {name}` makes it"
    return Backbone(name, "keras_cv", make, normalise, preset, source, handle, kind)


def _keras(name: str, kind: str, file: str, normalise: str = "own") -> Backbone:
    """A network of keras.applications, whose weights are a file that Keras downloads."""
    source = f"`keras.applications.{kind}(include_top=False)` fetches it where there is internet"
    make = partial(_make_keras, kind)
    return Backbone(name, "keras", make, normalise, file, source, kind=kind)


def _keras_hub(name: str) -> Backbone:
    """A network of KerasHub, whose weights are a model on Kaggle."""
    kind, config, handle = hub.ROWS[name]
    model, preset, version = handle.split("/")
    return Backbone(
        name,
        "keras_hub",
        partial(hub.make, name),
        "(x / 255 - mean) / std",
        preset,
        "",
        f"keras/{model}/keras/{preset}/{version}",
        kind,
        int(np.max(config.get("patch_size", 1))),
        kind in hub.GATED,
    )


def _make_keras_cv(kind: str, config: dict[str, Any], shape: Shape) -> Any:
    import keras_cv

    return getattr(keras_cv.models, kind)(input_shape=shape, **config)


def _make_keras(kind: str, shape: Shape) -> Any:
    import keras

    make = getattr(keras.applications, kind)
    network = make(weights=None, include_top=False, pooling=None, input_shape=shape)
    for layer in normalisations(network):  # as the official files have them, see _NORMALISE
        layer.set_weights([np.array(MEAN, "float32"), np.array(STD, "float32"), np.int32(0)])
        layer.finalize_state()
    return network


# --- Configurations of keras-cv's presets ---------------------------------------------------------
# include_rescaling is x / 255, on which keras-cv trained its own weights.

_V2_B: dict[str, Any] = {
    "include_rescaling": True,
    "stackwise_kernel_sizes": [3] * 6,
    "stackwise_num_repeats": [1, 2, 2, 3, 5, 8],
    "stackwise_input_filters": [32, 16, 32, 48, 96, 112],
    "stackwise_output_filters": [16, 32, 48, 96, 112, 192],
    "stackwise_expansion_ratios": [1, 4, 4, 4, 6, 6],
    "stackwise_squeeze_and_excite_ratios": [0, 0, 0, 0.25, 0.25, 0.25],
    "stackwise_strides": [1, 2, 2, 2, 1, 2],
    "stackwise_conv_types": ["fused"] * 3 + ["unfused"] * 3,
}
_V2_S = {
    **_V2_B,
    "stackwise_num_repeats": [2, 4, 4, 6, 9, 15],
    "stackwise_input_filters": [24, 24, 48, 64, 128, 160],
    "stackwise_output_filters": [24, 48, 64, 128, 160, 256],
}
_LITE_B = {
    "include_rescaling": False,
    "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
    "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
    "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
    "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
    "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
}
_MOBILE_SMALL = {
    "include_rescaling": True,
    "stackwise_expansion": [1, 72 / 16, 88 / 24, 4, 6, 6, 3, 3, 6, 6, 6],
    "stackwise_filters": [16, 24, 24, 40, 40, 40, 48, 48, 96, 96, 96],
    "stackwise_kernel_size": [3] * 3 + [5] * 8,
    "stackwise_stride": [2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1],
    "stackwise_se_ratio": [0.25, None, None] + [0.25] * 8,
    "stackwise_activation": ["relu"] * 3 + ["hard_swish"] * 8,
}
_MOBILE_LARGE = {
    "include_rescaling": True,
    "stackwise_expansion": [1, 4, 3, 3, 3, 3, 6, 2.5, 2.3, 2.3, 6, 6, 6, 6, 6],
    "stackwise_filters": [16, 24, 24, 40, 40, 40, 80, 80, 80, 80, 112, 112, 160, 160, 160],
    "stackwise_kernel_size": [3] * 3 + [5] * 3 + [3] * 6 + [5] * 3,
    "stackwise_stride": [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1],
    "stackwise_se_ratio": [None] * 3 + [0.25] * 3 + [None] * 4 + [0.25] * 5,
    "stackwise_activation": ["relu"] * 6 + ["hard_swish"] * 9,
}
_RESNET = {
    "include_rescaling": True,
    "stackwise_filters": [64, 128, 256, 512],
    "stackwise_blocks": [3, 4, 6, 3],
    "stackwise_strides": [1, 2, 2, 2],
}
_DENSENET = {"include_rescaling": True, "stackwise_num_repeats": [6, 12, 24, 16]}


def _scale(width: float, depth: float) -> dict[str, float]:
    return {"width_coefficient": width, "depth_coefficient": depth}


# --- The table ------------------------------------------------------------------------------------

_V2, _LITE, _MOBILE = "EfficientNetV2Backbone", "EfficientNetLiteBackbone", "MobileNetV3Backbone"
_HALF = "(x / 255 - mean) / std, half of it inside"
_OLD = "weights_tf_dim_ordering_tf_kernels_notop.h5"
_ROWS = (
    _keras_cv("efficientnetv2_s", _V2, _V2_S | _scale(1.0, 1.0), "efficientnetv2"),
    _keras_cv("efficientnetv2_b0", _V2, _V2_B | _scale(1.0, 1.0), "efficientnetv2"),
    _keras_cv("efficientnetv2_b1", _V2, _V2_B | _scale(1.0, 1.1), "efficientnetv2"),
    _keras_cv("efficientnetv2_b2", _V2, _V2_B | _scale(1.1, 1.2), "efficientnetv2"),
    replace(
        _keras_cv("efficientnetv2_b3", _V2, _V2_B | _scale(1.2, 1.4)),
        preset=None,
        source="keras-cv has none; keras_efficientnetv2_b3 is the same network with weights",
    ),
    _keras_cv("efficientnet_lite_b0", _LITE, _LITE_B | _scale(1.0, 1.0)),
    _keras_cv("efficientnet_lite_b1", _LITE, _LITE_B | _scale(1.0, 1.1)),
    _keras_cv("efficientnet_lite_b2", _LITE, _LITE_B | _scale(1.1, 1.2)),
    _keras_cv("resnet50_v2", "ResNetV2Backbone", _RESNET, "resnetv2"),
    _keras_cv("densenet121", "DenseNetBackbone", _DENSENET, "densenet"),
    _keras_cv("mobilenet_v3_small", _MOBILE, _MOBILE_SMALL, "mobilenetv3"),
    _keras_cv("mobilenet_v3_large", _MOBILE, _MOBILE_LARGE, "mobilenetv3"),
    *(
        _keras(f"keras_efficientnet_b{n}", f"EfficientNetB{n}", f"efficientnetb{n}_notop.h5", _HALF)
        for n in range(8)
    ),
    _keras("keras_xception", "Xception", f"xception_{_OLD}", "x / 127.5 - 1"),
    _keras("keras_resnet50_v2", "ResNet50V2", f"resnet50v2_{_OLD}", "x / 127.5 - 1"),
    _keras("keras_densenet121", "DenseNet121", f"densenet121_{_OLD}", "(x / 255 - mean) / std"),
    _keras("keras_convnext_tiny", "ConvNeXtTiny", "convnext_tiny_notop.h5"),
    _keras("keras_convnext_small", "ConvNeXtSmall", "convnext_small_notop.h5"),
    _keras("keras_efficientnetv2_s", "EfficientNetV2S", "efficientnetv2-s_notop.h5"),
    *(
        _keras(f"keras_efficientnetv2_b{n}", f"EfficientNetV2B{n}", f"efficientnetv2-b{n}_notop.h5")
        for n in range(4)
    ),
    *map(_keras_hub, hub.ROWS),
)
REGISTRY: dict[str, Backbone] = {row.name: row for row in _ROWS}
'''


# ===== carcls/nets/schedule.py ================================================
MODULES["nets/schedule.py"] = r'''"""Learning rate and augmentation strength as pure functions of progress, 0..1 over the run."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from carcls.config import Config
from carcls.nets import registry

# Share of the peak rate after a share of what follows the warm-up. "exponential" leaves a hundredth
# at the end of the run, however long it is: 0.95 an epoch would leave 0.6 after ten epochs.
CURVES: dict[str, Callable[[float], float]] = {
    "cosine": lambda share: (1 + math.cos(math.pi * share)) / 2,
    "piecewise": lambda share: 1.0 if share < 0.60 else 0.1 if share < 0.85 else 0.01,
    "exponential": lambda share: math.pow(0.01, share),
    "constant": lambda share: 1.0,
}
GRID = 1024  # steps of the curve that the optimiser looks up; a warm-up of 10 % has 102 of them


def factor(name: str, progress: float, warmup: float = 0.0) -> float:
    """Share of the peak learning rate, 0..1: a line from 0 in the warm-up, then the named curve.

    ``warmup`` is a share of the run. "plateau" is 1 throughout, without warm-up: a callback lowers
    the rate as validation asks.
    """
    assert 0 <= progress <= 1, progress
    if name == "plateau":
        return 1.0
    if progress < warmup:
        return progress / warmup
    return CURVES[name](min(1.0, (progress - warmup) / (1 - warmup)))


def curve(cfg: Config) -> np.ndarray:
    """Share of the peak learning rate at progress 0, 1/GRID, … 1: float32 (GRID + 1,)."""
    shares = [factor(cfg.schedule, i / GRID, cfg.warmup) for i in range(GRID + 1)]
    return np.array(shares, np.float32)


def rate_at(cfg: Config, progress: float) -> float:
    """The learning rate at that progress, as the optimiser looks it up, for logs."""
    return cfg.lr * float(np.interp(progress * GRID, np.arange(GRID + 1), curve(cfg)))


def strength(cfg: Config, progress: float) -> float:
    """Augmentation strength, 0..1: a line from its start to its end in the last epoch."""
    assert 0 <= progress <= 1, progress
    return cfg.strength.start + (cfg.strength.end - cfg.strength.start) * progress


def doubt(cfg: Config) -> str:
    """What is unusual in a pretrained transformer's learning rate, as a line; "": nothing."""
    if (
        registry.find(cfg.backbone).patch == 1
        or cfg.weights == "none"
        or cfg.unfreeze == "head"
        or not cfg.optimizer.startswith("adam")
        or cfg.lr <= 2e-4
    ):
        return ""
    return (
        f"lr={cfg.lr:g} for backbone={cfg.backbone}: pretrained transformers are usually trained "
        f"at lr=1e-4 or less with {cfg.optimizer}, and with depth_decay=0.7; not measured here"
    )
'''


# ===== carcls/nets/transformers.py ============================================
MODULES["nets/transformers.py"] = r'''"""KerasHub's vision transformers at any size of photos, all sizes with one set of weights.

KerasHub builds most of them for one square. Here the position embedding keeps its preset's grid and
is resized to the photos' grid at every call, so that nothing is built anew between two stages: a
step of one size and a step of the next train the same numbers.
"""

from __future__ import annotations

from functools import cache
from math import isqrt
from operator import attrgetter
from typing import Any

from carcls.nets import fast

# Of each family's first layer: where it has its convolution to patches, its position embedding if
# there is one, and the tokens that it puts before the patches.
_FIRST = {
    "ViTPatchingAndEmbedding": ("patch_embedding", "position_embedding.embeddings", "class_token"),
    "DeiTEmbeddings": ("patch_embedding", "position_embedding", "class_token distillation_token"),
    "DINOV2Embedding": (
        *("patch_embeddings.projection", "interpolated_position_embeddings", "cls_token"),
    ),
    "DINOV3Embedding": ("patch_embeddings.projection", "", "cls_token register_tokens"),
    "SigLIPVisionEmbedding": ("patch_embedding", "position_embedding.embeddings", ""),
}
# Which tokens are the features that the head pools: those that pretraining has taught to say what
# is seen. Of ViT and DeiT the class tokens: their loss never saw the last block's patches. Of the
# others the patches: DINO's loss is over them too, and SigLIP's own head pools them.
_FEATURES = {"ViTBackbone": slice(1), "DeiTBackbone": slice(2)}


def make(models: Any, kind: str, config: dict[str, Any]) -> Any:
    """A network from pixels (B, H, W, 3), multiples of its patch, to features (B, 1, tokens, C).

    models: of keras_hub. Of SigLIP it is the vision encoder, without its own pooling.
    """
    import keras

    if kind == "SigLIPBackbone":
        network = models.SigLIPVisionEncoder(**config)
        tokens = network.post_layer_norm.output
    else:
        network = getattr(models, kind)(**config)
        tokens = network.output
    for layer in network.layers:
        plain: Any = type(layer)
        if plain.__name__ in _FIRST:
            fast.replace([layer], _first_layer(plain))
        elif plain.__name__ == "DINOV3RopePositionEmbedding":
            fast.replace([layer], _rotations(plain))
    images = keras.Input((None, None, 3), name="images")
    x = keras.Model(network.inputs[0], tokens).call(images)  # (B, tokens, C)
    if kind == "SigLIPBackbone":  # one layer of that class, as the whole has it in its files
        x = type("SigLIPVisionEncoder", (keras.Model,), {})(images, x)(images)
    before = 1 + config.get("num_register_tokens", 0) if kind.startswith("DINO") else 0
    features = x[:, _FEATURES.get(kind, slice(before, None))]
    return keras.Model(images, keras.ops.expand_dims(features, 1), name=network.name)


@cache
def _first_layer(plain: type) -> type:
    """From pixels to tokens, with positions for the photos' grid."""
    import keras

    ops, base = keras.ops, keras.layers.Layer
    convolution, positions, names = _FIRST[plain.__name__]

    def call(self: Any, inputs: Any, training: bool | None = None) -> Any:
        """(B, H, W, 3) → (B, tokens, C)."""
        patches = attrgetter(convolution)(self)(inputs)  # (B, h, w, C)
        batch, height, width, channels = ops.shape(patches)
        before = [getattr(self, name) for name in names.split()]  # each (1, n, C)
        before = [ops.broadcast_to(token, (batch, *token.shape[1:])) for token in before]
        x = ops.concatenate([*before, ops.reshape(patches, (batch, -1, channels))], 1)
        if positions:
            x += ops.cast(resize(attrgetter(positions)(self), height, width), x.dtype)
        if hasattr(self, "mask_token"):  # else TensorFlow warns that it has no gradient
            x += 0 * self.mask_token
        return x

    def compute_output_shape(self: Any, shape: Any) -> Any:
        return shape[0], None, self.hidden_dim

    return fast.stand_in(
        plain,
        call=call,
        compute_output_shape=compute_output_shape,
        # DINOv2's own keep two position embeddings, and of one that was trained only what makes
        # the sum of its numbers smaller.
        save_own_variables=base.save_own_variables,
        load_own_variables=base.load_own_variables,
    )


def resize(positions: Any, height: Any, width: Any) -> Any:
    """A position embedding (…, n + side², C) for another grid: (n + height × width, C) float32.

    The first n are of no place and stay. Bicubic (Keys 1981, a = -0.5) without antialiasing, as
    KerasHub's DINOv2 does; at its own grid it is itself. Two matrix products, as sizes that only
    the graph knows are not taken by every backend's resize.
    """
    import keras

    ops = keras.ops
    count, channels = positions.shape[-2:]
    side = isqrt(count)
    n = count - side**2
    table = ops.reshape(ops.cast(positions, "float32"), (count, channels))
    rows, columns = (_bicubic(side, size) for size in (height, width))  # (height, side), …
    grid = ops.matmul(rows, ops.reshape(table[n:], (side, side * channels)))
    grid = ops.matmul(columns, ops.reshape(grid, (-1, side, channels)))  # (height, width, C)
    return ops.concatenate([table[:n], ops.reshape(grid, (-1, channels))], 0)


def _bicubic(side: int, size: Any) -> Any:
    """(size, side) float32: how much of each old place is in each new one."""
    import keras

    ops = keras.ops
    old, new = (ops.arange(count, dtype="float32") for count in (side, size))
    at = (new + 0.5) * (side / ops.cast(size, "float32")) - 0.5
    d = ops.abs(at[:, None] - old)
    near, far = (1.5 * d - 2.5) * d * d + 1, ((2.5 - 0.5 * d) * d - 4) * d + 2
    parts = ops.where(d < 1, near, ops.where(d < 2, far, 0.0))
    return parts / ops.sum(parts, 1, keepdims=True)


@cache
def _rotations(plain: type) -> type:
    """DINOv3's, of a grid that only the graph may know."""
    import keras

    ops = keras.ops

    def centres(self: Any, height: Any, width: Any, dtype: str = "float32") -> Any:
        """(height × width, 2): where each patch is, -1 to 1 from top to bottom, left to right."""
        sides = (
            (ops.arange(size, dtype=dtype) + 0.5) * 2 / ops.cast(size, dtype) - 1
            for size in (height, width)
        )
        return ops.reshape(ops.stack(ops.meshgrid(*sides, indexing="ij"), -1), (-1, 2))

    def compute_output_shape(self: Any, shape: Any) -> Any:
        return (None, self.head_dim), (None, self.head_dim)

    return fast.stand_in(
        plain, _get_patches_center_coordinates=centres, compute_output_shape=compute_output_shape
    )
'''


# ===== carcls/nets/weights.py =================================================
MODULES["nets/weights.py"] = r'''"""Weights from disk: find the file that a network starts from, check it, load it.

Kaggle's inputs, the cache and the working folder are searched: a dataset of ours is known by its
manifest, a preset of keras-cv or KerasHub by its folder's name, a file of Keras by its own name.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from carcls import disk
from carcls.config import Config
from carcls.data import attached, files
from carcls.errors import ConfigError, InputError
from carcls.nets import hub, registry
from carcls.nets.registry import MEAN, STD, Backbone, find, normalisations

WEIGHTS_FILE = "model.weights.h5"  # in a preset folder, beside config.json


def find_weights(name: str, cfg: Config) -> Path | None:
    """The file that ``load_weights`` will read; None with weights=none.

    Raises InputError that says where it looked and how to get the weights.
    """
    backbone = find(name)
    if cfg.weights == "none":
        return None
    file = _search(backbone) if cfg.weights == "imagenet" else _given(backbone, cfg.weights)
    _check_config(backbone, file)
    return file


def load_weights(model: Any, name: str, cfg: Config) -> str:
    """Set the weights of what ``registry.build(name)`` made; returns a line of what was loaded.

    Raises InputError if they are not found or do not fit; the model may then hold some of them.
    """
    file = find_weights(name, cfg)
    if file is None:
        return f"{name}: from scratch (weights=none)"
    described = _describe(file)  # before it is read: it may be damaged
    _load(model, find(name), file)
    return f"{name}: {_count(model):,} parameters from {described}"


def check_attached(cfg: Config) -> list[str]:
    """A line for each input that a kernel needs; it imports no framework and reads no photo.

    Raises InputError that lists all that is missing.
    """
    members = cfg.member_cfgs()
    once = {(member.backbone, member.weights): member for member in members}
    checks: list[Callable[[], list[str]]] = [
        lambda: [f"competition: {files.check(cfg)}"],
        *(partial(_check_network, member) for member in members),
        *(partial(_check_weights, member) for member in once.values()),
        lambda: [f"boxes: {_source(file)}" for file in attached.box_files(cfg)],
    ]
    lines, problems = [], []
    for check in checks:
        try:
            lines += check()
        except (ConfigError, InputError) as error:
            problems.append(str(error))
    if not problems:
        return lines
    problems = list(dict.fromkeys(problems))  # members may share one
    if not lines or not lines[0].startswith("competition"):
        problems.append(problems.pop(0))  # last: it ends with a tree of what is there
    elif disk.on_kaggle():
        problems[-1] += f" There is:\n{disk.tree(disk.kaggle_root() / 'input', depth=4)}"
    heading = [f"{len(problems)} problems:"] if len(problems) > 1 else []
    raise InputError("\n- ".join([*heading, *problems]))


def _check_network(cfg: Config) -> list[str]:
    registry.check(cfg.backbone, cfg.stages)
    return []


def _check_weights(cfg: Config) -> list[str]:
    file = find_weights(cfg.backbone, cfg)
    return [f"weights of {cfg.backbone}: {_describe(file) if file else 'none, from scratch'}"]


def _describe(file: Path) -> str:
    """Where a file is from, and whether its manifest agrees. Raises InputError if it does not."""
    verified = attached.verify(file)
    return f"{_source(file)}, {verified}" if verified else _source(file)


def _source(file: Path) -> str:
    """``dataset /kaggle/input/…``; the path alone where it is none of Kaggle's inputs."""
    return f"{attached.kind(file)} {file}".lstrip()


# --- Find -----------------------------------------------------------------------------------------


def _search(backbone: Backbone) -> Path:
    """ImageNet's weights of a network."""
    if not (preset := backbone.preset):
        raise _not_found(backbone, "there are no such weights")
    roots = disk.search_roots()
    if backbone.library == "keras":
        roots.append(Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models")
    for root in roots:
        for folder in disk.folders_below(root):
            # A dataset's folder on Kaggle is called after its slug, in which "_" is "-".
            is_preset = folder.name.replace("-", "_") == preset
            names = [preset] if backbone.library == "keras" else [WEIGHTS_FILE] * is_preset
            if file := _in_folder(backbone, folder, names):
                return file
    where = ", ".join(str(root.absolute()) for root in roots)
    raise _not_found(backbone, f"no {preset} in {where}")


def _in_folder(backbone: Backbone, folder: Path, names: list[str]) -> Path | None:
    """The network's weights by a manifest, else a file of these names.

    They are in the folder or, as in Kaggle's models, in its highest version.
    """
    if (file := attached.by_manifest(folder, backbone.name)) or not names:
        return file
    versions = sorted((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: -int(p.name))
    places = (place / name for place in (folder, *versions) for name in names)
    return next((file for file in places if file.is_file()), None)


def _given(backbone: Backbone, text: str) -> Path:
    """The weights file that a person means by a path."""
    path = disk.user_path(text)
    if path.is_dir():
        names = [WEIGHTS_FILE]
        if backbone.library == "keras" and backbone.preset:
            names.append(backbone.preset)
        if file := _in_folder(backbone, path, names):
            return file
        wanted = " or ".join(names)
        raise InputError(f"weights={path}: no {wanted} in this folder; it has\n{disk.tree(path)}")
    if not path.is_file():
        raise InputError(
            f"weights={path}: no such file or folder; expected imagenet, none or a path"
        )
    if path.suffix not in (".h5", ".keras"):
        raise InputError(f"weights={path}: expected a folder or a file ending in .h5 or .keras")
    return path


def _not_found(backbone: Backbone, what: str) -> InputError:
    return InputError(
        f"backbone={backbone.name} weights=imagenet: {what} ({how_to_get(backbone)}). "
        "Or give a path as weights, or train from scratch with weights=none."
    )


def how_to_get(backbone: Backbone) -> str:
    """How a person gets a network's weights to where they are found."""
    if backbone.model:
        owner, model, _, variation, _ = backbone.model.split("/")
        accept = f"{accept_licence(backbone)}, then " if backbone.is_gated else ""
        return (
            f"{accept}on Kaggle attach the model: in the kernel's editor Add Input → Models → "
            f"{owner}/{model}, framework Keras, variation {variation}; in kernel-metadata.json "
            f'"model_sources": ["{backbone.model}"]; elsewhere, with internet, `carcls weights '
            f"{backbone.name}` fetches it"
        )
    if not backbone.preset:
        return backbone.source
    return (
        f"{backbone.source}; on Kaggle attach a dataset that holds it: `make dataset "
        f'SET="backbone={backbone.name}"` uploads one; in the kernel\'s editor Add Input → '
        'Datasets; in kernel-metadata.json "dataset_sources"'
    )


def accept_licence(backbone: Backbone) -> str:
    """What a person does first where a network's model is not to be had without it."""
    page = "/".join((backbone.model or "").split("/")[:2])
    return f"accept the model's licence on https://www.kaggle.com/models/{page}"


# --- Check and load -------------------------------------------------------------------------------


def _check_config(backbone: Backbone, file: Path) -> None:
    """Refuse a preset folder that was saved from another network, or does not say enough."""
    config, is_hub = file.parent / "config.json", backbone.library == "keras_hub"
    if is_hub:
        hub.read_converter(file)
    if file.name != WEIGHTS_FILE or not config.is_file():
        return
    try:
        content = disk.read_json(config)
        found, settings = content["class_name"], dict(content["config"]) if is_hub else {}
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{config}: not the config.json of a preset") from None
    if found != backbone.kind:
        raise InputError(
            f"{config}: weights of a {found}; backbone={backbone.name} is a {backbone.kind}"
        )
    if is_hub:
        hub.check_config(config, backbone.name, settings)


def _load(model: Any, backbone: Backbone, file: Path) -> None:
    try:
        # Keras loads what it finds by class and order, silent about layers that the network lacks.
        if file.name.endswith(".weights.h5") and (size := _size(file)) != _count(model):
            raise ValueError(f"it holds {size:,} numbers, the network {_count(model):,}")
        model.load_weights(file)
    # RuntimeError is what h5py makes of damaged bytes.
    except (ValueError, OSError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        why = _first(error)
        raise InputError(f"{file}: does not fit backbone={backbone.name}: {why}") from None
    if backbone.library == "keras_hub":
        values = [np.array(each) for each in hub.read_converter(file)]
        model.get_layer("normalise").set_weights(values)
    for layer in normalisations(model):
        mean, variance, _ = (np.round(value.ravel(), 3).tolist() for value in layer.get_weights())
        if not np.allclose([mean, variance], [MEAN, STD], atol=2e-3):
            raise InputError(
                f"{file}: made for pixels of mean {mean} and variance {variance}; backbone="
                f"{backbone.name} takes weights made for ImageNet's {list(MEAN)} and {list(STD)}"
            )


def _count(model: Any) -> int:
    """How many numbers its weight file has: all but those that normalise before the network."""
    ours = [layer for layer in model.layers if layer.name == "normalise"]
    return model.count_params() - sum(layer.count_params() for layer in ours)


def _size(file: Path) -> int:
    """How many numbers a ``.weights.h5`` has for layers."""
    import h5py

    sizes = []

    def visit(path: str, item: Any) -> None:
        parts = path.split("/")
        is_of_layer = parts[0] != "optimizer" and not re.search(hub.ASIDE_IN_FILES, path)
        if is_of_layer and isinstance(item, h5py.Dataset) and "vars" in parts[-2:-1]:
            sizes.append(item.size)

    with h5py.File(file) as content:
        content.visititems(visit)
    return sum(sizes)


def _first(error: Exception) -> str:
    """The first thing that Keras complains of, on one line."""
    text = re.sub(r".*Example error message for object", "", str(error), flags=re.DOTALL)
    text = text.split("List of objects that could not be loaded")[0]
    return re.sub(r"\s+", " ", text).strip()[:400]
'''


# ===== carcls/train/__init__.py ===============================================
MODULES["train/__init__.py"] = r'''"""Training: one network through its sizes, and what watches it."""
'''


# ===== carcls/train/balance.py ================================================
MODULES["train/balance.py"] = r'''"""Class weights: a photo of a rare class counts more in the loss of training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from carcls.data.batches import Batches
from carcls.train.job import Job


def weighted(batches: Batches, job: Job, classes: int) -> Batches:
    """The same batches of training; with class_weights=balanced photos of rare classes weigh more.

    By photos / (classes · photos of the class), of those that the job learns from: a mean of 1.
    Classes that have none do not count. A mixed photo has the mix of the weights that it has of the
    labels. Validation has batches of its own, so that its loss stays as it is.
    """
    if job.cfg.class_weights == "none":
        return batches
    learned = job.learn.labels
    counts = np.bincount(learned, minlength=classes)
    of_class = len(learned) / ((counts > 0).sum() * np.maximum(counts, 1))
    factors = tf.constant(of_class[:, None], tf.float32)  # (classes, 1)

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert, and looking takes long
    def weigh(images: Any, labels: Any, weights: Any) -> tuple[Any, Any, Any]:
        return images, labels, weights * tf.matmul(labels, factors)[:, 0]

    return replace(batches, dataset=batches.dataset.map(weigh))
'''


# ===== carcls/train/clock.py ==================================================
MODULES["train/clock.py"] = r'''"""Time as one number: the share of the work still planned that there is time for.

A session may have to end at some moment. A network gets a share of the time left, keeps back what
its predictions will take, and shortens the training steps that are still to come by one factor.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

from carcls.config import Config
from carcls.errors import ConfigError
from carcls.values import Views

# Seconds kept for what comes after the votes: the report's pictures, decisions and the submission,
# and more for each network (MEASUREMENTS: what the end of a run takes).
REPORT, PER_NETWORK = 7.0, 5.0
# Kaggle ends a session after so many hours; this share of it is left for what nobody foresees.
HOURS, TPU_HOURS, MARGIN = 12.0, 9.0, 0.05
# Training leaves its predictions what they take, up to this share of the network's time; one view
# in any case.
VOTES_SHARE = 0.25
# Of the views beyond the first ones the adaptive rule asks for about this share
# (MEASUREMENTS: adaptive views).
ADDED = 0.15


@dataclass(frozen=True)
class Clock:
    """The time of this session."""

    start: float  # by time.monotonic
    end: float | None = None  # likewise; None: no limit
    limit: str = "no limit"  # where the end comes from
    reports: int = 1  # that will be written: one after the members and one after each phase

    @property
    def is_limited(self) -> bool:
        return self.end is not None

    def left(self) -> float:
        """Seconds; infinite without a limit."""
        return math.inf if self.end is None else self.end - time.monotonic()

    def deadline(self, share: float) -> float:
        """When a network that gets this share of the time left must have voted."""
        return time.monotonic() + (self.left() - REPORT * self.reports) * share - PER_NETWORK


def start(
    cfg: Config, on_kaggle: bool, kind: str, began: float, proc: Path = Path("/proc")
) -> Clock:
    """From cfg.budget_minutes, else Kaggle's limit for a kind of device (cpu, gpu, tpu).

    Counted from when this run began, on Kaggle's editor from when its session did. Raises
    ConfigError if the budget is over by then.
    """
    reports = 1 + (cfg.pseudo > 0) + (cfg.refits > 0)
    minutes, now = cfg.budget_minutes, time.monotonic()
    if minutes is None and not on_kaggle:
        return Clock(began)
    age = _session_age(proc, now - began) if on_kaggle else None
    counted, since = (began, "this run") if age is None else (now - age, "the session")
    since += f" began, {show(age)} ago" if age is not None else " began"
    if minutes is not None:
        if age is not None and 0 < minutes * 60 <= age:
            raise ConfigError(
                f"budget_minutes={minutes:g}: over, as it counts from when {since}; expected more "
                f"than {age / 60:.0f}, or a new session"
            )
        limit, seconds = f"{minutes:g} minutes, as set", minutes * 60
    else:
        hours = TPU_HOURS if kind == "tpu" else HOURS
        seconds = hours * (1 - MARGIN) * 3600
        limit = f"{seconds / 3600:g} of the {hours:g} hours of a session"
    return Clock(began, counted + seconds, f"{limit} (from when {since})", reports)


def _session_age(proc: Path, least: float) -> float | None:
    """Seconds since a session of Kaggle's editor began, by its first process; None: not sure.

    The editor keeps a session while its cells are run again and again. least: the run's own age.
    """
    if os.environ.get("KAGGLE_KERNEL_RUN_TYPE") != "Interactive":
        return None
    try:
        started = int((proc / "1" / "stat").read_text().rpartition(")")[2].split()[19])  # ticks
        up = float((proc / "uptime").read_text().split()[0])
        age = up - started / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
    return age if least <= age <= HOURS * 3600 else None


def passes(views: Views, check: int, test: int) -> float:
    """Photos to predict, each view counted, for so many validation and test photos.

    With the adaptive rule validation photos get every view, test photos what the rule asks for.
    """
    return check * views.most + test * (views.first + ADDED * (views.most - views.first))


def affordable(views: Views, check: int, test: int, photos: float) -> Views:
    """The most of these views that take at most so many passes (``photos``); at least one."""
    most = views.most
    while most > 1 and passes(_at_most(views, most), check, test) > photos:
        most -= 1
    return _at_most(views, most)


def _at_most(views: Views, most: int) -> Views:
    return Views(first=min(views.first, most), most=most)


# How progress rises with the optimiser's count of steps: a step, the progress when it begins, and
# the progress of each step.
Ramp = tuple[int, float, float]


@dataclass(frozen=True)
class Pace:
    """Measured seconds, by stage where there are several."""

    step: list[float]  # a training step
    check: list[float]  # validating and keeping the state, once
    look: float  # one photo predicted in one view, at the last stage's size

    def by(self, stage: int, step: float, check: float) -> Pace:
        """The same where an epoch of that stage has taken so long; others get slower, not faster.

        This is of what was measured before training: one slow epoch is no slow machine.
        """
        slower = max(1.0, step / max(self.step[stage], 1e-9))
        steps, checks = [s * slower for s in self.step], [c * slower for c in self.check]
        steps[stage], checks[stage] = step, check
        return Pace(steps, checks, self.look * slower)


@dataclass(frozen=True)
class Ahead:
    """What a network still has to do, from the middle of a stage on."""

    pace: Pace
    epochs: list[float]  # still planned, by stage; 0 for those that are done
    steps: int  # of an epoch
    early: float  # seconds of predictions between the stages
    votes: float  # seconds of all predictions after training, as set
    one_view: float  # seconds of the least of them

    def training(self, share: float = 1.0) -> float:
        """Seconds of the epochs that are planned, shortened to that share."""
        seconds = 0.0
        for stage, planned in enumerate(self.epochs):
            if planned:
                leg = next_leg(stage, 0, planned, self.steps, share)
                each = leg.steps * self.pace.step[stage] + self.pace.check[stage]
                seconds += leg.epochs * each
        return seconds

    def share(self, left: float, whole: float) -> float:
        """The share of the training, 0 to 1, that there is time for in ``left`` seconds.

        0 where it is not enough for a single step of each stage. whole: seconds that the network
        had when this session came to it, of which its predictions get their share.
        """
        least = self.training(0.0)
        if left < least + self.early + self.one_view:
            return 0.0
        reserve = min(self.votes, max(VOTES_SHARE * whole, self.one_view))
        room = max(least, left - self.early - reserve)
        if self.training() <= room:
            return 1.0
        # An epoch is validated however short it is, so time is no plain product of the share.
        fits, too_much = 0.0, 1.0
        for _ in range(30):
            middle = (fits + too_much) / 2
            fits, too_much = (middle, too_much) if self.training(middle) <= room else (fits, middle)
        return max(fits, 1e-9)


@dataclass(frozen=True)
class Leg:
    """What one call of fit trains: some epochs of one stage, each of so many steps."""

    stage: int  # from 0
    first: int  # epochs of the stage that are done
    epochs: int  # of this call
    total: int  # epochs of the stage, as it is planned now
    steps: int  # of each epoch
    worth: float  # epochs of the plan that each of them stands for; 1 where time does not press
    later: float = 0.0  # pixels of a photo × epochs that later stages will train
    planned: float = 0.0  # epochs of the plan that the stage still had when the leg began


def next_leg(stage: int, first: int, planned: float, steps: int, share: float) -> Leg:
    """The epochs that are left of a stage, shortened to ``share``.

    planned: epochs of the plan still to come; steps: of a whole epoch. Fewer epochs of about the
    usual length rather than shorter ones: each is validated and kept, which takes time too.
    """
    epochs = max(1, math.ceil(planned * share - 1e-6))
    shortened = max(1, round(planned * share * steps / epochs))
    return Leg(stage, first, epochs, first + epochs, shortened, planned / epochs, 0.0, planned)


def show(seconds: float) -> str:
    """``"2:05"`` or ``"1:02:05"``."""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
'''


# ===== carcls/train/events.py =================================================
MODULES["train/events.py"] = r'''"""The events of a run: lines of progress.jsonl, marked lines of the log, and whoever listens.

An event is a JSON object of less than 60 kB. Every one has ``id`` (RUN.SESSION.NUMBER: eight hex
digits, the same in all sessions of a run; four, of the session; a number from 1), ``kind`` and
``at``, seconds since 1970 (UTC). Numbers that are not finite are null. Of what would be too long,
texts are cut, with … at their end, and lists after so many items. By kind they have:

start       identity, name, settings, machine (lines), source, photos {train, validation, test},
            metric, networks [{name, stages [[height, width, epochs], …]}], ends_at (or null)
phase       name: a part of the log that begins
step        network, what ("train", "validation", "test votes", …), done, steps, images_per_s; of
            a training also stage, epoch, loss, accuracy, left_s: where nothing was sent for a
            minute, but not of a first step
epoch       network, stage, stages, height, width, epoch, epochs (of the stage, from 1), photos, lr,
            loss, accuracy, val_loss, val_accuracy, best, images_per_s, waiting (share of the
            time after the epoch's first step in which its steps waited for photos; null where there
            is one step), seconds, left_s (of training)
early_stop  network, epoch, best_epoch, best_loss
submission  made_by, metric, score (of validation), early, rows
verdict     of ("views", "blend", "pseudo", "refit", "temperature"), network ("" where of all),
            accepted (bool), reason
tuned       verdict, settings, networks (as of a start; those that are to be trained now): what a
            search came to; of its trainings there are only steps
picture     name, file (relative to the run folder), caption (not in a log); what is posted has
            ``jpeg``, too: at most 40 kB, base64
failed      error
end         metric, validation_score, validation_interval_95, validation_photos, true_score (where
            it is known), seconds, made_by, warnings, submission (path); only seconds of a search
            alone, and of a training of a study
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import secrets
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from carcls import disk
from carcls.errors import full_disk_named

MARK = "~event"  # begins an event in a log: MARK LENGTH CRC32 JSON, all of it ASCII
MOST = 60_000  # bytes of an event's JSON are fewer
# Kinds that a page needs of earlier sessions. Where it has them already, their ids say so.
RETOLD = frozenset({"start", "epoch", "early_stop", "submission", "verdict", "tuned"})
LONGEST_CAPTION = 450  # characters, of up to twelve bytes each
# Of a picture that is posted: bytes of the JPEG, the longer side at first (px), the quality.
PICTURE, SIDE, QUALITY = 40_000, 1200, 60
_ID = re.compile(r"[0-9a-f]{8}\.[0-9a-f]{4}\.\d{1,9}")


class Listener(Protocol):
    """Who is told of every event, without keeping the run waiting."""

    wants_pictures: bool  # as JPEGs; else only where they are
    wants_earlier: bool  # also, at first, the events of the run's earlier sessions (RETOLD)

    def post(self, event: dict[str, Any]) -> None: ...

    def close(self, wait: float) -> None: ...


def plain(value: Any) -> Any:
    """What JSON can hold of ``value``: numbers of any library, None for NaN and infinities."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "__array__"):  # numpy, a tensor of any backend, a Keras variable
        return plain(np.asarray(value).tolist())
    return str(value)


def log_line(event: dict[str, Any]) -> str:
    """The event as a line of a log, which can be found and checked among other output."""
    text = json.dumps(event, allow_nan=False, separators=(",", ":"))
    return f"{MARK} {len(text)} {zlib.crc32(text.encode()):08x} {text}"


class LogLines:
    """Prints every event as a marked line: a kernel's log can be watched on a page."""

    wants_pictures, wants_earlier = False, True

    def post(self, event: dict[str, Any]) -> None:
        shown = {key: value for key, value in event.items() if key != "caption"}  # of no picture
        sys.stdout.write(log_line(shown) + "\n")  # at once, as other threads print, too
        sys.stdout.flush()

    def close(self, wait: float) -> None:
        """Nothing is under way."""


class Events:
    """Every event of a run: a JSON line in ``path``, and the same to every listener."""

    def __init__(self, path: Path, identity: str = "", listeners: Sequence[Listener] = ()) -> None:
        """identity: of the run; a file whose last start has the same one goes on with its run."""
        self.path, self.identity, self.listeners = path, identity, listeners
        if path.exists() and not path.is_file():
            disk.remove(path)
        known = _events_of(path.read_bytes() if path.is_file() else b"")
        self.run = _run_of(known, identity) or secrets.token_hex(4)
        earlier = [event for event in known if event["id"].startswith(self.run)]
        self._session, self._count = secrets.token_hex(2), 0
        while any(event["id"].startswith(f"{self.run}.{self._session}.") for event in earlier):
            self._session = secrets.token_hex(2)
        self.last_kind, self.sent_at = "", time.monotonic()  # of the last event, and when it was
        self._left_out: frozenset[str] = frozenset()
        self._pictures: dict[str, str] = {}  # file → digest of what was told of
        self._lock = threading.Lock()  # on JAX steps end in several threads
        for listener in listeners if earlier else ():
            for event in earlier if listener.wants_earlier else ():
                if event.get("kind") in RETOLD:
                    listener.post(event)

    def send(self, kind: str, **values: Any) -> None:
        """Record one event."""
        self._send(kind, values)

    def picture(self, path: Path, caption: str) -> None:
        """Tell of a picture in the run folder, unless it is gone or as it was when last told of."""
        file = path.relative_to(self.path.parent).as_posix()
        try:
            content = path.read_bytes()
        except OSError:  # a picture is not worth a run
            return
        digest = hashlib.sha256(content).hexdigest()
        if self._pictures.get(file) == digest:
            return
        self._pictures[file] = digest
        name = file.rpartition(".")[0].replace("/", "-")
        values = {"name": name, "file": file, "caption": _cut(caption, LONGEST_CAPTION)}
        is_wanted = any(listener.wants_pictures for listener in self.listeners)
        self._send("picture", values, _jpeg(content) if is_wanted else "")

    @contextmanager
    def without(self, *kinds: str) -> Iterator[None]:
        """Inside, events of these kinds are not sent."""
        before, self._left_out = self._left_out, self._left_out.union(kinds)
        try:
            yield
        finally:
            self._left_out = before

    def close(self, wait: float = 5.0) -> None:
        """Let the listeners finish, for ``wait`` seconds in all, and a second each in any case."""
        until = time.monotonic() + wait
        for listener in self.listeners:
            listener.close(max(1.0, until - time.monotonic()))

    def _send(self, kind: str, values: dict[str, Any], jpeg: str = "") -> None:
        """jpeg: in base64, for the listeners that want it."""
        if kind in self._left_out:
            return
        with self._lock:
            self._count += 1
            self.last_kind, self.sent_at = kind, time.monotonic()
            ident = f"{self.run}.{self._session}.{self._count}"
            event = _fitted({"id": ident, "kind": kind, "at": round(time.time(), 3)}, plain(values))
            try:
                self._write(json.dumps(event, allow_nan=False) + "\n")
            finally:  # that the disk is full is what they should hear of
                for listener in self.listeners:
                    has_picture = jpeg and listener.wants_pictures
                    listener.post({**event, "jpeg": jpeg} if has_picture else event)

    def _write(self, line: str) -> None:
        with full_disk_named(self.path), self.path.open("ab+") as file:
            # A kill or a full disk may have left a part of a line.
            torn = file.tell() and file.seek(-1, os.SEEK_END) and file.read(1) != b"\n"
            file.write(("\n" * bool(torn) + line).encode())


def _events_of(text: bytes) -> list[dict[str, Any]]:
    """The events in a progress.jsonl that have an id."""
    found = []
    for line in text.split(b"\n"):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):  # a part of a line, or no event
            continue
        if isinstance(event, dict) and _ID.fullmatch(str(event.get("id"))):
            found.append(event)
    return found


def _run_of(known: list[dict[str, Any]], identity: str) -> str:
    """The run of the last start among these events, if that was of this identity; else ""."""
    starts = [event for event in known if event.get("kind") == "start"]
    is_same = starts and identity and starts[-1].get("identity") == identity
    return starts[-1]["id"].partition(".")[0] if is_same else ""


def _fitted(head: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """An event of fewer than MOST bytes: longer texts and lists are cut, the longest first."""
    event, most = {**head, **values}, 4096
    while most and len(json.dumps(event, allow_nan=False)) >= MOST:
        event = {**head, **{key: _cut(value, most) for key, value in values.items()}}
        most //= 2
    return event


def _cut(value: Any, most: int) -> Any:
    """Of JSON's values: texts of at most so many characters, lists and objects of so many items."""
    if isinstance(value, str):
        return value if len(value) <= most else value[: most - 1] + "…"
    if isinstance(value, list):
        return [_cut(item, most) for item in value[:most]]
    if isinstance(value, dict):
        return {_cut(key, most): _cut(item, most) for key, item in [*value.items()][:most]}
    return value


def _jpeg(content: bytes) -> str:
    """A picture's file as a JPEG in base64, shrunk until it fits; "" if it is none."""
    import cv2

    side = SIDE
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # it is empty, or too large
        return ""
    while picture is not None and side:
        height, width = picture.shape[:2]
        scale = min(1.0, side / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        _, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        if encoded.size <= PICTURE:
            return base64.b64encode(encoded.tobytes()).decode()
        side = side * 9 // 10
    return ""
'''


# ===== carcls/train/job.py ====================================================
MODULES["train/job.py"] = r'''"""A network to be made: a member, one of its folds, or one that goes on with more photos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from carcls import record
from carcls.config import FILE_SETTINGS, POLICIES, TRAINING_SETTINGS, Config
from carcls.data import boxes
from carcls.data.photos import Rows
from carcls.disk import user_path
from carcls.metrics import Metric
from carcls.nets import weights
from carcls.record import Facts


@dataclass(frozen=True)
class Job:
    """What to train, on which photos, from which weights, and in which share of the time."""

    name: str  # for the log: "member 1 efficientnet_lite_b0 seed=2"
    folder: Path  # what it leaves
    cfg: Config  # of this network alone
    learn: Rows  # photos to train on
    check: Rows  # photos to validate on; empty in a refit
    start: Path | None = None  # weights to go on from; None: what cfg.weights says
    share: float = 1.0  # of the time that is left when it begins

    def facts(self, frame: pd.DataFrame, metric: Metric = "accuracy") -> Facts:
        """What the network will be made from: settings, photos, first weights and the code.

        metric: that chooses the epoch, whatever the setting leaves open.
        """
        settings = self.cfg.model_dump(mode="json", include=set(TRAINING_SETTINGS - FILE_SETTINGS))
        start = self.start or weights.find_weights(self.cfg.backbone, self.cfg)
        policy = self.cfg.augment
        if policy not in POLICIES:
            policy = f"policy {record.digest_of(user_path(policy))[:16]}"
        return {
            **settings,
            "metric": metric,
            "augment": policy,
            "the photos": record.rows(
                *self.photos(frame, self.learn), *self.photos(frame, self.check)
            ),
            "the first weights": record.digest_of(start) if start else "",
            "OpenCV": record.opencv(),
            "the package's code": record.source_hash(),
        }

    def photos(self, frame: pd.DataFrame, rows: Rows) -> list[Any]:
        """Columns that tell these photos from others: ids, labels, bytes, and boxes if any."""
        some = frame.iloc[rows.rows]
        cut = boxes.of(some).T if self.cfg.boxes else ()
        return [some["id"], rows.labels, some["digest"], *cut]


def member_name(cfg: Config, number: int) -> str:
    """``1 efficientnet_lite_b0 seed=2``: its number, network, and what sets it apart."""
    rest = [f"{key}={value}" for key, value in cfg.members[number].items() if key != "backbone"]
    return " ".join([str(number + 1), cfg.member_cfgs()[number].backbone, *rest])


def planned(cfg: Config) -> list[dict[str, Any]]:
    """The members' networks for whoever watches: names, and stages as [height, width, epochs]."""
    return [
        {
            "name": network_name(cfg, number, fold),
            "stages": [[stage.height, stage.width, stage.epochs] for stage in member.stages],
        }
        for number, member in enumerate(cfg.member_cfgs())
        for fold in range(cfg.folds)
    ]


def network_name(cfg: Config, number: int, fold: int) -> str:
    """Of a member's network, or of that of one of its folds; both counted from 0."""
    part = f", fold {fold + 1} of {cfg.folds}" if cfg.folds > 1 else ""
    return f"member {member_name(cfg, number)}{part}"
'''


# ===== carcls/train/loop.py ===================================================
MODULES["train/loop.py"] = r'''"""Training one network to its end, or reading back one that an earlier session has trained.

After every epoch the whole state is kept, so that a training that was killed goes on from there
and ends as it would have; the same way leads on where memory runs out.
"""

from __future__ import annotations

import gc
import io
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras

from carcls import disk, memory, record
from carcls.config import Config
from carcls.machine import Machine
from carcls.nets import model
from carcls.train import steps
from carcls.train.job import Job
from carcls.train.state import History, States
from carcls.train.studio import BEST, HISTORY, LAST, Announce, Studio, Trained, in_scope
from carcls.train.timing import Timekeeper
from carcls.train.trainer import Trainer

TRAINING = "training"  # in the folder's steps.json


def read_back(s: Studio, job: Job) -> Trained | None:
    """What an earlier session has trained from the same facts; None if nothing can be used."""
    if not job.cfg.resume:
        return None
    about = record.Steps(job.folder).about(TRAINING, job.facts(s.table.frame, s.metric))
    if about is None:
        return None
    if not (job.folder / LAST).is_file():
        print(f"{job.folder.name}: training is made anew: {LAST} is not there")
        return None
    history = History(job.folder / HISTORY, about["rows"])
    if not history.path.is_file() or history.path.read_bytes() != history.text().encode():
        print(f"{history.path}: not as it was left; written again")
        history.write()
    States(job.folder / "state").remove()  # a kill may have come before it
    print(f"training   done before in {about['seconds']:.0f} s, taken from {job.folder}")
    if about["shortened"]:
        print(f"           with {about['shortened']}, for want of time; resume=false trains anew")
    return Trained(tuple(about["size"]), about["seconds"], about["rows"])


def load(folder: Path, cfg: Config, classes: int, rt: Machine) -> keras.Model:
    """The network of a finished training with its best weights, from the training's folder."""
    net, _ = in_scope(rt, partial(model.build, cfg.replace(weights="none"), rt, classes, 1))
    net.load_weights(folder / BEST)
    return net


def train(s: Studio, job: Job, deadline: float, announce: Announce | None) -> Trained | None:
    """Train through the job's stages; leaves history.csv, best and last weights in its folder.

    Goes on from the state in the folder if it is of the same training. The learning rate follows
    one schedule over the whole run. Without photos to check the last epoch is the best.
    ``announce`` is called after the first epoch and with the best weights of each stage but the
    last. ``deadline`` (time.monotonic) is when the network must have voted: the steps are
    shortened for it, and None is returned if there is no time for any.

    If memory runs out, the batch is halved and training goes on from the last epoch with the same
    learning rate per photo. Raises TrainingDiverged when the loss is no number.
    """
    cfg, states = job.cfg, States(job.folder / "state")
    facts = job.facts(s.table.frame, s.metric)
    note = states.load(facts) if cfg.resume else None
    asked = s.machine.batch_size(cfg.batch)
    batch = note["next_batch"] if note else asked
    while True:
        fitted = cfg if batch == asked else cfg.replace(batch=batch, lr=cfg.lr * batch / asked)
        timekeeper = Timekeeper(deadline, s.machine.agree)
        trainer = Trainer(s, replace(job, cfg=fitted), states, facts, timekeeper, announce)
        try:
            with steps.told(s.events, job.name, "train"):
                trained = trainer.run(note)
            break
        except memory.errors() as error:
            # One of several processes alone cannot change the batch.
            is_least = batch <= len(s.machine.devices) or s.machine.processes > 1
            if is_least or not memory.ran_out(error):
                raise
        # Out of the except block, whose traceback keeps tensors alive, and without the network.
        has_begun = bool(trainer.history.rows)
        del trainer
        gc.collect()
        before, batch = batch, s.machine.batch_size(batch // 2)
        rate = cfg.lr * batch / asked
        print(f"memory     too little for batches of {before}: {batch}, learning rate {rate:.2e}")
        note = states.load(facts) if has_begun else None
        if note:
            states.amend(next_batch=batch)
    if trained:
        _finish(trainer, trained, batch if batch != asked else 0)
    return trained


class _InMemory(io.BytesIO):
    """A file of weights: Keras looks at the end of its name."""

    def __str__(self) -> str:
        return BEST


def _finish(trainer: Trainer, trained: Trained, reduced_to: int) -> None:
    """Write the weights and the note of a training that has ended.

    reduced_to: the batch where memory ran out, else 0.
    """
    folder, now = trainer.job.folder, trainer.s.machine
    assert trained.net is not None
    for which, name in (("last", LAST), ("best", BEST)):  # the best one stays in the network
        trainer.restore(which)
        # By way of memory: HDF5 cannot close a file on a full disk, and later ends the process.
        content = _InMemory()
        trained.net.save_weights(content)
        disk.make_way(folder / name)
        with disk.replacing(folder / name) as part:
            part.write_bytes(content.getbuffer())
    record.Steps(folder).finish(
        TRAINING,
        trainer.facts | trainer.s.spoiled(trainer.job.learn, trainer.job.check),
        [BEST],
        size=trained.size,
        seconds=trained.seconds,
        rows=trained.rows,
        shortened=trainer.shortened(),
        smaller=reduced_to,
        machine=[now.backend, *now.devices, now.precision],
    )
    trainer.states.remove()
'''


# ===== carcls/train/monitor.py ================================================
MODULES["train/monitor.py"] = r'''"""Posting a run's events to an address, and who else is told of them."""

from __future__ import annotations

import json
import sys
from typing import Any

import keras

from carcls.config import Config
from carcls.train.events import Listener, LogLines, plain
from carcls.train.notify import Notifier
from carcls.train.outbox import Outbox


class SafeRemoteMonitor(keras.callbacks.RemoteMonitor):
    """Keras's RemoteMonitor that cannot delay, stop or change a run."""

    wants_pictures = wants_earlier = True

    def __init__(
        self,
        root: str = "http://localhost:9000",
        path: str = "/publish/epoch/end/",
        field: str = "data",
        headers: dict[str, str] | None = None,
        send_as_json: bool = True,
    ) -> None:
        super().__init__(root.rstrip("/"), path, field, headers, send_as_json)
        self.outbox = Outbox("monitor", self.root + self.path, self.headers)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.post({"epoch": epoch, **(logs or {})})

    def post(self, event: dict[str, Any]) -> None:
        """Queue one event; returns at once."""
        event = plain(event)
        if self.send_as_json:
            self.outbox.post(json=event)
        else:
            self.outbox.post(data={self.field: json.dumps(event)})

    def close(self, wait: float = 5.0) -> None:
        """Send what is queued, for at most ``wait`` seconds. Nothing is sent afterwards."""
        self.outbox.close(wait)


def listeners(cfg: Config) -> list[Listener]:
    """Who is told of a run's events beside its progress.jsonl.

    Raises ConfigError if ``notify_url`` lacks what its service needs.
    """
    told: list[Listener] = []
    if cfg.monitor_url:
        told.append(SafeRemoteMonitor(*cfg.monitor_url.parts()))
    if cfg.notify_url:
        told.append(Notifier(cfg.notify_url.get_secret_value()))
    if not sys.stdout.isatty():  # a log, not a person who watches as it comes
        told.append(LogLines())  # last: where the log is gone, the others hear of that
    return told
'''


# ===== carcls/train/notify.py =================================================
MODULES["train/notify.py"] = r'''"""A short text to a phone or a chat at a run's start, first submission, end and failure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from carcls.errors import ConfigError
from carcls.metrics import SHOWN
from carcls.train import clock
from carcls.train.outbox import Outbox
from carcls.values import hide

# Characters: ntfy takes 4,096 bytes, Discord 2,000 characters, Telegram 4,096.
_MOST, _MOST_A_VALUE = 1000, 300


@dataclass(frozen=True)
class Note:
    """What a person is told."""

    title: str
    lines: tuple[str, ...]
    is_bad: bool = False

    @property
    def text(self) -> str:
        return "\n".join(filter(None, self.lines))[: _MOST - len(self.title) - 1]

    def __str__(self) -> str:
        return f"{self.title}\n{self.text}"


Form = Callable[[Note, dict[str, Any]], dict[str, Any]]  # note and its event → JSON to post


class Notifier:
    """Tells a phone or a chat of a run, by the form that the address's host wants."""

    wants_pictures = wants_earlier = False

    def __init__(self, url: str) -> None:
        """Raises ConfigError if the address lacks what its service needs."""
        target, self._form = form_of(url)
        self.outbox = Outbox("notify", target)
        self._run, self._has_trained, self._has_submitted = "run", False, False

    def post(self, event: dict[str, Any]) -> None:
        """Queue a text if the event is worth one; returns at once, raises nothing."""
        note = self._note(event)
        if note:
            self.outbox.post(json=self._form(note, event))

    def close(self, wait: float = 5.0) -> None:
        """Send what is queued, for at most ``wait`` seconds. Nothing is sent afterwards."""
        self.outbox.close(wait)

    def _note(self, event: dict[str, Any]) -> Note | None:
        kind = event.get("kind")
        if kind == "start":
            competition = _dict(event.get("settings")).get("competition")
            self._run = _line(event.get("name") or competition or "run")[:60]
            return Note(f"{self._run}: started", _about_start(event))
        if kind == "epoch":
            self._has_trained = True
        # Before the first epoch, all that there is to submit is the most frequent class.
        if kind == "submission" and self._has_trained and not self._has_submitted:
            self._has_submitted = True
            by = f"by {_line(event.get('made_by'))}"
            return Note(f"{self._run}: first submission", (f"validation {_score(event)}", by))
        if kind == "verdict" and "diverged" in str(event.get("reason")):
            about = f"{_line(event.get('network'))}: {_line(event.get('reason'))}"
            return Note(f"{self._run}: training diverged", (about.removeprefix(": "),), True)
        if kind == "failed":
            what, *lines = _about_failure(str(event.get("error")))
            return Note(f"{self._run}: {what}", tuple(lines), True)
        if kind == "end":
            return self._end(event)
        return None

    def _end(self, event: dict[str, Any]) -> Note:
        if "metric" not in event:  # a search alone, or a training of a study
            return Note(f"{self._run}: ended", (f"after {_time(event.get('seconds'))}",))
        low, high = (_number(value) for value in _pair(event.get("validation_interval_95")))
        photos = event.get("validation_photos")
        warnings = [f"WARNING: {_line(text)}" for text in _list(event.get("warnings"))]
        score = _score({**event, "score": event.get("validation_score")})
        return Note(
            f"{self._run}: ended with {score}",
            (
                f"95 % interval {low}–{high}, {_line(photos)} validation photos",
                f"made by {_line(event.get('made_by'))} in {_time(event.get('seconds'))}",
                _line(event.get("submission") or ""),
                *warnings,
            ),
            bool(warnings),
        )


# --- Texts ----------------------------------------------------------------------------------------


def _about_start(event: dict[str, Any]) -> tuple[str, ...]:
    """What is to be done, and where."""
    photos = _dict(event.get("photos"))
    counts = [f"{_line(photos[part])} {part}" for part in photos]
    networks = [str(_dict(network).get("name")) for network in _list(event.get("networks"))]
    device = [_line(line) for line in _list(event.get("machine")) if str(line).startswith("device")]
    out = _line(_dict(event.get("settings")).get("out") or "")
    return (
        f"photos {', '.join(counts)}" if counts else "",
        f"networks {_line(', '.join(networks))}" if networks else "",
        *device[:1],
        f"run folder {out}" if out else "",
    )


def _about_failure(error: str) -> tuple[str, ...]:
    """What happened in a few words, and lines about it."""
    kind, _, text = error.partition(": ")
    text = _line(text.strip().partition("\n")[0])
    if kind == "KeyboardInterrupt":
        return "stopped by hand", "the same command goes on from the last whole epoch"
    if kind == "Stopped":
        return f"stopped by {text}", "the same run goes on from the last whole epoch"
    if kind == "TrainingDiverged":
        return "training diverged", text
    return "failed", f"{_line(kind)}: {text}"


def _line(value: Any) -> str:
    """A value as one line, which mentions nobody and shows no address whole."""
    text = " ".join(hide(str(value)[: 4 * _MOST]).split())[:_MOST_A_VALUE]
    # Chats take @name for a call; a space of no width keeps how it looks.
    return text.replace("@", "@\u200b").encode("utf-8", "replace").decode()


def _score(event: dict[str, Any]) -> str:
    metric = str(event.get("metric"))
    return f"{_number(event.get('score'))} {_line(SHOWN.get(metric, metric))}"


def _number(value: Any) -> str:
    try:
        return f"{float(value):.4f}"
    except (TypeError, ValueError, OverflowError):
        return "unknown"


def _time(seconds: Any) -> str:
    try:
        return clock.show(float(seconds))
    except (TypeError, ValueError, OverflowError):
        return "unknown time"


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _pair(value: Any) -> list[Any]:
    return [*_list(value), None, None][:2]


# --- Forms ----------------------------------------------------------------------------------------


def form_of(url: str) -> tuple[str, Form]:
    """Where the texts for this address are posted, and as what JSON, by its host.

    Raises ConfigError, which quotes nothing of the address, if it lacks what its service needs.
    """
    whole = urlsplit(url)
    host = whole.hostname or ""
    if host.startswith("ntfy."):
        topic = whole.path.strip("/")
        if not re.fullmatch(r"[-\w]{1,64}", topic, re.ASCII):
            raise ConfigError("notify_url: no topic of ntfy; expected https://ntfy.sh/TOPIC")
        return whole._replace(path="/").geturl(), lambda note, event: {
            "topic": topic,
            "title": note.title,
            "message": note.text,
            **({"priority": 4, "tags": ["warning"]} if note.is_bad else {}),
        }
    if host == "api.telegram.org":
        query = dict(parse_qsl(whole.query))
        if "chat_id" not in query or not re.fullmatch(r"/bot[^/]+/sendMessage", whole.path):
            expected = "https://api.telegram.org/botTOKEN/sendMessage?chat_id=NUMBER"
            raise ConfigError(f"notify_url: no method or chat of Telegram; expected {expected}")
        query.pop("parse_mode", None)  # nothing in a text is markup
        target = whole._replace(query="").geturl()
        return target, lambda note, event: {**query, "text": str(note)}
    if host == "hooks.slack.com":
        return url, lambda note, event: {"text": _escaped(str(note))}
    if re.search(r"(^|\.)discord(app)?\.com$", host):
        quiet: dict[str, Any] = {"allowed_mentions": {"parse": []}}
        return url, lambda note, event: {"content": str(note), **quiet}
    return url, lambda note, event: {
        "text": str(note),
        "event": event.get("kind"),
        "id": event.get("id"),
        "at": event.get("at"),
    }


def _escaped(text: str) -> str:
    """As Slack wants it: otherwise <!channel> would call everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
'''


# ===== carcls/train/outbox.py =================================================
MODULES["train/outbox.py"] = r'''"""Posting to one address in the background, which cannot harm a run."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import requests

from carcls.values import hide

MOST_WAITING = 1024  # requests: what an earlier session told comes all at once
_BUSY = {408, 425, 429}  # and 5xx: the same request may be taken later
_REFUSED = {400, 413, 422}  # this request is wrong; another one may be taken


class _Session(requests.Session):
    """Takes a redirect as any reply: requests reads its body, even where it does not follow it."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: there is none to follow."""


class Outbox:
    """A queue of requests to one address, which a daemon thread sends.

    A reply is judged by its status alone: its body, however long, is not read, and a redirect,
    which would lose what is posted, is not followed. What fails is sent again after each of
    ``pauses``, so a server that restarts meanwhile loses nothing; what was taken without an answer
    may arrive twice. Once the last try has failed, or a reply says that no other request will be
    taken either (401, 404, a redirect, …), nothing more is sent, and one printed line says so,
    without the address's secret parts. ``post`` or ``close`` prints it: a daemon thread that prints
    while Python ends can crash it.
    """

    timeout = (3.0, 5.0)  # seconds to connect, to answer
    # Seconds: for a hiccup, a server that restarts, and a person who starts it again.
    pauses = (1.0, 5.0, 25.0)

    def __init__(self, name: str, url: str, headers: dict[str, str] | None = None) -> None:
        """name: what the printed line begins with, before the host."""
        self.name = f"{name} {hide(url).removesuffix('/…')}"
        self._url, self._headers = url, headers
        self._queue: deque[dict[str, Any]] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._trouble = ""  # why nothing more is sent
        self._dropped, self._why = 0, ""  # requests that were not sent before that, and the reason
        self._closing = self._closed = self._said = False

    def post(self, **body: Any) -> None:
        """Queue one request, ``json`` or ``data`` as requests has it; returns at once.

        Where too many wait, the oldest is dropped. Raises nothing.
        """
        if self._trouble or self._closing:
            self._say(self._trouble)
            return
        with self._wake:
            if len(self._queue) == MOST_WAITING:
                self._queue.popleft()
                self._drop("too many waited")
            self._queue.append(body)
            self._wake.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:  # the machine allows no more threads
                self._thread, self._trouble = None, f"cannot send ({error})"

    def close(self, wait: float = 5.0) -> None:
        """Send what is queued, without pauses and for at most ``wait`` seconds; then nothing."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(wait)
        late = dropped = ""
        if self._thread is not None and self._thread.is_alive():
            late = f"no answer in {wait:g} s; the last messages were not sent"
        if self._dropped:
            dropped = f"messages that were not sent: {self._dropped} ({self._why})"
        self._say(self._trouble or late or dropped)
        self._closed = True

    def _say(self, trouble: str) -> None:
        if trouble and not self._said:
            self._said = True
            print(f"{self.name}: {trouble}", flush=True)

    def _drop(self, why: str) -> None:
        self._dropped, self._why = self._dropped + 1, why

    def _work(self) -> None:
        failures, body = 0, self._next()  # failures in a row
        while body is not None and not self._closed:
            status, problem = self._send(body)
            if status // 100 == 2:
                failures, body = 0, self._next()
                continue
            failures += 1
            may_improve = not status or status >= 500 or status in _BUSY | _REFUSED
            if failures > len(self.pauses) or not may_improve:
                times = f" after {failures} failures in a row" if failures > 1 else ""
                self._trouble = f"gave up{times} ({problem}); the run goes on without it"
                return
            with self._wake:
                self._wake.wait_for(lambda: self._closing, self.pauses[failures - 1])
                if status in _REFUSED:
                    self._drop(problem)
            if status in _REFUSED:
                body = self._next()

    def _next(self) -> dict[str, Any] | None:
        """The oldest request, once there is one; None: closed, and nothing is left."""
        with self._wake:
            self._wake.wait_for(lambda: self._queue or self._closing)
            return self._queue.popleft() if self._queue else None

    def _send(self, body: dict[str, Any]) -> tuple[int, str]:
        """Send one request: the reply's status, 0 for none, and what went wrong."""
        try:
            with (
                _Session() as session,
                session.post(
                    self._url, headers=self._headers, timeout=self.timeout, stream=True, **body
                ) as reply,
            ):
                return reply.status_code, f"HTTP {reply.status_code}"
        except Exception as error:  # whatever a library raises, the thread lives on to say it
            return 0, _cause(error)


def _cause(error: BaseException) -> str:
    """What an error began with; requests' and urllib3's own words quote the address."""
    while error.__context__:
        error = error.__context__
    is_quiet = isinstance(error, OSError) and not isinstance(error, requests.RequestException)
    return f"{type(error).__name__}: {error}"[:200] if is_quiet else type(error).__name__
'''


# ===== carcls/train/progress.py ===============================================
MODULES["train/progress.py"] = r'''"""What is said and told of a training's epochs and steps: lines, a bar, events, history.csv."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from carcls import metrics
from carcls.config import Config
from carcls.data.batches import Batches
from carcls.train import clock
from carcls.train.clock import Leg
from carcls.train.state import History
from carcls.train.steps import StepTimes
from carcls.train.watchers import Rate, Resumable, Send, deciding, number, rank, score

Feeds = tuple[Batches, Batches | None]  # to train on, and to validate, if any
WAITING = 0.1  # a larger share of an epoch's time is worth a word: the device had nothing to do


class Progress(Resumable, StepTimes):
    """A line an epoch, a bar within it on a terminal, an event, and history.csv."""

    fields = ("_best", "_startup")

    def __init__(
        self, cfg: Config, leg: Leg, rate: Rate, feeds: Feeds, send: Send, history: History
    ) -> None:
        self.train, self.check = feeds
        super().__init__(leg.steps, self.train.batch)
        self.cfg, self.leg, self.rate = cfg, leg, rate
        self.send, self.history = send, history
        self.shape = cfg.stages[leg.stage]
        self._best: Sequence[float] = (-math.inf, -math.inf)
        self._startup = 0.0  # seconds that the first step of the stage took beyond another
        self._head = (
            f"stage {leg.stage + 1}/{len(cfg.stages)} {'x'.join(map(str, self.shape.size))}"
        )
        self._has_bar = sys.stdout.isatty()
        self._drawn = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._epoch = epoch
        self._drawn = self.begin

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_end(batch, logs)
        done, now = self.last
        if self._has_bar and now - self._drawn >= 0.2:
            self._drawn = now
            filled = 20 * done // max(self.leg.steps, done)
            bar = f"[{'#' * filled}{'.' * (20 - filled)}] {done}/{self.leg.steps}"
            loss, accuracy = number(logs, "loss"), number(logs, "accuracy")
            self._draw(f"{bar}  loss {loss:.4f}  acc {accuracy:.4f}  {self.speed:.0f} images/s")

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._checking = time.monotonic()
        self._draw("validating")

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_test_batch_end(batch, logs)
        now, done, check = time.monotonic(), batch + 1, self.check
        if check and batch and self._is_quiet(now):  # the first step compiles, here too
            speed = done * check.batch / max(now - self._checking, 1e-9)
            self._tell(done, check.steps, speed, what="validation", **self._where())

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        best = "val_accuracy" in logs and (rank(logs) > tuple(self._best) or epoch == 0)
        if best:
            self._best = rank(logs)
        if epoch == 0:
            self._startup = self.startup
        row = self._row(epoch, logs, best)
        waiting = self.train.waited(epoch * self.leg.steps, self.ends)
        self._draw("")
        self._print(row, waiting)
        self.history.add(row)
        more = {"stages": len(self.cfg.stages), "epochs": self.leg.total, "waiting": waiting}
        self.send("epoch", **row, **more)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._draw("")

    def _about(self, logs: dict[str, Any]) -> dict[str, Any]:
        left = self._left(
            self.leg.steps * self.step, self.leg.total - self._epoch - self.last[0] / self.leg.steps
        )
        seen = {key: number(logs, key) for key in ("loss", "accuracy")}
        return {**self._where(), **seen, "left_s": round(left, 1)}

    def _where(self) -> dict[str, int]:
        return {"stage": self.leg.stage + 1, "epoch": self._epoch + 1}

    def _row(self, epoch: int, logs: dict[str, Any], best: bool) -> dict[str, Any]:
        seconds = time.monotonic() - self.begin
        last_step = (epoch - self.leg.first + 1) * self.leg.steps - 1
        shown = ["loss", "accuracy", "val_loss", "val_accuracy", f"val_{deciding(logs)}"]
        return {
            "stage": self.leg.stage + 1,
            "height": self.shape.height,
            "width": self.shape.width,
            "epoch": epoch + 1,
            "photos": self.leg.steps * self.batch,
            "lr": self.rate(last_step),
            **{key: number(logs, key) for key in shown},
            "best": best,
            "images_per_s": round(self.speed, 1),
            "seconds": round(seconds, 2),
            "left_s": round(self._left(seconds - self.startup, self.leg.total - epoch - 1), 1),
        }

    def _print(self, row: dict[str, Any], waiting: float | None) -> None:
        total = self.leg.total
        star = "*" if row["best"] else " "
        metric = deciding(row)
        other = f"  val {metrics.SHOWN[metric]} {score(row):.4f}" if metric != "accuracy" else ""
        validation = f"val loss {row['val_loss']:.4f}  val acc {row['val_accuracy']:.4f}"
        print(
            f"{self._head}  epoch {row['epoch']:>{len(str(total))}}/{total}  lr {row['lr']:.2e}  "
            f"loss {row['loss']:.4f}  acc {row['accuracy']:.4f}  "
            f"{'' if math.isnan(row['val_accuracy']) else f'{validation}{other}{star}  '}"
            f"{row['images_per_s']:.0f} images/s  "
            f"{f'{waiting:.0%} waiting for photos  ' if waiting and waiting > WAITING else ''}"
            f"{clock.show(row['left_s'])} left",
            flush=True,
        )

    def _left(self, seconds: float, epochs: float) -> float:
        """Seconds of training left: an epoch's time per pixel over the pixels still to come.

        epochs: of this stage, still to come.
        """
        here = self.shape.height * self.shape.width
        stages = len(self.cfg.stages) - self.leg.stage - 1
        return seconds * (epochs * here + self.leg.later) / here + stages * self._startup

    def _draw(self, text: str) -> None:
        """Show ``text`` in the bar's line instead of what is there; empty clears it."""
        if self._has_bar:
            line = text and f"{self._head} epoch {self._epoch + 1}/{self.leg.total} {text}"
            sys.stdout.write("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1])
            sys.stdout.flush()
'''


# ===== carcls/train/rebase.py =================================================
MODULES["train/rebase.py"] = r'''"""BN's first statistics, from the photos that a network is to learn."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from carcls.data.batches import Epochs, make_batches
from carcls.nets import model
from carcls.train.timing import Timed

# Photos at a time, by their pixels: all of their features are kept meanwhile, and a few small ones
# take as long as many (MEASUREMENTS: BN's first statistics, by larger batches).
PIXELS, FEWEST, MOST = 8 * 288 * 384, 8, 64
TIME_SHARE = 0.02  # of the time left that this may take


def rebase(trainer: Timed) -> None:
    """Start BN from the statistics of some photos, augmented as for the first stage."""
    cfg, stage, timekeeper = trainer.job.cfg, trainer.job.cfg.stages[0], trainer.time
    at_a_time = min(max(PIXELS // (stage.height * stage.width), FEWEST), MOST)
    few = cfg.replace(batch=min(len(trainer.job.learn), cfg.bn_photos, at_a_time))
    steps = -(-cfg.bn_photos // few.batch)
    first = Epochs(0, range(1), lambda epoch: cfg.strength.start, steps)
    # Without the machine: every process looks at the same photos.
    cache = trainer.s.photos(stage.size, cfg.fit)
    batches = make_batches(cache, trainer.job.learn, trainer.classes, first, few)
    seen, began = 0, time.monotonic()

    def in_time() -> Iterator[np.ndarray]:
        nonlocal seen
        for images, _, _ in batches.dataset:
            if seen and timekeeper.is_limited:
                spent = timekeeper.agree(time.monotonic() - began)
                if spent > TIME_SHARE * timekeeper.left():
                    return
            seen += len(images)
            yield images.numpy()

    count = model.rebase_batch_norms(trainer.net, in_time())
    if count:
        print(f"batch norm {count} layers start from the statistics of {seen} train photos")
'''


# ===== carcls/train/state.py ==================================================
MODULES["train/state.py"] = r'''"""The state of a training after its last epoch and after its best one: arrays, and one note.

What is in the note says ``Trainer._describe``, with the fields of the callbacks.

Every file is written whole before the note that names it, and the note is replaced in one move:
a kill at any moment leaves the old state or the new one.
"""

from __future__ import annotations

import csv
import io
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from carcls import disk
from carcls.record import Facts, differences, rows

Note = dict[str, Any]  # of a state, for JSON


class States:
    """The folder of a training's states."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.file = folder / "note.json"

    def load(self, facts: Facts) -> Note | None:
        """The note of the last epoch; None, with a line that says why, where it cannot be used."""
        try:
            note = self._note()
            why = differences(note["facts"], facts)
            for name in () if why else {note["last"], note["best"]}:
                if not (self.folder / name).is_file() and (self.folder / name).exists():
                    raise ValueError(f"{name} is not a file")
                with zipfile.ZipFile(self.folder / name) as arrays:
                    if _listing(arrays) != note["sums"][name] or arrays.testzip():
                        why.append(f"{self.folder / name} is damaged")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, *disk.NO_ZIP) as error:
            why = [f"{self.folder} is not what a run leaves ({error})"]
        if why:
            print(f"{self.folder.parent.name}: training starts anew: {'; '.join(why)}")
            return None
        return note

    def arrays(self, which: str) -> list[np.ndarray]:
        """Of the "last" epoch or the "best" one."""
        with np.load(self.folder / self._note()[which]) as arrays:
            return [arrays[f"arr_{i}"] for i in range(len(arrays.files))]

    def save(self, number: int, note: Note, arrays: Sequence[np.ndarray], best: bool) -> None:
        """Make this the last state, and if it is the best one that too; number: of the epoch.

        ``note`` has what the training is made from as "facts".
        """
        name = f"{number}.npz"
        disk.make_folder(self.folder)
        with disk.replacing(self.folder / name) as part, part.open("wb") as file:
            np.savez(file, *arrays)
        before = {} if best else self._note()
        best_name = before.get("best", name)
        sums = {best_name: before["sums"][best_name]} if before else {}
        with zipfile.ZipFile(self.folder / name) as written:
            sums[name] = _listing(written)
        disk.write_json(self.file, {**note, "last": name, "best": best_name, "sums": sums})
        for old in self.folder.iterdir():
            if old.name not in (name, best_name, self.file.name):
                old.unlink()

    def amend(self, **changes: Any) -> None:
        """Change the note of the last epoch, and nothing else."""
        disk.write_json(self.file, self._note() | changes)

    def remove(self) -> None:
        """The training has ended, or starts anew."""
        disk.remove(self.file)  # first: without it the rest is nothing
        shutil.rmtree(self.folder, ignore_errors=True)

    def _note(self) -> Note:
        """Raises FileNotFoundError without one, ValueError if it is not as it was left."""
        return disk.unsealed(disk.read_json(self.file))


def _listing(arrays: zipfile.ZipFile) -> str:
    """A digest of the names, sizes and checksums of what is in a file of arrays."""
    return rows([[info.filename, info.file_size, info.CRC] for info in arrays.infolist()])


class History:
    """One row an epoch over all stages, in memory and as history.csv."""

    def __init__(self, path: Path, rows: list[dict[str, Any]]) -> None:
        self.path, self.rows = path, rows

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.write()

    def write(self) -> None:
        disk.make_way(self.path)
        disk.write_atomic(self.path, self.text())

    def text(self) -> str:
        """As CSV."""
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, self.rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        return text.getvalue()
'''


# ===== carcls/train/steps.py ==================================================
MODULES["train/steps.py"] = r'''"""Seconds of training and prediction steps, taken and told in one place."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras

from carcls import stops
from carcls.data.batches import Batches
from carcls.train.events import Events

QUIET = 60.0  # seconds without any event after which a step is told of

_told: ContextVar[tuple[Events, dict[str, str]] | None] = ContextVar("told", default=None)


@contextmanager
def told(events: Events, network: str, what: str) -> Iterator[None]:
    """Inside, whoever watches is told once a minute how many steps are done, and of what."""
    before = _told.set((events, {"network": network, "what": what}))
    try:
        yield
    finally:
        _told.reset(before)


class StepTimes(keras.callbacks.Callback):
    """Seconds of the steps of an epoch, or of a prediction: the one place where they are taken.

    A GPU may be behind the program, but Keras turns the logs into numbers first: the step is over.
    """

    async_safe = True  # Keras need not wait for each step's numbers where JAX computes ahead

    def __init__(self, steps: int = 0, batch: int = 0) -> None:
        """steps: that there will be, of so many photos each; for who is told of them."""
        super().__init__()
        self.steps, self.batch = steps, batch
        self._told = _told.get()
        self.on_epoch_begin(0)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.begin = time.monotonic()
        self.first = self.last = (0, self.begin)  # (steps that are done, when)
        self.ends: dict[int, float] = {}  # step → when it was over

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        stops.check()
        done = (batch + 1, time.monotonic())
        self.first = self.first if self.first[0] else done
        self.last = max(self.last, done)  # on JAX several threads come here
        self.ends[batch] = done[1]
        # The first step traces and compiles: from it alone the time left would be hours.
        if done[0] > self.first[0] and self._is_quiet(done[1]):
            self._tell(done[0], self.steps, self.speed, **self._about(logs or {}))

    on_predict_batch_end = on_train_batch_end

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        stops.check()

    @property
    def step(self) -> float:
        """Seconds a step, without the first one where there are more: it also traces."""
        (first, start), (last, end) = self.first, self.last
        if last > first:
            return (end - start) / (last - first)
        return (end - self.begin) / max(last, 1)

    @property
    def speed(self) -> float:
        """Photos a second."""
        return self.batch / max(self.step, 1e-9)

    @property
    def startup(self) -> float:
        """Seconds that the first step took beyond an ordinary one."""
        return max(0.0, self.first[1] - self.begin - self.first[0] * self.step)

    def _is_quiet(self, now: float) -> bool:
        return self._told is not None and now - self._told[0].sent_at >= QUIET

    def _tell(self, done: int, steps: int, speed: float, **more: Any) -> None:
        assert self._told is not None
        events, about = self._told
        counted = {"done": done, "steps": steps, "images_per_s": round(speed, 1)}
        events.send("step", **(about | counted | more))

    def _about(self, logs: dict[str, Any]) -> dict[str, Any]:
        """What else is told of a step with these logs."""
        return {}


def time_training(net: keras.Model, batches: Batches, steps: int) -> float:
    """Seconds a training step, of so many real ones; the network is another one then."""
    count = min(batches.steps, steps)
    times = StepTimes(count, batches.batch)
    net.fit(batches.dataset, steps_per_epoch=count, callbacks=[times], verbose=0)
    return times.step


def time_looks(net: keras.Model, batches: Batches, steps: int = 8) -> float:
    """Seconds a photo that is predicted once, of the first few batches."""
    count = min(batches.steps, steps)
    times = StepTimes(count, batches.batch)
    net.predict(batches.dataset, steps=count, callbacks=[times], verbose=0)
    return times.step / batches.batch
'''


# ===== carcls/train/studio.py =================================================
MODULES["train/studio.py"] = r'''"""What a training works with, and what it comes to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import keras

from carcls.data.cache import PhotoCache
from carcls.data.photos import Rows, Table
from carcls.machine import Machine
from carcls.metrics import Metric
from carcls.record import Facts
from carcls.train.events import Events

BEST, LAST, HISTORY = "best.weights.h5", "last.weights.h5", "history.csv"

# What a network is good for so far: network, size, what it is, the metric of validation photos.
Announce = Callable[[keras.Model, tuple[int, int], str, float], None]


class Studio(Protocol):
    """What a training needs of the session."""

    machine: Machine
    table: Table
    metric: Metric  # that chooses the best epoch
    events: Events

    def photos(self, size: tuple[int, int], fit: str) -> PhotoCache: ...

    def spoiled(self, *parts: Rows) -> Facts: ...


@dataclass(frozen=True)
class Trained:
    """What a training has come to. Its files are in the job's folder."""

    size: tuple[int, int]  # of the last stage that was trained
    seconds: float  # in all sessions, validation included, without what was announced
    rows: list[dict[str, Any]]  # of its history
    net: keras.Model | None = None  # where it was trained in this session


def in_scope(rt: Machine, make: Callable[[], Any]) -> Any:
    """With several GPUs, variables must be made inside the strategy's scope."""
    if rt.strategy is None:
        return make()
    with rt.strategy.scope():
        return make()
'''


# ===== carcls/train/timing.py =================================================
MODULES["train/timing.py"] = r'''"""How much of a network's training there is time for, by seconds that were measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras
import numpy as np

from carcls import disk
from carcls.data.batches import Batches
from carcls.data.photos import Rows
from carcls.nets import model
from carcls.train import clock, steps
from carcls.train.clock import Ahead, Leg, Pace
from carcls.train.job import Job
from carcls.train.studio import Studio

WARM, LEAST, MOST = 3, 5, 40  # steps of each size: to warm up, at least and at most that count
MEASURING = 0.01  # of the time left, about: what it misses, the first epoch makes good
AMPLE = 0.5  # of the time left: training that takes no more is not looked at after each epoch
SAID = 0.05  # a share that changes by more is printed


class Timed(Protocol):
    """A training, as far as its time depends on it: a trainer.Trainer."""

    s: Studio
    job: Job
    net: keras.Model
    time: Timekeeper
    steps: int  # of a whole epoch
    batch: int
    classes: int
    n_test: int
    announce: Any  # None: nothing is predicted before the end
    was_announced: bool

    def batches(self, leg: Leg) -> Batches: ...

    def looks(self, number: int, rows: Rows, view: int = 0) -> Batches: ...


@dataclass
class Timekeeper:
    """The time of one network, in every process the same."""

    deadline: float  # by time.monotonic, when it must have voted; infinite: no limit
    agree: Callable[[float], float]  # makes several processes see one clock
    whole: float = field(init=False)  # seconds to the deadline, at first
    base: Pace | None = None  # measured before training; None: no limit, or no time to measure
    pace: Pace | None = None  # as the last epoch has shown it
    share: float = 1.0  # of the steps still planned that there is time for
    is_short: bool = False  # the plan may change after any epoch
    was_cut: bool = False  # steps were left out
    said: float = field(default=1.0, repr=False)  # the last share that was printed

    def __post_init__(self) -> None:
        self.whole = self.left()

    @property
    def is_limited(self) -> bool:
        return self.deadline != float("inf")

    def left(self) -> float:
        """Seconds until the deadline; a billion without one."""
        return self.agree(self.deadline - time.monotonic()) if self.is_limited else 1e9

    def plan(self, trainer: Timed, number: int, planned: float) -> float:
        """The share of what is planned that there is time for: stage ``number`` and the later ones.

        planned: epochs of that stage still to come.
        """
        if not self.is_limited:
            return 1.0
        if self.pace is None:
            self.share, self.was_cut = 0.0, True
            return 0.0
        ahead, left = _ahead(trainer, self.pace, number, planned), self.left()
        self.share = ahead.share(left, self.whole)
        self.is_short = self.share < 1 or ahead.training() > AMPLE * left
        if abs(self.share - self.said) > SAID:
            self.said = self.share
            print(
                f"time       {clock.show(left)} left for this network: {self.share:.0%} of the "
                f"{clock.show(ahead.training())} of training that are planned",
                flush=True,
            )
        self.was_cut |= self.share < 1
        return self.share

    def learn(self, leg: Leg, step: float, rest: float) -> None:
        """Seconds that a step, and all else of an epoch, have just taken in that leg."""
        if self.base:
            self.pace = self.base.by(leg.stage, self.agree(step), self.agree(rest))


def _ahead(trainer: Timed, pace: Pace, number: int, planned: float) -> Ahead:
    stages, job = trainer.job.cfg.stages, trainer.job
    n_check, n_test = len(job.check), trainer.n_test
    epochs = [0.0] * number + [planned] + [float(stage.epochs) for stage in stages[number + 1 :]]
    pixels = _of_last(stages)
    announced = sum(pixels[number:-1]) + (0.0 if trainer.was_announced else pixels[number])
    return Ahead(
        pace=pace,
        epochs=epochs,
        steps=trainer.steps,
        early=announced * n_test * pace.look if trainer.announce else 0.0,
        votes=pace.look * clock.passes(trainer.job.cfg.asked_views, n_check, n_test),
        one_view=pace.look * (n_check + n_test),
    )


def _of_last(stages: Any) -> list[float]:
    """Pixels of each stage's photos as a share of the last one's."""
    last = stages[-1].height * stages[-1].width
    return [stage.height * stage.width / last for stage in stages]


def measure(trainer: Timed) -> Pace | None:
    """Time a few real steps of each size; the network has its old state afterwards.

    None if the time has run out meanwhile: tracing a step may take longer than an epoch.
    """
    cfg, net, timekeeper = trainer.job.cfg, trainer.net, trainer.time
    before = model.state(net)
    seconds = []
    for number, stage in enumerate(cfg.stages):
        if timekeeper.left() <= 0:
            return None
        whole = clock.next_leg(number, 0, float(stage.epochs), trainer.steps, 1.0)
        batches = trainer.batches(whole)
        warm = timekeeper.agree(steps.time_training(net, batches, WARM))
        count = min(MOST, int(MEASURING * max(0.0, timekeeper.left()) / max(warm, 1e-9)))
        slow = count < LEAST  # then the first ones have to do
        again = warm if slow else steps.time_training(net, batches, count)
        seconds.append(timekeeper.agree(again))
    rows = trainer.job.check if len(trainer.job.check) else trainer.job.learn
    looks = trainer.looks(len(cfg.stages) - 1, rows, 2 if cfg.asked_views.most > 2 else 0)
    steps.time_looks(net, looks)  # decoded and traced
    look = timekeeper.agree(steps.time_looks(net, looks))
    model.restore(net, before)
    saving = timekeeper.agree(_time_saving(trainer, before))
    check = [saving + part * look * len(trainer.job.check) for part in _of_last(cfg.stages)]
    timed = ", ".join(
        f"{1000 * step:.3g} ms at {stage.height}x{stage.width}"
        for step, stage in zip(seconds, cfg.stages, strict=True)
    )
    print(f"timed      a step of {trainer.batch} photos takes {timed}; {1 / look:.0f} views/s")
    return Pace(seconds, check, look)


def _time_saving(trainer: Timed, arrays: list[np.ndarray]) -> float:
    """Seconds to keep a state."""
    began, file = time.monotonic(), trainer.job.folder / "timed.npz"
    with disk.replacing(file) as part:
        np.savez(part, *arrays)
    file.unlink()
    return time.monotonic() - began
'''


# ===== carcls/train/trainer.py ================================================
MODULES["train/trainer.py"] = r'''"""One network on its way through the stages."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic
from typing import Any

import keras

from carcls import record
from carcls.config import Config
from carcls.data.batches import Batches, Epochs, Looks, make_batches
from carcls.data.photos import TEST, Rows
from carcls.nets import model, schedule
from carcls.record import Facts
from carcls.train import clock, watchers
from carcls.train.balance import weighted
from carcls.train.clock import Leg, Ramp
from carcls.train.job import Job
from carcls.train.progress import Feeds, Progress
from carcls.train.rebase import rebase
from carcls.train.state import History, Note, States
from carcls.train.studio import HISTORY, Announce, Studio, Trained, in_scope
from carcls.train.timing import Timekeeper, measure


@dataclass
class Trainer:
    """One network on its way through the stages."""

    s: Studio
    job: Job
    states: States
    facts: Facts
    time: Timekeeper
    announce: Announce | None
    earlier_seconds: float = 0.0  # of training, in earlier sessions
    paused: float = 0.0  # seconds of announcing
    saving: float = 0.0  # seconds in which states were kept
    compiled: int = -1  # the stage that the network was compiled for
    was_announced: bool = False
    history: History = field(init=False)

    def run(self, note: Note | None) -> Trained | None:
        """Train to the end, from the beginning or from the state that the note is of."""
        if not note and self.time.left() <= 0:
            return None
        self._build(note)
        if self.time.is_limited:
            self._compile(len(self.cfg.stages) - 1 if self.cfg.unfreeze == "staged" else 0)
            self.time.base = self.time.pace = measure(self)
        if note:
            self._resume(note)
        elif not self.time.plan(self, 0, self.cfg.stages[0].epochs):
            return None
        stage = note["stage"] if note else 0
        for number in range(stage, len(self.cfg.stages)):
            if not self._train_stage(number, note if number == stage else None):
                break
        took = max(1e-9, monotonic() - self.began - self.paused)
        kept = f"{self.saving:.1f} s of it ({self.saving / took:.1%}) to keep every epoch's state"
        print(f"training   {took:.0f} s, {kept}")
        last = self.history.rows[-1]
        size = last["height"], last["width"]
        return Trained(size, self._seconds(), self.history.rows, self.net)

    @property
    def cfg(self) -> Config:
        return self.job.cfg

    def restore(self, which: str) -> None:
        """Put the last or the best state of the last stage into the network, as it was checked."""
        model.restore(self.net, self.states.arrays(which))
        if self.averaged:
            self.averaged.settle()

    def shortened(self) -> str:
        """How often the photos were seen of what is set, where time was too short; else ""."""
        passes = sum(row["photos"] for row in self.history.rows) / len(self.job.learn)
        return f"{passes:.1f} of {self._total} passes over the photos" if self.time.was_cut else ""

    # --- The beginning --------------------------------------------------------------------------

    def _build(self, note: Note | None) -> None:
        cfg, job, rt = self.cfg, self.job, self.s.machine
        self.began = monotonic()
        self.classes = len(self.s.table.classes)
        self.n_test = len(self.s.table.rows(TEST))
        self.asked = rt.batch_size(cfg.batch)  # of a step on this machine
        self.batch = rt.batch_size(cfg.batch, len(job.learn))  # fewer where there are fewer photos
        self.steps = max(1, len(job.learn) // self.batch)  # of a whole epoch
        self.history = History(job.folder / HISTORY, note["rows"] if note else [])
        keras.utils.set_random_seed(cfg.seed)  # the same whichever network came before it
        build = partial(model.build, cfg, rt, self.classes, self.steps)
        self.net, loaded = in_scope(rt, build)
        if job.start:
            self.net.load_weights(job.start)
            loaded = f"going on from {job.start.name}"
        print(f"network    {cfg.backbone}, {self.net.count_params():,} weights, {loaded}")
        self.averaged = watchers.AveragedWeights() if cfg.ema else None
        if self.averaged:
            self.averaged.set_model(self.net)
        # Not a network that goes on, one from scratch, or one whose BN is frozen.
        stays = job.start or cfg.weights == "none" or cfg.freeze_bn or cfg.unfreeze == "head"
        if cfg.bn_photos and not stays and not note:
            rebase(self)

    def _resume(self, note: Note) -> None:
        """Take up the state that the note is of."""
        number, epoch = note["stage"], note["epoch"]
        self.earlier_seconds, self.time.was_cut = note["seconds"], note["was_cut"]
        where = f"{epoch} of them in stage {number + 1}/{len(self.cfg.stages)}"
        print(f"resumed    after {len(self.history.rows)} epochs, {where}")
        self._open(number)
        model.restore(self.net, self.states.arrays("last"))
        if self.rate is None and note["batch"] != self.asked:
            # The state has the plateau's rate, which is of the batch that it was kept with.
            self.net.optimizer.learning_rate = self._rate_now() * self.asked / note["batch"]
        self.was_announced = note["was_announced"]
        if self.announce and not self.was_announced:  # a kill came before there was a submission
            score = watchers.score(self.history.rows[-1])
            self._announce(number, f"epoch {epoch} of stage {number + 1}", score)
            self.states.amend(was_announced=True)

    def _open(self, number: int) -> None:
        """Make the network ready for that stage.

        One compilation serves all stages unless the set of training weights changes: tracing a
        step takes longer than a small epoch, and the optimiser's moments stay valid.
        """
        if self.compiled < 0 or (self.cfg.unfreeze == "staged" and self.compiled != number):
            self._compile(number)

    def _compile(self, number: int) -> None:
        """For that stage. A learning rate that a plateau has lowered stays where it is."""
        is_lowered = self.cfg.schedule == "plateau" and self.compiled >= 0
        lowered_rate = self._rate_now() if is_lowered else 0.0
        model.open_layers(self.cfg, self.net, number)
        to_compile = self.cfg, self.net, self.s.machine, self.s.metric
        self.rate = in_scope(self.s.machine, partial(model.compile_model, *to_compile))
        if is_lowered:
            self.net.optimizer.learning_rate = lowered_rate
        self.compiled = number

    # --- A stage --------------------------------------------------------------------------------

    def _train_stage(self, number: int, note: Note | None) -> bool:
        """Train one stage, from the epoch that the note is of; False if time has run out.

        The network then has the stage's best weights.
        """
        stage, is_last = self.cfg.stages[number], number + 1 == len(self.cfg.stages)
        print(
            f"stage {number + 1}/{len(self.cfg.stages)}  {stage}; "
            f"{self.s.photos(stage.size, self.cfg.fit)}"
        )
        self._open(number)
        has_time = True
        while not (note and note["over"]):  # note: of the stage's last epoch, None before it
            first, planned = (note["epoch"], note["planned"]) if note else (0, float(stage.epochs))
            share = self.time.plan(self, number, planned)
            if not share and self.history.rows:
                has_time = False
                break
            note = self._fit(clock.next_leg(number, first, planned, self.steps, share), note)
        if note:
            self.restore("best")
        if self.announce and has_time and not is_last:
            rows = (row for row in self.history.rows if row["stage"] == number + 1)
            best = watchers.score(max(rows, key=watchers.rank))
            self._announce(number, f"best epoch of stage {number + 1}", best)
        return has_time

    def _fit(self, leg: Leg, note: Note | None) -> Note:
        """Train a leg of a stage; returns the note of its last epoch."""
        epochs = 1 if self.time.is_short else leg.epochs
        leg = replace(leg, epochs=epochs, later=self._later(leg.stage))
        ramp = self._ramp(leg, note)
        if self.rate:
            self.rate.follow(*ramp)
        began, paused = monotonic(), self.paused
        train = self.batches(leg)
        check = self.looks(leg.stage, self.job.check) if len(self.job.check) else None
        watching = self._watchers(leg, ramp, note, (train, check))
        validation: dict[str, Any] = {}
        if check:
            validation = {"validation_data": check.dataset, "validation_steps": check.steps}
        self.net.fit(
            train.dataset,
            initial_epoch=leg.first,
            epochs=leg.first + leg.epochs,
            steps_per_epoch=leg.steps,
            callbacks=list(watching.values()),
            verbose=0,
            **validation,
        )
        checkpoint, progress = watching["checkpoint"], watching["progress"]
        self.saving += checkpoint.seconds
        if not checkpoint.note["over"]:  # the end of fit has put averaged weights into the network
            model.restore(self.net, self.states.arrays("last"))
        if self.time.is_limited:
            tracing = 0.0 if leg.first else progress.startup  # in a stage's first epoch
            took = (monotonic() - began - (self.paused - paused) - tracing) / leg.epochs
            self.time.learn(leg, progress.step, max(0.0, took - leg.steps * progress.step))
        return checkpoint.note

    def batches(self, leg: Leg) -> Batches:
        """To train a leg."""
        last = self._progress(self._total - 1)

        def strength(epoch: int) -> float:
            position = self._position(leg, epoch)
            part = self._progress(position) / last if last else 0.0
            return schedule.strength(self.cfg, min(1.0, part))

        numbers = range(leg.first, leg.first + leg.epochs)
        cache = self.s.photos(self.cfg.stages[leg.stage].size, self.cfg.fit)
        how = Epochs(leg.stage, numbers, strength, leg.steps)
        made = make_batches(cache, self.job.learn, self.classes, how, self.cfg, self.s.machine)
        return weighted(made, self.job, self.classes)

    def looks(self, number: int, rows: Rows, view: int = 0) -> Batches:
        """To predict these photos once, in that view."""
        cache = self.s.photos(self.cfg.stages[number].size, self.cfg.fit)
        how = Looks(range(view, view + 1))
        return make_batches(cache, rows, self.classes, how, self.cfg, self.s.machine)

    def _watchers(self, leg: Leg, ramp: Ramp, note: Note | None, feeds: Feeds) -> dict[str, Any]:
        """The callbacks of ``fit`` by name, in their order, with the fields that the note has."""
        cfg, rate = self.cfg, partial(self._logged_rate, ramp, self._iterations())
        send = partial(self.s.events.send, network=self.job.name)
        found: dict[str, Any] = {"nan": watchers.StopOnNaN(cfg, leg, rate)}
        if self.averaged:
            found["averaged"] = self.averaged
        if self.s.machine.strategy:
            found["replicas"] = model.EqualReplicas(self.s.machine.strategy)
        if cfg.schedule == "plateau":
            options = {"factor": 0.3, "patience": 2, "min_lr": cfg.lr / 1e3}
            found["plateau"] = watchers.Plateau(monitor="val_loss", **options)
        if not self.history.rows:  # what another training left in the folder counts until then
            found["forget_others"] = keras.callbacks.LambdaCallback(
                on_epoch_end=self._forget_others
            )
        found["progress"] = Progress(cfg, leg, rate, feeds, send, self.history)
        found["early_stop"] = watchers.EarlyStop(cfg.patience, send)
        if cfg.tensorboard:
            logs = self.job.folder / "tensorboard" / f"stage{leg.stage + 1}"
            found["tensorboard"] = keras.callbacks.TensorBoard(str(logs), write_graph=False)
        resumable = {n: each for n, each in found.items() if isinstance(each, watchers.Resumable)}
        describe = partial(self._describe, leg, ramp, resumable)
        epochs_before = len(self.history.rows) - leg.first
        found["checkpoint"] = watchers.Checkpoint(self.states, describe, epochs_before)
        resumable["checkpoint"] = found["checkpoint"]
        if self.announce and not self.history.rows:
            found["announce"] = keras.callbacks.LambdaCallback(on_epoch_end=self._announce_first)
        for name, each in resumable.items():
            if note and name in note["watchers"]:
                each.restore(note["watchers"][name])
        return found

    def _describe(
        self, leg: Leg, ramp: Ramp, resumable: dict[str, Any], epoch: int
    ) -> dict[str, Any]:
        """All that is not a number of the network, for JSON, after so many epochs of the stage."""
        left = leg.planned - (epoch - leg.first) * leg.worth
        return {
            "facts": self.facts | self.s.spoiled(self.job.learn, self.job.check),
            "stage": leg.stage,
            "epoch": epoch,
            "planned": left,
            "over": resumable["early_stop"].has_stopped or left < 1e-6,
            "batch": self.asked,
            "next_batch": self.asked,
            "ramp": ramp,
            "rows": self.history.rows,
            "seconds": self._seconds(),
            "was_announced": self.was_announced,
            "was_cut": self.time.was_cut,
            "watchers": {name: each.kept() for name, each in resumable.items()},
        }

    def _forget_others(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Nothing of another training in the folder counts any more, once this one has an epoch."""
        if not self.history.rows:
            record.Steps(self.job.folder).forget()
            self.states.remove()

    # --- Progress of the run, 0 to 1 ------------------------------------------------------------

    @property
    def _total(self) -> int:
        """Epochs of all stages."""
        return sum(stage.epochs for stage in self.cfg.stages)

    def _position(self, leg: Leg, epoch: int) -> float:
        """Epochs of the plan that are done when that epoch of the stage begins."""
        end_of_stage = sum(stage.epochs for stage in self.cfg.stages[: leg.stage + 1])
        return end_of_stage - leg.planned + (epoch - leg.first) * leg.worth

    def _progress(self, position: float) -> float:
        return min(1.0, position * (1 / self._total))

    def _ramp(self, leg: Leg, note: Note | None) -> Ramp:
        """How progress rises in this leg; where a kill cut it, along the same line as before."""
        per_step = leg.worth * (1 / self._total) / leg.steps
        if note and note["ramp"][2] == per_step and not self.time.is_short:
            return tuple(note["ramp"])
        return self._iterations(), self._progress(self._position(leg, leg.first)), per_step

    def _logged_rate(self, ramp: Ramp, begin: int, step: int) -> float:
        """Learning rate of a step of the leg, which began with the optimiser's step ``begin``."""
        if self.rate is None:
            return self._rate_now()
        at, progress, per_step = ramp
        return schedule.rate_at(self.cfg, min(1.0, progress + (begin + step - at + 0.5) * per_step))

    def _rate_now(self) -> float:
        return float(model.numbers(self.net.optimizer.learning_rate))

    def _iterations(self) -> int:
        return int(model.numbers(self.net.optimizer.iterations))

    def _seconds(self) -> float:
        """Of training in all sessions, without what was announced."""
        return self.earlier_seconds + monotonic() - self.began - self.paused

    def _later(self, number: int) -> float:
        """Pixels of a photo × epochs that later stages will train, as it looks now."""
        later = self.cfg.stages[number + 1 :]
        return self.time.share * sum(s.epochs * s.height * s.width for s in later)

    # --- Announcing -----------------------------------------------------------------------------

    def _announce_first(self, epoch: int, logs: dict[str, Any]) -> None:
        if epoch == 0:
            self._announce(0, "first epoch", watchers.score(logs))
            self.states.amend(was_announced=True)

    def _announce(self, number: int, what: str, score: float) -> None:
        """Hand over the network as validation has measured it."""
        began = monotonic()
        assert self.announce is not None
        is_best = what.startswith("best")  # its averaged weights are settled
        with self.averaged.swapped() if self.averaged and not is_best else nullcontext():
            self.announce(self.net, self.cfg.stages[number].size, what, score)
        self.was_announced = True
        self.paused += monotonic() - began
'''


# ===== carcls/train/watchers.py ===============================================
MODULES["train/watchers.py"] = r'''"""What watches a training: averaged weights, checkpoints and stops; ``Progress`` is beside it.

Import it after ``machine.setup`` has chosen the Keras backend. Of the callbacks' order in ``fit``
one thing matters: Checkpoint comes after those whose fields are part of the state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from carcls import metrics
from carcls.config import Config
from carcls.errors import TrainingDiverged
from carcls.metrics import Metric
from carcls.nets.model import numbers, state
from carcls.train.clock import Leg
from carcls.train.state import States

Rate = Callable[[int], float]  # step of a leg, from 0 → learning rate
Send = Callable[..., None]  # an event of this network: its kind, and values by name
# Epochs of a stage in which early stopping does not act: BN's statistics make them noisy.
UNSTEADY = 3


def deciding(logs: dict[str, Any]) -> Metric:
    """What decides: the metric that the network was compiled with beside accuracy, if any."""
    others = (name for name in metrics.NAMES if name != "accuracy" and f"val_{name}" in logs)
    return next(others, "accuracy")


def score(logs: dict[str, Any]) -> float:
    """What decides, of the validation photos; logs: of an epoch, or a row of the history."""
    return number(logs, f"val_{deciding(logs)}")


def rank(logs: dict[str, Any]) -> tuple[float, float]:
    """Sorts epochs: the better metric first, then the lower validation loss, NaN last."""
    loss = metrics.merit("log_loss", number(logs, "val_loss"))
    return metrics.merit(deciding(logs), score(logs)), loss


def number(logs: dict[str, Any] | None, key: str) -> float:
    """Of an epoch or a step; NaN where there is none."""
    return float((logs or {}).get(key, math.nan))


class Resumable:
    """A callback some of whose fields are part of a training's state."""

    fields: tuple[str, ...] = ()
    _restored: dict[str, Any] | None = None

    def kept(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return {name: getattr(self, name) for name in self.fields}

    def restore(self, kept: dict[str, Any]) -> None:
        """Take what ``kept`` gave, once ``fit`` begins, which resets Keras's own callbacks."""
        self._restored = kept

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)  # type: ignore[misc]  # of the Keras callback that comes next
        for name, value in (self._restored or {}).items():
            setattr(self, name, value)


class AveragedWeights(keras.callbacks.Callback):
    """Validates with the optimizer's moving average of the weights, trains with the raw ones.

    The average is in the model from on_test_begin to on_test_end, and inside ``swapped()``. BN
    statistics are those of the raw weights. ``predict`` is left alone: Keras's SwapEMAWeights
    leaves the swapped weights in the model there. At the end of ``fit`` Keras itself puts the
    average into the model for good.
    """

    def __init__(self) -> None:
        super().__init__()
        self._raw: list[np.ndarray[Any, Any]] | None = None

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._enter()

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        self._leave()

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The model has the averaged weights inside and the raw ones after."""
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def settle(self) -> None:
        """The averaged weights take the raw ones' place for good."""
        for weight, average in self._pairs():
            weight.assign(numbers(average))

    def _pairs(self) -> list[tuple[Any, Any]]:
        optimizer: Any = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # under loss scaling
        if not optimizer.built or not int(numbers(optimizer.iterations)):
            return []  # before the first step the averages are zeros
        # The optimizer's own list is in the order of its averages; the model's may have changed.
        weights, averages = (
            optimizer._trainable_variables,
            optimizer._model_variables_moving_average,
        )
        pairs = zip(weights, averages, strict=True)
        return [(weight, average) for weight, average in pairs if average is not None]

    def _enter(self) -> None:
        assert self._raw is None, "the averaged weights are in the model already"
        pairs = self._pairs()
        self._raw = [numbers(weight) for weight, _ in pairs]
        for weight, average in pairs:
            weight.assign(numbers(average))

    def _leave(self) -> None:
        raw, self._raw = self._raw or [], None
        for (weight, _), value in zip(self._pairs(), raw, strict=True):
            weight.assign(value)


class Checkpoint(Resumable, keras.callbacks.Callback):
    """Keeps the state of every epoch, and of a stage's best one: by the metric, then by loss.

    Without validation the last epoch is the best. Comes last among the callbacks: ``describe``
    says what else is part of the state, these callbacks' fields among it.
    """

    fields = ("best", "best_epoch")

    def __init__(
        self, states: States, describe: Callable[[int], dict[str, Any]], before: int
    ) -> None:
        """describe: epochs of the stage that are done → note; before: epochs before the stage."""
        super().__init__()
        self.states, self.describe, self.before = states, describe, before
        self.best: Sequence[float] = (-math.inf, -math.inf)  # its rank
        self.best_epoch = 0  # of the stage, from 1; 0: none yet
        self.note: dict[str, Any] = {}  # the last one
        self.seconds = 0.0  # of all of them

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        began = time.monotonic()
        logs = logs or {}
        is_better = rank(logs) > tuple(self.best) or "val_accuracy" not in logs
        is_best = is_better or not self.best_epoch
        if is_best:
            self.best, self.best_epoch = rank(logs), epoch + 1
        self.note = self.describe(epoch + 1)
        self.states.save(self.before + epoch + 1, self.note, state(self.model), is_best)
        self.seconds += time.monotonic() - began


class EarlyStop(Resumable, keras.callbacks.EarlyStopping):
    """Stops a stage after cfg.patience epochs without a better validation loss; 0 never stops.

    The first epochs (UNSTEADY) neither count nor set the mark.
    """

    fields = ("wait", "best", "best_epoch", "has_stopped")
    has_stopped = False  # it has ended the stage

    def __init__(self, patience: int, send: Send) -> None:
        super().__init__("val_loss", patience=patience, mode="min", start_from_epoch=UNSTEADY)
        self.send = send

    def get_monitor_value(self, logs: dict[str, Any] | None) -> float:
        loss = number(logs, "val_loss")
        return math.inf if math.isnan(loss) else loss  # else every later epoch would be worse

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self.patience:
            return
        super().on_epoch_end(epoch, logs)
        if self.model.stop_training:
            self.has_stopped = True
            print(
                f"early stop after epoch {epoch + 1}: validation loss "
                f"{number(logs, 'val_loss'):.4f}, not below {self.best:.4f} (epoch "
                f"{self.best_epoch + 1}) for {self.patience} epochs",
                flush=True,
            )
            best = {"best_epoch": self.best_epoch + 1, "best_loss": self.best}
            self.send("early_stop", epoch=epoch + 1, **best)


class Plateau(Resumable, keras.callbacks.ReduceLROnPlateau):
    """Keras's, whose count of epochs survives a resumed run; the rate itself is the optimiser's."""

    fields = ("wait", "best", "cooldown_counter")


class StopOnNaN(keras.callbacks.Callback):
    """Raises TrainingDiverged at the first step whose loss is not finite.

    The loss that Keras reports is a mean over the epoch so far: a bad step shows in every report
    after it.
    """

    async_safe = True

    def __init__(self, cfg: Config, leg: Leg, rate: Rate) -> None:
        super().__init__()
        self.cfg, self.leg, self.rate = cfg, leg, rate
        self._epoch = 0
        self._pending: tuple[int, Any] | None = None  # a step and its loss, not looked at yet

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # The step before: waiting for this one's number would keep JAX from computing ahead.
        before, self._pending = self._pending, (batch, (logs or {}).get("loss", 0.0))
        self._check(before)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        before, self._pending = self._pending, None
        self._check(before)

    def _check(self, step: tuple[int, Any] | None) -> None:
        if step is None or math.isfinite(float(step[1])):
            return
        cfg, leg = self.cfg, self.leg
        shape = cfg.stages[leg.stage]
        rate = self.rate((self._epoch - leg.first) * leg.steps + step[0])
        warmup = min(0.9, max(0.2, 2 * cfg.warmup))
        raise TrainingDiverged(
            f"the loss is {float(step[1])} in stage {leg.stage + 1}/{len(cfg.stages)} "
            f"({shape.height}x{shape.width}), epoch {self._epoch + 1}/{leg.total}, "
            f"step {step[0] + 1}/{leg.steps}, at learning rate {rate:.2e}",
            f"try lr={cfg.lr / 3:.1g}, a longer warm-up (warmup={warmup:.1g}) or precision=float32",
        )
'''


# ===== carcls/votes/__init__.py ===============================================
MODULES["votes/__init__.py"] = r'''"""Votes: what views say of photos, and what follows from it."""
'''


# ===== carcls/votes/blend.py ==================================================
MODULES["votes/blend.py"] = r'''"""Members into one prediction: weights fitted on validation photos, or stacking.

What is fitted is measured out of fold, the choice of a kind included. Everywhere ``probs`` is float
(members, photos, classes), each row sums to 1, and ``truth`` int (photos,), the class of each
photo. The photos are validation photos that no member was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from carcls import metrics
from carcls.disagreement import BLENDS
from carcls.errors import ConfigError
from carcls.metrics import SHOWN, TINY, Metric, log_loss
from carcls.votes.evidence import compare, measure
from carcls.votes.votes import ROW_SUM

KINDS = BLENDS[1:]  # from simple to complicated; a new one also wants a branch in ``fit``
SMALLEST = 0.005  # a fitted weight below it is noise, and becomes 0
LEAST = 10  # photos; with fewer, folds of two or three photos choose by luck
# Folds, and trees of a forest: of the reported accuracy, and of choosing within each of its folds.
# Few trees, of few photos each, as a choice fits up to 16 forests, 10 of them within.
OUTER, INNER = (5, 40), (2, 10)
ENOUGH = 1200  # photos from which a kind is chosen within an outer fold, and a tree is grown
LARGE = 2000  # unknowns of a logistic regression: above it, no matrix of their squares


@dataclass(frozen=True)
class Known:
    """What is known of the validation photos, and how predictions of them are judged."""

    truth: np.ndarray
    groups: np.ndarray | None = None  # (photos,) int: those of a group, as copies, stay in one fold
    seed: int = 0  # of folds and forests
    metric: Metric = "accuracy"

    def some(self, photos: np.ndarray) -> Known:
        """Of these photos alone."""
        groups = None if self.groups is None else self.groups[photos]
        return replace(self, truth=self.truth[photos], groups=groups)

    def score(self, probs: np.ndarray) -> float:
        return metrics.value(self.metric, probs, self.truth)


@dataclass(frozen=True)
class Blend:
    """What makes one prediction of those of all members: weights, or a fitted classifier."""

    kind: str  # one of KINDS, or manual
    weights: np.ndarray | None = None  # (members,), at least one above 0
    stack: Any = None  # classifier of sklearn

    def apply(self, probs: np.ndarray) -> np.ndarray:
        """(members, photos, classes) → (photos, classes) float64, each row sums to 1."""
        probs = _checked(probs)
        if self.weights is not None:
            assert len(self.weights) == len(probs), "weights of other members"
            mixed = np.tensordot(self.weights, probs, 1)
        else:
            mixed = np.zeros(probs.shape[1:])  # a class that validation does not have stays 0
            mixed[:, self.stack.classes_] = self.stack.predict_proba(_features(probs))
        # Rows sum to the sum of the weights, and float32's miss 1 by a little.
        return mixed / mixed.sum(1, keepdims=True)

    def weights_text(self) -> str:
        """As the setting blend= takes them; empty for stacking."""
        return "" if self.weights is None else "/".join(f"{w:.3g}" for w in self.weights)


@dataclass(frozen=True)
class Choice:
    """A blend and what validation photos say of it."""

    blend: Blend  # fitted on all validation photos
    table: pd.DataFrame  # a row a kind: kind, metrics, corrected, spoiled, weights
    val_probs: np.ndarray  # (photos, classes) float64; neither fit nor choice saw their photo
    picked: list[str]  # kind chosen in each outer fold; empty where none was chosen
    reason: str


def choose(kind: str, probs: np.ndarray, names: list[str], known: Known) -> Choice:
    """The blend as set, judged out of fold where it is fitted; with auto the best founded kind.

    kind: as the setting blend=; of one member there is nothing to blend. names: of the members.
    Raises ConfigError where there are too few photos, or weights are not as expected.
    """
    probs, truth = _checked(probs), known.truth
    fitted = len(names) > 1 and kind in BLENDS
    if fitted and len(truth) < LEAST:
        raise ConfigError(
            f"{len(truth)} validation photos: at least {LEAST} are needed to compare blends; raise "
            "val_fraction"
        )
    if fitted and kind == "auto":
        return _choose_kind(probs, names, known)
    reason = f"blend={kind}, as set"
    if len(names) == 1:
        blend, reason = Blend("best", np.ones(1)), "one member"
    elif fitted:
        blend = fit(kind, probs, known)
    else:
        blend = Blend("manual", parse_weights(kind, len(names)))
    judged = crossvalidate(kind, probs, known) if fitted else blend.apply(probs)
    table = _table({blend.kind: judged}, {blend.kind: blend}, known)
    return Choice(blend, table, judged, [], reason)


def _choose_kind(probs: np.ndarray, names: list[str], known: Known) -> Choice:
    """The simplest kind that nothing more complicated beats on photos that it was not fitted on.

    Nested cross-validation (Varma and Simon 2006): for each outer fold the kind is chosen anew on
    the other photos, so that the choice does not flatter the score.
    """
    predicted = {k: crossvalidate(k, probs, known, OUTER) for k in KINDS}
    nested, picked = np.full(probs.shape[1:], np.nan), []
    for rest, fold in split(known.truth, known.groups, known.seed, OUTER[0]):
        some = np.sort(np.random.default_rng(known.seed).permutation(rest)[:ENOUGH])
        inner = known.some(some)
        tried = {k: crossvalidate(k, probs[:, some], inner, INNER) for k in KINDS}
        picked.append(_pick(tried, inner))
        nested[fold] = predicted[picked[-1]][fold]  # it was fitted on rest alone
    kind = _pick(predicted, known)
    blends = {k: fit(k, probs, known) for k in {*KINDS[:3], kind}}
    best = names[int(np.argmax(np.asarray(blends["best"].weights)))]
    reason = f"{best} alone: no blend both lowers the log-loss and betters {SHOWN[known.metric]}"
    if known.metric == "log_loss":
        reason = f"{best} alone: no blend lowers the log-loss by more than its standard error"
    if kind != "best":
        change = compare(predicted["best"], predicted[kind], known.truth, known.metric)
        reason = f"{kind} against the best member ({best}): {change}"
    table = _table(predicted, blends, known)
    return Choice(blends[kind], table, nested, picked, reason)


def _pick(predicted: dict[str, np.ndarray], known: Known) -> str:
    """The kind to take, of out-of-fold predictions (photos, classes) of each of KINDS."""
    best, *others = KINDS
    for kind in others:
        if compare(predicted[best], predicted[kind], known.truth, known.metric).surely_helps:
            best = kind
    return best


def _table(
    predicted: dict[str, np.ndarray], blends: dict[str, Blend], known: Known
) -> pd.DataFrame:
    """A row a kind; corrected and spoiled against the best member, where that is judged too."""
    rows = []
    for kind, probs in predicted.items():
        row: dict[str, Any] = {"kind": kind}
        for name in dict.fromkeys(["accuracy", "log_loss", known.metric]):
            row[name] = metrics.value(name, probs, known.truth)
        if "best" in predicted:
            change = compare(predicted["best"], probs, known.truth)
            row |= {"corrected": change.corrected, "spoiled": change.spoiled}
        weights = blends[kind].weights_text() if kind in blends else ""
        rows.append(row | {"weights": weights})
    return pd.DataFrame(rows)


def members_table(names: list[str], probs: np.ndarray, known: Known) -> pd.DataFrame:
    """Each member alone; alone_right counts the photos that only this member has right."""
    right = probs.argmax(2) == known.truth  # (members, photos)
    rows = [
        {"name": name, **measure(p, known.truth, known.metric)}
        for name, p in zip(names, probs, strict=True)
    ]
    alone = (right & (right.sum(0) == 1)).sum(1)
    return pd.DataFrame(rows).assign(errors=(~right).sum(1), alone_right=alone)


# --- Fitting --------------------------------------------------------------------------------------


def parse_weights(text: str, members: int) -> np.ndarray:
    """``"0.9/0.05/0.05"`` → (members,) float64 with sum 1. Raises ConfigError."""
    try:
        weights = np.array([float(word) for word in text.split("/")])
    except ValueError:
        weights = np.array([np.nan])
    if len(weights) != members or not (weights >= 0).all() or not 0 < weights.max() < np.inf:
        raise ConfigError(
            f"blend={text}: expected {members} number{'s' * (members > 1)} of 0 or more, one for "
            "each member, with / between them, at least one of them above 0"
        )
    weights /= weights.max()  # first, as the sum of numbers near the largest float is inf
    return weights / weights.sum()


def fit(kind: str, probs: np.ndarray, known: Known, trees: int = OUTER[1]) -> Blend:
    """A blend of one of KINDS, fitted on these photos; trees: of the forest.

    best: the member of the best metric, the lower log-loss among equals. average: equal
    weights. weights: those of the lowest log-loss of the weighted mean. logistic, forest: stacking
    (Wolpert 1992) on the log-probabilities of all members.
    """
    members, truth = len(probs), known.truth
    if kind == "best":
        merits = [metrics.merit(known.metric, known.score(member)) for member in probs]
        order = [(-m, log_loss(p, truth)) for m, p in zip(merits, probs, strict=True)]
        return Blend(kind, np.eye(members)[order.index(min(order))])
    if kind == "average":
        return Blend(kind, np.full(members, 1 / members))
    if kind == "weights":
        return Blend(kind, _fit_weights(probs, truth))
    features = _features(probs)
    classifier = _classifier(kind, features.shape[1], truth, known.seed, trees)
    return Blend(kind, stack=classifier.fit(features, truth))


def crossvalidate(
    kind: str, probs: np.ndarray, known: Known, effort: tuple[int, int] = OUTER
) -> np.ndarray:
    """(photos, classes) float64: each photo predicted by a blend fitted without its fold."""
    out, (folds, trees) = np.empty(probs.shape[1:]), effort
    for rest, fold in split(known.truth, known.groups, known.seed, folds):
        blend = fit(kind, probs[:, rest], known.some(rest), trees)
        out[fold] = blend.apply(probs[:, fold])
    return out


def split(
    truth: np.ndarray, groups: np.ndarray | None, seed: int, folds: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Photos to fit on and photos to predict, of each fold; no more folds than groups.

    Groups are dealt out like cards, class by class, by the class of their first photo. sklearn's
    StratifiedGroupKFold takes seconds for thousands of groups. Raises ConfigError for one group.
    """
    groups = np.arange(len(truth)) if groups is None else groups
    names, first, group = np.unique(groups, return_index=True, return_inverse=True)
    folds = min(folds, len(names))
    if folds < 2:
        raise ConfigError(f"all {len(truth)} photos are of one group: there is no fold without it")
    shuffled = np.random.default_rng(seed).permutation(len(names))
    dealt = shuffled[np.argsort(truth[first][shuffled], kind="stable")]
    number = np.empty(len(names), np.int64)
    number[dealt] = np.arange(len(names)) % folds
    number = number[group]  # (photos,)
    return [(np.flatnonzero(number != k), np.flatnonzero(number == k)) for k in range(folds)]


def _fit_weights(probs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Weights (members,) float64 ≥ 0 with sum 1 of the lowest log-loss of the weighted mean.

    Convex in the weights, so SLSQP (Kraft 1988) finds the one minimum from equal weights.
    """
    from scipy.optimize import minimize  # takes long to import

    members = len(probs)
    true = np.maximum(probs[:, np.arange(len(truth)), truth], TINY)  # (members, photos)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.maximum(weights @ true, TINY)  # the sum of weights may miss 1 by rounding
        return float(-np.log(mixed).mean()), -(true / mixed).mean(1)

    start = np.full(members, 1 / members)
    minimum = minimize(
        loss,
        start,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * members,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-10, "maxiter": 500},
    )
    # At a flat minimum SLSQP can report a failed line search; only a worse point is of no use.
    weights = minimum.x if minimum.fun <= loss(start)[0] else start
    weights = np.where(weights < min(SMALLEST, weights.max()), 0.0, weights)
    return weights / weights.sum()


def _classifier(kind: str, features: int, truth: np.ndarray, seed: int, trees: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier  # takes long to import
    from sklearn.linear_model import LogisticRegression

    # Few photos for many features: C below sklearn's 1 and leaves of three keep both from learning
    # single photos. newton-cholesky is the fastest, but holds a matrix of the square of its
    # unknowns; sklearn 1.6's lbfgs passes options that scipy 1.16 deprecates.
    classes = len(np.unique(truth))
    if kind == "logistic" and classes > 1:  # it refuses the one class that a fold may leave
        solver = "newton-cholesky" if features * classes <= LARGE else "newton-cg"
        return LogisticRegression(C=0.1, max_iter=1000, solver=solver, tol=1e-3)
    share = min(0.5, ENOUGH / len(truth))  # of the photos that a tree is grown from
    return RandomForestClassifier(
        trees, min_samples_leaf=3, max_samples=share, random_state=seed, n_jobs=1
    )


def _features(probs: np.ndarray) -> np.ndarray:
    """(members, photos, classes) → (photos, members · classes) log-probabilities, by member."""
    return np.log(np.maximum(probs, TINY)).transpose(1, 0, 2).reshape(probs.shape[1], -1)


def _checked(probs: np.ndarray) -> np.ndarray:
    """As float64, if they are probabilities (members, photos, classes)."""
    assert probs.ndim == 3 and 0 not in probs.shape, probs.shape
    assert np.isfinite(probs).all(), "a network's probabilities are not finite"
    sums = probs.sum(2, dtype=np.float64)
    assert (probs >= 0).all() and np.abs(sums - 1).max() <= ROW_SUM, "not probabilities"
    return probs.astype(np.float64)
'''


# ===== carcls/votes/calibrate.py ==============================================
MODULES["votes/calibrate.py"] = r'''"""Probabilities that mean what they say: one temperature, fitted on validation photos.

The class stays; softmax(log p / T) makes all probabilities softer (T above 1) or sharper (Guo et
al. 2017, arXiv 1706.04599). Everywhere ``probs`` is (photos, classes) and ``labels`` int (photos,).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from carcls.metrics import TINY, log_loss
from carcls.votes import blend
from carcls.votes.blend import Known
from carcls.votes.evidence import wilson

BINS = 15  # of as many photos each, by how sure the prediction is
FOLDS = 5
HOTTEST = 20.0  # the largest temperature, and one over the smallest


@dataclass(frozen=True)
class Calibration:
    """A temperature, and what validation photos say of it."""

    temperature: float  # 1: probabilities stay as they are
    reason: str
    probs: np.ndarray  # of the validation photos: each by a temperature that did not see it
    before: pd.DataFrame  # ``reliability`` without it and with it
    after: pd.DataFrame


def choose(probs: np.ndarray, known: Known, wanted: bool) -> Calibration:
    """The temperature of the lowest log-loss, if out of fold the log-loss is not higher for it."""
    before = reliability(probs, known.truth)
    folds = min(FOLDS, len(known.truth if known.groups is None else np.unique(known.groups)))
    count, reason = len(known.truth), "" if wanted else "none asked"
    if wanted and (folds < 2 or count < blend.LEAST):
        reason = f"none: too few validation photos, {count}"
    elif wanted and (probs.argmax(1) == known.truth).all():  # the sharper, the lower the log-loss
        reason = f"none: all {count} validation photos are right, so none tells how sure to be"
    if reason:
        return Calibration(1.0, reason, probs, before, before)
    found, judged = fit(probs, known.truth), out_of_fold(probs, known)
    losses = log_loss(probs, known.truth), log_loss(judged, known.truth)
    after = reliability(judged, known.truth)
    told = (
        f"temperature {found:.3f} on validation photos, out of fold: log-loss {losses[0]:.4f} → "
        f"{losses[1]:.4f}, calibration error {error(before):.4f} → {error(after):.4f}"
    )
    if losses[1] > losses[0]:
        return Calibration(1.0, f"none: {told}", probs, before, before)
    return Calibration(found, told, judged, before, after)


def fit(probs: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of the lowest log-loss on these photos, between 1/HOTTEST and HOTTEST."""
    from scipy.optimize import minimize_scalar  # takes long to import

    def loss(log_temperature: float) -> float:
        return log_loss(apply(probs, math.exp(log_temperature)), labels)

    most = math.log(HOTTEST)
    found = minimize_scalar(loss, bounds=(-most, most), method="bounded", options={"xatol": 1e-4})
    return math.exp(float(found.x))


def apply(probs: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (photos, classes) float64 at that temperature; at 1 the same array."""
    if temperature == 1:
        return probs
    logits = np.log(np.maximum(probs, TINY)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def out_of_fold(probs: np.ndarray, known: Known) -> np.ndarray:
    """(photos, classes) float64: each photo at a temperature that was fitted without its fold."""
    out = np.empty(probs.shape)
    for rest, fold in blend.split(known.truth, known.groups, known.seed, FOLDS):
        out[fold] = apply(probs[fold], fit(probs[rest], known.truth[rest]))
    return out


def reliability(probs: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """A row a bin of as many photos, the least sure predictions first.

    photos; confidence: mean probability of the predicted class; accuracy: share of them that are
    right, and low and high, its 95 % interval.
    """
    sure, right = probs.max(1), probs.argmax(1) == labels
    rows = []
    for bin_ in np.array_split(np.argsort(sure, kind="stable"), min(BINS, len(labels))):
        low, high = wilson(int(right[bin_].sum()), len(bin_))
        rows.append((len(bin_), sure[bin_].mean(), right[bin_].mean(), low, high))
    return pd.DataFrame(rows, columns=["photos", "confidence", "accuracy", "low", "high"])


def error(table: pd.DataFrame) -> float:
    """Expected calibration error of ``reliability``: how far sureness and accuracy are apart."""
    apart = (table["confidence"] - table["accuracy"]).abs()
    return float(np.average(apart, weights=table["photos"]))
'''


# ===== carcls/votes/cast.py ===================================================
MODULES["votes/cast.py"] = r'''"""Views of photos through a network, which gives votes."""

from __future__ import annotations

from typing import Any

import numpy as np

from carcls import memory
from carcls.config import Config
from carcls.data.batches import Looks, make_batches
from carcls.data.cache import PhotoCache
from carcls.data.photos import Rows
from carcls.errors import ConfigError, TrainingDiverged
from carcls.machine import Machine
from carcls.nets.model import restore, state
from carcls.train.steps import StepTimes
from carcls.values import Views
from carcls.votes.votes import Votes, disputed, doublings


def cast_votes(
    net: Any, cache: PhotoCache, rows: Rows, views: Views, cfg: Config, machine: Machine
) -> Votes:
    """Every photo of the rows through the network, once for each of its views.

    All get the first views. Photos that are still disputed get more, in rounds, up to the most. A
    round batches views of different photos together, so that what is saved is time.
    """
    probs = np.zeros((views.most, len(rows), net.output_shape[-1]), np.float32)
    n_views = np.zeros(len(rows), np.int64)
    going_on, seen = np.arange(len(rows)), 0
    for after in doublings(views.first, views.most):
        if seen:
            going_on = going_on[disputed(probs[:seen, going_on])]
        if not len(going_on):
            break
        asked, looks = rows.take(going_on), Looks(range(seen, after))
        probs[seen:after, going_on], cfg = _look(net, cache, asked, looks, cfg, machine)
        n_views[going_on] = seen = after
    ids = [cache.ids[row] for row in rows.rows]
    return Votes(ids, probs[:seen], rows.labels.astype(np.int64), n_views, cfg.tta_combine)


def _look(
    net: Any, cache: PhotoCache, rows: Rows, looks: Looks, cfg: Config, machine: Machine
) -> tuple[np.ndarray, Config]:
    """Probabilities (views, photos, classes) float32, and settings whose batch fits into memory."""
    # With JAX a failed prediction may have given away the weights' memory; hence a copy.
    weights = state(net, optimizer=False) if machine.backend == "jax" else None
    while True:
        batches = make_batches(cache, rows, net.output_shape[-1], looks, cfg, machine)
        try:
            # It raises a stop that was asked for, and tells how far this is.
            watching = [StepTimes(batches.steps, batches.batch)]
            logits = net.predict(
                batches.dataset, steps=batches.steps, callbacks=watching, verbose=0
            )
        except memory.errors() as error:
            smallest = batches.batch <= len(machine.devices)
            # One of several processes cannot change the batch alone.
            if not memory.ran_out(error) or smallest or machine.processes > 1:
                raise
        else:
            if not np.isfinite(logits).all():
                bad = (~np.isfinite(logits)).any(1).sum()
                raise TrainingDiverged(
                    f"{bad} of {len(logits)} predictions are no numbers",
                    "try a lower lr or precision=float32",
                )
            return softmax(batches.collect(logits)), cfg
        if weights:
            restore(net, weights)
        cfg = cfg.replace(batch=machine.batch_size(batches.batch // 2))
        told = f"out of memory while predicting {batches.batch} photos at a time"
        print(f"{told}; going on with {cfg.batch}", flush=True)


def softmax(logits: np.ndarray) -> np.ndarray:
    """(..., classes) → float32 probabilities. In float64, as float16 logits overflow."""
    e = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).astype(np.float32)


def check_views_differ(cache: PhotoCache, rows: Rows, cfg: Config) -> None:
    """Raise ConfigError if two test-time views are the same pixels: such passes add nothing.

    Looks at the pixels of the first eight photos, as a network may say the same of different views.
    """
    few = rows.take(np.arange(min(8, len(rows))))
    looks = Looks(range(cfg.asked_views.most))
    batches = make_batches(cache, few, 2, looks, cfg.replace(batch=len(few)))
    images = np.concatenate([images.numpy() for images, _, _ in batches.dataset])
    first: dict[bytes, int] = {}
    for number, view in enumerate(batches.collect(images.reshape(len(images), -1))):
        twin = first.setdefault(view.tobytes(), number)
        if twin != number:
            raise ConfigError(
                f"test-time views {twin} and {number} are identical for all of {len(few)} photos, "
                "so averaging them cannot help; raise strength or set views=1"
            )
'''


# ===== carcls/votes/decide.py =================================================
MODULES["votes/decide.py"] = r'''"""From the members' votes to the probabilities of the submission: gates, a blend, a temperature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pandas as pd

from carcls.config import Config
from carcls.errors import ConfigError
from carcls.metrics import Metric
from carcls.votes import blend, calibrate
from carcls.votes.calibrate import Calibration
from carcls.votes.evidence import SAME, compare
from carcls.votes.votes import CAPS, Gate, Votes, describe_saving, trade_off, tta_table


class Voter(Protocol):
    """A member of the ensemble, as far as votes are concerned."""

    @property
    def name(self) -> str: ...

    @property
    def val(self) -> Votes:
        """Of validation photos, with all views, and of test photos by each of its networks."""

    @property
    def test(self) -> Sequence[Votes]: ...


@dataclass(frozen=True)
class Decision:
    """What validation photos say, and what follows for the test photos."""

    gates: list[Gate]  # of each member
    choice: blend.Choice
    calibration: Calibration
    alone: pd.DataFrame  # blend.members_table
    test_probs: np.ndarray  # (photos, classes)
    ids: list[str]  # of the test photos
    known: blend.Known  # labels of the validation photos, and the metric that decided

    def apply(self, votes: Sequence[Sequence[Votes]]) -> np.ndarray:
        """Votes of each member's networks on any photos → (photos, classes) float64.

        Validation has judged blend and temperature on votes of one network a member, so each fold
        gets them before the folds are averaged: the log-loss of a mean is no higher than the mean
        of the log-losses. A member to which the blend gives no weight may come without votes.
        """
        some = next(filter(None, votes))
        folds = []
        for one_each in zip(*(of_member or some for of_member in votes), strict=True):
            used = [one.used(gate) for one, gate in zip(one_each, self.gates, strict=True)]
            blended = self.choice.blend.apply(np.stack(used))
            folds.append(calibrate.apply(blended, self.temperature))
        return np.asarray(np.mean(folds, 0))

    @property
    def val_probs(self) -> np.ndarray:
        """(photos, classes) of the validation photos: neither blend nor temperature saw them."""
        return self.calibration.probs

    @property
    def temperature(self) -> float:
        """Of the blend's probabilities; 1: as they are."""
        return self.calibration.temperature

    @property
    def metric(self) -> Metric:
        return self.known.metric

    @property
    def score(self) -> float:
        """The metric of val_probs."""
        return self.known.score(self.val_probs)

    @property
    def made_by(self) -> str:
        """In a few words, for submission.json."""
        opened, n = sum(gate.open for gate in self.gates), len(self.gates)
        warmth = f", temperature {self.temperature:.2f}" if self.temperature != 1 else ""
        if n == 1:
            return f"one member, test-time augmentation {'on' if opened else 'off'}{warmth}"
        kind = self.choice.blend.kind
        return f"{n} members, blend {kind}, test-time augmentation on in {opened} of {n}{warmth}"


def decide(
    cfg: Config, members: Sequence[Voter], groups: np.ndarray | None, metric: Metric = "accuracy"
) -> Decision:
    """Members' votes → gates, blend, temperature (where log-loss decides) and test probabilities.

    groups (photos,) int or None: validation photos of one group are the same file and stay
    together. Of fewer members than cfg has, the best one alone is taken: more are to come.
    Raises ConfigError where votes do not belong together.
    """
    first = members[0]
    ids, truth = first.test[0].ids, first.val.labels
    assert first.val.combine == cfg.tta_combine, "votes are combined as the settings say"
    gates, probs = [], []
    for member in members:
        same_test = all(votes.ids == ids for votes in member.test)
        if member.val.ids != first.val.ids or not same_test:
            raise ConfigError(
                f"member {member.name}: its votes are of other photos than those of {first.name}"
            )
        val = member.val.as_asked(cfg.views)
        gates.append(gate(cfg.tta, val, metric))
        probs.append(val.used(gates[-1]))
    names, val_probs = [member.name for member in members], np.stack(probs)
    known = blend.Known(truth, groups, cfg.seed, metric)
    alone = blend.members_table(names, val_probs, known)
    complete = len(names) == len(cfg.members)
    kind = cfg.blend if complete else "best"
    choice = blend.choose(kind, val_probs, names, known)
    if not complete:
        reason = f"the best of {len(names)} of {len(cfg.members)} members"
        choice = replace(choice, reason=reason)
    calibration = calibrate.choose(choice.val_probs, known, wanted=metric == "log_loss")
    decision = Decision(gates, choice, calibration, alone, np.empty(0), ids, known)
    return replace(decision, test_probs=decision.apply([member.test for member in members]))


def gate(mode: str, votes: Votes, metric: Metric = "accuracy") -> Gate:
    """Judge all views of a validation photo together against the photo alone; mode as tta=."""
    most = int(votes.n_views.max())
    if most == 1:
        return Gate(False, "closed: one view a photo")
    plain, given = votes.probs[0], votes.n_views == most
    change = compare(plain, votes.together(), votes.labels, metric)
    if mode == "auto" and np.abs(votes.probs[:most, given] - plain[given]).max() < SAME:
        return Gate(False, f"closed: all {most} views say the same of every photo")
    is_open = change.helps if mode == "auto" else mode == "always"
    why = "" if mode == "auto" else f"tta={mode}; "
    views = f"{most} views" if given.all() else f"up to {most} views"
    seen = f"{views} against the photo alone on {len(votes.labels)} validation photos: {change}"
    return Gate(is_open, f"{'open' if is_open else 'closed'}: {why}{seen}")


def describe(
    cfg: Config, members: Sequence[Voter], decision: Decision, every: bool = False
) -> list[str]:
    """The tables and what was decided, as lines of the log.

    every: also each view alone, and what fixed and adaptive rules cost.
    """
    lines: list[str] = []
    for member, gate in zip(members, decision.gates, strict=True):
        table = tta_table(member.val, decision.metric)
        lines.append(f"member {member.name}")
        lines += _text(table if every else table[~table["what"].str.startswith("view ")])
        if every and len(member.val.probs) >= min(CAPS):
            lines += _text(trade_off(member.val, decision.metric))
        lines.append(f"TTA gate {gate.reason}")
        if cfg.asked_views.adaptive:
            lines.append(describe_saving(member.val, cfg.views))
    if len(members) > 1:
        lines += ["members alone", *_text(decision.alone)]
        lines += ["blends, cross-validated", *_text(decision.choice.table)]
        lines.append(f"blend {decision.choice.blend.kind}: {decision.choice.reason}")
    if decision.metric == "log_loss":
        lines.append(f"calibration: {decision.calibration.reason}")
    return lines


def _text(table: pd.DataFrame) -> list[str]:
    shown = table.to_string(index=False, float_format=lambda x: f"{x:.4f}")
    return ["  " + line for line in shown.splitlines()]
'''


# ===== carcls/votes/evidence.py ===============================================
MODULES["votes/evidence.py"] = r'''"""Whether one prediction is better than another: the only place where the package judges that.

Everywhere ``probs`` is (photos, classes), each row sums to 1, and ``labels`` (photos,) int64 are
the true classes, of photos that neither prediction was trained on. ``metric`` is the one that
decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from numpy.typing import ArrayLike

from carcls import metrics
from carcls.metrics import TINY, Metric

SAME = 1e-4  # what differs by less is the same: rounding depends on a photo's place in its batch
HARM = 0.05  # a change harms where chance alone would make it look so bad less often
ONE_CLASS = 0.9  # no car competition has a larger share of one class, unless its labels say so
RESAMPLES = 1000  # of the photos, for what has no formula; always the same ones
BLOCK = 4_000_000  # numbers of them that are worked on at a time


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, right of n (Wilson 1927)."""
    z = 1.959964
    p, d = right / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / d
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d
    return max(0.0, centre - half), min(1.0, centre + half)


def interval(metric: Metric, probs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """95 % interval of the metric: Wilson's of accuracy, by the standard error of log-loss.

    Of the others: percentiles over resampled photos (the bootstrap of Efron 1979); where none of
    those is below 1, as without an error, Wilson's too.
    """
    n = len(labels)
    if metric == "accuracy":
        return wilson(int((probs.argmax(1) == labels).sum()), n)
    if metric == "log_loss":
        losses = metrics.losses(probs, labels)
        if n < 2:
            return 0.0, -math.log(TINY)  # one photo says nothing
        half = 1.959964 * float(losses.std(ddof=1)) / math.sqrt(n)
        return max(0.0, float(losses.mean()) - half), float(losses.mean()) + half
    values = _resampled(metric, probs, labels)
    values = values[~np.isnan(values)]  # a resample may lack a class
    if (values == 1).all() and len(values):
        return wilson(n, n)
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (0.0, 1.0)
    return float(low), float(high)


def measure(probs: np.ndarray, labels: np.ndarray, metric: Metric = "accuracy") -> dict[str, float]:
    """Columns of a table: the metric, low and high (its 95 % interval), accuracy, log_loss."""
    low, high = interval(metric, probs, labels)
    found = {metric: metrics.value(metric, probs, labels), "low": low, "high": high}
    found.setdefault("accuracy", metrics.accuracy(probs, labels))
    found.setdefault("log_loss", metrics.log_loss(probs, labels))
    return dict(found)


@lru_cache(maxsize=2)
def _draws(n: int) -> np.ndarray:
    """(photos, RESAMPLES) uint8: how often each of n photos is in each resample."""
    rng, draws = np.random.default_rng(0), np.empty((RESAMPLES, n), np.uint8)
    for row in draws:
        row[:] = np.bincount(rng.integers(0, n, n), minlength=n)
    return np.ascontiguousarray(draws.T)


def _resampled(metric: Metric, probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(RESAMPLES,) float64: F1, balanced accuracy or AUC of each resample, NaN where undefined."""
    draws = _draws(len(labels))
    of_counts = _auc if metric == "auc" else partial(_of_classes, metric)
    blocks = np.array_split(draws, -(-draws.size // BLOCK), axis=1)
    with np.errstate(invalid="ignore"):
        return np.concatenate([of_counts(block, probs, labels) for block in blocks])


def _of_classes(
    metric: Metric, draws: np.ndarray, probs: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    top, classes = probs.argmax(1), probs.shape[1]
    true = _sums(draws, labels, classes)
    right = _sums(draws * (top == labels)[:, None], labels, classes)
    if metric == "balanced_accuracy":
        whole, part = true, right
    else:
        whole, part = true + _sums(draws, top, classes), 2 * right
    occurs = whole > 0
    return np.where(occurs, part / np.maximum(whole, 1), 0).sum(0) / occurs.sum(0)


def _sums(draws: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """(photos, resamples) → (count, resamples): sums over the photos of each group."""
    order = np.argsort(groups, kind="stable")
    present, first = np.unique(groups[order], return_index=True)
    sums = np.zeros((count, draws.shape[1]))
    sums[present] = np.add.reduceat(draws[order], first, axis=0, dtype=np.int32)
    return sums


def _auc(draws: np.ndarray, probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    order = np.argsort(probs[:, 1], kind="stable")
    values, is_one, draws = probs[order, 1], labels[order] == 1, draws[order]
    others = np.zeros((len(values) + 1, draws.shape[1]), np.int32)
    np.cumsum(draws * ~is_one[:, None], 0, out=others[1:])  # of the first 0, 1, 2, … photos
    ones = draws[is_one].astype(np.int32)
    first, last = (np.searchsorted(values, values[is_one], side) for side in ("left", "right"))
    below = np.einsum("pr,pr->r", ones, others[first] + others[last], dtype=np.float64)
    return below / (2.0 * ones.sum(0) * others[-1])  # ties count half


@dataclass(frozen=True)
class Change:
    """What becomes of the same photos when one prediction replaces another."""

    corrected: int  # photos that were wrong and are right
    spoiled: int  # photos that were right and are wrong
    loss_before: float
    loss_after: float  # not finite if a probability is not
    metric: Metric = "accuracy"
    # Of another metric: before and after, how often chance alone makes it so much worse, and, of
    # log-loss, the standard error of the difference
    before: float = math.nan
    after: float = math.nan
    p_lower: float = 1.0
    error: float = 0.0

    @property
    def p(self) -> float:
        """McNemar's exact test, two-sided: how often chance alone parts the two so far."""
        fewer = min(self.corrected, self.spoiled)
        return min(1.0, 2 * _binomial_tail(fewer, self.corrected + self.spoiled))

    @property
    def p_worse(self) -> float:
        """One-sided: how often chance alone spoils at least so many of the photos that change.

        Of another metric: makes it so much worse.
        """
        if self.metric != "accuracy":
            return self.p_lower
        return _binomial_tail(self.corrected, self.corrected + self.spoiled)

    @property
    def gain(self) -> float:
        """By which the metric is better: of accuracy in photos."""
        if self.metric == "accuracy":
            return self.corrected - self.spoiled
        merits = (metrics.merit(self.metric, value) for value in (self.before, self.after))
        before, after = merits
        return after - before if math.isfinite(before) else 0.0

    @property
    def harms(self) -> bool:
        return self.p_worse < HARM or not math.isfinite(self.loss_after)

    @property
    def helps(self) -> bool:
        """The metric is better or the loss lower, and it does not harm."""
        lowers_loss = self.loss_after < self.loss_before - SAME
        return not self.harms and (self.gain > SAME or lowers_loss)

    @property
    def surely_helps(self) -> bool:
        """Both at once, which is asked of what is more complicated.

        Accuracy alone counts few photos; the loss alone rewards softer probabilities. Where the
        loss is the metric, it has to be lower by more than the standard error.
        """
        return self.gain > max(SAME, self.error) and self.loss_after < self.loss_before

    def __str__(self) -> str:
        verdict = "worse" if self.harms else "no better"
        if self.helps:  # a few photos more that are spoiled may be chance
            verdict = "better" if self.gain > SAME else "no worse, and surer"
        metric = ""
        if self.metric not in ("accuracy", "log_loss"):
            metric = f"{metrics.SHOWN[self.metric]} {self.before:.4f} → {self.after:.4f}, "
        return (
            f"{verdict}: {metric}of the photos {self.corrected} corrected, {self.spoiled} spoiled "
            f"(p = {self.p:.2g}), log-loss {self.loss_before:.4f} → {self.loss_after:.4f}"
        )


def _binomial_tail(k: int, n: int) -> float:
    """P(X ≤ k) of n fair coins."""
    from scipy.special import bdtr  # takes long to import

    return float(bdtr(k, n, 0.5))


def compare(
    before: np.ndarray, after: np.ndarray, labels: np.ndarray, metric: Metric = "accuracy"
) -> Change:
    """Two predictions (photos, classes) of the same photos."""
    was, now = before.argmax(1) == labels, after.argmax(1) == labels
    counts = int((now & ~was).sum()), int((was & ~now).sum())
    losses = [metrics.losses(probs, labels) for probs in (before, after)]
    change = Change(*counts, float(losses[0].mean()), float(losses[1].mean()), metric)
    if metric == "accuracy" or not math.isfinite(change.loss_after):
        return change
    values = [metrics.value(metric, probs, labels) for probs in (before, after)]
    if metric == "log_loss":
        paired = compare_losses(*losses)
        p_lower = paired.p_higher if paired.mean > 0 else 1.0
        return replace(
            change, before=values[0], after=values[1], p_lower=p_lower, error=paired.error
        )
    first, second = (_resampled(metric, probs, labels) for probs in (before, after))
    not_worse = ~(second < first - 1e-9)  # also where it is undefined
    p_lower = float((1 + not_worse.sum()) / (1 + RESAMPLES))
    return replace(change, before=values[0], after=values[1], p_lower=p_lower)


@dataclass(frozen=True)
class Paired:
    """How the log-loss of the same photos differs between two predictions: after less before."""

    n: int  # photos
    mean: float
    error: float  # standard error of the mean; infinite of less than two photos
    p: float  # Wilcoxon's signed-rank test, two-sided
    p_higher: float  # one-sided: how often chance alone makes the photos' losses so much higher

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean."""
        return self.mean - 1.959964 * self.error, self.mean + 1.959964 * self.error

    @property
    def is_surely_higher(self) -> bool:
        """By its mean and by its photos: a few confident errors alone are not enough."""
        return self.mean > 0 and self.p_higher < HARM

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"log-loss {self.mean:+.4f} (95 % interval {low:+.4f} to {high:+.4f}, "
            f"p = {self.p:.2g}, {self.n:,} photos)"
        )


def compare_losses(before: np.ndarray, after: np.ndarray) -> Paired:
    """Losses (photos,) of the same photos by two predictions, photo by photo."""
    from scipy.stats import wilcoxon  # takes long to import

    change = np.asarray(after, float) - np.asarray(before, float)
    n, (mean, error) = len(change), difference(before, after)
    p = p_higher = 1.0
    if n and np.abs(change).max() > 0:
        p = float(wilcoxon(change).pvalue)
        p_higher = float(wilcoxon(change, alternative="greater").pvalue)
    return Paired(n, mean, error, p, p_higher)


def difference(before: ArrayLike, after: ArrayLike) -> tuple[float, float]:
    """By how much (photos,) values differ in the mean, photo by photo, and its standard error."""
    change = np.asarray(after, float) - np.asarray(before, float)
    n = len(change)
    error = float(change.std(ddof=1) / math.sqrt(n)) if n > 1 else math.inf
    return float(change.mean()) if n else 0.0, error


def moved_too_far(accuracy: float, n: int, before: np.ndarray, after: np.ndarray) -> str:
    """Why test predictions of a refitted network may not replace those before it; "" if they may.

    No labelled photo is left to measure a refit on. But networks that are wrong on shares a and b
    of the photos differ on a + b of them at most, so one that differs on more than twice the
    largest error of the first (95 % interval of its accuracy on n photos) is worse. Nor may it put
    nearly all photos into one class where the first did not.
    """
    most = int(2 * (1 - wilson(round(accuracy * n), n)[0]) * len(before))
    was, now = before.argmax(1), after.argmax(1)
    changed = int((was != now).sum())
    told = f"{changed:,} of {len(was):,} test photos change their class"
    if not np.isfinite(after).all():
        return "some probabilities are not finite"
    if changed > most:
        return f"{told}; with an error like the one measured {most:,} may"
    largest_before, largest = (np.bincount(top).max() / len(top) for top in (was, now))
    if largest > ONE_CLASS >= largest_before:
        return f"{told}, nearly all of them to one"
    return ""
'''


# ===== carcls/votes/pseudo.py =================================================
MODULES["votes/pseudo.py"] = r'''"""Pseudo-labels: test photos on which nearly all views of all members agree.

A plain threshold on the agreement of views (after Lee 2013, "Pseudo-Label"), whose precision is
measured on validation photos that pass it too. And, likewise, given labels that votes contradict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from carcls.data import photos
from carcls.data.photos import Rows
from carcls.metrics import Metric
from carcls.values import Views
from carcls.votes.decide import Voter, gate
from carcls.votes.evidence import wilson
from carcls.votes.votes import Gate, Votes

# Share of the views. A majority is enough to predict with, but too little to learn from.
AGREEMENT = 0.95
LEAST_VIEWS = 4  # of a photo, by every member; agreement of fewer says little
NEARLY_ALL = 0.98  # share of the test photos; labelling more only teaches what is known already
LEAST_PRECISION = 0.9  # on validation; below it too much of what is learned is wrong
LEAST_PHOTOS = 20  # a share of fewer photos is not worth a judgement
# A class that many times more frequent among the chosen photos than on validation is suspect.
SKEW = 3
# A label may be wrong if its probability is below UNLIKELY and that of another at least CERTAIN.
UNLIKELY, CERTAIN = 0.02, 0.95


@dataclass(frozen=True)
class Chosen:
    """Test photos that get a label, and how often such labels are right on validation."""

    rows: Rows  # to learn, beside the labelled ones
    places: np.ndarray  # (chosen,) int64: of the same photos among the test photos
    refused: str  # why there are no rows, "" if not refused
    warnings: list[str]
    line: str  # how many test photos pass, and how often validation photos that pass are right


def choose(
    members: Sequence[Voter],
    gates: Sequence[Gate],
    table: photos.Table,
    views: Views,
    metric: Metric = "accuracy",
) -> Chosen:
    """Test photos for which, in every member, at least AGREEMENT of the views say the same class.

    With adaptive views a photo that stops early has 4 of 4 views alike, which is weaker evidence
    than 61 of 64. The precision shows what it is worth: validation photos stop by the same rule.
    """
    test = [member.test[0] for member in members]
    val = [member.val.as_asked(views) for member in members]
    rows, usable = table.rows(photos.TEST), usable_photos(table)
    ids = table.frame["id"].iloc[rows.rows].tolist()
    assert all(votes.ids == ids for votes in test), "votes of other photos than the test photos"

    labels, agree, enough = _agreement(test)
    labels_val, agree_val, enough_val = _agreement(val)
    passing = np.flatnonzero(agree & enough & usable)
    passing_val = np.flatnonzero(agree_val & enough_val)
    labels, labels_val = labels[passing], labels_val[passing_val]
    n, n_val = len(labels), len(labels_val)
    right = int((labels_val == val[0].labels[passing_val]).sum())

    each = "the member" if len(members) == 1 else f"each of {len(members)} members"
    line = (
        f"{n:,} of {len(ids):,} test photos ({n / len(ids):.1%}) pass: at least {AGREEMENT:.0%} of "
        f"the views of {each} put the same class first; of {len(val[0].ids):,} validation photos "
        f"{n_val:,} pass"
    )
    if n_val:
        low, high = wilson(right, n_val)
        line += f", and {right:,} of them are right: {right / n_val:.3f} ({low:.3f}–{high:.3f})"
    warnings = _warn_of_skew(labels, labels_val)
    too_few = int((agree & ~enough & usable).sum())
    if too_few:
        warnings.append(
            f"{too_few:,} test photos agree but have fewer than {LEAST_VIEWS} views, so they are "
            f"left out; let the first round of views have {LEAST_VIEWS}"
        )
    refused = _refuse_members(gates, val, test, metric)
    refused = refused or _refuse_labels(labels, usable.sum(), len(table.classes), right, n_val)
    if refused:
        line, passing, labels = f"refused: {refused}; {line}", passing[:0], labels[:0]
    return Chosen(Rows(rows.rows[passing], labels), passing, refused, warnings, line)


def _leader(votes: Votes) -> tuple[np.ndarray, np.ndarray]:
    """(photos,): the class that most views put first, and the share of the views that do."""
    counts = votes.first_places()
    return counts.argmax(1), counts.max(1) / votes.n_views


def _agreement(members: Sequence[Votes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each photo: a class; do nearly all views of every member say it; are they enough."""
    leaders = [_leader(votes) for votes in members]
    labels = leaders[0][0]
    agree = [(leader == labels) & (share >= AGREEMENT) for leader, share in leaders]
    enough = [votes.n_views >= LEAST_VIEWS for votes in members]
    return labels, np.all(agree, axis=0), np.all(enough, axis=0)


def _refuse_members(
    gates: Sequence[Gate], val: Sequence[Votes], test: Sequence[Votes], metric: Metric
) -> str:
    """Why the views of a member say too little to label by them; "" if they do not."""
    for number, own in enumerate(gates):
        # tta=always opens a gate for predicting, not for labelling.
        if not (own.open and gate("auto", val[number], metric).open):
            return (
                f"the gate of test-time augmentation is closed for member {number + 1} of "
                f"{len(gates)}, so the agreement of its views says nothing"
            )
        for name, votes in (("test", test[number]), ("validation", val[number])):
            if votes.n_views.max() < LEAST_VIEWS:
                return (
                    f"member {number + 1} gives a {name} photo {votes.n_views.max()} views at "
                    f"most, and agreement of fewer than {LEAST_VIEWS} means little"
                )
    return ""


def _refuse_labels(labels: np.ndarray, usable: int, classes: int, right: int, n_val: int) -> str:
    """Why labels of usable test photos that pass are not learned; "" if they are.

    right: how many of n_val validation photos that pass are right.
    """
    n, precision = len(labels), right / max(1, n_val)
    reasons = [
        (n == 0, f"none of {usable:,} usable test photos passes"),
        (
            n / max(1, usable) > NEARLY_ALL,
            f"{n:,} of {usable:,} usable test photos pass, more than {NEARLY_ALL:.0%}; labelling "
            "nearly everything only reproduces the model",
        ),
        (
            classes > 1 and len(np.unique(labels)) == 1,
            f"all of the {n:,} photos that pass are of one class of {classes}",
        ),
        (
            n_val < LEAST_PHOTOS,
            f"the precision is unknown: {n_val} validation photos pass, and at least "
            f"{LEAST_PHOTOS} are needed to measure it",
        ),
        (
            precision < LEAST_PRECISION,
            f"{right:,} of {n_val:,} validation photos that pass are right, precision "
            f"{precision:.3f}, and at least {LEAST_PRECISION} is needed",
        ),
    ]
    return next((reason for holds, reason in reasons if holds), "")


def _warn_of_skew(labels: np.ndarray, labels_val: np.ndarray) -> list[str]:
    """labels, labels_val: classes of the test and validation photos that pass."""
    n, n_val = len(labels), len(labels_val)
    counts = np.bincount(labels)
    counts_val = (labels_val[:, None] == np.arange(len(counts))).sum(0)
    # Shares are compared without dividing by one of 0.
    skewed = (counts >= LEAST_PHOTOS) & (counts * n_val > SKEW * counts_val * n)
    return [
        f"class index {k} is {counts[k] / n:.1%} of the test photos that pass ({counts[k]:,} of "
        f"{n:,}) and {counts_val[k] / n_val:.1%} of the validation photos that pass "
        f"({counts_val[k]:,} of {n_val:,})"
        for k in np.flatnonzero(skewed)
    ]


def usable_photos(table: photos.Table) -> np.ndarray:
    """(test photos,) bool: which may get a label, in the table's order.

    Not unreadable ones, whose votes are unanimous on a grey photo. Not copies of labelled photos:
    a validation photo would be learned.
    """
    is_test = table.frame["fold"] == photos.TEST
    test, labelled = table.frame[is_test], table.frame.loc[~is_test, "group"]
    return (test["readable"].astype(bool) & ~test["group"].isin(labelled)).to_numpy()


def table(chosen: Chosen, members: Sequence[Voter], classes: Sequence[int | str]) -> pd.DataFrame:
    """A row for each chosen photo, for pseudo.csv: id, label, and of each member, counted from 1:

    agreement_1: share of its views that put the label first; probability_1: their mean probability
    of it; views_1: how many views; votes_1: text such as "3:62 7:2", class:views, most views first.
    """
    labels, each = chosen.rows.labels, np.arange(len(chosen.rows))
    ids = [members[0].test[0].ids[place] for place in chosen.places]
    columns: dict[str, list] = {"id": ids, "label": [str(classes[k]) for k in labels]}
    for number, member in enumerate(members, 1):
        some = replace(member.test[0].take(chosen.places), combine="mean")
        counts = some.first_places()
        columns |= {
            f"agreement_{number}": (counts[each, labels] / some.n_views).tolist(),
            f"probability_{number}": some.together()[each, labels].tolist(),
            f"views_{number}": some.n_views.tolist(),
            f"votes_{number}": [_text(row, classes) for row in counts],
        }
    return pd.DataFrame(columns)


def _text(counts: np.ndarray, classes: Sequence[int | str]) -> str:
    order = np.argsort(-counts, kind="stable")
    return " ".join(f"{classes[k]}:{counts[k]}" for k in order if counts[k])


def suspicious(votes: Votes, smoothing: float = 0.0) -> pd.DataFrame:
    """Photos whose given label the votes contradict with near-certainty, most certain first.

    votes: of photos that the model did not train on, else it repeats the label it was taught.
    smoothing: of the labels it was trained with. A photo is listed if at least AGREEMENT of its
    views put the same other class first, which is CERTAIN, while the given label is UNLIKELY.
    Columns: id, given and predicted (class indices), probability (of predicted), given_probability,
    agreement, row (index into votes). The idea is of Northcutt et al. 2021, "Confident Learning";
    theirs estimates thresholds per class, ours is plain.
    """
    # A network trained with label smoothing gives other classes their share of it.
    certain = CERTAIN * (1 - smoothing)
    unlikely = UNLIKELY + smoothing / votes.probs.shape[2]
    predicted, share = _leader(votes)
    probs, each = votes.together(), np.arange(len(votes.ids))
    table = pd.DataFrame(
        {
            "id": votes.ids,
            "given": votes.labels,
            "predicted": predicted,
            "probability": probs[each, predicted],
            "given_probability": probs[each, votes.labels],
            "agreement": share,
            "row": each,
        }
    )
    table = table[
        (table["predicted"] != table["given"])
        & (table["agreement"] >= AGREEMENT)
        & (table["probability"] >= certain)
        & (table["given_probability"] < unlikely)
    ]
    order = ["probability", "given_probability", "row"]
    return table.sort_values(order, ascending=[False, True, True], ignore_index=True)
'''


# ===== carcls/votes/votes.py ==================================================
MODULES["votes/votes.py"] = r'''"""Votes: the probabilities that a network gives every view of every photo, and their arithmetic.

No network is needed here: how views are combined, the rule by which disputed photos get more of
them, and the tables of what more views bring.
"""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carcls import disk, metrics
from carcls.disk import NO_ZIP
from carcls.errors import InputError
from carcls.metrics import TINY, Metric
from carcls.values import Views
from carcls.votes.evidence import Change, compare, measure

COMBINE = ("mean", "geometric", "vote")
ROW_SUM = 1e-2  # rows of half precision miss a sum of 1 by less; logits do not pass


@dataclass(frozen=True)
class Gate:
    """Whether predictions take all views of a photo or the photo alone, and why."""

    open: bool
    reason: str


@dataclass(frozen=True)
class Votes:
    """What a network says of photos, view by view: view 0 is the photo itself, 1 its mirror image.

    combine: mean of the probabilities, geometric mean, or vote: the share of views that put the
    class first, ties broken by the mean.
    """

    ids: list[str]
    # (views, photos, classes) float32: a row sums to 1, or is 0 where the photo lacks that view
    probs: np.ndarray
    labels: np.ndarray  # (photos,) int64, −1 where unknown
    n_views: np.ndarray  # (photos,) int64: how many views, from the first on, a photo was given
    combine: str = "mean"

    def save(self, path: Path) -> None:
        """As .npz with arrays named like the fields; atomic."""
        content = io.BytesIO()
        np.savez(content, **{**vars(self), "ids": np.array(self.ids)})
        disk.make_way(path)
        disk.write_atomic(path, content.getvalue())

    def together(self) -> np.ndarray:
        """(photos, classes) float64: of the views that each photo was given."""
        out = np.zeros(self.probs.shape[1:])
        for n, probs in prefixes(self.probs, self.combine, set(self.n_views.tolist())):
            out[self.n_views == n] = probs[self.n_views == n]
        return out

    def alone(self) -> np.ndarray:
        """(photos, classes) float64: of the photo itself."""
        return self.probs[0].astype(np.float64)

    def used(self, gate: Gate) -> np.ndarray:
        """(photos, classes) float64: together where the gate is open, else alone."""
        return self.together() if gate.open else self.alone()

    def take(self, photos: np.ndarray) -> Votes:
        """Of some photos only: indices or a mask."""
        ids = np.array(self.ids)[photos].tolist()
        some = self.probs[:, photos], self.labels[photos], self.n_views[photos]
        return Votes(ids, *some, self.combine)

    def as_asked(self, views: Views) -> Votes:
        """Votes that have all views, as the rule that gives disputed photos more would ask."""
        seen, *more = doublings(views.first, min(views.most, len(self.probs)))
        n_views = np.full(len(self.ids), seen, np.int64)
        going_on = np.arange(len(self.ids))
        for n in more:
            going_on = going_on[disputed(self.probs[:seen, going_on])]
            n_views[going_on] = seen = n
        return replace(self, n_views=n_views)

    def tops(self) -> np.ndarray:
        """(views, photos) int64: the class that a view puts first; −1 where it was not given."""
        given = np.arange(len(self.probs))[:, None] < self.n_views
        return np.where(given, self.probs.argmax(2), -1)

    def first_places(self) -> np.ndarray:
        """(photos, classes) int64: how many of a photo's views put each class first."""
        tops = self.tops()
        return np.stack([(tops == k).sum(0) for k in range(self.probs.shape[2])], 1)

    def agreement(self) -> np.ndarray:
        """(photos,) float64: share of a photo's views that say what all of them say together."""
        return (self.tops() == self.together().argmax(1)).sum(0) / self.n_views

    def change_from(self, before: Votes, metric: Metric = "accuracy") -> Change:
        """What becomes of the photos, all their views together, when these votes replace others."""
        assert self.ids == before.ids, "votes of other photos"
        return compare(before.together(), self.together(), self.labels, metric)


def load(path: Path) -> Votes:
    """Votes that ``save`` wrote. Raises InputError if the file is not that."""
    try:
        if not path.is_file():
            raise ValueError("no such file")
        with np.load(path) as file:
            probs, labels, n_views = (file[name] for name in ("probs", "labels", "n_views"))
            read = Votes(file["ids"].tolist(), probs, labels, n_views, str(file["combine"]))
        if fault := _fault(read):
            raise ValueError(fault)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        MemoryError,
        *NO_ZIP,
    ) as error:
        raise InputError(f"{path}: not a file of votes ({error})") from None
    return read


def _fault(read: Votes) -> str:
    """What shows that they were not saved by us, or ""."""
    if not isinstance(read.ids, list) or not all(isinstance(ident, str) for ident in read.ids):
        return "ids are no list of names"
    probs, labels, n_views, photos = read.probs, read.labels, read.n_views, len(read.ids)
    if read.combine not in COMBINE:
        return f"combine is {read.combine[:40]!r}"
    if probs.ndim != 3 or probs.dtype != np.float32 or 0 in probs.shape:
        return f"probs are {probs.dtype} {probs.shape}"
    if not all(a.shape == (photos,) and a.dtype == np.int64 for a in (labels, n_views)):
        return "labels or n_views are not one whole number a photo"
    if probs.shape[1] != photos or not ((labels >= -1) & (labels < probs.shape[2])).all():
        return "its arrays are of different photos or classes"
    if not ((n_views >= 1) & (n_views <= len(probs))).all():
        return f"n_views are not from 1 to {len(probs)}"
    sums = probs.sum(2, dtype=np.float64)  # (V, P); NaN and infinities fail here
    given = np.arange(len(probs))[:, None] < n_views
    if not (np.abs(sums - 1)[given] <= ROW_SUM).all() or not (probs[given] >= 0).all():
        return "rows of probs are no probabilities"
    return ""


def join(parts: Sequence[Votes]) -> Votes:
    """Votes of different photos as one, with the fewest views that any part has."""
    if len(parts) == 1:
        return parts[0]
    fewest = min(len(part.probs) for part in parts)
    return Votes(
        [name for part in parts for name in part.ids],
        np.concatenate([part.probs[:fewest] for part in parts], 1),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([np.minimum(part.n_views, fewest) for part in parts]),
        parts[0].combine,
    )


def prefixes(
    probs: np.ndarray, combine: str, counts: Collection[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """For each number n in counts: n and the first n views combined, (photos, classes) float64.

    View by view, as a float64 copy of all probs (views, photos, classes) would be large.
    """
    assert combine in COMBINE, combine
    total = np.zeros(probs.shape[1:])
    for n, view in enumerate(probs[: max(counts, default=0)], 1):
        p = view.astype(np.float64)
        if combine == "geometric":
            p = np.log(np.maximum(p, TINY))
        elif combine == "vote":
            p *= 1e-6
            p[np.arange(len(p)), view.argmax(1)] += 1
        total += p
        if n in counts:
            out = total
            if combine == "geometric":
                out = np.exp((total - total.max(1, keepdims=True)) / n)
            yield n, out / out.sum(1, keepdims=True)


# --- More views for disputed photos ---------------------------------------------------------------

# Standard errors by which the leading class must lead, view by view: with 1.5 more photos end up
# otherwise than with all views, 3 asks for more views in vain (MEASUREMENTS: adaptive views).
CLEAR = 2.0


def disputed(probs: np.ndarray, clear: float = CLEAR) -> np.ndarray:
    """Which photos go on after these views: (views, photos, classes) → bool (photos,).

    A photo stops when its views are unanimous, or when the leader of the mean is ahead of the
    runner-up by ``clear`` standard errors of the lead: a paired sequential test.
    """
    views = len(probs)
    tops = probs.argmax(2)  # (V, P)
    unanimous = (tops == tops[0]).all(0)
    if views < 3:
        return ~unanimous
    mean = probs.mean(0, dtype=np.float64)
    first, second = np.argsort(-mean, axis=1, kind="stable")[:, :2].T
    photo = np.arange(probs.shape[1])
    lead = (probs[:, photo, first] - probs[:, photo, second]).astype(np.float64)  # (V, P)
    error = lead.std(0, ddof=1) / math.sqrt(views)
    return ~unanimous & (lead.mean(0) < clear * error)


def doublings(first: int, most: int) -> list[int]:
    """first, twice as many and so on, up to most: the views of a photo after each round."""
    counts = [min(first, most)]
    while counts[-1] < most:
        counts.append(min(2 * counts[-1], most))
    return counts


# --- Tables, of validation votes that have all views ----------------------------------------------


def tta_table(votes: Votes, metric: Metric = "accuracy") -> pd.DataFrame:
    """Measures of the photo alone, of each view alone, and of the first 1, 2, 4, … views together.

    corrected and spoiled count photos against the photo alone; p is McNemar's exact test.
    """
    plain, views, combine = votes.probs[0], len(votes.probs), votes.combine

    def row(what: str, n: int, probs: np.ndarray) -> dict[str, Any]:
        change = compare(plain, probs, votes.labels)
        paired = {"corrected": change.corrected, "spoiled": change.spoiled, "p": change.p}
        return {"what": what, "views": n, **measure(probs, votes.labels, metric), **paired}

    rows = [row("no TTA", 1, plain)]
    if views > 1:
        for n, probs in prefixes(votes.probs, combine, doublings(2, views)):
            rows.append(row(f"first {n}, {combine}", n, probs))
        for other in (name for name in COMBINE if name != combine):
            probs = replace(votes, combine=other).together()
            rows.append(row(f"all {views}, {other}", views, probs))
        rows += [row(f"view {v} alone", 1, votes.probs[v]) for v in range(1, views)]
    return pd.DataFrame(rows)


def curve(votes: Votes, metric: Metric = "accuracy") -> pd.DataFrame:
    """What ``measure`` gives against the number of views, one row a number."""
    every = prefixes(votes.probs, votes.combine, range(1, len(votes.probs) + 1))
    return pd.DataFrame(
        [{"views": n, **measure(probs, votes.labels, metric)} for n, probs in every]
    )


FIRSTS, CAPS = (2, 4, 8), (8, 16, 32, 64)  # the rules that ``trade_off`` compares


def trade_off(votes: Votes, metric: Metric = "accuracy") -> pd.DataFrame:
    """Passes a photo and metrics of fixed rules and of adaptive ones up to a cap.

    share of the passes of the fixed rule with that cap; differ: photos predicted otherwise by it.
    """
    caps = [cap for cap in (1, 2, 4, *CAPS) if cap <= len(votes.probs)]
    rows = []
    for cap, fixed in prefixes(votes.probs, votes.combine, caps):
        rules = [(f"fixed {cap}", fixed, float(cap))]
        for first in (first for first in FIRSTS if cap in CAPS and first < cap):
            asked = votes.as_asked(Views(first=first, most=cap))
            passes = float(asked.n_views.mean())
            rules.append((f"from {first} up to {cap}", asked.together(), passes))
        for rule, probs, passes in rules:
            row: dict[str, Any] = {"rule": rule, "cap": cap}
            row |= {"passes": passes, "share": passes / cap}
            for name in dict.fromkeys(["accuracy", "log_loss", metric]):
                row[name] = metrics.value(name, probs, votes.labels)
            rows.append(row | {"differ": int((probs.argmax(1) != fixed.argmax(1)).sum())})
    return pd.DataFrame(rows)


def describe_saving(votes: Votes, views: Views) -> str:
    """What the adaptive rule saves on validation votes that have all views, in a sentence."""
    asked, most = votes.as_asked(views), len(votes.probs)
    passes = asked.n_views.mean()
    differ = (asked.together().argmax(1) != votes.together().argmax(1)).sum()
    return (
        f"adaptive: {passes:.1f} of {most} passes a photo ({passes / most:.0%}), {differ} of "
        f"{len(votes.ids)} photos predicted otherwise than with all views"
    )
'''


# ===== carcls/report/__init__.py ==============================================
MODULES["report/__init__.py"] = r'''"""What a person reads: pictures, the page, the submission."""
'''


# ===== carcls/report/charts.py ================================================
MODULES["report/charts.py"] = r'''"""Charts of a run's epochs and classes, and what all pictures are drawn with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure  # without pyplot: there is no screen on Kaggle
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from carcls import disk
from carcls.report.names import FONT, Names, names, width

CAPTIONS = {
    "curves.png": "Loss, accuracy and learning rate after every epoch; grey lines mark a new "
    "photo size. Training photos are augmented, and the loss includes label smoothing. Look for "
    "validation loss that rises again: training went on too long.",
    "confusion.png": "Validation photos by true class (rows) and predicted class (columns); the "
    "darker a cell, the larger its share of the true class. Photos off the diagonal are errors. "
    "Red: the two classes that are most often taken for each other.",
    "calibration.png": "Validation photos in groups of as many each by how sure their prediction "
    "is: how sure on average, and which share is right, with its 95 % interval. Below the "
    "diagonal the network is surer than it is right.",
}

Classes = Sequence[int | str]  # class index → label as in train.csv
GREEN, RED, GREY, BLUE = "tab:green", "tab:red", "0.7", "tab:blue"


LEGEND = "Legend"  # where a PNG file has what its numbers stand for


@contextmanager
def drawing(path: Path, wide: float, high: float, *shown: Names) -> Iterator[Figure]:
    """A figure of that size in inches, saved to the path at the end; shown: the names in it."""
    fonts = [FONT, *(font for some in shown for font in some.fonts)]
    legend = "; ".join(line for some in shown for line in some.legend)
    with matplotlib.rc_context({"font.family": fonts, "text.usetex": False}):
        figure = Figure(figsize=(wide, high), layout="constrained")
        yield figure
        with disk.replacing(path) as part:
            figure.savefig(part, dpi=100, metadata={LEGEND: legend} if legend else {})


def curves(history: pd.DataFrame, path: Path, title: str = "") -> Path:
    """Loss, accuracy and learning rate of one network by epoch."""
    epoch = np.arange(1, len(history) + 1)
    new_size = epoch[(history["stage"].diff() > 0).to_numpy()]
    heading = names([title], 100)
    with drawing(path, 12, 3.6 + 0.3 * bool(title), heading) as figure:
        if title:
            figure.suptitle(heading.shown[0])
        axes = figure.subplots(1, 3)
        for axis, name in zip(axes[:2], ("loss", "accuracy"), strict=True):
            axis.plot(epoch, history[name], "o-", ms=3, label="training, augmented")
            if history[f"val_{name}"].notna().any():  # a refit has none
                axis.plot(epoch, history[f"val_{name}"], "o-", ms=3, label="validation")
            axis.legend()
        axes[2].plot(epoch, history["lr"], "o-", ms=3, color=GREEN)
        axes[2].set_yscale("log")
        label_epochs(axes, "cross-entropy", "accuracy", "learning rate")
        for axis in axes:
            axis.set_xlim(0.5, len(history) + 0.5)
            for first in new_size:
                axis.axvline(first - 0.5, color="0.8", zorder=0)
    return path


def calibration(before: pd.DataFrame, after: pd.DataFrame, path: Path) -> Path:
    """How sure predictions are against how often they are right: two ``calibrate.reliability``.

    after: with the temperature; the same table as before where there is none.
    """
    with drawing(path, 5.6, 5.2) as figure:
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], "--", color=GREY, zorder=0)
        pairs = [("as they are", before, BLUE), ("with the temperature", after, GREEN)]
        for label, table, colour in pairs[:1] if after is before else pairs:
            shown, error = table["accuracy"], (table["confidence"] - table["accuracy"]).abs()
            off = f"{label}, {np.average(error, weights=table['photos']):.3f} off on average"
            bars = np.maximum(0, [shown - table["low"], table["high"] - shown])  # but for rounding
            look: Any = {"fmt": "o-", "ms": 4, "lw": 1.2, "elinewidth": 0.8, "color": colour}
            axis.errorbar(table["confidence"], shown, yerr=bars, label=off, **look)
        least = min(before["confidence"].min(), after["confidence"].min())
        axis.set_xlim(max(0.0, least - 0.05), 1.01)
        axis.set_ylim(0, 1.02)
        axis.set_xlabel("mean probability of the predicted class")
        axis.set_ylabel("share that is right")
        axis.legend()
    return path


def label_epochs(axes: Any, *labels: str) -> None:
    """Name the axes of charts by epoch; a label for each y axis."""
    for axis, label in zip(axes, labels, strict=True):
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def confusion(classes: Classes, truth: np.ndarray, predicted: np.ndarray, path: Path) -> Path:
    """Photos by true and predicted class (photos,); the pair that is confused most is outlined."""
    n = len(classes)
    counts = np.zeros((n, n), int)
    np.add.at(counts, (truth, predicted), 1)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    shown = names(classes, 28)
    longest = max(map(width, shown.shown))
    side = min(11.0, max(3.2, 0.45 * n) + 1.3 + 0.07 * longest)
    with drawing(path, side + 1, side, shown) as figure:
        axis = figure.subplots()
        scale = PowerNorm(0.5, 0, 1)  # on a linear one, one photo of thirty looks like none
        image = axis.imshow(shares, cmap="Blues", norm=scale, interpolation="nearest")
        for row, column in np.argwhere(counts) if n <= 30 else ():
            colour = "white" if scale(shares[row, column]) > 0.6 else "black"
            look: Any = {"ha": "center", "va": "center", "fontsize": 8, "color": colour}
            axis.text(column, row, counts[row, column], **look)
        ticks = spread_ticks(n, 40)
        labels = [shown.shown[t] for t in ticks]
        axis.set_xticks(ticks, labels, rotation=90 if longest > 3 else 0, fontsize=9)
        axis.set_yticks(ticks, labels, fontsize=9)
        axis.set_xlabel("predicted class")
        axis.set_ylabel("true class")
        marks = [0, 0.02, 0.1, 0.25, 0.5, 1]
        figure.colorbar(image, label="share of the true class", ticks=marks, shrink=0.8)
        axis.set_title(_outline_most_confused(axis, counts, shown.shown), fontsize=11)
    return path


def _outline_most_confused(axis: Any, counts: np.ndarray, names: list[str]) -> str:
    """Draw red squares around the cells of the pair that is confused most; returns a title."""
    both = np.triu(counts + counts.T, 1)
    i, j = divmod(int(both.argmax()), len(counts))
    half = max(0.5, len(counts) / 80)  # small cells: easier to find
    look: Any = {"fill": False, "ec": RED, "lw": 2, "zorder": 3, "clip_on": False}
    for row, column in ((i, j), (j, i)):
        axis.add_patch(Rectangle((column - half, row - half), 2 * half, 2 * half, **look))
    gap = "\n" if width(names[i] + names[j]) > 16 else " "
    return f"most confused: {names[i]}{gap}↔ {names[j]}, {count_photos(both[i, j])}"


def count_photos(n: int) -> str:
    return f"{n:,} photo{'' if n == 1 else 's'}"


def spread_ticks(n: int, most: int) -> list[int]:
    """0, k, 2k, … below n, at most ``most``; k is 1, 2, 4, 5 or 8 times a power of ten."""
    steps = (k * 10**e for e in range(9) for k in (1, 2, 4, 5, 8))
    step = next(k for k in steps if -(-n // k) <= max(1, most))
    return list(range(0, n, step))
'''


# ===== carcls/report/dataset.py ===============================================
MODULES["report/dataset.py"] = r'''"""Pictures of a data set: its classes, the photos' sizes and light, examples, look-alikes.

Each function returns the picture's path and caption, or None and a sentence where there is nothing
to draw.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import PercentFormatter

from carcls.data.photos import TEST, TRAIN, VALIDATION
from carcls.report import sheets
from carcls.report.charts import GREEN, GREY, RED, Classes, drawing
from carcls.report.names import Names, names

Drawn = tuple[Path | None, str]
MOST_BARS = 40  # classes; of more, the curve of all and the names of some
ENDS = 12  # of more classes: so many of the most and of the least frequent
SHEET = 48  # photos on a sheet
_SHAPES = ((1, 4), (2, 5), (9, 16), (3, 4), (1, 1), (4, 3), (16, 9), (5, 2), (4, 1))
_TRAIN, _HELD, _TEST = "tab:blue", "#a6cbe8", "tab:orange"


def classes(frame: pd.DataFrame, labels: Classes, path: Path) -> Drawn:
    """How many photos each class has; a stack of those to train and to validate."""
    label, fold = frame["label"].to_numpy(), frame["fold"].to_numpy()
    train, held = (
        np.bincount(label[fold == f], minlength=len(labels)) for f in (TRAIN, VALIDATION)
    )
    order = np.argsort(-(train + held), kind="stable")
    few = len(labels) <= MOST_BARS
    shown = _only(names(labels, 28), order if few else [*order[:ENDS], *order[-ENDS:]])
    with drawing(path, 8, 1.2 + 0.24 * len(labels) if few else 6.4, shown) as figure:
        if few:
            bars = figure.subplots()
            _bars(bars, order, train, held, shown)
        else:
            whole, bars, last = figure.subplot_mosaic([["all", "all"], ["most", "least"]]).values()
            rank = np.arange(1, len(labels) + 1)
            whole.fill_between(rank, (train + held)[order], step="mid", color=_TRAIN)
            whole.set_xlim(0.5, len(labels) + 0.5)
            whole.set_ylim(0)
            whole.set_xlabel("classes, the most frequent first")
            whole.set_ylabel("labelled photos")
            _bars(bars, order[:ENDS], train, held, shown)
            _bars(last, order[-ENDS:], train, held, shown)
            bars.set_title("most frequent", fontsize=10)
            last.set_title("least frequent", fontsize=10)
        handles = bars.get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper right", ncols=2, fontsize=8)
    ends_only = "" if few else f" Named are the {ENDS} most and the {ENDS} least frequent."
    return path, (
        f"Labelled photos of each of {len(labels):,} classes.{ends_only} Look for classes with few "
        "photos: they are learned badly and measured worse (oversample=true shows them more often)."
    )


def _only(shown: Names, rows: Iterable[int]) -> Names:
    """The names, with what numbers stand for of those rows alone."""
    numbers = {shown.shown[row] for row in rows}
    legend = [line for line in shown.legend if line.partition(":")[0] in numbers]
    return Names(shown.shown, legend, shown.fonts)


def _bars(axis: Any, rows: np.ndarray, train: np.ndarray, held: np.ndarray, shown: Names) -> None:
    at = np.arange(len(rows))[::-1]
    axis.barh(at, train[rows], color=_TRAIN, label="to train")
    bars = axis.barh(at, held[rows], left=train[rows], color=_HELD, label="to validate")
    axis.bar_label(bars, [f"{n:,}" for n in (train + held)[rows]], padding=3, fontsize=8)
    axis.set_yticks(at, [shown.shown[row] for row in rows], fontsize=9)
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_xlim(0, 1.15 * (train + held)[rows].max())
    axis.set_xlabel("labelled photos")


def sizes(frame: pd.DataFrame, path: Path) -> Drawn:
    """Widths against heights, and shapes; frame: of photos that can be read."""
    of = frame.groupby([frame["fold"] == TEST, "width", "height"]).size()
    counts = of.rename("n").reset_index().rename(columns={"fold": "test"})
    if len(counts[["width", "height"]].drop_duplicates()) == 1:
        return None, f"All photos are {counts['width'][0]}×{counts['height'][0]} px."
    with drawing(path, 10, 4.4) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        for is_test, name, colour in ((False, "train", _TRAIN), (True, "test", _TEST)):
            some = counts[counts["test"] == is_test]
            area = 6 + 600 * some["n"] / len(frame)
            look: Any = {"alpha": 0.4, "color": colour, "linewidths": 0, "label": name}
            left.scatter(some["width"], some["height"], s=area, **look)
            shape = np.log2(some["width"] / some["height"])
            _shares(right, shape, np.linspace(-2.2, 2.2, 45), name, colour, some["n"])
        shapes = np.log2(frame["width"] / frame["height"])
        low, high = max(-2.2, shapes.min() - 0.4), min(2.2, shapes.max() + 0.4)
        marked = {f"{w}:{h}": w / h for w, h in _SHAPES if low <= np.log2(w / h) <= high}
        wide, high_most = 1.06 * frame["width"].max(), 1.06 * frame["height"].max()
        left.set(xlim=(0, wide), ylim=(0, high_most), xlabel="width, px", ylabel="height, px")
        for ratio in marked.values():
            left.plot([0, ratio * high_most], [0, high_most], color="0.8", lw=0.8, zorder=0)
        for handle in left.legend(loc="lower right", fontsize=9).legend_handles:
            handle.set_sizes([40])
        right.set_xlim(low, high)
        right.set_xticks(np.log2([*marked.values()]), [*marked], fontsize=8)
        right.set_xlabel("shape, width : height")
    return path, (
        "Left: width and height of photos; the more photos have a size, the larger its mark; "
        f"lines: {', '.join(marked)}. Right: shapes. Look for test photos that differ from train "
        "photos, and for sizes below those of stages=, which are enlarged."
    )


def light(frame: pd.DataFrame, path: Path) -> Drawn:
    """Brightness and contrast; frame: of photos that were seen, with these columns."""
    with drawing(path, 10, 3.4) as figure:
        for axis, column, end in zip(
            figure.subplots(1, 2), ("brightness", "contrast"), (255, 128), strict=True
        ):
            for is_test, name, colour in ((False, "train", _TRAIN), (True, "test", _TEST)):
                some = frame.loc[(frame["fold"] == TEST) == is_test, column]
                _shares(axis, some, np.linspace(0, end, 33), name, colour)
            axis.set_xlim(0, end)
            axis.legend(fontsize=9)
            axis.set_xlabel(f"{column} of a photo, 0–{end}")
    return path, (
        "Mean (brightness) and standard deviation (contrast) of the grey of each photo. Look for "
        "test photos that are darker or paler than train photos, and for photos at the edges, "
        "which may be empty."
    )


def _shares(
    axis: Any, values: Any, edges: np.ndarray, name: str, colour: str, n: Any = None
) -> None:
    """A histogram, in shares of all; what lies outside counts at the edge."""
    weights = np.ones(len(values)) if n is None else np.asarray(n, float)
    look: Any = {"label": name, "color": colour}
    look |= {"histtype": "step", "lw": 1.6} if name == "test" else {"alpha": 0.5}
    inside = np.clip(np.asarray(values, float), edges[0], edges[-1])
    axis.hist(inside, edges, weights=weights / max(1.0, weights.sum()), **look)
    axis.set_ylabel("share of photos")
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def examples(frame: pd.DataFrame, labels: Classes, seed: int, path: Path) -> Drawn:
    """Photos of each class, or of some of many classes, at random."""
    each = next((n for n in (6, 3) if n * len(labels) <= SHEET), 2)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(labels))[: SHEET // each])
    shuffled = frame[frame["label"].isin(chosen)].sample(frac=1, random_state=rng)
    some = shuffled.groupby("label", sort=False).head(each).sort_values("label", kind="stable")
    shown = _only(names(labels, sheets.NAME), chosen)
    titles = [[shown.shown[label]] for label in some["label"]]
    sheets.sheet(some, titles, path, "there is no labelled photo", shown=shown)
    which = (
        "each class" if len(chosen) == len(labels) else f"{len(chosen)} of {len(labels):,} classes"
    )
    return path, f"Up to {each} photos of {which}, at random. Look for what a class has in common."


def similar(frame: pd.DataFrame, pairs: pd.DataFrame, labels: Classes, path: Path) -> Drawn:
    """Photos of one picture side by side, those with different labels first; pairs: of a look."""
    if pairs.empty:
        return None, "No two photos show the same picture in files that differ."
    some = pairs.head(SHEET // 2)
    rows = some[["a", "b"]].to_numpy().ravel()
    shown, ids = names(labels, sheets.NAME), names(frame["id"].iloc[rows], 22, "photo ")
    titles = []
    for n, (label, fold) in enumerate(frame[["label", "fold"]].iloc[rows].to_numpy(int)):
        pair = some.iloc[n // 2]
        apart = f"{pair['distance']} bits" + (", mirrored" if pair["mirrored"] else "")
        what = "test photo" if fold == TEST else f"label {shown.shown[label]}"
        titles.append([ids.shown[n], what, apart])
    colours = {"different labels": RED, "same label": GREEN}
    borders = [colours.get(finding, GREY) for finding in some["finding"].repeat(2)]
    labelled = frame["label"].iloc[rows]
    shown = _only(shown, labelled[labelled >= 0])
    both = Names([], shown.legend + ids.legend, sorted({*shown.fonts, *ids.fonts}))
    sheets.sheet(frame.iloc[rows], titles, path, "", borders, both)
    count = f"{len(some):,} of {len(pairs):,} pairs" if len(some) < len(pairs) else "Pairs"
    return path, (
        f"{count} of photos that show the same picture, and in how many of 63 bits their hashes "
        "differ. Red: different labels, one of which is wrong; green: the same label; grey: with a "
        "test photo. Not found are photos that were cut or lost their colours. similar.csv lists "
        "all pairs."
    )
'''


# ===== carcls/report/look.py ==================================================
MODULES["report/look.py"] = r'''"""A look at the data: facts of a table's photos, as lines, as pictures, and as similar.csv."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from carcls import disk
from carcls.config import Config
from carcls.data import photos, similar
from carcls.data.labels import spreadsheet_safe
from carcls.data.photos import TEST, TRAIN, VALIDATION, Table
from carcls.data.similar import Small
from carcls.report import dataset
from carcls.report.charts import count_photos

SIDES = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}
# What two photos of one picture are to each other, the most telling first.
FINDINGS = {
    "different labels": "with different labels",
    "train and test": "of a labelled photo and a test photo",
    "same label": "with the same label",
    "both test": "of two test photos",
}
OTHER_LABEL, ACROSS, SAME_LABEL, BOTH_TEST = FINDINGS
MANY = 0.05  # share of validation photos: more would change the accuracy by more than its interval
NOTE = "look.json"


@dataclass(frozen=True, eq=False)
class Look:
    """What was seen of a table's photos."""

    table: Table
    small: Small
    # Of photos that show the same picture: a, b positions in the frame, distance in bits,
    # mirrored, finding; by finding and distance.
    pairs: pd.DataFrame
    known: int  # test photos that show what a labelled one shows, in another file
    leaked: int  # validation photos that show what a photo shows that is trained on
    validated: int  # validation photos


def look(cfg: Config, table: Table) -> Look:
    """Decode all photos, much reduced, and compare them."""
    small = similar.shrink(table.frame)
    group, label = (table.frame[name].to_numpy(np.int64) for name in ("group", "label"))
    fold = table.frame["fold"]
    if cfg.folds > 1:
        fold = photos.with_folds(table, cfg.folds, cfg.seed)["fold"]
    is_test = (fold == TEST).to_numpy()

    pairs = similar.pairs(small, group)
    a, b = pairs["a"].to_numpy(), pairs["b"].to_numpy()
    found = [is_test[a] & is_test[b], is_test[a] | is_test[b], label[a] != label[b]]
    pairs["finding"] = np.select(found, [BOTH_TEST, ACROSS, OTHER_LABEL], SAME_LABEL)
    rank = pairs["finding"].map([*FINDINGS].index)
    pairs = pairs.assign(rank=rank).sort_values(["rank", "distance", "a", "b"], ignore_index=True)

    # Same files are the audit's, and on one side of the split; so only what pairs join counts.
    whole = pd.Series(similar.grouped(pairs, group))
    rows = pd.DataFrame({"fold": fold.to_numpy(), "whole": whole, "group": group})
    labelled = rows[~is_test]
    has_same_file = rows["group"].isin(labelled["group"])
    known = is_test & whole.isin(labelled["whole"]) & ~has_same_file
    folds = labelled.groupby("whole")["fold"].nunique()
    spread = labelled[labelled["whole"].isin(folds.index[folds > 1])]
    validated = labelled if cfg.folds > 1 else labelled[labelled["fold"] == VALIDATION]
    leaked = spread.index.intersection(validated.index)
    pairs = pairs.drop(columns="rank")
    return Look(table, small, pairs, int(known.sum()), len(leaked), len(validated))


def write(cfg: Config, table: Table, out: Path) -> list[str]:
    """Look, write similar.csv and the pictures into the run folder; returns lines for the log."""
    seen = look(cfg, table)
    disk.write_atomic(out / "similar.csv", spreadsheet_safe(listed(seen)).to_csv(index=False))
    said = lines(seen)
    drawn = draw(seen, out, cfg.seed)
    shown = [[path.name if path else "", text] for path, text in drawn]
    disk.write_json(out / NOTE, {"lines": said, "pictures": shown})
    return said


def read(out: Path) -> tuple[list[str], list[tuple[Path | None, str]]]:
    """The lines and pictures that ``write`` has left; none if it has not, or they are changed."""
    try:
        note = disk.unsealed(disk.read_json(out / NOTE))
    except (FileNotFoundError, ValueError):
        return [], []
    return note["lines"], [(out / name if name else None, text) for name, text in note["pictures"]]


def pictures(out: Path) -> dict[Path, str]:
    """The pictures that ``write`` has left, and their captions."""
    return {path: text for path, text in read(out)[1] if path}


def draw(seen: Look, out: Path, seed: int) -> list[tuple[Path | None, str]]:
    """Each picture with its caption; no path where there is nothing to draw, which is said."""
    frame, classes = seen.table.frame, [str(name) for name in seen.table.classes]
    small = seen.small
    light = frame.assign(brightness=small.brightness, contrast=small.contrast)[small.seen]
    parts = [
        dataset.classes(frame, classes, out / "classes.png"),
        dataset.sizes(frame[frame["readable"]], out / "sizes.png"),
        dataset.light(light, out / "light.png"),
        dataset.examples(frame, classes, seed, out / "examples.png"),
        dataset.similar(frame, seen.pairs, classes, out / "similar.png"),
    ]
    return [(path, text) for path, text in parts]


def listed(seen: Look) -> pd.DataFrame:
    """similar.csv: a row a pair, those with different labels first."""
    frame, pairs = seen.table.frame, seen.pairs
    names = np.array([*map(str, seen.table.classes), ""], object)  # -1, of a test photo, is ""
    columns: dict[str, Iterable[object]] = {}
    for name, of in (
        ("photo", frame["id"].to_numpy()),
        ("label", names[frame["label"]]),
        ("side", frame["fold"].map(SIDES).to_numpy()),
    ):
        columns |= {f"{name}_{k}": of[pairs[k]] for k in ("a", "b")}
    return pd.DataFrame({**columns, **pairs[["distance", "mirrored", "finding"]].to_dict("list")})


# --- Sentences ------------------------------------------------------------------------------------


def lines(seen: Look) -> list[str]:
    """What was seen, for the log; warnings last."""
    return [*_of_classes(seen.table), *_of_sizes(seen.table), *_of_light(seen), *_of_pairs(seen)]


def _of_classes(table: Table) -> list[str]:
    counts = Counter(table.rows(TRAIN, VALIDATION).labels.tolist())
    (most, many), *_, (least, few) = counts.most_common()
    line = f"classes: each has {many:,} photos"
    if few < many:
        line = (
            f"classes: {table.classes[most]} has the most photos, {many:,}, {table.classes[least]} "
            f"the fewest, {few:,}: {many / few:.1f} times as many"
        )
    rare = sum(count < 10 for count in counts.values())
    return [line + (f"; {rare:,} of {len(counts):,} classes have fewer than 10" if rare else "")]


def _of_sizes(table: Table) -> list[str]:
    sizes = table.frame.loc[table.frame["readable"], ["width", "height"]]
    area = sizes["width"] * sizes["height"]
    order = area.argsort(kind="stable").to_numpy()
    at = {"smallest": 0, "middle": len(order) // 2, "largest": -1}
    found = [f"{what} {'×'.join(map(str, sizes.iloc[order[n]]))}" for what, n in at.items()]
    if len(sizes.drop_duplicates()) == 1:
        return []  # the summary has said it
    upright = (sizes["width"] < sizes["height"]).mean()
    return [f"sizes: {', '.join(found)} px; {upright:.0%} taller than wide"]


def _of_light(seen: Look) -> list[str]:
    small, is_test = seen.small, (seen.table.frame["fold"] == TEST).to_numpy()
    if not ((small.seen & is_test).any() and (small.seen & ~is_test).any()):
        return ["light: no train photo, or no test photo, can be decoded"]
    medians = [
        f"{name} {np.median(values[small.seen & ~is_test]):.0f} in train and "
        f"{np.median(values[small.seen & is_test]):.0f} in test photos"
        for name, values in (("brightness", small.brightness), ("contrast", small.contrast))
    ]
    found = [f"light: {', '.join(medians)} (medians; 0–255)"]
    if small.flat.any():
        ids = seen.table.frame.loc[small.flat, "id"].astype(str).tolist()
        found.append(
            f"light: {count_photos(len(ids))} of one colour, not compared with others: "
            f"{photos.first(ids, 3)}"
        )
    return found


def _of_pairs(seen: Look) -> list[str]:
    pairs = seen.pairs
    if pairs.empty:
        return ["similar: no two photos show the same picture in files that differ"]
    counts = Counter(pairs["finding"])
    kinds = ", ".join(
        f"{counts[kind]:,} {words}" for kind, words in FINDINGS.items() if counts[kind]
    )
    mirrored = int(pairs["mirrored"].sum())
    found = [
        f"similar: {len(pairs):,} pairs of photos show the same picture in files that differ "
        f"({mirrored:,} mirrored): {kinds}; similar.csv"
    ]
    if seen.known:
        tests = len(seen.table.rows(TEST))
        found.append(
            f"similar: {seen.known:,} of {tests:,} test photos show what a train photo does"
        )
    if seen.leaked:
        share = seen.leaked / seen.validated
        found.append(
            f"{'WARNING' if share >= MANY else 'similar'}: {seen.leaked:,} of {seen.validated:,} "
            f"validation photos ({share:.1%}) show what a photo does that is trained on, which "
            "flatters the accuracy"
        )
    rows = listed(seen)[pairs["finding"] == OTHER_LABEL]
    if len(rows):
        named = [
            f"{r.photo_a} ({r.label_a}) and {r.photo_b} ({r.label_b})" for r in rows.itertuples()
        ]
        count = f"{len(rows):,} pairs of photos" if len(rows) > 1 else "1 pair of photos"
        found.append(
            f"WARNING: {count} show the same picture under different labels, of which one is "
            f"wrong: {photos.first(named, 3)}"
        )
    return found
'''


# ===== carcls/report/names.py =================================================
MODULES["report/names.py"] = r'''"""Names of classes and photos as a picture can show them: fonts lack letters, and room is short."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

FONT = "DejaVu Sans"  # which matplotlib brings


@dataclass(frozen=True)
class Names:
    """What a picture shows for each name, and what its numbers stand for."""

    shown: list[str]
    legend: list[str]  # "#3: …" for each name that is shown as a number
    fonts: list[str]  # needed beside FONT


def names(texts: Iterable[object], most: int, kind: str = "") -> Names:
    """Names of at most ``most`` characters; a number for what no font of this machine can show.

    A number, with its kind before it, is that of the place, from 1. So are names shown that would
    look alike.
    """
    given = [str(text) for text in texts]
    wholes = [" ".join(unicodedata.normalize("NFC", text).split()) for text in given]
    shown = [shorten(whole, most) for whole in wholes]
    alike = Counter(dict(zip(given, shown, strict=True)).values())
    legend, fonts = [], set[str]()
    for n, whole in enumerate(wholes):
        found = {_font_of(char) for char in whole}
        if None in found or alike[shown[n]] > 1:
            shown[n] = f"{kind}#{n + 1}"
            legend.append(f"{shown[n]}: {whole}")
        else:
            fonts |= {font for font in found if font}
    return Names(shown, legend, sorted(fonts - {FONT}))


def shorten(name: object, most: int) -> str:
    """A name of at most ``most`` characters; a dollar sign in it does not start a formula."""
    text = str(name)
    most = most * len(text) // max(1, width(text))  # of wide letters half as many have room
    if len(text) > most:  # in the middle: "Aston Martin V8 Vantage 2012" ends in what matters
        text = f"{text[: most - 1 - most // 3]}…{text[-(most // 3) :]}"
    return text.replace("$", r"\$")


def width(text: str) -> int:
    """Of a text in Latin letters: Chinese ones are twice as wide."""
    return sum(1 + (unicodedata.east_asian_width(char) in "WF") for char in text)


@cache
def _font_of(char: str) -> str | None:
    """A font of this machine that shows a character by itself; None if there is none.

    Letters that are shaped by their neighbours or written from right to left are not for
    matplotlib, which sets one after the other.
    """
    if unicodedata.category(char)[0] in "MC" or unicodedata.bidirectional(char) in ("R", "AL"):
        return None
    if ord(char) in _characters(FONT):
        return FONT
    families = sorted({entry.name for entry in font_manager.fontManager.ttflist})
    return next((name for name in families if _draws(name, char)), None)


@cache
def _characters(family: str) -> frozenset[int]:
    """Those that a font has, by its own word; none of a font of pictures, which cannot be drawn."""
    try:
        font = FT2Font(font_manager.findfont(family, fallback_to_default=False))
        return frozenset(font.get_charmap() if font.scalable else ())
    except (OSError, RuntimeError, ValueError):  # it is damaged, or gone
        return frozenset()


def _draws(family: str, char: str) -> bool:
    """Whether a font has more than a blank or a box for a character."""
    if ord(char) not in _characters(family) or "lastresort" in family.lower().replace(" ", ""):
        return False
    font = FT2Font(font_manager.findfont(family))
    font.load_char(ord(char))
    return len(font.get_path()[0]) > 0
'''


# ===== carcls/report/outcome.py ===============================================
MODULES["report/outcome.py"] = r'''"""What a run says of its validation photos, photo by photo: errors, classes, pairs of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from carcls import metrics
from carcls.votes.votes import Votes


@dataclass(frozen=True)
class Outcome:
    """Validation photos, what is true of them, and what is predicted without having seen them."""

    classes: list[str]
    frame: pd.DataFrame  # a row a photo, with the columns of photos.Table
    truth: np.ndarray  # (photos,) int64
    probs: np.ndarray  # (photos, classes) of the submission's blend, out of fold
    votes: Sequence[Votes]  # of each member, with as many views as were asked for

    @cached_property
    def predicted(self) -> np.ndarray:
        """(photos,) int64."""
        return self.probs.argmax(1)

    @cached_property
    def wrong(self) -> np.ndarray:
        """Positions of the photos that are predicted wrongly, those of the highest loss first."""
        wrong = np.flatnonzero(self.predicted != self.truth)
        losses = metrics.losses(self.probs[wrong], self.truth[wrong])
        return wrong[np.argsort(-losses, kind="stable")]

    @cached_property
    def confusion(self) -> np.ndarray:
        """(classes, classes) int64: photos by true and predicted class."""
        return metrics.confusion(self.probs, self.truth)

    @cached_property
    def most_confused(self) -> tuple[int, int, int]:
        """The two classes most often taken for each other, and how many photos; 0 if none."""
        both = np.triu(self.confusion + self.confusion.T, 1)
        i, j = divmod(int(both.argmax()), len(both))
        return i, j, int(both[i, j])


def errors(o: Outcome) -> pd.DataFrame:
    """A row for each photo that is predicted wrongly, those of the highest loss first.

    views are those of all members, of which votes_predicted and votes_true put these classes first;
    agreement is the share of them that vote for the predicted class.
    """
    wrong, truth, predicted = o.wrong, o.truth[o.wrong], o.predicted[o.wrong]
    tops = [votes.tops()[:, wrong] for votes in o.votes]
    views = sum((votes.n_views[wrong] for votes in o.votes), np.zeros(len(wrong), np.int64))
    for_predicted, for_true = (
        sum(((top == which).sum(0) for top in tops), np.zeros(len(wrong), np.int64))
        for which in (predicted, truth)
    )
    return pd.DataFrame(
        {
            "id": o.frame["id"].to_numpy()[wrong],
            "true": [o.classes[k] for k in truth],
            "predicted": [o.classes[k] for k in predicted],
            "probability": o.probs[wrong, predicted],
            "true_probability": o.probs[wrong, truth],
            "loss": metrics.losses(o.probs[wrong], truth),
            "views": views,
            "votes_predicted": for_predicted,
            "votes_true": for_true,
            "agreement": for_predicted / views,
            "path": o.frame["path"].to_numpy()[wrong],
        }
    )


def by_class(o: Outcome) -> pd.DataFrame:
    """A row a class: its photos, how many are right, precision, recall, F1, its usual error.

    NaN where there is nothing to divide by: no such photo, or none predicted so.
    """
    table = o.confusion
    right, photos, predicted = table.diagonal(), table.sum(1), table.sum(0)
    off = table - np.diag(right)
    with np.errstate(invalid="ignore"):
        rates = right / predicted, right / photos, 2 * right / (photos + predicted)
    taken = [
        f"{o.classes[k]} ({off[row, k]})" if off[row, k] else ""
        for row, k in enumerate(off.argmax(1))
    ]
    columns = {"class": o.classes, "photos": photos, "right": right}
    columns |= dict(zip(("precision", "recall", "F1"), rates, strict=True))
    return pd.DataFrame({**columns, "most often taken for": taken})


def pairs(o: Outcome, most: int = 25) -> pd.DataFrame:
    """The true and predicted classes of most errors: photos, their share of the true class."""
    wrong = errors(o)
    if wrong.empty:
        return pd.DataFrame()
    of = wrong.groupby(["true", "predicted"], sort=False)["id"]
    found = of.agg(photos="size", examples=lambda ids: ", ".join(map(str, ids[:3]))).reset_index()
    counts = dict(zip(o.classes, o.confusion.sum(1).tolist(), strict=True))
    shares = [n / counts[true] for n, true in zip(found["photos"], found["true"], strict=True)]
    found.insert(3, "of the class", [f"{share:.0%}" for share in shares])
    return found.sort_values("photos", ascending=False, kind="stable", ignore_index=True)[:most]
'''


# ===== carcls/report/page.py ==================================================
MODULES["report/page.py"] = r'''"""report.html and the pictures of a run, from what it has measured and left in its folder."""

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
'''


# ===== carcls/report/parts.py =================================================
MODULES["report/parts.py"] = r'''"""Parts of a page: pictures as data, tables, small drawings, and the page around them."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image

from carcls import metrics
from carcls.report import charts, sheets, template

LARGE = 15_000  # bytes of a PNG file from which a picture is made smaller for the page
COLOURS = 20_000  # charts have fewer, photos many more
QUALITY = 75  # of WebP, at which letters of 8 px can still be read


def render(text: str, **content: Any) -> str:
    """A page from a template that extends "base"; the content is escaped unless it is Markup."""
    loader = jinja2.DictLoader({"base": template.BASE})
    env = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=loader)
    fixed = {"style": Markup(template.STYLE), "script": Markup(template.SCRIPT)}
    return env.from_string(text).render(**fixed, table=table, **content)


# --- Pictures -------------------------------------------------------------------------------------


def figure(path: Path, caption: str) -> Markup:
    """A picture with its caption, and the names that it shows as numbers."""
    with Image.open(path) as opened:
        legend = opened.info.get(charts.LEGEND, "")
    whole = Markup("<figure>{}<figcaption>{}{}</figcaption></figure>")
    # What is seen, without what to look for, stands for the picture where it is not seen.
    alt = caption.partition(" Look for ")[0]
    return whole.format(image(path, alt), caption, legend and Markup("<br>") + legend)


def figure_or_text(path: Path | None, text: str) -> Markup:
    """A picture with the text as its caption; without a path the text alone."""
    return figure(path, text) if path else Markup("<p>{}</p>").format(text)


def image(path: Path, alt: str) -> Markup:
    """A PNG as a part of a page, without the file; a large one as WebP or with fewer colours."""
    data, kind, size = path.read_bytes(), "png", ""
    if len(data) > LARGE:
        with Image.open(path) as opened:
            whole = opened.convert("RGB")
        size = f'width="{whole.width}" height="{whole.height}"'
        if whole.getcolors(COLOURS):
            fewer = whole.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
            data = min(data, _packed(fewer, "PNG", optimize=True), key=len)
        else:
            data, kind = _packed(whole, "WEBP", quality=QUALITY), "webp"
    return _img(data, kind, alt, path.name, size)


def _packed(picture: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def _img(data: bytes, kind: str, alt: str, name: str, size: str = "") -> Markup:
    text = Markup('<img alt="{}" data-file="{}" {}src="data:image/{};base64,{}">')
    return text.format(
        alt, name, Markup(size and f"{size} "), kind, base64.b64encode(data).decode()
    )


def photos(shown: Sequence[tuple[pd.Series, str]]) -> Markup:
    """Photos of rows of a table side by side, each with what is below it; unreadable ones not."""
    each = []
    for item, caption in shown:
        photo = sheets.tile(item)
        if photo is not None:
            data = _packed(Image.fromarray(photo), "WEBP", quality=QUALITY)
            inner = Markup("<figure>{}<figcaption>{}<br><small>{}</small></figcaption></figure>")
            each.append(inner.format(_img(data, "webp", caption, ""), caption, item["id"]))
    return Markup('<div class="photos">{}</div>').format(Markup().join(each)) if each else Markup()


def spark(values: np.ndarray, alt: str) -> Markup:
    """A small line of (n,) numbers, from their least to their most; gaps are left out."""
    shown = values[np.isfinite(values)]
    if len(shown) < 2:
        return Markup()
    span = float(np.ptp(shown)) or 1.0
    xs, ys = np.linspace(1, 99, len(shown)), 37 - 34 * (shown - shown.min()) / span
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    text = Markup(
        '<svg class="spark" viewBox="0 0 100 40" preserveAspectRatio="none" role="img" '
        'aria-label="{0}"><polyline points="{1}"/></svg><p class="below">{0}</p>'
    )
    return text.format(alt, points)


# --- Numbers --------------------------------------------------------------------------------------


def table(frame: pd.DataFrame, caption: str = "", wrapped: bool = False, digits: int = 4) -> Markup:
    """A table that sorts by a click on a head; wrapped: the last column is of sentences."""
    shown = frame.replace([np.inf, -np.inf], np.nan)
    with pd.option_context("display.max_colwidth", None):  # else reasons are cut off
        text = shown.to_html(
            index=False,
            float_format=f"%.{digits}g",
            na_rep="",
            border=0,
            classes="sorts",
            justify="unset",
        )
    text = text.replace(' style="text-align: unset;"', "").replace("<th>", '<th scope="col">')
    outer = '<div class="wide{}" tabindex="0" role="group" aria-label="{}">{}</div>'
    named = caption or ", ".join(map(str, frame.columns[:3]))
    return Markup(outer).format(" text" if wrapped else "", named, Markup(text))


def scale(metric: str, values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Where an axis begins and ends that shows these values of a metric well, and its marks."""
    if metric == "log_loss":
        step = _nice(max(*values, 1e-3) / 4)
        ends = 0.0, step * math.ceil(1.05 * max(values) / step + 1e-9)
    else:
        lowest = min(values) - 0.15 * (1 - min(values))
        starts = (0.98, 0.95, 0.9, 0.8, 0.5)
        ends = next((start for start in starts if start <= lowest), 0.0), 1.0
        step = _nice((ends[1] - ends[0]) / 5)
    count = round((ends[1] - ends[0]) / step)
    return *ends, [ends[0] + n * step for n in range(count + 1)]


def _nice(step: float) -> float:
    """1, 2 or 5 times a power of ten that is not smaller."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(k * power for k in (1, 2, 5, 10) if k * power >= step * (1 - 1e-9))


def score(result: Mapping[str, Any]) -> dict[str, Any]:
    """The first figure of a report: metric, value, interval and places on an axis, in percent."""
    metric = result.get("metric", "accuracy")
    value = result.get("validation_score", result["validation_accuracy"])
    low, high = result["validation_interval_95"]
    points = {"value": value, "low": low, "high": high}
    true = {name: result.get(f"true_{name}") for name in metrics.NAMES}  # of a drawn sample
    known = {name: score for name, score in true.items() if score is not None}
    if metric in known:
        points["true"] = known[metric]
    start, end, marks = scale(metric, list(points.values()))

    def at(x: float) -> str:
        return f"{100 * (x - start) / (end - start):.2f}%"

    return {
        "metric": metrics.SHOWN[metric],
        **points,
        "known": {metrics.SHOWN[name]: score for name, score in known.items()},
        "at": {name: at(x) for name, x in points.items()},
        "width": f"{100 * (high - low) / (end - start):.2f}%",
        "marks": [(at(x), f"{x:.3g}") for x in marks],
    }
'''


# ===== carcls/report/sheets.py ================================================
MODULES["report/sheets.py"] = r'''"""Sheets of photos to look at: augmentation, audit, boxes, errors, disputed photos and labels.

Of all but the first there may be nothing to see: then no file is left, and what is said instead is
returned; "" of a sheet that was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from carcls import disk
from carcls.config import Config
from carcls.data import augment, boxes, photos, pixels
from carcls.errors import InputError
from carcls.report.charts import GREEN, GREY, RED, Classes, drawing
from carcls.report.names import Names, names, width
from carcls.report.views import sort_by_dispute
from carcls.votes.votes import Votes

CAPTIONS = {
    "augmentation.png": "Left: training photos as they are; right: random augmentations of each, "
    "as strong as at the start of training. Look for cars that you could not recognise.",
    "audit.png": "Photos about which the audit found something, dropped ones first (red), and "
    "what was done. Look for dropped photos that you could use. audit.csv lists all findings.",
    "boxes.png": "Photos with the box (yellow) that they are cut to, and its share of the photo: "
    "the smallest first, then others at random. Look for boxes that cut off parts of the car or "
    "show another one.",
    "disputed.png": "The photos on which the views disagree most: how many vote for which class, "
    "and the true class. Green: predicted rightly; red: wrongly. Look for what they have in "
    "common: small cars, odd angles, several cars.",
    "errors.png": "Validation photos that are predicted wrongly, the most confident errors "
    "first: true class → predicted class (its probability). Look for labels that are wrong.",
    "suspicious.png": "Photos whose label the votes contradict, the most confident first: the "
    "label in train.csv, the class that the votes say, and its probability. Look for labels "
    "that are wrong; leave those that are right, however hard the photo.",
}

TILE = (138, 184)  # height and width of a photo on a sheet, px
COLUMNS = 6
GAP = 0.16  # between photos, inches
NAME = 18  # characters of a class's name above a photo


# --- Before training ------------------------------------------------------------------------------


def augmentation(cfg: Config, table: photos.Table, path: Path) -> Path:
    """Training photos, one a row, beside random augmentations of them at the starting strength."""
    count, draws = 6, 5
    size = height, width = cfg.stages[-1].size
    policy = augment.policy(cfg.augment, *size, cfg.fit, cfg.strength.start)
    train = table.frame[table.frame["fold"] == photos.TRAIN]
    train = train.sample(min(count, len(train)), random_state=cfg.seed)
    gap = width // 16
    across, down = width + gap, height + gap  # from one image to the next, px
    grid = np.full((len(train) * down - gap, (draws + 1) * across - gap, 3), 255, np.uint8)
    for n, (item, box) in enumerate(zip(train.itertuples(), boxes.of(train), strict=True)):
        try:
            whole = (item.height, item.width)
            photo = pixels.read_box(item.path, box, (2 * height, 2 * width), whole)
        except InputError:  # grey, as it is in training
            photo = np.full((*size, 3), augment.GREY, np.uint8)
        drawn = (policy(photo, (cfg.seed, n, draw)) for draw in range(draws))
        for column, image in enumerate((augment.view(photo, size, cfg.fit), *drawn)):
            top, left = n * down, column * across
            grid[top : top + height, left : left + width] = image
    shown = names([cfg.augment], 24)
    with drawing(path, 2.2 * (draws + 1), 2.2 * height / width * len(train) + 0.5, shown) as figure:
        axis = figure.subplots()
        axis.imshow(grid)  # as one image: a run waits for it, and 36 axes took a second
        axis.set_axis_off()
        for column in range(draws + 1):
            title = f"{shown.shown[0]}, draw {column}" if column else "as it is"
            middle = column * across + width / 2
            axis.text(middle, -gap / 2, title, ha="center", va="bottom", fontsize=9)
    return path


def audit(table: photos.Table, path: Path, most: int = 48) -> str:
    """Photos with all that the audit found about them: dropped ones first, some of each kind."""
    findings = zip(table.audit["finding"], table.audit["action"], strict=True)
    found = table.audit.assign(
        dropped=table.audit["action"] == "dropped",
        kind=table.audit.groupby("finding").cumcount(),
        lines=[wrap(f"{finding} → {action}".split(), most=28) for finding, action in findings],
    )
    found = found.groupby(["source", "id"], sort=False, as_index=False).agg(
        {"lines": "sum", "dropped": "any", "kind": "min"}
    )
    with_file = table.looked[table.looked["path"] != ""]
    found = found.merge(with_file.drop_duplicates(["source", "id"]))
    kept = table.frame.loc[table.frame["source"] != "test", "id"]
    found["dropped"] &= ~found["id"].isin(kept)  # of two rows one may have been kept
    found = found.sort_values(["dropped", "kind"], ascending=[False, True], kind="stable")
    found = found.head(most)
    ids = _ids(found)
    titles = [[name, *lines] for name, lines in zip(ids.shown, found["lines"], strict=True)]
    borders = [RED if dropped else GREY for dropped in found["dropped"]]
    nothing = "The audit found nothing."
    if len(table.audit):
        nothing = "What the audit found is about no photo that has a file."
    return sheet(found, titles, path, nothing, borders, ids)


def boxed(frame: pd.DataFrame, path: Path, count: int = 48) -> str:
    """Photos with the box that they are cut to: the smallest shares, then others at random."""
    sides, area = boxes.of(frame), np.maximum(1, frame["height"] * frame["width"])
    frame = frame.assign(share=(sides[:, 2:] - sides[:, :2]).prod(axis=1) / area)
    frame = frame[frame["readable"] & (frame["share"] < 1)].sort_values("share", kind="stable")
    smallest, others = frame.iloc[: count // 3], frame.iloc[count // 3 :]
    others = others.sample(min(count - len(smallest), len(others)), random_state=1)
    frame = pd.concat([smallest, others])
    ids = _ids(frame)
    shares = [f"{share:.0%} of the photo" for share in frame["share"]]
    titles = list(zip(ids.shown, shares, strict=True))
    return sheet(frame, titles, path, "No photo has a box smaller than itself.", shown=ids)


def _ids(frame: pd.DataFrame) -> Names:
    return names(frame["source"] + " " + frame["id"].astype(str), 28, "photo ")


# --- After it -------------------------------------------------------------------------------------


def disputed(frame: pd.DataFrame, votes: Votes, classes: Classes, path: Path) -> str:
    """The 24 photos whose views disagree most, with how many views say what; frame: of votes."""
    predicted, counts = votes.together().argmax(1), votes.first_places()
    agreement = votes.agreement()
    chosen = [i for i in sort_by_dispute(votes)[:24] if agreement[i] < 1]
    shown = names(classes, NAME)
    titles, borders = [], []
    for i in chosen:
        truth = votes.labels[i]
        titles.append(
            [*wrap(tally(counts[i], shown.shown), gap="  "), f"true {shown.shown[truth]}"]
        )
        borders.append(GREEN if truth == predicted[i] else RED)
    nothing = "On no photo do the views disagree."
    return sheet(frame.iloc[chosen], titles, path, nothing, borders, shown)


def tally(counts: np.ndarray, shown: Sequence[object], most: int = 3) -> list[str]:
    """Of views by class (classes,), the biggest first, as in ``["7: 5", "9: 3", "rest: 1"]``."""
    order = [int(c) for c in np.argsort(-counts, kind="stable") if counts[c]]
    parts = [f"{shown[c]}: {counts[c]}" for c in order[:most]]
    rest = int(counts[order[most:]].sum())
    return [*parts, f"rest: {rest}"] if rest else parts


def errors(
    frame: pd.DataFrame, truth: np.ndarray, probs: np.ndarray, classes: Classes, path: Path
) -> str:
    """The 24 wrong predictions that are most confident; frame: of truth and probs."""
    predicted, sure = probs.argmax(1), probs.max(1)
    wrong = np.flatnonzero(predicted != truth)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")][:24]
    shown = names(classes, NAME)
    titles = [
        wrap([shown.shown[truth[i]], f"→ {shown.shown[predicted[i]]}", f"({sure[i]:.2f})"])
        for i in wrong
    ]
    return sheet(frame.iloc[wrong], titles, path, "No photo is predicted wrongly.", shown=shown)


def suspicious(frame: pd.DataFrame, labels: pd.DataFrame, classes: Classes, path: Path) -> str:
    """The first 24 photos of ``pseudo.suspicious``, whose rows are positions in the frame."""
    shown = names(classes, NAME)
    labels = labels.head(24).astype({"row": int, "given": int, "predicted": int})
    titles = [
        wrap(
            [f"given {shown.shown[given]},", f"votes say {shown.shown[predicted]}", f"({sure:.2f})"]
        )
        for given, predicted, sure in labels[["given", "predicted", "probability"]].to_numpy(object)
    ]
    nothing = "The votes contradict no label."
    return sheet(frame.iloc[labels["row"]], titles, path, nothing, shown=shown)


# --- A sheet --------------------------------------------------------------------------------------


def sheet(
    frame: pd.DataFrame,
    titles: Sequence[Sequence[str]],
    path: Path,
    nothing: str,
    borders: Sequence[str] = (),
    shown: Names | None = None,
) -> str:
    """The photos of a frame, each under its title's lines and in a border, grey by default.

    nothing: what is returned of an empty frame; shown: the names in the titles.
    """
    if frame.empty:
        disk.remove(path)
        return nothing
    # In inches, counted by hand, as constrained layout cuts off titles of several lines.
    high, wide = TILE[0] / 100, TILE[1] / 100
    lines = [len(title) for title in titles]
    above = [0.1 + 0.145 * max(lines[n : n + COLUMNS]) for n in range(0, len(lines), COLUMNS)]
    tops = np.cumsum(above) + np.arange(len(above)) * (high + GAP)  # of each row, from the top
    total, across = tops[-1] + high + GAP, COLUMNS * (wide + GAP)
    with drawing(path, across, total, *([shown] if shown else ())) as figure:
        figure.set_layout_engine("none")
        for n, title in enumerate(titles):
            left, bottom = GAP / 2 + n % COLUMNS * (wide + GAP), total - tops[n // COLUMNS] - high
            axis = figure.add_axes((left / across, bottom / total, wide / across, high / total))
            photo = tile(frame.iloc[n])
            if photo is None:
                photo = np.full((*TILE, 3), augment.GREY, np.uint8)
                middle: Any = {"ha": "center", "va": "center", "transform": axis.transAxes}
                axis.text(0.5, 0.5, "unreadable", color="white", **middle)
            axis.imshow(photo, aspect="auto")
            axis.set_title("\n".join(title), fontsize=8.5, pad=5)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set(color=borders[n] if borders else GREY, linewidth=3)
    return ""


def tile(item: pd.Series) -> np.ndarray | None:
    """The whole photo of a row, uint8 (*TILE, 3), its box in yellow; None if it is unreadable."""
    if not item.get("readable", True):
        return None
    size = height, width = item["height"], item["width"]
    try:
        photo = pixels.read_photo(item["path"], *TILE, *size)
    except InputError:
        return None
    if set(boxes.SIDES) <= set(item.index):
        box = item[boxes.SIDES].to_numpy(float)
        if box.tolist() != [0, 0, width, height]:
            scale = np.tile([photo.shape[1] / width, photo.shape[0] / height], 2)
            left, top, right, bottom = np.round(box * scale).astype(int).tolist()
            thick = max(1, max(photo.shape) // 90)
            cv2.rectangle(photo, (left, top), (right - 1, bottom - 1), (255, 220, 0), thick)
    return augment.view(photo, TILE, "pad")


def wrap(words: Sequence[str], gap: str = " ", most: int = 30) -> list[str]:
    """Lines of words in order, as many in a line as fit into that many characters, one at least."""
    lines: list[str] = []
    for word in words:
        if lines and width(lines[-1] + gap + word) <= most:
            lines[-1] += gap + word
        else:
            lines.append(word)
    return lines
'''


# ===== carcls/report/submission.py ============================================
MODULES["report/submission.py"] = r'''"""submission.csv: checked before anything is written, and only replaced by a better-founded one."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carcls import disk, metrics
from carcls.data import labels, photos, tables
from carcls.errors import InputError
from carcls.metrics import SHOWN, Metric, merit
from carcls.votes.evidence import ONE_CLASS

# So seldom would chance give one class so many: of two classes as frequent, ten photos of ten.
_RARE = 0.001
LEAST = 1e-6  # a submitted probability; log-loss punishes 0 and 1 without end
_SUMS = 1e-3  # how far from 1 the probabilities of a photo may add up, as float16 rounds them
ABOUT_A_RUN = ("result.json", "report.html")  # beside a submission, and moved away with it


class Submission:
    """The submission of a run, which may have several sessions, and submission.json beside it.

    What another run, or a person, left there is kept as submission.earlier1.csv and so on.
    """

    def __init__(self, path: Path, table: photos.Table, run: str, metric: Metric = "accuracy"):
        self.path, self.table, self.metric = path, table, metric
        self.run = run  # the same in all sessions of a run
        self.made_by = ""  # what made the submission that is at the path now
        self.warnings: list[str] = []  # of that one
        self.more_warnings: Callable[[], list[str]] = list  # of the photos that it was made from
        # Tells whoever watches of each one that is written.
        self.tell: Callable[..., None] = lambda **about: None
        self._of_this_session = False

    def offer(
        self,
        ids: list[str],
        probs: np.ndarray,
        made_by: str,
        score: float,
        step: int = 0,
        early: bool = False,
    ) -> None:
        """Write these predictions unless an earlier session of this run left better-founded ones.

        probs (photos, classes); score: the metric on validation; step: how far the run has come.
        What a later step made stays. early: training goes on, so what has a better score stays too,
        and a failure is only a warning. Raises InputError if predictions are missing.
        """
        left = read_facts(self.path)
        if left and left["run"] != self.run:
            left = None
        if left and not self._of_this_session:
            before = left["score"]
            better = merit(self.metric, before) > merit(self.metric, score)
            if left["step"] > step or (early and better):
                self.made_by, self.warnings = left["made_by"], left["warnings"]
                kept = f"still {self.made_by}; validation {before:.4f} {SHOWN[self.metric]}"
                print(f"submission {self.path.name}: {kept}, not {score:.4f} by {made_by}")
                return
        try:
            probs = self._in_order(ids, probs)
            if self.path.exists() and not left:
                self._keep_earlier()
            about = {"made_by": made_by, "metric": self.metric, "score": score, "step": step}
            self._write(probs, about)
            self.tell(
                made_by=made_by, metric=self.metric, score=score, early=early, rows=len(probs)
            )
        except (InputError, OSError) as error:
            if not early:
                raise
            print(f"warning: no submission yet from {made_by}: {error}")
        else:
            shown = f"validation {score:.4f} {SHOWN[self.metric]}"
            print(f"submission {self.path.name}: {made_by}; {shown}")

    def _in_order(self, ids: list[str], probs: np.ndarray) -> np.ndarray:
        """The rows (rows of the sample, classes), in its order. Raises InputError."""
        assert probs.shape == (len(ids), len(self.table.classes)), probs.shape
        sample, rows = self.table.sample_ids, {ident: row for row, ident in enumerate(ids)}
        missing = [i for i in sample if i not in rows]
        bad = np.flatnonzero(~np.isfinite(probs).all(1))
        sums = probs.sum(1)
        wrong = ""
        if len(bad):
            wrong = f"{len(bad)} photos have no finite prediction, {ids[bad[0]]} first"
        elif missing or not len(rows) == len(ids) == len(sample):
            wrong = (
                f"{len(ids)} predictions of {len(rows)} ids, {len(sample)} rows in the sample "
                f"submission, {len(missing)} of them without prediction ({', '.join(missing[:3])})"
            )
        elif (probs < 0).any() or (abs(sums - 1) > _SUMS).any():
            wrong = (
                f"what is predicted are no probabilities: they add up to {sums.min():.4f} to "
                f"{sums.max():.4f} a photo, the least is {probs.min():.4g}"
            )
        if wrong:
            raise InputError(f"{self.path.name}: {wrong}; nothing written")
        return probs[[rows[i] for i in sample]]

    def _write(self, probs: np.ndarray, facts: dict[str, Any]) -> None:
        """The file and submission.json beside it."""
        frame = _frame(self.table, probs)
        content = frame.to_csv(index=False, lineterminator="\n", float_format="%.6g").encode()
        facts |= {
            "rows": len(frame),
            "warnings": [*self.more_warnings(), *warnings(self.table, probs.argmax(1))],
            "run": self.run,
            "sha256": hashlib.sha256(content).hexdigest(),
            "before": _digest(self.path) if self.path.is_file() else "",
        }
        # First the facts, which know the old file and the new one: after a kill in between they
        # still describe a submission of this run.
        disk.write_json(self.path.with_suffix(".json"), facts)
        disk.make_way(self.path)
        disk.write_atomic(self.path, content)
        self.made_by, self.warnings = facts["made_by"], facts["warnings"]
        self._of_this_session = True

    def _keep_earlier(self) -> None:
        """Keep another run's submission and what is about it under the first number that is free.

        A kill in between leaves a part of them under that number: it is still free for the rest.
        """
        copied = [self.path.with_suffix(".json"), self.path]
        moved = [self.path.with_name(name) for name in ABOUT_A_RUN]

        def kept(file: Path, number: int) -> Path:
            return file.with_name(f"{file.stem}.earlier{number}{file.suffix}")

        def is_free(number: int) -> bool:
            """Whether what is there, if anything, is of this submission."""
            is_here = kept(self.path, number).exists()  # copied before others are moved
            for file in (*copied, *moved):
                same = _bytes(file) == _bytes(kept(file, number))
                was_moved = is_here and file in moved and not file.exists()
                if kept(file, number).exists() and not (same or was_moved):
                    return False
            return True

        free = next(n for n in itertools.count(1) if is_free(n))
        for file in filter(Path.is_file, copied):
            disk.write_atomic(kept(file, free), file.read_bytes())
        for file in filter(Path.is_file, moved):
            file.replace(kept(file, free))


def read_facts(path: Path) -> dict[str, Any] | None:
    """What submission.json says of the submission at that path.

    None if there is no such file, it is not of a run, or either file was changed since.
    """
    try:
        facts = disk.unsealed(disk.read_json(path.with_suffix(".json")))
        known = _digest(path) in (facts["sha256"], facts["before"])
        complete = {"run", "step", "made_by", "metric", "score", "warnings"} <= set(facts)
        return facts if known and complete else None
    except (OSError, ValueError, KeyError):
        return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _bytes(path: Path) -> bytes:
    """Of a file; none without it."""
    return path.read_bytes() if path.is_file() else b""


def _frame(table: photos.Table, probs: np.ndarray) -> pd.DataFrame:
    """What the sample asks for, of these rows in its order; probs (rows of it, classes)."""
    asks = table.asks
    if asks.kind == "labels":
        held: Any = pd.Series([table.classes[k] for k in probs.argmax(1)])
    elif asks.kind == "positive":
        held = pd.Series(probs[:, asks.classes[0]].astype(float).clip(LEAST, 1 - LEAST))
    else:
        columns = np.asarray(asks.classes)
        shares = np.where(columns < 0, 0, probs[:, columns].astype(float))
        # What a class without a column has is shared by the others.
        shares /= np.maximum(shares.sum(1, keepdims=True), LEAST**2)
        shares = shares.clip(LEAST, 1 - LEAST)
        held = pd.DataFrame(shares / shares.sum(1, keepdims=True))
        assert np.allclose(held.sum(axis=1), 1, rtol=0, atol=1e-9)
    frame = pd.concat([pd.Series(table.sample_ids, dtype=object), held], axis=1)
    assert frame.shape == (len(probs), len(asks.columns)), frame.shape
    return frame.set_axis(list(asks.columns), axis=1)


def warnings(table: photos.Table, predicted: np.ndarray) -> list[str]:
    """What looks wrong with predictions: a class that takes nearly all, classes never predicted.

    predicted: (photos,) int, the most probable class of each.
    """
    counts = np.bincount(predicted, minlength=len(table.classes))
    train = table.rows(photos.TRAIN).labels
    top = int(counts.argmax())
    share, share_of_train = counts[top] / len(predicted), float((train == top).mean())
    found = []
    if (
        share > ONE_CLASS > share_of_train
        and _chance(share, share_of_train, len(predicted)) < _RARE
    ):
        found.append(
            f"class {table.classes[top]} takes {share:.0%} of the submission but "
            f"{share_of_train:.0%} of the training photos: the network has not learned; do not "
            "submit this"
        )
    never = [str(name) for name, n in zip(table.classes, counts, strict=True) if not n]
    # A rare class may get its due of probability without ever being the most probable.
    if never and not table.asks.probabilities and len(predicted) >= 20 * len(table.classes):
        found.append(f"never predicted: class {', '.join(never)}")
    return found


def _chance(share: float, expected: float, n: int) -> float:
    """At most so often a class of this share takes such a share of n photos (Chernoff's bound)."""
    rest = (1 - share) * math.log((1 - share) / (1 - expected)) if share < 1 else 0.0
    return math.exp(-n * (share * math.log(share / expected) + rest)) if expected else 0.0


def most_frequent(table: photos.Table, metric: Metric = "accuracy") -> tuple[np.ndarray, float]:
    """For want of a network: the shares of the classes in training, for every test photo.

    (test photos, classes), and the metric of the same on validation.
    """
    train, val = table.rows(photos.TRAIN).labels, table.rows(photos.VALIDATION).labels
    shares = np.bincount(train, minlength=len(table.classes)) / len(train)
    score = metrics.value(metric, np.tile(shares, (len(val), 1)), val)
    return np.tile(shares, (len(table.rows(photos.TEST)), 1)), score


def read_answers(path: Path, ids: list[str]) -> pd.Series:
    """The true label of each of these ids, from a file of them. Raises InputError."""
    table = tables.read_csv(path)
    if table.shape[1] != 2 or sorted(table.iloc[:, 0]) != sorted(ids):
        raise InputError(
            f"{path}: {table.shape[1]} columns, {len(table)} rows; expected an id and its label "
            f"for each of the {len(ids)} test photos"
        )
    return table.set_index(table.columns[0]).iloc[:, 0].reindex(ids)


def true_score(
    path: Path, answers: Path, table: photos.Table, metric: Metric
) -> tuple[Metric, float]:
    """The metric of a submission by the answers; of labels accuracy, where it needs probabilities.

    Raises InputError if ids differ or an answer is no class.
    """
    submitted, asks = tables.read_csv(path), table.asks
    true = read_answers(answers, submitted.iloc[:, 0].tolist())
    if asks.kind == "labels":
        numbers, names = pd.factorize(pd.concat([submitted.iloc[:, 1], true]))
        probs, codes = np.eye(len(names))[numbers[: len(true)]], numbers[len(true) :]
        metric = "accuracy" if metric in ("log_loss", "auc") else metric
        return metric, metrics.value(metric, probs, codes)
    values, find = submitted.iloc[:, 1:].to_numpy(float), labels.by_name(table.classes)
    unknown = sorted({text for text in true if find(text) is None})
    if unknown:
        raise InputError(f"{answers}: {unknown[0]!r} is no class of this run")
    probs, columns = np.zeros((len(values), len(table.classes))), np.array(asks.classes)
    probs[:, columns[columns >= 0]] = values[:, columns >= 0]
    if asks.kind == "positive":
        probs[:, 1 - columns[0]] = 1 - values[:, 0]
    number = {label: k for k, label in enumerate(table.classes)}
    return metric, metrics.value(metric, probs, true.map(find).map(number).to_numpy(np.int64))
'''


# ===== carcls/report/template.py ==============================================
MODULES["report/template.py"] = r'''"""How pages look: the frame of every page (style, script), and the report of a run.

Nothing is fetched from elsewhere, and every page can be read without its script: that sorts tables,
opens pictures large, and unfolds what a link or a printer asks for.
"""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --panel: #f4f6f8; --text: #1b1f24;
  --soft: #525b66; --line: #cfd6dd; --link: #0b5cad; --good: #14702f; --bad: #b3261e;
  --loud: #fff0c2; --loud-text: #4f3400; --loud-line: #b57f00 }
@media (prefers-color-scheme: dark) { :root { --ground: #14171c; --panel: #1e232b; --text: #e6e9ed;
  --soft: #a9b2bd; --line: #3a424d; --link: #86bdff; --good: #6fd28c; --bad: #ff8f86;
  --loud: #463200; --loud-text: #ffe6ac; --loud-line: #d9a520 } }
* { box-sizing: border-box }
html { scroll-padding-top: 3.4rem }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0; color: var(--text);
  background: var(--ground) }
main { max-width: 1180px; min-width: 0; margin: 0 auto; padding: 1rem 1.2rem 3rem }
h1 { font-size: 1.9rem; line-height: 1.2; margin: .4rem 0 .6rem }
h2 { font-size: 1.25rem; margin: 1.4rem 0 .5rem }
h3 { font-size: 1.05rem; margin: 1.2rem 0 .3rem }
h1, h2, h3, p, li, dd, figcaption { overflow-wrap: anywhere }
p { margin: .5rem 0; max-width: 52rem }
a { color: var(--link) }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px }
img { max-width: 100%; height: auto; vertical-align: top }
figure { margin: 1rem 0 }
figure > img, td img { background: #fff; border-radius: 4px }
figcaption { color: var(--soft); max-width: 52rem; margin-top: .3rem }
pre { background: var(--panel); padding: 1rem; overflow: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
.wide { overflow: auto; margin: .7rem 0; max-height: 32rem }
td, th { padding: .18rem .6rem; text-align: right; border-bottom: 1px solid var(--line);
  font-size: 13px }
th { position: sticky; top: 0; background: var(--panel); white-space: nowrap }
td:first-child, th:first-child, .text td, .text th { text-align: left }
.wide td { white-space: nowrap }
.text td { white-space: normal } .text td:last-child { min-width: 14em }
th button { all: unset; cursor: pointer; font-weight: bold }
th button:focus-visible { outline: 3px solid var(--link) }
th button::after { content: " ↕"; color: var(--soft); font-weight: normal }
[aria-sort=ascending] button::after { content: " ↑" }
[aria-sort=descending] button::after { content: " ↓" }
details { border: 1px solid var(--line); border-radius: 8px; margin: .8rem 0; padding: 0 1rem }
summary { cursor: pointer; padding: .6rem 0; color: var(--soft) }
summary h2 { display: inline; margin: 0 .6rem 0 .2rem; color: var(--text) }
.open-large { all: unset; cursor: zoom-in; display: inline-block; max-width: 100% }
.open-large:focus-visible { outline: 3px solid var(--link) }
dialog { max-width: 98vw; max-height: 98vh; padding: .5rem; overflow: auto;
  border: 1px solid var(--line); background: var(--ground); color: var(--text) }
dialog::backdrop { background: rgb(0 0 0 / .7) }
dialog img { max-width: none; background: #fff; display: block }
dialog form { position: sticky; left: 0; top: 0; margin-bottom: .4rem }
@media (prefers-color-scheme: dark) {
  figure > img, figure > button > img, td img { border: 6px solid #fff } }
@media print { nav, dialog { display: none } .wide { max-height: none; overflow: visible }
  details::details-content { content-visibility: visible; display: block; height: auto }
  figure, tr { break-inside: avoid } }
"""

SCRIPT = """
'use strict';
for (const table of document.querySelectorAll('table.sorts')) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const down = head.getAttribute('aria-sort') === 'ascending';
      heads.forEach(other => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      const text = row => row.cells[column].textContent.trim();
      const number = cell => parseFloat(cell.replace(/,/g, '').replace('−', '-'));
      const rows = [...table.tBodies[0].rows];
      const numeric = rows.every(row => !text(row) || !isNaN(number(text(row))));
      rows.sort((one, other) => {
        const a = text(one), b = text(other);
        if (!a || !b) return !a - !b;
        const order = numeric ? number(a) - number(b) : a.localeCompare(b);
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    };
  });
}
const large = document.querySelector('dialog');
for (const image of document.querySelectorAll('figure > img, td img')) {
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'open-large';
  button.setAttribute('aria-label', 'Open large: ' + image.alt);
  image.replaceWith(button);
  button.append(image);
  button.onclick = () => {
    large.querySelector('img')?.remove();
    const copy = image.cloneNode();
    const wide = Math.max(image.naturalWidth, Math.min(2 * image.naturalWidth, innerWidth - 60));
    copy.style.width = wide + 'px';
    large.append(copy);
    large.showModal();
  };
}
large.onclick = event => { if (event.target === large) large.close(); };
const unfold = () => {
  let place = document.getElementById(location.hash.slice(1));
  for (; place; place = place.parentElement) if (place.tagName === 'DETAILS') place.open = true;
};
addEventListener('hashchange', unfold);
unfold();
let folded = [];
addEventListener('beforeprint', () => {
  folded = [...document.querySelectorAll('details:not([open])')];
  folded.forEach(part => { part.open = true; });
});
addEventListener('afterprint', () => folded.forEach(part => { part.open = false; }));
"""

BASE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src
'unsafe-inline'; script-src 'unsafe-inline'">
<title>{% block title %}{% endblock %}</title>
<style>{{ style }}{% block style %}{% endblock %}</style>
</head>
<body>
{% block contents %}{% endblock %}
<main>
{% block main %}{% endblock %}
</main>
<dialog aria-label="A picture, large"><form method="dialog"><button>Close</button></form></dialog>
<script>{{ script }}</script>
</body>
</html>
"""

REPORT = """{% extends "base" %}
{% block title %}carcls: {{ score.metric }} {{ "%.4f"|format(score.value) }}{% endblock %}
{% block style %}
nav { position: sticky; top: 0; z-index: 2; background: var(--panel); overflow-x: auto;
  border-bottom: 1px solid var(--line) }
nav ul { display: flex; gap: .9rem; list-style: none; margin: 0; padding: .55rem 1rem;
  white-space: nowrap }
@media (min-width: 1100px) {
  body { display: grid; grid-template-columns: 10.5rem minmax(0, 1fr) }
  nav { height: 100vh; border: 0; border-right: 1px solid var(--line) }
  nav ul { flex-direction: column; gap: .5rem; padding: 1.6rem 1.2rem }
  main { width: 100% } html { scroll-padding-top: .5rem } }
@media print { body { display: block } }
.warning { background: var(--loud); color: var(--loud-text); border: 2px solid var(--loud-line);
  border-radius: 8px; padding: .5rem .9rem; max-width: none; font-weight: 600 }
.value { font-size: 2.5rem; white-space: nowrap }
.score text { font-size: 12px; fill: var(--soft) }
.score { display: block; overflow: visible; max-width: 46rem; margin: 0 1.2rem 0 .6rem;
  width: calc(100% - 1.8rem) }
.axis { stroke: var(--soft) } .band { fill: var(--link); opacity: .35 } .point { fill: var(--link) }
.true { stroke: var(--text); stroke-width: 2.5 }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .1rem 1rem;
  margin: .7rem 0 }
dt { color: var(--soft) } dd { margin: 0 }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 16rem), 1fr));
  gap: .9rem; list-style: none; padding: 0; margin: .5rem 0 }
.cards li { background: var(--panel); border-left: 4px solid var(--line); border-radius: 6px;
  padding: .6rem .8rem }
.cards .mend { border-color: var(--loud-line) }
.cards h3 { margin: 0 } .cards p { margin: .3rem 0; font-size: 14px }
.photos { display: flex; gap: .6rem } .photos figure { margin: .4rem 0 0; flex: 0 1 184px;
  min-width: 0 }
.photos figure img { border: 0 }
.photos figcaption, .below { color: var(--soft); font-size: 12px !important; line-height: 1.35 }
.spark { width: 100%; height: 56px; display: block } .spark polyline { fill: none;
  stroke: var(--link); stroke-width: 2; vector-effect: non-scaling-stroke }
.big { font-size: 1.7rem !important } .good { color: var(--good) } .bad { color: var(--bad) }
.beside { display: grid; gap: 0 1.5rem }
.beside > * { min-width: 0 }
@media (min-width: 1500px) { main { max-width: 1500px }
  .beside { grid-template-columns: repeat(2, minmax(0, 1fr)) } }
{% endblock %}

{% block contents %}
<nav aria-label="Contents"><ul>
<li><a href="#result">Result</a></li>
{% for id, title in contents %}
<li><a href="#{{ id }}">{{ title }}</a></li>
{% endfor %}
</ul></nav>
{% endblock %}

{% macro part(id, title, gist, open=False) %}
<details{{ " open" if open }}><summary><h2 id="{{ id }}">{{ title }}</h2>{{ gist }}</summary>
{{ caller() }}
</details>
{% endmacro %}

{% block main %}
{% for warning in result.warnings %}
<p class="warning">Warning: {{ warning }}.</p>
{% endfor %}
<h1 id="result">Validation {{ score.metric }}
<span class="value">{{ "%.4f"|format(score.value) }}</span></h1>
<svg class="score" height="62" role="img" aria-label="{{ score.metric }} {{
"%.4f"|format(score.value) }}, 95 % interval {{ "%.4f"|format(score.low) }} to {{
"%.4f"|format(score.high) }}{% if score.true is defined %}, true {{
"%.4f"|format(score.true) }}{% endif %}">
<line class="axis" x1="0" x2="100%" y1="40" y2="40"/>
{% for at, text in score.marks %}
<line class="axis" x1="{{ at }}" x2="{{ at }}" y1="36" y2="44"/>
<text x="{{ at }}" y="58" text-anchor="middle">{{ text }}</text>
{% endfor %}
<rect class="band" x="{{ score.at.low }}" width="{{ score.width }}" y="14" height="18" rx="4"/>
{% if score.true is defined %}
<line class="true" x1="{{ score.at.true }}" x2="{{ score.at.true }}" y1="6" y2="40"/>
{% endif %}
<circle class="point" cx="{{ score.at.value }}" cy="23" r="7"/>
</svg>
<p>95 % interval {{ "%.4f"|format(score.low) }}–{{ "%.4f"|format(score.high) }} (the band), on {{
"{:,}".format(result.validation_photos) }} photos that the networks were not trained on.
{% if score.metric != "accuracy" %}
Accuracy <b>{{ "%.4f"|format(result.validation_accuracy) }}</b>.
{% endif %}
{% for name, known in score.known.items() %}
True {{ name }} of submission.csv on the drawn test photos{{
" (the upright line)" if name == score.metric }}: <b>{{ "%.4f"|format(known) }}</b>.
{% endfor %}</p>
<dl><dt>Made by</dt><dd>{{ result.made_by }}</dd>
<dt>Photos</dt><dd>{{ counts }}</dd>
{% if time %}
<dt>Time</dt><dd>{{ time }}</dd>
{% endif %}</dl>

<h2>Worth knowing</h2>
<ul class="cards">
{% for verdict in verdicts %}
<li class="{{ verdict.kind }}{{ " mend" if not verdict.rank }}"><h3>{{ verdict.title }}</h3>
<p>{{ verdict.text }}</p>{{ verdict.picture }}</li>
{% endfor %}
</ul>

{% call part("data", "Data", counts) %}
{{ data }}
{% endcall %}

{% call part("training", "Training", gists.training) %}
<p>The best epoch, and whether views help, were chosen on the validation photos, so that what is
measured on them is a little too good. A blend is judged on photos that it was neither fitted nor
chosen on.</p>
{% if result.tuned %}
<h3>Search at small sizes</h3>
<p>{{ result.tuned.verdict[0]|upper }}{{ result.tuned.verdict[1:] }}.
<a href="tune/tune.html">The whole search</a>. The validation photos have chosen these settings,
too, so the figure above flatters them; those of the verdict have not.</p>
{% endif %}
{% if result.pseudo %}
<h3>Pseudo-labels</h3>
<p>{{ result.pseudo.chosen }}</p>
{% for reason in result.pseudo.reasons %}
<p>Member {{ loop.index }}: {{ reason }}</p>
{% endfor %}
{% endif %}
{% if result.refit %}
<h3>Refit</h3>
{% if result.refit.kept|select|list %}
<p>Validation was measured before networks went on training with the validation photos too,
{{ "{:,}".format(result.refit.photos) }} photos in all. No labelled photo is left to measure those
networks on.</p>
{% endif %}
{% for reason in result.refit.reasons %}
<p>Member {{ loop.index }}: {{ reason }}</p>
{% endfor %}
{% endif %}
{% for network in networks %}
<h3>Epochs of {{ network.name }}</h3>
{% for title, sentence in network.judged %}
<p><b>{{ title }}.</b> {{ sentence }}</p>
{% endfor %}
{{ network.curves }}
{{ table(network.history, "Epochs of " ~ network.name) }}
{% endfor %}
{% endcall %}

{% call part("votes", "Votes", gists.votes) %}
{% if members|length > 1 %}
<h3>Members and blend</h3>
{{ table(decision.alone, "Members alone") }}
<p>Blends, each judged on photos that it was not fitted on:</p>
{{ table(decision.choice.table, "Blends") }}
<p>Blend {{ decision.choice.blend.kind }}: {{ decision.choice.reason }}</p>
{% endif %}
{% if result.calibration_error is defined %}
<p>The probability of the predicted class is {{
"%.3f"|format(result.calibration_error.before) }} off on average{% if result.temperature != 1 %}, {{
"%.3f"|format(result.calibration_error.after) }} with temperature {{
"%.2f"|format(result.temperature) }}{% endif %} (expected calibration error).
{% if result.temperature != 1 %}
All figures below are of the probabilities before that.
{% endif %}</p>
{% endif %}
{{ calibration }}
{{ tta_curve }}
{% for member in members %}
<h3>Views of member {{ member.name }}</h3>
<p>Gate {{ member.gate }}</p>
{{ table(member.tta, "Accuracy by views of member " ~ member.name) }}
{% if member.saving %}
<p>{{ member.saving }}</p>
{% endif %}
{% if member.trade_off is not none %}
<p>Passes a photo against accuracy:</p>
{{ table(member.trade_off, "Rules for views of member " ~ member.name) }}
{% endif %}
{{ member.pictures }}
{% endfor %}
{% endcall %}

{% call part("errors", "Errors", gists.errors, open=True) %}
{% if pairs|length %}
<p>errors.csv lists every wrong photo with its probabilities and votes, the highest loss first.</p>
<div class="beside">
<div><h3>Classes taken for each other</h3>
{{ table(pairs, "Pairs of classes", wrapped=True) }}</div>
<div>{{ confusion }}</div>
</div>
{{ wrong }}
{% else %}
<p>All {{ "{:,}".format(result.validation_photos) }} validation photos are predicted rightly.</p>
{% endif %}
<h3>Class by class</h3>
{{ table(classes, "Class by class") }}
<h3>Labels to look at</h3>
{{ suspicious }}
{% endcall %}

{% call part("settings", "Settings", gists.settings) %}
<pre tabindex="0">{{ cfg.model_dump_json(indent=2) }}</pre>
<p>Source {{ result.source }}; {{ result.versions }}</p>
{% endcall %}
{% endblock %}
"""
'''


# ===== carcls/report/verdicts.py ==============================================
MODULES["report/verdicts.py"] = r'''"""What is worth knowing of a run: a sentence of each kind, the most important first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup

from carcls.metrics import Metric
from carcls.report import parts
from carcls.report.charts import count_photos
from carcls.report.outcome import Outcome
from carcls.votes.evidence import HARM, compare
from carcls.votes.votes import Gate, Votes

FINE, FEW, UNDER, OVER = (
    "Trained about long enough",
    "Too few epochs",
    "Under-trained",
    "Overfitted",
)

LITTLE = 0.01  # of log-loss: of photos that are all right, it may rise to many times its best

MEND, NEWS, WELL = 0, 1, 2  # how much a verdict matters: something to mend, to know, or all is well


@dataclass(frozen=True)
class Verdict:
    """A sentence with a title and, where there is one, a small picture or a figure."""

    kind: str  # labels, training, pair or views
    title: str
    text: str
    picture: Markup | str = ""
    rank: int = WELL


def first_three(
    o: Outcome,
    labels: pd.DataFrame,
    histories: Mapping[str, pd.DataFrame],
    gate: Gate,
    votes: Votes,
    metric: Metric = "accuracy",
) -> list[Verdict]:
    """The three most important: what can be mended, then what is new, then what is well.

    Within each the order is: wrong labels, which spoil training and figures alike; the length of
    training, which every photo depends on; the pair of classes that is confused most; views, which
    already are used only where they help. labels: ``pseudo.suspicious``; histories: of all
    networks by name; gate and votes: of the best member; metric: that decides.
    """
    found = [_labels(o, labels), _training(histories), _pair(o), _views(o, gate, votes, metric)]
    there = [verdict for verdict in found if verdict]
    return sorted(there, key=lambda verdict: verdict.rank)[:3]


def judge(history: pd.DataFrame) -> list[tuple[str, str]]:
    """What the curves say of a training, as titles and sentences; nothing of a refit."""
    if history["val_loss"].isna().all():
        return []
    last_size = history[history["stage"] == history["stage"].max()]
    loss, accuracy = last_size["val_loss"].to_numpy(), last_size["val_accuracy"].to_numpy()
    if len(loss) < 3:
        return [
            (FEW, "The last size had fewer than three epochs: too few to judge how long to train.")
        ]
    found = []
    fell = 1 - loss[-1] / loss[-3]
    if loss[-1] == loss.min() and fell > 0.1 and accuracy[-1] > accuracy[-3]:
        text = f"Over the last two epochs validation loss still fell by {fell:.0%} and accuracy "
        found.append((UNDER, f"{text}rose. More epochs should help."))
    if loss[-1] > max(1.05 * loss.min(), loss.min() + LITTLE):
        text = f"Validation loss ended {loss[-1] / loss.min() - 1:.0%} above its best. "
        found.append((OVER, f"{text}Fewer epochs or stronger augmentation should help."))
    return found or [(FINE, "The curves show neither too few nor too many epochs.")]


def _training(histories: Mapping[str, pd.DataFrame]) -> Verdict | None:
    """Of all networks the judgement that most of them share; one with something to mend first."""
    judged = {name: judge(history) for name, history in histories.items()}
    every = [(title, name, text) for name, all_ in judged.items() for title, text in all_]
    if not every:
        return None
    titles = [title for title, _, _ in every]
    order = {title: n for n, title in enumerate((UNDER, OVER, FEW, FINE))}
    title = min(titles, key=lambda t: (t not in (UNDER, OVER), -titles.count(t), order[t]))
    _, name, text = next(one for one in every if one[0] == title)
    networks = sum(bool(all_) for all_ in judged.values())
    if networks > 1:
        text = f"{titles.count(title)} of {networks} networks; the first, {name}: {text}"
    loss = histories[name]["val_loss"].to_numpy(float)
    alt = f"validation loss by epoch: {loss[0]:.3g} at first, {loss[-1]:.3g} at the end"
    rank = MEND if title in (UNDER, OVER) else WELL
    return Verdict("training", title, text, parts.spark(loss, alt), rank)


def _labels(o: Outcome, labels: pd.DataFrame) -> Verdict:
    if labels.empty:
        return Verdict("labels", "Labels look right", "The votes contradict no label.")
    n = len(labels)
    shown = [
        (int(row.row), f"labelled {o.classes[row.given]}, votes say {o.classes[row.predicted]}")
        for row in labels.head(2).itertuples()
    ]
    title = f"{count_photos(n)} may have a wrong label"
    whose, which = ("its", "it") if n == 1 else ("their", "them")
    text = f"Nearly all of {whose} views put the same other class first, with near-certainty. "
    text += f"Look at {which} below or in labels.csv, and mend train.csv."
    return Verdict("labels", title, text, _photos(o, shown), MEND)


def _pair(o: Outcome) -> Verdict:
    i, j, count = o.most_confused
    if not count:
        what = f"All {len(o.truth):,} validation photos are predicted rightly."
        return Verdict("pair", "No classes are confused", what)
    shown = [_example(o, true, other) for true, other in ((i, j), (j, i))]
    title = f"Classes {o.classes[i]} and {o.classes[j]} are confused most"
    text = f"{count_photos(count)} of {o.confusion[[i, j]].sum():,} of these two classes"
    text += f" {'is' if count == 1 else 'are'} taken for the other one; "
    text += f"{len(o.wrong):,} of all {len(o.truth):,} validation photos are wrong."
    picture = _photos(o, [one for one in shown if one])
    return Verdict("pair", title, text, picture, MEND)


def _example(o: Outcome, true: int, other: int) -> tuple[int, str] | None:
    """The surest photo of one class that is taken for the other, else of those that are right."""
    for predicted in (other, true):
        which = np.flatnonzero((o.truth == true) & (o.predicted == predicted))
        if len(which):
            surest = int(which[o.probs[which, predicted].argmax()])
            said = f"taken for {o.classes[other]}" if predicted == other else "predicted rightly"
            return surest, f"{o.classes[true]}, {said} ({o.probs[surest, predicted]:.2f})"
    return None


def _views(o: Outcome, gate: Gate, votes: Votes, metric: Metric) -> Verdict | None:
    most = int(votes.n_views.max())
    if most == 1:
        return None
    alone, together = votes.alone(), votes.together()
    change = compare(alone, together, o.truth, metric)
    is_sure = change.p < HARM
    if metric != "accuracy":  # whose test has one side
        is_sure = compare(together, alone, o.truth, metric).harms
    title = "Views change nothing"
    if change.harms:
        title = "Views do harm"
    elif change.helps:
        title = "Views help" if is_sure else "Views help a little, or by chance"
        if not is_sure and change.gain <= 0:
            title = "Views make predictions surer, not better"
    text = f"With {most} views of a photo instead of one, {change.corrected} became right and "
    text += f"{change.spoiled} wrong (p = {change.p:.2g}); log-loss {change.loss_before:.4f} → "
    text += f"{change.loss_after:.4f}. The submission "
    text += "uses them." if gate.open else "takes each photo alone."
    figure = Markup('<p class="big"><b class="good">+{}</b> <b class="bad">−{}</b></p>')
    moved = change.corrected or change.spoiled
    picture = figure.format(change.corrected, change.spoiled) if moved else ""
    rank = NEWS if change.harms or change.helps else WELL
    return Verdict("views", title, text, picture, MEND if change.harms and gate.open else rank)


def _photos(o: Outcome, shown: Sequence[tuple[int, str]]) -> Markup:
    """Photos side by side: their positions, and what is below them."""
    return parts.photos([(o.frame.iloc[at], caption) for at, caption in shown])
'''


# ===== carcls/report/views.py =================================================
MODULES["report/views.py"] = r'''"""Charts of test-time augmentation: what the views of a photo say, and how many are worth it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from carcls.report.charts import GREEN, RED, Classes, count_photos, drawing, spread_ticks
from carcls.report.names import names, width
from carcls.votes.votes import Votes

CAPTIONS = {
    "matrix.png": "The class that each view votes for, a row a photo, the most disputed at the "
    "top; left: the true class; white: not given. Look for a column unlike its neighbours: a view "
    "that harms; and for two colours that share many rows: classes that are confused.",
    "agreement.png": "Photos by how many of their views agree with the prediction. Look for "
    "accuracy that falls to the left: there, agreement tells which predictions to trust.",
    "tta_curve.png": "Validation accuracy and log-loss by number of views, a line a member. Look "
    "for where the lines become flat: more views only cost time. Differences smaller than the "
    "band, the 95 % interval, may be chance.",
    "trade_off.png": "Validation log-loss (lower is better) and accuracy by the mean number of "
    "passes per photo. On the grey line every photo has the same number of views; at the points "
    "only disputed photos get more. Look for points left of the line at the same height: the same "
    "for fewer passes.",
}

# The room above 100 % has no tick.
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.4g}%" if share < 1 + 1e-9 else "")


def sort_by_dispute(votes: Votes) -> np.ndarray:
    """(photos,) indices: the photos whose views agree least first, equal ones by class."""
    return np.lexsort((votes.together().argmax(1), votes.agreement()))


def matrix(votes: Votes, classes: Classes, path: Path, most: int = 400) -> Path:
    """Predicted class by photo and view, of the most disputed photos."""
    chosen = sort_by_dispute(votes)[:most]
    rows, views = len(chosen), int(votes.n_views.max())
    shown = names(classes, 28)
    ids = names((votes.ids[i] for i in chosen) if rows <= 40 else (), 24, "photo ")
    # Rows of 17 px with their ids up to 40 photos, else of 7 px or fewer: 2.7 with 400 photos.
    height = max(3.5, 1.5 + (0.17 * rows if rows <= 40 else min(11.0, 0.07 * rows)))
    wide = 5.5 + 0.11 * views + 0.07 * max(map(width, shown.shown))
    with drawing(path, wide, height, shown, ids) as figure:
        axis = figure.subplots()
        tops = votes.tops()[:views, chosen].T
        image = _colour_classes(axis, tops, (-0.5, views - 0.5), len(classes))
        wide = max(0.5, views / 24)
        left = -0.5 - 1.3 * wide
        _colour_classes(axis, votes.labels[chosen, None], (left, left + wide), len(classes))
        ticks = spread_ticks(views, 16)
        axis.set_xlim(left, views - 0.5)
        axis.set_xticks([left + wide / 2, *ticks], ["true", *map(str, ticks)])
        axis.set_xlabel("view (0: the photo itself, 1: its mirror image)")
        axis.set_ylabel("photo, the most disputed first")
        if rows <= 40:
            axis.set_yticks(range(rows), ids.shown, fontsize=8)
        else:
            axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        bar = figure.colorbar(image, label="predicted class", pad=0.02, aspect=5 * height)
        marked = spread_ticks(len(classes), min(40, int((height - 1.2) / 0.17)))
        bar.set_ticks(marked, labels=[shown.shown[i] for i in marked], fontsize=8)
        bar.ax.minorticks_off()
        bar.ax.invert_yaxis()  # like the rows, which go down by class
        disputed = (votes.agreement() < 1).sum()
        title = f"views disagree on {disputed:,} of {len(votes.ids):,} photos"
        part = f"\nshown: the {rows:,} most disputed" if rows < len(votes.ids) else ""
        figure.suptitle(title + part, fontsize=11)
    return path


def _colour_classes(axis: Any, image: np.ndarray, extent: tuple[float, float], classes: int) -> Any:
    """Show (rows, columns) class indices between those two x, a colour a class, −1 white."""
    # The last tenth of nipy_spectral is dark reds that look alike and a grey that looks like white.
    spectrum = matplotlib.colormaps["nipy_spectral"](np.linspace(0, 0.9, classes))
    return axis.imshow(
        np.ma.masked_less(image, 0),
        extent=(*extent, len(image) - 0.5, -0.5),
        cmap=ListedColormap(spectrum).with_extremes(bad="white"),
        norm=BoundaryNorm(np.arange(classes + 1) - 0.5, classes),
        interpolation="nearest",
        aspect="auto",
    )


def agreement(votes: Votes, path: Path) -> Path:
    """How many photos, and how many of them right, by the share of views that agree."""
    share, is_right = votes.agreement(), votes.together().argmax(1) == votes.labels
    bins, names = group_agreement(share, votes.n_views)
    total = np.bincount(bins, minlength=len(names))
    right = np.bincount(bins[is_right], minlength=len(names))
    with drawing(path, min(11.0, max(6.0, 2 + 0.8 * len(names))), 4.2) as figure:
        axis = figure.subplots()
        axis.bar(range(len(names)), right, color=GREEN, label="right")
        axis.bar(range(len(names)), total - right, bottom=right, color=RED, label="wrong")
        for i in np.flatnonzero(total):
            text = f"{right[i] / total[i]:.1%}\n{count_photos(total[i])}"
            axis.text(i, total[i], text, ha="center", va="bottom", fontsize=8)
        axis.set_xlim(min(-0.6, len(names) / 2 - 2), max(len(names) - 0.4, len(names) / 2 + 1))
        axis.set_ylim(0, 1.2 * total.max())
        axis.set_xticks(range(len(names)), names)
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("views that agree with the combined prediction")
        axis.set_ylabel("photos")
        title = f"all views agree on {(share == 1).mean():.1%} of {count_photos(len(bins))}"
        axis.set_title(f"{title}; above the bars: accuracy", fontsize=11)
        axis.legend(loc="upper left")
    return path


def group_agreement(agreement: np.ndarray, n_views: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(photos,) index of each photo's bin, and the bins' names, from the lowest that has a photo.

    A bin is a number of views where all photos were given the same few, else a tenth; the last one
    is of unanimous photos.
    """
    if n_views.min() == n_views.max() <= 12:
        views = int(n_views[0])
        bins = np.rint(agreement * views).astype(int)
        names = [f"{n} of {views}" for n in range(views + 1)]
    else:
        tenth = np.minimum(9, np.floor(agreement * 10 + 1e-9))  # 0.3 × 10 may be 2.999…
        bins = np.where(agreement == 1, 10, tenth).astype(int)
        names = [f"{10 * n}–{10 * n + 10}%" for n in range(9)] + ["90–99%", "all"]
    lowest = int(bins.min())
    return bins - lowest, names[lowest:]


def tta_curve(tables: dict[str, pd.DataFrame], used: int | None, path: Path) -> Path:
    """Accuracy and log-loss by number of views, from ``votes.curve`` of each member.

    used: views that the submission uses; None where photos differ in it.
    """
    members = names(tables, 40)
    with drawing(path, 11, 4.4, members) as figure:
        axes = left, right = figure.subplots(1, 2)
        for n, (name, rows) in enumerate(zip(members.shown, tables.values(), strict=True)):
            views, colour = rows["views"], f"C{n % 10}"
            left.plot(views, rows["accuracy"], "o-", ms=3, color=colour, label=name)
            right.plot(views, rows["log_loss"], "o-", ms=3, color=colour)
            left.fill_between(views, rows["low"], rows["high"], color=colour, alpha=0.15, lw=0)
        if used is not None:
            left.axvline(used, color="0.3", ls=":", zorder=0, label=f"used: {used} views")
            right.axvline(used, color="0.3", ls=":", zorder=0)
        _label_views(axes, "views per photo", max(rows["views"].max() for rows in tables.values()))
        left.set_ylabel("validation accuracy, 95 % interval")
        left.yaxis.set_major_formatter(PERCENT)
        right.set_ylabel("validation log-loss")
        figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    return path


def trade_off(table: pd.DataFrame, path: Path) -> Path:
    """Log-loss and accuracy by passes per photo, fixed and adaptive, from ``votes.trade_off``."""
    is_fixed = table["rule"].str.startswith("fixed")
    fixed, adaptive = table[is_fixed], table[~is_fixed]
    first = adaptive["rule"].str.extract(r"(\d+)", expand=False).astype(int)  # "from 4 up to 32"
    colour = {n: f"C{i + 1}" for i, n in enumerate(sorted(set(first)))}
    marker = {most: "osD^vP*X"[i % 8] for i, most in enumerate(sorted(set(adaptive["cap"])))}
    hollow: Any = {"ls": "", "mew": 1.5, "mfc": "none"}
    with drawing(path, 11, 5.0 if len(adaptive) else 4.2) as figure:
        axes = figure.subplots(1, 2)
        for axis, name in zip(axes, ("log_loss", "accuracy"), strict=True):
            axis.plot(fixed["passes"], fixed[name], ".-", color="0.5", zorder=1)
            for n, rows in adaptive.groupby(first):
                axis.plot(rows["passes"], rows[name], color=colour[n], lw=0.8, alpha=0.6)
                for x, y, most in zip(rows["passes"], rows[name], rows["cap"], strict=True):
                    axis.plot(x, y, marker[most], ms=7, mec=colour[n], zorder=3, **hollow)
            axis.set_ylabel(f"validation {name.replace('_', '-')}")
        _label_views(axes, "passes per photo, mean", table["passes"].max())
        axes[1].yaxis.set_major_formatter(PERCENT)
        keys = [Line2D([], [], color="0.5", marker=".", label="fixed: the same for every photo")]
        keys += [Line2D([], [], color=c, label=f"first {n} views") for n, c in colour.items()]
        keys += [
            Line2D([], [], marker=m, mec="0.3", label=f"disputed: up to {most} views", **hollow)
            for most, m in marker.items()
        ]
        figure.legend(handles=keys, loc="outside lower center", ncols=4, fontsize=9)
    return path


def _label_views(axes: Any, label: str, last: float) -> None:
    """Views from 1 to ``last`` on the x axis, each power of two as a plain number."""
    powers = [2**k for k in range(int(np.ceil(last)).bit_length())]
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.set_xlim(2**-0.3, 2**0.3 * last)
        axis.set_xticks(powers, [str(p) for p in powers])
        axis.minorticks_off()
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
'''


# ===== carcls/search/__init__.py ==============================================
MODULES["search/__init__.py"] = r'''"""Searches of settings: small sizes first, and a verdict on photos that chose nothing."""
'''


# ===== carcls/search/book.py ==================================================
MODULES["search/book.py"] = r'''"""What a search has on the disk: what it has decided, its candidates, their trials, and locks.

All that is decided is in search.json before it is acted upon, and all that is measured in a file of
its own: a search that was killed goes on to the same end. Several processes on one folder share the
work: a training is claimed by a lock on its folder, which a kill lets go.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path

from carcls import disk, record
from carcls.config import Config
from carcls.errors import ConfigError, InputError
from carcls.search import plan, space, trial
from carcls.search.plan import Size
from carcls.search.space import Point, Space
from carcls.search.trial import Outcome, Task
from carcls.values import Stage

STATE, CANDIDATE = "search.json", "candidate.json"
AT_WORK = "at-work"  # a folder that all who work on the search have locked together
BASE = 0  # the number of the candidate that is the settings as they are


@dataclass
class Rung:
    """Trainings of some candidates at one size."""

    size: Size
    epochs: int
    numbers: list[int]  # candidates; of the first rung those proposed so far
    until: float  # seconds of the search in which its trainings are to end
    is_last: bool = False


@dataclass
class State:
    """What the search has decided so far: its search.json."""

    facts: record.Facts
    spent: float = 0.0  # seconds
    most: int = 0  # candidates that are proposed at most; what is proposed when time is up
    rungs: list[Rung] = field(default_factory=list)


@dataclass
class Book:
    """The folder of a search."""

    folder: Path
    base: Config
    space: Space
    facts: record.Facts  # what the search is made from
    before: float = 0.0  # seconds of earlier sessions
    began: float = field(default_factory=time.monotonic)
    claimed: int | None = None  # the open folder of the training that is under way here

    @contextmanager
    def opened(self, anew: bool) -> Iterator[None]:
        """Go on from what the folder has of the same search; with resume=false it is put aside.

        Another search is put aside, too (``anew``), else ConfigError is raised. So it is if others
        are at work on what would be put aside.
        """
        disk.make_folder(self.folder)
        with self.turn():
            self._open(anew)
            lock = disk.lock(self.folder / AT_WORK, disk.TOGETHER)
        try:
            yield
        finally:
            disk.unlock(lock)

    def _open(self, anew: bool) -> None:
        try:
            was = self.state()
        except FileNotFoundError:
            self.write(State(self.facts))
            return
        changed = record.differences(was.facts, self.facts)
        if not was.rungs and not record.differences(*map(_but_minutes, (was.facts, self.facts))):
            self.write(State(self.facts))  # there was too little time, and is more now
            changed = []
        if not self.base.resume:
            self._put_aside("resume=false")
        elif changed and not anew:
            raise ConfigError(
                f"{self.folder}: has a search that differs in {'; '.join(changed)}; move it away, "
                "or choose another --out"
            )
        elif changed:
            self._put_aside("; ".join(changed))
        else:
            self.before = was.spent

    def _put_aside(self, why: str) -> None:
        """Begin anew, and keep the search that is there under another name."""
        with disk.locked(self.folder / AT_WORK) as is_idle:
            if not is_idle:
                raise ConfigError(
                    f"{self.folder}: another process is at work on a search in it, which this one "
                    f"would begin anew ({why}); wait for it, or choose another out"
                )
            names = (self.folder.with_name(f"{self.folder.name}.earlier{n}") for n in count(1))
            aside = next(name for name in names if not name.exists())
            self.folder.rename(aside)
        print(f"search     begun anew, the one before is {aside.name}: {why}")
        disk.make_folder(self.folder)
        self.write(State(self.facts))

    def turn(self) -> AbstractContextManager[bool]:
        """One process at a time reads and changes what the search has decided."""
        return disk.locked(self.folder, disk.IN_TURN)

    def state(self) -> State:
        """What is decided. Raises FileNotFoundError, InputError if it is not as it was left."""
        path = self.folder / STATE
        try:
            values = disk.unsealed(disk.read_json(path))
            rungs = [Rung(**{**rung, "size": tuple(rung["size"])}) for rung in values["rungs"]]
            return State(**{**values, "rungs": rungs})
        except FileNotFoundError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path}: not as a search has left it ({error}); remove it") from None

    def write(self, state: State) -> None:
        state.spent = max(state.spent, self.spent())
        disk.write_json(self.folder / STATE, asdict(state))

    def spent(self) -> float:
        """Seconds, in all sessions."""
        return self.before + time.monotonic() - self.began

    # --- Candidates and trials ----------------------------------------------------------------

    def folder_of(self, number: int, rung_number: int, rung: Rung, seed: int) -> Path:
        inside = f"last-seed{seed}" if rung.is_last else f"rung{rung_number}"
        return self.folder / f"{number:03}" / f"{inside}-{show(rung.size)}"

    def point_of(self, number: int) -> Point:
        """A candidate's settings, as far as the space has them. Raises InputError."""
        if number == BASE:
            return space.point_of(self.base, self.space)
        path = self.folder / f"{number:03}" / CANDIDATE
        try:
            return disk.unsealed(disk.read_json(path))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not as a search has left it ({error})") from None

    def cfg_of(self, number: int) -> Config:
        point = self.point_of(number)
        return space.settings(self.base, point) if number != BASE else self.base

    def add(self, state: State, point: Point) -> int:
        """A new candidate of the first rung; returns its number."""
        number = len(state.rungs[0].numbers)
        folder = self.folder / f"{number:03}"
        disk.make_folder(folder)
        disk.write_json(folder / CANDIDATE, point)
        state.rungs[0].numbers.append(number)
        self.write(state)
        return number

    def trials(self, rung: Rung) -> list[tuple[int, int]]:
        """(candidate, seed) of the trainings of a rung, in their order."""
        if not rung.is_last:
            return [(number, self.base.seed) for number in rung.numbers]
        seeds = [self.base.seed + 1 + i for i in range(plan.SEEDS)]  # none that chose them
        return [(number, seed) for seed in seeds for number in rung.numbers]

    def task(self, rungs: Sequence[Rung], number: int, seed: int) -> Task:
        """A training of the last of these rungs; it goes on from the rung before, if there is one.

        The last rung of all begins anew, as the final run will.
        """
        rung, start = rungs[-1], None
        if len(rungs) > 1 and not rung.is_last:
            start = trial.weights(self.folder_of(number, len(rungs) - 1, rungs[-2], seed))
        stages = (Stage(height=rung.size[0], width=rung.size[1], epochs=rung.epochs),)
        cfg = self.cfg_of(number).replace(**space.TERMS, stages=stages, seed=seed)
        name, folder = f"candidate {number}", self.folder_of(number, len(rungs), rung, seed)
        return Task(name, cfg, folder, start, number, len(rungs))

    def measured(self, state: State, number: int) -> dict[int, Outcome]:
        """By candidate what the trainings of a rung, other than the last, have measured."""
        rung, found = state.rungs[number - 1], {}
        for candidate, seed in self.trials(rung):
            outcome = trial.read(self.folder_of(candidate, number, rung, seed))
            if outcome is not None:
                found[candidate] = outcome
        return found

    def drop_weights(self, state: State, number: int) -> None:
        """Of the candidates that stay behind, and of what the others have gone on from long ago."""
        following = state.rungs[number]
        kept = set() if following.is_last else set(following.numbers)
        for index, rung in enumerate(state.rungs[:number], 1):
            for candidate, seed in self.trials(rung):
                if candidate not in kept or index < number:
                    trial.drop_weights(self.folder_of(candidate, index, rung, seed))

    # --- Locks --------------------------------------------------------------------------------

    def claims(self, folder: Path) -> bool:
        """Take a training for this process; False if another has it."""
        self.claimed = disk.lock(folder)
        return self.claimed is not None

    def release(self) -> None:
        disk.unlock(self.claimed)
        self.claimed = None


def _but_minutes(facts: record.Facts) -> record.Facts:
    return {name: value for name, value in facts.items() if name != "minutes"}


def show(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
'''


# ===== carcls/search/findings.py ==============================================
MODULES["search/findings.py"] = r'''"""What a search has found, read from its folder: a row a trial, who went on, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from carcls.search import ranking, space, trial
from carcls.search.book import BASE, Book, Rung
from carcls.search.ranking import Agreement, Verdict
from carcls.search.space import Point
from carcls.search.trial import Outcome


@dataclass(frozen=True)
class Climb:
    """A rung, with what its trainings measured and why candidates stayed behind."""

    rung: Rung
    outcomes: Mapping[tuple[int, int], Outcome]  # by candidate and seed
    reasons: Mapping[int, str]  # by candidate that did not go on

    @property
    def loss(self) -> dict[int, float]:
        """Candidate → mean log-loss over its seeds; without those that diverged."""
        found: dict[int, list[float]] = {}
        for (number, _), outcome in self.outcomes.items():
            if not outcome.diverged:
                found.setdefault(number, []).append(outcome.loss)
        return {number: float(np.mean(losses)) for number, losses in found.items()}


@dataclass(frozen=True)
class Findings:
    """All that a search has found."""

    book: Book
    seconds: float  # of the search, all sessions
    proposer: str  # who proposed the candidates
    points: Mapping[int, Point]  # settings of each candidate, as far as the space has them
    climbs: list[Climb]
    importance: Mapping[str, float]  # {} where it is not known
    verdict: Verdict

    @property
    def taken(self) -> int:
        """The candidate whose settings the search recommends; 0: those as they are."""
        return self.verdict.winner if self.verdict.is_taken else BASE

    @property
    def training_seconds(self) -> float:
        """Of all trials; the rest of ``seconds`` is the search's own, or was lost by a kill."""
        return sum(o.seconds for climb in self.climbs for o in climb.outcomes.values())

    def agreements(self) -> list[tuple[Rung, Rung, Agreement]]:
        """Of each rung and the next one: whether the smaller size ranked as the larger one."""
        found = []
        for small, large in zip(self.climbs, self.climbs[1:], strict=False):
            both = sorted(set(small.loss) & set(large.loss))
            pairs = [small.loss[n] for n in both], [large.loss[n] for n in both]
            found.append((small.rung, large.rung, ranking.agreement(*pairs)))
        return found

    def table(self) -> pd.DataFrame:
        """A row a trial: candidate, rung, settings, what it measured, and what became of it."""
        rows: list[dict[str, Any]] = []
        for number, climb in enumerate(self.climbs, 1):
            for (candidate, seed), outcome in climb.outcomes.items():
                height, width = climb.rung.size
                apart = outcome.apart_losses, outcome.apart_right
                rows.append(
                    {
                        "candidate": candidate,
                        "rung": number,
                        "height": height,
                        "width": width,
                        "epochs": climb.rung.epochs,
                        "seed": seed,
                        **self.points[candidate],
                        "log_loss": outcome.loss,
                        "accuracy": outcome.accuracy,
                        "photos": len(outcome.losses),
                        "apart_log_loss": _mean(apart[0]),
                        "apart_accuracy": _mean(apart[1]),
                        "apart_photos": len(apart[0]),
                        "seconds": round(outcome.seconds, 1),
                        "seconds_per_epoch": round(outcome.epoch_seconds, 2),
                        "stayed_behind": climb.reasons.get(candidate, ""),
                    }
                )
        return pd.DataFrame(rows)


def _mean(values: list[Any]) -> float:
    return float(np.mean(values)) if values else float("nan")


def read(book: Book, proposer: Any) -> Findings:
    """What the search in that folder has found; proposer: a propose.Proposer."""
    state = book.state()
    climbs = []
    for number, rung in enumerate(state.rungs, 1):
        outcomes = {}
        for candidate, seed in book.trials(rung):
            outcome = trial.read(book.folder_of(candidate, number, rung, seed))
            if outcome is not None:
                outcomes[candidate, seed] = outcome
        reasons: dict[int, str] = {}
        if not rung.is_last:
            one = {candidate: outcome for (candidate, _), outcome in outcomes.items()}
            reasons = dict(ranking.rank(one).reasons)
            following = state.rungs[number].numbers if number < len(state.rungs) else []
            for candidate in one:
                if candidate not in following:
                    reasons.setdefault(candidate, "no time for more at the next size")
                else:
                    reasons.pop(candidate, None)
        climbs.append(Climb(rung, outcomes, reasons))
    last = climbs[-1].outcomes if climbs[-1].rung.is_last else {}
    points = {n: book.point_of(n) for n in state.rungs[0].numbers}
    known = {
        n: (points[n], None if outcome.diverged else outcome.loss)
        for (n, _), outcome in climbs[0].outcomes.items()
        if space.has(book.space, points[n])
    }
    return Findings(
        book,
        state.spent,
        proposer.name,
        points,
        climbs,
        proposer.importance(known),
        ranking.verdict(last),
    )
'''


# ===== carcls/search/halving.py ===============================================
MODULES["search/halving.py"] = r'''"""The search: candidates climb rungs of growing photo sizes, until the last rung decides."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from carcls import stops
from carcls.errors import ConfigError, InputError
from carcls.nets import weights
from carcls.search import plan, propose, ranking, space, trial
from carcls.search.book import BASE, Book, Rung, State, show
from carcls.search.plan import Pace, Size
from carcls.search.propose import Measured, Proposer
from carcls.search.trial import Outcome, Task

ATTEMPTS = 20  # proposals that are there already, or do not go together, before there are no more
WAIT = 1.0  # seconds between looks at what other processes have under way

Train = Callable[[Task, bool], Outcome]  # True: a trial of the last rung


class SearchError(InputError):
    """There is too little time for a search, or nothing that it could compare."""


@dataclass
class Search:
    """A search in a folder, which several processes may ``run`` at once."""

    book: Book
    seconds: float  # all that it may take
    sizes: Sequence[Size]  # from small to large
    train: Train
    anew: bool = False  # put another search aside that is in the folder
    proposer: Proposer = field(init=False)
    left_out: set[tuple[int, int]] = field(default_factory=set)  # candidates and rungs

    def run(self) -> State:
        """Search to the end. Raises InputError where the time is too little, Stopped, ConfigError.

        ConfigError: the folder has another search.
        """
        book = self.book
        with book.opened(self.anew):
            self.proposer = propose.proposer(book.space, book.base.seed, book.folder)
            self._begin()
            number = 1
            while self._climb(number):
                number += 1
            return book.state()

    # --- The first rung -----------------------------------------------------------------------

    def _begin(self) -> None:
        """Measure the base at the smallest size, and decide the first rung by what it took."""
        task = self._first_task()
        while not self.book.state().rungs:
            if not self.book.claims(task.folder):
                time.sleep(WAIT)
                continue
            measured = self._train(task, False)
            if measured.diverged:
                raise SearchError(f"the settings as they are: {measured.diverged}")
            with self.book.turn():
                state = self.book.state()
                if not state.rungs:  # else another process was first
                    self._plan_first(state, measured)
        state = self.book.state()
        print(
            f"\n== search of up to {state.most} candidates, {self.proposer.name}\n"
            f"  the first rung has {show(state.rungs[0].size)}, {state.rungs[0].epochs} epochs",
            flush=True,
        )

    def _first_task(self) -> Task:
        """The base at the smallest size, which gives the pace."""
        rung = Rung(self.sizes[0], plan.EPOCHS, [BASE], math.inf)
        return self.book.task([rung], BASE, self.book.base.seed)

    def _plan_first(self, state: State, measured: Outcome) -> None:
        """Decide the first rung. Raises InputError where time or space are too little."""
        pace = _pace(measured, self.sizes[0], plan.EPOCHS)
        room = (1 - plan.FINAL_SHARE) * self.seconds
        at = plan.first_size(pace, self.sizes, room)
        points = space.count(self.book.space)
        state.most = int(min(plan.candidates(pace, self.sizes, at, room), points))
        if points < plan.LEAST:
            raise SearchError(
                f"tune_space: {points:.0f} different settings; expected at least {plan.LEAST} "
                "(compare fewer by `carcls study`)"
            )
        if state.most < plan.LEAST:
            each = pace.cost(self.sizes[0], plan.EPOCHS)
            raise SearchError(
                f"{self.seconds / 60:.3g} minutes are too little: a training of {plan.EPOCHS} "
                f"epochs at {show(self.sizes[0])} takes {each:.0f} s; expected "
                f"{math.ceil(plan.LEAST * each / (1 - plan.FINAL_SHARE) / 60)} minutes or more"
            )
        size = self.sizes[at]
        first = state.most * pace.cost(size, plan.EPOCHS)
        later = plan.rungs_cost(pace, self.sizes, at, state.most) - first
        until = max(room - later, min(room, 1.1 * first))  # later ones may take a little longer
        state.rungs = [Rung(size, plan.EPOCHS, [BASE], until)]
        self.book.write(state)
        if at:  # a larger size begins: the base is trained there, too
            trial.drop_weights(self._first_task().folder)

    # --- Rungs --------------------------------------------------------------------------------

    def _climb(self, number: int) -> bool:
        """Train what is to be trained in a rung, and decide the next one; False: that was all."""
        while task := self._next_task(number):
            self._train(task, self.book.state().rungs[number - 1].is_last)
        with self.book.turn():
            state = self.book.state()
            if state.rungs[number - 1].is_last:
                return False
            if len(state.rungs) == number:  # else another process was first
                following = self._following(state, number)
                if following is None:
                    return False
                state.rungs.append(following)
                self.book.write(state)
            self.book.drop_weights(state, number)
        return True

    def _following(self, state: State, number: int) -> Rung | None:
        """The rung after this one, by the time that is left; None: nobody is left but the base."""
        rung, ranked = state.rungs[number - 1], ranking.rank(self.book.measured(state, number))
        room = (1 - plan.FINAL_SHARE) * self.seconds
        paces = [self._pace_of(state, number, n) for n in ranked.going_on]
        size = plan.next_size(paces, self.sizes, rung.size, room - self.book.spent())
        if size:
            return Rung(size, plan.EPOCHS, ranked.going_on, room)
        # Three in any case: what is surely worse at this size may not be so at the last one. Where
        # nobody ended this rung, for want of time or as all diverged, the one before tells.
        order = ranked.order
        for earlier in range(number - 1, 0, -1):
            order = order or ranking.rank(self.book.measured(state, earlier)).order
        others = [n for n in order if n != BASE][: plan.FINALISTS]
        if not others:
            return None
        epochs = sum(stage.epochs for stage in self.book.base.stages)
        left = 0.95 * (self.seconds - self.book.spent())
        paces = [self._pace_of(state, number, n) for n in (BASE, *others)]
        size, epochs, count = plan.last_rung(paces, self.sizes, epochs, left)
        return Rung(size, epochs, [BASE, *others[:count]], plan.SLACK * self.seconds, True)

    def _pace_of(self, state: State, number: int, candidate: int) -> Pace:
        """A candidate's own, in the last of so many rungs that it has ended; else the base's."""
        for index in range(number, 0, -1):
            rung = state.rungs[index - 1]
            if not rung.is_last:
                found = self.book.measured(state, index).get(candidate)
                if found and not found.diverged:
                    return _pace(found, rung.size, rung.epochs)
        outcome = trial.read(self._first_task().folder) or Outcome()
        return _pace(outcome, self.sizes[0], plan.EPOCHS)

    def _next_task(self, number: int) -> Task | None:
        """A training of the rung that nobody else does, claimed; None when the rung is over."""
        while True:
            stops.check()
            with self.book.turn():
                task, is_over = self._find(number)
            if task or is_over:
                return task
            time.sleep(WAIT)  # others are at work

    def _find(self, number: int) -> tuple[Task | None, bool]:
        """A training, claimed, or none and whether the rung is over."""
        book, state = self.book, self.book.state()
        rung, is_over = state.rungs[number - 1], True
        for candidate, seed in book.trials(rung):
            task = book.task(state.rungs[:number], candidate, seed)
            if trial.read(task.folder) is not None:
                continue
            if task.start and not task.start.is_file():
                self._leave_out(task)
            elif not book.claims(task.folder):
                is_over = False
            elif self._has_time(state, number, candidate):
                return task, False
            else:
                book.release()
        if number == 1 and len(rung.numbers) < state.most:
            new = self._propose(state) if self._has_time(state, 1, BASE) else None
            if new is not None:
                task = book.task(state.rungs[:1], new, book.base.seed)
                book.claims(task.folder)
                return task, False
            state.most = len(rung.numbers)  # the same when the search goes on
            book.write(state)
        return None, is_over

    def _has_time(self, state: State, number: int, candidate: int) -> bool:
        """Whether a training of a rung would end in time, at the candidate's own pace."""
        rung = state.rungs[number - 1]
        takes = self._pace_of(state, number, candidate).cost(rung.size, rung.epochs)
        return self.book.spent() + takes <= rung.until

    def _leave_out(self, task: Task) -> None:
        """Say, once, that a candidate cannot go on."""
        if (task.number, task.rung) not in self.left_out:
            self.left_out.add((task.number, task.rung))
            print(f"warning: candidate {task.number} is left out: {task.start} is gone")

    def _propose(self, state: State) -> int | None:
        """The number of a new candidate; None if the proposals are all there already."""
        book, numbers = self.book, state.rungs[0].numbers
        known: Measured = {
            n: (book.point_of(n), None if outcome.diverged else outcome.loss)
            for n, outcome in book.measured(state, 1).items()
            if space.has(book.space, book.point_of(n))
        }
        seen = [book.cfg_of(n) for n in numbers]
        for attempt in range(ATTEMPTS):
            point = self.proposer.propose(len(numbers), known, attempt)
            try:
                cfg = space.settings(book.base, point)
                if {"backbone", "weights"} & set(book.space):
                    weights.find_weights(cfg.backbone, cfg)
            except (ConfigError, InputError):  # they do not go together
                continue
            if cfg not in seen:
                return book.add(state, point)
        return None

    def _train(self, task: Task, is_last: bool) -> Outcome:
        """Train what is claimed, keep what it measured, and let go of it."""
        try:
            outcome = trial.read(task.folder)
            if outcome is None:
                point = self.book.point_of(task.number)
                words = " ".join(f"{name}={value}" for name, value in point.items())
                stage = task.cfg.stages[-1]
                epochs = f"{stage.epochs} epoch{'s' * (stage.epochs > 1)}"
                where = f"{show(stage.size)} for {epochs}, seed {task.cfg.seed}"
                print(f"\n== {task.name}, {where}\n  {words}", flush=True)
                outcome = self.train(task, is_last)
                trial.save(task.folder, outcome, goes_on=not is_last)
                numbers = f"log-loss {outcome.loss:.4f}, accuracy {outcome.accuracy:.4f}"
                took = f"in {outcome.seconds:.0f} s" + (outcome.note and f"; {outcome.note}")
                print(f"measured   {outcome.diverged or numbers} {took}", flush=True)
                with self.book.turn():
                    self.book.write(self.book.state())  # the time that it took
            return outcome
        finally:
            self.book.release()


def _pace(outcome: Outcome, size: Size, epochs: int) -> Pace:
    fixed = max(0.0, outcome.seconds - epochs * outcome.epoch_seconds)
    return Pace(fixed, outcome.epoch_seconds / (size[0] * size[1]))
'''


# ===== carcls/search/page.py ==================================================
MODULES["search/page.py"] = r'''"""tune.csv, tune.html and the log's last lines: what a search has found, and why."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from carcls import disk
from carcls.data.labels import spreadsheet_safe
from carcls.report import parts
from carcls.search import pictures
from carcls.search.book import BASE, show
from carcls.search.findings import Findings
from carcls.search.trial import Outcome

FEW = 30  # trials: with fewer, which setting mattered is a guess
_SHOWN = {  # columns of the table of finalists, as people read them
    "log_loss": "log-loss (choosing)",
    "apart_log_loss": "log-loss (apart)",
    "apart_accuracy": "accuracy (apart)",
}

_PAGE = """{% extends "base" %}
{% block title %}carcls tune{% endblock %}
{% block style %}
figure { overflow: auto; margin: 0.5em 0 }
.wide img { max-width: max(100%, 66em) }
.differs { background: var(--loud); color: var(--loud-text); font-weight: bold }
.settings :first-child { text-align: left }
{% endblock %}
{% block main %}
<h1>{{ "Take the settings of candidate %d"|format(f.taken) if f.taken
       else "Keep the settings as they are" }}</h1>
<p>{{ verdict }}.</p>
{% if f.verdict.winner %}
{{ picture("verdict") }}

<h2>The settings found</h2>
<div class="wide settings" tabindex="0" role="group" aria-label="Settings"><table><tr>
<th scope="col">setting</th><th scope="col">as they are</th>
<th scope="col">candidate {{ f.verdict.winner }}</th></tr>
{% for name, value in f.points[f.verdict.winner].items() %}{% set was = f.points[0][name] %}
<tr{% if value != was %} class="differs"{% endif %}><td>{{ name }}</td>
<td>{{ was or "not set" }}</td><td>{{ value or "not set" }}</td></tr>
{% endfor %}</table></div>
<p>What differs is marked. {{ "" if f.taken else "These settings are not recommended." }}</p>
<p>The last rung trained each of these anew, with {{ finalists.seeds.max() }} seed{{
"" if finalists.seeds.max() == 1 else "s" }}; figures are means over the seeds. The photos that
choose have chosen the winner, so their log-loss flatters it; those kept apart have not. How much a
seed changes is told by all that ended two.</p>
{{ table(finalists, "Candidates of the last rung", wrapped=True) }}
{% endif %}

<h2>How the search went</h2>
<p>{{ time }} Candidates were proposed by {{ f.proposer }}; candidate 0 is the settings as they
are.</p>
{{ table(rungs, "Rungs") }}
<details><summary>All {{ trials|length }} trials, and why candidates stayed behind</summary>
{{ table(trials, "Trials", wrapped=True, digits=6) }}</details>

<h2>The candidates</h2>
{{ picture("candidates") }}

<h2>Which setting mattered</h2>
{{ picture("importance") }}
{% if f.importance and measured < few %}<p><b>Only {{ measured }} trials</b> tell this: with fewer
than about {{ few }} the order of the settings may be chance.</p>
{% endif %}

<h2>Losses by rung</h2>
{{ picture("losses") }}

<h2>Did small sizes predict large ones?</h2>
{% for sentence in agreements %}<p>{{ sentence }}</p>
{% endfor %}
{{ picture("agreements") }}

<details><summary>All settings as they are</summary>
<pre tabindex="0">{{ f.book.base.model_dump_json(indent=2) }}</pre></details>
{% endblock %}
"""


def write(findings: Findings, out: Path) -> Path:
    """Write OUT/tune.csv, a row a trial, and OUT/tune.html, which holds all; returns its path."""
    table = findings.table()
    disk.write_atomic(out / "tune.csv", spreadsheet_safe(table).to_csv(index=False))
    verdict = str(findings.verdict)
    content = {
        "f": findings,
        "verdict": verdict[:1].upper() + verdict[1:],
        "finalists": _finalists(findings),
        "rungs": _rungs(findings),
        "trials": table,
        "time": _time(findings),
        "agreements": _agreements(findings),
        "measured": len(findings.climbs[0].loss),
        "few": FEW,
    }
    with tempfile.TemporaryDirectory() as folder:

        def picture(name: str) -> Markup:
            path = Path(folder) / f"{name}.png"
            draw, caption = pictures.DRAWN[name]
            nothing = draw(findings, path)
            return Markup("<p>{}</p>").format(nothing) if nothing else parts.figure(path, caption)

        text = parts.render(_PAGE, **content, picture=picture)
    disk.write_atomic(out / "tune.html", text)
    return out / "tune.html"


def lines(findings: Findings) -> list[str]:
    """What the log says of it at the end: the verdict first."""
    finalists = _finalists(findings)
    rows = [] if finalists.empty else finalists.to_string(index=False).splitlines()
    return [str(findings.verdict), *rows, *_agreements(findings), _time(findings)]


def _finalists(f: Findings) -> pd.DataFrame:
    """A row a candidate of the last rung: means over its seeds; empty if none was reached."""
    if not f.climbs[-1].rung.is_last:
        return pd.DataFrame()
    trials = f.table().replace(np.inf, np.nan)  # of a training that diverged
    of = trials[trials["rung"] == len(f.climbs)].groupby("candidate", sort=False)
    rows = of[list(_SHOWN)].mean().map("{:.4f}".format).rename(columns=_SHOWN).reset_index()
    rows.insert(1, "seeds", of["log_loss"].count().to_numpy())
    rows["differs in"] = [_differences(f, number) for number in rows["candidate"]]
    return rows


def _differences(f: Findings, number: int) -> str:
    if number == BASE:
        return "settings as they are"
    changed = set(f.points[number].items()) - set(f.points[BASE].items())
    return " ".join(f"{k}={v}" for k, v in f.points[number].items() if (k, v) in changed)


def _rungs(f: Findings) -> pd.DataFrame:
    rows = []
    for number, climb in enumerate(f.climbs, 1):
        ended = climb.outcomes.values()
        rows.append(
            {
                "rung": f"{number}, the last" if climb.rung.is_last else number,
                "height × width": show(climb.rung.size),
                "epochs": climb.rung.epochs,
                "candidates": len(climb.rung.numbers),
                "trials": len(ended),
                "diverged": sum(bool(outcome.diverged) for outcome in ended),
                "seconds": f"{_seconds(ended):,.0f}",
                "lowest log-loss": f"{min(climb.loss.values(), default=np.nan):.4f}",
            }
        )
    return pd.DataFrame(rows)


def _seconds(outcomes: Iterable[Outcome]) -> float:
    return sum(outcome.seconds for outcome in outcomes)


def _agreements(f: Findings) -> list[str]:
    """A sentence for each rung and the next one, with what it cost where it told nothing."""
    found = []
    for climb, (small, large, agreement) in zip(f.climbs, f.agreements(), strict=False):
        told = str(agreement) if agreement.n > 1 else "cannot be told: too few were at both"
        if not agreement.predicts:
            told += f"; yet the smaller size cost {_seconds(climb.outcomes.values()):,.0f} s"
        found.append(f"{show(small.size)} → {show(large.size)}: {told}")
    return found


def _time(f: Findings) -> str:
    own = 1 - f.training_seconds / max(f.seconds, 1e-9)
    share = f"{own:.1%} were the search's own" if own >= 0 else "processes shared the work"
    return f"The search took {f.seconds:,.0f} s, its trials {f.training_seconds:,.0f} s; {share}."
'''


# ===== carcls/search/pictures.py ==============================================
MODULES["search/pictures.py"] = r'''"""Pictures of a search. Each is drawn to a path, or a sentence says why there is nothing to see."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from carcls.report.charts import GREY, drawing
from carcls.report.names import names, width
from carcls.search.book import BASE, show
from carcls.search.findings import Findings
from carcls.search.space import Choices, Range

_BLUES = ListedColormap(matplotlib.colormaps["Blues"](np.linspace(1, 0.25, 256)))
Places = dict[str, float]  # by value, 0 to 1

_AWAY = -0.13  # where a value is drawn that its axis cannot have


def verdict(f: Findings, path: Path) -> str:
    """The winner less the base: the mean with its interval, and each seed."""
    change, half = f.verdict.change, f.verdict.half
    if not math.isfinite(change + half):
        return "There is no interval to draw."
    with drawing(path, 5.2, 1.9) as figure:
        axis = figure.subplots()
        axis.axvline(0, color="black", lw=1)
        axis.errorbar(change, 1, xerr=half, fmt="D", color="tab:orange", capsize=5, lw=2)
        axis.plot(f.verdict.by_seed, [0] * len(f.verdict.by_seed), "ok")
        far = 1.15 * max(abs(change) + half, *map(abs, f.verdict.by_seed))
        axis.set_xlim(-far or -1, far or 1)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.set_ylim(-0.6, 1.6)
        axis.set_yticks([0, 1], ["each seed", "mean"])
        axis.set_xlabel(f"log-loss: candidate {f.verdict.winner} less as they are")
        axis.set_title("← candidate better", loc="left", fontsize=9)
        axis.set_title("worse →", loc="right", fontsize=9)
    return ""


def candidates(f: Findings, path: Path) -> str:
    """Parallel coordinates: an axis a setting, a line a candidate."""
    losses = f.climbs[0].loss
    if len(losses) < 2:
        return "Fewer than two candidates ended their training: nothing to compare."
    axes = {
        name: _axis(part, [point[name] for point in f.points.values()])
        for name, part in f.book.space.items()
    }
    marks = {name: names((mark or "not set" for mark in axes[name][1]), 18) for name in axes}
    wide = [
        0.3 + max(0.09 * len(name), 0.075 * max(map(width, marks[name].shown))) for name in axes
    ]
    left = np.cumsum([0, *wide[:-1]])  # of each axis, in inches
    top = _top(losses.values())
    scale = Normalize(min(losses.values()), top)
    with drawing(path, max(5.2, sum(wide) + 1.9), 4.4, *marks.values()) as figure:
        axis = figure.subplots()
        axis.set_axis_off()
        axis.set_xlim(-0.6, sum(wide))
        axis.set_ylim(-0.2, 1.2)
        for name, x in zip(axes, left, strict=True):
            axis.plot([x, x], [0, 1], color="0.5", lw=1, zorder=1)
            axis.text(x - 0.08, 1.13, name, fontweight="bold", fontsize=9)
            for text, y in zip(marks[name].shown, axes[name][1].values(), strict=True):
                box = {"fc": "white", "ec": "none", "alpha": 0.75, "pad": 1}
                axis.text(x + 0.06, y, text, va="center", fontsize=8, bbox=box, zorder=9)
        for number in sorted(f.points, key=lambda n: -losses.get(n, math.inf)):  # best in front
            aside = number / len(f.points) - 0.5  # of the same choice: side by side
            ys = [at[f.points[number][name]] + aside * room for name, (at, _, room) in axes.items()]
            look: dict[str, Any] = {"color": "0.5", "ls": ":", "lw": 1}
            if number in losses:
                look = {"color": _BLUES(scale(losses[number])), "lw": 1}
            axis.plot(left, ys, **look | _look(f, number))
        more = [Line2D([], [], color="0.5", ls=":", label="diverged, or not trained")]
        _legend(figure, axis, more if len(losses) < len(f.points) else [])
        over = "max" if max(losses.values()) > top else "neither"
        bar = ScalarMappable(scale, _BLUES)
        figure.colorbar(bar, ax=axis, label="log-loss at the first rung", extend=over, pad=0.02)
    return ""


def _axis(part: Range | Choices, values: list[str]) -> tuple[Places, Places, float]:
    """Where values lie, 0 to 1; where marks lie; how far apart lines of one value may lie."""
    if isinstance(part, Choices):
        every = list(dict.fromkeys([*part.values, *values]))
        places = {value: i / max(1, len(every) - 1) for i, value in enumerate(every)}
        return places, places, 0.4 / len(every)
    to: Any = math.log if part.is_log else float
    back: Any = math.exp if part.is_log else float
    inside = {v: to(float(v)) for v in values if v and (float(v) > 0 or not part.is_log)}
    low, high = min(to(part.low), *inside.values()), max(to(part.high), *inside.values())
    places = {v: (x - low) / (high - low) for v, x in inside.items()}
    marks = {f"{back(low + share * (high - low)):.3g}": share for share in (0, 0.5, 1)}
    away = {v: _AWAY for v in values if v not in inside}  # the base's alone
    return places | away, marks | away, 0.0


def importance(f: Findings, path: Path) -> str:
    """A bar a setting."""
    if not f.importance:
        why = "too few trials differ" if "TPE" in f.proposer else "Optuna is not installed"
        return f"It is not known: {why}."
    shares = dict(sorted(f.importance.items(), key=lambda item: item[1]))
    with drawing(path, 5.2, 0.9 + 0.3 * len(shares)) as figure:
        axis = figure.subplots()
        bars = axis.barh(list(shares), list(shares.values()), color="tab:blue")
        axis.bar_label(bars, [f"{share:.0%}" for share in shares.values()], padding=3)
        axis.set_xlim(0, 1.12 * max(*shares.values(), 1e-9))
        axis.set_xlabel("share in what the log-losses differ by")
    return ""


def losses(f: Findings, path: Path) -> str:
    """A line a candidate through its rungs; those that came far are darker."""
    found = [climb.loss for climb in f.climbs]
    if len(found) < 2:
        return "There was one rung only: no line from one to the next."
    with drawing(path, 5.6, 4.2) as figure:
        axis = figure.subplots()
        for number in f.points:
            where = [i for i, loss in enumerate(found) if number in loss]
            ys = [found[i][number] for i in where]
            grey = 0.85 - 0.55 * (where[-1] if where else 0) / (len(found) - 1)
            look: dict[str, Any] = {"color": str(grey), "ls": "-", "zorder": 2 - grey}
            axis.plot(where, ys, marker="o", ms=4, **look | _look(f, number))
        rungs = [climb.rung for climb in f.climbs]
        epochs = [f"{r.epochs} epoch{'s' * (r.epochs > 1)}" for r in rungs]
        shown = [
            f"{show(r.size)}\n{text}" + "\nanew" * r.is_last
            for r, text in zip(rungs, epochs, strict=True)
        ]
        axis.set_xticks(range(len(found)), shown)
        going_on = [loss for some in found[1:] for loss in some.values()]
        top = max([_top(found[0].values()), *going_on, found[0].get(BASE, 0)])
        if max(found[0].values()) > top:
            axis.set_ylim(top=top)
            axis.set_title("candidates with higher log-loss are above the picture", fontsize=9)
        axis.set_ylabel("log-loss, photos that choose")
        _legend(figure, axis, [])
    return ""


def agreements(f: Findings, path: Path) -> str:
    """Places of the candidates at a size against those at the next one."""
    pairs = [
        (a, b)
        for a, b in zip(f.climbs, f.climbs[1:], strict=False)
        if len(a.loss.keys() & b.loss) > 1
    ]
    if not pairs:
        return "It cannot be told: no two candidates were trained at two sizes."
    with drawing(path, 0.4 + 2.6 * len(pairs), 3.0) as figure:
        for axis, (small, large) in zip(
            figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True
        ):
            both = sorted(small.loss.keys() & large.loss)
            at = [sorted(both, key=climb.loss.__getitem__) for climb in (small, large)]
            axis.plot([0.5, len(both) + 0.5], [0.5, len(both) + 0.5], color=GREY, lw=1)
            for number in both:
                x, y = (places.index(number) + 1 for places in at)
                colour = _look(f, number).get("color", "tab:blue")
                axis.text(x, y, number, ha="center", va="center", fontweight="bold", color=colour)
            for way in (axis.xaxis, axis.yaxis):
                way.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axis.set_xlim(0.3, len(both) + 0.7)
            axis.set_ylim(0.3, len(both) + 0.7)
            axis.set_xlabel(f"place at {show(small.rung.size)}")
            axis.set_ylabel(f"place at {show(large.rung.size)}")
    return ""


def _look(f: Findings, number: int) -> dict[str, Any]:
    """How the base and the winner stand out."""
    if number == BASE:
        return {"color": "black", "ls": "--", "lw": 2, "zorder": 5, "label": "as they are"}
    if number == f.verdict.winner:
        name = f"candidate {number}, " + ("taken" if f.taken else "the best of the others")
        return {"color": "tab:orange", "lw": 2.5, "zorder": 4, "label": name}
    return {}


def _legend(figure: Any, axis: Any, more: list[Any]) -> None:
    shown = [*axis.get_legend_handles_labels()[0], *more]
    figure.legend(handles=shown, loc="outside lower left", ncols=3, fontsize=9, frameon=False)


def _top(losses: Iterable[float]) -> float:
    """Up to where losses are shown: a candidate that learned nothing would make the others one."""
    found = np.array(list(losses))
    return float(min(found.max(), 4 * np.median(found) - 3 * found.min()))


DRAWN = {
    "verdict": (
        verdict,
        "Log-loss of the winner less that of the settings as they are, on photos kept apart from "
        "the search: mean and 95 % interval, by photos and by seeds, and each seed as a point. "
        "Look for an interval that lies left of zero as a whole: then the winner is taken.",
    ),
    "candidates": (
        candidates,
        "An axis a setting, a line a candidate; the darker, the lower its log-loss. Rates are on "
        "logarithmic axes; candidates of the same choice lie side by side. Look for an axis on "
        "which the dark lines meet: that value is good whatever the others are.",
    ),
    "importance": (
        importance,
        "How much of the differences in log-loss at the first rung each setting explains (fANOVA, "
        "by Optuna). Look for settings near 0: they need not be searched again.",
    ),
    "losses": (
        losses,
        "A line a candidate; grey ends where it stayed behind, darker lines went on. The last rung "
        "trains anew, with other seeds. Look for lines that cross: there a smaller size had "
        "ranked otherwise.",
    ),
    "agreements": (
        agreements,
        "Candidates by number, of those that were at both sizes; place 1 has the lowest log-loss, "
        "0 is the settings as they are. Look for numbers on the grey line: both sizes rank alike.",
    ),
}
'''


# ===== carcls/search/plan.py ==================================================
MODULES["search/plan.py"] = r'''"""How a search spends its time: which sizes, how many candidates, how many epochs.

Successive halving by thirds (Jamieson and Talwalkar, arXiv 1502.07943), in which the rungs are
photo sizes: each keeps about a third of its candidates for the next, larger size. All photos for
few epochs rank candidates better than few photos for many (EcoNAS, arXiv 2001.01233). The shares
and counts below were chosen, not compared (MEASUREMENTS: a search at small sizes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Size = tuple[int, int]  # height, width in px

KEPT = 3  # one of so many candidates goes on
EPOCHS = 2  # of a rung: each is a whole schedule, and a rung goes on from the one before
MOST = 40  # candidates: more flatter their winner more than they improve it
LEAST = 4  # with fewer there is nothing to search
FINALISTS, SEEDS = 3, 2  # of the last rung, beside the base; trainings of each
SLACK = 1.05  # of the time that was asked for, in which the last training may end
FINAL_SHARE = 0.45  # of the time is for the last rung
FINAL_EPOCHS = 3  # at least, at the size that the last rung takes
LADDER = (0.4, 0.5, 0.63, 0.8, 1.0)  # sides of the rungs' photos, as shares of the largest ones'
SMALLEST, STEP = 32, 16  # px


@dataclass(frozen=True)
class Pace:
    """Measured seconds of a training: what it takes in any case, and by what it looks at."""

    fixed: float  # building, tracing, voting
    per_pixel: float  # of one pixel of each photo, in one epoch

    def cost(self, size: Size, epochs: int) -> float:
        """Seconds of a training at a size."""
        return self.fixed + epochs * self.per_pixel * size[0] * size[1]


def ladder(largest: Size, patch: int = 1) -> list[Size]:
    """Sizes from small to the largest, each once, of about its shape.

    patch: px of which a network takes multiples; of one that takes any, multiples of ``STEP``.
    """
    step = patch if patch > 1 else STEP
    sizes = []
    for share in LADDER[:-1]:
        height = round(largest[0] * share / step) * step
        width = round(height * largest[1] / largest[0] / step) * step
        if SMALLEST <= height <= largest[0] and SMALLEST <= width <= largest[1]:
            sizes.append((height, width))
    return list(dict.fromkeys([*sizes, largest]))


def candidates(pace: Pace, sizes: Sequence[Size], first: int, seconds: float) -> int:
    """For how many there is time from the rung at ``sizes[first]`` on, before the last rung."""
    n = MOST
    while n and rungs_cost(pace, sizes, first, n) > seconds:
        n -= 1
    return n


def rungs_cost(pace: Pace, sizes: Sequence[Size], first: int, n: int) -> float:
    """Seconds of all rungs but the last one, for n candidates that begin at ``sizes[first]``."""
    seconds, at = 0.0, first
    while True:
        seconds += n * pace.cost(sizes[at], EPOCHS)
        n, at = kept(n), min(at + 1, len(sizes) - 1)
        if n <= FINALISTS:
            return seconds


def kept(n: int) -> int:
    """How many of n candidates go on."""
    return math.ceil(n / KEPT)


def first_size(pace: Pace, sizes: Sequence[Size], seconds: float) -> int:
    """The index of the first rung's size: the largest at which there is time for ``MOST``."""
    able = [i for i in range(len(sizes) - 1) if candidates(pace, sizes, i, seconds) >= MOST]
    return max(able, default=0)


def next_size(
    paces: Sequence[Pace], sizes: Sequence[Size], before: Size, seconds: float
) -> Size | None:
    """The next rung's size for candidates of these paces; None: on to the last rung.

    The largest for which there is time, beyond the size of the rung before; of the time, later
    rungs need about as much as this one.
    """
    n = len(paces)
    if n <= FINALISTS:
        return None
    share = 1 if kept(n) <= FINALISTS else 0.5
    larger = [size for size in sizes if size[0] * size[1] > before[0] * before[1]]
    able = [s for s in larger if sum(pace.cost(s, EPOCHS) for pace in paces) <= share * seconds]
    return able[-1] if able else None


def last_rung(
    paces: Sequence[Pace], sizes: Sequence[Size], epochs: int, seconds: float
) -> tuple[Size, int, int]:
    """Size, epochs and finalists beside the base that there is time for, at most ``epochs``.

    paces: of the base, then of the finalists, the best first. The largest size at which each of the
    trainings has FINAL_EPOCHS; where there is none, fewer finalists, then fewer epochs: after one
    epoch three finalists tell less than one of them after several. One epoch in any case.
    """
    least, fits = min(FINAL_EPOCHS, epochs), 0
    for n in range(len(paces) - 1, 0, -1):
        fixed = SEEDS * sum(pace.fixed for pace in paces[: n + 1])
        for size in reversed(sizes):
            once = SEEDS * sum(pace.cost(size, 1) for pace in paces[: n + 1])
            fits = int((seconds - fixed) / max(once - fixed, 1e-9) + 1e-6)
            if fits >= least:
                return size, min(fits, epochs), n
    return sizes[0], max(1, fits), 1
'''


# ===== carcls/search/propose.py ===============================================
MODULES["search/propose.py"] = r'''"""Where a search looks next: Optuna's TPE, or Sobol points where Optuna is not installed.

A proposal follows from the seed, its number and what is measured so far, not from what this process
has drawn before: a search that goes on proposes what it would have proposed.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from carcls.search.space import Choices, Point, Range, Space

STARTUP = 8  # candidates drawn at random before TPE models what is good
JOURNAL = "optuna.log"  # in the search's folder, for optuna-dashboard too
_STUDY = "tune"

# Of each candidate that is measured: its point and its log-loss, None where it diverged.
Measured = Mapping[int, tuple[Point, float | None]]


class Proposer(Protocol):
    name: str  # for the log

    def propose(self, number: int, measured: Measured, attempt: int) -> Point:
        """A point for the candidate of that number; attempt: how many before it were no use."""
        ...

    def importance(self, measured: Measured) -> dict[str, float]:
        """Each setting's share in what the losses differ by; {} where that is not known."""
        ...


def proposer(space: Space, seed: int, folder: Path) -> Proposer:
    """Optuna's, or Sobol points where it is not installed, as on Kaggle's TPUs."""
    if importlib.util.find_spec("optuna") is None:
        return Sobol(space, seed)
    return Tpe(space, seed, folder)


class Sobol:
    """Points that cover the space evenly, whatever is measured (Sobol 1967, scrambled)."""

    name = "Sobol points, as Optuna is not installed"

    def __init__(self, space: Space, seed: int):
        self.space, self.seed = space, seed

    def propose(self, number: int, measured: Measured, attempt: int) -> Point:
        from scipy.stats import qmc

        points = qmc.Sobol(len(self.space), seed=self.seed)
        points.fast_forward(number + 1000 * attempt)
        shares = points.random(1)[0]
        return {
            n: part.at(float(s)) for (n, part), s in zip(self.space.items(), shares, strict=True)
        }

    def importance(self, measured: Measured) -> dict[str, float]:
        return {}


class Tpe:
    """Tree-structured Parzen estimator (Bergstra et al. 2011), multivariate, by Optuna.

    Several processes share the journal; what others have under way counts as bad, so that they do
    not all look in one place (constant liar).
    """

    name = "Optuna's TPE"

    def __init__(self, space: Space, seed: int, folder: Path):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.seed, self.optuna = space, seed, optuna
        try:
            self.study = self._open(folder / JOURNAL)
        except ValueError as error:  # cut off by a power cut: what is measured is told again
            aside = folder / f"{JOURNAL}.damaged"
            print(f"warning: {folder / JOURNAL}: damaged ({error}); it is called {aside.name} now")
            (folder / JOURNAL).replace(aside)
            self.study = self._open(folder / JOURNAL)

    def _open(self, journal: Path) -> Any:
        """The study in a journal, which is made if it is not there. Raises ValueError."""
        from optuna.storages.journal import JournalFileBackend

        storage = self.optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
        study = self.optuna.create_study(storage=storage, study_name=_STUDY, load_if_exists=True)
        study.get_trials(deepcopy=False)
        return study

    def propose(self, number: int, measured: Measured, attempt: int) -> Point:
        self._tell(measured, number)
        with warnings.catch_warnings():
            # Optuna 4 calls these options experimental.
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            self.study.sampler = self.optuna.samplers.TPESampler(
                n_startup_trials=STARTUP,
                multivariate=True,
                constant_liar=True,
                seed=self.seed + 1000 * number + attempt,
            )
        trial = self.study.ask(self._distributions())
        trial.set_user_attr("candidate", number)
        return {n: self._written(n, trial.params[n]) for n in self.space}

    def _tell(self, measured: Measured, proposing: int | None = None) -> None:
        """Bring the study up to what is measured: by candidate, its last attempt.

        proposing: a candidate whose earlier attempts were no use, or were cut off by a kill.
        """
        states = self.optuna.trial.TrialState
        trials = self.study.get_trials(deepcopy=False)
        last = {trial.user_attrs.get("candidate"): trial.number for trial in trials}
        for trial in trials:
            candidate = trial.user_attrs.get("candidate")
            if trial.state.is_finished():
                continue
            if candidate in (None, proposing) or last[candidate] != trial.number:
                self.study.tell(trial.number, state=states.FAIL)
            elif candidate in measured:
                loss = measured[candidate][1]
                # Pruned, one that diverged counts as bad; failed, it would be forgotten.
                state = states.PRUNED if loss is None else states.COMPLETE
                self.study.tell(trial.number, loss, state=state)
        for number, (point, loss) in measured.items():
            if number not in last and loss is not None:  # the base, which nobody proposed
                self._add(number, point, loss)

    def _add(self, number: int, point: Point, loss: float) -> None:
        self.study.add_trial(
            self.optuna.trial.create_trial(
                params={n: self._value(n, point[n]) for n in self.space},
                distributions=self._distributions(),
                value=loss,
                user_attrs={"candidate": number},
            )
        )

    def _distributions(self) -> dict[str, Any]:
        kinds, found = self.optuna.distributions, {}
        for name, part in self.space.items():
            if isinstance(part, Choices):
                found[name] = kinds.CategoricalDistribution(list(part.values))
            elif part.is_whole:
                found[name] = kinds.IntDistribution(int(part.low), int(part.high))
            else:
                found[name] = kinds.FloatDistribution(part.low, part.high, log=part.is_log)
        return found

    def _value(self, name: str, text: str) -> Any:
        part = self.space[name]
        if isinstance(part, Choices):
            return text
        return int(text) if part.is_whole else float(text)

    def _written(self, name: str, value: Any) -> str:
        part = self.space[name]
        return part.write(value) if isinstance(part, Range) else str(value)

    def importance(self, measured: Measured) -> dict[str, float]:
        self._tell(measured)
        evaluator = self.optuna.importance.FanovaImportanceEvaluator(seed=0)
        try:
            found = self.optuna.importance.get_param_importances(self.study, evaluator=evaluator)
        except (ValueError, RuntimeError):  # too few trials, or all of them alike
            return {}
        return {n: float(share) for n, share in found.items() if math.isfinite(share)}
'''


# ===== carcls/search/ranking.py ===============================================
MODULES["search/ranking.py"] = r'''"""What the trainings of a search say: who goes on, whether small sizes predict large ones, who won.

A candidate is dropped on evidence, photo by photo, and not by a difference that one photo makes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from carcls.search import plan
from carcls.search.trial import Outcome
from carcls.votes import evidence
from carcls.votes.evidence import Paired

RESAMPLES = 2000  # of candidates, for the interval of τ
FEW = 6  # candidates: with fewer, even one order in a hundred is not rare


@dataclass(frozen=True)
class Ranked:
    """Candidates by number, the lowest log-loss first, and why those that stay behind do."""

    going_on: list[int]
    order: list[int]  # all that did not diverge
    reasons: dict[int, str]


def rank(measured: Mapping[int, Outcome]) -> Ranked:
    """Who goes on after a rung: of those not surely worse than the best, the best third of all.

    By log-loss whatever the metric: it tells more of few photos than any count of them.
    """
    ended = [n for n in measured if not measured[n].diverged]
    order = sorted(ended, key=lambda n: (measured[n].loss, n))
    reasons = {n: f"diverged: {o.diverged}" for n, o in measured.items() if o.diverged}
    best = order[0] if order else -1
    equal = []  # not surely worse than the best
    tests: dict[int, Paired] = {}
    for n in order:
        tests[n] = evidence.compare_losses(_losses(measured[best]), _losses(measured[n]))
        if tests[n].is_surely_higher:
            reasons[n] = f"worse than candidate {best}: {tests[n]}"
        else:
            equal.append(n)
    going_on = equal[: plan.kept(len(measured))]
    for n in equal[len(going_on) :]:
        reasons[n] = f"not among the best third; not surely worse either (p = {tests[n].p:.2g})"
    return Ranked(going_on, order, reasons)


def _losses(outcome: Outcome) -> np.ndarray:
    return np.array(outcome.losses)


# --- Did small predict large? ---------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """Kendall's τ between the log-losses of the same candidates in two rungs (Kendall 1938)."""

    n: int  # candidates
    tau: float
    low: float  # 95 % interval, by resampling the candidates
    high: float

    @property
    def predicts(self) -> bool | None:
        """Whether the smaller size ranked as the larger one; None: it cannot be said."""
        return True if self.low > 0 else False if self.high < 0 else None

    def __str__(self) -> str:
        said = {True: "ranked alike", False: "ranked the other way round", None: "cannot be told"}
        interval = f"95 % interval {self.low:.2f} to {self.high:.2f}, {self.n} candidates"
        if self.n < FEW:
            interval = f"{self.n} candidates are too few for an interval"
        return f"{said[self.predicts]}: Kendall's τ = {self.tau:.2f} ({interval})"


def agreement(smaller: Sequence[float], larger: Sequence[float]) -> Agreement:
    """Of the log-losses of the same candidates at two sizes; -1 to 1 where there are too few."""
    n = len(smaller)
    # Of each two candidates which one is better, -1, 0 or 1: (2, n, n).
    order = np.sign([np.subtract.outer(losses, losses) for losses in (smaller, larger)])

    def tau(which: np.ndarray) -> float:
        small, large = order[:, which[:, None], which]
        comparable = float(np.sqrt(np.abs(small).sum() * np.abs(large).sum()))
        return float((small * large).sum()) / comparable if comparable else float("nan")

    found = tau(np.arange(n))
    if n < FEW or np.isnan(found):
        return Agreement(n, found, -1.0, 1.0)
    rng = np.random.default_rng(0)
    low, high = np.nanpercentile(
        [tau(rng.integers(0, n, n)) for _ in range(RESAMPLES)], (2.5, 97.5)
    )
    return Agreement(n, found, float(low), float(high))


# --- The verdict ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """Whether the winner of a search is better than the settings as they are.

    Two things part settings that are equally good: which photos judge them, and their seeds.
    """

    winner: int  # the candidate that did best on the photos that choose; 0: there was none
    why: str = ""  # there is nothing to compare, or the winner is none
    change: float = math.nan  # log-loss on photos kept apart, the winner's less the base's
    photos: int = 0  # kept apart
    photo_error: float = math.inf  # standard error of the change: other photos
    seed_error: float = math.inf  # other seeds; infinite where nothing had two
    freedom: int = 0  # degrees of freedom of seed_error
    by_seed: list[float] = field(default_factory=list)  # the change with each seed
    accuracies: tuple[float, float] = (math.nan, math.nan)  # base's and winner's, apart

    @property
    def half(self) -> float:
        """Half of the 95 % interval of the change.

        By Student's t, with the degrees of freedom of two errors together (Welch, Satterthwaite).
        """
        from scipy.special import stdtrit  # takes long to import

        photos, seeds = self.photo_error**2, self.seed_error**2
        if not self.freedom or not photos + seeds:
            return 0.0 if self.freedom else math.inf
        freedom = seeds**2 / self.freedom + photos**2 / max(self.photos - 1, 1)
        quantile = stdtrit((photos + seeds) ** 2 / freedom, 0.975)
        return float(quantile * math.sqrt(photos + seeds))

    @property
    def is_taken(self) -> bool:
        """All of the interval is below 0.

        The winner is the best of three, so that noise is taken in up to 5 % of searches, not 2.5 %
        (simulated: ``tests/test_tune.py``).
        """
        return not self.why and self.change + self.half < 0

    def __str__(self) -> str:
        if math.isnan(self.change):
            return f"keep the settings as they are: {self.why}"
        sure = "nothing tells how much a seed changes, as none of them ended two"
        if self.freedom:
            sure = (
                f"± {self.half:.4f} (95 % interval; standard error "
                f"{self.photo_error:.4f} by the {self.photos:,} photos, {self.seed_error:.4f} by "
                "the seeds)"
            )
        told = (
            f"candidate {self.winner} against the settings as they are, on photos kept apart: "
            f"log-loss {self.change:+.4f} {sure}; by seed "
            f"{', '.join(f'{change:+.4f}' for change in self.by_seed)}; accuracy "
            f"{self.accuracies[0]:.4f} → {self.accuracies[1]:.4f}"
        )
        if self.is_taken:
            return f"take what was found: {told}"
        why = self.why or "chance alone, of photos and seeds, could be all of it"
        return f"keep the settings as they are, as {why}: {told}"


def verdict(last: Mapping[tuple[int, int], Outcome]) -> Verdict:
    """Of the last rung: (candidate, seed) → outcome. Candidate 0 is the base.

    The winner is chosen on the photos that have chosen so far, and compared with the base on those
    kept apart, over the seeds that all have: time may have cut off the last ones.
    """
    ended = {key: outcome for key, outcome in last.items() if not outcome.diverged}
    seeds = {n: {seed for number, seed in ended if number == n} for n, _ in ended}
    if 0 not in seeds:
        what = "their trainings diverged" if last else "no other candidate was left"
        return Verdict(0, f"{what} in the last rung")
    common = sorted(set.intersection(*seeds.values()))
    if len(seeds) < 2 or not common:
        return Verdict(0, "no other candidate ended the last rung")

    def mean_loss(n: int) -> float:
        return float(np.mean([ended[n, seed].loss for seed in common]))

    winner = min((n for n in seeds if n), key=mean_loss)
    of = [[ended[n, seed] for seed in common] for n in (0, winner)]
    before, after = (np.array([outcome.apart_losses for outcome in some]) for some in of)
    change, error = evidence.difference(before.mean(0), after.mean(0))
    variance, freedom = _between_seeds(ended)
    was, now = (float(np.mean([outcome.apart_right for outcome in some])) for some in of)
    best = mean_loss(winner) < mean_loss(0)
    return Verdict(
        winner,
        "" if best else "none was better than they are on the photos that choose",
        change,
        before.shape[1],
        error,
        math.sqrt(2 * variance / len(common)),  # of the base's mean and the winner's
        freedom,
        (after - before).mean(1).tolist(),
        (was, now),
    )


def _between_seeds(ended: Mapping[tuple[int, int], Outcome]) -> tuple[float, int]:
    """Variance of the log-loss, photos kept apart, between seeds of the same settings.

    Pooled over all candidates; with its degrees of freedom, and infinite with none.
    """
    losses: dict[int, list[float]] = {}
    for (number, _), outcome in ended.items():
        losses.setdefault(number, []).append(float(np.mean(outcome.apart_losses)))
    freedom = sum(len(some) - 1 for some in losses.values())
    squares = sum(len(some) * float(np.var(some)) for some in losses.values())
    return (squares / freedom, freedom) if freedom else (math.inf, 0)
'''


# ===== carcls/search/space.py =================================================
MODULES["search/space.py"] = r'''"""What a search may choose: a range or a list of values for each of some settings, checked."""

from __future__ import annotations

import math
import shlex
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from carcls import config, hosts
from carcls.config import EQUAL_TERMS, MEMBER_SETTINGS, SESSION_SETTINGS, Config
from carcls.errors import ConfigError, InputError
from carcls.nets import registry, weights
from carcls.values import hide

# A size is a rung's, a seed is a repetition's; a stage that stops early is not on equal terms.
CHOOSABLE = (MEMBER_SETTINGS | EQUAL_TERMS | {"strength"}) - {"stages", "seed", "patience"}
# Of each trial: photos as they are, and all of the epochs that are planned. What else a run does
# has its own tables, or nothing to be measured on.
TERMS: dict[str, Any] = {
    "tta": "never",
    "views": 1,
    "pseudo": 0,
    "refit_epochs": 0,
    "patience": 0,
    "folds": 1,
}
_RATES = ("lr", "weight_decay")  # whose ranges are even on a logarithmic scale
# What a range of other settings would mean is not clear.
_RANGES = {"dropout", "hidden", "depth_decay", "label_smoothing", "ema", "warmup", "batch", *_RATES}
_WHOLE = {"hidden", "batch"}
DEFAULT = (
    "weight_decay=,1e-4,1e-3,1e-2 mix=,mixup:0.2,mixup:0.2+cutmix:1 augment=light,medium "
    "strength=0.5,1-0.5,1 depth_decay=0.6,0.8,1 ema=0,0.98 label_smoothing=0,0.05,0.1"
)

Point = dict[str, str]  # settings by name, as people write them


@dataclass(frozen=True)
class Range:
    """All numbers from ``low`` to ``high``."""

    low: float
    high: float
    is_log: bool
    is_whole: bool

    def at(self, share: float) -> str:
        """The value at a share, 0 to 1, of the way."""
        if self.is_log:
            value = math.exp(math.log(self.low) * (1 - share) + math.log(self.high) * share)
        else:
            value = self.low * (1 - share) + self.high * share
        return self.write(value)

    def write(self, value: float) -> str:
        """To three digits, of the whole range where it is linear; never beyond its ends."""
        if self.is_whole:
            return str(round(value))
        digits = 2 - math.floor(math.log10(self.high - self.low))
        rounded = float(f"{value:.3g}") if self.is_log else round(value, digits)
        return _number(min(max(rounded, self.low), self.high))

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Choices:
    """One of some values."""

    values: tuple[str, ...]

    def at(self, share: float) -> str:
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def __str__(self) -> str:
        return " | ".join(value or "none" for value in self.values)


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


Space = dict[str, Range | Choices]


def default(base: Config, backbones: list[str]) -> Space:
    """The usual space around a base: rates from half to four times, and ``DEFAULT``.

    backbones: those whose weights are there; of several, one more thing to choose.
    """
    low, high = base.lr / 2, base.lr * 4
    text = f"lr={low:g}:{high:g} {DEFAULT}"
    if len(backbones) > 1:
        text += f" backbone={','.join(backbones)}"
    return read(text, base)


def of(cfg: Config) -> Space:
    """The space of a run with ``tune_minutes``.

    Raises ConfigError on settings that cannot be searched, InputError where weights are missing.
    """
    for wrong, found in (
        (cfg.members != ({},), "members: a search is of a single network"),
        (cfg.unfreeze == "staged", "unfreeze=staged: each rung has one size"),
        (cfg.schedule == "plateau", "schedule=plateau: rungs are too short for it"),
        (hosts.process_of()[1] > 1, "JAX_NUM_PROCESSES above 1: each process is a search's own"),
    ):
        if wrong:
            raise ConfigError(f"tune_minutes={cfg.tune_minutes:g} with {found}")
    if not cfg.tune_space:
        return default(cfg, _at_hand(cfg))
    space = read(cfg.tune_space, cfg)
    for name in ("backbone", "weights"):
        part = space.get(name)
        for value in part.values if isinstance(part, Choices) else ():
            changed = settings(cfg, {name: value})
            registry.check(changed.backbone, changed.stages)
            weights.find_weights(changed.backbone, changed)
    return space


def step(cfg: Config, space: Space) -> int:
    """Of which px the sides of photos are multiples that all networks of a space can take."""
    part = space.get("backbone")
    names = part.values if isinstance(part, Choices) else (cfg.backbone,)
    return math.lcm(*(registry.find(name).patch for name in names))


def _at_hand(cfg: Config) -> list[str]:
    """The networks whose ImageNet weights are there."""
    found = []
    for name in registry.REGISTRY if cfg.weights == "imagenet" else ():
        with suppress(ConfigError, InputError):
            registry.check(name, cfg.stages)
            weights.find_weights(name, cfg)
            found.append(name)
    return found


def read(text: str, base: Config) -> Space:
    """``"lr=5e-4:4e-3 mix=none,mixup:0.2 augment=light,medium"`` → by setting what it may be.

    A range is LOW:HIGH, a list has commas; a value that itself has a comma is written with a +.
    Raises ConfigError on a setting that cannot be searched and on a value that Config refuses.
    """
    space: Space = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"tune_space: {hide(word)!r} is not key=values, as in lr=5e-4:4e-3")
        if name not in CHOOSABLE:
            raise ConfigError(
                f"tune_space: {name} cannot be searched; expected some of "
                f"{', '.join(sorted(CHOOSABLE))}"
            )
        if name in space:
            raise ConfigError(f"tune_space: {name} is given twice; expected once")
        space[name] = _range(name, value) or _choices(name, value)
    if not space:
        raise ConfigError("tune_space: empty; expected at least one setting, as in lr=5e-4:4e-3")
    space = {name: _checked(name, part, base) for name, part in space.items()}
    if all(isinstance(part, Choices) and len(part.values) == 1 for part in space.values()):
        raise ConfigError(
            f"tune_space: {text}: nothing to choose; expected a range or several values"
        )
    return space


def _checked(name: str, part: Range | Choices, base: Config) -> Range | Choices:
    """The part with its values written as ``written`` does. Raises ConfigError."""
    values = part.values if isinstance(part, Choices) else (part.at(0), part.at(1))
    try:
        found = tuple(written(settings(base, {name: value}), name) for value in values)
    except ConfigError as error:
        raise ConfigError(f"tune_space: {error}") from None
    if len(set(found)) < len(found):
        raise ConfigError(f"tune_space: {name}={','.join(values)}: one value comes twice")
    return Choices(found) if isinstance(part, Choices) else part


def _range(name: str, value: str) -> Range | None:
    """None if it is no range of two numbers."""
    try:
        low, high = (float(side) for side in value.split(":"))
    except ValueError:
        return None
    if name not in _RANGES:
        raise ConfigError(
            f"tune_space: {name}={value}: a range; expected a list of values, or a range of one of "
            f"{', '.join(sorted(_RANGES))}"
        )
    is_log = name in _RATES
    if not (math.isfinite(low) and low < high < math.inf) or (is_log and low <= 0):
        least = " and above 0" if is_log else ""
        raise ConfigError(f"tune_space: {name}={value}: expected LOW:HIGH, LOW below HIGH{least}")
    return Range(low, high, is_log, name in _WHOLE)


def _choices(name: str, value: str) -> Choices:
    values = tuple(part.replace("+", ",") if name == "mix" else part for part in value.split(","))
    if name in ("mix", "weight_decay"):  # of which nothing is a value
        values = tuple("" if part == "none" else part for part in values)
    return Choices(values)


def settings(base: Config, point: Point) -> Config:
    """The base with the settings of a point. Raises ConfigError where they do not go together."""
    words = [f"{name}={value}" for name, value in point.items()]
    return base.replace(**config.settings_of(words))


def count(space: Space) -> float:
    """How many different points it has; infinite with a range."""
    return math.prod(len(p.values) if isinstance(p, Choices) else math.inf for p in space.values())


def written(cfg: Config, name: str) -> str:
    """A setting's value as people write it."""
    value = getattr(cfg, name)
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return _number(value) if isinstance(value, float) else str("" if value is None else value)


def everything(cfg: Config) -> dict[str, str | None]:
    """All settings of a run as people write them, but where its files are and what found them."""
    aside = SESSION_SETTINGS | {"members", "tune_minutes", "tune_space"}
    names = [name for name in Config.model_fields if name not in aside]
    found = {name: written(cfg, name) if getattr(cfg, name) is not None else None for name in names}
    return {**found, "members": ""}  # one network


def words(cfg: Config) -> list[str]:
    """``key=value`` of what differs from the defaults, beside preset=default, for a shell."""
    usual = everything(Config())
    differs = {n: value for n, value in everything(cfg).items() if value != usual[n]}
    return ["preset=default", *(shlex.quote(f"{n}={v or ''}") for n, v in differs.items())]


def point_of(cfg: Config, space: Space) -> Point:
    """Where the settings lie, as far as the space has their names."""
    return {name: written(cfg, name) for name in space}


def has(space: Space, point: Point) -> bool:
    """Whether the space has that point."""
    for name, part in space.items():
        value = point[name]
        if isinstance(part, Choices):
            if value not in part.values:
                return False
        elif not value or not part.low <= float(value) <= part.high:
            return False
    return True
'''


# ===== carcls/search/trial.py =================================================
MODULES["search/trial.py"] = r'''"""A trial: one training on equal terms, and what it measures, photo by photo."""

from __future__ import annotations

import gc
import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from carcls import disk, memory, metrics, record
from carcls.config import Config
from carcls.data.photos import Rows
from carcls.errors import TrainingDiverged
from carcls.nets import fast
from carcls.session import Session
from carcls.train import loop, steps
from carcls.train.job import Job
from carcls.train.studio import BEST, LAST
from carcls.values import Views
from carcls.votes import cast

NOTE = "trial.json"


@dataclass(frozen=True)
class Task:
    """A training: its settings, what it leaves, and from which weights it goes on."""

    name: str  # for the log
    cfg: Config  # of the training itself, on equal terms
    folder: Path  # what it leaves
    start: Path | None = None  # the weights that another one has left
    number: int = 0  # of a search's candidate
    rung: int = 1  # of the search


@dataclass(frozen=True)
class Outcome:
    """What a trial has measured, on the photos that choose and on those kept apart from choosing.

    Losses are −log of the true class's probability, a photo each; right: the class was the true
    one.
    """

    losses: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    apart_losses: list[float] = field(default_factory=list)
    apart_right: list[bool] = field(default_factory=list)
    seconds: float = 0.0  # of the whole trial
    epoch_seconds: float = 0.0  # of an epoch, validation included
    rows: list[dict[str, Any]] = field(default_factory=list)  # of its history
    diverged: str = ""  # what ended it, if that did
    note: str = ""  # in what it differs from what was asked
    facts: record.Facts = field(default_factory=dict)  # what it was made from
    machine: list[str] = field(default_factory=list)  # that trained it

    @property
    def loss(self) -> float:
        """Mean log-loss on the photos that choose; infinite where the training diverged."""
        return float(np.mean(self.losses)) if self.losses else float("inf")

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.right)) if self.right else float("nan")


def read(folder: Path, facts: record.Facts | None = None) -> Outcome | None:
    """What the trial of that folder has measured; None if it has not ended, or is not as left.

    facts: what it must have been made from, if that may have changed.
    """
    try:
        outcome = Outcome(**disk.unsealed(disk.read_json(folder / NOTE)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        print(f"{folder / NOTE}: not as a trial has left it ({error}); trained anew")
        return None
    changed = [] if facts is None else record.differences(outcome.facts, facts)
    if changed:
        print(f"{folder}: trained anew: {'; '.join(changed)}")
    return None if changed else outcome


def save(folder: Path, outcome: Outcome, goes_on: bool) -> None:
    """Keep what was measured, and of the network what another trial may go on from."""
    disk.write_json(folder / NOTE, asdict(outcome))
    if goes_on and not outcome.diverged:
        (folder / LAST).unlink(missing_ok=True)
    else:
        drop_weights(folder)


@dataclass(frozen=True)
class Trainer:
    """Trains trials in a session, always on the same photos."""

    s: Session
    learn: Rows
    choose: Rows  # validated on after each epoch; they rank the candidates
    apart: Rows  # looked at in a search's last rung alone

    def measured(self, task: Task) -> Outcome | None:
        """What the task's trial has measured, if it has ended and was made from the same facts."""
        return read(task.folder, self._job(task).facts(self.s.table.frame, self.s.metric))

    def __call__(self, task: Task, is_last: bool = False) -> Outcome:
        """Train, or go on from the last whole epoch of it, and measure. Raises Stopped."""
        began, job, s = time.monotonic(), self._job(task), self.s
        disk.make_folder(task.folder)
        try:
            found = self._train(job, self.apart if is_last else None)
        except TrainingDiverged as error:
            found = Outcome(diverged=str(error))
        except memory.errors() as error:
            if not memory.ran_out(error) or s.machine.processes > 1:
                raise
            found = Outcome(diverged="memory ran out")
        if found.diverged:
            print(f"diverged   {found.diverged}")
        facts = job.facts(s.table.frame, s.metric) | s.spoiled(self.learn, self.choose)
        now = [s.machine.backend, *s.machine.devices, s.machine.precision]
        return replace(found, seconds=time.monotonic() - began, facts=facts, machine=now)

    def _job(self, task: Task) -> Job:
        return Job(task.name, task.folder, task.cfg, self.learn, self.choose, task.start)

    @fast.forgetting_traces()
    def _train(self, job: Job, apart: Rows | None) -> Outcome:
        s = self.s
        trained = loop.read_back(s, job) or loop.train(s, job, float("inf"), None)
        assert trained is not None, "there is no deadline that it could miss"
        net = trained.net or loop.load(job.folder, job.cfg, len(s.table.classes), s.machine)
        cache, one = s.photos(trained.size, job.cfg.fit), Views(first=1, most=1)
        parts = [self.choose] if apart is None else [self.choose, apart]
        with steps.told(s.events, job.name, "validation votes"):
            seen = [cast.cast_votes(net, cache, rows, one, job.cfg, s.machine) for rows in parts]
        history = trained.rows
        # The first epoch of a stage decodes its photos.
        steady = [row["seconds"] for row in history if row["epoch"] > 1] or [history[0]["seconds"]]
        done = record.Steps(job.folder).done(loop.TRAINING)
        smaller = done["about"]["smaller"] if done else 0
        del net, trained
        gc.collect()  # before the next network is made
        losses = [metrics.losses(v.alone(), v.labels).round(6).tolist() for v in seen]
        right = [(v.alone().argmax(1) == v.labels).tolist() for v in seen]
        return Outcome(
            losses[0],
            right[0],
            losses[1] if losses[1:] else [],
            right[1] if right[1:] else [],
            epoch_seconds=sum(steady) / len(steady),
            rows=history,
            note=f"memory ran out: batches of {smaller}, and lr in proportion" if smaller else "",
        )


def weights(folder: Path) -> Path:
    """The best weights that a trial has left."""
    return folder / BEST


def drop_weights(folder: Path) -> None:
    """Remove all but what the trial has measured: forty networks take gigabytes."""
    for path in folder.glob("*.weights.h5"):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / "state", ignore_errors=True)
'''


# ===== carcls/search/tune.py ==================================================
MODULES["search/tune.py"] = r'''"""Tune small, finish large: a search of a session's settings, and what a run makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from carcls import disk, record
from carcls.data import photos
from carcls.data.photos import TRAIN, VALIDATION
from carcls.errors import ConfigError, InputError
from carcls.search import findings, page, plan, space, trial
from carcls.search.book import STATE, Book
from carcls.search.findings import Findings
from carcls.search.halving import Search, SearchError
from carcls.search.space import Space
from carcls.session import Session
from carcls.train.job import Job, planned
from carcls.votes import blend

FOLDER, TUNED = "tune", "tuned.json"  # in a run folder; in the search's
SHARE_OF_A_SESSION = 0.7  # that a search may take at most: the rest trains what it finds


def tune(s: Session, searched: Space) -> dict[str, Any]:
    """Search; the session goes on with what was found, or as it was. Returns what a report says.

    Raises as ``search``, and ConfigError where the search would leave the session too little time.
    """
    folder = s.place.out / FOLDER
    try:
        found = search(s, searched, folder, anew=True)
    except SearchError as error:  # the networks matter more than the search
        print(f"WARNING: no search: {error}; training goes on with the settings as they are")
        s.cfg = s.cfg.replace(tune_minutes=0, tune_space="")
        return {"verdict": f"no search: {error}", "settings": space.everything(s.cfg)}
    s.cfg = found.book.cfg_of(found.taken).replace(tune_minutes=0, tune_space="")
    disk.write_atomic(s.place.out / "config.json", s.cfg.model_dump_json(indent=2) + "\n")
    about = describe(found)
    s.events.send("tuned", **about, networks=planned(s.cfg))
    return about


def describe(found: Findings) -> dict[str, Any]:
    """What a search came to: its verdict, and the settings to go on with."""
    chosen = found.book.cfg_of(found.taken)
    return {"verdict": str(found.verdict), "settings": space.everything(chosen)}


def _check_time(s: Session, folder: Path) -> None:
    """Raise ConfigError where a search that begins would leave too little of the session."""
    asked, left = s.cfg.tune_minutes, s.clock.left() / 60
    begun = (folder / STATE).is_file() and s.cfg.resume
    if not begun and asked > SHARE_OF_A_SESSION * left:
        raise ConfigError(
            f"tune_minutes={asked:g}: the session has {left:.0f} minutes left, which are for "
            f"training, too; expected at most {SHARE_OF_A_SESSION * left:.0f}"
        )


def search(s: Session, searched: Space, folder: Path, anew: bool = False) -> Findings:
    """Search the settings of a session for its minutes, and write what was found to the folder.

    anew: another search that is in the folder is put aside; else it is an error. Raises ConfigError
    and InputError where there is too little time, too few photos, or nothing to choose.
    """
    cfg = s.cfg
    s.say(
        "tune",
        f"{cfg.tune_minutes:g} minutes; {folder}",
        *(f"{name:10} {part}" for name, part in searched.items()),
    )
    trainer = _trainer(s)
    _check_time(s, folder)
    book = Book(folder, cfg, searched, _facts(s, trainer, searched), began=s.clock.start)
    sizes = plan.ladder(cfg.stages[-1].size, space.step(cfg, searched))
    looking = Search(book, 60 * cfg.tune_minutes, sizes, trainer, anew)
    with s.events.without("epoch", "early_stop"):  # of so many trainings
        looking.run()
    found = findings.read(book, looking.proposer)
    chosen = book.cfg_of(found.taken)
    disk.write_json(folder / TUNED, {"candidate": found.taken, **describe(found)})
    written = page.write(found, folder)
    s.say(
        "tuned",
        *page.lines(found),
        f"page       {written}",
        f"settings   {folder / TUNED}",
        f'SET="{" ".join(space.words(chosen))}"',
    )
    return found


def _trainer(s: Session) -> trial.Trainer:
    """The photos of the trials: a part of the train photos is kept apart for the verdict."""
    learn, choose = s.table.rows(TRAIN), s.table.rows(VALIDATION)
    parts, key = max(2, round(1 / s.cfg.val_fraction)), f"{s.cfg.seed}/apart"
    what = f"tune_minutes={s.cfg.tune_minutes:g}"
    learn, apart = photos.deal(s.table, learn, parts, key, what)[0]
    for name, rows in (("of validation", choose), ("kept apart", apart)):
        if len(rows) < blend.LEAST:
            raise InputError(
                f"{what}: {len(rows)} photos {name}; to compare settings {blend.LEAST} are needed"
            )
    return trial.Trainer(s, learn, choose, apart)


def _facts(s: Session, trainer: trial.Trainer, searched: Space) -> record.Facts:
    """What the search is made from."""
    cfg = s.cfg
    job = Job("search", s.place.out, cfg, trainer.learn, trainer.choose)
    kept_apart = record.rows(*job.photos(s.table.frame, trainer.apart))
    about = {name: str(part) for name, part in searched.items()}
    return {
        **job.facts(s.table.frame, s.metric),
        "minutes": cfg.tune_minutes,
        "space": json.dumps(about),
        "the photos kept apart": kept_apart,
    }
'''


if __name__ == "__main__":
    main()
