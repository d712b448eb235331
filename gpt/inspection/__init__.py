"""What a model does with a text, for those who want to look: attention weights, the residual stream, likelihoods.

`trace.py` runs a text through a model and keeps what training does not; `predictions.py` reads the logits: how likely
each token was, and what else was likely; `labels.py` writes a token down, whatever its bytes.
"""
