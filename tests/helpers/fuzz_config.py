"""Fuzz target: configs, from a file and from the command line, of a run and of every distiller."""

from __future__ import annotations

from fuzzing import Broken, closed, folder, opened

from cyclealign.config.loading import (
    black_box_of,
    config_of,
    dump_config,
    find_config,
    load_config,
    load_sections,
    with_override,
)
from cyclealign.config.schema import Config
from cyclealign.config.section import Section
from cyclealign.distill.config import ListDistillConfig
from cyclealign.distill.cprd_config import CPRDConfig
from cyclealign.distill.idcm_config import IDCMConfig
from cyclealign.distill.leaf_config import LeafConfig
from cyclealign.files.strict_yaml import read_yaml, write_yaml
from cyclealign.types import UserError

LONG = 20_000  # bytes: the reader of YAML is Python, and takes 30 µs for each
SCHEMAS: tuple[type[Section], ...] = (ListDistillConfig, CPRDConfig, IDCMConfig, LeafConfig)


def target(data: bytes) -> None:
    """Choice: which reader; the body is a file, or an override of the packaged quickstart."""
    given = opened(data, stretched=LONG)
    with folder() as made:
        path = made / "c.yaml"
        path.write_bytes(given.body)
        try:
            match given.choice % 6:
                case 0:
                    _check_kept(load_config(path))
                case 1:
                    load_sections(SCHEMAS[given.options % len(SCHEMAS)], path, ())
                case 2:
                    _check_kept(load_config("quickstart", given.text.split("\0")[:4]))
                case 3:
                    black_box_of(path, ["model=a"] if given.options & 1 else ())
                case 4:
                    value = read_yaml(given.text, "text")
                    if repr(read_yaml(write_yaml(value), "again")) != repr(value):
                        raise Broken("a value is another one once it is written and read")
                case _:
                    with_override({"data": {"prompts": "a"}}, given.text)
                    config_of(given.text, "config.yaml")
        except UserError:
            return


def _check_kept(config: Config) -> None:
    if config_of(dump_config(config), "config.yaml") != config:
        raise Broken("a config is another one once it is written and read")


OVERRIDES = (
    "training.learning_rate=1e-5",
    "loss.name=pro\0loss.gap_temperature=false",
    "black_box={backend: openai, model: m, base_url: 'https://a.example/v1?x=1'}",
    "drift=null",
    "data.prompts=[a, b]",
    "loss={name: list_mle}",
    "policy.lora.r=0x10",
)
TEXTS = (
    "a: &a [1, 2]\nb: [*a, *a]\n",
    "a: 1\na: 2\n",
    "black_box: {model: m, base_url: 'http://127.0.0.1:1/v1', price: {input: 1, output: 2.5}}\n",
    "x: !!bool no\ny: 1e-5\nz: 2024-01-01\n",
    "<<: {a: 1}\nb: .5\n",
    "? [a]\n: {}\n",
    "a: !!float x\nb: !!timestamp t\nc: !!binary YQ==\n",
    "- 'a'\n- \"\\ud800\"\n",
)


def seeds() -> list[bytes]:
    found = [closed(0, find_config(n).read_bytes()) for n in ("quickstart", "hh_rlhf_tiny", "hh_rlhf_pro_7b")]
    packaged = sorted(find_config("quickstart").parent.glob("distill/*.yaml"))
    found += [closed(1, path.read_bytes(), n) for path in packaged for n in range(len(SCHEMAS)) if n < 2]
    found += [closed(2, override) for override in OVERRIDES]
    return [*found, *(closed(way, text) for way in (0, 3, 4, 5) for text in TEXTS)]
