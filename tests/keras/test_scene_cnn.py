from pathlib import Path

import torch  # before TensorFlow  # isort: skip
import keras
import numpy as np
import pytest

import mtl_tutorial.pytorch as mp
from mtl_tutorial.datasets import digits, scenes
from mtl_tutorial.keras import MultiTaskModel, SceneCNN, scene_heads, task_losses, task_metrics
from mtl_tutorial.tasks import Binary, Boxes, Classification, Regression, Task

TASKS: list[Task] = [
    Classification("digit", 10), Regression("slant"), Boxes("box", 32, 32), Binary("presence")
]  # fmt: skip


def converted(model: mp.HardSharing) -> list[np.ndarray]:
    """PyTorch's parameters and buffers in Keras' layout."""
    arrays = [v.numpy() for k, v in model.state_dict().items() if "num_batches" not in k]
    axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
    return [array.transpose(axes[array.ndim]) for array in arrays]


def pair(size: int = 32) -> tuple[mp.HardSharing, MultiTaskModel]:
    torch.manual_seed(0)
    trunk, its_trunk = mp.SceneCNN(size, (4, 4, 8)), SceneCNN(size, (4, 4, 8))
    model = mp.HardSharing(trunk, mp.scene_heads(TASKS, trunk))
    its_model = MultiTaskModel(its_trunk, scene_heads(TASKS, its_trunk))
    its_model.build((None, size, size))
    arrays = converted(model)
    count = len(its_trunk.weights)
    its_trunk.set_weights(arrays[:count])
    for head in its_model.heads.values():
        head.set_weights(arrays[count : count + 2])
        count += 2
    return model, its_model


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("training", [False, True])
def test_the_same_as_in_pytorch(size: int, training: bool) -> None:
    model, its_model = pair(size)
    images = scenes(digits().train, 10, size=size).inputs
    outputs = model.train(training)(torch.from_numpy(images))
    for name, found in its_model(images, training=training).items():
        np.testing.assert_allclose(found, outputs[name].detach(), rtol=1e-4, atol=1e-4)


def test_fit_and_save(tmp_path: Path) -> None:
    _, model = pair()
    data = scenes(digits().train, 200, size=32)
    data.targets["slant"] /= 30
    model.compile("adam", task_losses(TASKS), metrics=task_metrics(TASKS))
    history = model.fit(data.inputs, data.targets, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for name, found in loaded.predict(data.inputs, verbose=0).items():
        np.testing.assert_allclose(found, model.predict(data.inputs, verbose=0)[name], rtol=1e-5)


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="8 times a power of 2"):
        SceneCNN(48)
    with pytest.raises(ValueError, match="at most one convolution each"):
        SceneCNN(64, (4, 4))
    with pytest.raises(ValueError, match=r"expected \(N, 32, 32\)"):
        SceneCNN(32, (4, 4))(np.zeros((2, 64, 64), "float32"))
