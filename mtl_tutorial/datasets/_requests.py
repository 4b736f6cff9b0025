"""A small grammar that writes requests to customer service, labelled at three levels."""

import numpy as np

from mtl_tutorial.datasets._dataset import Dataset, Split

TOPICS = ("order", "account", "device")
INTENTS = ("ask", "cancel", "complain", "thank")
TAGS = ("none", "product", "number", "date")

THINGS = {
    "order": "parcel;blue jacket;coffee machine;pair of shoes;delivery;order;desk lamp;gift card",
    "account": "password;premium plan;invoice;email address;subscription;account;payment;gift card",
    "device": "phone;router;coffee machine;screen;desk lamp;charger;camera;phone",
}
ASK = {
    "order": "where is my {thing};when will the {thing} from {date} arrive;has {number} been sent",
    "account": "how do i change my {thing};why was my {thing} charged on {date};what is {number}",
    "device": "how do i reset my {thing};does the {thing} work with model {number};"
    "why does the {thing} blink",
}
COMPLAIN = {
    "order": "my {thing} came broken on {date};the {thing} in {number} is not what i wanted;"
    "still no {thing} since {date}",
    "account": "you charged my {thing} twice on {date};the {thing} {number} is wrong;"
    "my {thing} does not work since {date}",
    "device": "the {thing} does not turn on;my {thing} died on {date};the {thing} {number} gets hot",
}
ALIKE = {
    "cancel": "please cancel the {thing};i do not want the {thing} from {date} any more;"
    "stop {number} please;i want my money back for the {thing}",
    "thank": "thanks the {thing} works again;great the {thing} came on {date};"
    "all good with {number} now;i do not want anything else the {thing} works",
}
START = ";;;hello;hi there;please;sorry to bother you;on {date} i wrote to you;again"
END = ";;;please help;as i said on {date};this is about {number};best wishes;asap"
DATES = "monday;tuesday;friday;march 3;april 12;may 7;the 5th of june;yesterday;last week"
LABEL_NOISE = 0.03  # of the topics and of the intents, drawn anew


def customer_requests(seed: int = 0) -> Dataset:
    """Write 3,000 requests to customer service, each labelled at three levels.

    Tasks: ``topic`` (0 order, 1 account, 2 device) and ``intent`` (0 ask, 1 cancel, 2 complain,
    3 thank) of the whole text, ``tags`` of each word (0 none, 1 product, 2 number, 3 date). Some
    products belong to two topics, some openings and endings name a date or number too, and of 3 in
    100 topics and intents a new one was drawn at random. All texts differ. 2,000 rows to train, 400 to validate, 600 to
    test.

    Parameters
    ----------
    seed : int
        Decides which rows go into which split, and their order. The texts are always the same.

    Returns
    -------
    Dataset
        ``inputs`` str of shape (N,): words between single spaces, as
        :func:`mtl_tutorial.text.tokenize` gives them. ``topic`` and ``intent`` int64 of shape (N,),
        ``tags`` int64 of shape (N, longest text), -1 behind the last word.

    Examples
    --------
    >>> data = customer_requests()
    >>> str(data.train.inputs[0]), data.train.targets["tags"][0, :6].tolist()
    ('please stop 49 please', [0, 0, 2, 0, -1, -1])
    """
    generator = np.random.default_rng(0)
    rows: dict[str, tuple[list[int], int, int]] = {}
    while len(rows) < 3000:
        topic, intent = len(rows) % 3, int(generator.integers(len(INTENTS)))
        words, tags = _request(topic, intent, generator)
        wrong = generator.random(2) < LABEL_NOISE
        topic = int(generator.integers(3)) if wrong[0] else topic
        intent = int(generator.integers(4)) if wrong[1] else intent
        rows.setdefault(" ".join(words), (tags, topic, intent))

    inputs = np.array(list(rows))
    longest = max(len(tags) for tags, _, _ in rows.values())
    labels = list(rows.values())
    targets = {
        "topic": np.array([topic for _, topic, _ in labels], dtype=np.int64),
        "intent": np.array([intent for _, _, intent in labels], dtype=np.int64),
        "tags": np.array([tags + [-1] * (longest - len(tags)) for tags, _, _ in labels]),
    }
    order = np.random.default_rng(seed).permutation(len(inputs))
    everything = Split(inputs, targets)
    train, valid, test = (everything.take(part) for part in np.split(order, [2000, 2400]))
    return Dataset("customer_requests", "embedded", train, valid, test)


def _request(
    topic: int, intent: int, generator: np.random.Generator
) -> tuple[list[str], list[int]]:
    """Words and their tags."""

    def pick(options: str) -> str:
        choices = options.split(";")
        return choices[generator.integers(len(choices))]

    name = TOPICS[topic]
    frames = {"ask": ASK[name], "complain": COMPLAIN[name]} | ALIKE
    frame = f"{pick(START)} {pick(frames[INTENTS[intent]])} {pick(END)}"
    words: list[str] = []
    tags: list[int] = []
    for piece in frame.split():
        slot = {"{thing}": "product", "{number}": "number", "{date}": "date"}.get(piece, "none")
        said = piece
        if slot == "product":
            said = pick(THINGS[name])
        elif slot == "date":
            said = pick(DATES)
        elif slot == "number":
            said = f"{pick('order;number;;')} {generator.integers(1, 60)}"
        words += said.split()
        tags += [TAGS.index(slot)] * len(said.split())
    return words, tags
