"""What every page is held to: axe-core finds nothing, and it stays within its budget. Runs in the test process."""

from dataclasses import dataclass
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

AXE = Axe()
COLOURS = {"runOnly": ["color-contrast"], "resultTypes": ["violations"]}
OURS = {"exclude": ["#api-docs"]}
"""Swagger UI draws that itself."""

LOADED = """
() => performance.getEntriesByType("navigation").concat(performance.getEntriesByType("resource"))
  .filter((entry) => new URL(entry.name).protocol.startsWith("http"))
  .map((entry) => ({ name: new URL(entry.name).pathname, bytes: entry.encodedBodySize, kind: entry.initiatorType }))
"""


def violations(page: Page, options: dict[str, Any] | None = None) -> list[str]:
    """What axe-core finds on the page as it is: a line for each element, with the rule and what would mend it."""
    answer = AXE.run(page, context=OURS, options=options or {"resultTypes": ["violations"]}).response
    return [
        f"{rule['id']}: {' '.join(map(str, node['target']))} {node['html'][:160]} {node['failureSummary']}"
        for rule in answer["violations"]
        for node in rule["nodes"]
    ]


@dataclass(frozen=True)
class Budget:
    """What opening a page may cost: bytes as they travel (compressed), and requests.

    Both are what the page itself names, so they are the same on any machine, however busy it is.
    """

    kilobytes: int
    requests: int

    def excess(self, page: Page) -> list[str]:
        """Where the page that has just been loaded goes beyond it."""
        loaded: list[dict[str, Any]] = page.evaluate(LOADED)
        size = sum(entry["bytes"] for entry in loaded) / 1000
        largest = sorted(loaded, key=lambda entry: -entry["bytes"])[:4]
        told = ", ".join(f"{entry['name']} {entry['bytes'] / 1000:.0f} kB" for entry in largest)
        found = []
        if size > self.kilobytes:
            found.append(f"{size:.0f} kB where {self.kilobytes} are allowed: {told}")
        if len(loaded) > self.requests:
            found.append(f"{len(loaded)} requests where {self.requests} are allowed")
        return found
