"""The verb `serve`: loads a model, answers requests until it is told to stop, then finishes what is in flight.

Runs in the inference process, as its main thread. SIGTERM and SIGUSR1 both mean: take nothing new, finish, exit 0.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import uvicorn

from inference.engine.base import Engine, GenerationRequest, SamplingParameters, stream
from inference.engine.chat import ChatPrompts
from inference.engine.loading import LoadedModel, load_model
from inference.engine.transformers import TransformersEngine
from inference.options import ServeOptions
from inference.processors import UnknownProcessorsError, load_processors
from inference.server import Service, create_app
from monitoring.attempt import JobFaultError
from monitoring.events import EventWriter, JobSpec, Phase, Progress, Ready, read_secrets
from training.profiles.base import BrokenProfileError, Profile, UnknownProfileError, load_profile

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
LOADING_STEPS = 5
GOODBYE_SECONDS = 2
WARM_UP_TOKENS = 4

logger = logging.getLogger(__name__)


class StoppedWhileLoadingError(Exception):
    """A stop signal came before there was anything to drain."""


class StopSignals:
    """What the process does on a stop signal: breaks off the loading, later calls `on_stop`; it never just dies."""

    def __init__(self) -> None:
        self.is_asked = False
        self.is_loading = True
        self.on_stop: Callable[[], object] = lambda: None
        for number in STOP_SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, *_: object) -> None:
        self.is_asked = True
        if self.is_loading:
            self.is_loading = False
            raise StoppedWhileLoadingError
        self.on_stop()


def serve(spec: JobSpec, events: EventWriter, spec_path: Path) -> dict[str, Any]:
    """Serves `spec.inputs.model`; returns {"requests", "tokens"} when it has been stopped."""
    if spec.inputs.model is None:
        raise JobFaultError("model_missing", "The spec names no model to serve.", "Choose a model.")
    token = read_secrets(spec_path).get("engine_token", "")
    if not token:
        raise JobFaultError("token_missing", "The spec comes without an engine token.", "Launch it through the agent.")
    options = ServeOptions.from_config(spec.config, spec.inputs.model.id)
    events.emit(Phase(name="launching"))
    signals = StopSignals()
    listener = _listener()
    try:
        profile = _profile(options, events)
        loaded, engine = _engine(spec, options, profile, events)
        signals.is_loading = False
    except StoppedWhileLoadingError:
        events.log("stopped while loading")
        return {"requests": 0, "tokens": 0}
    service = _service(loaded, engine, options, profile, token)
    try:
        asyncio.run(Server(service, listener, options.drain_seconds, events).run(signals))
    finally:
        engine.close()
        listener.close()
    return {"requests": service.requests, "tokens": engine.stats().tokens}


class Server:
    """uvicorn on a socket that is bound already, with a stop that lets requests finish."""

    def __init__(self, service: Service, listener: socket.socket, drain_seconds: float, events: EventWriter) -> None:
        self._service = service
        self._listener = listener
        self._drain_seconds = drain_seconds
        self._events = events
        self._stop_asked = asyncio.Event()
        config = uvicorn.Config(
            create_app(service),
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=GOODBYE_SECONDS,
        )
        self._uvicorn = _Uvicorn(config, self._announce)

    async def run(self, signals: StopSignals) -> None:
        """Serves until a stop signal and the drain behind it."""
        loop = asyncio.get_running_loop()
        signals.on_stop = lambda: loop.call_soon_threadsafe(self._stop_asked.set)
        if signals.is_asked:  # between loading and here
            self._stop_asked.set()
        serving = asyncio.create_task(self._uvicorn.serve(sockets=[self._listener]))
        stopping = asyncio.create_task(self._stop_asked.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not serving.done():
            await self._drain()
            self._uvicorn.should_exit = True
        await serving
        signals.on_stop = lambda: None  # the loop ends here, a late signal must not

    def _announce(self) -> None:
        port = self._listener.getsockname()[1]
        self._events.emit(Phase(name="active"))
        self._events.emit(Ready(port=port))

    async def _drain(self) -> None:
        """Admits nothing more and waits for what is in flight; cuts it off at the deadline."""
        service = self._service
        service.is_draining = True
        self._events.emit(Phase(name="stopping"))
        self._events.log(f"stopping: {service.in_flight} requests in flight")
        if not await service.wait_until_idle(self._drain_seconds):
            self._events.log(f"{service.in_flight} requests took longer than {self._drain_seconds:g} s", "warning")
            # In a thread: what is cut off is told so through this loop.
            await asyncio.to_thread(service.engine.close)


class _Uvicorn(uvicorn.Server):
    """Leaves the signals alone, and says when it listens."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._on_started()


def _listener() -> socket.socket:
    """A socket on a free loopback port. Bound before the model is loaded: nobody else can take the port meanwhile."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    return listener


def _profile(options: ServeOptions, events: EventWriter) -> Profile:
    """The profile that the model was trained in; another version of it serves, and the log says so."""
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


def _engine(
    spec: JobSpec, options: ServeOptions, profile: Profile, events: EventWriter
) -> tuple[LoadedModel, TransformersEngine]:
    """Loads the model and has it generate once, so that the first client pays for nothing."""
    assert spec.inputs.model is not None  # noqa: S101 - `serve` has looked
    done = 0

    def report(what: str) -> None:
        nonlocal done
        events.emit(Progress(done=done, total=LOADING_STEPS, unit="steps", note=what))
        events.log(what)
        done += 1

    try:
        factories = load_processors(profile.processors)
    except UnknownProcessorsError as error:
        raise JobFaultError("processors_unknown", str(error), "Serve it in the plain profile.") from error
    loaded = load_model(
        spec.inputs.model,
        spec.inputs.base,
        dtype=options.dtype,
        device=options.device,
        max_model_length=options.max_model_length,
        cpu_threads=options.cpu_threads,
        report=report,
    )
    engine = TransformersEngine(loaded, factories, max_batch=options.max_batch, max_queue=options.max_queue)
    report("warming up")
    _warm_up(engine)
    engine.forget_statistics()
    events.emit(Progress(done=LOADING_STEPS, total=LOADING_STEPS, unit="steps", note="ready"))
    return loaded, engine


def _warm_up(engine: Engine) -> None:
    request = GenerationRequest([0] * 8, max_tokens=WARM_UP_TOKENS, sampling=SamplingParameters(temperature=0))
    for _ in stream(engine, request):
        pass


def _service(
    loaded: LoadedModel, engine: TransformersEngine, options: ServeOptions, profile: Profile, token: str
) -> Service:
    encoder = loaded.encoder
    return Service(
        engine=engine,
        prompts=ChatPrompts(encoder, lambda: profile.system_prompt(date.today()), profile.chat_template),
        encode=lambda text: list(encoder.encode(text)),
        sampling_defaults=loaded.sampling_defaults,
        model_name=options.model_name,
        token=token,
    )
