from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mtl_tutorial.pytorch import HardSharing, linear_heads, load_resnet18, resnet18
from mtl_tutorial.pytorch.models.resnet import ResidualBlock
from mtl_tutorial.tasks import Classification


def torchvision_names(width: int = 64) -> dict[str, tuple[int, ...]]:
    """Give the names and shapes of torchvision's ``resnet18``, as its documentation lists them."""

    def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
        parts = "weight", "bias", "running_mean", "running_var"
        return {f"{name}.{part}": (channels,) for part in parts} | {
            f"{name}.num_batches_tracked": ()
        }

    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (width, 3, 7, 7)} | norm("bn1", width)
    inputs = width
    for layer, outputs in enumerate((width, 2 * width, 4 * width, 8 * width), start=1):
        for block in range(2):
            name = f"layer{layer}.{block}"
            shapes[f"{name}.conv1.weight"] = (outputs, inputs, 3, 3)
            shapes |= norm(f"{name}.bn1", outputs)
            shapes[f"{name}.conv2.weight"] = (outputs, outputs, 3, 3)
            shapes |= norm(f"{name}.bn2", outputs)
            if inputs != outputs:
                shapes[f"{name}.downsample.0.weight"] = (outputs, inputs, 1, 1)
                shapes |= norm(f"{name}.downsample.1", outputs)
            inputs = outputs
    return shapes | {"fc.weight": (1000, inputs), "fc.bias": (1000,)}


def checkpoint(width: int = 64) -> dict[str, Tensor]:
    """Make a checkpoint with torchvision's names and shapes, and random numbers."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(shape, generator=generator)
        if shape
        else torch.tensor(7)  # a counter: an integer
        for name, shape in torchvision_names(width).items()
    }


def same(trunk: torch.nn.Module, state: dict[str, Tensor]) -> bool:
    return all(
        torch.equal(value, state[name])
        for name, value in trunk.state_dict().items()
        if not name.endswith("num_batches_tracked")
    )


def test_names_and_shapes_are_those_of_torchvision() -> None:
    ours = {name: tuple(value.shape) for name, value in resnet18().state_dict().items()}
    theirs = torchvision_names()
    assert len(theirs) == 122
    assert sum(np.prod(s) for n, s in theirs.items() if n.endswith(("weight", "bias"))) == 11689512
    assert ours == {name: s for name, s in theirs.items() if not name.startswith("fc.")}


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_checkpoint_files_load(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, state = tmp_path / f"resnet18.{ending}", checkpoint()
    if ending == "pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    by_path, by_variable = resnet18(), resnet18()
    load_resnet18(by_path, path)
    monkeypatch.setenv("MTL_TUTORIAL_RESNET18", str(path))
    load_resnet18(by_variable)
    assert same(by_path, state)
    assert same(by_variable, state)
    assert all(parameter.requires_grad for parameter in by_path.parameters())


def test_old_files_lack_counters() -> None:
    state = checkpoint(8)
    old = {name: v for name, v in state.items() if not name.endswith("num_batches_tracked")}
    trunk = resnet18(8)
    load_resnet18(trunk, old)
    assert same(trunk, state)


def without(name: str) -> dict[str, Tensor]:
    return {n: value for n, value in checkpoint(8).items() if n != name}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (without("layer3.0.downsample.1.bias"), r"missing: layer3\.0\.downsample\.1\.bias$"),
        (checkpoint(8) | {"head.weight": torch.ones(2)}, r"unknown: head\.weight$"),
        (checkpoint(8) | {"bn1.bias": torch.ones(3)}, r"bn1\.bias \(3,\) instead of \(8,\)$"),
        (checkpoint(16), r"conv1\.weight \(16, 3, 7, 7\) instead of \(8, 3, 7, 7\), .* more$"),
        (
            {f"module.{n}": v for n, v in checkpoint(8).items()},
            r"missing: conv1\.weight, .*unknown",
        ),
        ({"state_dict": checkpoint(8)}, "'state_dict' is dict"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(
    state: dict[str, Tensor], message: str
) -> None:
    trunk = resnet18(8)
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_resnet18(trunk, state)
    assert same(trunk, before)


def test_grey_images_do_not_fit_a_colour_checkpoint() -> None:
    with pytest.raises(ValueError, match=r"conv1\.weight \(8, 3, 7, 7\) instead of \(8, 1, 7, 7\)"):
        load_resnet18(resnet18(8, channels=1), checkpoint(8))


def test_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MTL_TUTORIAL_RESNET18", raising=False)
    with pytest.raises(ValueError, match="MTL_TUTORIAL_RESNET18"):
        load_resnet18(resnet18(8))
    for name in ("no.safetensors", "no.pth"):
        with pytest.raises(FileNotFoundError):
            load_resnet18(resnet18(8), tmp_path / name)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(ResidualBlock(1, 1), path)  # a whole module, not arrays by name
    with pytest.raises(Exception, match="Weights only load failed"):
        load_resnet18(resnet18(8), path)


def test_a_residual_block_by_hand() -> None:
    torch.manual_seed(0)
    block, x = ResidualBlock(3, 5, stride=2).eval(), torch.randn(2, 3, 7, 7)
    assert block.downsample is not None
    convolve = torch.nn.functional.conv2d
    hidden = convolve(x, block.conv1.weight, stride=2, padding=1) / (1 + 1e-5) ** 0.5
    hidden = convolve(hidden.relu(), block.conv2.weight, padding=1) / (1 + 1e-5) ** 0.5
    shortcut = convolve(x, block.get_parameter("downsample.0.weight"), stride=2) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(block(x), (hidden + shortcut).relu())


@pytest.mark.parametrize("size", [(28, 28), (33, 20), (224, 224)])
def test_features_of_images_of_any_size(size: tuple[int, int]) -> None:
    colour, grey = resnet18(4).eval(), resnet18(4, channels=1).eval()
    assert colour(torch.zeros(2, 3, *size)).shape == (2, 32)
    images = torch.rand(2, *size)
    assert torch.equal(grey(images), grey(images[:, None]))


@pytest.mark.parametrize(
    ("channels", "shape"),
    [(3, (2, 28, 28)), (3, (2, 28, 28, 3)), (1, (2, 3, 28, 28)), (1, (2, 784))],
)
def test_other_images_are_refused(channels: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images have shape"):
        resnet18(4, channels)(torch.zeros(shape))


@pytest.mark.parametrize("sizes", [(0, 3), (8, 0)])
def test_sizes_below_one(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        resnet18(*sizes)


def test_trunk_of_a_model_with_two_heads() -> None:
    tasks = [Classification("digit", classes=10), Classification("group", classes=5)]
    model = HardSharing(resnet18(4, channels=1), linear_heads(tasks, features=32))
    outputs = model(torch.rand(3, 28, 28))
    assert {name: tuple(out.shape) for name, out in outputs.items()} == {
        "digit": (3, 10),
        "group": (3, 5),
    }
    sum(out.square().sum() for out in outputs.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
