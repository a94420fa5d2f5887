"""What clients and servers said, message by message, out of a capture: for replay, compare, scrub.

Must not know: live servers.
"""
