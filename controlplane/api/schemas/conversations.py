"""What the calls about conversations, votes and collected rows take and answer."""

from typing import Annotated, Any

from ninja import Field, Schema
from pydantic import ConfigDict

from controlplane.api.schemas.tables import Listed

TurnId = Annotated[int, Field(ge=1, lt=1 << 63)]


class BeginConversation(Schema):
    """`settings` are kept for the page; no answer is asked with them. Without `title` the first question is it."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"title": "Keels"}})

    title: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)


class ChangeConversation(Schema):
    """What is to be changed; `settings` as a whole."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"title": "Keels and rudders"}})

    title: str | None = None
    settings: dict[str, Any] | None = None


class Conversation(Schema):
    """One of your conversations; `questions`: how many there are in all of its branches."""

    id: int
    title: str
    questions: int
    settings: dict[str, Any]
    created_at: str
    updated_at: str


class ConversationList(Listed):
    """Your conversations, the last used first."""

    conversations: list[Conversation]


class ConversationTurn(Schema):
    """A question or an answer. `parent`: what it stands on, null at the beginning; `beside`: the other answer of two.

    `side`: `left` or `right` of two answers to one question, else empty. `model` is null of a question, and of a
    `blind` answer until there is a vote. `finish`: `stop`, `length`, `stopped`, `failed`, or `writing`. `asked`: the
    system prompt and the parameters that it was asked with; `figures`: `tokens`, `first_token_seconds`, `seconds`.
    """

    id: int
    parent: int | None
    beside: int | None
    role: str
    content: str
    side: str
    model: str | None
    blind: bool
    finish: str
    asked: dict[str, Any]
    figures: dict[str, Any]
    created_at: str


class TurnVote(Schema):
    """The vote on two answers, by their turns."""

    left: int | None
    right: int | None
    choice: str


class WholeConversation(Conversation):
    """With all turns, of all branches, the oldest first."""

    turns: list[ConversationTurn]
    votes: list[TurnVote]


class Ask(Schema):
    """A question behind the answer `parent`, or at the beginning; `beside`: the other one where it follows two."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"content": "What is a keel?"}})

    content: str
    parent: TurnId | None = None
    beside: TurnId | None = None


class WantAnswer(Schema):
    """An answer to the turn `question`, on `side` (`left`, `right` or empty).

    Without `model` the one answers that did so before on that side.
    The other options are those of a chat call; the engine judges them.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"question": 1, "model": "my-model", "temperature": 0.7, "max_tokens": 200}},
    )

    question: TurnId
    side: str = ""
    model: str = ""
    blind: bool = False
    system: str = Field("", max_length=100_000)
    apply_profile: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: list[str] | None = None


class GiveVote(Schema):
    """Which of two answers to one question is better: `left`, `right`, `tie` or `both_bad`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"left": 2, "right": 3, "choice": "left"}})

    left: TurnId
    right: TurnId
    choice: str


class Vote(Schema):
    """A vote. `blind`: the models' names were hidden until then."""

    id: int
    left_model: str
    right_model: str
    choice: str
    blind: bool
    created_at: str


class VoteShare(Schema):
    """The first model's share of all wins, and its interval (95 %)."""

    value: float
    low: float
    high: float


class VotePair(Schema):
    """Two models by their names, whichever side each stood on. `share` null: nobody has won yet."""

    first: str
    second: str
    first_wins: int
    second_wins: int
    ties: int
    both_bad: int
    votes: int
    blind: int
    share: VoteShare | None


class VoteList(Schema):
    """The newest votes, and the sums of all of them by pair of models."""

    votes: list[Vote]
    pairs: list[VotePair]


class Collect(Schema):
    """An answer of one of your conversations, with what was said before it, as a row of the set `set`."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"conversation": 1, "answer": 2, "set": "good answers"}}
    )

    conversation: TurnId
    answer: TurnId
    set: str
    with_system: bool = True


class CollectedRow(Schema):
    """A row of one of your sets. `dataset_id`: the newest dataset that was made of it.

    `model` is null of a blind answer until there is a vote, or a dataset, which names it.
    """

    id: int
    set: str
    messages: list[dict[str, str]]
    model: str | None
    turn: int | None
    dataset_id: int | None
    created_at: str


class CollectedSet(Schema):
    """One of your sets."""

    name: str
    rows: int
    last_at: str


class CollectedSetList(Schema):
    """Your sets, the last used first."""

    sets: list[CollectedSet]


class CollectedRowList(Schema):
    """Rows of a set, the first one first."""

    rows: list[CollectedRow]


class MakeCollectedDataset(Schema):
    """The set `set` as a dataset; without `name` it is called as the set."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"set": "good answers"}})

    set: str
    name: str = ""
    eval_fraction: float = Field(0.05, ge=0, le=0.5)


class CollectedDataset(Schema):
    """The dataset; `new` false: the same rows were one already."""

    dataset_id: int
    name: str
    version: int
    status: str
    new: bool
