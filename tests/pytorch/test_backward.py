import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pytest
import torch
import torchjd.aggregation
import torchjd.autojac
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from mtl_tutorial.pytorch import mtl_backward
from mtl_tutorial.weighting import FAMO, Equal, GradNorm, Static, UPGrad, Weighting

Where = Literal["parameters", "features"]
each_gramian = pytest.mark.parametrize("gramian", ["parameters", "features"])


@dataclass(eq=False)
class Fixed(Weighting):
    """Fixed weights for the shared parameters only; keeps what it was given."""

    needs_gramian: ClassVar[bool] = True
    values: Sequence[float]
    seen: list[np.ndarray] = field(default_factory=list)

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        assert gramian is not None
        self.seen += [losses, gramian]
        return np.asarray(self.values, dtype=float)[self.present]


class Surgery(Weighting):
    """PCGrad for two tasks: cut from each gradient what goes against the other one."""

    needs_gramian: ClassVar[bool] = True

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        assert gramian is not None
        return np.asarray(1 + max(0.0, -gramian[0, 1]) / np.diagonal(gramian))


class Inverse(Weighting):
    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        return 1 / losses


class Net:
    """A trunk of two layers, three heads of different form, and losses of different size."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.trunk = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4))
        self.heads = nn.ModuleDict(
            {
                "a": nn.Linear(4, 1),
                "b": nn.Sequential(nn.Linear(4, 3), nn.Tanh()),
                "c": nn.Linear(4, 2, bias=False),
            }
        )
        self.inputs = torch.randn(7, 5, dtype=torch.float64)
        for part in (self.trunk, self.heads):
            part.double()

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [*self.trunk.parameters(), *self.heads.parameters()]

    def forward(self, names: Iterable[str] = "abc") -> tuple[dict[str, Tensor | None], Tensor]:
        """Give each task's loss, None for the tasks not named, and the features."""
        features = self.trunk(self.inputs)
        losses: dict[str, Tensor | None] = dict.fromkeys("abc")
        for scale, name in enumerate("abc", start=1):
            if name in names:
                losses[name] = (self.heads[name](features) - scale).square().mean() * scale
        return losses, features

    def gradients(self, name: str, parameters: Iterable[nn.Parameter]) -> list[Tensor]:
        """Give one task's gradients by plain autograd, on a graph of its own."""
        loss = self.forward(name)[0][name]
        assert loss is not None
        found = torch.autograd.grad(
            loss, list(parameters), allow_unused=True, materialize_grads=True
        )
        return list(found)

    def jacobian(self) -> Tensor:
        rows = [self.gradients(name, self.trunk.parameters()) for name in "abc"]
        return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


def grads(parameters: Iterable[nn.Parameter]) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in parameters]


def assert_close(parameters: Iterable[nn.Parameter], expected: Iterable[Tensor]) -> None:
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [0.5, 2.0, 0.25], [0.0, 1.0, -3.0]])
def test_loss_based_is_backward_of_the_weighted_sum(values: list[float]) -> None:
    net, plain = Net(), Net()
    losses, features = net.forward()
    weighting = Equal() if values == [1, 1, 1] else Static(values)
    weights = mtl_backward(losses, features, weighting)
    by_name, _ = plain.forward()
    weighted = [w * by_name[name] for w, name in zip(values, "abc", strict=True)]  # type: ignore[operator]
    torch.autograd.backward(sum(weighted))  # type: ignore[arg-type]
    assert weights.tolist() == values
    assert_close(net.parameters, [p.grad for p in plain.parameters if p.grad is not None])


def test_loss_based_reads_the_losses_and_does_not_differentiate_the_weights() -> None:
    net, plain = Net(), Net()
    losses, features = net.forward()
    weights = mtl_backward(losses, features, Inverse())
    by_name, _ = plain.forward()
    logs = [loss.log() for loss in by_name.values() if loss is not None]
    torch.autograd.backward(logs)
    assert weights == pytest.approx(
        [1 / loss.item() for loss in losses.values() if loss is not None]
    )
    assert_close(net.parameters, [p.grad for p in plain.parameters if p.grad is not None])


def test_gramian_of_the_parameters_is_exact() -> None:
    net, fixed = Net(), Fixed([1, 1, 1])
    losses, features = net.forward()
    mtl_backward(losses, features, fixed, net.trunk.parameters())
    jacobian = net.jacobian()
    assert fixed.seen[0] == pytest.approx(
        [loss.item() for loss in losses.values() if loss is not None]
    )
    assert fixed.seen[1] == pytest.approx((jacobian @ jacobian.T).numpy())


def test_gramian_of_the_features_is_that_of_the_cotangents() -> None:
    net, fixed = Net(), Fixed([1, 1, 1])
    losses, features = net.forward()
    present = [loss for loss in losses.values() if loss is not None]
    rows = torch.stack(
        [torch.autograd.grad(loss, features, retain_graph=True)[0].flatten() for loss in present]
    )
    mtl_backward(losses, features, fixed, gramian="features")
    assert fixed.seen[1] == pytest.approx((rows @ rows.T).numpy())


@each_gramian
def test_trunk_gets_the_weighted_sum_and_heads_their_own(gramian: Where) -> None:
    net, values = Net(), [0.5, -2.0, 3.0]
    losses, features = net.forward()
    weights = mtl_backward(losses, features, Fixed(values), net.trunk.parameters(), gramian)
    assert weights.tolist() == values
    rows = [net.gradients(name, net.trunk.parameters()) for name in "abc"]
    assert_close(
        net.trunk.parameters(),
        [
            sum(w * g for w, g in zip(values, column, strict=True))
            for column in zip(*rows, strict=True)
        ],
    )
    for name in "abc":
        head = net.heads[name]
        assert_close(head.parameters(), net.gradients(name, head.parameters()))


WAYS: dict[str, Callable[[], Weighting]] = {
    "Equal": Equal,
    "Static": lambda: Static([0.5, 2.0, 0.25]),
    "Fixed": lambda: Fixed([0.5, 2.0, 0.25]),
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@each_way
@each_gramian
def test_two_micro_batches_accumulate(way: Callable[[], Weighting], gramian: Where) -> None:
    net = Net()
    single = []
    for _ in range(2):
        losses, features = net.forward()
        mtl_backward(losses, features, way(), net.trunk.parameters(), gramian)
        single.append(grads(net.parameters))
    for once, twice in zip(*single, strict=True):
        assert once is not None
        torch.testing.assert_close(twice, 2 * once)


@each_gramian
def test_gradients_are_nobody_elses_memory(gramian: Where) -> None:
    """Autograd gives p + q one tensor for both, and a sum's gradient without memory of its own."""
    trunk, p, q = nn.Linear(2, 2), nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    for count in (1, 2, 3):
        features = trunk(torch.ones(1, 2))
        losses = {"a": (features + (p + q)).sum(), "b": features.square().sum()}
        mtl_backward(losses, features, Fixed([1, 1]), trunk.parameters(), gramian)
        assert_close([p, q], [torch.full((2,), float(count))] * 2)


@each_way
@each_gramian
def test_absent_task_leaves_its_head_alone(way: Callable[[], Weighting], gramian: Where) -> None:
    net, weighting = Net(), way()
    losses, features = net.forward("ac")
    weights = mtl_backward(losses, features, weighting, net.trunk.parameters(), gramian)
    values = [0.5, 0, 0.25] if not isinstance(weighting, Equal) else [1, 0, 1]
    assert weights.tolist() == values
    assert grads(net.heads["b"].parameters()) == [None, None]
    rows = [net.gradients(name, net.trunk.parameters()) for name in "ac"]
    assert_close(
        net.trunk.parameters(),
        [values[0] * a + values[2] * c for a, c in zip(*rows, strict=True)],
    )
    if isinstance(weighting, Fixed) and gramian == "parameters":
        jacobian = net.jacobian()[[0, 2]]
        assert weighting.seen[1] == pytest.approx((jacobian @ jacobian.T).numpy())


@each_way
@each_gramian
def test_all_tasks_absent(way: Callable[[], Weighting], gramian: Where) -> None:
    net = Net()
    losses, features = net.forward("")
    weights = mtl_backward(losses, features, way(), net.trunk.parameters(), gramian)
    assert weights.tolist() == [0, 0, 0]
    assert all(gradient is None for gradient in grads(net.parameters))


def test_step_without_any_task_may_be_observed() -> None:
    """As every other step of a loop: a method with a memory hears that there was none."""
    net, weighting = Net(), FAMO()
    mtl_backward(*net.forward(""), weighting)
    weighting.observe([0.0, 0.0, 0.0])
    assert weighting.logits.size == 0


@pytest.mark.parametrize("weighting", [Inverse(), Fixed([1, 1, 1])], ids=["losses", "gramian"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@each_gramian
def test_bad_loss_names_the_task_and_touches_no_gradient(
    gramian: Where, bad: float, weighting: Weighting
) -> None:
    net = Net()
    losses, features = net.forward()
    mtl_backward(losses, features, Equal())
    before = grads(net.parameters)
    losses, features = net.forward()
    assert losses["b"] is not None
    losses["b"] = losses["b"] * bad
    with pytest.raises(ValueError, match=r"loss of task 1 \('b'\) is (nan|inf)"):
        mtl_backward(losses, features, weighting, net.trunk.parameters(), gramian)
    assert all(map(torch.equal, before, grads(net.parameters)))  # type: ignore[arg-type]


@each_gramian
def test_bad_gradient_of_a_good_loss_names_the_task(gramian: Where) -> None:
    net = Net()
    losses, features = net.forward()
    losses["c"] = (features * 0).sum().sqrt()  # 0, with slope 0 * inf
    with pytest.raises(ValueError, match=r"squared gradient norm of task 2 \('c'\) is nan"):
        mtl_backward(losses, features, Fixed([1, 1, 1]), net.trunk.parameters(), gramian)
    assert all(gradient is None for gradient in grads(net.parameters))


@each_way
def test_loss_must_be_a_scalar(way: Callable[[], Weighting]) -> None:
    net = Net()
    losses, features = net.forward()
    losses["b"] = net.heads["b"](features).square().mean(dim=1)
    with pytest.raises(ValueError, match=r"loss of 'b' has shape \(7,\)"):
        mtl_backward(losses, features, way(), net.trunk.parameters())
    assert all(gradient is None for gradient in grads(net.parameters))


@each_gramian
def test_loss_must_depend_on_the_features(gramian: Where) -> None:
    net = Net()
    losses, features = net.forward()
    losses["c"] = net.heads.get_parameter("c.weight").square().sum()
    with pytest.raises(ValueError, match="loss of 'c' does not depend on the features"):
        mtl_backward(losses, features, Fixed([1, 1, 1]), net.trunk.parameters(), gramian)
    assert all(gradient is None for gradient in grads(net.parameters))


class Handed(NamedTuple):
    """One wrong argument, and what is said of it."""

    says: str
    error: type[Exception]
    arguments: dict[str, Any]


WRONG = {
    "losses in a list": Handed("losses is a dict from task name to loss.* got a list",
                               TypeError, {"losses": [torch.zeros(())]}),
    "a loss as a number": Handed("loss of 'a' is a float, not a tensor",
                                 TypeError, {"losses": {"a": 0.5}}),
    "features in a dict": Handed(r"of a dict give list\(features.values\(\)\)",
                                 TypeError, {"features": {"z": torch.zeros(1)}}),
    "features of something else": Handed("features holds a str", TypeError, {"features": ["z"]}),
    "no features": Handed("no features", ValueError, {"features": []}),
    "None at the features": Handed("no features", ValueError,
                                   {"features": None, "gramian": "features"}),
    "a class": Handed(r"the class UPGrad; give an instance of it: UPGrad\(...\)",
                      TypeError, {"weighting": UPGrad}),
    "a number as weighting": Handed("weighting is a Weighting.* got a float",
                                    TypeError, {"weighting": 0.5}),
    "named parameters": Handed("shared_parameters holds a tuple",
                               TypeError, {"shared_parameters": nn.Linear(2, 1).named_parameters()}),
    "a computed parameter": Handed(r"shared parameter 0, of shape \(1, 2\), is computed", ValueError,
                                   {"shared_parameters": [nn.Linear(2, 1).weight * 2]}),
    "parameters of something else": Handed("no loss depends on any of the shared_parameters",
                                           ValueError, {"shared_parameters": nn.Linear(2, 1).parameters()}),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_argument_is_named(name: str) -> None:
    net = Net()
    losses, features = net.forward()
    right: dict[str, Any] = {"losses": losses, "features": features, "weighting": Fixed([1, 1, 1]),
             "shared_parameters": net.trunk.parameters()}  # fmt: skip
    with pytest.raises(WRONG[name].error, match=WRONG[name].says):
        mtl_backward(**right | WRONG[name].arguments)
    assert all(gradient is None for gradient in grads(net.parameters))


@pytest.mark.parametrize("weighting", [Equal(), Inverse(), Fixed([1, 1, 1])])
def test_constant_loss_names_the_task(weighting: Weighting) -> None:
    net = Net()
    losses, features = net.forward()
    losses["b"] = torch.zeros((), dtype=torch.float64)
    with pytest.raises(ValueError, match=r"loss of 'b' is a constant.* give None"):
        mtl_backward(losses, features, weighting, net.trunk.parameters())
    assert all(gradient is None for gradient in grads(net.parameters))


def test_hidden_parameters_are_refused() -> None:
    net = Net()
    z = checkpoint(net.trunk, net.inputs.requires_grad_(), use_reentrant=True)
    losses = {name: net.heads[name](z).square().mean() for name in "abc"}
    with pytest.raises(ValueError, match="use_reentrant=False"):
        mtl_backward(losses, z, Fixed([1, 1, 1]), net.trunk.parameters())
    assert all(gradient is None for gradient in grads(net.parameters))


def test_unknown_gramian() -> None:
    net = Net()
    with pytest.raises(ValueError, match="'parameters' or 'features'; got 'weights'"):
        mtl_backward(*net.forward(), Equal(), gramian="weights")  # type: ignore[arg-type]


def test_exact_gramian_needs_shared_parameters() -> None:
    net = Net()
    with pytest.raises(ValueError, match="needs shared_parameters"):
        mtl_backward(*net.forward(), Fixed([1, 1, 1]))


@each_gramian
def test_frozen_trunk_has_nothing_to_weigh(gramian: Where) -> None:
    net = Net()
    net.trunk.requires_grad_(False)
    with pytest.raises(ValueError, match="trunk is frozen"):
        mtl_backward(*net.forward(), Fixed([1, 1, 1]), net.trunk.parameters(), gramian)


def test_frozen_trunk_with_weighted_losses_trains_the_heads() -> None:
    net = Net()
    net.trunk.requires_grad_(False)
    mtl_backward(*net.forward(), Static([1.0, 2.0, 3.0]))
    assert grads(net.trunk.parameters()) == [None] * 4
    for weight, name in enumerate("abc", start=1):
        head = net.heads[name]
        expected = [weight * g for g in net.gradients(name, head.parameters())]
        assert_close(head.parameters(), expected)


@each_gramian
def test_frozen_layer_is_left_alone(gramian: Where) -> None:
    net, fixed = Net(), Fixed([1, 2, 3])
    first, _, last = net.trunk
    first.requires_grad_(False)
    mtl_backward(*net.forward(), fixed, net.trunk.parameters(), gramian)
    rows = [net.gradients(name, last.parameters()) for name in "abc"]
    assert grads(first.parameters()) == [None, None]
    assert_close(last.parameters(), [a + 2 * b + 3 * c for a, b, c in zip(*rows, strict=True)])


@each_gramian
def test_shared_parameter_that_plays_no_part(gramian: Where) -> None:
    net, fixed = Net(), Fixed([1, 1, 1])
    idle = nn.Parameter(torch.ones(3, dtype=torch.float64))
    mtl_backward(*net.forward(), fixed, [*net.trunk.parameters(), idle], gramian)
    assert idle.grad is None or idle.grad.count_nonzero() == 0
    if gramian == "parameters":
        jacobian = net.jacobian()
        assert fixed.seen[1] == pytest.approx((jacobian @ jacobian.T).numpy())


@each_gramian
def test_heads_that_share_a_parameter_sum_their_gradients(gramian: Where) -> None:
    net = Net()
    net.heads["a"] = net.heads["c"]  # both tasks read one module
    mtl_backward(*net.forward(), Fixed([0.5, 2, 3]), net.trunk.parameters(), gramian)
    parameters = list(net.heads["c"].parameters())
    pair = [net.gradients(name, parameters) for name in "ac"]
    assert_close(parameters, [a + c for a, c in zip(*pair, strict=True)])
    for parameter in net.heads["b"].parameters():
        assert parameter.grad is not None


@each_way
@each_gramian
def test_one_tensor_as_two_losses_counts_twice(
    way: Callable[[], Weighting], gramian: Where
) -> None:
    net = Net()
    losses, features = net.forward()
    losses["b"] = losses["a"]
    weights = mtl_backward(losses, features, way(), net.trunk.parameters(), gramian)
    a, c = (net.gradients(name, net.trunk.parameters()) for name in "ac")
    expected = [(weights[0] + weights[1]) * x + weights[2] * y for x, y in zip(a, c, strict=True)]
    assert_close(net.trunk.parameters(), expected)


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_torchjd(seed: int) -> None:
    """The same rule in the reference implementation: PCGrad, two tasks, with and without conflict."""
    net, reference = Net(seed), Net(seed)
    (losses, features), (other, its_features) = net.forward(), reference.forward()
    mtl_backward({name: losses[name] for name in "ab"}, features, Surgery(), net.trunk.parameters())
    pair = [loss for loss in (other["a"], other["b"]) if loss is not None]
    torchjd.autojac.mtl_backward(pair, features=its_features)
    torchjd.autojac.jac_to_grad(reference.trunk.parameters(), torchjd.aggregation.PCGrad())
    heads = [
        [*each.heads["a"].parameters(), *each.heads["b"].parameters()] for each in (net, reference)
    ]
    for ours, theirs in ((net.trunk.parameters(), reference.trunk.parameters()), heads):
        assert_close(ours, [p.grad for p in theirs if p.grad is not None])


def test_gradnorm_reads_the_gramian_and_weights_the_heads_too() -> None:
    torch.manual_seed(0)
    trunk, heads = nn.Linear(3, 4), {"a": nn.Linear(4, 1), "b": nn.Linear(4, 1)}
    x, weighting = torch.randn(5, 3), GradNorm(lr=0.1)

    def losses(features: torch.Tensor) -> dict[str, torch.Tensor | None]:
        return {name: scale * heads[name](features).square().mean()
                for name, scale in (("a", 1.0), ("b", 9.0))}  # fmt: skip

    features = trunk(x)
    mtl_backward(losses(features), features, weighting, trunk.parameters())
    for module in (trunk, *heads.values()):
        module.zero_grad()
    features = trunk(x)
    weights = mtl_backward(losses(features), features, weighting, trunk.parameters())
    assert weights[0] > 1 > weights[1]
    found = [p.grad for m in (trunk, *heads.values()) for p in m.parameters()]
    again = losses(trunk(x))
    parameters = [p for m in (trunk, *heads.values()) for p in m.parameters()]
    total = sum(
        w * loss for w, loss in zip(weights, again.values(), strict=True) if loss is not None
    )
    assert isinstance(total, torch.Tensor)
    expected = torch.autograd.grad(total, parameters)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine is not None
        torch.testing.assert_close(mine, theirs)


# ------------------------------------------------------------- trunks, and how their rows are had


class TwiceUsed(nn.Module):
    """One weight in two places, and a weight that is not a layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)
        self.plain = nn.Parameter(torch.randn(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layer(self.layer(x).tanh()).tanh()
        return torch.addmm(self.layer.bias[:3], hidden, self.plain, beta=2, alpha=0.5)


class Scaled(nn.Module):
    """A linear layer with factors, and one bias for all outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(1))
        self.other = nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.addmm(self.bias, x, self.weight.t())
        found: Tensor = torch.addmm(self.bias, hidden, self.other.t(), alpha=0.5)
        return found


class LastState(nn.Module):
    """Words to the last state of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(9, 4), nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.lstm(self.embedding(x))[0]
        return states[:, -1]


TRUNKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "wide": (lambda: nn.Sequential(nn.Linear(5, 60), nn.ReLU(), nn.Linear(60, 50), nn.Tanh()),
             lambda: torch.randn(7, 5)),
    "no bias": (lambda: nn.Linear(5, 3, bias=False), lambda: torch.randn(7, 5)),
    "sequence": (lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)),
                 lambda: torch.randn(7, 2, 5)),
    "twice used": (TwiceUsed, lambda: torch.randn(7, 5)),
    "scaled": (Scaled, lambda: torch.randn(7, 5)),
    "norms": (lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.LayerNorm(4)),
              lambda: torch.randn(7, 5)),
    "convolution": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2),
                                          nn.Flatten(), nn.Linear(12, 3)),
                    lambda: torch.randn(7, 2, 6, 6)),
    "lstm": (LastState, lambda: torch.randint(9, (7, 5))),
}  # fmt: skip


@pytest.mark.parametrize("name", TRUNKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_trunk(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    make, draw = TRUNKS[name]
    trunk, x = make().to(dtype), draw()
    x = x.to(dtype) if x.is_floating_point() else x

    def losses(features: Tensor) -> dict[str, Tensor | None]:
        return {
            "a": features.square().mean(),
            "b": 10 * (features - 1).abs().mean(),
            "c": features.flatten(1)[:, 0].sum(),
        }

    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(trunk.parameters()))])
        for loss in (losses(trunk(x))[task] for task in "abc")
        if loss is not None
    ]
    jacobian, fixed = torch.stack(rows), Fixed([0.5, -2, 3])
    features = trunk(x)
    mtl_backward(losses(features), features, fixed, trunk.parameters())
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    scale = jacobian.square().sum(dim=1).max().item()
    np.testing.assert_allclose(
        fixed.seen[1], (jacobian @ jacobian.T).numpy(), atol=tolerance * scale
    )
    found = torch.cat([p.grad.flatten() for p in trunk.parameters() if p.grad is not None])
    expected = torch.tensor([0.5, -2, 3], dtype=dtype) @ jacobian
    np.testing.assert_allclose(found, expected, atol=tolerance * scale**0.5)


def test_examples_that_cancel_keep_the_gramian_exact() -> None:
    """Near a minimum the examples' gradients are large and their sum is small."""
    torch.manual_seed(0)
    trunk, x = nn.Linear(300, 200, bias=False), torch.randn(8, 300)
    x = torch.cat([x, x])
    push = torch.randn(8, 200)
    push = torch.cat([push, -push * (1 + 1e-4)])

    features, fixed = trunk(x), Fixed([1, 1])
    losses = {"a": (features * push).sum(), "b": (features[:1] * push[:1]).sum()}
    mtl_backward(losses, features, fixed, trunk.parameters())
    cotangents = [push.double(), torch.cat([push[:1], torch.zeros(15, 200)]).double()]
    rows = torch.stack([(c.T @ x.double()).flatten() for c in cotangents])
    np.testing.assert_allclose(fixed.seen[1], (rows @ rows.T).numpy(), rtol=1e-3)


def test_linear_layers_spare_half_of_the_work() -> None:
    """The rows of their weights are not formed: counted in multiplications, not in seconds."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(300, 400), nn.ReLU(), nn.Linear(400, 200), nn.ReLU())
    heads, x = [nn.Linear(200, 1) for _ in range(8)], torch.randn(16, 300)

    def count(step: Callable[[Tensor, list[Tensor]], object]) -> int:
        features = trunk(x)
        losses = [head(features).square().mean() for head in heads]
        with FlopCounterMode(display=False) as counter:
            step(features, losses)
        return int(counter.get_total_flops())

    shared = list(trunk.parameters())
    ours = count(
        lambda z, losses: mtl_backward(
            {str(k): loss for k, loss in enumerate(losses)}, z, Fixed([1.0] * 8), shared
        )
    )
    one_by_one = count(
        lambda _, losses: [torch.autograd.grad(loss, shared, retain_graph=True) for loss in losses]
    )
    assert ours < 0.6 * one_by_one


def test_linear_layers_that_read_many_rows_keep_no_gradient_of_their_outputs() -> None:
    """Of 2,000 tokens they would take 20 times the memory of the rows of the parameters."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 50))
    tokens = trunk(torch.randn(2_000, 50))
    features = tokens.mean(dim=0)
    losses = {str(k): nn.Linear(50, 1)(features).square().sum() for k in range(16)}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        mtl_backward(losses, features, Fixed([1.0] * 16), trunk.parameters())
    assert profiler.profiler is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    outputs, rows = 4 * 2_000 * 50, 4 * 16 * 2 * 51 * 50
    assert max(held) < 3 * rows + 3 * outputs < 16 * outputs


@each_gramian
@each_way
def test_whole_model_in_bfloat16(way: Callable[[], Weighting], gramian: Where) -> None:
    net, weighting = Net(), way()
    net.trunk.bfloat16()
    net.heads.bfloat16()
    net.inputs = net.inputs.bfloat16()
    losses, features = net.forward()
    mtl_backward(losses, features, weighting, net.trunk.parameters(), gramian)
    if isinstance(weighting, Fixed):
        assert weighting.seen[1].dtype == np.float32
    exact = Net()
    mtl_backward(*exact.forward(), way(), exact.trunk.parameters(), gramian)
    for rough, fine in zip(net.parameters, exact.parameters, strict=True):
        assert rough.grad is not None
        assert rough.grad.dtype == torch.bfloat16
        assert fine.grad is not None
        assert (rough.grad - fine.grad).norm() < 0.05 * fine.grad.norm()


def test_trunk_in_bfloat16() -> None:
    torch.manual_seed(0)
    net, fixed = Net(), Fixed([1, 2, 3])
    net.trunk.float()
    net.heads.float()
    with torch.autocast("cpu", torch.bfloat16):
        features = net.trunk(net.inputs.float())
        losses = {name: net.heads[name](features).float().square().mean() for name in "abc"}
    mtl_backward(losses, features, fixed, net.trunk.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        features = net.trunk(net.inputs.float())
        losses = {name: net.heads[name](features).float().square().mean() for name in "abc"}
    expected = torch.autograd.grad(
        [w * loss for w, loss in zip((1, 2, 3), losses.values(), strict=True)],
        list(net.trunk.parameters()),
    )
    for parameter, gradient in zip(net.trunk.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0.05, atol=0.05)


@each_gramian
@each_way
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_call_under_autocast_is_the_call_after_it(
    kind: torch.dtype, way: Callable[[], Weighting], gramian: Where
) -> None:
    """As in a training step that Lightning wraps whole: the Gramian would be taken in 16 bits."""
    found = []
    for inside in (False, True):
        torch.manual_seed(0)
        net, weighting = Net(), way()
        net.trunk.float()
        net.heads.float()
        net.inputs = net.inputs.float()
        with torch.autocast("cpu", kind):
            losses, features = net.forward()
        with torch.autocast("cpu", kind, enabled=inside):
            mtl_backward(losses, features, weighting, net.trunk.parameters(), gramian)
        if isinstance(weighting, Fixed):
            assert weighting.seen[1].dtype == np.float32
            found.append(torch.from_numpy(weighting.seen[1]))
        found += [own for own in grads(net.parameters) if own is not None]
    after, under = found[: len(found) // 2], found[len(found) // 2 :]
    for one, other in zip(after, under, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0)


# ------------------------------------------------------------- hooks


@each_way
@each_gramian
@pytest.mark.parametrize("extra", [False, True], ids=["", "extra_loss"])
def test_hooks_of_parameters_run_once_as_in_backward(
    way: Callable[[], Weighting], gramian: Where, extra: bool
) -> None:
    net, calls = Net(), []

    def halve(gradient: Tensor) -> Tensor:
        calls.append("before")
        return gradient / 2

    def after(parameter: Tensor) -> None:
        assert parameter.grad is not None
        parameter.grad += 1
        calls.append("after")

    losses, features = net.forward()
    mtl_backward(
        losses, features, way(), net.trunk.parameters(), gramian,
        extra_loss=features.sum() if extra else None,
    )  # fmt: skip
    expected = [p.grad / 2 + 1 for p in net.parameters if p.grad is not None]
    net.trunk.zero_grad()
    net.heads.zero_grad()

    for parameter in net.parameters:
        parameter.register_hook(halve)
        parameter.register_post_accumulate_grad_hook(after)
    losses, features = net.forward()
    mtl_backward(
        losses, features, way(), net.trunk.parameters(), gramian,
        extra_loss=features.sum() if extra else None,
    )  # fmt: skip
    assert_close(net.parameters, expected)
    assert sorted(calls) == ["after"] * len(expected) + ["before"] * len(expected)


def test_hooks_are_back_after_an_error() -> None:
    net, calls = Net(), list[Tensor]()
    net.parameters[0].register_hook(calls.append)
    losses, features = net.forward()
    losses["c"] = (features * 0).sum().sqrt()
    with pytest.raises(ValueError, match="nan"):
        mtl_backward(losses, features, Fixed([1, 1, 1]), net.trunk.parameters())
    mtl_backward(*net.forward(), Equal())
    assert len(calls) == 1


# ------------------------------------------------------------- several features, heads in common


@each_gramian
def test_several_features(gramian: Where) -> None:
    """A task may read any of them, or two."""
    torch.manual_seed(0)
    one, two, x = nn.Linear(5, 3), nn.Linear(5, 2), torch.randn(7, 5)

    def forward() -> tuple[list[Tensor], dict[str, Tensor | None]]:
        z, v = one(x), two(x.tanh())
        both = (z.sum(dim=1) * v.sum(dim=1)).mean()
        return [z, v], {"a": z.square().mean(), "b": both, "c": v.abs().mean()}

    shared = [*one.parameters(), *two.parameters()]
    at = {"parameters": shared, "features": None}[gramian]
    features, losses = forward()
    rows = [
        torch.cat([
            g.flatten() for g in torch.autograd.grad(
                loss, at or features, retain_graph=True, materialize_grads=True
            )
        ])
        for loss in losses.values() if loss is not None
    ]  # fmt: skip
    jacobian, fixed = torch.stack(rows), Fixed([0.5, -2, 3])
    features, losses = forward()
    mtl_backward(losses, features, fixed, shared, gramian)
    torch.testing.assert_close(torch.from_numpy(fixed.seen[1]), jacobian @ jacobian.T)
    total = sum(
        w * loss
        for w, loss in zip([0.5, -2, 3], forward()[1].values(), strict=True)
        if loss is not None
    )
    assert isinstance(total, Tensor)
    assert_close(shared, torch.autograd.grad(total, shared))


def test_two_outputs_of_one_operation_do_not_depend_on_each_other() -> None:
    trunk, fixed = nn.Linear(5, 4), Fixed([1, 2])
    z, v = trunk(torch.ones(1, 5)).chunk(2, dim=1)
    mtl_backward({"a": z.sum(), "b": 3 * v.sum()}, [z, v], fixed, trunk.parameters())
    assert trunk.bias.grad is not None
    assert trunk.bias.grad.tolist() == [1, 1, 6, 6]
    assert fixed.seen[1].tolist() == [[12, 0], [0, 108]]


@each_gramian
def test_heads_that_share_a_layer(gramian: Where) -> None:
    """More than parameters in common: a graph that both losses go through."""
    torch.manual_seed(0)
    trunk, common, fixed = nn.Linear(5, 3), nn.Linear(3, 3), Fixed([0.5, 3])
    x = torch.randn(7, 5)

    def losses(features: Tensor) -> dict[str, Tensor | None]:
        hidden = common(features).tanh()
        return {"a": hidden.square().mean(), "b": hidden.sum()}

    features = trunk(x)
    mtl_backward(losses(features), features, fixed, trunk.parameters(), gramian)
    a, b = losses(trunk(x)).values()
    assert a is not None
    assert b is not None
    assert_close(
        common.parameters(),
        torch.autograd.grad(a + b, list(common.parameters()), retain_graph=True),
    )
    assert_close(trunk.parameters(), torch.autograd.grad(0.5 * a + 3 * b, list(trunk.parameters())))


@each_gramian
def test_no_heads_at_all(gramian: Where) -> None:
    """Losses may be their own features."""
    trunk, fixed = nn.Linear(3, 2), Fixed([1, 2])
    pair = list(trunk(torch.ones(3)).unbind())
    mtl_backward(dict(zip("ab", pair, strict=True)), pair, fixed, trunk.parameters(), gramian)
    assert trunk.bias.grad is not None
    assert trunk.bias.grad.tolist() == [1, 2]
    assert fixed.seen[1][0, 1] == 0


# ------------------------------------------------------------- an extra loss, a scaler, aggregators


@each_way
@each_gramian
@pytest.mark.parametrize("names", ["abc", "ac", ""])
def test_extra_loss_goes_through_unweighted(
    way: Callable[[], Weighting], gramian: Where, names: str
) -> None:
    def extra(net: Net, features: Tensor) -> Tensor:
        output: Tensor = net.heads["b"](features)
        return features.square().sum() + output.sum()

    net, without, alone = Net(), Net(), Net()
    losses, features = net.forward(names)
    mtl_backward(
        losses, features, way(), net.trunk.parameters(), gramian, extra_loss=extra(net, features)
    )
    mtl_backward(*without.forward(names), way(), without.trunk.parameters(), gramian)
    extra(alone, alone.forward(names)[1]).backward()
    for found, *parts in zip(net.parameters, without.parameters, alone.parameters, strict=True):
        expected = sum(part.grad for part in parts if part.grad is not None)
        if isinstance(expected, Tensor):
            torch.testing.assert_close(found.grad, expected)
        else:
            assert found.grad is None


def test_extra_loss_must_be_a_scalar() -> None:
    net = Net()
    losses, features = net.forward()
    with pytest.raises(ValueError, match=r"loss of 'extra_loss' has shape \(7, 4\)"):
        mtl_backward(losses, features, Equal(), extra_loss=features)


@each_way
@each_gramian
def test_scaler(way: Callable[[], Weighting], gramian: Where) -> None:
    """The weighting sees what it would see without; the gradients are scaled."""
    net, plain, scaler = Net(), Net(), torch.amp.GradScaler("cpu", init_scale=1024)
    seen = [way(), way()]
    losses, features = net.forward()
    mtl_backward(
        losses, features, seen[0], net.trunk.parameters(), gramian,
        extra_loss=features.sum(), scaler=scaler,
    )  # fmt: skip
    losses, features = plain.forward()
    mtl_backward(
        losses, features, seen[1], plain.trunk.parameters(), gramian, extra_loss=features.sum()
    )
    assert_close(net.parameters, [1024 * p.grad for p in plain.parameters if p.grad is not None])
    for one, other in zip(*(getattr(w, "seen", []) for w in seen), strict=True):
        np.testing.assert_allclose(one, other)


@each_gramian
def test_overflow_skips_the_step(gramian: Where) -> None:
    net, fixed = Net(), Fixed([1, 2, 3])
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    optimizer = torch.optim.SGD(net.parameters, lr=0.1)
    before = [parameter.detach().clone() for parameter in net.parameters]
    losses, features = net.forward()
    losses = {k: None if loss is None else 1e300 * loss for k, loss in losses.items()}
    weights = mtl_backward(losses, features, fixed, net.trunk.parameters(), gramian, scaler=scaler)
    assert np.isnan(weights).all()
    assert fixed.seen == []
    scaler.step(optimizer)
    scaler.update()
    assert all(map(torch.equal, before, net.parameters))
    assert scaler.get_scale() == 2.0**119


AGGREGATORS: dict[str, Callable[[], torchjd.aggregation.Aggregator]] = {
    "IMTLG": torchjd.aggregation.IMTLG,
    "Krum": lambda: torchjd.aggregation.Krum(n_byzantine=0, n_selected=2),
    "TrimmedMean": lambda: torchjd.aggregation.TrimmedMean(trim_number=1),
    "ConFIG": torchjd.aggregation.ConFIG,
}


@pytest.mark.parametrize("name", AGGREGATORS)
def test_torchjds_aggregators_fit_in(name: str) -> None:
    net, reference = Net(), Net()
    losses, features = net.forward()
    weights = mtl_backward(losses, features, AGGREGATORS[name](), net.trunk.parameters())
    assert np.isnan(weights).all()
    by_name, its_features = reference.forward()
    present = [loss for loss in by_name.values() if loss is not None]
    torchjd.autojac.mtl_backward(present, features=its_features)
    torchjd.autojac.jac_to_grad(reference.trunk.parameters(), AGGREGATORS[name]())
    for ours, theirs in zip(net.parameters, reference.parameters, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@each_gramian
def test_any_callable_gets_the_rows_of_the_present_tasks(gramian: Where) -> None:
    net, seen = Net(), []

    def first(jacobian: Tensor) -> Tensor:
        seen.append(jacobian)
        return jacobian[0]

    losses, features = net.forward("ac")
    weights = mtl_backward(losses, features, first, net.trunk.parameters(), gramian)
    assert weights == pytest.approx([np.nan, 0, np.nan], nan_ok=True)
    if gramian == "parameters":
        torch.testing.assert_close(seen[0], net.jacobian()[[0, 2]])
    else:
        assert seen[0].shape == (2, features.numel())
    assert_close(net.trunk.parameters(), net.gradients("a", net.trunk.parameters()))
    head = net.heads["c"]
    assert_close(head.parameters(), net.gradients("c", head.parameters()))


@each_gramian
def test_callable_with_a_scaler(gramian: Where) -> None:
    net, scaler = Net(), torch.amp.GradScaler("cpu", init_scale=1024)

    def unit(jacobian: Tensor) -> Tensor:
        return torch.nn.functional.normalize(jacobian[0], dim=0)

    losses, features = net.forward()
    mtl_backward(losses, features, unit, net.trunk.parameters(), gramian, scaler=scaler)
    if gramian == "parameters":
        row = net.jacobian()[0]
        found = torch.cat([p.grad.flatten() for p in net.trunk.parameters() if p.grad is not None])
        torch.testing.assert_close(found, 1024 * row / row.norm())


def test_callable_that_gives_weights() -> None:
    net = Net()
    with pytest.raises(
        ValueError, match=r"shape \(3, 64\).* shape \(3,\).* write it as a Weighting"
    ):
        mtl_backward(*net.forward(), lambda rows: rows[:, 0], net.trunk.parameters())
    assert all(gradient is None for gradient in grads(net.parameters))


@each_gramian
def test_callable_is_not_given_a_nan(gramian: Where) -> None:
    net = Net()
    losses, features = net.forward()
    losses["c"] = (features * 0).sum().sqrt()
    with pytest.raises(ValueError, match="gradient of task 'c' holds a NaN"):
        mtl_backward(losses, features, torchjd.aggregation.Mean(), net.trunk.parameters(), gramian)
    assert all(gradient is None for gradient in grads(net.parameters))


# ------------------------------------------------------------- torch.compile


class Wrapped(nn.Module):
    """A module with a forward of its own: torch.compile skips those that come with PyTorch."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(x)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@each_gramian
@pytest.mark.parametrize("part", ["trunk", "heads"])
def test_compiled(part: str, gramian: Where) -> None:
    """Trunk or heads compiled, the same gradients; the default backend needs a C++ compiler."""
    net = Net()

    def run(features: Callable[[Tensor], Tensor], heads: Mapping[str, Callable[..., Any]]) -> None:
        z = features(net.inputs)
        losses: dict[str, Tensor | None] = {n: heads[n](z).square().mean() for n in "abc"}
        mtl_backward(losses, z, Fixed([0.5, -2, 3]), net.trunk.parameters(), gramian)

    run(net.trunk, dict(net.heads.items()))
    expected = grads(net.parameters)
    net.trunk.zero_grad()
    net.heads.zero_grad()
    compiled = partial(torch.compile, backend="aot_eager", fullgraph=True)
    if part == "trunk":
        run(compiled(Wrapped(net.trunk)), dict(net.heads.items()))
    else:
        run(net.trunk, {n: compiled(Wrapped(net.heads[n])) for n in "abc"})
    assert_close(net.parameters, [gradient for gradient in expected if gradient is not None])


@pytest.mark.parametrize("gramian", ["parameters", "features"])
def test_a_gradient_lies_in_memory_as_its_parameter_does(
    gramian: Literal["parameters", "features"],
) -> None:
    """Fused Adam goes by the parameter's strides: else it would take entries of one for another's."""
    conv, linear = nn.Conv2d(3, 4, 3), nn.Linear(16, 5)
    heads = [nn.Linear(5, 1), nn.Linear(5, 1)]
    weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
    conv.weight = nn.Parameter(weight)
    linear.weight = nn.Parameter(torch.randn(16, 5).T)  # stored transposed
    trunk = nn.Sequential(conv, nn.Flatten(), linear)
    parts = nn.ModuleList([trunk, *heads])
    plain, x = copy.deepcopy(parts), torch.randn(8, 3, 4, 4)
    for model, ours in ((parts, True), (plain, False)):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
        for _ in range(3):
            optimizer.zero_grad()
            features = model[0](x)
            first, second = (head(features).square().mean() for head in list(model)[1:])
            losses = {"a": first, "b": second}
            if ours:
                mtl_backward(losses, features, Fixed([1, 1]), model[0].parameters(), gramian)
            else:
                torch.autograd.backward(list(losses.values()))
            optimizer.step()
    for one, other in zip(parts.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
