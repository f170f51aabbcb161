load lib

setup() {
  T=$BATS_TEST_TMPDIR
  cd "$T"
  export LATENT_RUNS=$T/runs
  for i in 0 1 2 3; do
    echo '{"source_id": "q'$((i / 2))_s$((i % 2))'", "is_correct": '$([ $i = 1 ] && echo false || echo true)', "reasoning": "r'$i'", "reasoning_token_count": '$((40 - i))', "x": 1.50}'
  done >in.jsonl
}

@test "select: lines pass byte for byte, in order; counts in the manifest" {
  "$BIN/select" -q --correct in.jsonl -o out.jsonl
  same out.jsonl <(sed 2d in.jsonl)
  jq -e '.counts == {"read": 4, "kept": 3, "incorrect": 1, "too_short": 0, "too_long": 0, "repeated": 0, "unscored": 0, "rejected": 0}' out.jsonl.run.json
  "$BIN/select" -q --correct --shortest 1 <in.jsonl >out
  same out <(sed -n '1p;4p' in.jsonl)
  "$BIN/select" -q --min-tokens 38 --max-cot-tokens 39 in.jsonl >out
  same out <(sed -n '2,3p' in.jsonl)
}

@test "select --merge: several files are one, with its manifest" {
  cp in.jsonl other.jsonl
  "$BIN/select" -q --merge in.jsonl other.jsonl -o all.jsonl
  same all.jsonl <(cat in.jsonl other.jsonl)
  [ "$(jq '.inputs | length' all.jsonl.run.json)" = 2 ]
  "$BIN/select" -q --dedup in.jsonl other.jsonl >out
  same out in.jsonl
}

@test "select --top joins scores, which are in the key" {
  for i in 0 1; do echo '{"source_id": "q0_s'$i'", "logprob_answer": -'$i'.5}'; done >s.jsonl
  "$BIN/select" -q --top 0.5 --by logprob_answer --scores s.jsonl in.jsonl -o out.jsonl
  [ "$(cat out.jsonl)" = '{"source_id": "q0_s0", "is_correct": true, "reasoning": "r0", "reasoning_token_count": 40, "x": 1.50, "quality_score": -0.5, "quality_score_key": "logprob_answer"}' ]
  jq -e '.counts.unscored == 2' out.jsonl.run.json
  "$BIN/select" --top 0.5 --by logprob_answer --scores s.jsonl in.jsonl -o out.jsonl 2>&1 | grep -q 'up to date'
  echo '{"source_id": "q1_s0", "logprob_answer": -9}' >>s.jsonl
  "$BIN/select" -q --top 0.5 --by logprob_answer --scores s.jsonl in.jsonl -o out.jsonl
  [ "$(wc -l <out.jsonl)" = 2 ]
}

@test "select --exemplars: what few-shot prompts take" {
  "$BIN/select" -q --exemplars 2 in.jsonl | jq -e '.source_id == "q1" or .source_id == "q0"'
  "$BIN/select" -q --exemplars 2 --compat in.jsonl | jq -e 'length == 2 and .[0].source_id == "q1" and .[0].think_token_count == 37'
}

@test "select: what is refused" {
  fails 2 'exclude each other' "$BIN/select" --top 0.5 --shortest 1 in.jsonl
  fails 2 'scores is for --top' "$BIN/select" --scores in.jsonl in.jsonl
  fails 2 'no other choice' "$BIN/select" --merge --correct in.jsonl
  fails 2 'top' "$BIN/select" --top 1.5 in.jsonl
  fails 1 'in.jsonl:1' "$BIN/select" -q --top 0.5 --scores in.jsonl in.jsonl
  echo '{"source_id": "q9"}' >>in.jsonl
  fails 1 'in.jsonl:5: no key "is_correct"' "$BIN/select" -q --correct in.jsonl
  fails 3 'in.jsonl:5: no key "is_correct"' "$BIN/select" -q --correct --keep-going in.jsonl -o out.jsonl
  [ "$(wc -l <out.jsonl)" = 3 ]
}
