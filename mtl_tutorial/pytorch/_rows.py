"""The task gradients on the shared parameters: rows of the Jacobian, formed only where they must be."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from mtl_tutorial.pytorch._graph import linear_layers


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
        matrix = full.reshape(len(full), -1)
        return matrix.float() if matrix.dtype.itemsize < 4 else matrix

    def gramian(self) -> Tensor:
        r"""Inner products of all pairs of rows, shape (T, T).

        From the factors, :math:`g_k \cdot g_l = \langle A A^\top D_k, D_l \rangle` without forming a
        row. It squares the cancellation between the examples' gradients, so it is done in float64.
        """
        if self.inputs is None:
            rows = self.formed()
            return rows @ rows.T
        deltas, inputs = self.values.double(), self.inputs.double()
        products = (inputs @ inputs.T @ deltas).flatten(1) @ deltas.flatten(1).T
        return ((products + products.T) / 2).to(self.inputs.dtype)

    def combined(self, weights: Tensor) -> Tensor:
        """Weighted sum of the rows, in the tensor's shape; weights of shape (T,)."""
        total: Tensor = torch.tensordot(weights.to(self.values.dtype), self.values, dims=1)
        return total if self.inputs is None else total.T @ self.inputs


def linear_rows(deltas: Tensor, inputs: Tensor) -> Rows:
    """Keep the factors of a linear layer's rows where that is cheaper than forming them.

    Multiplications are counted, those in float64 twice; on a GPU float64 is too slow.
    """
    (tasks, count, out), width = deltas.shape, inputs.shape[1]
    factors = 2 * count * (count * (width + tasks * out) + tasks**2 * out) + count * out * width
    if inputs.device.type == "cpu" and factors < tasks * (count + tasks) * out * width:
        return Rows(deltas, inputs)
    return Rows(deltas.mT @ inputs)


def task_gradients(
    features: Sequence[Tensor],
    parameters: Sequence[Tensor],
    cotangents: Sequence[Sequence[Tensor]],
    retain_graph: bool,
) -> list[Rows]:
    """Pull each task's cotangents back to the parameters: one vector-Jacobian product a task.

    At a linear layer the product stops at the gradient on its output: the weight's gradient would
    be half of the work, and the Gramian can be had without it.
    """
    layers = linear_layers(features)
    nodes = list(dict.fromkeys(layers[p].node for p in parameters if p in layers))
    rest = [parameter for parameter in parameters if parameter not in layers]
    targets = [*(GradientEdge(node, 0) for node in nodes), *rest]
    last = len(cotangents) - 1
    passes = [
        torch.autograd.grad(
            features,
            targets,  # type: ignore[arg-type]  # tensors and edges may be mixed
            cotangent,
            retain_graph=retain_graph or k < last,
            materialize_grads=True,
        )
        for k, cotangent in enumerate(cotangents)
    ]
    found = dict(zip([*nodes, *rest], map(torch.stack, zip(*passes, strict=True)), strict=True))

    def rows(parameter: Tensor) -> Rows:
        if parameter not in layers:
            return Rows(found[parameter])
        node, inputs = layers[parameter]
        if inputs is None:
            return Rows(found[node].sum(dim=1).sum_to_size(len(passes), *parameter.shape))
        return linear_rows(found[node], inputs)

    return [rows(parameter) for parameter in parameters]
