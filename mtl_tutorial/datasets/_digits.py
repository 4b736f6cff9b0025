"""The embedded digits: they come with scikit-learn, so they are always there."""

import numpy as np
import numpy.typing as npt

from mtl_tutorial.datasets._dataset import Dataset, Split
from mtl_tutorial.datasets._splits import Rows, hold_out


def digits(seed: int = 0) -> Dataset:
    """Load scikit-learn's 1,797 handwritten digits, resized from 8 x 8 to 28 x 28.

    Two tasks: ``digit`` (0 to 9) and ``gt5`` (1 if the digit is greater than 5, else 0).
    1,197 rows to train, 300 to validate, 300 to test, stratified by digit; here the seed
    decides about the test rows too. Rows are shuffled, so the first n are a random sample.

    Parameters
    ----------
    seed : int
        Decides which rows go into which split, and their order.

    Returns
    -------
    Dataset
        ``inputs`` float32 of shape (N, 28, 28), grey values in [0, 1], ink bright; ``targets``
        int64 of shape (N,). Its ``source`` is ``"embedded"``.

    References
    ----------
    Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
    Repository, 1998 (its test part, as scikit-learn distributes it).

    Examples
    --------
    >>> data = digits()
    >>> data.train.inputs.shape
    (1197, 28, 28)
    >>> data.train.targets["digit"][:8]
    array([9, 1, 1, 2, 8, 6, 4, 4])
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = _resize(bunch.images / 16)
    labels = bunch.target.astype(np.int64)

    generator = np.random.default_rng(seed)
    rest, test = hold_out(labels, 300, generator)
    train, valid = hold_out(labels[rest], 300, generator)

    def split(rows: Rows) -> Split:
        return Split(inputs[rows], digit_targets(labels[rows]))

    return Dataset("digits", "embedded", split(rest[train]), split(rest[valid]), split(test))


def digit_targets(labels: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
    """Give the targets of both tasks for digits of shape (N,)."""
    return {"digit": labels, "gt5": (labels > 5).astype(np.int64)}


def _resize(images: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Resize (N, 8, 8) to (N, 28, 28) with cubic splines, clipped to [0, 1]."""
    from scipy.ndimage import zoom

    # Zooming is linear in the image: one matrix, made by zooming unit vectors, does it for
    # all rows of all images, and again for all columns.
    matrix: npt.NDArray[np.float64] = zoom(np.eye(8), (28 / 8, 1), order=3)
    return np.clip(matrix @ images @ matrix.T, 0, 1).astype(np.float32)
