"""The deterministic core: data tree, ACLs, quotas, watches, sessions, and the way of a request to
its reply. Time is an argument; bytes come in and go out; what has to be durable is handed to the
caller. No clock, socket, disk, chance, thread or log in here (import-linter holds it to that).
"""
