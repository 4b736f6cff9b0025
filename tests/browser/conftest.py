"""One browser for all tests, and two books to open in it: the real one and a small sample."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

from .browsing import REAL_HTML, Browser, serve

ROOT = Path(__file__).parents[2]
JUPYTER_BOOK = (sys.executable, "-c", "from jupyter_book.cli.main import main; main()")


def missing(reason: str) -> None:
    """Skip on a reader's machine; fail where everything must have been checked."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"{reason}; with CI=true that is an error")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Headless Chromium, shared by all tests."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    chromedriver = shutil.which("chromedriver")
    if not chromium or not chromedriver:
        missing("Debian's chromium and chromium-driver are not installed")
    else:
        opened = Browser(chromium, chromedriver, tmp_path_factory.mktemp("profile"))
        yield opened
        opened.driver.quit()


# ---------------------------------------------------------------------------- the real book


@pytest.fixture(scope="session")
def real_book() -> Iterator[str]:
    """Address of the real book."""
    if not (REAL_HTML / "index.html").exists():
        missing("the book is not built: run make book, or set MTL_TUTORIAL_HTML")
    with serve(REAL_HTML) as address:
        yield address


# ---------------------------------------------------------------------------- the sample book


class Sample(NamedTuple):
    """The small book: its folder and its address."""

    html: Path
    address: str

    def broken(self, old: str, new: str) -> str:
        """Return the address of a copy of the first page with one text replaced.

        Each copy has its own name: the browser remembers pages it has seen.
        """
        page = (self.html / "one.html").read_text("utf-8")
        assert old in page
        name = f"broken-{len(list(self.html.glob('broken-*')))}.html"
        (self.html / name).write_text(page.replace(old, new), "utf-8")
        return f"{self.address}/{name}"


def cell(source: str, *tags: str, **mystnb: object) -> nbformat.NotebookNode:
    """Return a code cell."""
    metadata = {"tags": [*tags], "mystnb": mystnb}
    # nbformat has no types
    return nbformat.v4.new_code_cell(source, metadata=metadata)  # type: ignore[no-any-return]


TEXT = r"""# Chapter {title}

The trunk $\theta$ is shared, and $L = \sum_k w_k L_k$ is the loss in {{eq}}`{title}`.

$$
z = f_\theta(x)
$$ ({title})

| task | loss |
| :-- | --: |
| digit | $L_1$ |

```{{admonition}} In short
:class: tip in-short
See {{doc}}`two` and `trunk`.
```

```{{admonition}} Take away
:class: important take-away
See {{doc}}`two` and `trunk`.
```

```{{admonition}} Try it
:class: hint try-it
See {{doc}}`two` and `trunk`.
```

```{{admonition}} A mistake that costs hours
:class: warning
See {{doc}}`two` and `trunk`.
```
"""


def chapter(title: str) -> nbformat.NotebookNode:
    """Return a notebook with what a real chapter has, but for the frameworks."""
    cells = [
        nbformat.v4.new_markdown_cell(TEXT.format(title=title)),
        cell("print('torch.nn.Linear')", "pytorch"),
        cell("print('keras.layers.Dense')", "keras"),
        nbformat.v4.new_markdown_cell("```{dropdown} Why share?\nBecause.\n```"),
        cell("a = 1  # " + "a long comment " * 12, "pytorch"),
        cell("b = 1\nb", "keras"),
        cell(
            "import matplotlib.pyplot as plt\n\nplt.plot([3, 1, 2], marker='o');",
            "hide-input",
            image={"alt": "A line that falls and rises"},
            figure={"name": f"fig-{title}", "caption": "Falls, then rises."},
        ),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    # nbformat has no types
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})  # type: ignore[no-any-return]


TOUCH = """# Figures to touch

```{touch} gradients
:alt: Two gradients and the step of each method
Drag a tip.
```

```{touch} weights
:alt: Two losses and their weighted sum
Move the weight.
```
"""


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    """Two pages, and one with figures to touch, built with the real configuration, extensions and styles."""
    root = tmp_path_factory.mktemp("sample")
    book = root / "book"
    for folder in ("_ext", "_static"):
        shutil.copytree(ROOT / "book" / folder, book / folder)
    shutil.copy(ROOT / "_config.yml", root)
    (root / "constraints.txt").touch()
    (book / "references.bib").touch()
    (book / "_toc.yml").write_text(
        "format: jb-book\nroot: one\nchapters:\n- file: two\n- file: touch\n", "utf-8"
    )
    for title in ("one", "two"):
        nbformat.write(chapter(title), book / f"{title}.ipynb")
    (book / "touch.md").write_text(TOUCH, "utf-8")
    command = [*JUPYTER_BOOK, "build", str(book), "-q", "-n", "-W", "--keep-going"]
    settings = os.environ | {"MATPLOTLIBRC": str(book / "_ext" / "matplotlibrc")}
    built = subprocess.run(command, capture_output=True, text=True, check=False, env=settings)
    assert built.returncode == 0, built.stdout + built.stderr
    with serve(root / "_build" / "html") as address:
        yield Sample(root / "_build" / "html", address)
