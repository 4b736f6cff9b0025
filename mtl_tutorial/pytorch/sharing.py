"""Which tasks share which parts of a model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from mtl_tutorial._sharing import Blocks, Parameter, blocks
from mtl_tutorial.pytorch._graph import walk


def task_blocks(model: Any, inputs: Any) -> Blocks:
    """Find which tasks share which blocks of a model, from the graph of its outputs.

    A block is the largest module whose parameters all serve the same tasks: a task's output depends
    on them. Frozen parameters count; a parameter that several modules use counts once, where it
    stands first. :func:`mtl_tutorial.plotting.sharing_diagram` draws what is found,
    :func:`~mtl_tutorial.plotting.sharing_text` says it in words.

    Parameters
    ----------
    model : torch.nn.Module
        With ``encode`` and ``decode``, or else one that gives a dict of outputs by task. It is run
        once in evaluation mode, and left as it was.
    inputs : torch.Tensor, or whatever the model takes
        A batch, of one row or more, on the model's device.

    Returns
    -------
    dict of str to (int, tuple of str)
        By name of the module, in its order: how many parameters, and the tasks. A block that serves
        no task, such as an adversary's, has an empty tuple.

    Raises
    ------
    TypeError
        The outputs are not a dict from task name to tensor.
    ValueError
        An output depends on no parameter.

    Examples
    --------
    >>> from mtl_tutorial.pytorch import HardSharing, linear_heads, mlp
    >>> from mtl_tutorial.tasks import Binary, Classification
    >>> tasks = [Classification("digit", classes=10), Binary("gt5")]
    >>> model = HardSharing(mlp(784, 32), linear_heads(tasks, features=32))
    >>> task_blocks(model, torch.zeros(1, 28, 28))
    {'trunk': (25120, ('digit', 'gt5')), 'heads.digit': (330, ('digit',)), 'heads.gt5': (33, ('gt5',))}
    """
    with _seen_whole(model), torch.enable_grad():
        outputs = model.decode(model.encode(inputs)) if hasattr(model, "decode") else model(inputs)
        if not isinstance(outputs, Mapping) or not all(
            isinstance(output, Tensor) for output in outputs.values()
        ):
            raise TypeError(
                "the model's outputs must be a dict from task name to tensor, as decode gives them; "
                f"got {type(outputs).__name__}"
            )
        reached = {task: _reached(output) for task, output in outputs.items()}
    for task, leaves in reached.items():
        if not any(parameter in leaves for parameter in model.parameters()):
            raise ValueError(f"the output of task {task!r} depends on no parameter of the model")
    return blocks(
        [
            Parameter(
                tuple(name.split(".")),
                parameter.numel(),
                tuple(task for task, leaves in reached.items() if parameter in leaves),
            )
            for name, parameter in model.named_parameters()
        ]
    )


def _reached(output: Tensor) -> set[Tensor]:
    """Give the leaves of the graph that an output depends on."""
    if not output.requires_grad:
        return set()
    root = get_gradient_edge(output).node
    nodes = {root, *(node for _, _, node, _ in walk([root]))}
    return {node.variable for node in nodes if hasattr(node, "variable")}


@contextmanager
def _seen_whole(model: nn.Module) -> Iterator[None]:
    """Evaluate, with a gradient for frozen parameters too; put all back afterwards."""
    training = {module: module.training for module in model.modules()}
    frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    try:
        model.eval()
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for module, mode in training.items():
            module.training = mode
