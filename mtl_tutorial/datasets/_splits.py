"""Seeded, stratified splits."""

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def hold_out(
    labels: npt.NDArray[np.int64], count: int, generator: np.random.Generator
) -> tuple[Rows, Rows]:
    """Choose rows at random so that every class keeps its share, to within one row.

    Parameters
    ----------
    labels : ndarray of int64, shape (N,)
        The class of each row.
    count : int
        How many rows to hold out, 0 < count <= N.
    generator : numpy.random.Generator
        Where the randomness comes from.

    Returns
    -------
    rest, held : ndarray of int64, shapes (N - count,) and (count,)
        Row numbers, both shuffled: the first n rows of either are a random sample.

    Examples
    --------
    >>> labels = np.repeat([0, 1], [80, 20])
    >>> rest, held = hold_out(labels, 10, np.random.default_rng(0))
    >>> np.bincount(labels[held]).tolist()
    [8, 2]
    """
    shuffled = generator.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    # Evenly spaced places in an order sorted by class meet each class by its share.
    places = (2 * np.arange(count) + 1) * len(labels) // (2 * count)
    held = by_class[places]
    rest = np.delete(by_class, places)
    return generator.permutation(rest), generator.permutation(held)
