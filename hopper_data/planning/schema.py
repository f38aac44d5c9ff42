"""What the planning tables have beyond columns, as SQL for both backends side by side.

A released migration has its own copy of these statements; `hopper-data check` fails when the two
no longer say the same.
"""

from __future__ import annotations

from hopper_data.model import SchemaObject

__all__ = ["moves_updated_at"]


def moves_updated_at(table: str) -> SchemaObject:
    """The trigger that moves `updated_at` of a table on, when an UPDATE does not do so itself.

    It moves by a microsecond at least, also where the clock stands still or has gone back.
    """
    name = f"{table}_updated_at"
    return SchemaObject(
        name,
        # A trigger of SQLite cannot change the row that is about to be written. The UPDATE below
        # changes `updated_at`, and so does not fire the trigger again. Seconds are read apart from
        # their fraction, which strftime() would round up.
        sqlite=(
            f"""CREATE TRIGGER IF NOT EXISTS {name} AFTER UPDATE ON {table}
        WHEN new.updated_at IS old.updated_at BEGIN
            UPDATE {table} SET updated_at = (
                SELECT strftime('%Y-%m-%d %H:%M:%S', moment / 1000000, 'unixepoch')
                    || printf('.%06d+00:00', moment % 1000000)
                FROM (SELECT max(
                    strftime('%s', 'now') * 1000000 + substr(strftime('%f', 'now'), 4) * 1000,
                    coalesce(strftime('%s', substr(old.updated_at, 1, 19)) * 1000000
                        + substr(old.updated_at, 21, 6) + 1, 0)
                ) AS moment)
            ) WHERE id = new.id;
        END""",
        ),
        postgresql=(
            f"""CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            NEW.updated_at := greatest(
                clock_timestamp(), OLD.updated_at + interval '1 microsecond');
            RETURN NEW;
        END $$""",
            f"""CREATE OR REPLACE TRIGGER {name} BEFORE UPDATE ON {table} FOR EACH ROW
        WHEN (NEW.updated_at IS NOT DISTINCT FROM OLD.updated_at)
        EXECUTE FUNCTION {name}()""",
        ),
        drop_postgresql=(f"DROP FUNCTION IF EXISTS {name}()",),
    )
