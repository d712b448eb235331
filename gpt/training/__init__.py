"""Training: what a run is made of, and how it survives being killed.

`recipe.py` has the settings and presets; `batches.py` draws windows of tokens; `trainer.py` has the training step and
the other parts of the loop in `train.py`, and `optimizer.py` divides the parameters among optimizers; `report.py` shows
how it goes; `checkpoint.py`, `metrics.py`, `manifest.py` and `run.py` are what is kept on the disk, and `data.py` puts
the tokens of `--data` there.
"""
