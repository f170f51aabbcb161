load lib

XLMR=tests/golden/models/xlmr
BERT=tests/golden/models/bert

# samples N: N samples, the fourth wrong, the sixth without reasoning, the eighth long.
samples() {
  local i right reasoning tokens
  for ((i = 0; i < $1; i++)); do
    right=true tokens=$((20 + i))
    reasoning='"First, we multiply \\(10\\) and \\(6\\) for step '$i'.\nThen 48/2 = 24 and 3.14 stay, since $x + 1 = '$i'$. So it is \\(\\boxed{'$i'}\\)."'
    case $i in 3) right=false ;; 5) reasoning=null ;; 7) tokens=900 ;; esac
    echo '{"benchmark": "math", "source_id": "math_train_'$((i / 2))_s$((i % 2))'", "question_source_id": "math_train_'$((i / 2))'", "sample_index": '$((i % 2))', "question": "Q'$i'?", "gold_answer": "'$i'", "prompt_format": "tokenskip", "response_text": "r", "reasoning": '"$reasoning"', "answer": "'$i'", "is_correct": '$right', "reasoning_token_count": '$tokens', "response_token_count": 50}'
  done
}

setup() {
  T=$BATS_TEST_TMPDIR
  cd "$ROOT"
  export LATENT_RUNS=$T/runs
  samples 12 >"$T/in.jsonl"
}

c() {
  compress -q "$@"
}

@test "compress: records, in order, all ratios of a sample together; wrong and empty ones left out" {
  c --model $XLMR --ratio 0.3,1,0.7 "$T/in.jsonl" -o "$T/out.jsonl"
  [ "$(jq -r .source_id "$T/out.jsonl" | uniq | wc -l)" = 10 ]
  [ "$(jq -r .compression_ratio "$T/out.jsonl" | head -3 | tr '\n' ' ')" = "0.3 1 0.7 " ] ||
    [ "$(jq -r .compression_ratio "$T/out.jsonl" | head -3 | tr '\n' ' ')" = "0.3 1.0 0.7 " ]
  [ "$(jq -c keys_unsorted "$T/out.jsonl" | sort -u)" = '["benchmark","source_id","question","gold_answer","answer","compression_ratio","original_reasoning","compressed_reasoning","original_reasoning_token_count","compressed_reasoning_token_count","actual_compression_rate","question_source_id","sample_index","achieved_rate_target","achieved_rate_compressor"]' ]
  [ "$(jq 'select(.compression_ratio == 1 and .compressed_reasoning != .original_reasoning)' "$T/out.jsonl")" = "" ]
  [ "$(jq -r 'select(.compressed_reasoning | contains("\\boxed{") | not) | .source_id' "$T/out.jsonl")" = "" ]
  jq -e '.counts == {"samples": 12, "compressed": 10, "resumed": 0, "incorrect": 1, "without_reasoning": 1, "too_long": 0, "rejected": 0}' "$T/out.jsonl.run.json"
  c --model $XLMR --max-cot-tokens 500 --keep-incorrect "$T/in.jsonl" -o "$T/out2.jsonl"
  jq -e '.counts.too_long == 1 and .counts.incorrect == 0 and .counts.compressed == 10' "$T/out2.jsonl.run.json"
}

@test "compress: no RUN option changes a byte" {
  c --model $XLMR --ratio 0.3,0.6 "$T/in.jsonl" >"$T/want"
  [ -s "$T/want" ]
  for x in "--batch 1" "--batch 100 --threads 2" "--threads 1" "--device cpu" "--save-scores $T/s.jsonl" \
    "--output-dir $T/dir" "--progress" "--log-json $T/log" "--keep-going" "--require-provenance"; do
    compress -q --model $XLMR --ratio 0.3,0.6 $x "$T/in.jsonl" >"$T/got" 2>"$T/err" || { cat "$T/err"; return 1; }
    same "$T/want" "$T/got" || { echo "differs with $x"; return 1; }
  done
  LLMLINGUA_PATH=$XLMR c --ratio 0.3,0.6 <"$T/in.jsonl" >"$T/got"
  same "$T/want" "$T/got"
  cp -r $XLMR "$T/moved"
  c --model "$T/moved" --ratio 0.3,0.6 "$T/in.jsonl" >"$T/got"
  same "$T/want" "$T/got"
  # what this test does not vary must be known
  [ "$(compress --dump-options | jq -r 'select(.class == "run" and .type != "alias") | .name' | sort | tr '\n' ' ')" = \
    "batch cl100k device help keep-going log-json model output output-dir plan progress quiet require-provenance save-scores scores target-model threads version " ]
}

@test "compress: each ratio alone gives what it gives among others; saved scores give it again, without the model" {
  for m in $XLMR $BERT; do
    c --model $m --ratio 0.1,0.3,0.5,0.7,0.9,1 --labels --save-scores "$T/s.jsonl.zst" "$T/in.jsonl" -o "$T/all.jsonl"
    for r in 0.1 0.3 0.5 0.7 0.9 1; do
      jq -c "select(.compression_ratio == $r)" "$T/all.jsonl" >"$T/want"
      c --model $m --ratio $r --labels "$T/in.jsonl" | jq -c . >"$T/got"
      same "$T/want" "$T/got"
      c --scores "$T/s.jsonl.zst" --ratio $r --labels "$T/in.jsonl" | jq -c . >"$T/got"
      same "$T/want" "$T/got"
    done
    c --scores "$T/s.jsonl.zst" --ratio 0.1,0.3,0.5,0.7,0.9,1 --labels "$T/in.jsonl" -o "$T/again.jsonl"
    same "$T/all.jsonl" "$T/again.jsonl"
    rm "$T"/s.jsonl.zst* "$T"/all.jsonl* "$T"/again.jsonl*
  done
  fails 1 'in.jsonl:1: .* has no scores of this text' compress -q --scores /dev/null "$T/in.jsonl"
}

@test "compress --method surprisal: from a causal model; saved scores too" {
  c --method surprisal --model tests/golden/models/qwen3 --ratio 0.4 --save-scores "$T/s.jsonl" "$T/in.jsonl" -o "$T/a.jsonl"
  c --method surprisal --scores "$T/s.jsonl" --ratio 0.4 "$T/in.jsonl" -o "$T/b.jsonl"
  same "$T/a.jsonl" "$T/b.jsonl"
  c --method surprisal --model tests/golden/models/qwen3 --ratio 0.4 --batch 7 --threads 2 "$T/in.jsonl" >"$T/c"
  same "$T/a.jsonl" "$T/c"
  fails 1 'needs a causal model' compress -q --method surprisal --model $XLMR "$T/in.jsonl"
  fails 1 'is an XLM-RoBERTa or BERT' compress -q --model tests/golden/models/qwen3 "$T/in.jsonl"
}

@test "compress --method leave-out: question and answer count; batch and threads change nothing" {
  q=tests/golden/models/qwen3
  head -3 "$T/in.jsonl" >"$T/three"
  c --method leave-out --model $q --ratio 0.4 --labels "$T/three" -o "$T/a.jsonl"
  c --method leave-out --model $q --ratio 0.4 --labels --batch 50 --threads 2 "$T/three" >"$T/b"
  same "$T/a.jsonl" "$T/b"
  sed 's/"Q.?"/"Another?"/' "$T/three" >"$T/other"
  c --method leave-out --model $q --ratio 0.4 --labels "$T/other" >"$T/b"
  [ "$(jq -c .words "$T/a.jsonl")" = "$(jq -c .words "$T/b")" ]
  [ "$(jq -c .scores "$T/a.jsonl")" != "$(jq -c .scores "$T/b")" ]
  prepare -q --method labels "$T/a.jsonl" -o "$T/rows"
  train -q --init $XLMR/config.json --tokenizer $XLMR --max-steps 1 "$T/rows" -o "$T/model"
  jq -c 'del(.question)' "$T/three" >"$T/other"
  fails 1 'other:1: the row has neither' compress -q --method leave-out --model $q "$T/other"
  for x in --text "--scores $T/s" "--save-scores $T/s"; do
    fails 2 'depend on question and answer' compress --method leave-out --model $q $x "$T/in.jsonl"
  done
  fails 1 'leave-out needs a causal model' compress -q --method leave-out --model $XLMR "$T/in.jsonl"
}

@test "compress --text: lines of text, those that look like JSON too" {
  printf 'one two three four\n\n{"not": "a record" of 5 parts\n{"a": 1}\nlast line' >"$T/t"
  c --text --model $XLMR --ratio 1 "$T/t" >"$T/out"
  [ "$(jq -r .source_id "$T/out" | tr '\n' ' ')" = "text_0 text_1 text_2 text_3 " ]
  [ "$(jq -r .compressed_reasoning "$T/out")" = "$(grep . "$T/t")" ]
  printf 'bad \xff byte\n' | c --text --model $XLMR --ratio 1 | jq -e '.original_reasoning == "bad \ufffd byte"'
}

@test "compress --exact counts in the target model's tokens" {
  c --model $XLMR --ratio 0.5 --exact --target-model tests/golden/models/qwen3 "$T/in.jsonl" >"$T/out"
  jq -e 'select(.achieved_rate_target < 0.44 or .achieved_rate_target > 0.56) | error("\(.achieved_rate_target)")' "$T/out" || [ $? = 4 ]
  jq -e '.original_reasoning_token_count > 0 and .achieved_rate_target == .compressed_reasoning_token_count / .original_reasoning_token_count' "$T/out"
  c --model $XLMR --ratio 0.5 --exact --target-model tests/golden/models/qwen3/tokenizer.json "$T/in.jsonl" >"$T/out2"
  same "$T/out" "$T/out2"
}

@test "compress --compat --output-dir: the reference's files and keys" {
  shared data/tokenizers/cl100k/cl100k_base.tiktoken
  c --compat --cl100k "$shared_path" --model $XLMR --ratio-pool 0.5,1 --output-dir "$T/dir" "$T/in.jsonl" -o "$T/out.jsonl"
  [ "$(ls "$T/dir" | tr '\n' ' ')" = "compressed_ratio_0.5.jsonl compressed_ratio_0.5.jsonl.run.json compressed_ratio_1.jsonl compressed_ratio_1.jsonl.run.json " ]
  [ "$(jq -c keys_unsorted "$T"/dir/*.jsonl | sort -u)" = '["benchmark","source_id","question","gold_answer","answer","compression_ratio","original_reasoning","compressed_reasoning","original_reasoning_token_count","compressed_reasoning_token_count","actual_compression_rate"]' ]
  [ "$(wc -l <"$T/dir/compressed_ratio_1.jsonl")" = 9 ] # the limit is 500 tokens
  [ "$(grep -c '\\n' "$T/dir/compressed_ratio_1.jsonl")" = 9 ]
  [ "$(jq -r .compressed_reasoning "$T/dir/compressed_ratio_1.jsonl" | wc -l)" = 9 ] # no line end survives
  c --compat --cl100k "$shared_path" --model $XLMR --ratio 0.5 --model-family llama3 "$T/in.jsonl" >"$T/llama"
  c --compat --cl100k "$shared_path" --model $XLMR --ratio 0.5 --force Step --force : --force-digits --drop-consecutive "$T/in.jsonl" >"$T/spelled"
  same "$T/llama" "$T/spelled"
  not cmp -s "$T/llama" <(jq -c 'select(.compression_ratio == 0.5)' "$T/out.jsonl")
}

@test "compress: up to date, resumed after a kill, one key for one result" {
  c --model $XLMR "$T/in.jsonl" -o "$T/out.jsonl"
  compress --model $XLMR "$T/in.jsonl" -o "$T/out.jsonl" 2>&1 | grep -q 'up to date'
  [[ $(compress --plan --model $XLMR "$T/in.jsonl" -o "$T/out.jsonl") == *up-to-date ]]
  [[ $(compress --plan --model $XLMR --ratio 0.4 "$T/in.jsonl" -o "$T/out.jsonl") == *run ]]
  for i in $(seq 40); do samples 12; done >"$T/big.jsonl"
  c --model $XLMR --ratio 0.2,0.5,0.8 "$T/big.jsonl" -o "$T/want.jsonl"
  compress -q --model $XLMR --batch 20 --ratio 0.2,0.5,0.8 --output-dir "$T/d" "$T/big.jsonl" -o "$T/got.jsonl" &
  pid=$!
  for _ in $(seq 200); do
    [ -s "$(ls "$T"/got.jsonl.*.journal 2>/dev/null | head -1)" ] && break
    sleep 0.01
  done
  sleep 0.05
  kill -9 $pid 2>/dev/null || true
  wait $pid || true
  c --model $XLMR --ratio 0.2,0.5,0.8 --output-dir "$T/d" "$T/big.jsonl" -o "$T/got.jsonl"
  same "$T/want.jsonl" "$T/got.jsonl"
  [ "$(wc -l <"$T/d/compressed_ratio_0.2.jsonl")" = 400 ]
  [ "$(jq .key "$T/want.jsonl.run.json")" = "$(jq .key "$T/got.jsonl.run.json")" ]
}

@test "compress: what is refused" {
  fails 2 '0.5 is there twice' compress --model $XLMR --ratio 0.5,0.50 "$T/in.jsonl"
  fails 2 'ratio' compress --model $XLMR --ratio 0 "$T/in.jsonl"
  fails 2 'needs --cl100k' compress --model $XLMR --compat "$T/in.jsonl"
  fails 2 'for --compat only' compress --model $XLMR --drop-consecutive "$T/in.jsonl"
  fails 2 'exclude each other' compress --model $XLMR --scores x --save-scores y "$T/in.jsonl"
  sed 's/"is_correct": true, //' "$T/in.jsonl" >"$T/ungraded.jsonl"
  fails 1 'ungraded.jsonl:1: is_correct' compress -q --model $XLMR "$T/ungraded.jsonl"
  c --model $XLMR --keep-incorrect "$T/ungraded.jsonl" | [ "$(wc -l)" = 11 ]
  (head -2 "$T/in.jsonl"; echo '{broken'; tail -2 "$T/in.jsonl") >"$T/broken.jsonl"
  fails 1 'broken.jsonl:3' compress -q --model $XLMR "$T/broken.jsonl"
  fails 3 'broken.jsonl:3' compress -q --keep-going --model $XLMR "$T/broken.jsonl" -o "$T/rest.jsonl"
  [ "$(wc -l <"$T/rest.jsonl")" = 4 ]
}

@test "compress: what began before an error is written, and the error that came first in the input is told" {
  # batches of one sample: two are under way at any time
  head -3 "$T/in.jsonl" >"$T/good.jsonl"
  c --model $XLMR --batch 1 --save-scores "$T/scores" "$T/good.jsonl" -o "$T/want.jsonl"
  { cat "$T/good.jsonl"; echo "no record"; tail -2 "$T/in.jsonl"; } >"$T/broken.jsonl"
  run --separate-stderr c --model $XLMR --batch 1 "$T/broken.jsonl"
  [ "$status" = 1 ]
  [[ "$stderr" == *broken.jsonl:4:* ]]
  [ "$output" = "$(cat "$T/want.jsonl")" ]
  c --model $XLMR --batch 1 --keep-going "$T/broken.jsonl" -o "$T/kept.jsonl" || [ $? = 3 ]
  [ "$(head -3 "$T/kept.jsonl")" = "$output" ]
  [ "$(wc -l <"$T/kept.jsonl")" = 5 ]
  # a batch that cannot begin: its third sample has no scores
  { cat "$T/good.jsonl"; tail -2 "$T/in.jsonl"; echo "no record"; } >"$T/more.jsonl"
  run --separate-stderr c --scores "$T/scores" --batch 1 "$T/more.jsonl"
  [ "$status" = 1 ]
  [[ "$stderr" == *more.jsonl:4:*"has no scores of this text"* ]]
  [ "$output" = "$(cat "$T/want.jsonl")" ]
}

@test "dataset | collect | compress | prepare: one pipe, the bytes of file by file" {
  need dataset collect prepare
  shared data/datasets/gsm8k/train.jsonl
  q=tests/golden/models/qwen3
  cp -r $q "$T/model" # a template of its own, should the tiny model have none
  set -o pipefail
  dataset -q --limit 3 gsm8k --file "$shared_path" | collect -q --model "$T/model" --max-tokens 40 --num-samples 2 --temperature 1 |
    compress -q --keep-incorrect --model $XLMR --ratio 0.3 | prepare -q -o "$T/pipe.jsonl"
  dataset -q --limit 3 gsm8k --file "$shared_path" -o "$T/q.jsonl"
  collect -q --model "$T/model" --max-tokens 40 --num-samples 2 --temperature 1 "$T/q.jsonl" -o "$T/s.jsonl"
  c --keep-incorrect --model $XLMR --ratio 0.3 "$T/s.jsonl" -o "$T/c.jsonl"
  prepare -q "$T/c.jsonl" -o "$T/files.jsonl"
  [ -s "$T/pipe.jsonl" ]
  same "$T/pipe.jsonl" "$T/files.jsonl"
  [ "$(jq .output "$T/pipe.jsonl.run.json")" = "$(jq .output "$T/files.jsonl.run.json")" ]
  [ "$(jq .key "$T/pipe.jsonl.run.json")" = "$(jq .key "$T/files.jsonl.run.json")" ]
}
