"""Read a data set that is laid out like MNIST: four idx files, 60,000 and 10,000 images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mtl_tutorial.datasets._dataset import Dataset, Split
from mtl_tutorial.datasets._fetch import read_verified
from mtl_tutorial.datasets._idx import parse_idx
from mtl_tutorial.datasets._splits import hold_out

Targets = Callable[[npt.NDArray[np.int64]], dict[str, npt.NDArray[np.int64]]]


def read_official(name: str, root: Path, dataset: str, seed: int, targets: Targets) -> Dataset:
    """Read and verify the four files; a sixth of the training rows becomes ``valid``.

    Parameters
    ----------
    name : str
        The name of the resulting Dataset.
    root : Path
        The data folder.
    dataset : str
        The data set's folder in it.
    seed : int
        Decides which training rows are for validation.
    targets : callable
        From labels of shape (N,) to the targets by task name.

    Returns
    -------
    Dataset
        Its ``source`` is ``"real"``; the test rows are in their official order.

    Raises
    ------
    ValueError
        If a file is not the one that the registry knows.
    """

    def read(file: str, dimensions: int) -> npt.NDArray[np.uint8]:
        file = f"{dataset}/{file}.gz"
        return parse_idx(read_verified(root, file), root / file, dimensions)

    def split(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> Split:
        return Split(images.astype(np.float32) / np.float32(255), targets(labels))

    images = read("train-images-idx3-ubyte", 3)
    labels = read("train-labels-idx1-ubyte", 1).astype(np.int64)
    train, valid = hold_out(labels, len(labels) // 6, np.random.default_rng(seed))
    return Dataset(
        name,
        "real",
        split(images[train], labels[train]),
        split(images[valid], labels[valid]),
        split(
            read("t10k-images-idx3-ubyte", 3),
            read("t10k-labels-idx1-ubyte", 1).astype(np.int64),
        ),
    )
