"""Where a launch finds its arrays: arena.py if it is checked, guard.py if it is fast, sparse.py for huge ones.

live.py: those that it is given in a table of addresses.
"""
