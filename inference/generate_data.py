"""The verb `generate_data`: rows that a model writes from the rows of a dataset, or a generator makes without one.

Runs in the inference process, as its main thread. What is kept lies in whole shards (`datagen.shards`): killed in the
middle, the next attempt goes on behind the last of them. `regime3` needs no model, and nothing of torch is loaded for
it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from inference.datagen.answer import Answer
from inference.datagen.keeping import Keeper
from inference.datagen.options import GenerationOptions
from inference.datagen.paraphrase import Paraphrase
from inference.datagen.regime3 import Regime3
from inference.datagen.seeds import Seeds
from inference.datagen.self_instruct import SelfInstruct
from inference.datagen.shards import Shards, Tally
from inference.datagen.similarity import KnownPrompts
from inference.datagen.tries import Outcome, Strategy, made
from monitoring.attempt import JobFaultError
from monitoring.events import EventWriter, JobSpec, Phase
from training.profiles.base import Profile, load_profile

REGIME3 = "regime3"
COMPARED_SEEDS = 50_000
"""So many of a larger set are what new prompts are compared with: a signature takes some milliseconds and kilobytes."""

FIXES = {
    "check": "Give more examples of the form among the seeds, choose a model that has learned it, or leave check out.",
    "duplicate": "Raise the temperature, or give other seeds.",
    "similar": "Raise similarity_threshold or the temperature, or give more varied seeds.",
    "failed": "As the first says; a model with a longer context or shorter seeds are what is lacking most often.",
    "unreadable": "Raise max_tokens, lower the temperature, or choose a model that has been trained to answer.",
}
"""What mends it that nothing is kept, by the reason most dropped for."""


def generate_data(spec: JobSpec, events: EventWriter, spec_path: Path) -> dict[str, Any]:
    """Makes `num_examples` rows, or as many as it can; returns the values of the `result` event. Raises JobFaultError:
    `bad_setting`, `no_seeds`, `nothing_generated`, and what loading a model raises."""
    options = GenerationOptions.from_config(spec.config)
    events.emit(Phase(name="launching"))
    shards = Shards(Path(spec.output_dir))
    if shards.whole:
        events.log(f"goes on: {shards.count:,} of {options.num_examples:,} examples are in whole shards already")
    tally = shards.tally
    if shards.count < options.num_examples and not tally.ended:
        make = _from_generator if options.strategy == REGIME3 else _from_model
        tally = make(spec, options, shards, events)
    if shards.count < options.num_examples:
        said = f"ends with {shards.count:,} of {options.num_examples:,}: {tally.ended}"
        events.log(f"{said}, dropped were {_in_words(tally.dropped)}", "warning")
    return {
        "examples": shards.count,
        "shards": [{"file": one.file, "rows": one.rows, "sha256": one.sha256} for one in shards.whole],
        "dropped": {reason: tally.dropped.get(reason, 0) for reason in FIXES},
        "generated_tokens": tally.generated_tokens,
        "seconds": tally.seconds,
    }


def _from_generator(spec: JobSpec, options: GenerationOptions, shards: Shards, events: EventWriter) -> Tally:
    """Has regime3's own generator make them."""
    keeper = Keeper(options, load_profile(REGIME3), None, shards, events)
    events.emit(Phase(name="active"))
    first = shards.tally.tries
    tries = islice(Regime3(options.num_examples, options.seed).tries(first), options.most_tries - first)
    return _kept(keeper, made(tries, first), shards)


def _from_model(spec: JobSpec, options: GenerationOptions, shards: Shards, events: EventWriter) -> Tally:
    """Has the spec's model make them from the seeds."""
    from inference.datagen.asking import Asking  # torch comes with them
    from inference.offline import opened

    if spec.inputs.dataset is None:
        raise JobFaultError("no_seeds", "The spec names no dataset to take seeds from.", "Choose a dataset as seeds.")
    seeds = Seeds(Path(spec.inputs.dataset.path), options.seed)
    with opened(spec, events) as model:
        known = _known(seeds, options, shards, events)
        keeper = Keeper(options, model.profile, known, shards, events)
        events.emit(Phase(name="active"))
        first = shards.tally.tries
        tries = islice(_strategy(seeds, model.profile, options).tries(first), options.most_tries - first)
        asking = Asking(model, tries, first, options=options, known=known, wanted=keeper.wanted_tries)
        with closing(asking.outcomes()) as outcomes:
            return _kept(keeper, outcomes, shards)


def _strategy(seeds: Seeds, profile: Profile, options: GenerationOptions) -> Strategy:
    match options.strategy:
        case "self_instruct":
            return SelfInstruct(seeds, profile, seed=options.seed, domain=options.domain)
        case "paraphrase":
            return Paraphrase(seeds, profile, options.domain)
        case _:
            return Answer(seeds, profile)


def _known(seeds: Seeds, options: GenerationOptions, shards: Shards, events: EventWriter) -> KnownPrompts | None:
    """The prompts of the seeds and of what has been kept, where the strategy makes new ones."""
    if options.strategy == "answer":
        return None
    if len(seeds) > COMPARED_SEEDS:
        events.log(f"new prompts are compared with {COMPARED_SEEDS:,} of the {len(seeds):,} seeds")
    known = KnownPrompts(options.similarity_threshold)
    for prompt in seeds.prompts(COMPARED_SEEDS):
        known.add(prompt)
    for shard in shards.whole:
        for prompt in shard.prompts:
            known.add(prompt)
    return known


def _kept(keeper: Keeper, outcomes: Iterable[Outcome], shards: Shards) -> Tally:
    """Keeps what is good of the outcomes. Raises JobFaultError where nothing is, and nothing was before."""
    tally = keeper.keep(outcomes)
    if not shards.whole:
        reason, _ = Counter(tally.dropped).most_common(1)[0]
        raise JobFaultError(
            "nothing_generated",
            f"Nothing was kept of {tally.tries:,} tries; dropped were {_in_words(tally.dropped)}. "
            f"The first of the most frequent reason: {keeper.details[reason]}",
            FIXES[reason],
        )
    return tally


def _in_words(dropped: Mapping[str, int]) -> str:
    """`12 as similar, 3 by the check`."""
    words = {"check": "by the check", "failed": "for an error"}
    told = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {words.get(reason, f'as {reason}')}" for reason, count in told) or "none"
