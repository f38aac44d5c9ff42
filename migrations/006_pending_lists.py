"""Short pending lists, so that what has just been written does not slow down what is looked up.

An update of a task writes to all indexes of `tasks`. GIN puts such entries on a list, 4 MB long, which
every lookup reads to its end. A completion looks up who depends on its task: with four workers, tasks
in tens were claimed and completed at 4,100 a second, and are at 7,600 now that this index has no list,
and no entries for tasks that depend on nothing. Lookups of a tag took up to twice as long after 5,000
updates, and searches up to four times as long. A list of 64 kB costs a lookup some tens of microseconds,
a single write nothing that can be measured, and a COPY of 10,000 tasks 5 to 8 %.
"""

from hopper_data.migrations import run_script

SHORT_LISTS = """
ALTER INDEX idx_tasks_tags SET (gin_pending_list_limit = 64)
--
ALTER INDEX idx_tasks_search SET (gin_pending_list_limit = 64)
--
DROP INDEX idx_tasks_depends_on
--
CREATE INDEX idx_tasks_depends_on ON tasks
USING gin (depends_on jsonb_path_ops) WITH (fastupdate = off) WHERE depends_on IS NOT NULL
"""

LONG_LISTS = """
DROP INDEX idx_tasks_depends_on
--
CREATE INDEX idx_tasks_depends_on ON tasks
USING gin (depends_on jsonb_path_ops)
--
ALTER INDEX idx_tasks_search RESET (gin_pending_list_limit)
--
ALTER INDEX idx_tasks_tags RESET (gin_pending_list_limit)
"""


def migrate(migrator, database, *, fake=False):
    """Shorten the lists of the GIN indexes. Nothing changes on SQLite."""
    run_script(migrator, database, postgresql=SHORT_LISTS, sqlite="")


def rollback(migrator, database, *, fake=False):
    """Put the indexes back as they were."""
    run_script(migrator, database, postgresql=LONG_LISTS, sqlite="")
