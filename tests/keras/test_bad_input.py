"""What Keras or TensorFlow would take and fail on later."""

from contextlib import nullcontext

import numpy as np
import pytest
import tensorflow as tf

from mtl_tutorial.keras import MultiTaskModel, linear_heads, mlp, task_losses
from mtl_tutorial.tasks import Binary, Classification

TASKS = [Classification("digit", classes=10), Binary("gt5")]


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
