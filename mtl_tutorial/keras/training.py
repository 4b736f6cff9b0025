"""A Keras model whose training step asks a weighting how much each task counts."""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import h5py  # type: ignore[import-untyped]  # Keras stores weights with it
import keras
import numpy as np
import tensorflow as tf

import mtl_tutorial.weighting
from mtl_tutorial.keras.losses import TaskLoss
from mtl_tutorial.keras.metrics import LabelledMean, Scores, TaskMetric
from mtl_tutorial.keras.models.hard_sharing import EncodeDecode, HardSharing, quiet_build
from mtl_tutorial.weighting import Equal, Weighting
from mtl_tutorial.weighting.recorded import bare


@keras.saving.register_keras_serializable("mtl_tutorial")
class MultiTaskModel(EncodeDecode):
    r"""A model of several tasks with the usual ``compile`` and ``fit``, weighted by any weighting.

    ``MultiTaskModel(model)`` takes any ``keras.Model`` or layer that has

    - ``encode(inputs)``: the features, a tensor or a list, tuple or dict of tensors;
    - ``decode(features, tasks=None)``: the outputs, a dict by task name, here always of all tasks
      (a graph is drawn before it is known which labels a batch has, so every head runs);
    - ``shared_parameters()``: a list of the variables that the tasks share;
    - and, if it likes, ``extra_loss(features, targets)``: a scalar that is added to the training
      loss, unweighted. Validation leaves it out.

    ``encode`` and ``decode`` may take ``training``. ``MultiTaskModel(trunk, heads)`` is short for
    ``MultiTaskModel(HardSharing(trunk, heads))``.

    A loss-based weighting means one backward pass of :math:`\sum_k w_k L_k`, heads included.

    A Gramian-based weighting acts on the shared parameters :math:`\theta` only; all others get the
    plain sum of the gradients, so each head that of its own loss (a method that declares
    ``weights_heads``, such as GradNorm, reads the Gramian, but weights the losses). The step is cut
    at the features :math:`z`, so each head is traversed once, which gives the head's gradient and
    :math:`\partial L_k / \partial z` together. Then

    - ``gramian="parameters"``, exact for every graph: one vector-Jacobian product to the shared
      parameters for each task, :math:`g_k = (\partial L_k / \partial z)\,(\partial z / \partial
      \theta)`, and what a head reads of them past the features, the Gramian of the rows :math:`g_k`,
      the weights, and the gradient :math:`\sum_k w_k g_k`;
    - ``gramian="features"``, an approximation: the Gramian of the rows
      :math:`\partial L_k / \partial z`, the weights, and one pass of
      :math:`\sum_k w_k\,\partial L_k / \partial z` through all that lies before the features, the
      gates of single tasks included.

    Penalties (``add_loss``, regularisers of weights and activities) go through unweighted. A method
    that observes, such as FAMO, is shown the losses of the same batch after the step, dropout and
    batch norm at rest. These are the steps of :func:`mtl_tutorial.pytorch.mtl_backward`, but for
    one: the head of an absent task gets a gradient of 0 where PyTorch gives none, so an optimizer
    with momentum still moves it. With weights of 1 a step is that of a plain ``keras.Model`` with
    the same loss for each output.

    What the weighting remembers is saved with the weights: by ``save``, ``save_weights``,
    ``ModelCheckpoint`` and ``BackupAndRestore``. To save a model of your own, register its class.

    Parameters
    ----------
    model : keras.Model or keras.Layer
        See above; with ``heads``, the trunk, from inputs to features.
    heads : mapping from task name to keras.Layer, optional
    weighting : Weighting, optional
        :class:`~mtl_tutorial.weighting.Equal` if not given. Its tasks are those of ``decode``, in
        its order.
    gramian : {"parameters", "features"}
        Which Gramian a Gramian-based weighting is given; a loss-based one is given none.

    Raises
    ------
    TypeError, ValueError
        The model lacks one of the three, or ``gramian`` is neither of the two. In training: the
        targets do not fit the heads; or a Gramian-based weighting meets a model that shares no
        trainable parameter, a loss that does not depend on the features, or, with
        ``gramian="features"``, a head that uses shared parameters past them.
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
        model: keras.Layer,
        heads: Mapping[str, keras.Layer] | None = None,
        weighting: Weighting | None = None,
        gramian: Literal["parameters", "features"] = "parameters",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if heads is not None and not isinstance(heads, Mapping):
            raise TypeError(
                f"heads are a dict by task name; got {type(heads).__name__}. A model that has encode "
                "and decode needs none: MultiTaskModel(model, weighting=...)"
            )
        self.wrapped = model if heads is None else HardSharing(model, heads)
        lacking = [
            name
            for name in ("encode", "decode", "shared_parameters")
            if not callable(getattr(self.wrapped, name, None))
        ]
        if lacking:
            raise TypeError(
                f"a {type(model).__name__} has no {' and no '.join(lacking)}: give a model that has "
                "encode, decode and shared_parameters, or a trunk and its heads"
            )
        if gramian not in ("parameters", "features"):
            raise ValueError(f"gramian is 'parameters' or 'features'; got {gramian!r}")
        self.weighting = Equal() if weighting is None else weighting
        if not isinstance(self.weighting, Weighting):
            raise TypeError(f"weighting is an object such as UPGrad(); got {weighting!r}")
        self.gramian = gramian
        self._names = list(getattr(self.wrapped, "heads", ()))
        self._shown = SimpleNamespace(losses={})  # Keras would save what it finds in a plain dict

    @property
    def layers(self) -> list[keras.Layer]:
        """The layers of the model that is trained, so that its files hold what those of that do."""
        return list(getattr(self.wrapped, "layers", None) or super().layers)

    @property
    def trunk(self) -> Any:
        """The trunk, of :class:`HardSharing`."""
        return self.wrapped.trunk

    @property
    def heads(self) -> Any:
        """The heads by task name, of :class:`HardSharing`."""
        return self.wrapped.heads

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """All that ``fit`` shows, the loss of each task included."""
        return [*super().metrics, *self._shown.losses.values()]

    def encode(self, inputs: Any, training: bool | None = None) -> Any:
        """Give the features."""
        return _call(self.wrapped.encode, inputs, training=training)

    def decode(
        self, features: Any, tasks: Sequence[str] | None = None, training: bool | None = None
    ) -> dict[str, Any]:
        """Give the outputs of the tasks named, of all if none is."""
        some = {} if tasks is None else {"tasks": tasks}
        outputs = _call(self.wrapped.decode, features, training=training, **some)
        if not isinstance(outputs, Mapping) or not outputs:
            raise TypeError(
                f"decode gives a dict of outputs by task name; {type(self.wrapped).__name__} gave "
                f"{type(outputs).__name__}"
            )
        return dict(outputs)

    def shared_parameters(self) -> list[keras.Variable]:
        """Give the trainable variables that the tasks share."""
        return [variable for variable in self.wrapped.shared_parameters() if variable.trainable]

    def build(self, input_shape: Any) -> None:
        """Create the weights, for numbers of this shape (None stands for the rows)."""
        own = type(self.wrapped).build not in (keras.Layer.build, keras.Model.build)
        if own and not self.wrapped.built:
            if isinstance(self.wrapped, EncodeDecode):
                self.wrapped._dtypes = self._dtypes
            self.wrapped.build(input_shape)
        super().build(input_shape)
        self.wrapped.built = True

    def call(
        self,
        inputs: Any,
        training: bool | None = None,
        cut: Callable[[Any], Any] | None = None,
    ) -> dict[str, Any]:
        """Give the outputs of every head, by task name; ``cut`` is what a step does to the features."""
        features = self.encode(inputs, training=training)
        outputs = self.decode(features if cut is None else cut(features), training=training)
        if list(outputs) != self._names:
            if self.compiled and set(outputs) != set(self._names):
                raise ValueError(
                    f"compile was given losses for {self._names}, but the outputs of decode are "
                    f"{list(outputs)}"
                )
            self._names = list(outputs)
        return outputs

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
            ``jit_compile`` is set; the model is to run on several devices (training says so, too);
            or a method that reads losses or gradients meets an optimizer that accumulates gradients:
            it would be asked once for each part, and the mean of the parts' steps is not the step of
            the whole.
        """
        if loss_weights is not None:
            raise ValueError(
                "loss_weights would be applied besides the weighting; "
                "use MultiTaskModel(..., weighting=Static([...])) instead"
            )
        if not self._names and isinstance(loss, Mapping):
            self._names = list(loss)  # the first call will tell
        names = self._names
        loss = _per_head("loss", loss, names)
        stock = set()  # tasks with metrics that do not skip missing labels by themselves
        for kind in ("metrics", "weighted_metrics"):
            given = kwargs.get(kind) or {}
            if not isinstance(given, Mapping) and len(names) == 1:
                given = dict.fromkeys(names, given)
            if not isinstance(given, Mapping) or not set(given) <= set(names):
                raise ValueError(f"{kind} must be a dict by task name; the heads are {names}")
            for name, metrics in given.items():
                if not all(isinstance(each, TaskMetric) for each in keras.tree.flatten(metrics)):
                    stock.add(name)
        if kwargs.pop("jit_compile", "auto") not in ("auto", False, None):
            raise ValueError("jit_compile=True is not possible: the weights come from NumPy")
        self._check_one_device()
        optimizer = keras.optimizers.get(optimizer)
        inner = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
        method = type(bare(self.weighting)).__name__
        if getattr(inner, "gradient_accumulation_steps", None):
            if self.weighting.needs_observe:
                raise ValueError(
                    f"{method} observes what a step does to the losses, but with "
                    "gradient_accumulation_steps most steps do nothing; use larger batches instead"
                )
            if self.weighting.needs_losses or self.weighting.needs_gramian:
                raise ValueError(
                    f"{method} would weight each part of a batch by itself, and with "
                    "gradient_accumulation_steps the mean of the parts' steps is taken, which is not "
                    "the step of the whole batch; use larger batches instead"
                )
        super().compile(optimizer=optimizer, loss=loss, jit_compile=False, **kwargs)
        self._loss_of = {name: _as_in_keras(loss[name]) for name in names}
        several = names if len(names) > 1 else []  # Keras shows the only loss once
        self._shown.losses = {name: LabelledMean(name=f"{name}_loss") for name in several}
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
        Of these, :class:`~mtl_tutorial.keras.Scores` come first, so that others can monitor them.
        """
        end = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: self.weighting.end_epoch()
        )
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = keras.callbacks.CallbackList([end, callbacks], model=self)
        elif callbacks is not None:
            given = keras.tree.flatten(callbacks)
            callbacks = [end, *sorted(given, key=lambda each: not isinstance(each, Scores))]
        return super().fit(*args, callbacks=callbacks or [end], **kwargs)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Plain sum of the losses and penalties, without ``extra_loss``.

        The losses shown by ``fit`` for each task are unweighted, as in Keras: means over the rows of
        the batches that have a label of the task, NaN if none has. Its ``loss`` is the weighted sum
        in training, unless the weights act on the trunk alone, and the plain sum in validation.
        """
        losses = self._task_losses(y, y_pred, sample_weight)
        self._show(losses, self._present(y, sample_weight), y_pred)
        return tf.add_n([*losses, *self._penalties()])

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Update and give all metrics, those of ``compile`` from the rows that have a label."""
        y, y_pred = _per_head("target", y, self._names), dict(y_pred)
        weights = _row_weights(sample_weight, self._names)
        for name, loss in self._masked.items():
            own = y[name], y_pred[name], weights[name]
            y[name], y_pred[name], weights[name] = loss.labelled(*own)
        return super().compute_metrics(x, y, y_pred, None if sample_weight is None else weights)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Take one step on a batch, with the weights that the weighting gives; for ``fit``.

        A task without any label in the batch is absent: the weighting is not asked about it.
        """
        self._check_one_device()
        extra = getattr(self.wrapped, "extra_loss", None)
        if isinstance(self.weighting, Equal) and extra is None:
            return dict(super().train_step(data))  # nothing to ask
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if not self.built:
            self(keras.tree.map_structure(lambda v: keras.KerasTensor(v.shape, v.dtype), x))
        needs_gramian = self.weighting.needs_gramian
        ends = _Ends()
        with tf.GradientTape(persistent=True) as tape:
            cuts = needs_gramian and self.gramian == "features"
            outputs = self(x, training=True, cut=ends.cut(tape) if cuts else ends.keep)
            losses = self._task_losses(y, outputs, sample_weight)
            penalties = self._penalties()
            if extra is not None:
                more = extra(ends.features, _per_head("target", y, self._names))
                penalties.append(tf.cast(more, losses[0].dtype))
        present = self._present(y, sample_weight)

        variables = self.trainable_variables
        scale = self.optimizer.scale_loss(tf.ones((), losses[0].dtype))  # 1, but in mixed precision
        if needs_gramian:
            step = self._by_features if cuts else self._by_parameters
            weights, gradients = step(tape, ends, losses=losses, present=present, scale=scale)
            total = tf.add_n([*losses, *penalties])
        else:
            weights = self._task_weights(losses, present)
            gradients = tape.gradient(losses, variables, tf.unstack(scale * weights))
            total = tf.add_n([tf.tensordot(weights, tf.stack(losses), 1), *penalties])
        if penalties:
            each = [scale] * len(penalties)
            at_cut, own = _split(tape.gradient(penalties, [*ends.after, *variables], each), ends)
            parts = gradients, own, ends.pull(tape, at_cut, variables)
            gradients = list(map(_sum, zip(*parts, strict=True)))
        with tf.control_dependencies([weights]):  # where no weights can be given, nothing changes
            self.optimizer.apply_gradients(zip(gradients, variables, strict=True))

        if self.weighting.needs_observe:
            after = self._task_losses(y, self(x, training=False), sample_weight)
            tf.numpy_function(self.weighting.observe, [tf.stack(after)], [])
        self._show(losses, present, outputs)
        rows = tf.shape(keras.tree.flatten(x)[0])[0]
        self._loss_tracker.update_state(total, sample_weight=rows)
        return dict(self.compute_metrics(x, y, outputs, sample_weight))

    def _check_one_device(self) -> None:
        """Refuse a strategy, whether it is there at ``compile`` or, later, at ``fit``."""
        if self.distribute_strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "a step on several devices is not supported: each would weight its own part of the "
                "batch. Build, compile and fit the model outside the strategy's scope"
            )

    def _task_losses(self, y: Any, outputs: Mapping[str, Any], sample_weight: Any) -> list[Any]:
        """Give the loss of each task, a scalar."""
        y, weights = _per_head("target", y, self._names), _row_weights(sample_weight, self._names)
        losses = {
            name: self._loss_of[name](None, y[name], outputs[name], weights[name])
            for name in self._names
        }
        shapes = {name: loss.shape for name, loss in losses.items()}
        if len({shape.rank for shape in shapes.values()}) > 1:
            raise ValueError(
                "where a loss has reduction=None, all must have, or Keras would count the others once "
                f"a row; the losses have shapes {shapes}. Give each a reduction, such as 'sum'"
            )
        return [tf.reduce_sum(loss) for loss in losses.values()]

    def _present(self, y: Any, sample_weight: Any) -> list[Any]:
        """Give whether each task has a label in the batch."""
        y, weights = _per_head("target", y, self._names), _row_weights(sample_weight, self._names)
        return [
            self._tasks[name].any_label(y[name], weights[name]) if name in self._tasks else True
            for name in self._names
        ]

    def _penalties(self) -> list[Any]:
        """Give what layers add to the loss, each a scalar."""
        return [tf.cast(tf.reduce_sum(loss), keras.config.floatx()) for loss in self.losses]

    def _show(
        self, losses: Sequence[Any], present: Sequence[Any], outputs: Mapping[str, Any]
    ) -> None:
        """Count a batch in the losses that ``fit`` shows."""
        for name, loss, here in zip(self._names, losses, present, strict=True):
            if name in self._shown.losses:
                rows = tf.where(here, tf.shape(outputs[name])[0], 0)
                self._shown.losses[name].update_state(loss, sample_weight=rows)

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
        return self.weighting(losses, gramian, present, self._names).astype(losses.dtype)

    def _shared(self) -> list[keras.Variable]:
        """Give the shared parameters, or say that there are none to weight."""
        shared, trained = self.shared_parameters(), {id(v) for v in self.trainable_variables}
        if not shared:
            raise ValueError(
                f"{type(self.wrapped).__name__} shares no parameter that is trained (a trunk may be "
                f"frozen): no task gradients meet there, {type(self.weighting).__name__} has none to "
                "weight; use a loss-based weighting, such as Static or UW"
            )
        for variable in shared:
            if id(variable) not in trained:
                raise ValueError(
                    f"shared_parameters gives {variable.path!r}, which is none of the trainable "
                    "variables of the model: keep its layer as an attribute"
                )
        return shared

    def _by_parameters(
        self, tape: tf.GradientTape, ends: "_Ends", *, losses: Any, present: Any, scale: Any
    ) -> tuple[Any, list[Any]]:
        """Backward from each loss to all variables; see the class."""
        variables, shared = self.trainable_variables, self._shared()
        found = [tape.gradient(loss, variables, scale) for loss in losses]
        by_task = {id(v): g for v, g in zip(variables, zip(*found, strict=True), strict=True)}
        ways = zip(*(by_task[id(v)] for v in shared), strict=True)
        for name, own in zip(self._names, ways, strict=True):
            if all(gradient is None for gradient in own):
                raise ValueError(
                    f"the loss of {name!r} does not depend on the features, nor on any other shared "
                    "parameter"
                )
        rows = {id(v): _stacked(by_task[id(v)], v) for v in shared}
        weights = self._task_weights(losses, present, _gramian(rows.values()) / scale**2)
        return weights, [
            _combined(weights, rows[id(v)])
            if id(v) in rows
            else self._of_heads(weights, by_task[id(v)])
            for v in variables
        ]

    def _by_features(
        self, tape: tf.GradientTape, ends: "_Ends", *, losses: Any, present: Any, scale: Any
    ) -> tuple[Any, list[Any]]:
        """Backward from each loss to the features, then to the shared parameters; see the class."""
        variables, shared = self.trainable_variables, self._shared()
        sources = [*ends.after, *variables]
        found = [_split(tape.gradient(loss, sources, scale), ends) for loss in losses]
        for name, (own, past) in zip(self._names, found, strict=True):
            for variable, gradient in zip(variables, past, strict=True):
                if gradient is not None and any(variable is each for each in shared):
                    raise ValueError(
                        f"a head uses {variable.path!r}, a shared parameter, past the features: their "
                        "Gramian says nothing of it; use gramian='parameters'"
                    )
            if all(cotangent is None for cotangent in own):
                raise ValueError(f"the loss of {name!r} does not depend on the features")
        cotangents = list(zip(*(own for own, _ in found), strict=True))  # by feature, by task
        rows = [
            tf.cast(_stacked(by_task, z), scale.dtype)
            for z, by_task in zip(ends.after, cotangents, strict=True)
        ]
        weights = self._task_weights(losses, present, _gramian(rows) / scale**2)

        weighted = [
            tf.cast(_combined(weights, r), z.dtype) for r, z in zip(rows, ends.after, strict=True)
        ]
        through = ends.pull(tape, weighted, variables)
        direct = zip(*(past for _, past in found), strict=True)
        return weights, [
            _sum([before, self._of_heads(weights, own)])
            for before, own in zip(through, direct, strict=True)
        ]

    def _of_heads(self, weights: Any, by_task: Sequence[Any]) -> Any:
        """Add the tasks' gradients of a parameter that is not shared."""
        if self.weighting.weights_heads:
            each = zip(tf.unstack(weights), by_task, strict=True)
            by_task = [
                g if g is None else tf.cast(w, g.dtype) * tf.convert_to_tensor(g) for w, g in each
            ]
        return _sum(by_task)

    def save_own_variables(self, store: Any) -> None:
        """Add what the weighting remembers to the weights, in every way of saving them."""
        super().save_own_variables(store)
        state = self.weighting.state_dict()
        if state:
            method = type(bare(self.weighting)).__name__
            note = {"method": method, "tasks": self._names, "state": state}
            store["weighting"] = np.frombuffer(json.dumps(note).encode(), np.uint8)

    def load_weights(self, filepath: Any, skip_mismatch: bool = False, **kwargs: Any) -> None:
        """Load as ``keras.Model.load_weights`` does, after a look at the weighting's state.

        Raises
        ------
        ValueError
            As :meth:`load_own_variables` says; of a ``.weights.h5`` file nothing has been loaded then.
        """
        if not skip_mismatch and str(filepath).endswith(".h5") and Path(filepath).is_file():
            with h5py.File(filepath) as file:
                self._check_state(file.get("vars/weighting"))
        super().load_weights(filepath, skip_mismatch=skip_mismatch, **kwargs)

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
        state = self._check_state(text)
        if state:
            self.weighting.load_state_dict(state)

    def _check_state(self, text: Any) -> Any:
        """Give the state of the weighting that a file holds, or say that it is another's."""
        if text is None and not self.weighting.state_dict():
            return {}
        note = {} if text is None else json.loads(bytes(np.asarray(text)))
        method, tasks = type(bare(self.weighting)).__name__, self._names
        if (note.get("method"), note.get("tasks")) != (method, tasks):
            held = "{method} for the tasks {tasks}".format(**note) if note else "no weighting"
            raise ValueError(
                f"the file holds the state of {held}, but the model's weighting is {method} for the "
                f"tasks {tasks}. To load the layers alone and start the weighting anew, call "
                "load_weights(path, skip_mismatch=True)"
            )
        return note["state"]

    def get_config(self) -> dict[str, Any]:
        """Model, and the settings of the weighting, for ``save``; what is recorded is left out."""
        serialize = keras.saving.serialize_keras_object
        method = bare(self.weighting)
        weighting = {"name": type(method).__name__, "settings": serialize(asdict(method))}
        own = {"model": serialize(self.wrapped), "weighting": weighting, "gramian": self.gramian}
        return dict(super().get_config()) | own

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MultiTaskModel":
        """Build the model from :meth:`get_config`, for ``load_model``.

        A weighting of your own is found in ``keras.saving.custom_object_scope``.
        """
        saved, load = config["weighting"], keras.saving.deserialize_keras_object
        found = keras.saving.get_registered_object(saved["name"])
        found = found or getattr(mtl_tutorial.weighting, saved["name"], None)
        if found is None:
            raise ValueError(
                f"no weighting named {saved['name']!r} is known; load the model inside "
                f"keras.saving.custom_object_scope({{{saved['name']!r}: {saved['name']}}})"
            )
        with quiet_build():
            model = load(config["model"])
        return cls(**config | {"model": model, "weighting": found(**load(saved["settings"]))})


class _Ends:
    """The features where a step may be cut: as they leave ``encode``, and as ``decode`` gets them."""

    def __init__(self) -> None:
        self.features: Any = None
        self.before: list[Any] = []
        self.after: list[Any] = []

    def keep(self, features: Any) -> Any:
        """Look at the features, and leave them as they are."""
        self.features = features
        return features

    def cut(self, tape: tf.GradientTape) -> Callable[[Any], Any]:
        """Give what hands on copies through which no gradient passes by itself."""

        def copied(value: Any) -> Any:
            if not (tf.is_tensor(value) and value.dtype.is_floating):
                return value
            copy = tf.stop_gradient(value)
            if getattr(value, "_keras_mask", None) is not None:
                copy._keras_mask = value._keras_mask
            tape.watch(copy)
            self.before.append(value)
            self.after.append(copy)
            return copy

        return lambda features: keras.tree.map_structure(copied, self.keep(features))

    def pull(
        self, tape: tf.GradientTape, cotangents: Sequence[Any], variables: Sequence[Any]
    ) -> list[Any]:
        """Pull gradients on the features back to the variables; None where there is none."""
        pairs = zip(self.before, cotangents, strict=True)
        there = [(z, cotangent) for z, cotangent in pairs if cotangent is not None]
        if not there:
            return [None] * len(variables)
        return list(tape.gradient([z for z, _ in there], variables, [c for _, c in there]))


def _split(gradients: Sequence[Any], ends: _Ends) -> tuple[list[Any], list[Any]]:
    """Tell gradients on the features from those on variables."""
    return list(gradients[: len(ends.after)]), list(gradients[len(ends.after) :])


def _call(method: Callable[..., Any], *args: Any, training: bool | None, **kwargs: Any) -> Any:
    """Call a method with ``training``, if it takes that."""
    takes = inspect.signature(method).parameters.values()
    if any(each.name == "training" or each.kind is each.VAR_KEYWORD for each in takes):
        kwargs["training"] = training
    return method(*args, **kwargs)


def _as_in_keras(loss: Any) -> Callable[..., Any]:
    """Give what Keras makes of a loss: its name or function, data types, masks, sample weights.

    It says so only through a model; this one has nothing but the loss.
    """
    model = keras.Model()
    model.compile(optimizer=None, loss=loss, jit_compile=False)
    # Keras has no types
    return model.compute_loss  # type: ignore[no-any-return]


def _per_head(what: str, given: Any, names: Sequence[str]) -> dict[str, Any]:
    """One value a head, given by name, in the heads' order, or as it is where there is one head."""
    if isinstance(given, list | tuple) and len(given) == len(names):
        given = dict(zip(names, given, strict=True))
    elif len(names) == 1 and given is not None and not isinstance(given, Mapping | list | tuple):
        given = {names[0]: given}
    found = given if isinstance(given, Mapping) else {}
    missing = [name for name in names if found.get(name) is None]
    surplus = [name for name in found if name not in names]
    if missing or surplus or not names:
        raise ValueError(
            f"there must be one {what} for each of {names or 'the tasks'}, as a dict or in this order; "
            f"missing: {missing or 'none'}, without a head: {surplus or 'none'}"
        )
    return {name: found[name] for name in names}


def _row_weights(given: Any, names: Sequence[str]) -> dict[str, Any]:
    """Give the sample weights of each head; None for none."""
    if given is None or not isinstance(given, Mapping | list | tuple):
        return dict.fromkeys(names, given)
    return _per_head("sample_weight", given, names)


def _stacked(gradients: Sequence[Any], like: Any) -> Any:
    """Stack the gradients of the tasks, with zeros for those that have none; shape (T, ...)."""
    return tf.stack([tf.zeros_like(like) if g is None else g for g in gradients])


def _combined(weights: Any, rows: Any) -> Any:
    """Weighted sum of the tasks' rows."""
    return tf.tensordot(tf.cast(weights, rows.dtype), rows, 1)


def _gramian(rows: Iterable[Any]) -> Any:
    """Inner products of all pairs of rows, block by block; shape (T, T)."""
    flat = [tf.reshape(block, [block.shape[0], -1]) for block in rows]
    return tf.add_n([tf.matmul(block, block, transpose_b=True) for block in flat])


def _sum(gradients: Sequence[Any]) -> Any:
    """Add gradients of one variable; None where there is none."""
    there = [gradient for gradient in gradients if gradient is not None]
    return tf.add_n(there) if len(there) > 1 else next(iter(there), None)
