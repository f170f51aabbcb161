load lib

M() {
  echo "$GOLDEN/models/$1"
}

# near GOT WANT: every number of WANT (one object a line) is within 1e-4 of its size in GOT.
near() {
  jq -n -e --slurpfile got "$1" --slurpfile want "$2" '
    ($got | length) == ($want | length) and
    ([range($want | length) as $i | $want[$i] | to_entries[] |
      ($got[$i][.key]) as $g | (.value) as $w |
      if ($g | type) == "number" and ((($g - $w) | fabs) <= 1e-4 * ([1, ($w | fabs)] | max)) then empty
      else "row \($i) \(.key): \($g), expected \($w)" end] | if . == [] then true else (debug | false) end)' >/dev/null
}

@test "score: sums over regions, surprisal and entropy are transformers'" {
  for m in qwen3 qwen2 llama3; do
    score -q -m "$(M $m)" "$GOLDEN/score/rows.jsonl" >got
    near got "$GOLDEN/score/$m.jsonl"
  done
}

@test "score: keys of the reference, ids, ratio" {
  score -q -m "$(M qwen3)" "$GOLDEN/score/rows.jsonl" >got
  [ "$(head -1 got | jq -c '[keys_unsorted[0:12][]]')" = '["source_id","question_source_id","compression_ratio","answer","logprob_answer","num_answer_tokens","logprob_boxed","num_boxed_tokens","logprob_post_cot","num_post_cot_tokens","input_token_count","skipped"]' ]
  jq -c '[.source_id, .index, .question_source_id, .compression_ratio, .answer, .skipped]' got >names
  diff names - <<'X'
["gsm8k_train_7_s3",null,"gsm8k_train_7",0.5,"36",false]
["math_train_1_s0",null,"math_train_1",1,"\\frac{1}{4}",false]
["math_s_2_s11",null,"math_s_2",null,"three",false]
[null,3,null,null,null,false]
["plain",null,"plain",null,null,false]
X
}

@test "score: the same bytes at any batch and thread count, resumed or not" {
  for i in 1 2 3 4 5; do cat "$GOLDEN/score/rows.jsonl"; done >rows
  score -q -t -m "$(M qwen3)" rows >want
  for b in 1 37 500 100000; do
    for t in 1 2; do
      score -q -t -m "$(M qwen3)" -b $b --threads $t rows >got
      same want got
    done
  done
  score -q -t -m "$(M qwen3)" - <rows >got
  same want got
  score -q -t -m "$(M qwen3)" rows -o out
  same want out
  run score -t -m "$(M qwen3)" rows -o out
  [[ $output == *"up to date"* ]]
  score -q -t -m "$(M qwen3)" -n 7 rows >got
  same <(head -7 want) got
}

@test "score: tokens add up" {
  score -q -t -m "$(M qwen3)" "$GOLDEN/score/rows.jsonl" >got
  jq -e '(.tokens.ids | length) == .input_token_count and (.tokens.logprobs | length) == .input_token_count - .tokens.first
    and (.tokens.entropies | length) == (.tokens.logprobs | length) and .num_tokens == (.tokens.logprobs | length)
    and (((.tokens.logprobs | add) - .logprob) | fabs) < 1e-4' got >all
  not grep -q false all
}

@test "score: conversations: the last turn is scored" {
  cat >rows <<'X'
{"messages": [{"role": "user", "content": "put it in \\boxed{}"}, {"role": "assistant", "content": "no."}], "metadata": {"source_id": "q_s1", "compression_ratio": 0.7}}
{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b \\boxed{c}"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b \\boxed{c}"}]}
X
  score -q -m "$(M qwen2)" rows >got
  [ "$(jq -c '[.source_id, .compression_ratio, .num_answer_tokens, .logprob_answer]' got | head -1)" = '["q_s1",0.7,0,null]' ]
  [ "$(jq -c '[.num_answer_tokens, (.logprob_boxed < 0), .logprob_post_cot]' got | tail -1)" = '[1,true,null]' ]
}

@test "score: rows that cannot be scored stay, with a reason" {
  cat >rows <<'X'
{"messages": [{"role": "user", "content": "hi"}]}
{"messages": "hi"}
{"source_id": "a_s1", "question": "q", "reasoning": null, "answer": "2"}
{"question": "q", "reasoning": "r", "answer": null}
{"question": "q", "compressed_reasoning": "r", "compression_ratio": 2, "answer": "2"}
{"prompt": 1, "completion": "x"}
{"prompt": "x", "completion": ""}
{"else": 1}
{"prompt": "one two three four five six seven eight nine ten", "completion": " eleven twelve"}
{"prompt": "a", "completion": " b"}
X
  score -q -m "$(M qwen2)" --max-seq-len 12 rows >got
  jq -r '.reason // "scored"' got >reasons
  diff <(sed -E 's/^[0-9]+ tokens/N tokens/' reasons) - <<'X'
messages does not end with a turn of the assistant
messages does not end with a turn of the assistant
there is no reasoning
there is no answer
compression_ratio is no number above 0 and up to 1
prompt is no text
there is no token to score
the row has neither messages, nor prompt and completion, nor a question
N tokens are more than 12
scored
X
  [ "$(jq -c 'select(.skipped) | has("logprob")' got | sort -u)" = false ]
  # broken lines are errors, or are reported and left out
  printf '%s\n' '{"prompt": "a", "completion": " b"}' '{"prompt"' '{"prompt": "a", "completion": " c"}' >bad
  fails 1 'bad:2: ' score -q -m "$(M qwen2)" bad
  fails 3 'bad:2: ' score -q --keep-going -m "$(M qwen2)" bad
  [ "$(wc -l <.stdout 2>/dev/null || wc -l <"$BATS_TEST_TMPDIR/.stdout")" = 2 ]
}

@test "score: what is no decoder is refused" {
  fails 1 'bert is an encoder' score -q -m "$(M bert)" /dev/null
  fails 1 'no such' score -q -m ./nowhere /dev/null
  fails 2 'max-seq-len' score --max-seq-len 1 /dev/null
}

@test "score: sums that depend on the batch are the CUDA device's" {
  fails 1 'products that depend on it need a CUDA device' score -q --device cpu --batch-dependent -m "$(M qwen2)" "$GOLDEN/score/rows.jsonl"
}

@test "score: a row longer than the model's context is skipped, whatever --max-seq-len says" {
  jq -nc '{prompt: "a", completion: ("x " * 600)}' >rows
  score -m "$(M qwen2)" --max-seq-len 100000 rows >got 2>err
  grep -qx 'score: 1 row was skipped; each says why' err
  jq -e '.skipped and (.reason | endswith("tokens are more than 512"))' got
}

@test "score: shards, one behind the other, are the bytes of the whole" {
  for i in 1 2 3 4 5; do cat "$GOLDEN/score/rows.jsonl"; done >rows
  score -q -t -m "$(M qwen3)" rows >want
  for n in 1 2 4 30; do
    for k in $(seq 0 $((n - 1))); do score -q -t -m "$(M qwen3)" --shard $k/$n rows -o part$k.jsonl; done
    cat $(seq -f 'part%g.jsonl' 0 $((n - 1))) >got
    same want got
    verify -q $(seq -f 'part%g.jsonl' 0 $((n - 1)))
  done
  score -q -t -m "$(M qwen3)" --limit 7 --shard 1/2 - <rows >got # the limit comes first
  same <(sed -n 4,7p want) got
  fails 2 'expected k/n' score -m "$(M qwen3)" --shard 2/2 rows
  { sed -n 1,3p rows; echo '{"broken'; sed -n 4p rows; } >bad
  fails 3 'bad:4: ' score -q -m "$(M qwen3)" --keep-going --shard 1/2 bad -o bad1
  score -q -m "$(M qwen3)" --shard 0/2 bad -o bad0
  score -q -m "$(M qwen3)" --keep-going bad >want || [ $? = 3 ]
  cat bad0 bad1 >got
  same want got
}
