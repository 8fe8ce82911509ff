"""One thread for all tests: the networks are tiny, and threads that wait for each other cost far more.

Property-based tests try a few cases here, always the same, and thousands of new ones in `make fuzz`.
"""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; child processes inherit it

settings.register_profile("default", max_examples=12, derandomize=True, deadline=None, database=None)
settings.register_profile(
    "fuzz", max_examples=int(os.environ.get("S2DNAS_FUZZ", "1000")), deadline=None, print_blob=True
)
settings.load_profile("default")
