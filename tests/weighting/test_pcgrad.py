import numpy as np
import pytest

from mtl_tutorial.weighting import PCGrad
from tests.weighting.test_agreement_with_torchjd import combine, jacobians


def test_same_seed_same_weights() -> None:
    jacobian = list(jacobians(20))[-4]
    first, second = PCGrad(seed=1), PCGrad(seed=1)
    for _ in range(5):
        assert combine(first, jacobian).tolist() == combine(second, jacobian).tolist()


def test_order_matters_from_three_tasks_on() -> None:
    rows = np.array([[1.0, 0.0], [-0.5, 1.0], [-0.5, -1.1]])
    found = {tuple(combine(PCGrad(seed), rows).round(9)) for seed in range(10)}
    assert len(found) > 1


def test_step_is_at_most_the_sum_of_the_lengths() -> None:
    for jacobian in jacobians(100):
        most = np.linalg.norm(jacobian, axis=1).sum()
        assert np.linalg.norm(combine(PCGrad(), jacobian)) <= most * (1 + 1e-12)


def test_without_conflict_it_is_the_sum() -> None:
    assert PCGrad()([1, 1, 1], np.eye(3)).tolist() == [1, 1, 1]


def test_cuts_the_gradients_themselves() -> None:
    """The algorithm on gradients, as the paper writes it."""
    for jacobian in jacobians(60):
        orders, step = np.random.default_rng(7), np.zeros(jacobian.shape[1])
        for task, gradient in enumerate(jacobian):
            cut = gradient.copy()
            for other in orders.permutation(len(jacobian)):
                if other != task and cut @ jacobian[other] < 0:
                    cut -= (
                        cut @ jacobian[other] / np.square(jacobian[other]).sum() * jacobian[other]
                    )
            step += cut
        np.testing.assert_allclose(combine(PCGrad(seed=7), jacobian), step, atol=1e-9)


def test_two_tasks_do_not_conflict() -> None:
    for jacobian in jacobians(200, most=2):
        assert (jacobian @ combine(PCGrad(), jacobian)).min() >= -1e-9


def test_may_conflict_from_three_tasks_on() -> None:
    lowest = [(jacobian @ combine(PCGrad(), jacobian)).min() for jacobian in jacobians(100)]
    assert min(lowest) < -0.01


def test_zero_gradient_is_left_alone() -> None:
    assert PCGrad()([1, 1], [[1.0, -1e-30], [-1e-30, 0.0]]) == pytest.approx([1, 1])
