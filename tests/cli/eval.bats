load lib

questions() {
  local i
  for i in $(seq 0 $(($1 - 1))); do
    printf '{"benchmark": "math", "source_id": "math_test_%d", "question": "What is %d+%d?", "gold_answer": "%d"}\n' $i $i $i $((2 * i))
  done >questions.jsonl
}
tiny() {
  "$BIN/eval" --quiet --model "$GOLDEN/models/qwen3" --max-tokens 16 "$@"
}

@test "eval: keys and their order" {
  need jq
  questions 3
  tiny --ratio 0.5 questions.jsonl >r.jsonl
  [ "$(jq -c keys_unsorted r.jsonl | sort -u)" = '["benchmark","source_id","sample_index","question","gold_answer","compression_ratio","prompt_format","response_text","reasoning","extracted","verdict","reason","is_correct","is_correct_compat","num_tokens","think_tokens","finish_reason","seed"]' ]
  [ "$(jq -r .source_id r.jsonl | xargs)" = "math_test_0 math_test_1 math_test_2" ]
  jq -e 'select(.compression_ratio != 0.5 or (.finish_reason == "length" and (.is_correct or .reason != "truncated")) or
    .think_tokens > .num_tokens + 2)' r.jsonl && return 1
  true
}

@test "eval: several ratios in one run are the single runs, under the names of the text" {
  questions 5
  tiny --ratio 1.0,0.5,0.30 --output-dir out questions.jsonl
  [ "$(ls out | grep -v run.json | xargs)" = "math_eval_ratio_0.30.jsonl math_eval_ratio_0.5.jsonl math_eval_ratio_1.0.jsonl" ]
  for r in 1.0 0.5 0.30; do
    tiny --compression-ratio $r questions.jsonl >one
    same one out/math_eval_ratio_$r.jsonl
  done
  not cmp -s out/math_eval_ratio_1.0.jsonl out/math_eval_ratio_0.5.jsonl
}

@test "eval: one more ratio costs that ratio alone" {
  questions 2
  tiny --ratio 1,0.5 --output-dir out questions.jsonl
  touch -d '2001-01-01' out/math_eval_ratio_1.jsonl
  "$BIN/eval" --model "$GOLDEN/models/qwen3" --max-tokens 16 --ratio 1,0.5,0.3 --output-dir out questions.jsonl 2>err
  [ "$(grep -c 'up to date' err)" = 2 ]
  grep -q '^eval: 2 questions, 2 samples' err
  [ "$(stat -c %Y out/math_eval_ratio_1.jsonl)" = "$(date -d 2001-01-01 +%s)" ]
  [ -s out/math_eval_ratio_0.3.jsonl ]
}

@test "eval: one output whatever batch, memory and threads, and after kills" {
  questions 9
  args="-N 3 -t 0.8 --ratio 1,0.5"
  tiny $args --output-dir want questions.jsonl
  for how in "--batch 1" "--batch 7" "--batch 64" "--threads 2" "--kv-memory 1M"; do
    rm -rf got
    tiny $args $how --output-dir got questions.jsonl
    for r in 1 0.5; do same want/math_eval_ratio_$r.jsonl got/math_eval_ratio_$r.jsonl || { echo "$how $r"; return 1; }; done
  done
  rm -rf got
  for signal in KILL TERM KILL KILL INT; do
    timeout -s $signal 0.0$((RANDOM % 9 + 1)) "$BIN/eval" --quiet --model "$GOLDEN/models/qwen3" --max-tokens 16 $args --output-dir got questions.jsonl || true
  done
  tiny $args --output-dir got questions.jsonl
  for r in 1 0.5; do same want/math_eval_ratio_$r.jsonl got/math_eval_ratio_$r.jsonl; done
  [ -z "$(ls got | grep journal || true)" ]
}

@test "eval: --compat writes the reference's summary and rows, and report reads both" {
  need jq
  questions 4
  tiny --compat --ratio 0.5 -o ref.jsonl questions.jsonl
  [ "$(head -1 ref.jsonl | jq -c keys_unsorted)" = '["type","model_path","prompt_format","tokenskip_prompt","compression_ratio","sot_prompt","sot_paradigm","sot_multiturn_exemplars","cod_prompt","cod_paradigm","cod_multiturn_exemplars","cod_shot","suppress_thinking","num_samples","correct","accuracy","avg_tokens","avg_thinking_tokens","avg_correct_tokens"]' ]
  [ "$(tail -n +2 ref.jsonl | jq -c keys_unsorted | sort -u)" = '["source_id","prediction","thinking","num_tokens","think_tokens","is_correct","extracted"]' ]
  head -1 ref.jsonl | jq -e '.type == "summary" and .prompt_format == "tokenskip_chat_template:qwen" and .num_samples == 4 and .compression_ratio == 0.5'
  [ "$(head -1 ref.jsonl | jq .avg_tokens)" = "$(tail -n +2 ref.jsonl | jq -s 'map(.num_tokens) | add / length')" ]
  tiny --ratio 0.5 -o ours.jsonl questions.jsonl
  # the same texts: what one says of the other must agree
  [ "$(tail -n +2 ref.jsonl | jq -c '[.source_id, .num_tokens, .think_tokens, .is_correct]')" = "$(jq -c '[.source_id, .num_tokens, .think_tokens, .is_correct_compat]' ours.jsonl)" ]
  report --format jsonl ref.jsonl ours.jsonl | jq -se 'length == 2 and .[0].tokens_mean == .[1].tokens_mean'
}

@test "eval --compat: the reference's words" {
  questions 5
  tiny --compat --ratio 0.5 --limit 3 questions.jsonl >want
  tiny --compat --compression-ratio 0.5 --num-samples 3 --tokenskip-prompt --top-k -1 --gpu 0 --cache-dir=x --num-cot-samples 20 \
    --wandb-project p --wandb-run-name=n questions.jsonl >got
  same want got
  tiny --compat --tokenskip-prompt --compression-ratio 0.5 --num-samples=3 --output out questions.jsonl
  same want out
  printf '{"name": "cod", "system": "Be brief.", "exemplars": [{"question": "1+1?", "answer": "2"}]}' >d.json
  tiny --compat --prompt-data d.json --prompt-layout multiturn --num-few-shot 1 questions.jsonl >want
  tiny --compat --prompt-data d.json --cod-multiturn-exemplars --cod-shot 1 --cod-paradigm gsm8k questions.jsonl >got
  same want got
  fails 1 'the prompt has [0-9]+ tokens' tiny --compat --sot-prompt --sot-paradigm chunked_symbolism questions.jsonl
  fails 2 'sot-paradigm expert_lexicons: there is only chunked_symbolism' tiny --compat --sot-prompt --sot-paradigm expert_lexicons questions.jsonl
  fails 2 'tokenskip-prompt takes no value' tiny --compat --tokenskip-prompt=1 questions.jsonl
  fails 2 'gpu needs a value' tiny --compat questions.jsonl --gpu
  fails 2 'unknown option --tokenskip-prompt' tiny --tokenskip-prompt questions.jsonl
}

@test "eval: --max-model-len counts prompt and response" {
  need jq
  questions 1
  n=$(tiny --max-model-len 200 questions.jsonl | jq .num_tokens)
  [ "$n" = 16 ]
  fails 1 'the prompt has [0-9]+ tokens, prompt and response together may have 10' tiny --max-model-len 10 questions.jsonl
  fails 1 'products that depend on it need a CUDA device' tiny --device cpu --batch-dependent questions.jsonl
  p=$(sed -n 's/.*the prompt has \([0-9]*\) tokens.*/\1/p' .stderr)
  tiny --max-model-len $((p + 5)) questions.jsonl | jq -e '.num_tokens == 5 and .finish_reason == "length"'
}

@test "eval: raw is the question alone, at ratio 1" {
  need jq
  questions 1
  tiny --prompt-format raw questions.jsonl | jq -e '.prompt_format == "raw" and .compression_ratio == 1.0'
}

@test "eval: misuse is refused before anything is loaded" {
  questions 1
  fails 2 'ratio 1.5: expected numbers above 0' tiny --ratio 1.5 questions.jsonl
  fails 2 'ratio 0: ' tiny --ratio 0 questions.jsonl
  fails 2 'ratio x' tiny --ratio 0.5,x questions.jsonl
  fails 2 '0.5 and 0.50 are the same ratio' tiny --ratio 0.5,0.50 --output-dir o questions.jsonl
  fails 2 'several ratios are several files' tiny --ratio 0.5,1 questions.jsonl
  fails 2 'output-dir and -o' tiny --output-dir d -o f questions.jsonl
  fails 2 'only --prompt-format tokenskip tells the model a ratio' tiny --prompt-format xml --ratio 0.5 questions.jsonl
  fails 2 'num-samples must be 1' tiny --compat -N 2 questions.jsonl
  fails 2 'needs --name' tiny --output-dir d <questions.jsonl
  tiny --output-dir d --name run <questions.jsonl
  [ -s d/run_eval_ratio_1.jsonl ]
  fails 1 '^eval: .*nowhere' "$BIN/eval" --model nowhere questions.jsonl
  echo '{"question": 1}' >bad.jsonl
  fails 1 '^eval: bad.jsonl:1: ' tiny bad.jsonl
  sed 's/"benchmark": "math", //' questions.jsonl >own.jsonl
  fails 1 '^eval: own.jsonl: has no benchmark to name the results by: give --name' tiny --output-dir own own.jsonl
  tiny --output-dir own --name own own.jsonl
}
