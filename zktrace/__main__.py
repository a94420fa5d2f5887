"""``python -m zktrace``: the command."""

from zktrace.cli.main import main

main()
