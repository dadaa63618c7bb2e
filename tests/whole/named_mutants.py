"""Changes that the tests of an early version let live, each with a test that kills it now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class NamedMutant:
    """``old``, which stands once in ``file``, becomes ``new``. tests: names of tests, all of their parameters."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def changed(self, root: Path) -> bytes:
        text = (root / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: expected once in {self.file}: {self.old}")
        return text.replace(self.old, self.new).encode()


NAMED = (
    NamedMutant(
        "reserved_money_at_resume",
        "cyclealign/judge/ledger_tables.py",
        "(SELECT COALESCE(SUM(reserved_usd), 0.0) FROM calls",
        "(SELECT 0.0 FROM calls",
        ("tests/judge/test_ledger.py::test_a_reservation_that_does_not_fit_leaves_no_row",),
    ),
    NamedMutant(
        "scale_of_input_bounds",
        "cyclealign/judge/money.py",
        "math.ceil(self._input_scale * input_bound(call))",
        "input_bound(call)",
        ("tests/judge/test_money.py::test_what_is_billed_beyond_the_bounds_grows_the_worst_case",),
    ),
    NamedMutant(
        "both_output_limits",
        "cyclealign/judge/costs.py",
        "return max(limits, default=None)",
        "return limits[0] if limits else None",
        ("tests/judge/test_costs.py::test_options_and_their_bound",),
    ),
    NamedMutant(
        "worst_case_of_a_repair",
        "cyclealign/judge/costs.py",
        "repair = first + 2 * answer + 64",
        "repair = first",
        ("tests/judge/test_costs.py::test_the_worst_case_by_value",),
    ),
    NamedMutant(
        "synchronous",
        "cyclealign/judge/ledger_tables.py",
        "PRAGMA synchronous = NORMAL",
        "PRAGMA synchronous = OFF",
        ("tests/judge/test_ledger.py::test_a_commit_survives_the_process",),
    ),
    NamedMutant(
        "control_tokens_in_fences",
        "cyclealign/judge/prompting.py",
        "{ends}|{_HIDDEN}(?:{_CONTROL}))",
        "{ends})",
        ("tests/judge/test_prompting.py::test_neutralise_by_value",),
    ),
    NamedMutant(
        "bracketed_control_tokens_in_fences",
        "cyclealign/judge/prompting.py",
        "{fence}|{bracketed}|{label}",
        "{fence}|{label}",
        ("tests/judge/test_prompting.py::test_neutralise_by_value",),
    ),
    NamedMutant(
        "thinking_not_at_the_start",
        "cyclealign/judge/thinking.py",
        "_OPEN.search(rest)",
        "_OPEN.match(rest)",
        ("tests/judge/test_reading.py::test_thinking_begins_anywhere_and_is_open_until_it_is_closed",),
    ),
    NamedMutant(
        "kemeny_of_eight",
        "cyclealign/rankers/consensus.py",
        "KEMENY_LIMIT = 8",
        "KEMENY_LIMIT = 7",
        ("tests/rankers/test_agreement.py::test_kemeny_is_taken_up_to_eight_candidates",),
    ),
    NamedMutant(
        "epsilon_of_votes",
        "cyclealign/rankers/utilities.py",
        "VOTE_EPSILON = 0.01",
        "VOTE_EPSILON = 0.1",
        ("tests/rankers/test_agreement.py::test_vote_utilities",),
    ),
    NamedMutant(
        "margin_mse_in_the_students_width",
        "cyclealign/losses/margin_mse.py",
        "centred(scores.teacher, scores.valid).to(scores.student.dtype)",
        "centred(scores.teacher.to(scores.student.dtype), scores.valid)",
        ("tests/losses/test_losses_distillation.py::test_margins_keep_their_digits_under_a_large_teacher_offset",),
    ),
    NamedMutant(
        "ties_in_student_places",
        "cyclealign/losses/lambda_pairs.py",
        "roles_exchanged = replace(scores, student=scores.teacher, teacher=scores.student.detach())",
        "roles_exchanged = replace(scores, teacher=scores.student.detach())",
        ("tests/losses/test_losses_distillation.py::test_of_equal_students_the_teachers_better_one_stands_first",),
    ),
    NamedMutant(
        "rrhf_at_equality",
        "cyclealign/losses/rrhf.py",
        "torch.relu(-student_margins(scores))",
        "(-student_margins(scores)).clamp(min=0)",
        ("tests/losses/test_losses.py::test_rrhf_has_no_gradient_where_the_student_ties",),
    ),
)
