"""A page and the results of experiments: what is shown of them, and that outputs age with them."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

CLAIM = {
    "condition": "shared",
    "against": "alone",
    "metric": "test_digit_accuracy",
    "mean": 6.94,
    "half_width": 1.1,
    "detectable": 1.52,
    "verdict": "gains",
    "verdict_once": "gains",
    "twice": {"mean": 7.2, "half_width": 1.3, "verdict": "gains"},
}
FOUND: dict[str, Any] = {
    "primary": [CLAIM],
    "seeds": list(range(10)),
    "provenance": {
        "data": {"name": "mnist"},
        "date": "2026-11-27",
        "version": "0.1.0",
        "machine": "2 cores",
        "minutes": 12.3,
    },
}


@pytest.fixture
def shown(build_script: ModuleType) -> Callable[[dict[str, Any]], str]:
    """Return what the directive shows; ``build.py`` has put it on the import path."""
    from experiment import markdown

    return lambda found: "\n".join(markdown(found, "start/first-network"))


def test_a_claim_stands_with_its_gain_its_power_and_its_verdict(
    shown: Callable[[dict[str, Any]], str],
) -> None:
    row = "| shared against alone | digit accuracy | +6.9 ± 1.1 | +7.2 ± 1.3 | 1.5 | **gains** |"
    assert row in shown(FOUND)


def test_a_gain_in_delta_m_is_shown_in_per_cent(shown: Callable[[dict[str, Any]], str]) -> None:
    delta = {"metric": "delta_m", "mean": 0.0694, "half_width": 0.011, "detectable": 0.0152}
    longer = {"metric": "delta_m", "mean": 0.072, "half_width": 0.013, "verdict": "gains"}
    row = "| shared against alone | Δm | +6.9 ± 1.1 | +7.2 ± 1.3 | 1.5 | **gains** |"
    assert row in shown(FOUND | {"primary": [CLAIM | delta | {"twice": longer}]})


def test_script_and_numbers_are_linked_with_seeds_data_date_and_machine(
    shown: Callable[[dict[str, Any]], str],
) -> None:
    text = shown(FOUND)
    assert "</../experiments/start/first-network.py>" in text
    assert "</../experiments/results/start/first-network.json>" in text
    assert "10 seeds on MNIST" in text
    assert "2026-11-27 with version 0.1.0 on 2 cores, 12 minutes" in text


def test_a_verdict_that_training_changes_is_shown_with_both(
    shown: Callable[[dict[str, Any]], str],
) -> None:
    longer = {"mean": 0.1, "half_width": 1.3, "verdict": "no clear difference"}
    claim = CLAIM | {"verdict": "unsettled", "twice": longer}
    text = shown(FOUND | {"primary": [claim]})
    assert "**unsettled (gains, then no clear difference)**" in text


def test_outputs_age_with_the_results_that_the_page_reads(
    build_script: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "_config.yml").touch()
    page = tmp_path / "book" / "part" / "chapter.ipynb"
    results = tmp_path / "experiments" / "results" / "part"
    for folder in (page.parent, results):
        folder.mkdir(parents=True)
    source = 'found = experiments.read("part/chapter")'
    nbformat.write(new_notebook(cells=[new_code_cell(source)]), page)
    own, other = results / "chapter.json", results / "other.json"
    own.write_text("{}", "utf-8")
    before = build_script.evidence(page)
    other.write_text("{}", "utf-8")
    assert build_script.evidence(page) == before
    own.write_text('{"mean": 1}', "utf-8")
    assert build_script.evidence(page) != before
