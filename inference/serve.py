"""The verb `serve`: loads a model, answers requests until it is told to stop, then finishes what is in flight.

Runs in the inference process, as its main thread. SIGTERM and SIGUSR1 both mean: take nothing new, finish, exit 0.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from inference.engine.base import BASE_MODEL, Engine
from inference.engine.chat import ChatPrompts
from inference.engine.loading import LoadedModel
from inference.options import ServeOptions
from inference.serve_vllm import Stage, serve_by_vllm
from inference.server import ServedModel, Service, create_app
from inference.startup import model_of, open_profile, start_engine
from inference.stop_signals import StoppedWhileLoadingError, StopSignals
from monitoring.attempt import JobFaultError
from monitoring.events import EventWriter, JobSpec, Phase, Ready, read_secrets
from training.profiles.base import Profile

GOODBYE_SECONDS = 2

logger = logging.getLogger(__name__)


def serve(spec: JobSpec, events: EventWriter, spec_path: Path) -> dict[str, Any]:
    """Serves `spec.inputs.model`; returns {"requests", "tokens"} when it has been stopped."""
    model = model_of(spec)
    token = read_secrets(spec_path).get("engine_token", "")
    if not token:
        raise JobFaultError("token_missing", "The spec comes without an engine token.", "Launch it through the agent.")
    options = ServeOptions.from_config(spec.config, model.id)
    events.emit(Phase(name="launching"))
    signals = StopSignals()
    if options.engine == "vllm":
        return serve_by_vllm(spec, options, token, Stage(events, signals, spec_path.parent))
    listener = _listener(options.listen_address)
    try:
        profile = open_profile(options, events)
        profiles = {adapter.name: open_profile(adapter, events) for adapter in options.adapters}
        loaded, engine = start_engine(spec, options, profile, events, profiles, only_serves=True)
        signals.is_loading = False
    except StoppedWhileLoadingError:
        events.log("stopped while loading")
        return {"requests": 0, "tokens": 0}
    service = _service(loaded, engine, options, {BASE_MODEL: profile, **profiles}, token)
    try:
        asyncio.run(Server(service, listener, options.drain_seconds, events, _told(loaded, options)).run(signals))
    finally:
        engine.close()
        listener.close()
    return {"requests": service.requests, "tokens": engine.stats().tokens}


class Server:
    """uvicorn on a socket that is bound already, with a stop that lets requests finish."""

    def __init__(
        self,
        service: Service,
        listener: socket.socket,
        drain_seconds: float,
        events: EventWriter,
        runs_with: dict[str, Any],
    ) -> None:
        self._runs_with = runs_with
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
        self._events.emit(Ready(port=port, runs_with=self._runs_with))

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


def _listener(address: str) -> socket.socket:
    """A socket on a free port. Bound before the model is loaded: nobody else can take the port meanwhile.

    Raises JobFaultError `address_unknown` for an address that isn't this host's.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.bind((address, 0))
    except OSError as error:
        listener.close()
        raise JobFaultError(
            "address_unknown",
            f"The engine can't listen on {address}: {error.strerror or error}.",
            "Give the host the address under which the control plane reaches it (Hosts, its page).",
        ) from error
    return listener


def _told(loaded: LoadedModel, options: ServeOptions) -> dict[str, Any]:
    return options.told(
        dtype=loaded.dtype,
        device=loaded.device,
        max_model_length=loaded.max_model_length,
        cpu_threads=loaded.cpu_threads,
    )


def _service(
    loaded: LoadedModel, engine: Engine, options: ServeOptions, profiles: Mapping[str, Profile], token: str
) -> Service:
    served = []
    for adapter, profile in profiles.items():
        encoder = loaded.encoder if adapter == BASE_MODEL else loaded.adapter_encoders[adapter]
        served.append(
            ServedModel(
                name=options.model_name if adapter == BASE_MODEL else adapter,
                adapter=adapter,
                prompts=ChatPrompts(encoder, partial(_system_prompt, profile), profile.chat_template),
                encode=partial(_encoded, encoder),
                sampling_defaults=loaded.sampling_defaults,
            )
        )
    return Service(engine, {model.name: model for model in served}, token)


def _system_prompt(profile: Profile) -> str:
    return profile.system_prompt(date.today())


def _encoded(encoder: Any, text: str) -> list[int]:
    return list(encoder.encode(text))
