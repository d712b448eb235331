"""Muon's update of matrices, divided among the threads."""

from __future__ import annotations

from kernels import shapes
from kernels.cpu.threads import parallel_map
from kernels.newton_schulz import newton_schulz, split_blocks, update_scale


def muon_update(params, grads, momenta, options):
    """Change params and momenta in place; all are lists of one matrix (in, out), and MuonOptions, per parameter.

    With g = grad_scale * grad: momentum = beta momentum + g, and param = param (1 - lr weight_decay) - lr s y, where
    y is the polar factor of beta momentum + g, block by block, and s gives its entries the root mean square
    1 / sqrt(in).
    """
    shapes.check_muon(params, grads, momenta, options)
    parallel_map(lambda update: _update(*update), zip(params, grads, momenta, options, strict=True))


def _update(param, grad, momentum, options):
    if not param.size:
        return
    scaled = grad * grad.dtype.type(options.grad_scale)
    momentum *= options.beta
    momentum += scaled
    scaled += options.beta * momentum
    y = newton_schulz(split_blocks(scaled, options.blocks))
    y *= options.lr * update_scale(param.shape, options.blocks)
    param *= 1 - options.lr * options.weight_decay
    blocks = split_blocks(param, options.blocks)
    blocks -= y
