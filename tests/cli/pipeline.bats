load lib

pipeline() {
  make -f "$ROOT/pipelines/${PIPELINE:-tokenskip_math}.mk" BIN="$BIN" "$@"
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
out= dir= set= ins=() ratios=
while [ $# -gt 0 ]; do
  case $1 in
  -o) out=$2; shift ;;
  --output-dir) dir=$2; shift ;;
  --ratio) ratios=$2; shift ;;
  --name) set=$2; shift ;;
  --plan | --no-grade | --require-provenance | --fill) ;;
  --*) shift ;;
  *=*) ins+=("${1#*=}") ;;
  *) ins+=("$1") ;;
  esac
  shift
done
[ "${SLOW-}" != "$name" ] || sleep 2
[ -z "$out" ] || mkdir -p "$(dirname "$out")"
if [ "${FAIL-}" = "$name" ]; then [ -z "$out" ] || echo half >"$out"; echo "$name: it broke" >&2; exit 1; fi
for r in ${ratios//,/ }; do
  [ -n "$dir" ] || continue
  mkdir -p "$dir"
  [ "$name" = eval ] && f=$dir/${set}_eval_ratio_$r.jsonl || f=$dir/compressed_ratio_$(printf %g "$r").jsonl
  echo "{\"ratio\": $r}" >"$f"
done
[ -n "$out" ] || exit 0
if [ "$name" = train ] || [ "$name" = dualize ]; then mkdir -p "$out"; exit 0; fi
[ "$name" != dataset ] || ins=()
{ echo "{\"made_by\": \"$name\"}"; [ ${#ins[@]} = 0 ] || cat "${ins[@]}"; } >"$out"
END
  chmod +x fake/stage
  local s
  for s in dataset collect grade compress score select prepare train dualize eval report tok; do ln -sf stage fake/$s; done
  export CALLS=$T/calls
  : >calls
}

called() {
  cut -d' ' -f1 calls | grep -vx tok | sort | uniq -c | awk '{ printf "%s%s ", $2, ($1 > 1 ? "*" $1 : "") }'
}

@test "pipeline: every stage is called, and the table is printed; the first line names the models" {
  fakes
  run pipeline BIN=fake
  [ "$status" = 0 ]
  [[ ${lines[0]} == "tokenskip_math: MODEL=embedded:reasoner LLMLINGUA_PATH=embedded:compressor "* ]]
  [[ $output == *'{"made_by": "report"}'* ]]
  [ "$(called)" = "collect compress dataset*2 eval*2 grade prepare report*3 train " ]
  [ -z "$(grep -v '^tok' calls | grep -v -- --require-provenance)" ]
  # the names of the Python stack
  : >calls
  run pipeline BIN=fake MODEL=Qwen/Qwen3-4B-Thinking-2507 LLMLINGUA_PATH=some/encoder OUT=real
  [[ ${lines[0]} == "tokenskip_math: MODEL=Qwen/Qwen3-4B-Thinking-2507 LLMLINGUA_PATH=some/encoder" ]]
  for f in data/sft/tokenskip/original/math/math_raw_original.jsonl data/sft/tokenskip/original/math/math_raw_original_merged.jsonl \
    data/sft/tokenskip/compressed/math_raw/compressed_ratio_0.3.jsonl data/sft/math_tokenskip_rawtext.jsonl \
    results/sft/math/qwen3-4b-thinking-tokenskip-multirate results/sft/math/qwen3-4b-thinking/eval/math_eval_ratio_1.0.jsonl \
    results/sft/math/qwen3-4b-thinking-tokenskip-multirate/eval/math_eval_ratio_0.7.jsonl \
    results/sft/math/qwen3-4b-thinking-tokenskip-multirate/eval/report.txt; do
    [ -e "real/$f" ] || { echo "$f is not there"; find real; return 1; }
  done
  grep -q '^collect .*--num-samples 8 --temperature 0.7 --max-tokens 4096 ' calls
  grep -q '^compress .*--model some/encoder --target-model Qwen/Qwen3-4B-Thinking-2507 --ratio 0.1,0.3,0.5,0.7 --max-cot-tokens 2000 ' calls
  grep -q '^prepare .*--ratio 1.0,0.1,0.3,0.5,0.7 ' calls
  grep -q '^train .*--preset .*/presets/math_tokenskip ' calls
  grep -q '^eval .*--ratio 1.0,0.7,0.5,0.3,0.1 --model .*-multirate/merged ' calls
  not grep -q -- '--file' calls
}

@test "pipeline: a dead stage fails the run, and nothing behind it runs" {
  fakes
  for s in dataset collect grade compress score select prepare train eval report; do
    rm -rf out
    : >calls
    FAIL=$s run pipeline BIN=fake QUALITY_FILTER_TOP=0.5
    [ "$status" != 0 ] || { echo "$s died, the pipeline did not"; return 1; }
    [[ $output == *"$s: it broke"* ]]
    case $s in
    collect) not grep -q ^grade calls ;;
    compress) not grep -q '^score\|^prepare' calls ;;
    train) not grep -q ^report calls ;;
    eval) not grep -q ^report calls ;;
    esac
    not grep -rs half out/data out/results
  done
}

@test "pipeline: shards side by side, their files in order into one; their number is that of the GPUs" {
  fakes
  SLOW=collect run pipeline -j4 BIN=fake NUM_SHARDS=3 GPUS=4,6
  [ "$status" = 0 ]
  [ "$(grep -c ^collect calls)" = 3 ]
  grep -qE '^dataset arith .*--shard 2/3' calls
  grep -qE '^collect .*--device cuda:4 .*shard00of03.jsonl$' calls
  grep -qE '^collect .*--device cuda:6 .*shard01of03.jsonl$' calls
  grep -qE '^collect .*--device cuda:4 .*shard02of03.jsonl$' calls
  grep -qE '^grade .*_shard00of03.jsonl [^ ]*_shard01of03.jsonl [^ ]*_shard02of03.jsonl$' calls
  : >calls
  pipeline BIN=fake GPUS=1,0,3 OUT=three
  [ "$(grep -c ^collect calls)" = 3 ]
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
  grep -qE '^  EVAL_RATIOS +1.0,0.7,0.5,0.3 ' <<<"$output"
  [ ! -e out ]
  [ ! -s calls ]
  MODEL= LLMLINGUA_PATH= pipeline BIN=fake OUT=other >/dev/null # what the environment has and is empty is unset in every make
  grep -q '^dataset arith' calls
  : >calls
  MODEL=/some/model run pipeline BIN=fake help
  grep -qE '^  NUM_SAMPLES +8 ' <<<"$output"
  grep -qE '^  MAX_TOKENS +4096 ' <<<"$output"
  grep -qE '^  EVAL_RATIOS +1.0,0.7,0.5,0.3,0.1 ' <<<"$output"
  LLMLINGUA_PATH=/some/encoder run pipeline BIN=fake help
  grep -qE '^  MODEL +Qwen/Qwen3-4B-Thinking-2507 ' <<<"$output"
  PIPELINE=tokenskip_gsm8k LLMLINGUA_PATH=/some/encoder run pipeline BIN=fake help
  grep -qE '^  MODEL +Qwen/Qwen2.5-3B-Instruct ' <<<"$output"
  grep -qE '^  NUM_SAMPLES +1 ' <<<"$output"
  grep -qE '^  COMPRESS_RATIOS +0.9,0.8,0.7,0.6,0.5 ' <<<"$output"
}

@test "pipeline: what cannot work is said before anything runs" {
  fakes
  refused() {
    run pipeline BIN=fake "${@:2}"
    [ "$status" = 2 ] && [[ $output == *"$1"* ]] && [ ! -s calls ] || { echo "$output"; return 1; }
  }
  refused "LLMLINGUA_PATH is unset" MODEL=some/model
  refused "LLMLINGUA_PATH is unset" DUAL_MODEL=some/model
  refused "SKIP_COMPRESS=1 takes what is there" MODEL=some/model SKIP_COMPRESS=1
  refused "TRAIN_NPROC=4: train runs on one device" TRAIN_NPROC=4
  refused "give one of them" DUAL=1 DUAL_MODEL=some/model LLMLINGUA_PATH=x
  refused "QUALITY_SCORE_KEY=loudness: must be" QUALITY_SCORE_KEY=loudness
  refused "TRAIN_RATIOS=1.0,0.9: nothing is compressed to 0.9" TRAIN_RATIOS=1.0,0.9
  refused "COMPRESS_RATIOS=0.5,abc: must be ratios above 0 and at most 1" COMPRESS_RATIOS=0.5,abc
  refused "EVAL_RATIOS=1.0,2: must be ratios" EVAL_RATIOS=1.0,2
  refused "EVAL_RATIOS=0: must be ratios" EVAL_RATIOS=0
  refused "QUALITY_FILTER_TOP=25: must be a share" QUALITY_FILTER_TOP=25
  refused "QUALITY_FILTER_TOP=much: must be a share" QUALITY_FILTER_TOP=much
  refused "no/such: there is no such file" PRESET=no/such
  refused "mine.jsonl: there is no such file" TEST_FILE=mine.jsonl
  refused "RATIOS is no variable of this pipeline: make -f $ROOT/pipelines/tokenskip_math.mk help lists them" RATIOS=0.9
  refused "N is no variable" plan N=5
  refused "OUT=my out: make cannot work with a blank in the name" OUT="my out"
  : >file
  for place in file file/below /proc /proc/new; do # /proc takes files of nobody
    fails 2 "^tokenskip_math: OUT=$place: nothing can be written in this folder \([A-Z][^:]*\)$" pipeline OUT=$place
    [ "$(grep -vc '^make: \*\*\*\|MODEL=' .stderr)" = 1 ]
  done
  mkdir "my checkout"
  cp -r "$ROOT/pipelines" "my checkout/pipelines"
  (cd "my checkout" && fails 2 'my checkout: make cannot work with a blank in the name' make -f pipelines/tokenskip_math.mk)
  pipeline OUT=other HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES=0 LATENT_SHARED=x "TRAIN_OPTIONS=--lr 1e-3 --epochs=3" plan
  fails 2 "tok: /no/model: no such folder" pipeline MODEL=/no/model LLMLINGUA_PATH="$GOLDEN/models/xlmr"
  fails 2 "tok: no/encoder: not a folder here, .*HF_HUB_OFFLINE is set" env HF_HUB_OFFLINE=1 HF_HOME="$T/hf" \
    make -f "$ROOT/pipelines/tokenskip_math.mk" BIN="$BIN" MODEL="$GOLDEN/models/qwen3" LLMLINGUA_PATH=no/encoder
  [ -z "$(find out -name '*.jsonl')" ]
}

@test "pipeline: SKIP_X counts only when it is 1; COLLECTED brings samples" {
  fakes
  SKIP_COLLECT=0 pipeline BIN=fake
  grep -q ^collect calls
  rm -rf out
  : >calls
  run pipeline BIN=fake SKIP_COLLECT=1
  [ "$status" = 2 ]
  [[ $output == *"there is no such file (SKIP_COLLECT=1 takes what is there)"* ]]
  [ ! -s calls ]
  run pipeline BIN=fake SKIP_COLLECT=1 COLLECTED=mine.jsonl
  [ "$status" = 2 ]
  [[ $output == *"mine.jsonl: there is no such file"* ]]
  echo '{"response_text": "x"}' >mine.jsonl
  pipeline BIN=fake SKIP_COLLECT=1 COLLECTED=mine.jsonl QUALITY_FILTER_TOP=0.25
  not grep -q ^collect calls
  grep -qE '^grade .*--fill.* mine.jsonl$' calls
  for s in COMPRESS QUALITY PREPARE TRAIN; do
    : >calls
    pipeline BIN=fake SKIP_COLLECT=1 COLLECTED=mine.jsonl QUALITY_FILTER_TOP=0.25 SKIP_$s=1
    case $s in # what only the skipped step needs is not made either
    COMPRESS) [ "$(called)" = "dataset eval*2 prepare report*3 score*3 select train " ] ;;
    QUALITY) [ "$(called)" = "dataset eval*2 prepare report*3 train " ] ;;
    PREPARE) [ "$(called)" = "dataset eval*2 report*3 train " ] ;;
    TRAIN) [ "$(called)" = "dataset eval*2 report*3 " ] ;;
    esac || { echo "SKIP_$s: $(called)"; return 1; }
  done
}

@test "pipeline: the quality filter and a dual model have names of their own" {
  fakes
  pipeline BIN=fake QUALITY_FILTER_TOP=0.250 QUALITY_SCORE_KEY=logprob_answer TRAIN_RATIOS=0.5
  grep -q '^score .*scores/arith_raw/scores_ratio_0.7.jsonl .*compressed/arith_raw/compressed_ratio_0.7.jsonl$' calls
  grep -q '^select .*--top 0.250 --by logprob_answer --scores .*scores_ratio_0.3.jsonl .*-o .*arith_raw_qf0.25_logprob_answer/compressed.jsonl' calls
  [ -d out/results/sft/arith/embedded-tokenskip-rawtext-qf0.25-ans ]
  [ -e out/data/sft/arith_tokenskip_rawtext_qf0.25-ans.jsonl ]
  : >calls
  pipeline BIN=fake DUAL_MODEL=some/dual LLMLINGUA_PATH=x OUT=two
  grep -q '^train --model some/dual\|^train .*--model some/dual' calls
  [ -d two/results/sft/math/qwen3-4b-thinking-tokenskip-multirate-dual ]
  [ "$(called)" = "collect compress dataset*2 eval*2 grade prepare report*3 train " ]
  : >calls
  pipeline BIN=fake DUAL=1 OUT=both
  [ "$(called)" = "collect compress dataset*2 dualize eval*3 grade prepare report*3 train*2 " ]
  grep -q '^report .* base=[^ ]* tokenskip=.* dual=' calls
  [ "$(grep -c '^eval .*--end-bias 0 .*--model [^ ]*-dual ' calls)" = 1 ]
  [ "$(grep -c -- --end-bias calls)" = 1 ]
}

@test "pipeline: the smoke test has every step, files of its own, and few questions" {
  fakes
  PIPELINE=smoke pipeline BIN=fake MODEL=Qwen/Qwen3-4B-Thinking-2507 LLMLINGUA_PATH=x
  [ "$(called)" = "collect compress dataset*2 eval*2 grade prepare report*3 train " ]
  grep -q '^dataset math --split train --limit 20' calls
  grep -q '^dataset math --split test --limit 10' calls
  grep -q '^train .*--epochs 1 --max-steps 0' calls
  [ -d out/data/sft/tokenskip_smoke_standard ]
  [ -d out/results/sft_smoke/math_tokenskip_multirate/eval ]
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

# ---- the real stages, on the embedded models and a handful of questions ----

small() {
  pipeline NUM_QUESTIONS=12 NUM_TEST=6 NUM_SAMPLES=2 EVAL_RATIOS=1.0,0.5 TRAIN_OPTIONS="--max-steps 3 --batch-tokens 600" "$@"
}

@test "pipeline: a second run does nothing, in under 2 seconds" {
  small >first.log 2>first.err
  touch mark
  start=$(date +%s%N)
  small >second.log 2>second.err
  ms=$((($(date +%s%N) - start) / 1000000))
  cmp first.log second.log
  [ "$(grep -c 'is up to date' second.err)" -ge 15 ]
  [ "$(grep -vc 'is up to date' second.err)" = 1 ]
  find out -newer mark -type f ! -name lock | not grep .
  case $BIN in */asan/*) ;; *) [ "$ms" -lt 2000 ] || { echo "$ms ms"; return 1; } ;; esac
}

@test "pipeline: plan says what would run, and runs nothing" {
  run small plan
  [ "$status" = 0 ]
  grep -qE 'arith_train.jsonl [0-9a-f]{32} run$' <<<"$output"
  grep -qE 'report.txt unknown$' <<<"$output"
  [ -z "$(find out -type f 2>/dev/null)" ]
  small >/dev/null 2>&1
  run small plan
  [ -z "$(grep -v ' up-to-date$' <<<"$output")" ] || { echo "$output"; return 1; }
  run small plan SAMPLE_TEMP=0.9
  grep -qE 'original(_merged)?.jsonl [0-9a-f]{32} run$' <<<"$output"
  grep -qE '_merged.jsonl unknown$' <<<"$output"
  grep -qE 'embedded-tokenskip-multirate unknown$' <<<"$output"
}

@test "pipeline: one option changed and back runs that stage once; other ratios to measure run only eval and report" {
  small >a.log 2>/dev/null
  find out/data out/results -type f ! -name lock | sort | xargs sha256sum >a.sums
  small EVAL_RATIOS=1.0,0.8 >b.log 2>b.err
  [ "$(grep -E '^(dataset|collect|grade|compress|prepare|train):' b.err | grep -vc 'is up to date')" = 0 ]
  grep -q '^eval: 6 questions, 6 samples' b.err
  small SAMPLE_TEMP=0.9 TRAIN_OPTIONS="--max-steps 2 --batch-tokens 600" >/dev/null 2>c.err
  small >d.log 2>d.err
  cmp a.log d.log
  sha256sum --quiet -c a.sums
  grep -q '^train: .*-multirate taken from the store' d.err
  [ "$(grep -vcE 'is up to date|taken from the store' d.err)" = 1 ]
  # what the store gave was not made again: a key has one manifest
  [ "$(find out/store -maxdepth 1 -name '*.run.json' | wc -l)" = "$(find out/store -maxdepth 1 -name '*.run.json' | xargs jq -r .key | sort -u | wc -l)" ]
}

@test "pipeline: shards and -j change no byte" {
  small OUT=one >one.log 2>/dev/null
  small -j2 OUT=four NUM_SHARDS=4 >four.log 2>/dev/null
  same one/data/sft/tokenskip/original/arith/arith_raw_original_merged.jsonl \
    four/data/sft/tokenskip/original/arith/arith_raw_original_merged.jsonl
  cmp one.log four.log
}

@test "pipeline: the table can be traced back to questions and models, and every artefact verifies" {
  small >/dev/null 2>&1
  export LATENT_RUNS=out/runs
  run "$BIN/verify" --trace out/results/sft/arith/embedded-tokenskip-multirate/eval/report.txt
  [ "$status" = 0 ]
  for p in eval train prepare compress grade collect dataset; do grep -qE "  $p [0-9]+\." <<<"$output" || { echo "no $p: $output"; return 1; }; done
  [[ $output == *"reasoner"* && $output == *"compressor"* ]]
  [[ $output != *MISSING* ]]
  "$BIN/verify" --all out
}

@test "pipeline: real traces through grade --fill, every step behind it" {
  shared data/real_cots.jsonl
  head -60 "$shared_path" >traces.jsonl
  small SKIP_COLLECT=1 COLLECTED=traces.jsonl QUALITY_FILTER_TOP=0.5 >out.log 2>out.err
  [ "$(grep -c tokenskip out.log)" = 2 ]
  grep -q '^train: .* 3 steps' out.err
}

@test "pipeline: DUAL=1 puts the dual model beside the standard one" {
  small DUAL=1 >out.log 2>/dev/null
  [ "$(awk 'NR > 1 { print $1 }' out.log | uniq | tr '\n' ' ')" = "base tokenskip dual " ]
}
