"""Every place that the reference part names is there, and nothing of the articles is passed over."""

import re
from functools import cache
from pathlib import Path

import pytest
from myst_parser.mdit_to_docutils.base import default_slugify
from sphinx_external_toc.parsing import parse_toc_yaml

from .notebook_checks import Page, roles
from .small_book import ROOT

from page_links import PLANNED  # isort: skip (a module of book/_ext, on the path since the checks)
from sources import Row, counts, read_rows  # isort: skip

BOOK = ROOT / "book"
ROWS = read_rows(BOOK)


def source(document: str, book: Path = BOOK) -> Path | None:
    """Return the file of a document of the table of contents."""
    if document not in [str(name) for name in parse_toc_yaml(book / "_toc.yml")]:
        return None
    return next(p for end in (".ipynb", ".md") if (p := book / f"{document}{end}").exists())


@cache
def anchors(path: Path) -> set[str]:
    """Return what a page can be entered at: its headings as addresses, and its exercises."""
    page = Page(path)
    headings = {
        default_slugify("".join(c.content for c in inline if c.type in ("text", "code_inline")))
        for h in page.headings
        for inline in [page.tokens[h.place + 1][1].children or []]
    }
    return headings | {
        found.options.get("label", "")
        for _, found in page.directives
        if found.name in ("exercise", "exercise-start")
    }


def dangling(place: str, book: Path = BOOK) -> str:
    """Return what is wrong with a place: "" if it is there, or planned."""
    document, _, anchor = place.partition("#")
    path = source(document, book)
    if path is None:
        return "" if document in PLANNED else f"{place}: no such document, and none planned"
    return "" if not anchor or anchor in anchors(path) else f"{place}: no such section or exercise"


def findings(row: Row) -> list[str]:
    """Return what is wrong with a row."""
    found = [problem for place in row.places if (problem := dangling(place))]
    if bool(row.places) == bool(row.reason.strip()):
        found.append("has neither a place nor a reason, or both")
    if row.kind not in ("statement", "error"):
        found.append(f"is of an unknown kind, {row.kind!r}")
    if row.kind == "error" and not row.places:
        found.append("is an error that is mended nowhere")
    return found


@pytest.mark.parametrize("article", sorted({row.article for row in ROWS}))
def test_every_row_has_a_place_that_is_there_or_a_reason(article: str) -> None:
    own = [row for row in ROWS if row.article == article]
    assert {row.says: found for row in own if (found := findings(row))} == {}


@pytest.mark.parametrize(
    ("place", "reason", "problem"),
    [
        ("foundations/loses", "", "foundations/loses: no such document"),
        ("foundations/losses#three-softmaxes", "", "no such section"),
        ("foundations/losses#ex-losses-none", "", "no such section or exercise"),
        ("", "  ", "neither a place nor a reason"),
        ("foundations/losses", "Too large.", "or both"),
    ],
)
def test_a_bad_row_is_found(place: str, reason: str, problem: str) -> None:
    assert any(problem in f for f in findings(Row("1", "2", "statement", "It.", place, reason)))


def test_an_error_must_be_mended_somewhere() -> None:
    assert findings(Row("1", "2", "error", "Wrong.", "", "Too large."))


SECTIONS = {
    "1": "1 2.1 2.2 2.3 3.1 3.2 3.3 3.4 4.1 4.2 4.3 5 6",
    "2": "1 2.1 3.1 3.2 3.3 3.4 4.1 4.2 5.1 5.2 5.3 6.1 6.2 6.3 6.4 7.1 7.2 7.3 8.1 8.2 8.3 8.4 9",
    "3": "1 2 3 4 4b 5 6 7 8",
    "4": "1 2.1 2.2 2.3 3.1 3.2 3.3 3.4 4.1 4.2 4.3 5.1 5.2 5.3 6.1 6.2 6.3 6.4 7.1 7.2 7.3 8.1 8.2 8.3 8.4 "
    "9.1 9.2 9.3 9.4",
    "5": "1.1 1.2 2.1 2.2 2.3 3.1 3.2 3.3 4.1 4.2 4.3 5 6 7 8.1 8.2 9.1 9.2 9.3",
}
"""The sections of each article that say something."""


@pytest.mark.parametrize("article", SECTIONS)
def test_no_section_of_an_article_is_passed_over(article: str) -> None:
    held = {re.split("[ ,]", row.section)[0] for row in ROWS if row.article == article}
    assert held == set(SECTIONS[article].split())


def test_all_five_articles_are_there() -> None:
    assert {row.article for row in ROWS} == set(SECTIONS)
    assert len(ROWS) >= 230  # as many as a first reading found


def test_every_question_of_the_articles_is_answered() -> None:
    asked = [row for row in ROWS if "?" in row.says]
    assert len(asked) >= 20
    answers = ("reference/faq#", "reference/decision-guide")
    assert [r.says for r in asked if not any(p.startswith(answers) for p in r.places)] == []


def test_the_summary_counts_every_row_once() -> None:
    rows = [
        Row("1", "1", "statement", "a", "start/a", ""),
        Row("1", "2", "statement", "b", "start/later", ""),
        Row("1", "3", "statement", "c", "", "Too large."),
        Row("1", "4", "error", "d", "start/later start/a#b", ""),
    ]
    assert counts(rows, ["start/a"])[-1] == "| **all** | 3 | 1 | 1 | 1 | 1 of 1 |"


@pytest.mark.parametrize("path", sorted(BOOK.rglob("*.md")), ids=lambda path: path.stem)
def test_pages_link_to_what_is_there(path: Path) -> None:
    """The role ``{page}``, wherever it is used."""
    places = [place for name, place in roles(path.read_text("utf-8")) if name == "page"]
    assert [problem for place in places if (problem := dangling(place))] == []
