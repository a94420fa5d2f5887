"""The picture over HTTP: page, JSON API, Prometheus. Imported only by ``zktrace serve``."""
