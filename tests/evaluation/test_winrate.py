"""``cyclealign eval winrate``: judges of known taste on a real server, sampled policies, warnings, the page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from finished_run import finished_run
from loopback import Loopback, prefers, same_slot
from report_page import Page, every
from tiny_policy import save_tiny

from cyclealign.cli.main import main
from cyclealign.config.loading import load_config
from cyclealign.evaluation.policies import find_policy, taught_by
from cyclealign.evaluation.responses import Sampling, get_responses, load_responses
from cyclealign.rankers.by_name import ranker_spec
from cyclealign.types import UserError

Captured = pytest.CaptureFixture[str]
HARM = "<script>alert(1)</script><img src=https://example.invalid/x>"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def write(name: str, replies: list[str]) -> str:
    rows = [{"prompt": f"question {n}", "response": text} for n, text in enumerate(replies)]
    Path(name).write_text("".join(json.dumps(r) + "\n" for r in rows))
    return name


def winrate(a: str, b: str, *arguments: str) -> dict[str, Any]:
    assert main(["eval", "winrate", a, b, *arguments]) == 0
    result: dict[str, Any] = json.loads(Path("eval_winrate.json").read_text())
    return result


def openai(server: Loopback, *more: str) -> list[str]:
    return ["--ranker", "openai:judge", f"base_url={server.url}", *more]


def test_wins_ties_and_losses_by_hand() -> None:
    a = write("a.jsonl", ["a much longer reply", "longer here", "x", "same", "", "   "])
    b = write("b.jsonl", ["short", "no", "a longer one", "same", "something", ""])
    with Loopback(judge=prefers(len)) as server:
        result = winrate(a, b, *openai(server))
        assert len(server.requests) == 1 + 2 * 3  # the probe, and both orders of what a judge is needed for
    metrics = result["metrics"]
    assert (metrics["wins"], metrics["ties"], metrics["losses"]) == (2, 2, 2)
    assert metrics["win_rate"]["value"] == 0.5
    assert metrics["sign_test_p"] == 1.0
    assert metrics["judged"] == {"asked": 3, "equal_or_empty": 3}
    assert [i["value"] for i in result["items"]] == [1.0, 1.0, 0.0, 0.5, 0.0, 0.5]
    assert metrics["position_bias"]["flip_rate"]["value"] == 0.0
    assert metrics["lengths"]["a"]["mean_words"] == pytest.approx((4 + 2 + 1 + 1) / 6)


def test_a_judge_that_answers_by_slot_makes_ties() -> None:
    a, b = write("a.jsonl", [f"one {n}" for n in range(8)]), write("b.jsonl", [f"two {n}" for n in range(8)])
    with Loopback(judge=same_slot) as server:
        metrics = winrate(a, b, *openai(server))["metrics"]
        assert metrics["ties"] == 8
        assert metrics["win_rate"]["value"] == 0.5
        one_order = winrate(a, b, *openai(server, "passes=1"))
    assert any("one presentation order" in w for w in one_order["warnings"])


def test_a_side_that_is_always_longer_is_warned_of() -> None:
    a, b = write("a.jsonl", [f"long reply {n}" for n in range(12)]), write("b.jsonl", [f"{n}" for n in range(12)])
    with Loopback() as server:
        result = winrate(a, b, *openai(server))
    assert any("a is longer in more than 90%" in w for w in result["warnings"])


def test_a_judge_that_taught_the_model_is_warned_of(tmp_path: Path, capsys: Captured) -> None:
    run = finished_run(tmp_path / "made")
    kept = f"{run.path}"
    judge = ranker_spec("openai:judge").box
    assert "taught" in (taught_by(judge, kept) or "")
    assert taught_by(ranker_spec("openai:other").box, kept) is None
    assert taught_by(judge, "somewhere/else.jsonl") is None
    assert taught_by(judge, f"{kept}@start") is None
    config = load_config(run.path / "config.yaml").model_dump(mode="json")
    config["black_box"] |= {"backend": "cascade", "cascade": {"keep": 2}}
    (tmp_path / "cascaded" / "prompts").mkdir(parents=True)
    (tmp_path / "cascaded" / "config.yaml").write_text(json.dumps(config))
    assert "the judge (openai judge) taught" in (taught_by(judge, str(tmp_path / "cascaded")) or "")
    a = shutil.copy(write("a.jsonl", ["one", "two"]), run.path / "a.jsonl")
    b = write("b.jsonl", ["eins", "zwei"])
    with Loopback() as server:
        result = winrate(str(a), b, *openai(server))
    assert any("taught" in w for w in result["warnings"])
    assert "warning: the judge (openai judge) taught" in " ".join(capsys.readouterr().out.split())


def test_policies_are_sampled_once_and_kept(tmp_path: Path) -> None:
    policy = save_tiny(tmp_path / "policy")
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("hello", "good world")))
    sampling = Sampling(prompts="prompts.jsonl", options=("backend=transformers", "max_new_tokens=6"))
    kept = Path("kept.jsonl")
    first = get_responses(str(policy), sampling, kept)
    written = kept.read_text()
    assert [r.prompt.messages[0]["content"] for r in first.values()] == ["hello", "good world"]
    assert get_responses(str(policy), sampling, kept) == first
    assert kept.read_text() == written
    # A killed eval: the torn line goes, the rest of the chunk comes out the same again.
    kept.write_text("\n".join(written.splitlines()[:2]) + '\n{"torn')
    assert get_responses(str(policy), sampling, kept) == first
    assert load_responses(kept).keys() == first.keys()
    with pytest.raises(UserError, match="name another --out"):
        get_responses(str(policy), Sampling(prompts="prompts.jsonl"), kept)
    for line in ("1\n", "{}\n", '{"prompt_id": "p", "messages": []}\n'):
        kept.write_text(written.splitlines(keepends=True)[0] + line + line)
        with pytest.raises(UserError, match=r"^kept\.jsonl:2: .*name another --out"):
            get_responses(str(policy), sampling, kept)
    kept.write_text("1\n2\n")
    with pytest.raises(UserError, match="or other settings; name another --out"):
        get_responses(str(policy), sampling, kept)


def test_runs_name_their_product_and_their_start(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "made")
    kept, start = find_policy(str(run.path)), find_policy(f"{run.path}@start")
    assert kept.version.adapter == run.best / "adapter"
    assert kept.start == start.version.base == str(tmp_path / "made" / "policy")
    assert start.version.adapter is None
    adapter = find_policy(str(run.best / "adapter"))
    assert adapter.version.adapter == run.best / "adapter"
    (run.best / "kept.json").unlink()
    with pytest.raises(UserError, match="has not finished"):
        find_policy(str(run.path))


def test_the_page_holds_what_models_wrote_and_runs_none_of_it() -> None:
    a, b = write("a.jsonl", [HARM, "x" * 20_000, "\ud800 lone"]), write("b.jsonl", ["plain", "y", "z"])
    with Loopback() as server:
        winrate(a, b, *openai(server))
    text = Path("eval_winrate.html").read_text()
    root = Page(text).root
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;" in text
    assert "the first 4,000 of 20,000 characters" in text
    (policy,) = root.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert (policy.attributes["content"] or "").startswith("default-src 'none'")
    links = [str(a.attributes["href"]) for a in root.all("a")]
    assert links
    assert all(link.startswith("#") for link in links)
    ids = [n.attributes["id"] for n in every(root) if "id" in n.attributes]
    assert len(set(ids)) == len(ids)
    assert {link[1:] for link in links} <= set(ids)


def test_nobody_is_asked_where_no_judge_is_needed() -> None:
    a, b = write("a.jsonl", ["same", ""]), write("b.jsonl", ["same", "some"])
    metrics = winrate(a, b, "--ranker", "openai:judge", "base_url=http://127.0.0.1:9/v1")["metrics"]
    assert (metrics["wins"], metrics["ties"], metrics["losses"]) == (0, 1, 1)
    assert metrics["position_bias"] is None


def test_a_dry_run_prices_files_and_samples_nothing(capsys: Captured) -> None:
    a, b = write("a.jsonl", ["one", "same"]), write("b.jsonl", ["two", "same"])
    judge = ["--ranker", "openai:judge", "--dry-run"]
    assert main(["eval", "winrate", a, b, *judge]) == 0
    assert "1 sets, 2 paid calls" in capsys.readouterr().out
    assert main(["eval", "winrate", a, "some/model", *judge]) == 2
    assert "name --prompts" in capsys.readouterr().err


def test_a_dry_run_prices_policies_at_their_longest_replies(capsys: Captured) -> None:
    a = write("a.jsonl", ["one", "two", "three"])
    sampled = ["eval", "winrate", "some/model", "other/model", "--ranker", "openai:judge", "--prompts", a, "--dry-run"]

    def tokens_in(length: int) -> int:
        assert main([*sampled, "--generator", f"max_new_tokens={length}"]) == 0
        out = capsys.readouterr().out
        assert "3 sets, 6 paid calls" in out
        (told,) = re.findall(r"tokens: about ([\d,]+) in", out)
        return int(told.replace(",", ""))

    # Two responses in each of six calls, at most 1.6 tokens of the judge's for one of the policy's.
    assert tokens_in(300) - tokens_in(100) == pytest.approx(6 * 2 * 200 * 1.6, abs=24)
    assert not list(Path().glob("eval_winrate*"))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": "p"}], "expected response"),
        ([{"prompt": "p", "response": "a"}, {"prompt": "p", "response": "b"}], "second response"),
        ([], "holds no response"),
    ],
)
def test_bad_response_files_are_one_line(rows: list[Any], said: str) -> None:
    Path("bad.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(UserError, match=said):
        load_responses(Path("bad.jsonl"))


def test_prompts_without_a_counterpart_are_counted() -> None:
    a, b = write("a.jsonl", ["longer", "x", "y", "z"]), write("b.json", ["no", "b"])
    Path(b).write_text(json.dumps([json.loads(line) for line in Path(b).read_text().splitlines()]))
    with Loopback(judge=prefers(len)) as server:
        result = winrate(a, b, *openai(server))
    assert result["metrics"]["items"] == 2
    assert result["metrics"]["without_counterpart"] == {"a": 2, "b": 0}
    assert any("only one side answers them: 2 prompts of a and 0 of b" in line for line in result["warnings"])


def test_sides_without_a_common_prompt_are_refused(capsys: Captured) -> None:
    write("a.jsonl", ["one"])
    Path("b.jsonl").write_text(json.dumps({"prompt": "another", "response": "two"}) + "\n")
    assert main(["eval", "winrate", "a.jsonl", "b.jsonl", "--ranker", "local"]) == 2
    assert "no common prompt" in capsys.readouterr().err
