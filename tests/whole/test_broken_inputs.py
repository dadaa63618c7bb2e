"""``cyclealign run`` with each of many broken configs, data files, templates and servers: one readable line that names
the key or the line, exit code 2, and nothing paid for. CASES is the list.

All run in this process through the command line's own ``main``; a few also as real processes at the end.
"""

from __future__ import annotations

import gzip
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from finished_run import finished_run
from loopback import Fault, Loopback
from processes import finish, start
from tiny_policy import save_tiny

from cyclealign.cli.main import main
from cyclealign.files.began import MARKER, Began
from cyclealign.files.records import write_record

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """\
name: broken
data: {prompts: prompts.jsonl}
policy: {model: ./policy, max_prompt_tokens: 64, dtype: float32, lora: {r: 2, alpha: 4}}
generator: {backend: transformers, candidates: 3, max_new_tokens: 4}
black_box: {backend: openai, model: judge, base_url: "BASE_URL"}
training: {per_device_train_batch_size: 2}
cycle: {max_interactions: 1}
"""
PROMPTS = '{"prompt": "hello a"}\n{"prompt": "hello b"}\n'
CUT = gzip.compress(PROMPTS.encode())[:-6]
DIALOGUE = "\\n\\nHuman: a\\n\\nAssistant: "


@dataclass(frozen=True)
class Case:
    """``overrides`` on the command line after ``prepare`` made files; the message must hold every word of ``says``.

    ``config``: instead of CONFIG. ``server``: what the judge's server does, None for one that works.
    """

    name: str
    says: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    prepare: Callable[[], object] = lambda: None
    config: str = CONFIG
    script: Callable[[int, Any], Fault | None] = lambda *_: None


def put(name: str, text: str | bytes) -> Callable[[], object]:
    """A step that writes a file."""

    def write() -> None:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    return write


def all_fail(status: int, message: str) -> Callable[[int, Any], Fault]:
    return lambda *_: Fault(status=status, body=json.dumps({"error": {"message": message, "code": None}}))


def template(**changes: str | None) -> str:
    """The packaged template with fields replaced, or taken away."""
    import yaml

    fields = yaml.safe_load((ROOT / "prompts" / "rank.yaml").read_text()) | changes
    return yaml.safe_dump({k: v for k, v in fields.items() if v is not None})


def another_run() -> None:
    finished_run(Path("runs"))
    Path("runs/run").rename("runs/broken")
    write_record(Path("runs/broken") / MARKER, Began(what="run"))


def cut_weights() -> None:
    shutil.copytree("policy", "cut")
    weights = Path("cut/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])


RECORDED = '{"messages": [{"role": "user", "content": "hello a"}], "order": ["0", "1", "2"]}\n'
DEMONSTRATION = '{"messages": [{"role": "user", "content": "x"}], "responses": ["a", "b"], "order": [0, 1]}\n'

CASES = [
    # Configs
    Case("yaml syntax", ("broken.yaml:3", "not valid YAML"), config="name: broken\ndata: [1, 2\nseed: 1\n"),
    Case("key given twice", ("broken.yaml:8", "'name' is given twice"), config=CONFIG + "name: again\n"),
    Case(
        "unknown section", ("broken.yaml: unknown key los", "did you mean loss?"), config=CONFIG + "los: {name: pro}\n"
    ),
    Case("unknown key", ("unknown key loss.sft_weigth", "did you mean loss.sft_weight?"), ("loss.sft_weigth=2",)),
    Case("unknown loss", ("loss.name", "rrhf", "did you mean simpo?"), ("loss.name=sipmo",)),
    Case("wrong type", ("generator.candidates", "expected a whole number", '"three"'), ("generator.candidates=three",)),
    Case("out of range", ("generator.temperature", "expected a value > 0"), ("generator.temperature=0",)),
    Case("data.prompts missing", ("data.prompts: required",), ("data={}",)),
    Case("a loss that an order cannot feed", ("loss.name: pld needs magnitudes", "listmle"), ("loss.name=pld",)),
    Case("budget without price", ("black_box.price: needed",), ("black_box.budget_usd=1",)),
    Case("another variable for the key", ("black_box.api_key_env", "_API_KEY"), ("black_box.api_key_env=HOME",)),
    Case(
        "unknown training argument",
        ("training.learning_rte", "did you mean training.learning_rate?"),
        ("training.learning_rte=1",),
    ),
    Case(
        "training argument of a wrong type",
        ("training.warmup_steps: expected a number",),
        ("training.warmup_steps=few",),
    ),
    Case(
        "training argument that contradicts another",
        ("training.dataloader_prefetch_factor", "dataloader_num_workers"),
        ("training.dataloader_prefetch_factor=2",),
    ),
    Case("an override that is none", ("override 'loss.name'", "key=value"), ("loss.name",)),
    Case("unknown scorer", ("cycle.scorer", "sentence_similarity"), ("cycle.scorer=bleu",)),
    Case("output_dir is a file", ("output_dir", "file"), ("output_dir=file",), put("file", "")),
    Case("the run exists", ("runs/broken", "cyclealign resume runs/broken"), (), another_run),
    # Data
    Case("no such file", ("no file none.jsonl",), ("data.prompts=none.jsonl",)),
    Case("not JSON", ("prompts.jsonl:2: not JSON",), (), put("prompts.jsonl", '{"prompt": "a"}\n{"prompt": \n')),
    Case("not UTF-8", ("prompts.jsonl:1: not UTF-8",), (), put("prompts.jsonl", b'{"prompt": "\xff"}\n')),
    Case(
        "ends with the assistant",
        ("prompts.jsonl:1", "user turn"),
        (),
        put("prompts.jsonl", '{"messages": [{"role": "assistant", "content": "x"}]}\n'),
    ),
    Case(
        "no known column",
        ("prompts.jsonl:1", "expected columns", "got text"),
        (),
        put("prompts.jsonl", '{"text": "x"}\n'),
    ),
    Case("no prompt at all", ("prompts.jsonl holds no prompt",), (), put("prompts.jsonl", "\n")),
    Case("not the format", ("prompts.jsonl:1", "data.format hh_rlhf"), ("data.format=hh_rlhf",)),
    Case(
        "dialogue without its form",
        ("a.jsonl:1: rejected", "Human"),
        ("data.prompts=a.jsonl",),
        put("a.jsonl", f'{{"chosen": "{DIALOGUE}", "rejected": "x"}}\n'),
    ),
    Case("broken gzip", ("a.jsonl.gz:3", "gzip"), ("data.prompts=a.jsonl.gz",), put("a.jsonl.gz", CUT)),
    Case("broken parquet", ("a.parquet", "Parquet"), ("data.prompts=a.parquet",), put("a.parquet", "PAR1")),
    Case("no such hub dataset", ("'no-one/nothing'", "hub dataset"), ("data.prompts=no-one/nothing",)),
    Case("nothing held out", ("data.eval_prompts", "training prompt"), ("data.eval_prompts=prompts.jsonl",)),
    Case("no replies to warm up on", ("cycle.warm_start.sft",), ("cycle.warm_start.sft=prompts.jsonl",)),
    # Templates, demonstrations, models
    Case("no such template", ("template 'rnak'", "rank"), ("black_box.template=rnak",)),
    Case(
        "template without its candidates",
        ("t.yaml", "item", "{candidates}"),
        ("black_box.template=./t.yaml",),
        put("t.yaml", template(item="{conversation}")),
    ),
    Case(
        "template with an unknown placeholder",
        ("t.yaml", "{candidate}"),
        ("black_box.template=./t.yaml",),
        put("t.yaml", template(item="{conversation}{candidates}{candidate}")),
    ),
    Case(
        "template without a field",
        ("t.yaml", "instruction"),
        ("black_box.template=./t.yaml",),
        put("t.yaml", template(instruction=None)),
    ),
    Case("template that is not YAML", ("t.yaml",), ("black_box.template=./t.yaml",), put("t.yaml", "item: [")),
    Case("no demonstrations there", ("none.jsonl",), ("demonstrations.static=none.jsonl",)),
    Case(
        "a demonstration that ranks nothing",
        ("d.jsonl:2", "order"),
        ("demonstrations.static=d.jsonl",),
        put("d.jsonl", DEMONSTRATION + DEMONSTRATION.replace("[0, 1]", "[0, 0]")),
    ),
    Case("no such model", ("policy.model", "'./none'"), ("policy.model=./none",)),
    Case("a model directory without a model", ("policy.model",), ("policy.model=./empty",), put("empty/readme", "")),
    Case("no chat template there", ("policy.chat_template", "none.jinja"), ("policy.chat_template=none.jinja",)),
    Case(
        "a chat template that does not parse",
        ("policy.chat_template",),
        ("policy.chat_template=c.jinja",),
        put("c.jinja", "{% for m in messages %}"),
    ),
    Case(
        "LoRA modules that the model has not",
        ("policy.lora.target_modules", "nothing"),
        ("policy.lora.target_modules=[nothing]",),
    ),
    Case("nothing recorded", ("r.jsonl:1",), ("black_box={backend: replay, path: r.jsonl}",), put("r.jsonl", "{}\n")),
    Case("no reward model there", ("none",), ("black_box={backend: reward_model, path: ./none}",)),
    # Servers
    Case("wrong key", ("401", "key"), script=all_fail(401, "Incorrect API key")),
    Case("no such model on the server", ("404", "judge"), script=all_fail(404, "The model `judge` does not exist")),
    Case("a request that the server refuses", ("400",), script=all_fail(400, "Unknown parameter")),
    Case(
        "no key for a host that is not this one",
        ("$OPENAI_API_KEY: not set",),
        ("black_box.base_url=https://api.example.org/v1",),
    ),
    Case(
        "a generation server that is not there",
        ("generator", "127.0.0.1:9"),
        ("generator={backend: server, endpoints: ['http://127.0.0.1:9/v1'], max_new_tokens: 4}",),
    ),
    Case(
        "weights that were cut short",
        ("policy.model", "model.safetensors", "cut"),
        ("policy.model=./cut",),
        cut_weights,
    ),
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "policy")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which CONFIG would run, with a home and no key of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    Path("prompts.jsonl").write_text(PROMPTS)
    Path("policy").symlink_to(policy)
    return tmp_path


def one_line(captured: str) -> str:
    """The one line of stderr that is the error; progress lines may stand before it."""
    lines = captured.splitlines()
    assert "Traceback" not in captured
    errors = [line for line in lines if line.startswith("error: ")]
    assert errors == lines[-1:]
    return errors[0]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_broken_input(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    with Loopback(script=case.script) as server:
        Path("broken.yaml").write_text(case.config.replace("BASE_URL", server.url))
        case.prepare()
        capsys.readouterr()
        code = main(["run", "broken.yaml", *case.overrides])
        requests = server.requests
    line = one_line(capsys.readouterr().err)
    assert code == 2, line
    for words in case.says:
        assert words in line
    # A server that fails every call bills none; any other was not asked.
    assert len(requests) == 0 or case.script(0, requests[0]) is not None


def test_there_are_enough_of_each_kind() -> None:
    assert len(CASES) >= 25
    assert len({c.name for c in CASES}) == len(CASES)


def test_missing_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "nothing.yaml"]) == 2
    assert "nothing.yaml: no such file" in one_line(capsys.readouterr().err)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def web_page() -> Iterator[str]:
    """A server that is no API: a web page with status 200 for everything."""

    class Page(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>welcome</html>")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_that_is_no_api(web_page: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.yaml").write_text(CONFIG.replace("BASE_URL", web_page))
    assert main(["run", "broken.yaml"]) == 2
    assert web_page in one_line(capsys.readouterr().err)


def test_nothing_listens_as_a_real_process() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    Path("broken.yaml").write_text(CONFIG.replace("BASE_URL", url))
    code, output = finish(start("run", "broken.yaml"))
    assert code == 2
    assert url in one_line(output)


def test_a_broken_config_as_a_real_process() -> None:
    Path("broken.yaml").write_text(CONFIG + "sed: 3\n")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from cyclealign.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "run", "broken.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: broken.yaml: unknown key sed; did you mean seed?\n"
    assert done.stdout == ""
