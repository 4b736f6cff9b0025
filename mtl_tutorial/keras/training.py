"""A Keras model whose training step asks a weighting how much each task counts."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import mtl_tutorial.weighting
from mtl_tutorial.keras.losses import TaskLoss
from mtl_tutorial.keras.models import HardSharing
from mtl_tutorial.weighting import Equal, Weighting


@keras.saving.register_keras_serializable("mtl_tutorial")
class MultiTaskModel(HardSharing):
    """Trunk and heads with the usual ``compile`` and ``fit``, weighted by any weighting.

    Parameters
    ----------
    trunk : keras.Layer
    heads : mapping from task name to keras.Layer
    weighting : Weighting, optional
        :class:`~mtl_tutorial.weighting.Equal` if not given. Its tasks are the heads, in order. One
        that needs the Gramian, or the losses after the step, is refused: here it is given the
        losses before the step alone.

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
        **kwargs: Any,
    ) -> None:
        super().__init__(trunk, heads, **kwargs)
        self.weighting = weighting or Equal()
        if self.weighting.needs_gramian or self.weighting.needs_observe:
            missing = "the Gramian" if self.weighting.needs_gramian else "the losses after the step"
            raise ValueError(
                f"{type(self.weighting).__name__} needs {missing}, which MultiTaskModel does not "
                "compute; use it with mtl_tutorial.pytorch.fit"
            )

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
        """Weighted sum of the losses in training; their plain sum in validation.

        The losses shown by ``fit`` for each task are unweighted, as in Keras. A task without any
        label in the batch is absent: the weighting is not asked about it.
        """
        if sample_weight is not None:
            raise ValueError(
                "sample weights are not supported; mark rows to skip as missing labels"
            )
        plain = super().compute_loss(x, y, y_pred, training=training)  # and the means fit shows
        if not training or isinstance(self.weighting, Equal):
            return plain
        losses, present = [], []
        for name, loss in self._loss_of.items():
            losses.append(tf.reduce_mean(loss(y[name], y_pred[name])))
            present.append(loss.any_label(y[name]) if isinstance(loss, TaskLoss) else True)
        weights = tf.numpy_function(self._weights, [tf.stack(losses), present], losses[0].dtype)
        weighted = tf.reduce_sum(tf.stop_gradient(weights) * tf.stack(losses))
        return weighted + sum(tf.reduce_sum(penalty) for penalty in self.losses)

    def _weights(self, losses: np.ndarray, present: np.ndarray) -> np.ndarray:
        return self.weighting(losses, None, present, list(self.heads)).astype(losses.dtype)

    def get_config(self) -> dict[str, Any]:
        """Trunk, heads and weighting, what it remembers included, for ``save``."""
        settings = keras.saving.serialize_keras_object(asdict(self.weighting))
        weighting = {"name": type(self.weighting).__name__, "settings": settings}
        state = json.dumps(self.weighting.state_dict())  # text: Keras would make tuples of lists
        return super().get_config() | {"weighting": weighting | {"state": state}}

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
