# SPDX-License-Identifier: Apache-2.0
"""`python -m mooring_kernel`: launch a kernel, or with `install` install its kernelspec."""

from __future__ import annotations

import sys


def main(argv: list[str]) -> int:
    """Do what the arguments say, and return the exit status."""
    if argv[:1] == ["install"]:
        from .install import main as install

        return install(argv[1:])
    from .app import launch

    launch(argv)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
