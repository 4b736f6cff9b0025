"""Equal weighting: the plain sum of the losses."""

from typing import ClassVar

import numpy as np

from mtl_tutorial.weighting._base import Weighting


class Equal(Weighting):
    r"""Every task counts once: the step goes down the plain sum of the losses.

    .. math:: w_k = 1

    The baseline of every comparison (Caruana, 1997). The step has the size of the sum: with twice
    the tasks the gradient on the trunk is about twice as long.

    Examples
    --------
    >>> Equal()([0.3, 2.0])
    array([1., 1.])
    """

    needs_losses: ClassVar[bool] = False
    claims: ClassVar[frozenset[str]] = frozenset(
        {"non-negative", "permutation-equivariant", "homogeneous", "linear-under-scaling"}
    )

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        """Give ones, shape (T,)."""
        return np.ones(len(losses))
