"""Any model that has ``encode``, ``decode`` and ``shared_parameters`` trains, in every way of weighting."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from mtl_tutorial.keras import HardSharing, MultiTaskModel, linear_heads, mlp, task_losses
from mtl_tutorial.tasks import Classification, Regression, Task
from mtl_tutorial.weighting import UW, Equal, Static, UPGrad, Weighting
from tests.keras.test_stock_step import WAYS
from tests.keras.test_training import Fixed, FixedWithHeads

TASKS: list[Task] = [Regression("depth"), Classification("kind", classes=3)]
GENERATOR = np.random.default_rng(0)
INPUTS = {
    "image": GENERATOR.normal(size=(6, 4, 4, 1)).astype("float32"),
    "place": GENERATOR.integers(0, 5, (6,)),
}
TARGETS = {
    "kind": GENERATOR.integers(-1, 3, (6, 4, 4)),
    "depth": np.where(GENERATOR.random((6, 4, 4)) < 0.3, np.nan, INPUTS["image"][..., 0]),
}
TARGETS["depth"] = TARGETS["depth"].astype("float32")


@keras.saving.register_keras_serializable("tests")
class UNet(keras.Model):  # type: ignore[misc]  # Keras has no types
    """Two inputs; features of two scales, the small made of the large one; no ``training`` anywhere.

    The embedding of the place is used by all tasks, but is not said to be shared.
    """

    kept = "nothing"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        conv, where = keras.layers.Conv2D, {"padding": "same"}
        self.embedding = keras.layers.Embedding(5, 4)
        self.fine = conv(4, 3, activation="tanh", kernel_regularizer="l2", **where)
        self.coarse = conv(4, 3, 2, activation="tanh", **where)
        self.dropout = keras.layers.Dropout(0.0)
        self.up = keras.layers.UpSampling2D(2)
        self.outs = {
            "kind": conv(3, 1, activity_regularizer="l2"),  # not the order of the tasks
            "depth": conv(1, 1),
        }

    def encode(self, inputs: dict[str, Any]) -> dict[str, Any]:
        fine = self.fine(inputs["image"]) + self.embedding(inputs["place"])[:, None, None]
        self.seen = fine
        return {"fine": fine, "coarse": self.coarse(self.dropout(fine))}

    def decode(self, features: dict[str, Any], tasks: Any = None) -> dict[str, Any]:
        fine = self.seen if self.kept == "a trunk tensor" else features["fine"]
        both = ops.concatenate([fine, self.up(features["coarse"])], axis=-1)
        return {name: self.outs[name](both) for name in tasks or self.outs}

    def shared_parameters(self) -> list[Any]:
        return [*self.fine.trainable_variables, *self.coarse.trainable_variables]

    def call(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return self.decode(self.encode(inputs))


class Keeps(UNet):
    """Its heads read a tensor that the trunk has stored, past the features."""

    kept = "a trunk tensor"


def build(
    make: Callable[[], Any], weighting: Weighting, gramian: Any = "parameters", **settings: Any
) -> MultiTaskModel:
    keras.utils.set_random_seed(0)
    model = MultiTaskModel(make(), weighting=weighting, gramian=gramian)
    settings = {"optimizer": keras.optimizers.SGD(0.1), "loss": task_losses(TASKS)} | settings
    model.compile(**settings)
    model(INPUTS)
    return model


def test_with_weights_of_1_a_step_is_that_of_plain_keras() -> None:
    keras.utils.set_random_seed(0)
    plain = UNet()
    plain.compile(keras.optimizers.SGD(0.1), task_losses(TASKS))
    shown = plain.train_on_batch(INPUTS, TARGETS, return_dict=True)
    for way, (weighting, gramian) in WAYS.items():
        model = build(UNet, weighting, gramian, run_eagerly=way == "observes")
        found = model.train_on_batch(INPUTS, TARGETS, return_dict=True)
        assert found["loss"] == pytest.approx(shown["loss"], rel=1e-5), way
        for ours, theirs in zip(model.wrapped.weights, plain.weights, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6, err_msg=way)


def by_hand(model: MultiTaskModel) -> tuple[list[Any], list[list[Any]]]:
    """Give the gradient of the penalties, and each task's, on every variable."""
    variables, losses = model.trainable_variables, task_losses(TASKS)
    with tf.GradientTape(persistent=True) as tape:
        outputs = model(INPUTS, training=True)
        each = [losses[name](TARGETS[name], out) for name, out in outputs.items()]
        penalty = tf.add_n(model.losses)

    def gradient(target: Any) -> list[Any]:
        found = zip(variables, tape.gradient(target, variables), strict=True)
        return [
            np.zeros(v.shape) if g is None else tf.convert_to_tensor(g).numpy() for v, g in found
        ]

    return gradient(penalty), [gradient(loss) for loss in each]


@pytest.mark.parametrize("kind", [Fixed, FixedWithHeads])
@pytest.mark.parametrize("make", [UNet, Keeps])
@pytest.mark.parametrize("gramian", ["parameters", "features"])
def test_shared_parameters_are_weighted_and_all_others_summed(
    make: Callable[[], Any], kind: type[Fixed], gramian: str
) -> None:
    """Against one full backward pass a task; a way past the features is exact, or refused.

    By the features all that lies before them is weighted: the embedding, too.
    """
    weighting = kind((0.5, 2.0))
    settings = {"optimizer": keras.optimizers.SGD(1.0), "run_eagerly": True}
    model = build(make, weighting, gramian, **settings)
    if (make, gramian) == (Keeps, "features"):
        with pytest.raises(
            ValueError, match=r"a head uses '.*', a shared parameter, past the feat"
        ):
            model.train_on_batch(INPUTS, TARGETS)
        return
    shared = {id(variable) for variable in model.wrapped.shared_parameters()}
    if gramian == "features":
        shared.add(id(model.wrapped.embedding.embeddings))
    ours = [id(variable) in shared for variable in model.trainable_variables]
    total, rows = by_hand(model)
    for weight, row in zip(weighting.values, rows, strict=True):
        for number, gradient in enumerate(row):
            total[number] = total[number] + gradient * (
                weight if ours[number] or kind.weights_heads else 1
            )
    before = [variable.numpy() for variable in model.trainable_variables]
    model.train_on_batch(INPUTS, TARGETS)
    for variable, start, gradient in zip(model.trainable_variables, before, total, strict=True):
        np.testing.assert_allclose(start - variable.numpy(), gradient, rtol=1e-4, atol=1e-6)
    if gramian == "parameters":
        chosen = [
            np.concatenate([np.ravel(g) for g, our in zip(r, ours, strict=True) if our])
            for r in rows
        ]
        np.testing.assert_allclose(
            weighting.seen[0], np.inner(chosen, chosen), rtol=1e-4, atol=1e-7
        )


def test_its_tasks_are_the_outputs_of_decode_in_their_order() -> None:
    heard = []

    class Names(Weighting):
        def __call__(
            self, losses: Any, gramian: Any = None, present: Any = None, names: Any = None
        ) -> Any:
            heard.append(names)
            return super().__call__(losses, gramian, present, names)

        def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
            return np.ones(len(losses))

    build(UNet, Names()).train_on_batch(INPUTS, TARGETS)
    assert heard == [["kind", "depth"]]
    with pytest.raises(
        ValueError, match=r"losses for \['kind'\], .* decode are \['kind', 'depth'\]"
    ):
        build(UNet, Equal(), loss=task_losses(TASKS[1:]))
    with pytest.raises(ValueError, match="one loss for each of the tasks, as a dict"):
        build(UNet, Equal(), loss="mse")


def test_saved_and_loaded_it_goes_on_as_before(tmp_path: Path) -> None:
    fit: dict[str, Any] = {"batch_size": 3, "shuffle": False, "verbose": 0}
    model = build(UNet, UW(), optimizer="adam")
    model.fit(INPUTS, TARGETS, **fit)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    twin = build(UNet, UW(), optimizer="adam")
    twin.optimizer.build(twin.trainable_variables)
    twin.load_weights(tmp_path / "model.weights.h5")
    for other in (loaded, twin):
        assert isinstance(other.wrapped, UNet)
        assert other.weighting.state_dict() == model.weighting.state_dict()
        for ours, theirs in zip(model.weights, other.weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    found = [one.fit(INPUTS, TARGETS, **fit).history for one in (model, loaded)]
    assert found[0] == found[1]
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Parts(keras.Layer):  # type: ignore[misc]  # Keras has no types
    """A layer, not a model, with a weight and a ``build`` of its own, and a dropout."""

    def __init__(self, share: bool = True, extra: bool = False) -> None:
        super().__init__()
        self.share, self.drop, self.heads_ = share, keras.layers.Dropout(0.5), linear_heads(OWN)
        if extra:
            self.extra_loss = lambda features, targets: ops.sum(features[0]) + ops.sum(targets["a"])

    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight(shape=(4,), initializer="ones", name="scale")

    def encode(self, inputs: Any) -> Any:
        first, second = inputs
        return first * self.scale, self.drop(second), None

    def decode(self, features: Any, tasks: Any = None) -> Any:
        first, second, nothing = features
        assert nothing is None
        return {name: head(first + second) for name, head in self.heads_.items()}

    def shared_parameters(self) -> list[Any]:
        return [self.scale] if self.share else []


OWN: list[Task] = [Regression("a"), Regression("b")]
PAIR = (np.ones((8, 4), "float32"), np.ones((8, 4), "float32"))
PAIR_TARGETS = {"a": np.ones(8, "float32"), "b": np.zeros(8, "float32")}


def own(weighting: Weighting, gramian: Any = "parameters", **kwargs: Any) -> MultiTaskModel:
    keras.utils.set_random_seed(0)
    model = MultiTaskModel(Parts(**kwargs), weighting=weighting, gramian=gramian)
    model.compile(keras.optimizers.SGD(1.0), task_losses(OWN), run_eagerly=True)
    model.build([(None, 4), (None, 4)])
    return model


@pytest.mark.parametrize("gramian", ["parameters", "features"])
def test_training_reaches_the_layers_of_a_model_that_does_not_speak_of_it(
    gramian: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout acts in a step; a tuple of inputs, and of features with something else among them."""
    model = own(Fixed((1.0, 1.0)), gramian)
    inside = []

    def dropped(x: Any, training: bool = False) -> Any:
        inside.append(training)
        return x

    monkeypatch.setattr(model.wrapped.drop, "call", dropped)
    model.train_on_batch(PAIR, PAIR_TARGETS)
    model.test_on_batch(PAIR, PAIR_TARGETS)
    assert inside == [True, False]


@pytest.mark.parametrize(
    "weighting", [Equal(), Static([0.5, 2.0]), Fixed((1.0, 1.0))], ids=lambda w: type(w).__name__
)
@pytest.mark.parametrize("gramian", ["parameters", "features"])
def test_an_extra_loss_goes_through_unweighted(weighting: Weighting, gramian: str) -> None:
    """Its gradient on the scale is the sum of the inputs; it is shown in training alone."""
    steps, shown = [], []
    for extra in (False, True):
        model = own(weighting, gramian, extra=extra)
        model.wrapped.drop.rate = 0.0
        before = model.wrapped.scale.numpy()
        shown.append(model.test_on_batch(PAIR, PAIR_TARGETS, return_dict=True)["loss"])
        shown.append(model.train_on_batch(PAIR, PAIR_TARGETS, return_dict=True)["loss"])
        steps.append(before - model.wrapped.scale.numpy())
    np.testing.assert_allclose(steps[1] - steps[0], 8, rtol=1e-4)
    assert shown[3] - shown[1] == pytest.approx(32 + 8)
    assert shown[2] == shown[0]


@pytest.mark.parametrize("gramian", ["parameters", "features"])
def test_a_model_that_shares_nothing_is_refused_by_gramian_weightings(gramian: str) -> None:
    with pytest.raises(ValueError, match=r"Parts shares no parameter .* UPGrad has none to weight"):
        own(UPGrad(), gramian, share=False).train_on_batch(PAIR, PAIR_TARGETS)
    own(UW(), share=False).train_on_batch(PAIR, PAIR_TARGETS)


def test_a_shared_parameter_must_be_one_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = own(UPGrad())
    stray = [keras.Variable(1.0, name="stray")]
    monkeypatch.setattr(model.wrapped, "shared_parameters", lambda: stray)
    with pytest.raises(ValueError, match="'stray', which is none of the trainable variables"):
        model.train_on_batch(PAIR, PAIR_TARGETS)


def test_what_is_no_model_of_several_tasks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="Sequential has no encode and no decode and no shared_par"):
        MultiTaskModel(mlp(5, 4))
    with pytest.raises(TypeError, match=r"heads are a dict .* got UW\. .*weighting="):
        MultiTaskModel(HardSharing(mlp(5, 4), linear_heads(OWN)), UW())  # type: ignore[arg-type]
    model = MultiTaskModel(Parts())
    monkeypatch.setattr(model.wrapped, "decode", lambda features: [features[0]])
    with pytest.raises(
        TypeError, match="decode gives a dict of outputs by task name; Parts gave lis"
    ):
        model(PAIR)


def test_hard_sharing_decodes_the_tasks_that_are_named() -> None:
    model = HardSharing(mlp(5, 4), linear_heads(OWN))
    features = model.encode(np.ones((2, 5), "float32"))
    assert list(model.decode(features, ["b"])) == ["b"]
    assert [v is w for v, w in zip(model.shared_parameters(), model.trunk.weights, strict=True)]
