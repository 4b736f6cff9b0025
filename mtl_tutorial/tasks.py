"""What a task is, once for both frameworks: a name, a kind of target, a width of the head.

Each framework's ``losses.py`` turns these plain descriptions into losses that skip missing labels,
and :mod:`mtl_tutorial.metrics` into metrics, so a model, a data set and a chapter state their tasks
once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np


@dataclass(frozen=True)
class Task:
    """Something to predict. Use one of its kinds; this class only holds what they share.

    Parameters
    ----------
    name : str
        A Python identifier, such as ``"digit"``: it names the head, the target, the loss and the
        metrics of the task everywhere.
    """

    name: str
    outputs: ClassVar[int]
    missing: ClassVar[float] = -1

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name.isidentifier()):  # type: ignore[redundant-expr]  # a caller may check no types
            raise ValueError(
                f"a task needs a Python identifier as its name, like 'digit'; got {self.name!r}"
            )


@dataclass(frozen=True)
class Classification(Task):
    """One of several classes; the head gives one logit a class, the loss is cross-entropy.

    Targets are integers, shape (N,), from 0 to ``classes - 1``; -1 is a missing label.

    Parameters
    ----------
    name : str
        See :class:`Task`.
    classes : int
        The number of classes, at least 2.

    Examples
    --------
    >>> Classification("digit", classes=10).outputs
    10
    """

    classes: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.classes, int) or self.classes < 2:  # type: ignore[redundant-expr]  # a caller may check no types
            raise ValueError(
                f"task {self.name!r} needs classes >= 2, an integer; got {self.classes!r}. "
                "A yes-or-no question with one logit is Binary."
            )

    @property
    def outputs(self) -> int:  # type: ignore[override]  # fixed for the other kinds, not for this
        """The number of classes, since the head gives one logit a class."""
        return self.classes


@dataclass(frozen=True)
class Binary(Task):
    """Yes or no; the head gives one logit, the loss is binary cross-entropy.

    Targets are 0 or 1, shape (N,); -1 is a missing label.

    Examples
    --------
    >>> Binary("gt5").outputs
    1
    """

    outputs: ClassVar[int] = 1


@dataclass(frozen=True)
class Regression(Task):
    """A number; the loss is the squared error.

    Targets are floats, shape (N,), in whatever unit the data has; NaN is a missing label.

    Examples
    --------
    >>> Regression("size").outputs
    1
    """

    outputs: ClassVar[int] = 1
    missing: ClassVar[float] = np.nan


@dataclass(frozen=True)
class Boxes(Task):
    """A box around an object, as corners (x1, y1, x2, y2); the loss is that of generalised IoU.

    Targets are floats, shape (N, 4), with x1 <= x2 and y1 <= y2; a row with a NaN is a missing label.

    Examples
    --------
    >>> Boxes("box").outputs
    4
    """

    outputs: ClassVar[int] = 4
    missing: ClassVar[float] = np.nan


def check_tasks(tasks: Sequence[Task]) -> list[Task]:
    """Return the tasks as a list, or say what is wrong with it: no task, or a name used twice.

    Examples
    --------
    >>> check_tasks([Binary("gt5"), Binary("gt5")])
    Traceback (most recent call last):
    ValueError: two tasks are named 'gt5'; give each task its own name
    """
    tasks = list(tasks)
    if not tasks:
        raise ValueError("the list of tasks is empty; name at least one task")
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two tasks are named {name!r}; give each task its own name")
    return tasks


def labelled(task: Task, targets: np.ndarray) -> np.ndarray:
    """Where a label is there.

    Parameters
    ----------
    task : Task
    targets : numpy.ndarray, shape (N,) or (N, 4) for boxes

    Returns
    -------
    numpy.ndarray of bool, shape (N,)

    Examples
    --------
    >>> labelled(Binary("gt5"), np.array([0, -1, 1]))
    array([ True, False,  True])
    >>> labelled(Regression("size"), np.array([0.5, np.nan]))
    array([ True, False])
    """
    targets = np.asarray(targets)
    there: np.ndarray = ~np.isnan(targets) if np.isnan(task.missing) else targets != task.missing
    return np.all(there, axis=1) if isinstance(task, Boxes) else there


def check_targets(tasks: Sequence[Task], targets: Mapping[str, Any], length: int) -> None:
    """Raise if a target is absent, has the wrong shape, or holds a label that cannot be.

    Losses do not look at each label at each step (on a GPU that would cost a synchronisation), so
    training does it once, here, before the first step.

    Parameters
    ----------
    tasks : sequence of Task
    targets : mapping from task name to array
        See each kind of task for its shape.
    length : int
        The number of inputs N.

    Raises
    ------
    KeyError
        A task has no target.
    ValueError
        A shape or a label is wrong; the message names the task, the row and the value.

    Examples
    --------
    >>> check_targets([Binary("gt5")], {"gt5": np.array([0, 7])}, length=2)
    Traceback (most recent call last):
    ValueError: task 'gt5': row 1 holds 7; allowed are the integers 0 to 1, and -1 where missing
    """
    for task in check_tasks(tasks):
        if task.name not in targets:
            raise KeyError(f"no target named {task.name!r}; there are {sorted(targets)}")
        target = np.asarray(targets[task.name])
        shape = (length, 4) if isinstance(task, Boxes) else (length,)
        if target.shape != shape:
            raise ValueError(
                f"task {task.name!r}: targets have shape {target.shape}, expected {shape}"
            )
        if isinstance(task, Classification | Binary):
            top = task.classes - 1 if isinstance(task, Classification) else 1
            wrong = (target != np.round(target)) | (target < -1) | (target > top)
            allowed = f"allowed are the integers 0 to {top}, and -1 where missing"
        else:
            wrong = np.isinf(target).reshape(length, -1).any(axis=1)
            allowed = "allowed are finite numbers, and NaN where missing"
            if isinstance(task, Boxes):
                wrong |= (target[:, :2] > target[:, 2:]).any(axis=1)
                allowed += "; x1 <= x2 and y1 <= y2"
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(f"task {task.name!r}: row {row} holds {target[row]}; {allowed}")
