"""The chat domain: users, conversations, messages and MCP configs.

On PostgreSQL the tables have a schema of their own. Going back drops the schema again where this
migration has made it, which a comment on it says, and where nothing else is in it.
"""

from hopper_data.migrations import run_script

UP_POSTGRESQL = r"""
DO $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = 'faceplate') THEN
        CREATE SCHEMA IF NOT EXISTS faceplate;
        COMMENT ON SCHEMA faceplate IS 'made by hopper_data';
    END IF;
END $$
--
CREATE TABLE "faceplate"."users" (
    "id" UUID NOT NULL PRIMARY KEY,
    "email" VARCHAR(255) COLLATE "C" NOT NULL,
    "subject_id" VARCHAR(255) COLLATE "C" NOT NULL,
    "created_at" TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP NOT NULL
)
--
CREATE UNIQUE INDEX "idx_faceplate_users_email" ON "faceplate"."users" (LOWER("email"))
--
CREATE UNIQUE INDEX "idx_faceplate_users_subject_id" ON "faceplate"."users" ("subject_id")
--
CREATE TABLE "faceplate"."conversations" (
    "id" UUID NOT NULL PRIMARY KEY,
    "user_id" UUID NOT NULL,
    "title" VARCHAR(255) COLLATE "C" DEFAULT 'New Chat' NOT NULL,
    "created_at" TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP NOT NULL,
    "updated_at" TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP NOT NULL,
    CONSTRAINT "fk_faceplate_conversations_user_id" FOREIGN KEY ("user_id") REFERENCES "faceplate"."users" ("id") ON DELETE CASCADE
)
--
CREATE INDEX "idx_faceplate_conversations_user_id" ON "faceplate"."conversations" ("user_id")
--
CREATE TABLE "faceplate"."messages" (
    "id" UUID NOT NULL PRIMARY KEY,
    "conversation_id" UUID NOT NULL,
    "role" VARCHAR(20) COLLATE "C" NOT NULL CONSTRAINT "ck_faceplate_messages_role" CHECK ("role" IN ('user', 'assistant', 'system', 'tool')),
    "content" TEXT COLLATE "C",
    "tool_calls" JSONB,
    "tool_results" JSONB,
    "created_at" TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP NOT NULL,
    CONSTRAINT "fk_faceplate_messages_conversation_id" FOREIGN KEY ("conversation_id") REFERENCES "faceplate"."conversations" ("id") ON DELETE CASCADE,
    CONSTRAINT "ck_faceplate_messages_tool_results" CHECK ("role" <> 'tool' OR "tool_results" IS NOT NULL),
    CONSTRAINT "ck_faceplate_messages_tool_calls" CHECK ("role" = 'assistant' OR "tool_calls" IS NULL),
    CONSTRAINT "ck_faceplate_messages_content" CHECK (coalesce("content", '') <> '' OR "tool_results" IS NOT NULL OR coalesce("tool_calls", '[]') NOT IN ('[]', '{}'))
)
--
CREATE INDEX "idx_faceplate_messages_conversation_id" ON "faceplate"."messages" ("conversation_id")
--
CREATE INDEX "idx_faceplate_messages_created_at" ON "faceplate"."messages" ("created_at")
--
CREATE TABLE "faceplate"."mcp_configs" (
    "id" UUID NOT NULL PRIMARY KEY,
    "user_id" UUID NOT NULL,
    "name" VARCHAR(100) COLLATE "C" NOT NULL,
    "config" JSONB NOT NULL,
    "enabled" BOOLEAN DEFAULT TRUE NOT NULL,
    "created_at" TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP NOT NULL,
    "updated_at" TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP NOT NULL,
    CONSTRAINT "fk_faceplate_mcp_configs_user_id" FOREIGN KEY ("user_id") REFERENCES "faceplate"."users" ("id") ON DELETE CASCADE
)
--
CREATE INDEX "idx_faceplate_mcp_configs_user_id" ON "faceplate"."mcp_configs" ("user_id")
--
CREATE UNIQUE INDEX "idx_faceplate_mcp_configs_user_id_name" ON "faceplate"."mcp_configs" ("user_id", "name")
"""

UP_SQLITE = r"""
CREATE TABLE "faceplate_users" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "email" VARCHAR(255) NOT NULL,
    "subject_id" VARCHAR(255) NOT NULL,
    "created_at" DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')) NOT NULL
)
--
CREATE UNIQUE INDEX "idx_faceplate_users_email" ON "faceplate_users" (LOWER("email"))
--
CREATE UNIQUE INDEX "idx_faceplate_users_subject_id" ON "faceplate_users" ("subject_id")
--
CREATE TABLE "faceplate_conversations" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "user_id" TEXT NOT NULL,
    "title" VARCHAR(255) DEFAULT 'New Chat' NOT NULL,
    "created_at" DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')) NOT NULL,
    "updated_at" DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')) NOT NULL,
    CONSTRAINT "fk_faceplate_conversations_user_id" FOREIGN KEY ("user_id") REFERENCES "faceplate_users" ("id") ON DELETE CASCADE
)
--
CREATE INDEX "idx_faceplate_conversations_user_id" ON "faceplate_conversations" ("user_id")
--
CREATE TABLE "faceplate_messages" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "conversation_id" TEXT NOT NULL,
    "role" VARCHAR(20) NOT NULL CONSTRAINT "ck_faceplate_messages_role" CHECK ("role" IN ('user', 'assistant', 'system', 'tool')),
    "content" TEXT,
    "tool_calls" TEXT,
    "tool_results" TEXT,
    "created_at" DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')) NOT NULL,
    CONSTRAINT "fk_faceplate_messages_conversation_id" FOREIGN KEY ("conversation_id") REFERENCES "faceplate_conversations" ("id") ON DELETE CASCADE,
    CONSTRAINT "ck_faceplate_messages_tool_results" CHECK ("role" <> 'tool' OR "tool_results" IS NOT NULL),
    CONSTRAINT "ck_faceplate_messages_tool_calls" CHECK ("role" = 'assistant' OR "tool_calls" IS NULL),
    CONSTRAINT "ck_faceplate_messages_content" CHECK (coalesce("content", '') <> '' OR "tool_results" IS NOT NULL OR coalesce("tool_calls", '[]') NOT IN ('[]', '{}'))
)
--
CREATE INDEX "idx_faceplate_messages_conversation_id" ON "faceplate_messages" ("conversation_id")
--
CREATE INDEX "idx_faceplate_messages_created_at" ON "faceplate_messages" ("created_at")
--
CREATE TABLE "faceplate_mcp_configs" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "user_id" TEXT NOT NULL,
    "name" VARCHAR(100) NOT NULL,
    "config" TEXT NOT NULL,
    "enabled" INTEGER DEFAULT 1 NOT NULL,
    "created_at" DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')) NOT NULL,
    "updated_at" DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')) NOT NULL,
    CONSTRAINT "fk_faceplate_mcp_configs_user_id" FOREIGN KEY ("user_id") REFERENCES "faceplate_users" ("id") ON DELETE CASCADE
)
--
CREATE INDEX "idx_faceplate_mcp_configs_user_id" ON "faceplate_mcp_configs" ("user_id")
--
CREATE UNIQUE INDEX "idx_faceplate_mcp_configs_user_id_name" ON "faceplate_mcp_configs" ("user_id", "name")
"""

DOWN_POSTGRESQL = """
DROP TABLE "faceplate"."mcp_configs"
--
DROP TABLE "faceplate"."messages"
--
DROP TABLE "faceplate"."conversations"
--
DROP TABLE "faceplate"."users"
--
DO $$
BEGIN
    IF obj_description('faceplate'::regnamespace, 'pg_namespace') = 'made by hopper_data' THEN
        DROP SCHEMA faceplate RESTRICT;
    END IF;
EXCEPTION
    WHEN dependent_objects_still_exist THEN NULL;
END $$
"""

DOWN_SQLITE = """
DROP TABLE "faceplate_mcp_configs"
--
DROP TABLE "faceplate_messages"
--
DROP TABLE "faceplate_conversations"
--
DROP TABLE "faceplate_users"
"""


def migrate(migrator, database, *, fake=False):
    """Create the tables, and the schema where it is missing."""
    run_script(migrator, database, postgresql=UP_POSTGRESQL, sqlite=UP_SQLITE)


def rollback(migrator, database, *, fake=False):
    """Drop them."""
    run_script(migrator, database, postgresql=DOWN_POSTGRESQL, sqlite=DOWN_SQLITE)
