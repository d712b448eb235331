"""CUDA source text on its way to a C++ compiler: what no macro can express, rewritten in place.

Read translate.py first, then declarations.py, which the checked builds need.
"""
