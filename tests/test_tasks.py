import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mtl_tutorial.tasks import (
    Binary,
    Boxes,
    Classification,
    Regression,
    Task,
    check_targets,
    check_tasks,
    labelled,
)

DIGIT, GT5, SIZE, BOX = Classification("digit", 10), Binary("gt5"), Regression("size"), Boxes("box")
NAN = np.nan


@pytest.mark.parametrize("name", ["", "two words", "5th", "a.b", "a-b", None, 5, "größe", "_size"])
@pytest.mark.parametrize("kind", [Binary, Regression, Boxes])
def test_name_must_be_an_identifier(kind: type[Task], name: str) -> None:
    with pytest.raises(ValueError, match="Python identifier") as error:
        kind(name)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize("classes", [1, 0, -1, True, 10.0, "10"])
def test_classes_must_be_an_integer_above_1(classes: int) -> None:
    with pytest.raises(ValueError, match="'digit' needs classes >= 2"):
        Classification("digit", classes=classes)


def test_a_name_that_a_dict_of_modules_would_refuse_is_refused_at_once() -> None:
    """The list stands in the library, which imports no framework; here it meets the real thing."""
    for name in dir(nn.ModuleDict()):
        with pytest.raises((KeyError, RuntimeError), match=re.escape(name)):
            nn.ModuleDict({name: nn.Identity()})
        with pytest.raises(ValueError, match=re.escape(repr(name))):
            Binary(name)
    for name in ("class", "loss", "heads", "name", "Keys", "value"):
        assert list(nn.ModuleDict({Binary(name).name: nn.Identity()})) == [name]


@pytest.mark.parametrize("name", ["val", "val_", "val_gt5"])
def test_a_name_that_reads_as_a_validation_is_refused(name: str) -> None:
    """The loss of a task "val" would stand where the sum of the validation losses stands."""
    with pytest.raises(ValueError, match=f"'{name}' would be mistaken for the validation"):
        Regression(name)
    assert Regression(f"un{name}").name == f"un{name}"


@pytest.mark.parametrize("side", [0, -1.0, NAN, np.inf])
def test_the_sides_of_an_image_are_above_0(side: float) -> None:
    with pytest.raises(ValueError, match="'box' needs the sides of its images, above 0"):
        Boxes("box", width=side)
    with pytest.raises(ValueError, match="'box' needs the sides of its images, above 0"):
        Boxes("box", height=side)


def test_classification_checks_its_name_too() -> None:
    with pytest.raises(ValueError, match="Python identifier"):
        Classification("two words", classes=10)


def test_tasks_are_values() -> None:
    assert Classification("digit", 10) == DIGIT != Classification("digit", 9)
    assert len({DIGIT, Classification("digit", 10), SIZE, Binary("size")}) == 3
    with pytest.raises(FrozenInstanceError):
        GT5.name = "other"  # type: ignore[misc]


def test_outputs() -> None:
    assert [task.outputs for task in (DIGIT, GT5, SIZE, BOX)] == [10, 1, 1, 4]


def test_check_tasks_keeps_the_order() -> None:
    assert check_tasks((SIZE, DIGIT, GT5)) == [SIZE, DIGIT, GT5]


def test_check_tasks_empty() -> None:
    with pytest.raises(ValueError, match="empty"):
        check_tasks([])


def test_check_tasks_same_name_of_another_kind() -> None:
    with pytest.raises(ValueError, match="two tasks are named 'gt5'"):
        check_tasks([GT5, DIGIT, Regression("gt5")])


@pytest.mark.parametrize(
    ("task", "targets", "there"),
    [
        (DIGIT, [0, -1, 9], [True, False, True]),
        (GT5, [-1, 0, 1], [False, True, True]),
        (GT5, [True, False], [True, True]),
        (SIZE, [-1.0, NAN, 0.0], [True, False, True]),
        (SIZE, [1, -1], [True, True]),
        (BOX, [[0, 0, 1, 1], [0, NAN, 1, 1], [NAN] * 4], [True, False, False]),
    ],
)
def test_labelled(task: Task, targets: list[object], there: list[bool]) -> None:
    found = labelled(task, np.array(targets))
    assert found.dtype == bool
    assert found.tolist() == there


@pytest.mark.parametrize(
    ("task", "target", "message"),
    [
        (DIGIT, [3, 10], "row 1 holds 10; allowed are the integers 0 to 9, and -1"),
        (DIGIT, [-2, 0], "row 0 holds -2"),
        (DIGIT, [1, 0.5], r"row 1 holds 0\.5"),
        (DIGIT, [1, NAN], "row 1 holds nan"),
        (DIGIT, [[1, 0], [0, 1]], r"shape \(2, 2\), expected \(2,\)"),
        (GT5, [0, 2], "row 1 holds 2; allowed are the integers 0 to 1"),
        (GT5, [0, 1, 1], r"shape \(3,\), expected \(2,\)"),
        (SIZE, [NAN, np.inf], "row 1 holds inf; allowed are finite numbers, and NaN"),
        (SIZE, [[1.0], [2.0]], r"shape \(2, 1\), expected \(2,\)"),
        (BOX, [[0, 0, 1, 1], [0, -np.inf, 1, 1]], "row 1 holds .*inf"),
        (BOX, [1.0, 2.0], r"shape \(2,\), expected \(2, 4\)"),
        (BOX, [[0, 0, 1, 1], [0.5, 0, 0.5, 1]], r"row 1 holds .*allowed are 0 <= x1 < x2 <= 1 "),
        (BOX, [[0, 1, 1, 0], [0, 0, 1, 1]], "row 0 holds .* 0 <= y1 < y2 <= 1 "),
        (BOX, [[0, 0, 1, 1], [0, 0, 1.1, 1]], "row 1 holds .*the width and height of the task"),
        (BOX, [[0, 0, 1, 1], [-0.1, 0, 1, 1]], "row 1 holds"),
        (BOX, [[0, 0, 1, 1], [0, NAN, 1, 1]], "row 1 holds .*four NaN where missing"),
        (BOX, [[0, 0, 1, 1], [-1, -1, -1, -1]], "row 1 holds"),
        (DIGIT, ["3", "4"], "targets are numbers, not of type <U1"),
        (SIZE, [1.0, None], "targets are numbers, not of type object"),
    ],
)
def test_check_targets_wrong(task: Task, target: list[object], message: str) -> None:
    good = {"other": np.array([0, 1])}
    with pytest.raises(ValueError, match=f"task {task.name!r}: .*{message}"):
        check_targets([Binary("other"), task], good | {task.name: np.array(target)}, length=2)


def test_check_targets_absent() -> None:
    with pytest.raises(KeyError, match=r"no target named 'digit'; there are \['gt5'\]"):
        check_targets([GT5, DIGIT], {"gt5": np.array([1])}, length=1)


def test_check_targets_allows_what_is_missing_and_what_is_not_asked_for() -> None:
    targets = {
        "digit": np.array([9, -1]),
        "gt5": np.array([True, False]),
        "size": np.array([NAN, -1e30]),
        "box": np.array([[0, 0, 1, 1], [NAN] * 4]),
        "unused": np.array([99]),
    }
    check_targets([DIGIT, GT5, SIZE, BOX], targets, length=2)


@given(st.integers(2, 5), st.lists(st.integers(-3, 6), min_size=1, max_size=6))
def test_check_targets_names_the_first_wrong_row(classes: int, labels: list[int]) -> None:
    wrong = [row for row, label in enumerate(labels) if not -1 <= label < classes]
    tasks, targets = [Classification("kind", classes)], {"kind": np.array(labels)}
    if wrong:
        with pytest.raises(ValueError, match=f"row {wrong[0]} holds {labels[wrong[0]]};"):
            check_targets(tasks, targets, len(labels))
    else:
        check_targets(tasks, targets, len(labels))


def test_boxes_in_pixels_reach_the_sides_of_the_image_and_no_further() -> None:
    pixels, edge = Boxes("box", width=64, height=48), np.float32(64) * (1 + 1e-7)
    boxes = np.array([[0, 0, 64, 48], [63.5, 47.5, edge, 48]], "float32")
    check_targets([pixels], {"box": boxes}, length=2)
    with pytest.raises(ValueError, match=r"row 1 holds .* x2 <= 64 and 0 <= y1 < y2 <= 48"):
        check_targets([pixels], {"box": boxes + np.array([[0], [1]])}, length=2)
