import numpy as np
import pytest

from mtl_tutorial.weighting import MGDA, CAGrad
from tests.weighting.test_agreement_with_torchjd import combine, jacobians

each_c = pytest.mark.parametrize("c", [0.1, 0.5, 0.99, 1.0, 3.0])


@each_c
def test_minimises_the_dual(c: float) -> None:
    """No task's part of the gradient of the convex objective is below the mean one."""
    for jacobian in jacobians(100):
        weights, mean = combine(CAGrad(c), jacobian), jacobian.mean(axis=0)
        radius = c * np.linalg.norm(mean)
        pull = weights - mean
        if not weights.any():  # c >= 1 and no direction helps all tasks
            assert c >= 1
            assert np.linalg.norm(combine(MGDA(), jacobian)) < 1e-6 * np.linalg.norm(jacobian)
            continue
        assert np.linalg.norm(pull) == pytest.approx(radius)
        shares = CAGrad(c)(np.ones(len(jacobian)), jacobian @ jacobian.T) - 1 / len(jacobian)
        slopes = jacobian @ (mean + radius * pull / np.linalg.norm(pull))
        lowest = slopes @ shares / shares.sum()
        scale = np.linalg.norm(jacobian, axis=1).max() * np.linalg.norm(mean)
        assert slopes.min() >= lowest - 1e-9 * (1 + c) * scale


@each_c
def test_worst_task_gains_at_least_as_much_as_from_the_mean(c: float) -> None:
    for jacobian in jacobians(100):
        mean, step = jacobian.mean(axis=0), combine(CAGrad(c), jacobian)
        size = np.linalg.norm(jacobian, axis=1).max() * np.linalg.norm(mean)
        assert (jacobian @ step).min() >= (jacobian @ mean).min() - 1e-9 * size


@pytest.mark.parametrize("c", [1.0, 3.0])
def test_no_loss_rises_from_c_1_on(c: float) -> None:
    for jacobian in jacobians(100):
        step = combine(CAGrad(c), jacobian)
        assert (jacobian @ step).min() >= -1e-8 * np.square(jacobian).sum()


def test_a_loss_may_rise_below_c_1() -> None:
    lowest = [(jacobian @ combine(CAGrad(0.5), jacobian)).min() for jacobian in jacobians(100)]
    assert min(lowest) < -0.01


def test_c_0_is_the_mean_and_a_large_c_points_like_mgda() -> None:
    for jacobian in jacobians(100, most=8):
        assert combine(CAGrad(0), jacobian) == pytest.approx(jacobian.mean(axis=0))
        far, mgda = combine(CAGrad(1e6), jacobian), combine(MGDA(), jacobian)
        if far.any():
            cosine = far @ mgda / np.linalg.norm(far) / np.linalg.norm(mgda)
            assert cosine == pytest.approx(1, abs=1e-3)


def test_two_tasks_against_a_fine_grid() -> None:
    for jacobian in jacobians(40, most=2):
        mean = jacobian.mean(axis=0)
        grid = np.linspace(0, 1, 20001)
        points = np.array([grid, 1 - grid]).T @ jacobian
        radius = 0.5 * np.linalg.norm(mean)
        values = points @ mean + radius * np.linalg.norm(points, axis=1)
        gain = (jacobian @ combine(CAGrad(), jacobian)).min()
        assert gain == pytest.approx(values.min(), rel=1e-6, abs=1e-6)  # duality


def test_opposite_gradients() -> None:
    assert combine(CAGrad(), np.array([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx([0, 0])
    assert not CAGrad(c=2)([1, 1], [[9.0, -3.0], [-3.0, 1.0]]).any()


@pytest.mark.parametrize("c", [-0.1, np.nan, np.inf])
def test_c_is_a_radius(c: float) -> None:
    with pytest.raises(ValueError, match="c is a radius"):
        CAGrad(c)
