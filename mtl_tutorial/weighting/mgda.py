"""MGDA: the shortest convex combination of the task gradients."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mtl_tutorial.weighting._base import Weighting
from mtl_tutorial.weighting._solvers import min_norm, points


@dataclass(eq=False)
class MGDA(Weighting):
    r"""The shortest vector among all convex combinations of the task gradients.

    .. math:: w = \arg\min_{w \in \Delta} \Big\| \sum_k w_k g_k \Big\|^2,
       \qquad \Delta = \Big\{ w \ge 0, \sum_k w_k = 1 \Big\}

    where :math:`g_k` is the gradient of task :math:`k` on the shared parameters. The result
    :math:`d` descends every loss, :math:`g_k \cdot d \ge \|d\|^2`, and is zero exactly where no
    direction does (Désidéri, 2012; for deep networks Sener & Koltun, 2018): both to the rounding of
    the Gramian.

    The weights sum to 1 and favour short gradients: the step is never longer than the shortest task
    gradient, hence usually shorter than the mean.

    Sener & Koltun, and TorchJD, take Frank-Wolfe steps (at most 100 in TorchJD), which converge
    slowly where the gradients nearly cancel; here the minimum is exact. Their code weights the
    losses, heads included, and can divide the gradients by their length or by the losses first;
    here, as for all methods that need the Gramian, each head follows its own loss, and nothing is
    divided.

    Of gradients that are equal but for rounding, any convex combination is as short as another: the
    weights are then anyone's, the step is not.

    Examples
    --------
    >>> MGDA()([1, 1], [[1.0, 0.0], [0.0, 3.0]])
    array([0.75, 0.25])
    """

    needs_losses: ClassVar[bool] = False
    needs_gramian: ClassVar[bool] = True
    claims: ClassVar[frozenset[str]] = frozenset(
        {"non-negative", "permutation-equivariant", "homogeneous", "non-conflicting"}
    )

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        """Give the weights of the min-norm point, shape (T,)."""
        assert gramian is not None
        directions, norms, _ = points(gramian)
        return min_norm(directions * norms)
