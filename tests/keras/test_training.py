import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtl_tutorial.keras import (
    HardSharing,
    MultiTaskModel,
    linear_heads,
    mlp,
    task_losses,
    task_metrics,
)
from mtl_tutorial.metrics import scores
from mtl_tutorial.tasks import Binary, Classification, Regression, Task
from mtl_tutorial.weighting import DWA, FAMO, UW, Equal, Static, UPGrad, Weighting
from tests.weighting.properties import METHODS

TASKS: list[Task] = [Regression("size"), Classification("kind", classes=3), Binary("big")]
Where = Literal["parameters", "features"]
each_gramian = pytest.mark.parametrize("gramian", ["parameters", "features"])
ROWS = 24
GENERATOR = np.random.default_rng(0)
INPUTS = GENERATOR.normal(size=(ROWS, 5)).astype("float32")
TARGETS: dict[str, np.ndarray] = {
    "size": INPUTS[:, 0] * 2,
    "kind": INPUTS[:, :3].argmax(axis=1),
    "big": (INPUTS.sum(axis=1) > 0).astype("int64"),
}


@dataclass(eq=False)
class Recorder(Weighting):
    """Weights in proportion to the losses; keeps which tasks were present."""

    scale: float = 1.0
    seen: ClassVar[list[list[bool]]] = []

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        assert isinstance(self.present, np.ndarray)
        self.seen.append(self.present.tolist())
        return self.scale * losses


@dataclass(eq=False)
class Fixed(Weighting):
    """Fixed weights for the shared parameters only; keeps what it was given."""

    needs_gramian: ClassVar[bool] = True
    values: Sequence[float] = (0.5, 2.0, -0.25)
    seen: list[np.ndarray] = field(default_factory=list)

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        assert gramian is not None
        self.seen.append(gramian)
        return np.asarray(self.values, dtype=float)[self.present]


class FixedWithHeads(Fixed):
    weights_heads: ClassVar[bool] = True


@dataclass(eq=False)
class Watcher(Weighting):
    """Weights of 1; keeps the losses before and after each step, in order."""

    needs_observe: ClassVar[bool] = True
    before: list[np.ndarray] = field(default_factory=list)
    after: list[np.ndarray] = field(default_factory=list)

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        assert len(self.before) == len(self.after)
        self.before.append(losses)
        return np.ones(len(losses))

    def observe(self, losses: Sequence[float] | np.ndarray) -> None:
        self.after.append(np.asarray(losses))


def build(
    weighting: Weighting | None = None,
    trunk: keras.Layer | None = None,
    heads: dict[str, keras.Layer] | None = None,
    gramian: Where = "parameters",
    **settings: Any,
) -> MultiTaskModel:
    keras.utils.set_random_seed(0)
    trunk, heads = trunk or mlp(5, 8), heads or linear_heads(TASKS)
    model = MultiTaskModel(trunk, heads, weighting=weighting, gramian=gramian)
    settings = {"optimizer": keras.optimizers.SGD(0.1), "loss": task_losses(TASKS)} | settings
    model.compile(**settings)
    model(INPUTS)
    return model


def train(model: keras.Model, targets: Mapping[str, np.ndarray] = TARGETS, epochs: int = 2) -> Any:
    settings = {"batch_size": 8, "shuffle": False, "verbose": 0}
    return model.fit(INPUTS, dict(targets), epochs=epochs, **settings).history


def assert_same_weights(one: keras.Model, other: keras.Model, tolerance: float) -> None:
    for ours, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def penalised() -> keras.Layer:
    """Build a trunk with a penalty on its weights, which no weighting may touch."""
    return keras.layers.Dense(8, activation="relu", kernel_regularizer=keras.regularizers.L2(0.01))


@pytest.mark.parametrize("values", [None, (0.6, 2.0, 0.25)])
def test_weighted_like_a_functional_model_with_loss_weights(values: Sequence[float] | None) -> None:
    """The steps of plain Keras: functional API, its own losses, and ``loss_weights``."""
    model = build(Static(values) if values else None, penalised())
    trunk, heads, inputs = penalised(), linear_heads(TASKS), keras.Input((5,))
    features = trunk(inputs)
    plain = keras.Model(inputs, {name: head(features) for name, head in heads.items()})
    plain.compile(
        optimizer=keras.optimizers.SGD(0.1),
        loss={
            "size": keras.losses.MeanSquaredError(),
            "kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "big": keras.losses.BinaryCrossentropy(from_logits=True),
        },
        loss_weights=dict(zip(heads, values, strict=True)) if values else None,
    )
    pairs = [(model.trunk, trunk), *((model.heads[name], head) for name, head in heads.items())]
    for part, its_part in pairs:
        its_part.set_weights(part.get_weights())
    targets = TARGETS | {"size": TARGETS["size"][:, None], "big": TARGETS["big"][:, None]}
    ours, theirs = train(model), train(plain, targets)
    for name in ("loss", "size_loss", "kind_loss", "big_loss"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-5)
    for part, its_part in pairs:
        assert_same_weights(part, its_part, 1e-5)


def test_a_tiny_weight_keeps_its_digits() -> None:
    """From parameters at 0, a weight of 1e-7 gives a step 1e-7 times as long."""
    steps = {}
    for weight in (1.0, 1e-7):
        model = build(Static([weight, 1.0, 1.0]))
        head = model.heads["size"]
        head.set_weights([0 * value for value in head.get_weights()])
        model.train_on_batch(INPUTS, TARGETS)
        steps[weight] = head.get_weights()[0]
    np.testing.assert_allclose(steps[1e-7] / 1e-7, steps[1.0], rtol=1e-4)


@pytest.fixture
def float64() -> Iterator[None]:
    settings = keras.config.set_floatx, keras.config.set_dtype_policy
    for setting in settings:
        setting("float64")
    yield
    for setting in settings:
        setting("float32")


@pytest.mark.usefixtures("float64")
def test_weights_are_as_exact_as_the_losses() -> None:
    moved = []
    for weighting in (Equal(), Static([0.6])):
        keras.utils.set_random_seed(0)
        head = keras.layers.Dense(1)
        model = MultiTaskModel(mlp(5, 4), {"size": head}, weighting=weighting)
        model.compile(keras.optimizers.SGD(1.0), task_losses(TASKS[:1]))
        model.build((None, 5))
        model.train_on_batch(INPUTS.astype("float64"), {"size": TARGETS["size"].astype("float64")})
        moved.append(head.bias.numpy())
    np.testing.assert_allclose(moved[1], 0.6 * moved[0], rtol=1e-12)


def test_a_weight_of_zero_leaves_the_head_alone() -> None:
    model = build(Static([1, 0, 1]))
    before = model.heads["kind"].get_weights()
    train(model)
    assert all(map(np.array_equal, before, model.heads["kind"].get_weights()))


def test_any_keras_loss_will_do() -> None:
    """A loss by name gives one number a row; the weighting is given their mean."""
    model = build(Recorder(), loss=task_losses(TASKS) | {"size": "mse"})
    reference = build(Recorder())
    train(model, TARGETS | {"size": TARGETS["size"][:, None]})
    train(reference)
    assert_same_weights(model, reference, 1e-6)


def test_validation_loss_is_the_plain_sum() -> None:
    model = build(Static([3.0, 2.0, 0.5]))
    found = model.evaluate(INPUTS, TARGETS, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(sum(found[f"{task.name}_loss"] for task in TASKS))


def test_absent_tasks_are_not_asked_for() -> None:
    """No label of a task in a batch: the weighting never hears of it, its head does not move."""
    targets = TARGETS | {
        "kind": np.where(np.arange(ROWS) < 8, TARGETS["kind"], -1),
        "size": np.full(ROWS, np.nan, "float32"),
    }
    model = build(Recorder())
    before = model.heads["size"].get_weights()
    Recorder.seen.clear()
    train(model, targets, epochs=1)
    assert Recorder.seen == [[False, True, True], [False, False, True], [False, False, True]]
    assert all(map(np.array_equal, before, model.heads["size"].get_weights()))


def test_metrics_skip_missing_labels() -> None:
    hidden = np.arange(ROWS) % 3 == 0
    targets = {
        task.name: np.where(hidden, task.missing, TARGETS[task.name]).astype(
            TARGETS[task.name].dtype
        )
        for task in TASKS
    }
    model = build(metrics=task_metrics(TASKS))
    found = model.evaluate(INPUTS, targets, batch_size=5, verbose=0, return_dict=True)
    expected = scores(TASKS, model.predict(INPUTS, verbose=0), targets)
    for name in ("size_mae", "kind_accuracy", "big_accuracy"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5)


@pytest.mark.parametrize("eager", [False, True], ids=["graph", "eager"])
@pytest.mark.parametrize("weighting", [UW(), UPGrad()], ids=["UW", "UPGrad"])
def test_bad_loss_names_the_task_and_changes_nothing(weighting: Weighting, eager: bool) -> None:
    if isinstance(weighting, UPGrad):  # which does not read the losses
        complaint = r"squared gradient norm of task 0 \('size'\) is (inf|nan)"
    else:
        complaint = r"loss of task 0 \('size'\) is inf"
    decay = keras.optimizers.AdamW(0.1)  # moves every parameter, whatever its gradient
    model = build(weighting, optimizer=decay, run_eagerly=eager)
    decay.build(model.trainable_variables)
    before = [variable.numpy() for variable in (*model.weights, *decay.variables)]
    bad = TARGETS | {"size": np.full(ROWS, 1e30, "float32")}  # its square is infinite
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=complaint):
        train(model, bad)
    after = [variable.numpy() for variable in (*model.weights, *decay.variables)]
    assert all(map(np.array_equal, before, after))


def gradients_by_hand(
    model: MultiTaskModel, weights: Sequence[float], weights_heads: bool = False
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Give the step's gradients, and each task's on the trunk and on the features, by plain tapes."""
    loss_of, variables = task_losses(TASKS), model.trainable_variables
    with tf.GradientTape(persistent=True) as tape:
        features = model.trunk(INPUTS)
        losses = [loss_of[n](TARGETS[n], model.heads[n](features)) for n in loss_of]
        penalty = tf.zeros(()) + sum(tf.reduce_sum(each) for each in model.losses)

    def gradient(target: Any) -> list[np.ndarray]:
        found = zip(variables, tape.gradient(target, variables), strict=True)
        return [np.zeros(v.shape) if g is None else np.array(g) for v, g in found]

    total, rows = gradient(penalty), []
    for weight, loss in zip(weights, losses, strict=True):
        row = gradient(loss)
        rows.append(np.concatenate([np.ravel(g) for g in row[: len(model.trunk.weights)]]))
        for number, its_gradient in enumerate(row):
            head = number >= len(model.trunk.weights) and not weights_heads
            total[number] += (1 if head else weight) * its_gradient
    return total, rows, [np.ravel(tape.gradient(loss, features)) for loss in losses]


def everything_penalised() -> dict[str, Any]:
    """Penalties everywhere, and a trunk whose variables have the names of a head's."""
    trunk = keras.layers.Dense(
        8, activation="tanh", kernel_regularizer="l2", activity_regularizer="l2", name="big"
    )
    heads = linear_heads(TASKS)
    heads["big"] = keras.layers.Dense(
        1, name="big", bias_regularizer="l1", activity_regularizer="l1"
    )
    return {"trunk": trunk, "heads": heads}


@each_gramian
@pytest.mark.parametrize("kind", [Fixed, FixedWithHeads])
def test_the_step_of_a_gramian_based_weighting(kind: type[Fixed], gramian: Where) -> None:
    """Weighted sum for the trunk, heads their own or weighted, penalties in full, and the Gramian."""
    weighting = kind()
    settings = {"optimizer": keras.optimizers.SGD(1.0), "gramian": gramian}
    model = build(weighting, **everything_penalised(), **settings)
    before = model.get_weights()
    expected, *rows = gradients_by_hand(model, weighting.values, weighting.weights_heads)
    shown = model.train_on_batch(INPUTS, TARGETS, return_dict=True)
    for start, end, gradient in zip(before, model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(start - end, gradient, rtol=1e-4, atol=1e-5)
    jacobian = np.stack(rows[gramian == "features"])
    np.testing.assert_allclose(weighting.seen[0], jacobian @ jacobian.T, rtol=1e-4, atol=1e-6)
    assert weighting.seen[0].dtype == np.float32
    model.set_weights(before)
    plain = model.evaluate(INPUTS, TARGETS, verbose=0, return_dict=True)
    assert shown == pytest.approx(plain, rel=1e-5)  # the losses, without weights


@each_gramian
def test_a_gramian_based_weighting_does_not_meet_absent_tasks(gramian: Where) -> None:
    weighting = Fixed()
    model = build(weighting, gramian=gramian)
    before = model.heads["kind"].get_weights()
    train(model, TARGETS | {"kind": np.full(ROWS, -1)}, epochs=1)
    assert [each.shape for each in weighting.seen] == [(2, 2)] * 3
    assert all(map(np.array_equal, before, model.heads["kind"].get_weights()))


@each_gramian
def test_a_step_goes_through_the_trunk_once(gramian: Where) -> None:
    """Batch norm counts the batch once; so it does where the losses are observed after the step."""
    for weighting in (Fixed(), FAMO()):
        norm = keras.layers.BatchNormalization(momentum=0.9)
        trunk = keras.Sequential([norm, keras.layers.Dense(8), keras.layers.Dropout(0.5)])
        model = build(weighting, trunk, gramian=gramian, run_eagerly=gramian == "features")
        model.train_on_batch(INPUTS, TARGETS)
        np.testing.assert_allclose(norm.moving_mean, 0.1 * INPUTS.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize(
    "settings", [{}, {"steps_per_execution": 3}, {"run_eagerly": True}], ids=str
)
def test_losses_after_the_step_are_observed(settings: dict[str, Any]) -> None:
    """The same batch, the new parameters, no dropout; each before the next step's weights."""
    weighting = Watcher()
    trunk = keras.Sequential([keras.layers.Dense(8), keras.layers.Dropout(0.5)])
    model = build(weighting, trunk, **settings)
    train(model)
    assert len(weighting.before) == len(weighting.after) == 6
    last = {name: target[16:] for name, target in TARGETS.items()}
    found = model.evaluate(INPUTS[16:], last, verbose=0, return_dict=True)
    expected = [found[f"{task.name}_loss"] for task in TASKS]
    np.testing.assert_allclose(weighting.after[-1], expected, rtol=1e-5)


def test_an_embedding_and_an_unused_layer_in_the_trunk() -> None:
    """Sparse gradients count in full; a variable that plays no part stays."""

    class Reader(keras.Layer):  # type: ignore[misc]  # Keras has no types
        def __init__(self) -> None:
            super().__init__()
            self.words, self.unused = keras.layers.Embedding(9, 8), keras.layers.Dense(2)

        def build(self, input_shape: Any) -> None:
            self.words.build(input_shape)
            self.unused.build((None, 8))

        def call(self, inputs: Any) -> Any:
            return keras.ops.mean(self.words(inputs), axis=1)

        def compute_output_shape(self, input_shape: Any) -> Any:
            return (input_shape[0], 8)

    words = np.random.default_rng(0).integers(0, 9, (ROWS, 4))
    weighting, trunk = Fixed(), Reader()
    keras.utils.set_random_seed(0)
    model = MultiTaskModel(trunk, linear_heads(TASKS), weighting)
    model.compile(keras.optimizers.SGD(1.0), task_losses(TASKS))
    model.build((None, 4))
    table, kernel, _ = trunk.get_weights()
    loss_of, rows = task_losses(TASKS), []
    for task in TASKS:
        with tf.GradientTape() as tape:
            loss = loss_of[task.name](TARGETS[task.name], model.heads[task.name](trunk(words)))
        rows.append(tf.convert_to_tensor(tape.gradient(loss, trunk.words.embeddings)).numpy())
    model.train_on_batch(words, TARGETS)
    expected = np.tensordot(weighting.values, rows, 1)
    np.testing.assert_allclose(table - trunk.get_weights()[0], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        weighting.seen[0], np.einsum("kij,lij->kl", rows, rows), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_array_equal(trunk.get_weights()[1], kernel)


@each_gramian
def test_mixed_precision(gramian: Where) -> None:
    """The weighting sees a Gramian without the scale of the losses; an overflow skips the step."""
    weighting = Fixed()
    for scale, skipped in ((2.0**10, False), (2.0**60, True)):
        heads = linear_heads(TASKS)
        trunk = keras.layers.Dense(8, activation="relu")
        for layer in (trunk, *heads.values()):
            layer.dtype_policy = "mixed_float16"
        sgd = keras.optimizers.SGD(1.0)
        optimizer = keras.optimizers.LossScaleOptimizer(sgd, initial_scale=scale)
        settings = {"optimizer": optimizer, "run_eagerly": gramian == "features"}
        model = build(weighting, trunk, heads, gramian=gramian, **settings)
        before = model.get_weights()
        expected, *rows = gradients_by_hand(model, weighting.values)
        model.train_on_batch(INPUTS, TARGETS)
        for start, end, gradient in zip(before, model.get_weights(), expected, strict=True):
            np.testing.assert_allclose(start - end, 0 if skipped else gradient, atol=0.02)
            assert np.array_equal(start, end) == skipped
        assert float(optimizer.dynamic_scale) == (scale / 2 if skipped else scale)
        if not skipped:
            jacobian = np.stack(rows[gramian == "features"]).astype("float32")
            np.testing.assert_allclose(weighting.seen, [jacobian @ jacobian.T], atol=0.01)
    assert len(weighting.seen) == 1  # it was not asked about the overflow


def test_a_frozen_trunk_has_nothing_to_weight() -> None:
    model = build(Fixed())
    model.trunk.trainable = False
    model.compile("sgd", task_losses(TASKS))
    with pytest.raises(
        ValueError, match=r"HardSharing shares no parameter .* Fixed has none to weight"
    ):
        train(model)


def test_a_loss_must_depend_on_the_features() -> None:
    heads = linear_heads(TASKS)
    heads["kind"] = keras.layers.Lambda(lambda features: tf.zeros((tf.shape(features)[0], 3)))
    with pytest.raises(ValueError, match="loss of 'kind' does not depend on the features"):
        train(build(Fixed(), heads=heads))


def test_gramian_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="'parameters' or 'features'; got 'rows'"):
        build(gramian="rows")  # type: ignore[arg-type]


def test_loss_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"loss_weights .* weighting=Static"):
        build(loss_weights={"size": 1.0, "kind": 1.0, "big": 1.0})


def test_jit_compile_is_refused() -> None:
    with pytest.raises(ValueError, match="jit_compile=True is not possible"):
        build(jit_compile=True)
    for off in ("auto", False, None):  # XLA is off in each of them
        assert not build(jit_compile=off).jit_compile


def test_several_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    two = SimpleNamespace(num_replicas_in_sync=2)
    monkeypatch.setattr(MultiTaskModel, "distribute_strategy", two)
    with pytest.raises(ValueError, match="several devices is not supported"):
        build()


TWO_DEVICES = """
import tensorflow as tf, keras, numpy as np
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from mtl_tutorial.keras import MultiTaskModel
from mtl_tutorial.weighting import Equal, UPGrad
two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
x = np.ones((4, 3), "float32")
y = {"a": x[:, :1], "b": -x[:, :1]}
for weighting in (Equal(), UPGrad()):
    heads = {name: keras.layers.Dense(1) for name in y}
    model = MultiTaskModel(keras.layers.Dense(2), heads, weighting)
    model.compile("sgd", {"a": "mse", "b": "mse"})
    for train in (model.train_on_batch, model.fit):
        try:
            with two.scope():
                train(x, y)
        except ValueError as error:
            print("refused:", "several devices is not supported" in str(error))
"""


def test_a_strategy_that_comes_after_compile_is_refused() -> None:
    """Two replicas, each with half of the rows, once took a step of their own in silence."""
    command = [sys.executable, "-c", TWO_DEVICES]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("refused: True") == 4, run.stdout


def test_a_weighting_is_an_object() -> None:
    with pytest.raises(TypeError, match=r"weighting is an object such as UPGrad\(\); got <class"):
        build(UPGrad)  # type: ignore[arg-type]


def test_a_row_of_weight_0_has_no_label() -> None:
    """Losses, the weighting's view of who is absent, the metrics that are weighted."""
    hidden = np.arange(ROWS) % 3 == 0
    weights = {"size": 1.0 - hidden, "kind": np.zeros(ROWS), "big": np.ones(ROWS)}
    without = {
        "size": np.where(hidden, np.nan, TARGETS["size"]).astype("float32"),
        "kind": np.full(ROWS, -1),
        "big": TARGETS["big"],
    }
    Recorder.seen.clear()
    shown = []
    for targets, given in ((TARGETS, weights), (without, None)):
        model = build(
            Recorder(), weighted_metrics={"size": task_metrics(TASKS)["size"], "kind": []}
        )
        shown.append(model.train_on_batch(INPUTS, targets, given, return_dict=True))
        shown.append({"w": model.get_weights()[0].sum()})
    assert Recorder.seen == [[True, False, True]] * 2
    assert shown[0] == pytest.approx(shown[2], rel=1e-5, nan_ok=True)
    assert shown[1] == pytest.approx(shown[3], rel=1e-5)


every_path = pytest.mark.parametrize(
    "weighting",
    [Equal(), Static([1.0, 1.0, 1.0]), Fixed((1.0, 1.0, 1.0))],
    ids=["Equal", "Static", "Gramian"],
)


@pytest.mark.parametrize(
    "loss",
    [
        None,
        "mse",
        task_losses(TASKS[:2]),
        task_losses([*TASKS, Binary("other")]),
        task_losses(TASKS) | {"kind": None},
    ],
    ids=["none", "one for all", "one missing", "one too many", "one None"],
)
def test_losses_must_name_the_heads(loss: Any) -> None:
    with pytest.raises(ValueError, match=r"one loss for each of \['size', 'kind', 'big'\]"):
        build(loss=loss)


@pytest.mark.parametrize("metrics", [["accuracy"] * 3, {"sise": ["mae"]}], ids=["list", "name"])
@pytest.mark.parametrize("kind", ["metrics", "weighted_metrics"])
def test_metrics_must_name_heads(kind: str, metrics: Any) -> None:
    with pytest.raises(ValueError, match=rf"{kind} must be a dict by task name; .*'size', 'kind'"):
        build(**{kind: metrics})


@every_path
@pytest.mark.parametrize("container", [dict, list, tuple])
def test_targets_by_name_or_in_the_order_of_the_heads(
    weighting: Weighting, container: type
) -> None:
    model, named = (
        build(weighting, metrics=task_metrics(TASKS), run_eagerly=True) for _ in range(2)
    )
    targets = dict(TARGETS) if container is dict else container(TARGETS[t.name] for t in TASKS)
    for step in ("train_on_batch", "test_on_batch"):
        found = getattr(model, step)(INPUTS, targets, return_dict=True)
        assert found == getattr(named, step)(INPUTS, TARGETS, return_dict=True)
    assert_same_weights(model, named, 0)


@every_path
@pytest.mark.parametrize(
    ("targets", "complaint"),
    [
        ({"size": TARGETS["size"], "big": TARGETS["big"]}, r"missing: \['kind'\], .*: none"),
        (TARGETS | {"colour": TARGETS["big"]}, r"missing: none, without a head: \['colour'\]"),
        ((TARGETS["size"], TARGETS["kind"]), r"missing: \['size', 'kind', 'big'\]"),
        (TARGETS["size"], r"missing: \['size', 'kind', 'big'\]"),
        (None, r"missing: \['size', 'kind', 'big'\]"),
    ],
    ids=["missing", "superfluous", "two of three", "one array", "none"],
)
def test_targets_must_name_the_heads(weighting: Weighting, targets: Any, complaint: str) -> None:
    model = build(weighting, run_eagerly=True)
    expected = r"one target for each of \['size', 'kind', 'big'\].*" + complaint
    for step in (model.train_on_batch, model.test_on_batch):
        with pytest.raises(ValueError, match=expected):
            step(INPUTS, targets)


def test_one_head_takes_its_target_as_it_is() -> None:
    def moved(targets: Any) -> list[np.ndarray]:
        keras.utils.set_random_seed(0)
        model = MultiTaskModel(mlp(5, 4), {"big": keras.layers.Dense(1)}, Static([1.0]))
        model.compile("sgd", {"big": "mse"}, metrics=["mae"], run_eagerly=True)
        assert list(model.train_on_batch(INPUTS, targets, return_dict=True)) == ["loss", "mae"]
        return list(model.get_weights())

    for one, other in zip(moved(TARGETS["size"]), moved({"big": TARGETS["size"]}), strict=True):
        np.testing.assert_array_equal(one, other)


def as_dataset(rows: int) -> Any:
    return tf.data.Dataset.from_tensor_slices((INPUTS, dict(TARGETS))).batch(rows)


def as_generator(rows: int) -> Iterator[Any]:
    for start in range(0, ROWS, rows):
        yield INPUTS[start : start + rows], tuple(t[start : start + rows] for t in TARGETS.values())


@pytest.mark.parametrize("source", [as_dataset, as_generator])
def test_data_sets_and_generators(source: Callable[[int], Any]) -> None:
    model, reference = build(UW()), build(UW())
    found = model.fit(source(8), steps_per_epoch=3, verbose=0, shuffle=False).history
    assert found == train(reference, epochs=1)
    assert_same_weights(model, reference, 0)


def test_losses_shown_add_up() -> None:
    """Also where the last batch is shorter: each row counts once."""
    model = build(Static([1.0, 1.0, 1.0]), optimizer=keras.optimizers.SGD(0.0))
    shown = model.fit(INPUTS, TARGETS, batch_size=10, verbose=0, shuffle=False).history
    assert shown["loss"][0] == pytest.approx(sum(shown[f"{t.name}_loss"][0] for t in TASKS))
    plain = model.evaluate(INPUTS, TARGETS, verbose=0, return_dict=True)
    assert plain == pytest.approx({name: value for name, [value] in shown.items()})


def test_without_any_label_loss_and_metric_are_nan() -> None:
    """Not 0, which would be a perfect loss; a batch without labels does not count."""
    targets = TARGETS | {
        "kind": np.full(ROWS, -1),
        "size": np.where(np.arange(ROWS) < 8, TARGETS["size"], np.nan).astype("float32"),
    }
    model = build(metrics=task_metrics(TASKS))
    found = model.evaluate(INPUTS, targets, batch_size=8, verbose=0, return_dict=True)
    assert np.isnan([found["kind_loss"], found["kind_accuracy"]]).all()
    first = {name: target[:8] for name, target in TARGETS.items()}
    alone = model.evaluate(INPUTS[:8], first, verbose=0, return_dict=True)
    for name in ("size_loss", "size_mae"):
        assert found[name] == pytest.approx(alone[name])


def test_stock_metrics_skip_missing_labels() -> None:
    """As the losses do; a batch without any label of a task changes nothing."""

    def metrics() -> dict[str, list[Any]]:
        return {
            "size": ["mae", keras.metrics.RootMeanSquaredError(), keras.metrics.R2Score()],
            "kind": ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2)],
            "big": [keras.metrics.AUC(from_logits=True), keras.metrics.Recall(thresholds=0.0)],
        }

    hidden = (np.arange(ROWS) % 3 == 0) | (np.arange(ROWS) >= 16)
    column = TARGETS | {"size": TARGETS["size"][:, None]}
    targets = {
        task.name: np.where(
            hidden.reshape(-1, *[1] * (column[task.name].ndim - 1)), task.missing, column[task.name]
        ).astype(column[task.name].dtype)
        for task in TASKS
    }
    model = build(metrics=metrics(), weighted_metrics={"big": [keras.metrics.BinaryAccuracy()]})
    found = model.evaluate(INPUTS, targets, batch_size=8, verbose=0, return_dict=True)
    shown = {t: target[~hidden] for t, target in column.items()}
    expected = model.evaluate(INPUTS[~hidden], shown, verbose=0, return_dict=True)
    for name in expected.keys() - {"loss", "size_loss", "kind_loss", "big_loss"}:
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name


def test_task_metrics_weigh_rows() -> None:
    """As a weighted metric, where the loss is one of Keras' own."""
    heads = {"big": keras.layers.Dense(1)}
    model = MultiTaskModel(mlp(5, 4), heads)
    model.compile("sgd", {"big": "mse"}, weighted_metrics=task_metrics(TASKS[2:]), run_eagerly=True)
    weights = (np.arange(ROWS) % 2).astype("float32")
    found = model.test_on_batch(INPUTS, TARGETS["big"], sample_weight=weights, return_dict=True)
    odd = model.predict(INPUTS[1::2], verbose=0)["big"][:, 0] > 0
    assert found["accuracy"] == pytest.approx(np.mean(odd == TARGETS["big"][1::2]))


class Tied(keras.Layer):  # type: ignore[misc]  # Keras has no types
    """A head that uses the trunk's own parameters, past the features."""

    def __init__(self, trunk: keras.layers.Dense) -> None:
        super().__init__()
        self.trunk, self.own = trunk, keras.layers.Dense(1)

    def call(self, features: Any) -> Any:
        back = keras.ops.matmul(features, keras.ops.transpose(self.trunk.kernel))
        return self.own(back)


@each_gramian
@pytest.mark.parametrize("kind", [Fixed, FixedWithHeads])
def test_a_head_that_uses_parameters_of_the_trunk(kind: type[Fixed], gramian: Where) -> None:
    """They belong to the task gradients: exact, or refused where only the features are asked."""
    weighting = kind()
    trunk = keras.layers.Dense(8, activation="tanh")
    heads = linear_heads(TASKS) | {"size": Tied(trunk)}
    settings: dict[str, Any] = {"optimizer": keras.optimizers.SGD(1.0), "run_eagerly": True}
    model = build(weighting, trunk, heads, gramian, **settings)
    if gramian == "features":
        with pytest.raises(ValueError, match=r"a head uses '.*kernel', a shared parameter, past"):
            model.train_on_batch(INPUTS, TARGETS)
        return
    before = model.get_weights()
    expected, rows, _ = gradients_by_hand(model, weighting.values, weighting.weights_heads)
    model.train_on_batch(INPUTS, TARGETS)
    for start, end, gradient in zip(before, model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(start - end, gradient, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(weighting.seen[0], np.inner(rows, rows), rtol=1e-4, atol=1e-6)


def reload(model: keras.Model, folder: Path) -> MultiTaskModel:
    model.save(folder / "model.keras")
    loaded = keras.saving.load_model(folder / "model.keras")
    assert isinstance(loaded, MultiTaskModel)
    return loaded


@pytest.mark.parametrize(
    "values", [[0.6, 2.0, 0.25], np.array([0.6, 2.0, 0.25])], ids=["list", "array"]
)
def test_saved_and_loaded_it_goes_on_as_before(tmp_path: Path, values: Sequence[float]) -> None:
    settings: dict[str, Any] = {"optimizer": "adam", "metrics": task_metrics(TASKS)}
    model = build(Static(values), **settings)
    train(model)
    loaded = reload(model, tmp_path)
    assert list(loaded.heads) == list(model.heads)
    assert isinstance(loaded.weighting, Static)
    assert list(loaded.weighting.values) == [0.6, 2.0, 0.25]
    ours, theirs = (one.predict(INPUTS, verbose=0) for one in (model, loaded))
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert train(loaded) == train(model)  # Adam's moments and the metrics came along
    assert_same_weights(model, loaded, 0)


def test_saved_without_weighting_is_equal(tmp_path: Path) -> None:
    assert isinstance(reload(build(), tmp_path).weighting, Equal)


def test_own_weighting_is_found_in_a_scope(tmp_path: Path) -> None:
    model = build(Recorder(scale=0.5))
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"no weighting named 'Recorder'.*custom_object_scope"):
        keras.saving.load_model(tmp_path / "model.keras")
    with keras.saving.custom_object_scope({"Recorder": Recorder}):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert repr(loaded.weighting) == "Recorder(scale=0.5)"


EPOCHS: dict[str, Any] = {"batch_size": 12, "shuffle": False, "verbose": 0}


class Crash(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            raise KeyboardInterrupt


REMEMBERING = [name for name, make in METHODS.items() if make(3).remembers]


@pytest.mark.parametrize("name", REMEMBERING)
def test_in_every_way_of_saving_it_goes_on_as_it_would_have(name: str, tmp_path: Path) -> None:
    """Two epochs and two more are four, bit by bit: layers, optimizer, and the weighting's state."""
    settings: dict[str, Any] = {"gramian": "features", "optimizer": "adam", "run_eagerly": True}
    whole, first = (build(METHODS[name](3), **settings) for _ in range(2))
    whole.fit(INPUTS, TARGETS, epochs=4, **EPOCHS)
    paths = [str(tmp_path / file) for file in ("point.weights.h5", "point.keras")]
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    points = [keras.callbacks.ModelCheckpoint(p, save_weights_only="h5" in p) for p in paths]
    with pytest.raises(KeyboardInterrupt):
        first.fit(INPUTS, TARGETS, epochs=4, callbacks=[backup, *points, Crash()], **EPOCHS)
    paths += [str(tmp_path / file) for file in ("end.weights.h5", "end.keras")]
    first.save_weights(paths[2])
    first.save(paths[3])
    for path in [*paths, "backup"]:
        callbacks = []
        if path.endswith(".keras"):
            model = keras.saving.load_model(path)
            assert model.gramian == "features"
        else:
            model = build(METHODS[name](3), **settings)
            if path == "backup":
                callbacks = [keras.callbacks.BackupAndRestore(tmp_path / "backup")]
            else:
                model.optimizer.build(model.trainable_variables)
                model.load_weights(path)
        assert path == "backup" or not np.array_equal(
            model.get_weights()[0], whole.get_weights()[0]
        )
        start = 0 if path == "backup" else 2
        model.fit(INPUTS, TARGETS, initial_epoch=start, epochs=4, callbacks=callbacks, **EPOCHS)
        np.testing.assert_equal(model.weighting.state_dict(), whole.weighting.state_dict())
        assert_same_weights(model, whole, 0)
        for ours, theirs in zip(model.optimizer.variables, whole.optimizer.variables, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_state_of_another_weighting_is_refused_by_name(tmp_path: Path) -> None:
    """With the way to load the layers alone in the message."""
    models = {kind: build(kind()) for kind in (UW, FAMO, Equal)}
    for kind, model in models.items():
        model.save_weights(tmp_path / f"{kind.__name__}.weights.h5")
    reversed_heads = build(UW(), heads=linear_heads(TASKS[::-1]))
    for model, file, complaint in [
        (models[FAMO], "UW", r"the state of UW for the tasks .*the model's weighting is FAMO"),
        (models[Equal], "UW", r"the state of UW for the tasks .*the model's weighting is Equal"),
        (models[UW], "Equal", r"the state of no weighting, but the model's weighting is UW"),
        (reversed_heads, "UW", r"tasks \['size', 'kind', 'big'\], but .*\['big', 'kind', 'size'\]"),
    ]:
        path = tmp_path / f"{file}.weights.h5"
        before = model.get_weights()
        with pytest.raises(ValueError, match=complaint + r".*skip_mismatch=True\)"):
            model.load_weights(path)
        assert all(map(np.array_equal, before, model.get_weights()))
        with pytest.warns(UserWarning, match=complaint):
            model.load_weights(path, skip_mismatch=True)
    plain = HardSharing(models[Equal].trunk, models[Equal].heads)
    plain.build((None, 5))
    plain.load_weights(tmp_path / "Equal.weights.h5")  # nothing but layers in it
    models[Equal].load_weights(tmp_path / "Equal.weights.h5")


@pytest.mark.parametrize("weighting", [Equal(), UW(), UPGrad()], ids=["Equal", "UW", "UPGrad"])
def test_fit_without_validation_builds_the_model(weighting: Weighting, tmp_path: Path) -> None:
    """So that saving keeps the optimizer's state, and the model can be exported."""
    keras.utils.set_random_seed(0)
    model = MultiTaskModel(mlp(5, 8), linear_heads(TASKS), weighting)
    model.compile("adam", task_losses(TASKS))
    train(model)
    assert model.built
    loaded = reload(model, tmp_path)
    for ours, theirs in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert train(loaded) == train(model)
    assert_same_weights(model, loaded, 0)
    model.export(tmp_path / "exported")
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    served, expected = exported.serve(INPUTS), model.predict(INPUTS, verbose=0)
    for name, output in expected.items():
        np.testing.assert_allclose(served[name], output, rtol=1e-5, atol=1e-6)


def test_dwa_is_told_where_an_epoch_ends() -> None:
    weighting = DWA()
    model = build(weighting)
    model.fit(INPUTS, TARGETS, batch_size=8, epochs=2, verbose=0)
    assert not np.isnan(weighting.means).any()
    assert not np.allclose(weighting([1.0, 1.0, 1.0]), 1)


def test_an_epoch_ends_once_before_the_callbacks() -> None:
    """Whether they come one, in a list, or in a ``CallbackList`` that is used again."""
    heard = []

    class Ends(Static):
        def end_epoch(self) -> None:
            heard.append("weighting")

    model = build(Ends([1.0, 1.0, 1.0]), run_eagerly=True)
    listener = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: heard.append("user"))
    again = keras.callbacks.CallbackList([listener], model=model)
    for callbacks in (listener, [listener], again, again):
        heard.clear()
        model.fit(INPUTS, TARGETS, batch_size=ROWS, epochs=2, verbose=0, callbacks=callbacks)
        assert heard == ["weighting", "user"] * 2
