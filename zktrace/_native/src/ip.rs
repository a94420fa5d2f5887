//! IPv4 and IPv6: headers, fragments, TCP segments out. Knows nothing of connections.
