import dataclasses
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from mtl_tutorial.datasets import Split, check_inputs, concatenate
from mtl_tutorial.tasks import Binary, Boxes, Classification, Regression, Task, check_targets


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


def test_inputs_may_be_several_arrays() -> None:
    targets = {"click": np.array([0, 1, 0])}
    user, film = np.arange(3), np.arange(6.0).reshape(3, 2)
    named = Split({"user": user, "film": film}, targets, np.array([1.0, 2.0, 3.0])).take([2, 0])
    assert named.inputs["user"].tolist() == [2, 0]
    assert named.inputs["film"].tolist() == [[4, 5], [0, 1]]
    assert named.sample_weight.tolist() == [3, 1]  # type: ignore[union-attr]
    ordered = Split((user, film), targets, {"click": np.ones(3)}).take(slice(1))
    assert [len(array) for array in ordered.inputs] == [1, 1]
    assert repr(ordered) == "Split(inputs={inputs[0]: (1,), inputs[1]: (1, 2)}, targets=[click])"
    both = concatenate([Split((user, film), targets)] * 2, [Binary("click")])
    assert (len(both), both.inputs[1].shape) == (6, (6, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Split({"a": np.zeros(3), "b": np.zeros(2)}, {}),
            "input 'b' has 2 rows, but 'a' has 3",
        ),
        (lambda: Split({}, {}), "there are no inputs: the dict or tuple of arrays is empty"),
        (
            lambda: Split(np.zeros(3), {}, np.ones((3, 1))),
            r"'all tasks' has shape \(3, 1\), expected",
        ),
        (
            lambda: Split(np.zeros(3), {}, {"a": np.ones(2)}),
            r"sample_weight of 'a' has shape \(2,\)",
        ),
        (lambda: check_inputs({"a": np.ones(2), "b": np.array([1, np.inf])}), "b: row 1 holds inf"),
        (lambda: check_inputs((np.array(["x"]),)), r"the inputs 'inputs\[0\]' are texts"),
        (
            lambda: concatenate([Split(np.zeros(3), {"a": np.ones(3)}, np.ones(3))], [Binary("a")]),
            "data sets with a sample_weight are not put together",
        ),
    ],
)
def test_inputs_and_weights_that_do_not_fit(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


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


def test_concatenate_fills_what_is_missing_by_the_kind_of_task() -> None:
    tasks: list[Task] = [
        Classification("digit", classes=5),
        Binary("gt5"),
        Regression("size"),
        Boxes("box"),
    ]
    one = make()
    other = Split(
        one.inputs[:2] + 7,
        {
            "digit": np.array([4, -1]),
            "size": np.array([0.5, 2], np.float32),
            "box": np.tile(np.array([0, 0, 1, 1], np.float32), (2, 1)),
            "unused": np.zeros(2),
        },
    )
    both = concatenate([one, other], tasks)
    assert both.inputs[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 7, 8]
    assert list(both.targets) == ["digit", "gt5", "size", "box"]
    assert both.targets["digit"].tolist() == [0, 1, 2, 3, 4, 4, -1]
    assert both.targets["gt5"].tolist() == [0, 0, 0, 1, 1, -1, -1]
    np.testing.assert_array_equal(both.targets["size"], [np.nan] * 5 + [0.5, 2])
    assert np.isnan(both.targets["box"][:5]).all()
    assert (both.targets["box"][5:] == [0, 0, 1, 1]).all()
    assert {name: target.dtype.name for name, target in both.targets.items()} == {
        "digit": "int64",
        "gt5": "int64",
        "size": "float32",
        "box": "float32",
    }
    check_targets(tasks, both.targets, len(both))
    assert both.inputs.dtype == np.float32


def test_concatenate_what_does_not_fit() -> None:
    one = make()
    small = Split(np.zeros((2, 14, 14), np.float32), {"digit": np.zeros(2, int)})
    task = Binary("gt5")
    with pytest.raises(
        ValueError,
        match=r"one size; got \['inputs float32 \(14, 14\)', 'inputs float32 \(28, 28\)'",
    ):
        concatenate([one, small], [task])
    with pytest.raises(ValueError, match=r"got \['inputs float32 .*'inputs float64"):
        concatenate([one, Split(one.inputs.astype(float), one.targets)], [task])
    with pytest.raises(ValueError, match="there is no data set to put together"):
        concatenate([], [task])
    with pytest.raises(KeyError, match="no data set has labels for task 'other'"):
        concatenate([one, one], [Binary("other")])


IMAGES = np.zeros((4, 3, 3), np.float32)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_input_that_is_not_finite_is_named(value: float) -> None:
    images = IMAGES.copy()
    images[2, 1, 0] = value
    with pytest.raises(ValueError, match=rf"row 2, place \(1, 0\) holds {value}, not a finite"):
        check_inputs(images)
    with pytest.raises(ValueError, match=f"inputs: row 2, column 3 holds {value}"):
        check_inputs(images.reshape(4, 9))
    with pytest.raises(ValueError, match=f"inputs: row 21 holds {value}"):
        check_inputs(images.ravel())


def test_an_input_that_only_float64_can_hold_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"row 1, column 0 holds 1e\+300, not a finite number of f"
    ):
        check_inputs([[0.0], [1e300]])


def test_objects_and_texts_are_no_inputs() -> None:
    with pytest.raises(ValueError, match="row 1, column 0 holds None, not a number"):
        check_inputs(np.array([[0.5], [None]]))
    with pytest.raises(ValueError, match=r"dtype object.*astype\('float32'\)"):
        check_inputs(np.array([[0.5], [1]], dtype=object))
    with pytest.raises(ValueError, match=r"texts: mtl_tutorial\.text makes numbers"):
        check_inputs(np.array(["a sentence"]))
    with pytest.raises(ValueError, match="of type complex128, not real numbers"):
        check_inputs(np.zeros((2, 2), complex))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)])
def test_no_input_at_all(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="nothing to learn from: the inputs have shape"):
        check_inputs(np.zeros(shape))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float32", "float64"])
def test_numbers_are_inputs_as_they_are(dtype: str) -> None:
    images = IMAGES.astype(dtype)
    assert check_inputs(images) is images
    assert check_inputs(IMAGES.tolist()).shape == (4, 3, 3)
