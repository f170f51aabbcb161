load ../cli/lib

# a | b -o F: when a dies, b sees a clean end of its input. The run log tells it the difference: a's entry is written
# only by a run that was complete.

train=$BATS_TEST_DIRNAME/../golden/questions/math_train.jsonl

@test "fault: a writer that fails in a pipe: with --require-provenance the reader does not pass for whole" {
  { cat "$train"; echo '{"broken'; } >bad.jsonl
  run bash -c 'dataset math --file bad.jsonl 2>/dev/null | dataset --require-provenance -o out.jsonl'
  [ "$status" = 1 ]
  [[ $output == *"standard input: is empty: the program before this one failed"* ]]
  [ ! -e out.jsonl ]
  run bash -c '{ dataset math --file bad.jsonl 2>/dev/null; head -3 '"$train"'; } | dataset --require-provenance -o out.jsonl'
  [ "$status" = 1 ]
  [[ $output == *"standard input: no run in the log made these bytes"* ]]
  [ ! -e out.jsonl ]
  [ ! -e out.jsonl.run.json ]
}

@test "fault: without --require-provenance the reader warns and its manifest shows an input nobody made" {
  { cat "$train"; echo '{"broken'; } >bad.jsonl
  run bash -c 'dataset math --file bad.jsonl 2>/dev/null | dataset -o out.jsonl'
  [ "$status" = 0 ]
  [[ $output == *"no run in the log"* ]]
  run verify --trace out.jsonl
  [[ $output == *"standard input"* ]]
}

@test "fault: a writer killed at any moment: the reader refuses, or has everything" {
  for i in $(seq 200); do cat "$train"; done >many.jsonl
  dataset math --file many.jsonl >whole.jsonl
  for delay in 0 0.005 0.01 0.02 0.03 0.05 0.1; do
    rm -f out.jsonl* pipe
    mkfifo pipe
    dataset math --file many.jsonl >pipe 2>/dev/null &
    writer=$!
    dataset --require-provenance -o out.jsonl <pipe 2>/dev/null &
    reader=$!
    sleep $delay
    kill -9 $writer 2>/dev/null || true
    wait $writer 2>/dev/null || true
    while kill -0 $reader 2>/dev/null; do # a writer that died before it opened the pipe leaves the reader waiting
      exec 8<>pipe
      sleep 0.02
      exec 8>&-
    done
    if wait $reader; then cmp whole.jsonl out.jsonl; else [ ! -e out.jsonl ]; fi
  done
}

@test "fault: a good pipe passes, and provenance joins across it" {
  dataset math --file "$train" | dataset --require-provenance -o out.jsonl
  run verify --trace out.jsonl
  [ "$status" = 0 ]
  [[ $output == *math_train.jsonl* ]]
}

@test "fault: a reader that goes away ends the writer, which does not count as success" {
  for i in $(seq 200); do cat "$train"; done >many.jsonl
  run bash -c 'set -o pipefail; dataset math --file many.jsonl | head -1 >/dev/null'
  [ "$status" != 0 ]
}
