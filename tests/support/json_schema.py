"""The published schema of --json, as a check."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator

SCHEMA = files("taskstore_cli.output") / "schema.json"


def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return found


@cache
def validator(kind: str) -> Draft202012Validator:
    """What checks the outputs of a command."""
    schema = document()
    assert kind in schema["$defs"], f"schema.json has no {kind!r}"
    return Draft202012Validator({**schema, "$ref": f"#/$defs/{kind}"})


def check(printed: dict[str, Any]) -> None:
    """Raise AssertionError where an output is not what schema.json says."""
    kind = printed["schema"].partition("/")[0]
    plain = json.loads(json.dumps(printed))
    for error in validator(kind).iter_errors(plain):
        place = "/".join(map(str, error.absolute_path)) or "the object"
        raise AssertionError(
            f"{kind} --json, {place}: {error.message[:400]}; "
            "change it, or cli/taskstore_cli/output/schema.json"
        )
