"""`@ingress`: an ASGI application answers for a class, with its methods as routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from headrace.asgi_ingress import ingress
from headrace.exceptions import BackPressureError, ConfigError, RequestTimeoutError
from headrace.replica.http.asgi import build_asgi_app
from headrace.router.asgi_app_copy import copy_app
from headrace.router.ingress_app import ingress_app_of


class Item(BaseModel):
    text: str


def client(instance: Any, **options: Any) -> TestClient:
    return TestClient(asyncio.run(build_asgi_app(instance)), **options)


def scale() -> int:
    return 10


def make_counter() -> type[Any]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        app.state.ready = True
        yield {"model": "v1"}

    app = FastAPI(title="Counter", lifespan=lifespan)
    app.add_middleware(CORSMiddleware, allow_origins=["*"])

    @ingress(app)
    class Counter:
        """Counts."""

        def __init__(self, start: int = 0) -> None:
            self.count = start

        @app.get("/add/{n}")
        def add(self, n: int, factor: int = Depends(scale)) -> int:
            self.count += n * factor
            return self.count

        @app.post("/echo")
        async def echo(self, item: Item) -> Item:
            return item

        @app.get("/stream")
        async def stream(self) -> StreamingResponse:
            return StreamingResponse(iter([f"{self.count}", "!"]))

        @app.get("/state")
        async def state(self, request: Request) -> list[Any]:
            return [request.app.state.ready, app.state.ready, request.state.model]

        @app.websocket("/ws")
        async def ws(self, websocket: WebSocket) -> None:
            await websocket.accept()
            await websocket.send_text(f"{await websocket.receive_text()} {self.count}")
            await websocket.close()

        @app.get("/refuse")
        async def refuse(self) -> None:
            raise BackPressureError(4, 4, retry_after_s=2.5)

        @app.get("/late")
        async def late(self) -> None:
            raise RequestTimeoutError("late")

        @app.get("/teapot")
        async def teapot(self) -> None:
            raise HTTPException(418, "short and stout")

    return Counter


def test_routes_that_are_methods_get_the_instance() -> None:
    with client(make_counter()(5)) as http:
        assert http.get("/add/1").json() == 15
        assert http.get("/add/2").json() == 35
        assert http.get("/add/x").json()["detail"][0]["loc"] == ["path", "n"]
        assert http.post("/echo", json={"text": "a"}).json() == {"text": "a"}
        assert http.post("/echo", json={"txt": "a"}).status_code == 422
        assert http.get("/stream").text == "35!"
        assert http.get("/teapot").status_code == 418


def test_each_instance_has_an_application_of_its_own() -> None:
    counter = make_counter()
    with client(counter(0)) as one, client(counter(100)) as other:
        assert (one.get("/add/1").json(), other.get("/add/1").json(), one.get("/add/1").json()) == (10, 110, 20)


def test_websockets_lifespan_and_middleware_work() -> None:
    with client(make_counter()(5)) as http:
        with http.websocket_connect("/ws") as socket:
            socket.send_text("hi")
            assert socket.receive_text() == "hi 5"
        assert http.get("/state").json() == [True, True, "v1"]
        assert http.get("/add/1", headers={"origin": "http://x"}).headers["access-control-allow-origin"] == "*"


def test_the_docs_page_and_its_links_know_the_route_prefix() -> None:
    with client(make_counter()(), root_path="/counter") as http:
        document = http.get("/counter/openapi.json").json()
        assert [p["name"] for p in document["paths"]["/add/{n}"]["get"]["parameters"]] == ["n"]
        assert document["servers"] == [{"url": "/counter"}]
        assert "/counter/openapi.json" in http.get("/counter/docs").text
        assert http.get("/counter/add/1").json() == 10


def test_what_a_handle_raises_is_answered_with_its_own_status() -> None:
    with client(make_counter()()) as http:
        refused = http.get("/refuse")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "3")
        assert "4 requests are already queued" in refused.json()["detail"]
        assert http.get("/late").status_code == 408


def test_the_class_keeps_its_name_and_the_users_class_stays_as_it_was() -> None:
    app = FastAPI()

    class Plain:
        """Docs."""

        @app.get("/")
        def root(self) -> str:
            return "ok"

    decorated = ingress(app)(Plain)
    assert (decorated.__name__, decorated.__qualname__, decorated.__doc__) == ("Plain", Plain.__qualname__, "Docs.")
    assert ingress_app_of(decorated) is not None and ingress_app_of(Plain) is None
    assert decorated().root() == "ok"


def test_what_is_added_to_the_app_later_does_not_show() -> None:
    app = FastAPI()

    @ingress(app)
    class Early:
        @app.get("/early")
        def early(self) -> str:
            return "early"

    @app.get("/late")
    def late() -> str:
        return "late"

    with client(Early()) as http:
        assert (http.get("/early").status_code, http.get("/late").status_code) == (200, 404)


def test_two_classes_on_one_app_each_have_their_own_routes() -> None:
    app = FastAPI()

    @ingress(app)
    class One:
        @app.get("/one")
        def one(self) -> str:
            return "one"

    @ingress(app)
    class Two:
        @app.get("/two")
        def two(self) -> str:
            return "two"

    with client(One()) as one, client(Two()) as two:
        assert [one.get(path).status_code for path in ("/one", "/two")] == [200, 404]
        assert [two.get(path).status_code for path in ("/one", "/two")] == [404, 200]


def test_routes_are_inherited() -> None:
    app = FastAPI()

    class Base:
        name = "base"

        @app.get("/name")
        def get_name(self) -> str:
            return self.name

    @ingress(app)
    class Child(Base):
        name = "child"

        @app.get("/super")
        def get_super(self) -> str:
            return super().get_name()

    class Grandchild(Child):
        name = "grandchild"

    with client(Child()) as http:
        assert (http.get("/name").json(), http.get("/super").json()) == ("child", "child")
    with client(Grandchild()) as http:
        assert http.get("/name").json() == "grandchild"


def test_names_that_begin_alike_are_told_apart() -> None:
    app = FastAPI()

    class AA:
        @app.get("/aa")
        def aa(self) -> str:
            return "aa"

    @ingress(app)
    class A:
        @app.get("/a")
        def a(self) -> str:
            return "a"

        @app.get("/static")
        @staticmethod
        def static(x: int) -> int:
            return x

    with client(A()) as http:
        assert http.get("/a").json() == "a"
        assert http.get("/aa").status_code == 422  # still a function that asks for `self`
        assert http.get("/static?x=2").json() == 2


def test_two_methods_of_one_name_are_two_routes() -> None:
    app = FastAPI()

    @ingress(app)
    class Same:
        @app.get("/get")
        def it(self) -> str:
            return "get"

        @app.post("/post")
        def it(self) -> str:  # type: ignore[no-redef] # noqa: F811
            return "post"

    with client(Same()) as http:
        assert (http.get("/get").json(), http.post("/post").json()) == ("get", "post")


def test_included_routers_keep_their_prefix_order_and_dependencies() -> None:
    def token(x_token: str = Header()) -> None:
        if x_token != "secret":
            raise HTTPException(401)

    app, router = FastAPI(), APIRouter(prefix="/v1")

    class Model:
        @router.get("/me")
        def me(self) -> str:
            return "me"

        @router.get("/{name}")
        def named(self, name: str) -> str:
            return name

    app.include_router(router, prefix="/api", dependencies=[Depends(token)])
    with client(ingress(app)(Model)()) as http:
        assert http.get("/api/v1/me", headers={"x-token": "wrong"}).status_code == 401
        assert http.get("/api/v1/me", headers={"x-token": "secret"}).json() == "me"
        assert http.get("/api/v1/you", headers={"x-token": "secret"}).json() == "you"


def test_a_router_is_an_application_too() -> None:
    router = APIRouter()

    @ingress(router)
    class Model:
        @router.get("/")
        def root(self) -> str:
            return type(self).__name__

    with client(Model()) as http:
        assert http.get("/").json() == "Model"


def test_an_app_without_a_class_gets_one() -> None:
    app = FastAPI()

    @app.get("/hi")
    def hi() -> str:
        return "hi"

    decorated = ingress(app)()
    with client(decorated("any", argument=1)) as http:
        assert http.get("/hi").json() == "hi"


async def bare_app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await PlainTextResponse(scope["path"])(scope, receive, send)


def build_starlette() -> Starlette:
    async def root(request: Request) -> PlainTextResponse:
        return PlainTextResponse("starlette")

    return Starlette(routes=[Route("/", root)])


async def build_later() -> Any:
    return build_starlette()


@pytest.mark.parametrize(
    ("app", "text"),
    [(bare_app, "/"), (build_starlette, "starlette"), (build_later, "starlette"), (build_starlette(), "starlette")],
)
def test_any_asgi_app_or_function_that_builds_one_will_do(app: Any, text: str) -> None:
    assert client(ingress(app)()()).get("/").text == text


def test_a_class_may_build_its_app_from_its_instance() -> None:
    @ingress()
    class Late:
        def __init__(self) -> None:
            self.name = "late"

        def __serve_build_asgi_app__(self) -> FastAPI:
            app = FastAPI()
            app.get("/")(lambda: self.name)
            return app

    assert client(Late()).get("/").json() == "late"


def test_streaming_endpoints_keep_their_item_type() -> None:
    app = FastAPI()

    @ingress(app)
    class Model:
        @app.get("/items")
        async def items(self) -> AsyncIterator[Item]:
            yield Item(text="a")
            yield Item(text="b")

    with client(Model()) as http:
        assert http.get("/items").text.split() == ['{"text":"a"}', '{"text":"b"}']


# ----- mistakes


def test_mistakes_are_named() -> None:
    app = FastAPI()

    class Callable_:
        def __call__(self) -> str:
            return ""

    class Deployment:
        def bind(self) -> None: ...

    class Plain:
        pass

    with pytest.raises(ConfigError, match="has a method __call__"):
        ingress(app)(Callable_)
    with pytest.raises(ConfigError, match=r"Put @serve\.ingress below @serve\.deployment"):
        ingress(app)(Deployment())  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match=r"Write `@serve\.ingress\(app\)`"):
        ingress(Plain)
    with pytest.raises(ConfigError, match="expected an ASGI application"):
        ingress("app")
    with pytest.raises(ConfigError, match="__serve_build_asgi_app__"):
        ingress()(Plain)


async def test_a_factory_that_returns_no_app_is_named() -> None:
    def forgets_to_return() -> None: ...

    with pytest.raises(ConfigError, match="must be callable as"):
        await build_asgi_app(ingress(forgets_to_return)()())


# ----- copies


def test_a_copy_shares_state_and_overrides_and_has_routes_of_its_own() -> None:
    app = FastAPI()

    @app.get("/scaled")
    def scaled(factor: int = Depends(scale)) -> int:
        return factor

    app.state.big = object()
    copied = copy_app(app)
    assert copied.state is app.state and copied.dependency_overrides is app.dependency_overrides
    assert copied.router is not app.router and copied.routes is not app.routes
    app.dependency_overrides[scale] = lambda: 3

    @copied.get("/new")
    def new() -> int:
        return 1

    assert TestClient(copied).get("/scaled").json() == 3
    assert TestClient(app).get("/new").status_code == 404
    assert set(copied.openapi()["paths"]) == set(TestClient(copied).get("/openapi.json").json()["paths"])
    assert "/new" in copied.openapi()["paths"] and "/new" not in app.openapi()["paths"]
