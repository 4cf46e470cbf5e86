#pragma once

#include <vector>

#include "tests/support/kernel_buffer.hpp"
#include "tests/support/kernel_reference.hpp"

namespace baton::reference {

/// attention_of one query over the first `seen` keys of one head, keys and values (keys, kv_heads * dim).
attention_result_of_one attention_over(const row& query, const kernel_buffer& keys, const kernel_buffer& values,
                                       int kv_head, int dim, std::int64_t seen, double scale);

}  // namespace baton::reference
