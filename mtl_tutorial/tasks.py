"""What a task is, once for both frameworks: a name, a kind of target, a width of the head.

Each framework's ``losses.py`` turns these plain descriptions into losses that skip missing labels,
and :mod:`mtl_tutorial.metrics` into metrics, so a model, a data set and a chapter state their tasks
once.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

# What PyTorch's ModuleDict keeps for itself, so that no head can have the name (from 2.4 to 2.13).
_TAKEN = """
    T_destination add_module apply bfloat16 buffers call_super_init children clear compile cpu cuda
    double dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter
    get_submodule half ipu items keys load_state_dict modules mtia named_buffers named_children
    named_modules named_parameters parameters pop register_backward_hook register_buffer
    register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter
    register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state
    set_submodule share_memory state_dict to to_empty train training type update values xpu
    zero_grad
    """


@dataclass(frozen=True)
class Task:
    """Something to predict. Use one of its kinds; this class only holds what they share.

    Parameters
    ----------
    name : str
        It names the head, the target, the loss and the metrics of the task everywhere: a Python
        identifier of ASCII letters, digits and underscores that begins with a letter, such as
        ``"digit"`` (TensorFlow takes no other). Not ``"val"`` or ``"val_…"``, which would read as
        the validation of another task, and not what PyTorch's ``ModuleDict`` keeps for itself, such
        as ``"keys"``, ``"type"`` and ``"train"``.
    """

    name: str
    outputs: ClassVar[int]
    missing: ClassVar[float] = -1

    def __post_init__(self) -> None:
        name: Any = self.name  # a caller may check no types
        if not (isinstance(name, str) and re.fullmatch(r"[a-zA-Z]\w*", name, re.ASCII)):
            raise ValueError(
                "a task needs a Python identifier as its name, in ASCII and with a letter first, "
                f"like 'digit'; got {name!r}"
            )
        if name.split("_")[0] == "val":
            raise ValueError(
                f"a task named {name!r} would be mistaken for the validation of another one in the "
                "history of a training; name it without 'val'"
            )
        if name in _TAKEN.split():
            raise ValueError(
                f"PyTorch's ModuleDict keeps the name {name!r} for itself, so no head can have it; "
                f"name the task '{name}_task', say"
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

    Targets are floats, shape (N, 4): boxes with an area, inside their image, so
    0 <= x1 < x2 <= ``width`` and 0 <= y1 < y2 <= ``height``. A row of four NaN is a missing label.

    Parameters
    ----------
    name : str
        See :class:`Task`.
    width, height : float
        The image's sides in the unit of the boxes. As they come, boxes are shares of the sides; for
        boxes in pixels give the number of pixels. Heads start from them: without the right unit a
        box in pixels is out of their reach.

    Examples
    --------
    >>> Boxes("box").outputs, Boxes("box", width=640, height=480).width
    (4, 640)
    """

    width: float = 1
    height: float = 1
    outputs: ClassVar[int] = 4
    missing: ClassVar[float] = np.nan

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.width < np.inf and 0 < self.height < np.inf):
            raise ValueError(
                f"task {self.name!r} needs the sides of its images, above 0; got width="
                f"{self.width!r} and height={self.height!r}"
            )


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
        As :func:`check_targets` allows them.

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

    Losses do not name a wrong label (they are NaN then: on a GPU, a look at each label in each step
    would cost a synchronisation), so training looks once, here, before the first step.

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
        if target.dtype.kind not in "biuf":
            raise ValueError(f"task {task.name!r}: targets are numbers, not of type {target.dtype}")
        if isinstance(task, Classification | Binary):
            top = task.classes - 1 if isinstance(task, Classification) else 1
            wrong = (target != np.round(target)) | (target < -1) | (target > top)
            allowed = f"allowed are the integers 0 to {top}, and -1 where missing"
        elif isinstance(task, Boxes):
            low, high, sides = target[:, :2], target[:, 2:], np.array([task.width, task.height])
            inside = (low >= 0) & (low < high) & (high <= sides * (1 + 1e-6))  # but for rounding
            wrong = ~inside.all(axis=1) & ~np.isnan(target).all(axis=1)
            allowed = (
                f"allowed are 0 <= x1 < x2 <= {task.width} and 0 <= y1 < y2 <= {task.height} (the "
                "width and height of the task), and four NaN where missing"
            )
        else:
            wrong = np.isinf(target)
            allowed = "allowed are finite numbers, and NaN where missing"
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(f"task {task.name!r}: row {row} holds {target[row]}; {allowed}")
