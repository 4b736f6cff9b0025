"""One training step on a batch: forward, in parts if asked to, backward, optimizer, a second look."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mtl_tutorial.pytorch._data import Batch, at_rest, tensors_of
from mtl_tutorial.pytorch.backward import accumulated_backward, mtl_backward
from mtl_tutorial.pytorch.losses import known_losses, label_counts
from mtl_tutorial.tasks import Task
from mtl_tutorial.weighting import Weighting

Forward = tuple[dict[str, Tensor | None], list[Tensor], Tensor | None]
"""The losses, the features, and the model's own extra loss."""


@dataclass
class Step:
    """What a step needs besides its batch; see :func:`mtl_tutorial.pytorch.fit`."""

    model: Any
    tasks: Sequence[Task]
    optimizer: torch.optim.Optimizer
    weighting: Weighting
    gramian: Literal["parameters", "features"]
    clip_norm: float | None
    accumulate: int
    amp: torch.dtype | None
    scaler: torch.amp.GradScaler | None
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None
    """Of learning rates, where it goes on with each step."""

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Take the step; give the losses before it, of the tasks that have a label."""
        losses: dict[str, Tensor] = {}
        if not batch.present():
            return losses  # no label at all: no step, and nothing to observe
        self.optimizer.zero_grad()
        shared = self.model.shared_parameters()
        if self.accumulate == 1:
            given, features, extra = next(_counted([self.forward(batch)], losses))
            mtl_backward(
                given, features, self.weighting, shared, self.gramian,
                extra_loss=extra, scaler=self.scaler,
            )  # fmt: skip
        else:
            parts = _counted(self.in_parts(batch), losses)
            here = batch.present()
            accumulated_backward(
                parts, self.weighting, shared, self.gramian,
                present=[task.name in here for task in self.tasks], scaler=self.scaler,
            )  # fmt: skip
        self.go_down()
        if self.weighting.needs_observe:  # the same batch again, dropout and batch norm at rest
            after: dict[str, Tensor] = {}
            with at_rest(self.model), torch.no_grad():
                list(_counted(self.in_parts(batch), after))
            self.weighting.observe([float(after.get(task.name, 0)) for task in self.tasks])
        return losses

    def forward(self, part: Batch, counts: Mapping[str, Tensor] | None = None) -> Forward:
        """Send a batch through the model, or a part of one whose labels were counted."""
        device = next(self.model.parameters()).device.type
        with nullcontext() if self.amp is None else torch.autocast(device, self.amp):
            features = self.model.encode(part.inputs)
            outputs = self.model.decode(features, part.present())
        losses = known_losses(self.tasks, outputs, part.targets, part.weights, counts)
        extra = None
        if hasattr(self.model, "extra_loss"):
            extra = self.model.extra_loss(features, part.targets)
        return losses, tensors_of(features), extra

    def in_parts(self, batch: Batch) -> Iterator[Forward]:
        """Send a batch through part by part; each loss is its share of that of the whole batch."""
        counts = label_counts(self.tasks, batch.targets, batch.weights)
        for part in batch.parts(self.accumulate):
            losses, features, extra = self.forward(part, counts)
            yield losses, features, None if extra is None else extra * (len(part) / len(batch))

    def go_down(self) -> None:
        """Let the optimizer take its step."""
        if self.clip_norm is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.schedule is not None:
            self.schedule.step()


def _counted(parts: Iterable[Forward], into: dict[str, Tensor]) -> Iterator[Forward]:
    """Pass on the parts of a batch, and add up their losses."""
    for part in parts:
        for name, loss in part[0].items():
            if loss is not None:
                into[name] = into[name] + loss.detach() if name in into else loss.detach()
        yield part
