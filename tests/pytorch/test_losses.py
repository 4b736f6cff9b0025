import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mtl_tutorial.metrics import iou
from mtl_tutorial.pytorch import batch_losses, giou_loss, label_counts, label_losses, task_loss
from mtl_tutorial.tasks import Binary, Boxes, Classification, Regression, Task, labelled

KIND, GT5, SIZE, BOX = Classification("kind", 3), Binary("gt5"), Regression("size"), Boxes("box")
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
        ((0.25, 0.5), 1 - 0.375 / 1.625 + (1.875 - 1.625) / 1.875),
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
    target = torch.tensor([[0.0, 0.0, 2.0, 2.0], [float("nan")] * 4])
    loss = task_loss(Boxes("box"), boxes, target)
    assert loss.item() == giou_loss(boxes[:1], target[:1]).item()
    loss.backward()
    assert boxes.grad is not None
    assert boxes.grad[0].abs().sum() > 0
    assert (boxes.grad[1] == 0).all()
    assert giou_loss(boxes, torch.full((2, 4), float("nan"))).item() == 0


def giou_by_hand(box: list[float], truth: list[float]) -> float:
    """Go by the equation, one box at a time; corners in the wrong order enclose nothing."""

    def area(x1: float, y1: float, x2: float, y2: float) -> float:
        return max(0.0, x2 - x1) * max(0.0, y2 - y1)

    x1, y1, x2, y2 = box
    u1, v1, u2, v2 = truth
    common = area(max(x1, u1), max(y1, v1), min(x2, u2), min(y2, v2))
    union = area(*box) + area(*truth) - common
    width, height = max(x1, x2, u2) - min(x1, x2, u1), max(y1, y2, v2) - min(y1, y2, v1)
    hull = width * height
    crossed = max(0.0, x1 - x2) / width + max(0.0, y1 - y2) / height
    return 1 - common / union + (hull - union) / hull + crossed


BOXES = {
    "a box": [0.1, 0.2, 0.7, 0.9],
    "a box elsewhere": [3.0, 0.2, 4.0, 0.5],
    "crossed inside the truth": [0.6, 0.7, 0.2, 0.1],
    "crossed in x alone": [0.6, 0.1, 0.2, 0.7],
    "crossed around the truth": [2.0, 3.0, -1.0, -2.0],
    "crossed on one side": [0.4, 2.0, 0.3, 1.5],
    "crossed elsewhere": [5.0, 6.0, 4.5, 4.0],
}


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_giou_is_its_equation_and_pulls_crossed_corners_apart(box: list[float]) -> None:
    truth = [0.0, 0.0, 1.0, 1.0]
    boxes = torch.tensor([box], dtype=torch.float64, requires_grad=True)
    loss = giou_loss(boxes, torch.tensor([truth]))
    assert loss.item() == pytest.approx(giou_by_hand(box, truth))
    loss.backward()
    assert boxes.grad is not None
    for corner in range(4):  # against finite differences
        up, down = box.copy(), box.copy()
        up[corner] += 1e-6
        down[corner] -= 1e-6
        slope = (giou_by_hand(up, truth) - giou_by_hand(down, truth)) / 2e-6
        assert boxes.grad[0, corner].item() == pytest.approx(slope, abs=1e-6)
    for low, high in ((0, 2), (1, 3)):
        if box[low] > box[high]:  # the next step brings the two closer
            assert boxes.grad[0, low] > boxes.grad[0, high]
            assert loss.item() > 1


def test_giou_pulls_a_point_apart() -> None:
    """The same number for all corners, as a head of zeros gives them, encloses nothing, too."""
    boxes = torch.full((1, 4), 0.5, requires_grad=True)
    giou_loss(boxes, UNIT).backward()
    assert boxes.grad is not None
    assert boxes.grad[0].tolist() == [1, 1, -1, -1]


@pytest.mark.parametrize("place", [1e30, -1e30, 1e19])
def test_giou_of_boxes_far_off_stays_finite(place: float) -> None:
    boxes = (place * torch.tensor([[1.0, 1.0, 2.0, 3.0]])).requires_grad_()
    loss = giou_loss(boxes, UNIT)
    loss.backward()
    assert 1 <= loss.item() <= 4
    assert boxes.grad is not None
    assert boxes.grad.isfinite().all()


def test_giou_at_the_edge_of_what_float32_can_multiply() -> None:
    for unit in (1e-25, 1e25):
        loss = giou_loss(unit * UNIT, unit * (UNIT + torch.tensor([0.5, 0.0, 0.5, 0.0])))
        assert loss.item() == pytest.approx(1 - 0.5 / 1.5)


NAN = float("nan")
WRONG: list[tuple[Task, list[Any]]] = [
    (KIND, [0, -100]),
    (KIND, [0, 3]),
    (KIND, [1.0, NAN]),
    (KIND, [1.0, 0.5]),
    (GT5, [1, 2]),
    (GT5, [1, -100]),
    (GT5, [1.0, NAN]),
    (GT5, [1.0, 0.5]),
    (SIZE, [1.0, math.inf]),
    (BOX, [[0.0, 0, 1, 1], [0, 0, 0, 1]]),
    (BOX, [[0.0, 0, 1, 1], [1, 1, 0, 0]]),
    (BOX, [[0.0, 0, 1, 1], [0, NAN, 1, 1]]),
    (BOX, [[0.0, 0, 1, 1], [-1, -1, -1, -1]]),
    (BOX, [[0.0, 0, 1, 1], [0, 0, math.inf, 1]]),
]


@pytest.mark.parametrize(("task", "targets"), WRONG)
def test_a_label_that_cannot_be_is_never_trained_on(task: Task, targets: list[Any]) -> None:
    """The loss cannot name it without a look from the CPU, so it is NaN; a batch's losses can."""
    outputs = torch.ones(2, task.outputs, requires_grad=True)
    loss = task_loss(task, outputs, torch.tensor(targets))
    loss.backward()
    assert loss.isnan()
    assert outputs.grad is not None
    assert outputs.grad.isnan().any()
    for kind in (torch.tensor, np.array):
        with pytest.raises(ValueError, match=f"task {task.name!r}: row 1 holds"):
            batch_losses([task], {task.name: outputs}, {task.name: kind(targets)})


@pytest.mark.parametrize("task", [*TASKS, BOX], ids=lambda task: task.name)
def test_outputs_and_targets_that_do_not_fit_together(task: Task) -> None:
    width = task.outputs
    labels = torch.full((3, 4) if task is BOX else (3,), task.missing)
    for outputs in (torch.zeros(3), torch.zeros(3, width + 1), torch.zeros(3, width, 9)):
        with pytest.raises(ValueError, match=rf"'{task.name}': outputs have shape \("):
            task_loss(task, outputs, labels)
    with pytest.raises(ValueError, match="outputs are int64"):
        task_loss(task, torch.zeros(3, width, dtype=torch.int64), labels)
    for targets in (labels[:2], labels[:1], labels.ravel()[0], torch.stack([labels, labels])):
        with pytest.raises(ValueError, match=rf"'{task.name}': targets have shape \("):
            task_loss(task, torch.zeros(3, width), targets)
    with pytest.raises(ValueError, match=rf"'{task.name}': targets have shape \("):
        batch_losses([task], {task.name: torch.zeros(3, width)}, {task.name: labels[:1]})


@each_task
def test_targets_in_a_column_are_read_row_by_row(task: Task) -> None:
    outputs = torch.randn(4, task.outputs)
    targets = torch.tensor([0.0, 1.0, 1.0, task.missing])
    expected = task_loss(task, outputs, targets)
    assert task_loss(task, outputs, targets[:, None]).item() == expected.item()
    assert task_loss(task, outputs, targets.reshape(2, 2)).item() == expected.item()
    perfect = torch.tensor([[0.0], [1.0], [3.0]])
    assert task_loss(SIZE, perfect, perfect).item() == 0  # not the 10 / 3 of all pairs


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("task", [*TASKS, BOX], ids=lambda task: task.name)
def test_half_precision_is_the_loss_of_the_same_outputs_in_float32(
    task: Task, dtype: torch.dtype
) -> None:
    """3,000 rows: bfloat16 counts them as 3,008, and float16 ends at 65,504."""
    outputs = torch.rand(3000, task.outputs).to(dtype)
    targets = torch.ones(3000) if task is not BOX else UNIT.expand(3000, 4)
    if task is SIZE:
        targets = targets + 100_000.25
    found = task_loss(task, outputs, targets)
    assert found.dtype == torch.float32
    assert found.item() == task_loss(task, outputs.float(), targets).item()


def test_batch_losses_are_the_losses_of_the_tasks_that_have_a_label() -> None:
    generator = np.random.default_rng(0)
    tasks = [*TASKS, BOX]
    for step in range(8):
        rows = 1 + step
        outputs = {task.name: torch.randn(rows, task.outputs) for task in tasks}
        targets: dict[str, Any] = {task.name: labels(task, rows, generator) for task in TASKS}
        targets["box"] = UNIT.repeat(rows, 1)
        targets["box"][generator.random(rows) < 0.5] = NAN
        targets["kind"] = targets["kind"].numpy()  # an array will do
        found = batch_losses(tasks, outputs, targets)
        assert list(found) == [task.name for task in tasks]
        for task in tasks:
            truth, loss = torch.as_tensor(targets[task.name]), found[task.name]
            if labelled(task, truth.numpy()).any():
                assert loss is not None
                assert loss.item() == task_loss(task, outputs[task.name], truth).item()
            else:
                assert loss is None


def test_a_head_may_stay_idle_only_where_its_task_has_no_label() -> None:
    outputs = {"gt5": torch.zeros(2, 1)}
    targets = {"gt5": [0, 1], "size": [NAN, NAN]}
    assert batch_losses([GT5, SIZE], outputs, targets)["size"] is None
    with pytest.raises(KeyError, match=r"'size' has labels, but no outputs; \['gt5'\] have"):
        batch_losses([GT5, SIZE], outputs, targets | {"size": [NAN, 1.0]})
    with pytest.raises(KeyError, match=r"no target named 'size'; there are \['gt5'\]"):
        batch_losses([GT5, SIZE], outputs, {"gt5": [0, 1]})


def random_case(task: Task, *places: int) -> tuple[Tensor, Tensor]:
    """Outputs of 6 rows, and targets of which one label in four is missing."""
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(6, *places, task.outputs, generator=generator, dtype=torch.float64)
    shape = outputs.shape if task.numbers > 1 else outputs.shape[:-1]
    if isinstance(task, Regression):
        targets = torch.randn(shape, generator=generator, dtype=torch.float64)
    else:
        top = task.classes if isinstance(task, Classification) else 2
        targets = torch.randint(top, shape, generator=generator)
    missing = torch.rand(shape, generator=generator) < 0.25
    missing.view(-1)[0] = True
    return outputs, targets.masked_fill(missing, task.missing)


@pytest.mark.parametrize("places", [(), (5,), (3, 4)], ids=["rows", "tokens", "pixels"])
@pytest.mark.parametrize("smoothing", [0, 0.1])
@pytest.mark.parametrize("class_weights", [None, (0.5, 1.0, 4.0)])
def test_class_weights_and_smoothing_are_those_of_pytorch(
    places: tuple[int, ...], smoothing: float, class_weights: tuple[float, ...] | None
) -> None:
    task = Classification("kind", 3, class_weights=class_weights, label_smoothing=smoothing)
    outputs, targets = random_case(task, *places)
    expected = torch.nn.functional.cross_entropy(
        outputs.movedim(-1, 1),
        targets,
        None if class_weights is None else torch.tensor(class_weights, dtype=torch.float64),
        ignore_index=-1,
        label_smoothing=smoothing,
    )
    torch.testing.assert_close(task_loss(task, outputs, targets), expected)


@pytest.mark.parametrize(
    ("outputs", "pos_weight"), [(1, 1), (1, 3.0), (3, 1), (3, 3.0), (3, (0.5, 2.0, 7.0))]
)
def test_pos_weight_is_that_of_pytorch(outputs: int, pos_weight: Any) -> None:
    task = Binary("tags", outputs=outputs, pos_weight=pos_weight)
    logits, targets = random_case(task)
    there, flat = targets >= 0, logits.reshape(targets.shape)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        flat,
        targets.clamp(min=0).double(),
        weight=there.double(),
        pos_weight=torch.tensor(pos_weight, dtype=torch.float64),
        reduction="sum",
    )
    torch.testing.assert_close(task_loss(task, logits, targets), expected / there.sum())


@pytest.mark.parametrize("task", [Regression("depth"), Regression("joints", outputs=3)])
@pytest.mark.parametrize("places", [(), (5,), (3, 4)], ids=["rows", "tokens", "pixels"])
def test_the_squared_error_is_a_mean_over_all_labels(task: Task, places: tuple[int, ...]) -> None:
    outputs, targets = random_case(task, *places)
    there = ~targets.isnan()
    error = outputs.reshape(targets.shape)[there] - targets[there]
    torch.testing.assert_close(task_loss(task, outputs, targets), error.square().mean())


WEIGHTED = [
    Classification("kind", 3, class_weights=(0.5, 1.0, 4.0), label_smoothing=0.1),
    Binary("tags", outputs=3, pos_weight=2),
    Regression("size"),
]


@pytest.mark.parametrize("task", WEIGHTED, ids=lambda task: task.name)
@pytest.mark.parametrize("places", [(), (5,)], ids=["rows", "tokens"])
def test_a_row_of_weight_3_is_three_rows(task: Task, places: tuple[int, ...]) -> None:
    outputs, targets = random_case(task, *places)
    counts = torch.tensor([1, 3, 0, 2, 1, 0])
    rows = torch.arange(6).repeat_interleave(counts)
    expected = task_loss(task, outputs[rows], targets[rows])
    for scale in (1, 0.5):  # a weighted mean: the unit of the weights plays no part
        loss = task_loss(task, outputs, targets, sample_weight=counts * scale)
        torch.testing.assert_close(loss, expected)
    assert batch_losses([task], {}, {task.name: targets}, torch.zeros(6)) == {task.name: None}


@pytest.mark.parametrize("task", WEIGHTED, ids=lambda task: task.name)
@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 0.5, 0, 2, 3, 1])])
def test_parts_divided_by_the_labels_of_the_whole_add_up_to_it(
    task: Task, weights: Tensor | None
) -> None:
    outputs, targets = random_case(task)
    counts = label_counts([task], {task.name: targets}, weights)
    total = torch.zeros((), dtype=torch.float64)
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        own = None if weights is None else weights[part]
        named = {task.name: outputs[part]}, {task.name: targets[part]}
        loss = batch_losses([task], *named, own, counts=counts)[task.name]
        total += 0 if loss is None else loss
    torch.testing.assert_close(total, task_loss(task, outputs, targets, weights))


@pytest.mark.parametrize("weights", [[1.0, -1.0], [[1.0], [1.0]], [1.0, float("nan")]])
def test_sample_weights_that_cannot_be_are_refused(weights: list[Any]) -> None:
    with pytest.raises(ValueError, match="'gt5': sample_weight is one number a row, shape"):
        task_loss(GT5, torch.zeros(2, 1), torch.tensor([0, 1]), torch.tensor(weights))
    with pytest.raises(ValueError, match="there are 3 sample weights for 2 rows"):
        task_loss(GT5, torch.zeros(2, 1), torch.tensor([0, 1]), torch.ones(3))


def test_a_kind_of_your_own_needs_one_function() -> None:
    @dataclass(frozen=True)
    class Quantile(Task):
        level: float = 0.5
        outputs = 1
        missing = float("nan")

    @label_losses.register
    def _(task: Quantile, outputs: Tensor, targets: Tensor) -> Tensor:
        error = targets - outputs[..., 0]
        return torch.maximum(task.level * error, (task.level - 1) * error)

    outputs = torch.tensor([[1.0], [5.0], [2.0]], requires_grad=True)
    loss = task_loss(Quantile("delay", 0.9), outputs, torch.tensor([2.0, float("nan"), 0.0]))
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor((0.9 + 0.2) / 2))
    torch.testing.assert_close(outputs.grad, torch.tensor([[-0.45], [0], [0.05]]))


def test_a_kind_without_a_loss_is_refused_with_the_way_out() -> None:
    class Sketch(Task):
        outputs = 1

    with pytest.raises(
        TypeError, match=r"'sketch' is a Sketch, for which there is no loss; register"
    ):
        task_loss(Sketch("sketch"), torch.zeros(2, 1), torch.tensor([0, 1]))


def test_a_loss_that_is_not_one_a_label_is_refused() -> None:
    class Total(Task):
        outputs = 1

    @label_losses.register
    def _(task: Total, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum()

    with pytest.raises(
        ValueError, match=r"'all': label_losses gave shape \(\), expected one loss a"
    ):
        task_loss(Total("all"), torch.zeros(2, 1), torch.tensor([0, 1]))
