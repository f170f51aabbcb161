load lib

# The greedy texts that transformers writes with the embedded reasoner, a trained model (tests/golden/reasoner.py).

trained() {
  reasoner=$ROOT/data/models/reasoner
  golden=$ROOT/tests/golden/reasoner
  if [ ! -e "$reasoner/model.safetensors" ]; then
    echo "# skip: the embedded reasoner is not there" >&3
    skip "the embedded reasoner is not there"
  fi
  [ "$(sha256sum <"$reasoner/model.safetensors" | cut -d ' ' -f 1)" = "$(head -1 "$golden/greedy.jsonl" | jq -r .model)" ] ||
    { echo "the golden texts are another model's: run tests/golden/reasoner.py"; return 1; }
  jq -c --slurpfile g "$golden/greedy.jsonl" 'select(.source_id as $s | any($g[]; .source_id == $s))' "$golden/questions.jsonl" >q.jsonl
  [ "$(wc -l <q.jsonl)" = 8 ]
  jq -c '[.source_id, (.text | sub("^\\s+"; "") | sub("\\s+$"; "")), (.out | length)]' "$golden/greedy.jsonl" >want
}

@test "reasoner: eval and collect write transformers' greedy texts, whatever the batch and the threads" {
  need jq
  trained
  for how in "--batch 1" "--batch 3 --threads 2" "--batch 64 --threads 1"; do
    "$BIN/eval" -q -m "$reasoner" $how q.jsonl | jq -c '[.source_id, .response_text, .num_tokens]' >got
    same want got || { echo "$how"; return 1; }
    collect -q -m "$reasoner" $how q.jsonl | jq -c '[.question_source_id, .response_text, .response_token_count]' >got
    same want got || { echo "$how"; return 1; }
  done
}
