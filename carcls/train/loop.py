"""Training one network to its end, or reading back one that an earlier session has trained.

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
