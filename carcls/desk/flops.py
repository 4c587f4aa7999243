"""FLOPs of a network, and what part of a device's peak its training uses (MFU)."""

from __future__ import annotations

import re
from math import prod
from typing import Any

from carcls.nets import registry

# TFLOP/s of one device, dense, in the 16-bit type that `precision=auto` takes there: the makers'
# data sheets. A device's name has these words; the first that fits counts.
PEAKS = {
    "T4": 65,
    "V100": 125,
    "L4": 121,
    "A100": 312,
    "H100 PCIe": 756,
    "H100": 989,
    "H200": 989,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
}
# A step computes three times what the way forward does: that, the gradients of the activations and
# those of the weights. MFU, model FLOPs utilisation, is defined so (arXiv 2204.02311, appendix B).
STEP = 3


def forward_flops(name: str, size: tuple[int, int]) -> int:
    """FLOPs of one photo's way forward through a network, of size (height, width) in px.

    Counted are convolutions and matrix products, two for each multiplication with its addition.
    """
    import tensorflow as tf

    network = registry.build(name)
    photo = tf.TensorSpec((1, *size, 3), tf.float32)
    traced = tf.function(lambda x: network(x, training=False))
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)  # in one graph, also what Keras has compiled by itself
    try:
        graph = traced.get_concrete_function(photo).graph
    finally:
        tf.config.run_functions_eagerly(before)
    return sum(map(_flops, graph.get_operations()))


def _flops(op: Any) -> int:
    """FLOPs of one operation of a graph."""
    if op.type not in ("Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2", "Einsum"):
        assert "Call" not in op.type, f"{op.name}: a function inside, which is not counted"
        return 0
    shapes = [list(tensor.shape) for tensor in (*op.inputs, *op.outputs)]
    outputs, (a, b) = prod(shapes[-1]), shapes[:2]
    if op.type == "Einsum":
        terms = op.get_attr("equation").decode().split("->")[0].split(",")
        sides = {
            key: n
            for term, shape in zip(terms, (a, b), strict=True)
            for key, n in zip(term, shape, strict=True)
        }
        return 2 * prod(sides.values())
    if op.type == "Conv2D":
        return 2 * outputs * prod(b[:3])
    if op.type == "DepthwiseConv2dNative":
        return 2 * outputs * prod(b[:2])
    turned = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
    return 2 * outputs * a[-2 if turned else -1]


def peak_tflops(device: str, precision: str) -> int:
    """Of one device; 0 where it is not known, as for float32."""
    words = re.sub(r"[\s_-]+", " ", device)
    known = (peak for name, peak in PEAKS.items() if f" {name} " in f" {words} ")
    return next(known, 0) if precision.startswith("mixed") else 0
