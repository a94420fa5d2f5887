"""Recorded requests sent again to a live server, in an order that gives the recorded results.

``prepare`` reads a capture into a plan, ``run`` carries it out, ``order`` holds what must come
before what, ``maps`` what the live server named differently. Must not know: the reference server.
"""
