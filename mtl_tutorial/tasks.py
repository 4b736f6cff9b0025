"""What a task is, once for both frameworks: a name, a kind of target, a width of the head, metrics.

Each framework's ``losses.py`` turns these plain descriptions into losses that skip missing labels,
and :mod:`mtl_tutorial.metrics` into metrics, so a model, a data set and a chapter state their tasks
once.

A label belongs to a row, or to a place in it: targets have shape (N,), or (N, L) for tokens, or
(N, H, W) for pixels. Outputs have one axis more, the last: (N, outputs), (N, L, outputs),
(N, H, W, outputs). Where a task predicts K numbers at each place, ``outputs=K``, its targets have
that axis, too: (N, K). Each label that is missing is marked by itself.

A kind of your own is a dataclass that inherits from :class:`Task` and says ``outputs`` and
``missing``, with a function for each framework you use that is registered with its
``label_losses``; CONTRIBUTING shows one.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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


Metric = str | Callable[[np.ndarray, np.ndarray], float]


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
    metrics : sequence of str or callable
        What :func:`mtl_tutorial.metrics.scores` measures: names, see ``known_metrics`` of each kind,
        or functions of your own from the labels that are there, shape (M,), and the head's outputs
        for them, shape (M, outputs), to a number. The kind's ``usual_metrics`` if none is given.

    Attributes
    ----------
    outputs : int
        The width of the head.
    missing : float
        The mark of a missing label: -1, or NaN.
    numbers : int
        How many numbers the targets hold at each place; above 1 they have an axis for them.
    usual_metrics, known_metrics : tuple
        Those measured where none is named, and the names that can be.
    """

    name: str
    metrics: Sequence[Metric] = field(default=(), kw_only=True, repr=False)
    outputs: ClassVar[int]
    missing: ClassVar[float] = -1
    numbers: ClassVar[int] = 1
    usual_metrics: ClassVar[tuple[Metric, ...]] = ()
    known_metrics: ClassVar[tuple[str, ...]] = ()

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
        given: Any = self.metrics
        listed = (given,) if isinstance(given, str) or callable(given) else tuple(given)
        for metric in listed:
            if metric not in self.known_metrics and not hasattr(metric, "__name__"):
                raise ValueError(
                    f"task {name!r}: {metric!r} is no metric of a {type(self).__name__}; name some of "
                    f"{list(self.known_metrics)}, or give a function of labels and outputs"
                )
        object.__setattr__(self, "metrics", listed or self.usual_metrics)

    def allowed(self, targets: Any) -> Any:
        """Where a label is one that can be, or is missing.

        Written so that an array of NumPy and a tensor of PyTorch can be asked alike.

        Parameters
        ----------
        targets : numpy.ndarray or torch.Tensor, shape (N, ...)

        Returns
        -------
        numpy.ndarray or torch.Tensor of bool, the shape of the labels
        """
        return abs(targets) != np.inf

    @property
    def allows(self) -> str:
        """What :meth:`allowed` allows, in words."""
        return f"allowed are finite numbers, and {_mark(self)} where missing"


@dataclass(frozen=True)
class Classification(Task):
    r"""One of several classes; the head gives one logit a class, the loss is cross-entropy.

    Targets are integers, shape (N,), (N, L) or (N, H, W), from 0 to ``classes - 1``; -1 is a missing
    label. The logits :math:`z` have the classes as their last axis. With :math:`p = \mathrm{softmax}(z)`,
    smoothing :math:`\varepsilon` and class weights :math:`c`, the loss of a label :math:`y` is

    .. math:: -(1 - \varepsilon)\, c_y \log p_y - \frac{\varepsilon}{C} \sum_i c_i \log p_i

    and the mean divides by the sum of the :math:`c_y`, as ``torch.nn.functional.cross_entropy`` does.

    Parameters
    ----------
    name, metrics
        See :class:`Task`. Known are ``"accuracy"``, ``"f1"`` (macro-averaged for more than two
        classes), ``"balanced_accuracy"`` and ``"mean_iou"``.
    classes : int
        The number of classes C, at least 2.
    class_weights : sequence of float, length C, optional
        How much each class counts, above 0; all 1 if not given.
    label_smoothing : float
        The share :math:`\varepsilon` of each label that is spread over all classes, in [0, 1).

    Examples
    --------
    >>> Classification("digit", classes=10).outputs
    10
    """

    classes: int
    class_weights: Sequence[float] | None = field(default=None, kw_only=True)
    label_smoothing: float = field(default=0, kw_only=True)
    usual_metrics: ClassVar[tuple[Metric, ...]] = ("accuracy", "f1")
    known_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "f1", "balanced_accuracy", "mean_iou")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.classes, int) or self.classes < 2:  # type: ignore[redundant-expr]  # a caller may check no types
            raise ValueError(
                f"task {self.name!r} needs classes >= 2, an integer; got {self.classes!r}. "
                "A yes-or-no question with one logit is Binary."
            )
        if self.class_weights is not None:
            weights = _positive(self, "class_weights", self.class_weights, self.classes)
            object.__setattr__(self, "class_weights", weights)
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"task {self.name!r}: label_smoothing is a share of each label, from 0 to below 1; "
                f"got {self.label_smoothing!r}"
            )

    @property
    def outputs(self) -> int:  # type: ignore[override]  # fixed for the other kinds, not for this
        """The number of classes, since the head gives one logit a class."""
        return self.classes

    def allowed(self, targets: Any) -> Any:
        """Where a label is one that can be, or is missing; see :meth:`Task.allowed`."""
        return (targets >= -1) & (targets < self.classes) & (targets % 1 == 0)

    @property
    def allows(self) -> str:
        """What :meth:`allowed` allows, in words."""
        return f"allowed are the integers 0 to {self.classes - 1}, and -1 where missing"


@dataclass(frozen=True)
class Binary(Task):
    r"""Yes or no; the head gives one logit a question, the loss is binary cross-entropy.

    Targets are 0 or 1, shape (N,), (N, L) or (N, H, W), or (N, K) for K questions at once; -1 is a
    missing label. With :math:`p = \sigma(z)` the loss of a label :math:`y` is

    .. math:: -a\, y \log p - (1 - y) \log(1 - p)

    with :math:`a` the ``pos_weight``; the mean divides by the number of labels, as
    ``torch.nn.functional.binary_cross_entropy_with_logits`` does.

    Parameters
    ----------
    name, metrics
        See :class:`Task`. Known are ``"accuracy"``, ``"f1"``, ``"balanced_accuracy"``,
        ``"mean_iou"``, ``"auc"`` (area under the ROC curve) and ``"average_precision"``; for several
        questions their mean over the questions.
    outputs : int
        The number of questions K.
    pos_weight : float, or sequence of float, length K
        How much a yes counts against a no, above 0: the number of no by that of yes balances them.

    Examples
    --------
    >>> Binary("gt5").outputs, Binary("tags", outputs=20).outputs
    (1, 20)
    """

    outputs: int = field(default=1, kw_only=True)  # type: ignore[misc]  # fixed for other kinds
    pos_weight: float | Sequence[float] = field(default=1, kw_only=True)
    usual_metrics: ClassVar[tuple[Metric, ...]] = ("accuracy", "f1")
    known_metrics: ClassVar[tuple[str, ...]] = (
        "accuracy", "f1", "balanced_accuracy", "mean_iou", "auc", "average_precision",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_outputs(self)
        if np.ndim(self.pos_weight):
            weights = _positive(self, "pos_weight", self.pos_weight, self.outputs)
            object.__setattr__(self, "pos_weight", weights)
        else:
            _positive(self, "pos_weight", [self.pos_weight], 1)

    @property
    def numbers(self) -> int:  # type: ignore[override]  # fixed for some kinds
        """One number a question."""
        return self.outputs

    def allowed(self, targets: Any) -> Any:
        """Where a label is one that can be, or is missing; see :meth:`Task.allowed`."""
        return (targets >= -1) & (targets <= 1) & (targets % 1 == 0)

    @property
    def allows(self) -> str:
        """What :meth:`allowed` allows, in words."""
        return "allowed are the integers 0 to 1, and -1 where missing"


@dataclass(frozen=True)
class Regression(Task):
    """A number, or K of them; the loss is the squared error.

    Targets are floats, shape (N,), (N, L) or (N, H, W), or (N, K) for K numbers, in whatever unit the
    data has; NaN is a missing label.

    Parameters
    ----------
    name, metrics
        See :class:`Task`. Known are ``"mae"``, ``"rmse"`` (the mean absolute and the root mean squared
        error, in the unit of the target) and ``"r2"``; for several numbers their mean over the
        numbers.
    outputs : int
        How many numbers K.

    Examples
    --------
    >>> Regression("size").outputs, Regression("joints", outputs=34).outputs
    (1, 34)
    """

    outputs: int = field(default=1, kw_only=True)  # type: ignore[misc]  # fixed for other kinds
    missing: ClassVar[float] = np.nan
    usual_metrics: ClassVar[tuple[Metric, ...]] = ("mae",)
    known_metrics: ClassVar[tuple[str, ...]] = ("mae", "rmse", "r2")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_outputs(self)

    @property
    def numbers(self) -> int:  # type: ignore[override]  # fixed for some kinds
        """One number an output."""
        return self.outputs


@dataclass(frozen=True)
class Boxes(Task):
    """A box around an object, as corners (x1, y1, x2, y2); the loss is that of generalised IoU.

    Targets are floats, shape (N, 4): boxes with an area, inside their image, so
    0 <= x1 < x2 <= ``width`` and 0 <= y1 < y2 <= ``height``. A row of four NaN is a missing label.

    Parameters
    ----------
    name, metrics
        See :class:`Task`. Known is ``"iou"``.
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
    numbers: ClassVar[int] = 4
    missing: ClassVar[float] = np.nan
    usual_metrics: ClassVar[tuple[Metric, ...]] = ("iou",)
    known_metrics: ClassVar[tuple[str, ...]] = ("iou",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.width < np.inf and 0 < self.height < np.inf):
            raise ValueError(
                f"task {self.name!r} needs the sides of its images, above 0; got width="
                f"{self.width!r} and height={self.height!r}"
            )

    def allowed(self, targets: Any) -> Any:
        """Where a label is one that can be, or is missing; see :meth:`Task.allowed`."""
        x1, y1, x2, y2 = (targets[..., i] for i in range(4))
        right, bottom = self.width * (1 + 1e-6), self.height * (1 + 1e-6)  # but for rounding
        inside = (x1 >= 0) & (x1 < x2) & (x2 <= right) & (y1 >= 0) & (y1 < y2) & (y2 <= bottom)
        return inside | ~(abs(targets) >= 0).any(-1)  # NaN is not

    @property
    def allows(self) -> str:
        """What :meth:`allowed` allows, in words."""
        return (
            f"allowed are 0 <= x1 < x2 <= {self.width} and 0 <= y1 < y2 <= {self.height} (the "
            "width and height of the task), and four NaN where missing"
        )


def _mark(task: Task) -> str:
    return "NaN" if np.isnan(task.missing) else f"{task.missing:g}"


def _positive(task: Task, what: str, given: Any, length: int) -> tuple[float, ...]:
    """Return weights as a tuple, or say what they must be."""
    weights = np.asarray(given, dtype=float)
    if weights.shape != (length,) or not ((weights > 0) & (weights < np.inf)).all():
        raise ValueError(f"task {task.name!r}: {what} are {length} numbers above 0; got {given!r}")
    return tuple(weights.tolist())


def _check_outputs(task: Task) -> None:
    outputs: Any = task.outputs
    if not isinstance(outputs, int) or outputs < 1:
        raise ValueError(f"task {task.name!r} needs outputs >= 1, an integer; got {outputs!r}")


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


def labelled(task: Task, targets: Any) -> Any:
    """Where a label is there.

    Parameters
    ----------
    task : Task
    targets : numpy.ndarray or torch.Tensor, shape (N, ...)
        As :func:`check_targets` allows them.

    Returns
    -------
    numpy.ndarray or torch.Tensor of bool
        The shape of the targets; for boxes, whose four numbers are one label, without the last axis.

    Examples
    --------
    >>> labelled(Binary("gt5"), np.array([0, -1, 1]))
    array([ True, False,  True])
    >>> labelled(Regression("joints", outputs=2), np.array([[0.5, np.nan], [1.0, 2.0]]))
    array([[ True, False],
           [ True,  True]])
    """
    there = abs(targets) >= 0 if np.isnan(task.missing) else targets != task.missing
    return there.all(-1) if isinstance(task, Boxes) else there


def target_shape(task: Task, outputs: Sequence[int], targets: Sequence[int]) -> tuple[int, ...]:
    """Give the shape that targets must have for outputs, or say what does not fit together.

    Parameters
    ----------
    task : Task
    outputs, targets : sequence of int
        Shapes. For outputs with one row a label, targets of any shape of as many numbers will do:
        (N, 1), as many data sets have them, or (N, L) where a head gives a row a word.

    Returns
    -------
    tuple of int

    Raises
    ------
    ValueError
        Outputs are none of this task, or targets none for these outputs.

    Examples
    --------
    >>> target_shape(Classification("word", classes=50), (8, 20, 50), (8, 20))
    (8, 20)
    """
    found, given = tuple(outputs), tuple(targets)
    boxes = isinstance(task, Boxes)  # one a row
    if len(found) < 2 or found[-1] != task.outputs or (boxes and len(found) > 2):
        hint = ""
        if len(found) > 2 and task.outputs in found[1:-1] and not boxes:
            axis = found.index(task.outputs, 1)
            hint = f"; put the task's own axis last: outputs.movedim({axis}, -1)"
        places = "" if boxes else f", or (N, ..., {task.outputs}) for labels of tokens or pixels"
        raise ValueError(
            f"task {task.name!r}: outputs have shape {found}, expected (N, {task.outputs})"
            f"{places}{hint}"
        )
    expected = found if task.numbers > 1 else found[:-1]
    if given != expected and not (len(expected) == 1 and math.prod(given) == expected[0]):
        raise ValueError(
            f"task {task.name!r}: targets have shape {given}, expected {expected}, since the "
            f"outputs have {found}"
        )
    return expected


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
        shape, several = target.shape, task.numbers > 1
        expected = f"({length}, {task.numbers})" if several else f"({length},)"
        axes = len(shape) == 2 if isinstance(task, Boxes) else len(shape) > several
        if not axes or shape[0] != length or (several and shape[-1] != task.numbers):
            raise ValueError(f"task {task.name!r}: targets have shape {shape}, expected {expected}")
        if target.dtype.kind not in "biuf":
            raise ValueError(f"task {task.name!r}: targets are numbers, not of type {target.dtype}")
        wrong = ~task.allowed(target)
        if wrong.any():
            place = tuple(np.argwhere(wrong)[0].tolist())
            where = f"row {place[0]}" + (f", place {place[1:]}" if len(place) > 1 else "")
            raise ValueError(f"task {task.name!r}: {where} holds {target[place]}; {task.allows}")
