import keras
import numpy as np
import pytest

from mtl_tutorial.keras import HardSharing, linear_heads, mlp
from mtl_tutorial.tasks import Binary, Classification

TASKS = [Classification("digit", classes=10), Binary("gt5")]


def test_mlp_is_affine_then_relu() -> None:
    keras.utils.set_random_seed(0)
    trunk = mlp(12, 7, 5)
    images = np.random.default_rng(0).normal(size=(6, 3, 4)).astype("float32")
    found = trunk(images).numpy()
    w1, b1, w2, b2 = trunk.get_weights()
    hidden = np.maximum(images.reshape(6, 12) @ w1 + b1, 0)
    np.testing.assert_allclose(found, np.maximum(hidden @ w2 + b2, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("widths", [(), (784,)])
def test_mlp_needs_two_widths(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least one width"):
        mlp(*widths)


def test_linear_heads_keep_the_order_of_the_tasks() -> None:
    heads = linear_heads(TASKS[::-1])
    assert list(heads) == ["gt5", "digit"]
    assert [heads[task.name].units for task in TASKS] == [10, 1]


def test_linear_heads_need_distinct_tasks() -> None:
    with pytest.raises(ValueError, match="two tasks are named 'gt5'"):
        linear_heads([Binary("gt5"), Binary("gt5")])


def test_outputs_are_heads_after_trunk() -> None:
    model, inputs = HardSharing(mlp(6, 4), linear_heads(TASKS)), np.ones((5, 6), "float32")
    outputs = model(inputs)
    assert list(outputs) == ["digit", "gt5"]
    for name, output in outputs.items():
        np.testing.assert_array_equal(output, model.heads[name](model.trunk(inputs)))


def test_every_weight_is_found_once() -> None:
    model = HardSharing(mlp(6, 4), linear_heads(TASKS))
    model(np.ones((5, 6), "float32"))
    shapes = sorted(tuple(weight.shape) for weight in model.trainable_weights)
    assert shapes == sorted([(6, 4), (4,), (4, 10), (10,), (4, 1), (1,)])


def test_a_model_needs_a_head() -> None:
    with pytest.raises(ValueError, match="at least one head"):
        HardSharing(mlp(6, 4), {})


def test_config_builds_the_same_architecture_again_and_again() -> None:
    model = HardSharing(mlp(6, 4), linear_heads(TASKS[::-1]))
    config = model.get_config()
    for _ in range(2):
        twin = HardSharing.from_config(config)
        assert list(twin.heads) == ["gt5", "digit"]
        assert twin(np.ones((5, 6), "float32"))["digit"].shape == (5, 10)
