"""Tables out as text and JSON lines."""
