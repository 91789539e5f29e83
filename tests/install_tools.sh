#!/usr/bin/env bash
# What the tests need of Debian: as root it is installed, otherwise the command to type is printed.
set -euo pipefail

# What must be there (a command, or a path with wildcards), the package that brings it, and why.
needed="
qemu-img                                    qemu-utils       disk images for the clients to upload
/usr/lib/grub-rescue/grub-rescue-cdrom.iso  grub-rescue-pc   a bootable CD to make them of
/usr/lib/rabbitmq/bin/rabbitmq-server       rabbitmq-server  notifications over a real broker
/usr/sbin/pgbouncer                         pgbouncer        PostgreSQL behind a pooler
ip                                          iproute2         clients whose network is cut off
bindfs                                      bindfs           a file system that stands still
fusermount3                                 fuse3            the same
/usr/lib/*/faketime/libfaketimeMT.so.1      libfaketime      clocks that jump
node                                        nodejs           events read with JavaScript
npm                                         npm              the same
"

missing=()
while read -r thing package _; do
    [ -n "$thing" ] || continue
    # Somebody else's broker is good enough.
    [ "$package" = rabbitmq-server ] && [ -n "${CALOTYPE_TEST_AMQP:-}" ] && continue
    case "$thing" in
        /*) compgen -G "$thing" >/dev/null || missing+=("$package") ;;
        *) command -v "$thing" >/dev/null || missing+=("$package") ;;
    esac
done <<<"$needed"

[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "The tests need: sudo apt install ${missing[*]}" >&2
    exit 1
fi
apt-get update -qq
# RUNLEVEL: the packages must not start services by themselves, the tests start their own.
RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}"
