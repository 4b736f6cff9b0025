"""Trunks that read rows of word numbers: an LSTM, and a small Transformer encoder."""

from typing import Any

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("mtl_tutorial")
class TextLSTM(keras.Model):  # type: ignore[misc]  # Keras has no types
    r"""Word vectors, then an LSTM that reads them from left to right (Hochreiter & Schmidhuber, 1997).

    Padding changes no output: ``mask_zero`` has the LSTM keep its state where there is none. Dropout
    is on the word vectors and on the features.

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
    >>> import numpy as np
    >>> ids = np.array([[2, 3, 4], [5, 0, 0]])
    >>> tuple(TextLSTM(words=10, embedding=4, units=8)(ids).shape)
    (2, 8)
    >>> tuple(TextLSTM(words=10, embedding=4, units=8, every_word=True)(ids).shape)
    (2, 4, 8)
    """

    def __init__(
        self,
        words: int = 10_000,
        embedding: int = 100,
        units: int = 128,
        dropout: float = 0.2,
        *,
        every_word: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.embedding = layers.Embedding(words, embedding, mask_zero=True)
        self.lstm = layers.LSTM(units, return_sequences=every_word, return_state=every_word)
        self.dropout = layers.Dropout(dropout)
        self.every_word = every_word
        self.settings = {"words": words, "embedding": embedding, "units": units} | {
            "dropout": dropout,
            "every_word": every_word,
        }

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the weights, for inputs of this shape (None stands for the rows)."""
        self.embedding.build(input_shape)
        self.lstm.build((*input_shape, self.settings["embedding"]))
        self.built = True

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Give the shape of the features."""
        rows, length = input_shape
        units = int(self.settings["units"])
        if not self.every_word:
            return (rows, units)
        return (rows, None if length is None else 1 + length, units)

    def call(self, ids: Any, training: bool | None = None) -> Any:
        """Give the features of rows of word numbers."""
        there = ops.not_equal(ids, 0)
        vectors = self.dropout(self.embedding(ids), training=training)
        found = self.lstm(vectors, mask=there, training=training)
        if not self.every_word:
            return self.dropout(found, training=training)
        states, text, _ = found
        states = states * ops.cast(there[:, :, None], states.dtype)
        return self.dropout(ops.concatenate([text[:, None], states], axis=1), training=training)

    def get_config(self) -> dict[str, Any]:
        """Give the settings, for ``save``."""
        config: dict[str, Any] = super().get_config()
        return config | self.settings


@keras.saving.register_keras_serializable("mtl_tutorial")
class TextTransformer(keras.Model):  # type: ignore[misc]  # Keras has no types
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
    >>> import numpy as np
    >>> ids = np.array([[2, 3, 4], [5, 0, 0]])
    >>> tuple(TextTransformer(words=10, units=8, every_word=True)(ids).shape)
    (2, 4, 8)
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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        start = keras.initializers.RandomUniform(-0.05, 0.05)
        new = keras.layers
        self.embedding = new.Embedding(words, units, embeddings_initializer=start)
        self.place = new.Embedding(1 + longest, units, embeddings_initializer=start)
        self.blocks = [
            (
                new.LayerNormalization(epsilon=1e-5),
                new.MultiHeadAttention(attention_heads, units // attention_heads, dropout=dropout),
                new.LayerNormalization(epsilon=1e-5),
                new.Dense(2 * units, activation="relu"),
                new.Dense(units),
            )
            for _ in range(layers)
        ]
        self.norm = new.LayerNormalization(epsilon=1e-5)
        self.dropout = new.Dropout(dropout)
        self.longest, self.every_word = longest, every_word
        self.settings = {"words": words, "units": units, "layers": layers} | {
            "attention_heads": attention_heads,
            "longest": longest,
            "dropout": dropout,
            "every_word": every_word,
        }

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the weights, for inputs of this shape (None stands for the rows)."""
        units = int(self.settings["units"])
        shape = (None, None, units)
        self.embedding.build(input_shape)
        self.place.build((None,))
        for first, attention, second, wide, narrow in self.blocks:
            first.build(shape)
            attention.build(shape, shape)
            second.build(shape)
            wide.build(shape)
            narrow.build((None, None, 2 * units))
        self.norm.build(shape)
        self.built = True

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Give the shape of the features."""
        rows, length = input_shape
        units = int(self.settings["units"])
        if not self.every_word:
            return (rows, units)
        return (rows, None if length is None else 1 + length, units)

    def call(self, ids: Any, training: bool | None = None) -> Any:
        """Give the features of rows of word numbers."""
        if ids.shape[1] is not None and ids.shape[1] > self.longest:
            raise ValueError(f"texts may have {self.longest} words; these have {ids.shape[1]}")
        there = ops.pad(ops.not_equal(ids, 0), [[0, 0], [1, 0]], constant_values=True)
        vectors = ops.pad(self.embedding(ids), [[0, 0], [1, 0], [0, 0]])
        vectors = vectors + self.place(ops.arange(ops.shape(vectors)[1]))
        for first, attention, second, wide, narrow in self.blocks:
            normal = first(vectors)
            seen = attention(normal, normal, attention_mask=there[:, None], training=training)
            vectors = vectors + self.dropout(seen, training=training)
            hidden = self.dropout(wide(second(vectors)), training=training)
            vectors = vectors + self.dropout(narrow(hidden), training=training)
        features = self.norm(vectors)
        if self.every_word:
            return features * ops.cast(there[:, :, None], features.dtype)
        return features[:, 0]

    def get_config(self) -> dict[str, Any]:
        """Give the settings, for ``save``."""
        config: dict[str, Any] = super().get_config()
        return config | self.settings


@keras.saving.register_keras_serializable("mtl_tutorial")
class TextHead(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """A linear layer on one level of the features of a trunk with ``every_word``.

    Parameters
    ----------
    outputs : int
        The width of the task's outputs.
    level : {"text", "word"}
        ``"text"``: one output a text, shape (N, outputs). ``"word"``: one a word, shape
        (N * length, outputs), the words of the first text first, as the losses of
        :func:`~mtl_tutorial.keras.task_losses` read targets of shape (N, length).

    Examples
    --------
    >>> import numpy as np
    >>> features = np.zeros((2, 1 + 5, 8))
    >>> tuple(TextHead(3, "text")(features).shape), tuple(TextHead(3, "word")(features).shape)
    ((2, 3), (10, 3))
    """

    def __init__(self, outputs: int, level: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if level not in ("text", "word"):
            raise ValueError(f"level is 'text' or 'word'; got {level!r}")
        self.outputs, self.level = outputs, level
        self.linear = layers.Dense(outputs)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the weights, for features of this shape."""
        self.linear.build((None, input_shape[-1]))
        self.built = True

    def call(self, features: Any) -> Any:
        """Give the outputs for features of shape (N, 1 + length, F)."""
        if self.level == "text":
            return self.linear(features[:, 0])
        return self.linear(ops.reshape(features[:, 1:], (-1, features.shape[-1])))

    def get_config(self) -> dict[str, Any]:
        """Give the settings, for ``save``."""
        config: dict[str, Any] = super().get_config()
        return config | {"outputs": self.outputs, "level": self.level}
