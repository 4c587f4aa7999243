"""What test_devices runs in processes of its own: on_devices.py WHAT COMPETITION OUT.

Devices are counted once in a process. Leaves OUT/<name>.npz, which the tests look at. The
competition has 61 train photos, 15 of them for validation, and 13 test photos: no multiples of 8.
"""

import faulthandler
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import small

from carcls import config, hosts, machine, memory, session
from carcls.config import Config
from carcls.data import files, photos
from carcls.data.photos import TEST, TRAIN, VALIDATION, Rows
from carcls.machine import Machine
from carcls.train.clock import Clock
from carcls.train.job import Job
from carcls.values import Views

NOTHING = Rows(np.empty(0, int), np.empty(0, np.int64))


def settings(data: str, out: str, **changes: Any) -> Config:
    fixed = {"backbone": small.add_tiny(), "batch": 12, "stages": "32x32x2", "lr": 0.01, "views": 3}
    fixed |= {"schedule": "constant", "val_fraction": 0.25, "data": data, "out": out}
    weights = str(Path(data).with_name("tiny.weights.h5"))
    return config.parse({**fixed, "weights": weights, **changes})


def open_session(cfg: Config, chosen: Machine) -> session.Session:
    from carcls.train.events import Events

    place = files.locate(cfg)
    if chosen.process:
        place = replace(place, out=hosts.own_folder(place.scratch))
    events = Events(place.out / "events.jsonl")
    nothing: Any = None
    table = photos.load(cfg, place)
    return session.Session(cfg, place, table, chosen, Clock(0.0), events, nothing)


def train(cfg: Config, s: session.Session, name: str, deadline: float = float("inf")) -> Any:
    """Train, predict after the first epoch, and vote; the network and its votes."""
    from carcls.train import loop
    from carcls.votes import cast

    learn, check, test = (s.table.rows(fold) for fold in (TRAIN, VALIDATION, TEST))
    job, early = Job(name, s.place.out / name, cfg, learn, check), []
    job.folder.mkdir(exist_ok=True)
    cache = s.photos(cfg.stages[0].size, cfg.fit)

    def vote(net: Any, rows: Rows, views: int) -> Any:
        return cast.cast_votes(net, cache, rows, Views(first=views, most=views), cfg, s.machine)

    def announce(net: Any, size: Any, what: str, accuracy: float) -> None:
        early.append((accuracy, vote(net, check, 1).probs[0]))

    net = loop.train(s, job, deadline, announce).net
    history = pd.read_csv(job.folder / "history.csv")
    last = history[history["stage"] == history["stage"].max()]
    best = last.sort_values(["val_accuracy", "val_loss"], ascending=[False, True]).iloc[0]
    val, predicted = vote(net, check, 3), vote(net, test, 3)
    print(f"{name} trained and predicted")
    np.savez(
        s.place.out / f"{name}.npz",
        val=val.probs,
        test=predicted.probs,
        labels=val.labels,
        ids=predicted.ids,
        best_loss=best["val_loss"],
        best_accuracy=best["val_accuracy"],
        early=early[0][1],
        early_accuracy=early[0][0],
        early_loss=history["val_loss"][0],
        losses=history["loss"],
        val_losses=history["val_loss"],
        reasons=s.machine.reasons,
        first_weights=net.get_weights()[0],
    )
    return SimpleNamespace(net=net, val=val, vote=lambda: vote(net, check, 3), cache=cache)


def rebased(net: Any) -> None:
    """The network predicts the same with BN's statistics of other photos."""
    from carcls.nets import model

    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3)).astype(np.uint8)
    before = net.predict(images, batch_size=16, verbose=0)
    layers = model.batch_norms(net)
    means = [model.numbers(layer.moving_mean) for layer in layers]
    assert model.rebase_batch_norms(net, [images[:8], images[8:]]) == 2
    after = net.predict(images, batch_size=16, verbose=0)
    assert np.abs(after - before).max() < 1e-3, np.abs(after - before).max()
    for layer, old in zip(layers, means, strict=True):
        assert np.abs(model.numbers(layer.moving_mean) - old).max() > 1e-3


def jax8(data: str, out: str) -> None:
    """Eight devices; a kill; too little memory; averaged weights in half precision; one device."""
    cfg = settings(data, out, backend="jax")
    s = open_session(cfg, machine.setup(cfg))
    import keras

    with copied_state(s.place.out / "resumed"):
        done = train(cfg, s, "eight")
    train(cfg, s, "resumed")
    np.savez(Path(out) / "exhausted.npz", **exhausted_votes(done), **exhausted_step(cfg, s, done))
    rebased(done.net)
    keras.config.set_dtype_policy("mixed_float16")
    half = train(cfg.replace(ema=0.5, stages="32x32x1,32x32x1"), s, "half")
    assert half.net.output.dtype == "float32"
    keras.config.set_dtype_policy("float32")
    keras.distribution.set_distribution(None)
    s.machine = replace(s.machine, devices=s.machine.devices[:1])
    train(cfg.replace(batch=16), s, "one")


@contextmanager
def copied_state(folder: Path) -> Iterator[None]:
    """The folder gets what a kill after the first epoch of the training inside would leave."""
    from carcls.train.state import States

    save = States.save

    def save_and_copy(self: States, *args: Any) -> None:
        save(self, *args)
        if not folder.exists():
            shutil.copytree(self.folder, folder / self.folder.name)

    States.save = save_and_copy  # type: ignore[method-assign]  # put back below
    yield
    States.save = save  # type: ignore[method-assign]  # as it was


def out_of_memory(*states: Any) -> None:
    """As XLA does: what was given to the step is gone."""
    import jax

    for array in jax.tree.leaves(states):
        array.delete()
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate.")


def exhausted_votes(done: Any) -> dict[str, Any]:
    """Votes during which memory runs out once."""
    real, calls = done.net.predict_function, []

    def exhausted(state: Any, iterator: Any) -> Any:
        calls.append(1)
        return out_of_memory(state[0], state[1]) if len(calls) == 2 else real(state, iterator)

    done.net.predict_function = exhausted
    val = done.vote().probs
    done.net.predict_function = real
    return {"val": val}


def exhausted_step(cfg: Config, s: session.Session, done: Any) -> dict[str, Any]:
    """Weights before a step that runs out of memory, after its state is restored, and later."""
    from carcls.data.batches import Epochs, make_batches
    from carcls.nets import model

    net, learn = done.net, s.table.rows(TRAIN)
    how = Epochs(0, range(1), lambda epoch: 1.0)
    batches = make_batches(done.cache, learn, 3, how, cfg, s.machine)
    real, calls, found = net.train_function, [], {}
    kept = model.state(net)

    def exhausted(state: Any, iterator: Any) -> Any:
        calls.append(1)
        return real(state, iterator) if len(calls) < 2 else out_of_memory(state)

    def note(when: str) -> None:
        found[when], found[f"steps_{when}"] = net.get_weights()[0], int(net.optimizer.iterations)

    note("before")
    net.train_function = exhausted
    try:
        net.fit(batches.dataset, steps_per_epoch=batches.steps, verbose=0)
    except memory.errors() as error:
        found["exhausted"] = memory.ran_out(error)
    net.train_function = real
    model.restore(net, kept)
    note("restored")
    net.fit(batches.dataset, steps_per_epoch=batches.steps, verbose=0)
    note("after")
    return found | {"steps": batches.steps}


def two_hosts(data: str, out: str) -> None:
    """One of two processes with two devices each, whose clocks differ."""
    cfg = settings(data, out, backend="auto", batch=16)
    chosen = machine.setup(cfg)
    s = open_session(cfg, chosen)
    if chosen.process == 0:
        (s.place.out / "earlier").mkdir()
        (s.place.out / "earlier" / "weights").write_bytes(b"of process 0")
    hosts.share_files(s.place.out, s.place.scratch)
    assert (s.place.out / "earlier" / "weights").read_bytes() == b"of process 0"
    assert chosen.agree(1.5 + chosen.process) == 1.5
    done = train(cfg, s, "hosts", time.monotonic() + 3600 * (1 + chosen.process))
    rebased(done.net)
    sys.stdout = sys.__stdout__
    print("process", chosen.process, "of", chosen.processes, "sees", len(chosen.devices), "devices")


def mirrored(data: str, out: str) -> None:
    """TensorFlow on two logical CPUs, then the same weights on one."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    cfg = settings(data, out, backend="tensorflow", batch=15)
    one = machine.setup(cfg)
    import keras

    from carcls.nets import model
    from carcls.votes import cast

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    s = open_session(cfg, replace(one, devices=("cpu", "cpu"), strategy=strategy))
    done = train(cfg, s, "two")
    equal_replicas_of_a_refit(cfg, s)
    rebased(done.net)
    alone, _ = model.build(cfg, one, 3, 1)
    alone.load_weights(s.place.out / "two" / "best.weights.h5")
    rows, views = s.table.rows(VALIDATION), Views(first=3, most=3)
    val = cast.cast_votes(alone, done.cache, rows, views, cfg, one)
    keras.config.set_dtype_policy("mixed_float16")
    half = train(cfg.replace(ema=0.5), s, "half2")
    assert half.net.output.dtype == "float32"
    np.savez(Path(out) / "alone.npz", val=val.probs)


def equal_replicas_of_a_refit(cfg: Config, s: session.Session) -> None:
    """Replicas have the same BN statistics where there is no validation to make them so."""
    from carcls.nets import model
    from carcls.train import loop, watchers

    kept, seen = watchers.Checkpoint.on_epoch_end, []

    def watched(self: Any, epoch: int, logs: Any = None) -> None:
        for layer in model.batch_norms(self.model):
            copies = s.machine.strategy.experimental_local_results(layer.moving_mean.value)
            seen.append([np.asarray(copy) for copy in copies])
        kept(self, epoch, logs)

    job = Job("refit", s.place.out / "refit", cfg, s.table.rows(TRAIN), NOTHING)
    job.folder.mkdir()
    watchers.Checkpoint.on_epoch_end = watched  # type: ignore[method-assign]  # put back below
    loop.train(s, job, float("inf"), None)
    watchers.Checkpoint.on_epoch_end = kept  # type: ignore[method-assign]  # as it was
    assert len(seen) == 2 * 2  # layers, epochs
    assert all((first == second).all() for first, second in seen)


def xla(data: str, out: str) -> None:
    """TensorFlow on what is taken for one GPU, with XLA and without."""
    machine._tf_devices = lambda tf: (["processor"], "gpu", True)  # type: ignore[assignment]
    # XLA has random numbers of its own, and Adam makes much of roundings.
    cfg = settings(data, out, backend="tensorflow", precision="float32", dropout=0, optimizer="sgd")
    cfg = cfg.replace(stages="32x32x1,32x64x2")
    s = open_session(cfg, machine.setup(cfg))
    assert s.machine.xla
    assert train(cfg, s, "compiled").net.jit_compile is True
    s.machine = replace(s.machine, xla=False)
    assert train(cfg, s, "operations").net.jit_compile is False


if __name__ == "__main__":
    # One that hangs says where before JAX's own limit of 300 s ends it without a word.
    faulthandler.dump_traceback_later(200)
    works = {"jax8": jax8, "hosts": two_hosts, "mirrored": mirrored, "xla": xla}
    works[sys.argv[1]](*sys.argv[2:])
