"""Input at the edge: the weights are finite, whatever Gramian or losses come."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mtl_tutorial.weighting import PCGrad, UPGrad
from tests.weighting.properties import METHODS

each_method = pytest.mark.parametrize("name", METHODS)
SEEDS = st.integers(0, 2**32 - 1)
EXPONENTS = st.integers(-20, 20)
KINDS = st.sampled_from(["free", "zero", "equal", "opposite", "parallel", "close"])


@st.composite
def gramians(draw: st.DrawFn) -> np.ndarray:
    """Rows that are free, zero, equal, opposite, parallel or almost equal to the first one."""
    kinds = draw(st.lists(KINDS, min_size=1, max_size=7))
    rng = np.random.default_rng(draw(SEEDS))
    rank = draw(st.integers(1, 4))
    rows = rng.standard_normal((len(kinds), rank))
    for row, kind in enumerate(kinds[1:], start=1):
        if kind != "free":
            rows[row] = {
                "zero": 0 * rows[0],
                "equal": rows[0],
                "opposite": -rows[0],
                "parallel": 3 * rows[0],
                "close": rows[0] * (1 + 1e-9) + 1e-12 * rows[row],
            }[kind]
    single = draw(st.booleans())
    limit = 15 if single else 20  # a norm of 1e20 has no square in float32
    together = draw(st.booleans())
    exponents = [draw(EXPONENTS) for _ in kinds[: 1 if together else None]]
    rows = rows * 10.0 ** np.clip(np.array(exponents), -limit, limit)[:, None]
    if kinds[0] == "zero":
        rows[0] = 0
    rows = rows.astype(np.float32 if single else np.float64)
    return np.asarray(rows @ rows.T)


@each_method
@settings(max_examples=50)
@given(gramian=gramians(), exponents=st.lists(EXPONENTS, min_size=7, max_size=7))
@example(gramian=np.array([[1.0, -1.0], [-1.0, 1.0]]), exponents=[0] * 7)
@example(gramian=np.zeros((3, 3)), exponents=[-20, 0, 20] * 3)
@example(gramian=np.zeros((2, 2), np.float32), exponents=[20] * 7)
@example(gramian=np.array([[1e-45]], np.float32), exponents=[-20] * 7)
@example(gramian=np.array([[1e40, -1e0], [-1e0, 1e-40]]), exponents=[0] * 7)
@example(gramian=np.array([[1, 2], [2, 4]]), exponents=[0] * 7)
@example(gramian=np.array([[1, -1 - 1e-7], [-1 - 1e-7, 1]]), exponents=[0] * 7)
def test_weights_are_finite(name: str, gramian: np.ndarray, exponents: list[int]) -> None:
    tasks = len(gramian)
    method, losses = METHODS[name](tasks), 10.0 ** np.array(exponents[:tasks])
    for now in (losses, losses * 0.9, np.zeros(tasks), losses[::-1], losses):
        weights = method(now, gramian)
        assert weights.shape == (tasks,)
        assert np.isfinite(weights).all()
        method.end_epoch()
        if method.needs_observe:
            method.observe(now * 0.5)


@each_method
def test_a_gramian_of_any_type_will_do(name: str) -> None:
    rows = np.random.default_rng(0).standard_normal((3, 20))
    for precision in (np.float16, np.float32, np.float64, np.longdouble, int):
        weights = METHODS[name](3)(np.ones(3), (rows @ rows.T).round().astype(precision))
        assert np.isfinite(weights).all()


@each_method
def test_single_precision_of_a_full_rank_gramian_changes_little(name: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = rng.standard_normal((4, 20)).astype(np.float32)
        single, double = rows @ rows.T, rows.astype(float) @ rows.T.astype(float)
        losses = rng.uniform(0.1, 1, 4)
        weights = [METHODS[name](4)(losses, gramian) for gramian in (single, double)]
        np.testing.assert_allclose(weights[0], weights[1], rtol=1e-3, atol=1e-4)


@each_method
def test_a_single_task_keeps_its_direction(name: str) -> None:
    method = METHODS[name](1)
    if name != "Static":
        assert method([0.7], [[4.0]]) > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@each_method
def test_bad_input_names_the_task(name: str, bad: float) -> None:
    method = METHODS[name](3)
    if method.needs_losses:
        with pytest.raises(ValueError, match=r"loss of task 1 \('b'\)"):
            method([1, bad, 1], np.eye(3), names=["a", "b", "c"])
    if method.needs_gramian:
        with pytest.raises(ValueError, match=r"norm of task 2 \('c'\)"):
            method([1, 1, 1], np.diag([1, 1, bad]), names=["a", "b", "c"])


@given(gramians())
def test_upgrad_never_conflicts_whatever_the_lengths(gramian: np.ndarray) -> None:
    weights = UPGrad()(np.ones(len(gramian)), gramian)
    norms = np.sqrt(np.diagonal(gramian).astype(float))
    pulls = weights * norms
    if gramian.dtype == float and (norms > 0).any():
        products = (gramian / np.where(norms > 0, norms, 1)[:, None]) @ weights
        assert products.min() >= -1e-12 * pulls.sum()


@given(gramians())
def test_pcgrad_never_shrinks_a_weight(gramian: np.ndarray) -> None:
    assert (PCGrad()(np.ones(len(gramian)), gramian) >= 1).all()
