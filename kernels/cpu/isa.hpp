#pragma once

#include <string>

namespace baton::cpu {

/// What this process uses of its CPU: the best that oneDNN knows, not more than the environment variable
/// ONEDNN_MAX_CPU_ISA allows.
struct instruction_set {
  std::string name;          ///< "amx", "avx512-bf16", "avx512", "avx2" or "sse4"
  bool bf16_matmul = false;  ///< bf16 matrices can be multiplied as they are; else they are widened to fp32
};

/// Found once. From the first call on Highway's dispatch keeps to the same limit. Any thread.
const instruction_set& effective_isa();

/// oneDNN's version, "2.6.3".
std::string onednn_version();

}  // namespace baton::cpu
