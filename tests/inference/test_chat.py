"""From a conversation to a prompt."""

from typing import Any

import pytest

from inference.engine.base import InvalidRequestError
from inference.engine.chat import ChatPrompts
from inference.engine.constraints import written_call
from inference.engine.loading import LoadedModel

HELLO = [{"role": "user", "content": "Hello"}]
SWITCH = "{% if enable_thinking %}think {% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"


def text(prompts: ChatPrompts, loaded: LoadedModel, messages: Any = HELLO, **arguments: Any) -> str:
    return str(loaded.encoder.decode(prompts.token_ids(messages, arguments)))


def test_the_models_own_template_is_used(loaded: LoadedModel) -> None:
    expected = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert text(ChatPrompts(loaded.encoder), loaded) == expected


def test_a_system_prompt_opens_a_conversation_that_has_none(loaded: LoadedModel) -> None:
    prompts = ChatPrompts(loaded.encoder, lambda: "Be brief.")
    opened = text(prompts, loaded)
    assert opened.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user")
    own = [{"role": "system", "content": "Be long."}, *HELLO]
    assert "Be brief." not in text(prompts, loaded, own)
    plain = prompts.token_ids(HELLO, {}, apply_profile=False)
    assert "Be brief." not in loaded.encoder.decode(plain)


def test_a_profiles_template_replaces_the_models(loaded: LoadedModel) -> None:
    prompts = ChatPrompts(loaded.encoder, chat_template="{% for m in messages %}[{{ m.content }}]{% endfor %}")
    assert text(prompts, loaded) == "[Hello]"


def test_switches_of_the_template_can_be_set_and_others_are_refused(loaded: LoadedModel) -> None:
    prompts = ChatPrompts(loaded.encoder, chat_template=SWITCH)
    assert text(prompts, loaded, enable_thinking=True) == "think Hello"
    assert text(prompts, loaded, enable_thinking=False) == "Hello"
    for name in ("enable_flying", "messages", "tokenize"):
        with pytest.raises(InvalidRequestError) as caught:
            prompts.token_ids(HELLO, {name: True})
        assert caught.value.parameter == f"chat_template_kwargs.{name}"


def test_a_template_that_refuses_says_why(loaded: LoadedModel) -> None:
    prompts = ChatPrompts(loaded.encoder, chat_template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InvalidRequestError, match="roles must alternate") as caught:
        text(prompts, loaded)
    assert caught.value.parameter == "messages"


def test_a_template_runs_in_a_sandbox(loaded: LoadedModel) -> None:
    prompts = ChatPrompts(loaded.encoder, chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(InvalidRequestError, match="unsafe"):
        text(prompts, loaded)


def test_without_a_template_it_is_chatml(loaded: LoadedModel) -> None:
    class NoTemplate:
        chat_template = None

        def __getattr__(self, name: str) -> Any:
            return getattr(loaded.encoder, name)

        def get_vocab(self) -> dict[str, int]:
            return {}

    prompts = ChatPrompts(NoTemplate())
    assert text(prompts, loaded) == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert prompts.stop_strings == ("<|im_end|>",)
    assert ChatPrompts(loaded.encoder).stop_strings == ()


TOOLS = [{"type": "function", "function": {"name": "steer", "description": "Turns {the} ship.", "parameters": {}}}]
CALL = {"id": "1", "type": "function", "function": {"name": "steer", "arguments": {"degrees": 7}}}
CALLED: list[dict[str, Any]] = [
    {"role": "user", "content": "West!"},
    {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "done"},
    {"role": "tool", "tool_call_id": "2", "content": "again"},
]


def rendered(prompts: ChatPrompts, loaded: LoadedModel, messages: Any, tools: Any = TOOLS) -> str:
    return str(loaded.encoder.decode(prompts.token_ids(messages, {}, tools=tools)))


def test_a_template_without_tools_gets_them_in_words(loaded: LoadedModel) -> None:
    told = rendered(ChatPrompts(loaded.encoder, lambda: "Be brief."), loaded, HELLO)
    assert told.startswith("<|im_start|>system\nBe brief.\n\nYou may call")
    assert '{"name": "steer", "description": "Turns {the} ship.", "parameters": {}}\n' in told
    assert '<tool_call>\n{"name": "the function\'s name", "arguments": {its arguments}}\n</tool_call><|im_end|>' in told
    assert rendered(ChatPrompts(loaded.encoder), loaded, HELLO, []) == text(ChatPrompts(loaded.encoder), loaded)
    call = written_call("steer", {"degrees": 7})
    assert rendered(ChatPrompts(loaded.encoder), loaded, CALLED, []) == (
        f"<|im_start|>user\nWest!<|im_end|>\n<|im_start|>assistant\n{call}\n{call}<|im_end|>\n<|im_start|>user\n"
        "<tool_response>\ndone\n</tool_response>\n<tool_response>\nagain\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_template_that_knows_tools_renders_them(loaded: LoadedModel) -> None:
    template = (
        "{% for t in tools or [] %}tool {{ t.function.name }};{% endfor %}{% for m in messages %}{{ m.role }}:"
        "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.arguments.degrees }}{% endfor %};{% endfor %}"
    )
    prompts = ChatPrompts(loaded.encoder, chat_template=template)
    assert rendered(prompts, loaded, CALLED) == "tool steer;user:;assistant:<tool_call>7<tool_call>7;tool:;tool:;"
    assert rendered(prompts, loaded, HELLO, []) == "user:;"
