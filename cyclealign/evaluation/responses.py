"""Responses to evaluate: from a file, or sampled once from a policy and kept beside the result."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cyclealign.config.loading import parsed_section
from cyclealign.config.schema import GeneratorConfig, PolicyConfig
from cyclealign.evaluation.policies import find_policy
from cyclealign.files.columns import exchange, first_there
from cyclealign.files.foreign_json import json_rows
from cyclealign.files.jsonl import Appender, read_jsonl
from cyclealign.files.messages import is_messages, parted
from cyclealign.files.messages import messages as parsed_messages
from cyclealign.files.prompts import load_prompts
from cyclealign.files.records import decode
from cyclealign.files.run_records import PromptRecord, prompt_record
from cyclealign.files.thinking import answered
from cyclealign.judge.costs import JUDGE_TOKENS_PER_POLICY_TOKEN
from cyclealign.judge.prompting import LETTERS_PER_TOKEN
from cyclealign.types import Candidate, PolicyVersion, Prompt, UserError, derive_seed

TEXT_KEYS = ("response", "output", "reply", "completion")
FILE_ENDS = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
# Moderate, so that one sample says something of the policy; the seed makes it the same one again.
SAMPLING = {"candidates": 1, "temperature": 0.7, "top_p": 0.95, "max_new_tokens": 256}
CHUNK = 64


@dataclass(frozen=True, slots=True)
class Response:
    """``text``: the answer. ``thinking``: as in ``types.Candidate``."""

    prompt: Prompt
    text: str
    thinking: str | None = None

    @property
    def candidate(self) -> Candidate:
        return Candidate("0", self.text, thinking=self.thinking)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseRecord(PromptRecord):
    """A line of what is kept beside a result, below its head."""

    response: str
    thinking: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How responses are sampled from policies: prompts (as in ``data.prompts``) and the generator section's keys."""

    prompts: str | None
    options: tuple[str, ...] = ()
    limit: int | None = None
    seed: int = 42


def get_responses(spec: str, sampling: Sampling, keep: Path) -> dict[str, Response]:
    """Responses by prompt id: of the file ``spec``, or sampled from the policy ``spec`` and kept in ``keep``.

    Raises:
        UserError: a file that cannot be used; a policy without prompts; ``keep`` holds what another policy wrote.
    """
    if spec.endswith(FILE_ENDS):
        return load_responses(Path(spec), limit=sampling.limit)
    return _sampled(spec, sampling, keep)


def expected_responses(spec: str, sampling: Sampling, keep: Path, *, letter: str) -> dict[str, Response]:
    """For a dry run: the responses that are there already, or stand-ins as long as the policy may write.

    ``letter`` fills the stand-ins, so that those of two policies differ and would be judged. Raises as
    ``get_responses``.
    """
    if spec.endswith(FILE_ENDS):
        return load_responses(Path(spec), limit=sampling.limit)
    prompts = _prompts_for(spec, sampling)
    done = dict(_kept(keep))
    if all(p.id in done for p in prompts):
        return {p.id: done[p.id] for p in prompts}
    generator, _, _ = _sections(spec, sampling)
    tokens = generator.max_new_tokens * JUDGE_TOKENS_PER_POLICY_TOKEN
    longest = letter * math.ceil(tokens * LETTERS_PER_TOKEN)
    return {p.id: Response(p, longest) for p in prompts}


def load_responses(path: Path, *, limit: int | None = None) -> dict[str, Response]:
    """Responses by prompt id from JSONL: prompts as ``cyclealign.files.columns`` reads them; ``response``, ``output``,
    ``reply`` or ``completion``, or what the assistant says last in ``messages``.

    Of ``candidates`` or ``responses`` the first is taken; thinking in a text is set aside. UserError names file and
    line.
    """
    if not path.is_file():
        raise UserError(f"no file {path}; expected JSONL of responses")
    found: dict[str, Response] = {}
    for place, row in json_rows(path):
        if "responses_of" in row:
            continue  # our own head line
        messages, said = exchange(row, place)
        prompt = Prompt(messages)
        if prompt.id in found:
            raise UserError(f"{place}: a second response to one prompt; expected one each")
        text = _text(row, said, place)
        thought = row.get("thinking")
        reply = answered(Candidate("0", text, thinking=thought if isinstance(thought, str) else None))
        found[prompt.id] = Response(prompt, reply.text, reply.thinking)
        if len(found) == limit:
            break
    if not found:
        raise UserError(f"{path}: holds no response")
    return found


def _text(row: Mapping[str, object], said: str | None, place: str) -> str:
    """The response of a row; ``said``: the reply at the end of its messages, where there is one."""
    name = first_there(row, TEXT_KEYS)
    value = row[name] if name is not None else None
    lists = first_there(row, ("candidates", "responses"))
    several = row[lists] if lists is not None else None
    if value is None and isinstance(several, list) and several:
        value = several[0].get("text") if isinstance(several[0], dict) else several[0]
    if is_messages(value):
        _, value = parted(parsed_messages(value, place))
    if said is not None and value not in (None, said):
        raise UserError(f"{place}: the messages end with another reply than {name or lists}; take one of them out")
    value = said if value is None else value
    if not isinstance(value, str):
        raise UserError(f"{place}: expected {', '.join(TEXT_KEYS)} as text, candidates, or messages with a reply")
    return value


# Sampling -----------------------------------------------------------------------------------------------------


def _sampled(spec: str, sampling: Sampling, keep: Path) -> dict[str, Response]:
    """Chunk by chunk, each from its own seed: a killed eval goes on with the first chunk that is not whole."""
    prompts = _prompts_for(spec, sampling)
    section, policy, version = _sections(spec, sampling)
    head = {"responses_of": spec, "generator": section.model_dump(mode="json"), "seed": sampling.seed}
    _check_same(keep, head)
    done = dict(_kept(keep))
    chunks = [prompts[first : first + CHUNK] for first in range(0, len(prompts), CHUNK)]
    left = [(n, chunk) for n, chunk in enumerate(chunks) if any(p.id not in done for p in chunk)]
    if left:
        from cyclealign.generation.backend import build_generator

        generator = build_generator(section, policy, workdir=keep.parent)
        with Appender(keep) as file:
            if not done:
                file.add(head)
            for number, chunk in left:
                seed = derive_seed(sampling.seed, "eval", number)
                for item in generator.generate(chunk, version, seed=seed):
                    said = item.candidates[0] if item.candidates else Candidate("0", "")
                    if item.prompt.id not in done:
                        thought = {} if said.thinking is None else {"thinking": said.thinking}
                        file.add({**prompt_record(item.prompt), "response": said.text, **thought})
                        done[item.prompt.id] = Response(item.prompt, said.text, said.thinking)
        generator.close()
    return {p.id: done[p.id] for p in prompts}


def _prompts_for(spec: str, sampling: Sampling) -> list[Prompt]:
    if sampling.prompts is None:
        raise UserError(f"{spec}: is no .jsonl file of responses; to sample from it as a policy name --prompts")
    return load_prompts(sampling.prompts, limit=sampling.limit)


def _sections(spec: str, sampling: Sampling) -> tuple[GeneratorConfig, PolicyConfig, PolicyVersion]:
    """What a generator is built from, and the version that it serves."""
    policy = find_policy(spec)
    generator = parsed_section(GeneratorConfig, "generator", SAMPLING, sampling.options)
    if generator.candidates != 1:
        raise UserError(
            f"generator.candidates: an eval samples one reply a prompt, got {generator.candidates}; remove it"
        )
    made = policy.config.policy if policy.config else PolicyConfig(lora=None)
    return generator, made.model_copy(update={"model": policy.version.base}), policy.version


def _kept(keep: Path) -> Iterator[tuple[str, Response]]:
    for number, record in enumerate(read_jsonl(keep), start=1):
        if isinstance(record, dict) and "responses_of" in record:
            continue
        try:
            found = decode(ResponseRecord, record)
        except ValueError as error:
            raise UserError(f"{keep}:{number}: {error}; not as cyclealign wrote it: name another --out") from error
        yield found.prompt_id, Response(found.prompt, found.response, found.thinking)


def _check_same(keep: Path, head: Mapping[str, object]) -> None:
    first = next(read_jsonl(keep), None)
    if first is not None and first != json.loads(json.dumps(head)):
        by = first.get("responses_of") if isinstance(first, dict) else None
        raise UserError(f"{keep}: was written by {by!r} or other settings; name another --out")


def shared_prompts(sides: Sequence[Mapping[str, Response]]) -> list[str]:
    """Ids of the prompts that all sides answer, in the first one's order. UserError where there is none."""
    first, *others = sides
    ids = [i for i in first if all(i in other for other in others)]
    if not ids:
        raise UserError("the two sides answer no common prompt; the messages must be the same")
    return ids
