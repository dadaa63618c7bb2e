"""The embedded chat model: tokenizer, chat template, encoder, a Llama of a few million parameters, loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from dialogues import SOURCES, Dialogue, as_messages
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
# Every message opens with its role's token; <|end|> closes an assistant's turn and nothing else, so that it
# means "my turn is over".
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role: ' + message['role']) }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Shape and optimisation; the defaults are those of the shipped model."""

    minutes: float = 75.0
    rows: int = 16
    micro_rows: int = 4
    length: int = 256
    width: int = 256
    layers: int = 7
    first_layers: int = 5
    grow_at: float = 0.25
    inner: int = 704
    vocabulary: int = 4096
    muon_lr: float = 0.02
    adam_lr: float = 0.003
    weight_decay: float = 0.15
    dropout: float = 0.1
    warmup: float = 0.02
    decay_from: float = 0.6
    short_share: float = 0.4
    user_weight: float = 0.5
    average: float = 0.98
    seed: int = 17


def train_tokenizer(dialogues: list[Dialogue], size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE over the training text, with the chat template and its special tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet)
    # SGD would otherwise fill the vocabulary with the words of its templates.
    texts = (text for i, d in enumerate(dialogues) if d.source != "sgd" or i % 3 == 0 for text in d.turns)
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|system|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )


class Encoder:
    """Messages to token ids and per-token loss weights, with each text tokenised once."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, user_weight: float) -> None:
        self.tokenizer, self.user_weight = tokenizer, user_weight
        self.cache: dict[str, list[int]] = {}
        self.role = {r: tokenizer.convert_tokens_to_ids(f"<|{r}|>") for r in ("user", "assistant", "system")}

    def __call__(self, messages: list[dict[str, str]], *, chat: bool) -> tuple[list[int], list[float]]:
        ids: list[int] = []
        weights: list[float] = []
        for message in messages:
            text = message["content"].strip()
            if text not in self.cache:
                self.cache[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            own = message["role"] == "assistant"
            piece = [self.role[message["role"]], *self.cache[text]] + [self.tokenizer.eos_token_id] * own
            # The role token that opens a turn is given, never sampled; its weight does not matter.
            ids += piece
            weights += [1.0 if own or not chat else self.user_weight] * len(piece)
        return ids, weights


def token_losses(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    """Negative log-likelihood in nats of every next token, [rows, length]."""
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(ids), -1)


def new_model(tokenizer: PreTrainedTokenizerFast, settings: Settings, layers: int) -> LlamaForCausalLM:
    """A Llama with tied embeddings and heads of 64, which transformers and vLLM load without custom code."""
    torch.manual_seed(settings.seed)
    config = LlamaConfig(
        vocab_size=settings.vocabulary,
        hidden_size=settings.width,
        intermediate_size=settings.inner,
        num_hidden_layers=layers,
        num_attention_heads=settings.width // 64,
        num_key_value_heads=settings.width // 128,
        head_dim=64,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    _drop_residuals(model, settings.dropout)
    return model


def _drop_residuals(model: LlamaForCausalLM, share: float) -> None:
    """Dropout, in training only, on the embeddings and on all that a layer adds to the residual stream.

    `LlamaConfig` knows it for attention weights alone, and the text is read many times. A channel is dropped for
    a whole row (Gal and Ghahramani 2016): a mask a token costs a CPU more random numbers than the layer is worth.
    """

    def drop(module: nn.Module, _: object, output: Tensor) -> Tensor:
        mask = output.new_ones(len(output), 1, output.shape[-1])
        return output * dropout(mask, share, training=module.training)

    model.model.embed_tokens.register_forward_hook(drop)
    for layer in model.model.layers:
        layer.self_attn.o_proj.register_forward_hook(drop)
        layer.mlp.down_proj.register_forward_hook(drop)


def grown(weights: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The weights of a deeper model that computes the same function.

    Copies of the last layer go on top, and what they write into the residual stream starts at zero.
    """
    last = max(int(name.split(".")[2]) for name in weights if name.startswith("model.layers."))
    more = dict(weights)
    for name, value in weights.items():
        if name.startswith(f"model.layers.{last}."):
            silent = name.endswith(("o_proj.weight", "down_proj.weight"))
            for new in range(last + 1, layers):
                copy = torch.zeros_like(value) if silent else value.clone()
                more[name.replace(f"layers.{last}.", f"layers.{new}.")] = copy
    return more


@torch.no_grad()
def held_out(
    model: LlamaForCausalLM, dialogues: list[Dialogue], encode: Encoder, settings: Settings
) -> dict[str, dict[str, float]]:
    """Per source and over all: nats per token, bits per byte of text, tokens.

    Whole dialogues, packed; every token counts, those of the roles too.
    """
    totals: dict[str, tuple[float, ...]] = {}
    device = next(model.parameters()).device
    for source in SOURCES:
        chosen = [d for d in dialogues if d.source == source and d.split == "policy_eval"]
        stream = [t for d in chosen for t in encode(as_messages(d.turns), chat=False)[0]]
        size = sum(len(text.encode()) for d in chosen for text in d.turns)
        count = (len(stream) - 1) // settings.length
        index = torch.arange(count)[:, None] * settings.length + torch.arange(settings.length + 1)
        rows = torch.tensor(stream)[index]
        parts = torch.split(rows, settings.micro_rows)
        nats = sum(token_losses(model, part.to(device)).sum().item() for part in parts)
        tokens = count * settings.length
        share = tokens / max(1, len(stream) - 1)
        totals[source] = (nats, tokens, size * share)
    totals["all"] = tuple(sum(column) for column in zip(*totals.values(), strict=True))
    return {
        name: {"nats": nats / tokens, "bits_per_byte": nats / size / math.log(2), "tokens": tokens}
        for name, (nats, tokens, size) in totals.items()
    }
