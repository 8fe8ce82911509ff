"""Rewrites: what is changed of a stage, and not of what it computes, so that its graph is a faster one.

One rewrite a file, `Stage` ──▶ `Stage`; `rewrite.py` has the list of them, in order.
"""
