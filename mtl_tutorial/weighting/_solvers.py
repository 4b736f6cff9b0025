"""Small solvers that several methods share. Each is exact, or raises.

They work on points: a matrix whose columns stand for the gradients, so that a method never needs
the gradients themselves. ``scipy.optimize.nnls`` raises ``RuntimeError`` where it does not converge.

A Gramian is only as exact as its floating type, and what is nearly dependent shows it: of gradients
that are opposite to within 1e-4 rad, a Gramian in float32 cannot tell the sum from rounding. So the
points have a little more length than the Gramian says, each in a direction of its own, enough to
cover its rounding. Then no combination of the gradients is longer than that of the points, and a
method that keeps within a bound on the points keeps within it on the gradients.
"""

import numpy as np


def norms_and_cosines(gramian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split a Gramian into the lengths of the gradients and the cosines between them.

    A zero gradient has cosine 0 with all others. Gradients of very different length keep their
    directions to full accuracy, which an eigenvalue decomposition of the Gramian would not give.
    Where the Gramian is rounded a cosine may be beyond 1, which tells how much.

    Parameters
    ----------
    gramian : numpy.ndarray, shape (T, T)

    Returns
    -------
    norms : numpy.ndarray, shape (T,)
    cosines : numpy.ndarray, shape (T, T)

    Examples
    --------
    >>> norms, cosines = norms_and_cosines(np.array([[4.0, -3.0], [-3.0, 9.0]]))
    >>> norms.tolist(), cosines.tolist()
    ([2.0, 3.0], [[1.0, -0.5], [-0.5, 1.0]])
    """
    gramian = np.asarray(gramian, dtype=float)
    norms = np.sqrt(np.maximum(np.diagonal(gramian), 0))
    safe = np.where(norms > 0, norms, 1)
    cosines = np.where(norms[:, None] * (norms > 0) > 0, gramian / safe[:, None] / safe, 0)
    cosines = (cosines + cosines.T) / 2
    np.fill_diagonal(cosines, norms > 0)
    return norms, cosines


def spectrum(matrix: np.ndarray, accuracy: np.dtype) -> tuple[np.ndarray, np.ndarray, float]:
    """Find eigenvalues and eigenvectors, and by how much the rounding may have moved them.

    The noise is 8 units of rounding times the trace, plus twice what an eigenvalue is below 0:
    a Gramian has no negative one, so that part is seen to be rounding. Sums over thousands of
    terms of one sign round far more than one unit, and that is how they show it. In tests on
    matrix products of several libraries the noise was at most half of this.

    Parameters
    ----------
    matrix : numpy.ndarray, shape (T, T)
        The cosines, or the Gramian itself.
    accuracy : numpy.dtype
        Floating type of the Gramian.

    Returns
    -------
    values : numpy.ndarray, shape (T,)
        In ascending order.
    vectors : numpy.ndarray, shape (T, T)
    noise : float

    Examples
    --------
    >>> values, _, noise = spectrum(np.array([[1.0, -1.0], [-1.0, 1.0]]), np.dtype(np.float32))
    >>> values.round(6).tolist(), f"{noise:.1e}"
    ([0.0, 2.0], '1.9e-06')
    """
    values, vectors = np.linalg.eigh(matrix)
    noise = 8 * float(np.finfo(accuracy).eps) * np.trace(matrix) + 2 * max(-values[0], 0.0)
    return values, vectors, float(noise)


def points(gramian: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Find short vectors that stand for the gradients: directions and lengths.

    Parameters
    ----------
    gramian : numpy.ndarray, shape (T, T)

    Returns
    -------
    directions : numpy.ndarray, shape (T, T)
        Columns (zero for a zero gradient); ``directions.T @ directions`` are the cosines, with the
        noise added on the diagonal.
    norms : numpy.ndarray, shape (T,)
    noise : float
        But for the rounding of the norms themselves, no combination of the gradients is longer
        than that of the columns times the norms, and its square is smaller by at most
        ``2 * noise * sum((weights * norms) ** 2)``.

    Examples
    --------
    >>> directions, norms, noise = points(np.array([[4.0, -6.0], [-6.0, 9.0]]))
    >>> (directions.T @ directions).round(6).tolist(), norms.tolist(), f"{noise:.1e}"
    ([[1.0, -1.0], [-1.0, 1.0]], [2.0, 3.0], '3.6e-15')
    """
    norms, cosines = norms_and_cosines(gramian)
    values, vectors, noise = spectrum(cosines, gramian.dtype)
    directions = np.sqrt(values + noise)[:, None] * vectors.T
    return directions * (norms > 0), norms, noise


def min_norm(columns: np.ndarray) -> np.ndarray:
    r"""Weights of the shortest convex combination: :math:`\min_{w \in \Delta} \|P w\|`.

    Exact, by one non-negative least squares problem: for :math:`v = t w` the best :math:`t` of
    :math:`\|P v\|^2 + \sigma^2 (1 - \sum_k v_k)^2` leaves a function that grows with
    :math:`\|P w\|`, so its minimum over :math:`v \ge 0`, divided by its sum, is the answer.

    Parameters
    ----------
    columns : numpy.ndarray, shape (dimension, T)

    Returns
    -------
    numpy.ndarray, shape (T,)
        Non-negative, of sum 1. If there are zero columns they share the weight.

    Examples
    --------
    >>> min_norm(np.array([[2.0, 0.0, 5.0], [0.0, 2.0, 5.0]])).round(6).tolist()
    [0.5, 0.5, 0.0]
    """
    from scipy.optimize import nnls

    lengths = np.linalg.norm(columns, axis=0)
    shortest = lengths.min()  # sigma: then t lies between 1/2 and 1
    if shortest <= lengths.max() * 1e-150:
        return np.asarray((lengths == shortest) / np.count_nonzero(lengths == shortest))
    rows = np.vstack([columns / lengths, shortest / lengths])
    scaled, _ = nnls(rows, np.append(np.zeros(len(columns)), 1.0), maxiter=100 * len(lengths))
    weights = scaled * (shortest / lengths)
    return np.asarray(weights / weights.sum())


def project_on_dual_cone(columns: np.ndarray, start: np.ndarray) -> np.ndarray:
    r"""Weights of the vector nearest to :math:`P u` that conflicts with no column.

    The projection of :math:`P u` on the cone :math:`\{x : P^\top x \ge 0\}` is :math:`P v`, with
    :math:`v \ge u` of least :math:`\|P v\|`: non-negative least squares in :math:`v - u`.

    Parameters
    ----------
    columns : numpy.ndarray, shape (dimension, T)
        Best of unit length: then products are compared with zero on one scale.
    start : numpy.ndarray, shape (T,)
        The weights :math:`u` of the vector to project.

    Returns
    -------
    numpy.ndarray, shape (T,)
        The weights :math:`v`.

    Examples
    --------
    >>> columns = np.array([[1.0, -1.0], [0.0, 1.0]])
    >>> project_on_dual_cone(columns, np.array([1.0, 0.0])).round(6).tolist()
    [1.0, 0.5]
    """
    from scipy.optimize import nnls

    extra, _ = nnls(columns, -columns @ start, maxiter=100 * len(start))
    return np.asarray(start + extra)
