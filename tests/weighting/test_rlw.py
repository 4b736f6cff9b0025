import numpy as np
import pytest

from mtl_tutorial.weighting import RLW


def test_positive_of_sum_1_new_in_each_step_and_fair_on_average() -> None:
    method = RLW(seed=0)
    weights = np.array([method(np.zeros(4)) for _ in range(4000)])
    assert weights.min() > 0
    assert weights.sum(axis=1) == pytest.approx(1)
    assert len(np.unique(weights, axis=0)) == len(weights)
    assert weights.mean(axis=0) == pytest.approx(0.25, abs=0.01)


def test_seed_sets_the_sequence() -> None:
    first, second, other = RLW(seed=1), RLW(seed=1), RLW(seed=2)
    for _ in range(3):
        weights = first([0, 0, 0]).tolist()
        assert weights == second([0, 0, 0]).tolist() != other([0, 0, 0]).tolist()


def test_presence_does_not_shift_the_sequence() -> None:
    whole, gaps = RLW(seed=1), RLW(seed=1)
    weights = whole([0, 0, 0])
    found = gaps([0, 0, 0], present=[True, False, True])
    assert found == pytest.approx(weights * [1, 0, 1] / (weights[0] + weights[2]))
    assert whole([0, 0, 0]).tolist() == gaps([0, 0, 0]).tolist()


def test_reads_nothing() -> None:
    assert not RLW.needs_losses
    assert not RLW.needs_gramian
