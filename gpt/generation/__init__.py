"""Text from a trained model: sampling, decoding as it comes, and conversations.

`sampling.py` chooses the next token; `stream.py` is the loop that feeds the model its own tokens and turns them into
text; `conversation.py` adds turns. `dialog.py` does that with models that were tuned to chat, by their `templates.py`.
The commands `gpt.generate` and `gpt.chat` are made of these.
"""
