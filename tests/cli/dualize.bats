load lib

M() {
  echo "$GOLDEN/models/$1"
}

@test "dualize: a folder that verify likes, with a hash per file; again it is up to date" {
  for m in qwen2 qwen3 llama3 llama3-tied qwen2-sharded qwen3-bf16; do
    dualize -q -m "$(M $m)" -o $m
    verify -q --check-latent --tol 0 $m
  done
  [ "$(jq -r '.counts.files | keys | join(" ")' qwen3/run.json)" = "config.json dual_vocab_meta.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json" ]
  [ "$(jq -c '[.vocab_size]' qwen3/config.json)" = '[1216]' ]
  run dualize -m "$(M qwen3)" -o qwen3
  [[ $output == *"qwen3 is up to date"* ]]
  [ "$(dualize -m "$(M qwen3)" -o qwen3 --plan | awk '{ print $3 }')" = up-to-date ]
  [ "$(dualize -m "$(M qwen3)" --noise 1 -o qwen3 --plan | awk '{ print $3 }')" = run ]
}

@test "dualize: the same bytes every time, whatever the threads and the device option" {
  dualize -q -m "$(M phi3)" --think-missing add -o a
  dualize -q -m "$(M phi3)" --think-missing add --threads 3 --device cpu -o b
  for f in a/*; do [ "$f" = a/run.json ] || same "$f" "b/${f#a/}"; done
  dualize -q -m "$(M phi3)" --think-missing add --seed 1 -o c
  not cmp -s a/model.safetensors c/model.safetensors
}

@test "dualize: modes and what they refuse" {
  dualize -q -m "$(M qwen3)" --mode subset --subset-regex '^[a-z]$' -o s
  [ "$(jq .L s/dual_vocab_meta.json)" = 26 ]
  echo '[3, 1, 2, 3]' >ids
  dualize -q -m "$(M qwen3)" --mode subset --subset-ids ids -o t
  [ "$(jq -c .source_ids t/dual_vocab_meta.json)" = '{"first":1,"count":3}' ]
  dualize -q -m "$(M qwen3)" --no-tokens -o u
  [ "$(jq '[.added_tokens[] | select(.content | test("latent"))] | length' u/tokenizer.json)" = 0 ]
  verify -q u
  [ "$(jq '[.added_tokens[] | select(.content | test("latent"))] | length' s/tokenizer.json)" = 26 ]
  fails 1 'no single token for the start of thinking' dualize -m "$(M phi3)" -o x
  fails 1 'dual model already' dualize -m s -o x
  fails 1 'is an encoder' dualize -m "$(M bert)" -o x
  fails 1 'subset-regex \[: ' dualize -m "$(M qwen3)" --mode subset --subset-regex '[' -o x
  fails 1 'the subset is empty' dualize -m "$(M qwen3)" --mode subset --subset-regex 'nothing at all' -o x
  echo '[3, 608]' >ids
  fails 1 'ids: 608 is not an id from 0 to 607' dualize -m "$(M qwen3)" --mode subset --subset-ids ids -o x
  fails 2 'needs one of' dualize -m "$(M qwen3)" --mode subset -o x
  fails 2 'needs one of' dualize -m "$(M qwen3)" --mode subset --subset-ids ids --subset-regex a -o x
  fails 2 'are for --mode subset' dualize -m "$(M qwen3)" --subset-ids ids -o x
  fails 2 'needs --custom-tokens' dualize -m "$(M qwen3)" --mode custom -o x
  fails 2 'are for --mode custom' dualize -m "$(M qwen3)" --custom-tokens ids -o x
  fails 2 '-o DIR is needed' dualize -m "$(M qwen3)"
  mkdir mine; echo precious >mine/file
  fails 1 'mine: is there and has no run.json: it is not replaced' dualize -m "$(M qwen3)" -o mine
  [ "$(cat mine/file)" = precious ]
  [ -z "$(ls -d ./*.part 2>/dev/null)" ] || ls -d ./*.part
  [ ! -e x ]
}

@test "verify: what is wrong with a model folder is named" {
  dualize -q -m "$(M qwen3-untied)" -o d
  cp -r d keep
  verify -q --trace d >t
  grep -q "^d .* dualize" t
  verify -q --all . # both
  printf '\x01' | dd of=d/model.safetensors bs=1 seek=100000 conv=notrunc status=none
  fails 1 'd/model.safetensors: its hash is .* changed after it was made' verify d
  rm -r d; cp -r keep d
  rm d/tokenizer.json
  fails 1 'd/tokenizer.json: is missing' verify d
  rm -r d; cp -r keep d
  sed -i 's/"vocab_size": 1200/"vocab_size": 1201/' d/config.json
  fails 1 'd: config.json has a vocab_size of 1201, dual_vocab_meta.json a total of 1200' verify d
  rm -r d; cp -r keep d
  sed -i 's/"think_end_token_id": 599/"think_end_token_id": 598/' d/dual_vocab_meta.json
  fails 1 'think token </think> has id 599 in the tokenizer, 598' verify d
  rm -r d; cp -r keep d
  # rows that were trained: no problem where there is no run.json of dualize, unless --check-latent asks
  rm d/run.json
  size=$(stat -c %s d/model.safetensors)
  printf '\x01' | dd of=d/model.safetensors bs=1 seek=$((8 + $(od -An -tu8 -N8 d/model.safetensors) + 600 * 32 * 4)) conv=notrunc status=none
  [ "$(stat -c %s d/model.safetensors)" = "$size" ]
  verify -q d
  fails 1 '1 latent row is not a copy of its source' verify --check-latent --sample-size 1000 --tol 0 d
  verify -q --check-latent --sample-size 1000 --tol 1 d
  fails 1 'is a folder without config.json' verify .
  verify -q "$(M llama3)" "$(M bert)"
}

questions() {
  for i in 0 1 2 3 4 5; do
    printf '{"benchmark": "math", "source_id": "math_test_%d", "question": "What is %d+%d?", "gold_answer": "%d"}\n' $i $i $i $((2 * i))
  done
}

@test "dual models: eval and collect think with latent ids and show their sources" {
  questions >q.jsonl
  dualize -q -m "$(M qwen3)" -o d
  dualize -q -m "$(M phi3)" --think-missing clone_eos -o p
  for m in d p; do
    "$BIN/eval" -q -m $m -t 1 -N 4 --end-bias 3 --max-tokens 40 q.jsonl >rows
    jq -e '.latent_tokens + .visible_tokens == .num_tokens' rows >/dev/null
    jq -e 'select(.latent_tokens > 0) | .reasoning != null' rows >ok
    not grep -q false ok
    not grep -q '<|latent' rows
    [ "$(jq -c 'select(.latent_tokens > 0 and .visible_tokens > 1)' rows | wc -l)" -ge 2 ]
    "$BIN/eval" -q -m $m -t 1 -N 4 --end-bias 3 --max-tokens 40 -b 1 q.jsonl >again
    same rows again
    "$BIN/eval" -q -m $m -t 1 -N 4 --end-bias 1000 --max-tokens 10 q.jsonl | jq -e '.latent_tokens == 0 and (.response_text | startswith("</think>"))' >ok
    not grep -q false ok
    "$BIN/eval" -q -m $m -t 1 -N 4 --end-bias=-1000 --max-tokens 10 q.jsonl | jq -e '.visible_tokens == 0 and .extracted == null and .reasoning != null' >ok
    not grep -q false ok
    collect -q -m $m -t 1 --max-tokens 40 --suppress-thinking q.jsonl | jq -e '.latent_tokens == 0 and .visible_tokens > 0' >ok
    not grep -q false ok
  done
  "$BIN/eval" -q -m "$(M qwen3)" --max-tokens 4 q.jsonl | jq -e 'has("latent_tokens") | not' >ok
  not grep -q false ok
}

@test "dual models: eval --compat shows the ids as they were" {
  need jq
  questions >q.jsonl
  dualize -q -m "$(M qwen3)" -o d
  "$BIN/eval" -q --compat -m d -t 1 --end-bias 3 --max-tokens 45 q.jsonl | tail -n +2 >rows
  [ "$(jq -c 'del(.raw_ids_around_think_end) | keys_unsorted' rows | sort -u)" = '["source_id","prediction","thinking","num_tokens","think_tokens","is_correct","extracted","num_latent_ids","num_visible_ids","raw_token_ids_head"]' ]
  jq '(.raw_token_ids_head | length) == .num_tokens and .num_latent_ids + .num_visible_ids == .num_tokens' rows >ok
  jq '([.raw_token_ids_head[] | select(. >= 608)] | length) == .num_latent_ids' rows >>ok
  "$BIN/eval" -q --compat -m d -t 1 --end-bias=-1000 --max-tokens 70 q.jsonl | tail -n +2 | jq '(.raw_token_ids_head | length) == ([.num_tokens, 50] | min)' >>ok
  # 599 is the think end: the ids around it begin at offset, 5 in front of it and 10 behind
  jq 'select(.raw_ids_around_think_end) | .raw_token_ids_head as $head | .num_tokens as $n | .raw_ids_around_think_end |
    .ids[.think_end_pos - .offset] == 599 and .offset == ([.think_end_pos - 5, 0] | max) and
    (.ids | length) == ([.think_end_pos + 11, $n] | min) - .offset and
    $head[.offset:.offset + (.ids | length)] == .ids' rows >around
  [ -s around ]
  not grep -q false ok around
  [ "$(jq -c 'select((.raw_token_ids_head | index(599)) and (.raw_ids_around_think_end | not))' rows)" = "" ]
}

@test "dual models: a thought that spells </think> and an answer is no answer" {
  need jq
  questions | sed 's/"gold_answer": "[0-9]*"/"gold_answer": "7"/' >q.jsonl
  printf '%s\n' 'so </think> \boxed{7} ' >tokens
  dualize -q -m "$(M qwen3)" --mode custom --custom-tokens tokens -o d
  "$BIN/eval" -q -m d -t 1 -N 8 --end-bias=-1 --max-tokens 6 q.jsonl >rows
  jq 'select(.latent_tokens > 0 and .visible_tokens == 0) | .extracted == null and (.is_correct | not) and
    (.reasoning | contains("</think>"))' rows >thoughts
  jq 'select(.latent_tokens > 0 and .visible_tokens > 1) | (.reasoning | endswith("</think> \\boxed{7}"))' rows >answers
  [ -s thoughts ] && [ -s answers ]
  not grep -q false thoughts answers
  collect -q -m d -t 1 -N 8 --end-bias=-1 --max-tokens 6 q.jsonl | jq 'select(.latent_tokens > 0 and .visible_tokens == 0) | .answer == null and (.is_correct | not)' >ok
  [ -s ok ] && not grep -q false ok
  # the reference reads the text
  "$BIN/eval" -q --compat -m d -t 1 --end-bias=-1000 --max-tokens 6 q.jsonl | tail -n +2 | jq 'select(.num_latent_ids > 0) | .extracted == "7"' >ok
  [ -s ok ] && not grep -q false ok
}

@test "dual models: stop strings are looked for in the text that is shown" {
  questions >q.jsonl
  dualize -q -m "$(M qwen3)" -o d
  "$BIN/eval" -q -m d -t 1 -N 4 --end-bias 0 --max-tokens 40 q.jsonl >all
  "$BIN/eval" -q -m d -t 1 -N 4 --end-bias 0 --max-tokens 40 --stop e q.jsonl >cut
  jq -r .response_text cut >texts
  not grep -q e texts
  [ "$(jq -c 'select(.finish_reason == "stop" and .visible_tokens == 0)' cut | wc -l)" -ge 1 ] # in the middle of a thought
}

@test "dual models: score: fresh copies give every token half the probability, and no more differs" {
  score -q -m "$(M qwen3)" "$GOLDEN/score/rows.jsonl" >base
  dualize -q -m "$(M qwen3)" -o d
  score -q -m d "$GOLDEN/score/rows.jsonl" >dual
  jq -n -e --slurpfile a base --slurpfile b dual '[range($a | length) as $i |
    (($a[$i].logprob - $b[$i].logprob) / $a[$i].num_tokens - (2 | log)) | fabs] | max < 1e-5'
  [ "$(jq -c 'select(.latent_token_count > 0)' dual | wc -l)" -ge 2 ]
}

@test "pipeline: dual.mk builds and verifies; again nothing is to be done; a broken model stops it" {
  need make
  run make -f "$ROOT/pipelines/dual.mk" BIN="$BIN" OUT=out THINK_MISSING=add
  [ "$status" = 0 ] || { echo "$output"; return 1; }
  [[ $output == *"1 artefact checked, 0 problems"* ]]
  run make -f "$ROOT/pipelines/dual.mk" BIN="$BIN" OUT=out THINK_MISSING=add plan
  [[ $output == *"out/data/models/dual "*" up-to-date"* ]]
  make -f "$ROOT/pipelines/dual.mk" BIN="$BIN" OUT=sub MODE=subset SUBSET_REGEX='^[a-z]' >/dev/null
  [ "$(jq -r .mode sub/data/models/dual/dual_vocab_meta.json)" = subset ]
  run make -f "$ROOT/pipelines/dual.mk" BIN="$BIN" OUT=out MODEL="$GOLDEN/models/phi3"
  [ "$status" = 2 ]
  [[ $output == *"no single token for the start of thinking"* ]]
}
