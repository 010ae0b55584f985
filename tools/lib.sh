# shellcheck shell=bash disable=SC1091,SC2034
# Functions that the scripts in this folder share. Source it; it runs nothing by itself.
# All talk goes to stderr: stdout belongs to the result of a script.

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VIAL_CACHE=${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/vial

log() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# usage: print_help SCRIPT — the comment block at the top of a script is its help text.
print_help() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$1"; }

# Runs a command as root: directly, or through sudo where the caller is not root.
as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "'$*' needs root, and sudo is not installed; run this script as root"
    fi
}

# One `apt-get update` per invocation at most, and only when something has to be fetched.
apt_updated=
apt_update_once() {
    [[ -z $apt_updated ]] || return 0
    command -v apt-get >/dev/null || die "this script installs what it needs with apt-get, which is not here"
    log "Updating the package lists"
    as_root apt-get -qq -o DPkg::Lock::Timeout=600 update >&2 || warn "apt-get update failed; going on with the lists at hand"
    apt_updated=1
}

# usage: ensure_packages PACKAGE… — installs the Debian packages that are missing, and says which.
ensure_packages() {
    local package missing=()
    for package in "$@"; do
        [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    apt_update_once
    log "Installing Debian packages: ${missing[*]}"
    # Two scripts may need packages at once: wait for the lock instead of failing. Of what apt says its troubles are passed
    # on, and for the rest a count.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 "${missing[@]}" </dev/null 2>&1 |
        apt_steps || die "apt-get could not install: ${missing[*]}"
}

# Reads what apt says, and passes on its troubles and, to a terminal, how far it is. Not awk, which waits for a whole buffer of lines.
apt_steps() {
    local line total='?' fetched=0 ready=0
    while IFS= read -r line; do
        case $line in
            *' newly installed, '*) total=${line#* upgraded, } total=${total%% *} ;;
            Get:*) fetched=$((fetched + 1)) ;;
            'Setting up '*) ready=$((ready + 1)) ;;
            E:* | Err:* | 'dpkg: error'* | 'Waiting for cache lock'*) printf '%s\n' "$line" >&2 ;;
            *) continue ;;
        esac
        [[ ! -t 2 ]] || printf '\r    fetched %d, set up %d of %s packages ' "$fetched" "$ready" "$total" >&2
    done
    [[ ! -t 2 || $fetched$ready == 00 ]] || echo >&2
}

# usage: fetch_deb PACKAGE DESTINATION — unpacks a Debian package into a folder without installing it.
# DESTINATION appears complete or not at all, so an interrupted run leaves nothing half done.
fetch_deb() {
    local package=$1 destination=$2 work
    [[ ! -d $destination ]] || return 0
    mkdir -p "$(dirname "$destination")"
    work=$(mktemp -d "$destination.XXXXXX")
    log "Downloading $package"
    # apt's own download user cannot enter a private cache folder; its notice about that is noise.
    if ! (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$package" >&2); then
        apt_update_once
        (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$package" >&2) || {
            rm -rf "$work"
            die "apt-get could not download $package; check the network and the package sources"
        }
    fi
    mkdir "$work/tree"
    dpkg -x "$work"/*.deb "$work/tree"
    # Lost a race against another run: its tree is as good as this one.
    mv -T "$work/tree" "$destination" 2>/dev/null || [[ -d $destination ]]
    rm -rf "$work"
}

# A Rust toolchain: the one at hand, else rustup's stable for this user.
ensure_rust() {
    [[ ! -f $HOME/.cargo/env ]] || . "$HOME/.cargo/env"
    if ! command -v cargo >/dev/null; then
        ensure_packages curl ca-certificates gcc libc6-dev
        log "Installing Rust through rustup (for this user, under ~/.cargo and ~/.rustup)"
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
            sh -s -- -y --profile minimal --component clippy,rustfmt >&2 || die "rustup could not install Rust"
        . "$HOME/.cargo/env"
    fi
    ensure_packages gcc libc6-dev
}

# True inside tools/testbed.
in_testbed() { [[ -n ${VIAL_IN_TESTBED:-} ]]; }

# Can the KVM of this machine boot Linux? `vial doctor` tries guest instructions and knows.
kvm_usable() {
    in_testbed && return 0
    if [[ -z ${VIAL_KVM_USABLE:-} ]]; then
        local vial=$REPO/target/dist/bin/vial
        [[ -x $vial ]] || die "target/dist/bin/vial is missing; run tools/build first"
        if "$vial" doctor --check kvm >/dev/null 2>&1; then
            VIAL_KVM_USABLE=yes
        else
            VIAL_KVM_USABLE=no
            log "This machine's KVM cannot boot Linux guests: using the emulated host (tools/testbed)"
        fi
        export VIAL_KVM_USABLE
    fi
    [[ $VIAL_KVM_USABLE == yes ]]
}

# usage: on_host [TESTBED OPTION… --] COMMAND… — runs a command where VMs boot: here, or in the
# emulated host. Options before `--` are for tools/testbed and ignored on a machine with real KVM.
on_host() {
    local options=()
    if [[ $1 == -* ]]; then
        while [[ $1 != -- ]]; do
            options+=("$1")
            shift
        done
        shift
    fi
    if kvm_usable; then
        "$@"
    else
        "$REPO/tools/testbed" "${options[@]}" -- "$@"
    fi
}

# usage: seconds_since START — whole seconds since $SECONDS was START, for progress lines.
seconds_since() { echo $((SECONDS - $1)); }
