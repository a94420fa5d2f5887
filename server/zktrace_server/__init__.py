"""Reference ensemble server for the ZooKeeper protocols. Nothing is here yet."""
