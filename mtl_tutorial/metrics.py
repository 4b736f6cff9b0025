"""How good each task is, how good all are together, and whether a difference is more than luck.

Everything here is NumPy in, numbers out, so both frameworks are measured by the same code.
"""

import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from mtl_tutorial.tasks import (
    Binary,
    Boxes,
    Classification,
    Metric,
    Regression,
    Task,
    check_targets,
    labelled,
    target_shape,
)


def predictions(task: Task, outputs: np.ndarray) -> np.ndarray:
    """Turn a head's outputs into what the task asks for.

    Parameters
    ----------
    task : Task
    outputs : numpy.ndarray, shape (N, task.outputs), or (N, ..., task.outputs)
        Logits for :class:`~mtl_tutorial.tasks.Classification` and
        :class:`~mtl_tutorial.tasks.Binary`.

    Returns
    -------
    numpy.ndarray, shape (N, ...), that of the targets
        The likeliest class; 1 where the logit is above 0 (probability above one half); the number
        itself; the boxes. For a kind of your own, the outputs as they are.

    Raises
    ------
    ValueError
        The outputs have another shape, or a NaN among them, from which nothing follows.

    Examples
    --------
    >>> predictions(Binary("gt5"), np.array([[-1.5], [0.2]]))
    array([0, 1])
    """
    outputs = np.asarray(outputs)
    if outputs.ndim < 2 or outputs.shape[-1] != task.outputs:
        raise ValueError(
            f"task {task.name!r}: outputs have shape {outputs.shape}, expected (N, {task.outputs}), "
            "or one axis more for each of the labels' own"
        )
    wrong = np.isnan(outputs).reshape(len(outputs), -1).any(axis=1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"task {task.name!r}: row {row} of the outputs is {outputs[row]}")
    return _decided(task, outputs)


def _decided(task: Task, outputs: np.ndarray) -> np.ndarray:
    """As :func:`predictions`, of outputs that were checked before."""
    if isinstance(task, Classification):
        return np.asarray(outputs.argmax(axis=-1))
    if isinstance(task, Binary):
        outputs = (outputs > 0).astype(np.int64)
    known = isinstance(task, Binary | Regression)
    return outputs[..., 0] if known and task.numbers == 1 else outputs


def iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    r"""Intersection over union of pairs of boxes, :math:`|A \cap B| / |A \cup B|`.

    Parameters
    ----------
    one, other : numpy.ndarray, shape (N, 4)
        Corners (x1, y1, x2, y2), in any one unit. Corners in the wrong order enclose nothing.

    Returns
    -------
    numpy.ndarray, shape (N,)
        Between 0 (they do not meet, or both are empty) and 1 (they are the same); NaN where a corner
        is NaN.

    Examples
    --------
    >>> iou(np.array([[0.0, 0.0, 2.0, 1.0]]), np.array([[1.0, 0.0, 3.0, 1.0]]))
    array([0.33333333])
    """
    one, other = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    if one.ndim != 2 or one.shape[1] != 4 or one.shape != other.shape:
        raise ValueError(f"boxes have shapes {one.shape} and {other.shape}, expected (N, 4) twice")

    def area(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        areas: np.ndarray = np.maximum(high - low, 0).prod(axis=1)
        return areas

    common = area(np.maximum(one[:, :2], other[:, :2]), np.minimum(one[:, 2:], other[:, 2:]))
    union = area(one[:, :2], one[:, 2:]) + area(other[:, :2], other[:, 2:]) - common
    shares: np.ndarray = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return np.where(np.isnan(union), np.nan, shares)


def average_precision(
    boxes: np.ndarray,
    confidence: Sequence[float] | np.ndarray,
    truth: np.ndarray,
    threshold: float = 0.5,
) -> float:
    r"""Average precision of a detector that proposes one box an image.

    Go through the proposals from the most confident down. One is right if its image holds an object
    and their :func:`iou` reaches the threshold. With precision :math:`P_n` (right ones among the
    first n) and recall :math:`R_n` (objects found among all objects) it is

    .. math:: \sum_n (R_n - R_{n-1})\, P_n

    without interpolation, as scikit-learn computes it for rankings. An object whose box misses
    counts against recall as well as against precision.

    Parameters
    ----------
    boxes : numpy.ndarray, shape (N, 4)
        Proposed, as corners (x1, y1, x2, y2).
    confidence : numpy.ndarray, shape (N,)
        Any increasing score, such as a logit of presence.
    truth : numpy.ndarray, shape (N, 4)
        A row of four NaN is an image without an object.
    threshold : float
        The least IoU of a right box, above 0.

    Returns
    -------
    float
        Between 0 and 1; NaN if there is no object at all.

    Raises
    ------
    ValueError
        Shapes differ, a proposal or its confidence is NaN, an object's corner is, or the threshold is
        not above 0.

    Examples
    --------
    >>> box = np.array([[0.0, 0.0, 2.0, 2.0]])
    >>> truth = np.concatenate([box, box, box + np.nan])
    >>> average_precision(np.tile(box, (3, 1)), [0.9, 0.2, 0.4], truth)  # the second comes last
    0.83...
    """
    average_precision_score = _sklearn().average_precision_score

    boxes, truth = np.asarray(boxes, dtype=float), np.asarray(truth, dtype=float)
    confidence = np.asarray(confidence, dtype=float)
    if boxes.shape != (len(truth), 4) or truth.shape != boxes.shape or confidence.ndim != 1:
        raise ValueError(
            f"boxes {boxes.shape} and truth {truth.shape} have shape (N, 4), confidence "
            f"{confidence.shape} has shape (N,)"
        )
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is an IoU above 0, at most 1; got {threshold}")
    objects = ~np.isnan(truth).all(axis=1)
    wrong = (
        np.isnan(boxes).any(axis=1) | np.isnan(confidence) | (objects & np.isnan(truth).any(axis=1))
    )
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"row {row} holds a NaN: box {boxes[row]}, confidence {confidence[row]}, truth {truth[row]}"
        )
    if not objects.any():
        return float("nan")
    right = objects & (iou(boxes, np.where(objects[:, None], truth, 0)) >= threshold)
    if not right.any():
        return 0.0
    # scikit-learn measures recall among the right ones; an object that was missed counts too.
    return float(average_precision_score(right, confidence) * right.sum() / objects.sum())


def scores(
    tasks: Sequence[Task], outputs: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Metrics of every task, over the labels that are there.

    Those that the task names; see each kind of :mod:`~mtl_tutorial.tasks` for those it knows, and for
    those measured where it names none. Computed by scikit-learn, but for the mean :func:`iou` of
    boxes. Of a task for K numbers, each is the mean over those of the K for which it is defined.

    Parameters
    ----------
    tasks : sequence of Task
    outputs : mapping from task name to array, shape (N, task.outputs), or (N, ..., task.outputs)
        The heads' outputs; see :func:`predictions`.
    targets : mapping from task name to array, shape (N,), or (N, ...)

    Returns
    -------
    dict of float
        Keyed ``"digit_accuracy"``, ``"digit_f1"``, …, as Keras names its metrics; fractions of 1,
        and the target's own unit for the mean absolute and the root mean squared error. NaN for a
        task without any label; where an output that has a label is NaN (infinite, for a number or a
        box); and for ``auc`` without a yes or without a no, ``average_precision`` without a yes,
        ``r2`` of fewer than two labels.

    Raises
    ------
    KeyError, ValueError
        Outputs or targets of a task are absent, or their shapes differ.

    Examples
    --------
    >>> scores([Binary("gt5")], {"gt5": np.array([[2.0], [-1.0], [3.0], [4.0]])},
    ...        {"gt5": np.array([1, 0, 0, -1])})
    {'gt5_accuracy': 0.66..., 'gt5_f1': 0.66...}
    >>> scores([Binary("gt5", metrics=["auc"])], {"gt5": np.array([[2.0], [-1.0], [3.0]])},
    ...        {"gt5": np.array([1, 0, 0])})
    {'gt5_auc': 0.5}
    """
    result = {}
    for task in tasks:
        for what, given in (("outputs", outputs), ("targets", targets)):
            if task.name not in given:
                raise KeyError(f"no {what} named {task.name!r}; there are {sorted(given)}")
        output, target = np.asarray(outputs[task.name]), np.asarray(targets[task.name])
        target = target.reshape(target_shape(task, output.shape, target.shape))
        check_targets([task], {task.name: target}, len(output))
        pairs = _known(task, output, target)
        wrong = any(_wrong(task, found).any() for _, found in pairs)
        for metric in task.metrics:
            name = metric if isinstance(metric, str) else metric.__name__
            found = [np.nan if wrong else _measured(task, metric, *pair) for pair in pairs]
            defined = [value for value in found if not np.isnan(value)]
            result[f"{task.name}_{name}"] = float(np.mean(defined)) if defined else np.nan
    return result


def _known(
    task: Task, outputs: np.ndarray, targets: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Labels and outputs where there is a label; of a task for K numbers one pair for each."""
    there = labelled(task, targets)
    if task.numbers == 1 or isinstance(task, Boxes):
        return [(targets[there], outputs[there])]
    return [
        (targets[..., k][there[..., k]], outputs[..., k : k + 1][there[..., k]])
        for k in range(task.numbers)
    ]


def _wrong(task: Task, outputs: np.ndarray) -> np.ndarray:
    """Where an output says nothing; an infinite logit does."""
    logits = isinstance(task, Classification | Binary)
    wrong: np.ndarray = np.isnan(outputs) if logits else ~np.isfinite(outputs)
    return wrong


def _measured(task: Task, metric: Metric, truth: np.ndarray, outputs: np.ndarray) -> float:
    """Give one metric of labels, shape (M,), and outputs, shape (M, C); NaN if it is not defined."""
    if not len(truth):
        return np.nan
    if not isinstance(metric, str):
        return float(metric(truth, outputs))
    undefined = {
        "auc": truth.min() == truth.max(),
        "average_precision": not truth.any(),
        "r2": len(truth) < 2,
    }
    if undefined.get(metric, False):
        return np.nan
    sk = _sklearn()

    # F1 of the yes where there are two classes, else of all classes alike
    average = "macro" if isinstance(task, Classification) else "binary"
    classes = np.unique(truth)  # a class that is nowhere has no recall
    measure = {
        "accuracy": sk.accuracy_score,
        "balanced_accuracy": partial(sk.recall_score, labels=classes, average="macro"),
        "f1": partial(sk.f1_score, average=average, zero_division=0),
        "mean_iou": partial(sk.jaccard_score, average="macro", zero_division=0),
        "auc": sk.roc_auc_score,
        "average_precision": sk.average_precision_score,
        "mae": sk.mean_absolute_error,
        "rmse": sk.root_mean_squared_error,
        "r2": sk.r2_score,
        "iou": lambda truth, guess: iou(truth, guess).mean(),
    }[metric]
    ranks = metric in ("auc", "average_precision")
    guess = outputs if ranks else _decided(task, outputs)
    return float(measure(truth, guess.reshape(truth.shape)))


def lower_is_better(metric: str) -> bool:
    """Whether a metric of this name is an error (``…loss``, ``…mae``, …) rather than a success.

    Name a function of your own ``…_error`` or ``…_loss`` if less of it is better.

    Examples
    --------
    >>> lower_is_better("val_digit_loss"), lower_is_better("digit_f1")
    (True, False)
    """
    return metric.endswith(("loss", "mae", "rmse", "error"))


def delta_m(mtl: Mapping[str, float], stl: Mapping[str, float]) -> float:
    r"""Mean relative change of the metrics against single-task learning, sign-corrected.

    .. math:: \Delta_m = \frac{1}{M} \sum_{i=1}^{M} (-1)^{l_i}\,\frac{m_i - b_i}{b_i}

    where :math:`m_i` is a metric of the multi-task model, :math:`b_i` the same of the single-task
    model, and :math:`l_i = 1` where lower is better (:func:`lower_is_better`), else 0. Above 0,
    sharing helped on average. (Maninis, Radosavovic and Kokkinos, 2019; they take one metric a
    task, and so should you: two metrics count their task twice.)

    Parameters
    ----------
    mtl, stl : mapping from metric name to float
        The same names in both.

    Returns
    -------
    float
        A fraction: 0.01 is one per cent better.

    Raises
    ------
    ValueError
        The names differ, or a single-task metric is 0.

    Examples
    --------
    >>> delta_m({"digit_accuracy": 0.99, "size_mae": 1.0}, {"digit_accuracy": 0.9, "size_mae": 1.25})
    0.15...
    """
    if set(mtl) != set(stl) or not mtl:
        raise ValueError(f"the metrics differ or are none: {sorted(mtl)} against {sorted(stl)}")
    zero = [name for name, value in stl.items() if value == 0]
    if zero:
        raise ValueError(f"no relative change against a single-task metric of 0: {zero}")
    return float(
        np.mean(
            [
                (-1 if lower_is_better(name) else 1) * (mtl[name] - stl[name]) / stl[name]
                for name in mtl
            ]
        )
    )


def mean_interval(
    values: Sequence[float] | np.ndarray, confidence: float = 0.95
) -> tuple[float, float]:
    r"""Mean over seeds and the half-width of its confidence interval.

    .. math:: \bar v \pm t_{n-1,\,(1 + c)/2}\; s / \sqrt{n}

    with the standard deviation :math:`s` (:math:`n - 1` in the denominator) and Student's t. Give
    it *paired* differences (MTL minus STL, seed by seed) where two methods saw the same seeds: the
    interval of a difference is narrower than two separate intervals suggest.

    Parameters
    ----------
    values : sequence of float, length n
        One number a seed, at least 2.
    confidence : float
        :math:`c`, between 0 and 1.

    Returns
    -------
    mean, half_width : float

    Raises
    ------
    ValueError
        Fewer than 2 values, one that is NaN or infinite, or a confidence outside (0, 1).

    Examples
    --------
    >>> mean_interval([1.0, 2.0, 3.0])
    (2.0, 2.48...)
    """
    from scipy.special import stdtrit

    values = np.asarray(values, dtype=float).ravel()
    if len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"an interval needs at least 2 values, all finite; got {values}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1; got {confidence}")
    t = stdtrit(len(values) - 1, (1 + confidence) / 2)
    return float(values.mean()), float(t * values.std(ddof=1) / np.sqrt(len(values)))


def verdict(
    differences: Sequence[float] | np.ndarray,
    words: tuple[str, str, str] = ("loses", "no clear difference", "gains"),
) -> str:
    """Say in words what the interval of the paired differences allows one to say.

    Parameters
    ----------
    differences : sequence of float, length n
        MTL minus STL, seed by seed, where higher is better.
    words : tuple of three str
        For an interval below 0, one that contains 0, and one above 0.

    Examples
    --------
    >>> verdict([0.02, 0.03, 0.025]), verdict([0.02, -0.03, 0.01])
    ('gains', 'no clear difference')
    """
    mean, half_width = mean_interval(differences)
    return words[1 + (mean - half_width > 0) - (mean + half_width < 0)]


def _sklearn() -> Any:
    """Import scikit-learn's metrics; its first import draws from ``random``, amid a training here."""
    state = random.getstate()
    from sklearn import metrics

    random.setstate(state)
    return metrics
