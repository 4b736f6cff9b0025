"""A small grammar that writes reviews: sentences with a sentiment and a domain."""

from collections.abc import Sequence

import numpy as np

# By domain: shop, film, restaurant. What is spoken about, then what may be said of it, good and bad.
# Some words are good in one domain and bad in another: "small", "long", "predictable", "light".
NOUNS = (
    (
        "phone battery headset charger case screen keyboard camera cable microphone reception "
        "ringtone bluetooth button volume software manual plug design"
    ),
    (
        "film movie plot script acting director soundtrack cast ending dialogue scene camera "
        "photography story characters pace actress design sequel"
    ),
    (
        "food waiter pizza soup burger place menu salad dessert steak waitress table portion "
        "chicken sauce breakfast bartender story design"
    ),
)
SHARED_NOUNS = "service price quality experience thing sound staff value look wait size idea"
GOOD = "great excellent good nice wonderful amazing perfect fantastic solid impressive decent"
BAD = "bad terrible awful poor disappointing horrible mediocre useless annoying weak sad"
GOOD_HERE = (
    "small light long loud reliable sturdy predictable comfortable sharp fast",
    "long dark funny moving clever sharp slow touching strange gripping",
    "hot fresh tasty tender friendly large fast cheap crisp authentic",
)
BAD_HERE = (
    "cheap slow fragile large heavy hot dark flimsy dead strange",
    "predictable boring cheap flat loud light fast silly hollow small",
    "cold bland small loud slow dry dark greasy rude salty",
)
THEY_DID = (
    (
        "works as promised;fits like a glove;arrived early;was a bargain",
        "broke after a week;went back to the store;stopped charging;was a waste of money",
    ),
    (
        "kept me on the edge of my seat;made me cry;deserves an oscar;was worth the ticket",
        "put me to sleep;made no sense;dragged on for hours;was a waste of time",
    ),
    (
        "made my day;melted in the mouth;came right away;was worth the drive",
        "made me sick;took an hour;came back cold;was a waste of money",
    ),
)
WHERE = (
    ";;;at this store;in the box;on this device;with my car",
    ";;;in this picture;on screen;in the theater;with my kids",
    ";;;at this diner;on the patio;in vegas;with my family",
)
DEGREE = ";;;very;really;so;pretty;quite;a bit"
START = ";;;;honestly;overall;to be fair;i must say;well;in short;for me"
END = ";;;;;i guess;i think;this time;believe me;again;that is all"
HEDGE = ("it was okay;not sure what to say;as expected;what can i say", "hmm;average;you decide")

MISSPELT, WRONG = 0.03, 0.04  # of the words; of the sentiments


def write_reviews(count: int, generator: np.random.Generator) -> list[tuple[str, int, int]]:
    """Write different reviews, each with a sentiment (0, 1) and a domain (0, 1, 2).

    A review says one thing, or two of which the second counts ("the plot was clever but the film
    was boring", "although …, …"). What it says may be negated. About one in eight names nothing of
    its domain, one in twenty-five carries the wrong sentiment, and some words are misspelt, so that
    no model can be always right.

    Parameters
    ----------
    count : int
    generator : numpy.random.Generator

    Returns
    -------
    list of (str, int, int), length count
        All texts differ. Sentiments and domains are as good as balanced.

    Examples
    --------
    >>> write_reviews(1, np.random.default_rng(3))[0][1:] in {(s, d) for s in (0, 1) for d in (0, 1, 2)}
    True
    """
    rows: dict[str, tuple[str, int, int]] = {}
    while len(rows) < count:
        domain, positive = len(rows) % 3, bool(generator.integers(2))
        text = _review(positive, domain, generator)
        label = int(positive != (generator.random() < WRONG))
        rows.setdefault(text, (text, label, domain))
    return list(rows.values())


def _pick(options: str | Sequence[str], generator: np.random.Generator) -> str:
    """One of several, divided by semicolons, else by spaces."""
    if isinstance(options, str):
        options = options.split(";") if ";" in options else options.split()
    return options[int(generator.integers(len(options)))]


def _review(positive: bool, domain: int, generator: np.random.Generator) -> str:
    nouns = SHARED_NOUNS if generator.random() < 0.12 else f"{NOUNS[domain]} {SHARED_NOUNS}"
    named = nouns != SHARED_NOUNS

    def clause(good: bool) -> str:
        noun = _pick(nouns, generator)
        chance = generator.random()
        if named and chance < 0.2:
            return f"the {noun} {_pick(THEY_DID[domain][not good], generator)}"
        if chance < 0.3:
            verb = _pick("loved;liked;enjoyed" if good else "hated;disliked;regret", generator)
            return f"i {verb} the {noun}"
        negated = generator.random() < 0.25
        praise = good != negated
        words = GOOD if praise else BAD
        if named and generator.random() < 0.6:
            words = (GOOD_HERE if praise else BAD_HERE)[domain]
        quality = f"{_pick(DEGREE, generator)} {_pick(words, generator)}"
        if not negated:
            return f"the {noun} {_pick('was;is;seemed', generator)} {quality}"
        forms = (f"the {noun} is not", f"the {noun} wasn't", f"never was the {noun}")
        return f"{_pick(forms, generator)} {quality}"

    shape = generator.random()
    if shape < 0.45:
        body = clause(positive)
    elif shape < 0.65:
        body = f"{clause(positive)} {_pick('and;because', generator)} {clause(positive)}"
    elif shape < 0.85:
        body = f"{clause(not positive)} but {clause(positive)}"
    else:
        body = f"{_pick('although;even if', generator)} {clause(not positive)}, {clause(positive)}"
    where = _pick(WHERE[domain], generator) if named else ""
    hedge = _pick(_pick(HEDGE, generator), generator) if generator.random() < 0.1 else ""
    pieces = [_pick(START, generator), body, where, _pick(END, generator), hedge]
    words = " ".join(pieces).split()
    words = [_misspelt(w, generator) if generator.random() < MISSPELT else w for w in words]
    text = " ".join(words)
    return f"{text[:1].upper()}{text[1:]}{_pick(('.', '.', '!', '...'), generator)}"


def _misspelt(word: str, generator: np.random.Generator) -> str:
    """Leave out a letter, or swap two neighbours."""
    if len(word) < 4:
        return word
    i = int(generator.integers(1, len(word) - 1))
    if generator.random() < 0.5:
        return word[:i] + word[i + 1 :]
    return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
