import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mtl_tutorial.weighting import Equal


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_every_present_task_counts_once(present: list[bool]) -> None:
    losses = np.geomspace(1e-20, 1e20, len(present))
    assert Equal()(losses, present=present).tolist() == [float(here) for here in present]


def test_reads_nothing() -> None:
    assert not Equal.needs_losses
    assert not Equal.needs_gramian
