"""`python -m gpt.explain RUN`: one HTML file that walks through a model on a prompt, and needs nothing else to be read.

`__main__.py` is the command; `content.py` gathers the values, all of them the model's own; `curve.py` reads the loss
curve aloud; `page.html` is the page, written by hand, into which `content.py` puts the values as JSON.
"""
