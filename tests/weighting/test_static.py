import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl_tutorial.weighting import Static

VALUE_AND_PRESENCE = st.lists(
    st.tuples(st.floats(-1e20, 1e20), st.booleans()), min_size=1, max_size=6
)


@given(VALUE_AND_PRESENCE)
def test_every_present_task_gets_its_own_value(pairs: list[tuple[float, bool]]) -> None:
    values, present = zip(*pairs, strict=True)
    weights = Static(values)(np.ones(len(values)), present=present)
    assert weights.tolist() == [value if here else 0 for value, here in pairs]


def test_weights_called_directly() -> None:
    assert Static([0.6, 0.4]).weights(np.ones(2), None).tolist() == [0.6, 0.4]


@pytest.mark.parametrize("present", [None, [True, False, False]])
def test_wrong_number_of_values(present: list[bool] | None) -> None:
    with pytest.raises(ValueError, match="2 weights for 3 tasks"):
        Static([0.6, 0.4])([1, 2, 3], present=present)


@pytest.mark.parametrize("values", [[1, np.nan], [np.inf, 1], [[1, 2]], 0.5])
def test_values_must_be_finite_numbers(values: list[float]) -> None:
    with pytest.raises(ValueError, match="one finite weight a task"):
        Static(values)


def test_an_array_serves_and_is_not_changed() -> None:
    values = np.array([0.6, 0.4])
    weights = Static(values)([1, 2])
    weights *= 0
    assert values.tolist() == [0.6, 0.4]


def test_reads_nothing() -> None:
    assert not Static.needs_losses
    assert not Static.needs_gramian
