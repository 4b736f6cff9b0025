from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtl_tutorial.keras import HardSharing, MultiTaskModel, linear_heads, mlp
from mtl_tutorial.tasks import Binary, Classification

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


class Block(keras.Layer):  # type: ignore[misc]  # Keras has no types
    """Of a user's own: sublayers, and no ``build()``."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.wide, self.norm = keras.layers.Dense(units), keras.layers.BatchNormalization()
        self.dropout = keras.layers.Dropout(0.5)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        hidden = self.norm(self.wide(inputs), training=training)
        return self.dropout(keras.ops.relu(hidden), training=training)

    def get_config(self) -> dict[str, Any]:
        return dict(super().get_config()) | {"units": self.units}


class Reader(Block):
    """Takes integers alone."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return super().call(tf.reduce_sum(tf.one_hot(inputs, 5), axis=1), training)


class Model(keras.Model):  # type: ignore[misc]  # Keras has no types
    """A head that is a model of a user's own."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.block, self.last = Block(units), keras.layers.Dense(units)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.last(self.block(inputs, training=training))

    def get_config(self) -> dict[str, Any]:
        return dict(super().get_config()) | {"units": self.units}


def functional(units: int) -> keras.Model:
    inputs = keras.Input((7,))
    return keras.Model(inputs, Block(units)(inputs))


OWN = {"Block": Block, "Reader": Reader, "Model": Model}


@pytest.mark.parametrize("kind", [HardSharing, MultiTaskModel])
@pytest.mark.parametrize("trunk", [Block, Reader], ids=["numbers", "integers"])
def test_layers_without_build_predict_the_same_after_loading(
    trunk: type[Block], kind: type[HardSharing], tmp_path: Path
) -> None:
    heads = {"layer": Block(3), "model": Model(2), "functional": functional(4)}
    model = kind(trunk(7), heads)
    inputs = np.random.default_rng(0).integers(0, 5, (6, 5))
    if trunk is Block:
        inputs = inputs.astype("float32")
    shape = model(inputs)["model"].shape
    for weight in model.weights:
        weight.assign(weight + 0.1)  # not what a new layer starts with
    expected = model.predict(inputs, verbose=0)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    with keras.saving.custom_object_scope(OWN):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        twin = kind.from_config(model.get_config())
    twin(inputs)
    twin.load_weights(tmp_path / "model.weights.h5")
    for found in (loaded, twin):
        assert len(found.weights) == len(model.weights)
        for name, output in found.predict(inputs, verbose=0).items():
            np.testing.assert_array_equal(output, expected[name])
    assert shape == (6, 2)


def test_build_complains_of_the_shape() -> None:
    """In the words of the layer that does not take it."""
    model = HardSharing(
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), {"a": Block(2)}
    )
    with pytest.raises(ValueError, match="expected"):
        model.build((None, 5))
