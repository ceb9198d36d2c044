"""--dry-run says what a command would read and write, refuses what it would, and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from taskstore_cli.main import main
from taskstore_cli.output.options import flag

import taskstore
from taskstore.packing.parts.driver import pack_part
from tests.support.families import Family, contents
from tests.support.hub.faults import Hub

READ_ONLY = {"log", "info", "verify", "load", "methods", "serve"}
WORDS = {
    "pack": "pack {base} {alpha} {beta} -o new/store",
    "tune": "tune {base} {alpha} {beta} -o new/store --eval 'touch ran {{model}}'",
    "unpack": "unpack {archive} --all -o new/models",
    "export": "export {archive} alpha -o new/models --ollama",
    "eval": "eval {archive} --eval 'touch ran {{model}}' --record val --journal new/journal",
    "add": "add {archive} {gamma}",
    "replace": "replace {archive} beta={gamma}",
    "rename": "rename {archive} alpha omega",
    "copy": "copy {archive} alpha -o new",
    "push": "push {archive} org/family",
    "pull": "pull org/family alpha -o new",
    "gc": "gc {archive}",
    "repair": "repair {archive} --from {alpha}",
    "remove": "remove {archive} alpha",
    "seal": "seal parted",
    "route": "route --servers a:1,b:2 --tasks-from {archive} -o new.cfg",
    "retier": "retier {archive} --tiers mask -o new/store",
    "merge": "merge {base} {alpha} {beta} --method ties -o new/model",
    "measure": "measure {base} --data data.jsonl -o new.safetensors",
    "report": "report {archive} -o page.html",
}
MORE = [
    "pack {base} {alpha} -o new --part 1/2",
    "pack {base} {alpha} -o new --target 0.9 --eval 'touch ran {{model}}'",
    "pack {base} {alpha} -o new --max-error A",
    "merge {archive} --method ties -o new/model",
    "merge {base} {alpha} {beta} --method ties --alpha 0.5,1 -o new/model --eval 'x {{model}}'",
    "merge {base} {alpha} {beta} --method greedy_soup -o new/model --eval 'touch ran {{model}}'",
    "eval {archive} alpha --original alpha={alpha} --base --eval 'touch ran {{model}}'",
    "retier {archive} --tiers mask,exact",
    "unpack {archive} alpha -o new --overwrite",
]


@pytest.fixture
def places(
    small: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> dict[str, Path]:
    """A folder of its own with an archive of two tasks."""
    monkeypatch.chdir(tmp_path)
    two = {name: small.paths[name] for name in ("alpha", "beta")}
    taskstore.pack(small.base_path, two, tmp_path / "archive", taskstore.PackOptions(tiers="exact"))
    hub.repositories.upload("org/family", tmp_path / "archive")
    pack_part(small.base_path, two, tmp_path / "parted", 1, 1)
    (tmp_path / "data.jsonl").write_text('{"text": "a"}\n')
    return {"archive": Path("archive"), "base": small.base_path, **small.paths}


def run(words: str, places: dict[str, Path]) -> Result:
    import shlex

    given = [word.format(**places) if "{" in word else word for word in shlex.split(words)]
    return CliRunner().invoke(main, given)


def test_every_command_that_writes_has_it() -> None:
    having = {n for n, c in main.commands.items() if "--dry-run" in map(flag, c.params)}
    assert having == set(main.commands) - READ_ONLY == set(WORDS)


@pytest.mark.parametrize("words", [*(w for n, w in WORDS.items() if n != "measure"), *MORE])
def test_nothing_is_written(words: str, places: dict[str, Path], tmp_path: Path) -> None:
    before = contents(tmp_path)
    done = run(f"{words} --dry-run", places)
    assert done.exit_code == 0, done.output
    assert contents(tmp_path) == before and not (tmp_path / "ran").exists()
    said = done.stdout.splitlines()
    assert said[-1].startswith("nothing was written")
    found = json.loads(run(f"{words} --dry-run --json", places).stdout)
    assert found["dry_run"] is True
    assert contents(tmp_path) == before
    for part in found["reads"]:
        assert f"would read   {part['path']}  ({part['files']} file" in done.stdout
        assert part["bytes"] > 0
    read = {part["path"] for part in found["reads"]}
    for part in found["writes"]:
        what = "would change" if part["path"] in read else "would write "
        assert f"{what} {part['path']}" in done.stdout
        assert part["replaces"] == (tmp_path / part["path"]).exists()


def test_what_is_elsewhere_is_told_as_it_was_written(places: dict[str, Path]) -> None:
    pushed, copied = (
        run(f"{words} --dry-run", places).stdout
        for words in (WORDS["push"], "copy hf://org/family new")
    )
    assert "would write  org/family\n" in pushed and "would change" not in pushed
    assert "would read   hf://org/family\n" in copied


def test_measure_writes_nothing(places: dict[str, Path], tmp_path: Path) -> None:
    """The base of this family is no model of transformers: that is refused as it would be."""
    before = contents(tmp_path)
    one, other = (run(WORDS["measure"] + more, places) for more in ("", " --dry-run"))
    assert (one.exit_code, one.output) == (other.exit_code, other.output)
    assert one.exit_code == 1 and contents(tmp_path) == before


def test_sizes_are_near(places: dict[str, Path], tmp_path: Path) -> None:
    for words in ("pack {base} {alpha} {beta} -o new --tiers exact", "unpack {archive} --all -o m"):
        about = json.loads(run(f"{words} --dry-run --json", places).stdout)["writes"][0]
        assert run(words, places).exit_code == 0
        target = tmp_path / about["path"]
        real = sum(p.stat().st_size for p in target.rglob("*.safetensors"))
        assert 0.5 * real < about["bytes"] < 1.5 * real


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        ("pack {base} {alpha} -o archive", 1, "archive exists already"),
        ("pack {base} nowhere -o new", 1, "no such folder"),
        ("pack {base} {alpha} -o new --lambda x", 2, "not a number"),
        ("tune {base} {alpha} -o archive --eval 'x {{model}}'", 1, "archive exists already"),
        ("tune {base} nowhere -o new --eval 'x {{model}}'", 1, "no such folder"),
        ("unpack archive nobody -o new", 1, "no task 'nobody'"),
        ("unpack archive alpha -o archive", 1, "archive exists already"),
        ("add archive {alpha}", 1, "is in archive already"),
        ("remove archive alpha beta --yes", 1, "would have no task left"),
        ("retier archive --tiers mask", 2, "would lose the fine-tunes"),
        ("report archive -o data.jsonl", 1, "data.jsonl exists already"),
        ("merge {base} {alpha} --method ties -o archive", 1, "archive exists already"),
        ("merge {base} {alpha} --method nothing -o new", 2, "no merge method 'nothing'"),
    ],
)
def test_it_refuses_what_the_command_refuses(
    words: str, status: int, why: str, places: dict[str, Path], tmp_path: Path
) -> None:
    before = contents(tmp_path)
    done = run(f"{words} --dry-run", places)
    assert (done.exit_code, done.stdout) == (status, "")
    assert why in done.stderr
    assert done.stderr == run(words, places).stderr
    assert contents(tmp_path) == before


def test_evaluations_are_counted(places: dict[str, Path]) -> None:
    for words, count in (
        (WORDS["tune"], 10),
        (WORDS["eval"], 2),
        ("eval archive alpha --base --original alpha={alpha} --eval 'x {{model}}'", 3),
    ):
        assert json.loads(run(f"{words} --dry-run --json", places).stdout)["evaluations"] == count
        assert f"would run {count} evaluations, at most" in run(f"{words} --dry-run", places).stdout
