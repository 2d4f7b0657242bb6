"""What the settings file beside a file in the inbox asks for, and the run that comes of it. Runs in the web process.

A settings file is a configuration as `training.config` reads it (by section, or flat as the replaced system wrote it)
with a few words of the inbox's own beside it: `template`, `model`, `name`, `generator`, `generator_version`,
`continue_from_current`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controlplane.errors import FieldFault, InvalidInputError
from controlplane.models import Dataset, Run
from controlplane.models.access import Actor
from controlplane.services import chains, dataset_intake, run_templates, runs, settings
from controlplane.services.lineage import Lineage
from training.config.flat import is_flat, read_flat
from training.config.loader import ConfigError, parse_config

WORDS = ("template", "model", "name", "generator", "generator_version", "config")
"""What a settings file may say beside the configuration."""

CONTINUE = "continue_from_current"
"""As the replaced system called it: true for the chain chains.DEFAULT_CHAIN, or the name of another one."""

OWN = {
    "data.train_dataset": "the file itself is the dataset.",
    "output.output_dir": "a run's folder is Pilothouse's own choice.",
}
"""Settings that a file of the inbox decides by being there; older configurations have them, so they are named only."""

DEFAULT_EVAL_FRACTION = 0.05
ENDINGS = frozenset(dataset_intake.SUFFIXES)


@dataclass(frozen=True)
class InboxOptions:
    """What is asked for; all of it may be unsaid. `said` is the file as it was read, `config` nested by section."""

    said: dict[str, Any] = field(default_factory=dict)
    template: str = ""
    model: str = ""
    name: str = ""
    lineage: Lineage = field(default_factory=Lineage)
    config: dict[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(cls, said: dict[str, Any]) -> "InboxOptions":
        """The options of a settings file's content. Raises InvalidInputError."""
        words = {name: _text(said, name) for name in WORDS if name != "config" and not isinstance(said.get(name), dict)}
        rest = {name: value for name, value in said.items() if name not in words and name != "config"}
        if isinstance(said.get("config"), dict):
            rest = {**said["config"], **rest}
        config, left_out = _by_section(rest)
        start = _taken_out(config, "model.model")
        own = tuple(f"{path}: {why}" for path, why in OWN.items() if _taken_out(config, path))
        return cls(
            said, words.get("template", ""), words.get("model", "") or str(start or ""), words.get("name", ""),
            Lineage(words.get("generator", ""), words.get("generator_version", "")), config, left_out + own,
        )  # fmt: skip

    def dataset_name(self, filename: str) -> str:
        """What the dataset is called: as was asked, else as the file without its endings."""
        return dataset_intake.check_name(self.name or stem(filename))

    def eval_fraction(self) -> float:
        """The share of rows kept for evaluation."""
        data = self.config.get("data")
        asked = data.get("eval_fraction") if isinstance(data, dict) else None
        return dataset_intake.check_eval_fraction(DEFAULT_EVAL_FRACTION if asked is None else asked)


def parse(said: dict[str, Any]) -> InboxOptions:
    """The options, checked as far as they can be before there is a dataset. Raises InvalidInputError."""
    options = InboxOptions.of(said)
    try:
        parse_config(options.config)
    except ConfigError as error:
        raise InvalidInputError(f"Its settings can't be used: {error}.") from error
    return options


def stem(filename: str) -> str:
    """A file's name without what says how it is written: `chats` of `chats.jsonl.gz`."""
    name = Path(filename)
    while name.suffix.lower() in ENDINGS and name.stem:
        name = Path(name.stem)
    return name.name


def start_run(actor: Actor, dataset: Dataset, options: InboxOptions, priority: str) -> Run | None:
    """Queues the run that a file asks for; None where neither a template nor a model is named. Raises as `create`."""
    wanted = options.template or str(settings.get("inbox.template"))
    template = run_templates.named(wanted) if wanted else None
    if template is None and not options.model:
        return None
    name = options.name or stem(dataset.filename)
    if template is None:
        return runs.create(
            actor, name=name, dataset=dataset.pk, model=options.model, priority=priority, config=options.config
        )
    return run_templates.start(
        actor, template, name=name, dataset=dataset.pk, model=options.model, priority=priority, config=options.config
    )


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name, "")
    if not isinstance(value, str):
        message = f"Its settings say {name} {value!r}: that must be a text."
        raise InvalidInputError(message, (FieldFault(name, "a text"),))
    return value.strip()


def _by_section(rest: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The configuration nested by section, and the keys that have no place in it, each with the reason."""
    left = {name: value for name, value in rest.items() if name != CONTINUE}
    if is_flat(left):
        flat = read_flat(left)
        if flat.clashes:
            path, one, other = flat.clashes[0]
            raise InvalidInputError(f"Its settings say {path} twice, as {one} and as {other}. Leave one out.")
        left, dropped = dict(flat.config), tuple(map(str, flat.left_out))
    else:
        dropped = ()
    chain = rest.get(CONTINUE)
    if chain in (None, False, ""):
        return left, dropped
    if chain is not True and not isinstance(chain, str):
        raise InvalidInputError(f"Its settings say {CONTINUE} {chain!r}: give true, or the name of a chain.")
    section = left.get("model")
    left["model"] = {
        **(section if isinstance(section, dict) else {}),
        "chain": chains.DEFAULT_CHAIN if chain is True else chain,
    }
    return left, dropped


def _taken_out(config: dict[str, Any], path: str) -> Any:
    """The value of a setting, which is no longer in the configuration then; None where it wasn't."""
    section, name = path.split(".")
    held = config.get(section)
    if not isinstance(held, dict) or name not in held:
        return None
    config[section] = {key: value for key, value in held.items() if key != name}
    return held[name]
