import pytest
import torch
from torch import nn

from mtl_tutorial.metrics import iou
from mtl_tutorial.pytorch import BoxHead, HardSharing, fit, fit_stacked, linear_heads, mlp, predict
from mtl_tutorial.tasks import Boxes
from mtl_tutorial.weighting import Equal
from tests.rectangles import rectangles


def test_a_box_head_is_its_equation_and_its_corners_never_cross() -> None:
    torch.manual_seed(0)
    head, z = BoxHead(5, width=640, height=480), 30 * torch.randn(200, 5)
    a, b, c, d = head.linear(z).unbind(dim=1)
    wide, high = (640 * torch.log1p(c.exp()), 480 * torch.log1p(d.exp()))
    expected = [640 * a - wide / 2, 480 * b - high / 2, 640 * a + wide / 2, 480 * b + high / 2]
    torch.testing.assert_close(head(z), torch.stack(expected, dim=1), rtol=1e-4, atol=1e-2)
    assert (head(z)[:, :2] <= head(z)[:, 2:]).all()
    middle = head(torch.zeros(1, 5))[0].tolist()
    assert middle == pytest.approx([220, 165, 420, 315], abs=1)  # about a third of the sides


@pytest.mark.parametrize("side", [1, 64])
@pytest.mark.parametrize("seed", range(3))
def test_boxes_train_on_a_trunk_of_ones_own(side: int, seed: int) -> None:
    """Linear layers alone died here: corners crossed where the loss had no gradient, IoU 0."""
    task = Boxes("box", width=side, height=side)
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.Tanh())
    model = HardSharing(trunk, linear_heads([task], features=64))
    test = rectangles(200, 1, side)
    history = fit(
        model, [task], rectangles(600, 0, side), test, epochs=10, batch_size=32, seed=seed,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3), device="cpu",
    )  # fmt: skip
    assert history["val_box_iou"][-1] > 0.55
    boxes = predict(model, test.inputs)["box"]
    assert iou(boxes, test.targets["box"]).mean() == pytest.approx(history["val_box_iou"][-1])


def test_a_linear_layer_leaves_the_state_in_which_its_corners_cross() -> None:
    """Without the head's help: every corner starts crossed, and no box is in the end."""
    torch.manual_seed(0)
    data, task = rectangles(600, 0, 1), Boxes("box")
    head = nn.Linear(64, 4)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([0.8, 0.8, 0.2, 0.2]))
        head.weight.mul_(0.1)
    model = HardSharing(mlp(256, 64), {"box": head})
    crossed = predict(model, data.inputs)["box"]
    assert (crossed[:, :2] > crossed[:, 2:]).all()
    history = fit(model, [task], data, data, epochs=20, batch_size=32)
    boxes = predict(model, data.inputs)["box"]
    assert (boxes[:, :2] < boxes[:, 2:]).all(axis=1).mean() > 0.99
    assert history["val_box_iou"][-1] > 0.5


def test_box_heads_can_be_stacked() -> None:
    task, data = Boxes("box"), rectangles(64, 0, 1)
    model = HardSharing(mlp(256, 8), linear_heads([task], features=8))
    history = fit_stacked([model], [task], [data], data, weightings=[Equal()], seeds=[0], epochs=2)
    assert history[0]["val_box_loss"][1] < history[0]["val_box_loss"][0]
