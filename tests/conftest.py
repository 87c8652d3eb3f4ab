"""What holds for every test; runs before torch is imported."""

import os

# Small networks and small batches: threads that wait for each other cost more than they give.
# The kernels of executed notebooks inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
