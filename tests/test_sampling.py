import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from mtl_tutorial.sampling import (
    batches,
    joint,
    round_robin,
    sampling_probabilities,
    temperature_sampling,
)

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


LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=5)
SAMPLERS = [round_robin, temperature_sampling, joint]


def of_each(batch: np.ndarray, lengths: list[int]) -> list[int]:
    """Count the rows of each data set in a batch."""
    owner = np.searchsorted(np.cumsum(lengths), batch, side="right")
    counts: list[int] = np.bincount(owner, minlength=len(lengths)).tolist()
    return counts


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(lengths=LENGTHS, batch_size=st.integers(5, 40), seed=st.integers(0, 3), data=st.data())
def test_full_batches_and_no_row_more_than_one_turn_ahead(
    sampler: Any, lengths: list[int], batch_size: int, seed: int, data: st.DataObject
) -> None:
    steps = data.draw(st.none() | st.integers(1, 20))
    found = list(sampler(lengths, batch_size, np.random.default_rng(seed), steps=steps))
    assert len(found) == (steps or math.ceil(sum(lengths) / batch_size))
    assert all(rows.dtype == np.int64 and rows.shape == (batch_size,) for rows in found)
    times = np.bincount(np.concatenate(found), minlength=sum(lengths))
    assert len(times) == sum(lengths)
    for part in np.split(times, np.cumsum(lengths)[:-1]):
        assert part.max() - part.min() <= 1
    again = sampler(lengths, batch_size, np.random.default_rng(seed), steps=steps)
    np.testing.assert_array_equal(found, list(again))


@given(LENGTHS, st.integers(1, 9), st.integers(0, 3))
def test_round_robin_takes_turns(lengths: list[int], batch_size: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for step, rows in enumerate(round_robin(lengths, batch_size, generator, steps=11)):
        expected = np.zeros(len(lengths), int)
        expected[step % len(lengths)] = batch_size
        assert of_each(rows, lengths) == expected.tolist()


@given(LENGTHS, st.integers(5, 20))
def test_joint_batches_hold_equally_many_of_each(lengths: list[int], batch_size: int) -> None:
    for rows in joint(lengths, batch_size, np.random.default_rng(0), steps=4):
        counts = of_each(rows, lengths)
        assert max(counts) - min(counts) <= 1
        assert counts == sorted(counts, reverse=True)
        assert (np.diff(np.searchsorted(np.cumsum(lengths), rows, side="right")) >= 0).all()


@pytest.mark.parametrize("temperature", [0.5, 1, 2, 5, math.inf])
def test_data_sets_are_drawn_as_often_as_their_probabilities_say(temperature: float) -> None:
    """Of 4000 independent draws the count is binomial: inside its central 99.99 %."""
    lengths, steps = [1000, 250, 40], 4000
    generator = np.random.default_rng(1)
    counts = np.zeros(3, int)
    for rows in temperature_sampling(lengths, 4, generator, temperature=temperature, steps=steps):
        batch = np.array(of_each(rows, lengths))
        assert sorted(batch) == [0, 0, 4]
        counts += batch // 4
    for count, p in zip(counts, sampling_probabilities(lengths, temperature), strict=True):
        low, high = binom.interval(0.9999, steps, p)
        assert low <= count <= high


def test_in_proportion_every_row_is_drawn_equally_often() -> None:
    found = temperature_sampling([600, 60], 6, np.random.default_rng(0), steps=11_000)
    times = np.bincount(np.concatenate(list(found)))
    assert times[:600].mean() == pytest.approx(100, rel=0.02)
    assert times[600:].mean() == pytest.approx(100, rel=0.1)


@given(LENGTHS, st.floats(0.05, 50))
def test_probabilities_by_their_formula(lengths: list[int], temperature: float) -> None:
    found = sampling_probabilities(lengths, temperature)
    powers = np.array(lengths, dtype=np.longdouble) ** (1 / np.longdouble(temperature))
    np.testing.assert_allclose(found, (powers / powers.sum()).astype(float), rtol=1e-9, atol=1e-300)
    assert found.sum() == pytest.approx(1)


def test_probabilities_at_the_ends() -> None:
    assert sampling_probabilities([7, 500, 3], math.inf).tolist() == pytest.approx([1 / 3] * 3)
    assert sampling_probabilities([7, 500, 3], 1e-6).tolist() == [0, 1, 0]
    assert sampling_probabilities([10**15, 1], 1).tolist() == pytest.approx([1, 1e-15])


@pytest.mark.parametrize("temperature", [0, -1, math.nan])
def test_temperature_not_above_0(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be above 0"):
        sampling_probabilities([1, 2], temperature)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        next(temperature_sampling([1], 1, np.random.default_rng(0), temperature=temperature))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_wrong_numbers(sampler: Any) -> None:
    generator = np.random.default_rng(0)
    for lengths in ([], [3, 0], [[1, 2]], 5):
        with pytest.raises(ValueError, match="lengths must name the rows of each data set"):
            next(sampler(lengths, 4, generator))
    with pytest.raises(ValueError, match="at least 1; got 0, None"):
        next(sampler([3], 0, generator))
    with pytest.raises(ValueError, match="at least 1; got 4, 0"):
        next(sampler([3], 4, generator, steps=0))


def test_joint_batch_smaller_than_the_number_of_data_sets() -> None:
    with pytest.raises(ValueError, match="2 rows cannot hold one of each of 3 data sets"):
        next(joint([5, 5, 5], 2, np.random.default_rng(0)))
