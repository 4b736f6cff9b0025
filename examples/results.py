"""Print what several ways of training reached, side by side; the programs here share it."""


def show(title: str, columns: dict[str, dict[str, float]], metrics: list[str]) -> None:
    """Print one row a metric, one column a way; a dash where a way has no such number.

    What the programs show is that a loop by hand and the library come to the same. They compare no
    methods: there is one seed, and their settings were chosen by hand, for time.
    """
    width = max(map(len, [title, *metrics]))
    print(f"{title:{width}}", *columns, sep="  ")
    for metric in metrics:
        cells = [
            f"{found[metric]:{len(name)}.3f}" if metric in found else "-".rjust(len(name))
            for name, found in columns.items()
        ]
        print(f"{metric:{width}}", *cells, sep="  ")
    print("one seed, settings chosen by hand: this compares no methods")
