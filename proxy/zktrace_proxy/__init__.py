"""Inline proxy for the ZooKeeper client protocol: relays, decodes, records.

:mod:`zktrace_proxy.plane` says what a data plane is; :mod:`zktrace_proxy.feed` joins it to the
picture that ``zktrace serve`` shows; :mod:`zktrace_proxy.cli` is the command.
"""
