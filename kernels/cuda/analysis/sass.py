"""The machine code of a kernel, and how often its innermost loop executes each kind of instruction.

NVIDIA's disassembler makes the compiled module readable: `pip install nvidia-cuda-nvdisasm`, or any CUDA toolkit.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files

from kernels.cuda.analysis.nvrtc import CompilerMissing

NVDISASM = "nvidia-cuda-nvdisasm"
_LINE = re.compile(r"^\s*(?:/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)(.*);|\.(L_\w+):)", re.MULTILINE)
_TARGET = re.compile(r"`\(\.(L_\w+)\)")


@dataclass(frozen=True)
class Instruction:
    """One machine instruction: its opcode with suffixes, and the index of the instruction that it may jump to."""

    opcode: str
    target: int | None = None


def find_nvdisasm() -> str:
    """The disassembler's path. Raises CompilerMissing."""
    try:
        found = [f for f in files(NVDISASM) or [] if f.name in ("nvdisasm", "nvdisasm.exe")]
    except PackageNotFoundError:
        found = []
    path = str(found[0].locate()) if found else shutil.which("nvdisasm")
    if not path:
        raise CompilerMissing(f"{NVDISASM} is not installed: pip install {NVDISASM}")
    return path


def disassemble(cubin: bytes) -> str:
    """The text of a compiled module."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([find_nvdisasm(), "-c", file.name], capture_output=True, text=True, check=True).stdout


def parse(text: str) -> list[Instruction]:
    """The instructions of a module with one kernel, in order."""
    labels: dict[str, int] = {}
    found: list[tuple[str, re.Match | None]] = []
    for opcode, operands, label in _LINE.findall(text):
        if label:
            labels[label] = len(found)
        else:
            found.append((opcode, _TARGET.search(operands)))
    return [Instruction(opcode, labels.get(to[1]) if to else None) for opcode, to in found]


def inner_loop(code: list[Instruction], opcode: str = "HMMA") -> Counter[str]:
    """{opcode with suffixes: executions} of one pass of the innermost loop that has `opcode`.

    What a branch inside the loop can skip, and has none of it, is taken as skipped: the mask of the tiles on the
    diagonal. Of several such loops (the compiler may copy one) the last.
    """
    spans = [
        (i.target, n)
        for n, i in enumerate(code)
        if i.opcode.startswith("BRA") and i.target is not None and i.target <= n
    ]
    spans = [(begin, end) for begin, end in spans if any(i.opcode.startswith(opcode) for i in code[begin : end + 1])]
    begin, end = min(spans, key=lambda span: span[1] - span[0])
    counts: Counter[str] = Counter()
    n = begin
    while n <= end:
        here = code[n]
        counts[here.opcode] += 1
        after = n + 1
        if here.opcode.startswith("BRA") and here.target is not None and n < here.target <= end:
            skipped = code[after : here.target]
            after = after if any(i.opcode.startswith(opcode) for i in skipped) else here.target
        n = after
    return counts
