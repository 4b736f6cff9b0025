"""A recommender in Keras: click, purchase and retention, by hand and with the library.

``python examples/recommender_keras.py`` takes about a minute. The data and its truth are described in
``recommender_data.py``. The loop written by hand and ``MultiTaskModel`` with equal weights take the
same steps; another weighting is one word.
Over hundreds of steps rounding may show in the last digits.
"""

import keras
import tensorflow as tf
from keras import layers, ops
from recommender_data import Log, linear_scores, make, true_scores
from results import show

from mtl_tutorial.keras import MultiTaskModel, evaluate, task_losses
from mtl_tutorial.weighting import Equal, UPGrad

BATCH, RATE = 512, 3e-3


class Recommender(keras.Model):
    """Who the user is, then how user and item match: two features, the second made of the first."""

    def __init__(self, items: int, cardinalities: dict[str, int], width: int = 8):
        super().__init__()
        start = keras.initializers.RandomNormal(stddev=0.1)

        def table(numbers: int) -> layers.Embedding:
            return layers.Embedding(numbers, width, embeddings_initializer=start)

        def block() -> keras.Sequential:
            return keras.Sequential([layers.Dense(32, activation="relu"), layers.Dropout(0.2)])

        self.item, self.user, self.match = table(items + 1), block(), block()
        self.categorical = [table(numbers) for numbers in cardinalities.values()]
        self.taste = layers.Dense(width)
        self.heads = {name: layers.Dense(1) for name in ("click", "purchase", "retention")}

    def encode(self, inputs, training=None):
        """Give both features, each of shape (N, 32)."""
        there = ops.cast(inputs["history"] > 0, "float32")[..., None]
        history = ops.mean(self.item(inputs["history"]) * there, axis=1)
        columns = ops.unstack(inputs["categorical"], axis=1)
        own = [table(c) for table, c in zip(self.categorical, columns, strict=True)]
        user = ops.concatenate([history, *own, inputs["numeric"]], axis=1)
        user = self.user(user, training=training)
        item = self.item(inputs["item"])
        both = ops.concatenate([user, item, item * self.taste(user)], axis=1)
        return {"user": user, "match": self.match(both, training=training)}

    def decode(self, features, tasks=None):
        """Give logits, shape (N, 1); whether a user comes back does not depend on this item."""
        return {
            name: self.heads[name](features["user" if name == "retention" else "match"])
            for name in (self.heads if tasks is None else tasks)
        }

    def shared_parameters(self):
        """Give all but the heads."""
        parts = [self.item, *self.categorical, self.user, self.taste, self.match]
        return [variable for part in parts for variable in part.trainable_variables]

    def call(self, inputs, training=None):
        """Give the outputs of every head."""
        return self.decode(self.encode(inputs, training=training))


def build(log: Log) -> tuple[Recommender, keras.optimizers.Optimizer, tf.data.Dataset]:
    """Give the network and Adam, and the batches, which come in one order in each epoch."""
    keras.utils.set_random_seed(0)
    items = int(max(split.inputs["item"].max() for split in (log.train, log.valid, log.test)))
    rows = tf.data.Dataset.from_tensor_slices((log.train.inputs, log.train.targets))
    batches = rows.shuffle(len(log.train), seed=0, reshuffle_each_iteration=False).batch(BATCH)
    return Recommender(items, log.encode.cardinalities), keras.optimizers.Adam(RATE), batches


def by_hand(log: Log, epochs: int) -> Recommender:
    """Train with the loop that ``MultiTaskModel`` replaces."""
    model, optimizer, batches = build(log)
    balance = {task.name: task.pos_weight for task in log.tasks}

    @tf.function
    def step(inputs, targets):
        with tf.GradientTape() as tape:
            loss = 0.0
            for name, output in model(inputs, training=True).items():
                known = targets[name] >= 0
                labels = tf.cast(tf.where(known, targets[name], 0), tf.float32)
                each = tf.nn.weighted_cross_entropy_with_logits(labels, output[:, 0], balance[name])
                count = tf.reduce_sum(tf.cast(known, tf.float32))
                loss += tf.reduce_sum(tf.where(known, each, 0.0)) / tf.maximum(count, 1.0)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    for _ in range(epochs):
        for inputs, targets in batches:
            step(inputs, targets)
    return model


def with_library(log: Log, epochs: int, weighting) -> MultiTaskModel:
    """Train the same network in the same order, with any weighting."""
    network, optimizer, batches = build(log)
    model = MultiTaskModel(network, weighting=weighting)
    model.compile(optimizer, task_losses(log.tasks))
    model.fit(batches, epochs=epochs, shuffle=False, verbose=0)
    return model


def main(users: int = 1920, epochs: int = 4) -> dict[str, dict[str, float]]:
    """Train in three ways, print the metrics of the test rows, and give them."""
    log = make(users)
    columns = {"logistic regression": linear_scores(log)}
    columns["by hand"] = evaluate(by_hand(log, epochs), log.tasks, log.test)
    for weighting in (Equal(), UPGrad()):
        model = with_library(log, epochs, weighting)
        columns[type(weighting).__name__] = evaluate(model, log.tasks, log.test)
    columns["the truth"] = true_scores(log)
    show("test", columns, list(columns["the truth"]))
    return columns


if __name__ == "__main__":
    main()
