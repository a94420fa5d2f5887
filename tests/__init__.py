"""Tests of zktrace. A package, so that ``python -m tests.truth.check DIR`` works from the top of
the tree.
"""
