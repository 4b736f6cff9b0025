"""One trunk that a task's embedding modulates: feature-wise scales and shifts."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from mtl_tutorial.pytorch.models._parts import Architecture, along, checked


class Modulated(Architecture):
    r"""One trunk for all tasks, its channels scaled and shifted for each (FiLM, Perez et al., 2018).

    .. math:: z_{k,l} = (1 + \gamma_{k,l}) \odot f_l(z_{k,l-1}) + \beta_{k,l}, \qquad
       (\gamma_{k,l}, \beta_{k,l}) = W_l\, e_k

    with the shared stages :math:`f_l` and matrices :math:`W_l`, and an embedding :math:`e_k` of each
    task, all that it has of its own below its head. The matrices start at 0: so to begin with this is
    :class:`~mtl_tutorial.pytorch.HardSharing`. With as many numbers in an embedding as there are
    tasks, every scale and shift is possible; fewer make tasks with like embeddings alike.

    Parameters
    ----------
    stages : sequence of torch.nn.Module
        The trunk, from inputs to features, stage by stage.
    widths : sequence of int
        How many channels each stage gives.
    heads : mapping from task name to torch.nn.Module
        From features to the task's outputs.
    embedding : int
        The length of an embedding.
    axis : int
        That of the channels: 1 for rows and images, -1 for sequences of shape (N, L, F).

    Raises
    ------
    ValueError
        There is no head or no stage, not one width a stage, an embedding without a number. When
        called: a stage gives another width than was said.

    Notes
    -----
    After the first stage the trunk runs once for each task. Stages and matrices are the shared
    parameters. Each task has features of its own: the Gramian of the features
    (``gramian="features"``) is diagonal by construction, and says nothing of conflicts; use the exact
    one.

    Examples
    --------
    >>> from mtl_tutorial.pytorch import linear_heads, mlp
    >>> from mtl_tutorial.tasks import Binary, Classification
    >>> tasks = [Classification("digit", classes=10), Binary("gt5")]
    >>> stages, heads = [mlp(784, 32), mlp(32, 16)], linear_heads(tasks, features=16)
    >>> model = Modulated(stages, [32, 16], heads, embedding=2)
    >>> features = model.encode(torch.ones(3, 28, 28))
    >>> torch.equal(features["digit"], features["gt5"])  # to begin with
    True
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        widths: Sequence[int],
        heads: Mapping[str, nn.Module],
        embedding: int = 8,
        axis: int = 1,
    ) -> None:
        super().__init__()
        if not stages or len(widths) != len(stages):
            raise ValueError(
                f"each stage needs its width; got {len(widths)} widths for {len(stages)} stages"
            )
        if embedding < 1:
            raise ValueError(f"an embedding has at least one number; got {embedding}")
        self.stages, self.heads, self.axis = nn.ModuleList(stages), checked(heads), axis
        self.embeddings = nn.ParameterDict()  # of a dict it would sort the names
        for name in heads:
            self.embeddings[name] = nn.Parameter(torch.randn(embedding))
        self.modulations = nn.ModuleList()
        for width in widths:
            linear = nn.Linear(embedding, 2 * width, bias=False)
            self.modulations.append(linear)
            nn.init.zeros_(linear.weight)

    def encode(self, inputs: Any) -> dict[str, Tensor]:
        """Give the features of each task, by its name."""
        first, *others = self.stages
        features = dict.fromkeys(self.heads, first(inputs))
        for name, embedding in self.embeddings.items():
            features[name] = self._modulated(0, features[name], embedding)
            for number, stage in enumerate(others, 1):
                features[name] = self._modulated(number, stage(features[name]), embedding)
        return features

    def _modulated(self, number: int, z: Tensor, embedding: Tensor) -> Tensor:
        """Scale and shift what a stage gives, for one task."""
        scale, shift = self.modulations[number](embedding).chunk(2)
        if z.shape[self.axis] != len(scale):
            raise ValueError(
                f"stage {number + 1} gives {z.shape[self.axis]} channels, but widths says {len(scale)}"
            )
        return (1 + along(scale, self.axis, z.dim())) * z + along(shift, self.axis, z.dim())

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """Give the parameters of the stages, and the matrices."""
        return chain(self.stages.parameters(), self.modulations.parameters())
