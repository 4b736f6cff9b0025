"""Progressive layered extraction: shared experts and experts of each task, level by level."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mtl_tutorial.pytorch.models._parts import Architecture, Builder, checked, gated, made, stacked


class PLE(Architecture):
    r"""Levels of experts, each task's own and shared ones, mixed by gates (Tang et al., 2020).

    .. math:: z_k^{(l)} = \sum_{e \in \mathcal E_k \cup \mathcal E_0} \pi^{(l)}_{k,e}\, f^{(l)}_e,
       \qquad z_0^{(l)} = \sum_{e \in \mathcal E_0 \cup \mathcal E_1 \cup \dots \cup \mathcal E_T}
       \pi^{(l)}_{0,e}\, f^{(l)}_e

    with :math:`\pi_k = \mathrm{softmax}(g_k(z_k^{(l-1)}))`: the experts :math:`\mathcal E_k` of task
    :math:`k` and its gate read its own stream :math:`z_k^{(l-1)}`, the shared experts
    :math:`\mathcal E_0` and their gate the shared stream :math:`z_0^{(l-1)}`, which the last level no
    longer needs. At the first level all streams are the inputs. One level alone is called CGC,
    customized gate control.

    Parameters
    ----------
    experts : sequence of callables without arguments to torch.nn.Module
        For each level, builds one of its experts.
    gates : sequence of callables from a number of experts to torch.nn.Module
        For each level, builds one of its gates, from what the level reads to one number for each
        expert, shape (N, E), such as ``functools.partial(nn.Linear, 8)``.
    heads : mapping from task name to torch.nn.Module
        From features to the task's outputs.
    own, shared : int
        How many experts each task has, and how many are shared, at each level.
    bottom : torch.nn.Module, optional
        Shared layers below experts and gates: embeddings, for example.

    Raises
    ------
    TypeError, ValueError
        There is no head or no level, or not one gate a level; ``own`` or ``shared`` is below 1; a
        builder builds no new layers. When called: two experts give different shapes, or a gate gives
        other than one number for each row and expert.

    Notes
    -----
    Shared is what more than one task reads: the bottom, the shared experts, and below the last level
    each task's own ones, too, which the shared stream takes up. Each task has features of its own:
    the Gramian of the features (``gramian="features"``) is diagonal by construction, and says
    nothing of conflicts; use the exact one.

    Examples
    --------
    >>> import torch
    >>> from functools import partial
    >>> from mtl_tutorial.pytorch import linear_heads, mlp
    >>> from mtl_tutorial.tasks import Regression
    >>> heads = linear_heads([Regression("y1"), Regression("y2")], features=8)
    >>> experts = [lambda: mlp(100, 16), lambda: mlp(16, 8)]
    >>> model = PLE(experts, [partial(nn.Linear, 100), partial(nn.Linear, 16)], heads, shared=2)
    >>> [{name: tuple(pi.shape) for name, pi in level.items()}
    ...  for level in model.gate_weights(torch.zeros(3, 100))]
    [{'y1': (3, 3), 'y2': (3, 3)}, {'y1': (3, 3), 'y2': (3, 3)}]
    """

    def __init__(
        self,
        experts: Sequence[Builder],
        gates: Sequence[Builder],
        heads: Mapping[str, nn.Module],
        *,
        own: int = 1,
        shared: int = 1,
        bottom: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not experts or len(gates) != len(experts):
            raise ValueError(
                f"PLE needs one gate a level; got {len(gates)} for {len(experts)} levels of experts"
            )
        if own < 1 or shared < 1:
            raise ValueError(f"own and shared are at least 1 expert each; got {own} and {shared}")
        self.bottom, self.heads = bottom or nn.Identity(), checked(heads)
        self.levels: Any = nn.ModuleList()  # torch's types do not see what lists hold
        for number, (expert, gate) in enumerate(zip(experts, gates, strict=True), 1):
            every = iter(made("expert", expert, len(heads) * own + shared))
            parts = {name: nn.ModuleList(next(every) for _ in range(own)) for name in heads}
            own_gates = made("gate", gate, len(heads), own + shared)
            level = {
                "own": nn.ModuleDict(parts),
                "shared": nn.ModuleList(every),
                "gates": nn.ModuleDict(dict(zip(heads, own_gates, strict=True))),
            }
            if number < len(experts):
                level["shared_gate"] = made("gate", gate, 1, len(heads) * own + shared)[0]
            self.levels.append(nn.ModuleDict(level))

    def _run(self, inputs: Any) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """Give the streams at the end, and the weights of the experts at each level, by task."""
        common = self.bottom(inputs)
        streams, weights = dict.fromkeys(self.heads, common), []
        for level in self.levels:
            joint = {f"shared expert {i}": e(common) for i, e in enumerate(level["shared"], 1)}
            own = {
                name: {f"expert {i} of {name!r}": e(streams[name]) for i, e in enumerate(each, 1)}
                for name, each in level["own"].items()
            }
            mixed = {
                name: gated(repr(name), gate(streams[name]), stacked(own[name] | joint, dim=1))
                for name, gate in level["gates"].items()
            }
            if "shared_gate" in level:
                every = {key: value for each in own.values() for key, value in each.items()} | joint
                together = stacked(every, dim=1)
                common = gated("the shared stream", level["shared_gate"](common), together)[1]
            streams = {name: mixture for name, (_, mixture) in mixed.items()}
            weights.append({name: own_weights for name, (own_weights, _) in mixed.items()})
        return streams, weights

    def gate_weights(self, inputs: Any) -> list[dict[str, Tensor]]:
        """Give how much each expert counts at each level, its own first, (N, own + shared), by task."""
        return self._run(inputs)[1]

    def encode(self, inputs: Any) -> dict[str, Tensor]:
        """Give the features of each task, by its name."""
        return self._run(inputs)[0]

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """Give what more than one task reads; see the notes."""
        yield from self.bottom.parameters()
        for above, level in zip(reversed(range(len(self.levels))), self.levels, strict=True):
            yield from level["shared"].parameters()
            if above > 0:
                yield from level["own"].parameters()
                yield from level["shared_gate"].parameters()
            if above > 1:
                yield from level["gates"].parameters()
