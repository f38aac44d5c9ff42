"""The program: its commands, and how it ends.

Exit code 0 is success, 1 a failure, 2 wrong use. What goes wrong is one line on stderr.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click

from hopper_data import __version__
from hopper_data.cli.data import (
    export_command,
    import_command,
    reset_command,
    seed_command,
    stats_command,
)
from hopper_data.cli.demo import demo_command
from hopper_data.cli.options import common_options
from hopper_data.cli.plan import plan_group
from hopper_data.cli.queue import queue_command, tail_command, worker_command
from hopper_data.cli.schema import (
    check_command,
    migrate_command,
    rollback_command,
    status_command,
)
from hopper_data.cli.service import health_command, info_command
from hopper_data.errors import DatabaseError, ValidationError

__all__ = ["main"]

logger = logging.getLogger("hopper_data")
SUCCESS, FAILURE, WRONG_USE = 0, 1, 2


class Program(click.Group):
    """The group of all commands. It ends the process with one of the three exit codes."""

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        *,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command. Without `standalone_mode` nothing is caught."""
        if not standalone_mode:
            return super().main(args, prog_name, standalone_mode=False, **extra)
        with _log_on_stderr():
            code = self._run(args, prog_name, **extra)
        sys.exit(code)

    def _run(self, args: Sequence[str] | None, prog_name: str | None, **extra: Any) -> int:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                # A terminal that lacks a letter shows a question mark.
                stream.reconfigure(errors="replace")
        try:
            result = super().main(args, prog_name, standalone_mode=False, **extra)
            sys.stdout.flush()
        except Exception as error:  # noqa: BLE001 - whatever it is, a person gets one line
            return _report(error)
        return result if isinstance(result, int) else SUCCESS

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """In the order in which a newcomer meets them."""
        return list(self.commands)


def _report(error: Exception) -> int:
    """Say what went wrong; the exit code."""
    logger.info("%s", error, exc_info=error)
    if isinstance(error, click.Abort):
        return FAILURE
    if isinstance(error, BrokenPipeError):
        _forget_output()
        return FAILURE
    if isinstance(error, click.UsageError):
        return _fail(f"{error.format_message().rstrip('.')}{_help_hint(error.ctx)}", WRONG_USE)
    if isinstance(error, click.ClickException):
        return _fail(error.format_message(), FAILURE)
    if isinstance(error, ValidationError):
        return _fail(str(error), WRONG_USE)
    if isinstance(error, DatabaseError):
        return _fail(str(error), FAILURE)
    if isinstance(error, OSError):
        return _fail(_os_error(error), FAILURE)
    return _fail(f"unexpected {type(error).__name__}: {error} (-v shows where)", FAILURE)


def _fail(message: str, code: int) -> int:
    with suppress(OSError):
        click.echo(f"error: {' '.join(message.split())}", err=True)
    return code


def _help_hint(context: click.Context | None) -> str:
    return f" (see '{context.command_path} --help')" if context else ""


def _os_error(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def _forget_output() -> None:
    """Nobody reads on; the interpreter must not try once more when it ends."""
    with suppress(Exception):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """What the package logs goes to stderr where `-v` asks for it, and nowhere else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.CRITICAL)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


@click.group(
    "hopper-data",
    cls=Program,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="The database is the one of --url, else of DATABASE_URL, else sqlite:///./hopper.db.",
)
@click.version_option(__version__, prog_name="hopper-data")
@common_options
@click.pass_context
def main(context: click.Context) -> None:
    """The Hopper database, on SQLite or on PostgreSQL.

    Try "hopper-data demo" first: it needs nothing.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for command in (
    demo_command,
    migrate_command,
    rollback_command,
    status_command,
    check_command,
    seed_command,
    reset_command,
    import_command,
    export_command,
    stats_command,
    worker_command,
    queue_command,
    tail_command,
    plan_group,
    info_command,
    health_command,
):
    main.add_command(command)
