load lib

setup() {
  T=$BATS_TEST_TMPDIR
  cd "$T"
  export LATENT_RUNS=$T/runs
  for i in $(seq 0 29); do
    for r in 0.3 0.5; do
      echo '{"benchmark": "math", "source_id": "math_train_'$i'_s0", "question": "What is '$i'+1?", "gold_answer": "'$((i + 1))'", "answer": "'$((i + 1))'", "compression_ratio": '$r', "original_reasoning": "whole '$i'", "compressed_reasoning": "part '$r' '$i'", "original_reasoning_token_count": '$((i + 5))', "compressed_reasoning_token_count": 3, "actual_compression_rate": "50.0%", "question_source_id": "math_train_'$i'", "sample_index": 0, "achieved_rate_target": null, "achieved_rate_compressor": 0.41}'
    done
    echo '{"benchmark": "math", "source_id": "math_train_'$i'_s0", "question": "What is '$i'+1?", "gold_answer": "'$((i + 1))'", "answer": "'$((i + 1))'", "is_correct": true, "reasoning": "whole '$i'"}' >>samples.jsonl
  done >in.jsonl
}

@test "prepare: a row a trace, the ratio drawn by seed and id alone" {
  prepare -q in.jsonl -o a.jsonl
  [ "$(wc -l <a.jsonl)" = 30 ]
  [ "$(jq -r .metadata.compression_ratio a.jsonl | sort -u | wc -l)" = 3 ]
  jq -e '.counts.rows == 30 and .counts.traces == 30' a.jsonl.run.json
  tail -40 in.jsonl | prepare -q >b
  same b <(tail -20 a.jsonl)
  prepare -q --seed 7 in.jsonl >c
  not cmp -s a.jsonl c
  prepare -q --threads 1 --device cpu in.jsonl >d
  same a.jsonl d
}

@test "prepare: all ratios, pool, label, length" {
  prepare -q --all-ratios in.jsonl >a
  [ "$(wc -l <a)" = 90 ]
  prepare -q --all-ratios --ratio 0.5 --label achieved in.jsonl >b
  [ "$(wc -l <b)" = 30 ]
  jq -e '.metadata.compression_ratio == 0.41 and .metadata.target_ratio == 0.5 and (.messages[1].content | endswith("<|im_end|>0.41<|im_end|>"))' b >/dev/null
  prepare -q --all-ratios --max-cot-tokens 10 in.jsonl >c
  [ "$(wc -l <c)" = 18 ]
}

@test "prepare --compat: the reference's random stream" {
  # random.Random(42).choice over a pool of 5: 0 0 2 1 1 1 0 4 0 4 3 ...; 3 and 4 have no record here, so they are refused
  fails 1 'no record of ratio 0.7' prepare -q --compat --original samples.jsonl --ratio 1,0.3,0.5,0.7 in.jsonl
  prepare -q --compat --original samples.jsonl --ratio 1,0.5 in.jsonl >a
  # pool of 2: 0 0 1 0 0 0 0 0 1 0 0 0 0 0 0 0 1 0 1 1
  [ "$(head -20 a | jq -r 'if .metadata.conditioned then 1 else 0 end' | tr '\n' ' ')" = "0 0 1 0 0 0 0 0 1 0 0 0 0 0 0 0 1 0 1 1 " ]
  tac in.jsonl | prepare -q --compat --original samples.jsonl --ratio 1,0.5 >b
  same a b
}

@test "prepare --method solution: train and collect give a model the same prompt" {
  dataset -q arith --limit 3 -o questions.jsonl
  prepare -q --method solution questions.jsonl -o rows.jsonl
  R=$BATS_TEST_DIRNAME/../../pipelines/embedded/reasoner
  jq -c '{messages: .messages[:2], add_generation_prompt: true}' rows.jsonl | tok chat -m "$R" | jq .text >prompts
  jq -c '{messages}' rows.jsonl | tok chat -m "$R" | jq .text >whole
  paste -d, prompts whole | sed 's/.*/[&]/' | jq -se 'length == 3 and all(. as [$p, $w] | $w | startswith($p))'
}

@test "prepare: what is refused" {
  fails 2 'exclude each other' prepare --format xml in.jsonl
  fails 2 'is for --method tokenskip' prepare --method direct --ratio 0.5 in.jsonl
  fails 2 'needs --original' prepare --compat in.jsonl
  fails 2 'has no reasoning' prepare --method direct --max-cot-tokens 5 in.jsonl
  fails 2 'no token counts' prepare --method solution --max-cot-tokens 5 in.jsonl
  fails 2 'no such rows' prepare --method solution --compat in.jsonl
  fails 2 'labels has no --format' prepare --method labels --format xml in.jsonl
  fails 2 'is for --method tokenskip' prepare --method labels --ratio 0.5 in.jsonl
  fails 1 'compress --labels writes them' prepare -q --method labels in.jsonl
  fails 1 'comes again' prepare -q in.jsonl in.jsonl
  fails 1 'no key "original_reasoning"' prepare -q samples.jsonl
}
