"""What every data set looks like."""

import numbers
from collections.abc import Sequence
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
    inputs : ndarray, shape (N, ...)
        Images float32 with grey values in [0, 1]; rows of word numbers int64.
    targets : dict of str to ndarray, shape (N,) or (N, 4)
        By task name: class numbers int64; quantities and boxes float32.

    Raises
    ------
    ValueError
        If a task has more or fewer targets than there are inputs.

    Examples
    --------
    >>> from mtl_tutorial.datasets import digits
    >>> train = digits().train
    >>> len(train)
    1197
    >>> train.take(slice(100))
    Split(inputs=(100, 28, 28), targets=[digit, gt5])
    """

    inputs: npt.NDArray[Any]
    targets: dict[str, npt.NDArray[Any]]

    def __post_init__(self) -> None:
        for task, target in self.targets.items():
            if len(target) != len(self.inputs):
                raise ValueError(
                    f"task {task!r} has {len(target)} targets for {len(self.inputs)} inputs"
                )

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        return f"Split(inputs={self.inputs.shape}, targets=[{', '.join(self.targets)}])"

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
        return Split(
            self.inputs[index],
            {task: target[index] for task, target in self.targets.items()},
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in three splits, and where it came from.

    Parameters
    ----------
    name : str
        The name of the function that made it, such as ``"mnist"``.
    source : str
        ``"real"`` for the official files, ``"embedded"`` for scikit-learn's digits.
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


def check_inputs(inputs: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return inputs as an array, or say which row and column holds no finite number.

    ``fit``, ``evaluate`` and ``predict`` ask this before the first step; a loop of your own can.

    Parameters
    ----------
    inputs : array, shape (N, ...)

    Returns
    -------
    ndarray, shape (N, ...)

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
    inputs = np.asarray(inputs)
    if not inputs.size:
        raise ValueError(f"there is nothing to learn from: the inputs have shape {inputs.shape}")
    if inputs.dtype.kind in "US":
        raise ValueError("the inputs are texts: mtl_tutorial.text makes numbers of them")
    if inputs.dtype.kind not in "biufO":
        raise ValueError(f"the inputs are of type {inputs.dtype}, not real numbers")
    if inputs.dtype.kind == "O":
        wrong = np.reshape([not isinstance(x, numbers.Real) for x in inputs.flat], inputs.shape)
        if not wrong.any():
            raise ValueError(
                "the inputs are Python objects (dtype object): convert them, inputs.astype('float32')"
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
    raise ValueError(f"inputs: row {place[0]}{column} holds {inputs[place]!s}, not {what}")


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
    kinds = sorted({f"{split.inputs.dtype} {split.inputs.shape[1:]}" for split in splits})
    if len(kinds) != 1:
        raise ValueError(
            f"the data sets' inputs must be of one kind, bring them to one size; got {kinds}"
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
    return Split(np.concatenate([split.inputs for split in splits]), targets)
