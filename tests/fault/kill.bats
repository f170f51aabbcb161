load ../cli/lib

# SIGKILL at random moments (the seed is fixed; the moments are not): a rerun of the same command goes on, no half file
# ever stands under the output's name, and the bytes in the end are those of a run that nobody disturbed.

# milliseconds COMMAND...: how long it takes
milliseconds() {
  local start=$(date +%s%N)
  "$@"
  echo $((($(date +%s%N) - start) / 1000000))
}

# lives GROUP: whether a process of it has not ended; one that was only not reaped has.
lives() {
  local file line
  for file in /proc/[0-9]*/stat; do
    { read -r line <"$file"; } 2>/dev/null || continue
    set -- "$1" ${line##*) } # its state, its parent, its group
    [ "$4" != "$1" ] || [[ $2 == [ZX] ]] || return 0
  done
  return 1
}

# killed MS COMMAND...: runs COMMAND in a session of its own, which is killed within MS. 0 if it was; 1 if it had ended.
killed() {
  local limit=$1 pid ms
  shift
  setsid "$@" >/dev/null 2>&1 &
  pid=$!
  ms=$((RANDOM % (limit > 1 ? limit : 2)))
  sleep "$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))"
  kill -9 -- -$pid 2>/dev/null || true
  wait $pid 2>/dev/null && return 1
  while lives $pid; do sleep 0.01; done # what a stage holds (locks) it holds until it has ended
  return 0
}

@test "fault: collect -o killed at 20 random moments ends with the same bytes" {
  run_it() { collect --model "$GOLDEN/models/qwen3" -q --num-samples 24 --temperature 0.7 --max-tokens 64 --seed 7 "$@" q.jsonl; }
  dataset math --file "$GOLDEN/questions/math_train.jsonl" -o q.jsonl
  ms=$(milliseconds run_it -o want.jsonl)
  RANDOM=1
  kills=0 resumed=0
  while [ $kills -lt 20 ]; do
    if killed $((ms / 2)) collect --model "$GOLDEN/models/qwen3" -q --num-samples 24 --temperature 0.7 --max-tokens 64 --seed 7 -o got.jsonl q.jsonl; then
      kills=$((kills + 1))
      [ ! -e got.jsonl ] || same want.jsonl got.jsonl
    else
      same want.jsonl got.jsonl
      rm -f got.jsonl*
    fi
  done
  run_it -o got.jsonl
  same want.jsonl got.jsonl
  verify got.jsonl
  [ -z "$(ls | grep -E 'journal|part')" ]
}

@test "fault: what was finished before the kill is not sampled again" {
  dataset math --file "$GOLDEN/questions/math_train.jsonl" -o q.jsonl
  args=(--model "$GOLDEN/models/qwen3" --num-samples 24 --temperature 0.7 --max-tokens 64 --batch 4 q.jsonl)
  setsid collect "${args[@]}" -o got.jsonl 2>/dev/null &
  pid=$!
  until [ "$(cat got.jsonl.*.journal 2>/dev/null | wc -c)" -gt 5000 ]; do kill -0 $pid || return 1; done
  kill -9 $pid
  wait $pid || true
  [ ! -e got.jsonl ]
  collect "${args[@]}" -o got.jsonl 2>err
  grep -qE '288 samples \([1-9][0-9]* of an earlier run\)' err
}

@test "fault: score -o killed at 10 random moments, whole and in a shard, ends with the same bytes" {
  for i in $(seq 60); do cat "$GOLDEN/score/rows.jsonl"; done >rows
  for part in 0/1 1/2; do
    args=(-q -t -m "$GOLDEN/models/qwen3" --batch 64 --threads 1 --shard $part rows)
    ms=$(milliseconds score "${args[@]}" -o want.jsonl)
    RANDOM=3
    kills=0
    while [ $kills -lt 10 ]; do
      if killed "$ms" score "${args[@]}" -o got.jsonl; then
        kills=$((kills + 1))
        [ ! -e got.jsonl ] || same want.jsonl got.jsonl
      else
        same want.jsonl got.jsonl
        rm -f got.jsonl*
      fi
    done
    score "${args[@]}" -o got.jsonl
    same want.jsonl got.jsonl
    verify -q got.jsonl
    [ -z "$(ls | grep -E 'journal|part')" ]
    rm -f got.jsonl* want.jsonl*
  done
}

@test "fault: what score had finished before the kill is not scored again" {
  for i in $(seq 200); do cat "$GOLDEN/score/rows.jsonl"; done >rows
  args=(-t -m "$GOLDEN/models/qwen3" --batch 64 --threads 1 rows)
  setsid score "${args[@]}" -o got.jsonl 2>/dev/null &
  pid=$!
  until [ "$(cat got.jsonl.*.journal 2>/dev/null | wc -c)" -gt 5000 ]; do kill -0 $pid || return 1; done
  kill -9 $pid
  wait $pid || true
  [ ! -e got.jsonl ]
  journal=$(ls got.jsonl.*.journal)
  cp "$journal" left
  score "${args[@]}" -o got.jsonl
  [ "$(jq .counts.resumed got.jsonl.run.json)" -gt 0 ]
  [ ! -e "$journal" ]
  mv left "$journal" # as if it had been killed when the output was whole already
  score "${args[@]}" -o got.jsonl
  [ ! -e "$journal" ]
}

# sampling COMMAND...: runs COMMAND behind until some records are in its journal; $pid
sampling() {
  "$@" -o got.jsonl 2>err &
  pid=$!
  until [ "$(cat got.jsonl.*.journal 2>/dev/null | wc -c)" -gt 5000 ]; do kill -0 $pid || return 1; done
}

@test "fault: SIGTERM and SIGHUP end at a record; the same command goes on" {
  dataset math --file "$GOLDEN/questions/math_train.jsonl" -o q.jsonl
  args=(--model "$GOLDEN/models/qwen3" --num-samples 24 --temperature 0.7 --max-tokens 64 --batch 4 q.jsonl)
  collect "${args[@]}" -q -o want.jsonl
  for how in TERM HUP 'HUP HUP'; do # a closed terminal: SIGHUP from the shell and from the kernel
    sampling env --default-signal=HUP collect "${args[@]}"
    for sig in $how; do kill -$sig $pid; done
    status=0
    wait $pid || status=$?
    [ $status = 1 ]
    grep -q 'interrupted; finished records are kept' err
    [ ! -e got.jsonl ]
    [ -z "$(ls | grep part)" ]
    collect "${args[@]}" -q -o got.jsonl
    same want.jsonl got.jsonl
    rm got.jsonl*
  done
}

@test "fault: with SIGHUP ignored, as nohup does, a closed terminal ends nothing" {
  dataset math --file "$GOLDEN/questions/math_train.jsonl" -o q.jsonl
  sampling env --ignore-signal=HUP collect --model "$GOLDEN/models/qwen3" --num-samples 24 --temperature 0.7 --max-tokens 64 --batch 4 q.jsonl
  kill -HUP $pid
  wait $pid
  [ -e got.jsonl ]
}

@test "fault: a whole pipeline killed at random moments ends with the same bytes" {
  pipeline=(make -f "$ROOT/pipelines/tokenskip_math.mk" BIN="$BIN" NUM_QUESTIONS=24 NUM_TEST=8 EVAL_RATIOS=1.0,0.5
    TRAIN_OPTIONS="--max-steps 6 --batch-tokens 600 --save-every 2")
  ms=$(milliseconds "${pipeline[@]}" -s OUT=want 2>/dev/null | tail -1)
  RANDOM=2
  for i in 1 2 3 4 5 6 7 8; do
    killed "$ms" "${pipeline[@]}" OUT=got || rm -rf got
  done
  "${pipeline[@]}" OUT=got >/dev/null
  (cd want && find data results -type f ! -name '*run.json' ! -name metrics.jsonl | sort | xargs sha256sum) >want.sums
  (cd got && find data results -type f ! -name '*run.json' ! -name metrics.jsonl | sort | xargs sha256sum) >got.sums
  diff want.sums got.sums
  verify --all got/results --all got/data
}

@test "fault: two runs on one output: the second is told, and nothing is damaged" {
  dataset math --file "$GOLDEN/questions/math_train.jsonl" -o q.jsonl
  args=(--model "$GOLDEN/models/qwen3" --num-samples 48 --temperature 0.7 --max-tokens 64 q.jsonl)
  collect "${args[@]}" -q -o got.jsonl &
  pid=$!
  until [ -e "$(echo got.jsonl.*.journal)" ]; do kill -0 $pid || return 1; done
  fails 1 "^collect: got.jsonl.*(in use|locked|process)" collect "${args[@]}" -o got.jsonl
  wait $pid
  collect "${args[@]}" -q -o want.jsonl
  same want.jsonl got.jsonl
}
