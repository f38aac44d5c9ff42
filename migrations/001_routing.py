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
CREATE INDEX idx_tasks_queue ON tasks (status, (CASE priority WHEN 'low' THEN 0 WHEN 'medium' THEN 1 WHEN 'high' THEN 2 WHEN 'urgent' THEN 3 END) DESC, created_at, id) WHERE status = 'pending'
--
CREATE INDEX idx_tasks_active ON tasks (project) WHERE status IN ('pending', 'claimed', 'in_progress', 'blocked')
--
CREATE INDEX idx_tasks_tags ON tasks USING gin (tags jsonb_path_ops)
--
CREATE INDEX idx_tasks_depends_on ON tasks USING gin (depends_on jsonb_path_ops)
--
CREATE OR REPLACE FUNCTION hopper_lexemes(value TEXT) RETURNS TSVECTOR
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
BEGIN
    value := left(value, 100000);
    IF octet_length(value) > length(value) THEN
        value := regexp_replace(value, '[\u0300-\u0304\u0306-\u030c\u030f\u0311\u031b\u0323-\u0328\u032d-\u032e\u0330-\u0331]', '', 'g');
        value := regexp_replace(
            normalize(value, NFD), '([A-Za-z])[\u0300-\u0304\u0306-\u030c\u030f\u0311\u031b\u0323-\u0328\u032d-\u032e\u0330-\u0331]+', '\1', 'g');
        value := lower(lower(normalize(value, NFC) COLLATE "C") COLLATE "default");
        value := left(translate(value, 'µſͅςϐϑϕϖϰϱϵẛ', 'μsισβθφπκρεṡ'), 100000);
        IF value ~ '[ÆÐØÞĐĦĲĿŁŊŒŦƁƂƄƆƇƉƊƋƎƏƐƑƓƔƖƗƘƜƝƟƢƤƦƧƩƬƮƱƲƳƵƷƸƼǄǅǇǈǊǋǢǤǮǱǲǶǷǼǾȜȠȢȤȺȻȽȾɁɃɄɅɆɈɊɌɎͰͲͶͿΆΈΉΊΌΎΏΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩΪΫϏϘϚϜϞϠϢϤϦϨϪϬϮϴϷϹϺϽϾϿЀЁЂЃЄЅІЇЈЉЊЋЌЍЎЏАБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯѠѢѤѦѨѪѬѮѰѲѴѶѸѺѼѾҀҊҌҎҐҒҔҖҘҚҜҞҠҢҤҦҨҪҬҮҰҲҴҶҸҺҼҾӀӁӃӅӇӉӋӍӐӒӔӖӘӚӜӞӠӢӤӦӨӪӬӮӰӲӴӶӸӺӼӾԀԂԄԆԈԊԌԎԐԒԔԖԘԚԜԞԠԢԤԦԨԪԬԮԱԲԳԴԵԶԷԸԹԺԻԼԽԾԿՀՁՂՃՄՅՆՇՈՉՊՋՌՍՎՏՐՑՒՓՔՕՖẞỺỼỾἈἉἊἋἌἍἎἏἘἙἚἛἜἝἨἩἪἫἬἭἮἯἸἹἺἻἼἽἾἿὈὉὊὋὌὍὙὛὝὟὨὩὪὫὬὭὮὯᾈᾉᾊᾋᾌᾍᾎᾏᾘᾙᾚᾛᾜᾝᾞᾟᾨᾩᾪᾫᾬᾭᾮᾯᾸᾹᾺᾼῈῊῌῘῙῚῨῩῪῬῸῺῼ]' THEN
            value := translate(value, 'ÆÐØÞĐĦĲĿŁŊŒŦƁƂƄƆƇƉƊƋƎƏƐƑƓƔƖƗƘƜƝƟƢƤƦƧƩƬƮƱƲƳƵƷƸƼǄǅǇǈǊǋǢǤǮǱǲǶǷǼǾȜȠȢȤȺȻȽȾɁɃɄɅɆɈɊɌɎͰͲͶͿΆΈΉΊΌΎΏΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩΪΫϏϘϚϜϞϠϢϤϦϨϪϬϮϴϷϹϺϽϾϿЀЁЂЃЄЅІЇЈЉЊЋЌЍЎЏАБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯѠѢѤѦѨѪѬѮѰѲѴѶѸѺѼѾҀҊҌҎҐҒҔҖҘҚҜҞҠҢҤҦҨҪҬҮҰҲҴҶҸҺҼҾӀӁӃӅӇӉӋӍӐӒӔӖӘӚӜӞӠӢӤӦӨӪӬӮӰӲӴӶӸӺӼӾԀԂԄԆԈԊԌԎԐԒԔԖԘԚԜԞԠԢԤԦԨԪԬԮԱԲԳԴԵԶԷԸԹԺԻԼԽԾԿՀՁՂՃՄՅՆՇՈՉՊՋՌՍՎՏՐՑՒՓՔՕՖẞỺỼỾἈἉἊἋἌἍἎἏἘἙἚἛἜἝἨἩἪἫἬἭἮἯἸἹἺἻἼἽἾἿὈὉὊὋὌὍὙὛὝὟὨὩὪὫὬὭὮὯᾈᾉᾊᾋᾌᾍᾎᾏᾘᾙᾚᾛᾜᾝᾞᾟᾨᾩᾪᾫᾬᾭᾮᾯᾸᾹᾺᾼῈῊῌῘῙῚῨῩῪῬῸῺῼ', 'æðøþđħĳŀłŋœŧɓƃƅɔƈɖɗƌǝəɛƒɠɣɩɨƙɯɲɵƣƥʀƨʃƭʈʊʋƴƶʒƹƽǆǆǉǉǌǌǣǥǯǳǳƕƿǽǿȝƞȣȥⱥȼƚⱦɂƀʉʌɇɉɋɍɏͱͳͷϳάέήίόύώαβγδεζηθικλμνξοπρστυφχψωϊϋϗϙϛϝϟϡϣϥϧϩϫϭϯθϸϲϻͻͼͽѐёђѓєѕіїјљњћќѝўџабвгдежзийклмнопрстуфхцчшщъыьэюяѡѣѥѧѩѫѭѯѱѳѵѷѹѻѽѿҁҋҍҏґғҕҗҙқҝҟҡңҥҧҩҫҭүұҳҵҷҹһҽҿӏӂӄӆӈӊӌӎӑӓӕӗәӛӝӟӡӣӥӧөӫӭӯӱӳӵӷӹӻӽӿԁԃԅԇԉԋԍԏԑԓԕԗԙԛԝԟԡԣԥԧԩԫԭԯաբգդեզէըթժիլխծկհձղճմյնշոչպջռսվտրցւփքօֆßỻỽỿἀἁἂἃἄἅἆἇἐἑἒἓἔἕἠἡἢἣἤἥἦἧἰἱἲἳἴἵἶἷὀὁὂὃὄὅὑὓὕὗὠὡὢὣὤὥὦὧᾀᾁᾂᾃᾄᾅᾆᾇᾐᾑᾒᾓᾔᾕᾖᾗᾠᾡᾢᾣᾤᾥᾦᾧᾰᾱὰᾳὲὴῃῐῑὶῠῡὺῥὸὼῳ');
        END IF;
    ELSE
        value := lower(value COLLATE "C");
    END IF;
    value := regexp_replace(value, '[\u0000-/:-@\[-`{-\u007f\u0080-\u00a9\u00ab-\u00b1\u00b4\u00b6-\u00b8\u00bb\u00bf\u00d7\u00f7\u02c2-\u02c5\u02d2-\u02df\u02e5-\u02eb\u02ed\u02ef-\u02ff\u0375\u037e\u0384-\u0385\u0387\u03f6\u0482\u055a-\u055f\u0589-\u058a\u058f\u05be\u05c0\u05c3\u05c6\u05f3-\u0604\u0606-\u060f\u061b\u061e-\u061f\u066a-\u066d\u06d4\u06dd-\u06de\u06e9\u06fd-\u06fe\u0700-\u070f\u07f6-\u07f9\u0830-\u083e\u085e\u0964-\u0965\u0970\u09f2-\u09f3\u09fa-\u09fb\u0af0-\u0af1\u0b70\u0bf3-\u0bfa\u0c7f\u0d79\u0df4\u0e3f\u0e4f\u0e5a-\u0e5b\u0f01-\u0f17\u0f1a-\u0f1f\u0f34\u0f36\u0f38\u0f3a-\u0f3d\u0f85\u0fbe-\u0fc5\u0fc7-\u0fda\u104a-\u104f\u109e-\u109f\u10fb\u1360-\u1368\u1390-\u1399\u1400\u166d-\u166e\u1680\u169b-\u169c\u16eb-\u16ed\u1735-\u1736\u17d4-\u17d6\u17d8-\u17db\u1800-\u180a\u180e\u1940-\u1945\u19de-\u19ff\u1a1e-\u1a1f\u1aa0-\u1aa6\u1aa8-\u1aad\u1b5a-\u1b6a\u1b74-\u1b7c\u1bfc-\u1bff\u1c3b-\u1c3f\u1c7e-\u1c7f\u1cc0-\u1cc7\u1cd3\u1fbd\u1fbf-\u1fc1\u1fcd-\u1fcf\u1fdd-\u1fdf\u1fed-\u1fef\u1ffd-\u2064\u206a-\u206f\u207a-\u207e\u208a-\u208e\u20a0-\u20b9\u2100-\u2101\u2103-\u2106\u2108-\u2109\u2114\u2116-\u2118\u211e-\u2123\u2125\u2127\u2129\u212e\u213a-\u213b\u2140-\u2144\u214a-\u214d\u214f\u2190-\u23f3\u2400-\u244a\u249c-\u24e9\u2500-\u26ff\u2701-\u2775\u2794-\u2b4c\u2b50-\u2b59\u2ce5-\u2cea\u2cf9-\u2cfc\u2cfe-\u2cff\u2d70\u2e00-\u2e2e\u2e30-\u2e3b\u2e80-\u3004\u3008-\u3020\u3030\u3036-\u3037\u303d-\u303f\u309b-\u309c\u30a0\u30fb\u3190-\u3191\u3196-\u319f\u31c0-\u31e3\u3200-\u321e\u322a-\u3247\u3250\u3260-\u327f\u328a-\u32b0\u32c0-\u32fe\u3300-\u33ff\u4dc0-\u4dff\ua490-\ua4c6\ua4fe-\ua4ff\ua60d-\ua60f\ua673\ua67e\ua6f2-\ua716\ua720-\ua721\ua789-\ua78a\ua828-\ua82b\ua836-\ua839\ua874-\ua877\ua8ce-\ua8cf\ua8f8-\ua8fa\ua92e-\ua92f\ua95f\ua9c1-\ua9cd\ua9de-\ua9df\uaa5c-\uaa5f\uaa77-\uaa79\uaade-\uaadf\uaaf0-\uaaf1\uabeb\ud800-\udfff\ufb29\ufbb2-\ufbc1\ufd3e-\ufd3f\ufdfc-\ufdfd\ufe10-\ufe19\ufe30-\ufe6b\ufeff-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0-\ufffd\U0001f0c1-\U0001f0df\U0001f110-\U0001f12e\U0001f130-\U0001f16b\U0001f170-\U0001f19a\U0001f1e6-\U0001f23a\U0001f240-\U0001f251\U0001f300-\U0001f320\U0001f330-\U0001f335\U0001f337-\U0001f37c\U0001f380-\U0001f393\U0001f3a0-\U0001f3c4\U0001f3c6-\U0001f3ca\U0001f3e0-\U0001f3f0\U0001f400-\U0001f43e\U0001f440\U0001f442-\U0001f4f7\U0001f4f9-\U0001f4fc\U0001f500-\U0001f53d\U0001f540-\U0001f543\U0001f550-\U0001f567\U0001f5fb-\U0001f640\U0001f645-\U0001f64f\U0001f680-\U0001f6c5\U0001f700-\U0001f773]+', ' ', 'g');
    RETURN coalesce((
        SELECT string_agg('''' || left(word, 100) || ''':' || place + 1, ' ')
        FROM string_to_table(value, ' ') WITH ORDINALITY AS words(word, place)
        WHERE word <> ''
    ), '')::tsvector;
END
$function$
--
ALTER TABLE tasks ADD COLUMN search_tsvector tsvector GENERATED ALWAYS AS (setweight(hopper_lexemes(title), 'A') || setweight(hopper_lexemes(description), 'B') || setweight(hopper_lexemes(context), 'C')) STORED
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
CREATE INDEX "idx_hopper_instances_parent_id" ON "hopper_instances" ("parent_id", "name")
--
CREATE INDEX "idx_hopper_instances_scope_name" ON "hopper_instances" ("scope", "name")
--
CREATE INDEX "idx_hopper_instances_status" ON "hopper_instances" ("status", "name")
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
CREATE INDEX idx_routing_decisions_project ON routing_decisions (project, decided_at DESC, task_id)
--
CREATE INDEX idx_routing_decisions_strategy ON routing_decisions (decided_by, decided_at DESC, task_id)
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
CREATE INDEX idx_tasks_queue ON tasks (status, (CASE priority WHEN 'low' THEN 0 WHEN 'medium' THEN 1 WHEN 'high' THEN 2 WHEN 'urgent' THEN 3 END) DESC, created_at, id) WHERE status = 'pending'
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
WHEN json_type(new.tags) = 'array' BEGIN
    INSERT OR IGNORE INTO task_tags (tag, task_id)
    SELECT value, new.id FROM json_each(new.tags) WHERE type = 'text';
END
--
CREATE TRIGGER task_tags_update AFTER UPDATE OF tags ON tasks
WHEN new.tags IS NOT old.tags BEGIN
    DELETE FROM task_tags WHERE task_id = new.id;
    INSERT OR IGNORE INTO task_tags (tag, task_id)
    SELECT value, new.id FROM json_each(new.tags)
    WHERE type = 'text' AND json_type(new.tags) = 'array';
END
--
CREATE TRIGGER task_tags_delete BEFORE DELETE ON tasks BEGIN
    DELETE FROM task_tags WHERE task_id = old.id;
END
--
CREATE TABLE task_dependencies (
    needed_id TEXT NOT NULL,
    task_id VARCHAR(50) NOT NULL
        REFERENCES tasks (id) ON DELETE CASCADE ON UPDATE CASCADE,
    PRIMARY KEY (needed_id, task_id)
) WITHOUT ROWID
--
CREATE INDEX idx_task_dependencies_task_id ON task_dependencies (task_id)
--
CREATE TRIGGER task_dependencies_insert AFTER INSERT ON tasks
WHEN json_type(new.depends_on) = 'array' BEGIN
    INSERT OR IGNORE INTO task_dependencies (needed_id, task_id)
    SELECT value, new.id FROM json_each(new.depends_on) WHERE type = 'text';
END
--
CREATE TRIGGER task_dependencies_update AFTER UPDATE OF depends_on ON tasks
WHEN new.depends_on IS NOT old.depends_on BEGIN
    DELETE FROM task_dependencies WHERE task_id = new.id;
    INSERT OR IGNORE INTO task_dependencies (needed_id, task_id)
    SELECT value, new.id FROM json_each(new.depends_on)
    WHERE type = 'text' AND json_type(new.depends_on) = 'array';
END
--
CREATE TRIGGER task_dependencies_delete BEFORE DELETE ON tasks BEGIN
    DELETE FROM task_dependencies WHERE task_id = old.id;
END
--
CREATE TABLE task_documents (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    task_id VARCHAR(50) NOT NULL UNIQUE
        REFERENCES tasks (id) ON DELETE CASCADE ON UPDATE CASCADE
)
--
CREATE VIRTUAL TABLE task_search USING fts5 (
    title, description, context, content='', prefix='3 4',
    tokenize="unicode61 remove_diacritics 2 categories 'L* N* M* Co'"
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
    DELETE FROM task_documents WHERE task_id = old.id;
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
CREATE INDEX "idx_hopper_instances_parent_id" ON "hopper_instances" ("parent_id", "name")
--
CREATE INDEX "idx_hopper_instances_scope_name" ON "hopper_instances" ("scope", "name")
--
CREATE INDEX "idx_hopper_instances_status" ON "hopper_instances" ("status", "name")
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
CREATE INDEX idx_routing_decisions_project ON routing_decisions (project, decided_at DESC, task_id)
--
CREATE INDEX idx_routing_decisions_strategy ON routing_decisions (decided_by, decided_at DESC, task_id)
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
DROP FUNCTION hopper_lexemes(TEXT)
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
DROP TABLE task_dependencies
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
