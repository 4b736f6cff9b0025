from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mtl_tutorial.datasets import digits, fashion_mnist


def test_embedded_is_the_digits_turned() -> None:
    data, upright = fashion_mnist(source="embedded"), digits()
    assert (data.name, data.source) == ("fashion_mnist", "embedded")
    for part in ("train", "valid", "test"):
        split, original = getattr(data, part), getattr(upright, part)
        np.testing.assert_array_equal(split.inputs[7], np.rot90(original.inputs[7]))
        np.testing.assert_array_equal(split.targets["clothing"], original.targets["digit"])
        np.testing.assert_array_equal(split.targets["group"], original.targets["digit"] // 2)
        assert split.inputs.flags.c_contiguous
        assert split.targets["group"].dtype == np.int64


def test_auto_without_real_data_warns() -> None:
    with pytest.warns(UserWarning, match=r"fashion-mnist.*`make data`") as caught:
        assert fashion_mnist().source == "embedded"
    assert [warning.filename for warning in caught] == [__file__]


def test_groups(tmp_path: Path, fill: Callable[[Path], Path]) -> None:
    data = fashion_mnist("real", fill(tmp_path))
    assert (data.name, data.source) == ("fashion_mnist", "real")
    groups = dict(zip(data.test.targets["clothing"], data.test.targets["group"], strict=True))
    names = ["T-shirt", "trousers", "pullover", "dress", "coat"]
    names += ["sandal", "shirt", "sneaker", "bag", "boot"]
    by_group = [{names[c] for c in groups if groups[c] == group} for group in range(5)]
    assert by_group == [
        {"T-shirt", "pullover", "coat", "shirt"},
        {"trousers"},
        {"dress"},
        {"sandal", "sneaker", "boot"},
        {"bag"},
    ]


def test_the_real_thing(real: Path) -> None:
    data = fashion_mnist("real", real)
    assert [len(split) for split in (data.train, data.valid, data.test)] == [50000, 10000, 10000]
    assert data.test.targets["clothing"][:5].tolist() == [9, 2, 1, 1, 6]
    assert set(np.bincount(data.valid.targets["clothing"])) == {1000}
    assert np.bincount(data.test.targets["group"]).tolist() == [4000, 1000, 1000, 3000, 1000]
