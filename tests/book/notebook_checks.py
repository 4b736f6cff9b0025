"""What a page of the book must keep: small functions from a file to a list of findings.

A finding is one line: the file, the cell (counted from 1, of all cells), what is wrong and what to
do. `PAGE_CHECKS` read any page, `CHAPTER_CHECKS` notebooks, `READER_CHECKS` what makes a notebook a page
for a reader who reads once, from top to bottom; together they are the contract that a chapter keeps.
The docstring of a check says what it is for.
"""

import ast
import functools
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from markdown_it.token import Token
from sphinx_external_toc.parsing import parse_toc_yaml

ROOT = Path(__file__).parents[2]
# The local Sphinx extensions are modules, not a package.
sys.path.append(str(ROOT / "book" / "_ext"))
from notebook_cache import chapters
from reading_times import (
    PARSER,
    WITHOUT_CODE,
    Directive,
    directive,
    open_parts,
    open_words,
    visible_cells,
    visible_lines,
)

Found = Iterator[tuple[int | None, str]]
Check = Callable[[Path], list[str]]

PAGE_CHECKS: list[Check] = []
CHAPTER_CHECKS: list[Check] = []
READER_CHECKS: list[Check] = []

FRAMEWORKS = ("pytorch", "keras")
TAGS = {
    *FRAMEWORKS, "needs-pytorch", "needs-keras",
    "equals-library", "raises-exception", "scroll-output",
    "hide-input", "hide-output", "hide-cell",
    "remove-input", "remove-output", "remove-cell", "remove-stderr", "remove-stdout",
}  # fmt: skip


# ---------------------------------------------------------------------------- reading a page


class Cell(NamedTuple):
    """A cell, with its number for the messages."""

    number: int
    kind: str
    source: str
    metadata: dict[str, Any]

    @property
    def tags(self) -> set[str]:
        """The cell's tags; MyST-NB reads `remove_cell` as `remove-cell`, so do we."""
        return {tag.replace("_", "-") for tag in self.metadata.get("tags", [])}

    @property
    def frameworks(self) -> set[str]:
        """The tabs that the cell belongs to."""
        return self.tags & {*FRAMEWORKS}

    @property
    def tree(self) -> ast.Module:
        """The parsed code; empty where a cell shows a syntax error on purpose."""
        try:
            return ast.parse(TransformerManager().transform_cell(self.source))
        except SyntaxError:
            return ast.Module([], [])

    @property
    def calls(self) -> list[ast.Call]:
        """Every call in the code, in the order of the lines."""
        calls = [node for node in ast.walk(self.tree) if isinstance(node, ast.Call)]
        return sorted(calls, key=lambda call: (call.lineno, call.col_offset))

    @property
    def asserts(self) -> bool:
        """Whether the cell states something that can fail."""
        return any(isinstance(node, ast.Assert) for node in ast.walk(self.tree)) or any(
            dotted(call.func).split(".")[-1].startswith("assert_") for call in self.calls
        )


class Heading(NamedTuple):
    """A heading: its place among the page's tokens, its cell, its level and its text."""

    place: int
    cell: int
    level: int
    text: str


class Page:
    """A notebook, or a Markdown page read as a notebook of one cell."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix == ".md":
            cell = nbformat.v4.new_markdown_cell(path.read_text("utf-8"))
            self.notebook = nbformat.v4.new_notebook(cells=[cell])
        else:
            self.notebook = nbformat.read(path, as_version=4)
        self.metadata: dict[str, Any] = self.notebook.metadata
        self.cells = [
            Cell(number, cell.cell_type, cell.source, cell.metadata)
            for number, cell in enumerate(self.notebook.cells, 1)
        ]
        self.code = [cell for cell in self.cells if cell.kind == "code"]
        self.markdown = [cell for cell in self.cells if cell.kind == "markdown"]

    @functools.cached_property
    def visible(self) -> list[Cell]:
        """The code that is read without opening anything: in no solution, not hidden."""
        is_open = {id(cell) for cell, _ in open_parts(self.notebook)}
        return [
            cell
            for cell, raw in zip(self.cells, self.notebook.cells, strict=True)
            if id(raw) in is_open and cell.kind == "code" and not cell.tags & WITHOUT_CODE
        ]

    @functools.cached_property
    def tokens(self) -> list[tuple[int, Token]]:
        """All Markdown tokens with their cell's number."""
        return [(c.number, token) for c in self.markdown for token in tokens(c.source)]

    @functools.cached_property
    def directives(self) -> list[tuple[int, Directive]]:
        """All directives with their cell's number."""
        found = [(number, directive(token)) for number, token in self.tokens]
        return [(number, d) for number, d in found if d]

    def boxes(self, title: str) -> list[tuple[int, int, Directive]]:
        """Return the place, the cell and the directive of each admonition with this title."""
        return [
            (place, number, found)
            for place, (number, token) in enumerate(self.tokens)
            if (found := directive(token)) and (found.name, found.argument) == ("admonition", title)
        ]

    @functools.cached_property
    def headings(self) -> list[Heading]:
        """All headings, those inside directives included."""
        return [
            Heading(place, number, int(token.tag[1:]), self.tokens[place + 1][1].content.strip())
            for place, (number, token) in enumerate(self.tokens)
            if token.type == "heading_open"
        ]

    def heading(self, title: str) -> Heading | None:
        """Return the first heading with this text."""
        return next((heading for heading in self.headings if heading.text == title), None)

    def headings_above(self, cell: Cell) -> list[str]:
        """Return the headings of the section that the cell is in, outermost first."""
        above: list[Heading] = []
        for heading in self.headings:
            if heading.cell < cell.number:
                above = [*(h for h in above if h.level < heading.level), heading]
        return [heading.text for heading in above]

    def section(self, title: str) -> list[Token]:
        """Return the tokens under a heading, up to the next one of its level or above."""
        if not (start := self.heading(title)):
            return []
        later = (h for h in self.headings if h.place > start.place and h.level <= start.level)
        end = next((heading.place for heading in later), None)
        return [token for _, token in self.tokens[start.place : end]]


def check(register: list[Check]) -> Callable[[Callable[[Page], Found]], Check]:
    """Turn a function that yields (cell number, message) into one from a file to findings."""

    def wrap(look: Callable[[Page], Found]) -> Check:
        @functools.wraps(look)
        def run(path: Path) -> list[str]:
            return [
                f"{path.name}{f', cell {number}' if number else ''}: {message}"
                for number, message in look(Page(path))
            ]

        register.append(run)
        return run

    return wrap


# ---------------------------------------------------------------------------- reading MyST

LITERAL = {"bibliography", "code", "code-block", "code-cell", "eval-rst", "glue", "glue:math",
           "include", "literalinclude", "math", "mermaid", "tableofcontents", "toctree"}  # fmt: skip
TITLED = {"admonition", "card", "dropdown", "exercise", "tab-item"}
HIDDEN = "\N{OBJECT REPLACEMENT CHARACTER}"  # stands for maths, code and roles in the prose


def tokens(markdown: str) -> Iterator[Token]:
    """Yield the block tokens of a text, and after a directive those of its title and body."""
    for token in PARSER.parse(markdown):
        yield token
        found = directive(token)
        if found and found.name not in LITERAL:
            yield from tokens(found.argument if found.name in TITLED else "")
            yield from tokens(found.body)


def roles(markdown: str) -> list[tuple[str, str]]:
    """Return the (name, content) of every role."""
    return [
        (child.meta["name"], child.content)
        for token in tokens(markdown)
        for child in token.children or []
        if child.type == "myst_role"
    ]


def prose(markdown: str) -> str:
    """Return the words a reader reads: no maths, code, roles, addresses or comments."""
    return "\n".join(filter(None, map(_prose, tokens(markdown))))


def _prose(token: Token) -> str:
    """Return the words of one block token."""
    if token.type == "html_block":
        return re.sub(r"<[^>]*>", " ", token.content)
    words, address = "", False
    for child in token.children or []:
        if child.type in ("link_open", "link_close"):
            address = child.type == "link_open" and child.markup == "autolink"
        elif child.type in ("text", "image") and not address:
            words += child.content
        elif child.type in ("softbreak", "hardbreak"):
            words += " "
        elif child.type in ("code_inline", "math_inline", "myst_role"):
            words += HIDDEN
    return words


def texts(page: Page) -> list[tuple[int, str]]:
    """Return all Markdown with its cell's number: cells, and captions and alt texts of figures."""
    said = [
        (cell.number, str(cell.metadata.get("mystnb", {}).get(part, {}).get(key, "")))
        for cell in page.code
        for part, key in (("figure", "caption"), ("image", "alt"))
    ]
    return [(cell.number, cell.source) for cell in page.markdown] + said


# ---------------------------------------------------------------------------- reading code


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` for a chain of attributes; indices are left out, calls end it.

    >>> dotted(ast.parse("axes[0].hist", mode="eval").body)
    'axes.hist'
    """
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Subscript):
        return dotted(node.value)
    return node.id if isinstance(node, ast.Name) else ""


def imports(cell: Cell) -> list[str]:
    """Return the modules a cell imports, in order."""
    nodes = [n for n in ast.walk(cell.tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    modules: list[str] = []
    for node in sorted(nodes, key=lambda node: node.lineno):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        else:
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
    return modules


def tab_runs(page: Page) -> list[list[Cell]]:
    """Return the groups of neighbouring cells that become one set of tabs."""
    groups = groupby(page.cells, key=lambda cell: cell.kind == "code" and bool(cell.frameworks))
    return [list(cells) for tabbed, cells in groups if tabbed]


# ---------------------------------------------------------------------------- 1, 2: clean, honest


@check(CHAPTER_CHECKS)
def stored_state(page: Page) -> Found:
    """Keep in the repository what was written, not what one machine made of it."""
    strip = "run nbstripout on it"
    for cell, raw in zip(page.cells, page.notebook.cells, strict=True):
        if raw.get("outputs"):
            yield cell.number, f"holds stored outputs; {strip}"
        if raw.get("execution_count") is not None:
            yield cell.number, f"holds an execution count; {strip}"
        if extra := set(cell.metadata) - {"tags", "mystnb"}:
            yield cell.number, f"has metadata {sorted(extra)} that no page needs; {strip}"
    kernel = page.metadata.get("kernelspec", {})
    if kernel.get("name") != "python3" or not kernel.get("display_name", "").startswith("Python 3"):
        yield None, f"has kernel {dict(kernel)}; set name python3, display_name Python 3"
    if extra := set(page.metadata.get("language_info", {})) - {"name"}:
        yield None, f"keeps {sorted(extra)} in language_info, which differ by machine; {strip}"
    known = {"kernelspec", "language_info", "mtl_tutorial", "mystnb", "execution"}
    if extra := set(page.metadata) - known:
        yield None, f"has notebook metadata {sorted(extra)} that no page needs; {strip}"


@check(CHAPTER_CHECKS)
def silent_green(page: Page) -> Found:
    """Let every cell that fails turn the build red: nothing may skip it or forgive it."""
    if extra := set(page.metadata.get("execution", {})) - {"timeout"}:
        yield None, f"sets execution {sorted(extra)} in its metadata; only timeout is allowed"
    if extra := set(page.metadata.get("mystnb", {})) - {"execution_timeout", "merge_streams"}:
        yield None, f"sets mystnb {sorted(extra)} in its metadata; remove it"
    for cell in page.code:
        if unknown := cell.tags - TAGS:
            yield cell.number, f"has tags {sorted(unknown)}; known are {', '.join(sorted(TAGS))}"
        if cell.source.lstrip().startswith("%%"):
            yield cell.number, "starts with a cell magic, which can skip or hide code; remove it"
        if "raises-exception" in cell.tags:
            if cell.asserts:
                yield cell.number, "may raise, so its assertion checks nothing; move it to a cell"
            if cell.tags & {"remove-output", "remove-cell", "remove-stderr"}:
                yield cell.number, "raises on purpose but hides the message; show it"


@check(CHAPTER_CHECKS)
def hidden_teaching(page: Page) -> Found:
    """Show what teaches: only imports, plots and glue may be missing from the page."""
    for cell in page.code:
        mystnb = cell.metadata.get("mystnb", {})
        hidden = cell.tags & {"remove-cell", "remove-input"} or set(mystnb) & {"remove_code_source"}
        if hidden and not all(map(is_scaffolding, cell.tree.body)):
            yield cell.number, f"hides code by {sorted(hidden)}; show it, or tag it hide-input"


def is_scaffolding(statement: ast.stmt) -> bool:
    """Tell imports, glue, reading results and calls that draw from everything else."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return True
    if isinstance(statement, ast.For | ast.With):
        return all(map(is_scaffolding, statement.body))
    call = statement.value if isinstance(statement, ast.Expr | ast.Assign) else None
    root = dotted(call.func).removeprefix("mtl_tutorial.") if isinstance(call, ast.Call) else ""
    return root.split(".")[0] in CANVAS | {"experiments", "glue"}


# ---------------------------------------------------------------------------- 3: numbers in prose

NUMBER = re.compile(
    r"(?<![\w.])(\d*\.\d+(?!\.?\d)"  # 97.5, but not 3.11.2
    r"|\d+(\.\d+)?e[-+\N{MINUS SIGN}\N{NON-BREAKING HYPHEN}]?\d+"  # 1e-3
    r"|\d+(?=\s*(%|per\s?cent)))"  # 97 %
)


@check(PAGE_CHECKS)
def typed_numbers(page: Page) -> Found:
    """Glue a result in prose from the run; write a setting as code or maths."""
    advice = "glue a result, write a setting as code or maths, describe a figure without numbers"
    for number, text in texts(page):
        words = prose(text)
        for match in NUMBER.finditer(words):
            around = " ".join(words[max(0, match.start() - 30) : match.end() + 20].split())
            around = around.replace(HIDDEN, "\N{HORIZONTAL ELLIPSIS}")
            yield number, f"number {match[0]!r} typed in {around!r}; {advice}"


@check(PAGE_CHECKS)
def plain_titles(page: Page) -> Found:
    """Keep back-ticks out of the line that opens a box: it would open none, and swallow what follows."""
    for cell in page.markdown:
        for line in re.findall(r"^ *`{3,}\{.*`.*$", cell.source, re.MULTILINE):
            yield cell.number, f"opens a box with back-ticks in its title: {line!r}; take them out"


@check(PAGE_CHECKS)
def glued_keys(page: Page) -> Found:
    """Find for every key in prose the cell that glues it, here or in the page of `path::key`."""
    used = [
        (number, content)
        for number, text in texts(page)
        for name, content in roles(text)
        if name.startswith("glue")
    ]
    for number, content in used:
        document, _, key = content.rpartition("::")
        key = key.partition(":")[0]
        source = page.path.parent / document if document else page.path
        if not source.is_file():
            yield number, f"glues from {document!r}, which does not exist; correct the path"
        elif not any(re.fullmatch(known, key) for known in glue_patterns(Page(source))):
            yield number, f"uses key {key!r} but no cell of {source.name} calls glue({key!r}, ...)"


def glue_patterns(page: Page) -> list[str]:
    """Return patterns of the keys that `glue` is called with.

    `glue(acc=0.5)` gives `acc`; `glue(**{f"acc_{n}": 0.5})` gives `acc_.+`.
    """
    patterns: list[str] = []
    for call in (call for cell in page.code for call in cell.calls):
        if dotted(call.func).split(".")[-1] != "glue":
            continue
        for keyword in call.keywords:
            unpacked = [] if keyword.arg else list(ast.walk(keyword.value))
            keys = [key for node in unpacked if isinstance(node, ast.Dict) for key in node.keys]
            keys += [node.key for node in unpacked if isinstance(node, ast.DictComp)]
            patterns += [re.escape(keyword.arg)] if keyword.arg else map(pattern, keys)
    return patterns


def pattern(key: ast.expr | None) -> str:
    """Return a pattern of the text that the key of a dictionary gives."""
    pieces = key.values if isinstance(key, ast.JoinedStr) else [key]
    return "".join(re.escape(str(p.value)) if isinstance(p, ast.Constant) else ".+" for p in pieces)


NOTATION = ROOT / "book" / "reference" / "notation.md"
GREEK = [
    r"alpha",
    r"beta",
    r"gamma",
    r"delta",
    r"epsilon",
    r"varepsilon",
    r"zeta",
    r"eta",
    r"theta",
    r"iota",
    r"kappa",
    r"lambda",
    r"mu",
    r"nu",
    r"xi",
    r"pi",
    r"rho",
    r"sigma",
    r"tau",
    r"phi",
    r"varphi",
    r"chi",
    r"psi",
    r"omega",
    r"Gamma",
    r"Delta",
    r"Theta",
    r"Lambda",
    r"Xi",
    r"Pi",
    r"Sigma",
    r"Phi",
    r"Psi",
    r"Omega",
    r"ell",
    r"nabla",
]
# What a formula is written with, beside its symbols: words, environments, labels and sizes.
UNNAMED = r"\\(text|mathrm|operatorname\*?|begin|end|label|tag|eqref|ref|color)\s*\{[^{}]*\}"
EVERYWHERE = {"e", "d"}  # Euler's number and the differential


def formulas(found_in: Iterable[tuple[int, Token]]) -> Iterator[tuple[int, str]]:
    """Yield every formula, in line or displayed, with the number of its token."""
    for number, token in found_in:
        found = directive(token)
        if token.type in ("math_block", "math_block_label", "amsmath") or (
            found and found.name == "math"
        ):
            yield number, found.body if found else token.content
        for child in token.children or []:
            if child.type == "math_inline":
                yield number, child.content


def symbols(formula: str) -> set[str]:
    """Return the letters of a formula: Greek, Latin, and those in a special alphabet."""
    formula = re.sub(UNNAMED, " ", formula)
    special = r"\\(?:mathcal|mathbb|mathbf|boldsymbol)\s*\{?\s*(\\?[A-Za-z]+)\s*\}?"
    found = {match[0].replace(" ", "") for match in re.finditer(special, formula)}
    formula = re.sub(special, " ", formula)
    found |= {f"\\{name}" for name in re.findall(r"\\([A-Za-z]+)", formula) if name in GREEK}
    return found | set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", formula))) - EVERYWHERE


def explained(chapter: str) -> set[str]:
    """Return the symbols that notation.md explains for all chapters, and for this one."""
    held = [
        section
        for section in re.split(r"\n(?=#)", NOTATION.read_text("utf-8"))
        if "</" not in (heading := section.partition("\n")[0]) or f"</{chapter}>" in heading
    ]
    found_in = enumerate(tokens("\n".join(held)))
    return set().union(*(symbols(formula) for _, formula in formulas(found_in)))


@check(CHAPTER_CHECKS)
def notation(page: Page) -> Found:
    """Write down what every symbol means in this chapter, where a reader can look it up."""
    chapter = document(page.path)
    known = explained(chapter)
    for number, formula in formulas(page.tokens):
        for symbol in sorted(symbols(formula) - known):
            known.add(symbol)
            advice = f"explain it in notation.md, under {chapter}"
            yield number, f"uses {symbol} in {formula.strip()!r}; {advice}"


# ---------------------------------------------------------------------------- 4: size

BANNED = {
    r"\bsys\.path\b": "changes sys.path; import the installed library",
    r"(?m)^\s*!": "calls a shell; say it in Python",
    r"(?m)^\s*%(pip|conda|uv)\b": "installs; name the package in pyproject.toml",
    r"\burlretrieve\b|\burlopen\b|\brequests\.|\bimport requests\b|\bdownload\s*=\s*True": (
        "fetches from the network; use mtl_tutorial.datasets"
    ),
}


@check(CHAPTER_CHECKS)
def width(page: Page) -> Found:
    """Show code without scrolling."""
    for cell in page.code:
        if (width := max(map(len, cell.source.splitlines()), default=0)) > 80:
            advice = "a page shows 80 without scrolling"
            yield cell.number, f"has a line of {width} characters; {advice}"


@check(CHAPTER_CHECKS)
def self_contained(page: Page) -> Found:
    """Let a chapter run where the library is installed: no fetching, installing or patching."""
    for cell in page.code:
        for pattern, message in BANNED.items():
            if re.search(pattern, cell.source):
                yield cell.number, message


@check(CHAPTER_CHECKS)
def counts(page: Page) -> Found:
    """Count rows by a sum: a matrix product of booleans is boolean, so it counts to 1 at most."""
    for cell in page.code:
        for node in ast.walk(cell.tree):
            match node:
                case ast.BinOp(ast.Compare(), ast.MatMult()) | ast.BinOp(
                    _, ast.MatMult(), ast.Compare()
                ):
                    yield cell.number, f"multiplies truths in {ast.unparse(node)!r}; sum them"


# ---------------------------------------------------------------------------- 5: structure

ENDING = ("What can go wrong", "Check yourself", "What to read next")


def ordered(parts: list[tuple[str, int | None]]) -> Found:
    """Find the parts of an ending that are not there, or not in this order."""
    for title in (title for title, place in parts if place is None):
        yield None, f"has no section {title!r}; add it"
    present = [place for _, place in parts if place is not None]
    if present != sorted(present):
        yield None, f"ends out of order; have {', then '.join(title for title, _ in parts)}"


def place_of(page: Page, title: str) -> int | None:
    """Return where a heading is among the page's tokens."""
    heading = page.heading(title)
    return heading.place if heading else None


def first_exercise(page: Page) -> tuple[str, int | None]:
    """Return where the first exercise is among the page's tokens."""
    names = ("exercise", "exercise-start")
    return "exercises", next((i for i, (_, t) in enumerate(page.tokens) if named(t, names)), None)


def answers_and_reading(page: Page) -> Found:
    """Find questions without three folded answers, and reading without a citation."""
    folded = [t for t in page.section("Check yourself") if (d := directive(t)) and is_folded(d)]
    if len(folded) != 3:
        yield None, f"has {len(folded)} folded answers under 'Check yourself'; have 3 dropdowns"
    reading = [child for t in page.section("What to read next") for child in t.children or []]
    if not any(named(child, ("cite", "cite:p", "cite:t")) for child in reading):
        yield None, "cites nothing under 'What to read next'; use {cite:t} and the .bib file"


def named(token: Token, names: tuple[str, ...]) -> bool:
    """Tell a role or a directive of one of these names."""
    found = directive(token)
    return (found.name if found else token.meta.get("name")) in names


def is_folded(found: Directive) -> bool:
    """Tell a dropdown, or an admonition of class dropdown."""
    return found.name == "dropdown" or "dropdown" in found.options.get("class", "").split()


@check(CHAPTER_CHECKS)
def exercises(page: Page) -> Found:
    """Give 2 to 4 exercises, each with a folded solution that runs and asserts its claim."""
    asked = [(n, d) for n, d in page.directives if d.name in ("exercise", "exercise-start")]
    starts = {d.argument: (n, d) for n, d in page.directives if d.name == "solution-start"}
    ends = [n for n, d in page.directives if d.name == "solution-end"]
    if not 2 <= len(asked) <= 4:
        yield None, f"has {len(asked)} exercises; have 2 to 4"
    for number, exercise in asked:
        label = exercise.options.get("label") or exercise.options.get("name", "")
        if label not in starts:
            yield number, f"exercise {label!r} has no {{solution-start}} {label}; solve it in cells"
    for label, (number, solution) in starts.items():
        end = next((end for end in ends if end > number), None)
        if end is None:
            yield number, f"solution {label!r} is never closed; add {{solution-end}}"
        elif not any(cell.asserts for cell in page.code if number < cell.number < end):
            yield number, f"solution {label!r} asserts nothing; add a code cell with an assert"
        if not is_folded(solution):
            yield number, f"solution {label!r} is open; add ':class: dropdown'"


@check(CHAPTER_CHECKS)
def equals_library(page: Page) -> Found:
    """Compare with the library: the code shown is the code tested."""
    tagged = [cell for cell in page.code if "equals-library" in cell.tags]
    for cell in tagged:
        if not cell.asserts:
            yield cell.number, "is tagged equals-library but asserts nothing; add the comparison"
    if not tagged and page.path.parent.name not in ("practice", "reference"):
        yield None, "never compares with the library; tag the cell that asserts it equals-library"


@check(CHAPTER_CHECKS)
def names_version(page: Page) -> Found:
    """Name the version of the library that the page ran with."""
    shown = (call for cell in page.code for call in cell.calls)
    if not any(
        dotted(call.func).split(".")[-1] in ("print", "glue", "display")
        and "mtl_tutorial.__version__" in ast.unparse(call)
        for call in shown
    ):
        yield None, "does not show mtl_tutorial.__version__; print or glue it"


# ---------------------------------------------------------------------------- 5a: for a reader

BOXES = {  # title -> classes, and how many list items it may have
    "In short": ("tip in-short", range(2, 5)),
    "Take away": ("important take-away", range(3, 6)),
    "Try it": ("hint try-it", range(1000)),
}
PROOFS = ("gradients", "objective", "losses")
MAX_CELLS, MAX_CELL_LINES, MAX_BUDGET = 12, 20, 60
TRAINS = {
    "pytorch": (r"\.backward$", "calls loss.backward()"),
    "keras": (r"\bGradientTape$|\.fit$", "trains by GradientTape or model.fit"),
}


@check(READER_CHECKS)
def first_screen(page: Page) -> Found:
    """Show the question, a picture and *In short* before anything else."""
    stream = page.tokens
    title = next((h for h in page.headings if h.level == 1 and h.cell == 1), None)
    if title is None:
        yield 1, "has no title; start the page with '# Title'"
        return
    drawn = [(cell.number, 0) for cell in page.code if is_picture(cell)]
    last = min(drawn)[0] if drawn else len(page.cells)
    asked = takewhile(
        lambda item: item[0] <= last and not directive(item[1]) and item[1].type != "heading_open",
        stream[title.place + 3 :],
    )
    question = " ".join(filter(None, (_prose(token) for _, token in asked)))
    if "?" not in question:
        yield 1, "asks no question after the title; ask what the page answers"
    if (count := len(re.findall(r"[.?!][\"'”’)]*(?=\s|$)", question))) > 3:
        yield 1, f"takes {count} sentences to ask its question; 3 at most, before the picture"
    drawn += [(n, i) for i, (n, t) in enumerate(stream) if named(t, ("figure", "image"))]
    code = min((cell.number for cell in page.visible), default=len(page.cells) + 1)
    if not drawn or min(drawn)[0] > code:
        yield code, "comes before any picture; put a {figure} or a drawing cell (hide-input) above"
    short = page.boxes("In short")
    if not short:
        return  # `boxes` says so
    place, number, _ = short[0]
    if number > code:
        yield code, "is code above the box 'In short'; move the box up"
    if drawn and min(drawn) > (number, place):
        yield number, "has the box 'In short' above the picture; put the picture first"
    if sum(heading.level == 2 and heading.place < place for heading in page.headings) > 1:
        yield number, "has the box 'In short' below the second section; move it to the start"


def is_picture(cell: Cell) -> bool:
    """Tell a cell of which only a figure is seen."""
    hidden = cell.tags & {"hide-input", "remove-input"}
    return bool(hidden) and (draws(cell) or "image" in cell.metadata.get("mystnb", {}))


@check(READER_CHECKS)
def boxes(page: Page) -> Found:
    """Say in boxes what the page is about, what stays, and what to try."""
    for title, (classes, allowed) in BOXES.items():
        found = page.boxes(title)
        example = f"```{{admonition}} {title}, with :class: {classes}"
        if not found:
            yield None, f"has no box {title!r}; add {example}"
        if len(found) > 1 and title != "Try it":
            yield found[1][1], f"is the second box {title!r}; have one"
        for _, number, box in found:
            if set(box.options.get("class", "").split()) != set(classes.split()):
                given = box.options.get("class", "")
                yield number, f"box {title!r} has class {given!r}; write ':class: {classes}'"
            if (count := items(box.body)) not in allowed:
                ends = f"{min(allowed)} to {max(allowed)}"
                yield number, f"box {title!r} has {count} items; have {ends}"


def items(body: str) -> int:
    """Count the items of a list, or the lines where there is none."""
    listed = sum(t.type == "list_item_open" and t.level == 1 for t in PARSER.parse(body))
    return listed or sum(bool(line.strip()) for line in body.splitlines())


@check(READER_CHECKS)
def limits(page: Page) -> Found:
    """Keep what is in the open short: one main line, read once from top to bottom."""
    max_words, max_lines = (2500, 70) if page.path.stem in PROOFS else (1800, 110)
    fold = "fold it, or move it to the library, an experiment or another page"
    for name in FRAMEWORKS:
        if (count := visible_cells(page.notebook, name)) > MAX_CELLS:
            yield None, f"shows {count} code cells for {name}, {MAX_CELLS} at most; {fold}"
        if (count := visible_lines(page.notebook, name)) > max_lines:
            yield None, f"shows {count} lines of code for {name}, {max_lines} at most; {fold}"
    for cell in page.visible:
        count = sum(bool(line.strip()) for line in cell.source.splitlines())
        if count > MAX_CELL_LINES:
            yield cell.number, f"shows {count} lines, {MAX_CELL_LINES} at most; {fold}"
    if (count := open_words(page.notebook)) > max_words:
        yield None, f"has {count} words in the open, {max_words} at most; fold some in {{dropdown}}"


@check(READER_CHECKS)
def folded_plotting(page: Page) -> Found:
    """Fold what draws and what glues: it teaches nothing about several tasks."""
    for cell in page.visible:
        if draws(cell) or any(module.startswith("matplotlib") for module in imports(cell)):
            yield cell.number, "shows code that draws; tag the cell hide-input"
        if any(dotted(call.func).split(".")[-1] == "glue" for call in cell.calls):
            yield cell.number, "shows a call of glue; move it to a cell tagged remove-cell"


@check(READER_CHECKS)
def plain_code(page: Page) -> Found:
    """Write every argument out, where a reader sees it."""
    dicts: set[str] = set()
    for cell in page.code:
        for node in ast.walk(cell.tree):
            if isinstance(node, ast.Assign) and is_dict(node.value, dicts):
                dicts |= {dotted(target) for target in node.targets} - {""}
    for cell in page.visible:
        for node in ast.walk(cell.tree):
            match node:
                case ast.Call(keywords=keywords) if any(not k.arg for k in keywords):
                    yield cell.number, f"unpacks in {ast.unparse(node)!r}; write the arguments out"
                case ast.Dict(keys=keys) if None in keys:
                    yield cell.number, f"merges in {ast.unparse(node)!r}; write the entries out"
                case ast.BinOp(left, ast.BitOr(), right) | ast.AugAssign(left, ast.BitOr(), right):
                    if is_dict(left, dicts) or is_dict(right, dicts):
                        said = ast.unparse(node)
                        yield cell.number, f"merges dictionaries in {said!r}; write the entries out"


def is_dict(node: ast.expr, known: set[str]) -> bool:
    """Tell a dictionary, as far as can be read: written out, by dict(), or a name for one."""
    match node:
        case ast.Dict() | ast.DictComp():
            return True
        case ast.Call():
            return dotted(node.func) == "dict"
        case ast.BinOp(left, ast.BitOr(), right):
            return is_dict(left, known) or is_dict(right, known)
        case ast.Name():
            return node.id in known
    return False


@check(READER_CHECKS)
def plain_loop_first(page: Page) -> Found:
    """Train by a plain loop in the first chapter, before the library does it."""
    if page.path != first_chapter(page.path):
        return
    for name, (calls, how) in TRAINS.items():
        own = [cell for cell in page.code if not cell.frameworks - {name}]
        used = [cell.number for cell in own if uses(cell, f"mtl_tutorial.{name}")]
        looped = [
            cell.number
            for cell in page.visible
            if name in cell.tags and any(re.search(calls, dotted(c.func)) for c in cell.calls)
        ]
        if not looped:
            yield None, f"never trains by hand in {name}; add a {name} cell that {how}"
        elif used and used[0] <= looped[0]:
            advice = f"put a {name} cell that {how} above"
            yield used[0], f"uses mtl_tutorial.{name} before a plain loop; {advice}"


def first_chapter(path: Path) -> Path | None:
    """Return the first notebook in the table of contents of a page's book."""
    book = next((folder for folder in path.parents if (folder / "_toc.yml").exists()), None)
    return next(iter(chapters(book).values()), None) if book else None


def uses(cell: Cell, module: str) -> bool:
    """Tell whether a cell imports a module or reaches into it."""
    reached = [dotted(node) for node in ast.walk(cell.tree) if isinstance(node, ast.Attribute)]
    return any(f"{name}.".startswith(f"{module}.") for name in [*imports(cell), *reached])


@check(READER_CHECKS)
def both_tabs(page: Page) -> Found:
    """Serve the readers of both frameworks, even where each has a section of its own."""
    present = {name for cell in page.code for name in cell.frameworks}
    if len(present) == 1:
        (other,) = {*FRAMEWORKS} - present
        yield None, f"has tabs for {min(present)} alone; show the same in {other}"


@check(READER_CHECKS)
def ending(page: Page) -> Found:
    """End with pitfalls, exercises, questions, what stays, and cited reading, in this order."""
    wrong, questions, reading = ((title, place_of(page, title)) for title in ENDING)
    section = "Exercises", place_of(page, "Exercises")
    kept = "Take away", next((place for place, _, _ in page.boxes("Take away")), None)
    yield from ordered([wrong, section, first_exercise(page), questions, kept, reading])
    yield from answers_and_reading(page)


@check(READER_CHECKS)
def budget(page: Page) -> Found:
    """Run within a minute of one core."""
    seconds = page.metadata.get("mtl_tutorial", {}).get("budget_seconds")
    if not isinstance(seconds, int | float) or not 1 <= seconds <= MAX_BUDGET:
        yield (
            None,
            f"has budget_seconds {seconds!r} in metadata mtl_tutorial; set 1 to {MAX_BUDGET}",
        )


# ---------------------------------------------------------------------------- 5b: evidence

EXPERIMENTS = ROOT / "experiments"


@check(PAGE_CHECKS)
def evidence(page: Page) -> Found:
    """Link each result that a page reads to the script that made it."""
    linked = [(number, d.argument) for number, d in page.directives if d.name == "experiment"]
    read = [
        (cell.number, first_argument(call))
        for cell in page.code
        for call in cell.calls
        if dotted(call.func).endswith("experiments.read")
    ]
    for number, name in [*linked, *read]:
        if not isinstance(name, str) or not name:
            yield number, "does not write its experiment out; write its name, 'part/chapter'"
            continue
        for file in (f"{name}.py", f"results/{name}.json"):
            if not (EXPERIMENTS / file).is_file():
                yield number, f"names experiment {name!r}, but there is no experiments/{file}"
    for number, name in read:
        if isinstance(name, str) and name not in [said for _, said in linked]:
            yield number, f"reads {name!r}, whose source is not shown; add ```{{experiment}} {name}"


def first_argument(call: ast.Call) -> object:
    """Return the first argument of a call where it is written out, else None."""
    return call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None


# ---------------------------------------------------------------------------- 6: figures

IMAGE_KEYS = {"alt", "classes", "width", "height", "scale", "align"}
FIGURE_KEYS = {"name", "caption", "caption_before", "align", "classes"}
CANVAS = {"plt", "plotting", "fig", "figure", "ax", "axes"}
SETTING_UP = {"plt.close", "plt.style.use", "plt.rcParams.update"}


@check(PAGE_CHECKS)
def alt_texts(page: Page) -> Found:
    """Say in words what each figure shows."""
    advice = "say in a few words what it shows"
    for cell in page.code:
        mystnb = cell.metadata.get("mystnb", {})
        image, figure = mystnb.get("image", {}), mystnb.get("figure", {})
        if wrong := set(image) - IMAGE_KEYS | set(figure) - FIGURE_KEYS:
            yield cell.number, f"has keys {sorted(wrong)}, which are ignored; is it 'classes'?"
        if (draws(cell) or image or figure) and not is_alt(alt := image.get("alt", "")):
            yield cell.number, f"draws with alt text {alt!r} in metadata mystnb.image.alt; {advice}"
    for number, found in page.directives:
        shows = found.name in ("figure", "image")
        if shows and not is_alt(alt := found.options.get("alt", "")):
            yield number, f"{found.name} {found.argument!r} has alt text {alt!r}; {advice}"
    for number, token in page.tokens:
        images = [child for child in token.children or [] if child.type == "image"]
        for image in (image for image in images if not is_alt(image.content)):
            yield number, f"image {image.attrs['src']!r} has alt text {image.content!r}; {advice}"


def is_alt(text: str) -> bool:
    """Tell words from nothing and from a file name."""
    return len(text.split()) > 2


def draws(cell: Cell) -> bool:
    """Tell whether the cell's output holds a figure."""
    canvas = CANVAS | {m.split(".")[-1] for m in imports(cell) if ".plotting." in m}
    names = {dotted(call.func).removeprefix("mtl_tutorial.") for call in cell.calls} - SETTING_UP
    return any(n.split(".")[0] in canvas or n.endswith((".plot", ".imshow")) for n in names)


WHITE = re.compile(
    r"\b(?:figure\.|axes\.|savefig\.|set_)?facecolor['\"\])]*\s*[=:(,]\s*"
    r"['\"](?:white|w|#fff|#ffffff|1|1\.0)['\"]",
    re.IGNORECASE,
)


@check(READER_CHECKS)
def dark_figures(page: Page) -> Found:
    """Leave the ground of a figure transparent: the page turns its ink in the dark."""
    advice = "leave the figure's ground transparent"
    for cell in page.code:
        mystnb = cell.metadata.get("mystnb", {})
        classes = [mystnb.get(part, {}).get("classes", "") for part in ("image", "figure")]
        if "dark-light" in " ".join(classes).split():
            yield cell.number, f"has image class dark-light, a white box in the dark; {advice}"
        if found := WHITE.search(cell.source):
            yield cell.number, f"paints the ground in {found[0]!r}; {advice}"
    for number, shown in page.directives:
        if "dark-light" in shown.options.get("class", "").split():
            yield number, f"has image class dark-light, a white box in the dark; {advice}"
        drawing = page.path.parent / shown.argument
        is_drawing = shown.name in ("figure", "image") and drawing.suffix == ".svg"
        if is_drawing and drawing.is_file() and has_white_ground(drawing):
            yield number, f"{shown.argument} lies on a white rectangle; {advice}"


def has_white_ground(drawing: Path) -> bool:
    """Tell whether an SVG begins by painting all of itself white."""
    root = ElementTree.parse(drawing).getroot()
    _, _, *size = root.get("viewBox", "0 0 0 0").split()
    return any(
        shape.tag.endswith("rect")
        and shape.get("fill", "").lower() in ("white", "#fff", "#ffffff")
        and [shape.get("width"), shape.get("height")] in (size, ["100%", "100%"])
        for shape in root.iter()
    )


# ---------------------------------------------------------------------------- 7, 8: frameworks


@check(CHAPTER_CHECKS)
def torch_first(page: Page) -> Found:
    """Import torch before TensorFlow in a kernel that has both."""
    order = [(cell.number, module) for cell in page.code for module in imports(cell)]
    torch = [item for item in order if re.match(r"torch|mtl_tutorial\.pytorch\b", item[1])]
    keras = [item for item in order if re.match(r"(mtl_tutorial\.)?(keras|tensorflow)\b", item[1])]
    if torch and keras and order.index(keras[0]) < order.index(torch[0]):
        number, module = keras[0]
        yield number, f"imports {module} before torch (cell {torch[0][0]}); import torch first"


@check(CHAPTER_CHECKS)
def tab_pairs(page: Page) -> Found:
    """Offer both frameworks in every set of tabs."""
    for run in tab_runs(page):
        present = set().union(*(cell.frameworks for cell in run))
        for cell in run:
            if len(cell.frameworks) > 1:
                yield cell.number, "is tagged for both frameworks; leave such a cell untagged"
        above = " ".join(page.headings_above(run[0])).lower()
        names = {"pytorch": ("pytorch",), "keras": ("keras", "tensorflow")}
        if len(present) == 1 and not any(name in above for name in names[min(present)]):
            yield run[0].number, f"is a tab for {run[0].frameworks} alone; add the other, or untag"


# ---------------------------------------------------------------------------- the whole book


def uncollected(book: Path) -> list[str]:
    """Find that nothing is found, and notebooks that the table of contents leaves out."""
    found = notebooks(book)
    if not found and (book / "case-studies").exists():
        return [f"{book.name}: no notebook found, so nothing was checked; look for *.ipynb there"]
    listed = set(parse_toc_yaml(book / "_toc.yml")) if found else set()
    return [
        f"{name}.ipynb: is not in _toc.yml, so the build leaves it out; list or delete it"
        for path in found
        if (name := path.relative_to(book).with_suffix("").as_posix()) not in listed
    ]


def notebooks(book: Path) -> list[Path]:
    """Return every notebook of the book, drafts included."""
    return [p for p in sorted(book.rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]


def document(path: Path) -> str:
    """Return the name of a page in the table of contents: its part and its chapter."""
    return "/".join(path.with_suffix("").parts[-2:])
