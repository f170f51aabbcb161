load lib

teardown() {
  [ -z "${server-}" ] || kill "$server" 2>/dev/null || true
}

# serve [OPTION]...: starts a server on a free port; sets server and url.
serve() {
  score --serve -m "$GOLDEN/models/qwen3" --port 0 "$@" 2>server.log &
  server=$!
  for _ in $(seq 100); do
    url=$(sed -n 's/.*answering on \(http.*\)/\1/p' server.log)
    [ -z "$url" ] || return 0
    sleep 0.1
  done
  cat server.log
  return 1
}

post() {
  curl -sS --noproxy '*' -d "$2" "$url$1"
}

item='{"prompt_messages":[{"role":"user","content":"1+1?"}],"solution_str":"two</think>","ground_truth":"2"}'

@test "serve: health, a score, a batch, refusals, and a stop by signal" {
  need curl jq
  serve
  [ "$(curl -sS --noproxy '*' "$url/health" | jq -c '[.ok, .device]')" = '[true,"cpu"]' ]
  one=$(post /score "$item" | jq .score)
  [ "$(jq -n "$one < 0 and $one > -50")" = true ]
  [ "$(post /score_batch "{\"items\":[$item,$item]}" | jq -c .scores)" = "[$one,$one]" ]
  post /score '{"prompt' | jq -e .error
  [ "$(curl -sS --noproxy '*' -o /dev/null -w '%{http_code}' -d "$item" "$url/nowhere")" = 404 ]
  [ "$(curl -sS --noproxy '*' -o /dev/null -w '%{http_code}' -H 'Origin: http://x.org' -d "$item" "$url/score")" = 403 ]
  kill -TERM "$server"
  wait "$server"
  grep -q '2 requests with 3 items' server.log
  server=
}

@test "serve: every batch size gives the same bytes" {
  need curl jq
  for n in 1 32; do
    serve --max-concurrency $n --threads $((n > 1 ? 2 : 1))
    for i in 1 2 3 4 5 6; do post /score "${item/1+1/$i+$i}" >$n.$i & jobs[i]=$!; done
    wait "${jobs[@]}"
    cat $n.? >all.$n
    kill "$server"
    wait "$server"
  done
  server=
  same all.1 all.32
}

@test "serve: misuse" {
  fails 1 '0.0.0.0: the server listens on this machine.s loopback only' score --serve -m "$GOLDEN/models/qwen3" --host 0.0.0.0
  fails 1 'bert is an encoder' score --serve -m "$GOLDEN/models/bert" --port 0
  fails 2 '--serve reads no files' score --serve -m "$GOLDEN/models/qwen3" file
  fails 2 '--port' score --serve --port 70000
  fails 2 'fp8-cache is for --serve' score --fp8-cache /dev/null
  fails 1 'FP8 cache needs a CUDA device' score --serve --port 0 --device cpu --fp8-cache -m "$GOLDEN/models/qwen3"
  fails 1 'products that depend on it need a CUDA device' score --serve --port 0 --device cpu --batch-dependent -m "$GOLDEN/models/qwen3"
}
