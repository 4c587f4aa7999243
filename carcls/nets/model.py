"""The network: backbone and head, what of it trains and at which rate, and its state."""

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
