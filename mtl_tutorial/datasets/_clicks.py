"""Made-up visits to a shop: who clicks, and who would buy."""

import numpy as np

from mtl_tutorial.datasets._dataset import Dataset, Split

USERS, ITEMS, FACTORS = 60, 80, 4


def clicks_and_purchases(rows: int = 20_000, bait: float = 2.0, seed: int = 0) -> Dataset:
    r"""Make rows that show an item to a user, with what was clicked and what was then bought.

    Each user and each item has four numbers for clicks and four for purchases, and a row has two
    quantities (discount, hour), so that

    .. math:: P(\mathrm{click}) = \sigma(a_u^\top b_i + \text{discount} + \beta\, c_i - 1.8), \qquad
       P(\mathrm{purchase} \mid \mathrm{click}) = \sigma(g_u^\top h_i + 0.5\,\text{discount}
       - \beta\, c_i - 1.8)

    where :math:`c_i` says how much of an item is promise: with a *bait* :math:`\beta > 0` such items
    are clicked more and bought less. Purchase factors are half the click factors, half their own.

    Whether a row was bought is known where it was clicked; elsewhere the label of ``purchase`` is
    missing (-1). So it is in ``train`` and ``valid``. In ``test`` each row has the answer to *would
    this be bought, if clicked?*, which no shop can know: it is there to measure by.

    Parameters
    ----------
    rows : int
        To train; 4,000 to validate and 10,000 to test come on top.
    bait : float
        :math:`\beta`, at least 0: how much clicked rows differ from the others.
    seed : int
        Of everything.

    Returns
    -------
    Dataset
        ``inputs`` a dict: ``"categorical"`` int64 of shape (N, 2), user from 1 to 60 and item from 1
        to 80, ``"numeric"`` float32 of shape (N, 2); as :func:`mtl_tutorial.tabular.encoder` gives
        them. ``click`` and ``purchase`` int64 of shape (N,). Its ``source`` is ``"generated"``.

    Raises
    ------
    ValueError
        ``rows`` is below 1, or ``bait`` below 0.

    Examples
    --------
    >>> train = clicks_and_purchases(rows=1000).train
    >>> clicked = train.targets["click"] == 1
    >>> bool((train.targets["purchase"][~clicked] == -1).all())
    True
    """
    if rows < 1 or bait < 0:
        raise ValueError(f"rows must be at least 1, bait at least 0; got {rows} and {bait}")
    generator = np.random.default_rng(seed)
    user, own_user = generator.normal(size=(2, USERS, FACTORS))
    item, own_item = generator.normal(scale=0.7, size=(2, ITEMS, FACTORS))
    promise = bait * generator.normal(size=ITEMS)
    buyer, bought = (user + own_user) / 2**0.5, (item + own_item) / 2**0.5

    def split(count: int, hidden: bool) -> Split:
        u, i = generator.integers(USERS, size=count), generator.integers(ITEMS, size=count)
        numeric = generator.normal(size=(count, 2)).astype(np.float32)
        discount = numeric[:, 0]
        for_click = (user[u] * item[i]).sum(axis=1) + discount + promise[i] - 1.8
        for_purchase = (buyer[u] * bought[i]).sum(axis=1) + 0.5 * discount - promise[i] - 1.8
        click = (generator.logistic(size=count) < for_click).astype(np.int64)
        purchase = (generator.logistic(size=count) < for_purchase).astype(np.int64)
        inputs = {"categorical": np.stack([u, i], axis=1) + 1, "numeric": numeric}
        if hidden:
            purchase = np.where(click == 1, purchase, -1)
        return Split(inputs, {"click": click, "purchase": purchase})

    train, valid, test = split(rows, True), split(4000, True), split(10_000, False)
    return Dataset("clicks_and_purchases", "generated", train, valid, test)
