import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl_tutorial.sampling import batches

NUMBERS = st.integers(1, 40)


@given(NUMBERS, NUMBERS)
def test_every_row_once_and_in_order(length: int, batch_size: int) -> None:
    found = list(batches(length, batch_size))
    assert np.concatenate(found).tolist() == list(range(length))
    assert all(len(rows) == batch_size for rows in found[:-1])
    assert 1 <= len(found[-1]) <= batch_size


@given(NUMBERS, NUMBERS, st.integers(0, 5))
def test_shuffled_rows_are_the_generators_permutation(
    length: int, batch_size: int, seed: int
) -> None:
    found = list(batches(length, batch_size, np.random.default_rng(seed)))
    expected = np.random.default_rng(seed).permutation(length)
    assert np.array_equal(np.concatenate(found), expected)
    assert [len(rows) for rows in found] == [len(rows) for rows in batches(length, batch_size)]


def test_each_epoch_has_its_own_order() -> None:
    generator = np.random.default_rng(0)
    first, second = (np.concatenate(list(batches(50, 8, generator))) for _ in range(2))
    assert not np.array_equal(first, second)


def test_indices_are_int64() -> None:
    for generator in (None, np.random.default_rng(0)):
        assert next(batches(3, 2, generator)).dtype == np.int64


@pytest.mark.parametrize(("length", "batch_size"), [(0, 1), (1, 0), (-1, 4), (4, -1)])
def test_numbers_below_1(length: int, batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1; got {length}, {batch_size}"):
        next(batches(length, batch_size))
