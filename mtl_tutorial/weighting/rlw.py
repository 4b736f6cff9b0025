"""Random loss weighting: new random weights in every step."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mtl_tutorial.weighting._base import Weighting


@dataclass(eq=False)
class RLW(Weighting):
    r"""Random loss weighting: new weights in every step, whatever the losses are.

    .. math:: w_k = \frac{\exp(z_k)}{\sum_l \exp(z_l)}, \qquad z_k \sim \mathcal N(0, 1)

    where :math:`z` is drawn anew in every step (Lin et al., 2022). A litmus test: a method that does
    not beat it has not shown that its rule matters. On average each task gets 1/T.

    The weights sum to 1: the step has the size of the mean.

    One number is drawn for each task, absent or not, so the same seed gives a task the same numbers
    whatever labels are missing; the weights of the present tasks sum to 1.

    Parameters
    ----------
    seed : int
        Of the random weights.

    Examples
    --------
    >>> weights = RLW(seed=0)([0.3, 2.0])
    >>> bool(weights.sum().round(12) == 1)
    True
    """

    seed: int = 0
    needs_losses: ClassVar[bool] = False
    claims: ClassVar[frozenset[str]] = frozenset(
        {"non-negative", "homogeneous", "linear-under-scaling"}
    )
    remembers: ClassVar[tuple[str, ...]] = ("generator",)

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.seed)

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        """Give random weights of sum 1, shape (T,)."""
        shares = np.exp(self.generator.standard_normal(self._count(losses))[self.present])
        return np.asarray(shares / shares.sum())
