#!/bin/sh
# After the files of @NAME@ are unpacked. dpkg says "configure" and, at an upgrade, the version before;
# rpm says how many versions there are now.
set -e
name=@NAME@
upgrade=no
case "$1" in
configure) [ -z "$2" ] || upgrade=yes ;;
1) ;;
2) upgrade=yes ;;
*) exit 0 ;;
esac

# Not one of the package's folders: removing the package must not touch what is in it.
install -d -m 0700 -o "$name" -g "$name" "/var/lib/$name"

# Whoever may use the Docker engine's socket is root on this host, and so is an agent that deploys
# containers. Where there is no such group, there is nothing to be let in to.
if [ "$name" = stella-agent ] && getent group docker >/dev/null; then
	usermod --append --groups docker "$name"
fi

if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	# What does not run stays so.
	[ "$upgrade" = no ] || systemctl try-restart "$name.service"
fi

if [ "$upgrade" = no ]; then
	case "$name" in
	stella-agent)
		[ -e /etc/stella-agent/agent.yaml ] || echo "stella-agent is installed, and does not run before it is registered: run here the line that \`stella agent bootstrap\` prints, which takes this program; or write /etc/stella-agent/agent.yaml (example: /usr/share/doc/stella-agent/agent.yaml), then: runuser -u stella-agent -- env STELLA_DATA=/var/lib/stella-agent stella-agent register --config /etc/stella-agent/agent.yaml --token - && systemctl enable --now stella-agent"
		;;
	stella)
		[ -e /var/lib/stella/master.key ] || echo "stella is installed, and its server does not run yet: look at /etc/stella/server.yaml, then: systemctl enable --now stella"
		;;
	esac
fi
