#!/usr/bin/env bats
# Replays the committed corpora; `make fuzz` looks for more.
bats_require_minimum_version 1.5.0

replay() {
    run "$BUILD/fuzz/$1_fuzz" "tests/fuzz/corpus/$1"
    echo "$output"
    [ "$status" -eq 0 ]
}

@test "tokenizer: corpus" { replay tokenizer; }
@test "text: corpus" { replay text; }
@test "template: corpus" { replay template; }
