#!/usr/bin/env bash
# Installs the programs that tests/mount runs on a mount, from Debian packages, when some are missing.
# It says what it installs. Where there is no apt-get or no right to use it, it says so and ends
# well: the tests that miss a program are skipped, with the reason.
#
# PostgreSQL and MariaDB come with a database of their own that they would start: the packages are
# told not to create one, and not to start anything.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

say() { echo "test-packages: $*"; }

# program:package
WANTED=(
    mariadbd:mariadb-server sysbench:sysbench fio:fio rsync:rsync git:git gcc:gcc make:make
    setfattr:attr getfacl:acl ip:iproute2 nsenter:util-linux mkfs.ext4:e2fsprogs psql:postgresql
    fusermount3:fuse3
)

missing=()
for pair in "${WANTED[@]}"; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
    say "missing: ${missing[*]}; there is no apt-get, so the tests that need them are skipped"
    exit 0
fi
root=()
if [ "$(id -u)" != 0 ]; then
    if ! sudo -n true 2>/dev/null; then
        say "missing: ${missing[*]}; not root, so the tests that need them are skipped"
        exit 0
    fi
    root=(sudo -n)
fi

say "installing ${missing[*]} with apt-get, for the tests of the mount"
"${root[@]}" mkdir -p /etc/postgresql-common
if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    echo "create_main_cluster = false" | "${root[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
fi
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then # what is installed is not started, either
    printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee $policy >/dev/null
    "${root[@]}" chmod +x $policy
    trap '"${root[@]}" rm -f $policy' EXIT
fi
"${root[@]}" apt-get update -qq || say "apt-get update failed; trying with the package lists that are there"
"${root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
    say "apt-get could not install all of them; the tests that miss one are skipped"
