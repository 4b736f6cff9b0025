"""Our weights against TorchJD's, on random and structured Gramians of 2 to 20 tasks.

TorchJD solves UPGrad, CAGrad and Nash-MTL with optional packages. What it gives with them stands in
``torchjd_solvers.json``; to write that file anew, install
``torchjd[quadprog_projector,cagrad,nash_mtl]`` and run
``python -m tests.weighting.test_agreement_with_torchjd``.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchjd import aggregation, scalarization
from torchjd.linalg import QuadprogProjector

from mtl_tutorial.weighting import (
    DWA,
    FAMO,
    IMTLG,
    MGDA,
    RLW,
    UW,
    AlignedMTL,
    CAGrad,
    Equal,
    NashMTL,
    PCGrad,
    UPGrad,
    Weighting,
)

TABLE = Path(__file__).parent / "torchjd_solvers.json"
KINDS = ("plain", "conflict", "agree", "lengths", "correlated")


def jacobians(count: int, most: int = 20) -> Iterator[np.ndarray]:
    """Full rank: plain, in strong conflict, in agreement, of different lengths, correlated."""
    rng = np.random.default_rng(0)
    for number in range(count):
        tasks = 2 + number // len(KINDS) % (most - 1)
        kind = KINDS[number % len(KINDS)]
        jacobian = rng.standard_normal((tasks, tasks + 10))
        if kind == "conflict":
            jacobian -= 0.7 * jacobian.mean(axis=0)
        if kind == "agree":
            jacobian += 2 * rng.standard_normal(tasks + 10)
        if kind == "lengths":
            jacobian *= 10 ** rng.uniform(-1, 1, (tasks, 1))
        if kind == "correlated":
            jacobian[1:] += 2 * jacobian[:-1]
        yield jacobian


def combine(method: Weighting, jacobian: np.ndarray) -> np.ndarray:
    weights = method(np.ones(len(jacobian)), jacobian @ jacobian.T)
    return np.asarray(weights @ jacobian)


def difference(ours: np.ndarray, theirs: np.ndarray, jacobian: np.ndarray) -> float:
    """Distance of two combined gradients in units of the mean length of a task gradient."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(jacobian, axis=1).mean())


@pytest.mark.parametrize(
    ("method", "reference"),
    [
        (IMTLG(), aggregation.IMTLG()),
        (AlignedMTL(), aggregation.AlignedMTL()),
        (Equal(), aggregation.Sum()),
    ],
    ids=lambda method: type(method).__name__,
)
def test_closed_forms(method: Weighting, reference: Any) -> None:
    for jacobian in jacobians(1000):
        theirs = reference(torch.from_numpy(jacobian)).numpy()
        assert difference(combine(method, jacobian), theirs, jacobian) < 1e-8


def test_mgda() -> None:
    """Frank-Wolfe is as far from the minimum as its length allows, and ours is never longer."""
    reference, found = aggregation.MGDA(), []
    for jacobian in jacobians(285):
        ours, theirs = combine(MGDA(), jacobian), reference(torch.from_numpy(jacobian)).numpy()
        excess = theirs @ theirs - ours @ ours
        found.append(excess / (ours @ ours))
        assert (ours - theirs) @ (ours - theirs) <= excess + 1e-9 * (ours @ ours)
        if len(jacobian) == 2:
            assert difference(ours, theirs, jacobian) < 1e-9
    assert min(found) > -1e-9
    assert np.median(found) < 0.1


def test_pcgrad(monkeypatch: pytest.MonkeyPatch) -> None:
    orders = np.random.default_rng(5)
    monkeypatch.setattr(torch, "randperm", lambda n: torch.from_numpy(orders.permutation(n)))
    method, reference = PCGrad(seed=5), aggregation.PCGrad()
    for jacobian in jacobians(285):
        theirs = reference(torch.from_numpy(jacobian)).numpy()
        assert difference(combine(method, jacobian), theirs, jacobian) < 1e-9


def test_rlw(monkeypatch: pytest.MonkeyPatch) -> None:
    normal = np.random.default_rng(5).standard_normal
    monkeypatch.setattr(torch, "randn", lambda n, **_: torch.from_numpy(normal(n)))
    method, reference = RLW(seed=5), scalarization.Random()
    for losses in np.random.default_rng(0).uniform(0.1, 3, (200, 7)):
        assert method(losses) @ losses == pytest.approx(reference(torch.from_numpy(losses)).item())


def table() -> list[dict[str, Any]]:
    """What TorchJD gives on rounded Jacobians, written by :func:`write_table`."""
    rows = json.loads(TABLE.read_text())
    return [{key: np.array(value) for key, value in row.items()} for row in rows]


def test_upgrad() -> None:
    """Its regularisation set to 1e-10; with the default 1e-4 it is up to 0.3 away."""
    for row in table():
        jacobian = row["jacobian"]
        assert difference(combine(UPGrad(), jacobian), row["UPGrad"] @ jacobian, jacobian) < 1e-6


@pytest.mark.parametrize("c", [0.5, 1.5])
def test_cagrad(c: float) -> None:
    """To the accuracy of CLARABEL; our objective is never the higher one."""
    for row in table():
        jacobian, theirs = row["jacobian"], row[f"CAGrad({c})"]
        ours = CAGrad(c)(np.ones(len(jacobian)), jacobian @ jacobian.T)
        assert difference(ours @ jacobian, theirs @ jacobian, jacobian) < 2e-3
        values = []
        for weights in (ours, theirs):
            simplex = (weights - 1 / len(jacobian)) / (weights.sum() - 1)
            g_w, g_0 = simplex @ jacobian, jacobian.mean(axis=0)
            values.append(g_w @ g_0 + c * np.linalg.norm(g_0) * np.linalg.norm(g_w))
        assert values[0] <= values[1] + 1e-7 * abs(values[1])


def test_nashmtl() -> None:
    """At two tasks the same; beyond, TorchJD is now and then far from stationary and we are not."""
    strayed = []
    for row in table():
        jacobian, theirs = row["jacobian"], row["NashMTL"]
        ours = NashMTL(max_norm=0)(np.ones(len(jacobian)), jacobian @ jacobian.T)
        products = [w * (jacobian @ jacobian.T @ w) for w in (ours, theirs)]
        np.testing.assert_allclose(products[0], 1, rtol=1e-6)
        if len(jacobian) == 2:
            assert difference(ours @ jacobian, theirs @ jacobian, np.eye(2)) < 0.02
        else:
            strayed.append(np.ptp(products[1]) > 0.05)
    assert np.mean(strayed) > 0.1


def test_uw_over_200_steps() -> None:
    rng = np.random.default_rng(0)
    method, reference = UW(lr=0.1), scalarization.UW(4).double()
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    for losses in rng.uniform(0.1, 3, (200, 4)):
        leaf = torch.tensor(losses, requires_grad=True)
        optimizer.zero_grad()
        reference(leaf).backward()
        optimizer.step()
        assert leaf.grad is not None
        np.testing.assert_allclose(method(losses), leaf.grad.numpy(), rtol=1e-12)


def test_dwa_over_200_steps() -> None:
    rng = np.random.default_rng(0)
    method, reference = DWA(temperature=1.5), scalarization.DWA(temperature=1.5)
    for step, losses in enumerate(rng.uniform(0.1, 3, (200, 4)), start=1):
        leaf = torch.tensor(losses, requires_grad=True)
        reference(leaf).backward()
        assert leaf.grad is not None
        np.testing.assert_allclose(method(losses), leaf.grad.numpy(), rtol=1e-12)
        if step % 7 == 0:
            method.end_epoch()
            reference.step()


def test_famo_over_200_steps() -> None:
    rng = np.random.default_rng(0)
    bounds = np.array([0.0, 0.05, 0.0, -1.0])
    method = FAMO(lr=0.05, gamma=0.01, min_losses=bounds)
    reference = scalarization.FAMO(
        4, min_losses=torch.from_numpy(bounds), lr=0.05, weight_decay=0.01
    ).double()
    for losses in rng.uniform(0.1, 3, (200, 4)):
        leaf = torch.tensor(losses, requires_grad=True)
        reference(leaf).backward()
        assert leaf.grad is not None
        np.testing.assert_allclose(method(losses), leaf.grad.numpy(), rtol=1e-9)
        after = losses * rng.uniform(0.7, 1.1, 4)
        method.observe(after)
        reference.update(torch.from_numpy(after))


def write_table() -> None:  # pragma: no cover
    """Needs TorchJD's optional packages."""
    projector = QuadprogProjector(norm_eps=0.0, reg_eps=1e-10)
    rows = []
    for exact in jacobians(60, most=9):
        jacobian = exact.round(3)
        gramian, tensor = torch.from_numpy(jacobian @ jacobian.T), torch.from_numpy(jacobian)
        references: dict[str, Any] = {
            "UPGrad": aggregation.UPGradWeighting(projector=projector)(gramian),
            "CAGrad(0.5)": aggregation.CAGradWeighting(0.5)(gramian),
            "CAGrad(1.5)": aggregation.CAGradWeighting(1.5)(gramian),
            "NashMTL": aggregation.NashMTL(len(jacobian), max_norm=0).weighting(tensor),
        }
        found = {name: weights.numpy().round(9).tolist() for name, weights in references.items()}
        rows.append({"jacobian": jacobian.tolist(), **found})
    TABLE.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


if __name__ == "__main__":  # pragma: no cover
    write_table()
