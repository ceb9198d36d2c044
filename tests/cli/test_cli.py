"""The command as a user runs it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from taskstore_cli.main import main
from taskstore_cli.output.console import size

import taskstore
from tests.support.families import Family


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def process(*words: object, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "taskstore_cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload, no-any-return]


def test_the_worked_example(small: Family, tmp_path: Path) -> None:
    store, out = tmp_path / "store", tmp_path / "out"
    tasks = [small.paths["alpha"], f"second={small.paths['beta']}", small.paths["gamma"]]
    done = run("pack", small.base_path, *tasks, "-o", store, "--lambda", 0.3, "--lambda",
               "second=0.5")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert f"taskstore info {store}\n" in done.output
    assert taskstore.open(store).manifest.tasks["second"].lam == 0.5
    assert taskstore.open(store).manifest.tasks["alpha"].lam == 0.3
    done = run("info", store)
    assert "second" in done.output and "\n\nsizes by part\n" in done.output
    assert "masks of 3 tasks" in done.output
    assert "x without the base)" in done.output
    assert "24 tensors rebuilt\n" in run("verify", store, "--deep").output
    assert run("unpack", store, "second", "-o", out).exit_code == 0
    assert (out / "model.safetensors").exists()
    assert run("unpack", store, "--all", "-o", tmp_path / "all").exit_code == 0
    assert sorted(os.listdir(tmp_path / "all")) == ["alpha", "gamma", "second"]
    assert run("unpack", store, "--base", "-o", tmp_path / "b", "--jobs", 1).exit_code == 0


def test_json_for_machines(small: Family, tmp_path: Path) -> None:
    store = tmp_path / "store"
    words = [small.base_path, *small.paths.values(), "-o", store, "--tiers", "mask"]
    packed = process("pack", *words, "--json")
    report = json.loads(packed.stdout)
    assert report["store"] == str(store)
    info = json.loads(process("info", store, "--json").stdout)
    assert (report.pop("schema"), info.pop("schema")) == ("pack/1", "info/1")
    assert info.pop("version") == taskstore.open(store).version
    assert {k: v for k, v in report.items() if k not in ("warnings", "notes", "advice")} == info
    assert info["store_bytes"] == sum(p.stat().st_size for p in store.rglob("*") if p.is_file())
    assert [t["name"] for t in info["tasks"]] == ["alpha", "beta", "gamma"]
    out = json.loads(process("unpack", store, "alpha", "-o", tmp_path / "m", "--json").stdout)
    assert out["models"] == {"alpha": str(tmp_path / "m")} and out["tiers"] == {"alpha": "mask"}
    assert [t["lambda"] for t in info["tasks"]] == [0.45] * 3 and info["method"] == "lsq"
    checked = json.loads(process("verify", store, "--deep", "--json").stdout)
    assert checked == {"schema": "verify/1", "ok": True,
                       "files": checked["files"], "tensors": 24, "problems": [],
                       "unlisted": [], "left_out": [], "lost": [],
                       "fidelity": checked["fidelity"],
                       "lower_fidelity": checked["lower_fidelity"]}  # fmt: skip
    assert checked["fidelity"] == {t["name"]: t["fidelity"] for t in info["tasks"]}
    assert checked["lower_fidelity"] == {t["name"]: t["lower_fidelity"] for t in info["tasks"]}


def test_what_is_unpacked_has_its_tier(small: Family, tmp_path: Path) -> None:
    """In text and JSON; the base has none. A store without masks was merged by nothing."""
    store = tmp_path / "store"
    run("pack", small.base_path, *small.paths.values(), "-o", store, "--tiers", "rest,exact")
    said = run("unpack", store, "alpha", "--tier", "rest", "-o", tmp_path / "rest").output
    assert "alpha, tier rest: approximate, " in said
    assert (
        "alpha, tier exact: exact\n" in run("unpack", store, "--all", "-o", tmp_path / "a").output
    )
    done = run("unpack", store, "--base", "-o", tmp_path / "b", "--json")
    assert json.loads(done.stdout)["tiers"] == {"base": None}
    info = json.loads(run("info", store, "--json").stdout)
    assert (info["method"], info["options"]) == (None, {})
    assert [t["lambda"] for t in info["tasks"]] == [None] * 3
    assert "merged by" not in run("info", store).output


def test_quiet_says_nothing(packed: Path, tmp_path: Path) -> None:
    for words in (
        ("verify", packed, "-q"),
        ("unpack", packed, "alpha", "-o", tmp_path / "m", "-q"),
    ):
        done = process(*words)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["info", "{tmp}/none"], "is not a taskstore store: there is no such folder"),
        (["unpack", "{store}", "alpah", "-o", "{tmp}/m"], "did you mean 'alpha'?"),
        (["unpack", "{store}", "alpha", "-o", "{store}"], "exists already"),
        (["unpack", "{store}", "alpha", "-o", "{tmp}/m", "--shard-size", "x"], "is not a size"),
        (["pack", "{base}", "-o", "{tmp}/s"], "no fine-tune is given"),
        (["pack", "{base}", "{tmp}/none", "-o", "{tmp}/s"], "no such folder or file"),
        (["pack", "{base}", "{base}", "-o", "{tmp}/s"], "is the base itself"),
        (["pack", "{base}", "{alpha}", "{alpha}", "-o", "{tmp}/s"], "'alpha' is given twice"),
        (["pack", "{base}", "a=", "-o", "{tmp}/s"], "'a=' names no model; give NAME=MODEL"),
        (["pack", "{base}", "../x={alpha}", "-o", "{tmp}/s"], "no such folder"),
        (["pack", "{base}", "..={alpha}", "-o", "{tmp}/s"], "must not start with '.'"),
        (["pack", "{base}", "{alpha}", "-o", "{tmp}/s", "--lambda", "x"], "'x' is not a number"),
        (["pack", "{base}", "{alpha}", "-o", "{tmp}/s", "--lambda", "b=1"], "'b', which is no"),
        (["pack", "{base}", "{alpha}", "-o", "{tmp}/s", "--max-memory", "1MB"], "too little"),
        (["pack", "{base}", "{alpha}", "-o", "{store}"], "exists already"),
    ],
)
def test_bad_input(
    words: list[str], message: str, small: Family, packed: Path, tmp_path: Path
) -> None:
    """Status 1 where a model or a store is to blame, 2 where the words of the command are."""
    usage = (
        "not a size",
        "given twice",
        "not a number",
        "which is no",
        "too little",
        "is given",
        "NAME=MODEL",
    )
    places = {"tmp": tmp_path, "store": packed, "base": small.base_path, **small.paths}
    done = run(*(word.format(**places) for word in words))
    assert done.exit_code == (2 if message.endswith(usage) else 1)
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage(packed: Path, tmp_path: Path) -> None:
    for words in (
        ("unpack", packed, "-o", tmp_path / "m"),
        ("unpack", packed, "alpha", "--base", "-o", tmp_path / "m"),
        ("pack",),
        ("nonsense",),
    ):
        assert run(*words).exit_code == 2


def test_a_damaged_store(packed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(packed, copy)
    path = copy / "base.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-70] ^= 1
    path.write_bytes(raw)
    done = run("verify", copy)
    assert done.exit_code == 1
    assert "damaged: base.safetensors is damaged" in done.stderr
    done = run("unpack", copy, "alpha", "-o", tmp_path / "m")
    assert done.exit_code == 1
    assert "base.safetensors is damaged" in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["copy"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_output_that_cannot_be_written(packed: Path, more: list[str]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "taskstore_cli", "info", str(packed), *more]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no space left") and done.stderr.count("\n") == 1


def test_a_full_disk(small: Family, packed: Path, tmp_path: Path) -> None:
    """The kernel refuses to let files grow, as it does on a full disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    for words in (
        ("pack", small.base_path, *small.paths.values(), "-o", tmp_path / "s", "--tiers", "mask"),
        ("unpack", packed, "alpha", "-o", tmp_path / "m"),
    ):
        done = process(*words, preexec_fn=limit)
        assert done.returncode == 1
        assert "no space left on the disk of" in done.stderr
        assert "Traceback" not in done.stderr
        assert list(tmp_path.iterdir()) == []


def test_completion(packed: Path) -> None:
    env = {
        **os.environ,
        "_TASKSTORE_COMPLETE": "bash_complete",
        "COMP_WORDS": f"taskstore unpack {packed} ",
        "COMP_CWORD": "3",
    }
    code = "from taskstore_cli.main import main; main(prog_name='taskstore')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.split() == ["plain,alpha", "plain,beta", "plain,gamma"]


def test_help_is_quick_and_needs_no_torch() -> None:
    code = (
        "import sys\nfrom taskstore_cli.main import main\n"
        "try:\n    main(['pack', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'taskstore.native', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_sizes_in_words() -> None:
    assert [size(n) for n in (0, 999, 1500, 2.5e9, 7e13)] == [
        "0 B", "999 B", "1.5 kB", "2.5 GB", "70.00 TB",
    ]  # fmt: skip


def test_load(packed: Path) -> None:
    done = run("load", packed, "beta")
    assert done.output.startswith("beta: 6 tensors, 5.4 kB on cpu, every checksum right\n")
    done = run("load", packed, "--base", "--time", "--repeat", 2)
    assert "median of 2" in done.output
    assert run("load", packed, "--base", "--quiet").output == ""
    found = json.loads(run("load", packed, "alpha", "--time", "--json").output)
    assert (found["task"], found["tensors"], len(found["seconds"])) == ("alpha", 6, 4)
    assert run("load", packed).exit_code == 2
    assert run("load", packed, "beta", "--base").exit_code == 2
    for words, message in (
        (("beta", "--device", "cuda:77"), "no device 'cuda:77'"),
        (("bta",), "did you mean 'beta'?"),
    ):
        failed = process("load", packed, *words)
        assert (failed.returncode, failed.stdout) == (1, "")
        assert message in failed.stderr
        assert "Traceback" not in failed.stderr
