import numpy as np
import pytest

from mtl_tutorial.datasets._splits import hold_out


@pytest.mark.parametrize("count", [1, 7, 30, 50, 99, 100])
def test_a_stratified_partition(count: int) -> None:
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [50, 30, 20]))
    rest, held = hold_out(labels, count, np.random.default_rng(0))
    assert len(held) == count
    assert sorted([*rest, *held]) == list(range(100))
    share = np.array([50, 30, 20]) * count / 100
    assert (np.abs(np.bincount(labels[held], minlength=3) - share) < 1).all()


def test_the_seed_decides() -> None:
    labels = np.arange(100) % 10
    first, again, other = (hold_out(labels, 20, np.random.default_rng(s))[1] for s in (0, 0, 1))
    assert first.tolist() == again.tolist()
    assert sorted(first) != sorted(other)
    # The chapters' numbers hang on these rows: a change of NumPy must not move them unseen.
    assert first[:5].tolist() == [39, 55, 67, 66, 88]


def test_shuffled_within() -> None:
    labels = np.repeat(np.arange(10), 100)
    rest, held = hold_out(labels, 200, np.random.default_rng(0))
    assert len(set(labels[rest[:30]])) > 5
    assert len(set(labels[held[:30]])) > 5
