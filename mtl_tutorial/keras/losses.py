"""Losses and metrics that skip missing labels, in Keras."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import keras
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
    targets : tensor, shape (N,) or (N, 1); (N, 4) for boxes
        -1 (classification, binary) or NaN (regression, boxes) marks a missing label.
    outputs : tensor, shape (N, task.outputs)
        The head's outputs.

    Returns
    -------
    tensor, a scalar

    Examples
    --------
    >>> import numpy as np
    >>> loss = task_loss(Binary("gt5"), np.array([1, -1]), np.array([[0.0], [100.0]]))
    >>> round(float(loss), 4)  # log 2; the second row is missing
    0.6931
    """
    if isinstance(task, Boxes):
        return giou_loss(targets, outputs)
    there, truth = _labels(task, targets)
    if isinstance(task, Classification):
        each = keras.losses.sparse_categorical_crossentropy(truth, outputs, from_logits=True)
    elif isinstance(task, Binary):
        logits = outputs[:, 0]
        truth = ops.cast(truth, logits.dtype)
        each = ops.relu(logits) - logits * truth + ops.softplus(-ops.abs(logits))
    elif isinstance(task, Regression):
        error = outputs[:, 0] - ops.cast(truth, outputs.dtype)
        each = ops.square(ops.where(there, error, ops.zeros_like(error)))
    else:
        raise TypeError(
            f"task {task.name!r} is a {type(task).__name__}, for which there is no loss"
        )
    mask = ops.cast(there, each.dtype)
    return ops.sum(each * mask) / ops.maximum(ops.sum(mask), 1)


def giou_loss(y_true: Any, y_pred: Any) -> Any:
    r"""Mean generalised-IoU loss of boxes over the rows that have one; 0 where none has.

    The same function as :func:`mtl_tutorial.pytorch.giou_loss`, with Keras' order of arguments; see
    there for the equation.

    Parameters
    ----------
    y_true, y_pred : tensor, shape (N, 4)
        Corners (x1, y1, x2, y2), in any one unit. A row of ``y_true`` with a NaN is a missing label.

    Returns
    -------
    tensor, a scalar

    Examples
    --------
    >>> box = ops.array([[0.0, 0.0, 1.0, 1.0]])
    >>> float(giou_loss(box, box)), float(giou_loss(box + 1, box))
    (0.0, 1.5)
    """
    prediction = ops.convert_to_tensor(y_pred)
    there, target = _labels(Boxes("box"), ops.convert_to_tensor(y_true))
    target = ops.cast(target, prediction.dtype)
    common, union, hull = _areas(prediction, target)
    each = 1 - common / ops.maximum(union, _TINY) + (hull - union) / ops.maximum(hull, _TINY)
    mask = ops.cast(there, each.dtype)
    return ops.sum(each * mask) / ops.maximum(ops.sum(mask), 1)


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
    """Where a label is there, and the labels with a harmless 0 where none is."""
    if isinstance(task, Boxes):
        there = ops.logical_not(ops.any(ops.isnan(targets), axis=1))
        return there, ops.where(there[:, None], targets, ops.zeros_like(targets))
    targets = ops.reshape(targets, (-1,))
    if isinstance(task, Regression):
        there = ops.logical_not(ops.isnan(targets))
    else:
        targets = ops.cast(targets, "int32")
        there = targets >= 0
    return there, ops.where(there, targets, ops.zeros_like(targets))


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

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Mean over the rows that have a label, a scalar."""
        return task_loss(self.task, y_true, y_pred)

    def any_label(self, y_true: Any) -> Any:
        """Whether any row of the batch has a label, a scalar; if none has, the task is absent."""
        return ops.any(_labels(self.task, y_true)[0])

    def get_config(self) -> dict[str, Any]:
        """Name and task, for ``save``."""
        config: dict[str, Any] = super().get_config()
        return config | {"task": _task_config(self.task)}


@keras.saving.register_keras_serializable("mtl_tutorial")
class TaskMetric(keras.metrics.Mean):  # type: ignore[misc]  # Keras has no types
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
        super().update_state(ops.cast(value, self.dtype), ops.cast(there, self.dtype))

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
