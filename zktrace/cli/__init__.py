"""The zktrace command: every subcommand a thin file."""
