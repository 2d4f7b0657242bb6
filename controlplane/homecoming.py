"""Jobs whose process has ended and whose results are on their way home: shown, concluded, given up. A duty."""

from controlplane import host_loss
from controlplane.models.transfers import TransferState
from controlplane.services import arrivals, ingest


def work() -> None:
    """One look at all of them."""
    for attempt, rows in arrivals.coming():
        if (error := arrivals.fault(attempt, rows)) is not None:
            ingest.conclude_missing(attempt, error)
        elif all(row.state == TransferState.DONE for row in rows):
            ingest.conclude_arrived(attempt)
        elif attempt.host.lost_at is not None and host_loss.resumes_elsewhere(attempt):
            ingest.lose_results(attempt, f"{attempt.host.name} was lost before {rows[0].title} had come home.")
        else:
            arrivals.show(attempt, rows)
