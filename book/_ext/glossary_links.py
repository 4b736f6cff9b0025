"""Link the first use of each glossary word on a page to the glossary; authors write nothing.

Only what is read in the open counts: no headings, code, links, outputs, folded boxes or exercises. A
word may end in s, es, d or ed; a word that begins small may begin with a capital. The link shows the
other names of the word, the Chinese one among them, when a reader points at it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

GLOSSARY = "reference/glossary"
PAGES = re.compile(r"(?!reference/)\w.*/|reference/(faq|decision-guide)$")
"""Which documents get links: the chapters, and the pages of the reference part that are read."""

CLOSED = (
    nodes.title, nodes.rubric, nodes.reference, pending_xref, nodes.literal, nodes.literal_block,
    nodes.math, nodes.raw, nodes.caption, nodes.topic, nodes.footnote,
)  # fmt: skip
CHINESE = re.compile("[一-鿿]")
FOLDED = re.compile(r"dropdown|cell_output|exercise|solution|experiment")


class Entry(NamedTuple):
    """A glossary entry: its names, the English ones first, and the pages that its text names."""

    names: list[str]
    pages: list[str]

    @property
    def pattern(self) -> str:
        """A pattern of its names as they stand in English text, the longest first."""
        words = [
            n
            for n in self.names
            if re.search(r"[A-Za-zΔ]", n) and not CHINESE.search(n)
        ]
        return "|".join(map(as_written, sorted(words, key=len, reverse=True)))


def as_written(name: str) -> str:
    """Return a pattern of a name: any white space, and a capital where it begins small."""
    first = (
        f"[{name[0].upper()}{name[0]}]"
        if name[0].islower()
        else re.escape(name[0])
    )
    return first + re.escape(name[1:]).replace(r"\ ", r"\s+")


def read_entries(book: Path) -> list[Entry]:
    """Return the entries of the glossary: lines that are not indented, up to the definition."""
    path = book / f"{GLOSSARY}.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    blocks = re.findall(r"```\{glossary\}\n(.*?)```", text, re.DOTALL)
    entries = [
        e for block in blocks for e in re.split(r"\n\s*\n", block.strip())
    ]
    return [
        Entry(
            [
                line.strip()
                for line in entry.splitlines()
                if not line.startswith(" ")
            ],
            re.findall(r"\{page\}`([^`]+)`", entry),
        )
        for entry in entries
    ]


class Finder:
    """Finds the first use of each entry in texts that are shown to it in their order."""

    def __init__(self, entries: list[Entry]) -> None:
        self.left = dict(enumerate(entries))
        longest = sorted(
            self.left, key=lambda i: -max(map(len, entries[i].names))
        )
        named = (
            f"(?P<e{i}>{entries[i].pattern})"
            for i in longest
            if entries[i].pattern
        )
        self.pattern = re.compile(
            rf"(?<![\w-])(?:{'|'.join(named)})(?:s|es|d|ed)?(?![\w-])"
        )

    def uses(self, text: str) -> Iterator[tuple[re.Match[str], Entry]]:
        """Yield the uses in a text of entries that no earlier text has used."""
        for match in self.pattern.finditer(text):
            entry = self.left.pop(int(str(match.lastgroup)[1:]), None)
            if entry:
                yield match, entry


def is_open(node: nodes.Node) -> bool:
    """Whether a text is prose that a reader meets without opening anything."""
    while node := node.parent:
        marks = [
            type(node).__name__,
            *node.get("classes", []),
            node.get("design_component", ""),
        ]
        if isinstance(node, CLOSED) or FOLDED.search(" ".join(map(str, marks))):
            return False
    return True


def link_first_uses(
    app: Sphinx, doctree: nodes.document, document: str
) -> None:
    """Put the links into a page that is about to be written."""
    entries = read_entries(Path(app.srcdir))
    if (
        not entries
        or not PAGES.match(document)
        or GLOSSARY not in app.env.found_docs
    ):
        return
    terms = app.env.domaindata["std"]["objects"]
    address = app.builder.get_relative_uri(document, GLOSSARY)
    finder = Finder(entries)
    for text in [node for node in doctree.findall(nodes.Text) if is_open(node)]:
        pieces: list[nodes.Node] = []
        end = 0
        for match, entry in finder.uses(text.astext()):
            pieces.append(nodes.Text(text[end : match.start()]))
            uri = f"{address}#{terms['term', entry.names[0]][1]}"
            title = " · ".join(entry.names)
            pieces.append(nodes.reference("", match[0], internal=True, refuri=uri,
                                          reftitle=title, classes=["glossary-link"]))  # fmt: skip
            end = match.end()
        if pieces:
            text.parent.replace(text, [*pieces, nodes.Text(text[end:])])


def mark_chinese(app: Sphinx, doctree: nodes.document, document: str) -> None:
    """Say of each Chinese word that it is Chinese, for screen readers (docutils makes it ``lang``)."""
    if document == GLOSSARY:
        for term in doctree.findall(nodes.term):
            if CHINESE.search(term.astext()):
                term["classes"].append("language-zh")


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the links when all pages are read and their references resolved."""
    app.connect("doctree-resolved", link_first_uses)
    app.connect("doctree-resolved", mark_chinese)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
