"""Give the entries of the bibliography a role that screen readers accept in a list.

docutils writes ``role="doc-biblioentry"`` into ``role="list"``: axe calls that critical, because the
list then has no items. The role is deprecated in favour of ``listitem`` (DPUB-ARIA 1.1).
"""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx


def mend_roles(
    app: Sphinx,
    page: str,
    template: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Replace the role in the body of a page."""
    if "body" in context:
        context["body"] = context["body"].replace(
            'role="doc-biblioentry"', 'role="listitem"'
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Mend each page before it is written."""
    app.connect("html-page-context", mend_roles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
