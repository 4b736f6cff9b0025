import numpy as np
import pytest

from mtl_tutorial.text import encode, lengths, tokenize, unknown_rate, vocabulary

TEXTS = ["Good phone.", "Good, good food!", "A film\tand a\x0bfilm\n"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It isn't GOOD, is it?", ["it", "isnt", "good", "is", "it"]),
        ("great,but", ["greatbut"]),
        ("  a \t b\r\n", ["a", "b"]),
        ("10/10 ÉTÉ é\x85é", ["1010", "ÉtÉ", "é\x85é"]),
        ("", []),
        ("?! ...", []),
    ],
)
def test_tokenize(text: str, words: list[str]) -> None:
    assert tokenize(text) == words


def test_the_commonest_words_come_first() -> None:
    words = vocabulary(TEXTS)
    assert words[:3] == ["", "[UNK]", "good"]
    assert sorted(words[3:5]) == ["a", "film"]
    assert set(words[2:]) == {"good", "phone", "food", "a", "film", "and"}


def test_size_counts_padding_and_unknown() -> None:
    assert vocabulary(TEXTS, size=3) == ["", "[UNK]", "good"]
    with pytest.raises(ValueError, match="size counts padding and unknown"):
        vocabulary(TEXTS, size=2)


def test_rare_words_get_no_number() -> None:
    words = vocabulary(TEXTS, min_count=2)
    assert words == ["", "[UNK]", "good", "film", "a"]
    assert encode(["a phone", "film"], words).tolist() == [[4, 1], [3, 0]]
    with pytest.raises(ValueError, match="no word occurs 4 times"):
        vocabulary(TEXTS, min_count=4)


def test_encode_pads_and_cuts_at_the_end() -> None:
    words = vocabulary(TEXTS)
    good, film = words.index("good"), words.index("film")
    found = encode(np.array(["good film good", "film"]), words, length=2)
    assert found.tolist() == [[good, film], [film, 0]]
    assert found.dtype == np.int64
    assert lengths(found).tolist() == [2, 1]


def test_unknown_words_only() -> None:
    found = encode(["zebra quagga", "good zebra"], vocabulary(TEXTS), length=3)
    assert found[0].tolist() == [1, 1, 0]
    assert unknown_rate(found) == 0.75


def test_padding_and_unknown_are_no_words_of_a_text() -> None:
    words = vocabulary(TEXTS)
    assert encode(["[UNK] good"], words).tolist() == [[1, 2]]


@pytest.mark.parametrize("nothing", ["", "  ", "?!"])
def test_a_text_without_words_is_named(nothing: str) -> None:
    with pytest.raises(ValueError, match="text 1 holds no word: '"):
        encode(["good", nothing], vocabulary(TEXTS))


def test_what_is_not_text_is_refused() -> None:
    words = vocabulary(TEXTS)
    with pytest.raises(TypeError, match="must be a str; got nan"):
        encode(["good", float("nan")], words)  # type: ignore[list-item]
    with pytest.raises(TypeError, match="not one str"):
        encode("good", words)
    with pytest.raises(ValueError, match="no text"):
        encode([], words)
    with pytest.raises(ValueError, match="length"):
        encode(["good"], words, length=0)


def test_unknown_rate_of_nothing() -> None:
    assert np.isnan(unknown_rate(np.zeros((2, 3), dtype=np.int64)))
