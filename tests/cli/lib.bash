# lib.bash - what every .bats file may use: `load lib` (from tests/fault: `load ../cli/lib`).
# Each test starts in an empty folder of its own, $T, with a run log of its own; programs are on the PATH, but bash has words of its own for
# `select` and `eval`: write "$BIN/select", "$BIN/eval".
ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
BIN=${BIN:-$ROOT/bin}
GOLDEN=$ROOT/tests/golden
PATH=$BIN:$PATH
export ROOT BIN GOLDEN PATH
[ -z "${BATS_TEST_TMPDIR-}" ] || export LATENT_RUNS=$BATS_TEST_TMPDIR.runs

setup() {
  T=$BATS_TEST_TMPDIR
  cd "$T"
}

# shared NAME: sets $shared_path to a file of the shared data, or skips, visibly.
shared() {
  shared_path=${LATENT_SHARED:-$ROOT/../shared}/$1
  if [ ! -e "$shared_path" ]; then
    echo "# skip: shared data absent: $1" >&3
    skip "shared data absent: $1"
  fi
}

# need PROGRAM...: skips where a program is not built (yet) or not installed.
need() {
  local p
  for p; do
    if ! command -v "$BIN/$p" >/dev/null && ! type -P "$p" >/dev/null; then
      echo "# skip: no program $p" >&3
      skip "no program $p"
    fi
  done
}

# stages: the programs that are there, without the front program.
stages() {
  local p
  for p in "$ROOT"/tools/*.c; do
    p=$(basename "$p" .c)
    case $p in tool | latent) ;; *) echo "$p" ;; esac
  done
}

# not COMMAND...: fails if COMMAND succeeds. (A bare `! command` fails a test only on its last line.)
not() {
  ! "$@"
}

# sum FILE...: one hash over the bytes, for comparing outputs.
sum() {
  cat -- "$@" | sha256sum | cut -c1-64
}

# same FILE FILE: the same bytes, or the first difference.
same() {
  cmp -- "$1" "$2"
}

# fails CODE REGEX COMMAND...: COMMAND exits with CODE and a line on stderr matches.
fails() {
  local want=$1 pattern=$2 got=0
  shift 2
  "$@" >"$BATS_TEST_TMPDIR/.stdout" 2>"$BATS_TEST_TMPDIR/.stderr" || got=$?
  if [ "$got" != "$want" ] || ! grep -qE -- "$pattern" "$BATS_TEST_TMPDIR/.stderr"; then
    echo "$*: exit $got, want $want and /$pattern/; stderr:"
    cat "$BATS_TEST_TMPDIR/.stderr"
    return 1
  fi
}
