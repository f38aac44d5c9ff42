"""Writes docs/schema.md from the models.

    python docs/generate_schema.py            write the file
    python docs/generate_schema.py --check    exit code 1 when the file is not what the models say

Both backends are asked for their own words, PostgreSQL without a server: the models know how each
of their columns, constraints and indexes is written.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import peewee

from hopper_data.config import DatabaseConfig
from hopper_data.database import Database, create_database, using
from hopper_data.fields import EnumField, UTCDateTimeField
from hopper_data.maintenance import all_models
from hopper_data.model import BaseModel
from hopper_data.rowsets import table_name

FILE = Path(__file__).with_name("schema.md")

INTRODUCTION = """\
# Schema

This page is written by `make docs` from the models; do not edit it.

- Text columns of PostgreSQL have the collation `C`, so that they sort by code point, as on SQLite.
- Moments are `TIMESTAMPTZ` on PostgreSQL. On SQLite they are text of a fixed width in UTC,
  `2026-01-02 03:04:05.000006+00:00`, which sorts as time does.
- JSON is `JSONB` on PostgreSQL and JSON text on SQLite; a boolean is 0 or 1 on SQLite.
- *Default* is what the database fills in. A default in *italics* is filled in by the package alone.
- `migratehistory` (id, name, migrated_at) is the table of peewee-migrate: which migrations the
  database has.
"""

DOMAINS = {
    "routing": "The Hopper task router: tasks, where they can go, and why they went there.",
    "planning": "Epics, features, tasks and the history of each task.",
    "chat": "Users, conversations, messages and MCP configurations.",
}


class Dialect:
    """What one backend says about the models."""

    def __init__(self, url: str) -> None:
        self.database: Database = create_database(DatabaseConfig(url=url))
        self.name = self.database.dialect

    def sql(self, node: Any) -> str:
        """A node of Peewee as text."""
        context = self.database.get_sql_context()
        sql, parameters = context.sql(node).query()
        for value in parameters:
            shown = f"'{value}'" if isinstance(value, str) else str(value)
            sql = sql.replace(self.database.param, shown, 1)
        return one_line(sql)

    def table(self, model: type[BaseModel]) -> str:
        """The name of a model's table."""
        return table_name(model, self.database).replace('"', "")

    def type(self, field: Any) -> str:
        """The type of a column."""
        with using(self.database):
            return self.sql(field.ddl_datatype(self.database.get_sql_context())).replace(
                ' COLLATE "C"', ""
            )

    def indexes(self, model: type[BaseModel]) -> dict[str, str]:
        """The indexes of a table: names and definitions."""
        with using(self.database):
            statements = [
                self.sql(peewee.SQL(*context.query()))
                for context in model._schema._create_indexes(safe=False)
            ]
            statements += self.extras(model)
        found = {}
        for statement in statements:
            match = _INDEX.match(statement.replace('"', ""))
            if match and match["on"] == self.table(model):
                method = "" if match["method"] in (None, "btree") else f"{match['method']} "
                unique = "unique " if match["unique"] else ""
                found[match["name"]] = f"{unique}{method}{match['rest']}"
        return found

    def extras(self, model: type[BaseModel]) -> list[str]:
        """The statements for what belongs to a table and is no column of the model."""
        return [
            one_line(statement)
            for item in model._meta.objects
            for statement in item.create(self.name)
        ]


_INDEX = re.compile(
    r"CREATE (?P<unique>UNIQUE )?INDEX (?:IF NOT EXISTS )?(?P<name>\S+) ON (?P<on>\S+)"
    r"(?: USING (?P<method>\w+))? ?(?P<rest>.*)"
)


def one_line(sql: str) -> str:
    """SQL without line breaks."""
    return re.sub(r"\s+", " ", sql).strip()


def render() -> str:
    """The whole page."""
    dialects = (Dialect("postgresql:///hopper"), Dialect("sqlite:///:memory:"))
    parts = [INTRODUCTION]
    for domain, models in groupby(all_models(), key=domain_of):
        parts.extend(render_domain(domain, list(models), dialects))
    return "\n".join(parts)


def domain_of(model: type[BaseModel]) -> str:
    """The domain that a model belongs to."""
    return model.__module__.split(".")[1]


def render_domain(
    domain: str, models: list[type[BaseModel]], dialects: tuple[Dialect, Dialect]
) -> Iterator[str]:
    """The chapter of one domain."""
    yield f"## {domain.capitalize()}\n\n{DOMAINS[domain]}\n"
    yield "```mermaid\nerDiagram"
    for model in models:
        yield from diagram_table(model, dialects)
    for model in models:
        yield from diagram_relations(model, dialects[1])
    yield "```\n"
    for model in models:
        yield from render_table(model, dialects)


# -- diagram --------------------------------------------------------------------------------------


def diagram_table(model: type[BaseModel], dialects: tuple[Dialect, Dialect]) -> Iterator[str]:
    """A table of the diagram: PostgreSQL's types, which say more, and names without a dot."""
    yield f"    {dialects[1].table(model)} {{"
    for field in model._meta.sorted_fields:
        marks = ", ".join(diagram_marks(field))
        kind = dialects[0].type(field).lower().replace(" ", "_")
        yield f"        {kind} {field.column_name} {marks}".rstrip()
    yield "    }"


def diagram_marks(field: Any) -> Iterator[str]:
    """The keys that a column is part of."""
    if field.name in key_names(field.model):
        yield "PK"
    if isinstance(field, peewee.ForeignKeyField):
        yield "FK"
    if is_unique(field):
        yield "UK"


def key_names(model: type[BaseModel]) -> list[str]:
    """The fields of the primary key. Names, since fields that are compared make SQL."""
    return [field.name for field in model._meta.get_primary_keys()]


def is_unique(field: Any) -> bool:
    """Whether one index on this column alone is unique."""
    return any(
        getattr(index, "_unique", False)
        and [getattr(item, "name", None) for item in index._expressions] == [field.name]
        for index in field.model._meta.fields_to_index()
    )


def diagram_relations(model: type[BaseModel], dialect: Dialect) -> Iterator[str]:
    """The foreign keys of a table, as lines of the diagram."""
    for field in model._meta.refs:
        alone = key_names(model) == [field.name] or is_unique(field)
        parent = "|o" if field.null else "||"
        child = "o|" if alone else "o{"
        yield (
            f"    {dialect.table(field.rel_model)} {parent}--{child} {dialect.table(model)} : "
            f"{field.column_name}"
        )


# -- tables ---------------------------------------------------------------------------------------


def render_table(model: type[BaseModel], dialects: tuple[Dialect, Dialect]) -> Iterator[str]:
    """The section of one table."""
    names = list(dict.fromkeys(dialect.table(model) for dialect in dialects))
    title = " · ".join(f"`{name}`" for name in names)
    yield f"### {title}\n"
    if len(names) == 2:
        yield f"`{names[0]}` on PostgreSQL, `{names[1]}` on SQLite.\n"
    yield f"{model.__name__}: {(model.__doc__ or '').splitlines()[0]}\n"
    yield "| column | PostgreSQL | SQLite | null | default |"
    yield "|---|---|---|---|---|"
    for field in model._meta.sorted_fields:
        yield render_column(field, dialects)
    yield ""
    yield from bullets("Keys and rules", rules(model, dialects))
    yield from bullets("Indexes", indexes(model, dialects))
    yield from bullets("Transitions", transitions(model))
    yield from bullets("Beside the columns", beside(model, dialects))


def bullets(title: str, lines: Iterable[str]) -> Iterator[str]:
    """A titled list, unless it is empty."""
    items = list(lines)
    if items:
        yield f"{title}:\n"
        yield from (f"- {item}" for item in items)
        yield ""


def render_column(field: Any, dialects: tuple[Dialect, Dialect]) -> str:
    """The row of one column."""
    types = " | ".join(f"`{dialect.type(field)}`" for dialect in dialects)
    null = "yes" if field.null else "no"
    return f"| `{field.column_name}` | {types} | {null} | {default(field)} |"


def default(field: Any) -> str:
    """The default of a column."""
    if field.server_default:
        now = isinstance(field, UTCDateTimeField)
        return "now" if now else f"`{field.default_sql('postgresql')}`"
    if field.default is None:
        return "a number" if isinstance(field, peewee.AutoField) else ""
    if callable(field.default):
        return f"*{default_word(field)}*"
    return f"*`{field.default}`*"


def default_word(field: Any) -> str:
    """What a default that is made anew for each row is like."""
    made = field.default()
    if isinstance(made, list | dict):
        return f"`{made}`"
    return str(getattr(field.default, "__name__", "made")).replace("_", " ")


def rules(model: type[BaseModel], dialects: tuple[Dialect, Dialect]) -> Iterator[str]:
    """The primary key, the foreign keys and the CHECKs."""
    meta: Any = model._meta
    yield f"primary key ({', '.join(field.column_name for field in meta.get_primary_keys())})"
    for field in meta.refs:
        then = f", on delete {field.on_delete.lower()}" if field.on_delete else ""
        yield (
            f"`{field.constraint_name}`: {field.column_name} → "
            f"{dialects[1].table(field.rel_model)}.{field.rel_field.column_name}{then}"
        )
    for node in [
        *(item for field in meta.sorted_fields for item in field.constraints or ()),
        *(meta.constraints or ()),
    ]:
        texts = list(dict.fromkeys(dialect.sql(node) for dialect in dialects))
        for text in texts:
            where = f" ({backend_name(dialects[texts.index(text)])})" if len(texts) > 1 else ""
            match = re.fullmatch(r'CONSTRAINT "?(\w+)"? (.*)', text)
            yield (f"`{match[1]}`: `{match[2]}`{where}" if match else f"`{text}`{where}").replace(
                '"', ""
            )


def backend_name(dialect: Dialect) -> str:
    """The name of a backend as people write it."""
    return "PostgreSQL" if dialect.name == "postgresql" else "SQLite"


def indexes(model: type[BaseModel], dialects: tuple[Dialect, Dialect]) -> Iterator[str]:
    """The indexes, those of one backend marked so."""
    found = [dialect.indexes(model) for dialect in dialects]
    for name in dict.fromkeys([*found[0], *found[1]]):
        texts = [index.get(name) for index in found]
        if texts[0] == texts[1]:
            yield f"`{name}`: `{texts[0]}`"
            continue
        for dialect, text in zip(dialects, texts, strict=True):
            if text is not None:
                yield f"`{name}`: `{text}` ({backend_name(dialect)})"


def transitions(model: type[BaseModel]) -> Iterator[str]:
    """What may follow what."""
    for field in model._meta.sorted_fields:
        if isinstance(field, EnumField) and field.transitions:
            for old, allowed in field.transitions.items():
                then = ", ".join(f"`{new}`" for new in allowed) or "(none)"
                yield f"{field.column_name} `{old}` → {then}"


def beside(model: type[BaseModel], dialects: tuple[Dialect, Dialect]) -> Iterator[str]:
    """Tables, triggers, functions and columns that only the database knows of."""
    for dialect in dialects:
        for statement in dialect.extras(model):
            thing = described(statement, dialect.table(model))
            if thing:
                yield f"{backend_name(dialect)}: {thing}"


_MADE = re.compile(
    r"CREATE (?:OR REPLACE )?(?P<virtual>VIRTUAL )?(?P<kind>TABLE|TRIGGER|FUNCTION) "
    r"(?P<name>[\w.]+)(?: USING (?P<module>\w+))? ?(?P<rest>.*)"
)


def described(statement: str, table: str) -> str | None:
    """What a statement makes, in words; None for an index of `table`, which has its own list."""
    text = statement.replace('"', "").replace("IF NOT EXISTS ", "")
    text = text.replace("( ", "(").replace(" )", ")")
    column = re.match(r"ALTER TABLE (\S+) ADD COLUMN (\S+) (\S+)( GENERATED)?", text)
    if column:
        return f"{'generated ' if column[4] else ''}column `{column[2]}` (`{column[3]}`)"
    index = _INDEX.match(text)
    if index and index["on"] != table:
        return f"index `{index['name']}` on {index['on']} `{index['rest']}`"
    made = _MADE.match(text)
    if made is None:
        return None
    if made["kind"] == "TRIGGER":
        when = re.match(r"(?:BEFORE|AFTER) .*? ON \S+", made["rest"])
        return f"trigger `{made['name']}`{f' {when[0].lower()}' if when else ''}"
    if made["kind"] == "FUNCTION":
        return f"function `{made['name']}`"
    kind = f"{made['module'].upper()} table" if made["virtual"] else "table"
    return f"{kind} `{made['name']}` `{made['rest']}`"


def main(arguments: list[str]) -> int:
    """Write the page, or compare it."""
    text = render()
    if "--check" in arguments:
        return int(not FILE.exists() or FILE.read_text(encoding="utf-8") != text)
    FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
