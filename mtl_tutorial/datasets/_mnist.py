"""MNIST."""

import os
from dataclasses import replace

from mtl_tutorial.datasets._dataset import Dataset
from mtl_tutorial.datasets._digits import digit_targets, digits
from mtl_tutorial.datasets._fetch import locate
from mtl_tutorial.datasets._official import read_official


def mnist(
    source: str = "auto", folder: str | os.PathLike[str] | None = None, seed: int = 0
) -> Dataset:
    """Load MNIST's handwritten digits, or the embedded ones in their place.

    Two tasks: ``digit`` (0 to 9) and ``gt5`` (1 if the digit is greater than 5, else 0).

    Real: of the official 60,000 training rows, 50,000 to train and 10,000 to validate,
    stratified by digit and shuffled; the official 10,000 to test, in their order whatever the
    seed. Embedded: what `digits` gives.

    Parameters
    ----------
    source : {"auto", "real", "embedded"}
        ``"auto"`` takes the real files where it finds them, otherwise the embedded digits with
        one warning. ``"real"`` takes nothing else. ``"embedded"`` does not look at the disk,
        so that ``folder`` does not matter.
    folder : path, optional
        The only place to look for real files: it holds a folder ``mnist`` with the four
        official files. By default the folder that the environment variable
        ``MTL_TUTORIAL_DATA`` names, then the cache that ``make data`` fills.
    seed : int
        Decides which rows are for training and which for validation, and their order.

    Returns
    -------
    Dataset
        ``inputs`` float32 of shape (N, 28, 28), grey values in [0, 1], ink bright; ``targets``
        int64 of shape (N,). Its ``source`` is ``"real"`` or ``"embedded"``.

    Raises
    ------
    ValueError
        If ``source`` is none of the three, or a file is not the official one (by SHA-256).
    FileNotFoundError
        If ``folder`` lacks a file, or if ``source`` is ``"real"`` and nothing was found.

    References
    ----------
    LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
    recognition", Proceedings of the IEEE 86(11), 1998.

    Examples
    --------
    >>> data = mnist(source="embedded")
    >>> data.name, data.source, sorted(data.test.targets)
    ('mnist', 'embedded', ['digit', 'gt5'])
    """
    root = locate("mnist", source, folder)
    if root is None:
        return replace(digits(seed), name="mnist")
    return read_official("mnist", root, "mnist", seed, digit_targets)
