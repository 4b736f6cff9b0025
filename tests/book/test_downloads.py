"""The notebooks for readers with one framework run without the other, as far as can be read."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbformat import NotebookNode

from . import notebook_checks as checks
from .small_book import ROOT

PACKAGES = {"pytorch": {"torch"}, "keras": {"keras", "tensorflow"}}


@pytest.fixture
def cut(build_script: ModuleType) -> Callable[[NotebookNode, str], NotebookNode]:
    """Return the function that makes a download; ``build.py`` has put it on the import path."""
    from notebook_downloads import without_others

    return without_others


def problems(path: Path, framework: str) -> list[str]:
    """Return names that no remaining cell defines, and imports of the other framework."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=F821", str(path)]
    ruff = subprocess.run(
        [*command, "--output-format=concise"], capture_output=True, text=True, check=False
    )
    undefined = [line for line in ruff.stdout.splitlines() if "F821" in line]
    other = {"pytorch": "keras", "keras": "pytorch"}[framework]
    banned = PACKAGES[other] | {f"mtl_tutorial.{other}"}
    imported = [
        f"cell {cell.number} imports {name}"
        for cell in checks.Page(path).code
        for name in checks.imports(cell)
        if name in banned or name.split(".")[0] in PACKAGES[other]
    ]
    return undefined + imported


@pytest.mark.parametrize("framework", PACKAGES)
@pytest.mark.parametrize("path", checks.notebooks(ROOT / "book"), ids=lambda path: path.stem)
def test_a_download_needs_one_framework(
    cut: Callable[[NotebookNode, str], NotebookNode], path: Path, framework: str, tmp_path: Path
) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.write(cut(notebook, framework), tmp_path / "own.ipynb")
    assert problems(tmp_path / "own.ipynb", framework) == []


@pytest.mark.parametrize(
    ("source", "tags", "found"),
    [
        ("import torch", [], "cell 1 imports torch"),
        ("print(model)", [], "Undefined name `model`"),
        ("print(model)", ["needs-pytorch"], None),
    ],
)
def test_a_cell_that_is_not_tagged_for_what_it_needs_is_found(
    cut: Callable[[NotebookNode, str], NotebookNode],
    source: str,
    tags: list[str],
    found: str | None,
    tmp_path: Path,
) -> None:
    cells = [
        nbformat.v4.new_code_cell(source, metadata={"tags": tags}),
        nbformat.v4.new_code_cell("model = 1", metadata={"tags": ["pytorch"]}),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbformat.write(cut(notebook, "keras"), tmp_path / "own.ipynb")
    listed = problems(tmp_path / "own.ipynb", "keras")
    assert any(found in problem for problem in listed) if found else listed == []
