"""The peak memory of a training, a generation and a preparation, from shapes alone and before anything is allocated.

Shape letters: B windows of T tokens in a forward pass, C channels, H heads, L layers, V vocabulary, P parameters, S
shares of a step, W processes (at most S), n tokens that are worked on at once. All values are float32, ids int64. The
formulas here are GPT-2's; the code has those of other widths of c_attn and the MLP as well.

**A model** has P = V C (twice if the head is not tied) + T C (unless positions are rotary) + L (12 C^2 + vectors) +
vectors. Training holds P values of weights, and the optimizer's state: 2 P for AdamW's m and v, of which Muon's
momentum of the hidden matrices saves 12 L C^2.

**A training step on the CPU** (`tinytensor/parallel/processes.py`) gives each of W processes S / W shares of the step's
windows, each of which it works through in parts of about PART_TOKENS tokens. Weights are shared, m and v exist in the
first process alone, as the others are forked before. Forward saves for each of the n tokens of a part and each layer

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

If a share has more than one part, these are added to gradients that are there: P more. So are the sums of a process's
earlier shares that wait for later ones: log2(S / W) times P. Every process but the first also has P values in shared
memory, through which the first one reads its gradients. The ids and targets of all windows are made at once.

**What is frozen**, with LoRA all but the adapters, has no gradients and no state, and saves less (`trained.py`): in all
of this but the weights themselves, P is then what is trained.

**Ranks** (`tinytensor/parallel/sharded.py`) divide the optimizer's state, and each has two buckets of values that are
sent and received, and the sums of its part of the gradients. The first gathers the state for each checkpoint, on the
host. What all ranks of a machine need together must fit into it.

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

**In 16 bits on a GPU** (`--dtype`) these have 2 bytes each, but for the gradients of parameters, of the head one, for
a while the gradient n C of the last layer norm's result, and the residual stream, (2 L + 1) C for each token, and its
gradient. Copies of all weights but embeddings in 16 bits are there besides, of the head's another one at the loss,
where the block of logits may have four times as many bytes. A bigram table is an embedding alone: all is float32.
Attention that computes in float32 copies its arguments and its result, in backward 30 C bytes for each token.

**Generation** holds weights, and keys and values, 2 L C for each position of the window of each text.

**A preparation** has worker processes, each with its own library and a few megabytes of text, and learns a byte-pair
vocabulary from at most MAX_LEARN_BYTES of text, for which the library reserves memory for every token asked for.

What the interpreter and its libraries take is read from this process, and what they will take once all of them are in
use was measured (Linux, x86-64). The C library keeps freed memory (`kernels/cpu/memory.py`), so that peaks of different
moments do not add up. Memory-mapped token files are not counted, as the system can drop them.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpt.corpus.preparation import MAX_LEARN_BYTES, PrepareOptions, worker_count
from gpt.model import GPTConfig
from gpt.model.cache import FIRST_CAPACITY, PREFILL_CHUNK
from gpt.model.config import GATED, parameter_count
from gpt.planning.limits import resident
from gpt.planning.trained import Trained, trained_part
from gpt.training.recipe import TrainConfig, choose_shares
from kernels.cpu.compiled import expects_loops
from kernels.cpu.cross_entropy import LOGITS_BYTES
from tinytensor.optim import AdamW, Muon
from tinytensor.parallel import ONE_RANK, Communicator, own_cores
from tinytensor.parallel.processes import CAN_FORK, PART_TOKENS
from tinytensor.parallel.sharded import BUCKET, MESSAGE

HALF, FLOAT, INT = 2, 4, 8
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


def optimizer_values(trained: Trained, optimizer: str) -> int:
    """How many values the optimizer's state has."""
    by_muon = trained.matrices if optimizer == "muon" else 0
    by_adamw = trained.values - by_muon
    return len(AdamW.state_names) * by_adamw + len(Muon.state_names) * by_muon


def saved_values(model: GPTConfig, on_gpu: bool, trained: Trained) -> int:
    """What forward saves of each token of a GPT for backward."""
    c, heads = model.n_embd, model.n_head
    rms = model.norm_layer == "rms"
    layer = heads * model.head_size + heads + model.qkv_width + 2
    layer += model.fc_width * (2 if model.activation == "gelu_erf" else 1)  # its input, and Phi of it
    inputs = c * (trained.inputs["attn.c_attn"] + trained.inputs["mlp.c_fc"])  # what the norms before them return
    inputs += model.fc_width * trained.inputs["mlp.c_proj"] if model.activation == "gelu_erf" else 0
    inputs += trained.rank * sum(trained.inputs.values())  # x A of the adapters
    if model.qk_norm != "none":  # before they are normalized, and of each norm 1 / root mean square
        layer += model.qkv_width + (heads + model.kv_heads if model.qk_norm == "head" else 2)
    if on_gpu:
        return inputs + trained.blocks * (layer + 2 * c + (0 if rms else 2)) + 3 * c
    norm_inputs = 2 * c if model.bias or rms else 0
    first = 0 if trained.first_norm else norm_inputs // 2  # no gradient goes on to what comes before
    return inputs + trained.blocks * (layer + norm_inputs) - first + c + 1


def training_memory(
    kind: str, model: GPTConfig, train: TrainConfig, device: str, resumed: bool, ranks: Communicator = ONE_RANK
) -> list[Prediction]:
    """The peak on the host and, where the device is a GPU, on that; with several ranks, of all on this machine."""
    if device == "cpu":
        return [_of_all_ranks(_training_on_cpu(kind, model, train, resumed, ranks), ranks)]
    arrays = _training_on_gpu(kind, model, train, ranks)
    size = FLOAT * parameter_count(kind, model)
    emulated = device.startswith("emulated")
    context = 0 if emulated else CUDA_HOST
    saved = FLOAT * trained_part(kind, model, train).values if train.lora_rank else size
    copies = Item("weights on the host", 2 * size + (2 * saved if resumed else 0))
    host = (Item("interpreter and libraries", _libraries() + context), copies, _batches(model, train, ranks))
    if emulated:  # its arrays lie in the host's memory
        return [_of_all_ranks(Prediction((*host, *arrays)), ranks)]
    on_gpu = Prediction((Item("CUDA and its libraries", CUDA_DEVICE), *arrays))
    return [_of_all_ranks(Prediction(host), ranks), on_gpu]


def _of_all_ranks(one: Prediction, ranks: Communicator) -> Prediction:
    """What all ranks of a machine take, from what one takes; the first also gathers the state for checkpoints."""
    if ranks.local_size == 1:
        return one
    return Prediction((*one.items, Item("another rank", one.total, ranks.local_size - 1, in_first=False)))


def _state(kind: str, model: GPTConfig, train: TrainConfig, ranks: Communicator) -> tuple[Item, ...]:
    """The optimizer's state, which ranks divide; they need buffers for that, and the first all of it for a while."""
    trained = trained_part(kind, model, train)
    values, count = optimizer_values(trained, train.optimizer), trained.values
    if ranks.size == 1:
        return (Item("optimizer state", FLOAT * values),)
    exchanged = count // ranks.size + 2 * min(count, max(BUCKET, MESSAGE * ranks.size))
    gathered = values + count if ranks.rank == 0 else 0  # while gradients are not there
    return (
        Item("this rank's part of the optimizer state", FLOAT * -(-values // ranks.size)),
        Item("what ranks exchange", FLOAT * exchanged),
        Item("state of all ranks, for a checkpoint", FLOAT * gathered),
    )


def _training_on_cpu(kind: str, model: GPTConfig, train: TrainConfig, resumed: bool, ranks: Communicator) -> Prediction:
    trained = trained_part(kind, model, train)
    count, gradients = parameter_count(kind, model), trained.values
    saved = gradients if train.lora_rank else count  # in a checkpoint
    cores = own_cores(train.processes, ranks)
    shares = train.shares or choose_shares(train, False, cores, ranks.size)
    mine = -(-shares // ranks.size)
    processes = min(cores, mine) if CAN_FORK else 1
    rows, waiting = _rows_of_share(train, shares), _waiting_sums(mine, processes)
    parts = -(-rows // max(1, PART_TOKENS // model.block_size))
    tokens = -(-rows // parts) * model.block_size
    attention = _attention_scratch(model) * (1 if processes > 1 else cores)
    step = _step_values(kind, model, tokens, False, trained) + attention
    existing = gradients * ((parts > 1) + waiting)  # those of earlier parts and shares
    evaluated = train.batch_size * model.block_size
    largest = model.n_embd * model.fc_width  # of the matrices that Muon works on, 4 C^2
    orthogonalized = 15 * min(cores, 4 * model.n_layer) * largest // 4 if train.optimizer == "muon" else 0
    moments = {
        f"gradients, activations of {tokens:,} tokens": step + existing,
        f"evaluation of {evaluated:,} tokens": _forward_values(kind, model, evaluated),
        "gradients, update by Muon": gradients + orthogonalized,
        "the model that writes the sample": count + max(_cache_values(kind, model, 1), _while_made(kind, model)),
    }
    if resumed:
        moments["a checkpoint in memory"] = saved + 2 * gradients + (count if processes > 1 else 0)
    name, values = max(moments.items(), key=lambda moment: moment[1])
    items = [
        Item("interpreter and libraries", _libraries()),
        Item("weights", FLOAT * (count + trained.adapters) + OBJECTS_OF_LAYER * model.n_layer),
        *_state(kind, model, train, ranks),
        Item(name, FLOAT * values),
        _batches(model, train, ranks),
    ]
    if processes > 1:
        received = 2 * 2 * INT * rows * -(-mine // processes) * model.block_size  # as sent, and unpacked
        forked = FLOAT * (step + existing) + received + _libraries(fork=True)
        items.append(Item("a forked process, gradients and activations", forked, processes - 1, in_first=False))
        sums = waiting + 1 if mine % processes else 1
        items.append(Item("its gradients in shared memory", FLOAT * gradients * sums, processes - 1))
    return Prediction(tuple(items))


def _training_on_gpu(kind: str, model: GPTConfig, train: TrainConfig, ranks: Communicator) -> tuple[Item, ...]:
    trained, shares = trained_part(kind, model, train), train.shares or ranks.size
    rows = _rows_of_share(train, shares)
    tokens = min(rows, train.batch_size) * model.block_size
    existing = trained.values * ((rows > train.batch_size) + _waiting_sums(-(-shares // ranks.size), 1))
    count = parameter_count(kind, model) + trained.adapters
    weights = [Item("weights", FLOAT * count)]
    if train.dtype == "float32" or kind == "bigram":
        step = FLOAT * _step_values(kind, model, tokens, True, trained)
    else:
        step = _step_bytes(model, tokens, trained)
        weights.append(Item(f"weights in {train.dtype}", HALF * (count - _embedding_values(model))))
    step += FLOAT * existing
    if train.optimizer == "muon":
        step = max(step, FLOAT * (trained.values + 11 * model.n_layer * model.n_embd * model.fc_width // 4))
    return (
        *weights,
        *_state(kind, model, train, ranks),
        Item(f"gradients, activations of {tokens:,} tokens", step + 2 * INT * tokens),
    )


def _embedding_values(model: GPTConfig) -> int:
    """The parameters of embeddings that are not also the head."""
    rows = model.block_size if model.positions == "learned" else 0
    return (rows + (0 if model.tied else model.vocab_size)) * model.n_embd


def _step_bytes(model: GPTConfig, tokens: int, trained: Trained) -> int:
    """As `_step_values` of a GPT on a GPU, in bytes: 16 bits but for residual stream and gradients of parameters."""
    c, heads = model.n_embd, model.n_head * model.head_size
    in_mlp = (6 if model.activation == "gelu_erf" else 2) * model.fc_width * tokens
    in_attention = FLOAT * (2 * heads + 2 * model.qkv_width) + HALF * (model.qkv_width - model.fc_width)
    head = model.vocab_size * c
    ghead = FLOAT * head if trained.head else 0
    in_head = max(HALF * (_logits(model, tokens, 16) + head), ghead)  # its weight padded; its gradient divided
    work = max(in_head, HALF * in_mlp, in_attention * tokens)
    stream = (2 * trained.blocks + 1) * c  # what the norms save
    saved = HALF * saved_values(model, True, trained) + (FLOAT - HALF) * stream
    at_loss = saved * tokens + ghead + work
    return max(at_loss + (FLOAT + HALF) * c * tokens, FLOAT * trained.values + FLOAT * 3 * c * tokens)


def _rows_of_share(train: TrainConfig, shares: int) -> int:
    """The windows of the largest share."""
    return -(-train.windows // shares)


def _waiting_sums(shares: int, workers: int) -> int:
    """How many gradients a worker keeps that wait for those of its later shares (`tinytensor/parallel/shares.py`)."""
    return (-(-shares // workers) - 1).bit_length()


def _step_values(kind: str, model: GPTConfig, tokens: int, on_gpu: bool, trained: Trained) -> int:
    """Gradients and what is saved for them, in the worse of two moments, for `tokens` that are worked on at once."""
    if kind == "bigram":  # logits, their gradient, and that in the order of the ids
        return trained.values + 3 * tokens * model.vocab_size
    c, head = model.n_embd, model.vocab_size * model.n_embd * (2 if on_gpu else 1) if trained.head else 0
    logits = _logits(model, tokens, 2 if on_gpu else 1)
    in_mlp = {"gelu_erf": 6, GATED: 1.5}.get(model.activation, 2) * model.fc_width * tokens
    at_loss = tokens * saved_values(model, on_gpu, trained) + head + max(logits, int(in_mlp)) + 2 * c * tokens
    return max(at_loss, trained.values + 3 * c * tokens)


def _forward_values(kind: str, model: GPTConfig, tokens: int) -> int:
    """What a forward pass without a graph holds at most."""
    if kind == "bigram":
        return tokens * model.vocab_size
    return (3 * model.n_embd + 2 * model.fc_width) * tokens + _logits(model, tokens) + 4 * tokens


def _logits(model: GPTConfig, tokens: int, blocks: int = 1) -> int:
    """The values of a block of logits: LOGITS_BYTES at most, but one row at least."""
    return min(tokens, max(1, blocks * LOGITS_BYTES // FLOAT // max(1, model.vocab_size))) * model.vocab_size


def _attention_scratch(model: GPTConfig) -> int:
    """Transposed keys and values of a head, and scores of a block of queries, twice in backward; for each core."""
    return 2 * (model.head_size + 32) * model.block_size


def _batches(model: GPTConfig, train: TrainConfig, ranks: Communicator) -> Item:
    """Ids and targets of a rank's windows, what they come from, and where those and the evaluation's begin."""
    windows = -(-train.windows // ranks.size)
    made = 2 * INT * train.batch_size * (model.block_size + 1) + 2 * INT * train.batch_size * model.block_size
    starts = 4 * INT * (windows + train.batch_size * train.eval_batches)
    return Item("batches of token ids", 2 * INT * windows * model.block_size + made + starts)


def _libraries(fork: bool = False) -> int:
    """What the interpreter and its libraries take: in this process, or additionally in one that is forked."""
    compiled = expects_loops()
    if fork:
        return LIBRARIES_OF_FORK + (COMPILED_LOOPS_OF_FORK if compiled else 0)
    return resident() + LIBRARIES + (COMPILED_LOOPS if compiled else 0)


def _cache_values(kind: str, model: GPTConfig, texts: int, length: int = 0) -> int:
    """Keys and values of `texts`: of all positions, since NumPy asks for huge pages, of which each text touches all.

    Of texts of more than FIRST_CAPACITY tokens, up to twice as many as they have, and while they grow the former ones.
    """
    positions = min(model.block_size, max(FIRST_CAPACITY, 3 * length if length > FIRST_CAPACITY else 0))
    return 0 if kind == "bigram" else 2 * model.n_layer * model.kv_heads * model.head_size * positions * texts


def _while_made(kind: str, model: GPTConfig) -> int:
    """What a model takes besides its parameters while it is made: each is copied and scaled, so it is there twice.

    That counts for the last large one; for the first, the embedding, if it is more than half of the model.
    """
    embedding = model.vocab_size * (model.vocab_size if kind == "bigram" else model.n_embd)
    if kind == "bigram" or not model.tied:
        return embedding
    return max(model.fc_width * model.n_embd, 2 * embedding - parameter_count(kind, model))


def generation_memory(
    kind: str, model: GPTConfig, device: str, texts: int, prompt: int, tokens: int
) -> list[Prediction]:
    """The peak of a generation: `texts` that begin with `prompt` tokens and get `tokens` more."""
    count, length = parameter_count(kind, model), min(model.block_size, prompt + tokens)
    chunk = min(max(1, PREFILL_CHUNK // texts), prompt if prompt + tokens <= model.block_size else model.block_size)
    if kind == "bigram":
        work = texts * length * model.vocab_size
    else:
        # the CPU takes the heads that share keys together, and these one by one
        heads = model.n_head // model.kv_heads if device == "cpu" else model.n_head
        scores = 2 * heads * chunk * length
        work = texts * ((3 * model.n_embd + 2 * model.fc_width) * chunk + scores + model.vocab_size)
    arrays = (
        Item("weights", FLOAT * count + OBJECTS_OF_LAYER * model.n_layer),
        Item("keys and values", FLOAT * _cache_values(kind, model, texts, length)),
        Item("work on tokens", FLOAT * max(work, _while_made(kind, model))),
    )
    choice = 5 * 2 * FLOAT * model.vocab_size
    written = texts * (TEXT_OBJECTS + TOKEN_OBJECT * (prompt + tokens))
    host = (Item("interpreter and libraries", _libraries()), Item("texts and probabilities", choice + written))
    if device == "cpu" or device.startswith("emulated"):
        return [Prediction((*host, *arrays))]
    context = Item("CUDA and weights on the host", CUDA_HOST + FLOAT * count)
    return [Prediction((*host, context)), Prediction((Item("CUDA and its libraries", CUDA_DEVICE), *arrays))]


def serving_memory(model: GPTConfig, device: str, texts: int, context: int) -> list[Prediction]:
    """The peak of a server that continues `texts` of up to `context` tokens while it reads the prompt of another."""
    *host, place = generation_memory("gpt", model, device, 1, context - 1, 1)
    values = 2 * model.n_layer * model.kv_heads * model.head_size * context  # of a text, which all have from the start
    work = 3 * model.n_embd + 2 * model.fc_width + model.vocab_size
    batch = Item("texts that are continued", texts * (FLOAT * (values + work) + TEXT_OBJECTS + TOKEN_OBJECT * context))
    return [*host, Prediction((*place.items, batch))]


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
