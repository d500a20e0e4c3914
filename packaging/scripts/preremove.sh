#!/bin/sh
# Before the files of @NAME@ go. An upgrade is no reason to stop: the new version restarts what runs.
set -e
name=@NAME@
case "$1" in
remove | deconfigure | 0) ;;
*) exit 0 ;;
esac

if [ -d /run/systemd/system ]; then
	# 5: it is not loaded, so there is nothing to stop.
	systemctl stop "$name.service" || [ $? -eq 5 ]
fi
if command -v systemctl >/dev/null; then
	systemctl --quiet disable "$name.service"
fi
