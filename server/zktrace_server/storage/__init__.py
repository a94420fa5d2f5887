"""Txn logs and snapshots in the Java server's own files. Knows no connection and no client."""
