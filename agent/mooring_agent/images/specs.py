# SPDX-License-Identifier: Apache-2.0
"""What a user asks of an image: the ImageSpec of the Mooring API, checked and brought into one form. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.config import check_env_name, check_port, check_signal, check_workdir
from mooring_agent.images.platform import Platform
from mooring_agent.images.reference import Reference

# Reads one value; the text names it in errors.
_Reader = Callable[[str, Any], Any]

POLICIES = ("always", "missing", "newer", "never")
"""When an image is pulled: at any rate, if it is not here, if its registry has another one, not at all."""

_BOOTSTRAPPED = ("name", "suite", "variant", "packages", "mirror", "components", "max_age")
_CREDENTIAL_KEYS = ("username", "password")
_TEMPLATE_KEYS = {
    "busybox": ("name",),
    "debian": _BOOTSTRAPPED,
    "ubuntu": _BOOTSTRAPPED,
}
_DEFAULT_SUITES = {"debian": "bookworm", "ubuntu": "noble"}
_VARIANTS = ("essential", "apt", "required", "minbase", "buildd", "important", "standard")  # mmdebstrap(1)
_SUITE = re.compile(r"[a-z][a-z0-9.+-]*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(?::[a-z0-9-]+)?")  # Debian policy 5.6.1, with an architecture
_MIRROR = re.compile(r"https?://[^\s\[\]]+")
_COMPONENT = re.compile(r"[a-z0-9][a-z0-9./-]*")
_AGE = re.compile(r"(\d{1,6})([smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}  # seconds


@dataclass(frozen=True, slots=True)
class TemplateSpec:
    """Which root file system to build, all defaults filled in; what follows the name is for apt's world.

    Without `mirror` and `components` those of the host's apt are meant. `max_age` is in seconds: what was
    built longer ago is built anew. None: it is not.
    """

    name: str
    suite: str = ""
    variant: str = ""
    packages: tuple[str, ...] = ()
    mirror: str = ""
    components: tuple[str, ...] = ()
    max_age: float | None = None

    @classmethod
    def from_spec(cls, template: Mapping[str, Any]) -> TemplateSpec:
        """Read the `template` of a normalised image spec."""
        name = template["name"]
        if name not in _DEFAULT_SUITES:
            return cls(name)
        return cls(
            name,
            template.get("suite", _DEFAULT_SUITES[name]),
            template.get("variant", "minbase"),
            tuple(sorted(template.get("packages", ()))),
            template.get("mirror", ""),
            tuple(template.get("components", ())),
            parse_age(template["max_age"]) if "max_age" in template else None,
        )

    def made_from(self) -> dict[str, Any]:
        """What of the spec decides what is built, as JSON: not when it is built anew."""
        return {key: value for key, value in asdict(self).items() if key != "max_age"}


def parse_age(text: str) -> float:
    """Read an age like `7d` or `12h` (s, m, h, d, w) as seconds; raises InvalidSpec."""
    match = _AGE.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise InvalidSpec(f"age {text!r} is not valid: expected a number and one of s, m, h, d, w, as 7d")
    return float(int(match[1]) * _UNITS[match[2]])


def normalise_image_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return an ImageSpec in its one form: short forms written out, lists ordered where order means nothing.

    Defaults are not filled in, so two specs that were given alike stay alike when a default moves. Raises
    InvalidSpec naming the key, its value and what was expected; an unknown key is answered with the nearest
    known one. A spec of tags alone is about an image that is there, however it came.
    """
    _mapping("image", spec)
    _known("image", spec, (*_SOURCES, "config", "tags"))
    tags = _tags(spec["tags"]) if spec.get("tags") is not None else []
    named: dict[str, Any] = {"tags": tags} if tags else {}
    given = [key for key in _SOURCES if spec.get(key) is not None]
    if not given and tags and spec.get("config") is None:
        return named
    if len(given) != 1:
        found = " and ".join(given) if given else "none"
        raise InvalidSpec(f"image spec has {found} of {', '.join(_SOURCES)}: expected exactly one of them")
    read, configurable = _SOURCES[given[0]]
    result: dict[str, Any] = {given[0]: read(spec[given[0]]), **named}
    if spec.get("config") and not configurable:
        raise InvalidSpec(
            f"image config cannot be given with {given[0]}: the image brings its own; leave it out"
        )
    if spec.get("config") is not None:
        config = _config(spec["config"])
        if config:
            result["config"] = config
    return result


def source_of(spec: Mapping[str, Any]) -> str | None:
    """Which of the sources a normalised image spec has; None for one of tags alone."""
    return next((key for key in _SOURCES if key in spec), None)


def without_credentials(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A normalised image spec as it may be stored and shown."""
    return {
        key: {name: part for name, part in value.items() if name != "credentials"}
        if isinstance(value, Mapping)
        else value
        for key, value in spec.items()
    }


def made_from(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What of a normalised image spec makes the image: not when to make it anew, nor who one is, nor tags."""
    result = {key: value for key, value in spec.items() if key != "tags"}
    if "pull" in spec:
        result["pull"] = {key: spec["pull"][key] for key in ("from", "platform") if key in spec["pull"]}
    if "template" in spec:
        result["template"] = {key: value for key, value in spec["template"].items() if key != "max_age"}
    return result


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
    value = _opened("image pull", {} if value is True else value, "policy", tuple(_PULL))
    return _each("image pull", value, _PULL)


def _load(value: Any) -> dict[str, Any]:
    value = _opened("image load", value, "path", ("path", *_LOAD))
    path = _path("image load path", value.get("path"), "an archive")
    return {"path": path, **_each("image load", value, _LOAD)}


def _build(value: Any) -> dict[str, Any]:
    value = _opened("image build", value, "context", ("context", *_BUILD))
    context = _path("image build context", value.get("context"), "a directory")
    return {"context": context, **_each("image build", value, _BUILD)}


def _flag(what: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidSpec(f"{what} is {value!r}: expected true or false")
    return value


def _seconds(what: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidSpec(f"{what} is {value!r}: expected seconds since 1970")
    return value


def _files(what: str, value: Any) -> dict[str, str]:
    _mapping(what, value)
    return {_string(what, key): _path(f"{what} {key}", value[key], "a file") for key in sorted(value)}


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
    if value.get("mirror") is not None:
        result["mirror"] = _matching(
            "image template mirror",
            value["mirror"],
            _MIRROR,
            "an address that begins with http:// or https://",
        )
    if value.get("components") is not None:
        result["components"] = [
            _matching("component", component, _COMPONENT, "a word like main")
            for component in dict.fromkeys(_strings("image template components", value["components"]))
        ]
    if value.get("max_age") is not None:
        result["max_age"] = _string("image template max_age", value["max_age"])
        parse_age(result["max_age"])
    return result


def _import(value: Any) -> dict[str, Any]:
    value = _opened("image import", value, "path", ("path", *_IMPORT))
    path = _path("image import path", value.get("path"), "a tar file or directory")
    return {"path": path, **_each("image import", value, _IMPORT)}


def _opened(what: str, value: Any, short: str, keys: Collection[str]) -> Mapping[str, Any]:
    """The mapping that a source is given as; a text alone is its key `short`."""
    if isinstance(value, str):
        value = {short: value}
    _mapping(what, value)
    _known(what, value, keys)
    found: Mapping[str, Any] = value
    return found


def _each(what: str, value: Mapping[str, Any], readers: Mapping[str, _Reader]) -> dict[str, Any]:
    """What is given of the keys of `readers`, read by them."""
    return {
        key: read(f"{what} {key}", value[key]) for key, read in readers.items() if value.get(key) is not None
    }


def _reference(what: str, value: Any) -> str:
    return Reference.parse(_string(what, value)).familiar


def _path(what: str, path: Any, of: str) -> str:
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise InvalidSpec(f"{what} {path!r} is not valid: expected an absolute path of {of}")
    return path


def _tags(value: Any) -> list[str]:
    names = [Reference.parse(name) for name in _strings("image tags", value)]
    for name in names:
        if name.digest is not None:
            raise InvalidSpec(f"image tag {name.familiar!r} has a digest: expected a name, maybe with a tag")
    return sorted({name.familiar for name in names})


def _config(value: Any) -> dict[str, Any]:
    _mapping("image config", value)
    _known("image config", value, tuple(_CONFIG))
    return _each("image config", value, _CONFIG)


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
_PULL: dict[str, _Reader] = {
    "policy": lambda what, value: check_policy(value, what),
    "platform": lambda what, value: str(Platform.parse(_string(what, value))),
    "from": _reference,
    "credentials": lambda what, value: parse_credentials(value, what),
}
_LOAD: dict[str, _Reader] = {"from": _reference}
_IMPORT: dict[str, _Reader] = {
    "metadata": lambda what, value: _path(what, value, "LXC's metadata (metadata.yaml, or a tar file)")
}
_BUILD: dict[str, _Reader] = {
    "dockerfile": _string,
    "args": _pairs,
    "target": _string,
    "labels": _pairs,
    "network": _string,
    "no_cache": _flag,
    "pull": _flag,
    "secrets": _files,
    "source_date_epoch": _seconds,
}
_CONFIG: dict[str, _Reader] = {
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
