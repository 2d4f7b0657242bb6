"""From a job's settings to a warm engine: the profile, the loaded model, a first generation that nobody waits for.

Runs in the inference process, once, at the beginning of each of its verbs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from inference.engine.base import BASE_MODEL, Engine, GenerationRequest, SamplingParameters, stream
from inference.engine.errands import give_workers_back
from inference.engine.llama_cpp import LlamaCppEngine
from inference.engine.llama_loading import LlamaSettings, load_llama
from inference.engine.loading import LoadedModel, load_model
from inference.engine.rolling import RollingEngine
from inference.engine.transformers import TransformersEngine
from inference.options import AdapterOptions, ServeOptions
from inference.processors import ProcessorFactory, UnknownProcessorsError, load_processors
from inference.progress import Report, StageProgress
from monitoring.attempt import JobFaultError
from monitoring.events import Artefact, EventWriter, JobSpec
from training.profiles.base import BrokenProfileError, Profile, UnknownProfileError, load_profile

LOADING_STEPS = 5
WARM_UP_TOKENS = 4


def model_of(spec: JobSpec) -> Artefact:
    """The model that a spec names. Raises JobFaultError `model_missing` where it names none."""
    if spec.inputs.model is None:
        raise JobFaultError("model_missing", "The spec names no model.", "Choose a model.")
    return spec.inputs.model


def open_profile(options: ServeOptions | AdapterOptions, events: EventWriter) -> Profile:
    """The profile that a model was trained in; another version of it serves, and the log says so."""
    wanted = options.profile
    try:
        profile = load_profile(wanted.name, system_prompt=wanted.system_prompt, options=wanted.options)
    except (UnknownProfileError, BrokenProfileError) as error:
        raise JobFaultError("profile_unknown", str(error), "Install the package that brings the profile.") from error
    if wanted.version not in ("", profile.version):
        events.log(
            f"trained with version {wanted.version} of the profile {wanted.name}, served with {profile.version}",
            "warning",
        )
    return profile


def start_engine(
    spec: JobSpec,
    options: ServeOptions,
    profile: Profile,
    events: EventWriter,
    adapter_profiles: Mapping[str, Profile] | None = None,
    *,
    only_serves: bool = False,
) -> tuple[LoadedModel, RollingEngine[Any]]:
    """Loads the model and has it generate once, under each adapter too, so that the first client pays for nothing.

    Who doesn't only serve wants the model itself, for its losses for instance, which transformers alone gives.
    """
    if options.engine != "transformers" and not only_serves:
        raise JobFaultError(
            "engine_unsuited",
            f"The engine {options.engine} only serves; this job needs transformers.",
            "Leave engine out.",
        )
    report = StageProgress(events, LOADING_STEPS)
    factories = _factories(profile)
    if options.engine == "llama_cpp":
        loaded, engine = _on_llama_cpp(spec, options, factories, report)
    else:
        adapter_factories = {name: _factories(own) for name, own in (adapter_profiles or {}).items()}
        loaded, engine = _on_transformers(spec, options, factories, adapter_factories, report)
    report("warming up")
    for adapter in (BASE_MODEL, *loaded.adapters.names):
        _warm_up(engine, adapter)
    engine.forget_statistics()
    report.finish("ready")
    return loaded, engine


def _on_transformers(
    spec: JobSpec,
    options: ServeOptions,
    factories: Sequence[ProcessorFactory],
    adapter_factories: Mapping[str, Sequence[ProcessorFactory]],
    report: Report,
) -> tuple[LoadedModel, RollingEngine[Any]]:
    loaded = load_model(
        model_of(spec),
        spec.inputs.base,
        adapters=[Artefact(id=adapter.name, path=adapter.path) for adapter in options.adapters],
        dtype=options.dtype,
        bits=options.bits,
        device=options.device,
        max_model_length=options.max_model_length,
        cpu_threads=options.cpu_threads,
        report=report,
    )
    give_workers_back()
    return loaded, TransformersEngine(
        loaded,
        factories,
        max_batch=options.max_batch,
        max_queue=options.max_queue,
        prefix_cache_bytes=options.prefix_cache_mib * 2**20,
        adapter_factories=adapter_factories,
    )


def _on_llama_cpp(
    spec: JobSpec, options: ServeOptions, factories: Sequence[ProcessorFactory], report: Report
) -> tuple[LoadedModel, RollingEngine[Any]]:
    if options.adapters:
        raise JobFaultError(
            "adapters_unsupported",
            "llama_cpp serves no adapters beside a model.",
            "Export the adapter as a model of its own, or serve both by transformers.",
        )
    settings = LlamaSettings(
        gguf=options.gguf,
        dtype=options.dtype,
        device=options.device,
        max_batch=options.max_batch,
        max_model_length=options.max_model_length,
        cpu_threads=options.cpu_threads,
    )
    loaded = load_llama(model_of(spec), spec.inputs.base, settings, report)
    return loaded, LlamaCppEngine(
        loaded,
        factories,
        max_batch=options.max_batch,
        max_queue=options.max_queue,
        prefix_cache_bytes=options.prefix_cache_mib * 2**20,
    )


def _factories(profile: Profile) -> list[ProcessorFactory]:
    try:
        return load_processors(profile.processors)
    except UnknownProcessorsError as error:
        raise JobFaultError("processors_unknown", str(error), "Serve it in the plain profile.") from error


def _warm_up(engine: Engine, adapter: str) -> None:
    greedy = SamplingParameters(temperature=0)
    request = GenerationRequest([0] * 8, max_tokens=WARM_UP_TOKENS, sampling=greedy, adapter=adapter)
    for _ in stream(engine, request):
        pass
