"""What a model that is trained on must keep: the section `locked`. Runs in every process."""

from typing import Annotated

from pydantic.dataclasses import dataclass

from training.config.sections.about import SETTINGS, about


@dataclass(frozen=True, config=SETTINGS)
class Locked:
    """What a continued model must share with its parent. Filled in from the model; nothing here is chosen."""

    base_model: Annotated[str, about("The id of the model that the run starts from.", locked=True, advanced=True)] = ""
    model_architecture: Annotated[
        str, about("The class of the model, such as Qwen3ForCausalLM.", locked=True, advanced=True)
    ] = ""
    tokenizer_sha256: Annotated[
        str, about("The hash of the tokenizer's file.", title="Tokenizer SHA-256", locked=True, advanced=True)
    ] = ""
    chat_template_sha256: Annotated[
        str, about("The hash of the chat template.", title="Chat template SHA-256", locked=True, advanced=True)
    ] = ""
