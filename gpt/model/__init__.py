"""The models: GPT-2's transformer and the bigram table.

Read `layers.py`, then `gpt.py`, and know GPT-2; `llama.py` is what came after it, `cache.py` the KV cache that makes
generation cheap, `batch.py` that of a server; `lora.py` and `freezing.py` are for training less than all of it. A new
layer goes into `layers.py` if only a GPT has it, else into `tinytensor/nn/`; a new kind of model into a file of its own
and into `MODELS`.
"""

from gpt.model.bigram import Bigram
from gpt.model.config import GPTConfig
from gpt.model.gpt import GPT

MODELS = {"gpt": GPT, "bigram": Bigram}  # by the names that `--model` takes
