#!/usr/bin/env bats
# Replays the committed corpus; `make fuzz` looks for more.
bats_require_minimum_version 1.5.0

@test "safetensors: corpus" {
    run "$BUILD/fuzz/safetensors_fuzz" tests/fuzz/corpus/safetensors
    echo "$output"
    [ "$status" -eq 0 ]
}
