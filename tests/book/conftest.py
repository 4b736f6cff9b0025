"""The small book, built once per session, and copies of it for tests that break something.

A copy keeps the executed notebook, so building it costs one run of Sphinx.
"""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from . import small_book
from .small_book import ROOT, SmallBook


@pytest.fixture(scope="session")
def built_book(tmp_path_factory: pytest.TempPathFactory) -> SmallBook:
    """Return the small book, built without a complaint in a folder with letters of all kinds.

    Look, do not touch.
    """
    book = small_book.write(tmp_path_factory.mktemp("Büch mit Leer zeichen"))
    result = book.build()
    assert result.returncode == 0, result.stdout
    return book


@pytest.fixture
def book(built_book: SmallBook, tmp_path: Path) -> SmallBook:
    """Return a copy of the small book that may be broken; its notebook is already executed."""
    root = tmp_path / "Büch mit Leer zeichen"
    shutil.copytree(built_book.root, root, ignore=shutil.ignore_patterns("html", ".doctrees"))
    return SmallBook(root)


@pytest.fixture(scope="session")
def build_script() -> ModuleType:
    """Return ``book/build.py`` as a module."""
    spec = importlib.util.spec_from_file_location("book_build", ROOT / "book" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
