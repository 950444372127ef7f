"""The dashboard in a real browser, before an instance with a token: it asks for it, and may then change things."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import headrace as serve
from headrace import client as driver

from .browser import aside, page_of, serious_findings
from .sample_apps import Release

pytestmark = [pytest.mark.full, pytest.mark.local_engine("the page is the same whatever processes run on")]

TOKEN = "a-t0ken-for-tests"


@pytest.fixture(scope="module")
def rest_url(browser: Any) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_REST_TOKEN", TOKEN)
        aside(serve.start, http_options={"port": 0, "num_proxies": 1}, rest_options={"port": 0})
        yield aside(driver.find).rest_url
        aside(serve.shutdown)


@pytest.fixture
def page(browser: Any, rest_url: str) -> Iterator[Any]:
    with page_of(browser, rest_url) as opened:
        opened.problems.expected = ("401",)
        yield opened


def sign_in(page: Any, view: str = "#/") -> None:
    page.goto(f"/{view}")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Continue").click()
    page.get_by_text("Live", exact=True).wait_for()


def test_with_nothing_deployed_it_says_what_to_do(page: Any) -> None:
    sign_in(page)
    page.get_by_text("Nothing is deployed yet").wait_for()
    page.get_by_text("headrace run hello:app").wait_for()
    assert serious_findings(page) == []


def test_the_token_is_asked_for_and_kept_out_of_the_address(page: Any) -> None:
    page.goto("/")
    field = page.get_by_label("Token")
    field.fill("wrong")
    page.get_by_role("button", name="Continue").click()
    page.get_by_text("This token was not accepted.").wait_for()
    assert serious_findings(page) == []
    sign_in(page)
    assert TOKEN not in page.url
    page.reload()
    page.get_by_text("Live", exact=True).wait_for()
    # Another tab has a session of its own.
    other = page.context.new_page()
    other.goto(page.url)
    other.get_by_label("Token").wait_for()


def test_a_rollback_is_asked_for_confirmed_and_seen(page: Any) -> None:
    aside(serve.run, Release.options(user_config={"size": 1}).bind(), name="app")
    aside(serve.run, Release.options(user_config={"size": 2}).bind(), name="app")
    sign_in(page, "#/app/app/history")
    page.get_by_role("button", name="Roll back to deploy 1").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Roll back app to deploy 1?").wait_for()
    assert serious_findings(page) == []
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert page.get_by_role("row").count() == 3
    page.get_by_role("button", name="Roll back to deploy 1").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    page.get_by_text("Deploy 1 is being brought back, as deploy 3.").wait_for()
    row = page.get_by_role("row").nth(1)
    row.get_by_text("brings back deploy 1").wait_for()
    row.get_by_text("Succeeded").wait_for()
    application = next(a for a in aside(driver.find().status).applications if a.name == "app")
    assert application.deployments[0].options["user_config"] == {"size": 1}
