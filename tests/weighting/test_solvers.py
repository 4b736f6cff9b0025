from itertools import chain, combinations

import numpy as np
import pytest

from mtl_tutorial.weighting._adam import adam_step
from mtl_tutorial.weighting._solvers import (
    min_norm,
    norms_and_cosines,
    points,
    project_on_dual_cone,
    spectrum,
)
from tests.weighting.adversarial import KINDS, adversarial, gramians

SEEDS = pytest.mark.parametrize("seed", range(40))


def matrix(seed: int) -> np.ndarray:
    """Up to six columns, some of rank below their number, some of very different length."""
    rng = np.random.default_rng(seed)
    columns = rng.standard_normal((rng.integers(1, 6), rng.integers(1, 7)))
    if seed % 3 == 1:
        columns *= 10.0 ** rng.integers(-3, 4, columns.shape[1])
    if seed % 3 == 2:
        columns[:, -1] = -columns[:, 0]
    return columns


def supports(tasks: int) -> chain[tuple[int, ...]]:
    return chain.from_iterable(combinations(range(tasks), k) for k in range(1, tasks + 1))


def every_min_norm(columns: np.ndarray) -> float:
    """The least norm over all faces of the simplex, each solved by itself."""
    best = np.inf
    for face in supports(columns.shape[1]):
        first, *others = columns[:, face].T
        edges = np.array([o - first for o in others]).reshape(-1, len(first)).T
        shares = np.linalg.lstsq(edges, -first)[0]
        if (shares >= -1e-9).all() and shares.sum() <= 1 + 1e-9:
            best = min(best, float(np.linalg.norm(first + edges @ shares)))
    return best


@SEEDS
def test_min_norm_against_every_face(seed: int) -> None:
    columns = matrix(seed)
    weights = min_norm(columns)
    length = np.linalg.norm(columns @ weights)
    scale = np.linalg.norm(columns, axis=0).min()
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    assert length == pytest.approx(every_min_norm(columns), rel=1e-9, abs=1e-9 * scale)


@SEEDS
def test_min_norm_is_stationary(seed: int) -> None:
    """No column has a smaller product with the point than the point with itself."""
    columns = matrix(seed)
    point = columns @ min_norm(columns)
    lengths = np.linalg.norm(columns, axis=0)
    assert ((columns.T @ point - point @ point) / lengths).min() >= -1e-12 * lengths.min()


def test_min_norm_with_zero_columns() -> None:
    assert min_norm(np.array([[1.0, 0.0, 0.0]])).tolist() == [0, 0.5, 0.5]
    assert min_norm(np.zeros((0, 2))).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("exponent", [-150, -20, 20, 150])
def test_min_norm_at_any_scale(exponent: int) -> None:
    columns = matrix(0)
    np.testing.assert_allclose(min_norm(columns * 10.0**exponent), min_norm(columns), atol=1e-12)


@SEEDS
def test_projection_on_the_dual_cone(seed: int) -> None:
    """Feasible, a combination with v >= u, and what was added is orthogonal to the result."""
    columns = matrix(seed)
    columns = columns / np.linalg.norm(columns, axis=0)
    for start in np.eye(columns.shape[1]):
        weights = project_on_dual_cone(columns, start)
        point = columns @ weights
        assert (weights >= start).all()
        assert (columns.T @ point).min() >= -1e-12
        assert abs(point @ columns @ (weights - start)) <= 1e-12


@SEEDS
@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_points_have_the_gramian_and_its_noise(seed: int, precision: type) -> None:
    columns = matrix(seed)
    gramian = (columns.T @ columns).astype(precision)
    directions, norms, noise = points(gramian)
    assert 8 * np.finfo(precision).eps <= noise / len(norms) <= 12 * np.finfo(precision).eps
    cosines = norms_and_cosines(gramian)[1]
    here = np.diag((norms > 0).astype(float))
    np.testing.assert_allclose(directions.T @ directions, cosines + noise * here, atol=1e-13)


def test_no_combination_is_longer_than_that_of_the_points() -> None:
    """Nor longer by more than the noise allows; to 1 %, which is the rounding of the norms."""
    for kind in KINDS:
        for rows in adversarial(kind, 50):
            for gramian in gramians(rows):
                directions, norms, noise = points(gramian)
                scale = np.where(norms > 0, norms, np.inf)
                units = rows.astype(float) / scale[:, None]
                exact, ours = units @ units.T, directions.T @ directions
                above = exact * 1.02 + 2 * noise * np.eye(len(rows))
                assert np.linalg.eigvalsh(ours - exact / 1.02)[0] >= -1e-12
                assert np.linalg.eigvalsh(above - ours)[0] >= -1e-12


def test_noise_shows_in_negative_eigenvalues() -> None:
    """Half precision, stored as single: the type says 1e-6, the eigenvalue tells the truth."""
    row = np.random.default_rng(0).standard_normal(100)
    rows = np.outer([1, 0.37, 1.9], row)
    gramian = (rows @ rows.T / 100).astype(np.float16).astype(np.float32)
    cosines = norms_and_cosines(gramian)[1]
    values, _, noise = spectrum(cosines, gramian.dtype)
    assert values[0] < -1e-5
    assert noise >= 2 * -values[0] > 10 * 3 * 8 * np.finfo(np.float32).eps


def test_a_zero_gradient_is_a_zero_point() -> None:
    directions, norms, _ = points(np.diag([4.0, 0.0, 0.0]))
    assert np.linalg.norm(directions, axis=0) == pytest.approx([1, 0, 0])
    assert norms.tolist() == [2, 0, 0]


def test_cosines_beyond_1_count_as_noise() -> None:
    """Where squares underflow, or rounding breaks the Cauchy-Schwarz inequality."""
    gramian = np.array([[1e-45, 3e-45], [3e-45, 1e-45]], np.float32)
    assert norms_and_cosines(gramian)[1] == pytest.approx(np.array([[1, 2], [2, 1]]))
    assert points(gramian)[2] == pytest.approx(2, rel=1e-5)
    norms, cosines = norms_and_cosines(np.array([[0.0, 1e-20], [1e-20, 4.0]]))
    assert norms.tolist() == [0, 2]
    assert cosines.tolist() == [[0, 0], [0, 1]]


def test_adam_counts_each_tasks_own_steps() -> None:
    moments, steps, here = np.zeros((2, 2)), np.zeros(2), np.array([True, False])
    together = np.zeros((2, 1)), np.zeros(1)
    for gradient in ([0.3], [-0.1], [0.5]):
        step = adam_step(moments, steps, here, np.array(gradient))
        alone = adam_step(*together, slice(None), np.array(gradient))
        assert step.tolist() == alone.tolist()
    assert steps.tolist() == [3, 0]
    assert moments[:, 1].tolist() == [0, 0]
