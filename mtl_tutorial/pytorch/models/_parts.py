"""What several architectures do alike: call builders, and put side by side what has one shape."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

Builder = Callable[..., nn.Module]


class Architecture(nn.Module):
    """A model whose heads read features of their own task; each says its ``encode`` itself."""

    heads: nn.ModuleDict

    def encode(self, inputs: Any) -> Any:
        """Give the features of each task, by its name."""
        raise NotImplementedError

    def decode(self, features: Any, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Give the outputs of the tasks named, of all if none is; the other heads do not run."""
        names = self.heads if tasks is None else tasks
        return {name: self.heads[name](features[name]) for name in names}

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        """Give the outputs of every head, by task name."""
        return self.decode(self.encode(inputs))


def made(name: str, build: Builder, count: int, *settings: int) -> list[nn.Module]:
    """Call a builder several times; each call must give new layers, or they would be tied."""
    if isinstance(build, nn.Module) or not callable(build):
        raise TypeError(
            f"{name} is a {type(build).__name__}; give a function that builds layers, new ones at "
            "each call, such as lambda: nn.Linear(8, 4)"
        )
    layers = [build(*settings) for _ in range(count)]
    for layer in layers:
        if not isinstance(layer, nn.Module):
            raise TypeError(f"{name} built a {type(layer).__name__}, not a torch.nn.Module")
    for one, other in combinations(layers, 2):
        if not set(one.parameters()).isdisjoint(other.parameters()) or one is other:
            raise ValueError(
                f"{name} gave layers that it had given before; build new ones each time"
            )
    return layers


def for_each(name: str, builders: Sequence[Builder], heads: Iterable[str]) -> Any:
    """Build a ModuleList for each task in a ModuleDict: one layer of each builder."""
    names = list(heads)
    columns = [made(name, build, len(names)) for build in builders]
    return nn.ModuleDict(
        {task: nn.ModuleList(c[k] for c in columns) for k, task in enumerate(names)}
    )


def checked(heads: Mapping[str, nn.Module]) -> nn.ModuleDict:
    """Give the heads as a module; there must be one at least."""
    if not heads:
        raise ValueError("a model needs at least one head")
    return nn.ModuleDict(heads)


def stacked(outputs: Mapping[str, Tensor], dim: int) -> Tensor:
    """Stack tensors along a new axis, or say which one does not have the shape of the first."""
    (first, one), *others = outputs.items()
    for name, other in others:
        if other.shape != one.shape:
            raise ValueError(
                f"what is mixed must have one shape: {name} gives {tuple(other.shape)}, {first} "
                f"{tuple(one.shape)}"
            )
    return torch.stack(list(outputs.values()), dim)


def joined(outputs: Mapping[str, Tensor], axis: int) -> Tensor:
    """Join tensors along their channels, or say which one has other places than the first."""
    (first, one), *others = outputs.items()
    for name, other in others:
        if (
            other.dim() != one.dim()
            or other.narrow(axis, 0, 0).shape != one.narrow(axis, 0, 0).shape
        ):
            raise ValueError(
                f"what is joined must differ in its channels only: {name} gives "
                f"{tuple(other.shape)}, {first} {tuple(one.shape)}"
            )
    return torch.cat(list(outputs.values()), dim=axis)


def gated(name: str, logits: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Give the softmax of a gate, (N, E), and the mixture by it of outputs of shape (N, E, ...)."""
    if logits.shape != outputs.shape[:2]:
        raise ValueError(
            f"the gate of {name} gives {tuple(logits.shape)}, not a number for each row and expert, "
            f"{tuple(outputs.shape[:2])}"
        )
    weights = logits.softmax(dim=1)
    return weights, torch.einsum("ne,ne...->n...", weights, outputs)


def along(vector: Tensor, axis: int, dimensions: int) -> Tensor:
    """Shape a vector so that it multiplies one axis of a tensor of so many dimensions."""
    shape = [1] * dimensions
    shape[axis] = -1
    return vector.reshape(shape)
