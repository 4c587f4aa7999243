"""How fast networks train: what is compared, the FLOPs by hand, and what cannot be measured."""

import os
import re

import keras
import pytest

from carcls.desk import cli, comparing, flops, throughput
from carcls.errors import InputError
from carcls.nets import registry


def test_arms_are_measured_in_turn_and_the_ratios_are_of_one_round_each(capsys):
    rates = {"a": iter([10.0, 20, 40]), "b": iter([20.0, 20, 20])}
    turns = []

    def arm(name):
        return lambda: turns.append(name) or next(rates[name])

    medians = comparing.compare("title", {"a": arm("a"), "b": arm("b")})
    assert medians == {"a": 20, "b": 20}
    assert "".join(turns) == "abbaab"
    assert "1.00 × (0.50–2.00)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("prepare", "why"), [((divmod, 1, 0), "ZeroDivisionError"), ((os._exit, 3), "exit code 3")]
)
def test_a_process_that_cannot_measure_says_why(prepare, why):
    with pytest.raises(InputError, match=why):
        comparing.Child(*prepare)


def _mixed(shape):
    """(height, width, 3) → every kind of operation that is counted."""
    layers = keras.layers
    images = keras.Input(shape)
    x = layers.Conv2D(8, 3, strides=2, padding="same")(images)
    x = layers.Conv2D(8, 5, groups=4, padding="same")(x)  # Keras has XLA compile it by itself
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.Dense(16)(x)
    return keras.Model(images, layers.EinsumDense("bhwc,cd->bhwd", (None, None, 4))(x))


def test_flops_are_two_for_each_multiplication(monkeypatch):
    entry = registry.Backbone("mixed", "keras", _mixed)
    monkeypatch.setitem(registry.REGISTRY, "mixed", entry)
    per_pixel = 8 * 27 + 8 * 25 * 2 + 8 * 9 + 8 * 16 + 16 * 4
    assert flops.forward_flops("mixed", (32, 48)) == 2 * 16 * 24 * per_pixel


@pytest.mark.parametrize(
    ("device", "precision", "peak"),
    [
        ("Tesla T4", "mixed_float16", 65),
        ("NVIDIA A100-SXM4-40GB", "mixed_bfloat16", 312),
        ("NVIDIA H100 PCIe", "mixed_bfloat16", 756),
        ("NVIDIA H100 80GB HBM3", "mixed_bfloat16", 989),
        ("TPU v5 lite", "mixed_bfloat16", 197),
        ("NVIDIA L40S", "mixed_bfloat16", 0),  # no L4
        ("Tesla T4", "float32", 0),
    ],
)
def test_a_peak_is_of_a_known_device_in_16_bits(device, precision, peak):
    assert flops.peak_tflops(device, precision) == peak


class _Here:
    """As comparing.Child, in this process."""

    def __init__(self, prepare, *args):
        self.about, self.rate = prepare(*args)

    def close(self):
        pass


@pytest.fixture
def here(monkeypatch, tiny):
    """Measures in this process, for an instant, of timm's network a rate that nobody has."""
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_WAIT_POLICY"):  # set for all that comes after
        monkeypatch.setenv(name, os.environ.get(name, "0"))
    monkeypatch.setattr(throughput, "Child", _Here)
    monkeypatch.setattr(throughput, "SECONDS", 0.01)
    monkeypatch.setattr(throughput, "_why_no_torch", lambda *_: "")
    monkeypatch.setattr(throughput, "_prepare_torch", lambda *_: ("9.9", lambda source: 1e9))
    return tiny


def test_ours_trains_beside_timm_with_ratios_and_mfu(here, monkeypatch, competition, capsys):
    monkeypatch.setattr(flops, "peak_tflops", lambda *_: 1000)
    words = ["bench", "--networks", "tiny", "--size", "32x48", "--data", str(competition)]
    assert cli.main([*words, "batch=8", "augment=medium"]) == 0
    said = capsys.readouterr().out
    assert "tiny, 32x48 px, batch 8: tensorflow, float32, 1 × " in said
    timm, memory, fed = re.findall(r"^  \w.+?  +(\d+) images/s(.*)", said, re.MULTILINE)
    assert timm == ("1000000000", "") and int(memory[0]) > 0 and int(fed[0]) > 0
    assert memory[1].strip().startswith("0.00 ×")
    each = flops.forward_flops("tiny", (32, 48))
    assert f"MFU {1e9 * 3 * each / 1e15:.1%}, 0.0%, 0.0% of 1,000 TFLOP/s" in said


def test_one_network_that_cannot_be_measured_does_not_stop_the_others(
    here, monkeypatch, competition, capsys
):
    monkeypatch.setitem(registry.REGISTRY, "other", registry.REGISTRY["tiny"])

    measured = []

    def measure(task):
        if task.cfg.backbone == "other":
            raise InputError("out of memory")
        measured.append(task.cfg.backbone)

    monkeypatch.setattr(throughput, "_measure", measure)
    with pytest.raises(InputError, match="not measured: other"):
        throughput.main("other,tiny", "32x48", [], str(competition))
    assert measured == ["tiny"]
    assert "other: out of memory" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--networks", "nonesuch"], "no such network"),
        (["--networks", "tiny", "--size", "32"], "HEIGHTxWIDTH"),
        (["--networks", "tiny,vit_base_384", "--size", "100x160"], "--size 100x160: backbone=vit"),
        (["--networks", "tiny", "backbone=other"], "given twice"),
        (["--size", "32x48"], "--networks"),
    ],
)
def test_what_cannot_be_meant_is_refused(tiny, words, match, capsys, competition):
    assert cli.main(["bench", "--data", str(competition), *words]) == 2
    assert match in capsys.readouterr().err
