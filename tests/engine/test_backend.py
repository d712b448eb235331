"""Several GPUs (two emulated devices), what moves between devices, and the package that shares our top-level name."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import kernels.cuda as k
import tinytensor as tt
from kernels.emulator.arrays import no_synchronization
from kernels.namespace import require_current

ROOT = Path(__file__).parents[2]


@pytest.fixture
def devices():
    """Two devices of one kind; the first is current before and after."""
    try:
        first, second = tt.device("emulated"), tt.device("emulated:1")
    except tt.DeviceError as error:
        pytest.skip(str(error))
    yield first, second
    first.use()


def current(device):
    return device.xp.cuda.runtime.getDevice()


def test_names_of_devices(devices):
    assert [device.name for device in devices] == ["emulated", "emulated:1"]
    assert tt.device("emulated:0") == devices[0]
    with pytest.raises(tt.DeviceError, match=r"^device 'emulated:2': there are 2 emulated devices, numbered from 0$"):
        tt.device("emulated:2")
    for name in ("cuda:x", "cuda:-1", "cpu:1", "gpu", 3):
        with pytest.raises(tt.DeviceError, match=r"^device .* must be auto, cpu, cuda, cuda:N or emulated$"):
            tt.device(name)


def test_finding_and_using_a_device(devices):
    first, second = devices
    assert current(first) == 0
    second.put(np.ones(3))
    second.synchronize()
    second.memory()
    assert current(first) == 0
    assert second.use() is second
    assert current(first) == 1
    assert tt.device("cpu").use().name == "cpu"
    assert current(first) == 1


def test_put_moves_arrays_between_devices(devices):
    first, second = devices
    x = first.put(np.arange(6, dtype=np.float32).reshape(2, 3))
    with no_synchronization():
        moved = second.put(x)
        transposed = second.put(x.T)
        assert second.put(moved) is moved
    assert (moved.device.id, transposed.device.id, x.device.id) == (1, 1, 0)
    np.testing.assert_array_equal(tt.to_numpy(transposed), tt.to_numpy(x).T)
    assert transposed.flags.c_contiguous  # CuPy can copy nothing else between GPUs
    assert isinstance(tt.device("cpu").put(moved), np.ndarray)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16, np.bool_])
def test_integers_reach_the_device_without_synchronizing_it(devices, dtype):
    ids = np.array([[0, 1], [1, 0]], dtype)
    with no_synchronization():
        put = devices[1].put(ids)
    assert put.dtype == dtype
    np.testing.assert_array_equal(tt.to_numpy(put), ids)


def test_tensors_are_created_on_the_device_that_is_asked_for(devices):
    x = tt.ones(2, 3, device="emulated:1")
    made = [x, tt.zeros_like(x), tt.randn(3, device="emulated:1"), tt.tensor([1], device="emulated:1")]
    assert {tensor.device for tensor in made} == {"emulated:1"}
    assert {tensor.data.device.id for tensor in made} == {1}
    assert current(devices[0]) == 0


def test_memory_is_of_the_device(devices):
    first, second = (device.memory() for device in devices)
    x = devices[1].put(np.ones(1000, np.float32))
    assert devices[0].memory() == first
    assert devices[1].memory() == (second[0] + x.nbytes, second[1])


KERNELS = {
    "softmax": lambda x: k.softmax_forward(x),
    "linear": lambda x: k.linear_forward(x, x.T, None),
    "attention": lambda x: k.attention_forward(x.reshape(1, 2, 3, 1, 2), 1.0),
}


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_kernels_refuse_an_array_of_a_device_that_is_not_current(devices, kernel):
    x = devices[1].put(np.ones((2, 6), np.float32))
    with pytest.raises(tt.DeviceError) as raised:
        kernel(x)
    sentence = str(raised.value)
    assert "is on 'emulated:1' while 'emulated' is this thread's current device" in sentence
    assert sentence.endswith("call tt.device('emulated:1').use() first, or move the array")
    devices[1].use()
    result = kernel(x)
    assert (result[0] if isinstance(result, tuple) else result).device.id == 1
    with ThreadPoolExecutor() as pool, pytest.raises(tt.DeviceError):  # a new thread begins on device 0
        pool.submit(kernel, x).result()


def test_what_lies_on_the_cpu_is_always_current(devices):
    for x in (np.ones(3), 2.0, np.float32(3), None):
        require_current(x)


def test_training_on_the_second_device_is_training_on_the_first(devices):
    def losses(device):
        device.use()
        with tt.seeded(1):
            model = tt.nn.Sequential(tt.nn.Linear(4, 8), tt.nn.GELU(), tt.nn.Linear(8, 3)).to(device)
            x, targets = tt.randn(6, 4, device=device), device.put(np.arange(6) % 3)
        optimizer = tt.optim.AdamW(model.parameters(), lr=0.1)
        result = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = tt.cross_entropy(model(x), targets)
            loss.backward()
            optimizer.step()
            result.append(loss.item())
            assert {p.grad.device.id for p in model.parameters()} == {device.index}
        return result

    assert losses(devices[1]) == losses(devices[0])


# ---- a package of the same name -----------------------------------------------------------------------------------

FOREIGN = {
    "package": ("kernels/__init__.py", ""),
    "package that does not import": ("kernels/__init__.py", "import surely_not_installed"),
    "module": ("kernels.py", ""),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_package_named_kernels_is_named_with_a_remedy(tmp_path, kind):
    """Hugging Face's package `kernels` has our package's name; what is found first on the path is imported."""
    name, source = FOREIGN[kind]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(source)
    result = _import_tinytensor([tmp_path, ROOT])
    (sentence,) = [line for line in result.stderr.splitlines() if line.startswith("ImportError: tinytensor needs")]
    assert str(path) in sentence
    assert sentence.endswith("or run from tinytensor's clone")


def test_a_foreign_package_that_comes_later_does_no_harm(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("raise RuntimeError")
    assert _import_tinytensor([ROOT, tmp_path]).returncode == 0


def test_a_fault_in_our_own_package_is_not_blamed_on_another(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("")
    (tmp_path / "kernels" / "namespace.py").write_text("import surely_not_installed")
    assert "No module named 'surely_not_installed'" in _import_tinytensor([tmp_path, ROOT]).stderr.splitlines()[-1]


# An editable installation finds our submodules even below a foreign package; a wheel or a clone on the path does not.
IMPORT = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") != "_EditableFinder"]
import tinytensor
"""


def _import_tinytensor(paths):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-c", IMPORT]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=os.sep)


def test_cuda_is_available_where_its_device_is(monkeypatch):
    monkeypatch.setattr(tt.cuda, "device", lambda name: tt.device("cpu"))
    assert tt.cuda.is_available() is True
    tt.cuda.synchronize()

    def missing(name):
        raise tt.DeviceError(f"no {name}")

    monkeypatch.setattr(tt.cuda, "device", missing)
    assert tt.cuda.is_available() is False
    with pytest.raises(tt.DeviceError, match="no cuda"):
        tt.cuda.synchronize()
