from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
import torchjd.aggregation
import torchjd.autojac
from torch import Tensor, nn

from mtl_tutorial.pytorch import mtl_backward
from mtl_tutorial.weighting import Equal, GradNorm, Static, Weighting

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
