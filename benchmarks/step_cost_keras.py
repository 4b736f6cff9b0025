"""A training step of the Keras ``MultiTaskModel``, against plain Keras on the same architecture.

``plain`` is a functional ``keras.Model`` compiled with ``loss={...}``; ``limit`` is what nobody can
leave out who wants the task gradients on the trunk's parameters: forward, one backward pass through
each head, T through the trunk, their sum (TensorFlow computes nothing that is not used) and the
optimizer. The others are the library with ``Equal``, with a loss-based weighting (UW, FAMO), with the
exact Gramian (UPGrad, MGDA; ``exact``, the mean of the gradients, so that no solver is timed) and with
the Gramian of the features. An MLP 784-512-256 and a small CNN, batches of 128, tasks of ten classes
and of one output in turn, SGD, steps in graph mode on one and the same batch. One thread, interleaved
repetitions, medians of CPU time; in brackets the ratio to ``plain``, in the last column that of
``exact`` to ``limit``.
"""

import os

for threads in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(threads, "1")

import statistics
import time
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from mtl_tutorial.keras import MultiTaskModel, linear_heads, mlp, task_losses
from mtl_tutorial.tasks import Binary, Classification, Task
from mtl_tutorial.weighting import FAMO, MGDA, UW, UPGrad, Weighting

BATCH_SIZE, STEPS, REPETITIONS = 128, 2, 7
TRUNKS: dict[str, Callable[[], keras.Layer]] = {
    "MLP": lambda: mlp(784, 512, 256),
    "CNN": lambda: keras.Sequential(
        [
            keras.layers.Reshape((28, 28, 1)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
        ]
    ),
}


def plain(trunk: keras.Layer, tasks: list[Task]) -> keras.Model:
    """Build what one would write for these tasks without the library's model."""
    inputs = keras.Input((28, 28))
    features = trunk(inputs)
    return keras.Model(inputs, {n: head(features) for n, head in linear_heads(tasks).items()})


class Limit(keras.Model):  # type: ignore[misc]  # Keras ships no types
    """The passes of an exact step, the sum of the gradients, and the optimizer."""

    def __init__(self, trunk: keras.Layer, tasks: list[Task]) -> None:
        """Put the layers together."""
        super().__init__()
        self.trunk, self.heads = trunk, linear_heads(tasks)

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Draw the parameters."""
        self.call(keras.Input(shape[1:]))
        self.built = True

    def call(self, inputs: Any) -> dict[str, Any]:
        """Give the outputs of all heads."""
        features = self.trunk(inputs)
        return {name: head(features) for name, head in self.heads.items()}

    def train_step(self, data: Any) -> dict[str, Any]:
        """Go through each head once, through the trunk as often as there are heads."""
        inputs, targets = data
        with tf.GradientTape(persistent=True) as tape:
            features = self.trunk(inputs, training=True)
            with tf.GradientTape(persistent=True) as head_tape:
                head_tape.watch(features)
                losses = {n: self.loss[n](targets[n], h(features)) for n, h in self.heads.items()}
        shared = self.trunk.trainable_variables
        steps: list[tuple[Any, Any]] = []
        passes: list[list[Any]] = []
        for name, loss in losses.items():
            own = self.heads[name].trainable_variables
            cotangent, *gradients = head_tape.gradient(loss, [features, *own])
            steps.extend(zip(gradients, own, strict=True))
            passes.append(tape.gradient(features, shared, cotangent))
        total = list(map(tf.add_n, zip(*passes, strict=True)))  # what is not used is not computed
        self.optimizer.apply_gradients([*zip(total, shared, strict=True), *steps])
        return {"loss": tf.add_n([*losses.values()])}


class Mean(Weighting):
    """The mean of the gradients, by way of the Gramian."""

    needs_losses: ClassVar[bool] = False
    needs_gramian: ClassVar[bool] = True

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        """Give 1 / T to each."""
        return np.full(len(losses), 1 / len(losses))


WAYS: dict[str, Callable[[keras.Layer, list[Task]], keras.Model]] = {
    "plain": plain,
    "limit": Limit,
    "exact": lambda trunk, tasks: MultiTaskModel(trunk, linear_heads(tasks), Mean()),
    "Equal": lambda trunk, tasks: MultiTaskModel(trunk, linear_heads(tasks)),
    "UW": lambda trunk, tasks: MultiTaskModel(trunk, linear_heads(tasks), UW()),
    "FAMO": lambda trunk, tasks: MultiTaskModel(trunk, linear_heads(tasks), FAMO()),
    "UPGrad": lambda trunk, tasks: MultiTaskModel(trunk, linear_heads(tasks), UPGrad()),
    "MGDA": lambda trunk, tasks: MultiTaskModel(trunk, linear_heads(tasks), MGDA()),
    "UPGrad, features": lambda trunk, tasks: MultiTaskModel(
        trunk, linear_heads(tasks), UPGrad(), gramian="features"
    ),
}


def steps(model: keras.Model, tasks: list[Task]) -> Callable[[], None]:
    """Compile the model; give a function that takes some steps with it."""
    generator = np.random.default_rng(0)
    images = tf.constant(generator.random((BATCH_SIZE, 28, 28), dtype=np.float32))
    targets = {t.name: tf.constant(generator.integers(0, 2, BATCH_SIZE)) for t in tasks}
    model.compile(keras.optimizers.SGD(1e-3), task_losses(tasks), jit_compile=False)
    model.make_train_function()
    batches = tf.data.Dataset.from_tensors((images, targets)).cache().repeat()
    iterator = iter(batches)

    def some() -> None:
        for _ in range(STEPS):
            model.train_function(iterator)

    some()  # traces
    return some


def main() -> None:
    """Print a row for each trunk and number of tasks."""
    print("ms a step (ratio)", *WAYS, "exact / limit", sep=" | ")
    for name, trunk in TRUNKS.items():
        for count in (2, 4, 8, 16):
            tasks: list[Task] = [
                Binary(f"task{k}") if k % 2 else Classification(f"task{k}", classes=10)
                for k in range(count)
            ]
            ways = {}
            for way, build in WAYS.items():
                keras.utils.set_random_seed(0)
                model = build(trunk(), tasks)
                model.build((None, 28, 28))
                ways[way] = steps(model, tasks)
            times: dict[str, list[float]] = {way: [] for way in ways}
            for repetition in range(REPETITIONS + 1):
                for way, some in ways.items():
                    start = time.process_time()
                    some()
                    if repetition:  # the first one warms up
                        times[way].append(time.process_time() - start)
            median = {way: 1e3 * statistics.median(spent) / STEPS for way, spent in times.items()}
            cells = [f"{each:.2f} ({each / median['plain']:.2f})" for each in median.values()]
            cells.append(f"{median['exact'] / median['limit']:.2f}")
            print(f"{name}, T = {count}", *cells, sep=" | ", flush=True)


if __name__ == "__main__":
    main()
