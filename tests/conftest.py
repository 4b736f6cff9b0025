"""Settings of every test process: torch before TensorFlow, one thread, the same examples each time."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile(
    "repeatable", derandomize=True, database=None, deadline=None, max_examples=25
)
settings.load_profile("repeatable")
