"""From a conversation to the token ids of a prompt, by the model's own chat template.

Runs in the inference process. transformers renders templates in a sandbox. A model without a template gets ChatML.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import meta

from inference.engine.base import InvalidRequestError
from inference.engine.tool_prompts import in_words, knows_tools
from training.profiles.chatml import CHATML_TEMPLATE

CHATML_TURN_END = "<|im_end|>"
Message = Mapping[str, Any]
"""`role` and `content`; of an assistant's turn also `tool_calls` ({"function": {"name", "arguments" as an object}})."""


class ChatPrompts:
    """Renders conversations for one model. What `system_prompt` answers opens those that bring none of their own."""

    def __init__(
        self, tokenizer: Any, system_prompt: Callable[[], str] = str, chat_template: str | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._system_prompt = system_prompt
        self._template: str = chat_template or tokenizer.chat_template or CHATML_TEMPLATE

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Text that ends a turn where the tokenizer has no token for it."""
        lacks_token = CHATML_TURN_END not in self._tokenizer.get_vocab()
        return (CHATML_TURN_END,) if CHATML_TURN_END in self._template and lacks_token else ()

    def token_ids(
        self,
        messages: Sequence[Message],
        template_arguments: Mapping[str, Any],
        *,
        apply_profile: bool = True,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> list[int]:
        """The prompt for the next answer, in which the model may call `tools` (OpenAI's objects).

        Raises InvalidRequestError where the template refuses the conversation.
        """
        turns = [dict(message) for message in messages]
        if apply_profile and all(turn["role"] != "system" for turn in turns) and (opening := self._system_prompt()):
            turns.insert(0, {"role": "system", "content": opening})
        self._check_arguments(template_arguments)
        if knows_tools(self._template):
            template_arguments = {**template_arguments, "tools": list(tools) or None}
        else:
            turns = in_words(turns, tools)
        try:
            text = self._tokenizer.apply_chat_template(
                turns,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=True,
                **template_arguments,
            )
        except jinja2.TemplateError as error:
            raise InvalidRequestError(
                f"The model's chat template refuses the conversation: {error}", parameter="messages"
            ) from error
        ids: list[int] = list(self._tokenizer.encode(text, add_special_tokens=False))
        return ids

    def _check_arguments(self, arguments: Mapping[str, Any]) -> None:
        if not arguments:
            return
        known = meta.find_undeclared_variables(jinja2.Environment(autoescape=False).parse(self._template))  # noqa: S701
        reserved = {"messages", "tools", "documents", "add_generation_prompt"}
        for name in arguments:
            if name in reserved or name not in known:
                raise InvalidRequestError(
                    f"The model's chat template takes no {name!r}.", parameter=f"chat_template_kwargs.{name}"
                )
