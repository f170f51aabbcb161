load lib

M() {
  echo "$GOLDEN/models/$1"
}

# rows N: N questions, two rows each.
rows() {
  jq -nc --argjson n "$1" 'range($n) as $q | range(2) as $s | {messages: [{role: "user", content: "What is \($q)+\($s)?"},
    {role: "assistant", content: "Add \($q) and \($s), \("so " * ($q % 5) // "")it is\n\n</think>\n\n\($q + $s)"}],
    metadata: {source_id: "math_train_\($q)_s\($s)", question_source_id: "math_train_\($q)"}}' >rows
}

# A line of metrics without what depends on the machine.
CLOCKLESS='del(.tokens_per_second, .flops_per_second, .peak_share, .memory)'

# Every file of a folder but the ones with clocks.
folder() {
  (cd "$1" && find . -type f ! -name run.json ! -name metrics.jsonl | LC_ALL=C sort | xargs sha256sum)
}

@test "train: adapter, merged model, log and manifest; a second run has nothing to do" {
  rows 12
  train -m "$(M qwen3)" --epochs 2 --lr 1e-2 -o out rows 2>err
  [ "$(ls out | tr '\n' ' ')" = "adapter merged metrics.jsonl run.json " ]
  [ "$(ls -d out*)" = out ]
  grep -q 'row 1: 4[0-9] tokens, [0-9]* learnt: ' err
  grep -q '││' err
  [ "$(jq -s 'length' out/metrics.jsonl)" = 6 ]
  jq -es 'first.loss > last.loss and all(.[]; .grad_norm > 0 and .tokens_per_second > 0 and .flops_per_second > 0 and .memory > 1e6)' out/metrics.jsonl
  jq -e '.peft_type == "LORA" and .r == 8 and (.target_modules | index("q_proj") != null)' out/adapter/adapter_config.json
  jq -e '.torch_dtype == "float32"' out/merged/config.json
  jq -e '.counts.drift_max < 1e-4 and .counts.rows == 24' out/run.json
  verify -q out out/merged
  train -m "$(M qwen3)" --epochs 2 --lr 1e-2 -o out rows 2>err
  grep -q 'up to date' err
  [ "$(train -m "$(M qwen3)" --epochs 2 --lr 1e-2 -o out --plan rows | awk '{print $1, $3}')" = "out up-to-date" ]
  [ "$(train -m "$(M qwen3)" --epochs 3 --lr 1e-2 -o out --plan rows | awk '{print $1, $3}')" = "out run" ]
}

@test "train: threads, recomputation, checkpoints, a pipe: the same bytes" {
  rows 8
  train -q -m "$(M qwen2)" --epochs 2 --lora-dropout 0.1 -o want rows
  folder want >want.sums
  ln -s "$(M qwen2)" other
  for arg in "--threads 1" "--threads 3" --recompute "--save-every 1" "--show 0" "--memory 4G" "--device cpu"; do
    rm -rf got
    train -q -m "$(M qwen2)" --epochs 2 --lora-dropout 0.1 $arg -o got rows
    folder got >got.sums
    cmp want.sums got.sums || { echo "$arg"; return 1; }
  done
  for m in other "$(M qwen2)/" "$(M llama3)/../qwen2"; do
    rm -rf got
    train -q -m "$m" --epochs 2 --lora-dropout 0.1 -o got rows
    folder got | cmp want.sums -
  done
  [ "$(jq -r .base_model_name_or_path got/adapter/adapter_config.json)" = qwen2 ]
  rm -rf got
  cat rows | train -q -m "$(M qwen2)" --epochs 2 --lora-dropout 0.1 -o got 2>err
  folder got | cmp want.sums -
  train -q -m "$(M qwen2)" --epochs 2 -o got --pass-tokens 100 rows
  train -q -m "$(M qwen2)" --epochs 2 -o want rows
  jq -ne --slurpfile a want/metrics.jsonl --slurpfile b got/metrics.jsonl '[range($a | length) as $i |
    ($a[$i].loss - $b[$i].loss) / $a[$i].loss | fabs] | max < 1e-5'
}

@test "train: full, from a checkpoint and from nothing; both open" {
  rows 6
  for m in llama3 phi3 qwen3-bf16 llama-fp16; do
    train -q -m "$(M $m)" --method full --max-steps 3 -o $m rows
    verify -q $m
    jq -e '.counts.drift_max < 0.2' $m/run.json
  done
  jq -e '.torch_dtype == "bfloat16"' qwen3-bf16/config.json
  mkdir shape
  jq '.num_hidden_layers = 1 | .max_window_layers = 1 | del(.architectures)' "$(M qwen3)/config.json" >shape/config.json
  train -q --init shape/config.json --tokenizer "$(M qwen3)" --max-steps 5 --lr 1e-2 -o new rows
  verify -q new
  jq -e '.architectures == ["Qwen3ForCausalLM"] and .torch_dtype == "float32"' new/config.json
  jq -es '.[0].loss > .[-1].loss' new/metrics.jsonl
  echo '{"prompt": "a", "completion": "b"}' | score -q -m new >/dev/null
}

@test "train: a compressor of one's own, from words" {
  for i in 1 2 3 4 5 6; do
    echo '{"words": ["Hello", "the", "world", "is", "round", "."], "labels": [1, 0, true, 0, 1, false]}'
  done >words
  for m in xlmr bert; do
    train -q -m "$(M $m)" --method full --max-steps 12 --lr 5e-3 --warmup 0 -o $m words
    verify -q $m
    jq -es '.[-1].loss < .[0].loss / 2' $m/metrics.jsonl
    train -q -m "$(M $m)" --label-pieces first --max-steps 2 -o $m-lora words
    jq -e '.task_type == "TOKEN_CLS"' $m-lora/adapter/adapter_config.json
  done
}

@test "train: rows that cannot be learnt are one sentence each" {
  m=$(M qwen3)
  echo '{"messages": [{"role": "user", "content": "x"}]}' >bad
  fails 1 '^train: bad:1: the last of the messages must be the assistant' train -m "$m" -o out bad
  echo '{"ids": [1, 2, 3], "labels": [-100, -100, -100]}' >bad
  fails 1 '^train: bad:1: no token of this row has a label' train -m "$m" -o out bad
  echo '{"ids": [1, 2, 3], "labels": [-100, 2, 608]}' >bad
  fails 1 "^train: bad:1: label 2 is 608, the model's ids end at 607" train -m "$m" -o out bad
  echo '{"ids": [1, 2, 608], "labels": [-100, 2, 3]}' >bad
  fails 1 "^train: bad:1: token 2 is 608, the model's ids end at 607" train -m "$m" -o out bad
  echo '{"ids": [1, 2, 3], "labels": [2, 3, -100]}' >bad
  fails 1 '^train: bad:1: label 0 is 2, the token there is 1: a label is the token itself or -100' train -m "$m" -o out bad
  echo '{"ids": [1, 2], "labels": [-100, 2, 3]}' >bad
  fails 1 '^train: bad:1: 2 ids and 3 labels' train -m "$m" -o out bad
  echo '{"ids": [1, NaN], "labels": [-100, 2]}' >bad
  fails 1 '^train: bad:1: "ids" 1 is NaN, expected a whole number' train -m "$m" -o out bad
  echo '{"question": "x"}' >bad
  fails 1 '^train: bad:1: no "messages", no "ids", no "words"' train -m "$m" -o out bad
  # targets are asked for before any row is read
  fails 1 '^train: no matrix of this model is named by the targets nope' train -m "$m" --lora-targets nope -o out bad
  echo '{"words": ["a"], "labels": [7]}' >bad
  fails 1 "^train: bad:1: label . is 7, the model's classes end at 1" train -m "$(M xlmr)" -o out bad
  fails 1 '^train: bad:1: words and labels are for encoders' train -m "$m" -o out bad
  : >bad
  fails 1 '^train: there are no rows' train -m "$m" -o out bad
  not ls -d out*
}

@test "train: a prompt that is no token prefix is refused, or with --keep-going counted" {
  cp -r "$(M llama3)" m
  chmod -R u+w m
  # a generation prompt that differs from what the whole conversation has in its place
  jq '.chat_template = "{% for x in messages %}{{ x.role }}: {{ x.content }}\n{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"' m/tokenizer_config.json >t
  mv t m/tokenizer_config.json
  echo '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}' >bad
  fails 1 '^train: bad:1: the prompt is no prefix of the row: token [0-9]+ is' train -m m -o out bad
  echo '{"ids": [1, 2, 3], "labels": [1, 2, 3]}' >>bad
  fails 3 'bad:1: the prompt is no prefix' train -m m --keep-going --max-steps 1 -o out bad
  jq -e '.counts.rejected == 1 and .counts.rows == 1' out/run.json
}

@test "train: an empty thinking block behind a prompt that opens it, though one token may hold both line ends" {
  r=$ROOT/pipelines/embedded/reasoner
  tok encode --model "$r" <<<'{"text": "<think>\n\n</think>"}' 2>/dev/null | jq -e '.ids | length == 3'
  echo '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "7"}]}' >rows
  train -q --init "$r" --tokenizer "$r" --max-steps 1 -o out rows
  jq -e '.counts.rows == 1 and .counts.rejected == 0' out/run.json
}

@test "train: long rows are dropped and counted, or lose the middle of their reasoning, never the answer" {
  rows 2
  jq -nc '{messages: [{role: "user", content: "What?"}, {role: "assistant", content: "\("far too long a thought " * 20)\n\n</think>\n\nThe answer: 7"}]}' >>rows
  train -m "$(M qwen3)" --max-steps 1 --max-length 80 -o out rows 2>err
  grep -q '^train: warning: 1 row is longer than 80 tokens: dropped' err
  jq -e '.counts.dropped == 1 and .counts.cut == 0 and .counts.rows == 4' out/run.json
  train -m "$(M qwen3)" --max-steps 1 --max-length 80 --cut-middle --show 9 -o out rows 2>err
  jq -e '.counts.dropped == 0 and .counts.cut == 1 and .counts.rows == 5' out/run.json
  grep -A9 'row 5: 80 tokens' err | grep -q 'The answer: 7<|im_end|>'
}

@test "train: an adapter of another model; weights that are not numbers; memory; misuse" {
  rows 4
  fails 1 'the adapter is of another model|this model with these targets has' train -m "$(M qwen2)" --lora-rank 4 --adapter "$GOLDEN/train/qwen3/adapter" -o out rows
  fails 1 'the adapter is of another model|this model with these targets has' train -m "$(M qwen3)" --lora-rank 3 --adapter "$GOLDEN/train/qwen3/adapter" -o out rows
  train -q -m "$(M qwen3)" --lora-rank 4 --lora-alpha 8 --adapter "$GOLDEN/train/qwen3/adapter" --max-steps 1 -o cont rows
  fails 1 'adapter_config.json: lora_alpha is 8, asked for is 16' train -m "$(M qwen3)" --lora-rank 4 --adapter "$GOLDEN/train/qwen3/adapter" -o out rows
  fails 1 'adapter_config.json: lora_alpha is 8, asked for is 8 with rslora' train -m "$(M qwen3)" --lora-rank 4 --lora-alpha 8 --rslora --adapter "$GOLDEN/train/qwen3/adapter" -o out rows
  fails 2 '^train: --memory x: expected a size such as 512M or 8G$' train -m "$(M qwen3)" --memory x -o out rows
  # a place that cannot be taken is said before anything is trained
  mkdir -p taken && touch taken/x taken.file
  fails 1 '^train: taken: is there and has no run.json: it is not replaced$' train -m "$(M qwen3)" -o taken/ rows
  not grep -q 'steps' .stderr
  fails 1 '^train: taken.file: is there and is no folder$' train -m "$(M qwen3)" -o taken.file rows
  [ -z "$(compgen -G 'taken*.checkpoint')" ]
  fails 1 'needed, more than --memory' train -m "$(M qwen3)" --memory 11M -o out rows
  grep -q -- '--pass-tokens [0-9]* fits' "$BATS_TEST_TMPDIR/.stderr"
  cp -r "$(M qwen3)" broken
  chmod -R u+w broken
  printf '\0\0\300\177' | dd of=broken/model.safetensors bs=1 seek=$(($(stat -c %s broken/model.safetensors) - 4)) conv=notrunc 2>/dev/null
  fails 1 'step 1: the loss is not a number: training stops' train -m broken -o out rows
  fails 2 'a model is a folder: -o DIR' train -m "$(M qwen3)" rows
  fails 2 '--init: a tokenizer is needed' train --init x/config.json -o out rows
  fails 2 "^train: preset:2: --lr x: expected a number" bash -c 'printf "# no\nlr x\n" >preset; train --preset preset -m "$0" -o out rows' "$(M qwen3)"
  fails 2 "^train: preset:1: unknown option lx" bash -c 'echo "lx 1" >preset; train --preset preset -m "$0" -o out rows' "$(M qwen3)"
}

@test "train: presets are read, and the command line wins" {
  rows 4
  for p in "$ROOT"/pipelines/presets/*; do
    train -q -m "$(M qwen3)" --preset "$p" --max-steps 1 --max-length 500 -o "out/$(basename "$p")" rows
    jq -e '.options["max-length"] == 500 and .options["max-steps"] == 1' "out/$(basename "$p")/run.json" >/dev/null
  done
  train -q -m "$(M qwen3)" --preset math_tokenskip --max-steps 1 --max-length 500 -o out/named rows
  cmp out/named/merged/model.safetensors out/math_tokenskip/merged/model.safetensors
  fails 2 '^train: --preset no_such: neither a file nor one of the presets: base, .*, math_tokenskip, .*$' train -m "$(M qwen3)" --preset no_such -o x rows
  jq -e '.options | .lr == 5e-5 and .["lora-rank"] == 8 and .scheduler == "constant_with_warmup" and .accumulate == 32' out/math_tokenskip/run.json
  jq -e '.options | .method == "full" and .seed == 0 and .["raw-text"]' out/gsm8k_concise_rawtext/run.json
}

@test "train: --rounding stochastic: weights written in bf16 are drawn; adapters, and what did not move, are not" {
  rows 8
  train -q -m "$(M qwen3)" --dtype bfloat16 -o nearest rows
  train -q -m "$(M qwen3)" --dtype bfloat16 --rounding stochastic -o drawn rows
  train -q -m "$(M qwen3)" --dtype bfloat16 --rounding stochastic --threads 1 -o again rows
  train -q -m "$(M qwen3)" --dtype bfloat16 --rounding stochastic --seed 7 -o other rows
  cmp nearest/adapter/adapter_model.safetensors drawn/adapter/adapter_model.safetensors
  not cmp -s nearest/merged/model.safetensors drawn/merged/model.safetensors
  not cmp -s other/merged/model.safetensors drawn/merged/model.safetensors
  folder drawn >want.sums
  folder again | cmp want.sums -
  verify -q drawn/merged
  train -q -m "$(M qwen3-bf16)" --lr 0 -o nearest16 rows
  train -q -m "$(M qwen3-bf16)" --lr 0 --rounding stochastic -o still rows
  cmp nearest16/merged/model.safetensors still/merged/model.safetensors
  fails 1 '^train: --rounding stochastic: no weight is rounded to bf16: cpu \(cpu-.*-f32\) multiplies in 32 bits, and the weights are not written in bf16 \(--dtype bfloat16 would\)$' train --device cpu --rounding stochastic -m "$(M qwen3)" -o out rows
}

@test "train: no question is on both sides of the eval split, and the best step is what is written" {
  rows 20
  train -m "$(M qwen3)" --method full --lr 0.03 --scheduler constant --epochs 6 --eval-ratio 0.2 --eval-every 2 -o out rows 2>err
  jq -e '.counts.eval_rows == 8 and .counts.rows == 32' out/run.json
  # without ids of questions: the prompt is the question; with ids that only look like samples: all of the id
  jq -c 'del(.metadata)' rows >nameless
  jq -c '{messages}' rows | jq -c '[.messages[0].content, .] | .[1].messages[0].content = (.[0] | sub("\\+.*"; "?")) | .[1]' >prompts
  train -m "$(M qwen3)" --epochs 1 --eval-ratio 0.2 -o p prompts 2>err
  jq -e '.counts.eval_rows == 8 and .counts.rows == 32' p/run.json
  train -m "$(M qwen3)" --epochs 1 --eval-ratio 0.2 -o q nameless 2>err
  jq -e '.counts.eval_rows == 8' q/run.json
  jq -c '.metadata = {source_id: ("my_small_set_" + .metadata.question_source_id[11:])}' rows >small
  train -m "$(M qwen3)" --epochs 1 --eval-ratio 0.2 -o s small 2>err
  jq -e '.counts.eval_rows == 8 and .counts.rows == 32' s/run.json
  best=$(jq -s 'map(select(.eval_loss)) | min_by(.eval_loss) | .step' out/metrics.jsonl)
  [ "$(jq .counts.best_step out/run.json)" = "$best" ]
}

@test "train: killed at ten random moments and resumed: the same bytes" {
  rows 20
  local args="-q -m $(M qwen3) --method full --lr 1e-3 --max-steps 1000 -b 2 --save-every 9 --eval-ratio 0.1 --eval-every 70 --threads 1"
  args+=" --dtype bfloat16 --rounding stochastic"
  train $args -o want rows
  folder want >want.sums
  local i pid signal kills=0
  for i in $(seq 40); do
    signal=KILL
    [ $((i % 4)) != 0 ] || signal=TERM
    train $args -o got rows 2>/dev/null &
    pid=$!
    sleep 0.$((RANDOM % 3))$((RANDOM % 8 + 2))
    kill -$signal $pid 2>/dev/null || true
    wait $pid && break # it was done before
    kills=$((kills + 1))
    [ ! -d got ]
    [ $kills -lt 10 ] || break
  done
  train $args -o got rows
  [ "$kills" -ge 3 ] # ten, but for a machine that is very fast
  folder got | cmp want.sums -
  [ "$(ls -d got*)" = got ]
  diff <(jq -c "$CLOCKLESS" want/metrics.jsonl) <(jq -c "$CLOCKLESS" got/metrics.jsonl)
}

@test "train: one run at a time on a folder" {
  rows 20
  train -q -m "$(M qwen3)" --method full --epochs 5000 --threads 1 -o out rows &
  pid=$!
  for i in $(seq 50); do ls -d out.*.checkpoint >/dev/null 2>&1 && break; sleep 0.1; done
  sleep 0.3
  fails 1 'another run is at it \(process [0-9]+\)' train -q -m "$(M qwen3)" --method full --epochs 5000 --threads 1 -o out rows
  kill -TERM $pid
  run wait $pid
}

@test "train: peak memory is within 5 % of the plan" {
  mkdir shape
  echo '{"model_type": "llama", "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 6, "vocab_size": 4096, "max_position_embeddings": 1024, "tie_word_embeddings": true}' >shape/config.json
  jq -nc 'range(32) as $i | [range(128) | ((. * 37 + $i * 101) % 4096)] | {ids: ., labels: .}' >rows
  train --init shape --tokenizer "$(M llama3)" --max-steps 2 -b 32 -o base rows 2>err
  train -m base --max-steps 2 -b 32 -o lora rows 2>>err
  # latent rows beside the adapters, with a head of its own
  jq -c '.tie_word_embeddings = false' shape/config.json >c && mv c shape/config.json
  train -q --init shape --tokenizer "$(M qwen3)" --max-steps 1 --warmup 0 -b 32 -o untied rows
  dualize -q -m untied -o dual
  jq -nc 'range(32) as $i | [range(128) | ((. * 37 + $i * 101) % 8192)] | {ids: ., labels: .}' >both
  train -m dual --train-rows latent --max-steps 2 -b 32 -o latent both 2>>err
  grep -o 'together [0-9.]* MiB' err | awk '{print $2}' >plan
  for d in base lora latent; do jq -s '.[-1].memory / 1048576' $d/metrics.jsonl; done >peak
  case $BIN in *asan*) skip "the sanitizers need memory of their own" ;; esac
  [ "$(wc -l <plan)" = 3 ]
  paste plan peak
  paste plan peak | awk '{d = ($1 - $2) / $2; if (d < -0.05 || d > 0.05) exit 1}'
}

@test "train: a dual model learns its thinking in latent ids: with frozen rows the loss is larger by ln 2" {
  rows 8
  dualize -q -m "$(M qwen3)" -o dual
  train -q -m "$(M qwen3)" --max-steps 1 -o one rows
  train -m dual --max-steps 1 --dtype float32 -o two rows 2>err
  grep -qE 'latent rows are copies and stay so: the loss of this model \([0-9.]*\) is .* plus ln 2 \(off by -?[0-9.]*e-[01][0-9]\)' err
  # the base has as many rows as there are visible ids, and both losses are of the same step
  jq -ne --slurpfile a one/metrics.jsonl --slurpfile b two/metrics.jsonl '($b[0].loss - $a[0].loss - (2 | log)) | fabs < 1e-5'
  jq -ne --slurpfile a one/metrics.jsonl --slurpfile b two/metrics.jsonl '($b[0].grad_norm / $a[0].grad_norm - 1) | fabs < 1e-4'
  jq -e '.counts.latent_tokens > 0 and .counts.stayed_tokens == 0 and .counts.endless == 0' two/run.json
  verify -q two/merged
  # a subset is no such copy, and nothing is claimed
  echo '[15, 16, 17]' >ids
  dualize -q -m "$(M qwen3)" --mode subset --subset-ids ids -o sub
  train -m sub --max-steps 1 -o three rows 2>err
  not grep -q 'ln 2' err
  grep -qE '^train: warning: [0-9]+ of [0-9]+ tokens of thinking without a latent id: visible as before' err
}

# part FILE TENSOR FROM BYTES: a hash of these bytes of a tensor.
part() {
  local n at
  n=$(od -An -t u8 -N8 "$1")
  at=$(tail -c +9 "$1" | head -c "$n" | jq --arg t "$2" '.[$t].data_offsets[0]')
  tail -c +$((9 + n + at + $3)) "$1" | head -c "$4" | sha256sum
}

@test "train: --train-rows latent: latent rows learn, visible ones stay to the bit; killed and resumed, the same bytes" {
  rows 8
  local i m hidden visible f arg pid
  for m in qwen3 qwen3-untied qwen3-bf16; do
    dualize -q -m "$(M $m)" -o d-$m
    train -q -m d-$m --train-rows latent --lr 1e-2 --weight-decay 0.1 --max-steps 4 -o t-$m rows
    verify -q t-$m t-$m/merged
    hidden=$(jq .hidden_size d-$m/config.json)
    visible=$(($(jq .V d-$m/dual_vocab_meta.json) * hidden * 4))
    [ $m != qwen3-bf16 ] || visible=$((visible / 2))
    for f in model.embed_tokens.weight $([ $m != qwen3-untied ] || echo lm_head.weight); do
      [ "$(part t-$m/merged/model.safetensors $f 0 $visible)" = "$(part d-$m/model.safetensors $f 0 $visible)" ]
      [ "$(part t-$m/merged/model.safetensors $f $visible $visible)" != "$(part d-$m/model.safetensors $f $visible $visible)" ]
    done
    jq -e --slurpfile m d-$m/dual_vocab_meta.json '.trainable_token_indices.embed_tokens == [range($m[0].V; $m[0].total_vocab)]' t-$m/adapter/adapter_config.json >/dev/null
    jq -e '.counts.drift_max < 0.1' t-$m/run.json >/dev/null
  done
  jq -e '.trainable_token_indices | keys == ["embed_tokens", "lm_head"]' t-qwen3-untied/adapter/adapter_config.json
  # its adapter can be gone on from, with these rows only
  train -q -m d-qwen3 --train-rows latent --adapter t-qwen3/adapter --lr 0 --max-steps 1 --dtype float32 -o again rows
  cmp again/merged/model.safetensors t-qwen3/merged/model.safetensors
  fails 1 'this model with these targets has|rank, target or rows' train -q -m d-qwen3 --adapter t-qwen3/adapter --max-steps 1 -o x rows
  train -q -m d-qwen3 --max-steps 1 -o plain rows
  fails 1 'this model with these targets has|rank, target or rows' train -q -m d-qwen3 --train-rows latent --adapter plain/adapter --max-steps 1 -o x rows
  fails 2 '--train-rows is for --method lora' train -m d-qwen3 --train-rows latent --method full -o x rows
  fails 1 'is no dual model: --train-rows latent has no rows to train' train -m "$(M qwen3)" --train-rows latent -o x rows
  not ls -d x*
  # the same bytes whatever the run options, and after kills
  local args="-q -m d-qwen3 --train-rows latent --max-steps 600 -b 2 --eval-ratio 0.2 --eval-every 50"
  train $args --threads 1 -o want rows
  folder want >want.sums
  rm -rf want
  train $args --threads 2 --recompute -o want rows
  folder want | cmp want.sums -
  for i in 1 2 3 4 5 6; do
    train $args --save-every 7 -o got rows 2>/dev/null &
    pid=$!
    sleep 0.$((RANDOM % 4 + 1))
    kill -$([ $((i % 2)) = 0 ] && echo TERM || echo KILL) $pid 2>/dev/null || true
    wait $pid || true
  done
  train $args -o got rows
  folder got | cmp want.sums -
}

@test "train: --latent-only learns latent ids only; thinking without an end is dropped and counted" {
  rows 6
  dualize -q -m "$(M qwen3)" -o dual
  train -q -m dual --latent-only --max-steps 3 -o out rows
  train -q -m dual --max-steps 3 -o all rows
  not cmp out/merged/model.safetensors all/merged/model.safetensors
  fails 1 'is no dual model: --latent-only has no latent ids to learn' train -m "$(M qwen3)" --latent-only -o x rows
  echo '{"ids": [1, 2, 3], "labels": [1, 2, 3]}' >visible
  fails 1 '^train: 1 row was dropped and none is left: there is nothing to train on' train -m dual --latent-only -o x visible
  grep -q '^train: warning: 1 row has no latent id to learn: dropped' "$BATS_TEST_TMPDIR/.stderr"
  # no template that closes the thinking, and an answer that does not either
  cp -r dual open
  chmod -R u+w open
  jq '.chat_template = "{% for x in messages %}<|im_start|>{{ x.role }}\n{{ x.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"' dual/tokenizer_config.json >open/tokenizer_config.json
  jq -nc '{messages: [{role: "user", content: "x"}, {role: "assistant", content: "It is 7, I think"}]}' >endless
  cat endless rows | train -m open --max-steps 1 -o half 2>err
  grep -q '^train: warning: 1 row thinks without an end: dropped' err
  jq -e '.counts.endless == 1 and .counts.rows == 12' half/run.json
  fails 1 '^train: 1 row was dropped' train -m open --max-steps 1 -o x endless
}

@test "train: weights that grew over the type they are written in are no model" {
  rows 4
  fails 1 'the model computes no numbers: its weights grew too large' train -q -m "$(M llama-fp16)" --lora-rank 1 --lora-alpha 1e6 --lr 10 --max-steps 1 --warmup 0 -o out rows
  not ls -d out
  train -m "$(M qwen3)" --max-steps 1 -o one rows 2>err
  grep -q 'the only step is the first of a warmup, with learning rate 0: nothing is learnt' err
}

@test "train: a long row that no step has does not matter" {
  jq -nc '{ids: [range(200) | . + 5], labels: [range(200) | . + 5]}' >rows
  jq -nc 'range(30) as $i | {ids: [5, 6, 7, $i], labels: [5, 6, 7, $i]}' >>rows
  for s in 1 2 3 4 5 42; do
    train -q -m "$(M qwen3)" --max-steps 1 -b 1 --seed $s -o out.$s rows
  done
}
