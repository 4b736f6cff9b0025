import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from mtl_tutorial.datasets import Split


def make() -> Split:
    inputs = np.arange(5, dtype=np.float32)[:, None, None] * np.ones((1, 28, 28), np.float32)
    return Split(inputs, {"digit": np.arange(5), "gt5": np.array([0, 0, 0, 1, 1])})


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (slice(2), [0, 1]),
        (slice(None, None, 2), [0, 2, 4]),
        ([4, 0, 0], [4, 0, 0]),
        (np.array([3, 1]), [3, 1]),
        (np.array([True, False, False, False, True]), [0, 4]),
        (np.array([], dtype=np.int64), []),
    ],
)
def test_take_takes_the_same_rows_everywhere(index: object, rows: list[int]) -> None:
    part = make().take(index)  # type: ignore[arg-type]
    assert len(part) == len(rows)
    assert part.inputs[:, 0, 0].tolist() == rows
    assert part.targets["digit"].tolist() == rows
    assert part.targets["gt5"].tolist() == [int(row > 2) for row in rows]


def test_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="task 'gt5' has 4 targets for 5 inputs"):
        Split(make().inputs, {"digit": np.arange(5), "gt5": np.arange(4)})


def test_frozen_and_short_to_print() -> None:
    split = make()
    with pytest.raises(dataclasses.FrozenInstanceError):
        split.inputs = split.inputs  # type: ignore[misc]
    assert repr(split) == "Split(inputs=(5, 28, 28), targets=[digit, gt5])"


def test_importing_is_cheap() -> None:
    code = (
        "import sys, mtl_tutorial.datasets\n"
        "print(*{'sklearn', 'scipy', 'pooch', 'requests', 'tqdm', 'torch', 'keras'}"
        " & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
