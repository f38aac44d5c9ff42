"""A FastAPI service over tasks: `DATABASE_URL=… uvicorn examples.service:app`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from hopper_data import (
    AsyncSession,
    DatabaseError,
    DatabaseUnavailable,
    IntegrityError,
    InvalidTransition,
    NotFound,
    ValidationError,
    get_async_session,
)
from hopper_data.routing.asynchronous import AsyncTaskRepository

app = FastAPI(title="Tasks")
logger = logging.getLogger("tasks")


async def session() -> AsyncIterator[AsyncSession]:
    """One session for each request: committed when it ends well, rolled back when it does not.

    Asynchronous on purpose: FastAPI ends a synchronous dependency on another thread. Its scope is
    the function, below, so that what is committed is known before the answer is sent.
    """
    async with get_async_session() as opened:
        yield opened


async def tasks(
    opened: Annotated[AsyncSession, Depends(session, scope="function")],
) -> AsyncTaskRepository:
    return AsyncTaskRepository(opened)


Tasks = Annotated[AsyncTaskRepository, Depends(tasks)]


class NewTask(BaseModel, extra="forbid"):
    title: str
    priority: str = "medium"
    tags: list[str] = []
    id: str | None = None


class StatusChange(BaseModel, extra="forbid"):
    status: str


@app.post("/tasks", status_code=201)
async def create_task(new: NewTask, tasks: Tasks) -> dict[str, Any]:
    return (await tasks.create(**new.model_dump(exclude_none=True))).to_dict()


@app.get("/tasks")
async def list_tasks(
    tasks: Tasks, limit: Annotated[int, Query(le=100)] = 20, after: str | None = None
) -> dict[str, Any]:
    page = await tasks.page(limit=limit, after=after, order_by="-created_at")
    return {"items": [task.to_dict() for task in page.items], "next": page.next}


@app.get("/tasks/{task_id}")
async def read_task(task_id: str, tasks: Tasks) -> dict[str, Any]:
    return (await tasks.get_or_raise(task_id)).to_dict()


@app.put("/tasks/{task_id}/status")
async def change_status(task_id: str, change: StatusChange, tasks: Tasks) -> dict[str, Any]:
    task = await tasks.update_status(task_id, change.status)
    if task is None:
        raise NotFound(f"Task {task_id!r} does not exist")
    return task.to_dict()


STATUS_CODES: dict[type[DatabaseError], int] = {
    NotFound: 404,
    IntegrityError: 409,
    InvalidTransition: 409,
    ValidationError: 422,
    DatabaseUnavailable: 503,
}


@app.exception_handler(DatabaseError)
async def explain(_: Request, error: DatabaseError) -> JSONResponse:
    """The code of the error's most special class, and its own words where they are the caller's."""
    codes = [STATUS_CODES[kind] for kind in type(error).__mro__ if kind in STATUS_CODES]
    code = codes[0] if codes else 500
    if code < 500:
        return JSONResponse({"detail": str(error)}, code)
    logger.error("%s", error, exc_info=error)
    return JSONResponse({"detail": "the database cannot do this now; try again later"}, code)
