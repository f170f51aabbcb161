load lib

@test "tok: encode, offsets, count, decode" {
  need jq
  m=$GOLDEN/models/qwen3
  printf '{"text": "Hello w\\u00f6rld", "x": 1.50}\n{"text": ""}\n' >t.jsonl
  tok encode --quiet --model "$m" --offsets t.jsonl >e.jsonl
  [ "$(jq -c 'keys_unsorted' e.jsonl | xargs -0)" = "$(printf '["text","x","ids","offsets"]\n["text","ids","offsets"]\n')" ]
  grep -q '"x": 1.50' e.jsonl
  [ "$(jq -s -c '.[1] | [.ids, .offsets]' e.jsonl)" = '[[],[]]' ]
  [ "$(jq -s '.[0].offsets[-1][1]' e.jsonl)" = 11 ]
  tok count --quiet --model "$m/tokenizer.json" t.jsonl >c.jsonl
  [ "$(jq -s '.[0].count' c.jsonl)" = "$(jq -s '.[0].ids | length' e.jsonl)" ]
  tok decode --quiet --model "$m" e.jsonl >d.jsonl
  [ "$(jq -r .text d.jsonl)" = "$(jq -r .text t.jsonl)" ]
}

@test "tok: special tokens, pairs" {
  need jq
  m=$GOLDEN/models/bert
  echo '{"text": "one", "text_pair": "two"}' >t.jsonl
  tok encode --quiet --model "$m" --add-special t.jsonl >e.jsonl
  [ "$(jq -c '[.type_ids[0], .type_ids[-1], (.ids | length) == (.type_ids | length)]' e.jsonl)" = '[0,1,true]' ]
  [ "$(tok decode --quiet --model "$m" e.jsonl | jq -r .text | cut -c1-5)" = '[CLS]' ]
  run -0 --separate-stderr tok decode --quiet --model "$m" --skip-special e.jsonl
  not grep -q 'CLS' <<<"$output"
  [ "$(tok encode --quiet --model "$m" --no-add-special t.jsonl | jq '.ids | length')" -lt "$(jq '.ids | length' e.jsonl)" ]
}

@test "tok: chat takes the model's template or one of the caller's" {
  need jq
  echo '{"messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": true, "kwargs": {"k": [1, 2]}}' >m.jsonl
  echo '{{ bos_token }}{{ messages[0].content }}{{ k | tojson }}{{ eos_token }}{{ add_generation_prompt }}' >t.jinja
  [ "$(tok chat --quiet --chat-template t.jinja --bos-token '<b>' --eos-token '<e>' m.jsonl | jq -r .text)" = '<b>hi[1, 2]<e>True' ]
  tok chat --quiet --model "$GOLDEN/models/qwen3" m.jsonl >out
  [ "$(jq -r .text out)" = "$(printf '<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>')" ]
  # only the files of the tokenizer are needed
  mkdir only
  cp "$GOLDEN"/models/qwen3/tokenizer*.json only
  tok chat --quiet --model only m.jsonl >out2
  same out out2
}

@test "tok: refusals name file, line and reason" {
  m=$GOLDEN/models/qwen3
  printf '{"text": "a"}\n{"txt": "b"}\n' >t.jsonl
  run -1 tok encode --model "$m" t.jsonl
  [[ $output == *t.jsonl:2*text* ]]
  run -3 --separate-stderr tok encode --keep-going --model "$m" t.jsonl
  [ "${#lines[@]}" = 1 ]
  echo '{"messages": []}' >m.jsonl
  printf 'a\n{%% include "x" %%}\n' >t.jinja
  run -1 tok chat --chat-template t.jinja m.jsonl
  [[ $output == *"t.jinja:2: statement \"include\" is not supported"* ]]
  run -2 tok frobnicate
  run -2 tok
  echo '{"ids": [1, "x"]}' >i.jsonl
  run -1 tok decode --model "$m" i.jsonl
  [[ $output == *i.jsonl:1*ids* ]]
}

@test "tok: -o writes a manifest and knows when there is nothing to do" {
  need jq
  echo '{"text": "a"}' >t.jsonl
  tok encode --quiet --model "$GOLDEN/models/qwen3" -o out.jsonl t.jsonl
  [ "$(jq -r '.counts.records' out.jsonl.run.json)" = 1 ]
  run -0 tok encode --model "$GOLDEN/models/qwen3" -o out.jsonl t.jsonl
  [[ $output == *"up to date"* ]]
  # another verb is another result
  run -0 tok count --quiet --model "$GOLDEN/models/qwen3" -o out.jsonl t.jsonl
  grep -q count out.jsonl
}
