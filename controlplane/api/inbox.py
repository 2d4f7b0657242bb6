"""The inbox: /api/inbox. Runs in the web process."""

from typing import Annotated, Any

from ninja import Router, Status
from ninja.params.functions import Query

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.queue import Inbox, InboxFile
from controlplane.api.schemas.tables import InboxQuery
from controlplane.services import inbox
from controlplane.services.tables import inbox as asked
from controlplane.services.tables import keyset

router = Router(tags=["Jobs"])


@router.get("/inbox", response=Inbox)
def list_files(
    request: ActorRequest, query: Annotated[InboxQuery, Query()], limit: Annotated[int, Query(ge=1, le=500)] = 200
) -> dict[str, Any]:
    """Files that came by the inbox: those under way first, then the newest, or in the order of `sort`."""
    found = keyset.page(keyset.required(asked.ask(request.GET)), limit)
    return {**inbox.overview(), "files": [inbox.facts(row) for row in found.rows], **found.place}


@router.post("/inbox/{int:file_id}/retry", response={202: InboxFile})
def retry(request: ActorRequest, file_id: int) -> Status[dict[str, Any]]:
    """Tries a rejected or failed file again, from where it got stuck."""
    return Status(202, inbox.facts(inbox.retry(request.actor, file_id)))


@router.delete("/inbox/{int:file_id}", response={204: None})
def dismiss(request: ActorRequest, file_id: int) -> Status[None]:
    """Takes a file that is over off the list; a rejected one stays under inbox/rejected."""
    inbox.dismiss(request.actor, file_id)
    return Status(204, None)
