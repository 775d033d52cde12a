"""A fresh small model: Llama-shaped, with a byte-level BPE tokenizer trained on the data's own words.

For demonstrations and tests without a model hub. Words keep their leading space and numbers stay apart, so a turn of an
agent takes about one token a word and object names are copied token by token. Any text survives encoding and decoding.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trainer.checkpoint import empty_directory, library_versions, publish, write_manifest
from trainer.data import Conversation, Message
from trainer.examples import sft_examples
from trainer.job import InitOptions, Job
from trainer.progress import Progress

MAX_POSITIONS = 4096
PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
WORDS = r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def fresh_tokenizer(conversations: Iterable[list[Message]], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer on the text of conversations."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # the template's own words (role and newline) come with every message
    texts = (f"{message['role']}\n{message['content']}" for messages in conversations for message in messages)
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
        chat_template=CHATML,
    )


def fresh_model(options: InitOptions, tokenizer: Any, seed: int) -> LlamaForCausalLM:
    """Make a model with random weights for a tokenizer."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.hidden_size,
        intermediate_size=-(-options.hidden_size * 8 // 3 // 64) * 64,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.heads,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def make_fresh(job: Job, conversations: list[Conversation], data_sha256: str, progress: Progress) -> dict[str, Any]:
    """Run an init job; return the manifest."""
    tokenizer = fresh_tokenizer([conversation.messages for conversation in conversations], job.init.vocab_size)
    model = fresh_model(job.init, tokenizer, job.seed)
    examples = sft_examples(tokenizer, conversations, job.max_length)
    progress.emit(
        "start",
        method="init",
        examples=len(conversations),
        dropped=dict(examples.dropped),
        truncated=examples.truncated,
        tokens=examples.tokens,
        loss_tokens=examples.loss_tokens,
        steps=0,
        versions=library_versions(),
    )
    partial = empty_directory(Path(job.output.rstrip("/") + ".partial"))
    final = empty_directory(partial / "final")
    model.bfloat16().save_pretrained(final)
    tokenizer.save_pretrained(final)
    metrics = {"parameters": model.num_parameters(), "vocab_size": len(tokenizer)}
    manifest = write_manifest(final, job, data_sha256, tokenizer, metrics)
    publish(final, Path(job.output))
    shutil.rmtree(partial, ignore_errors=True)
    return manifest
