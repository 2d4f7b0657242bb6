"""Puts a run's configuration together: command line over JSON over the parent's locked values over the defaults.

Runs in every process; imports neither torch nor transformers. Whatever is wrong is refused with the setting's path and
what is allowed there, all of it at once; nothing is guessed and nothing unknown is ignored.
"""

import argparse
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as made_of
from typing import Any, Literal, NoReturn

from pydantic import TypeAdapter, ValidationError

from training.config.fields import FieldInfo, by_path, fields, locked_paths, sections
from training.config.flat import Flat, LeftOut, is_flat, read_flat
from training.config.schedule import POLYNOMIAL_END
from training.config.schema import TrainerConfig

Source = Literal["default", "parent", "json", "cli"]
_ADAPTER = TypeAdapter(TrainerConfig)


@dataclass(frozen=True)
class ConfigFault:
    """One thing wrong: the path of the setting, a sentence, and what is allowed there."""

    path: str
    message: str
    allowed: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class ConfigError(ValueError):
    """A configuration that can't be used; `faults` holds everything that is wrong with it."""

    def __init__(self, faults: Sequence[ConfigFault]) -> None:
        super().__init__("; ".join(str(fault) for fault in faults))
        self.faults = tuple(faults)


@dataclass(frozen=True)
class Loaded:
    """A configuration and, by the path of each setting, where its value came from.

    Of a flat file (`training.config.flat`): `keys` are its own keys by path, `left_out` those that have no place now.
    """

    config: TrainerConfig
    sources: dict[str, Source]
    keys: dict[str, str] = made_of(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()


def parse_config(value: Mapping[str, Any]) -> TrainerConfig:
    """Reads a configuration (any subset of it, nested by section). Raises ConfigError."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ConfigError([ConfigFault("config", f"It is not JSON: {error}.", "an object")]) from error
    try:
        config = _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise ConfigError([_fault(item) for item in error.errors(include_url=False)]) from error
    if faults := _contradictions(config):
        raise ConfigError(faults)
    return config


def to_dict(config: TrainerConfig) -> dict[str, Any]:
    """The configuration as plain JSON values, every setting written out."""
    plain: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
    return plain


def load(
    json: Mapping[str, Any] | None = None,
    cli: Sequence[str] = (),
    *,
    defaults: Mapping[str, Any] | None = None,
    parent: Mapping[str, Any] | None = None,
) -> Loaded:
    """Merges the layers, `cli` over `json` over `parent` over `defaults` over the schema's own defaults.

    `json` and `defaults` are nested by section, `json` may be the replaced system's flat file too; `parent` maps the
    path of locked settings to the parent model's values; `cli` holds arguments such as `--hyperparams.seed=1` or
    `--seed 1`. Raises ConfigError, also for a locked setting that differs from the parent's.
    """
    flat = read_flat(json) if json and is_flat(json) else None
    layers: list[tuple[Source, Mapping[str, Any]]] = [
        ("default", defaults or {}),
        ("parent", _nested({path: value for path, value in (parent or {}).items() if value not in ("", None)})),
        ("json", flat.config if flat else json or {}),
        ("cli", _nested(parse_arguments(cli))),
    ]
    merged: dict[str, Any] = {}
    sources: dict[str, Source] = {item.path: "default" for item in fields()}
    for source, layer in layers:
        for section, values in layer.items():
            if not isinstance(values, Mapping):
                merged[section] = values
                continue
            held = merged.setdefault(section, {})
            if isinstance(held, dict):
                held.update(values)
            sources.update({f"{section}.{name}": source for name in values if f"{section}.{name}" in sources})
    if flat is None:
        config = parse_config(merged)
        check_locked(config, parent or {})
        return Loaded(config, sources)
    config = _parse_flat(flat, merged, parent or {})
    keys = {path: key for path, key in flat.keys.items() if sources.get(path) == "json"}
    return Loaded(config, sources, keys, tuple(flat.left_out))


def _parse_flat(flat: Flat, merged: Mapping[str, Any], parent: Mapping[str, Any]) -> TrainerConfig:
    """As `parse_config`, with the file's own keys in what is refused."""
    faults = [
        ConfigFault(path, f"{one!r} and {other!r} of the file are one setting, with two values.", "one of the two")
        for path, one, other in flat.clashes
    ]
    try:
        config = parse_config(merged)
        check_locked(config, parent)
    except ConfigError as error:
        faults += [_with_key(fault, flat.keys.get(fault.path)) for fault in error.faults]
    if faults:
        raise ConfigError(faults)
    return config


def _with_key(fault: ConfigFault, key: str | None) -> ConfigFault:
    if key is None or key == fault.path:
        return fault
    return ConfigFault(fault.path, f"{fault.message} The file calls it {key!r}.", fault.allowed)


def check_locked(config: TrainerConfig, parent: Mapping[str, Any]) -> None:
    """Refuses a locked setting that differs from the parent model's, naming both values. Raises ConfigError.

    An empty text on either side is a value that nobody knows, and matches.
    """
    faults = []
    for path in locked_paths():
        asked, held = value_at(config, path), parent.get(path)
        if held in (None, "") or asked in (None, "") or asked == held:
            continue
        sentence = f"It is locked at {held!r} by the model that is continued, but {asked!r} was asked for."
        faults.append(ConfigFault(path, sentence, repr(held)))
    if faults:
        raise ConfigError(faults)


def value_at(config: TrainerConfig, path: str) -> Any:
    """The value of the setting `section.name`."""
    section, name = path.split(".")
    return getattr(getattr(config, section), name)


# --- The command line -----------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Raises instead of leaving the process."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError([ConfigFault("command line", f"{message}.", "--section.setting VALUE")])


def argument_parser() -> argparse.ArgumentParser:
    """The command line with one option a setting: `--section.name`, and `--name` where no other section has it."""
    parser = _Parser(prog="python -m training config", allow_abbrev=False, add_help=False)
    names = [field.name for field in fields()]
    for section in sections():
        group = parser.add_argument_group(section.name, section.description)
        for field in section.fields:
            flags = [f"--{field.path}", *([f"--{field.name}"] if names.count(field.name) == 1 else [])]
            about = f"{field.description} ({field.allowed}; default {json.dumps(field.default)})"
            group.add_argument(
                *flags, dest=field.path, default=argparse.SUPPRESS, metavar="VALUE", help=about.replace("%", "%%")
            )
    return parser


def parse_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """The settings that a command line names, by path. Raises ConfigError for unknown options."""
    given, unknown = argument_parser().parse_known_args(list(arguments))
    if unknown:
        raise ConfigError([_unknown(item.lstrip("-").split("=")[0]) for item in unknown])
    return {path: _typed(by_path()[path], text) for path, text in vars(given).items()}


def _typed(field: FieldInfo, text: str) -> Any:
    """The value that a text stands for; what can't be read stays text, so that the schema refuses it by its path."""
    if field.kind in ("text", "choice"):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        value = {"yes": True, "on": True, "no": False, "off": False}.get(text.lower(), text)
    return float(value) if field.kind == "number" and type(value) is int else value


# --- What is wrong ---------------------------------------------------------------------------------------------------


def _fault(item: Any) -> ConfigFault:
    """One of pydantic's errors as a fault."""
    parts = [str(part) for part in item["loc"]]
    path = ".".join(parts[:2])
    if item["type"] == "unexpected_keyword_argument":
        return _unknown(path)
    field = by_path().get(path)
    if field is None:
        return ConfigFault(path or "config", f"It must be an object of settings, not {_shown(item)}.", "an object")
    return ConfigFault(path, f"{_shown(item)} is not allowed; it must be {field.allowed}.", field.allowed)


def _shown(item: Any) -> str:
    text = json.dumps(item["input"], ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:59] + "…"


def _unknown(path: str) -> ConfigFault:
    """An unknown section or setting, with the nearest known name."""
    if "." not in path:
        names = [section.name for section in sections()]
        paths = {field.name: field.path for field in fields()}
        if path in paths:
            return ConfigFault(path, f"There is no section {path!r}; the setting is {paths[path]}.", paths[path])
        near = difflib.get_close_matches(path, [*names, *paths], n=1)
        hint = f" Did you mean {paths.get(near[0], near[0])}?" if near else ""
        return ConfigFault(path, f"There is no section {path!r}.{hint}", ", ".join(names))
    section, name = path.split(".", 1)
    here = [field.name for field in fields() if field.section == section]
    near = difflib.get_close_matches(name, here, n=1)
    if near:
        return ConfigFault(path, f"There is no such setting. Did you mean {section}.{near[0]}?", ", ".join(here))
    everywhere = difflib.get_close_matches(path, by_path(), n=1, cutoff=0.5)
    elsewhere = next((field.path for field in fields() if field.name == name), *everywhere[:1] or [""])
    hint = f" Did you mean {elsewhere}?" if elsewhere else ""
    return ConfigFault(path, f"There is no such setting.{hint}", ", ".join(here))


def _contradictions(config: TrainerConfig) -> list[ConfigFault]:
    """Settings that are each allowed but not together."""
    model, data, length = config.model, config.data, config.hyperparams.max_length
    faults = []
    if config.hyperparams.max_steps == 0:
        faults.append(
            ConfigFault("hyperparams.max_steps", "0 steps train nothing; -1 means by epochs.", "-1, or at least 1")
        )
    faults += _schedule_faults(config)
    if model.load_in_8bit and model.load_in_4bit:
        faults.append(ConfigFault("model.load_in_4bit", "The base is held in 8 bits or in 4, not both.", "false"))
    if model.method == "full" and (model.load_in_8bit or model.load_in_4bit):
        name = "load_in_4bit" if model.load_in_4bit else "load_in_8bit"
        faults.append(ConfigFault(f"model.{name}", "Weights held in so few bits can't be trained; use lora.", "false"))
    if config.environment.distributed == "fsdp" and (model.load_in_8bit or model.load_in_4bit):
        faults.append(
            ConfigFault("environment.distributed", "Weights held in so few bits can't be divided; use ddp.", "ddp")
        )
    if data.min_tokens > length:
        faults.append(
            ConfigFault("data.min_tokens", f"No example can reach it: max_length is {length}.", f"at most {length}")
        )
    if data.max_tokens and data.max_tokens < data.min_tokens:
        faults.append(
            ConfigFault("data.max_tokens", f"Below min_tokens ({data.min_tokens}).", f"at least {data.min_tokens}")
        )
    return faults


def _schedule_faults(config: TrainerConfig) -> list[ConfigFault]:
    """What the polynomial schedule can't compute: it falls to a fixed rate, over the steps behind the warm-up."""
    hyper = config.hyperparams
    if hyper.lr_scheduler_type != "polynomial":
        return []
    faults = []
    if hyper.learning_rate <= POLYNOMIAL_END:
        end = f"The polynomial schedule ends at {POLYNOMIAL_END:g}, which is not below it."
        faults.append(ConfigFault("hyperparams.learning_rate", end, f"above {POLYNOMIAL_END:g}"))
    if hyper.warmup_ratio == 1:
        none = "The polynomial schedule needs steps behind the warm-up."
        faults.append(ConfigFault("hyperparams.warmup_ratio", none, "below 1"))
    return faults


def _nested(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    nested: dict[str, dict[str, Any]] = {}
    for path, value in flat.items():
        section, _, name = path.partition(".")
        nested.setdefault(section, {})[name] = value
    return nested


def explain(loaded: Loaded) -> list[tuple[str, Any, Source]]:
    """Every setting as (path, value, source), in the order of the schema."""
    plain = to_dict(loaded.config)
    return [(field.path, plain[field.section][field.name], loaded.sources[field.path]) for field in fields()]


def help_text() -> str:
    """The options of the command line with their descriptions."""
    return argument_parser().format_help()


def schema() -> dict[str, Any]:
    """The JSON schema of a configuration."""
    return _ADAPTER.json_schema()
