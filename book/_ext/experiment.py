"""The ``{experiment} part/chapter`` directive: what stands behind a page's claims, and where to open it.

It shows the primary comparisons of a result, what so many seeds would have found, and how the result
came about; script and result are copied beside the pages, so that they open without a network.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

DATA = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}


def gained(each: dict[str, Any]) -> tuple[str, str, str]:
    """Return the metric, the gain, and that of twice the training ("" if there is none), as text."""
    from mtl_tutorial.comparison import (
        points,
    )  # only pages with experiments need the library

    metric = each["metric"].removeprefix("test_").replace("_", " ")
    metric = "Δm" if each["metric"] == "delta_m" else metric
    return (
        metric,
        points(each),
        points(each["twice"]) if "twice" in each else "",
    )


def markdown(found: dict[str, Any], name: str) -> list[str]:
    """Return the table and its source as lines of MyST."""
    rows = []
    for each in found["primary"]:
        word = each["verdict"]
        if word == "unsettled":
            word += (
                f" ({each['verdict_once']}, then {each['twice']['verdict']})"
            )
        pair = f"{each['condition']} against {each['against']}"
        metric, once, longer = gained(each)
        delta = each["metric"] == "delta_m"  # a fraction; shown in per cent
        power = ""
        if each["detectable"] is not None:
            power = f"{each['detectable'] * (100 if delta else 1):.2g}"
        rows.append(
            f"| {pair} | {metric} | {once} | {longer} | {power} | **{word}** |"
        )
    origin = found["provenance"]
    data = DATA.get(origin["data"]["name"], origin["data"]["name"])
    seeds = len(found["seeds"])
    source = (
        f"{seeds} seeds on {data}, paired; ± is a 95 % interval. Verdicts are corrected for the "
        f"{len(found['primary'])} comparisons, and hold only if training twice as long gives the "
        f"same. *Would be found*: the smallest true gain that {seeds} seeds find in four of five "
        f"such experiments. Run on {origin['date']} with version {origin['version']} on "
        f"{origin['machine']}, {origin['minutes']:.0f} minutes of training. "
        f"Open {{download}}`the script </../experiments/{name}.py>` or "
        f"{{download}}`all its numbers </../experiments/results/{name}.json>`."
    )
    return [
        "| comparison | of | gain, points | trained twice as long | would be found | verdict |",
        "| :-- | :-- | :-- | :-- | :-- | :-- |",
        *rows,
        "",
        source,
    ]


class Experiment(SphinxDirective):
    """Render the result of an experiment."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table and its source in a box."""
        name = self.arguments[0]
        folder = Path(self.env.srcdir).parent / "experiments"
        path = folder / "results" / f"{name}.json"
        if not path.is_file():
            raise ExtensionError(
                f"{self.env.docname}: there is no {path.relative_to(folder.parent)}"
            )
        self.env.note_dependency(str(path))
        found = json.loads(path.read_text(encoding="utf-8"))
        box = nodes.container(classes=["experiment"])
        self.state.nested_parse(
            StringList(markdown(found, name), source=__file__), 0, box
        )
        return [box]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("experiment", Experiment)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
