"""Freed memory is kept for the next arrays, and given back when that is asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import numpy as np
from kernels.cpu.memory import keep_freed_memory, return_freed_memory

def resident():
    return int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]) // 1024

assert keep_freed_memory()
before = resident()
arrays = [np.ones(2**18) for _ in range(50)]  # 2 MiB each
last = np.ones(1)
del arrays
kept = resident()
return_freed_memory()
print(kept - before, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_memory_is_kept_until_it_is_returned():
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True, check=True)
    kept, returned = map(int, run.stdout.split())
    assert kept > 90
    assert returned < 10
