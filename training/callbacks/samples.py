"""Lets the model answer the sample prompts while it is trained. Runs in the training process."""

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from inference.processors import ProcessorFactory, UnknownProcessorsError, Vocabulary, load_processors
from inference.processors.generation import ProcessorsOfGenerate
from monitoring.attempt import JobFaultError
from monitoring.events import EventWriter, Sample
from training.config.schema import TrainerConfig
from training.data.specs import ChatExample, Message
from training.profiles.base import Profile

SAMPLE_TOKENS = 64


class Samples(TrainerCallback):  # type: ignore[misc]
    """Emits `sample` events every so many steps and at the last. Greedy, so no random number is used up."""

    def __init__(self, config: TrainerConfig, profile: Profile, tokenizer: Any, events: EventWriter) -> None:
        self._every = config.monitoring.sample_steps
        self._prompts = config.monitoring.sample_prompts
        self._profile = profile
        self._tokenizer = tokenizer
        self._events = events
        self._factories = _factories(profile) if self._every and self._prompts else []

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """Generates when it is time."""
        due = self._every and (state.global_step % self._every == 0 or state.global_step >= state.max_steps)
        if not due:
            return
        model = parts["model"]
        was_training = model.training
        model.eval()
        try:
            for prompt in self._prompts:
                self._events.emit(Sample(step=state.global_step, prompt=prompt, text=self._answer(model, prompt)))
        finally:
            model.train(was_training)

    @torch.no_grad()
    def _answer(self, model: Any, prompt: str) -> str:
        question = ChatExample(messages=[Message(role="user", content=prompt)])
        messages = self._profile.transform(question, 0)["messages"]
        inputs = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(model.device)
        prompt_length = inputs["input_ids"].shape[1]
        processors = [ProcessorsOfGenerate(self._factories, self._vocabulary(model), prompt_length)]
        output = model.generate(
            **inputs,
            logits_processor=processors if self._factories else None,
            max_new_tokens=SAMPLE_TOKENS,
            do_sample=False,
            use_cache=True,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        text: str = self._tokenizer.decode(output[0, prompt_length:], skip_special_tokens=True)
        return text

    def _vocabulary(self, model: Any) -> Vocabulary:
        known = model.generation_config.eos_token_id
        ends = known if isinstance(known, list) else [self._tokenizer.eos_token_id if known is None else known]
        return Vocabulary(
            encode=lambda text: list(self._tokenizer.encode(text, add_special_tokens=False)),
            decode=lambda ids: str(
                self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
            ),
            end_token_ids=frozenset(ends),
            size=model.config.get_text_config().vocab_size,
        )


def _factories(profile: Profile) -> list[ProcessorFactory]:
    try:
        return load_processors(profile.processors)
    except UnknownProcessorsError as error:
        raise JobFaultError(
            "config_invalid", f"The profile {profile.name} can't answer sample prompts: {error}", "Leave them out."
        ) from error
