"""docs/troubleshooting.md has every error message of the product, and none that nobody says any more."""

import ast
from collections import Counter

import pytest

from tests import messages


def test_every_error_message_is_in_the_guide() -> None:
    told = set(messages.documented())
    missing = {text: path for text, path in messages.messages().items() if text not in told}
    assert missing == {}, "add them to docs/troubleshooting.md; python -m tests.messages lists them"


def test_the_guide_has_no_message_that_nobody_says() -> None:
    known = messages.messages()
    assert [text for text in messages.documented() if text not in known] == []


def test_no_message_is_there_twice() -> None:
    assert [text for text, count in Counter(messages.documented()).items() if count > 1] == []


def test_every_message_has_a_cause_and_a_fix() -> None:
    rows = [row for row in messages.rows() if not all(cell.strip() for cell in row)]
    assert rows == []


SOURCE = """
LIMIT = "Only so much is taken."

def one(name, size):
    raise NotFoundError(f"There is no thing {name!r}. Make one.")

def two(name):
    message = f"Job {name} can't be started: {LIMIT}"
    raise AgentFaultError("code_here", message, "Make some room for it there.")

def three(ok):
    raise ConflictError("It is done already." if ok else "It has not begun yet.") from None

def four(form, reason):
    form.add_error("name", "This name is taken by another.")
    raise RuntimeError("A mistake of the programmer's own.")

def five(error):
    raise JobFaultError("code_here", str(error), "The fix alone is no message here.")

def six(code):
    return {"code": "exit", "message": f"It ended with code {code}.", "fix": "The fix alone is no message here."}

def seven(self, absent):
    self._fault = LIMIT if absent else "It can not be used."

def eight():
    yield Finding("disk", "ok", "All is well in there.")
    yield Finding("all of this disk", "fail", "There is no room left.", "The fix alone is no message here.")

def refusal(word):
    return f"The word {word} can't be taken."
"""


@pytest.mark.parametrize(
    ("function", "found"),
    [
        ("one", ["There is no thing …. Make one."]),
        ("two", ["Job … can't be started: Only so much is taken."]),
        ("three", ["It is done already.", "It has not begun yet."]),
        ("four", ["This name is taken by another."]),
        ("five", []),
        ("six", ["It ended with code …."]),
        ("seven", ["Only so much is taken.", "It can not be used."]),
        ("eight", ["There is no room left."]),
        ("refusal", ["The word … can't be taken."]),
    ],
)
def test_messages_are_found_in_the_source(function: str, found: list[str]) -> None:
    """The finder itself: holes, names, choices, codes, forms, tables, refusals; no fix, no programmer's mistake."""
    tree = ast.parse(SOURCE)
    kept = [node for node in tree.body if not isinstance(node, ast.FunctionDef) or node.name == function]
    assert list(messages.of_module(ast.Module(kept, []))) == found


def test_messages_of_scripts_are_found() -> None:
    """With what the shell fills in as holes, over lines that go on."""
    first = 'fail "Only $((kb / 1000)) MB are free on $DISK; \\\nmake room there." >&2'
    script = f'{first}\nwrong "${{1}} is no such option."\n'
    assert list(messages.of_script(script)) == [
        "Only … MB are free on …; make room there.", "… is no such option.",
    ]  # fmt: skip


def test_messages_of_the_pages_scripts_are_found() -> None:
    script = """
      // toast("What stands in a remark is nobody's message.");
      const label = "Nothing but a label here.";
      toast(plain ? text : `The server answered ${xhr.status ? `${xhr.status}` : "nothing"}. Load the page again.`);
      if (!file) fault("Choose a file first.");
    """
    assert list(messages.of_page_script(script)) == [
        "The server answered …. Load the page again.", "Choose a file first.",
    ]  # fmt: skip
