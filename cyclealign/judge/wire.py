"""The wire form of requests to one endpoint and model: how they are put, not what they ask.

It begins with the provider's profile and follows what the server refuses; each step is a fact on the ledger, so that
it is found out once a run, whichever process does.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cyclealign.config.black_box import BlackBoxConfig
from cyclealign.judge.call import Options
from cyclealign.judge.failures import Failure
from cyclealign.judge.ledger import Ledger
from cyclealign.judge.providers import MAX_COMPLETION_TOKENS, MAX_TOKENS, ROOM, profile_of

log = logging.getLogger(__name__)
LENGTH_OPTIONS = (MAX_TOKENS, MAX_COMPLETION_TOKENS)
SEEDS = ("seed", "random_seed")
# What can be left out, or said by another name, without asking for anything else.
ADAPTED = (*LENGTH_OPTIONS, "temperature", *SEEDS)
# Limits of an answer, in tokens, that are tried one after the other where thinking used up what there was.
ROOMS = (2048, 8192, 32768)
LEAST_ROOM = 256
# A limit that is named beside one of these is too large a number, not an unknown field.
_TOO_MUCH = re.compile(
    r"too (?:large|big|high|many|long)|exceed|at most|maximum|less than|<=|out of range|larger than|> *[0-9]",
    re.IGNORECASE,
)
REFUSALS = (400, 404, 422, 500, 501)  # some servers of one's own answer a field that they do not know with 500


@dataclass(frozen=True, slots=True, kw_only=True)
class WireForm:
    """length, seed: the names that are tried first. temperature: whether ours is sent. refused: fields that the server
    does not take, with its words. room: least limit of an answer in tokens; 0: what the answer itself needs. most: the
    largest limit that the server takes, where it has refused one."""

    length: str
    seed: str
    temperature: bool
    refused: Mapping[str, str] = field(default_factory=dict)
    room: int = 0
    most: int | None = None

    def limit(self, needed: int) -> int:
        """The limit that is sent for an answer of ``needed`` tokens."""
        wanted = max(needed, self.room)
        return wanted if self.most is None else max(needed, min(wanted, self.most))

    def named(self, preferred: str) -> str:
        """The name of a limit or a seed where ``preferred`` is the first choice; empty: it is not sent."""
        if preferred not in self.refused:
            return preferred
        other = {MAX_TOKENS: MAX_COMPLETION_TOKENS, MAX_COMPLETION_TOKENS: MAX_TOKENS}.get(preferred, "")
        return "" if other in self.refused else other


def first_form(config: BlackBoxConfig) -> WireForm:
    """How a provider is asked before it has said anything."""
    profile = profile_of(config)
    fixed = bool(profile.fixed) and re.search(profile.fixed, config.model or "") is not None
    room = ROOM[config.reasoning] if config.reasoning else 0
    return WireForm(length=profile.length, seed=profile.seed, temperature=not fixed, room=room)


def refused_field(failure: Failure, options: Options) -> str | None:
    """Which of a request's fields a server says that it does not take; None where it speaks of none of them."""
    if failure.status not in REFUSALS or failure.moderation:
        return None
    said = f"{failure.code} {failure.detail}"
    # The longest first: ``reasoning_effort`` holds ``reasoning``.
    for name in sorted(options, key=len, reverse=True):
        if re.search(rf"(?<![a-z_]){re.escape(name)}(?![a-z_])", said):
            return name
    return None


class Wire:
    """The wire form as it is known now; its facts are shared by all who have the ledger."""

    def __init__(self, config: BlackBoxConfig, ledger: Ledger, endpoint: str, model: str) -> None:
        self._config = config
        self._ledger = ledger
        self._of = f"{endpoint} {model}"
        self.form = self._recalled(first_form(config))

    def adapt(self, failure: Failure, options: Options) -> bool:
        """Follow a refusal of a request with ``options``; whether there is another form to ask in.

        What the user's own ``request`` says stays as it is, but for the name of the limit and a seed.
        """
        name = refused_field(failure, options)
        if name in LENGTH_OPTIONS and _TOO_MUCH.search(failure.detail):
            return self._shorten(options[name], failure)
        if name not in ADAPTED or name in self.form.refused:
            return False
        if name == "temperature" and name in self._config.request:
            return False
        refused = {
            n: why for n, why in self.form.refused.items() if not (name in LENGTH_OPTIONS and n in LENGTH_OPTIONS)
        }
        self.form = replace(self.form, refused=refused | {name: failure.detail})
        for other in LENGTH_OPTIONS if name in LENGTH_OPTIONS else ():
            self._ledger.set_fact(self._fact(f"refuses {other}"), "")
        self._ledger.set_fact(self._fact(f"refuses {name}"), failure.detail)
        log.info("black_box: %s does not take %s (%s)", self._of, name, failure.detail)
        return True

    def widen(self, options: Options) -> bool:
        """More room, where an answer did not come within the limit of ``options``; whether there is any."""
        limits = [options[name] for name in LENGTH_OPTIONS if name in options]
        if not limits or any(name in self._config.request for name in LENGTH_OPTIONS):
            return False
        if self.form.room > max(limits):
            return True
        room = next((r for r in ROOMS if r > max(limits) and r <= (self.form.most or r)), None)
        if room is None:
            return False
        self.form = replace(self.form, room=room)
        self._ledger.set_fact(self._fact("room"), str(room))
        log.info("black_box: %s used up %s tokens before it answered; it gets %d", self._of, max(limits), room)
        return True

    def _shorten(self, limit: int, failure: Failure) -> bool:
        """Half of a limit that was too large, as far as it was ours; whether there is a smaller one."""
        if self.form.most is not None and self.form.most < limit:
            return self.form.limit(0) < limit  # another call has found it out
        if any(name in self._config.request for name in LENGTH_OPTIONS) or limit <= LEAST_ROOM:
            return False
        self.form = replace(self.form, most=limit // 2)
        self._ledger.set_fact(self._fact("most"), str(limit // 2))
        log.info("black_box: %s takes no limit of %d (%s)", self._of, limit, failure.detail)
        return True

    def _recalled(self, form: WireForm) -> WireForm:
        refused = {name: why for name in ADAPTED if (why := self._ledger.fact(self._fact(f"refuses {name}")))}
        room, most = self._ledger.fact(self._fact("room")), self._ledger.fact(self._fact("most"))
        return replace(
            form, refused=refused, room=max(form.room, int(room or 0)), most=None if most is None else int(most)
        )

    def _fact(self, what: str) -> str:
        return f"{what}: {self._of}"
