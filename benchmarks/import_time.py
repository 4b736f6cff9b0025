"""How long ``import mtl_tutorial`` takes, against starting Python without it.

The package is lazy: whoever imports it pays for NumPy or a framework only on first use. Each
repetition starts a fresh interpreter twice, with and without the import; ``import numpy`` is timed
beside them for scale. The medians of CPU time are printed, so other work on the machine counts
little. Goal: below 50 ms.
"""

import os
import statistics
import subprocess
import sys

REPETITIONS = 21
STATEMENTS = {"nothing": "pass", "mtl_tutorial": "import mtl_tutorial", "numpy": "import numpy"}


def cpu_ms(statement: str) -> float:
    """CPU time of a fresh interpreter that runs a statement, in ms."""
    before = os.times()
    subprocess.run([sys.executable, "-c", statement], check=True)
    after = os.times()
    used = after.children_user - before.children_user
    return 1000 * (used + after.children_system - before.children_system)


def main() -> None:
    """Interleave the statements, print the medians."""
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(REPETITIONS):
        for name, statement in STATEMENTS.items():
            times[name].append(cpu_ms(statement))
    start = statistics.median(times.pop("nothing"))
    for name, values in times.items():
        print(f"import {name}: {statistics.median(values) - start:.0f} ms")


if __name__ == "__main__":
    main()
