from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from mtl_tutorial.relatedness import (
    choose_groups,
    cka,
    gradient_affinity,
    information,
    mmd,
    rank_agreement,
    reliability,
    transfer_matrix,
)

SEEDS = st.integers(0, 2**32 - 1)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# information


def told(target: np.ndarray, partner: np.ndarray) -> float:
    """By its definition, one pair of classes after the other."""
    total, unknown = 0.0, 0.0
    for y in set(target.tolist()):
        p_y = np.mean(target == y)
        unknown -= p_y * np.log(p_y)
        for x in set(partner.tolist()):
            p_x, p_xy = np.mean(partner == x), np.mean((target == y) & (partner == x))
            total += p_xy * np.log(p_xy / (p_x * p_y)) if p_xy > 0 else 0.0
    return total / unknown


@given(SEEDS, st.integers(2, 6), st.integers(1, 6), st.integers(10, 60))
def test_information_by_its_definition(seed: int, classes: int, others: int, rows: int) -> None:
    generator = np.random.default_rng(seed)
    target = np.append(generator.integers(classes, size=rows), [0, 1])
    partner = generator.integers(others, size=rows + 2) * 7  # numbers of classes may have gaps
    found = information(target, partner, permutations=1)
    assert found.value == pytest.approx(told(target, partner), abs=1e-9)


def test_a_label_that_determines_another_tells_all_of_it() -> None:
    digit = np.arange(40) % 10
    assert information(digit % 2, digit).value == pytest.approx(1)
    found = information(digit, digit % 2)
    assert found.value == pytest.approx(np.log(2) / np.log(10))
    assert found.p_value == pytest.approx(1 / 1001, rel=3)


def test_chance_is_what_few_rows_pretend() -> None:
    generator = np.random.default_rng(3)
    found = information(generator.integers(10, size=60), generator.integers(10, size=60))
    assert found.value > 0.2
    assert found.value == pytest.approx(found.chance, abs=0.1)
    assert found.p_value > 0.01


def test_p_values_of_independent_labels_are_uniform() -> None:
    generator = np.random.default_rng(0)
    p = [
        information(*generator.integers(3, size=(2, 50)), permutations=99, seed=i).p_value
        for i in range(200)
    ]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.06)


def test_rows_without_both_labels_are_left_out() -> None:
    target, partner = np.array([0, 1, 0, 1, -1, 0]), np.array([0.0, 1.0, 0.0, 1.0, 5.0, np.nan])
    assert information(target, partner).value == pytest.approx(1)
    assert information(target[:4], partner[:4]) == information(target, partner)


def test_numbers_are_sorted_into_bins_of_equal_counts() -> None:
    number = normal(400)
    quarter = np.searchsorted(np.quantile(number, [0.25, 0.5, 0.75]), number, side="right")
    assert information(quarter, number, bins=4).value == pytest.approx(1)
    assert information(quarter, np.exp(number), bins=4).value == pytest.approx(1)


@pytest.mark.parametrize(
    ("target", "partner", "message"),
    [
        ([0, 1], [0, 1, 0], r"got shapes \(2,\) and \(3,\)"),
        ([[0, 1]], [[0, 1]], "one number a row"),
        ([0, -1, 1], [-1, 0, 1], "1 rows have both labels"),
        ([1, 1, 0], [0, 1, -1], "the same in all rows"),
    ],
)
def test_labels_that_cannot_be_compared(target: Any, partner: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        information(np.array(target), np.array(partner))


# inputs


def discrepancy(x: np.ndarray, y: np.ndarray, scale: float) -> float:
    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-((a - b) ** 2).sum() / (2 * scale**2)))

    own = [
        np.mean([kernel(z[i], z[j]) for i, j in product(range(len(z)), repeat=2) if i != j])
        for z in (x, y)
    ]
    return float(sum(own) - 2 * np.mean([kernel(a, b) for a, b in product(x, y)]))


@settings(max_examples=20)
@given(SEEDS, st.integers(2, 6), st.integers(2, 6), st.sampled_from([0.3, 2.0]))
def test_mmd_by_its_definition(seed: int, n: int, m: int, scale: float) -> None:
    x, y = normal(n, 3, seed=seed), normal(m, 3, seed=seed + 1) + 0.5
    found = mmd(x, y, scale=scale, permutations=3)
    assert found.value == pytest.approx(discrepancy(x, y, scale), abs=1e-12)


def test_mmd_takes_the_median_distance_and_images() -> None:
    x, y = normal(5, 2, 2), normal(6, 2, 2, seed=1)
    rows = np.concatenate([x, y]).reshape(11, 4)
    distances = [np.linalg.norm(rows[i] - rows[j]) for i in range(11) for j in range(i)]
    expected = discrepancy(x.reshape(5, 4), y.reshape(6, 4), float(np.median(distances)))
    assert mmd(x, y).value == pytest.approx(expected)
    assert mmd(y, x).value == pytest.approx(expected)


def test_mmd_tells_what_differs_from_what_does_not() -> None:
    x = normal(150, 4)
    assert mmd(x[:70], x[70:] * 1.6).p_value < 0.01  # equal means
    p = [mmd(*np.split(normal(40, 4, seed=s), 2), permutations=99).p_value for s in range(100)]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.08)


def test_inputs_that_cannot_be_compared() -> None:
    x = normal(10, 3)
    with pytest.raises(ValueError, match="rows of 3 numbers and of 2 cannot be compared"):
        mmd(x, normal(10, 2))
    with pytest.raises(ValueError, match=r"other has shape \(1, 3\); a row an example"):
        mmd(x, x[:1])
    with pytest.raises(ValueError, match=r"one has shape \(10,\)"):
        mmd(x[:, 0], x)
    wrong = x.copy()
    wrong[4, 1] = np.inf
    with pytest.raises(ValueError, match="row 4 of other is not finite"):
        mmd(x, wrong)


def test_mmd_needs_a_scale() -> None:
    with pytest.raises(ValueError, match="scale must be above 0; got 0"):
        mmd(normal(4, 2), normal(4, 2), scale=0)
    with pytest.raises(ValueError, match="half of all rows are equal"):
        mmd(np.zeros((4, 2)), np.zeros((4, 2)))


# features


@given(SEEDS, st.integers(3, 12), st.integers(1, 5), st.integers(1, 5))
def test_cka_by_its_kernels(seed: int, rows: int, f: int, g: int) -> None:
    x, y = normal(rows, f, seed=seed), normal(rows, g, seed=seed + 1)
    centre = np.eye(rows) - 1 / rows
    k, l = (centre @ z @ z.T @ centre for z in (x, y))
    expected = (k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum())
    assert cka(x, y) == pytest.approx(expected, abs=1e-9)
    assert cka(y, x) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_cka_sees_no_rotation_shift_or_scale(debiased: bool, scale: float) -> None:
    x = normal(30, 4)
    turn = np.linalg.qr(normal(4, 4, seed=1))[0]
    assert cka(x, scale * (x @ turn + 5), debiased=debiased) == pytest.approx(1)


def test_debiased_cka_of_independent_features_is_0_on_average() -> None:
    """Features as many as rows: the plain one is near 1 however unrelated they are."""
    pairs = [(normal(20, 40, seed=s), normal(20, 40, seed=1000 + s)) for s in range(60)]
    assert min(cka(*pair) for pair in pairs) > 0.5
    assert np.mean([cka(*pair, debiased=True) for pair in pairs]) == pytest.approx(0, abs=0.05)


def test_debiased_cka_by_the_formula_of_song() -> None:
    x, y = normal(8, 3), normal(8, 2, seed=1)

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        k, l, n, one = a @ a.T, b @ b.T, 8, np.ones(8)
        np.fill_diagonal(k, 0)
        np.fill_diagonal(l, 0)
        terms = np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        return float((terms - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3)))

    expected = hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))
    assert cka(x, y, debiased=True) == pytest.approx(expected)


def test_features_that_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="features of 5 rows and of 6"):
        cka(normal(5, 2), normal(6, 2))
    with pytest.raises(ValueError, match="features of 'other' are the same for all rows"):
        cka(normal(5, 2), np.full((5, 3), 0.1))
    with pytest.raises(ValueError, match="the number of rows must be at least 4; got 3"):
        cka(normal(3, 2), normal(3, 2), debiased=True)


# gradients


def test_gradient_affinity_is_the_mean_cosine_of_the_steps_in_which_both_were_there() -> None:
    rows = normal(6, 3, 5)
    steps = [{"gramian": g @ g.T} for g in rows]
    for step in steps[:2]:
        step["gramian"][2] = step["gramian"][:, 2] = np.nan
    found = gradient_affinity(steps)
    for i, j in product(range(3), repeat=2):
        own = rows[2:] if 2 in (i, j) else rows
        each = [g[i] @ g[j] / np.linalg.norm(g[i]) / np.linalg.norm(g[j]) for g in own]
        assert found[i, j] == pytest.approx(np.mean(each))


def test_gradient_affinity_of_tasks_that_never_met() -> None:
    gramian = np.array([[1.0, np.nan], [np.nan, np.nan]])
    found = gradient_affinity([{"gramian": gramian}])
    np.testing.assert_array_equal(found, [[1, np.nan], [np.nan, np.nan]])
    with pytest.raises(ValueError, match="there is no step"):
        gradient_affinity([])


# transfer


def test_transfer_matrix_is_one_fit_after_the_other() -> None:
    from sklearn.linear_model import LogisticRegression, Ridge

    x = {"wide": normal(80, 4), "narrow": normal(80, 1, seed=1)}
    classes, numbers = (x["wide"].sum(axis=1) > 0).astype(int), x["narrow"][:, 0] * 2 + 1
    classes[3], numbers[5] = -1, np.nan
    train, test = slice(50), slice(50, None)
    found = transfer_matrix(
        {name: rows[train] for name, rows in x.items()},
        {"class": classes[train], "number": numbers[train]},
        {name: rows[test] for name, rows in x.items()},
        {"class": classes[test], "number": numbers[test]},
    )
    for i, rows in enumerate(x.values()):
        scaled = (rows - rows[train].mean(axis=0)) / rows[train].std(axis=0)
        there = np.delete(np.arange(50), 3)
        by_row = np.delete(rows[train], 3, axis=0)
        own = (rows - by_row.mean(axis=0)) / by_row.std(axis=0)
        head = LogisticRegression(max_iter=1000).fit(own[there], classes[there])
        assert found[i, 0] == pytest.approx(head.score(own[test], classes[test]))
        there = np.delete(np.arange(50), 5)
        by_row = np.delete(rows[train], 5, axis=0)
        scaled = (rows - by_row.mean(axis=0)) / by_row.std(axis=0)
        ridge = Ridge().fit(scaled[there], numbers[there])
        assert found[i, 1] == pytest.approx(ridge.score(scaled[test], numbers[test]))


def test_transfer_matrix_refuses() -> None:
    x, y = {"a": normal(6, 2)}, {"t": np.array([0, 1, 0, 1, 0, 1])}
    with pytest.raises(
        ValueError, match=r"features are named \['a'\] in training, \['b'\] in test"
    ):
        transfer_matrix(x, y, {"b": x["a"]}, y)
    with pytest.raises(ValueError, match=r"labels are named \[\] in training"):
        transfer_matrix(x, {}, x, {})
    with pytest.raises(ValueError, match=r"'t' has labels of shape \(5,\) for 6 rows"):
        transfer_matrix(x, {"t": y["t"][:5]}, x, y)
    with pytest.raises(ValueError, match="'t' has no label in these rows"):
        transfer_matrix(x, y, x, {"t": np.full(6, -1)})
    with pytest.raises(ValueError, match="'t' has one class alone in the training rows"):
        transfer_matrix(x, {"t": np.zeros(6, int)}, x, y)


# do measures predict gains


@given(SEEDS, st.integers(3, 7))
def test_rank_agreement_over_all_pairs_and_within_each_task(seed: int, tasks: int) -> None:
    measure, gains = normal(tasks, tasks, seed=seed), normal(tasks, tasks, seed=seed + 1)
    off = ~np.eye(tasks, dtype=bool)
    found = rank_agreement(measure, gains, resamples=1)
    assert found.value == pytest.approx(spearmanr(measure[off], gains[off]).statistic)
    if tasks > 3:
        own = [spearmanr(measure[off[:, j], j], gains[off[:, j], j]) for j in range(tasks)]
        expected = np.mean([each.statistic for each in own])
        within = rank_agreement(measure, gains, within=True, resamples=1)
        assert within.value == pytest.approx(expected)


def test_what_tells_only_which_task_gains_does_not_choose_a_partner() -> None:
    gains = 10 * np.arange(8.0) + normal(8, 8)
    measure = 10 * np.arange(8.0) + normal(8, 8, seed=1)
    assert rank_agreement(measure, gains, resamples=1).value > 0.9
    assert abs(rank_agreement(measure, gains, within=True, resamples=1).value) < 0.4


def test_the_interval_is_over_tasks() -> None:
    """Each task pulls all of its pairs: pairs drawn one by one would look too certain."""
    tasks, misses, pairwise_misses = 8, 0, 0
    for seed in range(40):
        generator = np.random.default_rng(seed)
        pull, push = generator.normal(size=(2, tasks))
        measure = pull[:, None] + pull + 0.3 * generator.normal(size=(tasks, tasks))
        gains = push[:, None] + push + 0.3 * generator.normal(size=(tasks, tasks))
        _, low, high = rank_agreement(measure, gains, resamples=100, seed=seed)
        misses += not low <= 0 <= high  # measure and gains are independent
        off = ~np.eye(tasks, dtype=bool)
        rows = generator.integers(off.sum(), size=(100, off.sum()))
        x, y = measure[off], gains[off]
        each = [np.corrcoef(x[own], y[own])[0, 1] for own in rows]
        pairwise_misses += not np.quantile(each, 0.025) <= 0 <= np.quantile(each, 0.975)
    assert misses < pairwise_misses
    assert misses <= 10


def test_pairs_that_are_not_known_are_left_out() -> None:
    measure, gains = normal(5, 5), normal(5, 5, seed=1)
    measure[0, 1], gains[3, 2] = np.nan, np.nan
    there = ~np.eye(5, dtype=bool) & ~np.isnan(measure) & ~np.isnan(gains)
    expected = spearmanr(measure[there], gains[there]).statistic
    assert rank_agreement(measure, gains, resamples=5).value == pytest.approx(expected)


def test_a_measure_that_is_the_same_for_all_has_no_order() -> None:
    assert np.isnan(rank_agreement(np.ones((4, 4)), normal(4, 4), resamples=9)).all()


def test_matrices_that_do_not_fit() -> None:
    for measure, gains in (((4, 4), (5, 5)), ((4, 5), (4, 5)), ((2, 2), (2, 2))):
        with pytest.raises(ValueError, match=r"give two matrices of one shape \(T, T\)"):
            rank_agreement(np.ones(measure), np.ones(gains))
    with pytest.raises(ValueError, match="0 pairs are known in both"):
        rank_agreement(np.full((4, 4), np.nan), np.ones((4, 4)))
    for shape in ((10, 4, 5), (10, 2, 2), (4, 4)):
        with pytest.raises(ValueError, match=r"gains have shape \(seeds, T, T\)"):
            reliability(np.ones(shape))
    with pytest.raises(ValueError, match="the number of seeds must be at least 4; got 3"):
        reliability(np.ones((3, 4, 4)))


def test_reliability_and_its_ceiling() -> None:
    """True gains correlate with measured ones about as the ceiling says, which is why it is one."""
    generator = np.random.default_rng(0)
    halves, ceilings, reached = [], [], []
    for _ in range(20):
        true = generator.normal(size=(10, 10))
        gains = true + 2 * generator.normal(size=(10, 10, 10))
        half, ceiling = reliability(gains, splits=50)
        halves.append(half)
        ceilings.append(ceiling)
        reached.append(rank_agreement(true, gains.mean(axis=0), resamples=1).value)
    assert np.mean(halves) == pytest.approx(1 / (1 + 4 / 5), abs=0.07)  # of normal numbers
    assert np.mean(ceilings) == pytest.approx(np.mean(reached), abs=0.04)


def test_gains_that_are_noise_are_not_reliable() -> None:
    half, ceiling = reliability(normal(10, 9, 9))
    assert abs(half) < 0.3
    assert 0 <= ceiling < 0.7


# groups


@settings(max_examples=40)
@given(SEEDS, st.integers(1, 6), st.integers(1, 6))
def test_groups_are_the_best_of_all(seed: int, tasks: int, budget: int) -> None:
    affinity = normal(tasks, tasks, seed=seed)
    best = -np.inf
    for names in product(range(min(budget, tasks)), repeat=tasks):  # each task names its network
        value = 0.0
        for j in range(tasks):
            partners = [i for i in range(tasks) if i != j and names[i] == names[j]]
            value += float(np.mean([affinity[i, j] for i in partners])) if partners else 0.0
        best = max(best, value)
    found = choose_groups(affinity, budget)
    assert found.value == pytest.approx(best)
    assert sorted(task for group in found.groups for task in group) == list(range(tasks))
    assert len(found.groups) <= budget


def test_tasks_that_only_hurt_each_other_stay_alone_if_the_budget_allows() -> None:
    assert choose_groups(-np.ones((4, 4)), 4).groups == ((0,), (1,), (2,), (3,))
    assert len(choose_groups(-np.ones((4, 4)), 2).groups) == 2
    assert choose_groups(np.zeros((3, 3)), 3).groups == ((0, 1, 2),)  # the fewest networks


def test_the_diagonal_is_not_read() -> None:
    affinity = normal(5, 5)
    expected = choose_groups(affinity, 3)
    np.fill_diagonal(affinity, np.nan)
    assert choose_groups(affinity, 3) == expected


def test_groups_that_cannot_be_chosen() -> None:
    with pytest.raises(ValueError, match="11 tasks can be grouped in too many ways"):
        choose_groups(np.ones((11, 11)), 2)
    with pytest.raises(ValueError, match="budget must be at least 1; got 0"):
        choose_groups(np.ones((3, 3)), 0)
    with pytest.raises(ValueError, match=r"affinity has shape \(T, T\); got \(3, 2\)"):
        choose_groups(np.ones((3, 2)), 2)
    affinity = np.ones((3, 3))
    affinity[1, 2] = np.nan
    with pytest.raises(ValueError, match="affinity of task 1 for task 2 is nan"):
        choose_groups(affinity, 2)
