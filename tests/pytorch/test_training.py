import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_tutorial.datasets import Split, concatenate
from mtl_tutorial.metrics import scores
from mtl_tutorial.pytorch import HardSharing, evaluate, fit, linear_heads, mlp, predict, task_loss
from mtl_tutorial.sampling import batches, joint, round_robin
from mtl_tutorial.tasks import Binary, Classification, Regression, Task
from mtl_tutorial.weighting import DWA, FAMO, MGDA, Static, Weighting

TASKS: list[Task] = [Classification("kind", classes=3), Binary("big")]


def split(rows: int, seed: int = 0) -> Split:
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(rows, 6)).astype(np.float32)
    kind = inputs[:, :3].argmax(axis=1)
    return Split(inputs, {"kind": kind, "big": (inputs.sum(axis=1) > 0).astype(np.int64)})


def net(tasks: list[Task] | None = None, trunk: nn.Module | None = None) -> HardSharing:
    torch.manual_seed(0)
    return HardSharing(trunk or mlp(6, 8), linear_heads(tasks or TASKS, features=8))


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


TRAIN, VALID = split(50), split(30, seed=1)


def by_hand(model: HardSharing, train: Split, epochs: int, values: tuple[float, float]) -> Any:
    """Train as one would without the library; give the mean losses of each epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    generator = np.random.default_rng(7)
    inputs = torch.from_numpy(train.inputs)
    kind, big = (torch.from_numpy(train.targets[name]) for name in ("kind", "big"))
    history = []
    for _ in range(epochs):
        seen = []
        for rows in batches(len(train), 16, generator):
            outputs = model(inputs[rows])
            losses = [
                F.cross_entropy(outputs["kind"], kind[rows]),
                F.binary_cross_entropy_with_logits(outputs["big"][:, 0], big[rows].float()),
            ]
            optimizer.zero_grad()
            (values[0] * losses[0] + values[1] * losses[1]).backward()
            optimizer.step()
            seen.append([loss.item() for loss in losses])
        history.append(np.mean(seen, axis=0))
    return np.array(history)


@pytest.mark.parametrize("values", [None, (0.6, 0.4)])
def test_fit_is_the_loop_by_hand_bit_for_bit(values: tuple[float, float] | None) -> None:
    ours, theirs = net(), net()
    weighting = Static(values) if values else None
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 16, "seed": 7, "device": "cpu"}
    history = fit(ours, TASKS, TRAIN, VALID, weighting=weighting, **settings)
    seen = by_hand(theirs, TRAIN, 3, values or (1.0, 1.0))
    assert same(ours, theirs)
    assert not same(ours, net())
    assert history["kind_loss"] == pytest.approx(seen[:, 0])
    assert history["big_loss"] == pytest.approx(seen[:, 1])


def test_history_ends_with_the_evaluation_of_the_model() -> None:
    model = net()
    history = fit(model, TASKS, TRAIN, VALID, epochs=2)
    found = evaluate(model, TASKS, VALID)
    assert {f"val_{key}": value for key, value in found.items()} == {
        key: values[-1] for key, values in history.items() if key.startswith("val_")
    }
    assert {len(values) for values in history.values()} == {2}


def test_own_optimizer_is_used() -> None:
    model, start = net(), net()
    fit(model, TASKS, TRAIN, VALID, epochs=1, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
    assert same(model, start)


def test_seed_is_the_order_of_the_batches() -> None:
    models = []
    for seed in (0, 0, 1):
        models.append(net())
        fit(models[-1], TASKS, TRAIN, VALID, epochs=1, batch_size=8, seed=seed)
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_sampler_gives_the_rows_of_each_epoch() -> None:
    """Three batches of the first ten rows, then of the other forty, then both: as by hand."""
    seen: list[np.ndarray] = []

    def sampler(batch_size: int, generator: np.random.Generator) -> Sequence[np.ndarray]:
        epoch = list(round_robin([10, 40], batch_size, generator, steps=3))
        seen.extend(epoch)
        return epoch

    ours, theirs = net(), net()
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 8, "seed": 3, "device": "cpu"}
    fit(ours, TASKS, TRAIN, VALID, sampler=sampler, **settings)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3, fused=True)
    generator = np.random.default_rng(3)
    expected = [rows for _ in range(2) for rows in round_robin([10, 40], 8, generator, steps=3)]
    np.testing.assert_array_equal(seen, expected)
    for rows in expected:
        part = TRAIN.take(rows)
        outputs = theirs(torch.from_numpy(part.inputs))
        optimizer.zero_grad()
        losses = [
            task_loss(t, outputs[t.name], torch.from_numpy(part.targets[t.name])) for t in TASKS
        ]
        torch.autograd.backward(losses)
        optimizer.step()
    assert same(ours, theirs)


def test_samplers_meet_absent_tasks() -> None:
    """In turn one task is absent from each step; in joint batches none ever is."""
    parts = [split(20), split(6, seed=1)]
    train = concatenate(
        [Split(parts[0].inputs, {"kind": parts[0].targets["kind"]}),
         Split(parts[1].inputs, {"big": parts[1].targets["big"]})],
        TASKS,
    )  # fmt: skip
    for sampler, expected in (
        (round_robin, [[True, False], [False, True]] * 2),
        (joint, [[True, True]] * 4),
    ):
        recorder = Recorder()
        turns = partial(sampler, [20, 6], steps=4)
        fit(net(), TASKS, train, VALID, epochs=1, sampler=turns, weighting=recorder)
        assert [present for present, _ in recorder.seen] == expected


class Recorder(Weighting):
    """Weights in proportion to the losses; keeps which tasks were there, and their losses."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[bool], list[float]]] = []

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        assert isinstance(self.present, np.ndarray)
        self.seen.append((self.present.tolist(), losses.tolist()))
        return losses.copy()


def test_absent_task_is_no_part_of_the_step() -> None:
    """The second task has labels in the first batch only, one of them missing."""
    train = split(12)
    train.targets["big"][[1, *range(4, 12)]] = -1
    model = net()
    heads = copy.deepcopy(model.heads)
    optimizer, recorder = torch.optim.Adam(model.parameters()), Recorder()
    order = np.concatenate(list(batches(12, 4, np.random.default_rng(0))))
    shuffled = train.take(np.argsort(order))  # so that the loop meets the rows as they stand
    history = fit(
        model,
        TASKS,
        shuffled,
        VALID,
        epochs=1,
        batch_size=4,
        optimizer=optimizer,
        weighting=recorder,
    )
    assert [present for present, _ in recorder.seen] == [[True, True], [True, False], [True, False]]
    assert history["big_loss"] == [pytest.approx(recorder.seen[0][1][1])]
    assert history["kind_loss"] == [pytest.approx(np.mean([seen[0] for _, seen in recorder.seen]))]
    steps = {
        name: optimizer.state[model.get_parameter(f"heads.{name}.bias")]["step"].item()
        for name in model.heads
    }
    assert steps == {"kind": 3, "big": 1}
    assert not same(model.heads["big"], heads["big"])


def test_missing_labels_have_no_say() -> None:
    """What is missing may stand for anything: the same training as with those rows masked by hand."""
    train, tasks = split(40), [*TASKS, Regression("size")]
    hide = np.arange(40) % 3 == 0
    targets: dict[str, Any] = {
        "kind": np.where(hide, -1, train.targets["kind"]),
        "big": np.where(~hide, -1, train.targets["big"]),
        "size": np.where(hide, np.nan, train.inputs[:, 0]),
    }
    model, plain = net(tasks), net(tasks)
    fit(
        model,
        tasks,
        Split(train.inputs, targets),
        Split(train.inputs, targets),
        epochs=1,
        batch_size=40,
    )
    inputs, optimizer = (
        torch.from_numpy(train.inputs),
        torch.optim.Adam(plain.parameters(), lr=1e-3),
    )
    outputs = plain(inputs)
    loss = (
        F.cross_entropy(outputs["kind"][~hide], torch.from_numpy(targets["kind"])[~hide])
        + F.binary_cross_entropy_with_logits(
            outputs["big"][hide, 0], torch.from_numpy(targets["big"])[hide].float()
        )
        + F.mse_loss(outputs["size"][~hide, 0], inputs[~hide, 0])
    )
    loss.backward()
    optimizer.step()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def without(task: str, rows: int) -> Split:
    data = split(rows)
    data.targets[task][:] = -1
    return data


def test_a_task_without_any_label_is_left_alone() -> None:
    train = without("big", 20)
    model, alone = net(), net()
    history = fit(model, TASKS, train, VALID, epochs=2)
    assert np.isnan(history["big_loss"]).all()  # 0 would be perfect
    fit(alone, TASKS[:1], train, VALID, epochs=2)
    assert same(model, alone)


def test_validation_without_a_label_is_nan_and_said_once() -> None:
    valid = without("big", 20)
    with pytest.warns(UserWarning, match="'big' has no label in the validation data") as caught:
        history = fit(net(), TASKS, TRAIN, valid, epochs=2)
    assert [warning.filename for warning in caught] == [__file__]
    for key in ("big_loss", "big_accuracy", "big_f1", "loss"):
        assert np.isnan(history[f"val_{key}"]).all()
    assert np.isfinite(history["val_kind_loss"]).all()
    alone = evaluate(net(), TASKS[:1], valid)
    both = evaluate(net(), TASKS, valid)
    assert {key: both[key] for key in alone if key != "loss"} == {
        key: value for key, value in alone.items() if key != "loss"
    }
    assert np.isnan(both["loss"])


@pytest.mark.parametrize("monitor", ["val_loss", "val_big_loss", "val_big_f1", "big_loss"])
def test_no_patience_with_what_will_be_nan(monitor: str) -> None:
    """NaN is never better than another epoch: the first one would come back, whatever it was."""
    model, empty = net(), without("big", 20)
    train, valid = (empty, VALID) if monitor == "big_loss" else (TRAIN, empty)
    with pytest.raises(ValueError, match=f"'{monitor}' will be NaN, since task 'big' has no label"):
        fit(model, TASKS, train, valid, epochs=2, patience=1, monitor=monitor)
    assert same(model, net())
    with pytest.warns(UserWarning, match="'big' has no label in the validation data"):
        fit(model, TASKS, TRAIN, empty, epochs=2, patience=1, monitor="val_kind_loss")


def test_inputs_in_double_precision_are_those_of_single_precision() -> None:
    models = [net(), net()]
    for model, dtype in zip(models, ("float32", "float64"), strict=True):
        train, valid = (Split(d.inputs.astype(dtype), d.targets) for d in (TRAIN, VALID))
        fit(model, TASKS, train, valid, epochs=2)
    assert same(*models)
    found = predict(models[0], VALID.inputs.astype("float64"))
    np.testing.assert_array_equal(found["kind"], predict(models[0], VALID.inputs)["kind"])
    assert evaluate(net().double(), TASKS, VALID)["loss"] == pytest.approx(
        evaluate(net(), TASKS, VALID)["loss"]
    )


def test_a_model_in_bfloat16_trains_and_predicts() -> None:
    model = net().bfloat16()
    history = fit(
        model, TASKS, TRAIN, VALID, epochs=1, optimizer=torch.optim.SGD(model.parameters(), lr=0.1)
    )
    assert history["val_loss"][0] == pytest.approx(evaluate(net(), TASKS, VALID)["loss"], rel=0.1)
    assert predict(model, VALID.inputs)["kind"].dtype == np.float32


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_input_that_is_no_number_is_found_before_training(value: float) -> None:
    model, wrong = net(), split(50)
    wrong.inputs[7, 3] = value
    match = f"inputs: row 7, column 3 holds {value}"
    for train, valid in ((wrong, VALID), (TRAIN, wrong)):
        with pytest.raises(ValueError, match=match):
            fit(model, TASKS, train, valid, epochs=1)
    with pytest.raises(ValueError, match=match):
        evaluate(model, TASKS, wrong)
    with pytest.raises(ValueError, match=match):
        predict(model, wrong.inputs)
    assert same(model, net())


def test_a_label_that_cannot_be_is_not_evaluated() -> None:
    wrong = split(50)
    wrong.targets["kind"][5] = -100
    with pytest.raises(ValueError, match="task 'kind': row 5 holds -100"):
        evaluate(net(), TASKS, wrong)


def test_a_training_that_diverges_ends_with_a_history_that_says_so() -> None:
    """Numbers that overflow are NaN in every metric, and no reason to lose the other epochs."""
    task = Regression("size")
    model = net([task])
    data = Split(TRAIN.inputs, {"size": 1e4 * TRAIN.inputs[:, 0]})
    optimizer = torch.optim.SGD(model.parameters(), lr=1e6)
    history = fit(model, [task], data, data, epochs=3, optimizer=optimizer)
    assert np.isnan(history["val_size_mae"][-1])
    assert len(history["val_size_mae"]) == 3


def test_no_row_and_numbers_below_1() -> None:
    model, none = net(), TRAIN.take(slice(0))
    for train, valid in ((none, VALID), (TRAIN, none)):
        with pytest.raises(ValueError, match=r"nothing to learn from: .* shape \(0, 6\)"):
            fit(model, TASKS, train, valid, epochs=1)
    with pytest.raises(ValueError, match="nothing to learn from"):
        predict(model, none.inputs)
    for epochs, batch_size, patience in ((0, 64, None), (1, 0, None), (1, 64, 0)):
        with pytest.raises(ValueError, match="must be at least 1; got 0"):
            fit(
                model, TASKS, TRAIN, VALID,
                epochs=epochs, batch_size=batch_size, patience=patience,
            )  # fmt: skip
    assert same(model, net())


def test_one_row_is_a_training_set() -> None:
    model = net()
    history = fit(model, TASKS, TRAIN.take(slice(1)), VALID.take(slice(1)), epochs=2)
    assert np.isfinite(list(history.values())).all()
    assert not same(model, net())


def test_a_last_batch_of_one_row_is_no_end_of_an_epoch_with_batch_norm() -> None:
    """PyTorch refuses it, but after the other batches of the epoch have changed the model."""
    model = net(trunk=nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)))
    start = copy.deepcopy(model)
    with pytest.raises(ValueError, match="50 rows in batches of 7 leave a single row"):
        fit(model, TASKS, TRAIN, VALID, epochs=1, batch_size=7)
    assert same(model, start)
    fit(model, TASKS, TRAIN, VALID, epochs=1, batch_size=8)
    places = nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.BatchNorm1d(1), nn.Flatten(), nn.Linear(6, 8)
    )
    fit(net(trunk=places), TASKS, TRAIN, VALID, epochs=1, batch_size=7)  # six numbers a channel


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "gave no batch"),
        ([[0, 1], []], "for batch 2; a batch is an array of row numbers, from 0 to 49"),
        ([[0, 50]], "for batch 1"),
        ([[-1, 0]], "for batch 1"),
        ([[0.0, 1.0]], "for batch 1"),
        ([[True] * 50], "for batch 1"),
    ],
)
def test_a_sampler_that_gives_no_rows(given: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(net(), TASKS, TRAIN, VALID, epochs=1, sampler=lambda *_: map(np.array, given))


def test_a_sampler_that_is_used_up() -> None:
    """The same iterator for every epoch has nothing left in the second one."""
    once = iter(list(batches(50, 16)))
    with pytest.raises(ValueError, match="gave no batch; it is called anew for each epoch"):
        fit(net(), TASKS, TRAIN, VALID, epochs=2, sampler=lambda *_: once)


class Seen(Exception):
    """Raised in the first forward pass: nothing after it can run on a device that computes nothing."""


class Look(nn.Module):
    """Tell on which device inputs and parameters are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6))

    def forward(self, inputs: Tensor) -> Tensor:
        raise Seen(inputs.device.type, self.weight.device.type)


def test_the_device_is_where_training_happens() -> None:
    for device in ("cpu", "meta"):
        model = HardSharing(Look(), linear_heads(TASKS, features=8))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises(Seen) as seen:
            fit(model, TASKS, TRAIN, VALID, epochs=1, optimizer=optimizer, device=device)
        assert seen.value.args == (device, device)


def test_the_device_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(HardSharing):
        def to(self, device: Any) -> Any:  # type: ignore[override]  # all that fit asks for
            raise Seen(device.type)

    model = Elsewhere(Look(), linear_heads(TASKS, features=8))
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda answer=available: answer)
        with pytest.raises(Seen) as seen:
            fit(model, TASKS, TRAIN, VALID, epochs=1)
        assert seen.value.args == (expected,)


def test_early_stopping_puts_the_best_epoch_back() -> None:
    """At this learning rate the validation loss soon rises; the best epoch must come back."""

    def run(epochs: int, patience: int | None) -> tuple[HardSharing, dict[str, list[float]]]:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        settings: dict[str, Any] = {"patience": patience, "optimizer": optimizer}
        return model, fit(model, TASKS, TRAIN, VALID, epochs=epochs, **settings)

    stopped, history = run(200, patience=3)
    losses = history["val_loss"]
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 3 < 200
    fresh, _ = run(best + 1, patience=None)
    assert same(stopped, fresh)
    assert evaluate(stopped, TASKS, VALID)["loss"] == min(losses)


def test_a_success_is_monitored_upwards() -> None:
    model = net()
    settings: dict[str, Any] = {"patience": 5, "monitor": "val_kind_accuracy"}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    history = fit(model, TASKS, TRAIN, VALID, epochs=60, optimizer=optimizer, **settings)
    best = max(history["val_kind_accuracy"])
    assert best > history["val_kind_accuracy"][0]
    assert evaluate(model, TASKS, VALID)["kind_accuracy"] == best


def test_without_patience_the_last_parameters_stay() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
    history = fit(model, TASKS, TRAIN, VALID, epochs=10, optimizer=optimizer)
    assert (
        evaluate(model, TASKS, VALID)["loss"] == history["val_loss"][-1] > min(history["val_loss"])
    )


def test_misspelt_monitor_is_found_before_training() -> None:
    model = net()
    with pytest.raises(KeyError, match=r"no 'val_kind_acc' to monitor.*val_kind_accuracy"):
        fit(model, TASKS, TRAIN, VALID, epochs=1, monitor="val_kind_acc", patience=2)
    assert same(model, net())


@pytest.mark.parametrize("where", ["train", "valid"])
def test_bad_label_is_found_before_training(where: str) -> None:
    model, data = net(), {"train": split(50), "valid": split(30)}
    data[where].targets["kind"][5] = 3
    with pytest.raises(ValueError, match=r"task 'kind': row 5 holds 3; allowed .* 0 to 2"):
        fit(model, TASKS, data["train"], data["valid"], epochs=1)
    assert same(model, net())


def test_task_without_head_or_target() -> None:
    model = net(TASKS[:1])
    with pytest.raises(KeyError, match=r"no head 'big'; it has \['kind'\]"):
        fit(model, TASKS, TRAIN, VALID, epochs=1)
    with pytest.raises(KeyError, match="no target named 'other'"):
        fit(net([Binary("other")]), [Binary("other")], TRAIN, VALID, epochs=1)


def test_fit_trains_in_training_mode_and_evaluates_without_it() -> None:
    model = net(trunk=nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)))
    model.eval()
    fit(model, TASKS, TRAIN, VALID, epochs=1)
    norm = model.get_submodule("trunk.1")
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.num_batches_tracked == 1  # one batch of training; validation left no trace
    assert evaluate(model, TASKS, VALID) == evaluate(model, TASKS, VALID)


@pytest.mark.parametrize("training", [True, False])
def test_predict_is_the_model_in_evaluation_mode(training: bool) -> None:
    model = net(trunk=nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5)))
    model.train(training)
    found = predict(model, VALID.inputs, batch_size=7)
    assert model.training is training
    model.eval()
    for name, output in model(torch.from_numpy(VALID.inputs)).items():
        np.testing.assert_allclose(found[name], output.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_evaluate_is_task_loss_and_scores_on_the_whole_split() -> None:
    model, outputs = net(), predict(net(), VALID.inputs)
    losses: dict[str, Tensor] = {
        f"{task.name}_loss": task_loss(
            task,
            torch.from_numpy(outputs[task.name]),
            torch.from_numpy(VALID.targets[task.name]),
        )
        for task in TASKS
    }
    expected = {name: loss.item() for name, loss in losses.items()}
    found = evaluate(model, TASKS, VALID)
    assert found == {
        "loss": sum(expected.values()),
        **expected,
        **scores(TASKS, outputs, VALID.targets),
    }


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_fit_on_a_gpu_agrees_with_the_cpu() -> None:
    gpu, cpu = net(), net()
    on_gpu = fit(gpu, TASKS, TRAIN, VALID, epochs=2)
    on_cpu = fit(cpu, TASKS, TRAIN, VALID, epochs=2, device="cpu")
    assert next(gpu.parameters()).is_cuda
    assert on_gpu["val_loss"] == pytest.approx(on_cpu["val_loss"], rel=1e-3)


def test_famo_observes_each_batch_after_its_step_at_rest() -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5))
    model = HardSharing(trunk, linear_heads(TASKS, features=6))
    seen: list[list[float]] = []

    class Watched(FAMO):
        def observe(self, losses: Sequence[float] | np.ndarray) -> None:
            seen.append(list(losses))
            at_rest = evaluate(model, TASKS, TRAIN)
            for task, loss in zip(TASKS, losses, strict=True):
                assert loss == pytest.approx(at_rest[f"{task.name}_loss"], rel=1e-5)
            super().observe(losses)

    weighting = Watched()
    fit(model, TASKS, TRAIN, VALID, epochs=3, batch_size=len(TRAIN), weighting=weighting)
    assert len(seen) == 3
    assert np.abs(weighting.logits).max() > 0


def test_a_batch_without_any_label_is_no_step() -> None:
    """FAMO would be asked what a step has done that was none."""
    train = split(24)
    for target in train.targets.values():
        target[8:] = -1
    model, alone = net(), net()
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 4, "sampler": None}
    settings["sampler"] = lambda size, generator: batches(24, size)
    fit(model, TASKS, train, VALID, weighting=FAMO(), **settings)
    settings["sampler"] = lambda size, generator: batches(8, size)
    fit(alone, TASKS, train, VALID, weighting=FAMO(), **settings)
    assert same(model, alone)


def test_dwa_counts_epochs() -> None:
    weighting = DWA()
    fit(net(), TASKS, TRAIN, VALID, epochs=2, weighting=weighting)
    assert not np.isnan(weighting.means).any()


@pytest.mark.parametrize("gramian", ["parameters", "features"])
def test_which_gramian_the_weighting_is_given(gramian: Literal["parameters", "features"]) -> None:
    class Spy(MGDA):
        seen: ClassVar[list[np.ndarray]] = []

        def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
            assert gramian is not None
            self.seen.append(gramian)
            return super().weights(losses, gramian)

    model = net()
    features = model.trunk(torch.from_numpy(TRAIN.inputs))
    losses = [
        task_loss(
            task, model.heads[task.name](features), torch.from_numpy(TRAIN.targets[task.name])
        )
        for task in TASKS
    ]
    at = [features] if gramian == "features" else list(model.trunk.parameters())
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, at, retain_graph=True)])
        for loss in losses
    ]
    jacobian = torch.stack(rows)
    fit(
        model, TASKS, TRAIN, VALID, epochs=1, batch_size=50, weighting=Spy(), gramian=gramian,
        device="cpu",
    )  # fmt: skip
    np.testing.assert_allclose(Spy.seen[0], (jacobian @ jacobian.T).numpy(), rtol=1e-4)
