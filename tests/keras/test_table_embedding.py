from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtl_tutorial.datasets import census
from mtl_tutorial.datasets._census import CATEGORICAL, NUMERIC
from mtl_tutorial.keras import (
    HardSharing,
    MMoE,
    MultiTaskModel,
    TableEmbedding,
    linear_heads,
    mlp,
    task_losses,
)
from mtl_tutorial.tabular import encoder
from mtl_tutorial.tasks import Binary
from mtl_tutorial.weighting import Equal

TASKS = [Binary(name, metrics=["auc"]) for name in ("income", "never_married")]
ROWS = {"categorical": np.array([[2, 3], [0, 1]]), "numeric": np.array([[0.5, 1.0], [2.0, -1.0]])}


def test_a_row_is_its_categories_vectors_and_its_quantities() -> None:
    embed = TableEmbedding([3, 4], numeric=2, size=5)
    found, table = np.asarray(embed(ROWS)), np.asarray(embed.table)
    for row, (one, other), own in zip(found, ROWS["categorical"], ROWS["numeric"], strict=True):
        np.testing.assert_allclose(row, [*table[one], *table[3 + other], *own], rtol=1e-6)
    assert found.shape == (2, embed.width)
    assert not found[1, :5].any()  # what was never seen


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "needs a categorical"),
        (([3, 0],), r"\[3, 0\]"),
        (([3], -1), "-1"),
        (([3], 0, 0), "0"),
    ],
)
def test_what_is_no_table_is_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TableEmbedding(*arguments)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("name", ["categorical", "numeric"])
def test_other_columns_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"have shape \(2, 1\)"):
        TableEmbedding([3, 4], numeric=2)(ROWS | {name: ROWS[name][:, :1]})


@pytest.mark.parametrize("number", [-1, 3])
def test_a_number_of_another_column_is_refused(number: int) -> None:
    """Directly, and in a compiled step; it would else read another column's vector."""
    embed = TableEmbedding([3, 4], numeric=2)
    rows = ROWS | {"categorical": np.array([[number, 0]] * 2)}
    for call in (embed, tf.function(embed)):
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=r"within the cardinalities \[3, 4\]"
        ):
            call(rows)


@pytest.mark.parametrize("kind", ["hard", "MMoE"])
def test_it_is_the_bottom_of_every_architecture_and_is_saved(kind: str, tmp_path: Path) -> None:
    data = census("embedded")
    encode = encoder(data.train.inputs, CATEGORICAL, NUMERIC)
    train, test = encode(data.train.inputs), encode(data.test.inputs)
    keras.utils.set_random_seed(0)
    embed = TableEmbedding(encode.cardinalities.values(), len(encode.numeric))
    inner: keras.Model
    if kind == "hard":
        trunk = keras.Sequential([embed, mlp(embed.width, 16)])
        inner = HardSharing(trunk, linear_heads(TASKS))
    else:
        inner = MMoE(
            lambda: mlp(embed.width, 16), keras.layers.Dense, linear_heads(TASKS), bottom=embed
        )
    model = MultiTaskModel(inner, weighting=Equal())
    model.compile("adam", loss=task_losses(TASKS))
    history = model.fit(train, data.train.targets, batch_size=64, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    before, after = (each.predict(test, verbose=0) for each in (model, loaded))
    for task in TASKS:
        np.testing.assert_allclose(before[task.name], after[task.name], rtol=1e-5, atol=1e-6)
