"""IMTL-G: a step with equal projections on all task gradients."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mtl_tutorial.weighting._base import Weighting
from mtl_tutorial.weighting._solvers import norms_and_cosines, spectrum


@dataclass(eq=False)
class IMTLG(Weighting):
    r"""The step whose projections on all task gradients are equal.

    .. math:: u_k \cdot d = u_l \cdot d \quad \text{for all } k, l, \qquad
       d = \sum_k w_k g_k, \quad \sum_k w_k = 1, \quad u_k = g_k / \|g_k\|

    where :math:`g_k` is the gradient of task :math:`k` on the shared parameters (Liu et al., 2021,
    "Towards impartial multi-task learning"). With the cosines :math:`C_{kl} = u_k \cdot u_l`:
    :math:`w_k \propto (C^{-1} \mathbf{1})_k / \|g_k\|`. For two tasks the direction is the bisector
    of the gradients, as in :class:`NashMTL`.

    The weights sum to 1, and may be negative. With three tasks or more their sum before the
    division can be negative too: then the common projection is negative and the step *raises* every
    loss. Which sign it has may change with the scale of one loss; on the way it passes 0, and near
    there the step is as long as you like: it has no bound.

    The paper solves for the weights from differences of gradients; TorchJD uses the pseudo-inverse
    of the Gramian, this class that of the cosines. At full rank the three agree. Gradients that are
    linearly dependent, which is decided by the rounding of the Gramian, may have no step with equal
    projections: then they are as near to equal as can be, in the sum of squares before the
    division. This is the limit for two tasks whose gradients become parallel, and a short gradient
    is not taken for a missing one. A zero gradient gets weight 0. Where the only equal projections
    are 0 (opposite gradients), or rounding decides the sign of the sum, all weights are 0.

    Examples
    --------
    >>> IMTLG()([1, 1], [[1.0, 0.0], [0.0, 9.0]])
    array([0.75, 0.25])
    """

    needs_losses: ClassVar[bool] = False
    needs_gramian: ClassVar[bool] = True
    claims: ClassVar[frozenset[str]] = frozenset({"permutation-equivariant", "homogeneous"})

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        """Give weights of sum 1 (or all 0), shape (T,)."""
        assert gramian is not None
        norms, cosines = norms_and_cosines(gramian)
        here = norms > 0
        if not here.any():
            return np.zeros(len(norms))
        values, vectors, noise = spectrum(cosines, gramian.dtype)
        kept = values > noise
        balanced = vectors[:, kept] @ (here @ vectors[:, kept] / values[kept])
        raw = np.where(here, balanced * (norms[here].min() / np.where(here, norms, 1)), 0)
        doubt = noise / values[kept][0]
        if abs(raw.sum()) <= doubt * np.abs(raw).sum() or np.abs(balanced).max() <= noise:
            return np.zeros(len(norms))
        return np.asarray(raw / raw.sum())
