r"""Pictures of rectangles and discs: what is at each pixel, and how far away it is.

Each picture is rendered, so the truth is known. Objects of random colour stand before a floor that
comes nearer towards the lower edge; the nearer hides the farther. An object at depth :math:`d` has a
size of :math:`14 / d` pixels, so size tells depth; fog takes colours towards grey by :math:`e^{-d/4}`,
so contrast does, too. What an object is, only its shape tells, not its colour.

- *kind* of each pixel: 0 floor, 1 rectangle, 2 disc; the pixels next to a border between two kinds
  are not labelled (-1), as in many real data sets;
- *depth* of each pixel, in metres from 1 to 4. The sensor leaves holes (NaN): a block in each
  picture, and single pixels.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mtl_tutorial.datasets import Split
from mtl_tutorial.metrics import scores
from mtl_tutorial.tasks import Classification, Regression

KINDS = 3
TASKS = [
    Classification("kind", classes=KINDS, metrics=["mean_iou", "accuracy"]),
    Regression("depth", metrics=["mae", "rmse"]),
]


@dataclass(frozen=True)
class Pictures:
    """Training, validation and test pictures."""

    train: Split
    valid: Split
    test: Split


def make(pictures: int = 640, side: int = 32, seed: int = 0) -> Pictures:
    """Make pictures, shape (N, side, side, 3), with a kind and a depth for each pixel.

    Seven tenths are to train on, one tenth to choose by, two tenths to report.
    """
    draw = np.random.default_rng(seed)
    scenes = [_scene(side, draw) for _ in range(pictures)]
    images, kind, depth = (np.stack(each) for each in zip(*scenes, strict=True))
    whole = Split(images, {"kind": kind, "depth": depth})
    edges = [0, pictures * 7 // 10, pictures * 8 // 10, pictures]
    return Pictures(*(whole.take(slice(a, b)) for a, b in pairwise(edges)))


def _scene(side: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render one picture: image, kinds, depths."""
    y, x = np.mgrid[:side, :side]
    kind = np.zeros((side, side), np.int64)
    depth = np.linspace(4, 2, side)[:, None] * np.ones(side)
    colour = np.broadcast_to(draw.random(3), (side, side, 3)).copy()
    for _ in range(draw.integers(2, 5)):
        own, away = draw.integers(1, KINDS), draw.uniform(1, 3.5)
        top, left = draw.uniform(0, side, 2)
        tall, wide = 14 / away * draw.uniform(0.8, 1.2, 2)
        if own == 1:
            inside = (abs(y - top) < tall) & (abs(x - left) < wide)
        else:
            inside = (y - top) ** 2 + (x - left) ** 2 < tall**2
        inside &= away < depth
        kind[inside], depth[inside], colour[inside] = own, away, draw.random(3)
    clear = np.exp(-depth / 4)[..., None]
    image = clear * colour + (1 - clear) * 0.5 + 0.03 * draw.normal(size=colour.shape)

    border = np.zeros_like(kind, bool)
    for axis in (0, 1):
        for step in (-1, 1):
            border |= np.roll(kind, step, axis) != kind
    top, left = draw.integers(0, side - 6, 2)
    hole = draw.random(kind.shape) < 0.1
    hole[top : top + 6, left : left + 6] = True
    return (
        image.astype(np.float32),
        np.where(border, -1, kind),
        np.where(hole, np.nan, depth).astype(np.float32),
    )


def simple_scores(data: Pictures) -> dict[str, float]:
    """Metrics of the simplest models: linear ones, of the 5 × 5 pixels around, and of the height."""
    from sklearn.linear_model import LinearRegression, LogisticRegression

    train, test = _patches(data.train.inputs), _patches(data.test.inputs)
    some = np.random.default_rng(0).permutation(len(train))[:3_000]
    kind, depth = (data.train.targets[name].ravel()[some] for name in ("kind", "depth"))
    labelled, measured = kind >= 0, ~np.isnan(depth)
    classes = LogisticRegression(max_iter=500).fit(train[some][labelled], kind[labelled])
    distances = LinearRegression().fit(train[some][measured], depth[measured])
    outputs = {
        "kind": classes.decision_function(test),
        "depth": distances.predict(test)[:, None],
    }
    shape = data.test.targets["kind"].shape
    outputs = {name: output.reshape(*shape, -1) for name, output in outputs.items()}
    return scores(TASKS, outputs, data.test.targets)


def _patches(images: np.ndarray) -> np.ndarray:
    """Give a row a pixel: its neighbourhood, and how high it stands."""
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(1, 2))
    height = np.broadcast_to(np.linspace(0, 1, images.shape[1])[:, None], images.shape[:3])
    return np.c_[windows.reshape(height.size, -1), height.reshape(-1, 1)]
