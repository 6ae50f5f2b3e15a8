# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# shellcheck disable=SC2154  # project_root, and say, are those of script/setup.sh
# Hosts made of namespaces: each has its own network, processes, mounts, /run, host name and sshd. It is sourced.
#
#   hosts_settle   say where everything is, and refuse while another checkout's fleet is up; comes first
#   hosts_answer   whether all hosts run and their sshd answers
#   hosts_up       make all of them, with keys; nothing of a former fleet may be left
#   hosts_down     end their processes and remove all that the kernel has of them, whatever state it is in
#
# The machine reaches them over one veth link, whose other end is on a bridge in a namespace of its own:
#
#   machine ── mooring-demo ═ machine ┐
#                              host1 ─┤ bridge `fleet` in mooring-demo-net
#   mooring-demo-1: eth0 ═════ host1 ─┘   (likewise host2, host3)
#
# There is no way from the hosts to anywhere else, and the machine's own forwarding and firewall stay as they are.
#
# tests/harness/fleet.py makes other hosts with it: it sets the variables itself, in the place of hosts_settle.

demo_hosts=(mooring-demo-1 mooring-demo-2 mooring-demo-3)
switch=mooring-demo-net
link=mooring-demo

# Seconds that a host may take to answer, or killed processes to leave.
patience=15

hosts_settle() {
    demo=$project_root/demo
    state=$demo/.state
    # The inventory is where a user changes it.
    network=$(sed -n 's/^ *demo_network: *"\{0,1\}\([0-9.]*\)"\{0,1\} *$/\1/p' "$demo/inventory.yml")
    if [[ ! $network =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]]; then
        say "demo/inventory.yml: demo_network is '$network', expected the first three numbers of a /24 such as 10.209.210" >&2
        return 1
    fi
    if [[ $project_root =~ [[:space:]] ]]; then
        say "the path $project_root has a blank in it, which ssh's options cannot express: move the checkout" >&2
        return 1
    fi
    # sun_path of unix(7) has 107 bytes; ssh adds 17 to its own while it makes it.
    local longest=$state/hosts/${demo_hosts[0]}/run/keeper/socket
    if [[ ${#longest} -gt 107 || ${#state} -gt 70 ]]; then
        say "the path $project_root is too long for the unix sockets below it: expected at most 58 bytes; move the checkout" >&2
        return 1
    fi
    case $project_root in
    /run | /run/* | /sys/* | /proc/*)
        say "the hosts of the demo have a /run, /sys and /proc of their own, and would not find $project_root: move the checkout" >&2
        return 1
        ;;
    esac
    local owner
    owner=$(_owner)
    if [[ -n $owner && $owner != "$project_root" && -d $owner/demo/.state/hosts ]]; then
        say "the fleet of another checkout, $owner, is up: take it down there with script/demo --down" >&2
        return 1
    fi
}

# The checkout whose fleet is up, as the link to it says.
_owner() {
    if [[ -e /sys/class/net/$link/ifalias ]]; then
        cat "/sys/class/net/$link/ifalias"
    fi
}

address_of() {
    printf '%s.%d' "$network" "$((10 + ${1##*-}))"
}

hosts_answer() {
    local host
    for host in "${demo_hosts[@]}"; do
        _runs "$state/hosts/$host/init" && _answers "$(address_of "$host")" || return 1
    done
}

hosts_up() {
    local host
    _refuse_a_taken_network
    _make_keys
    _make_switch
    for host in "${demo_hosts[@]}"; do
        _plug "$host"
        _start "$host"
    done
    for host in "${demo_hosts[@]}"; do
        _await "sshd of $host at $(address_of "$host")" _answers "$(address_of "$host")"
    done
}

hosts_down() {
    local host
    for host in "${demo_hosts[@]}"; do
        _end "$host"
    done
    for host in "${demo_hosts[@]}" "$switch"; do
        if [[ -e /run/netns/$host ]]; then
            ip netns delete "$host"
        fi
    done
    # It goes with its other end, but later than this returns.
    if [[ -e /sys/class/net/$link ]]; then
        ip link delete "$link" 2>/dev/null || [[ ! -e /sys/class/net/$link ]]
    fi
    for host in "${demo_hosts[@]}"; do
        _remove_groups "$host"
    done
}

# What the kernel still has of the fleet, a line each.
hosts_remains() {
    local host mount
    for host in "${demo_hosts[@]}" "$switch"; do
        if [[ -e /run/netns/$host ]]; then
            printf 'network namespace %s\n' "$host"
        fi
        if _runs "$state/hosts/$host/init"; then
            printf 'process %s\n' "$(cat "$state/hosts/$host/init")"
        fi
        while read -r mount; do
            printf 'cgroup %s\n' "$mount"
        done < <(_groups "$host")
    done
    if [[ -e /sys/class/net/$link ]]; then
        printf 'link %s\n' "$link"
    fi
    sed -n "s|^[^ ]* [^ ]* [^ ]* [^ ]* \($state/[^ ]*\) .*|mount \1|p" /proc/self/mountinfo
}

_refuse_a_taken_network() {
    local taken
    taken=$(ip -4 route show root "$network.0/24")
    if [[ -n $taken ]]; then
        say "the network $network.0/24 is in use on this machine ($taken): choose another for demo_network in demo/inventory.yml" >&2
        return 1
    fi
}

# The keys are the fleet's own; nobody's ~/.ssh is read or written.
_make_keys() {
    local host key
    install -d -m 700 "$state/ssh"
    for key in client "${demo_hosts[@]}"; do
        [[ -s $state/ssh/$key ]] || ssh-keygen -q -t ed25519 -N '' -C "$key" -f "$state/ssh/$key"
    done
    for host in "${demo_hosts[@]}"; do
        printf '%s %s\n' "$(address_of "$host")" "$(cut -d' ' -f1,2 "$state/ssh/$host.pub")"
    done >"$state/ssh/known_hosts"
}

_make_switch() {
    ip netns add "$switch"
    ip -n "$switch" link set lo up
    ip -n "$switch" link add fleet type bridge
    ip -n "$switch" link set fleet up
    ip link add "$link" type veth peer name machine netns "$switch"
    ip -n "$switch" link set machine master fleet up
    ip link set "$link" alias "$project_root"
    ip address add "$network.1/24" dev "$link"
    ip link set "$link" up
}

_plug() {
    local host=$1 port=host${1##*-}
    ip netns add "$host"
    ip link add eth0 netns "$host" type veth peer name "$port" netns "$switch"
    ip -n "$switch" link set "$port" master fleet up
    ip -n "$host" address add "$(address_of "$host")/24" dev eth0
    ip -n "$host" link set lo up
    ip -n "$host" link set eth0 up
}

_start() {
    local host=$1 place=$state/hosts/$1
    # As after a boot: /run is empty.
    rm -rf "$place/run"
    install -d -m 755 "$place" "$place/tmp"
    install -d -m 700 "$place/home"
    cat >"$place/sshd_config" <<-END
		ListenAddress $(address_of "$host")
		HostKey $state/ssh/$host
		AuthorizedKeysFile $state/ssh/client.pub
		PermitRootLogin prohibit-password
		PasswordAuthentication no
		KbdInteractiveAuthentication no
		UsePAM no
		# The checkout may belong to another user than root.
		StrictModes no
		PidFile none
		MaxStartups 100
		MaxSessions 100
		SetEnv HOME=$place/home TMPDIR=$place/tmp
		Subsystem sftp internal-sftp
	END
    # --kill-child: the first process of the host, and with it all others, ends with the one that waits for it. It keeps
    # no descriptor of the script, such as its lock or a pipe that its output goes to.
    env -i PATH="$PATH" LANG=C.UTF-8 setsid nsenter --net="/run/netns/$host" \
        unshare --mount --propagation slave --uts --ipc --pid --fork --kill-child --mount-proc \
        "$demo/host-init" "$host" "$place" </dev/null >>"$place/init.log" 2>&1 3>&- 4>&- 8<&- &
    printf '%s %s\n' "$!" "$(_start_time "$!")" >"$place/init"
    disown "$!"
}

_end() {
    local host=$1 place=$state/hosts/$1 pids=()
    if _runs "$place/init"; then
        pids=("$(cut -d' ' -f1 "$place/init")")
    fi
    # Whoever has entered the network from outside, such as the one that waits for the host's first process. Those of
    # containers have networks of their own; they end with the host's first process.
    if [[ -e /run/netns/$host ]]; then
        mapfile -t -O "${#pids[@]}" pids < <(ip netns pids "$host")
    fi
    if [[ ${#pids[@]} -gt 0 ]]; then
        kill -KILL "${pids[@]}" 2>/dev/null || true
        _await "the processes of $host to end" _all_gone "${pids[@]}"
    fi
    rm -f "$place/init"
}

_all_gone() {
    local pid
    for pid in "$@"; do
        [[ -z $(_start_time "$pid") ]] || return 1
    done
}

# Whether the process that a file names by number and start time is there.
_runs() {
    local pid started
    [[ -s $1 ]] && read -r pid started <"$1" && [[ -n $started && $(_start_time "$pid") == "$started" ]]
}

# Field 22 of proc(5) stat, which with the number names a process; nothing for one that has gone, or waits to be reaped.
_start_time() {
    local line
    { line=$(<"/proc/$1/stat"); } 2>/dev/null || return 0
    line=${line##*) }
    # shellcheck disable=SC2086  # split into fields
    set -- $line
    [[ $1 == [ZX] ]] || printf '%s' "${20}"
}

_answers() {
    local banner
    { exec 9<>"/dev/tcp/$1/22"; } 2>/dev/null || return 1
    read -r -t 2 banner <&9 || banner=
    exec 9>&-
    [[ $banner == SSH-* ]]
}

_await() {
    local what=$1 end=$((SECONDS + patience))
    shift
    until "$@"; do
        if [[ $SECONDS -ge $end ]]; then
            say "waited $patience s in vain for $what" >&2
            return 1
        fi
        sleep 0.1
    done
}

# Directories of the group $1 and those inside it, in every hierarchy, the innermost first.
_groups() {
    local mount type
    while read -r _ mount type _; do
        if [[ $type == cgroup || $type == cgroup2 ]] && [[ -d $mount/$1 ]]; then
            find "$mount/$1" -depth -type d
        fi
    done </proc/self/mounts
}

_remove_groups() {
    local directories
    mapfile -t directories < <(_groups "$1")
    [[ ${#directories[@]} -eq 0 ]] || _await "the control groups $1 to be empty" _removed "${directories[@]}"
}

_removed() {
    local directory
    for directory in "$@"; do
        [[ ! -d $directory ]] || rmdir "$directory" 2>/dev/null || return 1
    done
}
