"""`taskstore push` and `pull`: stores on a hub."""

from __future__ import annotations

from pathlib import Path

import click

from taskstore_cli.arguments import common
from taskstore_cli.arguments.command import command
from taskstore_cli.arguments.dry_run import dry_run_option
from taskstore_cli.output.console import Output, counted, print_json
from taskstore_cli.output.console import size as bytes_of


@command()
@click.argument("store", type=common.StorePath())
@click.argument("repository", metavar="ORG/FAMILY")
@click.option(
    "--private", is_flag=True, help="Make a private repository; refuse one that is public."
)
@click.option("--revision", metavar="BRANCH", help="Commit to this branch.  [default: main]")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead of a commit.")
@common.jobs_option
@common.says_options
@dry_run_option
def push(
    store: Path,
    repository: str,
    private: bool,
    revision: str | None,
    create_pr: bool,
    jobs: int | None,
    out: Output,
) -> None:
    """Put STORE into a repository of the Hugging Face hub, in one commit.

    Only what is not there yet is sent; files that STORE has no more are removed. The repository is
    made if need be. Nobody sees half of a store, and no commit of others is lost.

    \b
    taskstore push family org/family --private
    """
    from taskstore.hub.push import push as run

    opened = common.opened(store)
    with out.progress() as progress:
        report = run(
            opened,
            repository,
            private=private,
            revision=revision,
            create_pr=create_pr,
            jobs=jobs,
            progress=progress,
        )
    if out.as_json:
        print_json(report.to_dict())
    elif not out.quiet:
        click.echo(
            f"{report.url}: {counted(report.sent, 'file')} of {bytes_of(report.bytes)} sent, "
            f"{report.unchanged} there already, {report.removed} removed"
        )
        for note in report.notes:
            click.echo(note)


@command()
@click.argument("repository", metavar="ORG/FAMILY")
@click.argument("tasks", nargs=-1, metavar="[TASK]...")
@common.output_option("DIR", "Folder for the store, or of an earlier pull, which gets more.")
@common.jobs_option
@common.wait_option()
@common.says_options
@dry_run_option
def pull(
    repository: str, tasks: tuple[str, ...], target: Path, jobs: int | None, out: Output
) -> None:
    """Bring a store of the hub, or some TASKs of it, into a folder.

    Only the files that these tasks need are fetched, once: through the hub's cache.

    \b
    taskstore pull org/family billing -o family
    """
    from taskstore.hub.pull import pull as run
    from taskstore_cli.output.store import print_made

    done = run(repository, tasks or None, target, jobs=jobs)
    if out.as_json:
        print_json({"store": str(target), **done.summary().to_dict()})
    elif not out.quiet:
        print_made(str(target), done.summary())
