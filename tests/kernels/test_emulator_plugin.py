"""The pytest plugin: which launches of another project's test session are checked, and how it is loaded."""

import subprocess
import sys

import pytest

from kernels import emulator

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.MISSING)
PLUGIN = ["-p", "kernels.emulator.tool.plugin"]

RACE = """import cupy
CODE = 'extern "C" __global__ void bad(float *y) { y[0] = threadIdx.x; }'
bad = cupy.RawKernel(CODE, "bad")
def race():
    bad((1,), (2,), (cupy.zeros(1, dtype=cupy.float32),))
def hide():
    try:
        race()
    except Exception:
        pass
"""
SUITE = """import threading, unittest
from concurrent.futures import ThreadPoolExecutor
import pytest
from race import hide, race

@pytest.fixture(scope="session")
def prepared():
    hide()
@pytest.fixture(scope="module")
def left():
    yield
    hide()
def test_session_fixture(prepared): pass
def test_right(): pass
def test_caught(): hide()
def test_raised(): race()
def test_skips():
    hide()
    pytest.skip()
@pytest.mark.xfail(raises=AssertionError)
def test_expects_to_fail():
    hide()
    raise AssertionError
def test_thread():
    thread = threading.Thread(target=hide)
    thread.start()
    thread.join()
def test_pool():
    with ThreadPoolExecutor() as pool:
        pool.submit(race)
class TestCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls): hide()
    def test_first(self): pass
    def test_second(self): pass
def test_expects_a_finding():
    from kernels import emulator
    with emulator.checked(), pytest.raises(emulator.DataRace):
        race()
def test_teardown(left): pass
"""


def run(folder, *words, environment=None):
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-c", "/dev/null"]
    return subprocess.run(
        [*command, f"--rootdir={folder}", "-rA", *words, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def test_every_launch_of_the_session_is_checked(tmp_path):
    (tmp_path / "race.py").write_text(RACE)
    (tmp_path / "test_import.py").write_text("from race import hide\nhide()\ndef test_nothing(): pass\n")
    (tmp_path / "test_suite.py").write_text(SUITE)
    ran = run(tmp_path, *PLUGIN, "--emulated-cupy=checked", "--continue-on-collection-errors")
    lines = ran.stdout[ran.stdout.rindex("short test summary info") :].splitlines()
    outcomes = {outcome: set() for outcome in ("FAILED", "ERROR", "PASSED", "XFAIL")}
    for outcome, name in [line.split()[:2] for line in lines if "test_" in line]:
        outcomes[outcome].add(name.rpartition("/")[2].removeprefix("test_suite.py::"))
    tests = "test_caught test_raised test_skips test_thread test_pool"
    assert outcomes["FAILED"] == set(tests.split())
    assert outcomes["ERROR"] == {"test_import.py", "test_session_fixture", "TestCase::test_first", "test_teardown"}
    assert outcomes["PASSED"] >= {"test_right", "TestCase::test_second", "test_expects_a_finding"}
    assert outcomes["XFAIL"] == {"test_expects_to_fail"}
    assert ran.stdout.count("DataRace: kernel bad") >= 9


CONFTEST = 'pytest_plugins = ["kernels.emulator.tool.plugin"]\n'
CHECKS = "import cupy\ndef test_emulated(): assert b'emulated' in cupy.cuda.runtime.getDeviceProperties(0)['name']\n"


def test_a_conftest_may_load_the_plugin_before_cupy(tmp_path):
    (tmp_path / "test_device.py").write_text(CHECKS)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    ran = run(tmp_path, "--emulated-cupy=checked")
    assert "1 passed" in ran.stdout, ran.stdout + ran.stderr
    (tmp_path / "cupy.py").write_text("")
    (tmp_path / "conftest.py").write_text(CONFTEST + "import cupy\n")
    ran = run(tmp_path, "--emulated-cupy=checked")
    assert ran.returncode == pytest.ExitCode.USAGE_ERROR
    assert "cupy was imported before the emulated device could take its place: load the plugin with `-p" in ran.stderr


def test_without_a_compiler_nothing_is_skipped(tmp_path):
    (tmp_path / "test_nothing.py").write_text("def test_nothing(): pass\n")
    ran = run(tmp_path, *PLUGIN, "--emulated-cupy=fast", environment={"PATH": "", "PYTHONPATH": "."})
    assert ran.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: --emulated-cupy: {emulator.MISSING}" in ran.stderr
