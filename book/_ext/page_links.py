"""The ``{page}`` role: a link to a chapter, or its name while the chapter is still to come.

``{page}`foundations/losses#two-softmaxes` `` links to a section, by its heading as MyST writes it in
addresses; what begins with ``ex-`` is an exercise. A document that the book does not have yet must
stand in ``PLANNED``: it is shown by its name, and becomes a link on the day it is built.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxRole

from concept_map import BOXES

PLANNED = {
    "case-studies/scenes-weights": "Weights for scenes",
}
"""Documents of the plan, and what to call them until they are there; take one out when it is."""

SHORT = {"reference/resources": "Tools and reading"}
"""What to call documents whose titles are long, and which the map does not have."""


def markdown(env: BuildEnvironment, target: str) -> str:
    """Return a link as MyST: the chapter's name on the map, else its title; then the section.

    Raises
    ------
    ValueError
        The book neither has the document nor plans it.
    """
    document, _, anchor = target.partition("#")
    if document not in env.found_docs:
        if document not in PLANNED:
            raise ValueError(
                f"the book has no document {document!r}, nor does page_links.py plan one"
            )
        return f"*{PLANNED[document]}* (to come)"
    name = SHORT.get(document, "")
    if document in BOXES:
        name = BOXES[document][2].replace("\n", " ")
    path = PurePosixPath("/", env.doc2path(document, base=False))
    link = f"[{name}]({path})"
    if anchor.startswith("ex-"):
        return f"{link}: {{ref}}`{anchor}`"
    return f"{link}: []({path}#{anchor})" if anchor else link


class Page(SphinxRole):
    """Link to a document or to a section of it."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the link, or a warning that names a document nobody plans."""
        try:
            source = markdown(self.env, self.text.strip())
        except ValueError as error:
            message = self.inliner.reporter.warning(
                f"{{page}}: {error}", line=self.lineno
            )
            return [], [message]
        parent = nodes.inline()
        found, messages = self.inliner.parse(
            source, self.lineno, self.inliner, parent
        )
        return found, messages


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the role."""
    app.add_role("page", Page())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
