"""``fit`` under ``torchrun``: two processes end with the parameters of one.

The file is also the program of the two.
"""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from mtl_tutorial.datasets import Split
from mtl_tutorial.pytorch import fit
from mtl_tutorial.weighting import DWA, FAMO, MGDA, RLW, UW, Equal, UPGrad
from tests.pytorch.test_real_runs import TASKS, VALID, collate, distance, net, pairs, sgd, split

ROOT = Path(__file__).parents[2]
TRAIN = split(48, missing=0.4)
TRAIN.targets["big"][1::2] = -1  # in the order of the rows, the second process never has this task
IN_ORDER = [np.arange(i, i + 12) for i in range(0, 48, 12)]
CASES: dict[str, dict[str, Any]] = {
    "Equal": {"weighting": Equal()},
    "UW": {"weighting": UW(lr=0.1)},
    "DWA": {"weighting": DWA()},
    "RLW": {"weighting": RLW(seed=3)},
    "FAMO": {"weighting": FAMO()},
    "UPGrad": {"weighting": UPGrad()},
    "MGDA at the features": {"weighting": MGDA(), "gramian": "features"},
    "UPGrad in parts": {"weighting": UPGrad(), "accumulate": 3},
    "UW in parts": {"weighting": UW(lr=0.1), "accumulate": 2},
    "shuffled": {"weighting": UPGrad(), "sampler": None, "batch_size": 12},
    "sample weights": {"weighting": UPGrad(), "weights": True},
}


def train(case: str, seed: int = 0) -> tuple[nn.Module, dict[str, list[float]]]:
    """Run one case, with the rows that are this process's own."""
    settings: dict[str, Any] = {"sampler": lambda *_: IN_ORDER, **copy.deepcopy(CASES[case])}
    weights = np.arange(48) % 3 / 2 if settings.pop("weights", False) else None
    model = net(seed=seed)
    history = fit(
        model, TASKS, Split(TRAIN.inputs, TRAIN.targets, weights), VALID,
        epochs=3, optimizer=sgd(model), device="cpu", **({"batch_size": 12} | settings),
    )  # fmt: skip
    return model, history


def train_loader(folder: Path | None, epochs: int) -> nn.Module:
    """Go through a loader, half of it each."""
    model, data = net(), pairs(split(48))
    ranks: Any = DistributedSampler(data, shuffle=False) if dist.is_initialized() else None
    size = 6 if dist.is_initialized() else 12
    loader = DataLoader(data, batch_size=size, sampler=ranks, collate_fn=collate)
    fit(
        model, TASKS, loader, VALID, epochs=epochs, optimizer=sgd(model), weighting=UPGrad(),
        checkpoint=folder, device="cpu",
    )  # fmt: skip
    return model


def main(folder: Path) -> None:
    """Be one of the two processes."""
    dist.init_process_group("gloo")
    found = {
        case: train(case, seed=dist.get_rank()) for case in CASES
    }  # the first one's start counts
    train_loader(folder / "run", 1)
    dist.barrier()
    found["loader"] = train_loader(folder / "run", 2), {}
    try:
        fit(net(), TASKS, TRAIN.take(slice(13)), epochs=1, batch_size=12, device="cpu")
    except ValueError as error:
        (folder / f"error{dist.get_rank()}").write_text(str(error), "utf-8")
    state = {case: (model.state_dict(), history) for case, (model, history) in found.items()}
    torch.save(state, folder / f"rank{dist.get_rank()}.pt")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the two processes once; their folder."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*run, "-m", "tests.pytorch.test_fit_in_two_processes", str(folder)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("case", [*CASES, "loader"])
def test_two_processes_end_with_the_parameters_of_one(case: str, both: Path) -> None:
    model, history = (train_loader(None, 2), {}) if case == "loader" else train(case)
    for rank in range(2):
        state, seen = torch.load(both / f"rank{rank}.pt", weights_only=True)[case]
        theirs = net()
        theirs.load_state_dict(state)
        assert distance(model, theirs) < 1e-6
        assert list(seen) == list(history)
        np.testing.assert_allclose([*seen.values()], [*history.values()], rtol=1e-6)
    assert distance(model, net()) > 1e-3


def test_a_batch_too_small_to_share_is_refused_on_both(both: Path) -> None:
    for rank in range(2):
        message = (both / f"error{rank}").read_text("utf-8")
        assert message.startswith(
            "a batch of 1 rows cannot be shared by 2 processes; choose another"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
