"""CAGrad: near the mean gradient, the direction that is best for the worst task."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mtl_tutorial.weighting._base import Weighting
from mtl_tutorial.weighting._solvers import min_norm, points


@dataclass(eq=False)
class CAGrad(Weighting):
    r"""Within a ball around the mean gradient, the step that the worst-off task likes best.

    .. math:: d = \arg\max_{\|d - g_0\| \le c \|g_0\|} \; \min_k \; g_k \cdot d
       = g_0 + \frac{c \|g_0\|}{\|g_w\|}\, g_w, \qquad
       w = \arg\min_{w \in \Delta} \; g_w \cdot g_0 + c \|g_0\| \|g_w\|

    where :math:`g_k` is the gradient of task :math:`k` on the shared parameters, :math:`g_0` their
    mean, and :math:`g_w = \sum_k w_k g_k` with :math:`w` on the simplex :math:`\Delta` (Liu et al.,
    2021). With :math:`c = 0` it is the mean; a large :math:`c` points like :class:`MGDA`. From
    :math:`c = 1` on no loss rises to first order, below it one may. A task whose gradient is zero
    counts in the mean, but is never the worst-off.

    The step has the size of the mean, times a number between :math:`1 - c` and :math:`1 + c`.

    The official code divides by :math:`1 + c^2` (its ``rescale=1``) and in places multiplies by T,
    to match the sum of the losses; Algorithm 1 of the paper, TorchJD and this class do neither.
    TorchJD sets all weights to 0 where :math:`g_w` is short, which leaves the ball if
    :math:`c < 1`. The minimum is exact: for a given length of :math:`g_w` it is a min-norm point,
    and the length is a root in one variable, known in closed form once the tasks with
    :math:`w_k > 0` are.

    The step stays in the ball whatever the rounding of the Gramian: where :math:`g_w` is shorter
    than that, and where :math:`g_0` is, the pull is shorter than the radius, down to 0, and from
    :math:`c = 1` on a loss may rise a little. Losses are compared as they are, so a gradient 1e-6
    as long as another in single precision is heard no more than rounding is.

    Parameters
    ----------
    c : float
        Radius of the ball in units of :math:`\|g_0\|`, at least 0.

    Raises
    ------
    ValueError
        ``c`` is negative or not finite.

    Examples
    --------
    >>> CAGrad(c=0.5)([1, 1], [[1.0, 0.0], [0.0, 1.0]])
    array([0.75, 0.75])
    """

    c: float = 0.5
    needs_losses: ClassVar[bool] = False
    needs_gramian: ClassVar[bool] = True
    claims: ClassVar[frozenset[str]] = frozenset(
        {"non-negative", "permutation-equivariant", "homogeneous"}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.c < np.inf:
            raise ValueError(f"c is a radius, at least 0; got {self.c}")

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        """Give 1/T plus the pull towards the worst-off tasks, shape (T,)."""
        assert gramian is not None
        directions, norms, noise = points(gramian)
        norms /= norms.max() or 1.0
        here, weights = norms > 0, np.full(len(norms), 1 / len(norms))
        columns, mean = directions[:, here] * norms[here], directions @ norms / len(norms)
        surely = mean @ mean - 2 * noise * (norms @ norms) / len(norms) ** 2
        radius = self.c * float(np.sqrt(max(surely, 0.0)))
        if radius > 1e-150:
            worst = _worst_case(columns, mean, radius)
            weights[here] += radius / float(np.linalg.norm(columns @ worst)) * worst
        return weights


def _worst_case(columns: np.ndarray, mean: np.ndarray, radius: float) -> np.ndarray:
    """Minimise ``(P w) @ mean + radius * norm(P w)`` over the simplex, P being the columns.

    With s = norm(P w) given, w is the min-norm point of the columns shifted by t * mean, where
    t = s / radius. While the tasks of positive weight stay the same, P w is a fixed vector minus t
    times the part of the mean that lies along their affine hull, so the root t is known; if that
    leaves the bracket, and in every third step, the bracket is halved instead (in the logarithm).
    """
    low, high = 0.0, 1.001 * float(np.linalg.norm(columns, axis=0).max()) / radius
    shift = min(1.0, high)
    for number in range(200):
        shifted = columns + shift * mean[:, None]
        weights = min_norm(shifted)
        point = columns @ weights
        excess = float(np.linalg.norm(point)) - radius * shift
        rounding = 1e-14 * float(np.linalg.norm(shifted, axis=0) @ weights)
        if abs(excess) <= rounding or high - low <= 1e-15 * high:
            return weights
        low, high = (shift, high) if excess > 0 else (low, shift)
        first, *others = columns[:, weights > 0].T
        basis = np.linalg.qr(np.array([o - first for o in others]).T)[0] if others else None
        along = np.zeros_like(mean) if basis is None else basis @ (basis.T @ mean)
        room = radius**2 - along @ along
        shift = float(np.linalg.norm(point + shift * along)) / np.sqrt(room) if room > 0 else high
        if not low < shift < high or number % 3 == 2:
            low = low or 0.999 * float(np.linalg.norm(columns @ min_norm(columns))) / radius
            shift = float(np.sqrt(low) * np.sqrt(high))
    raise RuntimeError("CAGrad: the length of g_w was not found in 200 steps")
