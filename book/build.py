"""Execute the notebooks, build the HTML, and refuse to call either green when it is not.

    python book/build.py [--force] [--no-budget]

What ``jupyter-book build`` leaves to luck is done here: notebooks run two at a time in single-thread
kernels whose CPU time and memory are measured; outputs are cached under a hash of the library, the
pinned versions and the data; pages are built afresh, since Sphinx forgets its warnings on a second
run, or left alone if nothing at all has changed since all was green; settings that make failures
silent are refused; every figure must have alt text.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError
from nbformat import NotebookNode

BOOK = Path(__file__).resolve().parent
ROOT = BOOK.parent
# The local Sphinx extensions are modules, not a package.
sys.path.append(str(BOOK / "_ext"))
from notebook_cache import (
    Cost,
    cache_folder,
    chapters,
    data_folder,
    digest_files,
    measured,
    read,
)

WORKERS = 2
MAX_BUDGET_SECONDS = 90
MAX_PEAK_MB = 2048
KERNEL_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}
JUPYTER_BOOK = [
    sys.executable,
    "-c",
    "from jupyter_book.cli.main import main; main()",
]


# --- settings that must not be there --------------------------------------------------------------


def config_problems(config: dict[str, Any]) -> list[str]:
    """Return what in ``_config.yml`` would hide a failure: a build it leaves green proves nothing."""
    execute = config.get("execute", {})
    sphinx = config.get("sphinx", {}).get("config", {})
    problems = [
        f"execute.{key} is set: failures of notebooks would not be seen"
        for key in ("exclude_patterns", "allow_errors")
        if execute.get(key)
    ]
    if execute.get("execute_notebooks") != "cache":
        problems.append("execute.execute_notebooks must be 'cache'")
    problems += [
        f"sphinx.config.{key} is set: it overrides what this check can see"
        for key in sphinx
        if key.startswith("nb_execution") or key == "suppress_warnings"
    ]
    problems += [
        f"nitpick_ignore_regex {pattern!r} would hide broken references to our own library"
        for _, pattern in sphinx.get("nitpick_ignore_regex", [])
        if re.fullmatch(pattern, "mtl_tutorial.tasks.Task")
    ]
    return problems


def declared_budget(notebook: Path) -> float | None:
    """Return the CPU seconds that a chapter allows itself in its metadata, if it says so."""
    budget: float | None = (
        read(notebook).metadata.get("mtl_tutorial", {}).get("budget_seconds")
    )
    return budget


def declaration_problems(budgets: dict[str, float | None]) -> list[str]:
    """Return the chapters without a budget, or with one beyond what the book may take."""
    return [
        f"{name}: notebook metadata mtl_tutorial.budget_seconds is {budget}; "
        f"a chapter declares at most {MAX_BUDGET_SECONDS} CPU seconds"
        for name, budget in budgets.items()
        if budget is None or not 0 < budget <= MAX_BUDGET_SECONDS
    ]


# --- executing the notebooks ----------------------------------------------------------------------


class Run(NamedTuple):
    """An executed notebook, what it took, and the error that stopped it, if one did."""

    path: Path
    notebook: NotebookNode
    cost: Cost
    error: str | None


def run_notebook(path: Path, timeout: int) -> Run:
    """Execute one notebook in a kernel that is the only child this process ever has.

    That is why the operating system's account of finished children is the chapter's exact cost.
    """
    notebook = read(path)
    started = [0]
    client = NotebookClient(
        notebook,
        timeout=notebook.metadata.get("execution", {}).get("timeout", timeout),
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,  # it would write into the cell metadata, which is the cache's key
        skip_cells_with_tag="",  # every cell runs
        extra_arguments=[
            "--IPKernelApp.log_level=40"
        ],  # a warning about local TCP, each time
        on_cell_start=lambda cell, cell_index: started.append(cell_index + 1),
    )
    error, start = None, time.perf_counter()
    try:
        client.execute()
    except (
        CellControlSignal,
        DeadKernelError,
    ) as failure:  # an error, a timeout, a dead kernel
        message = re.sub(r"\x1b\[[0-9;]*m", "", str(failure))
        where = f"cell {started[-1]} of {len(notebook.cells)}"
        error = f"{where}: {type(failure).__name__}\n{message}"
    wall = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = (
        2**20 if sys.platform == "darwin" else 2**10
    )  # ru_maxrss: bytes there, kB elsewhere
    cost = Cost(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / unit)
    return Run(path, notebook, cost, error)


def run_all(paths: list[Path], timeout: int) -> Iterable[Run]:
    """Yield notebooks as they finish, ``WORKERS`` at a time, each from a fresh process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(WORKERS, maxtasksperchild=1) as pool:
        yield from pool.imap_unordered(
            partial(run_notebook, timeout=timeout), paths
        )


def hide_our_paths(notebook: NotebookNode) -> None:
    """Leave this machine's folder out of the tracebacks that a page shows on purpose."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "traceback" in output:
                output.traceback = [
                    line.replace(f"{ROOT}/", "") for line in output.traceback
                ]


def store(cache: JupyterCacheAbstract, run: Run) -> None:
    """Put an executed notebook where MyST-NB will look for it, with its cost."""
    hide_our_paths(run.notebook)
    data = {"execution_seconds": run.cost.wall_seconds, **run.cost._asdict()}
    bundle = CacheBundleIn(run.notebook, str(run.path), data=data)
    cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def execute(
    notebooks: dict[str, Path],
    budgets: dict[str, float | None],
    cache: JupyterCacheAbstract,
    timeout: int,
) -> list[str]:
    """Execute what the cache does not hold, the longest chapters first; return the failures."""
    names = {path: name for name, path in notebooks.items()}
    stale = [path for path in names if measured(cache, path) is None]
    stale.sort(key=lambda path: -(budgets[names[path]] or 0))
    for path in names.keys() - set(stale):
        print(f"cached   {names[path]}")
    failures = []
    for run in run_all(stale, timeout) if stale else ():
        print(
            f"{'FAILED' if run.error else 'executed'} {names[run.path]}",
            flush=True,
        )
        if run.error:
            failures.append(f"{names[run.path]}, {run.error}")
        else:
            store(cache, run)
    return failures


def strays(cache: JupyterCacheAbstract) -> list[str]:
    """Return what Sphinx had to execute by itself, and so nobody measured."""
    return [
        f"{Path(record.uri).name} was executed by Sphinx, not here: its cost is unknown"
        for record in cache.list_cache_records()
        if not record.data.keys() >= set(Cost._fields)
    ]


# --- what it took ---------------------------------------------------------------------------------


def print_costs(
    costs: dict[str, Cost], budgets: dict[str, float | None]
) -> None:
    """Print one line per chapter and the sum."""
    line = "{:40} {:>7} {:>7} {:>8} {:>7}".format
    print(line("chapter", "CPU s", "wall s", "peak MB", "budget"))
    for name, cost in costs.items():
        print(
            line(
                name,
                *(f"{value:.1f}" for value in cost),
                f"{budgets[name]:.0f}",
            )
        )
    total = sum(cost.cpu_seconds for cost in costs.values())
    print(line("whole book", f"{total:.1f}", "", "", ""))


def cost_problems(
    costs: dict[str, Cost], budgets: dict[str, float | None]
) -> list[str]:
    """Return the chapters that took more than they may.

    CPU seconds are compared, because on a shared machine wall time is mostly other people's work.
    """
    return [
        f"{name}: took {cost.cpu_seconds:.1f} CPU seconds, its budget is {budget}"
        for name, cost in costs.items()
        if (budget := budgets[name]) is not None and cost.cpu_seconds > budget
    ] + [
        f"{name}: needed {cost.peak_mb:.0f} MB, the limit is {MAX_PEAK_MB}"
        for name, cost in costs.items()
        if cost.peak_mb > MAX_PEAK_MB
    ]


# --- the pages ------------------------------------------------------------------------------------


class Images(HTMLParser):
    """Collect (source, alt text) of every image of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(
        self, tag: str, attrs: list[tuple[str, str | None]]
    ) -> None:
        """Keep an image."""
        if tag == "img":
            values = dict(attrs)
            self.found.append(
                (values.get("src") or "", (values.get("alt") or "").strip())
            )


def image_problems(html: Path) -> list[str]:
    """Return the images whose alt text says nothing: empty, or the file name MyST-NB falls back to."""
    file_name = re.compile(r"\S*\.(png|svg|jpe?g|gif|webp)", re.IGNORECASE)
    return [
        f"{page.relative_to(html)}: the image {source} has no alt text (alt={alt!r})"
        for page in sorted(html.rglob("*.html"))
        for source, alt in Images(page.read_text(encoding="utf-8")).found
        if not alt or file_name.fullmatch(alt)
    ]


def state(cached: Path) -> str:
    """Return a hash of all that pages are made from: sources, settings and executed notebooks."""
    sources = [
        path
        for path in sorted(BOOK.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    ]
    files = [ROOT / "_config.yml", *sources]
    return digest_files(ROOT, files, start=cached.name).hexdigest()


def build_html(build: Path) -> int:
    """Build all pages with warnings as errors into fresh folders; return the exit status."""
    for folder in ("html", ".doctrees"):
        shutil.rmtree(build / folder, ignore_errors=True)
    options = ["build", str(BOOK), "-q", "-n", "-W", "--keep-going"]
    return subprocess.run([*JUPYTER_BOOK, *options], check=False).returncode


# --- all of it ------------------------------------------------------------------------------------


def report(title: str, problems: list[str]) -> bool:
    """Print problems, each under a title, and return whether there were any."""
    sys.stdout.flush()
    for problem in problems:
        print(f"\n{title}: {problem}", file=sys.stderr)
    return bool(problems)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description="Execute the notebooks and build the HTML."
    )
    parser.add_argument(
        "--force", action="store_true", help="execute every notebook again"
    )
    parser.add_argument(
        "--no-budget",
        action="store_true",
        help="only warn about chapters that take too much",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run every step; return 0 only if all of them are in order."""
    options = parse(arguments)
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    notebooks = chapters(BOOK)
    budgets = {name: declared_budget(path) for name, path in notebooks.items()}
    if report(
        "refused", config_problems(config) + declaration_problems(budgets)
    ):
        return 1

    os.environ.update(KERNEL_ENVIRONMENT)
    if (
        data := data_folder()
    ):  # kernels start in other folders, where a relative path is another
        os.environ["MTL_TUTORIAL_DATA"] = str(data)
    folder = cache_folder(ROOT)
    if options.force:
        shutil.rmtree(folder, ignore_errors=True)
    cache = get_cache(folder)
    if report(
        "failed",
        execute(notebooks, budgets, cache, config["execute"]["timeout"]),
    ):
        return 1
    costs = {
        name: cost
        for name, path in notebooks.items()
        if (cost := measured(cache, path))
    }
    print_costs(costs, budgets)

    expensive = cost_problems(costs, budgets)
    html, now = ROOT / "_build" / "html", state(folder)
    # Written last, so what it stands for was green from end to end.
    stamp = html / ".green"
    if (
        stamp.exists()
        and stamp.read_text() == now
        and not (options.force or expensive)
    ):
        print(f"unchanged\n{html / 'index.html'}")
        return 0
    if status := build_html(html.parent):
        report("failed", ["Sphinx reported the warnings above"])
        return status
    red = report("failed", image_problems(html) + strays(cache))
    red |= (
        report("warning" if options.no_budget else "failed", expensive)
        and not options.no_budget
    )
    if red:
        return 1
    stamp.write_text(now)
    print(html / "index.html")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
