"""A task of the store that goes, or changes, while it is added."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from taskstore_serving.api.answers import Refusal, present

from taskstore.errors import UnknownTask


@pytest.mark.parametrize(("goes", "status"), [(True, 404), (False, 409)])
def test_what_goes_or_changes_meanwhile_is_no_failure_of_the_server(
    goes: bool, status: int
) -> None:
    tasks = {"german"}

    def check(task: str) -> None:
        if task not in tasks:
            raise UnknownTask(task, list(tasks))

    with (
        pytest.raises(Refusal) as refused,
        present(lambda: SimpleNamespace(check_task=check), "german"),
    ):
        if goes:
            tasks.clear()
        raise KeyError("german")
    assert refused.value.status == status
