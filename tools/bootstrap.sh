#!/usr/bin/env bash
# Installs what is missing to work on this checkout: a Python with venv (through apt-get, only if
# none is there), fuse3 for the mount (the same), .venv with the package in editable mode, and the generated protobuf code.
# Does nothing when all of it is up to date. `--proto` generates the protobuf code in any case.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

EXTRAS=dev,arrow,demo
VENV=.venv
export PIP_DISABLE_PIP_VERSION_CHECK=1 DEBIAN_FRONTEND=noninteractive

say() { echo "bootstrap: $*"; }
fail() { echo "bootstrap: $*" >&2; exit 1; }

# What the installed environment depends on: the build and dependency sections, and which packages
# are there. Settings of linters and tests change nothing that is installed.
environment_key() {
    { echo "$EXTRAS"; cat setup.py
      awk '/^\[/ {keep = /^\[(metadata|options|build-system)/} keep' setup.cfg pyproject.toml
      ls dataplatform/__init__.py server/__init__.py clients/__init__.py bench/__init__.py 2>/dev/null || true; } | sha256sum
}
protos() { { find dataplatform/api -maxdepth 1 -name '*.proto' 2>/dev/null || true; } | sort; }
proto_key() { { grep grpcio-tools setup.cfg; protos | xargs -r sha256sum; } | sha256sum; }

# A virtual environment names its own path, so one that was moved or copied is made again.
venv_ready() { [ -x $VENV/bin/python ] && [ "$(cat $VENV/.root 2>/dev/null)" = "$PWD" ]; }
environment_ready() { venv_ready && [ "$(cat $VENV/.installed 2>/dev/null)" = "$(environment_key)" ]; }
proto_ready() {
    [ "$(cat $VENV/.generated 2>/dev/null)" = "$(proto_key)" ] || return 1
    local proto
    for proto in $(protos); do [ -f "${proto%.proto}_pb2.py" ] && [ -f "${proto%.proto}_pb2.pyi" ] || return 1; done
}

apt_install() {
    command -v apt-get >/dev/null || fail "missing: $*. Install it, then run this again."
    local root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || fail "missing: $*. Install it as root (apt-get install $*), then run this again."
        root=(sudo); [ -t 0 ] || root=(sudo -n)
    fi
    say "installing $* with apt-get"
    "${root[@]}" apt-get update -qq || say "apt-get update failed; trying with the package lists that are there"
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
complete() { "$1" -c 'import venv; from ensurepip import bootstrap' 2>/dev/null; }

# Prints the first Python that is recent enough and, with "complete", can make an environment.
find_python() {
    local name
    for name in ${PYTHON:-} python3 /usr/bin/python3 python3.11 python3.12 python3.13 python3.14; do
        recent "$name" && { [ "$1" = any ] || complete "$name"; } && { echo "$name"; return 0; }
    done
    return 1
}

choose_python() {
    python=$(find_python complete) && return
    apt_install python3 python3-venv
    python=$(find_python complete) && return
    # A Python beside the distribution's default has its venv in a package of its own.
    if python=$(find_python any); then
        apt_install "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
        complete "$python" && return
    fi
    fail "no Python 3.11 or newer with the venv module was found. Install one, or name it: PYTHON=/path/to/python3 make install"
}

install_environment() {
    local key
    key=$(environment_key)
    if ! venv_ready; then
        choose_python
        say "creating $VENV with $("$python" --version)"
        "$python" -m venv --clear $VENV
        pwd > $VENV/.root
    fi
    say "installing the package and its dependencies into $VENV (a minute or two)"
    $VENV/bin/python -m pip install --quiet --editable ".[$EXTRAS]"
    echo "$key" > $VENV/.installed
}

generate() {
    local key sources
    key=$(proto_key)
    mapfile -t sources < <(protos)
    if [ ${#sources[@]} -gt 0 ]; then
        say "generating Python from ${sources[*]}"
        $VENV/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. "${sources[@]}"
    fi
    echo "$key" > $VENV/.generated
}

# Without root, `dp mount` goes through fusermount3; only the tests that do so need it.
mount_ready() { [ -x /usr/bin/fusermount3 ] || [ -x /bin/fusermount3 ]; }
install_mount() { (apt_install fuse3) || say "no fusermount3: the tests of mounting without root are skipped"; }

[ "${1:-}" = --proto ] || ! mount_ready || ! environment_ready || ! proto_ready || exit 0

# One at a time: two commands started together in one checkout would build the same environment.
exec 9<tools/bootstrap.sh
flock 9
mount_ready || install_mount
environment_ready || install_environment
if [ "${1:-}" = --proto ] || ! proto_ready; then generate; fi
