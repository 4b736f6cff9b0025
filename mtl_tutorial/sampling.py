"""Which rows make up the next batch."""

from collections.abc import Iterator

import numpy as np


def batches(
    length: int, batch_size: int, generator: np.random.Generator | None = None
) -> Iterator[np.ndarray]:
    """Go once through all rows in batches of indices.

    The data stays in memory as whole arrays; a batch is one fancy index into them. No Python loop
    runs over samples, which is where a ``DataLoader`` over the same arrays spends its time
    (``benchmarks/batches.py`` measures it).

    Parameters
    ----------
    length : int
        The number of rows N.
    batch_size : int
        Rows in a batch; the last one may be shorter.
    generator : numpy.random.Generator, optional
        Shuffles the rows; without it they come in order.

    Yields
    ------
    numpy.ndarray of int64, shape (batch_size,)

    Raises
    ------
    ValueError
        Either number is below 1.

    Examples
    --------
    >>> [index.tolist() for index in batches(5, 2)]
    [[0, 1], [2, 3], [4]]
    """
    if length < 1 or batch_size < 1:
        raise ValueError(f"length and batch_size must be at least 1; got {length}, {batch_size}")
    order = np.arange(length) if generator is None else generator.permutation(length)
    for start in range(0, length, batch_size):
        yield order[start : start + batch_size]
