"""Which notebooks the book has, where their outputs are kept, and what makes them stale.

jupyter-cache knows a notebook by its code cells alone: after a change in the library it would serve
the old outputs, and a page that no longer runs would stay green. So the folder of the cache is named
after everything else that outputs depend on. ``book/build.py`` executes into that folder, Sphinx
reads from it, and both ask this module.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import nbformat
import pooch
from sphinx_external_toc.parsing import parse_toc_yaml

if TYPE_CHECKING:
    from jupyter_cache.base import JupyterCacheAbstract
    from sphinx.application import Sphinx
    from sphinx.config import Config


class Cost(NamedTuple):
    """What executing one chapter took: its kernel alone, imports included.

    ``slowness`` is how many times as long as on the author's machine work took meanwhile.
    """

    cpu_seconds: float
    wall_seconds: float
    peak_mb: float
    slowness: float


def data_folder() -> Path | None:
    """Return the absolute folder that ``MTL_TUTORIAL_DATA`` names, if it names one."""
    folder = os.environ.get("MTL_TUTORIAL_DATA")
    return Path(folder).expanduser().absolute() if folder else None


def data_files() -> list[Path]:
    """Return the real data files in sight; with none, pages are built from embedded data."""
    folders = [data_folder(), Path(pooch.os_cache("mtl_tutorial"))]
    return [
        path
        for folder in folders
        if folder
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def digest_files(
    root: Path, paths: Iterable[Path], start: str = ""
) -> hashlib._Hash:
    """Hash files by their path under a root, their size and their content."""
    digest = hashlib.sha256(start.encode())
    for path in paths:
        digest.update(
            f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode()
        )
        digest.update(path.read_bytes())
    return digest


def fingerprint(root: Path) -> str:
    """Return a hash of the library, the pinned versions, the kernels' settings and the data.

    Data files count by path and size: reading them on each build would take longer than the build.
    """
    library = [
        path
        for path in sorted((root / "mtl_tutorial").rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    ]
    settings = [
        root / "book" / "_ext" / name
        for name in ("kernel_environment.py", "matplotlibrc")
    ]
    files = [*library, root / "constraints.txt", *settings]
    digest = digest_files(root, files)
    for path in data_files():
        digest.update(f"{path}\0{path.stat().st_size}\0".encode())
    return digest.hexdigest()[:16]


def cache_folder(root: Path) -> Path:
    """Return the folder of the executed notebooks that are valid today."""
    return root / "_build" / "notebook-cache" / fingerprint(root)


def chapters(book: Path) -> dict[str, Path]:
    """Return the notebooks of the table of contents, by document name, in its order."""
    paths = {
        name: book / f"{name}.ipynb"
        for name in parse_toc_yaml(book / "_toc.yml")
    }
    return {name: path for name, path in paths.items() if path.exists()}


def read(notebook: Path) -> nbformat.NotebookNode:
    """Read a notebook in the form in which jupyter-cache hashes it."""
    node: nbformat.NotebookNode = nbformat.read(notebook, as_version=4)
    return node


def evidence(notebook: Path) -> str:
    """Return a hash of the experiments' results that a notebook reads."""
    root = next(
        (p for p in notebook.parents if (p / "_config.yml").is_file()),
        notebook.parent,
    )
    results = root / "experiments" / "results"
    code = "".join(
        c.source for c in read(notebook).cells if c.cell_type == "code"
    )
    names = re.findall(r"experiments\.read\(\s*[\"']([^\"']+)[\"']", code)
    files = [results / f"{name}.json" for name in sorted(set(names))]
    return digest_files(results, filter(Path.is_file, files)).hexdigest()[:16]


def measured(cache: JupyterCacheAbstract, notebook: Path) -> Cost | None:
    """Return what the cached execution of a notebook took.

    None if there is none, if nobody measured it, or if it read other results of experiments.
    """
    try:
        record = cache.match_cache_notebook(read(notebook))
        if record.data["evidence"] != evidence(notebook):
            return None
        return Cost(**{field: record.data[field] for field in Cost._fields})
    except KeyError:
        return None


def set_cache_path(app: Sphinx, config: Config) -> None:
    """Make MyST-NB read from the folder into which ``book/build.py`` executes."""
    config.nb_execution_cache_path = str(cache_folder(Path(app.srcdir).parent))


def setup(app: Sphinx) -> dict[str, bool]:
    """Set the path as soon as the configuration is known."""
    app.connect("config-inited", set_cache_path)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
