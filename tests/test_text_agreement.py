"""The text trunks of both frameworks give the same features from the same weights."""

from typing import Any

import numpy as np
import pytest
import torch

from mtl_tutorial import keras as mk
from mtl_tutorial import pytorch as mp

IDS = np.array([[2, 3, 4, 1], [5, 6, 0, 0], [7, 0, 0, 0]])


def numpy(parameter: Any) -> np.ndarray:
    return np.asarray(parameter.detach().numpy())


def copy_lstm(ours: mp.TextLSTM, theirs: Any) -> None:
    """Gates stand in the same order; PyTorch's two biases are added."""
    lstm: Any = ours.lstm
    theirs.build(IDS.shape)
    theirs.set_weights(
        [
            numpy(ours.embedding.weight),
            numpy(lstm.weight_ih_l0).T,
            numpy(lstm.weight_hh_l0).T,
            numpy(lstm.bias_ih_l0 + lstm.bias_hh_l0),
        ]
    )


def copy_transformer(ours: mp.TextTransformer, theirs: Any) -> None:
    """Query, key and value stand in one matrix in PyTorch, one for each head in Keras."""
    theirs.build(IDS.shape)
    theirs.embedding.set_weights([numpy(ours.embedding.weight)])
    theirs.place.set_weights([numpy(ours.place.weight)])
    units, heads = ours.embedding.embedding_dim, theirs.settings["attention_heads"]
    split = (heads, units // heads)
    for layer, block in zip(ours.encoder.layers, theirs.blocks, strict=True):
        layer: Any  # type: ignore[no-redef]
        first, attention, second, wide, narrow = block
        weights = []
        for kernel, bias in zip(
            numpy(layer.self_attn.in_proj_weight).reshape(3, units, units),
            numpy(layer.self_attn.in_proj_bias).reshape(3, units),
            strict=True,
        ):
            weights += [kernel.T.reshape(units, *split), bias.reshape(split)]
        weights += [
            numpy(layer.self_attn.out_proj.weight).T.reshape(*split, units),
            numpy(layer.self_attn.out_proj.bias),
        ]
        attention.set_weights(weights)
        first.set_weights([numpy(layer.norm1.weight), numpy(layer.norm1.bias)])
        second.set_weights([numpy(layer.norm2.weight), numpy(layer.norm2.bias)])
        wide.set_weights([numpy(layer.linear1.weight).T, numpy(layer.linear1.bias)])
        narrow.set_weights([numpy(layer.linear2.weight).T, numpy(layer.linear2.bias)])
    norm: Any = ours.encoder.norm
    theirs.norm.set_weights([numpy(norm.weight), numpy(norm.bias)])


def randomize(trunk: torch.nn.Module) -> None:
    """Set biases and norms too, which start at 0 and 1."""
    torch.manual_seed(0)
    for parameter in trunk.parameters():
        torch.nn.init.normal_(parameter, std=0.5)


@pytest.mark.parametrize("every_word", [False, True])
def test_lstm(every_word: bool) -> None:
    ours = mp.TextLSTM(9, 5, 8, every_word=every_word).eval()
    theirs = mk.TextLSTM(9, 5, 8, every_word=every_word)
    randomize(ours)
    copy_lstm(ours, theirs)
    np.testing.assert_allclose(theirs(IDS), numpy(ours(torch.from_numpy(IDS))), atol=1e-5)


@pytest.mark.parametrize("every_word", [False, True])
def test_transformer(every_word: bool) -> None:
    ours = mp.TextTransformer(9, 8, longest=6, every_word=every_word).eval()
    theirs = mk.TextTransformer(9, 8, longest=6, every_word=every_word)
    randomize(ours)
    copy_transformer(ours, theirs)
    with torch.no_grad():  # PyTorch then takes its fast path
        fast = ours(torch.from_numpy(IDS))
    slow = ours(torch.from_numpy(IDS))
    np.testing.assert_allclose(theirs(IDS), numpy(slow), atol=2e-5)
    np.testing.assert_allclose(theirs(IDS), numpy(fast), atol=2e-5)
    assert theirs.count_params() == sum(p.numel() for p in ours.parameters())
