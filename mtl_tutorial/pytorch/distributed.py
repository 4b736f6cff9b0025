"""Several processes of ``torch.distributed``: what every rank must know of the others.

Each rank has its share of the rows, and all take the step that one process with all the rows would
take: :func:`~mtl_tutorial.pytorch.mtl_backward` averages losses and gradients over the ranks. What
is left to a loop is here. In one process every function gives back what it was given.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist


def over_ranks(counts: Mapping[str, float]) -> dict[str, float]:
    r"""Label counts to divide by, so that the mean of the ranks' losses is the whole batch's.

    .. math:: \bar n_k = \frac{1}{R} \sum_r n_k^{(r)}, \qquad
       \frac{1}{R} \sum_r \frac{S_k^{(r)}}{\bar n_k} = \frac{\sum_r S_k^{(r)}}{\sum_r n_k^{(r)}}

    where :math:`n_k^{(r)}` is the number of labels of task :math:`k` on rank :math:`r` of :math:`R`,
    and :math:`S_k^{(r)}` the sum of their losses. The mean of the ranks' own means is another number
    where they have unlike numbers of labels.

    Parameters
    ----------
    counts : mapping from task name to number
        The labels of this rank; 0 where there is none. The same tasks in the same order on all.

    Returns
    -------
    dict from task name to float
        0 for a task that no rank has a label of.

    Examples
    --------
    >>> over_ranks({"digit": 48, "gt5": 0})
    {'digit': 48.0, 'gt5': 0.0}
    """
    means = summed(np.array(list(counts.values()), dtype=float)) / world_size()
    return dict(zip(counts, means.tolist(), strict=True))


def observed(losses: Mapping[str, Tensor | None]) -> np.ndarray:
    """Losses after the step, averaged over the ranks, for ``weighting.observe``.

    Parameters
    ----------
    losses : mapping from task name to scalar torch.Tensor or None
        Of the batch of the step, divided by the same label counts; None counts as 0.

    Returns
    -------
    numpy.ndarray, shape (T,)
        In one transfer from the device.

    Examples
    --------
    >>> observed({"digit": torch.tensor(0.5), "gt5": None})
    array([0.5, 0. ])
    """
    return summed(numbers(losses.values())) / world_size()


def same_start(model: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0, as DistributedDataParallel does.

    Gradients are averaged, parameters are not: ranks that start apart stay apart.

    Parameters
    ----------
    model : torch.nn.Module

    Examples
    --------
    >>> same_start(nn.Linear(3, 2))
    """
    if world_size() > 1:
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.detach(), src=0)


def world_size() -> int:
    """Count the processes; 1 where ``torch.distributed`` is not in use."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def numbers(losses: Iterable[Tensor | None]) -> np.ndarray:
    """Values of losses, 0 for None, in one transfer from the device; shape (T,)."""
    given = list(losses)
    values = np.zeros(len(given))
    here = [loss.detach() for loss in given if loss is not None]
    if here:
        wide = [loss.float() if loss.dtype.itemsize < 4 else loss for loss in here]
        values[[loss is not None for loss in given]] = torch.stack(wide).cpu().numpy()
    return values


def summed(values: np.ndarray) -> np.ndarray:
    """Sum a few numbers over the ranks."""
    if world_size() == 1:
        return values
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    total = torch.from_numpy(values.astype(float)).to(device)
    dist.all_reduce(total)
    return total.cpu().numpy()


def agreed(here: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give what all ranks go by: a task is present if any has it, its loss is averaged."""
    if world_size() == 1:
        return here, losses
    counts, sums = np.split(summed(np.concatenate([here, losses])), 2)
    return counts > 0, sums / world_size()


def averaged(
    tensors: Iterable[Tensor | None], parameters: Sequence[Tensor], rows: Sequence[int] = ()
) -> list[Tensor | None]:
    """Average over the ranks, in one flat all-reduce; None where no rank has any.

    One tensor for each parameter, of its shape with ``rows`` before it; None counts as zeros. In
    float32 at least. They are taken one at a time.
    """
    shapes = [torch.Size([*rows, *parameter.shape]) for parameter in parameters]
    sizes = [shape.numel() for shape in shapes]
    dtype = reduce(torch.promote_types, (p.dtype for p in parameters), torch.float32)
    flat = torch.zeros(sum(sizes) + len(sizes), dtype=dtype, device=parameters[0].device)
    *pieces, there = flat.split([*sizes, len(sizes)])
    has = []
    for piece, shape, tensor in zip(pieces, shapes, tensors, strict=True):
        has.append(tensor is not None)
        if tensor is not None:
            piece.view(shape).copy_(tensor.to_dense() if tensor.is_sparse else tensor)
    there.copy_(torch.tensor(has))
    dist.all_reduce(flat)
    flat /= world_size()
    return [
        piece.view(shape) if any_rank else None
        for piece, shape, any_rank in zip(pieces, shapes, there.tolist(), strict=True)
    ]


@contextmanager
def one_for_all() -> Iterator[None]:
    """Raise on every rank what one of them raises inside, so that none waits for it forever."""
    if world_size() == 1:
        yield
        return
    failed = np.zeros(world_size())
    try:
        yield
    except Exception:
        failed[dist.get_rank()] = 1
        summed(failed)
        raise
    if (failed := summed(failed)).any():
        raise RuntimeError(f"rank {int(failed.argmax())} has stopped here; its own error says why")
