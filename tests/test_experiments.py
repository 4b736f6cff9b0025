"""Experiments: results with provenance, kept runs, and every way in which a result can be stale."""

import json
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mtl_tutorial import experiments
from mtl_tutorial.datasets import Dataset, Split

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "experiments").glob("*/*.py"))

SCRIPT = '''"""A question."""

import numpy as np

from mtl_tutorial import experiments
from mtl_tutorial.datasets import Dataset, Split

GAIN = 1.0
calls = []


def data(source):
    """Give two images."""
    split = Split(np.zeros((2, 3), np.float32), {"digit": np.arange(2)})
    return Dataset("dots", source, split, split, split)


def train(condition, setting, seed, steps):
    """Train."""
    calls.append((experiments.source(), condition, setting, seed, steps))
    luck = np.random.default_rng(seed).normal()
    right = 50 + GAIN * (condition == "shared") * (10 + luck) + setting
    return {"valid_accuracy": right, "test_accuracy": right + luck}


CONDITIONS = ("alone", "shared")
SETTINGS = [0.1, 0.2]


def main(*arguments):
    """Run."""
    return experiments.main(
        __file__, train, {name: SETTINGS for name in CONDITIONS}, data=data, seeds=range(10),
        steps=7, smoke_steps=2, choose_by="valid_accuracy", baseline="alone",
        primary=[("shared", "alone", "test_accuracy")], arguments=["--workers", "1", *arguments])
'''


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "experiments" / "part" / "chapter.py"
    path.parent.mkdir(parents=True)
    path.write_text(SCRIPT, "utf-8")
    return path


def load(script: Path, **changes: Any) -> SimpleNamespace:
    """Read the script anew, with some of its names changed."""
    names = runpy.run_path(str(script))["main"].__globals__
    names.update(changes)
    return SimpleNamespace(**names)


def result(script: Path) -> Path:
    return script.parents[1] / "results" / "part" / "chapter.json"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def test_a_result_says_where_it_comes_from(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load(script).main() == 0
    assert "gains" in capsys.readouterr().out
    monkeypatch.setattr(experiments, "HERE", script.parents[2] / "library")
    found = experiments.read("part/chapter")
    assert found["primary"][0]["verdict"] == "gains"
    assert found["chosen"] == {"alone": 0.2, "shared": 0.2}
    assert set(found["provenance"]) == {*experiments.PROVENANCE, "roundings"}
    assert found["provenance"]["data"]["source"] == "real"
    assert len(found["provenance"]["smoke"]) == 2 * 2 + 2  # settings, and the chosen for longer


def test_a_result_that_does_not_exist_is_named_with_those_that_do(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(script).main()
    monkeypatch.setattr(experiments, "HERE", script.parents[2] / "library")
    with pytest.raises(FileNotFoundError, match=r"'part/other'; there are \['part/chapter'\]"):
        experiments.read("part/other")


def test_a_smoke_run_takes_embedded_data_and_few_steps_and_one_seed(script: Path) -> None:
    module = load(script)
    assert module.main("--smoke") == 1  # no result yet
    assert {(call[0], call[3]) for call in module.calls} == {("embedded", 0)}
    assert {call[4] for call in module.calls} == {2, 4}
    assert experiments.source() == "real"
    assert not result(script).exists()


def test_what_is_in_order_is_left_alone(script: Path) -> None:
    load(script).main()
    written = result(script).read_bytes()
    again = load(script)
    assert again.main() == again.main("--smoke") == 0
    assert {call[0] for call in again.calls} == {"embedded"}
    assert result(script).read_bytes() == written


def test_another_docstring_or_layout_makes_nothing_stale(script: Path) -> None:
    load(script).main()
    edit(script, '"""Train."""', '"""Train\n\n    for longer."""\n    # said')
    assert load(script).main("--smoke") == 0


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("steps=7", "steps=8", "the script has changed since"),
        ("GAIN = 1.0", "GAIN = 1.01", "its smoke run gives other numbers than then"),
        ('"alone", "shared")', '"alone", "shared", "third")', "other runs: condition 'third'"),
    ],
)
def test_another_script_makes_a_result_stale(
    script: Path, old: str, new: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    load(script).main()
    edit(script, old, new)
    assert load(script).main("--smoke") == 1
    assert reason in capsys.readouterr().out


def test_a_library_that_trains_otherwise_makes_a_result_stale(
    script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(script).main()
    assert load(script, GAIN=1.002).main("--smoke") == 1
    assert "condition 'shared'" in capsys.readouterr().out


@pytest.mark.parametrize(("gain", "status"), [(1.02, 0), (1.5, 1)])
def test_on_another_processor_single_images_may_turn(
    script: Path, gain: float, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(script).main()
    monkeypatch.setattr(experiments, "_roundings", lambda: "others")
    assert load(script, GAIN=gain).main("--smoke") == status


def test_on_another_processor_another_setting_may_be_trained_longer(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(script).main()
    edit(result(script), "'alone', setting 0.2, seed 0, 4", "'alone', setting 0.1, seed 0, 4")
    assert load(script).main("--smoke") == 1
    monkeypatch.setattr(experiments, "_roundings", lambda: "others")
    assert load(script).main("--smoke") == 0


@pytest.mark.parametrize("key", experiments.PROVENANCE)
def test_a_result_without_its_provenance_is_stale(
    script: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    load(script).main()
    found = json.loads(result(script).read_text("utf-8"))
    del found["provenance"][key]
    result(script).write_text(json.dumps(found), "utf-8")
    assert load(script).main("--smoke") == 1
    assert f"lacks its provenance: {key}" in capsys.readouterr().out


def test_a_result_from_embedded_data_is_no_evidence(
    script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(script).main()
    edit(result(script), '"source": "real"', '"source": "embedded"')
    assert load(script).main("--smoke") == 1
    assert "not computed from the real data" in capsys.readouterr().out


def test_a_result_from_data_that_a_program_writes_is_not_stale(script: Path) -> None:
    load(script).main()
    edit(result(script), '"source": "real"', '"source": "generated"')
    assert load(script).main("--smoke") == 0


def test_a_new_condition_trains_only_that(script: Path) -> None:
    load(script).main()
    third = load(script, CONDITIONS=("alone", "shared", "third"))
    assert third.main() == 0
    real = [call for call in third.calls if call[0] == "real"]
    assert {call[1] for call in real} == {"third"}
    assert "third" in json.loads(result(script).read_text("utf-8"))["means"]


def test_a_setting_more_trains_only_that(script: Path) -> None:
    load(script).main()
    wider = load(script, SETTINGS=[0.1, 0.2, 0.15])
    assert wider.main() == 0
    assert {call[2] for call in wider.calls if call[0] == "real"} == {0.15}


def test_what_a_changed_library_trained_before_is_trained_again(script: Path) -> None:
    load(script).main()
    other = load(script, GAIN=2.0)  # which only "shared" notices
    assert other.main() == 0
    real = [call for call in other.calls if call[0] == "real"]
    assert {call[1] for call in real} == {"shared"}
    assert len(real) == 2 * 10 + 10
    mean = json.loads(result(script).read_text("utf-8"))["primary"][0]["mean"]
    luck = np.mean([np.random.default_rng(seed).normal() for seed in range(10)])
    assert np.isclose(mean, 2 * (10 + luck), rtol=1e-5)


def test_other_data_are_noticed_and_trained_on(
    script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load(script)
    module.main()

    def other(source: str) -> Dataset:
        data: Dataset = module.data(source)
        split = Split(data.train.inputs + 1, data.train.targets)
        return replace(data, train=split)

    again = load(script, data=other)
    assert again.main("--again") == 1
    assert "the data have changed since" in capsys.readouterr().out
    assert again.main() == 0
    assert sum(call[0] == "real" for call in again.calls) == 2 * 2 * 10 + 2 * 10


def test_a_real_run_takes_real_data_whatever_the_shell_says(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(experiments.SMOKE, "1")
    module = load(script)
    assert module.main() == 0
    assert sum(call[0] == "real" for call in module.calls) == 2 * 2 * 10 + 2 * 10


def test_training_one_seed_again_finds_what_moved(
    script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(script).main()
    again = load(script)
    assert again.main("--again") == 0
    real = [call for call in again.calls if call[0] == "real"]
    assert [call[1:] for call in real] == [("alone", 0.2, 0, 7), ("shared", 0.2, 0, 7)]

    def moved(condition: str, setting: float, seed: int, steps: int) -> dict[str, float]:
        found: dict[str, float] = again.train(condition, setting, seed, steps)
        real = experiments.source() == "real"  # the smoke run sees nothing
        return {name: value + 5 * real for name, value in found.items()}

    assert load(script, train=moved).main("--again") == 1
    assert "test_accuracy is" in capsys.readouterr().out


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_experiment_of_the_book_is_not_stale(path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(path), "--smoke"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, f"{run.stdout}{run.stderr[-2000:]}; run make experiments"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_experiment_of_the_book_keeps_the_protocol(path: Path) -> None:
    name = f"{path.parent.name}/{path.stem}"
    found = experiments.read(name)
    assert (ROOT / "experiments" / "results" / f"{name}.json").stat().st_size <= 100_000
    assert len(found["seeds"]) >= 10
    assert found["steps"]  # so that verdicts were seen again after twice as many
    assert 1 <= len(found["primary"]) <= 4
    assert _names_its_questions(path, found)


def _names_its_questions(path: Path, found: dict[str, Any]) -> bool:
    """Say whether the head of a script names as many questions as it answers."""
    head = path.read_text("utf-8").split('"""')[1]
    return all(f"\n{number}. " in head for number in range(1, len(found["primary"]) + 1))


def test_every_result_has_its_script() -> None:
    results = ROOT / "experiments" / "results"
    names = {path.relative_to(results).with_suffix("") for path in results.rglob("*.json")}
    scripts = {path.relative_to(ROOT / "experiments").with_suffix("") for path in SCRIPTS}
    assert names == scripts
