"""Multi-task attention: one trunk, of which each task's masks let through what it needs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mtl_tutorial.pytorch.models._parts import Architecture, Builder, checked, for_each, joined


class MTAN(Architecture):
    r"""One trunk, and for each task a mask on what each of its stages gives (Liu et al., 2019).

    .. math:: p_l = f_l(p_{l-1}), \qquad
       a_{k,l} = \sigma\bigl(h_{k,l}([\,p_l,\; c_{k,l-1}(\hat a_{k,l-1})\,])\bigr), \qquad
       \hat a_{k,l} = a_{k,l} \odot p_l

    with the shared stages :math:`f_l`, each task's masks :math:`h_{k,l}`, and what carries its
    masked features :math:`\hat a` on to the next stage, :math:`c_{k,l}`. Square brackets join
    channels; the first mask reads :math:`p_1` alone. Task :math:`k` reads :math:`\hat a_{k,L}`. (In
    the article a mask reads the middle of a block and acts on its end; here a stage is one module,
    and its end is both.)

    Parameters
    ----------
    stages : sequence of torch.nn.Module
        The trunk, from inputs to features, stage by stage.
    masks : sequence of callables without arguments to torch.nn.Module
        For each stage, builds the layers :math:`h` from the joined channels to one number for each
        of the stage's features; their sigmoid is the mask. Called once for each head.
    carries : sequence of callables without arguments to torch.nn.Module
        For each stage but the last, builds the layers :math:`c` from its features to something of
        the next one's places. Called once for each head.
    heads : mapping from task name to torch.nn.Module
        From features to the task's outputs.
    axis : int
        That of the channels: 1 for rows and images, -1 for sequences of shape (N, L, F).

    Raises
    ------
    TypeError, ValueError
        There is no head or no stage, not one mask a stage or not one carry less; a builder builds no
        new layers. When called: a mask has another shape than what it masks.

    Notes
    -----
    The shared parameters are those of the stages; masks and carries belong to one task each. Each
    task has features of its own: the Gramian of the features (``gramian="features"``) is diagonal by
    construction, and says nothing of conflicts; use the exact one.

    Examples
    --------
    >>> import torch
    >>> from mtl_tutorial.pytorch import linear_heads, mlp
    >>> from mtl_tutorial.tasks import Binary, Classification
    >>> tasks = [Classification("digit", classes=10), Binary("gt5")]
    >>> masks = [lambda: nn.Linear(32, 32), lambda: nn.Linear(16 + 16, 16)]
    >>> stages, carries = [mlp(784, 32), mlp(32, 16)], [lambda: mlp(32, 16)]
    >>> model = MTAN(stages, masks, carries, linear_heads(tasks, features=16))
    >>> {name: tuple(z.shape) for name, z in model.encode(torch.zeros(3, 28, 28)).items()}
    {'digit': (3, 16), 'gt5': (3, 16)}
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        masks: Sequence[Builder],
        carries: Sequence[Builder],
        heads: Mapping[str, nn.Module],
        axis: int = 1,
    ) -> None:
        super().__init__()
        if not stages or len(masks) != len(stages) or len(carries) != len(stages) - 1:
            raise ValueError(
                "MTAN needs a mask for each stage, and a carry for each but the last; got "
                f"{len(stages)} stages, {len(masks)} masks, {len(carries)} carries"
            )
        self.stages, self.heads, self.axis = nn.ModuleList(stages), checked(heads), axis
        self.masks = for_each("one of the masks", masks, heads)
        self.carries = for_each("one of the carries", carries, heads)

    def encode(self, inputs: Any) -> dict[str, Tensor]:
        """Give the features of each task, by its name."""
        shared, seen = inputs, dict[str, Tensor]()
        for number, stage in enumerate(self.stages):
            shared = stage(shared)
            for name in self.heads:
                known = shared
                if number:
                    before = self.carries[name][number - 1](seen[name])
                    both = {f"stage {number + 1}": shared, f"carry {number} of {name!r}": before}
                    known = joined(both, self.axis)
                mask = self.masks[name][number](known)
                if mask.shape != shared.shape:
                    raise ValueError(
                        f"mask {number + 1} of {name!r} has the shape {tuple(mask.shape)}, but stage "
                        f"{number + 1} gives {tuple(shared.shape)}"
                    )
                seen[name] = mask.sigmoid() * shared
        return seen

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """Give the parameters of the trunk."""
        return self.stages.parameters()
