"""The reference part: words, verdicts, links to other sites, and the library's names, both ways."""

import ast
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook

from . import notebook_checks as checks
from . import small_book
from .small_book import ROOT, SmallBook, code

from api_links import names, offered, used  # isort: skip (modules of book/_ext, on the path since the checks)
from glossary_links import Finder, read_entries  # isort: skip
from page_links import PLANNED  # isort: skip
from reading_times import directive, open_parts, prose  # isort: skip
from verdicts import parts, verdict  # isort: skip

BOOK = ROOT / "book"
EXPERIMENTS = ROOT / "experiments"
REFERENCE = sorted((BOOK / "reference").glob("*.md"))
NOTEBOOKS = checks.notebooks(BOOK)


# ---------------------------------------------------------------------------- the glossary

ENTRIES = read_entries(BOOK)
CHINESE = re.compile(r"[一-鿿]")
UNLINKED = {
    "AdaGrad", "adaptive weights", "Chebyshev scalarisation", "clustering", "continual learning",
    "dynamic graph", "multi-label classification", "few-shot learning", "generalisation", "model sharing",
    "multi-task optimisation", "named entity", "object detection", "orthogonality penalty",
    "parameterised module", "query set", "recall", "sample efficiency", "support set",
    "temperature sampling", "self-supervised learning", "federated learning", "instruction tuning",
}  # fmt: skip
"""Words that no page uses in the open, most of them the articles' own."""


def read_in_the_open() -> Iterator[list[str]]:
    """Yield for each page with links its texts: the chapters, questions, and decision guide."""
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        yield [prose(token) for _, tokens in open_parts(notebook) for token in tokens]
    for name in ("faq", "decision-guide"):
        yield [checks.prose((BOOK / "reference" / f"{name}.md").read_text("utf-8"))]


def never_linked() -> set[str]:
    """Return the glossary's words that no page uses."""
    seen = {
        entry.names[0]
        for texts in read_in_the_open()
        for finder in [Finder(ENTRIES)]
        for text in texts
        for _, entry in finder.uses(text)
    }
    return {entry.names[0] for entry in ENTRIES} - seen


def test_every_word_of_the_glossary_is_linked_from_a_page() -> None:
    to_come = {e.names[0] for e in ENTRIES if e.pages and not any(map(is_there, e.pages))}
    assert never_linked() - to_come - UNLINKED == set()


def is_there(page: str) -> bool:
    """Whether a place of the glossary is in a chapter that is written."""
    return page.partition("#")[0] not in PLANNED


def test_every_entry_has_an_english_and_a_chinese_name() -> None:
    assert [e.names for e in ENTRIES if CHINESE.search(e.names[0])] == []
    assert [e.names for e in ENTRIES if not any(map(CHINESE.search, e.names))] == []


def test_no_name_stands_twice() -> None:
    every = [name.lower() for entry in ENTRIES for name in entry.names]
    assert {name for name in every if every.count(name) > 1} == set()


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["A trunk and two heads.", "The trunk again."], ["trunk", "heads"]),
        (["Hard parameter\nsharing"], ["Hard parameter\nsharing"]),
        (["task-specific layers"], ["task-specific layers"]),
        (["uw and UW"], ["UW"]),  # an abbreviation keeps its capitals
        (["ahead, overhead, heading"], []),
        (["Labels are standardised."], ["standardised"]),
        (["Δm and 1/L"], ["Δm", "1/L"]),
    ],
)
def test_first_uses(texts: list[str], found: list[str]) -> None:
    finder = Finder(ENTRIES)
    assert [match[0] for each in texts for match, _ in finder.uses(each)] == found


# ---------------------------------------------------------------------------- search

METHODS = {
    **{m: m for m in ("UW", "DWA", "RLW", "GradNorm", "FAMO", "MGDA", "PCGrad", "UPGrad", "CAGrad")},
    **{m: m for m in ("IMTLG", "NashMTL", "AlignedMTL", "InverseLoss", "MTAN", "MMoE", "PLE")},
    "Equal": "equal weights", "Static": "static weights", "HardSharing": "hard sharing",
    "SoftSharing": "soft sharing", "CrossStitch": "cross-stitch",
    "SharedPrivate": "shared-private features", "maml_step": "MAML", "reptile_step": "Reptile",
    "round_robin": "alternating", "temperature_sampling": "temperature sampling",
    "joint": "mixed batches",
}  # fmt: skip
"""Name in the library -> a name in the glossary, whose entries are what the search finds."""
OTHERS = {"Weighting", "Recorded", "conflict_shares", "cosines"}  # no methods


def exported(module: str) -> set[str]:
    """Return the public names of a package, without importing a framework."""
    tree = ast.parse((ROOT / "mtl_tutorial" / module / "__init__.py").read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    raise AssertionError(module)


def test_every_method_is_found_by_its_names_in_both_languages() -> None:
    entries = {name: entry for entry in ENTRIES for name in entry.names}
    assert exported("weighting") - OTHERS <= set(METHODS)
    for name in METHODS.values():
        assert name in entries
        assert any(map(CHINESE.search, entries[name].names)), name


# ---------------------------------------------------------------------------- verdicts

VERDICTS = {
    (path.name, content): None  # in their order, each once
    for path in REFERENCE
    for name, content in checks.roles(path.read_text("utf-8"))
    if name == "verdict"
}


@pytest.mark.parametrize(("page", "content"), VERDICTS, ids=str)
def test_a_verdict_is_what_the_text_relies_on(page: str, content: str) -> None:
    name, _, word = parts(content)
    if verdict(EXPERIMENTS, content) == "*to come*":
        assert name in PLANNED, f"{page}: there is no experiment {name}"
    else:
        assert word, f"{page}: say in brackets which word the text relies on: {content}"


def items(page: str, mark: str) -> list[str]:
    """Return the parts of a page of the reference that begin with a mark, headings left out."""
    text = (BOOK / "reference" / f"{page}.md").read_text("utf-8")
    return [item.split("\n#")[0] for item in re.split(rf"(?m)^{mark} ", text)[1:]]


def test_every_branch_of_the_decision_guide_leads_to_what_shows_it() -> None:
    branches = items("decision-guide", "-")
    assert len(branches) >= 30
    assert [b for b in branches if not re.search(r"\{page\}`[^`]+#|to come", shown(b))] == []


def test_every_answer_leads_to_what_shows_it() -> None:
    answers = items("faq", "###")
    assert len(answers) >= 40
    role = r"\{page\}`[^`]+#|\{(?:class|func)\}`mtl_tutorial"
    assert [a for a in answers if not re.search(f"{role}|to come", shown(a))] == []


def shown(markdown: str) -> str:
    """Return text in which links to pages that are planned say so."""
    planned = "|".join(PLANNED)
    return re.sub(rf"\{{page\}}`(?:{planned})`", "to come", markdown)


@pytest.fixture
def experiments(tmp_path: Path) -> Path:
    """Return a folder with one result, and a script without one."""
    claim: dict[str, object] = {
        "condition": "a, b",
        "against": "c",
        "metric": "test_f1",
        "verdict": "gains",
    }
    claim |= {"mean": 1.0, "half_width": 0.5}
    (tmp_path / "results" / "part").mkdir(parents=True)
    other = claim | {"metric": "test_auc", "verdict": "loses", "mean": -1.0}
    found = {"primary": [claim, other]}
    (tmp_path / "results" / "part" / "chapter.json").write_text(json.dumps(found), "utf-8")
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "late.py").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("part/chapter: a, b against c", "**gains** (F1: +1.0 ± 0.5)"),
        ("part/chapter: a, b against c (gains)", "**gains** (F1: +1.0 ± 0.5)"),
        ("part/chapter: a, b against c of test_auc (loses)", "**loses** (AUC: −1.0 ± 0.5)"),
        ("part/none: a against b", "*to come*"),
    ],
)
def test_a_verdict_is_read(content: str, shown: str, experiments: Path) -> None:
    assert verdict(experiments, content) == shown


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("part/chapter: a, b against c (loses)", "relies on 'loses', the result is 'gains'"),
        ("part/chapter: a against c", "no primary comparison is 'a against c'"),
        ("part/late: a against b", "has no result yet"),
        ("part/chapter", "is not 'part/chapter: one against other"),
    ],
)
def test_a_wrong_verdict_is_refused(content: str, problem: str, experiments: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        verdict(experiments, content)


# ---------------------------------------------------------------------------- links to other sites

ADDRESS = re.compile(r"https?://[^\s)>\]\"'`]+")


@pytest.mark.parametrize(
    "path",
    [*NOTEBOOKS, *sorted(BOOK.rglob("*.md"))],
    ids=lambda path: path.relative_to(BOOK).as_posix(),
)
def test_links_to_other_sites_stand_on_one_page(path: Path) -> None:
    listed = (BOOK / "reference" / "resources.md").read_text("utf-8")
    prose_of = "\n".join(cell.source for cell in checks.Page(path).markdown)
    assert {address for address in ADDRESS.findall(prose_of) if address not in listed} == set()


# ---------------------------------------------------------------------------- names of the library

API = (BOOK / "reference" / "api.md").read_text("utf-8")


def documented() -> set[str]:
    """Return what the API page documents: the members it lists, or all public ones of a module."""
    found: set[str] = set()
    for module, members in re.findall(r"automodule:: (\S+)\n   :members:(.*)", API):
        path = ROOT.joinpath(*module.split("."))
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        tree = ast.parse(source.read_text("utf-8"))
        public = [
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        ]
        if path.is_dir():
            public = sorted(exported(path.name))
        listed = [name.strip() for name in members.split(",") if name.strip()]
        found |= {f"{module}.{name}" for name in listed or public}
    return found


def is_module(name: str) -> bool:
    """Whether a name is a module of the library."""
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def test_chapters_use_nothing_that_the_api_page_lacks() -> None:
    known = documented()
    for chapter, own in used(BOOK).items():
        lacking = {
            name
            for name in own
            if name not in known
            and not is_module(name)
            and not name.rpartition(".")[2].isupper()  # constants
            and not name.endswith("__")
            and name.rpartition(".")[0] not in known  # an attribute of a class
        }
        assert lacking == set(), chapter


def test_names_are_followed_through_imports() -> None:
    notebook = new_notebook(
        cells=[
            code("from mtl_tutorial import keras as mk, weighting\nimport mtl_tutorial"),
            code("from mtl_tutorial.metrics import iou as overlap", "hide-input"),
            code("mk.fit(overlap)\nweighting.UW().step\nmtl_tutorial.text.encode\nother.fit()"),
            code("from mtl_tutorial.glue import glue\nglue(a=1)", "remove-cell"),
            code("this is no Python", "raises-exception"),
            new_markdown_cell("{func}`~mtl_tutorial.metrics.delta_m`, {mod}`mtl_tutorial.tasks`"),
        ]
    )
    assert names(notebook) == {
        *("mtl_tutorial", "mtl_tutorial.keras", "mtl_tutorial.weighting", "mtl_tutorial.keras.fit"),
        *("mtl_tutorial.text", "mtl_tutorial.metrics.delta_m"),
        *("mtl_tutorial.metrics.iou", "mtl_tutorial.weighting.UW", "mtl_tutorial.text.encode"),
    }


def test_a_name_is_that_of_the_package_that_offers_it() -> None:
    short = offered(ROOT / "mtl_tutorial")
    task_blocks = "mtl_tutorial.pytorch.sharing.task_blocks"
    assert short[task_blocks] == "mtl_tutorial.pytorch.task_blocks"
    assert not any(task_blocks in own for own in used(BOOK).values())


# ---------------------------------------------------------------------------- built together

PAGE = """# Words

```{glossary}
result
结果
  What comes out. See {page}`chapter#pair` and {page}`part/later`.
```

```{eval-rst}
.. autofunction:: mtl_tutorial.answer
```
"""


@pytest.fixture(scope="module")
def reference(built_book: SmallBook, tmp_path_factory: pytest.TempPathFactory) -> SmallBook:
    """Return the small book with a glossary and an API page; its notebook is already executed."""
    root = tmp_path_factory.mktemp("reference") / "book"
    shutil.copytree(built_book.root, root, ignore=shutil.ignore_patterns("html", ".doctrees"))
    book = SmallBook(root)
    planned = 'PLANNED = {\n    "part/later": "A late chapter",'
    book.edit("book/_ext/page_links.py", "PLANNED = {", planned)
    (root / "book" / "reference").mkdir()
    (root / "book" / "reference" / "glossary.md").write_text(PAGE, "utf-8")
    (root / "book" / "reference" / "faq.md").write_text("# Why?\n\nA result. Results!\n", "utf-8")
    toc = root / "book" / "_toc.yml"
    more = "  - file: reference/glossary\n  - file: reference/faq\n"
    toc.write_text(toc.read_text("utf-8") + more, "utf-8")
    built = book.build()
    assert built.returncode == 0, built.stdout
    return book


def search_index(book: SmallBook) -> dict[str, Any]:
    """Return what the search page of a built book reads."""
    index = (book.html / "searchindex.js").read_text("utf-8")
    return dict(json.loads(index.removeprefix("Search.setIndex(").removesuffix(")")))


def addresses(page: BeautifulSoup, where: str) -> list[str]:
    """Return the links in a part of a page."""
    return [str(link["href"]) for link in page.select(f"article {where} a[href]")]


def test_first_use_leads_to_the_glossary(reference: SmallBook) -> None:
    links = reference.page("reference/faq").select("a.glossary-link")
    assert [(link.text, link["href"], link["title"]) for link in links] == [
        ("result", "glossary.html#term-result", "result · 结果")
    ]


def test_a_page_link_has_name_and_section_and_waits_for_what_is_planned(
    reference: SmallBook,
) -> None:
    entry = reference.page("reference/glossary").select_one("dl.glossary dd")
    assert entry is not None
    assert "A chapter: Pair and A late chapter (to come)" in entry.text
    assert entry.select("a")[-1]["href"] == "../chapter.html#pair"


def test_chinese_words_are_marked_as_chinese(reference: SmallBook) -> None:
    words = reference.page("reference/glossary").select("dl.glossary dt[lang=zh]")
    assert ["结果" in word.text for word in words] == [True]


def test_chapter_and_function_lead_to_each_other(reference: SmallBook) -> None:
    chapter = reference.page("chapter")
    assert addresses(chapter, ".library-names") == ["reference/glossary.html#mtl_tutorial.answer"]
    assert "../chapter.html" in addresses(reference.page("reference/glossary"), "dl.py")


def test_the_search_index_has_the_names_in_both_languages(reference: SmallBook) -> None:
    found = search_index(reference)
    chapter = found["docnames"].index("chapter")
    for name in ("result", "结果"):  # leads to the glossary, and to the section that explains it
        assert [chapter, "pair", True] in found["indexentries"][name]
        assert len(found["indexentries"][name]) == 2


# ---------------------------------------------------------------------------- the real one


def outline(path: Path) -> NotebookNode:
    """Return a chapter without its contents: what can be linked to, and no more."""
    page = checks.Page(path)
    lines = [(h.place, f"{'#' * h.level} {h.text}\n") for h in page.headings]
    for place, (_, token) in enumerate(page.tokens):
        found = directive(token)
        if found and found.name.startswith("exercise") and (label := found.options.get("label")):
            lines.append((place, f"```{{exercise}}\n:label: {label}\nSolve it.\n```\n"))
    # nbformat has no types
    return new_notebook(cells=[new_markdown_cell("\n".join(line for _, line in sorted(lines)))])  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def outlined(tmp_path_factory: pytest.TempPathFactory) -> SmallBook:
    """Return the reference part as it is, built with outlines of all chapters; its API page is empty."""
    book = small_book.write(tmp_path_factory.mktemp("outlined"))
    shutil.copytree(ROOT / "mtl_tutorial", book.root / "mtl_tutorial", dirs_exist_ok=True)
    shutil.copytree(BOOK / "reference", book.root / "book" / "reference")
    shutil.copytree(EXPERIMENTS, book.root / "experiments", ignore=shutil.ignore_patterns("runs"))
    (book.root / "book" / "index.md").write_text("# The book\n", "utf-8")
    (book.root / "book" / "reference" / "api.md").write_text(
        "# API\n\n## Several processes\n", "utf-8"
    )
    shutil.copy(BOOK / "_toc.yml", book.root / "book")
    for path in NOTEBOOKS:
        place = book.root / "book" / path.relative_to(BOOK)
        place.parent.mkdir(exist_ok=True)
        nbformat.write(outline(path), place)
    book.edit("_config.yml", "execute_notebooks: cache", 'execute_notebooks: "off"')
    command = "import sys; sys.path.insert(0, '.'); from jupyter_book.cli.main import main; main()"
    built = book.run("-c", command, "build", "book", "-q", "--path-output", ".")
    assert built.returncode == 0, built.stdout
    assert "WARNING" not in built.stdout
    return book


@pytest.mark.parametrize("method", METHODS)
def test_search_leads_to_the_chapter_by_every_name(method: str, outlined: SmallBook) -> None:
    found, docnames = search_index(outlined)["indexentries"], search_index(outlined)["docnames"]
    entry = next(entry for entry in ENTRIES if METHODS[method] in entry.names)
    for name in entry.names:
        places = {docnames[place] for place, _, is_main in found[name.lower()] if is_main}
        assert places == {"reference/glossary", *(p.partition("#")[0] for p in entry.pages)} - {
            *PLANNED
        }


def broken_links(html: Path, pages: Iterable[Path]) -> list[str]:
    """Return the links of built pages that lead to no file, or to no place in it."""

    @cache
    def ids(path: Path) -> set[str]:
        soup = BeautifulSoup(path.read_text("utf-8"), "html.parser")
        return {str(tag["id"]) for tag in soup.select("[id]")}

    found = []
    for page in pages:
        soup = BeautifulSoup(page.read_text("utf-8"), "html.parser")
        for link in soup.select("article a[href], article image[href]"):
            address = urlsplit(unquote(str(link["href"])))
            if address.scheme or address.netloc:
                continue
            target = (page.parent / address.path).resolve() if address.path else page
            lost = not target.is_file()
            lost = lost or (target.suffix == ".html" and address.fragment not in {"", *ids(target)})
            if lost:
                found.append(f"{page.relative_to(html)}: {link['href']}")
    return found


def test_links_of_the_reference_part_lead_somewhere(outlined: SmallBook) -> None:
    pages = [p for p in (outlined.html / "reference").glob("*.html") if p.stem != "api"]
    assert len(pages) >= 7
    assert broken_links(outlined.html, pages) == []


def test_links_of_the_built_book_lead_somewhere() -> None:
    html = ROOT / "_build" / "html"
    if not (html / "index.html").exists():
        pytest.skip("the book is not built")
    pages = [p for p in html.rglob("*.html") if not p.relative_to(html).parts[0].startswith("_")]
    assert broken_links(html, pages) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    links = "".join(f'<a href="{to}">x</a>' for to in ("b.html", "b.html#x", "#y", "c.html", "#a"))
    (tmp_path / "a.html").write_text(f'<article id="a">{links}</article>', "utf-8")
    (tmp_path / "b.html").write_text('<p id="x">', "utf-8")
    found = broken_links(tmp_path, [tmp_path / "a.html"])
    assert found == ["a.html: #y", "a.html: c.html"]
