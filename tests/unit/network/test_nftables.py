# SPDX-License-Identifier: Apache-2.0
"""A host without the library of nftables."""

from __future__ import annotations

import pytest

from mooring_agent.errors import MissingProgram
from mooring_agent.linux import nftables


def test_missing_library_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nftables, "LIBRARY", "libnothing.so.7")
    firewall = nftables.Nftables()  # is no error yet
    with pytest.raises(MissingProgram, match="install the package libnftables1"):
        firewall.run("list tables")
