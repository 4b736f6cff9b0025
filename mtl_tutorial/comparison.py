"""The fair comparison: every condition tuned alike, measured over seeds, and few claims, named first.

:func:`compare` trains each condition at each of its settings with each seed, chooses a setting by
validation alone, and looks at the test numbers of what was chosen. Two conditions that saw the same
seeds are compared seed by seed. Verdicts are given for one to four *primary* comparisons only, which
were named before anything ran; Holm's correction holds for all of them together. Everything else is
shown with its interval and without a word.

It calls a function of yours and knows no framework.
"""

import json
import operator
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from mtl_tutorial.metrics import delta_m, lower_is_better, mean_interval, verdict

LEVEL = 0.05  # where nothing differs, the probability that any of the primary verdicts says so
POWER = 0.8
SINGLE_TASK = "single-task"
ONE_THREAD = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)

Train = Callable[..., Mapping[str, float]]
Claim = tuple[str, str, str]  # condition, against, metric
Values = dict[str, dict[str, np.ndarray]]  # by condition and metric: one number a seed


class Run(NamedTuple):
    """What one training is called with."""

    condition: str
    setting: Any
    seed: int
    steps: int | None

    def __str__(self) -> str:
        steps = "" if self.steps is None else f", {self.steps} steps"
        return f"condition {self.condition!r}, setting {self.setting!r}, seed {self.seed}{steps}"


def compare(
    train: Train,
    conditions: Mapping[str, Sequence[Any]],
    seeds: Iterable[int],
    *,
    choose_by: str,
    baseline: str,
    primary: Sequence[Claim],
    single_task: Mapping[str, str] | None = None,
    steps: int | None = None,
    path: str | os.PathLike[str] | None = None,
    fingerprint: str | Mapping[str, str] = "",
    workers: int = 2,
    least_seeds: int = 10,
) -> dict[str, Any]:
    """Train every condition at every setting with every seed, and say what differs.

    1. *Choose.* Of each condition's settings, take the one whose ``choose_by``, a metric of
       validation data, is best on average over the seeds. A setting at which it was NaN or infinite
       for any seed is never taken. Test metrics of the other settings decide nothing.
    2. *Compare.* The gain of one condition over another is the difference of a test metric, seed by
       seed, its sign turned where lower is better
       (:func:`~mtl_tutorial.metrics.lower_is_better`): above 0 is better. Its mean is given with a
       95 % interval (:func:`~mtl_tutorial.metrics.mean_interval`).
    3. *Judge* the primary comparisons: ``"gains"`` or ``"loses"`` where the p-value of the paired
       t-test (:func:`p_value`), corrected by :func:`holm`, is below 0.05, else ``"no clear
       difference"``. With one primary comparison that is what its interval says. With more, the
       interval, which is not corrected, may leave out 0 and the verdict still be unclear.
    4. *Train for longer*, if ``steps`` is given: every condition again, at its chosen setting only,
       with twice the steps. A primary verdict that changes becomes ``"unsettled"``: no finding.

    Where ``single_task`` is given, the single-task runs together make up one more condition, called
    ``"single-task"``, and :func:`~mtl_tutorial.metrics.delta_m` against it, seed by seed, is one
    more test metric, called ``"delta_m"``, of every condition that has all the metrics.

    Parameters
    ----------
    train : callable
        ``train(condition, setting, seed)``, or ``train(condition, setting, seed, steps)`` where
        ``steps`` is given: trains once and returns metrics by name. Those whose names begin with
        ``test_`` are compared; the others are kept. A condition may lack some of them, such as those
        of a task it does not learn. With several ``workers`` the function stands in a module, or in
        a script that calls :func:`compare` under ``if __name__ == "__main__":``. Each process
        imports that file once, so data that the file loads or caches is loaded once a process.
    conditions : mapping from name to sequence
        The settings among which each condition may choose: learning rates, or whatever JSON can
        hold, such as ``{"rate": 0.01, "weights": [1, 3]}``. ``[None]`` if there is nothing to choose.
    seeds : iterable of int
        The same for all conditions. A seed should give each of them the same data.
    choose_by : str
        A validation metric that every condition has.
    baseline : str
        The condition over which the gains of all the others are shown.
    primary : sequence of (condition, against, metric)
        One to four, such as ``("uncertainty", "tuned static", "test_digit_accuracy")``. Either
        condition may be ``"single-task"``, the metric may be ``"delta_m"``.
    single_task : mapping from test metric to condition, optional
        One metric a task, with the condition that learns this task alone.
    steps : int, optional
        Handed to ``train``; twice as many in part 4.
    path : path, optional
        Keeps each run as a line of JSON as soon as it ends. Runs that stand there are not repeated,
        so a comparison that was stopped goes on, and one with a new condition trains only that.
    fingerprint : str, or mapping from condition to str
        Also names a run in the file. Give a hash of the code: what changed is then trained again.
        The lines of other fingerprints stay in the file, unused.
    workers : int
        Processes at a time, each with one thread. 1 trains in this process, with all its threads.
    least_seeds : int
        Fewer are refused. Lower it to try a script out, not for a claim.

    Returns
    -------
    dict
        Plain data for ``json.dumps``; a number that is not finite is None.

        - ``"primary"``: for each its ``"condition"``, ``"against"``, ``"metric"``, the ``"mean"``
          and ``"half_width"`` of the gain, ``"p"``, ``"p_holm"``, ``"detectable"`` (the smallest
          true gain that this many seeds would find in four of five such experiments, see
          :func:`detectable`), and ``"verdict"``; if ``steps`` is given also ``"verdict_once"`` and
          ``"twice"``, the same entries after twice the steps. Where there is no interval the verdict
          is ``"undefined"`` and says why.
        - ``"others"``: the gain of every other condition over the baseline in every test metric, and
          Δm over single-task, with neither p-value nor verdict.
        - ``"chosen"``: each condition's setting. ``"at_edge"``: the conditions whose setting (or one
          of its numbers) is the lowest or highest of several, so that a better one may lie beyond.
        - ``"means"``: by condition and test metric, over the seeds, at the chosen setting.
        - ``"not_finite"``: which metric was NaN or infinite in which run, in words.
        - ``"runs"``: an entry for each condition, setting and number of steps, with its
          ``"metrics"``, lists of one number a seed, and ``"seconds"`` in total.
        - ``"seeds"``, ``"choose_by"``, ``"baseline"``, ``"steps"``, as given.

    Raises
    ------
    ValueError
        An argument is not as described above: said before anything runs. Or a run lacks a metric; or
        a condition has no setting to choose; or Δm would divide by a metric that is not above 0.
    RuntimeError
        ``train`` failed, or a process ended by itself. The message names condition, setting and
        seed; what was finished is kept.

    Examples
    --------
    >>> def train(condition, learning_rate, seed):  # made up
    ...     luck = np.random.default_rng(seed).normal(scale=0.01, size=4)
    ...     right = 0.8 - abs(learning_rate - 0.1) + luck[0]
    ...     if condition == "shared":
    ...         right += 0.1 + luck[1]
    ...     return {"valid_accuracy": right + luck[2], "test_accuracy": right + luck[3]}
    >>> found = compare(
    ...     train, {"alone": [0.1, 0.2], "shared": [0.01, 0.1, 0.2]}, range(10),
    ...     choose_by="valid_accuracy", baseline="alone",
    ...     primary=[("shared", "alone", "test_accuracy")], workers=1)
    >>> found["chosen"], found["at_edge"]
    ({'alone': 0.1, 'shared': 0.1}, ['alone'])
    >>> found["primary"][0]["verdict"]
    'gains'
    """
    plan = {name: list(settings) for name, settings in conditions.items()}
    order = [operator.index(seed) for seed in seeds]
    claims, alone = _claims(primary), dict(single_task or {})
    prints = dict.fromkeys(plan, fingerprint) if isinstance(fingerprint, str) else fingerprint
    _check_names(plan, order, claims, alone, prints=prints, choose_by=choose_by, baseline=baseline)
    for name, count, least in (
        ("the number of seeds", len(order), max(least_seeds, 1)),
        ("steps", steps, 1),
        ("workers", workers, 1),
    ):
        if count is not None and count < least:
            raise ValueError(f"{name} must be at least {least}; got {count}")
    needed = _needed(plan, claims, alone, choose_by)
    if workers > 1:
        _check_importable(train)
    finished = {} if path is None else _read(Path(path))

    def trained(runs: list[Run], cost: int) -> list[dict[str, Any]]:
        """Train what is not finished yet; give all numbers, an entry for each setting."""
        keys = [_key(run, prints[run.condition]) for run in runs]
        left = []
        for run, key in zip(runs, keys, strict=True):
            if key in finished:
                _check_metrics(run, finished[key]["metrics"], needed[run.condition])
            else:
                left.append(run)
        bar.total -= cost * (len(runs) - len(left))  # what is finished says nothing about time
        bar.refresh()
        for run, metrics, seconds in _outcomes(train, left, needed, workers):
            record = run._asdict() | {"fingerprint": prints[run.condition]}
            record |= {"seconds": round(seconds, 3), "metrics": metrics}
            if path is not None:
                _append(Path(path), record)
            finished[_key(run, prints[run.condition])] = record
            bar.update(cost)
        return _by_setting(runs, [finished[key] for key in keys])

    # All settings of the first seed come first: what is wrong with one shows in the first minutes.
    grid = [Run(name, own, seed, steps) for seed in order for name in plan for own in plan[name]]
    cost = len(grid) + (0 if steps is None else 2 * len(plan) * len(order))
    with tqdm(total=cost, unit="run", smoothing=0, disable=None) as bar:
        runs = trained(grid, cost=1)
        chosen = choose(runs, choose_by)
        values = _test_values(chosen.values(), alone)
        judged = _judge(values, claims)
        if steps is not None:
            again = [
                Run(name, own["setting"], seed, 2 * steps)
                for seed in order
                for name, own in chosen.items()
            ]
            longer = trained(again, cost=2)
            judged = _settle(judged, _judge(_test_values(longer, alone), claims))
            runs = [*runs, *longer]
    return {
        "primary": judged,
        "others": _others(values, claims, baseline),
        "chosen": {name: own["setting"] for name, own in chosen.items()},
        "at_edge": [name for name, own in chosen.items() if _at_edge(own["setting"], plan[name])],
        "means": {
            name: {metric: _finite(own.mean()) for metric, own in metrics.items()}
            for name, metrics in values.items()
        },
        "not_finite": _not_finite(runs, order),
        "runs": runs,
        "seeds": order,
        "choose_by": choose_by,
        "baseline": baseline,
        "steps": steps,
    }


def choose(runs: Iterable[Mapping[str, Any]], choose_by: str) -> dict[str, Mapping[str, Any]]:
    """Take for each condition the setting whose validation metric is best on average over the seeds.

    Parameters
    ----------
    runs : iterable of mapping
        As in ``compare(...)["runs"]``: ``"condition"``, ``"setting"`` and ``"metrics"``.
    choose_by : str
        The lowest is best for an error (:func:`~mtl_tutorial.metrics.lower_is_better`), else the
        highest. Of equals, the first is taken.

    Returns
    -------
    dict
        From each condition to its entry of ``runs``.

    Raises
    ------
    ValueError
        At each setting of a condition the metric is not finite for some seed.

    Examples
    --------
    >>> runs = [{"condition": "shared", "setting": rate, "metrics": {"valid_loss": losses}}
    ...         for rate, losses in ((0.1, [2.0, 1.8]), (1.0, [0.9, 1.1]), (10.0, [0.2, None]))]
    >>> choose(runs, "valid_loss")["shared"]["setting"]
    1.0
    """
    sign = -1 if lower_is_better(choose_by) else 1
    best: dict[str, tuple[float, Mapping[str, Any]]] = {}
    for own in runs:
        mean = sign * np.array(own["metrics"][choose_by], dtype=float).mean()
        score = mean if np.isfinite(mean) else -np.inf
        if own["condition"] not in best or score > best[own["condition"]][0]:
            best[own["condition"]] = score, own
    failed = [condition for condition, (score, _) in best.items() if score == -np.inf]
    if failed:
        raise ValueError(
            f"no setting can be chosen for {failed}: at each of them {choose_by!r} was NaN or "
            "infinite for some seed. Give other settings, or leave the condition out and say so"
        )
    return {condition: own for condition, (_, own) in best.items()}


def p_value(gains: Sequence[float] | np.ndarray) -> float:
    r"""Two-sided p-value of the paired t-test: how often luck alone gives so large a mean gain.

    .. math:: t = \frac{\bar v}{s / \sqrt{n}}, \qquad p = P(|T_{n-1}| \ge |t|)

    Below 0.05 exactly where the 95 % interval of :func:`~mtl_tutorial.metrics.mean_interval`
    leaves out 0.

    Parameters
    ----------
    gains : sequence of float, length n
        Paired differences, one a seed, at least 2. If all are 0, the p-value is 1.

    Examples
    --------
    >>> p_value([1.0, 2.0, 3.0])
    0.07...
    """
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(gains, 0).pvalue) if np.any(gains) else 1.0


def holm(p_values: Sequence[float] | np.ndarray) -> list[float]:
    r"""Correct p-values for being several, so that any false finding at all is rare.

    With :math:`p_{(1)} \le \dots \le p_{(m)}` the k-th smallest becomes (Holm, 1979)

    .. math:: \tilde p_{(k)} = \max_{j \le k}\, \min\bigl(1, (m - j + 1)\, p_{(j)}\bigr)

    Of those below 0.05 not one is a false finding, with probability 0.95 or more, however the
    comparisons depend on each other.

    Parameters
    ----------
    p_values : sequence of float, length m

    Returns
    -------
    list of float, length m
        In the order in which they were given.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    order = p.argsort(kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return [float(each) for each in corrected.clip(max=1)]


def detectable(
    deviation: float, seeds: int, *, level: float = LEVEL, power: float = POWER
) -> float:
    r"""Give the smallest true gain that a paired t-test finds with the given probability.

    Where the true gain is :math:`\delta`, the t statistic follows the noncentral t distribution with
    :math:`n - 1` degrees of freedom and noncentrality :math:`\delta \sqrt n / s`. So a verdict of no
    clear difference speaks against true gains above this one; a smaller one may well be there.

    Parameters
    ----------
    deviation : float
        Standard deviation :math:`s` of the paired differences.
    seeds : int
        Their number n, at least 2.
    level : float
        Of the two-sided test. Of m primary comparisons each is found at least as often as it is at
        level 0.05 / m: the strictest that Holm's correction may ask for.
    power : float
        The probability to find it.

    Examples
    --------
    >>> detectable(1.0, 10), detectable(1.0, 40)
    (0.99..., 0.45...)
    """
    from scipy.special import nctdtrinc, stdtrit

    critical = stdtrit(seeds - 1, 1 - level / 2)
    noncentrality = nctdtrinc(seeds - 1, 1 - power, critical)  # P(t < critical) = 1 - power
    return float(noncentrality * deviation / np.sqrt(seeds))


def table(found: Mapping[str, Any]) -> str:
    r"""Put what :func:`compare` found into two tables: all conditions, and the primary comparisons.

    Parameters
    ----------
    found : mapping
        What :func:`compare` returned, or the same read back from JSON.

    Returns
    -------
    str
        Markdown, with aligned columns for printing; a notebook shows it as a table with
        ``IPython.display.Markdown``. In the first table a cell holds the mean over the seeds and, in
        brackets, the gain over the baseline with its 95 % interval; Δm is the gain over single-task.

    Examples
    --------
    >>> def train(condition, setting, seed):  # made up
    ...     right = 0.9 + (condition == "shared") * (0.01 + seed % 3 / 1000)
    ...     return {"valid_accuracy": right, "test_accuracy": right}
    >>> found = compare(
    ...     train, {"alone": [None], "shared": [None]}, range(10), choose_by="valid_accuracy",
    ...     baseline="alone", primary=[("shared", "alone", "test_accuracy")], workers=1)
    >>> print(table(found).split("\n\n")[1])
    | condition | setting | accuracy                   |
    | --------- | ------- | -------------------------- |
    | alone     |         | 0.9                        |
    | shared    |         | 0.9109 (+0.0109 ± 0.00063) |
    """
    gains = {
        (each["condition"], each["metric"]): each
        for each in [*found["others"], *found["primary"]]
        if each["against"] == _reference(each["metric"], found["baseline"])
    }
    metrics = list(dict.fromkeys(metric for means in found["means"].values() for metric in means))
    conditions = [["condition", "setting", *map(_label, metrics)]]
    for name, means in found["means"].items():
        setting = found["chosen"].get(name)
        edge = " (edge)" if name in found["at_edge"] else ""
        row = [name, "" if setting is None else f"{setting}{edge}"]
        for metric in metrics:
            mean = _number(means[metric], ".4g") if metric in means else ""
            gain = _interval(gains[name, metric]) if (name, metric) in gains else ""
            if metric == "delta_m":
                row.append(gain or mean)  # which is a gain already
            else:
                row.append(f"{mean} ({gain})" if gain else mean)
        conditions.append(row)
    primary = [["primary comparison", "metric", "gain", "p (Holm)", "detectable", "verdict"]]
    for each in found["primary"]:
        claim = [f"{each['condition']} against {each['against']}", _label(each["metric"])]
        numbers = [_number(each[key], ".2g") for key in ("p_holm", "detectable")]
        word = each["verdict"]
        if word == "unsettled":
            word += f" ({each['verdict_once']}, then {each['twice']['verdict']})"
        primary.append([*claim, _interval(each), *numbers, word])
    edges = "; (edge): the lowest or highest of those tried" if found["at_edge"] else ""
    longer = f"; verdicts again after twice the {found['steps']} steps" if found["steps"] else ""
    above = (
        f"{len(found['seeds'])} seeds; setting chosen by {_label(found['choose_by'])}{edges}; in "
        f"brackets the gain over {found['baseline']}, better above 0, with its 95 % interval."
    )
    below = (
        f"Holm's correction holds for these {len(found['primary'])}{longer}; a true gain as large as "
        f"*detectable* would be found in {POWER:.0%} of such experiments."
    )
    odd = [f"Not finite: {each}." for each in found["not_finite"]]
    return "\n\n".join([above, _markdown(conditions), _markdown(primary), below, *odd])


def gain(found: Mapping[str, Any], condition: str, metric: str, against: str) -> dict[str, Any]:
    """Give what :func:`compare` found of one condition against another.

    Parameters
    ----------
    found : mapping
        What :func:`compare` returned, or the same read back from JSON.
    condition, metric, against : str

    Returns
    -------
    dict
        Its entry of ``"primary"``, or else of ``"others"``, which has no verdict.

    Raises
    ------
    KeyError
        There is no such comparison; the message lists those of this condition.

    Examples
    --------
    >>> entry = {"condition": "shared", "metric": "test_f1", "against": "alone", "mean": 0.02}
    >>> gain({"primary": [entry], "others": []}, "shared", "test_f1", "alone")["mean"]
    0.02
    """
    entries = {
        (each["condition"], each["metric"], each["against"]): each
        for each in [*found["others"], *found["primary"]]
    }
    if (condition, metric, against) in entries:
        return dict(entries[condition, metric, against])
    known = sorted(entry for entry in entries if entry[0] == condition)
    raise KeyError(f"no gain of {condition!r} over {against!r} in {metric!r}; there are {known}")


def per_seed(
    found: Mapping[str, Any], condition: str, steps: int | None = None
) -> dict[str, np.ndarray]:
    """Give the metrics of a condition at the setting that validation chose, a number a seed.

    Parameters
    ----------
    found : mapping
        What :func:`compare` returned, or the same read back from JSON.
    condition : str
    steps : int, optional
        Twice ``found["steps"]`` for the runs that trained twice as long; without it ``found["steps"]``.

    Returns
    -------
    dict from metric to numpy.ndarray
        In the order of ``found["seeds"]``; NaN where a run gave no finite number.

    Raises
    ------
    KeyError
        There is no such run; the message lists those that there are.

    Examples
    --------
    >>> run = {"condition": "shared", "setting": 0.1, "steps": 50, "metrics": {"test_f1": [0.8, 0.9]}}
    >>> found = {"runs": [run], "chosen": {"shared": 0.1}, "steps": 50}
    >>> per_seed(found, "shared")["test_f1"].tolist()
    [0.8, 0.9]
    """
    wanted = condition, found["steps"] if steps is None else steps
    chosen = {
        (own["condition"], own["steps"]): own["metrics"]
        for own in found["runs"]
        if own["setting"] == found["chosen"][own["condition"]]
    }
    if wanted not in chosen:
        known = sorted(f"{name!r} of {count} steps" for name, count in chosen)
        raise KeyError(f"no run {condition!r} of {wanted[1]} steps; there are {', '.join(known)}")
    return {metric: np.array(own, dtype=float) for metric, own in chosen[wanted].items()}


def points(gain: Mapping[str, Any]) -> str:
    """Write a gain with its 95 % interval: in tenths of a point, or hundredths where it is narrow.

    Metrics are in per cent. Δm is a fraction, and is written in per cent, too.

    Parameters
    ----------
    gain : mapping
        What :func:`gain` gives.

    Examples
    --------
    >>> points({"mean": 6.94, "half_width": 1.1})
    '+6.9 ± 1.1'
    >>> points({"metric": "delta_m", "mean": 0.0694, "half_width": 0.011})
    '+6.9 ± 1.1'
    """
    scale = 100 if gain.get("metric") == "delta_m" else 1
    mean, half = gain["mean"], gain["half_width"]
    if mean is None or half is None:
        return _number(None if mean is None else scale * mean, "+.1f")
    digits = 1 if scale * half >= 0.3 else 2
    return f"{scale * mean:+.{digits}f} ± {scale * half:.{digits}f}"


def _claims(primary: Sequence[Any]) -> list[Claim]:
    """Take the primary comparisons apart, or say what they should be."""
    wrong = [each for each in primary if isinstance(each, str) or len(each) != 3]
    if wrong or not 1 <= len(primary) <= 4:
        raise ValueError(
            "name one to four primary comparisons, each as (condition, against, metric); got "
            f"{wrong or len(primary)}"
        )
    return [(condition, against, metric) for condition, against, metric in primary]


def _check_names(
    plan: Mapping[str, list[Any]],
    seeds: list[int],
    claims: list[Claim],
    alone: Mapping[str, str],
    *,
    prints: Mapping[str, str],
    choose_by: str,
    baseline: str,
) -> None:
    """Refuse names that are unknown, or appear twice, or cannot be what they are used for."""
    known = [*plan, *([SINGLE_TASK] if alone else [])]
    named = [baseline, *alone.values(), *(name for claim in claims for name in claim[:2])]
    compared = [*alone, *(metric for *_, metric in claims if metric != "delta_m")]
    relative = [claim for claim in claims if claim[2] == "delta_m"]
    faults: dict[str, list[Any]] = {
        f"{SINGLE_TASK!r} is the name of the single-task runs together, take another": [
            name for name in plan if name == SINGLE_TASK
        ],
        "conditions without a setting (give [None] if there is nothing to choose)": [
            name for name, settings in plan.items() if not settings
        ],
        "settings that a condition has twice": [
            (name, twice) for name, settings in plan.items() for twice in _twice(settings)
        ],
        "seeds that come twice": _twice(seeds),
        "primary comparisons that come twice": _twice(claims),
        "primary comparisons of a condition with itself": [
            claim for claim in claims if claim[0] == claim[1]
        ],
        f"unknown conditions, known are {known}": [name for name in named if name not in known],
        "single_task names conditions that it makes up": [
            name for name in alone.values() if name == SINGLE_TASK
        ],
        "compared are metrics of test data, whose names begin with test_": [
            metric for metric in compared if not metric.startswith("test_")
        ],
        "settings are chosen by a metric of validation data": [
            metric for metric in [choose_by] if metric.startswith("test_")
        ],
        "delta_m needs single_task": [] if alone else relative,
        "conditions without a fingerprint": [name for name in plan if name not in prints],
    }
    for fault, names in faults.items():
        if names:
            raise ValueError(f"{fault}: {', '.join(map(str, names))}")


def _twice(values: Sequence[Any]) -> list[Any]:
    """Give the values that came before; refuse one that JSON cannot hold."""
    texts: list[str] = []
    for value in values:
        try:
            texts.append(json.dumps(value, sort_keys=True, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{value!r} is not what JSON can hold: {error}") from None
    return [value for i, value in enumerate(values) if texts[i] in texts[:i]]


def _check_importable(train: Train) -> None:
    """Refuse a function that another process could not import."""
    try:
        sent = pickle.dumps(train)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        fault = str(error)
    else:
        if b"__main__" not in sent or hasattr(sys.modules["__main__"], "__file__"):
            return
        fault = "it stands in a notebook or at a prompt"
    raise ValueError(
        f"other processes cannot import train: {fault}. Put it at the top of a module or script, or "
        "take workers=1"
    )


def _needed(
    plan: Mapping[str, Any], claims: list[Claim], alone: Mapping[str, str], choose_by: str
) -> dict[str, set[str]]:
    """Say which metrics the runs of each condition must have."""
    needed = {name: {choose_by} for name in plan} | {SINGLE_TASK: set[str]()}
    for metric, condition in alone.items():
        needed[condition].add(metric)
    for condition, against, metric in claims:
        for name in (condition, against):
            needed[name] |= set(alone) if metric == "delta_m" else {metric}
    unknown = sorted(needed[SINGLE_TASK] - set(alone))
    if unknown:
        raise ValueError(f"{SINGLE_TASK!r} has the metrics {sorted(alone)}, not {unknown}")
    return needed


def _key(run: Run, fingerprint: str) -> str:
    return json.dumps([*run, fingerprint], sort_keys=True)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Give the finished runs that a file holds; remove a last line whose writing was cut short."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()  # a place that cannot be written is found out now
    text = path.read_bytes()
    *lines, rest = text.split(b"\n")
    finished = {}
    for i, line in enumerate(lines):
        try:
            record = json.loads(line)
            run = Run(*(record[field] for field in Run._fields))
            record["metrics"].items(), float(record["seconds"])  # only to see that they are there
            finished[_key(run, record["fingerprint"])] = record
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}, line {i + 1}: not a finished run of a comparison") from error
    begin = b'{"condition": '
    if rest[: len(begin)] != begin[: len(rest)]:
        raise ValueError(f"{path} ends with what is no run of a comparison; give another file")
    if rest:
        os.truncate(path, len(text) - len(rest))
    return finished


def _append(path: Path, record: dict[str, Any]) -> None:
    """Write a line; it is on the disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _outcomes(
    train: Train, runs: Iterable[Run], needed: Mapping[str, set[str]], workers: int
) -> Iterator[tuple[Run, dict[str, float | None], float]]:
    """Train the runs, several at a time; give each as it ends.

    Once one has failed no other is begun, those in flight are given, and then the failure is raised.
    """
    if workers == 1:
        for run in runs:
            yield run, *_outcome(train, run, needed[run.condition])
        return
    flying: dict[Future[tuple[dict[str, float | None], float]], Run] = {}
    failures: list[tuple[Run, BaseException]] = []
    waiting = iter(runs)
    spawn = get_context("spawn")  # neither framework survives a fork
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_end_with_parent) as pool:
        while True:
            for run in islice(waiting, 0 if failures else workers - len(flying)):
                with _one_thread():
                    future = pool.submit(_outcome, train, run, needed[run.condition])
                flying[future] = run
            if not flying:
                break
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                run, error = flying.pop(future), future.exception()
                if error is None:
                    yield run, *future.result()
                else:
                    failures.append((run, error))
    lost = [str(run) for run, error in failures if isinstance(error, BrokenProcessPool)]
    if lost:
        raise RuntimeError(
            "a process ended by itself (killed, out of memory, or compare is called outside of "
            f"if __name__ == '__main__':). In flight: {'; '.join(lost)}"
        ) from failures[0][1]
    if failures:
        raise failures[0][1]


def _outcome(train: Train, run: Run, needed: set[str]) -> tuple[dict[str, float | None], float]:
    """Train once; give the metrics, and how many seconds it took."""
    began = time.perf_counter()
    try:
        metrics = dict(train(*(run[:3] if run.steps is None else run)))
    except Exception as error:
        raise RuntimeError(f"{run}: {type(error).__name__}: {error}") from error
    seconds = time.perf_counter() - began
    numbers = {}
    for name, value in metrics.items():
        try:
            numbers[name] = _finite(float(value))
        except (TypeError, ValueError):
            raise ValueError(f"{run}: {name!r} is {value!r}, and no number") from None
    _check_metrics(run, numbers, needed)
    return numbers, seconds


def _check_metrics(run: Run, metrics: Mapping[str, Any], needed: set[str]) -> None:
    missing = sorted(needed - set(metrics))
    if missing:
        raise ValueError(f"{run}: no metric {', '.join(missing)}; train gave {sorted(metrics)}")


def _end_with_parent() -> None:
    """Let this process end when its parent does, even if that was killed."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Give one thread to a process that starts inside: its libraries read this at import."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _by_setting(runs: list[Run], records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gather the numbers of all seeds; refuse runs of one condition that differ in their metrics."""
    names: dict[str, set[str]] = {}
    gathered: dict[str, dict[str, Any]] = {}
    for run, record in zip(runs, records, strict=True):
        differ = names.setdefault(run.condition, set(record["metrics"])) ^ set(record["metrics"])
        if differ:
            raise ValueError(
                f"{run}: its metrics and those of the first run of this condition differ in "
                f"{sorted(differ)}. If train was changed in between, give another fingerprint"
            )
        empty = {"condition": run.condition, "setting": run.setting, "steps": run.steps}
        own = gathered.setdefault(_key(run._replace(seed=0), ""), empty)
        own["seconds"] = round(own.get("seconds", 0) + record["seconds"], 3)
        for metric, value in record["metrics"].items():
            own.setdefault("metrics", {}).setdefault(metric, []).append(value)
    return list(gathered.values())


def _test_values(chosen: Iterable[Mapping[str, Any]], alone: Mapping[str, str]) -> Values:
    """Give the test metrics of each condition as arrays; add single-task, and Δm against it."""
    values: Values = {
        own["condition"]: {
            metric: np.array(numbers, dtype=float)
            for metric, numbers in own["metrics"].items()
            if metric.startswith("test_")
        }
        for own in chosen
    }
    if not alone:
        return values
    single = {metric: values[condition][metric] for metric, condition in alone.items()}
    for metric, numbers in single.items():
        if (numbers <= 0).any():
            raise ValueError(
                f"Δm divides by the single-task metric; {metric!r} of {alone[metric]!r} must lie "
                f"above 0, and is {numbers.min():.4g} for a seed"
            )
    seeds = range(len(next(iter(single.values()))))
    for own in values.values():
        if set(single) <= set(own):
            pairs = [
                ({m: own[m][s] for m in single}, {m: single[m][s] for m in single}) for s in seeds
            ]
            own["delta_m"] = np.array([delta_m(shared, stl) for shared, stl in pairs])
    return values | {SINGLE_TASK: single | {"delta_m": np.zeros(len(seeds))}}


def _gains(values: Values, condition: str, against: str, metric: str) -> np.ndarray:
    sign = -1 if lower_is_better(metric) else 1
    return sign * (values[condition][metric] - values[against][metric])


def _undefined(gains: np.ndarray) -> str:
    """Say why there is no interval, or nothing."""
    if not np.isfinite(gains).all():
        return "not finite"
    if len(gains) < 2:
        return "one seed"
    if gains.any() and np.ptp(gains) <= 1e-9 * np.abs(gains).max():
        return "the same for all seeds"  # the seeds change nothing, so they are no evidence
    return ""


def _gain(values: Values, claim: Claim) -> dict[str, Any]:
    """Give the mean gain and its interval."""
    gains = _gains(values, *claim)
    entry = dict(zip(("condition", "against", "metric"), claim, strict=True))
    half_width = None if _undefined(gains) else mean_interval(gains)[1]
    return entry | {"mean": _finite(gains.mean()), "half_width": half_width}


def _judge(values: Values, claims: list[Claim]) -> list[dict[str, Any]]:
    """Give each primary comparison its p-values, what it could have found, and its verdict."""
    gains = [_gains(values, *claim) for claim in claims]
    judged = [_gain(values, claim) for claim in claims]
    for own, entry in zip(gains, judged, strict=True):
        reason = _undefined(own)
        entry |= {"p": None, "p_holm": None, "detectable": None, "verdict": f"undefined ({reason})"}
        if not reason:
            entry["p"] = p_value(own)
            entry["detectable"] = detectable(own.std(ddof=1), len(own), level=LEVEL / len(claims))
    # What is undefined stays one of the family: the correction of the others becomes no milder.
    corrected = holm([1 if entry["p"] is None else entry["p"] for entry in judged])
    for own, entry, p_holm in zip(gains, judged, corrected, strict=True):
        if entry["p"] is not None:
            entry["p_holm"] = p_holm
            entry["verdict"] = verdict(own) if p_holm < LEVEL else "no clear difference"
    return judged


def _settle(once: list[dict[str, Any]], twice: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the verdicts that training for longer does not change."""
    return [
        first
        | {
            "verdict": first["verdict"] if first["verdict"] == then["verdict"] else "unsettled",
            "verdict_once": first["verdict"],
            "twice": then,
        }
        for first, then in zip(once, twice, strict=True)
    ]


def _reference(metric: str, baseline: str) -> str:
    """Say which condition a metric is shown against: Δm is a gain over single-task as it is."""
    return SINGLE_TASK if metric == "delta_m" else baseline


def _others(values: Values, claims: list[Claim], baseline: str) -> list[dict[str, Any]]:
    """Give the gain of every condition in every metric that is not a primary comparison."""
    every = [
        (condition, _reference(metric, baseline), metric)
        for condition, metrics in values.items()
        for metric in metrics
        if condition != SINGLE_TASK  # its runs are those of conditions that are shown
    ]
    return [
        _gain(values, (condition, against, metric))
        for condition, against, metric in every
        if condition != against
        and metric in values[against]
        and (condition, against, metric) not in claims
    ]


def _at_edge(setting: Any, settings: list[Any]) -> bool:
    """Tell whether a number of the setting is the lowest or highest of several that were tried."""
    if isinstance(setting, dict) and all(isinstance(each, dict) for each in settings):
        return any(
            _at_edge(setting[key], _distinct(each[key] for each in settings if key in each))
            for key in setting
        )
    numbers = [each for each in settings if isinstance(each, int | float)]
    return 1 < len(numbers) == len(settings) and setting in (min(numbers), max(numbers))


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Leave out repetitions; the values may be lists, which no set holds."""
    distinct: list[Any] = []
    for value in values:
        if value not in distinct:
            distinct.append(value)
    return distinct


def _not_finite(runs: list[dict[str, Any]], seeds: list[int]) -> list[str]:
    return [
        f"{metric} of {Run(own['condition'], own['setting'], seed, own['steps'])}"
        for own in runs
        for metric, numbers in own["metrics"].items()
        for seed, number in zip(seeds, numbers, strict=True)
        if number is None
    ]


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def _number(value: float | None, form: str) -> str:
    return "undefined" if value is None else format(value, form)


def _interval(gain: Mapping[str, Any]) -> str:
    if gain["half_width"] is None:
        return _number(gain["mean"], "+.3g")
    return f"{gain['mean']:+.3g} ± {gain['half_width']:.2g}"


def _label(metric: str) -> str:
    return "Δm" if metric == "delta_m" else metric.removeprefix("test_")


def _markdown(rows: list[list[str]]) -> str:
    """Align cells; the first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)
