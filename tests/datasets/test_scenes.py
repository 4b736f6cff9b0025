import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_tutorial.datasets import Split, digits, ink_box, scenes
from mtl_tutorial.tasks import Binary, Boxes, Classification, Regression, Task, check_targets


def tasks(size: int) -> list[Task]:
    box = Boxes("box", width=size, height=size)
    return [Classification("digit", 10), Regression("slant"), box, Binary("presence")]


@settings(max_examples=20)
@given(
    size=st.integers(16, 96),
    empty=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_target_is_allowed_and_missing_together(size: int, empty: float, seed: int) -> None:
    drawn = scenes(digits().train, 40, size=size, empty=empty, seed=seed)
    check_targets(tasks(size), drawn.targets, len(drawn))
    there = drawn.targets["presence"] == 1
    assert drawn.inputs.shape == (40, size, size)
    assert drawn.inputs.dtype == drawn.targets["slant"].dtype == np.float32
    assert 0 <= drawn.inputs.min() <= drawn.inputs.max() <= 1
    np.testing.assert_array_equal(drawn.targets["digit"] >= 0, there)
    np.testing.assert_array_equal(~np.isnan(drawn.targets["slant"]), there)
    boxes = drawn.targets["box"]
    np.testing.assert_array_equal(~np.isnan(boxes).any(axis=1), there)
    assert not there.any() or (boxes[there].min() >= 0 and boxes[there].max() <= size)


def test_the_box_is_around_the_ink() -> None:
    drawn = scenes(digits().train, 50, distractors=0, empty=0.2)
    for image, (x1, y1, x2, y2) in zip(drawn.inputs, drawn.targets["box"], strict=True):
        if np.isnan(x1):
            assert not image.any()
            continue
        inside = np.zeros(image.shape, bool)
        inside[int(y1) : int(y2), int(x1) : int(x2)] = True
        assert image[~inside].max() <= 0.2
        for edge in (image[int(y1)], image[int(y2) - 1], image[:, int(x1)], image[:, int(x2) - 1]):
            assert edge.max() > 0.2


def test_the_slant_is_how_far_a_bar_leans() -> None:
    bar = np.zeros((1, 28, 28), np.float32)
    bar[0, 4:24, 13:15] = 1
    drawn = scenes(Split(bar, {"digit": np.array([1])}), 20, size=128, empty=0, distractors=0)
    for image, slant in zip(drawn.inputs, drawn.targets["slant"], strict=True):
        rows = np.flatnonzero(image.max(axis=1) > 0.9)[2:-2]
        middle = image[rows] @ np.arange(128) / image[rows].sum(axis=1)
        to_the_right = -np.polyfit(rows, middle, 1)[0]  # rows count downwards
        assert np.degrees(np.arctan(to_the_right)) == pytest.approx(slant, abs=1)


def test_places_fill_the_scene() -> None:
    boxes = scenes(digits().train, 2000, empty=0).targets["box"]
    assert boxes.min() <= 2
    assert boxes.max() >= 62
    assert (boxes[:, :2] + boxes[:, 2:]).mean() / 2 == pytest.approx(32, abs=1)


def test_repeatable() -> None:
    data = digits().train
    one, again, other = scenes(data, 20), scenes(data, 20), scenes(data, 20, seed=1)
    np.testing.assert_array_equal(one.inputs, again.inputs)
    assert not np.array_equal(one.inputs, other.inputs)


def test_a_wide_digit_fits() -> None:
    wide = np.zeros((1, 28, 28), np.float32)
    wide[0, [0, 1, 2, -3, -2, -1]] = 1
    drawn = scenes(Split(wide, {"digit": np.array([0])}), 200, size=32, empty=0)
    assert drawn.targets["presence"].all()
    assert drawn.targets["box"].min() >= 0
    assert drawn.targets["box"].max() <= 32


def test_a_line_too_thin_for_the_size_leaves_an_empty_scene() -> None:
    thin = np.zeros((1, 28, 28), np.float32)
    thin[0, 14] = 1
    data = Split(thin, {"digit": np.array([1])})
    drawn = scenes(data, 200, size=16, empty=0, distractors=0)
    lost = drawn.targets["presence"] == 0
    assert lost.any()
    assert not drawn.inputs[lost].any()
    assert np.isnan(drawn.targets["box"][lost]).all()


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"count": 0}, "count must be at least 1"),
        ({"size": 8}, "size at least 16"),
        ({"distractors": -1}, "distractors at least 0"),
        ({"empty": 1.5}, "a probability"),
        ({"empty": float("nan")}, "a probability"),
    ],
)
def test_impossible_settings(settings_: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scenes(digits().train, **({"count": 3} | settings_))  # type: ignore[arg-type]


def test_a_blank_image() -> None:
    blank = Split(np.zeros((1, 28, 28), np.float32), {"digit": np.array([0])})
    with pytest.raises(ValueError, match="blank"):
        scenes(blank, 3)


def test_ink_box_without_ink() -> None:
    assert np.isnan(ink_box(np.zeros((2, 5, 7), np.float32))).all()
    assert ink_box(np.ones((1, 5, 7), np.float32)).tolist() == [[0, 0, 7, 5]]
