import numpy as np
import pytest

from mtl_tutorial.weighting import DWA


def run(method: DWA, *epochs: list[list[float]]) -> np.ndarray:
    for batches in epochs:
        for losses in batches:
            present = ~np.isnan(losses)
            method(losses, present=present)
        method.end_epoch()
    return method(np.ones(len(epochs[0][0])))


def test_ones_for_two_epochs() -> None:
    method = DWA()
    for second in (9.0, 5.0):
        for first in (1.0, 0.1):
            assert method([first, second]).tolist() == [1, 1]
        method.end_epoch()
    assert method([1.0, 1.0]).tolist() != [1, 1]


def test_weights_from_the_ratio_of_the_epoch_means() -> None:
    weights = run(DWA(temperature=0.5), [[9, 9]], [[1, 2], [3, 6]], [[1, 4], [1, 0]])
    rates = np.array([1 / 2, 2 / 4])
    shares = np.exp(rates / 0.5)
    assert weights == pytest.approx(2 * shares / shares.sum())


def test_slow_task_gets_more_and_the_sum_is_the_number_of_tasks() -> None:
    weights = run(DWA(), [[1, 1, 1]], [[0.2, 0.9, 0.5]])
    assert weights[1] > weights[2] > weights[0]
    assert weights.sum() == pytest.approx(3)


def test_absent_task_keeps_its_means() -> None:
    nan = float("nan")
    whole = run(DWA(), [[1, 1]], [[0.5, 0.7]])
    gap = run(DWA(), [[1, 1]], [[0.5, 0.7]], [[nan, 0.7]], [[nan, 0.49]])
    assert gap == pytest.approx(whole)


def test_without_end_epoch_all_weights_stay_1() -> None:
    method = DWA()
    for losses in ([1.0, 1.0], [0.5, 0.9], [0.1, 0.8], [0.01, 0.7]):
        assert method(losses).tolist() == [1, 1]


def test_weight_does_not_depend_on_which_others_are_absent() -> None:
    method = DWA()
    for losses in ([1.0, 1.0, 1.0], [0.5, 0.9, 0.2]):
        method(losses)
        method.end_epoch()
    whole = method([1.0, 1.0, 1.0])
    assert method([1.0, 1.0, 1.0], present=[True, False, True]) == pytest.approx(whole * [1, 0, 1])


def test_mean_is_over_the_batches_that_had_the_task() -> None:
    nan = float("nan")
    weights = run(DWA(), [[1, 1], [nan, 1]], [[0.5, 0.5], [nan, 0.5]])
    assert weights == pytest.approx([1, 1])


def test_a_loss_of_zero_and_an_empty_epoch() -> None:
    assert run(DWA(), [[0, 1]], [[0, 1]]) == pytest.approx([1, 1])
    method = DWA()
    method.end_epoch()
    assert method([1, 2]).tolist() == [1, 1]


def test_ratio_beyond_the_largest_number() -> None:
    weights = run(DWA(), [[1e-300, 1]], [[1e300, 1]])
    assert weights == pytest.approx([2, 0])


@pytest.mark.parametrize("temperature", [0, -1, np.nan])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        DWA(temperature)
