"""What all tests share: how thorough they are, and the devices they run on.

pytest                 quick: the same few examples each time, in a minute or two
pytest --thorough      many more examples, different ones on every run
pytest -m gpu          only what needs a CUDA device
"""

import os
import sys
from pathlib import Path

# before NumPy is imported: the tests run side by side already, so BLAS threads would only get in each other's way
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
# `pytest` alone, unlike `python -m pytest`, does not find the packages of a clone that is not installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import hypothesis  # noqa: E402
import pytest  # noqa: E402

import tinytensor as tt  # noqa: E402

SLOW_IS_FINE = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large]
hypothesis.settings.register_profile(
    "quick", max_examples=25, deadline=None, derandomize=True, suppress_health_check=SLOW_IS_FINE
)
hypothesis.settings.register_profile(
    "thorough", max_examples=500, deadline=None, print_blob=True, suppress_health_check=SLOW_IS_FINE
)


def pytest_addoption(parser):
    parser.addoption("--thorough", action="store_true", help="500 random examples for each property, not 25")
    parser.addoption("--soak-minutes", type=float, default=0.05, help="how long to disturb a training (test_soak.py)")


def pytest_configure(config):
    hypothesis.settings.load_profile("thorough" if config.getoption("--thorough") else "quick")


@pytest.fixture(params=["cpu", "emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> tt.Device:
    """Each device in turn; a test is skipped where this machine has no such device."""
    try:
        return tt.device(request.param)
    except tt.DeviceError as error:
        pytest.skip(str(error))
