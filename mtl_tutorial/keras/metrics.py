"""Metrics that skip missing labels, in Keras: batch by batch, or of a whole split."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from mtl_tutorial.datasets import Split, check_inputs
from mtl_tutorial.keras.losses import (
    by_row,
    check_shapes,
    is_there,
    known_task,
    signed,
    task_config,
    task_loss,
)
from mtl_tutorial.metrics import lower_is_better, scores
from mtl_tutorial.tasks import (
    Binary,
    Boxes,
    Classification,
    Regression,
    Task,
    check_targets,
    check_tasks,
    labelled,
)

_CONFUSED = ("f1", "balanced_accuracy", "mean_iou")  # those that need to know which class for which
_STREAM = ("accuracy", "mae", "rmse", "r2", "iou", *_CONFUSED)


def task_metrics(tasks: Sequence[Task]) -> dict[str, list[keras.metrics.Metric]]:
    """Build the ``metrics`` argument of ``compile``: those of each task that can be streamed.

    Labels that are missing do not count. What is shown at the end of an epoch is what
    :func:`mtl_tutorial.metrics.scores` measures on all its rows, whatever the size of the batches.
    ``"auc"``, ``"average_precision"``, functions of your own and kinds of your own need all outputs
    at once, so they are left out: add the callback :class:`Scores`, or ask :func:`evaluate`.

    Parameters
    ----------
    tasks : sequence of Task

    Returns
    -------
    dict of list of keras.metrics.Metric

    Examples
    --------
    >>> accuracy, f1 = task_metrics([Binary("gt5")])["gt5"]
    >>> accuracy.update_state([1, 0, -1], [[2.0], [3.0], [4.0]])
    >>> accuracy.name, float(accuracy.result())
    ('accuracy', 0.5)
    """
    found = {}
    for task in tasks:
        names: Any = [metric for metric in task.metrics if _streams(task, metric)]
        if names:
            found[task.name] = [TaskMetric(task, name) for name in names]
    return found


def _streams(task: Task, metric: Any) -> bool:
    known = isinstance(task, Classification | Binary | Regression | Boxes)
    return known and metric in task.known_metrics and metric in _STREAM


class LabelledMean(keras.metrics.Mean):  # type: ignore[misc]  # Keras has no types
    """A running mean that is NaN, not a perfect or hopeless 0, where nothing was counted."""

    def result(self) -> Any:
        """Mean of what was counted since the last reset."""
        return ops.divide(self.total, ops.cast(self.count, self.dtype))


@keras.saving.register_keras_serializable("mtl_tutorial")
class TaskMetric(keras.metrics.Metric):  # type: ignore[misc]  # Keras has no types
    """One metric of a task over the labels that are there, batch by batch; see :func:`task_metrics`.

    Parameters
    ----------
    task : Task
    metric : str, optional
        ``"accuracy"``, ``"balanced_accuracy"``, ``"f1"``, ``"mean_iou"``, ``"mae"``, ``"rmse"``,
        ``"r2"`` or ``"iou"``, as far as the kind of task knows it; its first one if not given.

    Raises
    ------
    ValueError
        The metric cannot be had batch by batch.
    """

    def __init__(
        self, task: Task | dict[str, Any], metric: str | None = None, **kwargs: Any
    ) -> None:
        self.task = known_task(task)
        self.metric: Any = self.task.usual_metrics[0] if metric is None else metric
        if not _streams(self.task, self.metric):
            raise ValueError(
                f"task {self.task.name!r}: {self.metric!r} is no metric that can be had batch by "
                "batch; use the callback Scores, or evaluate"
            )
        super().__init__(**{"name": self.metric, **kwargs})
        self._direction = "down" if lower_is_better(self.metric) else "up"  # for EarlyStopping
        numbers = 1 if isinstance(self.task, Boxes) else self.task.numbers
        classes = self.task.outputs if isinstance(self.task, Classification) else 2
        shape = [classes, classes] if self.metric in _CONFUSED else [5 if metric == "r2" else 2]
        self.sums = self.add_variable((numbers, *shape), "zeros", dtype="float64", name="sums")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count one batch."""
        outputs = ops.convert_to_tensor(y_pred)
        targets = signed(check_shapes(self.task, ops.convert_to_tensor(y_true), outputs))
        there = is_there(self.task, targets)
        counted = ops.cast(there, "float64")
        if sample_weight is not None:
            counted *= ops.cast(
                by_row(self.task, ops.convert_to_tensor(sample_weight), there), "float64"
            )
        logits = isinstance(self.task, Classification | Binary)
        wrong = ops.isnan(outputs) if logits else ops.logical_not(ops.isfinite(outputs))
        if there.shape.rank < wrong.shape.rank:
            wrong = ops.any(wrong, axis=-1)
        wrong = ops.any(ops.logical_and(wrong, counted > 0))

        numbers = self.sums.shape[0]
        truth, guess = _decided(self.task, targets, outputs)
        truth, guess, counted = (
            ops.reshape(ops.cast(each, "float64"), (-1, numbers))
            for each in (truth, guess, counted)
        )
        truth = ops.where(counted > 0, truth, ops.zeros_like(truth))
        if self.metric in _CONFUSED:
            new = self.sums + self._confusion(truth, guess, counted)
        elif self.metric == "r2":
            new = _merged(self.sums, truth, guess, counted)
        else:
            values = self._values(truth, guess) * counted
            values = ops.where(counted > 0, values, ops.zeros_like(values))
            new = self.sums + ops.stack([ops.sum(values, 0), ops.sum(counted, 0)], axis=-1)
        self.sums.assign(new + ops.cast(ops.where(wrong, float("nan"), 0.0), "float64"))

    def _values(self, truth: Any, guess: Any) -> Any:
        """Give what the metric is the mean of."""
        if self.metric == "accuracy":
            return ops.cast(ops.equal(truth, guess), "float64")
        if self.metric == "iou":
            return guess
        error = guess - truth
        return ops.abs(error) if self.metric == "mae" else ops.square(error)

    def _confusion(self, truth: Any, guess: Any, counted: Any) -> Any:
        """Count how often each class (row) was taken for each (column), for each question."""
        questions, classes, _ = self.sums.shape
        place = (np.arange(questions) * classes + truth) * classes + guess
        flat = ops.reshape(ops.cast(place, "int32"), (-1,))
        counts = tf.math.unsorted_segment_sum(
            ops.reshape(counted, (-1,)), flat, questions * classes**2
        )
        return ops.reshape(counts, self.sums.shape)

    def result(self) -> Any:
        """Metric of what was counted since the last reset; NaN where nothing was."""
        sums = ops.convert_to_tensor(self.sums)
        if self.metric in _CONFUSED:
            values = self._of_confusion(sums)
            defined = ops.sum(sums, axis=(1, 2)) != 0
        elif self.metric == "r2":
            labels, _, _, squares, errors = tf.unstack(sums, axis=-1)
            share = ops.where(squares == 0, ops.cast(errors != 0, "float64"), errors / squares)
            values, defined = 1 - share, ops.logical_not(labels < 2)
        else:
            total, count = tf.unstack(sums, axis=-1)
            values, defined = total / count, count != 0
            values = ops.sqrt(values) if self.metric == "rmse" else values
        return ops.cast(ops.mean(values[defined]), self.dtype)

    def _of_confusion(self, counts: Any) -> Any:
        """As scikit-learn: a class that is nowhere does not count; its recall needs a label."""
        right = tf.linalg.diag_part(counts)
        true, guessed = ops.sum(counts, axis=2), ops.sum(counts, axis=1)
        either, divide = true + guessed, tf.math.divide_no_nan
        if self.metric == "f1" and isinstance(self.task, Binary):
            return divide(2 * right, either)[:, 1]
        each, seen = {
            "f1": (divide(2 * right, either), either),
            "mean_iou": (divide(right, either - right), either),
            "balanced_accuracy": (divide(right, true), true),
        }[self.metric]
        return ops.sum(each, axis=1) / ops.sum(ops.cast(seen != 0, "float64"), axis=1)

    def get_config(self) -> dict[str, Any]:
        """Name, task and metric, for ``save``."""
        config: dict[str, Any] = super().get_config()
        return config | {"task": task_config(self.task), "metric": self.metric}


def _decided(task: Task, targets: Any, outputs: Any) -> tuple[Any, Any]:
    """Labels, and what the outputs say of each; for boxes the IoU in place of what they say."""
    if isinstance(task, Classification):
        return targets, ops.argmax(outputs, axis=-1)
    if isinstance(task, Boxes):
        shares = _iou(ops.cast(targets, "float64"), ops.cast(outputs, "float64"))
        return shares, shares
    return targets, outputs > 0 if isinstance(task, Binary) else outputs


def _iou(one: Any, other: Any) -> Any:
    """As :func:`mtl_tutorial.metrics.iou`."""

    def area(low: Any, high: Any) -> Any:
        return ops.prod(ops.relu(high - low), axis=1)

    low, high, other_low, other_high = one[:, :2], one[:, 2:], other[:, :2], other[:, 2:]
    common = area(ops.maximum(low, other_low), ops.minimum(high, other_high))
    union = area(low, high) + area(other_low, other_high) - common
    return tf.math.divide_no_nan(common, union)


def _merged(sums: Any, truth: Any, guess: Any, counted: Any) -> Any:
    """Count on: labels, weight, mean, squares around it, squared errors (Chan et al., 1979)."""
    labels, weight, mean, squares, errors = tf.unstack(ops.convert_to_tensor(sums), axis=-1)
    divide, own = tf.math.divide_no_nan, ops.sum(counted, axis=0)
    own_mean = divide(ops.sum(counted * truth, axis=0), own)
    own_squares = ops.sum(counted * ops.square(truth - own_mean), axis=0)
    error = ops.where(counted > 0, guess - truth, ops.zeros_like(truth))
    total, shift = weight + own, own_mean - mean
    new = [
        labels + ops.sum(ops.cast(counted > 0, "float64"), axis=0),
        total,
        mean + shift * divide(own, total),
        squares + own_squares + ops.square(shift) * divide(weight * own, total),
        errors + ops.sum(counted * ops.square(error), axis=0),
    ]
    return ops.stack(new, axis=-1)


def evaluate(model: keras.Model, tasks: Sequence[Task], data: Split) -> dict[str, float]:
    """Losses and metrics of every task on a split, as :func:`mtl_tutorial.pytorch.evaluate`.

    Parameters
    ----------
    model : keras.Model
        Whose outputs are a dict by task name.
    tasks : sequence of Task
    data : Split

    Returns
    -------
    dict of float
        ``"loss"``, the plain sum of the tasks' losses, without penalties; ``"digit_loss"``, …; and
        the metrics of :func:`mtl_tutorial.metrics.scores`. NaN for a task without any label, and for
        the sum.

    Raises
    ------
    KeyError, ValueError
        An output, a target or an input is absent or wrong.

    Examples
    --------
    >>> from mtl_tutorial.datasets import digits
    >>> from mtl_tutorial.keras import HardSharing, linear_heads, mlp
    >>> tasks = [Binary("gt5", metrics=["auc"])]
    >>> model = HardSharing(mlp(784, 8), linear_heads(tasks))
    >>> list(evaluate(model, tasks, digits().valid))
    ['loss', 'gt5_loss', 'gt5_auc']
    """
    for part in keras.tree.flatten(data.inputs):
        check_inputs(part)
    check_targets(check_tasks(tasks), data.targets, len(data))
    outputs = model.predict(data.inputs, batch_size=256, verbose=0)
    found = list(outputs) if isinstance(outputs, dict) else type(outputs).__name__
    losses = {}
    for task in tasks:
        if task.name not in found or isinstance(found, str):
            raise KeyError(f"the model has no output {task.name!r}; it has {found}")
        target = data.targets[task.name]
        there = labelled(task, target).any()
        loss = task_loss(task, target, outputs[task.name]) if there else np.nan
        losses[f"{task.name}_loss"] = float(loss)
    return {"loss": sum(losses.values()), **losses, **scores(tasks, outputs, data.targets)}


class Scores(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """A callback that measures the tasks on a split after every epoch, with :func:`evaluate`.

    It adds ``"val_click_auc"``, … to the history: every metric of the tasks, those that cannot be had
    batch by batch included, and the losses where ``fit`` has no ``validation_data``. In
    :class:`MultiTaskModel` it comes before the other callbacks, which so can monitor what it adds;
    in another model put it first in the list. ``EarlyStopping`` and ``ModelCheckpoint`` cannot know
    which way is better: tell them, ``mode="max"``.

    Parameters
    ----------
    tasks : sequence of Task
    valid : Split

    Examples
    --------
    >>> from mtl_tutorial.datasets import digits
    >>> from mtl_tutorial.keras import MultiTaskModel, linear_heads, mlp, task_losses
    >>> data, tasks = digits(), [Binary("gt5", metrics=["auc"])]
    >>> model = MultiTaskModel(mlp(784, 8), linear_heads(tasks))
    >>> model.compile("adam", task_losses(tasks))
    >>> best = keras.callbacks.EarlyStopping("val_gt5_auc", mode="max", patience=1)
    >>> history = model.fit(
    ...     data.train.inputs, data.train.targets, verbose=0, callbacks=[best, Scores(tasks, data.valid)]
    ... ).history
    >>> list(history)
    ['loss', 'val_loss', 'val_gt5_loss', 'val_gt5_auc']
    """

    def __init__(self, tasks: Sequence[Task], valid: Split) -> None:
        super().__init__()
        self.tasks, self.valid = check_tasks(tasks), valid

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure, and add what is not there yet."""
        if logs is not None:
            for name, value in evaluate(self.model, self.tasks, self.valid).items():
                logs.setdefault(f"val_{name}", value)
