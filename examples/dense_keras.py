"""Segmentation and depth on a small U-Net in Keras, by hand and with the library.

``python examples/dense_keras.py`` takes about a minute. The pictures are described in
``dense_data.py``; pixels without a label have no say. The loop written by hand and ``MultiTaskModel``
with equal weights take the same steps; another weighting is one word.
Over hundreds of steps rounding may show in the last digits.
"""

import keras
import tensorflow as tf
from dense_data import KINDS, TASKS, Pictures, make, simple_scores
from keras import layers, ops
from results import show

from mtl_tutorial.keras import MultiTaskModel, evaluate, task_losses
from mtl_tutorial.weighting import Equal, UPGrad

BATCH, RATE = 16, 3e-3


def convolution(outputs: int) -> keras.Sequential:
    """One of 3 × 3, normalised."""
    layer = layers.Conv2D(outputs, 3, padding="same", use_bias=False)
    return keras.Sequential([layer, layers.BatchNormalization(momentum=0.9), layers.ReLU()])


class UNet(keras.Model):
    """Down, up again with skips; the heads read three features, a chain: each is made of the last.

    The kind is read off the finest; the depth off all three.
    """

    def __init__(self, width: int = 8):
        super().__init__()
        self.down = [convolution(width), convolution(2 * width), convolution(4 * width)]
        self.up = [convolution(2 * width), convolution(width)]
        middle = keras.initializers.Constant(3.0)  # metres: the middle of what there is
        self.heads = {
            "kind": layers.Conv2D(KINDS, 1),
            "depth": layers.Conv2D(1, 1, bias_initializer=middle),
        }

    def encode(self, images, training=None):
        """Give the features, each of shape (N, height, width, channels), from a quarter to whole size."""
        fine = self.down[0](images, training=training)
        middle = self.down[1](ops.max_pool(fine, 2), training=training)
        coarse = self.down[2](ops.max_pool(middle, 2), training=training)
        middle = self.up[0](ops.concatenate([larger(coarse, 2), middle], -1), training=training)
        fine = self.up[1](ops.concatenate([larger(middle, 2), fine], -1), training=training)
        return {"coarse": coarse, "middle": middle, "fine": fine}

    def decode(self, features, tasks=None):
        """Give outputs, shape (N, height, width, task.outputs)."""
        coarse, middle, fine = (features[name] for name in ("coarse", "middle", "fine"))
        outputs = {}
        for name in self.heads if tasks is None else tasks:
            read = fine
            if name == "depth":
                read = ops.concatenate([larger(coarse, 4), larger(middle, 2), fine], -1)
            outputs[name] = self.heads[name](read)
        return outputs

    def shared_parameters(self):
        """Give all but the heads."""
        return [
            variable for part in (*self.down, *self.up) for variable in part.trainable_variables
        ]

    def call(self, images, training=None):
        """Give the outputs of every head."""
        return self.decode(self.encode(images, training=training))


def larger(images, factor: int):
    """Repeat each pixel."""
    return ops.repeat(ops.repeat(images, factor, axis=1), factor, axis=2)


def build(data: Pictures, epochs: int) -> tuple[UNet, keras.optimizers.Optimizer, tf.data.Dataset]:
    """Give the network, Adam, and the batches, which come in one order in each epoch."""
    keras.utils.set_random_seed(0)
    rows = tf.data.Dataset.from_tensor_slices((data.train.inputs, data.train.targets))
    batches = rows.shuffle(len(data.train), seed=0, reshuffle_each_iteration=False).batch(BATCH)
    rate = keras.optimizers.schedules.CosineDecay(RATE, epochs * len(batches))
    return UNet(), keras.optimizers.Adam(rate), batches


def by_hand(data: Pictures, epochs: int) -> UNet:
    """Train with the loop that ``MultiTaskModel`` replaces."""
    model, optimizer, batches = build(data, epochs)

    @tf.function
    def step(images, targets):
        with tf.GradientTape() as tape:
            outputs = model(images, training=True)
            labelled = targets["kind"] >= 0
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(
                    targets["kind"][labelled], outputs["kind"][labelled]
                )
            )
            measured = tf.math.is_finite(targets["depth"])
            error = outputs["depth"][measured][:, 0] - targets["depth"][measured]
            loss += tf.reduce_mean(tf.square(error))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    for _ in range(epochs):
        for images, targets in batches:
            step(images, targets)
    return model


def with_library(data: Pictures, epochs: int, weighting) -> MultiTaskModel:
    """Train the same network in the same order, with any weighting."""
    network, optimizer, batches = build(data, epochs)
    model = MultiTaskModel(network, weighting=weighting)
    model.compile(optimizer, task_losses(TASKS))
    model.fit(batches, epochs=epochs, shuffle=False, verbose=0)
    return model


def main(pictures: int = 640, epochs: int = 5) -> dict[str, dict[str, float]]:
    """Train in three ways, print the metrics of the test pictures, and give them."""
    data = make(pictures)
    columns = {"linear, 5 x 5 pixels": simple_scores(data)}
    columns["by hand"] = evaluate(by_hand(data, epochs), TASKS, data.test)
    for weighting in (Equal(), UPGrad()):
        model = with_library(data, epochs, weighting)
        columns[type(weighting).__name__] = evaluate(model, TASKS, data.test)
    show("test", columns, list(columns["linear, 5 x 5 pixels"]))
    return columns


if __name__ == "__main__":
    main()
