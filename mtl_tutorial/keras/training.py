"""A Keras model whose training step asks a weighting how much each task counts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

import mtl_tutorial.weighting
from mtl_tutorial.keras.losses import TaskLoss
from mtl_tutorial.keras.models import HardSharing
from mtl_tutorial.weighting import Equal, Weighting


@keras.saving.register_keras_serializable("mtl_tutorial")
class MultiTaskModel(HardSharing):
    r"""Trunk and heads with the usual ``compile`` and ``fit``, weighted by any weighting.

    A loss-based weighting means one backward pass of :math:`\sum_k w_k L_k`, heads included.

    A Gramian-based weighting acts on the trunk only; each head gets the gradient of its own loss,
    unweighted (a method that declares ``weights_heads``, such as GradNorm, reads the Gramian, but
    weights the losses). A tape cuts the step at the features :math:`z`, so each head is traversed
    once, which gives the head's gradient and :math:`\partial L_k / \partial z` together. Then

    - ``gramian="parameters"``, exact: one vector-Jacobian product through the trunk for each task,
      :math:`g_k = (\partial L_k / \partial z)\,(\partial z / \partial \theta)`, the Gramian of the
      rows :math:`g_k`, the weights, and the gradient :math:`\sum_k w_k g_k`;
    - ``gramian="features"``, an approximation: the Gramian of the rows
      :math:`\partial L_k / \partial z`, the weights, and one pass of
      :math:`\sum_k w_k\,\partial L_k / \partial z` through the trunk.

    Penalties (``add_loss``, regularisers of weights and activities) go through unweighted. A method
    that observes, such as FAMO, is shown the losses of the same batch after the step, dropout and
    batch norm at rest. These are the steps of :func:`mtl_tutorial.pytorch.mtl_backward`, but for
    one: the head of an absent task gets a gradient of 0 where PyTorch gives none, so an optimizer
    with momentum still moves it.

    Parameters
    ----------
    trunk : keras.Layer
        From inputs to features, one tensor.
    heads : mapping from task name to keras.Layer
    weighting : Weighting, optional
        :class:`~mtl_tutorial.weighting.Equal` if not given. Its tasks are the heads, in order.
    gramian : {"parameters", "features"}
        Which Gramian a Gramian-based weighting is given; a loss-based one is given none.

    Raises
    ------
    ValueError
        ``gramian`` is neither of the two. In training: a Gramian-based weighting meets a trunk
        without trainable variables, or a loss that does not depend on the features.
    tensorflow.errors.InvalidArgumentError
        In training, where the weighting reads it, a loss or the Gramian is NaN or infinite.
        TensorFlow wraps the weighting's ``ValueError``, which names the task. Neither parameters
        nor the optimizer's variables have changed. With a ``LossScaleOptimizer`` (mixed precision)
        the weighting sees unscaled losses and Gramian, and an overflow skips the step instead.

    Examples
    --------
    >>> from mtl_tutorial.datasets import digits
    >>> from mtl_tutorial.keras import linear_heads, mlp, task_losses, task_metrics
    >>> from mtl_tutorial.tasks import Binary, Classification
    >>> from mtl_tutorial.weighting import Static
    >>> data, tasks = digits(), [Classification("digit", classes=10), Binary("gt5")]
    >>> keras.utils.set_random_seed(0)
    >>> model = MultiTaskModel(mlp(784, 32), linear_heads(tasks), weighting=Static([0.6, 0.4]))
    >>> model.compile("adam", loss=task_losses(tasks), metrics=task_metrics(tasks))
    >>> history = model.fit(data.train.inputs, data.train.targets, epochs=3, verbose=0).history
    >>> history["digit_accuracy"][-1] > 0.7
    True
    """

    def __init__(
        self,
        trunk: keras.Layer,
        heads: Mapping[str, keras.Layer],
        weighting: Weighting | None = None,
        gramian: Literal["parameters", "features"] = "parameters",
        **kwargs: Any,
    ) -> None:
        super().__init__(trunk, heads, **kwargs)
        if gramian not in ("parameters", "features"):
            raise ValueError(f"gramian is 'parameters' or 'features'; got {gramian!r}")
        self.weighting = weighting or Equal()
        self.gramian = gramian

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, loss_weights: Any = None, **kwargs: Any
    ) -> None:
        """Set optimizer, losses and metrics, as ``keras.Model.compile`` does.

        Parameters
        ----------
        optimizer : str or keras.optimizers.Optimizer
        loss : mapping from task name to a Keras loss
            One for each head; :func:`~mtl_tutorial.keras.task_losses` builds those that skip
            missing labels.
        loss_weights
            Refused: the weighting gives the weights.
        **kwargs
            As for ``keras.Model.compile``, except ``jit_compile``: the weights come from NumPy,
            which XLA cannot compile.

        Raises
        ------
        ValueError
            ``loss`` does not name exactly the heads, or ``loss_weights`` or ``jit_compile`` is set.
        """
        if loss_weights is not None:
            raise ValueError(
                "loss_weights would be applied besides the weighting; "
                "use MultiTaskModel(..., weighting=Static([...])) instead"
            )
        if not isinstance(loss, Mapping) or set(loss) != set(self.heads):
            raise ValueError(f"loss must be a dict with one loss for each of {list(self.heads)}")
        if kwargs.pop("jit_compile", False):
            raise ValueError("jit_compile=True is not possible: the weights come from NumPy")
        super().compile(optimizer=optimizer, loss=dict(loss), jit_compile=False, **kwargs)
        self._loss_of = {name: keras.losses.get(loss[name]) for name in self.heads}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as the saved model was; Keras asks for this where ``compile`` is overridden."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def fit(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> keras.callbacks.History:
        """Train as ``keras.Model.fit`` does, and tell the weighting where an epoch ends."""
        end = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: self.weighting.end_epoch()
        )
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks.append(end)
        else:
            callbacks = [*([] if callbacks is None else callbacks), end]
        return super().fit(*args, callbacks=callbacks, **kwargs)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Plain sum of the losses and penalties.

        The losses shown by ``fit`` for each task are unweighted, as in Keras; its ``loss`` is the
        weighted sum in training, unless the weights act on the trunk alone, and the plain sum in
        validation.
        """
        if sample_weight is not None:
            raise ValueError(
                "sample weights are not supported; mark rows to skip as missing labels"
            )
        return super().compute_loss(x, y, y_pred, training=training)  # and the means fit shows

    def train_step(self, data: Any) -> dict[str, Any]:
        """Take one step on a batch, with the weights that the weighting gives; for ``fit``.

        A task without any label in the batch is absent: the weighting is not asked about it.
        """
        if isinstance(self.weighting, Equal):
            return dict(super().train_step(data))  # nothing to ask
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape(persistent=True) as tape:
            features = self.trunk(x, training=True)
            with tf.GradientTape(persistent=True) as head_tape:
                head_tape.watch(features)
                outputs = {n: head(features, training=True) for n, head in self.heads.items()}
                losses, present = self._task_losses(y, outputs)
            penalties = [tf.cast(tf.reduce_sum(p), losses[0].dtype) for p in self.losses]
        shown = self.compute_loss(x, y, outputs, sample_weight)

        scale = self.optimizer.scale_loss(tf.ones((), losses[0].dtype))  # 1, but in mixed precision
        if self.weighting.needs_gramian:
            weights, gradients = self._cut(
                tape, head_tape, features, losses=losses, present=present, scale=scale
            )
        else:
            weights = self._task_weights(losses, present)
            each = tf.unstack(scale * weights)
            gradients = tape.gradient(losses, self.trainable_variables, each)
            shown = tf.tensordot(weights, tf.stack(losses), 1) + sum(penalties)
        if penalties:
            each = [scale] * len(penalties)
            theirs = tape.gradient(penalties, self.trainable_variables, each)
            gradients = list(map(_sum, zip(gradients, theirs, strict=True)))
        with tf.control_dependencies([weights]):  # where no weights can be given, nothing changes
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        if self.weighting.needs_observe:
            after, _ = self._task_losses(y, self(x, training=False))
            tf.numpy_function(self.weighting.observe, [tf.stack(after)], [])
        rows = tf.shape(tf.nest.flatten(x)[0])[0]
        self._loss_tracker.update_state(shown, sample_weight=rows)
        return dict(self.compute_metrics(x, y, outputs))

    def _task_losses(self, y: Any, outputs: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
        """Give the loss of each task, and whether it has a label in the batch."""
        losses, present = [], []
        for name, loss in self._loss_of.items():
            value = tf.reduce_mean(loss(y[name], outputs[name]))
            losses.append(tf.cast(value, keras.config.floatx()))
            present.append(loss.any_label(y[name]) if isinstance(loss, TaskLoss) else True)
        return losses, present

    def _task_weights(self, losses: Sequence[Any], present: Sequence[Any], *gramian: Any) -> Any:
        """Ask the weighting, in NumPy; shape (T,)."""
        values = (
            tf.stack(losses)
            if self.weighting.needs_losses
            else tf.zeros(len(losses), losses[0].dtype)
        )
        inputs = [values, tf.stack(present), *gramian]
        weights = tf.numpy_function(self._ask, inputs, values.dtype)
        weights.set_shape([len(losses)])
        return tf.cast(weights, losses[0].dtype)

    def _ask(
        self, losses: np.ndarray, present: np.ndarray, gramian: np.ndarray | None = None
    ) -> np.ndarray:
        """Give the weights; NaN, which skips the step, where scaled gradients have overflowed."""
        if gramian is not None and isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            overflow = not np.isfinite(gramian[np.ix_(present, present)]).all()
            if overflow and np.isfinite(losses[present]).all():
                return np.full_like(losses, np.nan)
        return self.weighting(losses, gramian, present, list(self.heads)).astype(losses.dtype)

    def _cut(
        self,
        tape: tf.GradientTape,
        head_tape: tf.GradientTape,
        features: Any,
        *,
        losses: Sequence[Any],
        present: Sequence[Any],
        scale: Any,
    ) -> tuple[Any, list[Any]]:
        """Backward from each loss to the features, then through the trunk; see the class."""
        variables, shared = self.trainable_variables, self.trunk.trainable_variables
        if not shared:
            raise ValueError(
                "the trunk is frozen: no task gradients meet there, none can be weighted"
            )
        found = [head_tape.gradient(loss, [features, *variables], scale) for loss in losses]
        for name, (cotangent, *_) in zip(self.heads, found, strict=True):
            if cotangent is None:
                raise ValueError(f"the loss of {name!r} does not depend on the features")
        cotangents, *head_gradients = zip(*found, strict=True)
        if self.gramian == "features":
            rows = [tf.cast(tf.stack(cotangents), scale.dtype)]
        else:
            each = [_vector_jacobian(tape, features, shared, c) for c in cotangents]
            rows = [tf.stack(blocks) for blocks in zip(*each, strict=True)]
        weights = self._task_weights(losses, present, _gramian(rows) / scale**2)

        combined = [tf.tensordot(tf.cast(weights, block.dtype), block, 1) for block in rows]
        if self.gramian == "features":
            cotangent = tf.cast(combined[0], features.dtype)
            combined = _vector_jacobian(tape, features, shared, cotangent)
        gradients = list(map(_sum, head_gradients))
        if self.weighting.weights_heads:
            gradients = head_tape.gradient(losses, variables, tf.unstack(scale * weights))
        of_trunk = {id(variable): g for variable, g in zip(shared, combined, strict=True)}
        return weights, [
            _sum([g, of_trunk.get(id(variable))])
            for g, variable in zip(gradients, variables, strict=True)
        ]

    def get_config(self) -> dict[str, Any]:
        """Trunk, heads and weighting, what it remembers included, for ``save``."""
        settings = keras.saving.serialize_keras_object(asdict(self.weighting))
        weighting = {"name": type(self.weighting).__name__, "settings": settings}
        state = json.dumps(self.weighting.state_dict())  # text: Keras would make tuples of lists
        config = {"weighting": weighting | {"state": state}, "gramian": self.gramian}
        return super().get_config() | config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MultiTaskModel":
        """Build the model from :meth:`get_config`, for ``load_model``.

        A weighting of your own is found in ``keras.saving.custom_object_scope``.
        """
        saved = config["weighting"]
        found = keras.saving.get_registered_object(saved["name"])
        found = found or getattr(mtl_tutorial.weighting, saved["name"], None)
        if found is None:
            raise ValueError(
                f"no weighting named {saved['name']!r} is known; load the model inside "
                f"keras.saving.custom_object_scope({{{saved['name']!r}: {saved['name']}}})"
            )
        weighting = found(**keras.saving.deserialize_keras_object(saved["settings"]))
        weighting.load_state_dict(json.loads(saved["state"]))
        return super().from_config(config | {"weighting": weighting})


def _vector_jacobian(
    tape: tf.GradientTape, output: Any, inputs: Sequence[Any], cotangent: Any
) -> list[Any]:
    """Pull a cotangent back to the inputs; zeros for an input that plays no part."""
    found = zip(inputs, tape.gradient(output, inputs, cotangent), strict=True)
    return [tf.zeros(x.shape, x.dtype) if g is None else g for x, g in found]


def _gramian(rows: Sequence[Any]) -> Any:
    """Inner products of all pairs of rows, block by block; shape (T, T)."""
    flat = [tf.reshape(block, [block.shape[0], -1]) for block in rows]
    return tf.add_n([tf.matmul(block, block, transpose_b=True) for block in flat])


def _sum(gradients: Sequence[Any]) -> Any:
    """Add gradients of one variable; None where there is none."""
    there = [gradient for gradient in gradients if gradient is not None]
    return tf.add_n(there) if len(there) > 1 else next(iter(there), None)
