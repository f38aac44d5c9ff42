"""The options that every command has, and the database that they name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from hopper_data.config import DatabaseConfig
from hopper_data.database import Database, create_database, using
from hopper_data.errors import DatabaseNotFound

__all__ = ["Settings", "common_options", "settings"]

_SHOW_STATEMENTS = 2
C = TypeVar("C", bound=Callable[..., Any])


@dataclass
class Settings:
    """What the options say. Each may stand before the name of the command as well as behind it."""

    url: str | None = None
    as_json: bool = False
    verbose: int = 0

    @contextmanager
    def database(self, *, must_exist: bool = True) -> Iterator[Database]:
        """The database that the command is about; its connections are closed at the end.

        A SQLite file that is not there is made only without `must_exist`.
        """
        config = DatabaseConfig.from_env(
            url=self.url, must_exist=must_exist, echo=self.verbose >= _SHOW_STATEMENTS
        )
        database = create_database(config)
        try:
            with using(database):
                yield database
        except DatabaseNotFound as error:
            if not must_exist:
                raise
            raise DatabaseNotFound(f"{error}; `hopper-data migrate` makes one") from error
        finally:
            database.close_pool()


def settings() -> Settings:
    """The settings of the command that is running."""
    return click.get_current_context().ensure_object(Settings)


def common_options(command: C) -> C:
    """Give a command `--url`, `--json` and `-v`."""
    for option in (_verbose, _json, _url):
        command = option(command)
    return command


def _note(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value:
        setattr(context.ensure_object(Settings), str(parameter.name), value)


def _note_verbose(context: click.Context, parameter: click.Parameter, value: int) -> None:
    _note(context, parameter, value)
    if value:
        logging.getLogger("hopper_data").setLevel(logging.INFO)


_url = click.option(
    "--url",
    metavar="URL",
    expose_value=False,
    callback=_note,
    help="The database, in place of DATABASE_URL.",
)
_json = click.option(
    "--json",
    "as_json",
    is_flag=True,
    expose_value=False,
    callback=_note,
    help="Print JSON.",
)
_verbose = click.option(
    "-v",
    "--verbose",
    count=True,
    expose_value=False,
    callback=_note_verbose,
    help="Log to stderr; twice, also the statements.",
)
