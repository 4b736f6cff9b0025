from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mtl_tutorial.pytorch import HardSharing, TextHead, TextLSTM, TextTransformer, linear_heads
from mtl_tutorial.tasks import Classification

IDS = torch.tensor([[2, 3, 4, 1], [5, 6, 0, 0], [7, 0, 0, 0]])
TRUNKS: dict[str, Any] = {
    "lstm": lambda **settings: TextLSTM(words=9, embedding=5, units=8, **settings),
    "transformer": lambda **settings: TextTransformer(words=9, units=8, longest=9, **settings),
}


def make(kind: str, *, every_word: bool) -> Any:
    torch.manual_seed(0)
    return TRUNKS[kind](every_word=every_word).eval()


@pytest.mark.parametrize("kind", TRUNKS)
@pytest.mark.parametrize("every_word", [False, True])
def test_padding_changes_no_output(kind: str, every_word: bool) -> None:
    trunk = make(kind, every_word=every_word)
    padded = nn.functional.pad(IDS, (0, 5))
    found, longer = trunk(IDS), trunk(padded)
    if every_word:
        assert not longer[:, 1 + IDS.shape[1] :].any()
        longer = longer[:, : 1 + IDS.shape[1]]
    torch.testing.assert_close(longer, found, rtol=0, atol=1e-6)
    alone = trunk(IDS[1:2, :2])
    torch.testing.assert_close(
        alone[0], found[1, :3] if every_word else found[1], atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("kind", TRUNKS)
def test_padding_gets_zero_features_and_the_text_comes_first(kind: str) -> None:
    texts, words = make(kind, every_word=False)(IDS), make(kind, every_word=True)(IDS)
    assert words.shape == (3, 5, 8)
    torch.testing.assert_close(words[:, 0], texts)
    assert not words[1, 3:].any()
    assert words[1, 1:3].all()


def test_the_lstm_is_read_at_the_last_word() -> None:
    trunk = make("lstm", every_word=True)
    found = trunk(IDS)
    for row, last in enumerate([4, 2, 1]):
        torch.testing.assert_close(found[row, 0], found[row, last])


def test_a_row_without_words() -> None:
    nothing = torch.zeros(2, 4, dtype=torch.int64)
    assert not make("lstm", every_word=False)(nothing).any()
    assert not make("lstm", every_word=True)(nothing).any()
    assert make("transformer", every_word=False)(nothing).isfinite().all()


@pytest.mark.parametrize("kind", TRUNKS)
def test_order_counts_and_unknown_words_are_answered(kind: str) -> None:
    trunk = make(kind, every_word=False)
    found = trunk(torch.tensor([[2, 3], [3, 2], [1, 1]]))
    assert found.isfinite().all()
    assert not torch.allclose(found[0], found[1])


@pytest.mark.parametrize("kind", TRUNKS)
def test_every_parameter_learns_and_padding_does_not(kind: str) -> None:
    trunk = make(kind, every_word=True)
    trunk(IDS).square().sum().backward()
    for name, parameter in trunk.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert not trunk.embedding.weight.grad[0].any()


def test_a_text_too_long_for_its_places() -> None:
    with pytest.raises(ValueError, match="may have 9 words; these have 10"):
        make("transformer", every_word=False)(torch.ones(1, 10, dtype=torch.int64))


def test_heads_of_two_levels() -> None:
    features = torch.randn(3, 5, 8)
    text, word = TextHead(8, 2, "text"), TextHead(8, 4, "word")
    torch.testing.assert_close(text(features), text.linear(features[:, 0]))
    torch.testing.assert_close(word(features).view(3, 4, 4), word.linear(features[:, 1:]))
    with pytest.raises(ValueError, match="'text' or 'word'"):
        TextHead(8, 2, "letter")


@pytest.mark.parametrize("kind", TRUNKS)
def test_in_a_model(kind: str) -> None:
    tasks = [Classification("sentiment", classes=2), Classification("domain", classes=3)]
    model = HardSharing(make(kind, every_word=False), linear_heads(tasks, features=8))
    assert {n: tuple(o.shape) for n, o in model(IDS).items()} == {
        "sentiment": (3, 2),
        "domain": (3, 3),
    }
    assert np.isfinite(model(IDS)["domain"].detach().numpy()).all()
