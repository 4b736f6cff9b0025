"""Soft parameter sharing: a network for each task, all tied to each other by a penalty."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mtl_tutorial.pytorch.models._parts import Architecture, Builder, checked, made


class SoftSharing(Architecture):
    r"""A tower for each task, drawn towards the mean of all towers (Evgeniou & Pontil, 2004).

    .. math:: L = \sum_k L_k(\theta_k) + \frac{\lambda}{2} \sum_k \lVert \theta_k - \bar\theta
       \rVert^2, \qquad \bar\theta = \frac1T \sum_k \theta_k

    with :math:`\theta_k` the parameters of the tower of task :math:`k`. With :math:`\lambda = 0` the
    tasks are separate; as :math:`\lambda \to \infty` all towers become one, as in
    :class:`~mtl_tutorial.pytorch.HardSharing`. In deep networks Duong et al. (2015) tied two parsers
    so.

    Parameters
    ----------
    tower : callable without arguments to torch.nn.Module
        Builds a tower, from inputs to features; called once for each head.
    heads : mapping from task name to torch.nn.Module
        From features to the task's outputs.
    strength : float
        :math:`\lambda \ge 0`. Gradient descent of rate :math:`\eta` needs :math:`\eta\lambda < 2`;
        for what is stiffer, share the trunk.

    Raises
    ------
    TypeError, ValueError
        There is no head; ``tower`` builds no new layers, or others each time; ``strength`` is
        negative or not finite.

    Notes
    -----
    All towers start from the parameters of the first: two networks drawn apart hold alike features
    in another order, and the mean of the two is neither.

    No parameter is shared, so weightings that need a Gramian refuse the model. The penalty is
    ``extra_loss``, which no weighting weights. Running statistics of batch norm are not tied.

    Examples
    --------
    >>> from mtl_tutorial.pytorch import linear_heads, mlp
    >>> from mtl_tutorial.tasks import Binary, Classification
    >>> tasks = [Classification("digit", classes=10), Binary("gt5")]
    >>> model = SoftSharing(lambda: mlp(784, 32), linear_heads(tasks, features=32), strength=0.1)
    >>> list(model.encode(torch.zeros(3, 28, 28)))
    ['digit', 'gt5']
    >>> model.penalty()
    tensor(0., grad_fn=<MulBackward0>)
    """

    def __init__(self, tower: Builder, heads: Mapping[str, nn.Module], strength: float) -> None:
        super().__init__()
        if not 0 <= strength < float("inf"):
            raise ValueError(
                f"strength is a number from 0; got {strength}. For the limit use HardSharing"
            )
        self.heads = checked(heads)
        self.towers = nn.ModuleDict(dict(zip(heads, made("tower", tower, len(heads)), strict=True)))
        self.strength = strength
        first, *others = self.towers.values()
        for each in others:
            if [p.shape for p in each.parameters()] != [p.shape for p in first.parameters()]:
                raise ValueError("tower builds other layers at each call: they cannot be tied")
            each.load_state_dict(first.state_dict())

    def encode(self, inputs: Any) -> dict[str, Any]:
        """Give the features of each task, by its name."""
        return {name: tower(inputs) for name, tower in self.towers.items()}

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """Give nothing: no two tasks share a parameter."""
        return iter(())

    def penalty(self) -> Tensor:
        """Give the squared distances of the towers from their mean, times half the strength."""
        towers = zip(*(tower.parameters() for tower in self.towers.values()), strict=True)
        each = [torch.stack(own) for own in towers]
        apart = [(own - own.mean(dim=0)).square().sum() for own in each]
        return torch.stack(apart).sum() * (self.strength / 2)

    def extra_loss(self, features: Mapping[str, Any], targets: Mapping[str, Tensor]) -> Tensor:
        """Give the penalty, which goes through unweighted."""
        return self.penalty()
