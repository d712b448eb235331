"""GGUF, the file format of llama.cpp: a model of GPT-2's architecture and its tokenizer in one file.

A file is the magic number, the version, the counts of tensors and of settings; the settings, each a name, a type and a
value; for each tensor its name, shape (innermost axis first), type and place; and the tensors' data, each at a multiple
of ALIGNMENT (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Numbers are little-endian, a text is its
length and its UTF-8. llama.cpp multiplies with matrices by output, (O, I), so those of GPT-2's layers are transposed.
Matrices are stored as one of two types, vectors and positions as float32, as llama.cpp's own converter does:

    f16     float16
    q8_0    blocks of 32 int8 along a row, with a float16 scale for each block, its largest magnitude / 127
"""

import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from gpt.errors import UserError
from gpt.model import GPTConfig
from gpt.tokenizers.load import Tokenizer
from gpt.weights.families.common import EMBEDDING, HEAD, POSITIONS, differing
from gpt.weights.gguf_tokens import token_settings
from gpt.weights.safetensors import Entry, read

OUT_TYPES = ("f16", "q8_0")
MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9  # types of settings
KINDS: dict[type, tuple[int, str]] = {int: (UINT32, "<I"), float: (FLOAT32, "<f"), bool: (BOOL, "<?")}
F32, F16, Q8_0 = 0, 1, 8  # types of tensors
FILE_TYPES = {"f16": 1, "q8_0": 7}
QUANTIZATION_VERSION = 2
NORM_EPS = 1e-5  # of layer norms
BLOCK = 32  # values of Q8_0 with one scale
BLOCK_BYTES = 2 + BLOCK
# llama.cpp's names for GPT-2's tensors
OUTSIDE_BLOCKS = {
    EMBEDDING: "token_embd.weight",
    POSITIONS: "position_embd.weight",
    "transformer.ln_f.weight": "output_norm.weight",
    "transformer.ln_f.bias": "output_norm.bias",
    HEAD: "output.weight",
}
IN_BLOCKS = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def why_not_gguf(config: GPTConfig) -> str | None:
    """The reason why llama.cpp's GPT-2 cannot be this model, which is a GPT-2 otherwise; None if it can."""
    if config.inverse_layer_scale:
        return "--inverse-layer-scale: llama.cpp's GPT-2 does not divide the scores of a layer by its number"
    needed: dict[str, Any] = {"activation": "gelu", "norm_eps": NORM_EPS}
    if config.inner != 4 * config.n_embd:
        needed["n_inner"] = 4 * config.n_embd
    return differing(config, needed, "llama.cpp's GPT-2")


def write_gguf(
    path: Path, config: GPTConfig, tokenizer: Tokenizer, found: Mapping[str, Entry], outtype: str, name: str
) -> None:
    """Write a GPT-2 whose weights are the entries `found` {our name: Entry}; outtype: one of OUT_TYPES.

    UserError if a tensor is missing, OSError if the file cannot be written.
    """
    tokens = token_settings(tokenizer, config.vocab_size)
    names = tensor_names(config)
    if missing := [ours for ours in names if ours not in found]:
        raise UserError(f"{missing[0]}: missing in the model's weights; train for longer, or export another model")
    rows = len(tokens["tokenizer.ggml.tokens"])
    shapes = {ours: stored_shape(ours, found[ours].shape, rows) for ours in names}
    types = {ours: tensor_type(ours, shape, outtype) for ours, shape in shapes.items()}
    settings = model_settings(config, outtype, name) | tokens
    with open(path, "wb") as file:
        file.write(MAGIC + struct.pack("<IQQ", VERSION, len(names), len(settings)))
        for key, value in settings.items():
            file.write(encode_text(key) + encode(value))
        place = 0
        for ours, theirs in names.items():
            dims = shapes[ours][::-1]
            file.write(encode_text(theirs) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims))
            file.write(struct.pack("<IQ", types[ours], place))
            place += aligned(tensor_bytes(shapes[ours], types[ours]))
        pad(file)
        for ours in names:
            file.write(CONVERT[types[ours]](load(found[ours], ours, shapes[ours])).tobytes())
            pad(file)


def tensor_names(config: GPTConfig) -> dict[str, str]:
    """{our name: llama.cpp's name} of the tensors of a GPT-2, with `output.weight` only if it is not tied."""
    names = {ours: theirs for ours, theirs in OUTSIDE_BLOCKS.items() if not (config.tied and ours == HEAD)}
    for i in range(config.n_layer):
        for ours, theirs in IN_BLOCKS.items():
            for part in ("weight", "bias"):
                names[f"transformer.h.{i}.{ours}.{part}"] = f"blk.{i}.{theirs}.{part}"
    return names


def model_settings(config: GPTConfig, outtype: str, name: str) -> dict[str, Any]:
    """{setting: value} of the model."""
    return {
        "general.architecture": "gpt2",
        "general.name": name,
        "general.file_type": FILE_TYPES[outtype],
        "general.quantization_version": QUANTIZATION_VERSION,
        "gpt2.context_length": config.block_size,
        "gpt2.embedding_length": config.n_embd,
        "gpt2.feed_forward_length": 4 * config.n_embd,
        "gpt2.block_count": config.n_layer,
        "gpt2.attention.head_count": config.n_head,
        "gpt2.attention.layer_norm_epsilon": NORM_EPS,
    }


def stored_shape(ours: str, shape: tuple[int, ...], rows: int) -> tuple[int, ...]:
    """The shape of a tensor in the file: matrices of layers transposed, those of the vocabulary with `rows` rows."""
    if ours in (EMBEDDING, HEAD):
        return rows, shape[1]
    return shape if ours == POSITIONS else shape[::-1]


def tensor_type(ours: str, shape: tuple[int, ...], outtype: str) -> int:
    """F32, F16 or Q8_0. Rows that are no whole number of blocks are stored as F16."""
    if len(shape) == 1 or ours == POSITIONS:
        return F32
    return Q8_0 if outtype == "q8_0" and shape[-1] % BLOCK == 0 else F16


def load(entry: Entry, ours: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor as float32 in the shape that it has in the file."""
    values = np.empty(math.prod(entry.shape), np.float32)
    read(entry, values)
    values = values.reshape(entry.shape)
    if len(shape) == 2 and ours not in (EMBEDDING, HEAD, POSITIONS):
        return np.ascontiguousarray(values.T)
    return np.concatenate([values, np.zeros((shape[0] - len(values), *shape[1:]), np.float32)])


def to_float16(x: np.ndarray) -> np.ndarray:
    """float32 -> float16. UserError for what float16 cannot hold."""
    with np.errstate(over="ignore"):
        half = x.astype("<f2")
    if not np.isfinite(half).all():
        raise UserError("the weights are NaN or above 65504, which float16 cannot hold: the training diverged")
    return half


def to_q8_0(x: np.ndarray) -> np.ndarray:
    """float32 of a multiple of 32 values -> the bytes of Q8_0, (blocks, 34), as llama.cpp rounds them."""
    blocks = x.reshape(-1, BLOCK)
    scale = abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    scaled = blocks * inverse
    values = np.copysign(np.floor(abs(scaled) + np.float32(0.5)), scaled).astype(np.int8)  # halves away from zero
    return np.concatenate([to_float16(scale).view(np.uint8), values.view(np.uint8)], axis=1)


CONVERT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    F32: lambda x: x.astype("<f4", copy=False),
    F16: to_float16,
    Q8_0: to_q8_0,
}


def tensor_bytes(shape: tuple[int, ...], kind: int) -> int:
    """The size of a tensor's data."""
    count = math.prod(shape)
    return count // BLOCK * BLOCK_BYTES if kind == Q8_0 else count * (4 if kind == F32 else 2)


def encode_text(text: str) -> bytes:
    """The length of a text in UTF-8, and the text."""
    data = text.encode("utf-8", "replace")
    return struct.pack("<Q", len(data)) + data


def encode(value: Any) -> bytes:
    """A setting's type and value: a text, a number, a truth value, or a list of texts or of numbers."""
    if isinstance(value, str):
        return struct.pack("<I", STRING) + encode_text(value)
    if isinstance(value, list):
        texts = not value or isinstance(value[0], str)
        head = struct.pack("<IIQ", ARRAY, STRING if texts else INT32, len(value))
        return head + (b"".join(map(encode_text, value)) if texts else struct.pack(f"<{len(value)}i", *value))
    kind, form = KINDS[type(value)]
    return struct.pack("<I", kind) + struct.pack(form, value)


def aligned(size: int) -> int:
    """A size rounded up to a multiple of ALIGNMENT."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def pad(file: IO[bytes]) -> None:
    """Write zeros up to the next multiple of ALIGNMENT."""
    file.write(bytes(aligned(file.tell()) - file.tell()))
