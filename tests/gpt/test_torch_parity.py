"""Agreement with an independent GPT in plain PyTorch (extra `bench`); skipped where PyTorch is missing.

Measured with PyTorch 2.13, NumPy 2.4 and numba 0.68 on two x86-64 cores, largest differences over the four variants
(GPT-2's; no biases; rotary positions; ReLU, post-norm and an untied head), with
`python -m pytest tests/gpt/test_torch_parity.py --junitxml=FILE`, which records them as properties:

    logits 2.1e-6;  gradients 1.2e-6 of the largest element of each;  losses of 20 AdamW steps 9.6e-7 with pre-norm and
    3.1e-4 with post-norm, where rounding grows faster
"""

import numpy as np
import pytest

import tinytensor as tt
from gpt.model import GPT, GPTConfig

torch = pytest.importorskip("torch")
functional = torch.nn.functional

SHAPE = {"vocab_size": 65, "block_size": 64, "n_layer": 4, "n_head": 4, "n_embd": 128}
VARIANTS = [{}, {"bias": False}, {"positions": "rotary"}, {"activation": "relu", "norm": "post", "tied": False}]
variants = pytest.mark.parametrize("options", VARIANTS, ids=str)


class TorchGPT:
    """The same network as functions of a dictionary of tensors with GPT-2's names, (in, out) layout."""

    def __init__(self, state, config):
        self.config = config
        self.weights = {name: torch.tensor(array, requires_grad=True) for name, array in state.items()}

    def linear(self, x, name):
        y = x @ self.weights[f"{name}.weight"]
        return y + self.weights[f"{name}.bias"] if f"{name}.bias" in self.weights else y

    def norm(self, x, name):
        weight = self.weights[f"{name}.weight"]
        return functional.layer_norm(x, weight.shape, weight, self.weights.get(f"{name}.bias"), eps=1e-5)

    def attention(self, x, name):
        batch, time, width = x.shape
        heads = self.config.n_head
        q, k, v = (
            part.view(batch, time, heads, width // heads).transpose(1, 2)  # (B, H, T, D)
            for part in self.linear(x, f"{name}.c_attn").split(width, dim=2)
        )
        if self.config.positions == "rotary":
            q, k = rotated(q), rotated(k)
        scores = q @ k.transpose(-2, -1) * (width // heads) ** -0.5
        causal_mask = torch.ones(time, time, dtype=torch.bool).triu(1)
        y = scores.masked_fill(causal_mask, float("-inf")).softmax(-1) @ v
        return self.linear(y.transpose(1, 2).reshape(batch, time, width), f"{name}.c_proj")

    def mlp(self, x, name):
        x = self.linear(x, f"{name}.c_fc")
        x = functional.relu(x) if self.config.activation == "relu" else functional.gelu(x, approximate="tanh")
        return self.linear(x, f"{name}.c_proj")

    def logits(self, ids):
        w = self.weights
        x = w["transformer.wte.weight"][ids]
        if self.config.positions == "learned":
            x = x + w["transformer.wpe.weight"][: ids.shape[1]]
        for i in range(self.config.n_layer):
            name = f"transformer.h.{i}"
            if self.config.norm == "pre":
                x = x + self.attention(self.norm(x, f"{name}.ln_1"), f"{name}.attn")
                x = x + self.mlp(self.norm(x, f"{name}.ln_2"), f"{name}.mlp")
            else:
                x = self.norm(x + self.attention(x, f"{name}.attn"), f"{name}.ln_1")
                x = self.norm(x + self.mlp(x, f"{name}.mlp"), f"{name}.ln_2")
        head = w["transformer.wte.weight" if self.config.tied else "lm_head.weight"]
        return self.norm(x, "transformer.ln_f") @ head.T

    def loss(self, ids, targets):
        return functional.cross_entropy(self.logits(ids).flatten(0, 1), targets.flatten())


def rotated(x):
    """Rotary positions as Hugging Face's Llama writes them, with theta 10,000: x (B, H, T, D)."""
    time, size = x.shape[-2:]
    frequencies = 1.0 / 10000.0 ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.outer(torch.arange(time, dtype=torch.float64), frequencies).repeat(1, 2)  # (T, D)
    x1, x2 = x.chunk(2, dim=-1)
    return x * angles.cos().to(x.dtype) + torch.cat([-x2, x1], dim=-1) * angles.sin().to(x.dtype)


def both(options):
    config = GPTConfig(**SHAPE, **options)
    with tt.seeded("parity"):
        model = GPT(config)
        for p in model.parameters():  # away from the initial values, where biases are 0 and norms 1
            p.data = p.data + 0.05 * tt.randn(*p.shape).data
    state = {name: array.copy() for name, array in model.state_dict().items()}
    return model, TorchGPT(state, config)


def batch(step):
    ids = np.random.default_rng(step).integers(0, 65, (2, 12, 64))
    return ids, torch.from_numpy(ids)


@variants
def test_logits_and_gradients(options, record_property):
    model, reference = both(options)
    (ids, targets), (torch_ids, torch_targets) = batch(0)
    difference = np.abs(model(ids).data - reference.logits(torch_ids).detach().numpy()).max()
    record_property("logits", float(difference))
    assert difference < 1e-4
    model(ids, targets).backward()
    reference.loss(torch_ids, torch_targets).backward()
    worst = 0
    for name, p in model.named_parameters():
        expected = reference.weights[name].grad.numpy()
        worst = max(worst, np.abs(p.grad - expected).max() / np.abs(expected).max())
        assert worst < 1e-4, name
    record_property("gradients", float(worst))


@variants
def test_20_steps_of_adamw(options, record_property):
    model, reference = both(options)
    optimizer = tt.optim.AdamW(tt.optim.decay_groups(model.parameters(), 0.1), lr=3e-4, betas=(0.9, 0.99))
    weights = reference.weights.values()
    groups = [
        {"params": [w for w in weights if w.ndim >= 2], "weight_decay": 0.1},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    torch_optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.99))
    differences = []
    for step in range(20):
        (ids, targets), (torch_ids, torch_targets) = batch(step % 4)
        optimizer.zero_grad()
        loss = model(ids, targets)
        loss.backward()
        optimizer.step(tt.clip_scale(tt.grad_norm(model.parameters()), 1.0))
        torch_optimizer.zero_grad()
        torch_loss = reference.loss(torch_ids, torch_targets)
        torch_loss.backward()
        torch.nn.utils.clip_grad_norm_(list(weights), 1.0)
        torch_optimizer.step()
        differences.append(abs(loss.item() - torch_loss.item()))
    record_property("losses", max(differences))
    assert max(differences) < 1e-3
