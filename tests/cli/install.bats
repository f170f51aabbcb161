load lib

@test "make install: DESTDIR, the layout, and a tree that was moved still runs" {
  cd "$ROOT"
  case $BIN in */asan/bin) asan=1 ;; *) asan=0 ;; esac
  make -s asan=$asan install PREFIX=/opt/latent DESTDIR="$T/stage"
  mv "$T/stage/opt/latent" "$T/moved place"
  cd "$T"
  "moved place/bin/latent" --version
  [ "$("moved place/bin/latent" --exec-path)" = "$(realpath "moved place/libexec/latent")" ]
  [ -z "$(ls "moved place/bin" | grep -vx latent)" ]
  for s in $(stages); do
    [ -x "moved place/libexec/latent/$s" ] || { echo "no $s"; return 1; }
    "moved place/bin/latent" $s --version >/dev/null
  done
  [ -d "moved place/share/latent" ]
  [ "$asan" = 1 ] || [ ! -e "$BUILD/cuda/latent_cuda.so" ] || [ -x "moved place/lib/latent/latent_cuda.so" ]
  # presets by name, and what ships with the programs
  jq -nc '{ids: [1, 2, 3], labels: [1, 2, 3]}' >rows
  "moved place/bin/latent" train -q -m "$GOLDEN/models/qwen3" --preset math_tokenskip --max-length 500 --max-steps 2 --eval-ratio 0 -o out rows
  jq -e '.options.accumulate == 32' out/run.json
  mkdir -p "moved place/share/latent/models"
  cp -r "$GOLDEN/models/qwen3" "moved place/share/latent/models/tiny"
  echo '{"text": "hello"}' | "moved place/bin/latent" tok count -m embedded:tiny >count
  for p in "$ROOT"/man/*.[157]; do
    [ -e "$p" ] || continue
    cmp "$p" "moved place/share/man/man${p##*.}/$(basename "$p")"
  done
}

@test "bootstrap: what is missing is listed, NO_INSTALL installs nothing, the command runs" {
  run env NO_INSTALL=1 "$ROOT/bootstrap" echo there
  if [ "$status" = 0 ]; then
    [[ $output == *there ]]
  else
    [[ $output == *"missing packages"* && $output != *there ]]
  fi
  mkdir fake
  printf '#!/bin/sh\n[ "$4" = libzstd-dev ] || [ "$3" = libzstd-dev ] || echo installed\n' >fake/dpkg-query
  printf '#!/bin/sh\necho "apt-get $*"\n' >fake/apt-get
  printf '#!/bin/sh\n[ "$1" = -u ] && echo 0\n' >fake/id
  chmod +x fake/*
  run env PATH="$PWD/fake:$PATH" NO_INSTALL=1 "$ROOT/bootstrap" echo ran
  [ "$status" = 1 ]
  [[ $output == *"libzstd-dev"*"compressed records"* && $output != *ran* && $output != *jq* ]]
  run env PATH="$PWD/fake:$PATH" "$ROOT/bootstrap" echo ran
  [ "$status" = 0 ]
  [[ $output == *"apt-get -q -y update"*"apt-get -q -y install --no-install-recommends libzstd-dev"*ran ]]
}

@test "bootstrap's list covers the libraries that the Makefile links" {
  cd "$ROOT"
  for l in zstd xxhash jansson pcre2 utf8proc flint-arb flint mpfr gmp curl microhttpd protobuf-c; do
    grep -qE "^build +lib$l[a-z0-9]*(-[a-z0-9]+)*-dev " bootstrap || { echo "no -dev package of $l"; return 1; }
  done
  for l in $(sed -n '/^LIBS := /,/[^\\]$/p' Makefile | grep -oE ' -l[a-z0-9-]+' | sed 's/ -l//; s/-8$//'); do
    case $l in dl | m) continue ;; crypto) l=ssl ;; esac
    grep -qE "^build +lib$l" bootstrap || { echo "$l is linked and not in the list"; return 1; }
  done
}

@test "the Makefile knows headers, flags and removed sources" {
  cd "$ROOT"
  case $BIN in */asan/bin) asan=1 ;; *) asan=0 ;; esac
  make -n asan=$asan -W lib/base/file.h | grep -q 'tools/latent.o'
  make -n asan=$asan -W lib/base/err.h | grep -q 'LINK.*latent\|-o .*bin/latent'
}

@test "device.sh: parts by name; without a CUDA device it says why and exits 3" {
  cd "$ROOT"
  run tests/bench/device.sh "$T/logs" decoding
  [ "$status" = 2 ]
  [[ $output == *"unknown part 'decoding': check kernels decode prefill train encoder sanitizer profile peers or all"* ]]
  if command -v nvidia-smi >/dev/null; then
    echo "# skip: there may be a device, on which it would run for minutes" >&3
    skip
  fi
  for f in cuda/latent_cuda.so bench/device_bench tests/cuda/rows_test tests/cuda/train_test; do
    [ -e "$BUILD/$f" ] || { echo "# skip: $f was not built: no nvcc, or a build with sanitizers" >&3; skip; }
  done
  run env BUILD="$BUILD" tests/bench/device.sh "$T/logs"
  [ "$status" = 3 ]
  [[ $output == *"no CUDA device: "*"this machine has no NVIDIA driver"*"; nothing was checked on one"* ]]
}
