"""Augmentation that moves the boxes with the pixels."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mtl_tutorial.datasets._dataset import Split

Boxes = npt.NDArray[np.float32]


def flipped(data: Split, box: str = "box", negated: Sequence[str] = ()) -> Split:
    """Mirror every image left to right, and its box.

    Whether the other labels stay true is for you to know: a mirrored 2 is no digit, a face is a
    face, and a lean to the right becomes one to the left.

    Parameters
    ----------
    data : Split
        Images of shape (N, height, width).
    box : str
        The target of boxes, (x1, y1, x2, y2) in pixels. Missing ones stay missing.
    negated : sequence of str
        Targets that change their sign, such as an angle.

    Returns
    -------
    Split

    Raises
    ------
    KeyError, ValueError
        There is no such target, the inputs are no images, or a box is outside its image.

    Examples
    --------
    >>> image = np.zeros((1, 4, 4), np.float32)
    >>> data = Split(image, {"box": np.float32([[0, 1, 1, 3]])})
    >>> flipped(data).targets["box"]
    array([[3., 1., 4., 3.]], dtype=float32)
    """
    corners, (_, width) = _check(data, box)
    x1, y1, x2, y2 = corners.T
    moved = np.stack([width - x2, y1, width - x1, y2], axis=1)
    signs = {name: -data.targets[name] for name in negated}
    return Split(np.ascontiguousarray(data.inputs[:, :, ::-1]), data.targets | signs | {box: moved})


def shifted(data: Split, most: int, seed: int = 0, box: str = "box") -> Split:
    """Move each image by a random whole number of pixels each way, and its box; blank comes in.

    A shift that would push part of the box off the image is cut short, so that the object stays
    whole and every other label true.

    Parameters
    ----------
    data : Split
        Images of shape (N, height, width).
    most : int
        The largest shift, along each axis and either way.
    seed : int
        Of the shifts.
    box : str
        See :func:`flipped`.

    Returns
    -------
    Split

    Raises
    ------
    KeyError, ValueError
        As :func:`flipped`, or ``most`` is below 0.

    Examples
    --------
    >>> from mtl_tutorial.datasets import digits, scenes
    >>> train = scenes(digits().train, 100, size=32)
    >>> twice = shifted(train, most=4)
    >>> bool(np.nanmax(abs(twice.targets["box"] - train.targets["box"])) <= 4)
    True
    """
    corners, (height, width) = _check(data, box)
    if most < 0:
        raise ValueError(f"most is the largest shift, at least 0; got {most}")
    generator = np.random.default_rng(seed)
    low, high = _room(corners, (width, height))
    steps = np.clip(generator.integers(-most, most + 1, size=(len(data), 2)), low, high)
    padded = np.pad(data.inputs, ((0, 0), (most, most), (most, most)))
    inputs = _windows(padded, most - steps, (height, width))
    return _moved(data, inputs, box, corners, steps)


def cropped(data: Split, size: int, seed: int = 0, box: str = "box") -> Split:
    """Cut a random square window out of each image that holds the whole box, and move the box.

    Parameters
    ----------
    data : Split
        Images of shape (N, height, width).
    size : int
        Side of the window.
    seed : int
        Of the places.
    box : str
        See :func:`flipped`.

    Returns
    -------
    Split
        ``inputs`` of shape (N, size, size).

    Raises
    ------
    KeyError, ValueError
        As :func:`flipped`; the window is larger than the images or smaller than a box.

    Examples
    --------
    >>> image = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    >>> data = Split(image, {"box": np.float32([[2, 2, 4, 4]])})
    >>> small = cropped(data, 2)
    >>> small.inputs.tolist(), small.targets["box"].tolist()
    ([[[10.0, 11.0], [14.0, 15.0]]], [[0.0, 0.0, 2.0, 2.0]])
    """
    corners, (height, width) = _check(data, box)
    if not 1 <= size <= min(height, width):
        raise ValueError(f"a window of {size} does not fit into images of {height} x {width}")
    too_large = np.nan_to_num(corners[:, 2:] - corners[:, :2]).max(axis=1) > size
    if too_large.any():
        row = int(np.flatnonzero(too_large)[0])
        raise ValueError(f"row {row}: box {corners[row]} does not fit into a window of {size}")
    generator = np.random.default_rng(seed)
    there = ~np.isnan(corners).any(axis=1, keepdims=True)
    last = np.array([width - size, height - size])
    first = np.where(there, np.ceil(np.maximum(corners[:, 2:] - size, 0)), 0)
    last = np.where(there, np.minimum(np.floor(corners[:, :2]), last), last)
    first = np.minimum(first, last)  # a box of size + a fraction, off the pixels' edges
    corner = (first + np.floor(generator.random((len(data), 2)) * (last - first + 1))).astype(int)
    return _moved(data, _windows(data.inputs, corner, (size, size)), box, corners, -corner)


def _check(data: Split, box: str) -> tuple[Boxes, tuple[int, int]]:
    """Return the boxes and the images' height and width, or say what is wrong."""
    if box not in data.targets:
        raise KeyError(f"no target named {box!r}; there are {sorted(data.targets)}")
    if data.inputs.ndim != 3:
        raise ValueError(f"inputs have shape {data.inputs.shape}, expected (N, height, width)")
    corners: Boxes = data.targets[box]
    if corners.shape != (len(data), 4):
        raise ValueError(f"boxes have shape {corners.shape}, expected ({len(data)}, 4)")
    height, width = data.inputs.shape[1:]
    outside = (corners[:, :2] < 0).any(axis=1) | (corners[:, 2:] > [width, height]).any(axis=1)
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise ValueError(
            f"row {row}: box {corners[row]} is outside its image of {width} x {height} pixels"
        )
    return corners, (height, width)


def _room(
    corners: Boxes, side: tuple[int, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """How far each box may move, in whole pixels, to stay inside; without a box, any way."""
    low = np.ceil(-corners[:, :2])
    high = np.floor(np.asarray(side) - corners[:, 2:])
    free = np.isnan(low) | np.isnan(high)
    far = max(side)
    return np.where(free, -far, low).astype(int), np.where(free, far, high).astype(int)


def _windows(
    images: npt.NDArray[np.float32],
    corner: npt.NDArray[np.int64],
    shape: tuple[int, int],
) -> npt.NDArray[np.float32]:
    """Cut out of each image the window of this shape at its own corner (x, y)."""
    every = np.lib.stride_tricks.sliding_window_view(images, shape, axis=(1, 2))
    cut: npt.NDArray[np.float32] = every[np.arange(len(images)), corner[:, 1], corner[:, 0]]
    return cut


def _moved(
    data: Split,
    inputs: npt.NDArray[np.float32],
    box: str,
    corners: Boxes,
    steps: npt.NDArray[np.int64],
) -> Split:
    """Give the new images, and the boxes moved by (x, y) in ``steps``."""
    moved = (corners + np.tile(steps, 2)).astype(corners.dtype)
    return Split(inputs, data.targets | {box: moved})
