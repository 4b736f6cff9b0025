"""``book/build.py`` turns red when it should: each gate runs it on a broken copy of a small book."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
import yaml

from .small_book import ROOT, SmallBook

CHAPTER = "book/chapter.ipynb"


def edit_notebook(book: SmallBook, change: Callable[[Any], object]) -> None:
    """Apply a change to the chapter."""
    path = book.root / CHAPTER
    notebook = json.loads(path.read_text("utf-8"))
    change(notebook)
    path.write_text(json.dumps(notebook), "utf-8")


# --- green -----------------------------------------------------------------------------------------


def test_an_unchanged_book_is_built_from_the_cache(book: SmallBook) -> None:
    result = book.build()
    assert result.returncode == 0, result.stdout
    assert "cached   chapter" in result.stdout
    assert "executed" not in result.stdout
    assert "unchanged" not in result.stdout.splitlines()  # the copy has no pages yet
    assert result.stdout.splitlines()[-1] == str(book.html / "index.html")

    again = book.build()
    assert again.returncode == 0, again.stdout
    assert "unchanged" in again.stdout.splitlines()
    assert "Running Jupyter-Book" not in again.stdout
    assert again.stdout.splitlines()[-1] == str(book.html / "index.html")

    book.edit("book/index.md", "The result is", "The answer is")
    assert book.build().returncode == 0
    assert "The answer is" in book.page("index").get_text()


def test_the_landing_page_shows_measured_numbers(built_book: SmallBook) -> None:
    page = built_book.page("index")
    assert "The result is 0.75." in page.get_text()
    table = page.find("table")
    assert table is not None
    header, chapter, total = (
        [cell.get_text(strip=True) for cell in row.find_all(["th", "td"])]
        for row in table.find_all("tr")
    )
    assert header == ["chapter", "CPU seconds", "peak memory (MB)"]
    assert chapter[0] == "A chapter"
    assert 0 <= int(chapter[1]) < 60
    assert int(chapter[2]) > 0
    assert total == ["whole book", *chapter[1:]]


# --- notebooks that fail ----------------------------------------------------------------------------


FAILING = {
    "raises": ("raise RuntimeError('on purpose')", [], "RuntimeError: on purpose"),
    "skipped": ("raise RuntimeError('hidden')", ["skip-execution"], "RuntimeError: hidden"),
    "dies": ("import os; os._exit(1)", [], "DeadKernelError"),
    "hangs": ("import time; time.sleep(60)", [], "CellTimeoutError"),
}


def test_every_failing_notebook_is_named_with_its_cell(book: SmallBook) -> None:
    chapter = json.loads((book.root / CHAPTER).read_text("utf-8"))
    chapter["metadata"]["execution"] = {"timeout": 2, "allow_errors": True}
    for name, (source, tags, _) in FAILING.items():
        chapter["cells"][1] |= {"source": source, "metadata": {"tags": tags}}
        chapter["cells"] = chapter["cells"][:3]
        (book.root / "book" / f"{name}.ipynb").write_text(json.dumps(chapter), "utf-8")
        book.edit("book/_toc.yml", "chapters:\n", f"chapters:\n  - file: {name}\n")
    result = book.build()
    assert result.returncode != 0
    for name, (_, _, message) in FAILING.items():
        _, _, failure = result.stdout.partition(f"failed: {name}, cell 2 of 3: ")
        assert message in failure.partition("failed: ")[0]
    assert "index.html" not in result.stdout


def test_a_function_renamed_under_a_chapter_is_red(book: SmallBook) -> None:
    book.edit("mtl_tutorial/__init__.py", "def answer(", "def solution(")
    result = book.build()
    assert result.returncode != 0
    assert "cached" not in result.stdout
    assert "AttributeError: module 'mtl_tutorial' has no attribute 'answer'" in result.stdout


def test_the_cache_depends_on_library_versions_and_data(
    book: SmallBook, build_script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setenv("MTL_TUTORIAL_DATA", str(data))
    seen = [build_script.cache_folder(book.root)]
    assert build_script.cache_folder(book.root) == seen[0]
    for changed in (
        book.root / "mtl_tutorial" / "new_module.py",
        book.root / "constraints.txt",
        data / "train-images-idx3-ubyte.gz",
    ):
        with changed.open("a", encoding="utf-8") as file:
            file.write("# changed\n")
        seen.append(build_script.cache_folder(book.root))
    assert len(set(seen)) == 4


# --- settings that hide failures --------------------------------------------------------------------


def test_the_real_configuration_hides_nothing(build_script: ModuleType) -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    assert build_script.config_problems(config) == []
    assert not any("thebe" in name for name in config["sphinx"]["config"]["extensions"])


def test_exclude_patterns_are_refused_before_anything_runs(book: SmallBook) -> None:
    book.edit("_config.yml", "\nexecute:\n", "\nexecute:\n  exclude_patterns: [chapter.ipynb]\n")
    result = book.build()
    assert result.returncode != 0
    assert "refused: execute.exclude_patterns is set" in result.stdout
    assert "chapter" not in result.stdout.replace("chapters", "")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("execute", "allow_errors", True),
        ("execute", "execute_notebooks", "auto"),
        ("execute", "execute_notebooks", False),
        ("sphinx.config", "nb_execution_mode", "off"),
        ("sphinx.config", "nb_execution_excludepatterns", ["*"]),
        ("sphinx.config", "suppress_warnings", ["mystnb.exec"]),
        ("sphinx.config", "nitpick_ignore_regex", [["py:.*", ".*"]]),
    ],
)
def test_each_setting_that_hides_failures_is_found(
    build_script: ModuleType, section: str, key: str, value: object
) -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    part = config
    for name in section.split("."):
        part = part[name]
    part[key] = value
    (problem,) = build_script.config_problems(config)
    assert key in problem


# --- pages that are wrong ---------------------------------------------------------------------------

BROKEN = {
    "{doc}`nowhere`": "unknown document: 'nowhere'",
    "{ref}`no-label`": "undefined label: 'no-label'",
    "{numref}`fig-missing`": "undefined label: 'fig-missing'",
    "{eq}`no-equation`": "equation not found: no-equation",
    "{cite:p}`nobody2000`": 'could not find bibtex key "nobody2000"',
    "{py:func}`mtl_tutorial.no_such`": "py:func reference target not found: mtl_tutorial.no_such",
    "{glue:text}`chapter.ipynb::no_key:.2f`": "Glue reference 'no_key' not found",
    "{glue:text}`chapter.ipynb::result:.2q`": "Unknown format code 'q'",
}


def test_broken_references_and_glue_are_red_and_stay_red(book: SmallBook) -> None:
    index = book.root / "book" / "index.md"
    with index.open("a", encoding="utf-8") as file:
        file.writelines(f"\n{reference}\n" for reference in BROKEN)
    book.edit("book/_toc.yml", "chapters:\n", "chapters:\n  - file: missing-page\n")
    first = book.build()
    assert first.returncode != 0
    warnings = [line for line in first.stdout.splitlines() if "WARNING" in line]
    for message in (*BROKEN.values(), "nonexisting document 'missing-page'"):
        assert any(message in line for line in warnings), f"{message} not in {warnings}"
    second = book.build()
    assert second.returncode != 0
    assert "index.html" not in second.stdout.splitlines()[-1]


def test_one_name_for_two_numbers_is_red(book: SmallBook) -> None:
    book.edit(CHAPTER, "print('untagged')", "mtl_tutorial.glue('result', 0.5)")
    result = book.build()
    assert result.returncode != 0
    assert "glue key 'result' duplicate" in result.stdout


# --- what only the finished pages show --------------------------------------------------------------


def test_a_built_book_is_red_for_silent_images_and_uncounted_or_excessive_cost(
    book: SmallBook,
) -> None:
    with (book.root / "book" / "index.md").open("a", encoding="utf-8") as file:
        file.write("\n![](_static/favicon.svg)\n")
    book.edit(CHAPTER, '"alt": "One black pixel"', '"width": "10px"')
    edit_notebook(book, lambda n: n["metadata"]["mtl_tutorial"].update(budget_seconds=0.01))
    book.edit("book/_toc.yml", "  - file: chapter\n", "  - file: chapter\n  - file: stray\n")
    header = "---\nfile_format: mystnb\nkernelspec: {name: python3, language: python}\n---\n"
    stray = book.root / "book" / "stray.md"
    stray.write_text(f"{header}# Stray\n\n```{{code-cell}}\nprint(1)\n```\n", "utf-8")

    result = book.build()
    assert result.returncode != 0
    for message in (
        "failed: index.html: the image _images/favicon.svg has no alt text (alt='')",
        "failed: chapter.html: the image _images/",
        "failed: stray.md was executed by Sphinx, not here",
        "failed: chapter: took ",
        "its budget is 0.01",
    ):
        assert message in result.stdout


@pytest.mark.parametrize(
    "alt", ["", "alt", "alt=''", "alt='../_images/0f1e.png'", "alt='plot.SVG'"]
)
def test_alt_text_that_says_nothing_is_found(
    build_script: ModuleType, tmp_path: Path, alt: str
) -> None:
    (tmp_path / "page.html").write_text(f"<p><img src='a.png' {alt}></p>", "utf-8")
    (problem,) = build_script.image_problems(tmp_path)
    assert problem.startswith("page.html: the image a.png has no alt text")


def test_alt_text_that_describes_is_fine(build_script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<img src='a.png' alt='Loss falls'>", "utf-8")
    assert build_script.image_problems(tmp_path) == []


def test_a_chapter_without_a_budget_is_refused(book: SmallBook) -> None:
    edit_notebook(book, lambda notebook: notebook["metadata"].pop("mtl_tutorial"))
    result = book.build()
    assert result.returncode != 0
    assert "refused: chapter: notebook metadata mtl_tutorial.budget_seconds is" in result.stdout


@pytest.mark.parametrize(("budget", "refused"), [(None, 1), (0, 1), (91, 1), (90, 0)])
def test_a_budget_has_a_limit(build_script: ModuleType, budget: int | None, refused: int) -> None:
    assert len(build_script.declaration_problems({"chapter": budget})) == refused


def test_memory_is_limited_too(build_script: ModuleType) -> None:
    costs = {"chapter": build_script.Cost(cpu_seconds=1, wall_seconds=1, peak_mb=3000)}
    (problem,) = build_script.cost_problems(costs, {"chapter": 60})
    assert problem == "chapter: needed 3000 MB, the limit is 2048"


def test_a_slow_machine_may_ask_for_a_warning_only(book: SmallBook) -> None:
    edit_notebook(book, lambda n: n["metadata"]["mtl_tutorial"].update(budget_seconds=0.01))
    result = book.build("--no-budget", "--force")
    assert result.returncode == 0
    assert "executed chapter" in result.stdout  # that is --force: the outputs were in the cache
    assert "warning: chapter: took " in result.stdout


def test_a_traceback_does_not_show_where_it_was_built(build_script: ModuleType) -> None:
    line = f"File {build_script.ROOT}/.venv/torch/functional.py:1"
    error = nbformat.v4.new_output("error", ename="E", evalue="", traceback=[line])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0", outputs=[error])])
    build_script.hide_our_paths(notebook)
    assert notebook.cells[0].outputs[0].traceback == ["File .venv/torch/functional.py:1"]
