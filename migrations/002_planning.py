"""The planning domain: epics, features, tasks and the history of tasks."""

from hopper_data.migrations import run_script

UP_POSTGRESQL = r"""
CREATE TABLE "planning_epics" (
    "id" SERIAL NOT NULL PRIMARY KEY,
    "key" TEXT COLLATE "C" NOT NULL CONSTRAINT "ck_planning_epics_key" CHECK (length("key") = 3 AND substr("key", 1, 1) = 'E' AND ltrim(substr("key", 2, 2), '0123456789') = ''),
    "title" TEXT COLLATE "C" NOT NULL,
    "description" TEXT COLLATE "C",
    "status" VARCHAR(50) COLLATE "C" DEFAULT 'draft' NOT NULL CONSTRAINT "ck_planning_epics_status" CHECK ("status" IN ('draft', 'active', 'completed', 'archived')),
    "priority" VARCHAR(50) COLLATE "C" DEFAULT 'medium' NOT NULL CONSTRAINT "ck_planning_epics_priority" CHECK ("priority" IN ('low', 'medium', 'high')),
    "business_value" VARCHAR(50) COLLATE "C" CONSTRAINT "ck_planning_epics_business_value" CHECK ("business_value" IN ('low', 'medium', 'high')),
    "created_at" TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP NOT NULL,
    "updated_at" TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP NOT NULL
)
--
CREATE UNIQUE INDEX "idx_planning_epics_key" ON "planning_epics" ("key")
--
CREATE FUNCTION planning_epics_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := greatest(
        clock_timestamp(), OLD.updated_at + interval '1 microsecond');
    RETURN NEW;
END $$
--
CREATE TRIGGER planning_epics_updated_at BEFORE UPDATE ON planning_epics FOR EACH ROW
WHEN (NEW.updated_at IS NOT DISTINCT FROM OLD.updated_at)
EXECUTE FUNCTION planning_epics_updated_at()
--
CREATE TABLE "planning_features" (
    "id" SERIAL NOT NULL PRIMARY KEY,
    "epic_id" INTEGER NOT NULL,
    "key" TEXT COLLATE "C" NOT NULL CONSTRAINT "ck_planning_features_key" CHECK (length("key") = 7 AND substr("key", 1, 1) = 'E' AND substr("key", 4, 2) = '-F' AND ltrim(substr("key", 2, 2) || substr("key", 6, 2), '0123456789') = ''),
    "title" TEXT COLLATE "C" NOT NULL,
    "description" TEXT COLLATE "C",
    "status" VARCHAR(50) COLLATE "C" DEFAULT 'draft' NOT NULL CONSTRAINT "ck_planning_features_status" CHECK ("status" IN ('draft', 'active', 'completed', 'archived')),
    "progress_pct" DOUBLE PRECISION DEFAULT 0.0 NOT NULL CONSTRAINT "ck_planning_features_progress_pct" CHECK ("progress_pct" >= 0 AND "progress_pct" <= 100),
    "created_at" TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP NOT NULL,
    "updated_at" TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP NOT NULL,
    CONSTRAINT "fk_planning_features_epic_id" FOREIGN KEY ("epic_id") REFERENCES "planning_epics" ("id") ON DELETE CASCADE
)
--
CREATE UNIQUE INDEX "idx_planning_features_key" ON "planning_features" ("key")
--
CREATE INDEX "idx_planning_features_epic_id" ON "planning_features" ("epic_id")
--
CREATE FUNCTION planning_features_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := greatest(
        clock_timestamp(), OLD.updated_at + interval '1 microsecond');
    RETURN NEW;
END $$
--
CREATE TRIGGER planning_features_updated_at BEFORE UPDATE ON planning_features FOR EACH ROW
WHEN (NEW.updated_at IS NOT DISTINCT FROM OLD.updated_at)
EXECUTE FUNCTION planning_features_updated_at()
--
CREATE TABLE "planning_tasks" (
    "id" SERIAL NOT NULL PRIMARY KEY,
    "feature_id" INTEGER NOT NULL,
    "key" TEXT COLLATE "C" NOT NULL CONSTRAINT "ck_planning_tasks_key" CHECK (length("key") = 13 AND substr("key", 1, 3) = 'T-E' AND substr("key", 6, 2) = '-F' AND substr("key", 10, 1) = '-' AND ltrim(substr("key", 4, 2) || substr("key", 8, 2) || substr("key", 11, 3), '0123456789') = ''),
    "title" TEXT COLLATE "C" NOT NULL,
    "description" TEXT COLLATE "C",
    "status" VARCHAR(50) COLLATE "C" DEFAULT 'todo' NOT NULL CONSTRAINT "ck_planning_tasks_status" CHECK ("status" IN ('todo', 'in_progress', 'blocked', 'ready_for_review', 'completed', 'archived')),
    "agent_type" VARCHAR(50) COLLATE "C" CONSTRAINT "ck_planning_tasks_agent_type" CHECK ("agent_type" IN ('frontend', 'backend', 'api', 'testing', 'devops', 'general')),
    "priority" INTEGER DEFAULT 5 NOT NULL CONSTRAINT "ck_planning_tasks_priority" CHECK ("priority" >= 1 AND "priority" <= 10),
    "depends_on" JSONB DEFAULT '[]' NOT NULL CONSTRAINT "ck_planning_tasks_depends_on" CHECK (jsonb_typeof("depends_on") = 'array'),
    "assigned_agent" TEXT COLLATE "C",
    "file_path" TEXT COLLATE "C",
    "blocked_reason" TEXT COLLATE "C",
    "created_at" TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP NOT NULL,
    "started_at" TIMESTAMPTZ,
    "completed_at" TIMESTAMPTZ,
    "blocked_at" TIMESTAMPTZ,
    "updated_at" TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP NOT NULL,
    CONSTRAINT "fk_planning_tasks_feature_id" FOREIGN KEY ("feature_id") REFERENCES "planning_features" ("id") ON DELETE CASCADE
)
--
CREATE UNIQUE INDEX "idx_planning_tasks_key" ON "planning_tasks" ("key")
--
CREATE INDEX "idx_planning_tasks_feature_id" ON "planning_tasks" ("feature_id")
--
CREATE INDEX "idx_planning_tasks_status" ON "planning_tasks" ("status")
--
CREATE INDEX "idx_planning_tasks_agent_type" ON "planning_tasks" ("agent_type")
--
CREATE INDEX "idx_planning_tasks_status_priority" ON "planning_tasks" ("status", "priority")
--
CREATE FUNCTION planning_tasks_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := greatest(
        clock_timestamp(), OLD.updated_at + interval '1 microsecond');
    RETURN NEW;
END $$
--
CREATE TRIGGER planning_tasks_updated_at BEFORE UPDATE ON planning_tasks FOR EACH ROW
WHEN (NEW.updated_at IS NOT DISTINCT FROM OLD.updated_at)
EXECUTE FUNCTION planning_tasks_updated_at()
--
CREATE TABLE "planning_task_history" (
    "id" SERIAL NOT NULL PRIMARY KEY,
    "task_id" INTEGER NOT NULL,
    "old_status" VARCHAR(50) COLLATE "C" CONSTRAINT "ck_planning_task_history_old_status" CHECK ("old_status" IN ('todo', 'in_progress', 'blocked', 'ready_for_review', 'completed', 'archived')),
    "new_status" VARCHAR(50) COLLATE "C" NOT NULL CONSTRAINT "ck_planning_task_history_new_status" CHECK ("new_status" IN ('todo', 'in_progress', 'blocked', 'ready_for_review', 'completed', 'archived')),
    "agent" TEXT COLLATE "C",
    "notes" TEXT COLLATE "C",
    "timestamp" TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP NOT NULL,
    CONSTRAINT "fk_planning_task_history_task_id" FOREIGN KEY ("task_id") REFERENCES "planning_tasks" ("id") ON DELETE CASCADE
)
--
CREATE INDEX "idx_planning_task_history_task_id" ON "planning_task_history" ("task_id")
--
CREATE INDEX "idx_planning_task_history_timestamp" ON "planning_task_history" ("timestamp" DESC)
"""

UP_SQLITE = r"""
CREATE TABLE "planning_epics" (
    "id" INTEGER NOT NULL PRIMARY KEY,
    "key" TEXT NOT NULL CONSTRAINT "ck_planning_epics_key" CHECK (length("key") = 3 AND substr("key", 1, 1) = 'E' AND ltrim(substr("key", 2, 2), '0123456789') = ''),
    "title" TEXT NOT NULL,
    "description" TEXT,
    "status" VARCHAR(50) DEFAULT 'draft' NOT NULL CONSTRAINT "ck_planning_epics_status" CHECK ("status" IN ('draft', 'active', 'completed', 'archived')),
    "priority" VARCHAR(50) DEFAULT 'medium' NOT NULL CONSTRAINT "ck_planning_epics_priority" CHECK ("priority" IN ('low', 'medium', 'high')),
    "business_value" VARCHAR(50) CONSTRAINT "ck_planning_epics_business_value" CHECK ("business_value" IN ('low', 'medium', 'high')),
    "created_at" DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')) NOT NULL,
    "updated_at" DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')) NOT NULL
)
--
CREATE UNIQUE INDEX "idx_planning_epics_key" ON "planning_epics" ("key")
--
CREATE TRIGGER planning_epics_updated_at AFTER UPDATE ON planning_epics
WHEN new.updated_at IS old.updated_at BEGIN
    UPDATE planning_epics SET updated_at = (
        SELECT strftime('%Y-%m-%d %H:%M:%S', moment / 1000000, 'unixepoch')
            || printf('.%06d+00:00', moment % 1000000)
        FROM (SELECT max(
            strftime('%s', 'now') * 1000000 + substr(strftime('%f', 'now'), 4) * 1000,
            coalesce(strftime('%s', substr(old.updated_at, 1, 19)) * 1000000
                + substr(old.updated_at, 21, 6) + 1, 0)
        ) AS moment)
    ) WHERE id = new.id;
END
--
CREATE TABLE "planning_features" (
    "id" INTEGER NOT NULL PRIMARY KEY,
    "epic_id" INTEGER NOT NULL,
    "key" TEXT NOT NULL CONSTRAINT "ck_planning_features_key" CHECK (length("key") = 7 AND substr("key", 1, 1) = 'E' AND substr("key", 4, 2) = '-F' AND ltrim(substr("key", 2, 2) || substr("key", 6, 2), '0123456789') = ''),
    "title" TEXT NOT NULL,
    "description" TEXT,
    "status" VARCHAR(50) DEFAULT 'draft' NOT NULL CONSTRAINT "ck_planning_features_status" CHECK ("status" IN ('draft', 'active', 'completed', 'archived')),
    "progress_pct" REAL DEFAULT 0.0 NOT NULL CONSTRAINT "ck_planning_features_progress_pct" CHECK ("progress_pct" >= 0 AND "progress_pct" <= 100),
    "created_at" DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')) NOT NULL,
    "updated_at" DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')) NOT NULL,
    CONSTRAINT "fk_planning_features_epic_id" FOREIGN KEY ("epic_id") REFERENCES "planning_epics" ("id") ON DELETE CASCADE
)
--
CREATE UNIQUE INDEX "idx_planning_features_key" ON "planning_features" ("key")
--
CREATE INDEX "idx_planning_features_epic_id" ON "planning_features" ("epic_id")
--
CREATE TRIGGER planning_features_updated_at AFTER UPDATE ON planning_features
WHEN new.updated_at IS old.updated_at BEGIN
    UPDATE planning_features SET updated_at = (
        SELECT strftime('%Y-%m-%d %H:%M:%S', moment / 1000000, 'unixepoch')
            || printf('.%06d+00:00', moment % 1000000)
        FROM (SELECT max(
            strftime('%s', 'now') * 1000000 + substr(strftime('%f', 'now'), 4) * 1000,
            coalesce(strftime('%s', substr(old.updated_at, 1, 19)) * 1000000
                + substr(old.updated_at, 21, 6) + 1, 0)
        ) AS moment)
    ) WHERE id = new.id;
END
--
CREATE TABLE "planning_tasks" (
    "id" INTEGER NOT NULL PRIMARY KEY,
    "feature_id" INTEGER NOT NULL,
    "key" TEXT NOT NULL CONSTRAINT "ck_planning_tasks_key" CHECK (length("key") = 13 AND substr("key", 1, 3) = 'T-E' AND substr("key", 6, 2) = '-F' AND substr("key", 10, 1) = '-' AND ltrim(substr("key", 4, 2) || substr("key", 8, 2) || substr("key", 11, 3), '0123456789') = ''),
    "title" TEXT NOT NULL,
    "description" TEXT,
    "status" VARCHAR(50) DEFAULT 'todo' NOT NULL CONSTRAINT "ck_planning_tasks_status" CHECK ("status" IN ('todo', 'in_progress', 'blocked', 'ready_for_review', 'completed', 'archived')),
    "agent_type" VARCHAR(50) CONSTRAINT "ck_planning_tasks_agent_type" CHECK ("agent_type" IN ('frontend', 'backend', 'api', 'testing', 'devops', 'general')),
    "priority" INTEGER DEFAULT 5 NOT NULL CONSTRAINT "ck_planning_tasks_priority" CHECK ("priority" >= 1 AND "priority" <= 10),
    "depends_on" TEXT DEFAULT '[]' NOT NULL CONSTRAINT "ck_planning_tasks_depends_on" CHECK (json_valid("depends_on") AND json_type("depends_on") = 'array'),
    "assigned_agent" TEXT,
    "file_path" TEXT,
    "blocked_reason" TEXT,
    "created_at" DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')) NOT NULL,
    "started_at" DATETIME,
    "completed_at" DATETIME,
    "blocked_at" DATETIME,
    "updated_at" DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')) NOT NULL,
    CONSTRAINT "fk_planning_tasks_feature_id" FOREIGN KEY ("feature_id") REFERENCES "planning_features" ("id") ON DELETE CASCADE
)
--
CREATE UNIQUE INDEX "idx_planning_tasks_key" ON "planning_tasks" ("key")
--
CREATE INDEX "idx_planning_tasks_feature_id" ON "planning_tasks" ("feature_id")
--
CREATE INDEX "idx_planning_tasks_status" ON "planning_tasks" ("status")
--
CREATE INDEX "idx_planning_tasks_agent_type" ON "planning_tasks" ("agent_type")
--
CREATE INDEX "idx_planning_tasks_status_priority" ON "planning_tasks" ("status", "priority")
--
CREATE TRIGGER planning_tasks_updated_at AFTER UPDATE ON planning_tasks
WHEN new.updated_at IS old.updated_at BEGIN
    UPDATE planning_tasks SET updated_at = (
        SELECT strftime('%Y-%m-%d %H:%M:%S', moment / 1000000, 'unixepoch')
            || printf('.%06d+00:00', moment % 1000000)
        FROM (SELECT max(
            strftime('%s', 'now') * 1000000 + substr(strftime('%f', 'now'), 4) * 1000,
            coalesce(strftime('%s', substr(old.updated_at, 1, 19)) * 1000000
                + substr(old.updated_at, 21, 6) + 1, 0)
        ) AS moment)
    ) WHERE id = new.id;
END
--
CREATE TABLE "planning_task_history" (
    "id" INTEGER NOT NULL PRIMARY KEY,
    "task_id" INTEGER NOT NULL,
    "old_status" VARCHAR(50) CONSTRAINT "ck_planning_task_history_old_status" CHECK ("old_status" IN ('todo', 'in_progress', 'blocked', 'ready_for_review', 'completed', 'archived')),
    "new_status" VARCHAR(50) NOT NULL CONSTRAINT "ck_planning_task_history_new_status" CHECK ("new_status" IN ('todo', 'in_progress', 'blocked', 'ready_for_review', 'completed', 'archived')),
    "agent" TEXT,
    "notes" TEXT,
    "timestamp" DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')) NOT NULL,
    CONSTRAINT "fk_planning_task_history_task_id" FOREIGN KEY ("task_id") REFERENCES "planning_tasks" ("id") ON DELETE CASCADE
)
--
CREATE INDEX "idx_planning_task_history_task_id" ON "planning_task_history" ("task_id")
--
CREATE INDEX "idx_planning_task_history_timestamp" ON "planning_task_history" ("timestamp" DESC)
"""

DOWN_POSTGRESQL = """
DROP TABLE "planning_task_history"
--
DROP TABLE "planning_tasks"
--
DROP FUNCTION planning_tasks_updated_at()
--
DROP TABLE "planning_features"
--
DROP FUNCTION planning_features_updated_at()
--
DROP TABLE "planning_epics"
--
DROP FUNCTION planning_epics_updated_at()
"""

DOWN_SQLITE = """
DROP TABLE "planning_task_history"
--
DROP TABLE "planning_tasks"
--
DROP TABLE "planning_features"
--
DROP TABLE "planning_epics"
"""


def migrate(migrator, database, *, fake=False):
    """Create the tables."""
    run_script(migrator, database, postgresql=UP_POSTGRESQL, sqlite=UP_SQLITE)


def rollback(migrator, database, *, fake=False):
    """Drop them."""
    run_script(migrator, database, postgresql=DOWN_POSTGRESQL, sqlite=DOWN_SQLITE)
