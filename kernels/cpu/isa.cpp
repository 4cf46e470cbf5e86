#include "kernels/cpu/isa.hpp"

#include <hwy/targets.h>
#include <oneapi/dnnl/dnnl.h>

namespace baton::cpu {
namespace {

instruction_set detect() {
  const unsigned isa = dnnl_get_effective_cpu_isa();
  // oneDNN numbers its instruction sets as sets of bits, a better one containing the lesser.
  const auto has = [isa](unsigned wanted) { return (isa & wanted) == wanted; };
  constexpr auto avx512 = HWY_AVX3 | HWY_AVX3_DL;
  if (!has(dnnl_cpu_isa_avx2)) {
    hwy::DisableTargets(avx512 | HWY_AVX2);
    return {"sse4", false};
  }
  if (!has(dnnl_cpu_isa_avx512_core)) {
    hwy::DisableTargets(avx512);
    return {"avx2", false};
  }
  if (!has(dnnl_cpu_isa_avx512_core_bf16)) return {"avx512", false};
  return {has(dnnl_cpu_isa_avx512_core_amx) ? "amx" : "avx512-bf16", true};
}

}  // namespace

const instruction_set& effective_isa() {
  static const instruction_set found = detect();
  return found;
}

std::string onednn_version() {
  const dnnl_version_t* version = dnnl_version();
  return std::to_string(version->major) + "." + std::to_string(version->minor) + "." + std::to_string(version->patch);
}

}  // namespace baton::cpu
