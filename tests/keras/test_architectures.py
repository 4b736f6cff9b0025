"""Every architecture: counted, trained in every way, saved and loaded, and bad input.

What they compute, and who trains what, is compared with PyTorch in ``tests/test_architectures.py``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.layers import Dense

from mtl_tutorial.keras import (
    MTAN,
    PLE,
    CrossStitch,
    HardSharing,
    MMoE,
    Modulated,
    MultiTaskModel,
    SharedPrivate,
    SoftSharing,
    linear_heads,
    mlp,
    task_blocks,
    task_losses,
)
from mtl_tutorial.weighting import UW, UPGrad, Weighting
from tests.keras.test_training import Fixed
from tests.pytorch.test_architectures import COUNTS, TASKS, data


def heads() -> dict[str, keras.Layer]:
    return linear_heads(TASKS)


# The models of tests/pytorch/test_architectures.py, under the same names.
DENSE: dict[str, Callable[[], Any]] = {
    "HardSharing": lambda: HardSharing(mlp(6, 4), heads()),
    "HardSharing, branched": lambda: HardSharing(
        mlp(6, 4), heads(), [(mlp(4, 4), ["big", "size"]), (mlp(4, 4), ["size"])]
    ),
    "SoftSharing": lambda: SoftSharing(lambda: mlp(6, 4), heads(), strength=0.5),
    "CrossStitch": lambda: CrossStitch([lambda: mlp(6, 5), lambda: mlp(5, 4)], heads()),
    "MTAN": lambda: MTAN(
        [mlp(6, 5), mlp(5, 4)],
        [lambda: Dense(5), lambda: Dense(4)],
        [lambda: mlp(5, 4)],
        heads(),
    ),
    "MMoE": lambda: MMoE(lambda: mlp(6, 4), Dense, heads(), experts=3),
    "PLE": lambda: PLE([lambda: mlp(6, 5), lambda: mlp(5, 4)], [Dense, Dense], heads(), shared=2),
    "PLE, three levels on a bottom": lambda: PLE(
        [lambda: mlp(5, 5), lambda: mlp(5, 5), lambda: mlp(5, 4)],
        [Dense] * 3,
        heads(),
        bottom=mlp(6, 5),
    ),
    "SharedPrivate": lambda: SharedPrivate(
        lambda: mlp(6, 4), heads(), Dense(3), reversal=0.5, orthogonality=0.3
    ),
    "Modulated": lambda: Modulated([mlp(6, 5), mlp(5, 4)], [5, 4], heads(), embedding=2),
}
every = pytest.mark.parametrize("kind", DENSE)
sharing = pytest.mark.parametrize("kind", [kind for kind in DENSE if kind != "SoftSharing"])


def build(
    kind: str, weighting: Weighting, gramian: Any = "parameters", **settings: Any
) -> MultiTaskModel:
    keras.utils.set_random_seed(0)
    model = MultiTaskModel(DENSE[kind](), weighting=weighting, gramian=gramian)
    settings = {"optimizer": keras.optimizers.SGD(0.05), "loss": task_losses(TASKS)} | settings
    model.compile(**settings)
    return model


@every
def test_it_trains_by_losses_and_is_saved(kind: str, tmp_path: Path) -> None:
    """From the first batch on, whose shape it learns in ``fit``; loaded, it says the same."""
    train, model = data(200), build(kind, UW(), optimizer=keras.optimizers.Adam(0.01))
    shown = model.fit(train.inputs, train.targets, batch_size=20, epochs=6, verbose=0).history
    assert shown["loss"][-1] < shown["loss"][0] - 0.2
    assert model.count_params() == COUNTS[kind]

    expected = model.predict(train.inputs, verbose=0)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    twin = build(kind, UW(), optimizer=keras.optimizers.Adam(0.01))
    twin(train.inputs[:2])
    twin.optimizer.build(twin.trainable_variables)
    twin.load_weights(tmp_path / "model.weights.h5")
    for other in (loaded, twin):
        assert type(other.wrapped) is type(model.wrapped)
        for name, output in other.predict(train.inputs, verbose=0).items():
            np.testing.assert_array_equal(output, expected[name])
    if hasattr(model.wrapped, "extra_loss"):
        features = model.wrapped.encode(train.inputs)
        found = [one.wrapped.extra_loss(features, train.targets) for one in (model, loaded)]
        assert float(found[0]) == float(found[1])


@sharing
def test_at_the_features_tasks_with_their_own_are_orthogonal(kind: str) -> None:
    train, rule = data(20), Fixed((1.0, 1.0, 1.0))
    model = build(kind, rule, "features", run_eagerly=True)
    model.train_on_batch(train.inputs, train.targets)
    (found,) = rule.seen
    assert (np.diag(found) > 0).all()
    own = kind not in ("HardSharing", "SharedPrivate")
    assert (found == np.diag(np.diag(found))).all() == own


def test_soft_sharing_has_nothing_to_weight() -> None:
    train = data(20)
    with pytest.raises(ValueError, match=r"SoftSharing shares no parameter .* UPGrad has none to"):
        build("SoftSharing", UPGrad()).train_on_batch(train.inputs, train.targets)


def test_towers_start_equal_however_they_are_built() -> None:
    train = data(20)
    model = build("SoftSharing", UW(), optimizer=keras.optimizers.SGD(0.0))
    model.fit(train.inputs, train.targets, verbose=0)
    alone = DENSE["SoftSharing"]()
    alone.build((None, 6))
    for one in (model.wrapped, alone):
        towers = [tower.get_weights() for tower in one.towers.values()]
        assert np.ptp(towers[0][0]) > 0
        for other in towers[1:]:
            for first, second in zip(towers[0], other, strict=True):
                np.testing.assert_array_equal(first, second)


def test_a_discriminator_needs_something_to_tell_apart() -> None:
    with pytest.raises(ValueError, match=r"needs two tasks to tell apart; got \['kind'\]"):
        SharedPrivate(lambda: mlp(6, 4), linear_heads(TASKS[:1]), Dense(1))
    train, model = data(20, missing=0), build("SharedPrivate", UW())
    model(train.inputs)
    before = model.get_weights()
    with pytest.raises(tf.errors.InvalidArgumentError, match="every row has a label of every task"):
        model.train_on_batch(train.inputs, train.targets)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_blocks_have_names_that_say_what_they_are() -> None:
    found = task_blocks(DENSE["MMoE"](), np.ones((1, 6), "float32"))
    everyone = ("kind", "big", "size")
    assert {name: tasks for name, (_, tasks) in found.items()} == {
        **{name: (name,) for name in everyone},
        **{f"expert_{number}": everyone for number in (1, 2, 3)},
        **{f"gate_{name}": (name,) for name in everyone},
    }


def test_recurrent_blocks() -> None:
    """States at all places; heads and gates read the mean of them."""

    def states(width: int) -> keras.Layer:
        return keras.layers.LSTM(width, return_sequences=True)

    def after_mean(width: int) -> keras.Layer:
        return keras.Sequential([keras.layers.GlobalAveragePooling1D(), Dense(width)])

    def ends() -> dict[str, keras.Layer]:
        return {task.name: after_mean(task.outputs) for task in TASKS}

    def three() -> keras.Layer:
        return states(3)

    def four() -> keras.Layer:
        return states(4)

    inputs = np.random.default_rng(0).normal(size=(20, 7, 2)).astype("float32")
    models: list[Any] = [
        HardSharing(three(), ends(), [(four(), ["size"])]),
        SoftSharing(four, ends(), 0.1),
        CrossStitch([three, four], ends()),
        MTAN([three(), four()], [lambda: Dense(3), lambda: Dense(4)], [three], ends()),
        MMoE(four, after_mean, ends()),
        PLE([three, four], [after_mean, after_mean], ends()),
        SharedPrivate(four, ends(), after_mean(3)),
        Modulated([three(), four()], [3, 4], ends()),
    ]
    for model in models:
        outputs = model(inputs)
        assert {name: tuple(output.shape) for name, output in outputs.items()} == {
            task.name: (20, task.outputs) for task in TASKS
        }
        if hasattr(model, "extra_loss"):
            loss = model.extra_loss(model.encode(inputs), data(20).targets)
            assert np.isfinite(float(loss))


SAME = mlp(6, 4)


def growing() -> Callable[[], keras.Layer]:
    """Give a builder whose third layer is wider."""
    widths = iter([4, 4, 5])
    return lambda: mlp(6, next(widths))


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "a gate over one expert": (
        lambda: MMoE(lambda: mlp(6, 4), Dense, heads(), experts=1),
        "needs two experts or more; got 1. One expert is HardSharing",
    ),
    "no shared expert": (
        lambda: PLE([lambda: mlp(6, 4)], [Dense], heads(), shared=0),
        "at least 1 expert each; got 1 and 0",
    ),
    "no level": (lambda: PLE([], [], heads()), "one gate a level"),
    "no stage": (lambda: CrossStitch([], heads()), "at least one stage"),
    "a stage without a mask": (lambda: MTAN([mlp(6, 4)], [], [], heads()), "1 stages, 0 masks"),
    "a stage without a width": (lambda: Modulated([mlp(6, 4)], [], heads()), "0 widths for 1"),
    "no numbers": (lambda: Modulated([mlp(6, 4)], [4], heads(), 0), "at least one number"),
    "no head": (lambda: CrossStitch([lambda: mlp(6, 4)], {}), "at least one head"),
    "the same layers again": (
        lambda: CrossStitch([lambda: SAME], heads()),
        "tower gave layers that it had given before",
    ),
    "the same parameters again": (
        lambda: SharedPrivate(lambda: keras.Sequential([SAME]), heads()),
        "encoder gave layers that it had given before",
    ),
    "a strength": (lambda: SoftSharing(lambda: mlp(6, 4), heads(), np.inf), "a number from 0"),
    "a reversal": (lambda: SharedPrivate(lambda: mlp(6, 4), heads(), reversal=-1), "at least 0"),
    "a branch": (
        lambda: HardSharing(mlp(6, 4), heads(), [(mlp(4, 4), ["large"])]),
        r"branch 1 is for \['large'\]",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_built(what: str) -> None:
    make, message = BAD[what]
    with pytest.raises(ValueError, match=message):
        make()


def test_a_builder_is_a_function() -> None:
    with pytest.raises(
        TypeError, match="tower is a Sequential; give a function that builds layers"
    ):
        SoftSharing(mlp(6, 4), heads(), 0.1)
    with pytest.raises(TypeError, match=r"expert built a int, not a keras\.Layer"):
        MMoE(lambda: 3, Dense, heads())


MISFITS: dict[str, tuple[Callable[[], Any], str]] = {
    "towers to tie": (
        lambda: SoftSharing(growing(), heads(), 0.1),
        "tower builds other layers at each call",
    ),
    "towers that are not alike": (
        lambda: CrossStitch([growing()], heads()),
        r"one shape: stage 1 of 'size' gives \(None, 5\), stage 1 of 'kind' \(None, 4\)",
    ),
    "experts that are not alike": (
        lambda: MMoE(growing(), Dense, heads(), 3),
        r"one shape: expert 3 gives \(None, 5\), expert 1 \(None, 4\)",
    ),
    "a gate of something else": (
        lambda: MMoE(lambda: mlp(6, 4), lambda count: Dense(count + 1), heads()),
        r"the gate of 'kind' gives \(None, 5\), not .* \(None, 4\)",
    ),
    "a mask": (
        lambda: MTAN([mlp(6, 4)], [lambda: Dense(5)], [], heads()),
        r"mask 1 of 'kind' has the shape \(None, 5\), but stage 1 gives \(None, 4\)",
    ),
    "a carry": (
        lambda: MTAN(
            [mlp(6, 5), mlp(5, 4)],
            [lambda: Dense(5), lambda: Dense(4)],
            [lambda: keras.layers.Reshape((5, 1))],
            heads(),
        ),
        r"channels only: carry 1 of 'kind' gives \(None, 5, 1\), stage 2 \(None, 4\)",
    ),
    "a width": (
        lambda: Modulated([mlp(6, 4)], [5], heads()),
        "stage 1 gives 4 channels, but widths says 5",
    ),
}


@pytest.mark.parametrize("what", MISFITS)
def test_shapes_that_do_not_fit_are_named_before_the_first_step(what: str) -> None:
    make, message = MISFITS[what]
    with pytest.raises(ValueError, match=message):
        MultiTaskModel(make()).build((None, 6))
