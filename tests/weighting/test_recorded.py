from dataclasses import asdict

import numpy as np
import pytest
import torch

from mtl_tutorial.pytorch import mtl_backward
from mtl_tutorial.weighting import DWA, FAMO, UW, Equal, PCGrad, Recorded, Weighting
from mtl_tutorial.weighting.recorded import bare, conflict_shares, cosines, gramians
from tests.weighting.properties import METHODS

each_method = pytest.mark.parametrize("name", METHODS)
FLAGS = ("needs_losses", "needs_gramian", "weights_heads", "needs_observe", "claims")
STEPS, TASKS = 8, 3
RNG = np.random.default_rng(0)
LOSSES, AFTER = RNG.uniform(0.2, 3, (2, STEPS, TASKS))
ROWS = RNG.standard_normal((STEPS, TASKS, 5))
PRESENT = np.ones((STEPS, TASKS), bool)
PRESENT[2, 1] = PRESENT[5, 0] = PRESENT[5, 2] = False
PRESENT[6] = False


def travel(method: Weighting) -> list[np.ndarray]:
    """Eight steps with absent tasks, an epoch every two steps."""
    weights = []
    for i, (losses, after, rows, present) in enumerate(
        zip(LOSSES, AFTER, ROWS, PRESENT, strict=True)
    ):
        if i and i % 2 == 0:
            method.end_epoch()
        weights.append(method(losses, rows @ rows.T, present))
        if method.needs_observe:
            method.observe(after)
    return weights


@each_method
def test_recorded_answers_and_remembers_as_it_would_alone(name: str) -> None:
    alone, recorded = METHODS[name](TASKS), Recorded(METHODS[name](TASKS))
    np.testing.assert_array_equal(travel(alone), travel(recorded))
    assert str(recorded.state_dict()) == str(alone.state_dict())
    for flag in FLAGS:
        assert getattr(recorded, flag) == getattr(alone, flag)
    resumed = Recorded(METHODS[name](TASKS))
    resumed.load_state_dict(alone.state_dict())
    np.testing.assert_array_equal(travel(resumed), travel(alone))


@each_method
def test_record_is_what_went_in_and_came_out(name: str) -> None:
    recorded = Recorded(METHODS[name](TASKS))
    weights = travel(recorded)
    assert len(recorded.steps) == STEPS
    for i, step in enumerate(recorded.steps):
        expected = {"present": PRESENT[i], "weights": weights[i]}
        if recorded.needs_losses:
            expected["losses"] = [LOSSES[i, k] if PRESENT[i, k] else np.nan for k in range(TASKS)]
        if recorded.needs_gramian:
            expected["gramian"] = [
                [
                    ROWS[i, k] @ ROWS[i, l] if PRESENT[i, [k, l]].all() else np.nan
                    for l in range(TASKS)
                ]
                for k in range(TASKS)
            ]
        assert list(step) == list(expected)
        for what, value in expected.items():
            np.testing.assert_allclose(step[what], value, rtol=1e-12)


def test_record_is_a_copy() -> None:
    """What the caller does to its arrays afterwards changes no step."""
    recorded = Recorded(UW())
    losses, present = np.ones(2), np.ones(2, bool)
    recorded(losses, present=present)[:] = 7
    losses[:], present[:] = 7, False
    assert {key: value.tolist() for key, value in recorded.steps[0].items()} == {
        "present": [True, True],
        "weights": [0.5, 0.5],
        "losses": [1, 1],
    }


def test_steps_are_added_to_the_list_that_is_given() -> None:
    steps: list[dict[str, np.ndarray]] = []
    Recorded(Equal(), steps)([0, 0])
    assert [step["weights"].tolist() for step in steps] == [[1, 1]]


def test_refused_step_is_not_recorded() -> None:
    recorded = Recorded(UW())
    with pytest.raises(ValueError, match=r"the loss of task 1 \('b'\) is nan"):
        recorded([1.0, np.nan], names=["a", "b"])
    assert recorded.steps == []


def test_a_method_called_directly_is_unrecorded() -> None:
    recorded = Recorded(Equal())
    assert recorded.weights(np.ones(2), None).tolist() == [1, 1]
    assert recorded.steps == []


def test_classes_keep_their_flags() -> None:
    """What is set for one object stays out of the class."""
    Recorded(PCGrad())
    Recorded(FAMO())
    assert (Recorded.needs_losses, Recorded.needs_gramian, Recorded.needs_observe) == (
        True,
        False,
        False,
    )


def test_shown_without_its_steps_and_found_bare() -> None:
    inner = DWA()
    recorded = Recorded(Recorded(inner))
    recorded([1.0, 2.0])
    assert repr(recorded) == f"Recorded(inner=Recorded(inner={inner!r}))"
    assert bare(recorded) is inner


def test_settings_of_it_are_no_weighting() -> None:
    """As in a saved model that took it for a method of its own."""
    with pytest.raises(
        TypeError, match=r"inner is a weighting such as UPGrad\(\); got \{'lr': 0.1\}"
    ):
        Recorded(**asdict(Recorded(UW(lr=0.1))))


@pytest.mark.parametrize("name", ["Equal", "UW", "GradNorm", "UPGrad"])
def test_a_step_in_pytorch_is_the_same_and_its_gramian_is_that_of_the_gradients(name: str) -> None:
    torch.manual_seed(0)
    trunk, inputs = torch.nn.Linear(4, 3).double(), torch.randn(5, 4).double()
    heads = torch.nn.ModuleList(torch.nn.Linear(3, 1) for _ in range(2)).double()

    def losses() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        features = trunk(inputs)
        return features, {str(k): head(features).square().mean() for k, head in enumerate(heads)}

    grads, recorded = [], Recorded(METHODS[name](2))
    for weighting in (METHODS[name](2), recorded):
        trunk.zero_grad()
        features, found = losses()
        weights = mtl_backward(found, features, weighting, trunk.parameters())
        grads.append(
            torch.cat([p.grad.flatten() for p in trunk.parameters() if p.grad is not None])
        )
    assert torch.equal(*grads)
    (step,) = recorded.steps
    assert step["weights"].tolist() == weights.tolist()
    if recorded.needs_gramian:
        parameters = list(trunk.parameters())
        rows = [
            torch.cat([g.flatten() for g in torch.autograd.grad(losses()[1][task], parameters)])
            for task in "01"
        ]
        brute = torch.stack(rows) @ torch.stack(rows).T
        np.testing.assert_allclose(step["gramian"], brute.numpy(), rtol=1e-12)


def test_cosines_are_those_of_the_gradients() -> None:
    lengths = np.linalg.norm(ROWS[0], axis=1)
    brute = ROWS[0] @ ROWS[0].T / np.outer(lengths, lengths)
    np.testing.assert_allclose(cosines(ROWS[0] @ ROWS[0].T), brute, rtol=1e-12)


def test_cosines_beside_nothing() -> None:
    gramian = np.array([[4.0, 0.0, np.nan], [0.0, 0.0, np.nan], [np.nan] * 3])
    np.testing.assert_array_equal(cosines(gramian), [[1, 0, np.nan], [0, 0, np.nan], [np.nan] * 3])


def test_rounded_cosine_stays_within_one() -> None:
    assert cosines(np.array([[1.0, -1.1], [-1.1, 1.0]])).tolist() == [[1, -1], [-1, 1]]


def test_conflicts_are_counted_where_both_tasks_are_present() -> None:
    recorded = Recorded(PCGrad())
    travel(recorded)
    shares = conflict_shares(recorded.steps)
    for k in range(TASKS):
        for l in range(TASKS):
            met = [i for i in range(STEPS) if PRESENT[i, k] and PRESENT[i, l]]
            assert shares[k, l] == np.mean([ROWS[i, k] @ ROWS[i, l] < 0 for i in met])
    assert (shares == shares.T).all()
    assert 0 < shares.max() < 1


def test_tasks_that_never_met() -> None:
    recorded = Recorded(PCGrad())
    recorded([0, 0], np.eye(2), [True, False])
    np.testing.assert_array_equal(conflict_shares(recorded.steps), [[0, np.nan], [np.nan, np.nan]])


def test_record_without_gramians() -> None:
    with pytest.raises(ValueError, match="no step with a Gramian was recorded: there is no step"):
        conflict_shares([])
    recorded = Recorded(Equal())
    recorded([0, 0])
    with pytest.raises(ValueError, match=r"recorded: the weighting reads none, as UPGrad\(\) does"):
        gramians(recorded.steps)
