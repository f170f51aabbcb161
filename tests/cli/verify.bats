load lib

setup() {
  T=$BATS_TEST_TMPDIR
  cd "$T"
  export LATENT_RUNS=$T/runs LATENT_STORE=
  printf '%s\n' '{"question": "a?", "answer": "#### 1"}' '{"question": "b?", "answer": "#### 2"}' >rows.jsonl
  dataset gsm8k -f rows.jsonl -o q.jsonl -q
}

@test "verify: a whole artefact passes" {
  run verify q.jsonl
  [ "$status" = 0 ]
  [[ $output == *"1 artefact checked, 0 problems"* ]]
}

@test "verify: fetches nothing, and loads nothing that could: a third of the time to start" {
  ldd "$BIN/verify" >libs
  not grep libcurl libs
}

@test "verify: a model in the store is looked into once, and has its problems under both names" {
  export LATENT_STORE=$T/store
  dualize -q -m "$GOLDEN/models/qwen2" -o out/dual
  verify --all out --all store 2>err
  [ "$(grep -c 'cosine with their sources' err)" = 1 ]
  f=out/dual/model.safetensors
  chmod u+w $f
  # the last two bytes: an infinite number, under both names
  printf '\x80\x7f' | dd of=$f bs=1 seek=$(($(stat -c %s $f) - 2)) conv=notrunc status=none
  not verify --all out --all store 2>err
  grep -E 'out/dual: tensor .* holds' err
  grep -E 'store/[0-9a-f]*: tensor .* holds' err
}

@test "verify: one flipped byte anywhere is found" {
  for f in q.jsonl q.jsonl.run.json; do
    n=$(stat -c %s $f)
    for at in $(seq 0 7 $((n - 1))); do
      cp $f keep
      b=$(od -An -tu1 -j "$at" -N 1 $f | tr -d ' ')
      printf "\\x$(printf %x $((b ^ 1)))" | dd of=$f bs=1 seek="$at" conv=notrunc status=none
      if verify -q q.jsonl 2>err; then echo "byte $at of $f: not seen"; return 1; fi
      [ "$(wc -l <err)" -ge 1 ]
      cp keep $f
    done
  done
  verify -q q.jsonl
}

@test "verify: the trace goes through pipes and shards to the sources" {
  for k in 0 1; do dataset gsm8k -f rows.jsonl --shard $k/2 -o s$k.jsonl -q; done
  dataset -f s0.jsonl -f s1.jsonl -o merged.jsonl -q
  same merged.jsonl q.jsonl
  verify -q --trace merged.jsonl >t
  grep -q '^merged.jsonl ' t
  [ "$(grep -c ' rows.jsonl .*source$' t)" -ge 1 ]
  dataset gsm8k -f rows.jsonl -q | dataset -o piped.jsonl -q
  verify -q --trace piped.jsonl >t
  grep -q '^  standard input .* dataset ' t
  grep -q '^    rows.jsonl .*source$' t
  verify -q --trace --json piped.jsonl | jq -e '.from[0].from[0].source == "rows.jsonl"'
}

@test "verify: the trace names a file on the way that was changed since; one that is gone does no harm" {
  dataset gsm8k -f rows.jsonl -o a.jsonl -q
  LATENT_STORE=$T/store dataset -f a.jsonl -f q.jsonl -o b.jsonl -q
  LATENT_STORE=$T/store dataset -f b.jsonl -f q.jsonl -o d.jsonl -q
  verify -q --trace d.jsonl
  sed '1s/"question": "/&x/' b.jsonl >changed
  mv -f changed b.jsonl # the store's is still good
  fails 1 'b.jsonl: has no longer the content \(hash [0-9a-f]{32}\) that its manifest says' verify --trace d.jsonl
  grep -qE '^  b.jsonl .* CHANGED$' .stdout
  rm b.jsonl
  verify -q --trace d.jsonl
  sed -i '1s/"question": "/&x/' a.jsonl
  fails 1 'a.jsonl: has no longer the content' verify --trace d.jsonl
}

@test "verify: a manifest on the way that cannot be read does not make its file a source" {
  dataset -f q.jsonl -f q.jsonl -o e.jsonl -q
  dataset -f e.jsonl -f q.jsonl -o f.jsonl -q
  verify -q --trace f.jsonl
  sed -i 's/dataset/datasat/' e.jsonl.run.json
  fails 1 'e.jsonl.run.json: this manifest is not as it was written' verify --trace f.jsonl
}

@test "verify: the trace finds models by the names that the run had: shipped ones, and the hub's" {
  mkdir -p data/models hub/models--org--tiny/refs hub/models--org--tiny/snapshots
  cp -rL "$GOLDEN/models/qwen3" data/models/small
  cp -rL "$GOLDEN/models/qwen3" hub/models--org--tiny/snapshots/0123456789012345678901234567890123456789
  printf 0123456789012345678901234567890123456789 >hub/models--org--tiny/refs/main
  export LATENT_DATA=$T/data HF_HUB_CACHE=$T/hub
  collect -q -m embedded:small --max-tokens 2 -o a.jsonl q.jsonl
  HF_HUB_OFFLINE=1 collect -q -m org/tiny --max-tokens 2 -o b.jsonl q.jsonl
  same a.jsonl b.jsonl
  verify -q --trace a.jsonl b.jsonl >t
  [ "$(grep -cE '^  model (embedded:small|org/tiny)  [0-9a-f]{32}$' t)" = 2 ]
  verify -q --trace --json a.jsonl | jq -e '.from[0] | .model == "embedded:small" and .present'
  was=$(jq -r '.models[0].fingerprint' a.jsonl.run.json)
  for d in data/models/small hub/models--org--tiny/snapshots/*; do jq -c '.note = 1' $d/config.json >c && mv c $d/config.json; done
  fails 1 "embedded:small: this model has fingerprint [0-9a-f]{32} now, the run used $was: it was changed or swapped since" \
    verify --trace a.jsonl
  fails 1 "org/tiny: this model has fingerprint [0-9a-f]{32} now, the run used $was: " verify --trace b.jsonl
  rm -r data/models/small
  verify -q --trace a.jsonl | grep -qE '^  model embedded:small .*\(not here now\)$'
}

@test "verify: a planted fault of each kind is named" {
  dataset -f q.jsonl -o r.jsonl -q
  cp -r . ../keep
  fails 1 'nothing says how it was made' verify rows.jsonl
  sed -i 's/"split":"train"/"split":"trail"/' r.jsonl.run.json
  fails 1 'r.jsonl.run.json: this manifest is not as it was written' verify r.jsonl
  cp ../keep/r.jsonl.run.json .
  rm rows.jsonl
  fails 1 'its input rows.jsonl .* is missing' verify --trace r.jsonl
  echo '{}' >rows.jsonl
  fails 1 'was made from rows.jsonl as it was' verify --trace r.jsonl
  cp ../keep/rows.jsonl .
  truncate -s -3 r.jsonl
  fails 1 'r.jsonl: content hash is .* changed after it was made' verify r.jsonl
  fails 1 'r.jsonl: content hash' verify --all .
  fails 2 'name the artefacts' verify
  fails 1 '^verify: nofile: is not there$' verify nofile
  fails 1 '^verify: --all nofile: is no folder$' verify --all nofile
  fails 1 '^verify: --all q.jsonl: is no folder$' verify --all q.jsonl
}

@test "pipe: a foreign writer is warned about, and refused where provenance is required" {
  run dataset gsm8k -f - -o p.jsonl <rows.jsonl
  [ "$status" = 0 ]
  [[ $output == *"no run in the log made these bytes"* ]]
  rm p.jsonl
  cat rows.jsonl >in
  fails 1 'foreign .--require-provenance.' dataset gsm8k -f - --require-provenance -o p.jsonl <in
  [ ! -e p.jsonl ]
  dataset gsm8k -f rows.jsonl -q | dataset --require-provenance -q -o p.jsonl
  [ -s p.jsonl ]
}
