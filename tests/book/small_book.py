"""A two-page book in miniature, built with the real configuration, extensions and ``build.py``.

It stands beside a stand-in library and imports no framework, so it is built in seconds.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).parents[2]

LIBRARY = '''"""A stand-in for the library."""

from base64 import b64decode

from IPython.display import Image, display

PIXEL = Image(b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="))


def answer():
    return 0.75


def glue(key, value):
    mime = "application/papermill.record/"
    scrap = {"name": key, "mime_prefix": mime}
    display({mime + "text/plain": repr(value)}, raw=True, metadata={"scrapbook": scrap})
'''

INDEX = """# A small book

The result is {glue:text}`chapter.ipynb::result:.2f`. See {doc}`chapter` and {numref}`fig-pixel`.

```{chapter-times}
```
"""

TOC = """format: jb-book
root: index
chapters:
  - file: chapter
"""

FIGURE = {
    "image": {"alt": "One black pixel"},
    "figure": {"name": "fig-pixel", "caption": "A pixel, $x = 1$."},
}


def text(source: str) -> NotebookNode:
    """Return a markdown cell."""
    # nbformat has no types
    return new_markdown_cell(source)  # type: ignore[no-any-return]


def code(source: str, *tags: str, **metadata: object) -> NotebookNode:
    """Return a code cell with tags and other metadata."""
    metadata |= {"tags": list(tags)}
    # nbformat has no types
    return new_code_cell(source, metadata=metadata)  # type: ignore[no-any-return]


def chapter() -> NotebookNode:
    """Return the chapter: a section for each thing that tabs must cope with."""
    cells = [
        text("# A chapter"),
        code("import mtl_tutorial\nmtl_tutorial.glue('result', mtl_tutorial.answer())"),
        text("## Pair"),
        code("print('pair', 'p')", "pytorch"),
        code("print('pair', 'k')", "keras"),
        text("## Three"),
        code("print('three', 'p1')", "pytorch"),
        code("print('three', 'p2')", "pytorch"),
        code("print('three', 'k')", "keras"),
        text("## Alternating"),
        code("print('alternating', 'k1')", "keras"),
        code("print('alternating', 'p1')", "pytorch"),
        code("print('alternating', 'k2')", "keras"),
        code("print('alternating', 'p2')", "pytorch"),
        text("## Broken up"),
        code("print('broken up', 'p')", "pytorch"),
        text("Prose ends a run."),
        code("print('broken up', 'k')", "keras"),
        text("## Lone"),
        code("print('lone', 'k')", "keras"),
        code("print('untagged')"),
        text("## Figure"),
        code("mtl_tutorial.PIXEL", "pytorch", mystnb=FIGURE),
        code("print('no figure')", "keras"),
        text("## Error"),
        code("1 / 0", "pytorch", "raises-exception"),
        code("int('one')", "keras", "raises-exception"),
        text("## Exercise\n\n```{exercise}\n:label: ex-one\nSolve it.\n```"),
        text("```{solution-start} ex-one\n:class: dropdown\n```"),
        code("print('solved', 'p')", "pytorch"),
        code("print('solved', 'k')", "keras"),
        text("```{solution-end}\n```"),
    ]
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "mtl_tutorial": {"budget_seconds": 60},
    }
    # nbformat has no types
    return new_notebook(cells=cells, metadata=metadata)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class SmallBook:
    """A folder laid out like the repository, with what it takes to build and to break it."""

    root: Path

    @property
    def html(self) -> Path:
        """The built pages."""
        return self.root / "_build" / "html"

    def page(self, name: str) -> BeautifulSoup:
        """Return a built page."""
        return BeautifulSoup((self.html / f"{name}.html").read_text("utf-8"), "html.parser")

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace text that must be there in a file."""
        file = self.root / path
        content = file.read_text("utf-8")
        assert old in content, f"{path} lacks {old!r}"
        file.write_text(content.replace(old, new), "utf-8")

    def build(self, *options: str) -> "subprocess.CompletedProcess[str]":
        """Run the real command, as ``make book`` does."""
        return self.run("book/build.py", *options)

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run Python in the book's folder, in a process of its own."""
        environment = {k: v for k, v in os.environ.items() if k != "MTL_TUTORIAL_DATA"}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env=environment | {"PYTHONPATH": str(self.root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


def write(root: Path) -> SmallBook:
    """Write the small book into an empty folder."""
    shutil.copy(ROOT / "_config.yml", root)
    for part in ("_ext", "_static"):
        shutil.copytree(ROOT / "book" / part, root / "book" / part)
    for file in ("build.py", "conftest.py", "references.bib"):
        shutil.copy(ROOT / "book" / file, root / "book")
    (root / "constraints.txt").write_text("nothing==1\n", "utf-8")
    (root / "mtl_tutorial").mkdir()
    (root / "mtl_tutorial" / "__init__.py").write_text(LIBRARY, "utf-8")
    (root / "book" / "_toc.yml").write_text(TOC, "utf-8")
    (root / "book" / "index.md").write_text(INDEX, "utf-8")
    nbformat.write(chapter(), root / "book" / "chapter.ipynb")
    return SmallBook(root)
