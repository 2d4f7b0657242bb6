"""ChatML, the plain chat template: one turn a block, nothing added, nothing left out. Runs in every process."""

CHATML_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""Taken for a model that has no chat template, and by profiles that replace a model's own."""
