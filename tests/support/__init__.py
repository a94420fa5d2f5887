"""What the tests stand on: capture files, packets, ZooKeeper messages and an oracle, none of it
made of zktrace.
"""
