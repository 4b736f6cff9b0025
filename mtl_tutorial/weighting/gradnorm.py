"""GradNorm: gradients of balanced length, longer for the tasks that lag behind."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mtl_tutorial.weighting._adam import adam_step
from mtl_tutorial.weighting._base import Weighting


@dataclass(eq=False)
class GradNorm(Weighting):
    r"""Learn weights that bring the gradients to one length, longer for tasks that lag behind.

    .. math:: w \leftarrow w - \eta \, \mathrm{Adam}\big( \nabla_w \mathcal L \big), \qquad
       \mathcal L = \sum_k \Big| w_k \|g_k\| - \bar G \, r_k^{\alpha} \Big|, \qquad
       r_k = \frac{L_k / L_k^{(0)}}{\frac{1}{T} \sum_l L_l / L_l^{(0)}}

    where :math:`g_k` is the gradient of task :math:`k` on a chosen shared layer, :math:`L_k^{(0)}`
    its first loss, :math:`\bar G` the mean of the :math:`w_k \|g_k\|`, held fixed in the gradient,
    and :math:`\eta` a learning rate (Chen et al., 2018). The weights start at 1 and are divided by
    their mean after each step. Only the diagonal of the Gramian is read. The weights multiply the
    losses, heads included; a step uses them as they were before their own update, as in the paper's
    Algorithm 1.

    The weights sum to T: the step has the size of the sum.

    Unlike the paper, the gradient is divided by :math:`\bar G`, which changes nothing in Adam but
    keeps tiny gradients from drowning in its :math:`\epsilon`; a weight is at least 0.001 before it
    is divided, so it stays positive; and where tasks are absent the weights of the others keep the
    sum they had. TorchJD has no GradNorm.

    Parameters
    ----------
    alpha : float
        :math:`\alpha`, how strongly tasks that lag behind pull; 0 for equal lengths.
    lr : float
        :math:`\eta`.

    Raises
    ------
    ValueError
        ``alpha`` or ``lr`` is negative or not finite.

    Examples
    --------
    >>> weighting = GradNorm(lr=0.1)
    >>> weighting([1.0, 1.0], [[1.0, 0.0], [0.0, 9.0]])
    array([1., 1.])
    >>> weighting([1.0, 1.0], [[1.0, 0.0], [0.0, 9.0]]).round(3)
    array([1.1, 0.9])
    """

    alpha: float = 1.5
    lr: float = 0.025
    needs_gramian: ClassVar[bool] = True
    weights_heads: ClassVar[bool] = True
    claims: ClassVar[frozenset[str]] = frozenset(
        {"non-negative", "permutation-equivariant", "homogeneous"}
    )
    remembers: ClassVar[tuple[str, ...]] = ("values", "first_losses", "moments", "steps")

    def __post_init__(self) -> None:
        if not (0 <= self.alpha < np.inf and 0 <= self.lr < np.inf):
            raise ValueError(f"alpha and lr must be at least 0; got {self.alpha} and {self.lr}")
        self.values, self.first_losses, self.steps = np.zeros(0), np.zeros(0), np.zeros(0)
        self.moments = np.zeros((2, 0))

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        """Give the weights learned so far, shape (T,), and take a step on them."""
        assert gramian is not None
        self._remember(losses, values=1, first_losses=np.nan, moments=0, steps=0)
        here, weights = self.present, self.values[self.present]
        first = self.first_losses[here]
        self.first_losses[here] = first = np.where(np.isnan(first), losses, first)
        lengths = np.sqrt(np.maximum(np.diagonal(gramian).astype(float), 0))
        mean = (weights * lengths).mean()
        if mean > 0:
            ratios = np.divide(losses, first, out=np.ones(len(first)), where=first != 0)
            ratios = np.maximum(ratios, 0)
            rates = ratios / ratios.mean() if ratios.any() else np.ones(len(ratios))
            sign = np.sign(weights * lengths - mean * rates**self.alpha)
            step = self.lr * adam_step(self.moments, self.steps, here, sign * lengths / mean)
            after = np.maximum(weights - step, 1e-3)
            self.values[here] = after * (weights.sum() / after.sum())
        return weights
