import keras
import numpy as np
import pytest

import mtl_tutorial.pytorch as mp
from mtl_tutorial.keras import HardSharing, MultiTaskModel, linear_heads, lookahead_affinity, mlp
from mtl_tutorial.tasks import Binary, Classification, Regression, Task

TASKS: list[Task] = [Classification("kind", classes=3), Binary("big"), Regression("size")]


def network() -> HardSharing:
    keras.utils.set_random_seed(0)
    return HardSharing(mlp(4, 6, 5), linear_heads(TASKS))


def data() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(20, 4)).astype("float32")
    y = {"kind": generator.integers(3, size=20), "big": generator.integers(2, size=20)}
    return x, y | {"size": x.sum(axis=1)}


def test_the_same_as_pytorch() -> None:
    import torch

    model, (x, y) = network(), data()
    model(x)
    theirs = mp.HardSharing(mp.mlp(4, 6, 5), mp.linear_heads(TASKS, features=5))
    pairs = zip(theirs.parameters(), model.weights, strict=True)
    with torch.no_grad():
        for parameter, weight in pairs:
            parameter.copy_(torch.from_numpy(weight.numpy().T))
    expected = mp.lookahead_affinity(theirs, TASKS, x, y, lr=0.1)
    np.testing.assert_allclose(lookahead_affinity(model, TASKS, x, y, lr=0.1), expected, atol=1e-5)


def test_the_model_is_left_as_it_was_and_need_not_be_built() -> None:
    model, (x, y) = MultiTaskModel(network()), data()
    first = lookahead_affinity(model, TASKS, x, y, lr=0.1)
    before = model.get_weights()
    np.testing.assert_array_equal(lookahead_affinity(model, TASKS, x, y, lr=0.1), first)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_an_absent_task_has_no_affinity() -> None:
    model, (x, y) = network(), data()
    y["size"][:] = np.nan
    found = lookahead_affinity(model, TASKS, x, y, lr=0.1)
    assert np.isnan(found[2]).all()
    assert np.isnan(found[:, 2]).all()
    assert np.isfinite(found[:2, :2]).all()


def test_refused() -> None:
    model, (x, y) = network(), data()
    with pytest.raises(KeyError, match="no target named 'size'"):
        lookahead_affinity(model, TASKS, x, {"kind": y["kind"], "big": y["big"]}, lr=0.1)
    with pytest.raises(ValueError, match="lr must be above 0; got -1"):
        lookahead_affinity(model, TASKS, x, y, lr=-1)
    model.trunk.trainable = False
    with pytest.raises(ValueError, match="no shared parameter is trained"):
        lookahead_affinity(model, TASKS, x, y, lr=0.1)
    y["kind"][7] = 5
    with pytest.raises(ValueError, match="task 'kind': row 7 holds 5"):
        lookahead_affinity(model, TASKS, x, y, lr=0.1)
