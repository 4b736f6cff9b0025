"""What holds for every kernel that runs a chapter, by ``book/build.py`` or by ``pytest --nbmake``."""

from pathlib import Path

CELL_SECONDS = 1800
"""When a cell is stopped, by the clock, as in ``_config.yml``: for what hangs, not for what is slow."""

ENVIRONMENT = {
    # Two chapters run at a time, so one thread each fills two cores.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    # Nothing about the CPU, and the same sums on every one.
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    # Figures without a ground of their own, for pages in light and in dark.
    "MATPLOTLIBRC": str(Path(__file__).with_name("matplotlibrc")),
}
