import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from mtl_tutorial.metrics import (
    average_precision,
    delta_m,
    iou,
    lower_is_better,
    mean_interval,
    predictions,
    scores,
    verdict,
)
from mtl_tutorial.tasks import Binary, Boxes, Classification, Regression, Task

KIND, GT5, SIZE, BOX = (
    Classification("kind", 3),
    Binary("gt5"),
    Regression("size"),
    Boxes("box", 3, 2),
)
VALUES = st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=2, max_size=8)


@pytest.mark.parametrize(
    ("task", "outputs", "expected"),
    [
        (KIND, [[0, 2, 1], [5, -1, 4]], [1, 0]),
        (GT5, [[0.0], [1e-9], [-3.0]], [0, 1, 0]),
        (SIZE, [[1.5], [-2.0]], [1.5, -2.0]),
        (BOX, [[0, 1, 2, 3]], [[0, 1, 2, 3]]),
    ],
)
def test_predictions(task: Task, outputs: list[list[float]], expected: list[float]) -> None:
    assert predictions(task, np.array(outputs)).tolist() == expected


@pytest.mark.parametrize("shape", [(4,), (4, 2), (2, 1, 4)])
def test_predictions_of_a_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"'gt5': outputs have shape .*, expected \(N, 1\)"):
        predictions(GT5, np.zeros(shape))


def f1(truth: np.ndarray, guess: np.ndarray, label: int) -> float:
    """Twice the hits over all that were said or true."""
    hits = np.sum((truth == label) & (guess == label))
    return float(2 * hits / max(1, np.sum(truth == label) + np.sum(guess == label)))


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_scores_follow_their_definitions(seed: int, rows: int) -> None:
    generator = np.random.default_rng(seed)
    kind, gt5, size = (generator.integers(0, top, rows) for top in (3, 2, 9))
    outputs = {task.name: generator.normal(size=(rows, task.outputs)) for task in (KIND, GT5, SIZE)}
    found = scores([KIND, GT5, SIZE], outputs, {"kind": kind, "gt5": gt5, "size": size})
    likeliest, yes = outputs["kind"].argmax(axis=1), outputs["gt5"][:, 0] > 0
    seen = sorted({*kind, *likeliest})
    assert found == pytest.approx(
        {
            "kind_accuracy": np.mean(kind == likeliest),
            "kind_f1": np.mean([f1(kind, likeliest, label) for label in seen]),
            "gt5_accuracy": np.mean(gt5 == yes),
            "gt5_f1": f1(gt5, yes, 1),
            "size_mae": np.mean(np.abs(outputs["size"][:, 0] - size)),
        }
    )


def test_scores_skip_missing_labels() -> None:
    generator = np.random.default_rng(0)
    tasks: list[Task] = [KIND, GT5, SIZE]
    outputs = {task.name: generator.normal(size=(20, task.outputs)) for task in tasks}
    targets = {
        "kind": generator.integers(-1, 3, 20),
        "gt5": generator.integers(-1, 2, 20),
        "size": np.where(generator.random(20) < 0.4, np.nan, 1.0),
    }
    for task in tasks:
        name, target = task.name, targets[task.name]
        keep = np.isfinite(target) if task is SIZE else target >= 0
        assert 0 < keep.sum() < 20
        alone = scores([task], {name: outputs[name][keep]}, {name: target[keep]})
        assert scores([task], outputs, targets) == alone


def test_scores_without_any_label_are_nan() -> None:
    outputs = {"gt5": np.ones((2, 1)), "size": np.ones((2, 1))}
    targets = {"gt5": np.array([-1, -1]), "size": np.array([np.nan, np.nan])}
    found = scores([GT5, SIZE], outputs, targets)
    assert list(found) == ["gt5_accuracy", "gt5_f1", "size_mae"]
    assert np.isnan(list(found.values())).all()


@pytest.mark.parametrize("task", [KIND, GT5, SIZE, BOX], ids=lambda task: task.name)
def test_scores_of_a_network_that_has_diverged_are_nan(task: Task) -> None:
    """The largest of NaN is the first class, and NaN is no yes: both would look like an answer."""
    outputs = np.ones((3, task.outputs))
    targets = np.tile([0.0, 0, 1, 1], (3, 1)) if task is BOX else np.array([0.0, 1, 1])
    missing = targets.copy()
    missing[2] = task.missing
    outputs[2] = np.nan
    found = scores([task], {task.name: outputs}, {task.name: targets})
    assert np.isnan(list(found.values())).all()
    found = scores([task], {task.name: outputs}, {task.name: missing})  # that row has no label
    assert np.isfinite(list(found.values())).all()
    with pytest.raises(ValueError, match=rf"task '{task.name}': row 2 of the outputs is \[nan"):
        predictions(task, outputs)


def test_scores_of_infinite_numbers_are_nan_and_of_infinite_logits_are_not() -> None:
    outputs = {"size": np.array([[np.inf]]), "gt5": np.array([[np.inf]])}
    found = scores([SIZE, GT5], outputs, {"size": np.array([1.0]), "gt5": np.array([1])})
    assert np.isnan(found["size_mae"])
    assert found["gt5_accuracy"] == 1


def test_scores_of_what_does_not_fit_together() -> None:
    outputs = {"gt5": np.zeros((3, 1))}
    with pytest.raises(ValueError, match=r"'gt5': targets have shape .* expected \(3,\)"):
        scores([GT5], outputs, {"gt5": np.array([0, 1])})
    with pytest.raises(ValueError, match="'gt5': row 1 holds -100"):
        scores([GT5], outputs, {"gt5": np.array([0, -100, 1])})
    with pytest.raises(KeyError, match=r"no outputs named 'size'; there are \['gt5'\]"):
        scores([SIZE], outputs, {"size": np.zeros(3)})
    with pytest.raises(KeyError, match=r"no targets named 'gt5'; there are \['size'\]"):
        scores([GT5], outputs, {"size": np.zeros(3)})


def test_scores_of_boxes_are_the_mean_iou_of_the_rows_that_have_one() -> None:
    truth = np.array([[0, 0, 2, 1], [0, 0, 1, 1], [np.nan] * 4])
    boxes = np.array([[1, 0, 3, 1], [0, 0, 1, 1], [0, 0, 1, 1]], float)
    assert scores([BOX], {"box": boxes}, {"box": truth}) == {"box_iou": pytest.approx(2 / 3)}


@given(seed=st.integers(0, 2**32 - 1))
def test_iou_is_symmetric_and_counts_grid_points(seed: int) -> None:
    generator = np.random.default_rng(seed)
    corners = generator.integers(0, 6, size=(2, 8, 2, 2))
    one, other = (np.sort(pair, axis=1).reshape(8, 4) for pair in corners)

    def cells(box: np.ndarray) -> set[tuple[int, int]]:
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    for value, a, b in zip(iou(one, other), one, other, strict=True):
        union = len(cells(a) | cells(b))
        assert value == pytest.approx(len(cells(a) & cells(b)) / union if union else 0)
    np.testing.assert_array_equal(iou(one, other), iou(other, one))


def test_iou_with_a_nan_is_nan() -> None:
    one = np.array([[0.0, 0, 1, 1], [0, np.nan, 1, 1], [0, 0, 1, 1]])
    other = np.array([[0.0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, np.nan]])
    np.testing.assert_array_equal(iou(one, other), [1, np.nan, np.nan])


def test_iou_of_wrong_shapes() -> None:
    with pytest.raises(ValueError, match=r"expected \(N, 4\) twice"):
        iou(np.zeros((2, 4)), np.zeros((3, 4)))


@pytest.mark.parametrize(
    ("metric", "lower"),
    [("loss", True), ("val_loss", True), ("size_mae", True), ("gt5_f1", False), ("lossy", False)],
)
def test_lower_is_better(metric: str, lower: bool) -> None:
    assert lower_is_better(metric) is lower


def test_delta_m_by_hand() -> None:
    stl = {"digit_accuracy": 0.8, "gt5_f1": 0.5, "size_mae": 2.0}
    mtl = {"digit_accuracy": 0.9, "gt5_f1": 0.4, "size_mae": 1.0}
    assert delta_m(mtl, stl) == pytest.approx((0.125 - 0.2 + 0.5) / 3)


@given(st.floats(0.1, 0.9), st.floats(0.1, 0.9), st.floats(0.01, 100))
def test_delta_m_has_no_unit_and_a_sign(mtl: float, stl: float, scale: float) -> None:
    change = delta_m({"size_mae": mtl}, {"size_mae": stl})
    assert delta_m({"size_mae": scale * mtl}, {"size_mae": scale * stl}) == pytest.approx(change)
    assert delta_m({"gt5_f1": mtl}, {"gt5_f1": stl}) == pytest.approx(-change)


@pytest.mark.parametrize(
    ("mtl", "stl", "message"),
    [
        ({"a_f1": 1.0}, {"b_f1": 1.0}, r"\['a_f1'\] against \['b_f1'\]"),
        ({"a_f1": 1.0}, {"a_f1": 1.0, "b_f1": 1.0}, "differ"),
        ({}, {}, "none"),
        ({"a_f1": 1.0, "b_f1": 1.0}, {"a_f1": 1.0, "b_f1": 0.0}, r"metric of 0: \['b_f1'\]"),
    ],
)
def test_delta_m_refuses(mtl: dict[str, float], stl: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        delta_m(mtl, stl)


@given(VALUES, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_mean_interval_agrees_with_scipy(values: list[float], confidence: float) -> None:
    mean, half_width = mean_interval(values, confidence)
    if half_width > 1e-9:  # scipy gives NaN where all values are equal
        low, high = scipy.stats.t.interval(
            confidence, len(values) - 1, np.mean(values), scipy.stats.sem(values)
        )
        assert (mean - half_width, mean + half_width) == pytest.approx((low, high))
    else:
        assert mean == pytest.approx(values[0])


@pytest.mark.parametrize("values", [[], [1.0], [1.0, np.nan], [1.0, np.inf]])
def test_mean_interval_needs_two_finite_values(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least 2 values, all finite"):
        mean_interval(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, -0.5])
def test_mean_interval_needs_a_fraction(confidence: float) -> None:
    with pytest.raises(ValueError, match=f"between 0 and 1; got {confidence}"):
        mean_interval([1.0, 2.0], confidence)


@given(VALUES)
def test_verdict_says_what_the_interval_says(values: list[float]) -> None:
    mean, half_width = mean_interval(values)
    said = verdict(values)
    assert (said == "gains") == (mean - half_width > 0)
    assert (said == "loses") == (mean + half_width < 0)
    turned = {"gains": "loses", "loses": "gains"}
    assert verdict([-value for value in values]) == turned.get(said, said)


def test_verdict_in_other_words() -> None:
    words = ("worse", "neither", "better")
    assert verdict([-3, -3.1, -2.9], words) == "worse"
    assert verdict([-1, 1, 0.5], words) == "neither"
    assert verdict([0.0, 0.0], words) == "neither"


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 12))
def test_average_precision_by_its_definition(seed: int, rows: int) -> None:
    generator = np.random.default_rng(seed)
    low = generator.uniform(0, 1, (2, rows, 2))
    guess, truth = np.concatenate([low, low + 1], axis=2)
    truth[generator.random(rows) < 0.3] = np.nan
    confidence = generator.permutation(rows).astype(float)
    objects = ~np.isnan(truth).any(axis=1)
    if not objects.any():
        assert np.isnan(average_precision(guess, confidence, truth, 0.3))
        return
    found, total, recall = 0, 0.0, 0.0
    for n, row in enumerate(np.argsort(-confidence), 1):
        if objects[row] and iou(guess[[row]], truth[[row]])[0] >= 0.3:
            found += 1
        total += (found / objects.sum() - recall) * found / n
        recall = found / objects.sum()
    assert average_precision(guess, confidence, truth, 0.3) == pytest.approx(total)


def test_average_precision_of_the_truth_is_one() -> None:
    boxes = np.array([[0.0, 0, 2, 2], [1, 1, 4, 4], [0, 0, 1, 1]])
    truth = boxes.copy()
    truth[2] = np.nan
    assert average_precision(boxes, [3, 2, 1], truth) == 1
    assert average_precision(boxes, [1, 2, 3], truth) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert average_precision(boxes + 9, [3, 2, 1], truth) == 0


def test_average_precision_of_what_is_no_proposal() -> None:
    boxes = np.array([[0.0, 0, 2, 2], [1, 1, 4, 4]])
    broken, partly = boxes.copy(), boxes.copy()
    broken[1], partly[1, 0] = np.nan, np.nan
    for guess, sure, truth in (
        (broken, [1, 2], boxes),
        (boxes, [1, np.nan], boxes),
        (boxes, [1, 2], partly),
    ):
        with pytest.raises(ValueError, match="row 1 holds a NaN"):
            average_precision(guess, sure, truth)
    with pytest.raises(ValueError, match=r"confidence \(2, 1\) has shape \(N,\)"):
        average_precision(boxes, np.array([[1], [2]]), boxes)
    with pytest.raises(ValueError, match=r"truth \(1, 4\) have shape \(N, 4\)"):
        average_precision(boxes, [1, 2], boxes[:1])
    with pytest.raises(ValueError, match="threshold is an IoU above 0, at most 1; got 0"):
        average_precision(boxes, [1, 2], boxes, threshold=0)


def test_metrics_a_task_names_equal_scikit_learn_on_the_labels_that_are_there() -> None:
    generator = np.random.default_rng(0)
    truth, logits = generator.integers(-1, 2, 200), generator.normal(size=(200, 1))
    there = truth >= 0
    y, z = truth[there], logits[there, 0]
    click = Binary("click", metrics=Binary.known_metrics)
    assert scores([click], {"click": logits}, {"click": truth}) == pytest.approx(
        {
            "click_accuracy": sk.accuracy_score(y, z > 0),
            "click_f1": sk.f1_score(y, z > 0),
            "click_balanced_accuracy": sk.balanced_accuracy_score(y, z > 0),
            "click_mean_iou": sk.jaccard_score(y, z > 0, average="macro"),
            "click_auc": sk.roc_auc_score(y, z),
            "click_average_precision": sk.average_precision_score(y, z),
        }
    )


def test_labels_of_pixels_count_one_by_one() -> None:
    generator = np.random.default_rng(0)
    kind = Classification("kind", 3, metrics=Classification.known_metrics)
    depth = Regression("depth", metrics=Regression.known_metrics)
    logits, depths = generator.normal(size=(2, 4, 4, 3)), generator.normal(size=(2, 4, 4, 1))
    classes, metres = generator.integers(-1, 3, (2, 4, 4)), generator.normal(size=(2, 4, 4))
    metres[0, 0] = np.nan
    there, seen = classes >= 0, ~np.isnan(metres)
    y, p, d, e = classes[there], logits.argmax(-1)[there], metres[seen], depths[..., 0][seen]
    found = scores(
        [kind, depth], {"kind": logits, "depth": depths}, {"kind": classes, "depth": metres}
    )
    assert found == pytest.approx(
        {
            "kind_accuracy": np.mean(y == p),
            "kind_f1": sk.f1_score(y, p, average="macro"),
            "kind_balanced_accuracy": sk.balanced_accuracy_score(y, p),
            "kind_mean_iou": np.mean(
                [((y == c) & (p == c)).sum() / ((y == c) | (p == c)).sum() for c in range(3)]
            ),
            "depth_mae": np.abs(d - e).mean(),
            "depth_rmse": np.sqrt(np.square(d - e).mean()),
            "depth_r2": sk.r2_score(d, e),
        }
    )


def test_several_questions_give_their_mean_over_those_that_are_defined() -> None:
    tags = Binary("tags", outputs=3, metrics=["auc", "accuracy"])
    logits = np.array([[2.0, 1, 1], [1, 2, 1], [-1, 3, -1]])
    truth = np.array([[1, 0, 1], [0, 1, 1], [0, -1, -1]])  # the last has no no: no ROC curve
    assert scores([tags], {"tags": logits}, {"tags": truth}) == pytest.approx(
        {"tags_auc": 1.0, "tags_accuracy": np.mean([2 / 3, 1 / 2, 1])}
    )


def test_one_question_with_a_nan_among_its_outputs_is_not_left_out_of_the_mean() -> None:
    tags = Binary("tags", outputs=2, metrics=["accuracy"])
    logits, truth = np.array([[1.0, np.nan], [1.0, 1.0]]), np.array([[1, 1], [1, 1]])
    assert np.isnan(scores([tags], {"tags": logits}, {"tags": truth})["tags_accuracy"])
    truth[0, 1] = -1  # nobody asked
    assert scores([tags], {"tags": logits}, {"tags": truth}) == {"tags_accuracy": 1.0}


@pytest.mark.parametrize("metric", ["auc", "average_precision"])
def test_a_ranking_without_a_yes_is_not_defined(metric: str) -> None:
    click = Binary("click", metrics=[metric])
    found = scores([click], {"click": np.array([[1.0], [2.0]])}, {"click": np.array([0, 0])})
    assert np.isnan(found[f"click_{metric}"])


def test_a_metric_of_your_own_sees_the_labels_that_are_there() -> None:
    def largest_error(truth: np.ndarray, outputs: np.ndarray) -> float:
        return float(np.abs(truth - outputs[:, 0]).max())

    size = Regression("size", metrics=["mae", largest_error])
    outputs, targets = np.array([[1.0], [5.0], [2.0]]), np.array([2.0, np.nan, 2.5])
    found = scores([size], {"size": outputs}, {"size": targets})
    assert found == {"size_mae": 0.75, "size_largest_error": 1.0}
    assert lower_is_better("val_size_largest_error")
    assert lower_is_better("size_rmse")
