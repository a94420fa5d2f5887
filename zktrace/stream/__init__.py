"""Sans-IO machines that turn ordered bytes of one connection into events. Know nothing of packets."""
