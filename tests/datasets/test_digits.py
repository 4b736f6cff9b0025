import numpy as np
from scipy.ndimage import zoom
from sklearn.datasets import load_digits

from mtl_tutorial.datasets import digits
from mtl_tutorial.datasets._digits import _resize


def test_shapes_types_and_range() -> None:
    data = digits()
    assert (data.name, data.source) == ("digits", "embedded")
    assert [len(split) for split in (data.train, data.valid, data.test)] == [1197, 300, 300]
    for split in (data.train, data.valid, data.test):
        assert split.inputs.shape == (len(split), 28, 28)
        assert split.inputs.dtype == np.float32
        assert split.inputs.flags.c_contiguous
        assert split.inputs.min() == 0
        assert split.inputs.max() == 1
        assert list(split.targets) == ["digit", "gt5"]
        assert {target.dtype for target in split.targets.values()} == {np.dtype(np.int64)}
        digit = split.targets["digit"]
        np.testing.assert_array_equal(split.targets["gt5"], digit > 5)
        assert np.ptp(np.bincount(digit, minlength=10) * 300 / len(split)) < 3


def test_every_image_once_with_its_own_label() -> None:
    data = digits()
    splits = (data.train, data.valid, data.test)
    # Corners of the 8 x 8 grid stay where they are, so its corner values identify a row well
    # enough: compare the whole collection, labels included.
    corners = np.ix_([0, 27], [0, 27])
    found = [
        (int(digit), *(16 * image[corners]).round().astype(int).ravel())
        for split in splits
        for image, digit in zip(split.inputs, split.targets["digit"], strict=True)
    ]
    bunch = load_digits()
    expected = [
        (int(digit), *image[np.ix_([0, 7], [0, 7])].astype(int).ravel())
        for image, digit in zip(bunch.images, bunch.target, strict=True)
    ]
    assert sorted(found) == sorted(expected)
    total = np.concatenate([split.inputs for split in splits]).reshape(1797, -1)
    assert len(np.unique(total, axis=0)) == len(np.unique(bunch.data, axis=0))


def test_resized_smoothly() -> None:
    image = load_digits().images[:1] / 16
    expected = np.clip(zoom(image[0], 3.5, order=3), 0, 1)
    np.testing.assert_allclose(_resize(image)[0], expected, atol=1e-6)


def test_the_seed_decides() -> None:
    first, again, other = digits(), digits(seed=0), digits(seed=1)
    for part in ("train", "valid", "test"):
        np.testing.assert_array_equal(getattr(first, part).inputs, getattr(again, part).inputs)
        assert not np.array_equal(getattr(first, part).inputs, getattr(other, part).inputs)
