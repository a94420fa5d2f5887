"""A capture made safe to hand out: it decodes and replays as before, and names nothing.

``pseudonyms`` replaces texts, ids and addresses under a key, ``bodies`` applies that to messages,
``rewrite`` writes the capture. Must not know: replay, live servers.
"""
