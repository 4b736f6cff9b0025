from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from mtl_tutorial.datasets import Split, cropped, digits, flipped, ink_box, scenes, shifted

MOVES: list[Callable[[Split], Split]] = [
    flipped,
    partial(shifted, most=9, seed=1),
    partial(cropped, size=56, seed=1),
]
each_move = pytest.mark.parametrize("move", MOVES)


@each_move
def test_the_box_moves_with_the_pixels(move: Callable[[Split], Split]) -> None:
    data = scenes(digits().train, 200, empty=0.2, distractors=0)
    before = data.inputs.copy(), data.targets["box"].copy()
    moved = move(data)
    np.testing.assert_array_equal(moved.targets["box"], ink_box(moved.inputs))
    assert not np.array_equal(moved.targets["box"], before[1], equal_nan=True)
    np.testing.assert_array_equal(data.inputs, before[0])
    np.testing.assert_array_equal(data.targets["box"], before[1])
    assert moved.inputs.dtype == moved.targets["box"].dtype == np.float32
    for name in ("digit", "slant", "presence"):
        np.testing.assert_array_equal(moved.targets[name], data.targets[name])


def test_flipping_twice_changes_nothing() -> None:
    data = scenes(digits().train, 20)
    twice = flipped(flipped(data, negated=["slant"]), negated=["slant"])
    np.testing.assert_array_equal(twice.inputs, data.inputs)
    for name, target in data.targets.items():
        np.testing.assert_array_equal(twice.targets[name], target)
    once = flipped(data, negated=["slant"])
    np.testing.assert_array_equal(once.targets["slant"], -data.targets["slant"])


def test_shifts_go_every_way_and_no_further_than_asked() -> None:
    data = Split(
        np.zeros((2000, 20, 30), np.float32),
        {"box": np.tile(np.array([12, 8, 15, 11], np.float32), (2000, 1))},
    )
    steps = shifted(data, 3).targets["box"] - data.targets["box"]
    np.testing.assert_array_equal(steps[:, :2], steps[:, 2:])
    assert np.unique(steps[:, 0]).tolist() == np.unique(steps[:, 1]).tolist() == list(range(-3, 4))
    np.testing.assert_array_equal(shifted(data, 0).targets["box"], data.targets["box"])


def test_images_need_not_be_square() -> None:
    image = np.zeros((1, 4, 9), np.float32)
    image[0, 1:3, 7:9] = 1
    data = Split(image, {"box": ink_box(image)})
    for moved in (flipped(data), shifted(data, 3), cropped(data, 3)):
        np.testing.assert_array_equal(moved.targets["box"], ink_box(moved.inputs))


def test_a_box_with_fractions_stays_inside() -> None:
    image = np.zeros((50, 10, 10), np.float32)
    data = Split(image, {"box": np.tile(np.array([2.5, 3.5, 6.25, 7.75], np.float32), (50, 1))})
    for moved, size in ((shifted(data, 9), 10), (cropped(data, 6), 6)):
        box = moved.targets["box"]
        assert box.min() >= 0
        assert box.max() <= size
        np.testing.assert_allclose(box[:, 2:] - box[:, :2], np.tile([3.75, 4.25], (50, 1)))


@each_move
@pytest.mark.parametrize("box", [[-1, 0, 5, 5], [0, 0, 5, 65], [60, 60, 70, 62]])
def test_a_box_outside_the_image(move: Callable[[Split], Split], box: list[float]) -> None:
    boxes = np.array([[np.nan] * 4, box], np.float32)
    with pytest.raises(ValueError, match=r"row 1: box .* is outside its image of 64 x 64"):
        move(Split(np.zeros((2, 64, 64), np.float32), {"box": boxes}))


def test_what_cannot_be_moved() -> None:
    data = scenes(digits().train, 3, empty=0)
    with pytest.raises(KeyError, match="no target named 'boxes'"):
        flipped(data, box="boxes")
    with pytest.raises(ValueError, match="does not fit into a window of 5"):
        cropped(data, 5)
    with pytest.raises(ValueError, match="does not fit into images"):
        cropped(data, 65)
    with pytest.raises(ValueError, match="the largest shift"):
        shifted(data, -1)
    with pytest.raises(ValueError, match=r"expected \(N, height, width\)"):
        flipped(Split(np.zeros((3, 64)), data.targets))
    with pytest.raises(ValueError, match=r"boxes have shape \(3,\)"):
        flipped(data, box="slant")
