#!/bin/sh
# After the files of @NAME@ are gone. Data, configuration and user stay, for it may be installed again;
# only dpkg's purge removes them. rpm has no purge.
set -e
name=@NAME@

case "$1" in
remove | purge | 0)
	[ ! -d /run/systemd/system ] || systemctl daemon-reload
	;;
esac

if [ "$1" = purge ]; then
	rm -rf "/var/lib/${name:?}" "/etc/${name:?}" "/run/${name:?}" "/etc/systemd/system/${name:?}.service.d"
	# What an agent has deployed on this host outlives it, as its user, and is not ended here.
	if getent passwd "$name" >/dev/null && ! userdel "$name"; then
		echo "$name is purged, all but its user: programs of that user still run. When they have ended: userdel $name"
		exit 0
	fi
	# Often gone with its user.
	! getent group "$name" >/dev/null || groupdel "$name"
fi
