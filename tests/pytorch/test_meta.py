import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import mse_loss

from mtl_tutorial.gradient_check import numerical_gradient, relative_error
from mtl_tutorial.pytorch import maml_step, reptile_step

T, N = 3, 5


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def data(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(*shape, 2)))
    return x, x.prod(dim=-1, keepdim=True)


def sgd(model: nn.Module, lr: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def vector(model: nn.Module) -> np.ndarray:
    return nn.utils.parameters_to_vector(model.parameters()).detach().numpy()


def by_hand(model: nn.Module, batches: list[tuple[Tensor, Tensor]], lr: float) -> nn.Module:
    """Adapt a copy with torch's own optimiser."""
    model = copy.deepcopy(model)
    for x, y in batches:
        model.zero_grad()
        mse_loss(model(x), y).backward()
        sgd(model, lr).step()
    return model


def after_adaptation(
    model: nn.Module,
    support: tuple[Tensor, Tensor],
    query: tuple[Tensor, Tensor],
    lr: float,
    steps: int,
) -> float:
    values = []
    for k in range(T):
        adapted = by_hand(model, [(support[0][k], support[1][k])] * steps, lr)
        values.append(mse_loss(adapted(query[0][k]), query[1][k]).item())
    return float(np.mean(values))


def test_reptile_with_sgd_goes_to_the_mean_of_the_adapted_parameters() -> None:
    model, (x, y) = network(), data(T, 4, N)
    adapted = [by_hand(model, list(zip(x[k], y[k], strict=True)), 0.1) for k in range(T)]
    reptile_step(model, sgd(model), mse_loss, (x, y), lr=0.1)
    np.testing.assert_allclose(vector(model), np.mean([*map(vector, adapted)], 0), rtol=1e-10)


def test_reptile_with_one_step_is_joint_training() -> None:
    model, (x, y) = network(), data(T, 1, N)
    joint = by_hand(model, [(x.flatten(0, 2), y.flatten(0, 2))], lr=0.1)
    loss = reptile_step(model, sgd(model), mse_loss, (x, y), lr=0.1)
    np.testing.assert_allclose(vector(model), vector(joint), rtol=1e-10)
    assert loss.item() == pytest.approx(mse_loss(network()(x), y).item())


@pytest.mark.parametrize("steps", [1, 3])
def test_exact_maml_goes_down_the_loss_after_adaptation(steps: int) -> None:
    model, support, query = network(), data(T, N), data(T, 7, seed=1)
    start = vector(model).copy()
    probe = network()

    def objective(theta: np.ndarray) -> float:
        nn.utils.vector_to_parameters(torch.from_numpy(theta.copy()), probe.parameters())
        return after_adaptation(probe, support, query, 0.1, steps)

    expected = numerical_gradient(objective, start)
    loss = maml_step(
        model, sgd(model), mse_loss, support, query, lr=0.1, steps=steps, first_order=False
    )
    assert relative_error(start - vector(model), expected) < 1e-6
    assert loss.item() == pytest.approx(objective(start))


@pytest.mark.parametrize("steps", [1, 3])
def test_first_order_maml_is_the_query_gradient_at_the_adapted_parameters(steps: int) -> None:
    model, support, query = network(), data(T, N), data(T, 7, seed=1)
    rows = []
    for k in range(T):
        adapted = by_hand(model, [(support[0][k], support[1][k])] * steps, 0.1)
        moved = by_hand(adapted, [(query[0][k], query[1][k])], lr=1.0)
        rows.append(vector(adapted) - vector(moved))
    start = vector(model).copy()
    loss = maml_step(model, sgd(model), mse_loss, support, query, lr=0.1, steps=steps)
    np.testing.assert_allclose(start - vector(model), np.mean(rows, 0), rtol=1e-8, atol=1e-12)
    assert loss.item() == pytest.approx(after_adaptation(network(), support, query, 0.1, steps))


def test_a_frozen_layer_stays_and_the_rest_is_adapted_around_it() -> None:
    model, support = network(), data(T, N)
    model[0].requires_grad_(False)
    before = [p.clone() for p in model.parameters()]
    maml_step(model, sgd(model, 0.1), mse_loss, support, support, lr=0.1)
    same = [torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert same == [True, True, False, False]


def test_old_gradients_do_not_leak_into_the_step() -> None:
    clean, dirty, support = network(), network(), data(T, N)
    for parameter in dirty.parameters():
        parameter.grad = torch.ones_like(parameter)
    for model in (clean, dirty):
        maml_step(model, sgd(model), mse_loss, support, support, lr=0.1)
    assert np.array_equal(vector(clean), vector(dirty))


def test_the_start_gets_better_at_being_adapted() -> None:
    model, support, query = network(), data(T, N), data(T, 7, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = [
        maml_step(model, optimizer, mse_loss, support, query, lr=0.1, first_order=False).item()
        for _ in range(50)
    ]
    assert losses[-1] < 0.8 * losses[0]


def test_what_cannot_be_adapted_is_refused_and_nothing_moves() -> None:
    (x, y), model = data(T, N), network()
    before, optimizer = vector(model).copy(), sgd(model)
    normed = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    with pytest.raises(ValueError, match="buffers"):
        maml_step(normed, sgd(normed), mse_loss, (x, y), (x, y), lr=0.1)
    with pytest.raises(ValueError, match="at least 1 step"):
        maml_step(model, optimizer, mse_loss, (x, y), (x, y), lr=0.1, steps=0)
    with pytest.raises(ValueError, match="support has 3 tasks, query 2"):
        maml_step(model, optimizer, mse_loss, (x, y), (x[:2], y[:2]), lr=0.1)
    with pytest.raises(ValueError, match="2 equal leading axes"):
        maml_step(model, optimizer, mse_loss, (x, y[:, :4]), (x, y), lr=0.1)
    with pytest.raises(ValueError, match="3 equal leading axes"):
        reptile_step(model, optimizer, mse_loss, (x, y), lr=0.1)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to adapt"):
        reptile_step(model, optimizer, mse_loss, (x[:, None], y[:, None]), lr=0.1)
    assert np.array_equal(vector(model), before)


def test_dropout_draws_its_own_mask_for_every_task() -> None:
    model = nn.Sequential(nn.Linear(2, 50), nn.Dropout(), nn.Linear(50, 1)).double()
    x, y = (array[:1].expand(2, N, -1) for array in data(T, N))
    outputs: list[Tensor] = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        outputs.append(output)
        return mse_loss(output, target)

    assert maml_step(model, sgd(model, 0.1), loss, (x, y), (x, y), lr=0.1).isfinite()
    assert len(outputs) == 2  # adaptation, judgement
    assert functional_call(model, dict(model.named_parameters()), (x,)).shape == (2, N, 1)
