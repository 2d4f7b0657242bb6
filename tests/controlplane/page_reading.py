"""Pages as a test reads them: their elements, and whatever the content security policy would refuse."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any, Protocol

from asgiref.sync import async_to_sync

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
"""Words that no page may take for markup."""

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


@dataclass
class Element:
    """One element: its attributes, and all text inside it."""

    tag: str
    attributes: dict[str, str | None]
    text: str = ""

    def get(self, name: str) -> str:
        """An attribute, or an empty text."""
        return self.attributes.get(name) or ""


@dataclass
class Page(HTMLParser):
    """A parsed page. `refused`: inline styles, scripts and handlers, which the policy forbids."""

    source: str
    elements: list[Element] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unbalanced: list[str] = field(default_factory=list)
    _open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)
        self.close()
        self.unbalanced += [element.tag for element in self._open if element.tag not in ("html", "body")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        element = Element(tag, attributes)
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)
        is_data = attributes.get("type") == "application/json"  # nothing of it runs
        if tag == "style" or (tag == "script" and not attributes.get("src") and not is_data):
            self.refused.append(f"<{tag}>")
        for name, value in attributes.items():
            if name == "style" or name.startswith(("on", "hx-on")) or (value or "").startswith("javascript:"):
                self.refused.append(f"{tag} {name}={value}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open:
            element = self._open.pop()
            if element.tag == tag:
                return
            self.unbalanced.append(element.tag)

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Every element of a tag with these attributes (`class_`, `data_status`: as Python must write them)."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [
            element
            for element in self.elements
            if element.tag == tag and all(element.get(name) == value for name, value in wanted.items())
        ]

    def one(self, tag: str, **attributes: str) -> Element:
        """The only such element."""
        found = self.all(tag, **attributes)
        assert len(found) == 1, f"{len(found)} elements {tag} {attributes}"
        return found[0]

    def by_id(self, identifier: str) -> Element:
        """The only element of an id."""
        found = [element for element in self.elements if element.get("id") == identifier]
        assert len(found) == 1, f"{len(found)} elements with the id {identifier}"
        return found[0]

    def button(self, text: str) -> Element | None:
        """The first button with that text, or None."""
        return next((item for item in self.elements if item.tag == "button" and item.text.strip() == text), None)


def filled(page: Page, action: str) -> dict[str, list[str]]:
    """What the page's form with this `action` sends when nothing is touched. Forms don't nest: one ends at the next."""
    begin = next(
        place for place, item in enumerate(page.elements) if item.tag == "form" and item.get("action") == action
    )
    sent: dict[str, list[str]] = {}
    name = ""
    for item in page.elements[begin + 1 :]:
        is_box = item.get("type") in ("checkbox", "radio")
        if item.tag == "form":
            break
        if item.tag == "select":
            name = item.get("name")
        elif item.tag == "option" and "selected" in item.attributes:
            sent.setdefault(name, []).append(item.get("value"))
        elif item.tag == "textarea":
            sent.setdefault(item.get("name"), []).append(item.text.removeprefix("\n"))
        elif item.tag == "input" and item.get("name") and (not is_box or "checked" in item.attributes):
            sent.setdefault(item.get("name"), []).append(item.get("value") or ("on" if is_box else ""))
    return sent


class Answer(Protocol):
    """What a test client brings back."""

    @property
    def content(self) -> bytes: ...


def read(response: Answer) -> Page:
    """Parses a page; fails where the policy or the browser would have to mend it."""
    page = Page(response.content.decode())
    assert page.refused == []
    assert page.unbalanced == [], f"elements that were never closed: {page.unbalanced}"
    return page


@async_to_sync
async def whole(answer: Any) -> bytes:
    """What was sent piece by piece."""
    return b"".join([piece async for piece in answer.streaming_content])
