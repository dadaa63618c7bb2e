"""The embedded response ranker: a free, local stand-in for the black box, small enough to ship.

Two bags of token embeddings, one for the chat and one for the reply, compared by cosine; a small network that knows
from the reply's bag alone how good it is; and one that sees how much of the reply is the chat's own words, as bags
cannot tell an echo from an answer. It says whether a reply answers the chat, not whether it is true.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import normalize

from cyclealign.files.jsonl import read_json
from cyclealign.files.packaged import resource
from cyclealign.rankers.scored import ranked_by
from cyclealign.types import CandidateSet, Message, RankContext, Ranking, Unranked, UserError

# The last turns say what a reply must answer; what lies further back would drown them in a bag.
CHAT_TURNS = 2


class ResponseScorer(nn.Module):
    """s(x, y) = a cos(u(x) + A u(x), v(y)) + q(v(y)) + e(o(x, y)).

    u and v are weighted means of token embeddings, o is the share of the reply's tokens that the chat has too.
    """

    def __init__(self, *, vocabulary: int, width: int) -> None:
        super().__init__()
        self.chat = nn.EmbeddingBag(vocabulary, width, mode="sum")
        self.reply = nn.EmbeddingBag(vocabulary, width, mode="sum")
        self.chat_weight = nn.Parameter(torch.zeros(vocabulary))
        self.reply_weight = nn.Parameter(torch.zeros(vocabulary))
        self.turn = nn.Linear(width, width, bias=False)
        self.quality = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, 1))
        self.echo = nn.Sequential(nn.Linear(1, 16), nn.GELU(), nn.Linear(16, 1))
        self.log_scale = nn.Parameter(torch.tensor(2.5))

    def towers(self, chats: Sequence[Tensor], replies: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors of the chats [B, D] and of the replies [R, D], and the replies' own quality [R]."""
        u = _bag(self.chat, self.chat_weight, chats)
        v = _bag(self.reply, self.reply_weight, replies)
        return normalize(u + self.turn(u), dim=1), v, self.quality(v)[:, 0]

    def forward(self, chats: Sequence[Tensor], replies: Sequence[Tensor]) -> Float[Tensor, " B"]:
        """Scores of aligned (chat, reply) pairs of token ids."""
        u, v, quality = self.towers(chats, replies)
        result: Tensor = self.log_scale.exp() * (u * v).sum(dim=1) + quality + self.echoed(chats, replies)
        return result

    def echoed(self, chats: Sequence[Tensor], replies: Sequence[Tensor]) -> Float[Tensor, " B"]:
        """What aligned pairs gain or lose for the words that the reply repeats."""
        shares = [
            torch.isin(r, c).float().mean() if len(r) else torch.zeros(()) for c, r in zip(chats, replies, strict=True)
        ]
        result: Tensor = self.echo(torch.stack(shares)[:, None])[:, 0]
        return result


def _bag(table: nn.EmbeddingBag, weight: Tensor, texts: Sequence[Tensor]) -> Tensor:
    """Weighted means of token embeddings as unit vectors; an empty text is the zero vector."""
    flat = torch.cat([*texts, torch.zeros(0, dtype=torch.long)])
    lengths = torch.tensor([0, *(len(t) for t in texts)])
    offsets = lengths.cumsum(0)[:-1]
    return normalize(table(flat, offsets, per_sample_weights=weight[flat].exp()), dim=1)


class LocalRanker:
    """Ranks by the embedded ``ResponseScorer``; its card says how well (``assets/local_ranker/README.md``)."""

    gives: Literal["order", "magnitude"] = "magnitude"

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or resource("assets", "local_ranker")
        if not (folder / "model.safetensors").is_file():
            raise UserError(f"black_box.backend: local needs the embedded ranker, which is not in {folder}")
        shape = read_json(folder / "config.json")
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(resource("assets", "tiny_chat") / "tokenizer.json"))
        self._model = ResponseScorer(vocabulary=shape["vocabulary"], width=shape["width"])
        self._model.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
        self._model.eval()

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        """Rankings in the order of the sets; each is scored as it comes, equal scores share a tier."""
        return ranked_by(self._scores, sets)

    def _scores(self, item: CandidateSet) -> dict[str, float]:
        scores = self.score([(item.prompt.messages, c.text) for c in item.candidates])
        return dict(zip(item.ids, scores, strict=True))

    @torch.no_grad()
    def score(self, pairs: Sequence[tuple[Sequence[Message], str]]) -> list[float]:
        """Scores of (chat, reply), higher is better; no unit, comparable within one chat."""
        if not pairs:
            return []
        chats = [self.ids(chat_text(messages)) for messages, _ in pairs]
        result: list[float] = self._model(chats, [self.ids(reply) for _, reply in pairs]).tolist()
        return result

    @torch.no_grad()
    def terms(self, chat: str, replies: Sequence[str]) -> tuple[Tensor, Tensor]:
        """What the replies' scores are made of [R, 3]: cosine with the chat, own quality, what the echo adds; and the
        replies' unit vectors [R, D]."""
        chats, ids = [self.ids(chat)], [self.ids(reply) for reply in replies]
        u, v, quality = self._model.towers(chats, ids)
        return torch.stack([v @ u[0], quality, self._model.echoed(chats * len(ids), ids)], dim=1), v

    def ids(self, text: str) -> Tensor:
        return torch.tensor(self._tokenizer.encode(text, add_special_tokens=False).ids, dtype=torch.long)


def chat_text(messages: Sequence[Message]) -> str:
    """What of a chat the ranker reads: its last turns, as one text."""
    return "\n".join(m["content"] for m in messages[-CHAT_TURNS:] if m["role"] != "system")
