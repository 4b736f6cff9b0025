"""Two digits in one image: two tasks that compete for the same pixels."""

import numpy as np

from mtl_tutorial.datasets._dataset import Split


def overlaid(data: Split, count: int, seed: int = 0) -> Split:
    """Draw pairs of images, one towards the upper left, one towards the lower right, overlapping.

    Two tasks: ``left`` and ``right``, the class of each digit. Nothing about one digit tells
    anything about the other, so all that the tasks can share is how digits look; and each digit is
    noise for the other task. The idea is MultiMNIST's (Sabour, Frosst and Hinton, 2017).

    Parameters
    ----------
    data : Split
        Square images with a target ``digit``.
    count : int
        Pairs to draw; the same image may be in several.
    seed : int
        Of the pairs. Give the three splits different seeds.

    Returns
    -------
    Split
        ``inputs`` float32 of shape (count, 36, 36) for images of 28 x 28, the larger grey value
        where two meet; ``targets`` int64.

    Raises
    ------
    ValueError
        ``count`` is below 1.

    References
    ----------
    Sabour, Frosst and Hinton, "Dynamic routing between capsules", NeurIPS 2017.

    Examples
    --------
    >>> from mtl_tutorial.datasets import digits
    >>> overlaid(digits().train, 500)
    Split(inputs=(500, 36, 36), targets=[left, right])
    """
    if count < 1:
        raise ValueError(f"count must be at least 1; got {count}")
    first, second = np.random.default_rng(seed).integers(len(data), size=(2, count))
    side = data.inputs.shape[1]
    shift = side * 2 // 7  # 8 pixels of 28
    inputs = np.zeros((count, side + shift, side + shift), np.float32)
    inputs[:, :side, :side] = data.inputs[first]
    corner = inputs[:, shift:, shift:]
    np.maximum(corner, data.inputs[second], out=corner)
    digit = data.targets["digit"]
    return Split(inputs, {"left": digit[first], "right": digit[second]})
