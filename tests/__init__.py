"""The promises. A thread a process, said before torch is imported: several at once would wait for each other's cores."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
