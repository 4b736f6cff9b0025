import numpy as np
import pytest

from mtl_tutorial.datasets import Split, digits, overlaid


def test_each_digit_in_its_corner() -> None:
    ones = np.ones((1, 28, 28), np.float32)
    data = Split(np.concatenate([0.5 * ones, ones]), {"digit": np.array([5, 7])})
    pairs = overlaid(data, 50)
    assert pairs.inputs.shape == (50, 36, 36)
    value = {5: 0.5, 7: 1.0}
    for image, left, right in zip(pairs.inputs, *pairs.targets.values(), strict=True):
        assert image[0, 0] == value[left]
        assert image[35, 35] == value[right]
        assert image[20, 20] == max(value[left], value[right])
        assert image[0, 35] == image[35, 0] == 0
    assert {*zip(*map(np.ndarray.tolist, pairs.targets.values()), strict=True)} == {
        (5, 5), (5, 7), (7, 5), (7, 7)
    }  # fmt: skip


def test_repeatable() -> None:
    data = digits().train
    one, again, other = overlaid(data, 20), overlaid(data, 20), overlaid(data, 20, seed=1)
    np.testing.assert_array_equal(one.inputs, again.inputs)
    assert not np.array_equal(one.inputs, other.inputs)
    assert one.inputs.dtype == np.float32


def test_none_asked_for() -> None:
    with pytest.raises(ValueError, match="count must be at least 1"):
        overlaid(digits().train, 0)
