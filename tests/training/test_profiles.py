"""Profiles: found by name, pure, and open to packages of the user's own."""

import os
import subprocess
import sys
from copy import deepcopy
from datetime import date
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.specs import ChatExample, Message
from training.profiles.base import BrokenProfileError, Profile, UnknownProfileError, load_profile, profile_names

CHAT = ChatExample(
    messages=[Message(role="user", content="Hi"), Message(role="assistant", content="Hello")],
)
OWN_PROFILE = """
class Shout:
    name, description, version, processors, chat_template = "shout", "Shouts.", "3", None, None
    def __init__(self, system_prompt="", options=None):
        self.mark = (options or {}).get("mark", "!")
    def system_prompt(self, today): return ""
    def transform(self, example, index):
        return {"messages": [{**m, "content": m["content"].upper() + self.mark} for m in example["messages"]]}
    def check(self, answer): return []

class Half:
    name = "half"
    def __init__(self, system_prompt="", options=None): ...
"""


def test_plain_is_known() -> None:
    assert "plain" in profile_names()
    assert isinstance(load_profile("plain"), Profile)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownProfileError, match=r"no profile 'plane'. Known profiles: .*plain"):
        load_profile("plane")


def test_plain_puts_the_system_prompt_first_where_there_is_none() -> None:
    profile = load_profile("plain", system_prompt="Be brief.")
    assert profile.system_prompt(date(2026, 11, 24)) == "Be brief."
    assert profile.transform(CHAT, 0)["messages"] == [{"role": "system", "content": "Be brief."}, *CHAT["messages"]]


def test_plain_keeps_a_system_prompt_that_is_there() -> None:
    chat = ChatExample(messages=[Message(role="system", content="Be long."), *CHAT["messages"]])
    assert load_profile("plain", system_prompt="Be brief.").transform(chat, 0) == chat


def test_plain_without_a_prompt_changes_nothing() -> None:
    assert load_profile("plain").transform(CHAT, 0) == CHAT


def test_plain_refuses_options() -> None:
    with pytest.raises(BrokenProfileError, match="no options, but emoji was given"):
        load_profile("plain", options={"emoji": 3})


def test_plain_finds_an_empty_answer() -> None:
    assert [fault.code for fault in load_profile("plain").check(" \n")] == ["empty_answer"]
    assert load_profile("plain").check("Hello") == []


@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text()), max_size=5),
    st.text(max_size=5),
    st.integers(0, 99),
)
def test_plain_is_pure_and_done_twice_is_done_once(turns: list[tuple[str, str]], prompt: str, index: int) -> None:
    profile = load_profile("plain", system_prompt=prompt)
    example = cast(ChatExample, {"messages": [{"role": role, "content": content} for role, content in turns]})
    before = deepcopy(example)
    once = profile.transform(example, index)
    assert example == before
    assert profile.transform(example, index) == once
    assert profile.transform(once, index) == once


def in_another_installation(tmp_path: Path, code: str) -> str:
    """Runs code where a package of the user's own is installed beside ours."""
    info = tmp_path / "own-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[pilothouse.profiles]\nshout = own:Shout\nhalf = own:Half\ngone = nowhere:Nothing\n"
    )
    (tmp_path / "own.py").write_text(OWN_PROFILE)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    head = "from training.profiles.base import *; from training.profiles.base import BrokenProfileError\n"
    return subprocess.run(
        [sys.executable, "-c", head + code], env=env, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_package_of_the_users_own_adds_a_profile(tmp_path: Path) -> None:
    code = (
        "print(*profile_names()); p = load_profile('shout', options={'mark': '?'});"
        "print(p.version, p.transform({'messages': [{'role': 'user', 'content': 'hi'}]}, 0)['messages'][0]['content'])"
    )
    names, answer = in_another_installation(tmp_path, code).splitlines()
    assert {"plain", "shout", "half", "gone"} <= set(names.split())
    assert answer == "3 HI?"


@pytest.mark.parametrize(("name", "reason"), [("half", "lacks a part of"), ("gone", "No module named 'nowhere'")])
def test_a_profile_that_is_not_one_is_a_typed_error(tmp_path: Path, name: str, reason: str) -> None:
    code = f"try: load_profile({name!r})\nexcept BrokenProfileError as error: print(error)"
    assert reason in in_another_installation(tmp_path, code)
