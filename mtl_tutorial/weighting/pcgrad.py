"""PCGrad: cut from each gradient what goes against another task, one task after the other."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mtl_tutorial.weighting._base import Weighting


@dataclass(eq=False)
class PCGrad(Weighting):
    r"""Cut from each task gradient what goes against the others, one after the other, then sum.

    .. math:: d = \sum_k \tilde g_k, \qquad
       \tilde g_k \leftarrow \tilde g_k - \min(0, \tilde g_k \cdot g_l)\, \frac{g_l}{\|g_l\|^2}
       \quad \text{for } l \ne k \text{ in random order},

    starting at :math:`\tilde g_k = g_k`, the gradient of task :math:`k` on the shared parameters
    (Yu et al., 2020). A later cut may undo an earlier one, so with three tasks or more the result
    can still conflict with a task; for two tasks it is twice :class:`UPGrad`, which never does.

    The step has the size of the sum: a cut shortens a gradient, so it is at most the sum of the
    gradients' lengths. The cuts are made on the weights, from the Gramian; the official code makes
    them on the gradients, with the same result.

    Parameters
    ----------
    seed : int
        Of the random orders. With two tasks there is no choice, and the seed plays no part.

    Examples
    --------
    >>> PCGrad()([1, 1], [[1.0, -0.5], [-0.5, 1.0]])
    array([1.5, 1.5])
    """

    seed: int = 0
    needs_losses: ClassVar[bool] = False
    needs_gramian: ClassVar[bool] = True
    claims: ClassVar[frozenset[str]] = frozenset(
        {"non-negative", "homogeneous", "linear-under-scaling"}
    )
    remembers: ClassVar[tuple[str, ...]] = ("generator",)

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.seed)

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        """Give the sums of the weights of all cut gradients, shape (T,)."""
        assert gramian is not None
        gramian = np.asarray(gramian, dtype=float)
        total = np.zeros(len(gramian))
        for task in range(len(gramian)):
            cut = np.zeros(len(gramian))
            cut[task] = 1
            for other in self.generator.permutation(len(gramian)):
                product = gramian[other] @ cut
                if other != task and product < 0 < gramian[other, other]:
                    cut[other] -= product / gramian[other, other]
            total += cut
        return total
