"""Several micro-batches, one step: the same as the whole batch at once."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torchjd.aggregation
from torch import Tensor, nn

from mtl_tutorial import weighting as methods
from mtl_tutorial.pytorch import accumulated_backward, mtl_backward
from mtl_tutorial.weighting import MGDA, RLW, UW, Equal, GradNorm, Static
from tests.weighting import properties

TASKS = ("a", "b", "c")
Batch = tuple[dict[str, Tensor | None], Tensor, Tensor]

METHODS: dict[str, Callable[[], Any]] = {
    name: partial(make, len(TASKS)) for name, make in properties.METHODS.items()
}
METHODS["Static"] = lambda: Static([0.5, 2.0, 0.25])
METHODS["GradNorm"] = lambda: GradNorm(lr=0.1)
METHODS["ConFIG (TorchJD)"] = torchjd.aggregation.ConFIG
each_method = pytest.mark.parametrize("method", METHODS)


class Net(nn.Module):
    """Two layers that all tasks share, three heads, and twelve rows with few labels.

    Task b has a label in the last rows only; c has none in every second row.
    """

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4))
        self.heads = nn.ModuleDict({name: nn.Linear(4, 1) for name in TASKS})
        self.rows = torch.randn(12, 5, dtype=torch.float64).to(dtype)
        self.targets = 2 + torch.randn(12, 3, dtype=torch.float64).to(dtype)
        self.targets[:9, 1] = torch.nan
        self.targets[::2, 2] = torch.nan
        self.to(dtype)

    def forward(self, rows: slice, counts: dict[str, float]) -> Batch:
        """As :meth:`batch`, so that a wrapper may call it."""
        return self.batch(rows, counts)

    def batch(self, rows: slice, counts: dict[str, float] | None = None) -> Batch:
        """Losses, features and a penalty of some rows, divided by the labels of all."""
        counts = counts or self.counts(slice(None))
        features = self.trunk(self.rows[rows])
        losses: dict[str, Tensor | None] = {}
        for k, name in enumerate(TASKS):
            error = self.heads[name](features)[:, 0] - self.targets[rows, k]
            there = ~error.isnan()
            error = error[there].square().sum() / counts[name]
            losses[name] = error if there.any() else None
        return losses, features, 0.01 * features.square().sum()

    def counts(self, rows: slice) -> dict[str, float]:
        there = (~self.targets[rows].isnan()).sum(dim=0)
        return dict(zip(TASKS, there.tolist(), strict=True))

    def micro_batches(self, *sizes: int) -> Iterator[Batch]:
        start = 0
        for size in sizes:
            yield self.batch(slice(start, start + size))
            start += size

    def gradients(self) -> list[Tensor | None]:
        return [None if p.grad is None else p.grad.clone() for p in self.parameters()]


def steps(net: Net, weighting: Any, backward: Callable[[], np.ndarray], count: int) -> np.ndarray:
    """Take some steps, an epoch each three; give the weights of all."""
    optimizer, weights = torch.optim.SGD(net.parameters(), lr=0.05), []
    for step in range(count):
        optimizer.zero_grad()
        weights.append(backward())
        optimizer.step()
        if getattr(weighting, "needs_observe", False):
            with torch.no_grad():
                after = net.batch(slice(None))[0].values()
            weighting.observe([0.0 if loss is None else loss.item() for loss in after])
        if step % 3 == 2 and isinstance(weighting, methods.Weighting):
            weighting.end_epoch()
    return np.array(weights)


def test_every_method_of_the_library_is_here() -> None:
    """And in ``test_distributed``, which takes its methods from here."""
    found = [getattr(methods, name) for name in methods.__all__]
    classes = {each.__name__ for each in found if isinstance(each, type)}
    assert classes - {"Weighting", "Recorded"} == set(properties.METHODS) <= set(METHODS)


@each_method
@pytest.mark.parametrize("told", [False, True], ids=["", "present"])
def test_four_micro_batches_are_the_whole_batch(method: str, told: bool) -> None:
    whole, parts = Net(), Net()
    one, other = METHODS[method](), METHODS[method]()
    expected = steps(whole, one, lambda: mtl_backward(
        *whole.batch(slice(None))[:2], one, whole.trunk.parameters(),
        extra_loss=whole.batch(slice(None))[2],
    ), 6)  # fmt: skip
    present = [True, True, True] if told else None
    found = steps(parts, other, lambda: accumulated_backward(
        parts.micro_batches(5, 1, 4, 2), other, parts.trunk.parameters(), present=present
    ), 6)  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    for mine, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", ["RLW", "UW", "UPGrad", "GradNorm", "ConFIG (TorchJD)"])
def test_task_without_a_label_in_any_is_absent(method: str) -> None:
    whole, parts = Net(), Net()
    for net in (whole, parts):
        net.targets[:, 1] = torch.nan
    one, other = METHODS[method](), METHODS[method]()
    losses, features, extra = whole.batch(slice(None))
    expected = mtl_backward(losses, features, one, whole.trunk.parameters(), extra_loss=extra)
    for present in (None, [True, False, True]):
        other = METHODS[method]()
        parts.zero_grad()
        found = accumulated_backward(
            parts.micro_batches(4, 8), other, parts.trunk.parameters(), present=present
        )
        np.testing.assert_allclose(found, expected)
        assert all(parameter.grad is None for parameter in parts.heads["b"].parameters())
        for mine, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
            if theirs.grad is not None:
                torch.testing.assert_close(mine.grad, theirs.grad)


@each_method
def test_nothing_labelled_gives_the_penalty_only(method: str) -> None:
    net, weighting = Net(), METHODS[method]()
    net.targets[:] = torch.nan
    weights = accumulated_backward(
        ((losses, z, extra) for losses, z, extra in net.micro_batches(6, 6)),
        weighting, net.trunk.parameters(),
    )  # fmt: skip
    assert weights.tolist() == [0, 0, 0]
    found = [p.grad for p in net.trunk.parameters()]
    expected = torch.autograd.grad(net.batch(slice(None))[2], list(net.trunk.parameters()))
    torch.testing.assert_close(found, list(expected))


@pytest.mark.parametrize("method", ["Equal", "UW", "MGDA", "GradNorm"])
def test_each_graph_is_freed_before_the_next_forward_pass(method: str) -> None:
    net, kept = Net(), list[weakref.ref[Any]]()

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor
            kept.append(weakref.ref(self))

    def watched() -> Iterator[Batch]:
        for start in range(0, 12, 4):
            assert [one for one in kept if one() is not None] == []
            with torch.autograd.graph.saved_tensors_hooks(Kept, lambda one: one.tensor):
                yield net.batch(slice(start, start + 4))
        assert kept

    accumulated_backward(
        watched(), METHODS[method](), net.trunk.parameters(), present=[True, True, True]
    )


@pytest.mark.parametrize("method", ["Equal", "InverseLoss", "MGDA"])
def test_hooks_of_parameters_run_once_on_the_sum(method: str) -> None:
    net, plain, calls = Net(), Net(), []

    def halve(gradient: Tensor) -> Tensor:
        calls.append(gradient)
        return gradient / 2

    for parameter in net.parameters():
        parameter.register_hook(halve)
    for each in (net, plain):
        accumulated_backward(each.micro_batches(6, 6), METHODS[method](), each.trunk.parameters())
    assert len(calls) == len(list(net.parameters()))
    for mine, theirs in zip(net.gradients(), plain.gradients(), strict=True):
        assert theirs is not None
        torch.testing.assert_close(mine, theirs / 2)


@pytest.mark.parametrize("method", ["Equal", "UW", "UPGrad", "GradNorm", "ConFIG (TorchJD)"])
def test_scaler(method: str) -> None:
    net, plain, scaler = Net(), Net(), torch.amp.GradScaler("cpu", init_scale=1024)
    one, other = METHODS[method](), METHODS[method]()
    for each, weighting, by in ((net, one, scaler), (plain, other, None)):
        accumulated_backward(
            each.micro_batches(6, 6), weighting, each.trunk.parameters(), scaler=by
        )
    for mine, theirs in zip(net.gradients(), plain.gradients(), strict=True):
        assert theirs is not None
        torch.testing.assert_close(mine, 1024 * theirs)


@pytest.mark.parametrize("method", ["Equal", "UW", "UPGrad", "GradNorm"])
def test_whole_model_in_bfloat16(method: str) -> None:
    rough, fine = Net(torch.bfloat16), Net()
    for net in (rough, fine):
        accumulated_backward(net.micro_batches(6, 6), METHODS[method](), net.trunk.parameters())
    for mine, theirs in zip(rough.gradients(), fine.gradients(), strict=True):
        assert mine is not None
        assert theirs is not None
        assert mine.dtype == torch.bfloat16
        assert (mine - theirs).norm() < 0.1 * theirs.norm()


@pytest.mark.parametrize("method", ["Equal", "UW", "MGDA", "GradNorm"])
@pytest.mark.parametrize("told", [False, True], ids=["", "present"])
def test_error_in_a_later_micro_batch_touches_no_gradient(method: str, told: bool) -> None:
    net = Net()
    accumulated_backward(net.micro_batches(6, 6), Equal())
    before = net.gradients()

    def broken() -> Iterator[Any]:
        yield net.batch(slice(0, 6))
        losses, features, extra = net.batch(slice(6, 12))
        yield losses | {"c": torch.zeros(())}, features, extra

    with pytest.raises(ValueError, match="loss of 'c' is a constant"):
        accumulated_backward(
            broken(),
            METHODS[method](),
            net.trunk.parameters(),
            present=[True] * 3 if told else None,
        )
    assert all(map(torch.equal, before, net.gradients()))  # type: ignore[arg-type]


def test_nan_names_the_task_and_touches_no_gradient() -> None:
    net = Net()
    net.targets[10, 1] = torch.inf
    for weighting in (UW(), MGDA()):
        with pytest.raises(ValueError, match=r"task 1 \('b'\) is (nan|inf)"):
            accumulated_backward(net.micro_batches(6, 6), weighting, net.trunk.parameters())
    assert net.gradients() == [None] * 10


WRONG: dict[str, tuple[str, Callable[[Net], Iterable[Any]], dict[str, Any]]] = {
    "nothing": ("micro_batches yields nothing", lambda net: [], {}),
    "losses alone": ("a micro-batch is .*; got a dict", lambda net: [net.batch(slice(3))[0]], {}),
    "four things": ("got 4 things", lambda net: [(*net.batch(slice(3)), 0)], {}),
    "other tasks": (r"has the tasks \['a'\], not \['a', 'b', 'c'\]",
                    lambda net: [net.batch(slice(3)), ({"a": None}, torch.zeros(1))], {}),
    "at the features": ("every micro-batch would have to be kept, or run again",
                        lambda net: net.micro_batches(12), {"weighting": MGDA(),
                                                            "gramian": "features"}),
    "too few said": (r"present says \[True\] of the tasks \['a', 'b', 'c'\]",
                     lambda net: net.micro_batches(12), {"present": [True]}),
    "more said than there is": (r"present says \[True, True, True\].* is \[True, False, True\]",
                                lambda net: net.micro_batches(6), {"present": [True] * 3}),
    "less said than there is": (r"present says \[True, False, True\].* is \[True, True, True\]",
                                lambda net: net.micro_batches(12),
                                {"present": [True, False, True]}),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_argument_is_named(name: str) -> None:
    net = Net()
    says, micro_batches, arguments = WRONG[name]
    right: dict[str, Any] = {"weighting": RLW(), "shared_parameters": net.trunk.parameters()}
    with pytest.raises((TypeError, ValueError), match=says):
        accumulated_backward(micro_batches(net), **right | arguments)
    assert net.gradients() == [None] * 10


def test_features_may_be_asked_for_where_no_gramian_is() -> None:
    net = Net()
    accumulated_backward(net.micro_batches(6, 6), UW(), gramian="features")
    assert all(gradient is not None for gradient in net.gradients())
