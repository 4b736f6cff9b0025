"""From parameters and the tasks they serve to blocks, for both frameworks."""

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
