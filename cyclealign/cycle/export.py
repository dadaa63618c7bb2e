"""What leaves a run: preference pairs for TRL, the kept adapter or a merged copy, and a model card."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from cyclealign.config.loading import load_config
from cyclealign.config.schema import Config, PolicyConfig
from cyclealign.cycle.hub import HubRepo, check_repo, push
from cyclealign.cycle.model_card import HubPlace, model_card
from cyclealign.files.atomic import write_atomic
from cyclealign.files.began import MARKER, Began
from cyclealign.files.locks import held
from cyclealign.files.records import read_record, write_record
from cyclealign.files.run_dir import RunDir, open_run
from cyclealign.files.run_records import ranked_sets
from cyclealign.files.run_state import Kept
from cyclealign.losses.pairs import Pairs
from cyclealign.rankers.utilities import taught_tiers
from cyclealign.types import CandidateSet, Message, Ranking, UserError

log = logging.getLogger(__name__)


class PreferenceRow(TypedDict):
    """TRL's conversational preference row."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]


@dataclass(frozen=True, kw_only=True)
class Exports:
    """What to write. The model card is written with any of the models. ``push``: where the models go on the hub."""

    pairs: Pairs | None = None
    adapter: bool = False
    merged: bool = False
    push: HubRepo | None = None


def export_run(path: Path, wanted: Exports, out: Path) -> list[Path]:
    """Write ``preferences.jsonl``, ``adapter/`` (``model/`` after full fine-tuning), ``merged/`` and their
    ``README.md`` into ``out``; returns what was written: files, and directories that hold nothing else.

    Raises:
        UserError: no such run, or it holds nothing of the kind yet; another process writes into ``out``, or it holds
            what no export wrote; what is there cannot be published, or the hub refuses it.
    """
    run = open_run(path)
    config = load_config(run.config)
    _began(out)
    if wanted.push is not None:
        _check_push(wanted.push, wanted, run)
    with held(out, f"--out {out}"):
        written = _written(run, config, wanted, out)
        if wanted.push is not None:
            log.info("pushed to %s", push(wanted.push, _by_folder(wanted, written)))
        return written


def _written(run: RunDir, config: Config, wanted: Exports, out: Path) -> list[Path]:
    written = []
    if wanted.pairs is not None:
        written.append(_write_pairs(run, wanted.pairs, out, "preferences.jsonl"))
    if wanted.adapter:
        kept = _kept_weights(run)
        written.append(_copied(kept, _ours(out, kept.name)))
        _write_card(run, config, wanted, written[-1])
    if wanted.merged:
        _kept_weights(run)
        written.append(_ours(out, "merged"))
        write_merged(config.policy, run, written[-1])
        _write_card(run, config, wanted, written[-1])
    return written


def _write_card(run: RunDir, config: Config, wanted: Exports, model: Path) -> None:
    at = None if wanted.push is None else HubPlace(wanted.push.id, _folder(model.name, wanted))
    write_atomic(model / "README.md", model_card(config, run, adapter=model.name == "adapter", at=at))


def _folder(name: str, wanted: Exports) -> str:
    """Of a model in its repository: the root, where models are looked for, is a merged copy's if there is one."""
    return "" if name == "merged" or not wanted.merged else name


def _by_folder(wanted: Exports, written: Sequence[Path]) -> dict[str, Path]:
    # Of a model that was trained whole, the merged copy is the same weights again.
    models = [path for path in written if path.is_dir() and not (path.name == "model" and wanted.merged)]
    return {_folder(path.name, wanted): path for path in models}


def _check_push(repo: HubRepo, wanted: Exports, run: RunDir) -> None:
    """UserError where what is wanted cannot be published, before anything is written."""
    from cyclealign.models.policy_files import adapter_base

    if not (wanted.adapter or wanted.merged):
        raise UserError(f"--push {repo.id}: --pairs alone writes no model; add --adapter or --merged")
    check_repo(repo)
    base = adapter_base(run.best / "adapter") if wanted.adapter else None
    if base is not None and (Path(base).is_absolute() or Path(base).is_dir()):
        raise UserError(
            f"--push {repo.id}: the adapter is one of {Path(base).name}, a directory of this machine, and nobody else"
            " could load it; push a copy with the adapter merged: --merged"
        )


def preference_rows(item: CandidateSet, ranking: Ranking, pairs: Pairs) -> Iterator[PreferenceRow]:
    """TRL's conversational preference rows {prompt, chosen, rejected} of one ranking.

    ``best_worst``: one row; ``adjacent``: every response of a tier over every one of the next; ``all``: over every
    one of all lower tiers. Tied responses make no pair, nor do those that a cascade pruned among themselves.
    """
    tiers = taught_tiers(ranking)
    if pairs == "best_worst":
        found = [(tiers[0][0], tiers[-1][-1])] if len(tiers) > 1 else []
    else:
        steps = itertools.pairwise(tiers) if pairs == "adjacent" else itertools.combinations(tiers, 2)
        found = [pair for better, worse in steps for pair in itertools.product(better, worse)]
    for better, worse in found:
        yield {
            "prompt": list(item.prompt.messages),
            "chosen": [{"role": "assistant", "content": item.text(better)}],
            "rejected": [{"role": "assistant", "content": item.text(worse)}],
        }


def _write_pairs(run: RunDir, pairs: Pairs, folder: Path, name: str) -> Path:
    rows: list[str] = []
    for interaction in run.interactions():
        files = (interaction.candidates, interaction.black_box)
        for item, ranking in ranked_sets(*files, aligned=run.lists() is not None):
            rows += (json.dumps(r, ensure_ascii=False) for r in preference_rows(item, ranking, pairs))
    if not rows:
        raise UserError(f"{run.path}: holds no ranking with a preference yet")
    out = _ours(folder, name)
    write_atomic(out, "".join(f"{row}\n" for row in rows))
    log.info("%s: %d pairs", out, len(rows))
    return out


def _kept_weights(run: RunDir) -> Path:
    """The adapter or model that the run kept. UserError where it kept none."""
    kept = run.kept()
    if kept is None:
        raise UserError(f"{run.path}: the run has not finished; continue it with `cyclealign resume {run.path}`")
    for kind in ("adapter", "model"):
        if (run.best / kind).is_dir():
            _check_kept(run.best / kind, kept)
            return run.best / kind
    if kept.trained:
        raise UserError(f"{run.best}: the kept weights are not there; put them back from a copy, or resume the run")
    raise UserError(f"{run.path}: the run kept the start model ({kept.why}), so there are no new weights")


def _check_kept(weights: Path, kept: Kept) -> None:
    """UserError where what the run kept cannot be used: damaged, not finite, or an adapter of another model."""
    from cyclealign.models.checkpoints import check_base, check_weights

    check_weights(weights)
    if weights.name == "adapter":
        check_base(weights, kept.start_model)


def _ours(out: Path, name: str) -> Path:
    """``out/name``, where it is free or an export made it. UserError where it is somebody else's."""
    wrote = _began(out).wrote
    target = out / name
    if name in wrote:
        return target
    if target.exists() or target.is_symlink():
        raise UserError(f"--out {out}: holds {name}, which no export wrote; choose another directory")
    try:
        write_record(out / MARKER, Began(what="export", wrote=(*wrote, name)))
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from error
    return target


def _began(out: Path) -> Began:
    """What exports wrote into ``out`` before. UserError where a run or a distillation began in it."""
    marker = out / MARKER
    found = read_record(Began, marker) if marker.exists() else Began(what="export")
    if found.what != "export":
        raise UserError(f"--out {out}: holds a {found.what}, expected a directory for exports; choose another one")
    return found


def _copied(source: Path, target: Path) -> Path:
    """A copy in place of what an export wrote there before."""
    from cyclealign.models.checkpoints import written_aside

    try:
        with written_aside(target) as aside:
            shutil.copytree(source, aside)
    except OSError as error:
        raise UserError(f"--out {target}: cannot be written: {error}") from error
    return target


def write_merged(policy: PolicyConfig, run: RunDir, target: Path) -> None:
    """The kept adapter merged into a copy of its base: in float32, then in the policy's dtype, once (repeated merging
    in half precision drifts). After full fine-tuning, a copy of the model. UserError where the run kept nothing."""
    kept = _kept_weights(run)
    if kept.name == "model":
        _copied(kept, target)
        return
    import torch

    from cyclealign.models.checkpoints import save_policy
    from cyclealign.models.dtypes import saved_dtype
    from cyclealign.models.saved import load_for_use

    base = str(run.start) if run.start.is_dir() else policy.model
    model, tokenizer = load_for_use(str(kept), dtype=torch.float32, base=base, policy=policy)
    save_policy(model.merge_and_unload().to(saved_dtype(policy)), target, tokenizer)
