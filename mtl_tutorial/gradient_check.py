"""Check a gradient that you derived by hand, without trusting any framework."""

from collections.abc import Callable

import numpy as np


def numerical_gradient(
    function: Callable[[np.ndarray], float], x: np.ndarray, step: float = 1e-6
) -> np.ndarray:
    r"""Gradient by central differences, one entry after the other.

    .. math:: \frac{\partial f}{\partial x_i} \approx \frac{f(x + h e_i) - f(x - h e_i)}{2h}

    The truncation error falls with :math:`h^2`; the round-off error grows with
    :math:`\epsilon\,|f| / h`, where :math:`\epsilon \approx 2 \cdot 10^{-16}`. The best step is near
    :math:`\epsilon^{1/3} \approx 6 \cdot 10^{-6}`, for values and derivatives of the order of 1.

    Parameters
    ----------
    function : callable
        From an array like ``x`` to a number.
    x : numpy.ndarray of float64
        Where to differentiate; not changed.
    step : float
        :math:`h`, above 0, in the unit of ``x``.

    Returns
    -------
    numpy.ndarray of float64, the shape of ``x``
        It takes two calls of ``function`` for each entry.

    Raises
    ------
    TypeError
        ``x`` is not float64: in float32 the round-off would hide most mistakes.
    ValueError
        ``step`` is not above 0.

    Examples
    --------
    >>> x = np.array([1.0, -2.0])
    >>> np.allclose(numerical_gradient(lambda x: float((x**2).sum()), x), 2 * x)
    True
    """
    x = np.asarray(x)
    if x.dtype != np.float64:
        raise TypeError(f"differentiate in float64, not {x.dtype}: use x.astype(np.float64)")
    if not step > 0:
        raise ValueError(f"step must be above 0; got {step}")
    point, gradient = x.copy(), np.zeros_like(x)
    for i in np.ndindex(x.shape):
        values = []
        for sign in (1, -1):
            point[i] = x[i] + sign * step
            values.append(function(point))
        point[i] = x[i]
        gradient[i] = (values[0] - values[1]) / (2 * step)
    return gradient


def relative_error(one: np.ndarray, other: np.ndarray) -> float:
    r"""Largest difference of two gradients, relative to the largest entry of either.

    .. math:: \frac{\max_i |a_i - b_i|}{\max(\max_i |a_i|,\ \max_i |b_i|)}

    Parameters
    ----------
    one, other : numpy.ndarray, of one shape

    Returns
    -------
    float
        0 where both are zero everywhere. Below 1e-9 two float64 gradients agree; finite differences
        reach about that, and a wrong derivation is rarely below 1e-2.

    Raises
    ------
    ValueError
        The shapes differ.

    Examples
    --------
    >>> relative_error(np.array([1.0, 2.0]), np.array([1.0, 2.5]))
    0.2
    """
    one, other = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    if one.shape != other.shape:
        raise ValueError(f"the gradients have shapes {one.shape} and {other.shape}")
    scale = max(np.abs(one).max(initial=0), np.abs(other).max(initial=0))
    return float(np.abs(one - other).max(initial=0) / scale) if scale > 0 else 0.0
