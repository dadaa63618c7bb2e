"""The one factory: from a name (``KIND:PLACE``) or a ``black_box`` section to the ranker or scorer that it stands for.

The kinds are in ``config.ranker_kinds``; here is how each is opened. Whatever scores single replies can rank.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.endpoints import OPENAI_URL
from cyclealign.config.extras import require_extra
from cyclealign.config.loading import RESUMABLE, parsed_section
from cyclealign.config.ranker_kinds import KINDS, NEEDED, Kind, Need, forms, named_kind
from cyclealign.files.records import read_record
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import CascadeFit
from cyclealign.judge.costs import asked_options
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.template import RankTemplate, load_template
from cyclealign.rankers.scored import SETS_ON_GPU, PairScorer, ScoreRanker
from cyclealign.types import Gives, Ranker, UserError, sha256_hex

if TYPE_CHECKING:
    from cyclealign.rankers.own_function import OwnFunction

JURY = "openai"  # the kind whose models may stand in the option judges=[…] instead of its name
NO_CASCADE = (
    "it learns from a run's own rankings; outside of a run, --ranker cascade:RUN is what that run has distilled"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankerSpec:
    """Who is asked for, checked but not loaded. ``box``: the black_box section that says the same. ``key``: what an
    error about its model begins with."""

    kind: Kind
    place: str
    box: BlackBoxConfig
    key: str

    @property
    def name(self) -> str:
        return f"{self.kind.name}:{self.place}" if self.place else self.kind.name

    @property
    def gives(self) -> Gives:
        """What its rankings carry; a recording is read for it, a file of Python run."""
        return self.box.gives or (_python(self) if self.kind.name == "python" else _replay(self)).gives


def ranker_spec(
    spec: str, options: Sequence[str] = (), *, flag: str = "--ranker", need: Need = "order", besides: str = ""
) -> RankerSpec:
    """What a name on the command line (or in a config) asks for.

    Args:
        options: ``key=value`` of the black_box section.
        flag: what it was named by, for messages.
        need: what it must give.
        besides: further forms that the caller takes, for messages.

    Raises:
        UserError: no such kind, one that does not give what is needed, options that do not fit, or a package that is
            not installed.
    """
    jury = spec == JURY and any(option.partition("=")[0].strip() == "judges" for option in options)
    kind, place = (KINDS[JURY], "") if jury else named_kind(spec, flag=flag, need=need, besides=besides)
    where = {} if not place else {"model": place} if kind.place == "MODEL" else {"path": place}
    box = parsed_section(BlackBoxConfig, "black_box", {"backend": kind.name, **where}, options)
    if box.cascade is not None:
        raise UserError(f"black_box.cascade: {NO_CASCADE}")
    if box.answers:
        raise UserError("black_box.answers: its own replies join the candidates of a run; remove the key here")
    if box.backend != kind.name:
        raise UserError(f"{flag} {spec}: backend={box.backend} contradicts it; name the other kind instead")
    return _installed(RankerSpec(kind=kind, place=place, box=box, key=f"{flag} {kind.name}"))


def spec_of(box: BlackBoxConfig) -> RankerSpec:
    """Whom the section of a run asks; of a cascade that learns, its judge. UserError where a package is missing."""
    kind = KINDS[box.judge]
    place = box.model if kind.place == "MODEL" else box.path if kind.place else None
    return _installed(RankerSpec(kind=kind, place=str(place or ""), box=box, key="black_box.path"))


def open_ranker(spec: RankerSpec, ledger: Callable[[], Ledger], *, template: RankTemplate | None = None) -> Ranker:
    """The ranker, loaded.

    Args:
        ledger: where paid calls are recorded; called only by who pays.
        template: of the judge's prompt, where it is not the one that the section names.

    Raises:
        UserError: its model, recording or run cannot be used, or its key is missing.
    """
    if spec.kind.name == "openai":
        from cyclealign.rankers.black_box import BlackBoxRanker
        from cyclealign.rankers.jury import JuryRanker

        kind = JuryRanker if spec.box.judges else BlackBoxRanker
        return kind(spec.box, template or load_template(spec.box.template), ledger())
    if not spec.kind.scores:
        return LISTWISE[spec.kind.name](spec)
    scorer = SCORERS[spec.kind.name](spec)
    return scorer if isinstance(scorer, Ranker) else ScoreRanker(scorer, together=_together(spec))


def open_scorer(spec: RankerSpec) -> PairScorer:
    """The scorer of single replies, loaded. Raises UserError as ``open_ranker``, and where the kind is no scorer."""
    if not spec.kind.scores:
        raise UserError(f"{spec.key}: expected {NEEDED['scores']}; use {forms('scores')}")
    scorer = SCORERS[spec.kind.name](spec)
    if isinstance(scorer, Ranker) and scorer.gives == "order":
        raise UserError(f"{spec.key}:{spec.place}: expected {NEEDED['scores']}, and it gives an order alone")
    return scorer


def scorer_by_name(name: str, *, flag: str = "--scorer") -> PairScorer:
    """The scorer of a name. UserError as ``ranker_spec`` and ``open_ranker``."""
    return open_scorer(ranker_spec(name, flag=flag, need="scores"))


def code_digest(spec: RankerSpec) -> str | None:
    """sha256 of the user's own file, which is read and not run; None for all other kinds. UserError as it is read."""
    if spec.kind.name != "python":
        return None
    from cyclealign.rankers.own_code import read_code

    return read_code(spec.place, spec.key).digest


def settings_digest(spec: RankerSpec) -> str:
    """sha256 of all of a ranker that a verdict depends on: rates, budget and price are not among it. UserError where
    its template, or the user's own file, cannot be read."""
    free = {key.removeprefix("black_box.") for key in RESUMABLE if key.startswith("black_box.")}
    words = load_template(spec.box.template).version if spec.kind.demonstrations else None
    return sha256_hex(
        [
            spec.box.model_dump(mode="json", exclude=dict.fromkeys(free, True) | {"judges": {"__all__": {"price"}}}),
            words,
            code_digest(spec),
        ]
    )


def ledger_beside(file: Path) -> Path:
    """Where the paid calls of a command are recorded: beside its output file, or its input."""
    return file.with_name(f"{file.name}.ledger.sqlite")


def ledger_of_judge(file: Path, box: BlackBoxConfig) -> Path:
    """The ledger of ranking a file by one judge, wherever the verdicts go: beside the file, named by what is asked.

    Rates, budget, price, passes and the form of an answer may change without another ledger.

    Raises UserError where nothing can be written there.
    """
    # As ``Call`` says it; the endpoint has a default.
    asked = [part for member in box.members for part in (member.base_url or OPENAI_URL, member.model)]
    name = sha256_hex([*asked, box.template, asked_options(box)])[:8]
    path = file.with_name(f"{file.name}.{name}.ledger.sqlite")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"{path}: cannot be written, and paid calls must be recorded; give --ledger PATH")
    return path


def _installed(spec: RankerSpec) -> RankerSpec:
    from cyclealign.rankers.encoders import made_of_modules

    for module in spec.kind.modules:
        require_extra(module, spec.kind.extra, spec.key)
    if spec.kind.name == "reward_model" and made_of_modules(spec.place):  # loaded as the cross-encoder that it is
        require_extra("sentence_transformers", "retrieval", spec.key)
    return spec


def _together(spec: RankerSpec) -> int:
    """How many prompts are scored at once, where the scorer does not know."""
    if not spec.kind.modules:
        return 1
    import torch

    return SETS_ON_GPU if torch.cuda.is_available() else 1


# Openers: heavy imports are inside -------------------------------------------------------------------------------


def _local(_: RankerSpec) -> PairScorer:
    from cyclealign.rankers.local import LocalRanker

    return LocalRanker()


def _similarity(_: RankerSpec) -> PairScorer:
    from cyclealign.rankers.witnesses import SentenceSimilarity

    return SentenceSimilarity()


def _overlap(_: RankerSpec) -> PairScorer:
    from cyclealign.rankers.witnesses import Overlap

    return Overlap()


def _reward_model(spec: RankerSpec) -> PairScorer:
    from cyclealign.rankers.reward_model import RewardModelRanker

    return RewardModelRanker(spec.place, key=spec.key)


def _cross_encoder(spec: RankerSpec) -> PairScorer:
    from cyclealign.rankers.encoders import CrossEncoderScorer

    return CrossEncoderScorer(spec.place, key=spec.key)


def _coherence(spec: RankerSpec) -> PairScorer:
    from cyclealign.rankers.encoders import CoherenceScorer

    return CoherenceScorer(spec.place, key=spec.key)


def _vectors(spec: RankerSpec) -> PairScorer:
    from cyclealign.rankers.encoders import VectorScorer

    return VectorScorer(spec.place, key=spec.key, several=spec.kind.name == "multi_vector")


def _policy(spec: RankerSpec) -> PairScorer:
    from cyclealign.rankers.encoders import CausalScorer

    return CausalScorer(spec.place)


def _python(spec: RankerSpec) -> OwnFunction:
    from cyclealign.rankers.own_code import read_code
    from cyclealign.rankers.own_function import OwnFunction

    return OwnFunction(read_code(spec.place, spec.key), spec.key)


def _replay(spec: RankerSpec) -> Ranker:
    from cyclealign.rankers.replay import ReplayRanker

    path = Path(spec.place)
    if not path.exists():
        raise UserError(f"{spec.key}: no file {path}")
    return ReplayRanker(path, parts=spec.box.cascade is not None)


def _distilled(spec: RankerSpec) -> Ranker:
    """The last local ranker that the cascade of a run has fitted."""
    from cyclealign.rankers.distilled import Distilled, DistilledRanker
    from cyclealign.rankers.reply_features import ReplyFeatures

    fitted = Distilled.from_record(read_record(CascadeFit, fitted_file(spec)))
    assert fitted is not None, "fitted_file names a file with weights"
    return DistilledRanker(fitted, ReplyFeatures())


def fitted_file(spec: RankerSpec) -> Path:
    """Where ``cascade:RUN`` finds its weights. UserError where that run has none."""
    from cyclealign.rankers.distilled import Distilled

    files = [i.cascade for i in RunDir(Path(spec.place)).interactions() if i.cascade.exists()]
    fitted = [file for file in files if Distilled.from_record(read_record(CascadeFit, file)) is not None]
    if not fitted:
        raise UserError(f"{spec.key}:{spec.place}: no local ranker there (black_box.backend: cascade makes one)")
    return fitted[-1]


SCORERS: Mapping[str, Callable[[RankerSpec], PairScorer]] = {
    "local": _local,
    "sentence_similarity": _similarity,
    "overlap": _overlap,
    "reward_model": _reward_model,
    "cross_encoder": _cross_encoder,
    "coherence": _coherence,
    "bi_encoder": _vectors,
    "multi_vector": _vectors,
    "policy": _policy,
    "python": _python,
}
LISTWISE: Mapping[str, Callable[[RankerSpec], Ranker]] = {"cascade": _distilled, "replay": _replay}
