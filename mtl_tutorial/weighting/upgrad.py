"""UPGrad: each gradient projected so that it hurts no task, then the mean."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mtl_tutorial.weighting._base import Weighting
from mtl_tutorial.weighting._solvers import points, project_on_dual_cone


@dataclass(eq=False)
class UPGrad(Weighting):
    r"""Project each task gradient so that it conflicts with none, then take the mean.

    .. math:: d = \frac{1}{T} \sum_k \pi(g_k), \qquad
       \pi(g) = \arg\min_{x} \|x - g\|
       \quad \text{such that} \quad g_l \cdot x \ge 0 \ \text{for all } l

    where :math:`g_k` is the gradient of task :math:`k` on the shared parameters (Quinton & Rey,
    2024). Each projection is a combination :math:`\sum_l v_{kl}\, g_l` with :math:`v_k \ge e_k`;
    the weights are the columns' means, :math:`w_l = \frac{1}{T} \sum_k v_{kl}`. Without conflict
    this is the plain mean; with it, no loss rises to first order. For two tasks it is half of
    :class:`PCGrad`.

    The step has the size of the mean, at most the mean length of the gradients: multiply by T to
    compare with :class:`Equal`.

    TorchJD, by the same authors, adds 1e-4 to the diagonal of the normalised Gramian before it
    solves, so rows of very different length may still conflict a little. Here the gradients are
    scaled to unit length, and what is added is only the rounding of the Gramian (1e-6 T in single,
    2e-15 T in double precision). Among gradients that are opposite to within its square root, which
    a Gramian so rounded cannot tell apart, the bound is kept and a task may lose, at most twice
    that root times the mean length of the gradients: 0.002 :math:`\sqrt T` in single precision
    (0.0013 at worst, on 9,000 Jacobians made for it).

    Examples
    --------
    >>> UPGrad()([1, 1], [[1.0, -0.5], [-0.5, 1.0]])
    array([0.75, 0.75])
    >>> UPGrad()([1, 1], [[1.0, 0.5], [0.5, 1.0]])
    array([0.5, 0.5])
    """

    needs_losses: ClassVar[bool] = False
    needs_gramian: ClassVar[bool] = True
    claims: ClassVar[frozenset[str]] = frozenset(
        {
            "non-negative",
            "permutation-equivariant",
            "homogeneous",
            "linear-under-scaling",
            "non-conflicting",
        }
    )

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        """Give the mean of the weights of the projections, shape (T,)."""
        assert gramian is not None
        directions, norms, _ = points(gramian)
        projected = np.array([project_on_dual_cone(directions, own) for own in np.eye(len(norms))])
        here = norms > 0
        weights = np.full(len(norms), 1 / len(norms))  # what a zero gradient keeps
        weights[here] = norms @ projected[:, here] / norms[here] / len(norms)
        return weights
