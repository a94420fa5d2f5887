"""An ensemble: leader election and ZAB, as steps without a clock, a socket, a disk or chance.

`peer` is one server of an ensemble as a whole: bytes, durability and time in; bytes, txns to be
logged and epochs to be kept out. `election` finds a leader, `leader` and `learner` are the two
sides of the quorum port, `serving` is what clients see of either.
"""
