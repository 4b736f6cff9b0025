"""Check every page of the book, and that each check can fail.

The second half breaks a small good chapter, or a small good page for readers, in one way at a time
and runs the same function on it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode

from . import notebook_checks as checks

BOOK = Path(__file__).parents[2] / "book"
NOTEBOOKS = checks.notebooks(BOOK)
PAGES = [*NOTEBOOKS, *sorted(BOOK.rglob("*.md"))]


def label(value: Any) -> str:
    """Name a test after its page or its check."""
    return value.relative_to(BOOK).as_posix() if isinstance(value, Path) else str(value.__name__)


# ---------------------------------------------------------------------------- the real book


def test_every_notebook_is_checked_and_built() -> None:
    """Checks that collect nothing prove nothing, and what is not built stays green for ever."""
    assert checks.uncollected(BOOK) == []


@pytest.mark.parametrize("path", PAGES, ids=label)
@pytest.mark.parametrize("check", checks.PAGE_CHECKS, ids=label)
def test_page(check: checks.Check, path: Path) -> None:
    """A page of prose, Markdown or notebook."""
    assert check(path) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=label)
@pytest.mark.parametrize("check", [*checks.CHAPTER_CHECKS, *checks.READER_CHECKS], ids=label)
def test_chapter(check: checks.Check, path: Path) -> None:
    """A notebook."""
    assert check(path) == []


# ---------------------------------------------------------------------------- a small good chapter


def md(source: str) -> NotebookNode:
    """Return a Markdown cell."""
    # nbformat has no types
    return nbformat.v4.new_markdown_cell(source)  # type: ignore[no-any-return]


def code(source: str, *tags: str, **mystnb: Any) -> NotebookNode:
    """Return a code cell."""
    metadata: dict[str, Any] = {"tags": list(tags)} if tags else {}
    if mystnb:
        metadata["mystnb"] = mystnb
    # nbformat has no types
    return nbformat.v4.new_code_cell(source, metadata=metadata)  # type: ignore[no-any-return]


def exercise(label: str) -> list[NotebookNode]:
    """Return an exercise and its solution."""
    return [
        md(
            f"```{{exercise-start}}\n:label: {label}\n```\nDouble it.\n```{{exercise-end}}\n```\n\n"
            f"```{{solution-start}} {label}\n:class: dropdown\n```"
        ),
        code("assert 2 * 1 == 2"),
        md("```{solution-end}\n```"),
    ]


DRAWN = {
    "image": {"alt": "Both losses fall, the second one faster", "classes": "dark-light"},
    "figure": {"name": "fig-losses", "caption": "Losses, at best {glue:text}`acc:.2f`, $w=0.5$."},
}
CELLS = [
    md("# Two tasks\n\nHow are they trained?"),
    code("import mtl_tutorial\n\nprint(mtl_tutorial.__version__)"),
    code("import torch", "pytorch"),
    code("import torch\nimport keras", "keras"),
    md(
        "With `lr=0.1` and $w=0.5$ the accuracy is {glue:text}`acc:.1%`, on 28 images {cite:p}`a`.\n"
        "Python 3.11.2 ran it, see <https://example.org/1.5>.\n\n"
        "```{math}\n:label: eq-a\nx = 0.5\n```\n\n"
        ":::{note}\nThe last of {glue:text}`best` losses is {glue:text}`loss-keras:.3f`; <b>not</b> $0.25$.\n:::"
    ),
    code('glue(acc=0.5, best=3, **{f"loss-{name}": 1.0 for name in ("keras",)})', "remove-cell"),
    code("plt.plot(losses)", **DRAWN),
    code("glue(**{'share': 0.5})"),
    md('```{figure} net.svg\n:alt: "One trunk, and a head for each task"\n```\n{glue:text}`share`'),
    code("assert mine == theirs", "equals-library"),
    code('raise ValueError("shown on purpose")', "raises-exception"),
    *[code(f"x{i} = {i}") for i in range(4)],
    md("## What can go wrong\n\nMuch."),
    *exercise("ex-one"),
    *exercise("ex-two"),
    md("## Check yourself\n\n" + "\n\n".join(["```{dropdown} Why?\nThus.\n```"] * 3)),
    md("## What to read next\n\n{cite:t}`caruana`."),
]
METADATA = {
    "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
    "language_info": {"name": "python"},
    "mtl_tutorial": {"budget_seconds": 60},
}


VERSION = {"nbformat": 4, "nbformat_minor": 5}


@pytest.fixture
def chapter() -> NotebookNode:
    """Return a chapter that every check accepts."""
    # nbformat has no types
    return nbformat.from_dict({"cells": CELLS, "metadata": METADATA, **VERSION})  # type: ignore[no-any-return]


def write(notebook: NotebookNode, folder: Path) -> Path:
    """Write a chapter where a chapter would be."""
    path = folder / "case-studies" / "broken.ipynb"
    path.parent.mkdir()
    nbformat.write(notebook, path)
    return path


EVERY = [*checks.PAGE_CHECKS, *checks.CHAPTER_CHECKS]


@pytest.mark.parametrize("check", EVERY, ids=label)
def test_good_chapter_passes(check: checks.Check, chapter: NotebookNode, tmp_path: Path) -> None:
    """Else the breakages below could be red for another reason."""
    assert check(write(chapter, tmp_path)) == []


# ---------------------------------------------------------------------------- broken on purpose

Break = Callable[[NotebookNode], Any]


def cell(notebook: NotebookNode, text: str) -> NotebookNode:
    """Return the first cell that contains a text."""
    cells: list[NotebookNode] = notebook.cells
    return next(c for c in cells if text in c.source)


def edit(old: str, new: str) -> Break:
    """Replace a text in the first cell that contains it."""

    def change(notebook: NotebookNode) -> None:
        found = cell(notebook, old)
        found.source = found.source.replace(old, new)

    return change


def insert(*cells: NotebookNode, after: str = "x3 = 3") -> Break:
    """Insert cells after the one that contains a text."""

    def change(notebook: NotebookNode) -> None:
        place = notebook.cells.index(cell(notebook, after)) + 1
        notebook.cells[place:place] = cells

    return change


def drop(text: str) -> Break:
    """Remove the first cell that contains a text."""
    return lambda notebook: notebook.cells.remove(cell(notebook, text))


def tag(text: str, *tags: str) -> Break:
    """Replace the tags of the first cell that contains a text."""
    return lambda notebook: cell(notebook, text).metadata.update(tags=list(tags))


def show(text: str, **mystnb: Any) -> Break:
    """Replace the image metadata of the first cell that contains a text."""
    return lambda notebook: cell(notebook, text).metadata.update(mystnb=mystnb)


def meta(**metadata: Any) -> Break:
    """Set notebook metadata."""
    return lambda notebook: notebook.metadata.update(metadata)


def stored(notebook: NotebookNode) -> None:
    """Store an output, as saving after a run does."""
    ran = cell(notebook, "x3 = 3")
    ran.outputs = [nbformat.v4.new_output("stream", text="3")]
    ran.execution_count = 7


def after(text: str) -> Break:
    """Insert Markdown after the cell `x3 = 3`."""
    return insert(md(text))


BROKEN: list[tuple[checks.Check, Break, str]] = [
    # 1 clean
    (checks.stored_state, stored, "cell 15: holds stored outputs"),
    (checks.stored_state, stored, "cell 15: holds an execution count"),
    (checks.stored_state, meta(kernelspec={"name": ".venv"}), "kernel {'name': '.venv'}"),
    (
        checks.stored_state,
        meta(language_info={"version": "3.11.2"}),
        "['version'] in language_info",
    ),
    (checks.stored_state, meta(colab={}), "notebook metadata ['colab']"),
    (checks.stored_state, lambda n: n.cells[1].metadata.update(id="x"), "cell 2: has metadata"),
    # 2 silent greens, hidden teaching
    (
        checks.silent_green,
        meta(execution={"allow_errors": True}),
        "sets execution ['allow_errors']",
    ),
    (checks.silent_green, meta(mystnb={"execution_mode": "off"}), "sets mystnb ['execution_mode']"),
    (checks.silent_green, tag("x3 = 3", "skip-execution"), "cell 15: has tags ['skip-execution']"),
    (checks.silent_green, edit("x3 = 3", "%%script true\nx3 = 3"), "cell 15: starts with a cell"),
    (checks.silent_green, tag("mine ==", "raises-exception"), "its assertion checks nothing"),
    (checks.silent_green, tag("raise", "raises-exception", "remove-output"), "hides the message"),
    (checks.hidden_teaching, tag("x3 = 3", "remove_input"), "cell 15: hides code"),
    (checks.hidden_teaching, show("x3 = 3", remove_code_source=True), "cell 15: hides code"),
    # 3 numbers
    (checks.typed_numbers, edit("{glue:text}`acc:.1%`", "97.5"), "cell 5: number '97.5'"),
    (checks.typed_numbers, edit("Double it", "Gain 3 %"), "number '3' typed in 'Gain 3 %.'"),
    (checks.typed_numbers, edit("Much.", "About 12 per cent."), "number '12'"),
    (checks.typed_numbers, edit("Much.", "A rate of 1e-3."), "number '1e-3'"),
    (checks.typed_numbers, edit("Much.", "[1.5 times](a.md)"), "number '1.5'"),
    (checks.typed_numbers, edit("Why?", "Why 0.5?"), "number '0.5'"),
    (checks.typed_numbers, edit("`loss-keras:.3f`", "`loss-keras` 0.7"), "number '0.7'"),
    (checks.typed_numbers, after("| a |\n| - |\n| .5 |"), "number '.5'"),
    (
        checks.typed_numbers,
        show("plt.plot", figure={"caption": "At 97.5"}, image={"alt": "From 0.2 up"}),
        "number '0.2'",
    ),
    (checks.plain_titles, after("```{dropdown} What `decay` counts\nAll.\n```"), "in its title"),
    (checks.glued_keys, edit("`acc:.1%`", "`accuracy:.1%`"), "cell 5: uses key 'accuracy'"),
    (checks.glued_keys, edit("{'share'", "{'shared'"), "uses key 'share'"),
    (checks.glued_keys, edit("`acc:.1%`", "`other.ipynb::a:.1%`"), "'other.ipynb', which does not"),
    (checks.glued_keys, edit("`acc:.1%`", "`broken.ipynb::a:.1%`"), "uses key 'a'"),
    # 4 size
    (checks.notation, edit("$0.25$", r"$\Xi_q$"), r"cell 5: uses \Xi in"),
    (checks.notation, edit("x = 0.5", r"\mathcal{Q} = 0.5"), r"cell 5: uses \mathcal{Q} in"),
    (checks.notation, edit("$0.25$", r"$\varphi$"), r"uses \varphi in"),  # of another chapter
    (checks.width, insert(code("y = " + "1" * 77)), "cell 16: has a line of 81 characters"),
    (
        checks.self_contained,
        edit("x3 = 3", "sys.path.insert(0, '..')"),
        "cell 15: changes sys.path",
    ),
    (checks.self_contained, edit("x3 = 3", "%pip install x"), "cell 15: installs"),
    (checks.self_contained, edit("x3 = 3", "!pip install x"), "cell 15: calls a shell"),
    (checks.self_contained, edit("x3 = 3", "MNIST('.', download=True)"), "cell 15: fetches"),
    (checks.self_contained, edit("x3 = 3", "requests.get(url)"), "cell 15: fetches"),
    (
        checks.counts,
        edit("x3 = 3", "occurs @ (y == c)"),
        "multiplies truths in 'occurs @ (y == c)'",
    ),
    # 5 structure
    (checks.exercises, drop("ex-two"), "has 1 exercises"),
    (checks.exercises, edit("solution-start} ex-one", "note} ex-one"), "'ex-one' has no"),
    (checks.exercises, edit("assert 2 * 1 == 2", "2 * 1"), "'ex-one' asserts nothing"),
    (checks.exercises, edit(":class: dropdown", ":class: wide"), "'ex-one' is open"),
    (checks.exercises, lambda n: [drop("solution-end")(n) for _ in "12"], "is never closed"),
    (checks.equals_library, tag("mine == theirs"), "never compares with the library"),
    (checks.equals_library, edit("assert mine == theirs", "mine"), "but asserts nothing"),
    (checks.names_version, edit(".__version__", ""), "does not show mtl_tutorial.__version__"),
    # 6 figures
    (checks.alt_texts, show("plt.plot"), "cell 7: draws with alt text ''"),
    (checks.alt_texts, show("plt.plot", image={"alt": "losses.png"}), "alt text 'losses.png'"),
    (
        checks.alt_texts,
        show("plt.plot", image={"alt": "Both losses fall", "class": "dark-light"}),
        "cell 7: has keys ['class']",
    ),
    (checks.alt_texts, edit("x3 = 3", "ax[0].imshow(x)"), "cell 15: draws with alt text ''"),
    (
        checks.alt_texts,
        edit("x3 = 3", "from mtl_tutorial.plotting import curves\ncurves(x)"),
        "cell 15: draws with alt text ''",
    ),
    (checks.alt_texts, edit(":alt:", ":name:"), "figure 'net.svg' has alt text ''"),
    (checks.alt_texts, after("![](trunk.svg)"), "image 'trunk.svg' has alt text ''"),
    # 7, 8 frameworks
    (
        checks.torch_first,
        edit("import torch", "import tensorflow, torch"),
        "cell 3: imports tensorflow",
    ),
    (
        checks.torch_first,
        edit("import mtl_tutorial", "from mtl_tutorial.keras import fit"),
        "cell 2: imports mtl_tutorial.keras.fit before torch (cell 3)",
    ),
    (checks.tab_pairs, insert(md("Then."), after="import torch"), "alone; add the other"),
    (checks.tab_pairs, tag("x3 = 3", "keras"), "cell 15: is a tab for {'keras'} alone"),
    (checks.tab_pairs, tag("import torch", "keras", "pytorch"), "tagged for both frameworks"),
]


@pytest.mark.parametrize(
    ("check", "break_it", "message"),
    BROKEN,
    ids=[f"{label(check)}-{number}" for number, (check, *_) in enumerate(BROKEN)],
)
def test_broken_chapter_is_found(
    check: checks.Check, break_it: Break, message: str, chapter: NotebookNode, tmp_path: Path
) -> None:
    """The real check, on a copy broken in one way."""
    break_it(chapter)
    path = write(chapter, tmp_path)
    findings = check(path)
    print(*findings, sep="\n")
    assert [f for f in findings if message in f]
    assert all(f.startswith("broken.ipynb") for f in findings)


def test_every_check_has_been_seen_to_fail() -> None:
    """A check without a breakage above or below is a hope."""
    seen = {check for check, *_ in [*BROKEN, *BROKEN_FOR_READERS]}
    assert seen == {*EVERY, *checks.READER_CHECKS}


def test_lone_tab_under_a_heading_of_its_framework(chapter: NotebookNode, tmp_path: Path) -> None:
    """The one place where a single tab is meant."""
    insert(md("## The same in Keras"), code("keras.Model()", "keras"))(chapter)
    assert checks.tab_pairs(write(chapter, tmp_path)) == []


def test_markdown_pages_are_read(tmp_path: Path) -> None:
    """A landing page has no cells, but it has numbers."""
    page = tmp_path / "index.md"
    page.write_text("# Book\n\nAccuracy 97.5, see {glue:text}`a.ipynb::acc:.2f`.\n", "utf-8")
    assert len(checks.typed_numbers(page)) == 1
    assert len(checks.glued_keys(page)) == 1


def test_uncollected_notebooks_are_found(chapter: NotebookNode, tmp_path: Path) -> None:
    """A part without notebooks, and a notebook that nobody builds."""
    path = write(chapter, tmp_path)
    toc = tmp_path / "_toc.yml"
    toc.write_text("format: jb-book\nroot: index\n", "utf-8")
    assert checks.uncollected(tmp_path)[0].startswith("case-studies/broken.ipynb: is not in _toc")
    toc.write_text(
        "format: jb-book\nroot: index\nchapters:\n- file: case-studies/broken\n", "utf-8"
    )
    assert checks.uncollected(tmp_path) == []
    path.unlink()
    assert "no notebook found" in checks.uncollected(tmp_path)[0]


# ---------------------------------------------------------------------------- a small good page


def box(title: str, classes: str, *items: str) -> NotebookNode:
    """Return a box with a list."""
    listed = "\n".join(f"- {item}" for item in items)
    return md(f"```{{admonition}} {title}\n:class: {classes}\n{listed}\n```")


RESULT = {"image": {"alt": "Accuracy rises with every label"}}
PAGE_CELLS = [
    md("# Two tasks\n\nFifty labels, two questions. **Can one network answer both?** Try."),
    code("import matplotlib.pyplot as plt\n\nplt.plot(labels)", "hide-input", **RESULT),
    box("In short", "tip in-short", "You train one network.", "You see when it helps."),
    md("## The idea\n\nAdd the losses.\n\n```{dropdown} Details: why\nLong ago, they did.\n```"),
    code("from mtl_tutorial.datasets import mnist\n\nlabels = mnist()"),
    code("import torch\n\n(loss1 + loss2).backward()", "pytorch"),
    code("import keras\n\nwith tf.GradientTape() as tape:\n    loss = 1", "keras"),
    md("Now from the library."),
    code("import mtl_tutorial.pytorch\n\nassert mine == theirs", "pytorch", "equals-library"),
    code("import mtl_tutorial.keras\n\nassert mine == theirs", "keras", "equals-library"),
    box("Try it", "hint try-it", "Change a weight."),
    md(
        "## What the experiment found\n\nIt gains {glue:text}`gain:.1f`.\n\n```{experiment} start/first\n```"
    ),
    code(
        'found = experiments.read("start/first")\nglue(gain=0.5, version=mtl_tutorial.__version__)',
        "remove-cell",
    ),
    code("either = (x == 1) | (y == 2)"),
    md("## What can go wrong\n\nMuch."),
    md("## Exercises"),
    *exercise("ex-one"),
    *exercise("ex-two"),
    md("## Check yourself\n\n" + "\n\n".join(["```{dropdown} Why?\nThus.\n```"] * 3)),
    box("Take away", "important take-away", "Add losses.", "Count labels.", "Compare."),
    md("## What to read next\n\n{cite:t}`caruana`."),
]


@pytest.fixture
def page(results: None) -> NotebookNode:
    """Return a page in the form for readers that every check accepts."""
    # nbformat has no types
    return nbformat.from_dict({"cells": PAGE_CELLS, "metadata": METADATA, **VERSION})  # type: ignore[no-any-return]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have one experiment, and one whose results are missing, for the pages that are made here."""
    folder = tmp_path / "experiments"
    (folder / "results" / "start").mkdir(parents=True)
    (folder / "start").mkdir()
    for file in ("start/first.py", "results/start/first.json", "start/second.py"):
        (folder / file).touch()
    monkeypatch.setattr(checks, "EXPERIMENTS", folder)


def write_first(notebook: NotebookNode, folder: Path) -> Path:
    """Write a page as the first chapter of a book."""
    (folder / "_toc.yml").write_text(
        "format: jb-book\nroot: index\nchapters:\n- file: case-studies/broken\n", "utf-8"
    )
    return write(notebook, folder)


@pytest.mark.parametrize("check", [*EVERY, *checks.READER_CHECKS], ids=label)
def test_good_page_passes(check: checks.Check, page: NotebookNode, tmp_path: Path) -> None:
    """Else the breakages below could be red for another reason."""
    assert check(write_first(page, tmp_path)) == []


def top(*cells: NotebookNode) -> Break:
    """Insert cells below the question."""
    return insert(*cells, after="# Two tasks")


def move(text: str, before: str) -> Break:
    """Move the first cell that contains a text to above the one that contains another."""

    def change(notebook: NotebookNode) -> None:
        moved = cell(notebook, text)
        notebook.cells.remove(moved)
        notebook.cells.insert(notebook.cells.index(cell(notebook, before)), moved)

    return change


def untag(notebook: NotebookNode) -> None:
    """Leave the tabs of one framework, each under a heading that names it."""
    for cells in ("import keras", "import mtl_tutorial.keras"):
        drop(cells)(notebook)


IDEA = "Add the losses."
BROKEN_FOR_READERS: list[tuple[checks.Check, Break, str]] = [
    (checks.first_screen, edit("# Two", "Two"), "cell 1: has no title"),
    (checks.first_screen, edit("both?", "both."), "cell 1: asks no question"),
    (checks.first_screen, edit("Try.", "Try. Now."), "cell 1: takes 4 sentences"),
    (checks.first_screen, top(md("One. Two. Three.")), "cell 1: takes 6 sentences"),
    (checks.first_screen, drop("plt.plot"), "cell 4: comes before any picture"),
    (checks.first_screen, tag("plt.plot"), "cell 2: comes before any picture"),
    (checks.first_screen, top(code("import torch")), "cell 2: comes before any picture"),
    (checks.first_screen, move("In short", "import torch"), "cell 4: is code above the box"),
    (checks.first_screen, move("In short", "plt.plot"), "box 'In short' above the picture"),
    (checks.first_screen, top(md("## A\n\n## B")), "cell 4: has the box 'In short' below the sec"),
    (checks.boxes, drop("In short"), "has no box 'In short'; add ```{admonition} In short, with"),
    (checks.boxes, drop("Take away"), "has no box 'Take away'"),
    (checks.boxes, drop("Try it"), "has no box 'Try it'"),
    (checks.boxes, top(box("In short", "tip in-short", "a", "b")), "cell 4: is the second box"),
    (checks.boxes, edit("tip in-short", "tip"), "box 'In short' has class 'tip'; write ':class: t"),
    (checks.boxes, edit("- You see when it helps.", ""), "box 'In short' has 1 items; have 2 to 4"),
    (checks.boxes, edit("- Compare.", "- a\n- b\n- c\n- d"), "has 6 items; have 3 to 5"),
    (
        checks.limits,
        insert(*[code("y = 1") for _ in range(9)], after=IDEA),
        "shows 13 code cells for keras",
    ),
    (
        checks.limits,
        insert(*[code("y = 1\n" * 20) for _ in range(6)], after=IDEA),
        "lines of code for pytorch",
    ),
    (checks.limits, insert(code("y = 1\n" * 21), after=IDEA), "cell 5: shows 21 lines, 20 at most"),
    (checks.limits, edit(IDEA, "word " * 1800), "words in the open, 1800 at most"),
    (checks.folded_plotting, edit("labels = mnist", "ax.plot"), "cell 5: shows code that draws"),
    (checks.folded_plotting, tag("plt.plot"), "cell 2: shows code that draws"),
    (checks.folded_plotting, tag("glue(gain"), "cell 13: shows a call of glue"),
    (checks.plain_code, edit("labels = mnist()", "fit(x, **plan)"), "unpacks in 'fit(x, **plan)'"),
    (checks.plain_code, edit("labels = mnist()", "y = {**a}"), "merges in '{**a}'"),
    (checks.plain_code, edit("labels = mnist()", "y = x | {'a': 1}"), "merges dictionaries in"),
    (checks.plain_code, edit("labels = mnist()", "a = b = {}\nb |= f()"), "'b |= f()'"),
    (
        checks.plain_loop_first,
        edit("from mtl_tutorial.datasets", "from mtl_tutorial.pytorch"),
        "cell 5: uses mtl_tutorial.pytorch before a plain loop; put a pytorch cell",
    ),
    (
        checks.plain_loop_first,
        edit("labels = mnist()", "mtl_tutorial.keras.fit()"),
        "cell 5: uses mtl_tutorial.keras before a plain loop; put a keras cell that trains",
    ),
    (
        checks.plain_loop_first,
        edit(".backward()", ".sum()"),
        "never trains by hand in pytorch; add a pytorch cell that calls loss.backward()",
    ),
    (checks.both_tabs, untag, "has tabs for pytorch alone; show the same in keras"),
    (checks.dark_figures, show("plt.plot", **DRAWN), "cell 2: has image class dark-light"),
    (
        checks.dark_figures,
        top(md("```{figure} net.svg\n:class: dark-light\n```")),
        "cell 2: has image class dark-light",
    ),
    (
        checks.dark_figures,
        edit("plt.plot(labels)", "plt.figure(facecolor='white')"),
        "cell 2: paints the ground in \"facecolor='white'\"",
    ),
    (
        checks.dark_figures,
        edit("plt.plot(labels)", "plt.rcParams['figure.facecolor'] = 'w'"),
        "cell 2: paints the ground",
    ),
    (checks.dark_figures, edit("plt.plot(labels)", "ax.set_facecolor('#fff')"), "paints the"),
    (checks.ending, drop("## Exercises"), "has no section 'Exercises'"),
    (checks.ending, drop("Take away"), "has no section 'Take away'"),
    (
        checks.ending,
        move("Take away", "## Check"),
        "ends out of order; have What can go wrong, the",
    ),
    (checks.ending, move("## What can go", "## Check"), "ends out of order"),
    (checks.ending, edit("{cite:t}`caruana`", "A book"), "cites nothing"),
    (checks.ending, edit("\n\n```{dropdown} Why?\nThus.\n```", ""), "has 0 folded answers"),
    (checks.budget, meta(mtl_tutorial={"budget_seconds": 61}), "budget_seconds 61"),
    (checks.budget, meta(mtl_tutorial={}), "budget_seconds None"),
    (checks.evidence, edit("experiment} start/first", "experiment} a/b"), "no experiments/a/b.py"),
    (
        checks.evidence,
        edit("experiment} start/first", "experiment} start/second"),
        "there is no experiments/results/start/second.json",
    ),
    (checks.evidence, edit('read("start/first")', "read(name)"), "does not write its experiment"),
    (checks.evidence, edit("```{experiment} start/first\n```", ""), "whose source is not shown"),
]


@pytest.mark.parametrize(
    ("check", "break_it", "message"),
    BROKEN_FOR_READERS,
    ids=[f"{label(check)}-{number}" for number, (check, *_) in enumerate(BROKEN_FOR_READERS)],
)
def test_broken_page_is_found(
    check: checks.Check, break_it: Break, message: str, page: NotebookNode, tmp_path: Path
) -> None:
    """The real check, on a copy broken in one way."""
    break_it(page)
    findings = check(write_first(page, tmp_path))
    print(*findings, sep="\n")
    assert [f for f in findings if message in f]
    assert all(f.startswith("broken.ipynb") for f in findings)


def test_text_below_the_picture_is_not_part_of_the_question(
    page: NotebookNode, tmp_path: Path
) -> None:
    """Whether a cell draws it or a file holds it."""
    insert(md("One. Two. Three."), after="plt.plot")(page)
    assert checks.first_screen(write(page, tmp_path)) == []


def test_the_picture_may_be_a_file(page: NotebookNode, tmp_path: Path) -> None:
    """A drawing made by hand, and the box beneath it."""
    drop("plt.plot")(page)
    figure = "\n\n```{figure} net.svg\n:alt: One trunk and two heads\n```\n\nOne. Two. Three."
    edit("Try.", f"Try.{figure}")(page)
    assert checks.first_screen(write(page, tmp_path)) == []


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        ('<rect width="640" height="220" fill="#fff"/>', 1),
        ('<g><rect width="100%" height="100%" fill="White"/></g>', 1),
        ('<rect width="96" height="80" fill="#fff"/>', 0),
        ('<rect width="640" height="220" fill="none"/>', 0),
    ],
)
def test_a_drawing_on_a_white_rectangle_is_found(
    shape: str, count: int, page: NotebookNode, tmp_path: Path
) -> None:
    """It would be a white box on a dark page."""
    top(md("```{figure} net.svg\n:alt: One trunk and two heads\n```"))(page)
    path = write(page, tmp_path)
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 220">{shape}</svg>'
    path.with_name("net.svg").write_text(svg, "utf-8")
    found = checks.dark_figures(path)
    assert sum("cell 2: net.svg lies on a white rectangle" in f for f in found) == count


def test_a_page_of_proofs_has_more_words_and_fewer_lines(
    page: NotebookNode, tmp_path: Path
) -> None:
    """There the derivation is the main line."""
    edit(IDEA, "word " * 2400)(page)
    path = write(page, tmp_path)
    proofs = path.rename(path.with_name("gradients.ipynb"))
    assert checks.limits(proofs) == []
    insert(*[code("y = 1\n" * 20) for _ in range(4)], after="## The idea")(page)
    nbformat.write(page, proofs)
    assert any("shows 88 lines of code for keras, 70 at most" in f for f in checks.limits(proofs))


def test_the_plain_loop_comes_first_in_the_first_chapter_only(
    page: NotebookNode, tmp_path: Path
) -> None:
    """Later chapters may start from the library."""
    edit(".backward()", ".sum()")(page)
    path = write_first(page, tmp_path)
    toc = tmp_path / "_toc.yml"
    toc.write_text(toc.read_text("utf-8").replace("- file", "- file: first\n- file"), "utf-8")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "first.ipynb")
    assert checks.plain_loop_first(path) == []


def test_what_is_folded_or_solved_is_not_visible(page: NotebookNode, tmp_path: Path) -> None:
    """A solution may draw, and a folded cell may be long."""
    insert(code("plt.plot(x)\nfit(**plan)"), after="assert 2 * 1 == 2")(page)
    insert(code("y = 1\n" * 21, "hide_input"), after=IDEA)(page)
    path = write(page, tmp_path)
    assert checks.folded_plotting(path) == checks.plain_code(path) == checks.limits(path) == []
