"""PyTorch and Keras from equal weights and equal batches: equal losses, equal steps."""

from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import mtl_tutorial.keras
import mtl_tutorial.pytorch
from mtl_tutorial.sampling import batches
from mtl_tutorial.tasks import Binary, Boxes, Classification, Regression, Task, labelled
from mtl_tutorial.weighting import Equal, Static, Weighting
from tests.weighting.properties import METHODS

TASKS: list[Task] = [Classification("kind", classes=4), Binary("big"), Regression("size")]
each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


class Inverse(Weighting):
    """One over the loss: the weighting reads the losses, and must never meet an absent task's 0."""

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        return 1 / losses


def some_targets(
    task: Task, rows: int, missing: float, generator: np.random.Generator
) -> np.ndarray:
    if isinstance(task, Boxes):
        low, size = generator.normal(size=(2, rows, 2))
        boxes = np.hstack([low, low + np.abs(size)]).astype("float32")
        boxes[generator.random(rows) < missing] = task.missing
        return boxes
    if isinstance(task, Regression):
        truth = generator.normal(size=rows).astype("float32")
    else:
        truth = generator.integers(0, max(2, task.outputs), rows)
    return np.where(generator.random(rows) < missing, task.missing, truth).astype(truth.dtype)


def both(
    task: Task, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Give loss and gradient in each framework, as one vector each."""
    tensor = torch.from_numpy(outputs).requires_grad_()
    loss = mtl_tutorial.pytorch.task_loss(task, tensor, torch.from_numpy(targets), weights)
    loss.backward()
    assert tensor.grad is not None
    variable = tf.Variable(outputs)
    with tf.GradientTape() as tape:
        its_loss = mtl_tutorial.keras.task_loss(task, tf.constant(targets), variable, weights)
    its_gradient = tape.gradient(its_loss, variable).numpy()
    return (
        np.append(tensor.grad.numpy(), loss.item()),
        np.append(its_gradient, its_loss.numpy()),
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("task", [*TASKS, Boxes("box")], ids=lambda task: task.name)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 9),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    missing=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_loss_and_gradient(
    task: Task, dtype: str, seed: int, rows: int, scale: float, missing: float
) -> None:
    generator = np.random.default_rng(seed)
    outputs = (scale * generator.normal(size=(rows, task.outputs))).astype(dtype)
    ours, theirs = both(task, outputs, some_targets(task, rows, missing, generator))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("task", TASKS[:2], ids=lambda task: task.name)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("label", [0, 1])
def test_extreme_logits(task: Task, sign: int, label: int) -> None:
    outputs = np.zeros((2, task.outputs), "float32")
    outputs[:, 0] = sign * 1e4
    ours, theirs = both(task, outputs, np.array([label, -1]))
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("label", [0, 1])
def test_a_logit_of_0_has_the_slope_of_a_doubt(label: int) -> None:
    """A head that starts at 0 gives it to every row."""
    for found in both(TASKS[1], np.zeros((1, 1), "float32"), np.array([label])):
        np.testing.assert_allclose(found, [0.5 - label, np.log(2)], rtol=1e-6)


@each_task
def test_no_label_at_all(task: Task) -> None:
    outputs = np.full((3, task.outputs), 1e4, "float32")
    targets = np.array([task.missing] * 3, "float32")
    for found in both(task, outputs, targets):
        assert not found.any()


@pytest.mark.parametrize(
    ("task", "target"),
    [
        (TASKS[0], [-100]),
        (TASKS[0], [-1, 4]),
        (TASKS[0], [0.0, np.nan]),
        (TASKS[0], [1.0, 0.5]),
        (TASKS[1], [-100, 1]),
        (TASKS[1], [2]),
        (TASKS[1], [np.nan, -1.0]),
        (TASKS[1], [0.5]),
        (TASKS[2], [np.inf, np.nan]),
        (Boxes("box"), [[0.0, 0.0, 1.0, np.nan]]),
        (Boxes("box"), [[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]]),
        (Boxes("box"), [[-1.0] * 4]),
        (Boxes("box"), [[0.0, 1.0, 1.0, 0.0], [np.nan] * 4]),
        (Boxes("box"), [[0.0, 0.0, np.inf, 1.0]]),
    ],
)
def test_a_label_that_cannot_be_is_nan_in_loss_and_gradient(task: Task, target: list[Any]) -> None:
    targets = np.array(target)
    if targets.dtype.kind == "f":
        targets = targets.astype("float32")
    for found in both(task, np.ones((len(target), task.outputs), "float32"), targets):
        assert np.isnan(found).all()
    loss = mtl_tutorial.keras.task_losses([task])[task.name]
    assert bool(loss.any_label(tf.constant(targets)))  # no task is absent for a wrong label


OPTIONS: list[Task] = [
    Classification("kind", 3, class_weights=(0.5, 1.0, 4.0)),
    Classification("kind", 3, label_smoothing=0.1),
    Classification("kind", 3, class_weights=(0.5, 1.0, 4.0), label_smoothing=0.3),
    Binary("big", pos_weight=3.5),
    Binary("tags", outputs=3),
    Binary("tags", outputs=3, pos_weight=(0.5, 2.0, 7.0)),
    Regression("size"),
    Regression("joints", outputs=3),
]


@pytest.mark.parametrize("weighted", [False, True], ids=["", "sample weights"])
@pytest.mark.parametrize("places", [(), (5,), (3, 4)], ids=["rows", "tokens", "pixels"])
@pytest.mark.parametrize("task", OPTIONS, ids=str)
def test_every_option_and_shape_of_labels(
    task: Task, places: tuple[int, ...], weighted: bool
) -> None:
    """One by one and in a graph that learns the number of rows when it runs."""
    generator = np.random.default_rng(0)
    outputs = 2 * generator.normal(size=(7, *places, task.outputs)).astype("float32")
    shape = outputs.shape if task.numbers > 1 else outputs.shape[:-1]
    targets = some_targets(task, int(np.prod(shape)), 0.3, generator).reshape(shape)
    if isinstance(task, Binary):
        targets = np.minimum(targets, 1)
    weights = np.array([1, 0.5, 0, 2, 3, 1, 0.1], "float32") if weighted else None
    ours, theirs = both(task, outputs, targets, weights)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    signature = [
        tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in (targets, outputs)
    ]
    loss = tf.function(
        lambda t, o: mtl_tutorial.keras.task_loss(task, t, o, weights), input_signature=signature
    )
    np.testing.assert_allclose(loss(targets, outputs), ours[-1], rtol=1e-5)


BOX_OF_CORNERS = st.tuples(*[st.floats(-2, 2, width=32)] * 4)


@given(BOX_OF_CORNERS, st.sampled_from([1.0, 1e-3, 64.0]))
def test_boxes_and_crossed_corners(corners: tuple[float, ...], unit: float) -> None:
    outputs = (unit * np.array([corners])).astype("float64")
    low, high = outputs[0, :2], outputs[0, 2:]
    edges = np.concatenate([low - high, outputs[0], outputs[0] - unit]) / unit
    assume(np.abs(edges).min() > 1e-3)  # where two corners meet, either slope is right
    ours, theirs = both(Boxes("box"), outputs, unit * np.array([[0.0, 0.0, 1.0, 1.0]]))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    for a, b in ((0, 2), (1, 3)):
        if outputs[0, a] > outputs[0, b]:
            assert ours[a] > ours[b]


@pytest.mark.parametrize("task", [*TASKS, Boxes("box")], ids=lambda task: task.name)
def test_both_refuse_the_same_shapes(task: Task) -> None:
    """Targets and outputs that fit, in a column too, and those that do not."""
    width = task.outputs
    good = np.tile(np.array([0, 0, 1, 1], "float32"), (3, 1)) if width == 4 and isinstance(
        task, Boxes
    ) else np.array([0, 1, task.missing], "float32")  # fmt: skip
    outputs = np.linspace(-1, 0.9, 3 * width).reshape(3, width).astype("float32")
    shapes = [
        (outputs, good, True),
        (outputs, good[:, None], not isinstance(task, Boxes)),
        (outputs, good[:1], False),
        (outputs, np.concatenate([good, good]), False),
        (outputs[:1], good, False),
        (np.stack([outputs] * 2, axis=1), good, False),
        (np.concatenate([outputs, outputs], axis=1), good, False),
        (outputs[:, 0], good, False),
    ]
    for out, target, fits in shapes:
        if fits:
            ours, theirs = both(task, out, target)
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
            continue
        with pytest.raises(ValueError, match=f"task '{task.name}': (outputs|targets) "):
            mtl_tutorial.pytorch.task_loss(task, torch.from_numpy(out), torch.from_numpy(target))
        with pytest.raises(ValueError, match=f"task '{task.name}': (outputs|targets) "):
            mtl_tutorial.keras.task_loss(task, tf.constant(target), tf.constant(out))


def test_box_heads() -> None:
    head = mtl_tutorial.pytorch.BoxHead(5, width=640, height=480)
    its_head = mtl_tutorial.keras.BoxHead(width=640, height=480)
    z = np.random.default_rng(0).normal(size=(20, 5)).astype("float32")
    its_head.build(z.shape)
    assert its_head.get_weights()[1].tolist() == head.linear.bias.tolist()
    its_head.set_weights([p.detach().numpy().T for p in head.parameters()])
    expected = head(torch.from_numpy(z)).detach()
    np.testing.assert_allclose(its_head(z), expected, rtol=1e-5, atol=1e-3)


def twins(
    weighting: Weighting, optimizer: keras.optimizers.Optimizer, **settings: Any
) -> tuple[mtl_tutorial.pytorch.HardSharing, mtl_tutorial.keras.MultiTaskModel]:
    """Build the same network in both frameworks, with the same parameters."""
    torch.manual_seed(0)
    ours = mtl_tutorial.pytorch.HardSharing(
        mtl_tutorial.pytorch.mlp(6, 8, 5), mtl_tutorial.pytorch.linear_heads(TASKS, features=5)
    )
    theirs = mtl_tutorial.keras.MultiTaskModel(
        mtl_tutorial.keras.mlp(6, 8, 5),
        mtl_tutorial.keras.linear_heads(TASKS),
        weighting,
        **settings,
    )
    losses, eager = mtl_tutorial.keras.task_losses(TASKS), settings.get("gramian") == "features"
    theirs.compile(optimizer, losses, run_eagerly=eager)  # so both modes are tried
    theirs.build((None, 3, 2))
    for part, its_part in parts(ours, theirs):
        its_part.set_weights([p.detach().numpy().T for p in part.parameters()])
    return ours, theirs


def parts(
    ours: mtl_tutorial.pytorch.HardSharing, theirs: mtl_tutorial.keras.MultiTaskModel
) -> list[tuple[torch.nn.Module, keras.Layer]]:
    heads = [(ours.heads[task.name], theirs.heads[task.name]) for task in TASKS]
    return [(ours.trunk, theirs.trunk), *heads]


def torch_losses(
    features: torch.Tensor, model: mtl_tutorial.pytorch.HardSharing, targets: dict[str, np.ndarray]
) -> dict[str, torch.Tensor | None]:
    return {
        task.name: mtl_tutorial.pytorch.task_loss(
            task, model.heads[task.name](features), torch.from_numpy(targets[task.name])
        )
        if labelled(task, targets[task.name]).any()
        else None
        for task in TASKS
    }


@pytest.mark.parametrize(
    "weighting",
    [Equal, lambda: Static([0.6, 2.0, 0.25]), Inverse],
    ids=["Equal", "Static", "Inverse"],
)
def test_fifty_steps(weighting: Callable[[], Weighting]) -> None:
    """Missing labels everywhere, and now and then a task that is absent from a batch."""
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(80, 3, 2)).astype("float32")
    targets = {task.name: some_targets(task, 80, 0.4, generator) for task in TASKS}
    targets["size"][:40] = np.nan
    ours, theirs = twins(weighting(), keras.optimizers.SGD(0.05))
    optimizer, rule = torch.optim.SGD(ours.parameters(), lr=0.05), weighting()
    absent = 0
    for _ in range(5):
        for rows in batches(80, 8):
            batch = {name: target[rows] for name, target in targets.items()}
            features = ours.trunk(torch.from_numpy(inputs[rows]))
            losses = torch_losses(features, ours, batch)
            absent += sum(loss is None for loss in losses.values())
            optimizer.zero_grad()
            mtl_tutorial.pytorch.mtl_backward(losses, features, rule)
            optimizer.step()
            theirs.reset_metrics()
            shown = theirs.train_on_batch(inputs[rows], batch, return_dict=True)
            for name, loss in losses.items():
                expected = np.nan if loss is None else loss.item()
                found = shown[f"{name}_loss"]
                assert found == pytest.approx(expected, rel=1e-5, abs=1e-6, nan_ok=True)
    assert absent == 25
    for part, its_part in parts(ours, theirs):
        for parameter, weight in zip(part.parameters(), its_part.get_weights(), strict=True):
            np.testing.assert_allclose(parameter.detach().numpy().T, weight, rtol=1e-5, atol=1e-5)


def difference_after(
    steps: int, name: str, gramian: Literal["parameters", "features"], adam: bool
) -> float:
    """Largest difference of a parameter, relative to how far its tensor has moved.

    Labels are missing everywhere; with SGD a task is absent from every third step. (Adam moves the
    head of an absent task in Keras, where its gradient is 0, but not in PyTorch, where it has none;
    and its epsilon is added before the correction of the bias there, after it here.)
    """
    generator = np.random.default_rng(0)
    rule = METHODS[name](len(TASKS))
    its_optimizer = (
        keras.optimizers.Adam(0.01, epsilon=1e-12) if adam else keras.optimizers.SGD(0.05)
    )
    ours, theirs = twins(METHODS[name](len(TASKS)), its_optimizer, gramian=gramian)
    start = [weight.copy() for _, part in parts(ours, theirs) for weight in part.get_weights()]
    optimizer: torch.optim.Optimizer = torch.optim.SGD(ours.parameters(), lr=0.05)
    if adam:
        optimizer = torch.optim.Adam(ours.parameters(), lr=0.01, eps=its_optimizer.epsilon)
    for step in range(steps):
        inputs = generator.normal(size=(16, 3, 2)).astype("float32")
        targets = {task.name: some_targets(task, 16, 0.3, generator) for task in TASKS}
        if step % 3 == 1 and not adam:
            task = TASKS[step // 3 % len(TASKS)]
            targets[task.name][:] = task.missing
        features = ours.trunk(torch.from_numpy(inputs))
        losses = torch_losses(features, ours, targets)
        optimizer.zero_grad()
        mtl_tutorial.pytorch.mtl_backward(
            losses, features, rule, ours.trunk.parameters(), gramian=gramian
        )
        optimizer.step()
        if rule.needs_observe:
            after = torch_losses(ours.trunk(torch.from_numpy(inputs)), ours, targets)
            rule.observe([0.0 if loss is None else loss.item() for loss in after.values()])
        theirs.train_on_batch(inputs, targets)
        if step % 2:
            rule.end_epoch()
            theirs.weighting.end_epoch()
    found = [
        (parameter.detach().numpy().T, weight)
        for part, its_part in parts(ours, theirs)
        for parameter, weight in zip(part.parameters(), its_part.get_weights(), strict=True)
    ]
    return max(
        float(np.abs(one - other).max() / np.abs(other - before).max())
        for (one, other), before in zip(found, start, strict=True)
    )


EVERY_WAY = [(name, "parameters") for name in METHODS]
EVERY_WAY += [(name, "features") for name, make in METHODS.items() if make(3).needs_gramian]


@pytest.mark.parametrize(("name", "gramian"), EVERY_WAY)
def test_nine_steps_of_every_method(name: str, gramian: Literal["parameters", "features"]) -> None:
    """In float32: both frameworks round, and the methods' solvers carry it on."""
    assert difference_after(9, name, gramian, adam=False) < 2e-5


@pytest.mark.parametrize("name", ["FAMO", "UPGrad"])
def test_five_adam_steps(name: str) -> None:
    assert difference_after(5, name, "parameters", adam=True) < 2e-5
