"""Whether the audit log is whole, and all of it as a file. Runs in the web process."""

import csv
import io
import json
from collections.abc import Iterator, Sequence

from django.http import StreamingHttpResponse
from ninja import Router, Schema

from controlplane.api.downloads import written
from controlplane.api.keys import ActorRequest
from controlplane.models.access import Role
from controlplane.services import access, audit_seal
from controlplane.services.spreadsheets import harmless

router = Router(tags=["Administration"])
COLUMNS = ("number", "time", "actor", "address", "action", "target", "detail", "seal")
NDJSON, CSV = "application/x-ndjson", "text/csv; charset=utf-8"


class AuditFinding(Schema):
    """What the seals tell: sealed lines that are as they were written, lines not sealed yet, the first fault."""

    is_sound: bool
    sealed: int
    waiting: int
    fault: str


@router.get("/audit/verification", response=AuditFinding)
def verify_audit(request: ActorRequest) -> audit_seal.Finding:
    """Goes through all seals of the audit log (admin)."""
    request.actor.require(Role.ADMIN)
    return audit_seal.examine()


@router.get("/audit/export.ndjson", openapi_extra={"responses": {200: {"content": {NDJSON: {}}}}})
def export_audit(request: ActorRequest) -> StreamingHttpResponse:
    """The whole audit log with its seals, the oldest line first, a JSON object a line (admin)."""
    _ask_for_all(request)
    return written(_lines(), "audit.ndjson", NDJSON)


@router.get("/audit/export.csv", openapi_extra={"responses": {200: {"content": {"text/csv": {}}}}})
def export_audit_table(request: ActorRequest) -> StreamingHttpResponse:
    """The same as a table with a header line; what a spreadsheet would take for a formula is quoted (admin)."""
    _ask_for_all(request)
    return written(_rows(), "audit.csv", CSV)


def _ask_for_all(request: ActorRequest) -> None:
    request.actor.require(Role.ADMIN)
    access.audit(request.actor, "audit.export")


def _lines() -> Iterator[bytes]:
    for line in audit_seal.exported():
        yield json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _rows() -> Iterator[bytes]:
    yield _row(COLUMNS)
    for line in audit_seal.exported():
        detail = json.dumps(line["detail"], ensure_ascii=False)
        yield _row([harmless(value) for value in {**line, "detail": detail}.values()])


def _row(cells: Sequence[object]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return out.getvalue().encode()
