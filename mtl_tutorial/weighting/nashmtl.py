"""Nash-MTL: the bargaining solution between the tasks."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mtl_tutorial.weighting._base import Weighting
from mtl_tutorial.weighting._solvers import min_norm, points


@dataclass(eq=False)
class NashMTL(Weighting):
    r"""The bargaining solution of the tasks: the step with the largest product of their gains.

    .. math:: d = \arg\max_{\|d\| \le 1} \sum_k \log(g_k \cdot d), \qquad
       d \propto \sum_k \alpha_k g_k, \quad \alpha_k \, (J J^\top \alpha)_k = 1, \quad \alpha_k > 0

    where :math:`g_k`, row :math:`k` of :math:`J`, is the gradient of task :math:`k` on the shared
    parameters (Navon et al., 2022). Every task gains, and the direction does not depend on the
    scale of any loss. For two tasks it is the sum of the unit gradients, as in :class:`IMTLG`.

    The step is normalised: with :math:`w = \alpha` its length is :math:`\sqrt T` whatever the
    gradients are (T the number of those that are not zero), which is then cut to ``max_norm`` (as
    in the official code and TorchJD).

    The official code, and TorchJD with it, approximates the solution by at most 20 convex programs
    started from the last step's weights, which for three tasks or more often end elsewhere, and
    keeps the last weights where the solver fails. The official code weights the losses, heads
    included, and cuts the gradient of the trunk only; here each head follows its own loss. Here
    Newton's method minimises :math:`\tfrac12 \beta^\top C \beta - \sum_k \log \beta_k` over
    :math:`\beta_k = \alpha_k \|g_k\|`, :math:`C` being the cosines, in every step, without memory.
    To the diagonal of :math:`C` the rounding of the Gramian is added (1e-6 T in single, 2e-15 T in
    double precision), which makes the step a little shorter, never longer. Where no direction helps
    all tasks for certain (opposite gradients, or opposite but for the rounding) there is no
    bargain, and all weights are 0. So is the weight of a zero gradient.

    Parameters
    ----------
    max_norm : float
        The longest step; 0 for no limit.

    Raises
    ------
    ValueError
        ``max_norm`` is negative.
    RuntimeError
        Newton's method has not converged, which no known input brings about.

    Examples
    --------
    >>> NashMTL()([1, 1], [[4.0, 0.0], [0.0, 16.0]]).round(4)
    array([0.3536, 0.1768])
    """

    max_norm: float = 1.0
    needs_losses: ClassVar[bool] = False
    needs_gramian: ClassVar[bool] = True
    claims: ClassVar[frozenset[str]] = frozenset(
        {"non-negative", "permutation-equivariant", "scale-invariant", "non-conflicting"}
    )

    def __post_init__(self) -> None:
        if not self.max_norm >= 0:
            raise ValueError(f"max_norm is a length, at least 0; got {self.max_norm}")

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        """Give positive weights (0 for a zero gradient), shape (T,)."""
        assert gramian is not None
        directions, norms, noise = points(gramian)
        here = norms > 0
        if not here.any():
            return np.zeros(len(norms))
        beta = _bargain(directions[:, here], noise)
        length = float(np.linalg.norm(directions[:, here] @ beta))
        size = self.max_norm / length if 0 < self.max_norm < length else 1.0
        weights = np.zeros(len(norms))
        weights[here] = size * beta / norms[here]
        return weights


def _bargain(directions: np.ndarray, noise: float) -> np.ndarray:
    """Find b > 0 with b * (P.T P b) = 1, or 0 where the noise leaves no surely common direction.

    Newton's method with the step of self-concordance theory. The start is right for gradients that
    nearly cancel; each step is a least squares problem, whose normal equations would square the
    rounding.
    """
    shortest = min_norm(directions)
    length = float(np.linalg.norm(directions @ shortest))
    if length**2 <= noise * (shortest.max() + 1 / len(shortest)):
        return np.zeros(len(shortest))
    cosines, beta = (
        directions.T @ directions,
        np.maximum(1, shortest * len(shortest) ** 0.5 / length),
    )
    for _ in range(500):
        gradient = directions.T @ (directions @ beta) - 1 / beta
        step = -np.linalg.solve(cosines + np.diag(beta**-2), gradient)
        decrement = float(np.sqrt(np.maximum(-(gradient @ step), 0)))
        beta = beta + (step if decrement < 0.25 else step / (1 + decrement))
        if decrement < 1e-5:  # the next one would be its square, which is rounding
            # what P adds to the cosines takes noise * beta off u_k @ d = 1 / beta_k
            return np.asarray(beta if noise * beta.max() ** 2 <= 0.5 else 0 * beta)
    raise RuntimeError("Nash-MTL: Newton's method did not converge in 500 steps")
