"""Commands about where the database is, and how it is: info, health."""

from __future__ import annotations

from typing import Any

import click

from hopper_data import __version__
from hopper_data.cli.options import common_options, settings
from hopper_data.cli.output import console, details, show, size
from hopper_data.errors import DatabaseUnavailable
from hopper_data.maintenance import get_database_health, get_database_info
from hopper_data.migrations import get_schema_version, migration_names, refuse_newer

__all__ = ["health_command", "info_command"]


@click.command("info")
@common_options
def info_command() -> None:
    """Show which database this is, and its schema version."""
    with settings().database() as database:
        refuse_newer(database, migration_names())
        data = {
            **get_database_info(database),
            "schema_version": get_schema_version(database),
            "head": migration_names()[-1],
            "hopper_data": __version__,
        }
    show(data, lambda: _print_info(data))


def _print_info(data: dict[str, Any]) -> None:
    names = {
        "url": "Database",
        "type": "Type",
        "async_url": "For asyncio",
        "environment": "Environment",
        "schema_version": "Schema version",
        "head": "Newest known",
        "hopper_data": "hopper_data",
    }
    console().print(details({names[key]: value for key, value in data.items()}))


@click.command("health")
@common_options
def health_command() -> None:
    """Ask the database how it is; fail when it does not answer."""
    with settings().database() as database:
        data = get_database_health(database)
    show(data, lambda: _print_health(data))
    if not data["reachable"]:
        raise DatabaseUnavailable(data["error"])


def _print_health(data: dict[str, Any]) -> None:
    if not data["reachable"]:
        return
    pool = data["pool"]
    oldest = data["oldest_transaction_s"]
    shown = {
        "Database": data["url"],
        "Answered in": f"{data['latency_ms']:g} ms",
        "Server": data["server_version"],
        "Schema version": data["schema_version"],
        "Pending": ", ".join(data["pending_migrations"]) or "nothing",
        "Size": size(data["size_bytes"]),
        "Connections": f"{pool['in_use']} in use, {pool['idle']} idle, {pool['max']} at most",
        "Oldest transaction": None if oldest is None else f"{oldest:g} s",
    }
    console().print(details(shown))
