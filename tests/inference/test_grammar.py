"""Answers that are held to a form: they always fit, and their neighbours in the batch never notice."""

import json
import queue
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from inference.engine.base import GenerationRequest, InvalidRequestError, SamplingParameters
from inference.engine.constraints import CALL_CLOSING, CALL_OPENING, Constraint, JsonSchema, Tool, ToolCalls
from inference.engine.grammar import KEPT_GRAMMARS, Grammars, RowGrammar
from inference.engine.loading import LoadedModel
from inference.engine.transformers import TransformersEngine
from inference.processors import Progress, Vocabulary
from inference.tool_calls import ToolCallReader
from tests.inference.models import CHATS
from tests.inference.pending import GREEDY, Generate, Pending, chat

ROWS = 50
SAMPLES = 100
SHIP: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "kind": {"enum": ["brig", 'a "b"', None]},
        "masts": {"type": "integer", "minimum": 1, "maximum": 99},
        "sails": {"type": "array", "items": {"$ref": "#/$defs/sail"}, "minItems": 1, "maxItems": 2},
        "flag": {"type": "string", "pattern": "^[a-z]{2,4}$"},
    },
    "required": ["name", "kind", "masts", "sails"],
    "additionalProperties": False,
    "$defs": {"sail": {"type": "object", "properties": {"up": {"type": "boolean"}}, "additionalProperties": False}},
}
STEER = {"type": "object", "properties": {"degrees": {"type": "integer", "minimum": 0, "maximum": 359}},
         "required": ["degrees"], "additionalProperties": False}  # fmt: skip
HAIL = {"type": "object", "properties": {"ship": {"enum": ["Argo", "Beagle"]}}, "required": ["ship"],
        "additionalProperties": False}  # fmt: skip
TOOLS = (Tool("steer", JsonSchema(json.dumps(STEER))), Tool("steer_and-hail", JsonSchema(json.dumps(HAIL))))


@pytest.fixture(scope="module")
def wide_engine(loaded: LoadedModel) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(loaded, [], max_batch=ROWS, max_queue=8)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def grammars(loaded: LoadedModel) -> Grammars:
    return Grammars(loaded.encoder, loaded.vocabulary_size, loaded.end_token_ids)


def samples(engine: TransformersEngine, prompt: list[int], constraint: Constraint, count: int) -> list[str]:
    """Texts at temperature 1, each of which ended by itself."""
    requests = [
        GenerationRequest(prompt, 300, SamplingParameters(temperature=1.0, seed=seed), n=ROWS, constraint=constraint)
        for seed in range(count // ROWS)
    ]
    pending = [Pending(engine, request) for request in requests]
    texts: list[str] = []
    for one in pending:
        one.finish()
        assert one.error is None
        assert {one.reason(index) for index in range(ROWS)} == {"stop"}
        texts.extend(one.text(index) for index in range(ROWS))
    return texts


def test_a_hundred_samples_all_validate(wide_engine: TransformersEngine, loaded: LoadedModel) -> None:
    texts = samples(wide_engine, chat(loaded, "Count."), JsonSchema(json.dumps(SHIP)), SAMPLES)
    validator = jsonschema.Draft202012Validator(SHIP)
    for text in texts:
        validator.validate(json.loads(text))
        assert "\n" not in text
    assert len(set(texts)) > SAMPLES * 0.9


def test_samples_of_calls_all_validate(wide_engine: TransformersEngine, loaded: LoadedModel) -> None:
    schemas = {"steer": STEER, "steer_and-hail": HAIL}
    names = set()
    for text in samples(wide_engine, chat(loaded, "Count."), ToolCalls(TOOLS, must_call=True, may_repeat=False), ROWS):
        reader = ToolCallReader()
        assert reader.push(text)[0] + reader.finish()[0] == ""
        (call,) = reader.calls
        jsonschema.validate(json.loads(call.arguments), schemas[call.name])
        names.add(call.name)
    assert names == set(schemas)


def test_a_free_row_beside_it_generates_what_generate_does(
    wide_engine: TransformersEngine, loaded: LoadedModel, generate: Generate
) -> None:
    held = GenerationRequest(chat(loaded, "Count."), 200, GREEDY, n=2, constraint=JsonSchema(json.dumps(SHIP)))
    prompt = chat(loaded, "Say it in pictures.")
    neighbour, free = Pending(wide_engine, held), Pending(wide_engine, GenerationRequest(prompt, 100, GREEDY))
    auto = Pending(wide_engine, GenerationRequest(prompt, 100, GREEDY, constraint=ToolCalls(TOOLS)))
    assert free.finish().tokens() == generate(prompt, 100)
    assert auto.finish().text() == CHATS["Say it in pictures."]
    jsonschema.validate(json.loads(neighbour.finish().text()), SHIP)
    assert neighbour.text(0) == neighbour.text(1)


class Stubborn:
    """A profile that forces one token, and holds every answer for complete."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._forced = vocabulary.encode("!")[0]

    def process(self, logits: torch.Tensor, progress: Progress) -> torch.Tensor:
        return torch.full_like(logits, -torch.inf).index_fill_(0, torch.tensor([self._forced]), 0.0)

    def is_complete(self, progress: Progress) -> bool:
        return True


def test_a_grammar_decides_where_the_profile_wants_something_else(loaded: LoadedModel) -> None:
    engine = TransformersEngine(loaded, [Stubborn], max_batch=1, max_queue=2)
    try:
        schema = {"type": "string", "pattern": "^(!!|[a-c]{2})$"}
        request = GenerationRequest(chat(loaded, "Count."), 50, GREEDY, constraint=JsonSchema(json.dumps(schema)))
        assert Pending(engine, request).finish().text() == '"!!"'
        other = JsonSchema(json.dumps(SHIP))
        text = (
            Pending(engine, GenerationRequest(request.prompt_token_ids, 200, GREEDY, constraint=other)).finish().text()
        )
        jsonschema.validate(json.loads(text), SHIP)
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "ship"}, "Invalid type: ship"),
        ({"type": "object", "properties": 3}, "properties must be an object"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}, "'/$defs/none' does not exist"),
        ({"not": {"type": "string"}}, 'Unimplemented keys: ["not"]'),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum (5) is greater than maximum (3)"),
    ],
)
def test_a_schema_at_fault_is_refused_with_its_fault(grammars: Grammars, schema: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        grammars.prepare(JsonSchema(json.dumps(schema), "tools.1.function.parameters"))
    assert said in caught.value.message
    assert caught.value.parameter == "tools.1.function.parameters"


def test_a_tokenizer_that_can_not_be_read_is_named_each_time(loaded: LoadedModel) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
    own = Grammars(tokenizer, 1, ())
    for constraint, option in ((JsonSchema("{}"), "response_format"), (ToolCalls(TOOLS), "tools")):
        with pytest.raises(InvalidRequestError, match="can't be held to a form: its tokenizer is of a kind") as caught:
            own.prepare(constraint)
        assert caught.value.parameter == option


def test_a_grammar_that_others_have_displaced_is_still_that_of_its_request(
    wide_engine: TransformersEngine, loaded: LoadedModel
) -> None:
    request = GenerationRequest(chat(loaded, "Count."), 20, GREEDY, constraint=JsonSchema('{"const": "displaced"}'))
    before = Pending(wide_engine, GenerationRequest(request.prompt_token_ids, 40, GREEDY, n=ROWS))
    waiting = Pending(wide_engine, request)
    for number in range(KEPT_GRAMMARS):
        wide_engine.prepare(JsonSchema(json.dumps({"const": number})))
    assert waiting.finish().text() == '"displaced"'
    before.finish()


def test_a_refused_constraint_takes_no_place_in_the_engine(wide_engine: TransformersEngine) -> None:
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with pytest.raises(InvalidRequestError):
        wide_engine.submit(GenerationRequest([5], constraint=JsonSchema('{"type": "ship"}')), inbox.put)
    assert wide_engine.stats().running == wide_engine.stats().waiting == 0
    assert inbox.empty()


# --- Free text and calls, token by token ------------------------------------------------------------------------------


def taken(grammar: RowGrammar, encoder: Any, text: str) -> RowGrammar:
    """The grammar behind a text; a token that was not allowed raises."""
    for token in encoder.encode(text, add_special_tokens=False):
        logits = torch.zeros(len(encoder))
        assert grammar.allow(logits)[token] == 0, (text, encoder.decode([token]))
        grammar.take(token)
    return grammar


def allows(grammar: RowGrammar, encoder: Any, text: str) -> bool:
    token = encoder.encode(text, add_special_tokens=False)[0]
    return bool(grammar.allow(torch.zeros(len(encoder)))[token] == 0)


@pytest.fixture(scope="module", params=["spelled", "tokens"])
def encoder(request: pytest.FixtureRequest, loaded: LoadedModel) -> Any:
    """The tokenizer as it is, and one that has the tags, and those of thinking, as tokens of their own."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=loaded.encoder.backend_tokenizer, eos_token="<|im_end|>")
    if request.param == "tokens":
        tokenizer.add_tokens([AddedToken(tag, special=False) for tag in (CALL_OPENING, CALL_CLOSING, "<think>")])
    return tokenizer


def test_free_text_may_be_anything_until_a_call_begins(encoder: Any, loaded: LoadedModel) -> None:
    own = Grammars(encoder, len(encoder), loaded.end_token_ids)
    grammar = taken(own.prepare(ToolCalls(TOOLS)).start(), encoder, "<think>Well</think> ahoy 🧭 {\n")
    assert grammar.may_end
    assert allows(grammar, encoder, "<|im_end|>")
    taken(grammar, encoder, CALL_OPENING)
    assert not grammar.may_end
    assert not allows(grammar, encoder, "<|im_end|>")
    assert not allows(grammar, encoder, "x")
    taken(grammar, encoder, '\n{"name": "steer')
    assert not allows(grammar, encoder, "x")
    taken(grammar, encoder, '", "arguments": {"degrees": 35')
    assert allows(grammar, encoder, "9")
    assert not allows(grammar, encoder, "a")
    taken(grammar, encoder, f"}}}}\n{CALL_CLOSING}")
    assert grammar.may_end
    assert not grammar.is_complete  # a second call may follow, and nothing else
    assert not allows(grammar, encoder, "a")
    taken(grammar, encoder, f"\n{CALL_OPENING}\n")


def test_a_call_that_may_not_be_repeated_ends_the_answer(encoder: Any, loaded: LoadedModel) -> None:
    own = Grammars(encoder, len(encoder), loaded.end_token_ids)
    call = f'{CALL_OPENING}\n{{"name": "steer", "arguments": {{"degrees": 7}}}}\n{CALL_CLOSING}'
    assert taken(own.prepare(ToolCalls(TOOLS, may_repeat=False)).start(), encoder, call).is_complete
    must = own.prepare(ToolCalls(TOOLS, must_call=True, may_repeat=False)).start()
    assert not allows(must, encoder, "Ahoy")
    assert taken(must, encoder, call).is_complete


def test_an_answer_in_words_can_be_held_to_a_schema_beside_calls(encoder: Any, loaded: LoadedModel) -> None:
    own = Grammars(encoder, len(encoder), loaded.end_token_ids)
    constraint = ToolCalls(TOOLS, otherwise=JsonSchema('{"type": "integer"}'))
    assert not allows(own.prepare(constraint).start(), encoder, "Ahoy")
    assert taken(own.prepare(constraint).start(), encoder, "42").may_end
    taken(own.prepare(constraint).start(), encoder, f'{CALL_OPENING}\n{{"name": "steer"')
