"""Who shares what, for both frameworks: from parameters to blocks, from a trunk to its branches."""

from collections.abc import Sequence
from typing import NamedTuple

Blocks = dict[str, tuple[int, tuple[str, ...]]]


class Parameter(NamedTuple):
    """A parameter: where it stands in the model, its size, the tasks whose outputs depend on it."""

    path: tuple[str, ...]
    size: int
    tasks: tuple[str, ...]


def blocks(parameters: Sequence[Parameter], depth: int = 1) -> Blocks:
    """Put parameters together into the largest modules that serve one set of tasks throughout.

    Examples
    --------
    >>> weight, bias = Parameter(("trunk", "0", "w"), 6, ("a", "b")), Parameter(("trunk", "0", "b"), 2, ("a", "b"))
    >>> heads = [Parameter(("heads", name, "w"), 3, (name,)) for name in ("a", "b")]
    >>> blocks([weight, bias, *heads])
    {'trunk': (8, ('a', 'b')), 'heads.a': (3, ('a',)), 'heads.b': (3, ('b',))}
    """
    modules: dict[tuple[str, ...], list[Parameter]] = {}
    for parameter in parameters:
        modules.setdefault(parameter.path[:depth], []).append(parameter)
    found: Blocks = {}
    for path, own in modules.items():
        if len({parameter.tasks for parameter in own}) == 1:
            size = sum(parameter.size for parameter in own)
            found[".".join(path)] = size, own[0].tasks
        elif len(modules) == depth == 1:  # all stands in one module, such as what wraps another
            return blocks([parameter._replace(path=parameter.path[1:]) for parameter in own])
        else:
            found |= blocks(own, depth + 1)
    return found


class Routes(NamedTuple):
    """Where a trunk's branches begin and which heads read what; 0 is the trunk, 1 the first branch."""

    tasks: list[list[str]]
    """Of each branch: the tasks that go through it."""
    sources: list[int]
    """Of each branch: what it reads."""
    ends: list[int]
    """What any head reads, each once."""
    reads: dict[str, int]
    """Of each task: the place among the ends of what its head reads."""


def routes(heads: Sequence[str], branches: Sequence[Sequence[str]]) -> Routes:
    """Follow each task from the trunk through its branches to its head.

    Examples
    --------
    >>> routes(["low", "a", "b"], [["a", "b"], ["b"]])
    Routes(tasks=[['a', 'b'], ['b']], sources=[0, 1], ends=[0, 1, 2], reads={'low': 0, 'a': 1, 'b': 2})
    """
    at = dict.fromkeys(heads, 0)
    sources = []
    for number, tasks in enumerate(branches, 1):
        unknown = [task for task in tasks if task not in at]
        if unknown or not tasks:
            raise ValueError(f"branch {number} is for {unknown or 'no task'}; heads: {list(heads)}")
        if len({at[task] for task in tasks}) > 1:
            raise ValueError(
                f"branch {number} is for {list(tasks)}, which an earlier branch has parted"
            )
        sources.append(at[tasks[0]])
        at |= dict.fromkeys(tasks, number)
    ends = sorted(set(at.values()))
    reads = {task: ends.index(place) for task, place in at.items()}
    return Routes([list(tasks) for tasks in branches], sources, ends, reads)
