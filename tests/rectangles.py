"""A small problem whose answer is a box: one bright rectangle in an image of 16 x 16 pixels."""

import numpy as np

from mtl_tutorial.datasets import Split


def rectangles(rows: int, seed: int, side: float) -> Split:
    """Draw rectangles; their boxes are in the unit in which the image's side is ``side``."""
    generator = np.random.default_rng(seed)
    shape = generator.integers(3, 9, (rows, 2))
    low = generator.integers(0, 17 - shape)
    high, pixel = low + shape, np.arange(16)
    columns, lines = (
        (pixel >= a[:, None]) & (pixel < b[:, None]) for a, b in zip(low.T, high.T, strict=True)
    )
    images = (lines[:, :, None] & columns[:, None, :]).astype("float32")
    boxes = np.concatenate([low, high], axis=1) / 16 * side
    return Split(images, {"box": boxes.astype("float32")})
