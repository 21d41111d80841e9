#!/usr/bin/env bash
# Runs conformance suites of others on a directory: a mount, or a local disk for the baseline.
#
#     tools/conformance.sh DIRECTORY [pjdfstest|fsx]...
#
# DIRECTORY must be reachable by all users; this needs root, and Rust's cargo to build the suites
# (crates pjdfstest and fsx), into ~/.cache/dataplatform/conformance. Everything goes to standard
# output; the last lines count passed and failed. Not part of `make test`: it takes minutes.
set -euo pipefail

place=${1:?usage: conformance.sh DIRECTORY [pjdfstest|fsx]...}
shift
suites=("${@:-}")
[ -n "${suites[0]}" ] || suites=(pjdfstest fsx)
tools=${XDG_CACHE_HOME:-$HOME/.cache}/dataplatform/conformance

say() { echo "conformance: $*"; }

get() { # crate
    [ -x "$tools/bin/$1" ] && return
    say "building the crate $1"
    cargo install --quiet --locked --root "$tools" "$1"
}

user() { # the suite acts as users without rights: made when missing
    getent passwd "$1" >/dev/null || useradd --system --no-create-home --shell /usr/sbin/nologin "$1"
}

pjdfstest() {
    get pjdfstest
    for name in nobody dp-tests-a dp-tests-b; do user "$name"; done
    local work configuration
    work=$(mktemp -d "$place/pjdfstest.XXXXXX")
    chmod 755 "$work"
    configuration=$(mktemp)
    cat > "$configuration" <<EOF
[features]
posix_fallocate = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.05
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["dp-tests-a", "dp-tests-a"], ["dp-tests-b", "dp-tests-b"]]
EOF
    "$tools/bin/pjdfstest" -c "$configuration" -p "$work" || true
    rm -f "$configuration"
    rm -rf "$work"
}

fsx() {
    get fsx
    local work seed
    work=$(mktemp -d "$place/fsx.XXXXXX")
    for seed in 1 2 3 4 5; do
        if "$tools/bin/fsx" -N "${FSX_STEPS:-10000}" -S "$seed" "$work/file" > "$work.log" 2>&1; then
            say "fsx, seed $seed: passed"
        else
            say "fsx, seed $seed: failed"
            tail -40 "$work.log"
        fi
    done
    rm -rf "$work" "$work.log"
}

for suite in "${suites[@]}"; do
    say "$suite on $place ($(stat -f -c %T "$place"))"
    "$suite"
done
