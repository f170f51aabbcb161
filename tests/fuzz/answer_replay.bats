#!/usr/bin/env bats
# Replays the committed corpus; `make fuzz` looks for more.
bats_require_minimum_version 1.5.0

@test "answer: corpus" {
    run "$BUILD/fuzz/answer_fuzz" tests/fuzz/corpus/answer
    echo "$output"
    [ "$status" -eq 0 ]
}
