"""Two regressions whose likeness is set: the made-up data of the article on MMoE."""

import numpy as np

from mtl_tutorial.datasets._dataset import Dataset, Split

WIDTH = 100
FREQUENCIES = np.arange(1, 6)
PHASES = np.random.default_rng(2018).uniform(0, 2 * np.pi, len(FREQUENCIES))
NOISE = 0.1  # the article's variance of 0.01


def correlated_regressions(correlation: float, rows: int = 10_000, seed: int = 0) -> Dataset:
    r"""Make two regressions of 100 numbers, as alike as is asked for (Ma et al., 2018).

    .. math:: y_k = w_k^\top x + \sum_{i=1}^{5} \sin(\alpha_i\, w_k^\top x + \beta_i) + \varepsilon_k,
       \qquad w_1 = u_1, \quad w_2 = p\, u_1 + \sqrt{1 - p^2}\; u_2

    with :math:`x \sim N(0, I)` in 100 dimensions, orthogonal unit vectors :math:`u_1, u_2` and noise
    :math:`\varepsilon_k \sim N(0, 0.01)`. So :math:`p` is the cosine between what the two tasks look
    at: with 1 they differ by noise alone, with 0 each looks at what means nothing to the other. The
    article does not give the constants of its curve; here :math:`\alpha_i = i`, and the
    :math:`\beta_i` are drawn once, the same for both tasks and all data sets.

    Parameters
    ----------
    correlation : float
        :math:`p`, from -1 to 1. It is the cosine of the weights; the correlation of the targets is
        smaller, as the sines lie between.
    rows : int
        To train; 2,000 to validate and 2,000 to test come on top.
    seed : int
        Of the vectors, the inputs and the noise. With one seed the first task is the same for every
        ``correlation``.

    Returns
    -------
    Dataset
        ``inputs`` float32 of shape (N, 100); ``first`` and ``second`` float32 of shape (N,).

    Raises
    ------
    ValueError
        ``correlation`` is not from -1 to 1, or ``rows`` is below 1.

    Examples
    --------
    >>> data = correlated_regressions(0.9, rows=500)
    >>> data.train
    Split(inputs=(500, 100), targets=[first, second])
    """
    if not -1 <= correlation <= 1:
        raise ValueError(f"correlation is a cosine, from -1 to 1; got {correlation}")
    if rows < 1:
        raise ValueError(f"rows must be at least 1; got {rows}")
    generator = np.random.default_rng(seed)
    directions, _ = np.linalg.qr(generator.normal(size=(WIDTH, 2)))
    first, other = directions.T
    second = correlation * first + np.sqrt(1 - correlation**2) * other

    def split(count: int) -> Split:
        inputs = generator.normal(size=(count, WIDTH)).astype(np.float32)
        targets = {}
        for name, weights in {"first": first, "second": second}.items():
            seen = inputs @ weights
            waves = np.sin(FREQUENCIES * seen[:, None] + PHASES).sum(axis=1)
            noise = generator.normal(scale=NOISE, size=count)
            targets[name] = (seen + waves + noise).astype(np.float32)
        return Split(inputs, targets)

    train, valid, test = split(rows), split(2000), split(2000)
    return Dataset("correlated_regressions", "embedded", train, valid, test)
