"""The ``{sources}`` directive: where the book covers what the five articles say, from ``sources.tsv``.

``{sources} 3`` is the table of the third article, ``{sources} errors`` that of all mistakes, and
``{sources} counts`` says how much is covered. A row has one or more places, or a reason for none.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from page_links import markdown

FILE = "reference/sources.tsv"


class Row(NamedTuple):
    """Something that an article says, and what became of it."""

    article: str
    section: str
    kind: str
    says: str
    place: str
    reason: str

    @property
    def places(self) -> list[str]:
        """The places, each as ``document`` or ``document#section``."""
        return self.place.split()

    def is_covered(self, documents: Iterable[str]) -> bool:
        """Whether one of the places is in these documents."""
        return any(
            place.partition("#")[0] in documents for place in self.places
        )


def read_rows(book: Path) -> list[Row]:
    """Return the rows of the data file."""
    with (book / FILE).open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(lines)  # the header
        return [Row(*line) for line in lines]


def counts(rows: list[Row], documents: Iterable[str]) -> list[str]:
    """Return the summary, one line an article, as lines of MyST."""
    lines = ["| article | statements | covered | to come | left out | errors mended |",
             "| :-- | --: | --: | --: | --: | --: |"]  # fmt: skip
    for article in [*sorted({row.article for row in rows}), ""]:
        own = [row for row in rows if row.article == article or not article]
        said = [row for row in own if row.kind == "statement"]
        covered = sum(row.is_covered(documents) for row in said)
        left_out = sum(not row.places for row in said)
        errors = [row for row in own if row.kind == "error"]
        mended = sum(row.is_covered(documents) for row in errors)
        cells = [len(said), covered, len(said) - covered - left_out, left_out]
        figures = " | ".join(map(str, cells))
        lines.append(
            f"| {article or '**all**'} | {figures} | {mended} of {len(errors)} |"
        )
    return lines


def table(rows: list[Row], env: BuildEnvironment) -> list[str]:
    """Return what was said, and the places or the reason, as lines of MyST."""
    lines = ["| section | the article | in this book |", "| :-- | :-- | :-- |"]
    for row in rows:
        links = "; ".join(markdown(env, place) for place in row.places)
        where = links or f"Not covered. {row.reason}"
        says = f"**Error:** {row.says}" if row.kind == "error" else row.says
        lines.append(f"| {row.section} | {says} | {where} |")
    return lines


class Sources(SphinxDirective):
    """Render a part of the data file."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        book, part = Path(self.env.srcdir), self.arguments[0]
        self.env.note_dependency(str(book / FILE))
        rows = read_rows(book)
        if part == "counts":
            lines = counts(rows, self.env.found_docs)
        elif part == "errors":
            mistakes = [r._replace(section=f"{r.article}: {r.section}", kind="statement")
                        for r in rows if r.kind == "error"]  # fmt: skip
            lines = table(mistakes, self.env)
        else:
            lines = table([r for r in rows if r.article == part], self.env)
        box = nodes.container(classes=["sources"])
        self.state.nested_parse(StringList(lines, source=FILE), 0, box)
        return list(box.children)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("sources", Sources)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
