from itertools import product

import numpy as np
import pytest

from mtl_tutorial.weighting import PCGrad, UPGrad
from tests.weighting.test_agreement_with_torchjd import combine, jacobians


def project(vector: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Nearest vector without conflict, by trying every set of tasks it may be orthogonal to."""
    best, nearest = np.inf, vector
    for chosen in product([False, True], repeat=len(rows)):
        active = rows[list(chosen)]
        inside = vector - np.linalg.pinv(active) @ (active @ vector) if active.size else vector
        cosines = rows @ inside / np.linalg.norm(rows, axis=1)
        distance = float(np.linalg.norm(inside - vector))
        if cosines.min() >= -1e-9 * np.linalg.norm(vector) and distance < best:
            best, nearest = distance, inside
    return nearest


def test_is_the_mean_of_exact_projections() -> None:
    for jacobian in jacobians(60, most=6):
        exact = np.mean([project(row, jacobian) for row in jacobian], axis=0)
        size = float(np.linalg.norm(jacobian))
        np.testing.assert_allclose(combine(UPGrad(), jacobian), exact, atol=1e-9 * size)


@pytest.mark.parametrize("spread", [0, 3, 8])
def test_conflicts_with_no_task_whatever_the_lengths(spread: float) -> None:
    rng = np.random.default_rng(0)
    for jacobian in jacobians(100):
        rows = jacobian * 10 ** rng.uniform(-spread, spread, (len(jacobian), 1))
        step = combine(UPGrad(), rows)
        cosines = rows @ step / np.linalg.norm(rows, axis=1) / np.linalg.norm(step)
        assert cosines.min() >= -1e-11


def test_without_conflict_it_is_the_mean() -> None:
    assert UPGrad()([1, 1, 1], np.ones((3, 3)) + np.eye(3)) == pytest.approx([1 / 3] * 3)


def test_two_tasks_are_half_of_pcgrad() -> None:
    for jacobian in jacobians(300, most=2):
        np.testing.assert_allclose(
            2 * combine(UPGrad(), jacobian), combine(PCGrad(), jacobian), atol=1e-10
        )


def test_opposite_gradients_cancel() -> None:
    assert combine(UPGrad(), np.array([[1.0, 0.0], [-3.0, 0.0]])) == pytest.approx([0, 0])
