"""Experiment scripts: a command line, results that say where they come from, and what makes them stale.

A script names its conditions and its primary comparisons, and hands them to :func:`main`, which has
:func:`mtl_tutorial.comparison.compare` do the work. What it found is written to a file of results
with its provenance; :func:`read` gives it to whoever draws from it. :func:`stale` says whether
script, data and library still are those that it came from.
"""

import argparse
import ast
import hashlib
import json
import os
import platform
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from mtl_tutorial.comparison import Run, Train, compare, table
from mtl_tutorial.datasets import Dataset, leaves

SMOKE = "MTL_TUTORIAL_SMOKE"
TOLERANCE = 1e-3
# How far a run may lie from the same run then, in deviations of the seeds: on another processor other
# roundings make another training of it, and two such differ by more than 3 of them in 1 of 30 cases.
DEVIATIONS = 4
# How far a number of a smoke run may lie from the same on another processor, in deviations of its metric
# over the runs: up to 0.1 was seen, where a few steps at a high rate decide single images.
ELSEWHERE = 0.3
PROVENANCE = ("script", "data", "version", "date", "machine", "minutes", "smoke")
HERE = Path(__file__).parent


def source() -> str:
    """Say which data an experiment takes: the real ones, or the embedded ones in a smoke run.

    Returns
    -------
    str
        ``"real"`` or ``"embedded"``, as the functions of :mod:`mtl_tutorial.datasets` take it.

    Examples
    --------
    >>> source()
    'real'
    """
    return "embedded" if os.environ.get(SMOKE) else "real"


def main(
    script: str | os.PathLike[str],
    train: Train,
    conditions: Mapping[str, Any],
    *,
    data: Callable[[str], Dataset],
    smoke_steps: int,
    arguments: list[str] | None = None,
    **protocol: Any,
) -> int:
    """Be the command line of an experiment script.

    Without an option: run what is not finished, write the results beside the script's folder, in
    ``results/<folder>/<script>.json``, and print them. A result that is not stale is left as it is.
    Finished runs are kept in ``runs/``: what was stopped goes on where it was, and a script in which
    only the call of this function changed (a condition more, a setting more at the end of a list,
    another seed) trains only what is new. A condition whose smoke run gives other numbers than then
    is trained again.

    ``--smoke``: on embedded data train each condition for a few steps with the first seed, and
    report whether the result is stale. ``--again``: train the chosen settings anew with the first
    seed, on the real data, and compare with the result.

    Parameters
    ----------
    script : path
        ``__file__``; it stands in a folder of the experiments' folder.
    train, conditions, **protocol
        As :func:`~mtl_tutorial.comparison.compare` takes them. Metrics in per cent make gains in
        points.
    data : callable
        Such as :func:`mtl_tutorial.datasets.mnist`: gives what ``train`` takes from it, for
        ``"real"`` or ``"embedded"``. The real arrays are hashed. Where a program writes the data and
        there are no others, a :class:`~mtl_tutorial.datasets.Dataset` whose source is
        ``"generated"``.
    smoke_steps : int
        So many instead of ``steps`` in a smoke run.
    arguments : list of str, optional
        Instead of the command line's.

    Returns
    -------
    int
        The exit status: 1 if the result is stale, or if what was trained again differs.
    """
    parser = argparse.ArgumentParser(description=f"Experiment {_name(script)}")
    parser.add_argument("--smoke", action="store_true", help="a few steps, on embedded data")
    parser.add_argument("--again", action="store_true", help="train one seed anew, and compare")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time (2)")
    options = parser.parse_args(arguments)
    smoke = _smoke(train, conditions, smoke_steps, protocol)
    problems = stale(script, smoke)
    if options.smoke:
        return _report(_name(script), problems)
    dataset = data("real")
    result, hashed = _beside(script, "results", "json"), _hash(dataset)
    if not problems and _provenance(result)["data"]["hash"] != hashed:
        problems = ["the data have changed since"]
    if options.again:
        return _report(_name(script), problems or _again(train, result))
    if not problems:
        print(f"{_name(script)}: up to date, {result}")
        return 0
    print(f"{_name(script)}: {'; '.join(problems)}")
    training = _digest(f"{_tree(script, training_only=True)}{hashed}")
    found = compare(
        train,
        conditions,
        path=_beside(script, "runs", "jsonl"),
        fingerprint={
            name: _digest(f"{training}{_first(smoke, name, settings[0])}")
            for name, settings in conditions.items()
        },
        workers=options.workers,
        **protocol,
    )
    write(script, found, dataset, smoke)
    print(table(found))
    return 0


def read(name: str) -> dict[str, Any]:
    """Give the result of an experiment of the book.

    Parameters
    ----------
    name : str
        Part and chapter, such as ``"foundations/why-share"``.

    Returns
    -------
    dict
        What :func:`~mtl_tutorial.comparison.compare` found, and ``"provenance"``: the hash of the
        script, the data with its hash, the library's version, the date, the machine, how many
        minutes of training it took, and the numbers of its smoke run.

    Raises
    ------
    FileNotFoundError
        There is no such result; the message lists those that there are.
    """
    folders = (HERE.parent / "experiments" / "results", HERE / "results")  # cloned, or installed
    for folder in folders:
        path = folder / f"{name}.json"
        if path.is_file():
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
    known = [
        path.relative_to(folder).with_suffix("").as_posix()
        for folder in folders
        for path in sorted(folder.rglob("*.json"))
    ]
    raise FileNotFoundError(f"no result of an experiment {name!r}; there are {known}")


def write(
    script: str | os.PathLike[str],
    found: Mapping[str, Any],
    data: Dataset,
    smoke: Mapping[str, Mapping[str, float | None]],
) -> Path:
    """Write a result with its provenance; an older one is replaced in one piece.

    Parameters
    ----------
    script : path
    found : mapping
        What ``compare`` returned.
    data : Dataset
    smoke : mapping
        The numbers of the smoke run.

    Returns
    -------
    Path
        The file of results.
    """
    from mtl_tutorial import __version__

    seconds = sum(own["seconds"] for own in found["runs"])
    provenance = {
        "script": {"hash": _digest(_tree(script))},
        "data": {"name": data.name, "source": data.source, "hash": _hash(data)},
        "version": __version__,
        "date": date.today().isoformat(),
        "machine": _machine(),
        "roundings": _roundings(),
        "minutes": round(seconds / 60, 1),
        "smoke": smoke,
    }
    path = _beside(script, "results", "json")
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".part")
    told = {"provenance": provenance, **found, "runs": _rounded(found["runs"], 5)}  # most of it
    whole.write_text(_text(_rounded(told)), encoding="utf-8")
    whole.replace(path)
    return path


def stale(
    script: str | os.PathLike[str], smoke: Mapping[str, Mapping[str, float | None]]
) -> list[str]:
    """Say why the result of a script is not what the script would give today, as far as can be seen.

    Parameters
    ----------
    script : path
    smoke : mapping from run to metrics
        The numbers of a smoke run made just now. So a library that trains otherwise is seen, and a
        new docstring or name in it is not. On a processor that rounds in another way than the one
        of the result, numbers may lie further apart.

    Returns
    -------
    list of str
        The reasons; empty if it is as it should be.
    """
    path = _beside(script, "results", "json")
    if not path.is_file():
        return ["there is no result yet"]
    provenance = _provenance(path)
    if missing := [key for key in PROVENANCE if provenance.get(key) in (None, "", {})]:
        return [f"the result lacks its provenance: {', '.join(missing)}"]
    problems = []
    if provenance["data"].get("source") not in {"real", "generated"}:
        problems.append("the result was not computed from the real data")
    if provenance["script"].get("hash") != _digest(_tree(script)):
        problems.append("the script has changed since")
    here = provenance.get("roundings") == _roundings()
    moved = _moved(provenance["smoke"], smoke, here=here)
    if moved:
        problems.append(f"its smoke run gives other numbers than then: {moved[0]}")
    return problems


def _smoke(
    train: Train, conditions: Mapping[str, Any], steps: int, protocol: Mapping[str, Any]
) -> dict[str, dict[str, float | None]]:
    """Train every condition a little with the first seed; give the metrics of each run."""
    first = [next(iter(protocol["seeds"]))]
    few = dict(protocol) | {"seeds": first, "steps": steps, "least_seeds": 1}
    os.environ[SMOKE] = "1"
    try:
        found = compare(train, conditions, workers=1, **few)
    finally:
        del os.environ[SMOKE]  # whoever had set it: what comes next takes the real data
    smoke: dict[str, dict[str, float | None]] = _rounded(
        {
            str(Run(own["condition"], own["setting"], first[0], own["steps"])): {
                metric: values[0] for metric, values in own["metrics"].items()
            }
            for own in found["runs"]
        }
    )
    return smoke


def _moved(
    then: Mapping[str, Mapping[str, float | None]],
    now: Mapping[str, Mapping[str, float | None]],
    *,
    here: bool,
) -> list[str]:
    """Say which numbers of a smoke run differ; ``here``: on a processor that rounds as then.

    Elsewhere the answer to a few images turns, or another setting is chosen to be trained longer.
    """
    if set(then) != set(now) and (here or len(then) != len(now)):
        return [f"other runs: {', '.join(sorted(set(then) ^ set(now)))}"]
    column: dict[str, list[float]] = defaultdict(list)
    for metrics in then.values():
        for metric, value in metrics.items():
            if value is not None:
                column[metric].append(value)
    may = {
        metric: TOLERANCE if here else max(TOLERANCE, ELSEWHERE * float(np.std(values)))
        for metric, values in column.items()
    }
    return [
        f"{run}: {metric} was {then[run].get(metric)}, is {now[run].get(metric)}"
        for run in then
        if run in now
        for metric in sorted(set(then[run]) | set(now[run]))
        if not np.isclose(
            _float(then[run].get(metric)),
            _float(now[run].get(metric)),
            rtol=0,
            atol=may.get(metric, TOLERANCE),
            equal_nan=True,
        )
    ]


def _float(value: float | None) -> float:
    return np.nan if value is None else value


def _again(train: Train, result: Path) -> list[str]:
    """Train each chosen setting with the first seed; say which metrics left what the seeds gave."""
    found = json.loads(result.read_text(encoding="utf-8"))
    seed, steps = found["seeds"][0], found["steps"]
    problems = []
    for own in found["runs"]:
        chosen = found["chosen"][own["condition"]] == own["setting"] and own["steps"] == steps
        if not chosen:
            continue
        run = Run(own["condition"], own["setting"], seed, steps)
        metrics = train(*run) if steps is not None else train(*run[:3])
        for metric, numbers in own["metrics"].items():
            values = np.array(numbers, dtype=float)
            deviation = values.std(ddof=1)
            if not abs(metrics[metric] - values[0]) <= DEVIATIONS * deviation + TOLERANCE:
                problems.append(
                    f"{run}: {metric} is {metrics[metric]:.4g}, was {values[0]:.4g}; the deviation "
                    f"over the seeds is {deviation:.2g}"
                )
    return problems


def _report(name: str, problems: list[str]) -> int:
    for problem in problems:
        print(f"{name}: {problem}")
    if not problems:
        print(f"{name}: in order")
    return int(bool(problems))


def _first(smoke: Mapping[str, Any], condition: str, setting: Any) -> str:
    """Give the smoke run of a condition's first setting: what changes when the library does."""
    begin = f"condition {condition!r}, setting {setting!r}, "
    own = {run: metrics for run, metrics in smoke.items() if run.startswith(begin)}
    return json.dumps(next(iter(own.values())), sort_keys=True)


def _provenance(result: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return dict(found.get("provenance", {}))


def _name(script: str | os.PathLike[str]) -> str:
    path = Path(script).resolve()
    return f"{path.parent.name}/{path.stem}"


def _beside(script: str | os.PathLike[str], folder: str, suffix: str) -> Path:
    root = Path(script).resolve().parents[1]
    return root / folder / f"{_name(script)}.{suffix}"


def _tree(script: str | os.PathLike[str], *, training_only: bool = False) -> str:
    """Give the syntax tree without docstrings; on request also without the call of main."""
    tree = ast.parse(Path(script).read_text(encoding="utf-8"))
    if training_only:
        tree.body = [node for node in tree.body if not _calls_main(node)]
    return json.dumps(_plain(tree))


def _calls_main(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def _plain(node: Any) -> Any:
    """Turn a syntax tree into lists: of what is there, so that all versions of Python give the same."""
    if isinstance(node, list):
        return [_plain(each) for each in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
        fields["body"] = node.body[ast.get_docstring(node) is not None :]
    there = {name: value for name, value in fields.items() if value not in (None, [])}
    return [type(node).__name__, *([name, _plain(value)] for name, value in there.items())]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _hash(data: Dataset) -> str:
    """Hash all arrays of a data set."""
    digest = hashlib.sha256()
    for split in (data.train, data.valid, data.test):
        for name, array in [*leaves(split.inputs).items(), *sorted(split.targets.items())]:
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def _roundings() -> str:
    """Tell processors apart on which the same sums of products are rounded in other ways."""
    matrix = np.random.default_rng(0).standard_normal((64, 64))
    products = [(each @ each.T).tobytes() for each in (matrix, matrix.astype(np.float32))]
    return hashlib.sha256(b"".join(products)).hexdigest()[:16]


def _machine() -> str:
    """Name the processor, and how many cores there are."""
    processor = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    except OSError:
        pass  # not on Linux
    return f"{os.cpu_count()} cores of {processor}, {platform.system()}"


def _text(found: Mapping[str, Any]) -> str:
    """Write JSON with the innermost lists and objects on one line: a quarter fewer bytes."""
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    innermost = r"(?<=[\[{])\n\s*([^][{}]*?)\n\s*(?=[\]}])"  # a string has no line break of its own
    return re.sub(innermost, lambda inner: re.sub(r"\n\s*", " ", inner[1]), text)


def _rounded(value: Any, digits: int = 6) -> Any:
    """Keep so many digits of every number: more would only be noise, and bytes."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(each, digits) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each, digits) for each in value]
    return value
