# ruff: noqa: RUF001 - the texts are in many scripts on purpose
"""`search_tasks`: what people type, in every script, with the same answers on both backends."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from playhouse.test_utils import assert_query_count

from hopper_data import Session, TaskRepository, ValidationError, create_database, run_migrations
from hopper_data.database import Database
from hopper_data.routing.search import words_of
from hopper_data.session import open_session

THEN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def tasks(session: Session) -> TaskRepository:
    return TaskRepository(session)


def ids(found: list[Any]) -> list[str]:
    return [task.id for task in found]


def fill(tasks: TaskRepository, titles: dict[str, str]) -> None:
    """Tasks by id and title, each made a minute before the next."""
    tasks.bulk_create(
        {"id": key, "title": title, "created_at": THEN + timedelta(minutes=number)}
        for number, (key, title) in enumerate(titles.items())
    )


# -- what people type -----------------------------------------------------------------------------

TITLES = {
    "login": "Fix the login page for mobile users",
    "logout": "Logging out fails on mobile",
    "deploy": "Deploy the payment service to production",
    "docs": "Write documentation for the payment page",
}


SEARCHES = [
    ("login", {"login"}),
    ("LOGIN", {"login"}),
    ("  login  ", {"login"}),
    ("mobile", {"login", "logout"}),
    ("payment page", {"docs"}),
    ("page payment", {"docs"}),
    ('"payment page"', {"docs"}),
    ('"page payment"', set()),
    ('"payment page', {"docs"}),
    ("“payment page”", {"docs"}),
    ("log", {"login", "logout"}),
    ("log*", {"login", "logout"}),
    ('"log"', set()),
    ('"log"*', {"login", "logout"}),
    ("lo", set()),
    ("lo*", {"login", "logout"}),
    ("docu", {"docs"}),
    ("mobile -login", {"logout"}),
    ('mobile -"login page"', {"logout"}),
    ("mobile -log", {"login", "logout"}),
    ("mobile -log*", set()),
    ("login or deploy", {"login", "deploy"}),
    ("login OR deploy", {"login", "deploy"}),
    ("login or deploy or docu", {"login", "deploy", "docs"}),
    ("page mobile or payment service", {"login", "deploy"}),
    ("or login", {"login"}),
    ("login or", {"login"}),
    ("login or or deploy", {"login", "deploy"}),
    ("payment or mobile -page", {"deploy", "docs", "logout"}),
    ("-login", set()),
    ("login -login", set()),
    ("--mobile", {"login", "logout"}),
    ("mobile - users", {"login"}),
    ("nothing-of-this", set()),
    ("", set()),
    ("   ", set()),
    ('""', set()),
    ("*", set()),
    ("-", set()),
    ("or", set()),
    ("...", set()),
]


def test_a_search_box_works(tasks: TaskRepository) -> None:
    fill(tasks, TITLES)
    for query, expected in SEARCHES:
        assert set(ids(tasks.search_tasks(query))) == expected, query


WORDS = {
    "path": "See cmd/show.go:89 and D:\\temp\\log.txt",
    "snake": "rename foo_bar_baz to fooBar and __init__",
    "mail": "Mail from jane.doe+spam@example.com",
    "version": "Upgrade to v1.22.3-rc1",
    "url": "https://example.org/a/b?query=1&x=y#frag",
    "tags": "Render <b>bold</b> text and &amp; entities",
    "numbers": "pi is 3.14, or -5, or 1e5, or 1,000, or 0x1F, or 50%",
    "hash": "Revert 2e10f3a and 12e5b7c",
    "quote": "Don't use can’t or rock'n'roll",
    "plus": "C++ and C# and .NET",
    "dash": "fox—bat, foo–qux… «quoted»",
    "accents": "Café Ångström naïve Łódź ÉTÉ Vietnamese Việt",
    "decomposed": "re\u0301sume\u0301",
    "greek": "ΑΘΉΝΑ σοφός ΣΟΦΟΣ",
    "russian": "Новый ЁЛКА й",
    "korean": "안녕하세요 세계",
    "japanese": "プログラム を書く",
    "chinese": "数据库连接 错误",
    "thai": "สวัสดี ชาวโลก",
    "hindi": "हिन्दी भाषा",
    "arabic": "مَرْحَبًا بالعالم",
    "hebrew": "שלום עולם",
    "german": "Straße GROẞ",
    "turkish": "İstanbul ısı",
    "armenian": "Բարեւ Աշխարհ",
    "cherokee": "ᎣᏏᏲ",
    "fullwidth": "ＡＢＣ",
    "ligature": "ﬁle",
    "square": "x² ½",
    "emoji": "ship🚀it 🤖 bot",
}


PIECES = [
    ("show.go", "path"),
    ("cmd/show.go:89", "path"),
    ("go 89", "path"),
    ("D:\\temp\\log.txt", "path"),
    ("log.txt", "path"),
    ("foo_bar_baz", "snake"),
    ("bar_baz", "snake"),
    ("baz", "snake"),
    ("fooBar", "snake"),
    ("__init__", "snake"),
    ("jane.doe+spam@example.com", "mail"),
    ("@example.com", "mail"),
    ("spam", "mail"),
    ("v1.22.3", "version"),
    ("1.22", None),
    ("22.3-rc1", "version"),
    ("https://example.org/a/b", "url"),
    ("query=1", "url"),
    ("#frag", "url"),
    ("<b>bold</b>", "tags"),
    ("bold", "tags"),
    ("&amp;", "tags"),
    ("3.14", "numbers"),
    ('"3.14"', "numbers"),
    ("14", "numbers"),
    ("or 1e5", "numbers"),
    ("1,000", "numbers"),
    ("0x1f", "numbers"),
    ("50%", "numbers"),
    ("2e10f3a", "hash"),
    ("2e10f", "hash"),
    ("f3a", None),
    ("12e5b7", "hash"),
    ("don't", "quote"),
    ("don’t", "quote"),
    ("can't", "quote"),
    ("rock'n'roll", "quote"),
    ("C++", "plus"),
    ("c#", "plus"),
    (".net", "plus"),
    ("fox—bat", "dash"),
    ("fox-bat", "dash"),
    ("quoted", "dash"),
    ("cafe", "accents"),
    ("CAFÉ", "accents"),
    ("angstrom", "accents"),
    ("naive", "accents"),
    ("łodz", "accents"),
    ("été", "accents"),
    ("viet", "accents"),
    ("résumé", "decomposed"),
    ("resume", "decomposed"),
    ("re\u0301sume\u0301", "decomposed"),
    ("αθήνα", "greek"),
    ("ΣΟΦΌΣ", "greek"),
    ("σοφος", "greek"),
    ("новый", "russian"),
    ("НОВЫЙ", "russian"),
    ("ёлка", "russian"),
    ("안녕", "korean"),
    ("세계", "korean"),
    ("プログラム", "japanese"),
    ("プロ", "japanese"),
    ("数据库", "chinese"),
    ("数", "chinese"),
    ("错误", "chinese"),
    ("สวัสดี", "thai"),
    ("हिन्दी", "hindi"),
    ("مَرْحَبًا", "arabic"),
    ("بالعالم", "arabic"),
    ("שלום", "hebrew"),
    ("straße", "german"),
    ("groß", "german"),
    ("istanbul", "turkish"),
    ("ISTANBUL", "turkish"),
    ("ısı", "turkish"),
    ("ԲԱՐԵՒ", "armenian"),
    ("ᎣᏏᏲ", "cherokee"),
    ("ａｂｃ", "fullwidth"),
    ("ﬁle", "ligature"),
    ("x²", "square"),
    ("½", "square"),
    ("ship", "emoji"),
    ("ship🚀it", "emoji"),
    ("it", "emoji"),
    ("bot", "emoji"),
]


def test_words_are_found_in_every_script(tasks: TaskRepository) -> None:
    fill(tasks, WORDS)
    for query, key in PIECES:
        assert ids(tasks.search_tasks(query)) == ([] if key is None else [key]), query
    for key, title in WORDS.items():
        for word in title.split():
            found = ids(tasks.search_tasks(word))
            silent = not words_of(word) or word == "or" or word.startswith("-")
            assert (key in found) != silent, word


HOSTILE = [
    '"',
    '""',
    '"""',
    '"unbalanced',
    "'",
    "''; DROP TABLE tasks; --",
    "(",
    ")",
    "((a)",
    "a AND",
    "AND OR NOT",
    "NOT",
    "NOT a",
    "NEAR(a b)",
    "a NEAR/2 b",
    "title:a",
    "{title}:a",
    "title : ",
    "^a",
    "a^2",
    "a*b*",
    "**",
    "*a",
    "a:*",
    "a & b",
    "a | b",
    "!a",
    "!!",
    "a <-> b",
    "<2>",
    "a:b:c",
    "\\",
    "a\\",
    "%",
    "%s %(x)s {0}",
    "_",
    "?",
    "$1",
    ":name",
    "a\0b",
    "\0",
    "\ud800",
    "a\udfffb",
    "\u200b\u2028\ufeff",
    "\x01\x1f\x7f",
    "\n\t\r",
    "--",
    "-- comment",
    "/* a */",
    "-",
    "- -",
    '-""',
    '-"',
    "or or or",
    "OR -a OR",
    "😀 👩‍👩‍👧‍👦 🏳️‍🌈",
    "a" * 10_000,
    "a " * 10_000,
    "-a " * 5_000,
    '"a ' * 1_000,
    "(" * 5_000,
    "é" * 5_000,
    "\u0301" * 500,
    "a or " * 2_000,
    "ﷺ" * 200,
]


def test_nothing_that_people_type_is_an_error(tasks: TaskRepository) -> None:
    tasks.create(id="a", title="a b c name title")
    for query in HOSTILE:
        assert set(ids(tasks.search_tasks(query))) <= {"a"}
    assert ids(tasks.search_tasks("name")) == ["a"]


def test_only_a_text_is_a_query(tasks: TaskRepository) -> None:
    for query in (None, 5, b"a", ["a"]):
        with pytest.raises(ValidationError, match="it must be a text"):
            tasks.search_tasks(query)  # type: ignore[arg-type]


# -- order, pages, filters ------------------------------------------------------------------------


def test_the_title_counts_most_and_the_context_least(tasks: TaskRepository) -> None:
    long = "many other words " * 500
    tasks.create(id="context", title="one", context="login login login login login")
    tasks.create(id="description", title="two", description="login login login login login")
    tasks.create(id="title", title="login", description=long, context=long)
    assert ids(tasks.search_tasks("login")) == ["title", "description", "context"]


def test_two_words_in_the_title_come_before_one(tasks: TaskRepository) -> None:
    tasks.create(id="both", title="payment page", description="other words " * 300)
    tasks.create(id="one", title="payment", description="page page page page")
    tasks.create(id="none", title="x", context="payment page payment page")
    assert ids(tasks.search_tasks("payment page")) == ["both", "one", "none"]


def test_equals_are_newest_first(tasks: TaskRepository) -> None:
    fill(tasks, {"old": "a login", "middle": "b login", "new": "c login"})
    assert ids(tasks.search_tasks("login")) == ["new", "middle", "old"]


def test_a_search_has_pages(tasks: TaskRepository) -> None:
    fill(tasks, {str(number): f"{number} login" for number in range(5)})
    assert ids(tasks.search_tasks("login", limit=2)) == ["4", "3"]
    assert ids(tasks.search_tasks("login", skip=2, limit=2)) == ["2", "1"]
    assert ids(tasks.search_tasks("login", skip=4)) == ["0"]
    assert tasks.search_tasks("login", skip=5) == []
    assert tasks.search_tasks("login", limit=0) == []
    assert ids(tasks.search_tasks("login", limit=1)) == ["4"]


def test_a_page_of_a_search_must_make_sense(tasks: TaskRepository) -> None:
    pages: list[tuple[Any, Any]] = [(-1, 1), (0, -1), (0, 1.5), ("0", 1), (0, True)]
    for skip, limit in pages:
        for query in ("login", ""):
            with pytest.raises(ValidationError, match=r"skip|limit"):
                tasks.search_tasks(query, skip, limit)


def test_filters_narrow_a_search(tasks: TaskRepository) -> None:
    tasks.create(id="a", title="login", status="blocked", project="web")
    tasks.create(id="b", title="login", project="web")
    tasks.create(id="c", title="login")
    assert ids(tasks.search_tasks("login", filters={"status": "blocked"})) == ["a"]
    assert set(ids(tasks.search_tasks("login", filters={"project": "web"}))) == {"a", "b"}
    for query in ("login", ""):
        with pytest.raises(ValidationError, match="did you mean 'status'"):
            tasks.search_tasks(query, filters={"statsu": "blocked"})


def test_a_search_is_one_query(tasks: TaskRepository) -> None:
    fill(tasks, TITLES)
    with assert_query_count(1):
        assert len(tasks.search_tasks('mobile or "payment page" -deploy')) == 3


def test_a_hit_is_a_whole_task(tasks: TaskRepository) -> None:
    made = tasks.create(id="a", title="login", tags=["x"], priority="urgent")
    (found,) = tasks.search_tasks("login")
    assert found.to_dict() == made.to_dict()
    found.title = "other"
    assert found.save() == 1
    assert ids(tasks.search_tasks("other")) == ["a"]


# -- the index ------------------------------------------------------------------------------------


def test_a_phrase_does_not_span_columns(tasks: TaskRepository) -> None:
    tasks.create(id="a", title="one two", description="three four", context="five six")
    assert ids(tasks.search_tasks('"three four"')) == ["a"]
    assert ids(tasks.search_tasks("two three five")) == ["a"]
    assert tasks.search_tasks('"two three"') == []
    assert tasks.search_tasks('"four five"') == []


def test_a_phrase_does_not_span_a_missing_column(tasks: TaskRepository) -> None:
    tasks.create(id="a", title="one two", context="three")
    tasks.create(id="b", title="one two", description="...", context="three")
    assert tasks.search_tasks('"two three"') == []


def test_the_index_follows_every_write(tasks: TaskRepository) -> None:
    tasks.create(id="a", title="alpha", description="beta")
    tasks.update("a", title="gamma")
    assert tasks.search_tasks("alpha") == []
    assert ids(tasks.search_tasks("gamma beta")) == ["a"]
    tasks.update("a", description=None, context="delta")
    assert tasks.search_tasks("beta") == []
    assert ids(tasks.search_tasks("delta")) == ["a"]
    tasks.upsert(id="a", title="epsilon")
    assert tasks.search_tasks("gamma") == []
    assert ids(tasks.search_tasks("epsilon delta")) == ["a"]
    tasks.upsert(id="b", title="epsilon")
    assert set(ids(tasks.search_tasks("epsilon"))) == {"a", "b"}
    tasks.bulk_update([{"id": "a", "title": "zeta"}, {"id": "b", "context": "eta"}])
    assert ids(tasks.search_tasks("zeta")) == ["a"]
    assert ids(tasks.search_tasks("epsilon eta")) == ["b"]
    tasks.delete("a")
    assert tasks.search_tasks("zeta or delta") == []
    tasks.create(id="a", title="theta")
    assert ids(tasks.search_tasks("theta")) == ["a"]
    tasks.bulk_delete(["a", "b"])
    assert tasks.search_tasks("theta or epsilon or eta") == []


def test_the_index_follows_a_rollback(tasks: TaskRepository, session: Session) -> None:
    tasks.create(id="a", title="alpha")
    with session.database.atomic() as scope:
        tasks.update("a", title="beta")
        tasks.create(id="b", title="beta")
        scope.rollback()
    assert tasks.search_tasks("beta") == []
    assert ids(tasks.search_tasks("alpha")) == ["a"]


def test_the_index_follows_raw_sql(tasks: TaskRepository, session: Session) -> None:
    session.execute("INSERT INTO tasks (id, title) VALUES ('a', 'alpha'), ('b', 'alpha')")
    assert set(ids(tasks.search_tasks("alpha"))) == {"a", "b"}
    session.execute("UPDATE tasks SET title = 'beta' WHERE id = 'a'")
    assert ids(tasks.search_tasks("alpha")) == ["b"]
    session.execute("UPDATE tasks SET id = 'c' WHERE id = 'a'")
    assert ids(tasks.search_tasks("beta")) == ["c"]
    session.execute("DELETE FROM tasks WHERE id = 'b'")
    assert tasks.search_tasks("alpha") == []
    session.execute("DELETE FROM tasks")
    assert tasks.search_tasks("beta") == []


@pytest.mark.parametrize("backend", ["memory", "sqlite"], indirect=True)
@pytest.mark.parametrize("foreign_keys", ["ON", "OFF"])
def test_the_index_follows_programs_without_foreign_keys(
    database: Database, foreign_keys: str
) -> None:
    database.connect()
    database.execute_sql(f"PRAGMA foreign_keys = {foreign_keys}")
    with open_session(database) as session:
        tasks = TaskRepository(session)
        tasks.create(id="a", title="a alpha", tags=["t"])
        tasks.create(id="b", title="b alpha")
        session.execute("DELETE FROM tasks WHERE id = 'a'")
        session.execute("INSERT INTO tasks (id, title) VALUES ('a', 'beta')")
        session.execute("INSERT OR REPLACE INTO tasks (id, title) VALUES ('b', 'gamma')")
        assert tasks.search_tasks("alpha") == []
        assert ids(tasks.search_tasks("beta")) == ["a"]
        assert ids(tasks.search_tasks("gamma")) == ["b"]
        assert tasks.get_tasks_by_tag("t") == []
        tasks.create(id="c", title="delta")
        assert ids(tasks.search_tasks("delta")) == ["c"]
    database.close()


@pytest.mark.parametrize("backend", ["memory", "sqlite"], indirect=True)
def test_the_index_survives_vacuum_and_a_rebuilt_table(database: Database) -> None:
    with open_session(database) as session:
        tasks = TaskRepository(session)
        tasks.bulk_create({"id": f"{n:03}", "title": f"number{n} alpha"} for n in range(100))
        tasks.bulk_delete([f"{n:03}" for n in range(0, 100, 2)])
    database.connect()
    database.execute_sql("VACUUM")
    with open_session(database) as session:
        tasks = TaskRepository(session)
        assert ids(tasks.search_tasks("number31")) == ["031"]
        assert len(tasks.search_tasks("alpha")) == 50
        tasks.update("031", title="other")
        tasks.delete("033")
        assert len(tasks.search_tasks("alpha")) == 48
        assert tasks.search_tasks("number31 or number33") == []
    database.close()


def test_words_of_a_very_long_text_are_found(tasks: TaskRepository) -> None:
    words = " ".join(f"word{number}" for number in range(8_000))
    tasks.create(id="long", title="x", description=words, context="context " * 200_000)
    tasks.create(id="one", title="x", description="y" * 1_500_000)
    tasks.create(id="blank", title="x", description=" " * 1_500_000 + "end")
    tasks.create(id="wide", title="x", description="語" * 1_200_000)
    tasks.create(id="marks", title="x", description="e" + "\u0301" * 400_000)
    tasks.create(id="many", title="x", description=" ".join(map(chr, range(0x4E00, 0x9F00))))
    tasks.create(id="astral", title="x", context=" ".join(map(chr, range(0x20000, 0x2A000))))
    tasks.create(id="grows", title="x", context=" ".join(["\u0958" * 9] * 150_000))
    assert ids(tasks.search_tasks("word7999")) == ["long"]
    assert ids(tasks.search_tasks("word0 context")) == ["long"]
    assert ids(tasks.search_tasks("y" * 200)) == ["one"]
    assert ids(tasks.search_tasks("y" * 50)) == ["one"]
    assert tasks.search_tasks("end") == []
    assert ids(tasks.search_tasks("語語語")) == ["wide"]
    assert ids(tasks.search_tasks("丁")) == ["many"]
    assert tasks.get_or_raise("wide").description == "語" * 1_200_000
    tasks.update("long", description="short")
    assert tasks.search_tasks("word7999") == []
    assert ids(tasks.search_tasks("short")) == ["long"]


def test_a_title_may_be_all_marks_and_signs(tasks: TaskRepository) -> None:
    for number, title in enumerate(["'", "\\", "''' \\' ''", "\u0301", "%s", "🚀", "\x01"]):
        tasks.create(id=str(number), title=title, description=title, context=title)
    assert tasks.count() == 7
    assert ids(tasks.search_tasks("s")) == ["4"]


# -- both backends --------------------------------------------------------------------------------


def _characters() -> Iterator[str]:
    ranges = [(0x20, 0x3400), (0x4E00, 0x4E40), (0xA000, 0xA4D0), (0xAC00, 0xAC40)]
    ranges += [(0xFB00, 0xFB50), (0xFE20, 0x10000), (0x1F300, 0x1F700), (0x20000, 0x20020)]
    for low, high in ranges:
        for code in range(low, high):
            if unicodedata.category(chr(code)) not in ("Cn", "Cs") and code not in _NEWEST:
                yield chr(code)


_NEWEST = {*range(0x2FFC, 0x3000), 0x31EF}  # which Python knows from 3.13 on, and SQLite does not


_RECENT = {*range(0x528, 0x530), *range(0x13A0, 0x1400), *range(0x1C80, 0x1CC0)}
_RECENT |= {0x1E0, 0x1E1, 0x37F, 0x1E9B, 0x2C2F}


def _is_stable(character: str) -> bool:
    """False for letters that Unicode has two ways for, or that are newer than SQLite's tables."""
    normal = unicodedata.normalize("NFC", character) == character
    return normal and ord(character) not in _RECENT


def test_every_character_means_the_same_on_both_backends(
    make_postgres: Callable[..., str],
) -> None:
    characters = list(_characters())
    sqlite = create_database("sqlite:///:memory:")
    run_migrations(database=sqlite)
    postgresql = create_database(make_postgres())
    with open_session(sqlite) as session:
        session.execute("CREATE VIRTUAL TABLE words USING fts5vocab (task_search, instance)")
        tasks = TaskRepository(session)
        tasks.bulk_create(
            {"id": f"{number:06}", "title": f"A{character}b"}
            for number, character in enumerate(characters)
        )
        found: dict[int, dict[int, str]] = {}
        for place, offset, term in session.execute("SELECT doc, offset, term FROM words"):
            found.setdefault(place - 1, {})[offset] = term
    by_fts5 = [" ".join(found[n][place] for place in sorted(found[n])) for n in sorted(found)]
    with open_session(postgresql) as session:
        rows = session.execute(
            "SELECT array_to_string(ARRAY(SELECT lexeme FROM unnest(hopper_lexemes(text)) "
            "ORDER BY positions[1]), ' ') "
            "FROM unnest(CAST(? AS TEXT[])) WITH ORDINALITY AS t(text, n) ORDER BY n",
            ([f"A{character}b" for character in characters],),
        )
    by_postgresql = [text for (text,) in rows]
    by_python = [" ".join(words_of(f"A{character}b")) for character in characters]
    for character, *views in zip(characters, by_fts5, by_postgresql, by_python, strict=True):
        if _is_stable(character):
            assert len(set(views)) == 1, (hex(ord(character)), views)
        else:
            assert len({len(view.split()) for view in views}) == 1, (hex(ord(character)), views)
    sqlite.close_pool()
    postgresql.close_pool()


_LATIN = ["login", "logout", "log", "lo", "l", "page", "payment", "Ångström", "été", "don't"]
_SIGNS = ["cmd/show.go", "foo_bar", "3.14", "1e5", "a-b", "<b>x</b>", "v1.2", "🚀", "x²"]
_VOCABULARY = st.sampled_from([*_LATIN, *_SIGNS, "Новый", "ΣΟΦΟΣ", "안녕", "データ", "हिन्दी"])
_LETTERS = st.characters(
    categories=["L", "M", "N", "P", "S", "Zs"], min_codepoint=0x20, max_codepoint=0x33FF
).filter(_is_stable)
_TEXTS = st.lists(_VOCABULARY | st.text(_LETTERS, max_size=8), max_size=8).map(" ".join)
_PIECES = st.sampled_from(['"', "-", " or ", "*", " ", '" "', "(", ":", "'"])
_QUERIES = st.lists(_VOCABULARY | _PIECES | st.text(_LETTERS, max_size=4), max_size=8).map(
    lambda pieces: " ".join(pieces).replace(" * ", "* ").replace("- ", "-").replace('" ', '"')
)


class _Undo(Exception):
    pass


@pytest.fixture
def both(make_postgres: Callable[..., str]) -> Iterator[list[Database]]:
    databases = [create_database("sqlite:///:memory:"), create_database(make_postgres())]
    run_migrations(database=databases[0])
    yield databases
    for database in databases:
        database.close_pool()


def _answers(
    database: Database, rows: list[dict[str, Any]], queries: list[str]
) -> list[tuple[str, list[str]]]:
    answers: list[tuple[str, list[str]]] = []
    try:
        with open_session(database) as session:
            tasks = TaskRepository(session)
            tasks.bulk_create(rows)
            answers = [(query, sorted(ids(tasks.search_tasks(query)))) for query in queries]
            raise _Undo
    except _Undo:
        return answers


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    documents=st.lists(st.tuples(_TEXTS, _TEXTS, st.none() | _TEXTS), min_size=1, max_size=8),
    queries=st.lists(_QUERIES | _TEXTS, min_size=1, max_size=6),
)
@example(documents=[("\u1dca\u0816", "", None)], queries=[""])
def test_both_backends_give_the_same_answers(
    both: list[Database], documents: list[tuple[str, str, str | None]], queries: list[str]
) -> None:
    rows = [
        {"id": str(number), "title": title[:500], "description": description, "context": context}
        for number, (title, description, context) in enumerate(documents)
    ]
    queries += [title for title, _, _ in documents]
    sqlite, postgresql = (_answers(database, rows, queries) for database in both)
    assert sqlite == postgresql


def test_both_backends_order_alike(both: list[Database]) -> None:
    words = ["login", "page", "other"]
    rows = [
        {"id": "".join(texts), "title": texts[0], "description": texts[1], "context": texts[2]}
        for texts in itertools.product(words, repeat=3)
    ]

    def place(key: str, wanted: set[str]) -> int:
        found = re.findall("|".join(words), key)
        return 2 if wanted <= {found[0]} else 1 if wanted <= set(found[:2]) else 0

    for database in both:
        with open_session(database) as session:
            tasks = TaskRepository(session)
            tasks.bulk_create(rows)
            for query in ("login", "login page"):
                found = ids(tasks.search_tasks(query))
                places = [place(key, set(query.split())) for key in found]
                assert places == sorted(places, reverse=True)
                assert len(set(places)) == 3 - query.count(" ")
