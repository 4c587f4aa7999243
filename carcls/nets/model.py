"""The network: backbone and head, what of it trains, and at which rate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from carcls.config import Config
from carcls.machine import HEAD, Runtime
from carcls.nets import fast, schedule
from carcls.nets import registry as backbones


def build(cfg: Config, rt: Runtime, classes: int) -> tuple[keras.Model, str]:
    """A model from raw pixels (B, H, W, 3) in 0–255 to logits (B, classes), for photos of any size.

    Also returns a line that says which weights it starts from. Raises InputError if they are not found.
    """
    backbone = backbones.build(cfg.backbone)
    loaded = backbones.load_weights(backbone, cfg.backbone, cfg)
    images = keras.Input((None, None, 3), name="images")  # (B, H, W, 3) 0–255
    x = backbone(images)  # (B, h, w, C)
    pool = (
        keras.layers.GlobalAveragePooling2D
        if cfg.pooling == "avg"
        else keras.layers.GlobalMaxPooling2D
    )
    x = pool(name="pool")(x)  # (B, C)
    if cfg.hidden:
        x = keras.layers.Dense(cfg.hidden, use_bias=False, name="hidden")(x)
        x = keras.layers.BatchNormalization(name="hidden_bn")(x)
        x = keras.layers.Activation("relu", name="hidden_relu")(x)
    x = keras.layers.Dropout(cfg.dropout, name="dropout")(x)
    logits = keras.layers.Dense(classes, dtype="float32", name=HEAD)(x)
    model = keras.Model(images, logits, name=cfg.backbone)
    for layer in batch_norms(model):
        # An average of weights wants statistics over as many steps: those of the last few fit the
        # last weights alone.
        layer.momentum = max(cfg.bn_momentum, cfg.ema)
    if rt.fast_layers:
        fast.fuse_batch_norm(model)
        if rt.kind == "cpu":
            fast.speed_up_depthwise(model)
    model.jit_compile = (
        rt.xla
    )  # to predict without being compiled; on a GPU Keras's own choice would be yes
    return model, loaded


def open_layers(cfg: Config, model: keras.Model, stage: int) -> None:
    """Set what trains in that stage: unfreeze = all, head, or staged from the head down (S31).

    Staged: the head alone first, then by equal shares of the backbone's layers until all are open in the last stage.
    """
    backbone = _backbone(model)
    layers = backbone.layers
    share = {"all": 1.0, "head": 0.0, "staged": stage / max(1, len(cfg.stages) - 1)}[cfg.unfreeze]
    backbone.trainable = True
    first = round(len(layers) * (1 - share))
    for i, layer in enumerate(layers):
        layer.trainable = i >= first
    if cfg.freeze_bn:
        # On each layer: Keras 3.13 ignores `training=False` on a trainable backbone under fit, and
        # the statistics move all the same (S32, S33).
        for layer in batch_norms(backbone):
            layer.trainable = False


def batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """All that compute something, also inside keras-cv's block layers, which no public list reaches.

    A fused block of EfficientNetV2 has one that is never called, two where it does not expand; they have no variables.
    """
    kind = keras.layers.BatchNormalization
    return [layer for layer in model._flatten_layers() if isinstance(layer, kind) and layer.built]


def rebase_batch_norms(model: keras.Model, batches: Iterable[Any]) -> int:
    """Give the backbone's BN layers the statistics of these photos, with the scale and shift that make up for it.

    batches: images (B, H, W, 3) in 0-255. Returns how many layers it changed; one without scale or shift stays as it is.
    What the network predicts is the same as before. What it computes in training, where BN uses the statistics of a batch,
    becomes the same too, but for chance: as it came, photos of cars alone blow up the channels that are there for everything
    else, and much of what the features know is lost before the first step. Raises ValueError if there are no batches.
    """
    backbone = _backbone(model)
    layers = [layer for layer in batch_norms(backbone) if layer.scale and layer.center]
    if not layers:
        return 0
    seen: list[list[tuple[Any, Any, int]]] = [
        [] for _ in layers
    ]  # of each batch: mean (C,), variance (C,), photos

    def watched(layer: Any, into: list[tuple[Any, Any, int]]) -> Any:
        def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
            x = keras.ops.cast(inputs, "float32")
            axes = [axis for axis in range(len(x.shape)) if axis != layer.axis % len(x.shape)]
            mean, variance = (
                keras.ops.convert_to_numpy(m).astype(float) for m in keras.ops.moments(x, axes)
            )
            into.append((mean, variance, x.shape[0]))
            return type(layer).call(layer, inputs, training=False, mask=mask)

        return call

    try:
        for layer, into in zip(layers, seen, strict=True):
            object.__setattr__(
                layer, "call", watched(layer, into)
            )  # not Keras's own, which tracks what it is given
        for images in batches:
            backbone(images, training=False)
    finally:
        for layer in layers:
            layer.__dict__.pop("call", None)
    if not all(seen):
        raise ValueError(
            "no batches to take the statistics of, or a BN that the backbone does not call"
        )
    for layer, parts in zip(layers, seen, strict=True):
        means, variances, counts = (np.array(column) for column in zip(*parts, strict=True))
        mean = np.average(means, 0, counts)
        variance = np.average(variances + (means - mean) ** 2, 0, counts)
        gamma, beta, old_mean, old_variance = (
            keras.ops.convert_to_numpy(w).astype(float)
            for w in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
        )
        old, new = (np.sqrt(v + layer.epsilon) for v in (old_variance, variance))
        for variable, value in (
            (layer.gamma, gamma * new / old),
            (layer.beta, beta + gamma * (mean - old_mean) / old),
            (layer.moving_mean, mean),
            (layer.moving_variance, variance),
        ):
            variable.assign(value.astype(np.float32))
    return len(layers)


def _backbone(model: keras.Model) -> keras.Model:
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


class Rate(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of every step: the curve of the schedule at the progress that ``follow`` maps steps to.

    The map is a variable of the optimiser, so that a plan may change without a step being compiled anew.
    """

    def __init__(self, cfg: Config):
        self.peak, self.curve = cfg.lr, schedule.curve(cfg)  # (GRID + 1,)
        self.course: Any = None  # float32 (3,): a step, the progress there, progress per step

    def follow(self, course: schedule.Course) -> None:
        self.course.assign([course.step, course.progress, course.per_step])

    def __call__(self, step: Any) -> Any:
        ops = keras.ops
        progress = (
            self.course[1] + (ops.cast(step, "float32") - self.course[0] + 0.5) * self.course[2]
        )
        at = ops.clip(progress, 0.0, 1.0) * schedule.GRID
        low = ops.minimum(ops.floor(at), schedule.GRID - 1)
        i, rest = ops.cast(low, "int32"), at - low
        curve = ops.convert_to_tensor(self.curve)
        return self.peak * (ops.take(curve, i) * (1 - rest) + ops.take(curve, i + 1) * rest)

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak}


def optimizer(cfg: Config, model: keras.Model) -> tuple[keras.optimizers.Optimizer, Rate | None]:
    """The optimiser by name under the schedule (S42, S43), with a rate by depth if depth_decay is not 1.

    With plateau there is no Rate: ReduceLROnPlateau sets the rate itself, which a schedule does not allow.
    """
    kinds = keras.optimizers
    base = {
        "adam": kinds.Adam,
        "adamw": kinds.AdamW,
        "sgd": kinds.SGD,
        "adamax": kinds.Adamax,
        "lion": kinds.Lion,
        "rmsprop": kinds.RMSprop,
    }[cfg.optimizer]
    options: dict[str, Any] = {"momentum": 0.9, "nesterov": True} if cfg.optimizer == "sgd" else {}
    if cfg.weight_decay is not None:
        options["weight_decay"] = cfg.weight_decay
    if cfg.ema:
        options |= {"use_ema": True, "ema_momentum": cfg.ema}
    if cfg.depth_decay != 1:
        base = _by_depth(base, depth_factors(cfg, model))
    if cfg.schedule == "plateau":
        return base(cfg.lr, **options), None
    rate = Rate(cfg)
    made = base(rate, **options)
    rate.course = made.add_variable((3,), name="course")
    return made, rate


def _by_depth(base: Any, factors: list[float]) -> Any:
    class ByDepth(base):
        """The rate of each variable is the schedule's times its factor."""

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            factor = factors[self._get_variable_index(variable)]
            super().update_step(gradient, variable, learning_rate * factor)

    return ByDepth


def depth_factors(cfg: Config, model: keras.Model) -> list[float]:
    """For each trainable variable: depth_decay to the power of how many quarters of the backbone it lies below the head."""
    layers = [layer for layer in _backbone(model).layers if layer.trainable_variables]
    quarter = {
        id(w): 4 - 4 * i // len(layers)
        for i, layer in enumerate(layers)
        for w in layer.trainable_variables
    }
    return [cfg.depth_decay ** quarter.get(id(w), 0) for w in model.trainable_variables]


def compile_model(cfg: Config, model: keras.Model, rt: Runtime) -> Rate | None:
    """Loss on logits with label smoothing, accuracy, and never XLA unless rt says so (Keras's "auto" would).

    The optimiser has all its variables afterwards. Returns what its learning rate follows, None with plateau.
    """
    made, rate = optimizer(cfg, model)
    model.compile(
        optimizer=made,
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=cfg.label_smoothing
        ),
        weighted_metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=rt.xla,
    )
    model.optimizer.build(model.trainable_variables)
    return rate


def state(model: keras.Model, optimizer: bool = True) -> list[np.ndarray]:
    """Every number that training goes on from: weights, statistics, the generators of dropout, the optimiser's variables.

    Without ``optimizer``, what a prediction can touch. Keras's own weights files lose the generators: they write them and do
    not read them (3.13.2). The loss scale, which mixed_float16 alone has, comes last: a state is good for any precision.
    """
    # np.array copies: on the CPU JAX and TensorFlow would lend us the very memory that the next
    # step writes to.
    return [np.array(variable) for variable in _variables(model, optimizer)]


def restore(model: keras.Model, arrays: list[np.ndarray]) -> None:
    """Put a state back. Raises ValueError if it is of another network.

    Also after a step that failed, out of memory say: Keras on JAX takes a network's arrays out of its variables while a
    step runs, and leaves them empty then; TensorFlow may leave a step half done.
    """
    optimizer = len(arrays) != len(model.variables)
    variables = _variables(model, optimizer)
    scaled = len(_scale(model)) if optimizer else 0
    if len(arrays) != len(variables):  # of another precision, or of another network
        variables = variables[: len(variables) - scaled]
        arrays = arrays[: len(variables)]
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _variables(model: keras.Model, optimizer: bool) -> list[Any]:
    if not optimizer:
        return list(model.variables)
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return [*model.variables, *inner.variables, *_scale(model)]


def _scale(model: keras.Model) -> list[Any]:
    """The variables that an optimiser has for scaling the loss, around those of its inner one."""
    inner = getattr(model.optimizer, "inner_optimizer", None)
    if inner is None:
        return []
    within = {id(variable) for variable in inner.variables}
    return [variable for variable in model.optimizer.variables if id(variable) not in within]


class EqualReplicas(keras.callbacks.Callback):
    """Gives every replica of a MirroredStrategy the mean of all replicas' BN statistics, before each epoch is validated and kept.

    In Keras 3.13 each replica moves its own, from its share of the batches. Validation would then use several networks,
    and a file would hold the first one's. Moving averages are linear: their mean is the moving average of the means, so
    once an epoch is enough. (What BN normalises with in training stays each replica's own share of the batch.)
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
