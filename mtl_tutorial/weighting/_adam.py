"""The Adam step that GradNorm and FAMO take on their own numbers, task by task."""

import numpy as np


def adam_step(
    moments: np.ndarray, steps: np.ndarray, tasks: np.ndarray | slice, gradient: np.ndarray
) -> np.ndarray:
    """Give the step of Adam (Kingma & Ba, 2015) at learning rate 1, to be subtracted.

    Each task counts its own steps, so one that was absent goes on where it left off.

    Parameters
    ----------
    moments : numpy.ndarray, shape (2, T)
        Running means of the gradient and of its square; updated in place.
    steps : numpy.ndarray, shape (T,)
        Steps taken so far; updated in place.
    tasks : numpy.ndarray of bool, shape (T,), or slice
        The tasks that the gradient is about.
    gradient : numpy.ndarray, shape (present tasks,)

    Returns
    -------
    numpy.ndarray, shape (present tasks,)

    Examples
    --------
    >>> adam_step(np.zeros((2, 2)), np.zeros(2), slice(None), np.array([3.0, -0.1])).round(6)
    array([ 1., -1.])
    """
    steps[tasks] += 1
    moments[0, tasks] = 0.9 * moments[0, tasks] + 0.1 * gradient
    moments[1, tasks] = 0.999 * moments[1, tasks] + 0.001 * gradient**2
    mean = moments[0, tasks] / (1 - 0.9 ** steps[tasks])
    square = moments[1, tasks] / (1 - 0.999 ** steps[tasks])
    return np.asarray(mean / (np.sqrt(square) + 1e-8))
