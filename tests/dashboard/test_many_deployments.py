"""The dashboard before a large instance. What the controller tells of it is made up here; the page is real."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import headrace as serve
from headrace import client as driver

from .browser import aside, overflow, page_of, serious_findings
from .sample_apps import Release

pytestmark = [pytest.mark.full, pytest.mark.local_engine("the page is the same whatever processes run on")]

APPLICATIONS, EACH = 25, 8


@pytest.fixture(scope="module")
def large(browser: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where the REST API is, and the status of an instance with 200 deployments, made of that of a real one."""
    aside(serve.start, http_options={"port": 0, "num_proxies": 1}, rest_options={"port": 0})
    aside(serve.run, Release.bind(), name="app")
    url = aside(driver.find).rest_url
    status = httpx.get(f"{url}/api/headrace/status").json()
    (sample,) = status["applications"]
    status["applications"] = [application(sample, number) for number in range(APPLICATIONS)]
    yield url, status
    aside(serve.shutdown)


def application(sample: dict[str, Any], number: int) -> dict[str, Any]:
    """A tree of deployments; one in the last application has failed."""
    made = copy.deepcopy(sample)
    made.update(name=f"app-{number:02}", route_prefix=f"/app-{number:02}", ingress="Stage0")
    (deployment,) = made["deployments"]
    made["deployments"] = []
    for index in range(EACH):
        one = copy.deepcopy(deployment)
        calls = [f"Stage{callee}" for callee in (2 * index + 1, 2 * index + 2) if callee < EACH]
        one.update(name=f"Stage{index}", description={**deployment["description"], "calls": calls})
        made["deployments"].append(one)
    if number == APPLICATIONS - 1:
        made.update(status="UNHEALTHY", message="Stage7 has failed: " + "no room for it, " * 40)
        made["deployments"][7].update(status="UNHEALTHY", message="a GPU is missing")
    return made


@pytest.fixture
def page(browser: Any, large: tuple[str, dict[str, Any]]) -> Iterator[Any]:
    url, status = large
    with page_of(browser, url) as opened:
        opened.problems.expected = ("404",)
        opened.route("**/api/headrace/status", lambda route: route.fulfill(json=status))
        # Without the stream the page asks for the status again and again.
        opened.route("**/api/headrace/live", lambda route: route.fulfill(status=404, json={}))
        yield opened


def test_two_hundred_deployments_are_shown_worst_first_and_can_be_found(page: Any) -> None:
    page.goto("/")
    page.get_by_text("Connected").wait_for()
    rows = page.get_by_role("region", name="Applications").locator("tbody tr")
    assert rows.count() == APPLICATIONS
    assert rows.first.get_by_role("link").inner_text() == f"app-{APPLICATIONS - 1}"
    page.locator(".tile-value", has_text=re.compile("^200$")).wait_for()
    page.get_by_text("1 in trouble").wait_for()
    assert page.title().startswith("(1) ")
    page.get_by_label("Find applications").fill("app-07")
    page.get_by_text(f"1 of {APPLICATIONS}").wait_for()
    assert rows.count() == 1
    assert page.get_by_label("Find applications").input_value() == "app-07"
    assert page.evaluate("document.activeElement.type") == "search"
    assert serious_findings(page) == [] and overflow(page) == 0


def test_the_page_stays_quick(page: Any) -> None:
    page.goto("/")
    page.get_by_text("Connected").wait_for()
    longest = page.evaluate(
        """async () => {
            let longest = 0;
            const note = list => list.getEntries().forEach(task => longest = Math.max(longest, task.duration));
            new PerformanceObserver(note).observe({ type: "longtask" });
            await new Promise(done => setTimeout(done, 5000));
            return longest;
        }"""
    )
    assert longest < 500


def test_one_application_with_all_of_them_is_a_graph_that_scrolls(page: Any, large: tuple[str, dict[str, Any]]) -> None:
    _, status = large
    whole = copy.deepcopy(status)
    (first, *_) = whole["applications"]
    sample = first["deployments"][0]
    first["deployments"] = []
    for index in range(200):
        calls = [f"Stage{callee}" for callee in (3 * index + 1, 3 * index + 2, 3 * index + 3) if callee < 200]
        first["deployments"].append(
            {**sample, "name": f"Stage{index}", "description": {**sample["description"], "calls": calls}}
        )
    whole["applications"] = [first]
    page.route("**/api/headrace/status", lambda route: route.fulfill(json=whole))
    page.goto("/#/app/app-00")
    page.get_by_role("link", name=re.compile("^Stage199 ")).wait_for(state="attached")
    assert page.locator(".node").count() == 200 and page.locator(".edge").count() == 200
    boxes = page.evaluate(
        "[...document.querySelectorAll('.node')]"
        ".map(node => node.getBoundingClientRect()).map(box => [box.x, box.y, box.right, box.bottom])"
    )
    for index, one in enumerate(boxes):
        for other in boxes[index + 1 :]:
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1], "nodes overlap"
    assert overflow(page) == 0
