import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mtl_tutorial.pytorch import HardSharing, linear_heads, lookahead_affinity, mlp, task_loss
from mtl_tutorial.tasks import Binary, Classification, Regression, Task

TASKS: list[Task] = [Classification("kind", classes=3), Binary("big"), Regression("size")]


def network() -> HardSharing:
    torch.manual_seed(0)
    return HardSharing(mlp(4, 6, 5), linear_heads(TASKS, features=5)).double()


def data() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(20, 4))
    y = {"kind": generator.integers(3, size=20), "big": generator.integers(2, size=20)}
    return x, y | {"size": x.sum(axis=1)}


def values(model: Any, x: np.ndarray, y: dict[str, np.ndarray]) -> list[torch.Tensor]:
    outputs = model(torch.from_numpy(x))
    return [task_loss(t, outputs[t.name], torch.from_numpy(y[t.name])) for t in TASKS]


def test_each_row_is_a_step_of_a_copy() -> None:
    model, (x, y) = network(), data()
    found = lookahead_affinity(model, TASKS, x, y, lr=0.1)
    before = values(model, x, y)
    for i in range(3):
        moved = copy.deepcopy(model)
        values(moved, x, y)[i].backward()
        torch.optim.SGD(moved.trunk.parameters(), lr=0.1).step()
        for j, loss in enumerate(values(moved, x, y)):
            assert found[i, j] == pytest.approx(1 - loss.item() / before[j].item(), abs=1e-12)


def test_a_small_step_gives_what_the_gramian_says() -> None:
    model, (x, y) = network(), data()
    losses = values(model, x, y)
    theta = list(model.trunk.parameters())
    rows = [torch.autograd.grad(loss, theta, retain_graph=True) for loss in losses]
    jacobian = torch.stack([torch.cat([g.ravel() for g in row]) for row in rows]).numpy()
    expected = jacobian @ jacobian.T / np.array([loss.item() for loss in losses])
    found = lookahead_affinity(model, TASKS, x, y, lr=1e-6) / 1e-6
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_the_model_is_left_as_it_was() -> None:
    model, (x, y) = network(), data()
    resting = nn.Dropout(0.5).eval()
    model.trunk = nn.Sequential(model.trunk, nn.BatchNorm1d(5).double(), nn.Dropout(0.5), resting)
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    first, second = (lookahead_affinity(model, TASKS, x, y, lr=0.1) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())


def test_an_absent_task_has_no_affinity() -> None:
    model, (x, y) = network(), data()
    y["big"][:] = -1
    found = lookahead_affinity(model, TASKS, x, y, lr=0.1)
    assert np.isnan(found[1]).all()
    assert np.isnan(found[:, 1]).all()
    assert np.isfinite(found[np.ix_([0, 2], [0, 2])]).all()


def test_refused() -> None:
    model, (x, y) = network(), data()
    with pytest.raises(KeyError, match="no target named 'size'"):
        lookahead_affinity(model, TASKS, x, {"kind": y["kind"], "big": y["big"]}, lr=0.1)
    with pytest.raises(ValueError, match="lr must be above 0; got 0"):
        lookahead_affinity(model, TASKS, x, y, lr=0)
    y["kind"][7] = 5
    with pytest.raises(ValueError, match="task 'kind': row 7 holds 5"):
        lookahead_affinity(model, TASKS, x, y, lr=0.1)
    model.trunk.requires_grad_(False)
    with pytest.raises(ValueError, match="no shared parameter is trained"):
        lookahead_affinity(model, TASKS, x, y, lr=0.1)
