"""Runs of scripts that run elsewhere: nothing is launched, their points come by the API. Runs in the web process."""

from controlplane.kinds.base import JobKind


class ExternalKind(JobKind):
    """`config` is empty. It is running from its beginning until its script, or a person, says that it has ended."""

    name = "external"
    lane = "external"
    runs_here = True
    in_turn = False
