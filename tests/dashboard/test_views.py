"""The dashboard in a real browser, before an instance without a token."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from tests.serve.conditions import running, until

import headrace as serve
from headrace import client as driver

from .browser import aside, overflow, page_of, serious_findings
from .sample_apps import Notes, Page, Release, chat, triage

pytestmark = [pytest.mark.full, pytest.mark.local_engine("ends processes of this machine")]

VIEWS = [
    "#/",
    "#/requests",
    "#/nodes",
    "#/app/tickets",
    "#/app/tickets/deployment/Classifier",
    "#/app/tickets/replicas",
    "#/app/tickets/scaling",
    "#/app/tickets/requests?kind=failed",
    "#/app/tickets/logs",
    "#/app/tickets/history",
    "#/app/tickets/config",
    "#/app/tickets/playground",
    "#/app/chat/playground",
]


@pytest.fixture(scope="module")
def instance(browser: Any) -> Iterator[driver.Client]:
    aside(serve.start, http_options={"port": 0, "num_proxies": 1}, rest_options={"port": 0})
    yield aside(driver.find)
    aside(serve.shutdown)


@pytest.fixture(scope="module")
def tickets(instance: driver.Client) -> Iterator[str]:
    """The pipeline and the chat, and somebody who calls the pipeline all the time; now and then in vain."""
    aside(serve.run, triage(), name="tickets", route_prefix="/tickets")
    aside(serve.run, chat(), name="chat", route_prefix="/chat")
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=instance.http_url or "", timeout=30) as client:
            number = 0
            while not done.wait(0.02):
                number += 1
                client.post("/tickets", json={"text": "unreadable" if number % 10 == 0 else "where is my parcel"})

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield instance.rest_url
    done.set()
    for thread in threads:
        thread.join()


@pytest.fixture
def page(browser: Any, tickets: str) -> Iterator[Any]:
    with page_of(browser, tickets) as opened:
        yield opened


def go(page: Any, view: str) -> None:
    page.goto(f"/{view}")
    page.get_by_text("Live", exact=True).wait_for()


def test_the_overview_shows_each_application_with_its_figures(page: Any) -> None:
    go(page, "#/")
    row = page.get_by_role("row", name=re.compile("tickets"))
    row.get_by_text("Running").wait_for()
    until(lambda: re.fullmatch(r"[1-9][\d.]*/s", page.locator(".tile-value").first.inner_text()))
    row.get_by_text(re.compile(r"[\d.]+ ms")).first.wait_for()
    row.get_by_role("link", name="tickets").click()
    page.get_by_role("heading", name="tickets").wait_for()
    assert page.title() == "tickets · Headrace"


def test_the_pipeline_has_its_calls_its_load_and_what_was_measured(page: Any) -> None:
    go(page, "#/app/tickets")
    for name, count in (("Triage", 1), ("Embedder", 2), ("Summarizer", 1)):
        page.get_by_role("link", name=re.compile(rf"{name} {count} replica")).wait_for()
    assert page.get_by_text("calls Embedder, Classifier, Summarizer").count() == 1
    assert page.locator(".edge").count() == 4  # with the one that leads in
    page.locator(".edge.flowing text", has_text="/s").nth(3).wait_for(state="attached")
    page.get_by_text(re.compile("/s errors")).first.wait_for()
    for title in ("Requests", "Latency", "Load", "Replicas"):
        page.get_by_role("img", name=re.compile(rf"^{title}: now .*\d")).wait_for()
    # Callees are right of their caller.
    left = {
        name: page.get_by_role("link", name=re.compile(f"^{name} ")).bounding_box()["x"]
        for name in ("Triage", "Embedder")
    }
    assert left["Triage"] < left["Embedder"]


def test_a_chart_tells_what_was_at_the_pointer(page: Any) -> None:
    go(page, "#/app/tickets/deployment/Embedder")
    plot = page.get_by_role("img", name=re.compile("^Requests: now"))
    plot.wait_for()
    before = plot.locator(".cursor").count()
    plot.hover(position={"x": 30, "y": 20})
    plot.locator(".cursor").wait_for(state="attached")
    assert before == 0


def test_failed_requests_are_waterfalls_through_the_pipeline(page: Any) -> None:
    go(page, "#/requests?kind=failed")
    failed = page.locator("details.request").first
    failed.get_by_text("ValueError").first.wait_for()
    failed.locator("summary").click()
    rows = failed.locator(".waterfall li")
    rows.first.wait_for()
    assert {"Triage", "Classifier"} <= {row.split()[0] for row in rows.all_inner_texts()}
    width = failed.locator(".waterfall .ran").first.bounding_box()["width"]
    assert width > 20
    # What is open stays open when the list is read again.
    shown = page.locator("details.request[open]").get_attribute("data-key")
    with page.expect_response(re.compile("/api/headrace/requests")):
        pass
    until(lambda: page.locator("details.request").first.get_attribute("data-key") != shown)
    assert page.locator("details.request[open]").get_attribute("data-key") == shown


def test_the_slowest_requests_come_first(page: Any) -> None:
    go(page, "#/app/tickets/requests")
    page.get_by_role("link", name="Slowest").wait_for()
    page.locator("details.request").nth(3).wait_for()
    shown = page.evaluate(
        "[...document.querySelectorAll('.request .bar span')].map(bar => parseFloat(bar.style.width))"
    )
    assert shown[0] == 100 and shown == sorted(shown, reverse=True)
    page.get_by_role("link", name="Recent").click()
    page.locator("nav.choices a[aria-current]", has_text="Recent").wait_for()


def entry(message: str, level: str = "INFO") -> dict[str, Any]:
    return {"time": time.time(), "level": level, "process": "tickets/Triage/abcde", "message": message}


def test_the_logs_of_an_application_go_on_as_it_says_more(page: Any) -> None:
    go(page, "#/app/tickets/logs")
    failures = page.get_by_role("log", name="Log lines").get_by_text(re.compile("failed"))
    failures.first.wait_for()
    before = failures.count()
    failures.nth(before).wait_for()


def test_logs_are_shown_as_text_by_replica_and_level(page: Any) -> None:
    # Made up here, so that they hold what would be markup.
    asked = []

    def answer(route: Any) -> None:
        asked.append(parse_qs(urlsplit(route.request.url).query))
        said = [{"not_shown": []}, entry("<b>bold</b>"), entry("it is broken\nreally", "ERROR")]
        route.fulfill(body="\n\n".join(map(json.dumps, said)) + "\n", content_type="application/x-ndjson")

    page.route("**/api/headrace/logs/entries?*", answer)
    go(page, "#/app/tickets/replicas")
    link = page.get_by_role("link", name=re.compile("^Logs of tickets#Embedder#")).first
    replica = (link.get_attribute("aria-label") or "").removeprefix("Logs of ").replace("#", "/")
    link.click()
    lines = page.get_by_role("log", name="Log lines")
    lines.get_by_text("<b>bold</b>").wait_for()
    assert lines.locator("b").count() == 0
    lines.locator(".bad", has_text="it is broken").wait_for()
    assert asked[0]["target"] == [replica] and asked[0]["follow"] == ["true"]
    with page.expect_request(re.compile(r"/entries\?.*level=ERROR")):
        page.get_by_label("Level").select_option("ERROR")
    assert serious_findings(page) == []
    page.set_viewport_size({"width": 360, "height": 740})
    assert overflow(page) <= 0


def test_where_a_controller_shows_no_logs_the_command_is_told(page: Any) -> None:
    page.problems.expected = ("404",)
    page.route("**/api/headrace/logs/**", lambda route: route.fulfill(status=404, json={"error": "Not Found"}))
    go(page, "#/app/tickets/logs")
    page.get_by_text("headrace logs tickets -f").wait_for()


def test_a_deploy_is_seen_live(page: Any) -> None:
    go(page, "#/")
    page.get_by_role("link", name="tickets", exact=True).wait_for()
    assert page.get_by_role("link", name="newcomer").count() == 0
    aside(serve.run, Release.bind(), name="newcomer", route_prefix="/newcomer")
    row = page.get_by_role("row", name=re.compile("newcomer"))
    row.get_by_text("Running").wait_for()
    row.get_by_text("1/1").wait_for()
    aside(serve.delete, "newcomer")
    row.wait_for(state="detached")


def test_a_killed_replica_and_its_successor_are_seen_live(page: Any) -> None:
    go(page, "#/app/tickets/deployment/Summarizer")
    table = page.get_by_role("region", name="Replicas")
    before = aside(running, "Summarizer", "tickets")[0]
    short = before.replica_id.rpartition("#")[2]
    table.get_by_text(short, exact=True).wait_for()
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    table.get_by_text(short, exact=True).wait_for(state="detached")
    table.locator("tr", has_text="Running").wait_for()
    after = aside(running, "Summarizer", "tickets")[0]
    table.get_by_text(after.replica_id.rpartition("#")[2], exact=True).wait_for()
    table.get_by_text(re.compile(r"[\d.]+ MB")).first.wait_for()


def test_decisions_are_shown_with_their_reasons_and_on_the_time_line(page: Any, instance: driver.Client) -> None:
    go(page, "#/app/tickets/scaling")
    page.get_by_role("cell", name=re.compile("ongoing requests")).wait_for()
    done = threading.Event()

    def press() -> None:
        with httpx.Client(base_url=instance.http_url or "", timeout=30) as client:
            while not done.is_set():
                client.post("/tickets", json={"text": "hurry"})

    threads = [threading.Thread(target=press) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        page.locator(".timeline .up").first.wait_for()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    reason = page.locator(".timeline .reason").first.inner_text()
    assert "ongoing requests" in reason and "upscale_delay_s" in reason
    page.locator("figure .mark").first.wait_for(state="attached")


def test_the_form_of_a_typed_handler_calls_it(page: Any) -> None:
    go(page, "#/app/tickets/playground")
    page.get_by_label("text required").fill("my invoice is wrong")
    page.get_by_label("language").select_option("de")
    assert page.get_by_label("urgency").input_value() == "0.5"
    page.get_by_label("shout").check()
    page.get_by_role("button", name="Send").click()
    page.get_by_text(re.compile("^Status 200")).wait_for()
    answer = page.get_by_role("region", name="Answer").inner_text()
    assert '"summary": "MY INVOICE IS WRONG"' in answer and "-de" in answer
    assert serious_findings(page) == []


def test_the_operations_of_a_fastapi_ingress_have_forms(page: Any) -> None:
    aside(serve.run, Notes.bind(), name="notes", route_prefix="/notes")
    go(page, "#/app/notes/playground")
    page.get_by_label("Operation").select_option(label="PUT /shelves/{shelf}/notes · Put")
    page.get_by_label("shelf required").fill("the upper one")
    page.get_by_label("loud").check()
    page.get_by_label("title required").fill("milk")
    page.get_by_label("tags").fill('["home"]')
    page.get_by_label("priority").fill("3")
    page.get_by_role("button", name="Send").click()
    page.get_by_text(re.compile("^Status 200")).wait_for()
    answer = json.loads(page.get_by_role("region", name="Answer").inner_text())
    assert answer == {
        "shelf": "the upper one",
        "loud": True,
        "note": {"title": "milk", "tags": ["home"], "priority": 3},
    }
    page.get_by_label("Operation").select_option(label="GET /shelves · Shelves")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("region", name="Answer").get_by_text("upper").wait_for()
    aside(serve.delete, "notes")


def test_what_the_handler_refuses_is_shown(page: Any) -> None:
    go(page, "#/app/tickets/playground")
    page.get_by_label("text required").fill("x")
    page.get_by_label("urgency").fill("7")
    page.get_by_role("button", name="Send").click()
    page.get_by_text(re.compile("^Status 422")).wait_for()
    assert "less than or equal to 1" in page.get_by_role("region", name="Answer").inner_text()


def test_what_is_typed_survives_what_happens_meanwhile(page: Any) -> None:
    go(page, "#/app/tickets/playground")
    text = page.get_by_label("text required")
    text.fill("half a sen")
    text.focus()
    page.wait_for_timeout(2500)  # a point or a status comes every 2 s
    page.keyboard.type("tence")
    assert text.input_value() == "half a sentence"


def test_a_chat_streams_and_remembers(page: Any) -> None:
    go(page, "#/app/chat/playground")
    page.get_by_label("Tokens at most").fill("60")
    page.get_by_label("Message").fill("hello there")
    page.keyboard.press("Enter")
    words = page.locator(".chat .assistant .words").first
    until(lambda: len(page.locator(".chat .assistant .words").first.inner_text()) > 3)
    early = words.inner_text()
    page.get_by_text(re.compile("First token after .* 60 pieces")).wait_for()
    assert len(early) < len(words.inner_text())
    page.get_by_label("Message").fill("and again")
    with page.expect_request(re.compile("/api/headrace/playground/chat")) as asked:
        page.get_by_role("button", name="Send").click()
    said = [message["role"] for message in asked.value.post_data_json["messages"]]
    assert said == ["user", "assistant", "user"]
    page.locator(".chat .assistant").nth(1).wait_for()
    assert serious_findings(page) == []


def test_a_chat_can_be_stopped(page: Any) -> None:
    go(page, "#/app/chat/playground")
    page.get_by_label("Tokens at most").fill("5000")
    page.get_by_label("Message").fill("go on")
    page.get_by_role("button", name="Send").click()
    until(lambda: len(page.locator(".chat .assistant .words").first.inner_text()) > 3)
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()


def test_what_an_application_returns_is_never_rendered(page: Any) -> None:
    aside(serve.run, Page.bind(), name="page", route_prefix="/page")
    go(page, "#/app/page/playground")
    page.get_by_role("button", name="Send").click()
    page.get_by_text(re.compile("^Status 200")).wait_for()
    answer = page.get_by_role("region", name="Answer")
    assert answer.inner_text().startswith("<img src=x onerror")
    assert answer.locator("*").count() == 0
    assert "rendered" not in page.title() and page.title() != "run"
    aside(serve.delete, "page")
    page.get_by_text("There is no such application").wait_for()


def test_without_a_token_the_page_offers_no_rollback_and_gets_none(page: Any) -> None:
    go(page, "#/app/tickets/history")
    page.get_by_text("This page is read-only").wait_for()
    page.get_by_text("first deploy").wait_for()
    assert page.get_by_role("button", name="Roll back").count() == 0
    page.problems.expected = ("403",)
    status = page.evaluate("fetch('/api/headrace/applications/tickets/rollback', {method: 'POST'}).then(a => a.status)")
    assert status == 403


def test_the_config_is_shown_and_secrets_are_not(page: Any) -> None:
    options = {"runtime_env": {"env_vars": {"API_KEY": "hunter2"}}}
    release = Release.options(ray_actor_options=options, user_config={"db_password": "hunter2", "size": 3})
    aside(serve.run, release.bind(), name="secret", route_prefix="/secret")
    go(page, "#/app/secret/config")
    page.locator("summary", has_text="Release").click()
    text = page.get_by_role("region", name="Options of Release")
    text.get_by_text("API_KEY").wait_for()
    assert "size: 3" in text.inner_text()
    assert "hunter2" not in page.content()
    aside(serve.delete, "secret")


def test_the_page_says_when_it_is_not_connected_and_comes_back(page: Any, instance: driver.Client) -> None:
    go(page, "#/")
    page.problems.expected = ("ERR_", "Failed to load resource")
    controller = aside(instance.status).controller_pid
    os.kill(controller, signal.SIGSTOP)
    try:
        page.get_by_text("Not connected").wait_for()
        assert page.get_by_role("link", name="tickets", exact=True).is_visible()
    finally:
        os.kill(controller, signal.SIGCONT)
    page.get_by_text("Live", exact=True).wait_for()
    os.kill(controller, signal.SIGKILL)
    page.get_by_text("Not connected").wait_for()
    page.get_by_text("Live", exact=True).wait_for()
    until(lambda: aside(instance.status).controller_pid != controller)


def show(page: Any, hidden: bool) -> None:
    """Have the page believe that its tab is in the background, or is not."""
    page.evaluate(
        """hidden => {
            Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_a_tab_in_the_background_holds_no_connection(page: Any) -> None:
    go(page, "#/")
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/api/headrace/live")):
        show(page, hidden=True)
    page.get_by_text("Connected", exact=True).wait_for()
    show(page, hidden=False)
    page.get_by_text("Live", exact=True).wait_for()


@pytest.mark.parametrize("view", VIEWS)
def test_everybody_can_use_each_view_on_any_screen(browser: Any, tickets: str, view: str) -> None:
    with page_of(browser, tickets, color_scheme="light") as page:
        go(page, view)
        page.locator("main .panel, main figure").first.wait_for()
        for details in page.locator("details").all()[:1]:
            details.locator("summary").click()
        assert serious_findings(page) == []
        page.emulate_media(color_scheme="dark")
        assert serious_findings(page) == []
        for width, height in ((360, 740), (3840, 2160)):
            page.set_viewport_size({"width": width, "height": height})
            until(lambda: overflow(page) <= 0, 5)


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ("#/nothing", "There is no such view"),
        ("#/app/nobody", "There is no such application"),
        ("#/app/nobody/requests", "There is no such application"),
        ("#/app/nobody/playground", "There is no such application"),
        ("#/app/tickets/deployment/Nobody", "There is no such deployment"),
        ("#/app/tickets/nothing", "There is no such view"),
        ("#/app/%E0%A4%A", "There is no such application"),
    ],
)
def test_an_address_that_leads_nowhere_says_so(page: Any, view: str, said: str) -> None:
    go(page, view)
    page.get_by_text(said).wait_for()
    page.locator("main a").first.wait_for()


def test_keys_alone_lead_everywhere(page: Any) -> None:
    go(page, "#/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "tickets":
            break
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="tickets").wait_for()
    assert page.evaluate("document.activeElement.id") == "main"


def test_the_theme_can_be_chosen_and_is_kept(page: Any) -> None:
    go(page, "#/")
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)
    page.get_by_role("button", name="Switch to the dark theme").click()
    assert page.evaluate(ground) != before
    page.reload()
    page.get_by_role("button", name="Switch to the light theme").wait_for()
    assert page.evaluate(ground) != before


def test_the_first_paint_is_quick(page: Any) -> None:
    go(page, "#/")
    # The best of some: this machine may be busy.
    times = []
    for _ in range(5):
        page.reload()
        page.get_by_text("Live", exact=True).wait_for()
        times.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
    assert min(times) < 500
