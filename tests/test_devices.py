"""Several devices and processes, simulated on the CPU, give what one device gives.

Probabilities agree within 1e-4 between one and eight JAX devices or two processes, which add the
same float32 numbers in another order (measured 1e-7), and within 1e-5 with XLA and without.
Reported losses are those that the votes give, within 1e-5, or 1e-3 in half precision.
"""

import importlib.util
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import hubs
import numpy as np
import pytest
import small
from conftest import easy_competition

TESTS = Path(__file__).parent
# What XLA optimises takes longer to compile than these networks take to train.
FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
HAS_JAX = importlib.util.find_spec("jax") is not None
needs_jax = pytest.mark.skipif(not HAS_JAX, reason="jax is not installed")


def cpus(count: int) -> str:
    return f"--xla_force_host_platform_device_count={count} {FAST}"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The folder of on_devices.py's processes, which run at the same time."""
    root = tmp_path_factory.mktemp("devices")
    data = easy_competition(root / "competition", 61, 13)
    small.saved(root / "tiny.weights.h5")
    started = {}

    def start(name, what, **variables):
        env = {k: v for k, v in os.environ.items() if k not in ("KERAS_BACKEND", "XLA_FLAGS")}
        env |= {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-u", str(TESTS / "on_devices.py"), what, data, root / what]
        with (root / f"{name}.log").open("w") as log:
            both = {"stdout": log, "stderr": subprocess.STDOUT}
            started[name] = subprocess.Popen(command, env={**env, **variables}, **both)

    start("mirrored", "mirrored")
    start("xla", "xla", XLA_FLAGS=FAST)
    if HAS_JAX:
        start("jax8", "jax8", XLA_FLAGS=cpus(8))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        both = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
        for number in "01":
            start(f"hosts{number}", "hosts", XLA_FLAGS=cpus(2), JAX_PROCESS_ID=number, **both)
    try:
        for name, process in started.items():
            code = process.wait(timeout=300)
            assert code == 0, f"{name}: {(root / f'{name}.log').read_text()[-3000:]}"
    finally:
        for process in started.values():
            process.kill()
    return root


@pytest.fixture(scope="module")
def result(root):
    return lambda what, name: np.load(root / what / f"{name}.npz")


def differ(one, two, names=("early", "val", "test")) -> float:
    return max(float(np.abs(one[name] - two[name]).max()) for name in names)


def check_reported(made, tolerance=1e-5):
    """What validation reported for the weights that count is what the votes give."""
    assert made["val"].shape == (3, 15, 3)
    assert made["test"].shape == (3, 13, 3)
    assert sorted(made["ids"].tolist()) == [f"{900 + n}.png" for n in range(13)]
    # The best epoch, and the first one, which predicts while training goes on.
    for probs, which in ((made["val"][0], "best"), (made["early"], "early")):
        loss = -np.log(probs[np.arange(15), made["labels"]]).mean()
        assert loss == pytest.approx(float(made[f"{which}_loss"]), abs=tolerance)
        right = (probs.argmax(1) == made["labels"]).mean()
        assert right == pytest.approx(float(made[f"{which}_accuracy"]))
    assert abs(made["val_losses"][1] - made["val_losses"][0]) > 1e-4  # training went on


@needs_jax
def test_eight_devices_and_one_train_to_the_same_predictions(result):
    eight, one = result("jax8", "eight"), result("jax8", "one")
    assert differ(eight, one) < 1e-4
    assert eight["losses"] == pytest.approx(one["losses"], abs=1e-4)
    check_reported(eight)
    reasons = "\n".join(eight["reasons"])
    assert "batch      16: 2 a device" in reasons  # 12 is no multiple of 8
    assert "device     8 × cpu (cpu)" in reasons


@needs_jax
def test_jax_goes_on_after_a_kill_as_if_there_had_been_none(result, root):
    assert "resumed    after 1 epochs" in (root / "jax8.log").read_text()
    assert differ(result("jax8", "eight"), result("jax8", "resumed")) == 0


@needs_jax
def test_averaged_weights_and_half_precision_on_eight_devices(result):
    check_reported(result("jax8", "half"), 1e-3)  # float16 has three digits


@needs_jax
def test_jax_goes_on_after_a_step_that_ran_out_of_memory(result, root):
    found = result("jax8", "exhausted")
    assert np.abs(found["val"] - result("jax8", "eight")["val"]).max() < 1e-5
    assert (root / "jax8.log").read_text().count("out of memory while predicting 16 photos") == 1
    assert found["exhausted"]
    assert (found["restored"] == found["before"]).all()
    assert found["steps_restored"] == found["steps_before"]
    assert (found["after"] != found["before"]).any()
    assert found["steps_after"] == found["steps_before"] + found["steps"]


@needs_jax
def test_two_processes_train_as_one_and_only_the_first_writes_and_prints(result, root):
    both, one = result("hosts", "hosts"), result("jax8", "one")
    assert differ(both, one) < 1e-4
    assert both["losses"] == pytest.approx(one["losses"], abs=1e-4)
    assert both["first_weights"] == pytest.approx(one["first_weights"], abs=1e-4)
    check_reported(both)
    written = {"hosts.npz", "hosts", "earlier", "events.jsonl", ".scratch"}
    assert {p.name for p in (root / "hosts").iterdir()} == written
    assert not list((root / "hosts" / ".scratch").iterdir())
    logs = [(root / f"hosts{number}.log").read_text() for number in "01"]
    assert "hosts trained and predicted" in logs[0]
    assert "timed      a step of 16 photos" in logs[0]
    lines = [re.sub(r"^\[Gloo\] .*", "", line).strip() for line in logs[1].splitlines()]
    assert [line for line in lines if line] == ["process 1 of 2 sees 4 devices"]


def test_two_replicas_of_tensorflow_validate_the_network_that_is_kept(result):
    """Without EqualReplicas, each with BN statistics of its own, the loss differs by 1.4e-4."""
    two, alone = result("mirrored", "two"), result("mirrored", "alone")
    check_reported(two)
    assert np.abs(two["val"] - alone["val"]).max() < 1e-5  # with the fused kernel, too
    check_reported(result("mirrored", "half2"), 1e-3)


def test_tensorflow_trains_to_the_same_predictions_with_xla_and_without(result):
    assert differ(result("xla", "compiled"), result("xla", "operations")) < 1e-5  # measured 5e-7


@needs_jax
@hubs.needs_hub
@pytest.mark.skipif(not os.environ.get("CARCLS_SLOW"), reason="CARCLS_SLOW=1: a minute")
def test_transformers_on_jax_give_what_kerashub_gives():
    tests = [TESTS / "test_weights_files.py", "-k", "transformer", "-q", "-n", "0"]
    env = os.environ | {"KERAS_BACKEND": "jax", "XLA_FLAGS": FAST}
    run = [sys.executable, "-m", "pytest", *tests]
    both = {"capture_output": True, "text": True}
    done = subprocess.run(run, check=False, env=env, cwd=TESTS.parent, **both)
    assert re.search(rf"^{len(hubs.TRANSFORMERS)} passed", done.stdout, re.M), done.stdout[-3000:]
