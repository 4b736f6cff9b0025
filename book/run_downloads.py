"""Run the notebooks that a reader can download, each as that reader would.

    python book/run_downloads.py [page [whole | pytorch | keras]] [--sample]

A page can be downloaded whole, and, where it has framework tabs, for PyTorch
or for Keras alone. Each runs in an empty folder of its own, on the embedded
data and without a network; a download for one framework runs as if the other
were not installed. ``--sample`` picks one of them by the current commit, so
that over many commits all get their turn.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import nbformat
from build import BOOK, ROOT, WORKERS, progress, run_notebook

from kernel_environment import CELL_SECONDS, ENVIRONMENT
from notebook_cache import chapters, read
from notebook_downloads import frameworks, without_others

ABSENT = {"whole": "", "pytorch": "keras tensorflow", "keras": "torch"}
"""Variant -> the packages that its reader does not have."""


class Download(NamedTuple):
    """A page, and which of its notebooks."""

    page: str
    variant: str

    def __str__(self) -> str:
        return f"{self.page} {self.variant}"


def downloads(book: Path) -> list[Download]:
    """Return every download of the book, in the order of the contents."""
    return [
        Download(page, variant)
        for page, path in chapters(book).items()
        for variant in ("whole", *frameworks(read(path)))
    ]


def chosen(
    offered: list[Download], page: str | None, variant: str | None
) -> list[Download]:
    """Return what was asked for: everything, a page, or one download of it.

    Raises
    ------
    ValueError
        If there is no such download; the message lists those there are.
    """
    found = [
        download
        for download in offered
        if page in (None, download.page) and variant in (None, download.variant)
    ]
    if not found:
        asked = " ".join(filter(None, (page, variant)))
        listed = "\n  ".join(map(str, offered))
        raise ValueError(f"no download {asked!r}; there are\n  {listed}")
    return found


def sample(offered: list[Download], commit: str) -> Download:
    """Return one download: the same for one commit, each in turn over many."""
    digest = hashlib.sha256(commit.encode()).digest()
    return offered[int.from_bytes(digest) % len(offered)]


def current_commit() -> str:
    """Return the hash of the commit that is checked out here."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def run(download: Download) -> str | None:
    """Execute one download; return where and why it stopped, if it did.

    Changes the environment: give it a process of its own.
    """
    offline, inherited = ROOT / "tests" / "offline", os.getenv("PYTHONPATH")
    path = (str(offline), str(ROOT), *filter(None, [inherited]))
    os.environ.update(
        ENVIRONMENT,
        PYTHONPATH=os.pathsep.join(path),
        ABSENT_PACKAGES=ABSENT[download.variant],
        MTL_TUTORIAL_DATA="",
        XDG_CACHE_HOME=str(ROOT / "_build" / "no-cache"),
    )
    notebook = read(BOOK / f"{download.page}.ipynb")
    if download.variant != "whole":
        notebook = without_others(notebook, download.variant)
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder, f"{Path(download.page).name}.ipynb")
        nbformat.write(notebook, own)
        return run_notebook(own, CELL_SECONDS).error


def run_all(asked: list[Download]) -> Iterator[tuple[Download, str | None]]:
    """Yield each download with its error as it finishes, two at a time."""
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(WORKERS, maxtasksperchild=1) as processes,
        ThreadPool(WORKERS) as threads,  # each says what it starts, and waits
    ):

        def wait(download: Download) -> tuple[Download, str | None]:
            progress(f"running  {download}")
            return download, processes.apply(run, (download,))

        yield from threads.imap_unordered(wait, asked)


def main() -> None:
    """Run what the command line asks for; exit with 1 if any of it fails."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("page", nargs="?", help="such as foundations/losses")
    parser.add_argument("variant", nargs="?", choices=ABSENT)
    parser.add_argument(
        "--sample", action="store_true", help="one, picked by the commit"
    )
    asked = parser.parse_args()
    try:
        found = chosen(downloads(BOOK), asked.page, asked.variant)
    except ValueError as wrong:
        sys.exit(f"error: {wrong}")
    if asked.sample:
        commit = current_commit()
        found = [sample(found, commit)]
        progress(f"commit {commit[:8]} picks {found[0]}")
    failures = []
    for download, error in run_all(found):
        progress(f"{'FAILED  ' if error else 'ran     '} {download}")
        if error:
            failures.append(f"failed: {download}, {error}")
    if failures:
        print("", *failures, "", sep="\n")
        sys.exit(f"error: {len(failures)} of {len(found)} downloads failed")


if __name__ == "__main__":
    main()
