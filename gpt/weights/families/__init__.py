"""Hugging Face's configurations and parameter names of each family of models, and ours.

A family is a file: `gpt2.py`, `llama.py` (with Qwen and OLMo 2), `neox.py`. It has `parse`, from a `config.json` to our
GPTConfig; `describe`, the way back; `why_not`, the reason why a model is none of the family; and `stored`, which shows
our parameters under the family's names and in its layouts, as views. So reading is writing into those views, and
exporting is reading them: no layout is described twice. `registry.py` chooses the family.
"""
