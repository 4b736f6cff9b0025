"""Executed PyTorch and Keras cells side by side, as tabs that switch together.

Consecutive code cells tagged ``pytorch`` or ``keras`` become one tab set. Every cell has already
been executed, in the order of the notebook; only where it is shown changes. A reader's choice is
kept by sphinx-design (``localStorage``), so it holds for every tab set of every page.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx_design.shared import create_component

LABELS = {"pytorch": "PyTorch", "keras": "Keras"}
"""Tag of a cell -> label of its tab, in the order in which the tabs are shown."""

# Without JavaScript and on paper nothing can be clicked, so both frameworks are shown, each under
# its own label (sphinx-design draws the labels in one row above the panels: ``order`` undoes that).
SHOW_BOTH = (
    ".sd-tab-set>.sd-tab-content{display:block!important;order:0!important}"
    ".sd-tab-set>label.sd-tab-label{width:100%!important;order:0!important}"
)
STYLES = f"<noscript><style>{SHOW_BOTH}</style></noscript><style media='print'>{SHOW_BOTH}</style>"


def framework(node: nodes.Node) -> str | None:
    """Return the framework whose tag a rendered code cell carries, or None."""
    if (
        not isinstance(node, nodes.container)
        or node.get("nb_element") != "cell_code"
    ):
        return None
    return next(
        (tag for tag in LABELS if f"tag_{tag}" in node["classes"]), None
    )


def tab_item(tag: str, cells: Iterable[nodes.Node]) -> nodes.container:
    """Return the tab of one framework. Both sync attributes are needed for it to be in step."""
    label = nodes.rubric(
        LABELS[tag], "", nodes.Text(LABELS[tag]), classes=["sd-tab-label"]
    )
    label["sync_group"], label["sync_id"] = "framework", tag
    content = create_component(
        "tab-content", ["sd-tab-content"], children=list(cells)
    )
    return create_component(
        "tab-item", ["sd-tab-item"], children=[label, content], selected=False
    )


def tab_set(cells: list[nodes.Node]) -> nodes.container:
    """Return one tab set for a run of tagged cells, merged by tag: P P K and P K P K give two."""
    found = {
        tag: [cell for cell in cells if framework(cell) == tag]
        for tag in LABELS
    }
    items = [
        tab_item(tag, members) for tag, members in found.items() if members
    ]
    return create_component("tab-set", ["sd-tab-set"], children=items)


class FrameworkTabs(SphinxTransform):
    """Group tagged cells after gated solutions are assembled, before outputs are rendered."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        """Replace each run of tagged cells by its tab set, wherever in the page it is."""
        cells = [
            node
            for node in self.document.findall(nodes.container)
            if framework(node)
        ]
        for parent in {id(cell.parent): cell.parent for cell in cells}.values():
            children: list[nodes.Node] = []
            for tagged, run in groupby(
                parent.children, key=lambda node: bool(framework(node))
            ):
                members = list(run)
                children += [tab_set(members)] if tagged else members
            parent[:] = children


def add_styles(
    app: Sphinx,
    page: str,
    template: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Put ``STYLES`` into the head of a page."""
    context["metatags"] = context.get("metatags", "") + STYLES


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the transform and the styles."""
    app.add_transform(FrameworkTabs)
    app.connect("html-page-context", add_styles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
