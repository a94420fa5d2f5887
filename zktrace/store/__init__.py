"""What is kept of traffic that is watched: windows, sessions, watches, the slowest, the latest."""
