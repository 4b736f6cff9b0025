"""Download buttons for readers who have only one of the two frameworks installed.

The notebook behind a page runs both. Next to it, each page that has framework tabs offers the same
notebook without the other framework's cells, and without the cells outside tabs that need it (tag
``needs-pytorch`` or ``needs-keras``).
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

from docutils import nodes
from nbformat import NotebookNode
from sphinx.application import Sphinx

from framework_tabs import LABELS
from notebook_cache import read

FOLDER = "_downloads"


def frameworks(notebook: NotebookNode) -> list[str]:
    """Return the framework tags that occur in a notebook."""
    tags = {
        tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])
    }
    return [tag for tag in LABELS if tag in tags]


def without_others(notebook: NotebookNode, tag: str) -> NotebookNode:
    """Return a copy of a notebook that lacks the cells of every framework but ``tag``."""
    others = {
        name
        for other in set(LABELS) - {tag}
        for name in (other, f"needs-{other}")
    }
    notebook = deepcopy(notebook)
    notebook.cells = [
        c
        for c in notebook.cells
        if not others & set(c.metadata.get("tags", []))
    ]
    return notebook


def add_downloads(
    app: Sphinx,
    page: str,
    template: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Write a page's notebooks and add their buttons to the theme's download menu."""
    source = Path(app.srcdir, f"{page}.ipynb")
    buttons = [
        b
        for b in context.get("header_buttons", [])
        if b["label"] == "download-buttons"
    ]
    if not source.exists() or not buttons:
        return
    notebook = read(source)
    for tag in frameworks(notebook):
        target = f"{FOLDER}/{tag}/{page}.ipynb"
        path = Path(app.outdir, target)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps(without_others(notebook, tag), indent=1),
            encoding="utf-8",
        )
        buttons[0]["buttons"].append(
            {
                "type": "link",
                "url": context["pathto"](target, 1),
                "text": f"{LABELS[tag]} .ipynb",
                "icon": "fas fa-code",
                "label": f"download-{tag}-button",
                "tooltip": f"Download the notebook with {LABELS[tag]} only",
            }
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Run after the theme has made its buttons."""
    app.connect("html-page-context", add_downloads, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
