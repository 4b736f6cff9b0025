"""Jacobians whose Gramian misleads in single precision, and the ball that each step must stay in."""

from collections.abc import Callable, Iterator

import numpy as np

KINDS = (
    "plain",
    "opposite pair",  # all but opposite: b = -s a + angle * anything; the others are anything
    "parallel pair",
    "one line",  # every row along one line, but for an angle
    "one sign",  # the same, with entries of one sign: their sums round the most
    "low rank",
    "copies",
    "no mean",  # the rows all but sum to 0
    "zero rows",
)


def adversarial(kind: str, count: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Rows in single precision: 2 to 40 tasks, 2 to 3000 parameters, angles of 1e-8 to 0.1.

    Every fourth Jacobian has rows of lengths between 1e-12 and 1e12, another one such a length.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    for _ in range(count):
        tasks = int(rng.choice([2, 3, 3, 4, 5, 8, 12, 20, 40]))
        dimension = int(rng.choice([2, 3, 5, 10, 100, 3000], p=[0.1, 0.2, 0.2, 0.2, 0.2, 0.1]))
        rows = rng.standard_normal((tasks, dimension))
        angles = 10 ** rng.uniform(-8, -1, (tasks, 1) if rng.random() < 0.5 else 1)
        sizes = rng.uniform(0.3, 3, (tasks, 1))
        signs = rng.choice([-1, 1], (tasks, 1))
        if kind in ("opposite pair", "parallel pair"):
            sign = -1 if kind == "opposite pair" else 1
            rows[1] = sign * sizes[1] * rows[0] + angles[-1] * rows[1]
        if kind in ("one line", "one sign"):
            line = np.abs(rows[0]) if kind == "one sign" else rows[0]
            rows = sizes * (line + angles * rows) * (signs if rng.random() < 0.7 else 1)
        if kind == "low rank":
            few = rng.standard_normal((rng.integers(1, 4), dimension))
            rows = rng.standard_normal((tasks, len(few))) @ few + angles * rows
        if kind == "copies":
            rows = (signs * rows)[rng.integers(0, 1 + tasks // 2, tasks)]
        if kind == "no mean":
            rows -= rows.mean(axis=0) * (1 - angles[0])
        if kind == "zero rows":
            rows[rng.random(tasks) < 0.4] = 0
        lengths = rng.uniform(-12, 12, (tasks, 1))
        yield (rows * 10 ** [lengths, lengths[0], 0, 0][rng.integers(4)]).astype(np.float32)


def gramians(rows: np.ndarray) -> Iterator[np.ndarray]:
    """As the matrix product rounds it, and as adding up one product after the other does."""
    yield rows @ rows.T
    if len(rows) ** 2 * rows.shape[1] < 3e5:
        products = rows[:, None] * rows[None]
        yield np.cumsum(products, axis=2, dtype=rows.dtype)[:, :, -1]


def lengths(rows: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(rows, axis=1))


Ball = tuple[np.ndarray | float, float]
BOUNDS: dict[str, Callable[[np.ndarray], Ball]] = {
    # centre and radius of the ball that the method's docstring promises, from the rows
    "AlignedMTL": lambda rows: (0.0, float(np.sqrt(np.square(lengths(rows)).mean()))),
    "CAGrad": lambda rows: (rows.mean(axis=0), 0.5 * float(np.linalg.norm(rows.mean(axis=0)))),
    "MGDA": lambda rows: (0.0, float(lengths(rows).min())),
    "NashMTL": lambda rows: (0.0, 1.0),
    "PCGrad": lambda rows: (0.0, float(lengths(rows).sum())),
    "UPGrad": lambda rows: (0.0, float(lengths(rows).mean())),
}
