"""How long a person reads a chapter: counted from its notebook, never typed.

``{reading-times}`` lists the chapters of the table of contents under their parts, each notebook with
its minutes. ``{minutes}`` adds up the chapters of a path: ``{minutes}`start/a, foundations/b```.
What counts is what a reader meets in the open; :func:`minutes` has the formula.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from docutils import nodes
from docutils.statemachine import StringList
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx_external_toc.api import FileItem, SiteMap
from sphinx_external_toc.parsing import parse_toc_yaml

from framework_tabs import LABELS
from notebook_cache import read

WORDS_A_MINUTE = 200
SECONDS_A_LINE = 6

PARSER = create_md_parser(
    MdParserConfig(
        enable_extensions={"amsmath", "colon_fence", "deflist", "dollarmath"}
    ),
    RendererHTML,
)
WITHOUT_PROSE = {
    "bibliography", "code", "code-block", "code-cell", "eval-rst", "glue", "glue:math", "include",
    "literalinclude", "math", "mermaid", "tableofcontents", "toctree",
}  # fmt: skip
FOLDED = {"dropdown", "solution"}
TITLED = {"admonition", "card", "exercise", "exercise-start", "tab-item"}
WITHOUT_CODE = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
WITHOUT_OUTPUT = {"hide-output", "hide-cell", "remove-output", "remove-cell"}
WORD = re.compile(r"\w+(?:['’-]\w+)*")


class Directive(NamedTuple):
    """A MyST directive: its name, argument, options and body."""

    name: str
    argument: str
    options: dict[str, str]
    body: str

    @property
    def is_folded(self) -> bool:
        """Whether a reader has to open it."""
        classes = self.options.get("class", "").split()
        return self.name in FOLDED or "dropdown" in classes


def directive(token: Token) -> Directive | None:
    """Read a fence whose language is ``{name}``."""
    match = re.match(r"\{([^}]+)\}\s*(.*)", token.info)
    if token.type not in ("fence", "colon_fence") or not match:
        return None
    lines = token.content.splitlines()
    options = [
        option
        for option in takewhile(
            bool, (re.match(r":([\w-]+):\s*(.*)", line) for line in lines)
        )
        if option
    ]
    body = "\n".join(lines[len(options) :])
    values = {option[1]: option[2].strip() for option in options}
    return Directive(match[1], match[2].strip(), values, body)


def open_tokens(markdown: str) -> Iterator[Token]:
    """Yield the block tokens of a text, and those in directives that are not folded."""
    for token in PARSER.parse(markdown):
        yield token
        found = directive(token)
        if found and not found.is_folded and found.name not in WITHOUT_PROSE:
            if found.name in TITLED:
                yield from open_tokens(found.argument)
            yield from open_tokens(found.body)


def prose(token: Token) -> str:
    """Return the words of a block token: no code, maths, roles or alt texts."""
    if token.type == "html_block":
        return re.sub(r"<[^>]*>", " ", token.content)
    children = token.children or []
    return "".join(
        " " if child.type.endswith(("break", "_inline")) else child.content
        for child in children
        if child.type in ("text", "softbreak", "hardbreak")
        or child.type.endswith("_inline")
    )


def open_parts(
    notebook: NotebookNode,
) -> Iterator[tuple[NotebookNode, list[Token]]]:
    """Yield what is outside solutions: each cell with its tokens, a code cell with none."""
    solution = False
    for cell in notebook.cells:
        tokens = []
        for token in (
            open_tokens(cell.source) if cell.cell_type == "markdown" else ()
        ):
            found = directive(token)
            if found and found.name in ("solution-start", "solution-end"):
                solution = found.name == "solution-start"
            elif not solution:
                tokens.append(token)
        if not solution or tokens:
            yield cell, tokens


def tags(cell: NotebookNode) -> set[str]:
    """Return a cell's tags; MyST-NB reads ``hide_input`` as ``hide-input``."""
    return {tag.replace("_", "-") for tag in cell.metadata.get("tags", [])}


def open_words(notebook: NotebookNode) -> int:
    """Count the words that a reader meets without opening anything.

    Prose, headings, open boxes, and captions of figures count. Maths, code, options of directives,
    folded boxes and everything from ``solution-start`` to ``solution-end`` do not.
    """
    texts: list[str] = []
    for cell, tokens in open_parts(notebook):
        texts += map(prose, tokens)
        if cell.cell_type == "code" and not tags(cell) & WITHOUT_OUTPUT:
            figure = cell.metadata.get("mystnb", {}).get("figure", {})
            texts += map(prose, open_tokens(figure.get("caption", "")))
    return sum(len(WORD.findall(text)) for text in texts)


def visible_code(notebook: NotebookNode, framework: str) -> list[str]:
    """Return the sources of the code cells that a reader of one framework sees."""
    if framework not in LABELS:
        raise ValueError(
            f"no framework is called {framework!r}; the tabs are {list(LABELS)}"
        )
    return [
        cell.source
        for cell, _ in open_parts(notebook)
        if cell.cell_type == "code"
        and cell.source.strip()
        and not tags(cell) & WITHOUT_CODE
        and tags(cell) & set(LABELS) <= {framework}
    ]


def visible_cells(notebook: NotebookNode, framework: str) -> int:
    """Count the code cells that a reader of one framework (``pytorch`` or ``keras``) sees.

    Not those in solutions, those whose code is hidden or removed, and those in the other tab.
    """
    return len(visible_code(notebook, framework))


def visible_lines(notebook: NotebookNode, framework: str) -> int:
    """Count the lines, not blank, of the cells that :func:`visible_cells` counts."""
    return sum(
        bool(line.strip())
        for source in visible_code(notebook, framework)
        for line in source.splitlines()
    )


def minutes(notebook: NotebookNode) -> int:
    """Return how many minutes a person takes: words / 200 + 6 seconds a visible line, rounded up.

    Of the two frameworks the one with more lines counts.
    """
    lines = max(visible_lines(notebook, framework) for framework in LABELS)
    seconds = (
        60 * open_words(notebook) / WORDS_A_MINUTE + SECONDS_A_LINE * lines
    )
    return math.ceil(seconds / 60)


# --- on the landing page --------------------------------------------------------------------------


def minutes_of(book: Path, name: str) -> int:
    """Return the minutes of a document of the book; 0 for one that is no notebook.

    Raises
    ------
    ValueError
        The book has no such document.
    """
    path = book / f"{name}.ipynb"
    if path.exists():
        return minutes(read(path))
    if not path.with_suffix(".md").exists():
        raise ValueError(
            f"the book has no document {name!r}; name it from the folder book/"
        )
    return 0


def below(toc: SiteMap, name: str) -> Iterator[str]:
    """Yield a document and all that the table of contents has under it."""
    yield name
    for tree in toc[name].subtrees:
        for item in tree.items:
            if isinstance(item, FileItem):
                yield from below(toc, str(item))


def parts(book: Path) -> dict[str, list[str]]:
    """Return the documents under each caption of the table of contents."""
    toc = parse_toc_yaml(book / "_toc.yml")
    found: dict[str, list[str]] = {}
    for tree in toc.root.subtrees:
        documents = found.setdefault(tree.caption or "Chapters", [])
        for item in tree.items:
            if isinstance(item, FileItem):
                documents += below(toc, str(item))
    return found


def said(total: int) -> str:
    """Write minutes as people say them."""
    counts = {"hour": total // 60, "minute": total % 60}
    return " ".join(
        f"{count} {unit}{'s' if count != 1 else ''}"
        for unit, count in counts.items()
        if count
    )


def markdown(book: Path) -> list[str]:
    """Return the list of chapters as lines of MyST."""
    lines = []
    for caption, documents in parts(book).items():
        times = {name: minutes_of(book, name) for name in documents}
        total = said(sum(times.values()))
        lines += [f"**{caption}**" + (f": {total}" if total else ""), ""]
        for name, time in times.items():
            lines.append(
                f"- {{doc}}`/{name}`"
                + (f" ({time}\N{NO-BREAK SPACE}min)" if time else "")
            )
        lines.append("")
    return lines


class ReadingTimes(SphinxDirective):
    """List every chapter of the table of contents with its reading time."""

    def run(self) -> list[nodes.Node]:
        """Return the parts, each with its list."""
        container = nodes.container(classes=["reading-times"])
        lines = markdown(Path(self.env.srcdir))
        self.state.nested_parse(
            StringList(lines, source=__file__), 0, container
        )
        return [container]


class Minutes(SphinxRole):
    """Say how long the documents take that are named, with commas between them."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the words, or a warning that names a document which is not there."""
        book = Path(self.env.srcdir)
        names = [name.strip() for name in self.text.split(",")]
        try:
            total = sum(minutes_of(book, name) for name in names)
        except ValueError as error:
            message = self.inliner.reporter.warning(
                f"{{minutes}}: {error}", line=self.lineno
            )
            return [], [message]
        return [nodes.inline("", said(total), classes=["minutes"])], []


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive and the role."""
    app.add_directive("reading-times", ReadingTimes)
    app.add_role("minutes", Minutes())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
