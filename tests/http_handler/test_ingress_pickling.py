"""An ingress class reaches its replica: pickled here, unpickled and served in another process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from contextlib import asynccontextmanager
import cloudpickle
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from pydantic import BaseModel
from headrace.asgi_ingress import ingress

@asynccontextmanager
async def lifespan(app):
    app.state.model = MODEL
    yield

class Item(BaseModel):
    text: str

def factor() -> int:
    return 10

app = FastAPI(lifespan=lifespan)
router = APIRouter()

@router.get("/included")
def included() -> str:
    return app.state.model

app.include_router(router, prefix="/v1")

@ingress(app)
class Model:
    def __init__(self, start):
        self.count = start

    @app.get("/add/{n}")
    def add(self, n: int, by: int = Depends(factor)) -> int:
        self.count += n * by + helper()
        return self.count

    @app.post("/echo")
    async def echo(self, item: Item) -> Item:
        return item

    @app.websocket("/ws")
    async def ws(self, websocket: WebSocket):
        await websocket.accept()
        await websocket.send_json(self.count)
        await websocket.close()

    def name(self):
        return "model"

class Child(Model):
    @app.get("/unused")
    def name(self):
        return "child of " + super().name()

# Defined after the class that uses them, as scripts do.
MODEL = "v1"
def helper() -> int:
    return 1

{dump}
"""

SERVE = """
import asyncio, pickle, sys
from starlette.testclient import TestClient
from headrace.replica.http.asgi import build_asgi_app
Model, Child = pickle.load(open(sys.argv[1], "rb"))
with TestClient(asyncio.run(build_asgi_app(Model(100)))) as http:
    assert http.get("/add/2").json() == 121, http.get("/add/2").text
    assert http.post("/echo", json={"text": "a"}).json() == {"text": "a"}
    assert http.post("/echo", json={}).status_code == 422
    assert http.get("/v1/included").json() == "v1"
    assert set(http.get("/openapi.json").json()["paths"]) == {"/add/{n}", "/echo", "/v1/included"}
    assert http.get("/docs").status_code == 200
    with http.websocket_connect("/ws") as socket:
        assert socket.receive_json() == 121
with TestClient(asyncio.run(build_asgi_app(Child(1)))) as http:
    assert http.get("/add/2").json() == 22
    assert Child(1).name() == "child of model"
"""


def serve_elsewhere(tmp_path: Path, dump: str, future: str = "") -> None:
    script, pickled = tmp_path / "driver.py", tmp_path / "classes.pickle"
    script.write_text(future + SCRIPT.replace("{dump}", dump))
    subprocess.run([sys.executable, str(script), str(pickled)], check=True, timeout=60)
    subprocess.run([sys.executable, "-c", SERVE, str(pickled)], check=True, timeout=60, cwd="/")


def test_a_fastapi_ingress_class_of_a_script_is_served_in_another_process(tmp_path: Path) -> None:
    serve_elsewhere(tmp_path, 'open(sys.argv[1], "wb").write(cloudpickle.dumps((Model, Child)))')


def test_so_it_is_through_the_pickler_for_user_code(tmp_path: Path) -> None:
    # Unlike plain cloudpickle it takes along what string annotations name.
    serve_elsewhere(
        tmp_path,
        "from headrace.serialization import dumps_code\nopen(sys.argv[1], 'wb').write(dumps_code((Model, Child)))",
        future="from __future__ import annotations",
    )
