"""The ``{verdict}`` role: what an experiment said about one of its primary comparisons.

``{verdict}`start/first-network: shared against linear (gains)` `` reads the result file, and shows the
word with gain and interval. The word in brackets is what the text around it relies on: if the result
says another one, the build stops, and the text has to be written anew. Where the pair was compared by
several metrics, add ``of metric`` before the bracket. An experiment without a script is one to come.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

from experiment import gained

METRICS = {
    "auc": "AUC",
    "f1": "F1",
    "iou": "IoU",
    "mae": "mean error",
    "hidden": "share of errors",
    "explained": "share explained",
}
"""What to call metrics whose names in results are short."""


def parts(text: str) -> tuple[str, str, str]:
    """Return the experiment, the comparison and the expected word ("" if none is given).

    Raises
    ------
    ValueError
        The text is of another form.
    """
    form = r"(?P<name>[\w/-]+): (?P<pair>.+? against .+?)(?: \((?P<word>[a-z ]+)\))?"
    match = re.fullmatch(form, text.strip())
    if not match:
        raise ValueError(
            f"{text!r} is not 'part/chapter: one against other (word)'"
        )
    return match["name"], match["pair"], match["word"] or ""


def claim(found: dict[str, Any], pair: str, word: str) -> dict[str, Any]:
    """Return the primary comparison of this name.

    Raises
    ------
    ValueError
        There is none, or its verdict is not the expected word.
    """
    said = []
    for each in found["primary"]:
        said.append(f"{each['condition']} against {each['against']}")
        if pair not in (said[-1], f"{said[-1]} of {each['metric']}"):
            continue
        if word and each["verdict"] != word:
            raise ValueError(
                f"{pair}: the text relies on {word!r}, the result is {each['verdict']!r}"
            )
        return dict(each)
    raise ValueError(f"no primary comparison is {pair!r}; there are {said}")


def verdict(experiments: Path, text: str) -> str:
    """Return what to show, as MyST; ``experiments`` is the folder of scripts and results.

    Raises
    ------
    ValueError
        The text is malformed, or the result does not say this, or has not been computed.
    """
    name, pair, word = parts(text)
    result = experiments / "results" / f"{name}.json"
    if result.is_file():
        each = claim(json.loads(result.read_text(encoding="utf-8")), pair, word)
        metric, points, _ = gained(each)
        metric = metric.split()[-1]  # of whom, the text says
        points = re.sub(r"[+-](?=0\.0+ )", "", points).replace("-", "−")
        return (
            f"**{each['verdict']}** ({METRICS.get(metric, metric)}: {points})"
        )
    if (experiments / f"{name}.py").is_file():
        raise ValueError(f"experiment {name!r} has no result yet")
    return "*to come*"


class Verdict(SphinxRole):
    """Show a verdict with its gain."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the words, or an error that says what is wrong."""
        try:
            source = verdict(
                Path(self.env.srcdir).parent / "experiments", self.text
            )
        except ValueError as error:
            message = self.inliner.reporter.error(
                f"{{verdict}}: {error}", line=self.lineno
            )
            return [], [message]
        found, messages = self.inliner.parse(
            source, self.lineno, self.inliner, nodes.inline()
        )
        return found, messages


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the role."""
    app.add_role("verdict", Verdict())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
