"""CUDA GPUs under PyTorch's names: `device = "cuda" if tt.cuda.is_available() else "cpu"`."""

from tinytensor.backend import Device, DeviceError, device


def is_available() -> bool:
    """Whether the first GPU can be used, which is tried; `device("cuda")` says why not."""
    try:
        device("cuda")
    except DeviceError:
        return False
    return True


def synchronize(where: str | Device = "cuda") -> None:
    """Wait until a GPU has finished everything it was given. Raises DeviceError if it is missing or unusable."""
    device(where).synchronize()
