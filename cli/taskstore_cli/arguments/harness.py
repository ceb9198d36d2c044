"""Declares and reads the options of `eval`: a command, or lm-eval's tasks on a live model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from taskstore_cli.arguments.evaluator import Evaluator, evaluator_options, say

if TYPE_CHECKING:
    from taskstore.evaluation.bench import Bench

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Harness(Evaluator):
    """The options of an evaluator as they were given."""

    lm_eval: str | None
    include_path: Path | None
    limit: int | None
    num_fewshot: int | None
    batch: int
    apply_chat_template: bool
    device: str | None

    @contextmanager
    def scoring(self, tasks: Sequence[str], *, silent: bool) -> Iterator[Bench]:
        """What scores the models of a store; raises UsageError unless one of the two is given."""
        if (self.template is None) == (self.lm_eval is None):
            raise click.UsageError(
                "give --eval, a command of yours, or --lm-eval, tasks of lm-eval"
            )
        if self.lm_eval is None:
            yield self.bench(self.journal, silent=silent)
            return
        from taskstore.evaluation.bench import Bench
        from taskstore.evaluation.journal import Journal
        from taskstore.harness import LiveModels, LmEval

        asked = LmEval(
            tasks=[name.strip() for name in self.lm_eval.split(",") if name.strip()],
            limit=self.limit,
            include_path=self.include_path,
            num_fewshot=self.num_fewshot,
            batch_size=self.batch,
            apply_chat_template=self.apply_chat_template,
            key=self.key,
        )
        asked.check(tasks)
        with closing(LiveModels(asked, tasks, device=self.device)) as models:
            yield Bench(models, Journal(self.journal), label=asked.label, say=say(silent))


def harness_options(command: F) -> F:
    """Adds what is in `Harness`; the command gets it as `evaluator`."""
    more = (
        click.option(
            "--lm-eval",
            metavar="TASK,...",
            help="Score with these tasks of lm-eval (the extra lm-eval) instead of a command, on "
            "one live model that is swapped in place; {task} stands for the store's task.",
        ),
        click.option(
            "--include-path",
            type=click.Path(path_type=Path, exists=True, file_okay=False),
            help="Folder with task files (YAML) of yours for --lm-eval.",
        ),
        click.option(
            "--limit",
            type=int,
            metavar="N",
            help="The first N examples of each of lm-eval's tasks.  [default: all]",
        ),
        click.option(
            "--num-fewshot",
            type=click.IntRange(min=0),
            metavar="N",
            help="Examples in the prompt.  [default: as each of lm-eval's tasks says]",
        ),
        click.option(
            "--batch",
            type=int,
            default=1,
            show_default=True,
            help="Examples that lm-eval gives to the model at a time.",
        ),
        click.option(
            "--apply-chat-template",
            is_flag=True,
            help="Give lm-eval's prompts as turns of a chat, in the model's own template.",
        ),
        click.option(
            "--device",
            help="Of the live model: cpu, cuda, ...  [default: a GPU, if there]",
        ),
    )
    return evaluator_options(*more, required=False, into=Harness)(command)
