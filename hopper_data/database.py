"""The proxy that the models are bound to, and the databases it can stand for.

`proxy`, `connect()` and `using()` say which database the models mean; `create_database()` makes
one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import peewee

from hopper_data.base_database import Database
from hopper_data.config import DEFAULT_URL, MEMORY, Backend, DatabaseConfig, Environment
from hopper_data.errors import ValidationError
from hopper_data.postgresql_database import PostgresqlDatabase, cockroach_class
from hopper_data.sqlite_database import SqliteDatabase
from hopper_data.sqlite_files import path_of

__all__ = ["Database", "connect", "create_database", "enter", "leave", "proxy", "using"]


def create_database(
    url: str | DatabaseConfig | None = None, *, echo: bool = False, **settings: Any
) -> Database:
    """A database of its own: from a URL, from a `DatabaseConfig`, or as the environment says.

    `echo=True` logs every statement at INFO on the logger `hopper_data`; `settings` are fields of
    `DatabaseConfig`. No connection is opened yet.
    """
    if echo:
        settings["echo"] = True
    if isinstance(url, DatabaseConfig):
        config = replace(url, **settings)
    else:
        config = DatabaseConfig.from_env(url=url, **settings)
    parsed = config.parsed_url
    if parsed.backend is Backend.SQLITE:
        if parsed.in_memory:
            # One connection, in turns: a second one would see an empty database.
            config = replace(config, max_connections=1, pool_size=1)
        return SqliteDatabase(config, parsed)
    if parsed.backend is Backend.COCKROACHDB:
        return cockroach_class()(config, parsed)
    return PostgresqlDatabase(config, parsed)


# -- the proxy ------------------------------------------------------------------------------------

_current: ContextVar[tuple[Database, ...]] = ContextVar("hopper_data_databases", default=())
_default_lock = threading.Lock()


class ContextProxy(peewee.DatabaseProxy):
    """Stands for the database of the present context, and for the default one outside of any.

    `using()` and every session set the context's database, so that two threads, or two tasks of
    an event loop, work on two databases with the same models.
    """

    __slots__ = ("_default", "_implicit_key")

    def __init__(self) -> None:
        self._callbacks: list[Any] = []
        self._default: Database | None = None
        self._implicit_key: tuple[str | None, ...] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def obj(self) -> Database:
        open_here = _current.get()
        return open_here[-1] if open_here else self.default

    @property
    def default(self) -> Database:
        """The database of `connect()`; without one, of the environment as it is now."""
        if self._default is not None and self._implicit_key is None:
            return self._default
        key = _environment_key()
        with _default_lock:
            if self._default is None or self._implicit_key not in (None, key):
                previous, self._default = self._default, create_database()
                self._implicit_key = key
                if previous is not None:
                    previous.close_idle()
            return self._default

    def initialize(self, obj: Database | None) -> None:
        with _default_lock:
            previous, self._default = self._default, obj
            self._implicit_key = None
        if previous is not None and previous is not obj:
            previous.close_pool()

    def atomic(self, *args: Any, **kwargs: Any) -> Any:
        return self.obj.atomic(*args, **kwargs)

    def transaction(self, *args: Any, **kwargs: Any) -> Any:
        return self.obj.transaction(*args, **kwargs)

    def savepoint(self) -> Any:
        return self.obj.savepoint()

    def manual_commit(self) -> Any:
        return self.obj.manual_commit()

    def connection_context(self) -> Any:
        return self.obj.connection_context()


def _unlock_after_fork() -> None:
    global _default_lock
    _default_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_after_fork)


def _environment_key() -> tuple[str | None, ...]:
    get = os.environ.get
    url, environment = get("DATABASE_URL"), get("HOPPER_ENV")
    path = (url or ("" if environment == Environment.TEST else DEFAULT_URL)).partition(":///")[2]
    # A file of a relative name is another one in another folder.
    relative = path and path != MEMORY and not path.startswith("/")
    folder = str(path_of("").absolute()) if relative else None
    return (url, environment, get("HOPPER_SLOW_QUERY_MS"), folder)


proxy = ContextProxy()


def connect(url: str | DatabaseConfig | None = None, **settings: Any) -> Database:
    """Point the proxy at a database for the whole process, and return that database.

    Without a URL it is the environment's, read now. Opens no connection. Connections to the
    database that the proxy stood for before are closed as they come back.
    """
    database = create_database(url, **settings)
    proxy.initialize(database)
    return database


@contextmanager
def using(database: Database) -> Iterator[Database]:
    """Point the proxy at `database` inside a `with` block, for this thread or task alone."""
    if not isinstance(database, Database):
        raise ValidationError(
            f"using() takes a database from create_database(), not {type(database).__name__}",
            "database",
        )
    enter(database)
    was_closed = database.is_closed()
    try:
        yield database
    finally:
        leave(database)
        if was_closed and not database.in_transaction():
            database.release()


def enter(database: Database) -> None:
    """Point the proxy at `database`, until `leave()`, for this thread or task alone."""
    _current.set((*_current.get(), database))


def leave(database: Database) -> None:
    """Point the proxy at what it stood for before `enter()`."""
    open_here = _current.get()
    if open_here and open_here[-1] is database:
        _current.set(open_here[:-1])
        return
    # Blocks may end in another order than they began in, and a generator in another context.
    if database not in open_here:
        return
    last = len(open_here) - 1 - open_here[::-1].index(database)
    _current.set(open_here[:last] + open_here[last + 1 :])
