"""Language models on the engine: text and tokens, models, weights, training, generation.

Each room imports only from those above it in this list (`tests/test_layering.py` checks that):

    errors, options, files     what every room uses: UserError, settings with bounds, files that are never half-written
    signals, directories       Ctrl-C and SIGTERM; locks, and new directories that appear whole
    tokenizers/                text to token ids and back
    model/                     GPT-2, Llama, the bigram table, the KV cache, and LoRA's adapters
    corpus/                    sources of text, documents, the split, token files
    weights/                   safetensors, Hugging Face's names and configurations, model directories
    generation/                sampling, text as it is decoded, conversations
    inspection/                what a model does with a text: attention weights, the residual stream, likelihoods
    dialogs/                   chat data: messages, written by a template, of which only answers are learned
    training/                  batches, recipe and presets, training steps, checkpoints, run directories
    planning/                  the memory and time that a command will take, and refusals of what cannot fit
    cli                        what commands share
    generate chat prepare export explain/    the commands: python -m gpt.NAME

To understand GPT-2, read `model/layers.py` and `model/gpt.py`; to understand training, `training/trainer.py` and then
`train.py`.
"""
