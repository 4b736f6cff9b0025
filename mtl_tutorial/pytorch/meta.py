"""Learning a start from which a few gradient steps learn a new task: Reptile and MAML."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

Loss = Callable[[Tensor, Tensor], Tensor]
Parameters = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]


def reptile_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    batches: Batch,
    *,
    lr: float,
) -> Tensor:
    r"""Take one step of Reptile: towards the parameters that adaptation to each task ends at.

    .. math:: \text{gradient} = \frac1T \sum_{k=1}^{T} (\theta - \tilde\theta_k)

    where :math:`\tilde\theta_k` is what n steps of gradient descent with ``lr`` make of
    :math:`\theta`, one on each of task k's n batches. With ``torch.optim.SGD`` and a learning rate
    of 1 the new start is the mean of the :math:`\tilde\theta_k`; any other optimiser may take the
    step. With n = 1 this is joint training. (Nichol, Achiam and Schulman, 2018.)

    Parameters
    ----------
    model : torch.nn.Module
        All parameters that require a gradient are adapted. No buffers (batch norm).
    optimizer : torch.optim.Optimizer
        Of the model's parameters; takes the step. Every ``.grad`` is overwritten.
    loss : callable
        From a task's outputs and targets to a scalar.
    batches : pair of torch.Tensor
        Inputs, shape (T, n, N, ...), and targets: T tasks, n batches each, of N examples.
    lr : float
        Learning rate of the adaptation.

    Returns
    -------
    torch.Tensor
        A scalar: the loss before each step of adaptation, averaged over steps and tasks.

    Raises
    ------
    ValueError
        Inputs and targets disagree in number, nothing is trainable, or the model has buffers.

    Examples
    --------
    >>> model = nn.Linear(3, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    >>> batches = torch.ones(4, 5, 10, 3), torch.zeros(4, 5, 10, 1)
    >>> reptile_step(model, optimizer, nn.functional.mse_loss, batches, lr=0.01).shape
    torch.Size([])
    """
    _check(batches, axes=3)
    start = _trainable(model)

    def difference(inputs: Tensor, targets: Tensor) -> tuple[Parameters, Tensor]:
        pairs = zip(inputs, targets, strict=True)
        adapted, losses = _adapt(model, loss, start, pairs, lr)
        return {name: start[name] - adapted[name] for name in start}, losses.mean()

    return _outer_step(model, optimizer, *vmap(difference, randomness="different")(*batches))


def maml_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    support: Batch,
    query: Batch,
    *,
    lr: float,
    steps: int = 1,
    first_order: bool = True,
) -> Tensor:
    r"""Take one step of MAML: down the loss on new examples, as it is after adaptation.

    .. math::

        L(\theta) = \frac1T \sum_{k=1}^{T} L_k^\text{query}(\tilde\theta_k), \qquad
        \tilde\theta_k = \theta - \alpha\, \nabla L_k^\text{support}(\theta)
        \;\text{ (repeated)}

    The exact gradient goes through the adaptation, so it has second derivatives:
    :math:`(I - \alpha \nabla^2 L_k^\text{support})\, \nabla L_k^\text{query}(\tilde\theta_k)` for one
    step. The first-order one leaves them out: :math:`\nabla L_k^\text{query}(\tilde\theta_k)`.
    (Finn, Abbeel and Levine, 2017.)

    Parameters
    ----------
    model : torch.nn.Module
        All parameters that require a gradient are adapted. No buffers (batch norm).
    optimizer : torch.optim.Optimizer
        Of the model's parameters; takes the step. Every ``.grad`` is overwritten.
    loss : callable
        From a task's outputs and targets to a scalar.
    support, query : pair of torch.Tensor
        Inputs, shape (T, N, ...), and targets, of T tasks: the examples that adapt, and those that
        judge the result. N may differ between the two.
    lr : float
        Learning rate of the adaptation, :math:`\alpha`.
    steps : int
        Steps of adaptation, each on the whole support.
    first_order : bool
        Leave the second derivatives out.

    Returns
    -------
    torch.Tensor
        A scalar: the query loss after adaptation, averaged over tasks.

    Raises
    ------
    ValueError
        Inputs and targets disagree in number, support and query in tasks, nothing is trainable,
        ``steps`` is below 1, or the model has buffers.

    Examples
    --------
    >>> model = nn.Linear(3, 1)
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> support = torch.ones(4, 10, 3), torch.zeros(4, 10, 1)
    >>> maml_step(model, optimizer, nn.functional.mse_loss, support, support, lr=0.01).shape
    torch.Size([])
    """
    _check(support, query, axes=2)
    if steps < 1:
        raise ValueError(f"adaptation takes at least 1 step; got {steps}")
    start = _trainable(model)

    def gradient(*data: Tensor) -> tuple[Parameters, Tensor]:
        def adapt(theta: Parameters) -> Parameters:
            return _adapt(model, loss, theta, [(data[0], data[1])] * steps, lr)[0]

        def judged(theta: Parameters) -> Tensor:
            adapted = theta if first_order else adapt(theta)
            return loss(functional_call(model, adapted, (data[2],)), data[3])

        found: tuple[Parameters, Tensor] = grad_and_value(judged)(
            adapt(start) if first_order else start
        )
        return found

    found = vmap(gradient, randomness="different")(*support, *query)
    return _outer_step(model, optimizer, *found)


def _adapt(
    model: nn.Module, loss: Loss, theta: Parameters, batches: Iterable[Batch], lr: float
) -> tuple[Parameters, Tensor]:
    """Take one gradient step on each batch; also return the loss before each."""

    def value(theta: Parameters, inputs: Tensor, targets: Tensor) -> Tensor:
        return loss(functional_call(model, theta, (inputs,)), targets)

    losses = []
    for inputs, targets in batches:
        gradient, now = grad_and_value(value)(theta, inputs, targets)
        theta = {name: parameter - lr * gradient[name] for name, parameter in theta.items()}
        losses.append(now)
    return theta, torch.stack(losses)


def _outer_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, gradients: Parameters, losses: Tensor
) -> Tensor:
    """Average over the tasks, and let the optimiser take the step."""
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name].mean(dim=0) if name in gradients else None
    optimizer.step()
    return losses.mean()


def _trainable(model: nn.Module) -> Parameters:
    if any(True for _ in model.buffers()):
        raise ValueError("the model has buffers, such as batch norm's; tasks cannot share them")
    found = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not found:
        raise ValueError("no parameter requires a gradient: there is nothing to adapt")
    return found


def _check(*batches: Batch, axes: int) -> None:
    """Say which tensors do not fit together; `axes` counts tasks, batches and examples."""
    for inputs, targets in batches:
        if inputs.dim() < axes or inputs.shape[:axes] != targets.shape[:axes]:
            raise ValueError(
                f"inputs of shape {tuple(inputs.shape)} and targets of shape "
                f"{tuple(targets.shape)} need {axes} equal leading axes"
            )
    if len({len(inputs) for inputs, _ in batches}) > 1:
        raise ValueError(f"support has {len(batches[0][0])} tasks, query {len(batches[1][0])}")
