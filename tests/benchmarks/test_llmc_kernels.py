"""The table of another project's kernels, on a project of one program with a kernel of each kind."""

import pytest

from benchmarks import llmc_kernels
from kernels import emulator

COMMON = "#include <cuda_runtime.h>\n#include <stdio.h>\n"
PROGRAM = """#include "common.h"
__global__ void right(float *y, int n) { int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) y[i] = 1; }
__global__ void too_far(float *y, int n) { int i = blockIdx.x * blockDim.x + threadIdx.x; if (i <= n) y[i] = 1; }
__global__ void wrong(float *y, int n) { int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) y[i] = 2; }
__global__ void idle(float *y) { y[0] = 1; }
void launch(int kernel_num, float *y, int n) {
    switch (kernel_num) {
        case 1:
            right<<<n / 64 + 1, 64>>>(y, n); break;
        case 2:
            too_far<<<n / 64 + 1, 64>>>(y, n); break;
        case 3:
            wrong<<<n / 64 + 1, 64>>>(y, n); break;
    }
}
int main(int argc, char **argv) {
    int B = 1000000; int T = 1000000;
    float *y;
    cudaMalloc(&y, B * T * 4);
    launch(atoi(argv[1]), y, B * T);
    if (y[0] != 1) { printf("Mismatch\\n"); return 1; }
    return 0;
}
"""


@pytest.mark.skipif(not emulator.available(), reason=emulator.MISSING)
def test_a_table_of_kernels(tmp_path, capsys):
    folder = tmp_path / "dev" / "cuda"
    folder.mkdir(parents=True)
    (folder / "common.h").write_text(COMMON)
    (folder / "program.cu").write_text(PROGRAM)
    assert llmc_kernels.main([str(tmp_path)]) == 1
    rows = [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["program.cu", "right", "ok"]
    assert rows[1][:3] == ["program.cu", "too_far", "finding"]
    assert rows[1][3].startswith("OutOfBounds: kernel too_far")
    assert "program.cu:3" in rows[1][3]
    assert " ".join(rows[2]) == "program.cu wrong failed Mismatch"
    assert " ".join(rows[3]) == "program.cu idle missing no main launches it"
    assert folder.joinpath("program.cu").read_text() == PROGRAM


def test_a_folder_that_is_no_clone(tmp_path, capsys):
    assert llmc_kernels.main([str(tmp_path)]) == 2
    assert "no dev/cuda/*.cu there" in capsys.readouterr().err
