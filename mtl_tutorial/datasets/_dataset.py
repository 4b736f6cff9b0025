"""What every data set looks like."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt


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
