"""Run every experiment, or those that are named: ``python experiments [part/chapter ...] [options]``.

Options go to each script (``--smoke``, ``--again``, ``--workers``). What is up to date is left alone.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
arguments = sys.argv[1:]
names = [word for word in arguments if "/" in word]
options = [word for word in arguments if word not in names]
scripts = [HERE / f"{name}.py" for name in names] or sorted(HERE.glob("*/*.py"))
if missing := [script for script in scripts if not script.is_file()]:
    sys.exit(f"there is no experiment {missing[0].relative_to(HERE).with_suffix('')}")
failed = [
    script
    for script in scripts
    if subprocess.run([sys.executable, script, *options], check=False).returncode
]
sys.exit(bool(failed))
