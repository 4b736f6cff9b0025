"""The README's programs run as they stand, and its loop is right where labels are few."""

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mtl_tutorial.datasets
import mtl_tutorial.pytorch
from mtl_tutorial.datasets import Dataset, Split
from mtl_tutorial.tasks import Binary, Classification, Task
from mtl_tutorial.weighting import DWA, FAMO, MGDA, UW, CAGrad, Equal, Weighting

TEXT = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
PROGRAM, LOOP = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
TASKS: list[Task] = [Classification("digit", classes=10), Binary("gt5")]


def made_up(rows: int, seed: int) -> Split:
    generator = np.random.default_rng(seed)
    digit = generator.integers(0, 10, rows)
    images = np.eye(10, 784, dtype=np.float32)[digit].reshape(rows, 28, 28)
    return Split(images, {"digit": digit, "gt5": (digit > 5).astype(np.int64)})


def run(program: str, folder: Path, **names: Any) -> dict[str, Any]:
    """Run a program from a file, and give what it has named."""
    file = folder / "program.py"
    file.write_text(program, encoding="utf-8")
    return runpy.run_path(str(file), names)


def test_the_two_programs_run_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = Dataset("mnist", "real", made_up(640, 0), made_up(64, 1), made_up(64, 2))
    monkeypatch.setattr(mtl_tutorial.datasets, "mnist", lambda: data)
    names = run(PROGRAM + LOOP, tmp_path)
    assert names["history"]["val_digit_accuracy"][-1] == 1
    assert isinstance(names["weighting"], FAMO)
    assert np.abs(names["weighting"].logits).max() > 0  # it was shown what each step did


@pytest.mark.parametrize(
    "make", [CAGrad, MGDA, FAMO, UW, Equal, DWA], ids=lambda make: make.__name__
)
def test_the_loop_learns_from_every_label_where_one_row_in_twenty_has_one(
    make: Callable[[], Weighting], tmp_path: Path
) -> None:
    """A task without a label in the batch is absent: it neither stops the trunk nor gains weight."""
    generator = np.random.default_rng(0)
    train = made_up(800, 0)
    for target in train.targets.values():
        target[generator.random(len(target)) > 0.05] = -1
    torch.manual_seed(0)
    mp = mtl_tutorial.pytorch
    model = mp.HardSharing(mp.mlp(784, 16), mp.linear_heads(TASKS, features=16))
    seen: list[tuple[list[bool], list[bool], bool, Any]] = []

    def watched(losses: Any, features: Any, weighting: Weighting, parameters: Any) -> None:
        for parameter in model.parameters():
            parameter.grad = None
        before = weighting.state_dict().get("log_variances", [])
        weights = mp.mtl_backward(losses, features, weighting, parameters)
        there = [loss is not None for loss in losses.values()]
        moved = any(p.grad is not None and p.grad.any() for p in model.trunk.parameters())
        for k, after in enumerate(weighting.state_dict().get("log_variances", [])):
            assert there[k] or after == (before[k] if before else 0)
        seen.append((there, (weights != 0).tolist(), moved, before))

    program = LOOP.replace("import batch_losses, mtl_backward", "import batch_losses")
    program = program.replace("FAMO()", "make()").replace(", 64, generator", ", 16, generator")
    names = {"torch": torch, "model": model, "tasks": TASKS, "make": make, "mtl_backward": watched}
    data = Dataset("made up", "embedded", train, train, train)
    weighting = run(program, tmp_path, **names, data=data)["weighting"]
    alone = sum(sum(there) == 1 for there, *_ in seen)
    assert len(seen) / 4 < alone < len(seen)  # one task of two: the case this is about
    for there, weighted, moved, _ in seen:
        assert moved
        assert all(here or not weight for here, weight in zip(there, weighted, strict=True))
    if isinstance(weighting, DWA):
        assert not np.isnan(weighting.means).any()
