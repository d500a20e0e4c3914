#!/bin/sh
# Before the files of @NAME@ are unpacked, by dpkg and by rpm alike: its user and group, whom the files
# may belong to. Done again at each upgrade, and then finds them there.
set -e
name=@NAME@

getent group "$name" >/dev/null || groupadd --system "$name"
if ! getent passwd "$name" >/dev/null; then
	shell=/usr/sbin/nologin
	[ -e "$shell" ] || shell=/sbin/nologin
	useradd --system --gid "$name" --home-dir "/var/lib/$name" --no-create-home --shell "$shell" \
		--comment "Stella" "$name"
fi
