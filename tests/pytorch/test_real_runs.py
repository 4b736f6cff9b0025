"""What ``fit`` takes besides arrays and a trunk with heads: loaders, models, schedules, and the rest."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mtl_tutorial.datasets import Split
from mtl_tutorial.pytorch import HardSharing, evaluate, fit, linear_heads, mlp, predict
from mtl_tutorial.tasks import Binary, Classification, Regression, Task
from mtl_tutorial.weighting import (
    DWA,
    FAMO,
    IMTLG,
    MGDA,
    RLW,
    UW,
    AlignedMTL,
    CAGrad,
    Equal,
    GradNorm,
    InverseLoss,
    NashMTL,
    PCGrad,
    Static,
    UPGrad,
    Weighting,
)

TASKS: list[Task] = [Classification("kind", classes=3), Binary("big"), Regression("size")]
EVERY = [
    Equal(), Static([0.5, 1, 2]), InverseLoss(), UW(), DWA(), RLW(seed=3), GradNorm(), FAMO(), MGDA(),
    PCGrad(seed=3), CAGrad(), IMTLG(), NashMTL(), AlignedMTL(), UPGrad(),
]  # fmt: skip
every_weighting = pytest.mark.parametrize("made", EVERY, ids=lambda w: type(w).__name__)


def split(rows: int, seed: int = 0, missing: float = 0.0) -> Split:
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(rows, 6))
    targets: dict[str, Any] = {
        "kind": inputs[:, :3].argmax(axis=1),
        "big": (inputs.sum(axis=1) > 0).astype(np.int64),
        "size": inputs[:, 0] * inputs[:, 1],
    }
    for task in TASKS:
        hidden = generator.random(rows) < missing
        targets[task.name] = np.where(hidden, task.missing, targets[task.name])
    targets["kind"], targets["big"] = (targets[n].astype(np.int64) for n in ("kind", "big"))
    return Split(inputs, targets)


def net(dropout: float = 0.0, seed: int = 0) -> HardSharing:
    torch.manual_seed(seed)
    trunk = nn.Sequential(mlp(6, 8), nn.Dropout(dropout)) if dropout else mlp(6, 8)
    return HardSharing(trunk, linear_heads(TASKS, features=8)).double()


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def distance(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).abs().max().detach()) for a, b in pairs)


TRAIN, VALID = split(50, missing=0.3), split(30, seed=1)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05)


# accumulation


@every_weighting
def test_four_parts_take_the_step_of_the_whole_batch(made: Weighting) -> None:
    """Missing labels included: the parts have unlike numbers of them, the last of one task none."""
    train = split(40, missing=0.4)
    train.targets["big"][30:] = -1
    rows = [np.arange(20), np.arange(20, 40)] * 2
    models = [net(), net()]
    for model, accumulate in zip(models, (1, 4), strict=True):
        fit(
            model, TASKS, train, epochs=2, batch_size=20, optimizer=sgd(model),
            weighting=copy.deepcopy(made), accumulate=accumulate, sampler=lambda *_: rows, device="cpu",
        )  # fmt: skip
    assert distance(*models) < 1e-6
    assert distance(models[0], net()) > 1e-3


def test_parts_of_a_batch_with_sample_weights_and_an_extra_loss() -> None:
    class Pulled(HardSharing):
        def extra_loss(self, features: Tensor, targets: dict[str, Tensor]) -> Tensor:
            return features.square().mean()

    weights = np.random.default_rng(0).integers(0, 3, 50).astype(float)
    train = Split(TRAIN.inputs, TRAIN.targets, weights)
    models = []
    for accumulate in (1, 5):
        torch.manual_seed(0)
        model = Pulled(mlp(6, 8), linear_heads(TASKS, features=8)).double()
        fit(
            model,
            TASKS,
            train,
            epochs=2,
            batch_size=25,
            optimizer=sgd(model),
            accumulate=accumulate,
        )
        models.append(model)
    assert distance(*models) < 1e-12
    fit(plain := net(), TASKS, train, epochs=2, batch_size=25, optimizer=sgd(plain))
    assert distance(plain, models[0]) > 1e-3  # the extra loss had a say


# data


def pairs(data: Split) -> TensorDataset:
    names = list(data.targets)
    return TensorDataset(
        torch.from_numpy(data.inputs), *(torch.from_numpy(data.targets[n]) for n in names)
    )


def collate(rows: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, dict[str, Tensor]]:
    inputs, *targets = (torch.stack(column) for column in zip(*rows, strict=True))
    return inputs, dict(zip(("kind", "big", "size"), targets, strict=True))


def batches_as(kind: str) -> Any:
    parts = [TRAIN.take(slice(i, i + 16)) for i in range(0, 50, 16)]
    if kind == "list":
        return [(part.inputs, part.targets) for part in parts]
    if kind == "generator function":

        def function() -> Iterator[Any]:
            yield from ((part.inputs, part.targets, np.ones(len(part))) for part in parts)

        return function
    workers = 2 if kind == "DataLoader with workers" else 0
    return DataLoader(pairs(TRAIN), batch_size=16, collate_fn=collate, num_workers=workers)


@pytest.mark.parametrize(
    "kind", ["list", "generator function", "DataLoader", "DataLoader with workers"]
)
def test_what_yields_batches_trains_as_the_arrays_do(kind: str) -> None:
    ours, theirs = net(), net()
    rows = [np.arange(i, min(i + 16, 50)) for i in range(0, 50, 16)]
    history = fit(ours, TASKS, batches_as(kind), batches_as(kind), epochs=2)
    expected = fit(theirs, TASKS, TRAIN, TRAIN, epochs=2, batch_size=16, sampler=lambda *_: rows)
    assert same(ours, theirs)
    assert list(history) == list(expected)
    np.testing.assert_allclose([*history.values()], [*expected.values()])
    assert evaluate(ours, TASKS, batches_as(kind)) == pytest.approx(evaluate(ours, TASKS, TRAIN))


def test_tf_data_is_a_loader() -> None:
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices((TRAIN.inputs, TRAIN.targets)).batch(16)
    ours, theirs = net(), net()
    fit(ours, TASKS, data, epochs=2)
    fit(theirs, TASKS, batches_as("list"), epochs=2)
    assert same(ours, theirs)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([torch.zeros(4, 6)], TypeError, "with targets a dict by task name; batch 1 is a Tensor"),
        ([(torch.zeros(4, 6), torch.zeros(4))], TypeError, "batch 1 is a tuple of 2"),
        ([], ValueError, "the loader gave no batch. It is gone through once an epoch"),
        (iter([]), TypeError, "an iterator can be gone through only once"),
        (3, TypeError, "data is a Split, or yields batches; got a int"),
        ([(TRAIN.inputs, {"kind": TRAIN.targets["kind"]})], KeyError, "no target named 'big'"),
        (
            [(TRAIN.inputs, TRAIN.targets | {"big": np.full(50, 7)})],
            ValueError,
            "task 'big': row 0 holds 7",
        ),
    ],
)
def test_a_loader_that_yields_something_else(
    data: Any, error: type[Exception], message: str
) -> None:
    model = net()
    with pytest.raises(error, match=message):
        fit(model, TASKS, data, epochs=1)
    assert same(model, net())


def test_inputs_may_be_a_dict_or_a_tuple() -> None:
    class Two(nn.Module):
        def forward(self, inputs: Any) -> Tensor:
            pair = inputs.values() if isinstance(inputs, dict) else inputs
            return torch.cat(list(pair), dim=1)

    models = []
    for make in (lambda a, b: {"a": a, "b": b}, lambda a, b: (a, b)):
        torch.manual_seed(0)
        trunk = nn.Sequential(Two(), mlp(6, 8))
        model = HardSharing(trunk, linear_heads(TASKS, features=8)).double()
        inputs = make(TRAIN.inputs[:, :2], TRAIN.inputs[:, 2:])
        fit(model, TASKS, Split(inputs, TRAIN.targets), Split(inputs, TRAIN.targets), epochs=2)
        outputs = predict(model, inputs)
        models.append(model)
    fit(plain := net(), TASKS, TRAIN, TRAIN, epochs=2)
    assert same(models[0], models[1])
    np.testing.assert_array_equal(outputs["size"], predict(plain, TRAIN.inputs)["size"])


# models


class Chain(nn.Module):
    """A model of one's own: the size is read off a second, deeper feature. Counts which heads run."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Linear(6, 8), nn.Linear(8, 4)
        self.heads = nn.ModuleDict({"kind": nn.Linear(8, 3), "big": nn.Linear(8, 1)})
        self.size = nn.Linear(4, 1)
        self.ran: list[str] = []

    def encode(self, inputs: Tensor) -> dict[str, Tensor]:
        low = torch.tanh(self.low(inputs))
        return {"low": low, "high": torch.tanh(self.high(low))}

    def decode(self, features: Any, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        outputs = {}
        for name in ("kind", "big", "size") if tasks is None else tasks:
            self.ran.append(name)
            head = self.size if name == "size" else self.heads[name]
            outputs[name] = head(features["high" if name == "size" else "low"])
        return outputs

    def shared_parameters(self) -> list[nn.Parameter]:
        return [*self.low.parameters(), *self.high.parameters()]


class Mean(Weighting):
    """A Gramian-based rule whose step is that of equal weights."""

    needs_gramian: ClassVar[bool] = True

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        return np.ones(len(losses))


def test_a_model_of_your_own_needs_three_methods() -> None:
    models = []
    for weighting in (Equal(), Mean()):
        torch.manual_seed(0)
        model = Chain().double()
        fit(model, TASKS, TRAIN, VALID, epochs=2, optimizer=sgd(model), weighting=weighting)
        models.append(model)
    assert distance(*models) < 1e-12
    assert set(predict(models[0], VALID.inputs)) == {"kind", "big", "size"}


def test_a_head_without_a_label_in_the_batch_does_not_run() -> None:
    train = split(20)
    train.targets["size"][:10] = np.nan
    model, ran = Chain().double(), []
    rows = [np.arange(10), np.arange(10, 20)]
    fit(model, TASKS, train, epochs=1, sampler=lambda *_: rows)
    ran = model.ran[-5:]  # before these, the trial of all heads
    assert ran == ["kind", "big", "kind", "big", "size"]


def test_a_module_without_the_methods_is_refused_by_name() -> None:
    with pytest.raises(
        TypeError, match=r"as HardSharing has them; Linear lacks \['encode', 'decode'"
    ):
        fit(nn.Linear(6, 3), TASKS, TRAIN, epochs=1)


def test_outputs_that_do_not_fit_are_refused_before_the_first_step() -> None:
    model = HardSharing(mlp(6, 8), {t.name: nn.Linear(8, 2) for t in TASKS}).double()
    with pytest.raises(ValueError, match=r"'kind': outputs have shape \(2, 2\), expected \(N, 3\)"):
        fit(model, TASKS, TRAIN, epochs=1)
    targets = TRAIN.targets | {"other": TRAIN.targets["big"]}
    with pytest.raises(KeyError, match="the model has no head 'other'; it has"):
        fit(net(), [*TASKS, Binary("other")], Split(TRAIN.inputs, targets), epochs=1)


def test_labels_of_pixels_train() -> None:
    """A 1 × 1 convolution learns a map that is linear; the missing pixels have no say."""
    generator = np.random.default_rng(0)
    images = generator.normal(size=(64, 2, 5, 5)).astype(np.float32)
    depth = images[:, 0] - 2 * images[:, 1]
    depth[generator.random(depth.shape) < 0.5] = np.nan

    class Last(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return features.movedim(1, -1)

    task = Regression("depth")
    model = HardSharing(nn.Conv2d(2, 1, 1), {"depth": Last()})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = fit(
        model, [task], Split(images, {"depth": depth}), Split(images, {"depth": depth}),
        epochs=10, batch_size=8, optimizer=optimizer,
    )  # fmt: skip
    assert history["val_depth_mae"][-1] < 1e-3
    torch.testing.assert_close(
        next(model.trunk.parameters()).detach().ravel(),
        torch.tensor([1.0, -2.0]),
        atol=1e-3,
        rtol=0,
    )


# the run


def test_a_schedule_sets_the_rate_of_each_epoch_or_step() -> None:
    for every, expected in (("epoch", 1 / 4), ("step", 1 / 2**8)):  # 2 epochs of 4 steps
        model = net()
        optimizer = sgd(model)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        fit(model, TASKS, TRAIN, epochs=2, batch_size=16, schedule=schedule, schedule_every=every)  # type: ignore[arg-type]
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * expected)
        assert not same(model, net())  # the optimizer is the schedule's


def test_a_plateau_lowers_the_rate() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)  # nothing gets better
    optimizer.param_groups[0]["lr"] = 1e-12
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0, eps=0)
    fit(model, TASKS, TRAIN, VALID, epochs=4, schedule=schedule)
    assert optimizer.param_groups[0]["lr"] < 1e-13


def test_clipping_is_that_of_pytorch() -> None:
    ours, theirs = net(), net()
    fit(ours, TASKS, TRAIN, epochs=1, batch_size=50, optimizer=sgd(ours), clip_norm=0.1)
    fit(
        theirs,
        TASKS,
        TRAIN,
        epochs=1,
        batch_size=50,
        optimizer=torch.optim.SGD(theirs.parameters(), lr=0),
    )
    length = float(
        nn.utils.get_total_norm([p.grad for p in theirs.parameters() if p.grad is not None])
    )
    assert length > 0.1
    for own, start, gradient in zip(
        ours.parameters(), net().parameters(), theirs.parameters(), strict=True
    ):
        assert gradient.grad is not None
        expected = start - 0.05 * gradient.grad * (0.1 / length)
        torch.testing.assert_close(own, expected, atol=1e-7, rtol=0)


def test_mixed_precision_in_bfloat16_goes_down_as_float32_does() -> None:
    data = Split(split(400).inputs.astype(np.float32), split(400).targets)
    last = []
    for amp in (None, torch.bfloat16):
        seen: list[torch.dtype] = []
        model = net().float()
        model.trunk.register_forward_hook(lambda m, i, o, seen=seen: seen.append(o.dtype))
        history = fit(model, TASKS, data, data, epochs=20, weighting=UPGrad(), amp=amp)
        assert (torch.bfloat16 in seen) == (amp is not None)
        assert next(model.parameters()).dtype == torch.float32
        last.append(history["val_loss"][-1] / history["val_loss"][0])
    assert last[1] == pytest.approx(last[0], abs=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_mixed_precision_in_float16_with_a_scaler() -> None:
    model = net().float()
    train = Split(TRAIN.inputs.astype(np.float32), TRAIN.targets)
    history = fit(model, TASKS, train, train, epochs=20, weighting=UPGrad(), amp=torch.float16)
    assert history["val_loss"][-1] < history["val_loss"][0]


def test_callbacks_see_each_epoch_and_may_add_to_its_row() -> None:
    seen = []

    def note(epoch: int, row: dict[str, float]) -> None:
        row["rate"] = 0.1 * epoch
        seen.append((epoch, row["kind_loss"]))

    history = fit(net(), TASKS, TRAIN, epochs=2, callbacks=[note])
    assert history["rate"] == [0.1, 0.2]
    assert seen == list(enumerate(history["kind_loss"], 1))


def test_a_record_holds_every_step_and_changes_none() -> None:
    record: list[dict[str, np.ndarray]] = []
    ours, theirs = net(), net()
    fit(ours, TASKS, TRAIN, epochs=2, batch_size=16, weighting=UPGrad(), record=record)
    fit(theirs, TASKS, TRAIN, epochs=2, batch_size=16, weighting=UPGrad())
    assert same(ours, theirs)
    assert [sorted(step) for step in record] == [["gramian", "present", "weights"]] * 8
    assert record[0]["gramian"].shape == (3, 3)


def test_without_validation_there_is_none() -> None:
    history = fit(net(), TASKS, TRAIN, epochs=2, patience=1, monitor="kind_loss")
    assert set(history) == {"kind_loss", "big_loss", "size_loss"}
    with pytest.raises(KeyError, match="no 'val_loss' to monitor, only"):
        fit(net(), TASKS, TRAIN, epochs=2, patience=1)


def test_a_metric_that_the_task_names_can_be_monitored() -> None:
    tasks = [TASKS[0], Binary("big", metrics=["auc"]), TASKS[2]]
    history = fit(net(), tasks, TRAIN, VALID, epochs=3, patience=2, monitor="val_big_auc")
    assert 0 <= history["val_big_auc"][-1] <= 1
    assert "val_big_accuracy" not in history


@pytest.mark.parametrize("weighting", [Equal(), FAMO()])
def test_frozen_batch_norm_stays_frozen(weighting: Weighting) -> None:
    torch.manual_seed(0)
    trunk: Any = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.BatchNorm1d(8))
    model = HardSharing(trunk, linear_heads(TASKS, features=8)).double()
    trunk[1].eval()
    fit(model, TASKS, TRAIN, VALID, epochs=2, batch_size=25, weighting=weighting)
    predict(model, VALID.inputs)
    assert trunk[1].running_mean.abs().max() == 0
    assert trunk[3].running_mean.abs().max() > 0
    assert not trunk[1].training
    assert trunk[3].training
    model.eval()  # as a whole: to be trained, it is put back
    fit(model, TASKS, TRAIN, epochs=1, batch_size=25)
    assert trunk[1].running_mean.abs().max() > 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"accumulate": 3}, ValueError, "a batch of 64 rows cannot be cut into 3 equal parts"),
        ({"accumulate": 0}, ValueError, "accumulate must be at least 1; got 0"),
        (
            {"accumulate": 4, "weighting": UPGrad(), "gramian": "features"},
            ValueError,
            "gramian='features' cannot be accumulated",
        ),
        ({"clip_norm": 0.0}, ValueError, "clip_norm is a length above 0; got 0.0"),
        ({"amp": torch.float16, "device": "cpu"}, ValueError, "torch.float16 needs a GPU"),
        ({"amp": "bfloat16"}, ValueError, "amp is torch.bfloat16 or torch.float16; got 'bfloat16'"),
        ({"schedule_every": "batch"}, ValueError, "schedule_every is 'epoch' or 'step'"),
        ({"weighting": UPGrad}, TypeError, "weighting is an object such as UPGrad"),
    ],
)
def test_arguments_that_cannot_be(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = net()
    with pytest.raises(error, match=message):
        fit(model, TASKS, TRAIN, epochs=1, **arguments)
    assert same(model, net())


def test_a_schedule_of_another_optimizer_is_refused() -> None:
    model = net()
    schedule = torch.optim.lr_scheduler.StepLR(sgd(model), 1)
    with pytest.raises(ValueError, match="the schedule is of another optimizer; build it with"):
        fit(model, TASKS, TRAIN, epochs=1, optimizer=sgd(model), schedule=schedule)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(sgd(model))
    with pytest.raises(ValueError, match="ReduceLROnPlateau reads what an epoch ends with"):
        fit(model, TASKS, TRAIN, VALID, epochs=1, schedule=plateau, schedule_every="step")


def test_a_sampler_is_for_a_split() -> None:
    with pytest.raises(ValueError, match="a loader chooses its rows by itself"):
        fit(net(), TASKS, batches_as("list"), epochs=1, sampler=lambda *_: [np.arange(3)])
