"""A model behind an HTTP interface that programs written for OpenAI's already speak: `python -m gpt.serve DIR`.

    server.py       starts uvicorn on a socket of `listener.py`, and ends it
    app.py          a request from its first byte to its last: routes, limits, streams      (asyncio, one thread)
    parameters.py   what a request asks for, checked; `body.py` reads it, `replies.py` writes the answer
    engine.py       writes the texts of all requests together, a token of each at a time    (the model's thread)

The two threads meet in two places: `Engine.submit`, and `Choice.tell`, by which a text grows.
"""
