from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mtl_tutorial.keras import (
    MultiTaskModel,
    TextHead,
    TextLSTM,
    TextTransformer,
    linear_heads,
    task_losses,
    task_metrics,
)
from mtl_tutorial.tasks import Classification
from mtl_tutorial.text import encode, tokenize, vocabulary

IDS = np.array([[2, 3, 4, 1], [5, 6, 0, 0], [7, 0, 0, 0]])
TRUNKS: dict[str, Any] = {
    "lstm": lambda **settings: TextLSTM(words=9, embedding=5, units=8, **settings),
    "transformer": lambda **settings: TextTransformer(words=9, units=8, longest=9, **settings),
}


def make(kind: str, *, every_word: bool) -> Any:
    keras.utils.set_random_seed(0)
    return TRUNKS[kind](every_word=every_word)


@pytest.mark.parametrize("kind", TRUNKS)
@pytest.mark.parametrize("every_word", [False, True])
def test_padding_changes_no_output(kind: str, every_word: bool) -> None:
    trunk = make(kind, every_word=every_word)
    found, longer = trunk(IDS).numpy(), trunk(np.pad(IDS, [(0, 0), (0, 5)])).numpy()
    assert trunk.compute_output_shape(IDS.shape) == found.shape
    if every_word:
        assert not longer[:, 1 + IDS.shape[1] :].any()
        longer = longer[:, : 1 + IDS.shape[1]]
    np.testing.assert_allclose(longer, found, rtol=0, atol=1e-6)
    alone = trunk(IDS[1:2, :2]).numpy()
    np.testing.assert_allclose(alone[0], found[1, :3] if every_word else found[1], atol=1e-6)


@pytest.mark.parametrize("kind", TRUNKS)
def test_padding_gets_zero_features_and_the_text_comes_first(kind: str) -> None:
    texts, words = make(kind, every_word=False)(IDS), make(kind, every_word=True)(IDS)
    np.testing.assert_allclose(words[:, 0], texts, atol=1e-6)
    assert not words.numpy()[1, 3:].any()
    assert words.numpy()[1, 1:3].all()


def test_a_row_without_words() -> None:
    nothing = np.zeros((2, 4), dtype="int64")
    assert not make("lstm", every_word=False)(nothing).numpy().any()
    assert not make("lstm", every_word=True)(nothing).numpy().any()
    assert np.isfinite(make("transformer", every_word=False)(nothing)).all()


def test_a_text_too_long_for_its_places() -> None:
    with pytest.raises(ValueError, match="may have 9 words; these have 10"):
        make("transformer", every_word=False)(np.ones((1, 10), dtype="int64"))


def test_heads_of_two_levels() -> None:
    features = np.random.default_rng(0).normal(size=(3, 5, 8)).astype("float32")
    text, word = TextHead(2, "text"), TextHead(4, "word")
    np.testing.assert_allclose(text(features), text.linear(features[:, 0]), rtol=1e-5)
    np.testing.assert_allclose(
        word(features).numpy().reshape(3, 4, 4), word.linear(features[:, 1:]), rtol=1e-5
    )
    with pytest.raises(ValueError, match="'text' or 'word'"):
        TextHead(2, "letter")


@pytest.mark.parametrize("kind", TRUNKS)
def test_fit_save_and_load_with_heads_of_both_levels(kind: str, tmp_path: Path) -> None:
    tasks = [Classification("topic", classes=3), Classification("tags", classes=4)]
    heads = {"topic": TextHead(3, "text"), "tags": TextHead(4, "word")}
    model = MultiTaskModel(make(kind, every_word=True), heads)
    model.compile("adam", task_losses(tasks), metrics=task_metrics(tasks))
    tags = np.where(IDS > 0, IDS % 4, -1)
    targets = {"topic": np.array([0, 1, 2]), "tags": tags}
    history = model.fit(IDS, targets, batch_size=3, epochs=40, verbose=0).history
    assert history["tags_loss"][-1] < history["tags_loss"][0]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for name, output in model(IDS).items():
        np.testing.assert_allclose(again(IDS)[name], output, atol=1e-6)


def test_the_vocabulary_is_that_of_text_vectorization() -> None:
    texts = ["Good phone.", "It isn't GOOD, it's a film!", "ÉTÉ\x85 10/10\ta food\n"]
    words = vocabulary(texts)
    layer = keras.layers.TextVectorization(output_sequence_length=12)
    layer.adapt(texts)
    assert layer.get_vocabulary() == words
    new = ["A good,good zebra", *texts]
    np.testing.assert_array_equal(layer(new), encode(new, words, length=12))
    given = keras.layers.TextVectorization(vocabulary=words[2:], output_sequence_length=12)
    np.testing.assert_array_equal(given(new), layer(new))
    assert tokenize(texts[2])[1] == "1010"


def test_linear_heads_fit_too() -> None:
    tasks = [Classification("sentiment", classes=2)]
    model = MultiTaskModel(make("lstm", every_word=False), linear_heads(tasks))
    model.compile("adam", task_losses(tasks))
    model.fit(IDS, {"sentiment": np.array([0, 1, 1])}, verbose=0)
