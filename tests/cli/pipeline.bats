load lib

pipeline() {
  make -f "$ROOT/pipelines/tokenskip_math.mk" BIN="$BIN" "$@"
}

# ---- Make's part, with stages that only note their call ----

# fakes DIR: programs that write their arguments to calls and copy input to output. FAIL=NAME makes that one fail,
# SLOW=NAME sleep. They have no keys.
fakes() {
  mkdir -p fake
  cat >fake/stage <<'END'
#!/bin/bash
set -eu
name=$(basename "$0")
echo "$name $*" >>"$CALLS"
out= dir= ins=() ratios=
while [ $# -gt 0 ]; do
  case $1 in
  -o) out=$2; shift ;;
  --output-dir) dir=$2; shift ;;
  --ratio) ratios=$2; shift ;;
  --plan | --no-grade | --require-provenance | --fill) ;;
  --*) shift ;;
  *) ins+=("$1") ;;
  esac
  shift
done
[ "${SLOW-}" != "$name" ] || sleep 2
[ -z "$out" ] || mkdir -p "$(dirname "$out")"
if [ "${FAIL-}" = "$name" ]; then [ -z "$out" ] || echo half >"$out"; echo "$name: it broke" >&2; exit 1; fi
for r in ${ratios//,/ }; do mkdir -p "$dir"; echo "{\"ratio\": $r}" >"$dir/math_eval_ratio_$r.jsonl"; done
[ -n "$out" ] || exit 0
[ "$name" != dataset ] || ins=()
{ echo "{\"made_by\": \"$name\"}"; [ ${#ins[@]} = 0 ] || cat "${ins[@]}"; } >"$out"
END
  chmod +x fake/stage
  local s
  for s in dataset collect grade eval report; do ln -sf stage fake/$s; done
  export CALLS=$T/calls
  : >calls
}

@test "pipeline: every stage is called once, in order, and the table is printed" {
  fakes
  run pipeline BIN=fake
  [ "$status" = 0 ]
  [[ $output == "tokenskip_math: model "* ]]
  [[ $output == *'{"made_by": "report"}'* ]]
  [ "$(cut -d' ' -f1 calls | sort | tr '\n' ' ')" = "collect dataset dataset eval grade report " ]
  [ -z "$(grep -v -- --require-provenance calls)" ]
}

@test "pipeline: a dead stage fails the run, and nothing behind it runs" {
  fakes
  for s in dataset collect grade eval report; do
    rm -rf out
    : >calls
    FAIL=$s run pipeline BIN=fake
    [ "$status" != 0 ] || { echo "$s died, the pipeline did not"; return 1; }
    [[ $output == *"$s: it broke"* ]]
    case $s in
    collect) not grep -q ^grade calls ;;
    eval) not grep -q ^report calls ;;
    esac
    not grep -rs half out/data out/results
  done
}

@test "pipeline: shards side by side, their files in order into one" {
  fakes
  SLOW=collect run pipeline -j4 BIN=fake NUM_SHARDS=3 GPUS=4,6
  [ "$status" = 0 ]
  [ "$(grep -c ^collect calls)" = 3 ]
  grep -qE '^dataset math .*--shard 2/3' calls
  grep -qE '^collect .*--device cuda:4 .*shard00of03.jsonl$' calls
  grep -qE '^collect .*--device cuda:6 .*shard01of03.jsonl$' calls
  grep -qE '^collect .*--device cuda:4 .*shard02of03.jsonl$' calls
  grep -qE '^grade .*_shard00of03.jsonl [^ ]*_shard01of03.jsonl [^ ]*_shard02of03.jsonl$' calls
  for bad in 0 -1 x 100 1.5; do
    run pipeline BIN=fake NUM_SHARDS=$bad
    [ "$status" = 2 ]
    [[ $output == *"NUM_SHARDS=$bad: must be a whole number"* ]]
  done
}

@test "pipeline: help shows live values, from environment and command line, and an empty one is unset" {
  fakes
  NUM_SAMPLES=3 SAMPLE_TEMP= run pipeline BIN=fake help MAX_TOKENS=77 EVAL_RATIOS=
  [ "$status" = 0 ]
  grep -qE '^  NUM_SAMPLES +3 ' <<<"$output"
  grep -qE '^  SAMPLE_TEMP +0.7 ' <<<"$output"
  grep -qE '^  MAX_TOKENS +77 ' <<<"$output"
  grep -qE '^  EVAL_RATIOS +1.0,0.5 ' <<<"$output"
  [ ! -e out ]
  [ ! -s calls ]
  MODEL=/some/model run pipeline BIN=fake help
  grep -qE '^  NUM_SAMPLES +8 ' <<<"$output"
  grep -qE '^  MAX_TOKENS +4096 ' <<<"$output"
  grep -qE '^  EVAL_RATIOS +1.0,0.7,0.5,0.3,0.1 ' <<<"$output"
}

@test "pipeline: SKIP_COLLECT counts only when it is 1; COLLECTED brings samples" {
  fakes
  SKIP_COLLECT=0 pipeline BIN=fake
  grep -q ^collect calls
  rm -rf out
  : >calls
  run pipeline BIN=fake SKIP_COLLECT=1
  [ "$status" = 2 ]
  [[ $output == *"there is no such file (SKIP_COLLECT=1 takes the samples that are there"* ]]
  [ ! -s calls ]
  run pipeline BIN=fake SKIP_COLLECT=1 COLLECTED=mine.jsonl
  [ "$status" = 2 ]
  [[ $output == *"mine.jsonl: there is no such file"* ]]
  echo '{"response_text": "x"}' >mine.jsonl
  pipeline BIN=fake SKIP_COLLECT=1 COLLECTED=mine.jsonl
  not grep -q ^collect calls
  grep -qE '^grade .*--fill.* mine.jsonl$' calls
}

@test "pipeline: a second run on the same OUT is told who has it; another OUT is free; the lock goes with its holder" {
  fakes
  SLOW=collect pipeline BIN=fake >first.log 2>&1 &
  first=$!
  until grep -qs ^collect calls; do sleep 0.05; done
  fails 2 "out is in use by process [0-9]+ on .* \(make -f .*tokenskip_math.mk all, since" pipeline BIN=fake
  pipeline BIN=fake OUT=other
  wait $first
  pipeline BIN=fake
}

@test "pipeline: clean removes what it made and nothing else" {
  fakes
  pipeline BIN=fake
  echo mine >out/notes
  pipeline BIN=fake clean
  [ "$(ls out | tr '\n' ' ')" = "lock notes " ]
}

# ---- the real stages ----

@test "pipeline: a second run does nothing, in under 2 seconds" {
  need dataset collect grade eval report
  pipeline >first.log 2>first.err
  touch mark
  start=$(date +%s%N)
  pipeline >second.log 2>second.err
  ms=$((($(date +%s%N) - start) / 1000000))
  cmp first.log second.log
  [ "$(grep -c 'is up to date' second.err)" -ge 6 ]
  find out -name '*.run.json' -newer mark | not grep .
  case $BIN in */asan/*) ;; *) [ "$ms" -lt 2000 ] || { echo "$ms ms"; return 1; } ;; esac
}

@test "pipeline: plan says what would run, and runs nothing" {
  need dataset collect grade eval report
  run pipeline plan
  [ "$status" = 0 ]
  grep -qE 'math_train.jsonl [0-9a-f]{32} run$' <<<"$output"
  grep -qE 'report.txt unknown$' <<<"$output"
  [ -z "$(find out -type f 2>/dev/null)" ]
  pipeline 2>/dev/null
  run pipeline plan
  [ -z "$(grep -v 'tokenskip_math: model' <<<"$output" | grep -v ' up-to-date$')" ] || { echo "$output"; return 1; }
  run pipeline plan SAMPLE_TEMP=0.9
  grep -qE 'original(_merged)?.jsonl [0-9a-f]{32} run$' <<<"$output"
  grep -qE '_merged.jsonl unknown$' <<<"$output"
  grep -qE 'report.txt [0-9a-f]{32} up-to-date$' <<<"$output"
}

@test "pipeline: one option changed and back runs that stage once" {
  need dataset collect grade eval report
  pipeline >a.log 2>/dev/null
  find out/data out/results -type f ! -name lock | sort | xargs sha256sum >a.sums
  pipeline EVAL_RATIOS=1.0,0.7,0.5 MAX_TOKENS=48 >b.log 2>b.err
  not grep -q 'collect:.*taken\|collect: wrote' b.err
  pipeline SAMPLE_TEMP=0.9 >/dev/null 2>c.err
  pipeline >d.log 2>d.err
  cmp a.log d.log
  sha256sum --quiet -c a.sums
  grep -q 'taken from the store' d.err
  # what the store gave was not made again: the manifests are the first run's
  [ "$(find out/store -name '*.run.json' | wc -l)" = "$(find out/store -name '*.run.json' | xargs jq -r .key | sort -u | wc -l)" ]
}

@test "pipeline: shards and -j change no byte" {
  need dataset collect grade eval report
  pipeline OUT=one >one.log 2>/dev/null
  pipeline -j2 OUT=four NUM_SHARDS=4 >four.log 2>/dev/null
  same one/data/sft/tokenskip/original/math/math_raw_original_merged.jsonl \
    four/data/sft/tokenskip/original/math/math_raw_original_merged.jsonl
  cmp one.log four.log
}
