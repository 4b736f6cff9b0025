"""Multi-gate mixture of experts: shared experts, and for each task a gate that mixes them."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from torch import Tensor, nn

from mtl_tutorial.pytorch.models._parts import Architecture, Builder, checked, gated, made, stacked


class MMoE(Architecture):
    r"""Experts that all tasks share, mixed for each task by a gate of its own (Ma et al., 2018).

    .. math:: z_k = \sum_{e=1}^{E} \pi_{k,e}(x)\, f_e(x), \qquad
       \pi_k(x) = \mathrm{softmax}(g_k(x))

    with the experts :math:`f_e` and the gates :math:`g_k`, one a task.

    Parameters
    ----------
    expert : callable without arguments to torch.nn.Module
        Builds an expert, from inputs to features.
    gate : callable from a number of experts to torch.nn.Module
        Builds a gate, from inputs to one number for each expert, shape (N, E); called once for each
        head. For inputs of 8 numbers: ``functools.partial(nn.Linear, 8)``.
    heads : mapping from task name to torch.nn.Module
        From features to the task's outputs.
    experts : int
        How many, :math:`E`.
    bottom : torch.nn.Module, optional
        Shared layers below experts and gates: embeddings, for example.

    Raises
    ------
    TypeError, ValueError
        There is no head, no expert, or only one, which a gate could but give the weight 1; a builder
        builds no new layers. When called: two experts give different shapes, or a gate gives other
        than one number for each row and expert.

    Notes
    -----
    The shared parameters are those of the bottom and the experts; a gate belongs to its task. Each
    task has features of its own: the Gramian of the features (``gramian="features"``) is diagonal by
    construction, and says nothing of conflicts; use the exact one.

    Examples
    --------
    >>> import torch
    >>> from functools import partial
    >>> from mtl_tutorial.pytorch import linear_heads, mlp
    >>> from mtl_tutorial.tasks import Regression
    >>> heads = linear_heads([Regression("y1"), Regression("y2")], features=16)
    >>> model = MMoE(lambda: mlp(100, 16), partial(nn.Linear, 100), heads, experts=8)
    >>> {name: tuple(pi.shape) for name, pi in model.gate_weights(torch.zeros(3, 100)).items()}
    {'y1': (3, 8), 'y2': (3, 8)}
    """

    def __init__(
        self,
        expert: Builder,
        gate: Builder,
        heads: Mapping[str, nn.Module],
        experts: int = 4,
        *,
        bottom: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if experts < 2:
            raise ValueError(
                f"a mixture needs two experts or more; got {experts}. One expert is HardSharing"
            )
        self.bottom, self.heads = bottom or nn.Identity(), checked(heads)
        self.experts = nn.ModuleList(made("expert", expert, experts))
        gates = made("gate", gate, len(heads), experts)
        self.gates = nn.ModuleDict(dict(zip(heads, gates, strict=True)))

    def _mixtures(self, inputs: Any) -> dict[str, tuple[Tensor, Tensor]]:
        """Give the weights of the experts, and their mixture, by task."""
        z = self.bottom(inputs)
        outputs = {f"expert {number}": expert(z) for number, expert in enumerate(self.experts, 1)}
        together = stacked(outputs, dim=1)
        return {name: gated(repr(name), gate(z), together) for name, gate in self.gates.items()}

    def gate_weights(self, inputs: Any) -> dict[str, Tensor]:
        """Give how much each expert counts for each task, shape (N, E), by task name."""
        return {name: weights for name, (weights, _) in self._mixtures(inputs).items()}

    def encode(self, inputs: Any) -> dict[str, Tensor]:
        """Give the features of each task, its mixture of experts, by its name."""
        return {name: mixture for name, (_, mixture) in self._mixtures(inputs).items()}

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """Give the parameters of the bottom and of all experts."""
        return chain(self.bottom.parameters(), self.experts.parameters())
