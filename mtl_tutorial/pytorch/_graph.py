"""Reading the autograd graph: the cut between the heads and what the tasks share."""

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

Node = Any  # a function of the graph; those written in C++ share no Python type
Uses = dict[Node, list[tuple[Node, int]]]


class Read(NamedTuple):
    """A place where a loss's own part of the graph reads across the cut."""

    node: Node
    """The node that reads; None where the loss itself lies at the cut."""
    place: int
    """At which of its inputs."""
    edge: int
    """The number of what is read."""


class Cut(NamedTuple):
    """The graph in two: what is shared (features, shared parameters, all before them), and heads.

    Whatever a head reads across the cut counts, named as a feature or not: a gate on a lower layer,
    a skip connection, a tied weight, another output of a node.
    """

    edges: list[GradientEdge]
    """What can be read across the cut: first the features, then what heads read besides."""
    reads: list[list[Read]]
    """For each loss: its places at the cut."""
    own: list[Tensor]
    """The leaves on the heads' side."""
    uses: Uses
    """The shared side: each node, and who reads it at which input (None: a head)."""
    overlap: bool
    """Whether a node on the heads' side belongs to two losses."""
    nested: bool
    """Whether something read across the cut is computed from something else that is."""


class LinearLayer(NamedTuple):
    """What the gradients of a linear layer's weight or bias are made of."""

    node: Node
    """The layer in the graph; the gradient on its output is wanted."""
    inputs: Tensor | None
    """What the layer read, shape (N, in), for its weight; None for its bias."""


def cut(losses: Iterable[Tensor], features: Sequence[Tensor], shared: Iterable[Tensor]) -> Cut:
    """Walk from the features and the shared parameters to all before them, and there from the losses.

    Every tensor must require a gradient.
    """
    edges = [get_gradient_edge(feature) for feature in features]
    numbers = {(edge.node, edge.output_nr): number for number, edge in enumerate(edges)}
    roots = [edge.node for edge in (*edges, *map(get_gradient_edge, shared))]
    uses: Uses = {node: [] for node in roots}
    for node, place, other, _ in walk(roots):
        uses.setdefault(other, []).append((node, place))
    before = frozenset(uses)

    def read(node: Node, place: int, other: Node, output: int) -> Read:
        if (other, output) not in numbers:
            numbers[other, output] = len(edges)
            edges.append(GradientEdge(other, output))
        uses[other].append((None, 0))
        return Read(node, place, numbers[other, output])

    own: dict[Tensor, None] = {}
    seen: set[Node] = set()
    reads: list[list[Read]] = []
    overlap = False
    for loss in losses:
        root = get_gradient_edge(loss)
        if root.node in before:
            reads.append([read(None, 0, root.node, root.output_nr)])
            continue
        nodes = {root.node}
        reads.append([])
        for node, place, other, output in walk([root.node], before):
            if other in before:
                reads[-1].append(read(node, place, other, output))
            else:
                nodes.add(other)
        own |= {node.variable: None for node in nodes if hasattr(node, "variable")}
        inner = {node for node in nodes if not hasattr(node, "variable")}  # a leaf may be shared
        overlap |= not inner.isdisjoint(seen)
        seen |= inner
    ends = {edges[each.edge].node for every in reads for each in every}
    nested = len(ends) > 1 and any(other in ends for *_, other, _ in walk(ends))
    return Cut(edges, reads, list(own), uses, overlap, nested)


def leaves(graph: Cut) -> list[Tensor]:
    """Give the parameters on the shared side, whether they are named as shared or not."""
    return [node.variable for node in graph.uses if hasattr(node, "variable")]


def linear_layers(graph: Cut) -> dict[Tensor, LinearLayer]:
    """Find the weights and biases of linear layers on the shared side, each used only once."""
    found, uses = {}, graph.uses
    for leaf, readers in uses.items():
        if len(readers) != 1 or not hasattr(leaf, "variable"):
            continue
        node, place = readers[0]
        if node is None:
            continue
        if node.name() == "TBackward0" and len(uses[node]) == 1:  # the weight, transposed
            layer, place = uses[node][0]
            if layer is None:
                continue
            if (layer.name(), place) == ("AddmmBackward0", 2) and layer._saved_alpha == 1:
                found[leaf.variable] = LinearLayer(layer, layer._saved_mat1.detach())
            elif (layer.name(), place) == ("MmBackward0", 1):
                found[leaf.variable] = LinearLayer(layer, layer._saved_self.detach())
        elif (node.name(), place) == ("AddmmBackward0", 0) and node._saved_beta == 1:
            found[leaf.variable] = LinearLayer(node, None)
    return found


def walk(
    roots: Iterable[Node], stop: Container[Node] = ()
) -> Iterator[tuple[Node, int, Node, int]]:
    """Walk from the roots towards the leaves: a node, which input of it, whose output, which one."""
    seen, todo = set(), list(roots)
    while todo:
        node = todo.pop()
        if node in seen or node in stop:
            continue
        seen.add(node)
        for place, (other, output) in enumerate(node.next_functions):
            if other is not None:
                yield node, place, other, output
                todo.append(other)
