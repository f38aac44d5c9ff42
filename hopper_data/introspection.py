"""What a database looks like, in words that two databases can be compared by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hopper_data.database import Database, using
from hopper_data.model import BaseModel

__all__ = ["Column", "Table", "compare", "describe"]


@dataclass(frozen=True)
class Column:
    """A column: its type, whether it may be NULL, its default and its generating expression."""

    type: str
    nullable: bool
    default: str | None = None
    generated: str | None = None

    def __str__(self) -> str:
        parts = [self.type, "NULL" if self.nullable else "NOT NULL"]
        if self.default is not None:
            parts.append(f"DEFAULT {self.default}")
        if self.generated is not None:
            parts.append(f"GENERATED {self.generated}")
        return " ".join(parts)


@dataclass
class Table:
    """A table. Constraints, indexes, triggers and functions map names to definitions.

    The functions are those that give rows of the table.
    """

    columns: dict[str, Column] = field(default_factory=dict)
    primary_key: tuple[str, ...] = ()
    constraints: dict[str, str] = field(default_factory=dict)
    indexes: dict[str, str] = field(default_factory=dict)
    triggers: dict[str, str] = field(default_factory=dict)
    functions: dict[str, str] = field(default_factory=dict)
    definition: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON-ready data."""
        return {
            "columns": {
                name: {
                    "type": column.type,
                    "nullable": column.nullable,
                    "default": column.default,
                    "primary_key": name in self.primary_key,
                }
                for name, column in self.columns.items()
            },
            "primary_key": list(self.primary_key),
            "constraints": dict(self.constraints),
            "indexes": dict(self.indexes),
            "triggers": dict(self.triggers),
        }


def describe(database: Database, namespaces: Iterable[str] = ()) -> dict[str, Table]:
    """Every table of the present schema, and of the schemas for further namespaces of models.

    SQLite's own tables are left out. Definitions do not say which schema a name belongs to, since
    that depends on the search path.
    """
    if database.dialect == "sqlite":
        return _describe_sqlite(database)
    present = database.execute_sql("SELECT current_schema()").fetchone()[0]
    schemas = {f"{database.schema_prefix}{name}": f"{name}." for name in namespaces}
    return _describe_postgresql(database, {**schemas, present: ""})


def compare(found: dict[str, Table], expected: dict[str, Table]) -> list[str]:
    """In which ways `found` is not as `expected`, a sentence each; further tables do not count."""
    differences: list[str] = []
    for name, table in expected.items():
        if name not in found:
            differences.append(f"table {name} is missing")
            continue
        differences.extend(_compare_table(name, found[name], table))
    return differences


def _compare_table(name: str, found: Table, expected: Table) -> Iterable[str]:
    for kind in ("columns", "constraints", "indexes", "triggers", "functions"):
        singular = "index" if kind == "indexes" else kind[:-1]
        has, wants = getattr(found, kind), getattr(expected, kind)
        for key in [*wants, *(key for key in has if key not in wants)]:
            if key not in has:
                yield f"table {name}: {singular} {key} is missing ({wants[key]})"
            elif key not in wants:
                yield f"table {name}: {singular} {key} is not in the models ({has[key]})"
            elif has[key] != wants[key]:
                yield (f"table {name}: {singular} {key} is {has[key]}; the models say {wants[key]}")
    if found.primary_key != expected.primary_key:
        yield (
            f"table {name}: the primary key is ({', '.join(found.primary_key)}); "
            f"the models say ({', '.join(expected.primary_key)})"
        )
    if found.definition != expected.definition:
        yield f"table {name} is {found.definition}; the models say {expected.definition}"


# -- SQLite ---------------------------------------------------------------------------------------

_SQL_TOKEN = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/ | [\w.]+ | [<>=!|]+ | \S""",
    re.VERBOSE | re.DOTALL,
)


def _sql_tokens(sql: str) -> list[str]:
    """The words and signs of SQL; all but texts in lower case, names without quotes."""
    tokens: list[str] = []
    for token in _SQL_TOKEN.findall(sql):
        if token.startswith(("--", "/*")):
            continue
        tokens.append(token if token.startswith("'") else token.strip('"').lower())
        if tokens[-3:] == ["if", "not", "exists"]:
            del tokens[-3:]
    return tokens


def _sql_text(tokens: Iterable[str]) -> str:
    return re.sub(r"(?<=\() | (?=[),;])", "", " ".join(tokens))


def normal_sql(sql: str) -> str:
    """SQL without what does not matter: white space, case, quotes around names, comments."""
    return _sql_text(_sql_tokens(sql))


def _enclosed(tokens: list[str], start: int) -> list[str]:
    """What stands inside the parentheses that open at `start`."""
    depth = 0
    for end in range(start, len(tokens)):
        depth += {"(": 1, ")": -1}.get(tokens[end], 0)
        if depth == 0:
            return tokens[start + 1 : end]
    return tokens[start + 1 :]


class _Definition:
    """What the text of a CREATE TABLE says, and no PRAGMA."""

    def __init__(self, sql: str) -> None:
        tokens = _sql_tokens(sql)
        start = tokens.index("(")
        body = _enclosed(tokens, start)
        self.options = _sql_text(tokens[start + len(body) + 2 :])
        self.collations: dict[str, str] = {}
        self.expressions: dict[str, str] = {}
        self.checks: dict[str, str] = {}
        for item in _split(body):
            self._read(item)

    def _read(self, item: list[str]) -> None:
        for place, word in enumerate(item[:-1]):
            following = item[place + 1]
            if word == "collate":
                self.collations[item[0]] = following
            elif word == "as" and following == "(":
                self.expressions[item[0]] = _sql_text(_enclosed(item, place + 1))
            elif word == "check" and following == "(":
                check = f"CHECK ({_sql_text(_enclosed(item, place + 1))})"
                named = place >= 2 and item[place - 2] == "constraint"
                self.checks[item[place - 1] if named else check] = check


def _split(tokens: list[str]) -> Iterator[list[str]]:
    """The parts between the commas outside of all parentheses."""
    depth = start = 0
    for place, word in enumerate(tokens):
        depth += {"(": 1, ")": -1}.get(word, 0)
        if word == "," and depth == 0:
            yield tokens[start:place]
            start = place + 1
    yield tokens[start:]


def _describe_sqlite(database: Database) -> dict[str, Table]:
    rows = database.execute_sql(
        "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
    ).fetchall()
    virtual = {name for kind, name, _, sql in rows if _is_virtual(kind, sql)}
    tables = {
        name: _sqlite_table(database, name, sql, is_virtual=name in virtual)
        for kind, name, _, sql in rows
        if kind == "table" and not _is_internal(name, virtual)
    }
    for kind, name, table, sql in rows:
        if kind == "index" and table in tables:
            tables[table].indexes[name] = normal_sql(sql)
        elif kind == "trigger" and table in tables:
            tables[table].triggers[name] = normal_sql(sql)
    return tables


def _is_virtual(kind: str, sql: str) -> bool:
    return kind == "table" and sql.upper().startswith("CREATE VIRTUAL")


def _is_internal(name: str, virtual: set[str]) -> bool:
    if name.startswith("sqlite_"):
        return True
    return any(name.startswith(f"{table}_") for table in virtual)


def _sqlite_table(database: Database, name: str, sql: str, *, is_virtual: bool) -> Table:
    if is_virtual:
        return Table(definition=normal_sql(sql))
    written = _Definition(sql)
    table = Table(definition=written.options or "a table")
    keys: list[tuple[int, str]] = []
    for _, column, kind, not_null, default, key, _ in database.execute_sql(
        f'PRAGMA table_xinfo("{name}")'
    ).fetchall():
        collation = written.collations.get(column.lower())
        typed = f"{kind.upper()} COLLATE {collation}" if collation else kind.upper()
        expression = written.expressions.get(column.lower())
        table.columns[column] = Column(typed, not not_null, default, expression)
        if key:
            keys.append((key, column))
    table.primary_key = tuple(column for _, column in sorted(keys))
    table.constraints = {**written.checks, **_sqlite_foreign_keys(database, name)}
    table.constraints |= _sqlite_uniques(database, name)
    return table


def _sqlite_foreign_keys(database: Database, name: str) -> dict[str, str]:
    groups: dict[int, list[Any]] = {}
    for row in database.execute_sql(f'PRAGMA foreign_key_list("{name}")').fetchall():
        groups.setdefault(row[0], []).append(row)
    keys = {}
    for rows in groups.values():
        columns = ", ".join(row[3] for row in rows)
        targets = ", ".join(str(row[4]) for row in rows)
        _, _, parent, _, _, on_update, on_delete, _ = rows[0]
        keys[f"fk_{name}_{columns}"] = (
            f"FOREIGN KEY ({columns}) REFERENCES {parent} ({targets}) "
            f"ON UPDATE {on_update} ON DELETE {on_delete}"
        )
    return keys


def _sqlite_uniques(database: Database, name: str) -> dict[str, str]:
    uniques = {}
    for _, index, _, origin, _ in database.execute_sql(f'PRAGMA index_list("{name}")').fetchall():
        if origin == "u":
            rows = database.execute_sql(f'PRAGMA index_info("{index}")').fetchall()
            columns = ", ".join(row[2] for row in rows)
            uniques[f"unique ({columns})"] = f"UNIQUE ({columns})"
    return uniques


# -- PostgreSQL -----------------------------------------------------------------------------------

_COLUMNS = """
    SELECT n.nspname, c.relname, a.attname,
        format_type(a.atttypid, a.atttypmod)
            || CASE WHEN co.collname IS NULL OR co.collname = 'default' THEN ''
                ELSE ' COLLATE ' || co.collname END,
        NOT a.attnotnull,
        pg_get_expr(d.adbin, d.adrelid) || coalesce((
            -- A generated column is what the functions are that it is made with.
            SELECT string_agg(
                format(' WITH %%s %%s', p.proname, md5(regexp_replace(p.prosrc, '\\s+', ' ', 'g'))),
                '' ORDER BY p.proname)
            FROM (
                SELECT DISTINCT refobjid FROM pg_depend
                WHERE classid = 'pg_attrdef'::regclass AND objid = d.oid
                    AND refclassid = 'pg_proc'::regclass
            ) AS used
            JOIN pg_proc AS p ON p.oid = used.refobjid
            WHERE p.pronamespace = c.relnamespace
        ), ''),
        a.attgenerated
    FROM pg_attribute AS a
    JOIN pg_class AS c ON c.oid = a.attrelid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    LEFT JOIN pg_collation AS co ON co.oid = a.attcollation
    WHERE n.nspname = ANY (%s) AND c.relkind IN ('r', 'p') AND a.attnum > 0
        AND NOT a.attisdropped
    ORDER BY n.nspname, c.relname, a.attnum"""

_CONSTRAINTS = """
    SELECT n.nspname, c.relname, k.conname, k.contype::text, pg_get_constraintdef(k.oid),
        ARRAY(
            SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS p(number, place)
            JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = p.number
            ORDER BY p.place
        )
    FROM pg_constraint AS k
    JOIN pg_class AS c ON c.oid = k.conrelid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY (%s) AND k.contype IN ('p', 'u', 'f', 'c', 'x')
    ORDER BY n.nspname, c.relname, k.conname"""

_INDEXES = """
    SELECT n.nspname, c.relname, i.relname, pg_get_indexdef(x.indexrelid)
    FROM pg_index AS x
    JOIN pg_class AS i ON i.oid = x.indexrelid
    JOIN pg_class AS c ON c.oid = x.indrelid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY (%s)
        AND NOT EXISTS (SELECT 1 FROM pg_constraint AS k WHERE k.conindid = x.indexrelid
            AND k.contype IN ('p', 'u', 'x'))
    ORDER BY n.nspname, c.relname, i.relname"""

_TRIGGERS = """
    SELECT n.nspname, c.relname, t.tgname, pg_get_triggerdef(t.oid) || ' AS ' || p.prosrc
    FROM pg_trigger AS t
    JOIN pg_class AS c ON c.oid = t.tgrelid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_proc AS p ON p.oid = t.tgfoid
    WHERE n.nspname = ANY (%s) AND NOT t.tgisinternal
    ORDER BY n.nspname, c.relname, t.tgname"""

_FUNCTIONS = """
    SELECT n.nspname, c.relname, p.proname,
        '(' || pg_get_function_identity_arguments(p.oid)
            || ') ' || coalesce(array_to_string(p.proconfig, ' '), '') || ' AS ' || p.prosrc
    FROM pg_proc AS p
    JOIN pg_class AS c ON c.reltype = p.prorettype
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY (%s) AND p.pronamespace = n.oid AND p.proretset
    ORDER BY n.nspname, c.relname, p.proname"""


_WORD = r"'(?:[^']|'')*'::character varying"
_CAST_LIST = re.compile(rf"\(\(ARRAY\[({_WORD}(?:, {_WORD})*)\]\)::text\[\]\)")


def _cast_items(match: re.Match[str]) -> str:
    """A list whose words are cast one by one, which is how it comes back from a dump."""
    return "(ARRAY[" + re.sub(_WORD, r"(\g<0>)::text", match[1]) + "])"


def _describe_postgresql(database: Database, schemas: Mapping[str, str]) -> dict[str, Table]:
    """`schemas` maps the names of schemas to what the names of their tables begin with."""
    qualifier = re.compile(rf"\b(?:{'|'.join(map(re.escape, schemas))})\.")
    tables: dict[str, Table] = {}

    def name_of(schema: str, table: str) -> str:
        return f"{schemas[schema]}{table}"

    def plain(definition: str) -> str:
        text = re.sub(r"\s+", " ", qualifier.sub("", definition)).strip()
        return _CAST_LIST.sub(_cast_items, text)

    def rows(sql: str) -> list[Any]:
        return list(database.execute_sql(sql, (list(schemas),)).fetchall())

    for schema, table, column, kind, nullable, expression, generated in rows(_COLUMNS):
        found = tables.setdefault(name_of(schema, table), Table())
        expression = None if expression is None else plain(expression)
        default, source = (None, expression) if generated else (expression, None)
        found.columns[column] = Column(kind, nullable, default, source)
    for schema, table, name, kind, definition, columns in rows(_CONSTRAINTS):
        found = tables[name_of(schema, table)]
        if kind == "p":
            found.primary_key = tuple(columns)
        else:
            found.constraints[name] = plain(definition)
    for schema, table, name, definition in rows(_INDEXES):
        tables[name_of(schema, table)].indexes[name] = plain(definition)
    for schema, table, name, definition in rows(_TRIGGERS):
        tables[name_of(schema, table)].triggers[name] = plain(definition)
    for schema, table, name, definition in rows(_FUNCTIONS):
        tables[name_of(schema, table)].functions[name] = plain(definition)
    return tables


def create_tables(database: Database, models: Iterable[type[BaseModel]]) -> None:
    """Create the tables of some models, parents first, with all that belongs to them."""
    with using(database):
        for model in models:
            model.create_table(safe=True)
