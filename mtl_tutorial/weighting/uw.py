"""Uncertainty weighting: a learned log-variance a task."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mtl_tutorial.weighting._base import Weighting


@dataclass(eq=False)
class UW(Weighting):
    r"""Uncertainty weighting: each task has a log-variance that is learned with the model.

    .. math:: \min_{\theta, s} \; \sum_k \tfrac12 e^{-s_k} L_k + \tfrac12 s_k, \qquad
       w_k = \tfrac12 e^{-s_k}, \qquad
       s_k \leftarrow s_k - \eta \, \tfrac12 \big( 1 - e^{-s_k} L_k \big)

    where :math:`L_k` is the loss of task :math:`k`, :math:`s_k = \log \sigma_k^2` its log-variance,
    which starts at 0, and :math:`\eta` the learning rate (Kendall, Gal & Cipolla, 2018). At rest
    :math:`e^{-s_k} = 1 / L_k`, which is :class:`InverseLoss` up to the factor. The minimised sum may
    well be negative, as :math:`s_k` has no lower bound; that is no error.

    The step starts at half the size of the sum, and grows as the losses fall.

    The paper and TorchJD leave the log-variances to the model's optimiser; here they take their own
    plain gradient step, from the values the weights were made with. They are kept within ±50, so
    that a step that is far too long cannot end in an infinite weight.

    Parameters
    ----------
    lr : float
        Learning rate :math:`\eta` of the log-variances; 0.025 as in Chen et al. (2018).

    Raises
    ------
    ValueError
        ``lr`` is negative or not finite.

    Examples
    --------
    >>> weighting = UW(lr=0.2)
    >>> weighting([0.5, 4.0])
    array([0.5, 0.5])
    >>> weighting([0.5, 4.0]).round(3)
    array([0.526, 0.37 ])
    """

    lr: float = 0.025
    claims: ClassVar[frozenset[str]] = frozenset({"non-negative", "permutation-equivariant"})
    remembers: ClassVar[tuple[str, ...]] = ("log_variances",)

    def __post_init__(self) -> None:
        if not 0 <= self.lr < np.inf:
            raise ValueError(f"lr must be at least 0; got {self.lr}")
        self.log_variances = np.zeros(0)

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        """Give half the inverse variances, shape (T,), and take a step on them."""
        self._remember(losses, log_variances=0)
        precisions = np.exp(-self.log_variances[self.present])
        step = self.lr / 2 * (1 - precisions * losses)
        self.log_variances[self.present] = np.clip(self.log_variances[self.present] - step, -50, 50)
        return np.asarray(precisions / 2)
