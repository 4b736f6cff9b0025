from typing import Any

import numpy as np
import pytest

from mtl_tutorial.datasets import Split
from mtl_tutorial.tabular import encoder

NAN = float("nan")
TRAIN: dict[str, Any] = {
    "city": np.array(["Rome", "Oslo", "Rome", "Bern"]),
    "film": np.array([30, 10, 10, 20]),
    "age": np.array([10.0, 20.0, 30.0, 40.0]),
    "income": np.array([1.0, NAN, 3.0, 5.0]),
}
CATEGORICAL, NUMERIC = ["city", "film"], ["age", "income"]


def taken(rows: list[int], **changed: Any) -> dict[str, Any]:
    return {name: column[rows] for name, column in (TRAIN | changed).items()}


def test_categories_are_numbered_from_one_in_sorted_order() -> None:
    encode = encoder(TRAIN, CATEGORICAL)
    assert encode.cardinalities == {"city": 4, "film": 4}
    found = encode(TRAIN)
    assert list(found) == ["categorical"]
    assert found["categorical"].dtype == np.int64
    assert found["categorical"].tolist() == [[3, 3], [2, 1], [3, 1], [1, 2]]


def test_numbers_are_scaled_and_filled_with_the_mean() -> None:
    encode = encoder(TRAIN, numeric=NUMERIC)
    assert encode.numeric == ("age", "income", "income is missing")
    found = encode(TRAIN)
    assert list(found) == ["numeric"]
    assert found["numeric"].dtype == np.float32
    age = (TRAIN["age"] - 25) / np.sqrt(125)
    income = np.array([-2, 0, 0, 2]) / np.sqrt(8 / 3)
    np.testing.assert_allclose(found["numeric"], np.transpose([age, income, [0, 1, 0, 0]]), 1e-6)


def test_number_missing_only_later_becomes_the_mean() -> None:
    found = encoder(TRAIN, numeric=["age"])({"age": [NAN, 25.0, None]})
    assert found["numeric"].tolist() == [[0], [0], [0]]


@pytest.mark.parametrize("missing", [None, NAN])
def test_unknown_and_missing_categories_are_0(missing: float | None) -> None:
    """Whether a training row has a missing value or not."""
    seen = np.array(["Rome", missing, "Oslo", missing], dtype=object)
    for train in (TRAIN["city"], seen):
        encode = encoder({"city": train}, ["city"])
        assert encode.cardinalities == {"city": 1 + len({"Rome", "Oslo", "Bern"} & {*train})}
        later = np.array([missing, "Paris", "Oslo"], dtype=object)
        number = 2 if train is TRAIN["city"] else 1
        assert encode({"city": later})["categorical"].tolist() == [[0], [0], [number]]
        assert encode({"city": [missing] * 2})["categorical"].tolist() == [[0], [0]]


def test_numbers_that_name_something_keep_their_last_digit() -> None:
    """Beyond 2**53 two whole numbers may be one float."""
    names = np.array([2**60, 2**60 + 1, 2**60 + 2])
    assert encoder({"id": names}, ["id"])({"id": names})["categorical"].tolist() == [[1], [2], [3]]


def test_category_is_the_same_as_a_whole_number_and_as_a_float() -> None:
    """A column of whole numbers becomes one of floats where a value is missing."""
    encode = encoder(TRAIN, ["film"])
    assert encode({"film": np.array([20.0, NAN, 15.0])})["categorical"].tolist() == [[2], [0], [0]]
    assert encode({"film": [30, None]})["categorical"].tolist() == [[3], [0]]


def test_what_a_masked_array_hides_is_missing() -> None:
    hidden = [False, True, False, False]
    train = {
        "film": np.ma.array(TRAIN["film"], mask=hidden),
        "age": np.ma.array([9, 0, 1, 1], mask=hidden),
    }
    found = encoder(train, ["film"], ["age"])(train)
    assert found["categorical"].tolist() == [[3], [0], [1], [2]]
    assert found["numeric"][:, 1].tolist() == [0, 1, 0, 0]


def test_learned_from_the_training_rows_alone() -> None:
    """Other rows change nothing that is learned, nor what any training row becomes."""
    encode = encoder(taken([0, 1, 2]), CATEGORICAL, NUMERIC)
    before = encode(taken([0, 1, 2]))
    encode(taken([3], age=np.full(4, 1e6), city=np.full(4, "Paris")))
    whole = encode(taken([0, 1, 2, 3], age=np.array([10.0, 20.0, 30.0, 1e6])))
    assert encode.cardinalities == {"city": 3, "film": 3}
    for kind, array in before.items():
        np.testing.assert_array_equal(encode(taken([0, 1, 2]))[kind], array)
        np.testing.assert_array_equal(whole[kind][:3], array)


def test_rows_are_encoded_one_by_one() -> None:
    encode = encoder(TRAIN, CATEGORICAL, NUMERIC)
    whole = encode(TRAIN)
    for row in range(4):
        for kind, array in encode(taken([row])).items():
            np.testing.assert_array_equal(array, whole[kind][[row]])


def test_one_array_of_a_split() -> None:
    found = encoder(TRAIN, CATEGORICAL, NUMERIC)(TRAIN)
    assert len(Split(found["numeric"], {"click": np.zeros(4)}).take([1, 2])) == 2


def test_columns_of_a_structured_array() -> None:
    table = np.array([("Rome", 1.0), ("Oslo", 3.0)], dtype=[("city", "U4"), ("age", "f8")])
    found = encoder(table, ["city"], ["age"])(table)
    assert found["categorical"].tolist() == [[2], [1]]
    assert found["numeric"].tolist() == [[-1], [1]]


def test_it_shows_what_it_gives() -> None:
    assert repr(encoder(TRAIN, ["city"], ["age"])) == (
        "Encoder(cardinalities={'city': 4}, numeric=('age',))"
    )


BAD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    r"there is no column 'town'; there are \['city', 'film', 'age', 'income'\]": (
        {},
        {"categorical": ["town"]},
    ),
    r"columns named twice: \['age'\]": ({}, {"categorical": ["age"], "numeric": ["age"]}),
    "no column is named": ({}, {}),
    r"column 'age' has shape \(2, 2\), not \(N,\)": (
        {"age": np.ones((2, 2))},
        {"numeric": ["age"]},
    ),
    "column 'age' has 3 rows, but column 'city' has 4": (
        {"age": np.ones(3)},
        {"categorical": ["city"], "numeric": ["age"]},
    ),
    "there are no rows: column 'age' is empty": ({"age": []}, {"numeric": ["age"]}),
    "column 'age' holds 1.0 in every training row": ({"age": np.ones(4)}, {"numeric": ["age"]}),
    "column 'city' holds 'Rome' in every": ({"city": ["Rome"] * 4}, {"categorical": ["city"]}),
    "column 'age' holds nothing but missing values": ({"age": [NAN] * 4}, {"numeric": ["age"]}),
    "row 1 of column 'age' holds '20', not a finite number": (
        {"age": np.array([10, "20", None, 30], dtype=object)},
        {"numeric": ["age"]},
    ),
    "row 0 of column 'city' holds 'Rome', not a finite number .* name the column as categorical": (
        {},
        {"numeric": ["city"]},
    ),
    "row 2 of column 'age' holds inf, not": (
        {"age": [1.0, NAN, np.inf, 2.0]},
        {"numeric": ["age"]},
    ),
    "row 0 of column 'age' holds 1e[+]40, not": (
        {"age": [1e40, 1.0, 2.0, 3.0]},
        {"numeric": ["age"]},
    ),
    "row 0 of column 'day' holds datetime": (
        {"day": np.array(["2026-01-01", "2026-01-02"], dtype="M8[D]")},
        {"numeric": ["day"]},
    ),
    "categories of column 'city' .* it holds numbers and texts: make texts": (
        {"city": np.array(["Rome", 3, None, "Oslo"], dtype=object)},
        {"categorical": ["city"]},
    ),
    "categories of column 'city' .* it holds bytes": (
        {"city": np.array([b"Rome", b"Oslo"])},
        {"categorical": ["city"]},
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_training_rows(message: str) -> None:
    changed, named = BAD[message]
    with pytest.raises(ValueError, match=message):
        encoder(TRAIN | changed, **named)


def test_one_name_instead_of_a_list() -> None:
    with pytest.raises(
        TypeError, match="categorical is a list of column names; got the text 'city'"
    ):
        encoder(TRAIN, categorical="city")


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ({"city": ["Rome"]}, "there is no column 'film'"),
        ({**TRAIN, "income": np.ones(3)}, "column 'income' has 3 rows, but column 'city' has 4"),
        ({**TRAIN, "age": ["10"] * 4}, "row 0 of column 'age' holds '10'"),
        ({**TRAIN, "film": ["10"] * 4}, "'film' holds texts, but the training rows had numbers"),
        ({**TRAIN, "city": np.ones(4)}, "'city' holds numbers, but the training rows had texts"),
    ],
)
def test_bad_rows_later(later: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder(TRAIN, CATEGORICAL, NUMERIC)(later)


def test_scaled_number_too_large_for_float32() -> None:
    encode = encoder({"age": [0.0, 1e-12]}, numeric=["age"])
    with pytest.raises(ValueError, match="row 1 of column 'age' is too far from the training rows"):
        encode({"age": [0.0, 1e30]})
