"""`python -m kernels.emulator check FILE.cu`: see tool/check.py."""

import signal
import sys

from kernels.emulator.tool.check import main

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's handler would wait for a kernel that never ends
    sys.exit(main())
