"""The network: backbone and head, what of it trains, and at which rate."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from carcls import backbones, fused
from carcls.config import Config
from carcls.runtime import HEAD, Runtime


def build(cfg: Config, rt: Runtime, classes: int) -> tuple[keras.Model, str]:
    """A model from raw pixels (B, H, W, 3) in 0–255 to logits (B, classes), for photos of any size.

    Also returns a line that says which weights it starts from. Raises inputs.InputError if they are not found.
    """
    backbone = backbones.build(cfg.backbone)
    loaded = backbones.load_weights(backbone, cfg.backbone, cfg)
    images = keras.Input((None, None, 3), name="images")  # (B, H, W, 3) 0–255
    x = backbone(images)  # (B, h, w, C)
    pool = keras.layers.GlobalAveragePooling2D if cfg.pooling == "avg" else keras.layers.GlobalMaxPooling2D
    x = pool(name="pool")(x)  # (B, C)
    if cfg.hidden:
        x = keras.layers.Dense(cfg.hidden, use_bias=False, name="hidden")(x)
        x = keras.layers.BatchNormalization(name="hidden_bn")(x)
        x = keras.layers.Activation("relu", name="hidden_relu")(x)
    x = keras.layers.Dropout(cfg.dropout, name="dropout")(x)
    logits = keras.layers.Dense(classes, dtype="float32", name=HEAD)(x)
    model = keras.Model(images, logits, name=cfg.backbone)
    for layer in batch_norms(model):
        layer.momentum = cfg.bn_momentum
    if rt.fused_bn:
        fused.fuse_batch_norm(model)
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
    """All of them, also inside keras-cv's block layers, which no public list reaches."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]


def _backbone(model: keras.Model) -> keras.Model:
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


class Table(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of every step of the run, from a table: schedule.table made it, steps beyond it keep its end."""

    def __init__(self, rates: np.ndarray):
        self.rates = np.asarray(rates, np.float32)  # (steps,)

    def __call__(self, step: Any) -> Any:
        i = keras.ops.minimum(keras.ops.cast(step, "int32"), len(self.rates) - 1)
        return keras.ops.take(keras.ops.convert_to_tensor(self.rates), i)

    def get_config(self) -> dict[str, Any]:
        return {"rates": self.rates.tolist()}


def optimizer(cfg: Config, model: keras.Model, rates: np.ndarray) -> keras.optimizers.Optimizer:
    """The optimiser by name under the schedule (S42, S43), with a rate by depth if depth_decay is not 1."""
    kinds = keras.optimizers
    base = {"adam": kinds.Adam, "adamw": kinds.AdamW, "sgd": kinds.SGD, "adamax": kinds.Adamax, "lion": kinds.Lion,
            "rmsprop": kinds.RMSprop}[cfg.optimizer]  # fmt: skip
    options: dict[str, Any] = {"momentum": 0.9, "nesterov": True} if cfg.optimizer == "sgd" else {}
    if cfg.weight_decay is not None:
        options["weight_decay"] = cfg.weight_decay
    if cfg.ema:
        options |= {"use_ema": True, "ema_momentum": cfg.ema}
    # ReduceLROnPlateau sets the rate itself, which a schedule does not allow.
    rate = float(rates[0]) if cfg.schedule == "plateau" else Table(rates)
    if cfg.depth_decay == 1:
        return base(rate, **options)
    factors = depth_factors(cfg, model)

    class ByDepth(base):  # type: ignore[misc, valid-type]  # which optimiser it is, is known at run time only
        """The rate of each variable is the schedule's times its factor."""

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            factor = factors[self._get_variable_index(variable)]
            super().update_step(gradient, variable, learning_rate * factor)

    return ByDepth(rate, **options)


def depth_factors(cfg: Config, model: keras.Model) -> list[float]:
    """For each trainable variable: depth_decay to the power of how many quarters of the backbone it lies below the head."""
    layers = [layer for layer in _backbone(model).layers if layer.trainable_variables]
    quarter = {id(w): 4 - 4 * i // len(layers) for i, layer in enumerate(layers) for w in layer.trainable_variables}
    return [cfg.depth_decay ** quarter.get(id(w), 0) for w in model.trainable_variables]


def compile_model(cfg: Config, model: keras.Model, rt: Runtime, rates: np.ndarray) -> None:
    """Loss on logits with label smoothing, accuracy, and never XLA unless rt says so (Keras's "auto" would)."""
    model.compile(
        optimizer=optimizer(cfg, model, rates),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=cfg.label_smoothing),
        weighted_metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=rt.xla,
    )


class EqualReplicas(keras.callbacks.Callback):
    """Gives every replica of a MirroredStrategy the mean of all replicas' BN statistics, before each validation.

    In Keras 3.13 each replica moves its own, from its share of the batches. Validation would then use several networks,
    and a file would hold the first one's. Moving averages are linear: their mean is the moving average of the means, so
    once an epoch is enough. (What BN normalises with in training stays each replica's own share of the batch.)
    """

    def __init__(self, strategy: Any):
        super().__init__()
        self.strategy = strategy

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        for layer in batch_norms(self.model):
            for variable in (layer.moving_mean, layer.moving_variance):
                copies = self.strategy.experimental_local_results(variable.value)
                variable.assign(np.mean([np.asarray(copy) for copy in copies], 0))


class Snapshot:
    """A copy of a network's variables in host memory, to go on from after a step that failed.

    Keras on JAX takes a network's arrays out of its variables while a step runs and gives them to the step; a step that
    fails, out of memory say, leaves the variables empty or with arrays that are no more. Under TensorFlow they stay, but
    a training step may have failed half way. Costs a copy of the weights, with the optimiser's moments three of them.
    """

    def __init__(self, model: keras.Model, optimizer: bool = True):
        """``optimizer``: also its moments and its number of steps; False for what a prediction can touch."""
        variables = [*model.trainable_variables, *model.non_trainable_variables]  # those of the dropout's seeds too
        if optimizer:
            variables += model.optimizer.variables
        # np.array copies: on the CPU JAX and TensorFlow would lend us the very memory that the next step writes to.
        self._values = [(variable, np.array(variable)) for variable in variables]

    def restore(self) -> None:
        """Every variable has its value again. Metrics are not among them: the next epoch begins with fresh ones."""
        for variable, value in self._values:
            variable.assign(value)
