import numpy as np
import pytest

from mtl_tutorial.weighting import UW, InverseLoss


def test_starts_at_half_of_equal() -> None:
    assert UW()([0.3, 5.0]).tolist() == [0.5, 0.5]


def test_comes_to_rest_at_half_the_inverse_loss() -> None:
    method, losses = UW(lr=0.2), np.array([0.05, 1.0, 8.0])
    for _ in range(2000):
        weights = method(losses)
    assert weights == pytest.approx(InverseLoss()(losses) / 2)


def test_its_objective_may_be_negative() -> None:
    method, losses = UW(lr=0.2), np.array([0.05, 0.01])
    for _ in range(2000):
        method(losses)
    assert (np.exp(-method.log_variances) * losses + method.log_variances).sum() / 2 < 0


def test_an_enormous_loss_does_not_end_in_infinity() -> None:
    method = UW(lr=1.0)
    for loss in (1e20, -1e20, 1e20, 1e-20, 0.0):
        assert np.isfinite(method([loss])).all()
    assert abs(method.log_variances[0]) <= 50


def test_no_learning_no_change() -> None:
    method = UW(lr=0)
    assert [method([loss])[0] for loss in (0.1, 10, 3)] == [0.5] * 3


@pytest.mark.parametrize("lr", [-0.1, np.nan, np.inf])
def test_learning_rate_must_make_sense(lr: float) -> None:
    with pytest.raises(ValueError, match="lr must be at least 0"):
        UW(lr)
