"""What a method can claim, each property as one assertion, and the journeys they are tested on.

``PROPERTIES`` has one assertion for each name that may stand in ``Weighting.claims``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mtl_tutorial import weighting
from mtl_tutorial.weighting import Weighting

METHODS: dict[str, Callable[[int], Weighting]] = {  # from the number of tasks
    "AlignedMTL": lambda _: weighting.AlignedMTL(),
    "CAGrad": lambda _: weighting.CAGrad(),
    "DWA": lambda _: weighting.DWA(),
    "Equal": lambda _: weighting.Equal(),
    "FAMO": lambda _: weighting.FAMO(lr=0.3),
    "GradNorm": lambda _: weighting.GradNorm(lr=0.1),
    "IMTLG": lambda _: weighting.IMTLG(),
    "InverseLoss": lambda _: weighting.InverseLoss(),
    "MGDA": lambda _: weighting.MGDA(),
    "NashMTL": lambda _: weighting.NashMTL(),
    "PCGrad": lambda _: weighting.PCGrad(seed=3),
    "RLW": lambda _: weighting.RLW(seed=3),
    "Static": lambda tasks: weighting.Static(np.linspace(-0.5, 2, tasks)),
    "UPGrad": lambda _: weighting.UPGrad(),
    "UW": lambda _: weighting.UW(lr=0.3),
}


@dataclass
class Journey:
    """Several steps: losses before and after each, and Jacobians, whose rows are gradients."""

    before: np.ndarray  # (steps, T)
    after: np.ndarray  # (steps, T)
    jacobians: np.ndarray  # (steps, T, dimension)

    def last(self, method: Weighting) -> tuple[np.ndarray, np.ndarray]:
        """Go along, an epoch every two steps; give the last weights and combined gradient."""
        steps = zip(self.before, self.after, self.jacobians, strict=True)
        for number, (before, after, jacobian) in enumerate(steps):
            if number and number % 2 == 0:
                method.end_epoch()
            weights = method(before, jacobian @ jacobian.T)
            if method.needs_observe:
                method.observe(after)
        return weights, weights @ jacobian

    def scaled(self, factors: np.ndarray | float) -> "Journey":
        """Multiply each task's losses, hence its gradients, by a number of its own."""
        rows = np.broadcast_to(factors, self.before.shape[1:])
        return Journey(self.before * rows, self.after * rows, self.jacobians * rows[:, None])

    def permuted(self, order: np.ndarray) -> "Journey":
        return Journey(self.before[:, order], self.after[:, order], self.jacobians[:, order])


def journeys(steps: int = 5) -> Iterator[Journey]:
    """Random gradients, strong conflict, agreement, different lengths; rank below T and full."""
    rng = np.random.default_rng(0)
    for tasks in (2, 3, 5, 8):
        for kind in ("plain", "conflict", "agree", "lengths", "deficient"):
            dimension = 2 if kind == "deficient" else 12
            jacobians = rng.standard_normal((steps, tasks, dimension))
            if kind == "conflict":
                jacobians -= 0.9 * jacobians.mean(axis=1, keepdims=True)
            if kind == "agree":
                jacobians += 2 * rng.standard_normal(dimension)
            if kind == "lengths":
                jacobians *= 10 ** rng.uniform(-2, 2, (tasks, 1))
            before, after = rng.uniform(0.2, 3, (2, steps, tasks))
            yield Journey(before, after, jacobians)


Make = Callable[[int], Weighting]


def assert_non_negative(make: Make, journey: Journey) -> None:
    weights, _ = journey.last(make(journey.before.shape[1]))
    assert (weights >= 0).all()


def assert_permutation_equivariant(make: Make, journey: Journey) -> None:
    tasks = journey.before.shape[1]
    _, combined = journey.last(make(tasks))
    for order in (np.arange(tasks)[::-1], np.roll(np.arange(tasks), 1)):
        _, permuted = journey.permuted(order).last(make(tasks))
        np.testing.assert_allclose(permuted, combined, atol=1e-7 * _size(journey))


def assert_homogeneous(make: Make, journey: Journey) -> None:
    tasks = journey.before.shape[1]
    _, combined = journey.last(make(tasks))
    for factor in (0.1, 30):
        _, scaled = journey.scaled(factor).last(make(tasks))
        np.testing.assert_allclose(scaled / factor, combined, atol=1e-6 * _size(journey))


def assert_scale_invariant(make: Make, journey: Journey) -> None:
    tasks = journey.before.shape[1]
    _, combined = journey.last(make(tasks))
    _, scaled = journey.scaled(np.geomspace(0.1, 30, tasks)).last(make(tasks))
    if np.linalg.matrix_rank(journey.jacobians[-1]) < tasks and np.linalg.norm(combined) < 1e-3:
        return  # no direction helps all tasks: there is no step to point anywhere
    np.testing.assert_allclose(_unit(scaled), _unit(combined), atol=1e-6)


def assert_linear_under_scaling(make: Make, journey: Journey) -> None:
    tasks = journey.before.shape[1]
    first, second = np.linspace(0.5, 2, tasks), np.linspace(3, 0.1, tasks)
    steps = [journey.scaled(c).last(make(tasks))[1] for c in (first, second, first + second)]
    np.testing.assert_allclose(steps[0] + steps[1], steps[2], atol=1e-7 * _size(journey))


def assert_non_conflicting(make: Make, journey: Journey) -> None:
    _, combined = journey.last(make(journey.before.shape[1]))
    rows = journey.jacobians[-1]
    cosines = rows @ combined / np.linalg.norm(rows, axis=1)
    assert cosines.min() >= -1e-9 * _size(journey)


PROPERTIES: dict[str, Callable[[Make, Journey], None]] = {
    "non-negative": assert_non_negative,
    "permutation-equivariant": assert_permutation_equivariant,
    "homogeneous": assert_homogeneous,
    "scale-invariant": assert_scale_invariant,
    "linear-under-scaling": assert_linear_under_scaling,
    "non-conflicting": assert_non_conflicting,
}


def _size(journey: Journey) -> float:
    return float(np.linalg.norm(journey.jacobians[-1]))


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / np.linalg.norm(vector))
