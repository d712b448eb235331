"""`python -m kernels.emulator check FILE.cu`: see tool/check.py."""

import sys

from kernels.emulator.tool.check import main

if __name__ == "__main__":
    sys.exit(main())
