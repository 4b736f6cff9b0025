from pathlib import Path

import keras
import numpy as np
import pytest

from mtl_tutorial.keras import MultiTaskModel, linear_heads, mlp, task_losses
from mtl_tutorial.tasks import Regression
from mtl_tutorial.weighting import Recorded, Weighting
from tests.weighting.properties import METHODS

TASKS = [Regression("a"), Regression("b")]
RNG = np.random.default_rng(0)
INPUTS = RNG.standard_normal((16, 4)).astype("float32")
TARGETS = {name: RNG.standard_normal(16).astype("float32") for name in ("a", "b")}


def fitted(weighting: Weighting) -> MultiTaskModel:
    keras.utils.set_random_seed(0)
    model = MultiTaskModel(mlp(4, 8), linear_heads(TASKS), weighting=weighting)
    model.compile(keras.optimizers.SGD(0.1), loss=task_losses(TASKS))
    model.fit(INPUTS, TARGETS, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize("name", ["Equal", "DWA", "FAMO", "GradNorm", "UPGrad"])
def test_training_is_the_same_and_every_step_is_kept(name: str) -> None:
    recorded = Recorded(METHODS[name](2))
    alone, watched = fitted(METHODS[name](2)), fitted(recorded)
    for one, other in zip(alone.get_weights(), watched.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    assert len(recorded.steps) == 8
    assert ("gramian" in recorded.steps[0]) == recorded.needs_gramian


@pytest.mark.parametrize("name", ["Equal", "DWA", "UPGrad"])
def test_saved_and_loaded_as_the_weighting_itself(name: str, tmp_path: Path) -> None:
    """A whole model, and weights alone, from one with a record to one without and back."""
    method = METHODS[name](2)
    model = fitted(Recorded(method))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.weighting) is type(method)
    assert str(loaded.weighting.state_dict()) == str(method.state_dict())
    loaded.save_weights(tmp_path / "model.weights.h5")
    other = Recorded(METHODS[name](2))
    watched = fitted(other)
    watched.load_weights(tmp_path / "model.weights.h5")
    assert str(other.state_dict()) == str(method.state_dict())
