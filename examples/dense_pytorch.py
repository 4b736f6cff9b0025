"""Segmentation and depth on a small U-Net in PyTorch, by hand and with the library.

``python examples/dense_pytorch.py`` takes about half a minute. The pictures are described in
``dense_data.py``; pixels without a label have no say. The loop written by hand and ``fit`` with equal
weights take the same steps; another weighting is one word.
Over hundreds of steps rounding may show in the last digits.
"""

import numpy as np
import torch
import torch.nn.functional as F
from dense_data import KINDS, TASKS, Pictures, make, simple_scores
from results import show
from torch import Tensor, nn

from mtl_tutorial.pytorch import evaluate, fit
from mtl_tutorial.weighting import Equal, UPGrad

BATCH, RATE = 16, 3e-3


def convolution(inputs: int, outputs: int) -> nn.Sequential:
    """One of 3 × 3, normalised."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class UNet(nn.Module):
    """Down, up again with skips; the heads read three features, a chain: each is made of the last.

    The kind is read off the finest; the depth off all three.
    """

    def __init__(self, width: int = 8):
        super().__init__()
        one, two, four = width, 2 * width, 4 * width
        self.down = nn.ModuleList(
            [convolution(3, one), convolution(one, two), convolution(two, four)]
        )
        self.up = nn.ModuleList([convolution(four + two, two), convolution(two + one, one)])
        self.heads = nn.ModuleDict(
            {"kind": nn.Conv2d(one, KINDS, 1), "depth": nn.Conv2d(one + two + four, 1, 1)}
        )
        nn.init.constant_(self.heads["depth"].bias, 3.0)  # metres: the middle of what there is

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        """Give the features, each of shape (N, channels, height, width), from a quarter to whole size."""
        fine = self.down[0](images.movedim(-1, 1))
        middle = self.down[1](F.max_pool2d(fine, 2))
        coarse = self.down[2](F.max_pool2d(middle, 2))
        middle = self.up[0](torch.cat([F.interpolate(coarse, scale_factor=2.0), middle], dim=1))
        fine = self.up[1](torch.cat([F.interpolate(middle, scale_factor=2.0), fine], dim=1))
        return {"coarse": coarse, "middle": middle, "fine": fine}

    def decode(self, features: dict[str, Tensor], tasks: list[str] | None = None):
        """Give outputs with the task's own axis last: (N, height, width, task.outputs)."""
        outputs = {}
        for name in self.heads if tasks is None else tasks:
            read = features["fine"]
            if name == "depth":
                size = read.shape[-2:]
                read = torch.cat([F.interpolate(f, size) for f in features.values()], dim=1)
            outputs[name] = self.heads[name](read).movedim(1, -1)
        return outputs

    def shared_parameters(self) -> list[nn.Parameter]:
        """Give all but the heads."""
        return [*self.down.parameters(), *self.up.parameters()]


def build() -> UNet:
    """Give the network, the same each time."""
    torch.manual_seed(0)
    return UNet()


def by_hand(data: Pictures, epochs: int) -> UNet:
    """Train with the loop that ``fit`` replaces."""
    model = build().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    images = torch.from_numpy(data.train.inputs)
    kinds, depths = (torch.from_numpy(data.train.targets[name]) for name in ("kind", "depth"))
    generator = np.random.default_rng(0)
    for _ in range(epochs):
        order = torch.from_numpy(generator.permutation(len(images)))
        for rows in order.split(BATCH):
            outputs = model.decode(model.encode(images[rows]))
            loss = F.cross_entropy(outputs["kind"].movedim(-1, 1), kinds[rows], ignore_index=-1)
            measured = ~depths[rows].isnan()
            loss = loss + F.mse_loss(outputs["depth"][measured][:, 0], depths[rows][measured])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return model


def with_library(data: Pictures, epochs: int, weighting) -> UNet:
    """Train the same network in the same order, with any weighting."""
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    fit(
        model, TASKS, data.train, data.valid, epochs=epochs, batch_size=BATCH,
        schedule=schedule, weighting=weighting, device="cpu",
    )  # fmt: skip
    return model


def main(pictures: int = 640, epochs: int = 6) -> dict[str, dict[str, float]]:
    """Train in three ways, print the metrics of the test pictures, and give them."""
    data = make(pictures)
    columns = {"linear, 5 x 5 pixels": simple_scores(data)}
    columns["by hand"] = evaluate(by_hand(data, epochs), TASKS, data.test)
    for weighting in (Equal(), UPGrad()):
        model = with_library(data, epochs, weighting)
        columns[type(weighting).__name__] = evaluate(model, TASKS, data.test)
    show("test", columns, list(columns["linear, 5 x 5 pixels"]))
    return columns


if __name__ == "__main__":
    main()
