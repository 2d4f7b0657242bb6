"""The machine's share: devices, processes, threads: the section `environment`. Runs in every process."""

from typing import Annotated, Literal

from pydantic.dataclasses import dataclass

from training.config.sections.about import SETTINGS, about


@dataclass(frozen=True, config=SETTINGS)
class Environment:
    """The machine that the run gets."""

    gpus: Annotated[
        int,
        about("How many GPUs the run takes. 0: one where the host has any.", title="GPUs", unit="GPUs", ge=0, le=1024),
    ] = 0
    num_nodes: Annotated[
        int,
        about(
            "How many hosts the run is spread over; it takes that many GPUs on each.",
            title="Hosts",
            unit="hosts",
            advanced=True,
            ge=1,
            le=1024,
        ),
    ] = 1
    host: Annotated[
        str, about("The host on which the run is to start; empty: any that has room.", title="Host", advanced=True)
    ] = ""
    labels: Annotated[
        tuple[str, ...], about("Labels that a host must have to be given the run.", title="Labels", advanced=True)
    ] = ()
    distributed: Annotated[
        Literal["none", "ddp", "fsdp"],
        about("How several GPUs share the work: ddp copies the model to each, fsdp divides it.", advanced=True),
    ] = "none"
    cpu_threads: Annotated[
        int,
        about(
            "Threads for computing on the processor. 0: what the host's agent allows.",
            title="CPU threads",
            unit="threads",
            advanced=True,
            ge=0,
            le=1024,
        ),
    ] = 0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], about("How much the run's log says.", advanced=True)
    ] = "info"
    nice: Annotated[
        int,
        about(
            "How far the run steps back for other processes on the host; 0 not at all, 19 most.",
            title="Niceness",
            advanced=True,
            ge=0,
            le=19,
        ),
    ] = 5
