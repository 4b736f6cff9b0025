from contextlib import nullcontext

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtl_tutorial.keras import (
    BoxHead,
    HardSharing,
    MultiTaskModel,
    linear_heads,
    mlp,
    task_losses,
    task_metrics,
)
from mtl_tutorial.tasks import Binary, Boxes, Classification
from tests.rectangles import rectangles

TASKS = [Classification("digit", classes=10), Binary("gt5")]


def test_mlp_is_affine_then_relu() -> None:
    keras.utils.set_random_seed(0)
    trunk = mlp(12, 7, 5)
    images = np.random.default_rng(0).normal(size=(6, 3, 4)).astype("float32")
    found = trunk(images).numpy()
    w1, b1, w2, b2 = trunk.get_weights()
    hidden = np.maximum(images.reshape(6, 12) @ w1 + b1, 0)
    np.testing.assert_allclose(found, np.maximum(hidden @ w2 + b2, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("widths", [(), (784,)])
def test_mlp_needs_two_widths(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least one width"):
        mlp(*widths)


def test_linear_heads_keep_the_order_of_the_tasks() -> None:
    heads = linear_heads(TASKS[::-1])
    assert list(heads) == ["gt5", "digit"]
    assert [heads[task.name].units for task in TASKS] == [10, 1]


def test_linear_heads_need_distinct_tasks() -> None:
    with pytest.raises(ValueError, match="two tasks are named 'gt5'"):
        linear_heads([Binary("gt5"), Binary("gt5")])


def test_outputs_are_heads_after_trunk() -> None:
    model, inputs = HardSharing(mlp(6, 4), linear_heads(TASKS)), np.ones((5, 6), "float32")
    outputs = model(inputs)
    assert list(outputs) == ["digit", "gt5"]
    for name, output in outputs.items():
        np.testing.assert_array_equal(output, model.heads[name](model.trunk(inputs)))


def test_every_weight_is_found_once() -> None:
    model = HardSharing(mlp(6, 4), linear_heads(TASKS))
    model(np.ones((5, 6), "float32"))
    shapes = sorted(tuple(weight.shape) for weight in model.trainable_weights)
    assert shapes == sorted([(6, 4), (4,), (4, 10), (10,), (4, 1), (1,)])


def test_a_model_needs_a_head() -> None:
    with pytest.raises(ValueError, match="at least one head"):
        HardSharing(mlp(6, 4), {})


def test_config_builds_the_same_architecture_again_and_again() -> None:
    model = HardSharing(mlp(6, 4), linear_heads(TASKS[::-1]))
    config = model.get_config()
    for _ in range(2):
        twin = HardSharing.from_config(config)
        assert list(twin.heads) == ["gt5", "digit"]
        assert twin(np.ones((5, 6), "float32"))["digit"].shape == (5, 10)


@pytest.mark.parametrize(("side", "seed"), [(1, 0), (64, 1)])
def test_boxes_train_on_a_trunk_of_ones_own(side: int, seed: int) -> None:
    """Linear layers alone died here: corners crossed where the loss had no gradient, IoU 0."""
    task = Boxes("box", width=side, height=side)
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Flatten(), keras.layers.Dense(64, activation="tanh")]
    model = MultiTaskModel(keras.Sequential(layers), linear_heads([task]))
    losses, metrics = task_losses([task]), task_metrics([task])
    model.compile(keras.optimizers.Adam(3e-3), losses, metrics=metrics)
    train, test = rectangles(600, 0, side), rectangles(200, 1, side)
    given = {"validation_data": (test.inputs, test.targets), "verbose": 0}
    history = model.fit(train.inputs, train.targets, epochs=10, batch_size=32, **given).history
    assert history["val_iou"][-1] > 0.55


def test_a_box_head_is_saved_with_the_sides_of_its_image() -> None:
    head = BoxHead(width=640, height=480)
    z = np.random.default_rng(0).normal(size=(200, 5)).astype("float32")
    boxes = head(z)
    assert (boxes[:, :2] <= boxes[:, 2:]).numpy().all()
    again = BoxHead.from_config(head.get_config())
    again.build(z.shape)
    again.set_weights(head.get_weights())
    np.testing.assert_array_equal(again(z), boxes)


def test_a_name_that_no_scope_of_tensorflow_can_have_is_refused_at_once() -> None:
    """There it broke every model built later in the process, too."""
    for name, allowed in (("größe", False), ("_size", False), ("size_2", True), ("loss", True)):
        scope = tf.Graph().name_scope(name)
        with nullcontext() if allowed else pytest.raises(ValueError, match="not a valid"), scope:
            pass
        with nullcontext() if allowed else pytest.raises(ValueError, match="Python identifier"):
            Binary(name)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_input_that_is_no_number_is_found_before_training(value: float) -> None:
    model = MultiTaskModel(mlp(6, 4), linear_heads(TASKS))
    model.compile("sgd", task_losses(TASKS))
    good = np.random.default_rng(0).normal(size=(9, 6)).astype("float32")
    targets = {"digit": np.arange(9), "gt5": np.arange(9) % 2}
    model.build(good.shape)
    before, wrong = model.get_weights(), good.copy()
    wrong[7, 3] = value
    match = f"inputs: row 7, column 3 holds {value}"
    with pytest.raises(ValueError, match=match):
        model.fit(wrong, targets, verbose=0)
    with pytest.raises(ValueError, match=match):
        model.fit(good, targets, validation_data=(wrong, targets), verbose=0)
    for ask in (model.evaluate, model.predict):
        with pytest.raises(ValueError, match=match):
            ask(wrong, verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    model.fit(good.astype("float64"), targets, validation_data=(good, targets), verbose=0)
