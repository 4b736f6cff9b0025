"""A stack of networks takes the steps that each would take alone."""

import numpy as np
import pytest
import torch
from torch import nn

from mtl_tutorial.datasets import Split
from mtl_tutorial.pytorch import HardSharing, fit, fit_stacked, linear_heads, mlp
from mtl_tutorial.tasks import Binary, Classification, Regression, Task
from mtl_tutorial.weighting import Static

TASKS: list[Task] = [Classification("kind", 3), Binary("big"), Regression("size")]
WEIGHTS = np.array([[1, 1, 1], [1, 0, 0], [0.5, 0.3, 0.2], [0, 1, 0]])
SEEDS = [3, 4, 5, 3]


def data(rows: int, seed: int, missing: float = 0.0) -> Split:
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(rows, 6)).astype("float32")
    size = inputs[:, 0] * inputs[:, 1]
    targets: dict[str, np.ndarray] = {
        "kind": np.digitize(inputs[:, 0], [-0.5, 0.5]),
        "big": (size > 0).astype(np.int64),
        "size": size,
    }
    for task in TASKS:
        gone = generator.random(rows) < missing
        truth = targets[task.name]
        targets[task.name] = np.where(gone, task.missing, truth).astype(truth.dtype)
    return Split(inputs, targets)


def net(seed: int, hidden: int = 5) -> HardSharing:
    torch.manual_seed(seed)
    return HardSharing(mlp(6, hidden), linear_heads(TASKS, features=hidden))


def weight(model: HardSharing, name: str = "trunk.1") -> torch.Tensor:
    return model.get_parameter(f"{name}.weight")


TRAINS = [data(40, seed, missing=0.3) for seed in range(4)]
VALID = data(30, 9)


def test_a_stack_equals_one_by_one() -> None:
    models = [net(seed) for seed in range(4)]
    histories = fit_stacked(
        models, TASKS, TRAINS, VALID, weights=WEIGHTS, seeds=SEEDS, epochs=6, batch_size=16, lr=0.02
    )
    for number, (stacked, history) in enumerate(zip(models, histories, strict=True)):
        own = [k for k in range(3) if WEIGHTS[number, k]]
        tasks = [TASKS[k] for k in own]
        alone = net(number)
        expected = fit(
            alone,
            tasks,
            TRAINS[number],
            VALID,
            epochs=6,
            batch_size=16,
            optimizer=torch.optim.Adam(alone.parameters(), lr=0.02, fused=True),
            weighting=Static(WEIGHTS[number, own]),
            patience=6,
            seed=SEEDS[number],
            device="cpu",
        )
        for key in ("val_loss", *(f"val_{task.name}_loss" for task in tasks)):
            np.testing.assert_allclose(history[key], expected[key], rtol=1e-5)
        trained = dict(stacked.named_parameters())
        for name, parameter in alone.named_parameters():
            if name.startswith("trunk") or name.split(".")[1] in {task.name for task in tasks}:
                torch.testing.assert_close(trained[name], parameter, rtol=1e-5, atol=1e-6)


def test_a_task_of_weight_0_keeps_its_head() -> None:
    models = [net(0)]
    fit_stacked(models, TASKS, TRAINS[:1], VALID, weights=[[1, 0, 1]], seeds=[0], epochs=2)
    assert torch.equal(weight(models[0], "heads.big"), weight(net(0), "heads.big"))
    assert not torch.equal(weight(models[0], "heads.size"), weight(net(0), "heads.size"))


def test_each_model_keeps_its_best_epoch() -> None:
    models = [net(seed) for seed in range(2)]
    histories = fit_stacked(
        models, TASKS, TRAINS[:2], VALID, weights=WEIGHTS[:2], seeds=[0, 1], epochs=8, lr=0.5
    )
    for model, history, on in zip(models, histories, WEIGHTS[:2], strict=True):
        assert history["val_loss"][-1] > min(history["val_loss"])  # lr = 0.5 goes astray
        again = fit_stacked(
            [model], TASKS, TRAINS[:1], VALID, weights=[on], seeds=[0], epochs=1, lr=0.0
        )
        assert again[0]["val_loss"][0] == pytest.approx(min(history["val_loss"]), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": [0]}, "2 models, 2 training sets, 1 seeds and 2 rows"),
        ({"weights": [[1, 1], [1, 1]]}, r"weights need shape \(2, 3\)"),
        ({"weights": [[1, 1, np.nan], [1, 1, 1]]}, "finite"),
        ({"trains": [TRAINS[0], data(41, 0)]}, r"differ in length: \[40, 41\]"),
        ({"models": []}, "0 models"),
    ],
)
def test_what_does_not_fit_together_is_named(change: dict[str, object], message: str) -> None:
    models = [net(0), net(1)]
    settings = {
        "models": models, "tasks": TASKS, "trains": TRAINS[:2], "valid": VALID,
        "weights": WEIGHTS[:2], "seeds": [0, 1], "epochs": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        fit_stacked(**(settings | change))  # type: ignore[arg-type]
    assert torch.equal(weight(models[0]), weight(net(0)))


def test_a_wrong_label_is_found_before_the_first_step() -> None:
    models, wrong = [net(0)], data(40, 0)
    wrong.targets["kind"][7] = 3
    with pytest.raises(ValueError, match="task 'kind': row 7 holds 3"):
        fit_stacked(models, TASKS, [wrong], VALID, weights=[[1, 1, 1]], seeds=[0], epochs=1)
    assert torch.equal(weight(models[0]), weight(net(0)))


def test_batch_norm_is_refused() -> None:
    model = HardSharing(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)), linear_heads(TASKS, 5))
    with pytest.raises(ValueError, match="batch norm"):
        fit_stacked([model], TASKS, TRAINS[:1], VALID, weights=[[1, 1, 1]], seeds=[0], epochs=1)


def test_weights_are_no_integers_where_the_inputs_are() -> None:
    """Word numbers are int64; a weight of 0.5 must not become a 0 with them."""
    generator = np.random.default_rng(0)
    numbers = generator.integers(0, 9, size=(40, 6))
    targets = {name: target[:40] for name, target in TRAINS[0].targets.items()}
    words = Split(numbers, targets)

    def reader() -> HardSharing:
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Embedding(9, 2), nn.Flatten(), nn.Linear(12, 5))
        return HardSharing(trunk, linear_heads(TASKS, features=5))

    stacked, alone, weights = reader(), reader(), [0.5, 0.3, 0.2]
    fit_stacked([stacked], TASKS, [words], words, weights=[weights], seeds=[0], epochs=2)
    fit(
        alone, TASKS, words, words, epochs=2, weighting=Static(weights), patience=2, device="cpu",
        optimizer=torch.optim.Adam(alone.parameters(), lr=1e-3, fused=True),
    )  # fmt: skip
    for one, other in zip(stacked.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_no_validation_label_where_it_would_choose_the_epoch() -> None:
    valid = data(30, 9)
    valid.targets["size"][:] = np.nan
    with pytest.raises(ValueError, match="task 'size' has no label in the validation data, so no"):
        fit_stacked([net(0)], TASKS, TRAINS[:1], valid, weights=[[1, 1, 1]], seeds=[0], epochs=1)
    (history,) = fit_stacked(
        [net(0)], TASKS, TRAINS[:1], valid, weights=[[1, 1, 0]], seeds=[0], epochs=2
    )
    assert np.isnan(history["val_size_loss"]).all()
    assert history["val_loss"] == pytest.approx(
        np.add(history["val_kind_loss"], history["val_big_loss"])
    )


def test_what_is_no_data_is_found_before_the_first_step() -> None:
    models, wrong = [net(0)], data(40, 0)
    wrong.inputs[3, 2] = np.inf
    with pytest.raises(ValueError, match="inputs: row 3, column 2 holds inf"):
        fit_stacked(models, TASKS, [wrong], VALID, weights=[[1, 1, 1]], seeds=[0], epochs=1)
    with pytest.raises(ValueError, match="epochs and batch_size must be at least 1; got 0, 64"):
        fit_stacked(models, TASKS, TRAINS[:1], VALID, weights=[[1, 1, 1]], seeds=[0], epochs=0)
    assert torch.equal(weight(models[0]), weight(net(0)))


def test_inputs_in_double_precision_are_those_of_single_precision() -> None:
    models = [net(0), net(0)]
    for model, dtype in zip(models, ("float32", "float64"), strict=True):
        train, valid = (Split(d.inputs.astype(dtype), d.targets) for d in (TRAINS[0], VALID))
        fit_stacked([model], TASKS, [train], valid, weights=[[1, 1, 1]], seeds=[0], epochs=2)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)
