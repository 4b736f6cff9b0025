import numpy as np
import pytest

from mtl_tutorial.weighting import IMTLG, NashMTL
from tests.weighting.test_agreement_with_torchjd import combine, jacobians


def test_is_stationary() -> None:
    for jacobian in jacobians(285):
        gramian = jacobian @ jacobian.T
        weights = NashMTL(max_norm=0)(np.ones(len(jacobian)), gramian)
        assert weights.min() > 0
        np.testing.assert_allclose(weights * (gramian @ weights), 1, rtol=1e-6)


@pytest.mark.parametrize("max_norm", [0.5, 1.0])
def test_step_has_length_max_norm(max_norm: float) -> None:
    for jacobian in jacobians(60):
        assert np.linalg.norm(combine(NashMTL(max_norm), jacobian)) == pytest.approx(max_norm)


def test_a_limit_beyond_the_natural_length_does_nothing() -> None:
    for jacobian in jacobians(60):
        length = np.linalg.norm(combine(NashMTL(max_norm=100), jacobian))
        assert length == pytest.approx(np.sqrt(len(jacobian)))


def test_two_tasks_point_like_imtlg_and_the_sum_of_unit_gradients() -> None:
    for jacobian in jacobians(300, most=2):
        nash, imtlg = combine(NashMTL(), jacobian), combine(IMTLG(), jacobian)
        units = (jacobian / np.linalg.norm(jacobian, axis=1, keepdims=True)).sum(axis=0)
        for other in (imtlg, units):
            np.testing.assert_allclose(nash, other / np.linalg.norm(other), atol=1e-7)


def test_no_bargain_no_step() -> None:
    assert NashMTL()([1, 1], [[1.0, -3.0], [-3.0, 9.0]]).tolist() == [0, 0]
    assert NashMTL()([1, 1], np.zeros((2, 2))).tolist() == [0, 0]


def test_almost_opposite_gradients_still_bargain() -> None:
    rows = np.array([[1.0, 1e-3], [-1.0, 1e-3]])
    assert combine(NashMTL(), rows) == pytest.approx([0, 1])


def test_zero_gradient_gets_no_weight() -> None:
    weights = NashMTL(max_norm=0)([1, 1, 1], np.diag([1.0, 0.0, 4.0]))
    assert weights == pytest.approx([1, 0, 0.5])


def test_limit_must_be_a_length() -> None:
    with pytest.raises(ValueError, match="max_norm is a length"):
        NashMTL(max_norm=-1)
