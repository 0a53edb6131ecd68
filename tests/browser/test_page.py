"""The web page in a real browser, against a real server; the test plays the worker."""

import os
import re
import shutil
import socket
import threading
import time

import pytest
import uvicorn

from shared.settings import Settings
from tests.api_kit import LARGE, Farm, draw, worker

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect

PROGRAM = "chromium-headless-shell"
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser():
    program = shutil.which(PROGRAM)
    if program is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no {PROGRAM} here")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGS)
        yield browser
        browser.close()


class Site:
    """A served farm."""

    def __init__(self, farm: Farm) -> None:
        self.farm = farm
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/"
        self._server = uvicorn.Server(uvicorn.Config(farm.app, log_config=None, access_log=False))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))

    def __enter__(self):
        self._thread.start()
        until = time.monotonic() + 10
        while not self._server.started:
            assert time.monotonic() < until, "the server did not start"
            time.sleep(0.01)
        return self

    def __exit__(self, *_exc):
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()


@pytest.fixture
def site(request):
    with Site(Farm(getattr(request, "param", Settings()))) as site:
        site.farm.store.heartbeat(worker("ready"), 3600.0)
        yield site


@pytest.fixture
def page(browser, site):
    """The page; whatever it complains of on the console fails the test."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(10_000)
    complaints = []
    page.on("console", lambda line: complaints.append(line) if line.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(error))
    page.goto(site.url)
    yield page
    context.close()
    refusals = getattr(page, "refusals_expected", 0)
    refused = [c for c in complaints if re.search(r"responded with a status of 4\d\d", str(c))]
    assert len(refused) == refusals
    assert [str(c) for c in complaints if c not in refused] == []


def test_from_prompt_to_pictures(site, page):
    expect(page.get_by_role("status").first).to_have_text("1 worker ready")
    page.get_by_label("Prompt", exact=True).fill("a lighthouse at dusk")
    page.get_by_label("Size").fill("128x64")
    page.get_by_label("Steps").fill("4")
    page.get_by_label("Seed").fill("42")
    page.get_by_label("Images").fill("2")
    page.get_by_role("button", name="Render").click()

    job = page.get_by_role("article")
    expect(job.get_by_text("queued, next in line")).to_have_count(2)

    claimed = site.farm.claim()
    site.farm.store.renew({claimed.token: (claimed.render_id, 3)}, 60.0)
    expect(job.get_by_text("step 3 of 4")).to_be_visible()
    assert job.get_by_label("Progress of image 1").evaluate("bar => bar.value") == 0.75

    site.farm.finish(claimed)
    expect(job.get_by_alt_text("a lighthouse at dusk, seed 42")).to_be_visible()
    expect(job.get_by_text("1 of 2 done")).to_be_visible()
    site.farm.render()
    expect(job.get_by_text("done", exact=True)).to_be_visible()

    for seed in (42, 43):
        picture = job.get_by_alt_text(f"a lighthouse at dusk, seed {seed}")
        picture.evaluate("img => img.decode()")
        assert picture.evaluate("img => [img.naturalWidth, img.naturalHeight]") == [128, 64]
    with page.expect_download() as download:
        job.get_by_role("link", name="Download image 2, seed 43").click()
    assert re.fullmatch(r"job_\w{26}-1-43\.png", download.value.suggested_filename)
    assert download.value.path().read_bytes().startswith(b"\x89PNG")
    expect(job.get_by_role("button", name="Cancel")).to_be_hidden()


def test_the_banner_says_that_tiny_draws_noise(page):
    banner = page.get_by_text("random weights, whatever it draws is noise")
    expect(banner).to_be_visible()

    page.get_by_label("Model").select_option(LARGE.id)
    expect(banner).to_be_hidden()
    expect(page.get_by_label("Size")).to_have_attribute("placeholder", "1024x1024")

    page.get_by_label("Model").select_option("tiny")
    expect(banner).to_be_visible()


def test_a_refused_order_shows_each_fault_at_its_field(site, page):
    page.refusals_expected = 1
    page.get_by_label("Size").fill("17x0")
    page.get_by_label("Images").fill("0")
    page.get_by_role("button", name="Render").click()

    expect(page.get_by_role("alert").first).to_contain_text("prompt")
    expect(page.locator("#size-fault")).to_contain_text("multiple of 16")
    expect(page.locator("#n-fault")).to_contain_text("greater than or equal to 1")
    expect(page.get_by_label("Size")).to_have_attribute("aria-invalid", "true")
    assert site.farm.pending == 0

    page.get_by_label("Prompt", exact=True).fill("a fox")
    page.get_by_label("Size").fill("64x64")
    page.get_by_label("Images").fill("1")
    page.get_by_role("button", name="Render").click()
    expect(page.get_by_role("article")).to_be_visible()
    expect(page.locator("#size-fault")).to_be_hidden()


def test_a_job_is_ordered_and_canceled_by_keyboard(site, page):
    page.get_by_label("Prompt", exact=True).fill("a fox")
    page.get_by_label("Prompt", exact=True).press("Control+Enter")

    page.get_by_role("button", name="Cancel").press("Enter")

    expect(page.get_by_role("article").get_by_text("canceled").first).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    assert site.farm.pending == 0


def test_a_failed_render_shows_its_reason(site, page):
    page.get_by_label("Prompt", exact=True).fill("a fox")
    page.get_by_role("button", name="Render").click()
    expect(page.get_by_role("article")).to_be_visible()
    site.farm.fail("out_of_memory", "the card is too small")

    expect(page.get_by_role("article").get_by_role("alert")).to_have_text("the card is too small")


def test_a_reload_finds_the_jobs_again(site, page):
    page.get_by_label("Prompt", exact=True).fill("a fox")
    page.get_by_role("button", name="Render").click()
    expect(page.get_by_role("article")).to_be_visible()
    site.farm.render()

    page.reload()

    expect(page.get_by_role("img", name=re.compile("a fox"))).to_be_visible()


@pytest.mark.parametrize("site", [Settings(api_keys="alice:alice-key")], indirect=True)
def test_a_farm_with_keys_asks_for_one_and_the_tab_keeps_it(site, page):
    page.refusals_expected = 1
    key = page.get_by_label("Key, kept until this tab is closed")
    expect(key).to_be_focused()
    key.fill("alice-key")
    key.press("Tab")
    expect(page.get_by_label("Model")).to_have_value("tiny")

    page.reload()
    page.get_by_label("Prompt", exact=True).fill("a fox")
    page.get_by_role("button", name="Render").click()
    expect(page.get_by_role("article")).to_be_visible()
    site.farm.render()

    expect(page.get_by_role("img", name=re.compile("a fox"))).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes_and_every_control_has_a_name(browser, site, scheme):
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(site.url)
    expect(page.get_by_label("Model")).to_have_value("tiny")

    ground, ink = page.evaluate(
        "[getComputedStyle(document.documentElement).backgroundColor,"
        " getComputedStyle(document.documentElement).color]"
    )
    assert contrast(ground, ink) >= 7
    for control in page.locator("input, textarea, select, button").all():
        assert control.evaluate("c => c.labels?.length || c.textContent.trim().length")
    context.close()


def contrast(one: str, other: str) -> float:
    """WCAG 2.1 contrast of two `rgb(r, g, b)` colours."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_the_reference_of_all_routes_comes_from_this_farm_alone(browser, site):
    page = browser.new_context().new_page()
    page.set_default_timeout(10_000)
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))

    page.goto(f"{site.url}docs")
    page.get_by_role("button", name="post /jobs", exact=False).first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()

    status = page.locator(".live-responses-table .response-col_status").last
    expect(status).to_contain_text("202")
    assert site.farm.pending == 1
    assert [url for url in asked if not url.startswith((site.url, "data:"))] == []
    assert complaints == []
    page.context.close()


def test_an_order_may_start_from_a_picture(site, page):
    page.get_by_label("Prompt", exact=True).fill("the same in snow")
    page.get_by_text("Start from a picture").click()
    start = {"name": "start.png", "mimeType": "image/png", "buffer": draw(64, 48, 5)}
    page.get_by_label("Picture").set_input_files(start)
    page.get_by_label("Strength").fill("0.35")
    page.get_by_label("Seed").fill("7")
    page.get_by_role("button", name="Render").click()

    expect(page.get_by_role("article")).to_have_count(1)
    taken = site.farm.claim()
    assert (taken.spec.strength, taken.spec.seed) == (0.35, 7)
    assert taken.spec.init_image_sha256


def test_a_picture_that_is_none_is_refused_at_its_field(site, page):
    page.refusals_expected = 1
    page.get_by_label("Prompt", exact=True).fill("the same in snow")
    page.get_by_text("Start from a picture").click()
    file = {"name": "start.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.get_by_label("Picture").set_input_files(file)
    page.get_by_role("button", name="Render").click()

    expect(page.locator("#init_image-fault")).to_contain_text("PNG, JPEG or WebP")
