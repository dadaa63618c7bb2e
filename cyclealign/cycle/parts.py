"""From a run directory to what the loop is made of: judge, generator, trainer, evaluator; heavy imports start here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Literal

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.config.list_config import warm_start_config
from cyclealign.config.schema import Config
from cyclealign.cycle.answers import GivenAnswers, RecordedAnswers
from cyclealign.cycle.distilled_rankers import RunRankers
from cyclealign.cycle.evaluator import Evaluator
from cyclealign.cycle.kept_code import as_kept, with_kept_loss
from cyclealign.cycle.loop import Parts
from cyclealign.cycle.team import Team, launch_team
from cyclealign.cycle.witness import ScoringWitness, Witness, judging_witness, witness_spec
from cyclealign.files.environment import record_environment
from cyclealign.files.prompts import load_prompts
from cyclealign.files.run_dir import RunDir
from cyclealign.judge.demonstration_files import load_static
from cyclealign.judge.demonstrations import DemonstrationPool
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.template import RankTemplate, load_template
from cyclealign.losses import feeds, unfed
from cyclealign.rankers.by_name import RankerSpec, open_ranker, open_scorer, spec_of
from cyclealign.types import (
    Answerer,
    CanarySample,
    CandidateSet,
    Generator,
    Message,
    PolicyVersion,
    Prompt,
    RankContext,
    Ranker,
    Ranking,
    RunStopped,
    Unranked,
    UserError,
)


def assemble(config: Config, run: RunDir) -> tuple[Parts, Team]:
    """The parts, from what the run directory holds, and the processes that share them; heavy imports from here on."""
    from cyclealign.cycle.tracking import Tracking, TrainerRows
    from cyclealign.generation.backend import build_generator
    from cyclealign.models.checkpoints import check_weights
    from cyclealign.training.policy_trainer import WhiteBox

    team = launch_team(run.state_file, judge=config.black_box.judge)
    team.share("building", lambda: record_environment(run.environment))
    template = load_template(str(run.prompts / "template.yaml"))
    named = _checked_parts(config)
    steps = _total_steps(config, run, team)
    tracking = Tracking(config, run, total_steps=steps)
    witness = _witness(config, named, run, template) if named and team.is_main else None
    black_box: Ranker = _black_box(config, run, template) if team.is_main else Idle()
    answerer = _answerer(config, run) if team.is_main else None
    base = _start_model(config, run, team)
    policy = config.policy.model_copy(update={"model": base})
    started = with_kept_loss(config.model_copy(update={"policy": policy}), run)
    generator: Generator = build_generator(config.generator, policy, workdir=run.path) if team.is_main else Idle()
    rows = TrainerRows(tracking, team.progress)
    trainer = WhiteBox(started, base=base, total_steps=steps, seed=config.seed, callbacks=[rows])
    parts = Parts(
        generator=generator,
        black_box=black_box,
        white_box=trainer,
        pool=_pool(config, run, template),
        evaluator=Evaluator(tuple(run.eval_prompts()), witness, config.generator.chunk),
        start_model=base,
        tracker=tracking,
        check_weights=check_weights,
        answerer=answerer,
    )
    return parts, team


def _checked_parts(config: Config) -> RankerSpec | None:
    """Everything that can be found wrong without loading weights and without a paid call; returns who the witness is.

    The black box is asked only after it: even its one probe is paid for.
    """
    from cyclealign.generation.backend import pick_backend
    from cyclealign.generation.serving import check_servable
    from cyclealign.models.policy import check_policy
    from cyclealign.training.arguments import check_arguments

    backend = pick_backend(config.generator)
    if backend != "transformers":
        check_servable(config.policy, backend)
    check_policy(config.policy)
    if backend == "server":
        from cyclealign.generation.endpoint import check_endpoints

        check_endpoints(config.generator.endpoints)
    check_arguments(config)
    warm = config.cycle.warm_start
    if warm is not None and warm.sft is not None:
        _warm_start_examples(config, warm.sft)
    if warm is not None and warm.lists is not None:
        _check_lists(config, warm.lists)
    spec_of(config.black_box)
    return witness_spec(config)


def _witness(config: Config, named: RankerSpec, run: RunDir, template: RankTemplate) -> Witness:
    """Who watches the run, loaded; one behind an API judges by the run's own words."""
    if named.kind.scores:
        return ScoringWitness(named.name, open_scorer(as_kept(named, run, "scorer")))
    return judging_witness(named.name, named.box, run, template, most_failed=config.black_box.max_unranked)


def _check_lists(config: Config, source: str) -> None:
    """UserError where there are no lists, or the loss cannot learn from the first of them."""
    from cyclealign.cycle.list_files import given
    from cyclealign.cycle.ranked_lists import ranked_lists

    lists = warm_start_config(config, source).lists
    assert lists is not None
    for one in islice(ranked_lists(lists), 1):
        given(one, config.loss)


def _warm_start_examples(config: Config, sft: str) -> list[tuple[tuple[Message, ...], str]]:
    prompts = load_prompts(sft, format=config.data.format, split=config.data.split)
    examples = [(p.messages, p.chosen) for p in prompts if p.chosen]
    if not examples:
        raise UserError(f"cycle.warm_start.sft: {sft} holds no chosen replies")
    return examples


def _pool(config: Config, run: RunDir, template: RankTemplate) -> DemonstrationPool:
    static = load_static(str(run.prompts / "demonstrations.jsonl"))
    return DemonstrationPool.start(config.demonstrations, static=static, template=template)


def _black_box(config: Config, run: RunDir, template: RankTemplate) -> Ranker:
    """The ranker of ``black_box.backend``; a server is asked once whether it answers, before anything heavy."""
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger(run.ledger)) if config.black_box.everyone else None
        ranker = _cascade(config, run, template, ledger)
        stack.pop_all()  # the ledger stays open as long as the run
    return ranker


def _cascade(config: Config, run: RunDir, template: RankTemplate, ledger: Ledger | None) -> Ranker:
    """The judge, behind whatever stands before it."""
    box = config.black_box
    judge = _judge(config, box, run, template, ledger)
    if box.cascade is None:
        return judge
    if box.first is None or ledger is None:
        from cyclealign.rankers.cascade import CascadeRanker
        from cyclealign.rankers.reply_features import ReplyFeatures

        return CascadeRanker(judge, box.cascade, ReplyFeatures, RunRankers(run, box.cascade))
    from cyclealign.rankers.first_judge import JudgeCascade, comparisons

    first = _judge(config, box.first, run, template, ledger)
    return JudgeCascade(judge, first, box.cascade, comparisons(ledger, box, template))


def _judge(config: Config, box: BlackBoxConfig, run: RunDir, template: RankTemplate, ledger: Ledger | None) -> Ranker:
    def paid() -> Ledger:
        assert ledger is not None, "a run whose judges are paid has a ledger"
        return ledger

    ranker = open_ranker(as_kept(spec_of(box), run, "ranker"), paid, template=template)
    if box.judge == "openai":
        from cyclealign.rankers.black_box import BlackBoxRanker
        from cyclealign.rankers.jury import JuryRanker

        if isinstance(ranker, BlackBoxRanker | JuryRanker):
            ranker.preflight(config.list_size)
    if not feeds(ranker.gives, config.loss.needs) and box.gives is None:
        raise UserError(unfed(config.loss, ranker.gives, f"black_box.path={box.path}"))
    return ranker


def _answerer(config: Config, run: RunDir) -> Answerer | None:
    """Who has the black box's own replies, where they join the candidates."""
    box = config.black_box
    if not box.answers:
        return None
    if box.answer_column is not None:
        return GivenAnswers()
    from cyclealign.rankers.own_reply import OwnReplies

    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger(run.ledger))
        asked = OwnReplies(box, ledger, tokens=config.generator.max_new_tokens)
        stack.pop_all()  # open as long as the run
    return RecordedAnswers(run.answers, asked)


def _start_model(config: Config, run: RunDir, team: Team) -> str:
    """The model that the cycle starts from: ``policy.model``, or its copy after the warm start."""
    from cyclealign.models.policy_files import resolve_model

    warm = config.cycle.warm_start
    if warm is None:
        return resolve_model(config.policy.model)
    if not team.share("warm_start", run.start.exists):
        if warm.sft is not None:
            from cyclealign.training.warm_start import warm_start

            warm_start(config, _warm_start_examples(config, warm.sft), run.start)
        if warm.lists is not None:
            from cyclealign.cycle.list_run import start_from_lists

            start_from_lists(warm_start_config(config, warm.lists), run, team)
    return str(run.start)


def _total_steps(config: Config, run: RunDir, team: Team) -> int:
    """Most optimiser steps of the run: what the learning-rate schedule is laid out for."""
    from cyclealign.training.arguments import optimizer_steps

    prompts, size = len(run.train_prompts()), config.cycle.batch_size
    batches = [min(size, prompts - first) for first in range(0, prompts, size)]
    return config.cycle.max_interactions * sum(optimizer_steps(config, n, team.size) for n in batches)


class Idle:
    """Generator and black box of the processes that neither generate nor rank by API."""

    gives: Literal["order", "magnitude"] = "order"

    def generate(self, prompts: Sequence[Prompt], version: PolicyVersion, *, seed: int) -> Iterator[CandidateSet]:
        raise RunStopped("only the main process generates")

    def canary(self, prompt: Prompt, version: PolicyVersion) -> CanarySample:
        raise RunStopped("only the main process generates")

    def rank(self, sets: Iterable[CandidateSet], context: RankContext) -> Iterator[Ranking | Unranked]:
        raise RunStopped("only the main process asks the black box")

    def pause(self) -> None:
        """Nothing to give back."""

    def close(self) -> None:
        """The same."""
