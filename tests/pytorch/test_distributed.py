"""Two processes take the steps of one process with all their rows.

The file is also the program of the two: it runs every case once, on rows of its own.
"""

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from mtl_tutorial.pytorch import accumulated_backward, mtl_backward
from mtl_tutorial.pytorch.distributed import observed, over_ranks, same_start
from mtl_tutorial.weighting import MGDA, UW, Equal, UPGrad, Weighting
from tests.pytorch.test_accumulation import METHODS as THEIRS
from tests.pytorch.test_accumulation import Batch, Net

ROOT, RANKS, STEPS = Path(__file__).parents[2], 2, 10
SHARES = [slice(0, 8), slice(8, 12)]  # of the twelve rows


class BySize(Weighting):
    """Weights that hang on the size of losses and gradients, as those of most methods do not."""

    needs_gramian: ClassVar[bool] = True

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        assert gramian is not None
        return np.asarray(1 / (1 + losses + np.diagonal(gramian)))


METHODS = THEIRS | {"BySize": BySize}
CASES = [(method, way) for method in METHODS for way in ("parameters", "features", "accumulated")]
CASES.remove(("ConFIG (TorchJD)", "features"))


def new_data(net: Net, step: int) -> None:
    """Draw rows: only the last three have a label of b, now and then none has one of c.

    In the fourth step the first rank has no label at all.
    """
    generator = torch.Generator().manual_seed(step)
    net.rows = torch.randn(12, 5, dtype=torch.float64, generator=generator)
    net.targets = 2 + torch.randn(12, 3, dtype=torch.float64, generator=generator)
    net.targets[:9, 1] = torch.nan
    net.targets[:: 2 if step % 5 < 4 else 1, 2] = torch.nan
    net.targets[: 8 if step == 3 else 0] = torch.nan


def share(net: Net, rows: slice, counts: dict[str, float], ranks: int) -> Batch:
    """One rank's losses, whose means are those of the whole batch."""
    losses, features, extra = net.batch(rows, counts)
    return losses, features, ranks * extra


def train(method: str, way: str, rank: int | None = None) -> dict[str, Any]:
    """Take ten steps on a share of the rows, or on all of them; give all that came of it."""
    rows, ranks = (slice(0, 12), 1) if rank is None else (SHARES[rank], RANKS)
    net, weighting, weights = Net(), METHODS[method](), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(STEPS):
        new_data(net, step)
        counts = over_ranks(net.counts(rows))
        optimizer.zero_grad()
        if way == "accumulated" and rank is not None:
            start, *starts = range(rows.start, rows.stop, 3)
            micro = [
                slice(a, b) for a, b in zip([start, *starts], [*starts, rows.stop], strict=True)
            ]
            told = [count > 0 for count in net.counts(rows).values()] if step % 2 else None
            weights.append(accumulated_backward(
                [share(net, each, counts, ranks) for each in micro], weighting,
                net.trunk.parameters(), present=told, model=net,
            ))  # fmt: skip
        else:
            losses, features, extra = share(net, rows, counts, ranks)
            weights.append(mtl_backward(
                losses, features, weighting, net.trunk.parameters(),
                "features" if way == "features" else "parameters", extra_loss=extra, model=net,
            ))  # fmt: skip
        optimizer.step()
        if getattr(weighting, "needs_observe", False):
            with torch.no_grad():
                weighting.observe(observed(net.batch(rows, counts)[0]))
        if step % 3 == 2 and isinstance(weighting, Weighting):
            weighting.end_epoch()
    state = weighting.state_dict() if isinstance(weighting, Weighting) else {}
    parameters = torch.nn.utils.parameters_to_vector(net.parameters()).detach().numpy()
    return {"parameters": parameters, "weights": np.array(weights), "state": state}


# ------------------------------------------------------------- what is refused, on both ranks


def backward(
    net: Net, rank: int, weighting: Any, gramian: Any = "parameters", **changes: Any
) -> None:
    """Take one step where the rank's own changes replace what would be right."""
    losses, features, _ = net.batch(SHARES[rank])
    losses |= changes.pop("losses", {})
    arguments = {"model": net} | changes
    mtl_backward(losses, features, weighting, net.trunk.parameters(), gramian, **arguments)


def nan_on_one(net: Net, rank: int, weighting: Any, gramian: Any = "parameters") -> None:
    if rank == 1:
        net.targets[11, 1] = torch.inf
    backward(net, rank, weighting, gramian)


def constant_on_one(net: Net, rank: int) -> None:
    backward(net, rank, UPGrad(), losses={"a": torch.zeros(())} if rank == 1 else {})


def broken_loader_on_one(net: Net, rank: int) -> None:
    def micro_batches() -> Any:
        yield net.batch(SHARES[rank])
        if rank == 0:
            raise OSError("disk full")

    accumulated_backward(micro_batches(), UPGrad(), net.trunk.parameters(), model=net)


def outsider(net: Net, rank: int) -> None:
    one = nn.Parameter(torch.ones(2))
    backward(net, rank, Equal(), extra_loss=one.sum())


def accumulated(net: Net, rank: int) -> None:
    micro_batches = [net.batch(SHARES[rank])]
    accumulated_backward(micro_batches, Equal(), model=DistributedDataParallel(net))


OTHER = "RuntimeError: rank {} has stopped here"
WRAPPED = "TypeError: the model is wrapped in DistributedDataParallel.* Call its .module"
REFUSED: dict[str, tuple[Callable[[Net, int], object], list[str]]] = {
    "no model": (lambda net, rank: backward(net, rank, Equal(), model=None),
                 ["ValueError: several processes run.* give model=..."] * 2),
    "wrapped, for nothing": (lambda net, rank: backward(
        net, rank, Equal(), model=DistributedDataParallel(net)), [WRAPPED] * 2),
    "wrapped, for losses": (lambda net, rank: backward(
        net, rank, UW(), model=DistributedDataParallel(net)), [WRAPPED] * 2),
    "wrapped, for the Gramian": (lambda net, rank: backward(
        net, rank, UPGrad(), model=DistributedDataParallel(net)), [WRAPPED] * 2),
    "wrapped, for micro-batches": (accumulated, [WRAPPED] * 2),
    "a parameter of nobody": (outsider, [
        r"ValueError: the loss of 'extra_loss' trains a tensor of shape \(2,\)"] * 2),
    "aggregator at the features": (lambda net, rank: backward(
        net, rank, METHODS["ConFIG (TorchJD)"](), "features"),
        ["ValueError: .* no rank has the Jacobian of the features"] * 2),
    "frozen model": (lambda net, rank: backward(
        net, rank, Equal(), model=nn.Linear(1, 1).requires_grad_(False)),
        ["ValueError: the model has no parameter that requires a gradient"] * 2),
    "one rank's mistake": (constant_on_one, [
        OTHER.format(1), "ValueError: the loss of 'a' is a constant"]),
    "one rank's loader": (broken_loader_on_one, ["OSError: disk full", OTHER.format(0)]),
    "one rank's NaN, losses": (lambda net, rank: nan_on_one(net, rank, UW()),
                               [r"ValueError: the loss of task 1 \('b'\) is inf"] * 2),
    "one rank's NaN, rows": (lambda net, rank: nan_on_one(net, rank, MGDA()),
                             [r"ValueError: .* of task 1 \('b'\) is nan"] * 2),
    "one rank's NaN, features": (lambda net, rank: nan_on_one(net, rank, MGDA(), "features"),
                                 [r"ValueError: .* of task 1 \('b'\) is nan|inf"] * 2),
    "one rank's NaN, aggregator": (lambda net, rank: nan_on_one(
        net, rank, METHODS["ConFIG (TorchJD)"]()),
        ["ValueError: the gradient of task 'b' holds a NaN or an infinity"] * 2),
}  # fmt: skip


def refusal(name: str, rank: int) -> str:
    """Say what was raised; a step that is right must follow."""
    net = Net()
    try:
        REFUSED[name][0](net, rank)
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        assert all(gradient is None for gradient in net.gradients())
        said = f"{type(error).__name__}: {error}"
    backward(Net(), rank, UPGrad())
    return said


# ------------------------------------------------------------- the rest


def overflow(rank: int) -> dict[str, Any]:
    """Too much for one rank's gradients: no rank steps."""
    net, scaler = Net(), torch.amp.GradScaler("cpu", init_scale=2.0**120)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    losses, features, _ = net.batch(SHARES[rank])
    assert losses["a"] is not None
    losses["a"] = losses["a"] * (1e300 if rank == 1 else 1)
    weights = mtl_backward(
        losses, features, UPGrad(), net.trunk.parameters(), scaler=scaler, model=net
    )
    scaler.step(optimizer)
    scaler.update()
    same = all(map(torch.equal, before, net.parameters()))
    return {"weights": weights, "scale": scaler.get_scale(), "same": same}


def started(rank: int) -> np.ndarray:
    torch.manual_seed(rank)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model(torch.randn(4, 3))
    same_start(model)
    return np.concatenate([tensor.flatten().numpy() for tensor in model.state_dict().values()])


def hooked(rank: int) -> tuple[int, bool]:
    """Count how often a hook runs, and tell whether it saw the mean."""
    net, calls = Net(), list[Tensor]()
    weight = net.trunk.get_parameter("0.weight")
    weight.register_hook(calls.append)
    backward(net, rank, UPGrad())
    assert weight.grad is not None
    return len(calls), torch.equal(calls[0], weight.grad)


def through_the_wrapper(rank: int) -> list[bool]:
    """Call DistributedDataParallel, give its module: tell whether two steps are as without."""
    plain, net = Net(), Net()
    wrapped, counts, right = DistributedDataParallel(net), net.counts(slice(None)), []
    for _ in range(2):
        backward(plain, rank, Equal())
        losses, features, _ = wrapped(SHARES[rank], counts)
        mtl_backward(losses, features, Equal(), model=net)
        right.append(all(map(torch.equal, net.gradients(), plain.gradients())))  # type: ignore[arg-type]
    return right


def program(rank: int, folder: Path) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=RANKS
    )
    torch.set_num_threads(1)
    found = {
        "trained": {case: train(*case, rank) for case in CASES},
        "refused": {name: refusal(name, rank) for name in REFUSED},
        "overflow": overflow(rank),
        "started": started(rank),
        "hooked": hooked(rank),
        "wrapper": through_the_wrapper(rank),
        "counts": over_ranks({"a": rank, "b": 0, "c": 3}),
        "observed": observed({"a": torch.tensor(4.0), "b": torch.tensor(1.0) if rank else None}),
    }
    (folder / f"{rank}").write_bytes(pickle.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Run the program in two processes; give what each has found."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.pytorch.test_distributed"]
    runs = [
        subprocess.Popen([*command, str(rank), str(folder)], cwd=ROOT, stderr=subprocess.PIPE)
        for rank in range(RANKS)
    ]
    try:
        for run in runs:
            errors = run.communicate(timeout=240)[1].decode()
            assert run.returncode == 0, errors
    finally:
        for run in runs:
            with run:
                run.kill()
    return [pickle.loads((folder / f"{rank}").read_bytes()) for rank in range(RANKS)]


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_two_processes_are_one_with_all_rows(
    case: tuple[str, str], both: list[dict[str, Any]]
) -> None:
    one = train(*case)
    for found in both:
        mine = found["trained"][case]
        np.testing.assert_allclose(mine["weights"], one["weights"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(mine["parameters"], one["parameters"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_models_and_memories_stay_equal_to_the_last_bit(
    case: tuple[str, str], both: list[dict[str, Any]]
) -> None:
    one, other = (found["trained"][case] for found in both)
    assert one["parameters"].tolist() == other["parameters"].tolist()
    np.testing.assert_equal(one["state"], other["state"])


@pytest.mark.parametrize("name", REFUSED)
def test_refused_on_both_ranks_and_no_gradient_is_touched(
    name: str, both: list[dict[str, Any]]
) -> None:
    for says, found in zip(REFUSED[name][1], both, strict=True):
        with pytest.raises(Exception, match=says):
            raise RuntimeError(found["refused"][name])


def test_overflow_on_one_rank_skips_the_step_on_both(both: list[dict[str, Any]]) -> None:
    for found in both:
        assert np.isnan(found["overflow"]["weights"]).all()
        assert found["overflow"]["scale"] == 2.0**119
        assert found["overflow"]["same"]


def test_same_start_gives_all_the_first_ones_parameters_and_buffers(
    both: list[dict[str, Any]],
) -> None:
    one, other = (found["started"].tolist() for found in both)
    assert one == other


def test_hooks_run_once_on_the_mean(both: list[dict[str, Any]]) -> None:
    assert [found["hooked"] for found in both] == [(1, True)] * 2


def test_who_calls_the_wrapper_is_not_averaged_twice(both: list[dict[str, Any]]) -> None:
    assert [found["wrapper"] for found in both] == [[True, True]] * 2


def test_label_counts_and_losses_are_averaged(both: list[dict[str, Any]]) -> None:
    for found in both:
        assert found["counts"] == {"a": 0.5, "b": 0, "c": 3}
        assert found["observed"].tolist() == [4, 0.5]


if __name__ == "__main__":
    program(int(sys.argv[1]), Path(sys.argv[2]))
