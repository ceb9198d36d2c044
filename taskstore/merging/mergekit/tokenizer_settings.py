"""What a recipe says of the tokenizer: whose it is, rows of single tokens, how many there are."""

from __future__ import annotations

from collections.abc import Mapping

from taskstore.merging.mergekit.fields import Node
from taskstore.merging.mergekit.named_models import model_path, same_model
from taskstore.merging.mergekit.vocabulary import BASE, UNION, Given, Wanted

MOST_ROWS = 1 << 20  # that a vocabulary is filled up to a multiple of


def tokenizer(fields: Mapping[str, Node], base: str, models: Mapping[str, str]) -> Wanted | None:
    """What is said of the tokenizer; None where the recipe does not."""
    source, members = fields.get("tokenizer_source"), dict[str, Node]()
    if "tokenizer" in fields:
        if source is not None:
            source.fail("stands beside tokenizer; give one of them")
        node = fields["tokenizer"]
        members = node.members(("source", "tokens", "pad_to_multiple_of"))
        source = members.get("source", node.child("source", UNION))
    if source is None:
        return None
    owner = source.value
    if owner not in (UNION, BASE):
        wanted = model_path(source)
        owner = next((name for name, model in models.items() if same_model(model, wanted)), BASE)
        if owner == BASE and not same_model(wanted, base):
            which = "models"
            if fields["merge_method"].value == "passthrough":
                which = "tokenizers that passthrough can take: union, or that of its first model"
            source.fail(f"is {wanted!r}, which is none of the {which}")
    multiple = 1
    if "pad_to_multiple_of" in members:
        multiple = members["pad_to_multiple_of"].whole(1, MOST_ROWS)
    tokens = members["tokens"].named() if "tokens" in members else {}
    given = {token: _given(node, base, models) for token, node in tokens.items()}
    return Wanted(str(owner), list(models), "base_model" in fields, given, multiple)


def _given(node: Node, base: str, models: Mapping[str, str]) -> Given:
    """The row of a token: of a model, of another token there, or zeros."""
    fields = node.members(("source", "force"))
    force = "force" in fields and fields["force"].flag()
    if "source" not in fields:
        node.fail("has no source, which is a model, {kind: zero}, or {kind: model_token, ...}")
    source, token = fields["source"], None
    if isinstance(source.value, dict) and "kind" in source.value:
        inner = source.members(("kind", "model", "token", "token_id"))
        kind = inner["kind"].text() if "kind" in inner else ""
        if kind not in ("zero", "model_token"):
            source.fail(f"is of kind {kind!r}; it can be zero or model_token")
        if kind == "zero":
            return Given(None, force=force)
        if "model" not in inner or ("token" in inner) == ("token_id" in inner):
            source.fail("names no model, or not one of token and token_id")
        token = inner["token_id"].whole(0) if "token_id" in inner else inner["token"].text()
        source = inner["model"]
    wanted = model_path(source)
    owner = next((name for name, model in models.items() if same_model(model, wanted)), None)
    if owner is None and not same_model(wanted, base):
        source.fail(f"is {wanted!r}, which is none of the models")
    return Given(owner or "", token, force)
