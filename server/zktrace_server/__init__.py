"""Reference server for the ZooKeeper protocols: `core` is deterministic, `storage` has its files,
`net` its sockets. The guide is server/README.md.
"""
