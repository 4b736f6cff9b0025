import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from mtl_tutorial.weighting import InverseLoss


def test_is_the_gradient_of_the_sum_of_logarithms() -> None:
    losses = torch.tensor([0.2, 1.0, 7.0], dtype=torch.float64, requires_grad=True)
    losses.log().sum().backward()
    assert losses.grad is not None
    assert InverseLoss()(losses.detach().numpy()) == pytest.approx(losses.grad.numpy())


@pytest.mark.parametrize("loss", [0.05, 1.0, 30.0])
def test_is_twice_the_best_weight_of_kendalls_objective(loss: float) -> None:
    best = minimize_scalar(lambda s: (np.exp(-s) * loss + s) / 2).x
    assert InverseLoss()([loss])[0] == pytest.approx(np.exp(-best), rel=1e-5)


def test_weight_is_bounded() -> None:
    assert InverseLoss(epsilon=1e-3)([0.0, 1e-9, 1e-2]) == pytest.approx([1e3, 1e3, 100])


def test_negative_loss_names_its_place_among_all_tasks() -> None:
    with pytest.raises(ValueError, match=r"the loss of task 2 is -0\.5: InverseLoss takes no"):
        InverseLoss()([1, np.nan, -0.5], present=[True, False, True])
    assert InverseLoss()([1, -1], present=[True, False]).tolist() == [1, 0]


@pytest.mark.parametrize("epsilon", [0, -1, np.nan])
def test_epsilon_must_be_positive(epsilon: float) -> None:
    with pytest.raises(ValueError, match="epsilon must be positive"):
        InverseLoss(epsilon)
