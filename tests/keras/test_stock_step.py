"""With weights of 1, a step is the one that plain Keras takes, whatever loss it is given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
from keras import ops

from mtl_tutorial.keras import MultiTaskModel, task_losses
from mtl_tutorial.tasks import Binary
from mtl_tutorial.weighting import Equal, Static, Weighting

ROWS = 12
GENERATOR = np.random.default_rng(0)
INPUTS = GENERATOR.normal(size=(ROWS, 5)).astype("float32")
NUMBERS = (INPUTS[:, :1] * 2).astype("float32")
CLASSES = INPUTS[:, :3].argmax(axis=1)
ONE_HOT = np.eye(3, dtype="float32")[CLASSES]


@dataclass(eq=False)
class Ones(Weighting):
    """Weights of 1 from a method that reads the losses, or the Gramian, or observes."""

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        return np.ones(len(losses))


class OnesFromGramian(Ones):
    needs_gramian: ClassVar[bool] = True


class OnesObserving(Ones):
    needs_observe: ClassVar[bool] = True


WAYS: dict[str, tuple[Weighting, str]] = {
    "Equal": (Equal(), "parameters"),
    "Static": (Static([1.0, 1.0]), "parameters"),
    "reads the losses": (Ones(), "parameters"),
    "reads the Gramian": (OnesFromGramian(), "parameters"),
    "reads the Gramian of the features": (OnesFromGramian(), "features"),
    "observes": (OnesObserving(), "parameters"),
}


class RowLoss(keras.losses.Loss):  # type: ignore[misc]  # Keras has no types
    """Of a user's own, one number a row."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.mean(ops.abs(y_true - y_pred), axis=-1)


class ScalarLoss(keras.losses.Loss):  # type: ignore[misc]  # Keras has no types
    """Of a user's own, one number a batch."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.max(ops.abs(y_true - y_pred))


def squares(y_true: Any, y_pred: Any) -> Any:
    return ops.mean(ops.square(y_true - y_pred), axis=-1)


def knows(reduction: str | None) -> bool:
    """Whether this Keras has the reduction; two came after 3.5."""
    try:
        keras.losses.MeanSquaredError(reduction=reduction)
    except ValueError:
        return False
    return True


Case = tuple[Any, np.ndarray]
FLAT, COLUMN, INTEGERS = NUMBERS[:, 0], NUMBERS, CLASSES
LOSSES: dict[str, Case] = {
    "name, targets (N,)": ("mse", FLAT),
    "name, targets (N, 1)": ("mean_absolute_error", COLUMN),
    "name, integer targets": ("mse", INTEGERS),
    "name that looks at the shapes": ("crossentropy", CLASSES),
    "name, one-hot targets": ("crossentropy", ONE_HOT),
    "function of Keras": (keras.losses.mean_squared_error, FLAT),
    "plain function, targets (N,)": (squares, FLAT),
    "plain function, targets (N, 1)": (squares, COLUMN),
    "plain function, integer targets": (squares, INTEGERS),
    "lambda": (lambda t, p: ops.square(t - p), FLAT),
    "lambda that gives a scalar": (lambda t, p: ops.mean(ops.square(t - p)), FLAT),
    "object": (keras.losses.Huber(), FLAT),
    "classes, targets (N,)": (keras.losses.SparseCategoricalCrossentropy(True), CLASSES),
    "classes, targets (N, 1)": (keras.losses.SparseCategoricalCrossentropy(True), CLASSES[:, None]),
    "own class, a number a row": (RowLoss(), COLUMN),
    "own class, a scalar": (ScalarLoss(), COLUMN),
    "own class, summed": (RowLoss(reduction="sum"), COLUMN),
} | {
    f"reduction {reduction}": (keras.losses.MeanSquaredError(reduction=reduction), FLAT)
    for reduction in ("sum", "sum_over_batch_size", "mean", "mean_with_sample_weight")
    if knows(reduction)
}


def dense_parts(units: int) -> tuple[keras.Layer, dict[str, keras.Layer]]:
    """Build a trunk with a penalty, and two heads that start the same in every call."""
    keras.utils.set_random_seed(0)
    trunk = keras.layers.Dense(4, activation="tanh", kernel_regularizer="l2")
    sizes = {"other": 1, "one": units}  # not in the order of the alphabet, in which Keras sorts
    return trunk, {name: keras.layers.Dense(size, name=name) for name, size in sizes.items()}


def stock(trunk: keras.Layer, heads: Mapping[str, keras.Layer], inputs: Any) -> keras.Model:
    features = trunk(inputs)
    return keras.Model(inputs, {name: head(features) for name, head in heads.items()})


def compiled(model: keras.Model, loss: Any, **settings: Any) -> keras.Model:
    settings = {"optimizer": keras.optimizers.SGD(0.1), "run_eagerly": True} | settings
    model.compile(loss=loss, **settings)
    return model


def assert_same_steps(
    make: Callable[[], tuple[keras.Layer, dict[str, keras.Layer]]],
    inputs: keras.KerasTensor,
    losses: Mapping[str, Any],
    run: Callable[[keras.Model], dict[str, Any]],
    shown: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    **settings: Any,
) -> None:
    """Run each way of weighting and a functional model with the same start; compare both."""
    trunk, heads = make()
    expected = run(compiled(stock(trunk, heads, inputs), losses, **settings))
    parts = [trunk, *heads.values()]
    for way, (weighting, gramian) in WAYS.items():
        its_trunk, its_heads = make()
        model = MultiTaskModel(its_trunk, its_heads, weighting, gramian)  # type: ignore[arg-type]
        found = run(compiled(model, losses, **settings)).items()
        wanted = {key: float(value) for key, value in shown(expected).items()}
        assert {key: float(value) for key, value in found} == pytest.approx(wanted, rel=1e-5), way
        for part, its_part in zip(parts, [its_trunk, *its_heads.values()], strict=True):
            for ours, theirs in zip(its_part.get_weights(), part.get_weights(), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6, err_msg=way)


@pytest.mark.parametrize("name", LOSSES)
def test_with_any_loss(name: str) -> None:
    loss, targets = LOSSES[name]
    units = 3 if "classes" in name or loss == "crossentropy" else 1
    y = {"one": targets, "other": FLAT}
    assert_same_steps(
        lambda: dense_parts(units),
        keras.Input((5,)),
        {"one": loss, "other": "mae"},
        lambda model: model.train_on_batch(INPUTS, y, return_dict=True),
    )


def test_without_reduction_a_loss_is_its_sum() -> None:
    """So plain Keras trains, though it shows the mean."""
    without = keras.losses.MeanSquaredError(reduction=None)
    losses = {"one": without, "other": RowLoss(reduction=None)}

    def run(model: keras.Model) -> dict[str, Any]:
        return dict(model.train_on_batch(INPUTS, {"one": FLAT, "other": COLUMN}, return_dict=True))

    def no_penalty() -> tuple[keras.Layer, dict[str, keras.Layer]]:
        trunk, heads = dense_parts(1)
        trunk.kernel_regularizer = None  # Keras cannot add a penalty to a vector
        return trunk, heads

    def sums(shown: dict[str, Any]) -> dict[str, Any]:
        return {name: ROWS * value for name, value in shown.items()}

    assert_same_steps(no_penalty, keras.Input((5,)), losses, run, sums)


def test_only_some_losses_without_reduction_are_refused() -> None:
    """Plain Keras broadcasts, so it counts the other losses once a row."""
    losses = {"one": RowLoss(reduction=None), "other": "mse"}
    for weighting, _ in WAYS.values():
        model = compiled(MultiTaskModel(*dense_parts(1), weighting), losses)
        with pytest.raises(ValueError, match="where a loss has reduction=None, all must have"):
            model.train_on_batch(INPUTS, {"one": COLUMN, "other": COLUMN})


def test_in_a_graph_with_metrics_over_epochs() -> None:
    y = {"one": FLAT, "other": INTEGERS}
    settings = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
    assert_same_steps(
        lambda: dense_parts(1),
        keras.Input((5,)),
        {"one": squares, "other": "mse"},
        lambda model: {
            f"{name} {epoch}": value
            for name, values in model.fit(
                INPUTS,
                y,
                validation_data=(INPUTS[:4], {n: t[:4] for n, t in y.items()}),
                **settings,
            ).history.items()
            for epoch, value in enumerate(values)
        },
        run_eagerly=False,
        optimizer="adam",
        metrics={"one": ["mae"]},
    )


WEIGHTS = GENERATOR.uniform(size=ROWS).astype("float32")


@pytest.mark.parametrize(
    "weights",
    [WEIGHTS, {"one": WEIGHTS, "other": np.ones(ROWS, "float32")}],
    ids=["for all tasks", "by task"],
)
@pytest.mark.parametrize("reduction", ["sum", "sum_over_batch_size", "mean_with_sample_weight"])
def test_sample_weights(weights: Any, reduction: str) -> None:
    if not knows(reduction):
        reduction = "sum"
    losses = {"one": keras.losses.MeanSquaredError(reduction=reduction), "other": squares}
    assert_same_steps(
        lambda: dense_parts(1),
        keras.Input((5,)),
        losses,
        lambda model: model.train_on_batch(
            INPUTS, {"one": FLAT, "other": COLUMN}, sample_weight=weights, return_dict=True
        ),
        metrics={"one": ["mae"]},
        weighted_metrics={"one": ["mse"], "other": ["mae"]},
    )


def test_masked_words() -> None:
    """A mask that the trunk makes goes through the heads to their losses."""
    words = GENERATOR.integers(0, 5, (ROWS, 6))
    target = GENERATOR.normal(size=(ROWS, 6, 1)).astype("float32")

    def parts() -> tuple[keras.Layer, dict[str, keras.Layer]]:
        keras.utils.set_random_seed(0)
        trunk = keras.layers.Embedding(5, 4, mask_zero=True)
        return trunk, {"one": keras.layers.Dense(1), "other": keras.layers.Dense(1)}

    assert_same_steps(
        parts,
        keras.Input((6,), dtype="int32"),
        {"one": squares, "other": keras.losses.MeanAbsoluteError(reduction="sum")},
        lambda model: model.train_on_batch(
            words, {"one": target, "other": target}, return_dict=True
        ),
    )


def test_accumulated_gradients() -> None:
    """Two batches a step; what observes the losses after a step is refused."""
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2).get_config()
    losses, y = {"one": "mse", "other": "mse"}, {"one": FLAT, "other": FLAT}

    def fresh(model: keras.Model) -> keras.Model:
        return compiled(model, losses, optimizer=keras.optimizers.SGD.from_config(optimizer))

    plain = fresh(stock(*dense_parts(1), keras.Input((5,))))
    model = fresh(MultiTaskModel(*dense_parts(1), Static([1.0, 1.0])))
    for one in (plain, model):
        one.fit(INPUTS, y, batch_size=3, shuffle=False, verbose=0)
    for name, head in model.heads.items():
        for ours, theirs in zip(
            head.get_weights(), plain.get_layer(name).get_weights(), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"OnesObserving observes .* gradient_accumulation_steps"):
        fresh(MultiTaskModel(*dense_parts(1), OnesObserving()))
    for reads in (Ones(), OnesFromGramian()):  # the mean of two steps is not the step of both
        with pytest.raises(
            ValueError, match=r"Ones\w* would weight each part of a batch by itself"
        ):
            fresh(MultiTaskModel(*dense_parts(1), reads))


def test_task_losses_take_no_masks() -> None:
    loss = task_losses([Binary("big")])["big"]
    outputs, truth = ops.zeros((2, 1)), ops.ones((2,))
    outputs._keras_mask = ops.array([True, False])
    with pytest.raises(
        ValueError, match=r"'big' takes no masked outputs; .* missing labels \(-1\)"
    ):
        loss(truth, outputs)
