"""The ``zktrace`` command: turns errors into one line, keeps quiet when a pipe closes.

Subcommands are found by :mod:`zktrace.cli.lazy`: ``zktrace --help`` loads Typer and no more, a
subcommand its own module.
"""

from __future__ import annotations

try:
    import errno
    import os
    import sys
    from collections.abc import Sequence
    from typing import Annotated, Any, Final

    import typer

    from zktrace import __version__
    from zktrace.cli.failure import Failure
    from zktrace.cli.lazy import LazyGroup
except KeyboardInterrupt:
    # Most of a start is this; whoever ends it then wants no traceback. (What Python itself does
    # before, some 50 ms, is out of reach.)
    raise SystemExit(130) from None

EXIT_UNUSABLE: Final = 2
EXIT_INTERRUPTED: Final = 130


app = typer.Typer(
    name="zktrace",
    cls=LazyGroup,
    help="Network traffic analyzer for Apache ZooKeeper's wire protocols.",
    no_args_is_help=True,
    # Rich's help takes 0.1 s to import and says no more.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if not wanted:
        return
    from zktrace.engine.base import choose

    choice = choose()
    why = f" ({choice.reason})" if choice.reason else ""
    print(f"zktrace {__version__}, {choice.name} engine{why}")
    raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_version,
            is_eager=True,
            help="Version and engine in use, and exit.",
        ),
    ] = False,
) -> None:
    """Network traffic analyzer for Apache ZooKeeper's wire protocols."""


def _say(error: BaseException) -> None:
    text = " ".join(str(error).split())
    if sys.stderr is not None:
        print(f"zktrace: {text}", file=sys.stderr)


def run(
    arguments: Sequence[str] | None = None, program: typer.Typer = app, name: str = "zktrace"
) -> int:
    """The command with these arguments (None: those of the process); returns the exit status.
    Commands that other packages add can be run by themselves as `program`.
    """
    from typer.main import get_command

    # Of typer's own copy of click, or of click where typer still depends on it.
    usage_error = typer.BadParameter.__mro__[2]
    try:
        status = get_command(program)(
            None if arguments is None else list(arguments),
            prog_name=name,
            standalone_mode=False,
        )
        if sys.stdout is not None:
            sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except BrokenPipeError:
        return _closed_pipe()
    except SystemExit as ended:
        # Click and Typer make this of a closed pipe before we see it.
        if isinstance(ended.__context__, OSError) and ended.__context__.errno == errno.EPIPE:
            return _closed_pipe()
        raise
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except typer.Exit as ended:
        return int(ended.exit_code)
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            _help(error)
        elif isinstance(error, usage_error):
            _say(Failure(_usage(error)))
        elif _is_ours(error):
            _say(error)
        else:
            raise  # a defect of zktrace: its traceback is wanted
        return EXIT_UNUSABLE


def _closed_pipe() -> int:
    """Whoever read has enough, which is no failure."""
    # Python would complain once more when it flushes at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _help(error: Any) -> None:
    """The help of a group that was called without a subcommand."""
    if sys.stderr is not None:
        print(error.format_message(), file=sys.stderr)


def _usage(error: Any) -> str:
    """A wrong call in one line, with what it was about."""
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context is not None else ""
    return f"{error.format_message()}{hint}"


def _is_ours(error: Exception) -> bool:
    """Whether an error is about the call or the input."""
    if isinstance(error, (Failure, OSError)):
        return True
    from zktrace.capture.errors import CaptureError
    from zktrace.engine.base import EngineError

    return isinstance(error, (CaptureError, EngineError))


def main() -> None:
    """Entry point of the installed command."""
    try:
        status = run()
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    # Where Ctrl-C came while code from a string ran (dataclasses are made of such, as modules are
    # imported), CPython ends python -m by SIGINT, whoever dealt with it and whatever the status;
    # unless such code ran again. (_Py_UnhandledKeyboardInterrupt of Python/pythonrun.c.)
    exec("")
    sys.exit(status)
