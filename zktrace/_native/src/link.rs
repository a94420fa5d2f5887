//! Link layers: finds the IP packet in a captured frame. Knows nothing of TCP.
