"""One training step's gradients: losses in, weights asked for, ``.grad`` filled."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, compress
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mtl_tutorial.pytorch._graph import Cut, Read, cut, leaves
from mtl_tutorial.pytorch._rows import Rows, own_precision, stacked, task_gradients
from mtl_tutorial.pytorch.distributed import (
    agreed,
    averaged,
    numbers,
    one_for_all,
    summed,
    world_size,
)
from mtl_tutorial.weighting import Weighting

Root = tuple[Tensor, Tensor | None]
"""Where a backward pass starts, and the gradient there; None for the 1 of a loss."""


def mtl_backward(
    losses: Mapping[str, Tensor | None],
    features: Tensor | Sequence[Tensor] | None,
    weighting: Weighting | Callable[[Tensor], Tensor],
    shared_parameters: Iterable[nn.Parameter] = (),
    gramian: Literal["parameters", "features"] = "parameters",
    *,
    extra_loss: Tensor | None = None,
    scaler: torch.amp.GradScaler | None = None,
    model: nn.Module | None = None,
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
      :math:`\sum_k w_k\,\partial L_k / \partial z` through all that lies before the features, the
      gates of single tasks included. Heads that read past them are refused.

    The graph is freed, as by ``Tensor.backward``. Several calls accumulate; each asks for weights of
    its own. For one step over several micro-batches see :func:`accumulated_backward`.

    Where ``torch.distributed`` runs several processes, each calls this with its own rows, and every
    ``.grad`` gets the mean over them: the step that one process would take with all rows. See the
    notes.

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
        and the infinite ``.grad`` makes the scaler skip the step: on all ranks, for ``.grad`` is the
        same on all.
    model : torch.nn.Module, optional
        Needed where several processes run: its trained parameters, in their order, are what is
        averaged. A rank whose batch lacks a task never meets the head's parameters, but must take
        part in averaging them.

    Returns
    -------
    numpy.ndarray, shape (T,)
        The weights of this step: 0 for an absent task, NaN for all others where no weights were
        asked for: after an overflow, and where a callable has given the vector.

    Raises
    ------
    TypeError
        Losses are no dict of tensors, the weighting is a class, features are a dict, the model is
        wrapped in DistributedDataParallel.
    ValueError
        A loss is a constant or no scalar, or, where the weighting reads it, is NaN or infinite;
        where the weighting needs the Gramian, a loss does not depend on the features, or nothing
        shared needs a gradient; at the features, a head reads past them. The message names the task.
        In several processes, no ``model`` is given, or a loss trains what is none of its parameters.
    RuntimeError
        Another process has raised one of these.

    Notes
    -----
    Whatever of these is raised, every ``.grad`` is left as it was.

    A method with a memory wants more of a loop: ``weighting.observe`` (:class:`FAMO
    <mtl_tutorial.weighting.FAMO>`, the losses of the same batch after the step) and
    ``weighting.end_epoch`` (:class:`DWA <mtl_tutorial.weighting.DWA>`, after each epoch).

    Hooks of parameters, of both kinds, run as by ``Tensor.backward``: once, on the sum. Hooks on
    other tensors run in every pass that comes by, T or more where the Gramian is exact.

    Several processes, of the default group, all with the same tasks: one is present if any rank has
    a loss of it; a rank without counts as zeros. Losses are averaged before the weighting sees them:
    divide a rank's sum of losses by :func:`~mtl_tutorial.pytorch.distributed.over_ranks` of its label counts,
    not by the counts themselves. The rows of the exact Gramian are averaged, then multiplied. At the
    features each rank has other rows of the batch, so the ranks' Gramians are summed and divided by
    the square of their number (a callable, which wants the Jacobian itself, is refused there). All
    gradients are averaged in one all-reduce. Methods with a memory and random ones with one seed
    stay equal on all ranks; the model must start equal, see
    :func:`~mtl_tutorial.pytorch.distributed.same_start`. Call the module itself: the hooks of
    DistributedDataParallel see only ``Tensor.backward``, so it is refused as ``model``. Batch norm
    knows its own rank's rows only.

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
    with one_for_all():
        _check(losses, features, weighting, gramian, extra_loss)
        trained = _averaged_here(model, weighting, gramian)
        _check_trained(losses, extra_loss, trained)
        names, here, values = list(losses), _here(losses), _values(losses, weighting)
        goals, extra = _scaled(losses, extra_loss, scaler)
        rows: dict[Tensor, Rows] = {}
        gradients: dict[Tensor, Tensor] = {}
        shared: dict[Tensor, None] = {}
        if _reads_gradients(weighting) and (goals or trained):
            sources, shared = _shared(features, shared_parameters, gramian)
            again = bool(extra) or _weights_losses(weighting)  # one more pass follows
            rows, gradients = _rows(goals, sources, shared, again)

    present, values = agreed(here, values)
    owners = here
    if shared and trained:
        rows, owners = _averaged_rows(rows, shared, here, present), present
    weights = _weights(
        weighting, rows, owners, losses=values, present=present, names=names, scaler=scaler,
        gramian=gramian,
    )  # fmt: skip
    if _weights_losses(weighting):
        _accumulate({}, [*_weighted(goals.values(), weights[here]), *extra], trained)
        return weights
    ahead = _combined(weighting, rows, owners, weights=weights, names=names, scaler=scaler)
    if gramian == "features":
        _accumulate(gradients, [*ahead.items(), *extra], trained)
    else:
        _accumulate(gradients | ahead, extra, trained)
    return weights


def accumulated_backward(
    micro_batches: Iterable[tuple[Any, ...]],
    weighting: Weighting | Callable[[Tensor], Tensor],
    shared_parameters: Iterable[nn.Parameter] = (),
    gramian: Literal["parameters", "features"] = "parameters",
    *,
    present: Sequence[bool] | np.ndarray | None = None,
    scaler: torch.amp.GradScaler | None = None,
    model: nn.Module | None = None,
) -> np.ndarray:
    r"""Take one step's gradients from several micro-batches: as :func:`mtl_backward` on their union.

    .. math:: L_k = \sum_m L_k^{(m)}, \qquad g_k = \sum_m g_k^{(m)}

    where :math:`L_k^{(m)}` is the loss of task :math:`k` on micro-batch :math:`m`, divided by the
    labels of the *whole* batch, and :math:`g_k` its gradient. The weighting is asked once. A forward
    pass runs when it is asked for, and its graph is freed before the next one: of activations,
    memory is that of one micro-batch. Besides the sum of the gradients, this is kept until the end:

    - one gradient row a task on the shared parameters, T numbers a parameter, for the exact Gramian;
    - one row a task on all parameters that the task reaches, T numbers a shared parameter and one a
      head's, for a weighting that weights losses: what its weights are is known at the end;
    - nothing, for Equal, Static and RLW where ``present`` is given: their weights are then known at
      the start, and each micro-batch takes one backward pass.

    Parameters
    ----------
    micro_batches : iterable of (losses, features) or (losses, features, extra_loss)
        Each as :func:`mtl_backward` takes them; all with the same tasks. Give a generator that runs
        a forward pass for each.
    weighting : Weighting, or callable from a Jacobian to a vector
        As for :func:`mtl_backward`.
    shared_parameters : iterable of torch.nn.Parameter
        As for :func:`mtl_backward`.
    gramian : {"parameters", "features"}
        Only ``"parameters"`` for a weighting that needs the Gramian.
    present : sequence of bool, length T, optional
        Which tasks have a label in the whole batch, of this process where there are several; given
        on all of them, or on none.
    scaler : torch.amp.GradScaler, optional
        As for :func:`mtl_backward`.
    model : torch.nn.Module, optional
        As for :func:`mtl_backward`. The processes need not have as many micro-batches each.

    Returns
    -------
    numpy.ndarray, shape (T,)
        The weights of this step, as of :func:`mtl_backward`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As in :func:`mtl_backward`; no micro-batch is given, their tasks differ, or are not those of
        ``present``; ``gramian="features"`` for a weighting that needs the Gramian. Every ``.grad``
        is then as it was.

    Examples
    --------
    >>> from mtl_tutorial.weighting import Equal
    >>> trunk, a, b = nn.Linear(3, 2), nn.Linear(2, 1), nn.Linear(2, 1)
    >>> def forward(rows):
    ...     for x in rows.split(2):
    ...         z = trunk(x)
    ...         yield {"a": a(z).square().sum() / 6, "b": b(z).square().sum() / 6}, z
    >>> accumulated_backward(forward(torch.ones(6, 3)), Equal(), present=[True, True])
    array([1., 1.])
    >>> trunk.weight.grad.shape
    torch.Size([2, 3])
    """
    with one_for_all():
        _check({}, None, weighting, gramian, None)
        if gramian == "features" and _reads_gradients(weighting):
            raise ValueError(
                "gramian='features' weights what goes back through the trunk, so the forward pass of "
                "every micro-batch would have to be kept, or run again, until the weights are known; "
                "use gramian='parameters'"
            )
        trained = _averaged_here(model, weighting, gramian)
        shared_parameters = list(shared_parameters)
        said = None if present is None else np.array(present, dtype=bool)

    weights = None  # those that are known before the passes
    if said is not None and not _reads(weighting):
        everyones, zeros = agreed(said, np.zeros(len(said)))
        weights = _weights(weighting, {}, said, losses=zeros, present=everyones, scaler=scaler)
    with one_for_all():
        total = _Total()
        for batch in micro_batches:
            _add_batch(total, batch, weighting, shared_parameters,
                       weights=weights, said=said, scaler=scaler, trained=trained)  # fmt: skip
            del batch  # the graph, before the next one
        _check_total(total, said)
    if weights is not None:
        _accumulate(total.others, [], trained)
        return weights

    names, here = total.names, total.here
    everyones, values = agreed(here, total.values)
    mine = list(compress(total.own.values(), here))
    rows: dict[Tensor, Rows] = {}
    for parameter in dict.fromkeys(chain.from_iterable(mine)):
        column = stacked([row.pop(parameter, None) for row in mine])
        assert column is not None
        rows[parameter] = Rows(column)
    shared: list[Tensor] = [p for p in dict.fromkeys(shared_parameters) if p.requires_grad]
    at, owners = {p: rows[p] for p in shared if p in rows}, here
    if trained and _reads_gradients(weighting):
        at, owners = _averaged_rows(at, shared, here, everyones), everyones
    weights = _weights(
        weighting, at, owners, losses=values, present=everyones, names=names, scaler=scaler
    )
    if _weights_losses(weighting):
        at, owners = rows, here
    gradients = _combined(weighting, at, owners, weights=weights, names=names, scaler=scaler)
    _add(total.others, gradients)
    _accumulate(total.others, [], trained)
    return weights


@dataclass
class _Total:
    """What the micro-batches have brought so far."""

    names: list[str] = field(default_factory=list)
    here: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    values: np.ndarray = field(default_factory=lambda: np.zeros(0))
    own: dict[str, dict[Tensor, Tensor]] = field(default_factory=dict)
    """Each task's gradients on what is weighted, where the weights are not known yet."""
    others: dict[Tensor, Tensor] = field(default_factory=dict)
    """The sum of all other gradients; of all, weighted, where the weights are known."""


def _add_batch(
    total: _Total,
    batch: Any,
    weighting: Weighting | Callable[[Tensor], Tensor],
    shared_parameters: Sequence[nn.Parameter],
    *,
    weights: np.ndarray | None,
    said: np.ndarray | None,
    scaler: torch.amp.GradScaler | None,
    trained: list[Tensor] | None,
) -> None:
    """Run the backward passes of one micro-batch, and add what they bring."""
    losses, features, extra_loss = _unpacked(batch)
    _check(losses, features, weighting, "parameters", extra_loss)
    _check_trained(losses, extra_loss, trained)
    if not total.names:
        total.names, total.own = list(losses), {name: {} for name in losses}
        total.here, total.values = np.zeros(len(losses), dtype=bool), np.zeros(len(losses))
    if list(losses) != total.names:
        raise ValueError(f"a micro-batch has the tasks {list(losses)}, not {total.names}")
    if said is not None and len(said) != len(losses):
        raise ValueError(f"present says {said.tolist()} of the tasks {total.names}")
    here = _here(losses)
    total.here |= here
    total.values += _values(losses, weighting)
    goals, extra = _scaled(losses, extra_loss, scaler)
    if weights is not None:
        _add(total.others, _pulled([*_weighted(goals.values(), weights[here]), *extra]))
        return
    if _reads_gradients(weighting) and goals:
        sources, shared = _shared(features, shared_parameters, "parameters")
        if not _weights_losses(weighting):
            rows, gradients = _rows(goals, sources, shared, again=bool(extra))
            _add(total.others, gradients)
            for parameter, row in rows.items():
                pieces = row.formed().reshape(-1, *parameter.shape)
                for name, piece in zip(goals, pieces, strict=True):
                    _add(total.own[name], {parameter: piece})
        else:
            _check_reads(cut(goals.values(), sources, shared), list(goals), sources, "parameters")
    if _weights_losses(weighting):
        for number, (name, goal) in enumerate(goals.items(), start=1):
            again = bool(extra) or number < len(goals)
            _add(total.own[name], _pulled([(goal, None)], again))
    _add(total.others, _pulled(extra))


def _check_total(total: _Total, said: np.ndarray | None) -> None:
    """There must be something, and what was said of it must be so."""
    if not total.names:
        raise ValueError("micro_batches yields nothing: no (losses, features)")
    if said is not None and (said != total.here).any():
        raise ValueError(
            f"present says {said.tolist()} of the tasks {total.names}, but whether there was a loss "
            f"of them is {total.here.tolist()}"
        )


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


def _averaged_here(
    model: nn.Module | None, weighting: Weighting | Callable[[Tensor], Tensor], gramian: str
) -> list[Tensor] | None:
    """Name the parameters whose gradients are averaged over the processes; None in one process."""
    if isinstance(model, DistributedDataParallel):
        raise TypeError(
            "the model is wrapped in DistributedDataParallel, which averages what Tensor.backward "
            "brings: too late to weight it. Call its .module, and give that as the model"
        )
    if world_size() == 1:
        return None
    if model is None:
        raise ValueError(
            "several processes run, and their gradients must be averaged over the same parameters: "
            "give model=..., the module that is trained"
        )
    if gramian == "features" and not isinstance(weighting, Weighting):
        raise ValueError(
            "with several processes no rank has the Jacobian of the features: each has its own rows "
            "of the batch; use gramian='parameters'"
        )
    trained: list[Tensor] = [each for each in model.parameters() if each.requires_grad]
    if not trained:
        raise ValueError("the model has no parameter that requires a gradient")
    return trained


def _check_trained(
    losses: Mapping[str, Tensor | None], extra_loss: Tensor | None, trained: list[Tensor] | None
) -> None:
    """All that a loss reaches must be averaged."""
    goals = {name: loss for name, loss in losses.items() if loss is not None}
    if extra_loss is not None:
        goals["extra_loss"] = extra_loss
    if trained is None or set(trained).issuperset(cut(goals.values(), [], []).own):
        return
    for name, loss in goals.items():
        for leaf in cut([loss], [], []).own:
            if leaf not in set(trained):
                raise ValueError(
                    f"the loss of {name!r} trains a tensor of shape {tuple(leaf.shape)} that is no "
                    "parameter of the model, so the processes would not average its gradient"
                )


def _here(losses: Mapping[str, Tensor | None]) -> np.ndarray:
    """Tell which tasks have a loss, shape (T,)."""
    return np.array([loss is not None for loss in losses.values()], dtype=bool)


def _values(
    losses: Mapping[str, Tensor | None], weighting: Weighting | Callable[[Tensor], Tensor]
) -> np.ndarray:
    """Values of the losses where the weighting reads them, else zeros and no transfer."""
    return numbers(losses.values()) if _reads_losses(weighting) else np.zeros(len(losses))


def _reads(weighting: object) -> bool:
    """Whether the weights hang on more than which tasks are present."""
    return _reads_losses(weighting) or _reads_gradients(weighting)


def _reads_losses(weighting: object) -> bool:
    return isinstance(weighting, Weighting) and weighting.needs_losses


def _reads_gradients(weighting: object) -> bool:
    return not isinstance(weighting, Weighting) or weighting.needs_gramian


def _weights_losses(weighting: object) -> bool:
    """Whether the weights act on the losses, so on the heads, too."""
    return isinstance(weighting, Weighting) and (
        weighting.weights_heads or not weighting.needs_gramian
    )


def _scaled(
    losses: Mapping[str, Tensor | None],
    extra_loss: Tensor | None,
    scaler: torch.amp.GradScaler | None,
) -> tuple[dict[str, Tensor], list[Root]]:
    """Losses that are there, and the extra one as a root, both times the scaler's scale."""
    goals = {name: loss for name, loss in losses.items() if loss is not None}
    extra = [] if extra_loss is None else [extra_loss]
    if scaler is not None:
        goals = dict(zip(goals, scaler.scale(list(goals.values())), strict=True))
        extra = scaler.scale(extra)
    return goals, [(loss, None) for loss in extra]


def _unpacked(batch: Any) -> tuple[Any, Any, Tensor | None]:
    """Take a micro-batch apart: losses, features, extra loss."""
    match batch:
        case (losses, features):
            return losses, features, None
        case (losses, features, extra_loss):
            return losses, features, extra_loss
    what = f"{len(batch)} things" if isinstance(batch, tuple) else f"a {type(batch).__name__}"
    raise TypeError(
        f"a micro-batch is (losses, features) or (losses, features, extra_loss); got {what}"
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
    goals: Mapping[str, Tensor],
    features: Sequence[Tensor],
    shared: Mapping[Tensor, None],
    again: bool,
) -> tuple[dict[Tensor, Rows], dict[Tensor, Tensor]]:
    """Give the rows of each shared parameter, or feature if none is named; and all other gradients."""
    if not goals:  # of this process; others have some
        return {z: Rows(z.new_zeros(0, *z.shape)) for z in features if not shared}, {}
    losses = list(goals.values())
    graph = cut(losses, features, shared)
    _check_reads(graph, list(goals), features, "parameters" if shared else "features")
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


def _averaged_rows(
    rows: Mapping[Tensor, Rows], shared: Iterable[Tensor], here: np.ndarray, present: np.ndarray
) -> dict[Tensor, Rows]:
    """Average the rows over the ranks: of the tasks that any has, zeros from one that lacks them."""
    parameters, places = list(shared), torch.from_numpy(here[present])
    tasks = len(places)

    def padded(parameter: Tensor) -> Tensor | None:
        if parameter not in rows:
            return None
        found = rows[parameter].formed().reshape(-1, *parameter.shape)
        full = found.new_zeros(tasks, *parameter.shape)
        full[places.to(full.device)] = found
        return full

    means = averaged(map(padded, parameters), parameters, [tasks])
    pairs = zip(parameters, means, strict=True)
    return {parameter: Rows(mean) for parameter, mean in pairs if mean is not None}


def _weights(
    weighting: Weighting | Callable[[Tensor], Tensor],
    rows: Mapping[Tensor, Rows],
    owners: np.ndarray,
    *,
    losses: np.ndarray,
    present: np.ndarray,
    names: Sequence[str] | None = None,
    scaler: torch.amp.GradScaler | None = None,
    gramian: str = "parameters",
) -> np.ndarray:
    """Ask for the weights, from the rows of their owners; NaN where none are asked for."""
    if _reads_gradients(weighting) and present.any() and not rows:
        raise ValueError("no loss depends on any of the shared_parameters")
    if not isinstance(weighting, Weighting):
        return np.where(present, np.nan, 0)
    if not weighting.needs_gramian or not present.any():
        return weighting(losses, None, present, names)
    # inner products of all pairs of task gradients, in one transfer from the device
    with own_precision(rows):
        found = torch.stack([row.gramian() for row in rows.values()]).sum(dim=0).cpu().numpy()
    products = np.zeros((len(losses), len(losses)), found.dtype)
    products[np.ix_(owners, owners)] = found
    if gramian == "features" and world_size() > 1:
        products = (summed(products) / world_size() ** 2).astype(found.dtype)
    if scaler is not None:
        products = products / scaler.get_scale() ** 2
        if not np.isfinite(products).all():
            return np.where(present, np.nan, 0)
    return weighting(losses, products, present, names)


def _combined(
    weighting: Weighting | Callable[[Tensor], Tensor],
    rows: Mapping[Tensor, Rows],
    owners: np.ndarray,
    *,
    weights: np.ndarray,
    names: Sequence[str],
    scaler: torch.amp.GradScaler | None,
) -> dict[Tensor, Tensor]:
    """Make one gradient of the owners' rows, on each of the tensors."""
    if not owners.any():
        return {}
    with own_precision(rows):
        if isinstance(weighting, Weighting):
            w = torch.from_numpy(weights[owners])
            vectors = [row.combined(w.to(row.values.device)) for row in rows.values()]
        else:
            scale = 1.0 if scaler is None else scaler.get_scale()
            there = list(compress(names, owners))
            vectors = _aggregated(weighting, list(rows.values()), scale, there)
    return {z: vector.to(z.dtype) for z, vector in zip(rows, vectors, strict=True)}


def _weighted(losses: Iterable[Tensor], weights: np.ndarray) -> list[Root]:
    """Roots of the weighted sum; without the product where w = 1: two kernels less a task."""
    pairs = zip(losses, weights.tolist(), strict=True)
    return [(loss if w == 1 else w * loss, None) for loss, w in pairs]


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
                _add(sums, {parameter: gradient})
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
    return [piece.reshape(row.shape) for piece, row in zip(pieces, rows, strict=True)]


def _accumulate(
    gradients: Mapping[Tensor, Tensor], roots: Sequence[Root], trained: Sequence[Tensor] | None
) -> None:
    """Add to ``.grad``, as ``Tensor.backward`` does, also what a backward pass from the roots brings.

    Where the processes average the trained parameters' gradients here, the mean is what is added.
    Autograd itself adds where a parameter has hooks: they run once, on the sum.
    """
    starts = list(roots)
    if trained is not None:
        total = _pulled(roots)
        _add(total, gradients)
        means = averaged(map(total.get, trained), trained)
        pairs = zip(trained, means, strict=True)
        gradients, starts = {p: g.to(p.dtype) for p, g in pairs if g is not None}, []
    for parameter, gradient in gradients.items():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            starts.append((parameter, gradient))
        elif parameter.grad is not None:
            parameter.grad += gradient
        else:  # laid out in memory as the parameter is, on which fused optimizers rely
            same = gradient.stride() == parameter.stride()
            parameter.grad = gradient if same else torch.empty_like(parameter).copy_(gradient)
    if starts:
        torch.autograd.backward([root for root, _ in starts], [g for _, g in starts])


def _pulled(roots: Sequence[Root], retain_graph: bool = False) -> dict[Tensor, Tensor]:
    """Give what a backward pass from the roots would add to each ``.grad``."""
    parameters = cut([root for root, _ in roots], [], []).own
    if not parameters:
        return {}
    with _hooks_at_rest(parameters):
        found = torch.autograd.grad(
            [root for root, _ in roots],
            parameters,
            [gradient for _, gradient in roots],
            retain_graph=retain_graph,
            allow_unused=True,
        )
    total: dict[Tensor, Tensor] = {}
    for parameter, gradient in zip(parameters, found, strict=True):
        if gradient is not None:
            _add(total, {parameter: gradient})
    return total


def _add(total: dict[Tensor, Tensor], gradients: Mapping[Tensor, Tensor]) -> None:
    """Add in place, to copies: autograd may give two parameters one tensor."""
    for parameter, gradient in gradients.items():
        if parameter in total:
            total[parameter] += gradient
        else:
            total[parameter] = gradient.clone()
