"""The task gradients on the shared parameters: rows of the Jacobian, formed only where they must be."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from mtl_tutorial.pytorch._graph import Cut, linear_layers


def at_least_float32(values: Tensor) -> Tensor:
    """Numbers that NumPy can hold, and sums can be taken of."""
    return values.float() if values.dtype.itemsize < 4 else values


def own_precision(values: Iterable[Tensor]) -> AbstractContextManager[object]:
    """Take sums and products in the tensors' own type, even where the caller is under autocast."""
    kind = next((value.device.type for value in values), "cpu")
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


class Rows(NamedTuple):
    r"""The gradients of T tasks on one tensor.

    Either as they are, or, for the weight of a linear layer with N inputs :math:`A`, as the two
    factors of :math:`g_k = D_k^\top A`, where :math:`D_k` is the gradient on the layer's output.
    """

    values: Tensor
    """The gradients, shape (T, ...), or the D_k, shape (T, N, out)."""
    inputs: Tensor | None = None
    """None, or A, shape (N, in)."""

    @property
    def shape(self) -> torch.Size:
        """The tensor's shape, without the tasks."""
        if self.inputs is None:
            return self.values.shape[1:]
        return torch.Size([self.values.shape[2], self.inputs.shape[1]])

    def formed(self) -> Tensor:
        """Give the rows as a matrix, shape (T, size of the tensor), in float32 at least."""
        full = self.values if self.inputs is None else self.values.mT @ self.inputs
        matrix = full.reshape(len(full), self.shape.numel())
        return at_least_float32(matrix)

    def gramian(self) -> Tensor:
        r"""Inner products of all pairs of rows, shape (T, T), in float32 at least.

        From the factors, :math:`g_k \cdot g_l = \langle A A^\top D_k, D_l \rangle` without forming a
        row. It squares the cancellation between the examples' gradients, so it is done in float64.
        """
        if self.inputs is None:
            rows = self.formed()
            return rows @ rows.T
        deltas, inputs = self.values.double(), self.inputs.double()
        products = (inputs @ inputs.T @ deltas).flatten(1) @ deltas.flatten(1).T
        return ((products + products.T) / 2).to(at_least_float32(self.inputs).dtype)

    def combined(self, weights: Tensor) -> Tensor:
        """Weighted sum of the rows, in the tensor's shape and type; weights of shape (T,).

        In float32 at least: weights may be large and cancel.
        """
        values = at_least_float32(self.values)
        total: Tensor = torch.tensordot(weights.to(values.dtype), values, dims=1)
        if self.inputs is not None:
            total = total.T @ at_least_float32(self.inputs)
        return total.to(self.values.dtype)


def factors_are_cheaper(tasks: int, weight: Tensor, inputs: Tensor) -> bool:
    """Whether the factors of a linear layer's rows cost less than the rows.

    Multiplications are counted, those in float64 twice; on a GPU float64 is too slow. Each number of
    a row counts as 32 more: it is written, stacked and read twice. Where the factors win, N is below
    the layer's inputs, unless both are tiny, so that they take less memory, too.
    """
    (out, width), count = weight.shape, len(inputs)
    factors = 2 * count * (count * (width + tasks * out) + tasks**2 * out) + count * out * width
    rows = tasks * (count + tasks + 32) * out * width
    return inputs.device.type == "cpu" and factors < rows


def task_gradients(
    graph: Cut,
    parameters: Sequence[Tensor],
    cotangents: Sequence[Sequence[Tensor | None]],
    retain_graph: bool,
) -> dict[Tensor, Rows]:
    """Pull each task's cotangents back to the parameters: one vector-Jacobian product a task.

    A parameter that plays no part is left out. At a linear layer that reads few rows the product
    stops at the gradient on its output: the weight's gradient would be half of the work, and the
    Gramian can be had without it. One that reads many, such as each token of a text, gets it.
    """
    tasks, wanted = len(cotangents), set(parameters)
    layers = {p: layer for p, layer in linear_layers(graph).items() if p in wanted}
    nodes = [  # of their weights; a weight has one
        layer.node
        for weight, layer in layers.items()
        if layer.inputs is not None and factors_are_cheaper(tasks, weight, layer.inputs)
    ]
    layers = {p: layer for p, layer in layers.items() if layer.node in nodes}
    rest = [parameter for parameter in parameters if parameter not in layers]
    targets = [*(GradientEdge(node, 0) for node in nodes), *rest]
    passes = []
    for k, own in enumerate(cotangents):
        ends = [(edge, c) for edge, c in zip(graph.edges, own, strict=True) if c is not None]
        passes.append(
            torch.autograd.grad(
                [edge for edge, _ in ends],
                targets,  # type: ignore[arg-type]  # tensors and edges may be mixed
                [cotangent for _, cotangent in ends],
                retain_graph=retain_graph or k < tasks - 1,
                allow_unused=True,
            )
        )
    columns = map(stacked, zip(*passes, strict=True))
    found = dict(zip([*nodes, *rest], columns, strict=True))

    rows = {}
    for parameter in parameters:
        node, inputs = layers.get(parameter, (parameter, None))
        values = found[node]
        if values is None:
            continue
        if parameter not in layers:
            rows[parameter] = Rows(values)
        elif inputs is None:
            rows[parameter] = Rows(values.sum(dim=1).sum_to_size(tasks, *parameter.shape))
        else:
            rows[parameter] = Rows(values, inputs)
    return rows


def stacked(column: Sequence[Tensor | None]) -> Tensor | None:
    """Stack the gradients of the tasks, with zeros for those that have none; None if none has."""
    dense = [None if g is None else g.to_dense() if g.is_sparse else g for g in column]
    some = next((gradient for gradient in dense if gradient is not None), None)
    if some is None:
        return None
    return torch.stack([torch.zeros_like(some) if g is None else g for g in dense])
