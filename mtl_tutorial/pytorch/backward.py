"""One training step's gradients: losses in, weights asked for, ``.grad`` filled."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from mtl_tutorial.pytorch._graph import head_graph
from mtl_tutorial.pytorch._rows import Rows, task_gradients
from mtl_tutorial.weighting import Weighting


def mtl_backward(
    losses: Mapping[str, Tensor | None],
    features: Tensor | Sequence[Tensor],
    weighting: Weighting | Callable[[Tensor], Tensor],
    shared_parameters: Iterable[nn.Parameter] = (),
    gramian: Literal["parameters", "features"] = "parameters",
    *,
    extra_loss: Tensor | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> np.ndarray:
    r"""Ask the weighting how much each task counts, and accumulate the gradients into ``.grad``.

    A loss-based weighting means one backward pass of :math:`\sum_k w_k L_k`, heads included.

    A Gramian-based weighting acts on the trunk only; each head gets the gradient of its own loss,
    unweighted (a method that declares ``weights_heads``, such as GradNorm, reads the Gramian, but
    weights the losses). The graph is cut at the features :math:`z`, so each head is traversed once,
    all in one call, which gives the heads' gradients and every :math:`\partial L_k / \partial z`.
    Then

    - ``gramian="parameters"``, exact: one vector-Jacobian product through the trunk for each task,
      :math:`g_k = (\partial L_k / \partial z)\,(\partial z / \partial \theta)`, the Gramian of the
      rows :math:`g_k`, the weights, and :math:`\sum_k w_k g_k` added to ``.grad``;
    - ``gramian="features"``, an approximation: the Gramian of the rows
      :math:`\partial L_k / \partial z`, the weights, and one pass of
      :math:`\sum_k w_k\,\partial L_k / \partial z` through the trunk.

    The graph is freed, as by ``Tensor.backward``. Several calls accumulate (micro-batches); each
    asks for weights of its own.

    Parameters
    ----------
    losses : mapping from task name to scalar tensor or None
        In the order of the weighting's tasks. None marks an absent task: it has no label in this
        batch, so it gets weight 0 and its head no gradient.
    features : torch.Tensor or sequence of torch.Tensor
        The trunk's output, or outputs, which the heads have read. None of several may be computed
        from another one.
    weighting : Weighting, or callable from a Jacobian to a vector
        Gives the weights; see :mod:`mtl_tutorial.weighting`. Or takes the rows :math:`g_k` of the
        present tasks (those of the features for ``gramian="features"``), a tensor of shape (T, P),
        and gives the vector to go down in their place, shape (P,), as TorchJD's aggregators do.
    shared_parameters : iterable of torch.nn.Parameter
        The trunk's parameters, for ``gramian="parameters"``. Frozen ones are left alone.
    gramian : {"parameters", "features"}
        Which Gramian a Gramian-based weighting is given; a loss-based one is given none.
    extra_loss : torch.Tensor, optional
        A scalar that goes through unweighted: a penalty, an adversary.
    scaler : torch.amp.GradScaler, optional
        For mixed precision: ``.grad`` is scaled, for ``scaler.step(optimizer)``; the weighting sees
        losses and Gramian without the scale. Where the scaled gradients overflow, it is not asked,
        and the infinite ``.grad`` makes the scaler skip the step.

    Returns
    -------
    numpy.ndarray, shape (T,)
        The weights of this step: 0 for an absent task, NaN for all others where no weights were
        asked for: after an overflow, and where a callable has given the vector.

    Raises
    ------
    ValueError
        A loss is not a scalar, or, where the weighting reads it, is NaN or infinite; where the
        weighting needs the Gramian, a loss does not depend on the features, nothing shared needs
        a gradient, or feature tensors depend on each other. The message names the task, and every
        ``.grad`` is left as it was.

    Notes
    -----
    Trunk and heads may be compiled by ``torch.compile``; what a compiled trunk hides is the linear
    layers whose rows need not be formed, so it gains less here than elsewhere. Under
    ``torch.distributed`` nothing is averaged between processes.

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
    names = list(losses)
    here = {name: loss for name, loss in losses.items() if loss is not None}
    present = np.array([name in here for name in names], dtype=bool)
    _check(gramian, here if extra_loss is None else {**here, "extra_loss": extra_loss})
    goals, extra = list(here.values()), [] if extra_loss is None else [extra_loss]
    if scaler is not None:
        goals, extra = scaler.scale(goals), scaler.scale(extra)
    values = np.zeros(len(names))
    if here and isinstance(weighting, Weighting) and weighting.needs_losses:
        values[present] = torch.stack([loss.detach() for loss in here.values()]).cpu().numpy()

    if not here:
        _weighted_backward([], [], extra)
        return values
    if isinstance(weighting, Weighting) and not weighting.needs_gramian:
        weights = weighting(values, None, present, names)
        _weighted_backward(weights[present].tolist(), goals, extra)
        return weights

    sources, shared = _shared(features, shared_parameters, gramian)
    again = bool(extra) or getattr(weighting, "weights_heads", False)  # one more pass follows
    cotangents, head_gradients = _cut(dict(zip(here, goals, strict=True)), sources, again)
    if gramian == "features":
        rows = [Rows(torch.stack(column)) for column in zip(*cotangents, strict=True)]
    else:
        rows = task_gradients(sources, shared, cotangents, again)
    scale = 1.0 if scaler is None else scaler.get_scale()
    weights = np.where(present, np.nan, 0)  # unless they are asked for
    if isinstance(weighting, Weighting):
        found = _gramian(rows) / scale**2
        if scaler is None or np.isfinite(found).all():
            products = np.zeros((len(names), len(names)), found.dtype)
            products[np.ix_(present, present)] = found
            weights = weighting(values, products, present, names)
        if weighting.weights_heads:
            _weighted_backward(weights[present].tolist(), goals, extra)
            return weights
        w = torch.from_numpy(weights[present]).to(goals[0].device)
        combined = [row.combined(w) for row in rows]
    else:
        combined = _aggregated(weighting, rows, scale, list(here))

    if gramian == "features":
        torch.autograd.backward([*sources, *extra], [*combined, *(None for _ in extra)])
    else:
        _accumulate(shared, combined)
        _weighted_backward([], [], extra)
    _accumulate(head_gradients.keys(), head_gradients.values())
    return weights


def _shared(
    features: Tensor | Sequence[Tensor], parameters: Iterable[nn.Parameter], gramian: str
) -> tuple[list[Tensor], list[nn.Parameter]]:
    """Feature tensors and shared parameters that need a gradient; it is an error if none does."""
    sources = [features] if isinstance(features, Tensor) else list(features)
    sources = [feature for feature in sources if feature.requires_grad]
    if not sources:
        raise ValueError("the trunk is frozen: no task gradients meet there, none can be weighted")
    shared = [parameter for parameter in parameters if parameter.requires_grad]
    if gramian == "parameters" and not shared:
        raise ValueError("gramian='parameters' needs shared_parameters that require a gradient")
    return sources, shared


def _gramian(rows: Sequence[Rows]) -> np.ndarray:
    """Inner products of all pairs of task gradients, in one transfer from the device."""
    return torch.stack([row.gramian() for row in rows]).sum(dim=0).cpu().numpy()


def _check(gramian: str, losses: Mapping[str, Tensor]) -> None:
    """Say which argument is not what it must be."""
    if gramian not in ("parameters", "features"):
        raise ValueError(f"gramian is 'parameters' or 'features'; got {gramian!r}")
    for name, loss in losses.items():
        if loss.dim() != 0:
            raise ValueError(f"the loss of {name!r} has shape {tuple(loss.shape)}, not a scalar's")


def _weighted_backward(
    weights: Sequence[float], losses: Sequence[Tensor], extra: Sequence[Tensor]
) -> None:
    """Run one backward pass of the weighted sum and what comes unweighted, heads included."""
    pairs = zip(weights, losses, strict=True)
    # without the product where w = 1: two kernels less a task
    goals = [*(loss if w == 1 else w * loss for w, loss in pairs), *extra]
    if goals:
        torch.autograd.backward(goals)


def _cut(
    losses: Mapping[str, Tensor], features: Sequence[Tensor], retain_graph: bool
) -> tuple[list[list[Tensor]], dict[Tensor, Tensor]]:
    """Go back from the losses to the features: each dL_k/dz, and the heads' gradients, summed.

    One call for all tasks: hooks keep what each head passes to the features, where autograd would
    only give the sum. Where the heads have more in common than parameters, one call a task.
    """
    graph = head_graph(losses.values(), features)
    for name, reads in zip(losses, graph.reads, strict=True):
        if not reads:
            raise ValueError(f"the loss of {name!r} does not depend on the features")
    kept: list[list[Tensor | None]] = [[None] * len(features) for _ in losses]
    sums: dict[Tensor, Tensor] = {}

    def gradients(goals: Sequence[Tensor], retain: bool) -> Sequence[Tensor | None]:
        found: Sequence[Tensor | None] = torch.autograd.grad(
            goals, [*features, *graph.parameters], retain_graph=retain, allow_unused=True
        )
        for parameter, gradient in zip(graph.parameters, found[len(features) :], strict=True):
            if gradient is not None:
                before = sums.get(parameter)  # a copy: autograd may give two parameters one tensor
                sums[parameter] = gradient.clone() if before is None else before + gradient
        return found

    if graph.overlap:
        for own, loss in zip(kept, losses.values(), strict=True):
            own[:] = gradients([loss], True)[: len(features)]
    else:
        hooks = [
            node.register_hook(partial(_keep, own, number, place))
            for own, reads in zip(kept, graph.reads, strict=True)
            for node, place, number in reads
        ]
        try:
            gradients(list(losses.values()), retain_graph)
        finally:
            for hook in hooks:
                hook.remove()
    cotangents = [
        [torch.zeros_like(z) if g is None else g for g, z in zip(own, features, strict=True)]
        for own in kept
    ]
    return cotangents, sums


def _keep(
    own: list[Tensor | None],
    number: int,
    place: int,
    passed: Sequence[Tensor | None],
    _: Sequence[Tensor | None],
) -> None:
    """Add what a node passes on at a place to the cotangent of a feature."""
    gradient, before = passed[place], own[number]
    if gradient is not None:
        own[number] = gradient if before is None else before + gradient


def _aggregated(
    aggregator: Callable[[Tensor], Tensor], rows: Sequence[Rows], scale: float, names: Sequence[str]
) -> list[Tensor]:
    """Let an aggregator make one vector of the Jacobian, and cut it into the tensors' shapes."""
    parts = [row.formed() for row in rows]
    jacobian = torch.cat(parts, dim=1) / scale
    for name, finite in zip(names, jacobian.isfinite().all(dim=1).tolist(), strict=True):
        if not finite and scale == 1:
            raise ValueError(f"the gradient of task {name!r} holds a NaN or an infinity")
    vector = aggregator(jacobian)
    if vector.shape != jacobian.shape[1:]:
        raise ValueError(
            f"from a Jacobian of shape {tuple(jacobian.shape)} the weighting made a tensor of shape "
            f"{tuple(vector.shape)}, not a vector with one entry a column; if it gives weights, "
            "write it as a Weighting"
        )
    pieces = (vector * scale).split([part.shape[1] for part in parts])
    return [
        piece.reshape(row.shape).to(row.values.dtype)
        for piece, row in zip(pieces, rows, strict=True)
    ]


def _accumulate(parameters: Iterable[Tensor], gradients: Iterable[Tensor]) -> None:
    """Add to ``.grad``, as ``Tensor.backward`` does."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad += gradient
