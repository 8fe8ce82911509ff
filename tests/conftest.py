"""One thread for all tests: the networks are tiny, and threads that wait for each other cost far more."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; child processes inherit it
