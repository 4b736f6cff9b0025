from functools import partial

import pytest
import torch
from torch import nn

from mtl_tutorial.datasets import Split, census
from mtl_tutorial.datasets._census import CATEGORICAL, NUMERIC
from mtl_tutorial.pytorch import (
    PLE,
    HardSharing,
    MMoE,
    TableEmbedding,
    fit,
    linear_heads,
    mlp,
)
from mtl_tutorial.tabular import Encoder, encoder
from mtl_tutorial.tasks import Binary

TASKS = [Binary(name, metrics=["auc"]) for name in ("income", "never_married")]


@pytest.fixture(scope="module")
def table() -> tuple[Encoder, dict[str, Split]]:
    data = census("embedded")
    encode = encoder(data.train.inputs, CATEGORICAL, NUMERIC)
    parts = {"train": data.train, "valid": data.valid}
    return encode, {
        name: Split(encode(split.inputs), split.targets) for name, split in parts.items()
    }


def test_a_row_is_its_categories_vectors_and_its_quantities() -> None:
    embed = TableEmbedding([3, 4], numeric=2, size=5)
    categories, quantities = torch.tensor([[2, 3], [0, 1]]), torch.randn(2, 2)
    found = embed({"categorical": categories, "numeric": quantities})
    table = embed.table.weight
    expected = [
        torch.cat([table[one], table[3 + other], own])
        for (one, other), own in zip(categories.tolist(), quantities, strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected))
    assert found.shape == (2, embed.width)
    assert not found[1, :5].any()  # what was never seen


def test_without_quantities() -> None:
    assert TableEmbedding([3])({"categorical": torch.tensor([[1]])}).shape == (1, 8)


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


def test_other_columns_are_refused() -> None:
    embed = TableEmbedding([3, 4], numeric=2)
    rows = {"categorical": torch.ones(5, 2, dtype=torch.long), "numeric": torch.zeros(5, 2)}
    with pytest.raises(ValueError, match=r"categories have shape \(5, 1\), expected \(N, 2\)"):
        embed(rows | {"categorical": rows["categorical"][:, :1]})
    with pytest.raises(ValueError, match=r"quantities have shape \(5, 1\), expected \(5, 2\)"):
        embed(rows | {"numeric": rows["numeric"][:, :1]})
    for wrong in (-1, 3):
        with pytest.raises(IndexError, match=r"cardinalities \[3, 4\]"):
            embed(rows | {"categorical": torch.full((5, 2), wrong)})


@pytest.mark.parametrize("kind", ["hard", "MMoE", "PLE"])
def test_it_is_the_bottom_of_every_architecture(
    kind: str, table: tuple[Encoder, dict[str, Split]]
) -> None:
    encode, splits = table
    torch.manual_seed(0)
    embed = TableEmbedding(encode.cardinalities.values(), len(encode.numeric))
    heads, gate = linear_heads(TASKS, features=16), partial(nn.Linear, embed.width)

    def expert() -> nn.Module:
        return mlp(embed.width, 16)

    model: nn.Module
    if kind == "hard":
        model = HardSharing(nn.Sequential(embed, expert()), heads)
    elif kind == "MMoE":
        model = MMoE(expert, gate, heads, bottom=embed)
    else:
        model = PLE([expert], [gate], heads, bottom=embed)
    history = fit(
        model, TASKS, splits["train"], splits["valid"], epochs=4, device="cpu",
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
    )  # fmt: skip
    assert history["val_income_auc"][-1] > 0.7
    assert history["val_never_married_auc"][-1] > 0.7
