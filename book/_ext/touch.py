"""The ``{touch}`` directive: a figure that a reader can move, in a page without a server.

``{touch} gradients`` shows the steps of several methods for gradients that one drags;
``{touch} weights`` moves the minimum of a weighted sum along the front. What stands in the page is
a picture and a table made here, from the library's numbers: it can be read without JavaScript. The
scripts in ``touch_static`` are loaded by the pages that need them and compute the same numbers anew
when something moves. (Not from ``_static``: Jupyter Book loads every script there on every page.)
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.docutils import SphinxDirective

STATIC = Path(__file__).parent / "touch_static"
SCRIPTS = {"gradients": "gradients.js", "weights": "weighted_sum.js"}
CLASSES = {
    "sum": "Equal",
    "MGDA": "MGDA",
    "PCGrad": "PCGrad",
    "UPGrad": "UPGrad",
    "CAGrad": "CAGrad",
    "IMTL-G": "IMTLG",
    "Nash-MTL": "NashMTL",
    "Aligned-MTL": "AlignedMTL",
}
SETTINGS = {
    "no conflict": [[2.6, 0.6], [1.2, 2.8]],
    "conflict, equal lengths": [[2.5, 0.0], [-1.5, 2.0]],
    "the sum harms task 1": [[1.5, 0.0], [-2.0, 3.6]],
    "task 2 six times as long": [[0.7, 0.0], [-1.8, 3.8]],
    "opposite gradients": [[2.0, 0.0], [-3.0, 0.0]],
    "gradient 1 is zero": [[0.0, 0.0], [-1.6, 2.4]],
    "three tasks": [[1.0, 0.1], [-2.5, 2.3], [-0.5, 2.9]],
    "three tasks, no step helps all": [[2.5, 0.0], [-1.2, 2.4], [-1.6, -2.0]],
}
UNIT, WIDTH, HEIGHT, X0, Y0 = 40, 400, 316, 200, 220  # pixels; the origin
THREE = "In a plane three gradients are always dependent; in a network they hardly ever are."
GAIN = (
    "Gain: the cosine of a task's gradient and the direction. Below 0, and "
    "with a broken arrow, the task is harmed."
)
TINY = 1e-6  # a length, beside the longest gradient, that is rounding


def number(value: float) -> str:
    """Return two digits after the point, with a proper minus and no negative zero."""
    text = f"{value:.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


# ---------------------------------------------------------------------------- gradients


def read(
    rows: Sequence[Sequence[float]], name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the weights, the step, and the cosine of each gradient with it.

    None in place of the cosines if there is no step; NaN for a zero gradient.
    """
    from mtl_tutorial import weighting

    jacobian = np.array(rows, dtype=float)
    method = getattr(weighting, CLASSES[name])()
    if name == "PCGrad":
        method.generator = InOrder()
    weights = method(np.zeros(len(jacobian)), jacobian @ jacobian.T)
    step = weights @ jacobian
    lengths, size = np.linalg.norm(jacobian, axis=1), np.linalg.norm(step)
    if size <= TINY * lengths.max():
        return weights, step, None
    safe = np.where(lengths > 0, lengths, np.nan)
    return weights, step, jacobian @ step / safe / size


class InOrder:
    """In place of PCGrad's random generator: each gradient is cut against task 1, 2, 3."""

    def permutation(self, count: int) -> range:
        """Return the order of the tasks."""
        return range(count)


def cone(rows: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Return between which angles, in degrees, a step hurts no task; None if it is between none."""
    angles = [
        math.degrees(math.atan2(y, x)) for x, y in rows if (x, y) != (0, 0)
    ]
    turns = [(angle - angles[0] + 540) % 360 - 180 for angle in angles]
    low, high = angles[0] + max(turns) - 90, angles[0] + min(turns) + 90
    return (low, high) if low < high else None


def steps(
    rows: Sequence[Sequence[float]], names: Sequence[str], alike: bool
) -> dict[str, Any]:
    """Return where the arrows of the methods end, in pixels, and where their names stand."""
    ends: dict[str, Any] = {}
    labels: list[dict[str, Any]] = []
    for name in names:
        _, (x, y), gains = read(rows, name)
        if gains is None:
            continue
        size = math.hypot(x, y)
        scale = 3.2 / size if alike else 1
        end = [X0 + UNIT * scale * x, Y0 - UNIT * scale * y]
        ends[name] = {"end": end, "harms": bool(np.nanmin(gains) < -TINY)}
        same = [label for label in labels if math.dist(label["end"], end) < 5]
        if same:
            if same[0]["text"].count(",") < 3:  # the table has all names
                more = "…" if same[0]["text"].count(",") == 2 else name
                same[0]["text"] += f", {more}"
            continue
        labels.append(
            {
                "name": name,
                "text": name,
                "end": end,
                "x": end[0] + 9 * x / size,
                "y": end[1] - 12 * y / size + 4,
                "anchor": "start"
                if x > 0.3 * size
                else "end"
                if x < -0.3 * size
                else "middle",
            }
        )
    spread(labels)
    for label in labels:
        ends[label["name"]]["label"] = label
    return ends


def spread(labels: list[dict[str, Any]]) -> None:
    """Keep names in the picture, and move them away from the horizontal axis until none lies on another."""
    labels.sort(key=lambda label: abs(label["y"] - Y0))
    for i, label in enumerate(labels):
        width = 8 * len(label["text"])
        before = {"start": 0, "middle": width / 2, "end": width}[
            label["anchor"]
        ]
        label["x"] = min(
            max(label["x"], before + 4), WIDTH - 4 - width + before
        )
        label["from"] = label["x"] - before
        label["to"] = label["from"] + width
        for other in labels[:i]:
            beside = label["from"] < other["to"] and other["from"] < label["to"]
            if beside and abs(other["y"] - label["y"]) < 16:
                label["y"] = other["y"] + (16 if label["y"] > Y0 else -16)
        label["y"] = min(max(label["y"], 14), HEIGHT - 6)


def sector(rows: Sequence[Sequence[float]]) -> str:
    """Return the outline of the shaded cone."""
    if (between := cone(rows)) is None:
        return ""
    corners = [
        f"{X0 + 600 * math.cos(math.radians(a)):.1f} {Y0 - 600 * math.sin(math.radians(a)):.1f}"
        for a in np.linspace(*between, 9)
    ]
    return f"M{X0} {Y0}L" + "L".join(corners) + "Z"


def in_words(rows: Sequence[Sequence[float]], names: Sequence[str]) -> str:
    """Say the picture: lengths, conflict, and whom each method harms."""
    said = [
        f"Gradient {k + 1} has length {number(math.hypot(*row))}."
        for k, row in enumerate(rows)
    ]
    pairs = [
        f"{k + 1} and {m + 1}"
        for k, (a, b) in enumerate(rows)
        for m, (c, d) in enumerate(rows)
        if k < m and a * c + b * d < -1e-9
    ]
    said.append(
        f"In conflict: {', '.join(pairs)}." if pairs else "No conflict."
    )
    harm, none = [], []
    for name in names:
        _, _, gains = read(rows, name)
        if gains is None:
            none.append(name)
            continue
        hurt = [str(k + 1) for k, gain in enumerate(gains) if gain < -TINY]
        if hurt:
            harm.append(f"{name} (task {' and '.join(hurt)})")
    said.append(
        f"Harmful: {', '.join(harm)}." if harm else "No step harms a task."
    )
    if none:
        said.append(f"No step: {', '.join(none)}.")
    if len(rows) > 2:
        if "PCGrad" in names:
            said.append("PCGrad cuts in the order 1, 2, 3.")
        said.append(THREE)
    return " ".join(said)


def table(rows: Sequence[Sequence[float]], names: Sequence[str]) -> str:
    """Return the weights and the gains of every method."""
    head = "".join(
        f'<th scope="col"{hidden(k, rows)}>{what} {k + 1}</th>'
        for what in ("weight", "gain")
        for k in range(3)
    )
    lines = []
    for name in names:
        weights, _, gains = read(rows, name)
        values = np.full((2, 3), np.nan)
        values[0, : len(rows)] = weights
        if gains is not None:
            values[1, : len(rows)] = gains
        cells = []
        for part, k in np.ndindex(values.shape):
            value = float(values[part, k])
            text = "–" if np.isnan(value) else number(value)
            harm = ' class="harm"' if part and value < -TINY else ""
            cells.append(f"<td{harm}{hidden(k, rows)}>{text}</td>")
        box = f'<input type="checkbox" checked hidden aria-label="draw {name}">'
        lines.append(
            f'<tr data-method="{name}"><th scope="row">{box}{name}</th>{"".join(cells)}</tr>'
        )
    return f"<table><caption>{GAIN}</caption><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def hidden(task: int, rows: Sequence[Any]) -> str:
    """Hide what belongs to a third task where there are two."""
    return f' data-task="{task + 1}"' + ("" if task < len(rows) else " hidden")


def gradients(
    alt: str, names: Sequence[str], start: str, alike: bool, key: str
) -> str:
    """Return the figure of gradients and steps, as it is before anybody touches it."""
    rows = SETTINGS[start]
    arrows, tips = [], []
    drawn = steps(rows, names, alike)
    for name in names:
        step = drawn.get(name)
        x, y = step["end"] if step else (X0, Y0)
        look = "harm" if step and step["harms"] else ""
        label = (step or {}).get("label") or {
            "x": X0,
            "y": Y0,
            "anchor": "start",
            "text": "",
        }
        arrows.append(
            f'<g class="step {look}" data-method="{name}"{"" if step else " hidden"}>'
            f'<line x1="{X0}" y1="{Y0}" x2="{x:.1f}" y2="{y:.1f}" marker-end="url(#{key}-head)"/>'
            f'<text x="{label["x"]:.1f}" y="{label["y"]:.1f}" text-anchor="{label["anchor"]}">'
            f"{label['text']}</text></g>"
        )
    for k in range(3):
        x, y = rows[k] if k < len(rows) else (0, 0)
        tips.append(
            f'<g class="tip"{hidden(k, rows)}><line x1="{X0}" y1="{Y0}" x2="{X0 + UNIT * x:.1f}" '
            f'y2="{Y0 - UNIT * y:.1f}"/><g transform="translate({X0 + UNIT * x:.1f} '
            f'{Y0 - UNIT * y:.1f})"><circle class="reach" r="22"/><circle class="knob" r="11"/>'
            f'<text y="5">{k + 1}</text></g></g>'
        )
    options = "".join(
        f"<option{' selected' * (s == start)}>{escape(s)}</option>"
        for s in SETTINGS
    )
    data = json.dumps({"settings": SETTINGS, "start": start})
    return (
        f'<div class="touch touch-gradients" data-touch="{escape(data)}">'
        f'<div class="touch-controls" hidden><label>Gradients: <select>{options}</select></label>'
        '<button type="button">Add a third gradient</button>'
        f'<label><input type="checkbox"{" checked" * alike}> draw steps equally long</label>'
        "<p>Drag a numbered tip, or focus it and press the arrow keys.</p></div>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(alt)}">'
        f'<defs><marker id="{key}-head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="6" '
        'markerHeight="6" orient="auto"><path d="M0 0 10 5 0 10z"/></marker></defs>'
        f'<path class="cone" d="{sector(rows)}"/>'
        f'<path class="axes" d="M0 {Y0}H{WIDTH}M{X0} 0V{HEIGHT}"/>{"".join(tips)}{"".join(arrows)}</svg>'
        f'<p class="touch-words" role="status">{in_words(rows, names)}</p>'
        f"{table(rows, names)}</div>"
    )


# ---------------------------------------------------------------------------- weights


@cache
def parcels() -> tuple[dict[str, float], ...]:
    """Return variance, best gain and best angle of each loss of the parcels in ``objective``."""
    generator = np.random.default_rng(0)
    readings = generator.normal(size=(200, 2))
    readings -= readings.mean(axis=0)
    readings = np.sqrt(200) * np.linalg.qr(readings)[0]
    wish = np.deg2rad([20, 80])
    noise = 0.3 * generator.normal(size=(200, 2))
    noise -= noise.mean(axis=0)
    labels = (readings @ [np.cos(wish), np.sin(wish)] + noise).T
    found = []
    for label in labels:
        x, y = label @ readings / 200
        own = math.degrees(math.atan2(y, x)) % 180
        found.append(
            {"variance": label.var(), "best": math.hypot(x, y) ** 2, "own": own}
        )
    return tuple(found)


def losses(place: np.ndarray) -> np.ndarray:
    """Return both losses of the parcels at some angles, a column for each task."""
    return np.stack(
        [
            t["variance"]
            - t["best"] * np.cos(np.deg2rad(place - t["own"])) ** 2
            for t in parcels()
        ],
        1,
    )


def minimum(w: float) -> float:
    """Return the angle at which ``w`` times the first loss and the rest of the other is lowest."""
    own, best = (
        np.array([t[key] for t in parcels()]) for key in ("own", "best")
    )
    parts = np.array([w, 1 - w]) * best
    x, y = (
        parts @ np.cos(np.deg2rad(2 * own)),
        parts @ np.sin(np.deg2rad(2 * own)),
    )
    return math.degrees(math.atan2(y, x)) / 2 % 180


SIZE, EDGE, TOP = (
    300,
    40,
    1.15,
)  # a panel, its margin at the axes, the highest loss shown
PLACES = {"parcels": (0.0, 120.0), "Fonseca and Fleming": (-1.6, 1.6)}
FRONT = "The front, loss of task 2 against loss of task 1, and on it the point where the sum is lowest"
TICKS = {0: "0°", 50: "50°", 100: "100°"}  # of the parcels


def across(value: Any, low: float, high: float) -> Any:
    """Return the pixel of a value on the horizontal axis."""
    return EDGE + (SIZE - EDGE - 10) * (value - low) / (high - low)


def up(value: Any) -> Any:
    """Return the pixel of a loss on the vertical axis."""
    return SIZE - EDGE - (SIZE - EDGE - 10) * value / TOP


def path(x: np.ndarray, y: np.ndarray) -> str:
    """Return a line through points."""
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))


def panel(
    label: str, across_axis: str, up_axis: str, ticks: str, inside: str
) -> str:
    """Return one of the two pictures: its axes and what is in it."""
    bottom, middle = SIZE - EDGE, (SIZE + EDGE - 10) / 2
    heights = "".join(
        f'<text class="tick" x="{EDGE - 14}" y="{up(value) + 5:.1f}">{value:g}</text>'
        for value in (0.5, 1)
    )
    return (
        f'<svg viewBox="0 0 {SIZE} {SIZE}" role="img" aria-label="{escape(label)}">'
        f'<path class="frame" d="M{EDGE} 10V{bottom}H{SIZE - 10}"/>{heights}'
        f'<g class="ticks">{ticks}</g>{inside}<text class="across" x="{middle}" y="{SIZE - 5}">{across_axis}</text>'
        f'<text transform="translate(12 {middle - EDGE + 10}) rotate(-90)">{up_axis}</text></svg>'
    )


def tick(pixel: float, text: str) -> str:
    """Return a number on the horizontal axis."""
    return f'<text class="tick" x="{pixel:.1f}" y="{SIZE - EDGE + 16}">{text}</text>'


def weights(alt: str, key: str) -> str:
    """Return the figure of the weight, the minimum and the front, before anybody touches it."""
    w, (low, high) = 0.5, PLACES["parcels"]
    place = np.linspace(low, high, 121)
    both = losses(place)
    total = both @ [w, 1 - w]
    best = minimum(w)
    found = losses(np.array([best]))[0]
    value = found @ [w, 1 - w]
    front = losses(np.linspace(parcels()[0]["own"], parcels()[1]["own"], 61))
    x = across(place, low, high)
    left = "".join(
        f'<path class="{name}" d="{path(x, up(line))}"/>'
        for name, line in (
            ("task-1", both[:, 0]),
            ("task-2", both[:, 1]),
            ("total", total),
        )
    )
    left += f'<g class="lowest"><circle r="6" cx="{across(best, low, high):.1f}" cy="{up(value):.1f}"/></g>'
    ends = np.array([[0, value / (1 - w)], [value / w, 0]])
    right = (
        f'<clipPath id="{key}-clip"><path d="M{EDGE} 10V{SIZE - EDGE}H{SIZE - 10}V10Z"/></clipPath>'
        f'<path class="front" d="{path(across(front[:, 0], 0, TOP), up(front[:, 1]))}"/>'
        f'<path class="level" clip-path="url(#{key}-clip)" '
        f'd="{path(across(ends[:, 0], 0, TOP), up(ends[:, 1]))}"/><g class="trail"></g>'
        f'<g class="lowest"><circle r="6" cx="{across(found[0], 0, TOP):.1f}" cy="{up(found[1]):.1f}"/></g>'
    )
    angles = "".join(
        tick(across(angle, low, high), text) for angle, text in TICKS.items()
    )
    heights = "".join(
        tick(across(value, 0, TOP), f"{value:g}") for value in (0.5, 1)
    )
    options = "".join(f"<option>{name}</option>" for name in PLACES)
    return (
        f'<div class="touch touch-weights" data-touch="{escape(json.dumps(parcels()))}">'
        f'<div class="touch-controls" hidden><label>Losses: <select>{options}</select></label>'
        '<label>Weight w of task 1: <input type="range" min="0.01" max="0.99" step="0.01" value="0.5"> '
        '<output>0.50</output></label><button type="button">Try all weights</button>'
        '<p>Squares mark where the lowest point has been.</p></div><div class="touch-panels">'
        + panel(alt, "angle of the trunk", "loss", angles, left)
        + panel(FRONT, "loss of task 1", "loss of task 2", heights, right)
        + '</div><p class="touch-key"><span class="task-1">task 1</span> <span class="task-2">task 2'
        '</span> <span class="total">weighted sum</span> <span class="level">equal sums</span></p>'
        f'<p class="touch-words" role="status">{place_in_words(w, best, found)}</p></div>'
    )


def place_in_words(w: float, best: float, found: np.ndarray) -> str:
    """Say where the weighted sum is lowest."""
    return (
        f"With w = {number(w)} the sum is lowest at {best:.1f}°. "
        f"Loss of task 1: {number(found[0])}, of task 2: {number(found[1])}."
    )


# ---------------------------------------------------------------------------- the directive


def methods(argument: str) -> list[str]:
    """Return the methods named in an option."""
    names = argument.replace(",", " ").split()
    if unknown := [name for name in names if name not in CLASSES]:
        raise ValueError(
            f"unknown methods {unknown}; known are {list(CLASSES)}"
        )
    return names


class Touch(SphinxDirective):
    """Put the figure, its controls and its caption into the page."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {
        "alt": directives.unchanged_required,
        "methods": methods,
        "name": directives.unchanged,
        "start": directives.unchanged,
        "alike": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        """Return a figure; its body is the caption."""
        kind, options = self.arguments[0], self.options
        if kind not in SCRIPTS:
            raise self.error(
                f"there is no figure {kind!r} to touch; known are {list(SCRIPTS)}"
            )
        if len(options.get("alt", "").split()) < 3:
            raise self.error(
                "say in option alt what is to be seen before anything is moved"
            )
        start = options.get("start", "the sum harms task 1")
        if start not in SETTINGS:
            raise self.error(
                f"unknown start {start!r}; known are {list(SETTINGS)}"
            )
        key = f"touch-{self.env.new_serialno('touch')}"
        if kind == "gradients":
            names = options.get("methods", list(CLASSES))
            html = gradients(
                options["alt"], names, start, "alike" in options, key
            )
        else:
            html = weights(options["alt"], key)
        figure = nodes.figure(
            "", nodes.raw("", html, format="html"), touch=kind
        )
        caption = nodes.caption()
        self.state.nested_parse(
            self.content, self.content_offset, parsed := nodes.Element()
        )
        for paragraph in parsed.children:
            caption += paragraph.children
        self.set_source_info(figure)
        self.set_source_info(caption)
        figure += caption
        self.add_name(figure)
        return [figure]


def add_scripts(
    app: Sphinx,
    page: str,
    template: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Load the scripts on a page that has such a figure, and on no other."""
    kinds = (
        [f["touch"] for f in doctree.findall(nodes.figure) if "touch" in f]
        if doctree
        else []
    )
    if kinds:
        for script in [
            *(SCRIPTS[kind] for kind in dict.fromkeys(kinds)),
            "figures.js",
        ]:
            app.add_js_file(script, loading_method="defer")
        app.add_css_file("touch.css")


def add_static(app: Sphinx, config: Config) -> None:
    """Copy the scripts beside the pages."""
    config.html_static_path.append(str(STATIC))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive and the folder of its scripts."""
    app.add_directive("touch", Touch)
    app.connect("html-page-context", add_scripts)
    app.connect("config-inited", add_static)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
