"""A pytest plugin: a test suite's CuPy kernels on the CPU.

    pytest -p kernels.emulator.tool.plugin --emulated-cupy=checked tests/

`import cupy` then gives the emulated device, in test files and in the code under test. Or, for single tests, the
fixture `emulated_cupy`, which puts it in place of CuPy for one test and returns it. Builds: `fast`, or `checked`, where
every kernel launch is checked and a finding fails the test. Next: namespace.py.
"""

import sys
from contextlib import nullcontext

import pytest

from kernels.emulator import arrays
from kernels.emulator.checks import checked
from kernels.emulator.compiler import MISSING, available
from kernels.emulator.tool.namespace import make_namespace

BUILDS = ("fast", "checked")


def pytest_addoption(parser):
    """Adds --emulated-cupy."""
    group = parser.getgroup("emulated cupy")
    group.addoption("--emulated-cupy", choices=BUILDS, help="run CuPy kernels on the CPU: fast, or checked")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config):
    """Puts the emulated device in the place of CuPy before conftest.py and test files are imported."""
    if early_config.known_args_namespace.emulated_cupy:
        sys.modules.update(make_namespace())
        arrays.dispatches_numpy = True


def _launches(build):
    return checked() if build == "checked" else nullcontext()


@pytest.fixture(autouse=True)
def _emulated_cupy_launches(request):
    """With --emulated-cupy=checked, each test's launches are checked."""
    with _launches(request.config.getoption("--emulated-cupy")):
        yield


@pytest.fixture
def emulated_cupy(request, monkeypatch):
    """`cupy` on the CPU, checked unless --emulated-cupy=fast; `import cupy` inside the test gives the same module."""
    if not available():
        pytest.skip(MISSING)
    modules = make_namespace()
    monkeypatch.setattr(arrays, "dispatches_numpy", True)
    for name, replacement in modules.items():
        monkeypatch.setitem(sys.modules, name, replacement)
    with _launches(request.config.getoption("--emulated-cupy") or "checked"):
        yield modules["cupy"]
