"""Inline record-and-replay proxy for the ZooKeeper client protocol. Nothing is here yet."""
