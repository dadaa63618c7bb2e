"""``generator.engine``: vLLM's own arguments, refused by name and type before an engine is started."""

from __future__ import annotations

import importlib.util

import pytest

from cyclealign.config import engine_keys
from cyclealign.config.engine_keys import CODE, COMMON, OWNED, engine_arguments
from cyclealign.config.loading import check_resume_changes, load_config
from cyclealign.config.schema import Config
from cyclealign.types import UserError

WRONG = [
    ("{max_num_seqs: 1.5}", "max_num_seqs: expected a whole number or null, got 1.5"),
    ("{max_num_seqs: 0}", "max_num_seqs: expected a value >= 1, got 0"),
    ("{max_num_seqs: {a: 1}}", 'max_num_seqs: expected a whole number or null, got {"a": 1}'),
    ("{tensor_parallel_size: null}", "tensor_parallel_size: expected a whole number, got null"),
    ("{enforce_eager: 1}", "enforce_eager: expected true or false, got 1"),
    ("{gpu_memory_utilization: 90}", "gpu_memory_utilization: expected a share above 0 and at most 1, got 90"),
    ("{gpu_memory_utilization: true}", "gpu_memory_utilization: expected a number, got true"),
    ("{dtype: half}", "dtype: set by the run itself (see policy.dtype); remove it"),
    ("{trust_remote_code: true}", "trust_remote_code: can name code to be run, which a config must not; remove it"),
    ("{hf_token: secret}", "hf_token: set by the run itself (see `hf auth login`"),
    ("{_api_process_count: 2}", "_api_process_count: vLLM has no such argument"),
    ("{a b: 1}", "a b: vLLM has no such argument"),
]


def engine(text: str, *more: str) -> Config:
    return load_config("quickstart", [f"generator.engine={text}", "generator.backend=vllm", *more])


@pytest.fixture(params=["as installed", "without vLLM"])
def _vllm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without vLLM":
        monkeypatch.setattr(engine_keys, "engine_arguments", dict)


@pytest.mark.usefixtures("_vllm")
@pytest.mark.parametrize(("text", "complaint"), WRONG)
def test_wrong_arguments_are_one_line(text: str, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        engine(text)
    assert complaint in str(caught.value)
    assert str(caught.value).startswith("generator.engine")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("_vllm")
def test_right_arguments_stand_as_they_are() -> None:
    config = engine("{tensor_parallel_size: 2, gpu_memory_utilization: 1, max_num_seqs: null, enforce_eager: true}")
    assert config.generator.engine == {
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 1,
        "max_num_seqs": None,
        "enforce_eager": True,
    }
    assert load_config(
        "quickstart", ["generator.backend=vllm", "generator.engine.max_num_seqs=7"]
    ).generator.engine == {"max_num_seqs": 7}


def test_without_vllm_another_name_is_left_to_who_starts_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_keys, "engine_arguments", dict)
    assert engine("{max_num_seq: 3}").generator.engine == {"max_num_seq": 3}


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_names_are_those_of_the_installed_vllm() -> None:
    found = engine_arguments()
    assert found.keys() >= COMMON.keys() | OWNED.keys()
    assert len(found.keys() & set(CODE)) > len(CODE) / 2  # some are of other versions
    with pytest.raises(UserError, match=r"generator.engine.max_num_seq: .* did you mean generator.engine.max_num_seqs"):
        engine("{max_num_seq: 3}")
    with pytest.raises(UserError, match=r"its names are those of vllm.EngineArgs"):
        engine("{zzz: 3}")


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_common_types_are_vllms() -> None:
    found = engine_arguments()
    assert {name: found[name] for name, types in COMMON.items() if types is not None} == {
        name: types for name, types in COMMON.items() if types is not None
    }


def test_arguments_that_nobody_would_read_are_refused() -> None:
    with pytest.raises(UserError, match=r"generator.engine: used by vLLM only, got backend: transformers"):
        load_config("quickstart", ["generator.engine.max_num_seqs=7"])
    with pytest.raises(UserError, match=r"generator.engine.data_parallel_size: takes servers; start them by"):
        engine("{data_parallel_size: 2}")
    config = engine("{data_parallel_size: 2}", "generator.backend=server", "generator.endpoints=[http://a/v1]")
    assert config.generator.engine == {"data_parallel_size": 2}


def test_a_resumed_run_may_go_on_with_other_servers() -> None:
    one = engine("{}", "generator.backend=server", "generator.endpoints=[http://a/v1]")
    two = engine("{}", "generator.backend=server", "generator.endpoints=[http://b/v1,http://c/v1]")
    check_resume_changes(one, two)
    with pytest.raises(UserError, match=r"resume cannot change generator.engine.max_num_seqs"):
        check_resume_changes(
            one, engine("{max_num_seqs: 3}", "generator.backend=server", "generator.endpoints=[http://a/v1]")
        )
