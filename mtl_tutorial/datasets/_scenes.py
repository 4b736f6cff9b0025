"""Scenes: a digit somewhere in a larger image, to be read, measured and found."""

from typing import Any

import numpy as np
import numpy.typing as npt

from mtl_tutorial.datasets._dataset import Split

INK = 0.2  # a grey value above it counts as ink, for the boxes
SMALLEST, LARGEST = 0.4, 0.7  # side of a drawn digit's frame, as a share of the scene's
SLANT = 30.0  # degrees, the largest


def scenes(
    data: Split,
    count: int,
    *,
    size: int = 64,
    empty: float = 0.1,
    distractors: int = 4,
    seed: int = 0,
) -> Split:
    r"""Draw digits at a random place, size and slant, among scraps of other digits.

    Four tasks of four kinds. ``digit`` is its class. ``slant`` is the angle in degrees, uniform in
    :math:`[-30, 30]`, by which its verticals were leant to the right, on top of the writer's own
    slant. ``box`` holds the corners (x1, y1, x2, y2) around its ink, in pixels: x from the left, y
    from the top, edges of pixels and not their centres, so that the whole image is
    (0, 0, size, size). ``presence`` is 1 if there is a digit and 0 if the scene is empty; the other
    three have no label then.

    Parameters
    ----------
    data : Split
        Square images with a target ``digit``; the same image may be in several scenes.
    count : int
        Scenes to draw; about 0.1 ms each at 64 x 64.
    size : int
        Side of the scenes in pixels, at least 16. The digits grow with it: the frame they were
        written in is drawn 0.4 to 0.7 times as large as the scene.
    empty : float
        The probability that a scene holds no digit. (A line so thin that it vanishes at this size
        leaves its scene empty, too.)
    distractors : int
        Scraps in each scene, squares of ``size // 8`` pixels cut out of the images.
    seed : int
        Of everything drawn. Give the three splits different seeds.

    Returns
    -------
    Split
        ``inputs`` float32 of shape (count, size, size) in [0, 1], the larger grey value where two
        things meet; ``digit`` and ``presence`` int64, ``slant`` float32, ``box`` float32 of shape
        (count, 4). Missing is -1 or NaN.

    Raises
    ------
    ValueError
        ``count`` is below 1, ``size`` below 16, ``distractors`` below 0, ``empty`` no probability,
        or an image is blank.

    Notes
    -----
    Scraps as clutter are an idea of Mnih, Heess, Graves and Kavukcuoglu, "Recurrent models of
    visual attention", NeurIPS 2014.

    Examples
    --------
    >>> from mtl_tutorial.datasets import digits
    >>> train = scenes(digits().train, 200, size=32)
    >>> train
    Split(inputs=(200, 32, 32), targets=[digit, slant, box, presence])
    >>> bool((train.targets["digit"][train.targets["presence"] == 0] == -1).all())
    True
    """
    if count < 1 or size < 16 or distractors < 0:
        raise ValueError(
            "count must be at least 1, size at least 16, distractors at least 0; "
            f"got {count}, {size}, {distractors}"
        )
    if not 0 <= empty <= 1:
        raise ValueError(f"empty is a probability, 0 to 1; got {empty}")
    generator = np.random.default_rng(seed)
    chosen = generator.integers(len(data), size=count)
    there = generator.random(count) >= empty
    zoom = generator.uniform(SMALLEST, LARGEST, count) * size / data.inputs.shape[1]
    slant = generator.uniform(-SLANT, SLANT, count)

    place = generator.random((count, 2))
    inputs = np.empty((count, size, size), np.float32)
    for first in range(0, count, 256):  # a few at a time: they stay in the processor's cache
        rows = slice(first, first + 256)
        inputs[rows] = _draw(data.inputs[chosen[rows]], zoom[rows], slant[rows], place[rows], size)
    inputs[~there] = 0
    box = ink_box(inputs)
    there &= ~np.isnan(box[:, 0])  # a thin line can vanish where it is drawn small
    inputs[~there] = 0
    for _ in range(distractors):
        _add_scraps(inputs, data.inputs, generator)
    return Split(
        inputs,
        {
            "digit": np.where(there, data.targets["digit"][chosen], -1),
            "slant": np.where(there, slant, np.nan).astype(np.float32),
            "box": box,
            "presence": there.astype(np.int64),
        },
    )


def ink_box(images: npt.NDArray[np.float32], threshold: float = INK) -> npt.NDArray[np.float32]:
    """Give the box (x1, y1, x2, y2) around all that is brighter than a threshold.

    Parameters
    ----------
    images : ndarray, shape (N, height, width)
    threshold : float

    Returns
    -------
    ndarray, float32, shape (N, 4)
        Edges of pixels; NaN for an image without ink.

    Examples
    --------
    >>> image = np.zeros((1, 5, 5), np.float32)
    >>> image[0, 1:3, 2] = 1
    >>> ink_box(image)
    array([[2., 1., 3., 3.]], dtype=float32)
    """
    ink: Any = images > threshold
    columns, rows = ink.any(axis=1), ink.any(axis=2)
    low = [columns.argmax(axis=1), rows.argmax(axis=1)]
    high = [
        columns.shape[1] - columns[:, ::-1].argmax(axis=1),
        rows.shape[1] - rows[:, ::-1].argmax(axis=1),
    ]
    box = np.stack([*low, *high], axis=1).astype(np.float32)
    box[~columns.any(axis=1)] = np.nan
    return box


def _draw(
    images: npt.NDArray[np.float32],
    zoom: npt.NDArray[np.float64],
    slant: npt.NDArray[np.float64],
    place: npt.NDArray[np.float64],
    size: int,
) -> npt.NDArray[np.float32]:
    """Draw each image zoomed and sheared, its ink anywhere inside a square of ``size``.

    A pixel of the scene at (x, y), counted from its centre, shows the image at
    (u, v) = ((x - a) / zoom + tan(slant) v, (y - b) / zoom), v counted from the middle of the ink.
    """
    ink = ink_box(images).astype(float)
    if np.isnan(ink).any():
        raise ValueError("an image is blank: there is no digit to draw")
    lean = np.tan(np.radians(slant))
    middle = (ink[:, :2] + ink[:, 2:]) / 2
    half_width, half_height = ((ink[:, 2:] - ink[:, :2]) / 2).T
    reach = np.stack([half_width + np.abs(lean) * half_height, half_height], axis=1)
    reach = zoom[:, None] * reach + 1  # a pixel to spare
    if (2 * reach > size).any():  # a wide and much slanted digit: as large as will fit
        shrink = np.minimum(1, (size / 2 - 1) / (reach - 1).max(axis=1))
        zoom, reach = zoom * shrink, (reach - 1) * shrink[:, None] + 1
    centre = reach + place * (size - 2 * reach)

    pixel = np.arange(size) + 0.5
    v = (pixel - centre[:, 1:]) / zoom[:, None]  # (N, size), rows of the scene
    u = ((pixel - centre[:, :1]) / zoom[:, None])[:, None, :] + (lean[:, None] * v)[:, :, None]
    u = u + middle[:, 0, None, None] - 0.5  # in indices of the image's columns
    v = v + middle[:, 1, None] - 0.5

    # Bilinear: first between two rows (one weight a row of the scene), then between two columns.
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))  # off the image there is no ink
    last = images.shape[1]
    v, u = np.clip(v + 1, 0, last + 0.999), np.clip(u + 1, 0, last + 0.999)
    row, column = v.astype(np.intp), u.astype(np.intp)
    each = np.arange(len(images))[:, None]
    share = (v - row).astype(np.float32)[:, :, None]
    lines = (1 - share) * padded[each, row] + share * padded[each, row + 1]  # (N, size, last + 2)
    share = (u - column).astype(np.float32)
    left = np.take_along_axis(lines, column, axis=2)
    right = np.take_along_axis(lines, column + 1, axis=2)
    drawn: npt.NDArray[np.float32] = (1 - share) * left + share * right
    return drawn


def _add_scraps(
    scenes: npt.NDArray[np.float32],
    images: npt.NDArray[np.float32],
    generator: np.random.Generator,
) -> None:
    """Put a square cut out of the middle of a random image at a random place of each scene."""
    count, size = scenes.shape[:2]
    side = min(size // 8, images.shape[1] // 2)
    window = np.arange(side)

    def squares(corner: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], ...]:
        y, x = corner
        return (y[:, None] + window)[:, :, None], (x[:, None] + window)[:, None, :]

    quarter = images.shape[1] // 4
    source: Any = generator.integers(quarter, 3 * quarter - side + 1, size=(2, count))
    target: Any = generator.integers(size - side + 1, size=(2, count))
    image: Any = generator.integers(len(images), size=count)
    scrap = images[image[:, None, None], *squares(source)]
    place = (np.arange(count)[:, None, None], *squares(target))
    scenes[place] = np.maximum(scenes[place], scrap)
