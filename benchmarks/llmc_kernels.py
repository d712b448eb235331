"""Do another project's CUDA kernels run on the emulator? Those of dev/cuda in llm.c, against their CPU references.

    git clone https://github.com/karpathy/llm.c && git -C llm.c checkout f1e2ace
    python benchmarks/llmc_kernels.py llm.c

Every program of dev/cuda has a `main` that takes the number of a kernel, computes a reference on the CPU, compares and
times. The programs run in the checked build on a copy with smaller sizes, two block sizes and one repetition (SIZES),
after the numbers that the files offer also as OTHERS says. A line for each kernel comes out:

    ok        ran without a finding, in a program that then matched its reference
    finding   what the emulator objects to
    library   needs a library beyond CUDA's headers
    failed    neither of these: what the program or the compiler said last
    missing   no launch of it was seen

The exit code is 1 if a kernel failed or is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SIZES = {  # regular expression: what stands there in the copies
    r"\b(int|int64_t) B = \d+;": r"\1 B = 2;",
    r"\b(int|int64_t) T = \d+;": r"\1 T = 64;",
    r"\b(int|int64_t) V = \d+;": r"\1 V = 1009;",
    r"\bint C = \d+;": "int C = 256;",
    r"\bint OC = 768 \* 4;": "int OC = 512;",
    r"\bint NH = \d+;": "int NH = 4;",
    r"\bint L = \d+;": "int L = 1;",
    r"\bnum_parameters = \d+;": "num_parameters = 10000;",
    r"\bdim_(\d) = (\d+);": r"dim_\1 = \2 / 4;",
    r"\brepeat_times = \d+;": "repeat_times = 1;",
    r"\bint block_sizes\[\] = \{.*?\}": "int block_sizes[] = {64, 256}",
    r"\bsqrt_block_sizes\[\] = \{.*?\}": "sqrt_block_sizes[] = {8, 16}",
}
CHANGES = {  # what single programs need besides
    "global_norm.cu": {r"\bint C = \d+;": "int C = 64;"},
    # its rows must be a multiple of the block long
    "attention_backward.cu": {r"\bblock_size = 256;": "block_size = 64;", r"\{64, 256\}": "{32, 64}"},
    "trimat_forward.cu": {r"\bint T = \d+;": "int T = 128;"},  # its tiles are 128 wide
    # the product by cuBLASLt, which the emulator does not have
    "matmul_forward.cu": {r"(?ms)^void matmul_forward3\(.*?^\}\n": "", r"\bmatmul_forward3\(.*?\);": ""},
}
NCCL = "#include <nccl.h>"


class Run(NamedTuple):
    """A program, the number of a kernel, and changes of its text as in SIZES."""

    file: str
    number: str
    changes: dict[str, str]


FLOAT32 = {r"^#define ENABLE_BF16": ""}
# Kernels that no main launches as the files stand, or only after one that has a finding.
OTHERS = [
    Run("layernorm_backward.cu", "1", FLOAT32),
    Run("matmul_backward_bias.cu", "5", FLOAT32),
    Run("matmul_backward_bias.cu", "9", {r"\{64, 256\}": "{256, 512}"}),
    Run(
        "matmul_backward.cu",
        "1",
        {r"_faster<<<grid_dim, block_dim, shared_mem_size>>>": "_naive<<<(OC + 511) / 512, block_dim>>>"},
    ),
    Run(
        "attention_forward.cu",
        "1",
        {
            r"int num_blocks = ceil_div\(total_threads, block_size\);\s+attention_query_key_kernel1.*?^\}": (
                "dim3 grid(ceil_div(T * 32, block_size), NH, B);\n"
                "    attention_forward_fused1<<<grid, block_size>>>(out, preatt, att, inp, B, T, C, NH);\n}"
            )
        },
    ),
]


def kernels(source):
    """The names of the kernels that `source` defines, in order."""
    code = re.sub(r"//.*|(?s:/\*.*?\*/)", "", source)
    return re.findall(r"__global__[^;{]*?(\w+)\s*\([^)]*\)\s*\{", code)


def numbers(source):
    """What a program's main takes: the cases of the function that dispatches on it."""
    return re.findall(r"(?m)^        case (\d|10):", source) or [""]


def reduced(name, source, changes):
    """`source` with the sizes above, and further changes of one run."""
    for pattern, text in {**SIZES, **CHANGES.get(name, {}), **changes}.items():
        source = re.sub(pattern, text, source, flags=re.MULTILINE | re.DOTALL)
    return source


class Table:
    """What the runs said: findings and good runs by (file, kernel)."""

    def __init__(self, folder):
        self.folder, self.findings, self.ran, self.failed = folder, defaultdict(list), set(), {}

    def run(self, run):
        """Runs one program in the checked build, in a process of its own, and notes what it reports."""
        path = self.folder / run.file
        original = path.read_text()
        path.write_text(reduced(run.file, original, run.changes))
        report = self.folder / "report"
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "kernels.emulator.tool.programs", f"--report={report}", "--same-value-writes"]
        done = subprocess.run(
            [*command, str(path), *run.number.split()],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        path.write_text(original)
        launched = set()
        for line in report.read_text().splitlines() if report.exists() else []:
            kind, text = json.loads(line)
            if kind == "launch":
                launched.add(text.partition("<")[0])
            elif kind == "finding":
                name = re.search(r"kernel (\w+)", text)[1]
                self.findings[run.file, name].append(text)
            elif kind == "error":
                self.failed[run.file] = text
        if done.returncode == 0:
            self.ran |= {(run.file, name) for name in launched}
        else:
            lines = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
            for name in launched:
                self.failed.setdefault((run.file, name), lines[-1])

    def verdict(self, name, kernel, source):
        """(word, explanation) for one kernel."""
        found = self.findings.get((name, kernel))
        if found:
            return "finding", found[0]
        if (name, kernel) in self.ran:
            return "ok", ""
        if NCCL in source:
            return "library", "NCCL"
        if any(kernel in kernels(part) for part in re.findall(r"(?ms)^#ifdef ENABLE_CUDNN\n(.*?)^#endif", source)):
            return "library", "cuDNN"
        why = self.failed.get((name, kernel)) or self.failed.get(name)
        return ("failed", why) if why else ("missing", "no main launches it")


def main(words=None):
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clone", type=Path, help="a clone of llm.c")
    parser.add_argument("--only", default="", metavar="FILE.cu", help="one program of dev/cuda")
    options = parser.parse_args(words)
    sources = {path.name: path.read_text() for path in sorted((options.clone / "dev" / "cuda").glob("*.cu"))}
    if not sources:
        print(f"error: {options.clone}: no dev/cuda/*.cu there; give a clone of llm.c", file=sys.stderr)
        return 2
    common = (options.clone / "dev" / "cuda" / "common.h").read_text()
    counts = defaultdict(int)
    with tempfile.TemporaryDirectory() as folder:
        table = Table(Path(folder))
        for name, source in {**sources, "common.h": common}.items():
            (Path(folder) / name).write_text(source)
        for name, source in sources.items():
            if options.only not in ("", name):
                continue
            if NCCL not in source:
                for number in numbers(source):
                    table.run(Run(name, number, {}))
                for run in OTHERS:
                    if run.file == name:
                        table.run(run)
            for kernel in kernels(source):
                word, why = table.verdict(name, kernel, source)
                counts[word] += 1
                print(f"{name:34}{kernel:42}{word:9}{why}".rstrip(), flush=True)
    print(", ".join(f"{count} {word}" for word, count in counts.items()))
    return 1 if counts["failed"] or counts["missing"] else 0


if __name__ == "__main__":
    sys.exit(main())
