"""Which Python functions of their own this user has run: what a file from elsewhere names must not be run unasked."""

from __future__ import annotations

from cyclealign.files.user_state import Agreed
from cyclealign.rankers.own_code import Code

CODE = "code.json"


def remember_code(code: Code) -> None:
    """The user began a run with it, or resumed one with --trust-code: this function of these bytes may be run."""
    Agreed(CODE).add(code.digest, code.function)


def is_trusted(code: Code) -> bool:
    """Whether this user has run this very function before."""
    return code.function in Agreed(CODE).names(code.digest)
