"""Drives capture, flow and stream over a source; one engine in Python, one native, the same
tables from both.
"""
