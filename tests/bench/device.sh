#!/usr/bin/env bash
# device.sh - everything that needs a GPU, in one command: checks the kernels on the device, and times them.
# usage: tests/bench/device.sh [LOGDIR [PART...]]        (in a checkout, or in a tree of `make dist`)
#   check      (default) limits of the machine, kernel tests, golden checkpoints and trainings on the device
#   kernels    each operation alone                       decode     whole decode steps
#   prefill    packed prompts                             train      a LoRA step
#   encoder    XLM-R-large                                sanitizer  the tests under compute-sanitizer
#   profile    ncu over decode steps                      peers      transformers and PEFT on this GPU, where Python has them
#   all        every part; each takes at most 4 minutes
# It uses what is built and builds what is not. Full logs go to LOGDIR (build/device); the last lines are a table, each
# figure with its share of its limit. It reads only tests/golden. DEVICE=cuda:N picks another device; DEVICE=emulation walks
# through the script itself where there is none.
# Exit: 0 every check passed, 1 something failed, 2 misuse, 3 there is no CUDA device (nothing was run on one).
set -u
cd "$(dirname "$0")/../.." || exit 1
logs=$(realpath -m "${1:-build/device}")
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- check
build=${BUILD:-build}
device=${DEVICE:-cuda:0}
tests=(rows attend varlen sample train keep chance golden greedy replay)
every=(check kernels decode prefill train encoder sanitizer profile peers)
failed=0 lines=

say() { echo "device.sh: $*" >&2; }
note() { lines+=$(printf '%-22s %s' "$1" "$2")$'\n'; }
have() { command -v "$1" >/dev/null; }
timings() { grep -vE '^(#|==|--)' "$logs/$1.log" | sed 's/^/  /'; }

[ "$*" != all ] || set -- "${every[@]}"
for part; do
  case " ${every[*]} " in
  *" $part "*) ;;
  *) say "unknown part '$part': ${every[*]} or all"; exit 2 ;;
  esac
done
mkdir -p "$logs" || exit 1

# run NAME SECONDS COMMAND...: its output to a log, its verdict to the table; ends at what is left of the part's minutes
run() {
  local name=$1 limit=$2 log=$logs/$1.log left status
  shift 2
  left=$((part_end - SECONDS))
  [ "$limit" -le "$left" ] || limit=$left
  if [ "$limit" -lt 1 ]; then
    note "$name" "NOT RUN: the part's 4 minutes are over"
    failed=1
    return 1
  fi
  timeout -k 5 "$limit" "$@" >"$log" 2>&1
  status=$?
  case $status in
  0) note "$name" "ok" ;;
  124 | 137) note "$name" "FAILED: over $limit s, see $log" ;;
  *) note "$name" "FAILED ($status): $(grep -m1 -E 'skip:|ERROR|[Ee]rror|FAILED|bug|got ' "$log" | cut -c1-160)" ;;
  esac
  [ $status -eq 0 ] || failed=1
  return $status
}

bench() {
  run "$1" 235 "$build/bench/device_bench" "$device" "$1"
  lines+=$(timings "$1")$'\n'
}

sanitizer() {
  have compute-sanitizer || { note sanitizer "skipped: no compute-sanitizer"; return; }
  local tool t
  for tool in memcheck racecheck synccheck initcheck; do
    for t in rows train sample attend varlen; do
      run "$tool-$t" 60 compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/tests/cuda/${t}_test"
    done
  done
}

profile() {
  have ncu || { note profile "skipped: no ncu"; return; }
  if ncu --set basic --launch-count 1 "$build/bench/device_bench" "$device" limits 2>&1 | grep -q ERR_NVGPUCTRPERM; then
    note profile "skipped: this machine does not let counters be read"
    return
  fi
  run profile 200 ncu --set basic --kernel-name 'regex:attend|rows|flat|sample|gemm' --launch-skip 200 --launch-count 40 \
    "$build/bench/device_bench" "$device" decode
}

# The reference on the same GPU, random weights of the same shape: what the timings above are to be held against.
peers() {
  have python3 || { note peers "skipped: no python3"; return; }
  local why
  why=$(python3 -c 'import torch, transformers, peft; assert torch.cuda.is_available(), "torch sees no GPU"' 2>&1 | tail -1)
  [ -z "$why" ] || { note peers "skipped: $why"; return; }
  run peers 235 python3 tests/bench/device_peer.py
  lines+=$(timings peers)$'\n'
}

check() {
  local t
  run limits 60 "$build/bench/device_bench" "$device" limits
  lines+=$(grep '^#' "$logs/limits.log")$'\n'
  for t in "${tests[@]}"; do run "test-$t" 60 "$build/tests/cuda/${t}_test"; done
}

plugin=$build/cuda/latent_cuda.so
[ -e "$plugin" ] || plugin=lib/latent/latent_cuda.so # a tree of make dist
needed=("$build/bench/device_bench")
for t in "${tests[@]}"; do needed+=("$build/tests/cuda/${t}_test"); done
[ "$device" = emulation ] || needed+=("$plugin")
missing=()
for f in "${needed[@]}"; do [ -e "$f" ] || missing+=("$f"); done
if [ ${#missing[@]} -gt 0 ]; then
  if [ ! -e Makefile ]; then
    say "not in this tree: ${missing[*]} (was no nvcc there when it was made?)"
    exit 1
  fi
  say "building ${missing[*]}"
  if ! make -j"$(nproc)" "${missing[@]/#lib\/latent/$build/cuda}" >"$logs/make.log" 2>&1; then
    say "the build failed: $logs/make.log"
    exit 1
  fi
  [ -e "$plugin" ] || plugin=$build/cuda/latent_cuda.so
fi

if [ "$device" = emulation ]; then
  export LATENT_BENCH_SMALL=1
  device=cpu # what device_bench times; the tests take the emulation
  echo "a walk through this script on the emulation and the CPU, tiny shapes: says nothing of a device" >"$logs/gpus.log"
else
  LATENT_CUDA=$(realpath "$plugin")
  export LATENT_CUDA LATENT_TEST_DEVICE=$device
  # The plugin itself says why there is none: no driver, an old one, no GPU, another build.
  if ! have nvidia-smi || ! nvidia-smi -L >"$logs/gpus.log" 2>&1; then
    timeout 60 "$build/bench/device_bench" "$device" limits >"$logs/limits.log" 2>&1
    say "no CUDA device: $(sed -n 's/^# skip: device_bench: //p' "$logs/limits.log"); nothing was checked on one"
    exit 3
  fi
fi

for part; do
  part_end=$((SECONDS + 235))
  start=$SECONDS
  case $part in
  check) check ;;
  sanitizer) sanitizer ;;
  profile) profile ;;
  peers) peers ;;
  *) bench "$part" ;;
  esac
  note "($part)" "$((SECONDS - start)) s"
done

cat "$logs/gpus.log"
printf '%s' "$lines"
if [ $failed = 0 ]; then echo "all checks passed"; else echo "SOMETHING FAILED; logs: $logs"; fi
exit $failed
