# SPDX-License-Identifier: Apache-2.0
"""The commands that are about images."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .grammar import add_command, add_group

if TYPE_CHECKING:
    from .grammar import Commands


def images(commands: Commands) -> None:
    """Images on this host."""
    add_command(commands, "images", "list images", "images.ls", output=True)
    group = add_group(commands, "image", "make, list and remove images")
    add_command(group, "ls", "list images", "images.ls", output=True)
    imported = add_command(group, "import", "make an image from a root file system", "images.imported")
    imported.add_argument(
        "source", metavar="PATH|-", help="a tar file, a squashfs or a directory on the host, or - for stdin"
    )
    imported.add_argument("reference", metavar="NAME[:TAG]")
    imported.add_argument("--metadata", metavar="PATH", help="metadata of an LXC image, on the host")
    template = add_command(group, "template", "make an image from a template", "images.template")
    template.add_argument("template", choices=("busybox", "debian", "ubuntu"))
    template.add_argument("reference", metavar="NAME[:TAG]")
    template.add_argument("--suite", metavar="NAME", help="the release, such as bookworm")
    template.add_argument("--variant", metavar="NAME", help="how much is in it, such as minbase")
    template.add_argument("--package", action="append", default=[], metavar="NAME", help="a package to add")
    template.add_argument("--mirror", metavar="URL", help="where packages come from; else the host's mirrors")
    template.add_argument("--component", action="append", default=[], metavar="NAME", help="as main")
    template.add_argument("--max-age", metavar="AGE", help="build it anew if it is older, such as 7d")
    for command in (imported, template):
        command.add_argument("--cmd", metavar="COMMAND", help="what runs by default")
        command.add_argument("--entrypoint", metavar="COMMAND")
        command.add_argument("-e", "--env", action="append", default=[], metavar="K=V")
        command.add_argument("-w", "--workdir", metavar="DIR")
        command.add_argument("-u", "--user", metavar="USER[:GROUP]")
        command.add_argument("-l", "--label", action="append", default=[], metavar="K=V")
        command.add_argument("--expose", action="append", default=[], metavar="PORT[/udp]")
        command.add_argument("--dry-run", action="store_true", help="say what would be done")
    rm = add_command(group, "rm", "remove images", "images.remove")
    rm.add_argument("names", nargs="+", metavar="NAME")
    _image_moves(group)


def _image_moves(group: Commands) -> None:
    pull = add_command(group, "pull", "pull images from their registries", "imagemoves.pull")
    pull.add_argument("names", nargs="+", metavar="NAME[:TAG|@DIGEST]")
    pull.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help="other than that of the host")
    push = add_command(group, "push", "push an image to a registry, unless it is there", "imagemoves.push")
    push.add_argument("name", metavar="NAME[:TAG]")
    push.add_argument("--to", metavar="NAME[:TAG]", help="under this name")
    push.add_argument("--dry-run", action="store_true", help="say what would be done")
    for command in (pull, push):
        _credentials(command)
    save = add_command(group, "save", "write images as an archive", "imagemoves.save")
    save.add_argument("names", nargs="+", metavar="NAME")
    save.add_argument("-o", "--output", metavar="FILE", help="(default: standard output)")
    load = add_command(group, "load", "take in the images of an archive", "imagemoves.load")
    load.add_argument("-i", "--input", metavar="FILE", help="(default: standard input)")
    tag = add_command(group, "tag", "give an image one more name", "imagemoves.tag")
    tag.add_argument("name", metavar="NAME|ID")
    tag.add_argument("reference", metavar="NAME[:TAG]")
    history = add_command(group, "history", "show how an image was made", "imagemoves.history", output=True)
    history.add_argument("name", metavar="NAME")
    verify = add_command(group, "verify", "read all of an image, or of all images", "imagemoves.verify")
    verify.add_argument("name", nargs="?", metavar="NAME")
    verify.add_argument("--repair", action="store_true", help="fetch what is damaged again")
    prune = add_command(group, "prune", "delete images that no container uses", "imagemoves.prune")
    prune.add_argument("-a", "--all", action="store_true", help="those with a name, too")
    prune.add_argument("--until", metavar="TIME", help="only those made before")
    prune.add_argument(
        "--label", action="append", default=[], metavar="K[=V]", help="only those with this label"
    )
    prune.add_argument(
        "--without-label", action="append", default=[], metavar="K[=V]", help="only those without it"
    )
    inspect = add_command(group, "inspect", "show all about images", "containers.inspect")
    inspect.set_defaults(type="image")
    inspect.add_argument("names", nargs="+", metavar="NAME")
    inspect.add_argument("-o", "--output", choices=("json", "yaml"), default="json")


def registry(commands: Commands) -> None:
    """Images at their registries."""
    group = add_group(commands, "registry", "ask about images at their registries, and remove them there")
    tags = add_command(group, "tags", "list the tags that a repository has", "registry.tags", output=True)
    tags.add_argument("name", metavar="NAME")
    rm = add_command(group, "rm", "remove images from their registries", "registry.remove")
    rm.add_argument("names", nargs="+", metavar="NAME:TAG|NAME@DIGEST")
    rm.add_argument("-f", "--force", action="store_true", help="and other tags of the same manifest, too")
    rm.add_argument("--dry-run", action="store_true", help="say what would be done")
    for command in (tags, rm):
        _credentials(command)


def peers(commands: Commands) -> None:
    """Who shares images with this host."""
    group = add_group(commands, "peers", "the hosts with which this one shares what it holds of images")
    add_command(group, "show", "show them", "peers.show", output=True)
    declare = add_command(group, "set", "say who they are, in place of those of before", "peers.declare")
    declare.add_argument("--listen", required=True, metavar="HOST:PORT", help="where to serve")
    declare.add_argument(
        "--address", metavar="HOST:PORT", help="how others reach it (default: as it listens)"
    )
    declare.add_argument(
        "--member", action="append", default=[], metavar="HOST:PORT", help="one of all hosts"
    )
    for file in ("ca-file", "certificate", "key"):
        declare.add_argument(f"--{file}", metavar="PATH", help="a file on the agent's host, for TLS")
    declare.add_argument("--plain", action="store_true", help="without TLS, on loopback only")
    declare.add_argument("--uploads", type=int, metavar="N", help="blobs to send at a time")
    for command in (declare, add_command(group, "rm", "share with nobody", "peers.remove")):
        command.add_argument("--dry-run", action="store_true", help="say what would be done")


def _credentials(command: argparse.ArgumentParser) -> None:
    command.add_argument("--username", metavar="USER", help="in place of what the agent knows")
    command.add_argument(
        "--password-stdin", action="store_true", help="read its password from standard input"
    )


def layers(commands: Commands) -> None:
    """Images and archives of what containers have written."""
    commit = add_command(commands, "commit", "make an image of a container", "imagemoves.commit")
    commit.add_argument("container", metavar="CONTAINER")
    commit.add_argument("reference", nargs="?", metavar="NAME[:TAG]")
    commit.add_argument("-a", "--author", metavar="TEXT")
    commit.add_argument("-m", "--message", metavar="TEXT")
    commit.add_argument(
        "-c", "--change", action="append", default=[], metavar="INSTRUCTION", help="of a Dockerfile"
    )
    commit.add_argument("--no-pause", action="store_true", help="do not freeze it meanwhile")
    export = add_command(
        commands, "export", "write a container's files as a tar archive", "imagemoves.export"
    )
    export.add_argument("container", metavar="CONTAINER")
    export.add_argument("-o", "--output", metavar="FILE", help="(default: standard output)")
    diff = add_command(commands, "diff", "show what a container changed of its image", "imagemoves.diff")
    diff.add_argument("container", metavar="CONTAINER")


def build(commands: Commands) -> None:
    """Builds and what they keep."""
    build = add_command(commands, "build", "build an image from a Dockerfile", "build.build")
    build.add_argument(
        "context",
        metavar="DIR|-|URL",
        help="the build context; - is a tar archive on stdin, of a URL the agent fetches a Dockerfile, "
        "an archive or a git repository (URL.git#REF:DIR)",
    )
    build.add_argument("-f", "--file", metavar="PATH", help="the Dockerfile (default: Dockerfile in DIR)")
    build.add_argument("-t", "--tag", action="append", default=[], metavar="NAME[:TAG]")
    build.add_argument("--build-arg", action="append", default=[], metavar="NAME[=VALUE]")
    build.add_argument("--target", default="", metavar="STAGE", help="the stage to build")
    build.add_argument("--secret", action="append", default=[], metavar="id=ID[,src=FILE|,env=NAME]")
    build.add_argument("--no-cache", action="store_true", help="run everything anew")
    build.add_argument(
        "--cache-from", action="append", default=[], metavar="IMAGE", help="what stands for the cache"
    )
    build.add_argument("--pull", action="store_true", help="get the newest base images")
    build.add_argument(
        "--network", default="", metavar="NAME", help="that of RUN: default, none, host or one"
    )
    build.add_argument("-l", "--label", action="append", default=[], metavar="K=V")
    build.add_argument("--platform", default="", metavar="OS/ARCH")
    build.add_argument("-m", "--memory", type=int, default=0, metavar="BYTES", help="what RUN may use")
    build.add_argument(
        "--ulimit", action="append", default=[], metavar="NAME=SOFT[:HARD]", help="of what RUN runs"
    )
    build.add_argument("--cgroup", metavar="NAME", help="a declared cgroup for what RUN runs")
    build.add_argument("--add-host", action="append", default=[], metavar="NAME:ADDRESS")
    build.add_argument(
        "--source-date-epoch", type=int, metavar="SECONDS", help="the time that nothing in it is later than"
    )
    build.add_argument("--time-limit", type=float, metavar="SECONDS", help="give up after so long")
    build.add_argument("-q", "--quiet", action="store_true", help="print the image's id alone")
    cache = add_group(commands, "build-cache", "what builds keep for the next ones")
    add_command(cache, "ls", "list it", "build.cache", output=True)
    prune = add_command(cache, "prune", "delete it, the longest unused first", "build.prune")
    prune.add_argument("--unused-for", type=float, default=0, metavar="SECONDS")
    prune.add_argument("--keep-bytes", type=int, default=0, metavar="BYTES")
