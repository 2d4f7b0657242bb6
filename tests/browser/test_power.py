"""Power buttons on a host with (simulated) GPUs: what is shown is what was read back, or who refused and the fix."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Route, expect

from tests.browser import judges
from tests.browser.conftest import OpenPage
from tests.fakes.gpus import FakeGpus
from tests.product import Product, wait_for


@pytest.fixture(scope="module")
def product(simulated_product: Product) -> Product:
    """The one with GPUs."""
    return simulated_product


def test_a_button_sets_the_limit_and_shows_what_was_read_back(product: Product, open_page: OpenPage) -> None:
    page = open_page("admin").page
    page.goto("/")
    card = page.get_by_label("GPU 0, Simulated RTX 3090")
    card.get_by_role("button", name=re.compile("Quiet")).click()
    expect(card.get_by_role("status")).to_contain_text("set and read back")
    expect(card.get_by_role("button", name=re.compile("Quiet"))).to_have_attribute("aria-pressed", "true")
    expect(card.locator('[data-figure="power_limit_watts"]')).to_have_text("220")
    with product.client("read") as client:
        shown = client.get("/api/settings/power_profile").json()["gpus"]
    assert (shown[0]["power_limit_w"], shown[0]["profile"]) == (220.0, "quiet")


@pytest.fixture
def refusing(gpus: FakeGpus) -> Iterator[None]:
    """The driver wants root, and so does sudo a password."""
    gpus.set(refuse="permission")
    yield
    gpus.set(refuse="nothing")


@pytest.mark.usefixtures("refusing")
def test_a_refusal_names_who_refused_and_the_fix(product: Product, open_page: OpenPage) -> None:
    page = open_page("admin").page
    page.goto("/")
    card = page.get_by_label("GPU 1, Simulated RTX 3090")
    card.get_by_role("button", name=re.compile("Normal")).click()
    expect(card.get_by_role("status")).to_contain_text("refused")
    expect(card).to_contain_text("What mends it")
    expect(card).to_contain_text("sudoers")
    with product.client("admin") as client:
        answer = client.post("/api/settings/power_profile?profile=normal")
    assert answer.status_code == 207
    assert [row["set"] for row in answer.json()["gpus"]] == [False, False]


def test_a_press_shows_at_once_and_is_taken_back_where_no_answer_comes(product: Product, open_page: OpenPage) -> None:
    watched = open_page("admin")
    watched.watch.allow("htmx:(afterRequest|sendError)|request failed: POST .*/power|ERR_FAILED")
    page, held = watched.page, list[Route]()

    def hold(route: Route) -> None:
        held.append(route)

    page.goto("/")
    page.route("**/power", hold)
    card = page.get_by_label("GPU 1, Simulated RTX 3090")
    before = card.get_by_role("status").inner_text()
    pressed = card.locator('[aria-pressed="true"]')
    was = pressed.all_inner_texts()
    wanted = card.get_by_role("button", name=re.compile("Max"))
    wanted.click()
    expect(wanted).to_have_attribute("aria-pressed", "true")
    expect(card.get_by_role("status")).to_have_text("asked, not yet confirmed")
    wait_for("the request", lambda: page.evaluate("true") and held)
    held[0].abort("failed")
    expect(card.get_by_role("status")).to_have_text("not set: the server can't be reached")
    assert pressed.all_inner_texts() == was
    assert before != "not set: the server can't be reached"


def test_the_page_power_sets_all_and_persistence_mode_and_shows_what_was_read_back(
    product: Product, open_page: OpenPage
) -> None:
    page, watching = open_page("admin").page, open_page("read").page
    for one in (page, watching):
        one.goto("/power/")
    page.get_by_role("group", name="Power profile of all GPUs").get_by_role("button", name="Normal").click()
    for one in (page, watching):  # whoever looks on sees it too
        for index in (0, 1):
            row = one.get_by_label(re.compile(f"^GPU {index} on "))
            expect(row.get_by_role("status")).to_contain_text("set and read back")
            expect(row.get_by_role("status")).to_contain_text("by admin")
            expect(row.locator('[data-figure="power_limit_watts"]')).to_have_text("280")
    switch = page.get_by_role("group", name=re.compile("^Persistence mode of GPU 1 on"))
    switch.get_by_role("button", name="On").click()
    expect(switch.get_by_role("button", name="On")).to_have_attribute("aria-pressed", "true")
    with product.client("read") as client:

        def wanted() -> list[bool | None]:
            gpus = client.get("/api/settings/power_profile").json()["gpus"]
            return [gpu["persistence"]["wanted"] for gpu in gpus]

        wait_for("the wish to be stored", lambda: wanted() == [None, True], 15)  # a press shows before that
        assert client.get("/api/settings/power_profile").json()["current"] == "normal"


def test_a_schedule_by_the_form_and_its_refusal(product: Product, open_page: OpenPage) -> None:
    watched = open_page("admin")
    page = watched.page
    watched.watch.allow("422")
    page.goto("/power/")
    page.fill("[name=begins]", "22:15")
    page.fill("[name=until]", "22:15")
    page.get_by_role("button", name="Add the schedule").click()
    expect(page.locator(".fault")).to_contain_text("Another time than the beginning")
    expect(page.locator("[name=begins]")).to_have_value("22:15")
    page.fill("[name=until]", "06:45")
    for day in ("Sat", "Sun"):
        page.get_by_label(day).uncheck()
    page.get_by_role("button", name="Add the schedule").click()
    row = page.get_by_role("row", name=re.compile("22:15 to 06:45"))
    expect(row).to_contain_text("Mon to Fri")
    with product.client("read") as client:
        (made,) = client.get("/api/settings/power_schedules").json()["schedules"]
    assert (made["begins"], made["until"], made["days"], made["gpu"]) == ("22:15", "06:45", [0, 1, 2, 3, 4], None)
    row.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete it").click()
    expect(page.locator("#messages")).to_contain_text("The schedule is gone")


def test_a_limit_that_something_else_changes_is_shown_and_set_again(
    product: Product, open_page: OpenPage, gpus: FakeGpus
) -> None:
    with product.client("admin") as client:
        client.post("/api/settings/power_profile?profile=normal&gpu=0").raise_for_status()
    page = open_page("admin").page
    page.goto("/power/")
    row = page.get_by_label(re.compile("^GPU 0 on "))
    gpus.set_gpu(0, limit=350_000)
    expect(row).to_contain_text(re.compile(r"280 W wished, 350 W found since \d\d:\d\d, set again"), timeout=50_000)
    expect(row.locator('[data-figure="power_limit_watts"]')).to_have_text("280")


def test_a_card_of_a_host_that_is_away_holds_up_no_other(product: Product, open_page: OpenPage, gpus: FakeGpus) -> None:
    page = open_page("read").page
    page.goto("/power/")
    page.evaluate("""() => {
      const row = document.querySelector("[data-power-gpu]"), away = row.cloneNode(true);
      away.dataset.powerGpu = "GPU-away";
      away.removeAttribute("aria-label");
      row.before(away);
    }""")
    gpus.set_gpu(0, temperature=71)
    row = page.get_by_label(re.compile("^GPU 0 on "))
    expect(row.locator('[data-figure="temperature_celsius"]')).to_have_text("71")
    expect(page.locator("[data-most]")).to_have_text("71")


def test_a_hot_card_loses_power_and_gets_it_back(product: Product, open_page: OpenPage, gpus: FakeGpus) -> None:
    with product.client("admin") as client:
        client.post("/api/settings/power_profile?profile=max&gpu=1").raise_for_status()
    page = open_page("read").page
    page.goto("/power/")
    row = page.get_by_label(re.compile("^GPU 1 on "))
    gpus.set_gpu(1, temperature=88)
    expect(row).to_contain_text("new jobs wait until it has cooled below 82 °C")
    expect(row.locator('[data-figure="power_limit_watts"]')).to_have_text("280")
    gpus.set_gpu(1, temperature=54)
    expect(row.locator(".power-heat")).to_have_text(re.compile(r"54\s*°C\s*cool\s*$"))
    expect(row.locator('[data-figure="power_limit_watts"]')).to_have_text("350")
    expect(row).not_to_contain_text("thermal guard")


def test_who_may_not_set_power_sees_why(product: Product, open_page: OpenPage) -> None:
    page = open_page("use").page
    page.goto("/")
    button = page.get_by_label("GPU 0, Simulated RTX 3090").get_by_role("button", name=re.compile("Max"))
    expect(button).to_be_disabled()
    expect(button).to_have_attribute("title", re.compile("needs the role admin"))
    with product.client("use") as client:
        assert client.post("/api/settings/power_profile?profile=max").status_code == 403


def test_pages_with_gpus_are_open_to_everybody(product: Product, open_page: OpenPage) -> None:
    page = open_page("admin").page
    found: list[str] = []
    for address in ("/", "/hosts/", "/power/", "/wall"):
        page.goto(address)
        expect(page.locator('main [data-figure="temperature_celsius"]').first).to_be_visible()
        found += [f"{address}: {text}" for text in judges.violations(page)]
    assert found == [], "\n".join(found)
