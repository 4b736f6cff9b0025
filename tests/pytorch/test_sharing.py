from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_tutorial.pytorch import HardSharing, resnet18, task_blocks

INPUTS = torch.ones(1, 4)


class Experts(nn.Module):
    """Two tasks, an expert of each and one in common, an adversary, a head that reads the bottom."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom = nn.Linear(4, 4)
        self.experts = nn.ModuleDict({name: nn.Linear(4, 3) for name in ("a", "both", "b")})
        self.gates = nn.ParameterDict({name: nn.Parameter(torch.zeros(2)) for name in "ab"})
        self.heads = nn.ModuleDict({name: nn.Linear(3, 1) for name in "ab"})
        self.adversary = nn.Linear(3, 2)

    def encode(self, inputs: Tensor) -> dict[str, Tensor]:
        hidden = self.bottom(inputs).relu()
        both = self.experts["both"](hidden)
        mixed = {
            name: torch.stack([self.experts[name](hidden), both], -1) @ self.gates[name].softmax(0)
            for name in "ab"
        }
        self.adversary(both.detach())
        return mixed

    def decode(self, features: dict[str, Tensor], tasks: Sequence[str] = "ab") -> dict[str, Tensor]:
        return {name: self.heads[name](features[name]) for name in tasks}


def test_blocks_of_experts_with_their_own_and_common_parts() -> None:
    assert task_blocks(Experts(), INPUTS) == {
        "bottom": (20, ("a", "b")),
        "experts.a": (15, ("a",)),
        "experts.both": (15, ("a", "b")),
        "experts.b": (15, ("b",)),
        "gates.a": (2, ("a",)),
        "gates.b": (2, ("b",)),
        "heads.a": (4, ("a",)),
        "heads.b": (4, ("b",)),
        "adversary": (8, ()),
    }


def test_tasks_are_those_that_a_change_of_the_parameter_moves() -> None:
    """By brute force: shift each parameter, look which outputs are no longer the same."""
    torch.manual_seed(0)
    model = Experts()
    inputs = torch.randn(16, 4)
    found = task_blocks(model, inputs)
    before = model.decode(model.encode(inputs))
    moved: dict[str, set[str]] = {block: set() for block in found}
    for name, parameter in model.named_parameters():
        (block,) = (block for block in found if f"{name}.".startswith(f"{block}."))
        with torch.no_grad():
            change = torch.linspace(0.5, 1, parameter.numel()).reshape(parameter.shape)
            parameter.add_(change)
            after = model.decode(model.encode(inputs))
            parameter.sub_(change)
        moved[block] |= {task for task in before if not torch.allclose(before[task], after[task])}
    assert moved == {block: set(tasks) for block, (_, tasks) in found.items()}


def test_frozen_trunk_counts_and_nothing_changes() -> None:
    trunk: Any = resnet18(width=8)
    trunk.requires_grad_(False)
    model = HardSharing(trunk, {name: nn.Linear(64, 1) for name in "ab"})
    trunk.bn1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        found = task_blocks(model, torch.zeros(1, 3, 32, 32))
    assert found == {
        "trunk": (sum(p.numel() for p in trunk.parameters()), ("a", "b")),
        "heads.a": (65, ("a",)),
        "heads.b": (65, ("b",)),
    }
    assert not any(p.requires_grad for p in trunk.parameters())
    assert model.training
    assert trunk.layer1.training
    assert not trunk.bn1.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_tied_parameter_counts_once() -> None:
    trunk, heads = nn.Linear(4, 4), {name: nn.Linear(4, 4) for name in "ab"}
    heads["a"].weight = trunk.weight
    assert task_blocks(HardSharing(trunk, heads), INPUTS) == {
        "trunk": (20, ("a", "b")),
        "heads.a": (4, ("a",)),
        "heads.b": (20, ("b",)),
    }


def test_a_wrapper_has_no_part_in_the_names() -> None:
    model = HardSharing(nn.Linear(4, 4), {name: nn.Linear(4, 1) for name in "ab"})
    wrapped = nn.ModuleDict({"module": model})
    wrapped.forward = model.forward
    assert task_blocks(wrapped, INPUTS) == task_blocks(model, INPUTS)


def test_a_single_task_has_two_blocks() -> None:
    model = HardSharing(nn.Linear(4, 4), {"a": nn.Linear(4, 1)})
    assert task_blocks(model, INPUTS) == {"trunk": (20, ("a",)), "heads": (5, ("a",))}


def test_outputs_must_be_by_task() -> None:
    with pytest.raises(TypeError, match="outputs must be a dict from task name to tensor"):
        task_blocks(nn.Linear(4, 4), INPUTS)


def test_output_that_depends_on_nothing() -> None:
    class Constant(HardSharing):
        def forward(self, inputs: Tensor) -> dict[str, Tensor]:
            return super().forward(inputs) | {"b": torch.zeros(1, 1)}

        def decode(self, features: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
            return {"a": self.heads["a"](features), "b": torch.zeros(1, 1)}

        def encode(self, inputs: Tensor) -> Tensor:
            features: Tensor = self.trunk(inputs)
            return features

    with pytest.raises(ValueError, match="output of task 'b' depends on no parameter"):
        task_blocks(Constant(nn.Linear(4, 4), {"a": nn.Linear(4, 1)}), INPUTS)
