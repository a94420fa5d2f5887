"""The data plane in Python, for where the native one was not built: relays and shows, slower.

:mod:`zktrace_proxy.fallback.plane` relays (asyncio), :mod:`zktrace_proxy.fallback.tap` makes the
same packets of it as the native plane. It looks at no frames: faults, hooks and recordings need the
native engine, and say so.
"""
