# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from harness.waiting import NotInTime, eventually


def test_it_returns_the_first_true_value() -> None:
    values = iter([0, "", "ready", "later"])
    assert eventually(lambda: next(values)) == "ready"


def test_a_failed_assertion_is_waited_out_and_told_at_the_end() -> None:
    def check() -> bool:
        raise AssertionError("two of three are up")

    with pytest.raises(NotInTime, match=r"^the fleet did not come true within 0\.05 s: two of three are up$"):
        eventually(check, 0.05, "the fleet")


def test_another_exception_is_not_swallowed() -> None:
    def check() -> bool:
        raise KeyError("name")

    with pytest.raises(KeyError):
        eventually(check, 5)
