"""Event files of TensorBoard, read into a run's curves; done in the web process. Runs there.

It is a job of the web process itself and no process of its own: what is read is stored at once, by the same code that
stores any point, and takes seconds for a million of them. It works in a thread, so pages are answered meanwhile.
"""

from typing import Any

from controlplane.kinds.base import JobKind
from controlplane.models import Job, Run
from controlplane.services import run_import


class ImportKind(JobKind):
    """`config` holds {"files": [{"file", "name"}]}; they lie in the run's folder until they are read."""

    name = "import"
    lane = "import"
    runs_here = True

    def work(self, job: Job) -> dict[str, Any]:
        return run_import.read(Run.objects.select_related("job").get(job=job))
