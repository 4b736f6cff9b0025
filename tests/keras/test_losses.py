from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtl_tutorial.datasets import Split
from mtl_tutorial.keras import (
    MultiTaskModel,
    Scores,
    evaluate,
    label_losses,
    linear_heads,
    mlp,
    task_loss,
    task_losses,
    task_metrics,
)
from mtl_tutorial.keras.metrics import TaskMetric
from mtl_tutorial.metrics import scores
from mtl_tutorial.tasks import Binary, Boxes, Classification, Regression, Task

KIND, GT5, SIZE = Classification("kind", 3), Binary("gt5"), Regression("size")
TASKS: list[Task] = [KIND, GT5, SIZE]
each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def loss_and_gradient(task: Task, targets: Any, outputs: Any) -> tuple[float, np.ndarray]:
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
    with pytest.raises(
        TypeError, match="'sketch' is a Sketch, for which there is no loss; register"
    ):
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


STREAMED: list[Task] = [
    Classification("kind", 3, metrics=Classification.known_metrics),
    Binary("big", metrics=["accuracy", "f1", "balanced_accuracy", "mean_iou"]),
    Binary("tags", outputs=3, metrics=["accuracy", "f1", "balanced_accuracy", "mean_iou"]),
    Regression("size", metrics=Regression.known_metrics),
    Regression("joints", outputs=3, metrics=Regression.known_metrics),
]


def random_case(task: Task, *places: int, rows: int = 11) -> tuple[np.ndarray, np.ndarray]:
    """Targets of which one label in four is missing, and outputs."""
    generator = np.random.default_rng(0)
    outputs = generator.normal(size=(rows, *places, task.outputs)).astype("float32")
    shape = outputs.shape if task.numbers > 1 else outputs.shape[:-1]
    targets = generator.integers(0, task.outputs if task.name == "kind" else 2, shape)
    if isinstance(task, Regression):
        targets = (100 + generator.normal(size=shape)).astype("float32")  # far from 0: R2 cancels
    return np.where(generator.random(shape) < 0.25, task.missing, targets), outputs


@pytest.mark.parametrize("places", [(), (5,), (3, 4)], ids=["rows", "tokens", "pixels"])
@pytest.mark.parametrize("task", STREAMED, ids=lambda task: task.name)
def test_metrics_over_batches_are_those_of_all_rows(task: Task, places: tuple[int, ...]) -> None:
    """A shorter last batch, a batch without any label, a number of which no label is there."""
    targets, outputs = random_case(task, *places)
    targets[4:8] = task.missing
    if task.numbers > 1:
        targets[..., 0] = task.missing
    expected = scores([task], {task.name: outputs}, {task.name: targets})
    metrics = task_metrics([task])[task.name]
    assert {f"{task.name}_{metric.name}" for metric in metrics} == set(expected)
    for metric in metrics:
        for start in range(0, 11, 4):
            metric.update_state(targets[start : start + 4], outputs[start : start + 4])
        wanted = expected[f"{task.name}_{metric.name}"]
        assert float(metric.result()) == pytest.approx(wanted, rel=1e-6, abs=1e-6), metric.name
        if task.numbers == 1:
            bad = outputs.copy()
            bad[0] = np.nan
            metric.update_state(np.ones_like(targets[:4]), bad[:4])
            assert np.isnan(metric.result())
        metric.reset_state()
        assert np.isnan(metric.result())


def test_a_streaming_metric_weighs_rows_as_repeating_them_does() -> None:
    counts = np.array([1, 3, 0, 2, 1, 1, 0, 1, 2, 1, 1])
    for task in STREAMED:
        targets, outputs = random_case(task, 2)
        for metric, whole in zip(*(task_metrics([task])[task.name] for _ in "ab"), strict=True):
            metric.update_state(targets, outputs, counts)
            whole.update_state(
                np.repeat(targets, counts, axis=0), np.repeat(outputs, counts, axis=0)
            )
            assert float(metric.result()) == pytest.approx(float(whole.result()), rel=1e-6)


def largest_error(truth: np.ndarray, outputs: np.ndarray) -> float:
    return float(np.abs(truth - outputs[:, 0]).max())


CLICK = Binary("click", metrics=["accuracy", "auc", "average_precision", largest_error])


def test_metrics_that_need_all_outputs_are_left_out_and_refused_by_name() -> None:
    assert [metric.name for metric in task_metrics([CLICK])["click"]] == ["accuracy"]
    assert task_metrics([Binary("click", metrics=["auc"])]) == {}
    with pytest.raises(ValueError, match=r"'click': 'auc' is no metric .* use the callback Scores"):
        TaskMetric(CLICK, "auc")


def split_and_model() -> tuple[Split, MultiTaskModel]:
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(300, 5)).astype("float32")
    targets = np.where(generator.random(300) < 0.2, -1, inputs[:, 0] + inputs[:, 1] > 0)
    keras.utils.set_random_seed(0)
    model = MultiTaskModel(mlp(5, 4), linear_heads([CLICK]))
    model.compile("adam", task_losses([CLICK]), metrics=task_metrics([CLICK]))
    return Split(inputs, {"click": targets}), model


def test_evaluate_gives_losses_and_all_scores() -> None:
    data, model = split_and_model()
    outputs = model.predict(data.inputs, verbose=0)
    loss = float(task_loss(CLICK, data.targets["click"], outputs["click"]))
    expected = {"loss": loss, "click_loss": loss, **scores([CLICK], outputs, data.targets)}
    found = evaluate(model, [CLICK], data)
    assert found == pytest.approx(expected, rel=1e-5)
    assert list(found) == list(expected)
    assert "click_largest_error" in found
    nothing = Split(data.inputs, {"click": np.full(300, -1)})
    assert all(np.isnan(value) for value in evaluate(model, [CLICK], nothing).values())
    with pytest.raises(KeyError, match=r"no output 'buy'; it has \['click'\]"):
        evaluate(model, [Binary("buy")], Split(data.inputs, {"buy": data.targets["click"]}))


def test_what_scores_adds_can_be_monitored_whatever_the_order_of_the_callbacks() -> None:
    data, model = split_and_model()
    heard = []
    listener = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: heard.append(logs["val_click_auc"])
    )
    stop = keras.callbacks.EarlyStopping("val_click_auc", mode="max", patience=9)
    history = model.fit(
        data.inputs,
        data.targets,
        validation_data=(data.inputs, data.targets),
        epochs=2,
        verbose=0,
        callbacks=[listener, stop, Scores([CLICK], data)],
    ).history
    assert heard == history["val_click_auc"]
    assert stop.best == max(heard)
    last = evaluate(model, [CLICK], data)
    assert last["click_auc"] == heard[-1]
    assert history["val_accuracy"][-1] == pytest.approx(last["click_accuracy"])


WEIGHTED = [
    Classification("kind", 3, class_weights=(0.5, 1.0, 4.0), label_smoothing=0.1),
    Binary("tags", outputs=3, pos_weight=2),
    Regression("size"),
]


@pytest.mark.parametrize("task", WEIGHTED, ids=lambda task: task.name)
@pytest.mark.parametrize("places", [(), (5,)], ids=["rows", "tokens"])
def test_a_row_of_weight_3_is_three_rows(task: Task, places: tuple[int, ...]) -> None:
    """In a weighted mean; Keras' own losses divide by the number of rows."""
    targets, outputs = random_case(task, *places, rows=6)
    counts = np.array([1, 3, 0, 2, 1, 0])
    expected = task_loss(
        task, np.repeat(targets, counts, axis=0), np.repeat(outputs, counts, axis=0)
    )
    loss = task_losses([task])[task.name]
    for scale in (1, 0.5):
        found = loss(targets, outputs, sample_weight=counts * scale)
        assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert bool(loss.any_label(targets, counts))
    assert not bool(loss.any_label(targets, 0 * counts))
    assert not bool(loss.any_label(np.where(counts.reshape(-1, *[1] * (targets.ndim - 1)) > 0, task.missing, targets), counts))  # fmt: skip
    bad = outputs.copy()
    bad[2] = np.nan
    assert float(loss(targets, bad, sample_weight=counts)) == pytest.approx(
        float(expected), rel=1e-5
    )


@pytest.mark.parametrize("weights", [[1.0, -1.0], [1.0, np.nan], [1.0, 1.0, 1.0]])
def test_sample_weights_that_cannot_be_are_refused(weights: list[float]) -> None:
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="task gt5: sample_weight is one number"
    ):
        task_loss(GT5, np.array([0, 1]), np.zeros((2, 1)), np.array(weights))


@dataclass(frozen=True)
class Quantile(Task):
    """A kind of a reader's own."""

    level: float = 0.5
    outputs = 1
    missing = float("nan")


@label_losses.register
def _(task: Quantile, targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    error = tf.cast(targets, outputs.dtype) - outputs[..., 0]
    return tf.maximum(task.level * error, (task.level - 1) * error)


def test_a_kind_of_your_own_needs_one_function_and_is_found_on_load() -> None:
    task = Quantile("delay", 0.9, metrics=[largest_error])
    loss, gradient = loss_and_gradient(task, [2.0, np.nan, 0.0], [[1.0], [5.0], [2.0]])
    assert loss == pytest.approx((0.9 + 0.2) / 2)
    np.testing.assert_allclose(gradient, [[-0.45], [0.0], [0.05]], rtol=1e-6)
    saved = keras.saving.serialize_keras_object(task_losses([task])["delay"])
    found = keras.saving.deserialize_keras_object(saved).task
    assert found == Quantile("delay", 0.9)  # a function stays behind
    assert task_metrics([task]) == {}
    saved["config"]["task"]["kind"] = "Expectile"
    with pytest.raises(
        ValueError, match="no kind of task named 'Expectile' is known; import or def"
    ):
        keras.saving.deserialize_keras_object(saved)


def test_a_loss_that_is_not_one_a_label_is_refused() -> None:
    class Total(Task):
        outputs = 1

    @label_losses.register
    def _(task: Total, targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(outputs)

    with pytest.raises(
        ValueError, match=r"'all': label_losses gave shape \(\), expected one loss a"
    ):
        task_loss(Total("all"), np.array([0, 1]), np.zeros((2, 1), "float32"))


@pytest.mark.parametrize("task", [*STREAMED, *WEIGHTED[:2]], ids=str)
def test_all_settings_of_a_task_are_saved(task: Task) -> None:
    save, load = keras.saving.serialize_keras_object, keras.saving.deserialize_keras_object
    assert load(save(task_losses([task])[task.name])).task == task


def test_what_a_metric_of_keras_is_given_where_labels_are_missing() -> None:
    """One row a label of tokens; of several numbers all or none, for one cannot be left out."""
    kind, tags = (task_losses([task])[task.name] for task in STREAMED[:3:2])
    words, logits = np.array([[0, -1], [-1, 2]]), np.arange(12.0).reshape(2, 2, 3)
    truth, outputs, weights = kind.labelled(words, logits, np.array([0.5, 2.0]))
    assert truth.numpy().tolist() == [0, 2]
    assert outputs.numpy().tolist() == [[0, 1, 2], [9, 10, 11]]
    assert weights.numpy().tolist() == [0.5, 2.0]
    some: Any = np.array([[0, 1, 1], [-1, -1, -1]]), np.ones((2, 3))
    assert tags.labelled(*some)[0].numpy().tolist() == [[0, 1, 1]]
    some[0][1, 0] = 1
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="task tags: a row has some of its labels"
    ):
        tags.labelled(*some)
