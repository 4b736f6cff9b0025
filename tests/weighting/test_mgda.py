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


def test_two_tasks_closed_form_is_the_general_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        two = rng.standard_normal((2, 3))
        three = np.vstack([two, two[1]])  # the same hull, by the general solver
        np.testing.assert_allclose(combine(MGDA(), two), combine(MGDA(), three), atol=1e-12)


def test_stops_where_gradients_are_opposite_or_one_is_zero() -> None:
    opposite = np.array([[2.0, 0.0], [-1.0, 0.0]])
    assert combine(MGDA(), opposite) == pytest.approx([0, 0])
    assert combine(MGDA(), np.array([[2.0, 0.0], [0.0, 0.0], [1.0, 3.0]])).tolist() == [0, 0]


def test_a_gradient_much_longer_than_another_gets_next_to_nothing() -> None:
    weights = MGDA()([1, 1, 1], np.diag([1e20, 1.0, 1e-20]))
    assert weights == pytest.approx([1e-40, 1e-20, 1.0])
