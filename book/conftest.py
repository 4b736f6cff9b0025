"""``pytest --nbmake`` runs the chapters as ``make book`` does; the modules here are no tests."""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "_ext"))
from kernel_environment import ENVIRONMENT

os.environ.update(ENVIRONMENT)
collect_ignore_glob = ["*.py", "_ext/*"]
