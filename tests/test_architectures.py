"""PyTorch's architectures and Keras': from equal parameters equal outputs, and equal steps."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from torch import Tensor, nn

from mtl_tutorial import keras as its
from mtl_tutorial import pytorch as ours
from mtl_tutorial.weighting import MGDA, UW, UPGrad, Weighting
from tests.keras.test_architectures import DENSE as ITS_DENSE
from tests.keras.test_architectures import build as its_build
from tests.pytorch.test_architectures import DENSE, TASKS, build, conv, data, extra_loss, tensors
from tests.pytorch.test_architectures import heads as linear

# In the order in which both frameworks are walked through.
PARTS = (
    "trunk", "bottom", "branches", "stages", "shared", "private", "towers", "units", "experts",
    "levels", "gates", "masks", "carries", "embeddings", "modulations", "discriminator", "heads",
)  # fmt: skip


def walk(part: Any) -> Iterator[Any]:
    """Give the layers, and the parameters outside of any, in a part of a model of either framework."""
    if isinstance(part, Mapping | nn.ModuleDict | nn.ParameterDict):
        for own in part.values():
            yield from walk(own)
    elif isinstance(part, list | nn.ModuleList | nn.ParameterList):
        for own in part:
            yield from walk(own)
    elif part is not None:
        yield part


def parameters(model: Any) -> list[Any]:
    """Give the parameters of a model in the order of its parts."""
    found: list[Any] = []
    for name in PARTS:
        for part in walk(getattr(model, name, None)):
            if isinstance(part, nn.Module):
                found += part.parameters()
            elif isinstance(part, keras.Layer):
                found += part.trainable_variables
            else:
                found.append(part)
    return found


def converted(model: nn.Module) -> list[np.ndarray]:
    """Give PyTorch's parameters in the layout of Keras."""
    linear_weights = {m.weight for m in model.modules() if isinstance(m, nn.Linear)}
    arrays = []
    for parameter in parameters(model):
        array = parameter.detach().numpy()
        arrays.append(array.T if parameter in linear_weights else array)
        if array.ndim == 4:
            arrays[-1] = array.transpose(2, 3, 1, 0)
    return arrays


def give(model: nn.Module, other: Any) -> None:
    """Give a model of Keras the parameters of PyTorch's."""
    arrays, variables = converted(model), parameters(other)
    assert [array.shape for array in arrays] == [tuple(v.shape) for v in variables]
    assert len(variables) == len(other.trainable_variables)
    for array, variable in zip(arrays, variables, strict=True):
        variable.assign(array)


def difference_after_steps(
    kind: str,
    weighting: type[Weighting],
    gramian: Literal["parameters", "features"] = "parameters",
    steps: int = 5,
) -> float:
    """Largest difference of a parameter, relative to the furthest that any has moved."""
    model, rule, train = build(kind), weighting(), data(60)
    other = its_build(kind, weighting(), gramian)
    other.build((None, 6))
    give(model, other.wrapped)
    start, optimizer = converted(model), torch.optim.SGD(model.parameters(), 0.05)
    start = [array.copy() for array in start]
    for step in range(steps):
        rows = slice(12 * step, 12 * step + 12)
        part = train.take(rows)
        targets = {name: torch.from_numpy(target) for name, target in part.targets.items()}
        features = model.encode(torch.from_numpy(part.inputs))
        optimizer.zero_grad()
        ours.mtl_backward(
            ours.batch_losses(TASKS, model.decode(features), targets), tensors(features), rule,
            model.shared_parameters(), gramian, extra_loss=extra_loss(model, features, targets),
        )  # fmt: skip
        optimizer.step()
        other.train_on_batch(part.inputs, part.targets)
    found = list(zip(converted(model), parameters(other.wrapped), start, strict=True))
    moved = max(np.abs(array - before).max() for array, _, before in found)
    apart = max(np.abs(array - variable.numpy()).max() for array, variable, _ in found)
    return float(apart / moved)


@pytest.mark.parametrize("kind", DENSE)
def test_five_steps(kind: str) -> None:
    """In float32, with missing labels; penalties and adversaries included."""
    assert difference_after_steps(kind, UW if kind == "SoftSharing" else UPGrad) < 2e-5


@pytest.mark.parametrize("kind", [kind for kind in DENSE if kind != "SoftSharing"])
def test_five_steps_by_the_features(kind: str) -> None:
    """What lies before them is weighted, the gates of single tasks included."""
    assert difference_after_steps(kind, MGDA, "features") < 2e-5


@pytest.mark.parametrize("kind", DENSE)
def test_the_same_tasks_train_the_same_parameters(kind: str) -> None:
    model, other = build(kind), ITS_DENSE[kind]()
    inputs = np.ones((2, 6), "float32")
    other(inputs)
    give(model, other)
    outputs, own = model(torch.from_numpy(inputs)), parameters(model)
    variables = parameters(other)
    with tf.GradientTape(persistent=True) as tape:
        its_outputs = other(inputs)
    for name, output in outputs.items():
        np.testing.assert_allclose(its_outputs[name], output.detach(), rtol=1e-5, atol=1e-6)
        found = torch.autograd.grad(output.sum(), own, retain_graph=True, allow_unused=True)
        its_found = tape.gradient(its_outputs[name], variables)
        assert [g is None for g in its_found] == [g is None for g in found]
    shared, its_shared = set(model.shared_parameters()), {id(v) for v in other.shared_parameters()}
    assert [id(v) in its_shared for v in variables] == [p in shared for p in own]


class Mean(keras.Layer):  # type: ignore[misc]  # Keras has no types
    """A layer after the mean over all places."""

    def __init__(self, layer: keras.Layer) -> None:
        super().__init__()
        self.layer = layer

    def call(self, z: Any) -> Any:
        return self.layer(keras.ops.mean(z, axis=(1, 2)))


class TorchMean(nn.Module):
    """The same for images with the channels first."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, z: Tensor) -> Tensor:
        found: Tensor = self.layer(z.mean(dim=(2, 3)))
        return found


def its_conv(inputs: int, outputs: int) -> keras.Layer:
    layers = keras.layers
    norm = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    return keras.Sequential([layers.Conv2D(outputs, 3, padding="same"), norm, layers.ReLU()])


def convolutional(library: Any) -> dict[str, Any]:
    """Every architecture of convolutions, in either framework."""
    torch_side = library is ours
    block: Any = conv if torch_side else its_conv
    mean: Any = TorchMean if torch_side else Mean
    first, second = partial(block, 2, 3), partial(block, 3, 4)

    def tower() -> Any:
        return (nn.Sequential if torch_side else lambda *s: keras.Sequential(s))(first(), second())

    def dense(inputs: int, outputs: int) -> Any:
        return nn.Linear(inputs, outputs) if torch_side else keras.layers.Dense(outputs)

    def point(inputs: int, outputs: int) -> Any:
        return nn.Conv2d(inputs, outputs, 1) if torch_side else keras.layers.Conv2D(outputs, 1)

    def gate(inputs: int, experts: int) -> Any:
        return mean(dense(inputs, experts))

    def ends(width: int) -> dict[str, Any]:
        heads = linear(width) if torch_side else its.linear_heads(TASKS)
        return {name: mean(head) for name, head in heads.items()}

    lib = library
    return {
        "HardSharing": lib.HardSharing(tower(), ends(4), [(block(4, 4), ["size"])]),
        "SoftSharing": lib.SoftSharing(tower, ends(4), 0.1),
        "CrossStitch": lib.CrossStitch([first, second], ends(4)),
        "MTAN": lib.MTAN(
            [first(), second()], [partial(point, 3, 3), partial(point, 4 + 3, 4)],
            [partial(block, 3, 3)], ends(4),
        ),
        "MMoE": lib.MMoE(tower, partial(gate, 2), ends(4)),
        "PLE": lib.PLE([first, second], [partial(gate, 2), partial(gate, 3)], ends(4)),
        "SharedPrivate": lib.SharedPrivate(tower, ends(8), mean(dense(4, 3))),
        "Modulated": lib.Modulated([first(), second()], [3, 4], ends(4)),
    }  # fmt: skip


def test_convolutional_blocks_give_the_same() -> None:
    """In training, where batch norm reads the batch."""
    torch.manual_seed(0)
    images = np.random.default_rng(0).normal(size=(6, 5, 5, 2)).astype("float32")
    theirs = convolutional(its)
    for kind, model in convolutional(ours).items():
        other = theirs[kind]
        other.build((None, 5, 5, 2))
        give(model, other)
        expected = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        found = other(images, training=True)
        for name, output in expected.items():
            np.testing.assert_allclose(
                found[name], output.detach(), rtol=1e-4, atol=1e-5, err_msg=kind
            )


if __name__ == "__main__":  # the table
    for name in DENSE:
        steps = {rule.__name__: difference_after_steps(name, rule) for rule in (UW, UPGrad)
                 if not (name == "SoftSharing" and rule is UPGrad)}  # fmt: skip
        print(name, steps)
