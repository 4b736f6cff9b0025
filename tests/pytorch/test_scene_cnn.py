import numpy as np
import pytest
import torch

from mtl_tutorial.datasets import digits, scenes
from mtl_tutorial.pytorch import HardSharing, SceneCNN, fit, scene_heads, task_loss
from mtl_tutorial.tasks import Binary, Boxes, Classification, Regression, Task

TASKS: list[Task] = [
    Classification("digit", 10), Regression("slant"), Boxes("box", 32, 32), Binary("presence")
]  # fmt: skip


def network(size: int = 32) -> HardSharing:
    torch.manual_seed(0)
    trunk = SceneCNN(size, (4, 4, 8))
    return HardSharing(trunk, scene_heads(TASKS, trunk))


def test_sizes() -> None:
    assert sum(p.numel() for p in SceneCNN(64).parameters()) == 33_849
    for size, channels in ((8, (4,)), (16, (4,)), (32, (4, 8)), (64, (4, 8, 4, 8))):
        trunk = SceneCNN(size, channels)
        assert trunk(torch.rand(2, size, size)).shape == (2, trunk.features)


@pytest.mark.parametrize("size", [0, 4, 12, 48, 65])
def test_a_size_that_cannot_be_halved(size: int) -> None:
    with pytest.raises(ValueError, match="8 times a power of 2"):
        SceneCNN(size)
    with pytest.raises(ValueError, match="at most one convolution each"):
        SceneCNN(64, (4, 4))


@pytest.mark.parametrize("shape", [(2, 64, 64), (2, 32, 64), (2, 1, 32, 32)])
def test_images_of_a_wrong_size(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, 32, 32\)"):
        network()(torch.zeros(shape))


def test_the_centre_is_where_the_attention_is() -> None:
    trunk = SceneCNN(64)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.zero_()
    np.testing.assert_allclose(trunk(torch.rand(1, 64, 64))[0, -3:].detach(), [0.5, 0.5, 0])
    for cell, centre in ((0, (1 / 16, 1 / 16)), (7, (15 / 16, 1 / 16)), (56, (1 / 16, 15 / 16))):
        assert trunk.get_buffer("cells")[cell].tolist() == pytest.approx(
            centre
        )  # x first, then down


def test_corners_never_cross() -> None:
    model = network()
    box = model.heads["box"](100 * torch.randn(500, 11))
    assert (box[:, :2] <= box[:, 2:]).all()


def test_empty_scenes_teach_only_presence() -> None:
    model, data = network(), scenes(digits().train, 6, size=32, empty=1)
    outputs = model(torch.from_numpy(data.inputs))
    for task in TASKS:
        model.zero_grad()
        loss = task_loss(task, outputs[task.name], torch.from_numpy(data.targets[task.name]))
        loss.backward(retain_graph=True)
        moved = any(p.grad is not None and p.grad.any() for p in model.parameters())
        assert moved == (task.name == "presence")
        assert torch.isfinite(loss)


def test_fit_learns() -> None:
    data = digits()
    train, valid = (
        scenes(data.train, 300, size=32, seed=0),
        scenes(data.valid, 100, size=32, seed=1),
    )
    for split in (train, valid):
        split.targets["slant"] /= 30
    history = fit(network(), TASKS, train, valid, epochs=3, batch_size=32)
    assert history["val_loss"][-1] < history["val_loss"][0]
