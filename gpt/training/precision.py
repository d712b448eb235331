"""The precision that a training computes in: `--dtype` and `--matmul`.

Weights, optimizer and checkpoints are float32 whatever the dtype (`tinytensor/nn/precision.py`), so a run can be
resumed in another. float16 needs a loss scale, as large as its gradients allow: a power of two, which changes no digit.
"""

import math
import os
from typing import Any

import tinytensor as tt
from gpt.errors import UserError
from gpt.training.checkpoint import Progress
from gpt.training.recipe import TrainConfig
from gpt.training.trainer import require_finite
from kernels.dtypes import BFLOAT16, named_dtype
from tinytensor.nn import MixedPrecision, Module

FIRST_CUPY = 14  # that has bfloat16
BFLOAT16_CAPABILITY = 80  # of GPUs whose products can be of bfloat16
LARGEST_SCALE = 2.0**24
GROWTH_STEPS = 2000  # without an overflow, after which the loss scale is doubled


def require_precision(config: TrainConfig, device: tt.Device) -> None:
    """Raise UserError for a dtype or products that the device does not have."""
    if device.name == "cpu":
        if config.dtype != "float32":
            raise UserError(
                f"--dtype {config.dtype}: needs a GPU, as a CPU would compute in float32 all the same, and round "
                "besides: use --device cuda, or --dtype float32"
            )
        if config.matmul != "float32":
            raise UserError(f"--matmul {config.matmul}: needs a GPU: use --device cuda, or --matmul float32")
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


def with_precision(model: Any, config: TrainConfig) -> Module:
    """What computes losses in the dtype of the training: the model itself, or its copy in 16 bits."""
    if config.matmul == "tf32":
        os.environ["CUPY_TF32"] = "1"  # which CuPy reads before its first product
    return model if config.dtype == "float32" else MixedPrecision(model, named_dtype(config.dtype))


class LossScaler:
    """The loss scale of a training in float16, which is part of its progress.

    It is halved when gradients overflow, and doubled after GROWTH_STEPS steps without.
    """

    def __init__(self, model: MixedPrecision, progress: Progress):
        self.model, self.progress = model, progress
        model.loss_scale = progress.loss_scale

    @property
    def scale(self) -> float:
        """What all gradients are multiplied by."""
        return self.progress.loss_scale

    def accepts(self, loss: Any, norm: Any, step: int, lr: float) -> bool:
        """Whether the gradients of a step are finite; if not, the scale is lowered, and they are to be computed again.

        Synchronizes the device, to read the norm. UserError if a lower scale would not help.
        """
        if math.isfinite(float(norm)):
            self.progress.scaled_steps += 1
            return True
        require_finite("training loss", loss, step, lr)
        if self.scale <= 1:
            require_finite("gradient norm", norm, step, lr)
        self._set(self.scale / 2)
        return False

    def advance(self) -> None:
        """After an update: raise the scale if it is time."""
        if self.progress.scaled_steps >= GROWTH_STEPS:
            self._set(min(2 * self.scale, LARGEST_SCALE))

    def _set(self, scale: float) -> None:
        self.model.loss_scale = self.progress.loss_scale = scale
        self.progress.scaled_steps = 0
