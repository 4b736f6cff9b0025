"""Jacobians whose Gramian in single precision misleads, and the bound that each method keeps."""

from collections.abc import Callable, Iterator

import numpy as np

KINDS = (
    "plain",
    "opposite pair",  # b = -s a + angle e, all else anything
    "parallel pair",
    "one line",  # all rows along one line, up to an angle of their own
    "one sign",  # the same, positive entries: sums of one sign round the most
    "low rank",
    "copies",
    "no mean",  # rows that nearly sum to 0
    "zero rows",
)


def adversarial(count: int, seed: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """Kind and rows in float32: 2 to 40 tasks, 2 to 3000 parameters, angles of 1e-8 to 0.1."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        tasks = int(rng.choice([2, 3, 3, 4, 5, 8, 12, 20, 40]))
        dimension = int(rng.choice([2, 3, 5, 10, 100, 3000], p=[0.1, 0.2, 0.2, 0.2, 0.2, 0.1]))
        rows = rng.standard_normal((tasks, dimension))
        angles = 10 ** rng.uniform(-8, -1, (tasks, 1))
        if rng.random() < 0.5:
            angles[:] = angles[0]
        sizes = rng.uniform(0.3, 3, (tasks, 1))
        signs = rng.choice([-1, 1], (tasks, 1))
        if kind == "opposite pair":
            rows[1] = -sizes[1] * rows[0] + angles[1] * rows[1]
        if kind == "parallel pair":
            rows[1] = sizes[1] * rows[0] + angles[1] * rows[1]
        if kind in ("one line", "one sign"):
            line = np.abs(rows[0]) if kind == "one sign" else rows[0].copy()
            rows = sizes * (line + angles * rows) * (1 if rng.random() < 0.3 else signs)
        if kind == "low rank":
            rank = rng.integers(1, 4)
            rows = rng.standard_normal((tasks, rank)) @ rows[:rank].reshape(-1, dimension)[:rank] if rank <= tasks else rows
            rows = rows + angles * rng.standard_normal(rows.shape)
        if kind == "copies":
            rows = (signs * rows)[rng.integers(0, 1 + tasks // 2, tasks)]
        if kind == "no mean":
            rows -= rows.mean(axis=0) * (1 - angles[0])
        if kind == "zero rows":
            rows[rng.random(tasks) < 0.4] = 0
        scale = rng.integers(0, 4)
        if scale == 0:
            rows *= 10 ** rng.uniform(-12, 12, (tasks, 1))
        if scale == 1:
            rows *= 10 ** rng.uniform(-12, 12)
        yield kind, rows.astype(np.float32)


def mean_length(rows: np.ndarray) -> tuple[np.ndarray | float, float]:
    return 0.0, float(np.linalg.norm(rows, axis=1).mean())


BOUNDS: dict[str, Callable[[np.ndarray], tuple[np.ndarray | float, float]]] = {
    # name: the ball in which the step lies, its centre and radius, from the rows
    "UPGrad": mean_length,
    "MGDA": lambda rows: (0.0, float(np.linalg.norm(rows, axis=1).min())),
    "CAGrad": lambda rows: (rows.mean(axis=0), 0.5 * float(np.linalg.norm(rows.mean(axis=0)))),
    "NashMTL": lambda rows: (0.0, 1.0),
    "AlignedMTL": lambda rows: (0.0, float(np.sqrt(np.square(rows).sum(axis=1).mean()))),
    "PCGrad": lambda rows: (0.0, float(np.linalg.norm(rows, axis=1).sum())),
}
