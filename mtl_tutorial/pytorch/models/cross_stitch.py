"""Cross-stitch networks: a tower for each task, and learned numbers that say how much they share."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from mtl_tutorial.pytorch.models._parts import Architecture, Builder, checked, for_each, stacked


class CrossStitch(Architecture):
    r"""A tower for each task; after each stage all tasks' activations are mixed (Misra et al., 2016).

    .. math:: \tilde z_{k,l} = \sum_j A^{(l)}_{kj}\, z_{j,l}, \qquad
       z_{k,l+1} = f_{k,l+1}(\tilde z_{k,l})

    with :math:`f_{k,l}` stage :math:`l` of task :math:`k` and one learned matrix :math:`A^{(l)}` of
    shape (T, T) a stage. With :math:`A = I` the tasks are separate; with equal rows all read the
    same mean. The article learns such a matrix for each channel; here it is one for all channels,
    which can be read at a glance.

    Parameters
    ----------
    stages : sequence of callables without arguments to torch.nn.Module
        Each builds one stage of a tower, and is called once for each head. The first reads the
        inputs, the last gives what the heads read.
    heads : mapping from task name to torch.nn.Module
        From features to the task's outputs.
    own : float
        What a task reads of its own tower to begin with, the diagonal of each matrix; the other
        tasks have the rest in equal parts.

    Raises
    ------
    TypeError, ValueError
        There is no head or no stage; a builder builds no new layers. When called: the towers of two
        tasks give activations of different shapes.

    Notes
    -----
    All tasks read all towers, so towers and matrices are the shared parameters. Each task has
    features of its own: the Gramian of the features (``gramian="features"``) is diagonal by
    construction, and says nothing of conflicts; use the exact one.

    The article learns the matrices at a rate 10 to 1000 times that of the layers: give the optimizer
    ``model.units.parameters()`` as a group of their own.

    Examples
    --------
    >>> from mtl_tutorial.pytorch import linear_heads, mlp
    >>> from mtl_tutorial.tasks import Binary, Classification
    >>> tasks = [Classification("digit", classes=10), Binary("gt5")]
    >>> stages = [lambda: mlp(784, 32), lambda: mlp(32, 16)]
    >>> model = CrossStitch(stages, linear_heads(tasks, features=16))
    >>> {name: tuple(z.shape) for name, z in model.encode(torch.zeros(3, 28, 28)).items()}
    {'digit': (3, 16), 'gt5': (3, 16)}
    >>> model.units[0].data
    tensor([[0.9000, 0.1000],
            [0.1000, 0.9000]])
    """

    def __init__(
        self, stages: Sequence[Builder], heads: Mapping[str, nn.Module], own: float = 0.9
    ) -> None:
        super().__init__()
        if not stages:
            raise ValueError("a tower needs at least one stage")
        self.heads = checked(heads)
        self.towers = for_each("one of the stages", stages, heads)
        count = len(heads)
        start = torch.full((count, count), (1 - own) / max(1, count - 1)).fill_diagonal_(own)
        self.units = nn.ParameterList([nn.Parameter(start.clone()) for _ in stages])

    def encode(self, inputs: Any) -> dict[str, Tensor]:
        """Give the features of each task, by its name."""
        mixed = dict.fromkeys(self.towers, inputs)
        for number, unit in enumerate(self.units):
            given = {
                f"stage {number + 1} of {name!r}": tower[number](mixed[name])
                for name, tower in self.towers.items()
            }
            found = torch.einsum("kj,j...->k...", unit, stacked(given, dim=0))
            mixed = dict(zip(self.towers, found.unbind(), strict=True))
        return mixed

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """Give the parameters of all towers, and the matrices."""
        return chain(self.towers.parameters(), self.units.parameters())
