import numpy as np
import pytest

from mtl_tutorial.weighting import IMTLG
from tests.weighting.test_agreement_with_torchjd import combine, jacobians


def test_projections_are_equal_and_weights_sum_to_1() -> None:
    for jacobian in jacobians(300):
        weights = IMTLG()(np.ones(len(jacobian)), jacobian @ jacobian.T)
        projections = jacobian @ (weights @ jacobian) / np.linalg.norm(jacobian, axis=1)
        assert weights.sum() == pytest.approx(1)
        np.testing.assert_allclose(projections, projections.mean(), rtol=1e-6, atol=1e-10)


def test_step_may_ascend_every_loss_from_three_tasks_on() -> None:
    """Correlated gradients of different length: the common projection is negative for some."""
    rng, negative = np.random.default_rng(0), []
    for _ in range(300):
        rows = (rng.standard_normal((4, 6)) + 1) * 10 ** rng.uniform(-1, 1, (4, 1))
        projections = rows @ combine(IMTLG(), rows)
        assert (projections < 0).all() or (projections > 0).all()
        negative.append(projections[0] < 0)
    assert 0.01 < np.mean(negative) < 0.5


def test_two_tasks_never_ascend() -> None:
    for jacobian in jacobians(200, most=2):
        assert (jacobian @ combine(IMTLG(), jacobian)).min() > 0


@pytest.mark.parametrize("spread", [3, 15])
def test_equal_projections_whatever_the_lengths(spread: float) -> None:
    rng = np.random.default_rng(0)
    for jacobian in jacobians(60, most=6):
        rows = jacobian * 10 ** rng.uniform(-spread, spread, (len(jacobian), 1))
        projections = rows @ combine(IMTLG(), rows) / np.linalg.norm(rows, axis=1)
        np.testing.assert_allclose(projections, projections.mean(), rtol=1e-6)


def test_parallel_gradients_are_the_limit_of_almost_parallel_ones() -> None:
    limit = IMTLG()([1, 1], [[1.0, 2.0], [2.0, 4.0]])
    near = IMTLG()([1, 1], [[1.0, 2.0], [2.0, 4.0 + 1e-8]])
    assert limit == pytest.approx([2 / 3, 1 / 3])
    assert near == pytest.approx(limit, abs=1e-6)


def test_sign_of_the_common_projection_may_change_with_the_scale_of_one_loss() -> None:
    """On the way the sum before the division passes 0, and the step has no bound."""
    rows = np.array([[1.0, 1.0, 0.1], [1.0, -1.0, 0.1], [1.0, 0.0, -0.1]])
    projections, sizes = [], []
    for scale in np.geomspace(0.1, 10, 201):
        scaled = rows * [[1], [1], [scale]]
        step = combine(IMTLG(), scaled)
        projections.append(scaled[0] @ step)
        sizes.append(np.linalg.norm(step) / np.linalg.norm(scaled, axis=1).mean())
    assert min(projections) < 0 < max(projections)
    assert max(sizes) > 10


def test_dependent_gradients_come_as_near_to_equal_projections_as_they_can() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows = rng.standard_normal((4, 2)).astype(np.float32)
        norms = np.linalg.norm(rows, axis=1)
        weights = IMTLG()(np.ones(4), rows @ rows.T)
        projections = rows @ (weights @ rows) / norms
        units = rows.astype(float) / norms[:, None]
        nearest = units @ np.linalg.lstsq(units, np.ones(4))[0]
        found = projections * (nearest @ nearest) / (projections @ nearest)
        np.testing.assert_allclose(found, nearest, atol=1e-3)


@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_opposite_but_for_rounding_is_no_step(precision: type[np.floating]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        row = rng.standard_normal(100)
        rows = np.array([row, -0.37 * row]).astype(precision)
        assert IMTLG()([1, 1], rows @ rows.T).tolist() == [0, 0]


def test_no_answer_is_no_step() -> None:
    assert IMTLG()([1, 1], [[1.0, -2.0], [-2.0, 4.0]]).tolist() == [0, 0]
    assert IMTLG()([1, 1], np.zeros((2, 2))).tolist() == [0, 0]


def test_zero_gradient_gets_no_weight() -> None:
    assert IMTLG()([1, 1, 1], np.diag([1.0, 0.0, 4.0])) == pytest.approx([2 / 3, 0, 1 / 3])
