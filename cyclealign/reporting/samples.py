"""What models wrote: replies before and after, and candidates with the places that both rankers gave them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cyclealign.files.records import read_records
from cyclealign.files.run_dir import InteractionDir, RunDir
from cyclealign.files.run_records import Verdict, read_sets, read_verdicts
from cyclealign.rankers.agreement import Agreement
from cyclealign.reporting.figures import Facts
from cyclealign.reporting.filters import Filter, filtered
from cyclealign.reporting.markup import Html, details, join, passage, tag
from cyclealign.reporting.reasons import reasons_given
from cyclealign.types import OWN_REPLY, Candidate, CandidateSet, Message, Ranking, Reason

COMPARED = 24  # prompts before and after
RANKED = 8  # prompts of one interaction with both rankings
INTERACTIONS = 6  # interactions of which rankings are shown
OPEN_REPLIES = 2  # replies of one policy that are shown at once; the others open on demand

REWARD = Filter(
    "samples", "reward", "Reward", {"risen": "risen", "fallen": "fallen", "same": "the same", "none": "not measured"}
)
OUTCOME = Filter(
    "rankings",
    "outcome",
    "Both rankings",
    {
        "settled": "the same",
        "agreed": "agree more than by chance",
        "apart": "agree no more than by chance",
        "unranked": "not ranked",
        "open": "not compared yet",
    },
)


def interaction_filter(run: RunDir) -> Filter:
    """By the interactions of which rankings are shown, the latest first."""
    shown = _shown_interactions(run)
    return Filter("rankings", "interaction", "Interaction", {str(n): str(n) for n in (int(i.path.name) for i in shown)})


def before_and_after(run: RunDir, facts: Facts) -> Html | None:
    """Replies of the start model and of the kept one to the same prompts: the first of the reporting half."""
    start, trained = read_sets(run.evaluation(0) / "candidates.jsonl"), facts.compared
    then = read_sets(run.evaluation(trained) / "candidates.jsonl") if trained else {}
    shown = [i for i in facts.halves.reporting(facts.halves.position) if i in start][:COMPARED]
    if not shown:
        return None
    note = f"The first {len(shown)} held-out prompts of the reporting half, not chosen; seeds as before."
    articles = [
        (
            {"reward": _movement(facts, i, trained)},
            join(
                [
                    conversation(start[i].prompt.messages),
                    tag(
                        "div",
                        replies("start model", start[i], facts, 0),
                        replies(f"{facts.label} model", then[i], facts, trained) if trained and i in then else None,
                        class_="pair",
                    ),
                ]
            ),
        )
        for i in shown
    ]
    return join([tag("p", note, class_="note"), filtered([REWARD], articles)])


def _movement(facts: Facts, prompt_id: str, trained: int | None) -> str:
    before, after = (facts.rewards(n).get(prompt_id) for n in (0, trained))
    if before is None or after is None:
        return "none"
    return "same" if before == after else "risen" if after > before else "fallen"


def replies(title: str, item: CandidateSet, facts: Facts, trained: int) -> Html:
    """One model's replies to a prompt, with their mean reward where there is one."""
    score = facts.rewards(trained).get(item.prompt.id)
    head = title if score is None else f"{title}, mean reward {score:.3f}"
    texts = [said(c) for c in item.candidates]
    more = details(f"{len(texts) - OPEN_REPLIES} more", *texts[OPEN_REPLIES:]) if texts[OPEN_REPLIES:] else None
    why = f"no answer: {item.unfinished} samples never left their thinking" if item.unfinished else ""
    empty = None if texts else tag("p", why or "no reply that is not empty", class_="note")
    return tag("section", tag("h4", head), *texts[:OPEN_REPLIES], more, empty)


def said(candidate: Candidate) -> Html:
    """An answer; what the policy thought before it, which nobody was shown, on demand."""
    if not (candidate.thinking or "").strip():
        return passage(candidate.text)
    return join([details("thinking", passage(str(candidate.thinking))), passage(candidate.text)])


def rankings(run: RunDir) -> Html | None:
    """Candidates side by side in the black box's order, with the places that both rankers gave them."""
    articles = [article for interaction in _shown_interactions(run) for article in _of_interaction(run, interaction)]
    if not articles:
        return None
    note = (
        f"At most {RANKED} prompts of an interaction, as even over the outcomes as they come; a candidate's letter is"
        " its place in the file. Scores of the white box: mean log-likelihood, nats a token."
    )
    return join([tag("p", note, class_="note"), filtered([interaction_filter(run), OUTCOME], articles)])


def _shown_interactions(run: RunDir) -> list[InteractionDir]:
    """The latest, the first, and some between them, evenly spaced; of those that have verdicts. Latest first.

    None of lists that exist: one ranker ranked them, and they are of any number.
    """
    if run.lists_file.exists():
        return []
    found = [i for i in run.interactions() if read_verdicts(i.black_box)]
    if len(found) > INTERACTIONS:
        places = {round(n * (len(found) - 1) / (INTERACTIONS - 1)) for n in range(INTERACTIONS)}
        found = [found[n] for n in sorted(places)]
    return found[::-1]


def _of_interaction(run: RunDir, interaction: InteractionDir) -> Iterator[tuple[Mapping[str, str], Html]]:
    sets, black = read_sets(interaction.candidates), read_verdicts(interaction.black_box)
    white = read_verdicts(interaction.white_box)
    agreed = {a.prompt_id: a for a in read_records(Agreement, interaction.agreement)}
    ids = [p.id for p in run.train_prompts() if p.id in sets and p.id in black]
    outcomes = {i: outcome(black[i], agreed.get(i)) for i in ids}
    for i in even_choice(outcomes, RANKED):
        about = {"interaction": str(int(interaction.path.name)), "outcome": outcomes[i]}
        yield about, _ranked(sets[i], black[i], white.get(i), agreed.get(i), about["interaction"])


def outcome(black: Verdict, agreed: Agreement | None) -> str:
    """The value of ``OUTCOME`` for a prompt, from the black box's verdict and its agreement with the white box."""
    if not isinstance(black, Ranking):
        return "unranked"
    if agreed is None:
        return "open"
    if agreed.settled:
        return "settled"
    return "agreed" if agreed.corrected > 0 else "apart"


def even_choice(outcomes: Mapping[str, str], limit: int) -> list[str]:
    """At most ``limit`` ids, taken in turn from each outcome; in their order."""
    queues = {o: [i for i, own in outcomes.items() if own == o] for o in dict.fromkeys(outcomes.values())}
    turns = [(turn, i) for queue in queues.values() for turn, i in enumerate(queue)]
    place = {i: n for n, i in enumerate(outcomes)}
    chosen = sorted(turns, key=lambda t: (t[0], place[t[1]]))[:limit]
    return sorted((i for _, i in chosen), key=place.__getitem__)


def _ranked(
    item: CandidateSet, black: Verdict, white: Verdict | None, agreed: Agreement | None, interaction: str
) -> Html:
    order = black.order if isinstance(black, Ranking) else item.ids
    ids = [*order, *(i for i in item.ids if i not in order)]
    letters = {i: "own reply" if i == OWN_REPLY else letter(n) for n, i in enumerate(item.ids)}
    common = agreed.ids if agreed else ()
    lines = [f"interaction {interaction}"]
    if isinstance(black, Ranking):
        lines.append(f"black box {_spelled(black, letters)}{_by_whom(black, letters)}")
    else:
        lines.append(f"not ranked by the black box: {black.reason}. {black.detail}")
    if isinstance(white, Ranking):
        lines.append(f"white box {_spelled(white, letters)}")
    if agreed:
        lines.append(f"agreed {' > '.join(letters[i] for i in common)} ({agreed.corrected:+.2f} against chance)")
    by_id = {c.id: c for c in item.candidates}
    cards = [tag("section", tag("h4", _head(letters[i], i, black, white, i in common)), said(by_id[i])) for i in ids]
    return join(
        [
            tag("p", " · ".join(lines), class_="note"),
            conversation(item.prompt.messages),
            tag("div", *cards, class_="pair ranked"),
            reasons_given([(r.text, [letters[i] for i in r.shown]) for r in _reasons(black)]),
        ]
    )


def _reasons(black: Verdict) -> Sequence[Reason]:
    return black.reasons if isinstance(black, Ranking) else ()


def letter(n: int) -> str:
    """A, B, … Z, A1, B1, …"""
    return chr(ord("A") + n % 26) + (str(n // 26) if n >= 26 else "")


def _spelled(ranking: Ranking, letters: Mapping[str, str]) -> str:
    return " > ".join(" = ".join(letters[i] for i in tier) for tier in ranking.tiers)


def _by_whom(black: Ranking, letters: Mapping[str, str]) -> str:
    """What of a ranking a cascade's local ranker gave; empty where it is all the judge's."""
    pruned = [letters[i] for i in black.order if i not in black.judged]
    if not pruned:
        return ""
    return " (by the cascade alone)" if not black.judged else f" ({', '.join(pruned)} pruned by the cascade)"


def _head(name: str, candidate: str, black: Verdict, white: Verdict | None, agreed: bool) -> str:
    places = [(box, _place(verdict, candidate)) for box, verdict in (("black box", black), ("white box", white))]
    parts = [name, *(f"{box} {place}" for box, place in places if place), *(["agreed"] if agreed else [])]
    return " · ".join(parts)


def _place(verdict: Verdict | None, candidate: str) -> str:
    """Place from 1, with the score where the ranker has one; empty where it did not rank the candidate."""
    if not isinstance(verdict, Ranking):
        return ""
    place = next((n for n, tier in enumerate(verdict.tiers, start=1) if candidate in tier), None)
    if place is None:
        return ""
    score = (verdict.scores or {}).get(candidate)
    return str(place) if score is None else f"{place} ({score:.3f})"


def conversation(messages: Sequence[Message]) -> Html:
    """The last turn, with the turns before it on demand."""
    *earlier, last = messages
    turns = [tag("div", tag("b", m["role"]), passage(m["content"])) for m in earlier]
    before = details(f"{len(turns)} earlier turn{'s' if len(turns) > 1 else ''}", *turns) if turns else None
    return tag("div", before, tag("b", last["role"]), passage(last["content"]), class_="prompt")
