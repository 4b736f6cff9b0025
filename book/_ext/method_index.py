"""Let the search find chapters by all names of what they explain, Chinese ones and abbreviations too.

Every name of a glossary entry becomes an index entry of the sections that the entry points to. Sphinx
searches index entries, and offers the sections.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from glossary_links import read_entries


class IndexedNames(SphinxTransform):
    """Add the index entries of a page, before Sphinx collects them."""

    default_priority = 800

    def apply(self, **kwargs: Any) -> None:
        """Add them at the top; each leads to its section, or to the page."""
        sections = {
            node.get("slug"): node["ids"][0]
            for node in self.document.findall(nodes.section)
        }
        found = [
            ("single", name, sections.get(anchor, ""), "main", None)
            for entry in read_entries(Path(self.env.srcdir))
            for document, _, anchor in (
                page.partition("#") for page in entry.pages
            )
            if document == self.env.docname
            for name in entry.names
        ]
        if found:
            self.document.insert(0, addnodes.index(entries=found))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the transform."""
    app.add_transform(IndexedNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
