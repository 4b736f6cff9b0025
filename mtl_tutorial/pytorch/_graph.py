"""Reading the autograd graph: what lies between losses and features, and before the features."""

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.autograd.graph import get_gradient_edge

Node = Any  # a function of the graph; those written in C++ share no Python type


class HeadGraph(NamedTuple):
    """The graph between losses and features, which it does not enter."""

    parameters: list[Tensor]
    """The leaves: the parameters of the heads."""
    reads: list[list[tuple[Node, int, int]]]
    """For each loss: which node reads, at which of its inputs, the feature of which number."""
    overlap: bool
    """Whether a node belongs to two losses, or a loss is itself a feature."""


class LinearLayer(NamedTuple):
    """What the gradients of a linear layer's weight or bias are made of."""

    node: Node
    """The layer in the graph; the gradient on its output is wanted."""
    inputs: Tensor | None
    """What the layer read, shape (N, in), for its weight; None for its bias."""


def head_graph(losses: Iterable[Tensor], features: Sequence[Tensor]) -> HeadGraph:
    """Walk from each loss to the features.

    Raises
    ------
    ValueError
        The same tensor is given twice, or one feature tensor is computed from another.
    """
    numbers: dict[tuple[Node, int], int] = {}
    for number, feature in enumerate(features):
        edge = get_gradient_edge(feature)
        numbers[edge.node, edge.output_nr] = number
    ends = {node for node, _ in numbers}
    if len(numbers) < len(features) or (
        len(features) > 1 and any(other in ends for *_, other, _ in _edges(ends))
    ):
        raise ValueError(
            "the feature tensors depend on each other, so their gradients would count twice; "
            "give the last tensors that the heads share"
        )
    parameters: dict[Tensor, None] = {}
    seen: set[Node] = set()
    reads: list[list[tuple[Node, int, int]]] = []
    overlap = False
    for loss in losses:
        own = {loss.grad_fn}
        reads.append([])
        itself = (loss.grad_fn, loss.output_nr)
        if itself in numbers:
            reads[-1].append((loss.grad_fn, 0, numbers[itself]))
        for node, place, other, output in _edges(own, ends):
            own.add(node)
            if other in ends:
                if (other, output) in numbers:
                    reads[-1].append((node, place, numbers[other, output]))
            elif hasattr(other, "variable"):
                parameters[other.variable] = None
        overlap |= not own.isdisjoint(seen | ends)
        seen |= own
    return HeadGraph(list(parameters), reads, overlap)


def linear_layers(features: Iterable[Tensor]) -> dict[Tensor, LinearLayer]:
    """Find the weights and biases of linear layers before the features, each used only once."""
    uses: dict[Node, list[tuple[Node, int]]] = {}
    for node, place, other, _ in _edges(get_gradient_edge(f).node for f in features):
        uses.setdefault(other, []).append((node, place))
    found = {}
    for leaf, readers in uses.items():
        if len(readers) > 1 or not hasattr(leaf, "variable"):
            continue
        node, place = readers[0]
        if node.name() == "TBackward0" and len(uses[node]) == 1:  # the weight, transposed
            layer, place = uses[node][0]
            if (layer.name(), place) == ("AddmmBackward0", 2) and layer._saved_alpha == 1:
                found[leaf.variable] = LinearLayer(layer, layer._saved_mat1.detach())
            elif (layer.name(), place) == ("MmBackward0", 1):
                found[leaf.variable] = LinearLayer(layer, layer._saved_self.detach())
        elif (node.name(), place) == ("AddmmBackward0", 0) and node._saved_beta == 1:
            found[leaf.variable] = LinearLayer(node, None)
    return found


def _edges(
    roots: Iterable[Node], stop: Container[Node] = ()
) -> Iterator[tuple[Node, int, Node, int]]:
    """Walk from the roots towards the leaves: a node, which input of it, whose output, which one."""
    seen, todo = set(), list(roots)
    while todo:
        node = todo.pop()
        if node is None or node in seen or node in stop:
            continue
        seen.add(node)
        for place, (other, output) in enumerate(node.next_functions):
            if other is not None:
                yield node, place, other, output
                todo.append(other)
