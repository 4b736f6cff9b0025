"""What every data set looks like."""

import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mtl_tutorial.tasks import Task


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Inputs, and for every task a target for each of them.

    Parameters
    ----------
    inputs : ndarray, shape (N, ...), or a dict or tuple of such
        Images float32 with grey values in [0, 1]; rows of word numbers int64. What a model takes as
        several inputs is a dict or a tuple of arrays with N rows each.
    targets : dict of str to ndarray, shape (N,)
        By task name: class numbers int64; quantities and boxes float32. See each kind of task for
        the shapes of labels of tokens, pixels, boxes, and several questions.
    sample_weight : ndarray, shape (N,), or dict of str to such, optional
        How much each row counts, for all tasks or by task name; a weight of 0 is a missing label.

    Raises
    ------
    ValueError
        If inputs, targets or weights differ in their number of rows.

    Examples
    --------
    >>> from mtl_tutorial.datasets import digits
    >>> train = digits().train
    >>> len(train)
    1197
    >>> train.take(slice(100))
    Split(inputs=(100, 28, 28), targets=[digit, gt5])
    >>> Split({"user": np.zeros(3, int), "film": np.zeros((3, 2))}, {"click": np.ones(3)})
    Split(inputs={user: (3,), film: (3, 2)}, targets=[click])
    """

    inputs: Any  # a union would ask each reader of an array which of the three it is
    targets: dict[str, npt.NDArray[Any]]
    sample_weight: npt.NDArray[Any] | dict[str, npt.NDArray[Any]] | None = None

    def __post_init__(self) -> None:
        arrays = leaves(self.inputs)
        for name, array in arrays.items():
            if len(array) != len(self):
                raise ValueError(
                    f"input {name!r} has {len(array)} rows, but {next(iter(arrays))!r} has {len(self)}"
                )
        for task, target in self.targets.items():
            if len(target) != len(self):
                raise ValueError(f"task {task!r} has {len(target)} targets for {len(self)} inputs")
        weights = self.sample_weight
        named = weights if isinstance(weights, dict) else {"all tasks": weights}
        for task, weight in named.items():
            if weight is not None and np.shape(weight) != (len(self),):
                raise ValueError(
                    f"the sample_weight of {task!r} has shape {np.shape(weight)}, expected "
                    f"({len(self)},), one a row"
                )

    def __len__(self) -> int:
        return len(next(iter(leaves(self.inputs).values())))

    def __repr__(self) -> str:
        if isinstance(self.inputs, np.ndarray):
            shapes = f"{self.inputs.shape}"
        else:
            each = [f"{name}: {array.shape}" for name, array in leaves(self.inputs).items()]
            shapes = "{" + ", ".join(each) + "}"
        return f"Split(inputs={shapes}, targets=[{', '.join(self.targets)}])"

    def take(self, index: slice | Sequence[int] | npt.NDArray[Any]) -> "Split":
        """Give the chosen rows, inputs and targets alike.

        Parameters
        ----------
        index : slice, sequence of int, or ndarray of int or bool
            The rows, in the wanted order. A slice gives views, an array copies.

        Returns
        -------
        Split
            The chosen rows.

        Raises
        ------
        IndexError
            If a row does not exist.

        Examples
        --------
        >>> from mtl_tutorial.datasets import digits
        >>> train = digits().train
        >>> large = train.take(train.targets["gt5"] == 1)
        >>> int(large.targets["digit"].min())
        6
        """
        weights = None
        if self.sample_weight is not None:
            weights = map_arrays(lambda array: array[index], self.sample_weight)
        return Split(
            map_arrays(lambda array: array[index], self.inputs),
            {task: target[index] for task, target in self.targets.items()},
            weights,
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in three splits, and where it came from.

    Parameters
    ----------
    name : str
        The name of the function that made it, such as ``"mnist"``.
    source : str
        ``"real"`` for the official files, ``"embedded"`` for scikit-learn's digits, ``"generated"``
        for what a program draws.
    train, valid, test : Split
        To fit, to choose, and to report.

    Examples
    --------
    >>> from mtl_tutorial.datasets import digits
    >>> data = digits()
    >>> data.source, len(data.train), len(data.valid), len(data.test)
    ('embedded', 1197, 300, 300)
    """

    name: str
    source: str
    train: Split
    valid: Split
    test: Split


def map_arrays(function: Callable[[Any], Any], arrays: Any) -> Any:
    """Apply a function to an array, or to each in a dict or a tuple, and give the same structure.

    Examples
    --------
    >>> map_arrays(len, {"user": [1, 2], "film": [3]})
    {'user': 2, 'film': 1}
    """
    if isinstance(arrays, Mapping):
        return {name: function(array) for name, array in arrays.items()}
    if isinstance(arrays, tuple):
        return tuple(function(array) for array in arrays)
    return function(arrays)


def leaves(arrays: Any) -> dict[str, Any]:
    """Give the arrays of inputs by name: that in the dict, the place in the tuple, or ``inputs``.

    Examples
    --------
    >>> list(leaves((np.zeros(3), np.zeros(3))))
    ['inputs[0]', 'inputs[1]']
    """
    if isinstance(arrays, Mapping | tuple) and not arrays:
        raise ValueError("there are no inputs: the dict or tuple of arrays is empty")
    if isinstance(arrays, Mapping):
        return {str(name): array for name, array in arrays.items()}
    if isinstance(arrays, tuple):
        return {f"inputs[{i}]": array for i, array in enumerate(arrays)}
    return {"inputs": arrays}


def check_inputs(inputs: Any) -> Any:
    """Return inputs as arrays, or say which row and column holds no finite number.

    ``fit``, ``evaluate`` and ``predict`` ask this before the first step; a loop of your own can.

    Parameters
    ----------
    inputs : array, shape (N, ...), or a dict or tuple of such

    Returns
    -------
    ndarray, shape (N, ...), or a dict or tuple of such

    Raises
    ------
    ValueError
        There is no row, or something is no number, NaN, infinite, or too large for float32.

    Examples
    --------
    >>> check_inputs([[0.5, 1.0], [0.25, float("nan")]])
    Traceback (most recent call last):
    ValueError: inputs: row 1, column 1 holds nan, not a finite number of float32
    """
    checked = [_check_array(name, array) for name, array in leaves(inputs).items()]
    each = iter(checked)
    return map_arrays(lambda _: next(each), inputs)


def _check_array(name: str, given: Any) -> npt.NDArray[Any]:
    """As :func:`check_inputs`, of one array."""
    inputs: npt.NDArray[Any] = np.asarray(given)
    of = "the inputs" if name == "inputs" else f"the inputs {name!r}"
    if not inputs.size:
        raise ValueError(f"there is nothing to learn from: {of} have shape {inputs.shape}")
    if inputs.dtype.kind in "US":
        raise ValueError(f"{of} are texts: mtl_tutorial.text makes numbers of them")
    if inputs.dtype.kind not in "biufO":
        raise ValueError(f"{of} are of type {inputs.dtype}, not real numbers")
    if inputs.dtype.kind == "O":
        wrong = np.reshape([not isinstance(x, numbers.Real) for x in inputs.flat], inputs.shape)
        if not wrong.any():
            raise ValueError(
                f"{of} are Python objects (dtype object): convert them, inputs.astype('float32')"
            )
        what = "a number; the inputs are Python objects (dtype object)"
    else:
        with np.errstate(over="ignore"):  # two numbers tell whether all are finite
            if np.isfinite(np.array([inputs.min(), inputs.max()]).astype("float32")).all():
                return inputs
            wrong = ~np.isfinite(inputs.astype("float32"))
        what = "a finite number of float32"
    place = tuple(np.argwhere(wrong)[0].tolist())
    column = {1: "", 2: f", column {place[-1]}"}.get(len(place), f", place {place[1:]}")
    raise ValueError(f"{name}: row {place[0]}{column} holds {inputs[place]!s}, not {what}")


def concatenate(splits: Sequence[Split], tasks: Sequence[Task]) -> Split:
    """Put several data sets under each other; a task whose label one lacks is missing there.

    So data sets with different labels become one, which trains like any other. The functions in
    :mod:`mtl_tutorial.sampling` choose which of them the next batch is from; tell them
    ``lengths=[len(split) for split in splits]``.

    Parameters
    ----------
    splits : sequence of Split
        Their inputs alike in shape (but for the number of rows) and in dtype.
    tasks : sequence of Task
        The targets to keep. A name that several data sets have is one task with labels in each.

    Returns
    -------
    Split
        The rows of the first data set, then of the second, and so on. Missing is -1 or NaN, as the
        kind of the task says.

    Raises
    ------
    ValueError
        There is no data set, or inputs differ.
    KeyError
        No data set has labels for a task.

    Examples
    --------
    >>> from mtl_tutorial.tasks import Binary, Classification
    >>> five, three = Split(np.zeros((5, 2)), {"a": np.ones(5)}), Split(np.zeros((3, 2)), {"b": np.ones(3)})
    >>> both = concatenate([five, three], [Classification("a", classes=4), Binary("b")])
    >>> both.targets["a"].tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0]
    """
    if not splits:
        raise ValueError("there is no data set to put together")
    arrays = [leaves(split.inputs) for split in splits]
    kinds = sorted(
        {
            ", ".join(f"{name} {array.dtype} {array.shape[1:]}" for name, array in own.items())
            for own in arrays
        }
    )
    if len(kinds) != 1:
        raise ValueError(
            f"the data sets' inputs must be of one kind, bring them to one size; got {kinds}"
        )
    if any(split.sample_weight is not None for split in splits):
        raise ValueError(
            "data sets with a sample_weight are not put together; give the weights to the result: "
            "Split(both.inputs, both.targets, sample_weight)"
        )
    targets = {}
    for task in tasks:
        there = [split.targets[task.name] for split in splits if task.name in split.targets]
        if not there:
            raise KeyError(f"no data set has labels for task {task.name!r}")
        missing = np.full(there[0].shape[1:], task.missing, there[0].dtype)
        targets[task.name] = np.concatenate(
            [
                split.targets.get(task.name, np.broadcast_to(missing, (len(split), *missing.shape)))
                for split in splits
            ]
        )
    columns = iter(zip(*(own.values() for own in arrays), strict=True))
    return Split(map_arrays(lambda _: np.concatenate(next(columns)), splits[0].inputs), targets)
