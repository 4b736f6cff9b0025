"""Finite differences find right gradients right, and wrong ones wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl_tutorial.gradient_check import numerical_gradient, relative_error


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 4), columns=st.integers(1, 3))
def test_a_quadratic_form(seed: int, rows: int, columns: int) -> None:
    generator = np.random.default_rng(seed)
    x, a = generator.normal(size=(2, rows, columns))
    before = x.copy()
    gradient = numerical_gradient(lambda x: float((a * x**2).sum()), x)
    assert gradient.shape == x.shape
    assert relative_error(gradient, 2 * a * x) < 1e-7
    np.testing.assert_array_equal(x, before)


def test_a_wrong_derivation_is_far_off() -> None:
    x = np.array([0.3, -1.2])
    gradient = numerical_gradient(lambda x: float(np.log1p(np.exp(x)).sum()), x)
    sigmoid = 1 / (1 + np.exp(-x))
    assert relative_error(gradient, sigmoid) < 1e-9
    assert relative_error(gradient, sigmoid * (1 - sigmoid)) > 0.1


def test_the_error_has_two_regimes() -> None:
    x = np.array([1.0])
    errors = [
        relative_error(numerical_gradient(lambda x: float(np.exp(x[0])), x, step), np.exp(x))
        for step in (1e-1, 1e-2, 1e-5, 1e-13)
    ]
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.05)  # truncation: h squared
    assert errors[2] < 1e-9
    assert errors[3] > 1e-5  # round-off


def test_float32_is_refused() -> None:
    with pytest.raises(TypeError, match="float64, not float32"):
        numerical_gradient(lambda x: float(x.sum()), np.ones(2, "float32"))


@pytest.mark.parametrize("step", [0.0, -1e-6, float("nan")])
def test_a_step_must_be_positive(step: float) -> None:
    with pytest.raises(ValueError, match="step must be above 0"):
        numerical_gradient(lambda x: float(x.sum()), np.ones(2), step)


def test_relative_error_is_symmetric_and_scale_free() -> None:
    one, other = np.array([1.0, -4.0]), np.array([1.0, -3.0])
    assert relative_error(one, other) == relative_error(other, one) == 0.25
    assert relative_error(1e-9 * one, 1e-9 * other) == pytest.approx(0.25)
    assert relative_error(np.zeros(3), np.zeros(3)) == 0
    with pytest.raises(ValueError, match="shapes"):
        relative_error(one, np.ones((2, 1)))
