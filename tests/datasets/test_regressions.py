import numpy as np
import pytest

from mtl_tutorial.datasets import correlated_regressions


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.5, 0.9])
def test_the_tasks_look_in_directions_of_that_cosine(correlation: float) -> None:
    """The slopes of a linear model point where a task looks, as the inputs are normal."""
    train = correlated_regressions(correlation, rows=40_000).train
    targets = np.stack([train.targets[name] for name in ("first", "second")], axis=1)
    slopes = np.linalg.lstsq(train.inputs, targets, rcond=None)[0]
    one, other = (slopes / np.linalg.norm(slopes, axis=0)).T
    assert one @ other == pytest.approx(correlation, abs=0.06)


def test_alike_tasks_differ_by_their_noise_alone() -> None:
    train = correlated_regressions(1.0).train
    apart = train.targets["first"] - train.targets["second"]
    assert apart.std() == pytest.approx(np.sqrt(2) * 0.1, rel=0.05)


def test_a_target_is_a_curve_of_one_number() -> None:
    """Rows that are near to each other along the direction have like targets, whatever else they are."""
    train = correlated_regressions(0.0, rows=40_000).train
    target = train.targets["second"].astype(float)
    slopes = np.linalg.lstsq(train.inputs, target, rcond=None)[0]
    order = np.argsort(train.inputs @ slopes)
    assert (
        np.diff(target[order]).std() < 0.6 * np.sqrt(2) * target.std()
    )  # of rows in any order: 1.0


def test_the_first_task_is_the_same_for_every_correlation() -> None:
    one, other = correlated_regressions(0.5, rows=50), correlated_regressions(1.0, rows=50)
    for name in ("train", "valid", "test"):
        a, b = getattr(one, name), getattr(other, name)
        np.testing.assert_array_equal(a.inputs, b.inputs)
        np.testing.assert_array_equal(a.targets["first"], b.targets["first"])
        assert (a.targets["second"] != b.targets["second"]).any()
    assert one.source == "embedded"
    assert [len(part) for part in (one.train, one.valid, one.test)] == [50, 2000, 2000]
    assert one.train.inputs.dtype == one.train.targets["first"].dtype == np.float32


def test_repeatable() -> None:
    one, again, third = (correlated_regressions(0.5, 20, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.train.targets["first"], again.train.targets["first"])
    assert (one.train.inputs != third.train.inputs).all()


@pytest.mark.parametrize("correlation", [-1.1, 1.5, np.nan])
def test_impossible_cosines(correlation: float) -> None:
    with pytest.raises(ValueError, match="a cosine, from -1 to 1"):
        correlated_regressions(correlation)


def test_no_rows() -> None:
    with pytest.raises(ValueError, match="rows must be at least 1; got 0"):
        correlated_regressions(0.5, rows=0)
