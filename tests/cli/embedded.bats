load lib

# The models in data/models, which every program takes when none is named.

setup() {
  T=$BATS_TEST_TMPDIR
  cd "$T"
  export LATENT_RUNS=$T/runs
  M=$ROOT/data/models
}

@test "embedded: the folders are whole, in bf16 and small" {
  for m in reasoner compressor; do
    verify -q "$M/$m"
    jq -e '.torch_dtype == "bfloat16"' "$M/$m/config.json"
    [ "$(stat -c %s "$M/$m/model.safetensors")" -le 8000000 ]
  done
  # what they were trained from is what lies in pipelines/
  for f in reasoner/tokenizer.json reasoner/generation_config.json compressor/tokenizer.json; do
    cmp "$M/$f" "$ROOT/pipelines/embedded/$f"
  done
}

@test "embedded: one pipe from nothing, no model named" {
  dataset -q arith --split test --limit 40 | collect -q --max-tokens 256 | tee samples.jsonl |
    compress -q --ratio 0.3,0.5 --target-model "$M/reasoner" >short.jsonl
  # 93 % of many; of these 40 a few may be wrong
  jq -se 'length == 40 and (map(select(.is_correct)) | length) >= 33' samples.jsonl
  # calculations stay, talk goes
  jq -se '
    def sums: [scan("[0-9]+ [-+*/] [0-9]+ = [0-9]+")];
    map(select(.compression_ratio == 0.5)) |
    (map(.original_reasoning | sums | length) | add) as $all |
    (map(. as $r | .original_reasoning | sums | map(select(. as $s | $r.compressed_reasoning | gsub("\\s+"; " ") | contains($s))) | length) | add) as $kept |
    $kept > 0.95 * $all' short.jsonl
  jq -se 'map(select(.compression_ratio == 0.3).compressed_reasoning | scan("Okay|Hmm|Wait|think|double check")) | length < 5' short.jsonl
  jq -se 'group_by(.compression_ratio)[] | (.[0].compression_ratio - (map(.achieved_rate_compressor) | add / length)) | fabs < 0.02' short.jsonl
}

@test "embedded: the pipeline plans every step, and asks nothing of the network" {
  make -f "$ROOT/pipelines/embedded.mk" BIN="$BIN" plan >plan
  [ "$(wc -l <plan)" = 11 ]
  [[ $(head -1 plan) == *train.jsonl*run ]]
}
