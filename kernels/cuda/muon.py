"""Muon's update of matrices, composed of CuPy's operations; equal shapes share their products.

Same function as `kernels/cpu/muon.py`.
"""

from __future__ import annotations

from collections import defaultdict

from kernels import shapes
from kernels.cuda.launch import device_namespace
from kernels.newton_schulz import newton_schulz, normalized, split_blocks, update_scale


def muon_update(params, grads, momenta, options):
    """Change params and momenta in place; all are lists of one matrix (in, out), and MuonOptions, per parameter."""
    shapes.check_muon(params, grads, momenta, options)
    equal = defaultdict(list)
    for param, grad, momentum, o in zip(params, grads, momenta, options, strict=True):
        if param.size:
            equal[param.shape, o.blocks].append((param, grad, momentum, o))
    for (_, blocks), updates in equal.items():  # one shape after the other, as each needs memory for its products
        _update(updates, blocks)


def _update(updates, blocks):
    xp = device_namespace(updates[0][0])
    directions = normalized(xp.stack([_direction(grad, momentum, o) for _, grad, momentum, o in updates]))
    directions = newton_schulz(split_blocks(directions, blocks))
    for (param, _, _, o), y in zip(updates, directions, strict=True):
        param *= 1 - o.lr * o.weight_decay
        param_blocks = split_blocks(param, blocks)
        param_blocks -= o.lr * update_scale(param.shape, blocks) * y


def _direction(grad, momentum, o):
    """Change the momentum; returns what is to be orthogonalized."""
    g = grad * o.grad_scale
    momentum *= o.beta
    momentum += g
    return g + o.beta * momentum
