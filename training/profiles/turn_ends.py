"""The tokens that end a turn in the chat templates of the families that are known. Runs in every process."""

TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|eot|>", "<|return|>")
