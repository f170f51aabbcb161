load ../cli/lib

# What every program does when the place it reads from or writes to fails.
setup() {
  T=$BATS_TEST_TMPDIR
  cd "$T"
  local i
  for i in 0 1 2 3; do
    printf '{"benchmark": "math", "source_id": "math_test_%d", "question": "What is %d+%d?", "gold_answer": "%d"}\n' $i $i $i $((2 * i))
  done >questions.jsonl
  for i in 0 1 2 3; do
    printf '{"benchmark": "math", "source_id": "math_test_%d", "sample_index": 0, "gold_answer": "2", "reasoning": "so it is two", "response_text": "so \\\\boxed{2}", "compression_ratio": 0.5, "is_correct": true, "extracted": "1", "num_tokens": 20, "think_tokens": 10, "finish_reason": "stop"}\n' $i
  done >rows.jsonl
  printf '{"text": "Hello world"}\n' >texts.jsonl
}

# A command line that works: arguments, the input file last. Nothing for a program that writes no records.
working() {
  case $1 in
  dataset) echo "math --file $ROOT/tests/golden/questions/math_train.jsonl" ;;
  collect) echo "--model $GOLDEN/models/qwen3 --max-tokens 4 questions.jsonl" ;;
  eval) echo "--model $GOLDEN/models/qwen3 --ratio 0.5 --max-tokens 4 questions.jsonl" ;;
  grade) echo "--task math rows.jsonl" ;;
  report) echo "rows.jsonl" ;;
  tok) echo "encode --model $GOLDEN/models/qwen3 texts.jsonl" ;;
  score) echo "--model $GOLDEN/models/qwen3 rows.jsonl" ;;
  compress) echo "--model $GOLDEN/models/xlmr rows.jsonl" ;;
  select) echo "--correct rows.jsonl" ;;
  prepare) echo "--method direct questions.jsonl" ;;
  verify | dualize | train) echo "" ;; # a report; folders, see dualize.bats and train.bats
  *) echo "no case for $1 in fault/files.bats" >&2; return 1 ;;
  esac
}

# each FUNCTION: calls FUNCTION PROGRAM ARGUMENTS... for every program that writes records
each() {
  local s args
  for s in $(stages); do
    args=$(working $s)
    [ -z "$args" ] || "$1" $s $args
  done
}

@test "fault: a full disk on standard output is exit 1 and one sentence" {
  check() {
    local s=$1
    shift
    "$BIN/$s" "$@" >/dev/null
    fails 1 "^$s: .*(No space left on device|cannot write)" bash -c '"$0" "$@" >/dev/full' "$BIN/$s" "$@"
  }
  each check
}

@test "fault: a full disk behind -o is exit 1 and one sentence" {
  check() {
    local s=$1
    shift
    fails 1 "^$s: .*/dev/full.*No space left on device" "$BIN/$s" "$@" -o /dev/full
    [ -c /dev/full ]
    [ ! -e /dev/full.run.json ]
  }
  each check
}

@test "fault: a place that cannot be written is exit 1, one sentence, and nothing is left behind" {
  echo file >plain
  mkdir folder locked
  chmod 555 locked
  ls >before
  check() {
    local s=$1
    shift
    fails 1 "^$s: /proc/out.jsonl.*: cannot " "$BIN/$s" "$@" -o /proc/out.jsonl
    fails 1 "^$s: plain.*(Not a directory|not a folder|exists)" "$BIN/$s" "$@" -o plain/out.jsonl
    fails 1 "^$s: folder: is a folder" "$BIN/$s" "$@" -o folder
    [ "$(id -u)" = 0 ] || fails 1 "^$s: locked/out.jsonl.*: cannot .*Permission denied" "$BIN/$s" "$@" -o locked/out.jsonl
    ls | diff before -
    [ -z "$(ls folder locked | grep -v :)" ]
  }
  each check
}

@test "fault: an input that is missing or a folder is exit 1 and named" {
  check() {
    local s=$1
    fails 1 "^$s: nowhere.jsonl: .*No such file" "$BIN/$s" "${@:2:$#-2}" nowhere.jsonl
    fails 1 "^$s: folder: .*(folder|directory)" "$BIN/$s" "${@:2:$#-2}" folder
  }
  mkdir folder
  each check
}

@test "fault: broken lines are named by program, file and line; --keep-going drops them and exits 3" {
  check() {
    local s=$1 in=${*: -1}
    { head -1 "$in"; echo '{"broken'; tail -n +2 "$in"; } >bad.jsonl
    fails 1 "^$s: bad.jsonl:2: " "$BIN/$s" "${@:2:$#-2}" bad.jsonl -o out.jsonl
    [ ! -e out.jsonl ]
    fails 3 "^$s: .*bad.jsonl:2: " "$BIN/$s" "${@:2:$#-2}" bad.jsonl -o out.jsonl --keep-going
    [ -e out.jsonl ]
    rm -f out.jsonl*
    printf '{"a": "\xff"}\n' >bad.jsonl
    fails 1 "^$s: bad.jsonl:1: .*UTF-8" "$BIN/$s" "${@:2:$#-2}" bad.jsonl -o out.jsonl
    [ -z "$(ls | grep ^out.jsonl)" ] # no journal either: there is nothing in it
  }
  each check
}
