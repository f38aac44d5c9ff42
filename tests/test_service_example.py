"""The FastAPI example, through HTTP, on every backend."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from examples import async_worker
from examples.service import app
from hopper_data import TaskRepository, Worker, connect, create_database, using
from hopper_data.database import Database, proxy
from hopper_data.session import open_session


def serve(database: Database, work: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await work(client)

    return asyncio.run(run())


def test_a_task_is_made_read_listed_and_moved_on(database: Database) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        made = await client.post("/tasks", json={"title": "Ship it", "tags": ["release"]})
        assert made.status_code == 201
        task_id = made.json()["id"]
        assert (await client.get(f"/tasks/{task_id}")).json() == made.json()
        listed = (await client.get("/tasks", params={"limit": 1})).json()
        assert [task["id"] for task in listed["items"]] == [task_id]
        moved = await client.put(f"/tasks/{task_id}/status", json={"status": "in_progress"})
        assert moved.json()["status"] == "in_progress"

    serve(database, work)
    with open_session(database) as session:
        assert TaskRepository(session).count({"status": "in_progress"}) == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "words"),
    [
        ("GET", "/tasks/nothing", None, 404, "does not exist"),
        ("PUT", "/tasks/nothing/status", {"status": "completed"}, 404, "does not exist"),
        ("POST", "/tasks", {"id": "taken", "title": "again"}, 409, "already taken"),
        ("PUT", "/tasks/taken/status", {"status": "failed"}, 409, "cannot go from"),
        ("POST", "/tasks", {"title": "x", "priority": "urgnt"}, 422, "not one of"),
        ("GET", "/tasks?limit=-1", None, 422, "limit is -1"),
        ("GET", "/tasks?after=nonsense", None, 422, "not a cursor"),
    ],
)
def test_errors_have_their_codes(
    database: Database, method: str, path: str, body: Any, code: int, words: str
) -> None:
    with open_session(database) as session:
        TaskRepository(session).create(id="taken", title="first")

    async def work(client: httpx.AsyncClient) -> httpx.Response:
        return await client.request(method, path, json=body)

    answer = serve(database, work)
    assert answer.status_code == code
    assert words in answer.json()["detail"]
    with open_session(database) as session:
        assert TaskRepository(session).count() == 1


def test_fifty_requests_at_once(database: Database) -> None:
    async def work(client: httpx.AsyncClient) -> list[int]:
        posts = (client.post("/tasks", json={"title": f"Task {n}"}) for n in range(50))
        return [answer.status_code for answer in await asyncio.gather(*posts)]

    assert serve(database, work) == [201] * 50
    with open_session(database) as session:
        assert TaskRepository(session).count() == 50


def test_a_service_without_a_database_is_unavailable() -> None:
    connect("postgresql://nobody@127.0.0.1:1/none")

    async def work(client: httpx.AsyncClient) -> httpx.Response:
        return await client.get("/tasks")

    answer = serve(proxy.obj, work)
    assert answer.status_code == 503
    assert "127.0.0.1" not in answer.text
    proxy.initialize(None)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/tasks", {"title": "x", "prioriti": "high"}),
        ("POST", "/tasks", {"tags": ["no title"]}),
        ("PUT", "/tasks/taken/status", {"status": "claimed", "agent": "ann"}),
        ("GET", "/tasks?limit=101", None),
    ],
)
def test_a_request_that_is_not_as_described_is_refused(
    database: Database, method: str, path: str, body: Any
) -> None:
    async def work(client: httpx.AsyncClient) -> int:
        return (await client.request(method, path, json=body)).status_code

    assert serve(database, work) == 422
    with open_session(database) as session:
        assert TaskRepository(session).count() == 0


def test_what_cannot_be_committed_is_not_said_to_be_done(make_url: Callable[..., str]) -> None:
    database = create_database(make_url("postgresql"))
    with open_session(database) as session:
        session.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'not at this hour'; END $$"
        )
        session.execute(
            "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON tasks DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION refuse()"
        )

    async def work(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/tasks", json={"title": "x"})

    with using(database):
        answer = serve(database, work)
    assert answer.status_code == 500
    assert answer.json() == {"detail": "the database cannot do this now; try again later"}
    with open_session(database) as session:
        assert TaskRepository(session).count() == 0
    database.close_pool()


def test_workers_do_every_task_once(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    with open_session(database) as session:
        TaskRepository(session).bulk_create([{"title": f"Task {n}"} for n in range(12)])

    async def together() -> int:
        workers = [Worker(name, concurrency=2) for name in "abc"]
        runs = (each.run_async(async_worker.handle, until_empty=True) for each in workers)
        return sum(await asyncio.gather(*runs))

    assert asyncio.run(together()) == 12
    assert len(capsys.readouterr().out.splitlines()) == 12
    with open_session(database) as session:
        assert TaskRepository(session).count({"status": "completed"}) == 12
