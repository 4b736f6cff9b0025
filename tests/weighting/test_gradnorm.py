import numpy as np
import pytest
import torch

from mtl_tutorial.weighting import GradNorm


def test_is_the_papers_update_by_autograd_and_adam_over_200_steps() -> None:
    """Gradient of sum |w_k |g_k| - target| by autograd, target detached; torch's Adam on w."""
    rng = np.random.default_rng(0)
    method = GradNorm(alpha=0.7, lr=0.01)
    values = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([values], lr=0.01)
    first = None
    for _ in range(200):
        losses, rows = rng.uniform(0.5, 2, 3), rng.standard_normal((3, 5)) * [[1], [3], [0.5]]
        first = losses if first is None else first
        weights = method(losses, rows @ rows.T)
        np.testing.assert_allclose(weights, values.detach().numpy(), rtol=1e-9)
        pulls = values * torch.from_numpy(np.linalg.norm(rows, axis=1))
        mean, ratios = pulls.mean().detach(), torch.from_numpy(losses / first)
        optimizer.zero_grad()
        loss = (pulls - mean * (ratios / ratios.mean()) ** 0.7).abs().sum() / mean
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            values *= 3 / values.sum()


def test_brings_the_gradients_to_one_length() -> None:
    method, norms = GradNorm(alpha=0, lr=0.01), np.array([1.0, 2.0, 4.0])
    for _ in range(1000):
        weights = method([1, 1, 1], np.diag(norms**2))
    pulls = weights * norms
    assert pulls == pytest.approx([pulls.mean()] * 3, rel=0.05)
    assert weights.sum() == pytest.approx(3)


def test_task_that_lags_behind_pulls_more() -> None:
    method = GradNorm(lr=0.01)
    for loss in np.linspace(1, 0.5, 200):
        weights = method([loss, 1.0], np.eye(2))
    assert weights[1] > weights[0]


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_common_scale_plays_no_part(scale: float) -> None:
    found = []
    for factor in (1.0, scale):
        method = GradNorm()
        for _ in range(20):
            weights = method([1.0, 2.0], np.diag([1.0, 9.0]) * factor**2)
        found.append(weights)
    assert found[0] == pytest.approx(found[1])


def test_only_the_diagonal_is_read() -> None:
    rows = np.random.default_rng(0).standard_normal((3, 4))
    full, diagonal = GradNorm(), GradNorm()
    for _ in range(3):
        weights = full([1, 2, 3], rows @ rows.T)
        assert weights.tolist() == diagonal([1, 2, 3], np.diag(np.diag(rows @ rows.T))).tolist()


def test_weights_stay_positive() -> None:
    method = GradNorm(lr=0.9)
    for _ in range(50):
        weights = method([1, 1], np.diag([1e-6, 1e6]))
        assert weights.min() >= 1e-3 * 2 / (2 + 2 * 0.9 * 1.01)
        assert weights.sum() == pytest.approx(2)


def test_absent_tasks_leave_the_sum() -> None:
    method = GradNorm()
    for present in ([True] * 3, [True, False, True], [True] * 3):
        weights = method([1, 2, 3], np.diag([1.0, 4.0, 9.0]), present=present)
    assert weights.sum() == pytest.approx(3)


def test_task_first_seen_later_starts_from_its_own_first_loss() -> None:
    method = GradNorm()
    method([1, 5], np.eye(2), present=[True, False])
    method([0.5, 7], np.eye(2))
    assert method.first_losses.tolist() == [1, 7]


def test_all_gradients_zero_changes_nothing() -> None:
    method = GradNorm()
    for _ in range(3):
        assert method([1, 2], np.zeros((2, 2))).tolist() == [1, 1]


@pytest.mark.parametrize(("alpha", "lr"), [(-1, 0.1), (1, -0.1), (np.nan, 1), (1, np.inf)])
def test_settings_must_make_sense(alpha: float, lr: float) -> None:
    with pytest.raises(ValueError, match="alpha and lr must be at least 0"):
        GradNorm(alpha, lr)


def test_it_weights_the_losses_although_it_needs_the_gramian() -> None:
    assert GradNorm.needs_gramian
    assert GradNorm.weights_heads
