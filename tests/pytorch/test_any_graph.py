"""Whatever the heads read, ``mtl_backward`` equals brute force, or refuses."""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mtl_tutorial.pytorch import mtl_backward
from mtl_tutorial.weighting import UPGrad, Weighting


class Ones(Weighting):
    """The Gramian is asked for, and all weights are 1: the same as ``sum(losses).backward()``."""

    needs_losses: ClassVar[bool] = False
    needs_gramian: ClassVar[bool] = True

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        return np.ones(len(losses))


class Case(NamedTuple):
    """A forward pass: all parameters, those that are shared, features and losses."""

    modules: nn.Module
    shared: Sequence[nn.Parameter]
    features: Tensor | Sequence[Tensor]
    losses: dict[str, Tensor]


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def module(**parts: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict(parts).double()


def several_features() -> Case:
    m = module(one=nn.Linear(5, 3), two=nn.Linear(5, 2), a=nn.Linear(3, 1), b=nn.Linear(2, 1))
    z, v = m["one"](inputs(7, 5)).tanh(), m["two"](inputs(7, 5)).tanh()
    a, b = m["a"](z).square().mean(), m["b"](v).square().mean()
    shared = [*m["one"].parameters(), *m["two"].parameters()]
    return Case(m, shared, [z, v], {"a": a, "b": b, "c": (z.sum(1) * v.sum(1)).mean()})


def chain() -> Case:
    """A feature pyramid: each head reads other stages, and the stages follow each other."""
    m = module(
        one=nn.Linear(5, 4), two=nn.Linear(4, 4), three=nn.Linear(4, 4),
        a=nn.Linear(8, 1), b=nn.Linear(12, 1),
    )  # fmt: skip
    f1 = m["one"](inputs(7, 5)).tanh()
    f2 = m["two"](f1).tanh()
    f3 = m["three"](f2).tanh()
    losses = {
        "a": m["a"](torch.cat([f3, f1], dim=1)).square().mean(),
        "b": (m["b"](torch.cat([f1, f2, f3], dim=1)) - 1).square().mean(),
        "c": f2.abs().mean(),
    }
    shared = [p for stage in ("one", "two", "three") for p in m[stage].parameters()]
    return Case(m, shared, [f1, f2, f3], losses)


def skip_connection() -> Case:
    """The same pyramid, but only its last stage is named."""
    case = chain()
    return case._replace(features=case.features[-1])


def gates_past_the_features() -> Case:
    """Experts are the features; gates read the layer below them."""
    m = module(
        bottom=nn.Linear(5, 4), e1=nn.Linear(4, 3), e2=nn.Linear(4, 3), gate_a=nn.Linear(4, 2),
        gate_b=nn.Linear(4, 2), a=nn.Linear(3, 1), b=nn.Linear(3, 1),
    )  # fmt: skip
    h = m["bottom"](inputs(7, 5)).relu()
    experts = [m["e1"](h).tanh(), m["e2"](h).tanh()]
    losses = {}
    for name in "ab":
        gate = m[f"gate_{name}"](h).softmax(dim=1)
        mixture = sum(gate[:, [i]] * expert for i, expert in enumerate(experts))
        losses[name] = (m[name](mixture) - 1).square().mean()
    shared = [p for part in ("bottom", "e1", "e2") for p in m[part].parameters()]
    return Case(m, shared, experts, losses)


def own_parameters_before_the_features() -> Case:
    """The mixtures are the features: the gates lie before them, but belong to one task each."""
    case = gates_past_the_features()
    m = case.modules
    assert isinstance(m, nn.ModuleDict)
    h = m["bottom"](inputs(7, 5)).relu()
    mixtures, losses = [], {}
    for name in "ab":
        gate = m[f"gate_{name}"](h).softmax(dim=1)
        mixtures.append(sum(gate[:, [i]] * m[f"e{i + 1}"](h).tanh() for i in range(2)))
        losses[name] = (m[name](mixtures[-1]) - 1).square().mean()
    return case._replace(features=mixtures, losses=losses)


def tied_embedding() -> Case:
    """One task reads the features with the weight that made them."""
    m = module(embedding=nn.Embedding(9, 4), mix=nn.Linear(4, 4), b=nn.Linear(4, 1))
    words = torch.arange(14).reshape(7, 2) % 9
    z = m["mix"](m["embedding"](words).mean(dim=1)).tanh()
    logits = z @ m["embedding"].get_parameter("weight").T
    losses = {
        "a": nn.functional.cross_entropy(logits, words[:, 0]),
        "b": m["b"](z).square().mean(),
    }
    shared = [*m["embedding"].parameters(), *m["mix"].parameters()]
    return Case(m, shared, z, losses)


def tied_linear_layer() -> Case:
    """A weight that the trunk uses once and a head once: its rows are no longer a layer's."""
    m = module(first=nn.Linear(4, 4), b=nn.Linear(4, 1))
    z = m["first"](inputs(7, 4)).tanh()
    losses = {"a": (m["first"](z) - 1).square().mean(), "b": m["b"](z).square().mean()}
    return Case(m, list(m["first"].parameters()), z, losses)


def shared_norm_layer() -> Case:
    """Batch norm in the trunk, and one layer norm of both heads, named as shared."""
    m = module(
        trunk=nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU()),
        norm=nn.LayerNorm(4), a=nn.Linear(4, 1), b=nn.Linear(4, 1),
    )  # fmt: skip
    z = m["trunk"](inputs(7, 5))
    losses = {
        "a": m["a"](m["norm"](z)).square().mean(),
        "b": (m["b"](m["norm"](2 * z)) - 1).square().mean(),
    }
    return Case(m, [*m["trunk"].parameters(), *m["norm"].parameters()], z, losses)


def recurrent_trunk() -> Case:
    """One head reads the states, the other the last cell: two outputs of one node."""
    m = module(lstm=nn.LSTM(5, 3, batch_first=True), a=nn.Linear(3, 1), b=nn.Linear(3, 1))
    states, (_, cell) = m["lstm"](inputs(7, 4, 5))
    losses = {
        "a": m["a"](states).square().mean(),
        "b": (m["b"](cell[0]) - 1).square().mean(),
    }
    return Case(m, list(m["lstm"].parameters()), states, losses)


def attention_trunk() -> Case:
    m = module(
        layer=nn.TransformerEncoderLayer(4, 2, dim_feedforward=8, dropout=0.0, batch_first=True),
        a=nn.Linear(4, 3), b=nn.Linear(4, 1),
    )  # fmt: skip
    z = m["layer"](inputs(5, 6, 4))
    losses = {
        "a": m["a"](z).square().mean(),
        "b": (m["b"](z[:, 0]) - 1).square().mean(),
    }
    return Case(m, list(m["layer"].parameters()), z, losses)


def checkpointed() -> Case:
    m = module(
        trunk=nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4)),
        a=nn.Linear(4, 1), b=nn.Linear(4, 1),
    )  # fmt: skip
    z = checkpoint(m["trunk"], inputs(7, 5), use_reentrant=False)
    losses = {
        "a": checkpoint(m["a"], z, use_reentrant=False).square().mean(),
        "b": (m["b"](z) - 1).square().mean(),
    }
    return Case(m, list(m["trunk"].parameters()), z, losses)


def heads_with_a_layer_in_common() -> Case:
    """A graph that both losses go through, its parameters not named as shared."""
    m = module(trunk=nn.Linear(5, 4), common=nn.Linear(4, 4), a=nn.Linear(4, 1))
    z = m["trunk"](inputs(7, 5)).tanh()
    hidden = m["common"](z).tanh()
    losses = {"a": m["a"](hidden).square().mean(), "b": (hidden + z).sum()}
    return Case(m, list(m["trunk"].parameters()), z, losses)


def shared_layer_after_the_features() -> Case:
    """The same, but named as shared: it is weighted, too."""
    case = heads_with_a_layer_in_common()
    assert isinstance(case.modules, nn.ModuleDict)
    return case._replace(shared=[*case.shared, *case.modules["common"].parameters()])


def losses_that_are_features() -> Case:
    m = module(trunk=nn.Linear(5, 2), c=nn.Linear(1, 1))
    a, b = m["trunk"](inputs(5)).unbind()
    losses = {"a": a, "b": b, "c": m["c"](a[None]).square().sum()}
    return Case(m, list(m["trunk"].parameters()), [a, b], losses)


def written_over() -> Case:
    """A head writes over the features; the other has read them before."""
    m = module(trunk=nn.Linear(5, 4), a=nn.Linear(4, 1), b=nn.Linear(4, 1))
    z = m["trunk"](inputs(7, 5)) + 0
    first = z.sum()
    losses = {"a": first, "b": m["b"](z.relu_()).square().mean()}
    return Case(m, list(m["trunk"].parameters()), z, losses)


def half_of_the_trunk() -> Case:
    """Only the last layer is shared by name: what lies before it gets the plain sum."""
    m = module(first=nn.Linear(5, 4), last=nn.Linear(4, 4), a=nn.Linear(4, 1))
    z = m["last"](m["first"](inputs(7, 5)).tanh())
    losses = {"a": m["a"](z).square().mean(), "b": (z - 1).square().sum()}
    return Case(m, list(m["last"].parameters()), z, losses)


def named_twice() -> Case:
    case = several_features()
    return case._replace(shared=[*case.shared, *case.shared], features=[*case.features] * 2)


def sparse_embedding() -> Case:
    m = module(embedding=nn.Embedding(9, 4, sparse=True), a=nn.Linear(4, 1))
    z = m["embedding"](torch.arange(7) % 4)
    losses = {"a": m["a"](z).square().mean(), "b": z.square().sum()}
    return Case(m, list(m["embedding"].parameters()), z, losses)


class Whole(nn.Module):
    """Trunk and heads in one module, as a user would hand it to ``torch.compile``."""

    def __init__(self, parts: nn.ModuleDict) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = self.parts["trunk"](x).tanh()
        return z, self.parts["a"](z), self.parts["b"](z)


def compiled_whole() -> Case:
    m = module(trunk=nn.Linear(5, 4), a=nn.Linear(4, 1), b=nn.Linear(4, 1))
    z, a, b = torch.compile(Whole(m), backend="aot_eager")(inputs(7, 5))
    losses = {"a": a.square().mean(), "b": (b - 1).square().mean()}
    return Case(m, list(m["trunk"].parameters()), z, losses)


AT_THE_FEATURES = [  # what they name holds all that the heads read
    several_features, chain, attention_trunk, checkpointed, heads_with_a_layer_in_common,
    losses_that_are_features, half_of_the_trunk, named_twice, sparse_embedding,
    own_parameters_before_the_features, shared_layer_after_the_features, shared_norm_layer,
]  # fmt: skip
PAST_THE_FEATURES = [
    skip_connection, gates_past_the_features, tied_embedding, tied_linear_layer, recurrent_trunk,
    written_over, compiled_whole,
]  # fmt: skip
each_case = pytest.mark.parametrize("make", [*AT_THE_FEATURES, *PAST_THE_FEATURES])


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    torch.compiler.reset()


def again(make: Callable[[], Case]) -> Case:
    """Run the forward pass once more, from the same start: a graph of its own."""
    torch.manual_seed(0)
    return make()


def brute_force(make: Callable[[], Case], weighting: Weighting, extra: bool) -> list[Tensor]:
    """T full backward passes, and what belongs to no other by plain sums."""
    case = again(make)
    parameters, losses = list(case.modules.parameters()), list(case.losses.values())
    rows = [
        torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
        for loss in losses
    ]
    shared = set(case.shared)
    jacobian = torch.stack([
        torch.cat([g.to_dense().flatten() for g, p in zip(row, parameters, strict=True) if p in shared])
        for row in rows
    ])  # fmt: skip
    weights = weighting(np.zeros(len(rows)), (jacobian @ jacobian.T).detach().numpy())
    found = [
        sum(
            ((w if p in shared else 1.0) * g for w, g in zip(weights, column, strict=True)),
            torch.zeros_like(p),
        )
        for p, column in zip(parameters, zip(*rows, strict=True), strict=True)
    ]
    if extra:
        case = again(make)
        parameters = list(case.modules.parameters())
        more = torch.autograd.grad(penalty(case), parameters, materialize_grads=True)
        found = [one + other for one, other in zip(found, more, strict=True)]
    return found


def penalty(case: Case) -> Tensor:
    features = [case.features] if isinstance(case.features, Tensor) else case.features
    weights = sum(p.square().sum() for p in case.modules.parameters())
    assert isinstance(weights, Tensor)
    return weights + sum(z.mean() for z in features)


def assert_brute_force(
    make: Callable[[], Case], found: nn.Module, weighting: Weighting, extra: bool = False
) -> None:
    for parameter, expected in zip(
        found.parameters(), brute_force(make, weighting, extra), strict=True
    ):
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradient.to_dense(), expected, rtol=1e-9, atol=1e-11)


@each_case
@pytest.mark.parametrize("extra", [False, True], ids=["", "extra_loss"])
@pytest.mark.parametrize("weighting", [Ones(), UPGrad()], ids=["ones", "UPGrad"])
@pytest.mark.parametrize("named", [True, False], ids=["features", "no features"])
def test_exact_is_brute_force(
    make: Callable[[], Case], weighting: Weighting, extra: bool, named: bool
) -> None:
    case = again(make)
    mtl_backward(
        case.losses, case.features if named else None, weighting, case.shared,
        extra_loss=penalty(case) if extra else None,
    )  # fmt: skip
    assert_brute_force(make, case.modules, weighting, extra)


@pytest.mark.parametrize("make", AT_THE_FEATURES)
@pytest.mark.parametrize("extra", [False, True], ids=["", "extra_loss"])
def test_at_the_features_ones_are_the_plain_sum(make: Callable[[], Case], extra: bool) -> None:
    case = again(make)
    mtl_backward(
        case.losses, case.features, Ones(), gramian="features",
        extra_loss=penalty(case) if extra else None,
    )  # fmt: skip
    assert_brute_force(make, case.modules, Ones(), extra)


@pytest.mark.parametrize("make", PAST_THE_FEATURES)
def test_at_the_features_what_is_read_past_them_is_refused(make: Callable[[], Case]) -> None:
    case = again(make)
    with pytest.raises(ValueError, match=r"task '[ab]' reaches past the features: it reads .*"):
        mtl_backward(case.losses, case.features, Ones(), gramian="features")
    assert all(parameter.grad is None for parameter in case.modules.parameters())


def test_at_the_features_a_tied_weight_is_named_by_its_shape() -> None:
    case = tied_embedding()
    with pytest.raises(ValueError, match=r"task 'a' .* reads a parameter of shape \(9, 4\)"):
        mtl_backward(case.losses, case.features, Ones(), gramian="features")


def test_at_the_features_of_a_chain_the_gramian_is_that_of_what_heads_pass() -> None:
    """Cloned for the heads alone, the stages no longer depend on each other."""
    case = chain()
    assert isinstance(case.modules, nn.ModuleDict)
    m, seen = case.modules, list[np.ndarray]()

    class Keep(Ones):
        def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
            assert gramian is not None
            seen.append(gramian)
            return super().weights(losses, gramian)

    mtl_backward(case.losses, case.features, Keep(), gramian="features")
    f1, f2, f3 = (z.detach().requires_grad_() for z in case.features)
    losses = [
        m["a"](torch.cat([f3, f1], dim=1)).square().mean(),
        (m["b"](torch.cat([f1, f2, f3], dim=1)) - 1).square().mean(),
        f2.abs().mean(),
    ]
    rows = torch.stack([
        torch.cat([
            g.flatten() for g in torch.autograd.grad(loss, [f1, f2, f3], materialize_grads=True)
        ])
        for loss in losses
    ])  # fmt: skip
    np.testing.assert_allclose(seen[0], (rows @ rows.T).detach().numpy())
