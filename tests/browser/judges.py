"""What every page is held to: axe-core finds nothing, and it stays within its budgets. Runs in the test process."""

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
    """What opening a page may cost: bytes as they travel (compressed), requests, and turns of work (see `Work`).

    All are what the page itself asks for, so they are the same on any machine, however busy it is.
    """

    kilobytes: int
    requests: int
    turns: int

    def excess(self, page: Page, turns: float) -> list[str]:
        """Where the page that has just been loaded, and has computed for so many turns, goes beyond it."""
        loaded: list[dict[str, Any]] = page.evaluate(LOADED)
        size = sum(entry["bytes"] for entry in loaded) / 1000
        largest = sorted(loaded, key=lambda entry: -entry["bytes"])[:4]
        told = ", ".join(f"{entry['name']} {entry['bytes'] / 1000:.0f} kB" for entry in largest)
        found = []
        if size > self.kilobytes:
            found.append(f"{size:.0f} kB where {self.kilobytes} are allowed: {told}")
        if len(loaded) > self.requests:
            found.append(f"{len(loaded)} requests where {self.requests} are allowed")
        if turns > self.turns:
            found.append(f"it computes for {turns:.0f} turns of the loop where {self.turns} are allowed")
        return found


# A loop of the kind of work that pages do: texts made, cut and sorted. It takes some 5 ms of a usual processor.
LOOP = """
() => {
  let kept = 0;
  for (let round = 0; round < 15; round += 1) {
    const words = Array.from({ length: 500 }, (_, place) => `${(place * 7919) % 1009}:${round}`);
    kept += words.sort().map((word) => word.split(":")[0]).join(",").length;
  }
  return kept;
}
"""


class Work:
    """How long a page keeps the browser's main thread to itself, counted in turns of LOOP on the same thread.

    Neither is a time of day: both are what the thread has computed (`threadTicks`), so a machine that does ten other
    things counts about what an idle one counts, and a slow one what a fast one does. Long tasks, as the browser tells
    them, would grow with whatever else runs.
    """

    def __init__(self, page: Page) -> None:
        """`page` is new: it has loaded nothing yet, so that all that is counted is what it loads now."""
        self._page = page
        self._session = page.context.new_cdp_session(page)
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def turns(self) -> float:
        """What has been computed so far, in turns of LOOP: the quickest of five, since the first are interpreted."""
        spent = self._spent_seconds()
        return spent / min(self._loop_seconds() for _ in range(5))

    def _loop_seconds(self) -> float:
        begun = self._spent_seconds()
        self._page.evaluate(LOOP)
        return self._spent_seconds() - begun

    def _spent_seconds(self) -> float:
        found = self._session.send("Performance.getMetrics")["metrics"]
        return float(next(item["value"] for item in found if item["name"] == "TaskDuration"))
