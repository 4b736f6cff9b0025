"""The fair comparison: its statistics against brute force, its runs against interruptions.

Processes that train import this module: what only one test needs is imported there.
"""

import json
import math
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from io import StringIO
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import stdtr
from tqdm import tqdm

from mtl_tutorial import comparison
from mtl_tutorial.comparison import compare, detectable, holm, p_value, table
from mtl_tutorial.metrics import delta_m, mean_interval, verdict

Train = Callable[..., dict[str, float]]
RATES = [0.01, 0.1, 1.0]
CLAIM = ("shared", "alone", "test_accuracy")
GAIN = {"alone": 0.0, "shared": 0.1}


def train(condition: str, rate: float, seed: int, steps: int = 100) -> dict[str, float]:
    """Pretend: 0.1 is the best rate, sharing gains a tenth."""
    luck = np.random.default_rng([seed, *condition.encode()]).normal(scale=0.01, size=2)
    right = 0.7 + GAIN[condition] - 0.01 * abs(math.log10(rate) + 1)
    return {"valid_accuracy": right + luck[0], "test_accuracy": right + luck[1]}


def logged(log: Path, *run: Any) -> dict[str, float]:
    with log.open("a") as file:
        file.write(json.dumps(run) + "\n")
    return train(*run)


def trainings(log: Path) -> list[list[Any]]:
    runs = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    log.unlink(missing_ok=True)
    return runs


def compared(train: Train = train, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "conditions": {"alone": RATES, "shared": RATES},
        "seeds": range(10),
        "choose_by": "valid_accuracy",
        "baseline": "alone",
        "primary": [CLAIM],
        "workers": 1,
    }
    return compare(train, **arguments | changes)


def without_times(found: Mapping[str, Any]) -> dict[str, Any]:
    runs = [{key: own[key] for key in own if key != "seconds"} for own in found["runs"]]
    return {**found, "runs": runs}


# What the numbers mean


def test_holm_is_the_closed_test_of_bonferroni() -> None:
    generator = np.random.default_rng(0)
    for m in (1, 2, 3, 4):
        for _ in range(50):
            p = generator.uniform(0, 0.2, m).round(2)  # some are equal
            subsets = [*chain(*(combinations(range(m), size) for size in range(1, m + 1)))]
            closed = [
                max(min(1, len(own) * min(p[j] for j in own)) for own in subsets if i in own)
                for i in range(m)
            ]
            assert holm(p) == pytest.approx(closed)


def test_p_value_is_that_of_the_paired_t_test() -> None:
    gains = np.random.default_rng(1).normal(0.3, size=(50, 10))
    for own in gains:
        t = own.mean() / own.std(ddof=1) * math.sqrt(10)
        assert p_value(own) == pytest.approx(2 * stdtr(9, -abs(t)))
    assert p_value(np.zeros(10)) == 1


def test_p_value_and_interval_agree() -> None:
    gains = np.random.default_rng(2).normal(0.6, size=(300, 10))
    clear = [verdict(own) != "no clear difference" for own in gains]
    assert 0 < sum(clear) < 300
    assert [p_value(own) < 0.05 for own in gains] == clear


@pytest.mark.parametrize("seeds", [3, 10, 20])
@pytest.mark.parametrize("level", [0.05, 0.0125])
def test_a_detectable_gain_is_found_four_times_in_five(seeds: int, level: float) -> None:
    gain = detectable(2.0, seeds, level=level)
    samples = np.random.default_rng(3).normal(gain, 2, size=(40_000, seeds))
    t = samples.mean(axis=1) / samples.std(axis=1, ddof=1) * math.sqrt(seeds)
    p = 2 * stdtr(seeds - 1, -abs(t))
    assert np.mean((p < level) & (t > 0)) == pytest.approx(0.8, abs=0.01)


def test_detectable_equals_published_values() -> None:
    # Effect sizes that the paired t-test finds with power 0.8 at level 0.05, two-sided.
    assert detectable(1, 10) == pytest.approx(0.996, abs=5e-4)
    assert detectable(1, 34) == pytest.approx(0.495, abs=1e-3)  # the textbook's n for d = 0.5


def noise(condition: str, setting: None, seed: int) -> dict[str, float]:
    draw = float(np.random.default_rng([seed, *condition.encode()]).normal())
    return {"valid": draw, "test_accuracy": draw}


def test_where_nothing_differs_few_experiments_claim_anything() -> None:
    names = ["a", "b", "c", "d"]
    any_claim, any_small, covered = [], [], []
    for experiment in range(300):
        found = compare(
            noise,
            {name: [None] for name in ("base", *names)},
            range(10 * experiment, 10 * experiment + 10),
            choose_by="valid",
            baseline="base",
            primary=[(name, "base", "test_accuracy") for name in names],
            workers=1,
        )
        judged = found["primary"]
        any_claim.append(any(each["verdict"] != "no clear difference" for each in judged))
        any_small.append(any(each["p"] < 0.05 for each in judged))
        covered += [abs(each["mean"]) <= each["half_width"] for each in judged]
    assert np.mean(any_claim) == pytest.approx(0.045, abs=0.03)  # promised: 0.05 at most
    assert np.mean(any_small) > 0.1  # uncorrected it would be more than twice as many
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_one_primary_comparison_says_what_its_interval_says() -> None:
    for seed in range(0, 300, 10):
        shift = seed / 300

        def shifted(condition: str, setting: None, seed: int, shift: float = shift) -> Any:
            draw = noise(condition, None, seed)["valid"] + (condition == "a") * shift
            return {"valid": draw, "test_accuracy": draw}

        found = compare(
            shifted,
            {"base": [None], "a": [None]},
            range(seed, seed + 10),
            choose_by="valid",
            baseline="base",
            primary=[("a", "base", "test_accuracy")],
            workers=1,
        )
        base, other = (np.array(own["metrics"]["test_accuracy"]) for own in found["runs"])
        (claim,) = found["primary"]
        assert claim["verdict"] == verdict(other - base)
        assert (claim["mean"], claim["half_width"]) == mean_interval(other - base)
        assert claim["p"] == claim["p_holm"] == p_value(other - base)
        assert claim["detectable"] == detectable(np.std(other - base, ddof=1), 10)
        assert found["others"] == []


def test_the_verdict_is_corrected_and_the_interval_is_not() -> None:
    def planted(condition: str, setting: None, seed: int) -> dict[str, float]:
        deviations = np.array([-1.6, -1.1, -0.7, -0.3, -0.1, 0.1, 0.3, 0.7, 1.1, 1.6])
        gain = 0 if condition == "base" else 0.75 + deviations[seed]  # p = 0.04
        return {"valid": 0, "test_accuracy": gain, "test_mae": gain}

    claims = [("a", "base", "test_accuracy"), ("a", "base", "test_mae")]
    settings: dict[str, list[None]] = {"base": [None], "a": [None]}
    for number, words in ((1, ["gains"]), (2, ["no clear difference"] * 2)):
        found = compare(
            planted, settings, range(10), choose_by="valid", baseline="base",
            primary=claims[:number], workers=1,
        )  # fmt: skip
        judged = found["primary"]
        assert [each["verdict"] for each in judged] == words
        assert judged[0]["mean"] > judged[0]["half_width"]
        assert judged[0]["p_holm"] == pytest.approx(number * judged[0]["p"])
        assert judged[0]["detectable"] == pytest.approx(
            detectable(judged[0]["half_width"] / 2.262157 * math.sqrt(10), 10, level=0.05 / number)
        )
    assert judged[1]["mean"] == -judged[0]["mean"]  # an error: lower is better


# Choosing


def test_only_validation_chooses() -> None:
    def tempting(condition: str, rate: float, seed: int, bait: float) -> dict[str, float]:
        metrics = train(condition, rate, seed)
        return metrics if rate == 0.1 else metrics | {"test_accuracy": bait}

    honest, *baited = (compared(partial(tempting, bait=bait)) for bait in (0.5, 1.0, math.nan))
    assert honest["chosen"] == {"alone": 0.1, "shared": 0.1}
    for found in baited:
        assert {key for key in found if found[key] != honest[key]} <= {"runs", "not_finite"}


def test_the_numbers_of_a_seed_are_those_of_its_training_at_the_chosen_rate() -> None:
    def longer_is_better(condition: str, rate: float, seed: int, steps: int) -> dict[str, float]:
        return {name: x + steps / 1e4 for name, x in train(condition, rate, seed).items()}

    found = json.loads(json.dumps(compared(longer_is_better, steps=100)))
    assert found["chosen"]["shared"] == 0.1
    for steps in (100, 200):
        numbers = comparison.per_seed(found, "shared", steps)["test_accuracy"]
        again = [longer_is_better("shared", 0.1, seed, steps) for seed in range(10)]
        np.testing.assert_array_equal(numbers, [own["test_accuracy"] for own in again])
    with pytest.raises(KeyError, match=r"no run 'shared' of 300 steps; .*'shared' of 100 steps"):
        comparison.per_seed(found, "shared", 300)


def test_errors_are_chosen_and_compared_as_errors() -> None:
    def erring(condition: str, rate: float, seed: int) -> dict[str, float]:
        metrics = train(condition, rate, seed)
        return {
            "valid_mae": 1 - metrics["valid_accuracy"],
            "test_mae": 1 - metrics["test_accuracy"],
        }

    right, wrong = compared(), compared(
        erring, choose_by="valid_mae", primary=[("shared", "alone", "test_mae")]
    )  # fmt: skip
    assert wrong["chosen"] == right["chosen"]
    assert wrong["primary"][0]["mean"] == pytest.approx(right["primary"][0]["mean"])
    assert wrong["primary"][0]["verdict"] == "gains"


def test_the_lowest_and_highest_rates_are_reported() -> None:
    found = compared(conditions={"alone": [0.001, 0.01], "shared": RATES})
    assert found["at_edge"] == ["alone"]
    assert compared(conditions={"alone": [0.1], "shared": RATES})["at_edge"] == []
    assert "0.01 (edge)" in table(found)


@pytest.mark.parametrize(
    ("settings", "edges"),
    [([0.01, 0.1, 1.0], []), ([0.1, 1.0], ["shared"]), ([0.1], [])],
)
def test_a_rate_within_a_setting_is_at_an_edge_as_a_bare_one(
    settings: list[float], edges: list[str]
) -> None:
    def named(condition: str, setting: dict[str, float], seed: int) -> dict[str, float]:
        return train(condition, setting["rate"], seed)

    own = [{"rate": rate, "name": "other", "weights": [1, 3]} for rate in settings]
    found = compared(named, conditions={"alone": [{"rate": 0.1}], "shared": own})
    assert found["chosen"]["shared"]["rate"] == 0.1
    assert found["at_edge"] == edges


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_a_setting_that_diverged_for_one_seed_never_wins(odd: float) -> None:
    def diverging(condition: str, rate: float, seed: int) -> dict[str, float]:
        odd_one = rate == 0.1 and seed == 7 and condition == "shared"
        return train(condition, rate, seed) | ({"valid_accuracy": odd} if odd_one else {})

    found = compared(diverging)
    assert found["chosen"] == {"alone": 0.1, "shared": 0.01}
    what = "valid_accuracy of condition 'shared', setting 0.1, seed 7"
    assert found["not_finite"] == [what]
    assert what in table(found)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    with pytest.raises(ValueError, match=r"no setting can be chosen for \['shared'\]"):
        compared(diverging, conditions={"alone": RATES, "shared": [0.1]})


def test_a_test_metric_that_is_not_finite_gives_no_verdict() -> None:
    def broken(condition: str, rate: float, seed: int) -> dict[str, float]:
        odd = condition == "shared" and seed == 3
        return train(condition, rate, seed) | ({"test_accuracy": math.nan} if odd else {})

    found = compared(broken)
    (claim,) = found["primary"]
    assert claim["verdict"] == "undefined (not finite)"
    assert claim["mean"] is claim["half_width"] is claim["p"] is claim["detectable"] is None
    assert found["means"]["shared"]["test_accuracy"] is None
    assert "undefined" in table(found)
    json.dumps(found, allow_nan=False)

    def half_broken(*run: Any) -> dict[str, float]:
        return broken(*run) | {"test_f1": train(*run)["test_accuracy"]}

    undefined, other = compared(half_broken, primary=[CLAIM, ("shared", "alone", "test_f1")])[
        "primary"
    ]
    assert undefined["p_holm"] is None
    assert other["p_holm"] == 2 * other["p"]  # there are still two claims


def test_seeds_that_change_nothing_are_no_evidence() -> None:
    def constant(condition: str, rate: float, seed: int) -> dict[str, float]:
        return train(condition, rate, seed=0)

    (claim,) = compared(constant)["primary"]
    assert claim["verdict"] == "undefined (the same for all seeds)"
    assert claim["half_width"] is None

    def equal(condition: str, rate: float, seed: int) -> dict[str, float]:
        return train("alone", rate, seed)

    (claim,) = compared(equal)["primary"]
    assert (claim["mean"], claim["verdict"]) == (0, "no clear difference")


def test_one_seed_is_a_trial_run() -> None:
    found = compared(seeds=[0], least_seeds=1, steps=5)
    assert found["primary"][0]["verdict"] == "undefined (one seed)"
    assert found["chosen"]["shared"] == 0.1
    assert "undefined (one seed)" in table(found)


# Single-task runs


def three(condition: str, setting: Any, seed: int) -> dict[str, float]:
    luck = np.random.default_rng([seed, *condition.encode()]).normal(scale=0.01, size=2)
    metrics = {"test_digit_accuracy": 0.9 + luck[0], "test_angle_mae": 0.5 + luck[1]}
    own = {"digit alone": ["test_digit_accuracy"], "angle alone": ["test_angle_mae"]}
    return {"valid": 0.0, **{name: metrics[name] for name in own.get(condition, metrics)}}


TWO_TASKS: dict[str, Any] = {
    "conditions": {name: [None] for name in ("digit alone", "angle alone", "equal", "other")},
    "choose_by": "valid",
    "baseline": "equal",
    "single_task": {"test_digit_accuracy": "digit alone", "test_angle_mae": "angle alone"},
}


def test_delta_m_is_that_of_each_seed() -> None:
    claims = [("other", "single-task", "delta_m"), ("other", "equal", "delta_m")]
    found = compared(three, **TWO_TASKS, primary=claims)
    runs = {own["condition"]: own["metrics"] for own in found["runs"]}

    def relative(condition: str) -> np.ndarray:
        return np.array(
            [
                delta_m(
                    {metric: runs[condition][metric][s] for metric in TWO_TASKS["single_task"]},
                    {m: runs[alone][m][s] for m, alone in TWO_TASKS["single_task"].items()},
                )
                for s in range(10)
            ]
        )

    against_none, against_equal = found["primary"]
    assert found["means"]["other"]["delta_m"] == pytest.approx(relative("other").mean())
    assert against_none["half_width"] == pytest.approx(mean_interval(relative("other"))[1])
    assert against_equal["mean"] == pytest.approx((relative("other") - relative("equal")).mean())
    (equal,) = (each for each in found["others"] if each["metric"] == "delta_m")
    assert (equal["condition"], equal["against"]) == ("equal", "single-task")
    assert "verdict" not in equal
    assert "p" not in equal


def test_the_single_task_runs_are_one_condition_together() -> None:
    claim = ("equal", "single-task", "test_angle_mae")
    found = compared(three, **TWO_TASKS | {"baseline": "single-task"}, primary=[claim])
    together, (each,) = found["means"]["single-task"], found["primary"]
    assert together["test_angle_mae"] == found["means"]["angle alone"]["test_angle_mae"]
    gain = together["test_angle_mae"] - found["means"]["equal"]["test_angle_mae"]
    assert each["mean"] == pytest.approx(gain)
    shown = {(other["condition"], other["metric"]) for other in found["others"]}
    assert {("equal", "test_digit_accuracy"), ("other", "delta_m")} <= shown


@pytest.mark.parametrize("value", [0.0, -0.2])
def test_delta_m_is_refused_where_it_means_nothing(value: float) -> None:
    def zero(condition: str, setting: Any, seed: int) -> dict[str, float]:
        metrics = three(condition, setting, seed)
        return metrics | ({"test_angle_mae": value} if condition == "angle alone" else {})

    with pytest.raises(ValueError, match="'test_angle_mae' of 'angle alone' must lie above 0"):
        compared(zero, **TWO_TASKS, primary=[("other", "equal", "test_angle_mae")])


# Twice the steps


def slow(condition: str, rate: float, seed: int, steps: int, late: float) -> dict[str, float]:
    metrics = train(condition, rate, seed)
    if condition == "shared" and steps == 200:
        metrics["test_accuracy"] += late
    return metrics


@pytest.mark.parametrize(
    ("late", "later", "said"),
    [(0.0, "gains", "gains"), (0.1, "gains", "gains"), (-0.1, "no clear difference", "unsettled"),
     (-0.3, "loses", "unsettled")],
)  # fmt: skip
def test_a_verdict_that_twice_the_steps_change_is_unsettled(
    late: float, later: str, said: str
) -> None:
    found = compared(partial(slow, late=late), steps=100)
    (claim,) = found["primary"]
    assert claim["verdict_once"] == "gains"
    assert claim["twice"]["verdict"] == later
    assert claim["verdict"] == said
    assert claim["twice"]["mean"] == pytest.approx(claim["mean"] + late)
    assert f"| {said}" in table(found)


def test_a_difference_that_comes_late_is_unsettled_too() -> None:
    found = compared(
        partial(slow, late=0.5), steps=100, conditions={"alone": [0.1], "shared": [1e-11]}
    )
    (claim,) = found["primary"]
    assert [claim["verdict_once"], claim["twice"]["verdict"]] == ["no clear difference", "gains"]
    assert claim["verdict"] == "unsettled"


def test_only_the_chosen_settings_are_trained_for_longer(tmp_path: Path) -> None:
    log = tmp_path / "log"
    compared(partial(logged, log), steps=100)
    runs = trainings(log)
    assert sorted(run for run in runs if run[3] == 200) == [
        [condition, 0.1, seed, 200] for condition in ("alone", "shared") for seed in range(10)
    ]
    assert len(runs) == 60 + 20


# Runs that are kept


def test_finished_runs_are_not_repeated(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "new folder" / "runs.jsonl"
    go = partial(compared, partial(logged, log), path=path, steps=100)
    first = go()
    assert len(trainings(log)) == 80
    assert go() == first
    assert trainings(log) == []
    go(seeds=range(11))
    assert {run[2] for run in trainings(log)} == {10}
    go(conditions={"alone": RATES, "shared": [*RATES, 10.0]})
    assert {(run[0], run[1]) for run in trainings(log)} == {("shared", 10.0)}


def test_what_changed_is_trained_again(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "runs.jsonl"
    go = partial(compared, partial(logged, log), path=path)
    go(fingerprint={"alone": "1", "shared": "1"})
    trainings(log)
    go(fingerprint={"alone": "1", "shared": "2"})
    assert {run[0] for run in trainings(log)} == {"shared"}
    go(fingerprint="1")  # the old ones are still there
    assert trainings(log) == []
    assert len(path.read_text().splitlines()) == 90


def test_a_line_cut_short_anywhere_costs_one_run(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "runs.jsonl"
    go = partial(compared, partial(logged, log), path=path, seeds=[0], least_seeds=1)
    whole = without_times(go())
    trainings(log)
    text = path.read_bytes()
    last = text.rstrip(b"\n").rfind(b"\n") + 1
    for end in range(last + 1, len(text)):
        path.write_bytes(text[:end])
        assert without_times(go()) == whole
        assert len(trainings(log)) == 1
        assert path.read_bytes().startswith(text[:last] + b'{"condition": ')
        assert len(path.read_text().splitlines()) == 6


KEPT = json.dumps(
    {
        "condition": "alone",
        "setting": 0.1,
        "seed": 0,
        "steps": None,
        "fingerprint": "",
        "seconds": 1,
    }
    | {"metrics": {}}
)


@pytest.mark.parametrize(
    "text",
    ['{"primary": []}', '{"primary": []}\n', "notes", "null\n", '{"condition": "alone"}\n',
     KEPT.replace("{}", "3") + "\n"],
)  # fmt: skip
def test_another_file_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"file\.json.* run of a comparison"):
        compared(path=path)
    assert path.read_text() == text


def test_kept_runs_of_other_metrics_are_refused(tmp_path: Path) -> None:
    def more(*run: Any) -> dict[str, float]:
        return train(*run) | {"test_f1": 0.5}

    path = tmp_path / "runs.jsonl"
    compared(path=path)
    with pytest.raises(ValueError, match=r"setting 0\.01, seed 0: no metric test_f1"):
        compared(more, path=path, primary=[("shared", "alone", "test_f1")])
    with pytest.raises(ValueError, match=r"seed 10: .* differ in \['test_f1'\].*fingerprint"):
        compared(more, path=path, seeds=range(11))


def test_the_bar_counts_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = StringIO()
    monkeypatch.setattr(
        comparison, "tqdm", lambda **options: tqdm(**options | {"disable": False, "file": shown})
    )
    go = partial(compared, path=tmp_path / "runs.jsonl", steps=100)
    go(seeds=range(10))
    assert "100/100" in shown.getvalue()  # 60, and 20 that take twice as long
    go(seeds=range(12))
    assert shown.getvalue().rstrip().endswith("run/s]")
    assert "20/20" in shown.getvalue()


# Several processes


def process(log: Path, condition: str, rate: float, seed: int) -> dict[str, float]:
    """Keep a process busy, and say which one and with how many threads."""
    time.sleep(0.02)
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    threads = [os.environ.get(name) for name in names]
    with log.open("a") as file:
        file.write(json.dumps([os.getpid(), threads]) + "\n")
    return train(condition, rate, seed)


def test_two_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("TF_NUM_INTEROP_THREADS", raising=False)
    log, path = tmp_path / "log", tmp_path / "runs.jsonl"
    found = compared(partial(process, log), workers=2, path=path)
    assert without_times(found) == without_times(compared())
    seen = trainings(log)
    assert len(seen) == len(path.read_text().splitlines()) == 60
    assert len({pid for pid, _ in seen} - {os.getpid()}) == 2
    assert all(threads == ["1", "1", "1"] for _, threads in seen)
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "TF_NUM_INTEROP_THREADS" not in os.environ


class OddError(Exception):
    """Cannot be unpickled."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(one + other)


def failing(condition: str, rate: float, seed: int) -> dict[str, float]:
    if (condition, rate, seed) == ("shared", 0.1, 1):
        raise OddError("loss is ", "odd")
    if (condition, rate, seed) == ("shared", 0.01, 1):
        time.sleep(0.5)  # still in flight
    return train(condition, rate, seed)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_names_its_run_and_keeps_the_others(tmp_path: Path, workers: int) -> None:
    path = tmp_path / "runs.jsonl"
    named = r"condition 'shared', setting 0\.1, seed 1: OddError: loss is odd"
    with pytest.raises(RuntimeError, match=named) as caught:
        compared(failing, workers=workers, path=path)
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert ["shared", 0.01, 1] in [[own["condition"], own["setting"], own["seed"]] for own in kept]
    assert len(kept) == 6 + 4
    assert "in failing" in str(caught.value.__cause__) or workers == 1  # where it happened


def dying(condition: str, rate: float, seed: int) -> dict[str, float]:
    if (condition, rate, seed) == ("alone", 1.0, 2):
        os.kill(os.getpid(), signal.SIGKILL)
    return train(condition, rate, seed)


def test_a_process_that_dies_names_its_run() -> None:
    with pytest.raises(RuntimeError, match=r"by itself.*'alone', setting 1\.0, seed 2"):
        compared(dying, workers=2)


def test_what_other_processes_cannot_import_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cannot import train: .*lambda.*workers=1"):
        compared(lambda *run: train(*run), workers=2)  # noqa: PLW0108  # a lambda is the point
    notebook = (
        "from mtl_tutorial.comparison import compare\n"
        "def train(*run): return {}\n"
        "compare(train, {'a': [1], 'b': [1]}, range(10), choose_by='valid', baseline='a',\n"
        "        primary=[('a', 'b', 'test_x')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", notebook], capture_output=True, text=True, check=False
    )
    assert "it stands in a notebook or at a prompt. Put it at the top" in result.stderr


SCRIPT = """
import json, math, os, time
from pathlib import Path

import numpy as np
from mtl_tutorial.comparison import compare

PLAN = {
    "conditions": {"alone": [0.1, 1.0], "shared": [0.1, 1.0]}, "seeds": range(6), "steps": 100,
    "choose_by": "valid_accuracy", "baseline": "alone", "least_seeds": 6,
    "primary": [("shared", "alone", "test_accuracy")]}

def train(condition, rate, seed, steps):
    luck = np.random.default_rng([seed, *condition.encode()]).normal(scale=0.01, size=2)
    right = 0.9 + steps / 10_000 - 0.01 * rate + luck
    return {"valid_accuracy": right[0], "test_accuracy": right[1]}

def logged(*run):
    with open("log", "a") as file:
        file.write(json.dumps([os.getpid(), *run]) + "\\n")
    time.sleep(0.1)
    return train(*run)

if __name__ == "__main__":
    Path("found.json").write_text(json.dumps(compare(logged, path="runs.jsonl", **PLAN)))
"""


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def test_a_kill_loses_only_the_runs_in_flight(tmp_path: Path) -> None:
    script, path = tmp_path / "script.py", tmp_path / "runs.jsonl"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    generator = np.random.default_rng(4)
    kills, ended = 0, False
    while not ended:
        before = lines(path)
        with subprocess.Popen([sys.executable, script], cwd=tmp_path, env=environment) as started:
            while kills < 3 and lines(path) == before and started.poll() is None:
                time.sleep(0.02)
            if kills < 3:
                time.sleep(generator.uniform(0, 0.5))  # at any moment from here on
                started.kill()
                kills += 1
        ended = started.returncode == 0
    begun = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert kills == 3
    assert 24 + 12 <= len(begun) <= 24 + 12 + 2 * kills
    assert lines(path) == 24 + 12
    names = runpy.run_path(str(script))
    whole = compare(names["train"], **names["PLAN"], workers=1)
    assert without_times(json.loads((tmp_path / "found.json").read_text())) == json.loads(
        json.dumps(without_times(whole))
    )
    wait_for(lambda: not [pid for pid, *_ in begun if alive(pid)])  # no orphan trains on


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"primary": []}, "one to four primary comparisons.* got 0"),
        ({"primary": [CLAIM] * 5}, "one to four.* got 5"),
        ({"primary": [CLAIM, CLAIM]}, r"come twice: \('shared', 'alone'"),
        ({"primary": CLAIM}, "each as .condition, against, metric.; got .'shared'"),
        ({"primary": [("sharde", "alone", "test_accuracy")]}, "unknown conditions.* sharde"),
        ({"primary": [("alone", "alone", "test_accuracy")]}, "of a condition with itself"),
        ({"primary": [("shared", "alone", "valid_accuracy")]}, "begin with test_: valid_accuracy"),
        ({"primary": [("shared", "alone", "delta_m")]}, "delta_m needs single_task"),
        ({"primary": [("shared", "single-task", "delta_m")]}, "unknown conditions.* single-task"),
        ({"primary": [("shared", "alone", "test_f1")]}, "'alone', setting 0.01, seed 0: no metric"),
        ({"seeds": range(9)}, "number of seeds must be at least 10; got 9"),
        ({"seeds": [], "least_seeds": 0}, "number of seeds must be at least 1; got 0"),
        ({"seeds": [*range(10), 3]}, "seeds that come twice: 3"),
        ({"conditions": {"alone": [], "shared": RATES}}, "without a setting.*: alone"),
        ({"conditions": {"alone": [1, 2, 1], "shared": RATES}}, r"twice: \('alone', 1\)"),
        ({"conditions": {"alone": [math.nan], "shared": [1]}}, "nan is not what JSON can hold"),
        ({"conditions": {"alone": [np.ones(2)], "shared": [1]}}, "is not what JSON can hold"),
        ({"conditions": {"alone": [1], "shared": [1], "single-task": [1]}}, "take another"),
        ({"baseline": "aloen"}, "unknown conditions.* aloen"),
        ({"choose_by": "test_accuracy"}, "chosen by a metric of validation data: test_accuracy"),
        ({"choose_by": "valid_f1"}, "no metric valid_f1; train gave"),
        ({"single_task": {"test_accuracy": "aloen"}}, "unknown conditions.* aloen"),
        ({"single_task": {"accuracy": "alone"}}, "begin with test_: accuracy"),
        ({"single_task": {"test_accuracy": "single-task"}}, "names conditions that it makes up"),
        ({"fingerprint": {"alone": "1"}}, "without a fingerprint: shared"),
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"workers": 0}, "workers must be at least 1; got 0"),
    ],
)
def test_bad_input_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compared(**changes)


def test_a_metric_that_single_task_lacks_is_named() -> None:
    with pytest.raises(ValueError, match=r"'single-task' has the metrics .*not \['test_f1'\]"):
        compared(three, **TWO_TASKS, primary=[("equal", "single-task", "test_f1")])


def test_bad_metrics_name_the_run() -> None:
    def lacking(condition: str, rate: float, seed: int) -> dict[str, float]:
        metrics = train(condition, rate, seed)
        return metrics if seed else metrics | {"test_f1": 0.5}

    with pytest.raises(ValueError, match=r"'alone', setting 0\.01, seed 1: .*\['test_f1'\]"):
        compared(lacking)

    def wordy(condition: str, rate: float, seed: int) -> Any:
        return train(condition, rate, seed) | {"history": [0.1, 0.2]}

    with pytest.raises(ValueError, match=r"seed 0: 'history' is \[0\.1, 0\.2\], and no number"):
        compared(wordy)
    with pytest.raises(RuntimeError, match=r"setting 0\.01, seed 0: TypeError"):
        compared(lambda *run: None)  # type: ignore[arg-type]


# What is shown


def test_the_table_shows_every_condition() -> None:
    found = compared(three, **TWO_TASKS, primary=[("other", "equal", "test_digit_accuracy")])
    above, conditions, primary, below = table(json.loads(json.dumps(found))).split("\n\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in conditions.splitlines()]
    assert rows[0] == ["condition", "setting", "digit_accuracy", "angle_mae", "Δm"]
    assert [row[0] for row in rows[2:]] == [*TWO_TASKS["conditions"], "single-task"]
    assert rows[2][3] == rows[2][4] == ""  # "digit alone" has no angle
    assert rows[5][4].startswith(f"{found['means']['other']['delta_m']:+.3g} ± ")
    (other,) = found["primary"]
    shown = f"({other['mean']:+.3g} ± {other['half_width']:.2g})"
    assert rows[5][2] == f"{found['means']['other']['test_digit_accuracy']:.4g} {shown}"
    assert len({len(line) for line in conditions.splitlines()}) == 1
    assert primary.splitlines()[2].startswith("| other against equal ")
    assert "10 seeds" in above
    assert "80%" in below


def test_the_figure_shows_every_gain() -> None:
    found = compared(three, **TWO_TASKS, primary=[("other", "equal", "test_digit_accuracy")])
    from mtl_tutorial import plotting

    figure = plotting.comparison(json.loads(json.dumps(found)))
    panels = {ax.get_title(): ax for ax in figure.axes}
    assert list(panels) == ["digit_accuracy", "angle_mae", "Δm"]
    digit = panels["digit_accuracy"]
    labels = [label.get_text() for label in digit.get_yticklabels()]
    assert labels[0] == f"other − equal: {found['primary'][0]['verdict']}"
    assert labels[1:] == ["digit alone − equal"]
    mean, half = (found["primary"][0][key] for key in ("mean", "half_width"))
    (segment,) = digit.containers[0][2][0].get_segments()
    np.testing.assert_allclose(segment, [[mean - half, 0], [mean + half, 0]])
    assert digit.yaxis_inverted()


def test_a_gain_without_interval_keeps_its_row() -> None:
    from mtl_tutorial import plotting

    figure = plotting.comparison(compared(seeds=[0], least_seeds=1))
    (label,) = figure.axes[0].get_yticklabels()
    assert label.get_text() == "shared − alone: undefined (one seed)"
    assert not figure.axes[0].containers
