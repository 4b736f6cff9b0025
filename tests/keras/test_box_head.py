import keras
import numpy as np
import pytest

from mtl_tutorial.keras import BoxHead, MultiTaskModel, linear_heads, task_losses, task_metrics
from mtl_tutorial.tasks import Boxes
from tests.rectangles import rectangles


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
