"""Inverse-loss weighting: one over the loss."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mtl_tutorial.weighting._base import Weighting


@dataclass(eq=False)
class InverseLoss(Weighting):
    r"""One over the loss of this batch, as a number: no gradient flows through the weight.

    .. math:: w_k = \frac{1}{\max(L_k, \epsilon)}

    where :math:`L_k \ge 0` is the loss of task :math:`k`. The step is the gradient of
    :math:`\sum_k \log L_k`, so no loss's scale plays a part (the geometric loss of Chennupati et
    al., 2019, has the same direction). It is also :class:`UW` with every log-variance at its best
    value for this batch, :math:`s_k = \log L_k`, up to the factor 1/2: not that method, whose
    variances are learned slowly.

    The step has no fixed size: the smaller a loss, the larger its weight. A learning rate that was
    right at the start may be too large at the end.

    Parameters
    ----------
    epsilon : float
        A smaller loss counts as this; it bounds the weights.

    Raises
    ------
    ValueError
        ``epsilon`` is not positive, or a loss is negative.

    Examples
    --------
    >>> InverseLoss()([0.5, 4.0])
    array([2.  , 0.25])
    """

    epsilon: float = 1e-8
    claims: ClassVar[frozenset[str]] = frozenset(
        {"non-negative", "permutation-equivariant", "scale-invariant"}
    )

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be positive; got {self.epsilon}")

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        """Give one over each loss, shape (T,)."""
        self._refuse(losses < 0, losses, "InverseLoss takes no negative losses")
        return np.asarray(1 / np.maximum(losses, self.epsilon))
