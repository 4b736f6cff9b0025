"""One training step's gradients: losses in, weights asked for, ``.grad`` filled."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from mtl_tutorial.pytorch._graph import Cut, Read, cut, leaves
from mtl_tutorial.pytorch._rows import Rows, at_least_float32, stacked, task_gradients
from mtl_tutorial.weighting import Weighting


def mtl_backward(
    losses: Mapping[str, Tensor | None],
    features: Tensor | Sequence[Tensor] | None,
    weighting: Weighting | Callable[[Tensor], Tensor],
    shared_parameters: Iterable[nn.Parameter] = (),
    gramian: Literal["parameters", "features"] = "parameters",
    *,
    extra_loss: Tensor | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> np.ndarray:
    r"""Ask the weighting how much each task counts, and accumulate the gradients into ``.grad``.

    A loss-based weighting means one backward pass of :math:`\sum_k w_k L_k`, heads included.

    A Gramian-based weighting acts on the shared parameters only; every other parameter, of a head or
    not, gets the plain sum of the tasks' gradients (a method that declares ``weights_heads``, such
    as GradNorm, reads the Gramian, but weights the losses). The graph is cut at the features
    :math:`z`, so each head is traversed once, all in one call, which gives the heads' gradients and
    every :math:`\partial L_k / \partial z`. Then

    - ``gramian="parameters"``, exact: one vector-Jacobian product through the trunk for each task,
      :math:`g_k = (\partial L_k / \partial z)\,(\partial z / \partial \theta)`, the Gramian of the
      rows :math:`g_k`, the weights, and :math:`\sum_k w_k g_k` added to ``.grad``. What a head reads
      past the features (a gate on a lower layer, a skip connection, a tied weight) counts as well:
      with weights of 1 this is ``sum(losses).backward()``, whatever the graph;
    - ``gramian="features"``, an approximation: the Gramian of the rows
      :math:`\partial L_k / \partial z`, the weights, and one pass of
      :math:`\sum_k w_k\,\partial L_k / \partial z` through all that lies before the features. Heads
      that read past them are refused.

    The graph is freed, as by ``Tensor.backward``. Several calls accumulate (micro-batches); each
    asks for weights of its own.

    Parameters
    ----------
    losses : mapping from task name to scalar tensor or None
        In the order of the weighting's tasks. None marks an absent task: it has no label in this
        batch, so it gets weight 0 and its head no gradient;
        :func:`~mtl_tutorial.pytorch.batch_losses` gives them so.
    features : torch.Tensor, sequence of torch.Tensor, or None
        The trunk's output, or outputs, which the heads have read. Where one of several is computed
        from another (the stages of a U-Net), each stands for what heads read of it themselves. None,
        for ``gramian="parameters"``: no cut, T full backward passes through any graph at all.
    weighting : Weighting, or callable from a Jacobian to a vector
        Gives the weights; see :mod:`mtl_tutorial.weighting`. Or takes the rows :math:`g_k` of the
        present tasks (those of the features for ``gramian="features"``), a tensor of shape (T, P),
        and gives the vector to go down in their place, shape (P,), as TorchJD's aggregators do.
    shared_parameters : iterable of torch.nn.Parameter
        What the weights act on, for ``gramian="parameters"``: as a rule the trunk's parameters, or a
        layer that heads have in common. Frozen ones are left alone.
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
    TypeError
        Losses are no dict of tensors, the weighting is a class, features are a dict.
    ValueError
        A loss is a constant or no scalar, or, where the weighting reads it, is NaN or infinite;
        where the weighting needs the Gramian, a loss does not depend on the features, or nothing
        shared needs a gradient; at the features, a head reads past them. The message names the task.
    RuntimeError
        The weighting reads losses or gradients, and ``torch.distributed`` runs several processes:
        nothing is averaged between them yet, and they would drift apart.

    Notes
    -----
    Whatever of these is raised, every ``.grad`` is left as it was.

    A method with a memory wants more of a loop: ``weighting.observe`` (:class:`FAMO
    <mtl_tutorial.weighting.FAMO>`, the losses of the same batch after the step) and
    ``weighting.end_epoch`` (:class:`DWA <mtl_tutorial.weighting.DWA>`, after each epoch).

    Hooks of parameters, of both kinds, run as by ``Tensor.backward``: once, on the sum. Hooks on
    other tensors run in every pass that comes by, T or more where the Gramian is exact.

    Trunk and heads may be compiled by ``torch.compile``, best apart from each other: in a model
    compiled whole there is no trunk to be seen, so each task's pass takes the heads along. What
    a compiled trunk hides is the linear layers whose rows need not be formed.

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
    _check(losses, features, weighting, gramian, extra_loss)
    names = list(losses)
    here = {name: loss for name, loss in losses.items() if loss is not None}
    present = np.array([name in here for name in names], dtype=bool)
    goals, extra = list(here.values()), [] if extra_loss is None else [extra_loss]
    if scaler is not None:
        goals, extra = scaler.scale(goals), scaler.scale(extra)
    values = np.zeros(len(names))
    if here and isinstance(weighting, Weighting) and weighting.needs_losses:
        seen = torch.stack([at_least_float32(loss.detach()) for loss in here.values()])
        values[present] = seen.cpu().numpy()

    if not here:
        _weighted_backward([], [], extra)
        return values
    if isinstance(weighting, Weighting) and not weighting.needs_gramian:
        weights = weighting(values, None, present, names)
        _weighted_backward(weights[present].tolist(), goals, extra)
        return weights

    sources, shared = _shared(features, shared_parameters, gramian)
    graph = cut(goals, sources, shared)
    _check_reads(graph, list(here), sources, gramian)
    again = bool(extra) or getattr(weighting, "weights_heads", False)  # one more pass follows
    rows, gradients = _rows(goals, graph, sources, shared, again)
    if not rows:
        raise ValueError("no loss depends on any of the shared_parameters")

    scale = 1.0 if scaler is None else scaler.get_scale()
    weights = np.where(present, np.nan, 0)  # unless they are asked for
    if isinstance(weighting, Weighting):
        found = _gramian(rows.values()) / scale**2
        if scaler is None or np.isfinite(found).all():
            products = np.zeros((len(names), len(names)), found.dtype)
            products[np.ix_(present, present)] = found
            weights = weighting(values, products, present, names)
        if weighting.weights_heads:
            _weighted_backward(weights[present].tolist(), goals, extra)
            return weights
        w = torch.from_numpy(weights[present]).to(goals[0].device)
        combined = [row.combined(w) for row in rows.values()]
    else:
        combined = _aggregated(weighting, list(rows.values()), scale, list(here))

    ahead = dict(zip(rows, combined, strict=True))
    if gramian == "features":
        _accumulate(gradients, [*ahead.items(), *((loss, None) for loss in extra)])
    else:
        _accumulate(gradients | ahead, [(loss, None) for loss in extra])
    return weights


def _check(
    losses: object, features: object, weighting: object, gramian: object, extra_loss: object
) -> None:
    """Say which argument is not what it must be."""
    if not isinstance(losses, Mapping):
        raise TypeError(
            "losses is a dict from task name to loss, in the order of the weighting's tasks; "
            f"got a {type(losses).__name__}"
        )
    if isinstance(features, Mapping):
        raise TypeError(
            "features is a tensor, or a list of tensors; of a dict give list(features.values())"
        )
    if isinstance(weighting, type):
        name = weighting.__name__
        raise TypeError(f"weighting is the class {name}; give an instance of it: {name}(...)")
    if not callable(weighting):
        raise TypeError(
            "weighting is a Weighting, or a callable from a Jacobian to a vector; "
            f"got a {type(weighting).__name__}"
        )
    if gramian not in ("parameters", "features"):
        raise ValueError(f"gramian is 'parameters' or 'features'; got {gramian!r}")
    for name, loss in {**losses, "extra_loss": extra_loss}.items():
        if loss is None:
            continue
        if not isinstance(loss, Tensor):
            raise TypeError(f"the loss of {name!r} is a {type(loss).__name__}, not a tensor")
        if loss.dim() != 0:
            raise ValueError(f"the loss of {name!r} has shape {tuple(loss.shape)}, not a scalar's")
        if not loss.requires_grad:
            raise ValueError(
                f"the loss of {name!r} is a constant: it depends on nothing that is trained. "
                "Of a task without a label in this batch give None"
            )
    reads = (
        not isinstance(weighting, Weighting) or weighting.needs_losses or weighting.needs_gramian
    )
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if reads and distributed and torch.distributed.get_world_size() > 1:
        raise RuntimeError(
            f"{type(weighting).__name__} would see only the losses and gradients of this process, "
            "so each process would go its own way. With several processes use Equal, Static or RLW"
        )


def _shared(
    features: Tensor | Sequence[Tensor] | None,
    parameters: Iterable[nn.Parameter],
    gramian: str,
) -> tuple[list[Tensor], dict[Tensor, None]]:
    """Feature tensors and, as a set in order, shared parameters that need a gradient, each once."""
    given = [features] if isinstance(features, Tensor) else list(features or ())
    shared = list(parameters)
    for what, tensors in (("features", given), ("shared_parameters", shared)):
        for each in tensors:
            if not isinstance(each, Tensor):
                raise TypeError(f"{what} holds a {type(each).__name__}, not only tensors")
    for number, parameter in enumerate(shared):
        if not parameter.is_leaf:
            raise ValueError(
                f"shared parameter {number}, of shape {tuple(parameter.shape)}, is computed from "
                "others, not a parameter"
            )
    trained: dict[Tensor, None] = {each: None for each in shared if each.requires_grad}
    sources = [feature for feature in dict.fromkeys(given) if feature.requires_grad]
    if not given and (features is not None or gramian == "features"):
        raise ValueError("no features: give the trunk's output, or None for gramian='parameters'")
    if not sources and features is not None:
        raise ValueError("the trunk is frozen: no task gradients meet there, none can be weighted")
    if gramian == "parameters" and not trained:
        raise ValueError("gramian='parameters' needs shared_parameters that require a gradient")
    return sources, trained if gramian == "parameters" else {}


def _check_reads(
    graph: Cut, names: Sequence[str], features: Sequence[Tensor], gramian: str
) -> None:
    """Every task must read what is shared, through the features alone if theirs is the Gramian."""
    hidden = [node for node in graph.uses if node.name() == "CheckpointFunctionBackward"]
    if gramian == "parameters" and hidden:
        raise ValueError(
            "a checkpoint with use_reentrant=True hides its parameters from the exact Gramian; "
            "use checkpoint(..., use_reentrant=False)"
        )
    for name, reads in zip(names, graph.reads, strict=True):
        if not reads:
            what = "the features" if features else "any shared parameter"
            raise ValueError(f"the loss of {name!r} does not depend on {what}")
        past = max(read.edge for read in reads)
        if gramian == "features" and past >= len(features):
            node = graph.edges[past].node
            if hasattr(node, "variable"):
                what = f"a parameter of shape {tuple(node.variable.shape)}"
            else:
                what = f"the output of {node.name()}"
            raise ValueError(
                f"task {name!r} reaches past the features: it reads {what}, which lies before them. "
                "Name what it reads as a feature, too, or use gramian='parameters', which is exact"
            )


def _rows(
    losses: Sequence[Tensor],
    graph: Cut,
    features: Sequence[Tensor],
    shared: Mapping[Tensor, None],
    again: bool,
) -> tuple[dict[Tensor, Rows], dict[Tensor, Tensor]]:
    """Give the rows of each shared parameter, or feature if none is named; and all other gradients."""
    others = [leaf for leaf in leaves(graph) if leaf not in shared]
    with _hooks_at_rest([*graph.own, *shared, *others]):
        cotangents, gradients = _heads(losses, graph, again)
        if not shared:
            columns = [stacked(column) for column in zip(*cotangents, strict=True)]
            pairs = zip(features, columns, strict=True)
            return {z: Rows(column) for z, column in pairs if column is not None}, gradients
        rows = task_gradients(graph, [*shared, *others], cotangents, again)
        for leaf in others:  # before the features, but not shared: the plain sum, as in the heads
            if (row := rows.pop(leaf, None)) is not None:
                gradients[leaf] = row.combined(row.values.new_ones(len(losses)))
        return rows, gradients


@contextmanager
def _hooks_at_rest(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Keep the hooks of parameters from running on the gradients of single tasks."""
    registered = [p._backward_hooks for p in parameters if p._backward_hooks]
    hooks = [dict(own) for own in registered]
    for own in registered:
        own.clear()
    try:
        yield
    finally:
        for own, before in zip(registered, hooks, strict=True):
            own.update(before)


def _gramian(rows: Iterable[Rows]) -> np.ndarray:
    """Inner products of all pairs of task gradients, in one transfer from the device."""
    return torch.stack([row.gramian() for row in rows]).sum(dim=0).cpu().numpy()


def _weighted_backward(
    weights: Sequence[float], losses: Sequence[Tensor], extra: Sequence[Tensor]
) -> None:
    """Run one backward pass of the weighted sum and what comes unweighted, heads included."""
    pairs = zip(weights, losses, strict=True)
    # without the product where w = 1: two kernels less a task
    goals = [*(loss if w == 1 else w * loss for w, loss in pairs), *extra]
    if goals:
        torch.autograd.backward(goals)


def _heads(
    losses: Sequence[Tensor], graph: Cut, again: bool
) -> tuple[list[list[Tensor | None]], dict[Tensor, Tensor]]:
    """Go back from the losses to the cut: what each passes to each edge, the leaves' own gradients.

    One call for all tasks: hooks keep what each head passes across the cut, where autograd would
    only give the sum, and of everything before. Where the heads have more in common than
    parameters, one call a task.
    """
    kept: list[list[Tensor | None]] = [[None] * len(graph.edges) for _ in losses]
    sums: dict[Tensor, Tensor] = {}
    numbers = sorted({read.edge for reads in graph.reads for read in reads})
    ends = [*(graph.edges[number] for number in numbers), *graph.own]

    inside = []  # losses that lie before the cut themselves
    for k, reads in enumerate(graph.reads):
        if reads[0].node is None:
            kept[k][reads[0].edge] = torch.ones_like(losses[k])
            inside.append(k)
    asked = [k for k in range(len(losses)) if k not in inside]
    groups = [[k] for k in asked] if graph.overlap else [asked] if asked else []
    for group in groups:
        hooks = [
            read.node.register_hook(partial(_keep, kept[k], read))
            for k in group
            for read in graph.reads[k]
        ]
        try:
            found = torch.autograd.grad(
                [losses[k] for k in group],
                ends,  # type: ignore[arg-type]  # tensors and edges may be mixed
                retain_graph=again or graph.nested or group is not groups[-1],
                allow_unused=True,
            )
        finally:
            for hook in hooks:
                hook.remove()
        for parameter, gradient in zip(graph.own, found[len(numbers) :], strict=True):
            if gradient is not None:
                before = sums.get(parameter)  # a copy: autograd may give two parameters one tensor
                sums[parameter] = gradient.clone() if before is None else before + gradient
    return kept, sums


def _keep(
    own: list[Tensor | None],
    read: Read,
    passed: Sequence[Tensor | None],
    _: Sequence[Tensor | None],
) -> None:
    """Add what a node passes across the cut."""
    gradient, before = passed[read.place], own[read.edge]
    if gradient is not None:
        own[read.edge] = gradient if before is None else before + gradient


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


def _accumulate(
    gradients: Mapping[Tensor, Tensor], roots: Sequence[tuple[Tensor, Tensor | None]]
) -> None:
    """Add to ``.grad``, as ``Tensor.backward`` does, also what a backward pass from the roots brings.

    Autograd itself adds where a parameter has hooks: they run once, on the sum.
    """
    starts = list(roots)
    for parameter, gradient in gradients.items():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            starts.append((parameter, gradient))
        elif parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad += gradient
    if starts:
        torch.autograd.backward([root for root, _ in starts], [g for _, g in starts])
