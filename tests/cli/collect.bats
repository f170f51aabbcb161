load lib

# questions N: N questions with little arithmetic, some of them long.
questions() {
  local i
  for i in $(seq 0 $(($1 - 1))); do
    printf '{"benchmark": "math", "source_id": "math_train_%d", "question": "%sWhat is %d+%d?", "gold_answer": "%d"}\n' \
      $i "$(printf 'Think of %d apples. ' $(seq 1 $((i % 4 * 3))) | head -c 200)" $i $i $((2 * i))
  done >questions.jsonl
}
tiny() {
  collect --quiet --model "$GOLDEN/models/qwen3" --max-tokens 20 "$@"
}

@test "collect: keys and their order, ids, counts" {
  need jq
  questions 3
  tiny -N 2 -t 0.9 questions.jsonl >s.jsonl
  [ "$(jq -c 'keys_unsorted' s.jsonl | sort -u)" = '["benchmark","source_id","question_source_id","sample_index","question","gold_answer","prompt_format","response_text","reasoning","answer","is_correct","reasoning_token_count","response_token_count","finish_reason","seed"]' ]
  [ "$(jq -r .source_id s.jsonl | xargs)" = "math_train_0_s0 math_train_0_s1 math_train_1_s0 math_train_1_s1 math_train_2_s0 math_train_2_s1" ]
  jq -e 'select((.response_token_count < 1) or (.response_token_count > 20) or .seed != 42 or .prompt_format != "tokenskip" or
    (.finish_reason == "length") != (.response_token_count == 20) or
    (.finish_reason == "length" and .is_correct) or (.reasoning == null) != (.reasoning_token_count == 0))' s.jsonl && return 1
  [ "$(jq -s 'length' s.jsonl)" = 6 ]
  # Python's spelling: ", " and ": ", nothing escaped that need not be
  [ "$(grep -cE '^\{"benchmark": "math", "source_id": "[a-z0-9_]+", "question_source_id": "[a-z0-9_]+", "sample_index": [01], ' s.jsonl)" = 6 ]
  if type -P python3 >/dev/null; then
    python3 -c 'import json,sys
for l in open("s.jsonl", encoding="utf-8"): sys.stdout.write(json.dumps(json.loads(l), ensure_ascii=False) + "\n")' >python.jsonl
    same s.jsonl python.jsonl
  fi
}

@test "collect: one output whatever batch, memory, threads and shards" {
  questions 13
  args="-N 3 -t 0.8 --top-p 0.95"
  tiny $args questions.jsonl >want
  for how in "--batch 1" "--batch 7" "--batch 64" "--threads 1" "--threads 2" "--kv-memory 1M" "--batch 64 --kv-memory 300K"; do
    tiny $args $how questions.jsonl >got
    same want got || { echo "$how"; return 1; }
  done
  for k in 0 1 2 3; do tiny $args --shard $k/4 questions.jsonl; done >got
  same want got
  tiny $args -o out.jsonl.zst questions.jsonl
  zstdcat out.jsonl.zst >got
  same want got
  tiny $args --seed 43 questions.jsonl >got
  not cmp -s want got
}

@test "collect: killed at any moment, finished samples survive and the bytes are the same" {
  questions 12
  args="-N 3 -t 0.8 --batch 4 --threads 1"
  tiny $args questions.jsonl >want
  for signal in KILL TERM KILL INT KILL TERM KILL KILL TERM KILL; do
    timeout -s $signal 0.0$((RANDOM % 9 + 1)) "$BIN/collect" --quiet --model "$GOLDEN/models/qwen3" --max-tokens 20 $args -o out.jsonl questions.jsonl || true
  done
  tiny $args -o out.jsonl questions.jsonl
  same want out.jsonl
  [ -z "$(ls | grep -E 'journal$' || true)" ]
}

@test "collect: what was finished is not sampled again" {
  questions 40
  args="-N 4 -t 0.8 --max-tokens 40 --threads 1"
  "$BIN/collect" --model "$GOLDEN/models/qwen3" $args -o out.jsonl questions.jsonl 2>first &
  pid=$!
  for _ in $(seq 200); do
    [ "$(stat -c %s out.jsonl.*.journal 2>/dev/null || echo 0)" -lt 4000 ] || break
    sleep 0.02
  done
  kill -TERM $pid
  got=0
  wait $pid || got=$?
  if [ "$got" = 0 ]; then skip "it was too quick to be stopped"; fi
  grep -q 'interrupted; finished records are kept' first
  "$BIN/collect" --model "$GOLDEN/models/qwen3" $args -o out.jsonl questions.jsonl 2>second
  grep -qE '160 samples \([1-9][0-9]* of an earlier run\)' second
  collect --quiet --model "$GOLDEN/models/qwen3" $args questions.jsonl >want
  same want out.jsonl
}

@test "collect -o: up to date; another option is another run" {
  questions 2
  tiny -o out.jsonl questions.jsonl
  collect --model "$GOLDEN/models/qwen3" --max-tokens 20 -o out.jsonl questions.jsonl 2>&1 | grep -q 'up to date'
  collect --model "$GOLDEN/models/qwen3" --max-tokens 20 --batch 3 -o out.jsonl questions.jsonl 2>&1 | grep -q 'up to date'
  collect --model "$GOLDEN/models/qwen3" --max-tokens 21 -o out.jsonl questions.jsonl 2>&1 | not grep -q 'up to date'
  collect --model "$GOLDEN/models/qwen2" --max-tokens 21 -o out.jsonl questions.jsonl 2>&1 | not grep -q 'up to date'
}

@test "collect: every family and prompt format runs" {
  need jq
  questions 2
  for m in qwen2 qwen2-sharded qwen3 llama3 phi3; do
    for f in tokenskip xml paper raw; do
      collect --quiet --model "$GOLDEN/models/$m" --max-tokens 4 --prompt-format $f questions.jsonl >s.jsonl || { echo "$m $f"; return 1; }
      [ "$(jq -r .prompt_format s.jsonl | xargs)" = "$f $f" ]
    done
  done
}

@test "collect: prompts from data files" {
  need jq
  questions 2
  printf '{"name": "d", "system": "Be brief.", "exemplars": [{"question": "1+1?", "answer": "<think>\\n2\\n</think>\\n\\\\boxed{2}"}]}' >d.json
  for l in inlined multiturn system-only; do
    tiny --prompt-data d.json --prompt-layout $l questions.jsonl >$l
  done
  not cmp -s inlined multiturn
  tiny --prompt-data d.json --suppress-thinking questions.jsonl >suppressed
  not cmp -s inlined suppressed
  # the installed ones are found by name; they are too long for this model's context
  fails 1 'the prompt has [0-9]+ tokens' tiny --prompt-data sot questions.jsonl
  fails 1 'the prompt has [0-9]+ tokens' tiny --prompt-data cod questions.jsonl
  fails 1 'nosuch: no such file, and no such prompt' tiny --prompt-data nosuch questions.jsonl
  echo '{"exemplars": []}' >e.json
  fails 1 'e.json: no text under "system"' tiny --prompt-data e.json questions.jsonl
}

@test "collect: few-shot exemplars" {
  questions 2
  for i in 1 2 3; do echo '{"question": "What is '$i'?", "reasoning": "It is '$i'.", "answer": "'$i'"}'; done >shots.jsonl
  tiny --prompt-format xml --few-shot shots.jsonl --num-few-shot 2 questions.jsonl >a
  tiny --prompt-format xml --few-shot shots.jsonl --num-few-shot 2 --seed 7 questions.jsonl >b
  tiny --prompt-format xml --few-shot shots.jsonl --num-few-shot 2 questions.jsonl >c
  same a c
  fails 1 '4 exemplars wanted for math_train_0, the file has 3' tiny --few-shot shots.jsonl --num-few-shot 4 questions.jsonl
  echo '{"benchmark": "gsm8k", "question": "q", "answer": "1"}' >other.jsonl
  fails 1 '^collect: other.jsonl: exemplar 1 belongs to gsm8k, the questions to math' tiny --few-shot other.jsonl --num-few-shot 1 questions.jsonl
  tiny -o out.jsonl --few-shot shots.jsonl --num-few-shot 2 questions.jsonl
  sed -i s/It/That/ shots.jsonl # its content is in the key
  collect --model "$GOLDEN/models/qwen3" --max-tokens 20 -o out.jsonl --few-shot shots.jsonl --num-few-shot 2 questions.jsonl 2>&1 | not grep -q 'up to date'
}

@test "collect: --no-grade leaves the verdict open, --compat writes the reference's keys" {
  need jq
  questions 2
  tiny --no-grade questions.jsonl | jq -se 'all(.answer == null and .is_correct == null)'
  tiny --compat questions.jsonl >s.jsonl
  [ "$(jq -c 'keys_unsorted' s.jsonl | sort -u)" = '["benchmark","source_id","question_source_id","sample_index","question","gold_answer","prompt_format","response_text","reasoning","answer","is_correct","reasoning_token_count","response_token_count"]' ]
  [ "$(jq -r .prompt_format s.jsonl | sort -u)" = paper ]
}

@test "collect: --stop ends a response in front of the text" {
  need jq
  questions 4
  tiny -t 1 -N 4 questions.jsonl >all.jsonl
  stop=$(jq -r '.response_text | select(length > 8) | .[4:6]' all.jsonl | grep -v '[^a-zA-Z0-9 ]' | head -1)
  [ -n "$stop" ] || skip "no plain text to stop at"
  tiny -t 1 -N 4 --stop "$stop" questions.jsonl >cut.jsonl
  jq -e --arg s "$stop" 'select(.response_text | contains($s))' cut.jsonl && return 1
  not cmp -s all.jsonl cut.jsonl
}

@test "collect: bad input and misuse are one sentence with the right exit code" {
  questions 2
  : >empty.jsonl
  tiny empty.jsonl >out
  [ ! -s out ]
  { cat questions.jsonl; echo '{"broken'; } >bad.jsonl
  fails 1 '^collect: bad.jsonl:3: ' tiny bad.jsonl
  printf '{"benchmark": "math", "source_id": "a", "question": "\xff", "gold_answer": ""}\n' >bytes.jsonl
  fails 1 '^collect: bytes.jsonl:1: .*UTF-8' tiny bytes.jsonl
  echo '{"benchmark": "math", "source_id": "a", "gold_answer": "1"}' >nokey.jsonl
  fails 1 '^collect: nokey.jsonl:1: .*question' tiny nokey.jsonl
  fails 3 'nokey.jsonl:1: .*question' collect --model "$GOLDEN/models/qwen3" --max-tokens 4 --keep-going questions.jsonl nokey.jsonl
  cat "$GOLDEN/questions/math_train.jsonl" >raw.jsonl
  fails 1 '^collect: raw.jsonl:1: a row of math as it is published.*dataset --file' tiny raw.jsonl
  echo '{"question": "2+3?", "answer": "#### 5"}' >raw.jsonl
  fails 1 '^collect: raw.jsonl:1: a row of gsm8k .*dataset' tiny raw.jsonl
  echo '{"question": "2+3?", "gold_answer": "5"}' >nokey.jsonl # dataset knows no such rows
  fails 1 '^collect: nokey.jsonl:1: no key "source_id"' tiny nokey.jsonl
  printf '{"benchmark": "math", "source_id": "a", "question": "%s", "gold_answer": "1"}\n' "$(yes word | head -60000 | tr '\n' ' ')" >long.jsonl
  cat questions.jsonl >>long.jsonl
  fails 1 '^collect: long.jsonl:1: ' tiny long.jsonl
  fails 3 'long.jsonl:1: ' collect --model "$GOLDEN/models/qwen3" --max-tokens 4 --keep-going long.jsonl
  [ "$(wc -l <.stdout)" = 2 ]
  fails 1 '^collect: .*nowhere' collect --model nowhere questions.jsonl
  mkdir nothing
  fails 1 '^collect: nothing' collect --model nothing questions.jsonl
  fails 1 '^collect: .*encoder' collect --model "$GOLDEN/models/bert" --prompt-format raw questions.jsonl
  fails 1 'embedded:nobody: no embedded model of this name .*compressor, reasoner' collect --model embedded:nobody questions.jsonl
  fails 2 '^collect: unknown option --wrong' tiny --wrong questions.jsonl
  fails 2 'prompt-format' tiny --prompt-format latex questions.jsonl
  fails 2 'temperature' tiny --temperature=-1 questions.jsonl
  fails 2 'max-tokens' tiny --max-tokens 0 questions.jsonl
  fails 2 'kv-memory' tiny --kv-memory lots questions.jsonl
  fails 2 'shard' tiny --shard 4/4 questions.jsonl
  fails 2 'few-shot' tiny --prompt-format raw --few-shot questions.jsonl questions.jsonl
  fails 2 'prompt-layout' tiny --prompt-layout inlined questions.jsonl
  fails 1 'brings its own questions' tiny --benchmark math questions.jsonl
  fails 1 'FP8 cache needs a CUDA device' tiny --device cpu --fp8-cache questions.jsonl
  fails 1 'device cpu .*: products that depend on it need a CUDA device' tiny --device cpu --batch-dependent questions.jsonl
}

@test "collect: an id that stands twice is refused before anything is sampled; with --keep-going the first stays" {
  questions 3
  cat questions.jsonl questions.jsonl >twice.jsonl
  fails 1 '^collect: twice.jsonl:4: source_id math_train_0 stands at twice.jsonl:1 already' tiny -o out twice.jsonl
  [ ! -e out ]
  fails 1 'questions.jsonl:1: source_id math_train_0 stands at questions.jsonl:1 already' tiny --shard 1/6 questions.jsonl questions.jsonl
  tiny --limit 3 twice.jsonl >want
  fails 3 'twice.jsonl:6: source_id math_train_2 stands at twice.jsonl:3 already' tiny --keep-going twice.jsonl
  same want .stdout
  sed 's/"math"/"other"/' questions.jsonl >other.jsonl # another set may have the same ids
  [ "$(tiny questions.jsonl other.jsonl | wc -l)" = 6 ]
}

@test "collect: what nobody graded is not called wrong" {
  questions 2
  collect --model "$GOLDEN/models/qwen3" --max-tokens 4 --no-grade questions.jsonl 2>err >out
  grep -q ' 2 truncated, none graded$' err
  collect --model "$GOLDEN/models/qwen3" --max-tokens 4 questions.jsonl 2>err >out
  grep -q ' 0 correct, 2 truncated, 2 unanswered$' err
}

@test "collect: --benchmark runs the dataset program that lies beside it, and says so when that fails" {
  questions 2
  mkdir -p inst tmp
  cp "$BIN/collect" inst/
  printf '#!/bin/sh\n[ "$*" = "--split train set" ] || exit 1\ncat "%s"\n' "$T/questions.jsonl" >inst/dataset
  chmod +x inst/dataset
  tiny questions.jsonl >want
  export TMPDIR=$T/tmp
  inst/collect --quiet --model "$GOLDEN/models/qwen3" --max-tokens 20 --benchmark set -o got.jsonl
  same want got.jsonl
  inst/collect --model "$GOLDEN/models/qwen3" --max-tokens 20 --benchmark set -o got.jsonl 2>&1 | grep -q 'up to date'
  fails 1 '^collect: other: the questions cannot be had' inst/collect --model "$GOLDEN/models/qwen3" --benchmark other
  rm inst/dataset
  fails 1 '^collect: .*dataset: cannot run' inst/collect --model "$GOLDEN/models/qwen3" --benchmark set
  [ -z "$(ls tmp)" ]
}

@test "collect: 50 real questions, three samples: one hash with every batch, thread count, sharding, and after ten kills" {
  shared data/datasets/gsm8k/test.jsonl
  dataset gsm8k --split test --file "$shared_path" --limit 50 -o questions.jsonl
  args="-N 3 -t 0.7"
  tiny $args questions.jsonl >want
  [ "$(wc -l <want)" = 150 ]
  for how in "--batch 1" "--batch 7" "--batch 64" "--threads 1" "--threads 2"; do
    tiny $args $how questions.jsonl >got
    same want got || { echo "$how"; return 1; }
  done
  for k in 0 1 2 3; do tiny $args --shard $k/4 questions.jsonl; done >got
  same want got
  for ((i = 0; i < 10; i++)); do
    timeout -s KILL 0.$(printf "%02d" $((RANDOM % 20 + 3))) "$BIN/collect" --quiet --model "$GOLDEN/models/qwen3" --max-tokens 20 $args -o out.jsonl questions.jsonl || true
  done
  tiny $args -o out.jsonl questions.jsonl
  same want out.jsonl
}

@test "collect --compat: shards in the reference's order, and its words" {
  questions 7
  tiny --compat questions.jsonl >all
  for k in 0 1 2; do
    tiny --compat --shard $k/3 --shard-style stride questions.jsonl >got
    sed -n "$((k + 1))~3p" all >want
    same want got
    tiny --compat --num-shards 3 --shard-id=$k --gpu 0 --tensor-parallel 1 questions.jsonl >got
    same want got
  done
  fails 2 'goes with --compat' tiny --shard 0/3 --shard-style stride questions.jsonl
  fails 2 'go together' tiny --compat --num-shards 3 questions.jsonl
  fails 2 'tensor-parallel 2: there is only 1' tiny --compat --tensor-parallel 2 questions.jsonl
  fails 2 'unknown option --gpu' tiny --gpu 0 questions.jsonl
}

@test "collect --compat: exemplars are drawn as the reference draws them" {
  questions 3
  for i in $(seq 20); do echo '{"question": "'$i'?", "answer": "'$i'"}'; done >shots.jsonl
  args="--prompt-format paper --few-shot shots.jsonl --num-few-shot 2"
  tiny --compat $args questions.jsonl >a
  tiny --compat $args --batch 1 questions.jsonl >b
  same a b
  tiny --compat $args -o c questions.jsonl
  same a c
  fails 1 '^collect: shots.jsonl: 21 exemplars wanted, the file has 20' tiny --compat --few-shot shots.jsonl --num-few-shot 21 questions.jsonl
}

@test "collect: a pipe as a file is read once; what must be read twice says that it needs a file" {
  dataset -q math --file "$GOLDEN/questions/math_train.jsonl" --limit 3 >q.jsonl
  args=(-q --model "$GOLDEN/models/qwen3" --max-tokens 8)
  collect "${args[@]}" q.jsonl >want
  collect "${args[@]}" <(dataset -q math --file "$GOLDEN/questions/math_train.jsonl" --limit 3) >got
  [ "$(wc -l <want)" = 3 ]
  cmp want got
  mkfifo fifo
  cat q.jsonl >fifo &
  collect "${args[@]}" -o got.jsonl fifo
  same want got.jsonl
  fails 1 "collect: fifo: no run in the log made these bytes" collect "${args[@]}" --require-provenance fifo < <(sed 's/$/ /' q.jsonl >fifo)
  fails 1 "is a pipe, and this has to be read twice: use a file" collect "${args[@]}" --few-shot <(jq -c '.solution = "so"' q.jsonl) --num-few-shot 1 q.jsonl
}
