#!/usr/bin/env bash
# Makes a folder that runs where little but a driver is: the program, its tests, the shared libraries that a bare Linux lacks, the
# demo model, configurations, fixtures and scripts. CUDA's own libraries are not in it: docs/gpu.md says where they are looked for.
# Programs and libraries lie in an archive, which gpu-check.sh unpacks: the folder has to travel.
#   deploy/bundle.sh FOLDER [BUILD_FOLDER]    builds preset `cuda` unless a build folder is given
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
target=${1:?usage: deploy/bundle.sh FOLDER [BUILD_FOLDER]}
build=${2:-}
if [[ -z $build ]]; then
  build=$root/build/cuda
  cmake --preset cuda -S "$root"
  cmake --build "$build" --target baton baton_kernels_test baton_runtime_test baton_cuda_test
fi
rm -rf "$target"
mkdir -p "$target"/{bin,lib,deploy,tests/fixtures,models}
for program in baton baton_kernels_test baton_runtime_test baton_cuda_test; do
  [[ $program != baton_cuda_test || -x $build/$program ]] || continue  # a build without CUDA has none
  cp "$build/$program" "$target/bin/"
  strip "$target/bin/$program"
done
# Everything but the C library, which must be the machine's own, and the loader. UCX stays behind: one process needs none.
ldd "$target"/bin/* | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
  grep -Ev '/(libc|libm|libdl|librt|libpthread|ld-linux[^/]*)\.so' | while read -r library; do
    cp -L "$library" "$target/lib/"
  done
cp -r "$root/configs" "$target/"
cp -r "$root/models/needle" "$target/models/"
rm -rf "$target/models/needle/training"
cp -r "$root/tests/fixtures/models" "$target/tests/fixtures/"
cp "$root"/deploy/gpu-check.sh "$root"/deploy/gpu_attention.py "$root"/deploy/gpu_report.py "$root"/deploy/measure_death.py "$target/deploy/"
cp "$root/docs/gpu.md" "$target/README.md"
tar -C "$target" -c bin lib | xz -T0 -6 >"$target/programs.tar.xz"
rm -r "${target:?}/bin" "${target:?}/lib"
du -sh "$target" | awk '{ print "bundle: " $2 ", " $1 }'
