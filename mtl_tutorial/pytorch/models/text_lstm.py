"""Trunks that read rows of word numbers: an LSTM, and a small Transformer encoder."""

import torch
from torch import Tensor, nn


class TextLSTM(nn.Module):
    r"""Word vectors, then an LSTM that reads them from left to right (Hochreiter & Schmidhuber, 1997).

    Padding changes no output: the state is read at a text's last word, and what stands behind it
    never enters. Dropout is on the word vectors and on the features.

    Parameters
    ----------
    words : int
        The length of the vocabulary; numbers from 0 (padding) to ``words - 1`` are allowed.
    embedding : int
        The width of a word's vector.
    units : int
        The width F of the features.
    dropout : float
    every_word : bool
        Give the state after each word, behind that of the whole text, for heads that tag words.

    Notes
    -----
    Input: integers of shape (N, length), padded with 0 at the end. Features: shape (N, F), the state
    after the last word; 0 for a row without any word, so that heads answer with their biases. With
    ``every_word`` shape (N, 1 + length, F): at place 0 the whole text, then each word, 0 where there
    is padding.

    Examples
    --------
    >>> ids = torch.tensor([[2, 3, 4], [5, 0, 0]])
    >>> TextLSTM(words=10, embedding=4, units=8)(ids).shape
    torch.Size([2, 8])
    >>> TextLSTM(words=10, embedding=4, units=8, every_word=True)(ids).shape
    torch.Size([2, 4, 8])
    """

    def __init__(
        self,
        words: int = 10_000,
        embedding: int = 100,
        units: int = 128,
        dropout: float = 0.2,
        *,
        every_word: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, embedding, padding_idx=0)
        nn.init.uniform_(self.embedding.weight, -0.05, 0.05)  # as Keras does
        self.lstm = nn.LSTM(embedding, units, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.every_word = every_word

    def forward(self, ids: Tensor) -> Tensor:
        """Give the features of rows of word numbers."""
        there = ids != 0
        lengths = there.sum(dim=1)
        longest = int(lengths.max().clamp(min=1))
        states, _ = self.lstm(self.dropout(self.embedding(ids[:, :longest])))
        states = self.dropout(states * there[:, :longest, None])
        row = torch.arange(len(ids), device=ids.device)
        text: Tensor = states[row, (lengths - 1).clamp(min=0)]
        if not self.every_word:
            return text
        states = nn.functional.pad(states, (0, 0, 0, ids.shape[1] - longest))
        return torch.cat([text[:, None], states], dim=1)


class TextTransformer(nn.Module):
    r"""Word and place vectors, then a Transformer encoder (Vaswani et al., 2017).

    Every word attends to every word of its text, and to an extra first place that stands for the
    whole text; nobody attends to padding, so padding changes no output. Each layer normalises before
    attention and before its two dense layers, which have a ReLU between them.

    Parameters
    ----------
    words : int
        The length of the vocabulary.
    units : int
        The width F of word vectors and features; a multiple of ``attention_heads``.
    layers, attention_heads : int
    longest : int
        The most words that a text may have.
    dropout : float
    every_word : bool
        Give the features of each word, behind those of the whole text.

    Notes
    -----
    Input and features have the shapes of :class:`TextLSTM`. A longer text raises ``ValueError``.

    Examples
    --------
    >>> ids = torch.tensor([[2, 3, 4], [5, 0, 0]])
    >>> TextTransformer(words=10, units=8, every_word=True)(ids).shape
    torch.Size([2, 4, 8])
    """

    def __init__(
        self,
        words: int = 10_000,
        units: int = 64,
        *,
        layers: int = 2,
        attention_heads: int = 4,
        longest: int = 64,
        dropout: float = 0.1,
        every_word: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, units)
        self.place = nn.Embedding(1 + longest, units)
        for table in (self.embedding, self.place):
            nn.init.uniform_(table.weight, -0.05, 0.05)
        layer = nn.TransformerEncoderLayer(
            units, attention_heads, 2 * units, dropout, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, layers, norm=nn.LayerNorm(units), enable_nested_tensor=False
        )
        self.longest, self.every_word = longest, every_word

    def forward(self, ids: Tensor) -> Tensor:
        """Give the features of rows of word numbers."""
        if ids.shape[1] > self.longest:
            raise ValueError(f"texts may have {self.longest} words; these have {ids.shape[1]}")
        vectors = self.embedding(ids)
        vectors = torch.cat([torch.zeros_like(vectors[:, :1]), vectors], dim=1)
        vectors = vectors + self.place.weight[: vectors.shape[1]]
        hidden = nn.functional.pad(ids == 0, (1, 0))  # the first place is never hidden
        features = self.encoder(vectors, src_key_padding_mask=hidden)
        if self.every_word:
            return torch.as_tensor(features.masked_fill(hidden[:, :, None], 0))
        return torch.as_tensor(features[:, 0])


class TextHead(nn.Module):
    """A linear layer on one level of the features of a trunk with ``every_word``.

    Parameters
    ----------
    features, outputs : int
        The widths of the features and of the task's outputs.
    level : {"text", "word"}
        ``"text"``: one output a text, shape (N, outputs). ``"word"``: one a word, shape
        (N * length, outputs), the words of the first text first; targets ``(N, length)``, -1 where
        there is padding, fit them once flattened.

    Examples
    --------
    >>> features = torch.zeros(2, 1 + 5, 8)
    >>> TextHead(8, 3, "text")(features).shape, TextHead(8, 3, "word")(features).shape
    (torch.Size([2, 3]), torch.Size([10, 3]))
    """

    def __init__(self, features: int, outputs: int, level: str) -> None:
        super().__init__()
        if level not in ("text", "word"):
            raise ValueError(f"level is 'text' or 'word'; got {level!r}")
        self.linear, self.level = nn.Linear(features, outputs), level

    def forward(self, features: Tensor) -> Tensor:
        """Give the outputs for features of shape (N, 1 + length, F)."""
        if self.level == "text":
            return torch.as_tensor(self.linear(features[:, 0]))
        return torch.as_tensor(self.linear(features[:, 1:].flatten(0, 1)))
