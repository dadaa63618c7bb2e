"""The rule that turns samples into a candidate set; shared by all back ends, pure.

A prompt is sampled in rounds of K. Texts are cut at a forged turn and trimmed; empty ones and exact repetitions are
dropped. A prompt with fewer than K distinct texts is sampled again, ``ROUNDS`` rounds in all; then the distinct ones
are kept, however few.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cyclealign.types import Candidate, CandidateSet, Prompt

if TYPE_CHECKING:
    from cyclealign.config.schema import PolicyConfig

ROUNDS = 3
# Models tuned on HH-RLHF's text go on as the user, to praise themselves (RRHF, section 4.1, cuts there too).
FORGED_TURN = "\n\nHuman:"
CANARY_TOKENS = 16
CANARY_TOLERANCE = {"float32": 0.02, "bfloat16": 0.25, "float16": 0.1}


def canary_tolerance(policy: PolicyConfig) -> float:
    """Mean |generator - trainer| log-probability gap of the canary, in nats per token, above which the generator is
    taken to serve other weights than the trainer holds. Half-precision kernels differ by a few hundredths."""
    from cyclealign.models.policy import compute_dtype
    from cyclealign.models.processes import default_device

    return CANARY_TOLERANCE[str(compute_dtype(policy, default_device())).removeprefix("torch.")]


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample as the model wrote it; ``length``: it was cut off by its limit of tokens."""

    text: str
    finish: Literal["stop", "length"]


def trimmed(draw: Draw) -> Draw:
    """Cut at the first forged turn (a reply that ended there has stopped) and strip white space."""
    reply, forged, _ = draw.text.partition(FORGED_TURN)
    return Draw(reply.strip(), "stop" if forged else draw.finish)


def collect(prompt: Prompt, draws: Iterable[Draw], k: int) -> CandidateSet:
    """The first ``k`` distinct, non-empty texts in draw order, named "0", "1", …

    Where the same text was drawn twice, the first draw says whether it stopped.
    """
    distinct: dict[str, Draw] = {}
    drawn = 0
    for draw in map(trimmed, draws):
        drawn += 1
        if draw.text:
            distinct.setdefault(draw.text, draw)
    kept = list(distinct.values())[:k]
    return CandidateSet(prompt, tuple(Candidate(str(i), draw.text, draw.finish) for i, draw in enumerate(kept)), drawn)


def is_final(item: CandidateSet, k: int) -> bool:
    """Whether the set is full, or its rounds are used up."""
    return len(item.candidates) >= k or item.drawn >= ROUNDS * k


def stop_token_ids(tokenizer: Any, model: str) -> tuple[int, ...]:
    """Tokens that end a reply: the chat template's, the tokenizer's, and those of the model's generation config."""
    from transformers import GenerationConfig

    from cyclealign.models.chat_template import stop_token_id

    found = {stop_token_id(tokenizer), tokenizer.eos_token_id}
    try:
        named = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:  # a model without a generation config: the tokenizer's word is all there is
        named = None
    found |= set(named) if isinstance(named, list) else {named}
    return tuple(sorted(i for i in found if i is not None))


def to_draw(tokenizer: Any, token_ids: Sequence[int], stops: Collection[int]) -> Draw:
    """Text of one sample up to its first stop token, special tokens left out."""
    ids = list(token_ids)
    end = next((i for i, token in enumerate(ids) if token in stops), None)
    text = tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Draw(text, "length" if end is None else "stop")
