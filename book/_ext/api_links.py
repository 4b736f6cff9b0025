"""Tie chapters and API pages together, from imports, calls and mentions in the notebooks.

At the end of a chapter stands what it uses of the library, each name a link to its documentation; at
the end of a docstring, the chapters that use it. Nothing is written by hand, and both lists come from
:func:`used`, so one cannot hold what the other lacks. Cells that no reader sees do not count.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from nbformat import NotebookNode
from sphinx.application import Sphinx

from notebook_cache import chapters, read
from reading_times import tags

LIBRARY = "mtl_tutorial"
MACHINERY = re.compile(
    rf"{LIBRARY}\.(glue|experiments)\b"
)  # of pages, not for readers
MENTION = re.compile(rf"\{{(?:class|func)\}}`~?({LIBRARY}[\w.]+)`")
KINDS = ("class", "function", "data")


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield what each import of the library is called in a cell, and its full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == LIBRARY:
                    yield (
                        (alias.asname, alias.name)
                        if alias.asname
                        else (LIBRARY, LIBRARY)
                    )
        elif (
            isinstance(node, ast.ImportFrom)
            and str(node.module).split(".")[0] == LIBRARY
        ):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def offered(library: Path) -> dict[str, str]:
    """Return what the packages of a library offer under a shorter name: the long name -> the short."""
    return {
        f"{node.module}.{alias.name}": ".".join([*package, alias.name])
        for path in library.rglob("__init__.py")
        for package in [path.parent.relative_to(library.parent).parts]
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def dotted(node: ast.AST) -> str:
    """Return ``a.b.c`` for a chain of attributes, "" for anything else."""
    if isinstance(node, ast.Attribute):
        value = dotted(node.value)
        return f"{value}.{node.attr}" if value else ""
    return node.id if isinstance(node, ast.Name) else ""


def names(notebook: NotebookNode) -> set[str]:
    """Return the full names of all that a notebook uses of the library, imports included."""
    known: dict[str, str] = {}
    found: set[str] = set()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            found.update(MENTION.findall(cell.source))
            continue
        try:
            tree = ast.parse(cell.source)
        except SyntaxError:  # shown on purpose
            continue
        known.update(imported(tree))
        if tags(cell) & {"remove-cell", "remove-input"}:
            continue
        found.update(full for _, full in imported(tree))
        for node in ast.walk(tree):
            first, _, rest = dotted(node).partition(".")
            if first in known:
                found.add(f"{known[first]}.{rest}" if rest else known[first])
    return {name for name in found if not MACHINERY.match(name)}


@cache
def used(book: Path) -> dict[str, set[str]]:
    """Return for each chapter what it uses of the library, by the name that the API page has."""
    short = offered(book.parent / LIBRARY)
    found = {}
    for chapter, path in chapters(book).items():
        own = names(read(path))
        while longer := own & set(short):
            own = own - longer | {short[name] for name in longer}
        found[chapter] = own
    return found


def add_chapters(app: Sphinx, what: str, name: str, *more: Any) -> None:
    """Put at the end of a docstring the chapters that use what it documents."""
    lines: list[str] = more[-1]  # before them: the object, and options
    links = [
        f":doc:`/{chapter}`"
        for chapter, own in used(Path(app.srcdir)).items()
        if name in own
    ]
    if what in KINDS and links:
        lines += ["", f"**Used in:** {'; '.join(links)}.", ""]


def add_names(app: Sphinx, doctree: nodes.document, document: str) -> None:
    """Put at the end of a chapter what it uses of the library."""
    objects = app.env.domaindata.get("py", {}).get("objects", {})
    own = [
        (name, objects[name])
        for name in sorted(used(Path(app.srcdir)).get(document, ()))
        if name in objects and objects[name].objtype in KINDS
    ]
    if not own:
        return
    paragraph = nodes.paragraph(
        "", "From the library: ", classes=["library-names"]
    )
    for i, (name, entry) in enumerate(own):
        address = app.builder.get_relative_uri(document, entry.docname)
        link = nodes.reference(
            "", "", internal=True, refuri=f"{address}#{entry.node_id}"
        )
        link += nodes.literal("", name.removeprefix(f"{LIBRARY}."))
        paragraph += [*([nodes.Text(", ")] if i else []), link]
    paragraph += nodes.Text(".")
    next(doctree.findall(nodes.section)).append(paragraph)


def setup(app: Sphinx) -> dict[str, bool]:
    """Run after napoleon has read the docstrings, and when all pages are known."""
    app.connect("builder-inited", lambda app: used.cache_clear())
    app.connect("autodoc-process-docstring", add_chapters, priority=900)
    app.connect("doctree-resolved", add_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
