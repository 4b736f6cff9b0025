import inspect

import numpy as np
import pytest
from torchjd import scalarization

from mtl_tutorial.weighting import FAMO


def test_step_is_the_weighted_gradient_of_the_logarithms_normalised() -> None:
    losses = np.array([0.5, 2.0, 8.0])
    weights = FAMO()(losses)
    assert weights == pytest.approx(1 / losses / (1 / losses).sum(), rel=1e-6)


def test_slow_task_gains_share() -> None:
    method = FAMO(lr=0.1)
    for _ in range(20):
        method([1.0, 1.0])
        method.observe([0.5, 0.99])
    assert method([1.0, 1.0])[1] > 0.6


def test_brings_logarithms_down_at_one_rate() -> None:
    """Two quadratic losses with slopes of different size: the slower one catches up."""
    scales, x = np.array([0.2, 1.0]), np.array([1.0, 1.0])

    def losses() -> np.ndarray:
        return np.asarray(scales * x**2)

    method, rates = FAMO(lr=0.1), []
    for _ in range(300):
        before = losses()
        x -= 0.01 * method(before) * 2 * scales * x
        method.observe(losses())
        rates.append(np.log(before) - np.log(losses()))
    first, last = rates[0], np.mean(rates[-20:], axis=0)
    assert abs(np.log(last[0] / last[1])) < max(abs(np.log(first[0] / first[1])), 0.1)


def test_without_observe_the_logits_stay_and_the_second_step_says_so_once() -> None:
    method = FAMO()
    assert method([1.0, 2.0]) == pytest.approx([2 / 3, 1 / 3])
    with pytest.warns(UserWarning, match=r"after the last step observe\(losses\)") as found:
        assert method([0.5, 2.0]) == pytest.approx([0.8, 0.2])
    assert found[0].filename == __file__
    assert method([0.1, 1.9]) == pytest.approx([0.95, 0.05])


def test_observed_steps_and_refused_ones_warn_of_nothing() -> None:
    method = FAMO()
    for present in ([True, True], [True, False], [False, False], [False, True]):
        with pytest.raises(ValueError, match="below its bound"):
            method([-1.0, -1.0], present=[True, True])
        method([1.0, 2.0], present=present)
        method.observe([0.9, 1.8])


def test_step_without_any_task_teaches_nothing() -> None:
    """Whether a loop observes after it or leaves that out."""
    method = FAMO()
    method([1.0, 2.0])
    method.observe([0.9, 1.8])
    before = method.state_dict()
    for observed in (True, False):
        assert method([1.0, 2.0], present=[False, False]).tolist() == [0, 0]
        if observed:
            method.observe([0.1, 1.8])
        assert str(method.state_dict()) == str(before)
    method([1.0, 2.0])
    fresh = FAMO()
    fresh([1.0, 2.0], present=[False, False])
    fresh.observe([1.0, 2.0])
    fresh([1.0, 2.0])


def test_loaded_state_warns_of_nothing_and_may_still_be_observed() -> None:
    """Saved between a step and its losses, loaded into an object that has not observed either."""
    saved, other = FAMO(lr=0.1), FAMO(lr=0.1)
    saved([1.0, 2.0])
    other([5.0, 5.0])
    other.load_state_dict(saved.state_dict())
    other([1.0, 2.0])
    other.load_state_dict(saved.state_dict())
    for method in (saved, other):
        method.observe([0.9, 1.0])
    assert str(other.state_dict()) == str(saved.state_dict())
    assert saved.logits[0] > saved.logits[1]


def test_absent_task_has_no_part_in_the_others_step() -> None:
    whole, pair = FAMO(lr=0.1), FAMO(lr=0.1)
    for before, after in (([1.0, 3.0], [0.5, 2.9]), ([0.5, 2.9], [0.4, 2.0])):
        weights = whole([before[0], np.nan, before[1]], present=[True, False, True])
        assert weights[[0, 2]] == pytest.approx(pair(before))
        whole.observe([after[0], np.nan, after[1]])
        pair.observe(after)
    assert whole.logits[1] == 0


def test_defaults_are_torchjds() -> None:
    defaults = inspect.signature(scalarization.FAMO.__init__).parameters
    assert FAMO().lr == defaults["lr"].default
    assert FAMO().gamma == defaults["weight_decay"].default


def test_observe_follows_a_step() -> None:
    with pytest.raises(ValueError, match="after a step"):
        FAMO().observe([1.0])
    method = FAMO()
    method([1.0, 2.0])
    method.observe([1.0, 2.0])
    with pytest.raises(ValueError, match="after a step"):
        method.observe([1.0, 2.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1])
def test_bad_losses_after_the_step(bad: float) -> None:
    method = FAMO()
    method([1.0, 2.0])
    before = method.state_dict()
    with pytest.raises(ValueError, match="finite losses, none below its bound"):
        method.observe([1.0, bad])
    assert method.state_dict() == before


def test_loss_below_its_bound() -> None:
    with pytest.raises(ValueError, match=r"the loss of task 1 is -0\.1: FAMO takes no loss below"):
        FAMO()([1.0, -0.1])
    assert FAMO(min_losses=[0, -1])([1.0, -0.1]) == pytest.approx([0.9 / 1.9, 1 / 1.9])


def test_number_of_bounds() -> None:
    with pytest.raises(ValueError, match=r"min_losses has shape \(3,\), but there are 2"):
        FAMO(min_losses=[0, 0, 0])([1.0, 1.0])


@pytest.mark.parametrize(("lr", "gamma"), [(-1, 0), (1, -1), (np.nan, 0), (0, np.inf)])
def test_settings_must_make_sense(lr: float, gamma: float) -> None:
    with pytest.raises(ValueError, match="lr and gamma must be at least 0"):
        FAMO(lr, gamma)
