"""``mtl_backward`` inside Lightning: manual optimisation, a step of your own in ``training_step``.

In two processes, ``Trainer(accelerator="cpu", devices=2, strategy="ddp")``, nothing else changes:
``self.model`` is the module itself, not Lightning's wrapper, and ``mtl_backward`` averages over the
processes. Where labels are missing, divide the losses by the labels of all of them:
``mtl_tutorial.pytorch.distributed.over_ranks``.
"""

import lightning
import torch
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


class MultiTask(lightning.LightningModule):
    """Any model, any weighting."""

    def __init__(self, model, weighting):
        super().__init__()
        self.model, self.weighting, self.automatic_optimization = model, weighting, False

    def training_step(self, batch, _):
        """Forward pass, weighted gradients, step."""
        features = self.model.encode(batch[0])
        outputs = self.model.decode(features)
        losses, shared = batch_losses(TASKS, outputs, batch[1]), self.model.shared_parameters()
        self.optimizers().zero_grad()
        mtl_backward(losses, features, self.weighting, shared, model=self.model)
        self.optimizers().step()

    def on_train_epoch_end(self):
        """DWA counts epochs."""
        self.weighting.end_epoch()

    def on_save_checkpoint(self, checkpoint):
        """Keep the weighting's memory with the model's."""
        checkpoint["weighting"] = self.weighting.state_dict()

    def on_load_checkpoint(self, checkpoint):
        """Go on from it."""
        self.weighting.load_state_dict(checkpoint["weighting"])

    def configure_optimizers(self):
        """As everywhere in Lightning."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main(**trainer):
    """Train on the digits, give the losses and metrics of the validation rows."""
    data = digits()
    rows = StackDataset(data.train.inputs, StackDataset(**data.train.targets))
    model = HardSharing(mlp(784, 64), linear_heads(TASKS, features=64))
    run = lightning.Trainer(max_epochs=5, logger=False, enable_checkpointing=False, **trainer)
    run.fit(MultiTask(model, UPGrad()), DataLoader(rows, batch_size=64, shuffle=True))
    return evaluate(model, TASKS, data.valid)


if __name__ == "__main__":
    print(main())
