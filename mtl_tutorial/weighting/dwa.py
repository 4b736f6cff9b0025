"""Dynamic weight average: more weight for the losses that fall slowly."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mtl_tutorial.weighting._base import Weighting


@dataclass(eq=False)
class DWA(Weighting):
    r"""Dynamic weight average: more weight for the tasks whose loss falls slowly.

    .. math:: w_k = T \, \frac{\exp(r_k / \tau)}{\sum_l \exp(r_l / \tau)}, \qquad
       r_k = \frac{\bar L_k^{(e-1)}}{\bar L_k^{(e-2)}}

    where :math:`\bar L_k^{(e)}` is the mean loss of task :math:`k` over the batches of epoch
    :math:`e` that had it, and :math:`\tau` the temperature (Liu, Johns & Davison, 2019). In the
    first two epochs all weights are 1.

    In a loop of your own call :meth:`end_epoch` after each epoch (``fit`` does, in both
    frameworks). The object cannot know how long an epoch is: if it is never told, all weights stay
    1, without a word.

    The weights sum to T: the step has the size of the sum.

    A task that was absent for a whole epoch keeps its last two means; one without two of them, or
    whose older mean is 0, has :math:`r_k = 1`. A task's weight does not depend on which others are
    absent.

    Parameters
    ----------
    temperature : float
        :math:`\tau`; larger values bring the weights nearer to 1.

    Raises
    ------
    ValueError
        ``temperature`` is not positive.

    Examples
    --------
    >>> weighting = DWA()
    >>> for losses in ([1.0, 1.0], [0.5, 1.0]):  # two epochs of one batch: only the first falls
    ...     weights = weighting(losses)
    ...     weighting.end_epoch()
    >>> weighting([0.5, 1.0]).round(3)
    array([0.876, 1.124])
    """

    temperature: float = 2.0
    claims: ClassVar[frozenset[str]] = frozenset(
        {"non-negative", "permutation-equivariant", "homogeneous", "linear-under-scaling"}
    )
    remembers: ClassVar[tuple[str, ...]] = ("sums", "means")

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive; got {self.temperature}")
        self.sums = np.zeros((2, 0))  # this epoch: sum of the losses, number of batches
        self.means = np.zeros((2, 0))  # the epoch before last, the last one; NaN if there is none

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        """Give weights from the epochs before, shape (T,), and add up this one's losses."""
        self._remember(losses, sums=0, means=np.nan)
        self.sums[:, self.present] += np.array([losses, np.ones(len(losses))])
        older, newer = self.means
        known = np.isfinite(older) & (older != 0)
        with np.errstate(over="ignore"):
            rates = np.divide(newer, older, out=np.ones(len(older)), where=known)
        exponents = np.nan_to_num(rates) / self.temperature
        shares = np.exp(exponents - exponents.max())
        return np.asarray(len(shares) * shares / shares.sum())[self.present]

    def end_epoch(self) -> None:
        """Turn this epoch's sums into means, and forget the oldest."""
        total, batches = self.sums
        seen = batches > 0
        self.means[:, seen] = [self.means[1, seen], total[seen] / batches[seen]]
        self.sums[:] = 0
