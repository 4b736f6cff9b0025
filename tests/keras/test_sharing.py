from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers

import mtl_tutorial.pytorch
from mtl_tutorial.keras import HardSharing, MultiTaskModel, linear_heads, resnet18, task_blocks
from mtl_tutorial.tasks import Regression

INPUTS = np.ones((1, 4), "float32")
TASKS = [Regression("a"), Regression("b")]


class Mixture(layers.Layer):  # type: ignore[misc]
    """An expert of each task and one in common, with a gate of each."""

    def __init__(self) -> None:
        super().__init__(name="experts")
        self.experts = {name: layers.Dense(3, name=name) for name in ("a", "both", "b")}
        self.gates = {name: self.add_weight(shape=(2,), name=f"gate_{name}") for name in "ab"}

    def call(self, inputs: Any) -> dict[str, Any]:
        both = self.experts["both"](inputs)
        return {
            name: gate[0] * self.experts[name](inputs) + gate[1] * both
            for name, gate in self.gates.items()
        }


class Experts(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.bottom = keras.Sequential([layers.Dense(4)], name="bottom")
        self.mixture = Mixture()
        self.heads = {name: layers.Dense(1, name=f"head_{name}") for name in "ab"}
        self.adversary = layers.Dense(2, name="adversary")

    def encode(self, inputs: Any) -> dict[str, Any]:
        features: dict[str, Any] = self.mixture(self.bottom(inputs))
        self.adversary(features["a"])
        return features

    def decode(self, features: dict[str, Any], tasks: Any = "ab") -> dict[str, Any]:
        return {name: self.heads[name](features[name]) for name in tasks}


def test_blocks_of_experts_with_their_own_and_common_parts() -> None:
    assert task_blocks(Experts(), INPUTS) == {
        "bottom": (20, ("a", "b")),
        "experts.a": (15, ("a",)),
        "experts.both": (15, ("a", "b")),
        "experts.b": (15, ("b",)),
        "experts.gate_a": (2, ("a",)),
        "experts.gate_b": (2, ("b",)),
        "head_a": (4, ("a",)),
        "head_b": (4, ("b",)),
        "adversary": (8, ()),
    }


def test_frozen_trunk_counts_as_in_pytorch_and_nothing_changes() -> None:
    trunk = resnet18(width=8)
    model = MultiTaskModel(trunk, linear_heads(TASKS))
    images = np.zeros((1, 32, 32, 3), "float32")
    model(images)
    trunk.trainable = False
    heads = dict(model.heads)
    heads["a"].bias.trainable = False
    before, trainable = model.get_weights(), [v.path for v in model.trainable_variables]
    found = task_blocks(model, images)
    other = mtl_tutorial.pytorch.HardSharing(
        mtl_tutorial.pytorch.resnet18(width=8), mtl_tutorial.pytorch.linear_heads(TASKS, 64)
    )
    expected = mtl_tutorial.pytorch.task_blocks(other, torch.zeros(1, 3, 32, 32))
    assert list(found.values()) == list(expected.values())
    assert [v.path for v in model.trainable_variables] == trainable
    assert len(trainable) == 3  # the heads' but for the frozen bias
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_layer_used_by_the_trunk_and_a_head_counts_once() -> None:
    first = layers.Dense(4, name="first")
    heads = {
        "a": keras.Sequential([first, layers.Dense(1)], name="a"),
        "b": layers.Dense(1, name="b"),
    }
    model = HardSharing(keras.Sequential([first], name="trunk"), heads)
    assert task_blocks(model, INPUTS) == {
        "trunk": (20, ("a", "b")),
        "a": (5, ("a",)),
        "b": (5, ("b",)),
    }


def test_layers_of_one_name_are_told_apart() -> None:
    heads = {name: layers.Dense(1, name="head") for name in "ab"}
    model = HardSharing(layers.Dense(4, name="trunk"), heads)
    assert task_blocks(model, INPUTS) == {
        "trunk": (20, ("a", "b")),
        "head (1)": (5, ("a",)),
        "head (2)": (5, ("b",)),
    }


def test_functional_model() -> None:
    inputs = keras.Input((4,))
    hidden = layers.Dense(4, name="trunk")(inputs)
    outputs = {name: layers.Dense(1, name=name)(hidden) for name in "ab"}
    assert task_blocks(keras.Model(inputs, outputs), INPUTS) == {
        "trunk": (20, ("a", "b")),
        "a": (5, ("a",)),
        "b": (5, ("b",)),
    }


def test_outputs_must_be_by_task() -> None:
    with pytest.raises(TypeError, match="outputs must be a dict from task name"):
        task_blocks(keras.Sequential([layers.Dense(1)]), INPUTS)


def test_output_that_depends_on_nothing() -> None:
    heads = {"a": layers.Dense(1), "b": layers.Lambda(keras.ops.stop_gradient)}
    with pytest.raises(ValueError, match="output of task 'b' depends on no parameter"):
        task_blocks(HardSharing(layers.Dense(4), heads), INPUTS)
