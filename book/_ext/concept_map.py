"""The ``{concept-map}`` directive: which chapter leads to which, as a picture with links.

A box has a row and a column here; everything else is drawn from that. The build fails if a notebook
of the table of contents has no box, or a box has no notebook. The same is said in words, folded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from notebook_cache import chapters

BOXES = {
    "start/first-network": (0, 0, "A first\nnetwork"),
    "foundations/why-share": (0, 1, "Why share?"),
    "foundations/objective": (0, 2, "The\nobjective"),
    "architectures/hard-sharing": (1, 0, "How much\nto share"),
    "foundations/gradients": (1, 1, "Gradients\nby hand"),
    "optimisation/static-weights": (1, 2, "Fixed\nweights"),
    "optimisation/alternating": (1, 3, "Several\ndata sets"),
    "foundations/losses": (1, 4, "Losses"),
    "architectures/soft-sharing": (2, 0, "Soft\nsharing"),
    "optimisation/gradient-conflict": (2, 1, "Gradient\nconflict"),
    "optimisation/dynamic-weights": (2, 2, "Adaptive\nweights"),
    "optimisation/meta-learning": (2, 3, "Learning\nto learn"),
    "case-studies/sentiment": (2, 4, "Sentiment"),
    "architectures/experts": (3, 0, "Experts\nand gates"),
    "optimisation/gradient-balancing": (3, 1, "Gradient\nbalancing"),
    "case-studies/scenes": (3, 2, "Scenes"),
    "case-studies/resnet": (3, 3, "A ResNet"),
    "case-studies/sentiment-extension": (3, 4, "Requests,\n3 levels"),
    "architectures/shared-private": (4, 0, "Shared and\nprivate"),
    "case-studies/census": (4, 1, "Census and\nclicks"),
    "case-studies/dense": (4, 2, "Dense\nprediction"),
    "practice/life-cycle": (4, 3, "A network's\nlife"),
    "practice/mistakes": (4, 4, "The articles'\nmistakes"),
    "relatedness/measuring": (5, 0, "Measuring\nrelatedness"),
    "relatedness/negative-transfer": (5, 1, "Negative\ntransfer"),
    "practice/evaluation": (5, 2, "Evaluation"),
    "practice/pitfalls-data": (5, 3, "Pitfalls\nof data"),
    "practice/pitfalls-training": (5, 4, "Pitfalls of\ntraining"),
    "practice/frontier": (6, 1, "The\nfrontier"),
    "practice/robust-training": (6, 3, "Robust\ntraining"),
    "practice/scaling": (6, 4, "Scaling\nout"),
}
"""Document -> row, column, and a short name in one or two lines."""

LEADS = {
    "start/first-network": ["foundations/why-share"],
    "foundations/why-share": [
        "foundations/objective",
        "architectures/hard-sharing",
    ],
    "foundations/objective": [
        "foundations/gradients",
        "optimisation/static-weights",
        "optimisation/alternating",
        "foundations/losses",
    ],
    "architectures/hard-sharing": ["architectures/soft-sharing"],
    "architectures/soft-sharing": ["architectures/experts"],
    "architectures/experts": [
        "architectures/shared-private",
        "case-studies/census",
    ],
    "foundations/gradients": ["optimisation/gradient-conflict"],
    "optimisation/gradient-conflict": ["optimisation/gradient-balancing"],
    "optimisation/static-weights": ["optimisation/dynamic-weights"],
    "optimisation/dynamic-weights": ["case-studies/scenes"],
    "case-studies/scenes": ["case-studies/dense"],
    "case-studies/dense": ["practice/evaluation"],
    "case-studies/resnet": ["practice/life-cycle"],
    "optimisation/alternating": [
        "optimisation/meta-learning",
        "case-studies/resnet",
    ],
    "foundations/losses": ["case-studies/sentiment"],
    "case-studies/sentiment": ["case-studies/sentiment-extension"],
    "case-studies/sentiment-extension": ["practice/mistakes"],
    "practice/mistakes": ["practice/pitfalls-data"],
    "practice/pitfalls-data": ["practice/pitfalls-training"],
    "practice/pitfalls-training": ["practice/robust-training"],
    "practice/robust-training": ["practice/scaling"],
    "architectures/shared-private": ["relatedness/measuring"],
    "relatedness/measuring": ["relatedness/negative-transfer"],
    "relatedness/negative-transfer": ["practice/frontier"],
}
"""Document -> the documents that build on it."""

PARTS = {
    "start": "start here",
    "foundations": "foundations",
    "architectures": "architectures",
    "optimisation": "optimisation",
    "relatedness": "relatedness",
    "case-studies": "case studies",
    "practice": "practice",
}
WIDTH, HEIGHT, GAP, FALL = 106, 50, 16, 32  # a box, and the space between two


def mismatches(documents: Iterable[str]) -> list[str]:
    """Return how the map differs from the notebooks of the table of contents, a line each."""
    documents = list(documents)
    return [
        f"{name} is not on the map; give it a box in concept_map.py"
        for name in documents
        if name not in BOXES
    ] + [
        f"{name} is on the map but not in _toc.yml; take it from concept_map.py"
        for name in BOXES
        if name not in documents
    ]


def corner(name: str) -> tuple[int, int]:
    """Return the upper left corner of a box."""
    row, column, _ = BOXES[name]
    return 2 + column * (WIDTH + GAP), 2 + row * (HEIGHT + FALL)


def arrow(start: str, end: str) -> str:
    """Return the path from one box to another: across, down, or around what lies between."""
    (x1, y1), (x2, y2) = corner(start), corner(end)
    if y1 == y2:
        return f"M{x1 + WIDTH} {y1 + HEIGHT // 2}H{x2 - 2}"
    if y2 - y1 > HEIGHT + FALL:
        gutter = x1 + WIDTH + GAP // 2 - 2
        return f"M{x1 + WIDTH} {y1 + HEIGHT // 2}H{gutter}V{y2 + HEIGHT // 2}H{x2 + WIDTH + 2}"
    middle = x1 + WIDTH // 2, y1 + HEIGHT, x2 + WIDTH // 2
    turn = middle[1] + (
        8 if BOXES[start][1] % 2 else 17
    )  # ways of neighbours do not touch
    return f"M{middle[0]} {middle[1]}V{turn}H{middle[2]}V{y2 - 2}"


def box(name: str, address: str) -> str:
    """Return a box: a link with its short name."""
    (x, y), lines = corner(name), BOXES[name][2].split("\n")
    top = y + HEIGHT // 2 + 6 - 10 * (len(lines) - 1)
    text = "".join(
        f'<tspan x="{x + WIDTH // 2}" y="{top + 20 * i}">{escape(line)}</tspan>'
        for i, line in enumerate(lines)
    )
    label = escape(" ".join(lines))
    return (
        f'<a href="{escape(address)}" class="{name.partition("/")[0]}" aria-label="{label}">'
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6"/><text>{text}</text></a>'
    )


def bottom() -> int:
    """Return where the lowest boxes end."""
    return max(corner(name)[1] for name in BOXES) + HEIGHT


def legend() -> str:
    """Return what the colours mean, under the boxes."""
    x, y = 2 + 2 * (WIDTH + GAP), bottom() + 16
    return "".join(
        f'<g class="{part}"><rect x="{x}" y="{y + 22 * i}" width="16" height="14" rx="3"/>'
        f'<text x="{x + 26}" y="{y + 22 * i + 13}" class="key">{caption}</text></g>'
        for i, (part, caption) in enumerate(PARTS.items())
    )


def svg(address: Callable[[str], str]) -> str:
    """Return the map; ``address`` gives the link of a document."""
    ends = [corner(name) for name in BOXES]
    size = (
        max(x for x, _ in ends) + WIDTH + 2,
        bottom() + 22 * len(PARTS) + 16,
    )
    arrows = "".join(
        f'<path d="{arrow(start, end)}" marker-end="url(#leads-to)"/>'
        for start, targets in LEADS.items()
        for end in targets
    )
    return (
        f'<svg class="concept-map" viewBox="0 0 {size[0]} {size[1]}" role="group" '
        'aria-label="Map of the chapters: an arrow leads from a chapter to one that builds on it">'
        '<defs><marker id="leads-to" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 10 5 0 10z"/></marker></defs>'
        f'<g class="arrows" aria-hidden="true">{arrows}</g>'
        + "".join(box(name, address(name)) for name in BOXES)
        + f'<g aria-hidden="true">{legend()}</g></svg>'
    )


def in_words() -> list[str]:
    """Return the same as a folded list, in lines of MyST."""
    items = [
        f"- {{doc}}`/{start}` leads to "
        + " and ".join(f"{{doc}}`/{end}`" for end in ends)
        + "."
        for start, ends in LEADS.items()
    ]
    return ["```{dropdown} The map in words", *items, "```"]


class ConceptMap(SphinxDirective):
    """Draw the map and say it in words."""

    def run(self) -> list[nodes.Node]:
        """Return both, or an error that names what is missing."""
        if wrong := mismatches(chapters(Path(self.env.srcdir))):
            raise self.error("; ".join(wrong))
        builder, here = self.env.app.builder, self.env.docname
        drawn = svg(lambda name: builder.get_relative_uri(here, name))
        container = nodes.container(classes=["concept-map-words"])
        lines = StringList(in_words(), source=__file__)
        self.state.nested_parse(lines, 0, container)
        return [nodes.raw("", drawn, format="html"), container]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("concept-map", ConceptMap)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
