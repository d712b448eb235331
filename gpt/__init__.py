"""Floor 5: language models on the engine: their configuration, text, training, checkpoints and generation.

Read `model.py` first, then `trainer.py`.
"""
