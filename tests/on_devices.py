"""What test_devices.py runs in processes of its own, since devices are counted once: on_devices.py WHAT COMPETITION OUT.

Leaves OUT/<name>.npz, which the tests look at.
"""

import faulthandler
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import small

from carcls import config
from carcls import machine as runtime
from carcls.config import Config
from carcls.data import files as inputs
from carcls.data import photos
from carcls.nets.schedule import TimeLeft


def settings(data: str, out: str, **changes: Any) -> Config:
    """12 is no multiple of 8 devices; the competition has 61 train and 13 test photos, 15 of the first for validation."""
    weights = str(Path(data).parent / "tiny.weights.h5")
    return config.parse(
        {
            "data": data,
            "out": out,
            "weights": weights,
            "backbone": small.add_tiny(),
            "batch": 12,
            "stages": "32x32x2",
            "lr": 0.01,
            "schedule": "constant",
            "tta_views": 3,
            "val_fraction": 0.25,
            **changes,
        }
    )


def train(
    cfg: Config, rt: runtime.Runtime, name: str, time_left: TimeLeft | None = None
) -> SimpleNamespace:
    """Through the package's own code: fit, the first epoch's prediction within it, votes after it; OUT/<name>.npz."""
    from carcls.train import loop as train
    from carcls.train import watchers as callbacks
    from carcls.votes import cast as tta

    place = runtime.apart(inputs.locate(cfg))
    table = photos.load(cfg, place)
    folder = place.out / name
    folder.mkdir(exist_ok=True)
    early = []

    def ready(net: Any, stage: Any, what: str, accuracy: float) -> None:
        early.append(
            (what, accuracy, tta.vote(cfg, rt, net, table.val, place, 1, stage=stage)[0].probs[0])
        )

    trained = train.fit(
        cfg,
        rt,
        table,
        place,
        folder,
        callbacks.Events(folder / "events.jsonl"),
        ready,
        time_left=time_left,
    )
    val, _ = tta.vote(cfg, rt, trained.model, table.val, place, 3)
    test, _ = tta.vote(cfg, rt, trained.model, table.test, place, 3)
    print(f"{name} trained and predicted")
    history = pd.read_csv(folder / "history.csv")
    last = history[history["stage"] == history["stage"].max()]
    best = last.sort_values(["val_accuracy", "val_loss"], ascending=[False, True]).iloc[0]
    np.savez(
        place.out / f"{name}.npz",
        val=val.probs,
        test=test.probs,
        labels=val.labels,
        ids=test.ids,
        best_loss=best["val_loss"],
        early=early[0][2],
        best_accuracy=best["val_accuracy"],
        early_accuracy=early[0][1],
        early_loss=history["val_loss"][0],
        losses=history["loss"],
        val_losses=history["val_loss"],
        reasons=rt.reasons,
        first_weights=trained.model.get_weights()[0],
    )
    return SimpleNamespace(cfg=cfg, place=place, table=table, net=trained.model, val=val)


def jax8(data: str, out: str) -> None:
    """Eight devices, then one, in the same process; averaged weights; a step that runs out of memory; half precision."""
    cfg = settings(data, out, backend="jax")
    rt = runtime.setup(cfg)
    import jax
    import keras

    from carcls.votes import cast as tta

    done = train(cfg, rt, "eight")
    resumed(cfg, rt)
    real, calls = done.net.predict_function, []

    def exhausted(state: Any, iterator: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:  # as XLA does: what was donated to the step is gone
            for array in (*state[0], *state[1]):
                array.delete()
            raise jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes."
            )
        return real(state, iterator)

    done.net.predict_function = exhausted
    again, _ = tta.vote(done.cfg, rt, done.net, done.table.val, done.place, 3)
    done.net.predict_function = real
    np.savez(
        Path(out) / "exhausted.npz",
        val=again.probs,
        calls=len(calls),
        **exhausted_training(done, rt),
    )
    rebased(done)
    keras.config.set_dtype_policy("mixed_float16")
    half = train(cfg.replace(ema=0.5, stages="32x32x1,32x32x1"), rt, "half")
    assert half.net.output.dtype == "float32"
    keras.config.set_dtype_policy("float32")
    keras.distribution.set_distribution(None)
    train(cfg.replace(batch=16), replace(rt, devices=rt.devices[:1]), "one")


def rebased(done: SimpleNamespace) -> None:
    """The network predicts the same with BN's statistics of other photos."""
    from carcls.nets import model

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 32, 32, 3)).astype(np.uint8)
    before = done.net.predict(images, batch_size=16, verbose=0)
    means = [np.array(layer.moving_mean) for layer in model.batch_norms(done.net)]
    assert model.rebase_batch_norms(done.net, [images[:8], images[8:]]) == 2
    after = done.net.predict(images, batch_size=16, verbose=0)
    assert np.abs(after - before).max() < 1e-3, np.abs(after - before).max()
    assert all(
        np.abs(np.array(layer.moving_mean) - old).max() > 1e-3
        for layer, old in zip(model.batch_norms(done.net), means, strict=True)
    )


def resumed(cfg: Config, rt: runtime.Runtime) -> None:
    """Killed once the first epoch's state is kept, and gone on from there."""
    from carcls import record as steps

    save = steps.States.save

    def killed(self: Any, *args: Any) -> None:
        save(self, *args)
        raise KeyboardInterrupt

    steps.States.save = killed  # type: ignore[method-assign]  # put back below
    try:
        train(cfg, rt, "resumed")
    except KeyboardInterrupt:
        print("killed")
    steps.States.save = save  # type: ignore[method-assign]  # as it was
    train(cfg, rt, "resumed")


def exhausted_training(done: SimpleNamespace, rt: runtime.Runtime) -> dict[str, Any]:
    """Weights before a training step that runs out of memory, after its state is restored, and after going on from there."""
    import jax

    from carcls.data import batches as pipeline
    from carcls.nets import model
    from carcls.votes import cast as tta

    net, frame, stage = done.net, done.table.train, done.cfg.stages[0]
    cache = tta.photo_cache(done.cfg, frame, done.place, stage)
    made = pipeline.make_batches(
        done.cfg,
        cache,
        np.arange(len(frame)),
        frame["label"].to_numpy(),
        (stage.height, stage.width),
        3,
        train=lambda epoch: 1.0,
        rt=rt,
    )
    real, calls, found = net.train_function, [], {}
    kept = model.state(net)

    def exhausted(state: Any, iterator: Any) -> Any:
        calls.append(1)
        if len(calls) < 2:
            return real(state, iterator)
        for array in jax.tree.leaves(state):
            array.delete()
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes."
        )

    net.train_function = exhausted
    found["before"], found["steps_before"] = net.get_weights()[0], int(net.optimizer.iterations)
    try:
        net.fit(made.dataset, steps_per_epoch=made.steps, verbose=0)
    except runtime.memory_errors() as error:
        found["exhausted"] = runtime.is_out_of_memory(error)
        print("fit:", repr(error), repr(error.__context__))
    net.train_function = real
    model.restore(net, kept)
    found["restored"], found["steps_restored"] = net.get_weights()[0], int(net.optimizer.iterations)
    net.fit(made.dataset, steps_per_epoch=made.steps, verbose=0)
    return found | {
        "after": net.get_weights()[0],
        "steps": made.steps,
        "steps_after": int(net.optimizer.iterations),
    }


def hosts(data: str, out: str) -> None:
    """One of two processes with two devices each."""
    cfg = settings(data, out, backend="auto", batch=16)
    rt = runtime.setup(cfg)
    place = runtime.apart(inputs.locate(cfg))
    if rt.process == 0:
        (place.out / "earlier").mkdir()
        (place.out / "earlier" / "weights").write_bytes(b"of process 0")
    runtime.same_files(rt, place)
    assert {path.name for path in place.out.iterdir()} - {".scratch"} == {"earlier"}
    assert (place.out / "earlier" / "weights").read_bytes() == b"of process 0"
    assert runtime.agree(rt, 1.5 + rt.process) == 1.5
    done = train(
        cfg, rt, "hosts", TimeLeft(time.monotonic() + 3600 * (1 + rt.process))
    )  # clocks that differ
    rebased(done)
    sys.stdout = sys.__stdout__
    print("process", rt.process, "of", rt.processes, "sees", len(rt.devices), "devices")


def without_validation(done: SimpleNamespace, two: runtime.Runtime) -> None:
    """Replicas have the same BN statistics where there is no validation to make them so, as in a refit."""
    from carcls.nets import model
    from carcls.train import loop as train
    from carcls.train import watchers as callbacks

    kept, seen = callbacks.Checkpoint.on_epoch_end, []

    def equal(self: Any, epoch: int, logs: Any = None) -> None:
        for layer in model.batch_norms(self.model):
            seen.append(
                [
                    np.asarray(copy)
                    for copy in two.strategy.experimental_local_results(layer.moving_mean.value)
                ]
            )
        kept(self, epoch, logs)

    frame = done.table.frame
    frame = frame.assign(fold=frame["fold"].replace(photos.VALIDATION, photos.TRAIN))
    folder = done.place.out / "refit"
    folder.mkdir()
    callbacks.Checkpoint.on_epoch_end = equal  # type: ignore[method-assign]  # put back below
    try:
        train.fit(
            done.cfg,
            two,
            replace(done.table, frame=frame),
            done.place,
            folder,
            callbacks.Events(folder / "events.jsonl"),
        )
    finally:
        callbacks.Checkpoint.on_epoch_end = kept  # type: ignore[method-assign]  # as it was
    assert len(seen) == 2 * 2  # layers, epochs
    assert all((first == second).all() for first, second in seen)


def mirrored(data: str, out: str) -> None:
    """TensorFlow on two logical CPUs: train, then the same weights on one."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    cfg = settings(data, out, backend="tensorflow", batch=15)
    rt = runtime.setup(cfg)
    import keras

    from carcls.nets import model
    from carcls.votes import cast as tta

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    two = replace(rt, devices=("cpu", "cpu"), strategy=strategy)
    done = train(cfg, two, "two")
    without_validation(done, two)
    rebased(done)
    alone, _ = model.build(done.cfg, rt, 3)
    alone.load_weights(done.place.out / "two" / "best.weights.h5")
    val, _ = tta.vote(done.cfg, rt, alone, done.table.val, done.place, 3)
    keras.config.set_dtype_policy("mixed_float16")
    half = train(cfg.replace(ema=0.5), two, "half2")
    assert half.net.output.dtype == "float32"
    np.savez(Path(out) / "alone.npz", val=val.probs)


def xla(data: str, out: str) -> None:
    """TensorFlow on what is taken for one GPU: XLA by the clock, by what an earlier session found, and where it fails."""
    runtime._tf_devices = lambda tf: (["processor"], "gpu", True)  # type: ignore[assignment]  # this process's only machine
    cfg = settings(data, out, backend="tensorflow", precision="float32", stages="32x32x1,32x64x2")
    rt = runtime.setup(cfg)
    import tensorflow as tf

    from carcls.nets import model, schedule
    from carcls.train import clock as timing
    from carcls.train import watchers as callbacks

    place = inputs.locate(cfg)
    table = photos.load(cfg, place)
    events = callbacks.Events(place.out / "events.jsonl")
    print(*rt.reasons, sep="\n")

    def settle(
        why: str, alone: Any, batch: int = 12, left: float = 9000, lr: float = 0.01
    ) -> runtime.Runtime:
        print(f"-- {why}")
        timing._alone = alone
        budget = schedule.Budget(time.monotonic() + left, "some time")
        return timing.xla(cfg.replace(batch=batch, lr=lr), rt, table, place, events, budget)

    def answers(with_it: Any, without: Any) -> Any:
        def alone(
            cfg: Any, rt: runtime.Runtime, table: Any, place: Any, shape: Any
        ) -> tuple[float, float]:
            assert str(shape) == "32x64x2"  # where most of the time goes
            found = with_it if rt.xla else without
            if isinstance(found, Exception):
                raise found
            return found

        return alone

    broken = tf.errors.InternalError(
        None, None, "Graph execution error:\n\nlibdevice not found\n\t [[{{node x}}]]"
    )
    full = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
    first = settle("real", timing._alone)
    assert settle("known", None, lr=0.02) == first
    settle("a faster step", answers((2.0, 0.1), (1.0, 2.0)), 13)
    settle("one that does not make up for its compilation", answers((99.0, 0.1), (1.0, 2.0)), 14)
    settle("little time", None, 15, left=60)
    settle("then more", answers((1.0, 1.0), (1.0, 2.0)), 15)
    settle("broken", answers(broken, (1.0, 1.0)), 16)
    settle("known to be broken", None, 16)
    settle("memory for XLA alone", answers((1.0, 1.0), full), 17)
    settle("memory for both again", answers((1.0, 2.0), (1.0, 1.0)), 17)
    settle("broken, and no memory", answers(broken, full), 18)
    try:
        settle("broken without", answers((1.0, 1.0), broken), 19)
    except tf.errors.InternalError:
        print("raised")
    cfg = cfg.replace(
        dropout=0, optimizer="sgd"
    )  # XLA has random numbers of its own; Adam makes much of roundings
    for name, on in (("compiled", True), ("operations", False)):
        way = runtime.with_xla(rt, on)
        assert model.build(cfg, way, 3)[0].jit_compile is on
        train(cfg, way, name)


if __name__ == "__main__":
    # One that hangs says where before JAX's own limit of 300 s ends it without a word.
    faulthandler.dump_traceback_later(200)
    {"jax8": jax8, "hosts": hosts, "mirrored": mirrored, "xla": xla}[sys.argv[1]](*sys.argv[2:])
