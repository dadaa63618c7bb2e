"""The rule that turns samples into a candidate set; shared by all back ends, pure.

A prompt is sampled in rounds of K. Texts are cut at a forged turn and trimmed; empty ones and exact repetitions are
dropped, and so are those that never leave their thinking. A prompt with fewer than K distinct texts is sampled again,
``ROUNDS`` rounds in all; then the distinct ones are kept, however few.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from cyclealign.files.thinking import parted
from cyclealign.models.chat_template import tags_of
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
    from cyclealign.models.dtypes import compute_dtype
    from cyclealign.models.processes import default_device

    return CANARY_TOLERANCE[str(compute_dtype(policy, default_device())).removeprefix("torch.")]


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample as the model wrote it; ``length``: it was cut off by its limit of tokens. ``text``: its answer;
    ``thinking``: what stands before that, None of a policy that does not think; ``unfinished``: it never left it."""

    text: str
    finish: Literal["stop", "length"]
    thinking: str | None = None
    unfinished: bool = False


def trimmed(draw: Draw) -> Draw:
    """Cut at the first forged turn (a reply that ended there has stopped) and strip white space."""
    reply, forged, _ = draw.text.partition(FORGED_TURN)
    return replace(draw, text=reply.strip(), finish="stop" if forged else draw.finish)


def collect(prompt: Prompt, draws: Iterable[Draw], k: int) -> CandidateSet:
    """The first ``k`` distinct, non-empty texts in draw order, named "0", "1", …

    Where the same text was drawn twice, the first draw says whether it stopped.
    """
    distinct: dict[str, Draw] = {}
    drawn = unfinished = 0
    for draw in map(trimmed, draws):
        drawn += 1
        unfinished += draw.unfinished
        if draw.text:
            distinct.setdefault(draw.text, draw)
    kept = list(distinct.values())[:k]
    candidates = tuple(Candidate(str(i), draw.text, draw.finish, draw.thinking) for i, draw in enumerate(kept))
    return CandidateSet(prompt, candidates, drawn, unfinished=unfinished)


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


def to_draw(tokenizer: Any, token_ids: Sequence[int], stops: Collection[int], *, inside: bool = False) -> Draw:
    """Text of one sample up to its first stop token, special tokens left out. ``inside``: as in ``thinking.parted``."""
    ids = list(token_ids)
    end = next((i for i, token in enumerate(ids) if token in stops), None)
    thinks = tags_of(tokenizer) is not None  # its tags may be special tokens
    text = tokenizer.decode(ids[:end], skip_special_tokens=not thinks, clean_up_tokenization_spaces=False)
    return thought_through(tokenizer, Draw(text, "length" if end is None else "stop"), inside=inside)


def thought_through(tokenizer: Any, draw: Draw, *, inside: bool) -> Draw:
    """A sample whose text may hold thinking, in its two parts."""
    tags = tags_of(tokenizer)
    if tags is None:
        return draw
    reply = parted(draw.text, tags, inside=inside)
    answer = reply.answer
    for special in tokenizer.all_special_tokens:
        answer = answer.replace(special, "")
    return Draw(answer, draw.finish, reply.thinking, reply.unfinished)
