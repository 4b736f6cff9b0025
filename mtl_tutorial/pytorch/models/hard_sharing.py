"""Hard parameter sharing: one trunk for all tasks, one head for each."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from mtl_tutorial._sharing import routes
from mtl_tutorial.pytorch.models.box_head import BoxHead
from mtl_tutorial.tasks import Boxes, Task, check_tasks


def mlp(*widths: int) -> nn.Sequential:
    """Build a trunk of fully connected layers, a ReLU after each; images are flattened first.

    Parameters
    ----------
    *widths : int
        The number of inputs, then the width of each layer; at least two numbers.

    Examples
    --------
    >>> [tuple(p.shape) for p in mlp(784, 512, 256).parameters()]
    [(512, 784), (512,), (256, 512), (256,)]
    """
    if len(widths) < 2:
        raise ValueError(f"a trunk needs its inputs and at least one width; got {widths}")
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def linear_heads(tasks: Sequence[Task], features: int) -> dict[str, nn.Module]:
    """Build one linear layer a task, from the features to the task's outputs.

    That of a task of :class:`~mtl_tutorial.tasks.Boxes` is inside a :class:`BoxHead`.

    Parameters
    ----------
    tasks : sequence of Task
    features : int
        The width of the trunk's output.

    Examples
    --------
    >>> from mtl_tutorial.tasks import Binary, Classification
    >>> linear_heads([Classification("digit", classes=10), Binary("gt5")], features=256)
    {'digit': Linear(in_features=256, out_features=10, bias=True),
     'gt5': Linear(in_features=256, out_features=1, bias=True)}
    """
    return {
        task.name: BoxHead(features, task.width, task.height)
        if isinstance(task, Boxes)
        else nn.Linear(features, task.outputs)
        for task in check_tasks(tasks)
    }


class HardSharing(nn.Module):
    r"""One trunk shared by all tasks, one head a task (Caruana, 1997); branches between, if need be.

    .. math:: z = f(x; \theta), \qquad \hat y_k = h_k(z; \phi_k)

    Layers of one task alone are part of its head. Layers of some tasks are a branch: tasks of a low
    level leave early, at the trunk (Søgaard & Goldberg, 2016), the others go on together.

    Parameters
    ----------
    trunk : torch.nn.Module
        From inputs to features, shape (N, F).
    heads : mapping from task name to torch.nn.Module
        From features to the task's outputs, shape (N, task.outputs).
    branches : sequence of (torch.nn.Module, sequence of task names)
        Further layers, and the tasks that go through them. A branch reads what its tasks read
        before it: the trunk, or an earlier branch of all of them.

    Raises
    ------
    ValueError
        There is no head; a branch names no task, or none that has a head, or tasks that an earlier
        one has parted.

    Notes
    -----
    :func:`~mtl_tutorial.pytorch.fit` takes any module that has the three methods ``encode(inputs)``,
    ``decode(features, tasks=None)`` and ``shared_parameters()`` as they are here; features may be one
    tensor, or several in a list, tuple or dict. With a fourth, ``extra_loss(features, targets)``, it
    adds a scalar of its own, unweighted: a penalty, an adversary.

    With branches the features are a list: what the heads read, each once. Tasks that read different
    tensors there are orthogonal by construction in the Gramian of the features
    (``gramian="features"``); the exact one sees where they meet.

    Examples
    --------
    >>> import torch
    >>> from mtl_tutorial.tasks import Binary, Classification
    >>> tasks = [Classification("digit", classes=10), Binary("gt5")]
    >>> model = HardSharing(mlp(784, 512, 256), linear_heads(tasks, features=256))
    >>> {name: tuple(out.shape) for name, out in model(torch.zeros(3, 28, 28)).items()}
    {'digit': (3, 10), 'gt5': (3, 1)}
    >>> deeper = [(mlp(256, 256), ["digit"])]  # "gt5" leaves at the trunk
    >>> model = HardSharing(mlp(784, 256), linear_heads(tasks, features=256), deeper)
    >>> len(model.encode(torch.zeros(3, 28, 28)))
    2
    """

    def __init__(
        self,
        trunk: nn.Module,
        heads: Mapping[str, nn.Module],
        branches: Sequence[tuple[nn.Module, Sequence[str]]] = (),
    ) -> None:
        super().__init__()
        if not heads:
            raise ValueError("a model needs at least one head")
        self.routes = routes(list(heads), [list(tasks) for _, tasks in branches])
        self.trunk = trunk
        self.branches = nn.ModuleList(branch for branch, _ in branches)
        self.heads = nn.ModuleDict(heads)

    def encode(self, inputs: Any) -> Any:
        """Give the features, what the trunk makes of the inputs; with branches, all that heads read."""
        features = [self.trunk(inputs)]
        if not self.branches:
            return features[0]
        for branch, place in zip(self.branches, self.routes.sources, strict=True):
            features.append(branch(features[place]))
        return [features[place] for place in self.routes.ends]

    def decode(self, features: Any, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Give the outputs of the tasks named, of all if none is; the other heads do not run."""
        names = self.heads if tasks is None else tasks
        if not self.branches:
            return {name: self.heads[name](features) for name in names}
        return {name: self.heads[name](features[self.routes.reads[name]]) for name in names}

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """Give what tasks share: the parameters of the trunk, and of branches of two tasks or more."""
        yield from self.trunk.parameters()
        for branch, tasks in zip(self.branches, self.routes.tasks, strict=True):
            if len(tasks) > 1:
                yield from branch.parameters()

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        """Give the outputs of every head, by task name."""
        return self.decode(self.encode(inputs))
