from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtl_tutorial.keras import task_loss, task_losses, task_metrics
from mtl_tutorial.metrics import scores
from mtl_tutorial.tasks import Binary, Boxes, Classification, Regression, Task

KIND, GT5, SIZE = Classification("kind", 3), Binary("gt5"), Regression("size")
TASKS: list[Task] = [KIND, GT5, SIZE]
each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def loss_and_gradient(task: Task, targets: object, outputs: object) -> tuple[float, np.ndarray]:
    logits = tf.Variable(np.asarray(outputs, "float32"))
    with tf.GradientTape() as tape:
        loss = task_loss(task, tf.constant(targets), logits)
    return float(loss), tape.gradient(loss, logits).numpy()


@each_task
def test_keras_own_loss_over_the_labelled_rows(task: Task) -> None:
    generator = np.random.default_rng(0)
    outputs = generator.normal(size=(9, task.outputs)).astype("float32")
    targets = generator.integers(0, 2, 9).astype("float32")
    keep = generator.random(9) < 0.6
    theirs = {
        "kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "gt5": keras.losses.BinaryCrossentropy(from_logits=True),
        "size": keras.losses.MeanSquaredError(),
    }[task.name]
    expected = float(theirs(targets[keep, None], outputs[keep]))
    assert 0 < keep.sum() < 9
    found, gradient = loss_and_gradient(task, np.where(keep, targets, task.missing), outputs)
    assert found == pytest.approx(expected, rel=1e-5)
    assert gradient[keep].any(axis=1).all()
    assert not gradient[~keep].any()


@each_task
def test_no_label_at_all_is_zero_with_zero_gradient(task: Task) -> None:
    loss, gradient = loss_and_gradient(task, [task.missing] * 4, np.ones((4, task.outputs)))
    assert loss == 0
    assert not gradient.any()


@each_task
def test_extreme_outputs_in_missing_rows_do_not_leak(task: Task) -> None:
    outputs = np.array([[0.5] * task.outputs, [1e30] * task.outputs])
    loss, gradient = loss_and_gradient(task, [1.0, task.missing], outputs)
    alone, _ = loss_and_gradient(task, [1.0], outputs[:1])
    assert loss == pytest.approx(alone, rel=1e-6)
    assert np.isfinite(gradient).all()
    assert not gradient[1].any()


@each_task
@pytest.mark.parametrize("dtype", ["int64", "int8", "float32", "float64"])
def test_targets_of_any_number_type_and_either_shape(task: Task, dtype: str) -> None:
    outputs = np.linspace(-1, 1, 3 * task.outputs).reshape(3, -1)
    expected, _ = loss_and_gradient(task, np.array([0, 1, 1], "float32"), outputs)
    targets = np.array([0, 1, 1], dtype)
    for shaped in (targets, targets[:, None]):
        assert loss_and_gradient(task, shaped, outputs)[0] == expected
        assert float(task_losses([task])[task.name](shaped, outputs)) == pytest.approx(expected)


def test_boolean_targets() -> None:
    outputs, truth = np.array([[1], [-2], [3]], "float32"), np.array([True, True, False])
    expected, _ = loss_and_gradient(GT5, truth.astype(int), outputs)
    assert loss_and_gradient(GT5, truth, outputs)[0] == expected
    metric = task_metrics([GT5])["gt5"][0]
    metric.update_state(truth, outputs)
    assert float(metric.result()) == pytest.approx(1 / 3)


class Sketch(Task):
    """A kind that nobody has written a loss or a metric for."""

    outputs = 1


def test_a_kind_without_loss() -> None:
    with pytest.raises(TypeError, match="'sketch' is a Sketch, for which there is no loss"):
        task_loss(Sketch("sketch"), np.zeros(1), np.zeros((1, 1)))


def test_boxes_have_a_loss_and_a_metric_that_skip_missing_rows() -> None:
    box = Boxes("box")
    truth = np.array([[0.0, 0.0, 2.0, 1.0], [np.nan] * 4], "float32")
    boxes = np.array([[1.0, 0.0, 3.0, 1.0], [0.0, 0.0, 1.0, 1.0]], "float32")
    assert float(task_losses([box])["box"](truth, boxes)) == pytest.approx(1 - 1 / 3)
    metric = task_metrics([box])["box"][0]
    metric.update_state(truth, boxes)
    assert metric.name == "iou"
    assert float(metric.result()) == pytest.approx(1 / 3)


@pytest.mark.parametrize("task", [*TASKS, Boxes("box")], ids=lambda task: task.name)
def test_a_graph_that_learns_its_shapes_when_it_runs_does_not_broadcast(task: Task) -> None:
    """One target for three outputs would count three times."""

    boxes = isinstance(task, Boxes)
    shapes = [tf.TensorSpec((None, 4) if boxes else (None,)), tf.TensorSpec((None, task.outputs))]
    loss = tf.function(partial(task_loss, task), input_signature=shapes)
    outputs = np.ones((3, task.outputs), "float32")
    targets = np.tile([0, 0, 1, 1], (3, 1)) if boxes else np.array([0, 1, 1])
    assert np.isfinite(loss(targets.astype("float32"), outputs))
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=f"task {task.name}: there must be a target for"
    ):
        loss(targets[:1].astype("float32"), outputs)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@each_task
def test_half_precision_is_the_loss_of_the_same_outputs_in_float32(task: Task, dtype: str) -> None:
    outputs = tf.cast(np.random.default_rng(0).random((3000, task.outputs)), dtype)
    targets = np.ones(3000, "float32") + (100_000.25 if task is SIZE else 0)
    found = task_loss(task, targets, outputs)
    assert found.dtype == "float32"
    assert float(found) == float(task_loss(task, targets, tf.cast(outputs, "float32")))


@each_task
def test_metric_over_batches_is_that_of_the_library(task: Task) -> None:
    generator = np.random.default_rng(1)
    outputs = generator.normal(size=(21, task.outputs)).astype("float32")
    targets = np.where(generator.random(21) < 0.4, task.missing, generator.integers(0, 2, 21))
    targets[14:] = task.missing  # the last batch has no label
    metric = task_metrics([task])[task.name][0]
    for start in range(0, 21, 7):
        metric.update_state(targets[start : start + 7], outputs[start : start + 7])
    expected = scores([task], {task.name: outputs}, {task.name: targets})
    assert float(metric.result()) == pytest.approx(expected[f"{task.name}_{metric.name}"])
    metric.reset_state()
    assert np.isnan(metric.result())  # not 0: nothing was counted


@each_task
def test_loss_and_metric_are_rebuilt_from_their_settings(task: Task) -> None:
    save, load = keras.saving.serialize_keras_object, keras.saving.deserialize_keras_object
    loss = load(save(task_losses([task])[task.name]))
    metric = load(save(task_metrics([task])[task.name][0]))
    assert loss.task == metric.task == task


@each_task
def test_any_label(task: Task) -> None:
    loss = task_losses([task])[task.name]
    assert bool(loss.any_label(np.array([task.missing, 1])))
    assert not bool(loss.any_label(np.array([task.missing, task.missing])))
