"""The recipes train as a plain loop does, in one process and in two."""

import ast
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, StackDataset

from mtl_tutorial.datasets import digits
from mtl_tutorial.pytorch import (
    HardSharing,
    batch_losses,
    evaluate,
    linear_heads,
    mlp,
    mtl_backward,
)
from mtl_tutorial.tasks import Binary, Classification
from mtl_tutorial.weighting import UPGrad

FOLDER = Path(__file__).parents[2] / "examples"
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
SETTINGS: dict[str, dict[str, Any]] = {"lightning": QUIET, "accelerate": {"cpu": True}}
each_recipe = pytest.mark.parametrize("package", SETTINGS)


@pytest.fixture(scope="module")
def plain() -> dict[str, float]:
    """Train by hand."""
    torch.manual_seed(0)
    tasks, data, weighting = (
        [Classification("digit", classes=10), Binary("gt5")],
        digits(),
        UPGrad(),
    )
    model = HardSharing(mlp(784, 64), linear_heads(tasks, features=64))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    rows = StackDataset(data.train.inputs, StackDataset(**data.train.targets))  # type: ignore[arg-type]
    loader = DataLoader(rows, batch_size=64, shuffle=True)
    for _ in range(5):
        for inputs, targets in loader:
            features = model.trunk(inputs)
            outputs = {name: head(features) for name, head in model.heads.items()}
            losses = batch_losses(tasks, outputs, targets)
            optimizer.zero_grad()
            mtl_backward(losses, features, weighting, model.trunk.parameters())
            optimizer.step()
    return evaluate(model, tasks, data.valid)


@pytest.mark.filterwarnings(
    "ignore"
)  # what the packages have to say of themselves and of DataLoader
@each_recipe
def test_recipe_trains_as_a_plain_loop(package: str, plain: dict[str, float]) -> None:
    pytest.importorskip(package, reason=f"the recipe is about {package}")
    torch.manual_seed(0)
    main = runpy.run_path(str(FOLDER / f"with_{package}.py"))["main"]
    assert main(**SETTINGS[package]) == pytest.approx(plain, abs=1e-6)
    assert plain["digit_accuracy"] > 0.9


@each_recipe
def test_two_processes_end_with_one_model(package: str, tmp_path: Path) -> None:
    pytest.importorskip(package, reason=f"the recipe is about {package}")
    settings, command = SETTINGS[package], [sys.executable]
    if package == "lightning":
        settings = settings | {"devices": 2, "strategy": "ddp"}
    else:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    program = tmp_path / "program.py"
    program.write_text(
        f"import json, os, pathlib, sys\nsys.path.insert(0, {str(FOLDER)!r})\n"
        f"from with_{package} import main\nfound = json.dumps(main(**{settings!r}))\n"
        f"pathlib.Path({str(tmp_path)!r}, f'{{os.getpid()}}.json').write_text(found)\n"
    )
    run = subprocess.run(
        [*command, str(program)], capture_output=True, text=True, timeout=240, check=False
    )
    files = list(tmp_path.glob("*.json"))
    assert len(files) == 2, run.stdout + run.stderr
    one, other = (json.loads(file.read_text()) for file in files)
    assert one == other
    assert one["digit_accuracy"] > 0.85


@each_recipe
def test_recipe_is_short(package: str) -> None:
    tree = ast.parse((FOLDER / f"with_{package}.py").read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:]
    tree.body = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    assert len([line for line in ast.unparse(tree).splitlines() if line.strip()]) < 30
