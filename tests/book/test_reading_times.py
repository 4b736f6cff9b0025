"""What counts as reading, in notebooks of a few cells; and what the landing page makes of it."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat import NotebookNode

from .small_book import ROOT, SmallBook, code, text


@pytest.fixture(scope="module")
def extensions() -> Iterator[Callable[[str], ModuleType]]:
    """Import extensions from their folder, as Sphinx does."""
    folder = str(ROOT / "book" / "_ext")
    sys.path.append(folder)
    yield importlib.import_module
    sys.path.remove(folder)


@pytest.fixture
def times(extensions: Callable[[str], ModuleType]) -> ModuleType:
    return extensions("reading_times")


@pytest.fixture
def concept_map(extensions: Callable[[str], ModuleType]) -> ModuleType:
    return extensions("concept_map")


def notebook(*cells: NotebookNode) -> NotebookNode:
    # nbformat has no types
    return nbformat.v4.new_notebook(cells=[*cells])  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("markdown", "words"),
    [
        ("# Two words\n\nthree *more* words", 5),
        ("don't count well-known words twice", 5),
        ("maths $a + b$ and\n\n$$\nc + d\n$$", 2),
        ("the `loss.backward()` call, {doc}`why <page>` it is", 4),
        ("```python\nprint('no')\n```", 0),
        ("% a comment\n\n<!-- another -->", 0),
        ("[a link](address.html) and ![alt text](x.svg)", 3),
        ("| a | b |\n| -- | -- |\n| c | d |", 4),
        ("```{admonition} In short\n:class: tip in-short\n- one\n- two\n```", 4),
        (":::{warning}\nOne thing.\n:::", 2),
        ("````{note}\n```{tip}\nTwo deep.\n```\n````", 2),
        ("```{figure} a.svg\n:alt: not these words\n:name: fig\n\nOnly the caption.\n```", 3),
        ("```{dropdown} Details: why\nBecause.\n```", 0),
        ("```{admonition} Answer\n:class: note dropdown\nBecause.\n```", 0),
        ("```{exercise} Title\n:label: ex\nSolve it.\n```", 3),
        ("```{code-block} python\nx = 1\n```", 0),
        ("```{math}\nx = 1\n```", 0),
    ],
)
def test_open_words(times: ModuleType, markdown: str, words: int) -> None:
    assert times.open_words(notebook(text(markdown))) == words


def test_solutions_are_not_in_the_open(times: ModuleType) -> None:
    cells = [
        text("Before.\n\n```{solution-start} ex\n:class: dropdown\n```\n\nInside"),
        text("still inside"),
        code("x = 1\ny = 2", mystnb={"figure": {"caption": "A solved figure"}}),
        text("```{solution-end}\n```\n\nAnd after."),
        code("z = 3"),
    ]
    assert times.open_words(notebook(*cells)) == 3
    assert times.visible_lines(notebook(*cells), "pytorch") == 1
    assert times.visible_cells(notebook(*cells), "pytorch") == 1


def test_captions_count_where_the_figure_is_seen(times: ModuleType) -> None:
    figure = {"figure": {"caption": "Three words, $x = 1$, here"}}
    assert times.open_words(notebook(code("draw()", "hide-input", mystnb=figure))) == 3
    assert times.open_words(notebook(code("draw()", "remove-cell", mystnb=figure))) == 0


CODE = [
    code("both = 1\n\n# a comment\n"),
    code("torch = 1", "pytorch"),
    code("keras = 1\nkeras = 2\nkeras = 3", "keras", "equals-library"),
    code("anybody = 1", "needs-pytorch"),
    code("hidden = 1", "hide-input"),
    code("hidden = 1", "hide_cell"),
    code("hidden = 1", "remove-input"),
    code("hidden = 1", "remove-cell"),
    code("shown = 1", "hide-output"),
    code("\n"),
]


@pytest.mark.parametrize(("framework", "lines"), [("pytorch", 5), ("keras", 7)])
def test_visible_code_of_one_framework(times: ModuleType, framework: str, lines: int) -> None:
    assert times.visible_lines(notebook(*CODE), framework) == lines
    assert times.visible_cells(notebook(*CODE), framework) == 4


def test_an_unknown_framework_is_refused(times: ModuleType) -> None:
    message = r"no framework is called 'jax'; the tabs are \['pytorch', 'keras'\]"
    with pytest.raises(ValueError, match=message):
        times.visible_lines(notebook(), "jax")


@pytest.mark.parametrize(
    ("words", "lines", "expected"), [(0, 0, 0), (200, 0, 1), (201, 0, 2), (200, 10, 2), (400, 5, 3)]
)
def test_minutes_are_words_and_lines_rounded_up(
    times: ModuleType, words: int, lines: int, expected: int
) -> None:
    cells = [text("word " * words), code("x\n" * lines, "keras"), code("x", "hide-input")]
    assert times.minutes(notebook(*cells)) == expected


def test_minutes_of_a_document_that_is_not_there(times: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the book has no document 'start/none'; name it from"):
        times.minutes_of(tmp_path, "start/none")


def test_parts_are_those_of_the_table_of_contents(times: ModuleType, tmp_path: Path) -> None:
    toc = """format: jb-book
root: index
parts:
- caption: First
  chapters:
  - file: a
    sections:
    - file: b
    - url: https://example.org
- chapters:
  - file: c
"""
    (tmp_path / "_toc.yml").write_text(toc, "utf-8")
    assert times.parts(tmp_path) == {"First": ["a", "b"], "Chapters": ["c"]}
    (tmp_path / "c.md").write_text("# C\n", "utf-8")
    nbformat.write(notebook(text("word " * 300)), tmp_path / "a.ipynb")
    nbformat.write(notebook(text("word " * 100)), tmp_path / "b.ipynb")
    assert times.markdown(tmp_path) == [
        "**First**: 3 minutes",
        "",
        "- {doc}`/a` (2\N{NO-BREAK SPACE}min)",
        "- {doc}`/b` (1\N{NO-BREAK SPACE}min)",
        "",
        "**Chapters**",
        "",
        "- {doc}`/c`",
        "",
    ]


@pytest.mark.parametrize(
    ("total", "words"),
    [(1, "1 minute"), (45, "45 minutes"), (60, "1 hour"), (150, "2 hours 30 minutes")],
)
def test_minutes_are_said_as_people_say_them(times: ModuleType, total: int, words: str) -> None:
    assert times.said(total) == words


# --- the map of the chapters ------------------------------------------------------------------------


def test_every_chapter_is_on_the_map(concept_map: ModuleType) -> None:
    chapters = concept_map.chapters(ROOT / "book")
    assert concept_map.mismatches(chapters) == []


def test_a_chapter_that_is_not_on_the_map_is_named(concept_map: ModuleType) -> None:
    documents = [*concept_map.BOXES, "practice/new"]
    documents.remove("case-studies/scenes")
    assert concept_map.mismatches(documents) == [
        "practice/new is not on the map; give it a box in concept_map.py",
        "case-studies/scenes is on the map but not in _toc.yml; take it from concept_map.py",
    ]


def test_the_map_is_one_piece(concept_map: ModuleType) -> None:
    """Every chapter but the first builds on another, and no two boxes are in one place."""
    reached = [end for ends in concept_map.LEADS.values() for end in ends]
    first, *others = concept_map.BOXES
    assert sorted(reached) == sorted(others)
    assert first in concept_map.LEADS
    assert len({(row, column) for row, column, _ in concept_map.BOXES.values()}) == len(others) + 1


def test_the_map_links_every_chapter_and_names_it(concept_map: ModuleType) -> None:
    drawn = concept_map.svg(lambda name: f"{name}.html")
    page = BeautifulSoup(drawn, "html.parser")
    links = {str(link["href"]): link["aria-label"] for link in page.find_all("a")}
    assert list(links) == [f"{name}.html" for name in concept_map.BOXES]
    assert links["foundations/gradients.html"] == "Gradients by hand"
    assert len(page.select(".arrows path")) == len(links) - 1


# --- built ------------------------------------------------------------------------------------------


def test_the_landing_page_shows_minutes(book: SmallBook) -> None:
    index = book.root / "book" / "index.md"
    index.write_text("# Book\n\n{minutes}`chapter`\n\n```{reading-times}\n```\n", "utf-8")
    built = book.build()
    assert built.returncode == 0, built.stdout
    page = book.page("index")
    shown = page.select_one(".minutes")
    listed = page.select_one(".reading-times li")
    assert shown is not None
    assert listed is not None
    assert shown.get_text() == "2 minutes"
    assert listed.get_text() == "A chapter (2\N{NO-BREAK SPACE}min)"


def test_minutes_of_a_document_that_is_not_there_turn_the_build_red(book: SmallBook) -> None:
    book.edit("book/index.md", "# A small book", "# A small book\n\n{minutes}`chapter, none`")
    built = book.build()
    assert built.returncode == 1
    assert "{minutes}: the book has no document 'none'" in built.stdout


def test_a_map_of_another_book_turns_the_build_red(book: SmallBook) -> None:
    book.edit("book/index.md", "# A small book", "# A small book\n\n```{concept-map}\n```")
    built = book.build()
    assert built.returncode == 1
    assert "chapter is not on the map; give it a box in concept_map.py" in built.stdout
