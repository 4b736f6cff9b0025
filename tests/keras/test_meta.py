from typing import Any

import keras
import numpy as np
import pytest

from mtl_tutorial.keras import maml_step, reptile_step

T, N = 3, 5
mse = keras.losses.MeanSquaredError()


def network() -> keras.Sequential:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((2,)), *layers])


def data(*shape: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).normal(size=(*shape, 2)).astype("float32")
    return x, x.prod(axis=-1, keepdims=True)


def sgd(lr: float = 1.0) -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(lr)


def by_hand(start: list[np.ndarray], x: np.ndarray, y: np.ndarray, lr: float) -> list[np.ndarray]:
    """Adapt a network with Keras' own training step, one a batch."""
    model = network()
    model.set_weights(start)
    model.compile(sgd(lr), mse)
    for own in zip(x, y, strict=True):
        model.train_on_batch(*own)
    found: list[np.ndarray] = model.get_weights()
    return found


def test_reptile_with_sgd_goes_to_the_mean_of_the_adapted_parameters() -> None:
    model, (x, y) = network(), data(T, 4, N)
    start = model.get_weights()
    adapted = [by_hand(start, *own, 0.1) for own in zip(x, y, strict=True)]
    reptile_step(model, sgd(), mse, (x, y), lr=0.1)
    for mine, *others in zip(model.get_weights(), *adapted, strict=True):
        np.testing.assert_allclose(mine, np.mean(others, 0), atol=1e-6)


def test_first_order_maml_is_the_query_gradient_at_the_adapted_parameters() -> None:
    model, support, query = network(), data(T, N), data(T, 7, seed=1)
    start, rows = model.get_weights(), []
    for x, y, x_new, y_new in zip(*support, *query, strict=True):
        adapted = by_hand(start, np.stack([x] * 3), np.stack([y] * 3), 0.1)
        moved = by_hand(adapted, x_new[None], y_new[None], 1.0)
        rows.append([a - b for a, b in zip(adapted, moved, strict=True)])
    maml_step(model, sgd(), mse, support, query, lr=0.1, steps=3)
    for old, new, *own in zip(start, model.get_weights(), *rows, strict=True):
        np.testing.assert_allclose(old - new, np.mean(own, 0), atol=2e-6)


@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize("steps", [1, 2])
def test_the_same_step_as_in_pytorch(first_order: bool, steps: int) -> None:
    torch = pytest.importorskip("torch")
    from mtl_tutorial import pytorch

    model, support, query = network(), data(T, N), data(T, 7, seed=1)
    twin = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    for parameter, value in zip(twin.parameters(), model.get_weights(), strict=True):
        parameter.data = torch.from_numpy(value.T.copy())
    plan: dict[str, Any] = {"lr": 0.1, "steps": steps, "first_order": first_order}
    pairs = [tuple(map(torch.from_numpy, pair)) for pair in (support, query)]
    optimizer = torch.optim.SGD(twin.parameters(), lr=1.0)
    theirs = pytorch.maml_step(twin, optimizer, torch.nn.functional.mse_loss, *pairs, **plan)
    assert float(maml_step(model, sgd(), mse, support, query, **plan)) == pytest.approx(
        theirs.item(), rel=1e-5
    )
    for mine, parameter in zip(model.get_weights(), twin.parameters(), strict=True):
        np.testing.assert_allclose(mine, parameter.detach().numpy().T, atol=1e-5)


def test_a_frozen_layer_stays_and_the_rest_is_adapted_around_it() -> None:
    model, support = network(), data(T, N)
    model.layers[0].trainable = False
    before = model.layers[0].get_weights(), model.layers[1].get_weights()
    maml_step(model, sgd(0.1), mse, support, support, lr=0.1)
    assert np.array_equal(before[0][0], model.layers[0].get_weights()[0])
    assert not np.array_equal(before[1][0], model.layers[1].get_weights()[0])


def test_what_cannot_be_adapted_is_refused_and_nothing_moves() -> None:
    (x, y), model = data(T, N), network()
    before = model.get_weights()
    normed = keras.Sequential(
        [keras.Input((2,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    )
    with pytest.raises(ValueError, match="updates a state"):
        maml_step(normed, sgd(), mse, (x, y), (x, y), lr=0.1)
    with pytest.raises(ValueError, match="at least 1 step"):
        maml_step(model, sgd(), mse, (x, y), (x, y), lr=0.1, steps=0)
    with pytest.raises(ValueError, match="support has 3 tasks, query 2"):
        maml_step(model, sgd(), mse, (x, y), (x[:2], y[:2]), lr=0.1)
    with pytest.raises(ValueError, match="2 equal leading axes"):
        maml_step(model, sgd(), mse, (x, y[:, :4]), (x, y), lr=0.1)
    with pytest.raises(ValueError, match="3 equal leading axes"):
        reptile_step(model, sgd(), mse, (x, y), lr=0.1)
    with pytest.raises(ValueError, match=r"one number a batch; it has shape \(\d+,\)"):
        maml_step(model, sgd(), keras.losses.mean_squared_error, (x, y), (x, y), lr=0.1)
    model.trainable = False
    with pytest.raises(ValueError, match="nothing to adapt"):
        reptile_step(model, sgd(), mse, (x[:, None], y[:, None]), lr=0.1)
    for one, other in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(one, other)
