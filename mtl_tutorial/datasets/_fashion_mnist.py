"""Fashion-MNIST."""

import os

import numpy as np
import numpy.typing as npt

from mtl_tutorial.datasets._dataset import Dataset, Split
from mtl_tutorial.datasets._digits import digits
from mtl_tutorial.datasets._fetch import locate
from mtl_tutorial.datasets._official import read_official

# The group of each of the ten classes, in the order of the official labels.
GROUP = np.array(
    [
        0,  # T-shirt: tops
        1,  # trousers
        0,  # pullover: tops
        2,  # dress
        0,  # coat: tops
        3,  # sandal: footwear
        0,  # shirt: tops
        3,  # sneaker: footwear
        4,  # bag
        3,  # ankle boot: footwear
    ],
    dtype=np.int64,
)


def fashion_mnist(
    source: str = "auto", folder: str | os.PathLike[str] | None = None, seed: int = 0
) -> Dataset:
    """Load Fashion-MNIST's pictures of clothing, or turned digits in their place.

    Two tasks: ``clothing`` (0 T-shirt, 1 trousers, 2 pullover, 3 dress, 4 coat, 5 sandal,
    6 shirt, 7 sneaker, 8 bag, 9 ankle boot) and ``group`` (0 tops: T-shirt, pullover, coat and
    shirt; 1 trousers; 2 dress; 3 footwear: sandal, sneaker and ankle boot; 4 bag).

    Real: of the official 60,000 training rows, 50,000 to train and 10,000 to validate,
    stratified by clothing and shuffled; the official 10,000 to test, in their order whatever
    the seed. Embedded: the images of `digits`, turned a quarter anticlockwise so that they
    differ from those of `mnist`; ``clothing`` is then the digit and ``group`` the digit // 2.

    Parameters
    ----------
    source : {"auto", "real", "embedded"}
        ``"auto"`` takes the real files where it finds them, otherwise the embedded digits with
        one warning. ``"real"`` takes nothing else. ``"embedded"`` does not look at the disk,
        so that ``folder`` does not matter.
    folder : path, optional
        The only place to look for real files: it holds a folder ``fashion-mnist`` with the
        four official files. By default the folder that the environment variable
        ``MTL_TUTORIAL_DATA`` names, then the cache that ``make data`` fills.
    seed : int
        Decides which rows are for training and which for validation, and their order.

    Returns
    -------
    Dataset
        ``inputs`` float32 of shape (N, 28, 28), grey values in [0, 1]; ``targets`` int64 of
        shape (N,). Its ``source`` is ``"real"`` or ``"embedded"``.

    Raises
    ------
    ValueError
        If ``source`` is none of the three, or a file is not the official one (by SHA-256).
    FileNotFoundError
        If ``folder`` lacks a file, or if ``source`` is ``"real"`` and nothing was found.

    References
    ----------
    Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
    Learning Algorithms", arXiv:1708.07747, 2017.

    Examples
    --------
    >>> data = fashion_mnist(source="embedded")
    >>> data.name, data.source, sorted(data.test.targets)
    ('fashion_mnist', 'embedded', ['clothing', 'group'])
    """
    root = locate("fashion-mnist", source, folder)
    if root is not None:
        return read_official("fashion_mnist", root, "fashion-mnist", seed, _targets)
    upright = digits(seed)
    return Dataset(
        "fashion_mnist",
        "embedded",
        _turned(upright.train),
        _turned(upright.valid),
        _turned(upright.test),
    )


def _targets(labels: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
    return {"clothing": labels, "group": GROUP[labels]}


def _turned(split: Split) -> Split:
    # A copy, because rot90 gives a view with negative strides, which torch refuses.
    inputs = np.ascontiguousarray(np.rot90(split.inputs, axes=(1, 2)))
    digit = split.targets["digit"]
    return Split(inputs, {"clothing": digit, "group": digit // 2})
