r"""Are two tasks related? Measures from labels, inputs, features and gradients, and what to do with them.

None of them trains anything together. Whether one of them foretells what training together gives is
a question of its own: :func:`rank_agreement` answers it where the gains are known, and
:func:`reliability` says how well they are known. A matrix of gains or affinities has an entry
``[i, j]`` for what task j gets from task i, as in Fifty et al. (2021); its diagonal is never read.

Labels are arrays of class numbers, -1 where one is missing, or of floats, NaN where one is missing.
Features are arrays with a row an example. No framework is imported here; what takes a model stands in
:func:`mtl_tutorial.pytorch.lookahead_affinity` and :func:`mtl_tutorial.keras.lookahead_affinity`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mtl_tutorial.weighting.recorded import Step, cosines, gramians

Array = npt.NDArray[Any]
MOST_TASKS = 10  # 115,975 ways to put them into groups


class Measured(NamedTuple):
    """A measure, and what luck alone would give.

    Attributes
    ----------
    value : float
        What was found.
    chance : float
        The mean of what is found when the rows are shuffled, so that nothing is there to be found.
    p_value : float
        How often a shuffled value is at least as large, the unshuffled one counted in.
    """

    value: float
    chance: float
    p_value: float


class Correlation(NamedTuple):
    """A rank correlation with its interval over tasks.

    Attributes
    ----------
    value : float
        In [-1, 1].
    low, high : float
        The ends of the 95 % interval.
    """

    value: float
    low: float
    high: float


class Grouping(NamedTuple):
    """Which tasks share a network.

    Attributes
    ----------
    groups : tuple of tuple of int
        Each task in one group.
    value : float
        The sum over the tasks of what each gets in its group.
    """

    groups: tuple[tuple[int, ...], ...]
    value: float


def information(
    target: Array, partner: Array, *, bins: int = 8, permutations: int = 1000, seed: int = 0
) -> Measured:
    r"""Say how much of what is unknown about one label another one tells.

    .. math::

        U(Y \mid X) = \frac{I(X; Y)}{H(Y)}, \qquad
        I(X; Y) = \sum_{x, y} p(x, y) \log \frac{p(x, y)}{p(x)\, p(y)}

    the mutual information as a share of the target's entropy (Theil's uncertainty coefficient): 0 for
    independent labels, 1 where the partner's label determines the target's. It is not symmetric: the
    digit determines its parity, parity does not determine the digit. Frequencies stand for
    probabilities, so few rows with many classes give too much; ``chance`` says how much too much.

    Parameters
    ----------
    target, partner : numpy.ndarray, shape (N,)
        Labels of the same examples. Rows without both are left out. Floats are sorted into ``bins``
        intervals with equally many rows each.
    bins : int
    permutations : int
        How often the partner's labels are shuffled.
    seed : int
        Of the shuffling.

    Returns
    -------
    Measured

    Raises
    ------
    ValueError
        The shapes differ, fewer than two rows have both labels, or all of these have the same target.

    Examples
    --------
    >>> digit = np.tile(np.arange(10), 20)
    >>> information(digit % 2, digit).value, information(digit, digit % 2).value
    (1.0, 0.30...)
    """
    _at_least("bins", bins, 2)
    _at_least("permutations", permutations, 1)
    target, partner = np.asarray(target), np.asarray(partner)
    if target.ndim != 1 or target.shape != partner.shape:
        raise ValueError(
            f"labels are one number a row, of the same rows; got shapes {target.shape} and "
            f"{partner.shape}"
        )
    both = _there(target) & _there(partner)
    if both.sum() < 2:
        raise ValueError(f"{both.sum()} rows have both labels; there is nothing to compare")
    y, x = _classes(target[both], bins), _classes(partner[both], bins)
    unknown = _entropy(y)
    if unknown == 0:
        raise ValueError("the target is the same in all rows with both labels: nothing is unknown")

    def share(x: Array) -> float:
        told = unknown + _entropy(x) - _entropy(x * (y.max() + 1) + y)
        return float(np.clip(told / unknown, 0, 1))

    generator = np.random.default_rng(seed)
    return _measured(share(x), [share(generator.permutation(x)) for _ in range(permutations)])


def mmd(
    one: Array, other: Array, *, scale: float | None = None, permutations: int = 500, seed: int = 0
) -> Measured:
    r"""Compare two sets of inputs: are they drawn from one distribution? Maximum mean discrepancy.

    .. math::

        \operatorname{MMD}^2 = \operatorname{E} k(x, x') + \operatorname{E} k(y, y')
        - 2 \operatorname{E} k(x, y), \qquad
        k(x, y) = \exp\Bigl(-\frac{\lVert x - y \rVert^2}{2 \sigma^2}\Bigr)

    with means over pairs of different rows, so that it is 0 on average for two samples of one
    distribution, and can fall below. (Gretton et al., 2012.)

    Parameters
    ----------
    one, other : numpy.ndarray, shape (N, ...) and (M, ...)
        Inputs of two tasks, at least two rows each. Further axes are flattened. Time and memory grow
        with (N + M)²: a few hundred rows are enough.
    scale : float, optional
        :math:`\sigma`, in the unit of the inputs. The median distance of two rows if not given.
    permutations : int
        How often it is drawn anew which rows belong to which set.
    seed : int

    Returns
    -------
    Measured

    Raises
    ------
    ValueError
        Rows differ in length, are not finite or too few, or ``scale`` is not above 0.

    Examples
    --------
    >>> inputs = np.random.default_rng(0).normal(size=(200, 5))
    >>> mmd(inputs[:100], inputs[100:]).p_value > 0.05
    True
    >>> mmd(inputs[:100], inputs[100:] + 1).p_value
    0.001...
    """
    from scipy.spatial.distance import pdist, squareform

    _at_least("permutations", permutations, 1)
    one, other = _rows("one", one), _rows("other", other)
    if one.shape[1] != other.shape[1]:
        raise ValueError(
            f"rows of {one.shape[1]} numbers and of {other.shape[1]} cannot be compared"
        )
    distances = pdist(np.concatenate([one, other]))
    sigma = np.median(distances) if scale is None else scale
    if not sigma > 0:
        raise ValueError(
            f"scale must be above 0; got {scale}"
            if scale is not None
            else "half of all rows are equal, so the median distance is 0: give a scale"
        )
    kernel = squareform(np.exp(-(distances**2) / (2 * sigma**2)))  # with a diagonal of zeros
    n, m = len(one), len(other)
    generator = np.random.default_rng(seed)
    order = np.stack(
        [np.arange(n + m), *(generator.permutation(n + m) for _ in range(permutations))]
    )
    first = (order < n).astype(float)
    within_first = np.einsum("pi,pi->p", first @ kernel, first)
    across = (first @ kernel).sum(axis=1) - within_first
    within_second = kernel.sum() - within_first - 2 * across
    found = within_first / (n * (n - 1)) + within_second / (m * (m - 1)) - 2 * across / (n * m)
    return _measured(float(found[0]), found[1:].tolist())


def cka(one: Array, other: Array, *, debiased: bool = False) -> float:
    r"""How alike are the features that two networks give the same inputs? Linear CKA.

    .. math::

        \operatorname{CKA}(X, Y) =
        \frac{\lVert Y^\top X \rVert_F^2}{\lVert X^\top X \rVert_F \, \lVert Y^\top Y \rVert_F}

    for features X and Y whose columns have mean 0: centred kernel alignment of Kornblith et al.
    (2019). Rotating or scaling either changes nothing; features may differ in number. Two random
    networks are not at 0, since both see the same inputs.

    Parameters
    ----------
    one, other : numpy.ndarray, shape (N, F) and (N, G)
        Row n of both is of the same input. Further axes are flattened.
    debiased : bool
        With few rows for many features CKA is near 1 whatever they are. The estimate of Song et al.
        (2012), which Nguyen et al. (2021) put into CKA, is 0 on average for independent features, and
        can fall below; it takes at least 4 rows.

    Returns
    -------
    float
        In [0, 1]; 1 for features that are equal up to rotation and scale. Debiased, it can fall below
        0, and is NaN where the estimate for one network with itself is 0.

    Raises
    ------
    ValueError
        The numbers of rows differ, there are too few, a feature is not finite, or all features of
        one network are constant.

    Examples
    --------
    >>> features = np.random.default_rng(0).normal(size=(50, 4))
    >>> turned = 3 * features[:, ::-1] + 1
    >>> round(cka(features, turned), 6)
    1.0
    """
    one, other = _rows("one", one), _rows("other", other)
    if len(one) != len(other):
        raise ValueError(
            f"features of {len(one)} rows and of {len(other)}: give those of the same inputs"
        )
    if debiased:
        _at_least("the number of rows", len(one), 4)
    x, y = one - one.mean(axis=0), other - other.mean(axis=0)
    for name, centred, raw in (("one", x, one), ("other", y, other)):
        if np.abs(centred).max() <= 1e-12 * np.abs(raw).max():
            raise ValueError(f"the features of {name!r} are the same for all rows")
    if debiased:
        along = _debiased_hsic(x, y)
        across = _debiased_hsic(x, x) * _debiased_hsic(y, y)
        return float(along / np.sqrt(across)) if across > 0 else float("nan")
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)  # scales from 1e-20 to 1e20
    overlap = np.linalg.norm(y.T @ x) ** 2
    return float(overlap / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def gradient_affinity(steps: Sequence[Step]) -> Array:
    """Mean cosine of two tasks' gradients on what they share, over the steps of a training.

    Parameters
    ----------
    steps : sequence of dict
        What :class:`~mtl_tutorial.weighting.Recorded` kept of a weighting that has a Gramian. A step
        counts for the pairs that are present in it.

    Returns
    -------
    numpy.ndarray, shape (T, T)
        Symmetric, in [-1, 1]; NaN for two tasks that never met.

    Raises
    ------
    ValueError
        There is no step, or none has a Gramian.

    Examples
    --------
    >>> along, apart = np.ones((2, 2)), np.array([[1.0, -0.5], [-0.5, 1.0]])
    >>> gradient_affinity([{"gramian": along}, {"gramian": apart}]).tolist()
    [[1.0, 0.25], [0.25, 1.0]]
    """
    found = np.stack([cosines(gramian) for gramian in gramians(steps)])
    met = (~np.isnan(found)).sum(axis=0)
    return np.where(met > 0, np.nansum(found, axis=0) / np.maximum(met, 1), np.nan)


def transfer_matrix(
    train_features: Mapping[str, Array],
    train_labels: Mapping[str, Array],
    test_features: Mapping[str, Array],
    test_labels: Mapping[str, Array],
) -> Array:
    """Fit a head for each task on the features of each: how good is one on what another learned.

    The features of a network that learned task i stay as they are; a linear head for task j is fitted
    to them on the training rows and judged on the test rows. What Taskonomy (Zamir et al., 2018) does
    with deep heads and millions of images.

    Parameters
    ----------
    train_features, test_features : mapping from source to numpy.ndarray, shape (N, F)
        Features by the name of the task whose network gives them, or of a baseline such as
        ``"pixels"``; F may differ.
    train_labels, test_labels : mapping from target to numpy.ndarray, shape (N,)
        Labels of the same rows. Rows without a label are left out.

    Returns
    -------
    numpy.ndarray, shape (sources, targets)
        Entry ``[i, j]``: accuracy in [0, 1] where the labels are classes (logistic regression), and
        the explained share of the variance, at most 1, where they are floats (ridge regression).

    Raises
    ------
    ValueError
        The names of training and test differ; rows of features and labels do; or a target has fewer
        than two classes, or no label, among the training or the test rows.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> labels = {"first": (x[:, 0] > 0).astype(int), "sum": x.sum(axis=1)}
    >>> features = {"both": x, "second": x[:, 1:]}
    >>> found = transfer_matrix(features, labels, features, labels)
    >>> found.shape, bool(found[0, 0] > 0.9 > 0.7 > found[1, 0])
    ((2, 2), True)
    """
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    for what, one, other in (
        ("features", train_features, test_features),
        ("labels", train_labels, test_labels),
    ):
        if not one or set(one) != set(other):
            raise ValueError(f"{what} are named {sorted(one)} in training, {sorted(other)} in test")
    matrix = np.empty((len(train_features), len(train_labels)))
    for i, source in enumerate(train_features):
        x, x_test = (
            _rows(f"features of {source!r}", each[source])
            for each in (train_features, test_features)
        )
        for j, target in enumerate(train_labels):
            y, here = _labels(target, train_labels[target], x)
            y_test, here_test = _labels(target, test_labels[target], x_test)
            numbers = y.dtype.kind == "f"
            if not numbers and len(np.unique(y)) < 2:
                raise ValueError(f"{target!r} has one class alone in the training rows")
            head = make_pipeline(
                StandardScaler(), Ridge() if numbers else LogisticRegression(max_iter=1000)
            )
            matrix[i, j] = head.fit(x[here], y).score(x_test[here_test], y_test)
    return matrix


def rank_agreement(
    measure: Array, gains: Array, *, within: bool = False, resamples: int = 1000, seed: int = 0
) -> Correlation:
    """Say how well a measure ranks the pairs of tasks as their gains do.

    Spearman's rank correlation over all entries off the diagonal. The pairs of one task are not
    independent of each other, so the interval draws *tasks* with replacement, not pairs, and takes
    the 2.5th and 97.5th percentile of what their pairs give.

    Parameters
    ----------
    measure, gains : numpy.ndarray, shape (T, T)
        Entry ``[i, j]``: what the measure says of task i as partner of task j; what j gained from i.
        The diagonal is not read. NaN: not known, left out.
    within : bool
        Correlate over the partners of each task j by itself, and average: can it choose a partner?
        Otherwise over all pairs: a measure then also agrees by telling which tasks gain from any
        partner.
    resamples : int
    seed : int

    Returns
    -------
    Correlation
        NaN where the measure is the same for all pairs.

    Raises
    ------
    ValueError
        The shapes are not (T, T) and equal, T is below 3, or fewer than 3 pairs are known.

    Examples
    --------
    >>> gains = np.random.default_rng(0).normal(size=(8, 8))
    >>> rank_agreement(gains**3, gains).value
    1.0
    """
    _at_least("resamples", resamples, 1)
    measure, gains = np.asarray(measure, float), np.asarray(gains, float)
    tasks = len(gains)
    if gains.shape != (tasks, tasks) or measure.shape != gains.shape or tasks < 3:
        raise ValueError(
            f"give two matrices of one shape (T, T), T at least 3; got {measure.shape} and "
            f"{gains.shape}"
        )
    known = ~np.eye(tasks, dtype=bool) & ~np.isnan(measure) & ~np.isnan(gains)
    if known.sum() < 3:
        raise ValueError(f"{known.sum()} pairs are known in both; that is no order")
    generator = np.random.default_rng(seed)
    drawn = [
        _agreement(measure, gains, known, generator.integers(tasks, size=tasks), within)
        for _ in range(resamples)
    ]
    there = np.array(drawn)[~np.isnan(drawn)]  # a draw of two tasks alone has no order
    low, high = np.quantile(there, [0.025, 0.975]).tolist() if len(there) else (np.nan, np.nan)
    return Correlation(_agreement(measure, gains, known, np.arange(tasks), within), low, high)


def reliability(
    gains: Array, *, within: bool = False, splits: int = 200, seed: int = 0
) -> tuple[float, float]:
    r"""How well would the same experiment with other seeds rank the pairs? Half against half.

    The seeds are split at random; the mean gains of one half are rank-correlated with those of the
    other, averaged over many splits. All seeds together are more reliable than a half; by Spearman
    and Brown's formula

    .. math:: r = \frac{2 r_{1/2}}{1 + r_{1/2}}

    and a measure that knew the true gains would still correlate with the measured ones by about
    :math:`\sqrt r` only: the ceiling of :func:`rank_agreement`. (The formulas are exact for plain
    correlations.)

    Parameters
    ----------
    gains : numpy.ndarray, shape (seeds, T, T)
        Entry ``[s, i, j]``: what task j gained from task i with seed s. The diagonal is not read.
    within : bool
        As for :func:`rank_agreement`.
    splits : int
    seed : int

    Returns
    -------
    half, ceiling : float
        The correlation of the halves, and :math:`\sqrt r`; 0 where the halves do not agree at all.

    Raises
    ------
    ValueError
        The shape is not (seeds, T, T), T at least 3, with at least 4 seeds.

    Examples
    --------
    >>> generator = np.random.default_rng(0)
    >>> true, noise = generator.normal(size=(6, 6)), generator.normal(size=(10, 6, 6))
    >>> reliability(true + 0.1 * noise)
    (0.99..., 0.99...)
    """
    _at_least("splits", splits, 1)
    gains = np.asarray(gains, float)
    if gains.ndim != 3 or gains.shape[1] != gains.shape[2] or min(gains.shape[:2]) < 3:
        raise ValueError(f"gains have shape (seeds, T, T), T at least 3; got {gains.shape}")
    _at_least("the number of seeds", len(gains), 4)
    known = ~np.eye(gains.shape[1], dtype=bool) & ~np.isnan(gains).any(axis=0)
    generator, found = np.random.default_rng(seed), []
    for _ in range(splits):
        order = generator.permutation(len(gains))
        one, other = (gains[half].mean(axis=0) for half in np.array_split(order, 2))
        found.append(_agreement(one, other, known, np.arange(gains.shape[1]), within))
    half = float(np.mean(found))
    return half, float(np.sqrt(max(0.0, 2 * half / (1 + half))))


def choose_groups(affinity: Array, budget: int) -> Grouping:
    r"""Which tasks should share a network, if there may be so many networks? The best of all ways.

    .. math::

        \max_{\text{groups}} \; \sum_{\text{groups } G} \; \sum_{j \in G}
        \frac{1}{|G| - 1} \sum_{i \in G,\, i \ne j} A_{ij}

    A task gets the mean of what its partners give it, and 0 in a network of its own, so affinities
    should be above 0 where together is better than alone. That a group gives the mean of its pairs
    is an assumption (of Standley et al., 2020, and Fifty et al., 2021): measure the groups that come
    out. All ways are tried, which is quick for up to ten tasks.

    Parameters
    ----------
    affinity : numpy.ndarray, shape (T, T)
        Entry ``[i, j]``: what task j gets from task i. The diagonal is not read.
    budget : int
        The largest number of groups.

    Returns
    -------
    Grouping
        Of equally good ways, one with the fewest groups.

    Raises
    ------
    ValueError
        The shape is not (T, T), an entry is not finite, the budget is below 1, or there are more than
        ten tasks.

    Examples
    --------
    >>> affinity = np.array([[0, 2, -1], [1, 0, -1], [-3, -1, 0]])
    >>> choose_groups(affinity, budget=2)
    Grouping(groups=((0, 1), (2,)), value=3.0)
    """
    _at_least("budget", budget, 1)
    affinity = np.array(affinity, float)
    tasks = len(affinity)
    if affinity.shape != (tasks, tasks) or not tasks:
        raise ValueError(f"affinity has shape (T, T); got {affinity.shape}")
    if tasks > MOST_TASKS:
        raise ValueError(
            f"{tasks} tasks can be grouped in too many ways to try them all; at most {MOST_TASKS}"
        )
    np.fill_diagonal(affinity, 0)
    if not np.isfinite(affinity).all():
        i, j = np.argwhere(~np.isfinite(affinity))[0].tolist()
        raise ValueError(f"the affinity of task {i} for task {j} is {affinity[i, j]}")
    values: dict[tuple[int, ...], float] = {}
    best = Grouping((), -np.inf)
    for groups in _groupings(tasks, budget):
        for group in groups:
            if group not in values:
                total = affinity[np.ix_(group, group)].sum()
                values[group] = float(total / max(1, len(group) - 1))
        value = sum(values[group] for group in groups)
        gained = value - best.value
        if gained > 1e-12 or (gained > -1e-12 and len(groups) < len(best.groups)):
            best = Grouping(groups, value)
    return best


def _groupings(tasks: int, budget: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Give every way to put the tasks into at most so many groups, once."""

    def grow(groups: list[list[int]], task: int) -> Iterator[tuple[tuple[int, ...], ...]]:
        if task == tasks:
            yield tuple(map(tuple, groups))
            return
        for group in groups:
            group.append(task)
            yield from grow(groups, task + 1)
            group.pop()
        if len(groups) < budget:
            yield from grow([*groups, [task]], task + 1)

    return grow([], 0)


def _agreement(measure: Array, gains: Array, known: Array, drawn: Array, within: bool) -> float:
    """Correlate over the pairs of the drawn tasks; a task drawn twice is no pair with itself."""
    pairs = np.ix_(drawn, drawn)
    x, y, use = measure[pairs], gains[pairs], known[pairs]
    if not within:
        return _spearman(x[use], y[use])
    each = [_spearman(x[use[:, j], j], y[use[:, j], j]) for j in range(len(drawn))]
    there = [value for value in each if not np.isnan(value)]
    return float(np.mean(there)) if there else float("nan")


def _spearman(x: Array, y: Array) -> float:
    """Give the rank correlation; NaN where there is no order."""
    x, y = (np.sign(each[:, None] - each).sum(axis=1) for each in (x, y))
    size = np.sqrt((x @ x) * (y @ y))  # of twice the ranks, less their mean
    return float(x @ y / size) if len(x) >= 3 and size > 0 else float("nan")


def _measured(value: float, shuffled: Sequence[float]) -> Measured:
    at_least = sum(each >= value - 1e-12 for each in shuffled)  # equal up to rounding
    return Measured(value, float(np.mean(shuffled)), (1 + at_least) / (1 + len(shuffled)))


def _there(labels: Array) -> Array:
    """Tell where there is a label."""
    there: Array = ~np.isnan(labels) if labels.dtype.kind == "f" else labels >= 0
    return there


def _classes(labels: Array, bins: int) -> Array:
    """Give classes numbered from 0; for floats, intervals with equally many rows each."""
    if labels.dtype.kind == "f":
        edges = np.quantile(labels, np.arange(1, bins) / bins)
        labels = np.searchsorted(edges, labels, side="right")
    classes: Array = np.unique(labels, return_inverse=True)[1]
    return classes


def _entropy(classes: Array) -> float:
    """Entropy of the frequencies, in nats."""
    from scipy.special import entr

    return float(entr(np.bincount(classes) / len(classes)).sum())


def _debiased_hsic(x: Array, y: Array) -> float:
    """Estimate the dependence of two sets of centred features without bias (Song et al., 2012)."""
    n = len(x)
    k, l = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    products = (k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2))
    return float((products - 2 * (k.sum(axis=0) @ l.sum(axis=0)) / (n - 2)) / (n * (n - 3)))


def _rows(name: str, array: Array, least: int = 2) -> Array:
    """Give one row of float64 an example, or say what is wrong."""
    array = np.asarray(array)
    if array.ndim < 2 or len(array) < least:
        raise ValueError(
            f"{name} has shape {array.shape}; a row an example is needed, at least {least} of them"
        )
    rows: Array = array.reshape(len(array), -1).astype(float)
    if not np.isfinite(rows).all():
        row = int(np.argwhere(~np.isfinite(rows))[0, 0])
        raise ValueError(f"row {row} of {name} is not finite")
    return rows


def _labels(name: str, labels: Array, features: Array) -> tuple[Array, Array]:
    """Give the labels that are there, and where."""
    labels = np.asarray(labels)
    if labels.shape != (len(features),):
        raise ValueError(
            f"{name!r} has labels of shape {labels.shape} for {len(features)} rows of features"
        )
    there = _there(labels)
    if not there.any():
        raise ValueError(f"{name!r} has no label in these rows")
    return labels[there], there


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}; got {value}")
