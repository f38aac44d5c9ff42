"""The routing domain: projects, tasks, instances, decisions, feedback and mappings."""

from hopper_data.migrations import run_script

UP_POSTGRESQL = r"""
CREATE TABLE "projects" (
    "name" VARCHAR(100) COLLATE "C" NOT NULL PRIMARY KEY,
    "slug" VARCHAR(100) COLLATE "C" NOT NULL,
    "repository" VARCHAR(500) COLLATE "C",
    "capabilities" JSONB,
    "tags" JSONB,
    "executor_type" VARCHAR(50) COLLATE "C",
    "executor_config" JSONB,
    "auto_claim" BOOLEAN DEFAULT FALSE NOT NULL,
    "priority_boost" JSONB,
    "velocity" VARCHAR(20) COLLATE "C",
    "sla" JSONB,
    "webhook_url" VARCHAR(500) COLLATE "C",
    "api_endpoint" VARCHAR(500) COLLATE "C",
    "sync_config" JSONB,
    "created_at" TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP NOT NULL,
    "created_by" VARCHAR(100) COLLATE "C",
    "last_sync" TIMESTAMPTZ
)
--
CREATE UNIQUE INDEX "idx_projects_slug" ON "projects" ("slug")
--
CREATE INDEX "idx_projects_executor_type" ON "projects" ("executor_type")
--
CREATE TABLE "tasks" (
    "id" VARCHAR(50) COLLATE "C" NOT NULL PRIMARY KEY,
    "title" VARCHAR(500) COLLATE "C" NOT NULL,
    "description" TEXT COLLATE "C",
    "project" VARCHAR(100) COLLATE "C",
    "status" VARCHAR(50) COLLATE "C" DEFAULT 'pending' NOT NULL CONSTRAINT "ck_tasks_status" CHECK ("status" IN ('pending', 'claimed', 'in_progress', 'blocked', 'completed', 'failed', 'cancelled')),
    "priority" VARCHAR(20) COLLATE "C" DEFAULT 'medium' NOT NULL CONSTRAINT "ck_tasks_priority" CHECK ("priority" IN ('low', 'medium', 'high', 'urgent')),
    "requester" VARCHAR(100) COLLATE "C",
    "owner" VARCHAR(100) COLLATE "C",
    "external_id" VARCHAR(100) COLLATE "C",
    "external_url" VARCHAR(500) COLLATE "C",
    "external_platform" VARCHAR(50) COLLATE "C",
    "source" VARCHAR(50) COLLATE "C",
    "conversation_id" VARCHAR(100) COLLATE "C",
    "context" TEXT COLLATE "C",
    "tags" JSONB,
    "required_capabilities" JSONB,
    "depends_on" JSONB,
    "blocks" JSONB,
    "routing_confidence" DOUBLE PRECISION CONSTRAINT "ck_tasks_routing_confidence" CHECK ("routing_confidence" >= 0 AND "routing_confidence" <= 1),
    "routing_reasoning" TEXT COLLATE "C",
    "feedback" JSONB,
    "created_at" TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP NOT NULL,
    "updated_at" TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP NOT NULL
)
--
CREATE INDEX idx_tasks_project ON tasks (project)
--
CREATE INDEX idx_tasks_status ON tasks (status)
--
CREATE INDEX idx_tasks_created_at ON tasks (created_at)
--
CREATE INDEX idx_tasks_project_newest ON tasks (project, created_at DESC, id)
--
CREATE INDEX idx_tasks_status_newest ON tasks (status, created_at DESC, id)
--
CREATE INDEX idx_tasks_project_status ON tasks (project, status, created_at DESC, id)
--
CREATE INDEX idx_tasks_owner_newest ON tasks (owner, created_at DESC, id)
--
CREATE INDEX idx_tasks_requester_newest ON tasks (requester, created_at DESC, id)
--
CREATE INDEX idx_tasks_unassigned ON tasks (created_at DESC, id) WHERE project IS NULL
--
CREATE INDEX idx_tasks_queue ON tasks ((CASE priority WHEN 'low' THEN 0 WHEN 'medium' THEN 1 WHEN 'high' THEN 2 WHEN 'urgent' THEN 3 END) DESC, created_at, id) WHERE status = 'pending'
--
CREATE INDEX idx_tasks_active ON tasks (project) WHERE status IN ('pending', 'claimed', 'in_progress', 'blocked')
--
CREATE INDEX idx_tasks_tags ON tasks USING gin (tags jsonb_path_ops)
--
CREATE INDEX idx_tasks_depends_on ON tasks USING gin (depends_on jsonb_path_ops)
--
ALTER TABLE tasks ADD COLUMN search_tsvector tsvector GENERATED ALWAYS AS (setweight(to_tsvector('simple', translate(regexp_replace(normalize(left(coalesce(title, ''), 100000), NFKD), E'[\u0300-\u036f]', '', 'g'), E'!"#$\x25&''()*+,-./:;<=>?@[\\]^_`{|}~“”‘’–—•·«»→←×', repeat(' ', 50))), 'A') || '_:1'::tsvector || setweight(to_tsvector('simple', translate(regexp_replace(normalize(left(coalesce(description, ''), 100000), NFKD), E'[\u0300-\u036f]', '', 'g'), E'!"#$\x25&''()*+,-./:;<=>?@[\\]^_`{|}~“”‘’–—•·«»→←×', repeat(' ', 50))), 'B') || '_:1'::tsvector || setweight(to_tsvector('simple', translate(regexp_replace(normalize(left(coalesce(context, ''), 100000), NFKD), E'[\u0300-\u036f]', '', 'g'), E'!"#$\x25&''()*+,-./:;<=>?@[\\]^_`{|}~“”‘’–—•·«»→←×', repeat(' ', 50))), 'C')) STORED
--
CREATE INDEX idx_tasks_search ON tasks USING gin (search_tsvector)
--
CREATE TABLE "hopper_instances" (
    "id" VARCHAR(100) COLLATE "C" NOT NULL PRIMARY KEY,
    "name" VARCHAR(100) COLLATE "C" NOT NULL,
    "scope" VARCHAR(50) COLLATE "C" NOT NULL CONSTRAINT "ck_hopper_instances_scope" CHECK ("scope" IN ('GLOBAL', 'PROJECT', 'ORCHESTRATION')),
    "parent_id" VARCHAR(100) COLLATE "C",
    "config" JSONB,
    "status" VARCHAR(50) COLLATE "C" DEFAULT 'active' NOT NULL CONSTRAINT "ck_hopper_instances_status" CHECK ("status" IN ('active', 'paused', 'terminated')),
    "description" TEXT COLLATE "C",
    "created_by" VARCHAR(100) COLLATE "C",
    "terminated_at" TIMESTAMPTZ,
    "created_at" TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP NOT NULL,
    "updated_at" TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP NOT NULL,
    CONSTRAINT "fk_hopper_instances_parent_id" FOREIGN KEY ("parent_id") REFERENCES "hopper_instances" ("id")
)
--
CREATE INDEX "idx_hopper_instances_parent_id" ON "hopper_instances" ("parent_id")
--
CREATE INDEX "idx_hopper_instances_scope_name" ON "hopper_instances" ("scope", "name")
--
CREATE INDEX "idx_hopper_instances_status" ON "hopper_instances" ("status")
--
CREATE TABLE "routing_decisions" (
    "task_id" VARCHAR(50) COLLATE "C" NOT NULL PRIMARY KEY,
    "project" VARCHAR(100) COLLATE "C",
    "confidence" DOUBLE PRECISION CONSTRAINT "ck_routing_decisions_confidence" CHECK ("confidence" >= 0 AND "confidence" <= 1),
    "reasoning" TEXT COLLATE "C",
    "alternatives" JSONB,
    "decided_by" VARCHAR(50) COLLATE "C",
    "decided_at" TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP NOT NULL,
    "decision_time_ms" DOUBLE PRECISION CONSTRAINT "ck_routing_decisions_decision_time_ms" CHECK ("decision_time_ms" >= 0),
    "workload_snapshot" JSONB,
    "context" JSONB,
    CONSTRAINT "fk_routing_decisions_task_id" FOREIGN KEY ("task_id") REFERENCES "tasks" ("id") ON DELETE CASCADE,
    CONSTRAINT "fk_routing_decisions_project" FOREIGN KEY ("project") REFERENCES "projects" ("name") ON DELETE SET NULL
)
--
CREATE INDEX idx_routing_decisions_project ON routing_decisions (project, decided_at DESC)
--
CREATE INDEX idx_routing_decisions_strategy ON routing_decisions (decided_by, decided_at DESC)
--
CREATE INDEX idx_routing_decisions_decided_at ON routing_decisions (decided_at DESC, task_id)
--
CREATE INDEX idx_routing_decisions_confidence ON routing_decisions (confidence, task_id)
--
CREATE TABLE "task_feedback" (
    "task_id" VARCHAR(50) COLLATE "C" NOT NULL PRIMARY KEY,
    "estimated_duration" VARCHAR(50) COLLATE "C",
    "actual_duration" VARCHAR(50) COLLATE "C",
    "complexity_rating" INTEGER CONSTRAINT "ck_task_feedback_complexity_rating" CHECK ("complexity_rating" >= 1 AND "complexity_rating" <= 10),
    "quality_score" DOUBLE PRECISION CONSTRAINT "ck_task_feedback_quality_score" CHECK ("quality_score" >= 0 AND "quality_score" <= 1),
    "required_rework" BOOLEAN,
    "rework_reason" TEXT COLLATE "C",
    "was_good_match" BOOLEAN,
    "should_have_routed_to" VARCHAR(100) COLLATE "C",
    "routing_feedback" TEXT COLLATE "C",
    "unexpected_blockers" JSONB,
    "required_skills_not_tagged" JSONB,
    "notes" TEXT COLLATE "C",
    "created_at" TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP NOT NULL,
    CONSTRAINT "fk_task_feedback_task_id" FOREIGN KEY ("task_id") REFERENCES "tasks" ("id") ON DELETE CASCADE
)
--
CREATE INDEX idx_task_feedback_created_at ON task_feedback (created_at DESC, task_id)
--
CREATE TABLE "external_mappings" (
    "task_id" VARCHAR(50) COLLATE "C" NOT NULL,
    "platform" VARCHAR(50) COLLATE "C" NOT NULL,
    "external_id" VARCHAR(100) COLLATE "C" NOT NULL,
    "external_url" VARCHAR(500) COLLATE "C",
    PRIMARY KEY ("task_id", "platform"),
    CONSTRAINT "fk_external_mappings_task_id" FOREIGN KEY ("task_id") REFERENCES "tasks" ("id") ON DELETE CASCADE
)
--
CREATE INDEX "idx_external_mappings_external" ON "external_mappings" ("platform", "external_id")
"""

UP_SQLITE = r"""
CREATE TABLE "projects" (
    "name" VARCHAR(100) NOT NULL PRIMARY KEY,
    "slug" VARCHAR(100) NOT NULL,
    "repository" VARCHAR(500),
    "capabilities" TEXT,
    "tags" TEXT,
    "executor_type" VARCHAR(50),
    "executor_config" TEXT,
    "auto_claim" INTEGER DEFAULT 0 NOT NULL,
    "priority_boost" TEXT,
    "velocity" VARCHAR(20),
    "sla" TEXT,
    "webhook_url" VARCHAR(500),
    "api_endpoint" VARCHAR(500),
    "sync_config" TEXT,
    "created_at" DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')) NOT NULL,
    "created_by" VARCHAR(100),
    "last_sync" DATETIME
)
--
CREATE UNIQUE INDEX "idx_projects_slug" ON "projects" ("slug")
--
CREATE INDEX "idx_projects_executor_type" ON "projects" ("executor_type")
--
CREATE TABLE "tasks" (
    "id" VARCHAR(50) NOT NULL PRIMARY KEY,
    "title" VARCHAR(500) NOT NULL,
    "description" TEXT,
    "project" VARCHAR(100),
    "status" VARCHAR(50) DEFAULT 'pending' NOT NULL CONSTRAINT "ck_tasks_status" CHECK ("status" IN ('pending', 'claimed', 'in_progress', 'blocked', 'completed', 'failed', 'cancelled')),
    "priority" VARCHAR(20) DEFAULT 'medium' NOT NULL CONSTRAINT "ck_tasks_priority" CHECK ("priority" IN ('low', 'medium', 'high', 'urgent')),
    "requester" VARCHAR(100),
    "owner" VARCHAR(100),
    "external_id" VARCHAR(100),
    "external_url" VARCHAR(500),
    "external_platform" VARCHAR(50),
    "source" VARCHAR(50),
    "conversation_id" VARCHAR(100),
    "context" TEXT,
    "tags" TEXT,
    "required_capabilities" TEXT,
    "depends_on" TEXT,
    "blocks" TEXT,
    "routing_confidence" REAL CONSTRAINT "ck_tasks_routing_confidence" CHECK ("routing_confidence" >= 0 AND "routing_confidence" <= 1),
    "routing_reasoning" TEXT,
    "feedback" TEXT,
    "created_at" DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')) NOT NULL,
    "updated_at" DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')) NOT NULL
)
--
CREATE INDEX idx_tasks_project ON tasks (project)
--
CREATE INDEX idx_tasks_status ON tasks (status)
--
CREATE INDEX idx_tasks_created_at ON tasks (created_at)
--
CREATE INDEX idx_tasks_project_newest ON tasks (project, created_at DESC, id)
--
CREATE INDEX idx_tasks_status_newest ON tasks (status, created_at DESC, id)
--
CREATE INDEX idx_tasks_project_status ON tasks (project, status, created_at DESC, id)
--
CREATE INDEX idx_tasks_owner_newest ON tasks (owner, created_at DESC, id)
--
CREATE INDEX idx_tasks_requester_newest ON tasks (requester, created_at DESC, id)
--
CREATE INDEX idx_tasks_unassigned ON tasks (created_at DESC, id) WHERE project IS NULL
--
CREATE INDEX idx_tasks_queue ON tasks ((CASE priority WHEN 'low' THEN 0 WHEN 'medium' THEN 1 WHEN 'high' THEN 2 WHEN 'urgent' THEN 3 END) DESC, created_at, id) WHERE status = 'pending'
--
CREATE INDEX idx_tasks_active ON tasks (project) WHERE status IN ('pending', 'claimed', 'in_progress', 'blocked')
--
CREATE TABLE task_tags (
    tag TEXT NOT NULL,
    task_id VARCHAR(50) NOT NULL
        REFERENCES tasks (id) ON DELETE CASCADE ON UPDATE CASCADE,
    PRIMARY KEY (tag, task_id)
) WITHOUT ROWID
--
CREATE INDEX idx_task_tags_task_id ON task_tags (task_id)
--
CREATE TRIGGER task_tags_insert AFTER INSERT ON tasks
WHEN new.tags IS NOT NULL BEGIN
    INSERT OR IGNORE INTO task_tags (tag, task_id)
    SELECT value, new.id FROM json_each(new.tags) WHERE type = 'text';
END
--
CREATE TRIGGER task_tags_update AFTER UPDATE OF tags ON tasks
WHEN new.tags IS NOT old.tags BEGIN
    DELETE FROM task_tags WHERE task_id = new.id;
    INSERT OR IGNORE INTO task_tags (tag, task_id)
    SELECT value, new.id FROM json_each(coalesce(new.tags, '[]')) WHERE type = 'text';
END
--
CREATE TABLE task_documents (
    id INTEGER NOT NULL PRIMARY KEY,
    task_id VARCHAR(50) NOT NULL UNIQUE
        REFERENCES tasks (id) ON DELETE CASCADE ON UPDATE CASCADE
)
--
CREATE VIRTUAL TABLE task_search USING fts5 (
    title, description, context, content='', tokenize="unicode61 remove_diacritics 2",
    prefix='3 4'
)
--
CREATE TRIGGER task_search_insert AFTER INSERT ON tasks BEGIN
    INSERT INTO task_documents (task_id) VALUES (new.id);
    INSERT INTO task_search (rowid, title, description, context)
    SELECT d.id, new.title, substr(new.description, 1, 100000), substr(new.context, 1, 100000) FROM task_documents d WHERE d.task_id = new.id;
END
--
CREATE TRIGGER task_search_update
AFTER UPDATE OF title, description, context ON tasks WHEN new.title IS NOT old.title OR new.description IS NOT old.description OR new.context IS NOT old.context BEGIN
    INSERT INTO task_search (task_search, rowid, title, description, context)
    SELECT 'delete', d.id, old.title, substr(old.description, 1, 100000), substr(old.context, 1, 100000) FROM task_documents d
    WHERE d.task_id = old.id;
    INSERT INTO task_search (rowid, title, description, context)
    SELECT d.id, new.title, substr(new.description, 1, 100000), substr(new.context, 1, 100000) FROM task_documents d WHERE d.task_id = new.id;
END
--
CREATE TRIGGER task_search_delete BEFORE DELETE ON tasks BEGIN
    INSERT INTO task_search (task_search, rowid, title, description, context)
    SELECT 'delete', d.id, old.title, substr(old.description, 1, 100000), substr(old.context, 1, 100000) FROM task_documents d
    WHERE d.task_id = old.id;
END
--
CREATE TABLE "hopper_instances" (
    "id" VARCHAR(100) NOT NULL PRIMARY KEY,
    "name" VARCHAR(100) NOT NULL,
    "scope" VARCHAR(50) NOT NULL CONSTRAINT "ck_hopper_instances_scope" CHECK ("scope" IN ('GLOBAL', 'PROJECT', 'ORCHESTRATION')),
    "parent_id" VARCHAR(100),
    "config" TEXT,
    "status" VARCHAR(50) DEFAULT 'active' NOT NULL CONSTRAINT "ck_hopper_instances_status" CHECK ("status" IN ('active', 'paused', 'terminated')),
    "description" TEXT,
    "created_by" VARCHAR(100),
    "terminated_at" DATETIME,
    "created_at" DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')) NOT NULL,
    "updated_at" DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')) NOT NULL,
    CONSTRAINT "fk_hopper_instances_parent_id" FOREIGN KEY ("parent_id") REFERENCES "hopper_instances" ("id")
)
--
CREATE INDEX "idx_hopper_instances_parent_id" ON "hopper_instances" ("parent_id")
--
CREATE INDEX "idx_hopper_instances_scope_name" ON "hopper_instances" ("scope", "name")
--
CREATE INDEX "idx_hopper_instances_status" ON "hopper_instances" ("status")
--
CREATE TABLE "routing_decisions" (
    "task_id" VARCHAR(50) NOT NULL PRIMARY KEY,
    "project" VARCHAR(100),
    "confidence" REAL CONSTRAINT "ck_routing_decisions_confidence" CHECK ("confidence" >= 0 AND "confidence" <= 1),
    "reasoning" TEXT,
    "alternatives" TEXT,
    "decided_by" VARCHAR(50),
    "decided_at" DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')) NOT NULL,
    "decision_time_ms" REAL CONSTRAINT "ck_routing_decisions_decision_time_ms" CHECK ("decision_time_ms" >= 0),
    "workload_snapshot" TEXT,
    "context" TEXT,
    CONSTRAINT "fk_routing_decisions_task_id" FOREIGN KEY ("task_id") REFERENCES "tasks" ("id") ON DELETE CASCADE,
    CONSTRAINT "fk_routing_decisions_project" FOREIGN KEY ("project") REFERENCES "projects" ("name") ON DELETE SET NULL
)
--
CREATE INDEX idx_routing_decisions_project ON routing_decisions (project, decided_at DESC)
--
CREATE INDEX idx_routing_decisions_strategy ON routing_decisions (decided_by, decided_at DESC)
--
CREATE INDEX idx_routing_decisions_decided_at ON routing_decisions (decided_at DESC, task_id)
--
CREATE INDEX idx_routing_decisions_confidence ON routing_decisions (confidence, task_id)
--
CREATE TABLE "task_feedback" (
    "task_id" VARCHAR(50) NOT NULL PRIMARY KEY,
    "estimated_duration" VARCHAR(50),
    "actual_duration" VARCHAR(50),
    "complexity_rating" INTEGER CONSTRAINT "ck_task_feedback_complexity_rating" CHECK ("complexity_rating" >= 1 AND "complexity_rating" <= 10),
    "quality_score" REAL CONSTRAINT "ck_task_feedback_quality_score" CHECK ("quality_score" >= 0 AND "quality_score" <= 1),
    "required_rework" INTEGER,
    "rework_reason" TEXT,
    "was_good_match" INTEGER,
    "should_have_routed_to" VARCHAR(100),
    "routing_feedback" TEXT,
    "unexpected_blockers" TEXT,
    "required_skills_not_tagged" TEXT,
    "notes" TEXT,
    "created_at" DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')) NOT NULL,
    CONSTRAINT "fk_task_feedback_task_id" FOREIGN KEY ("task_id") REFERENCES "tasks" ("id") ON DELETE CASCADE
)
--
CREATE INDEX idx_task_feedback_created_at ON task_feedback (created_at DESC, task_id)
--
CREATE TABLE "external_mappings" (
    "task_id" VARCHAR(50) NOT NULL,
    "platform" VARCHAR(50) NOT NULL,
    "external_id" VARCHAR(100) NOT NULL,
    "external_url" VARCHAR(500),
    PRIMARY KEY ("task_id", "platform"),
    CONSTRAINT "fk_external_mappings_task_id" FOREIGN KEY ("task_id") REFERENCES "tasks" ("id") ON DELETE CASCADE
)
--
CREATE INDEX "idx_external_mappings_external" ON "external_mappings" ("platform", "external_id")
"""

DOWN_POSTGRESQL = """
DROP TABLE "external_mappings"
--
DROP TABLE "task_feedback"
--
DROP TABLE "routing_decisions"
--
DROP TABLE "hopper_instances"
--
DROP TABLE "tasks"
--
DROP TABLE "projects"
"""

DOWN_SQLITE = """
DROP TABLE "external_mappings"
--
DROP TABLE "task_feedback"
--
DROP TABLE "routing_decisions"
--
DROP TABLE "hopper_instances"
--
DROP TABLE task_search
--
DROP TABLE task_documents
--
DROP TABLE task_tags
--
DROP TABLE "tasks"
--
DROP TABLE "projects"
"""


def migrate(migrator, database, *, fake=False):
    """Create the tables."""
    run_script(migrator, database, postgresql=UP_POSTGRESQL, sqlite=UP_SQLITE)


def rollback(migrator, database, *, fake=False):
    """Drop them."""
    run_script(migrator, database, postgresql=DOWN_POSTGRESQL, sqlite=DOWN_SQLITE)
