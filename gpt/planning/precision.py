"""Which dtypes and products a device has, for `--dtype` and `--matmul`."""

import tinytensor as tt
from gpt.errors import UserError
from gpt.training.recipe import TrainConfig
from kernels.dtypes import BFLOAT16
from kernels.namespace import named_dtype

FIRST_CUPY = 14  # that has bfloat16
BFLOAT16_CAPABILITY = 80  # of GPUs whose products can be of bfloat16


def require_precision(config: TrainConfig, device: tt.Device) -> None:
    """Raise UserError for a dtype or products that the device does not have."""
    if device.name == "cpu":
        if config.dtype != "float32":
            raise UserError(
                f"--dtype {config.dtype}: needs a GPU, as a CPU would compute in float32 all the same, and round "
                "besides: use --device cuda, --device emulated, or --dtype float32"
            )
        if config.matmul != "float32":
            raise UserError(
                f"--matmul {config.matmul}: needs a GPU: use --device cuda, --device emulated, or --matmul float32"
            )
        return
    if config.dtype == BFLOAT16:
        named_dtype(BFLOAT16)
        version = getattr(device.xp, "__version__", str(FIRST_CUPY))
        if int(version.partition(".")[0]) < FIRST_CUPY:
            raise UserError(
                f"--dtype bfloat16: needs CuPy {FIRST_CUPY} or newer, this is {version}: upgrade it, or use float16"
            )
        capability = device.xp.cuda.Device(device.index).compute_capability
        if int(capability) < BFLOAT16_CAPABILITY:
            raise UserError(
                f"--dtype bfloat16: this GPU has compute capability {capability[:-1]}.{capability[-1]}, and products "
                "of bfloat16 begin with 8.0: use --dtype float16"
            )
