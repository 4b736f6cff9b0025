"""``book/build.py`` turns red when it should: each gate runs it on a broken copy of a small book."""

import json
import os
import re
import shutil
import subprocess
import sys
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
    assert "0 of 1 chapters to execute" in result.stdout
    assert "building the pages" in result.stdout  # the copy has none yet
    assert result.stdout.splitlines()[-1] == str(book.html / "index.html")

    again = book.build()
    assert again.returncode == 0, again.stdout
    assert "nothing has changed since the pages were built" in again.stdout
    assert "building the pages" not in again.stdout
    assert again.stdout.splitlines()[-1] == str(book.html / "index.html")

    book.edit("book/index.md", "The result is", "The answer is")
    assert book.build().returncode == 0
    assert "The answer is" in book.page("index").get_text()


def test_a_reader_sees_progress_a_table_and_where_the_book_is(book: SmallBook) -> None:
    """And nothing that kernels, TensorFlow's C++ for one, or Sphinx say meanwhile."""
    noise = r"import os; os.write(2, b'WARNING: All log messages before absl::InitializeLog()\\n')"
    book.edit(CHAPTER, "print('untagged')", noise)
    result = book.build()
    assert result.returncode == 0, result.stdout
    *progress, _, header, chapter, total, note, _, where = result.stdout.splitlines()
    assert [re.sub(r"^ +\d+:\d\d  ", "", line) for line in progress] == [
        "1 of 1 chapters to execute",
        "running   chapter",
        "executed  chapter, 0 left",
        "building the pages",
    ]
    assert header.split() == [
        "chapter",
        "CPU",
        "s",
        "budget",
        "wall",
        "s",
        "peak",
        "MB",
        "over",
        "in",
    ]
    assert len(chapter.split()) == 5  # nothing in the last column
    assert total.startswith("whole book ")
    assert note.startswith("budget: CPU seconds, as declared, times ")
    assert where == str(book.html / "index.html")


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
    assert "1 of 1 chapters to execute" in result.stdout
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


# --- files that are no notebook of ours -------------------------------------------------------------


UNUSABLE = {
    "cut-off": ('{"cells": [', "cut-off.ipynb cannot be read as a notebook (NotJSONError: "),
    "empty": ("", "empty.ipynb cannot be read as a notebook (NotJSONError: "),
    "list": ("[]", "list.ipynb cannot be read as a notebook ("),
    "other": ('{"answer": 42}', "other.ipynb cannot be read as a notebook ("),
    "kernel": (None, "asks for the kernel 'my-env', which is not installed here (there are ["),
}


def test_a_chapter_that_cannot_be_run_is_named_before_anything_runs(book: SmallBook) -> None:
    chapter = json.loads((book.root / CHAPTER).read_text("utf-8"))
    chapter["metadata"]["kernelspec"]["name"] = "my-env"
    for name, (content, _) in UNUSABLE.items():
        path = book.root / "book" / f"{name}.ipynb"
        path.write_text(json.dumps(chapter) if content is None else content, "utf-8")
        book.edit("book/_toc.yml", "chapters:\n", f"chapters:\n  - file: {name}\n")
    result = book.build()
    assert result.returncode != 0
    for name, (_, message) in UNUSABLE.items():
        assert f"refused: {name}: {message}" in result.stdout
    assert result.stdout.count("refused: ") == len(UNUSABLE)
    assert "Traceback" not in result.stdout
    assert "running" not in result.stdout


def test_the_last_words_of_a_kernel_that_does_not_start_are_shown(
    book: SmallBook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = [sys.executable, "-c", "raise SystemExit('no such module')"]
    spec = {"argv": argv, "display_name": "Broken", "language": "python"}
    folder = tmp_path / "kernels" / "broken"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec), "utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    edit_notebook(book, lambda n: n["metadata"]["kernelspec"].update(name="broken"))
    edit_notebook(book, lambda n: n["cells"].pop())
    result = book.build()
    assert result.returncode != 0
    assert "failed: chapter, before its first cell: RuntimeError" in result.stdout
    assert result.stdout.endswith("no such module\n")
    assert "Traceback" not in result.stdout


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


def test_a_built_book_is_red_for_silent_images_our_folders_and_uncounted_cost(
    book: SmallBook,
) -> None:
    with (book.root / "book" / "index.md").open("a", encoding="utf-8") as file:
        file.write("\n![](_static/favicon.svg)\n")
    book.edit(CHAPTER, '"alt": "One black pixel"', '"width": "10px"')
    book.edit(CHAPTER, "print('untagged')", "import json; print(json.__file__)")
    book.edit("book/_toc.yml", "  - file: chapter\n", "  - file: chapter\n  - file: stray\n")
    header = "---\nfile_format: mystnb\nkernelspec: {name: python3, language: python}\n---\n"
    stray = book.root / "book" / "stray.md"
    stray.write_text(f"{header}# Stray\n\n```{{code-cell}}\nprint(1)\n```\n", "utf-8")

    result = book.build()
    assert result.returncode != 0
    for message in (
        "failed: index.html: the image _images/favicon.svg has no alt text (alt='')",
        "failed: chapter.html: the image _images/",
        f"failed: chapter.html: shows a path of this machine, {json.__file__}",
        "failed: stray.md was executed by Sphinx, not here",
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


@pytest.mark.parametrize(
    ("figures", "over"),
    [
        ({"cpu_seconds": 60}, ""),
        ({"cpu_seconds": 61}, "time"),
        ({"cpu_seconds": 89, "slowness": 1.5}, ""),  # the machine is slow, not the chapter
        ({"cpu_seconds": 91, "slowness": 1.5}, "time"),
        ({"cpu_seconds": 31, "slowness": 0.5}, "time"),  # seen where it hardly shows
        ({"peak_mb": 2049}, "memory"),
        ({"peak_mb": 2049, "slowness": 1.5}, "memory"),
        ({"cpu_seconds": 61, "peak_mb": 2049}, "time and memory"),
    ],
)
def test_a_budget_scales_with_the_machine(
    build_script: ModuleType, figures: dict[str, float], over: str
) -> None:
    usual = {"cpu_seconds": 1, "wall_seconds": 1, "peak_mb": 100, "slowness": 1}
    assert build_script.excess(build_script.Cost(**usual | figures), 60) == over


def test_slowness_is_the_median_time_of_some_work_in_units_of_the_authors_machine(
    build_script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    takes = iter([3.0, 99.0, 2.0])
    monkeypatch.setattr(build_script.time, "process_time", lambda: clock[0])
    monkeypatch.setattr(
        build_script,
        "sample_work",
        lambda: clock.append(clock.pop() + next(takes) * build_script.REFERENCE_SECONDS),
    )
    assert build_script.slowness() == pytest.approx(3)


def test_too_much_is_a_warning_and_an_error_only_for_authors(book: SmallBook) -> None:
    edit_notebook(book, lambda n: n["metadata"]["mtl_tutorial"].update(budget_seconds=0.01))
    result = book.build("--force")
    assert result.returncode == 0
    assert "executed  chapter" in result.stdout  # that is --force: the outputs were in the cache
    assert re.search(r"^chapter .* time$", result.stdout, re.MULTILINE)
    *_, warning, where = result.stdout.splitlines()
    assert warning == "warning: 1 of 1 chapters took too much"
    assert where == str(book.html / "index.html")

    strict = book.build("--strict")
    assert strict.returncode != 0
    assert strict.stdout.splitlines()[-1] == warning


# --- errors that are shown on purpose ---------------------------------------------------------------

ERRORS = [
    ("x = 1\nx / 0", ["----> 2 x / 0", "ZeroDivisionError: division by zero"]),
    (  # the reader's own line, not the library's
        "import json\ndef read(text):\n    return json.loads(text)\nread('[1,')",
        [
            "----> 3     return json.loads(text)",
            "JSONDecodeError: Expecting value: line 1 column 4 (char 3)",
        ],
    ),
    (
        "raise ValueError('shapes differ:\\n\\n  (2,) $?\\n  (3,)')",
        ["ValueError: shapes differ:", "  (2,) $?"],
    ),
    (
        f"import os\nos.stat('{ROOT}/data')",
        [
            f"----> 2 os.stat('{ROOT}/data')",
            "FileNotFoundError: [Errno 2] No such file or directory: 'data'",
        ],
    ),
    ("assert 1 == 2", ["----> 1 assert 1 == 2", "AssertionError:"]),
]


def test_an_error_is_shown_by_two_lines_without_our_folders(
    build_script: ModuleType, tmp_path: Path
) -> None:
    cells = [
        nbformat.v4.new_code_cell(source, metadata={"tags": ["raises-exception"]})
        for source, _ in ERRORS
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "errors.ipynb")
    run = build_script.run_notebook(tmp_path / "errors.ipynb", timeout=60)
    assert run.error is None
    build_script.shorten_errors(run.notebook)
    assert [cell.outputs[0].traceback for cell in run.notebook.cells] == [e[1] for e in ERRORS]


def test_a_page_shows_two_lines_of_an_error(built_book: SmallBook) -> None:
    errors = built_book.page("chapter").select(".output.traceback")
    assert [error.get_text().strip().splitlines() for error in errors] == [
        ["----> 1 1 / 0", "ZeroDivisionError: division by zero"],
        ["----> 1 int('one')", "ValueError: invalid literal for int() with base 10: 'one'"],
    ]


@pytest.mark.parametrize(
    "text",
    [
        "File <span>{root}/.venv/</span>torch.py",
        "~/x/lib/python3/site-packages/torch/nn.py",
        "/tmp/ipykernel_4/5.py:1: UserWarning",
        "{prefix}/bin/python",
    ],
)
def test_a_page_with_a_folder_of_the_machine_is_found(
    build_script: ModuleType, tmp_path: Path, text: str
) -> None:
    text = text.format(root=build_script.ROOT, prefix=sys.prefix)
    (tmp_path / "page.html").write_text(f"<p>Look: <b>{text}</b></p>", "utf-8")
    (problem,) = build_script.path_problems(tmp_path)
    assert problem.startswith("page.html: shows a path of this machine, ")


def test_a_page_may_speak_of_folders(build_script: ModuleType, tmp_path: Path) -> None:
    page = "<a href='/usr/lib'>Look</a> into site-packages, /data or https://example.org/usr/lib/x"
    (tmp_path / "page.html").write_text(page, "utf-8")
    assert build_script.path_problems(tmp_path) == []


# --- the commands, typed at the root ----------------------------------------------------------------


THREADS = "import os\nassert os.environ['OPENBLAS_NUM_THREADS'] == '1'"
COLLECT = """import pytest

class Plugin:
    def pytest_sessionstart(self, session):
        print("seconds a cell:", session.config.option.nbmake_timeout)

pytest.main(["--collect-only", "-p", "no:cacheprovider"], plugins=[Plugin()])
"""


def test_pytest_nbmake_runs_the_chapters(book: SmallBook) -> None:
    """And plain pytest does not; nor do our modules count as tests."""
    shutil.copy(ROOT / "pyproject.toml", book.root)
    (book.root / "tests").mkdir()
    edit_notebook(book, lambda n: n["cells"][-2].update(source=THREADS))
    with_chapters = book.run("-m", "pytest", "-p", "no:cacheprovider", "--nbmake")
    assert with_chapters.returncode == 0, with_chapters.stdout
    assert re.search("^=+ 1 passed", with_chapters.stdout, re.MULTILINE)
    assert "book/chapter.ipynb" in with_chapters.stdout
    plain = book.run("-c", COLLECT)
    assert "no tests collected" in plain.stdout, plain.stdout
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    assert f"seconds a cell: {config['execute']['timeout']}\n" in plain.stdout


ASK = """import socket
try:
    socket.getaddrinfo('example.org', 80)
except OSError as error:
    assert 'without a network' in str(error)
else:
    raise AssertionError('somebody answered')
"""


def test_make_builds_the_book_and_tests_the_notebooks_without_a_network(book: SmallBook) -> None:
    for file in ("pyproject.toml", "Makefile", "tests/offline/sitecustomize.py"):
        (book.root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, book.root / file)
    python = book.root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    path = f'PYTHONPATH="{book.root}:$PYTHONPATH"'
    python.write_text(f'#!/bin/sh\n{path} exec "{sys.executable}" "$@"\n', "utf-8")
    python.chmod(0o755)
    (book.root / ".venv" / "installed").touch()
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("MAKE", "MFLAGS", "ARGS", "MTL_TUTORIAL_DATA"))  # of `make test`
    }

    def make(target: str) -> "subprocess.CompletedProcess[str]":
        command = ["make", "--silent", target]
        return subprocess.run(
            command, cwd=book.root, env=environment, capture_output=True, text=True, check=False
        )

    built = make("book")
    assert built.returncode == 0, built.stdout + built.stderr
    assert built.stdout.splitlines()[-1] == str(book.html / "index.html")
    assert built.stderr == ""

    edit_notebook(book, lambda n: n["cells"][-2].update(source=ASK))
    tested = make("notebooks")
    assert tested.returncode == 0, tested.stdout
    assert re.search("^=+ 1 passed", tested.stdout, re.MULTILINE)
