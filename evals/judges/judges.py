"""What the rankers that need no key are worth as judges, on the packaged lists: an example of `cyclealign judge`.

    python evals/judges/judges.py --out evals/results/judges.json [JUDGE ...] [key=value ...]

Without a judge: local and overlap. The result is what the command writes, without a record an item: the lists
themselves travel with the package.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from cyclealign.evaluation.judges import judges_result, measure_judges, named_judges
from cyclealign.evaluation.result import write_result
from cyclealign.files.labelled import JUDGE_LISTS, load_labelled
from cyclealign.reporting.judge_table import show_judges

SEED = 42


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("judges", nargs="*", default=["local", "overlap"])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    items = load_labelled(JUDGE_LISTS)
    rows, failed = measure_judges(named_judges(arguments.judges, seed=SEED), items, arguments.out)
    result = judges_result(rows, failed, items, data=JUDGE_LISTS, seed=SEED)
    write_result(arguments.out, replace(result, items=()))
    show_judges(result)


if __name__ == "__main__":
    main()
