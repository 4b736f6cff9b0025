"""The notebooks for readers with one framework run without the other, as far as can be read."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode

from . import notebook_checks as checks
from . import small_book
from .small_book import ROOT, SmallBook

PACKAGES = {"pytorch": {"torch"}, "keras": {"keras", "tensorflow"}}


@pytest.fixture
def cut(build_script: ModuleType) -> Callable[[NotebookNode, str], NotebookNode]:
    """Return the function that makes a download; ``build.py`` has put it on the import path."""
    from notebook_downloads import without_others

    return without_others


def problems(path: Path, framework: str) -> list[str]:
    """Return names that no remaining cell defines, and imports of the other framework."""
    notebook = nbformat.read(path, as_version=4)  # a mistake shown on purpose may lack a name
    notebook.cells = [
        cell for cell in notebook.cells if "raises-exception" not in cell.metadata.get("tags", [])
    ]
    named = path.with_name(f"named-{path.name}")
    nbformat.write(notebook, named)
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=F821", str(named)]
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


# --- the command that runs them ---------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> SmallBook:
    """Return a book of one page, of which one cell needs Keras and lacks the tag that says so."""
    book = small_book.write(tmp_path)
    shutil.copy(ROOT / "book" / "run_downloads.py", book.root / "book")
    shutil.copytree(ROOT / "tests" / "offline", book.root / "tests" / "offline")
    for package in ("torch", "keras"):
        (book.root / f"{package}.py").touch()
    sources = [
        ("import os, mtl_tutorial\nassert os.listdir() == ['chapter.ipynb']", []),
        ("1 / mtl_tutorial.nothing", ["raises-exception"]),
        ("import torch", ["pytorch"]),
        ("import keras", []),
    ]
    cells = [small_book.code(source, *tags) for source, tags in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), book.root / "book" / "chapter.ipynb")
    return book


def test_downloads_run_alone_and_the_one_that_needs_what_its_reader_lacks_is_named(
    small: SmallBook,
) -> None:
    result = small.run("book/run_downloads.py")
    assert result.returncode == 1
    assert re.findall(r"ran +(.+)", result.stdout) == ["chapter whole"]
    assert "failed: chapter pytorch, cell 4 of 4: CellExecutionError" in result.stdout
    assert "ModuleNotFoundError: No module named 'keras'" in result.stdout
    assert result.stdout.splitlines()[-1] == "error: 1 of 2 downloads failed"


@pytest.fixture
def command(build_script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return ``book/run_downloads.py`` as a module."""
    monkeypatch.syspath_prepend(ROOT / "book")
    return importlib.import_module("run_downloads")


def test_a_page_without_tabs_is_offered_whole_only(command: ModuleType, small: SmallBook) -> None:
    nbformat.write(nbformat.v4.new_notebook(), small.root / "book" / "plain.ipynb")
    small.edit("book/_toc.yml", "chapters:\n", "chapters:\n  - file: plain\n")
    offered = list(map(str, command.downloads(small.root / "book")))
    assert offered == ["plain whole", "chapter whole", "chapter pytorch"]


@pytest.mark.parametrize("framework", PACKAGES)
def test_a_reader_of_one_framework_lacks_the_packages_of_the_other(
    command: ModuleType, framework: str
) -> None:
    absent = command.ABSENT[framework]
    assert set(absent.split()) == {*PACKAGES["pytorch"], *PACKAGES["keras"]} - PACKAGES[framework]
    source = "import importlib.util as u, sys; print([u.find_spec(name) for name in sys.argv[1:]])"
    offline = {"PYTHONPATH": str(ROOT / "tests" / "offline"), "ABSENT_PACKAGES": absent}
    result = subprocess.run(
        [sys.executable, "-c", source, *absent.split(), "numpy"],
        env=os.environ | offline,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.count("None") == len(absent.split())
    assert "name='numpy'" in result.stdout


def test_a_page_or_one_download_of_it_is_chosen(command: ModuleType) -> None:
    offered = [command.Download(p, v) for p in ("a", "b") for v in ("whole", "keras")]
    assert command.chosen(offered, None, None) == offered
    assert command.chosen(offered, "b", None) == offered[2:]
    assert command.chosen(offered, "b", "keras") == offered[3:]
    with pytest.raises(
        ValueError, match=r"no download 'b pytorch'; there are\n  a whole\n  a keras"
    ):
        command.chosen(offered, "b", "pytorch")


def test_the_sample_is_the_commits_and_reaches_all(command: ModuleType) -> None:
    offered = [command.Download(str(page), "whole") for page in range(7)]
    commits = [f"{number:040x}" for number in range(100)]
    picked = [command.sample(offered, commit) for commit in commits]
    assert picked == [command.sample(offered, commit) for commit in commits]
    assert set(picked) == set(offered)


def test_one_of_those_asked_for_is_sampled_and_named(
    command: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message=a"], check=True)
    ran: list[Any] = []

    def run_all(found: list[Any]) -> list[tuple[Any, None]]:
        ran.extend(found)
        return [(download, None) for download in found]

    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(command, "run_all", run_all)
    monkeypatch.setattr(sys, "argv", ["run_downloads", "foundations/losses", "--sample"])
    command.main()
    (picked,) = ran
    assert picked.page == "foundations/losses"
    assert re.search(f"commit [0-9a-f]{{8}} picks {picked}\n", capsys.readouterr().out)
