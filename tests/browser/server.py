"""Real Chromium against the real product: pages that are logged in, and that fail their test for what they complain of.

Runs in the test process. A page is watched for console errors and warnings of the browser, exceptions, failed requests,
answers of 400 and more, and violations of the content security policy.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright, Request, Response, WebSocket

from tests.product import Product

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TELL_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) => console.error(
  `CSP violation: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`
));
"""
TIMEOUT_MILLISECONDS = 45_000
GIVEN_UP = "net::ERR_ABORTED"
"""What the browser says of a request that the page itself gave up, by leaving or by `abort()`: no fault."""


def chromium_path() -> Path | None:
    """The system's browser: PILOTHOUSE_CHROMIUM, else the first of NAMES on the PATH."""
    for name in filter(None, (os.environ.get("PILOTHOUSE_CHROMIUM"), *NAMES)):
        if found := shutil.which(name):
            return Path(found)
    return None


@dataclass
class Watch:
    """What a page has done and what it complained of."""

    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    """`METHOD URL` of every request."""

    frames: list[str] = field(default_factory=list)
    """Every text frame that came by a websocket."""

    sent: list[str] = field(default_factory=list)
    """Every text frame that went by a websocket."""

    allowed: list[re.Pattern[str]] = field(default_factory=list)

    def allow(self, pattern: str) -> None:
        """Complaints that match this regular expression are part of the test."""
        self.allowed.append(re.compile(pattern))

    def faults(self) -> list[str]:
        """Complaints that nobody has allowed."""
        return [text for text in self.complaints if not any(pattern.search(text) for pattern in self.allowed)]

    def attach(self, page: Page) -> None:
        """Watches a page from now on."""
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        page.on("request", lambda request: self.requests.append(f"{request.method} {request.url}"))
        page.on("requestfailed", self._failed)
        page.on("response", self._response)
        page.on("websocket", self._websocket)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"console {message.type}: {message.text} ({message.location.get('url', '')})")

    def _failed(self, request: Request) -> None:
        if request.failure != GIVEN_UP:
            self.complaints.append(f"request failed: {request.method} {request.url}: {request.failure}")

    def _response(self, response: Response) -> None:
        if response.status >= 400:
            self.complaints.append(f"answer {response.status}: {response.request.method} {response.url}")

    def _websocket(self, socket: WebSocket) -> None:
        socket.on("framereceived", lambda text: self.frames.append(str(text)))
        socket.on("framesent", lambda text: self.sent.append(str(text)))


@dataclass
class WatchedPage:
    """A page, and what it did. `page.goto("/runs")` goes to the product."""

    page: Page
    watch: Watch
    context: BrowserContext


@contextmanager
def launched(playwright: Playwright, path: Path) -> Iterator[Browser]:
    """A browser of the system, headless."""
    browser = playwright.chromium.launch(executable_path=str(path), args=list(FLAGS))
    try:
        yield browser
    finally:
        browser.close()


@contextmanager
def opened(browser: Browser, product: Product, role: str | None, **options: Any) -> Iterator[WatchedPage]:
    """A page in a context of its own, logged in as `role` (None: nobody). Raises AssertionError for complaints.

    `options` are those of `browser.new_context`: `viewport`, `color_scheme`, `offline` and the rest.
    """
    context = browser.new_context(**{"base_url": product.url, "locale": "en-US", **options})
    context.set_default_timeout(TIMEOUT_MILLISECONDS)
    context.add_init_script(TELL_VIOLATIONS)
    if role is not None:
        context.add_cookies([{"name": "sessionid", "value": product.cookies[role], "url": product.url}])
    watch = Watch()
    context.on("page", watch.attach)
    try:
        yield WatchedPage(context.new_page(), watch, context)
        faults = watch.faults()
    finally:
        context.close()
    assert not faults, "the browser complains:\n" + "\n".join(faults)
