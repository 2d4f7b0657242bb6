"""Conversations, votes on answers, collected rows. Runs in the web process."""

from typing import Annotated, Any

from django.http import HttpResponse, StreamingHttpResponse
from ninja import Router, Status
from ninja.params.functions import Query

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.conversations import (
    Ask,
    BeginConversation,
    ChangeConversation,
    Collect,
    CollectedDataset,
    CollectedRow,
    CollectedRowList,
    CollectedSetList,
    Conversation,
    ConversationList,
    ConversationTurn,
    GiveVote,
    MakeCollectedDataset,
    Vote,
    VoteList,
    WantAnswer,
    WholeConversation,
)
from controlplane.api.schemas.tables import ConversationQuery
from controlplane.services import (
    collected,
    conversation_answers,
    conversation_turns,
    conversations,
    votes,
)
from controlplane.services.conversation_answers import Wanted
from controlplane.services.tables import conversations as asked
from controlplane.services.tables import keyset

router = Router(tags=["Conversations"])
Limit = Annotated[int, Query(ge=1, le=500)]
STREAM = {
    "responses": {200: {"description": "Server-sent events in OpenAI's form.", "content": {"text/event-stream": {}}}}
}
NO_PARAMETERS = {"question", "side", "model", "blind", "system"}


@router.get("/conversations", response=ConversationList)
def list_conversations(
    request: ActorRequest, query: Annotated[ConversationQuery, Query()], limit: Limit = 100
) -> dict[str, Any]:
    """Your conversations, the last used first, or in the order of `sort`."""
    found = keyset.page(keyset.required(asked.ask(request.actor, request.GET)), limit)
    return {
        "conversations": [conversations.facts(row) for row in conversations.with_questions(found.rows)], **found.place,
    }  # fmt: skip


@router.post("/conversations", response={201: Conversation})
def begin(request: ActorRequest, payload: BeginConversation) -> Status[dict[str, Any]]:
    """Begins a conversation."""
    row = conversations.create(request.actor, payload.title, payload.settings)
    return Status(201, conversations.facts(row))


@router.get("/conversations/{int:conversation_id}", response=WholeConversation)
def get_conversation(request: ActorRequest, conversation_id: int) -> dict[str, Any]:
    """One of your conversations with all its turns."""
    return conversation_turns.whole_facts(conversations.get(request.actor, conversation_id))


@router.patch("/conversations/{int:conversation_id}", response=Conversation)
def change(request: ActorRequest, conversation_id: int, payload: ChangeConversation) -> dict[str, Any]:
    """Gives it another title or other settings."""
    row = conversations.change(request.actor, conversation_id, title=payload.title, given=payload.settings)
    return conversations.facts(row)


@router.delete("/conversations/{int:conversation_id}", response={204: None})
def delete(request: ActorRequest, conversation_id: int) -> Status[None]:
    """Takes it away with its turns; votes and collected rows stay."""
    conversations.delete(request.actor, conversation_id)
    return Status(204, None)


@router.post("/conversations/{int:conversation_id}/turns", response={201: ConversationTurn})
def ask(request: ActorRequest, conversation_id: int, payload: Ask) -> Status[dict[str, Any]]:
    """Stores a question. Ask for its answer, or for two, by the next call."""
    turn = conversation_turns.ask(request.actor, conversation_id, payload.content, payload.parent, payload.beside)
    return Status(201, conversation_turns.facts(turn))


@router.post("/conversations/{int:conversation_id}/answers", openapi_extra=STREAM)
async def answer(request: ActorRequest, conversation_id: int, payload: WantAnswer) -> StreamingHttpResponse:
    """Answers a question as a stream, and keeps the answer; the header `X-Turn` has its id.

    An answer whose reader goes away is kept as far as it came. Another answer to the same question is its branch.
    """
    parameters = payload.dict(exclude=NO_PARAMETERS, exclude_none=True)
    wanted = Wanted(payload.question, payload.side, payload.model, payload.system, payload.blind, parameters)
    kept = await conversation_answers.answer(request.actor, conversation_id, wanted)
    response = StreamingHttpResponse(kept, content_type="text/event-stream")  # closes it, whatever happens
    response["X-Turn"] = str(kept.turn_id)
    response["Cache-Control"] = "no-cache"
    response["X-Accel-Buffering"] = "no"  # a proxy that buffers would hold the tokens back
    return response


@router.post("/conversations/{int:conversation_id}/votes", response={201: Vote})
def give_vote(request: ActorRequest, conversation_id: int, payload: GiveVote) -> Status[dict[str, Any]]:
    """Votes on two answers side by side; a second vote takes the place of the first."""
    row = votes.vote(request.actor, conversation_id, payload.left, payload.right, payload.choice)
    return Status(201, votes.facts(row))


@router.get("/votes", response=VoteList)
def list_votes(request: ActorRequest, limit: Limit = 100, *, blind: bool = False) -> dict[str, Any]:
    """Everybody's votes, newest first, and wins by pair of models; with `blind` the blind ones alone."""
    found = votes.list_votes(limit, blind_only=blind)
    return {"votes": [votes.facts(row) for row in found], "pairs": votes.pairs(blind_only=blind)}


@router.get("/votes.csv", response={200: str}, openapi_extra={"responses": {200: {"content": {"text/csv": {}}}}})
def votes_csv(request: ActorRequest) -> HttpResponse:
    """All votes as a CSV file, the oldest first."""
    return HttpResponse(
        votes.as_csv(), content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="votes.csv"'},
    )  # fmt: skip


@router.get("/collected", response=CollectedSetList)
def list_sets(request: ActorRequest) -> dict[str, Any]:
    """Your sets of collected rows."""
    return {"sets": collected.list_sets(request.actor)}


@router.post("/collected", response={201: CollectedRow})
def collect(request: ActorRequest, payload: Collect) -> Status[dict[str, Any]]:
    """Puts an answer, with what was said before it, into a set of yours. 409 where the set has it."""
    row = collected.collect(
        request.actor, payload.conversation, payload.answer, payload.set, with_system=payload.with_system
    )
    return Status(201, collected.facts(row, is_hidden=row.turn_id in collected.hidden([row])))


@router.get("/collected/rows", response=CollectedRowList)
def list_rows(
    request: ActorRequest, set: str, offset: Annotated[int, Query(ge=0, lt=1 << 63)] = 0, limit: Limit = 100
) -> dict[str, Any]:
    """The rows of one of your sets."""
    rows = collected.rows_of(request.actor, set, offset, limit)
    hidden = collected.hidden(rows)
    return {"rows": [collected.facts(row, is_hidden=row.turn_id in hidden) for row in rows]}


@router.delete("/collected/rows/{int:row_id}", response={204: None})
def remove_row(request: ActorRequest, row_id: int) -> Status[None]:
    """Takes a row out of its set."""
    collected.remove(request.actor, row_id)
    return Status(204, None)


@router.post("/collected/dataset", response={200: CollectedDataset, 201: CollectedDataset})
def make_dataset(request: ActorRequest, payload: MakeCollectedDataset) -> Status[dict[str, Any]]:
    """Makes a dataset of a set's rows, with their lineage, and has it validated. The set stays.

    200 with the dataset that there is where these very rows are one already.
    """
    dataset, is_new = collected.make_dataset(request.actor, payload.set, payload.name, payload.eval_fraction)
    made = {"dataset_id": dataset.pk, "name": dataset.name, "version": dataset.version, "status": dataset.status}
    return Status(201 if is_new else 200, {**made, "new": is_new})
