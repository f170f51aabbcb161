load ../cli/lib

# One tree with an artefact of every kind, then faults planted one at a time: each is named in a sentence of its own and
# ends in exit 1, and the tree is good before and after.

# What one program after the other leaves: questions in shards, samples, a merged and graded file, compressed ones,
# training rows, a trained adapter with its merged model, scores, results through a pipe, a dual model, a journal.
make_tree() {
  local k args
  export LATENT_RUNS=$PWD/out/runs LATENT_STORE=$PWD/out/store
  cp "$GOLDEN/questions/math_train.jsonl" source.jsonl
  for k in 0 1; do
    dataset math --file source.jsonl --shard $k/2 -q -o out/q_shard0${k}of02.jsonl
    collect -m "$GOLDEN/models/qwen3" -q --no-grade --num-samples 2 --temperature 0.7 --max-tokens 16 -o out/s_shard0${k}of02.jsonl \
      out/q_shard0${k}of02.jsonl
  done
  grade -q -o out/graded.jsonl out/s_shard00of02.jsonl out/s_shard01of02.jsonl
  jq -c '.is_correct = true | .reasoning = "First we add two and three by hand, and then we see that it is five in all." | .answer = "5"' \
    out/graded.jsonl >right.jsonl
  compress --model "$GOLDEN/models/xlmr" --ratio 0.5 --labels -q -o out/compressed.jsonl.zst right.jsonl
  prepare --ratio 1,0.5 -q -o out/rows.jsonl out/compressed.jsonl.zst
  train -m "$GOLDEN/models/qwen3" --max-steps 2 --eval-ratio 0.3 --show 0 -q -o out/model out/rows.jsonl
  score -m "$GOLDEN/models/qwen3" -q -o out/scores.jsonl out/compressed.jsonl.zst
  dataset math --split test --file "$GOLDEN/questions/math_test.jsonl" -q |
    "$BIN/eval" -m out/model/merged --ratio 0.5 --max-tokens 8 -q -o out/results.jsonl
  "$BIN/report" -q -o out/report.txt --wandb out/export out/results.jsonl >/dev/null
  dualize -m "$GOLDEN/models/qwen2" -q -o out/dual
  cp -r "$GOLDEN/models/qwen2-sharded" sharded
  cp -r "$GOLDEN/train/qwen2/adapter" adapter
  args=(-m "$GOLDEN/models/qwen3" --num-samples 24 --temperature 0.7 --max-tokens 64 --batch 4 -o out/unfinished.jsonl)
  setsid collect "${args[@]}" out/q_shard00of02.jsonl 2>/dev/null &
  until [ "$(cat out/unfinished.jsonl.*.journal 2>/dev/null | wc -c)" -gt 5000 ]; do kill -0 $! || return 1; done
  kill -9 $!
  wait $! || true
  rm -f out/unfinished.jsonl.*.part
}

setup_file() {
  export TREE=$BATS_FILE_TMPDIR/tree
  mkdir "$TREE"
  (cd "$TREE" && make_tree)
}

# A fresh copy, hard links and times included.
setup() {
  T=$BATS_TEST_TMPDIR
  cp -a "$TREE" "$T/tree"
  cd "$T/tree"
  export LATENT_RUNS=$PWD/out/runs LATENT_STORE=
}

# flip FILE [AT]: another bit at byte AT, or in the middle; other names of the file keep theirs
flip() {
  local at=${2:-$(($(stat -c %s "$1") / 2))} b
  cp -p "$1" flip.tmp && mv -f flip.tmp "$1" && chmod u+w "$1"
  b=$(od -An -tu1 -j "$at" -N 1 "$1" | tr -d ' ')
  printf "\\x$(printf %x $((b ^ 1)))" | dd of="$1" bs=1 seek="$at" conv=notrunc status=none
}

# edit FILE COMMAND...: its content through a command; other names of the file keep theirs
edit() {
  local f=$1
  shift
  "$@" <"$f" >edit.tmp && mv -f edit.tmp "$f"
}

# nan FILE: the last number of a safetensors file with 32-bit floats
nan() {
  cp "$1" nan.tmp && mv -f nan.tmp "$1"
  printf '\xff\xff\xff\xff' | dd of="$1" bs=1 seek=$(($(stat -c %s "$1") - 4)) conv=notrunc status=none
}

whole() {
  verify -q --all out && verify -q --trace out/results.jsonl out/report.txt >/dev/null && verify -q sharded adapter out/*.journal
}

@test "fault: a good tree is good" {
  whole
  verify --trace out/report.txt >t
  grep -qE '^ +source.jsonl +[0-9a-f]{32}  source$' t || grep -qE 'right.jsonl .*source$' t
  [ "$(verify -q --trace out/graded.jsonl | grep -c 'source.jsonl .*source$')" -ge 1 ]
}

# fault NAME REGEX COMMAND... -- VERIFY-ARGUMENTS: plants a fault with COMMAND, wants REGEX from verify and exit 1
fault() {
  local name=$1 regex=$2 plant=()
  shift 2
  while [ "$1" != -- ]; do
    plant+=("$1")
    shift
  done
  shift
  "${plant[@]}" || { echo "$name: cannot be planted"; return 1; }
  fails 1 "^verify: $regex" verify "$@" || { echo "$name: not named"; return 1; }
  cd "$T" && rm -rf tree && cp -a "$TREE" tree && cd tree
}

store_entry() {
  jq -r .key "$1.run.json" | sed 's#^#out/store/#'
}

@test "fault: files: bytes, manifests, upstream, zstd, lines" {
  fault data 'out/graded.jsonl: content hash is [0-9a-f]{32}, its manifest says [0-9a-f]{32}: it was changed after it was made' flip out/graded.jsonl -- --all out
  fault manifest 'out/graded.jsonl.run.json: this manifest is not as it was written' flip out/graded.jsonl.run.json -- --all out
  fault store "$(store_entry out/graded.jsonl): content hash is" flip "$(store_entry out/graded.jsonl)" -- --all out
  fault store-manifest 'out/store/.*run.json: this manifest is not as' flip "$(store_entry out/graded.jsonl).run.json" -- --all out
  fault journal 'out/unfinished.jsonl.*journal: the entry at byte [0-9]+ of [0-9]+ is damaged' flip "$(echo out/*.journal)" -- --all out
  fault journal-head 'out/unfinished.jsonl.*journal: is no journal' flip "$(echo out/*.journal)" 0 -- "$(echo out/*.journal)"
  fault option 'out/s_shard00of02.jsonl.run.json: this manifest is not as' \
    edit out/s_shard00of02.jsonl.run.json sed 's/"temperature":0.7/"temperature":0.6/' -- out/s_shard00of02.jsonl
  fault no-manifest 'out/rows.jsonl: no manifest beside it' rm out/rows.jsonl.run.json -- out/rows.jsonl
  fault upstream 'out/compressed.jsonl.zst: its input right.jsonl .* is missing' rm right.jsonl -- --trace out/results.jsonl
  fault source '.*was made from source.jsonl as it was' flip source.jsonl -- --trace out/graded.jsonl
  fault zstd 'out/compressed.jsonl.zst: the zstd stream ends in the middle' \
    edit out/compressed.jsonl.zst head -c -5 -- out/compressed.jsonl.zst
  fault cut 'out/graded.jsonl: content hash' edit out/graded.jsonl head -n -1 -- out/graded.jsonl
  fault order 'out/graded.jsonl: content hash' edit out/graded.jsonl tac -- out/graded.jsonl
}

@test "fault: lines that are not what their kind has" {
  wrong_question() {
    sed 's/"benchmark": "math"/"benchmark": 5/' out/q_shard00of02.jsonl >in.jsonl
    dataset -q -f in.jsonl -o out/passed.jsonl
  }
  fault schema 'out/passed.jsonl line 1: benchmark: expected string, found 5$' wrong_question -- --all out
  wrong_sample() {
    jq -c 'if .sample_index == 1 then .response_token_count = "many" else . end' out/graded.jsonl >in.jsonl
    grade -q -o out/passed.jsonl in.jsonl
  }
  fault sample 'out/passed.jsonl line 2: response_token_count: expected integer, found "many"$' wrong_sample -- out/passed.jsonl
  fault foreign 'foreign.jsonl line 1: labels: expected 2 items, as in words, found 1$' \
    eval 'echo "{\"words\": [\"a\", \"b\"], \"labels\": [1]}" >foreign.jsonl' -- foreign.jsonl
  fault log 'out/model/metrics.jsonl line 2: loss: expected number, found NaN$' \
    edit out/model/metrics.jsonl sed '2s/"loss": [0-9.]*/"loss": NaN/' -- out/model
}

@test "fault: shards of an older run" {
  older() {
    for k in 0 1 2; do dataset math --file source.jsonl --shard $k/3 -q -o out/q_shard0${k}of03.jsonl; done
  }
  # nobody reads these three: the two that samples were made of are this run's
  fault number 'out/q_shard01of03.jsonl: is a shard of an older run \(another number of shards, made' older -- --all out
  settings() {
    sleep 1.1
    collect -m "$GOLDEN/models/qwen3" -q --no-grade --num-samples 1 --max-tokens 16 -o out/s_shard01of02.jsonl out/q_shard01of02.jsonl
  }
  fault settings 'out/s_shard01of02.jsonl: is a shard of an older run \(other settings, made' settings -- --all out
  mixed() {
    older
    grade --help >/dev/null
    dataset -q -f out/q_shard00of03.jsonl -f out/q_shard00of02.jsonl -o out/mixed.jsonl
  }
  fault mixed 'out/mixed.jsonl: was made from out/q_shard00of03.jsonl and out/q_shard00of02.jsonl: shards of two runs' mixed -- out/mixed.jsonl
}

@test "fault: model folders" {
  fault swapped 'out/model/merged/model.safetensors: its hash is [0-9a-f]{32}, .*run.json says [0-9a-f]{32}: it was changed after it was made' \
    cp --remove-destination "$GOLDEN/models/qwen3/model.safetensors" out/model/merged/ -- out/model
  fault swapped-trace 'out/model/merged: this model has fingerprint .* now, the run used .*: it was changed or swapped since' \
    cp --remove-destination "$GOLDEN/models/qwen3/model.safetensors" out/model/merged/ -- --trace out/results.jsonl
  fault folder-trace 'out/model/merged/run.json: this manifest is not as' flip out/model/merged/run.json -- --trace out/results.jsonl
  fault folder-file 'out/model/adapter/adapter_config.json: is missing, out/model/run.json has it' \
    rm out/model/adapter/adapter_config.json -- out/model
  fault stranger 'out/dual/extra: run.json does not know it' touch out/dual/extra -- --all out
  fault folder-manifest 'out/dual/run.json: this manifest is not as' flip out/dual/run.json -- --all out
  fault nan 'sharded: tensor .* holds 1 NaN and 0 infinite values' nan sharded/model-00002-of-00002.safetensors -- sharded
  fault index 'sharded: sharded/model.safetensors.index.json: does not name tensor model.norm.weight of' \
    edit sharded/model.safetensors.index.json jq 'del(.weight_map["model.norm.weight"])' -- sharded
  fault index-more 'sharded/model.safetensors.index.json: tensor "more" should lie in' \
    edit sharded/model.safetensors.index.json jq '.weight_map.more = .weight_map["model.norm.weight"]' -- sharded
  fault index-size 'sharded: sharded/model.safetensors.index.json: metadata.total_size is 7, the tensors are' \
    edit sharded/model.safetensors.index.json jq '.metadata.total_size = 7' -- sharded
  fault stale-shard 'sharded: sharded/model-00001-of-00003.safetensors: does not belong to this model' \
    cp sharded/model-00001-of-00002.safetensors sharded/model-00001-of-00003.safetensors -- sharded
  fault torn 'sharded/model-00001-of-00002.safetensors: ' edit sharded/model-00001-of-00002.safetensors head -c -4 -- sharded
  fault dual '.*dual_vocab_meta.json' edit out/dual/dual_vocab_meta.json jq -c '.L = 7' -- out/dual
}

@test "fault: adapters" {
  fault rank 'adapter: tensor .*lora_A.weight is \[4, 48\]: expected 3 rows, the rank in adapter_config.json' \
    edit adapter/adapter_config.json jq '.r = 3' -- adapter
  fault targets "adapter: tensor .*k_proj.lora_A.weight: adapter_config.json's target_modules do not name this module" \
    edit adapter/adapter_config.json jq '.target_modules -= ["model.layers.0.self_attn.k_proj"]' -- adapter
  fault lost-target 'adapter: target_modules name "model.layers.7.mlp.up_proj", and no tensor is for it' \
    edit adapter/adapter_config.json jq '.target_modules += ["model.layers.7.mlp.up_proj"]' -- adapter
  fault nan 'adapter: tensor .* holds 1 NaN' nan adapter/adapter_model.safetensors -- adapter
  fault kind 'adapter/adapter_config.json: peft_type is not LORA' edit adapter/adapter_config.json jq '.peft_type = "IA3"' -- adapter
  fault base 'adapter: tensor .*: expected 32 columns, as the base model' \
    edit adapter/adapter_config.json jq --arg b "$GOLDEN/models/llama3" '.base_model_name_or_path = $b' -- adapter
  fault missing 'adapter/adapter_model.safetensors: cannot open' rm adapter/adapter_model.safetensors -- adapter
  fault pickled 'adapter: holds a pickled adapter only' mv adapter/adapter_model.safetensors adapter/adapter_model.bin -- adapter
}

@test "fault: runs for W&B" {
  d=$(echo out/export/wandb/offline-run-*)
  f=$(echo "$d"/*.wandb)
  verify -q out/export "$d"
  forget() { edit "$1" "${@:2}" && rm -f "$1.run.json"; }
  fault block "$f: " flip "$f" -- "$d"
  fault block-alone "$f: .*byte [0-9]+: checksum" eval "flip $f; rm -f $f.run.json" -- "$d"
  fault block-all "$f: " flip "$f" -- --all out
  fault tail "$f: " forget "$f" head -c -40 -- out/export
  fault two "$d: 2 files called \*.wandb, expected one" cp "$f" "$d/run-other.wandb" -- "$d"
  fault files "$d/files.*(is missing|No such file)" rm -r "$d/files" -- "$d"
  fault name "out/export/wandb/renamed: expected the name offline-run-" mv "$d" out/export/wandb/renamed -- out/export/wandb/renamed
  fault metadata "$d/wandb-metadata.json: belongs in files" touch "$d/wandb-metadata.json" -- "$d"
}

@test "fault: a remembered hash hides nothing from verify" {
  whole
  f=out/graded.jsonl
  at=$(stat -c %y $f)
  chmod u+w $f
  printf X | dd of=$f bs=1 seek=100 conv=notrunc status=none
  touch -d "$at" $f
  fails 1 'out/graded.jsonl: content hash' verify out/graded.jsonl
  fails 1 'has other bytes now|content hash|is missing' verify --trace out/graded.jsonl
}
