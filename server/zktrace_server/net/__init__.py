"""What connects the core to the world: asyncio, sockets, clocks, the configuration file."""
