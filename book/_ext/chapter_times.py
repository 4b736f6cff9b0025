"""The ``{chapter-times}`` directive: what executing the book took here, chapter by chapter.

The numbers are those that ``book/build.py`` measured and kept beside the cached outputs, so the
landing page cannot promise a time that nobody saw. A chapter executed by other means (a plain
``jupyter-book build``) has no measurement, and the table says so.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from jupyter_cache import get_cache
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from notebook_cache import Cost, chapters, measured


def markdown(costs: dict[str, Cost | None]) -> list[str]:
    """Return the sentence and the table as lines of MyST."""
    known = [cost for cost in costs.values() if cost]
    seconds = sum(cost.cpu_seconds for cost in known)
    missing = len(costs) - len(known)
    cells = {
        f"{{doc}}`/{name}`": (f"{cost.cpu_seconds:.0f}", f"{cost.peak_mb:.0f}")
        if cost
        else ("not measured", "not measured")
        for name, cost in costs.items()
    }
    peak = max((cost.peak_mb for cost in known), default=0)
    cells["**whole book**"] = (f"**{seconds:.0f}**", f"**{peak:.0f}**")
    return [
        f"Executing this book took **{seconds:.0f} CPU seconds** ({seconds / 60:.1f} minutes of "
        f"one core) on {platform.system()} {platform.machine()} with {os.cpu_count()} cores"
        + (
            f"; {missing} of its {len(costs)} chapters were not measured."
            if missing
            else "."
        ),
        "",
        "| chapter | CPU seconds | peak memory (MB) |",
        "| :-- | --: | --: |",
        *(f"| {name} | {' | '.join(row)} |" for name, row in cells.items()),
    ]


class ChapterTimes(SphinxDirective):
    """Render the measured costs of the notebooks in the table of contents."""

    def run(self) -> list[nodes.Node]:
        """Return the sentence and the table."""
        book = Path(self.env.srcdir)
        cache = get_cache(self.config.nb_execution_cache_path)
        costs = {
            name: measured(cache, path) for name, path in chapters(book).items()
        }
        container = nodes.container(classes=["chapter-times"])
        self.state.nested_parse(
            StringList(markdown(costs), source=__file__), 0, container
        )
        return list(container.children)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("chapter-times", ChapterTimes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
