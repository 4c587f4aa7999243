"""``carcls bench --networks``: photos a second that networks train on, beside timm's on torch.

Each network is built, compiled, fed and trained by the functions of a run, in the precision and on
the kind of machine that a run would choose, but on one device, as torch has no other here. The same
network of timm trains in channels_last under autocast of the same precision, from one batch in
memory; torch and timm are not needed, and what cannot be compared is said in a line.
"""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carcls import machine
from carcls.config import Config
from carcls.data import files, photos
from carcls.data.cache import PhotoCache
from carcls.data.photos import Rows
from carcls.desk import flops, settings
from carcls.desk.comparing import Child, Measure, compare
from carcls.errors import ConfigError, InputError
from carcls.nets import registry

ROUNDS = 5
SECONDS = 1.0  # of each measure, about
PHOTOS = 1024  # at most; they are decoded before anything is measured
# Networks and size where none is named.
ON_ACCELERATOR = ("hgnetv2_b5,efficientnet2_rw_s,efficientnetv2_s", "384x512")
ON_CPU = ("efficientnet_lite_b0,mobilenet_v3_small", "96x128")
# The same networks in timm; other weights of the same name would be as fast.
TIMM = {
    "hgnetv2_b4": "hgnetv2_b4.ssld_stage2_ft_in1k",
    "hgnetv2_b5": "hgnetv2_b5.ssld_stage2_ft_in1k",
    "hgnetv2_b6": "hgnetv2_b6.ssld_stage2_ft_in1k",
    "efficientnet2_rw_s": "efficientnetv2_rw_s.ra2_in1k",
    "efficientnet2_rw_m": "efficientnetv2_rw_m.agc_in1k",
    "efficientnet_b5_sw_ft": "efficientnet_b5.sw_in12k_ft_in1k",
    "efficientnetv2_s": "tf_efficientnetv2_s.in1k",
    "efficientnet_lite_b0": "tf_efficientnet_lite0.in1k",
    "mobilenet_v3_small": "tf_mobilenetv3_small_100.in1k",
    "mobilenet_v3_large": "tf_mobilenetv3_large_100.in1k",
}


@dataclass(frozen=True)
class Task:
    """A network to be measured, on photos of a table."""

    cfg: Config
    frame: pd.DataFrame
    classes: int
    scratch: Path

    @property
    def size(self) -> tuple[int, int]:
        return self.cfg.stages[0].size


@dataclass(frozen=True)
class About:
    """The machine that a run chooses here."""

    backend: str
    kind: str
    devices: tuple[str, ...]
    precision: str
    xla: bool
    batch: int  # photos a step

    def __str__(self) -> str:
        compiled = ", XLA" if self.xla else ""
        where = f"{len(self.devices)} × {self.devices[0]}"
        return f"batch {self.batch}: {self.backend}{compiled}, {self.precision}, {where}"


def main(networks: str, size: str, words: Sequence[str], data: str = "") -> None:
    """Measure these networks and print images/s, ratios and MFU.

    networks: names with commas, or "auto"; size: HEIGHTxWIDTH in px, or ""; words: settings, such
    as batch=32, backend=jax, augment=medium; data: the competition's folder, or "" for the sample.
    Raises ConfigError and, once all others are measured, InputError for those that could not be.
    """
    names = [] if networks == "auto" else [name.strip() for name in networks.split(",")]
    for name in names:
        registry.find(name)
    is_accelerated = _look_for_accelerators()
    usual, usual_size = ON_ACCELERATOR if is_accelerated else ON_CPU
    names = names or usual.split(",")
    size = size or usual_size
    cfg = _config(names[0], size, list(words), data, is_accelerated)
    for name in names:
        registry.check(name, ())
        registry.check_size(name, cfg.stages[0].size, f"--size {size}")
    failed = []
    with tempfile.TemporaryDirectory() as out:
        place = files.locate(cfg.replace(out=out))
        table = photos.load(cfg, place)
        frame = table.frame.iloc[table.rows(photos.TRAIN).rows].head(PHOTOS).reset_index(drop=True)
        height, width = frame[["height", "width"]].median().astype(int)
        print(f"{len(frame)} photos of {place.root}, {height}x{width} px by their medians")
        for name in names:
            one = Task(cfg.replace(backbone=name), frame, len(table.classes), place.scratch)
            try:
                _measure(one)
            except InputError as error:
                print(f"\n{name}: {error}", flush=True)
                failed.append(name)
    if failed:
        raise InputError(f"not measured: {', '.join(failed)}")


def _look_for_accelerators() -> bool:
    """Whether there are any. One GPU is left to the processes that measure, none to this one."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # to count FLOPs; the others choose for themselves
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    with suppress(RuntimeError):  # it has been used already
        tf.config.set_visible_devices([], "GPU")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # of those: torch trains on one
    return bool(gpus) or machine.has_tpu()


def _config(name: str, size: str, words: list[str], data: str, is_accelerated: bool) -> Config:
    if not re.fullmatch(r"\d+x\d+", size):
        raise ConfigError(f"--size {size}: expected HEIGHTxWIDTH in px, as in 384x512")
    words += [f"backbone={name}", f"stages={size}x1", "weights=none"]
    if is_accelerated and not any(word.startswith("preset=") for word in words):
        words.append("preset=kaggle")  # its batch
    return settings.from_command(words, data, "").replace(members=({},))


def _measure(task: Task) -> None:
    """Measure one network and print what came out."""
    ours = Child(_prepare_ours, task)
    children, about = [ours], ours.about
    arms: dict[str, Callable[[], float]] = {
        "ours, one batch in memory": partial(ours.rate, "memory"),
        "ours, fed by the pipeline": partial(ours.rate, "fed"),
    }
    why = _why_no_torch(task.cfg.backbone, about.kind)
    try:
        if not why:
            # Read when torch's OpenMP is loaded. Its threads would spin while they wait, which on
            # a busy CPU makes a step ten times as long; TensorFlow's are no OpenMP threads.
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")
            try:
                children.append(theirs := Child(_prepare_torch, task, about))
                theirs_arm = {f"timm on torch, {theirs.about}": partial(theirs.rate, "memory")}
                arms = theirs_arm | arms
            except InputError as error:
                why = str(error)
        height, width = task.size
        rates = compare(f"{task.cfg.backbone}, {height}x{width} px, {about}", arms, ROUNDS)
    finally:
        for child in children:
            child.close()
    if why:
        print(f"  timm on torch was not measured: {why}")
    print("  " + _describe_flops(rates, flops.forward_flops(task.cfg.backbone, task.size), about))


# --- Ours -----------------------------------------------------------------------------------------


def _prepare_ours(task: Task) -> tuple[About, Measure]:
    """A network that trains as in a run, from one batch in memory or fed by the pipeline."""
    computer, cfg = machine.setup(task.cfg), task.cfg
    from carcls.data import batches  # imports TensorFlow, for which setup has set what it reads
    from carcls.nets import model
    from carcls.train import steps
    from carcls.train.studio import in_scope

    cache = PhotoCache(task.frame, task.size, cfg.fit, task.scratch)
    for row in range(len(task.frame)):
        cache[row]  # decoded now, as before every epoch but the first
    rows = Rows(np.arange(len(task.frame)), task.frame["label"].to_numpy(np.int64))
    how = batches.Epochs(0, range(10**6), lambda epoch: cfg.strength.start)
    fed = batches.make_batches(cache, rows, task.classes, how, cfg, computer)
    in_memory = replace(fed, dataset=fed.dataset.take(1).cache().repeat())
    net, _ = in_scope(computer, partial(model.build, cfg, computer, task.classes, fed.steps))
    model.open_layers(cfg, net, 0)
    rate = in_scope(computer, partial(model.compile_model, cfg, net, computer))
    if rate:
        rate.follow(0, 0.01, 0.0)  # a small rate, always the same
    # Each is one endless epoch: an epoch's end has its own cost.
    sources = {"memory": replace(in_memory, steps=10**9), "fed": replace(fed, steps=10**9)}

    def seconds(source: str, count: int) -> float:
        return steps.time_training(net, sources[source], count)

    for source in sources:
        seconds(source, 3)  # traced and compiled now
    count = _count(seconds("memory", 6))
    about = About(
        computer.backend,
        computer.kind,
        computer.devices,
        computer.precision,
        computer.xla,
        fed.batch,
    )
    return about, lambda source: fed.batch / seconds(source, count)


def _count(step: float) -> int:
    """Steps of a measure, where one takes so many seconds."""
    return min(1000, max(5, ceil(SECONDS / step)))


# --- timm on torch --------------------------------------------------------------------------------


def _why_no_torch(name: str, kind: str) -> str:
    """Why timm's network cannot be measured here; "": it can."""
    missing = [each for each in ("torch", "timm") if importlib.util.find_spec(each) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    if name not in TIMM:
        return f"which of its networks is {name} is not known here"
    return "" if kind in ("cpu", "gpu") else f"this device is a {kind}"


def _prepare_torch(task: Task, about: About) -> tuple[str, Measure]:
    """timm's network training on the same photos a step, in the same precision, from memory.

    As ours it is given uint8 in the host's memory at each step, and normalises on the device.
    """
    import timm
    import torch

    device = "cuda" if about.kind == "gpu" else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("torch sees no GPU")
    torch.manual_seed(task.cfg.seed)
    torch.backends.cudnn.benchmark = True
    nhwc = torch.channels_last
    net = timm.create_model(TIMM[task.cfg.backbone], pretrained=False, num_classes=task.classes)
    net = net.to(device, memory_format=nhwc).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-5, fused=device == "cuda")
    types = {"mixed_float16": torch.float16, "mixed_bfloat16": torch.bfloat16}
    dtype = types.get(about.precision)
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    images = torch.randint(0, 256, (about.batch, 3, *task.size), dtype=torch.uint8)
    images, labels = images.contiguous(memory_format=nhwc), torch.arange(about.batch) % task.classes
    if device == "cuda":
        images, labels = images.pin_memory(), labels.pin_memory()
    mean, std = (
        255 * torch.tensor(values, device=device).reshape(1, 3, 1, 1)
        for values in (registry.MEAN, registry.STD)
    )

    def train(count: int) -> float:
        """Seconds a step."""
        _wait(torch, device)
        start = time.perf_counter()
        for _ in range(count):
            x, y = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            with torch.autocast(device, dtype, enabled=dtype is not None):
                logits = net((x - mean) / std)
                loss = torch.nn.functional.cross_entropy(logits.float(), y)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        _wait(torch, device)
        return (time.perf_counter() - start) / count

    train(3)
    count = _count(train(5))
    return torch.__version__, lambda source: about.batch / train(count)


def _wait(torch: Any, device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


# --- FLOPs ----------------------------------------------------------------------------------------


def _describe_flops(rates: dict[str, float], forward: int, about: About) -> str:
    """What part of the devices' peak the arms use, as a line."""
    each = [rate * flops.STEP * forward / 1e12 for rate in rates.values()]  # TFLOP/s
    count = f"{forward / 1e9:.3g} GFLOP a photo forward, {flops.STEP} times that to train"
    peak = flops.peak_tflops(about.devices[0], about.precision) * len(about.devices)
    if not peak:
        reached = ", ".join(f"{value:.3g}" for value in each)
        where = f"{about.devices[0]} in {about.precision}"
        return f"{count}: {reached} TFLOP/s; no MFU, as the peak of {where} is not known here"
    return f"{count}: MFU {', '.join(f'{v / peak:.1%}' for v in each)} of {peak:,} TFLOP/s"
