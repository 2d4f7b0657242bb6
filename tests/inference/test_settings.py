"""The list of an engine's settings: what is taken, what is refused with which words, and what reaches the engine."""

from pathlib import Path
from typing import Any

import pytest

from inference.options import ServeOptions
from inference.settings import ENGINES, SettingsError, checked, settings
from monitoring.attempt import JobFaultError


def test_what_equals_a_default_or_is_none_is_not_kept() -> None:
    given = {"dtype": "auto", "max_batch": 8, "load_in_4bit": False, "drain_seconds": 60, "cpu_threads": None}
    assert checked("transformers", {**given, "max_queue": 3}) == {"max_queue": 3}


@pytest.mark.parametrize(
    ("engine", "given", "name", "words"),
    [
        ("transformers", {"speed": 1}, "speed", "An engine has no setting 'speed'."),
        ("transformers", {"dtype": "int3"}, "dtype", "Give one of auto, float32, bfloat16, float16."),
        ("transformers", {"dtype": []}, "dtype", "The setting dtype can't be []."),
        (
            "transformers",
            {"max_batch": 0},
            "max_batch",
            "The setting max_batch can't be 0. Give a whole number from 1 to 1,024.",
        ),
        ("transformers", {"max_batch": True}, "max_batch", "max_batch can't be True."),
        ("transformers", {"max_batch": 2.0}, "max_batch", "max_batch can't be 2.0."),
        ("transformers", {"drain_seconds": float("nan")}, "drain_seconds", "Give a number from 0 to 86,400."),
        ("transformers", {"drain_seconds": 10**400}, "drain_seconds", "Give a number from 0 to 86,400."),
        ("transformers", {"load_in_8bit": 1}, "load_in_8bit", "Give true or false."),
        ("transformers", {"load_in_8bit": True, "load_in_4bit": True}, "load_in_4bit", "both are asked for"),
        ("llama_cpp", {"max_batch": 129}, "max_batch", "from 1 to 128"),
        ("llama_cpp", {"load_in_8bit": True}, "load_in_8bit", "Serve the export Q8_0"),
        ("llama_cpp", {"load_in_4bit": True}, "load_in_4bit", "Serve the export Q4_K_M"),
        (
            "vllm",
            {"load_in_8bit": True},
            "load_in_8bit",
            "The engine vllm does not know the setting load_in_8bit. Take load_in_4bit",
        ),
        ("vllm", {"max_queue": 3}, "max_queue", "Leave it out, or serve by transformers."),
    ],
)
def test_what_an_engine_can_not_have_is_named_with_what_it_can(
    engine: str, given: dict[str, Any], name: str, words: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        checked(engine, given)
    assert [fault.name for fault in caught.value.faults] == [name]
    assert words in str(caught.value)
    with pytest.raises(JobFaultError) as refused:
        ServeOptions.from_config({"engine": engine, **given}, "m")
    assert (refused.value.code, bool(refused.value.fix)) == ("bad_setting", True)


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        checked("vllm", {"max_batch": -1, "cpu_threads": 2, "dtype": 7})
    assert {fault.name for fault in caught.value.faults} == {"max_batch", "cpu_threads", "dtype"}


def test_every_setting_says_what_it_is() -> None:
    for one in settings():
        assert one.about.title
        assert one.about.description.endswith(".")
        assert set(one.about.unknown) | set(one.about.most) <= set(ENGINES)
        assert checked("transformers", {one.name: one.default}) == {}


def test_the_guide_has_every_setting_with_its_default_and_range() -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "engine.md").read_text()
    for one in settings():
        words = {"boolean": "false", "choice": f"`{one.default}`"}
        default = words.get(one.kind) or f"{one.default:g}"
        line = next(line for line in guide.splitlines() if line.startswith(f"| `{one.name}` | {default} |"))
        if one.kind in ("integer", "number"):
            assert f"| {one.about.minimum:,} to {one.about.maximum:,}" in line
        assert all(f"`{choice}`" in line for choice in one.choices)


def test_settings_reach_the_engine_and_are_told() -> None:
    options = ServeOptions.from_config({"load_in_4bit": True, "max_batch": 3, "max_queue": None}, "house/m")
    assert (options.model_name, options.bits, options.max_batch, options.max_queue) == ("house/m", 4, 3, 64)
    told = options.told(dtype="bfloat16")
    assert (told["dtype"], told["bits"], told["chosen"]) == ("bfloat16", 4, {"load_in_4bit": True, "max_batch": 3})


def test_an_engine_tells_only_of_settings_that_it_knows() -> None:
    told = ServeOptions.from_config({"engine": "vllm", "load_in_4bit": True}, "m").told()
    assert (told["load_in_4bit"], told["max_batch"], told["bits"]) == (True, 8, 4)
    assert not set(told) & {"max_queue", "cpu_threads", "load_in_8bit"}
