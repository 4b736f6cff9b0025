"""What a page of the book must keep: small functions from a file to a list of findings.

A finding is one line: the file, the cell (counted from 1, of all cells), what is wrong and what to
do. `PAGE_CHECKS` read any page, `CHAPTER_CHECKS` notebooks; together they are the contract that a
chapter keeps. The docstring of a check says what it is for.
"""

import ast
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser
from sphinx_external_toc.parsing import parse_toc_yaml

Found = Iterator[tuple[int | None, str]]
Check = Callable[[Path], list[str]]

PAGE_CHECKS: list[Check] = []
CHAPTER_CHECKS: list[Check] = []

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
    def tokens(self) -> list[tuple[int, Token]]:
        """All Markdown tokens with their cell's number."""
        return [(c.number, token) for c in self.markdown for token in tokens(c.source)]

    @functools.cached_property
    def directives(self) -> list[tuple[int, "Directive"]]:
        """All directives with their cell's number."""
        found = [(number, directive(token)) for number, token in self.tokens]
        return [(number, d) for number, d in found if d]

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

PARSER = create_md_parser(
    MdParserConfig(enable_extensions={"amsmath", "colon_fence", "deflist", "dollarmath"}),
    RendererHTML,
)
LITERAL = {"bibliography", "code", "code-block", "code-cell", "eval-rst", "glue", "glue:math",
           "include", "literalinclude", "math", "mermaid", "tableofcontents", "toctree"}  # fmt: skip
TITLED = {"admonition", "card", "dropdown", "exercise", "tab-item"}
HIDDEN = "\N{OBJECT REPLACEMENT CHARACTER}"  # stands for maths, code and roles in the prose


class Directive(NamedTuple):
    """A MyST directive: its name, argument, options and body."""

    name: str
    argument: str
    options: dict[str, str]
    body: str


def directive(token: Token) -> Directive | None:
    """Read a fence whose language is `{name}`."""
    match = re.match(r"\{([^}]+)\}\s*(.*)", token.info)
    if token.type not in ("fence", "colon_fence") or not match:
        return None
    lines = token.content.splitlines()
    found = takewhile(bool, (re.match(r":([\w-]+):\s*(.*)", line) for line in lines))
    options = {option[1]: option[2].strip() for option in found if option}
    return Directive(match[1], match[2].strip(), options, "\n".join(lines[len(options) :]))


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


def code_lines(cell: Cell) -> int:
    """Count the lines that are neither empty nor only a comment."""
    lines = (line.strip() for line in cell.source.splitlines())
    return sum(bool(line) and not line.startswith("#") for line in lines)


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
    """Tell imports, glue and calls that draw from everything else."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return True
    if isinstance(statement, ast.For | ast.With):
        return all(map(is_scaffolding, statement.body))
    call = statement.value if isinstance(statement, ast.Expr | ast.Assign) else None
    root = dotted(call.func).removeprefix("mtl_tutorial.") if isinstance(call, ast.Call) else ""
    return root.split(".")[0] in CANVAS | {"glue"}


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


NOTATION = Path(__file__).parents[2] / "book" / "reference" / "notation.md"
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
    chapter = "/".join(page.path.with_suffix("").parts[-2:])
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
def size(page: Page) -> Found:
    """Let a chapter be read in one sitting: few cells, short cells, few words."""
    seen_together = sum(
        max(sum(name in cell.frameworks for cell in run) for name in FRAMEWORKS)
        for run in tab_runs(page)
    )
    count = seen_together + sum(not cell.frameworks for cell in page.code)
    if not 12 <= count <= 20:
        yield None, f"has {count} code cells (a tab pair counts once); have 12 to 20"
    for cell in page.code:
        if (length := len(cell.source.splitlines())) > 30:
            yield cell.number, f"has {length} lines, 30 at most; split it or use the library"
        if (width := max(map(len, cell.source.splitlines()), default=0)) > 80:
            yield (
                cell.number,
                f"has a line of {width} characters; a page shows 80 without scrolling",
            )
    for name in FRAMEWORKS:
        others = {tag for other in FRAMEWORKS if other != name for tag in (other, f"needs-{other}")}
        read = [cell for cell in page.code if not cell.tags & others or name in cell.frameworks]
        if (total := sum(map(code_lines, read))) > 250:
            yield None, f"has {total} code lines for {name}; 250 at most"
    words = sum(len(re.findall(r"\w+", prose(cell.source))) for cell in page.markdown)
    if words > 2500:
        yield None, f"has {words} words of prose; 2500 at most"


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


@check(CHAPTER_CHECKS)
def opening(page: Page) -> Found:
    """Start with the title, what the reader will be able to do, and how long it takes."""
    first = page.cells[0] if page.cells else None
    if first is None or first.kind != "markdown":
        yield 1, "is not Markdown; start with title, goals and time budget"
        return
    stream = list(tokens(first.source))
    if not any(token.type == "heading_open" and token.tag == "h1" for token in stream):
        yield 1, "has no title; start it with '# Title'"
    text = prose(first.source).lower()
    if "you will be able to" not in text:
        yield 1, "does not say 'you will be able to'; follow it by a list of 2 to 4 verbs"
    elif not 2 <= (verbs := goals(stream)) <= 4:
        yield 1, f"lists {verbs} goals after 'you will be able to'; list 2 to 4 verbs"
    budget = page.metadata.get("mtl_tutorial", {}).get("budget_seconds")
    if not isinstance(budget, int | float) or not 0 < budget <= 90:
        yield None, f"has budget_seconds {budget!r} in metadata mtl_tutorial; set 1 to 90"
    elif not re.search(rf"\b{budget}\s*s(econds)?\b", text):
        yield 1, f"does not state the time budget of the metadata; write '{budget} seconds'"


def goals(stream: list[Token]) -> int:
    """Count the items of the first list after the words 'you will be able to'."""
    said = next(i for i, t in enumerate(stream) if "you will be able to" in _prose(t).lower())
    types = [token.type for token in stream[said:]]
    end = next((i for i, t in enumerate(types) if t.endswith("_list_close")), 0)
    return types[:end].count("list_item_open")


@check(CHAPTER_CHECKS)
def closing(page: Page) -> Found:
    """End with pitfalls, exercises, questions and cited reading, in this order."""
    places = {title: h.place if (h := page.heading(title)) else None for title in ENDING}
    for title in (title for title, place in places.items() if place is None):
        yield None, f"has no section {title!r}; add it"
    names = ("exercise", "exercise-start")
    first = next((i for i, (_, t) in enumerate(page.tokens) if named(t, names)), None)
    order = [places[ENDING[0]], first, *(places[title] for title in ENDING[1:])]
    present = [place for place in order if place is not None]
    if present != sorted(present):
        yield None, f"ends out of order; put the exercises after {ENDING[0]!r}, then {ENDING[1:]}"
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
