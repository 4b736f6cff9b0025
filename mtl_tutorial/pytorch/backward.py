"""One training step's gradients: losses in, weights asked for, ``.grad`` filled."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from mtl_tutorial.weighting import Weighting


def mtl_backward(
    losses: Mapping[str, Tensor | None],
    features: Tensor,
    weighting: Weighting,
    shared_parameters: Iterable[nn.Parameter] = (),
    gramian: Literal["parameters", "features"] = "parameters",
) -> np.ndarray:
    r"""Ask the weighting how much each task counts, and accumulate the gradients into ``.grad``.

    A loss-based weighting means one backward pass of :math:`\sum_k w_k L_k`, heads included.

    A Gramian-based weighting acts on the trunk only; each head gets the gradient of its own loss,
    unweighted (a method that declares ``weights_heads``, such as GradNorm, reads the Gramian, but
    weights the losses). The graph is cut at the features :math:`z`, so each head is traversed once, which
    gives the head's gradient and :math:`\partial L_k / \partial z` together. Then

    - ``gramian="parameters"``, exact: one vector-Jacobian product through the trunk for each task,
      :math:`g_k = (\partial L_k / \partial z)\,(\partial z / \partial \theta)`, the Gramian of the
      rows :math:`g_k`, the weights, and :math:`\sum_k w_k g_k` added to ``.grad``;
    - ``gramian="features"``, an approximation: the Gramian of the rows
      :math:`\partial L_k / \partial z`, the weights, and one pass of
      :math:`\sum_k w_k\,\partial L_k / \partial z` through the trunk.

    Parameters
    ----------
    losses : mapping from task name to scalar tensor or None
        In the order of the weighting's tasks. None marks an absent task: it has no label in this
        batch, so it gets weight 0 and its head no gradient.
    features : torch.Tensor
        The trunk's output, which the heads have read.
    weighting : Weighting
        Gives the weights; see :mod:`mtl_tutorial.weighting`.
    shared_parameters : iterable of torch.nn.Parameter
        The trunk's parameters, for ``gramian="parameters"``. Frozen ones are left alone.
    gramian : {"parameters", "features"}
        Which Gramian a Gramian-based weighting is given; a loss-based one is given none.

    Returns
    -------
    numpy.ndarray, shape (T,)
        The weights of this step.

    Raises
    ------
    ValueError
        A loss is not a scalar, or, where the weighting reads it, is NaN or infinite; where the
        weighting needs the Gramian, a loss does not depend on the features, or nothing shared needs
        a gradient. The message names the task, and every ``.grad`` is left as it was.

    Examples
    --------
    >>> from mtl_tutorial.weighting import Static
    >>> trunk, a, b = nn.Linear(3, 2), nn.Linear(2, 1), nn.Linear(2, 1)
    >>> features = trunk(torch.ones(4, 3))
    >>> losses = {"a": a(features).square().mean(), "b": b(features).square().mean()}
    >>> mtl_backward(losses, features, Static([0.6, 0.4]))
    array([0.6, 0.4])
    >>> trunk.weight.grad.shape
    torch.Size([2, 3])
    """
    if gramian not in ("parameters", "features"):
        raise ValueError(f"gramian is 'parameters' or 'features'; got {gramian!r}")
    names = list(losses)
    present = np.array([losses[name] is not None for name in names], dtype=bool)
    here = {name: loss for name, loss in losses.items() if loss is not None}
    for name, loss in here.items():
        if loss.dim() != 0:
            raise ValueError(f"the loss of {name!r} has shape {tuple(loss.shape)}, not a scalar's")
    values = np.zeros(len(names))
    if weighting.needs_losses and here:
        values[present] = torch.stack([loss.detach() for loss in here.values()]).cpu().numpy()

    if not weighting.needs_gramian:
        weights = weighting(values, present=present, names=names)
        _weighted_backward(weights[present], here.values())
        return weights

    if not features.requires_grad:
        raise ValueError("the trunk is frozen: no task gradients meet there, none can be weighted")
    shared = [parameter for parameter in shared_parameters if parameter.requires_grad]
    if gramian == "parameters" and not shared:
        raise ValueError("gramian='parameters' needs shared_parameters that require a gradient")
    cotangents, head_gradients = _cut(here, features)
    if gramian == "features":
        rows = [[cotangent] for cotangent in cotangents]
    else:
        rows = [_vector_jacobian(features, shared, cotangent) for cotangent in cotangents]
    found = _gramian(rows)
    products = np.zeros((len(names), len(names)), found.dtype)
    products[np.ix_(present, present)] = found
    weights = weighting(values, products, present=present, names=names)
    if weighting.weights_heads:
        _weighted_backward(weights[present], here.values())
        return weights

    combined = [
        sum(w * block for w, block in zip(weights[present].tolist(), blocks, strict=True))
        for blocks in zip(*rows, strict=True)
    ]
    if gramian == "features" and combined:
        torch.autograd.backward([features], combined[:1])
    elif combined:
        _accumulate(shared, combined)
    _accumulate(head_gradients.keys(), head_gradients.values())
    return weights


def _weighted_backward(weights: np.ndarray, losses: Iterable[Tensor]) -> None:
    """Run one backward pass of the weighted sum, heads included."""
    pairs = list(zip(weights.tolist(), losses, strict=True))
    if pairs:  # without the product where w = 1: two kernels less a task
        torch.autograd.backward([loss if w == 1 else w * loss for w, loss in pairs])


def _cut(
    losses: Mapping[str, Tensor], features: Tensor
) -> tuple[list[Tensor], dict[nn.Parameter, Tensor]]:
    """Backward from each loss to the features: dL_k/dz, and the heads' own gradients, summed."""
    cotangents: list[Tensor] = []
    sums: dict[nn.Parameter, Tensor] = {}
    parameters = _parameters_behind(losses.values(), features)
    for name, loss in losses.items():
        gradients: Sequence[Tensor | None] = torch.autograd.grad(
            loss, [features, *parameters], retain_graph=True, allow_unused=True
        )
        if gradients[0] is None:
            raise ValueError(f"the loss of {name!r} does not depend on the features")
        cotangents.append(gradients[0])
        for parameter, gradient in zip(parameters, gradients[1:], strict=True):
            if gradient is not None:
                before = sums.get(parameter)  # a copy: autograd may give two parameters one tensor
                sums[parameter] = gradient.clone() if before is None else before + gradient
    return cotangents, sums


def _parameters_behind(losses: Iterable[Tensor], features: Tensor) -> list[nn.Parameter]:
    """Find the leaves of the graph between the losses and the features: the heads' parameters."""
    seen = {features.grad_fn}
    todo = [loss.grad_fn for loss in losses]
    found = []
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        todo += [function for function, _ in node.next_functions]
    return found


def _vector_jacobian(output: Tensor, inputs: Sequence[Tensor], cotangent: Tensor) -> list[Tensor]:
    """Pull a cotangent back to the inputs; zeros for an input that plays no part."""
    found: Sequence[Tensor | None] = torch.autograd.grad(
        output, inputs, cotangent, retain_graph=True, allow_unused=True
    )
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def _gramian(rows: Sequence[Sequence[Tensor]]) -> np.ndarray:
    """Inner products of all pairs of rows, block by block, in one transfer from the device."""
    products = sum(
        stacked @ stacked.T
        for blocks in zip(*rows, strict=True)
        for stacked in [torch.stack([block.flatten() for block in blocks])]
    )
    return products.cpu().numpy() if isinstance(products, Tensor) else np.zeros((0, 0))


def _accumulate(parameters: Iterable[Tensor], gradients: Iterable[Tensor]) -> None:
    """Add to ``.grad``, as ``Tensor.backward`` does."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad += gradient
