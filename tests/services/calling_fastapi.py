"""The service of calling_app.py by FastAPI, for uvicorn: as calling_starlette.py has it, and a dependency that runs in a thread."""

from __future__ import annotations

from fastapi import BackgroundTasks, Depends, FastAPI, Request

from tests.services.calling_app import work_in_tasks
from tests.services.calling_clients import ask_in_tasks
from tests.services.calling_starlette import WithNoise, work_in_a_thread, work_late

api = FastAPI()


def path_of(request: Request) -> str:
    return request.url.path


@api.get("/in/sync/{name}")
def sync(path: str = Depends(path_of)) -> str:
    work_in_a_thread(path)
    return "ok"


@api.get("/in/late-sync/{name}")
def late_sync(request: Request, behind: BackgroundTasks) -> str:
    behind.add_task(work_in_a_thread, request.url.path)
    return "ok"


@api.get("/in/late-task/{name}")
async def late_task(request: Request, behind: BackgroundTasks) -> str:
    behind.add_task(work_late, request.url.path)
    return "ok"


@api.get("/{rest:path}")
async def others(request: Request) -> str:
    if request.url.path != "/":
        await work_in_tasks(request.url.path, ask_in_tasks())
    return "ok"


app = WithNoise(api)
