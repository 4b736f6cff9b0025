import numpy as np

from mtl_tutorial.datasets import customer_requests
from mtl_tutorial.datasets._requests import DATES, TAGS
from mtl_tutorial.text import tokenize


def test_splits_and_shapes() -> None:
    data = customer_requests()
    assert [len(split) for split in (data.train, data.valid, data.test)] == [2000, 400, 600]
    texts = np.concatenate([data.train.inputs, data.valid.inputs, data.test.inputs])
    assert len(set(texts)) == 3000
    for task, classes in {"topic": 3, "intent": 4, "tags": 4}.items():
        target = data.train.targets[task]
        assert target.dtype == np.int64
        assert set(np.unique(target)) - {-1} == set(range(classes))


def test_there_is_one_tag_a_word() -> None:
    split = customer_requests().test
    for text, tags in zip(split.inputs, split.targets["tags"], strict=True):
        words = str(text).split(" ")
        assert tokenize(str(text)) == words
        assert (tags[: len(words)] >= 0).all()
        assert (tags[len(words) :] == -1).all()
        dates = {word for date in DATES.split(";") for word in date.split()}
        dated = np.flatnonzero(tags == TAGS.index("date"))
        assert {words[place] for place in dated} <= dates


def test_a_word_alone_does_not_tell_its_tag() -> None:
    split = customer_requests().train
    seen: dict[str, set[int]] = {}
    for text, tags in zip(split.inputs, split.targets["tags"], strict=True):
        for word, tag in zip(str(text).split(), tags, strict=False):
            seen.setdefault(word, set()).add(int(tag))
    assert {"7", "order"} <= {word for word, tags in seen.items() if len(tags) > 1}


def test_the_seed_decides_the_rows_and_nothing_else() -> None:
    one, again, other = (customer_requests(seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.train.inputs, again.train.inputs)
    assert not np.array_equal(one.train.inputs, other.train.inputs)
    every = [
        sorted(map(str, np.concatenate([d.train.inputs, d.valid.inputs, d.test.inputs])))
        for d in (one, other)
    ]
    assert every[0] == every[1]
