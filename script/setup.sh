# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the scripts beside this one share: Debian packages and the virtual environment. It is sourced.
#
#   say TEXT                      print a line of progress
#   need_packages PACKAGE...      install those of the Debian packages that are missing (as root; else name them)
#   need_docker_client            put a docker client into .venv/bin where PATH has none; no daemon comes with it
#   need_compose                  put Docker Compose 2 into .venv/bin where the docker client has no such plugin
#   need_api_descriptions         put the published descriptions of the Docker Engine API into .venv/share/docker-api
#   setup_environment             make .venv with all extras, or bring it up to date; sets PATH
#   test_packages                 the packages that the agent and its tests use
#
# Everything is skipped that is there already, nothing asks, and no service is started.

project_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$project_root/.venv
# A user's PATH may lack the directories of nft, sshd and dnsmasq.
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# shellcheck disable=SC2034  # read by the scripts that source this file
test_packages=(
    iproute2 nftables libseccomp2 dnsmasq-base busybox-static mmdebstrap debian-archive-keyring
    openssh-server openssh-client zstd procps curl wrk ca-certificates podman tini btrfs-progs libisal2
    docker-registry skopeo openssl apache2-utils squashfs-tools buildah git apt-utils gpg gpgconf
    iptables ufw firewalld dbus systemd
)

say() {
    printf '==> %s\n' "$*"
}

# Whether what a package is wanted for is there, wherever it came from.
_package_present() {
    case $1 in
    iproute2) command -v ip ;;
    iptables | ufw | firewalld) command -v "$1" ;;
    nftables) command -v nft ;;
    libseccomp2) ldconfig -p | grep -F libseccomp.so.2 ;;
    dnsmasq-base) command -v dnsmasq ;;
    busybox-static) command -v busybox && ! ldd "$(command -v busybox)" ;;
    openssh-server) command -v sshd ;;
    openssh-client) command -v ssh ;;
    procps) command -v ps ;;
    tini) command -v tini-static ;;
    apache2-utils) command -v htpasswd ;;
    docker.io) command -v dockerd ;;
    lxc) command -v lxc-start ;;
    dbus) command -v dbus-daemon ;;
    systemd) [[ -x /lib/systemd/systemd-journald ]] && command -v journalctl ;;
    docker-registry | skopeo | openssl | mmdebstrap | zstd | curl | wrk | iperf3 | runc | crun | podman | umoci | gcc | shellcheck) command -v "$1" ;;
    *) [[ $(dpkg-query -W -f '${Status}' "$1" 2>/dev/null) == "install ok installed" ]] ;;
    esac >/dev/null 2>&1
}

need_packages() {
    local package missing=()
    for package in "$@"; do
        _package_present "$package" || missing+=("$package")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
        say "missing on this host, and not installed without root and apt-get: ${missing[*]}"
        return 0
    fi
    say "installing Debian packages: ${missing[*]}"
    _apt_get update || say "apt-get update failed; trying with the package lists that are there"
    (
        # Packages with a service must not start it: policy-rc.d says so while apt-get runs, and goes again.
        policy=/usr/sbin/policy-rc.d
        if [[ ! -e $policy ]]; then
            trap 'rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod 755 "$policy"
        fi
        _apt_get install --yes --no-install-recommends "${missing[@]}" >/dev/null && exit
        # One that this release does not have must not keep out the others.
        for package in "${missing[@]}"; do
            _apt_get install --yes --no-install-recommends "$package" >/dev/null || say "could not install $package"
        done
    )
    # A firewall that tests start by themselves must not come up with the host and close it.
    if [[ " ${missing[*]} " == *" firewalld "* ]] && command -v systemctl >/dev/null; then
        systemctl disable --quiet firewalld.service || say "firewalld starts with the host: disable it if you don't want that"
    fi
}

_apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 \
        -o Dpkg::Use-Pty=0 "$@" </dev/null
}

need_docker_client() {
    if command -v docker >/dev/null || [[ -x $venv/bin/docker || $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
        return 0
    fi
    say "fetching the docker client into .venv/bin (the daemon is not installed)"
    local scratch package
    scratch=$(mktemp -d)
    apt-cache show docker-cli docker.io >/dev/null 2>&1 || _apt_get update || true
    # The client is a package of its own on newer releases; before, it is a file of the daemon's package.
    for package in docker-cli docker.io; do
        if (cd "$scratch" && _apt_get download "$package") 2>/dev/null &&
            dpkg-deb --fsys-tarfile "$scratch/$package"_*.deb |
            tar -x -C "$scratch" --wildcards ./usr/bin/docker 2>/dev/null; then
            install -m 755 "$scratch/usr/bin/docker" "$venv/bin/docker"
            break
        fi
    done
    rm -rf "$scratch"
    [[ -x $venv/bin/docker ]] || say "no docker client could be fetched: the tests that use it will be skipped"
}

# The release of Debian that has Compose 2 where this one does not; its program needs no newer libraries.
_compose_release=trixie

need_compose() {
    if [[ -x $venv/bin/docker-compose || $EUID -ne 0 ]] || ! command -v apt-get >/dev/null ||
        docker compose version >/dev/null 2>&1; then
        return 0
    fi
    say "fetching Docker Compose 2 into .venv/bin"
    local scratch
    scratch=$(mktemp -d)
    if (cd "$scratch" && { _download_compose || _download_of_release "$_compose_release" docker-compose; }) \
        >/dev/null 2>&1 && dpkg-deb -x "$scratch"/docker-compose*.deb "$scratch/files"; then
        find "$scratch/files" -path '*/cli-plugins/docker-compose' -type f \
            -exec install -m 755 {} "$venv/bin/docker-compose" \;
    fi
    rm -rf "$scratch"
    [[ -x $venv/bin/docker-compose ]] || say "Docker Compose 2 could not be fetched: the tests with it will be skipped"
}

_download_compose() {
    local package
    apt-cache show docker-compose >/dev/null 2>&1 || _apt_get update || true
    # The second was version 1 in earlier releases, another program.
    for package in docker-compose-v2 docker-compose; do
        if apt-cache policy "$package" | grep -q 'Candidate: [2-9]'; then
            _apt_get download "$package"
            return
        fi
    done
    return 1
}

# The tests compare answers with them. A release of Debian has those of its own dockerd and of all before.
need_api_descriptions() {
    local newest=1.47 target=$venv/share/docker-api scratch release
    if [[ -f $target/v$newest.yaml.gz || $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
        return 0
    fi
    say "fetching the published descriptions of the Docker Engine API into .venv/share"
    scratch=$(mktemp -d)
    apt-cache show docker-doc >/dev/null 2>&1 || _apt_get update || true
    (cd "$scratch" && _apt_get download docker-doc) >/dev/null 2>&1 && _unpack_api_descriptions "$scratch" "$target"
    for release in testing unstable stable; do
        [[ ! -f $target/v$newest.yaml.gz ]] || break
        mkdir "$scratch/$release"
        (cd "$scratch/$release" && _download_of_release "$release" docker-doc) >/dev/null 2>&1 &&
            _unpack_api_descriptions "$scratch/$release" "$target"
    done
    rm -rf "$scratch"
    [[ -f $target/v$newest.yaml.gz ]] ||
        say "the description of version $newest could not be fetched: the tests that read it will be skipped"
}

# DIRECTORY TARGET: what the docker-doc that lies in DIRECTORY has of them.
_unpack_api_descriptions() {
    dpkg-deb --extract "$1"/docker-doc_*.deb "$1/unpacked" && mkdir -p "$2" &&
        cp "$1"/unpacked/usr/share/doc/docker-doc/api/v1.*.yaml.gz "$2"
}

# RELEASE PACKAGE: download a package of another release of Debian, from where this host's packages come, into the
# current directory; with package lists of its own, so that the host's apt hears of no other release.
_download_of_release() {
    local mirror apart
    # shellcheck disable=SC2016  # $(…) is apt's own here
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(COMPONENT)' 'Created-By: Packages' |
        awk '$2 == "Debian" && $3 == "main" && $1 !~ /security/ { print $1; exit }')
    [[ -n $mirror ]] || return 1
    mkdir -p lists/partial cache/archives/partial
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$mirror" "$1" >sources.list
    apart=(
        -o APT::Sandbox::User=root -o Acquire::Languages=none
        -o "Dir::Etc::sourcelist=$PWD/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$PWD/lists" -o "Dir::Cache=$PWD/cache"
    )
    _apt_get "${apart[@]}" update && _apt_get "${apart[@]}" download "$2"
}

_python_suits() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# Prints a Python of 3.11 or later that can make virtual environments; PYTHON names a wish.
_find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11; do
        if _python_suits "$candidate"; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

_require_python() {
    _find_python >/dev/null && return
    need_packages python3 python3-venv
    _find_python >/dev/null && return
    # Ubuntu 22.04: the default python3 is older, a newer one stands beside it.
    need_packages python3.11 python3.11-venv
    _find_python >/dev/null && return
    say "no Python of 3.11 or later with venv and ensurepip was found; install one and name it with PYTHON=/path/to/python" >&2
    return 1
}

setup_environment() {
    # One at a time: the lock is held on the project's directory itself, so no lock file is left.
    (
        flock 9
        _make_environment
    ) 9<"$project_root" || return
    export PATH=$venv/bin:$PATH
    export ANSIBLE_COLLECTIONS_PATH=$venv/collections
}

_make_environment() {
    local wanted stamp=$venv/setup-stamp
    wanted=$(sha256sum <"$project_root/pyproject.toml")
    if [[ -x $venv/bin/python ]] && "$venv/bin/python" -c '' 2>/dev/null; then
        if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
            return 0
        fi
    else
        _require_python || return
        local python
        python=$(_find_python)
        say "making .venv with $("$python" --version) ($python)"
        "$python" -m venv --clear "$venv" || return
    fi
    say "installing the project and its Python packages into .venv (takes a minute or two)"
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-input \
        -e "${project_root}[agent,kernel,controller,bench,dev]" </dev/null || return
    # Ansible finds a collection by this path only.
    mkdir -p "$venv/collections/ansible_collections/mooring"
    ln -sfn ../../../../collection "$venv/collections/ansible_collections/mooring/fleet"
    printf '%s\n' "$wanted" >"$stamp"
}
