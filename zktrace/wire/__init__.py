"""The wire schema of ZooKeeper, declared once, and its codecs. Knows nothing of sockets, files or
captures.
"""
