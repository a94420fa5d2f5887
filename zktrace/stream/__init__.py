"""Sans-IO machines that turn ordered bytes of one connection into events.

They know nothing of packets.
"""
