"""The processor of `emoji_think` over real byte-level tokenizers: no think tag, and an end behind the stop run."""

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from inference.engine.base import GenerationRequest, SamplingParameters, stream
from inference.engine.loading import LoadedModel
from inference.engine.text import IncrementalText
from inference.engine.transformers import TransformersEngine
from inference.processors import Progress, RowProcessor, Vocabulary, load_processors
from inference.processors.generation import ProcessorsOfGenerate
from training.profiles.emoji import STOP_POOL, Contract, Run

END = 1


def byte_tokenizer(*texts: str, special: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A byte-level BPE that has merged what these texts repeat; without texts every byte is a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "<end>", *special], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """As the engine makes it."""
    return Vocabulary(
        encode=lambda text: list(tokenizer.encode(text, add_special_tokens=False)),
        decode=lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True)),
        end_token_ids=frozenset({END}), size=len(tokenizer),
    )  # fmt: skip


BYTES = vocabulary_of(byte_tokenizer())


def processor(vocabulary: Vocabulary = BYTES) -> RowProcessor:
    (make,) = load_processors("emoji_think")
    return make(vocabulary)


def progress(text: str, prompt: str = "", vocabulary: Vocabulary = BYTES) -> Progress:
    return Progress(vocabulary.encode(prompt), tuple(vocabulary.encode(text)), text)


def asking(stop: Run) -> str:
    """A rendered prompt whose user asks for this stop run."""
    return f"<|im_start|>user\nHi\n\n{Contract(Run('🤔', 2), stop).instructions}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("emoji", STOP_POOL)
@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_asked_run_ends_the_answer_and_nothing_shorter_does(emoji: str, count: int) -> None:
    one, prompt = processor(), asking(Run(emoji, count))
    text = f"🤔🤔\nHello.\n{emoji * count}"
    complete = [end for end in range(len(text) + 1) if one.is_complete(progress(text[:end], prompt))]
    assert complete == [len(text)]


def test_another_run_than_the_asked_one_ends_nothing() -> None:
    prompt = asking(Run("🛑", 3))
    for text in ("Hello.\n⛔⛔⛔", "Hello.\n🛑🛑", "Hello.\n🛑🛑🛑 and on", "🛑🛑⛔🛑"):
        assert not processor().is_complete(progress(text, prompt))


def test_the_last_contract_of_a_conversation_holds() -> None:
    prompt = asking(Run("🛑", 2)) + "🤔🤔\nHello.\n🛑🛑<|im_end|>\n" + asking(Run("🔚", 4))
    assert not processor().is_complete(progress("Bye.\n🔚🔚", prompt))
    assert processor().is_complete(progress("Bye.\n🔚🔚🔚🔚", prompt))


def test_without_a_contract_the_shortest_run_on_a_line_of_its_own_ends_it() -> None:
    for text, is_complete in [("Hi.\n🛡️🛡️", True), ("Hi.\n🛡️", False), ("Hi 🛡️🛡️", False), ("🛡️⛔\n⛔", False)]:
        assert processor().is_complete(progress(text, "Hi")) is is_complete


def test_behind_a_complete_run_the_end_of_text_is_forced() -> None:
    logits = torch.randn(BYTES.size)
    prompt = asking(Run("✋", 2))
    forced = processor().process(logits.clone(), progress("Hi.\n✋✋", prompt))
    assert forced.isfinite().nonzero().flatten().tolist() == [END]
    assert torch.equal(processor().process(logits.clone(), progress("Hi.\n✋", prompt)), logits)


def test_a_think_tag_that_is_one_token_is_penalised_by_80() -> None:
    vocabulary = vocabulary_of(byte_tokenizer(special=("<think>", "</think>")))
    (tag,) = vocabulary.encode("<think>")
    logits = torch.randn(vocabulary.size)
    changed = processor(vocabulary).process(logits.clone(), progress("Hi", "", vocabulary)) - logits
    assert changed.nonzero().flatten().tolist() == [tag]
    assert float(changed[tag]) == pytest.approx(-80)


def test_a_think_tag_of_several_tokens_is_not_closed() -> None:
    logits = torch.zeros(BYTES.size)
    (closing,) = BYTES.encode(">")
    changed = processor().process(logits.clone(), progress("Well, <think"))
    assert changed.nonzero().flatten().tolist() == [closing]
    assert float(changed[closing]) == -80
    assert not processor().process(logits.clone(), progress("Well, a > b")).any()


@pytest.mark.parametrize("emoji", ["🛑", "⏹️"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_emoji_that_the_encoding_has_merged_are_one_run(emoji: str, count: int) -> None:
    tokenizer = byte_tokenizer(emoji * 2 + "\n", emoji * 2 + " ", emoji * 2)
    vocabulary = vocabulary_of(tokenizer)
    assert len(vocabulary.encode(emoji * 2)) == 1, "the pair is one token here"
    one, prompt = processor(vocabulary), vocabulary.encode(asking(Run(emoji, count)))
    written = IncrementalText(tokenizer)
    text, ended = "", None
    for place, token in enumerate(ids := vocabulary.encode("Hi.\n" + emoji * 4)):
        text += written.push(token)
        if one.is_complete(Progress(prompt, tuple(ids[: place + 1]), text)):
            ended = text
            break
    # A pair can't be torn: a run of three is complete with the fourth.
    assert ended == "Hi.\n" + emoji * (count + count % 2)


class Pushed:
    """Has the model write a fixed text by the bytes of the tiny tokenizer, whatever it would say itself."""

    def __init__(self, vocabulary: Vocabulary, text: str) -> None:
        self._ids = vocabulary.encode(text)

    def process(self, logits: torch.Tensor, progress: Progress) -> torch.Tensor:
        logits.fill_(-50.0)
        logits[self._ids[len(progress.token_ids)]] = 50.0
        return logits

    def is_complete(self, progress: Progress) -> bool:
        return False


@pytest.mark.parametrize("with_profile", [True, False])
def test_the_engine_ends_an_answer_with_its_stop_run(loaded: LoadedModel, *, with_profile: bool) -> None:
    text = "🤔🤔\nAhoy!\n🛡️🛡️🛡️ and more that nobody has asked for, on and on"
    factories = [lambda vocabulary: Pushed(vocabulary, text)]
    factories += load_processors("emoji_think") if with_profile else []  # type: ignore[arg-type]
    engine = TransformersEngine(loaded, factories, max_batch=2, max_queue=2)
    try:
        prompt = loaded.encoder.encode(asking(Run("🛡️", 3)))
        request = GenerationRequest(
            list(prompt), max_tokens=len(loaded.encoder.encode(text)) - 5, sampling=SamplingParameters(temperature=0)
        )
        chunks = list(stream(engine, request))
    finally:
        engine.close()
    answer = "".join(chunk.text for chunk in chunks)
    if with_profile:
        assert (answer, chunks[-1].finish_reason) == ("🤔🤔\nAhoy!\n🛡️🛡️🛡️", "stop")
    else:
        assert answer.startswith("🤔🤔\nAhoy!\n🛡️🛡️🛡️ and more")


def test_generate_of_the_library_ends_there_too(loaded: LoadedModel) -> None:
    tokenizer: Any = loaded.tokenizer
    end = min(loaded.end_token_ids)
    vocabulary = Vocabulary(
        encode=lambda text: list(tokenizer.encode(text, add_special_tokens=False)),
        decode=lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True)),
        end_token_ids=frozenset({end}), size=loaded.vocabulary_size,
    )  # fmt: skip
    factories = [lambda vocabulary: Pushed(vocabulary, "Ahoy!\n🔚🔚 and more of it"), *load_processors("emoji_think")]
    prompts = torch.tensor([vocabulary.encode(asking(Run("🔚", 2)))] * 2)
    with torch.inference_mode():
        rows = loaded.model.generate(
            prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=40, do_sample=False, eos_token_id=end,
            logits_processor=[ProcessorsOfGenerate(factories, vocabulary, prompts.shape[1])],
        )  # fmt: skip
    for row in rows[:, prompts.shape[1] :].tolist():
        assert tokenizer.decode(row, skip_special_tokens=True) == "Ahoy!\n🔚🔚"
        assert row[-1] == end
