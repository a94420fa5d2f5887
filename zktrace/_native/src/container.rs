//! Capture file containers (pcap, pcapng): bytes in, packets out. Knows nothing of what is in a packet.
