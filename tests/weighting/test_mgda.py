import numpy as np
import pytest

from mtl_tutorial.weighting import MGDA
from tests.weighting.test_agreement_with_torchjd import combine, jacobians


def test_descends_every_loss_by_at_least_its_squared_length() -> None:
    for jacobian in jacobians(100):
        step = combine(MGDA(), jacobian)
        assert (jacobian @ step).min() >= step @ step * (1 - 1e-9)


def test_weights_are_on_the_simplex_and_no_gradient_is_shorter() -> None:
    for jacobian in jacobians(100):
        weights = MGDA()(np.ones(len(jacobian)), jacobian @ jacobian.T)
        assert weights.sum() == pytest.approx(1)
        shortest = np.linalg.norm(jacobian, axis=1).min()
        assert np.linalg.norm(weights @ jacobian) <= shortest * (1 + 1e-12)


def test_two_tasks_have_a_closed_form() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        first, second = two = rng.standard_normal((2, 3))
        apart = first - second
        share = np.clip(-second @ apart / (apart @ apart), 0, 1)
        weights = MGDA()([1, 1], two @ two.T)
        np.testing.assert_allclose(weights, [share, 1 - share], atol=1e-12)


@pytest.mark.parametrize("angle", [1e-6, 1e-4, 1e-2])
@pytest.mark.parametrize("more", [0.0, 1e-6, 1e-3, 1e-2])
def test_nearly_equal_gradients_in_single_precision(angle: float, more: float) -> None:
    """Where the squared distance cancels, the lengths do not: the step is the shorter one's."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        first, other = rng.standard_normal((2, 30))
        second = (1 + more) * first + angle * other
        rows = np.array([first, second]).astype(np.float32)
        step = MGDA()([1, 1], rows @ rows.T) @ rows.astype(float)
        assert np.linalg.norm(step) <= np.linalg.norm(rows, axis=1).min() * (1 + 1e-6)
        excess = step @ step - np.square(combine(MGDA(), rows.astype(float))).sum()
        assert excess <= 5e-6 * (first @ first)


def test_stops_where_gradients_are_opposite_or_one_is_zero() -> None:
    opposite = np.array([[2.0, 0.0], [-1.0, 0.0]])
    assert combine(MGDA(), opposite) == pytest.approx([0, 0])
    assert combine(MGDA(), np.array([[2.0, 0.0], [0.0, 0.0], [1.0, 3.0]])).tolist() == [0, 0]


def test_a_gradient_much_longer_than_another_gets_next_to_nothing() -> None:
    weights = MGDA()([1, 1, 1], np.diag([1e20, 1.0, 1e-20]))
    assert weights == pytest.approx([1e-40, 1e-20, 1.0])
