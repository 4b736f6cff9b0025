"""Static weighting: fixed numbers, chosen before training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mtl_tutorial.weighting._base import Weighting


@dataclass(eq=False)
class Static(Weighting):
    r"""Fixed weights, chosen before training (by hand, or by a search on validation data).

    .. math:: w_k = v_k

    The baseline that the dynamic methods must beat, and rarely do when it is tuned as carefully as
    they are (Xin et al., 2022). The step has the size of the weighted sum: multiplying all values
    by 2 is the same as doubling the learning rate of plain gradient descent.

    Parameters
    ----------
    values : sequence of float, length T
        One weight a task, in the order of the tasks. A weight of 0 switches a task off.

    Raises
    ------
    ValueError
        A value is NaN or infinite, or their number is not the number of tasks.

    Examples
    --------
    >>> Static([0.6, 0.4])([0.3, 2.0])
    array([0.6, 0.4])
    >>> Static([0.6, 0.4])([0.3, 2.0], present=[False, True])
    array([0. , 0.4])
    """

    values: Sequence[float] | np.ndarray
    needs_losses: ClassVar[bool] = False
    claims: ClassVar[frozenset[str]] = frozenset({"homogeneous", "linear-under-scaling"})

    def __post_init__(self) -> None:
        values = np.asarray(self.values, dtype=float)
        if values.ndim != 1 or not np.isfinite(values).all():
            raise ValueError(f"Static takes one finite weight a task; got {self.values!r}")

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        """Give the values of the present tasks, shape (T,)."""
        if self._count(losses) != len(self.values):
            raise ValueError(
                f"Static holds {len(self.values)} weights for {self._count(losses)} tasks"
            )
        return np.asarray(self.values, dtype=float)[self.present]
