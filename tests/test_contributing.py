"""What CONTRIBUTING shows runs as it stands."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
import torch

import mtl_tutorial.keras
import mtl_tutorial.pytorch
from mtl_tutorial.datasets import Split
from mtl_tutorial.metrics import lower_is_better, scores
from mtl_tutorial.tasks import Task
from mtl_tutorial.weighting import Equal, UPGrad, Weighting

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
WEIGHTING, KIND = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """Run both programs; what they have named."""
    names: dict[str, Any] = {
        "np": np, "torch": torch, "F": torch.nn.functional, "ops": keras.ops, "ClassVar": ClassVar,
        "dataclass": dataclass, "mtl_tutorial": mtl_tutorial, "Task": Task, "Weighting": Weighting,
        "__name__": "contributing",
    }  # fmt: skip
    exec(WEIGHTING + KIND, names)  # noqa: S102  # our own text
    return names


def stars(rows: int) -> Split:
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(rows, 4)).astype(np.float32)
    grade = np.digitize(inputs.sum(axis=1), [-3, -1, 1, 3])
    return Split(inputs, {"stars": np.where(generator.random(rows) < 0.2, -1, grade)})


def test_the_weighting_weighs_by_the_inverse_length(shown: dict[str, Any]) -> None:
    weights = shown["UnitGradients"]()([0, 0], [[4.0, 0], [0, 0.25]])
    np.testing.assert_allclose(weights, [0.5, 2])


def test_the_kind_has_one_loss_in_both_frameworks(shown: dict[str, Any]) -> None:
    task, truth = shown["Ordinal"]("stars", grades=5), np.array([0, 4, 2, -1])
    logits = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    chances = 1 / (1 + np.exp(-logits[:3].astype(float)))
    above = truth[:3, None] > np.arange(4)
    expected = -np.log(np.where(above, chances, 1 - chances)).sum(axis=1).mean()
    ours = mtl_tutorial.pytorch.task_loss(task, torch.from_numpy(logits), torch.from_numpy(truth))
    theirs = mtl_tutorial.keras.task_loss(task, truth, logits)
    assert float(ours) == pytest.approx(expected, rel=1e-5)
    assert float(theirs) == pytest.approx(expected, rel=1e-5)
    found = scores([task], {"stars": np.array([[1.0, 1, -1, -1]])}, {"stars": np.array([4])})
    assert found == {"stars_rank_error": 2}
    assert lower_is_better("val_stars_rank_error")


@pytest.mark.parametrize("weighting", [Equal(), UPGrad()])
def test_fit_and_keras_train_the_kind(weighting: Weighting, shown: dict[str, Any]) -> None:
    task, data = shown["Ordinal"]("stars", grades=5), stars(400)
    torch.manual_seed(0)
    linear = mtl_tutorial.pytorch.HardSharing(
        torch.nn.Linear(4, 4), {"stars": torch.nn.Linear(4, task.outputs)}
    )
    history = mtl_tutorial.pytorch.fit(
        linear, [task], data, data, epochs=40, weighting=weighting,
        optimizer=torch.optim.Adam(linear.parameters(), lr=0.05),
        patience=40, monitor="val_stars_rank_error",
    )  # fmt: skip
    assert min(history["val_stars_rank_error"]) < 0.2
    keras.utils.set_random_seed(0)
    model = mtl_tutorial.keras.MultiTaskModel(
        keras.layers.Dense(4), {"stars": keras.layers.Dense(task.outputs)}, weighting
    )
    model.compile(keras.optimizers.Adam(0.05), mtl_tutorial.keras.task_losses([task]))
    model.fit(data.inputs, data.targets, epochs=40, verbose=0)
    found = scores([task], model.predict(data.inputs, verbose=0), data.targets)
    assert found["stars_rank_error"] < 0.2
