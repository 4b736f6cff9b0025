"""What a training needs to go on exactly, in one file: tensors, and all else as JSON in its header.

A safetensors file holds numbers and text. To open a stranger's runs nothing that it may hold, which
cannot be said of a pickle, the usual form of PyTorch's checkpoints.
"""

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch import distributed as dist

from mtl_tutorial.pytorch.distributed import world_size

Generators = Mapping[str, torch.Generator | np.random.Generator]
History = dict[str, list[float]]


class Run:
    """The folder of a training; none, in which nothing is kept, is one, too.

    ``latest.safetensors`` is written after each epoch, then ``best.safetensors`` if it was the best.
    Whoever is killed between the two has the best in the latest.

    Parameters
    ----------
    folder : str or path, optional
    parts : mapping from name to an object with ``state_dict`` and ``load_state_dict``, or None
        Among them the ``"model"``.
    generators : mapping from name to generator
        Those that draw besides the global ones.
    settings : mapping from name to plain data
        What must be the same when the training goes on.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        parts: Mapping[str, Any],
        generators: Generators,
        settings: Mapping[str, Any],
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.parts = {name: part for name, part in parts.items() if part is not None}
        self.generators, self.settings = generators, dict(settings)
        self.writes = world_size() == 1 or dist.get_rank() == 0

    def save(self, history: History, is_best: bool) -> None:
        """Write what the next epoch needs, and the model's parameters if they are the best."""
        if self.folder is None or not self.writes:
            return
        states = {name: part.state_dict() for name, part in self.parts.items()}
        rest = {"history": history, "random": random_states(self.generators)}
        state = {"settings": self.settings, "states": states, **rest}
        save(self.folder / "latest.safetensors", state)
        if is_best:
            save(self.folder / "best.safetensors", states["model"])

    def resumed(self, best_epoch: Callable[[History], int]) -> tuple[History, dict[str, Any]]:
        """Go on from the folder: the history so far, and the best parameters; empty if it is new.

        Raises
        ------
        ValueError
            A file is not whole, or the training had other settings: those that differ are listed.
        """
        if self.folder is None or not (latest := self.folder / "latest.safetensors").exists():
            return {}, {}
        found = load(latest)
        _compare(latest, found["settings"], self.settings)
        for name, part in self.parts.items():
            part.load_state_dict(found["states"][name])
        set_random_states(found["random"], self.generators)
        history: History = found["history"]
        place, path = best_epoch(history), self.folder / "best.safetensors"
        if place < len(next(iter(history.values()))):
            return history, load(path) if place else {}
        best: dict[str, Any] = found["states"]["model"]
        if self.writes:  # perhaps killed before it was written
            save(path, best)
        return history, best


def _compare(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise if a setting differs."""
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    if names:
        each = [f"{name}: {then.get(name)} then, {now.get(name)} now" for name in names[:8]]
        more = f"; and {len(names) - 8} more" if len(names) > 8 else ""
        raise ValueError(
            f"{path} is of a training with other settings: {'; '.join(each)}{more}. Give the same, or "
            "another folder"
        )


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a file whole or not at all: whoever is killed meanwhile leaves the one before."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_plain(state, "", tensors))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    save_file(tensors, unfinished, metadata={"mtl_tutorial": text})
    with unfinished.open("rb+") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)


def load(path: Path) -> dict[str, Any]:
    """Read what :func:`save` wrote.

    Raises
    ------
    ValueError
        The file is another one, or not whole.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("mtl_tutorial")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
    except FileNotFoundError as error:
        raise ValueError(f"{path} is gone; give another folder, or remove this one") from error
    except SafetensorError as error:
        raise ValueError(
            f"{path} is no checkpoint, or was cut short ({error}); to start anew, remove it"
        ) from error
    if text is None:
        raise ValueError(f"{path} holds tensors, but was not written by fit; name another folder")
    state: dict[str, Any] = _restored(json.loads(text), tensors)
    return state


def random_states(generators: Generators) -> dict[str, Any]:
    """Give the states of the generators, and of the global ones of Python, NumPy and PyTorch."""
    own = {
        name: generator.get_state()
        if isinstance(generator, torch.Generator)
        else dict(generator.bit_generator.state)
        for name, generator in generators.items()
    }
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002  # whoever draws from it
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "own": own,
    }


def set_random_states(states: Mapping[str, Any], generators: Generators) -> None:
    """Let every generator go on from what :func:`random_states` gave."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002  # whoever draws from it
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    for name, generator in generators.items():
        if isinstance(generator, torch.Generator):
            generator.set_state(states["own"][name])
        else:
            generator.bit_generator.state = states["own"][name]


def _plain(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Turn a state into what JSON can hold, and put its tensors aside."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": value.dtype.str}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        kind = "counter" if isinstance(value, Counter) else "dict"
        return {kind: [[k, _plain(v, f"{path}.{k}".strip("."), tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        items = list(value)
        if not all(type(item) is int for item in items):  # a generator's state is hundreds of them
            items = [_plain(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{path} is a {type(value).__name__}: a checkpoint holds tensors, arrays, numbers and texts, "
        "in dicts and lists, and no other objects"
    )


def _restored(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Turn back what :func:`_plain` made."""
    if isinstance(value, list):
        return [_restored(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "array" in value:
        return np.array(value["array"], dtype=value["dtype"])
    if "tuple" in value:
        return tuple(_restored(item, tensors) for item in value["tuple"])
    pairs = {
        k: _restored(v, tensors) for k, v in value["counter" if "counter" in value else "dict"]
    }
    return Counter(pairs) if "counter" in value else pairs
