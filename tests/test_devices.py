"""Several devices and processes, simulated on the CPU: the package's own fit and votes give what one device gives.

Tolerances: probabilities within 1e-4 between one and eight JAX devices or two processes, which add the same float32
numbers in another order (measured 1e-7); with XLA and without 1e-5; reported losses within 1e-5 of those that the votes give (1e-3 in half precision).
"""

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small
from conftest import easy_competition

from carcls import machine as runtime

TESTS = Path(__file__).parent
TEST_IDS = [f"{900 + n}.png" for n in range(13)]
# What XLA optimises takes longer to compile than these networks take to train.
FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
NEEDS_JAX = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="jax is not installed"
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Folder and output of each of on_devices.py's processes; they run at the same time."""
    root = tmp_path_factory.mktemp("devices")
    data = easy_competition(root / "competition", 61, 13)
    small.saved(root / "tiny.weights.h5")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = {}

    def start(name, what, **variables):
        env = {k: v for k, v in os.environ.items() if k not in ("KERAS_BACKEND", "XLA_FLAGS")}
        env |= {
            "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            **variables,
        }
        command = [
            sys.executable,
            "-u",
            str(TESTS / "on_devices.py"),
            what,
            str(data),
            str(root / what),
        ]
        with (root / f"{name}.log").open("w") as log:
            started[name] = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)

    start("mirrored", "mirrored")
    start("xla", "xla", XLA_FLAGS=FAST)
    if importlib.util.find_spec("jax"):
        start("jax8", "jax8", XLA_FLAGS=f"--xla_force_host_platform_device_count=8 {FAST}")
        for number in "01":
            start(
                f"hosts{number}",
                "hosts",
                XLA_FLAGS=f"--xla_force_host_platform_device_count=2 {FAST}",
                JAX_COORDINATOR_ADDRESS=address,
                JAX_NUM_PROCESSES="2",
                JAX_PROCESS_ID=number,
            )
    try:
        for name, process in started.items():
            code = process.wait(timeout=300)
            assert code == 0, f"{name}: {(root / f'{name}.log').read_text()[-3000:]}"
    finally:
        for process in started.values():
            process.kill()
    return lambda what, name: np.load(root / what / f"{name}.npz"), root


def differ(one, two, names=("early", "val", "test")) -> float:
    return max(float(np.abs(one[name] - two[name]).max()) for name in names)


def check_reported(made, tolerance=1e-5):
    """What fit reported for the weights that are kept is what the votes of all validation photos give, each once."""
    rows = np.arange(15)
    assert made["val"].shape == (3, 15, 3)
    assert made["test"].shape == (3, 13, 3)
    assert sorted(made["ids"].tolist()) == TEST_IDS
    for probs, loss, accuracy in (
        (made["val"][0], made["best_loss"], made["best_accuracy"]),
        (made["early"], made["early_loss"], made["early_accuracy"]),  # predicted inside fit
    ):
        assert -np.log(probs[rows, made["labels"]]).mean() == pytest.approx(
            float(loss), abs=tolerance
        )
        assert (probs.argmax(1) == made["labels"]).mean() == pytest.approx(float(accuracy))
    # Training went on. Which of its two epochs is the better one depends on the processor:
    # roundings grow fast in this network.
    assert abs(made["val_losses"][1] - made["val_losses"][0]) > 1e-4


@NEEDS_JAX
def test_eight_devices_and_one_train_to_the_same_predictions(ran):
    result, _ = ran
    eight, one = result("jax8", "eight"), result("jax8", "one")
    assert differ(eight, one) < 1e-4
    assert eight["losses"] == pytest.approx(one["losses"], abs=1e-4)
    check_reported(eight)
    assert (
        "batch      16: 2 a device; batch=12 is no multiple of 8, this is the nearest"
        in eight["reasons"].tolist()
    )
    assert "device     8 × cpu (cpu)" in "\n".join(eight["reasons"])


@NEEDS_JAX
def test_jax_goes_on_after_a_kill_as_if_there_had_been_none(ran):
    result, root = ran
    assert "resumed    after 1 epochs" in (root / "jax8.log").read_text()
    assert differ(result("jax8", "eight"), result("jax8", "resumed")) == 0


@NEEDS_JAX
def test_averaged_weights_and_half_precision_on_eight_devices(ran):
    check_reported(ran[0]("jax8", "half"), 1e-3)  # float16 has three digits; the logits are float32


@NEEDS_JAX
def test_jax_goes_on_after_a_step_that_ran_out_of_memory(ran):
    result, root = ran
    found = result("jax8", "exhausted")
    assert np.abs(found["val"] - result("jax8", "eight")["val"]).max() < 1e-5
    said = (root / "jax8.log").read_text()
    assert said.count("out of memory while predicting 16 photos at a time; going on with 8\n") == 1
    assert found["exhausted"]
    assert (found["restored"] == found["before"]).all()
    assert found["steps_restored"] == found["steps_before"]
    assert (found["after"] != found["before"]).any()
    assert found["steps_after"] == found["steps_before"] + found["steps"]


@NEEDS_JAX
def test_two_processes_train_as_one_and_only_the_first_writes_and_prints(ran):
    result, root = ran
    both, one = result("hosts", "hosts"), result("jax8", "one")
    assert differ(both, one) < 1e-4
    assert both["losses"] == pytest.approx(one["losses"], abs=1e-4)
    assert both["first_weights"] == pytest.approx(one["first_weights"], abs=1e-4)
    check_reported(both)
    assert (
        "processes  2: JAX_NUM_PROCESSES says so; process 0 writes and prints"
        in both["reasons"].tolist()
    )
    assert {p.name for p in (root / "hosts").iterdir()} == {
        "hosts.npz",
        "hosts",
        "earlier",
        ".scratch",
    }
    assert not list((root / "hosts" / ".scratch").iterdir())
    logs = [(root / f"hosts{number}.log").read_text() for number in "01"]
    assert "hosts trained and predicted" in logs[0]
    lines = [re.sub(r"^\[Gloo\] .*", "", line).strip() for line in logs[1].splitlines()]
    assert re.search(r"plan       2 epochs, [38] views: ", logs[0])
    assert [line for line in lines if line] == ["process 1 of 2 sees 4 devices"]


def test_two_replicas_of_tensorflow_validate_the_network_that_is_kept(ran):
    """In Keras each replica keeps BN statistics of its own; without EqualReplicas the loss here differs by 1.4e-4."""
    result, _ = ran
    two = result("mirrored", "two")
    check_reported(two)
    alone = result("mirrored", "alone")[
        "val"
    ]  # the saved weights on one device, with the fused kernel too
    assert np.abs(two["val"] - alone).max() < 1e-5
    check_reported(result("mirrored", "half2"), 1e-3)
    assert (
        runtime.Runtime("tensorflow", ("a", "b"), "float32", False, True).batch_size(15) == 16
    )  # as it trained


def test_xla_on_one_gpu_is_what_the_clock_says(ran):
    """A processor stands for the GPU: what is compiled and timed at first is real."""
    result, root = ran
    said, *parts = (root / "xla.log").read_text().split("-- ")
    assert "XLA        to be timed: on one GPU it fuses" in said
    assert "batch norm" not in said  # it depends on XLA
    found = {}
    for part in parts:
        lines = part.splitlines()
        found[lines[0]] = (
            [line[11:] for line in lines if line.startswith("XLA  ") and "timing" not in line],
            part,
        )
    line = "o(n|ff): a step at 32x64 takes [0-9.e-]+ s with it and [0-9.e-]+ s without, to get there took [0-9]+ and "
    assert re.match(line, found["real"][0][0])
    assert found["known"][0] == found["real"][0]
    assert "timing" in found["real"][1]
    assert "timing" not in found["known"][1]
    # 46 photos, a little more than 3 steps of 13 in each of 2.5 epochs of the larger size
    assert "; the whole training would take 5 or 20 s" in found["a faster step"][0][0]
    assert found["a faster step"][0][0].startswith("on: ")
    assert "batch norm Keras" in found["a faster step"][1]
    assert "XLA is made anew: batch 12 → 13" in found["a faster step"][1]
    assert found["one that does not make up for its compilation"][0][0].startswith("off: ")
    assert "batch norm fused" in found["one that does not make up for its compilation"][1]
    assert found["little time"][0] == ["off: not timed: less than 15 minutes are left"]
    assert found["then more"][0][0].startswith("on: ")
    assert (
        found["broken"][0]
        == ["off: a step with it fails: libdevice not found"]
        == found["known to be broken"][0]
    )
    assert found["memory for XLA alone"][0] == ["on: a step without it fails: OOM when allocating"]
    assert found["memory for both again"][0][0].startswith("off: a step at")  # it was not kept
    assert found["broken, and no memory"][0][0].startswith("off: ")
    assert "raised" in found["broken without"][1]
    events = [json.loads(line) for line in (root / "xla" / "events.jsonl").read_text().splitlines()]
    assert [event["on"] for event in events if event["kind"] == "xla"][-1] is False
    assert differ(result("xla", "compiled"), result("xla", "operations")) < 1e-5  # measured 5e-7
