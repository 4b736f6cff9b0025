import numpy as np

from mtl_tutorial.datasets._reviews import write_reviews
from mtl_tutorial.text import tokenize


def test_the_same_generator_writes_the_same() -> None:
    one, again, other = (write_reviews(50, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert one == again
    assert one != other


def test_all_differ_and_both_labels_are_balanced() -> None:
    rows = write_reviews(3000, np.random.default_rng(0))
    assert len({text for text, _, _ in rows}) == 3000
    assert np.bincount([domain for _, _, domain in rows]).tolist() == [1000] * 3
    assert 0.45 < np.mean([label for _, label, _ in rows]) < 0.55


def test_every_review_has_words_and_ends_like_a_sentence() -> None:
    for text, _, _ in write_reviews(500, np.random.default_rng(2)):
        assert len(tokenize(text)) >= 3
        assert text[-1] in ".!"
        assert "  " not in text


def test_neither_label_can_be_read_off_single_words() -> None:
    """Words tell something, but not all: negation and order count, and there is noise."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    rows = write_reviews(3000, np.random.default_rng(0))
    texts, labels = [row[0] for row in rows], np.array([row[1:] for row in rows])
    counts = CountVectorizer(binary=True).fit(texts[:2000])
    train, test = counts.transform(texts[:2000]), counts.transform(texts[2000:])
    for column, low, high in ((0, 0.6, 0.75), (1, 0.8, 0.93)):
        model = LogisticRegression(C=0.3).fit(train, labels[:2000, column])
        assert low < model.score(test, labels[2000:, column]) < high
