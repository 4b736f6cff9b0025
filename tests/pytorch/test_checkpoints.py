"""Kill and go on: bit for bit, and never from a file that runs code or is of another training."""

import copy
import io
import os
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader

from mtl_tutorial.pytorch import HardSharing, fit, linear_heads, mlp
from mtl_tutorial.weighting import UW, UPGrad, Weighting
from tests.pytorch.test_real_runs import (
    EVERY,
    TASKS,
    TRAIN,
    VALID,
    collate,
    net,
    pairs,
    same,
    sgd,
    split,
)

BOTH: dict[str, Any] = {"batch_size": 16, "device": "cpu"}


def weighted() -> Weighting:
    """A rule with a state."""
    return UW(lr=0.1)


@pytest.mark.parametrize("made", EVERY, ids=lambda w: type(w).__name__)
def test_two_epochs_and_three_are_five_bit_for_bit(made: Weighting, tmp_path: Path) -> None:
    """With dropout, which draws from PyTorch's generator, a schedule, and the order of the data."""

    def train(model: nn.Module, epochs: int, folder: Path | None) -> tuple[Any, Weighting]:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 3], gamma=0.5)
        weighting = copy.deepcopy(made)
        history = fit(
            model, TASKS, TRAIN, VALID, epochs=epochs, weighting=weighting, schedule=schedule,
            checkpoint=folder, **BOTH,
        )  # fmt: skip
        return history, weighting

    whole = net(dropout=0.3)
    torch.manual_seed(5)
    expected, remembered = train(whole, 5, None)
    first = net(dropout=0.3)
    torch.manual_seed(5)
    train(first, 2, tmp_path)
    second = net(dropout=0.3, seed=1)
    torch.manual_seed(6)  # whatever happened in between
    # NumPy's old global state, too, must come back
    np.random.seed(6)  # noqa: NPY002
    history, went_on = train(second, 5, tmp_path)
    assert same(whole, second)
    assert history == expected
    assert str(went_on.state_dict()) == str(remembered.state_dict())  # NaN among them
    assert len(history["val_loss"]) == 5


class Noisy(torch.utils.data.Dataset[Any]):
    """Draws from every global generator, as augmentations do."""

    def __init__(self) -> None:
        self.pairs = pairs(TRAIN)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Any:
        inputs, *targets = self.pairs[index]
        # NumPy's old global state, too, must come back
        noise = random.random() + np.random.random() + torch.rand(()).item()  # noqa: NPY002
        return (inputs + noise, *targets)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("own_generator", [False, True])
def test_a_loader_goes_on_bit_for_bit(workers: int, own_generator: bool, tmp_path: Path) -> None:
    def train(epochs: int, seed: int, folder: Path | None) -> nn.Module:
        model = net()
        random.seed(seed)
        # NumPy's old global state, too, must come back
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        loader = DataLoader(
            Noisy(), batch_size=16, shuffle=True, num_workers=workers, collate_fn=collate,
            generator=torch.Generator().manual_seed(seed) if own_generator else None,
        )  # fmt: skip
        fit(model, TASKS, loader, VALID, epochs=epochs, checkpoint=folder, device="cpu")
        return model

    whole = train(3, 0, None)
    train(1, 0, tmp_path)
    assert same(whole, train(3, 7, tmp_path))


def test_early_stopping_goes_on_to_the_same_end(tmp_path: Path) -> None:
    """The best epoch lies before the interruption, the last after it."""
    settings: dict[str, Any] = {"patience": 4, "monitor": "val_size_mae", **BOTH}
    whole, second = net(), net(seed=3)
    expected = fit(whole, TASKS, TRAIN, VALID, epochs=60, **settings)
    stopped = len(expected["val_loss"])
    assert 6 < stopped < 60
    fit(net(), TASKS, TRAIN, VALID, epochs=stopped - 2, checkpoint=tmp_path, **settings)
    history = fit(second, TASKS, TRAIN, VALID, epochs=60, checkpoint=tmp_path, **settings)
    assert history == expected
    assert same(whole, second)
    third = net(seed=4)  # nothing is left to do
    assert fit(third, TASKS, TRAIN, VALID, epochs=60, checkpoint=tmp_path, **settings) == expected
    assert same(whole, third)


def fast(model: nn.Module) -> torch.optim.Optimizer:
    """Too fast: it goes up and down."""
    return torch.optim.SGD(model.parameters(), lr=0.15)


def test_the_best_is_kept_apart_and_opens_with_safetensors(tmp_path: Path) -> None:
    model = net()
    history = fit(
        model, TASKS, TRAIN, VALID, epochs=6, checkpoint=tmp_path, optimizer=fast(model),
        monitor="val_kind_accuracy", **BOTH,
    )  # fmt: skip
    place = int(np.argmax(history["val_kind_accuracy"]))
    best = net()
    best.load_state_dict(load_file(tmp_path / "best.safetensors"))
    again = net()
    fit(again, TASKS, TRAIN, VALID, epochs=place + 1, optimizer=fast(again), **BOTH)
    assert same(best, again)
    assert place < 5  # else there is nothing to tell apart


def test_killed_between_latest_and_best_the_best_is_written_from_the_latest(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"monitor": "size_loss", "checkpoint": tmp_path, **BOTH}
    history = fit(net(), TASKS, TRAIN, epochs=2, **settings)
    assert history["size_loss"][1] < history["size_loss"][0]
    best = tmp_path / "best.safetensors"
    expected = load_file(best)
    best.unlink()
    fit(net(), TASKS, TRAIN, epochs=2, **settings)
    assert all(torch.equal(load_file(best)[name], value) for name, value in expected.items())


OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "batch_size": ({"batch_size": 32}, "batch_size: 16 then, 32 now"),
    "weighting": ({"weighting": UPGrad()}, r"weighting: UW\(lr=0.1.*\) then, UPGrad\(.*\) now"),
    "seed": ({"seed": 1}, "seed: 0 then, 1 now"),
    "several": (
        {"seed": 1, "clip_norm": 1.0},
        "seed: 0 then, 1 now; clip_norm: None then, 1.0 now",
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_other_arguments_are_listed(name: str, tmp_path: Path) -> None:
    arguments, message = OTHER[name]
    settings: dict[str, Any] = {"weighting": weighted(), "checkpoint": tmp_path, **BOTH}
    fit(net(), TASKS, TRAIN, epochs=1, **settings)
    before = (tmp_path / "latest.safetensors").read_bytes()
    model = net(seed=1)
    with pytest.raises(ValueError, match=f"is of a training with other settings: .*{message}"):
        fit(model, TASKS, TRAIN, epochs=2, **(settings | arguments))
    assert same(model, net(seed=1))
    assert (tmp_path / "latest.safetensors").read_bytes() == before


def test_another_model_or_other_tasks_or_another_rate_are_listed(tmp_path: Path) -> None:
    fit(net(), TASKS, TRAIN, epochs=1, checkpoint=tmp_path, **BOTH)
    torch.manual_seed(0)
    wider = HardSharing(mlp(6, 9), linear_heads(TASKS, features=9)).double()
    with pytest.raises(
        ValueError, match=r"parameter trunk.1.weight: torch.float64 \(8, 6\) then, .* \(9, 6\) now"
    ):
        fit(wider, TASKS, TRAIN, epochs=2, checkpoint=tmp_path, **BOTH)
    with pytest.raises(ValueError, match=r"tasks: .*Regression.* then, .* now"):
        fit(net(), TASKS[:2], TRAIN, epochs=2, checkpoint=tmp_path, **BOTH)
    model = net()
    faster = torch.optim.Adam(model.parameters(), lr=0.5, fused=True)
    with pytest.raises(ValueError, match=r"optimizer's lr: 0\.001 then, 0\.5 now"):
        fit(model, TASKS, TRAIN, epochs=2, optimizer=faster, checkpoint=tmp_path, **BOTH)
    with pytest.raises(ValueError, match="rows of train: 50 then, 49 now"):
        fit(net(), TASKS, TRAIN.take(slice(49)), epochs=2, checkpoint=tmp_path, **BOTH)


class Hostile:
    """A pickle of it makes a file when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_a_hostile_pickle_is_refused_unopened(tmp_path: Path) -> None:
    mark = tmp_path / "opened"
    for hostile in (pickle.dumps(Hostile(mark)), torch_bytes(Hostile(mark))):
        (tmp_path / "latest.safetensors").write_bytes(hostile)
        with pytest.raises(
            ValueError, match=r"latest.safetensors is no checkpoint, or was cut short"
        ):
            fit(net(), TASKS, TRAIN, epochs=1, checkpoint=tmp_path)
        assert not mark.exists()
    pickle.loads(pickle.dumps(Hostile(mark)))  # what it would have done
    assert mark.exists()


def torch_bytes(thing: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    fit(net(), TASKS, TRAIN, epochs=1, checkpoint=tmp_path, **BOTH)
    path = tmp_path / "latest.safetensors"
    whole = path.read_bytes()
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is no checkpoint, or was cut short"):
            fit(net(), TASKS, TRAIN, epochs=2, checkpoint=tmp_path, **BOTH)


def test_tensors_that_another_program_wrote_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "latest.safetensors")
    with pytest.raises(ValueError, match="holds tensors, but was not written by fit"):
        fit(net(), TASKS, TRAIN, epochs=1, checkpoint=tmp_path)


def test_a_state_that_is_no_data_is_refused_by_its_place(tmp_path: Path) -> None:
    model = net()
    optimizer = sgd(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, Rate())
    with pytest.raises(
        TypeError, match=r"states.schedule.lr_lambdas.0.path is a PosixPath: a checkp"
    ):
        fit(model, TASKS, TRAIN, epochs=1, schedule=schedule, checkpoint=tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


class Rate:
    """A learning rate's factor with a state that JSON cannot hold."""

    def __init__(self) -> None:
        self.path = Path("here")

    def __call__(self, epoch: int) -> float:
        return 1.0


EPOCHS = 100


def killed_run(folder: str, *callbacks: Any) -> tuple[nn.Module, dict[str, list[float]]]:
    """Train what is killed and goes on."""
    model = net(dropout=0.2)
    history = fit(
        model, TASKS, split(16), epochs=EPOCHS, weighting=UW(), checkpoint=folder,
        callbacks=callbacks, monitor="size_loss", **BOTH,
    )  # fmt: skip
    return model, history


def test_sigkill_at_20_random_moments_loses_an_epoch_at_most(tmp_path: Path) -> None:
    """After each kill the file opens, and of the epochs that a callback saw all but one are there."""
    start = time.perf_counter()
    expected, history = killed_run(str(tmp_path / "never killed"))
    an_epoch = (time.perf_counter() - start) / EPOCHS  # seconds, on this machine
    folder, generator = tmp_path / "killed", np.random.default_rng(0)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    epochs = 0
    with subprocess.Popen(
        [sys.executable, "-c", FORKS, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    ) as parent:  # fmt: skip
        assert parent.stdin is not None
        assert parent.stdout is not None
        for _ in range(20):
            after, delay = int(generator.integers(1, 5)), generator.uniform(0, an_epoch)
            parent.stdin.write(f"{after} {delay}\n")
            parent.stdin.flush()
            seen, saved = int(parent.stdout.readline()), saved_epochs(folder)
            assert max(seen - 1, epochs) <= saved <= seen
            epochs = saved
        parent.stdin.close()
        parent.wait()
    assert 20 <= epochs < EPOCHS
    model, went_on = killed_run(str(folder))
    assert went_on == history
    assert same(model, expected)


# One process loads the libraries, and forks a training for each line that it is sent, which says after
# how many epochs, and how many seconds, to kill it.
FORKS = """
import os, signal, sys, time
import torch
torch.set_num_threads(1)
import torch._dynamo  # the first optimizer would import it
from tests.pytorch.test_checkpoints import killed_run

for line in sys.stdin:
    after, delay = line.split()
    heard, told = os.pipe()
    child = os.fork()
    if not child:
        killed_run(sys.argv[1], lambda epoch, row: os.write(told, f"{epoch}\\n".encode()))
        os._exit(0)
    os.close(told)
    with os.fdopen(heard) as file:
        seen = [next(file) for _ in range(int(after))]
        time.sleep(float(delay))
        os.kill(child, signal.SIGKILL)
        seen += file
    os.waitpid(child, 0)
    print(seen[-1].strip(), flush=True)
"""


def saved_epochs(folder: Path) -> int:
    """Read how many epochs the latest checkpoint holds; it must open."""
    from mtl_tutorial.pytorch._checkpoint import load

    path = folder / "latest.safetensors"
    return len(load(path)["history"]["size_loss"]) if path.exists() else 0
