"""The settings of an engine that a person may choose: each with its kind, range, default, meaning, and who knows it.

Runs in the inference process and in the web process, which checks by this list what it stores: imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Annotated, Any, Literal, get_args, get_type_hints

ENGINES = ("transformers", "llama_cpp", "vllm")
LLAMA_MOST_ROWS = 128
"""The library knows at most 256 sequences; a row is one, and so is a prompt on its way to the rows."""

BY_TRANSFORMERS = "Leave it out, or serve by transformers."
Kind = Literal["boolean", "choice", "integer", "number"]
_KINDS: dict[Any, Kind] = {bool: "boolean", int: "integer", float: "number"}


@dataclass(frozen=True)
class About:
    """What a setting says of itself. `most`: an engine's own maximum. `unknown`: what to do instead on an engine that
    does not know it."""

    title: str
    description: str
    unit: str = ""
    minimum: int = 0
    maximum: int = 0
    most: Mapping[str, int] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """The settings, each 0 or "auto" where the engine decides by itself."""

    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        About(
            "Number format",
            "What it computes in. auto: the model's own where the device computes with it at full speed. For llama.cpp "
            "that of keys and values.",
        ),
    ] = "auto"
    load_in_8bit: Annotated[
        bool,
        About(
            "Weights in 8 bits",
            "Half the memory of 16 bits, nearly as exact. Needs the extra quant on the host.",
            unknown={
                "llama_cpp": "Serve the export Q8_0: there the bits are the file's.",
                "vllm": "Take load_in_4bit, which it knows, or serve by transformers.",
            },
        ),
    ] = False
    load_in_4bit: Annotated[
        bool,
        About(
            "Weights in 4 bits",
            "A quarter of the memory of 16 bits, less exact. Needs the extra quant on the host.",
            unknown={"llama_cpp": "Serve the export Q4_K_M: there the bits are the file's."},
        ),
    ] = False
    max_batch: Annotated[
        int,
        About(
            "Answers at once",
            "More share the device better and need more memory.",
            minimum=1,
            maximum=1024,
            most={"llama_cpp": LLAMA_MOST_ROWS},
        ),
    ] = 8
    max_queue: Annotated[
        int,
        About(
            "Requests that wait",
            "The next one is refused with 503 and Retry-After.",
            minimum=1,
            maximum=100_000,
            unknown={"vllm": BY_TRANSFORMERS},
        ),
    ] = 64
    max_model_length: Annotated[
        int,
        About(
            "Longest conversation",
            "Prompt and answer together. 0: the model's own context.",
            unit="tokens",
            maximum=16_777_216,
        ),
    ] = 0
    prefix_cache_mib: Annotated[
        int,
        About(
            "Kept for conversations that go on",
            "Memory for what was computed of earlier prompts. 0: none. Of vLLM's it only says whether there is one.",
            unit="MiB",
            maximum=1_048_576,
        ),
    ] = 256
    cpu_threads: Annotated[
        int,
        About(
            "CPU threads",
            "0: what the host's agent allows.",
            maximum=1024,
            unknown={"vllm": BY_TRANSFORMERS},
        ),
    ] = 0
    drain_seconds: Annotated[
        float,
        About("Time to finish", "How long requests in flight may take after a stop.", unit="s", maximum=86_400),
    ] = 60.0

    @property
    def bits(self) -> int:
        """The bits of a quantised weight; 0: weights are whole."""
        return 8 if self.load_in_8bit else 4 if self.load_in_4bit else 0

    @property
    def chosen(self) -> dict[str, Any]:
        """What differs from the defaults."""
        return {one.name: getattr(self, one.name) for one in settings() if getattr(self, one.name) != one.default}


@dataclass(frozen=True)
class Setting:
    """One setting, for forms and for checking."""

    name: str
    kind: Kind
    default: Any
    about: About
    choices: tuple[str, ...] = ()

    def maximum(self, engine: str) -> int:
        """The largest value that an engine takes."""
        return self.about.most.get(engine, self.about.maximum)

    def allowed(self, engine: str) -> str:
        """What may stand here, in words."""
        if self.kind == "choice":
            return "one of " + ", ".join(self.choices)
        if self.kind == "boolean":
            return "true or false"
        noun = "a whole number" if self.kind == "integer" else "a number"
        return f"{noun} from {self.about.minimum:,} to {self.maximum(engine):,}"


@dataclass(frozen=True)
class Fault:
    """A value that can't be taken: its setting, why, and what to do instead."""

    name: str
    message: str
    fix: str


class SettingsError(ValueError):
    """Settings that an engine can't have."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(" ".join(f"{fault.message} {fault.fix}" for fault in faults))
        self.faults = faults


@lru_cache(maxsize=1)
def settings() -> tuple[Setting, ...]:
    """Every setting, in the order in which a form has them."""
    hints = get_type_hints(EngineSettings, include_extras=True)
    return tuple(_setting(one.name, one.default, *get_args(hints[one.name])) for one in fields(EngineSettings))


def _setting(name: str, default: Any, annotation: Any, about: About) -> Setting:
    kind = _KINDS.get(annotation, "choice")
    return Setting(name, kind, default, about, get_args(annotation) if kind == "choice" else ())


def checked(engine: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from the defaults; None stands for a default. Raises SettingsError with every fault."""
    known = {one.name: one for one in settings()}
    faults = [
        Fault(name, f"An engine has no setting {name!r}.", f"Known: {', '.join(known)}.")
        for name in sorted(set(given) - set(known))
    ]
    chosen: dict[str, Any] = {}
    for name, one in known.items():
        value = given.get(name)
        if value is None:
            continue
        if (fault := _fault(one, engine, value)) is not None:
            faults.append(fault)
        elif value != one.default:
            chosen[name] = value
    if chosen.get("load_in_8bit") and chosen.get("load_in_4bit"):
        faults.append(
            Fault("load_in_4bit", "A weight has 8 or 4 bits, and both are asked for.", "Leave one of the two out.")
        )
    if faults:
        raise SettingsError(faults)
    return chosen


def _fault(one: Setting, engine: str, value: Any) -> Fault | None:
    if not _fits(one, engine, value):
        return Fault(one.name, f"The setting {one.name} can't be {value!r}.", f"Give {one.allowed(engine)}.")
    if value != one.default and engine in one.about.unknown:
        return Fault(one.name, f"The engine {engine} does not know the setting {one.name}.", one.about.unknown[engine])
    return None


def _fits(one: Setting, engine: str, value: Any) -> bool:
    if one.kind == "choice":
        return value in one.choices
    if one.kind == "boolean" or isinstance(value, bool):
        return one.kind == "boolean" and isinstance(value, bool)
    if not isinstance(value, int if one.kind == "integer" else int | float):
        return False
    return bool(one.about.minimum <= value <= one.maximum(engine))  # NaN is neither
