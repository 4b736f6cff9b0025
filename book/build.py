"""Execute the notebooks, build the HTML, and refuse to call either green when it is not.

    python book/build.py [--force] [--strict]

What ``jupyter-book build`` leaves to luck is done here: notebooks run two at a time in single-thread
kernels whose CPU time and memory are measured; outputs are cached under a hash of the library, the
pinned versions and the data; pages are built afresh, since Sphinx forgets its warnings on a second
run, or left alone if nothing at all has changed since all was green; settings that make failures
silent are refused; every figure must have alt text, and no page shows a folder of this machine.

What a chapter took is held against its budget, scaled by the speed of the machine. Too much is a
warning, since the pages are right all the same, and an error for authors who say ``--strict``.
"""

from __future__ import annotations

import argparse
import atexit
import multiprocessing
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from html.parser import HTMLParser
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal
from nbformat import NotebookNode

BOOK = Path(__file__).resolve().parent
ROOT = BOOK.parent
# The local Sphinx extensions are modules, not a package.
sys.path.append(str(BOOK / "_ext"))
from kernel_environment import ENVIRONMENT
from notebook_cache import (
    Cost,
    cache_folder,
    chapters,
    data_folder,
    digest_files,
    evidence,
    measured,
    read,
)

WORKERS = 2
MAX_BUDGET_SECONDS = 90
MAX_PEAK_MB = 2048
# CPU seconds that ``sample_work`` takes on the machine for which budgets are written: 2 cores of an
# AMD EPYC, undisturbed (here, beside five other people's work, the median of 120 was 0.156).
REFERENCE_SECONDS = 0.12
STARTED = time.monotonic()
# What reading a file raises that is no notebook, and what running one does: by a cell, by a kernel
# that dies or does not start, or by one that cannot be found.
UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    nbformat.ValidationError,
)
UNRUNNABLE = (CellControlSignal, RuntimeError, OSError, LookupError)
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


def reading_problems(notebooks: dict[str, Path]) -> list[str]:
    """Return the chapters that cannot be run at all: no notebook, or one for another kernel."""
    kernels = sorted(KernelSpecManager().find_kernel_specs())
    problems = []
    for name, path in notebooks.items():
        try:
            notebook = read(path)
            nbformat.validate(notebook)
            kernel = notebook.metadata.get("kernelspec", {}).get("name")
        except UNREADABLE as failure:
            said = (str(failure).splitlines() or [""])[0][:100]
            problems.append(
                f"{name}: {path.name} cannot be read as a notebook "
                f"({type(failure).__name__}: {said}); restore it, or save it again in Jupyter"
            )
        else:
            if kernel and kernel not in kernels:
                problems.append(
                    f"{name}: asks for the kernel {kernel!r}, which is not installed here (there "
                    f"are {kernels}); set kernelspec.name in its metadata to 'python3'"
                )
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
        if not isinstance(budget, int | float)
        or not 0 < budget <= MAX_BUDGET_SECONDS
    ]


# --- how fast this machine is ---------------------------------------------------------------------


def sample_work() -> None:
    """Do for a moment what chapters do: steps of small matrices, and plain Python between them."""
    import numpy as np

    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 512)).astype(np.float32)
    w = generator.normal(size=(512, 128)).astype(np.float32)
    for _ in range(300):
        w -= 1e-6 * (x.T @ np.maximum(x @ w, 0))
    total = 0
    for k in range(1_000_000):
        total += k % 7


def slowness() -> float:
    """Return how many times as long as on the author's machine work takes here and now."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        sample_work()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds) / REFERENCE_SECONDS


# --- executing the notebooks ----------------------------------------------------------------------


class Run(NamedTuple):
    """An executed notebook, what it took, and the error that stopped it, if one did."""

    path: Path
    notebook: NotebookNode
    cost: Cost
    error: str | None


def run_notebook(path: Path, timeout: int) -> Run:
    """Execute one notebook in a kernel that is the only child this process ever has.

    That is why the operating system's account of finished children is the chapter's exact cost. How
    slow the machine is is seen before and after, while another chapter runs as one did beside this.
    """
    notebook, slow = read(path), [slowness()]
    started = [0]
    client = NotebookClient(
        notebook,
        timeout=notebook.metadata.get("execution", {}).get("timeout", timeout),
        startup_timeout=timeout,
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,  # it would write into the cell metadata, which is the cache's key
        skip_cells_with_tag="",  # every cell runs
        extra_arguments=[
            "--IPKernelApp.log_level=40"
        ],  # a warning about local TCP, each time
        on_cell_start=lambda cell, cell_index: started.append(cell_index + 1),
    )
    error, start = None, time.perf_counter()
    # What a kernel says outside cells: TensorFlow's greetings, or why it could not start.
    with tempfile.TemporaryFile() as words:
        try:
            client.execute(stdout=words, stderr=words)
        except UNRUNNABLE as failure:
            cell = f"cell {started[-1]} of {len(notebook.cells)}"
            where = cell if started[-1] else "before its first cell"
            error = f"{where}: {type(failure).__name__}\n{failure}"
            if not isinstance(failure, CellControlSignal):
                words.seek(0)
                error += "\n" + words.read().decode(errors="replace")[-2000:]
            error = without_colours(error).rstrip()
            # Else nbclient complains at exit that a kernel which never came is not there.
            atexit.unregister(client._cleanup_kernel)
    wall = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = (
        2**20 if sys.platform == "darwin" else 2**10
    )  # ru_maxrss: bytes there, kB elsewhere
    slow.append(slowness())
    cost = Cost(
        cpu_seconds=used.ru_utime + used.ru_stime,
        wall_seconds=wall,
        peak_mb=used.ru_maxrss / unit,
        slowness=statistics.mean(slow),
    )
    return Run(path, notebook, cost, error)


def progress(text: str) -> None:
    """Print a line with the time so far."""
    minutes, seconds = divmod(int(time.monotonic() - STARTED), 60)
    print(f"{minutes:3d}:{seconds:02d}  {text}", flush=True)


def run_all(names: dict[Path, str], timeout: int) -> Iterable[Run]:
    """Yield notebooks as they finish, ``WORKERS`` at a time, each from a fresh process."""
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(WORKERS, maxtasksperchild=1) as processes,
        ThreadPool(WORKERS) as threads,  # each says what it starts, and waits
    ):

        def run(path: Path) -> Run:
            progress(f"running   {names[path]}")
            return processes.apply(run_notebook, (path, timeout))

        yield from threads.imap_unordered(run, names)


def without_colours(text: str) -> str:
    """Return text without the escape sequences that colour it in a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def last_lines(error: NotebookNode) -> list[str]:
    """Return two lines of an error: the reader's own line that led to it, and what it says.

    A message of several lines keeps two of them. What lies between, other people's code in the
    folders of this machine, teaches nothing.
    """
    said = f"{error.ename}: {error.evalue}".replace(f"{ROOT}/", "")
    message = [line.rstrip() for line in said.splitlines() if line.strip()]
    own = [
        line
        for frame in map(without_colours, error.traceback)
        if frame.startswith("Cell In")
        for line in re.findall(r"^-+> .*", frame, re.MULTILINE)
    ]
    return [*own[-1:], *message][:2] if len(message) == 1 else message[:2]


def shorten_errors(notebook: NotebookNode) -> None:
    """Cut the errors that a page shows on purpose."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                output.traceback = last_lines(output)


def store(cache: JupyterCacheAbstract, run: Run) -> None:
    """Put an executed notebook where MyST-NB will look for it, with its cost."""
    shorten_errors(run.notebook)
    data = {
        "execution_seconds": run.cost.wall_seconds,
        "evidence": evidence(run.path),
        **run.cost._asdict(),
    }
    bundle = CacheBundleIn(run.notebook, str(run.path), data=data)
    cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def execute(
    notebooks: dict[str, Path],
    budgets: dict[str, float | None],
    cache: JupyterCacheAbstract,
    timeout: int,
) -> list[str]:
    """Execute what the cache does not hold, the longest chapters first; return the failures."""
    stale = {
        path: name
        for name, path in notebooks.items()
        if measured(cache, path) is None
    }
    left, failures = len(stale), []
    progress(f"{left} of {len(notebooks)} chapters to execute")
    longest_first = sorted(stale, key=lambda path: -(budgets[stale[path]] or 0))
    names = {path: stale[path] for path in longest_first}
    for run in run_all(names, timeout) if names else ():
        left -= 1
        verb = "FAILED   " if run.error else "executed "
        progress(f"{verb} {stale[run.path]}, {left} left")
        if run.error:
            failures.append(f"{stale[run.path]}, {run.error}")
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


def excess(cost: Cost, budget: float | None) -> str:
    """Return in what a chapter took more than it may: "", "time", "memory" or both.

    CPU seconds are compared, because on a shared machine wall time is mostly other people's work;
    with the budget as it is on a machine as slow as this one was at the time.
    """
    found = {
        "time": budget and cost.cpu_seconds > budget * cost.slowness,
        "memory": cost.peak_mb > MAX_PEAK_MB,
    }
    return " and ".join(name for name, is_over in found.items() if is_over)


def cost_table(
    costs: dict[str, Cost], budgets: dict[str, float | None]
) -> list[str]:
    """Return the lines of a table: what each chapter took, what it may take, and the sum."""
    line = "{:32} {:>7} {:>7} {:>7} {:>8}  {}".format
    rows = [line("chapter", "CPU s", "budget", "wall s", "peak MB", "over in")]
    for name, cost in costs.items():
        budget = budgets[name] or 0
        values = (
            cost.cpu_seconds,
            budget * cost.slowness,
            cost.wall_seconds,
            cost.peak_mb,
        )
        figures = (f"{value:.0f}" for value in values)
        rows.append(line(name, *figures, excess(cost, budget)))
    total = sum(cost.cpu_seconds for cost in costs.values())
    slow = [cost.slowness for cost in costs.values()]
    note = (
        f"budget: CPU seconds, as declared, times {min(slow, default=1):.2f} "
        f"to {max(slow, default=1):.2f} for the speed of this machine; "
        f"memory: {MAX_PEAK_MB} MB"
    )
    return [*rows, line("whole book", f"{total:.0f}", "", "", "", ""), note]


# --- the pages ------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Collect the text of a page, and (source, alt text) of every image."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.images: list[tuple[str, str]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_data(self, data: str) -> None:
        """Keep text; highlighted code is in pieces, one for each colour."""
        self.text += data

    def handle_starttag(
        self, tag: str, attrs: list[tuple[str, str | None]]
    ) -> None:
        """Keep an image."""
        if tag == "img":
            values = dict(attrs)
            self.images.append(
                (values.get("src") or "", (values.get("alt") or "").strip())
            )


def image_problems(html: Path) -> list[str]:
    """Return the images whose alt text says nothing: empty, or the file name MyST-NB falls back to."""
    file_name = re.compile(r"\S*\.(png|svg|jpe?g|gif|webp)", re.IGNORECASE)
    return [
        f"{page.relative_to(html)}: the image {source} has no alt text (alt={alt!r})"
        for page in sorted(html.rglob("*.html"))
        for source, alt in Page(page).images
        if not alt or file_name.fullmatch(alt)
    ]


def path_problems(html: Path) -> list[str]:
    """Return the pages that show where they were built: folders of this machine in their text."""
    python = {Path(sys.prefix), Path(os.__file__).parent}
    here = {ROOT, *python, Path.home(), data_folder() or ROOT} - {Path("/")}
    known = "|".join(re.escape(str(folder)) for folder in here)
    of_any_machine = r"\S*/site-packages|/\S*/ipykernel_\d+"
    pattern = re.compile(rf"(?<![\w./])({known}|{of_any_machine})/\S*")
    return [
        f"{page.relative_to(html)}: shows a path of this machine, {found[0]}"
        for page in sorted(html.rglob("*.html"))
        if (found := pattern.search(Page(page).text))
    ]


def state(cached: Path) -> str:
    """Return a hash of all that pages are made from: sources, settings, results, outputs."""
    sources = [
        path
        for folder in (BOOK, ROOT / "experiments")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".pyc" and "runs" not in path.parts
    ]
    files = [ROOT / "_config.yml", *sources]
    return digest_files(ROOT, files, start=cached.name).hexdigest()


def run_sphinx(build: Path) -> int:
    """Build all pages with warnings as errors into fresh folders; return the exit status.

    What is printed on the way is shown if something is wrong, and else of no use to anybody.
    """
    for folder in ("html", ".doctrees"):
        shutil.rmtree(build / folder, ignore_errors=True)
    options = ["build", str(BOOK), "-q", "-n", "-W", "--keep-going"]
    built = subprocess.run(
        [*JUPYTER_BOOK, *options],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if built.returncode:
        print(built.stdout.decode(errors="replace"), file=sys.stderr)
    return built.returncode


def build_pages(html: Path, folder: Path, force: bool) -> list[str]:
    """Build the pages unless nothing has changed since they were in order; return what is not."""
    stamp, now = html / ".green", state(folder)
    if stamp.exists() and stamp.read_text() == now and not force:
        progress("nothing has changed since the pages were built")
        return []
    progress("building the pages")
    if run_sphinx(html.parent):
        return ["Sphinx reported the warnings above"]
    problems = image_problems(html) + path_problems(html)
    problems += strays(get_cache(folder))
    if not problems:  # written last: all was in order from end to end
        stamp.write_text(now)
    return problems


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
        "--strict",
        action="store_true",
        help="fail if a chapter takes more time or memory than it may",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run every step; return 0 only if all of them are in order."""
    options = parse(arguments)
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    notebooks = chapters(BOOK)
    problems = config_problems(config) + reading_problems(notebooks)
    budgets: dict[str, float | None] = {}
    if not problems:
        budgets = {n: declared_budget(path) for n, path in notebooks.items()}
        problems = declaration_problems(budgets)
    if report("refused", problems):
        return 1

    os.environ.update(ENVIRONMENT)
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

    html = ROOT / "_build" / "html"
    if report("failed", build_pages(html, folder, options.force)):
        return 1
    costs = {
        name: cost
        for name, path in notebooks.items()
        if (cost := measured(cache, path))
    }
    print("", *cost_table(costs, budgets), "", sep="\n")
    if over := [name for name in costs if excess(costs[name], budgets[name])]:
        print(f"warning: {len(over)} of {len(costs)} chapters took too much")
        if options.strict:
            return 1
    print(html / "index.html")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
