"""Text on demand (`POST /api/generate`); answered in the web process, by the duty `generations`. Runs there."""

from controlplane.kinds.base import JobKind


class GenerateKind(JobKind):
    """`config` holds {"prompt", "model", "max_tokens", "temperature", "top_p", "mode"} (`services.generations`)."""

    name = "generate"
    lane = "generate"
    runs_here = True
    in_turn = False
