"""``zktrace top``: the picture in a terminal.

A client of the JSON API (:mod:`zktrace.web`) and nothing else: it asks a running ``zktrace serve``
over HTTP, or an application in the same process without a port
(:class:`zktrace.top.source.Source`). What is shown, and where a row leads, is data
(:mod:`zktrace.top.views`); the screen is Textual's (:mod:`zktrace.top.screen`). Knows nothing of
captures, engines or tables.
"""
