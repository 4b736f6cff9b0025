"""``mtl_backward`` inside Accelerate: it takes the place of ``accelerator.backward``.

In two processes, ``torchrun --nproc_per_node 2 examples/with_accelerate.py`` or ``accelerate
launch`` (without a GPU: ``Accelerator(cpu=True)``), nothing else changes: ``prepare`` wraps the model
for its own averaging, so call the unwrapped module, and ``mtl_backward`` averages over the processes.
Where labels are missing, divide the losses by the labels of all of them:
``mtl_tutorial.pytorch.distributed.over_ranks``.
"""

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, StackDataset

from mtl_tutorial.datasets import digits
from mtl_tutorial.pytorch import (
    HardSharing,
    batch_losses,
    evaluate,
    linear_heads,
    mlp,
    mtl_backward,
)
from mtl_tutorial.tasks import Binary, Classification
from mtl_tutorial.weighting import UPGrad

TASKS = [Classification("digit", classes=10), Binary("gt5")]


def main(**settings):
    """Train on the digits, give the losses and metrics of the validation rows."""
    accelerator, data, weighting = Accelerator(**settings), digits(), UPGrad()
    rows = StackDataset(data.train.inputs, StackDataset(**data.train.targets))
    model = HardSharing(mlp(784, 64), linear_heads(TASKS, features=64))
    model, optimizer, loader = accelerator.prepare(
        model, torch.optim.Adam(model.parameters(), lr=1e-3), DataLoader(rows, 64, shuffle=True)
    )
    model = accelerator.unwrap_model(model)
    for _ in range(5):
        for inputs, targets in loader:
            with accelerator.autocast():
                features = model.encode(inputs)
                outputs = model.decode(features)
                losses = batch_losses(TASKS, outputs, targets)
            shared, scaler = model.shared_parameters(), accelerator.scaler
            optimizer.zero_grad()
            mtl_backward(losses, features, weighting, shared, scaler=scaler, model=model)
            optimizer.step()
        weighting.end_epoch()
    return evaluate(model, TASKS, data.valid)


if __name__ == "__main__":
    print(main())
