"""The ranker that `--ranker KIND:WHAT` names, opened, with its ledger."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cyclealign.config.loading import parsed_section
from cyclealign.config.schema import BlackBoxConfig
from cyclealign.files.jsonl import read_json
from cyclealign.files.run_dir import RunDir
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.template import load_template
from cyclealign.types import CandidateSet, Ranker, UserError

KINDS = "local, reward_model:PATH, replay:PATH, policy:PATH, cascade:RUN, openai:MODEL"


NO_CASCADE = (
    "it learns from a run's own rankings; outside of a run, --ranker cascade:RUN is what that run has distilled"
)


@dataclass(frozen=True, kw_only=True)
class RankJob:
    """What the command line asks for. ``options``: ``key=value`` of the black_box section."""

    file: Path
    ranker: str
    options: tuple[str, ...] = ()
    out: Path | None = None
    seed: int = 42


def ranker_config(spec: str, options: Sequence[str]) -> BlackBoxConfig | None:
    """The black_box section that ``--ranker`` and its ``key=value`` options stand for; None for a policy and for the
    local ranker of a run's cascade.

    Raises:
        UserError: unknown ranker, or options that do not fit it.
    """
    kind, _, rest = spec.partition(":")
    if kind in ("reward_model", "replay", "policy", "cascade", "openai") and not rest:
        what = {"openai": "MODEL", "cascade": "RUN"}.get(kind, "PATH")
        raise UserError(f"--ranker {kind}: expected {kind}:{what}")
    if kind in ("policy", "cascade"):
        return None
    if kind not in ("local", "reward_model", "replay", "openai"):
        raise UserError(f"--ranker: expected one of {KINDS}; got {spec!r}")
    place = {"model": rest} if kind == "openai" else {"path": rest} if rest else {}
    box = parsed_section(BlackBoxConfig, "black_box", {"backend": kind, **place}, options)
    if box.cascade is not None:
        raise UserError(f"black_box.cascade: {NO_CASCADE}")
    return box


def open_ranker(job: RankJob, sets: Sequence[CandidateSet], stack: ExitStack) -> tuple[Ranker, str]:
    """The ranker that a job names, with the name of its template; what it holds open closes with ``stack``."""
    box = ranker_config(job.ranker, job.options)
    if box is None:
        kind, _, path = job.ranker.partition(":")
        return (_distilled(RunDir(Path(path))) if kind == "cascade" else _policy_ranker(path, sets)), "rank"
    return _black_box(box, job, stack), box.template


def ledger_of(job: RankJob) -> Path:
    """Where the paid calls of a job are recorded: beside its output file, or its input."""
    beside = job.out or job.file
    return beside.with_name(f"{beside.name}.ledger.sqlite")


def _black_box(box: BlackBoxConfig, job: RankJob, stack: ExitStack) -> Ranker:
    if box.backend == "openai":
        from cyclealign.rankers.black_box import BlackBoxRanker

        ledger = stack.enter_context(Ledger(ledger_of(job)))
        return BlackBoxRanker(box, load_template(box.template), ledger)
    if box.backend == "replay":
        from cyclealign.rankers.replay import ReplayRanker

        return ReplayRanker(_existing(box.path))
    from cyclealign.rankers.local import LocalRanker
    from cyclealign.rankers.reward_model import RewardModelRanker

    return LocalRanker() if box.backend == "local" else RewardModelRanker(str(box.path))


def _existing(path: Path | None) -> Path:
    if path is None or not path.exists():
        raise UserError(f"no file {path}")
    return path


def _policy_ranker(path: str, sets: Sequence[CandidateSet]) -> Ranker:
    """Any causal language model as a ranker: mean log-likelihood per token of the response."""
    from cyclealign.models.policy_scorer import load_policy_scorer
    from cyclealign.rankers.white_box import WhiteBoxRanker

    scorer = load_policy_scorer(path, [(s.prompt.messages, [c.text for c in s.candidates]) for s in sets[:2]])
    return WhiteBoxRanker(scorer.score, scorer.tokenizer, scorer.prompt_tokens)


def _distilled(run: RunDir) -> Ranker:
    """The last local ranker that the cascade of a run has fitted."""
    from cyclealign.rankers.distilled import Distilled, DistilledRanker
    from cyclealign.rankers.reply_features import ReplyFeatures

    records = [read_json(i.cascade) for i in run.interactions() if i.cascade.exists()]
    fitted = [r for r in records if "weights" in r]
    if not fitted:
        raise UserError(f"--ranker cascade:{run.path}: no local ranker there (black_box.backend: cascade makes one)")
    return DistilledRanker(Distilled.from_record(fitted[-1]), ReplyFeatures())
