import numpy as np
import pytest
from scipy.ndimage import center_of_mass

from mtl_tutorial.datasets import Split, digits, rotated


def test_the_angle_is_how_far_it_was_turned() -> None:
    image = np.zeros((1, 29, 29), np.float32)
    image[0, 13:16, 24:27] = 1  # a spot to the right of the centre
    turned = rotated(Split(image, {"digit": np.array([3])}), degrees=90, seed=1)
    row, column = center_of_mass(turned.inputs[0])
    angle = np.degrees(np.arctan2(14 - row, column - 14))  # rows count downwards
    assert turned.targets["angle"] == pytest.approx([angle], abs=0.5)
    assert turned.targets["digit"].tolist() == [3]


def test_uniform_and_repeatable() -> None:
    data = digits().train.take(slice(300))
    one, again, other = rotated(data), rotated(data), rotated(data, seed=1)
    angles = one.targets["angle"]
    assert (np.abs(angles) <= 45).all()
    assert np.histogram(angles, 3, (-45, 45))[0] == pytest.approx([100] * 3, abs=25)
    np.testing.assert_array_equal(one.inputs, again.inputs)
    assert (other.targets["angle"] != angles).all()
    assert one.inputs.dtype == angles.dtype == np.float32
    assert 0 <= one.inputs.min() <= one.inputs.max() <= 1


def test_no_angle_changes_nothing() -> None:
    data = digits().train.take(slice(5))
    np.testing.assert_array_equal(rotated(data, degrees=0).inputs, data.inputs)


@pytest.mark.parametrize("degrees", [-1.0, 181.0, float("nan")])
def test_impossible_angles(degrees: float) -> None:
    with pytest.raises(ValueError, match="the largest angle, 0 to 180"):
        rotated(digits().test, degrees)
