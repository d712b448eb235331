"""A pytest plugin: a test suite's CuPy kernels on the CPU.

    pytest -p kernels.emulator.tool.plugin --emulated-cupy=checked tests/

`import cupy` then gives the emulated device, in test files and in the code under test. Or, for single tests, the
fixture `emulated_cupy`, which puts it in place of CuPy for one test and returns it. Builds: `fast`, or `checked`, where
every launch of the process is checked, at import time and in fixtures and threads too, and a finding fails the test
during which it was made, even if somebody caught the exception. Next: namespace.py.
"""

import sys
from contextlib import ExitStack

import pytest

from kernels.emulator import arrays
from kernels.emulator.checks import checked_everywhere
from kernels.emulator.compiler import MISSING, available
from kernels.emulator.tool.namespace import Namespace, make_namespace

BUILDS = ("fast", "checked")
TITLE = "found by the emulated device"
FINDINGS = pytest.StashKey[list]()  # of the config: those that no report has yet
TOO_LATE = (
    "--emulated-cupy: cupy was imported before the emulated device could take its place: load the plugin with "
    "`-p kernels.emulator.tool.plugin`, on the command line or in addopts"
)


def pytest_addoption(parser):
    """Adds --emulated-cupy."""
    group = parser.getgroup("emulated cupy")
    group.addoption("--emulated-cupy", choices=BUILDS, help="run CuPy kernels on the CPU: fast, or checked")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config):
    """Puts the emulated device in the place of CuPy before conftest.py and test files are imported."""
    _install(early_config, early_config.known_args_namespace.emulated_cupy)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """The same where a conftest.py has loaded the plugin, which is then too late for the hook above."""
    _install(config, config.getoption("--emulated-cupy"))


def _install(config, build):
    if FINDINGS in config.stash:
        return
    config.stash[FINDINGS] = []
    if not build:
        return
    if not available():
        raise pytest.UsageError(f"--emulated-cupy: {MISSING}")
    if "cupy" in sys.modules and not isinstance(sys.modules["cupy"], Namespace):
        raise pytest.UsageError(TOO_LATE)
    sys.modules.update(make_namespace())
    arrays.dispatches_numpy = True
    if build == "checked":
        stack = ExitStack()
        stack.enter_context(checked_everywhere(config.stash[FINDINGS]))
        config.add_cleanup(stack.close)


def _take_findings(config):
    """What was found since the last call, each once."""
    findings = list(dict.fromkeys(config.stash[FINDINGS]))
    config.stash[FINDINGS].clear()
    return findings


def _add_findings(report, config):
    """Makes a report one of a failure if something was found; says what, unless its exception does."""
    findings = [finding for finding in _take_findings(config) if finding.partition(": ")[2] not in report.longreprtext]
    if not findings:
        return
    if report.outcome == "failed" or hasattr(report, "wasxfail"):
        report.sections.append((TITLE, "\n".join(findings)))
    else:
        report.outcome = "failed"
        report.longrepr = "\n".join([f"{TITLE}, though the exception was caught:", *findings])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item):
    """A finding in a test, or in fixtures that it sets up or tears down, fails it."""
    report = yield
    _add_findings(report, item.config)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(collector):
    """A finding during the import of a test file is an error of its collection."""
    report = yield
    _add_findings(report, collector.config)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    """A finding after the last test, in a thread that went on, fails the session."""
    if findings := _take_findings(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("\n".join(["", f"{TITLE} after the last test:", *findings]), file=sys.stderr)


@pytest.fixture
def emulated_cupy(request, monkeypatch):
    """`cupy` on the CPU, checked unless --emulated-cupy=fast; `import cupy` inside the test gives the same module."""
    if not available():
        pytest.skip(MISSING)
    modules = make_namespace()
    monkeypatch.setattr(arrays, "dispatches_numpy", True)
    for name, replacement in modules.items():
        monkeypatch.setitem(sys.modules, name, replacement)
    with ExitStack() as stack:
        if request.config.getoption("--emulated-cupy") is None:
            stack.enter_context(checked_everywhere(request.config.stash[FINDINGS]))
        yield modules["cupy"]
