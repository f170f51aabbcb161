#!/usr/bin/env bash
# device.sh - everything that needs a GPU, in one command: checks the kernels on the device, then times them.
# usage: tests/bench/device.sh [LOGDIR [PART...]]        (from anywhere in a checkout)
#   parts: check (default) kernel tests and golden checkpoints on the device, then the table of timings
#          sanitizer       the kernel tests under compute-sanitizer: memcheck, racecheck, synccheck
#          profile         ncu over the timings, where it is there and may read counters
# It uses what is built (build/, from make everything) and builds what is not. Full logs go to LOGDIR (build/device); the
# last lines are a table. Exit 0 only if a device was there and every check passed. It reads only tests/golden.
set -u
cd "$(dirname "$0")/../.." || exit 1
logs=$(realpath -m "${1:-build/device}")
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- check
build=${BUILD:-build}
device=${DEVICE:-cuda:0}
plugin=$build/cuda/latent_cuda.so
failed=0 lines=
mkdir -p "$logs" || exit 1

note() { lines+=$(printf '%-28s %s' "$1" "$2")$'\n'; }

# run NAME SECONDS COMMAND...: its output to a log, its verdict to the table
run() {
  local name=$1 limit=$2 log status
  shift 2
  log=$logs/${name//[^a-z0-9_.-]/_}.log
  timeout -k 10 "$limit" "$@" >"$log" 2>&1
  status=$?
  case $status in
  0) note "$name" "ok" ;;
  124 | 137) note "$name" "FAILED: over $limit s"; failed=1 ;;
  *) note "$name" "FAILED ($status): $(grep -m1 -E 'skip:|ERROR|error|FAILED|bug' "$log" | cut -c1-160)"; failed=1 ;;
  esac
}

if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L >"$logs/gpus.log" 2>&1; then
  echo "device.sh: no NVIDIA GPU can be used here; nothing was checked" >&2
  exit 1
fi
tests=(rows attend sample golden greedy)
missing=0
for t in "${tests[@]}"; do [ -x "$build/tests/cuda/${t}_test" ] || missing=1; done
if [ ! -e "$plugin" ] || [ ! -x "$build/bench/device_bench" ] || [ $missing = 1 ]; then
  if ! make -j"$(nproc)" "$plugin" "$build/bench/device_bench" "${tests[@]/#/$build/tests/cuda/}" \
    >"$logs/make.log" 2>&1 && ! make -j"$(nproc)" everything >>"$logs/make.log" 2>&1; then
    echo "device.sh: the build failed: $logs/make.log" >&2
    exit 1
  fi
fi
LATENT_CUDA=$(realpath "$plugin")
export LATENT_CUDA LATENT_TEST_DEVICE=$device

for part; do
  case $part in
  check)
    for t in "${tests[@]}"; do run "test-$t" 60 "$build/tests/cuda/${t}_test"; done
    run bench 240 "$build/bench/device_bench" "$device"
    ;;
  sanitizer)
    if command -v compute-sanitizer >/dev/null; then
      for tool in memcheck racecheck synccheck; do
        for t in rows attend sample; do
          run "$tool-$t" 240 compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/tests/cuda/${t}_test"
        done
      done
    else
      note sanitizer "skipped: no compute-sanitizer"
    fi
    ;;
  profile)
    if command -v ncu >/dev/null; then
      run profile 240 ncu --set basic --launch-count 60 -o "$logs/profile" -f "$build/bench/device_bench" "$device"
    else
      note profile "skipped: no ncu"
    fi
    ;;
  *)
    echo "device.sh: unknown part '$part': check, sanitizer or profile" >&2
    exit 2
    ;;
  esac
done

cat "$logs/gpus.log"
printf '%s' "$lines"
[ ! -s "$logs/bench.log" ] || cat "$logs/bench.log"
exit $failed
