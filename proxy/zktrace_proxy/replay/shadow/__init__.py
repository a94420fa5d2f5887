"""``zktrace proxy run --shadow``: live traffic, replayed on a second ensemble as it happens.

`feed` makes steps of the proxy's tap, `run` sends them as a replay does, :mod:`.shadow` is both in
a thread, and what is told of it; `http` shows it.
"""
