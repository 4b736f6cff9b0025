"""A Keras model whose training step asks a weighting how much each task counts."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

import mtl_tutorial.weighting
from mtl_tutorial.keras.losses import LabelledMean, TaskLoss, TaskMetric
from mtl_tutorial.keras.models import HardSharing
from mtl_tutorial.weighting import Equal, Weighting
from mtl_tutorial.weighting.recorded import bare


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
    with momentum still moves it. With weights of 1 a step is that of a plain ``keras.Model`` with
    the same loss for each output.

    What the weighting remembers is saved with the weights: by ``save``, ``save_weights``,
    ``ModelCheckpoint`` and ``BackupAndRestore``.

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
        ``gramian`` is neither of the two. In training: the targets do not fit the heads; or a
        Gramian-based weighting meets a trunk without trainable variables, a loss that does not
        depend on the features, or, with ``gramian="features"``, a head that uses parameters of the
        trunk past them.
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
        self.weighting = Equal() if weighting is None else weighting
        if not isinstance(self.weighting, Weighting):
            raise TypeError(f"weighting is an object such as UPGrad(); got {weighting!r}")
        self.gramian = gramian
        several = heads if len(heads) > 1 else ()  # Keras shows the only loss once
        self._means = [LabelledMean(name=f"{name}_loss") for name in several]

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, loss_weights: Any = None, **kwargs: Any
    ) -> None:
        """Set optimizer, losses and metrics, as ``keras.Model.compile`` does.

        Parameters
        ----------
        optimizer : str or keras.optimizers.Optimizer
        loss : mapping from task name to a Keras loss
            One for each head, whatever Keras takes for a model with one output: a name, a function
            or a ``keras.losses.Loss``; :func:`~mtl_tutorial.keras.task_losses` builds those that
            skip missing labels. With ``reduction=None`` a loss is trained on, and shown, as its sum.
        loss_weights
            Refused: the weighting gives the weights.
        **kwargs
            As for ``keras.Model.compile``. ``metrics`` and ``weighted_metrics`` are mappings from
            task name; where the loss skips missing labels, they do. Of ``jit_compile``, only what
            leaves it off: the weights come from NumPy, which XLA cannot compile.

        Raises
        ------
        ValueError
            ``loss`` does not name exactly the heads, or metrics name others; ``loss_weights`` or
            ``jit_compile`` is set; the model is to run on several devices; or a method that
            observes, such as FAMO, meets an optimizer that accumulates gradients.
        """
        if loss_weights is not None:
            raise ValueError(
                "loss_weights would be applied besides the weighting; "
                "use MultiTaskModel(..., weighting=Static([...])) instead"
            )
        loss = _per_head("loss", loss, self.heads)
        stock = set()  # tasks with metrics that do not skip missing labels by themselves
        for kind in ("metrics", "weighted_metrics"):
            given = kwargs.get(kind) or {}
            if not isinstance(given, Mapping) and len(self.heads) == 1:
                given = dict.fromkeys(self.heads, given)
            if not isinstance(given, Mapping) or not set(given) <= set(self.heads):
                raise ValueError(
                    f"{kind} must be a dict by task name; the heads are {[*self.heads]}"
                )
            for name, metrics in given.items():
                if not all(isinstance(each, TaskMetric) for each in keras.tree.flatten(metrics)):
                    stock.add(name)
        if kwargs.pop("jit_compile", "auto") not in ("auto", False, None):
            raise ValueError("jit_compile=True is not possible: the weights come from NumPy")
        if self.distribute_strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "a step on several devices is not supported: each would weight its own part of the "
                "batch. Build and compile the model outside the strategy's scope"
            )
        optimizer = keras.optimizers.get(optimizer)
        inner = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
        if self.weighting.needs_observe and getattr(inner, "gradient_accumulation_steps", None):
            raise ValueError(
                f"{type(self.weighting).__name__} observes what a step does to the losses, but with "
                "gradient_accumulation_steps most steps do nothing; use larger batches instead"
            )
        super().compile(optimizer=optimizer, loss=loss, jit_compile=False, **kwargs)
        self._loss_of = {name: _as_in_keras(loss[name]) for name in self.heads}
        self._tasks = {name: each for name, each in loss.items() if isinstance(each, TaskLoss)}
        self._masked = {name: each for name, each in self._tasks.items() if name in stock}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as the saved model was; Keras asks for this where ``compile`` is overridden."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def fit(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> keras.callbacks.History:
        """Train as ``keras.Model.fit`` does, and tell the weighting where an epoch ends.

        It hears of the end before the callbacks do, so what they save is what the next epoch needs.
        """
        end = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: self.weighting.end_epoch()
        )
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = keras.callbacks.CallbackList([end, callbacks], model=self)
        elif callbacks is not None:
            callbacks = [end, *keras.tree.flatten(callbacks)]
        return super().fit(*args, callbacks=callbacks or [end], **kwargs)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Plain sum of the losses and penalties.

        The losses shown by ``fit`` for each task are unweighted, as in Keras: means over the rows of
        the batches that have a label of the task, NaN if none has. Its ``loss`` is the weighted sum
        in training, unless the weights act on the trunk alone, and the plain sum in validation.
        """
        losses = self._task_losses(y, y_pred, sample_weight)
        self._show(losses, self._present(y), y_pred)
        return tf.add_n([*losses, *self._penalties()])

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Update and give all metrics, those of ``compile`` from the rows that have a label."""
        y, y_pred = _per_head("target", y, self.heads), dict(y_pred)
        for name, loss in self._masked.items():
            y[name], y_pred[name] = loss.labelled(y[name], y_pred[name])
        if sample_weight is not None:
            sample_weight = _row_weights(sample_weight, self.heads)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Take one step on a batch, with the weights that the weighting gives; for ``fit``.

        A task without any label in the batch is absent: the weighting is not asked about it.
        """
        if isinstance(self.weighting, Equal):
            return dict(super().train_step(data))  # nothing to ask
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if not self.built:  # the layers are called one by one below, the model is not
            self(keras.tree.map_structure(lambda v: keras.KerasTensor(v.shape, v.dtype), x))
        with tf.GradientTape(persistent=True) as tape:
            features = self.trunk(x, training=True)
            with tf.GradientTape(persistent=True) as head_tape:
                head_tape.watch(features)
                outputs = {n: head(features, training=True) for n, head in self.heads.items()}
                losses = self._task_losses(y, outputs, sample_weight)
            penalties = self._penalties()
        present = self._present(y)

        scale = self.optimizer.scale_loss(tf.ones((), losses[0].dtype))  # 1, but in mixed precision
        if self.weighting.needs_gramian:
            weights, gradients = self._cut(
                tape, head_tape, features, losses=losses, present=present, scale=scale
            )
            total = tf.add_n([*losses, *penalties])
        else:
            weights = self._task_weights(losses, present)
            each = tf.unstack(scale * weights)
            gradients = tape.gradient(losses, self.trainable_variables, each)
            total = tf.add_n([tf.tensordot(weights, tf.stack(losses), 1), *penalties])
        if penalties:
            each = [scale] * len(penalties)
            theirs = tape.gradient(penalties, self.trainable_variables, each)
            gradients = list(map(_sum, zip(gradients, theirs, strict=True)))
        with tf.control_dependencies([weights]):  # where no weights can be given, nothing changes
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))

        if self.weighting.needs_observe:
            after = self._task_losses(y, self(x, training=False), sample_weight)
            tf.numpy_function(self.weighting.observe, [tf.stack(after)], [])
        self._show(losses, present, outputs)
        rows = tf.shape(keras.tree.flatten(x)[0])[0]
        self._loss_tracker.update_state(total, sample_weight=rows)
        return dict(self.compute_metrics(x, y, outputs, sample_weight))

    def _task_losses(self, y: Any, outputs: Mapping[str, Any], sample_weight: Any) -> list[Any]:
        """Give the loss of each task, a scalar."""
        y, weights = _per_head("target", y, self.heads), _row_weights(sample_weight, self.heads)
        losses = {
            name: loss(None, y[name], outputs[name], weights[name])
            for name, loss in self._loss_of.items()
        }
        shapes = {name: loss.shape for name, loss in losses.items()}
        if len({shape.rank for shape in shapes.values()}) > 1:
            raise ValueError(
                "where a loss has reduction=None, all must have, or Keras would count the others once "
                f"a row; the losses have shapes {shapes}. Give each a reduction, such as 'sum'"
            )
        return [tf.reduce_sum(loss) for loss in losses.values()]

    def _present(self, y: Any) -> list[Any]:
        """Give whether each task has a label in the batch."""
        y = _per_head("target", y, self.heads)
        tasks = self._tasks
        return [tasks[name].any_label(y[name]) if name in tasks else True for name in self.heads]

    def _penalties(self) -> list[Any]:
        """Give what layers add to the loss, each a scalar."""
        return [tf.cast(tf.reduce_sum(loss), keras.config.floatx()) for loss in self.losses]

    def _show(
        self, losses: Sequence[Any], present: Sequence[Any], outputs: Mapping[str, Any]
    ) -> None:
        """Count a batch in the losses that ``fit`` shows."""
        for mean, name, loss, here in zip(self._means, self.heads, losses, present, strict=False):
            rows = tf.shape(outputs[name])[0]
            mean.update_state(loss, sample_weight=tf.where(here, rows, 0))

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
        cotangents, *by_variable = zip(*found, strict=True)
        of_heads = {id(v): g for v, g in zip(variables, by_variable, strict=True)}
        past = [of_heads.pop(id(v)) for v in shared]  # how heads use the trunk's own parameters
        if self.gramian == "features":
            for variable, by_task in zip(shared, past, strict=True):
                if any(g is not None for g in by_task):
                    raise ValueError(
                        f"a head uses {variable.path!r}, a parameter of the trunk, past the features: "
                        "their Gramian says nothing of it; use gramian='parameters'"
                    )
            rows = [tf.cast(tf.stack(cotangents), scale.dtype)]
        else:
            each = [_vector_jacobian(tape, features, shared, c) for c in cotangents]
            rows = [
                tf.stack([_sum(both) for both in zip(through, direct, strict=True)])
                for through, direct in zip(zip(*each, strict=True), past, strict=True)
            ]
        weights = self._task_weights(losses, present, _gramian(rows) / scale**2)

        combined = [tf.tensordot(tf.cast(weights, block.dtype), block, 1) for block in rows]
        if self.gramian == "features":
            cotangent = tf.cast(combined[0], features.dtype)
            combined = _vector_jacobian(tape, features, shared, cotangent)
        of_trunk = {id(v): g for v, g in zip(shared, combined, strict=True)}
        if self.weighting.weights_heads:
            weighted = head_tape.gradient(losses, variables, tf.unstack(scale * weights))
            of_heads = {id(v): (g,) for v, g in zip(variables, weighted, strict=True)}
        return weights, [
            of_trunk[id(v)] if id(v) in of_trunk else _sum(of_heads[id(v)]) for v in variables
        ]

    def save_own_variables(self, store: Any) -> None:
        """Add what the weighting remembers to the weights, in every way of saving them."""
        super().save_own_variables(store)
        state = self.weighting.state_dict()
        if state:
            method = type(bare(self.weighting)).__name__
            note = {"method": method, "tasks": [*self.heads], "state": state}
            store["weighting"] = np.frombuffer(json.dumps(note).encode(), np.uint8)

    def load_own_variables(self, store: Any) -> None:
        """Let the weighting go on from what it remembered when the weights were saved.

        Raises
        ------
        ValueError
            What it remembers is not in the file (a method without memory saves nothing, nor did
            earlier versions), or another method's is, or that of other tasks. Keras raises it after
            the layers have been loaded; with ``skip_mismatch=True`` it warns instead.
        """
        saved = dict(store)
        text = saved.pop("weighting", None)
        super().load_own_variables(saved)
        if text is None and not self.weighting.state_dict():
            return
        note = {} if text is None else json.loads(bytes(np.asarray(text)))
        method, tasks = type(bare(self.weighting)).__name__, [*self.heads]
        if (note.get("method"), note.get("tasks")) != (method, tasks):
            held = "{method} for the tasks {tasks}".format(**note) if note else "no weighting"
            raise ValueError(
                f"the file holds the state of {held}, but the model's weighting is {method} for the "
                f"tasks {tasks}. To load the layers alone and start the weighting anew, call "
                "load_weights(path, skip_mismatch=True)"
            )
        self.weighting.load_state_dict(note["state"])

    def get_config(self) -> dict[str, Any]:
        """Trunk, heads and the settings of the weighting, for ``save``; what is recorded is left out."""
        method = bare(self.weighting)
        settings = keras.saving.serialize_keras_object(asdict(method))
        weighting = {"name": type(method).__name__, "settings": settings}
        return super().get_config() | {"weighting": weighting, "gramian": self.gramian}

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
        return super().from_config(config | {"weighting": weighting})


def _as_in_keras(loss: Any) -> Callable[..., Any]:
    """Give what Keras makes of a loss: its name or function, data types, masks, sample weights.

    It says so only through a model; this one has nothing but the loss.
    """
    model = keras.Model()
    model.compile(optimizer=None, loss=loss, jit_compile=False)
    return model.compute_loss  # type: ignore[no-any-return]


def _per_head(what: str, given: Any, heads: Mapping[str, Any]) -> dict[str, Any]:
    """One value a head, given by name, in the heads' order, or as it is where there is one head."""
    names = list(heads)
    if isinstance(given, list | tuple) and len(given) == len(names):
        given = dict(zip(names, given, strict=True))
    elif len(names) == 1 and given is not None and not isinstance(given, Mapping | list | tuple):
        given = {names[0]: given}
    found = given if isinstance(given, Mapping) else {}
    missing = [name for name in names if found.get(name) is None]
    surplus = [name for name in found if name not in heads]
    if missing or surplus:
        raise ValueError(
            f"there must be one {what} for each of {names}, as a dict or in this order; "
            f"missing: {missing or 'none'}, without a head: {surplus or 'none'}"
        )
    return {name: found[name] for name in names}


def _row_weights(given: Any, heads: Mapping[str, Any]) -> dict[str, Any]:
    """Give the sample weights of each head; None for none."""
    if given is None or not isinstance(given, Mapping | list | tuple):
        return dict.fromkeys(heads, given)
    return _per_head("sample_weight", given, heads)


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
