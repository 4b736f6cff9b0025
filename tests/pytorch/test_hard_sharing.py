import pytest
import torch
from torch import nn

from mtl_tutorial.pytorch import HardSharing, linear_heads, mlp
from mtl_tutorial.tasks import Binary, Classification

TASKS = [Classification("digit", classes=10), Binary("gt5")]


def test_mlp_is_affine_then_relu() -> None:
    torch.manual_seed(0)
    trunk, images = mlp(12, 7, 5), torch.randn(6, 3, 4)
    w1, b1, w2, b2 = trunk.parameters()
    hidden = (images.reshape(6, 12) @ w1.T + b1).clamp(min=0)
    torch.testing.assert_close(trunk(images), (hidden @ w2.T + b2).clamp(min=0))


@pytest.mark.parametrize("widths", [(), (784,)])
def test_mlp_needs_two_widths(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least one width"):
        mlp(*widths)


def test_linear_heads_keep_the_order_of_the_tasks() -> None:
    heads = linear_heads(TASKS[::-1], features=4)
    assert list(heads) == ["gt5", "digit"]
    assert [heads[task.name].weight.shape for task in TASKS] == [(10, 4), (1, 4)]


def test_linear_heads_need_distinct_tasks() -> None:
    with pytest.raises(ValueError, match="two tasks are named 'gt5'"):
        linear_heads([Binary("gt5"), Binary("gt5")], features=4)


def test_outputs_are_heads_after_trunk() -> None:
    torch.manual_seed(0)
    model, inputs = HardSharing(mlp(6, 4), linear_heads(TASKS, features=4)), torch.randn(5, 6)
    outputs = model(inputs)
    assert list(outputs) == ["digit", "gt5"]
    for name, output in outputs.items():
        assert torch.equal(output, model.heads[name](model.trunk(inputs)))


def test_every_parameter_is_found_once() -> None:
    trunk, heads = mlp(6, 4), linear_heads(TASKS, features=4)
    model = HardSharing(trunk, heads)
    parts = [*trunk.parameters(), *heads["digit"].parameters(), *heads["gt5"].parameters()]
    assert [id(p) for p in model.parameters()] == [id(p) for p in parts]
    assert set(model.state_dict()) == {
        *(f"trunk.1.{kind}" for kind in ("weight", "bias")),
        *(f"heads.{name}.{kind}" for name in ("digit", "gt5") for kind in ("weight", "bias")),
    }


def test_a_model_needs_a_head() -> None:
    with pytest.raises(ValueError, match="at least one head"):
        HardSharing(nn.Identity(), {})
