"""Print what several ways of training reached, side by side; the programs here share it."""


def show(title: str, columns: dict[str, dict[str, float]], metrics: list[str]) -> None:
    """One row a metric, one column a way; a dash where a way has no such number."""
    width = max(map(len, [title, *metrics]))
    print(f"{title:{width}}", *columns, sep="  ")
    for metric in metrics:
        cells = [
            f"{found[metric]:{len(name)}.3f}" if metric in found else "-".rjust(len(name))
            for name, found in columns.items()
        ]
        print(f"{metric:{width}}", *cells, sep="  ")
