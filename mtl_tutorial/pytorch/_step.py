"""One training step on a batch: forward, in parts if asked to, backward, optimizer, a second look."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mtl_tutorial.pytorch._data import Batch, at_rest, tensors_of
from mtl_tutorial.pytorch.backward import accumulated_backward, mtl_backward
from mtl_tutorial.pytorch.distributed import observed, over_ranks, world_size
from mtl_tutorial.pytorch.losses import known_losses, label_counts
from mtl_tutorial.tasks import Task
from mtl_tutorial.weighting import Weighting

_ROWS = "rows of the batch"  # no name of a task
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

    def __call__(self, batch: Batch) -> dict[str, float | Tensor]:
        """Take the step; give the losses before it, of the tasks that have a label."""
        counts = self.counts(batch)
        here = batch.present() if counts is None else [t.name for t in self.tasks if counts[t.name]]
        if not here:
            return {}  # no label at all: no step, and nothing to observe
        self.optimizer.zero_grad()
        seen: dict[str, Tensor] = {}
        shared = self.model.shared_parameters()
        if self.accumulate == 1:
            losses, features, extra = next(_counted([self.forward(batch, counts)], seen))
            mtl_backward(
                losses, features, self.weighting, shared, self.gramian,
                extra_loss=extra, scaler=self.scaler, model=self.model,
            )  # fmt: skip
        else:
            own = batch.present()
            accumulated_backward(
                _counted(self.parts(batch, counts), seen), self.weighting, shared, self.gramian,
                present=[t.name in own for t in self.tasks], scaler=self.scaler, model=self.model,
            )  # fmt: skip
        self.go_down()
        if self.weighting.needs_observe:  # the same batch again, dropout and batch norm at rest
            after: dict[str, Tensor] = {}
            with at_rest(self.model), torch.no_grad():
                for _ in _counted(self.parts(batch, counts), after):
                    pass
            self.weighting.observe(observed({t.name: after.get(t.name) for t in self.tasks}))
        if world_size() == 1:
            return dict(seen)
        means = observed({name: seen.get(name) for name in here})
        return dict(zip(here, means.tolist(), strict=True))

    def counts(self, batch: Batch) -> dict[str, float | Tensor] | None:
        """Count the labels, and the rows, of the whole batch; None where it is all here at once."""
        if world_size() == 1 and self.accumulate == 1:
            return None
        counts: dict[str, float | Tensor] = {_ROWS: len(batch)}
        here = batch.present()
        for name, count in label_counts(self.tasks, batch.targets, batch.weights).items():
            counts[name] = count if name in here else 0
        if world_size() == 1:
            return counts
        return dict(over_ranks({name: float(count) for name, count in counts.items()}))

    def forward(self, part: Batch, counts: Mapping[str, float | Tensor] | None) -> Forward:
        """Send a batch through the model, or a part of one; each loss is its share of the whole."""
        device = next(self.model.parameters()).device.type
        with nullcontext() if self.amp is None else torch.autocast(device, self.amp):
            features = self.model.encode(part.inputs)
            outputs = self.model.decode(features, part.present())
        losses = known_losses(self.tasks, outputs, part.targets, part.weights, counts)
        extra = None
        if hasattr(self.model, "extra_loss"):
            extra = self.model.extra_loss(features, part.targets)
            extra = extra if counts is None else extra * (len(part) / counts[_ROWS])
        return losses, tensors_of(features), extra

    def parts(self, batch: Batch, counts: Mapping[str, float | Tensor] | None) -> Iterator[Forward]:
        """Send a batch through the model part by part."""
        for part in batch.parts(self.accumulate):
            yield self.forward(part, counts)

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
