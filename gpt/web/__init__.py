"""`python -m gpt.web [DIR]`: a page in the browser for the runs and models in a folder.

`folder.py` lists what can be opened, `models.py` holds what is loaded, `sessions.py` lets a model write, `views.py`
shows how it reads, `curves.py` how it was trained, `samples.py` what it wrote meanwhile. None of them knows Gradio:
`page.py` is the page and `handlers.py` what its events call, `server.py` serves it, and `__main__.py` is the command.
`page.css` and `page.js` are the page's own style and its one script.
"""
