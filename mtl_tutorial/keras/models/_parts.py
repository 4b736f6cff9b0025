"""What several architectures do alike: call builders, be saved, put side by side what has one shape."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import keras
from keras import ops

from mtl_tutorial.keras.models.hard_sharing import EncodeDecode, quiet_build

Builder = Callable[..., keras.Layer]


@keras.saving.register_keras_serializable("mtl_tutorial")
class Handed:
    """A builder that hands out layers which are there already: what is saved of a builder."""

    def __init__(self, layers: Iterable[keras.Layer]) -> None:
        self.layers = list(layers)
        self.rest = iter(self.layers)

    def __call__(self, *settings: int) -> keras.Layer:
        """Give the next one."""
        return next(self.rest)

    def get_config(self) -> dict[str, Any]:
        """Give the layers, for ``save``."""
        return {"layers": keras.saving.serialize_keras_object(self.layers)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Handed":
        """Build it from :meth:`get_config`, for ``load_model``."""
        return cls(keras.saving.deserialize_keras_object(config["layers"]))


class Architecture(EncodeDecode):
    """A model whose heads read features of their own task, saved as what it would be made of again."""

    heads: Mapping[str, keras.Layer]

    def decode(
        self, features: Any, tasks: Sequence[str] | None = None, training: bool | None = None
    ) -> dict[str, Any]:
        """Give the outputs of the tasks named, of all if none is; the other heads do not run."""
        names = self.heads if tasks is None else tasks
        return {name: self.heads[name](features[name], training=training) for name in names}

    def arguments(self) -> dict[str, Any]:
        """Give the arguments of the constructor, with :class:`Handed` in place of builders."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Give the arguments, for ``save``."""
        config: dict[str, Any] = super().get_config()
        own = self.arguments().items()
        return config | {k: keras.saving.serialize_keras_object(v) for k, v in own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Architecture":
        """Build the model from :meth:`get_config`, for ``load_model``."""
        with quiet_build():
            return cls(**{k: keras.saving.deserialize_keras_object(v) for k, v in config.items()})


def made(name: str, build: Builder, count: int, *settings: int) -> list[keras.Layer]:
    """Call a builder several times; each call must give new layers, or they would be tied."""
    if isinstance(build, keras.Layer) or not callable(build):
        raise TypeError(
            f"{name} is a {type(build).__name__}; give a function that builds layers, new ones at "
            "each call, such as lambda: keras.layers.Dense(4)"
        )
    layers = [build(*settings) for _ in range(count)]
    for number, layer in enumerate(layers, 1):
        if not isinstance(layer, keras.Layer):
            raise TypeError(f"{name} built a {type(layer).__name__}, not a keras.Layer")
        layer.name = f"{name}_{number}"
    inner = [{id(each) for each in layer._flatten_layers()} for layer in layers]
    if any(not one.isdisjoint(other) for one, other in combinations(inner, 2)):
        raise ValueError(f"{name} gave layers that it had given before; build new ones each time")
    return layers


def for_each(
    name: str, builders: Sequence[Builder], heads: Iterable[str]
) -> dict[str, list[keras.Layer]]:
    """Build a list of layers for each task, one layer of each builder."""
    tasks = list(heads)
    columns = [made(name, build, len(tasks)) for build in builders]
    found = {task: [column[k] for column in columns] for k, task in enumerate(tasks)}
    for task, layers in found.items():
        for number, layer in enumerate(layers, 1):
            layer.name = f"{name}_{task}_{number}"
    return found


def handed(parts: Mapping[str, Sequence[keras.Layer]]) -> list[Handed]:
    """Give the builders that :func:`for_each` would call for the same layers."""
    return [Handed(layers) for layers in zip(*parts.values(), strict=True)]


def named(name: str, layers: Sequence[keras.Layer], tasks: Iterable[str]) -> dict[str, keras.Layer]:
    """Give one layer to each task, and the task's name to the layer."""
    found = dict(zip(tasks, layers, strict=True))
    for task, layer in found.items():
        layer.name = f"{name}_{task}"
    return found


def checked(heads: Mapping[str, keras.Layer]) -> dict[str, keras.Layer]:
    """Give the heads; there must be one at least."""
    if not heads:
        raise ValueError("a model needs at least one head")
    return dict(heads)


def stacked(outputs: Mapping[str, Any], axis: int) -> Any:
    """Stack tensors along a new axis, or say which one does not have the shape of the first."""
    (first, one), *others = outputs.items()
    for name, other in others:
        if tuple(other.shape) != tuple(one.shape):
            raise ValueError(
                f"what is mixed must have one shape: {name} gives {tuple(other.shape)}, {first} "
                f"{tuple(one.shape)}"
            )
    return ops.stack(list(outputs.values()), axis)


def joined(outputs: Mapping[str, Any], axis: int) -> Any:
    """Join tensors along their channels, or say which one has other places than the first."""
    shapes = {name: list(output.shape) for name, output in outputs.items()}
    (first, one), *others = shapes.items()
    places = [size for place, size in enumerate(one) if place != axis % len(one)]
    for name, other in others:
        if [size for place, size in enumerate(other) if place != axis % len(other)] != places:
            raise ValueError(
                f"what is joined must differ in its channels only: {name} gives {tuple(other)}, "
                f"{first} {tuple(one)}"
            )
    return ops.concatenate(list(outputs.values()), axis)


def gated(name: str, logits: Any, outputs: Any) -> tuple[Any, Any]:
    """Give the softmax of a gate, (N, E), and the mixture by it of outputs of shape (N, E, ...)."""
    if tuple(logits.shape) != tuple(outputs.shape[:2]):
        raise ValueError(
            f"the gate of {name} gives {tuple(logits.shape)}, not a number for each row and expert, "
            f"{tuple(outputs.shape[:2])}"
        )
    weights = ops.softmax(logits, axis=1)
    return weights, ops.einsum("ne,ne...->n...", weights, outputs)


def along(vector: Any, axis: int, dimensions: int) -> Any:
    """Shape a vector so that it multiplies one axis of a tensor of so many dimensions."""
    shape = [1] * dimensions
    shape[axis] = -1
    return ops.reshape(vector, shape)
