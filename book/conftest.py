"""``pytest --nbmake`` runs the chapters as ``make book`` does; the modules here are no tests."""

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "_ext"))
from kernel_environment import CELL_SECONDS, ENVIRONMENT

os.environ.update(ENVIRONMENT)
collect_ignore_glob = ["*.py", "_ext/*"]


def pytest_configure(config: pytest.Config) -> None:
    """Give a cell more time than nbmake's own 300 seconds, unless another time is asked for."""
    if config.getoption("nbmake_timeout", None) == 300:
        config.option.nbmake_timeout = CELL_SECONDS
