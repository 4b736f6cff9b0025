import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mtl_tutorial.metrics import scores
from mtl_tutorial.tasks import (
    Binary,
    Boxes,
    Classification,
    Regression,
    Task,
    check_targets,
    check_tasks,
    labelled,
    target_shape,
)

DIGIT, GT5, SIZE, BOX = Classification("digit", 10), Binary("gt5"), Regression("size"), Boxes("box")
TAGS = Binary("tags", outputs=3)
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
        (DIGIT, [[1, 0], [0, 10]], r"row 1, place \(1,\) holds 10; allowed are"),
        (TAGS, [[1, 0], [0, 1]], r"shape \(2, 2\), expected \(2, 3\)"),
        (TAGS, [1, 0], r"shape \(2,\), expected \(2, 3\)"),
        (GT5, [0, 2], "row 1 holds 2; allowed are the integers 0 to 1"),
        (GT5, [0, 1, 1], r"shape \(3,\), expected \(2,\)"),
        (SIZE, [NAN, np.inf], "row 1 holds inf; allowed are finite numbers, and NaN"),
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


def test_labels_of_tokens_pixels_and_several_questions_are_checked_one_by_one() -> None:
    words, depth = Classification("word", classes=5), Regression("depth")
    targets = {
        "tags": np.array([[0, 1, -1], [1, 1, 0]]),
        "word": np.array([[4, 0, -1, -1], [3, 2, 1, 0]]),
        "depth": np.full((2, 3, 3), 0.5),
    }
    check_targets([TAGS, words, depth], targets, length=2)
    assert labelled(TAGS, targets["tags"]).tolist() == [[True, True, False], [True] * 3]
    targets["depth"][1, 0, 2] = np.inf
    with pytest.raises(ValueError, match=r"'depth': row 1, place \(0, 2\) holds inf; allowed are"):
        check_targets([depth], targets, length=2)


@pytest.mark.parametrize(
    ("task", "outputs", "targets", "expected"),
    [
        (DIGIT, (7, 10), (7,), (7,)),
        (DIGIT, (7, 10), (7, 1), (7,)),
        (DIGIT, (6, 10), (2, 3), (6,)),  # a row a word
        (DIGIT, (2, 3, 10), (2, 3), (2, 3)),
        (SIZE, (2, 8, 8, 1), (2, 8, 8), (2, 8, 8)),
        (TAGS, (7, 3), (7, 3), (7, 3)),
        (BOX, (7, 4), (7, 4), (7, 4)),
    ],
)
def test_target_shape(
    task: Task, outputs: tuple[int, ...], targets: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert target_shape(task, outputs, targets) == expected


@pytest.mark.parametrize(
    ("task", "outputs", "targets", "message"),
    [
        (DIGIT, (7, 9), (7,), r"outputs have shape \(7, 9\), expected \(N, 10\)"),
        (DIGIT, (7,), (7,), r"outputs have shape \(7,\)"),
        (DIGIT, (2, 10, 8, 8), (2, 8, 8), r"axis last: outputs.movedim\(1, -1\)"),
        (DIGIT, (7, 10), (6,), r"targets have shape \(6,\), expected \(7,\)"),
        (TAGS, (7, 3), (7,), r"targets have shape \(7,\), expected \(7, 3\)"),
        (BOX, (4, 4), (16,), r"targets have shape \(16,\), expected \(4, 4\)"),
        (SIZE, (2, 8, 8, 1), (2, 8, 8, 1), r"expected \(2, 8, 8\)"),
    ],
)
def test_target_shape_says_what_does_not_fit(
    task: Task, outputs: tuple[int, ...], targets: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=f"task {task.name!r}: .*{message}"):
        target_shape(task, outputs, targets)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Classification("k", 3, class_weights=[1, 2]),
            "class_weights are 3 numbers above 0",
        ),
        (lambda: Classification("k", 2, class_weights=[1, 0]), r"got \[1, 0\]"),
        (lambda: Classification("k", 3, label_smoothing=1), "from 0 to below 1; got 1"),
        (lambda: Binary("k", pos_weight=-1), "pos_weight are 1 numbers above 0"),
        (lambda: Binary("k", outputs=2, pos_weight=[1, 2, 3]), "pos_weight are 2 numbers"),
        (lambda: Binary("k", outputs=0), "needs outputs >= 1, an integer; got 0"),
        (lambda: Regression("k", outputs=2.0), "needs outputs >= 1, an integer; got 2.0"),  # type: ignore[arg-type]
        (
            lambda: Regression("k", metrics=["auc"]),
            r"'auc' is no metric of a Regression; name some of",
        ),
        (lambda: Binary("k", metrics=[3]), "or give a function of labels and outputs"),  # type: ignore[list-item]
    ],
)
def test_settings_that_cannot_be_are_refused(make: Callable[[], Task], message: str) -> None:
    with pytest.raises(ValueError, match=f"task 'k'.*{message}"):
        make()


def test_a_kind_of_your_own_inherits_what_it_does_not_say() -> None:
    def rank_error(truth: np.ndarray, outputs: np.ndarray) -> float:
        return float(np.abs((outputs > 0).sum(axis=1) - truth).mean())

    @dataclass(frozen=True)
    class Ordinal(Task):
        grades: int
        usual_metrics = (rank_error,)

        @property
        def outputs(self) -> int:  # type: ignore[override]
            return self.grades - 1

    stars = Ordinal("stars", 5)
    assert (stars.outputs, stars.missing, stars.metrics) == (4, -1, (rank_error,))
    check_targets([stars], {"stars": np.array([0, -1])}, length=2)
    assert scores([stars], {"stars": np.eye(4)[:2]}, {"stars": np.array([3, 1])}) == {
        "stars_rank_error": 1.0
    }


def test_boxes_come_one_a_row() -> None:
    """Four boxes a row would be taken for one, axis by axis."""
    with pytest.raises(ValueError, match=r"\(3, 4, 4\), expected \(N, 4\)$"):
        target_shape(Boxes("box"), (3, 4, 4), (3, 4, 4))
