"""``cyclealign distill``: one command a method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cyclealign.files.printable import say

if TYPE_CHECKING:
    from cyclealign.distill.config import DistillConfig
    from cyclealign.files.records import FileRecord

app = typer.Typer(no_args_is_help=True, help="Distillers: a teacher's judgement into a smaller model.")
ConfigName = Annotated[
    str, typer.Argument(metavar="CONFIG", help="YAML file, or a packaged config: distill/margin_mse")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides: student.kind=colbert data.scores=scores.tsv"),
]


@app.command("margin_mse")
def margin_mse(config: ConfigName, overrides: Overrides = None) -> None:
    """Train a bi-encoder, ColBERT, PreTTR, TK or cross-encoder on a teacher's scores or labels, by any ranking loss."""
    from cyclealign.config.loading import load_sections
    from cyclealign.distill.config import ListDistillConfig
    from cyclealign.distill.list_distiller import distill_lists

    loaded = load_sections(ListDistillConfig, config, overrides or [])
    _say(loaded, distill_lists(loaded))


@app.command("leaf")
def leaf(config: ConfigName, overrides: Overrides = None) -> None:
    """Train a small encoder on a big one's vectors, in the same space: queries by the one, documents by the other."""
    from cyclealign.config.loading import load_sections
    from cyclealign.distill.leaf import distill_leaf
    from cyclealign.distill.leaf_config import LeafConfig

    loaded = load_sections(LeafConfig, config, overrides or [])
    _say(loaded, distill_leaf(loaded))
    say(f"router: {loaded.run_dir / 'router'}")


@app.command("quantidce")
def quantidce(config: ConfigName, overrides: Overrides = None) -> None:
    """Train a metric of dialogue coherence: on levels of responses, then on a few human ratings."""
    from cyclealign.config.loading import load_sections
    from cyclealign.distill.quantidce import distill_quantidce
    from cyclealign.distill.quantidce_config import QuantiDCEConfig

    loaded = load_sections(QuantiDCEConfig, config, overrides or [])
    _say(loaded, distill_quantidce(loaded))


@app.command("cprd")
def cprd(config: ConfigName, overrides: Overrides = None) -> None:
    """Train a dual encoder, text-text or image-text, on a cross-encoder's order of hard negatives, beside InfoNCE."""
    from cyclealign.config.loading import load_sections
    from cyclealign.distill.cprd import distill_cprd
    from cyclealign.distill.cprd_config import CPRDConfig

    loaded = load_sections(CPRDConfig, config, overrides or [])
    _say(loaded, distill_cprd(loaded))


@app.command("pld")
def pld(config: ConfigName, overrides: Overrides = None) -> None:
    """Train a classifier on a bigger one's logits, or a ranker on another one's lists (a config with data.scores)."""
    from cyclealign.config.loading import load_sections
    from cyclealign.distill.list_distiller import distill_lists
    from cyclealign.distill.pld_classifier import distill_classifier
    from cyclealign.distill.pld_config import PLDConfig, pld_schema

    loaded = load_sections(pld_schema(config), config, overrides or [])
    if isinstance(loaded, PLDConfig):
        found: FileRecord = distill_classifier(loaded)
    else:
        found = distill_lists(loaded, positive_first=loaded.positive_first)
    _say(loaded, found)


@app.command("idcm")
def idcm(config: ConfigName, overrides: Overrides = None) -> None:
    """Train a cascade for long documents: a small model chooses the passages that a cross-encoder scores."""
    from cyclealign.config.loading import load_sections
    from cyclealign.distill.idcm import distill_idcm
    from cyclealign.distill.idcm_config import IDCMConfig

    loaded = load_sections(IDCMConfig, config, overrides or [])
    _say(loaded, distill_idcm(loaded))


def _say(config: DistillConfig, summary: FileRecord) -> None:
    from cyclealign.files.records import encode

    for key, value in encode(summary).items():
        say(f"{key}: {value}")
    say(f"model: {config.run_dir / 'model'}")
