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
    opposite = np.array([[3.0, 0.0], [-1.0, 0.0]])
    assert combine(CAGrad(c=2), opposite) == pytest.approx([0, 0], abs=1e-7)


def test_zero_gradient_counts_in_the_mean_and_is_never_the_worst_off() -> None:
    """Its weight is 1/T; the pull is that of the others, with the radius of the whole mean."""
    assert CAGrad(c=0.4)([1, 1], np.diag([4.0, 0.0])) == pytest.approx([0.7, 0.5])
    for jacobian in jacobians(100):
        rows = np.vstack([jacobian, 0 * jacobian[:1]])
        mean = rows.mean(axis=0)
        with_zero = combine(CAGrad(), rows) - mean
        without = combine(CAGrad(), jacobian) - jacobian.mean(axis=0)
        np.testing.assert_allclose(
            with_zero / np.linalg.norm(with_zero), without / np.linalg.norm(without), atol=1e-5
        )
        assert np.linalg.norm(with_zero) == pytest.approx(0.5 * np.linalg.norm(mean))


@pytest.mark.parametrize("c", [0.3, 0.9])
def test_no_common_direction_and_a_small_ball(c: float) -> None:
    """0 is on the edge of the hull: g_w vanishes below c = 1, and the step still has its size."""
    rows = np.array([[1.0, 0.0], [-1.0, 0.0], [0.3, 1.0]])
    step, mean = combine(CAGrad(c), rows), rows.mean(axis=0)
    assert np.linalg.norm(step - mean) <= c * np.linalg.norm(mean) * (1 + 1e-9)
    assert (rows @ step).min() >= (rows @ mean).min()


@pytest.mark.parametrize("c", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("spread", [3, 9])
def test_lengths_far_apart(c: float, spread: float) -> None:
    """The best of the worst gains, against the best of many directions in the ball."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = rng.standard_normal((3, 2)) * 10 ** rng.uniform(-spread, spread, (3, 1))
        mean, angles = rows.mean(axis=0), np.linspace(0, 2 * np.pi, 2000)
        radius = c * np.linalg.norm(mean)
        rim = mean + radius * np.array([np.cos(angles), np.sin(angles)]).T
        best = max((rim @ rows.T).min(axis=1).max(), (rows @ mean).min(), 0 if c >= 1 else -np.inf)
        gain = (rows @ combine(CAGrad(c), rows)).min()
        assert gain >= best - 1e-7 * np.linalg.norm(rows, axis=1).max() * radius


@pytest.mark.parametrize("c", [-0.1, np.nan, np.inf])
def test_c_is_a_radius(c: float) -> None:
    with pytest.raises(ValueError, match="c is a radius"):
        CAGrad(c)
