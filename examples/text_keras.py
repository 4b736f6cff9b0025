"""A transformer that tags words and judges sentences in Keras, by hand and with the library.

``python examples/text_keras.py`` takes about a minute. The sentences are described in
``text_data.py``; padding and what nobody tagged have no say. The loop written by hand and
``MultiTaskModel`` with equal weights take the same steps, schedule and clipping included; another
weighting is one word.
Over hundreds of steps rounding may show in the last digits.
"""

import keras
import tensorflow as tf
from keras import layers, ops
from results import show
from text_data import LENGTH, TAGS, TASKS, Sentences, make, simple_scores

from mtl_tutorial.keras import MultiTaskModel, evaluate, task_losses
from mtl_tutorial.weighting import Equal, UPGrad

BATCH, RATE, CLIP = 64, 3e-3, 1.0


class Block(layers.Layer):
    """Attention, then a small network for each word, both added to what came in."""

    def __init__(self, width: int):
        super().__init__()
        self.attention = layers.MultiHeadAttention(4, width // 4)
        self.norms = [layers.LayerNormalization() for _ in range(2)]
        self.drops = [layers.Dropout(0.1) for _ in range(2)]
        self.word = keras.Sequential([layers.Dense(64, activation="relu"), layers.Dense(width)])

    def call(self, words, there, training=None):
        """Give vectors of the same shape; nobody looks at padding."""
        seen = self.norms[0](words)
        seen = self.attention(seen, seen, attention_mask=there[:, None], training=training)
        words = words + self.drops[0](seen, training=training)
        return words + self.drops[1](self.word(self.norms[1](words)), training=training)


class Transformer(keras.Model):
    """Word vectors with places, two layers of attention; a head a word, and a head a sentence."""

    def __init__(self, words: int, width: int = 32):
        super().__init__()
        self.words, self.places = layers.Embedding(words, width), layers.Embedding(LENGTH, width)
        self.blocks = [Block(width) for _ in range(2)]
        self.norm = layers.LayerNormalization()
        self.heads = {"tag": layers.Dense(len(TAGS)), "mood": layers.Dense(1)}

    def encode(self, ids, training=None):
        """Give a vector a word, shape (N, L, width), and which words are none."""
        there = ids > 0
        words = self.words(ids) + self.places(ops.arange(LENGTH))
        for block in self.blocks:
            words = block(words, there, training=training)
        return {"words": self.norm(words), "padding": ops.logical_not(there)}

    def decode(self, features, tasks=None):
        """Give logits: of the tags (N, L, 7), of the mood (N, 1), read off the mean of the words."""
        outputs = {}
        for name in self.heads if tasks is None else tasks:
            read = features["words"]
            if name == "mood":
                there = 1 - ops.cast(features["padding"], "float32")[..., None]
                read = ops.sum(read * there, axis=1) / ops.sum(there, axis=1)
            outputs[name] = self.heads[name](read)
        return outputs

    def shared_parameters(self):
        """Give all but the heads."""
        parts = [self.words, self.places, *self.blocks, self.norm]
        return [variable for part in parts for variable in part.trainable_variables]

    def call(self, ids, training=None):
        """Give the outputs of every head."""
        return self.decode(self.encode(ids, training=training))


def build(
    data: Sentences, epochs: int
) -> tuple[Transformer, keras.optimizers.Optimizer, tf.data.Dataset]:
    """Give the network, Adam, and the batches, which come in one order in each epoch."""
    keras.utils.set_random_seed(0)
    rows = tf.data.Dataset.from_tensor_slices((data.train.inputs, data.train.targets))
    batches = rows.shuffle(len(data.train), seed=0, reshuffle_each_iteration=False).batch(BATCH)
    steps = epochs * len(batches)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=RATE, warmup_steps=steps // 4
    )
    optimizer = keras.optimizers.Adam(rate, global_clipnorm=CLIP)
    return Transformer(len(data.words)), optimizer, batches


def by_hand(data: Sentences, epochs: int) -> Transformer:
    """Train with the loop that ``MultiTaskModel`` replaces."""
    model, optimizer, batches = build(data, epochs)

    @tf.function
    def step(ids, targets):
        with tf.GradientTape() as tape:
            outputs = model(ids, training=True)
            tagged, known = targets["tag"] >= 0, targets["mood"] >= 0
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(
                targets["tag"][tagged], outputs["tag"][tagged]
            )
            loss = tf.reduce_mean(each)
            moods = tf.cast(targets["mood"][known], tf.float32)
            each = tf.nn.sigmoid_cross_entropy_with_logits(moods, outputs["mood"][known][:, 0])
            loss += tf.math.divide_no_nan(tf.reduce_sum(each), tf.cast(tf.size(each), tf.float32))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    for _ in range(epochs):
        for ids, targets in batches:
            step(ids, targets)
    return model


def with_library(data: Sentences, epochs: int, weighting) -> MultiTaskModel:
    """Train the same network in the same order, with any weighting."""
    network, optimizer, batches = build(data, epochs)
    model = MultiTaskModel(network, weighting=weighting)
    model.compile(optimizer, task_losses(TASKS))
    model.fit(batches, epochs=epochs, shuffle=False, verbose=0)
    return model


def main(sentences: int = 4096, epochs: int = 6) -> dict[str, dict[str, float]]:
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
