"""What an architecture costs beside hard sharing: parameters, time of a step, memory; and LibMTL's.

A step is a forward pass, one backward pass with equal weights (the extra loss of a model included), and
Adam, on a batch of 128 rows of 64 numbers, with T regressions. Blocks are two layers of width 128, in
every architecture: a trunk, a tower, an expert and an encoder are one such block, so those that have
several have more parameters; a line "alone" is T networks of one block and one head.

LibMTL, where it is installed: ``HPS``, ``MMoE`` and ``CGC`` (one level of PLE), which take any encoder.
Its cross-stitch and attention networks take ResNets alone. See ``benchmarks/step_cost.py`` for how to
install it. Its losses go into one tensor, as its ``Trainer`` does it.

Time: one thread, interleaved repetitions, medians of CPU time; the ratios count. Memory: the most that
a step holds above what it found, in PyTorch's own allocations on the CPU.
"""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells when it starts and stops

import argparse
import importlib
import importlib.util
import statistics
import sys
import time
import types
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mtl_tutorial.pytorch import (
    MTAN,
    PLE,
    CrossStitch,
    HardSharing,
    MMoE,
    Modulated,
    SharedPrivate,
    SoftSharing,
    linear_heads,
    mlp,
)
from mtl_tutorial.tasks import Regression

BATCH, INPUTS, WIDTH, EXPERTS = 128, 64, 128, 4
gate = partial(nn.Linear, INPUTS)


def block() -> nn.Module:
    """From inputs to features."""
    return mlp(INPUTS, WIDTH, WIDTH)


def layer() -> nn.Module:
    """From features to features."""
    return mlp(WIDTH, WIDTH)


def heads(tasks: int, features: int = WIDTH) -> dict[str, nn.Module]:
    """One number a task."""
    return linear_heads([Regression(f"task{k}") for k in range(tasks)], features)


def mtan(tasks: int) -> nn.Module:
    """Two stages of one layer."""
    masks = [lambda: nn.Linear(WIDTH, WIDTH), lambda: nn.Linear(2 * WIDTH, WIDTH)]
    return MTAN([mlp(INPUTS, WIDTH), layer()], masks, [layer], heads(tasks))


OURS: dict[str, Callable[[int], Any]] = {
    "HardSharing": lambda tasks: HardSharing(block(), heads(tasks)),
    "alone": lambda tasks: SoftSharing(block, heads(tasks), 0.0),
    "SoftSharing": lambda tasks: SoftSharing(block, heads(tasks), 0.1),
    "CrossStitch": lambda tasks: CrossStitch([lambda: mlp(INPUTS, WIDTH), layer], heads(tasks)),
    "MTAN": mtan,
    "MMoE": lambda tasks: MMoE(block, gate, heads(tasks), EXPERTS),
    "PLE": lambda tasks: PLE([block], [gate], heads(tasks), own=1, shared=EXPERTS),
    "SharedPrivate": lambda tasks: SharedPrivate(
        block, heads(tasks, 2 * WIDTH), nn.Linear(WIDTH, tasks)
    ),
    "Modulated": lambda tasks: Modulated(
        [mlp(INPUTS, WIDTH), layer()], [WIDTH, WIDTH], heads(tasks)
    ),
}


def libmtl(name: str, tasks: int) -> Any:
    """Build one of LibMTL's, its constants as in ours."""
    for module in ("torchvision", "torchvision.models", "torchvision.models.utils"):
        stand_in: Any = types.ModuleType(module)
        stand_in.load_state_dict_from_url = None
        sys.modules.setdefault(module, stand_in)
    library: Any = importlib.import_module("LibMTL.architecture")
    own = nn.ModuleDict(heads(tasks))
    settings = {"img_size": [INPUTS], "num_experts": [EXPERTS] + [1] * tasks}
    return getattr(library, name)(
        list(own), block, own, False, False, torch.device("cpu"), **settings
    )


def step_of(name: str, model: Any, tasks: int) -> Callable[[], None]:
    """Give a function that takes a step; half of the rows have a label of one task only."""
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(BATCH, INPUTS, generator=generator)
    targets = {f"task{k}": torch.randn(BATCH, generator=generator) for k in range(tasks)}
    for k, target in enumerate(targets.values()):
        target[: BATCH // 2][torch.arange(BATCH // 2) % tasks != k] = torch.nan
    known = {task: target.nan_to_num() for task, target in targets.items()}

    def losses(outputs: dict[str, Tensor]) -> list[Tensor]:
        return [(outputs[task][:, 0] - known[task]).square().mean() for task in known]

    def ours() -> None:
        features = model.encode(inputs)
        each = losses(model.decode(features))
        if name != "alone" and hasattr(model, "extra_loss"):
            each.append(model.extra_loss(features, targets))
        torch.autograd.backward(each)
        optimizer.step()
        optimizer.zero_grad()

    def theirs() -> None:
        values = torch.zeros(tasks)
        for number, loss in enumerate(losses(model(inputs))):
            values[number] = loss
        values.sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return theirs if name.startswith("LibMTL") else ours


def medians(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Seconds of CPU time of each step, interleaved."""
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for done in range(rounds + 3):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if done >= 3:  # warm
                spent[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in spent.items()}


def peak(step: Callable[[], None]) -> float:
    """Give the most bytes that PyTorch holds during a step above what it held before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), n) for n, e in enumerate(events) if e.name() == "[memory]")
    return float(max(accumulate(events[number].nbytes() for _, number in changes)))


def main() -> None:
    """Print a table for each number of tasks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="repetitions of each step")
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 8])
    arguments = parser.parse_args()
    theirs = {"LibMTL HPS": "HPS", "LibMTL MMoE": "MMoE", "LibMTL CGC": "CGC"}
    if importlib.util.find_spec("LibMTL") is None:
        print("without LibMTL, which is not installed")
        theirs = {}
    torch.set_num_threads(1)
    for tasks in arguments.tasks:
        torch.manual_seed(0)
        models = {name: make(tasks) for name, make in OURS.items()}
        models |= {name: libmtl(kind, tasks) for name, kind in theirs.items()}
        steps = {name: step_of(name, model, tasks) for name, model in models.items()}
        times = medians(steps, arguments.rounds)
        print(f"\n{tasks} tasks{'':9}  parameters  ms a step  / HardSharing  MB held")
        for name, model in models.items():
            count = sum(p.numel() for p in model.parameters())
            ratio, held = times[name] / times["HardSharing"], 1e-6 * peak(steps[name])
            row = f"{name:16}  {count:10,}  {1e3 * times[name]:9.2f}  {ratio:13.2f}  {held:7.2f}"
            print(row, flush=True)


if __name__ == "__main__":
    main()
