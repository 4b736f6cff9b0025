"""Losses and metrics that skip missing labels, in Keras."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from mtl_tutorial.tasks import Binary, Boxes, Classification, Regression, Task


def task_loss(task: Task, targets: Any, outputs: Any) -> Any:
    r"""Mean loss over the rows that have a label; 0, with zero gradient, where none has.

    The same function as :func:`mtl_tutorial.pytorch.task_loss`, with Keras' order of arguments.

    .. math:: L = \frac{1}{\max(1, \sum_j m_j)} \sum_j m_j\, \ell(y_j, \hat y_j)

    where :math:`m_j` is 1 if row :math:`j` has a label, else 0, and :math:`\ell` is the
    cross-entropy of the softmax for :class:`~mtl_tutorial.tasks.Classification`, the binary
    cross-entropy of the sigmoid for :class:`~mtl_tutorial.tasks.Binary` (both on logits, in nats),
    the squared error for :class:`~mtl_tutorial.tasks.Regression` and :func:`giou_loss` for
    :class:`~mtl_tutorial.tasks.Boxes`.

    Parameters
    ----------
    task : Task
    targets : tensor, shape (N,); (N, 4) for boxes
        -1 (classification, binary) or NaN (regression, boxes) marks a missing label. Any other
        shape of N numbers, such as (N, 1), is read row by row.
    outputs : tensor, shape (N, task.outputs)
        The head's outputs. The loss of half precision is computed in float32.

    Returns
    -------
    tensor, a scalar
        NaN, as is its gradient, if a label is none that the task allows, such as -100, a class that
        there is not, or a box without area. :func:`mtl_tutorial.tasks.check_targets` names the row.

    Raises
    ------
    ValueError
        Outputs and targets do not fit together. Where a graph learns their numbers of rows only
        when it runs, it is TensorFlow's ``InvalidArgumentError``.

    Examples
    --------
    >>> import numpy as np
    >>> loss = task_loss(Binary("gt5"), np.array([1, -1]), np.array([[0.0], [100.0]]))
    >>> round(float(loss), 4)  # log 2; the second row is missing
    0.6931
    """
    outputs, targets = ops.convert_to_tensor(outputs), ops.convert_to_tensor(targets)
    targets = _check_shapes(task, targets, outputs)
    if keras.backend.standardize_dtype(outputs.dtype) in ("float16", "bfloat16"):
        outputs = ops.cast(outputs, "float32")
    right = ops.all(_allowed(task, targets))
    outputs = outputs * ops.cast(ops.where(right, 1.0, float("nan")), outputs.dtype)
    there, truth = _labels(task, targets)
    if isinstance(task, Classification):
        each = keras.losses.sparse_categorical_crossentropy(truth, outputs, from_logits=True)
    elif isinstance(task, Binary):
        logits = outputs[:, 0]
        truth = ops.cast(truth, logits.dtype)
        each = ops.softplus((1 - 2 * truth) * logits)  # has the right slope at 0, too
    elif isinstance(task, Regression):
        error = outputs[:, 0] - ops.cast(truth, outputs.dtype)
        each = ops.square(ops.where(there, error, ops.zeros_like(error)))
    elif isinstance(task, Boxes):
        same = ops.cast([0.0, 0.0, 1.0, 1.0], outputs.dtype)  # of loss 0
        box = ops.where(there[:, None], outputs, same)
        each = _giou(box, ops.where(there[:, None], ops.cast(truth, outputs.dtype), same))
    else:
        raise TypeError(
            f"task {task.name!r} is a {type(task).__name__}, for which there is no loss"
        )
    mask = ops.cast(there, each.dtype)
    return ops.sum(each * mask) / ops.maximum(ops.sum(mask), 1)


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


def _check_shapes(task: Task, targets: Any, outputs: Any) -> Any:
    """Return the targets of shape (N,), (N, 4) for boxes, or say what does not fit together."""
    shape, found = tuple(outputs.shape), tuple(targets.shape)  # None where only the graph will know
    kind = keras.backend.standardize_dtype(outputs.dtype)
    if len(shape) != 2 or shape[1] not in (task.outputs, None) or "float" not in kind:
        raise ValueError(
            f"task {task.name!r}: outputs are {kind} of shape {shape}, expected floats of shape "
            f"(N, {task.outputs})"
        )
    boxes = isinstance(task, Boxes)
    expected = shape if boxes else (shape[0],)
    known = None not in (shape[0], *found)
    if (boxes and found[1:] != (4,)) or (known and math.prod(found) != math.prod(expected)):
        raise ValueError(
            f"task {task.name!r}: targets have shape {found}, expected {expected}, since the "
            f"outputs have {shape}"
        )
    if not known:  # a reshape would not stop TensorFlow, which drops it
        count = tf.shape(targets)[0] if boxes else tf.size(targets)
        message = f"task {task.name}: there must be a target for each row of outputs"
        tf.debugging.assert_equal(count, tf.shape(outputs)[0], message)
    return targets if boxes else ops.reshape(targets, (-1,))


def _allowed(task: Task, targets: Any) -> Any:
    """Which rows hold a label or the mark of a missing one, bool of shape (N,)."""
    if isinstance(task, Classification | Binary):
        top = task.classes - 1 if isinstance(task, Classification) else 1
        targets = _signed(targets)
        inside = ops.logical_and(targets >= -1, targets <= top)
        return ops.logical_and(inside, ops.equal(targets, ops.round(targets)))
    if isinstance(task, Boxes):
        box = ops.logical_and(targets[:, :2] < targets[:, 2:], ops.isfinite(targets[:, 2:]))
        box = ops.logical_and(box, ops.isfinite(targets[:, :2]))
        return ops.logical_or(ops.all(box, axis=1), ops.all(ops.isnan(targets), axis=1))
    return ops.logical_not(ops.isinf(targets))


_TINY = 1e-12  # an area to divide by where two boxes are empty


def _areas(one: Any, other: Any) -> tuple[Any, Any, Any]:
    """Areas of what two boxes have in common, of their union, and of the box that holds both."""

    def area(low: Any, high: Any) -> Any:
        return ops.prod(ops.relu(high - low), axis=1)

    low, high, other_low, other_high = one[:, :2], one[:, 2:], other[:, :2], other[:, 2:]
    common = area(ops.maximum(low, other_low), ops.minimum(high, other_high))
    union = area(low, high) + area(other_low, other_high) - common
    return common, union, area(ops.minimum(low, other_low), ops.maximum(high, other_high))


def _labels(task: Task, targets: Any) -> tuple[Any, Any]:
    """Where there is anything but the mark of a missing label; the labels, 0 where they are none."""
    if isinstance(task, Boxes):
        there = ops.logical_not(ops.all(ops.isnan(targets), axis=1))
        return there, ops.where(there[:, None], targets, ops.zeros_like(targets))
    targets = ops.reshape(targets, (-1,))
    if isinstance(task, Regression):
        there = ops.logical_not(ops.isnan(targets))
        return there, ops.where(there, targets, ops.zeros_like(targets))
    targets = _signed(targets)
    label = ops.logical_and(targets >= 0, targets < max(2, task.outputs))
    return targets != -1, ops.cast(ops.where(label, targets, ops.zeros_like(targets)), "int32")


def _signed(targets: Any) -> Any:
    """Class numbers in a type that can be below 0, which truth values and uint8 cannot."""
    kind = keras.backend.standardize_dtype(targets.dtype)
    return targets if "float" in kind else ops.cast(targets, "int32")


def task_losses(tasks: Sequence[Task]) -> dict[str, keras.losses.Loss]:
    """Build the ``loss`` argument of ``compile``: :func:`task_loss` for each task, by name.

    Examples
    --------
    >>> from mtl_tutorial.tasks import Classification
    >>> sorted(task_losses([Classification("digit", classes=10), Binary("gt5")]))
    ['digit', 'gt5']
    """
    return {task.name: TaskLoss(task) for task in tasks}


def task_metrics(tasks: Sequence[Task]) -> dict[str, list[keras.metrics.Metric]]:
    """Build the ``metrics`` argument of ``compile``: accuracy, mean absolute error, or mean IoU.

    Rows without a label do not count. For F1, and for both frameworks alike, pass
    ``model.predict(inputs)`` to :func:`mtl_tutorial.metrics.scores`.

    Examples
    --------
    >>> metric = task_metrics([Binary("gt5")])["gt5"][0]
    >>> metric.update_state([1, 0, -1], [[2.0], [3.0], [4.0]])
    >>> metric.name, float(metric.result())
    ('accuracy', 0.5)
    """
    return {task.name: [TaskMetric(task)] for task in tasks}


@keras.saving.register_keras_serializable("mtl_tutorial")
class TaskLoss(keras.losses.Loss):  # type: ignore[misc]  # Keras has no types
    """:func:`task_loss` as an object that Keras can save; see :func:`task_losses`."""

    def __init__(self, task: Task | dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**{"name": "task_loss", **kwargs, "reduction": None})
        self.task = _task(task)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Mean over the rows that have a label, a scalar; no other weights or masks of rows."""
        if sample_weight is not None or getattr(y_pred, "_keras_mask", None) is not None:
            raise ValueError(
                f"the loss of task {self.task.name!r} takes no sample weights and no masked outputs; "
                f"mark rows to skip as missing labels ({self.task.missing})"
            )
        return super().__call__(y_true, y_pred)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Mean over the rows that have a label, a scalar."""
        return task_loss(self.task, y_true, y_pred)

    def any_label(self, y_true: Any) -> Any:
        """Whether any row of the batch has a label, a scalar; if none has, the task is absent."""
        return ops.any(_labels(self.task, y_true)[0])

    def labelled(self, y_true: Any, y_pred: Any) -> tuple[Any, Any]:
        """Targets and outputs of the rows that have a label; one row a word where targets do so."""
        rows = ops.nonzero(_labels(self.task, y_true)[0])[0]
        if tuple(y_true.shape[1:]) not in ((), (1,)) and not isinstance(self.task, Boxes):
            y_true = ops.reshape(y_true, (-1,))
        return ops.take(y_true, rows, axis=0), ops.take(y_pred, rows, axis=0)

    def get_config(self) -> dict[str, Any]:
        """Name and task, for ``save``."""
        config: dict[str, Any] = super().get_config()
        return config | {"task": _task_config(self.task)}


class LabelledMean(keras.metrics.Mean):  # type: ignore[misc]  # Keras has no types
    """A running mean that is NaN, not a perfect or hopeless 0, where nothing was counted."""

    def result(self) -> Any:
        """Mean of what was counted since the last reset."""
        return ops.divide(self.total, ops.cast(self.count, self.dtype))


@keras.saving.register_keras_serializable("mtl_tutorial")
class TaskMetric(LabelledMean):
    """Running mean of a task's metric over the rows that have a label; see :func:`task_metrics`."""

    def __init__(self, task: Task | dict[str, Any], **kwargs: Any) -> None:
        self.task = _task(task)
        name = {Regression: "mae", Boxes: "iou"}.get(type(self.task), "accuracy")
        super().__init__(**{"name": name, **kwargs})

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count one batch."""
        outputs = ops.convert_to_tensor(y_pred)
        there, truth = _labels(self.task, ops.convert_to_tensor(y_true))
        if isinstance(self.task, Classification):
            value = ops.equal(truth, ops.cast(ops.argmax(outputs, axis=-1), "int32"))
        elif isinstance(self.task, Binary):
            value = ops.equal(truth, ops.cast(outputs[:, 0] > 0, "int32"))
        elif isinstance(self.task, Boxes):
            common, union, _ = _areas(outputs, ops.cast(truth, outputs.dtype))
            value = common / ops.maximum(union, _TINY)
        else:
            value = ops.abs(outputs[:, 0] - ops.cast(truth, outputs.dtype))
        count = ops.cast(there, self.dtype)
        if sample_weight is not None:
            count *= ops.reshape(ops.cast(sample_weight, self.dtype), (-1,))
        super().update_state(ops.cast(value, self.dtype), count)

    def get_config(self) -> dict[str, Any]:
        """Name and task, for ``save``."""
        config: dict[str, Any] = super().get_config()
        return config | {"task": _task_config(self.task)}


def _task_config(task: Task) -> dict[str, Any]:
    """Describe a task in plain data, for a saved model."""
    return {"kind": type(task).__name__, **asdict(task)}


def _task(task: Task | dict[str, Any]) -> Task:
    """Return the task itself, or the one that :func:`_task_config` described."""
    if isinstance(task, Task):
        return task
    kinds = {kind.__name__: kind for kind in (Classification, Binary, Regression, Boxes)}
    settings = dict(task)
    return kinds[settings.pop("kind")](**settings)
