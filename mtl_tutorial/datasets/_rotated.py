"""Rotated digits: which digit is it, and by which angle is it turned."""

import numpy as np

from mtl_tutorial.datasets._dataset import Split


def rotated(data: Split, degrees: float = 45.0, seed: int = 0) -> Split:
    r"""Turn each image by a random angle, uniform in :math:`[-` ``degrees`` :math:`,` ``degrees`` :math:`]`.

    Two tasks: ``digit``, as it was, and ``angle`` in degrees, positive anticlockwise. A class and a
    number with a large unit: the two losses differ in scale by a factor of hundreds, which is what
    the data set is for.

    Parameters
    ----------
    data : Split
        Square images with a target ``digit``; take the rows you need first, turning costs about
        0.1 ms an image.
    degrees : float
        The largest angle.
    seed : int
        Of the angles. Give the three splits different seeds.

    Returns
    -------
    Split
        ``inputs`` of the same shape, clipped to [0, 1]; ``digit`` int64; ``angle`` float32.

    Raises
    ------
    ValueError
        ``degrees`` is not between 0 and 180.

    Examples
    --------
    >>> from mtl_tutorial.datasets import digits
    >>> train = rotated(digits().train.take(slice(100)), degrees=30)
    >>> train
    Split(inputs=(100, 28, 28), targets=[digit, angle])
    >>> bool(abs(train.targets["angle"]).max() <= 30)
    True
    """
    from scipy.ndimage import rotate

    if not 0 <= degrees <= 180:
        raise ValueError(f"degrees is the largest angle, 0 to 180; got {degrees}")
    angles = np.random.default_rng(seed).uniform(-degrees, degrees, len(data))
    turned = [
        rotate(image, angle, reshape=False, order=1)
        for image, angle in zip(data.inputs, angles, strict=True)
    ]
    inputs = np.clip(np.reshape(turned, data.inputs.shape), 0, 1).astype(np.float32)
    return Split(inputs, {"digit": data.targets["digit"], "angle": angles.astype(np.float32)})
