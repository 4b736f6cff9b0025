from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mtl_tutorial import keras as mk
from mtl_tutorial import pytorch as mp
from mtl_tutorial.tasks import Classification

TASKS = [Classification("digit", classes=10), Classification("group", classes=5)]


def used_trunk(width: int, channels: int) -> torch.nn.Sequential:
    """Give a PyTorch trunk whose running statistics are no longer 0 and 1, for evaluation."""
    torch.manual_seed(0)
    trunk = mp.resnet18(width, channels)
    for module in trunk.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
    for _ in range(3):
        trunk(2 + torch.randn(8, channels, 30, 30))
    return trunk.eval()


@pytest.mark.parametrize(
    ("width", "channels", "size"), [(8, 1, (28, 28)), (8, 3, (33, 20)), (64, 3, (64, 64))]
)
def test_same_weights_same_logits(width: int, channels: int, size: tuple[int, int]) -> None:
    model = mp.HardSharing(used_trunk(width, channels), mp.linear_heads(TASKS, 8 * width))
    twin = mk.HardSharing(mk.resnet18(width, channels), mk.linear_heads(TASKS))
    images = np.random.default_rng(0).normal(size=(5, channels, *size)).astype("float32")
    channels_last = images[:, 0] if channels == 1 else images.transpose(0, 2, 3, 1)
    twin.build((None, *channels_last.shape[1:]))
    mk.load_resnet18(twin.trunk, model.trunk.state_dict())
    for name, head in twin.heads.items():
        head.set_weights([p.detach().numpy().T for p in model.heads[name].parameters()])
    theirs = model.eval()(torch.from_numpy(images))
    for name, ours in twin(channels_last, training=False).items():
        np.testing.assert_allclose(ours, theirs[name].detach().numpy(), atol=1e-4)


def test_training_steps_agree_but_for_the_running_variances() -> None:
    model = mp.HardSharing(used_trunk(4, 1).train(), mp.linear_heads(TASKS[:1], 32))
    twin = mk.MultiTaskModel(mk.resnet18(4, channels=1), mk.linear_heads(TASKS[:1]))
    twin.build((None, 28, 28))
    mk.load_resnet18(twin.trunk, model.trunk.state_dict())
    twin.heads["digit"].set_weights([p.detach().numpy().T for p in model.heads.parameters()])
    twin.compile(keras.optimizers.SGD(0.05), mk.task_losses(TASKS[:1]))
    sgd = torch.optim.SGD(model.parameters(), lr=0.05)
    rng = np.random.default_rng(0)
    before = model.trunk.get_buffer("bn1.running_var").clone()
    for step in range(5):
        images = rng.normal(size=(16, 28, 28)).astype("float32")
        digits = rng.integers(10, size=16)
        if step == 0:
            values = model.trunk.get_submodule("conv1")(torch.from_numpy(images)[:, None]).detach()
        sgd.zero_grad()
        mp.task_loss(
            TASKS[0], model(torch.from_numpy(images))["digit"], torch.from_numpy(digits)
        ).backward()
        sgd.step()
        twin.train_on_batch(images, {"digit": digits})
        if step == 0:  # PyTorch averages the unbiased variance, Keras the biased one
            biased = values.var((0, 2, 3), correction=0)
            ours = twin.trunk.get_layer("bn1").moving_variance.numpy()
            np.testing.assert_allclose(ours, 0.9 * before + 0.1 * biased, rtol=1e-4)
            n = 16 * 14 * 14
            unbiased = 0.9 * before + 0.1 * biased * n / (n - 1)
            np.testing.assert_allclose(
                model.trunk.get_buffer("bn1.running_var"), unbiased, rtol=1e-4
            )
    fresh = mk.resnet18(4, channels=1)
    mk.load_resnet18(fresh, model.trunk.state_dict())
    for theirs, ours in zip(fresh.trainable_weights, twin.trunk.trainable_weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    for theirs, ours in zip(
        fresh.non_trainable_weights, twin.trunk.non_trainable_weights, strict=True
    ):
        if "mean" in theirs.path:
            np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_checkpoint_files_load(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, trunk = tmp_path / f"resnet18.{ending}", used_trunk(8, 3)
    state = trunk.state_dict() | {"fc.weight": torch.ones(1000, 64), "fc.bias": torch.ones(1000)}
    if ending == "pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    twin = mk.resnet18(8)
    monkeypatch.setenv("MTL_TUTORIAL_RESNET18", str(path))
    mk.load_resnet18(twin)
    images = torch.randn(2, 3, 40, 40)
    theirs = trunk(images).detach().numpy()
    np.testing.assert_allclose(twin(images.permute(0, 2, 3, 1).numpy()), theirs, atol=1e-4)


def test_what_does_not_fit_is_named_and_changes_nothing() -> None:
    twin = mk.resnet18(4)
    before = twin.get_weights()
    state = used_trunk(4, 3).state_dict()
    del state["layer1.0.conv1.weight"]
    state["layer4.1.bn2.bias"] = torch.ones(3)
    state["more"] = torch.ones(1)
    message = r"missing: layer1\.0\.conv1\.weight; unknown: more; of another shape: layer4\.1\.bn2"
    with pytest.raises(ValueError, match=message):
        mk.load_resnet18(twin, state)
    assert all(map(np.array_equal, before, twin.get_weights()))


@pytest.mark.parametrize(
    ("channels", "shape"), [(3, (2, 28, 28)), (1, (2, 28, 28, 3)), (1, (2, 784))]
)
def test_other_images_are_refused(channels: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        mk.resnet18(4, channels)(np.zeros(shape, "float32"))


@pytest.mark.parametrize("sizes", [(0, 3), (8, 0)])
def test_sizes_below_one(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        mk.resnet18(*sizes)


def test_start_is_he_normal() -> None:
    keras.utils.set_random_seed(0)
    torch.manual_seed(0)
    ours, theirs = mk.resnet18(32), mp.resnet18(32)
    for layer in ("layer2.1.conv1", "layer4.0.conv2"):
        found = ours.get_layer(layer).kernel.numpy().std()
        assert found == pytest.approx(
            theirs.get_parameter(f"{layer}.weight").std().item(), rel=0.05
        )


def test_grey_images_with_and_without_a_channel() -> None:
    images = np.random.default_rng(0).random((3, 28, 28, 1), dtype="float32")
    outputs = []
    for shape in ((3, 28, 28), (3, 28, 28, 1)):
        keras.utils.set_random_seed(0)
        model = mk.MultiTaskModel(mk.resnet18(4, channels=1), mk.linear_heads(TASKS))
        model.build((None, *shape[1:]))
        outputs.append(model(images.reshape(shape))["digit"])
    np.testing.assert_array_equal(*outputs)


def test_saved_with_its_heads(tmp_path: Path) -> None:
    model = mk.MultiTaskModel(mk.resnet18(4, channels=1), mk.linear_heads(TASKS))
    images = np.random.default_rng(0).random((3, 28, 28), dtype="float32")
    outputs = model(images)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")(images)
    for name, value in outputs.items():
        np.testing.assert_array_equal(again[name], value)
