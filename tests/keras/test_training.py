from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtl_tutorial.keras import MultiTaskModel, linear_heads, mlp, task_losses, task_metrics
from mtl_tutorial.metrics import scores
from mtl_tutorial.tasks import Binary, Classification, Regression, Task
from mtl_tutorial.weighting import DWA, FAMO, RLW, UW, Equal, Static, Weighting

TASKS: list[Task] = [Regression("size"), Classification("kind", classes=3), Binary("big")]
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


def build(
    weighting: Weighting | None = None, trunk: keras.Layer | None = None, **settings: Any
) -> MultiTaskModel:
    keras.utils.set_random_seed(0)
    model = MultiTaskModel(trunk or mlp(5, 8), linear_heads(TASKS), weighting=weighting)
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


def test_bad_loss_names_the_task() -> None:
    model = build(Recorder())
    before = model.get_weights()
    bad = TARGETS | {"size": np.full(ROWS, 1e30, "float32")}  # its square is infinite
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"loss of task 0 \('size'\) is inf"):
        train(model, bad)
    assert all(map(np.array_equal, before, model.get_weights()))


def test_loss_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"loss_weights .* weighting=Static"):
        build(loss_weights={"size": 1.0, "kind": 1.0, "big": 1.0})


def test_jit_compile_is_refused() -> None:
    with pytest.raises(ValueError, match="jit_compile=True is not possible"):
        build(jit_compile=True)


def test_sample_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="mark rows to skip as missing"):
        build().fit(INPUTS, TARGETS, sample_weight=np.ones(ROWS), verbose=0)


@pytest.mark.parametrize(
    "loss", [None, "mse", task_losses(TASKS[:2]), task_losses([*TASKS, Binary("other")])]
)
def test_losses_must_name_the_heads(loss: Any) -> None:
    with pytest.raises(ValueError, match=r"one loss for each of \['size', 'kind', 'big'\]"):
        build(loss=loss)


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


class NeedsGramian(Weighting):
    needs_gramian: ClassVar[bool] = True


def test_a_weighting_that_needs_the_gramian_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"NeedsGramian needs the Gramian.*pytorch\.fit"):
        build(NeedsGramian())
    with pytest.raises(ValueError, match="FAMO needs the losses after the step"):
        build(FAMO())


@pytest.mark.parametrize(
    "weighting", [UW(lr=0.1), DWA(), RLW(seed=3)], ids=lambda w: type(w).__name__
)
def test_what_a_weighting_remembers_is_saved(weighting: Weighting, tmp_path: Path) -> None:
    model = build(weighting)
    model.fit(INPUTS, TARGETS, batch_size=8, epochs=3, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.weighting.state_dict() == weighting.state_dict()
    losses = [0.5, 2.0, 1.0]
    np.testing.assert_array_equal(loaded.weighting(losses), weighting(losses))


def test_dwa_is_told_where_an_epoch_ends() -> None:
    weighting = DWA()
    model = build(weighting)
    model.fit(INPUTS, TARGETS, batch_size=8, epochs=2, verbose=0)
    assert not np.isnan(weighting.means).any()
    assert not np.allclose(weighting([1.0, 1.0, 1.0]), 1)
