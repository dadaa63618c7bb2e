"""A run over ranked lists that exist: one interaction without sampling and judging, measured before and after.

Every stage reads what is already on disk and does the rest: resuming a run is running it again.
"""

from __future__ import annotations

from pathlib import Path

from cyclealign.config.loading import dump_config
from cyclealign.config.schema import Config, ListsConfig
from cyclealign.cycle.export import write_merged
from cyclealign.cycle.keeping import put_best, timed
from cyclealign.cycle.kept_code import hand_on_loss, keep_own_loss, own_code, with_kept_loss
from cyclealign.cycle.learning_state import LearningState
from cyclealign.cycle.list_files import StoredExamples, StoredLists, take_lists
from cyclealign.cycle.run_metrics import Tracker, numbers
from cyclealign.cycle.team import Team, launch_team
from cyclealign.cycle.tracking import Tracking, TrainerRows
from cyclealign.evaluation.held_out_lists import held_out_list
from cyclealign.files.environment import record_environment
from cyclealign.files.held_out_lists import HeldOutList, held_out_means
from cyclealign.files.records import write_record, write_records
from cyclealign.files.run_dir import RunDir
from cyclealign.files.run_figures import train_row
from cyclealign.files.run_state import Kept, ListsTaken, Place
from cyclealign.models.chat_template import check_prompts
from cyclealign.models.checkpoints import check_weights
from cyclealign.models.policy import check_policy, load_tokenizer
from cyclealign.models.policy_files import resolve_model
from cyclealign.models.processes import is_main, process_count
from cyclealign.training.arguments import check_arguments, optimizer_steps
from cyclealign.training.policy_trainer import WhiteBox

MEASURED = 64  # held-out lists that are scored at once


class ListRun:
    """One run. ``run`` does what is missing and returns the directory."""

    def __init__(
        self, config: Config, run: RunDir, white_box: WhiteBox, team: Team, tracker: Tracker, start_model: str
    ) -> None:
        self.config = config
        self.run_dir = run
        self.team = team
        self._tracker = tracker
        self._start_model = start_model
        self._policy = LearningState(run, config.name, white_box, start_model)
        self._white_box = white_box

    def run(self) -> Path:
        """Measure, train, measure, keep."""
        try:
            self._evaluate(trained=0)
            self._train()
            self._evaluate(trained=1)
            self.team.share("keep_best", self._keep)
            self.team.finished(None)
        except BaseException as error:
            self.team.failed(error)
            raise
        finally:
            self._tracker.close()
            self.run_dir.unlock()
        return self.run_dir.path

    def _train(self) -> None:
        """A ranking-loss pass over the lists; the train log, written last, marks it done."""
        files = self.run_dir.interaction(0)
        lists = StoredLists(files)
        if self.team.share("train", lambda: files.trained, Place(interaction=0, prompts=len(lists))):
            self._policy.trained = 0
            return
        examples = StoredExamples(lists, votes=self.config.loss.needs == "votes")
        with timed(self.run_dir, self.team, "train", 0):
            report = self._policy.fit(0, files, examples)
        if self.team.is_main:
            write_records(files.train_log, map(train_row, report.logs))

    def _evaluate(self, *, trained: int) -> None:
        """The held-out lists under the policy's likelihood; nothing where none was held out."""
        found = self.run_dir.evaluation(trained) / "lists.jsonl"
        lists = StoredLists(self.run_dir.held_out)
        if not lists or self.team.share("evaluate", found.exists, Place(interaction=trained)):
            return
        self._policy.load()
        with timed(self.run_dir, self.team, "evaluate", trained):
            rows = [row for first in range(0, len(lists), MEASURED) for row in self._measured(lists, first)]
        if self.team.is_main:
            write_records(found, rows)
            self._tracker.log(numbers("eval_list_", held_out_means(rows)))

    def _measured(self, lists: StoredLists, first: int) -> list[HeldOutList]:
        chunk = lists[first : first + MEASURED]
        sets = [item for item, _ in chunk]
        own, start = (self._white_box.token_logprobs(sets, start_model=frozen) for frozen in (False, True))
        return [held_out_list(*pair, a, b) for pair, a, b in zip(chunk, own, start, strict=True)]

    def _keep(self) -> None:
        put_best(self.run_dir, self.run_dir.interaction(0).weights, check_weights)
        why = f"trained on all {len(StoredLists(self.run_dir.interaction(0)))} lists"
        record = Kept(trained=1, of=1, why=why, stopped=None, start_model=self._start_model)
        write_record(self.run_dir.kept_file, record)


def new_list_run(config: Config) -> ListRun:
    """A new run in ``config.run_dir``, with the config's ``lists``.

    Raises:
        UserError: the directory holds work, or a part cannot be built.
    """
    assert config.lists is not None
    run = RunDir(config.run_dir)
    if is_main():
        check_arguments(config)
        check_policy(config.policy)
        own = own_code(config)
        run.create(dump_config(config), processes=process_count())
        keep_own_loss(config, run, own)
    return list_run(config, run, config.lists)


def start_from_lists(config: Config, cycle: RunDir, team: Team) -> None:
    """A cycle's start model: its policy after a run over lists, which stands in the cycle's directory and is resumed
    with it. Called on every process."""
    assert config.lists is not None
    run = RunDir(config.run_dir)
    if team.is_main and run.kept() is None:
        if run.config.exists():
            run.lock()
        else:
            run.create(dump_config(config), processes=process_count())
        hand_on_loss(config, cycle, run)
    list_run(config, run, config.lists).run()
    team.share("warm_start", lambda: write_merged(config.policy, run, cycle.start))


def list_run(config: Config, run: RunDir, lists: ListsConfig) -> ListRun:
    """The parts, from what the run directory holds; the lists are taken into it where they are not there yet."""
    try:
        team = launch_team(run.state_file, judge=config.black_box.judge)
        team.share("building", lambda: record_environment(run.environment))
        base = resolve_model(config.policy.model)
        count = team.share("read_lists", lambda: _taken(config, run, lists).trained)
        steps = optimizer_steps(config, count, team.size)
        tracking = Tracking(config, run, total_steps=steps)
        rows = TrainerRows(tracking, team.progress)
        white_box = WhiteBox(
            with_kept_loss(config, run), base=base, total_steps=steps, seed=config.seed, callbacks=[rows]
        )
        return ListRun(config, run, white_box, team, tracking, base)
    except BaseException:
        run.unlock()
        raise


def _taken(config: Config, run: RunDir, lists: ListsConfig) -> ListsTaken:
    if (found := run.lists()) is not None:
        return found
    tokenizer = load_tokenizer(config.policy, config.generator.thinking)
    return take_lists(
        run,
        lists,
        config.loss,
        seed=config.seed,
        check_prompt=lambda prompt, place: check_prompts(tokenizer, [prompt], place),
    )
