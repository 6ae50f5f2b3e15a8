# SPDX-License-Identifier: Apache-2.0
"""A mirror of one suite that is like Ubuntu's, made of the packages of the host's Debian.

It has the suite's name, its components and a keyring package. `base-files` says that the system is Ubuntu,
`apt` wants Ubuntu's keyring; the suite is signed with a key of the mirror's own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from harness.web import served_directory
from mooring_agent.images.apt_sources import distribution_sources, host_sources

SUITE = "noble"
KEYRING = "usr/share/keyrings/ubuntu-archive-keyring.gpg"

_DEADLINE = 240.0  # seconds
_SIGNER = "Archive of a test <archive@example.com>"


class MirrorFailed(AssertionError):
    """A program that makes the mirror has failed."""


class UbuntuMirror:
    """The mirror's files below `root`; `keyring` is the file with its public key."""

    def __init__(self, root: Path, *, main: Iterable[str] = (), universe: Iterable[str] = ()) -> None:
        """Make it of what a smallest system needs, and of more packages in each of its two components."""
        self.root = root
        self.keyring = root / "keyring.gpg"
        self._gnupg = root / "gnupg"
        self._gnupg.mkdir(mode=0o700, parents=True)
        try:
            self._make_key()
            self._fill(tuple(main), tuple(universe))
            self._publish()
        finally:
            # GnuPG has started an agent.
            subprocess.run(
                ["gpgconf", "--homedir", str(self._gnupg), "--kill", "all"], timeout=_DEADLINE, check=False
            )

    def _make_key(self) -> None:
        self._gpg("--passphrase", "", "--quick-generate-key", _SIGNER, "rsa3072", "sign", "never")
        self._gpg("--output", str(self.keyring), "--export", _SIGNER)

    def _fill(self, main: tuple[str, ...], universe: tuple[str, ...]) -> None:
        """Fetch the packages into the pool, and make those that are Ubuntu's own."""
        apt = self.root / "apt"
        for name in ("state/lists/partial", "cache/archives/partial"):
            (apt / name).mkdir(parents=True)
        (apt / "status").touch()
        codename = _codename()
        sources = distribution_sources(host_sources(), codename, codename)
        (apt / "host.sources").write_text("\n".join(source.stanza() for source in sources))
        settings = {
            "Dir::State": apt / "state",
            "Dir::State::status": apt / "status",
            "Dir::Cache": apt / "cache",
            "Dir::Etc::sourcelist": apt / "host.sources",
            "Dir::Etc::sourceparts": "-",
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
        }
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        _call("apt-get", "--quiet", *options, "update")
        # The other one of usrmerge and usr-is-merged brings all of Perl.
        wanted = ("?essential", "apt", "usr-is-merged", *main, *universe)
        _call("apt-get", "--quiet", "--yes", "--download-only", *options, "install", *wanted)
        for component in ("main", "universe"):
            (self.root / "pool" / component).mkdir(parents=True)
        for package in (apt / "cache/archives").glob("*.deb"):
            component = "universe" if package.name.partition("_")[0] in universe else "main"
            package.rename(self.root / "pool" / component / package.name)
        self._change("base-files", _be_ubuntu)
        self._change("apt", _want_the_keyring)
        self._change("usr-is-merged", _do_not_insist)
        self._add_keyring_package()
        shutil.rmtree(apt)

    def _change(self, name: str, change: Callable[[Path], None]) -> None:
        """Take a package apart, and put it together again after a change."""
        (package,) = (self.root / "pool/main").glob(f"{name}_*.deb")
        tree = self.root / "work"
        _call("dpkg-deb", "--raw-extract", str(package), str(tree))
        change(tree)
        _call("dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(package))
        shutil.rmtree(tree)

    def _add_keyring_package(self) -> None:
        tree = self.root / "work"
        for place in (KEYRING, "etc/apt/trusted.gpg.d/ubuntu-keyring-2018-archive.gpg"):
            (tree / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.keyring, tree / place)
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN/control").write_text(
            "Package: ubuntu-keyring\nVersion: 2023.11.28.1\nArchitecture: all\nSection: misc\n"
            "Priority: important\nMaintainer: a test <x@example.com>\nDescription: keys of the archive\n"
        )
        package = self.root / "pool/main/ubuntu-keyring_2023.11.28.1_all.deb"
        _call("dpkg-deb", "--root-owner-group", "--build", str(tree), str(package))
        shutil.rmtree(tree)

    def _publish(self) -> None:
        """Write the indexes of the suite, and sign them."""
        architecture = _call("dpkg", "--print-architecture").strip()
        suite = self.root / "dists" / SUITE
        for component in ("main", "universe"):
            directory = suite / component / f"binary-{architecture}"
            directory.mkdir(parents=True)
            (directory / "Packages").write_text(
                _call("apt-ftparchive", "packages", f"pool/{component}", directory=self.root)
            )
        facts = {
            "Origin": "Ubuntu",
            "Label": "Ubuntu",
            "Suite": SUITE,
            "Codename": SUITE,
            "Architectures": architecture,
            "Components": "main universe",
        }
        options = [
            word
            for name, value in facts.items()
            for word in ("-o", f"APT::FTPArchive::Release::{name}={value}")
        ]
        (self.root / "Release").write_text(_call("apt-ftparchive", *options, "release", str(suite)))
        (self.root / "Release").rename(suite / "Release")
        self._gpg(
            "--local-user", _SIGNER, "--output", str(suite / "InRelease"), "--clear-sign", f"{suite}/Release"
        )

    def _gpg(self, *words: str) -> None:
        _call("gpg", "--homedir", str(self._gnupg), "--batch", "--quiet", *words)

    def served(self) -> AbstractContextManager[str]:
        """Serve it on the loopback; its URL."""
        return served_directory(self.root)


def _be_ubuntu(tree: Path) -> None:
    (tree / "usr/lib/os-release").write_text(
        f'NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\nVERSION_CODENAME={SUITE}\n'
    )


def _do_not_insist(tree: Path) -> None:
    """Ubuntu's base-files has the links that it insists on; Debian's has not."""
    (tree / "DEBIAN/preinst").unlink()


def _want_the_keyring(tree: Path) -> None:
    control = tree / "DEBIAN/control"
    text = control.read_text()
    assert "debian-archive-keyring" in text
    text = text.replace("debian-archive-keyring", "ubuntu-keyring")
    # An archive says it in an override; the smallest variants have what is required.
    control.write_text(text.replace("Priority: important\n", "Priority: required\n"))


def _codename() -> str:
    return _call("sh", "-c", '. /etc/os-release; echo "$VERSION_CODENAME"').strip()


def _call(*command: str, directory: Path | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_DEADLINE,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    if done.returncode != 0:
        raise MirrorFailed(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout
