"""``cyclealign eval``: the offline evals as commands. Heavy imports are inside, as in ``cli``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cyclealign.cli.options import BlackBoxKeys, DryRun, Limit, Out, RankerName, Seed
from cyclealign.cli.results import checked, finish
from cyclealign.config.ranker_kinds import kinds_help
from cyclealign.files.printable import say
from cyclealign.types import UserError

if TYPE_CHECKING:
    from cyclealign.evaluation.responses import Response, Sampling

eval_app = typer.Typer(help="Offline preference evals with error bars.", no_args_is_help=True)

Source = Annotated[str, typer.Argument(metavar="RESPONSES", help=".jsonl of responses, or a policy with --prompts")]
Prompts = Annotated[str | None, typer.Option(help="What policies answer: path, glob, hub id or builtin:openers-eval")]
GeneratorKeys = Annotated[
    list[str] | None,
    typer.Option("--generator", help="Key of the generator section: max_new_tokens=128 backend=vllm; repeatable"),
]


@eval_app.command()
def ranker(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Labelled pairs or lists: path, glob or hub id")],
    ranker: RankerName,
    options: BlackBoxKeys = None,
    subset: Annotated[str | None, typer.Option(help="Only subsets whose name begins so")] = None,
    limit: Limit = None,
    repeats: Annotated[int, typer.Option(min=1, help="Put all questions so often, for self-consistency")] = 1,
    out: Out = Path("eval_ranker.json"),
    seed: Seed = 42,
    dry_run: DryRun = False,
) -> None:
    """A ranker on labelled pairs and lists: accuracy, position and length bias, cost."""
    from cyclealign.evaluation.judging import Judge, price
    from cyclealign.evaluation.ranker import RankerEval, evaluate_ranker
    from cyclealign.files.labelled import load_labelled

    judge = Judge(spec=ranker, options=tuple(options or ()), seed=seed)
    items = load_labelled(data, subset=subset, limit=limit)
    if dry_run:
        _say(price([i.set for i in items], judge, repeats=repeats))
        return
    checked(out, data)
    job = RankerEval(data=data, judge=judge, repeats=repeats)
    finish(evaluate_ranker(job, items, out), out)


@eval_app.command()
def winrate(
    a: Annotated[str, typer.Argument(metavar="A", help="Run, RUN@start, model, or .jsonl of responses")],
    b: Annotated[str, typer.Argument(metavar="B", help="What it is compared with")],
    ranker: RankerName,
    options: BlackBoxKeys = None,
    prompts: Prompts = None,
    generator: GeneratorKeys = None,
    limit: Limit = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="RESULT", help="Of eval ranker with the same judge: correct the win rate for its errors"),
    ] = None,
    out: Out = Path("eval_winrate.json"),
    seed: Seed = 42,
    dry_run: DryRun = False,
) -> None:
    """How often a judge prefers A to B: both orders, ties kept, raw and at equal length."""
    from cyclealign.evaluation.calibration import load_calibration
    from cyclealign.evaluation.judging import Judge, price
    from cyclealign.evaluation.reply_pairs import needs_judge
    from cyclealign.evaluation.responses import expected_responses, get_responses
    from cyclealign.evaluation.winrate import WinRate, evaluate_winrate, pairs_of, without_counterpart

    judge = Judge(spec=ranker, options=tuple(options or ()), seed=seed)
    judge.ranker()  # a mistake in it is found before anything is sampled
    errors = load_calibration(calibration, judge) if calibration is not None else None
    sampling = _sampling(prompts, generator, limit, seed)
    sides = [(spec, name, out.with_suffix(f".{name}.jsonl")) for spec, name in ((a, "a"), (b, "b"))]
    if dry_run:
        known = [expected_responses(spec, sampling, keep, letter=name) for spec, name, keep in sides]
        _say(price([s for s in pairs_of(*known) if needs_judge(s)], judge))
        return
    checked(out, a, b, prompts, calibration)
    first, second = (get_responses(spec, sampling, keep) for spec, _, keep in sides)
    job = WinRate(a=a, b=b, judge=judge, alone=without_counterpart(first, second), calibration=errors)
    finish(evaluate_winrate(job, pairs_of(first, second), out), out)


@eval_app.command()
def reward(
    responses: Source,
    scorer: Annotated[str, typer.Option(help=kinds_help("scores"))],
    prompts: Prompts = None,
    generator: GeneratorKeys = None,
    limit: Limit = None,
    out: Out = Path("eval_reward.json"),
    seed: Seed = 42,
) -> None:
    """Mean reward with its interval, raw and sigmoid times 100."""
    from cyclealign.evaluation.reward import evaluate_reward
    from cyclealign.rankers.by_name import ranker_spec

    ranker_spec(scorer, flag="--scorer", need="scores")  # a mistake in it is found before anything is sampled

    checked(out, responses, prompts)
    found = _responses(responses, prompts, generator, limit, seed, out)
    finish(evaluate_reward(responses, found, scorer, seed=seed), out)


@eval_app.command()
def text(
    responses: Source,
    references: Annotated[Path | None, typer.Option(help=".jsonl of responses to the same prompts")] = None,
    prompts: Prompts = None,
    generator: GeneratorKeys = None,
    limit: Limit = None,
    out: Out = Path("eval_text.json"),
    seed: Seed = 42,
) -> None:
    """Overlap with references (sacreBLEU, ROUGE, PRO's BLEU), variety, refusals, repetition."""
    from cyclealign.evaluation.responses import load_responses
    from cyclealign.evaluation.text import evaluate_text

    checked(out, responses, references, prompts)
    known = {i: r.text for i, r in load_responses(references).items()} if references else {}
    found = _responses(responses, prompts, generator, limit, seed, out)
    finish(evaluate_text(responses, found, known, seed=seed), out)


@eval_app.command()
def likelihood(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="Run, RUN@start, adapter, model or hub id")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="Labelled pairs or lists")],
    subset: Annotated[str | None, typer.Option(help="Only subsets whose name begins so")] = None,
    prompts: Prompts = None,
    generator: GeneratorKeys = None,
    limit: Limit = None,
    out: Out = Path("eval_likelihood.json"),
    seed: Seed = 42,
) -> None:
    """Preference accuracy of the policy's own likelihood, NLL a token; with --prompts its KL to the start model."""
    from cyclealign.evaluation.likelihood import Likelihood, evaluate_likelihood
    from cyclealign.evaluation.policies import find_policy
    from cyclealign.files.labelled import load_labelled

    checked(out, policy, data, prompts)
    found = find_policy(policy)
    items = load_labelled(data, subset=subset, limit=limit)
    if prompts is not None and found.start is None:
        raise UserError(f"--prompts: what {policy} was trained from is not known, so there is no KL to it")
    keys = generator or ["temperature=1.0", "top_p=1.0"]  # the policy's own distribution, which a KL is about
    samples = _responses(policy, prompts, keys, limit, seed, out) if prompts else None
    job = Likelihood(name=policy, policy=found, items=items, samples=samples, data=data)
    finish(evaluate_likelihood(job, seed=seed), out)


@eval_app.command()
def retrieval(
    qrels: Annotated[Path, typer.Argument(metavar="QRELS", help="TREC relevance judgements")],
    run: Annotated[Path, typer.Argument(metavar="RUN", help="TREC run file")],
    measure: Annotated[list[str] | None, typer.Option(help="As ir-measures names them; the first is primary")] = None,
    out: Out = Path("eval_retrieval.json"),
    seed: Seed = 42,
) -> None:
    """A retrieval run against relevance judgements: nDCG@10, RR@10, AP, R@100 or what --measure says."""
    from cyclealign.evaluation.retrieval import MEASURES, evaluate_retrieval

    checked(out, qrels, run)
    finish(evaluate_retrieval(qrels, run, measure or MEASURES, seed=seed), out)


@eval_app.command()
def coherence(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="JSONL: human ratings, and score or a response")],
    scorer: Annotated[str | None, typer.Option(help=f"Score the responses with this. {kinds_help('scores')}")] = None,
    out: Out = Path("eval_coherence.json"),
    seed: Seed = 42,
) -> None:
    """Correlation of a metric with human ratings: Pearson, Spearman, Kendall."""
    from cyclealign.evaluation.coherence import evaluate_coherence

    checked(out, data)
    finish(evaluate_coherence(data, scorer, seed=seed), out)


@eval_app.command()
def compare(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="Result files of one eval, or runs")],
    out: Out = Path("eval_compare.json"),
    seed: Seed = 42,
) -> None:
    """One table over several results, with paired tests and Holm's correction."""
    from cyclealign.evaluation.compare import compare as compared
    from cyclealign.evaluation.compare import load_compared

    checked(out, *results)
    finish(compared(load_compared(results), seed=seed), out)


def _sampling(prompts: str | None, generator: Sequence[str] | None, limit: int | None, seed: int) -> Sampling:
    from cyclealign.evaluation.responses import Sampling

    return Sampling(prompts=prompts, options=tuple(generator or ()), limit=limit, seed=seed)


def _responses(
    spec: str, prompts: str | None, generator: Sequence[str] | None, limit: int | None, seed: int, out: Path
) -> dict[str, Response]:
    from cyclealign.evaluation.responses import get_responses

    return get_responses(spec, _sampling(prompts, generator, limit, seed), out.with_suffix(".responses.jsonl"))


def _say(lines: Sequence[str]) -> None:
    say("\n".join(lines))
