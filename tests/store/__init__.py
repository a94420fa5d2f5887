"""What is kept of traffic: windows, sessions, watches."""
