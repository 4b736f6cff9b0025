"""Print the oldest version that pyproject.toml admits of each package the library runs on.

    python tests/floor.py > constraints-floor.txt

``make floor`` installs these and runs the library's tests on them. Tools (pytest, Sphinx, …) are left
to pip: what the library runs on is the promise.
"""

import re
import tomllib
from pathlib import Path


def floor(pyproject: Path) -> list[str]:
    """Give a constraint for each dependency of the library, and of its two frameworks."""
    project = tomllib.loads(pyproject.read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    ranges = [*project["dependencies"], *extras["pytorch"], *extras["keras"]]
    return [re.sub(r">=([\d.]+).*", r"==\1", each) for each in ranges]


if __name__ == "__main__":
    print("\n".join(floor(Path(__file__).parents[1] / "pyproject.toml")))
