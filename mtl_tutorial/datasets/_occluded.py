"""Rooms with things that hide each other: segments, depth and occlusion edges of every pixel."""

from typing import Any

import numpy as np
import numpy.typing as npt

from mtl_tutorial.datasets._dataset import Dataset, Split

CAMERA = 1.5  # its height above the floor, in metres
NEAREST = 2.5  # no thing stands nearer to the camera, in metres
JUMP = 0.25  # of depth between two neighbours, from which there is an edge, in metres
BASELINE = 0.5  # between the two eyes of the depth camera, in metres
SPECKLE = 0.03  # share of the pixels where it measures nothing
VALID, TEST = 300, 500
PICTURES = 2  # on the wall of each room
BLOCK = 250  # images drawn at a time: a few megabytes
BALL, BOX, CONE = 1, 2, 3

Array = npt.NDArray[Any]


def occluded_scenes(
    count: int = 1000,
    seed: int = 0,
    *,
    size: int = 32,
    things: int = 5,
    noise: float = 0.03,
    missing: bool = True,
) -> Dataset:
    r"""Draw rooms where balls, boxes and cones hide each other; three labels for every pixel.

    A camera 1.5 m above the floor, more or less tilted, looks at things of 0.5 to 1.6 m that stand on
    a chequered floor before a wall, 7 to 9 m away. Far things are smaller, stand higher in the image,
    and fade. Grey value and stripes mean nothing: only its form says what a thing is. Of the same
    forms and grey values are two pictures on the wall, which are no things: they belong to the room.

    - ``segments``: 0 for floor and wall, 1 for a ball, 2 for a box, 3 for a cone.
    - ``depth``: from the camera's plane to the nearest surface, in metres.
    - ``edges``: 1 where a thing hides another surface: on its pixels from which the depth jumps by more
      than 0.25 m to that of the surface beside it, on one of the four sides. Where a thing stands on
      the floor there is none, nor at a stripe.

    Parameters
    ----------
    count : int
        Images to train; 300 to validate and 500 to test come on top. About 1 ms each.
    seed : int
        Of everything drawn. What is drawn to test does not depend on ``count``.
    size : int
        Side of the images in pixels, at least 16.
    things : int
        At most so many in an image, at least 1. What is hidden, or outside, is not seen.
    noise : float
        Standard deviation of the noise of each pixel.
    missing : bool
        Whether labels are missing: of the segments a rectangle in each image, which nobody labelled;
        of the depth a strip on the right of what hides something (the second eye of a stereo camera
        does not see it), and 3 % of the other pixels.

    Returns
    -------
    Dataset
        ``inputs`` float32 of shape (N, size, size) in [0, 1]; ``segments`` and ``edges`` int64,
        ``depth`` float32, of the same shape. Missing is -1 in segments, NaN in depth.

    Raises
    ------
    ValueError
        ``count`` or ``things`` is below 1, ``size`` below 16, ``noise`` below 0.

    Examples
    --------
    >>> data = occluded_scenes(50)
    >>> data.train
    Split(inputs=(50, 32, 32), targets=[segments, depth, edges])
    >>> bool(np.isnan(data.train.targets["depth"]).any()), int(data.train.targets["segments"].min())
    (True, -1)
    """
    if count < 1 or things < 1 or size < 16 or not noise >= 0:
        raise ValueError(
            "count and things must be at least 1, size at least 16, noise not below 0; "
            f"got {count}, {things}, {size}, {noise}"
        )
    splits = []
    for number, rows in enumerate((count, VALID, TEST)):
        generator = np.random.default_rng([seed, number])
        blocks = [min(BLOCK, rows - start) for start in range(0, rows, BLOCK)]
        parts = [_drawn(block, size, things, generator) for block in blocks]
        images, segments, depth, edges = (np.concatenate(each) for each in zip(*parts, strict=True))
        images += generator.normal(scale=noise, size=images.shape)
        if missing:
            segments[_rectangles(rows, size, generator)] = -1
            depth[_hidden_from_the_other_eye(depth)] = np.nan
            depth[generator.random(depth.shape) < SPECKLE] = np.nan
        targets = {"segments": segments, "depth": depth, "edges": edges.astype(np.int64)}
        splits.append(Split(images.clip(0, 1), targets))
    return Dataset("occluded_scenes", "generated", *splits)


def _drawn(count: int, size: int, things: int, generator: np.random.Generator) -> list[Array]:
    """Draw so many images without noise: what is seen, segments, depth and edges of every pixel."""
    depths, greys, classes = _surfaces(count, size, things, generator)
    owner = depths.argmin(axis=0)  # the surface that each pixel shows: the nearest
    depth = np.take_along_axis(depths, owner[None], axis=0)[0]
    images = np.take_along_axis(greys, owner[None], axis=0)[0]
    segments = classes[owner, np.arange(count)[:, None, None]]
    return [images, segments, depth, _edges(depth, owner)]


def _surfaces(
    count: int, size: int, things: int, generator: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Give depth (infinite where it is not) and grey value of each surface, and its class.

    The first surface is the room, the others are things: shapes (1 + things, count, size, size), of
    the classes (1 + things, count).
    """
    v, u = np.mgrid[:size, :size].astype(np.float32) + 0.5  # rows and columns of pixels' centres
    draw = generator.random((5, count, 1, 1), np.float32)
    horizon, wall = size * (0.15 + 0.25 * draw[0]), 7 + 2 * draw[1]
    below = np.maximum(v - horizon, 1e-6)
    depth = np.minimum(size * CAMERA / below, wall)  # the focal length is the image's side
    across = (u - size / 2) * depth / size
    chequers = (np.floor(across + 2 * draw[2]) + np.floor(depth + 2 * draw[3])) % 2 - 0.5
    grey = 0.4 + 0.2 * draw[4] + 0.12 * chequers * (depth < wall)
    for _ in range(PICTURES):
        drawn = generator.random((4, count, 1, 1), np.float32)
        half = 2 + 2 * drawn[0]  # in pixels of a picture of 32
        x = (u - size * drawn[1]) * 32 / size / half
        foot = horizon + size * CAMERA / wall - size / 32 * (1 + 3 * drawn[2])
        y = (v - foot) * 32 / size / (2 * half) + 1
        kind = generator.integers(BALL, CONE + 1, count)
        hung = _inside(x, y, kind) & (depth == wall)
        grey = np.where(hung, _tone(drawn[3]), grey)
    depths, greys, classes = [depth], [_faded(grey, depth)], [np.zeros(count, np.int64)]

    number = generator.integers(min(2, things), things + 1, count)
    for thing in range(things):
        draw = generator.random((8, count, 1, 1), np.float32)
        kind = generator.integers(BALL, CONE + 1, count)
        z = NEAREST + draw[0] ** 1.5 * (0.9 * wall - NEAREST)
        radius = 0.3 + 0.5 * draw[1]  # half of the width, in metres
        height = np.where(kind[:, None, None] == BALL, 2, 1.2 + 1.6 * draw[2]) * radius
        x = (u - size * draw[3]) * z / size / radius  # -1 to 1 from its left to its right
        y = ((v - horizon) * z / size - CAMERA) / height + 1  # 0 to 1 from its top to its foot
        half, boxes = _half_width(y, kind), kind[:, None, None] == BOX
        inside = _inside(x, y, kind) & (thing < number)[:, None, None]
        bulge = np.sqrt(np.maximum(half**2 - x**2, 0)) * ~boxes  # of a round thing, towards us
        light = 0.75 + 0.25 * np.where(boxes, 0, x * (2 * draw[4] - 1)) + 0.15 * bulge
        stripes = 0.1 * np.sign(np.sin(2 * np.pi * (2 * y + draw[6]))) * (draw[7] < 0.5)
        near = z - radius * bulge
        depths.append(np.where(inside, near, np.inf))
        greys.append(_faded(_tone(draw[5]) * light + stripes, near))
        classes.append(kind)
    return np.stack(depths), np.stack(greys), np.stack(classes)


def _half_width(y: Array, kind: Array) -> Array:
    """Give the half-width of a form at this height, 0 at its top and 1 at its foot: 1 at its widest."""
    kind = kind[:, None, None]
    ball = np.sqrt(np.maximum(1 - (2 * y - 1) ** 2, 0))
    return np.where(kind == BALL, ball, np.where(kind == CONE, y, 1))


def _inside(x: Array, y: Array, kind: Array) -> Array:
    """Where a place is inside a form, whose sides are at -1 and 1."""
    return (np.abs(x) <= _half_width(y, kind)) & (y >= 0) & (y <= 1)


def _tone(draw: Array) -> Array:
    """Make a dark or a bright grey value, such as no room has, of a number from 0 to 1."""
    return np.where(draw < 0.5, 0.05 + 0.5 * draw, 0.5 + 0.5 * draw)


def _faded(grey: Array, depth: Array) -> Array:
    """Draw a grey value towards 0.5 with its distance, as haze does."""
    return 0.5 + (grey - 0.5) * np.exp(-depth / 20)


def _edges(depth: Array, owner: Array) -> npt.NDArray[np.bool_]:
    """Mark the pixels of things beside which another surface lies farther by a jump."""
    edges = np.zeros(depth.shape, bool)
    for axis in (1, 2):
        ahead = [slice(None)] * 3
        behind = [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        for here, there in ((tuple(ahead), tuple(behind)), (tuple(behind), tuple(ahead))):
            farther = depth[there] - depth[here] > JUMP
            edges[here] |= farther & (owner[there] != owner[here]) & (owner[here] > 0)
    return edges


def _rectangles(count: int, size: int, generator: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Mark a rectangle in each image, with sides of an eighth to three eighths of the image's."""
    place = np.arange(size)
    sides = generator.integers(size // 8, 3 * size // 8 + 1, (2, count, 1))
    start = (generator.random((2, count, 1)) * (size - sides + 1)).astype(int)
    rows, columns = (place >= start) & (place < start + sides)
    inside: npt.NDArray[np.bool_] = rows[:, :, None] & columns[:, None, :]
    return inside


def _hidden_from_the_other_eye(depth: Array) -> npt.NDArray[np.bool_]:
    """Mark what a second camera, a little to the left, does not see: it lies behind what is left of it.

    A point at column u and depth z appears there at u + B / z. So a pixel is hidden where one on its
    left appears as far to the right as it does, or farther.
    """
    size = depth.shape[2]
    seen_at = np.arange(size) + BASELINE * size / depth
    farthest = np.maximum.accumulate(seen_at, axis=2)
    return np.concatenate(
        [np.zeros((*depth.shape[:2], 1), bool), seen_at[:, :, 1:] <= farthest[:, :, :-1]], axis=2
    )
