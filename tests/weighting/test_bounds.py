"""Every step stays in the ball that its method promises, whatever the Gramian's rounding."""

import numpy as np
import pytest

from mtl_tutorial.weighting import CAGrad, NashMTL, Weighting
from tests.weighting.adversarial import BOUNDS, KINDS, adversarial, gramians, lengths
from tests.weighting.properties import METHODS

each_kind = pytest.mark.parametrize("kind", KINDS)
PRECISIONS = pytest.mark.parametrize("precision", [np.float16, np.float32, np.float64])


def steps(
    method: Weighting, kind: str, precision: type = np.float32
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows and step in double precision, the Gramian in another one."""
    found = []
    for single in adversarial(kind, 24 if precision is np.float32 else 9):
        rows = single.astype(float)
        if precision is np.float16:  # which holds squares from 6e-5 to 6e4, no more
            rows /= np.maximum(lengths(rows), 1e-30)[:, None]
        for gramian in gramians(rows if precision is np.float64 else rows.astype(np.float32)):
            weights = method(np.ones(len(rows)), gramian.astype(precision))
            found.append((rows, weights @ rows))
    return found


def excess(step: np.ndarray, ball: tuple[np.ndarray | float, float], rows: np.ndarray) -> float:
    """Distance from the centre, in radii; 0 where both are 0."""
    distance = float(np.linalg.norm(step - ball[0]))
    return distance / ball[1] if ball[1] > 0 else distance / (1e-30 + lengths(rows).max())


@each_kind
@PRECISIONS
@pytest.mark.parametrize("name", BOUNDS)
def test_step_keeps_its_bound(name: str, kind: str, precision: type) -> None:
    for rows, step in steps(METHODS[name](0), kind, precision):
        assert excess(step, BOUNDS[name](rows), rows) <= 1.01


@each_kind
@pytest.mark.parametrize("c", [0.1, 1.0, 3.0])
def test_cagrad_stays_in_its_ball_for_any_radius(c: float, kind: str) -> None:
    for rows, step in steps(CAGrad(c), kind):
        mean = rows.mean(axis=0)
        assert excess(step, (mean, c * float(np.linalg.norm(mean))), rows) <= 1.01
        assert np.linalg.norm(step) >= (1 - 1.01 * c) * np.linalg.norm(mean)


@each_kind
@pytest.mark.parametrize(
    ("name", "most"), [("MGDA", 1e-4), ("NashMTL", 0.0), ("UPGrad", 2e-3)], ids=str
)
def test_what_a_task_may_lose_to_the_rounding(name: str, most: float, kind: str) -> None:
    """In units of the root of T times the mean length of the gradients, ``most`` at most."""
    for rows, step in steps(METHODS[name](0), kind):
        norms = lengths(rows)
        if (norms > 0).any():
            loss = -(rows @ step)[norms > 0] / norms[norms > 0]
            assert loss.max() <= most * len(rows) ** 0.5 * norms.mean()


@each_kind
def test_cagrad_from_1_on_raises_no_loss_but_for_rounding(kind: str) -> None:
    """In units of the longest gradient times the mean length."""
    for rows, step in steps(CAGrad(1.0), kind):
        norms = lengths(rows)
        assert -(rows @ step).min() <= 2e-3 * norms.max() * norms.mean()


def test_a_pair_opposite_to_within_the_rounding() -> None:
    """A mean of projections 3,200 times as long as the mean, once; and 300 times the ball."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        first, other, third = rng.standard_normal((3, 50))
        rows = np.array([first, -0.7 * first + 1e-4 * other, third]).astype(np.float32)
        for name in ("UPGrad", "CAGrad"):
            weights = METHODS[name](0)(np.ones(3), rows @ rows.T)
            assert excess(weights @ rows, BOUNDS[name](rows), rows) <= 1.01
            assert np.abs(weights).max() < 1000


@pytest.mark.parametrize("tasks", [2, 20, 40])
@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_parallel_gradients_bargain(tasks: int, precision: type[np.floating]) -> None:
    """Rank 1: along the common line, or nowhere where two are opposite."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = np.outer(rng.uniform(0.1, 10, tasks), rng.standard_normal(100)).astype(precision)
        step = NashMTL()(np.ones(tasks), rows @ rows.T) @ rows
        assert step @ rows[0] / np.linalg.norm(rows[0]) == pytest.approx(1, rel=1e-3)
        rows[0] *= -1
        assert not NashMTL()(np.ones(tasks), rows @ rows.T).any()


def test_bounds_are_those_of_the_docstrings() -> None:
    """A method with a Gramian has a bound here, or says that it has none."""
    free = {name for name in METHODS if METHODS[name](2).needs_gramian} - set(BOUNDS)
    assert free == {"GradNorm", "IMTLG"}
