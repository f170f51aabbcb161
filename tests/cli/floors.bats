load lib

# The floors of the library: a file includes only from floors below its own, or from its own folder. lib/text and lib/io
# and kernels stand side by side and do not know each other, nor do lib/infer and lib/train.
floor() {
  case $1 in
  tools/*) echo 7 ;;
  lib/rl/*) echo 6 ;;
  lib/task/*) echo 5 ;;
  lib/infer/* | lib/train/*) echo 4 ;;
  lib/model/*) echo 3 ;;
  lib/text/* | lib/io/* | kernels/*) echo 2 ;;
  lib/base/*) echo 1 ;;
  *) echo 0 ;;
  esac
}

# "FROM TO" for every #include "..." of the library, as paths from the root; a file that is not there (yet) counts as lib/.
includes() {
  local f name to
  grep -rHoE --include='*.[ch]' '^[[:space:]]*#[[:space:]]*include[[:space:]]+"[^"]+"' lib kernels tools |
    sed -E 's/^([^:]+):.*"([^"]+)"$/\1 \2/' | while read -r f name; do
    to=
    for d in "$(dirname "$f")" lib .; do
      if [ -e "$d/$name" ]; then to=$(realpath --relative-to=. "$d/$name") && break; fi
    done
    echo "$f ${to:-lib/$name}"
  done
}

@test "floors: an include goes down or stays in its folder" {
  cd "$ROOT"
  bad=0
  while read -r f to; do
    from=$(floor "$f")
    at=$(floor "$to")
    # generated headers (of protobuf-c) and things outside the floors have no place here
    if [ "$at" = 0 ]; then
      echo "$f includes $to, which is on no floor"
      bad=1
    elif [ "$at" -gt "$from" ]; then
      echo "$f (floor $from) includes $to (floor $at)"
      bad=1
    elif [ "$at" = "$from" ] && [ "$(cut -d/ -f1-2 <<<"${f/kernels\/*/kernels/x}")" != "$(cut -d/ -f1-2 <<<"${to/kernels\/*/kernels/x}")" ] &&
      [[ $f != tools/* ]]; then
      echo "$f includes $to: same floor, another folder"
      bad=1
    fi
  done < <(includes)
  [ "$bad" = 0 ]
}

@test "floors: no header includes itself by way of others" {
  cd "$ROOT"
  run bash -c "$(declare -f includes); includes | grep -E '^[^ ]+\.h [^ ]+\.h$' | tsort 2>&1 >/dev/null | grep -v '^tsort: -: input'"
  [ -z "$output" ] || { echo "$output"; return 1; }
}

@test "floors: no folder of the library depends on one that depends on it" {
  cd "$ROOT"
  run bash -c "$(declare -f includes); includes | sed -E 's#(lib/[^/]+|kernels|tools)/[^ ]*#\1#g' | awk '\$1 != \$2' | sort -u | tsort 2>&1 >/dev/null"
  [ -z "$output" ] || { echo "$output"; return 1; }
}

@test "library code never exits and never prints results (running out of memory, lib/base/mem.c, aside)" {
  cd "$ROOT"
  run bash -c "find lib kernels -name '*.c' ! -path lib/base/mem.c ! -path 'kernels/cuda/*' -print0 |
    xargs -0 grep -nE '(^|[^_a-zA-Z.>])(exit|_exit|_Exit)[[:space:]]*\(|(^|[^_a-zA-Z])(printf|puts|putchar)[[:space:]]*\(|\<stdout\>' |
    grep -vE '^[^:]+:[0-9]+:[[:space:]]*(/?\*|//)'"
  [ -z "$output" ] || { echo "$output"; return 1; }
}

@test "tests: no bare ! in a bats file, which fails nothing unless it is the last line (use: not COMMAND)" {
  cd "$ROOT"
  run bash -c "grep -rnE --include='*.bats' '^[[:space:]]*![[:space:]]' tests"
  [ -z "$output" ] || { echo "$output"; return 1; }
}
