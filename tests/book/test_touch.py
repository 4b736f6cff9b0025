"""Figures that a reader can move: their numbers are the library's, with JavaScript and without."""

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from sphinx.application import Sphinx

from .small_book import ROOT
from .touching import IN_NODE, METHODS, as_json, differences, grid, library, script

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is missing; tests/browser does the same")
PAGE = """# A page

```{touch} gradients
:alt: Two gradients and the step of each method
:name: fig-touch
Drag $g_1$ and *see*.
```

See {numref}`fig-touch`.
"""


@pytest.fixture(scope="module")
def touch() -> Iterator[ModuleType]:
    """Import the extension from its folder, as Sphinx does."""
    folder = str(ROOT / "book" / "_ext")
    sys.path.append(folder)
    yield importlib.import_module("touch")
    sys.path.remove(folder)


def node(program: str, *arguments: object, stdin: str = "") -> Any:
    """Run JavaScript; return what it prints."""
    assert NODE is not None
    command = [NODE, "-e", program, *map(str, arguments)]
    return json.loads(
        subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout
    )


# ---------------------------------------------------------------------------- the scripts


@needs_node
def test_the_script_gives_the_weights_of_the_library() -> None:
    jacobians = grid()
    assert len(jacobians) > 1000
    found = node(IN_NODE, script("gradients.js"), stdin=as_json(jacobians))
    assert differences(jacobians, found) == []


def test_a_wrong_weight_is_noticed() -> None:
    jacobian = np.array([[1.0, 0.0], [-0.5, 2.0]])
    right = [library(name, jacobian).tolist() for name in METHODS]
    assert differences([jacobian], [right]) == []
    right[1][0] += 1e-5
    (found,) = differences([jacobian], [right])
    assert found.startswith("MGDA of [[1.0, 0.0], [-0.5, 2.0]]")


@needs_node
def test_pcgrad_in_any_order() -> None:
    draws = np.random.default_rng(0)
    program = """
        const { methods } = require(process.argv[1]);
        const [gramian, orders] = JSON.parse(process.argv[2]);
        console.log(JSON.stringify(methods.PCGrad(gramian, orders)))"""
    for seed in range(5):
        jacobian = draws.normal(size=(3, 4))
        gramian = jacobian @ jacobian.T
        generator = np.random.default_rng(seed)
        orders = [generator.permutation(3).tolist() for _ in range(3)]
        found = node(program, script("gradients.js"), json.dumps([gramian.tolist(), orders]))
        np.testing.assert_allclose(found, METHODS["PCGrad"](seed)(np.zeros(3), gramian), rtol=1e-9)


@needs_node
def test_the_cone_holds_exactly_the_steps_that_hurt_no_task(touch: ModuleType) -> None:
    program = """
        const { cone } = require(process.argv[1]);
        console.log(JSON.stringify(JSON.parse(process.argv[2]).map(cone)))"""
    draws = np.random.default_rng(0)
    trios = [draws.normal(size=(2 + number % 2, 2)).round(1) for number in range(50)]
    rows = json.dumps([trio.tolist() for trio in trios])
    around = np.deg2rad(np.linspace(-180, 180, 721) + 0.1)
    for trio, (low, high) in zip(trios, node(program, script("gradients.js"), rows), strict=True):
        harmless = (np.c_[np.cos(around), np.sin(around)] @ trio.T >= 0).all(axis=1)
        inside = (np.rad2deg(around) - low) % 360 <= high - low
        assert (inside == harmless).all()
        drawn = touch.cone(trio.tolist())
        assert drawn is None if low >= high else drawn == pytest.approx((low, high))


@needs_node
def test_the_weighted_sum_is_lowest_where_the_script_says(touch: ModuleType) -> None:
    program = """
        const { parcels, pair } = require(process.argv[1]), [tasks, weights] = JSON.parse(process.argv[2]);
        console.log(JSON.stringify([parcels(tasks), pair()].map(
            losses => weights.map(w => losses.minima(w).map(place => [place, ...losses.losses(place)])))))"""
    weights = np.linspace(0.01, 0.99, 99).round(2)
    both = node(program, script("weighted_sum.js"), json.dumps([touch.parcels(), weights.tolist()]))
    for places, losses, minima in zip(
        (np.linspace(0, 180, 180_001), np.linspace(-1.5, 1.5, 300_001)),
        (touch.losses, lambda x: 1 - np.exp(-((x[:, None] - [1, -1]) ** 2))),
        both,
        strict=True,
    ):
        table = losses(places)
        for w, found in zip(weights, minima, strict=True):
            total = table @ [w, 1 - w]
            for place, *at in found:
                assert np.dot(at, [w, 1 - w]) == pytest.approx(total.min(), abs=1e-9)
                np.testing.assert_allclose(at, losses(np.array([place]))[0], atol=1e-9)
        assert [len(found) for found in minima].count(2) == (losses is not touch.losses)


def test_the_parcels_are_those_of_the_page(touch: ModuleType) -> None:
    notebook = nbformat.read(ROOT / "book" / "foundations" / "objective.ipynb", as_version=4)
    cells = [
        c.source
        for c in notebook.cells
        if c.cell_type == "code" and "hide-input" not in c.metadata.get("tags", [])
    ]
    names: dict[str, Any] = {}
    for cell in cells[:2]:
        # the code of our own page, up to where it draws
        exec(cell.partition("\n\n\ndef explained")[0].partition("\nunits =")[0], names)  # noqa: S102
    expected = np.stack([names["loss"](names["length"]), names["loss"](names["mass"])], axis=1)
    np.testing.assert_allclose(touch.losses(names["angles"]), expected, atol=1e-12)
    best = expected @ [0.3, 0.7]
    assert touch.minimum(0.3) == pytest.approx(names["angles"][best.argmin()], abs=0.06)


# ---------------------------------------------------------------------------- without JavaScript


@pytest.mark.parametrize("start", range(8))
def test_what_stands_in_the_page_are_the_numbers_of_the_library(
    touch: ModuleType, start: int
) -> None:
    name = list(touch.SETTINGS)[start]
    rows = np.array(touch.SETTINGS[name])
    page = BeautifulSoup(
        touch.gradients("Two gradients", list(METHODS), name, False, "t"), "html.parser"
    )
    for line in page.select("tbody tr"):
        method = str(line["data-method"])
        expected = library(method, rows)
        step = expected @ rows
        shown = [cell.get_text() for cell in line.select("td:not([hidden])")]
        assert shown[: len(rows)] == [touch.number(weight) for weight in expected]
        for gain, row in zip(shown[len(rows) :], rows, strict=True):
            size = np.linalg.norm(row) * np.linalg.norm(step)
            harm = gain.startswith("−")
            assert gain == ("–" if size < 1e-6 else touch.number(row @ step / size)) or not harm
    # select_one may give None by its type; then the test fails, as it should
    assert page.select_one("svg")["aria-label"] == "Two gradients"  # type: ignore[index]
    assert page.select_one(".touch-controls")["hidden"] == ""  # type: ignore[index]
    assert all("hidden" in box.attrs for box in page.select("tbody input"))


def test_words_say_conflict_and_harm(touch: ModuleType) -> None:
    words = touch.in_words(touch.SETTINGS["the sum harms task 1"], ["sum", "UPGrad"])
    assert "In conflict: 1 and 2." in words
    assert "Harmful: sum (task 1)." in words
    words = touch.in_words(touch.SETTINGS["opposite gradients"], ["sum", "UPGrad"])
    assert "No step: UPGrad." in words
    assert "No conflict. No step harms a task." in touch.in_words([[1, 0], [1, 1]], ["sum"])


# ---------------------------------------------------------------------------- the directive


def build(folder: Path, page: str) -> str:
    """Build a page, and one without figures; return what Sphinx warns of."""
    (folder / "index.md").write_text(page, "utf-8")
    (folder / "other.md").write_text("---\norphan: true\n---\n# Another\n", "utf-8")
    settings = {
        "extensions": ["myst_parser", "touch"],
        "myst_enable_extensions": ["dollarmath"],
        "numfig": True,
    }
    out = folder / "out"
    warnings = (folder / "warnings").open("w+", encoding="utf-8")
    with warnings:
        Sphinx(folder, None, out, folder / "trees", "html", settings, None, warnings).build()
        warnings.seek(0)
        return warnings.read()


def test_only_a_page_with_a_figure_loads_scripts(tmp_path: Path, touch: ModuleType) -> None:
    assert build(tmp_path, PAGE) == ""
    page = BeautifulSoup((tmp_path / "out" / "index.html").read_text("utf-8"), "html.parser")
    loaded = [str(tag["src"]).partition("?")[0] for tag in page.select("script[src]")]
    ours = [name for name in loaded if (touch.STATIC / Path(name).name).is_file()]
    assert ours == ["_static/gradients.js", "_static/figures.js"]
    assert all((tmp_path / "out" / name).is_file() for name in [*ours, "_static/touch.css"])
    figure = page.select_one("figure#fig-touch")
    assert figure is not None
    # as above: None fails the test
    assert figure.select_one("figcaption em").get_text() == "see"  # type: ignore[union-attr]
    assert "Fig. 1" in page.get_text()
    other = (tmp_path / "out" / "other.html").read_text("utf-8")
    assert not any(name in other for name in ("gradients.js", "figures.js", "touch.css"))


@pytest.mark.usefixtures("touch")
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{touch} gradients", "{touch} nothing", "there is no figure 'nothing' to touch"),
        (":alt: Two gradients and the step of each method", ":alt: picture", "say in option alt"),
        (":name: fig-touch", ":start: nowhere", "unknown start 'nowhere'"),
        (":name: fig-touch", ":methods: sum, Magic", "unknown methods ['Magic']"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    page = PAGE.replace("See {numref}`fig-touch`.", "")
    assert old in page
    assert message in build(tmp_path, page.replace(old, new))
