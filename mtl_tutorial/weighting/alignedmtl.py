"""Aligned-MTL: make the task gradients orthogonal and of equal length, then take the mean."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mtl_tutorial.weighting._base import Weighting
from mtl_tutorial.weighting._solvers import spectrum


@dataclass(eq=False)
class AlignedMTL(Weighting):
    r"""Turn the task gradients into orthogonal ones of equal length, then take the mean.

    .. math:: w = \sqrt{\lambda_r}\; V \Lambda^{-1/2} V^\top \tfrac{1}{T} \mathbf{1}, \qquad
       J J^\top = V \Lambda V^\top

    where :math:`J` has the gradients of the tasks on the shared parameters as rows,
    :math:`\Lambda` holds the positive eigenvalues of the Gramian, and :math:`\lambda_r` is the
    smallest of them (Senushkin et al., 2023). The matrix :math:`\sqrt{\lambda_r}\, V \Lambda^{-1/2}
    V^\top J` has condition number 1, and :math:`\|d\|^2 = \lambda_r / T` at full rank.

    The step has the length :math:`\sqrt{\lambda_r / T}`, below full rank at most that: it shrinks
    with the shortest gradient and with the angle between the two closest ones, and is often far
    shorter than the mean. It is never longer than the root mean square of the gradients' lengths.

    As in TorchJD (``scale_mode="min"``), an eigenvalue counts as positive above the rounding of the
    Gramian, here 1e-6 (in double precision 2e-15) of the sum of all. So where the smallest one
    falls below that, as when two gradients become opposite, the step jumps from nearly 0 to the one
    that the rest of the eigenvalues gives. If all gradients are zero the weights are 1/T.

    Examples
    --------
    >>> AlignedMTL()([1, 1], [[1.0, 0.0], [0.0, 4.0]])
    array([0.5 , 0.25])
    """

    needs_losses: ClassVar[bool] = False
    needs_gramian: ClassVar[bool] = True
    claims: ClassVar[frozenset[str]] = frozenset({"permutation-equivariant", "homogeneous"})

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        """Give the mean row of the balancing matrix, shape (T,)."""
        assert gramian is not None
        tasks = len(gramian)
        values, vectors, noise = spectrum(np.asarray(gramian, dtype=float), gramian.dtype)
        kept = values > noise
        if not kept.any():
            return np.full(tasks, 1 / tasks)
        values, vectors = values[kept], vectors[:, kept]
        return np.asarray(vectors @ (np.sqrt(values[0] / values) * vectors.mean(axis=0)))
