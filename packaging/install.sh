#!/bin/sh
# Installs, upgrades and removes Stella's agent on a Linux host: with systemd, with OpenRC, or without
# either. It needs root (or sudo), and curl or wget.
#
# What it fetches is checked by the checksums below, so what has to be trusted is this very file: fetch
# it as `stella agent bootstrap` says, by the pin of the server's key.
set -eu

# The server that gives this file out fills these in.
server='' # its URL
token=''  # a registration token; only where somebody asked for a file with one in it
sums=''   # a line for each program: its SHA-256 and its architecture

user=stella-agent
data=/var/lib/stella-agent
etc=/etc/stella-agent
run=/run/stella-agent
log=/var/log/stella-agent.log # not with systemd, which has a journal
own=/usr/local/bin/stella-agent
bin=$own
unit=/etc/systemd/system/stella-agent.service
rc=/etc/init.d/stella-agent
config=$etc/agent.yaml

usage() {
  cat <<'TEXT'
Usage: sh install.sh [OPTION...]

Installs Stella's agent, registers this host, starts the agent and waits until the server has it.
Run again, it upgrades what is there, or does nothing.

  --token-file FILE  the registration token; or put it into the variable STELLA_BOOTSTRAP_TOKEN
  --token TOKEN      the same, where other users of this host can see it in the list of processes
  --server URL       the server; the one that this file came from when left out
  --name NAME        the agent's name; the token's, or this host's, when left out
  --binary FILE      take the agent's program from this file, and fetch none
  --no-docker        do not let the agent use Docker, though it is there
  --wait SECONDS     how long to wait for the agent to be online (default 60)
  --uninstall        remove the agent; its data and configuration stay
  --purge            with --uninstall: remove these too
TEXT
}

say() { printf '%s\n' "$*"; }

die() {
  printf 'install: %s\n' "$*" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

scratch='' # a folder of this run
new=''     # a program that is not in its place yet
cleanup() {
  [ -z "$scratch" ] || rm -rf "$scratch"
  [ -z "$new" ] || rm -f "$new"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

# ---------------------------------------------------------------------------------------------------
# What was asked for.

arguments() {
  name='' token_file='' binary='' docker=yes wait=60 uninstall='' purge=''
  while [ $# -gt 0 ]; do
    case $1 in
      --token | --token-file | --server | --name | --binary | --wait)
        [ $# -ge 2 ] || die "$1 needs a value: see --help"
        value=$2
        ;;
    esac
    case $1 in
      --token) token=$value && shift ;;
      --token-file) token_file=$value && shift ;;
      --server) server=$value && shift ;;
      --name) name=$value && shift ;;
      --binary) binary=$value && shift ;;
      --wait) wait=$value && shift ;;
      --no-docker) docker='' ;;
      --uninstall) uninstall=yes ;;
      --purge) purge=yes ;;
      --help | -h) usage && exit 0 ;;
      *) die "an argument is none of its options (it may be a token, and is not repeated): see --help" ;;
    esac
    shift
  done
  [ -z "$purge" ] || [ -n "$uninstall" ] || die "--purge goes with --uninstall"
  case $wait in '' | *[!0-9]*) die "--wait takes a number of seconds" ;; esac
  case $server in https://?* | '') ;; *) die "the server $server is no https:// URL" ;; esac
  # They go into a file as they are.
  case $server$name in *[!A-Za-z0-9._~:/@%+=,[\]-]*) die "the server's URL or the agent's name has a character that it may not have" ;; esac
}

# root goes on as root, by sudo where need be. The token goes along in a file, which is read once.
root() {
  [ "$(id -u)" != 0 ] || return 0
  have sudo || die "run it as root: there is no sudo here"
  [ -f "$0" ] || die "run it as root: it was not started from a file, so sudo cannot run it again"
  scratch=$(mktemp -d)
  if [ -z "$token$token_file" ]; then token=${STELLA_BOOTSTRAP_TOKEN-}; fi
  if [ -n "$token" ]; then
    (umask 077 && printf '%s\n' "$token" >"$scratch/token")
    set -- "$@" --token-file "$scratch/token"
  fi
  say "This needs root: sudo may ask for your password."
  code=0
  STELLA_BOOTSTRAP_TOKEN='' sudo sh "$0" "$@" || code=$?
  exit "$code"
}

the_token() {
  if [ -n "$token_file" ]; then
    [ -r "$token_file" ] || die "the token's file $token_file cannot be read"
    token=$(cat "$token_file")
  fi
  [ -n "$token" ] || token=${STELLA_BOOTSTRAP_TOKEN-}
  unset STELLA_BOOTSTRAP_TOKEN
  case $token in
    '' | reg_*_*) ;;
    *) die "the token is not whole: it reads reg_…_…; copy all of it" ;;
  esac
}

# ---------------------------------------------------------------------------------------------------
# This host.

host() {
  [ "$(uname -s)" = Linux ] || die "this is for Linux, and this is $(uname -s): see the documentation for other systems"
  case $(uname -m) in
    x86_64 | amd64) arch=amd64 ;;
    aarch64 | arm64) arch=arm64 ;;
    *) die "there is no agent for machines of the kind $(uname -m): for x86_64 and aarch64 there are" ;;
  esac
  init=none
  if [ -d /run/systemd/system ]; then
    init=systemd
  elif have rc-service && [ -d /run/openrc ]; then
    init=openrc
  fi
  # A package's program is the package manager's to replace.
  packaged=''
  if [ -x /usr/bin/stella-agent ]; then
    packaged=yes bin=/usr/bin/stella-agent
  fi
}

in_group() { id -nG "$user" | tr ' ' '\n' | grep -qx "$1"; }
a_group() { if have getent; then getent group "$1" >/dev/null; else grep -q "^$1:" /etc/group; fi; }

account() {
  nologin=/bin/false
  for shell in /usr/sbin/nologin /sbin/nologin; do [ ! -x "$shell" ] || nologin=$shell; done
  if ! a_group "$user"; then
    if have groupadd; then groupadd --system "$user"; else addgroup -S "$user"; fi
  fi
  if ! id "$user" >/dev/null 2>&1; then
    if have useradd; then
      useradd --system --gid "$user" --home-dir "$data" --no-create-home --shell "$nologin" --comment "Stella's agent" "$user"
    else
      adduser -S -D -H -h "$data" -s "$nologin" -G "$user" -g "Stella's agent" "$user"
    fi
  fi
  if [ -n "$docker" ] && a_group docker && ! in_group docker; then
    if have usermod; then usermod -aG docker "$user"; else addgroup "$user" docker; fi
    say "The agent may use Docker: its user $user is in the group docker now (--no-docker leaves it out)."
  fi
  install -d -m 0755 "${own%/*}"
  install -d -m 0700 -o "$user" -g "$user" "$data"
  install -d -m 0750 -o root -g "$user" "$etc"
  install -d -m 0750 -o "$user" -g "$user" "$run"
}

# as_agent COMMAND: runs a shell's command as the agent's user, in its groups, with the folders that the
# service has.
as_agent() {
  STELLA_DATA=$data STELLA_SOCKET=$run/agent.sock STELLA_BOOTSTRAP_TOKEN=$token su -s /bin/sh "$user" -c "cd / && $1"
}

# ---------------------------------------------------------------------------------------------------
# The program.

sha256() {
  if have sha256sum; then sha256sum <"$1" | cut -d' ' -f1; else openssl dgst -sha256 -r <"$1" | cut -d' ' -f1; fi
}

fetch() {
  if have curl; then
    curl -fsSk --connect-timeout 15 --retry 2 -o "$2" "$1"
  elif have wget; then
    wget -q -T 60 --no-check-certificate -O "$2" "$1"
  else
    die "there is neither curl nor wget: install one, or copy the agent's program here and give --binary"
  fi || die "the agent's program could not be fetched from $1: does a firewall let the server's port through, and does this machine's TLS know version 1.3?"
}

# program puts the agent's program in place, if it is not there; changed says whether it did.
program() {
  changed=''
  if [ -n "$packaged" ]; then
    say "The agent is a package here: apt, dnf or the like upgrade it."
    return
  fi
  want=''
  if [ -z "$binary" ]; then
    [ -n "$sums" ] || die "this file came from no server: give --binary, or fetch it anew as \`stella agent bootstrap\` says"
    want=$(printf '%s\n' "$sums" | sed -n "s/^\([0-9a-f]\{64\}\) $arch\$/\1/p")
    [ -n "$want" ] || die "the server has no agent for linux/$arch: see its documentation on adding one, or give --binary"
    if [ -x "$bin" ] && [ "$(sha256 "$bin")" = "$want" ]; then
      return
    fi
  fi
  # Beside the place where it goes, so that it is moved there at once or not at all.
  new=$(mktemp "$bin.XXXXXX")
  if [ -n "$binary" ]; then
    cat "$binary" >"$new" || die "$binary cannot be read"
  else
    say "Fetching the agent for linux/$arch from $server"
    fetch "$server/download/linux/$arch/stella-agent" "$new"
    got=$(sha256 "$new")
    [ "$got" = "$want" ] ||
      die "what came from $server is not the agent that this file is for (SHA-256 $got, not $want): the server was upgraded meanwhile, or somebody is in between; fetch this file anew"
  fi
  chmod 0755 "$new"
  "$new" version >/dev/null || die "the agent's program does not run on this machine"
  if [ -x "$bin" ]; then
    [ "$(sha256 "$bin")" != "$(sha256 "$new")" ] || return 0
    ln -f "$bin" "$bin.previous" # to go back by hand
  fi
  mv -f "$new" "$bin"
  changed=yes
}

# ---------------------------------------------------------------------------------------------------
# Identity and service.

identity() {
  registered=''
  [ ! -e "$data/identity.json" ] || registered=yes
  [ -n "$registered$token" ] || die "this host is not registered, and there is no token: make one with \`stella agent bootstrap\`, and give it by STELLA_BOOTSTRAP_TOKEN or --token-file"
  if [ ! -e "$config" ]; then
    [ -n "$server" ] || die "which server? give --server"
    {
      say "# The agent's configuration: see docs/agent.md for all keys."
      say "agent:"
      [ -z "$name" ] || say "  name: \"$name\""
      say "  orchestrator_url: \"$server\""
    } >"$config.new"
    chmod 0640 "$config.new"
    chgrp "$user" "$config.new"
    mv -f "$config.new" "$config"
    wrote=yes
  fi
  [ -z "$registered" ] || return 0
  say "Registering this host"
  if ! as_agent "exec '$bin' register --config '$config' --register-timeout 10s"; then
    # The next try may be with another server.
    [ -z "${wrote-}" ] || rm -f "$config"
    die "this host is not registered, for the reason above; nothing was started. Run it again when that is mended, or with --uninstall --purge to remove what it has installed"
  fi
}

# replace FILE MODE: makes a file what comes from standard input; changed says whether that was new.
replace() {
  cat >"$1.new"
  chmod "$2" "$1.new"
  if cmp -s "$1" "$1.new"; then
    rm -f "$1.new"
  else
    mv -f "$1.new" "$1"
    changed=yes
  fi
}

service() {
  case $init in
    systemd)
      if [ -z "$packaged" ]; then
        "$bin" unit systemd | replace "$unit" 0644
        systemctl daemon-reload
      fi
      systemctl enable --quiet stella-agent
      if [ -n "$changed" ]; then systemctl restart stella-agent; else systemctl start stella-agent; fi || {
        journalctl -u stella-agent -n 20 --no-pager >&2 || :
        die "the service does not start: its log is above (the program before is $bin.previous, if there was one)"
      }
      ;;
    openrc)
      "$bin" unit openrc | replace "$rc" 0755
      rc-update -q add stella-agent default
      if [ -n "$changed" ]; then rc-service -q stella-agent restart; else rc-service -qN stella-agent start; fi ||
        die "the service does not start: OpenRC says above why"
      ;;
    none)
      if [ -n "$changed" ]; then stop; fi
      running || {
        : >>"$log" && chown "$user:$user" "$log" && chmod 0640 "$log"
        token='' as_agent "{ '$bin' run --config '$config' </dev/null >>'$log' 2>&1 & echo \$! >'$run/agent.pid'; }"
        say "There is no systemd and no OpenRC here: the agent runs (its log is $log), but nothing starts it when this machine does. Have something run, as user $user:"
        say "  STELLA_DATA=$data STELLA_SOCKET=$run/agent.sock $bin run --config $config"
      }
      ;;
  esac
}

running() { [ -s "$run/agent.pid" ] && kill -0 "$(cat "$run/agent.pid")" 2>/dev/null; }

stop() {
  running || return 0
  pid=$(cat "$run/agent.pid")
  kill "$pid" 2>/dev/null || :
  tenths=0
  while kill -0 "$pid" 2>/dev/null && [ "$tenths" -lt 450 ]; do # it lets tasks end
    sleep 0.1 2>/dev/null || sleep 1
    tenths=$((tenths + 1))
  done
  rm -f "$run/agent.pid"
}

online() {
  if ! as_agent "exec '$bin' status --wait ${wait}s"; then
    case $init in
      systemd) hint="journalctl -u stella-agent" ;;
      *) hint=$log ;;
    esac
    die "the agent is installed, and goes on trying, but it is not online, for the reason above; $hint tells more"
  fi
}

# ---------------------------------------------------------------------------------------------------

remove() {
  [ -z "$packaged" ] || die "the agent is a package here: remove it with apt, dnf or the like"
  case $init in
    systemd)
      if [ -e "$unit" ]; then
        systemctl disable --quiet --now stella-agent || :
        rm -f "$unit"
        rm -rf "$unit.d"
        systemctl daemon-reload
        systemctl reset-failed stella-agent 2>/dev/null || :
      fi
      ;;
    openrc)
      if [ -e "$rc" ]; then
        rc-service -q stella-agent stop || :
        rc-update -q del stella-agent || :
        rm -f "$rc"
      fi
      ;;
    none) stop ;;
  esac
  rm -f "$bin" "$bin.previous"
  rm -rf "$run"
  if [ -z "$purge" ]; then
    say "The agent is removed. Its identity and configuration are still in $data and $etc (--purge removes them)."
    return
  fi
  rm -rf "$data" "$etc" "$log"
  if id "$user" >/dev/null 2>&1; then
    if have userdel; then userdel "$user"; else deluser "$user"; fi
  fi
  if a_group "$user"; then
    if have groupdel; then groupdel "$user"; else delgroup "$user"; fi
  fi
  say "The agent is removed with all that it had here. Have the server forget it: \`stella agent delete NAME\`."
}

main() {
  arguments "$@"
  root "$@"
  the_token
  host
  if [ -n "$uninstall" ]; then
    remove
    return
  fi
  account
  program
  identity
  service
  online
}

main "$@"
