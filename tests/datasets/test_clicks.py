import numpy as np
import pytest

from mtl_tutorial.datasets import clicks_and_purchases


def test_a_purchase_is_known_where_there_was_a_click() -> None:
    data = clicks_and_purchases(rows=3000)
    assert (data.name, data.source) == ("clicks_and_purchases", "generated")
    for split in (data.train, data.valid):
        click, purchase = split.targets["click"], split.targets["purchase"]
        assert 0.1 < click.mean() < 0.4
        assert set(purchase[click == 1]) == {0, 1}
        assert set(purchase[click == 0]) == {-1}
    assert set(data.test.targets["purchase"]) == {0, 1}
    assert [len(split) for split in (data.train, data.valid, data.test)] == [3000, 4000, 10_000]


def test_with_a_bait_those_who_click_are_other_than_those_who_do_not() -> None:
    def gap(bait: float) -> float:
        test = clicks_and_purchases(rows=1, bait=bait).test
        click, purchase = test.targets["click"] == 1, test.targets["purchase"]
        return float(purchase[click].mean() - purchase[~click].mean())

    assert gap(3.0) < gap(0.0) - 0.05


def test_numbers_of_users_and_items_begin_at_one() -> None:
    inputs = clicks_and_purchases(rows=20_000).train.inputs
    assert inputs["categorical"].min(axis=0).tolist() == [1, 1]
    assert inputs["categorical"].max(axis=0).tolist() == [60, 80]
    assert inputs["numeric"].dtype == np.float32


def test_the_seed_decides() -> None:
    one, again, third = (clicks_and_purchases(50, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.train.inputs["numeric"], again.train.inputs["numeric"])
    assert not np.array_equal(one.train.inputs["numeric"], third.train.inputs["numeric"])


@pytest.mark.parametrize(("rows", "bait"), [(0, 1.0), (5, -1.0)])
def test_no_rows_and_negative_bait_are_refused(rows: int, bait: float) -> None:
    with pytest.raises(ValueError, match="at least"):
        clicks_and_purchases(rows, bait)
