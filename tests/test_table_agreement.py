"""Rows of a table become the same vectors in both frameworks."""

import numpy as np
import torch

from mtl_tutorial import keras as mk
from mtl_tutorial import pytorch as mp


def test_equal_vectors_from_equal_tables() -> None:
    one, other = (side.TableEmbedding([4, 3], numeric=2, size=6) for side in (mp, mk))
    other.table.assign(one.table.weight.detach().numpy())
    draw = np.random.default_rng(0)
    rows = {
        "categorical": draw.integers(3, size=(7, 2)),
        "numeric": draw.normal(size=(7, 2)).astype(np.float32),
    }
    expected = one({name: torch.from_numpy(values) for name, values in rows.items()})
    np.testing.assert_allclose(np.asarray(other(rows)), expected.detach().numpy(), rtol=1e-6)
