"""Numbers for the text: prose that cites a result takes it from the cell that computed it."""

import numpy as np

_PREFIX = "application/papermill.record/"


def glue(**values: str | float | np.generic) -> None:
    """Keep values under their names, so that the page's text can show them.

    In the text, ``{glue:text}`accuracy:.2f``` shows the value (MyST-NB reads it from the cell's
    output; in plain Jupyter the call shows nothing). So no result is ever typed by hand.

    Parameters
    ----------
    **values : str, int, float, or a NumPy scalar of these kinds
        The names are the keys, unique on the page.

    Raises
    ------
    TypeError
        A value is of another kind, such as an array: glue one number at a time.

    Examples
    --------
    >>> glue(accuracy=np.float64(0.5), verdict="gains")
    >>> glue(curve=[0.5, 0.6])
    Traceback (most recent call last):
    TypeError: curve is a list; glue takes a str, an int or a float
    """
    plain = {name: v.item() if isinstance(v, np.generic) else v for name, v in values.items()}
    for name, value in plain.items():
        if not isinstance(value, str | int | float):
            raise TypeError(
                f"{name} is a {type(value).__name__}; glue takes a str, an int or a float"
            )
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ModuleNotFoundError:
        return
    if get_ipython() is None:
        return
    for name, value in plain.items():
        display(
            {f"{_PREFIX}text/plain": repr(value)},
            raw=True,
            metadata={"scrapbook": {"name": name, "mime_prefix": _PREFIX}},
        )
