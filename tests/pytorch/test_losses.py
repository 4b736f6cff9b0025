import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtl_tutorial.metrics import iou
from mtl_tutorial.pytorch import giou_loss, task_loss
from mtl_tutorial.tasks import Binary, Boxes, Classification, Regression, Task

KIND, GT5, SIZE = Classification("kind", 3), Binary("gt5"), Regression("size")
TASKS: list[Task] = [KIND, GT5, SIZE]
each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def labels(task: Task, rows: int, generator: np.random.Generator) -> torch.Tensor:
    """Make labels, a third of them missing."""
    truth = {
        "kind": generator.integers(0, 3, rows),
        "gt5": generator.integers(0, 2, rows),
        "size": generator.normal(size=rows),
    }[task.name]
    return torch.from_numpy(np.where(generator.random(rows) < 1 / 3, task.missing, truth))


def loss_and_gradient(
    task: Task, outputs: np.ndarray, truth: np.ndarray
) -> tuple[float, np.ndarray]:
    """Go by the textbook, row by row, in float64; no row is missing."""
    outputs, rows = outputs.astype(np.float64), len(outputs)
    if task is KIND:
        chance = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
        one_hot = np.eye(3)[truth.astype(int)]
        return -np.log((chance * one_hot).sum(axis=1)).mean(), (chance - one_hot) / rows
    truth = truth[:, None]
    if task is GT5:
        chance = 1 / (1 + np.exp(-outputs))
        loss = -(truth * np.log(chance) + (1 - truth) * np.log(1 - chance)).mean()
        return loss, (chance - truth) / rows
    return np.square(outputs - truth).mean(), 2 * (outputs - truth) / rows


@each_task
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 9))
def test_textbook_loss_and_gradient_over_the_labelled_rows(
    task: Task, seed: int, rows: int
) -> None:
    generator = np.random.default_rng(seed)
    outputs = torch.from_numpy(generator.normal(size=(rows, task.outputs))).requires_grad_()
    targets = labels(task, rows, generator)
    loss = task_loss(task, outputs, targets)
    torch.autograd.backward(loss)
    there = ~targets.isnan() if task is SIZE else targets >= 0
    expected = torch.zeros_like(outputs)
    value = 0.0
    if there.any():
        value, gradient = loss_and_gradient(
            task, outputs.detach()[there].numpy(), targets[there].numpy()
        )
        expected[there] = torch.from_numpy(gradient)
    assert loss.item() == pytest.approx(value, rel=1e-9)
    torch.testing.assert_close(outputs.grad, expected)


@each_task
def test_no_label_at_all_is_zero_with_zero_gradient(task: Task) -> None:
    outputs = torch.randn(4, task.outputs, requires_grad=True)
    loss = task_loss(task, outputs, torch.full((4,), task.missing))
    torch.autograd.backward(loss)
    assert loss.item() == 0
    assert outputs.grad is not None
    assert outputs.grad.count_nonzero() == 0


@pytest.mark.parametrize(
    ("task", "outputs", "target", "loss", "gradient"),
    [
        (KIND, [1e4, 0, 0], 0, 0, [0, 0, 0]),
        (KIND, [1e4, 0, 0], 1, 1e4, [1, -1, 0]),
        (KIND, [-1e4, -1e4, -1e4], 2, np.log(3), [1 / 3, 1 / 3, -2 / 3]),
        (GT5, [1e4], 1, 0, [0]),
        (GT5, [1e4], 0, 1e4, [1]),
        (GT5, [-1e4], 0, 0, [0]),
        (GT5, [-1e4], 1, 1e4, [-1]),
    ],
)
def test_extreme_logits(
    task: Task, outputs: list[float], target: int, loss: float, gradient: list[float]
) -> None:
    logits = torch.tensor([outputs], requires_grad=True)
    found = task_loss(task, logits, torch.tensor([target]))
    torch.autograd.backward(found)
    assert found.item() == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(logits.grad, torch.tensor([gradient], dtype=torch.float32))


@each_task
def test_extreme_outputs_in_missing_rows_do_not_leak(task: Task) -> None:
    outputs = torch.tensor([[0.5] * task.outputs, [1e30] * task.outputs], requires_grad=True)
    loss = task_loss(task, outputs, torch.tensor([1.0, task.missing]))
    torch.autograd.backward(loss)
    alone = task_loss(task, outputs[:1].detach(), torch.tensor([1.0]))
    assert loss.item() == alone.item()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    assert outputs.grad[1].count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.float64])
@each_task
def test_targets_of_any_number_type(task: Task, dtype: torch.dtype) -> None:
    outputs = torch.randn(3, task.outputs)
    expected = task_loss(task, outputs, torch.tensor([0.0, 1.0, 1.0]))
    found = task_loss(task, outputs, torch.tensor([0, 1, 1], dtype=dtype))
    assert found.dtype == torch.float32
    assert found.item() == expected.item()


def test_boolean_targets() -> None:
    outputs = torch.randn(3, 1)
    expected = task_loss(GT5, outputs, torch.tensor([0, 1, 1]))
    assert task_loss(GT5, outputs, torch.tensor([False, True, True])).item() == expected.item()


class Sketch(Task):
    """A kind that nobody has written a loss or a metric for."""

    outputs = 1


def test_a_kind_without_loss() -> None:
    with pytest.raises(TypeError, match="'sketch' is a Sketch, for which there is no loss"):
        task_loss(Sketch("sketch"), torch.zeros(1, 1), torch.zeros(1))


UNIT = torch.tensor([[0.0, 0.0, 1.0, 1.0]])


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        ((0.0, 0.0), 0.0),
        ((0.5, 0.0), 1 - 0.5 / 1.5),  # the hull is the union
        ((1.0, 1.0), 1 + (4 - 2) / 4),
        ((3.0, 0.0), 1 + (4 - 2) / 4),
    ],
)
def test_giou_of_shifted_squares(shift: tuple[float, float], expected: float) -> None:
    other = UNIT + torch.tensor([*shift, *shift])
    assert giou_loss(UNIT, other).item() == pytest.approx(expected)
    assert giou_loss(other, UNIT).item() == pytest.approx(expected)
    assert giou_loss(100 * UNIT, 100 * other).item() == pytest.approx(expected)  # no unit


def test_giou_draws_disjoint_boxes_together_where_iou_is_flat() -> None:
    prediction = (UNIT + 3).requires_grad_()
    assert iou(prediction.detach().numpy(), UNIT.numpy()) == 0
    assert iou(prediction.detach().numpy() - 0.1, UNIT.numpy()) == 0
    giou_loss(prediction, UNIT).backward()
    assert prediction.grad is not None
    step = prediction.detach() - 0.1 * prediction.grad
    assert giou_loss(step, UNIT) < giou_loss(prediction, UNIT)


def test_a_missing_box_counts_for_nothing() -> None:
    boxes = torch.tensor([[0.0, 0.0, 1.0, 2.0], [5.0, 5.0, 9.0, 9.0]], requires_grad=True)
    target = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, float("nan"), 1.0, 1.0]])
    loss = task_loss(Boxes("box"), boxes, target)
    assert loss.item() == giou_loss(boxes[:1], target[:1]).item()
    loss.backward()
    assert boxes.grad is not None
    assert boxes.grad[0].abs().sum() > 0
    assert (boxes.grad[1] == 0).all()
    assert giou_loss(boxes, torch.full((2, 4), float("nan"))).item() == 0


@pytest.mark.parametrize("target", [[0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 1.0, 1.0]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_empty_and_inside_out_boxes_stay_finite(target: list[float], dtype: torch.dtype) -> None:
    for corners in ([0.5, 0.5, 0.5, 0.5], [0.9, 0.9, 0.1, 0.1]):
        boxes = torch.tensor([corners], dtype=dtype, requires_grad=True)
        loss = giou_loss(boxes, torch.tensor([target], dtype=dtype))
        loss.backward()
        assert 0 <= loss.item() <= 2
        assert boxes.grad is not None
        assert boxes.grad.isfinite().all()
