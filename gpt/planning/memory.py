"""The peak memory of a training, a generation and a preparation, from shapes alone and before anything is allocated.

Shape letters: B windows of T tokens in a batch, C channels, H heads, L layers, V vocabulary, P parameters, W processes
(at most B), n tokens that are worked on at once. All values are float32, ids int64.

**A model** has P = V C (twice if the head is not tied) + T C (unless positions are rotary) + L (12 C^2 + vectors) +
vectors. Training holds P values of weights, and the optimizer's state: 2 P for AdamW's m and v, of which Muon's
momentum of the hidden matrices saves 12 L C^2.

**A training step on the CPU** (`tinytensor/parallel/processes.py`) gives each of W processes B / W windows, which it
works through in parts of about PART_TOKENS tokens. Weights are shared, m and v exist in the first process alone, as the
others are forked before. Forward saves for each of the n tokens of a part and for each layer

    layer norm 1, layer norm 2    2 C   their results, which the linear layers after them save anyway, and 2 of 1 / std;
                                  2 C   with a bias the normalized values, too
    c_attn                        3 C   queries, keys and values, saved by attention
    attention                     C + H its result, saved by c_proj as well, and the log-sum-exp of each row
    c_fc                          4 C   the input of GELU, which is recomputed in backward; or the output of ReLU

and C for the last layer norm: residual sums, projections and dropout save nothing. The loss adds the logits of a block
of rows (LOGITS_BYTES at most, one row at least) and the gradients of its input, n C, and of the head, V C. From there
on backward frees activations as gradients come into being; halfway through an MLP, 10 n C values are there besides. So
the highest of the two ends counts:

    n saved + V C + max(block of logits + 2 n C, 10 n C)        at the loss
    P + 3 n C                                                   at the embedding

A process that has more than one part, or the first with micro-batches, adds these to gradients that are there: P more.
Every process but the first also has P values in shared memory, through which the first one reads its gradients. The
ids and targets of all micro-batches are made at once, and sent whole to each process.

**Muon** needs, besides the gradients, on the CPU 15 C^2 for each core, which works on a matrix of an MLP, its update
and six products; on a GPU 11 L C^2, as equal matrices of all layers are worked on together.

**An evaluation** runs B windows at once in the first process, without a graph: 11 C for each token halfway through an
MLP (residual stream, layer norm, 4 C before and 4 C after GELU, result), and a block of logits. It has the memory that
gradients and activations had.

**Resuming** reads weights and state (P and 2 P) from a checkpoint; with several processes the weights are there once
more until the shared ones have their values. **The sample** at the end loads the model a second time.

**On a GPU** all B T tokens are there at once, layer norms save their input and c_attn and c_fc its output: 12 C + H + 4
for each layer. Of the gradient of the head there are two, and the block of logits is twice as large. The host holds
weights twice, when the model is made and when a checkpoint is written.

**Generation** holds weights, and keys and values, 2 L C for each position of the window of each text.

**A preparation** has worker processes, each with its own library and a few megabytes of text, and learns a byte-pair
vocabulary from at most MAX_LEARN_BYTES of text, for which the library reserves memory for every token asked for.

What the interpreter and its libraries take is read from this process, and what they will take once all of them are in
use was measured (Linux, x86-64). The C library keeps freed memory (`kernels/cpu/memory.py`), so that peaks of different
moments do not add up. Memory-mapped token files are not counted, as the system can drop them.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

from gpt.corpus.preparation import MAX_LEARN_BYTES, PrepareOptions, worker_count
from gpt.model import GPTConfig
from gpt.model.cache import PREFILL_CHUNK
from gpt.model.config import parameter_count
from gpt.planning.limits import resident
from gpt.training.recipe import TrainConfig
from kernels.cpu.cross_entropy import LOGITS_BYTES
from tinytensor.optim import AdamW, Muon
from tinytensor.parallel.processes import CAN_FORK, PART_TOKENS, available_cores

FLOAT, INT = 4, 8
MIB = 1 << 20
# measured: beyond what is there after the imports of a command, and in each forked process
LIBRARIES, LIBRARIES_OF_FORK = 92 * MIB, 42 * MIB
COMPILED_LOOPS, COMPILED_LOOPS_OF_FORK = 50 * MIB, 20 * MIB  # numba's, where it is installed
CUDA_HOST, CUDA_DEVICE = 400 * MIB, 450 * MIB  # a context, CuPy, cuBLAS and its workspace
OBJECTS_OF_LAYER = 24 << 10  # modules, parameters and states, which Python keeps as objects
TOKEN_OBJECT, TEXT_OBJECTS = 40, 8 << 10  # of a token in a list, and of a text that is generated
TOKENIZER, WORKER, LEARNED_TOKEN = 40 * MIB, 90 * MIB, 64  # of the tokenizers library, with and without its own process


@dataclass(frozen=True)
class Item:
    """Something that takes memory: bytes for each of some processes."""

    name: str
    bytes: int
    processes: int = 1
    in_first: bool = True  # whether it is part of the first process, alone or shared with others


@dataclass(frozen=True)
class Prediction:
    """What takes memory on the host, or on a GPU, at the moment when most is needed."""

    items: tuple[Item, ...]

    @property
    def total(self) -> int:
        """Bytes of all processes."""
        return sum(item.bytes * item.processes for item in self.items)

    @property
    def process(self) -> int:
        """Bytes of the first process, which needs most."""
        return sum(item.bytes * item.processes for item in self.items if item.in_first)


def optimizer_values(kind: str, model: GPTConfig, optimizer: str) -> int:
    """How many values the optimizer's state has."""
    by_muon = 12 * model.n_layer * model.n_embd**2 if optimizer == "muon" else 0
    by_adamw = parameter_count(kind, model) - by_muon
    return len(AdamW.state_names) * by_adamw + len(Muon.state_names) * by_muon


def saved_values(model: GPTConfig, on_gpu: bool) -> int:
    """What forward saves of each token of a GPT for backward."""
    c = model.n_embd
    if on_gpu:
        return model.n_layer * (12 * c + model.n_head + 4) + 3 * c
    return model.n_layer * (10 * c + model.n_head + 2 + (2 * c if model.bias else 0)) + c + 1


def training_memory(kind: str, model: GPTConfig, train: TrainConfig, device: str, resumed: bool) -> list[Prediction]:
    """The peak on the host and, where the device is a GPU, on that."""
    if device == "cpu":
        return [_training_on_cpu(kind, model, train, resumed)]
    arrays = _training_on_gpu(kind, model, train)
    size = FLOAT * parameter_count(kind, model)
    emulated = device.startswith("emulated")
    context = 0 if emulated else CUDA_HOST
    copies = Item("weights on the host", (4 if resumed else 2) * size)
    host = (Item("interpreter and libraries", _libraries() + context), copies, _batches(model, train))
    if emulated:  # its arrays lie in the host's memory
        return [Prediction((*host, *arrays))]
    return [Prediction(host), Prediction((Item("CUDA and its libraries", CUDA_DEVICE), *arrays))]


def _training_on_cpu(kind: str, model: GPTConfig, train: TrainConfig, resumed: bool) -> Prediction:
    count = parameter_count(kind, model)
    cores = train.processes or available_cores()
    processes = min(cores, train.batch_size) if CAN_FORK else 1
    share = -(-train.batch_size // processes)
    parts = -(-share // max(1, PART_TOKENS // model.block_size))
    tokens = -(-share // parts) * model.block_size
    attention = _attention_scratch(model) * (1 if processes > 1 else cores)
    step = _step_values(kind, model, tokens, False) + attention
    existing = count if parts > 1 else 0  # gradients of earlier parts
    evaluated = train.batch_size * model.block_size
    orthogonalized = 15 * min(cores, 4 * model.n_layer) * model.n_embd**2 if train.optimizer == "muon" else 0
    moments = {
        f"gradients, activations of {tokens:,} tokens": step + (count if train.grad_accum_steps > 1 else existing),
        f"evaluation of {evaluated:,} tokens": _forward_values(kind, model, evaluated),
        "gradients, update by Muon": count + orthogonalized,
        "the model that writes the sample": count + max(_cache_values(kind, model, 1), _while_made(kind, model)),
    }
    if resumed:
        moments["a checkpoint in memory"] = (4 if processes > 1 else 3) * count
    name, values = max(moments.items(), key=lambda moment: moment[1])
    items = [
        Item("interpreter and libraries", _libraries()),
        Item("weights", FLOAT * count + OBJECTS_OF_LAYER * model.n_layer),
        Item("optimizer state", FLOAT * optimizer_values(kind, model, train.optimizer)),
        Item(name, FLOAT * values),
        _batches(model, train),
    ]
    if processes > 1:
        received = 2 * 2 * INT * train.batch_size * model.block_size  # as sent, and unpacked
        forked = FLOAT * (step + existing) + received + _libraries(fork=True)
        items.append(Item("a forked process, gradients and activations", forked, processes - 1, in_first=False))
        items.append(Item("its gradients in shared memory", FLOAT * count, processes - 1))
    return Prediction(tuple(items))


def _training_on_gpu(kind: str, model: GPTConfig, train: TrainConfig) -> tuple[Item, ...]:
    count, tokens = parameter_count(kind, model), train.batch_size * model.block_size
    step = _step_values(kind, model, tokens, True) + (count if train.grad_accum_steps > 1 else 0)
    if train.optimizer == "muon":
        step = max(step, count + 11 * model.n_layer * model.n_embd**2)
    return (
        Item("weights", FLOAT * count),
        Item("optimizer state", FLOAT * optimizer_values(kind, model, train.optimizer)),
        Item(f"gradients, activations of {tokens:,} tokens", FLOAT * step + 2 * INT * tokens),
    )


def _step_values(kind: str, model: GPTConfig, tokens: int, on_gpu: bool) -> int:
    """Gradients and what is saved for them, in the worse of two moments, for `tokens` that are worked on at once."""
    count = parameter_count(kind, model)
    if kind == "bigram":
        return count + 3 * tokens * model.vocab_size  # logits, their gradient, and that in the order of the ids
    c, head = model.n_embd, model.vocab_size * model.n_embd * (2 if on_gpu else 1)
    logits = _logits(model, tokens, 2 if on_gpu else 1)
    at_loss = tokens * saved_values(model, on_gpu) + head + max(logits + 2 * c * tokens, 10 * c * tokens)
    return max(at_loss, count + 3 * c * tokens)


def _forward_values(kind: str, model: GPTConfig, tokens: int) -> int:
    """What a forward pass without a graph holds at most."""
    if kind == "bigram":
        return tokens * model.vocab_size
    return 11 * model.n_embd * tokens + _logits(model, tokens) + 4 * tokens


def _logits(model: GPTConfig, tokens: int, blocks: int = 1) -> int:
    """The values of a block of logits: LOGITS_BYTES at most, but one row at least."""
    return min(tokens, max(1, blocks * LOGITS_BYTES // FLOAT // max(1, model.vocab_size))) * model.vocab_size


def _attention_scratch(model: GPTConfig) -> int:
    """Transposed keys and values of a head, and scores of a block of queries, twice in backward; for each core."""
    return 2 * (model.n_embd // model.n_head + 32) * model.block_size


def _batches(model: GPTConfig, train: TrainConfig) -> Item:
    """Ids and targets of all micro-batches, the windows they come from, and where those and the evaluation's begin."""
    windows = train.batch_size * train.grad_accum_steps
    made = 2 * INT * train.batch_size * (model.block_size + 1) + 2 * INT * train.batch_size * model.block_size
    starts = 4 * INT * (windows + train.batch_size * train.eval_batches)
    return Item("batches of token ids", 2 * INT * windows * model.block_size + made + starts)


def _libraries(fork: bool = False) -> int:
    """What the interpreter and its libraries take: in this process, or additionally in one that is forked."""
    compiled = importlib.util.find_spec("numba") is not None and os.environ.get("NUMBA_DISABLE_JIT") != "1"
    if fork:
        return LIBRARIES_OF_FORK + (COMPILED_LOOPS_OF_FORK if compiled else 0)
    return resident() + LIBRARIES + (COMPILED_LOOPS if compiled else 0)


def _cache_values(kind: str, model: GPTConfig, texts: int) -> int:
    """Keys and values of `texts`: of all positions, since NumPy asks for huge pages, of which each text touches all."""
    return 0 if kind == "bigram" else 2 * model.n_layer * model.n_embd * model.block_size * texts


def _while_made(kind: str, model: GPTConfig) -> int:
    """What a model takes besides its parameters while it is made: each is copied and scaled, so it is there twice.

    That counts for the last large one; for the first, the embedding, if it is more than half of the model.
    """
    embedding = model.vocab_size * (model.vocab_size if kind == "bigram" else model.n_embd)
    if kind == "bigram" or not model.tied:
        return embedding
    return max(4 * model.n_embd**2, 2 * embedding - parameter_count(kind, model))


def generation_memory(
    kind: str, model: GPTConfig, device: str, texts: int, prompt: int, tokens: int
) -> list[Prediction]:
    """The peak of a generation: `texts` that begin with `prompt` tokens and get `tokens` more."""
    count, length = parameter_count(kind, model), min(model.block_size, prompt + tokens)
    chunk = min(max(1, PREFILL_CHUNK // texts), prompt if prompt + tokens <= model.block_size else model.block_size)
    if kind == "bigram":
        work = texts * length * model.vocab_size
    else:
        scores = 2 * (1 if device == "cpu" else model.n_head) * chunk * length  # the CPU takes head by head
        work = texts * (11 * model.n_embd * chunk + scores + model.vocab_size)
    arrays = (
        Item("weights", FLOAT * count + OBJECTS_OF_LAYER * model.n_layer),
        Item("keys and values", FLOAT * _cache_values(kind, model, texts)),
        Item("work on tokens", FLOAT * max(work, _while_made(kind, model))),
    )
    choice = 5 * 2 * FLOAT * model.vocab_size
    written = texts * (TEXT_OBJECTS + TOKEN_OBJECT * (prompt + tokens))
    host = (Item("interpreter and libraries", _libraries()), Item("texts and probabilities", choice + written))
    if device == "cpu" or device.startswith("emulated"):
        return [Prediction((*host, *arrays))]
    context = Item("CUDA and weights on the host", CUDA_HOST + FLOAT * count)
    return [Prediction((*host, context)), Prediction((Item("CUDA and its libraries", CUDA_DEVICE), *arrays))]


def preparation_memory(options: PrepareOptions, source_bytes: int | None) -> Prediction:
    """The peak of a preparation from a source of that size, if it is known."""
    workers = worker_count(options, source_bytes)
    items = [Item("interpreter and libraries", resident() + TOKENIZER)]
    if workers > 1:
        items.append(Item("a worker process", WORKER, workers, in_first=False))
    if options.tokenizer == "bpe":
        texts = min(source_bytes or MAX_LEARN_BYTES, MAX_LEARN_BYTES)
        items.append(Item("a vocabulary that is learned", 3 * texts + LEARNED_TOKEN * options.vocab_size))
    return Prediction(tuple(items))
