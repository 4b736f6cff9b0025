"""Hard parameter sharing: one trunk for all tasks, one head for each."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from mtl_tutorial._sharing import routes
from mtl_tutorial.datasets import check_inputs
from mtl_tutorial.keras.models.box_head import BoxHead
from mtl_tutorial.tasks import Boxes, Task, check_tasks


def mlp(*widths: int) -> keras.Sequential:
    """Build a trunk of fully connected layers, a ReLU after each; images are flattened first.

    Parameters
    ----------
    *widths : int
        The number of inputs, then the width of each layer; at least two numbers. Keras finds the
        number of inputs by itself at the first call; it stands here so that a trunk is written the
        same way in both frameworks.

    Examples
    --------
    >>> trunk = mlp(784, 512, 256)
    >>> trunk.build((None, 28, 28))
    >>> [tuple(w.shape) for w in trunk.weights]
    [(784, 512), (512,), (512, 256), (256,)]
    """
    if len(widths) < 2:
        raise ValueError(f"a trunk needs its inputs and at least one width; got {widths}")
    layers = [keras.layers.Dense(width, activation="relu") for width in widths[1:]]
    return keras.Sequential([keras.layers.Flatten(), *layers], name="trunk")


def linear_heads(tasks: Sequence[Task]) -> dict[str, keras.layers.Layer]:
    """Build one linear layer a task, from the features to the task's outputs.

    That of a task of :class:`~mtl_tutorial.tasks.Boxes` is inside a :class:`BoxHead`.

    Parameters
    ----------
    tasks : sequence of Task

    Examples
    --------
    >>> from mtl_tutorial.tasks import Binary, Classification
    >>> heads = linear_heads([Classification("digit", classes=10), Binary("gt5")])
    >>> {name: head.units for name, head in heads.items()}
    {'digit': 10, 'gt5': 1}
    """
    return {
        task.name: BoxHead(task.width, task.height, name=task.name)
        if isinstance(task, Boxes)
        else keras.layers.Dense(task.outputs, name=task.name)
        for task in check_tasks(tasks)
    }


def _check(inputs: Any) -> None:
    """Name a number that is not finite; what is no array of floats is for Keras to judge."""
    for part in keras.tree.flatten(inputs):
        if isinstance(part, np.ndarray) and part.dtype.kind == "f":
            check_inputs(part)


@contextmanager
def quiet_build() -> Iterator[None]:
    """Let Keras not warn of layers without ``build()``: ours calls them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`build\(\)` was called on layer", UserWarning)
        yield


class EncodeDecode(keras.Model):  # type: ignore[misc]  # Keras has no types
    """How a model that has ``encode`` and ``decode`` is called, built and fed.

    ``encode(inputs, training=None)`` gives the features, a tensor or several in a list, a tuple or a
    dict; ``decode(features, tasks=None, training=None)`` the outputs of the tasks named, or of all,
    by task name.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._dtypes: list[str] = []  # of the inputs

    def encode(self, inputs: Any, training: bool | None = None) -> Any:
        """Give the features."""
        raise NotImplementedError

    def decode(
        self, features: Any, tasks: Sequence[str] | None = None, training: bool | None = None
    ) -> dict[str, Any]:
        """Give the outputs of the tasks named, of all if none is."""
        raise NotImplementedError

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Give the outputs of every head; the first call creates the weights."""
        if not self.built:  # Keras tells build() the shapes alone
            float_type = keras.config.floatx()
            types = [getattr(part, "dtype", float_type) for part in keras.tree.flatten(inputs)]
            self._dtypes = [keras.backend.standardize_dtype(each) for each in types]
        return super().__call__(inputs, *args, **kwargs)

    def build(self, input_shape: Any) -> None:
        """Create the weights, for numbers of this shape (None stands for the rows).

        All layers are called once, without data: a layer of one's own, which makes its weights where
        it is first called, needs no ``build``.
        """
        dtypes = iter(self._dtypes)

        def symbol(shape: tuple[int | None, ...]) -> keras.KerasTensor:
            return keras.KerasTensor(shape, next(dtypes, keras.config.floatx()))

        self.compute_output_spec(keras.tree.map_shape_structure(symbol, input_shape))

    def get_build_config(self) -> dict[str, Any] | None:
        """Shapes and data types of the inputs, for ``save``."""
        config: dict[str, Any] | None = super().get_build_config()
        return config and config | {"dtypes": list(self._dtypes)}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Create the weights of a loaded model."""
        self._dtypes = config.get("dtypes", [])
        self.build(config["input_shape"])

    def call(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        """Give the outputs of every head, by task name."""
        return self.decode(self.encode(inputs, training=training), training=training)

    def fit(
        self, x: Any = None, *args: Any, validation_data: Any = None, **kwargs: Any
    ) -> keras.callbacks.History:
        """Train as ``keras.Model.fit`` does, after a look at the inputs: all must be finite."""
        _check([x, validation_data[:1] if isinstance(validation_data, tuple) else None])
        return super().fit(x, *args, validation_data=validation_data, **kwargs)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluate as ``keras.Model.evaluate`` does, after a look at the inputs."""
        _check(x)
        return super().evaluate(x, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
        """Predict as ``keras.Model.predict`` does, after a look at the inputs."""
        _check(x)
        outputs: dict[str, np.ndarray] = super().predict(x, *args, **kwargs)
        return outputs


@keras.saving.register_keras_serializable("mtl_tutorial")
class HardSharing(EncodeDecode):
    """One trunk shared by all tasks, one head a task (Caruana, 1997); branches between, if need be.

    Layers of one task alone are part of its head. Layers of some tasks are a branch: tasks of a low
    level leave early, at the trunk (Søgaard & Goldberg, 2016), the others go on together.

    Parameters
    ----------
    trunk : keras.Layer
        From inputs to features, shape (N, F), or several.
    heads : mapping from task name to keras.Layer
        From features to the task's outputs, shape (N, task.outputs), or (N, ..., task.outputs).
    branches : sequence of (keras.Layer, sequence of task names)
        Further layers, and the tasks that go through them. A branch reads what its tasks read
        before it: the trunk, or an earlier branch of all of them.

    Raises
    ------
    ValueError
        There is no head; a branch names no task, or none that has a head, or tasks that an earlier
        one has parted.

    Notes
    -----
    With branches the features are a list: what the heads read, each once. Tasks that read different
    tensors there are orthogonal by construction in the Gramian of the features
    (``gramian="features"``); the exact one sees where they meet.

    Examples
    --------
    >>> import numpy as np
    >>> from mtl_tutorial.tasks import Binary, Classification
    >>> tasks = [Classification("digit", classes=10), Binary("gt5")]
    >>> model = HardSharing(mlp(784, 512, 256), linear_heads(tasks))
    >>> {name: tuple(out.shape) for name, out in model(np.zeros((3, 28, 28))).items()}
    {'digit': (3, 10), 'gt5': (3, 1)}
    >>> deeper = [(mlp(256, 256), ["digit"])]  # "gt5" leaves at the trunk
    >>> model = HardSharing(mlp(784, 256), linear_heads(tasks), deeper)
    >>> len(model.encode(np.zeros((3, 28, 28))))
    2
    """

    def __init__(
        self,
        trunk: keras.Layer,
        heads: Mapping[str, keras.Layer],
        branches: Sequence[tuple[keras.Layer, Sequence[str]]] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not heads:
            raise ValueError("a model needs at least one head")
        self.routes = routes(list(heads), [list(tasks) for _, tasks in branches])
        self.trunk = trunk
        self.branches = [branch for branch, _ in branches]
        self.heads = dict(heads)

    def encode(self, inputs: Any, training: bool | None = None) -> Any:
        """Give the features, the output of the trunk; with branches, all that heads read."""
        features = [self.trunk(inputs, training=training)]
        if not self.branches:
            return features[0]
        for branch, place in zip(self.branches, self.routes.sources, strict=True):
            features.append(branch(features[place], training=training))
        return [features[place] for place in self.routes.ends]

    def decode(
        self, features: Any, tasks: Sequence[str] | None = None, training: bool | None = None
    ) -> dict[str, Any]:
        """Give the outputs of the tasks named, of all if none is; other heads do not run."""
        names = self.heads if tasks is None else tasks
        read = dict.fromkeys(names, features)
        if self.branches:
            read = {name: features[self.routes.reads[name]] for name in names}
        return {name: self.heads[name](z, training=training) for name, z in read.items()}

    def shared_parameters(self) -> list[keras.Variable]:
        """Give the trainable variables of the trunk, and of branches of two tasks or more."""
        pairs = zip(self.branches, self.routes.tasks, strict=True)
        shared = [self.trunk, *(branch for branch, tasks in pairs if len(tasks) > 1)]
        return [variable for layer in shared for variable in layer.trainable_variables]

    def get_config(self) -> dict[str, Any]:
        """Trunk, heads and branches, for ``save``."""
        serialize = keras.saving.serialize_keras_object
        config: dict[str, Any] = super().get_config()
        pairs = zip(self.branches, self.routes.tasks, strict=True)
        return config | {
            "trunk": serialize(self.trunk),
            "heads": {name: serialize(head) for name, head in self.heads.items()},
            "branches": [[serialize(branch), list(tasks)] for branch, tasks in pairs],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "HardSharing":
        """Build the model from :meth:`get_config`, for ``load_model``."""
        load = keras.saving.deserialize_keras_object
        with quiet_build():
            heads = {name: load(head) for name, head in config["heads"].items()}
            branches = [(load(branch), tasks) for branch, tasks in config.get("branches", [])]
            own = {"trunk": load(config["trunk"]), "heads": heads, "branches": branches}
            return cls(**config | own)
