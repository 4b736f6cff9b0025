import numpy as np
import pytest

from mtl_tutorial.weighting import AlignedMTL
from tests.weighting.test_agreement_with_torchjd import combine, jacobians


def test_length_is_set_by_the_smallest_eigenvalue() -> None:
    for jacobian in jacobians(100):
        step = combine(AlignedMTL(), jacobian)
        smallest = np.linalg.eigvalsh(jacobian @ jacobian.T)[0]
        assert step @ step == pytest.approx(smallest / len(jacobian), rel=1e-6)


def test_condition_number_1_at_full_rank() -> None:
    """The weights of each single task, from w = B 1/T, are rows of a matrix B with B J balanced."""
    for jacobian in jacobians(60, most=6):
        values, vectors = np.linalg.eigh(jacobian @ jacobian.T)
        balance = np.sqrt(values[0]) * vectors @ np.diag(values**-0.5) @ vectors.T
        assert np.linalg.cond(balance @ jacobian) == pytest.approx(1)
        ours = AlignedMTL()(np.ones(len(jacobian)), jacobian @ jacobian.T)
        assert ours == pytest.approx(balance.mean(axis=1))


def test_rank_deficient_length() -> None:
    """In general the squared length is the eigenvalue times that of the projected mean weights."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows = rng.standard_normal((5, 3))
        values, vectors = np.linalg.eigh(rows @ rows.T)
        step = combine(AlignedMTL(), rows)
        inside = vectors[:, 2:].mean(axis=0)
        assert step @ step == pytest.approx(values[2] * inside @ inside)


def test_orthogonal_gradients_of_equal_length_give_the_mean() -> None:
    assert AlignedMTL()([1, 1, 1], 4 * np.eye(3)) == pytest.approx([1 / 3] * 3)
    assert AlignedMTL()([1, 1], np.zeros((2, 2))).tolist() == [0.5, 0.5]


def test_rounding_of_single_precision_is_not_a_direction() -> None:
    row = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    rows = np.array([row, row / 3])
    single = AlignedMTL()([1, 1], rows @ rows.T)
    exact = AlignedMTL()([1, 1], np.outer([1, 1 / 3], [1, 1 / 3]))
    assert single == pytest.approx(exact, rel=1e-4)
