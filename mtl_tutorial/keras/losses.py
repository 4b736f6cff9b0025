"""Losses and metrics that skip missing labels, in Keras."""

from collections.abc import Sequence
from dataclasses import fields
from functools import singledispatch
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from mtl_tutorial.tasks import Binary, Boxes, Classification, Regression, Task, target_shape


def task_loss(task: Task, targets: Any, outputs: Any, sample_weight: Any = None) -> Any:
    r"""Mean loss over the labels that are there; 0, with zero gradient, where none is.

    The same function as :func:`mtl_tutorial.pytorch.task_loss`, with Keras' order of arguments.

    .. math:: L = \frac{\sum_j m_j\, s_j\, \ell(y_j, \hat y_j)}{\sum_j m_j\, s_j\, c_{y_j}}

    where :math:`m_j` is 1 if label :math:`j` is there, else 0, :math:`s_j` is the weight of its row
    (1 if none is given), :math:`c` are the class weights (1 if none are), and :math:`\ell` is
    the cross-entropy of the softmax for :class:`~mtl_tutorial.tasks.Classification`, the binary
    cross-entropy of the sigmoid for :class:`~mtl_tutorial.tasks.Binary` (both on logits, in nats; see
    there for their weights), the squared error for :class:`~mtl_tutorial.tasks.Regression`,
    :func:`giou_loss` for :class:`~mtl_tutorial.tasks.Boxes`, and :func:`label_losses` of your own kind.

    Parameters
    ----------
    task : Task
    targets : tensor, shape (N,), (N, ...), or (N, ..., task.outputs), see the kind of task
        -1 (classification, binary) or NaN (regression, boxes) marks a missing label. For outputs with
        one row a label any other shape of N numbers, such as (N, 1), is read row by row.
    outputs : tensor, shape (N, task.outputs), or (N, ..., task.outputs)
        The head's outputs. The loss of half precision is computed in float32.
    sample_weight : tensor, shape (N,), optional
        Not below 0; a row of weight 0 has no label. The mean is a weighted one: weights that are all
        doubled change nothing. (Keras' own losses divide by the number of rows instead.)

    Returns
    -------
    tensor, a scalar
        NaN, as is its gradient, if a label is none that the task allows, such as -100, a class that
        there is not, or a box without area. :func:`mtl_tutorial.tasks.check_targets` names the row.

    Raises
    ------
    ValueError
        Outputs and targets do not fit together. Where a graph learns their numbers of rows only
        when it runs, it is TensorFlow's ``InvalidArgumentError``, as it is for a sample weight below 0.

    Examples
    --------
    >>> import numpy as np
    >>> loss = task_loss(Binary("gt5"), np.array([1, -1]), np.array([[0.0], [100.0]]))
    >>> round(float(loss), 4)  # log 2; the second row is missing
    0.6931
    """
    outputs, targets = ops.convert_to_tensor(outputs), ops.convert_to_tensor(targets)
    targets = signed(check_shapes(task, targets, outputs))
    if keras.backend.standardize_dtype(outputs.dtype) in ("float16", "bfloat16"):
        outputs = ops.cast(outputs, "float32")
    there, weights = is_there(task, targets), None
    if sample_weight is not None:
        weights = by_row(task, ops.cast(sample_weight, outputs.dtype), there)
        there = ops.logical_and(there, weights > 0)
    allowed = _allowed(task, targets)
    wrong = ops.any(ops.logical_and(there, ops.logical_not(allowed)))
    outputs = outputs * ops.cast(ops.where(wrong, float("nan"), 1.0), outputs.dtype)
    known = ops.logical_and(there, allowed)
    each = label_losses(task, *_filled(task, targets, outputs, there, known))
    if not each.shape.is_compatible_with(known.shape):
        raise ValueError(
            f"task {task.name!r}: label_losses gave shape {tuple(each.shape)}, expected one loss a "
            f"label, {tuple(known.shape)}"
        )
    each, counted = ops.where(there, each, ops.zeros_like(each)), ops.cast(there, each.dtype)
    if weights is not None:
        each, counted = each * weights, counted * weights
    if isinstance(task, Classification) and task.class_weights is not None:
        truth = ops.where(known, targets, ops.zeros_like(targets))
        counted = counted * _class_weights(task, truth, each.dtype)
    count = ops.sum(counted)
    return ops.sum(each) / ops.where(count > 0, count, ops.ones_like(count))


@singledispatch
def label_losses(task: Task, targets: Any, outputs: Any) -> Any:
    """Give the loss of every label; for a kind of task of your own, register a function.

    Parameters
    ----------
    task : Task
    targets : tensor, shape (N, ...), or (N, ..., task.outputs)
        0 where there is no label: nothing here needs to think of missing ones.
    outputs : tensor, shape (N, ..., task.outputs)
        In Keras' order of arguments, after the targets.

    Returns
    -------
    tensor, the shape of the labels

    Raises
    ------
    TypeError
        Nothing is registered for this kind.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Count(Task):
    ...     outputs = 1
    >>> @label_losses.register
    ... def _(task: Count, targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    ...     rate = outputs[..., 0]
    ...     return ops.exp(rate) - ops.cast(targets, rate.dtype) * rate
    >>> float(task_loss(Count("visits"), np.array([2, 0, -1]), np.zeros((3, 1), "float32")))
    1.0
    """
    raise TypeError(
        f"task {task.name!r} is a {type(task).__name__}, for which there is no loss; register a "
        "function with mtl_tutorial.keras.label_losses"
    )


@label_losses.register
def _(task: Classification, targets: Any, outputs: Any) -> Any:
    targets, logits = ops.cast(targets, "int32"), outputs
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
    if task.class_weights is not None:
        each = each * _class_weights(task, targets, each.dtype)
    if task.label_smoothing:
        weights = ops.cast(task.class_weights or [1.0] * task.classes, logits.dtype)
        spread = -ops.mean(weights * ops.log_softmax(logits, axis=-1), axis=-1)
        each = (1 - task.label_smoothing) * each + task.label_smoothing * spread
    return each


@label_losses.register
def _(task: Binary, targets: Any, outputs: Any) -> Any:
    logits = outputs if task.numbers > 1 else outputs[..., 0]
    truth = ops.cast(targets, logits.dtype)
    each = ops.softplus((1 - 2 * truth) * logits)  # has the right slope at 0, too
    if task.pos_weight == 1:
        return each
    return each * (1 + truth * (ops.cast(task.pos_weight, each.dtype) - 1))


@label_losses.register
def _(task: Regression, targets: Any, outputs: Any) -> Any:
    values = outputs if task.numbers > 1 else outputs[..., 0]
    return ops.square(values - ops.cast(targets, values.dtype))


@label_losses.register
def _(task: Boxes, targets: Any, outputs: Any) -> Any:
    return _giou(outputs, targets)


def _class_weights(task: Classification, targets: Any, dtype: Any) -> Any:
    """Give the weight of each label's class."""
    return ops.take(ops.cast(task.class_weights, dtype), ops.cast(targets, "int32"))


def giou_loss(y_true: Any, y_pred: Any) -> Any:
    r"""Mean generalised-IoU loss of boxes over the rows that have one; 0 where none has.

    The same function as :func:`mtl_tutorial.pytorch.giou_loss`, with Keras' order of arguments; see
    there for the equation, and for what it does with crossed corners.

    Parameters
    ----------
    y_true, y_pred : tensor, shape (N, 4)
        Corners (x1, y1, x2, y2), in any one unit. A row of ``y_true`` of four NaN is a missing
        label; one with a single NaN, or without an area, makes the loss and its gradient NaN.

    Returns
    -------
    tensor, a scalar

    Examples
    --------
    >>> box = ops.array([[0.0, 0.0, 1.0, 1.0]])
    >>> float(giou_loss(box, box)), float(giou_loss(box + 1, box))
    (0.0, 1.5)
    """
    return task_loss(Boxes("box"), y_true, y_pred)


def _giou(box: Any, truth: Any) -> Any:
    """Give each row's loss, shape (N,); see :func:`giou_loss`. Areas are shares of that of H."""
    low, high, true_low, true_high = box[:, :2], box[:, 2:], truth[:, :2], truth[:, 2:]
    most = ops.maximum(ops.maximum(low, high), true_high)
    sides = most - ops.minimum(ops.minimum(low, high), true_low)

    def area(low: Any, high: Any) -> Any:
        shares = ops.relu(high - low) / sides
        return shares[:, 0] * shares[:, 1]

    common = area(ops.maximum(low, true_low), ops.minimum(high, true_high))
    union = area(low, high) + area(true_low, true_high) - common
    apart = (low - high) / sides  # pulls where both are equal, too
    crossed = ops.sum(ops.where(low >= high, apart, ops.zeros_like(apart)), axis=1)
    return 2 - common / ops.maximum(union, 1e-30) - union + crossed


def check_shapes(task: Task, targets: Any, outputs: Any) -> Any:
    """Return the targets in the shape that the outputs ask for, or say what does not fit together."""
    kind = keras.backend.standardize_dtype(outputs.dtype)
    if "float" not in kind:
        raise ValueError(f"task {task.name!r}: outputs are {kind}, expected floats")
    shape, found = tuple(outputs.shape), tuple(targets.shape)  # None where only the graph will know
    if None not in (*shape, *found):
        return ops.reshape(targets, target_shape(task, shape, found))
    some = tuple(size or 1 for size in shape)
    places = some if task.numbers > 1 else some[:-1]
    flat = len(places) == 1
    target_shape(task, some, places if flat or len(found) == len(places) else found)
    # the graph has to look by itself: a reshape would not stop TensorFlow, which drops it
    expected = tf.shape(outputs) if task.numbers > 1 else tf.shape(outputs)[:-1]
    given = tf.size(targets)[None] if flat else tf.shape(targets)
    message = f"task {task.name}: there must be a target for each row, or place, of outputs"
    tf.debugging.assert_equal(given, expected, message)
    return (
        ops.reshape(targets, (-1,))
        if flat
        else tf.ensure_shape(targets, outputs.shape[: len(places)])
    )


def signed(targets: Any) -> Any:
    """Labels in a type that can be below 0 and infinite, which integers and truth values cannot."""
    kind = keras.backend.standardize_dtype(targets.dtype)
    return targets if "float" in kind else ops.cast(targets, "float64")


def _allowed(task: Task, targets: Any) -> Any:
    """Where a label is one that can be, or the mark of a missing one; the shape of the labels."""
    if not isinstance(task, Boxes):
        return task.allowed(targets)
    box = ops.logical_and(targets[:, :2] < targets[:, 2:], ops.isfinite(targets[:, 2:]))
    box = ops.logical_and(box, ops.isfinite(targets[:, :2]))  # the sides are check_targets' to see
    return ops.logical_or(ops.all(box, axis=1), ops.all(ops.isnan(targets), axis=1))


def is_there(task: Task, targets: Any) -> Any:
    """Where there is anything but the mark of a missing label; the shape of the labels."""
    if isinstance(task, Boxes):
        return ops.logical_not(ops.all(ops.isnan(targets), axis=-1))
    return (
        ops.logical_not(ops.isnan(targets)) if np.isnan(task.missing) else targets != task.missing
    )


def _filled(task: Task, targets: Any, outputs: Any, there: Any, known: Any) -> tuple[Any, Any]:
    """Put something harmless where there is no label: the gradient of a NaN is NaN, masked or not."""
    if isinstance(task, Boxes):
        same = ops.cast([0.0, 0.0, 1.0, 1.0], outputs.dtype)  # of loss 0
        truth = ops.cast(targets, outputs.dtype)
        return ops.where(known[:, None], truth, same), ops.where(there[:, None], outputs, same)
    rows = there if task.numbers > 1 else there[..., None]
    return (
        ops.where(known, targets, ops.zeros_like(targets)),
        ops.where(rows, outputs, ops.zeros_like(outputs)),
    )


def by_row(task: Task, weights: Any, labels: Any) -> Any:
    """Weights of rows, against labels of shape (N, ...)."""
    message = f"task {task.name}: sample_weight is one number a row, shape (N,), none below 0"
    tf.debugging.assert_equal(tf.size(weights), tf.shape(labels)[0], message)
    tf.debugging.assert_non_negative(weights, message)
    return ops.reshape(weights, (-1, *[1] * (len(labels.shape) - 1)))


def task_losses(tasks: Sequence[Task]) -> dict[str, keras.losses.Loss]:
    """Build the ``loss`` argument of ``compile``: :func:`task_loss` for each task, by name.

    Examples
    --------
    >>> from mtl_tutorial.tasks import Classification
    >>> sorted(task_losses([Classification("digit", classes=10), Binary("gt5")]))
    ['digit', 'gt5']
    """
    return {task.name: TaskLoss(task) for task in tasks}


@keras.saving.register_keras_serializable("mtl_tutorial")
class TaskLoss(keras.losses.Loss):  # type: ignore[misc]  # Keras has no types
    """:func:`task_loss` as an object that Keras can save; see :func:`task_losses`."""

    def __init__(self, task: Task | dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**{"name": "task_loss", **kwargs, "reduction": None})
        self.task = known_task(task)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Weighted mean over the labels that are there, a scalar; no masks of rows."""
        if getattr(y_pred, "_keras_mask", None) is not None:
            raise ValueError(
                f"the loss of task {self.task.name!r} takes no masked outputs; mark rows or places "
                f"to skip as missing labels ({self.task.missing})"
            )
        y_pred = ops.cast(ops.convert_to_tensor(y_pred), self.dtype)
        return task_loss(self.task, y_true, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Mean over the labels that are there, a scalar."""
        return task_loss(self.task, y_true, y_pred)

    def any_label(self, y_true: Any, sample_weight: Any = None) -> Any:
        """Whether the batch has any label that counts, a scalar; if none does, the task is absent."""
        there = is_there(self.task, signed(ops.convert_to_tensor(y_true)))
        if sample_weight is not None:
            weights = ops.cast(sample_weight, keras.config.floatx())
            rows = ops.reshape(there, (ops.size(weights), -1))
            there = ops.logical_and(rows, ops.reshape(weights, (-1, 1)) > 0)
        return ops.any(there)

    def labelled(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tuple[Any, Any, Any]:
        """Targets, outputs and weights where there is a label, for metrics that skip none.

        One row a label: places count one by one. Of several numbers a row has all or none.
        """
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        there = is_there(self.task, signed(y_true))
        if self.task.numbers > 1 and not isinstance(self.task, Boxes):
            some = ops.any(there, axis=-1)
            tf.debugging.assert_equal(
                there, ops.logical_or(ops.zeros_like(there), some[..., None]),
                f"task {self.task.name}: a row has some of its labels, which Keras' own metrics "
                "cannot skip one by one; name metrics of the task instead, as in "
                "Binary(..., metrics=['auc'])",
            )  # fmt: skip
            there = some
        elif not isinstance(self.task, Boxes) and tuple(y_true.shape[1:]) not in ((), (1,)):
            y_true, y_pred = ops.reshape(y_true, (-1,)), ops.reshape(y_pred, (-1, y_pred.shape[-1]))
        if sample_weight is not None:
            weights = by_row(self.task, ops.convert_to_tensor(sample_weight), there)
            sample_weight = tf.broadcast_to(weights, tf.shape(there))[there]
        if len(y_true.shape) <= 2 and len(y_pred.shape) == 2:
            there = ops.reshape(there, (-1,))
        return y_true[there], y_pred[there], sample_weight

    def get_config(self) -> dict[str, Any]:
        """Name and task, for ``save``."""
        config: dict[str, Any] = super().get_config()
        return config | {"task": task_config(self.task)}


def task_config(task: Task) -> dict[str, Any]:
    """Describe a task in plain data, for a saved model; metrics that are functions are left out."""
    settings = {each.name: getattr(task, each.name) for each in fields(task)}
    names = [metric for metric in task.metrics if isinstance(metric, str)]
    return {"kind": type(task).__name__, **settings, "metrics": names}


def known_task(task: Task | dict[str, Any]) -> Task:
    """Return the task itself, or the one that :func:`task_config` described."""
    if isinstance(task, Task):
        return task
    settings = dict(task)
    name, kinds = settings.pop("kind"), [Task]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    found = [kind for kind in kinds if kind.__name__ == name]
    if not found:
        raise ValueError(
            f"no kind of task named {name!r} is known; import or define its class before you load "
            "the model"
        )
    return found[-1](**settings)  # the last: a notebook's cell may have run twice
