"""Chat templates of five families, in our own words: how each opens, closes and joins turns, and nothing else."""

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# a bracketed instruction, the answer between spaces, the end of sequence as the end of a turn
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content | trim }} {{ eos_token }}"
    "{% else %}{{ bos_token }}[INST] {{ m.content | trim }} [/INST]{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# one opening for the whole conversation, brackets that are tokens of their own
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}{{ eos_token }}"
    "{% else %}[INST]{{ m.content }}[/INST]{% endif %}{% endfor %}"
)
# ChatML with a system prompt of its own, and an empty thought before the last answer only
QWEN = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

#: name: (template, special tokens, beginning of sequence, end of turn, what stands between header and answer, what ends an answer)
FAMILIES = {
    "chatml": (CHATML, ["<|im_start|>"], None, "<|im_end|>", "", "<|im_end|>"),
    "llama-2": (LLAMA2, [], "<s>", "</s>", " ", " </s>"),
    "llama-3": (LLAMA3, ["<|start_header_id|>", "<|end_header_id|>"], "<|begin_of_text|>", "<|eot_id|>", "", "<|eot_id|>"),
    "mistral": (MISTRAL, ["[INST]", "[/INST]"], "<s>", "</s>", "", "</s>"),
    "qwen": (QWEN, ["<|im_start|>"], None, "<|im_end|>", "", "<|im_end|>"),
}
#: ChatML with markers around what the assistant says
MARKED = (
    "{{ messages | length }} messages\n{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n"
    "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
