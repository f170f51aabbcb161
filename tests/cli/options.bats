load lib

# Promise 3: an option that the table marks RUN cannot change a byte. For every program: every RUN option, varied, the
# same output. A new RUN option of type int, flag or choice is varied by its bounds and words; one that takes text or a
# file needs a line in `values`. A new program needs a line in `base`.

# The command line whose output is looked at (on stdout), made once in $T. Prints nothing for a program without output
# records.
base() {
  local q=$ROOT/tests/golden/questions model=$GOLDEN/models/qwen3
  case $1 in
  dataset) echo "math --file $q/math_train.jsonl" ;;
  collect) echo "--model $model --num-samples 3 --temperature 0.7 --max-tokens 24 questions.jsonl" ;;
  grade) echo "--task math samples.jsonl" ;;
  eval) echo "--model $model --ratio 0.5 --max-tokens 24 questions.jsonl" ;;
  report) echo "rows.jsonl" ;;
  tok) echo "encode --model $model texts.jsonl" ;;
  score) echo "--model $model samples.jsonl" ;;
  compress) echo "--model $GOLDEN/models/xlmr --ratio 0.3,0.7 --labels compressible.jsonl" ;;
  select) echo "samples.jsonl" ;;
  prepare) echo "--ratio 1,0.5 compressed.jsonl" ;;
  verify) echo "--trace questions.jsonl" ;;
  esac
}

# Inputs of the base commands, made without the programs under test.
inputs() {
  local i
  for i in 0 1 2 3 4; do
    printf '{"benchmark": "math", "source_id": "math_test_%d", "question": "What is %d+%d?", "gold_answer": "%d"}\n' $i $i $i $((2 * i))
  done >questions.jsonl
  for i in 0 1 2 3 4; do
    printf '{"benchmark": "math", "source_id": "math_test_%d_s0", "question": "What is %d+%d?", "gold_answer": "%d", "response_text": "<think>\\nsum\\n</think>\\nThe answer is \\\\boxed{%d}.", "answer": "%d", "reasoning": "sum", "is_correct": true}\n' $i $i $i $((2 * i)) $((i + 4)) $((i + 4))
  done >samples.jsonl
  for i in 0 1 2 3 4; do
    printf '{"benchmark": "math", "source_id": "math_test_%d", "sample_index": 0, "compression_ratio": 0.5, "is_correct": true, "extracted": "1", "num_tokens": %d, "think_tokens": %d, "finish_reason": "stop"}\n' $i $((20 + i)) $((10 + i))
  done >rows.jsonl
  for i in 0 1 2 3 4; do
    printf '{"benchmark": "math", "source_id": "math_test_%d_s0", "question": "What is %d+%d?", "gold_answer": "1", "answer": "1", "reasoning": "First we add $%d + %d$ by hand.\\nThen we see that it is \\\\boxed{%d} in all.", "is_correct": true}\n' $i $i $i $i $i $i
  done >compressible.jsonl
  for i in 0 1 2 3 4; do
    printf '{"benchmark": "math", "source_id": "math_test_%d_s0", "question": "What is %d+%d?", "gold_answer": "1", "answer": "1", "compression_ratio": 0.5, "original_reasoning": "the whole", "compressed_reasoning": "whole"}\n' $i $i $i
  done >compressed.jsonl
  printf '{"text": "Hello world"}\n{"text": "one two  three"}\n' >texts.jsonl
}

# values PROGRAM OPTION: settings to try, one a line, as arguments; "-" with a reason: not varied.
values() {
  case "$1 $2" in
  *\ output) echo "-o out.jsonl"; echo "-o out.jsonl.zst"; echo "-o -" ;;
  *\ device) echo "--device cpu" ;;
  *\ threads) echo "--threads 1"; echo "--threads 2"; echo "--threads 5" ;;
  *\ log-json) echo "--log-json events.jsonl" ;;
  compress\ model) echo "--model $GOLDEN/../golden/models/xlmr" ;;
  compress\ cl100k | compress\ target-model | compress\ scores | select\ scores | prepare\ original) echo "- names an input, whose content is in the key" ;;
  compress\ output-dir) echo "--output-dir dir-of-ratios" ;;
  compress\ save-scores) echo "--save-scores saved-scores.jsonl" ;;
  *\ model) echo "--model model-under-another-name" ;;
  *\ batch) echo "--batch 1"; echo "--batch 7"; echo "--batch 64" ;;
  *\ kv-memory) echo "--kv-memory 1M"; echo "--kv-memory 64M" ;;
  score\ serve | score\ host | score\ port | score\ max-concurrency) echo "- of the server" ;;
  *\ help | *\ version | *\ plan | dataset\ list) echo "- does something else" ;;
  dataset\ file | verify\ all | *\ few-shot | *\ prompt-data) echo "- names an input, whose content is in the key" ;;
  dataset\ benchmark | collect\ benchmark | eval\ benchmark) echo "- names the input" ;;
  eval\ output-dir | eval\ name) echo "- tested with eval" ;;
  tok\ chat-template) echo "- names an input, whose content is in the key" ;;
  eval\ ratio) echo "- is in the key of each output" ;;
  collect\ split | eval\ split) echo "- names the input" ;;
  report\ plot) echo "--plot plot.svg" ;;
  report\ wandb) echo "--wandb runs" ;;
  report\ project) echo "--wandb runs --project other" ;;
  report\ run-name) echo "--wandb runs --run-name other" ;;
  *)
    case $3 in
    flag) echo "--$2"; echo "--no-$2" ;;
    int) jq -r --arg o "$2" 'select(.name == $o) | [.min // 1, (.min // 1) + 1, ([.max // 100, 100] | min)] | unique[] | "--\($o) \(.)"' <<<"$table" ;;
    choice) jq -r --arg o "$2" 'select(.name == $o) | .arg | split("|")[] | "--\($o) \(.)"' <<<"$table" ;;
    *) return 1 ;;
    esac
    ;;
  esac
}

vary() {
  local program=$1 args table name type setting bad=0 got
  need "$program" jq
  inputs
  ln -s "$GOLDEN/models/qwen3" model-under-another-name
  args=$(base "$program")
  table=$("$BIN/$program" --dump-options)
  "$BIN/$program" $args >want || [ $? = 3 ]
  [ -s want ]
  while read -r name type; do
    if ! settings=$(values "$program" "$name" "$type"); then
      echo "$program --$name is RUN and takes text: say in options.bats how to vary it"
      bad=1
      continue
    fi
    while read -r setting; do
      [[ $setting != -\ * ]] || continue
      rm -f out.jsonl*
      "$BIN/$program" $args $setting >got 2>err || [ $? = 3 ] || { echo "$program $args $setting:"; cat err; bad=1; continue; }
      case $setting in
      *.zst) zstd -qdc out.jsonl.zst >got || zstdcat out.jsonl.zst >got ;;
      -o\ out*) cp out.jsonl got ;;
      esac
      cmp want got || { echo "$program $setting: other bytes"; bad=1; }
    done <<<"$settings"
  done < <(jq -r 'select(.class == "run" and .type != "alias") | "\(.name) \(.type)"' <<<"$table")
  [ "$bad" = 0 ]
}

@test "options: no RUN option of dataset changes a byte" { vary dataset; }
@test "options: no RUN option of collect changes a byte" { vary collect; }
@test "options: no RUN option of grade changes a byte" { vary grade; }
@test "options: no RUN option of eval changes a byte" { vary eval; }
@test "options: no RUN option of report changes a byte" { vary report; }
@test "options: no RUN option of tok changes a byte" { vary tok; }
@test "options: no RUN option of score changes a byte" { vary score; }
@test "options: no RUN option of compress changes a byte" { vary compress; }
@test "options: no RUN option of select changes a byte" { vary select; }
@test "options: no RUN option of prepare changes a byte" { vary prepare; }

@test "options: every program is in this file" {
  for s in $(stages); do
    case $s in verify | dualize | train) continue ;; esac # a report for the user; folders, tested with dualize and train
    grep -q "{ vary $s; }" "$BATS_TEST_FILENAME" || { echo "options.bats lacks $s"; return 1; }
  done
}

@test "options: numbers are strict, and a refusal names option and value" {
  for s in $(stages); do
    fails 2 "^$s: --threads 2x: expected a whole number" "$BIN/$s" --threads 2x
    fails 2 "^$s: --threads -1: must lie between 0 and 1024" "$BIN/$s" --threads=-1
    fails 2 "^$s: unknown option --no-such" "$BIN/$s" --no-such
    fails 2 "^$s: --seed needs a value" "$BIN/$s" --seed
    fails 2 "^$s: --quiet takes no value" "$BIN/$s" --quiet=1
  done
}

@test "options: --help and --version go to stdout and exit 0; a full disk is noticed" {
  for s in $(stages); do
    "$BIN/$s" --help | grep -q "^usage: $s "
    [[ $("$BIN/$s" --version) =~ ^$s\ [0-9.]+$ ]]
    run bash -c '"$0" --help >/dev/full' "$BIN/$s"
    [ "$status" = 1 ]
  done
}
