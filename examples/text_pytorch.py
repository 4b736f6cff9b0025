"""A transformer that tags words and judges sentences in PyTorch, by hand and with the library.

``python examples/text_pytorch.py`` takes well under a minute. The sentences are described in
``text_data.py``; padding and what nobody tagged have no say. The loop written by hand and ``fit`` with
equal weights take the same steps, warm-up and clipping included; another weighting is one word.
Over hundreds of steps rounding may show in the last digits.
"""

import numpy as np
import torch
import torch.nn.functional as F
from results import show
from text_data import LENGTH, TAGS, TASKS, Sentences, make, simple_scores
from torch import Tensor, nn

from mtl_tutorial.pytorch import evaluate, fit
from mtl_tutorial.weighting import Equal, UPGrad

BATCH, RATE, CLIP = 32, 3e-3, 1.0


class Transformer(nn.Module):
    """Word vectors with places, two layers of attention; a head a word, and a head a sentence."""

    def __init__(self, words: int, width: int = 32):
        super().__init__()
        self.words = nn.Embedding(words, width, padding_idx=0)
        self.places = nn.Parameter(0.1 * torch.randn(LENGTH, width))
        layer = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=64, dropout=0.1, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.heads = nn.ModuleDict(
            {"tag": nn.Linear(width, len(TAGS)), "mood": nn.Linear(width, 1)}
        )

    def encode(self, ids: Tensor) -> dict[str, Tensor]:
        """Give a vector a word, shape (N, L, width), and which words are none."""
        padding = ids == 0
        vectors = self.words(ids) + self.places[: ids.shape[1]]
        return {
            "words": self.layers(vectors, src_key_padding_mask=padding),
            "padding": padding,
        }

    def decode(self, features: dict[str, Tensor], tasks: list[str] | None = None):
        """Give logits: of the tags (N, L, 7), of the mood (N, 1), read off the mean of the words."""
        outputs = {}
        for name in self.heads if tasks is None else tasks:
            read = features["words"]
            if name == "mood":
                there = ~features["padding"][..., None]
                read = (read * there).sum(dim=1) / there.sum(dim=1)
            outputs[name] = self.heads[name](read)
        return outputs

    def shared_parameters(self) -> list[nn.Parameter]:
        """Give all but the heads."""
        return [p for name, p in self.named_parameters() if not name.startswith("heads")]


def build(data: Sentences, epochs: int):
    """Give the network, the same each time, and its learning rates: up, then down to 0."""
    torch.manual_seed(0)
    model = Transformer(len(data.words))
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    steps = epochs * -(-len(data.train) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    return model, schedule


def by_hand(data: Sentences, epochs: int) -> Transformer:
    """Train with the loop that ``fit`` replaces."""
    model, schedule = build(data, epochs)
    optimizer, generator = schedule.optimizer, np.random.default_rng(0)
    ids = torch.from_numpy(data.train.inputs)
    tags, moods = (torch.from_numpy(data.train.targets[name]) for name in ("tag", "mood"))
    model.train()
    for _ in range(epochs):
        order = torch.from_numpy(generator.permutation(len(ids)))
        for rows in order.split(BATCH):
            outputs = model.decode(model.encode(ids[rows]))
            loss = F.cross_entropy(outputs["tag"].movedim(-1, 1), tags[rows], ignore_index=-1)
            known = moods[rows] >= 0
            if known.any():  # the mean of nothing is NaN
                loss = loss + F.binary_cross_entropy_with_logits(
                    outputs["mood"][known, 0], moods[rows][known].float()
                )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
    return model


def with_library(data: Sentences, epochs: int, weighting) -> Transformer:
    """Train the same network in the same order, with any weighting."""
    model, schedule = build(data, epochs)
    fit(
        model, TASKS, data.train, data.valid, epochs=epochs, batch_size=BATCH, schedule=schedule,
        schedule_every="step", clip_norm=CLIP, weighting=weighting, device="cpu",
    )  # fmt: skip
    return model


def main(sentences: int = 4096, epochs: int = 8) -> dict[str, dict[str, float]]:
    """Train in three ways, print the metrics of the test sentences, and give them."""
    data = make(sentences)
    columns = {"tag table, bag of words": simple_scores(data)}
    columns["by hand"] = evaluate(by_hand(data, epochs), TASKS, data.test)
    for weighting in (Equal(), UPGrad()):
        model = with_library(data, epochs, weighting)
        columns[type(weighting).__name__] = evaluate(model, TASKS, data.test)
    show("test", columns, list(columns["tag table, bag of words"]))
    return columns


if __name__ == "__main__":
    main()
