"""Which rows make up the next batch: of one data set, or of several.

:func:`batches` goes through one data set. Several data sets stand one after the other, as
:func:`mtl_tutorial.datasets.concatenate` puts them; the other functions here are told how long each
is, and decide which is next: :func:`round_robin`, :func:`temperature_sampling`, or rows of all in
each batch, :func:`joint`. :func:`mtl_tutorial.pytorch.fit` takes them as its ``sampler``.
"""

from collections.abc import Callable, Iterator, Sequence

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


def sampling_probabilities(lengths: Sequence[int], temperature: float = 1.0) -> np.ndarray:
    r"""How often each data set is drawn, from how long it is.

    .. math:: \rho_k = \frac{N_k^{1/\text{temperature}}}{\sum_l N_l^{1/\text{temperature}}}

    Temperature 1 draws in proportion to the lengths :math:`N_k`, so that every row is drawn equally
    often. A higher one draws short data sets more often; infinity draws all equally often.

    Exponents between 0 and 1 are old practice: multilingual BERT takes 0.7 (Devlin et al., 2019, in
    the notes to its code), Stickland and Murray (2019) lower theirs during training. The reciprocal
    is named a temperature by Arivazhagan et al. (2019), who take 5, and Raffel et al. (2020), who
    limit the lengths first: that is ``sampling_probabilities(np.minimum(lengths, limit))``.

    Parameters
    ----------
    lengths : sequence of int, length T
        The number of rows of each data set, at least 1.
    temperature : float
        Above 0; ``math.inf`` is allowed.

    Returns
    -------
    numpy.ndarray, shape (T,)
        Adds up to 1.

    Raises
    ------
    ValueError
        There is no data set, one is empty, or the temperature is not above 0.

    Examples
    --------
    >>> sampling_probabilities([900, 100])
    array([0.9, 0.1])
    >>> sampling_probabilities([900, 100], temperature=2)
    array([0.75, 0.25])
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0; got {temperature}")
    logarithms = np.log(_counts(lengths))
    powers = np.exp((logarithms - logarithms.max()) / temperature)
    return np.asarray(powers / powers.sum())


def round_robin(
    lengths: Sequence[int],
    batch_size: int,
    generator: np.random.Generator,
    *,
    steps: int | None = None,
) -> Iterator[np.ndarray]:
    """Give a batch of the first data set, one of the second, and so on, then again.

    Within a data set the rows come shuffled; where they run out they are shuffled again. So every
    batch is full, and no row of a data set is ahead of another by more than one turn. A row of a
    short data set comes more often than a row of a long one: it is read several times while the
    long one is read once.

    Parameters
    ----------
    lengths : sequence of int, length T
        Data set k has the rows from ``sum(lengths[:k])`` on.
    batch_size : int
        Rows in every batch.
    generator : numpy.random.Generator
        Shuffles the rows.
    steps : int, optional
        The number of batches. If not given, as many as hold the rows of all data sets once: then an
        epoch costs the same with every sampler.

    Yields
    ------
    numpy.ndarray of int64, shape (batch_size,)
        Rows of one data set.

    Raises
    ------
    ValueError
        There is no data set, or a number is below 1.

    Examples
    --------
    Six rows, then two:

    >>> for rows in round_robin([6, 2], 2, np.random.default_rng(0)):
    ...     print(sorted(rows.tolist()))
    [2, 3]
    [6, 7]
    [4, 5]
    [6, 7]
    """
    decks, steps = _decks(lengths, generator), _steps(lengths, batch_size, steps)
    for step in range(steps):
        yield decks[step % len(decks)](batch_size)


def temperature_sampling(
    lengths: Sequence[int],
    batch_size: int,
    generator: np.random.Generator,
    *,
    temperature: float = 1.0,
    steps: int | None = None,
) -> Iterator[np.ndarray]:
    """Draw before each step the data set that the batch is taken from.

    Data set k is drawn with the probability that :func:`sampling_probabilities` gives, whatever was
    drawn before. Within a data set the rows come as in :func:`round_robin`.

    Parameters
    ----------
    lengths, batch_size, generator, steps
        As for :func:`round_robin`.
    temperature : float
        1: in proportion to the lengths. ``math.inf``: all equally often.

    Yields
    ------
    numpy.ndarray of int64, shape (batch_size,)
        Rows of one data set.

    Raises
    ------
    ValueError
        There is no data set, a number is below 1, or the temperature is not above 0.

    Examples
    --------
    >>> generator = np.random.default_rng(0)
    >>> drawn = temperature_sampling([900, 100], 8, generator, temperature=2, steps=1000)
    >>> float(np.mean([rows[0] >= 900 for rows in drawn]))  # 0.25 is expected
    0.26...
    """
    probabilities = sampling_probabilities(lengths, temperature)
    decks, steps = _decks(lengths, generator), _steps(lengths, batch_size, steps)
    for k in generator.choice(len(decks), size=steps, p=probabilities):
        yield decks[k](batch_size)


def joint(
    lengths: Sequence[int],
    batch_size: int,
    generator: np.random.Generator,
    *,
    steps: int | None = None,
) -> Iterator[np.ndarray]:
    """Fill every batch with equally many rows of each data set.

    Each loss is a mean over the rows that have its label, so shares in the batch are no task
    weights: they only decide how noisy each loss is. Within a data set the rows come as in
    :func:`round_robin`.

    Parameters
    ----------
    lengths, batch_size, generator, steps
        As for :func:`round_robin`; where ``batch_size`` does not divide by T, the first data sets
        have one row more.

    Yields
    ------
    numpy.ndarray of int64, shape (batch_size,)
        Rows of the first data set, then rows of the second, and so on.

    Raises
    ------
    ValueError
        There is no data set, a number is below 1, or a batch has fewer rows than there are data sets.

    Examples
    --------
    >>> for rows in joint([6, 2], 4, np.random.default_rng(0)):
    ...     print(rows[:2], rows[2:])
    [3 2] [7 6]
    [5 4] [6 7]
    """
    decks, steps = _decks(lengths, generator), _steps(lengths, batch_size, steps)
    count = len(decks)
    if batch_size < count:
        raise ValueError(
            f"a batch of {batch_size} rows cannot hold one of each of {count} data sets"
        )
    sizes = [batch_size // count + (k < batch_size % count) for k in range(count)]
    for _ in range(steps):
        yield np.concatenate([deck(size) for deck, size in zip(decks, sizes, strict=True)])


def _counts(lengths: Sequence[int]) -> np.ndarray:
    """Lengths as an array, or say what is wrong with them."""
    counts = np.asarray(lengths)
    if counts.ndim != 1 or not len(counts) or counts.min() < 1:
        raise ValueError(f"lengths must name the rows of each data set, at least 1; got {lengths}")
    return counts


def _steps(lengths: Sequence[int], batch_size: int, steps: int | None) -> int:
    """Give the number of batches, or say which number is wrong."""
    if batch_size < 1 or (steps is not None and steps < 1):
        raise ValueError(f"batch_size and steps must be at least 1; got {batch_size}, {steps}")
    return -(-sum(lengths) // batch_size) if steps is None else steps


def _decks(
    lengths: Sequence[int], generator: np.random.Generator
) -> list[Callable[[int], np.ndarray]]:
    """For each data set a function that deals its next rows, shuffled again where they run out."""

    def deck(first: int, length: int) -> Callable[[int], np.ndarray]:
        waiting = np.empty(0, dtype=np.int64)

        def deal(count: int) -> np.ndarray:
            nonlocal waiting
            while len(waiting) < count:
                waiting = np.concatenate([waiting, first + generator.permutation(length)])
            dealt, waiting = waiting[:count], waiting[count:]
            return dealt

        return deal

    counts = _counts(lengths)
    firsts = np.cumsum(counts) - counts
    return [deck(int(a), int(n)) for a, n in zip(firsts, counts, strict=True)]
