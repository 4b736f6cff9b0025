"""A stack of networks takes the steps that each would take alone."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mtl_tutorial import weighting as lib
from mtl_tutorial.datasets import Split
from mtl_tutorial.pytorch import HardSharing, fit, fit_stacked, linear_heads, mlp
from mtl_tutorial.tasks import Binary, Classification, Regression, Task
from mtl_tutorial.weighting import FAMO, RLW, UW, Equal, PCGrad, Static, UPGrad, Weighting

TASKS: list[Task] = [Classification("kind", 3), Binary("big"), Regression("size")]
SEEDS = [3, 4, 5, 3]
STATIC = ([1, 1, 1], [1, 0, 0], [0.5, 0.3, 0.2], [0, 1, 0])
RULES: dict[str, Callable[[int], Weighting]] = {
    "Static": lambda s: Static(STATIC[s]),
    "PCGrad": lambda s: PCGrad(seed=s),
    "RLW": lambda s: RLW(seed=s),
} | {
    name: lambda s, name=name: getattr(lib, name)()
    for name in lib.__all__
    if isinstance(getattr(lib, name), type)
    and name not in {"Weighting", "Recorded", "Static", "PCGrad", "RLW"}
}
SGD = partial(torch.optim.SGD, lr=0.1)
ADAM = partial(torch.optim.Adam, lr=0.02, fused=True)


def data(rows: int, seed: int, missing: Iterable[float] = (0, 0, 0)) -> Split:
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(rows, 6)).astype("float32")
    size = inputs[:, 0] * inputs[:, 1]
    targets: dict[str, np.ndarray] = {
        "kind": np.digitize(inputs[:, 0], [-0.5, 0.5]),
        "big": (size > 0).astype(np.int64),
        "size": size,
    }
    for task, share in zip(TASKS, missing, strict=True):
        gone = generator.random(rows) < share
        truth = targets[task.name]
        targets[task.name] = np.where(gone, task.missing, truth).astype(truth.dtype)
    return Split(inputs, targets)


def net(seed: int, hidden: int = 5) -> HardSharing:
    torch.manual_seed(seed)
    return HardSharing(mlp(6, hidden), linear_heads(TASKS, features=hidden))


def weight(model: HardSharing, name: str = "trunk.1") -> torch.Tensor:
    return model.get_parameter(f"{name}.weight")


def largest_difference(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


TRAINS = [data(40, seed, missing=(0.3, 0.3, 0.3)) for seed in range(4)]
RARE = [data(40, seed, missing=(0.2, 0.8, 0.95)) for seed in range(4)]  # batches without a label
VALID = data(30, 9)


def one_by_one(
    number: int, train: Split, plan: Any, rule: Weighting, *, valid: bool = True, **more: Any
) -> tuple[HardSharing, dict[str, list[float]]]:
    model = net(number).double()
    history = fit(
        model, TASKS, train, VALID, epochs=3, batch_size=8, optimizer=plan(model.parameters()),
        weighting=rule, patience=3 if valid else None, seed=SEEDS[number], device="cpu", **more,
    )  # fmt: skip
    return model, history


def stack(
    trains: list[Split], plan: Any, rules: list[Weighting], **more: Any
) -> tuple[list[HardSharing], list[dict[str, list[float]]]]:
    models = [net(number).double() for number in range(len(rules))]
    histories = fit_stacked(
        models, TASKS, trains[: len(rules)], **{"valid": VALID} | more, weightings=rules,
        seeds=SEEDS[: len(rules)], epochs=3, batch_size=8, optimizer=plan,
    )  # fmt: skip
    return models, histories


def test_some_batches_have_every_label_and_others_have_not() -> None:
    """What the tests below rest on: Adam's heads are stepped alike only where no task is absent."""
    for splits, expected in ((TRAINS, 0), (RARE, 1)):
        absent = 0
        for split, seed in zip(splits, SEEDS, strict=True):
            generator = np.random.default_rng(seed)
            for _ in range(3):
                for rows in generator.permutation(40).reshape(-1, 8):
                    kind, big, size = (split.targets[task.name][rows] for task in TASKS)
                    absent += int((kind < 0).all() or (big < 0).all() or np.isnan(size).all())
        assert min(absent, 1) == expected


@pytest.mark.parametrize(
    ("name", "gramian"),
    [(name, "parameters") for name in RULES]
    + [(name, "features") for name, make in RULES.items() if make(0).needs_gramian],
)
@pytest.mark.parametrize(("plan", "trains"), [(ADAM, TRAINS), (SGD, RARE)], ids=["Adam", "absent"])
def test_a_stack_equals_one_by_one(name: str, gramian: Any, plan: Any, trains: list[Split]) -> None:
    rules = [RULES[name](number) for number in range(3)]
    models, histories = stack(trains, plan, rules, gramian=gramian)
    for number, (model, history, rule) in enumerate(zip(models, histories, rules, strict=True)):
        own = RULES[name](number)
        alone, expected = one_by_one(number, trains[number], plan, own, gramian=gramian)
        if (
            name != "Static"
        ):  # there val_loss leaves out a task of weight 0, and may choose another epoch
            assert largest_difference(model, alone) < 1e-9
            np.testing.assert_allclose(history["val_loss"], expected["val_loss"], rtol=1e-6)
        for task in TASKS:
            for key in (f"{task.name}_loss", f"val_{task.name}_loss"):
                np.testing.assert_allclose(history[key], expected[key], rtol=1e-6)
        mine, theirs = rule.state_dict(), own.state_dict()
        for key in theirs:
            if key != "generator":
                np.testing.assert_allclose(mine[key], theirs[key], rtol=1e-6, atol=1e-9)


def test_unlike_weightings_share_a_stack() -> None:
    """Those that weight losses, heads included, beside those that weight the trunk's gradients."""
    names = ["UPGrad", "UW", "Static", "GradNorm"]
    models, _ = stack(RARE, SGD, [RULES[name](s) for s, name in enumerate(names)], valid=None)
    for number, (model, name) in enumerate(zip(models, names, strict=True)):
        alone, _ = one_by_one(number, RARE[number], SGD, RULES[name](number), valid=False)
        assert largest_difference(model, alone) < 1e-9


def test_without_validation_the_last_parameters_stay() -> None:
    rules = [Static(values) for values in STATIC]
    models, histories = stack(TRAINS, ADAM, [*rules], valid=None)
    for number, (model, history) in enumerate(zip(models, histories, strict=True)):
        alone, expected = one_by_one(number, TRAINS[number], ADAM, rules[number], valid=False)
        assert largest_difference(model, alone) < 1e-9
        assert list(history) == ["kind_loss", "big_loss", "size_loss"]
        np.testing.assert_allclose(history["big_loss"], expected["big_loss"], rtol=1e-6)


def test_the_tasks_that_are_on_choose_the_epoch() -> None:
    models, histories = stack(TRAINS, ADAM, [Static(values) for values in STATIC])
    for number, (model, history) in enumerate(zip(models, histories, strict=True)):
        own = [k for k in range(3) if STATIC[number][k]]
        tasks = [TASKS[k] for k in own]
        alone = net(number).double()
        expected = fit(
            alone, tasks, TRAINS[number], VALID, epochs=3, batch_size=8, patience=3, device="cpu",
            optimizer=ADAM(alone.parameters()), weighting=Static([STATIC[number][k] for k in own]),
            seed=SEEDS[number],
        )  # fmt: skip
        np.testing.assert_allclose(history["val_loss"], expected["val_loss"], rtol=1e-6)
        assert largest_difference(model, alone) < 1e-9


def test_the_default_optimiser_is_that_of_fit() -> None:
    model, alone = net(0), net(0)
    plan: dict[str, Any] = {"epochs": 2, "batch_size": 8}
    fit_stacked([model], TASKS, TRAINS[:1], weightings=[UW()], seeds=[0], **plan)
    fit(alone, TASKS, TRAINS[0], VALID, weighting=UW(), device="cpu", **plan)
    assert largest_difference(model, alone) < 1e-6


def test_a_schedule_hangs_on_the_optimiser() -> None:
    def falling(parameters: Iterable[torch.Tensor]) -> torch.optim.Optimizer:
        made = torch.optim.SGD(parameters, lr=0.1)
        schedule = torch.optim.lr_scheduler.ExponentialLR(made, 0.9)
        made.register_step_post_hook(lambda *_: schedule.step())
        return made

    (model,), _ = stack(TRAINS, falling, [UPGrad()], valid=None)
    alone, _ = one_by_one(0, TRAINS[0], falling, UPGrad(), valid=False)
    assert largest_difference(model, alone) < 1e-12
    constant, _ = one_by_one(0, TRAINS[0], SGD, UPGrad(), valid=False)
    assert largest_difference(model, constant) > 1e-3


def test_the_user_s_own_weighting_sees_each_network() -> None:
    class Diary(Weighting):
        needs_gramian = True

        def __init__(self) -> None:
            self.seen: list[np.ndarray] = []

        def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
            assert gramian is not None
            self.seen.append(gramian)
            return np.ones(len(losses))

    together, apart = [Diary(), Diary()], [Diary(), Diary()]
    stack(TRAINS, SGD, [*together])
    for number, (diary, own) in enumerate(zip(together, apart, strict=True)):
        one_by_one(number, TRAINS[number], SGD, own)
        np.testing.assert_allclose(diary.seen, own.seen, rtol=1e-8, atol=1e-12)


def test_tied_weights_count_as_the_trunk_s() -> None:
    """A head that reads a layer of the trunk, too: full backward passes count it."""

    def tied(seed: int) -> HardSharing:
        torch.manual_seed(seed)
        first = nn.Linear(6, 6)
        heads = linear_heads(TASKS, features=6)
        heads["size"] = nn.Sequential(first, heads["size"])
        return HardSharing(nn.Sequential(first, nn.Tanh()), heads).double()

    models = [tied(0), tied(1)]
    plan: dict[str, Any] = {"epochs": 3, "batch_size": 8}
    fit_stacked(
        models, TASKS, TRAINS[:2], weightings=[UPGrad(), UPGrad()], seeds=[0, 1], optimizer=SGD,
        **plan,
    )  # fmt: skip
    for seed, model in enumerate(models):
        alone = tied(seed)
        fit(
            alone, TASKS, TRAINS[seed], VALID, weighting=UPGrad(), seed=seed, device="cpu",
            optimizer=SGD(alone.parameters()), **plan,
        )  # fmt: skip
        assert largest_difference(model, alone) < 1e-9
    with pytest.raises(ValueError, match="heads that share no parameter with it"):
        fit_stacked(
            models, TASKS, TRAINS[:2], weightings=[UPGrad(), UPGrad()], seeds=[0, 1], epochs=1,
            gramian="features",
        )  # fmt: skip


def test_convolutions_keep_their_memory_format() -> None:
    """Fused optimisers read a gradient as it lies in memory, and take it to lie as the parameter."""

    def convolutional() -> HardSharing:
        torch.manual_seed(0)
        first, second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        trunk = nn.Sequential(first, nn.ReLU(), second, nn.Flatten())
        return HardSharing(trunk, linear_heads(TASKS, features=8)).double()

    images = [Split(own.inputs.reshape(-1, 3, 2, 1), own.targets) for own in (TRAINS[0], VALID)]
    one, other = convolutional(), convolutional().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for model in (one, other):
        fit_stacked([model], TASKS, images[:1], weightings=[UPGrad()], seeds=[0], epochs=2)
    assert weight(other, "trunk.2").stride() != weight(one, "trunk.2").stride()
    assert largest_difference(one, other) < 1e-9


def test_a_frozen_layer_stays() -> None:
    models = [net(0), net(1)]
    for model in models:
        model.get_parameter("trunk.1.bias").requires_grad_(False)
    before = models[1].get_parameter("trunk.1.bias").clone()
    rules = [UPGrad(), Equal()]
    fit_stacked(models, TASKS, TRAINS[:2], weightings=rules, seeds=[0, 1], epochs=2)
    assert torch.equal(models[1].get_parameter("trunk.1.bias"), before)
    assert not torch.equal(weight(models[1]), weight(net(1)))
    for model in models:
        model.trunk.requires_grad_(False)
    with pytest.raises(ValueError, match="the trunk is frozen"):
        fit_stacked(models, TASKS, TRAINS[:2], weightings=rules, seeds=[0, 1], epochs=2)


def test_a_task_of_weight_0_keeps_its_head() -> None:
    models = [net(0)]
    fit_stacked(
        models, TASKS, TRAINS[:1], VALID, weightings=[Static([1, 0, 1])], seeds=[0], epochs=2
    )
    assert torch.equal(weight(models[0], "heads.big"), weight(net(0), "heads.big"))
    assert not torch.equal(weight(models[0], "heads.size"), weight(net(0), "heads.size"))


def test_each_model_keeps_its_best_epoch() -> None:
    models = [net(seed) for seed in range(2)]
    far = partial(torch.optim.Adam, lr=0.5)
    plan: dict[str, Any] = {"weightings": [Equal(), Static([1, 0, 0])], "seeds": [0, 1]}
    histories = fit_stacked(models, TASKS, TRAINS[:2], VALID, epochs=8, optimizer=far, **plan)
    at_rest = partial(torch.optim.SGD, lr=0.0)
    again = fit_stacked(models, TASKS, TRAINS[:2], VALID, epochs=1, optimizer=at_rest, **plan)
    for history, rest in zip(histories, again, strict=True):
        assert history["val_loss"][-1] > min(history["val_loss"])  # lr = 0.5 goes astray
        assert rest["val_loss"][0] == pytest.approx(min(history["val_loss"]), rel=1e-5)


def test_a_network_that_diverges_leaves_the_others_alone() -> None:
    """As in fit, none of its epochs is the best, so it ends with its last parameters."""
    huge = data(40, 0)
    huge.targets["size"] *= 1e30
    models = [net(0), net(1)]
    plan: dict[str, Any] = {"epochs": 3, "batch_size": 8, "optimizer": SGD}
    rules = [Static([0, 0, 1]), Static([1, 1, 1])]
    histories = fit_stacked(
        models, TASKS, [huge, TRAINS[1]], VALID, weightings=rules, seeds=[0, 1], **plan
    )
    assert not np.isfinite(histories[0]["val_loss"]).any()
    assert not weight(models[0]).isfinite().all()
    alone = net(1)
    fit_stacked([alone], TASKS, TRAINS[1:2], VALID, weightings=rules[1:], seeds=[1], **plan)
    assert largest_difference(models[1], alone) < 1e-6
    with pytest.raises(ValueError, match=r"network 0: the loss of task 2 \('size'\) is (nan|inf)"):
        fit_stacked(
            [net(0), net(1)],
            TASKS,
            [huge, TRAINS[1]],
            weightings=[UW(), UW()],
            seeds=[0, 1],
            **plan,
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": [0]}, "2 models, 2 training sets, 1 seeds and 2 weightings"),
        (
            {"weightings": [Equal(), Static([1, 1])]},
            "network 1: Static holds 2 weights for 3 tasks",
        ),
        ({"weightings": [Equal(), UW]}, "for network 1, which is no Weighting"),
        ({"weightings": [[1, 1, 1]] * 2}, r"weightings holds \[1, 1, 1\] for network 0"),
        ({"weightings": [FAMO()] * 2}, "network 1 shares its .* give each network its own"),
        ({"trains": [TRAINS[0], data(41, 0)]}, r"differ in length: \[40, 41\]"),
        ({"models": []}, "0 models"),
        ({"models": [net(0)] * 2}, "network 1 is the same object"),
        ({"models": [net(0), net(1, hidden=6)]}, "network 1 differs from network 0"),
        ({"models": [net(0), net(1).double()]}, "network 1 differs from network 0"),
        ({"optimizer": ADAM(net(0).parameters())}, "optimizer is a finished Adam; give a function"),
        ({"optimizer": torch.optim.Adafactor}, "Adafactor mixes the entries"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS mixes the entries|only supports"),
        ({"gramian": "rows"}, "gramian is 'parameters' or 'features'; got 'rows'"),
        ({"epochs": 0}, "epochs and batch_size must be at least 1; got 0, 64"),
    ],
)
def test_what_does_not_fit_together_is_named(change: dict[str, Any], message: str) -> None:
    models = [net(0), net(1)]
    settings: dict[str, Any] = {
        "models": models, "tasks": TASKS, "trains": TRAINS[:2], "valid": VALID,
        "weightings": [Equal(), Equal()], "seeds": [0, 1], "epochs": 1,
    }  # fmt: skip
    with pytest.raises((ValueError, TypeError), match=message):
        fit_stacked(**(settings | change))
    assert torch.equal(weight(models[0]), weight(net(0)))


def test_networks_of_other_activations_are_no_stack() -> None:
    """All would be called as the first one is."""
    models = [net(0), net(1)]
    models[1].trunk[2] = nn.Tanh()  # type: ignore[operator]
    with pytest.raises(ValueError, match="network 1 differs from network 0"):
        fit_stacked(models, TASKS, TRAINS[:2], weightings=[Equal()] * 2, seeds=[0, 1], epochs=1)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.BatchNorm1d(5), r"batch norm or other buffers .* 'trunk.1' is a BatchNorm1d"),
        (nn.Dropout(0.5), "draw random numbers .* as dropout does; set it to 0"),
    ],
)
def test_what_a_stack_cannot_do_is_refused(layer: nn.Module, message: str) -> None:
    model = HardSharing(nn.Sequential(nn.Linear(6, 5), layer), linear_heads(TASKS, 5))
    start = model.get_parameter("trunk.0.weight").clone()
    with pytest.raises(ValueError, match=message):
        fit_stacked([model], TASKS, TRAINS[:1], weightings=[Equal()], seeds=[0], epochs=1)
    model.eval()  # at rest before the training, not in it
    with pytest.raises(ValueError, match=message):
        fit_stacked([model], TASKS, TRAINS[:1], weightings=[Equal()], seeds=[0], epochs=1)
    assert torch.equal(model.get_parameter("trunk.0.weight"), start)


def test_a_layer_that_vmap_does_not_know_is_refused() -> None:
    class Reader(nn.LSTM):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            found: torch.Tensor = super().forward(x[:, :, None])[0][:, -1]
            return found

    model = HardSharing(Reader(1, 5, batch_first=True), linear_heads(TASKS, features=5))
    with pytest.raises(ValueError, match="cannot be called as a stack"):
        fit_stacked([model], TASKS, TRAINS[:1], weightings=[Equal()], seeds=[0], epochs=1)


def test_dropout_of_0_is_none() -> None:
    model, plain = net(0), net(0)
    model.trunk.append(nn.Dropout(0.0))  # type: ignore[operator]
    for each in (model, plain):
        fit_stacked([each], TASKS, TRAINS[:1], weightings=[Equal()], seeds=[0], epochs=2)
    assert largest_difference(model, plain) == 0


def test_a_wrong_label_is_found_before_the_first_step() -> None:
    models, wrong = [net(0)], data(40, 0)
    wrong.targets["kind"][7] = 3
    with pytest.raises(ValueError, match="task 'kind': row 7 holds 3"):
        fit_stacked(models, TASKS, [wrong], VALID, weightings=[Equal()], seeds=[0], epochs=1)
    assert torch.equal(weight(models[0]), weight(net(0)))


def test_what_is_no_data_is_found_before_the_first_step() -> None:
    models, wrong = [net(0)], data(40, 0)
    wrong.inputs[3, 2] = np.inf
    with pytest.raises(ValueError, match="inputs: row 3, column 2 holds inf"):
        fit_stacked(models, TASKS, [wrong], VALID, weightings=[Equal()], seeds=[0], epochs=1)
    assert torch.equal(weight(models[0]), weight(net(0)))


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

    for rule in (Static([0.5, 0.3, 0.2]), UPGrad()):
        stacked, alone = reader(), reader()
        fit_stacked([stacked], TASKS, [words], words, weightings=[rule], seeds=[0], epochs=2)
        fit(alone, TASKS, words, words, epochs=2, weighting=rule, patience=2, device="cpu")
        assert largest_difference(stacked, alone) < 1e-5


def test_no_validation_label_where_it_would_choose_the_epoch() -> None:
    valid = data(30, 9)
    valid.targets["size"][:] = np.nan
    plan: dict[str, Any] = {"seeds": [0], "epochs": 2}
    with pytest.raises(ValueError, match="task 'size' has no label in the validation data, so no"):
        fit_stacked([net(0)], TASKS, TRAINS[:1], valid, weightings=[Equal()], **plan)
    (history,) = fit_stacked(
        [net(0)], TASKS, TRAINS[:1], valid, weightings=[Static([1, 1, 0])], **plan
    )
    assert np.isnan(history["val_size_loss"]).all()
    assert history["val_loss"] == pytest.approx(
        np.add(history["val_kind_loss"], history["val_big_loss"])
    )


def test_inputs_in_double_precision_are_those_of_single_precision() -> None:
    models = [net(0), net(0)]
    for model, dtype in zip(models, ("float32", "float64"), strict=True):
        train, valid = (Split(d.inputs.astype(dtype), d.targets) for d in (TRAINS[0], VALID))
        fit_stacked([model], TASKS, [train], valid, weightings=[Equal()], seeds=[0], epochs=2)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gramian", ["parameters", "features"])
def test_under_autocast_the_gramian_has_all_its_digits(kind: torch.dtype, gramian: Any) -> None:
    asked = [lib.Recorded(UPGrad()) for _ in range(2)]
    with torch.autocast("cpu", kind):
        fit_stacked(
            [net(0), net(1)], TASKS, TRAINS[:2], weightings=asked, seeds=[0, 1], epochs=1,
            batch_size=8, gramian=gramian,
        )  # fmt: skip
    for own in asked:
        seen = [step["gramian"] for step in own.steps]
        assert {each.dtype for each in seen} == {np.dtype(np.float32)}
        lost = [np.abs(each - each.astype(np.float16)).max() for each in seen]
        assert max(lost) > 0
