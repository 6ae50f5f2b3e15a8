# SPDX-License-Identifier: Apache-2.0
"""What a user asks of an image: the ImageSpec of the Mooring API, checked and brought into one form. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mooring_agent.errors import InvalidSpec, NotSupported
from mooring_agent.images.config import check_env_name, check_port, check_signal, check_workdir
from mooring_agent.images.platform import Platform
from mooring_agent.images.reference import Reference

POLICIES = ("always", "missing", "newer", "never")
"""When an image is pulled: at any rate, if it is not here, if its registry has another one, not at all."""

_IMPORT_KEYS = ("path",)
_LOAD_KEYS = ("path", "from")
_PULL_KEYS = ("policy", "platform", "from", "credentials")
_CREDENTIAL_KEYS = ("username", "password")
_TEMPLATE_KEYS = {
    "busybox": ("name",),
    "debian": ("name", "suite", "variant", "packages"),
}
_VARIANTS = ("essential", "apt", "required", "minbase", "buildd", "important", "standard")  # mmdebstrap(1)
_SUITE = re.compile(r"[a-z][a-z0-9.+-]*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(?::[a-z0-9-]+)?")  # Debian policy 5.6.1, with an architecture


@dataclass(frozen=True, slots=True)
class TemplateSpec:
    """Which root file system to build, all defaults filled in; suite, variant and packages are Debian's."""

    name: str
    suite: str = ""
    variant: str = ""
    packages: tuple[str, ...] = ()

    @classmethod
    def from_spec(cls, template: Mapping[str, Any]) -> TemplateSpec:
        """Read the `template` of a normalised image spec."""
        if template["name"] != "debian":
            return cls(template["name"])
        return cls(
            "debian",
            template.get("suite", "bookworm"),
            template.get("variant", "minbase"),
            tuple(sorted(template.get("packages", ()))),
        )

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON."""
        return asdict(self) | {"packages": list(self.packages)}


def normalise_image_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return an ImageSpec in its one form: short forms written out, lists ordered where order means nothing.

    Defaults are not filled in, so two specs that were given alike stay alike when a default moves. Raises
    InvalidSpec naming the key, its value and what was expected; an unknown key is answered with the nearest
    known one.
    """
    _mapping("image", spec)
    _known("image", spec, (*_SOURCES, "config"))
    given = [key for key in _SOURCES if spec.get(key) is not None]
    if len(given) != 1:
        found = " and ".join(given) if given else "none"
        raise InvalidSpec(f"image spec has {found} of {', '.join(_SOURCES)}: expected exactly one of them")
    read, configurable = _SOURCES[given[0]]
    result: dict[str, Any] = {given[0]: read(spec[given[0]])}
    if spec.get("config") and not configurable:
        raise InvalidSpec(
            f"image config cannot be given with {given[0]}: the image brings its own; leave it out"
        )
    if spec.get("config") is not None:
        config = _config(spec["config"])
        if config:
            result["config"] = config
    return result


def source_of(spec: Mapping[str, Any]) -> str:
    """Which of the sources a normalised image spec has."""
    return next(key for key in _SOURCES if key in spec)


def without_credentials(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A normalised image spec as it may be stored and shown."""
    return {
        key: {name: part for name, part in value.items() if name != "credentials"}
        for key, value in spec.items()
    }


def made_from(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What of a normalised image spec makes the image: not when to look for a newer one, nor who one is."""
    if "pull" not in spec:
        return dict(spec)
    return {"pull": {key: spec["pull"][key] for key in ("from", "platform") if key in spec["pull"]}}


def check_policy(value: Any, where: str) -> str:
    """Return a pull policy; raises InvalidSpec, in which `where` names the option."""
    if value not in POLICIES:
        raise InvalidSpec(f"{where} {value!r} is not known: expected one of {', '.join(POLICIES)}")
    return str(value)


def parse_credentials(value: Any, where: str) -> dict[str, str]:
    """Read {username, password}; raises InvalidSpec, which does not repeat what it holds."""
    if not isinstance(value, Mapping):
        raise InvalidSpec(f"{where} is not usable: expected a mapping of username and password")
    _known(where, value, _CREDENTIAL_KEYS)
    found = {key: value.get(key) for key in _CREDENTIAL_KEYS}
    if not all(isinstance(text, str) and text for text in found.values()):
        raise InvalidSpec(f"{where} is not usable: expected username and password, both texts")
    return {key: str(text) for key, text in found.items()}


def _pull(value: Any) -> dict[str, Any]:
    if value is True:
        value = {}
    if isinstance(value, str):
        value = {"policy": value}
    _mapping("image pull", value)
    _known("image pull", value, _PULL_KEYS)
    result: dict[str, Any] = {}
    if value.get("policy") is not None:
        result["policy"] = check_policy(value["policy"], "image pull policy")
    if value.get("platform") is not None:
        result["platform"] = str(Platform.parse(_string("image pull platform", value["platform"])))
    if value.get("from") is not None:
        result["from"] = Reference.parse(_string("image pull from", value["from"])).familiar
    if value.get("credentials") is not None:
        result["credentials"] = parse_credentials(value["credentials"], "image pull credentials")
    return result


def _load(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = {"path": value}
    _mapping("image load", value)
    _known("image load", value, _LOAD_KEYS)
    result = {"path": _path("image load path", value.get("path"), "an archive")}
    if value.get("from") is not None:
        result["from"] = Reference.parse(_string("image load from", value["from"])).familiar
    return result


def _build(value: Any) -> dict[str, Any]:
    raise NotSupported(
        "image build is not supported by this agent: build the image elsewhere, then pull or load it"
    )


def _template(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = {"name": value}
    _mapping("image template", value)
    name = value.get("name")
    if not isinstance(name, str) or name not in _TEMPLATE_KEYS:
        raise InvalidSpec(
            f"image template {name!r} is not known: expected one of {', '.join(_TEMPLATE_KEYS)}"
        )
    _known(f"image template {name}", value, _TEMPLATE_KEYS[name])
    result: dict[str, Any] = {"name": name}
    if value.get("suite") is not None:
        result["suite"] = _matching("image template suite", value["suite"], _SUITE, "a name like bookworm")
    if value.get("variant") is not None:
        if value["variant"] not in _VARIANTS:
            known = ", ".join(_VARIANTS)
            raise InvalidSpec(
                f"image template variant {value['variant']!r} is not known: expected one of {known}"
            )
        result["variant"] = value["variant"]
    if value.get("packages") is not None:
        packages = _strings("image template packages", value["packages"])
        result["packages"] = sorted(
            {_matching("package", package, _PACKAGE, "a Debian package name") for package in packages}
        )
    return result


def _import(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = {"path": value}
    _mapping("image import", value)
    _known("image import", value, _IMPORT_KEYS)
    return {"path": _path("image import path", value.get("path"), "a tar file or directory")}


def _path(what: str, path: Any, of: str) -> str:
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise InvalidSpec(f"{what} {path!r} is not valid: expected an absolute path of {of}")
    return path


def _config(value: Any) -> dict[str, Any]:
    _mapping("image config", value)
    _known("image config", value, tuple(_CONFIG))
    return {
        key: read(f"image config {key}", value[key])
        for key, read in _CONFIG.items()
        if value.get(key) is not None
    }


def _strings(what: str, value: Any) -> list[str]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise InvalidSpec(f"{what} is {value!r}: expected a list of strings")
    return [_string(what, item) for item in value]


def _string(what: str, value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise InvalidSpec(f"{what} has {value!r} in it: expected a string")
    return value


def _scalar(what: str, value: Any) -> str:
    """A string, or a number as YAML gives it unquoted; no truth value, since YAML sees too many."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return _string(what, value)


def _pairs(what: str, value: Any) -> dict[str, str]:
    _mapping(what, value)
    return {_string(what, key): _scalar(f"{what} {key}", value[key]) for key in sorted(value)}


def _environment(what: str, value: Any) -> dict[str, str]:
    if isinstance(value, list | tuple):
        items = _strings(what, value)
        for item in items:
            if "=" not in item:
                raise InvalidSpec(f"{what} has {item!r} in it: expected NAME=value")
        value = dict(item.split("=", 1) for item in items)
    return {check_env_name(name): text for name, text in _pairs(what, value).items()}


def _ports(what: str, value: Any) -> list[str]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise InvalidSpec(f"{what} is {value!r}: expected a list of ports like 80 or 53/udp")
    return sorted({check_port(_scalar(what, item)) for item in value})


# How each source is read, and whether `config` goes with it.
_SOURCES: dict[str, tuple[Callable[[Any], dict[str, Any]], bool]] = {
    "template": (_template, True),
    "import": (_import, True),
    "pull": (_pull, False),
    "load": (_load, False),
    "build": (_build, False),
}
_CONFIG: dict[str, Callable[[str, Any], Any]] = {
    "cmd": _strings,
    "entrypoint": _strings,
    "env": _environment,
    "workdir": lambda what, value: check_workdir(_string(what, value)),
    "user": _scalar,
    "labels": _pairs,
    "exposed_ports": _ports,
    "stop_signal": lambda what, value: check_signal(_scalar(what, value)),
}


def _mapping(what: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise InvalidSpec(f"{what} is {value!r}: expected a mapping of names to values")


def _matching(what: str, value: Any, pattern: re.Pattern[str], expected: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InvalidSpec(f"{what} {value!r} is not valid: expected {expected}")
    return value


def _known(what: str, value: Mapping[str, Any], keys: Collection[str]) -> None:
    for key in value:
        if key in keys:
            continue
        near = difflib.get_close_matches(str(key), keys, n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        raise InvalidSpec(f"{what} spec has an unknown key {key!r}: expected {', '.join(keys)}{hint}")
