"""The web server ends when it is told to, whatever it is busy with."""

import threading
from contextlib import suppress

import httpx
import pytest

from tests.product import Product

pytestmark = pytest.mark.slow
PATHS = ("/", "/queue/", "/models/", "/settings/keys", "/api/runs", "/api/health")


def visit(product: Product, stop: threading.Event) -> None:
    """Asks for one page after the other, as an open browser does."""
    with httpx.Client(base_url=product.url, cookies={"sessionid": product.cookies["admin"]}, timeout=20) as client:
        while not stop.is_set():
            for path in PATHS:
                with suppress(httpx.HTTPError):  # it is being ended: that is the point
                    client.get(path)


def test_ctrl_c_ends_a_web_server_that_is_asked_for_pages(own_product: Product) -> None:
    for _ in range(2):
        stop = threading.Event()
        visitors = [threading.Thread(target=visit, args=(own_product, stop)) for _ in range(6)]
        for visitor in visitors:
            visitor.start()
        with own_product.client() as client:
            client.get("/api/health").raise_for_status()
        try:
            assert own_product.stop_web() == 0
        finally:
            stop.set()
            for visitor in visitors:
                visitor.join()
        own_product.start_web()
