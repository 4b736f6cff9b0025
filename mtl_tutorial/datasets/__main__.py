"""Download the real data sets: ``python -m mtl_tutorial.datasets``, or ``make data``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mtl_tutorial.datasets import _fetch, _registry


def main(arguments: Sequence[str] | None = None) -> int:
    """Download every data set of the registry.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line; ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        The exit status: 0 when every file is there and verified, otherwise 1.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mtl_tutorial.datasets",
        description="Download the real data sets and verify their SHA-256. "
        "Files that are there and verified are not downloaded again.",
    )
    parser.add_argument("--folder", type=Path, help="where to put them (default: the cache)")
    given: Path | None = parser.parse_args(arguments).folder
    folder = _fetch.cache_folder() if given is None else given.expanduser().resolve()

    failed = []
    for dataset in _registry.MIRRORS:
        try:
            _fetch.fetch(dataset, folder)
        except OSError as error:
            # The other sets have other mirrors: they may still be reachable.
            print(error, file=sys.stderr)
            failed.append(dataset)
    if failed:
        print(f"Failed: {', '.join(failed)}. Check the connection, run it again.", file=sys.stderr)
        return 1
    print(f"{', '.join(_registry.MIRRORS)}: complete and verified, in {folder}")
    if given is not None:
        print(f"To use them: export {_fetch.VARIABLE}={folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
