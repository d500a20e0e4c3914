# What Stella does on a target's host: functions for a POSIX shell with coreutils or busybox. Each
# script that is sent begins with these, and is run only when it has come as a whole.
#
# shellcheck shell=sh disable=SC2154,SC2015
#
# Scripts set $dir, the target's folder, and are in it, and some $stage, a folder of this task. What they find they print as "=name value", and files as
# "@name size" with the file behind it, and lines of a log as ">line"; what is wrong they say to stderr, and exit with 1.
#
# Names of files may be anything: they are always quoted, and begin with ./ so that no program takes
# one for an option.

die() {
  printf '%s\n' "$*" >&2
  exit 1
}

value() { printf '=%s %s\n' "$1" "$2"; }

# section NAME FILE: prints a file, if it is there.
section() {
  [ -f "$2" ] || return 0
  size=$(wc -c <"$2") || die "$2 cannot be read"
  [ "$size" -le 4194304 ] || die "$2 is larger than 4 MiB: that is no file of Stella's"
  printf '@%s %d\n' "$1" "$size"
  cat "$2" || die "$2 cannot be read"
  echo
}

# ---------------------------------------------------------------------------------------------------
# Processes. Those of a task or a release bear a mark in their environment.

# marked MARK: the processes that bear it. One that just executes another program shows no
# environment while it does, so where nobody is found, it is looked once more.
marked() {
  pids=$(marked_now "$1")
  [ -n "$pids" ] || {
    sleep 0.02 2>/dev/null || :
    pids=$(marked_now "$1")
  }
  printf '%s' "$pids"
}

# marked_now MARK: who is seen to bear it at once. Not every grep can read text with NULs in it.
marked_now() {
  if printf 'a\0b\0' | grep -qzF b 2>/dev/null; then
    grep -lszF -e "$1" /proc/[0-9]*/environ 2>/dev/null | while IFS=/ read -r _ _ pid _; do
      printf '%s ' "$pid"
    done
  else
    for at in /proc/[0-9]*; do
      if bears "${at#/proc/}" "$1"; then printf '%s ' "${at#/proc/}"; fi
    done
  fi
}

# bears PID MARK: true when that process bears it.
bears() { { tr '\0' '\n' <"/proc/$1/environ" | grep -qF -e "$2"; } 2>/dev/null; }

pause() { sleep 0.1 2>/dev/null || sleep 1; }

# end_marked MARK TENTHS: asks the processes with a mark to end, and kills those that have not after
# so many tenths of a second; of these it says how many.
end_marked() {
  pids=$(marked "$1")
  [ -n "$pids" ] || return 0
  left=$2
  # shellcheck disable=SC2086 # a list of numbers
  [ "$left" -eq 0 ] || kill -TERM $pids 2>/dev/null
  sleep 0.02 2>/dev/null || : # most end at once
  while [ "$left" -gt 0 ]; do
    pause
    left=$((left - 1))
    pids=$(marked "$1")
    [ -n "$pids" ] || return 0
  done
  # shellcheck disable=SC2086
  set -- "$1" $pids
  value killed $(($# - 1))
  # One that forks while it is looked for is found on the next round.
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    # shellcheck disable=SC2086
    kill -KILL $pids 2>/dev/null
    pause
    pids=$(marked "$1")
    [ -n "$pids" ] || return 0
  done
  die "the processes $pids cannot be ended: they are another user's, or hang in the kernel"
}

# end_group GROUP MARK TENTHS: ends a command that was cut short, with all that it started: what is in
# its process group, and what has left that but bears the mark.
end_group() {
  [ "$1" -gt 1 ] && kill -TERM "-$1" 2>/dev/null
  end_marked "$2" "$3"
  [ "$1" -gt 1 ] && kill -KILL "-$1" 2>/dev/null
  return 0
}

# end_shells TASK SESSION: ends what other connections of this task left running: sshd does not end
# a shell whose connection is gone.
end_shells() {
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    others=
    for pid in $(marked "STELLA_SHELL_OF=$1;"); do
      bears "$pid" "STELLA_SHELL_OF=$1;$2;" || {
        # What has just looked for others is gone by now, and was none.
        [ ! -e "/proc/$pid" ] || others="$others $pid"
      }
    done
    [ -n "$others" ] || return 0
    # shellcheck disable=SC2086
    kill -KILL $others 2>/dev/null
    pause
  done
  die "the processes$others of an earlier connection cannot be ended"
}

# ---------------------------------------------------------------------------------------------------
# The folder as a whole.

# entries FUNCTION: calls it with all that is in the current folder, less what is Stella's own; the
# description of the release belongs to the release.
entries() {
  call=$1
  set --
  for e in * .[!.]* ..?*; do
    case $e in
      .stella-release.json) ;;
      .stella*) continue ;;
    esac
    if [ -e "./$e" ] || [ -L "./$e" ]; then set -- "$@" "./$e"; fi
  done
  [ $# -eq 0 ] || "$call" "$@"
}

copy_into() { cp -a "$@" "$into/"; }
move_into() { mv -f "$@" "$into/"; }

# out_of_the_way FILE...: moves from $dir what has the name of one of these.
out_of_the_way() {
  for e in "$@"; do
    if [ -e "$dir/$e" ] || [ -L "$dir/$e" ]; then mv -f "$dir/$e" "$into/" || return; fi
  done
}

# The backup has its name only when it is whole.
back_up() {
  rm -rf .stella-backup .stella-backup.part || exit
  mkdir -m 700 .stella-backup.part || exit
  into=.stella-backup.part
  entries copy_into || die "the backup of $dir is not whole; nothing was changed"
  mv .stella-backup.part .stella-backup || exit
}

# empty: moves all that is in the folder aside.
empty() {
  into=$dir/.stella-trash/$$
  mkdir -p -m 700 .stella-trash && mkdir -p "$into" || exit
  entries move_into || die "$dir cannot be emptied"
}

# restore: makes the folder what the backup says, by renaming alone: no space is needed. It may be cut
# off anywhere, and called again: only what is emptied has .stella-restoring.
restore() {
  if [ -d .stella-backup ]; then
    empty
    mv .stella-backup .stella-restoring || exit
  fi
  if [ -d .stella-restoring ]; then
    into=$dir/.stella-trash/$$
    mkdir -p "$into" && cd .stella-restoring || exit
    entries out_of_the_way || die "$dir cannot be restored"
    into=$dir
    entries move_into || die "$dir cannot be restored"
    cd "$dir" || exit
    rmdir .stella-restoring || exit
  fi
  rm -rf .stella-trash || exit
}

# fill_from FOLDER: makes the folder a copy of another.
fill_from() {
  empty
  cd "$1" || exit
  into=$dir
  entries copy_into || die "$1 cannot be copied into $dir"
  cd "$dir" || exit
}

# ---------------------------------------------------------------------------------------------------
# Files of a release.

newline='
'

# inside FOLDER: true when what there is of a folder, relative to $dir, is in $dir: links may lead
# elsewhere.
inside() {
  p=$1
  while [ "$p" != . ] && [ ! -e "./$p" ]; do
    [ ! -L "./$p" ] || return 1
    case $p in
      */*) p=${p%/*} ;;
      *) p=. ;;
    esac
  done
  [ -d "./$p" ] || return 1
  # The dot keeps newlines at the end of a name, which $(…) would take away.
  there=$(cd -P "./$p" && pwd -P && echo .) || return 1
  root=$(pwd -P && echo .)
  case $there in
    "$root" | "${root%"$newline".}"/*) return 0 ;;
  esac
  return 1
}

# fits NAME FOLDER: stops when a file cannot have that name.
fits() {
  inside "$2" || die "the folder of $1 leads out of $dir, or is no folder: no file is put there"
  if [ -d "./$1" ] && [ ! -L "./$1" ]; then die "$1 is a folder, and the release has a file of that name"; fi
}

# put FILE NAME: renames a file into its place. A link to a folder is replaced, not followed.
put() {
  if [ -L "./$2" ] && [ -d "./$2" ]; then rm -f "./$2" || exit; fi
  mv -f "$1" "./$2" || exit
}

# drop NAME FOLDER: removes a file of the release before.
drop() {
  if inside "$2"; then rm -f "./$1"; fi
}

# keep NAME INDEX: keeps what a file replaces. A copy gets its name only when it is whole.
keep() {
  if [ -e "./$1" ] || [ -L "./$1" ]; then
    ln "./$1" "$stage/old/$2" 2>/dev/null && return
    cp -a "./$1" "$stage/old/$2.part" && mv "$stage/old/$2.part" "$stage/old/$2" || exit
  fi
}

# take_back NAME INDEX: undoes keep and put, as often as it is called.
take_back() {
  [ ! -e "$stage/new/$2" ] || return 0 # it was never put in its place
  if [ -e "$stage/old/$2" ] || [ -L "$stage/old/$2" ]; then
    rm -f "$stage/old/$2.back" && cp -a "$stage/old/$2" "$stage/old/$2.back" && mv -f "$stage/old/$2.back" "./$1" || exit
  else
    rm -f "./$1" || exit
  fi
}

# write PATH MODE TEXT: writes a small file, whole or not at all.
write() {
  mkdir -p "$(dirname "$1")" || exit
  rm -f "$1.stella-part"
  printf '%s' "$3" >"$1.stella-part" && chmod "$2" "$1.stella-part" && sync_file "$1.stella-part" &&
    mv -f "$1.stella-part" "$1" || { rm -f "$1.stella-part"; exit 1; }
}

# sync_file FILE: coreutils can bring one file to disk; elsewhere the system does in its time.
sync_file() { sync "$1" 2>/dev/null || :; }
