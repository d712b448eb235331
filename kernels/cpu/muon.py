"""Muon's update of matrices, which are divided among the threads."""

from __future__ import annotations

from typing import NamedTuple

from kernels import shapes
from kernels.cpu.compiled import compiled
from kernels.cpu.threads import parallel_map
from kernels.newton_schulz import POLYNOMIALS, newton_schulz, normalized, split_blocks, update_scale


class Coefficients(NamedTuple):
    """What is the same for all elements of a matrix."""

    grad_scale: float
    beta: float
    decay: float
    rate: float
    blocks: tuple[int, int]


def muon_update(params, grads, momenta, options):
    """Change params and momenta in place; all are lists of one matrix (in, out), and MuonOptions, per parameter.

    With g = grad_scale * grad: momentum = beta momentum + g, and param = param (1 - lr weight_decay) - lr s y, where
    y is the polar factor of beta momentum + g, block by block, and s is `update_scale`.
    """
    shapes.check_muon(params, grads, momenta, options)
    parallel_map(lambda update: _update(*update), zip(params, grads, momenta, options, strict=True))


def _update(param, grad, momentum, options):
    if param.size:
        decay, rate = 1 - options.lr * options.weight_decay, options.lr * update_scale(param.shape, options.blocks)
        numbers = float(options.grad_scale), float(options.beta), float(decay), float(rate)
        muon_pass(param, grad, momentum, Coefficients(*numbers, options.blocks), POLYNOMIALS)


@compiled
def muon_pass(param, grad, momentum, coefficients, polynomials):
    """Change param and momentum (R, C): momentum as above, param = decay param - rate y."""
    grad_scale, beta, decay, rate, blocks = coefficients
    g = grad * grad.dtype.type(grad_scale)
    momentum *= beta
    momentum += g
    g += beta * momentum
    y = newton_schulz(split_blocks(normalized(g), blocks), polynomials)
    y *= rate
    param *= decay
    param_blocks = split_blocks(param, blocks)
    param_blocks -= y
