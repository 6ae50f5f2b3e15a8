# SPDX-License-Identifier: Apache-2.0
"""Jupyter's own test suite for kernels: an attribute that is not set skips its test, so all are set."""

from __future__ import annotations

import gc
import os
import warnings
from pathlib import Path
from typing import Any, ClassVar

import jupyter_kernel_test
import pytest

from mooring_kernel.magics import MAGICS

pytestmark = [
    pytest.mark.usefixtures("stand_in"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # its client leaves sockets to the collector
]


class TestMooringKernel(jupyter_kernel_test.KernelTests):
    kernel_name = "mooring"
    language_name = "bash"
    file_extension = ".sh"
    code_hello_world = "echo 'hello, world'"
    code_page_something = "%help --page"
    code_generate_error = "false"
    code_execute_result: ClassVar[list[dict[str, str]]] = [
        {"code": "%lsmagic", "result": "  ".join(f"%{name}" for name in MAGICS)},
        {"code": "%ps", "mime": "text/html"},
        {"code": "# named\n%hosts"},
    ]
    code_display_data: ClassVar[list[dict[str, str]]] = [{"code": "%ps\n%hosts", "mime": "text/html"}]
    code_history_pattern = "%lsm?gi*"
    supported_history_operations = ("tail", "range", "search")  # type: ignore[assignment]
    code_inspect_sample = "ls"
    code_clear_output = "clear; echo new"
    completion_samples: ClassVar[list[dict[str, Any]]] = [
        {"text": "%att", "matches": {"%attach"}},
        {"text": "base6", "matches": {"base64"}},
        {"text": "cat 'a fi", "matches": {"'a file"}},
        {"text": "%attach local/w", "matches": {"local/web1"}},
    ]
    complete_code_samples: ClassVar[list[str]] = [
        *("echo a", "if true; then\n  echo b\nfi", "%ps", "cat <<E\na\nE"),
    ]
    incomplete_code_samples: ClassVar[list[str]] = ["if true; then", "echo 'a", "cat <<E\na", "ls \\", "ls |"]
    invalid_code_samples: ClassVar[list[str]] = [")", "done", "if ; then"]

    @property
    def code_stderr(self) -> str:  # type: ignore[override]
        return f"%fleet {self.base}/odd.ini"

    @property
    def base(self) -> Path:
        return Path(os.environ["JUPYTER_DATA_DIR"]).parent

    @classmethod
    def tearDownClass(cls) -> None:
        super().tearDownClass()
        let_go(cls)

    def setUp(self) -> None:
        (self.base / "work" / "a file").touch()
        (self.base / "odd.ini").write_text("web1 ansible_connection=winrm\n")
        self.flush_channels()
        reply, _ = self.execute_helper(f"%fleet local {self.base}/agent.sock\n%attach web1")
        assert reply["content"]["status"] == "ok", reply["content"]


class TestWelcome(jupyter_kernel_test.IopubWelcomeTests):
    kernel_name = "mooring"
    support_iopub_welcome = True

    @classmethod
    def tearDownClass(cls) -> None:
        super().tearDownClass()
        let_go(cls)


def let_go(cls: type[Any]) -> None:
    """Collect the client of a class now: it leaves sockets open, and nobody else is to be blamed for that."""
    del cls.kc, cls.km
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
